"""StyleGAN2 generator: z -> w -> W+ -> S -> image, readable and replaceable at every layer.

Karras et al., "Analyzing and Improving the Image Quality of StyleGAN" (2020). Parameter names are those of
NVIDIA's PyTorch files (ada family), so such a state dict loads without renaming once its constant
`resample_filter` entries are dropped. Layers are numbered as in StyleSpace (Wu et al., 2021).
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal, get_args

import torch
from torch import Tensor, nn

from stylereel.generator.base import Generator, Taps, apply_tap, resize_area
from stylereel.generator.cpu import fast
from stylereel.generator.ops import BINOMIAL, FilterTaps, FullyConnected, modulated_conv, pointwise, upsample
from stylereel.generator.style_space import LayerKey, StyleLayer

Architecture = Literal["orig", "skip", "resnet"]


def check_blocks(config: Any) -> None:
    """What the configs of generator and discriminator share. Raises ValueError for what no network has.

    Lists, which is what JSON has for tuples, become tuples.
    """
    if config.resolution < 8 or config.resolution & (config.resolution - 1):
        raise ValueError(f"The resolution must be a power of two of at least 8, not {config.resolution}.")
    if config.architecture not in get_args(Architecture):
        raise ValueError(f"The architecture must be 'orig', 'skip' or 'resnet', not {config.architecture!r}.")
    taps = tuple(float(tap) for tap in config.resample_filter)
    if not 1 <= len(taps) <= 64 or not math.isfinite(sum(taps)) or not sum(taps):
        raise ValueError("The filter of resampling must have 1 to 64 taps with a sum other than 0.")
    object.__setattr__(config, "resample_filter", taps)
    if config.widths is not None:
        object.__setattr__(config, "widths", tuple(config.widths))
        if len(config.widths) != config.resolution.bit_length() - 2:
            raise ValueError(f"Give one width for each block from 4 to {config.resolution} px.")


def channels(config: Any, resolution: int) -> int:
    """Channels of the features at a resolution in pixels, for generator and discriminator."""
    if config.widths is not None:
        return config.widths[resolution.bit_length() - 3]
    return min(config.channel_base // resolution, config.channel_max)


@dataclass(frozen=True)
class StyleGAN2Config:
    """Architecture of a StyleGAN2 generator; the defaults are those of the published 1024 px FFHQ network.

    resolution is a power of two in pixels. A block of r pixels has min(channel_base // r, channel_max) channels, or
    those that `widths` lists from 4 px up. conv_clamp bounds the activations (256 in networks trained in half
    precision). resample_filter: the taps of the filter of up-sampling. embed_features, layer_features: see
    `MappingNetwork`.
    """

    resolution: int
    z_dim: int = 512
    w_dim: int = 512
    c_dim: int = 0
    img_channels: int = 3
    channel_base: int = 32768
    channel_max: int = 512
    mapping_layers: int = 8
    mapping_learning_rate_multiplier: float = 0.01
    architecture: Architecture = "skip"
    conv_clamp: float | None = None
    embed_features: int | None = None
    layer_features: int | None = None
    use_noise: bool = True
    resample_filter: FilterTaps = BINOMIAL
    widths: tuple[int, ...] | None = None

    def __post_init__(self) -> None:
        check_blocks(self)

    def channels(self, resolution: int) -> int:
        """Channels of the features at a resolution in pixels."""
        return channels(self, resolution)

    @property
    def resolutions(self) -> tuple[int, ...]:
        """Block resolutions in pixels: 4, 8, ..., resolution."""
        return tuple(2**i for i in range(2, self.resolution.bit_length()))

    @property
    def num_ws(self) -> int:
        """Rows of W+."""
        return 2 * len(self.resolutions)


class SynthesisLayer(nn.Module):
    """Modulated 3x3 convolution with noise, bias and activation; `up` doubles the resolution."""

    def __init__(self, inputs: int, outputs: int, resolution: int, config: StyleGAN2Config, up: bool) -> None:
        super().__init__()
        self.up = up
        self.clamp = config.conv_clamp
        self.taps = config.resample_filter
        self.resolution = resolution
        self.affine = FullyConnected(config.w_dim, inputs, bias=1.0)
        self.weight = nn.Parameter(torch.randn(outputs, inputs, 3, 3))
        self.bias = nn.Parameter(torch.zeros(outputs))
        if config.use_noise:
            self.noise_strength = nn.Parameter(torch.zeros([]))
            self.register_buffer("noise_const", torch.randn(resolution, resolution))
        else:
            self.register_buffer("noise_strength", torch.zeros([]), persistent=False)
        self.noise_const: Tensor

    def forward(
        self, x: Tensor, style: Tensor, noise: Tensor | None, gain: float = 1.0, role: str | None = None
    ) -> Tensor:
        """`role` allows the result to be overwritten by the next layer of that role; None makes it the caller's."""
        arguments = (x, self.weight, style, self.bias, noise, self.noise_strength)
        work = self.weight.numel() * x.shape[2] * x.shape[3]
        if (not self.up or self.taps == BINOMIAL) and fast.takes(work, *arguments):
            return fast.modulated_conv(*arguments, self.up, gain, self.clamp, role)
        return modulated_conv(*arguments, self.up, gain, self.clamp, self.taps)


class ToRGB(nn.Module):
    """Modulated 1x1 convolution to colours, without demodulation."""

    def __init__(self, inputs: int, config: StyleGAN2Config) -> None:
        super().__init__()
        self.clamp = config.conv_clamp
        self.taps = config.resample_filter
        self.affine = FullyConnected(config.w_dim, inputs, bias=1.0)
        self.weight = nn.Parameter(torch.randn(config.img_channels, inputs, 1, 1))
        self.bias = nn.Parameter(torch.zeros(config.img_channels))

    def forward(self, x: Tensor, style: Tensor, before: Tensor | None = None) -> Tensor:
        """The colours of x, plus the image of the block before, up-sampled."""
        # The weight is small: scaling it for each sample saves a pass over the features.
        weight = self.weight.flatten(1) * (style / math.sqrt(x.shape[1]))[:, None]
        fits = before is None or self.taps == BINOMIAL
        if fits and fast.takes(9 * x[0].numel() * x.shape[1], x, weight, self.bias, before):
            return fast.colours(x, weight, self.bias, self.clamp, before)
        # Colours add up over all blocks, so they keep the precision of the weights.
        x = pointwise(x, weight.to(x.dtype)).to(weight.dtype) + self.bias[:, None, None]
        x = x if self.clamp is None else x.clamp(-self.clamp, self.clamp)
        return x if before is None else upsample(before, self.taps) + x


class ResidualSkip(nn.Module):
    """The resnet architecture's shortcut: 1x1 convolution, then up-sampling by 2."""

    def __init__(self, inputs: int, outputs: int, taps: FilterTaps) -> None:
        super().__init__()
        self.taps = taps
        self.weight = nn.Parameter(torch.randn(outputs, inputs, 1, 1))

    def forward(self, x: Tensor) -> Tensor:
        # sqrt(1/2) keeps the variance of the sum of the two branches.
        weight = self.weight.flatten(1) * math.sqrt(0.5 / x.shape[1])
        return upsample(pointwise(x, weight.to(x.dtype)), self.taps)


class StyleGAN2(Generator):
    """StyleGAN2 generator; see `Generator` for its attributes and for mapping, styles and files."""

    kind = "stylegan2"
    config_type = StyleGAN2Config

    def __init__(self, config: StyleGAN2Config) -> None:
        super().__init__(config)
        layers: list[StyleLayer] = []

        def add(block: nn.Module, name: str, module: nn.Module, resolution: int, row: int, channels: int) -> None:
            block.add_module(name, module)
            kind: Literal["conv", "rgb"] = "rgb" if name == "torgb" else "conv"
            layers.append(StyleLayer(len(layers), f"b{resolution}.{name}", kind, row, resolution, channels))

        for k, resolution in enumerate(config.resolutions):
            block = nn.Module()
            outputs = config.channels(resolution)
            if resolution == 4:
                block.const = nn.Parameter(torch.randn(outputs, 4, 4))
            else:
                inputs = config.channels(resolution // 2)
                if config.architecture == "resnet":
                    block.skip = ResidualSkip(inputs, outputs, config.resample_filter)
                conv0 = SynthesisLayer(inputs, outputs, resolution, config, up=True)
                add(block, "conv0", conv0, resolution, 2 * k - 1, inputs)
            conv1 = SynthesisLayer(outputs, outputs, resolution, config, up=False)
            add(block, "conv1", conv1, resolution, 2 * k, outputs)
            if config.architecture == "skip" or resolution == config.resolution:
                add(block, "torgb", ToRGB(outputs, config), resolution, 2 * k + 1, outputs)
            self.synthesis.add_module(f"b{resolution}", block)
        self.style_layers = tuple(layers)

    def synthesize(
        self,
        w: Tensor | None = None,
        s: Sequence[Tensor] | None = None,
        noise: Literal["const", "none", "random"] | Sequence[Tensor] = "const",
        taps: Taps | None = None,
        start: tuple[LayerKey, Tensor] | tuple[LayerKey, Tensor, Tensor | None] | None = None,
        stop: LayerKey | None = None,
        dtype: torch.dtype | None = None,
        resize: int | None = None,
    ) -> Tensor:
        """W+ codes w [B, L, D], or style vectors s as styles() gives them, to images [B, 3, H, W].

        Images are in about [-1, 1]. Layers are named by StyleSpace index or by name. The output of a "conv"
        layer is the feature map after its activation (with the resnet architecture, that of conv1 includes
        the shortcut); the output of an "rgb" layer is the image so far.

        noise: the stored maps, none, fresh ones, or one tensor [H, W] or [B, 1, H, W] per conv layer.
        taps: functions of the output of a layer, which may return another one to go on with.
        start: (layer, output of that conv layer, image so far) skips everything up to that layer; the image
            so far is the output of the last rgb layer before it, or None for black. Only the skip architecture
            has one.
        stop: return the output of this layer instead of the final image.
        dtype: precision of the features, by default that of the weights; images keep that of the weights.
        resize: average the final image over areas to this height and width in pixels.

        Raises ValueError for a layer that does not exist, shapes that do not fit, a start that cannot work,
        and taps or a stop that do not come after the start.
        """
        s = self._given_styles(w, s)
        self._check_resize(resize, stop)
        noises = self._noises(noise, batch=s[0].shape[0])

        x: Tensor | None = None
        image: Tensor | None = None
        residual: Tensor | None = None
        first = 0
        if start is not None:
            first, x, image = self._start(start)
        tap_at, last = self._stations(taps, stop, first)
        if x is None:
            x = self.synthesis.get_parameter("b4.const").expand(s[0].shape[0], -1, -1, -1)
        x = x.to(dtype or s[0].dtype, memory_format=torch.channels_last)

        for layer, style in zip(self.style_layers[first:], s[first:], strict=True):
            module = self._module(layer)
            # What a caller may keep gets memory of its own; so does the feature next to a tapped image, because the tap
            # may run this network.
            own = layer.index in tap_at or layer.index == last or layer.index + 1 in tap_at
            role = None if own else layer.name.partition(".")[2]
            if layer.kind == "rgb":
                output = image = module(x, style, image)
            elif self.config.architecture == "resnet" and layer.resolution > 4:
                if layer.name.endswith("conv0"):
                    residual = self.synthesis.get_submodule(f"b{layer.resolution}.skip")(x)
                    output = x = module(x, style, noises[layer.index], role=role)
                else:
                    assert residual is not None
                    output = x = module(x, style, noises[layer.index], math.sqrt(0.5), role) + residual
            else:
                output = x = module(x, style, noises[layer.index], role=role)
            if layer.index in tap_at:
                output = apply_tap(tap_at[layer.index], output)
                x, image = (x, output) if layer.kind == "rgb" else (output, image)
            if layer.index == last:
                return output
        assert image is not None
        return resize_area(image, resize)

    def _noises(self, noise: str | Sequence[Tensor], batch: int) -> dict[int, Tensor | None]:
        """Noise map per conv layer index, before its strength."""
        layers = [layer for layer in self.style_layers if layer.kind == "conv"]
        if not self.config.use_noise and not isinstance(noise, str):
            raise ValueError("This generator has no noise: leave the noise at 'const' or 'none'.")
        if noise == "none" or (noise in ("const", "random") and not self.config.use_noise):
            return {layer.index: None for layer in layers}
        if noise == "const":
            return {layer.index: self._module(layer).noise_const for layer in layers}
        if noise == "random":
            shapes = {layer.index: (batch, 1, layer.resolution, layer.resolution) for layer in layers}
            return {index: self.mean_w.new_empty(shape).normal_() for index, shape in shapes.items()}
        if isinstance(noise, str):
            raise ValueError(f"Noise must be 'const', 'none', 'random' or a list of tensors, not {noise!r}.")
        sizes = [layer.resolution for layer in layers]
        if [tuple(tensor.shape[-2:]) for tensor in noise] != [(size, size) for size in sizes]:
            raise ValueError(f"Give one square noise tensor per conv layer, of the sizes {sizes} in pixels.")
        return {layer.index: tensor for layer, tensor in zip(layers, noise, strict=True)}

    def _start(self, start: tuple[Any, ...]) -> tuple[int, Tensor, Tensor | None]:
        """Index of the first layer to run, feature and image to begin with."""
        layer, x = self._layer(start[0]), start[1]
        image = start[2] if len(start) > 2 else None
        size = layer.resolution
        if layer.kind == "rgb":
            raise ValueError(f"Start from a conv layer; {layer.name} is an rgb layer.")
        if list(x.shape[1:]) != [self.config.channels(size), size, size]:
            shape = f"[B, {self.config.channels(size)}, {size}, {size}]"
            raise ValueError(f"To start from {layer.name}, give a feature {shape}, not {list(x.shape)}.")
        architecture = self.config.architecture
        if architecture != "skip":
            if architecture == "resnet" and layer.name.endswith("conv0"):
                raise ValueError(f"Start from a conv1 layer; a resnet generator cannot from {layer.name}.")
            if image is not None:
                raise ValueError(
                    f"Start without an image; a generator of kind {architecture} makes it in its last layer."
                )
        elif len(start) < 3 and size > 4:
            source = f"b{size // 2}.torgb"
            raise ValueError(f"To start from {layer.name}, also give the output of {source} (or None for black).")
        elif image is not None and list(image.shape[1:]) != [self.config.img_channels, size // 2, size // 2]:
            raise ValueError(f"To start from {layer.name}, give the image so far at {size // 2} px.")
        return layer.index + 1, x, image
