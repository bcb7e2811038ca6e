"""What systems exchange, and the files of it: who (Identity) and what happens (Motion).

`Codes` is what inversion finds for an image or clip. Identity, Motion and Codes are saved as safetensors with a JSON
header; reading one never runs anything in it.
"""

from __future__ import annotations

import json
import math
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from fractions import Fraction
from pathlib import Path
from typing import NamedTuple, TypeVar

import numpy as np
import torch
from scipy.interpolate import PchipInterpolator
from torch import Tensor

from stylereel.core.weights import HOSTILE, check_finite, read_header, read_tensors, write_tensors

VERSION = 1
AT_ONCE = 256  # frames interpolated at a time: of codes a thousand would take hundreds of megabytes

Saved = TypeVar("Saved", "Identity", "Codes", "Motion")


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

    def __post_init__(self) -> None:
        _check("identity", {"w": self.w, **self.tensors, **self.delta}, {"w": 2})

    def save(self, path: str | Path) -> None:
        """Write a safetensors file (replaced only when complete)."""
        tensors = {"w": self.w, **_prefixed("tensor.", self.tensors), **_prefixed("delta.", self.delta)}
        _save(path, "identity", tensors, {"system": self.system})

    @classmethod
    def load(cls, path: str | Path) -> Identity:
        """Read a file that `save` wrote. Raises ValueError when it is something else."""

        def build(tensors: dict[str, Tensor], header: dict[str, str]) -> Identity:
            return cls(tensors["w"], header["system"], _part("tensor.", tensors), _part("delta.", tensors))

        return _load(path, "identity", build)


@dataclass(frozen=True)
class Codes:
    """The latent codes of an image (one frame) or of the frames of a clip.

    w: W+ codes [T, L, D]; generator: SHA-256 of its weight file; rate: frames a second, 1 for an image; placement:
    [T, 4], the crop of each frame in the source (see `stylereel.faces.placement`); features: {layer: [T, C, H, W]},
    maps that replace those that the generator computes; delta: its tuning to the frames, {parameter: difference}.
    """

    w: Tensor
    generator: str
    rate: Fraction
    placement: Tensor
    features: Mapping[str, Tensor] = field(default_factory=dict)
    delta: Mapping[str, Tensor] = field(default_factory=dict)

    def __post_init__(self) -> None:
        axes = {"w": 3, "placement": 2}
        _check("codes", {"w": self.w, "placement": self.placement, **self.features, **self.delta}, axes)
        lengths = {len(value) for value in self.features.values()}
        if self.placement.shape != (len(self.w), 4) or lengths - {len(self.w)}:
            raise ValueError(f"Codes of {len(self.w)} frames need as many placements of 4 numbers, and feature maps.")
        if self.rate <= 0:
            raise ValueError(f"Codes need a positive frame rate, not {self.rate}.")

    def __len__(self) -> int:
        return len(self.w)

    def part(self, first: int, last: int) -> Codes:
        """Frames `first` to before `last`."""
        cut = slice(first, last)
        features = {layer: maps[cut] for layer, maps in self.features.items()}
        return replace(self, w=self.w[cut], placement=self.placement[cut], features=features)

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

        def build(tensors: dict[str, Tensor], header: dict[str, str]) -> Codes:
            extra = _part("feature.", tensors), _part("delta.", tensors)
            return cls(tensors["w"], header["generator"], parse_rate(header["rate"]), tensors["placement"], *extra)

        return _load(path, "codes", build)


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
    degrees); missing: frames without a face, whose values were filled in; num_faces: most faces in one frame;
    doubtful: frames of whose face a part is hidden or unsure, so that it was held; turned: degrees clockwise by which
    the face is turned in the clip (on its side or upside down), not part of the values.
    """

    values: np.ndarray
    kind: MotionKind
    names: tuple[str, ...]
    rate: Fraction
    placement: np.ndarray
    missing: tuple[int, ...] = ()
    num_faces: int = 1
    doubtful: tuple[int, ...] = ()
    turned: int = 0

    def __post_init__(self) -> None:
        if self.values.ndim != 2 or self.values.shape[1] != len(self.names):
            raise ValueError(f"Motion values must be [frames, {len(self.names)}], not {self.values.shape}.")
        if self.placement.shape != (len(self.values), 4):
            raise ValueError(f"A motion of {len(self.values)} frames needs as many placements of 4 numbers.")
        for name, array in (("values", self.values), ("placement", self.placement)):
            if array.dtype.kind not in "fiu" or not np.isfinite(array).all():
                raise ValueError(f"Motion has numbers in {name!r} that are not finite.")
        if self.rate <= 0 or self.num_faces < 0 or any(not 0 <= frame < len(self.values) for frame in self.missing):
            raise ValueError("A motion has a positive frame rate, and misses faces in frames of its own alone.")

    def __len__(self) -> int:
        return len(self.values)

    def column(self, name: str) -> np.ndarray:
        """The track [T] of one named value."""
        return self.values[:, self.names.index(name)]

    def part(self, first: int, last: int) -> Motion:
        """Frames `first` to before `last`; beyond either end the outermost frame is repeated."""
        index = np.arange(first, last).clip(0, len(self) - 1)
        missing, doubtful = (
            tuple(i for i, frame in enumerate(index.tolist()) if frame in frames)
            for frames in (self.missing, self.doubtful)
        )
        return replace(
            self, values=self.values[index], placement=self.placement[index], missing=missing, doubtful=doubtful
        )

    def at_rate(self, rate: Fraction) -> Motion:
        """The same motion with `rate` frames a second: new frame k shows what happens at k / rate seconds.

        Values and placements between frames are interpolated by monotone cubics (Fritsch and Carlson 1980, as in
        scipy's PCHIP), which pass through every frame and overshoot none: a lid does not open wider than it did.
        Frames begin before the end of the last, whose values hold to its end; rolls turn the shorter way. A new
        frame counts as missing or doubtful with the frame nearest to it.
        """
        if rate == self.rate:
            return self
        count = math.ceil(len(self) * rate / self.rate)
        place = np.array([float(k * self.rate / rate) for k in range(count)]).clip(0, len(self) - 1)
        nearest = np.floor(place + 0.5).astype(int).tolist()
        turned = self.placement.astype(np.float64)
        turned[:, 3] = np.unwrap(turned[:, 3], period=360)
        missing, doubtful = (
            tuple(k for k, frame in enumerate(nearest) if frame in frames)
            for frames in (set(self.missing), set(self.doubtful))
        )
        return replace(
            self,
            values=_between(self.values, place),
            placement=_between(turned, place),
            rate=rate,
            missing=missing,
            doubtful=doubtful,
        )

    def save(self, path: str | Path) -> None:
        """Write a safetensors file (replaced only when complete)."""
        tensors = {
            "values": torch.from_numpy(np.ascontiguousarray(self.values, np.float32)),
            "placement": torch.from_numpy(np.ascontiguousarray(self.placement, np.float32)),
            "missing": torch.tensor(self.missing, dtype=torch.int64),
            "doubtful": torch.tensor(self.doubtful, dtype=torch.int64),
        }
        header = {"motion_kind": self.kind.coordinates, "names": json.dumps(self.names), "rate": str(self.rate)}
        header["relative"] = str(int(self.kind.relative))
        header |= {"num_faces": str(self.num_faces), "turned": str(self.turned)}
        _save(path, "motion", tensors, header)

    @classmethod
    def load(cls, path: str | Path) -> Motion:
        """Read a file that `save` wrote. Raises ValueError when it is something else."""

        def build(tensors: dict[str, Tensor], header: dict[str, str]) -> Motion:
            name = header["motion_kind"]
            old = name.endswith(" changes")  # how version 0.1 said relative
            names = json.loads(header["names"])
            if not isinstance(names, list) or not all(isinstance(name, str) for name in names):
                raise ValueError("The names of its columns are no list of words.")
            missing, doubtful = tensors["missing"], tensors.get("doubtful", torch.empty(0, dtype=torch.int64))
            if any(frames.is_floating_point() or frames.ndim != 1 for frames in (missing, doubtful)):
                raise ValueError("The frames without a face, or with a doubtful one, are no list of numbers.")
            if not len(tensors["values"]):
                raise ValueError("It has no frames.")
            return cls(
                tensors["values"].numpy(),
                MotionKind(name.removesuffix(" changes"), old or header.get("relative") == "1"),
                tuple(names),
                parse_rate(header["rate"]),
                tensors["placement"].numpy(),
                tuple(int(i) for i in missing),
                int(header.get("num_faces", 1)),
                tuple(int(i) for i in doubtful),
                int(header.get("turned", 0)),
            )

        return _load(path, "motion", build)


def _between(values: np.ndarray, place: np.ndarray) -> np.ndarray:
    """Values [T, K] at places [N] between frames, rising, as float32 [N, K]."""
    if len(values) == 1:
        return values.repeat(len(place), axis=0).astype(np.float32)
    found = np.empty((len(place), values.shape[1]), np.float32)
    for begin in range(0, len(place), AT_ONCE):
        wanted = place[begin : begin + AT_ONCE]
        low, high = max(0, int(wanted[0]) - 2), min(len(values), int(wanted[-1]) + 4)  # a cubic sees two on each side
        found[begin : begin + AT_ONCE] = PchipInterpolator(np.arange(low, high), values[low:high])(wanted)
    return found


def _prefixed(prefix: str, tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    return {prefix + name: value for name, value in tensors.items()}


def _part(prefix: str, tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    return {name.removeprefix(prefix): value for name, value in tensors.items() if name.startswith(prefix)}


def _save(path: str | Path, kind: str, tensors: Mapping[str, Tensor], header: Mapping[str, str]) -> None:
    write_tensors(path, tensors, {"version": str(VERSION), "kind": kind, **header})


def _load(path: str | Path, kind: str, build: Callable[[dict[str, Tensor], dict[str, str]], Saved]) -> Saved:
    """What `build` makes of tensors and header. Raises ValueError, which names the file, for whatever it raises."""
    header = read_header(path)
    if header.get("kind") != kind:
        raise ValueError(f"{path} does not hold {kind}; give a file that was saved as {kind}.")
    if header.get("version") != str(VERSION):
        raise ValueError(f"{path} has version {header.get('version')!r:.40}; this program reads version {VERSION}.")
    tensors, header = read_tensors(path)
    try:
        return build(tensors, header)
    except KeyError as error:
        raise ValueError(f"{path} lacks {error.args[0]!r:.80}; get a complete copy.") from error
    except HOSTILE as error:
        raise ValueError(f"{path} does not hold {kind} as it should: {str(error)[:200]}") from error


def parse_rate(text: str) -> Fraction:
    """A frame rate as files have it, 25 or 30000/1001. Raises ValueError for other forms, which can be endless."""
    if not re.fullmatch(r"[1-9]\d{0,14}(/[1-9]\d{0,14})?", text):
        raise ValueError(f"{text[:40]!r} is no frame rate.")
    return Fraction(text)


def _check(what: str, tensors: Mapping[str, Tensor], axes: Mapping[str, int]) -> None:
    """Raise ValueError unless all numbers are finite, and those named are fractions with so many axes, none empty."""
    for name, count in axes.items():
        value = tensors[name]
        if not value.is_floating_point() or value.ndim != count or not value.numel():
            raise ValueError(f"The {name} of {what} must be fractions with {count} axes, not {list(value.shape)}.")
    check_finite(what, tensors)
