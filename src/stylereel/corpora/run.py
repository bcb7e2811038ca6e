"""Everything together: take videos that nobody has, work on them, and write the data set when all are done."""

from __future__ import annotations

import os
import time
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

from stylereel.core.files import MediaError, ensure_writable, new_folder
from stylereel.core.record import Stages
from stylereel.corpora.engine import Engine
from stylereel.corpora.ledger import Heart, Ledger, Row
from stylereel.corpora.pack import pack
from stylereel.corpora.sources import Video
from stylereel.corpora.steps import STEPS, Done, Plan, Task, clip_parts, hash_video

LEDGER = "ledger.sqlite"
PACKING = "/"  # a lease that no video can have: who writes the data set
PAUSE = 0.5  # seconds between looks at what others are doing


class Prepared(NamedTuple):
    """What a run did.

    folder: of the data set; videos: all of them; done: those that this process worked on; steps: results that it made;
    kept, rejected: clips (of whole videos that were rejected, one each).
    """

    folder: Path
    videos: int
    done: int
    steps: int
    kept: int
    rejected: int

    def lines(self) -> Iterator[str]:
        yield f"clips in {self.folder / 'shards'}: {self.kept}"
        yield f"clips left out: {self.rejected}; {self.folder / 'report.html'} says why"
        yield f"{self.done} of {self.videos} videos and {self.steps} steps were done now, the rest before or by others."


def prepare_videos(
    videos: list[Video],
    plan: Plan,
    folder: str | Path,
    engine: Engine,
    lerobot: bool = False,
    stages: Stages | None = None,
) -> Prepared:
    """Work on videos and write the data set of a plan into folder/SYSTEM.

    The same call goes on where one was killed. Several at the same time, on machines that see one folder, share the
    videos; each ends when all are done.

    Raises:
        MediaError: videos could not be read this time, or the folder cannot be written; what is done is kept.
    """
    root = Path(folder)
    ensure_writable(root / LEDGER) if not (root / LEDGER).exists() else None
    with new_folder(root):
        pass
    stages = stages or Stages()
    ledger = Ledger(root / LEDGER)
    failed: dict[str, str] = {}
    done = made = 0
    try:
        with Heart(ledger):
            whole = {video.name for video in videos if _is_complete(video, plan, ledger)}

            def watched() -> Iterator[Done]:
                while len(whole) + len(failed) < len(videos):
                    before = len(whole)
                    yield from engine.run(_tasks(videos, plan, root, ledger, whole, failed))
                    if len(whole) == before and len(whole) + len(failed) < len(videos):
                        time.sleep(PAUSE)  # others have the rest

            for result in stages.through("prepare", watched(), total=len(videos) - len(whole)):
                name = result.task.video.name
                ledger.add(row._replace(worker=ledger.worker) for row in result.rows)
                ledger.give_back(name)
                done, made = done + 1, made + result.made
                if result.failed:
                    failed[name] = result.failed
                else:
                    whole.add(name)
            if failed:
                first = "; ".join(reason.rstrip(".") for reason in list(failed.values())[:3])
                raise MediaError(
                    f"{len(failed)} videos failed ({first}); fix them or leave them out, and prepare again."
                )
            with stages("pack"):
                kept, rejected = _write(videos, plan, root, ledger, lerobot)
    finally:
        ledger.close()
    return Prepared(root / plan.system, len(videos), done, made, kept, rejected)


def _tasks(
    videos: list[Video], plan: Plan, root: Path, ledger: Ledger, whole: set[str], failed: dict[str, str]
) -> Iterator[Task]:
    """The videos that are not done and that nobody has, taken one by one as they are asked for; those that others have
    done since are added to `whole`."""
    ledger.bury()
    for video in videos:
        if video.name in whole or video.name in failed:
            continue
        try:
            sha256 = known_hash(video, ledger)
        except MediaError as error:
            failed[video.name] = str(error)
            continue
        if complete(plan, sha256, video.name, ledger) is not None:
            whole.add(video.name)
        elif ledger.take(video.name):
            if complete(plan, sha256, video.name, ledger) is not None:  # done between the look and the taking
                ledger.give_back(video.name)
                whole.add(video.name)
            else:
                yield Task(video, plan, str(root), sha256)


def _state(video: Video) -> tuple[str, int, int, int]:
    """What shows whether a file has changed: path, place in it, size, time of the last change."""
    try:
        about = os.stat(video.path)
    except OSError as error:
        raise MediaError(f"{video.path} cannot be read ({error.strerror}); check the disk.") from error
    return video.path, video.offset, video.size or about.st_size, about.st_mtime_ns


def _is_complete(video: Video, plan: Plan, ledger: Ledger) -> bool:
    """Whether a video is known, unchanged and done; nothing but the ledger is read."""
    try:
        found = ledger.known_hash(*_state(video))
    except MediaError:
        return False
    return found is not None and complete(plan, found, video.name, ledger) is not None


def known_hash(video: Video, ledger: Ledger) -> str:
    """The SHA-256 of a video, which is read only if it has changed since it was last."""
    state = _state(video)
    found = ledger.known_hash(*state)
    if found is None:
        found = hash_video(video)
        ledger.keep_hash(*state, found)
    return found


def complete(plan: Plan, sha256: str, video: str, ledger: Ledger) -> list[Row] | None:
    """The rows of a video for a plan, in the order of clips and steps, or None if some lack."""
    known = {(row.clip, row.step, row.key): row for row in ledger.rows(video)}
    keys: dict[str, str] = {}
    found: list[Row] = []
    for step in (name for name in plan.steps if STEPS[name].of == "video"):
        keys[step] = plan.key(step, sha256, keys)
        row = known.get((video, step, keys[step]))
        if row is None:
            return None
        found.append(row)
        if row.reason:
            return found
    shots = found[-1].facts
    for number in range(len(shots["clips"])):
        own = dict(keys)
        for step in (name for name in plan.steps if STEPS[name].of == "clip"):
            own[step] = plan.key(step, sha256, own, clip_parts(shots, number))
            row = known.get((f"{video}#{number:03}", step, own[step]))
            if row is None:
                return None
            found.append(row)
            if row.reason:
                break
    return found


def _write(videos: list[Video], plan: Plan, root: Path, ledger: Ledger, lerobot: bool) -> tuple[int, int]:
    """Write the data set, unless another process has or does; then wait for it."""
    rows: list[Row] = []
    for video in videos:
        found = complete(plan, known_hash(video, ledger), video.name, ledger)
        assert found is not None
        rows += found
    while not ledger.take(PACKING):
        time.sleep(PAUSE)
        ledger.bury()
    try:
        packed = pack(rows, plan, root, lerobot)
    finally:
        ledger.give_back(PACKING)
    return len(packed.kept), len(packed.rejected)
