"""Where a live picture goes: a window, a pipe, a virtual camera. Files are in `recording`, the page is in `page`."""

from __future__ import annotations

import importlib
import os
import sys
from contextlib import suppress
from fractions import Fraction
from typing import Any, BinaryIO

from PIL import Image

from stylereel.live.session import Closed, Picture

WINDOW = 512  # pixels of the window, at least
_GAP = 10  # seconds without a picture that are filled at most


class Ticks:
    """How often each picture is due in a stream of constant rate, by when its shot was taken."""

    def __init__(self, rate: Fraction) -> None:
        self._rate, self.count = rate, 0
        self._first: float | None = None

    def due(self, time: float) -> int:
        """How many frames go from the last one to the picture taken at this time: 0 where its place is taken, and more
        than 1 after a gap."""
        if self._first is None:
            self._first = time
        due = round((time - self._first) * self._rate) + 1 - self.count
        due = max(0, min(due, round(_GAP * self._rate)))
        self.count += due
        return due


class Pipe:
    """Raw RGB frames of 8 bits at a constant rate on standard output, or another pipe."""

    def __init__(self, rate: Fraction, pipe: BinaryIO | None = None) -> None:
        self._ticks, self._file = Ticks(rate), (pipe or sys.stdout.buffer).fileno()

    def show(self, picture: Picture | None) -> None:
        """See `Output`."""
        if picture is None:
            return
        data = memoryview(picture.image.tobytes())
        for _ in range(self._ticks.due(picture.time)):
            rest = data
            while rest:
                try:
                    rest = rest[os.write(self._file, rest) :]
                except BrokenPipeError:
                    raise Closed("the program that took the frames has gone") from None


class Window:
    """A window of the desktop; it closes by its cross, q or Escape. Raises ValueError where there is no desktop."""

    def __init__(self) -> None:
        try:
            self._tk: Any = importlib.import_module("tkinter")
            self._drawing: Any = importlib.import_module("PIL.ImageTk")
        except ImportError:
            raise ValueError("A window needs Tk: run `apt install python3-tk`, or give --to page.") from None
        try:
            self._root = self._tk.Tk()
        except self._tk.TclError:
            raise ValueError("There is no desktop for a window; give --to page, a file, or - for raw frames.") from None
        self._root.title("stylereel live")
        self._root.resizable(False, False)
        self._label, self._shown, self._open = self._tk.Label(self._root, borderwidth=0), None, True
        self._label.pack()
        self._root.protocol("WM_DELETE_WINDOW", self._leave)
        for key in ("q", "<Escape>"):
            self._root.bind(key, lambda event: self._leave())

    def _leave(self) -> None:
        self._open = False

    def show(self, picture: Picture | None) -> None:
        """See `Output`."""
        if picture is not None:
            image = Image.fromarray(picture.image)
            if (times := -(-WINDOW // image.width)) > 1:
                image = image.resize((image.width * times, image.height * times), Image.Resampling.BILINEAR)
            if self._shown is None:
                self._shown = self._drawing.PhotoImage(image)
                self._label.configure(image=self._shown)
            else:
                self._shown.paste(image)
        self._root.update()
        if not self._open:
            raise Closed("the window was closed")

    def close(self) -> None:
        """Take it away."""
        with suppress(self._tk.TclError):
            self._root.destroy()


class VirtualCamera:
    """A camera that other programs see, by pyvirtualcam, which is GPL-2 and so is installed by the user alone.

    Raises ValueError without the package, or without a virtual camera on this machine.
    """

    def __init__(self, size: int, rate: Fraction) -> None:
        try:
            package = importlib.import_module("pyvirtualcam")
        except ImportError:
            raise ValueError(
                "A virtual camera needs its package (GPL-2): run `pip install pyvirtualcam`, or send raw frames to "
                "ffmpeg with --to -."
            ) from None
        try:
            self._camera = package.Camera(width=size, height=size, fps=float(rate))
        except RuntimeError as error:
            raise ValueError(
                f"There is no virtual camera ({' '.join(str(error).split())}); install v4l2loopback (Linux) or OBS."
            ) from None

    def show(self, picture: Picture | None) -> None:
        """See `Output`."""
        if picture is not None:
            self._camera.send(picture.image)

    def close(self) -> None:
        """Take it away."""
        self._camera.close()
