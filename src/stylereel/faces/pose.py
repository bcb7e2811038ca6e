"""The head in 68 landmarks: its mean shape, where it points and how it moves in time.

The head is a table of 68 points in head coordinates: x to the image's right, y down, z towards the
viewer, origin between the outer corners of the eyes, unit = the distance between them (about 90 mm in an
adult). Pose is found by weak-perspective fitting of the parts that keep still.
"""

from __future__ import annotations

from fractions import Fraction

import numpy as np

# Head coordinates in millimetres of one side (image left) and the middle line, by common adult
# proportions: face 142 wide at the ears, 118 from eye line to chin, eyes 29 wide, nose 47 long and 38 wide
# of base to tip, mouth 52.
_SIDE = {
    0: (-71, 4, -70), 1: (-70, 22, -69), 2: (-68, 40, -66), 3: (-64, 58, -60), 4: (-57, 75, -50),
    5: (-47, 91, -34), 6: (-34, 104, -14), 7: (-18, 114, 4),
    17: (-58, -15, -4), 18: (-49, -22, 7), 19: (-37, -25, 14), 20: (-24, -24, 18), 21: (-12, -19, 20),
    31: (-14, 43.5, 23), 32: (-7, 45.5, 28),
    36: (-45, 0, 0), 37: (-37, -4.5, 6), 38: (-27, -4.5, 9), 39: (-17.5, 1, 7), 40: (-27, 4, 8),
    41: (-37, 3.5, 5),
    48: (-26, 70, 16), 49: (-17, 64.5, 25), 50: (-7, 61, 31), 59: (-16, 76, 23), 58: (-8, 79.5, 27),
    60: (-21, 70, 18), 61: (-7, 69, 28), 67: (-7, 70, 27),
}  # fmt: skip
_MIDDLE = {
    8: (0, 118, 12), 27: (0, -4, 19), 28: (0, 8, 25), 29: (0, 20, 34), 30: (0, 32, 42), 33: (0, 47, 30),
    51: (0, 62.5, 32), 57: (0, 80.5, 28), 62: (0, 69, 29), 66: (0, 70, 28),
}  # fmt: skip
_UNIT = 90.0

# Landmark i of the mirrored face is landmark MIRROR[i].
MIRROR = np.array(
    [*range(16, -1, -1), *range(26, 16, -1), 27, 28, 29, 30, 35, 34, 33, 32, 31, 45, 44, 43, 42, 47, 46,
     39, 38, 37, 36, 41, 40, *range(54, 47, -1), 59, 58, 57, 56, 55, 64, 63, 62, 61, 60, 67, 66, 65]
)  # fmt: skip

# The point about which a head turns.
PIVOT = np.array([0.0, 0.31, -0.65])

# How much each landmark shows of the pose: corners of the eyes and the nose hardly move with expression.
_STEADY = np.full(68, 0.02)
_STEADY[[0, 1, 2, 14, 15, 16]] = 0.1
_STEADY[17:27] = 0.05
_STEADY[27:31] = 1.0
_STEADY[31:36] = 0.7
_STEADY[[36, 39, 42, 45]] = 0.7  # they creep inwards when the lids close
_STEADY[[48, 54]] = 0.1


def mean_head() -> np.ndarray:
    """The 68 landmarks of an average closed-mouth face in head coordinates, float64 [68, 3], symmetric."""
    head = np.zeros((68, 3))
    for table in (_SIDE, _MIDDLE):
        for index, point in table.items():
            head[index] = point
            head[MIRROR[index]] = (-point[0], point[1], point[2])
    return head / _UNIT


def rotation(angles: np.ndarray) -> np.ndarray:
    """Rotation matrices [..., 3, 3] of angles [..., 3] (yaw, pitch, roll in degrees).

    yaw > 0 moves the nose to the image's right, pitch > 0 moves it up, roll > 0 turns clockwise; applied
    in the order pitch, yaw, roll.
    """
    (cy, cp, cr), (sy, sp, sr) = (np.moveaxis(f(np.deg2rad(angles)), -1, 0) for f in (np.cos, np.sin))
    one, nil = np.ones_like(cy), np.zeros_like(cy)

    def matrix(*rows: np.ndarray) -> np.ndarray:
        return np.stack(rows, axis=-1).reshape(*cy.shape, 3, 3)

    yaw = matrix(cy, nil, sy, nil, one, nil, -sy, nil, cy)
    pitch = matrix(one, nil, nil, nil, cp, -sp, nil, sp, cp)
    roll = matrix(cr, -sr, nil, sr, cr, nil, nil, nil, one)
    return roll @ yaw @ pitch


def smooth(values: np.ndarray, rate: Fraction, seconds: float, weight: np.ndarray | None = None) -> np.ndarray:
    """Gaussian low-pass in time without lag.

    values: [T, K]; seconds: standard deviation of the Gaussian; weight: [T], 0 where a frame is unknown.
    """
    frames = len(values)
    weight = np.ones(frames) if weight is None or not np.any(weight) else np.asarray(weight, float)
    sigma = max(float(rate) * seconds, 1e-3)
    reach = min(int(np.ceil(3 * sigma)), frames - 1)
    kernel = np.exp(-0.5 * (np.arange(-reach, reach + 1) / sigma) ** 2)
    # A whisper of weight everywhere lets a long gap still find its neighbours' held values.
    weight = weight + 1e-6
    columns = np.column_stack([values * weight[:, None], weight])
    padded = np.pad(columns, [(reach, reach), (0, 0)], mode="reflect")
    total = np.stack([np.convolve(column, kernel, mode="valid") for column in padded.T], axis=1)
    return total[:, :-1] / total[:, -1:]


def pose_from_landmarks(landmarks: np.ndarray, head: np.ndarray | None = None) -> dict[str, np.ndarray]:
    """Pose of every frame by weighted weak-perspective fitting (Gauss-Newton, robust to single bad
    landmarks).

    landmarks: [T, 68, 2] image pixels. head: [68, 3] head coordinates, by default `mean_head()`. Returns
    arrays [T]: yaw, pitch, roll (degrees), scale (pixels per head unit), x, y (pixels: where the pivot of
    the head is seen) and residual (root mean square of the weighted misfit in head units; large means
    untrustworthy).
    """
    head = mean_head() if head is None else head
    chunks = [landmarks[start : start + 2000] for start in range(0, len(landmarks), 2000)]  # bounded memory
    columns = np.concatenate([_fit(np.asarray(chunk, np.float64), head - PIVOT) for chunk in chunks]).T
    columns[2] = np.unwrap(columns[2], period=360)  # an upside-down head is near 180 and -180
    return dict(zip(("yaw", "pitch", "roll", "scale", "x", "y", "residual"), columns, strict=True))


def _fit(points: np.ndarray, head: np.ndarray) -> np.ndarray:
    """The columns of `pose_from_landmarks` [T, 7] for points [T, 68, 2], head about its pivot [68, 3]."""
    frames = len(points)
    outer = points[:, 45] - points[:, 36]
    state = np.zeros((frames, 6))  # yaw, pitch, roll, log scale, x, y
    state[:, 2] = np.rad2deg(np.arctan2(outer[:, 1], outer[:, 0]))
    state[:, 3] = np.log(np.linalg.norm(outer, axis=1))
    state[:, 4:] = points[:, [27, 28, 29, 30, 33, 36, 45]].mean(1)

    def project(state: np.ndarray) -> np.ndarray:
        seen = head @ np.swapaxes(rotation(state[:, :3]), -1, -2)[..., :2]
        return seen * np.exp(state[:, 3])[:, None, None] + state[:, None, 4:]

    weight = np.broadcast_to(_STEADY, (frames, 68))
    for step in range(12):
        seen = project(state)
        miss = points - seen
        if step >= 4:  # Cauchy weights, once the rough pose is found
            weight = _STEADY / (1 + ((miss**2).sum(-1) / np.exp(2 * state[:, 3])[:, None]) / 0.06**2)
        jacobian = np.empty((frames, 68, 2, 6))
        for axis in range(3):
            moved = state.copy()
            moved[:, axis] += 0.01
            jacobian[..., axis] = (project(moved) - seen) / 0.01
        jacobian[..., 3] = seen - state[:, None, 4:]
        jacobian[..., 4:] = np.eye(2)
        flat = jacobian.reshape(frames, 136, 6)
        weighted = flat * np.repeat(weight, 2, axis=1)[..., None]
        normal = np.einsum("tni,tnj->tij", weighted, flat) + np.diag([1e-6] * 6)
        pull = np.einsum("tni,tn->ti", weighted, miss.reshape(frames, 136))
        state += np.linalg.solve(normal, pull[..., None])[..., 0]
        state[:, :2] = np.clip(state[:, :2], -80, 80)
    scale = np.exp(state[:, 3])
    miss = ((points - project(state)) ** 2).sum(-1) / scale[:, None] ** 2
    residual = np.sqrt((miss * _STEADY).sum(1) / _STEADY.sum())
    return np.column_stack([state[:, :3], scale, state[:, 4:], residual])


def unrotate(landmarks: np.ndarray, pose: dict[str, np.ndarray], head: np.ndarray | None = None) -> np.ndarray:
    """Landmarks as they would be seen from the front, [T, 68, 2] in head coordinates.

    Each landmark keeps the depth it has on `head`; x and y follow from where it is seen, so that
    foreshortening is undone with it.
    """
    head = mean_head() if head is None else head
    turn = rotation(np.stack([pose["yaw"], pose["pitch"], pose["roll"]], axis=-1))[:, :2]
    seen = (landmarks - np.stack([pose["x"], pose["y"]], -1)[:, None]) / pose["scale"][:, None, None]
    flat = seen - (head[:, 2] - PIVOT[2])[None, :, None] * turn[:, None, :, 2]
    return flat @ np.swapaxes(np.linalg.inv(turn[..., :2]), -1, -2) + PIVOT[:2]


def eyes_to_mouth(frontal: np.ndarray) -> tuple[float, float]:
    """Height of the middle between the eyes and its distance from the mouth's corners, of frontal [T, 68, 2].

    Head units; a person's own proportions, so one pair of numbers for the clip (medians).
    """
    eyes, mouth = frontal[:, [36, 39, 42, 45], 1].mean(1), frontal[:, [48, 54], 1].mean(1)
    return float(np.median(eyes)), float(np.median(mouth - eyes))
