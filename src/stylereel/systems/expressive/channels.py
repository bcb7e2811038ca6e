"""The facial code: 32 channels of S, what a unit of each is, and how a change of style becomes one of them alone.

A change d of all style vectors (from a rest to an expression) is replaced by a change of the 32 channels that shows
nearly the same image: the least squares solution under H, the products of the channels' derivatives of the image
within the regions of the face, each region in units of its natural changes (see `search`). So the code of a frame is
one matrix product, for any expression whose styles are known; `fit` refines it by the image itself.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from stylereel.core.weights import load_module
from stylereel.generator import StyleGAN2
from stylereel.generator.style_space import StyleSpace
from stylereel.systems.expressive.reader import Reader

KIND = "expressive"
COUNT = 32
REGIONS = ("mouth", "eyes", "brows", "pupils")
POSE = ("yaw", "pitch", "roll")


@dataclass(frozen=True)
class ChannelsConfig:
    """names: of the channels, separated by spaces: REGION_NUMBER, the strongest of a region first; size: of S;
    reader: widths of the networks that read motion off an image (see `reader`), none without."""

    names: str
    size: int
    reader: tuple[int, ...] = ()


class Channels(nn.Module):
    """Which channels, and their numbers, in units whose natural changes are equally visible.

    Buffers: place int64 [32], in the flat vector of S; unit [32], what 1 is; low, high [32], the range of natural
    expressions in units; matrix [32, N], from a change of S to the code; sensitivity [4, 32] by region, the published
    search's, for a change of one standard deviation.
    """

    def __init__(self, config: ChannelsConfig) -> None:
        super().__init__()
        self.config = config
        self.names = tuple(config.names.split())
        count = len(self.names)
        self.register_buffer("place", torch.zeros(count, dtype=torch.int64))
        for name, shape in {
            "unit": (count,),
            "low": (count,),
            "high": (count,),
            "matrix": (count, config.size),
        }.items():
            self.register_buffer(name, torch.zeros(shape))
        self.register_buffer("sensitivity", torch.zeros(len(REGIONS), count))
        self.reader = Reader(config.reader) if config.reader else None
        self.place: Tensor
        self.unit: Tensor
        self.low: Tensor
        self.high: Tensor
        self.matrix: Tensor
        self.sensitivity: Tensor

    @property
    def motion_names(self) -> tuple[str, ...]:
        """The 35 tracks."""
        return (*POSE, *self.names)

    def code(self, change: Tensor) -> Tensor:
        """The code [B, 32] of changes of S [B, N]."""
        return change @ self.matrix.T

    def apply_to(self, flat: Tensor, code: Tensor) -> Tensor:
        """S [B, N] with a code [B, 32] added."""
        return flat.index_add(1, self.place, code * self.unit)

    def region(self, index: int) -> str:
        """The region that a channel is named after."""
        return self.names[index].split("_")[0]

    def check(self, space: StyleSpace) -> None:
        """Raise ValueError unless the channels are of a generator with this style space."""
        if space.size != self.config.size:
            raise ValueError(
                f"These channels are of a generator with {self.config.size} style channels, not {space.size}; find "
                "those of yours by stylereel train expressive --generator FILE."
            )


def load_channels(path: str | Path, generator: StyleGAN2) -> Channels:
    """The channels in a file that `stylereel train expressive` wrote. Raises ValueError if they do not fit."""

    def build(config: dict[str, Any]) -> Channels:
        return Channels(ChannelsConfig(str(config["names"]), int(config["size"]), tuple(config.get("reader", ()))))

    channels = load_module(path, KIND, build)
    channels.check(generator.style_space)
    return channels.eval().requires_grad_(False)


def table(channels: Channels, space: StyleSpace) -> str:
    """A Markdown table of the channels."""
    head = ["channel", "layer", "number", "range", *REGIONS]
    lines = ["| " + " | ".join(head) + " |", "|" + "---|" * len(head)]
    for index, name in enumerate(channels.names):
        layer, channel = space.address(int(channels.place[index]))
        spread = f"{channels.low[index]:+.1f} .. {channels.high[index]:+.1f}"
        seen = [f"{value:.2f}" for value in channels.sensitivity[:, index].tolist()]
        lines.append("| " + " | ".join([name, layer.name, str(channel), spread, *seen]) + " |")
    return "\n".join(lines) + "\n"
