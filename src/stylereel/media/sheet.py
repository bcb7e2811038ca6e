"""Images of images: contact sheets and side-by-side rows, with small labels."""

from collections.abc import Iterable, Sequence
from functools import lru_cache

import numpy as np
from PIL import Image, ImageDraw, ImageFont

LABEL_HEIGHT = 16  # pixels
GAP = 2  # pixels between images
BACKGROUND = 255  # white


@lru_cache(maxsize=256)
def _label(text: str, width: int) -> np.ndarray:
    """A strip uint8 [LABEL_HEIGHT, width, 3] with the text in its middle."""
    strip = Image.new("RGB", (width, LABEL_HEIGHT), (BACKGROUND,) * 3)
    place = (width / 2, LABEL_HEIGHT / 2)
    ImageDraw.Draw(strip).text(place, text, fill=(40, 40, 40), font=ImageFont.load_default(11), anchor="mm")
    return np.asarray(strip)


def side_by_side(pictures: Sequence[np.ndarray], labels: Sequence[str] | None = None) -> np.ndarray:
    """Put images of one height in a row, each under its label if labels are given.

    Args:
        pictures: uint8 [H, W_i, 3] each.
        labels: one text for each image, or None for no label strip.

    Returns:
        uint8 [H (+ LABEL_HEIGHT), sum of W_i + gaps, 3].

    Raises:
        ValueError: no images, different heights, or another number of labels than images.
    """
    if len({picture.shape[0] for picture in pictures}) != 1:
        raise ValueError("Pictures side by side must be at least one and of one height; resize them first.")
    if labels is not None:
        if len(labels) != len(pictures):
            raise ValueError(f"{len(pictures)} images came with {len(labels)} labels; give one label for each image.")
        strips = [_label(text, picture.shape[1]) for text, picture in zip(labels, pictures)]
        pictures = [np.concatenate(pair) for pair in zip(strips, pictures)]
    gap = np.full((pictures[0].shape[0], GAP, 3), BACKGROUND, np.uint8)
    row = [part for picture in pictures for part in (gap, picture)]
    return np.concatenate(row[1:], axis=1)


def contact_sheet(frames: Iterable[np.ndarray], columns: int, labels: Sequence[str] | None = None) -> np.ndarray:
    """Put images of one size in rows of `columns`, read like a page; empty places stay white.

    Args:
        frames: uint8 [H, W, 3] each, all of one size.
        columns: images in a row, at least 1.
        labels: one text for each image, or None.

    Returns:
        uint8 [rows, wide, 3].

    Raises:
        ValueError: no images, different sizes, no columns, or another number of labels than images.
    """
    pictures = list(frames)
    if columns < 1:
        raise ValueError(f"A contact sheet needs 1 column or more, not {columns}.")
    if len({picture.shape for picture in pictures}) != 1:
        raise ValueError("A contact sheet needs at least one image, and all of one size; resize them first.")
    if labels is not None and len(labels) != len(pictures):
        raise ValueError(f"{len(pictures)} images came with {len(labels)} labels; give one label for each image.")
    columns = min(columns, len(pictures))
    missing = -len(pictures) % columns
    pictures += [np.full_like(pictures[0], BACKGROUND)] * missing
    texts = None if labels is None else [*labels, *[""] * missing]
    rows = []
    for start in range(0, len(pictures), columns):
        part = slice(start, start + columns)
        rows.append(side_by_side(pictures[part], None if texts is None else texts[part]))
    gap = np.full((GAP, rows[0].shape[1], 3), BACKGROUND, np.uint8)
    return np.concatenate([part for row in rows for part in (gap, row)][1:])


def shrink(picture: np.ndarray, size: int) -> np.ndarray:
    """uint8 [H, W, 3] made smaller until its longer side has `size` pixels; smaller ones stay as they are."""
    small = Image.fromarray(picture)
    small.thumbnail((size, size), Image.Resampling.LANCZOS)
    return np.asarray(small)
