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
        flag = name.replace("_", "-")
        if isinstance(value, bool):
            words.append(f"--{flag}" if value else f"--no-{flag}")
        else:
            words += [f"--{flag}", "null" if value is None else str(value)]
    return shlex.join(words)


def plain(value: Any) -> Any:
    """What JSON does not know: fractions and paths become text, arrays lists, their numbers numbers."""
    if isinstance(value, Fraction):
        return ratio(value)
    if hasattr(value, "tolist"):  # numpy and torch
        return value.tolist()
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
    """Seconds spent in named stages, for the record, the progress line and the print-out.

    `with stages("extract"): ...` times a block. `stages.through("render", frames)` hands the frames on and
    times only their making, so that a loop over them can time its own work as another stage.

    Attributes:
        seconds: stage -> seconds so far, in order of first use.
        current: the stage entered last.
        done, total: items handed on by the last `through`, and how many there will be (None if not known).
        watch: called with this object whenever a stage begins and after every item.
    """

    def __init__(self, watch: Callable[["Stages"], None] | None = None) -> None:
        self.seconds: dict[str, float] = {}
        self.current = ""
        self.done: int = 0
        self.total: int | None = None
        self.watch = watch

    def _notify(self) -> None:
        if self.watch:
            self.watch(self)

    @contextmanager
    def __call__(self, name: str) -> Iterator[None]:
        self.current = name
        if name not in self.seconds:
            self.seconds[name] = 0.0
            self._notify()
        start = time.perf_counter()
        try:
            yield
        finally:
            self.seconds[name] += time.perf_counter() - start

    def through(self, name: str, items: Iterable[Item], total: int | None = None) -> Iterator[Item]:
        """Yield the items, `total` of them if they have no length, counting them and timing how long each takes."""
        if total is None and hasattr(items, "__len__"):
            total = len(items)  # type: ignore[arg-type]
        self.done, self.total = 0, total
        iterator = iter(items)
        while True:
            with self(name):
                try:
                    item = next(iterator)
                except StopIteration:
                    return
            yield item
            self.done += 1
            self._notify()

    def frames_per_second(self, num_frames: int, *names: str) -> float:
        """Frames for each second spent in the named stages, or in all; 0 before any time has passed."""
        spent = sum(self.seconds.get(name, 0.0) for name in names or self.seconds)
        return num_frames / spent if spent else 0.0
