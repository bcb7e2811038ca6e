"""The crop of a face as each system wants it, as pictures and as codes."""

from __future__ import annotations

import io
from collections.abc import Callable, Iterable

import numpy as np
from PIL import Image

from stylereel.corpora.settings import Align
from stylereel.faces import placement
from stylereel.faces.backend import Track
from stylereel.faces.registration import place_registered
from stylereel.invert.networks import Networks, encoded

BATCH, CROP = 16, 256  # crops that are encoded together, and their side in pixels


def place_as(align: Align, frames: Callable[[], Iterable[np.ndarray]], track: Track, low_pass: float) -> np.ndarray:
    """The placements [T, 4] float32 of a clip. frames: reads them, where pixels are needed."""
    points, rate, found = track.landmarks, track.rate, track.found
    if align == "canonical":
        return placement.place(points, rate, found)
    if align == "ffhq":
        return placement.place_ffhq(points, rate, found, low_pass)
    if align == "eyes":
        return placement.place_by_eyes(points, rate, found)
    if align == "window":
        return placement.place_window(points, rate, found)
    return place_registered(frames(), points, rate, found)


def share_inside(rows: np.ndarray, width: int, height: int, points: int = 16) -> float:
    """How much of the crops at placements [T, 4] is inside frames of that size, 0 to 1; the rest repeats their edge."""
    steps = (np.arange(points) + 0.5) / points
    grid = np.stack(np.meshgrid(steps, steps), axis=-1).reshape(-1, 2)
    shown = placement.to_picture(np.broadcast_to(grid, (len(rows), *grid.shape)), rows)
    return float(((shown >= 0) & (shown <= (width, height))).all(-1).mean())


def picture(frame: np.ndarray, row: np.ndarray, size: int, form: str, quality: int) -> bytes:
    """The crop of a frame uint8 [H, W, 3] at a placement [4] as the bytes of a jpg or png file.

    Raises ValueError when the crop is outside the frame.
    """
    image, file = Image.fromarray(placement.cut(frame, row, size)), io.BytesIO()
    if form == "png":
        image.save(file, "png", compress_level=4)
    else:
        image.save(file, "jpeg", quality=quality, subsampling=0)
    return file.getvalue()


def encode(
    frames: Iterable[np.ndarray], rows: np.ndarray, track: Track, nets: Networks, canonical: bool
) -> tuple[np.ndarray, np.ndarray]:
    """The placements [T, 4] at which frames were encoded, and the codes float32 [T, L, D].

    rows: where the crops are. canonical: whether the encoder knows faces in the built-in framing; then the crops get
    its size and place, and keep their steadiness.
    """
    if canonical:
        rows = placement.to_builtin_framing(rows, placement.place(track.landmarks, track.rate, track.found))
    parts: list[np.ndarray] = []
    waiting: list[np.ndarray] = []
    for index, frame in enumerate(frames):
        waiting.append(placement.cut(frame, rows[index], CROP))
        if len(waiting) == BATCH or index + 1 == len(rows):
            parts.append(encoded(nets.encode, np.stack(waiting)).float().cpu().numpy())
            waiting.clear()
    return rows.astype(np.float32), np.concatenate(parts)
