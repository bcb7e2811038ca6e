"""Measures of a clip's pictures: how large, sharp and steady the face is, and what a copy of the clip has in common."""

from __future__ import annotations

import io
from collections.abc import Iterable

import numpy as np
from PIL import Image

from stylereel.faces.backend import BOX_SIDE
from stylereel.faces.placement import align, cut

SAMPLES = 16  # frames, evenly spread, that are looked at
SIDE = 128  # pixels of the canonical crop in which sharpness is measured


def spread(count: int, samples: int = SAMPLES) -> np.ndarray:
    """Indices of at most `samples` of `count` frames, evenly spread, in order."""
    return np.unique(np.linspace(0, count - 1, min(samples, count)).round().astype(int))


def sharpness(frame: np.ndarray, landmarks: np.ndarray) -> float:
    """Mean size of the Laplacian of the face's brightness in its canonical crop of SIDE pixels, in levels of 8 bits.

    A face with fewer pixels than the crop is less sharp. 0 where the crop is outside the frame.
    """
    try:
        grey = np.asarray(Image.fromarray(cut(frame, align(landmarks), SIDE)).convert("L"), np.float32)
    except ValueError:
        return 0.0
    middle = grey[1:-1, 1:-1]
    around = grey[:-2, 1:-1] + grey[2:, 1:-1] + grey[1:-1, :-2] + grey[1:-1, 2:]
    quarter = SIDE // 4
    return float(np.abs(4 * middle - around)[quarter:-quarter, quarter:-quarter].mean())


def difference_hash(frame: np.ndarray) -> int:
    """64 bits: whether each of 8 x 8 cells is brighter than its right neighbour (dHash, Krawetz 2013)."""
    small = np.asarray(Image.fromarray(frame).convert("L").resize((9, 8), Image.Resampling.BOX), np.int16)
    return int(np.packbits(small[:, 1:] > small[:, :-1]).view(">u8")[0])


def face_sizes(landmarks: np.ndarray) -> np.ndarray:
    """Sides [T] of the face boxes of landmarks [T, 68, 2], in pixels."""
    return BOX_SIDE * np.linalg.norm(landmarks[:, 45] - landmarks[:, 36], axis=1)


def jitter(landmarks: np.ndarray, found: np.ndarray) -> float:
    """Median tremble of the landmarks [T, 68, 2] against each other, over the distance of the outer eye corners.

    The second difference in time, without its mean over the points: neither a head that moves steadily nor one that
    stops and goes trembles. The median over points and frames, of those with a face in three frames in a row; 0 if
    there are none.
    """
    whole = found[:-2] & found[1:-1] & found[2:]
    if not whole.any():
        return 0.0
    away = landmarks[2:] - 2 * landmarks[1:-1] + landmarks[:-2]
    away = away - away.mean(1, keepdims=True)
    eyes = np.linalg.norm(landmarks[1:-1, 45] - landmarks[1:-1, 36], axis=1)
    return float(np.median((np.linalg.norm(away, axis=2) / np.maximum(eyes, 1e-6)[:, None])[whole]))


def signature(landmarks: np.ndarray) -> np.ndarray:
    """What a copy shares: the landmarks at SAMPLES times over the median size of the face, float32 [SAMPLES, 68, 2]."""
    places = np.linspace(0, len(landmarks) - 1, SAMPLES).round().astype(int)
    chosen = landmarks[places] / max(1e-6, float(np.median(face_sizes(landmarks))))
    return chosen.astype(np.float32)


def look(
    frames: Iterable[np.ndarray], landmarks: np.ndarray, found: np.ndarray
) -> tuple[list[float], list[int], bytes]:
    """Sharpness of frames with a face, hashes at SAMPLES times, and a small JPEG of the middle frame.

    frames: uint8 [H, W, 3], T of them.
    """
    chosen = spread(len(landmarks))
    sharp: list[float] = []
    hashes: list[int] = []
    small = b""
    for index, frame in enumerate(frames):
        if index in chosen:
            hashes.append(difference_hash(frame))
            if found[index]:
                sharp.append(sharpness(frame, landmarks[index]))
        if index == len(landmarks) // 2:
            small = thumbnail(frame)
    return sharp, hashes, small


def thumbnail(frame: np.ndarray, size: int = 96) -> bytes:
    """A JPEG of at most `size` pixels a side."""
    picture = Image.fromarray(frame)
    picture.thumbnail((size, size))
    file = io.BytesIO()
    picture.save(file, "jpeg", quality=80)
    return file.getvalue()
