"""The data set in the LeRobot v3 layout, for people outside: many clips in one mp4, their numbers in Parquet.

meta/info.json names the features and the paths; meta/episodes says of each clip in which files it is and from where to
where; data has a row a frame; the mp4 files hold the crops one clip after the other, with their sound where the system
has it. An episode is a clip, `episode_key` its name in the shards. Written by the layout alone: the package lerobot is
not needed, and neither are more than pyarrow's writers.
"""

from __future__ import annotations

import importlib.util
import io
import json
import tempfile
from collections.abc import Iterator
from fractions import Fraction
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
from scipy.io import wavfile

from stylereel.core.files import replacing
from stylereel.corpora.pack import Clip, clip_about, clip_arrays
from stylereel.corpora.settings import NEEDS, Settings
from stylereel.corpora.steps import Plan
from stylereel.corpora.store import Store
from stylereel.media.activity import RATE
from stylereel.media.pictures import decode_picture
from stylereel.media.video import VideoWriter

if TYPE_CHECKING:
    import pyarrow

FRAMES = 10_000  # of a file, after which a clip begins another
CHUNK = 1000  # files of a folder
VIDEO = "observation.images.face"
TASK = "a face that moves"
CRF = 18  # of the mp4 files
# The arrays of the shards that have a row a frame, by their names here.
NAMES = {
    "observation.state": "coefficients",
    "observation.landmarks": "landmarks",
    "observation.found": "found",
    "observation.placement": "placement",
    "observation.codes": "codes",
}
# LeRobot reads the tasks with pandas, whose index they are.
INDEX = {
    "index_columns": ["task"],
    "column_indexes": [],
    "columns": [
        {"name": "task_index", "field_name": "task_index", "pandas_type": "int64", "numpy_type": "int64"},
        {"name": "task", "field_name": "task", "pandas_type": "unicode", "numpy_type": "object"},
    ],
}
INDICES = ("frame_index", "episode_index", "index", "task_index")


def require(settings: Settings) -> None:
    """Raise ValueError where the layout cannot be written: without pyarrow, or without one whole rate for all clips."""
    if importlib.util.find_spec("pyarrow") is None:
        raise ValueError("The LeRobot layout needs pyarrow: pip install 'stylereel[corpora]'.")
    if settings.crop.every != 1:
        raise ValueError("The LeRobot layout has every frame; give [crop] every = 1 in --parameters.")
    if settings.shots.rate < 1 or settings.shots.rate % 1:
        raise ValueError("The LeRobot layout has one whole frame rate; give [shots] rate = 25 in --parameters.")


class _Group(NamedTuple):
    """Clips of one file: its number, the first episode, the first row."""

    number: int
    episode: int
    row: int
    clips: list[Clip]

    def path(self, folder: str, ending: str) -> str:
        return f"{folder}/chunk-{self.number // CHUNK:03}/file-{self.number % CHUNK:03}.{ending}"


def _groups(clips: list[Clip]) -> Iterator[_Group]:
    number = episode = row = 0
    waiting: list[Clip] = []
    frames = 0
    for clip in clips:
        waiting.append(clip)
        frames += clip.facts("crop")["pictures"]
        if frames >= FRAMES:
            yield _Group(number, episode, row, waiting)
            number, episode, row, waiting, frames = number + 1, episode + len(waiting), row + frames, [], 0
    if waiting:
        yield _Group(number, episode, row, waiting)


def write_lerobot(clips: list[Clip], plan: Plan, store: Store, folder: Path) -> list[Path]:
    """Write all clips in their order; returns the files."""
    import pyarrow

    fields, fps = NEEDS[plan.system].fields, int(plan.settings.shots.rate)
    features: dict[str, Any] = {}
    episodes: list[dict[str, Any]] = []
    stats: dict[str, _Stats] = {}
    files: list[Path] = []
    total = 0
    for group in _groups(clips):
        video = folder / group.path(f"videos/{VIDEO}", "mp4")
        _write_video(group.clips, store, video, Fraction(fps), "sync" in fields, stats)
        columns: dict[str, list[np.ndarray]] = {}
        at = 0
        for place, clip in enumerate(group.clips):
            count = clip.facts("crop")["pictures"]
            arrays = clip_arrays(clip, fields, store)
            rows = {name: arrays[own].reshape(count, -1) for name, own in NAMES.items() if own in arrays}
            numbers = np.arange(count)
            rows["timestamp"] = (numbers / fps).astype(np.float32)[:, None]
            values = (numbers, np.full(count, group.episode + place), group.row + at + numbers, np.zeros(count))
            rows |= {name: value.astype(np.int64)[:, None] for name, value in zip(INDICES, values)}
            for name, value in rows.items():
                columns.setdefault(name, []).append(value)
                features[name] = {"dtype": str(value.dtype), "shape": [value.shape[1]], "names": None}
                stats.setdefault(name, _Stats()).add(value)
            about = clip_about(clip, fields)
            file = group.number // CHUNK, group.number % CHUNK
            episodes.append({
                "episode_index": group.episode + place, "tasks": [TASK], "length": count,
                "dataset_from_index": group.row + at, "dataset_to_index": group.row + at + count,
                "data/chunk_index": file[0], "data/file_index": file[1],
                f"videos/{VIDEO}/chunk_index": file[0], f"videos/{VIDEO}/file_index": file[1],
                f"videos/{VIDEO}/from_timestamp": at / fps, f"videos/{VIDEO}/to_timestamp": (at + count) / fps,
                "meta/episodes/chunk_index": 0, "meta/episodes/file_index": 0,
                "episode_key": clip.key, **{name: about[name] for name in ("video", "sha256", "licence")},
            })  # fmt: skip
            at += count
        joined = {name: _column(np.concatenate(parts)) for name, parts in columns.items()}
        files += [video, _write_table(pyarrow.table(joined), folder / group.path("data", "parquet"))]
        total += at
    size = plan.settings.crop.size
    features[VIDEO] = {"dtype": "video", "shape": [size, size, 3], "names": ["height", "width", "channels"]}
    features[VIDEO]["info"] = {
        "video.height": size, "video.width": size, "video.codec": "h264", "video.pix_fmt": "yuv420p",
        "video.is_depth_map": False, "video.fps": fps, "video.channels": 3, "has_audio": "sync" in fields,
    }  # fmt: skip
    if "observation.state" in features:
        features["observation.state"]["names"] = [*clips[0].facts("coefficients")["names"]]
    info = {
        "codebase_version": "v3.0",
        "robot_type": None,
        "total_episodes": len(clips),
        "total_frames": total,
        "total_tasks": 1,
        "chunks_size": CHUNK,
        "fps": fps,
        "splits": {"train": f"0:{len(clips)}"},
        "data_path": "data/chunk-{chunk_index:03d}/file-{file_index:03d}.parquet",
        "video_path": "videos/{video_key}/chunk-{chunk_index:03d}/file-{file_index:03d}.mp4",
        "features": features,
    }
    meta = folder / "meta"
    tasks = pyarrow.table({"task_index": np.zeros(1, np.int64), "task": [TASK]})
    tasks = tasks.replace_schema_metadata({"pandas": json.dumps(INDEX)})
    if episodes:
        files.append(_write_table(pyarrow.Table.from_pylist(episodes), meta / "episodes/chunk-000/file-000.parquet"))
    files.append(_write_table(tasks, meta / "tasks.parquet"))
    for name, content in (("info", info), ("stats", {name: each.result() for name, each in stats.items()})):
        path = meta / f"{name}.json"
        with replacing(path) as partial:
            partial.write_text(json.dumps(content, indent=4), encoding="utf-8")
        files.append(path)
    return files


class _Stats:
    """Least, greatest, mean and standard deviation of rows [N, K] that come part by part."""

    def __init__(self) -> None:
        self.count = 0

    def add(self, rows: np.ndarray) -> None:
        values = rows.astype(np.float64)
        parts = values.min(0), values.max(0), values.sum(0), np.square(values).sum(0)
        if self.count:
            low, high, total, squares = parts
            parts = np.minimum(self.low, low), np.maximum(self.high, high), self.total + total, self.squares + squares
        self.low, self.high, self.total, self.squares = parts
        self.count += len(rows)

    def result(self) -> dict[str, Any]:
        mean = self.total / self.count
        deviation = np.sqrt(np.maximum(self.squares / self.count - mean**2, 0))
        found = {"min": self.low, "max": self.high, "mean": mean, "std": deviation}
        return {name: value.tolist() for name, value in found.items()} | {"count": [self.count]}


class _ImageStats(_Stats):
    """The same of the colours of images in 0..1, [3, 1, 1]."""

    def result(self) -> dict[str, Any]:
        found = super().result()
        return {key: value if key == "count" else [[[each]] for each in value] for key, value in found.items()}


def _column(rows: np.ndarray) -> pyarrow.Array:
    """Rows [N, K] as a column: of numbers where K is 1, else of lists of one length."""
    import pyarrow

    flat = pyarrow.array(rows.ravel())
    return flat if rows.shape[1] == 1 else pyarrow.FixedSizeListArray.from_arrays(flat, rows.shape[1])


def _write_table(table: pyarrow.Table, path: Path) -> Path:
    from pyarrow import parquet

    with replacing(path) as partial:
        parquet.write_table(table, partial, compression="snappy")
    return path


def _write_video(
    clips: list[Clip], store: Store, path: Path, rate: Fraction, with_sound: bool, stats: dict[str, _Stats]
) -> None:
    with tempfile.TemporaryDirectory() as folder:
        wav = Path(folder) / "sound.wav"
        if with_sound:
            wavfile.write(wav, RATE, np.concatenate([store.arrays(clip.rows["sync"].key)["samples"] for clip in clips]))
        seen = stats.setdefault(VIDEO, _ImageStats())
        with VideoWriter(path, rate, audio_from=wav if with_sound else None, crf=CRF, synthetic=False) as writer:
            for clip in clips:
                data = store.arrays(clip.rows["crop"].key)
                ends = [0, *data["ends"].tolist()]
                for number, (begin, end) in enumerate(zip(ends, ends[1:])):
                    picture = decode_picture(io.BytesIO(data["data"][begin:end].tobytes()), clip.name)
                    writer.write(picture)
                    if number % int(rate) == 0:  # one a second is enough for the colours
                        seen.add(picture.reshape(-1, 3) / 255)
            writer.finish()
