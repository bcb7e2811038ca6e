"""Data sets of the world as webdataset shards that come out the same, byte for byte, each time they are written.

The folder holds shard-000000.tar ..., sizes.json (images in each shard, as `train.shards` reads it) and dataset.json
(what the arrays mean). A portrait is KEY.png with KEY.values.npy, KEY.landmarks.npy, KEY.visible.npy and
KEY.regions.npy; a clip has KEY.0000.png ... and the same arrays with a first axis for time, KEY.sound.npy (int16 at
16 kHz) and KEY.phonemes.json (name, first sample, end). With truth there are KEY.depth.npy and KEY.normals.npy, and
for clips KEY.flow.npy and KEY.seen.npy (flow to the next frame and where it holds; one frame less), as float16.

The bytes are those of one version of this package, numpy, Pillow and zlib on one kind of processor.
"""

from __future__ import annotations

import io
import json
import tarfile
from collections.abc import Iterator
from fractions import Fraction
from pathlib import Path
from typing import Any, Literal

import numpy as np
from PIL import Image

from stylereel.core.files import replacing_folder
from stylereel.core.version import __version__
from stylereel.world.draw import draw
from stylereel.world.factors import MOTION_COLUMNS, NAMES, person
from stylereel.world.motion import Manner, list_phonemes, natural_motion
from stylereel.world.shading import REGIONS
from stylereel.world.speech import RATE, voice
from stylereel.world.truth import flow, truth

Kind = Literal["portraits", "clips"]
IMAGES_PER_SHARD = 1000


def clip_values(seed: int, motion: np.ndarray) -> np.ndarray:
    """Values [T, K] of the person of a seed who moves by `motion` [T, M] (order of `MOTION`)."""
    values = np.tile(person(seed), (len(motion), 1))
    values[:, MOTION_COLUMNS] = motion
    return values


def write_dataset(
    folder: str | Path,
    count: int,
    size: int = 256,
    kind: Kind = "portraits",
    seed: int = 0,
    with_truth: bool = False,
    manner: Manner = "conversation",
    seconds: float = 2,
    rate: Fraction = Fraction(25),
) -> list[Path]:
    """Write `count` samples of people with the seeds from `seed` on into a new folder; it appears when complete.

    `manner`, `seconds` and `rate` are for clips. Returns the shards' paths.
    Raises MediaError when the folder holds files already or cannot be written.
    """
    folder = Path(folder)
    frames = max(1, round(seconds * rate)) if kind == "clips" else 1
    per_shard = max(1, IMAGES_PER_SHARD // frames)
    sizes: dict[str, int] = {}
    with replacing_folder(folder) as partial:
        for first in range(0, count, per_shard):
            name = f"shard-{len(sizes):06}.tar"
            last = min(first + per_shard, count)
            with tarfile.open(partial / name, "w", format=tarfile.USTAR_FORMAT) as shard:
                for index in range(first, last):
                    if kind == "clips":
                        members = _clip(seed + index, size, frames, Fraction(rate), manner, with_truth)
                    else:
                        members = _portrait(person(seed + index), size, with_truth)
                    for ending, data in members:
                        member = tarfile.TarInfo(f"{seed + index:08}.{ending}")
                        member.size = len(data)
                        shard.addfile(member, io.BytesIO(data))
            sizes[name] = (last - first) * frames
        about: dict[str, Any] = {
            "made_by": f"stylereel {__version__}",
            "kind": kind,
            "count": count,
            "size": size,
            "seed": seed,
            "values": NAMES,
            "regions": REGIONS,
        }
        if kind == "clips":
            about |= {"frames": frames, "rate": str(rate), "manner": manner, "sound_rate": RATE}
        (partial / "sizes.json").write_text(json.dumps(sizes, indent=1))
        (partial / "dataset.json").write_text(json.dumps(about, indent=1))
    return [folder / name for name in sizes]


def _portrait(values: np.ndarray, size: int, with_truth: bool) -> Iterator[tuple[str, bytes]]:
    portrait = draw(values, size)
    yield "png", _png(portrait.image)
    yield "values.npy", _npy(values)
    yield "landmarks.npy", _npy(portrait.landmarks)
    yield "visible.npy", _npy(portrait.visible)
    yield "regions.npy", _npy(portrait.regions)
    if with_truth:
        for name, array in truth(values, size)._asdict().items():
            yield f"{name}.npy", _npy(array.astype(np.float16))


def _clip(
    seed: int, size: int, frames: int, rate: Fraction, manner: Manner, with_truth: bool
) -> Iterator[tuple[str, bytes]]:
    values = clip_values(seed, natural_motion(seed, frames, rate, manner))
    arrays: dict[str, list[np.ndarray]] = {}
    for number, frame in enumerate(values):
        portrait = draw(frame, size)
        yield f"{number:04}.png", _png(portrait.image)
        labels = {"landmarks": portrait.landmarks, "visible": portrait.visible, "regions": portrait.regions}
        if with_truth:
            labels |= {name: array.astype(np.float16) for name, array in truth(frame, size)._asdict().items()}
            if number + 1 < frames:
                motion = flow(frame, values[number + 1], size)
                labels |= {"flow": motion.flow.astype(np.float16), "seen": motion.visible}
        for name, array in labels.items():
            arrays.setdefault(name, []).append(array)
    yield "values.npy", _npy(values)
    for name, parts in arrays.items():
        yield f"{name}.npy", _npy(np.stack(parts))
    phonemes = list_phonemes(seed, frames / float(rate), manner)
    sound = voice(phonemes, round(frames / rate * RATE), seed)
    yield "sound.npy", _npy(np.round(sound * 32767).astype(np.int16))
    yield "phonemes.json", json.dumps([(p.name, p.start, p.end) for p in phonemes]).encode()


def _png(image: np.ndarray) -> bytes:
    file = io.BytesIO()
    Image.fromarray(image).save(file, "png")
    return file.getvalue()


def _npy(array: np.ndarray) -> bytes:
    file = io.BytesIO()
    np.save(file, array)
    return file.getvalue()
