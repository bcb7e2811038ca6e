"""Putting a changed crop back into the frame it was cut from, without a visible border.

The crop is faded in by a mask that is soft at its rim, after its colours were moved towards the frame's along that
rim. Pixels outside the mask keep their bytes.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from PIL import Image

from stylereel.faces.placement import EYE_LEVEL, to_crop, to_picture, warp

# The mask is a superellipse around the middle between the eyes. It reaches from the crop's top to the neck and leaves
# out the shoulders, which in most images do not turn with the head.
_NECK = 0.9  # height in the crop at which it ends
_ROUND = 5  # its exponent: 2 is an ellipse, infinity a rectangle
_RIM, _NECK_RIM = 0.12, 0.4  # how wide its soft rim is, in half sizes, around the head and on the neck
_CELLS = 16  # the colour correction is found on a grid of so many cells a side
_COLOUR = 24.0  # levels of 8 bits: what differs by much more is another thing, not another colour


class Pasted(NamedTuple):
    """A frame uint8 [H, W, 3] with the crop in it, and its seam (see `paste`)."""

    frame: np.ndarray
    seam: float


def paste(frame: np.ndarray, crop: np.ndarray, placement: np.ndarray) -> Pasted:
    """The crop uint8 [h, h, 3] laid over the frame uint8 [H, W, 3] at its placement [4].

    The seam is the slope that belongs to neither image, in levels of 8 bits a pixel: the gradient of a blend
    m a + (1 - m) b is that of a and b, mixed, plus (a - b) times the gradient of m. Its mean along the rim is given,
    weighted by that gradient; a hard edge would give the whole difference between the two images.
    """
    height, width = frame.shape[:2]
    corners = to_picture(np.array([[0, 0], [1, 0], [0, 1], [1, 1]]), placement)
    left, top = np.clip(np.floor(corners.min(0)).astype(int), 0, (width, height))
    right, bottom = np.clip(np.ceil(corners.max(0)).astype(int), 0, (width, height))
    if right - left < 2 or bottom - top < 2:  # the crop is outside the frame
        return Pasted(frame.copy(), 0.0)
    origin, to_right, down = to_crop(np.array([[left, top], [left + 1, top], [left, top + 1]], float), placement)
    affine = np.column_stack([to_right - origin, down - origin, origin])
    y, x = np.indices((bottom - top, right - left), np.float32) + np.float32(0.5)
    mask = _mask(*(np.float32(row[0]) * x + np.float32(row[1]) * y + np.float32(row[2]) for row in affine))

    below = frame[top:bottom, left:right].astype(np.float32)
    above = warp(crop, affine * len(crop), (right - left, bottom - top)).astype(np.float32)
    above += _colour_shift(below - above, mask)
    blend = np.rint(np.clip(below + mask[..., None] * (above - below), 0, 255)).astype(np.uint8)
    result = frame.copy()
    result[top:bottom, left:right] = np.where(mask[..., None] > 0, blend, result[top:bottom, left:right])

    slope = np.hypot(*np.gradient(mask))
    rim = slope > 0
    difference = np.abs(above[rim] - below[rim]).mean(-1)
    return Pasted(result, float(slope[rim] ** 2 @ difference / max(slope.sum(), 1e-6)))


def _mask(x: np.ndarray, y: np.ndarray) -> np.ndarray:
    """How much of the crop shows [H, W], 0 to 1, at positions x and y [H, W] in fractions of the crop."""
    x, y = 2 * x - 1, y - EYE_LEVEL
    y = np.where(y > 0, y / (_NECK - EYE_LEVEL), y / EYE_LEVEL)
    rim = _RIM + (_NECK_RIM - _RIM) * np.clip(y, 0, 1)
    rising = np.clip((1 - (np.abs(x) ** _ROUND + np.abs(y) ** _ROUND) ** (1 / _ROUND)) / rim, 0, 1)
    return (rising**2 * (3 - 2 * rising)).astype(np.float32)


def _colour_shift(difference: np.ndarray, mask: np.ndarray) -> np.ndarray:
    """What to add to the crop [H, W, 3]: the difference on the rim, carried inwards by inverse squared distance."""
    size, step = difference.shape[1::-1], max(1, min(mask.shape) // (8 * _CELLS))  # a sample of the pixels will do
    difference, mask = difference[::step, ::step], mask[::step, ::step]
    # A difference counts by how much it looks like one of colour, and by how near the middle of the rim it is.
    likely = 1 / (1 + (np.abs(difference).max(-1) / _COLOUR) ** 2)
    weight = mask * (1 - mask) * likely
    counted = np.dstack([weight, weight[..., None] * difference])
    cells = _resized(counted, (_CELLS, _CELLS)).reshape(_CELLS**2, 4)
    y, x = np.indices((_CELLS, _CELLS)).reshape(2, -1)
    near = 1 / ((x[:, None] - x) ** 2 + (y[:, None] - y) ** 2 + 0.5)
    total = near @ cells
    shift = (total[:, 1:] / (total[:, :1] + 1e-6)).reshape(_CELLS, _CELLS, 3)
    return _resized(shift / (1 + (shift / (2 * _COLOUR)) ** 4), size)


def _resized(field: np.ndarray, size: tuple[int, int]) -> np.ndarray:
    """A field [H, W, C] at another (width, height), float32: averaged when it shrinks, smooth when it grows."""
    parts = (Image.fromarray(np.ascontiguousarray(part, np.float32)) for part in np.moveaxis(field, -1, 0))
    return np.dstack([np.asarray(part.resize(size, Image.Resampling.BILINEAR)) for part in parts])
