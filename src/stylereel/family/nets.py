"""The built-in perception nets: landmarks, factors, regions and identity of a portrait, small and differentiable.

They are trained on the world's exact labels and serve as losses and as the trunk of the built-in encoder. Input is a
portrait in canonical framing; any size is resampled to 128 px, and the mouth is cropped closer. The pixel measures of
real faces are in `backend`.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from stylereel.core.weights import load_module
from stylereel.world.factors import HIGH, INDEX, LOW, MOTION_COLUMNS, NAMES, neutral
from stylereel.world.shading import REGIONS

SIZE = 128
EMBEDDING = 128
PARSED_SIZE = 64  # side of the region map, pixels
LIPS_SIZE = 64  # side of the crop around the mouth, pixels
LIPS_PART = 0.36  # and as a part of the image's side
MOUTH = slice(48, 68)  # the points of the mouth
_MERGED = {"earring": "ear"}  # a few pixels in the region map: labelled as the region next to them
PARSED = tuple(name for name in REGIONS if name not in _MERGED)


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
    """Image [B, 3, H, W] in [-1, 1] to features [B, 512]; the last map is not pooled, so position survives."""

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

    def maps(self, images: Tensor) -> list[Tensor]:
        """The feature maps of all levels, of 64, 32, 32, 16, 16, 8 and 4 px."""
        x = images
        if x.shape[-1] != SIZE:
            x = F.interpolate(x, (SIZE, SIZE), mode="bilinear", antialias=x.shape[-1] > SIZE, align_corners=False)
        maps = [F.silu(self.stem(x.contiguous(memory_format=torch.channels_last)))]
        for block in self.blocks:
            maps.append(block(maps[-1]))
        return maps

    def top(self, last: Tensor) -> Tensor:
        """The last map to features."""
        return F.silu(self.linear(self.squeeze(last).flatten(1)))

    def forward(self, images: Tensor) -> Tensor:
        return self.top(self.maps(images)[-1])


class Parser(nn.Module):
    """The maps of a trunk to a score [B, R, 64, 64] for each region: from coarse to fine, each level is added."""

    LEVELS = ((6, 160), (5, 128), (4, 96), (2, 48), (0, 24))  # number of the map, its channels

    def __init__(self, regions: int, width: int = 32) -> None:
        super().__init__()
        self.sides = nn.ModuleList(nn.Conv2d(channels, width, 1) for _, channels in self.LEVELS)
        self.mixes = nn.ModuleList(nn.Conv2d(width, width, 3, 1, 1) for _ in self.LEVELS)
        self.scores = nn.Conv2d(width, regions, 1)

    def forward(self, maps: Sequence[Tensor]) -> Tensor:
        x = torch.zeros([], device=maps[0].device)
        for (level, _), side, mix in zip(self.LEVELS, self.sides, self.mixes, strict=True):
            lateral = side(maps[level])
            if x.ndim:
                x = F.interpolate(x, lateral.shape[-2:], mode="bilinear", align_corners=False)
            x = F.silu(mix(F.silu(x + lateral)))
        return self.scores(x)


class Lips(nn.Module):
    """The 20 points of the mouth in a crop [B, 3, 64, 64] around it: [B, 20, 2], -0.5..0.5 of the crop.

    Each point is the mean place of a map of its own (integral regression, Sun et al. 2018), so that it
    follows from the pixels around it and not from the shapes that mouths have in the world.
    """

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Conv2d(3, 24, 5, 2, 2)
        self.fine = nn.Sequential(Residual(24, 48, 2), Residual(48, 48, 1))
        self.coarse = nn.Sequential(Residual(48, 96, 2), Residual(96, 96, 1))
        self.side = nn.Conv2d(48, 48, 1)
        self.around = nn.Conv2d(96, 48, 1)
        self.mix = nn.Conv2d(48, 48, 3, 1, 1)
        self.places = nn.Conv2d(48, MOUTH.stop - MOUTH.start, 1)

    def forward(self, crops: Tensor) -> Tensor:
        fine = self.fine(F.silu(self.stem(crops.contiguous(memory_format=torch.channels_last))))
        around = F.interpolate(self.around(self.coarse(fine)), fine.shape[-2:], mode="bilinear", align_corners=False)
        scores = self.places(F.silu(self.mix(F.silu(self.side(fine) + around)))).float()
        share = scores.flatten(2).softmax(2).view(scores.shape)
        place = offsets(share.shape[-1], share.device)
        return torch.stack([(share.sum(2) * place).sum(2), (share.sum(3) * place).sum(2)], 2)


def offsets(size: int, device: torch.device) -> Tensor:
    """How far the middles of `size` pixels are from the middle of their row: [size], -0.5..0.5."""
    return (torch.arange(size, device=device) + 0.5) / size - 0.5


def around_mouth(images: Tensor, middle: Tensor) -> Tensor:
    """The crops [B, 3, 64, 64] of images [B, 3, H, W] around places [B, 2] in 0..1; edges are repeated beyond."""
    if images.shape[-1] > 2 * SIZE:  # what a crop has less of is averaged
        images = F.interpolate(images, (2 * SIZE, 2 * SIZE), mode="bilinear", antialias=True, align_corners=False)
    place = LIPS_PART * offsets(LIPS_SIZE, images.device)
    grid = torch.stack(torch.meshgrid(place, place, indexing="xy"), 2) + middle[:, None, None]
    return F.grid_sample(images, 2 * grid.to(images.dtype) - 1, padding_mode="border", align_corners=False)


class FaceOutput(NamedTuple):
    """Outputs of the face net.

    landmarks: [B, 68, 2] in 0..1 of the image, iBUG order, those of the mouth from a closer crop; values: [B, K] world
    factors in units of half their range around its middle (so -1..1), neutral where the net is older than the factor;
    features: [B, 512]; maps: those of the trunk;
    regions: scores [B, R, 64, 64] of the regions `PARSED`, where they were asked for.
    """

    landmarks: Tensor
    values: Tensor
    features: Tensor
    maps: list[Tensor]
    regions: Tensor | None = None

    @property
    def motion(self) -> Tensor:
        """The motion factors [B, M] in the order of `MOTION`."""
        return self.values[:, MOTION_COLUMNS]


def unit_values(values: Tensor) -> Tensor:
    """World factor values [B, K] in units of half their range around its middle: -1..1."""
    low, high = (torch.from_numpy(limit).to(values.device) for limit in (LOW, HIGH))
    return (values - (high + low) / 2) / ((high - low) / 2)


def region_classes(regions: Tensor) -> Tensor:
    """The world's region maps [B, H, W], H a multiple of 64, as classes int64 [B, 64, 64] of `PARSED`."""
    step = regions.shape[-1] // PARSED_SIZE
    classes = torch.tensor([PARSED.index(_MERGED.get(name, name)) for name in REGIONS], device=regions.device)
    return classes[regions[:, step // 2 :: step, step // 2 :: step].long()]


@dataclass(frozen=True)
class FaceConfig:
    """A face net's outputs: names of world factors and of regions, separated by spaces; lips: the mouth network."""

    values: str = " ".join(NAMES)
    regions: str = " ".join(PARSED)
    lips: bool = True


class FaceNet(nn.Module):
    """Landmarks, world factors and, when asked for, regions of a portrait."""

    def __init__(self, config: FaceConfig | None = None) -> None:
        super().__init__()
        self.config = config or FaceConfig()
        self.trunk = Trunk()
        self.landmarks = nn.Linear(Trunk.features, 136)
        self.values = nn.Linear(Trunk.features, len(self.config.values.split()))
        self.parser = Parser(len(self.config.regions.split())) if self.config.regions else None
        self.lips = Lips() if self.config.lips else None
        names = self.config.values.split()
        self._places = None if tuple(names) == NAMES else [INDEX[name] for name in names]
        self._neutral = unit_values(torch.from_numpy(neutral()[None]))[0]

    def _all_values(self, features: Tensor) -> Tensor:
        """The values [B, K] of all factors, in the order of `NAMES`."""
        known = self.values(features)
        if self._places is None:
            return known
        values = self._neutral.to(known).repeat(len(known), 1)
        values[:, self._places] = known
        return values

    def forward(self, images: Tensor, parse: bool = False, close: bool = True) -> FaceOutput:
        """Outputs for images [B, 3, H, W] in [-1, 1]; with `close`, the mouth is read from a closer crop."""
        maps = self.trunk.maps(images)
        features = self.trunk.top(maps[-1])
        regions = self.parser(maps) if parse and self.parser else None
        points = 0.5 + 0.25 * self.landmarks(features).view(-1, 68, 2)
        if close and self.lips:
            middle = points[:, MOUTH].detach().float().mean(1)
            mouth = middle[:, None] + LIPS_PART * self.lips(around_mouth(images, middle))
            points = torch.cat([points[:, : MOUTH.start], mouth], dim=1)
        return FaceOutput(points, self._all_values(features), features, maps, regions)


def load_face(path: str | Path) -> FaceNet:
    """Read a face net's weight file. Raises ValueError if the file is not one or does not fit."""
    return load_module(path, "face", lambda config: FaceNet(FaceConfig(**{"lips": False, **config})))


@torch.no_grad()
def extend(old: FaceNet) -> tuple[FaceNet, list[str]]:
    """A face net of today's world with the outputs of `old` unchanged, and the names of its new outputs."""
    net, before = FaceNet(), dict(old.named_parameters()) | dict(old.named_buffers())
    rows = {"values": "values", "parser.scores": "regions"}  # layers whose rows are named in the config
    for key, tensor in net.state_dict().items():
        if key.rsplit(".", 1)[0] not in rows and key in before:
            tensor.copy_(before[key])
    new = []
    for layer, names in rows.items():
        mine, theirs = getattr(net.config, names).split(), getattr(old.config, names).split()
        new += [name for name in mine if name not in theirs]
        for part in ("weight", "bias") if theirs else ():
            for row, name in enumerate(mine):
                if name in theirs:
                    net.get_parameter(f"{layer}.{part}")[row] = before[f"{layer}.{part}"][theirs.index(name)]
    return net, new + ["lips"] * (not old.config.lips)


class IdentityNet(nn.Module):
    """The identity of a portrait: an embedding [B, 128] of length 1; the cosine of two compares two people."""

    def __init__(self) -> None:
        super().__init__()
        self.trunk = Trunk()
        self.head = nn.Linear(Trunk.features, EMBEDDING)

    def forward(self, images: Tensor) -> Tensor:
        return F.normalize(self.head(self.trunk(images)), dim=1)
