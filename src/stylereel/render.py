"""The one loop: identity and motion in, frames out, in chunks and constant memory."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np
import torch
from torch import Tensor

from stylereel.latents import Identity, Motion


def pictures(images: Tensor) -> np.ndarray:
    """Images [B, 3, H, W] in [-1, 1] as uint8 [B, H, W, 3]."""
    return ((images.clamp(-1, 1) + 1) * 127.5).round().byte().permute(0, 2, 3, 1).cpu().numpy()


class Render:
    """Frames of a motion shown by an identity: has a length, iterates over uint8 [H, W, 3], may begin anywhere."""

    def __init__(self, system: Any, identity: Identity, motion: Motion, chunk: int, options: dict[str, Any]) -> None:
        self.system, self.identity, self.motion, self.chunk, self.options = system, identity, motion, chunk, options

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
                images = self.system.generator.synthesize(s=styles.s)
            yield from pictures(images)


def render(system: Any, identity: Identity, motion: Motion, chunk: int = 8, **options: Any) -> Render:
    """Frames of `motion` shown by `identity`, `chunk` at a time.

    The chunk size changes speed and memory, not the pictures. `options` go to the system's `apply`. Raises ValueError
    for a chunk below 1 or a motion of a kind that the system does not take.
    """
    if chunk < 1:
        raise ValueError(f"A chunk is 1 frame or more, not {chunk}.")
    if motion.kind not in system.motion_kinds:
        kinds = ", ".join(system.motion_kinds)
        raise ValueError(
            f"{system.name} takes motion of kind {kinds}, not {motion.kind}; extract it with {system.name}."
        )
    return Render(system, identity, motion, chunk, options)
