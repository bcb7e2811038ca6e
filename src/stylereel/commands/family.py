"""The command `stylereel train family`: all built-in weights in order, and of those only what is out of date.

A weight file is up to date when it was made with the weight files that are there now and with today's world, which its
card says (`inputs`). A part is trained in a folder of its own, named by what it is made from: with the same inputs it
resumes, with others it begins anew. Each training is a process, so several can run at once.
"""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Literal

from stylereel import world
from stylereel.commands.train import list_networks, recipe_of
from stylereel.core.builtin import BUILTIN
from stylereel.core.files import MediaError, ensure_writable, replacing
from stylereel.core.runs import claim
from stylereel.core.system import Device
from stylereel.core.weights import fingerprint, read_card
from stylereel.recipes.run import Part
from stylereel.systems import hint
from stylereel.train.loop import Precision

TRAIN = [sys.executable, "-m", "stylereel", "train"]
LOG = "training.log"
PATIENCE = 600.0  # seconds that a stopped training may take to save


def parts() -> dict[str, Part]:
    """The parts of the built-in family by name, each after those that it needs."""
    found = {name: getattr(recipe_of(name), "part", None) for name in list_networks()}
    return {name: part for name, part in found.items() if part is not None}


def train_family(
    *,
    folder: str = "runs",
    start: Literal["scratch", "builtin"] = "scratch",
    only: str | None = None,
    until: str | None = None,
    hours: float | None = None,
    processes: int = 1,
    scale: float = 1.0,
    precision: Precision = "auto",
    device: Device = "auto",
    dry_run: bool = False,
    overwrite: bool = False,
) -> list[str]:
    """Train all built-in weights that are out of date, in order; the same command resumes.

    Args:
        folder: folder for the finished weight files with their cards, and for the trainings. Weights that are not in
            the folder are the built-in ones.
        start: initial weights of the parts that can start from weights: scratch (random) or builtin.
        only: names of parts, separated by commas; the others stay as they are.
        until: the last part to train.
        hours: stop after this time; what is unfinished is saved.
        processes: how many parts may be trained at once, where one does not need the other; they share the cores.
        scale: share of each recipe's steps, for a trial run.
        precision: as for train.
        device: as for train.
        dry_run: say which of these are out of date, and train nothing.
        overwrite: also replace weight files in the folder that no earlier run there made.

    Returns:
        A line for each part.

    Raises:
        ValueError: no such part, a training that failed, or a number out of range.
        KeyboardInterrupt: stopped by a signal, after the state was saved.
    """
    home, known = Path(folder), parts()
    asked = [name.strip() for name in only.split(",")] if only else list(known)
    for name in [*asked, *([until] if until else [])]:
        if name not in known:
            raise ValueError(f"The family has no part {name!r}; {hint(name, list(known))}")
    if processes < 1 or (hours is not None and not 0 < hours < float("inf")):
        raise ValueError("Give 1 or more processes and more than 0 hours.")
    if until:
        asked = [name for name in asked if list(known).index(name) <= list(known).index(until)]
        if not asked:
            raise ValueError(f"None of {only} comes before {until}; leave out --until.")
    if not 0 < scale <= 1:
        raise ValueError(f"The scale is a share of the steps between 0 and 1, not {scale:g}.")
    if home.exists() and not home.is_dir():
        raise MediaError(f"{home} is a file; give a folder.")
    if dry_run:
        return [f"{name}: {reason(home, known[name]) or 'up to date'}" for name in known if name in asked]
    ensure_writable(home / "try")
    outputs = [home / f"{file}{end}" for name in asked for file in known[name].files for end in (".safetensors", ".md")]
    claim([*outputs, *(path.with_suffix(".json") for path in outputs[::2])], overwrite=overwrite, is_ours=_has_card)
    flags = ["--scale", f"{scale:g}", "--precision", precision, "--device", device]
    return list(_Runner(home, known, asked, start, flags, processes, hours).run())


def reason(home: Path, part: Part) -> str | None:
    """Why a part is out of date; None if it is not."""
    for name in part.files:
        path = _file(home, name)
        if not path.exists():
            return f"{path.name} is missing"
        made = read_card(path).get("inputs")
        if not isinstance(made, dict):
            return f"{path.name} does not say what it was made from"
        for key, value in _inputs(home, part).items():
            if made.get(key) != value:
                return f"{path.name} was made from another {key}"
    return None


def _file(home: Path, name: str) -> Path:
    here = home / f"{name}.safetensors"
    return here if here.exists() else BUILTIN / here.name


def _inputs(home: Path, part: Part) -> dict[str, str]:
    return {"world": str(world.VERSION), **{name: fingerprint(_file(home, name)) for name in part.needs}}


def _has_card(path: Path) -> bool:
    return path.suffix == ".md" and path.with_suffix(".json").exists()


class _Runner:
    """Trains the parts that are out of date, several at once where their inputs are ready."""

    def __init__(
        self,
        home: Path,
        known: dict[str, Part],
        asked: list[str],
        start: str,
        flags: list[str],
        processes: int,
        hours: float | None,
    ) -> None:
        self.home, self.known, self.asked, self.start, self.flags = home, known, asked, start, flags
        self.processes = processes
        self.end = float("inf") if hours is None else time.monotonic() + 3600 * hours
        self.live: dict[str, tuple[subprocess.Popen[bytes], Path, float]] = {}
        self.done: set[str] = set()

    def run(self) -> Iterator[str]:
        """A line for each part. Raises ValueError for one that failed, once the others have been stopped."""
        try:
            while True:
                waiting = [name for name in self.asked if name not in self.done and name not in self.live]
                for name in waiting:
                    if len(self.live) < self.processes and self._ready(name):
                        if why := reason(self.home, self.known[name]):
                            self._begin(name, why)
                        else:
                            self.done.add(name)
                            yield f"{name}: up to date"
                if not self.live:
                    if all(name in self.done for name in self.asked):
                        return
                    continue
                if time.monotonic() > self.end:
                    names = ", ".join(self.live)
                    self._stop()
                    yield f"stopped after the given hours at {names}; the same command goes on"
                    return
                for name, (process, _, _) in list(self.live.items()):
                    if process.poll() is not None:
                        yield self._finish(name)
                time.sleep(0.2)
        finally:
            self._stop()

    def _ready(self, name: str) -> bool:
        """Whether nothing that is to be trained yet makes an input of the part."""
        needs = self.known[name].needs
        makers = {other for other in self.asked for file in self.known[other].files if file in needs}
        return makers <= self.done

    def _begin(self, name: str, why: str) -> None:
        part = self.known[name]
        start = self.start if part.starts else "scratch"
        facts = json.dumps([_inputs(self.home, part), start, self.flags], sort_keys=True)
        place = self.home / f"{name}-{hashlib.sha256(facts.encode()).hexdigest()[:8]}"
        place.mkdir(parents=True, exist_ok=True)
        for need in part.needs:
            with replacing(place / f"{need}.safetensors") as partial:
                shutil.copyfile(_file(self.home, need), partial)
        words = [*TRAIN, name, "--folder", str(place), "--start", start]
        threads = str(max(1, (os.cpu_count() or 1) // self.processes))
        print(f"{name}: {why}; training in {place}, see {LOG} there.", file=sys.stderr, flush=True)
        with open(place / LOG, "ab") as log:
            environment = {"OMP_NUM_THREADS": threads, **os.environ}
            # A session of its own: a terminal's Ctrl-C reaches this process alone, which then stops its trainings.
            process = subprocess.Popen(
                [*words, *self.flags], stdout=log, stderr=log, env=environment, start_new_session=True
            )
        self.live[name] = process, place, time.time()

    def _finish(self, name: str) -> str:
        process, place, began = self.live.pop(name)
        with open(place / "seconds", "a", encoding="utf-8") as log:
            log.write(f"{time.time() - began:.0f}\n")
        if process.returncode:
            last = (place / LOG).read_text(encoding="utf-8", errors="replace").strip().splitlines()[-1:]
            raise ValueError(f"The training of {name} failed: {' '.join(last) or 'it was killed'} (see {place / LOG})")
        seconds = sum(map(float, (place / "seconds").read_text(encoding="utf-8").split()))
        for file in self.known[name].files:
            for path in (place / f"{file}.safetensors", place / f"{file}.json"):
                with replacing(self.home / path.name) as partial:
                    shutil.copyfile(path, partial)
            with replacing(self.home / f"{file}.md") as partial:
                partial.write_text(card_text(place, file, seconds), encoding="utf-8")
        self.done.add(name)
        return f"{name}: trained in {seconds / 60:.1f} minutes"

    def _stop(self) -> None:
        """Let all live trainings save and end."""
        for process, _, _ in self.live.values():
            if process.poll() is None:
                process.send_signal(signal.SIGTERM)
        for process, place, began in self.live.values():
            try:
                process.wait(PATIENCE)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()
            with open(place / "seconds", "a", encoding="utf-8") as log:
                log.write(f"{time.time() - began:.0f}\n")
        self.live.clear()


def card_text(place: Path, file: str, seconds: float) -> str:
    """A card in Markdown of what a training did: data, command, inputs, time, machine, the last line of each log."""
    path = place / f"{file}.safetensors"
    card = read_card(path)
    inputs = ", ".join(f"{name} {str(value)[:12]}" for name, value in card.get("inputs", {}).items())
    numbers = []
    for log in sorted(place.glob("**/log.jsonl")):
        last = json.loads(log.read_text(encoding="utf-8").splitlines()[-1])
        shown = ", ".join(f"{name} {value:.4g}" for name, value in last.items() if isinstance(value, int | float))
        numbers.append(f"{log.parent.relative_to(place)}: {shown}")
    lines = {
        "Data": card.get("data"),
        "Command": f"`{card.get('command')}`",
        "Made from": inputs,
        "Made on": f"{card.get('machine')}, {time.strftime('%Y-%m-%d')}, {seconds / 60:.1f} minutes",
        "Numbers": "at the end of each stage, in training: " + ("; ".join(numbers) or "none"),
        "Licence": card.get("licence") or "that of the images it learned",
    }
    return f"# {path.name}\n\n" + "".join(f"- **{name}:** {value}\n" for name, value in lines.items())
