"""The one loop: identity and motion in, frames out, in chunks and constant memory."""

from __future__ import annotations

import copy
import warnings
from collections.abc import Iterator
from typing import Any, Literal

import numpy as np
import torch
from torch import Tensor

from stylereel.core.latents import Identity, Motion

Precision = Literal["32", "bf16"]


def pictures(images: Tensor) -> np.ndarray:
    """Images [B, 3, H, W] in [-1, 1] as uint8 [B, H, W, 3]."""
    return ((images.clamp(-1, 1) + 1) * 127.5).round().byte().permute(0, 2, 3, 1).cpu().numpy()


def tuned(system: Any, identity: Identity) -> Any:
    """The system with its generator tuned to the person, styles and pictures alike; itself if there is no tuning."""
    if not identity.delta:
        return system
    other = copy.copy(system)
    other.generator = system.generator.tuned(identity.delta)
    return other


class Render:
    """Frames of a motion shown by an identity: has a length, iterates over uint8 [H, W, 3], may begin anywhere."""

    def __init__(
        self,
        system: Any,
        identity: Identity,
        motion: Motion,
        chunk: int,
        precision: Precision,
        options: dict[str, Any],
    ) -> None:
        self.system, self.identity, self.motion = tuned(system, identity), identity, motion
        self.chunk, self.options = chunk, options
        self.dtype = None if precision == "32" else torch.bfloat16

    def __len__(self) -> int:
        return len(self.motion)

    def __iter__(self) -> Iterator[np.ndarray]:
        return self.start_at(0)

    def start_at(self, first: int) -> Iterator[np.ndarray]:
        """Frames from index `first` on; the same pictures that the whole run gives."""
        motion = self.motion
        for begin in range(first, len(motion), self.chunk):
            end = begin + self.chunk
            part = Motion(motion.values[begin:end], motion.kind, motion.names, motion.rate, motion.placement[begin:end])
            with torch.inference_mode():
                styles = self.system.apply(self.identity, part, **self.options)
                images = self.system.generator.synthesize(s=styles.s, dtype=self.dtype)
                if self.dtype is not None and not bool(images.isfinite().all()):
                    warnings.warn(
                        "Half precision gave pictures that are not finite; they are made again.", stacklevel=2
                    )
                    self.dtype = None
                    images = self.system.generator.synthesize(s=styles.s)
            yield from pictures(images)


def render(
    system: Any, identity: Identity, motion: Motion, chunk: int = 8, precision: Precision = "32", **options: Any
) -> Render:
    """Frames of `motion` shown by `identity`, `chunk` at a time.

    The chunk size changes speed and memory, not the pictures. Precision bf16 (features of the generator) is faster on
    processors that know it and changes pictures by less than the eye sees; where it fails, float32 takes over, with a
    warning. `options` go to the system's `apply`. Raises ValueError for a chunk below 1 or a motion of a kind that the
    system does not take.
    """
    if chunk < 1:
        raise ValueError(f"A chunk is 1 frame or more, not {chunk}.")
    if motion.kind not in system.motion_kinds:
        kinds = ", ".join(system.motion_kinds)
        raise ValueError(
            f"{system.name} takes motion of kind {kinds}, not {motion.kind}; extract it with {system.name}."
        )
    return Render(system, identity, motion, chunk, precision, options)
