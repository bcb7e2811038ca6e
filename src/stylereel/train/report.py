"""The report of a training stage: progress bar, log lines, TensorBoard, curves and samples."""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np

from stylereel.core.files import MediaError, replacing
from stylereel.media.pictures import save_picture


class Report:
    """Collects the losses of every step and writes their means every `every` steps into `folder`.

    log.jsonl holds one line an interval: step, seconds_per_step and the mean of each loss over the steps that gave it.
    The same numbers go to tensorboard/. At the end curves.png shows them. A terminal gets a progress bar with speed
    and time left, anything else the log lines.
    """

    def __init__(self, folder: Path, name: str, start: int, steps: int, every: int) -> None:
        from torch.utils.tensorboard import SummaryWriter

        self._folder, self._steps, self._every = folder, steps, every
        self._log = folder / "log.jsonl"
        # Steps after the checkpoint are done again: their lines go, and so does one that was cut short.
        kept = [line for line in read_log(self._log) if line["step"] <= start]
        with replacing(self._log) as partial:
            partial.write_text("".join(json.dumps(line) + "\n" for line in kept))
        self._board = SummaryWriter(folder / "tensorboard", purge_step=start + 1)
        self._bar: Any = _progress_bar(name, start, steps) if sys.stderr.isatty() else None
        self._began = time.perf_counter()
        self._sums: dict[str, tuple[float, int]] = {}
        self._count = 0

    def add(self, done: int, losses: Mapping[str, float]) -> None:
        """Take the losses of a step, the `done`-th from the beginning."""
        for name, value in losses.items():
            total, count = self._sums.get(name, (0.0, 0))
            self._sums[name] = (total + value, count + 1)
        self._count += 1
        if self._bar:
            speed = self._count / (time.perf_counter() - self._began)
            self._bar.update(self._bar.task_ids[0], completed=done, speed=f"{speed:.1f} steps/s")
        if done % self._every == 0 or done == self._steps:
            with _full_disk_in_words(self._folder):
                self._write(done)

    def _write(self, done: int) -> None:
        now = time.perf_counter()
        line: dict[str, float] = {"step": done, "seconds_per_step": round((now - self._began) / self._count, 5)}
        line |= {name: float(f"{total / count:.5g}") for name, (total, count) in self._sums.items()}
        with self._log.open("a") as log:
            log.write(json.dumps(line) + "\n")
        for name, value in line.items():
            if name != "step":
                self._board.add_scalar(name, value, done)
        if not self._bar:
            print(json.dumps(line), flush=True)
        self._began, self._sums, self._count = now, {}, 0

    def show(self, done: int, image: np.ndarray) -> None:
        """Save an image uint8 [H, W, 3] of what the networks generate after `done` steps as samples.png."""
        with _full_disk_in_words(self._folder):
            save_picture(self._folder / "samples.png", image)
            self._board.add_image("samples", image, done, dataformats="HWC")

    def close(self) -> None:
        """Draw the curves and end bar and board; raises nothing, so that what ended the run is what the user reads."""
        if self._bar:
            self._bar.stop()
        try:
            self._board.close()
            save_curves(self._folder / "curves.png", read_log(self._log))
        except (OSError, MediaError) as error:
            print(f"The curves in {self._folder} cannot be written ({error}).", file=sys.stderr)


@contextmanager
def _full_disk_in_words(folder: Path) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        raise MediaError(
            f"{folder} cannot be written ({error.strerror or error}); make room and start again."
        ) from error


def read_log(path: Path) -> list[dict[str, float]]:
    """The lines of a log.jsonl; none if there is no file, and not the last one if it was cut short."""
    lines = []
    for text in path.read_text().splitlines() if path.exists() else ():
        try:
            lines.append(json.loads(text))
        except json.JSONDecodeError:
            break
    return lines


def save_curves(path: Path, lines: list[dict[str, float]]) -> None:
    """Draw each loss of a log over the steps, one panel a loss."""
    from matplotlib.figure import Figure

    names = list(dict.fromkeys(name for line in lines for name in line if name not in ("step", "seconds_per_step")))
    if not names:
        return
    columns = min(3, len(names))
    rows = -(-len(names) // columns)
    figure = Figure(figsize=(4 * columns, 2.6 * rows), layout="constrained")
    for place, name in enumerate(names, 1):
        axes = figure.add_subplot(rows, columns, place, title=name, xlabel="step")
        points = [(line["step"], line[name]) for line in lines if name in line]
        axes.plot(*zip(*points), marker="." if len(points) < 20 else None)
        axes.grid(alpha=0.3)
    with replacing(path) as partial:
        figure.savefig(partial, format="png", dpi=100)


def _progress_bar(name: str, start: int, steps: int) -> Any:
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TextColumn("{task.fields[speed]}"))
    bar = Progress(*columns, TimeRemainingColumn(), console=Console(stderr=True))
    bar.add_task(name, total=steps, completed=start, speed="")
    bar.start()
    return bar
