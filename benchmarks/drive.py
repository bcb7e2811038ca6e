"""Does the result move as the clip moves, and stay the same person? Measured with dlib on the pixels of both.

    python benchmarks/drive.py CLIP... [--sources 0,1,...] [--frames 400] [--out results.json]

For every clip: frames, rate and sound of the result against the clip's, correlation of yaw and of mouth opening, and
frames a second by stage. Over all sources: how often two frames of one source are closer in dlib's embedding than a
frame of another source. Prints a Markdown table.
"""

from __future__ import annotations

import argparse
import json
import platform
import tempfile
from datetime import date
from pathlib import Path

import av
import numpy as np

import stylereel
from stylereel.drive import drive
from stylereel.faces.backend import DlibBackend, find_face
from stylereel.media.video import VideoReader
from stylereel.metrics.likeness import same_person_closer
from stylereel.metrics.registry import find, open_clips
from stylereel.render import render


def seconds_of_sound(path: Path) -> float:
    with av.open(str(path)) as container:
        frames = list(container.decode(audio=0)) if container.streams.audio else []
        return sum(frame.samples / frame.sample_rate for frame in frames)


def clip_row(system: object, clip: Path, source: int, folder: Path) -> dict[str, object]:
    out = folder / f"{clip.stem}--{source}.mp4"
    record = drive(system, str(source), str(clip), str(out))
    given, made = VideoReader(clip), VideoReader(out)
    frames = sum(1 for _ in given)
    theirs, ours = open_clips(clip), open_clips(out)
    correlation = {track: find(f"correlation-{track}")(ours, theirs).value for track in ("yaw", "mouth")}
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
    parser.add_argument("clips", nargs="+", type=Path)
    parser.add_argument("--sources", default="0,1,2,3,4,5,6,7,8,9")
    parser.add_argument("--step", type=int, default=25, help="every which frame counts for identity")
    parser.add_argument("--out", type=Path)
    arguments = parser.parse_args()
    sources = [int(word) for word in arguments.sources.split(",")]
    system = stylereel.load("stylemask")
    with tempfile.TemporaryDirectory() as folder:
        rows = [
            clip_row(system, clip, sources[i % len(sources)], Path(folder)) for i, clip in enumerate(arguments.clips)
        ]
    people = identity(system, arguments.clips[0], sources, arguments.step)
    result = {
        "date": str(date.today()),
        "machine": platform.processor() or platform.machine(),
        "clips": rows,
        "identity": people,
    }
    print("| clip | frames in/out | rate in/out | yaw r | mouth r | fps file to file |\n|---|---|---|---|---|---|")
    for row in rows:
        speed = row["frames per second"]
        print(
            f"| {row['clip']} | {row['frames in']}/{row['frames out']} | {row['rate in']}/{row['rate out']} "
            f"| {row['yaw']} | {row['mouth']} | {speed['file to file']} |"  # type: ignore[index]
        )
    print(f"\nsame source closer in {people['same source closer']:.1%} of the comparisons of {len(sources)} sources")
    if arguments.out:
        arguments.out.write_text(json.dumps(result, indent=2) + "\n")


if __name__ == "__main__":
    main()
