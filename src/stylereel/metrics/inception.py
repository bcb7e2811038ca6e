"""Inception v3 (Szegedy et al. 2016) in the form of the published Frechet Inception distance.

It differs from the usual one in its pooling: means do not count the padding, and the last block takes the largest value
instead. Names are those of torchvision and of pytorch-fid's file.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

Kernel = tuple[int, int]
Step = tuple[int, Kernel]  # outputs and kernel of a convolution
ONE, THREE, FIVE, WIDE, HIGH = (1, 1), (3, 3), (5, 5), (1, 7), (7, 1)


class Conv(nn.Module):
    """Convolution, batch normalisation, rectifier; `same` pads so that the size stays, else nothing is padded."""

    def __init__(self, inputs: int, outputs: int, kernel: Kernel, stride: int = 1, same: bool = True) -> None:
        super().__init__()
        padding = (kernel[0] // 2, kernel[1] // 2) if same else 0
        self.conv = nn.Conv2d(inputs, outputs, kernel, stride, padding, bias=False)
        self.bn = nn.BatchNorm2d(outputs, eps=0.001)

    def forward(self, x: Tensor) -> Tensor:
        return F.relu(self.bn(self.conv(x)))


class Mixed(nn.Module):
    """Branches of convolutions side by side, joined along the channels, a branch that pools last.

    branches: name -> the steps of its convolutions; two steps in a list fork the branch. pooled: outputs of the
    convolution after the pool, 0 for none. pool: "mean" or "max" of 3 x 3, or "halve": the largest of 3 x 3 with
    stride 2, where each branch's last convolution has stride 2 too.
    """

    def __init__(
        self, inputs: int, pool: Literal["mean", "max", "halve"], pooled: int, **branches: Sequence[Step | list[Step]]
    ) -> None:
        super().__init__()
        self.pool, self.paths = pool, []
        self.outputs = pooled or inputs
        for branch, steps in branches.items():
            path, width = [], inputs
            for number, step in enumerate(steps, start=1):
                name = f"branch{branch}" + (f"_{number}" if len(steps) > 1 else "")
                forks = [(name, step)] if isinstance(step, tuple) else [(f"{name}{x}", s) for x, s in zip("ab", step)]
                strided = pool == "halve" and number == len(steps)
                for part, (outputs, kernel) in forks:
                    self.add_module(part, Conv(width, outputs, kernel, 2 if strided else 1, same=not strided))
                path.append([part for part, _ in forks])
                width = sum(outputs for _, (outputs, _) in forks)
            self.paths.append(path)
            self.outputs += width
        self.branch_pool = Conv(inputs, pooled, ONE) if pooled else nn.Identity()

    def forward(self, x: Tensor) -> Tensor:
        results = []
        for path in self.paths:
            y = x
            for names in path:
                y = torch.cat([getattr(self, name)(y) for name in names], 1)
            results.append(y)
        if self.pool == "mean":
            small = F.avg_pool2d(x, 3, 1, 1, count_include_pad=False)
        else:
            small = F.max_pool2d(x, 3, *((2, 0) if self.pool == "halve" else (1, 1)))
        return torch.cat([*results, self.branch_pool(small)], 1)


def _a(inputs: int, pooled: int) -> Mixed:
    steps = {"1x1": [(64, ONE)], "5x5": [(48, ONE), (64, FIVE)], "3x3dbl": [(64, ONE), (96, THREE), (96, THREE)]}
    return Mixed(inputs, "mean", pooled, **steps)


def _c(n: int) -> Mixed:
    long = [(n, ONE), (n, HIGH), (n, WIDE), (n, HIGH), (192, WIDE)]
    steps = {"1x1": [(192, ONE)], "7x7": [(n, ONE), (n, WIDE), (192, HIGH)], "7x7dbl": long}
    return Mixed(768, "mean", 192, **steps)


def _e(inputs: int, pool: Literal["mean", "max"]) -> Mixed:
    fork = [(384, (1, 3)), (384, (3, 1))]
    steps = {"1x1": [(320, ONE)], "3x3": [(384, ONE), fork], "3x3dbl": [(448, ONE), (384, THREE), fork]}
    return Mixed(inputs, pool, 192, **steps)


class Inception(nn.Module):
    """Images [B, 3, 299, 299] in [-1, 1] to the 2048 means of the last maps."""

    def __init__(self) -> None:
        super().__init__()
        self.Conv2d_1a_3x3 = Conv(3, 32, THREE, 2, same=False)
        self.Conv2d_2a_3x3 = Conv(32, 32, THREE, same=False)
        self.Conv2d_2b_3x3 = Conv(32, 64, THREE)
        self.Conv2d_3b_1x1 = Conv(64, 80, ONE)
        self.Conv2d_4a_3x3 = Conv(80, 192, THREE, same=False)
        self.Mixed_5b, self.Mixed_5c, self.Mixed_5d = _a(192, 32), _a(256, 64), _a(288, 64)
        halves = {"3x3": [(384, THREE)], "3x3dbl": [(64, ONE), (96, THREE), (96, THREE)]}
        self.Mixed_6a = Mixed(288, "halve", 0, **halves)
        self.Mixed_6b, self.Mixed_6c, self.Mixed_6d, self.Mixed_6e = _c(128), _c(160), _c(160), _c(192)
        halves = {"3x3": [(192, ONE), (320, THREE)], "7x7x3": [(192, ONE), (192, WIDE), (192, HIGH), (192, THREE)]}
        self.Mixed_7a = Mixed(768, "halve", 0, **halves)
        self.Mixed_7b, self.Mixed_7c = _e(1280, "mean"), _e(2048, "max")

    def forward(self, images: Tensor) -> Tensor:
        x = self.Conv2d_2b_3x3(self.Conv2d_2a_3x3(self.Conv2d_1a_3x3(images)))
        x = self.Conv2d_4a_3x3(self.Conv2d_3b_1x1(F.max_pool2d(x, 3, 2)))
        x = F.max_pool2d(x, 3, 2)
        for name, block in self.named_children():
            if name.startswith("Mixed"):
                x = block(x)
        return x.mean((2, 3))
