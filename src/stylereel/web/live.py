"""Live on the page: a ticket for each form that was sent, and a process for each visitor who is live.

A process is begun when somebody opens the tab, so that it is ready when he presses Start. What a visitor records
becomes one of his results when he stops.
"""

from __future__ import annotations

import multiprocessing
import os
import secrets
import shutil
import signal
import threading
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from stylereel.live.page import Link, Screen, live_app
from stylereel.web.forms import Call
from stylereel.web.jobs import Jobs, link_file
from stylereel.web.seat import sit

MOST = 50  # tickets that are kept
PATIENCE = 4.0  # seconds that a visitor waits for another's session to end, and his own older one has for that
ENDING = 60.0  # seconds that a recording has to be finished
IDLE = 300.0  # seconds that a process waits for somebody to be live

WANTS = {"camera": "camera", "audio": "microphone"}  # arguments of `live` that the visitor's browser gives


@dataclass
class _Ticket:
    visitor: str
    title: str
    call: Call
    files: Mapping[str, Path]


class Live:
    """Sessions of visitors in front of their own cameras, so many at a time; they share the processor.

    jobs: who keeps recordings, and its limits. folder: for what a session reads and writes while it runs.
    """

    def __init__(self, jobs: Jobs, folder: Path) -> None:
        self._jobs, self._folder = jobs, folder
        self._tickets: dict[str, _Ticket] = {}
        self._seats: dict[str, _Seat] = {}  # by visitor
        self._spare: _Seat | None = None
        self._changed = threading.Condition()
        self._open = True
        self.app = live_app(self._link, lambda headers: True)  # the guard has looked at them

    def prepare(self) -> None:
        """Have a process ready for the next session, without waiting for it."""
        with self._changed:
            if self._open and self._spare is None and len(self._seats) < self._jobs.limits.live:
                self._spare = _Seat()
                _later(IDLE, self._forget, self._spare)

    def _forget(self, seat: _Seat) -> None:
        with self._changed:
            if self._spare is seat:
                self._spare = None
                seat.kill()

    def close(self) -> None:
        """End all sessions."""
        with self._changed:
            self._open = False
            seats = [*self._seats.values(), *([self._spare] if self._spare else [])]
        for seat in seats:
            seat.kill()

    def ticket(self, visitor: str, title: str, call: Call, files: Mapping[str, Path]) -> str:
        """What the browser asks with, once, for this call's session. files: what it reads, by the names in the call.

        Raises ValueError if there is no room for a recording.
        """
        if call.keywords.get("record"):
            self._jobs.require_room()
        name = secrets.token_hex(12)
        self._tickets[name] = _Ticket(visitor, title, call, files)
        while len(self._tickets) > MOST:
            del self._tickets[next(iter(self._tickets))]
        return name

    def _link(self, query: Mapping[str, str]) -> Link:
        asked = self._tickets.pop(query.get("ticket", ""), None)
        if asked is None:
            raise ValueError("This session is over; start it again.")
        seat = self._seat(asked.visitor)
        folder = self._folder / secrets.token_hex(8)
        try:
            folder.mkdir(parents=True)
            for target, path in asked.files.items():
                link_file(path, folder / target)
        except OSError as error:
            self._leave(asked.visitor, seat)
            raise ValueError(f"The session could not begin ({error.strerror or error}); make room.") from error

        def run() -> None:
            try:
                lines = seat.run(folder, asked.call, self._jobs.room(), self._jobs.limits.longest)
                if lines is not None and asked.call.keywords.get("record") and (folder / "result.mp4").exists():
                    self._jobs.keep(asked.visitor, "live", asked.title, folder, asked.call, lines)
            except (ValueError, OSError) as error:  # too many results, a full disk
                seat.screen.end(str(error))
            finally:
                shutil.rmtree(folder, ignore_errors=True)
                self._leave(asked.visitor, seat)

        threading.Thread(target=run, daemon=True).start()
        wants = {what: asked.call.keywords.get(name) == "page" for name, what in WANTS.items()}
        return Link(seat.screen, seat.take, wants, seat.stop)

    def _seat(self, visitor: str) -> _Seat:
        """A process for a visitor, whose older session ends. Raises ValueError if all are taken."""
        most = self._jobs.limits.live
        with self._changed:
            if visitor in self._seats:
                self._seats[visitor].stop()
            free = self._changed.wait_for(
                lambda: visitor not in self._seats and len(self._seats) < most or not self._open, PATIENCE
            )
            if not free or not self._open:
                people = "Somebody is" if most == 1 else f"{most} people are"
                raise ValueError(f"{people} live already; try again when one has stopped.")
            ready, self._spare = self._spare, None
            seat = self._seats[visitor] = ready if ready is not None and ready.is_alive else _Seat()
            return seat

    def _leave(self, visitor: str, seat: _Seat) -> None:
        with self._changed:
            if self._seats.get(visitor) is seat:
                del self._seats[visitor]
            self._changed.notify_all()
        seat.kill()


class _Seat:
    """A process for one session, and the screen that shows what it draws."""

    def __init__(self) -> None:
        self.screen = Screen()
        context = multiprocessing.get_context("spawn")
        self._pipe, theirs = context.Pipe()
        self._process = context.Process(target=sit, args=(theirs,), daemon=True)
        self._process.start()
        theirs.close()
        self._lock, self._begun, self._stopped = threading.Lock(), False, False

    def run(self, folder: Path, call: Call, most: int, longest: float) -> list[str] | None:
        """Run a session to its end; the lines that its record shows, None after an error, which the screen has."""
        error = ""
        try:
            self._pipe.recv()  # it is ready
            with self._lock:
                self._pipe.send((str(folder), call, most, longest))
                self._begun = True
            for word, *rest in iter(self._pipe.recv, None):
                if word == "picture":
                    self.screen.put(*rest)
                elif word == "sound":
                    self.screen.sound = Path(rest[0])
                elif word == "note":
                    self.screen.tell(rest[0])
                elif word == "recording":
                    self.screen.recording = True
                elif word == "done":
                    return rest[0]
                else:
                    error = rest[0]
                    break
        except (EOFError, OSError):
            error = "The session was ended from outside, perhaps because the memory was full; start it again."
        finally:
            self.screen.end(error)
        return None

    def take(self, data: bytes | None) -> None:
        """What the visitor's browser sends; None is the end. Before the session has begun it is left out."""
        with self._lock:
            if self._begun and self.is_alive:
                try:
                    self._pipe.send(data)
                except OSError:
                    pass

    def stop(self) -> None:
        """End the session, without waiting; a recording is finished first."""
        if not self._stopped:
            self._stopped = True
            self.take(None)
            _later(ENDING if self._begun else 0.0, self.kill)

    @property
    def is_alive(self) -> bool:
        """Whether the process lives."""
        return self._process.is_alive()

    def kill(self) -> None:
        """End the process at once."""
        if self._process.pid is not None and self.is_alive:
            try:
                os.killpg(self._process.pid, signal.SIGKILL)
            except (AttributeError, OSError):  # before it has a group of its own
                self._process.kill()


def _later(seconds: float, act: Callable[..., None], *given: Any) -> None:
    timer = threading.Timer(seconds, act, given)
    timer.daemon = True
    timer.start()
