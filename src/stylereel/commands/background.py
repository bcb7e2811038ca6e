"""What `--background` puts behind a person: a colour, an image, a clip, or the old background out of focus."""

from __future__ import annotations

from collections.abc import Iterator
from fractions import Fraction
from pathlib import Path

import numpy as np
from PIL import Image, ImageColor, ImageOps

from stylereel.core.files import MediaError
from stylereel.core.system import System
from stylereel.family.matte import Matte, blurred
from stylereel.media.pictures import FORMATS, read_picture
from stylereel.media.video import VideoReader

BLUR = "blur"


class Background:
    """What is behind the person in each frame.

    Args:
        text: a colour (white, #3060a0), `blur`, or the file of an image or of a clip, which is repeated when it ends.

    Raises:
        ValueError: it is none of these, or a file that cannot be read (MediaError).
    """

    def __init__(self, text: str) -> None:
        self.path: Path | None = None
        self._still: np.ndarray | None = None
        self._clip: VideoReader | None = None
        self._fitted: tuple[tuple[int, int], np.ndarray] | None = None
        self.blur = text == BLUR
        if self.blur:
            return
        try:
            self._still = np.full((1, 1, 3), ImageColor.getrgb(text)[:3], np.uint8)
            return
        except ValueError:
            pass
        self.path = Path(text)
        if not self.path.exists():
            raise MediaError(
                f"{text[:80]} is no background; give a colour (white, #3060a0), blur, or the file of an image or clip."
            )
        if self.path.suffix.lower() in FORMATS:
            self._still = read_picture(self.path)
        else:
            self._clip = VideoReader(self.path)

    def frames(self, first: int, rate: Fraction) -> Iterator[np.ndarray | None]:
        """What is behind frame `first` and those after it, uint8 [H, W, 3] of its own size; None for blur."""
        if self._clip is None or self.path is None:
            while True:
                yield self._still
        clip = VideoReader(self.path, rate)
        first %= clip.num_frames
        while True:
            yield from clip.frames(first, clip.num_frames - first)
            first = 0

    def replace(self, shown: Matte, picture: np.ndarray | None, height: int) -> np.ndarray:
        """The person of a matte, `height` pixels high, before what `frames` gave for it."""
        size = round(shown.alpha.shape[1] * height / len(shown.alpha)), height
        back = _resized(blurred(shown), size) if picture is None else self._fit(picture, size)
        alpha, person = _resized(shown.alpha, size)[..., None].clip(0, 1), _resized(shown.person, size)
        return np.rint(alpha * person + (1 - alpha) * back).astype(np.uint8)

    def _fit(self, picture: np.ndarray, size: tuple[int, int]) -> np.ndarray:
        """As large as needed to fill the frame, its middle part."""
        if self._still is None:
            return np.asarray(ImageOps.fit(Image.fromarray(picture), size, Image.Resampling.LANCZOS))
        if self._fitted is None or self._fitted[0] != size:
            self._fitted = size, np.asarray(ImageOps.fit(Image.fromarray(picture), size, Image.Resampling.LANCZOS))
        return self._fitted[1]


def _resized(values: np.ndarray, size: tuple[int, int]) -> np.ndarray:
    if values.shape[1::-1] == size:
        return values
    return np.asarray(Image.fromarray(values).resize(size, Image.Resampling.LANCZOS))


def require_matte(system: System) -> None:
    """Raise ValueError unless the people of a system are those whom the region net knows."""
    if not getattr(system, "builtin_family", False):
        raise ValueError(
            f"No network here finds the people of {system.name}'s generator before their background, only those of the "
            "built-in family; leave out --background."
        )
