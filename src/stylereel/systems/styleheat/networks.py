"""The networks of StyleHEAT: motion or sound to a flow of the generator's 64 px feature map, and its calibration."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from stylereel.encoders.hfgi import Activation, Correction, EqualConv
from stylereel.generator.discriminator import EqualizedConv, ResidualSkip
from stylereel.generator.ops import BINOMIAL
from stylereel.systems.styleheat.flow import Grid, warp

SLOPE = 0.1  # of the leaky ReLUs here
FLOW_SIZE = 64  # pixels of the flow and of the feature map that it moves
BOTTOM = 8  # pixels of the hourglass's coarsest map
RADIUS = 13  # frames of motion to either side of the one that is shown
MEL_BANDS, MEL_COLUMNS = 80, 32  # of the window of sound: 0.4 s
SHORTEST = 25  # columns of a window that the mapping network can take
GUIDES, GUIDE_FLOW = 9, slice(6, 8)  # channels of a guide, see `guide.guide`, and those of its flow
UPPER = FLOW_SIZE // 2  # rows of the flow that the authors' code keeps sound from moving


@dataclass(frozen=True)
class WarperConfig:
    """A warper of images by windows of numbers; the defaults are the published video warper's.

    inputs: numbers a step of the window: 73, or 80 mel bands for sound. descriptor: numbers that the window becomes.
    size: pixels of the image. width, widest: channels of its first map and of the widest. hidden: of the networks that
    turn the descriptor into AdaIN's scales and shifts. grid: how a flow is applied, see `flow.warp`; "corners" is what
    the published weights have learned. places: the image comes with two more channels that say where each pixel is,
    -1..1 to the right and down; aligned faces turn about one place. guide: the image comes with a guide, too (see
    `guide`), and the flow is the guide's with a change; only for images of 64 px.
    """

    inputs: int = 73
    descriptor: int = 256
    size: int = 256
    width: int = 32
    widest: int = 256
    hidden: int = 128
    grid: Grid = "centres"
    places: bool = False
    guide: bool = False

    def channels(self, level: int) -> int:
        """Channels of the map of size / 2^level pixels."""
        return min(self.width << level, self.widest)

    @property
    def levels(self) -> int:
        """How often the image is halved."""
        return (self.size // BOTTOM).bit_length() - 1

    def __post_init__(self) -> None:
        if self.size < FLOW_SIZE or self.size & (self.size - 1):
            raise ValueError(f"A warper takes images of 64, 128, 256 ... pixels, not {self.size}.")
        if self.guide and self.size != FLOW_SIZE:
            raise ValueError(f"A warper with a guide takes images of {FLOW_SIZE} pixels, not {self.size}.")


class MappingNet(nn.Module):
    """A window of numbers [B, N, T], T at least 25, to a descriptor [B, D].

    Convolutions without padding: 27 frames become 21, 15, 9 and 3 steps, whose mean is the descriptor. The paper has
    three linear layers instead; this is the form of the published weights.
    """

    def __init__(self, inputs: int, descriptor: int) -> None:
        super().__init__()
        self.first = nn.Conv1d(inputs, descriptor, 7)
        self.blocks = nn.ModuleList(nn.Conv1d(descriptor, descriptor, 3, dilation=3) for _ in range(3))

    def forward(self, window: Tensor) -> Tensor:
        """Raises ValueError for a window that is too short or of another width."""
        inputs = self.first.in_channels
        if window.ndim != 3 or window.shape[1] != inputs or window.shape[2] < SHORTEST:
            raise ValueError(f"A window is [B, {inputs}, {SHORTEST} or more], not {list(window.shape)}.")
        x = self.first(window)
        for block in self.blocks:
            x = block(F.leaky_relu(x, SLOPE)) + x[:, :, 3:-3]
        return x.mean(2)


class AdaIN(nn.Module):
    """Instance normalisation with a scale and a shift that follow from a descriptor (Huang and Belongie 2017)."""

    def __init__(self, channels: int, descriptor: int, hidden: int) -> None:
        super().__init__()
        self.shared = nn.Linear(descriptor, hidden)
        self.gamma = nn.Linear(hidden, channels)
        self.beta = nn.Linear(hidden, channels)

    def forward(self, x: Tensor, descriptor: Tensor) -> Tensor:
        hidden = F.relu(self.shared(descriptor))
        gamma, beta = (layer(hidden)[:, :, None, None] for layer in (self.gamma, self.beta))
        return F.instance_norm(x) * (1 + gamma) + beta


class Down(nn.Module):
    """Feature map [B, I, H, W] to [B, O, H / 2, W / 2]."""

    def __init__(self, inputs: int, outputs: int, config: WarperConfig) -> None:
        super().__init__()
        self.conv_0 = nn.Conv2d(inputs, outputs, 4, 2, 1)
        self.conv_1 = nn.Conv2d(outputs, outputs, 3, 1, 1)
        self.norm_0 = AdaIN(inputs, config.descriptor, config.hidden)
        self.norm_1 = AdaIN(outputs, config.descriptor, config.hidden)

    def forward(self, x: Tensor, descriptor: Tensor) -> Tensor:
        x = self.conv_0(F.leaky_relu(self.norm_0(x, descriptor), SLOPE))
        return self.conv_1(F.leaky_relu(self.norm_1(x, descriptor), SLOPE))


class Up(nn.Module):
    """Feature map [B, I, H, W] to [B, O, 2 H, 2 W], around a shortcut."""

    def __init__(self, inputs: int, outputs: int, config: WarperConfig) -> None:
        super().__init__()
        self.conv_0 = nn.Conv2d(inputs, outputs, 3, 1, 1)
        self.conv_1 = nn.ConvTranspose2d(outputs, outputs, 3, 2, 1, 1)
        self.conv_s = nn.ConvTranspose2d(inputs, outputs, 3, 2, 1, 1)
        self.norm_0 = AdaIN(inputs, config.descriptor, config.hidden)
        self.norm_1 = AdaIN(outputs, config.descriptor, config.hidden)
        self.norm_s = AdaIN(inputs, config.descriptor, config.hidden)

    def forward(self, x: Tensor, descriptor: Tensor) -> Tensor:
        shortcut = self.conv_s(F.leaky_relu(self.norm_s(x, descriptor), SLOPE))
        x = self.conv_0(F.leaky_relu(self.norm_0(x, descriptor), SLOPE))
        return shortcut + self.conv_1(F.leaky_relu(self.norm_1(x, descriptor), SLOPE))


class Hourglass(nn.Module):
    """Image [B, 3, S, S] and descriptor [B, D] to features [B, C, 64, 64], with the encoder's maps next to them."""

    def __init__(self, config: WarperConfig) -> None:
        super().__init__()
        channels = [config.channels(level) for level in range(config.levels + 1)]
        self.places = config.places
        inputs = 3 + 2 * config.places + GUIDES * config.guide
        self.input_layer = nn.Conv2d(inputs, channels[0], 7, 1, 3)
        self.down = nn.ModuleList(Down(a, b, config) for a, b in zip(channels, channels[1:]))
        self.up = nn.ModuleList()
        inputs = channels[-1]
        for level in range(config.levels - 1, config.levels - 4, -1):
            self.up.append(Up(inputs, channels[level], config))
            inputs = 2 * channels[level]
        self.outputs = inputs

    def forward(self, image: Tensor, descriptor: Tensor) -> Tensor:
        if self.places:
            place = torch.linspace(-1, 1, image.shape[-1], device=image.device, dtype=image.dtype)
            x, y = torch.meshgrid(place, place, indexing="xy")
            image = torch.cat([image, torch.stack([x, y]).expand(len(image), -1, -1, -1)], dim=1)
        maps = [self.input_layer(image)]
        for block in self.down:
            maps.append(block(maps[-1], descriptor))
        x = maps.pop()
        for block in self.up:
            x = torch.cat([block(x, descriptor), maps.pop()], dim=1)
        return x


class LayerNorm(nn.Module):
    """Normalisation over channels and pixels of a sample, then a scale and a shift a channel."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.ones(channels, 1, 1))
        self.bias = nn.Parameter(torch.zeros(channels, 1, 1))

    def forward(self, x: Tensor) -> Tensor:
        return F.layer_norm(x, x.shape[1:]) * self.weight + self.bias


class Moved(NamedTuple):
    """What a warper says.

    flow: [B, 2, 64, 64], see `flow.warp`; descriptor: [B, D] of the window it follows.
    """

    flow: Tensor
    descriptor: Tensor


class Warper(nn.Module):
    """How an image has to move to show what a window says: the video warper for motion, the audio warper for sound."""

    def __init__(self, config: WarperConfig) -> None:
        super().__init__()
        self.config = config
        self.mapping = MappingNet(config.inputs, config.descriptor)
        self.hourglass = Hourglass(config)
        self.norm = LayerNorm(self.hourglass.outputs)
        self.flow = nn.Conv2d(self.hourglass.outputs, 2, 7, 1, 3)

    def forward(self, image: Tensor, window: Tensor, guide: Tensor | None = None) -> Moved:
        """Images [B, 3, S, S] in [-1, 1], windows [B, N, T] and, if it is led, guides [B, 9, 64, 64].

        Raises ValueError if one has another size or the guide is missing.
        """
        size = self.config.size
        if list(image.shape[1:]) != [3, size, size]:
            raise ValueError(f"This warper takes images [B, 3, {size}, {size}], not {list(image.shape)}.")
        descriptor = self.mapping(window)
        if self.config.guide:
            image = torch.cat([image, scaled(guide)], dim=1)
        features = self.norm(self.hourglass(image, descriptor))
        flow = self.flow(F.leaky_relu(features, SLOPE))
        return Moved(flow if guide is None or not self.config.guide else flow + guide[:, GUIDE_FLOW], descriptor)

    def warp(self, x: Tensor, flow: Tensor) -> Tensor:
        """The map x [B, C, H, W] moved by a flow of this warper."""
        return warp(x, flow, self.config.grid)


def scaled(guide: Tensor | None) -> Tensor:
    """A guide [B, 9, 64, 64] with its flow in units of 8 pixels, as networks take it. Raises ValueError without one."""
    if guide is None or list(guide.shape[1:]) != [GUIDES, FLOW_SIZE, FLOW_SIZE]:
        raise ValueError("This network is led by a guide of the mean head; give one.")
    units = guide.new_ones(GUIDES)
    units[GUIDE_FLOW] = 1 / BOTTOM
    return guide * units[:, None, None]


def lower_half(flow: Tensor) -> Tensor:
    """The flow [B, 2, 64, 64] of sound as the authors' code uses it: 0 in the upper half of the image."""
    rows = torch.arange(flow.shape[-2], device=flow.device) >= UPPER
    return flow * rows[:, None]


@dataclass(frozen=True)
class CalibrationConfig:
    """The defaults are those of the published weights.

    channels: of the feature map; width: of the network; descriptor: numbers of the motion that conditions it, 0 for
    none, which is the paper's form; heads: levels with a correction, counted from 64 px; only the first is used.
    guide: the features come with a guide, see `guide`. finest: the map of 64 px, too, reaches the heads directly.
    sound: numbers of the audio warper's descriptor, which then conditions it as well; 0 for none.
    """

    channels: int = 512
    width: int = 256
    descriptor: int = 256
    hidden: int = 128
    heads: int = 4
    guide: bool = False
    finest: bool = False
    sound: int = 0

    def __post_init__(self) -> None:
        if self.sound and not self.descriptor:
            raise ValueError("A calibration that follows sound also follows motion; give it a descriptor.")


class DownBlock(nn.Module):
    """Feature map [B, C, H, W] to [B, C, H / 2, W / 2]: StyleGAN2's residual block."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.conv0 = EqualizedConv(width, width, 3)
        self.conv1 = EqualizedConv(width, width, 3, down=BINOMIAL)
        self.skip = ResidualSkip(width, width, BINOMIAL)

    def forward(self, x: Tensor) -> Tensor:
        return self.conv1(self.conv0(x), gain=math.sqrt(0.5)) + self.skip(x)


class UpBlock(nn.Module):
    """Feature map [B, C, H, W] to [B, C, 2 H, 2 W], around a shortcut."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.conv1 = EqualizedConv(width, width, 3)
        self.conv2 = EqualizedConv(width, width, 3)
        self.skip = nn.Parameter(torch.randn(width, width, 1, 1))

    def forward(self, x: Tensor) -> Tensor:
        y = F.interpolate(self.conv1(x), scale_factor=2, mode="bilinear", align_corners=False)
        shortcut = F.interpolate(x, scale_factor=2, mode="bilinear", align_corners=False)
        gain = math.sqrt(0.5)
        return self.conv2(y, gain=gain) + F.conv2d(shortcut, self.skip * (gain / math.sqrt(self.skip.shape[1])))


class Injection(nn.Module):
    """Brings the descriptor into a feature map; what is added to is the map after the first convolution."""

    def __init__(self, config: CalibrationConfig) -> None:
        super().__init__()
        width = config.width
        self.conv1 = nn.Conv2d(width, width, 3, 1, 1)
        self.conv2 = nn.Conv2d(width, width, 3, 1, 1)
        self.norm1 = AdaIN(width, config.descriptor, config.hidden)
        self.norm2 = AdaIN(width, config.descriptor, config.hidden)

    def forward(self, x: Tensor, descriptor: Tensor) -> Tensor:
        x = F.leaky_relu(self.norm1(self.conv1(x), descriptor), 0.01)
        return self.norm2(self.conv2(x), descriptor) + x


class Calibration(nn.Module):
    """A warped feature map [B, C, 64, 64] to the scale and shift that repair it: a U-net down to 4 px."""

    def __init__(self, config: CalibrationConfig) -> None:
        super().__init__()
        self.config = config
        width, levels = config.width, 4
        self.first = EqualizedConv(config.channels + GUIDES * config.guide, width, 1)
        self.down = nn.ModuleList(DownBlock(width) for _ in range(levels))
        self.final = EqualizedConv(width, width, 3)
        self.up = nn.ModuleList(UpBlock(width) for _ in range(levels))
        if config.descriptor:
            self.linear = nn.ModuleList(nn.Linear(config.descriptor, config.descriptor) for _ in range(2))
            self.inject = nn.ModuleList(Injection(config) for _ in range(levels))
        if config.sound:
            self.sound = nn.Linear(config.sound, config.descriptor)
        self.scale = nn.ModuleList(self._head() for _ in range(config.heads))
        self.shift = nn.ModuleList(self._head() for _ in range(config.heads))

    def _head(self) -> nn.Sequential:
        width, channels = self.config.width, self.config.channels
        return nn.Sequential(EqualConv(width, width), Activation(), EqualConv(width, channels))

    def levels(
        self,
        features: Tensor,
        descriptor: Tensor | None = None,
        guide: Tensor | None = None,
        sound: Tensor | None = None,
    ) -> list[Correction]:
        """Corrections [B, C, n, n] of all heads, from coarse to fine, for features [B, C, 64, 64].

        Raises ValueError if the network wants a descriptor [B, D] of the motion or of the sound or a guide
        [B, 9, 64, 64] and gets none.
        """
        if self.config.descriptor and descriptor is None:
            raise ValueError("This calibration is conditioned on the motion; give its descriptor.")
        if self.config.sound and sound is None:
            raise ValueError("This calibration is conditioned on the sound; give its descriptor.")
        first = x = self.first(torch.cat([features, scaled(guide)], 1) if self.config.guide else features)
        skips: list[Tensor] = []
        for block in self.down:
            x = block(x)
            skips.append(x)
        x = self.final(x)
        if self.config.descriptor:
            if self.config.sound:
                descriptor = descriptor + self.sound(sound)
            descriptor = self.linear[1](F.leaky_relu(self.linear[0](descriptor), SLOPE))
        found: list[Correction] = []
        for level, block in enumerate(self.up):
            x = block(x + skips.pop())
            if self.config.descriptor:
                x = self.inject[level](x, descriptor)
            if self.config.finest and not skips:
                x = x + first
            head = level - (len(self.up) - self.config.heads)
            if head >= 0:
                found.append(Correction(self.scale[head](x), self.shift[head](x)))
        return found

    def forward(
        self,
        features: Tensor,
        descriptor: Tensor | None = None,
        guide: Tensor | None = None,
        sound: Tensor | None = None,
    ) -> Correction:
        """The correction of features [B, C, 64, 64]: features (1 + scale) + shift; see `levels`."""
        return self.levels(features, descriptor, guide, sound)[-1]
