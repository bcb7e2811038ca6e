"""StyleGAN2 discriminator, used only in training.

Karras et al., "Analyzing and Improving the Image Quality of StyleGAN" (2020); minibatch standard deviation
from Karras et al., "Progressive Growing of GANs" (2018). Parameter names are those of NVIDIA's PyTorch files
(ada family).
"""

import math
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from stylereel.generator.base import MappingNetwork
from stylereel.generator.ops import (
    ACTIVATION_GAIN,
    BINOMIAL,
    LEAKY_SLOPE,
    FilterTaps,
    FullyConnected,
    blur,
    downsample,
    pointwise,
)
from stylereel.generator.stylegan2 import Architecture, channels, check_blocks


@dataclass(frozen=True)
class DiscriminatorConfig:
    """Architecture of the discriminator; the defaults are those of the published 1024 px FFHQ network.

    A block of r pixels has min(channel_base // r, channel_max) channels, or those that `widths` lists from 4 px up.
    mbstd_group_size samples (None: the whole batch) share one set of mbstd_num_channels standard deviations. With
    c_dim > 0 the score is a projection on the label, mapped to cmap_dim numbers (by default as many as the last block
    has channels) by mapping_layers layers; embed_features, layer_features: see `MappingNetwork`. resample_filter: the
    taps of the filter of down-sampling.
    """

    resolution: int
    c_dim: int = 0
    img_channels: int = 3
    channel_base: int = 32768
    channel_max: int = 512
    mbstd_group_size: int | None = 4
    mbstd_num_channels: int = 1
    conv_clamp: float | None = None
    architecture: Architecture = "resnet"
    mapping_layers: int = 8
    mapping_learning_rate_multiplier: float = 0.01
    cmap_dim: int | None = None
    embed_features: int | None = None
    layer_features: int | None = None
    resample_filter: FilterTaps = BINOMIAL
    widths: tuple[int, ...] | None = None

    def __post_init__(self) -> None:
        check_blocks(self)
        if self.mbstd_group_size is not None and self.mbstd_group_size < 1:
            raise ValueError(f"A group of minibatch deviation has at least 1 sample, not {self.mbstd_group_size}.")
        if self.mbstd_num_channels < 0:
            raise ValueError(f"There can be no {self.mbstd_num_channels} channels of minibatch deviation.")

    def channels(self, resolution: int) -> int:
        """Channels of the features at a resolution in pixels."""
        return channels(self, resolution)


class EqualizedConv(nn.Module):
    """Convolution with equalised learning rate, bias and activation; `down`, the taps of a filter, halves the size."""

    def __init__(
        self, inputs: int, outputs: int, kernel: int, down: FilterTaps | None = None, clamp: float | None = None
    ) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.randn(outputs, inputs, kernel, kernel))
        self.bias = nn.Parameter(torch.zeros(outputs))
        self.down = down
        self.clamp = clamp

    def forward(self, x: Tensor, gain: float = 1.0) -> Tensor:
        total = ACTIVATION_GAIN * gain  # a leaky ReLU commutes with a positive factor
        weight = (self.weight * (total / math.sqrt(self.weight[0].numel()))).to(x.dtype)
        bias = (self.bias * total).to(x.dtype)
        if weight.shape[-1] == 1:
            x = F.leaky_relu(pointwise(x, weight.flatten(1), bias), LEAKY_SLOPE)
        elif self.down:
            x = blur(x, ((len(self.down) + 1) // 2, len(self.down) // 2), taps=self.down)
            x = F.leaky_relu(F.conv2d(x, weight, bias, stride=2), LEAKY_SLOPE, inplace=True)
        else:
            x = F.leaky_relu(F.conv2d(x, weight, bias, padding=1), LEAKY_SLOPE, inplace=True)
        return x if self.clamp is None else x.clamp(-self.clamp * gain, self.clamp * gain)


class ResidualSkip(nn.Module):
    """Shortcut of a residual block: down-sampling by 2, then a 1x1 convolution."""

    def __init__(self, inputs: int, outputs: int, taps: FilterTaps) -> None:
        super().__init__()
        self.taps = taps
        self.weight = nn.Parameter(torch.randn(outputs, inputs, 1, 1))

    def forward(self, x: Tensor) -> Tensor:
        weight = self.weight.flatten(1) * math.sqrt(0.5 / x.shape[1])
        return pointwise(downsample(x, self.taps), weight.to(x.dtype))


class DiscriminatorBlock(nn.Module):
    """Features [B, I, H, W] to [B, O, H/2, W/2]; with img_channels, the image of that size comes in, alone or added."""

    def __init__(
        self,
        inputs: int,
        outputs: int,
        img_channels: int,
        clamp: float | None,
        taps: FilterTaps = BINOMIAL,
        residual: bool = True,
    ) -> None:
        super().__init__()
        if img_channels:
            self.fromrgb = EqualizedConv(img_channels, inputs, 1, clamp=clamp)
        self.has_fromrgb = bool(img_channels)
        self.conv0 = EqualizedConv(inputs, inputs, 3, clamp=clamp)
        self.conv1 = EqualizedConv(inputs, outputs, 3, down=taps, clamp=clamp)
        self.residual = residual
        if residual:
            self.skip = ResidualSkip(inputs, outputs, taps)

    def forward(self, x: Tensor | None, image: Tensor | None = None) -> Tensor:
        if self.has_fromrgb:
            assert image is not None
            colours = self.fromrgb(image)
            x = colours if x is None else x + colours
        assert x is not None
        if not self.residual:
            return self.conv1(self.conv0(x))
        return self.conv1(self.conv0(x), gain=math.sqrt(0.5)) + self.skip(x)


def minibatch_stddev(x: Tensor, group_size: int | None, num_channels: int) -> Tensor:
    """Append to x [B, C, H, W] num_channels maps of the standard deviation over groups of samples.

    Sample n belongs to group n mod (B / G); None makes one group of the whole batch. Raises ValueError if the group
    size does not divide the batch.
    """
    if not num_channels:
        return x
    batch, channels, height, width = x.shape
    group = batch if group_size is None else min(group_size, batch)
    if batch % group:
        raise ValueError(f"Make the batch of {batch} a multiple of the discriminator's group size {group}.")
    grouped = x.reshape(group, batch // group, num_channels, channels // num_channels, height, width)
    deviation = (grouped.var(dim=0, correction=0) + 1e-8).sqrt().mean(dim=(2, 3, 4))
    maps = deviation[:, :, None, None].repeat(group, 1, height, width)
    return torch.cat([x, maps], dim=1)


class Epilogue(nn.Module):
    """Features [B, C, 4, 4] to scores [B, outputs]."""

    def __init__(self, channels: int, outputs: int, config: DiscriminatorConfig) -> None:
        super().__init__()
        self.group_size = config.mbstd_group_size
        self.num_channels = config.mbstd_num_channels
        self.has_fromrgb = config.architecture == "skip"
        if self.has_fromrgb:
            self.fromrgb = EqualizedConv(config.img_channels, channels, 1)
        self.conv = EqualizedConv(channels + self.num_channels, channels, 3, clamp=config.conv_clamp)
        self.fc = FullyConnected(channels * 16, channels, activation=True)
        self.out = FullyConnected(channels, outputs)

    def forward(self, x: Tensor, image: Tensor) -> Tensor:
        if self.has_fromrgb:
            x = x + self.fromrgb(image)
        x = self.conv(minibatch_stddev(x, self.group_size, self.num_channels))
        return self.out(self.fc(x.flatten(1)))


class Discriminator(nn.Module):
    """Images [B, 3, H, W] in [-1, 1] (and labels c [B, K]) to realness scores [B, 1]."""

    def __init__(self, config: DiscriminatorConfig) -> None:
        super().__init__()
        self.config = config
        self.resolutions = tuple(2**i for i in range(config.resolution.bit_length() - 1, 2, -1))
        for resolution in self.resolutions:
            image = config.architecture == "skip" or resolution == config.resolution
            block = DiscriminatorBlock(
                config.channels(resolution),
                config.channels(resolution // 2),
                config.img_channels if image else 0,
                config.conv_clamp,
                config.resample_filter,
                config.architecture == "resnet",
            )
            self.add_module(f"b{resolution}", block)
        width = config.channels(4)
        cmap_dim = width if config.cmap_dim is None else config.cmap_dim
        if config.c_dim:
            self.mapping = MappingNetwork(
                0,
                config.c_dim,
                cmap_dim,
                config.mapping_layers,
                config.mapping_learning_rate_multiplier,
                config.embed_features,
                config.layer_features,
                averaged=False,
            )
        self.b4 = Epilogue(width, cmap_dim if config.c_dim else 1, config)

    def forward(self, image: Tensor, c: Tensor | None = None, dtype: torch.dtype | None = None) -> Tensor:
        """dtype: precision of the features down to 8 px (by default that of the image).

        Raises ValueError if the batch is not a multiple of the group size, or if a label is missing.
        """
        x, size = None, image.to(dtype or image.dtype, memory_format=torch.channels_last)
        for resolution in self.resolutions:
            x = self.get_submodule(f"b{resolution}")(x, size)
            if self.config.architecture == "skip":
                size = downsample(size, self.config.resample_filter)
        assert x is not None
        x = self.b4(x.to(image.dtype), size.to(image.dtype))
        if not self.config.c_dim:
            return x
        projection = self.mapping(None, c)
        return (x * projection).sum(dim=1, keepdim=True) / math.sqrt(projection.shape[1])
