"""Whether a data set is whole: the hash of every file, and everything in the shards read once."""

from __future__ import annotations

import io
import json
import tarfile
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from stylereel.core.files import MediaError, require_file
from stylereel.core.record import sha256
from stylereel.corpora.pack import INDEX
from stylereel.media.pictures import decode_picture
from stylereel.media.video import VideoReader
from stylereel.train.shards import is_picture


class Checked(NamedTuple):
    folder: Path
    files: int
    clips: int
    pictures: int

    def lines(self) -> Iterator[str]:
        yield f"{self.folder} is whole: {self.files} files, {self.clips} clips, {self.pictures} pictures."


def check_dataset(folder: str | Path) -> Checked:
    """Read a data set of `pack` once.

    Raises:
        MediaError: it is not whole; the sentence names the file and what is wrong with it.
    """
    folder = Path(folder)
    index = folder / INDEX
    try:
        about = json.loads(require_file(index).read_bytes())
        files, clips = dict(about["files"]), dict(about["clips"])
    except (ValueError, KeyError, TypeError) as error:
        if isinstance(error, MediaError):
            raise
        raise MediaError(f"{index} is no list of a data set; prepare it again.") from error
    for name, listed in files.items():
        path = require_file(folder / name)
        if sha256(path) != listed["sha256"]:
            raise MediaError(f"{path} is not the file that was written; remove {index} and prepare again.")
    seen: dict[str, dict[str, Any]] = {}
    pictures = frames = 0
    for name in (name for name in files if name.endswith(".tar")):
        pictures += _read_shard(folder / name, seen)
    for name in (name for name in files if name.endswith(".mp4")):
        frames += sum(1 for _ in VideoReader(folder / name))
    if frames not in (0, pictures):
        raise MediaError(f"{folder} holds {pictures} pictures in shards but {frames} in videos; prepare it again.")
    if seen.keys() != clips.keys():
        raise MediaError(f"{folder} holds {len(seen)} of {len(clips)} clips; remove {index} and prepare again.")
    return Checked(folder, len(files), len(clips), pictures)


def _read_shard(path: Path, seen: dict[str, dict[str, Any]]) -> int:
    counts: Counter[str] = Counter()
    shapes: dict[str, dict[str, tuple[int, ...]]] = {}
    abouts: dict[str, dict[str, Any]] = {}
    with tarfile.open(path, "r:") as shard:
        for member in shard:
            file = shard.extractfile(member)
            assert file is not None
            data = file.read()
            key, _, ending = member.name.partition(".")
            if is_picture(member.name):
                decode_picture(io.BytesIO(data), f"{path}/{member.name}")
                counts[key] += 1
            elif ending.endswith(".npy"):
                array = np.load(io.BytesIO(data), allow_pickle=False)
                if array.dtype.kind == "f" and not np.isfinite(array).all():
                    raise MediaError(f"{path}/{member.name} holds numbers that are not finite; prepare it again.")
                shapes.setdefault(key, {})[ending.removesuffix(".npy")] = array.shape
            else:
                abouts[key] = json.loads(data)
    for key, about in abouts.items():
        rows = {name: shape[0] for name, shape in shapes[key].items() if name in PER_PICTURE}
        if {counts[key], about["pictures"], *rows.values()} != {counts[key]}:
            raise MediaError(f"{path} holds {counts[key]} pictures of {key}, but its arrays have other lengths.")
    if counts.keys() != abouts.keys():
        raise MediaError(f"{path} lacks the description of some of its clips; prepare it again.")
    seen.update(abouts)
    return sum(counts.values())


PER_PICTURE = {"placement", "landmarks", "found", "coefficients", "codes", "code_placement"}
