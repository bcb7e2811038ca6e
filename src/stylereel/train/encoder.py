"""Recipe of the built-in encoder: world and generated portraits to W+, by codes first and pictures second.

The codes are known for every training picture (the mapping network of its latents), so the encoder regresses them;
a part of each batch also goes through the generator, and its picture, landmarks and identity must come back.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F

from stylereel import world
from stylereel.faces.perception import SIZE, FaceNet, IdentityNet
from stylereel.generator import StyleGAN2
from stylereel.invert.encoder import Encoder, EncoderConfig
from stylereel.train.data import FIRST_ROW, Batch, Prefetch, draw_batch, drawn, latents_of
from stylereel.train.generator import grouped_w, picture_loss
from stylereel.train.loop import Average, cosine, fit
from stylereel.train.optimise import descend, muon_and_adam
from stylereel.train.perception import disturb
from stylereel.world.factors import MOTION

STEPS, COUNT, RENDERED = 2600, 32, 9
NEUTRAL = 10  # of COUNT: the neutral head with any motion, which is what a real clip's motion is shown on


def batch_of(index: int) -> Batch:
    """Random portraits, the last `NEUTRAL` of them with the neutral identity."""
    batch = draw_batch((41, index), COUNT, SIZE, mix=0.7)
    values = np.tile(world.neutral(), (NEUTRAL, 1))
    values[:, : len(MOTION)] = batch.values[-NEUTRAL:, : len(MOTION)].numpy()
    neutral = drawn(latents_of(values, np.random.default_rng((43, index))), values, SIZE)
    return Batch(*(torch.cat([a[:-NEUTRAL], b]) for a, b in zip(batch, neutral, strict=True)))


def train(
    folder: Path,
    generator: StyleGAN2,
    face: FaceNet,
    identity: IdentityNet,
    scale: float = 1.0,
    start: Encoder | None = None,
) -> Encoder:
    """Train the encoder of `generator` in `folder`, from scratch or a trained one; continues where it was."""
    torch.manual_seed(2)
    for frozen in (generator, face, identity):
        frozen.eval().requires_grad_(False)
    config = EncoderConfig(tuple(FIRST_ROW.values()), generator.num_ws, generator.config.w_dim)
    model, average = start or Encoder(config), Encoder(config)
    if start is None:
        model.trunk.load_state_dict(face.trunk.state_dict())
    with torch.no_grad():
        w = generator.mapping(torch.randn(4096, generator.config.z_dim))
        model.mean.copy_(w.mean(0))
        model.deviation.copy_(w.std(0).clamp_min(1e-3))
    optimizers = muon_and_adam(model, 1e-3)
    steps = max(2, int(STEPS * scale))
    batches = Prefetch(batch_of)
    follow = Average(model, average, 0.995)
    small = f"b{SIZE}.torgb"
    third = RENDERED // 3
    chosen = [*range(2 * third), *range(COUNT - third, COUNT)]

    def step(index: int) -> dict[str, float]:
        batch = batches(index)
        with torch.no_grad():
            truth = grouped_w(generator, batch.z)
            # Of the pictures that are rendered again a third is generated, a third random, a third neutral.
            images = batch.images.clone()
            images[:third] = generator.synthesize(truth[:third], noise="none", stop=small, dtype=torch.bfloat16)
        with torch.autocast("cpu", torch.bfloat16):
            codes = model(disturb(images, (42, index))).float()
        again = generator.synthesize(codes[chosen], noise="none", stop=small, dtype=torch.bfloat16)
        with torch.autocast("cpu", torch.bfloat16):
            seen, wanted = face(again), face(images[chosen])
            same = (identity(again) * identity(images[chosen])).sum(1)
        code_loss = ((codes - truth) / model.deviation).square().mean()
        target = Batch(*(part[chosen] for part in batch))._replace(images=images[chosen])
        picture = picture_loss(again, target)
        points = (seen.landmarks.float() - wanted.landmarks.float()).abs().mean()
        motion = (seen.motion.float() - wanted.motion.float()).abs().mean()
        person = (1 - same.float()).mean()
        loss = code_loss + 2 * picture + 20 * points + 2 * motion + 0.5 * person
        descend(loss, optimizers.values(), 5.0, model)
        follow.update(index)
        error = F.mse_loss(again.detach(), images[chosen])
        return {
            "codes": code_loss.item(),
            "picture": picture.item(),
            "points": points.item(),
            "motion": motion.item(),
            "identity": person.item(),
            "psnr": 10 * float(torch.log10(4 / error)),
        }

    fit(
        folder,
        {"model": model, "average": average},
        optimizers,
        step,
        steps,
        schedule=lambda index: cosine(index, steps),
        every=50,
    )
    return average
