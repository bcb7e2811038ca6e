"""How fast clips are read and written, beside PyAV alone in the same run.

    python benchmarks/media.py [--size 512] [--frames 150] [--rounds 5]

Two bars for reading: PyAV with the same exact colour conversion, and PyAV with its default one, whose colours are wrong
by some levels. Ratios compare processor seconds of all threads, which other programs on the machine hardly change;
rounds alternate, and the best of each counts.
"""

from __future__ import annotations

import argparse
import tempfile
import time
from collections.abc import Callable
from fractions import Fraction
from pathlib import Path

import av
import numpy as np
from av.video.frame import VideoFrame
from av.video.reformatter import Interpolation, VideoReformatter
from av.video.stream import VideoStream
from PIL import Image

from stylereel.media.clip import EXACT
from stylereel.media.video import VideoReader, VideoWriter

RATE = Fraction(30000, 1001)


def moving_picture(size: int, num_frames: int) -> list[np.ndarray]:
    """A soft picture that drifts, uint8 [size, size, 3] each."""
    small = np.random.default_rng(0).integers(0, 256, (size // 16, size // 16, 3), np.uint8)
    picture = np.asarray(Image.fromarray(small).resize((size, size), Image.Resampling.BICUBIC))
    return [np.roll(picture, 3 * index, axis=1) for index in range(num_frames)]


def write_with_pyav(path: Path, frames: list[np.ndarray]) -> None:
    with av.open(str(path), "w") as container:
        stream = container.add_stream("libx264", rate=RATE, options={"crf": "16"})
        assert isinstance(stream, VideoStream)
        stream.height, stream.width = frames[0].shape[:2]
        stream.pix_fmt = "yuv420p"
        for frame in frames:
            container.mux(stream.encode(VideoFrame.from_ndarray(frame, format="rgb24")))
        container.mux(stream.encode(None))


def write_with_stylereel(path: Path, frames: list[np.ndarray]) -> None:
    with VideoWriter(path, RATE) as writer:
        for frame in frames:
            writer.write(frame)


def read_with_pyav(path: Path, method: int | None) -> int:
    count, reformatter = 0, VideoReformatter()
    with av.open(str(path)) as container:
        container.streams.video[0].thread_type = "AUTO"
        for frame in container.decode(video=0):
            count += reformatter.reformat(frame, format="rgb24", interpolation=method, threads=1).to_ndarray().ndim == 3
    return count


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--size", type=int, default=512)
    parser.add_argument("--frames", type=int, default=150)
    parser.add_argument("--rounds", type=int, default=5)
    arguments = parser.parse_args()
    frames = moving_picture(arguments.size, arguments.frames)
    with tempfile.TemporaryDirectory() as folder:
        ours, alone = Path(folder, "ours.mp4"), Path(folder, "alone.mp4")
        tasks: dict[str, Callable[[], object]] = {
            "write, PyAV": lambda: write_with_pyav(alone, frames),
            "write, stylereel": lambda: write_with_stylereel(ours, frames),
            "read, PyAV, default colours": lambda: read_with_pyav(ours, None),
            "read, PyAV, exact colours": lambda: read_with_pyav(ours, EXACT | Interpolation.BILINEAR),
            "read, stylereel": lambda: sum(1 for _ in VideoReader(ours)),
        }
        best = {name: (float("inf"), float("inf")) for name in tasks}  # processor and wall seconds
        for _ in range(arguments.rounds):
            for name, task in tasks.items():
                start = time.process_time(), time.perf_counter()
                task()
                spent = time.process_time() - start[0], time.perf_counter() - start[1]
                best[name] = min(best[name][0], spent[0]), min(best[name][1], spent[1])
        wrong = [np.abs(a.astype(int) - b).mean() for a, b in zip(VideoReader(ours), frames)]
    for name, (processor, wall) in best.items():
        line = (
            f"{name:<28} {arguments.frames / wall:7.1f} frames/s, {1000 * processor / arguments.frames:6.2f} ms a frame"
        )
        bars = [bar for bar in best if bar.startswith(name[:4]) and "PyAV" in bar and "PyAV" not in name]
        print(line + "".join(f"; {best[bar][0] / processor:.2f} of {bar}" for bar in bars))
    print(f"mean colour error of a round trip: {np.mean(wrong):.2f} levels")


if __name__ == "__main__":
    main()
