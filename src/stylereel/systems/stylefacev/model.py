"""StyleFaceV's networks as small as the built-in StyleGAN3-R needs them; those of the authors are in `networks`.

A pose code is 16 numbers: the motion factors of the world that the generator knows (`NAMES`), in units of half their
range. Its roll, shift and scale are where the aligned head is in the frame: they make the generator's input transform,
and the fusion sees the other twelve. Axes: B samples, T frames, D width of w.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from stylereel.core.weights import config_of, load_module
from stylereel.family.nets import FaceOutput, Trunk
from stylereel.world.factors import HIGH, LOW, MOTION, MOTION_COLUMNS

KIND = "stylefacev"
NAMES = MOTION[:16]  # of a pose code: pose first, then the ten expressions that the built-in StyleGAN3 knows
SIZE = len(NAMES)
PLACE = [NAMES.index(name) for name in ("roll", "shift_x", "shift_y", "scale")]
SHOWN = [index for index in range(SIZE) if index not in PLACE]  # what the fusion sees
READING = 2 * 68 + len(MOTION)
_LOW, _HIGH = (torch.from_numpy(limit[MOTION_COLUMNS][:SIZE]) for limit in (LOW, HIGH))
# Brows and lids whose codes differ by less are taken for even: of one frame that is a trait of the face.
SIDES = tuple(
    (NAMES.index(f"{name}_left"), NAMES.index(f"{name}_right"), least)
    for name, least in (("brow", 0.15), ("blink", 0.2))
)
DROPPED = 0.1  # of the pose net's hidden numbers in training
RATE = 25  # frames a second of sampled motion
NOISE = 16
STARTS = 256  # poses at which samples begin


def to_code(values: Tensor) -> Tensor:
    """Motion factors [..., 16] in the world's units as pose codes."""
    low, high = _LOW.to(values), _HIGH.to(values)
    return (values - (low + high) / 2) / ((high - low) / 2)


def to_values(code: Tensor) -> Tensor:
    """Pose codes [..., 16] as motion factors in the world's units; the inverse of `to_code`."""
    low, high = _LOW.to(code), _HIGH.to(code)
    return (low + high) / 2 + (high - low) / 2 * code


def transforms(values: Tensor) -> Tensor:
    """StyleGAN3's input transforms [..., 3, 3] of motion factors [..., 16]: turn and scale about the middle of the
    image, then shift."""
    roll, x, y, scale = values[..., PLACE].double().unbind(-1)
    cosine, sine = scale * torch.deg2rad(roll).cos(), scale * torch.deg2rad(roll).sin()
    zero = torch.zeros_like(x)
    rows = (cosine, -sine, x), (sine, cosine, y), (zero, zero, zero + 1)
    return torch.stack([torch.stack(row, -1) for row in rows], -2)


def places(transform: Tensor) -> Tensor:
    """Roll (degrees), shift_x, shift_y (image widths) and scale [..., 4] of transforms; the inverse of `transforms`."""
    cosine, sine = transform[..., 0, 0], transform[..., 1, 0]
    roll, scale = torch.rad2deg(torch.atan2(sine, cosine)), torch.hypot(cosine, sine)
    return torch.stack([roll, transform[..., 0, 2], transform[..., 1, 2], scale], -1)


@dataclass(frozen=True)
class Config:
    """w_dim: of the generator; code: numbers of the appearance; hidden: of the fusion; memory: of the motion LSTM."""

    w_dim: int = 256
    code: int = 256
    hidden: int = 512
    memory: int = 128


class PoseNet(nn.Module):
    """What the frozen face net finds in an aligned crop to a pose code, whose place is that within the crop.

    Landmarks and the face net's own estimate of the motion, nothing of hair, skin or backdrop.
    """

    def __init__(self, hidden: int = 256) -> None:
        super().__init__()
        self.register_buffer("mean", torch.zeros(READING))
        self.register_buffer("deviation", torch.ones(READING))
        self.layers = nn.Sequential(
            nn.Linear(READING, hidden), nn.SiLU(), nn.Linear(hidden, hidden), nn.SiLU(), nn.Linear(hidden, SIZE)
        )
        self.mean: Tensor
        self.deviation: Tensor

    @staticmethod
    def reading(face: FaceOutput) -> Tensor:
        """The input [B, 156]."""
        return torch.cat([4 * (face.landmarks - 0.5).flatten(1), face.motion], 1).float()

    def own(self, reading: Tensor) -> Tensor:
        """The face net's estimates [B, 16], which the layers correct; the place begins at 0."""
        own = torch.zeros_like(reading[:, :SIZE])
        own[:, SHOWN] = reading[:, -len(MOTION) :][:, SHOWN]
        return own

    def hidden(self, reading: Tensor) -> Tensor:
        """What the last layer sees [B, H]."""
        x = (reading - self.mean) / self.deviation
        for layer in list(self.layers)[:-1]:
            x = layer(x)
            if isinstance(layer, nn.SiLU):
                x = F.dropout(x, DROPPED, self.training)
        return x

    def estimate(self, reading: Tensor) -> Tensor:
        """Pose codes [B, 16] before differences of sides are looked at."""
        return self.own(reading) + self.layers[-1](self.hidden(reading))

    def forward(self, reading: Tensor) -> Tensor:
        """Readings [B, 156] to pose codes [B, 16]."""
        code = self.estimate(reading).clone()
        for left, right, least in SIDES:
            middle, half = (code[:, left] + code[:, right]) / 2, (code[:, left] - code[:, right]) / 2
            half = F.softshrink(half, least / 2)
            code[:, left], code[:, right] = middle + half, middle - half
        return code


class AppearanceNet(nn.Module):
    """An aligned crop to the appearance code [B, C]."""

    def __init__(self, code: int) -> None:
        super().__init__()
        self.trunk = Trunk()
        self.hidden = nn.Linear(Trunk.features, Trunk.features)
        self.code = nn.Linear(Trunk.features, code)

    def forward(self, images: Tensor) -> Tensor:
        """Images [B, 3, H, W] in -1..1."""
        return self.of_features(self.trunk(images))

    def of_features(self, features: Tensor) -> Tensor:
        """The code of the trunk's features [B, 512]."""
        return self.code(features + F.silu(self.hidden(features)))


class Fusion(nn.Module):
    """Appearance and pose to w: the product of the one with what a network makes of the other."""

    def __init__(self, config: Config) -> None:
        super().__init__()
        hidden = config.hidden
        self.pose = nn.Sequential(nn.Linear(len(SHOWN), hidden // 2), nn.SiLU(), nn.Linear(hidden // 2, config.code))
        self.mix = nn.Sequential(
            nn.Linear(config.code, hidden), nn.SiLU(), nn.Linear(hidden, hidden), nn.SiLU(),
            nn.Linear(hidden, config.w_dim),
        )  # fmt: skip
        self.register_buffer("mean", torch.zeros(config.w_dim))
        self.register_buffer("deviation", torch.ones(config.w_dim))
        self.mean: Tensor
        self.deviation: Tensor

    def forward(self, appearance: Tensor, pose: Tensor) -> Tensor:
        """w [B, D] of appearance codes [B, C] and pose codes [B, 16]; one of the two B may be 1."""
        return self.mean + self.deviation * self.mix(appearance * self.pose(pose[:, SHOWN]))


State = tuple[Tensor, ...]  # of the motion: pose, the LSTM's h and c, and the pose after each stage of the low-pass


class PoseSampler(nn.Module):
    """A pose code to a sequence of them without end: what each frame adds comes from noise through an LSTM.

    The paper's, but the LSTM also sees the pose that it has reached, and each number has a largest step of its own:
    its sum over the frames would drift else, and a lid needs two frames to close. What comes out passes a low-pass of
    two equal poles, each number its own, since a sum of steps trembles. Codes are in units of the clips' deviation
    inside.
    """

    def __init__(self, memory: int) -> None:
        super().__init__()
        self.enc_cell, self.cell = nn.LSTMCell(SIZE, memory), nn.LSTMCell(NOISE + SIZE, memory)
        self.out = nn.Linear(memory, SIZE)
        self.fc1, self.fc2 = nn.Linear(2 * memory, 64), nn.Linear(64, NOISE)
        nn.init.normal_(self.out.weight, std=0.02)
        nn.init.zeros_(self.out.bias)
        for name, value in {"mean": 0.0, "deviation": 1.0, "step": 0.2, "glide": 0.0, "low": -5.0, "high": 5.0}.items():
            self.register_buffer(name, torch.full((SIZE,), value))
        self.register_buffer("starts", torch.zeros(STARTS, SIZE))
        self.mean: Tensor
        self.deviation: Tensor
        self.starts: Tensor  # poses of the clips, in units
        self.step: Tensor  # most that a number moves in a frame
        self.glide: Tensor  # the poles of the low-pass, 0 to 1
        self.low: Tensor  # the range of the clips
        self.high: Tensor

    def learn_statistics(self, codes: Tensor) -> None:
        """Units, steps and ranges of clips' codes [N, T, 16]; no low-pass."""
        flat = codes.flatten(0, 1)
        self.mean.copy_(flat.mean(0))
        self.deviation.copy_(flat.std(0).clamp_min(1e-3))
        self.glide.zero_()
        unit = self.units(codes)
        self.step.copy_(1.3 * unit.diff(dim=1).abs().flatten(0, 1).quantile(0.9995, 0).clamp_min(0.05))
        self.low.copy_(unit.flatten(0, 1).amin(0))
        self.high.copy_(unit.flatten(0, 1).amax(0))
        self.starts.copy_(unit.flatten(0, 1)[torch.linspace(0, len(flat) - 1, STARTS).long()])

    def units(self, codes: Tensor) -> Tensor:
        """Codes in the units in which motion is modelled."""
        return (codes - self.mean) / self.deviation

    def codes(self, units: Tensor) -> Tensor:
        """The inverse of `units`."""
        return self.mean + self.deviation * units

    def start(self, pose: Tensor) -> State:
        """The state at first poses [B, 16] in units."""
        return (pose, *self.enc_cell(pose), pose, pose)

    def go_on(self, state: State, noise: Tensor) -> tuple[Tensor, Tensor, State]:
        """The next poses [B, T, 16] in units for noise [B, T, 16], the noise predicted from the states, and the state
        at the end, from which the next call goes on."""
        (pose, h, c, once, twice), poses, memories = state, [], []
        for step in noise.unbind(1):
            h, c = self.cell(torch.cat([step, pose], 1), (h, c))
            pose = (pose + self.step * torch.tanh(self.out(h))).maximum(self.low).minimum(self.high)
            once = torch.lerp(pose, once, self.glide)
            twice = torch.lerp(once, twice, self.glide)
            poses.append(twice)
            memories.append(torch.cat([h, c], 1))
        end = (pose, h, c, once, twice)
        return torch.stack(poses, 1), self.fc2(F.relu(self.fc1(torch.stack(memories, 1)))), end

    def forward(self, pose: Tensor, noise: Tensor) -> tuple[Tensor, Tensor]:
        """Poses [B, T, 16] in units, the first [B, 16] given, for noise [B, T - 1, 16]; and the noise predicted."""
        poses, predicted, _ = self.go_on(self.start(pose), noise)
        return torch.cat([pose[:, None], poses], 1), predicted


class FacePoseNets(nn.Module):
    """All networks of the system beside the generator and the face net."""

    def __init__(self, config: Config | None = None) -> None:
        super().__init__()
        self.config = config or Config()
        self.pose = PoseNet()
        self.appearance = AppearanceNet(self.config.code)
        self.fusion = Fusion(self.config)
        self.motion = PoseSampler(self.config.memory)


def load_nets(path: str | Path) -> FacePoseNets:
    """The networks in a file that `stylereel train stylefacev` wrote. Raises ValueError if the file is not one."""

    def build(config: dict[str, Any]) -> FacePoseNets:
        return FacePoseNets(config_of(Config, config))

    return load_module(path, KIND, build).eval().requires_grad_(False)
