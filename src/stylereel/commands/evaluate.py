"""Measure results and write down the numbers: what `stylereel eval` does."""

from __future__ import annotations

import math
import os
import tempfile
from collections.abc import Iterator, Sequence
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any, NamedTuple

from stylereel.core.files import ensure_writable, replacing
from stylereel.core.record import Stages, ratio, sha256, write_record
from stylereel.core.runs import claim
from stylereel.core.system import Device, choose_device
from stylereel.metrics.registry import Clip, Measure, Run, Score, Unfit, find, open_clips
from stylereel.metrics.registry import measures as all_measures
from stylereel.zoo.families import BUILTIN

UNDEFINED = "not told"  # the count's key in results.json since version 0.1
Scores = tuple[list[Score], dict[str, str]]  # and why each measure was left out

FILES = ("results.json", "table.md", "plot.png")


class Outcome(NamedTuple):
    """The scores, why each measure was left out that does not fit, and the folder that holds the files."""

    scores: list[Score]
    skipped: dict[str, str]
    out: Path | None = None


def evaluate(
    result: str | Path | Sequence[Clip],
    /,
    *,
    reference: str | Path | Sequence[Clip] | None = None,
    measures: str | Sequence[str] | None = None,
    out: str | Path | None = None,
    processes: int = 1,
    seed: int = 0,
    batch: int = 8,
    video_protocol: str = "windows",
    device: Device = "auto",
    overwrite: bool = False,
    stages: Stages | None = None,
) -> Outcome:
    """Measure a clip, a folder of clips or a folder of images, and print the values as a Markdown table.

    Args:
        result: what to measure (in Python also clips, as `metrics.registry.open_clips` gives them).
        reference: what to compare with: the original of each clip, or for Frechet distances any set.
        measures: names separated by commas; all that apply if not given.
        out: folder for results.json, table.md and plot.png.
        processes: number of processes that share the work; torchrun sets this itself.
        seed: random seed of the 95 % intervals and of all random choices.
        batch: frames in a batch; changes speed and memory, not the values.
        video_protocol: how Frechet video distances choose windows of frames; docs/measures.md lists the protocols.
        device: where the measures' networks run; auto takes a GPU if there is one.
        overwrite: also replace files that an earlier run did not make; never the inputs.
        stages: clock to use, for watching the progress.

    Returns:
        The scores, and for each measure left out the reason. A measure that was asked for by name is never left out.

    Raises:
        ValueError: one sentence: an unknown measure or one that does not apply, nothing to measure.
        MediaError: a file cannot be read, the folder cannot be written.
    """
    from stylereel.metrics.sets import VIDEO_PROTOCOLS

    if video_protocol not in VIDEO_PROTOCOLS:
        raise ValueError(f"There is no video protocol {video_protocol!r}; there are {', '.join(VIDEO_PROTOCOLS)}.")
    if min(processes, batch) < 1 or seed < 0:
        raise ValueError("An evaluation needs 1 or more processes, a batch of 1 or more and a seed of 0 or more.")
    names = measures.split(",") if isinstance(measures, str) else measures or ()
    chosen = [find(name.strip()) for name in names if name.strip()]
    if out is not None:
        _require_matplotlib()
        inputs = [each for each in (result, reference) if isinstance(each, str | Path)]
        claim([Path(out) / name for name in FILES], inputs, overwrite)
    ours = _clips(result)
    theirs = None if reference is None else _clips(reference)
    run = Run(seed, batch, video_protocol, choose_device(device).type)
    scores, skipped = _share(chosen, ours, theirs, run, processes, stages or Stages())
    if not scores:
        raise ValueError(f"No measure applies: {next(iter(skipped.values()))}")
    if out is not None and int(os.environ.get("RANK", 0)) == 0:
        write(Path(out), scores, skipped, ours, theirs, run)
    return Outcome(scores, skipped, None if out is None else Path(out))


def lines(outcome: Outcome) -> Iterator[str]:
    """What the terminal shows; in torchrun one process speaks for all."""
    if int(os.environ.get("RANK", 0)):
        return
    yield table(outcome.scores).rstrip("\n")
    for reason, names in _by_reason(outcome.skipped).items():
        yield f"not measured: {', '.join(names)}: {reason}"
    if outcome.out is not None:
        yield f"{outcome.out}: {', '.join(FILES)}"


def _by_reason(skipped: dict[str, str]) -> dict[str, list[str]]:
    """The measures left out for each reason; measures that name themselves in it share it too."""
    found: dict[str, list[str]] = {}
    for name, reason in skipped.items():
        found.setdefault(reason.replace(f"{name} compares", "It compares", 1), []).append(name)
    return found


def evaluate_exact(
    *,
    system: str = "stylemask",
    pairs: int = 64,
    seed: int = 0,
    out: str | Path | None = None,
    family: str = BUILTIN,
    device: Device = "auto",
    overwrite: bool = False,
    stages: Stages | None = None,
) -> Outcome:
    """Measure a system against ground truth: the world's exact images of one person with another's motion.

    Args:
        system: the system to measure.
        pairs: number of pairs of a source person and a driver.
        seed: random seed of the people and of the 95 % intervals.
        out: results.json to write.
        family: whose weights: builtin, or a TOML file that names others of the world's people.
        device: where the system's networks run; auto takes a GPU if there is one.
        overwrite: also replace files that an earlier run did not make.
        stages: clock to use, for watching the progress.

    Raises:
        ValueError: an unknown system or family, or one that drives no image of the world's faces.
        MediaError: the file cannot be written.
    """
    from stylereel.metrics.exact import exact
    from stylereel.systems import load

    if out is not None:
        claim([ensure_writable(out, ".json")], overwrite=overwrite)
    loaded = load(system, family=family, device=device)
    scores = exact(loaded, pairs, seed, stages)
    if out is not None:
        weights = {file.name: {"sha256": sha256(file)} for file in loaded.weight_files}
        plain = {score.name: _plain(score) for score in scores}
        write_record(out, {"system": system, "family": family, "seed": seed, "scores": plain, "weights": weights})
    return Outcome(scores, {})


def _clips(given: str | Path | Sequence[Clip]) -> list[Clip]:
    return open_clips(given) if isinstance(given, (str, Path)) else list(given)


def _measure(
    chosen: list[Measure], ours: list[Clip], theirs: list[Clip] | None, run: Run, stages: Stages | None = None
) -> Scores:
    scores: list[Score] = []
    skipped: dict[str, str] = {}
    for one in (stages or Stages()).through("measures", chosen or list(all_measures().values())):
        try:
            scores.append(one(ours, theirs, run))
        except Unfit as reason:
            if chosen:
                raise
            skipped[one.name] = str(reason)
    return scores, skipped


# --- several processes


def _share(
    chosen: list[Measure], ours: list[Clip], theirs: list[Clip] | None, run: Run, processes: int, stages: Stages
) -> Scores:
    """`_measure` in this process, or in several of which this is the first (in torchrun: the one of its rank)."""
    import torch.distributed
    import torch.multiprocessing

    if int(os.environ.get("WORLD_SIZE", 1)) > 1:
        if not torch.distributed.is_initialized():
            torch.distributed.init_process_group("gloo")
        world, rank = torch.distributed.get_world_size(), torch.distributed.get_rank()
        return _measure(chosen, ours, theirs, replace(run, rank=rank, world=world), stages)
    if processes == 1:
        return _measure(chosen, ours, theirs, run, stages)
    names = [one.name for one in chosen]
    with tempfile.TemporaryDirectory() as folder:
        arguments = (f"file://{folder}/meeting", names, ours, theirs, run, processes)
        context = torch.multiprocessing.get_context("spawn")
        workers = [context.Process(target=_work, args=(rank, *arguments)) for rank in range(1, processes)]
        for worker in workers:
            worker.start()
        try:
            return _work(0, *arguments, stages)
        finally:
            for worker in workers:
                worker.join(60)
                if worker.is_alive():
                    worker.terminate()


def _work(
    rank: int,
    meeting: str,
    names: list[str],
    ours: list[Clip],
    theirs: list[Clip] | None,
    run: Run,
    world: int,
    stages: Stages | None = None,
) -> Scores:
    import torch
    import torch.distributed

    threads = torch.get_num_threads()
    torch.set_num_threads(max(1, threads // world))
    torch.distributed.init_process_group("gloo", init_method=meeting, rank=rank, world_size=world)
    try:
        chosen = [find(name) for name in names]
        return _measure(chosen, ours, theirs, replace(run, rank=rank, world=world), stages)
    except Exception:
        if rank == 0:
            raise
        return [], {}  # the first process has the same error and reports it
    finally:
        torch.distributed.destroy_process_group()
        torch.set_num_threads(threads)


# --- what is written


def table(scores: Sequence[Score]) -> str:
    """The scores as a Markdown table."""
    lines = ["| measure | value | 95 % interval | unit | better | counts |", "|---|---|---|---|---|---|"]
    for score in scores:
        named = {"undefined" if name == UNDEFINED else name: count for name, count in score.counts.items()}
        counts = ", ".join(f"{count} {name}" for name, count in named.items() if name != "undefined" or count)
        between = "" if score.interval is None else " to ".join(_text(end) for end in score.interval)
        better = "" if score.better == "neither" else score.better
        lines.append(f"| {score.name} | {_text(score.value)} | {between} | {score.unit} | {better} | {counts} |")
    return "\n".join(lines) + "\n"


def _text(value: float) -> str:
    return "undefined" if math.isnan(value) else f"{value:.4g}"


def write(
    out: Path, scores: Sequence[Score], skipped: dict[str, str], ours: list[Clip], theirs: list[Clip] | None, run: Run
) -> None:
    """Write results.json, table.md and plot.png into the folder `out`."""
    from stylereel.metrics.sets import VIDEO_PROTOCOLS

    known, files = all_measures(), [out / name for name in FILES]
    weights = {}
    for score in scores:
        if (net := known[score.name.split("[")[0]].net) is not None:
            file = net().file
            weights[file.name] = {"sha256": sha256(file)}
    data: dict[str, Any] = {
        "seed": run.seed,
        "device": run.device,
        "video protocol": {"name": run.video_protocol, "settings": str(VIDEO_PROTOCOLS[run.video_protocol])},
        "scores": {score.name: _plain(score) for score in scores},
        "not measured": skipped,
        "result": [_about(clip) for clip in ours],
        "reference": [_about(clip) for clip in theirs or ()],
        "weights": weights,
        "files": files,
    }
    with replacing(files[1]) as partial:
        partial.write_text(table(scores), encoding="utf-8")
    with replacing(files[2]) as partial:
        _plot(partial, scores)
    write_record(files[0], data)


def _plain(score: Score) -> dict[str, Any]:
    """A score for JSON, which knows no infinity ("inf") and no nan (null)."""

    def number(value: object) -> object:
        if isinstance(value, (tuple, list)):
            return [number(part) for part in value]
        if isinstance(value, dict):
            return {name: number(part) for name, part in value.items()}
        if isinstance(value, float) and not math.isfinite(value):
            return None if math.isnan(value) else str(value)
        return value

    return {name: number(value) for name, value in asdict(score).items() if name not in ("name", "seed")}


def _about(clip: Clip) -> dict[str, Any]:
    about = {"name": clip.name, "frames": clip.num_frames, "rate": ratio(clip.rate), "sha256": clip.fingerprint()}
    return about if clip.path is None else {"path": str(clip.path), **about}


def _require_matplotlib() -> None:
    try:
        import matplotlib  # noqa: F401
    except ImportError:
        raise ValueError("The plot needs matplotlib: run pip install 'stylereel[metrics]'.") from None


def _plot(path: Path, scores: Sequence[Score]) -> None:
    """A strip for each finite score: the value as a dot, the 95 % interval as a line, on an axis of its own."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    shown = [score for score in scores if math.isfinite(score.value)]
    figure = Figure(figsize=(8, 0.5 + 0.75 * max(1, len(shown))), layout="constrained")
    canvas = FigureCanvasAgg(figure)
    axes = figure.subplots(max(1, len(shown)), squeeze=False)[:, 0]
    arrows = {"higher": " \N{RIGHTWARDS ARROW}", "lower": " \N{LEFTWARDS ARROW}", "neither": ""}
    for axis, score in zip(axes, shown):
        if score.interval is not None and all(map(math.isfinite, score.interval)):
            axis.plot(score.interval, (0, 0), color="#5b8db8", linewidth=4, solid_capstyle="butt")
        axis.plot([score.value], [0], "o", color="#1d3557")
        axis.set_yticks([])
        axis.margins(x=0.3)
        axis.ticklabel_format(axis="x", useOffset=False)
        axis.spines[["left", "right", "top"]].set_visible(False)
        unit = f" ({score.unit})" if score.unit else ""
        axis.set_ylabel(f"{score.name}{unit}{arrows[score.better]}", rotation=0, ha="right", va="center", fontsize=8)
        axis.tick_params(axis="x", labelsize=7)
    if not shown:
        axes[0].axis("off")
        axes[0].text(0.5, 0.5, "no finite value", ha="center")
    canvas.print_figure(str(path), dpi=150, format="png")
