"""What is measured: clips whose frames can be read again and again, from files or from memory."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Callable, Iterable, Iterator, Mapping
from fractions import Fraction
from functools import cached_property
from pathlib import Path
from typing import Any, TypeVar

import numpy as np

from stylereel.core.arrays import read_arrays
from stylereel.core.files import MediaError, listed, require_file
from stylereel.core.record import sha256
from stylereel.faces.backend import DlibBackend, Track, track
from stylereel.media.pictures import read_picture
from stylereel.media.video import VideoReader

Value = TypeVar("Value")

PICTURES = {".png", ".jpg", ".jpeg", ".webp"}
VIDEOS = {".mp4", ".mov", ".webm", ".mkv", ".avi", ".m4v"}
PICTURE_RATE = Fraction(25)  # frames a second of a folder of images, which does not name one


class Clip:
    """Frames uint8 RGB [H, W, 3] that can be read again and again, and small things worked out from them once.

    Attributes:
        name: what it is called in the results; of a file, its name without the ending.
        rate: frames a second.
        path: the file or folder it is read from, or None.
        sound: a file with the clip's sound, or None.
        truth: exact arrays that go with the frames, by name, such as `landmarks` [T, 68, 2] in pixels and
            `factors` [T, K]; empty if nothing is known.
    """

    def __init__(
        self,
        frames: Iterable[np.ndarray],
        name: str = "clip",
        rate: Fraction = PICTURE_RATE,
        sound: Path | None = None,
        truth: Mapping[str, np.ndarray] | None = None,
        path: Path | None = None,
    ) -> None:
        """frames: anything that starts anew at each iteration: a list, an array [T, H, W, 3], a VideoReader."""
        self.frames, self.name, self.rate, self.sound, self.path = frames, name, Fraction(rate), sound, path
        self.truth = dict(truth or {})
        self._kept: dict[str, Any] = {}

    def __iter__(self) -> Iterator[np.ndarray]:
        return iter(self.frames)

    @cached_property
    def num_frames(self) -> int:
        """Number of frames; a video is decoded once if its file does not say."""
        if hasattr(self.frames, "__len__"):
            return len(self.frames)  # type: ignore[arg-type]
        return getattr(self.frames, "num_frames", None) or sum(1 for _ in self)

    @property
    def named_rate(self) -> Fraction | None:
        """Frames a second as a file names them; None for images and for frames in memory, which name none."""
        return self.frames.rate if isinstance(self.frames, VideoReader) else None

    def keep(self, name: str, make: Callable[[], Value]) -> Value:
        """What `make` returned when it was first called for this name; for small things only, they stay in memory."""
        if name not in self._kept:
            self._kept[name] = make()
        return self._kept[name]

    @property
    def track(self) -> Track | None:
        """The face followed through the clip, or None when no frame shows one."""
        return self.keep("track", self._track)

    def _track(self) -> Track | None:
        try:
            return track(self, self.rate, backend=DlibBackend())
        except MediaError:
            raise
        except ValueError as error:
            if "No frame shows a face" in str(error):
                return None
            raise

    def fingerprint(self) -> str:
        """SHA-256 of the file; of the files' SHA-256 in order for a folder; of the pixels for frames in memory."""
        if self.path is not None and self.path.is_file():
            return sha256(self.path)
        total = hashlib.sha256()
        if isinstance(self.frames, _PictureFiles):
            for path in self.frames.paths:
                total.update(sha256(path).encode())
        else:
            for frame in self:
                total.update(np.ascontiguousarray(frame).tobytes())
        return total.hexdigest()


class _PictureFiles:
    """Picture files as frames, read one by one."""

    def __init__(self, paths: list[Path]) -> None:
        self.paths = paths

    def __len__(self) -> int:
        return len(self.paths)

    def __iter__(self) -> Iterator[np.ndarray]:
        return map(read_picture, self.paths)


def open_clips(path: str | Path) -> list[Clip]:
    """The clips at a path: a video, a folder of videos, a folder of images, or a folder of folders of images.

    Pictures of one folder are the frames of one clip. Names are sorted with their numbers as numbers: frame9 before
    frame10. Exact arrays come from NAME.npz next to the clip, if there is one. Raises MediaError when nothing is found.
    """
    path = Path(path)
    if not os.path.isdir(path):
        return [_open(require_file(path))]
    inside = listed(path)
    videos = [part for part in inside if part.suffix.lower() in VIDEOS]
    folders = [part for part in inside if part.is_dir() and _pictures(part)]
    if sum(map(bool, (videos, folders, _pictures(path)))) > 1:
        raise MediaError(f"{path} mixes clips and images; put them into separate folders.")
    found = videos or folders or ([path] if _pictures(path) else [])
    if not found:
        raise MediaError(f"{path} holds neither clips nor images; give a folder of mp4 or png files.")
    return [_open(part) for part in found]


def _open(path: Path) -> Clip:
    truth_file = path.with_name((path.name if path.is_dir() else path.stem) + ".npz")
    truth: dict[str, np.ndarray] = {}
    if truth_file.exists():
        try:
            truth = read_arrays(truth_file)
        except ValueError as error:
            raise MediaError(f"{truth_file} cannot be read; give arrays saved with numpy.savez.") from error
    if path.is_dir():
        return Clip(_PictureFiles(_pictures(path)), path.name, truth=truth, path=path)
    if path.suffix.lower() in PICTURES:
        return Clip(_PictureFiles([path]), path.stem, truth=truth, path=path)
    reader = VideoReader(path)
    return Clip(reader, path.stem, reader.rate, path if reader.has_audio else None, truth, path)


def _pictures(folder: Path) -> list[Path]:
    return listed(folder, PICTURES)
