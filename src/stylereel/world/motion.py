"""Natural movement for the world's heads: drifting head, blinks, saccades, and a mouth that speaks in phrases."""

from __future__ import annotations

from fractions import Fraction

import numpy as np
from scipy.ndimage import gaussian_filter1d

from stylereel.world.factors import HIGH, INDEX, LOW, MOTION

# Blinks: about 17 a minute at rest (Bentivoglio et al. 1997); lids fall in 0.1 s and rise in 0.2 s (human average).
BLINKS_PER_SECOND = 17 / 60
_FALL, _RISE = 0.10, 0.20
SYLLABLES_PER_SECOND = 4.5  # the usual rhythm of speech is 4 to 5 syllables a second


def _drift(random: np.random.Generator, seconds: np.ndarray, period: float) -> np.ndarray:
    """Smooth noise of variance about 1 whose changes take about `period` seconds."""
    step = float(seconds[1] - seconds[0]) if len(seconds) > 1 else 0.04
    pad = int(6 * period / step) + 1
    noise = gaussian_filter1d(random.standard_normal(len(seconds) + 2 * pad), period / (2.5 * step), mode="wrap")
    return (noise / noise.std())[pad : pad + len(seconds)]


def _blinks(random: np.random.Generator, seconds: np.ndarray) -> np.ndarray:
    """Lid closure 0..1 over time."""
    closure = np.zeros(len(seconds))
    start = random.exponential(0.6 / BLINKS_PER_SECOND)
    while start < seconds[-1]:
        t = seconds - start
        lid = np.where(t < _FALL, t / _FALL, 1 - (t - _FALL) / _RISE)
        closure = np.maximum(closure, np.clip(lid, 0, 1))
        start += 0.5 + random.exponential(1 / BLINKS_PER_SECOND - 0.5)
    return np.sin(0.5 * np.pi * closure) ** 2


def _speech(random: np.random.Generator, seconds: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Jaw, pucker and lip press 0..1 of phrases of one to three seconds with pauses between them."""
    jaw, pucker, press = (np.zeros(len(seconds)) for _ in range(3))
    now = random.uniform(0.1, 0.6)
    while now < seconds[-1]:
        end = now + random.uniform(1.0, 3.2)
        while now < end:
            length = random.gamma(9, 1 / (9 * SYLLABLES_PER_SECOND))
            pulse = np.clip(1 - np.abs(seconds - now - 0.5 * length) / (0.62 * length), 0, 1)
            pulse = pulse * pulse * (3 - 2 * pulse)
            jaw += random.uniform(0.12, 0.62) * pulse
            pucker += (random.random() < 0.25) * random.uniform(0.4, 0.9) * pulse
            if random.random() < 0.2:
                closing = np.clip(1 - np.abs(seconds - now) / 0.06, 0, 1)
                press = np.maximum(press, closing)
                jaw *= 1 - closing
            now += length
        now = end + random.exponential(0.55)
    return np.clip(jaw, 0, 1), np.clip(pucker, 0, 1), press


def natural_motion(seed: int, num_frames: int, rate: Fraction = Fraction(25), speaking: bool = True) -> np.ndarray:
    """Motion values [T, 16] (order of `factors.MOTION`) of a person who looks about, blinks and, perhaps, speaks.

    The same seed gives the same motion.
    """
    random = np.random.default_rng((61, seed))
    seconds = np.arange(max(num_frames, 2)) / float(rate)
    track = {name: np.zeros(len(seconds)) for name in MOTION}
    track["yaw"] = 13 * _drift(random, seconds, 1.6) + 2 * _drift(random, seconds, 0.5)
    track["pitch"] = 5 * _drift(random, seconds, 1.4) + 1.5 * _drift(random, seconds, 0.4)
    track["roll"] = 4 * _drift(random, seconds, 2.0) + 0.12 * track["yaw"]
    track["shift_x"] = 0.012 * _drift(random, seconds, 2.0) + 0.0006 * track["yaw"]
    track["shift_y"] = 0.008 * _drift(random, seconds, 2.0)
    track["scale"] = 1 + 0.02 * _drift(random, seconds, 3.0)
    track["smile"] = 0.25 + 0.35 * _drift(random, seconds, 2.5)
    brows = 0.35 * _drift(random, seconds, 0.8)
    track["brow_left"] = brows + 0.10 * _drift(random, seconds, 1.0)
    track["brow_right"] = brows + 0.10 * _drift(random, seconds, 1.0)
    track["blink_left"] = track["blink_right"] = _blinks(random, seconds)
    # Eyes jump: piecewise constant gaze, partly against the turn of the head.
    jumps = np.cumsum(random.exponential(0.7, int(seconds[-1] * 4) + 4))
    held = np.searchsorted(jumps, seconds)
    for name, width in (("gaze_x", 0.45), ("gaze_y", 0.25)):
        track[name] = width * random.standard_normal(held.max() + 1)[held]
    track["gaze_x"] = track["gaze_x"] - 0.015 * track["yaw"]
    if speaking:
        track["jaw"], track["pucker"], track["press"] = _speech(random, seconds)
    values = np.stack([track[name] for name in MOTION], axis=1)[:num_frames]
    limits = [INDEX[name] for name in MOTION]
    return np.clip(values, LOW[limits], HIGH[limits]).astype(np.float32)
