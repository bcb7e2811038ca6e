"""Preparing training data, measured: `python benchmarks/corpora.py WHAT --folder FOLDER`.

speed: seconds of each step, and core-seconds for a second of video. two: how much faster two processes are than one.
kills: the same data set, with kill -9 at random moments and without. memory: of one process in a long run. sets: what
is kept of the clips for each system, and why the rest is not. On clips of the world, some of them broken on purpose, or
on your own.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import os
import random
import resource
import shutil
import signal
import sqlite3
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Iterable, Iterator
from fractions import Fraction
from itertools import cycle
from pathlib import Path
from typing import NamedTuple

import numpy as np
from scipy.io import wavfile

from stylereel.commands.world import world_clip
from stylereel.core.files import MediaError
from stylereel.core.runs import VERSIONS
from stylereel.corpora.pack import INDEX
from stylereel.corpora.report import kind_of
from stylereel.corpora.settings import NEEDS
from stylereel.corpora.sources import find_videos
from stylereel.media.sound import waveform
from stylereel.media.video import VideoReader, VideoWriter

# How every tenth clip or so is broken, and the step that must notice.
SHARED = 8
DIFFERENT = 100  # clips of a long run; the others are the same under other hashes
BROKEN = ("cut", "silent", "no face", "two faces", "copy", "wrong rate", "two shots")


def make_clips(folder: Path, count: int, seconds: float = 1.0, size: int = 96, every: int = 10) -> dict[str, str]:
    """Clips of the world, of which one in `every` is broken in one of the ways of BROKEN; names and ways.

    Drawing is the slow part, so that one drawn clip gives SHARED: parts of it, as they are and mirrored.
    """
    folder.mkdir(parents=True, exist_ok=True)
    ways: dict[str, str] = {}
    drawn = folder.with_name(f"{folder.name}-drawn.mp4")
    for number in range(count):
        way = BROKEN[number // every % len(BROKEN)] if number % every == every - 1 else ""
        name = f"clip-{number:04}{'-' + way.replace(' ', '-') if way else ''}.mp4"
        ways[name] = way
        person, part = divmod(number, SHARED)
        if (folder / name).exists():
            continue
        if way:
            draw_clip(folder, name, way, number, seconds, size)
            continue
        if part == 0 or not drawn.exists():
            long = seconds * SHARED / 2
            world_clip(out=str(drawn), seed=person, movement=number, seconds=long, size=size, overwrite=True)
        frames = round(seconds * 25)
        first = part // 2 * frames
        shown = VideoReader(drawn).frames(first, frames)
        sound = folder / f".sound-{number}.wav"
        wavfile.write(sound, 16000, waveform(drawn)[first * 640 : (first + frames) * 640])
        write(folder / f".part-{name}", (each[:, ::-1] if part % 2 else each for each in shown), Fraction(25), sound)
        sound.unlink()
        (folder / f".part-{name}").rename(folder / name)
    return ways


def draw_clip(folder: Path, name: str, way: str, seed: int, seconds: float, size: int) -> None:
    path, part = folder / name, folder / f".part-{name}"
    rate = 10 if way == "wrong rate" else 25
    if way == "copy":  # of the clip before, encoded anew
        before = max(folder.glob(f"clip-{seed - 1:04}*.mp4"))
        write(part, VideoReader(before), Fraction(25), before, crf=30)
    elif way == "no face":
        random_frames = np.random.default_rng(seed).integers(0, 255, (round(seconds * rate), 8, 8, 3), dtype=np.uint8)
        write(
            part,
            (np.kron(each, np.ones((size // 8, size // 8, 1), np.uint8)) for each in random_frames),
            Fraction(rate),
        )
    else:
        world_clip(out=str(part), seed=seed, seconds=seconds, rate=rate, size=size, overwrite=True)
    if way in ("two faces", "two shots"):
        other = folder / f".other-{name}"
        world_clip(out=str(other), seed=seed + 50_000, seconds=seconds, rate=rate, size=size, overwrite=True)
        ours, theirs = list(VideoReader(part)), list(VideoReader(other))
        frames = [np.hstack(pair) for pair in zip(ours, theirs)] if way == "two faces" else ours + theirs
        write(part, frames, Fraction(rate), part if way == "two faces" else None)
        other.unlink()
    elif way == "silent":
        write(part, list(VideoReader(part)), Fraction(rate))
    elif way == "cut":
        data = part.read_bytes()
        part.write_bytes(data[: len(data) * 2 // 3])
    part.rename(path)


def write(path: Path, frames: Iterable[np.ndarray], rate: Fraction, sound: Path | None = None, crf: int = 18) -> None:
    new = path.with_name(f"{path.stem}-new.mp4")
    with VideoWriter(new, rate, audio_from=sound, crf=crf) as writer:
        for frame in frames:
            writer.write(np.ascontiguousarray(frame))
        writer.finish()
    new.rename(path)


class Spent(NamedTuple):
    """Seconds by the clock, and core-seconds, which a busy machine changes less."""

    wall: float
    cores: float


def command(clips: Path, out: Path, system: str, *more: str) -> list[str]:
    words = [sys.executable, "-m", "stylereel", "prepare", str(clips), "--out", str(out), "--for", system, *more]
    return [*words, "--parameters", str(parameters(out.parent))]


def parameters(folder: Path) -> Path:
    """A file that lets small faces pass."""
    path = folder / "small.toml"
    path.write_text("[judge]\nsmallest = 30\nseconds = 0.3\n[shots]\nshortest = 0.3\n")
    return path


def repeated(clips: Path, folder: Path, count: int) -> Path:
    """`count` files that show what the clips show; each ends in a box of its own that MP4 readers skip."""
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    for number, path in zip(range(count), cycle(sorted(clips.glob("*.mp4")))):
        name = f"{number:05}-{path.name}"
        (folder / name).write_bytes(path.read_bytes() + (16).to_bytes(4, "big") + b"free" + number.to_bytes(8, "big"))
    return folder


def run(clips: Path, out: Path, system: str, *more: str) -> Spent:
    """A whole command, and what it took."""
    begun, before = time.monotonic(), resource.getrusage(resource.RUSAGE_CHILDREN)
    subprocess.run(command(clips, out, system, *more), check=True, stdout=subprocess.DEVNULL)
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    cores = after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime
    return Spent(time.monotonic() - begun, cores)


def fingerprint(out: Path, system: str) -> dict[str, str]:
    """SHA-256 of each file of a data set."""
    files = sorted(path for path in (out / system).rglob("*") if path.is_file())
    return {str(path.relative_to(out)): hashlib.sha256(path.read_bytes()).hexdigest() for path in files}


def steps(out: Path) -> dict[str, dict[str, float]]:
    """Results, seconds and bytes of each step, from the ledger."""
    base = sqlite3.connect(out / "ledger.sqlite")
    query = "select step, count(*), sum(seconds), sum(bytes) from rows group by step order by sum(seconds) desc"
    found = {step: {"results": n, "seconds": s, "bytes": b} for step, n, s, b in base.execute(query)}
    base.close()
    return found


def kills(clips: Path, folder: Path, systems: list[str], times: int, workers: int, seed: int = 0) -> dict[str, object]:
    """Prepare undisturbed; then in another folder, where two commands at a time share the work for one of the systems,
    with `times` kills of all processes of a command at random moments."""
    whole, disturbed = folder / "whole", folder / "disturbed"
    for old in (whole, disturbed):
        shutil.rmtree(old, ignore_errors=True)
    more = ("--workers", str(workers))
    seconds = sum(run(clips, whole, system, *more).wall for system in systems)
    begun = time.monotonic()
    for process in [begin(clips, whole, system, *more) for system in (systems[0], systems[-1])]:
        process.wait()
    start = time.monotonic() - begun  # nothing was left to do
    chance = random.Random(seed)
    done, while_packing = 0, 0
    while done < times:
        system = chance.choice(systems)
        # Long enough to do something, short enough that most kills come before the end.
        ends = sorted(chance.uniform(0.2, start + 2 * seconds / times) for _ in range(2))
        begun, over = time.monotonic(), False
        for process, end in zip([begin(clips, disturbed, system, *more) for _ in ends], ends):
            try:
                process.wait(max(0.0, begun + end - time.monotonic()))
                if process.returncode:
                    raise RuntimeError(f"the command ended with {process.returncode}")
                over = True
            except subprocess.TimeoutExpired:
                os.killpg(process.pid, signal.SIGKILL)
                process.wait()
                done += 1
        if over:  # kill it while it packs
            shutil.rmtree(disturbed / system, ignore_errors=True)
            while_packing += 1
        print(f"{done} kills, {while_packing} times done", file=sys.stderr, flush=True)
    for system in systems:
        run(clips, disturbed, system, *more)
    ledger = sqlite3.connect(disturbed / "ledger.sqlite")
    twice = ledger.execute("select count(*) - count(distinct clip || step || key) from rows").fetchone()[0]
    ledger.close()
    sets = {system: [fingerprint(out, system) for out in (whole, disturbed)] for system in systems}
    results = [sum(1 for _ in (out / "work").rglob("*.safetensors")) for out in (whole, disturbed)]
    return {
        "kills": done,
        "same bytes": {system: one == other for system, (one, other) in sets.items()},
        "files": {system: len(one) for system, (one, _) in sets.items()},
        "rows twice": twice,
        "results": results,
        "data sets written again after a run came to its end": while_packing,
    }


def begin(clips: Path, out: Path, system: str, *more: str) -> subprocess.Popen[bytes]:
    """A command that has begun, with all its processes in a group of their own."""
    words = command(clips, out, system, *more)
    return subprocess.Popen(words, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, start_new_session=True)


def processes_of(process: int) -> dict[int, float]:
    """Core-seconds until now of a process and of those below it; empty when it has ended."""
    found: dict[int, float] = {}
    try:
        fields = Path(f"/proc/{process}/stat").read_text().rpartition(")")[2].split()
        found[process] = sum(map(int, fields[11:13])) / os.sysconf("SC_CLK_TCK")
        for thread in Path(f"/proc/{process}/task").iterdir():
            for child in (thread / "children").read_text().split():
                found |= processes_of(int(child))
    except OSError:  # it ended in between
        pass
    return found


def two(clips: Path, folder: Path, system: str) -> dict[str, object]:
    """One process and then two on the same clips: whole commands, start and packing included (Linux).

    Besides the clock, which on a machine with other work measures that, too: what is faster by core-seconds. With one
    process at work that is everything; with two it is the process that starts, writes the ledger and packs, and the one
    of the two that worked longer. It is what two free cores give, if nothing waits for the disk.
    """
    out = folder / f"two-{system}"
    found: dict[str, object] = {}
    clock, longest = [], []
    for workers in (1, 2):
        shutil.rmtree(out, ignore_errors=True)
        begun, spent = time.monotonic(), dict[int, float]()
        process = subprocess.Popen(
            command(clips, out, system, "--workers", str(workers)), stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
        )
        while process.poll() is None:
            spent |= processes_of(process.pid)
            time.sleep(0.1)
        if process.returncode:
            raise RuntimeError(f"the command ended with {process.returncode}")
        clock.append(time.monotonic() - begun)
        main = spent.pop(process.pid)
        longest.append(main + max(spent.values()))
        found[f"with {workers}"] = {
            "seconds": round(clock[-1], 1),
            "core-seconds": {"main": round(main, 1), "workers": [round(each, 1) for each in spent.values()]},
            "cores": round((main + sum(spent.values())) / clock[-1], 2),
        }
    found["times faster"] = round(clock[0] / clock[1], 2)
    found["times faster by core-seconds"] = round(longest[0] / longest[1], 2)
    return found


def sets(clips: Path, folder: Path, workers: int) -> dict[str, dict[str, object]]:
    """For each system clips kept, and left out by kind of reason; all in one folder, as a user would."""
    out, found = folder / "sets", {}
    for system in NEEDS:
        spent = run(clips, out, system, "--workers", str(workers))
        about = json.loads((out / system / INDEX).read_bytes())
        kinds = Counter(kind_of(reason) for reason in about["rejected"].values())
        found[system] = {"core-seconds": round(spent.cores, 1), "clips": len(about["clips"]), "left out": dict(kinds)}
    return found


def readable(clips: Path) -> Iterator[VideoReader]:
    """The clips that are not damaged."""
    for video in find_videos([str(clips)]):
        try:
            yield VideoReader(video.path)
        except MediaError:
            continue


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("what", choices=["clips", "speed", "two", "kills", "memory", "sets"])
    parser.add_argument("--folder", type=Path, required=True)
    parser.add_argument("--clips", type=Path, help="a folder of your own clips instead of the world's")
    parser.add_argument("--count", type=int, default=200)
    parser.add_argument("--size", type=int, default=96)
    parser.add_argument("--seconds", type=float, default=1.0)
    parser.add_argument("--system", default="styleheat", help="for kills also several, with commas")
    parser.add_argument("--times", type=int, default=50)
    parser.add_argument("--workers", type=int, default=2)
    given = parser.parse_args()
    count = min(given.count, DIFFERENT) if given.what == "memory" else given.count
    clips = given.clips or given.folder / f"clips-{count}-{given.size}-{given.seconds:g}"
    given.folder.mkdir(parents=True, exist_ok=True)
    if given.clips is None:
        make_clips(clips, count, given.seconds, given.size)
    found: dict[str, object] = {"versions": VERSIONS, "count": given.count, "size": given.size, "for": given.system}
    if given.what == "kills":
        found |= kills(clips, given.folder, given.system.split(","), given.times, given.workers)
    elif given.what == "speed":
        seconds = sum(reader.num_frames / float(reader.rate) for reader in readable(clips))
        out = given.folder / f"speed-{given.system}"
        shutil.rmtree(out, ignore_errors=True)
        spent = run(clips, out, given.system, "--workers", "0")
        idle = run(clips, out, given.system, "--workers", "0")
        found["core-seconds to start"] = round(idle.cores, 1)
        found["core-seconds for a second of video"] = round((spent.cores - idle.cores) / seconds, 3)
        found["seconds of video"] = round(seconds, 1)
        found["steps"] = steps(out)
    elif given.what == "two":
        found |= two(clips, given.folder, given.system)
    elif given.what == "sets":
        found["sets"] = sets(clips, given.folder, given.workers)
    elif given.what == "memory":
        out = given.folder / "memory"
        shutil.rmtree(out, ignore_errors=True)
        found["memory"] = memory(repeated(clips, given.folder / "repeated", given.count), out, given.system)
    print(json.dumps(found, indent=1))


def memory(clips: Path, out: Path, system: str) -> list[dict[str, float]]:
    """MB that one process has after each tenth of the clips, and its peak by then."""
    from stylereel.corpora.engine import Here
    from stylereel.corpora.run import prepare_videos
    from stylereel.corpora.settings import settings_for
    from stylereel.corpora.steps import plan_for

    videos, plan = find_videos([str(clips)]), plan_for(system, settings_for(system, parameters(out.parent)))
    found = []

    def look(number: int) -> None:
        pages = int(Path("/proc/self/statm").read_text().split()[1])
        peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
        found.append({"clips": number, "MB": round(pages * resource.getpagesize() / 2**20, 1), "peak": round(peak, 1)})
        print(found[-1], file=sys.stderr, flush=True)

    class Watched(Here):
        def run(self, tasks):  # type: ignore[no-untyped-def]
            for number, done in enumerate(super().run(tasks), 1):
                if number % max(1, len(videos) // 10) == 0:
                    look(number)
                yield done

    prepare_videos(videos, plan, out, Watched())
    look(len(videos))  # with packing
    return found


if __name__ == "__main__":
    main()
