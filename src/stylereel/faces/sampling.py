"""Square crops for networks that look at every frame: quick, straight into their input."""

from __future__ import annotations

import numpy as np
from numba import njit, types

from stylereel.core import compiled  # noqa: F401 (before any kernel)
from stylereel.faces.placement import to_picture

_FRAME = types.Array(types.uint8, 3, "C", readonly=True)


@njit(
    types.void(_FRAME, *[types.float64] * 6, types.int64, *[types.float32] * 2, types.float32[:, :, ::1]),
    cache=True,
    fastmath=True,
)
def _sample(frame, left, top, right_x, right_y, down_x, down_y, dense, scale, low, out):
    height, width = frame.shape[:2]
    none, one, next_one = np.float32(0), np.float32(1), np.uint32(1)
    share = np.float32(1.0 / (dense * dense)) * scale
    right_edge, bottom_edge = np.float32(width - 1.001), np.float32(height - 1.001)
    for row in range(out.shape[0]):
        for column in range(out.shape[1]):
            red = green = blue = none
            from_x = left + column * right_x + row * down_x - 0.5
            from_y = top + column * right_y + row * down_y - 0.5
            for below in range(dense):
                y = (below + 0.5) / dense
                for beside in range(dense):
                    x = (beside + 0.5) / dense
                    at_x = min(max(np.float32(from_x + x * right_x + y * down_x), none), right_edge)
                    at_y = min(max(np.float32(from_y + x * right_y + y * down_y), none), bottom_edge)
                    # By way of int32, which processors convert to; unsigned, so that none is meant from the end.
                    first_i, first_j = np.int32(at_y), np.int32(at_x)
                    b, a = at_y - np.float32(first_i), at_x - np.float32(first_j)
                    i, j = np.uint32(first_i), np.uint32(first_j)
                    k, m = i + next_one, j + next_one
                    p, q, r, s = (one - b) * (one - a), (one - b) * a, b * (one - a), b * a
                    red += p * frame[i, j, 0] + q * frame[i, m, 0] + r * frame[k, j, 0] + s * frame[k, m, 0]
                    green += p * frame[i, j, 1] + q * frame[i, m, 1] + r * frame[k, j, 1] + s * frame[k, m, 1]
                    blue += p * frame[i, j, 2] + q * frame[i, m, 2] + r * frame[k, j, 2] + s * frame[k, m, 2]
            out[row, column, 0] = red * share + low
            out[row, column, 1] = green * share + low
            out[row, column, 2] = blue * share + low


def sample(frame: np.ndarray, placement: np.ndarray, size: int, low: float = 0.0) -> np.ndarray:
    """The crop of a frame uint8 [H, W, 3] at a placement [4], float32 [size, size, 3]; black is `low` and white 1.

    What is shrunk more than threefold is averaged over a grid of points half as dense as the frame's pixels; beyond the
    edge the outermost pixels are repeated. Raises ValueError when the crop is outside the frame, which has 2 x 2
    pixels or more.
    """
    corners = to_picture(np.array([[0.0, 0.0], [1.0, 0.0], [0.0, 1.0], [1.0, 1.0]]), placement)
    height, width = frame.shape[:2]
    if (corners.max(0) <= 0).any() or (corners.min(0) >= (width, height)).any():
        raise ValueError("The crop is outside the image; place it on the face.")
    if min(height, width) < 2:
        raise ValueError("No face fits into an image of one pixel's width; give a larger one.")
    (left, top), right, down = corners[0], (corners[1] - corners[0]) / size, (corners[2] - corners[0]) / size
    dense = int(np.clip(round(placement[2] / size / 2), 1, 16))
    out = np.empty((size, size, 3), np.float32)
    (right_x, right_y), (down_x, down_y) = right, down
    scale, black = np.float32((1 - low) / 255), np.float32(low)
    _sample(np.ascontiguousarray(frame), left, top, right_x, right_y, down_x, down_y, dense, scale, black, out)
    return out
