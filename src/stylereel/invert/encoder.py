"""The built-in encoder: a portrait in canonical framing to the W+ code of the built-in generator.

The generator's rows of W+ fall into groups (pose, shape, expression, look: see `stylereel.train.data`); the encoder
gives one w for each group and a small correction for each row, so that it can also leave the generator's own
distribution a little to match a picture, as encoders of the e4e kind do.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor, nn

from stylereel.faces.perception import Trunk


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

    def forward(self, images: Tensor) -> Tensor:
        features = self.trunk(images)
        features = features + nn.functional.silu(self.hidden(features))
        width = self.config.w_dim
        groups = self.groups(features).view(len(images), -1, width)
        rows = self.rows(features).view(len(images), -1, width)
        return self.mean + self.deviation * (groups[:, self.group_of_row] + 0.1 * rows)
