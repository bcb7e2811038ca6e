"""Motion by sound: lips on a motion, and a head that is alive where nothing else moves it."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import replace
from fractions import Fraction

import numpy as np
from scipy.ndimage import gaussian_filter1d

from stylereel.core.latents import FACE, Motion
from stylereel.family.voice import Hearing
from stylereel.world.factors import MOTION
from stylereel.world.motion import natural_motion
from stylereel.world.speech import MOUTH, RATE, Phoneme

MOOD = 0.3  # seconds: what of a smile is slower is no speech
SMILE = 0.6  # of the smile of speech, as `world.motion` adds it


def alive(hearing: Hearing, rate: Fraction, seed: int = 0) -> Motion:
    """The motion of kind "face" of a head that says what was heard: it moves, nods, blinks and looks as the world's
    speakers do (`world.motion`), with nods and brows at the stressed syllables."""
    # Silent phonemes: the stress moves the head, and the lips are put on afterwards.
    stresses = [Phoneme("_", p.start, p.end, p.stressed) for p in hearing.phonemes]
    count = hearing.num_frames(rate)
    values = natural_motion(seed, count, rate, "talking", stresses)
    centred = np.tile(np.array([0.5, 0.5, 1, 0], np.float32), (count, 1))
    return with_lips(Motion(values, FACE, MOTION, rate, centred), hearing)


def with_lips(motion: Motion, hearing: Hearing) -> Motion:
    """A motion of kind "face" whose mouth does what was heard; it is closed in silence and after the sound's end.

    Jaw, pucker, press and funnel are the sound's; the smile of speech is added to the motion's own, of which only
    what is slower than speech is kept. All else stays.
    """
    mouth = hearing.mouth(motion.rate, len(motion))
    values = motion.values.copy()
    for name, track in zip(MOUTH, mouth.T):
        column = motion.names.index(name)
        if name == "smile":
            mood = gaussian_filter1d(values[:, column], MOOD * float(motion.rate), mode="nearest")
            values[:, column] = mood + SMILE * track
        else:
            values[:, column] = track
    return replace(motion, values=values)


def there_and_back(motion: Motion, num_frames: int) -> Motion:
    """The motion for so many frames: it ends early, or goes back to its beginning and forth again."""
    last = max(1, len(motion) - 1)
    index = last - np.abs(np.arange(num_frames) % (2 * last) - last) if len(motion) > 1 else np.zeros(num_frames, int)
    missing, doubtful = (
        tuple(np.flatnonzero(np.isin(index, frames)).tolist()) for frames in (motion.missing, motion.doubtful)
    )
    return replace(
        motion, values=motion.values[index], placement=motion.placement[index], missing=missing, doubtful=doubtful
    )


def part_of_sound(pieces: Iterable[np.ndarray], start: Fraction, seconds: Fraction | None) -> Iterator[np.ndarray]:
    """Of sound in pieces at 16 kHz the `seconds` from `start` on."""
    first = round(start * RATE)
    last = None if seconds is None else first + round(seconds * RATE)
    now = 0
    for piece in pieces:
        low, high = max(0, first - now), len(piece) if last is None else min(len(piece), last - now)
        if high > low:
            yield piece[low:high]
        now += len(piece)
        if last is not None and now >= last:
            return
