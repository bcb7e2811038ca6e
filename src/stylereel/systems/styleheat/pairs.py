"""Training pairs of the world: one person twice, the motion in between, and the exact flow."""

from __future__ import annotations

from functools import cache
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from stylereel import world
from stylereel.family.people import GROUPS, WHOLE, Share, mixed_latents, mixed_values
from stylereel.systems.styleheat.motion import beside_own, coordinates
from stylereel.systems.styleheat.networks import FLOW_SIZE, RADIUS
from stylereel.world.factors import MOTION_COLUMNS
from stylereel.world.motion import natural_motion
from stylereel.world.truth import flow

TRACKS, TRACK_FRAMES = 12, 400  # natural motion that windows are cut from
MANNERS = ("talking", "listening", "laughing", "conversation", "expressions")
FACING = 0.2  # share of pairs that keep the pose and change expression alone
OWN_ERROR = 0.04  # of the source's own motion, in the units of the coordinates: as wrong as the face net reads it
SEED = 71
_POSE, _EXPRESSION = GROUPS.index("pose"), GROUPS.index("expression")


class Pairs(NamedTuple):
    """Sources and targets of the built-in family.

    source, target: latents [B, 4, 80]; window: [B, 32, 27], the motion around the target's and the source's own, see
    `motion`; flow: [B, 2, 64, 64], for each pixel of the target where its surface point is in the source, in pixels;
    seen: [B, 64, 64], whether it is seen there; landmarks: [B, 68, 2] of the target, 0..1.
    """

    source: Tensor
    target: Tensor
    window: Tensor
    flow: Tensor
    seen: Tensor
    landmarks: Tensor


@cache
def _tracks() -> np.ndarray:
    """Natural motion [N, T, M] of all manners."""
    return np.stack([natural_motion(SEED + i, TRACK_FRAMES, manner=MANNERS[i % len(MANNERS)]) for i in range(TRACKS)])


def window_around(values: np.ndarray, random: np.random.Generator) -> np.ndarray:
    """Motion values [27, M] as natural as the world's, whose middle frame is `values` [M].

    A stretch of natural motion is moved there as a whole; by chance it is slower or still.
    """
    tracks = _tracks()
    track = tracks[random.integers(len(tracks))]
    speed = random.uniform(0.5, 1.2)
    middle = random.uniform(RADIUS * speed, len(track) - 1 - RADIUS * speed)
    places = middle + speed * np.arange(-RADIUS, RADIUS + 1)
    whole = places.astype(int)
    after = np.minimum(whole + 1, len(track) - 1)
    stretch = track[whole] + (places - whole)[:, None] * (track[after] - track[whole])
    change = (stretch - stretch[RADIUS]) * (0 if random.random() < 0.15 else random.uniform(0.3, 1.0))
    return np.clip(values + change, world.LOW[MOTION_COLUMNS], world.HIGH[MOTION_COLUMNS])


def draw_pairs(index: int, count: int, share: Share = WHOLE, seed: int = SEED) -> Pairs:
    """The pairs of step `index`, or this process's share of them."""
    random = np.random.default_rng((seed, index))
    source = mixed_latents((seed, index, 1), count, 0.5)
    other = mixed_latents((seed, index, 2), count, 0.5)
    target = source.copy()
    target[:, _EXPRESSION] = other[:, _EXPRESSION]
    turning = random.random(count) >= FACING
    target[turning, _POSE] = other[turning, _POSE]
    before, after = (world.align(mixed_values(z)) for z in (source, target))
    windows = np.stack([coordinates(window_around(values[MOTION_COLUMNS], random)).T for values in after])
    own = coordinates(before[:, MOTION_COLUMNS])
    own += OWN_ERROR * random.standard_normal(own.shape).astype(np.float32)
    rank, ranks = share
    mine = slice(rank, None, ranks)
    truths = [flow(b, a, FLOW_SIZE) for a, b in zip(before[mine], after[mine], strict=True)]
    points = np.stack([world.project_landmarks(values)[0] for values in after[mine]])
    return Pairs(
        torch.from_numpy(source[mine]).float(),
        torch.from_numpy(target[mine]).float(),
        beside_own(torch.from_numpy(windows[mine]), own[mine]),
        torch.from_numpy(np.stack([truth.flow for truth in truths])).permute(0, 3, 1, 2).contiguous(),
        torch.from_numpy(np.stack([truth.visible for truth in truths])),
        torch.from_numpy(points).float(),
    )
