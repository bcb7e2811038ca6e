"""Jobs: what visitors asked for, waiting, running in a process that can be killed, and kept with their results.

Every job has a folder of its own, VISITOR/NUMBER-TAB, with copies of its inputs, its results, their record and
`job.json`. Names inside are relative, so the command that is shown runs in that folder, and nothing else is named.
"""

from __future__ import annotations

import json
import multiprocessing
import os
import re
import secrets
import shlex
import shutil
import signal
import threading
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

from stylereel.core.files import MediaError, replacing
from stylereel.web.limits import Limits
from stylereel.web.worker import work

State = Literal["waiting", "running", "done", "failed", "stopped"]
OPEN = ("waiting", "running")
VISITOR = re.compile(r"[0-9a-f]{32}")
NAME = re.compile(r"(\d{4})-[a-z]+")
WAITING = 4  # jobs that a visitor may have waiting
LINE = 100  # jobs that all visitors together may have waiting
KEPT = 200  # jobs that a visitor's folder may hold
GIGABYTE = 1e9


@dataclass
class Job:
    """One job of a visitor.

    files: names of the results in its folder, the one to show first; about: what the page says of it (lines, facts).
    """

    visitor: str
    name: str
    tab: str
    title: str
    folder: Path
    calls: list[Any]  # forms.Call, or what has its methods
    state: State = "waiting"
    at: tuple[str, int, int | None, float | None] = ("", 0, None, None)
    message: str = ""
    files: list[str] = field(default_factory=list)
    about: list[dict[str, Any]] = field(default_factory=list)
    seconds: float = 0.0
    command: str = ""
    python: str = ""

    def shown(self, position: int = 0) -> dict[str, Any]:
        """What the browser is told."""
        stage, done, total, left = self.at
        return {
            "name": self.name,
            "tab": self.tab,
            "title": self.title,
            "state": self.state,
            "position": position,
            "stage": stage,
            "done": done,
            "total": total,
            "left": None if left is None else round(left),
            "message": self.message,
            "files": self.files,
            "about": self.about,
            "seconds": round(self.seconds, 1),
            "command": self.command,
            "python": self.python,
        }

    def keep(self) -> None:
        """Write job.json, by which a later start of the page knows it."""
        with replacing(self.folder / "job.json") as partial:
            partial.write_text(json.dumps(self.shown(), indent=1), encoding="utf-8")


class Jobs:
    """All jobs under a folder, and the workers that do them.

    local: whether the visitors are this machine's users, who are shown the folder in the command to copy.
    """

    def __init__(self, folder: Path, limits: Limits, local: bool = True) -> None:
        self.folder, self.limits, self.local = folder.absolute(), limits, local
        self._known: dict[str, dict[str, Job]] = {}
        self._queue: list[Job] = []
        self._lock = threading.RLock()
        self._wake = threading.Condition(self._lock)
        self.is_open = True
        self._slots = [_Slot(self) for _ in range(max(1, limits.jobs))]

    def start(self) -> None:
        """Begin to work."""
        for slot in self._slots:
            slot.thread.start()

    def close(self) -> None:
        """Kill what runs; waiting jobs are given up."""
        with self._lock:
            self.is_open = False
            self._wake.notify_all()
        for slot in self._slots:
            slot.kill()
        for slot in self._slots:
            if slot.thread.is_alive():
                slot.thread.join(5)

    # --- for visitors

    def of(self, visitor: str) -> list[dict[str, Any]]:
        """What the browser of a visitor is told of his jobs, the newest first."""
        with self._lock:
            mine = sorted(self._mine(visitor).values(), key=lambda job: job.name, reverse=True)
            return [job.shown(self._queue.index(job) + 1 if job in self._queue else 0) for job in mine]

    def add(self, visitor: str, tab: str, title: str, inputs: Mapping[str, Path], calls: Sequence[Any]) -> Job:
        """Ask for a job. `inputs` are files to copy into its folder, by the names that the calls have for them.

        Raises:
            ValueError: too many jobs wait, or the disk has no room; a sentence.
        """
        with self._lock:
            mine = self._mine(visitor)
            if sum(job.state in OPEN for job in mine.values()) >= WAITING:
                raise ValueError(f"{WAITING} of your jobs wait or run already; stop one, or wait until one is done.")
            if len(self._queue) >= LINE:
                raise ValueError(f"{LINE} jobs wait already; try again later.")
            self.require_room(sum(path.stat().st_size for path in inputs.values()))
            job = self._new(visitor, tab, title, calls)
            try:
                for target, path in inputs.items():
                    link_file(path, job.folder / target)
                self._write_down(job)
                job.keep()
            except OSError as error:
                shutil.rmtree(job.folder, ignore_errors=True)
                del mine[job.name]
                why = error.strerror or error
                raise MediaError(f"The job could not be written ({why}); make room and try again.") from error
            self._queue.append(job)
            self._wake.notify_all()
            return job

    def keep(self, visitor: str, tab: str, title: str, folder: Path, call: Any, lines: list[str]) -> None:
        """Make a result of the files in a folder, which are moved. Raises ValueError: no room."""
        with self._lock:
            job = self._new(visitor, tab, title, [call])
            for path in folder.iterdir():
                shutil.move(path, job.folder / path.name)
            self._write_down(job)
            job.about = [{"lines": lines, "facts": {}}]
            self._end(job, "done", "")

    def _write_down(self, job: Job) -> None:
        """The command line and the Python that do the same as a job."""
        line = " && ".join(filter(None, (call.line() for call in job.calls)))
        job.command = f"cd {shlex.quote(str(job.folder))} && {line}" if self.local else line
        job.python = "\n\n".join(filter(None, (call.python() for call in job.calls)))

    def made(self, visitor: str, tab: str, title: str, command: str, python: str) -> Job:
        """A folder for what is made at once, outside the line; `end` says how that went. Raises ValueError: no room."""
        with self._lock:
            self.require_room()
            job = self._new(visitor, tab, title, [])
            job.command, job.python = command, python
            return job

    def end(self, job: Job, state: State, message: str) -> None:
        """How what `made` began has ended."""
        with self._lock:
            self._end(job, state, message)

    def _new(self, visitor: str, tab: str, title: str, calls: Sequence[Any]) -> Job:
        mine = self._mine(visitor)
        if len(mine) >= KEPT:
            raise ValueError(f"{KEPT} results are kept already; delete some of them first.")
        name = f"{1 + max((int(name[:4]) for name in mine), default=0):04}-{tab}"
        folder = self.folder / visitor / name
        try:
            folder.mkdir(parents=True)
        except OSError as error:
            why = error.strerror or error
            raise MediaError(f"The job could not be written ({why}); make room and try again.") from error
        mine[name] = Job(visitor, name, tab, title, folder, list(calls))
        return mine[name]

    def stop(self, visitor: str, name: str) -> None:
        """Stop a job: its process is killed at once, and what it had made is removed."""
        with self._lock:
            job = self._mine(visitor).get(name)
            if job is None or job.state not in OPEN:
                return
            if job in self._queue:
                self._queue.remove(job)
                self._end(job, "stopped", "Stopped before it began.")
                return
            slot = next((slot for slot in self._slots if slot.job is job), None)
            job.state, job.message = "stopped", "Stopped."
        if slot is not None:
            slot.kill()

    def delete(self, visitor: str, name: str) -> None:
        """Remove a job that does not run any more, with its files."""
        with self._lock:
            job = self._mine(visitor).get(name)
            if job is None or any(slot.job is job for slot in self._slots) or job in self._queue:
                return
            del self._mine(visitor)[name]
        shutil.rmtree(job.folder, ignore_errors=True)

    def file(self, visitor: str, name: str, file: str) -> Path | None:
        """A file of a visitor's job, or None: nothing outside the job's folder has a name here."""
        with self._lock:
            job = self._mine(visitor).get(name)
        if job is None or Path(file).name != file or file.startswith("."):
            return None
        path = job.folder / file
        return path if path.is_file() and not path.is_symlink() else None

    def title(self, visitor: str, path: Path) -> str:
        """What a file is called: the title of the visitor's job that made it, or its own name."""
        with self._lock:
            job = self._mine(visitor).get(path.parent.name)
        return job.title if job is not None and job.folder == path.parent else path.stem

    def people(self, visitor: str) -> list[tuple[str, str]]:
        """(title, "JOB/FILE") of the people that a visitor has made."""
        with self._lock:
            return [
                (job.title, f"{job.name}/{file}")
                for job in sorted(self._mine(visitor).values(), key=lambda job: job.name, reverse=True)
                for file in job.files
                if job.tab in ("people", "edit") and job.state == "done" and file.endswith(".safetensors")
            ]

    def motions(self, visitor: str) -> list[tuple[str, str]]:
        """(title, "JOB/FILE") of what a visitor has made that can move a person: talk files and recorded motions."""
        with self._lock:
            return [
                (f"{job.title} ({Path(file).suffix[1:]})", f"{job.name}/{file}")
                for job in sorted(self._mine(visitor).values(), key=lambda job: job.name, reverse=True)
                for file in job.files
                if job.state == "done"
                and (file.endswith(".talk") or (job.tab == "live" and file.endswith(".safetensors")))
            ]

    def require_room(self, more: float = 0) -> None:
        """Raise ValueError if so many more bytes would be more than the page may keep, or than there are."""
        used, free = _size(self.folder), shutil.disk_usage(self.folder).free
        if used + more > self.limits.disk * GIGABYTE:
            raise ValueError(f"The page keeps at most {self.limits.disk:g} GB and is full; delete earlier results.")
        if more + 50e6 > free:
            raise ValueError("The disk is almost full; delete earlier results, or make room.")

    def room(self) -> int:
        """Bytes that the page may still write."""
        free = shutil.disk_usage(self.folder).free
        return max(1, int(min(self.limits.disk * GIGABYTE - _size(self.folder), free)))

    # --- inside

    def _mine(self, visitor: str) -> dict[str, Job]:
        if visitor not in self._known:
            self._known[visitor] = {job.name: job for job in _read(self.folder, visitor)}
        return self._known[visitor]

    def take(self, slot: _Slot) -> Job | None:
        """The next job for a slot: of the visitor with the fewest running ones; waits for it; None at the end."""
        with self._lock:
            while self.is_open:
                running = [other.job.visitor for other in self._slots if other.job is not None]
                if self._queue:
                    job = min(self._queue, key=lambda job: running.count(job.visitor))
                    self._queue.remove(job)
                    slot.job, job.state = job, "running"
                    return job
                self._wake.wait()
            return None

    def finished(self, slot: _Slot, state: State, message: str, about: list[dict[str, Any]], spent: float) -> None:
        """A slot's job has ended, by itself or because its process has."""
        with self._lock:
            job = slot.job
            assert job is not None
            slot.job = None
            job.seconds, job.about = spent, about
            if job.state == "stopped":
                state, message = "stopped", job.message
            self._end(job, state, message)

    def _end(self, job: Job, state: State, message: str) -> None:
        job.state, job.message = state, message
        if state == "done":
            job.files = _results(job)
        else:
            for path in job.folder.iterdir():
                if path.name.startswith(("result", ".")):
                    shutil.rmtree(path) if path.is_dir() else path.unlink()
        try:
            job.keep()
        except (OSError, ValueError):  # a full disk: it is forgotten when the page ends
            pass


class _Slot:
    """A thread that hands jobs to a worker process, and begins a new one when it was killed."""

    def __init__(self, jobs: Jobs) -> None:
        self.jobs = jobs
        self.job: Job | None = None
        self.thread = threading.Thread(target=self._run, daemon=True)
        self._process: Any = None
        self._pipe: Any = None

    def kill(self) -> None:
        """End the process, and what it has begun, at once."""
        process = self._process
        if process is not None and process.pid is not None and process.is_alive():
            try:
                os.killpg(process.pid, signal.SIGKILL)
            except (AttributeError, OSError):
                process.kill()

    def _run(self) -> None:
        self._begin()
        while (job := self.jobs.take(self)) is not None:
            started, spent = time.monotonic(), lambda: time.monotonic() - started  # noqa: B023 (called at once)
            limits = self.jobs.limits
            try:
                self._ready()
                started = time.monotonic()
                self._pipe.send((str(job.folder), job.calls, self.jobs.room(), limits.longest))
                for word, *rest in iter(self._pipe.recv, None):
                    if word == "at":
                        job.at = tuple(rest)
                    elif word == "done":
                        self.jobs.finished(self, "done", "", rest[0], spent())
                        break
                    elif word == "error":
                        self.jobs.finished(self, "failed", rest[0], [], spent())
                        break
            except (EOFError, OSError):
                message = "The work was ended from outside, perhaps because the memory was full; try a shorter part."
                self.jobs.finished(self, "failed", message, [], spent())
                if self.jobs.is_open:
                    self._begin()

    def _begin(self) -> None:
        context = multiprocessing.get_context("spawn")
        self._pipe, theirs = context.Pipe()
        self._process = context.Process(target=work, args=(theirs,), daemon=True)
        self._process.start()
        theirs.close()
        self._fresh = True

    def _ready(self) -> None:
        if self._fresh:
            self._pipe.recv()
            self._fresh = False


def _results(job: Job) -> list[str]:
    """The files that a job has made, what is best looked at first."""
    order = (".mp4", ".webm", ".gif", ".png", ".jpg", ".webp", ".mkv", ".talk", ".safetensors", ".json")
    names = [path.name for path in job.folder.iterdir() if path.is_file() and path.name.startswith("result")]
    return sorted(names, key=lambda name: (order.index(Path(name).suffix) if Path(name).suffix in order else 99, name))


def _read(folder: Path, visitor: str) -> Iterator[Job]:
    """The jobs that an earlier start of the page has left; what ran then was interrupted."""
    home = folder / visitor
    for path in sorted(home.iterdir()) if home.is_dir() else ():
        if not NAME.fullmatch(path.name):
            continue
        try:
            kept = json.loads((path / "job.json").read_bytes())
            job = Job(visitor, path.name, kept["tab"], kept["title"], path, [])
            job.state, job.message, job.files, job.about = (
                kept[name] for name in ("state", "message", "files", "about")
            )
            job.seconds, job.command, job.python = kept["seconds"], kept["command"], kept["python"]
        except (OSError, ValueError, KeyError, TypeError):
            continue
        if job.state in OPEN:
            job.state, job.message = "failed", "The page was closed before it was done; ask for it again."
        yield job


def link_file(path: Path, target: Path) -> None:
    """A second name of a file, or a copy where that cannot be."""
    try:
        os.link(path, target)
    except OSError:
        shutil.copyfile(path, target)


def _size(folder: Path) -> int:
    """Bytes of all files below a folder; a file with several names counts once."""
    seen: dict[tuple[int, int], int] = {}
    for place, _, names in os.walk(folder):
        for name in names:
            try:
                found = os.lstat(os.path.join(place, name))
            except OSError:
                continue
            seen[found.st_dev, found.st_ino] = found.st_size
    return sum(seen.values())


def new_visitor() -> str:
    """A name for a visitor that nobody can guess."""
    return secrets.token_hex(16)
