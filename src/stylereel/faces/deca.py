"""DECA: shape, expression and pose of a face as FLAME's numbers, from one image, differentiable.

Feng et al., "Learning an Animatable Detailed 3D Face Model from In-The-Wild Images" (2021). Only the coarse encoder of
deca_model.tar is used (`E_flame`: ResNet-50 of He et al. 2016 and two linear layers); detail and rendering are not
needed for landmarks. Parameter names are those of that file.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch.nn.functional as F
from torch import Tensor, nn

from stylereel.faces.flame import EXPRESSION, POSE, SHAPE
from stylereel.faces.placement import place_ffhq, to_crop
from stylereel.faces.pose import mean_head
from stylereel.zoo.encoders import load_part

# What the 236 numbers are, in this order; camera is scale and shift, light nine coefficients a colour.
PARTS = {"shape": SHAPE, "texture": 50, "expression": EXPRESSION, "pose": POSE, "camera": 3, "light": 27}
INPUT = 224  # pixels
BOX_SCALE = 1.1 * 1.25  # side of the crop in mean sides of the box around the landmarks


class Bottleneck(nn.Module):
    """Residual block [B, I, H, W] to [B, 4 M, H / stride, W / stride]."""

    def __init__(self, inputs: int, middle: int, stride: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(inputs, middle, 1, bias=False)
        self.bn1 = nn.BatchNorm2d(middle)
        self.conv2 = nn.Conv2d(middle, middle, 3, stride, 1, bias=False)
        self.bn2 = nn.BatchNorm2d(middle)
        self.conv3 = nn.Conv2d(middle, 4 * middle, 1, bias=False)
        self.bn3 = nn.BatchNorm2d(4 * middle)
        self.downsample = None
        if stride > 1 or inputs != 4 * middle:
            self.downsample = nn.Sequential(
                nn.Conv2d(inputs, 4 * middle, 1, stride, bias=False), nn.BatchNorm2d(4 * middle)
            )

    def forward(self, x: Tensor) -> Tensor:
        y = F.relu(self.bn1(self.conv1(x)))
        y = F.relu(self.bn2(self.conv2(y)))
        return F.relu(self.bn3(self.conv3(y)) + (x if self.downsample is None else self.downsample(x)))


class ResNet(nn.Module):
    """Images [B, 3, H, W] to features [B, 32 width]; blocks a stage and width of the first are ResNet-50's."""

    def __init__(self, blocks: tuple[int, ...] = (3, 4, 6, 3), width: int = 64) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(3, width, 7, 2, 3, bias=False)
        self.bn1 = nn.BatchNorm2d(width)
        self.stages = len(blocks)
        inputs = width
        for stage, count in enumerate(blocks):
            layer = nn.Sequential()
            for block in range(count):
                layer.append(Bottleneck(inputs, width << stage, 2 if stage and not block else 1))
                inputs = 4 * width << stage
            self.add_module(f"layer{stage + 1}", layer)

    def forward(self, x: Tensor) -> Tensor:
        x = F.max_pool2d(F.relu(self.bn1(self.conv1(x))), 3, 2, 1)
        for stage in range(self.stages):
            x = self.get_submodule(f"layer{stage + 1}")(x)
        return x.mean((2, 3))


class Deca(nn.Module):
    """Portraits to FLAME's numbers."""

    def __init__(self, blocks: tuple[int, ...] = (3, 4, 6, 3), width: int = 64, hidden: int = 1024) -> None:
        super().__init__()
        self.encoder = ResNet(blocks, width)
        features = 4 * width << len(blocks) - 1
        self.layers = nn.Sequential(nn.Linear(features, hidden), nn.ReLU(), nn.Linear(hidden, sum(PARTS.values())))

    def forward(self, faces: Tensor) -> dict[str, Tensor]:
        """Cropped faces [B, 3, 224, 224] in 0..1 to the numbers [B, n] of each of `PARTS`."""
        numbers = self.layers(self.encoder(faces)).split(list(PARTS.values()), dim=1)
        return dict(zip(PARTS, numbers, strict=True))

    def read(self, portraits: Tensor) -> dict[str, Tensor]:
        """The numbers of portraits [B, 3, H, W] in FFHQ framing, in [-1, 1]."""
        return self(face_crop(portraits))


def face_crop(portraits: Tensor) -> Tensor:
    """Portraits [B, 3, H, W] in FFHQ framing, in [-1, 1], to what DECA takes: [B, 3, 224, 224] in 0..1.

    DECA crops around detected landmarks. In FFHQ framing these are where those of the mean head are, so that one crop
    serves all images and a batch needs no detector. Beyond the image it is black, as in DECA.
    """
    x, y, side = _BOX
    theta = portraits.new_tensor([[side, 0, 2 * x - 1], [0, side, 2 * y - 1]]).expand(len(portraits), 2, 3)
    grid = F.affine_grid(theta, [len(portraits), 3, INPUT, INPUT], align_corners=False)
    shrunk = portraits
    if (factor := int(portraits.shape[-1] * side / INPUT)) > 1:  # sampling alone would alias
        shrunk = F.avg_pool2d(portraits, factor)
    return F.grid_sample((shrunk + 1) / 2, grid, align_corners=False)


def in_portrait(vertices: Tensor, camera: Tensor) -> Tensor:
    """FLAME's vertices [B, V, 3] by DECA's cameras [B, 3] (scale, shift) in the portrait: [B, V, 2] in -1..1.

    The projection is orthographic, into the crop of `face_crop`, y upwards.
    """
    x, y, side = _BOX
    crop = camera[:, None, :1] * (vertices[..., :2] + camera[:, None, 1:])
    return side * crop * vertices.new_tensor([1.0, -1.0]) + vertices.new_tensor([2 * x - 1, 2 * y - 1])


def _mean_box() -> tuple[float, float, float]:
    """Centre and side, in image sides, of the crop around the mean head's landmarks in FFHQ framing."""
    points = mean_head()[:, :2]
    points = to_crop(points, place_ffhq(points[None])[0])
    low, high = points.min(0), points.max(0)
    x, y = (low + high) / 2
    return float(x), float(y), float(np.mean(high - low) * BOX_SCALE)


_BOX = _mean_box()


def load_deca(path: str | Path) -> Deca:
    """DECA's encoder from deca_model.tar; nothing in it is run. Raises ValueError, listing what does not fit."""

    def build(state: dict[str, Tensor]) -> Deca:
        stages = sorted({key.split(".")[1] for key in state if key.startswith("encoder.layer")})
        blocks = tuple(len({key.split(".")[2] for key in state if f".{stage}." in key}) for stage in stages)
        return Deca(blocks, len(state["encoder.conv1.weight"]), len(state["layers.0.weight"]))

    return load_part(path, "layers.2.weight", "DECA encoder", build)
