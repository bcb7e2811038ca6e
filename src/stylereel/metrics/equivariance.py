"""Equivariance of a generator: does its image move as a whole when its input is moved?

Karras et al., "Alias-Free Generative Adversarial Networks" (2021), section 2.2 and appendix E: the peak signal-to-noise
ratio, in dB over the range of 2, between the image of a moved input and the moved image, over the pixels both know.
"""

from __future__ import annotations

import math
from collections.abc import Callable

import numpy as np
import torch
from scipy.special import j1
from torch import Tensor

from stylereel.generator import StyleGAN3, image_transform
from stylereel.metrics.intervals import bootstrap
from stylereel.metrics.registry import Score

REACH = 4  # pixels that a resampling kernel sees on each side
LARGEST_SHIFT = 0.125  # image widths, as in the paper

Kernel = Callable[[Tensor, Tensor], Tensor]  # distances in pixels along x and y to weights


def lanczos(x: Tensor, y: Tensor) -> Tensor:
    """The separable windowed sinc: keeps the whole spectrum of a shifted image."""

    def one(d: Tensor) -> Tensor:
        return torch.where(d.abs() < REACH, torch.sinc(d) * torch.sinc(d / REACH), 0.0)

    return one(x) * one(y)


def disk(x: Tensor, y: Tensor) -> Tensor:
    """The windowed jinc: keeps the frequencies below Nyquist's in all directions, which a rotated image still has."""
    radius = np.hypot(x.numpy(), y.numpy())
    safe = np.maximum(radius, 1e-9)
    window = np.where(radius < REACH, np.sinc(radius / REACH), 0.0)
    return torch.from_numpy(np.where(radius > 1e-9, j1(math.pi * safe) / (2 * safe), math.pi / 4) * window)


def move(images: Tensor, transform: Tensor, kernel: Kernel) -> tuple[Tensor, Tensor]:
    """Images [B, C, H, W] moved by one `image_transform` [3, 3], and the mask [H, W] of pixels that saw no edge.

    Each pixel is the kernel's mean, in float64, of those around its place in the image.
    """
    height, width = images.shape[2:]
    rows, columns = torch.meshgrid(torch.arange(height), torch.arange(width), indexing="ij")
    inverse = torch.linalg.inv(transform.double())
    centred = torch.stack([(columns + 0.5) / width - 0.5, (rows + 0.5) / height - 0.5, torch.ones(height, width)], -1)
    place = centred.double() @ inverse.T
    x, y = (place[..., 0] + 0.5) * width - 0.5, (place[..., 1] + 0.5) * height - 0.5
    left, top = x.floor().long(), y.floor().long()
    images = images.double()
    total, weights = torch.zeros_like(images), torch.zeros(height, width, dtype=torch.float64)
    inside = torch.ones(height, width, dtype=torch.bool)
    for down in range(1 - REACH, REACH + 1):
        for right in range(1 - REACH, REACH + 1):
            column, row = left + right, top + down
            weight = kernel(x - column, y - row)
            inside &= (weight == 0) | ((column >= 0) & (column < width) & (row >= 0) & (row < height))
            total += weight * images[:, :, row.clamp(0, height - 1), column.clamp(0, width - 1)]
            weights += weight
    return total / weights, inside


def transforms(kind: str, size: int, random: np.random.Generator) -> Tensor:
    """A random motion of the paper's distributions: whole pixels, fractions of them, or any angle."""
    if kind == "rotation":
        return image_transform(float(random.uniform(0, 360)))
    shift = random.uniform(-LARGEST_SHIFT, LARGEST_SHIFT, 2)
    return image_transform(0.0, *(np.round(shift * size) / size if kind == "whole pixels" else shift))


_KINDS = {
    "eq-t-int": ("whole pixels", "Shifts of up to an eighth of the width, rounded to whole pixels."),
    "eq-t-frac": (
        "fractions",
        "Shifts of up to an eighth of the width; the image is shifted by Lanczos' kernel of 8.",
    ),
    "eq-r": (
        "rotation",
        "Any angle; the image is rotated by a windowed jinc of 8 pixels, and the other one goes through the same "
        "filter, where the paper filters both to the part of the spectrum that the two squares share.",
    ),
}


@torch.inference_mode()
def equivariance(generator: StyleGAN3, count: int = 64, seed: int = 0) -> list[Score]:
    """EQ-T (whole pixels, and fractions) and EQ-R of `count` samples, one motion each, with 95 % intervals.

    Raises ValueError for a generator whose input cannot be moved.
    """
    if not isinstance(generator, StyleGAN3):
        raise ValueError("Equivariance needs an input that can be moved; give a StyleGAN3 generator.")
    z = torch.from_numpy(np.random.default_rng((seed, 1)).standard_normal((count, generator.config.z_dim))).float()
    scores = []
    for name, (kind, protocol) in _KINDS.items():
        random = np.random.default_rng((seed, 2))
        errors = []
        for one in z.split(1):
            transform = transforms(kind, generator.resolution, random)
            w = generator.map(one.to(generator.mean_w.device))
            made, still = (
                generator.synthesize(w, transform=each.to(w.device)).cpu().double()  # moved in float64, on the CPU
                for each in (transform, torch.eye(3))
            )
            kernel = disk if kind == "rotation" else lanczos
            target, mask = move(still, transform, kernel)
            if kind == "rotation":
                made, also = move(made, torch.eye(3), kernel)
                mask = mask & also
            errors.append(np.atleast_1d((made - target).square()[..., mask].mean().numpy()))
        interval, how = bootstrap(errors, seed)
        value, *ends = (10 * math.log10(4 / error) for error in (float(np.mean(errors)), *(interval or ())[::-1]))
        protocol = f"{protocol} 10 log10(4 / mean squared difference) over pixels in both; images weigh the same."
        how = how.replace("clips", "images")
        bounds = (ends[0], ends[1]) if ends else None
        scores.append(
            Score(name, value, bounds, how, "dB", "higher", "frame pairs", {"images": count}, protocol, seed, {})
        )
    return scores
