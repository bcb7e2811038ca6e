"""Cameras: a device, a file that plays at its own speed, raw frames from a pipe, or what somebody pushes."""

from __future__ import annotations

import sys
import threading
import time
from collections.abc import Callable, Generator, Iterator
from contextlib import closing
from fractions import Fraction
from pathlib import Path
from typing import BinaryIO

import av
import numpy as np
from av.error import FFmpegError
from av.video.reformatter import VideoReformatter

from stylereel.core.files import MediaError
from stylereel.core.system import Shot
from stylereel.live.newest import Newest
from stylereel.media.video import VideoReader

SIZE = (640, 480)  # pixels that a device is asked for
RATE = Fraction(30)  # frames a second that it is asked for
ALONE = Fraction(25)  # frames a second without a camera
_AGAIN = 1.0  # seconds between two attempts to open a device that went away
_SILENT = 0.5  # seconds without a frame from a browser after which there is none
_OPENING, _READING = 10.0, 5.0  # seconds after which a device that says nothing counts as away


class FileCamera:
    """A clip that plays as a camera would: each frame at its own time, whether anybody takes it or not.

    Raises MediaError as `VideoReader`.
    """

    def __init__(self, path: str | Path, rate: Fraction | None = None, loop: bool = False) -> None:
        self._reader, self._loop = VideoReader(path, rate), loop
        self.rate, self.path = self._reader.rate, self._reader.path
        self.begun: float | None = None  # when its first frame was shown
        self.has_audio = self._reader.has_audio and not loop  # that goes with the frames

    def shots(self, stop: threading.Event) -> Iterator[Shot]:
        """See `Camera`."""
        self.begun, count = time.monotonic(), 0
        while not stop.is_set():
            for frame in self._reader:
                due = self.begun + float(count / self.rate)
                count += 1
                early = due - time.monotonic()
                if early > 0:
                    stop.wait(early)
                if stop.is_set():
                    return
                if early > -1 / self.rate:  # what could not be decoded in time is never shown
                    yield Shot(due, frame)
            if not self._loop:
                return


class PipeCamera:
    """Raw RGB frames of 8 bits, one after the other without headers, as FFmpeg's `-f rawvideo -pix_fmt rgb24` gives."""

    def __init__(self, size: tuple[int, int], rate: Fraction, pipe: BinaryIO | None = None) -> None:
        self.rate = rate
        self._size, self._pipe = size, pipe or sys.stdin.buffer

    def shots(self, stop: threading.Event) -> Iterator[Shot]:
        """See `Camera`. Raises MediaError for a pipe that ends before its first frame."""
        width, height = self._size
        count, size = 0, width * height * 3
        while not stop.is_set():
            data = self._pipe.read(size)
            if len(data) < size:
                if not count:
                    raise MediaError(
                        f"The pipe ended before a whole frame of {width} x {height} came; send raw rgb24 frames of "
                        "--camera-size."
                    )
                return
            count += 1
            yield Shot(time.monotonic(), np.frombuffer(data, np.uint8).reshape(height, width, 3))


class DeviceCamera:
    """A camera of this machine. Where it goes away it is looked for every second; meanwhile there are shots without an
    image.

    Args:
        open_: opens it: frames as they come; raises OSError or MediaError where it is not there.
        rate: about how many frames a second.
        say: gets a sentence when it goes and when it is back.

    Attributes:
        losses: how often it went away.
    """

    def __init__(
        self, open_: Callable[[], Iterator[np.ndarray]], rate: Fraction, say: Callable[[str], None] = lambda text: None
    ) -> None:
        self.rate, self.losses = rate, 0
        self._open, self._say = open_, say

    def shots(self, stop: threading.Event) -> Iterator[Shot]:
        """See `Camera`. Raises MediaError or OSError if it is not there at first."""
        seen = away = False
        while not stop.is_set():
            try:
                for frame in self._open():
                    if away:
                        self._say("the camera is back")
                    seen, away = True, False
                    yield Shot(time.monotonic(), frame)
                    if stop.is_set():
                        return
            except (OSError, MediaError):
                if not seen:
                    raise
            if not away:
                self._say("the camera is away; it is looked for every second")
                self.losses += 1
            away = seen = True
            until = time.monotonic() + _AGAIN
            while time.monotonic() < until and not stop.wait(float(1 / self.rate)):
                yield Shot(time.monotonic(), None)


class NoCamera:
    """Shots without an image, for a head that a sound alone moves."""

    def __init__(self, rate: Fraction = RATE) -> None:
        self.rate = rate

    def shots(self, stop: threading.Event) -> Iterator[Shot]:
        """See `Camera`."""
        begun, count = time.monotonic(), 0
        while not stop.wait(max(0.0, begun + float(count / self.rate) - time.monotonic())):
            yield Shot(begun + float(count / self.rate), None)
            count += 1


class PushedCamera:
    """Frames that somebody else brings, from any thread; the newest counts."""

    def __init__(self, rate: Fraction = RATE) -> None:
        self.rate = rate
        self._newest = Newest[Shot]()

    def push(self, frame: np.ndarray) -> None:
        """A frame uint8 [H, W, 3] has come."""
        self._newest.put(Shot(time.monotonic(), frame))

    def end(self) -> None:
        """No more come."""
        self._newest.end()

    def shots(self, stop: threading.Event) -> Iterator[Shot]:
        """See `Camera`."""
        patience = _SILENT
        while not (stop.is_set() or self._newest.ended):
            shot = self._newest.take(patience)
            patience = _SILENT if shot is not None else float(1 / self.rate)
            if shot is not None or not self._newest.ended:
                yield shot or Shot(time.monotonic(), None)


AnyCamera = FileCamera | PipeCamera | DeviceCamera | NoCamera | PushedCamera


def open_camera(
    name: str, size: tuple[int, int] | None, rate: Fraction | None, loop: bool, say: Callable[[str], None]
) -> AnyCamera:
    """The camera of a name: a number or a device's name, a clip, - for raw frames on standard input, page for those of
    a browser, or none.

    Raises:
        ValueError: raw frames without size and rate, a size for a clip, or `loop` for anything else than a clip.
        MediaError: the clip cannot be read, or there is no such camera.
    """
    if name == "-":
        if size is None or rate is None:
            raise ValueError(
                "Raw frames say neither size nor rate; give --camera-size, such as 640x480, and --fps, such as 25."
            )
        return PipeCamera(size, rate)
    if name in ("page", "none"):
        if size is not None:
            raise ValueError(f"--camera-size is of a device or of raw frames; --camera {name} has none.")
        return PushedCamera(rate or RATE) if name == "page" else NoCamera(rate or ALONE)
    if not name.isdecimal() and Path(name).is_file():
        if size is not None:
            raise ValueError("--camera-size is of a device or of raw frames; a clip has its own.")
        return FileCamera(name, rate, loop)
    if loop:
        raise ValueError(f"--loop plays a clip again and again; there is no clip {name}.")
    rate = rate or RATE
    with closing(_device(name, size or SIZE, rate)) as trial:
        next(trial)  # what is not there is said before anything is loaded
    return DeviceCamera(lambda: _device(name, size or SIZE, rate), rate, say)


def _device(name: str, size: tuple[int, int], rate: Fraction) -> Generator[np.ndarray, None, None]:
    """Frames of a camera, by FFmpeg's devices of this operating system."""
    options = {"video_size": f"{size[0]}x{size[1]}", "framerate": str(rate)}
    if sys.platform == "darwin":
        place, form = f"{name}:none", "avfoundation"
        options["pixel_format"] = "nv12"
    elif sys.platform == "win32":
        place, form = f"video={name}", "dshow"
    else:
        place, form = f"/dev/video{name}" if name.isdecimal() else name, "v4l2"
    try:
        with av.open(place, format=form, options=options, timeout=(_OPENING, _READING)) as container:
            reformatter = VideoReformatter()
            for frame in container.decode(video=0):
                yield reformatter.reformat(frame, format="rgb24").to_ndarray()
    except (FFmpegError, OSError, ValueError) as error:
        reason = getattr(error, "strerror", None) or str(error)
        raise MediaError(
            f"The camera {name} gives no frames ({reason}); give its number or name, a clip, or - for raw frames."
        ) from error
