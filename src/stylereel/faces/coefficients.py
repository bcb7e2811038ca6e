"""From a track of one face to its motion: where the head points and what the face does, frame by frame.

Landmarks are turned back to the front (see `pose`), and expression is read there, relative to the person's
own neutral face over the clip. What landmarks show poorly, lids, brows and gaze, is taken from `appearance`
where it was read.
"""

from __future__ import annotations

from dataclasses import replace
from fractions import Fraction
from typing import NamedTuple

import numpy as np

from stylereel.core.latents import FACE, Motion
from stylereel.faces.appearance import READINGS
from stylereel.faces.backend import DOUBT, Track
from stylereel.faces.expression import factors, head_pose, measures, rest_of
from stylereel.faces.mesh import IBUG
from stylereel.faces.placement import EYE_LEVEL, EYE_TO_MOUTH, place
from stylereel.faces.pose import PIVOT, eyes_to_mouth, mean_head, pose_from_landmarks, smooth, unrotate

__all__ = ["NAMES", "coefficients", "mean_head", "motion_of", "pose_from_landmarks"]

# The names and order of stylereel.world.factors.MOTION; units in `coefficients`.
NAMES = (
    "yaw", "pitch", "roll", "shift_x", "shift_y", "scale", "jaw", "smile", "pucker", "press",
    "brow_left", "brow_right", "blink_left", "blink_right", "gaze_x", "gaze_y",
    "funnel", "smile_side", "cheek", "jaw_side",
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
_SECONDS = {
    **dict.fromkeys(("yaw", "pitch", "roll", "shift_x", "shift_y"), 0.07), "scale": 0.2,
    **dict.fromkeys(("jaw", "press"), 0.025), **dict.fromkeys(("blink_left", "blink_right"), 0.015),
    **dict.fromkeys(("smile", "pucker", "brow_left", "brow_right", "gaze_x", "gaze_y", "funnel"), 0.035),
    **dict.fromkeys(("smile_side", "cheek", "jaw_side"), 0.035),
}  # fmt: skip

# Limits of the columns of `NAMES`.
LOW = np.array([-90, -90, -180, -1, -1, 0, 0, -1, 0, 0, -1, -1, 0, 0, -1, -1, 0, -1, -1, -1])
HIGH = np.array([90, 90, 180, 1, 1, 9, *[1] * 14])


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

    landmarks: [T, 68, 2] image pixels. found: [T] bool, False where landmarks are held; those frames are
    bridged by their neighbours. size: (width, height) of an image that is meant to be in canonical
    framing; shift and scale are then measured in it. Without it they are measured against the clip's own
    usual framing, so that their median is neutral however small the face is in the frame. readings: [T, 2,
    4] of `appearance.read`; without them gaze stays 0 and brows and lids are read from the landmarks alone.
    head: [68, 3], by default `mean_head()`.

    Columns, in the order of `NAMES`: yaw, pitch, roll in degrees (see `rotation`; absolute, nothing is
    subtracted); shift_x, shift_y in image widths; scale, 1 = canonical; jaw, pucker, press, blink 0..1
    and smile, brow -1..1, all relative to the person's own neutral over the clip; gaze -1..1. The last four, which 68
    landmarks do not show, are 0.
    """
    found = np.asarray(found, bool)
    counted = found if found.any() else np.ones(len(landmarks), bool)
    pose = pose_from_landmarks(landmarks, head)
    frontal = unrotate(landmarks, pose, head)
    out = {name: pose[name] for name in ("yaw", "pitch", "roll")}

    out.update(_framing(pose, frontal, counted, size))
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

    out |= dict.fromkeys(NAMES[-4:], np.zeros(len(landmarks)))
    sees = found.astype(float)
    if readings is None:
        out["gaze_x"] = out["gaze_y"] = np.zeros(len(landmarks))
    else:
        iris = readings[..., :2].mean(1)  # of both eyes: what is odd about one side cancels
        out["gaze_x"] = iris[:, 0] / _IRIS_X
        out["gaze_y"] = (iris[:, 1] - np.median(iris[counted, 1])) / _IRIS_Y
        # A closed eye has no gaze: its neighbours in time say.
        sees = sees * np.clip(1.2 - 2 * np.maximum(out["blink_left"], out["blink_right"]), 0, 1)

    everywhere = found.astype(float)
    values = _steadied(out, rate, dict.fromkeys(NAMES, everywhere) | {"gaze_x": sees, "gaze_y": sees})
    placement = place(landmarks, rate, found, head=head)
    return Motion(values, FACE, NAMES, Fraction(rate), placement, tuple(np.flatnonzero(~found).tolist()))


def _framing(
    pose: dict[str, np.ndarray], frontal: np.ndarray, counted: np.ndarray, size: tuple[int, int] | None
) -> dict[str, np.ndarray]:
    """shift_x, shift_y and scale [T]: where the middle between the eyes would be if the head looked straight ahead, and
    the crop it would ask for; see `coefficients`."""
    eye_level, distance = eyes_to_mouth(frontal[counted])
    eyes = np.stack([pose["x"], pose["y"] - pose["scale"] * (PIVOT[1] - eye_level)], axis=1)
    side = pose["scale"] * distance / EYE_TO_MOUTH
    above = np.array([0.0, 0.5 - EYE_LEVEL])
    width = np.median(side[counted]) if size is None else size[0]
    centre = np.median(eyes[counted], axis=0) + above * width if size is None else np.array(size) / 2
    x, y = ((eyes - centre) / width + above).T
    return {"shift_x": x, "shift_y": y, "scale": side / width}


def _steadied(out: dict[str, np.ndarray], rate: Fraction, trust: dict[str, np.ndarray]) -> np.ndarray:
    """Motion values [T, 20] float32: each track low-passed by its width and limited. Where it is not to be trusted it
    is held; gaps of a few frames are bridged by the low-pass."""
    columns = []
    for name in NAMES:
        known = np.flatnonzero(trust[name] >= DOUBT)
        last = np.maximum(np.searchsorted(known, np.arange(len(trust[name])), side="right") - 1, 0)
        values = np.where(trust[name] >= DOUBT, out[name], out[name][known[last]]) if len(known) else out[name]
        columns.append(smooth(values[:, None], rate, _SECONDS[name], trust[name]))
    return np.clip(np.concatenate(columns, axis=1), LOW, HIGH).astype(np.float32)


class Trust(NamedTuple):
    """How far measures [T, 12] of a mesh, and the tracks [T] of `NAMES` that are read off them, are to be trusted."""

    measures: np.ndarray
    factors: dict[str, np.ndarray]


def trusts(sure: np.ndarray) -> Trust:
    """What follows from how sure the parts [T, 4] are. A brow is read as long as the head is; only lids and irises need
    the eye, and one of both is enough for their factors."""
    pose, mouth, right, left = sure.T.astype(float)
    eyes = np.maximum(right, left)
    by_name: dict[str, np.ndarray] = {
        name: mouth if name in (*_MOUTH_FACTORS, "funnel", "jaw_side") else pose for name in NAMES
    }
    by_name |= dict.fromkeys(("blink_left", "blink_right", "gaze_x", "gaze_y"), eyes)
    return Trust(np.stack([*[mouth] * 4, *[pose] * 2, right, left, right, left, eyes, mouth], axis=1), by_name)


def seen_factors(shown: np.ndarray, rest: np.ndarray, sure: np.ndarray) -> tuple[dict[str, np.ndarray], Trust]:
    """The factors of expression, arrays [T], that measures [T, 12] show next to a rest [12], and how far to trust them,
    by how sure the parts [T, 4] are. A hidden eye does what the other does; closed eyes have no gaze, half-closed ones
    do: people's irises are seen up to a blink of about .7."""
    out, trust = factors(shown, rest), trusts(sure)
    for own, other, left in ((2, 3, False), (3, 2, True)):
        names = ("blink_left", "blink_right") if left else ("blink_right", "blink_left")
        out[names[0]] = np.where((sure[:, own] < DOUBT) & (sure[:, other] >= DOUBT), out[names[1]], out[names[0]])
    open_eyes = np.clip((0.85 - np.minimum(out["blink_left"], out["blink_right"])) / 0.25, 0, 1)
    for name in ("gaze_x", "gaze_y"):
        trust.factors[name] = trust.factors[name] * open_eyes
    return out, trust


def dense_coefficients(track: Track) -> Motion:
    """The `coefficients` of a mesh, see `expression`. Needs a track with points.

    Expression is absolute where people share a scale: the person's rest is estimated next to a population prior. A part
    that is not sure counts as little as it is sure, so that it is held from its neighbours in time. A face that is on
    its side or upside down for most of the clip is turned by quarters first; `turned` gives the degrees.
    """
    assert track.points is not None and track.sure is not None
    sure = np.where(track.found[:, None], track.sure, float(track.bridged)) if track.bridged else track.sure
    counted = track.counted if track.counted.any() else np.ones(len(track.points), bool)
    pose, frontal = head_pose(track.points)
    quarters = int(np.round(np.median(pose["roll"][counted]) / 90)) % 4
    if quarters:
        points = np.concatenate([_quarters(track.points[..., :2], -quarters), track.points[..., 2:]], axis=-1)
        pose, frontal = head_pose(points)
    out = {name: pose[name] for name in ("yaw", "pitch", "roll")}
    out.update(_framing(pose, frontal[:, IBUG, :2], counted, None))

    shown, trust = measures(frontal), trusts(sure)
    expression, trust = seen_factors(shown, rest_of(shown, trust.measures), sure)
    out.update(expression)
    values = _steadied(out, track.rate, trust.factors)
    placement = place(track.landmarks, track.rate, counted)
    return Motion(
        values, FACE, NAMES, track.rate, placement, tuple(track.missing), track.num_faces,
        doubtful=tuple(sorted(set().union(*track.doubtful.values()))), turned=(90 * quarters + 180) % 360 - 180,
    )  # fmt: skip


def _quarters(points: np.ndarray, quarters: int) -> np.ndarray:
    """Points [..., 2] turned clockwise about the origin by quarters of a full turn."""
    turned = points @ np.array([1, 1j]) * 1j**quarters
    return np.stack([turned.real, turned.imag], axis=-1)


def motion_of(track: Track) -> Motion:
    """The motion of a tracked face, against the clip's own usual framing: by its mesh if it has one, else by the
    `coefficients` of its landmarks."""
    if track.points is not None:
        return dense_coefficients(track)
    motion = coefficients(track.landmarks, track.counted, track.rate, readings=track.readings)
    return replace(motion, missing=tuple(track.missing), num_faces=track.num_faces)
