"""Tracks to integers and back: step sizes, fewer frames, and what lies between them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache

import numpy as np

from stylereel.codec.entropy import round_tracks
from stylereel.core.latents import MotionKind

FINE = 16  # decoded tracks are whole numbers of this share of a step
MAX_EVERY = 8
# Of rounding: squared steps that a bit is worth; the least that a squared step of any track counts.
PRICE, LEAST = 0.16, 0.25


@dataclass(frozen=True)
class Coordinates:
    """Tracks whose names, rest and steps both sides know, so that no file has to tell them.

    names; rest: value where a file's numbers are 0; steps: of a lever of 1.
    """

    names: tuple[str, ...]
    rest: tuple[float, ...]
    steps: tuple[float, ...]

    def rest_of(self, kind: MotionKind) -> np.ndarray:
        """Rests [K]; differences rest at 0."""
        return np.zeros(len(self.rest)) if kind.relative else np.array(self.rest)


_CHANNELS = (
    "brows_1 mouth_1 eyes_1 eyes_2 mouth_2 brows_2 pupils_1 mouth_3 mouth_4 brows_3 mouth_5 brows_4 "
    "mouth_6 mouth_7 mouth_8 pupils_2 mouth_9 brows_5 mouth_10 mouth_11 brows_6 mouth_12 eyes_3 "
    "pupils_3 mouth_13 brows_7 eyes_4 mouth_14 brows_8 mouth_15 brows_9 mouth_16"
)
# Steps by which the 68 landmarks of the built-in people's mean head move by 1 % of the distance between the eyes (mean
# over landmarks and poses), but no more than a sixteenth of the track's range: `benchmarks/codec.py --steps`.
_FIRST_FACE = Coordinates(
    ("yaw", "pitch", "roll", "shift_x", "shift_y", "scale", "jaw", "smile", "pucker", "press")
    + ("brow_left", "brow_right", "blink_left", "blink_right", "gaze_x", "gaze_y"),
    (0.0,) * 5 + (1.0,) + (0.0,) * 10,
    (0.53, 0.53, 0.72, 0.002, 0.002, 0.0105, 0.0625, 0.1, 0.0625, 0.0625, 0.125, 0.125, 0.0625, 0.0625, 0.125, 0.125),
)
FACE = Coordinates(
    _FIRST_FACE.names + ("funnel", "smile_side", "cheek", "jaw_side"),
    _FIRST_FACE.rest + (0.0,) * 4,
    _FIRST_FACE.steps + (0.0625, 0.125, 0.125, 0.125),
)
# What steps of two tracks at once do to these landmarks, mean of products in (1 % of the eyes)^2: 64ths, the lower
# triangle, by the same command. Nothing of a file depends on it, only which integers a writer chooses.
_TOGETHER = bytes.fromhex(
    "490049f6044a3f00f53e00c1fe003efed9fffe284d00dffe0025396800ff00000003000700010000fffd01fc0400040000fcfaf1010008"
    "0007fc00fa02000000000900070400fa0200000000000900fe010002000000000000000200feff00020000000000000000020000000000"
    "0000000000000000000000ff000001000000000000000101000000fe000001010bfc04fc000000000000080800f9060000000000000000"
    "0000000000060000000000fe000000000000010100000000022affd42900ff0000000000000000000000080044"
)
# The 35 numbers of the built-in people: one step for all channels, whose units are equally visible.
EXPRESSIVE = Coordinates(
    ("yaw", "pitch", "roll", *_CHANNELS.split()), (0.0,) * 35, (*_FIRST_FACE.steps[:3], *(0.1,) * 32)
)
# By the kind of motion, from the first that a version knew to the latest.
KNOWN: dict[str, tuple[Coordinates, ...]] = {"face": (_FIRST_FACE, FACE), "expressive": (EXPRESSIVE,)}


def nodes(frames: int, every: int) -> np.ndarray:
    """Which frames of a group are coded: each `every`th, and the last."""
    chosen = list(range(0, frames, every))
    return np.array(chosen if chosen[-1] == frames - 1 else [*chosen, frames - 1])


def between(coded: np.ndarray, frames: int, every: int) -> np.ndarray:
    """All frames [frames, K] of coded ones [M, K], in integers of 1 / FINE.

    Within a gap of d frames the value after j is that of the cubic through both ends whose slope at each is half the
    difference of its neighbours (Catmull and Rom 1974), rounded to the nearest, halves up; beyond the first and the
    last node lies the mirror image of the next. A last gap that is shorter is straight, and counts as beyond.
    """
    places = nodes(frames, every)
    coded = np.asarray(coded, np.int64)
    out = np.zeros((frames, coded.shape[1]), np.int64)
    out[places] = coded * FINE
    if every == 1 or len(places) < 2:
        return out
    before = np.concatenate([2 * coded[:1] - coded[1:2], coded[:-1]])
    after = np.concatenate([coded[1:], 2 * coded[-1:] - coded[-2:-1]])
    for index in range(len(places) - 1):
        first, d = places[index], places[index + 1] - places[index]
        a, b, c, e = before[index], coded[index], coded[index + 1], after[index + 1]
        if index == len(places) - 3 and places[-1] - places[-2] < every:
            e = 2 * c - b
        for j in range(1, d):
            if d < every:
                out[first + j] = (2 * FINE * (b * (d - j) + c * j) + d) // (2 * d)
                continue
            cubic = 2 * b * d**3 + (c - a) * j * d**2 + (2 * a - 5 * b + 4 * c - e) * j**2 * d
            cubic = cubic + (3 * b - a - 3 * c + e) * j**3
            out[first + j] = (FINE * cubic + d**3) // (2 * d**3)
    return out


@cache
def _fit(frames: int, every: int) -> np.ndarray:
    """The matrix [M, frames] that makes of all frames the coded ones which lie nearest to them when filled in."""
    count = len(nodes(frames, every))
    basis = between(np.eye(count, dtype=np.int64) * 4096, frames, every) / (4096 * FINE)
    return np.linalg.pinv(basis)


def to_integers(
    values: np.ndarray, rest: np.ndarray, steps: np.ndarray, every: int, metric: np.ndarray | None = None
) -> np.ndarray:
    """Coded integers [M, K] of the frames [N, K] of a group: near by `metric` [K, K], and cheap (`round_tracks`).

    Raises ValueError for numbers that are not finite.
    """
    scaled = (np.asarray(values, np.float64) - rest) / steps
    if not np.isfinite(scaled).all():
        raise ValueError("Motion holds numbers that are not finite; they cannot be coded.")
    scaled = scaled if every == 1 else _fit(len(scaled), every) @ scaled
    return round_tracks(scaled.clip(-(2**27), 2**27), np.eye(scaled.shape[1]) if metric is None else metric, PRICE)


@cache
def metric_of(coordinates: str, names: tuple[str, ...]) -> np.ndarray:
    """M [K, K] with which an error of e steps counts e M e: what known tracks do to landmarks together, so that the
    error of one may undo another's. A step of a track that hardly moves them counts `LEAST`, of an unknown one 1."""
    metric = np.eye(len(names))
    known = next((each for each in KNOWN.get(coordinates, ()) if each.names == names), None)
    if known is None:
        return metric
    count = len(FACE.names)
    whole = np.zeros((count, count))
    whole[np.tril_indices(count)] = np.frombuffer(_TOGETHER, np.int8) / 64
    whole = whole + np.tril(whole, -1).T
    here = [index for index, name in enumerate(names) if name in FACE.names]
    places = [FACE.names.index(names[index]) for index in here]
    metric[np.ix_(here, here)] = whole[np.ix_(places, places)]
    np.fill_diagonal(metric, np.maximum(metric.diagonal(), LEAST))
    return metric


def to_values(fine: np.ndarray, rest: np.ndarray, steps: np.ndarray) -> np.ndarray:
    """Values float32 [N, K] of decoded integers in 1 / FINE of a step."""
    return (rest + steps * (fine / FINE)).astype(np.float32)


def spread_steps(values: np.ndarray) -> np.ndarray:
    """Steps [K] for tracks that nobody knows: an eighth of each deviation, or of a thousandth of the largest."""
    deviation = np.asarray(values, np.float64).std(axis=0)
    floor = max(float(deviation.max(initial=0.0)) / 1000, 1e-6)
    return np.maximum(deviation, floor) / 8


def fill(known: np.ndarray, places: Sequence[int], frames: int) -> np.ndarray:
    """Tracks [frames, K] from those at `places` [N, K]: straight lines across gaps, constant before and after."""
    at = np.asarray(places)
    now = np.arange(frames)
    if len(at) == frames:
        return known
    right = np.clip(np.searchsorted(at, now), 1, max(1, len(at) - 1))
    if len(at) == 1:
        return np.repeat(known, frames, axis=0)
    left = right - 1
    share = np.clip((now - at[left]) / (at[right] - at[left]), 0, 1)[:, None]
    return (known[left] + share * (known[right] - known[left])).astype(known.dtype)
