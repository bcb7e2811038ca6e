"""Is a clip steady, and does its motion repeat? Jitter, flicker and loops.

What is steady has a path that five neighbouring frames can follow. The measures look at what is left of a track when
a cubic is laid through five frames: its fourth difference, divided by the square root of 70 so that independent noise
of standard deviation s gives s, while anything slower than a few frames gives almost nothing.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import NamedTuple

import numpy as np

from stylereel.faces.placement import place, to_picture
from stylereel.metrics.clips import Clip
from stylereel.metrics.faces import eye_distance, motion_of, track_of
from stylereel.metrics.registry import Unfit, measure

_FOURTH = np.array([1.0, -4.0, 6.0, -4.0, 1.0]) / np.sqrt(70.0)
_BRIGHTNESS = np.array([0.299, 0.587, 0.114])  # BT.601
_CORNERS = np.array([[0.0, 0.0], [1.0, 0.0], [0.0, 1.0], [1.0, 1.0]])


def unsteadiness(track: np.ndarray) -> np.ndarray:
    """What five frames cannot explain [T - 4, ...] of a track [T, ...], in its unit and scaled to the size of noise.

    Raises ValueError for fewer than 5 frames.
    """
    if len(track) < 5:
        raise ValueError(f"Steadiness shows over 5 frames or more, not over {len(track)}.")
    track = np.asarray(track, np.float64)
    return np.lib.stride_tricks.sliding_window_view(track, 5, axis=0) @ _FOURTH


def _size(values: np.ndarray) -> float:
    return float(np.sqrt(np.mean(values**2)))


def aligned(landmarks: np.ndarray) -> np.ndarray:
    """Landmarks [T, 68, 2] aligned to their mean by the similarity with the least squared error, in eye distances.

    What remains is how the face's parts move among themselves, not how the head does.
    """
    points = (landmarks - landmarks.mean(1, keepdims=True)) @ np.array([1, 1j])
    mean = points.mean(0)
    for _ in range(3):
        turn = (points.conj() * mean).sum(1) / (np.abs(points) ** 2).sum(1)
        mean = (points * turn[:, None]).mean(0)
    points = points * turn[:, None] / np.abs(mean[36] - mean[45])
    return np.stack([points.real, points.imag], axis=-1)


def landmark_jitter(landmarks: np.ndarray) -> float:
    """How much landmarks [T, 68, 2] tremble within the face: root mean square of a coordinate, in eye distances."""
    return _size(unsteadiness(aligned(landmarks)))


def head_jitter(landmarks: np.ndarray) -> float:
    """How much the face as a whole trembles in the image: the centre of landmarks [T, 68, 2], in eye distances."""
    return _size(unsteadiness(landmarks.mean(1)) / eye_distance(landmarks).mean())


def crop_jitter(placements: np.ndarray) -> float:
    """How much a crop [T, 4] (centre x, centre y, side, roll) trembles: its corners, as a fraction of its side."""
    corners = to_picture(np.broadcast_to(_CORNERS, (len(placements), 4, 2)), placements)
    return _size(unsteadiness(corners) / placements[:, 2].mean())


def flicker(frames: Iterable[np.ndarray]) -> float:
    """How much the still half of a clip flickers, in levels of 8 bits; takes frames uint8 [H, W, 3] one by one.

    The root mean square `unsteadiness` of brightness over the half of the pixels whose mean over ten frames changes
    least. VBench's temporal flickering (Huang et al. 2024) takes the mean absolute difference of neighbouring frames
    and so needs a static scene. Raises ValueError for fewer than 20 frames.
    """
    last: list[np.ndarray] = []  # ten frames
    noise, total, squares = (np.zeros(1) for _ in range(3))
    count = 0
    for count, frame in enumerate(frames, start=1):
        last = [*last[-9:], frame @ _BRIGHTNESS]
        if count >= 5:
            noise = noise + unsteadiness(np.stack(last[-5:]))[0] ** 2
        if count % 10 == 0:
            mean = np.mean(last, axis=0)
            total, squares = total + mean, squares + mean**2
    if count < 20:
        raise ValueError(f"Flicker shows over 20 frames or more, not over {count}.")
    change = squares / (count // 10) - (total / (count // 10)) ** 2
    still = change <= np.median(change)
    return float(np.sqrt(noise[still].mean() / (count - 4)))


class Loop(NamedTuple):
    """The lag (frames) at which a track comes closest to repeating itself, how well, and whether that is a loop."""

    lag: int
    repetition: float
    loops: bool


LOOP = 0.75  # repetition from which a motion loops; the natural motion of 400 people of the world reaches 0.5


def loop(track: np.ndarray, start: int = 0) -> Loop:
    """Does a sampled motion repeat? StyleVideoGAN counts models whose samples do, by eye.

    track: [T, K], motion values or codes; columns that never change do not count, the others count alike. start:
    frames that are left out, because a sampler may need some to fall into its loop. For every lag up to half the
    track, repetition = 1 - |x(t + lag) - x(t)|^2 / (|x(t)|^2 + |x(t + lag)|^2), each a sum over all t and columns
    around the mean: 1 where the track repeats exactly, about 0 for unrelated motion, under 0 for opposite. Small lags,
    until the track has left itself (under a half, and rising again), only show that it is smooth and are skipped.
    Raises ValueError when nothing moves or there are fewer than 10 frames.
    """
    track = np.asarray(track, np.float64)[start:]
    if len(track) < 10:
        raise ValueError(f"A loop shows over 10 frames or more, not over {len(track)}.")
    spread = track.std(0)
    moving = spread > 1e-9 * (1 + np.abs(track).max(0))
    if not moving.any():
        raise ValueError("The motion is constant, so nothing can repeat; give one that moves.")
    track = (track - track.mean(0))[:, moving] / spread[moving]
    energy = (track**2).sum(1)
    lags = range(1, len(track) // 2 + 1)
    values = np.array(
        [1 - ((track[k:] - track[:-k]) ** 2).sum() / (energy[k:].sum() + energy[:-k].sum()) for k in lags]
    )
    away = np.flatnonzero((values[:-1] < 0.5) & (np.diff(values) > 0))
    if not len(away):  # it never comes back within half its length
        return Loop(len(values), float(values[-1]), False)
    values[: away[0]] = -1
    lag = int(np.flatnonzero(values >= values.max() - 0.02)[0])  # its multiples repeat as well
    return Loop(lag + 1, float(values[lag]), bool(values[lag] >= LOOP))


# --- The measures

_RESIDUE = "Root mean square, scaled to that of independent noise, of the residual of a cubic fit to five frames, of"


def _steadiness(clip: Clip) -> np.ndarray:
    landmarks = track_of(clip).landmarks
    if len(landmarks) < 5:
        raise Unfit(f"{clip.name} is too short; steadiness shows over 5 frames or more.")
    return landmarks


@measure(
    "landmark-jitter", compares="clip", better="lower", unit="eye distances", source="defined here",
    protocol=f"{_RESIDUE} dlib's landmarks, aligned to their mean by a similarity in every frame.",
)  # fmt: skip
def landmark_jitter_of(result: Clip) -> float:
    return landmark_jitter(_steadiness(result))


@measure(
    "head-jitter", compares="clip", better="lower", unit="eye distances", source="defined here",
    protocol=f"{_RESIDUE} the centre of dlib's landmarks.",
)  # fmt: skip
def head_jitter_of(result: Clip) -> float:
    return head_jitter(_steadiness(result))


@measure(
    "crop-jitter", compares="clip", better="lower", unit="crop sides", source="defined here",
    protocol=f"{_RESIDUE} the corners of the steady crop by dlib's landmarks.",
)  # fmt: skip
def crop_jitter_of(result: Clip) -> float:
    return crop_jitter(place(_steadiness(result), track_of(result).rate, track_of(result).found))


@measure(
    "flicker", compares="clip", better="lower", unit="levels of 8 bits", source="after VBench's temporal flickering",
    protocol=f"{_RESIDUE} brightness, in the half of the pixels whose mean over ten frames changes least.",
)  # fmt: skip
def flicker_of(result: Clip) -> float:
    if result.num_frames < 20:
        raise Unfit(f"{result.name} is too short; flicker shows over 20 frames or more.")
    return flicker(result)


@measure(
    "repetition", compares="clip", better="lower", unit="", source="after StyleVideoGAN's looping test",
    protocol="The largest share of the motion, by faces.coefficients from dlib's landmarks, explained by one lag; "
    f"a loop from {LOOP}.",
)  # fmt: skip
def repetition(result: Clip) -> float:
    motion = motion_of(result)
    try:
        return loop(motion).repetition
    except ValueError as error:
        raise Unfit(str(error)) from None
