"""What systems exchange, and the files of it: who (Identity) and what happens (Motion).

`Codes` is what inversion makes of a picture or clip. Identity, Motion and Codes are saved as safetensors with a JSON
header; reading one never runs anything in it.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from fractions import Fraction
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from stylereel.core.files import replacing, require_file

VERSION = 1


@dataclass(frozen=True)
class Identity:
    """Who is shown.

    w: W+ code [L, D]; system: name of the system that made it; tensors: what else that system needs of the person;
    delta: how the generator was tuned to the person, {parameter: difference}, for `generator.tuned(delta)`.
    """

    w: Tensor
    system: str
    tensors: Mapping[str, Tensor] = field(default_factory=dict)
    delta: Mapping[str, Tensor] = field(default_factory=dict)

    def save(self, path: str | Path) -> None:
        """Write a safetensors file (replaced only when complete)."""
        tensors = {"w": self.w, **_prefixed("tensor.", self.tensors), **_prefixed("delta.", self.delta)}
        _save(path, "identity", tensors, {"system": self.system})

    @classmethod
    def load(cls, path: str | Path) -> Identity:
        """Read a file that `save` wrote. Raises ValueError when it is something else."""
        tensors, header = _load(path, "identity")
        return cls(tensors["w"], header["system"], _part("tensor.", tensors), _part("delta.", tensors))


@dataclass(frozen=True)
class Codes:
    """A picture (one frame) or the frames of a clip, inverted.

    w: W+ codes [T, L, D]; generator: SHA-256 of its weight file; rate: frames a second, 1 for a picture; placement:
    [T, 4], the crop of each frame in the source (see `stylereel.faces.placement`); features: {layer: [T, C, H, W]},
    maps that stand for what the generator makes of w; delta: how it was tuned to the frames, {parameter: difference}.
    """

    w: Tensor
    generator: str
    rate: Fraction
    placement: Tensor
    features: Mapping[str, Tensor] = field(default_factory=dict)
    delta: Mapping[str, Tensor] = field(default_factory=dict)

    def __len__(self) -> int:
        return len(self.w)

    def identity(self, system: str, frame: int = 0) -> Identity:
        """Who is shown, by one frame. Feature maps stay behind: they hold that frame's pose."""
        return Identity(self.w[frame], system, delta=self.delta)

    def save(self, path: str | Path) -> None:
        """Write a safetensors file (replaced only when complete)."""
        tensors = {"w": self.w, "placement": self.placement}
        tensors |= _prefixed("feature.", self.features) | _prefixed("delta.", self.delta)
        _save(path, "codes", tensors, {"generator": self.generator, "rate": str(self.rate)})

    @classmethod
    def load(cls, path: str | Path) -> Codes:
        """Read a file that `save` wrote. Raises ValueError when it is something else."""
        tensors, header = _load(path, "codes")
        extra = _part("feature.", tensors), _part("delta.", tensors)
        return cls(tensors["w"], header["generator"], Fraction(header["rate"]), tensors["placement"], *extra)


class MotionKind(NamedTuple):
    """In which coordinates a motion is given, and whether as differences from its first frame."""

    coordinates: str
    relative: bool = False

    def __str__(self) -> str:
        return f"{self.coordinates}, relative" if self.relative else self.coordinates


FACE = MotionKind("face")  # coefficients of a face: the world's motion factors
CODES = MotionKind("codes")  # W+ codes [L, D] in a row


@dataclass(frozen=True)
class Motion:
    """What happens, frame by frame.

    values: [T, K] float32 in the coordinates of `kind`, one column for each of `names`; rate: frames a second;
    placement: [T, 4] float32, the crop of each frame in the source clip (centre x, centre y, side, roll; pixels and
    degrees); missing: frames without a face, whose values were filled in; num_faces: the most faces seen in one frame.
    """

    values: np.ndarray
    kind: MotionKind
    names: tuple[str, ...]
    rate: Fraction
    placement: np.ndarray
    missing: tuple[int, ...] = ()
    num_faces: int = 1

    def __post_init__(self) -> None:
        if self.values.ndim != 2 or self.values.shape[1] != len(self.names):
            raise ValueError(f"Motion values must be [frames, {len(self.names)}], not {self.values.shape}.")
        if self.placement.shape != (len(self.values), 4):
            raise ValueError(f"A motion of {len(self.values)} frames needs as many placements of 4 numbers.")

    def __len__(self) -> int:
        return len(self.values)

    def column(self, name: str) -> np.ndarray:
        """The track [T] of one named value."""
        return self.values[:, self.names.index(name)]

    def part(self, first: int, last: int) -> Motion:
        """Frames `first` to before `last`; beyond either end the outermost frame is repeated."""
        index = np.arange(first, last).clip(0, len(self) - 1)
        missing = tuple(i for i, frame in enumerate(index.tolist()) if frame in self.missing)
        return replace(self, values=self.values[index], placement=self.placement[index], missing=missing)

    def save(self, path: str | Path) -> None:
        """Write a safetensors file (replaced only when complete)."""
        tensors = {
            "values": torch.from_numpy(np.ascontiguousarray(self.values, np.float32)),
            "placement": torch.from_numpy(np.ascontiguousarray(self.placement, np.float32)),
            "missing": torch.tensor(self.missing, dtype=torch.int64),
        }
        header = {"motion_kind": self.kind.coordinates, "names": json.dumps(self.names), "rate": str(self.rate)}
        header["relative"] = str(int(self.kind.relative))
        header["num_faces"] = str(self.num_faces)
        _save(path, "motion", tensors, header)

    @classmethod
    def load(cls, path: str | Path) -> Motion:
        """Read a file that `save` wrote. Raises ValueError when it is something else."""
        tensors, header = _load(path, "motion")
        name = header["motion_kind"]
        old = name.endswith(" changes")  # how version 0.1 said relative
        return cls(
            tensors["values"].numpy(),
            MotionKind(name.removesuffix(" changes"), old or header.get("relative") == "1"),
            tuple(json.loads(header["names"])),
            Fraction(header["rate"]),
            tensors["placement"].numpy(),
            tuple(int(i) for i in tensors["missing"]),
            int(header.get("num_faces", 1)),
        )


def _prefixed(prefix: str, tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    return {prefix + name: value for name, value in tensors.items()}


def _part(prefix: str, tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    return {name.removeprefix(prefix): value for name, value in tensors.items() if name.startswith(prefix)}


def _save(path: str | Path, kind: str, tensors: Mapping[str, Tensor], header: Mapping[str, str]) -> None:
    metadata = {"format": "stylereel", "version": str(VERSION), "kind": kind, **header}
    with replacing(path) as partial:
        save_file({name: value.detach().cpu().contiguous() for name, value in tensors.items()}, partial, metadata)


def _load(path: str | Path, kind: str) -> tuple[dict[str, Tensor], dict[str, Any]]:
    require_file(path)
    try:
        with safe_open(path, framework="pt") as file:
            header = file.metadata() or {}
            tensors = {name: file.get_tensor(name) for name in file.keys()}
    except SafetensorError as error:
        raise ValueError(f"{path} is not a stylereel file; give one that was saved as {kind}.") from error
    if header.get("format") != "stylereel" or header.get("kind") != kind:
        raise ValueError(f"{path} does not hold {kind}; give a file that was saved as {kind}.")
    if header.get("version") != str(VERSION):
        raise ValueError(f"{path} has version {header.get('version')}; this program reads version {VERSION}.")
    return tensors, header
