"""Recipe of the built-in directions: linear in the codes, fitted to the labels that the world gives every latent.

The mapping network of the built-in generator turns normal numbers, each of which means one factor, into w. The least
squares fit of w to all these numbers at once says how w changes with one of them while the others stay: that is the
direction, and its strength 1 is one standard normal number. It applies to the rows of W+ that carry the factor's group.
In S it is kept to the channels that it moves most, against how much they vary among people (Wu et al. 2021). What
else moves is measured twice: by a linear prediction of the factors from w, and by the face net on images.
"""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from stylereel import world
from stylereel.edit.directions import Direction, Directions
from stylereel.family.nets import SIZE, FaceNet, unit_values
from stylereel.family.people import GROUPS, group_of_row
from stylereel.generator import StyleGAN2
from stylereel.metrics.features import to_unit
from stylereel.recipes.run import Run, makes
from stylereel.world.factors import GROUP, INDEX, LATENT_DIM, NAMES, from_normal, normalize

LATENTS, PEOPLE, SEED = 30_000, 24, 61
MOST_SCALE = 2.5  # a direction that does less than its factor's exact change is made longer, up to this
LEGIBLE = 0.1  # deviations that the face net must predict for a factor's exact change, else nothing is measured
KEPT = 0.9  # of a direction's squared effect, which its channels in S keep
# The latent holds mean and difference of both sides in place of left and right.
_BOTH = {"brow_left": "brows", "blink_left": "blink"}
_LEFT_OUT = ("shift_x", "shift_y", "scale", "brow_right", "blink_right")  # what alignment takes, and differences


def factors() -> dict[str, str]:
    """The factors that get a direction, by the name of the direction."""
    return {_BOTH.get(name, name): name for name in NAMES if name not in _LEFT_OUT}


def _fit(inputs: Tensor, outputs: Tensor) -> Tensor:
    """Least squares [K, D] of outputs [N, D] by inputs [N, K] and a constant, which is left out."""
    columns = torch.cat([inputs, torch.ones(len(inputs), 1)], dim=1)
    return torch.linalg.lstsq(columns, outputs).solution[:-1]


def _unit(factor: str) -> str:
    """What strength 1 means to the median person."""
    normal = np.zeros((2, len(NAMES)))
    normal[1, INDEX[factor]] = 1
    before, after = from_normal(normal)[:, INDEX[factor]]
    return f"{factor} {before:.2f} to {after:.2f}"


@torch.no_grad()
def find(generator: StyleGAN2, face: FaceNet, people: int = PEOPLE) -> Directions:
    """The directions of a generator of the built-in family, in W+ and in S, with what else they move.

    people: on how many held-out people effect and leak are measured.
    """
    z = torch.from_numpy(np.random.default_rng(SEED).standard_normal((LATENTS, LATENT_DIM)))
    normal = torch.from_numpy(normalize(z.numpy()))[:, : len(NAMES)].float()
    w = generator.mapping(z.float())
    slopes, predictors = _fit(normal, w), _fit(w, normal)  # [K, D], [D, K]
    predicted = slopes @ predictors  # [K, K]: the change of all factors along a slope, predicted from w
    styles = generator.styles(w[:2000, None].expand(-1, generator.num_ws, -1))
    deviation = generator.style_space.flatten(styles).std(0).clamp_min(1e-6)
    origin = generator.style_space.flatten(generator.styles(torch.zeros(1, generator.num_ws, w.shape[1])))[0]

    scale, found = _Scale(generator, face, people), []
    for name, factor in factors().items():
        index = INDEX[factor]
        group = GROUPS.index(GROUP[factor])
        rows = torch.tensor([row for row in range(generator.num_ws) if group_of_row(row) == group])
        direction = Direction(name, "w+", rows, slopes[None, index], _unit(factor))
        moved = torch.zeros(1, generator.num_ws, w.shape[1])
        moved[:, rows] = direction.change
        change = generator.style_space.flatten(generator.styles(moved))[0] - origin
        # Only factors of the same group can be moved by these rows.
        codes = {other: float(predicted[index, INDEX[other]]) for other in NAMES if GROUP[other] == GROUP[factor]}
        exact = scale.exact(factor)
        found += [
            scale.calibrate(factor, each, codes, exact) for each in (direction, _sparse(direction, change, deviation))
        ]
    return Directions(found, {"people": people})


def _sparse(direction: Direction, change: Tensor, deviation: Tensor) -> Direction:
    """The direction in S that does `change` [N] on the channels that matter, against their deviation [N]."""
    share = (change / deviation).square()
    order = share.argsort(descending=True)
    count = int((share[order].cumsum(0) < KEPT * share.sum()).sum()) + 1
    places = order[:count].sort().values
    return replace(direction, space="s", places=places, change=change[places])


class _Scale:
    """The face net's predictions for held-out people, and for the world's exact edits of them.

    Changes that it predicts for other factors in exact edits are its own confusion, and are subtracted.
    """

    def __init__(self, generator: StyleGAN2, face: FaceNet, people: int) -> None:
        self.generator, self.face = generator, face
        self.names = list(NAMES)
        z = np.random.default_rng((SEED, 1)).standard_normal((people, LATENT_DIM))
        self._normal = normalize(z)[:, : len(NAMES)]
        self.w = generator.map(torch.from_numpy(z).float())
        self.styles = generator.styles(self.w)
        self._small = f"b{SIZE}.torgb" if generator.resolution > SIZE else None
        self._plain, self._unedited = self._predict(self.w), self._predict_drawn(self._normal)
        population = from_normal(np.random.default_rng((SEED, 2)).standard_normal((20_000, len(NAMES))))
        self._deviation = unit_values(torch.from_numpy(population)).std(0)[[INDEX[name] for name in self.names]]

    def _predict(self, codes: Tensor | list[Tensor]) -> Tensor:
        inputs: dict[str, Any] = {"w": codes} if isinstance(codes, Tensor) else {"s": codes}
        return self.face(self.generator.synthesize(**inputs, noise="none", stop=self._small)).values

    def _predict_drawn(self, normal: np.ndarray) -> Tensor:
        images = [world.draw(values, SIZE).image for values in world.align(from_normal(normal))]
        return self.face(to_unit(np.stack(images))).values

    def exact(self, factor: str) -> Tensor:
        """Mean change [K] of the predictions when the world draws the people with the factor's number plus 1."""
        normal = self._normal.copy()
        normal[:, INDEX[factor]] += 1
        return (self._predict_drawn(normal) - self._unedited).mean(0)

    def measure(self, direction: Direction) -> Tensor:
        """Mean change [K] of the predictions by a direction at strength 1."""
        codes = direction.apply(self.w if direction.space == "w+" else self.styles)
        return (self._predict(codes) - self._plain).mean(0)

    def calibrate(self, factor: str, direction: Direction, codes: dict[str, float], exact: Tensor) -> Direction:
        """The direction, rescaled so that strength 1 has its stated effect on average, with effect and leak.

        Where the face net does not predict even the exact change, the scale is kept and the effect is not a number.

        codes: leak at its first scale, predicted from w.
        """
        own, scale = self.names.index(factor), 1.0
        moved = self.measure(direction)
        legible = bool(exact[own] > LEGIBLE * self._deviation[own])
        for _ in range(3 if legible else 0):  # rare factors start at a threshold, so they need short steps
            effect = max(float(moved[own] / exact[own]), 0.1)
            if abs(effect - 1) < 0.03:
                break
            step = float(np.clip(effect**-0.7, 1 / (MOST_SCALE * scale), MOST_SCALE / scale))
            scale, direction = scale * step, replace(direction, change=step * direction.change)
            moved = self.measure(direction)
        leak = (moved - exact) / self._deviation
        others = [name for name in self.names if name != factor and not _together(factor, name)]
        leaks = {name: (scale * codes.get(name, 0.0), float(leak[self.names.index(name)])) for name in others}
        return replace(direction, effect=float(moved[own] / exact[own]) if legible else float("nan"), leak=leaks)


def _together(factor: str, other: str) -> bool:
    """Whether both are sides of one thing, or follow from alignment."""
    return other in ("shift_x", "shift_y", "scale") or (factor in _BOTH and other == factor.replace("left", "right"))


@makes("directions", needs=("face", "generator"), starts=False)
def recipe(run: Run) -> list[Path]:
    """Find the directions of the generator's W that change one attribute each."""
    run.only_from_scratch()
    (path,) = run.claim("directions")
    found = find(run.generator().eval(), run.face_net().eval())
    found.card.update({"name": "directions", **run.card()})
    found.save(path)
    run.write_record(path, found.card)
    return [path]
