"""Does the result move as the clip moves, and stay the same person? Measured with dlib on the pixels of both.

    python benchmarks/drive.py CLIP... [--sources 0,1,...] [--precision 32] [--out results.json]
    python benchmarks/drive.py CLIP --stages [--frames 50] [--precision bf16]
    python benchmarks/drive.py --response

For every clip: frames, rate and sound of the result against the clip's, correlation of yaw, mouth opening and blinks,
and frames a second by stage. Over all sources: how often two frames of one source are closer in dlib's embedding than a
frame of another source. With --stages instead: milliseconds of processor time a frame of each stage of the line, on one
thread, which other work on the machine hardly changes. With --response: how much of a world's movement arrives, as the
slope of what is read over what was asked, after each part of the line. Prints Markdown tables.
"""

from __future__ import annotations

import argparse
import itertools
import json
import platform
import tempfile
import time
from collections.abc import Callable
from datetime import date
from pathlib import Path
from typing import TypeVar

import av
import numpy as np
import torch

from stylereel import world
from stylereel.commands.drive import drive
from stylereel.core.builtin import builtin
from stylereel.core.precision import Precision
from stylereel.core.render import pictures, render
from stylereel.core.system import System
from stylereel.faces import backend, coefficients
from stylereel.faces.backend import DlibBackend, find_face
from stylereel.faces.pose import pose_from_landmarks
from stylereel.family.nets import load_face
from stylereel.media.video import VideoReader, VideoWriter
from stylereel.metrics.faces import columns, followed, motion_of
from stylereel.metrics.likeness import same_person_closer
from stylereel.metrics.registry import Clip, find, open_clips
from stylereel.systems.stylemask import StyleMask
from stylereel.world.factors import LATENT_DIM

Made = TypeVar("Made")
RESPONSES = ("yaw", "jaw", "smile", "brow_left", "blink_left", "gaze_x")


def seconds_of_sound(path: Path) -> float:
    with av.open(str(path)) as container:
        frames = list(container.decode(audio=0)) if container.streams.audio else []
        return sum(frame.samples / frame.sample_rate for frame in frames)


def blink(clip: Clip) -> np.ndarray:
    """Closure of both lids together [T], as dlib's landmarks and the pixels of the eyes tell it."""
    return columns(motion_of(clip), ("blink_left", "blink_right")).mean(1)


def clip_row(system: System, clip: Path, source: int, folder: Path, precision: Precision) -> dict[str, object]:
    out = folder / f"{clip.stem}--{source}.mp4"
    record = drive(system, source=str(source), driving=str(clip), out=str(out), precision=precision)
    given, made = VideoReader(clip), VideoReader(out)
    frames = sum(1 for _ in given)
    theirs, ours = open_clips(clip), open_clips(out)
    correlation = {track: find(f"correlation-{track}")(ours, theirs).value for track in ("yaw", "mouth")}
    correlation["blink"] = followed(blink(ours[0]), blink(theirs[0])).correlation
    return {
        "clip": clip.stem,
        "source": source,
        "frames in": frames,
        "frames out": sum(1 for _ in made),
        "rate in": str(given.rate),
        "rate out": str(made.rate),
        "sound in s": round(seconds_of_sound(clip), 3),
        "sound out s": round(seconds_of_sound(out), 3),
        "video s": round(float(frames / given.rate), 3),
        **{name: round(value, 3) for name, value in correlation.items()},
        "frames per second": record["frames_per_second"],
        "seconds": record["seconds"],
    }


def stages(clip: Path, frames: int, precision: Precision) -> dict[str, float]:
    """Milliseconds of processor time a frame, stage by stage, on one thread; the first pass warms up."""
    torch.set_num_threads(1)
    system = StyleMask.builtin()
    reader, size = VideoReader(clip), 8
    spent: dict[str, float] = {}

    def lap(name: str, count: int, work: Callable[[], Made]) -> Made:
        work()
        start = time.process_time()
        result = work()
        spent[name] = 1000 * (time.process_time() - start) / count
        return result

    taken = lap("decode the clip", frames, lambda: list(itertools.islice(reader, frames)))
    face = DlibBackend()
    track = lap("follow the face", len(taken), lambda: backend.track(taken, reader.rate, backend=face))
    motion = lap("coefficients", len(taken), lambda: coefficients.motion_of(track))
    values = motion.values[:size]
    heads = np.tile(world.neutral(), (len(values), 1))
    heads[:, world.MOTION_COLUMNS] = np.clip(
        values, *(limit[world.MOTION_COLUMNS] for limit in (world.LOW, world.HIGH))
    )
    heads = world.align(heads)
    drawn = lap("draw the neutral head", size, lambda: np.stack([world.draw(v, 128).image for v in heads]))
    dtype = torch.bfloat16 if precision == "bf16" else None
    encoder = system.encode
    assert encoder is not None
    with torch.inference_mode():
        source = system.identify(1).w[None]
        target = lap("invert it", size, lambda: encoder(torch.from_numpy(drawn).permute(0, 3, 1, 2) / 127.5 - 1))
        styles = lap("styles and masks", size, lambda: system.mix(source, target))
        images = lap("synthesize", size, lambda: system.generator.synthesize(s=styles, dtype=dtype))
        shown = lap("to uint8", size, lambda: pictures(images))

    def encode() -> None:
        with tempfile.TemporaryDirectory() as folder, VideoWriter(Path(folder) / "x.mp4", reader.rate) as writer:
            for index in range(50):
                writer.write(shown[index % size])
            writer.finish()

    lap("encode the result", 50, encode)
    networks = sum(spent[name] for name in ("invert it", "styles and masks", "synthesize"))
    return spent | {"networks": networks, "whole line": sum(spent.values())}


def response(source: int = 1, frames: int = 96) -> dict[str, dict[str, float]]:
    """Slopes of read over asked movement, by the built-in face net (yaw by dlib too), after each part of the line."""
    system, face = StyleMask.builtin(), load_face(builtin("face"))
    columns_of = world.MOTION_COLUMNS
    # Poses and expressions of random people, whose factors do not depend on each other.
    random = np.random.default_rng(83)
    asked = world.from_latent(random.standard_normal((2 * frames, LATENT_DIM)))[:, columns_of]
    asked = asked[np.abs(asked[:, world.MOTION.index("yaw")]) < 30][:frames]

    def drawn(person: np.ndarray) -> np.ndarray:
        values = np.tile(person, (len(asked), 1))
        values[:, columns_of] = asked
        return np.stack([world.draw(each, 256).image for each in world.align(values)])

    z = np.random.default_rng(source).standard_normal(system.generator.config.z_dim)
    with torch.inference_mode():
        codes = system.target_codes(asked)
        parts = zip(codes.split(8), system.identify(source).w[None].expand(len(codes), -1, -1).split(8))
        results = [pictures(system.generator.synthesize(s=system.mix(person, code))) for code, person in parts]
        heads = [pictures(system.generator.synthesize(w=code)) for code in codes.split(8)]
    shown = {
        "the world's true picture": drawn(world.from_latent(z)),
        "the driver's head, generated": np.concatenate(heads),
        "the result": np.concatenate(results),
    }
    rows: dict[str, dict[str, float]] = {}
    detector = DlibBackend()
    low, high = world.LOW[columns_of], world.HIGH[columns_of]
    for name, images in shown.items():
        with torch.inference_mode():
            seen = face(torch.from_numpy(images).permute(0, 3, 1, 2) / 127.5 - 1).motion.numpy()
        read = (low + high) / 2 + (high - low) / 2 * seen
        columns = {factor: read[:, world.MOTION.index(factor)] for factor in RESPONSES}
        points = np.stack([find_face(image, detector) for image in images])
        columns["yaw, dlib"] = pose_from_landmarks(points)["yaw"]
        rows[name] = {
            factor: float(np.polyfit(asked[:, world.MOTION.index(factor.split(",")[0])], values, 1)[0])
            for factor, values in columns.items()
        }
    return rows


def identity(system: object, clip: Path, sources: list[int], step: int) -> dict[str, float]:
    """Share of comparisons in which the same source is closer than another source, over frames of one clip."""
    motion = system.extract(clip)  # type: ignore[attr-defined]
    backend = DlibBackend()
    kept = list(range(0, len(motion), step))
    embeddings = []
    for source in sources:
        frames = render(system, system.identify(source), motion)  # type: ignore[attr-defined]
        rows = []
        for index, frame in enumerate(frames):
            if index in kept:
                try:
                    rows.append(backend.embedding(frame, find_face(frame, backend)))
                except ValueError:
                    continue
        embeddings.append(np.array(rows))
    found = sum(len(rows) for rows in embeddings) / (len(kept) * len(sources))
    return {"same source closer": round(same_person_closer(embeddings), 4), "faces found": round(found, 4)}


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("clips", nargs="*", type=Path)
    parser.add_argument("--sources", default="0,1,2,3,4,5,6,7,8,9")
    parser.add_argument("--step", type=int, default=25, help="every which frame counts for identity")
    parser.add_argument("--out", type=Path)
    parser.add_argument("--precision", choices=("32", "bf16"), default="32")
    parser.add_argument("--stages", action="store_true")
    parser.add_argument("--frames", type=int, default=50, help="of the clip, for --stages")
    parser.add_argument("--response", action="store_true")
    arguments = parser.parse_args()
    if arguments.response:
        rows = response()
        names = list(next(iter(rows.values())))
        print(f"| read on | {' | '.join(names)} |\n" + (1 + len(names)) * "|---" + "|")
        for name, row in rows.items():
            print(f"| {name} | {' | '.join(f'{slope:.2f}' for slope in row.values())} |")
        return
    if not arguments.clips:
        parser.error("Give one clip or more.")
    if arguments.stages:
        spent = stages(arguments.clips[0], arguments.frames, arguments.precision)
        print("| stage | milliseconds a frame | frames a second |\n|---|---|---|")
        for name, milliseconds in spent.items():
            print(f"| {name} | {milliseconds:.1f} | {1000 / max(milliseconds, 1e-3):.0f} |")
        if arguments.out:
            arguments.out.write_text(json.dumps({"precision": arguments.precision, **spent}, indent=2) + "\n")
        return
    sources = [int(word) for word in arguments.sources.split(",")]
    system = StyleMask.builtin()
    with tempfile.TemporaryDirectory() as folder:
        rows = [
            clip_row(system, clip, sources[i % len(sources)], Path(folder), arguments.precision)
            for i, clip in enumerate(arguments.clips)
        ]
    people = identity(system, arguments.clips[0], sources, arguments.step)
    result = {
        "date": str(date.today()),
        "machine": platform.processor() or platform.machine(),
        "clips": rows,
        "identity": people,
    }
    print("| clip | frames in/out | rate in/out | yaw r | mouth r | blink r | fps file to file |\n" + 7 * "|---" + "|")
    for row in rows:
        speed = row["frames per second"]
        print(
            f"| {row['clip']} | {row['frames in']}/{row['frames out']} | {row['rate in']}/{row['rate out']} "
            f"| {row['yaw']} | {row['mouth']} | {row['blink']} | {speed['file to file']} |"  # type: ignore[index]
        )
    print(f"\nsame source closer in {people['same source closer']:.1%} of the comparisons of {len(sources)} sources")
    if arguments.out:
        arguments.out.write_text(json.dumps(result, indent=2) + "\n")


if __name__ == "__main__":
    main()
