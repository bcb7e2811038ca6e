"""Head pose in W+: three ways from yaw, pitch and roll to codes, of which the mapping network's own is used.

| way | what it needs |
|---|---|
| mapping | latents whose numbers mean factors: the angles are put in, the mapping network does the rest |
| linear | one direction of W for each angle, fitted to labels (InterFaceGAN, 2020) |
| flow | StyleFlow's conditional flow, trained on labels (`edit.flows`), as in the paper |

Only the rows of W+ that carry pose change. `fit.search_angles` finds the angles of given images through any of them:
analysis by synthesis, all frames at once.
"""

from __future__ import annotations

from typing import Protocol

import numpy as np
import torch
from torch import Tensor

from stylereel import world
from stylereel.edit.flows import Flow, FlowConfig
from stylereel.family.people import FIRST_ROW, motion_codes
from stylereel.generator import StyleGAN2
from stylereel.world.factors import HIGH, LOW, MOTION, MOTION_COLUMNS

ANGLES = ("yaw", "pitch", "roll")
PLACES = [MOTION.index(name) for name in ANGLES]
ROWS = range(FIRST_ROW["pose"], FIRST_ROW["shape"])
REACH = torch.tensor(
    [40.0, 18.0, 10.0]
)  # degrees: what the built-in people turn, and the unit of the flow's attributes
SOLVER = 4  # steps of the flow's fixed-step solver


class Turn(Protocol):
    """A way to codes [B, L, D] of w [B, L, D], whose own angles are known, at other angles [B, 3] in degrees."""

    def __call__(self, w: Tensor, own: Tensor, angles: Tensor, /) -> Tensor: ...


def motion_with(angles: np.ndarray) -> np.ndarray:
    """Motion factors [B, 20] of a neutral head at angles [B, 3] in degrees."""
    values = np.tile(world.neutral()[MOTION_COLUMNS], (len(angles), 1))
    values[:, PLACES] = angles
    return values


class Mapping:
    """The rows of the neutral head at these angles, by the mapping network."""

    def __init__(self, generator: StyleGAN2) -> None:
        self.generator = generator

    def __call__(self, w: Tensor, _own: Tensor, angles: Tensor, /) -> Tensor:
        codes = motion_codes(self.generator, motion_with(angles.cpu().numpy())).to(w)
        turned = w.expand(len(codes), -1, -1).clone()
        turned[:, list(ROWS)] = codes[:, list(ROWS)]
        return turned


class Linear:
    """One direction for each angle: [3, D] a degree."""

    def __init__(self, slopes: Tensor) -> None:
        self.slopes = slopes

    @classmethod
    def fit(cls, w: Tensor, angles: Tensor) -> Linear:
        """By least squares of codes [N, D] of a pose row on angles [N, 3]."""
        columns = torch.cat([angles, torch.ones(len(angles), 1)], 1)
        return cls(torch.linalg.lstsq(columns, w).solution[:3])

    def __call__(self, w: Tensor, own: Tensor, angles: Tensor, /) -> Tensor:
        change = (angles - own) @ self.slopes.to(w)
        turned = w.expand(len(change), -1, -1).clone()
        turned[:, list(ROWS)] += change[:, None]
        return turned


class Flowing:
    """StyleFlow: the pose rows through the flow under their own angles, and back under others."""

    def __init__(self, flow: Flow) -> None:
        self.flow = flow

    @staticmethod
    def network(width: int) -> Flow:
        """A small flow of three attributes for codes [B, R, width]."""
        return Flow(FlowConfig(width, (128, 128), len(ANGLES)))

    def __call__(self, w: Tensor, own: Tensor, angles: Tensor, /) -> Tensor:
        return self.flow.edit(w, own / REACH, angles / REACH, list(ROWS), SOLVER)


def random_angles(count: int, seed: int) -> np.ndarray:
    """Angles [count, 3] in degrees as the built-in people have them."""
    normal = np.random.default_rng(seed).standard_normal((count, world.neutral().size))
    return world.from_normal(normal)[:, MOTION_COLUMNS][:, PLACES]


def clip_angles(angles: Tensor) -> Tensor:
    """Within what the built-in people can turn."""
    low, high = (torch.from_numpy(limit[MOTION_COLUMNS][PLACES]).to(angles) for limit in (LOW, HIGH))
    return torch.minimum(torch.maximum(angles, low), high)
