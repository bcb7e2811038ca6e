"""How fast faces are found, followed, placed, encoded and pasted back, and how steady they are then.

    python benchmarks/faces.py CLIP... [--frames 0]

Frames a processor second of all threads, which other programs on the machine hardly change, beside PyAV alone, which
decodes and converts the colours; and the same as shares of PyAV alone. Encoding is the built-in encoder, 16 crops at a
time. Jitter is what a cubic through five frames leaves (see stylereel.metrics.motion), of
landmarks in distances between the outer eye corners, of crops in their sides; raw is dlib's detector and predictor,
frame by frame, and the FFHQ crop of these landmarks.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable
from pathlib import Path
from typing import TypeVar

import av
import numpy as np
import torch
from av.video.reformatter import Interpolation, VideoReformatter

from stylereel.faces.backend import DlibBackend, track
from stylereel.faces.paste import paste
from stylereel.faces.placement import cut, place, place_by_eyes, place_ffhq, place_window
from stylereel.faces.registration import place_registered
from stylereel.invert.networks import load_encoder
from stylereel.media.clip import EXACT
from stylereel.media.video import VideoReader
from stylereel.metrics.motion import crop_jitter, head_jitter, landmark_jitter

Result = TypeVar("Result")


def pyav_alone(path: str, most: int) -> None:
    count, reformatter = 0, VideoReformatter()
    with av.open(path) as container:
        container.streams.video[0].thread_type = "AUTO"
        for frame in container.decode(video=0):
            reformatter.reformat(
                frame, format="rgb24", interpolation=EXACT | Interpolation.BILINEAR, threads=1
            ).to_ndarray()
            count += 1
            if count == most:
                return


def raw_landmarks(frames: list[np.ndarray], backend: DlibBackend) -> np.ndarray:
    """dlib as it comes: the detector's largest box, one prediction, whole pixels; a missed frame repeats the last."""
    dlib, predictor = backend._dlib, backend._predictor  # under the averaging that is to be measured
    rows: list[np.ndarray] = []
    for frame in frames:
        boxes = backend.detect(frame)
        if boxes:
            box = max(boxes, key=lambda box: box.side)
            half = box.side / 2
            edges = (round(edge) for edge in (box.x - half, box.y - half, box.x + half, box.y + half))
            shape = predictor(frame, dlib.rectangle(*edges))
            rows.append(np.array([(point.x + 0.5, point.y + 0.5) for point in shape.parts()]))
        elif rows:
            rows.append(rows[-1])
    return np.stack(rows)


def measure(path: str, most: int) -> None:
    """Print speeds and jitters of one clip, of its first `most` frames if that is not 0."""
    reader, backend, encoder = VideoReader(path), DlibBackend(), load_encoder()
    count = min(reader.num_frames, most or reader.num_frames)
    speed: dict[str, float] = {}

    def timed(name: str, task: Callable[[], Result]) -> Result:
        start = time.process_time()
        result = task()
        speed[name] = count / (time.process_time() - start)
        return result

    @torch.inference_mode()
    def encode(crops: list[np.ndarray]) -> None:
        for first in range(0, count, 16):
            part = torch.from_numpy(np.stack(crops[first : first + 16]))
            encoder(part.permute(0, 3, 1, 2).float().div(127.5).sub(1))

    timed("PyAV alone", lambda: pyav_alone(path, count))
    frames = timed("decode", lambda: list(reader.frames(0, count)))
    raw = timed("dlib, frame by frame", lambda: raw_landmarks(frames, backend))
    found = timed("detect and follow", lambda: track(frames, reader.rate, backend=backend))
    marks, rate, seen = found.landmarks, found.rate, found.found
    rows = {
        "raw, FFHQ": place_ffhq(raw),
        "place": timed("place", lambda: place(marks, rate, seen)),
        "place_ffhq, 0.1 s": place_ffhq(marks, rate, seen, 0.1),
        "place_by_eyes": place_by_eyes(marks, rate, seen),
        "place_registered": timed("register", lambda: place_registered(frames, marks, rate, seen)),
        "place_window": place_window(marks, rate, seen),
    }
    crops = timed("cut, 256 px", lambda: [cut(frame, row, 256) for frame, row in zip(frames, rows["place"])])
    timed("encode", lambda: encode(crops))
    pasted = timed("paste back", lambda: [paste(*each) for each in zip(frames, crops, rows["place"])])
    print(f"{Path(path).name}: {len(frames)} frames of {reader.width} x {reader.height}")
    print(f"  without a face: {len(found.missing)}; faces: {found.num_faces}")
    print("  frames a processor second: " + ", ".join(f"{name} {value:.0f}" for name, value in speed.items()))
    share = {name: value / speed["PyAV alone"] for name, value in speed.items()}
    print("  of PyAV alone: " + ", ".join(f"{name} {value:.3f}" for name, value in share.items()))
    for name, jitter in {"landmarks within the face": landmark_jitter, "the head": head_jitter}.items():
        print(f"  jitter of {name}: raw {jitter(raw):.5f}, followed {jitter(marks):.5f}, "
              f"steady {jitter(found.steady()):.5f}")  # fmt: skip
    print("  jitter of the crop: " + ", ".join(f"{name} {crop_jitter(row):.6f}" for name, row in rows.items()))
    print(f"  seam of its own crop pasted back: {np.mean([each.seam for each in pasted]):.3f} levels a pixel")


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("clips", nargs="+")
    parser.add_argument("--frames", type=int, default=0, help="frames of each clip at most; 0 takes all")
    arguments = parser.parse_args()
    for path in arguments.clips:
        measure(path, arguments.frames)


if __name__ == "__main__":
    main()
