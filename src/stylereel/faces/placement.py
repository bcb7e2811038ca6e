"""The steady square crop of a face in each frame, and cutting it out.

There are several ways to place a crop, each for the network that was trained on it: `place` (the built-in world's
framing), `place_ffhq`, `place_by_eyes`, `place_window`, and `registration.place_registered`. All give the same rows,
so all have the same inverse. `stylegan3_transform` hands a placement to StyleGAN3 instead of the camera.

A placement is a row (centre x, centre y, side, roll): the centre and side of a square in image pixels and
the clockwise angle in degrees by which it is turned. Image pixels are continuous: (0, 0) is the top left
corner and pixel i covers i..i+1. The canonical framing is that of the built-in world: at frontal pose the
middle between the eyes sits at (0.5, 0.43) of the crop and the mouth 0.21 of the crop's height below it.
"""

from __future__ import annotations

from fractions import Fraction

import numpy as np
from PIL import Image

from stylereel.faces.pose import PIVOT, eyes_to_mouth, mean_head, pose_from_landmarks, rotation, smooth, unrotate

EYE_LEVEL = 0.43  # height of the middle between the eyes in the canonical crop
EYE_TO_MOUTH = 0.21  # distance from there to the mouth, both as fractions of the crop's height
FACE_DEPTH = 0.27  # of the skin between eyes and mouth, in the head coordinates of `pose`


def place(
    landmarks: np.ndarray,
    rate: Fraction,
    found: np.ndarray | None = None,
    seconds: float = 0.3,
    head: np.ndarray | None = None,
) -> np.ndarray:
    """The crop of every frame, low-passed in time so that it neither shakes nor breathes with the
    expression.

    The crop follows the middle between eyes and mouth of the fitted head, its size and its roll, not single
    landmarks: a turned face stays where a frontal one is, as `world.align` draws it.

    landmarks: [T, 68, 2] image pixels. found: [T] bool, frames that count. seconds: width (standard
    deviation) of the Gaussian in time. Returns [T, 4] float32: centre x, centre y, side (pixels), roll
    (degrees).
    """
    pose = pose_from_landmarks(landmarks, head)
    counted = slice(None) if found is None or not found.any() else found
    middles = _middles(pose, unrotate(landmarks, pose, head)[counted])
    return _framed(smooth(middles, rate, seconds, found), head)


def place_pose(pose: dict[str, np.ndarray], frontal: np.ndarray) -> np.ndarray:
    """`place` of frames whose pose is known, without its low-pass: as `pose.pose_from_landmarks` gives it, with the
    landmarks turned to the front [T, 68, 2] in head coordinates."""
    return _framed(_middles(pose, frontal))


def _middles(pose: dict[str, np.ndarray], frontal: np.ndarray) -> np.ndarray:
    """Where the middle between eyes and mouth is in each frame, with the head's scale and roll: rows [T, 4]."""
    eye_level, distance = eyes_to_mouth(frontal)
    middle = np.array([0.0, eye_level + distance / 2, FACE_DEPTH]) - PIVOT
    turn = rotation(np.stack([pose["yaw"], pose["pitch"], pose["roll"]], axis=-1))
    seen = pose["scale"][:, None] * (turn @ middle)[:, :2]
    return np.stack([pose["x"] + seen[:, 0], pose["y"] + seen[:, 1], pose["scale"], pose["roll"]], axis=1)


def _framed(middles: np.ndarray, head: np.ndarray | None = None) -> np.ndarray:
    """The canonical crops [T, 4] float32 for rows of `_middles`."""
    x, y, scale, roll = middles.T
    # The mean head says how large a face is: its fit is twice as steady as one mouth's height.
    usual = eyes_to_mouth((mean_head() if head is None else head)[None, :, :2])[1]
    side = scale * usual / EYE_TO_MOUTH
    down = (0.5 - EYE_LEVEL - EYE_TO_MOUTH / 2) * side
    angle = np.deg2rad(roll)
    x, y = x - np.sin(angle) * down, y + np.cos(angle) * down
    return np.stack([x, y, side, roll], axis=1).astype(np.float32)


def align(landmarks: np.ndarray, head: np.ndarray | None = None) -> np.ndarray:
    """The canonical crop of one portrait: landmarks [68, 2] image pixels -> placement row [4] float32."""
    return place(landmarks[None], Fraction(1), head=head)[0]


def place_ffhq(
    landmarks: np.ndarray, rate: Fraction = Fraction(1), found: np.ndarray | None = None, seconds: float = 0.0
) -> np.ndarray:
    """The crop of the FFHQ data set (Karras et al. 2019), which follows eyes and mouth: what its generators know.

    It breathes when the mouth opens; seconds > 0 low-passes it as `place` does, whose arguments and answer it shares.
    """
    eyes, across = _eyes(landmarks, slice(36, 42), slice(42, 48))
    down = landmarks[:, [48, 54]].mean(1) @ (1, 1j) - eyes
    right = across - 1j * down  # both say which way is up
    side = 2 * np.maximum(2.0 * np.abs(across), 1.8 * np.abs(down))
    return _low_passed(_rows(eyes + 0.1 * down, side, right), rate, (seconds,) * 4, found)


def place_by_eyes(
    landmarks: np.ndarray, rate: Fraction, found: np.ndarray | None = None, seconds: float = 0.3
) -> np.ndarray:
    """FFHQ's crop from the corners of the eyes alone, so that no mouth moves it (StyleVideoGAN, 2021).

    Rotation and scale are low-passed with the Gaussian of `seconds`; the position keeps up with the head and is
    low-passed by a sixth of that, which the paper does not do. Arguments and answer as for `place`.
    """
    eyes, across = _eyes(landmarks, [36, 39], [42, 45])
    head_eyes, head_across = _eyes(mean_head()[None, :, :2], [36, 39], [42, 45])
    mouth = mean_head()[[48, 54], :2].mean(0) @ (1, 1j) - head_eyes[0]
    down = across * (mouth / head_across[0])
    side = 2 * np.maximum(2.0 * np.abs(across), 1.8 * np.abs(down))
    widths = (seconds / 6, seconds / 6, seconds, seconds)
    return _low_passed(_rows(eyes + 0.1 * down, side, across), rate, widths, found)


def place_window(landmarks: np.ndarray, rate: Fraction, found: np.ndarray | None = None) -> np.ndarray:
    """One upright square for the whole clip, in which the head may move (StyleFaceV, StyleHEAT).

    The smallest square that holds the canonical crop of every frame turned upright, of the clip's median size.
    Arguments and answer as for `place`.
    """
    rows = place(landmarks, rate, found)
    x, y, side, _ = (rows if found is None or not found.any() else rows[found]).T
    side = np.median(side) + max(np.ptp(x), np.ptp(y))
    row = ((x.min() + x.max()) / 2, (y.min() + y.max()) / 2, side, 0.0)
    return np.tile(np.array(row, np.float32), (len(rows), 1))


def to_builtin_framing(rows: np.ndarray, canonical: np.ndarray) -> np.ndarray:
    """Placements [T, 4] of whatever kind, in the size and place of the built-in framing [T, 4] of the same frames.

    Between the two is one similarity, their median over the clip, so that the crop moves as steadily as before.
    """
    inside = np.median(to_crop(canonical[:, None, :2], rows)[:, 0], axis=0)
    centre = to_picture(np.broadcast_to(inside, (len(rows), 1, 2)), rows)[:, 0]
    side = rows[:, 2] * np.median(canonical[:, 2] / rows[:, 2])
    roll = rows[:, 3] + np.median(canonical[:, 3] - rows[:, 3])
    return np.column_stack([centre, side, roll]).astype(np.float32)


def stylegan3_transform(placement: np.ndarray, window: np.ndarray) -> np.ndarray:
    """Where StyleGAN3 has to put an aligned face so that it is in `window` where the camera saw it.

    placement: rows [..., 4] of the aligned crops; window: row [..., 4] of what is shown. Returns [..., 3, 3] float64
    for the argument `transform` of `StyleGAN3.synthesize`: from the aligned image to the window, origin in the
    middle, unit = width of the image. The buffer in a StyleGAN3 file holds the inverse of such a matrix.
    """
    corners = np.array([[0.5, 0.5], [1.5, 0.5], [0.5, 1.5]])
    middle, right, down = np.moveaxis(to_crop(to_picture(corners, placement), window), -2, 0)
    matrix = np.zeros((*middle.shape[:-1], 3, 3))
    matrix[..., :2, :] = np.stack([right - middle, down - middle, middle - 0.5], axis=-1)
    matrix[..., 2, 2] = 1
    return matrix


def placement_from_stylegan3(transform: np.ndarray, window: np.ndarray) -> np.ndarray:
    """The rows [..., 4] float32 of which `stylegan3_transform` made `transform` [..., 3, 3] for `window`."""
    turn, window = transform[..., 0, 0] + 1j * transform[..., 1, 0], np.asarray(window, np.float64)
    centre = to_picture(transform[..., None, :2, 2] + 0.5, window)[..., 0, :]
    size, angle = np.abs(turn) * window[..., 2], np.rad2deg(np.angle(turn)) + window[..., 3]
    return np.concatenate([centre, size[..., None], angle[..., None]], axis=-1).astype(np.float32)


def _eyes(landmarks: np.ndarray, right: slice | list[int], left: slice | list[int]) -> tuple[np.ndarray, np.ndarray]:
    """Middle between the eyes, and the way from the subject's right eye to the left, complex [T]."""
    first, second = (landmarks[:, eye].mean(1) @ (1, 1j) for eye in (right, left))
    return (first + second) / 2, second - first


def _rows(centre: np.ndarray, side: np.ndarray, right: np.ndarray) -> np.ndarray:
    """Placement rows [T, 4] from complex centres, sides, and complex directions of the crop's upper edge."""
    angle = np.rad2deg(np.unwrap(np.angle(right)))
    return np.stack([np.real(centre), np.imag(centre), side, angle], axis=1)


def _low_passed(rows: np.ndarray, rate: Fraction, seconds: tuple[float, ...], found: np.ndarray | None) -> np.ndarray:
    """Rows [T, 4] smoothed column by column, each with its own width in seconds; float32."""
    columns = [
        smooth(rows[:, i : i + 1], rate, width, found) if width else rows[:, i : i + 1]
        for i, width in enumerate(seconds)
    ]
    return np.concatenate(columns, axis=1).astype(np.float32)


def to_crop(landmarks: np.ndarray, placement: np.ndarray) -> np.ndarray:
    """Image pixels to fractions of the crop: landmarks [..., N, 2], placement [..., 4] -> [..., N, 2]."""
    placement = np.asarray(placement, np.float64)[..., None, :]
    return _turned((landmarks - placement[..., :2]) / placement[..., 2:3], -placement[..., 3]) + 0.5


def to_picture(points: np.ndarray, placement: np.ndarray) -> np.ndarray:
    """Fractions of the crop to image pixels, the inverse of `to_crop`."""
    placement = np.asarray(placement, np.float64)[..., None, :]
    return _turned((points - 0.5) * placement[..., 2:3], placement[..., 3]) + placement[..., :2]


def _turned(points: np.ndarray, degrees: np.ndarray) -> np.ndarray:
    """Points [..., 2] turned clockwise about the origin."""
    x, y = points[..., 0], points[..., 1]
    cos, sin = np.cos(np.deg2rad(degrees)), np.sin(np.deg2rad(degrees))
    return np.stack([cos * x - sin * y, sin * x + cos * y], axis=-1)


def cut(frame: np.ndarray, placement: np.ndarray, size: int, beyond: int | None = None) -> np.ndarray:
    """The crop as an image, by `warp`: uint8 [H, W] or [H, W, 3], placement [4] -> [size, size(, 3)]."""
    origin, right, down = to_picture(np.array([[0.0, 0.0], [1.0, 0.0], [0.0, 1.0]]), placement)
    affine = np.column_stack([(right - origin) / size, (down - origin) / size, origin])
    return warp(frame, affine, (size, size), beyond)


def warp(frame: np.ndarray, affine: np.ndarray, size: tuple[int, int], beyond: int | None = None) -> np.ndarray:
    """Resample a part of a frame. frame: uint8 [H, W] or [H, W, 3]; size: (width, height) of the answer in
    pixels.

    affine: [2, 3], from a continuous pixel position (x, y, 1) of the answer to one of the frame. beyond: the level,
    0..255, of what is beyond the frame's edge; None repeats the outermost pixels, as networks expect. Shrinking
    averages over areas. Raises ValueError when no part of the answer is in the frame.
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
        raise ValueError("The crop is outside the image; place it on the face.")
    before, after = np.maximum(-low, 0), np.maximum(high - (width, height), 0)
    region = frame[max(low[1], 0) : high[1], max(low[0], 0) : high[0]]
    if before.any() or after.any():
        pad = [(before[1], after[1]), (before[0], after[0]), (0, 0)][: frame.ndim]
        if beyond is None:
            region = np.pad(region, pad, mode="edge")
        else:
            region = np.pad(region, pad, constant_values=beyond)
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
