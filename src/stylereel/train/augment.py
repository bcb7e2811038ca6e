"""Adaptive augmentation of a discriminator's inputs, so that few images suffice.

Karras et al., "Training Generative Adversarial Networks with Limited Data" (2020): the set "bgc" of appendix B (pixel
blitting, geometry, colour), each transformation with probability p, all of a sample as one 3x3 and one 4x4 matrix; p
follows the discriminator's overfitting r_t = E[sign(D(real))] (section 3.1).
"""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from stylereel.generator.resample import lowpass_filter, upfirdn2d

TAPS = 12  # of the filter around the warp
_LUMA = torch.ones(3) / math.sqrt(3)  # the axis of grey


def geometry(count: int, p: float, random: torch.Generator, flip: bool = False) -> Tensor:
    """Motions of images [B, 3, 3] float32 on the square -1..1, each part with probability p; identity at p = 0.

    In order: mirror image (only with `flip`), quarter turns, shift, scale, rotation, stretch, rotation, shift. The
    first shift is not rounded to whole pixels as in the paper, since all of them become one warp anyway.
    """
    draw = _Gates(count, p, random)
    # Two rotations, one on each side of the stretch, are there with probability p together.
    first_turn = draw.gate(1 - math.sqrt(1 - min(p, 1.0)))
    second_turn = draw.gate(1 - math.sqrt(1 - min(p, 1.0)))
    mirror = 1 - draw.gate_values(torch.where(draw.uniform(0, 1) < 0.5, 2.0, 0.0))
    matrix = _scale(mirror if flip else torch.ones(count), torch.ones(count))
    matrix = _rotation(draw.gate_values(draw.uniform(0, 4).floor() * (math.pi / 2))) @ matrix
    gate = draw.gate()
    matrix = _shift(*(gate * draw.uniform(-0.25, 0.25) for _ in range(2))) @ matrix
    size = torch.exp2(draw.gate_values(0.2 * draw.normal()))
    matrix = _scale(size, size) @ matrix
    matrix = _rotation(first_turn * draw.uniform(-math.pi, math.pi)) @ matrix
    stretch = torch.exp2(draw.gate_values(0.2 * draw.normal()))
    matrix = _scale(stretch, 1 / stretch) @ matrix
    matrix = _rotation(second_turn * draw.uniform(-math.pi, math.pi)) @ matrix
    gate = draw.gate()
    return _shift(*(gate * (0.25 * draw.normal()) for _ in range(2))) @ matrix


def colours(count: int, p: float, random: torch.Generator) -> Tensor:
    """Changes of colour [B, 4, 4] float32 for (r, g, b, 1): brightness, contrast, luma flip, hue, saturation."""
    draw = _Gates(count, p, random)
    grey = torch.outer(_LUMA, _LUMA)
    matrix = torch.eye(4).repeat(count, 1, 1)
    matrix[:, :3, 3] = draw.gate_values(0.2 * draw.normal())[:, None]
    contrast = torch.exp2(draw.gate_values(0.5 * draw.normal()))[:, None, None]
    matrix = _linear(contrast * torch.eye(3)) @ matrix
    mirrored = draw.gate_values(torch.where(draw.uniform(0, 1) < 0.5, 2.0, 0.0))[:, None, None]
    matrix = _linear(torch.eye(3) - mirrored * grey) @ matrix  # Householder: the luma changes its sign
    angle = draw.gate_values(draw.uniform(-math.pi, math.pi))[:, None, None]
    x, y, z = _LUMA.tolist()
    cross = torch.tensor([[0, -z, y], [z, 0, -x], [-y, x, 0]])
    matrix = _linear(grey + angle.cos() * (torch.eye(3) - grey) + angle.sin() * cross) @ matrix  # Rodrigues
    saturation = torch.exp2(draw.gate_values(draw.normal()))[:, None, None]
    return _linear(grey + saturation * (torch.eye(3) - grey)) @ matrix


def warp(images: Tensor, motion: Tensor) -> Tensor:
    """Images [B, C, H, W] moved by matrices [B, 3, 3], mirrored beyond their edges, without aliases.

    Sampled bilinearly from twice the resolution to twice the resolution, then filtered down. Once differentiable:
    torch has no second derivative of its grid_sample.
    """
    height, width = images.shape[2:]
    taps, half = lowpass_filter(TAPS, 0.5, 0.5, 2.0), TAPS // 2
    # The edge that the filters need is mirrored too, and cut off after each of them.
    fine = F.pad(images, [half] * 4, "reflect")
    fine = upfirdn2d(fine, taps, up=2, padding=(half - TAPS, half - 1 - TAPS) * 2, gain=4.0)
    rows, columns = 2 * height + 2 * TAPS, 2 * width + 2 * TAPS
    larger = torch.tensor([columns / (2 * width), rows / (2 * height), 1.0]).diag()
    to_source = (torch.linalg.inv(motion) @ larger)[:, :2].to(images)
    grid = F.affine_grid(to_source, [len(images), images.shape[1], rows, columns], align_corners=False)
    fine = F.grid_sample(fine, grid, "bilinear", "reflection", align_corners=False)
    return upfirdn2d(fine, taps, down=2, padding=half - 1 - TAPS)


def recolour(images: Tensor, matrix: Tensor) -> Tensor:
    """Images [B, 3, H, W] whose colours went through matrices [B, 4, 4]."""
    matrix = matrix.to(images)
    return torch.einsum("bij,bjhw->bihw", matrix[:, :3, :3], images) + matrix[:, :3, 3, None, None]


class Augment(nn.Module):
    """Augments images with probability p and moves p until the mean sign of the scores of real ones is `TARGET`.

    p and the scores since it last moved are buffers, so they are part of a checkpoint. With several processes
    those of process 0 count, as for all buffers.
    """

    TARGET, EVERY = 0.6, 4  # of r_t; steps between two moves of p

    def __init__(self, flip: bool, speed: int) -> None:
        """flip: mirror images are as good as the images; speed: real images in which p could go from 0 to 1."""
        super().__init__()
        self.flip, self.speed = flip, speed
        for name in ("p", "signs", "count", "steps"):
            self.register_buffer(name, torch.zeros([]))
        self.p: Tensor
        self.signs: Tensor
        self.count: Tensor
        self.steps: Tensor

    def draw(self, count: int, random: torch.Generator) -> tuple[Tensor, Tensor]:
        """The matrices [B, 3, 3] and [B, 4, 4] of `count` images; `random` is a generator of the CPU."""
        p = float(self.p)
        return geometry(count, p, random, self.flip), colours(count, p, random)

    def forward(self, images: Tensor, matrices: tuple[Tensor, Tensor]) -> Tensor:
        """Images [B, 3, H, W] changed by `draw`'s matrices; the very same ones at p = 0."""
        if float(self.p) == 0:
            return images
        motion, colour = matrices
        return recolour(warp(images, motion), colour)

    @torch.no_grad()
    def adapt(self, real_scores: Tensor) -> None:
        """Note a step's scores of real images [B, 1]; at each `EVERY`-th step move p towards `TARGET`."""
        self.signs += real_scores.sign().sum()
        self.count += real_scores.numel()
        self.steps += 1
        if self.steps >= self.EVERY:
            direction = (self.signs / self.count - self.TARGET).sign()
            self.p.add_(direction * self.count / self.speed).clamp_(0, 1)
            for buffer in (self.signs, self.count, self.steps):
                buffer.zero_()


class _Gates:
    """Random numbers of a batch, and gates that are open with probability p, each drawn for itself."""

    def __init__(self, count: int, p: float, random: torch.Generator) -> None:
        self._count, self._p, self._random = count, p, random

    def uniform(self, low: float, high: float) -> Tensor:
        return torch.rand(self._count, generator=self._random) * (high - low) + low

    def normal(self) -> Tensor:
        return torch.randn(self._count, generator=self._random)

    def gate(self, p: float | None = None) -> Tensor:
        return self.uniform(0, 1) < (self._p if p is None else p)

    def gate_values(self, values: Tensor) -> Tensor:
        """The values where a new gate is open, else zeros."""
        return torch.where(self.gate(), values, torch.zeros_like(values))


def _matrix(*rows: list[Tensor]) -> Tensor:
    return torch.stack([torch.stack(row, dim=1) for row in rows], dim=1)


def _scale(x: Tensor, y: Tensor) -> Tensor:
    zero, one = torch.zeros_like(x), torch.ones_like(x)
    return _matrix([x, zero, zero], [zero, y, zero], [zero, zero, one])


def _rotation(angle: Tensor) -> Tensor:
    zero, one, cosine, sine = torch.zeros_like(angle), torch.ones_like(angle), angle.cos(), angle.sin()
    return _matrix([cosine, -sine, zero], [sine, cosine, zero], [zero, zero, one])


def _shift(x: Tensor, y: Tensor) -> Tensor:
    zero, one = torch.zeros_like(x), torch.ones_like(x)
    return _matrix([one, zero, x], [zero, one, y], [zero, zero, one])


def _linear(matrix: Tensor) -> Tensor:
    """[B, 3, 3] as [B, 4, 4]."""
    return F.pad(matrix, (0, 1, 0, 1)) + torch.diag(torch.tensor([0.0, 0.0, 0.0, 1.0]))
