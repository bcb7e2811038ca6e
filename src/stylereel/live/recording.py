"""What is shown, its motion and its sound, in files, while it runs."""

from __future__ import annotations

import threading
from collections.abc import Callable
from fractions import Fraction
from pathlib import Path
from tempfile import TemporaryFile
from types import TracebackType
from typing import IO, Self

import numpy as np

from stylereel.core.latents import Motion
from stylereel.live.newest import Newest
from stylereel.live.outputs import Ticks
from stylereel.live.session import Picture
from stylereel.media.writer import VideoWriter, add_sound

_WAITING = 2  # seconds of pictures that may wait for the encoder; then the oldest is left out


class _Dropped(Exception):
    """The recording is not wanted."""


class Recording:
    """A file of constant rate, see `VideoWriter` for its forms, and the motion in NAME.safetensors next to it.

    Each picture stands where its shot was taken, however long it took to be drawn, so a clip's sound is in step. A
    context manager: the files are whole when the block ends without an error, else there are none.

    Args:
        path: where to write.
        rate: frames a second.
        sound: gives, once pictures come, the file that is heard meanwhile, if any, and the time at which it begins
            (None before that); what is shown before is not recorded. It is read when the last picture has come.

    Attributes:
        num_frames: how many frames were written.
        begun: when the shot of the first one was taken.
        has_audio: whether there is sound, known at the end.
    """

    def __init__(
        self,
        path: str | Path,
        rate: Fraction,
        sound: Callable[[], tuple[Path | None, float | None]] = lambda: (None, 0.0),
    ) -> None:
        self.path, self.rate, self.num_frames, self.has_audio = Path(path), rate, 0, False
        self._sound, self._unwanted, self.begun = sound, False, 0.0
        self._pictures, self._ticks = Newest[Picture](round(_WAITING * rate)), Ticks(rate)
        self._errors: list[BaseException] = []
        self._thread = threading.Thread(target=self._guarded, daemon=True)

    @property
    def files(self) -> list[Path]:
        """What is written."""
        return [self.path, self.path.with_suffix(".safetensors")]

    @property
    def dropped(self) -> int:
        """Pictures that the encoder was too slow for."""
        return self._pictures.dropped

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def show(self, picture: Picture | None) -> None:
        """See `Output`. Raises what the encoder raised."""
        if self._errors:
            raise self._errors[0]
        if picture is not None:
            self._pictures.put(picture)

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._unwanted = kind is not None
        self._pictures.end()
        self._thread.join()
        if self._errors and kind is None:
            raise self._errors[0]

    def _guarded(self) -> None:
        try:
            # Rows of motion wait on the disk: a run of hours must not fill the memory.
            with TemporaryFile() as rows:
                if (last := self._write(rows)) is not None:
                    self._motion(rows, last.motion).save(self.files[1])
        except _Dropped:
            pass
        except BaseException as error:  # raised again in the session's thread
            self._errors.append(error)

    def _write(self, rows: IO[bytes]) -> Picture | None:
        """Write the video, and what each frame's motion is; the last picture."""
        last = self._next()
        if last is None:
            return None
        sound, begun = self._sound()
        while begun is None or last.time < begun:
            if (last := self._next()) is None:
                return None
            sound, begun = self._sound()
        self.begun, start = last.time, Fraction(last.time - begun).limit_denominator(1000)
        with VideoWriter(self.path, self.rate) as writer:
            picture: Picture | None = last
            while picture is not None:
                due = self._ticks.due(picture.time)
                for each in [last] * (due - 1) + [picture] * (due > 0):  # a gap shows the one before
                    writer.write(each.image)
                    parts = [each.motion.values[0], each.motion.placement[0], [bool(each.motion.missing)]]
                    rows.write(np.concatenate(parts).astype(np.float32).tobytes())
                last = picture if due else last
                self.num_frames = writer.num_frames
                writer.notes.clear()
                picture = self._next()
            if self._unwanted:
                raise _Dropped
        self.has_audio = sound is not None and add_sound(self.path, sound, start)
        return last

    def _next(self) -> Picture | None:
        while not self._pictures.ended:
            if (picture := self._pictures.take()) is not None:
                return picture
        return None

    def _motion(self, rows: IO[bytes], like: Motion) -> Motion:
        """All that was written, one frame for each of the video."""
        rows.seek(0)
        table = np.frombuffer(rows.read(), np.float32).reshape(self.num_frames, -1)
        values, placement, missing = table[:, :-5], table[:, -5:-1], np.flatnonzero(table[:, -1])
        return Motion(values, like.kind, like.names, self.rate, placement, tuple(missing.tolist()))
