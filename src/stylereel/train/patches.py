"""Adversarial training on patches: a discriminator that judges texture, told what the patch should show.

Isola et al., "Image-to-Image Translation with Conditional Adversarial Networks" (2017): scores of overlapping patches,
given a condition. Wang et al., "High-Resolution Image Synthesis and Semantic Manipulation with Conditional GANs"
(2018), equation 4: matching the discriminator's features of an image and of its target. Miyato et al., "Spectral
Normalization for Generative Adversarial Networks" (2018): normalised weights and the hinge loss.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.utils.parametrizations import spectral_norm

CHANNELS = (24, 48, 64, 96)
COARSE = 8  # pixels that are averaged in the condition


class PatchOutput(NamedTuple):
    """Scores [B, 1, H/8, W/8] of overlapping patches, and the features of every layer."""

    scores: Tensor
    features: list[Tensor]


class PatchDiscriminator(nn.Module):
    """Scores of images [B, 3, H, W] whose target's coarse image [B, 3, H, W] is given; H and W multiples of 8."""

    def __init__(self, channels: tuple[int, int, int, int] = CHANNELS) -> None:
        super().__init__()
        first, second, third, fourth = channels
        self.layers = nn.ModuleList(
            spectral_norm(layer)
            for layer in (
                nn.Conv2d(6, first, 4, 2, 1),
                nn.Conv2d(first, second, 3, 1, 1),
                nn.Conv2d(second, third, 4, 2, 1),
                nn.Conv2d(third, third, 3, 1, 1),
                nn.Conv2d(third, fourth, 4, 2, 1),
                nn.Conv2d(fourth, fourth, 3, 1, 1),
            )
        )
        self.score = spectral_norm(nn.Conv2d(fourth, 1, 3, 1, 1))

    def forward(self, images: Tensor, coarse: Tensor) -> PatchOutput:
        x = torch.cat([images, coarse], 1).contiguous(memory_format=torch.channels_last)
        features: list[Tensor] = []
        for layer in self.layers:
            x = F.leaky_relu(layer(x), 0.2)
            features.append(x)
        return PatchOutput(self.score(x), features)


def coarse_of(images: Tensor) -> Tensor:
    """What an image [B, 3, H, W] shows roughly: means of COARSE x COARSE pixels, interpolated to its size."""
    return F.interpolate(F.avg_pool2d(images, COARSE), images.shape[-2:], mode="bilinear", align_corners=False)


def hinge_d_loss(real: Tensor, fake: Tensor) -> Tensor:
    """The discriminator's hinge loss, given its scores of real and of generated images."""
    return F.relu(1 - real.float()).mean() + F.relu(1 + fake.float()).mean()


def feature_loss(features: list[Tensor], target: list[Tensor]) -> Tensor:
    """Mean distance of features from those of the target, each layer in units of the target's mean size.

    The published loss has no such unit, and then a discriminator that grows makes the loss grow with it.
    """
    pairs = [(mine.float(), theirs.float()) for mine, theirs in zip(features, target, strict=True)]
    return torch.stack([(a - b).abs().mean() / b.abs().mean() for a, b in pairs]).mean()


def cut_patches(images: Tensor, places: list[tuple[int, int, int]], size: int) -> Tensor:
    """Patches [N, C, size, size] of images at places (number of the image, top, left)."""
    return torch.stack([images[k, :, top : top + size, left : left + size] for k, top, left in places])
