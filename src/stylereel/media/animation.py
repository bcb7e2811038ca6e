"""Clips that are not video files: animated GIF, PNG and WebP, and folders of numbered images."""

from __future__ import annotations

from collections.abc import Iterator
from fractions import Fraction
from itertools import accumulate
from pathlib import Path

import numpy as np
from PIL import Image, ImageOps

from stylereel.core.files import MediaError, listed
from stylereel.media.pictures import BROKEN, FORMATS, READ, opened, read_picture, to_rgb

SHORTEST = 11  # milliseconds; browsers show what asks for less for a tenth of a second, and so do we
MOVING = ("GIF", "PNG", "WEBP")  # other formats with several images (MPO, TIFF) hold versions or pages, not frames
MOST_PIXELS = 2**31  # of all frames together; decoding so many takes some ten seconds


def open_animation(path: Path) -> Animation | None:
    """The file as an animation, or None if it is none of the kinds that Pillow reads here.

    Raises MediaError as `Animation`.
    """
    try:
        with Image.open(path, formats=READ):
            pass
    except Image.DecompressionBombError:
        pass  # opening it below says so
    except BROKEN:
        return None
    return Animation(path)


class Animation:
    """An animated GIF, PNG or WebP, or one still image; each frame complete, transparent parts over white.

    Attributes and methods are those of `Clip`.

    Raises:
        MediaError: the file is broken, or its frames have more than MOST_PIXELS together.
    """

    promised = None
    has_audio = False
    hdr = None

    def __init__(self, path: Path) -> None:
        self.path = path
        self.rates: list[Fraction] = []
        durations: list[int] = []
        with opened(path, path) as image:
            last = getattr(image, "n_frames", 1) if image.format in MOVING else 1
            if last * image.width * image.height > MOST_PIXELS:
                size = f"{last} frames of {image.width} x {image.height}"
                raise MediaError(f"{path} has {size} pixels, too many for an animation; give it as a video file.")
            self._first = int(image.info.get("default_image", False))  # a PNG's fallback image is no frame
            for index in range(self._first, last):
                image.seek(index)
                image.load()
                durations.append(round(image.info.get("duration", 0)))
            clock = 100 if image.format == "GIF" else 1000  # units a second in the file; Pillow gives milliseconds
            self.width, self.height = ImageOps.exif_transpose(image).size
        self.time_base = Fraction(1, clock)
        durations = [(each if each >= SHORTEST else 100) * clock // 1000 for each in durations]
        self.ticks = np.array([0, *accumulate(durations[:-1])], np.int64)
        self.end = int(self.ticks[-1]) + durations[-1]

    def frames(self, first: int = 0) -> Iterator[tuple[int, np.ndarray]]:
        with opened(self.path, self.path) as image:
            for index in range(first, len(self.ticks)):
                image.seek(self._first + index)
                yield index, to_rgb(ImageOps.exif_transpose(image))


class Folder:
    """A folder of images of one size as a clip, in natural order: frame2.png comes before frame10.png.

    Attributes and methods are those of `Clip`.

    Raises:
        MediaError: no PNG, JPEG or WebP file in it, or one cannot be read; while iterating: another size.
    """

    promised = None
    has_audio = False
    hdr = None

    def __init__(self, path: Path, rate: Fraction) -> None:
        self.path = path
        self._files = listed(path, FORMATS)
        if not self._files:
            raise MediaError(f"{path} is a folder without images; give one with PNG, JPEG or WebP files.")
        self.height, self.width = read_picture(self._files[0]).shape[:2]
        self.rates, self.time_base = [rate], 1 / rate
        self.ticks, self.end = np.arange(len(self._files)), len(self._files)

    def frames(self, first: int = 0) -> Iterator[tuple[int, np.ndarray]]:
        for index in range(first, len(self._files)):
            picture = read_picture(self._files[index])
            height, width = picture.shape[:2]
            if (width, height) != (self.width, self.height):
                size = f"{width} x {height}, not {self.width} x {self.height}"
                raise MediaError(f"{self._files[index]} is {size} as the first image; give images of one size.")
            yield index, picture
