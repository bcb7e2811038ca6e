"""Does a face go where it should? Errors of landmarks, pose and expression, and tracks that follow each other.

Landmarks are [T, 68, 2] in any one unit; motion values are [T, 20] in the order of `faces.coefficients.NAMES`: three
angles in degrees, shifts, scale, and fourteen expression coefficients between -1 and 1. They are our own, from
landmarks, where the papers take a 3-D model's; the measures say so by their names.
"""

from __future__ import annotations

from typing import Literal, NamedTuple

import numpy as np

from stylereel.faces.backend import Track
from stylereel.faces.coefficients import NAMES, coefficients
from stylereel.metrics.clips import Clip
from stylereel.metrics.registry import Unfit, measure

POSE = ("yaw", "pitch", "roll")
GAZE = ("gaze_x", "gaze_y")
ACTIONS = ("jaw", "smile", "pucker", "press", "brow_left", "brow_right", "blink_left", "blink_right")
STILL = 0.04  # dlib's tracks of one repeated frame deviate by 0.08 degrees
_GROUPS = {"pose": POSE, "actions": ACTIONS, "gaze": GAZE}


def columns(values: np.ndarray, names: tuple[str, ...]) -> np.ndarray:
    """The named tracks [T, len(names)] of motion values [T, 20]."""
    return values[:, [NAMES.index(name) for name in names]]


def eye_distance(landmarks: np.ndarray) -> np.ndarray:
    """Distance between the outer corners of the eyes [...] of landmarks [..., 68, 2], the unit of 300-W."""
    return np.linalg.norm(landmarks[..., 36, :] - landmarks[..., 45, :], axis=-1)


def box_size(landmarks: np.ndarray) -> np.ndarray:
    """Square root of the area of the box around the landmarks [..., 68, 2] (Bulat and Tzimiropoulos 2017)."""
    return np.sqrt(np.prod(landmarks.max(-2) - landmarks.min(-2), axis=-1))


def mouth_opening(landmarks: np.ndarray) -> np.ndarray:
    """Opening between the lips [T] of landmarks [T, 68, 2], in distances between the centres of the eyes."""
    opening = np.linalg.norm(landmarks[:, [61, 62, 63]] - landmarks[:, [67, 66, 65]], axis=2).mean(1)
    eyes = np.linalg.norm(landmarks[:, 36:42].mean(1) - landmarks[:, 42:48].mean(1), axis=1)
    return opening / eyes


def landmark_error(result: np.ndarray, truth: np.ndarray, unit: Literal["eyes", "box"] = "eyes") -> np.ndarray:
    """Normalised mean error (NME) [T]: the mean distance of 68 landmarks from the true ones, as a fraction of a unit.

    unit: the truth's own `eye_distance`, as in 300-W, or its `box_size`, as in StyleMask, whose tables give percent.
    """
    size = {"eyes": eye_distance, "box": box_size}[unit](truth)
    return np.linalg.norm(result - truth, axis=-1).mean(-1) / size


def motion_errors(result: np.ndarray, truth: np.ndarray) -> dict[str, np.ndarray]:
    """Errors [T] of motion values [T, 20] against true ones, frame by frame.

    `yaw`, `pitch`, `roll` and their mean `pose` in degrees (StyleMask's pose error); `pose in radians`, the same mean
    in the unit of the average pose distance (APD); `expression`, the mean absolute difference of the ten expression
    coefficients (the average expression distance, AED). StyleHEAT takes both of Deep3D's coefficients, where APD
    holds the translation too.
    """
    angles = np.abs(columns(result, POSE) - columns(truth, POSE))
    expression = np.abs(columns(result, ACTIONS + GAZE) - columns(truth, ACTIONS + GAZE)).mean(1)
    pose = {"pose": angles.mean(1), "pose in radians": np.deg2rad(angles.mean(1))}
    return {**{name: angles[:, i] for i, name in enumerate(POSE)}, **pose, "expression": expression}


class Followed(NamedTuple):
    """How one track follows another: Pearson correlation and each one's standard deviation, in the track's unit."""

    correlation: float
    driving: float
    result: float


def followed(result: np.ndarray, driving: np.ndarray) -> Followed:
    """How a track [T] follows the driving one [T].

    A result that moves less than a twenty-fifth as much as the driver keeps still, whatever its noise looks like: 0. A
    driving track that does not move at all has nothing to follow: nan.
    """
    spread = float(np.std(driving)), float(np.std(result))
    if spread[0] <= 1e-9 * (1 + np.abs(driving).max()):  # a constant of 0.1 has a deviation of 1e-17
        return Followed(float("nan"), *spread)
    still = spread[1] < STILL * spread[0]
    return Followed(0.0 if still else float(np.corrcoef(driving, result)[0, 1]), *spread)


def tracks_followed(result: np.ndarray, driving: np.ndarray) -> dict[str, Followed]:
    """`followed` for every angle and expression of motion values [T, 20]."""
    names = POSE + ACTIONS + GAZE
    return {name: followed(*(columns(values, (name,))[:, 0] for values in (result, driving))) for name in names}


def group_correlations(tracks: dict[str, Followed]) -> dict[str, float]:
    """Mean correlations of `tracks_followed` by group, over the driving tracks that move: `pose`, `actions` (what the
    field reads from action units) and `gaze`, as in Expressive's tables, which take OpenFace's tracks."""
    moving = {group: [c for name in names if (c := tracks[name].correlation) == c] for group, names in _GROUPS.items()}
    return {group: float(np.mean(values)) if values else float("nan") for group, values in moving.items()}


# --- The measures


def track_of(clip: Clip) -> Track:
    """The face followed through a clip. Raises Unfit when no frame shows one."""
    track = clip.track
    if track is None:
        raise Unfit(f"No frame of {clip.name} shows a face; this measure needs one.")
    return track


def landmarks_of(clip: Clip) -> np.ndarray:
    """Landmarks [T, 68, 2] in pixels: the exact ones if the clip brings them, else dlib's."""
    return clip.truth["landmarks"] if "landmarks" in clip.truth else track_of(clip).landmarks


def motion_of(clip: Clip) -> np.ndarray:
    """Motion values [T, 20] of a clip by dlib's landmarks and the readings around the eyes."""
    track = track_of(clip)
    return clip.keep(
        "motion", lambda: coefficients(track.landmarks, track.found, track.rate, readings=track.readings).values
    )


def where_seen(values: np.ndarray, *clips: Clip) -> np.ndarray:
    """Values [T] with NaN in the frames in which one of the clips shows no face."""
    return np.where(np.all([track_of(clip).found for clip in clips], axis=0), values, np.nan)


_BY_DLIB = "dlib's landmarks"
_OR_EXACT = f"{_BY_DLIB} against the reference's exact ones where it has them, else dlib's"
_TRACKS = "by faces.coefficients from dlib's landmarks"


def _nme(result: Clip, reference: Clip, unit: Literal["eyes", "box"]) -> np.ndarray:
    clips = (result,) if "landmarks" in reference.truth else (result, reference)
    return where_seen(landmark_error(track_of(result).landmarks, landmarks_of(reference), unit), *clips)


@measure(
    "nme-eyes", compares="frame pairs", better="lower", unit="eye distances",
    protocol=f"Mean distance of 68 landmarks over that of the outer eye corners; {_OR_EXACT}.", source="300-W",
)  # fmt: skip
def nme_eyes(result: Clip, reference: Clip) -> np.ndarray:
    return _nme(result, reference, "eyes")


@measure(
    "nme-box", compares="frame pairs", better="lower", unit="%",
    protocol=f"Mean distance of 68 landmarks over the root of the area of the box around them; {_OR_EXACT}.",
    source="Bulat and Tzimiropoulos 2017; StyleMask",
)  # fmt: skip
def nme_box(result: Clip, reference: Clip) -> np.ndarray:
    return 100 * _nme(result, reference, "box")


def _register_motion_error(name: str, part: str, unit: str, protocol: str, source: str) -> None:
    @measure(
        name, compares="frame pairs", better="lower", unit=unit, source=source,
        protocol=f"{protocol}, {_TRACKS} of both.",
    )  # fmt: skip
    def error(result: Clip, reference: Clip) -> np.ndarray:
        return where_seen(motion_errors(motion_of(result), motion_of(reference))[part], result, reference)


for _name in POSE:
    _register_motion_error(f"{_name}-error", _name, "degrees", "Absolute difference", "StyleMask")
_register_motion_error("pose-error", "pose", "degrees", "Mean absolute difference of yaw, pitch and roll", "StyleMask")
_register_motion_error(
    "apd-landmarks", "pose in radians", "radians", "Mean absolute difference of yaw, pitch and roll", "StyleHEAT"
)
_register_motion_error(
    "aed-landmarks", "expression", "", "Mean absolute difference of ten expression coefficients", "StyleHEAT"
)


def _track_of(clip: Clip, name: str) -> np.ndarray:
    return mouth_opening(track_of(clip).landmarks) if name == "mouth" else columns(motion_of(clip), (name,))[:, 0]


def _register_track(name: str) -> None:
    how = "opening between the lips, by dlib's landmarks" if name == "mouth" else f"{name} {_TRACKS}"

    @measure(
        f"correlation-{name}", compares="frame pairs", better="higher", unit="", source="Expressive",
        protocol=f"Pearson correlation of both tracks of {how}; 0 if the result does not move; see deviation-{name}.",
    )  # fmt: skip
    def correlation(result: Clip, reference: Clip) -> float:
        return followed(_track_of(result, name), _track_of(reference, name)).correlation

    @measure(
        f"deviation-{name}", compares="clip", better="neither", source="defined here",
        unit="degrees" if name in POSE else "eye distances" if name == "mouth" else "",
        protocol=f"Standard deviation over the clip of {how}; near 0 if it does not move.",
    )  # fmt: skip
    def deviation(result: Clip) -> float:
        return float(_track_of(result, name).std())


for _name in (*POSE, *ACTIONS, *GAZE, "mouth"):
    _register_track(_name)


def _register_group(group: str) -> None:
    @measure(
        f"correlation-{group}", compares="frame pairs", better="higher", unit="", source="Expressive",
        protocol=f"Mean over the {group} tracks of their Pearson correlations, {_TRACKS} of both.",
    )  # fmt: skip
    def correlation(result: Clip, reference: Clip) -> float:
        return group_correlations(tracks_followed(motion_of(result), motion_of(reference)))[group]


for _name in _GROUPS:
    _register_group(_name)
