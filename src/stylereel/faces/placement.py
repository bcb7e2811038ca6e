"""Where a face lies in a picture: the steady square crop of each frame, and cutting it out.

A placement is a row (centre x, centre y, side, roll): the centre and side of a square in picture pixels and
the clockwise angle in degrees by which it is turned. Picture pixels are continuous: (0, 0) is the top left
corner and pixel i covers i..i+1. The canonical framing is that of the built-in world: at frontal pose the
middle between the eyes sits at (0.5, 0.43) of the crop and the mouth 0.21 of the crop's height below it.
"""

from __future__ import annotations

from fractions import Fraction

import numpy as np
from PIL import Image

from stylereel.faces.pose import PIVOT, eyes_to_mouth, pose_from_landmarks, smooth, unrotate

EYE_LEVEL = 0.43  # height of the middle between the eyes in the canonical crop
EYE_TO_MOUTH = 0.21  # distance from there to the mouth, both as fractions of the crop's height


def place(
    landmarks: np.ndarray,
    rate: Fraction,
    found: np.ndarray | None = None,
    seconds: float = 0.3,
    head: np.ndarray | None = None,
) -> np.ndarray:
    """The crop of every frame, low-passed in time so that it neither shakes nor breathes with the
    expression.

    The crop follows the pivot of the head, its size and its roll, not single landmarks: what the crop does
    not follow stays in the picture.

    landmarks: [T, 68, 2] picture pixels. found: [T] bool, frames that count. seconds: width (standard
    deviation) of the Gaussian in time. Returns [T, 4] float32: centre x, centre y, side (pixels), roll
    (degrees).
    """
    pose = pose_from_landmarks(landmarks, head)
    counted = slice(None) if found is None or not found.any() else found
    eye_level, distance = eyes_to_mouth(unrotate(landmarks, pose, head)[counted])
    rows = np.stack([pose["x"], pose["y"], pose["scale"], pose["roll"]], axis=1)
    x, y, scale, roll = smooth(rows, rate, seconds, found).T
    side = scale * distance / EYE_TO_MOUTH
    down = scale * (eye_level - PIVOT[1]) + (0.5 - EYE_LEVEL) * side
    angle = np.deg2rad(roll)
    x, y = x - np.sin(angle) * down, y + np.cos(angle) * down
    return np.stack([x, y, side, roll], axis=1).astype(np.float32)


def align(landmarks: np.ndarray, head: np.ndarray | None = None) -> np.ndarray:
    """The canonical crop of one portrait: landmarks [68, 2] picture pixels -> placement row [4] float32."""
    return place(landmarks[None], Fraction(1), head=head)[0]


def to_crop(landmarks: np.ndarray, placement: np.ndarray) -> np.ndarray:
    """Picture pixels to fractions of the crop: landmarks [..., N, 2], placement [..., 4] -> [..., N, 2]."""
    placement = np.asarray(placement, np.float64)[..., None, :]
    return _turned((landmarks - placement[..., :2]) / placement[..., 2:3], -placement[..., 3]) + 0.5


def to_picture(points: np.ndarray, placement: np.ndarray) -> np.ndarray:
    """Fractions of the crop to picture pixels, the inverse of `to_crop`."""
    placement = np.asarray(placement, np.float64)[..., None, :]
    return _turned((points - 0.5) * placement[..., 2:3], placement[..., 3]) + placement[..., :2]


def _turned(points: np.ndarray, degrees: np.ndarray) -> np.ndarray:
    """Points [..., 2] turned clockwise about the origin."""
    x, y = points[..., 0], points[..., 1]
    cos, sin = np.cos(np.deg2rad(degrees)), np.sin(np.deg2rad(degrees))
    return np.stack([cos * x - sin * y, sin * x + cos * y], axis=-1)


def cut(frame: np.ndarray, placement: np.ndarray, size: int) -> np.ndarray:
    """The crop as a picture, by `warp`: uint8 [H, W] or [H, W, 3], placement [4] -> [size, size(, 3)]."""
    origin, right, down = to_picture(np.array([[0.0, 0.0], [1.0, 0.0], [0.0, 1.0]]), placement)
    affine = np.column_stack([(right - origin) / size, (down - origin) / size, origin])
    return warp(frame, affine, (size, size))


def warp(frame: np.ndarray, affine: np.ndarray, size: tuple[int, int]) -> np.ndarray:
    """Resample a part of a frame. frame: uint8 [H, W] or [H, W, 3]; size: (width, height) of the answer in
    pixels.

    affine: [2, 3], from a continuous pixel position (x, y, 1) of the answer to one of the frame. Beyond the
    frame's edge its outermost pixels are repeated. Shrinking averages over areas. Raises ValueError when no
    part of the answer lies in the frame.
    """
    affine = np.asarray(affine, np.float64)
    ends = affine @ np.array([[0, size[0], 0, size[0]], [0, 0, size[1], size[1]], [1, 1, 1, 1]])
    ratio = np.sqrt(abs(np.linalg.det(affine[:, :2])))
    # A whole-number box filter first; its grid is fixed to the frame, so that it does not shimmer.
    shrink = max(1, int(ratio))
    low = (np.floor(ends.min(1)).astype(int) - 2) // shrink * shrink
    high = -((-np.ceil(ends.max(1)).astype(int) - 2) // shrink) * shrink
    height, width = frame.shape[:2]
    if (high <= 0).any() or (low >= (width, height)).any():
        raise ValueError("The crop lies outside the picture; place it on the face.")
    before, after = np.maximum(-low, 0), np.maximum(high - (width, height), 0)
    region = frame[max(low[1], 0) : high[1], max(low[0], 0) : high[0]]
    if before.any() or after.any():
        pad = [(before[1], after[1]), (before[0], after[0]), (0, 0)][: frame.ndim]
        region = np.pad(region, pad, mode="edge")
    picture = Image.fromarray(np.ascontiguousarray(region))
    if shrink > 1:
        picture = picture.reduce(shrink)
    # What is left of the shrinking is a factor under 2: sample twice as densely and average.
    dense = 2 if ratio / shrink > 1.25 else 1
    linear, start = affine[:, :2] / (shrink * dense), (affine[:, 2] - low) / shrink
    rows = (linear[0, 0], linear[0, 1], start[0], linear[1, 0], linear[1, 1], start[1])
    target = (size[0] * dense, size[1] * dense)
    picture = picture.transform(target, Image.Transform.AFFINE, rows, Image.Resampling.BILINEAR)
    return np.asarray(picture.reduce(dense) if dense > 1 else picture)
