"""The contracts between a system and everything that uses it: what it offers, and what it hands to the generator.

Identities, motions and codes are on the CPU, whatever device a system is on; `apply` moves what it needs.

A system offers `identify` and `apply`; beyond that some of `extract` (Drives), `sample` (Samples) and `follow`
(Streams). It derives from nothing: having the members is enough. One line in `stylereel.systems` makes it known.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from fractions import Fraction
from pathlib import Path
from typing import Any, Literal, NamedTuple, Protocol, Self, runtime_checkable

import numpy as np
import torch
from torch import Tensor

from stylereel.core.latents import Codes, Identity, Motion, MotionKind

Source = int | np.ndarray | Codes | Identity  # who: a seed, an image uint8 [H, W, 3], codes, a saved identity


@dataclass(frozen=True)
class Frames:
    """The inputs of the generator for a chunk of B frames: style vectors or W+ codes, and what goes with them.

    Attributes:
        s: style vectors [B, C_l] of all layers, in their order; or
        w: W+ codes [B, L, D].
        transform: [3, 3] or [B, 3, 3], StyleGAN3's input transform.
        taps: feature maps [B, C, H, W] that replace the outputs of layers, by layer name.
        start: (layer, its output [B, C, H, W], image so far [B, 3, h, w] or None for black): nothing up to and
            including that layer is computed.
    """

    s: Sequence[Tensor] | None = None
    w: Tensor | None = None
    transform: Tensor | None = None
    taps: Mapping[str, Tensor] = field(default_factory=dict)
    start: tuple[str, Tensor, Tensor | None] | None = None

    def __post_init__(self) -> None:
        if (self.s is None) == (self.w is None):
            raise ValueError("Frames hold either style vectors or W+ codes, one of the two.")

    def __len__(self) -> int:
        return len(self.w) if self.w is not None else len(self.s[0]) if self.s else 0

    def synthesize(self, generator: Synthesizer, dtype: torch.dtype | None = None, stop: str | None = None) -> Tensor:
        """The images [B, 3, H, W] in about [-1, 1]; features in `dtype`, by default that of the weights. With `stop`
        the output of that layer."""
        given: dict[str, Any] = {"w": self.w, "s": self.s, "dtype": dtype}
        if stop is not None:
            given["stop"] = stop
        if self.taps:
            given["taps"] = {layer: _replacement(maps) for layer, maps in self.taps.items()}
        if self.start is not None:
            given["start"] = self.start
        if self.transform is not None:
            given["transform"] = self.transform
        return generator.synthesize(**given)


def _replacement(maps: Tensor) -> Callable[[Tensor], Tensor]:
    return lambda _: maps


class Synthesizer(Protocol):
    """What a system's generator offers; `stylereel.generator.base.Generator` is one."""

    num_ws: int
    resolution: int
    synthesize: Callable[..., Tensor]

    @property
    def mean_w(self) -> Tensor: ...
    def map(self, z: Tensor, c: Tensor | None = None, psi: float = 1.0, cutoff: int | None = None) -> Tensor: ...
    def styles(self, w: Tensor) -> list[Tensor]: ...
    def tuned(self, delta: Mapping[str, Tensor]) -> Self: ...


class Clip(Protocol):
    """An open clip: sized, iterates over uint8 [H, W, 3]; `stylereel.media.video.VideoReader` is one."""

    path: Path
    rate: Fraction
    num_frames: int

    @property
    def has_audio(self) -> bool: ...
    def __iter__(self) -> Iterator[np.ndarray]: ...


Driver = Clip | Codes | str | Path  # what `extract` measures; a name is opened as a clip


class Shot(NamedTuple):
    """What a camera gives: when, in seconds on a clock that never goes back, and an image uint8 [H, W, 3], or None
    while it has none to give."""

    time: float
    image: np.ndarray | None


class System(Protocol):
    """What every system has.

    Options of a verb are keyword-only arguments with defaults; the command line and the page make flags of them.
    """

    name: str
    weight_files: tuple[Path, ...]
    context: int  # frames before and after each that `apply` looks at: it is handed so many more at both ends

    @property
    def generator(self) -> Any: ...  # a Synthesizer; each system knows more of its own
    @property
    def motion_kinds(self) -> tuple[MotionKind, ...]: ...
    def to(self, device: torch.device | str) -> System:
        """Move all networks to a device; returns the system itself."""
        ...

    @property
    def identify(self) -> Callable[..., Identity]: ...  # (source, *, options) -> Identity
    @property
    def apply(self) -> Callable[..., Frames]: ...  # (identity, motion, *, options) -> Frames
    def portrait(self, identity: Identity) -> Frames:
        """The inputs of the generator that show an identity as it is: one frame."""
        ...


@runtime_checkable
class Drives(System, Protocol):
    """A system whose motion is read off a driver."""

    @property
    def extract(self) -> Callable[..., Motion]: ...  # (driver, *, options) -> Motion


@runtime_checkable
class Samples(System, Protocol):
    """A system that makes motion from noise."""

    @property
    def sample(self) -> Callable[..., tuple[Identity, Motion]]: ...  # (seed, num_frames, *, options)


@runtime_checkable
class Streams(System, Protocol):
    """A system that follows a driver frame by frame: causal, in bounded memory."""

    @property
    def follow(self) -> Callable[..., Iterator[Motion]]:
        """(shots: Iterable[Shot], rate: Fraction, *, options) -> a motion of one frame for each shot, at once.

        `rate` is about how many shots come in a second. The motion is `missing` where there is no face to follow.
        """
        ...


@runtime_checkable
class Poses(System, Protocol):
    """A system that shows people otherwise than by codes of their factors: a generator is tuned to what its networks
    make of those."""

    movers: tuple[str, ...]  # its attributes that hold networks which are tuned with the generator

    def posed(self, identity: Identity, motion: np.ndarray) -> Frames:
        """How an identity with `factors` looks with motion factors `motion` [B, M] that stay as they are;
        differentiable by the parameters of the generator and of the movers."""
        ...


class Spec(NamedTuple):
    """Where a system's parts are, as module:name, so that nothing is imported before it is used.

    system: its class, with `builtin()` and optionally `from_files(...)`. train: `train(trainer, given)` of
    `stylereel train NAME`. study: the function of `stylereel reproduce NAME`.
    """

    system: str
    train: str = ""
    study: str = ""


Device = Literal["auto", "cpu", "cuda", "mps"]


def choose_device(name: Device) -> torch.device:
    """The device of that name; auto takes a GPU if there is one. Raises ValueError if it is not there."""
    here = {"cuda": torch.cuda.is_available(), "mps": torch.backends.mps.is_available(), "cpu": True}
    chosen: str = next(device for device in here if here[device]) if name == "auto" else name
    if not here.get(chosen, False):
        raise ValueError(f"PyTorch finds no {chosen} device here; use --device cpu.")
    return torch.device(chosen)


def device_of(system: System) -> torch.device:
    """Where a system's generator is."""
    return system.generator.mean_w.device
