"""StyleGAN2 discriminator (resnet architecture), used only in training.

Karras et al., "Analyzing and Improving the Image Quality of StyleGAN" (2020); minibatch standard deviation
from Karras et al., "Progressive Growing of GANs" (2018). Parameter names are those of NVIDIA's PyTorch files
(ada family).
"""

import math
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from stylereel.generator.ops import (
    ACTIVATION_GAIN,
    LEAKY_SLOPE,
    FullyConnected,
    blur,
    downsample,
    normalize_second_moment,
    pointwise,
)


@dataclass(frozen=True)
class DiscriminatorConfig:
    """Architecture of the discriminator; the defaults are those of the published 1024 px FFHQ network.

    A block of r pixels has min(channel_base / r, channel_max) channels. mbstd_group_size samples share one
    set of mbstd_num_channels standard deviations. With c_dim > 0 the score is a projection on the embedded
    label.
    """

    resolution: int
    c_dim: int = 0
    img_channels: int = 3
    channel_base: int = 32768
    channel_max: int = 512
    mbstd_group_size: int = 4
    mbstd_num_channels: int = 1
    conv_clamp: float | None = None

    def __post_init__(self) -> None:
        if self.resolution < 8 or self.resolution & (self.resolution - 1):
            raise ValueError(f"The resolution must be a power of two of at least 8, not {self.resolution}.")

    def channels(self, resolution: int) -> int:
        """Channels of the features at a resolution in pixels."""
        return min(self.channel_base // resolution, self.channel_max)


class EqualizedConv(nn.Module):
    """Convolution with equalised learning rate, bias and activation; `down` halves the resolution."""

    def __init__(self, inputs: int, outputs: int, kernel: int, down: bool = False, clamp: float | None = None) -> None:
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
            x = F.leaky_relu(F.conv2d(blur(x, padding=2), weight, bias, stride=2), LEAKY_SLOPE, inplace=True)
        else:
            x = F.leaky_relu(F.conv2d(x, weight, bias, padding=1), LEAKY_SLOPE, inplace=True)
        return x if self.clamp is None else x.clamp(-self.clamp * gain, self.clamp * gain)


class ResidualSkip(nn.Module):
    """Shortcut of a residual block: down-sampling by 2, then a 1x1 convolution."""

    def __init__(self, inputs: int, outputs: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.randn(outputs, inputs, 1, 1))

    def forward(self, x: Tensor) -> Tensor:
        weight = self.weight.flatten(1) * math.sqrt(0.5 / x.shape[1])
        return pointwise(downsample(x), weight.to(x.dtype))


class DiscriminatorBlock(nn.Module):
    """Residual block: features [B, I, H, W] to [B, O, H/2, W/2]."""

    def __init__(self, inputs: int, outputs: int, img_channels: int, clamp: float | None) -> None:
        super().__init__()
        if img_channels:
            self.fromrgb = EqualizedConv(img_channels, inputs, 1, clamp=clamp)
        self.has_fromrgb = bool(img_channels)
        self.conv0 = EqualizedConv(inputs, inputs, 3, clamp=clamp)
        self.conv1 = EqualizedConv(inputs, outputs, 3, down=True, clamp=clamp)
        self.skip = ResidualSkip(inputs, outputs)

    def forward(self, x: Tensor) -> Tensor:
        if self.has_fromrgb:
            x = self.fromrgb(x)
        return self.conv1(self.conv0(x), gain=math.sqrt(0.5)) + self.skip(x)


def minibatch_stddev(x: Tensor, group_size: int, num_channels: int) -> Tensor:
    """Append to x [B, C, H, W] num_channels maps of the standard deviation over groups of samples.

    Sample n belongs to group n mod (B / G). Raises ValueError if the group size does not divide the batch.
    """
    batch, channels, height, width = x.shape
    group = min(group_size, batch)
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
        self.conv = EqualizedConv(channels + self.num_channels, channels, 3, clamp=config.conv_clamp)
        self.fc = FullyConnected(channels * 16, channels, activation=True)
        self.out = FullyConnected(channels, outputs)

    def forward(self, x: Tensor) -> Tensor:
        x = self.conv(minibatch_stddev(x, self.group_size, self.num_channels))
        return self.out(self.fc(x.flatten(1)))


class LabelMapping(nn.Module):
    """Label c [B, K] to the vector [B, D] that the score is projected on."""

    def __init__(self, c_dim: int, width: int) -> None:
        super().__init__()
        self.embed = FullyConnected(c_dim, width)
        for i in range(8):
            self.add_module(f"fc{i}", FullyConnected(width, width, multiplier=0.01, activation=True))

    def forward(self, c: Tensor) -> Tensor:
        x = normalize_second_moment(self.embed(c))
        for i in range(8):
            x = self.get_submodule(f"fc{i}")(x)
        return x


class Discriminator(nn.Module):
    """Images [B, 3, H, W] in [-1, 1] (and labels c [B, K]) to realness scores [B, 1]."""

    def __init__(self, config: DiscriminatorConfig) -> None:
        super().__init__()
        self.config = config
        self.resolutions = tuple(2**i for i in range(config.resolution.bit_length() - 1, 2, -1))
        for resolution in self.resolutions:
            img_channels = config.img_channels if resolution == config.resolution else 0
            inputs, outputs = config.channels(resolution), config.channels(resolution // 2)
            self.add_module(f"b{resolution}", DiscriminatorBlock(inputs, outputs, img_channels, config.conv_clamp))
        width = config.channels(4)
        if config.c_dim:
            self.mapping = LabelMapping(config.c_dim, width)
        self.b4 = Epilogue(width, width if config.c_dim else 1, config)

    def forward(self, image: Tensor, c: Tensor | None = None, dtype: torch.dtype | None = None) -> Tensor:
        """dtype: precision of the features down to 8 px (by default that of the image).

        Raises ValueError if the batch is not a multiple of the group size, or if a label is missing.
        """
        x = image.to(dtype or image.dtype, memory_format=torch.channels_last)
        for resolution in self.resolutions:
            x = self.get_submodule(f"b{resolution}")(x)
        x = self.b4(x.to(image.dtype))
        if not self.config.c_dim:
            return x
        if c is None:
            raise ValueError(f"Give c as a tensor [B, {self.config.c_dim}]; this discriminator is conditional.")
        projection = self.mapping(c)
        return (x * projection).sum(dim=1, keepdim=True) / math.sqrt(projection.shape[1])
