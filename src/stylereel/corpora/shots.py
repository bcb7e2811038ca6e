"""Where one shot of a camera ends and the next begins, and what clips a video is cut into.

Frames are compared by histograms of their colours in the cells of a coarse grid: a head that turns changes few cells by
little, a cut changes most of them. Dissolves, which change little from frame to frame, are not seen.
"""

from __future__ import annotations

import math
from collections.abc import Iterable
from fractions import Fraction
from typing import NamedTuple

import numpy as np

GRID, LEVELS = 3, 8  # cells across and down; levels of each colour
SIDE = 48  # pixels to which frames are thinned out before they are compared
AROUND, ABOVE = 6, 3.0  # frames on each side, of whose median change a cut is a multiple


class Shots(NamedTuple):
    """cuts: the first frames of all shots but the first; clips: (first frame, number of frames) of each clip at the
    rate that was asked for; short: shots that were too short for a clip."""

    cuts: list[int]
    clips: list[tuple[int, int]]
    short: int


def histogram(frame: np.ndarray) -> np.ndarray:
    """Shares [cells, 3 LEVELS] of the levels of the colours in each cell of a frame uint8 [H, W, 3]."""
    step = max(1, min(frame.shape[:2]) // SIDE)
    small = frame[::step, ::step] // (256 // LEVELS)
    found = []
    for rows in np.array_split(small, GRID):
        for cell in np.array_split(rows, GRID, axis=1):
            counts = np.bincount((cell.reshape(-1, 3) + np.arange(3) * LEVELS).ravel(), minlength=3 * LEVELS)
            found.append(counts / max(1, cell.shape[0] * cell.shape[1]))
    return np.array(found)


def changes(frames: Iterable[np.ndarray]) -> np.ndarray:
    """How much of each frame is new, float [T], 0 to 1; 0 for the first."""
    found, before = [], None
    for frame in frames:
        now = histogram(frame)
        # Half the sum of differences of shares is the share that moved; three colours.
        found.append(0.0 if before is None else float(np.abs(now - before).sum(1).mean()) / 6)
        before = now
    return np.array(found)


def find_cuts(change: np.ndarray, least: float) -> list[int]:
    """Frames at which a new shot begins: a change of `least` that stands out of those around it."""
    cuts = []
    for index in np.flatnonzero(change >= least):
        around = np.delete(change[max(0, index - AROUND) : index + AROUND + 1], min(index, AROUND))
        if change[index] > ABOVE * float(np.median(around)) if len(around) else True:
            cuts.append(int(index))
    return cuts


def divide(cuts: list[int], frames: int, native: Fraction, rate: Fraction, shortest: float, longest: float) -> Shots:
    """The clips of a video.

    cuts: frames of the native rate. rate: of the clips. shortest, longest: seconds.
    """
    clips, short = [], 0
    ends = [0, *cuts, frames]
    ratio = rate / native
    for begin, end in zip(ends, ends[1:]):
        if ratio == 1:
            first, last = begin, end
        else:  # a resampled frame at a cut may show either side
            first = math.floor(begin * ratio) + 1 if begin else 0
            last = math.floor(end * ratio) if end < frames else max(1, round(end * ratio))
        count = last - first
        if count <= 0 or count < shortest * rate:
            short += 1
            continue
        parts = max(1, math.ceil(count / (longest * rate)))
        places = [first + count * part // parts for part in range(parts + 1)]
        clips += [(a, b - a) for a, b in zip(places, places[1:])]
    return Shots(cuts, clips, short)
