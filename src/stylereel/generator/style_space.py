"""The style space: the layers with a style vector, and the names of their channels.

Wu et al., "StyleSpace Analysis" (2021). The style vectors of all layers, one after the other, are one vector of S.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

LayerKey = int | str


@dataclass(frozen=True)
class StyleLayer:
    """One layer with a style vector.

    index: StyleSpace number; name: module name such as "b8.conv0" or "L3_52_512"; row: row of W+ that drives it;
    resolution: of its output in pixels, margins included; channels: length of its style vector (its input channels;
    4 for the "input" layer of StyleGAN3).
    """

    index: int
    name: str
    kind: Literal["input", "conv", "rgb"]
    row: int
    resolution: int
    channels: int


class StyleSpace:
    """The style vectors of a generator as one vector of `size` numbers, and the addresses of its channels.

    A channel is (layer, channel) with the layer's StyleSpace index or name, or one flat index.
    """

    def __init__(self, layers: Sequence[StyleLayer]) -> None:
        self.layers = tuple(layers)
        self.size = sum(layer.channels for layer in self.layers)

    def layer(self, key: LayerKey) -> StyleLayer:
        """The layer of an index or a name. Raises ValueError if there is none."""
        for layer in self.layers:
            if key in (layer.index, layer.name):
                return layer
        names = ", ".join(layer.name for layer in self.layers)
        raise ValueError(f"There is no layer {key!r}; choose an index below {len(self.layers)}, or {names}.")

    def flat_index(self, key: LayerKey, channel: int) -> int:
        """Index of a layer's channel in the flat vector. Raises ValueError if there is no such channel."""
        layer = self.layer(key)
        if not 0 <= channel < layer.channels:
            raise ValueError(f"There is no channel {channel} in {layer.name}; choose one below {layer.channels}.")
        return sum(before.channels for before in self.layers[: layer.index]) + channel

    def address(self, flat_index: int) -> tuple[StyleLayer, int]:
        """The layer and the channel in it of a place in the flat vector. Raises ValueError beyond its ends."""
        channel = flat_index
        for layer in self.layers:
            if 0 <= channel < layer.channels:
                return layer, channel
            channel -= layer.channels
        raise ValueError(f"There is no style channel {flat_index}; choose one below {self.size}.")

    def flatten(self, s: Sequence[Tensor]) -> Tensor:
        """Style vectors [B, C_l], one a layer, to [B, N]."""
        self.check(s)
        return torch.cat(list(s), dim=-1)

    def unflatten(self, flat: Tensor) -> list[Tensor]:
        """[B, N] to style vectors [B, C_l], one a layer. Raises ValueError for another N."""
        if flat.shape[-1] != self.size:
            raise ValueError(f"Give flat styles of {self.size} numbers, not {flat.shape[-1]}.")
        return list(flat.split([layer.channels for layer in self.layers], dim=-1))

    def scale_rgb(self, s: Sequence[Tensor]) -> list[Tensor]:
        """Style vectors as this package and NVIDIA's affine layers have them to those with the toRGB gain inside.

        The other family of files multiplies the vectors of "rgb" layers by 1 / sqrt(C_l), which is done in synthesis
        here. `unscale_rgb` is the way back.
        """
        self.check(s)
        gains = [1 / math.sqrt(layer.channels) if layer.kind == "rgb" else 1.0 for layer in self.layers]
        return [style * gain for style, gain in zip(s, gains, strict=True)]

    def unscale_rgb(self, s: Sequence[Tensor]) -> list[Tensor]:
        """Style vectors with the toRGB gain inside to those of this package; see `scale_rgb`."""
        self.check(s)
        gains = [math.sqrt(layer.channels) if layer.kind == "rgb" else 1.0 for layer in self.layers]
        return [style * gain for style, gain in zip(s, gains, strict=True)]

    def check(self, s: Sequence[Tensor]) -> None:
        """Raise ValueError unless s has one vector a layer, of its length."""
        expected = [layer.channels for layer in self.layers]
        found = [style.shape[-1] for style in s]
        if expected != found:
            raise ValueError(f"Give s as {len(expected)} style vectors of lengths {expected}, not {found}.")
