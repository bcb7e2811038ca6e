"""HFGI: details that a code cannot hold, carried over from the image into a feature map of the generator.

Wang et al., "High-Fidelity GAN Inversion for Image Attribute Editing" (2022). The distortion map, the image minus
its plain inversion, is aligned to the (edited) inversion (section 3.3), encoded, and fused into the generator as a
scale and a shift of one feature map (section 3.2). Parameter names are those of the published files.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from stylereel.encoders.arcface import Bottleneck, stem
from stylereel.generator.base import Tap
from stylereel.generator.ops import activate

SIZE = 256  # pixels of the distortion map
LAYER = "b64.conv0"  # whose output is corrected: the first convolution at 64 px, StyleSpace index 11


class Correction(NamedTuple):
    """Scale and shift [B, C, 64, 64] of the feature map after the generator's layer `b64.conv0`."""

    scale: Tensor
    shift: Tensor

    def apply(self, features: Tensor) -> Tensor:
        """The corrected feature map: features (1 + scale) + shift."""
        return features * (1 + self.scale) + self.shift

    @property
    def taps(self) -> Mapping[str, Tap]:
        """What to give a generator's `synthesize` as taps."""
        return {LAYER: self.apply}


@dataclass(frozen=True)
class HFGIConfig:
    """channels: of the feature map that is corrected."""

    channels: int = 512


class HFGI(nn.Module):
    """Portraits and the images of their codes to the corrections of a feature map."""

    def __init__(self, config: HFGIConfig) -> None:
        super().__init__()
        self.config = config
        self.aligner = Aligner()
        self.encoder = ResidualEncoder(config.channels)

    def forward(self, images: Tensor, renders: Tensor, edited: Tensor | None = None) -> Correction:
        """Portraits [B, 3, 256, 256] and the images [B, 3, H, W] of their codes, both in [-1, 1].

        edited: the images of the edited codes, if the correction is for those.
        """
        renders = _resample(renders)
        edited = renders if edited is None else _resample(edited)
        return self.encoder(self.aligner(torch.cat([images - renders, edited], dim=1)))


def _resample(renders: Tensor) -> Tensor:
    """Images as the published networks saw them: clamped, and resampled without a filter."""
    return F.interpolate(renders.clamp(-1, 1), (SIZE, SIZE), mode="bilinear", align_corners=False)


class Aligner(nn.Module):
    """Distortion map and image [B, 6, H, W] to the distortion map [B, 3, H, W] that fits the image: a U-net."""

    def __init__(self) -> None:
        super().__init__()
        self.conv_layer1 = stem(6, 16)
        self.conv_layer2 = _blocks(16, 32, 32, 32, stride=2)
        self.conv_layer3 = _blocks(32, 48, 48, 48, stride=2)
        self.conv_layer4 = _blocks(48, 64, 64, 64, stride=2)
        self.dconv_layer1 = _blocks(64 + 48, 64, 32, 32)
        self.dconv_layer2 = _blocks(32 + 32, 32, 16, 16)
        self.dconv_layer3 = _blocks(16 + 16, 16, 3, 3)

    def forward(self, x: Tensor) -> Tensor:
        full = self.conv_layer1(x)
        half = self.conv_layer2(full)
        quarter = self.conv_layer3(half)
        x = self.conv_layer4(quarter)
        for layer, skip in ((self.dconv_layer1, quarter), (self.dconv_layer2, half), (self.dconv_layer3, full)):
            x = F.interpolate(x, skip.shape[-2:], mode="bilinear", align_corners=False)
            x = layer(torch.cat([x, skip], dim=1))
        return x


class ResidualEncoder(nn.Module):
    """An aligned distortion map [B, 3, 256, 256] to the correction of a feature map of 64 px."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.conv_layer1 = stem(3, 32)
        self.conv_layer2 = _blocks(32, 48, 48, 48, stride=2)
        self.conv_layer3 = _blocks(48, 64, 64, 64, stride=2)
        self.condition_scale3 = nn.Sequential(EqualConv(64, channels), Activation(), EqualConv(channels, channels))
        self.condition_shift3 = nn.Sequential(EqualConv(64, channels), Activation(), EqualConv(channels, channels))

    def forward(self, residual: Tensor) -> Correction:
        x = self.conv_layer3(self.conv_layer2(self.conv_layer1(residual)))
        return Correction(self.condition_scale3(x), self.condition_shift3(x))


def _blocks(*widths: int, stride: int = 1) -> nn.Sequential:
    """A block from each width to the next; the first has the stride."""
    first, *others = zip(widths, widths[1:])
    return nn.Sequential(Bottleneck(*first, stride), *(Bottleneck(*pair) for pair in others))


class EqualConv(nn.Module):
    """3x3 convolution whose weight is stored at unit scale and used times 1 / sqrt(9 I)."""

    def __init__(self, inputs: int, outputs: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.randn(outputs, inputs, 3, 3))
        self.bias = nn.Parameter(torch.zeros(outputs))

    def forward(self, x: Tensor) -> Tensor:
        return F.conv2d(x, self.weight / math.sqrt(self.weight[0].numel()), self.bias, padding=1)


class Activation(nn.Module):
    """StyleGAN2's leaky ReLU with its gain."""

    def forward(self, x: Tensor) -> Tensor:
        return activate(x)
