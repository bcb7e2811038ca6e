"""The amortised encoder: head pose and expression of a portrait in one pass, from what the face net has found.

A small network over the face net's features, its own reading of the motion, and its landmarks, trained on the world's
truth. What it gives are motion factors; `Channels.code` makes the 32 numbers of them, by the mapping network's styles.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor, nn

from stylereel.family.nets import FaceOutput, Trunk
from stylereel.world.factors import EXPRESSION, HIGH, LOW, MOTION, MOTION_COLUMNS

READ = ("yaw", "pitch", "roll", *EXPRESSION)  # what it gives; the rest of the motion is the crop's
_COLUMNS = [MOTION.index(name) for name in READ]
_LOW, _HIGH = (torch.from_numpy(limit[MOTION_COLUMNS][_COLUMNS]) for limit in (LOW, HIGH))
INPUTS = Trunk.features + len(MOTION) + 2 * 68
DROPOUT = 0.2


class Reader(nn.Module):
    """Outputs of the face net [B, ...] to the motion factors `READ` [B, 17] in the world's units."""

    def __init__(self, hidden: Sequence[int]) -> None:
        super().__init__()
        (width,) = hidden
        self.register_buffer("mean", torch.zeros(INPUTS))
        self.register_buffer("deviation", torch.ones(INPUTS))
        self.layers = nn.Sequential(
            nn.Linear(INPUTS, width), nn.SiLU(), nn.Dropout(DROPOUT), nn.Linear(width, len(READ))
        )
        self.mean: Tensor
        self.deviation: Tensor

    @staticmethod
    def inputs(face: FaceOutput) -> Tensor:
        """The inputs [B, 668]."""
        points = 4 * (face.landmarks - 0.5).flatten(1)
        return torch.cat([face.features, face.motion, points], 1)

    def forward(self, inputs: Tensor) -> Tensor:
        """Inputs [B, 668] to motion in units of half each range around its middle."""
        own = inputs[:, Trunk.features : Trunk.features + len(MOTION)][:, _COLUMNS]
        return own + self.layers((inputs - self.mean) / self.deviation)

    def motion(self, face: FaceOutput) -> np.ndarray:
        """The motion factors [B, 20] in the world's units and order; shift and scale are those of an aligned face."""
        unit = self(self.inputs(face)).float().cpu()
        values = np.zeros((len(unit), len(MOTION)), np.float32)
        values[:, MOTION.index("scale")] = 1
        values[:, _COLUMNS] = ((_LOW + _HIGH) / 2 + (_HIGH - _LOW) / 2 * unit.clamp(-1, 1)).numpy()
        return values


def targets(motion: np.ndarray) -> Tensor:
    """What a reader is to give for motion factors [B, 20]."""
    values = torch.from_numpy(motion[:, _COLUMNS])
    return (values - (_LOW + _HIGH) / 2) / ((_HIGH - _LOW) / 2)
