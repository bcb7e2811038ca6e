"""What StyleHEAT moves: the generator's state at 64 px, and where the image goes on from it.

The state of the authors' code is the feature map after `b64.conv0`. StyleGAN2's image is a sum over resolutions, so
that what the blocks up to 32 px have added stays where it was when the feature map moves: a ghost of the source. Here
that image so far is part of the state, as three more channels, each pixel four times, and moves along. Which of the two
holds is known from the number of channels that the calibration takes.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import partial
from typing import Literal, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from stylereel.encoders.hfgi import LAYER, Correction
from stylereel.generator import StyleGAN2

SO_FAR = "b32.torgb"  # the layer whose output is the image so far
COLOURS = 3


class State(NamedTuple):
    """What the generator has made by 64 px.

    features: [B, C, 64, 64] after `b64.conv0`; so_far: the image so far [B, 3, 32, 32].
    """

    features: Tensor
    so_far: Tensor

    def joined(self) -> Tensor:
        """Both as one map [B, C + 3, 64, 64]."""
        so_far = F.interpolate(self.so_far, scale_factor=2, mode="nearest")
        return torch.cat([self.features, so_far.to(self.features.dtype)], dim=1)

    @property
    def taps(self) -> Mapping[str, Tensor]:
        """The outputs of layers that this state replaces."""
        return {LAYER: self.features, SO_FAR: self.so_far}


def split(joined: Tensor) -> State:
    """The state of a joined map [B, C + 3, 64, 64]."""
    return State(joined[:, :-COLOURS], F.avg_pool2d(joined[:, -COLOURS:], 2))


def read_state(
    generator: StyleGAN2, w: Tensor, correction: Correction | None = None, maps: Mapping[str, Tensor] | None = None
) -> State:
    """The state that W+ codes w [B, L, D] lead to, corrected by HFGI if there is a correction.

    maps: feature maps [B, C, H, W] that replace the outputs of layers up to `LAYER`, by name.

    Raises ValueError for a map of a later layer.
    """
    so_far: list[Tensor] = []
    taps: dict[str, Callable[[Tensor], Tensor | None]] = {SO_FAR: so_far.append}
    taps |= {layer: partial(_instead, each) for layer, each in (maps or {}).items()}
    features = generator.synthesize(w, taps=taps, stop=LAYER)
    return State(features if correction is None else correction.apply(features), so_far[0])


def _instead(replacement: Tensor, _: Tensor) -> Tensor:
    return replacement


def draw(
    generator: StyleGAN2,
    state: State,
    w: Tensor,
    noise: Literal["const", "none"] = "const",
    dtype: torch.dtype | None = None,
    stop: str | None = None,
) -> Tensor:
    """The images [B, 3, H, W] that the rest of the generator makes of a state, with the codes w [B, L, D].

    noise, dtype, stop: of `synthesize`.
    """
    return generator.synthesize(w, start=(LAYER, state.features, state.so_far), noise=noise, dtype=dtype, stop=stop)


def look(
    generator: StyleGAN2,
    state: State,
    w: Tensor,
    size: int,
    whole: bool = False,
    noise: Literal["const", "none"] = "const",
    dtype: torch.dtype | None = None,
) -> Tensor:
    """What a warper sees of a state: its images [B, 3, size, size] in [-1, 1].

    whole: the generator's full image, resampled without a filter as the authors' networks saw it; else the image so
    far at that size, which costs less and which the built-in generator was trained to show.
    """
    if whole or size > generator.resolution:
        images = draw(generator, state, w, noise, dtype).clamp(-1, 1)
        return F.interpolate(images, (size, size), mode="bilinear", align_corners=False)
    return draw(generator, state, w, noise, dtype, stop=f"b{size}.torgb").clamp(-1, 1)
