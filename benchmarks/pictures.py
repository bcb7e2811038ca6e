"""The pictures of the documentation: one clip's motion on several invented people.

    python benchmarks/pictures.py CLIP --out docs/first-light.png [--sources 3,8,12] [--columns 8]

The top row shows the driver as lines through the 68 landmarks; no pixel of the clip is copied.
"""

from __future__ import annotations

import argparse
from pathlib import Path

import numpy as np
from PIL import Image, ImageDraw

from stylereel.core.render import render
from stylereel.faces.backend import track
from stylereel.faces.placement import to_crop
from stylereel.media.pictures import save_picture
from stylereel.media.sheet import contact_sheet
from stylereel.media.video import VideoReader
from stylereel.systems.stylemask import StyleMask

# Runs of iBUG points that are joined by lines; closed where the first comes again.
LINES = (
    range(17),
    range(17, 22),
    range(22, 27),
    range(27, 31),
    range(31, 36),
    (*range(36, 42), 36),
    (*range(42, 48), 42),
    (*range(48, 60), 48),
    (*range(60, 68), 60),
)


def drawing(points: np.ndarray, size: int) -> np.ndarray:
    """Landmarks [68, 2] in fractions of the picture as white lines on dark: uint8 [size, size, 3]."""
    large = Image.new("RGB", (4 * size, 4 * size), (24, 27, 33))
    pen = ImageDraw.Draw(large)
    for line in LINES:
        pen.line([tuple(points[i] * 4 * size) for i in line], fill=(235, 235, 235), width=size // 16, joint="curve")
    return np.asarray(large.resize((size, size), Image.Resampling.LANCZOS))


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("clip", type=Path)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--sources", default="3,8,12")
    parser.add_argument("--columns", type=int, default=8)
    parser.add_argument("--size", type=int, default=192)
    arguments = parser.parse_args()
    system = StyleMask.builtin()
    motion = system.extract(arguments.clip)
    reader = VideoReader(arguments.clip)
    points = track(reader, reader.rate).landmarks
    # Frames that differ most from each other in what they show.
    tracks = motion.values / (motion.values.std(0) + 1e-3)
    chosen = [0]
    while len(chosen) < arguments.columns:
        distance = np.min([np.linalg.norm(tracks - tracks[i], axis=1) for i in chosen], axis=0)
        chosen.append(int(distance.argmax()))
    chosen.sort()
    rows = [drawing(to_crop(points[i], motion.placement[i]), arguments.size) for i in chosen]
    for seed in arguments.sources.split(","):
        frames = list(render(system, system.identify(int(seed)), motion))
        for i in chosen:
            picture = Image.fromarray(frames[i]).resize((arguments.size, arguments.size), Image.Resampling.LANCZOS)
            rows.append(np.asarray(picture))
    save_picture(arguments.out, contact_sheet(rows, arguments.columns))
    print(arguments.out)


if __name__ == "__main__":
    main()
