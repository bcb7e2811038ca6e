"""From the results of steps to the data set: shards, and what is in them.

The folder of a system holds shards/shard-000000.tar ... with sizes.json (`train.shards` reads both), report.html, and
last dataset.json, without which the folder is not whole. A clip is KEY.0000.jpg ... and, as far as the system needs
them, the arrays of `FIELDS` and KEY.json. Everything follows from the results alone: their order, which is that of the
hashes of the clips' names, does not depend on who made them when.
"""

from __future__ import annotations

import hashlib
import io
import json
import re
import tarfile
from collections.abc import Iterator, Mapping, Sequence
from fractions import Fraction
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch

from stylereel.core.arrays import map_array
from stylereel.core.files import MediaError, listed, replacing, require_file
from stylereel.core.latents import Codes
from stylereel.core.record import sha256
from stylereel.core.version import __version__
from stylereel.corpora.ledger import Row
from stylereel.corpora.settings import NEEDS
from stylereel.corpora.steps import STEPS, Plan
from stylereel.corpora.store import Store, key_of
from stylereel.faces.placement import to_crop
from stylereel.media.activity import RATE
from stylereel.train.shards import local_members

INDEX = "dataset.json"  # written last, so that a folder with it is whole
VERSION = 2  # of how data sets are written from results; a new one writes them again
MEGABYTE = 2**20
CLOSE = 0.2  # seconds by which the lengths of two copies differ at most
# Least correlation of the movement of the landmarks of two copies. At 96 px a copy that was encoded anew had 0.77 or
# more, other parts of the same recording 0.46 or less.
TOGETHER = 0.6

# The arrays of a clip, by the step that gives them. P pictures, T frames (every picture's if all frames are kept).
FIELDS: dict[str, dict[str, str]] = {
    "crop": {"placement": "[P, 4] float32: centre x, centre y, side, roll of each picture in the video"},
    "track": {
        "landmarks": "[P, 68, 2] float32: iBUG landmarks in pixels of the picture",
        "found": "[P] bool: whether a face was found; else landmarks are held",
    },
    "coefficients": {"coefficients": "[P, K] float32: motion factors of the face; KEY.json has their names"},
    "codes": {
        "codes": "[P, L, D] float32: W+ codes",
        "code_placement": "[P, 4] float32: the crops that were encoded, as in placement",
    },
    "speech": {"speech": "[N] float32: probability of speech in each 512 samples"},
    "sync": {"sound": f"[S] int16: samples at {RATE} Hz, in step with the pictures where that could be found out"},
    "mel": {"mel": "[80, M] float32: mel spectrogram, 80 columns a second"},
}


class Clip(NamedTuple):
    """A clip with results: its name VIDEO#NUMBER, its rows by step, the key of its members in the shards."""

    name: str
    rows: Mapping[str, Row]
    key: str

    def facts(self, step: str) -> Mapping[str, Any]:
        return self.rows[step].facts


class Refused(NamedTuple):
    """A clip, or a whole video, that is left out: where, why, and the result that has a picture of it ("" if none)."""

    name: str
    step: str
    reason: str
    looks: str


class Packed(NamedTuple):
    kept: list[Clip]
    rejected: list[Refused]


def clips_of(rows: Sequence[Row]) -> Packed:
    """The clips of rows (of one plan, in the order of videos, clips and steps), and those that were rejected."""
    by_clip: dict[str, dict[str, Row]] = {}
    for row in rows:
        by_clip.setdefault(row.clip, {})[row.step] = row
    kept, rejected = [], []
    for name, found in by_clip.items():
        video = next(iter(found.values())).video
        bad = next((row for row in found.values() if row.reason), None)
        if bad is not None:
            looks = found["looks"].key if "looks" in found else ""
            rejected.append(Refused(name, bad.step, bad.reason, looks))
        elif name != video:
            kept.append(Clip(name, {**by_clip[video], **found}, key_name(name)))
    return Packed(kept, rejected)


def key_name(clip: str) -> str:
    """The beginning of the names of a clip's members: readable, without dots, of its own."""
    video, _, number = clip.rpartition("#")
    stem = re.sub(r"[^A-Za-z0-9]+", "-", video).strip("-")[:48]
    return f"{stem}-{hashlib.sha256(video.encode()).hexdigest()[:8]}-{number}"


def without_copies(clips: list[Clip], store: Store, bits: int) -> Packed:
    """The clips without those that show what one before them, by name, shows. bits: see `settings.Pack`."""
    if bits < 0:
        return Packed(clips, [])
    kept: list[Clip] = []
    rejected: list[Refused] = []
    hashes: list[np.ndarray] = []
    marks: list[np.ndarray] = []
    lengths: list[float] = []
    for clip in sorted(clips, key=lambda each: each.name):
        arrays = store.arrays(clip.rows["looks"].key)
        shown, mark = arrays["hashes"], arrays["signature"]
        seconds = clip.facts("track")["frames"] / float(Fraction(clip.facts("shots")["rate"]))
        near = np.flatnonzero(np.abs(np.array(lengths) - seconds) <= CLOSE)
        same = None
        for place in near:
            if len(hashes[place]) == len(shown):
                different = float(np.median(np.bitwise_count(hashes[place] ^ shown)))
                if different <= bits and moves_as(marks[place], mark):
                    same = kept[place]
                    break
        if same is not None:
            rejected.append(Refused(clip.name, "pack", f"It is a copy of {same.name}.", clip.rows["looks"].key))
            continue
        kept.append(clip)
        hashes.append(shown)
        marks.append(mark)
        lengths.append(seconds)
    return Packed(kept, rejected)


def moves_as(signature: np.ndarray, other: np.ndarray) -> bool:
    """Whether two clips with these signatures (`looks.signature`) show the same movement; the place does not count."""
    if np.array_equal(signature, other):
        return True
    one, two = (each - each.mean(0) for each in (signature.astype(np.float64), other.astype(np.float64)))
    size = np.sqrt(np.square(one).sum() * np.square(two).sum())
    return bool(size > 0 and (one * two).sum() / size >= TOGETHER)


def clip_arrays(clip: Clip, fields: Sequence[str], store: Store) -> dict[str, np.ndarray]:
    """The arrays of a clip by the names in `FIELDS`."""
    found: dict[str, np.ndarray] = {}
    every = clip.facts("crop")["every"]
    rows = store.arrays(clip.rows["place"].key)["placement"][::every]
    found["placement"] = rows
    for step in fields:
        if step == "crop":
            continue
        arrays = store.arrays(clip.rows[step].key)
        if step == "track":
            points = to_crop(arrays["landmarks"][::every].astype(np.float64), rows) * clip.facts("crop")["size"]
            found |= {"landmarks": points.astype(np.float32), "found": arrays["found"][::every]}
        elif step == "codes":
            found |= {"codes": arrays["codes"][::every], "code_placement": arrays["placement"][::every]}
        elif step == "coefficients":
            found["coefficients"] = arrays["coefficients"][::every]
        elif step == "sync":
            found["sound"] = arrays["samples"]
        else:
            found[step] = arrays[step]
    return found


def clip_about(clip: Clip, fields: Sequence[str]) -> dict[str, Any]:
    """What KEY.json says."""
    shots, number = clip.facts("shots"), int(clip.name.rpartition("#")[2])
    first, count = shots["clips"][number]
    about = {
        "video": clip.rows["track"].video,
        "sha256": clip.rows["track"].input,
        "licence": clip.rows["track"].licence,
        "rate": shots["rate"],
        "first": first,
        "frames": count,
        "pictures": clip.facts("crop")["pictures"],
        "every": clip.facts("crop")["every"],
        "faces": clip.facts("track")["faces"],
        "inside": clip.facts("place")["inside"],
        **clip.facts("looks"),
    }
    for step in ("speech", "sync", "codes", "coefficients"):
        if step in fields:
            about[step] = clip.facts(step)
    return about


def members(clip: Clip, fields: Sequence[str], store: Store) -> Iterator[tuple[str, bytes]]:
    """The members of a clip by their endings."""
    data = store.arrays(clip.rows["crop"].key)
    begin = 0
    for number, end in enumerate(data["ends"].tolist()):
        yield f"{number:04}.{clip.facts('crop')['form']}", data["data"][begin:end].tobytes()
        begin = end
    for name, array in clip_arrays(clip, fields, store).items():
        file = io.BytesIO()
        np.lib.format.write_array(file, np.ascontiguousarray(array), allow_pickle=False)
        yield f"{name}.npy", file.getvalue()
    yield "json", json.dumps(clip_about(clip, fields), sort_keys=True).encode()


def read_codes(folder: str | Path, name: str) -> Codes:
    """The codes of a clip of a data set that has some, for instance of one for stylevideogan.

    name: key of the clip, as dataset.json lists it, or name of a video whose clips follow each other without a gap.

    Raises:
        ValueError: there is no such clip, it has no codes, or something is between the video's clips.
    """
    folder = Path(folder)
    known = json.loads(require_file(folder / INDEX).read_bytes())["clips"]
    chosen = sorted((clip, key) for key, clip in known.items() if name in (key, clip.rpartition("#")[0]))
    if not chosen:
        raise ValueError(f"{folder} has no clip {name}; give a key such as {next(iter(known), 'none')}, or a video.")
    keys = [key for _, key in chosen]

    def stop(_: str, reason: str) -> None:
        raise MediaError(reason)

    wanted = {f"{key}.{ending}" for key in keys for ending in ("json", "codes.npy", "code_placement.npy")}
    paths = listed(folder / "shards", {".tar"})
    found = {path.rpartition("/")[2]: member for path, member in local_members(paths, stop, wanted.__contains__)}
    if found.keys() != wanted:
        raise ValueError(f"{name} has no codes; prepare it for a system that needs them, such as stylevideogan.")
    abouts = [json.loads(found[f"{key}.json"].read()) for key in keys]
    if any(one["first"] + one["frames"] != other["first"] for one, other in zip(abouts, abouts[1:])):
        raise ValueError(
            f"{name} has {len(keys)} clips with something between them; give one of {', '.join(keys[:3])}."
        )
    w, rows = (
        torch.from_numpy(np.concatenate([map_array(*found[f"{key}.{array}.npy"]) for key in keys]))
        for array in ("codes", "code_placement")
    )
    return Codes(w, abouts[0]["codes"]["generator"], Fraction(abouts[0]["rate"]) / abouts[0]["every"], rows)


def pack(rows: Sequence[Row], plan: Plan, root: Path, lerobot: bool) -> Packed:
    """Write the data set of a plan into root/SYSTEM, unless it is there; what was there before and no longer belongs to
    it is removed."""
    from stylereel.corpora.lerobot import write_lerobot
    from stylereel.corpora.report import write_report

    store, folder, fields = Store(root / "work"), root / plan.system, NEEDS[plan.system].fields
    found = clips_of(rows)
    unique = without_copies(found.kept, store, plan.settings.pack.duplicates)
    packed = Packed(unique.kept, found.rejected + unique.rejected)
    state = key_of(
        __version__, VERSION, plan.system, plan.settings.table("pack"), lerobot,
        [[row.clip, row.step, row.key, row.licence] for row in rows],
    )  # fmt: skip
    index = folder / INDEX
    if index.exists() and json.loads(index.read_bytes()).get("state") == state:
        return packed
    index.unlink(missing_ok=True)
    order = sorted(packed.kept, key=lambda clip: hashlib.sha256(clip.name.encode()).digest())
    files = [*_write_shards(order, plan, store, folder / "shards")]
    if lerobot:
        files += write_lerobot(order, plan, store, folder / "lerobot")
    files.append(write_report(packed, plan, store, folder))
    names = {path.relative_to(folder).as_posix(): path for path in files}
    for old in sorted(folder.rglob("*"), reverse=True):
        if old.is_file() and old.relative_to(folder).as_posix() not in names:
            old.unlink()
        elif old.is_dir() and not any(old.iterdir()):
            old.rmdir()
    about = {
        "made_by": f"stylereel {__version__}",
        "for": plan.system,
        "state": state,
        "clips": {clip.key: clip.name for clip in order},
        "rejected": {each.name: each.reason for each in packed.rejected},
        "arrays": {name: text for step in fields if step in FIELDS for name, text in FIELDS[step].items()},
        "steps": {step: STEPS[step].version for step in plan.steps},
        "settings": _portable(plan),
        "files": {name: {"bytes": path.stat().st_size, "sha256": sha256(path)} for name, path in sorted(names.items())},
    }
    with replacing(index) as partial:
        partial.write_text(json.dumps(about, indent=1), encoding="utf-8")
    return packed


def _portable(plan: Plan) -> dict[str, Any]:
    """The parameters of the plan's steps; of weight files the names and hashes, without the folders of this machine."""

    def named(value: Any) -> Any:
        return f"{Path(value).name} {plan.files[value]}" if value in plan.files else value

    tables = {step: plan.settings.table(step) for step in (*plan.steps, "pack")}
    return {step: {name: named(value) for name, value in table.items()} for step, table in tables.items() if table}


def _write_shards(clips: list[Clip], plan: Plan, store: Store, folder: Path) -> list[Path]:
    limit, fields = plan.settings.pack.shard * MEGABYTE, NEEDS[plan.system].fields
    sizes: dict[str, int] = {}
    files: list[Path] = []
    waiting = iter(clips)
    clip = next(waiting, None)
    while clip is not None:
        path = folder / f"shard-{len(files):06}.tar"
        written = count = 0
        with replacing(path) as partial, tarfile.open(partial, "w", format=tarfile.USTAR_FORMAT) as shard:
            while clip is not None and written < limit:
                for ending, data in members(clip, fields, store):
                    member = tarfile.TarInfo(f"{clip.key}.{ending}")
                    member.size = len(data)
                    shard.addfile(member, io.BytesIO(data))
                    written += len(data)
                count += clip.facts("crop")["pictures"]
                clip = next(waiting, None)
        sizes[path.name] = count
        files.append(path)
    index = folder / "sizes.json"
    with replacing(index) as partial:
        partial.write_text(json.dumps(sizes, indent=1), encoding="utf-8")
    return [*files, index]
