"""How fast, how late and how steady `stylereel live` is: a clip plays as a camera for some minutes.

    python benchmarks/live.py [CLIP] [--system NAME] [--minutes 10] [--cores 2] [--fps 25] [--workers N]
                              [--out results.json]
    python benchmarks/live.py [CLIP] --scaling
    python benchmarks/live.py [CLIP] --reading [--sheet SHEET.png]

Prints frames in, out and dropped, percentiles of the time from frame in to frame out and of each stage, the time of a
processor that each takes (which other work on the machine changes little), the process's memory minute by minute, and
by how much the face in a recording lags behind the sound: the shift at which the motion that was shown agrees best with
what the file path, which looks ahead, reads in the same clip. Says at the end whether the goals are met: every frame of
25 a second shown, 95 % of them within 120 ms, no growth of memory, less than 80 ms between face and sound.

With --scaling instead: frames a second that one and two threads draw, and two processes, in turn. With --reading: how
the causal reading of each factor compares with that of the file path, frame by frame and whatever the speed of the
machine: correlation, lag, tremble (standard deviation of second differences) of both; and frames of the clip, of the
file path and live, one below the other.
"""

from __future__ import annotations

import argparse
import json
import multiprocessing
import os
import platform
import statistics
import tempfile
import threading
import time
from datetime import date
from fractions import Fraction
from pathlib import Path
from typing import Any

import numpy as np

GOAL_RATE, GOAL_LATE, GOAL_MEMORY, GOAL_STEP = 0.99, 120.0, 16.0, 80.0  # share of frames, ms, MiB, ms
SECONDS = 5.0  # of a part of --scaling


class Memory:
    """An output that shows nothing and looks at the memory of the process now and then."""

    def __init__(self, seconds: float) -> None:
        self.every, self.samples = seconds, list[float]()
        self._next = time.monotonic() + seconds

    def show(self, picture: Any) -> None:
        if picture is not None and time.monotonic() >= self._next:
            self._next += self.every
            self.samples.append(resident())


def demo_clip() -> Path:
    from stylereel.commands.demo import CLIP

    return CLIP


def resident() -> float:
    """MiB of the process in memory."""
    pages = int(Path("/proc/self/statm").read_text().split()[1])
    return pages * os.sysconf("SC_PAGE_SIZE") / 2**20


def lag(live: np.ndarray, whole: np.ndarray, rate: Fraction) -> float:
    """Milliseconds by which a track comes later than another one: the shift with the best correlation."""
    shifts = np.arange(-0.4, 0.401, 0.005)
    at = np.arange(len(live)) / float(rate)
    inside = (at > 0.5) & (at < at[-1] - 0.5)
    found = [np.corrcoef(np.interp(at[inside] + each, at, live), whole[: len(live)][inside])[0, 1] for each in shifts]
    return round(1e3 * float(shifts[int(np.argmax(found))]), 1)


def face_after_sound(system: Any, identity: Any, clip: Path, workers: int | None) -> dict[str, float]:
    """A recording of the clip played once: by how much each factor lags, in ms, and by how much the sound does."""
    import av

    from stylereel import systems
    from stylereel.core.latents import Motion
    from stylereel.live.camera import FileCamera
    from stylereel.live.recording import Recording
    from stylereel.live.session import Session

    camera = FileCamera(clip)
    with tempfile.TemporaryDirectory() as folder:
        out = Path(folder) / "out.mp4"
        with Recording(out, camera.rate, lambda: (clip, camera.begun)) as recording:
            Session(system, identity, camera, workers=workers).run([recording])
        reader: Any = systems.load("stylemask")  # all systems follow the same factors
        shown, whole = Motion.load(recording.files[1]), reader.extract(clip)
        # Before the first picture was drawn nothing is recorded.
        first = round((recording.begun - (camera.begun or 0)) * camera.rate)
        count = min(len(shown), len(whole) - first)
        tracks = {name: (shown.column(name)[:count], whole.column(name)[first:]) for name in ("yaw", "jaw")}
        late = {name: lag(*both, shown.rate) for name, both in tracks.items()}
        with av.open(str(out)) as container:
            begins = [(each.start_time or 0) * (each.time_base or 0) for each in container.streams]
            late["sound"] = 1e3 * float(max(begins, default=0))
    return late


def run(arguments: argparse.Namespace) -> dict[str, Any]:
    import torch

    from stylereel import systems
    from stylereel.live.camera import FileCamera
    from stylereel.live.meter import summary
    from stylereel.live.session import Session

    torch.set_num_threads(arguments.cores)
    clip = arguments.clip or demo_clip()
    system: Any = systems.load(arguments.system, device="cpu")
    identity = system.identify(29)
    step = face_after_sound(system, identity, clip, arguments.workers)
    camera, memory = FileCamera(clip, Fraction(arguments.fps), loop=True), Memory(min(60.0, 6 * arguments.minutes))
    session = Session(system, identity, camera, workers=arguments.workers)
    others = os.getloadavg()[0]
    facts = session.run([memory], 60 * arguments.minutes, print)
    for line in summary(facts):
        print(line)
    print("ms of a processor for a frame:", {name: times["mean"] for name, times in facts["ms of a processor"].items()})
    print("MiB in memory:", [round(each) for each in memory.samples])
    print("ms later than the clip:", step)
    half = memory.samples[len(memory.samples) // 4 :]
    growth = statistics.median(half[-3:]) - statistics.median(half[:3]) if len(half) > 5 else float("nan")
    goals = {
        f"{GOAL_RATE:.0%} of frames out": facts["frames"]["out"] >= GOAL_RATE * facts["frames"]["in"],
        f"95 % within {GOAL_LATE:.0f} ms": facts["ms from in to out"]["p95"] < GOAL_LATE,
        f"memory grows by less than {GOAL_MEMORY:.0f} MiB": growth < GOAL_MEMORY,
        f"face and sound within {GOAL_STEP:.0f} ms": max(map(abs, step.values())) < GOAL_STEP,
    }
    for goal, met in goals.items():
        print(f"{goal}: {'yes' if met else 'NO'}")
    print(f"load of the machine before the run: {others:.1f}")
    return {
        "date": str(date.today()), "system": system.name,
        "machine": platform.processor() or platform.machine(), "cores": arguments.cores,
        "load before": others, **facts, "memory": memory.samples, "growth": growth, "ms later": step, "goals": goals,
    }  # fmt: skip


def reading(clip: Path, sheet: Path | None) -> None:
    from stylereel import systems
    from stylereel.core.render import render
    from stylereel.core.system import Shot
    from stylereel.faces.placement import cut
    from stylereel.media.pictures import save_picture
    from stylereel.media.sheet import contact_sheet
    from stylereel.media.video import VideoReader

    system: Any = systems.load("stylemask", device="cpu")
    reader = VideoReader(clip)
    whole = system.extract(reader)
    shots = (Shot(index / float(reader.rate), frame) for index, frame in enumerate(reader))
    steps = list(system.follow(shots, reader.rate))
    live = np.concatenate([step.values for step in steps])
    print("| factor | correlation | lag, ms | tremble live | tremble of the file path |\n|---|---|---|---|---|")
    for column, name in enumerate(whole.names):
        ours, theirs = live[:, column], whole.values[:, column]
        if min(np.ptp(ours), np.ptp(theirs)) < 0.02 or name in ("shift_x", "shift_y", "scale"):
            continue
        tremble = [np.diff(each, 2).std() for each in (ours, theirs)]
        print(
            f"| {name} | {np.corrcoef(ours, theirs)[0, 1]:.2f} | {lag(ours, theirs, reader.rate):.0f} "
            f"| {tremble[0]:.3g} | {tremble[1]:.3g} |"
        )
    if sheet is None:
        return
    identity, chosen = system.identify(29), np.linspace(12, len(whole) - 3, 6).astype(int)
    frames = {index: frame for index, frame in enumerate(reader) if index in chosen}
    rows = [
        [cut(frames[index], whole.placement[index], 160) for index in chosen],
        [next(iter(render(system, identity, whole.part(index, index + 1), 1, "32"))) for index in chosen],
        [next(iter(render(system, identity, steps[index], 1, "32"))) for index in chosen],
    ]
    names = [word for name in ("clip", "file", "live") for word in (name, *[""] * (len(chosen) - 1))]
    save_picture(sheet, contact_sheet([cell for row in rows for cell in _sized(row)], len(chosen), names))


def _sized(row: list[np.ndarray]) -> list[np.ndarray]:
    from stylereel.commands.rendering import scaled

    return [scaled(cell, 160) for cell in row]


def draw(seconds: float, threads: int, ready: Any = None) -> float:
    """Frames a second that so many threads of this process draw, each whole frames with one thread."""
    import torch

    from stylereel import systems
    from stylereel.core.latents import FACE, Motion
    from stylereel.core.render import render
    from stylereel.faces.coefficients import NAMES
    from stylereel.faces.live import REST

    torch.set_num_threads(1)
    system: Any = systems.load("stylemask", device="cpu")
    identity, counts = system.identify(29), [0] * threads
    motion = Motion(REST[None], FACE, NAMES, Fraction(25), np.ones((1, 4), np.float32))

    def work(index: int) -> None:
        drawing = render(system, identity, motion, 1)
        drawing.draw(motion)
        if ready is not None:
            ready.wait()
        end = time.monotonic() + seconds
        while time.monotonic() < end:
            drawing.draw(motion)
            counts[index] += 1

    others = [threading.Thread(target=work, args=(index,)) for index in range(threads)]
    for each in others:
        each.start()
    for each in others:
        each.join()
    return sum(counts) / seconds


def scaling() -> None:
    context = multiprocessing.get_context("spawn")
    for repeat in range(3):
        threads = [draw(SECONDS, count) for count in (1, 2)]
        with context.Manager() as manager, context.Pool(2) as pool:
            ready = manager.Barrier(2)
            processes = sum(pool.starmap(draw, [(SECONDS, 1, ready)] * 2))
        print(
            f"{repeat + 1}: one thread {threads[0]:.1f} frames a second, two {threads[1]:.1f}, "
            f"two processes {processes:.1f}; load {os.getloadavg()[0]:.1f}"
        )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("clip", nargs="?", type=Path, help="with a face and sound; the demo's if not given")
    parser.add_argument("--system", default="stylemask")
    parser.add_argument("--minutes", type=float, default=10)
    parser.add_argument("--cores", type=int, default=2, help="to which the process is bound")
    parser.add_argument("--fps", type=int, default=25)
    parser.add_argument("--workers", type=int, help="drawing threads; as many as cores if not given")
    parser.add_argument("--out", type=Path, help="file for the results")
    parser.add_argument("--scaling", action="store_true", help="threads against processes")
    parser.add_argument("--reading", action="store_true", help="causal reading against the file path")
    parser.add_argument("--sheet", type=Path, help="picture of --reading")
    arguments = parser.parse_args()
    if hasattr(os, "sched_setaffinity"):
        os.sched_setaffinity(0, sorted(os.sched_getaffinity(0))[: arguments.cores])
    if arguments.scaling:
        scaling()
        return
    if arguments.reading:
        reading(arguments.clip or demo_clip(), arguments.sheet)
        return
    results = run(arguments)
    if arguments.out:
        arguments.out.write_text(json.dumps(results, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
