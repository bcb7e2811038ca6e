"""Training data: pictures, clips, latents and shards, behind one call.

A global batch is a function of the seed, its number and its size alone. So the step is the position in the data, a
resumed run goes on with the data that it would have had, and N processes that take their shares get together what one
would.

Positions count samples without end, and each has an item: files, and samples of shards on this machine, come in a new
permutation every epoch; shards on a server as `stylereel.train.shards.RemoteShards` says. An item that cannot be used
is replaced by the next one in the order; its file is named in a warning, listed and counted.
"""

from __future__ import annotations

import json
import os
import warnings
from collections.abc import Callable, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from functools import lru_cache
from io import BytesIO
from itertools import islice
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from PIL import Image, ImageOps
from safetensors import SafetensorError, safe_open
from torch import Tensor

from stylereel.core.arrays import map_array, open_array, read_arrays
from stylereel.core.files import MediaError, ensure_writable
from stylereel.core.prefetch import WHOLE, Share
from stylereel.media.pictures import decode_picture, read_picture
from stylereel.media.video import VideoReader
from stylereel.train.shards import PICTURES, Member, RemoteShards, expand, is_picture, local_members

ENDINGS = {
    "pictures": PICTURES,
    "clips": {".mp4", ".mov", ".webm", ".mkv", ".avi", ".m4v"},
    "latents": {".npy", ".npz", ".safetensors"},
    "shards": {".tar"},
}
THREADS = min(4, os.cpu_count() or 1)

Batch = dict[str, Any]  # tensors by name, and "names", a list
Item = tuple[str, Any]  # its name, and what it is made from
# (position, oldest) -> the item at the position; positions before the oldest will not be asked for again.
Order = Callable[[int, int], Item]
# (item, random numbers for what is left to chance) -> the tensors of one sample; raises MediaError or OSError.
Load = Callable[[Item, np.random.Generator], dict[str, Tensor]]


class Problem(NamedTuple):
    """A file that cannot be used, and the sentence that says why."""

    file: str
    reason: str


class Problems:
    """The unusable files of a source: each is warned of once, and there is a limit."""

    def __init__(self, limit: int, report: str | Path | None) -> None:
        self.limit, self._report = limit, None if report is None else ensure_writable(report)
        self.found: dict[str, str] = {}

    def note(self, file: str, reason: str) -> None:
        """List a file; raises ValueError over the limit."""
        if file not in self.found:
            # The name of a shard's member may hold control characters, which a terminal would obey.
            self.found[file] = reason = "".join(sign if sign.isprintable() else "?" for sign in reason)
            warnings.warn(f"Not usable for training: {reason}", stacklevel=2)
            if self._report is not None:
                with open(self._report, "a", encoding="utf-8") as lines:
                    lines.write(json.dumps({"file": file, "reason": reason}) + "\n")
        if len(self.found) > self.limit:
            raise self.stop(f"More than {self.limit} files cannot be used")

    def stop(self, what: str) -> ValueError:
        """The error that ends training, with the first files."""
        first = "; ".join(reason.rstrip(".") for reason in list(self.found.values())[:3])
        return ValueError(f"{what}; fix or remove them, or raise the limit. The first: {first or 'none'}.")


class Source:
    """Batches of one kind, made by a few threads; the next batch is made while the present one is used.

    Attributes:
        count: items in an epoch, or None where it is unknown (shards on a server).
    """

    def __init__(self, order: Order, load: Load, problems: Problems, seed: int, count: int | None) -> None:
        self.count = count
        self._order, self._load, self._problems, self._seed = order, load, problems, seed
        self._workers, self._ahead = ThreadPoolExecutor(THREADS), ThreadPoolExecutor(1)
        self._next: tuple[tuple[int, int, Share], Future[Batch]] | None = None

    @property
    def problems(self) -> list[Problem]:
        """The files that this process has found unusable so far."""
        return [Problem(*pair) for pair in list(self._problems.found.items())]

    def batch(self, index: int, count: int, share: Share = WHOLE) -> Batch:
        """Global batch number `index` of `count` samples; of a share (rank, ranks) every ranks-th from rank on.

        Returns:
            "names", a list, with: pictures as "images" [B, 3, H, W], clips as "clips" [B, T, 3, H, W], both RGB in
            [-1, 1]; latents as "latents" [B, L, D] or [B, T, L, D]. Where arrays were asked for, they and "side" [B],
            the sides in pixels that the pictures had.

        Raises:
            ValueError: the processes do not divide the batch, or more files than the limit are unusable.
            MediaError: a server fails.
        """
        if count % share[1]:
            raise ValueError(f"A batch of {count} does not divide among {share[1]} processes; choose a multiple.")
        key = index, count, share
        if self._next is None or self._next[0] != key:
            self._next = key, self._ahead.submit(self._make, *key)
        batch = self._next[1].result()
        after = index + 1, count, share
        self._next = after, self._ahead.submit(self._make, *after)
        return batch

    def _make(self, index: int, count: int, share: Share) -> Batch:
        oldest = index * count
        positions = range(oldest, oldest + count)[share[0] :: share[1]]
        items = [self._order(position, oldest) for position in positions]
        tried = self._workers.map(self._try, items, positions)
        samples = []
        for slot, (sample, position) in enumerate(zip(list(tried), positions)):
            step = 0
            while isinstance(sample, MediaError):
                self._problems.note(items[slot][0], str(sample))
                step += 1
                # So many positions in a row hold more items than the limit, or every item there is.
                if step > 2 * self._problems.limit + 2:
                    raise self._problems.stop("None of the files can be used")
                items[slot] = self._order(position + step, oldest)
                sample = self._try(items[slot], position)
            samples.append(sample)
        batch: Batch = {name: torch.stack([sample[name] for sample in samples]) for name in samples[0]}
        return batch | {"names": [name for name, _ in items]}

    def _try(self, item: Item, position: int) -> dict[str, Tensor] | MediaError:
        try:
            return self._load(item, np.random.default_rng((self._seed, 1, position)))
        except MediaError as error:
            return error
        except OSError as error:
            return MediaError(f"{item[0]} cannot be read ({error.strerror or error}).")


def open_source(
    path: str | Path,
    *,
    size: int | None = None,
    frames: int | None = None,
    stride: int = 1,
    arrays: Sequence[str] = (),
    seed: int = 0,
    limit: int | None = None,
    report: str | Path | None = None,
) -> Source:
    """The training data at a path.

    Args:
        path: a picture, clip, tar or array file; a folder of one kind of them, at any depth; the http(s) address of
            tar shards; or a pattern of shards, such as shards-{000000..000099}.tar.
        size: pixels a side; pictures are cut to the middle square and reduced (Lanczos), never enlarged.
        frames: length of the windows of clips or of sequences of latents, each at a random place. With it, the
            pictures of a folder are the frames of one clip, in the order of the numbers in their names, and those of a
            shard on this machine with one KEY (KEY.0000.jpg, KEY.0001.jpg ...) are a clip.
        stride: a window takes every stride-th frame.
        arrays: names of arrays of the clips in shards, such as landmarks, with a row a picture: the rows of the window.
        seed: random seed of the order and the windows.
        limit: files that may be unusable; by default one in a hundred but at least 3, of shards 100 files.
        report: a file to which a JSON line {"file", "reason"} is added for each unusable file.

    Raises:
        ValueError: nothing usable is there, kinds are mixed, a setting is missing or has no meaning for the kind, or
            too many files are unusable.
    """
    if min(1 if size is None else size, 1 if frames is None else frames, stride) < 1 or seed < 0:
        raise ValueError("Size, frames and stride are 1 or more, the seed 0 or more.")
    kind, files = _look(str(path), frames is not None)
    if (size is None) != (kind == "latents"):
        raise ValueError(
            f"{path} holds {kind}: " + ("give their size in pixels." if size is None else "leave out size.")
        )
    if frames is None and (kind == "clips" or stride > 1):
        raise ValueError(f"{path} holds {kind}: give the number of frames of a window.")
    if frames is not None and kind not in ("clips", "latents", "shards"):
        raise ValueError(f"{path} holds {kind}: leave out frames.")
    if arrays and (kind != "shards" or frames is None):
        raise ValueError(f"{path} holds {kind}: arrays go with the windows of shards on this machine.")

    usual = 100 if "shards" in kind else max(3, len(files) // 100)
    problems = Problems(usual if limit is None else limit, report)
    side = size or 0
    if kind == "remote shards":
        return Source(RemoteShards(files, seed, problems.note).item, _shard_loader(side), problems, seed, None)
    root, paths = Path(path), [Path(file) for file in files]
    if kind == "pictures":
        items, load = _name_items(paths, root), _picture_loader(side)
    elif kind == "shards" and frames is not None:
        items = _shard_clips(paths, problems)
        load = _shard_clip_loader(side, frames, stride, arrays)
    elif kind == "shards":
        items, load = local_members(paths, problems.note), _shard_loader(side)
    elif kind == "clips":
        items, load = _clips(paths, root), _clip_loader(side, frames or 1, stride)
    else:
        items, load = _latents(_name_items(paths, root), frames, problems), _latent_loader(frames, stride)
    if not items:
        raise problems.stop(f"{path} holds no {kind} that can be used")
    return Source(_shuffle(items, seed), load, problems, seed, len(items))


def _look(path: str, clips: bool) -> tuple[str, list[str]]:
    """What kind of data a path gives, and its files in the order of their names; pictures count as clips if `clips`."""
    if "://" in path:
        if not path.startswith(("http://", "https://")):
            raise ValueError(f"{path} cannot be fetched; give an address that begins with http:// or https://.")
        return "remote shards", expand(path) if "{" in path else [path]
    if "{" in path and not os.path.exists(path):
        return "shards", expand(path)
    found: dict[str, list[str]] = {}
    for file in _walk(path):
        for kind, endings in ENDINGS.items():
            if Path(file).suffix.lower() in endings:
                found.setdefault("clips" if clips and kind == "pictures" else kind, []).append(file)
    if len(found) != 1:
        kinds = " and ".join(found) or "no pictures, clips, latents or shards"
        raise ValueError(f"{path} holds {kinds}; give a folder or file with one kind of training data.")
    return found.popitem()


def _walk(path: str) -> list[str]:
    if os.path.isfile(path):
        return [path]

    def fail(error: OSError) -> None:
        raise MediaError(f"{error.filename} cannot be listed ({error.strerror}); give a folder that can be read.")

    found: list[str] = []
    for folder, folders, names in os.walk(path, onerror=fail):
        folders[:] = [name for name in folders if name[0] != "."]
        found += [os.path.join(folder, name) for name in names if name[0] != "."]
    return sorted(found)


def _name_items(paths: list[Path], root: Path) -> list[Item]:
    """Each path with its name below the root."""
    return [(path.relative_to(root).as_posix() if path != root else path.name, path) for path in paths]


def _shuffle(items: Sequence[Item], seed: int) -> Order:
    def item(position: int, _: int) -> Item:
        epoch, place = divmod(position, len(items))
        return items[int(_permutation(seed, epoch, len(items))[place])]

    return item


@lru_cache(maxsize=4)
def _permutation(seed: int, epoch: int, count: int) -> np.ndarray:
    return np.random.default_rng((seed, 0, epoch)).permutation(count)


def _picture_loader(size: int) -> Load:
    return lambda item, _: {"images": _square(read_picture(item[1]), size, item[0])}


def _shard_loader(size: int) -> Load:
    def load(item: Item, _: np.random.Generator) -> dict[str, Tensor]:
        data = item[1].read() if isinstance(item[1], Member) else item[1]
        return {"images": _square(decode_picture(BytesIO(data), item[0]), size, item[0])}

    return load


class _ShardClip(NamedTuple):
    """A clip in a shard: its pictures in their order, and its arrays by name."""

    pictures: list[Member]
    arrays: dict[str, Member]


def _shard_clips(paths: list[Path], problems: Problems) -> list[Item]:
    """The clips of shards: what has one name up to the first dot."""
    found: dict[str, tuple[list[tuple[str, Member]], dict[str, Member]]] = {}
    for name, member in local_members(paths, problems.note, lambda name: is_picture(name) or name.endswith(".npy")):
        folder, _, base = name.rpartition("/")
        key, _, ending = base.partition(".")
        pictures, arrays = found.setdefault(f"{folder}/{key}", ([], {}))
        if is_picture(base):
            pictures.append((ending, member))
        else:
            arrays[ending.removesuffix(".npy")] = member
    clips = []
    for name, (pictures, arrays) in found.items():
        if pictures:
            pictures.sort(key=lambda pair: (len(pair[0]), pair[0]))  # 10000 after 9999
            clips.append((name, _ShardClip([member for _, member in pictures], arrays)))
    return clips


def _shard_clip_loader(size: int, frames: int, stride: int, arrays: Sequence[str]) -> Load:
    def load(item: Item, random: np.random.Generator) -> dict[str, Tensor]:
        name, clip = item
        start = _start(len(clip.pictures), frames, stride, name, random)
        chosen = clip.pictures[start : start + (frames - 1) * stride + 1 : stride]
        pictures = [decode_picture(BytesIO(member.read()), name) for member in chosen]
        shown = [_square(picture, size, name) for picture in pictures]
        rows = {each: _rows(clip, each, name)[start : start + (frames - 1) * stride + 1 : stride] for each in arrays}
        sample = {each: torch.from_numpy(np.array(part)) for each, part in rows.items()}
        if rows:
            sample["side"] = torch.tensor(float(min(pictures[0].shape[:2])))
        return {"clips": torch.stack(shown), **sample}

    return load


def _rows(clip: _ShardClip, array: str, name: str) -> np.ndarray:
    """An array of a clip in a shard, mapped from the disk."""
    if array not in clip.arrays:
        raise MediaError(f"{name} has no {array}; it has {', '.join(sorted(clip.arrays)) or 'no arrays'}.")
    member = clip.arrays[array]
    try:
        rows = map_array(member.path, member.offset, member.size)
    except ValueError as error:
        raise MediaError(f"{array} of {name} cannot be read ({error}).") from error
    if rows.shape[:1] != (len(clip.pictures),):
        raise MediaError(
            f"{array} of {name} is {list(rows.shape)}, not a row for each of {len(clip.pictures)} pictures."
        )
    return rows


def _square(picture: np.ndarray, size: int, name: str) -> Tensor:
    """The middle square of uint8 [H, W, 3], reduced to [3, size, size] in [-1, 1]."""
    height, width = picture.shape[:2]
    if min(height, width) < size:
        raise MediaError(f"{name} has {width} x {height} pixels, too few for {size} x {size}.")
    if (height, width) != (size, size):
        picture = np.array(ImageOps.fit(Image.fromarray(picture), (size, size), Image.Resampling.LANCZOS))
    return torch.from_numpy(picture).permute(2, 0, 1).contiguous().float().div_(127.5).sub_(1)


def _clips(paths: list[Path], root: Path) -> list[Item]:
    """Videos, and each folder of pictures without videos, which is one clip."""
    videos = {path for path in paths if path.suffix.lower() in ENDINGS["clips"]}
    folders = {path.parent for path in paths} - {path.parent for path in videos}
    return _name_items(sorted(videos | folders), root)


def _clip_loader(size: int, frames: int, stride: int) -> Load:
    readers: dict[Path, VideoReader] = {}  # opening reads through the whole file

    def load(item: Item, random: np.random.Generator) -> dict[str, Tensor]:
        name, path = item
        reader = readers.get(path) or readers.setdefault(path, VideoReader(path))
        start = _start(reader.num_frames, frames, stride, name, random)
        window = islice(reader.frames(start, (frames - 1) * stride + 1), 0, None, stride)
        return {"clips": torch.stack([_square(picture, size, name) for picture in window])}

    return load


def _start(length: int, frames: int, stride: int, name: str, random: np.random.Generator) -> int:
    """Where a window begins, at random."""
    span = (frames - 1) * stride + 1
    if length < span:
        raise MediaError(f"{name} has {length} frames; a window needs {span}.")
    return int(random.integers(length - span + 1))


class _Sequence(NamedTuple):
    """Latents [T, L, D]: an array, or one of the arrays [S, T, L, D] of one, in memory or in a file."""

    array: Any
    number: int | None
    length: int

    def read(self, start: int, stop: int) -> Tensor:
        part = self.array[start:stop] if self.number is None else self.array[self.number, start:stop]
        return (part if isinstance(part, Tensor) else torch.from_numpy(np.array(part, np.float32))).float()


class _Singles(Sequence[Item]):
    """Every latent of the sequences as an item of its own."""

    def __init__(self, sequences: list[tuple[str, _Sequence]]) -> None:
        self._sequences = sequences
        self._ends = np.cumsum([sequence.length for _, sequence in sequences])

    def __len__(self) -> int:
        return int(self._ends[-1])

    def __getitem__(self, place: Any) -> Item:
        number = int(np.searchsorted(self._ends, place, side="right"))
        name, sequence = self._sequences[number]
        start = place - int(self._ends[number]) + sequence.length
        return f"{name}[{start}]", (sequence, start)


def _latents(files: list[Item], frames: int | None, problems: Problems) -> Sequence[Item]:
    """Sequences of latents, or each latent where no frames are asked for; all [L, D] are as the first."""
    sequences: list[tuple[str, _Sequence]] = []
    expected: tuple[int, ...] = ()
    for name, path in files:
        try:
            arrays = _arrays(path)
        except (OSError, ValueError, SafetensorError) as error:
            problems.note(name, f"{name} cannot be read as arrays ({error}).")
            continue
        for key, array in arrays.items():
            label = f"{name}:{key}" if key else name
            shape = tuple(array.shape if isinstance(array, np.ndarray) else array.get_shape())
            numeric = not isinstance(array, np.ndarray) or array.dtype.kind in "fiu"
            if len(shape) not in (3, 4) or 0 in shape or not numeric:
                problems.note(label, f"{label} is no array of numbers [N, L, D] or [S, T, L, D] but {list(shape)}.")
                continue
            expected = expected or shape[-2:]
            if shape[-2:] != expected:
                problems.note(label, f"{label} has latents {list(shape[-2:])}, but {list(expected)} come before.")
            elif len(shape) == 3:
                sequences.append((label, _Sequence(array, None, shape[0])))
            else:
                sequences += [(f"{label}[{n}]", _Sequence(array, n, shape[1])) for n in range(shape[0])]
    return sequences if frames is not None or not sequences else _Singles(sequences)


def _arrays(path: Path) -> dict[str, Any]:
    """The arrays of a file by name: mapped from .npy and .safetensors, in memory from .npz. No pickle is read."""
    if path.suffix.lower() == ".safetensors":
        tensors = safe_open(path, "pt")
        return {key: tensors.get_slice(key) for key in sorted(tensors.keys())}
    if path.suffix.lower() == ".npy":
        return {"": open_array(path)}
    return dict(sorted(read_arrays(path).items()))


def _latent_loader(frames: int | None, stride: int) -> Load:
    def load(item: Item, random: np.random.Generator) -> dict[str, Tensor]:
        name, place = item
        if frames is None:
            latents = place[0].read(place[1], place[1] + 1)[0]
        else:
            start = _start(place.length, frames, stride, name, random)
            latents = place.read(start, start + (frames - 1) * stride + 1)[::stride]
        if not latents.isfinite().all():
            raise MediaError(f"{name} holds numbers that are not finite.")
        return {"latents": latents}

    return load
