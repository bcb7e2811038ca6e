"""Measures of generators: moved pictures, EQ-T and EQ-R of networks that have or lack them, path length."""

from __future__ import annotations

import math
from typing import Literal

import numpy as np
import pytest
import torch
from torch import Tensor

from stylereel.generator import StyleGAN2, StyleGAN2Config, StyleGAN3, StyleGAN3Config, image_transform
from stylereel.metrics.equivariance import disk, equivariance, lanczos, move
from stylereel.metrics.smoothness import STEP, path_length


def waves(transform: Tensor, size: int = 48) -> Tensor:
    """A picture [1, 3, H, W] of waves under a quarter of the sampling rate, drawn where the transform puts it."""
    random = np.random.default_rng(0)
    freqs = torch.from_numpy(random.uniform(-0.16, 0.16, (3, 6, 2)) * size)
    phases = torch.from_numpy(random.uniform(0, 1, (3, 6)))
    axis = (torch.arange(size, dtype=torch.float64) + 0.5) / size - 0.5
    y, x = torch.meshgrid(axis, axis, indexing="ij")
    place = torch.stack([x, y, torch.ones_like(x)], -1) @ torch.linalg.inv(transform).T
    angle = torch.einsum("hwk,cfk->cfhw", place[..., :2], freqs) + phases[..., None, None]
    return torch.sin(2 * math.pi * angle).mean(1)[None]


@pytest.mark.parametrize(
    ("transform", "kernel", "decibels"),
    [
        (image_transform(0, 5 / 48, -3 / 48), lanczos, 120),  # whole pixels: exact
        (image_transform(0, 0.113, -0.05), lanczos, 50),
        (image_transform(37), disk, 40),
    ],
)
def test_a_moved_picture_is_the_picture_drawn_there(transform: Tensor, kernel, decibels: float) -> None:
    still = waves(torch.eye(3, dtype=torch.float64))
    picture, mask = move(still, transform, kernel)
    target = waves(transform)
    error = (picture - target).square()[..., mask].mean()
    assert 10 * math.log10(4 / max(float(error), 1e-30)) > decibels
    assert 0.3 < mask.float().mean() < 1 and mask[24, 24]
    assert (still - target).square()[..., mask].mean() > 1e-2  # it did move


def network(kernel: Literal[1, 3], radial: bool) -> StyleGAN3:
    torch.manual_seed(0)
    config = StyleGAN3Config(
        32, z_dim=8, w_dim=16, channel_base=1024, channel_max=24, conv_kernel=kernel, use_radial_filters=radial,
        num_layers=6,
    )  # fmt: skip
    made = StyleGAN3(config)
    with torch.no_grad():  # magnitudes as training would track them
        for _ in range(30):
            made.synthesize(made.map(torch.randn(4, 8)), magnitude_decay=0.5)
    return made


def test_configuration_r_is_equivariant_and_t_only_to_shifts() -> None:
    turning, shifting = (
        {score.name: score for score in equivariance(made, 6)} for made in (network(1, True), network(3, False))
    )
    assert turning["eq-t-int"].value > 45 and turning["eq-r"].value > 35
    assert shifting["eq-t-int"].value > 45 and shifting["eq-r"].value < 25
    interval = turning["eq-r"].interval
    assert interval and interval[0] < turning["eq-r"].value < interval[1]
    with pytest.raises(ValueError, match="give a StyleGAN3"):
        equivariance(StyleGAN2(StyleGAN2Config(8, channel_base=32)))  # type: ignore[arg-type]


def test_the_path_length_grows_with_the_square_of_the_response() -> None:
    torch.manual_seed(1)
    made = StyleGAN2(StyleGAN2Config(32, z_dim=8, w_dim=16, channel_base=256, channel_max=16, mapping_layers=2))
    once = path_length(made, 24)
    assert once.value > 0 and once.counts["pairs"] == 24 and "[" in once.name
    with torch.no_grad():
        for layer in made.style_layers:
            if layer.kind == "conv":  # the picture depends on w through the colours alone: a shorter path
                made.synthesis.get_parameter(f"{layer.name}.affine.weight").zero_()
    assert path_length(made, 24).value < once.value
    assert STEP == 1e-4
