"""Sample a clip: one motion from noise, shown by one person or by several side by side, from seeds to file."""

from __future__ import annotations

import inspect
from functools import partial
from pathlib import Path
from typing import Any

from stylereel import systems
from stylereel.core.files import ensure_writable
from stylereel.core.latents import Identity, Motion
from stylereel.core.record import Stages, command_line, sha256, write_record
from stylereel.core.render import render
from stylereel.core.runs import Unfinished, claim
from stylereel.core.system import Samples, System
from stylereel.media.sheet import side_by_side
from stylereel.media.video import VideoWriter
from stylereel.media.writer import ENDINGS
from stylereel.systems.sources import read_source

VERBS = ("sample", "identify", "apply")


def sample_options(system: System) -> dict[str, inspect.Parameter]:
    """The run-time options of a system that samples: its verbs' keyword-only arguments, each name once.

    Raises:
        ValueError: the system does not sample.
    """
    if not callable(getattr(system, "sample", None)):
        able = ", ".join(name for name in systems.list_systems() if hasattr(systems.find(name), "sample"))
        raise ValueError(f"{system.name} does not offer sample; these systems do: {able}.")
    return {name: parameter for verb in VERBS for name, parameter in systems.options_of(system, verb).items()}


def sample(
    system: str | System,
    seed: int,
    out: str,
    frames: int = 250,
    identity: str | None = None,
    chunk: int = 8,
    files: dict[str, str] | None = None,
    options: dict[str, Any] | None = None,
    overwrite: bool = False,
    stages: Stages | None = None,
) -> dict[str, Any]:
    """Sample a motion and show it, by people side by side if there are several.

    A run that was killed or stopped goes on where it was when the same is asked again, as with `drive`.

    Args:
        system: name of a system, or a loaded one.
        seed: of the motion.
        out: the file to write, .mp4, .webm, .mkv (lossless) or .gif; its record is written beside it as .json, its
            motion as .safetensors.
        frames: how many; any number, in constant memory.
        identity: who is shown: a seed, a picture, codes or an identity (.safetensors, PTI's tuning included), or
            several of these with commas between; the person of the training clip if not given.
        chunk: frames rendered at a time; more is faster and takes more memory, the frames stay the same.
        files: weight files that the system is, or was, loaded from, if not the built-in ones; for the record too.
        options: values for the system's own options (see `sample_options`); the others keep their defaults.
        overwrite: also replace files that an earlier run did not make; never the inputs.
        stages: clock to use, for watching the progress.

    Returns:
        The record: what was written to the .json file, and the files.

    Raises:
        ValueError: an unknown system or option, an unusable value, or a file that cannot be read or written
            (MediaError). Nothing is left under the name `out` then.
    """
    stages = stages or Stages()
    target = ensure_writable(out, *filter(None, ENDINGS))
    motion_file = target.with_suffix(".safetensors")
    outputs = [target, target.with_suffix(".json"), motion_file]
    names = [name.strip() for name in (identity or "").split(",") if name.strip()]
    inputs = [name for name in names if not name.isdecimal()]
    claim(outputs, [*inputs, *(files or {}).values()], overwrite)
    if chunk < 1:
        raise ValueError(f"A chunk is 1 frame or more, not {chunk}.")
    if isinstance(system, str):
        with stages("load"):
            system = systems.load(system, **(files or {}))
    known = sample_options(system)
    if unknown := sorted((options or {}).keys() - known.keys()):
        raise ValueError(f"{system.name} has no option {unknown[0]}; it has {', '.join(sorted(known)) or 'none'}.")
    settings = {name: (options or {}).get(name, parameter.default) for name, parameter in known.items()}
    chosen = {verb: {name: settings[name] for name in systems.options_of(system, verb)} for verb in VERBS}
    assert isinstance(system, Samples)  # sample_options has seen to it
    facts = {
        "system": system.name,
        "settings": {"chunk": chunk, **settings},
        "seeds": {"motion": seed},
        "people": identity or "the person of the training clip",
        "inputs": {name: {"file": name, "sha256": sha256(name)} for name in inputs},
        "weights": {Path(path).name: sha256(path) for path in system.weight_files},
    }
    with Unfinished(target, {"frames": frames, **facts}) as unfinished:
        return _sample(system, unfinished, facts, frames, names, chosen, files or {}, stages)


def _sample(
    system: Samples,
    unfinished: Unfinished,
    facts: dict[str, Any],
    frames: int,
    names: list[str],
    chosen: dict[str, dict[str, Any]],
    files: dict[str, str],
    stages: Stages,
) -> dict[str, Any]:
    target, settings, seed = unfinished.target, facts["settings"], facts["seeds"]["motion"]
    motion_file = target.with_suffix(".safetensors")
    made: list[tuple[Identity, Motion]] = []

    def sampled(index: int) -> Any:
        if not made:
            made.append(system.sample(seed, frames, **chosen["sample"]))
        return made[0][index]

    with stages("sample"):
        motion = unfinished.keep("motion", Motion, lambda: sampled(1))
        people = [] if names else [unfinished.keep("identity", Identity, lambda: sampled(0))]
    for index, name in enumerate(names):
        with stages("identify"):
            identify = partial(system.identify, read_source(name), **chosen["identify"])
            people.append(unfinished.keep(f"identity-{index}", Identity, identify))
    with VideoWriter(target, motion.rate, unfinished=unfinished) as writer:
        resumed = writer.num_frames
        shown = [
            render(system, each, motion, chunk=settings["chunk"], **chosen["apply"]).start_at(resumed)
            for each in people
        ]
        for pictures in stages.through("render", zip(*shown, strict=True), len(motion) - resumed):
            with stages("encode"):
                writer.write(pictures[0] if len(pictures) == 1 else side_by_side(pictures))
        with stages("encode"):
            writer.finish()
    motion.save(motion_file)
    flags: dict[str, Any] = {"seed": seed, "frames": frames, "out": str(target), **files, **settings}
    if names:
        flags["identity"] = ",".join(names)
    record = {
        "command": command_line("sample", system.name, flags),
        **facts,
        "frames": {"written": writer.num_frames},
        "frames of an earlier run": resumed,
        "size": [writer.width, writer.height],
        "rate": motion.rate,
        "seconds": {name: round(spent, 3) for name, spent in stages.seconds.items()},
        "frames_per_second": {
            "render": round(stages.frames_per_second(writer.num_frames - resumed, "render"), 2),
            "file": round(stages.frames_per_second(writer.num_frames - resumed), 2),
        },
        "run": unfinished.key,
        "files": [target, target.with_suffix(".json"), motion_file],
    }
    write_record(target, record)
    return record
