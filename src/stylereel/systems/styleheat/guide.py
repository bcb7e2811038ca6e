"""What the built-in family's networks see besides the portrait: how the world's mean head makes the same movement.

The mean head is drawn at 64 px twice, in the motion that the source shows and in the one that is to be shown. Both
images and the exact flow between them are a guide for the flow and the repair of any person, as a rendered 3-D model is
elsewhere. Nothing of the person is in it.
"""

from __future__ import annotations

from functools import lru_cache

import numpy as np
import torch
from torch import Tensor

from stylereel import world
from stylereel.systems.styleheat.networks import FLOW_SIZE, GUIDE_FLOW, GUIDES
from stylereel.world.factors import MOTION_COLUMNS
from stylereel.world.truth import Surface, flow_between, surface_of


def mean_head(motion: np.ndarray) -> Surface:
    """The surface of the mean head in the motion factors [M], face-aligned; what is beyond their limits is clipped."""
    values = world.neutral()
    values[MOTION_COLUMNS] = np.clip(motion, world.LOW[MOTION_COLUMNS], world.HIGH[MOTION_COLUMNS])
    return surface_of(world.align(values[None])[0], FLOW_SIZE)


def guide(own: Surface, motion: np.ndarray) -> Tensor:
    """The guide [9, 64, 64] from the mean head in the source's own motion to motion factors [M].

    Channels: the two images in [-1, 1], own first; the flow in pixels, as `flow.warp` takes it; where it is known (1),
    because the surface is seen in both.
    """
    target = mean_head(motion)
    moved = flow_between(target, own)
    channels = np.empty((GUIDES, FLOW_SIZE, FLOW_SIZE), np.float32)
    for place, surface in ((0, own), (3, target)):
        channels[place : place + 3] = surface.portrait.image.transpose(2, 0, 1) / 127.5 - 1
    channels[GUIDE_FLOW] = moved.flow.transpose(2, 0, 1)
    channels[-1] = moved.visible
    return torch.from_numpy(channels)


@lru_cache(4)
def _own_head(own: bytes) -> Surface:
    """The mean head in a motion float32 [M]: the same for every frame of a clip, which live are drawn one by one."""
    return mean_head(np.frombuffer(own, np.float32))


def guides(own: np.ndarray, motion: np.ndarray) -> Tensor:
    """Guides [B, 9, 64, 64] from one own motion [M] to each of motion factors [B, M]."""
    head = _own_head(own.astype(np.float32).tobytes())
    return torch.stack([guide(head, values) for values in motion])
