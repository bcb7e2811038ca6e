"""A crop that is fixed to the head: every frame is registered to a key frame by its pixels.

Landmarks move with the expression, so a crop that follows them trembles and breathes. Here a similarity is found that
lays the steady parts of the face (nose, cheeks, forehead; neither eyes and brows nor mouth and jaw) onto those of a
key frame, as Expressive Talking Head Video Encoding (2023) asks for, by the robust parametric optical flow of Black
and Yacoob (1997) in its inverse compositional form (Baker and Matthews 2004). When the head turns out of the plane,
another key frame is taken; a head that turns back returns to its old key frame, which prevents drift.
"""

from __future__ import annotations

from collections.abc import Iterable
from fractions import Fraction

import numpy as np
from PIL import Image, ImageDraw

from stylereel.faces.placement import cut, place, to_crop
from stylereel.faces.pose import pose_from_landmarks, smooth

_TURN = 8.0  # degrees of yaw or pitch from the key frame at which another is taken
_FADE_SECONDS = 0.3  # how fast the crop goes from where one key frame leaves it to where an old one wants it
_LEVELS = (64, 224)  # sides of the crops compared, coarse to fine
_STEPS = 8  # at most, at each level
_STILL = 0.005  # pixels of the fine crop; a smaller step is the last
_NOISE = 4.0  # levels of 8 bits: a difference that is surely no outlier


class _Key:
    """A key frame: the steady part of its crop at each level, and how that changes with a small similarity."""

    def __init__(self, frame: np.ndarray, row: np.ndarray, landmarks: np.ndarray, turned: np.ndarray) -> None:
        self.turned = turned
        self._levels = []
        points = to_crop(landmarks, row)
        for size in _LEVELS:
            picture = cut(frame, row, size).astype(np.float64)
            inside = _steady_part(points, size)
            by_y, by_x = (np.gradient(picture, axis=axis)[inside] * size for axis in (0, 1))
            y, x = (np.argwhere(inside).T + 0.5) / size - 0.5
            seen = picture[inside]
            # Columns: scale, rotation, shift to the right, shift down, contrast, brightness.
            slopes = [by_x * x + by_y * y, by_y * x - by_x * y, by_x, by_y, seen - seen.mean(), np.ones_like(seen)]
            self._levels.append((size, inside, seen, np.stack(slopes, axis=1)))

    def turn_to(self, turned: np.ndarray) -> float:
        """Degrees from the key frame's yaw and pitch to another [2], the larger of both."""
        return float(np.abs(turned - self.turned).max())

    def find(self, frame: np.ndarray, row: np.ndarray) -> np.ndarray:
        """The placement [4] at which a grey frame shows what the key frame shows at its own, near `row`."""
        centre, turn = complex(row[0], row[1]), row[2] * np.exp(1j * np.deg2rad(row[3]))
        for size, inside, seen, slopes in self._levels:
            for _ in range(_STEPS):
                row = np.array([centre.real, centre.imag, abs(turn), np.rad2deg(np.angle(turn))])
                miss = cut(frame, row, size)[inside] - seen
                # Geman-McClure weights; the spread is that of a normal distribution with this median.
                spread = max(_NOISE, 1.5 * 1.4826 * float(np.median(np.abs(miss - np.median(miss)))))
                weight = 1 / (1 + ((miss - np.median(miss)) / spread) ** 2) ** 2
                weighted = slopes * weight[:, None]
                step = np.linalg.solve(weighted.T @ slopes + 1e-6 * np.eye(6), weighted.T @ miss)
                grown, shift = 1 + complex(step[0], step[1]), complex(step[2], step[3])
                turn = turn / grown
                centre = centre - turn * shift
                if (abs(grown - 1) / 2 + abs(shift)) * _LEVELS[-1] < _STILL:
                    break
        return np.array([centre.real, centre.imag, abs(turn), np.rad2deg(np.angle(turn))])


def _steady_part(points: np.ndarray, size: int) -> np.ndarray:
    """Mask bool [size, size] of what moves with the skull alone, from landmarks [68, 2] as fractions of the crop."""
    width = np.linalg.norm(points[45] - points[36])
    forehead = points[[26, 24, 19, 17]] - (0, 0.45 * width)
    outline = np.concatenate([points[[0, 1, 2, 31, 33, 35, 14, 15, 16]], forehead])
    image = Image.new("1", (size, size))
    draw = ImageDraw.Draw(image)
    draw.polygon([tuple(point * size) for point in outline], fill=1)
    for part in (slice(17, 22), slice(22, 27), slice(36, 42), slice(42, 48)):
        low, high = points[part].min(0) - 0.1 * width, points[part].max(0) + 0.1 * width
        draw.rectangle([*(low * size), *(high * size)], fill=0)
    return np.asarray(image)


def place_registered(
    frames: Iterable[np.ndarray],
    landmarks: np.ndarray,
    rate: Fraction,
    found: np.ndarray | None = None,
    seconds: float = 0.04,
) -> np.ndarray:
    """The crop of every frame, canonical in the first and fixed to the head from there on.

    frames: uint8 [H, W, 3], taken one by one. landmarks: [T, 68, 2] of the same frames, where to begin and how far the
    head has turned. found: [T] bool, frames that count. seconds: width (standard deviation) of a last Gaussian in
    time; 0 leaves every frame as it was registered. Returns rows [T, 4] float32 like `placement.place`.
    """
    counted = np.ones(len(landmarks), bool) if found is None or not found.any() else found
    quick = place(landmarks, rate, counted, seconds=0.05).astype(np.float64)
    pose = pose_from_landmarks(landmarks)
    turned = smooth(np.stack([pose["yaw"], pose["pitch"]], axis=1), rate, 0.1, counted)
    fading = np.exp(-1 / (float(rate) * _FADE_SECONDS))
    keys: list[_Key] = []
    key: _Key | None = None
    jump = np.zeros(4)  # from what the present key says to where the crop was left by the one before
    row = quick[0]
    rows = quick.copy()
    for index, frame in enumerate(frames):
        row = row + quick[index] - quick[max(index - 1, 0)]
        jump = jump * fading
        if counted[index]:
            grey = np.asarray(Image.fromarray(frame).convert("L"))
            if key is not None:
                row = key.find(grey, row)
            if key is None or key.turn_to(turned[index]) > _TURN:
                old = min(keys, key=lambda each: each.turn_to(turned[index]), default=None)
                if old is None or old.turn_to(turned[index]) > _TURN / 2:
                    key = _Key(grey, row, landmarks[index], turned[index])
                    keys.append(key)
                else:
                    key = old
                    again = key.find(grey, row)
                    jump, row = jump + row - again, again
        rows[index] = row + jump
    return (smooth(rows, rate, seconds, counted) if seconds else rows).astype(np.float32)
