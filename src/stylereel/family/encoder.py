"""The small encoder: a portrait in canonical framing to the W+ code of a generator, by offsets as e4e has them.

Tov et al., "Designing an Encoder for StyleGAN Image Manipulation" (2021): a w for all rows and an offset for each row
after the first, which training frees one after the other. The rows of the built-in generator fall into groups (pose,
shape, expression, look: see `stylereel.family.people`), each with a w of its own; any other has one group. Its trunk is
that of the face net; `pyramid`'s backbone costs 31 times as much a training image even at a quarter of its width.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from stylereel.core.weights import load_module
from stylereel.family.nets import Trunk


@dataclass(frozen=True)
class EncoderConfig:
    """Size of the code: first row of W+ of each group, number of rows, width of w."""

    first_rows: tuple[int, ...] = (0, 2, 4, 6)
    rows: int = 14
    w_dim: int = 256


class Encoder(nn.Module):
    """Images [B, 3, H, W] in [-1, 1] to W+ codes [B, L, D]."""

    def __init__(self, config: EncoderConfig) -> None:
        super().__init__()
        self.config = config
        self.trunk = Trunk()
        self.hidden = nn.Linear(Trunk.features, Trunk.features)
        self.groups = nn.Linear(Trunk.features, len(config.first_rows) * config.w_dim)
        self.rows = nn.Linear(Trunk.features, config.rows * config.w_dim)
        nn.init.zeros_(self.rows.weight)
        nn.init.zeros_(self.rows.bias)
        self.register_buffer("mean", torch.zeros(config.w_dim))
        self.register_buffer("deviation", torch.ones(config.w_dim))
        group = [max(i for i, first in enumerate(config.first_rows) if first <= row) for row in range(config.rows)]
        self.group_of_row = group
        self.mean: Tensor
        self.deviation: Tensor

    def forward(self, images: Tensor, deltas: int | None = None) -> Tensor:
        """deltas: e4e's stage: so many rows after the first differ from it, the others equal it; all by default."""
        features = self.trunk(images)
        features = features + nn.functional.silu(self.hidden(features))
        width = self.config.w_dim
        groups = self.groups(features).view(len(images), -1, width)
        rows = self.rows(features).view(len(images), -1, width)
        codes = groups[:, self.group_of_row] + 0.1 * rows
        if deltas is not None:
            codes = torch.cat([codes[:, : deltas + 1], codes[:, :1].expand(-1, self.config.rows - deltas - 1, -1)], 1)
        return self.mean + self.deviation * codes


def load_encoder(path: str | Path) -> Encoder:
    """Read an encoder's weight file. Raises ValueError if the file is not one or does not fit."""

    def build(config: dict[str, Any]) -> Encoder:
        return Encoder(EncoderConfig(tuple(config["first_rows"]), config["rows"], config["w_dim"]))

    return load_module(path, "encoder", build)
