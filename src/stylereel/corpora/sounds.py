"""The sound of a clip: its samples, and how late it is."""

from __future__ import annotations

from fractions import Fraction
from pathlib import Path
from typing import NamedTuple

import numpy as np

from stylereel.media.activity import RATE
from stylereel.media.sound import read_sound
from stylereel.metrics.faces import mouth_opening
from stylereel.metrics.sync import all_offsets

APART = 3  # frames: nearer offsets correlate nearly as well


def cut_sound(path: str | Path, first: int, count: int, rate: Fraction) -> np.ndarray:
    """The samples int16 [N] of `count` frames from `first` on; silence where the sound ends before the picture."""
    begin, end = round(first / rate * RATE), round((first + count) / rate * RATE)
    out = np.zeros(end - begin, np.float32)
    place = 0
    for part in read_sound(path, RATE):
        low, high = max(place, begin), min(place + len(part), end)
        if low < high:
            out[low - begin : high - begin] = part[low - place : high - place]
        place += len(part)
        if place >= end:
            break
    return np.round(np.clip(out, -1, 1) * 32767).astype(np.int16)


def loudness(samples: np.ndarray, count: int, rate: Fraction) -> np.ndarray:
    """Root mean square of samples int16 [N] during each of `count` frames, float64 [count]."""
    ends = [round(frame / rate * RATE) for frame in range(count + 1)]
    parts = [samples[a:b].astype(np.float64) for a, b in zip(ends, ends[1:])]
    return np.array([np.sqrt(np.square(part).mean()) if len(part) else 0.0 for part in parts])


class Offset(NamedTuple):
    """frames: by how many the sound is early (the mouth late); correlation: of mouth and loudness once that is undone;
    lead: by how much it is above the best one more than APART frames away."""

    frames: int
    correlation: float
    lead: float


def find_offset(landmarks: np.ndarray, samples: np.ndarray, rate: Fraction, reach: int) -> Offset | None:
    """The offset, up to `reach` frames, at which the opening of the mouth goes best with loudness.

    landmarks: [T, 68, 2]. Both are taken without their means over the second around. None where no offset is defined:
    too short a clip, silence, or a mouth that does not move.
    """
    window = 2 * round(rate / 2) + 1
    if len(landmarks) < window:
        return None
    mouth, loud = (
        _without_mean(track, window) for track in (mouth_opening(landmarks), loudness(samples, len(landmarks), rate))
    )
    try:
        found = all_offsets(mouth, loud, reach)
    except ValueError:
        return None
    best = max(found, key=lambda offset: offset.correlation)
    away = [offset.correlation for offset in found if abs(offset.frames - best.frames) > APART]
    return Offset(best.frames, best.correlation, best.correlation - max(away, default=1.0))


def _without_mean(track: np.ndarray, window: int) -> np.ndarray:
    """A track [T] minus its mean over `window` values around each."""
    around = np.convolve(np.pad(track, window // 2, mode="edge"), np.ones(window) / window, "valid")
    return track - around


def delayed(samples: np.ndarray, frames: int, rate: Fraction) -> np.ndarray:
    """The samples so many frames later (earlier, if negative), as many as before; silence comes in."""
    shift = round(abs(frames) / rate * RATE)
    out = np.zeros_like(samples)
    if shift >= len(samples):
        return out
    if frames >= 0:
        out[shift:] = samples[: len(samples) - shift]
    else:
        out[: len(samples) - shift] = samples[shift:]
    return out
