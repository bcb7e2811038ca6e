"""From a track of one face to its motion: where the head points and what the face does, frame by frame.

Landmarks are turned back to the front (see `pose`), and expression is read there, relative to the person's
own neutral face over the clip. What landmarks tell badly, lids, brows and gaze, is taken from `appearance`
where it was read.
"""

from __future__ import annotations

from dataclasses import replace
from fractions import Fraction

import numpy as np

from stylereel.core.latents import FACE, Motion
from stylereel.faces.appearance import READINGS
from stylereel.faces.backend import Track
from stylereel.faces.placement import EYE_LEVEL, EYE_TO_MOUTH, place
from stylereel.faces.pose import PIVOT, eyes_to_mouth, mean_head, pose_from_landmarks, smooth, unrotate

__all__ = ["NAMES", "coefficients", "mean_head", "motion_of", "pose_from_landmarks"]

# The names and order of stylereel.world.factors.MOTION; units in `coefficients`.
NAMES = (
    "yaw", "pitch", "roll", "shift_x", "shift_y", "scale", "jaw", "smile", "pucker", "press",
    "brow_left", "brow_right", "blink_left", "blink_right", "gaze_x", "gaze_y",
)  # fmt: skip

# What the mouth shows, in head units, when a factor goes from 0 to 1. Rows: opening between the lips, lift
# of the corners above the edge of the upper lip, width, thickness of both lips, drop of the chin. Columns:
# _MOUTH_FACTORS.
_MOUTH_FACTORS = ("jaw", "smile", "pucker", "press")
_MOUTH = np.array(
    [
        [0.29, 0.00, 0.00, 0.00],
        [-0.055, 0.08, 0.00, 0.00],
        [-0.05, 0.09, -0.19, 0.00],
        [0.00, -0.02, 0.06, -0.12],
        [0.30, 0.00, 0.00, 0.00],
    ]
)
_MOUTH_NOISE = np.array([0.025, 0.014, 0.02, 0.014, 0.035])  # usual error of each measure
_MOUTH_SPREAD = np.array([0.4, 0.5, 0.4, 0.3])  # usual size of each factor

# The same for the brow above the eye line (from rest up, from rest down), once as landmarks and once as
# `appearance.read` measures it, and for the iris in eye widths.
_BROW_LANDMARKS, _BROW_READING = (0.09, 0.045), (0.08, 0.05)
_IRIS_X, _IRIS_Y = 0.27, 0.10
_CLOSED_EYE = (0.05, 0.45)  # what a closed eye shows as a share of the open eye: least and most believed

# Widths (standard deviation) of the low-pass in seconds: heads are slow, speaking lips are quick, lids quicker.
_SCALE_SECONDS, _POSE_SECONDS, _EXPRESSION_SECONDS, _SPEECH_SECONDS, _BLINK_SECONDS = 0.2, 0.07, 0.035, 0.025, 0.015

# Limits of the columns of `NAMES`.
_LOW = np.array([-90, -90, -180, -1, -1, 0, 0, -1, 0, 0, -1, -1, 0, 0, -1, -1])
_HIGH = np.array([90, 90, 180, 1, 1, 9, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1])


def _mouth(frontal: np.ndarray, counted: np.ndarray) -> np.ndarray:
    """The factors of `_MOUTH` from its measures: frontal [T, 68, 2] -> [T, 4], the most probable
    explanation.
    """
    y = frontal[..., 1]
    opening = (y[:, [65, 66, 67]] - y[:, [63, 62, 61]]).mean(1)
    lift = y[:, 62] - y[:, [48, 54, 60, 64]].mean(1)
    width = np.linalg.norm(frontal[:, 54] - frontal[:, 48], axis=1)
    lips = (y[:, [56, 57, 58]] - y[:, [50, 51, 52]]).mean(1) - opening
    seen = np.stack([opening, lift, width, lips, y[:, [7, 8, 9]].mean(1) - y[:, 33]], axis=1)
    # Rest: closed lips are the clip's least opening, the other measures their median without the part of
    # the jaw.
    closed = np.clip(np.percentile(opening[counted], 5), 0.0, 0.08)
    by_jaw = (opening - closed)[:, None] * _MOUTH[:, 0] / _MOUTH[0, 0]
    seen = seen - np.median((seen - by_jaw)[counted], axis=0)
    seen[:, 0] = opening - closed
    precise = _MOUTH.T / _MOUTH_NOISE**2
    return seen @ np.linalg.solve(precise @ _MOUTH + np.diag(_MOUTH_SPREAD**-2.0), precise).T


def _eye_opening(frontal: np.ndarray, outer: int) -> np.ndarray:
    """Height between the lids [T] of the eye whose six landmarks start at `outer`."""
    y = frontal[..., 1]
    return (y[:, [outer + 4, outer + 5]] - y[:, [outer + 1, outer + 2]]).mean(1)


def _blink(evidence: list[np.ndarray], counted: np.ndarray) -> np.ndarray:
    """0 open .. 1 closed [T] from measures of how open an eye is.

    The measures are averaged; one counts by how deep it falls in the clip, so that a flat one hardly counts.
    """
    total, weights = np.zeros(len(counted)), 0.0
    for shown in evidence:
        open_level = max(np.percentile(shown[counted], 85), 1e-3)
        closed = np.percentile(shown[counted], 1) / open_level
        weight = (1 - np.clip(closed, 0.0, 0.99)) ** 4
        total += weight * (1 - shown / open_level) / (1 - np.clip(closed, *_CLOSED_EYE))
        weights += weight
    return total / weights


def coefficients(
    landmarks: np.ndarray,
    found: np.ndarray,
    rate: Fraction,
    size: tuple[int, int] | None = None,
    readings: np.ndarray | None = None,
    head: np.ndarray | None = None,
) -> Motion:
    """The motion of one face, of kind "face".

    landmarks: [T, 68, 2] picture pixels. found: [T] bool, False where landmarks are held; those frames are
    bridged by their neighbours. size: (width, height) of a picture that is meant to be in canonical
    framing; shift and scale are then measured in it. Without it they are measured against the clip's own
    usual framing, so that their median is neutral however small the face is in the frame. readings: [T, 2,
    4] of `appearance.read`; without them gaze stays 0 and brows and lids are read from the landmarks alone.
    head: [68, 3], by default `mean_head()`.

    Columns, in the order of `NAMES`: yaw, pitch, roll in degrees (see `rotation`; absolute, nothing is
    subtracted); shift_x, shift_y in picture widths; scale, 1 = canonical; jaw, pucker, press, blink 0..1
    and smile, brow -1..1, all relative to the person's own neutral over the clip; gaze -1..1.
    """
    found = np.asarray(found, bool)
    counted = found if found.any() else np.ones(len(landmarks), bool)
    pose = pose_from_landmarks(landmarks, head)
    frontal = unrotate(landmarks, pose, head)
    out = {name: pose[name] for name in ("yaw", "pitch", "roll")}

    # Where the middle between the eyes would be if the head looked straight ahead, and the crop it would
    # ask for.
    eye_level, distance = eyes_to_mouth(frontal[counted])
    eyes = np.stack([pose["x"], pose["y"] - pose["scale"] * (PIVOT[1] - eye_level)], axis=1)
    side = pose["scale"] * distance / EYE_TO_MOUTH
    above = np.array([0.0, 0.5 - EYE_LEVEL])
    width = np.median(side[counted]) if size is None else size[0]
    centre = np.median(eyes[counted], axis=0) + above * width if size is None else np.array(size) / 2
    out["shift_x"], out["shift_y"] = ((eyes - centre) / width + above).T
    out["scale"] = side / width

    out.update(zip(_MOUTH_FACTORS, _mouth(frontal, counted).T, strict=True))
    for row, (name, brow, outer) in enumerate((("right", slice(17, 22), 36), ("left", slice(22, 27), 42))):
        lids = [_eye_opening(frontal, outer)]
        travel = _BROW_LANDMARKS
        height = frontal[:, [outer, outer + 3], 1].mean(1) - frontal[:, brow, 1].mean(1)
        if readings is not None:
            travel, height = _BROW_READING, readings[:, row, READINGS.index("brow")]
            lids.append(readings[:, row, READINGS.index("colour")])
        raised = height - np.median(height[counted])
        out[f"brow_{name}"] = np.where(raised > 0, raised / travel[0], raised / travel[1])
        out[f"blink_{name}"] = _blink(lids, counted)

    sees = found.astype(float)
    if readings is None:
        out["gaze_x"] = out["gaze_y"] = np.zeros(len(landmarks))
    else:
        iris = readings[..., :2].mean(1)  # of both eyes: what is odd about one side cancels
        out["gaze_x"] = iris[:, 0] / _IRIS_X
        out["gaze_y"] = (iris[:, 1] - np.median(iris[counted, 1])) / _IRIS_Y
        # A closed eye has no gaze: its neighbours in time say.
        sees = sees * np.clip(1.2 - 2 * np.maximum(out["blink_left"], out["blink_right"]), 0, 1)

    values = np.stack([out[name] for name in NAMES], axis=1)
    for columns, seconds, trust in (
        (slice(0, 5), _POSE_SECONDS, found),
        (slice(5, 6), _SCALE_SECONDS, found),
        ([6, 9], _SPEECH_SECONDS, found),
        ([7, 8, 10, 11], _EXPRESSION_SECONDS, found),
        (slice(12, 14), _BLINK_SECONDS, found),
        (slice(14, 16), _EXPRESSION_SECONDS, sees),
    ):
        values[:, columns] = smooth(values[:, columns], rate, seconds, trust)
    values = np.clip(values, _LOW, _HIGH).astype(np.float32)
    placement = place(landmarks, rate, found, head=head)
    return Motion(values, FACE, NAMES, Fraction(rate), placement, tuple(np.flatnonzero(~found).tolist()))


def motion_of(track: Track) -> Motion:
    """The `coefficients` of a tracked face, against the clip's own usual framing."""
    motion = coefficients(track.landmarks, track.counted, track.rate, readings=track.readings)
    return replace(motion, missing=tuple(track.missing), num_faces=track.num_faces)
