"""`stylereel prepare`: from raw videos to training data."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Literal, Protocol

from stylereel.core.record import Stages
from stylereel.core.system import Device

System = Literal["stylefacev", "stylevideogan", "expressive", "styleheat", "stylemask", "generator"]


class Outcome(Protocol):
    """What was done (`corpora.run.Prepared`), would be (`corpora.estimate.Estimate`) or was found whole
    (`corpora.check.Checked`)."""

    def lines(self) -> Iterator[str]: ...


def prepare(
    *sources: str,
    out: str,
    for_: System,
    parameters: str | None = None,
    licence: str = "",
    family: str = "builtin",
    device: Device = "auto",
    engine: Literal["processes", "ray"] = "processes",
    address: str | None = None,
    workers: int | None = None,
    lerobot: bool = False,
    dry_run: bool = False,
    check: bool = False,
    stages: Stages | None = None,
) -> Outcome:
    """Make training data of raw videos: shots, one face, its crop, and what a system needs besides.

    Give the same command again after a stop or a kill: it goes on. Give it on several machines that see one folder:
    they share the work. Give it with other sources or parameters: only what depends on them is done. With another --for
    and the same --out, what both need is done once.

    Args:
        sources: videos, folders of them, patterns, tar shards with videos, or lists (.txt: one a line, after a tab its
            licence).
        out: folder for the data sets, the ledger and the results of all steps.
        for_: what the data is for; it decides the crop, the frame rate and what is packed.
        parameters: a TOML file that changes parameters of the steps; docs/corpora.md lists them.
        licence: of the videos for which a list names none; it is kept with each clip.
        family: whose encoder and detector, where the parameters name none: builtin, ffhq, or a TOML file.
        device: where the encoder runs; auto takes a GPU if there is one.
        engine: where the work is done: processes of this machine, or ray, a cluster.
        address: of a Ray cluster that runs; without it ray starts one on this machine.
        workers: videos at once; null takes every core; 0 works in this process.
        lerobot: also write the data set in the LeRobot v3 layout (needs the extra corpora).
        dry_run: only say how long it takes and how large it gets, from a few clips that are done now.
        check: only check a data set that was written: all hashes, and everything read once.
    """
    import os

    from stylereel.corpora.check import check_dataset
    from stylereel.corpora.engine import Engine, Here, Processes, Ray
    from stylereel.corpora.estimate import estimate
    from stylereel.corpora.run import prepare_videos
    from stylereel.corpora.settings import settings_for
    from stylereel.corpora.sources import find_videos
    from stylereel.corpora.steps import plan_for

    settings = settings_for(for_, parameters)
    if check:
        return check_dataset(Path(out) / for_)
    if workers is not None and workers < 0:
        raise ValueError("--workers takes 0 or more.")
    if address is not None and engine != "ray":
        raise ValueError("--address goes with --engine ray.")
    if lerobot:
        from stylereel.corpora.lerobot import require

        require(settings)
    videos = find_videos(sources, licence)
    plan = plan_for(for_, settings, family, device)
    if dry_run:
        return estimate(videos, plan, out)
    chosen: Engine
    if engine == "ray":
        chosen = Ray(address, workers)
    else:
        chosen = Here() if workers == 0 else Processes(workers or os.cpu_count() or 1)
    prepared = prepare_videos(videos, plan, out, chosen, lerobot, stages)
    if not prepared.kept:
        raise ValueError(f"No clip is of use; {prepared.folder / 'report.html'} says why. Give other videos.")
    return prepared


def lines(result: Outcome) -> Iterator[str]:
    """What is printed of a result."""
    yield from result.lines()
