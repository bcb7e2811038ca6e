"""How long a preparation takes and how large it gets, from a few videos that are done and what is known of all."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

from stylereel.core.files import MediaError, new_folder
from stylereel.corpora.ledger import Heart, Ledger
from stylereel.corpora.run import LEDGER, complete, known_hash
from stylereel.corpora.sources import Video
from stylereel.corpora.steps import Plan, Task, work_on

SAMPLES = 3  # videos, evenly spread, that are done for the estimate if none are


class Estimate(NamedTuple):
    """videos, left: of all, and not yet done; sampled: done ones that the estimate is made from; seconds: on one core,
    for what is left; steps: seconds by step of the sampled; bytes: of all results and the data set in the end."""

    videos: int
    left: int
    sampled: int
    seconds: float
    steps: dict[str, float]
    bytes: int

    def lines(self) -> Iterator[str]:
        yield f"{self.left} of {self.videos} videos are left: {self.seconds / 3600:.2f} hours on one core."
        yield f"In the end {self.bytes / 1e9:.2f} GB, of which about half is the data set and half the kept results."
        total = sum(self.steps.values()) or 1.0
        shares = sorted(self.steps.items(), key=lambda pair: -pair[1])
        parts = ", ".join(f"{name} {value / total:.0%}" for name, value in shares if value)
        yield f"Measured on {self.sampled} videos: {parts}."


def estimate(videos: list[Video], plan: Plan, folder: str | Path) -> Estimate:
    """Estimate by the size of the files: seconds and bytes of the done videos for each byte of theirs.

    If none is done, SAMPLES are done now, and kept.

    Raises MediaError if none of them can be read.
    """
    root = Path(folder)
    with new_folder(root):
        pass
    ledger = Ledger(root / LEDGER)
    sizes = {video.name: video.size or Path(video.path).stat().st_size for video in videos}
    try:
        done = {video.name: complete(plan, known_hash(video, ledger), video.name, ledger) for video in videos}
        if not any(done.values()):
            step = max(1, len(videos) // SAMPLES)
            with Heart(ledger):
                for video in videos[step // 2 :: step][:SAMPLES]:
                    if ledger.take(video.name):
                        result = work_on(Task(video, plan, str(root)))
                        ledger.add(row._replace(worker=ledger.worker) for row in result.rows)
                        ledger.give_back(video.name)
                        done[video.name] = None if result.failed else list(result.rows)
    finally:
        ledger.close()
    sampled = {name: rows for name, rows in done.items() if rows}
    if not sampled:
        raise MediaError("None of the videos that were tried could be read; check the sources.")
    steps: dict[str, float] = {}
    for rows in sampled.values():
        for row in rows:
            steps[row.step] = steps.get(row.step, 0.0) + row.seconds
    read = sum(sizes[name] for name in sampled)
    left = [video.name for video in videos if video.name not in sampled]
    kept = sum(row.bytes for rows in sampled.values() for row in rows)
    return Estimate(
        len(videos), len(left), len(sampled), sum(steps.values()) * sum(sizes[name] for name in left) / read, steps,
        round(2 * kept * sum(sizes.values()) / read),
    )  # fmt: skip
