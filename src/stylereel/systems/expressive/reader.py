"""The amortised encoder: head pose and expression of a portrait in one pass, from what the face net has found.

A small network over the face net's features, its own reading of the motion, and its landmarks, and another one over
both eyes at the image's full size, which alone says where they look: the face net sees half the size, where an iris
moves by a fraction of a pixel. Both are trained on the world's truth. What they give are motion factors;
`Channels.code` makes the 32 numbers of them, by the mapping network's styles.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from stylereel.family.nets import FaceOutput, Trunk
from stylereel.world.factors import EXPRESSION, HIGH, LOW, MOTION, MOTION_COLUMNS

READ = ("yaw", "pitch", "roll", *EXPRESSION)  # what it gives; the rest of the motion is the crop's
_COLUMNS = [MOTION.index(name) for name in READ]
_LOW, _HIGH = (torch.from_numpy(limit[MOTION_COLUMNS][_COLUMNS]) for limit in (LOW, HIGH))
INPUTS = Trunk.features + len(MOTION) + 2 * 68
DROPOUT = 0.2
GAZE = ("gaze_x", "gaze_y")
CORNERS = ((36, 42), (42, 48))  # landmarks of both eyes
HIGH_EYE, WIDE_EYE = 32, 56  # pixels of one, of an image of 256
SHUT = 0.55  # of the lids, from which a gaze is not seen
_GAZE_COLUMNS = [READ.index(name) for name in GAZE]
# What changes sign in a mirrored face, and what changes sides.
_SIGNED = [MOTION.index(name) for name in ("yaw", "roll", "shift_x", "gaze_x", "smile_side", "jaw_side")]
_LEFT, _RIGHT = ([MOTION.index(f"{name}_{side}") for name in ("brow", "blink")] for side in ("left", "right"))


class Eyes(nn.Module):
    """Both eyes [B, 2, 3, 32, 56] of `crops` and the face net's motion [B, 20] to gaze [B, 2] in -1..1."""

    def __init__(self, width: int) -> None:
        super().__init__()
        last = 16
        self.eye = nn.Sequential(
            nn.Conv2d(3, width, 3, padding=1), nn.SiLU(),
            nn.Conv2d(width, width, 3, stride=2, padding=1), nn.SiLU(),
            nn.Conv2d(width, 2 * width, 3, stride=2, padding=1), nn.SiLU(),
            nn.Conv2d(2 * width, last, 1), nn.SiLU(), nn.Flatten(),
            nn.Linear(last * HIGH_EYE // 4 * WIDE_EYE // 4, 4 * width), nn.SiLU(),
        )  # fmt: skip
        self.out = nn.Sequential(
            nn.Dropout(0.1), nn.Linear(8 * width + len(MOTION), 4 * width), nn.SiLU(), nn.Linear(4 * width, len(GAZE))
        )

    def forward(self, crops: Tensor, motion: Tensor) -> Tensor:
        """Each eye is seen with a mean of 0 and a deviation of 1; the second one mirrored, by the same layers."""
        crops = crops - crops.mean((2, 3, 4), keepdim=True)
        crops = crops / (crops.std((2, 3, 4), keepdim=True) + 0.05)
        return self.out(torch.cat([self.eye(crops[:, 0]), self.eye(crops[:, 1].flip(-1)), motion], 1))

    @staticmethod
    def crops(images: Tensor, points: Tensor) -> Tensor:
        """Both eyes [B, 2, 3, 32, 56] of images [B, 3, H, W] around their landmarks [B, 68, 2] in 0..1."""
        y, x = (2 * (torch.arange(side, device=images.device) - (side - 1) / 2) / 256 for side in (HIGH_EYE, WIDE_EYE))
        grid = torch.stack(torch.meshgrid(y, x, indexing="ij")[::-1], -1)
        middles = (2 * points[:, first:last].mean(1) - 1 for first, last in CORNERS)
        found = [F.grid_sample(images, (grid + each[:, None, None]).to(images), align_corners=False,
                               padding_mode="border") for each in middles]  # fmt: skip
        return torch.stack(found, 1)


def mirror(crops: Tensor, motion: Tensor) -> tuple[Tensor, Tensor]:
    """Eyes and motion of the mirrored faces."""
    motion = motion.clone()
    motion[:, _SIGNED] *= -1
    motion[:, _LEFT + _RIGHT] = motion[:, _RIGHT + _LEFT]
    return crops.flip(1).flip(-1), motion


def through_blinks(values: np.ndarray) -> np.ndarray:
    """Motion [T, 20] of a clip whose gaze, where both eyes are shut, goes from the one before to the one after."""
    lids = values[:, [MOTION.index("blink_left"), MOTION.index("blink_right")]].mean(1)
    seen = np.flatnonzero(lids < SHUT)
    values = values.copy()
    if len(seen):
        for place in (MOTION.index(name) for name in GAZE):
            values[:, place] = np.interp(np.arange(len(values)), seen, values[seen, place])
    return values


class Reader(nn.Module):
    """Outputs of the face net [B, ...] and both eyes to the motion factors `READ` [B, 17] in the world's units.

    widths: of the hidden layer, and of the first layer of the eyes' network.
    """

    def __init__(self, widths: Sequence[int]) -> None:
        super().__init__()
        width, of_eyes = widths
        self.register_buffer("mean", torch.zeros(INPUTS))
        self.register_buffer("deviation", torch.ones(INPUTS))
        self.layers = nn.Sequential(
            nn.Linear(INPUTS, width), nn.SiLU(), nn.Dropout(DROPOUT), nn.Linear(width, len(READ))
        )
        self.eyes = Eyes(of_eyes)
        self.mean: Tensor
        self.deviation: Tensor

    @staticmethod
    def inputs(face: FaceOutput) -> Tensor:
        """The inputs [B, 668]."""
        points = 4 * (face.landmarks - 0.5).flatten(1)
        return torch.cat([face.features, face.motion, points], 1)

    def forward(self, inputs: Tensor) -> Tensor:
        """Inputs [B, 668] to motion in units of half each range around its middle; without the eyes' network."""
        own = inputs[:, Trunk.features : Trunk.features + len(MOTION)][:, _COLUMNS]
        return own + self.layers((inputs - self.mean) / self.deviation)

    def motion(self, face: FaceOutput, images: Tensor) -> np.ndarray:
        """The motion factors [B, 20] in the world's units and order of what the face net found in images [B, 3, H, W];
        shift and scale are those of an aligned face."""
        unit = self(self.inputs(face))
        unit[:, _GAZE_COLUMNS] = self.eyes(Eyes.crops(images, face.landmarks), face.motion).to(unit)
        unit = unit.float().cpu()
        values = np.zeros((len(unit), len(MOTION)), np.float32)
        values[:, MOTION.index("scale")] = 1
        values[:, _COLUMNS] = ((_LOW + _HIGH) / 2 + (_HIGH - _LOW) / 2 * unit.clamp(-1, 1)).numpy()
        return values


def targets(motion: np.ndarray) -> Tensor:
    """What a reader is to give for motion factors [B, 20]."""
    values = torch.from_numpy(motion[:, _COLUMNS])
    return (values - (_LOW + _HIGH) / 2) / ((_HIGH - _LOW) / 2)
