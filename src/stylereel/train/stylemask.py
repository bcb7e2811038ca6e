"""Recipe of StyleMask's built-in mask networks: random pairs of generated people, no data on disk.

Losses of the paper with the built-in perception: shape (68 landmarks of "source with the target's motion", which the
world knows exactly, and the motion factors), identity, and the recurrent cycle through a second target.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from stylereel import world
from stylereel.faces.perception import SIZE, FaceNet, IdentityNet, Seen, unit_values
from stylereel.generator import StyleGAN2
from stylereel.systems.stylemask import MaskConfig, MaskNets
from stylereel.train.loop import Average, cosine, fit
from stylereel.world.factors import LATENT_DIM, MOTION

STEPS, COUNT, RATE = 600, 6, 8e-3
IDENTITY_WEIGHT, SHAPE_WEIGHT = 1.0, 20.0


def train(folder: Path, generator: StyleGAN2, face: FaceNet, identity: IdentityNet, scale: float = 1.0) -> MaskNets:
    """Train the mask networks of `generator` in `folder`; continues where it was."""
    torch.manual_seed(3)
    for frozen in (generator, face, identity):
        frozen.eval().requires_grad_(False)
    config = MaskConfig.of(generator)
    model, average = MaskNets(config), MaskNets(config)
    optimizer = torch.optim.Adam(model.parameters(), lr=RATE, foreach=True)
    steps = max(2, int(STEPS * scale))
    follow = Average(model, average, 0.98)
    convolutions = [layer.index for layer in generator.style_layers if layer.kind == "conv"]

    def paint(styles: list[Tensor]) -> Tensor:
        return generator.synthesize(s=styles, noise="none", stop=f"b{SIZE}.torgb", dtype=torch.bfloat16)

    def mix(source: list[Tensor], target: list[Tensor]) -> list[Tensor]:
        mixed = list(source)
        new = model([source[i] for i in convolutions], [target[i] for i in convolutions])
        for index, style in zip(convolutions, new, strict=True):
            mixed[index] = style
        return mixed

    def shape_loss(seen: Seen, values: np.ndarray) -> Tensor:
        points = torch.from_numpy(np.stack([world.project_landmarks(v)[0] for v in values]))
        motion = unit_values(torch.from_numpy(values))[:, : len(MOTION)]
        return SHAPE_WEIGHT * (seen.landmarks - points).abs().mean() + (seen.motion - motion).abs().mean()

    def step(index: int) -> dict[str, float]:
        random = np.random.default_rng((51, index))
        z = random.standard_normal((3, COUNT, LATENT_DIM))
        values = world.aligned(world.from_latent(z))
        with torch.no_grad():
            w = generator.map(torch.from_numpy(z.reshape(3 * COUNT, -1)).float())
            source, first, second = zip(*(style.chunk(3) for style in generator.styles(w)), strict=True)
        driven, again = values[0].copy(), values[0].copy()
        driven[:, : len(MOTION)] = values[1, :, : len(MOTION)]
        again[:, : len(MOTION)] = values[2, :, : len(MOTION)]

        moved = mix(list(source), list(first))
        direct, cycled = mix(list(source), list(second)), mix(moved, list(second))
        pictures = [paint(styles) for styles in (moved, direct, cycled)]
        with torch.no_grad():
            person = identity(paint(list(source)))
        shape = shape_loss(face(pictures[0]), driven)
        cycle = shape_loss(face(pictures[1]), again) + shape_loss(face(pictures[2]), again)
        people = [identity(picture) for picture in pictures]
        same = torch.stack([(1 - (person * p).sum(1)).mean() for p in people]).sum()
        same = same + (1 - (people[1] * people[2]).sum(1)).mean()
        optimizer.zero_grad(set_to_none=True)
        (shape + cycle + IDENTITY_WEIGHT * same).backward()
        optimizer.step()
        follow.update(index)
        return {"shape": shape.item(), "cycle": cycle.item() / 2, "identity": same.item() / 4}

    fit(
        folder,
        {"model": model, "average": average},
        {"model": optimizer},
        step,
        steps,
        schedule=lambda index: cosine(index, steps),
        every=50,
    )
    return average
