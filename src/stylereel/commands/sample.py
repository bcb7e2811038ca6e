"""Sample a clip: one motion from noise, shown by one person or by several side by side, from seeds to file."""

from __future__ import annotations

import inspect
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from stylereel import systems
from stylereel.core.files import ensure_writable
from stylereel.core.record import Stages, command_line, sha256, write_record
from stylereel.core.render import render
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
    stages: Stages | None = None,
) -> dict[str, Any]:
    """Sample a motion and show it, by people side by side if there are several.

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
    with stages("sample"):
        person, motion = system.sample(seed, frames, **chosen["sample"])
    people, inputs = [person], {}
    if identity is not None:
        with stages("identify"):
            names = [name.strip() for name in identity.split(",")]
            people = [system.identify(read_source(name), **chosen["identify"]) for name in names]
            inputs = {name: {"file": name, "sha256": sha256(name)} for name in names if not name.isdecimal()}
    shown: list[Iterator[np.ndarray]] = [
        iter(render(system, each, motion, chunk=chunk, **chosen["apply"])) for each in people
    ]
    with VideoWriter(target, motion.rate) as writer:
        for pictures in stages.through("render", _Together(shown, len(motion))):
            with stages("encode"):
                writer.write(pictures[0] if len(pictures) == 1 else side_by_side(pictures))
        with stages("encode"):
            writer.finish()
    motion.save(motion_file)
    flags = {
        "seed": seed,
        "frames": frames,
        **({"identity": identity} if identity else {}),
        "out": out,
        **(files or {}),
    }
    record = {
        "command": command_line("sample", system.name, flags | {"chunk": chunk} | settings),
        "system": system.name,
        "settings": {"chunk": chunk, **settings},
        "seeds": {"motion": seed},
        "people": identity or "the person of the training clip",
        "inputs": inputs,
        "weights": {Path(path).name: sha256(path) for path in system.weight_files},
        "frames": {"written": writer.num_frames},
        "size": [writer.width, writer.height],
        "rate": motion.rate,
        "seconds": {name: round(spent, 3) for name, spent in stages.seconds.items()},
        "frames_per_second": {
            "render": round(stages.frames_per_second(writer.num_frames, "render"), 2),
            "file": round(stages.frames_per_second(writer.num_frames), 2),
        },
        "files": [target, target.with_suffix(".json"), motion_file],
    }
    write_record(target, record)
    return record


class _Together:
    """The next frame of every person at once; sized, for the progress."""

    def __init__(self, parts: Sequence[Iterator[np.ndarray]], length: int) -> None:
        self._parts, self._length = parts, length

    def __len__(self) -> int:
        return self._length

    def __iter__(self) -> Iterator[list[np.ndarray]]:
        for pictures in zip(*self._parts, strict=True):
            yield list(pictures)
