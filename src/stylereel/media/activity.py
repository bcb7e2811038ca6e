"""Where somebody speaks in a sound: by Silero VAD where the package is installed, else by loudness, which takes any
sound for speech."""

from __future__ import annotations

import importlib.util
from functools import cache
from typing import Any, Literal

import numpy as np
import torch

RATE = 16000  # samples a second
CHUNK = 512  # samples for which Silero gives one probability
QUIET = -55.0  # decibels of full scale below which nothing is speech
OVER_NOISE, UNDER_PEAK = 10.0, 20.0  # decibels: speech is so much above the noise, or at least so near the loudest


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
