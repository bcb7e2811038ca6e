"""Drive a portrait by a clip: one system's identify, extract and apply, from file to file."""

from __future__ import annotations

import inspect
import shlex
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

import stylereel
from stylereel.faces.paste import paste
from stylereel.faces.placement import cut
from stylereel.media import MediaError, ensure_writable
from stylereel.media.pictures import read_picture
from stylereel.media.sheet import side_by_side
from stylereel.media.video import VideoReader, VideoWriter
from stylereel.media.writer import ENDINGS
from stylereel.metrics.motion import crop_jitter
from stylereel.record import Stages, sha256, write_record

VERBS = ("identify", "extract", "apply")
LOOP = ("render", "decode", "paste", "encode")  # the stages that run frame by frame


def verb_options(system: Any) -> dict[str, inspect.Parameter]:
    """The run-time options of a system: its driving verbs' keyword-only arguments, each name once.

    Raises:
        ValueError: the system lacks one of the verbs, so no clip can drive it.
    """
    options: dict[str, inspect.Parameter] = {}
    for verb in VERBS:
        if not callable(getattr(system, verb, None)):
            raise ValueError(f"{system.name} does not offer {verb}, so no clip can drive it; choose another system.")
        for name, parameter in _keywords(system, verb).items():
            shared = options.setdefault(name, parameter)
            assert shared.default == parameter.default, f"{system.name}: two defaults for {name}"
    return options


def _keywords(system: Any, verb: str) -> dict[str, inspect.Parameter]:
    parameters = inspect.signature(getattr(system, verb), eval_str=True).parameters
    return {name: p for name, p in parameters.items() if p.kind is inspect.Parameter.KEYWORD_ONLY}


def drive(
    system: Any,
    source: str,
    driving: str,
    out: str,
    compare: bool = False,
    paste_back: bool = False,
    chunk: int = 8,
    options: dict[str, Any] | None = None,
    stages: Stages | None = None,
) -> dict[str, Any]:
    """Move a portrait as the face in a clip moves, with the clip's rate, length and sound.

    Args:
        system: name of a system, or a loaded one.
        source: who; a whole number is the seed of an invented person, else a picture's file name.
        driving: the clip that gives the motion.
        out: the file to write, .mp4, .webm, .mkv (lossless) or .gif; its record is written beside it as .json.
        compare: show source, driving face and result side by side.
        paste_back: put the result back into the source picture, from which the face was cut.
        chunk: frames rendered at a time; more is faster and takes more memory, the frames stay the same.
        options: values for the system's own options (see `verb_options`); the others keep their defaults.
        stages: clock to use, for watching the progress.

    Returns:
        The record: what was written to the .json file, and the files.

    Raises:
        ValueError: an unknown system or option, an unusable value, or a file that cannot be read or written
            (MediaError). Nothing is left under the name `out` then.
    """
    stages = stages or Stages()
    target = ensure_writable(out, *filter(None, ENDINGS))
    record_path = ensure_writable(target.with_suffix(".json"))
    seed = int(source) if str(source).isdecimal() else None
    inputs = {"driving": Path(driving)}
    if seed is None:
        inputs["source"] = Path(source)
    elif paste_back:
        raise ValueError("A seed has no picture to paste the result into; give a picture as the source.")
    for name, path in inputs.items():
        if path.exists() and path.resolve() in (target.resolve(), record_path.resolve()):
            raise MediaError(f"{out} would overwrite the {name} file {path}; choose another name.")
    if chunk < 1:
        raise ValueError(f"A chunk is 1 frame or more, not {chunk}.")
    reader = VideoReader(driving)
    picture = read_picture(source) if seed is None else None

    if isinstance(system, str):
        with stages("load"):
            system = stylereel.load(system)
    known = verb_options(system)
    given = dict(options or {})
    if unknown := sorted(given.keys() - known.keys()):
        names = ", ".join(sorted(known)) or "none"
        raise ValueError(f"{system.name} has no option {unknown[0]}; it has {names}.")
    settings = {name: given.get(name, parameter.default) for name, parameter in known.items()}
    chosen = {verb: {name: settings[name] for name in _keywords(system, verb)} for verb in VERBS}

    with stages("identify"):
        identity = system.identify(picture if seed is None else seed, **chosen["identify"])
    with stages("extract"):
        motion = system.extract(reader.path, **chosen["extract"])
    frames: Iterable[np.ndarray] = stylereel.render(system, identity, motion, chunk=chunk, **chosen["apply"])
    frames = stages.through("render", frames)
    seams: list[float] = []
    if paste_back:
        if "placement" not in identity.tensors:
            raise ValueError(f"{system.name} does not say where the face was cut out; leave out --paste-back.")
        assert picture is not None
        frames = _pasted(frames, picture, identity.tensors["placement"].numpy(), seams, stages)
    if settings.get("missing") == "skip-edit" and motion.missing:
        still = picture if paste_back and picture is not None else system.portrait(identity)
        frames = (still if index in motion.missing else frame for index, frame in enumerate(frames))
    if compare:
        if picture is None:
            picture = system.portrait(identity)
        frames = _compared(frames, picture, reader, motion.placement, stages)
    with VideoWriter(target, motion.rate, audio_from=reader.path if reader.has_audio else None) as writer:
        for frame in frames:
            with stages("encode"):
                writer.write(frame)
        with stages("encode"):
            writer.finish()
    num_frames = writer.num_frames
    assert num_frames == len(motion.values), f"{len(motion.values)} frames in, {num_frames} out"

    files = {"source": source, "driving": driving, "out": out}
    settings = {"compare": compare, "paste_back": paste_back, "chunk": chunk, **settings}
    record = {
        "command": _command(system.name, files | settings),
        "system": system.name,
        "settings": settings,
        "seeds": {} if seed is None else {"source": seed},
        "inputs": {name: {"file": path, "sha256": sha256(path)} for name, path in inputs.items()},
        "weights": {Path(path).name: sha256(path) for path in getattr(system, "weight_files", ())},
        "frames": {"driving": reader.num_frames, "written": num_frames, "without a face": motion.missing},
        "faces in the clip": motion.num_faces,
        "crop jitter": crop_jitter(motion.placement) if num_frames >= 5 else None,
        "seam": float(np.mean(seams)) if seams else None,
        "size": [writer.width, writer.height],
        "rate": motion.rate,
        "timing": reader.timing,
        "sound": writer.has_audio,
        "seconds": {name: round(seconds, 3) for name, seconds in stages.seconds.items()},
        "frames_per_second": {
            "render": round(stages.frames_per_second(num_frames, "render"), 2),
            "file to file": round(stages.frames_per_second(num_frames), 2),
        },
        "files": [target, record_path],
    }
    write_record(target, record)
    return record


def _pasted(
    frames: Iterable[np.ndarray], picture: np.ndarray, placement: np.ndarray, seams: list[float], stages: Stages
) -> Iterator[np.ndarray]:
    """The picture with each frame pasted at the placement [4]; every paste's seam is added to `seams`."""
    for frame in frames:
        with stages("paste"):
            pasted = paste(picture, frame, placement)
        seams.append(pasted.seam)
        yield pasted.frame


def _compared(
    frames: Iterable[np.ndarray],
    source: np.ndarray,
    reader: VideoReader,
    placement: np.ndarray,
    stages: Stages,
) -> Iterator[np.ndarray]:
    """The frames with the source and the driving face at their left, all of the frames' height."""
    clip = iter(reader)
    left: np.ndarray | None = None
    for index, frame in enumerate(frames):
        size = frame.shape[0]
        if left is None:
            width = round(source.shape[1] * size / source.shape[0])
            left = np.asarray(Image.fromarray(source).resize((width, size), Image.Resampling.LANCZOS))
        with stages("decode"):
            face = cut(next(clip), placement[index], size)
        yield side_by_side([left, face, frame], ["source", "driving", "result"])


def _command(system: str, flags: dict[str, Any]) -> str:
    """The command line that makes the same clip again."""
    words = ["stylereel", "drive", system]
    for name, value in flags.items():
        flag = name.replace("_", "-")
        if isinstance(value, bool):
            words.append(f"--{flag}" if value else f"--no-{flag}")
        else:
            words += [f"--{flag}", "null" if value is None else str(value)]
    return shlex.join(words)
