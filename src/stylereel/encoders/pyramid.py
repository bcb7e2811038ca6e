"""The published encoders of portraits into W+: pSp, e4e and ReStyle, one network with a few settings.

- pSp: Richardson et al., "Encoding in Style" (2021). A head for each row of W+ looks at one of three levels of a
  feature pyramid (figure 2); simpler variants read everything off the last level (section 4.4).
- e4e: Tov et al., "Designing an Encoder for StyleGAN Image Manipulation" (2021). The first row is a w, the others
  are offsets from it, which are trained one after the other (section 5.1, progressive training).
- ReStyle: Alaluf et al., "ReStyle" (2021). The encoder sees the image and what the generator made of the code so
  far, and corrects the code in a few steps (equation 3); all heads look at the last level.

Parameter names are those of the published files.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Literal, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from stylereel.encoders.arcface import Backbone
from stylereel.encoders.hfgi import HFGI, Correction
from stylereel.generator import StyleGAN2, StyleGAN3
from stylereel.generator.ops import FullyConnected

SIZE = 256  # pixels of the images that the published encoders were trained on
LEVELS = ((3, 16), (7, 32))  # the pyramid: rows before 3 look at 16 px, before 7 at 32 px, the others at 64 px


@dataclass(frozen=True)
class StyleEncoderConfig:
    """The defaults are those of pSp for a 1024 px generator.

    rows: L of W+. heads: one a row on the "pyramid" or on the "last" level, or a single one for "w" or "w_plus".
    offsets: the rows are offsets from the first. channels: 3, or 6 for ReStyle. width: channels of the backbone's
    first stage. squeeze: squeeze and excitation. align_corners: how the pyramid's levels are up-sampled.
    """

    rows: int = 18
    w_dim: int = 512
    heads: Literal["pyramid", "last", "w", "w_plus"] = "pyramid"
    offsets: bool = False
    channels: int = 3
    width: int = 64
    squeeze: bool = True
    align_corners: bool = True


class Head(nn.Module):
    """A feature map [B, C, size, size] to one row of W+ [B, D], by convolutions of stride 2."""

    def __init__(self, inputs: int, outputs: int, size: int) -> None:
        super().__init__()
        self.convs = nn.Sequential()
        for i in range(int(math.log2(size))):
            self.convs.extend([nn.Conv2d(outputs if i else inputs, outputs, 3, 2, 1), nn.LeakyReLU(0.01)])
        self.linear = FullyConnected(outputs, outputs)

    def forward(self, x: Tensor) -> Tensor:
        return self.linear(self.convs(x).flatten(1))


class StyleEncoder(Backbone):
    """Portraits to W+ codes; `average` [L, D] is the code of the average face, to which the network adds."""

    def __init__(self, config: StyleEncoderConfig) -> None:
        super().__init__(config.channels, config.width, config.squeeze)
        self.config = config
        last = 8 * config.width
        self.register_buffer("average", torch.zeros(config.rows, config.w_dim))
        self.average: Tensor
        if config.heads in ("pyramid", "last"):
            sizes = [_size(row, config.heads) for row in range(config.rows)]
            self.styles = nn.ModuleList(Head(last, config.w_dim, size) for size in sizes)
        else:
            rows = config.rows if config.heads == "w_plus" else 1
            self.linear = FullyConnected(config.w_dim if config.heads == "w_plus" else last, rows * config.w_dim)
        if config.heads == "pyramid":
            self.latlayer1 = nn.Conv2d(last // 2, last, 1)
            self.latlayer2 = nn.Conv2d(last // 4, last, 1)
        if config.heads == "w_plus":
            self.output_layer_2 = nn.Sequential(
                nn.BatchNorm2d(last), nn.AdaptiveAvgPool2d(7), nn.Flatten(), nn.Linear(last * 49, config.w_dim)
            )

    def forward(self, images: Tensor, deltas: int | None = None, start: Tensor | None = None) -> Tensor:
        """Portraits [B, 3, 256, 256] in FFHQ framing, in [-1, 1], to W+ codes [B, L, D].

        ReStyle takes [B, 6, 256, 256], portrait and image so far.

        deltas: e4e's stage of progressive training, 0 to L - 1: so many rows after the first have an offset of
            their own, the others equal the first (plus the average); all by default.
        start: the codes [B, L, D] that the network adds to, by default the average.

        Raises ValueError for images with another number of channels, or deltas of an encoder without offsets.
        """
        config = self.config
        if images.ndim != 4 or images.shape[1] != config.channels:
            raise ValueError(f"Give this encoder images [B, {config.channels}, H, W], not {list(images.shape)}.")
        if deltas is not None and not config.offsets:
            raise ValueError("Only encoders whose rows are offsets (e4e) have progressive stages; leave deltas out.")
        return (self.average if start is None else start) + self._offsets(self.features(images), deltas)

    def _offsets(self, features: list[Tensor], deltas: int | None) -> Tensor:
        config = self.config
        fine, middle, coarse = features
        if config.heads == "w":
            return self.linear(coarse.mean(dim=(2, 3)))[:, None].expand(-1, config.rows, -1)
        if config.heads == "w_plus":
            return self.linear(self.output_layer_2(coarse)).view(-1, config.rows, config.w_dim)
        levels = {16: coarse}
        if config.heads == "pyramid":
            levels[32] = self._merge(coarse, self.latlayer1(middle))
            levels[64] = self._merge(levels[32], self.latlayer2(fine))
        used = config.rows if deltas is None else min(deltas + 1, config.rows)
        rows = [head(levels[_size(row, config.heads)]) for row, head in enumerate(self.styles[:used])]
        if config.offsets:
            rows = [rows[0], *(rows[0] + row for row in rows[1:]), *[rows[0]] * (config.rows - used)]
        return torch.stack(rows, dim=1)

    def _merge(self, coarse: Tensor, fine: Tensor) -> Tensor:
        size = fine.shape[-2:]
        return F.interpolate(coarse, size, mode="bilinear", align_corners=self.config.align_corners) + fine


def _size(row: int, heads: str) -> int:
    """Pixels of the level that the head of a row looks at, for images of 256 px."""
    return 16 if heads == "last" else next((size for end, size in LEVELS if row < end), 64)


class Inversion(NamedTuple):
    """W+ codes [B, L, D] and, with HFGI, what it adds to a feature map: `synthesize(codes, taps=correction.taps)`."""

    codes: Tensor
    correction: Correction | None


@torch.inference_mode()
def invert(
    encoder: StyleEncoder,
    images: Tensor,
    generator: StyleGAN2 | StyleGAN3 | None = None,
    hfgi: HFGI | None = None,
    steps: int = 5,
    noise: Literal["const", "none"] = "const",
) -> Inversion:
    """The codes of portraits [B, 3, H, W] in FFHQ framing, in [-1, 1]; other sizes than 256 px are resampled.

    generator: the one that the encoder belongs to; ReStyle and HFGI need it.
    steps: how often ReStyle corrects the codes; 5 as published (3 for StyleGAN3).
    noise: in the image that HFGI compares with; StyleHEAT's networks were trained without.

    Clone the results before they are optimised. Raises ValueError if a generator is needed and not given.
    """
    images = resampled(images)
    if encoder.config.channels == 3 and hfgi is None:
        return Inversion(encoder(images), None)
    if generator is None:
        raise ValueError("ReStyle and HFGI look at what the generator makes of a code; give the generator too.")
    if encoder.config.channels == 3:
        codes = encoder(images)
    else:
        if steps < 1:
            raise ValueError(f"ReStyle takes at least one step, not {steps}.")
        *_, codes = restyle(encoder, generator, images, steps)
    return Inversion(codes, hfgi and hfgi(images, generator.synthesize(codes, noise=noise)))


def resampled(images: Tensor) -> Tensor:
    """Portraits [B, 3, H, W] at the 256 px of the published encoders."""
    if images.shape[-2:] == (SIZE, SIZE):
        return images
    return F.interpolate(images, (SIZE, SIZE), mode="bilinear", antialias=True, align_corners=False)


def restyle(encoder: StyleEncoder, generator: StyleGAN2 | StyleGAN3, images: Tensor, steps: int) -> Iterator[Tensor]:
    """The codes [B, L, D] of portraits [B, 3, 256, 256] after each of ReStyle's steps, the first from the average."""
    codes = encoder.average[None]
    for _ in range(steps):
        renders = F.adaptive_avg_pool2d(generator.synthesize(codes), SIZE).expand(len(images), -1, -1, -1)
        codes = encoder(torch.cat([images, renders], dim=1), start=codes)
        yield codes
