"""The command `stylereel sample`: one motion from noise, with one person or several side by side."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any, Unpack

from stylereel import systems
from stylereel.commands.likeness import Likeness, check_likeness, resembling
from stylereel.commands.rendering import RenderKeywords, RenderOptions, Sound, result_lines, write_clip
from stylereel.core.files import ensure_writable
from stylereel.core.latents import Identity, Motion
from stylereel.core.record import Stages, command_line, sha256, write_record
from stylereel.core.runs import Unfinished, claim
from stylereel.core.system import Samples, System
from stylereel.media.writer import ENDINGS
from stylereel.systems import Flags
from stylereel.systems.sources import read_source
from stylereel.zoo.families import open_family

VERBS = ("sample", "identify", "apply")
FRAMES = 250  # where no length is given
LONGEST = 5_000_000  # frames of a motion, 55 hours at 25 a second: all of it is in memory


def sample(
    system: str | System,
    /,
    *,
    seed: int,
    out: str,
    identity: str | None = None,
    likeness: Likeness = "auto",
    files: Mapping[str, str] | None = None,
    options: Mapping[str, Any] | None = None,
    stages: Stages | None = None,
    **rendering: Unpack[RenderKeywords],
) -> dict[str, Any]:
    """Generate a video of any length from a random seed, with one person or several side by side.

    The same command resumes a run that was stopped or killed, as with `drive`.

    Args:
        system: name of a system, or a loaded one.
        seed: random seed of the motion.
        out: the file to write, .mp4, .webm, .mkv (lossless) or .gif; its record (.json) and its motion (.safetensors)
            are written next to it.
        identity: the person shown: a seed, an image, codes or an identity (.safetensors, PTI's tuning included), or
            several of these separated by commas; the person of the training clip if not given.
        likeness: how a photograph is shown: photo (the generator is tuned to it, which takes a minute or two, once),
            drawn (the person as the generator draws what was read, at once), or auto: photo, where the system can.
        files: weight files of the system's own file options, which override the family's; for the record too.
        options: values for the system's own options; the others keep their defaults.
        stages: clock to use, for watching the progress.
        rendering: what all commands that render take, see `RenderOptions`.

    Returns:
        The record: what was written to the .json file, and the files.

    Raises:
        ValueError: an unknown system or option, an unusable value, or a file that cannot be read or written
            (MediaError). Nothing is left under the name `out` then.
    """
    stages, shared = stages or Stages(), RenderOptions(**rendering)
    check_likeness(likeness)
    target = ensure_writable(out, *filter(None, ENDINGS))
    outputs = [target, target.with_suffix(".json"), target.with_suffix(".safetensors")]
    names = [name.strip() for name in (identity or "").split(",") if name.strip()]
    inputs = {name: name for name in names if not name.isdecimal()} | shared.files()
    claim(outputs, [*inputs.values(), *(files or {}).values()], shared.overwrite)
    shared.require_inputs()
    if isinstance(system, str):
        with stages("load"):
            system = systems.load(system, family=shared.family, device=shared.device, **(files or {}))
    own, chosen = systems.choose(system, VERBS, options, open_family(shared.family).detector)
    assert isinstance(system, Samples)  # choose has checked it
    facts = {
        "system": system.name,
        "settings": own | {"likeness": likeness} | shared.settings(system),
        "seeds": {"motion": seed},
        "people": identity or "the person of the training clip",
        "inputs": {name: {"file": file, "sha256": sha256(file)} for name, file in inputs.items()},
        "weights": {Path(path).name: sha256(path) for path in system.weight_files},
    }
    with Unfinished(target, facts) as unfinished:
        return _sample(system, unfinished, facts, names, shared, chosen, dict(files or {}), stages)


def _sample(
    system: Samples,
    unfinished: Unfinished,
    facts: dict[str, Any],
    names: list[str],
    options: RenderOptions,
    chosen: dict[str, dict[str, Any]],
    files: dict[str, str],
    stages: Stages,
) -> dict[str, Any]:
    target, seed = unfinished.target, facts["seeds"]["motion"]
    motion_file = target.with_suffix(".safetensors")
    made: list[tuple[Identity, Motion]] = []

    def part(index: int) -> Any:
        if not made:
            made.append(_sampled(system, seed, options, chosen["sample"]))
        return made[0][index]

    with stages("sample"):
        motion = unfinished.keep("motion", Motion, lambda: part(1))
        people = [] if names else [unfinished.keep("identity", Identity, lambda: part(0))]
    for index, name in enumerate(names):
        with stages("identify"):
            identify = partial(_identify, system, name, chosen["identify"], facts["settings"]["likeness"], stages)
            people.append(unfinished.keep(f"identity-{index}", Identity, identify))

    sound = Sound(options.audio, options.begin)
    written = write_clip(system, people, motion, options, chosen["apply"], sound, target, unfinished, stages)
    motion.save(motion_file)
    flags: dict[str, Any] = {"seed": seed, "out": str(target), **files, **facts["settings"]}
    if names:
        flags["identity"] = ",".join(names)
    del written["notes"]
    record = {
        "command": command_line("sample", system.name, flags),
        **facts,
        **written,
        "run": unfinished.key,
        "files": [target, target.with_suffix(".json"), motion_file],
    }
    write_record(target, record)
    return record


def _identify(system: Samples, name: str, own: Mapping[str, Any], likeness: Likeness, stages: Stages) -> Identity:
    source = read_source(name)
    return resembling(system, system.identify(source, **own), source, likeness, stages)


def _sampled(system: Samples, seed: int, options: RenderOptions, own: Mapping[str, Any]) -> tuple[Identity, Motion]:
    """Who, and the chosen part of the motion at its own frame rate."""
    wanted = replace(options, frames=FRAMES) if options.frames is None and options.duration is None else options
    if not wanted.choosing:
        assert wanted.frames is not None
        _check_length(wanted.frames)
        return system.sample(seed, wanted.frames, **own)
    rate = system.sample(seed, 1, **own)[1].rate  # the length depends on it
    first, length = math.ceil(wanted.begin * rate), wanted.length(rate)
    assert length is not None
    count = math.ceil(length / (wanted.rate or rate) * rate)
    _check_length(first + count)
    who, motion = system.sample(seed, first + count, **own)
    return who, motion.part(first, first + count)


def _check_length(frames: int) -> None:
    if frames > LONGEST:
        raise ValueError(f"A sample ends after {LONGEST} frames at most, not {frames}; choose a shorter one.")


def flags(system: str) -> dict[str, Flags]:
    """A system's own flags."""
    return systems.system_flags(system, VERBS)


def subjects() -> str:
    """The systems, for the help."""
    return systems.describe(VERBS)


def lines(record: Mapping[str, Any]) -> Iterator[str]:
    """What the terminal shows of a record."""
    width, height = record["size"]
    yield f"{record['frames']['written']} frames of {width} x {height} at {record['rate']} frames a second"
    yield from result_lines(record)
