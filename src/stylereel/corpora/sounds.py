"""The sound of a clip: its samples, where somebody speaks, and how late it is.

Speech is found by Silero VAD where the package is installed, else by loudness, which takes any sound for speech.
"""

from __future__ import annotations

import importlib.util
from fractions import Fraction
from functools import cache
from pathlib import Path
from typing import Any, Literal, NamedTuple

import numpy as np
import torch

from stylereel.media.sound import read_sound
from stylereel.metrics.faces import mouth_opening
from stylereel.metrics.sync import all_offsets

RATE = 16000  # samples a second
APART = 3  # frames: nearer offsets correlate nearly as well
CHUNK = 512  # samples for which Silero gives one probability
QUIET = -55.0  # decibels of full scale below which nothing is speech
OVER_NOISE, UNDER_PEAK = 10.0, 20.0  # decibels: speech is so much above the noise, or at least so near the loudest


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


def choose_voice(voice: Literal["auto", "silero", "energy"]) -> Literal["silero", "energy"]:
    """What finds speech here. Raises ValueError where silero is asked for and not installed."""
    there = importlib.util.find_spec("silero_vad") is not None
    if voice == "silero" and not there:
        raise ValueError("Silero is not installed: pip install 'stylereel[corpora]', or take voice = \"energy\".")
    return ("silero" if there else "energy") if voice == "auto" else voice


@cache
def _silero() -> Any:
    from silero_vad import load_silero_vad

    return load_silero_vad()


def speech(samples: np.ndarray, voice: str) -> np.ndarray:
    """How probable speech is in each CHUNK of samples int16 [N], float32 [ceil(N / CHUNK)] in 0..1."""
    chunks = -(-len(samples) // CHUNK)
    padded = np.zeros(chunks * CHUNK, np.float32)
    padded[: len(samples)] = samples / 32768
    parts = padded.reshape(chunks, CHUNK)
    if voice == "silero":
        net = _silero()
        net.reset_states()
        with torch.inference_mode():
            return np.array([net(torch.from_numpy(part), RATE).item() for part in parts], np.float32)
    loud = decibels(parts)
    if not chunks:
        return loud
    least = min(np.percentile(loud, 10) + OVER_NOISE, np.percentile(loud, 95) - UNDER_PEAK)
    return (loud > max(QUIET, float(least))).astype(np.float32)


def decibels(parts: np.ndarray) -> np.ndarray:
    """Loudness of parts [N, samples] in decibels of full scale, float32 [N], -100 for silence."""
    return (10 * np.log10(np.maximum(np.square(parts).mean(1), 1e-10))).astype(np.float32)


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
