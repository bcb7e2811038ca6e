"""The built-in perception nets: landmarks, motion and identity of a portrait, small and differentiable.

They are trained on the world's exact labels and serve as losses and as the trunk of the built-in encoder. Input is a
portrait in canonical framing; any size is resampled to 128 px. The pixel measures of real faces are in `backend`.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from stylereel.world.factors import HIGH, LOW, MOTION, NAMES

SIZE = 128
EMBEDDING = 128


class Residual(nn.Module):
    """Two 3x3 convolutions with batch normalisation around a shortcut; `stride` 2 halves the map."""

    def __init__(self, inputs: int, outputs: int, stride: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(inputs, outputs, 3, stride, 1, bias=False)
        self.norm1 = nn.BatchNorm2d(outputs)
        self.conv2 = nn.Conv2d(outputs, outputs, 3, 1, 1, bias=False)
        self.norm2 = nn.BatchNorm2d(outputs)
        self.shortcut = nn.Conv2d(inputs, outputs, 1, bias=False) if inputs != outputs else None

    def forward(self, x: Tensor) -> Tensor:
        y = F.silu(self.norm1(self.conv1(x)))
        y = self.norm2(self.conv2(y))
        if self.conv1.stride[0] == 2:
            x = F.avg_pool2d(x, 2)
        return F.silu(y + (x if self.shortcut is None else self.shortcut(x)))


class Trunk(nn.Module):
    """Picture [B, 3, H, W] in [-1, 1] to features [B, 512]; the last map is not pooled, so position survives."""

    features = 512

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Conv2d(3, 24, 5, 2, 2)
        self.blocks = nn.Sequential(
            Residual(24, 48, 2),
            Residual(48, 48, 1),
            Residual(48, 96, 2),
            Residual(96, 96, 1),
            Residual(96, 128, 2),
            Residual(128, 160, 2),
        )
        self.squeeze = nn.Conv2d(160, 96, 1)
        self.linear = nn.Linear(96 * 16, self.features)

    def forward(self, images: Tensor) -> Tensor:
        x = images
        if x.shape[-1] != SIZE:
            x = F.interpolate(x, (SIZE, SIZE), mode="bilinear", antialias=x.shape[-1] > SIZE, align_corners=False)
        x = x.contiguous(memory_format=torch.channels_last)
        x = self.blocks(F.silu(self.stem(x)))
        return F.silu(self.linear(self.squeeze(x).flatten(1)))


class Seen(NamedTuple):
    """What the nets see in portraits.

    landmarks: [B, 68, 2] in 0..1 of the picture, iBUG order; values: [B, K] world factors in units of half their
    range around its middle (so -1..1); features: [B, 512].
    """

    landmarks: Tensor
    values: Tensor
    features: Tensor

    @property
    def motion(self) -> Tensor:
        """The motion factors [B, 16], the first of the values."""
        return self.values[:, : len(MOTION)]


def unit_values(values: Tensor) -> Tensor:
    """World factor values [B, K] in units of half their range around its middle: -1..1."""
    low, high = (torch.from_numpy(limit).to(values.device) for limit in (LOW, HIGH))
    return (values - (high + low) / 2) / ((high - low) / 2)


class FaceNet(nn.Module):
    """Landmarks and all world factors of a portrait."""

    def __init__(self) -> None:
        super().__init__()
        self.trunk = Trunk()
        self.landmarks = nn.Linear(Trunk.features, 136)
        self.values = nn.Linear(Trunk.features, len(NAMES))

    def forward(self, images: Tensor) -> Seen:
        features = self.trunk(images)
        return Seen(0.5 + 0.25 * self.landmarks(features).view(-1, 68, 2), self.values(features), features)


class IdentityNet(nn.Module):
    """Who a portrait shows: an embedding [B, 128] of length 1; the cosine of two compares two people."""

    def __init__(self) -> None:
        super().__init__()
        self.trunk = Trunk()
        self.head = nn.Linear(Trunk.features, EMBEDDING)

    def forward(self, images: Tensor) -> Tensor:
        return F.normalize(self.head(self.trunk(images)), dim=1)
