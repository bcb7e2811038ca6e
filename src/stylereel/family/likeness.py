"""The net that reads from a photograph who is to be drawn: hair, what is worn, age, features, and a map of regions.

It is trained on the world alone (`recipes.likeness`). Two views of a portrait in canonical framing: the whole of it at
128 px for hair, hats and regions, and its inner part at 96 px for what is fine, such as glasses and moustaches.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from stylereel.core.weights import config_of, load_module
from stylereel.family.nets import PARSED, SIZE, FaceNet, Parser, Residual, Trunk
from stylereel.world.factors import GROUP, NAMES
from stylereel.world.hair import STYLES

KIND = "likeness"
INPUT = 192  # pixels of the portraits that it takes
CLOSE_SIZE = 96  # pixels of the inner part
CLOSE = (0.22, 0.30, 0.56)  # its left and upper edge and its side, as parts of the image
# What is there or not, and what its factor must exceed to be drawn.
WORN = {"glasses": 0.5, "hat": 0.64, "beard": 0.3, "moustache": 0.3, "earring": 0.55, "glasses_tint": 0.6}
# What `hair.style` makes of the factors of hair, by its place in the table.
CUT = {"top": 0, "side": 1, "front": 4, "fall": 6, "spread": 7, "curls": 8, "bald": 10, "knot": 14, "wave": 15}


class Seen(NamedTuple):
    """What the net reads in images [B, ...].

    values: factors of shape and look in units of half their range around its middle [B, K]; styles: scores of the
    hair styles [B, 10]; worn: scores of `WORN` [B, 6], positive where it is there; cut: `CUT` [B, 9]; regions: scores
    of `PARSED` [B, R, 64, 64].
    """

    values: Tensor
    styles: Tensor
    worn: Tensor
    cut: Tensor
    regions: Tensor


@dataclass(frozen=True)
class LikenessConfig:
    """Names of the net's outputs, separated by spaces (styles by commas)."""

    values: str = " ".join(name for name in NAMES if GROUP[name] in ("shape", "look"))
    styles: str = ",".join(STYLES)
    worn: str = " ".join(WORN)
    cut: str = " ".join(CUT)
    regions: str = " ".join(PARSED)


class LikenessNet(nn.Module):
    """Portraits [B, 3, 192, 192] in [-1, 1] to what is `Seen`."""

    def __init__(self, config: LikenessConfig | None = None) -> None:
        super().__init__()
        self.config = config or LikenessConfig()
        self.trunk = Trunk()
        self.parser = Parser(len(self.config.regions.split()))
        self.stem = nn.Conv2d(3, 24, 5, 2, 2)
        self.close = nn.Sequential(
            Residual(24, 48, 2), Residual(48, 48, 1), Residual(48, 96, 2), Residual(96, 96, 1), Residual(96, 128, 2)
        )
        self.squeeze = nn.Conv2d(128, 32, 1)
        self.sizes = [
            len(self.config.values.split()),
            len(self.config.styles.split(",")),
            len(self.config.worn.split()),
            len(self.config.cut.split()),
        ]
        self.heads = nn.Linear(Trunk.features + 32 * 36, sum(self.sizes))
        # How far landmarks that the mesh, and dlib, read in the world are from the exact ones, in sides of the crop.
        self.offsets: Tensor
        self.register_buffer("offsets", torch.zeros(2, 68, 2))

    def start(self, face: FaceNet) -> None:
        """Take over what the face net has learned of the world."""
        self.trunk.load_state_dict(face.trunk.state_dict())
        if face.parser is not None and face.config.regions == self.config.regions:
            self.parser.load_state_dict(face.parser.state_dict())
        self.stem.load_state_dict(face.trunk.stem.state_dict())
        self.close.load_state_dict(face.trunk.blocks[:5].state_dict())
        nn.init.zeros_(self.heads.weight)
        nn.init.zeros_(self.heads.bias)

    def forward(self, images: Tensor) -> Seen:
        if images.shape[-1] != INPUT:
            images = F.interpolate(images, (INPUT, INPUT), mode="bilinear", antialias=True, align_corners=False)
        left, top, side = (round(part * INPUT) for part in CLOSE)
        inner = images[..., top : top + side, left : left + side]
        inner = F.interpolate(inner, (CLOSE_SIZE, CLOSE_SIZE), mode="bilinear", antialias=True, align_corners=False)
        whole = F.interpolate(images, (SIZE, SIZE), mode="bilinear", antialias=True, align_corners=False)
        maps = self.trunk.maps(whole)
        near = self.close(F.silu(self.stem(inner.contiguous(memory_format=torch.channels_last))))
        features = torch.cat([self.trunk.top(maps[-1]), F.silu(self.squeeze(near)).flatten(1)], 1)
        values, styles, worn, cut = self.heads(features).split(self.sizes, 1)
        return Seen(values, styles, worn, cut, self.parser(maps))


def load_likeness(path: str | Path) -> LikenessNet:
    """Read a likeness net's weight file, for use. Raises ValueError if the file is not one or does not fit."""
    net = load_module(path, KIND, lambda config: LikenessNet(config_of(LikenessConfig, config)))
    return net.eval().requires_grad_(False)
