"""What was run, with what, and how long it took: the JSON file next to every output, and its clock."""

import hashlib
import json
import shlex
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from fractions import Fraction
from pathlib import Path
from typing import Any, TypeVar

from stylereel.core.files import replacing
from stylereel.core.version import __version__

Item = TypeVar("Item")


def ratio(value: Fraction) -> str:
    """A rate as text, always with its denominator: 30000/1001, 25/1."""
    return f"{value.numerator}/{value.denominator}"


def sha256(path: str | Path) -> str:
    """The SHA-256 of a file, or of the files in a folder in the order of their names, as 64 hexadecimal digits."""
    path = Path(path)
    if path.is_dir():
        lines = [f"{file.name} {sha256(file)}" for file in sorted(path.iterdir()) if file.is_file()]
        return hashlib.sha256("\n".join(lines).encode()).hexdigest()
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def command_line(command: str, subject: str, flags: dict[str, Any]) -> str:
    """The command that reproduces an output; flags by the names of their parameters."""
    words = ["stylereel", command, subject]
    for name, value in flags.items():
        flag = name.rstrip("_").replace("_", "-")
        if isinstance(value, list | tuple):
            words += [word for each in value for word in (f"--{flag}", str(each))]
        elif isinstance(value, bool):
            words.append(f"--{flag}" if value else f"--no-{flag}")
        else:
            words += [f"--{flag}", "null" if value is None else str(value)]
    return shlex.join(words)


def plain(value: object) -> object:
    """What JSON does not know: fractions and paths become text, arrays lists, their numbers numbers."""
    if isinstance(value, Fraction):
        return ratio(value)
    if (to_list := getattr(value, "tolist", None)) is not None:  # numpy and torch
        return to_list()
    if isinstance(value, Path):
        return str(value)
    raise TypeError(f"{type(value).__name__} does not fit into a record")


def write_record(path: str | Path, data: dict[str, Any]) -> Path:
    """Write `data` and the package's version as JSON next to an output: out.mp4 has its record in out.json.

    Args:
        path: the output that the record is about.
        data: plain values, fractions, paths and arrays. The usual names are command, settings, seeds, inputs
            and weights (with `sha256` of each file), frames, rate, seconds, frames_per_second and files. The hashes
            of `files` that exist are added as `written`, by which a later run knows that it may replace them.

    Returns:
        The name of the record.

    Raises:
        MediaError: the folder cannot be written.
    """
    path = Path(path).with_suffix(".json")
    files = [Path(file) for file in data.get("files", ()) if Path(file) != path]
    written = {file.name: sha256(file) for file in files if file.is_file()}
    text = json.dumps(
        {"stylereel": __version__, **data, "written": written}, indent=2, ensure_ascii=False, default=plain
    )
    with replacing(path) as partial:
        partial.write_text(text + "\n", encoding="utf-8")
    return path


class Stages:
    """Seconds spent in named stages, for the record, the progress and the print-out.

    `with stages("extract"): ...` times a block. `stages.through("render", frames)` hands the frames on and
    times only their making, so that a loop over them can time its own work as another stage. A stage inside another
    stops the outer one's clock, so no second is counted twice, and all stages and the rest are the whole time.

    Attributes:
        seconds: stage -> seconds so far, in order of first use.
        beside: stage -> seconds of its work in another thread, during which other stages were timed.
        current: the stage entered last.
        about: which part of a larger run this is, such as "pair 2 of 6", for the progress.
        watch: called with this object whenever a stage begins and after every item.
    """

    def __init__(self, watch: Callable[["Stages"], None] | None = None, about: str = "") -> None:
        self.seconds: dict[str, float] = {}
        self.beside: dict[str, float] = {}
        self.current, self.about = "", about
        self.watch = watch
        self._begun = self._since = time.perf_counter()
        self._open: list[str] = []
        self._counts: list[_Count] = []

    @property
    def counting(self) -> str:
        """The stage whose items are counted, "" outside."""
        return self._counts[-1].name if self._counts else ""

    @property
    def done(self) -> int:
        """Items handed on so far."""
        return self._counts[-1].done if self._counts else 0

    @property
    def total(self) -> int | None:
        """How many there will be, None if that is not known."""
        return self._counts[-1].total if self._counts else None

    def _notify(self) -> None:
        if self.watch:
            self.watch(self)

    def _book(self) -> None:
        """Give the time since the last call to the stage that is open."""
        now = time.perf_counter()
        if self._open:
            self.seconds[self._open[-1]] += now - self._since
        self._since = now

    @contextmanager
    def __call__(self, name: str) -> Iterator[None]:
        self._book()
        self.current = name
        if name not in self.seconds:
            self.seconds[name] = 0.0
            self._notify()
        self._open.append(name)
        try:
            yield
        finally:
            self._book()
            self._open.pop()

    def through(self, name: str, items: Iterable[Item], total: int | None = None) -> Iterator[Item]:
        """Yield the items, `total` of them if they have no length, counting them and timing how long each takes."""
        iterator = iter(items)
        with self._counted(name, _length(items, total)) as count:
            while True:
                with self(name):
                    try:
                        item = next(iterator)
                    except StopIteration:
                        return
                yield item
                count.done += 1
                self._notify()

    def count(self, items: Iterable[Item], total: int | None = None) -> Iterator[Item]:
        """Yield the items of the stage that is open, counting them; in whatever thread they are taken."""
        with self._counted(self.current, _length(items, total)) as count:
            for item in items:
                yield item
                count.done += 1
                self._notify()

    @contextmanager
    def _counted(self, name: str, total: int | None) -> Iterator["_Count"]:
        count = _Count(name, total)
        self._counts.append(count)
        try:
            yield count
        finally:
            self._counts.remove(count)

    def frames_per_second(self, num_frames: int, *names: str) -> float:
        """Frames for each second spent in the named stages, or in all; 0 before any time has passed."""
        spent = sum(self.seconds.get(name, 0.0) for name in names or self.seconds)
        return num_frames / spent if spent else 0.0

    def facts(self) -> dict[str, Any]:
        """What the record says: the seconds of each stage, whose sum with "other" is the time since the beginning."""
        named = {name: round(spent, 3) for name, spent in self.seconds.items()}
        wall = time.perf_counter() - self._begun
        return {
            "seconds": named | {"other": round(max(0.0, wall - sum(named.values())), 3)},
            "seconds in all": round(wall, 3),
            "seconds beside others": {name: round(spent, 3) for name, spent in self.beside.items()},
        }


class _Count:
    """Items of a stage."""

    def __init__(self, name: str, total: int | None) -> None:
        self.name, self.total, self.done = name, total, 0


def _length(items: Iterable[Any], total: int | None) -> int | None:
    return len(items) if total is None and hasattr(items, "__len__") else total  # type: ignore[arg-type]
