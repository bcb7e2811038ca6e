"""What landmarks miss, read from the pixels around the eyes: the iris, the open lids and the brow.

The readings are plain averages over a small view of the eye region, so they need no model.
"""

from __future__ import annotations

import numpy as np
from numpy.lib.stride_tricks import sliding_window_view
from PIL import Image, ImageDraw
from scipy.ndimage import gaussian_filter

from stylereel.faces.placement import warp
from stylereel.faces.pose import mean_head
from stylereel.faces.sampling import sample

READINGS = ("iris_x", "iris_y", "colour", "brow")

# The front view: pixels a head unit, its top left corner in head coordinates, its width and height in pixels.
_FINE = 100
_LOW = np.array([-0.75, -0.6])
_SIZE = (150, 100)
_LINE = 15  # pixels; what is thinner may be a brow

# Where the upper edge of a brow is looked for: between this far above and below the landmarks (head units), most of all
# a little above them, which follow a raised brow by less than half; in a crop of so many head units with its middle
# above the eyes, of so many pixels, after a blur (pixels down and across).
_EDGE, _EDGE_AT = (0.30, 0.10), (0.02, 0.10)
_TRIM = 0.15  # of a brow's width, at either end of it
_EDGE_CROP, _EDGE_MIDDLE, _EDGE_PIXELS, _EDGE_BLUR = 1.4, -0.25, 90, (1.0, 1.6)

_LOG = np.log(np.arange(256, dtype=np.float32) + 8)  # of a byte; the 8 keeps noise in the dark small

# The front view is anchored to points that keep still: corners of the eyes, root and base of the nose.
_ANCHORS = [36, 39, 42, 45, 27, 31, 33, 35]
_IN_VIEW = (mean_head()[_ANCHORS, :2] - _LOW) * _FINE
_TO_AFFINE = np.linalg.pinv(np.column_stack([_IN_VIEW, np.ones(len(_ANCHORS))]))


def _part(view: np.ndarray, x: tuple[float, float], y: tuple[float, float]) -> np.ndarray:
    """A rectangle of a front view, given in head coordinates."""
    (left, right), (top, bottom) = (
        np.clip(np.round((np.sort(ends) - low) * _FINE), 0, limit).astype(int)
        for ends, low, limit in zip((x, y), _LOW, _SIZE, strict=True)
    )
    return view[top:bottom, left:right]


def brow_edges(frame: np.ndarray, landmarks: np.ndarray) -> np.ndarray:
    """How far the upper edge of the subject's right and left brow is from the landmarks that stand for it.

    Darkness that begins, going down, counts by the square of its slope. Unlike a dark line, it is there as well where a
    frown lays the brow onto the dark of the eye. frame: uint8 [H, W, 3]; landmarks: [68, 2] pixels. Returns [2, 2], x
    and y in pixels of the frame. Raises ValueError when the brows are outside the frame.
    """
    affine = (_TO_AFFINE @ landmarks[_ANCHORS].astype(np.float64)).T
    down = affine[:, 1] * _FINE  # a head unit
    unit = float(np.hypot(*down))
    middle = affine @ (*(np.array([0, _EDGE_MIDDLE]) - _LOW) * _FINE, 1.0)
    roll = np.rad2deg(np.arctan2(-down[0], down[1]))
    square = np.array([*middle, _EDGE_CROP * unit, roll])
    fine = _EDGE_PIXELS / _EDGE_CROP  # pixels of the crop a head unit
    bright = np.log(255 * sample(frame, square, _EDGE_PIXELS).mean(-1) + 10)
    bright = gaussian_filter(bright, _EDGE_BLUR)
    begins = np.zeros_like(bright)
    begins[1:-1] = np.clip(bright[:-2] - bright[2:], 0, None) ** 2
    down /= unit
    places = (landmarks[17:27] - middle) @ np.array([[down[1], down[0]], [-down[0], down[1]]]) / unit * fine
    rows = np.arange(_EDGE_PIXELS) + 0.5 - _EDGE_PIXELS / 2
    off = np.zeros(2)
    for side, brow in enumerate((places[:5], places[5:])):
        low, high = brow[:, 0].min(), brow[:, 0].max()
        ends = np.array([low, high]) + _TRIM * (high - low) * np.array([1, -1])
        first, last = np.clip(np.rint(ends + _EDGE_PIXELS / 2), 0, _EDGE_PIXELS).astype(int)
        above = (brow[:, 1].mean() - rows) / fine
        weight = np.exp(-0.5 * ((above - _EDGE_AT[0]) / _EDGE_AT[1]) ** 2) * ((above < _EDGE[0]) & (above > -_EDGE[1]))
        share = begins[:, first:last].sum(1) * weight
        off[side] = share @ above / share.sum() if share.sum() > 1e-9 else 0.0
    return -off[:, None] * unit * down


def read(frame: np.ndarray, landmarks: np.ndarray) -> np.ndarray:
    """Readings of the subject's right and left side of one frame.

    frame: uint8 [H, W, 3]; landmarks: [68, 2] pixels. Returns float32 [2, 4] in the order of `READINGS`:
    iris x and y (from the middle of the eye corners, in eye widths, image right and down), colour (how
    much the eye's opening differs in hue from the cheek, 0 = closed) and brow (its height above the eye
    line in head units).
    """
    affine = (_TO_AFFINE @ landmarks[_ANCHORS].astype(np.float64)).T
    view = warp(frame, affine, _SIZE)
    points = np.linalg.solve(affine[:, :2], (landmarks - affine[:, 2]).T).T
    bright, colour = np.log(view.mean(-1) + 10), _LOG[view]
    out = np.zeros((2, len(READINGS)))
    for row, (side, outer, brow) in enumerate(((-1, 36, slice(17, 22)), (1, 42, slice(22, 27)))):
        out[row, :2] = _iris(bright, points[outer : outer + 6])
        x = 0.345 * side
        cheek = np.median(_part(colour, (x - 0.12, x + 0.12), (0.18, 0.32)), axis=(0, 1))
        hue = _part(colour, (x - 0.13, x + 0.13), (-0.09, 0.08)) - cheek
        out[row, 2] = np.linalg.norm(hue - hue.mean(-1, keepdims=True), axis=-1).mean()
        # Landmarks follow a lowered brow well and stay behind on the lid when it is raised: look mostly above them.
        level = points[brow, 1].mean() / _FINE + _LOW[1]
        top = max(level - 0.3, _LOW[1])
        band = _part(bright, (0.15 * side, 0.5 * side), (top, level + 0.09))
        out[row, 3] = _dark_line(band) / _FINE - top
    return out.astype(np.float32)


def _iris(bright: np.ndarray, eye: np.ndarray) -> np.ndarray:
    """Centre of what is dark between the lids [2], in eye widths. eye: its six points in the front view."""
    mask = Image.new("1", bright.shape[::-1])
    ImageDraw.Draw(mask).polygon([tuple(point) for point in eye], fill=1)
    y, x = np.nonzero(np.asarray(mask))
    if len(x) < 6:
        return np.zeros(2)
    values = bright[y, x]
    dark = np.clip(np.percentile(values, 40) - values, 0, None) ** 2
    centre = np.stack([x + 0.5, y + 0.5]) @ dark / (dark.sum() + 1e-6)
    corners = eye[[0, 3]]
    return (centre - corners.mean(0)) / np.linalg.norm(corners[1] - corners[0])


def _dark_line(bright: np.ndarray) -> float:
    """Mean height (pixels above the top row, so negative) of a dark line across a part [H, W] of a front view.

    By the black top-hat along the columns: shade, hair and lids, which reach the edge or are wide, do not count.
    """
    padded = np.pad(bright, ((_LINE, _LINE), (0, 0)), mode="edge")
    closed = sliding_window_view(sliding_window_view(padded, _LINE, axis=0).max(-1), _LINE, axis=0).min(-1)[1:-1]
    dark = ((closed - bright) ** 2).sum(1)
    return -float((np.arange(len(bright)) + 0.5) @ dark / (dark.sum() + 1e-6))
