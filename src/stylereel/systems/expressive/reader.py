"""The amortised encoder: head pose and expression of a portrait in one pass, from what the face net has found.

A small network over the face net's features, its own reading of the motion, and its landmarks; and one each over the
eyes, the brows and the mouth at the image's full size (`PARTS`), which have the last word there: the face net sees half
the size, where an iris or a lip moves by a fraction of a pixel. All are trained on the world's truth. What they give
are motion factors; `Channels.code` makes the 32 numbers of them, by the mapping network's styles.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

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
SHUT = 0.55  # of the lids, from which a gaze is not seen
_SIGNED = ("yaw", "roll", "shift_x", "gaze_x", "smile_side", "jaw_side")  # what changes sign in a mirrored face


class Part(NamedTuple):
    """A part of the face: the landmarks around whose means crops are cut, one for each side or one in all; height and
    width of a crop, and how far above the landmarks its middle is, in pixels of an image of 256; what is read in it."""

    around: tuple[tuple[int, int], ...]
    size: tuple[int, int]
    above: int
    factors: tuple[str, ...]


_EYES = ((36, 42), (42, 48))
PARTS = {
    "eyes": Part(_EYES, (32, 56), 0, GAZE),
    "brows": Part(_EYES, (48, 64), 14, ("brow_left", "brow_right")),  # around the eyes, which do not move with them
    "mouth": Part(((48, 68),), (64, 88), 0,
                  ("jaw", "smile", "pucker", "press", "funnel", "smile_side", "cheek", "jaw_side")),
}  # fmt: skip


class Detail(nn.Module):
    """Crops [B, N, 3, H, W] of a part of the face and the face net's motion [B, 20] to the part's factors [B, F] in
    units of half each range around its middle."""

    def __init__(self, part: Part, width: int) -> None:
        super().__init__()
        self.part, last = part, 16
        high, wide = part.size
        self.look = nn.Sequential(
            nn.Conv2d(3, width, 5, stride=2, padding=2), nn.SiLU(),
            nn.Conv2d(width, 2 * width, 3, stride=2, padding=1), nn.SiLU(),
            nn.Conv2d(2 * width, last, 1), nn.SiLU(), nn.Flatten(),
            nn.Linear(last * high // 4 * wide // 4, 4 * width), nn.SiLU(),
        )  # fmt: skip
        self.out = nn.Sequential(
            nn.Dropout(0.1),
            nn.Linear(4 * width * len(part.around) + len(MOTION), 4 * width), nn.SiLU(),
            nn.Linear(4 * width, len(part.factors)),
        )  # fmt: skip

    def forward(self, crops: Tensor, motion: Tensor) -> Tensor:
        """Each crop is seen with a mean of 0 and a deviation of 1; the other side's mirrored, by the same layers."""
        crops = crops - crops.mean((2, 3, 4), keepdim=True)
        crops = crops / (crops.std((2, 3, 4), keepdim=True) + 0.05)
        seen = [self.look(each.flip(-1) if side else each) for side, each in enumerate(crops.unbind(1))]
        return self.out(torch.cat([*seen, motion], 1))

    def crops(self, images: Tensor, points: Tensor) -> Tensor:
        """The part [B, N, 3, H, W] in images [B, 3, H, W] around its landmarks [B, 68, 2] in 0..1."""
        y, x = (2 * (torch.arange(side, device=images.device) - (side - 1) / 2) / 256 for side in self.part.size)
        grid = torch.stack(torch.meshgrid(y - 2 * self.part.above / 256, x, indexing="ij")[::-1], -1)
        middles = (2 * points[:, first:last].mean(1) - 1 for first, last in self.part.around)
        found = [F.grid_sample(images, (grid + each[:, None, None]).to(images), align_corners=False,
                               padding_mode="border") for each in middles]  # fmt: skip
        return torch.stack(found, 1)


def mirror(values: Tensor, names: Sequence[str]) -> Tensor:
    """Values [B, N] of the factors `names` of the mirrored faces."""
    other = {"left": "right", "right": "left"}
    places = ["_".join([*name.split("_")[:-1], other.get(name.split("_")[-1], name.split("_")[-1])]) for name in names]
    signs = torch.tensor([-1.0 if name in _SIGNED else 1.0 for name in names])
    return values[:, [names.index(name) for name in places]] * signs.to(values)


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
    """Outputs of the face net [B, ...] and the parts of the face to the motion factors `READ` [B, 17].

    widths: of the hidden layer, and of the first layer of the networks of the parts.
    """

    def __init__(self, widths: Sequence[int]) -> None:
        super().__init__()
        width, of_details = widths
        self.register_buffer("mean", torch.zeros(INPUTS))
        self.register_buffer("deviation", torch.ones(INPUTS))
        self.layers = nn.Sequential(
            nn.Linear(INPUTS, width), nn.SiLU(), nn.Dropout(DROPOUT), nn.Linear(width, len(READ))
        )
        self.details = nn.ModuleDict({name: Detail(part, of_details) for name, part in PARTS.items()})
        self.mean: Tensor
        self.deviation: Tensor

    @staticmethod
    def inputs(face: FaceOutput) -> Tensor:
        """The inputs [B, 668]."""
        points = 4 * (face.landmarks - 0.5).flatten(1)
        return torch.cat([face.features, face.motion, points], 1)

    def forward(self, inputs: Tensor) -> Tensor:
        """Inputs [B, 668] to motion in units of half each range around its middle; without the parts."""
        own = inputs[:, Trunk.features : Trunk.features + len(MOTION)][:, _COLUMNS]
        return own + self.layers((inputs - self.mean) / self.deviation)

    def motion(self, face: FaceOutput, images: Tensor) -> np.ndarray:
        """The motion factors [B, 20] in the world's units and order of what the face net found in images [B, 3, H, W];
        shift and scale are those of an aligned face."""
        unit = self(self.inputs(face))
        for detail in self.details.values():
            assert isinstance(detail, Detail)
            columns = [READ.index(name) for name in detail.part.factors]
            unit[:, columns] = detail(detail.crops(images, face.landmarks), face.motion).to(unit)
        unit = unit.float().cpu()
        values = np.zeros((len(unit), len(MOTION)), np.float32)
        values[:, MOTION.index("scale")] = 1
        values[:, _COLUMNS] = ((_LOW + _HIGH) / 2 + (_HIGH - _LOW) / 2 * unit.clamp(-1, 1)).numpy()
        return values


def targets(motion: np.ndarray) -> Tensor:
    """What a reader is to give for motion factors [B, 20]."""
    values = torch.from_numpy(motion[:, _COLUMNS])
    return (values - (_LOW + _HIGH) / 2) / ((_HIGH - _LOW) / 2)
