"""The registry of measures: each is a short function with a named protocol, found here by its name.

    @measure("psnr", compares="frame pairs", better="higher", unit="dB", protocol="...", source="...")
    def psnr(result: Clip, reference: Clip) -> np.ndarray: ...  # [T], one number a frame

What a measure's function takes and returns:

| compares | takes | returns |
|---|---|---|
| frame pairs | a result Clip and a reference Clip of as many frames | one number a frame, float [T] |
| clip | a result Clip | one number, or one a frame, float [T] |
| clip pairs | a result Clip and a reference Clip, of any lengths | one number, or one a frame, float [T] |
| sets | all result Clips, all reference Clips, and the Run | a SetValue |

A measure with a `net` of pairs or of one clip also takes the keyword `device`, where that network runs; sets have it
in their Run.

NaN means undefined (a frame without a face, say); it is counted, reported and left out. A function raises `Unfit` with
one sentence when the whole measure does not apply to its inputs. All modules of this room are imported when the
registry is first used, so a measure needs only its decorator.
"""

from __future__ import annotations

import difflib
import importlib
import pkgutil
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal, NamedTuple, TypeVar

import numpy as np

from stylereel.metrics.clips import Clip, open_clips
from stylereel.metrics.intervals import bootstrap, jackknife

__all__ = ["Clip", "Measure", "Net", "Run", "Score", "SetValue", "Unfit", "find", "measure", "measures", "open_clips"]

Compares = Literal["frame pairs", "clip", "clip pairs", "sets"]
Better = Literal["higher", "lower", "neither"]
Function = TypeVar("Function", bound=Callable[..., Any])
Value = TypeVar("Value")


SAME_RATE = 0.01  # 29.97 and 30 frames a second are not told apart


class Unfit(ValueError):
    """A measure does not apply to its inputs (weights or sound are missing, say): one sentence that says what to do."""


class Net(NamedTuple):
    """The network behind a measure: its name becomes part of the score's name, its file's hash of the results."""

    name: str
    file: Path


@dataclass(frozen=True)
class Run:
    """One evaluation: what measures need besides the clips. Of `world` processes this is number `rank`.

    device: where the networks of measures run.
    """

    seed: int = 0
    batch: int = 8
    video_protocol: str = "windows"
    device: str = "cpu"
    rank: int = 0
    world: int = 1
    _kept: dict[Any, Any] = field(default_factory=dict, repr=False, compare=False)

    def share(self, work: Callable[[], Value]) -> list[Value]:
        """What `work` returns in every process, in order of their ranks; every process has to call it.

        When it raises anywhere, the first process' error is raised everywhere, so that none waits for ever.
        """
        if self.world == 1:
            return [work()]
        import torch.distributed

        mine: tuple[Any, Exception | None]
        try:
            mine = work(), None
        except Exception as error:
            mine = None, error
        everyone: list[Any] = [None] * self.world
        torch.distributed.all_gather_object(everyone, mine)
        for _, error in everyone:
            if error is not None:
                raise error
        return [value for value, _ in everyone]

    def keep(self, clips: Sequence[Clip], name: str, make: Callable[[], Value]) -> Value:
        """What `make` returned for these clips and this name when first called: two measures share one pass."""
        key = (name, *map(id, clips))
        if key not in self._kept:
            self._kept[key] = (make(), clips)  # the clips stay alive with it, so that no other gets their id
        return self._kept[key][0]


@dataclass(frozen=True)
class SetValue:
    """What a measure of sets returns.

    value; parts: further numbers to report; label: what else is part of the name, such as a preset;
    without: the value once more without each group of clips or frames, for the interval; counts: numbers of items.
    """

    value: float
    parts: dict[str, float] = field(default_factory=dict)
    label: str = ""
    without: Sequence[Sequence[float]] = ()
    counts: dict[str, int] = field(default_factory=dict)


@dataclass(frozen=True)
class Score:
    """One measured number. `interval` is the 95 % interval or None, `interval_by` how it was found."""

    name: str
    value: float
    interval: tuple[float, float] | None
    interval_by: str
    unit: str
    better: Better
    compares: Compares
    counts: dict[str, int]
    protocol: str
    seed: int
    parts: dict[str, float]


@dataclass(frozen=True)
class Measure:
    """A registered measure; see `measure` for the fields."""

    name: str
    compares: Compares
    better: Better
    unit: str
    protocol: str
    source: str
    net: Callable[[], Net] | None
    function: Callable[..., Any]

    @property
    def needs_reference(self) -> bool:
        return self.compares != "clip"

    def __call__(
        self, result: Sequence[Clip], reference: Sequence[Clip] | None = None, run: Run | None = None
    ) -> Score:
        """Measure clips, against a reference of as many clips (of any number for sets).

        Raises Unfit when the measure cannot be used on them (no reference where one is needed, clips or frames that do
        not pair up, weights that are not there), ValueError when there are no clips.
        """
        run = run or Run()
        if not result or (reference is not None and not reference):
            raise ValueError("There is nothing to measure; give at least one clip.")
        if self.needs_reference and reference is None:
            raise Unfit(f"{self.name} compares with a reference; give one with --reference.")
        net = self.net().name if self.net else ""
        if self.compares == "sets":
            got: SetValue = self.function(result, reference, run)
            label = ", ".join(filter(None, (net, got.label)))
            interval, how = jackknife(got.value, got.without)
            return self._score(label, got.value, interval, how, got.counts, run, got.parts)
        others = check_pairs(result, reference or [], self.compares) if self.needs_reference else [None] * len(result)

        def mine() -> dict[int, np.ndarray]:
            pairs = enumerate(zip(result, others, strict=True))
            return {i: self._of_one(clip, other, run.device) for i, (clip, other) in pairs if i % run.world == run.rank}

        found = {index: value for part in run.share(mine) for index, value in part.items()}
        values = [found[index] for index in range(len(result))]
        interval, how = bootstrap(values, run.seed)
        defined = np.concatenate(values)
        defined = defined[~np.isnan(defined)]
        a_frame = any(value.size > 1 for value in values)
        counts = {"clips": len(values), ("frames" if a_frame else "values"): sum(v.size for v in values)}
        counts["not told"] = counts["frames" if a_frame else "values"] - defined.size
        parts = {clip.name: _mean(value) for clip, value in zip(result, values)} if len(values) > 1 else {}
        return self._score(net, _mean(defined), interval, how, counts, run, parts)

    def _of_one(self, clip: Clip, other: Clip | None, device: str) -> np.ndarray:
        given = (clip,) if other is None else (clip, other)
        value = self.function(*given, device=device) if self.net else self.function(*given)
        return np.atleast_1d(np.asarray(value, np.float64))

    def _score(self, label: str, value: float, interval: Any, how: str, counts: Any, run: Run, parts: Any) -> Score:
        name = f"{self.name}[{label}]" if label else self.name
        return Score(
            name, value, interval, how, self.unit, self.better, self.compares, counts, self.protocol, run.seed, parts
        )


def _mean(values: np.ndarray) -> float:
    defined = values[~np.isnan(values)]
    return float(defined.mean()) if defined.size else float("nan")


def check_pairs(result: Sequence[Clip], reference: Sequence[Clip], compares: Compares) -> list[Clip]:
    """The reference clip of each result clip: the only one, or the one of its name.

    Raises Unfit when clips or (of frame pairs) their frames do not pair up: other counts, or frame rates more than a
    hundredth apart, where files name them. Sizes are for those measures to compare that need equal ones.
    """
    if len(result) != len(reference):
        raise Unfit(f"The result has {len(result)} clips and the reference {len(reference)}; give as many of each.")
    names = {clip.name: clip for clip in reference}
    if len(result) == 1:
        others = list(reference)
    else:
        alone = [clip.name for clip in result if clip.name not in names]
        if alone:
            raise Unfit(f"The reference has no clip {alone[0]}; give the clips of each pair the same name.")
        others = [names[clip.name] for clip in result]
    if compares == "frame pairs":
        for clip, other in zip(result, others, strict=True):
            if clip.num_frames != other.num_frames:
                counts = f"{clip.num_frames} frames and its reference {other.num_frames}"
                raise Unfit(f"{clip.name} has {counts}; cut both to the same frames.")
            ours, theirs = clip.named_rate, other.named_rate
            if ours and theirs and abs(ours / theirs - 1) > SAME_RATE:
                rates = f"{float(ours):.5g} frames a second and its reference {float(theirs):.5g}"
                raise Unfit(f"{clip.name} has {rates}, so their frames are of other moments; give both one rate.")
    return others


_MEASURES: dict[str, Measure] = {}


def measure(
    name: str,
    *,
    compares: Compares,
    better: Better,
    unit: str,
    protocol: str,
    source: str,
    net: Callable[[], Net] | None = None,
) -> Callable[[Function], Function]:
    """Register a function as a measure; the function itself stays as it is.

    Args:
        name: lower case, words joined by dashes.
        compares: what it takes; see the table at the top of this file.
        better: "higher", "lower" or "neither", for values that only describe.
        unit: such as "dB", "degrees", "" for a plain number.
        protocol: one sentence: what exactly is computed, with which settings.
        source: the paper or definition.
        net: gives the network that it uses; raises Unfit when its file is missing. The function then takes `device`.
    """

    def register(function: Function) -> Function:
        if name in _MEASURES and _MEASURES[name].function.__module__ != function.__module__:
            raise ValueError(f"There is a measure {name} already; choose another name.")
        _MEASURES[name] = Measure(name, compares, better, unit, protocol, source, net, function)
        return function

    return register


def measures() -> dict[str, Measure]:
    """All measures by name, sorted; imports every module of this room first."""
    import stylereel.metrics as room

    for module in pkgutil.iter_modules(room.__path__, f"{room.__name__}."):
        importlib.import_module(module.name)
    return dict(sorted(_MEASURES.items()))


def find(name: str) -> Measure:
    """The measure of that name. Raises ValueError, with the nearest name, if there is none."""
    known = measures()
    if name not in known:
        near = difflib.get_close_matches(name, known, n=1)
        hint = f"did you mean {near[0]}?" if near else f"there are {', '.join(known)}."
        raise ValueError(f"There is no measure {name!r}; {hint}")
    return known[name]


def describe() -> str:
    """All measures for the documentation, two lines each: name, what it compares, unit, direction; protocol, source."""
    lines = []
    for one in measures().values():
        better = "describes only" if one.better == "neither" else f"{one.better} is better"
        lines.append(f"- **{one.name}**: {', '.join(filter(None, (one.compares, one.unit, better)))}.")
        lines.append(f"  {one.protocol} Source: {one.source}.")
    return "\n".join(lines) + "\n"
