"""The command `stylereel sample`: one motion from noise, with one person or several side by side."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from functools import partial
from pathlib import Path
from typing import Any

from stylereel import systems
from stylereel.commands.drive import require_sound, result_lines
from stylereel.core.files import ensure_writable
from stylereel.core.latents import Identity, Motion
from stylereel.core.precision import Precision, choose_precision
from stylereel.core.record import Stages, command_line, sha256, write_record
from stylereel.core.render import render
from stylereel.core.runs import Unfinished, claim
from stylereel.core.system import Device, Samples, System, device_of
from stylereel.media.sheet import side_by_side
from stylereel.media.video import VideoWriter
from stylereel.media.writer import ENDINGS
from stylereel.systems import Flags
from stylereel.systems.sources import read_source
from stylereel.zoo.families import open_family

VERBS = ("sample", "identify", "apply")


def sample(
    system: str | System,
    /,
    *,
    seed: int,
    out: str,
    frames: int = 250,
    identity: str | None = None,
    audio: str | None = None,
    family: str = "builtin",
    device: Device = "auto",
    precision: Precision = "auto",
    chunk: int = 8,
    overwrite: bool = False,
    files: Mapping[str, str] | None = None,
    options: Mapping[str, Any] | None = None,
    stages: Stages | None = None,
) -> dict[str, Any]:
    """Generate a video of any length from a random seed, with one person or several side by side.

    The same command resumes a run that was stopped or killed, as with `drive`.

    Args:
        system: name of a system, or a loaded one.
        seed: random seed of the motion.
        out: the file to write, .mp4, .webm, .mkv (lossless) or .gif; its record (.json) and its motion (.safetensors)
            are written next to it.
        frames: number of frames; any number, in constant memory.
        identity: the person shown: a seed, an image, codes or an identity (.safetensors, PTI's tuning included), or
            several of these separated by commas; the person of the training clip if not given.
        audio: file with the sound for the result; no sound if not given.
        family: which set of weights: builtin, ffhq, or a TOML file that lists them.
        device: where the networks run; auto takes a GPU if there is one.
        precision: number format of the generator's features; auto takes bf16 where the hardware supports it, else 32.
        chunk: frames rendered at a time; more is faster and takes more memory; the result is the same.
        overwrite: also replace files that stylereel did not write; inputs are never replaced.
        files: weight files of the system's own file options, which override the family's; for the record too.
        options: values for the system's own options; the others keep their defaults.
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
    claim(outputs, [*inputs, *(files or {}).values(), audio], overwrite)
    if chunk < 1:
        raise ValueError(f"A chunk is 1 frame or more, not {chunk}.")
    if audio is not None:
        require_sound(audio)
    if isinstance(system, str):
        with stages("load"):
            system = systems.load(system, family=family, device=device, **(files or {}))
    own, chosen = systems.choose(system, VERBS, options, open_family(family).detector)
    settings = {"chunk": chunk, "precision": precision, **own}
    settings |= {"audio": audio, "family": family, "device": device_of(system).type}
    settings["precision"] = choose_precision(precision, device_of(system))
    assert isinstance(system, Samples)  # choose has checked it
    facts = {
        "system": system.name,
        "settings": settings,
        "seeds": {"motion": seed},
        "people": identity or "the person of the training clip",
        "inputs": {name: {"file": name, "sha256": sha256(name)} for name in (*inputs, *filter(None, [audio]))},
        "weights": {Path(path).name: sha256(path) for path in system.weight_files},
    }
    with Unfinished(target, {"frames": frames, **facts}) as unfinished:
        return _sample(system, unfinished, facts, frames, names, chosen, dict(files or {}), stages)


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

    def part(index: int) -> Any:
        if not made:
            made.append(system.sample(seed, frames, **chosen["sample"]))
        return made[0][index]

    with stages("sample"):
        motion = unfinished.keep("motion", Motion, lambda: part(1))
        people = [] if names else [unfinished.keep("identity", Identity, lambda: part(0))]
    for index, name in enumerate(names):
        with stages("identify"):
            identify = partial(system.identify, read_source(name), **chosen["identify"])
            people.append(unfinished.keep(f"identity-{index}", Identity, identify))
    with VideoWriter(target, motion.rate, audio_from=settings["audio"], unfinished=unfinished) as writer:
        resumed = writer.num_frames
        shown = [
            render(system, each, motion, settings["chunk"], settings["precision"], **chosen["apply"]).start_at(resumed)
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
