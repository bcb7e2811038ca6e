"""The one loop: identity and motion in, frames out, in chunks and constant memory."""

from __future__ import annotations

import copy
import warnings
from collections.abc import Iterator
from typing import Any, TypeVar

import numpy as np
import torch
from torch import Tensor

from stylereel.core.latents import Identity, Motion
from stylereel.core.precision import Precision, choose_precision
from stylereel.core.system import Frames, System, device_of
from stylereel.core.weights import changed

Some = TypeVar("Some", bound=System)


def pictures(images: Tensor) -> np.ndarray:
    """Images [B, 3, H, W] in [-1, 1] as uint8 [B, H, W, 3]."""
    return ((images.clamp(-1, 1) + 1) * 127.5).round().byte().permute(0, 2, 3, 1).cpu().numpy()


def tuned(system: Some, identity: Identity) -> Some:
    """The system with its generator tuned to the person, styles and images alike, with what was tuned next to it
    (`Poses.movers`), and with what learned from that (`StyleHEAT.heirs`); itself if there is no tuning.

    No system does this by itself: whoever renders does it once, before the first verb.
    """
    if not identity.delta:
        return system
    other: Any = copy.copy(system)
    generators = dict(identity.delta)
    heirs: dict[str, str] = getattr(system, "heirs", {})
    for mover in getattr(system, "movers", ()):
        names = [name for name in identity.delta if name.startswith(f"{mover}.")]
        change = {name.partition(".")[2]: generators.pop(name) for name in names}
        if change:
            setattr(other, mover, changed(getattr(system, mover), change))
        heir = getattr(system, heirs.get(mover, ""), None)
        if change and heir is not None:
            shapes = {name: parameter.shape for name, parameter in heir.named_parameters()}
            shared = {name: each for name, each in change.items() if shapes.get(name) == each.shape}
            setattr(other, heirs[mover], changed(heir, shared))
    other.generator = system.generator.tuned(generators)
    return other


def portrait(system: System, identity: Identity) -> np.ndarray:
    """The image uint8 [H, W, 3] of an identity as it is, with its tuning."""
    system = tuned(system, identity)
    with torch.inference_mode():
        return pictures(system.portrait(identity).synthesize(system.generator))[0]


class Render:
    """Frames of a motion shown by an identity: has a length, iterates over uint8 [H, W, 3], may begin anywhere."""

    def __init__(
        self,
        system: System,
        identity: Identity,
        motion: Motion,
        chunk: int,
        precision: Precision,
        options: dict[str, object],
    ) -> None:
        self.system, self.identity, self.motion = tuned(system, identity), identity, motion
        self.chunk, self.options = chunk, options
        self.dtype = None if choose_precision(precision, device_of(system)) == "32" else torch.bfloat16

    def __len__(self) -> int:
        return len(self.motion)

    def __iter__(self) -> Iterator[np.ndarray]:
        return self.start_at(0)

    def start_at(self, first: int) -> Iterator[np.ndarray]:
        """Frames from index `first` on; bit for bit those of the whole run.

        The chunks are those of the whole run, because a frame can depend on its neighbours in a chunk by rounding.
        """
        motion = self.motion
        for begin in range(first - first % self.chunk, len(motion), self.chunk):
            end, margin = min(begin + self.chunk, len(motion)), self.system.context
            part = motion.part(begin - margin, end + margin)
            images = self.draw(part)
            assert len(images) == end - begin, f"{self.system.name}: {end - begin} frames in, {len(images)} out"
            yield from images[max(0, first - begin) :]

    def draw(self, motion: Motion) -> np.ndarray:
        """Images uint8 [B, H, W, 3] of the frames of a motion, but the system's `context` at both ends."""
        with torch.inference_mode():
            frames: Frames = self.system.apply(self.identity, motion, **self.options)
            images = frames.synthesize(self.system.generator, self.dtype)
            if self.dtype is not None and not bool(images.isfinite().all()):
                warnings.warn(
                    "Half precision gave frames that are not finite; float32 renders them again.", stacklevel=2
                )
                images = frames.synthesize(self.system.generator)
            return pictures(images)


def render(
    system: System, identity: Identity, motion: Motion, chunk: int = 8, precision: Precision = "auto", **options: object
) -> Render:
    """Frames of `motion` shown by `identity`, `chunk` at a time.

    The chunk size changes speed and memory, not the frames. Precision bf16 (features of the generator) is faster on
    processors that support it and changes frames invisibly; where it fails, float32 takes over, with a warning.
    `options` go to the system's `apply`. Raises ValueError for a chunk below 1 or a motion of a kind that the system
    does not take.
    """
    if chunk < 1:
        raise ValueError(f"A chunk is 1 frame or more, not {chunk}.")
    if motion.kind not in system.motion_kinds:
        kinds = " or ".join(map(str, system.motion_kinds))
        raise ValueError(
            f"{system.name} takes motion of kind {kinds}, not {motion.kind}; extract it with {system.name}."
        )
    return Render(system, identity, motion, chunk, precision, options)
