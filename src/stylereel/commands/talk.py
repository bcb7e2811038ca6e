"""The commands `stylereel encode` and `stylereel decode`: a clip to a talk file, and back."""

from __future__ import annotations

import itertools
import tempfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, Unpack

from stylereel import codec, systems
from stylereel.codec.sound import save_wav
from stylereel.commands.likeness import Likeness, check_likeness, resembling
from stylereel.commands.rendering import Counted, RenderKeywords, RenderOptions, Sound, part_facts, part_of, write_clip
from stylereel.core.files import MediaError, ensure_writable, require_file
from stylereel.core.latents import Identity, Motion
from stylereel.core.record import Stages, sha256, write_record
from stylereel.core.runs import claim
from stylereel.core.system import Clip, Device, Drives, System
from stylereel.media.video import VideoReader
from stylereel.media.writer import ENDINGS
from stylereel.systems.sources import read_source

VERBS = ("identify", "extract")
SPANS = {"10 s": 10, "10 min": 600}


def encode(
    clip: str | Path,
    /,
    *,
    out: str | Path,
    source: str | None = None,
    start: str | None = None,
    duration: str | None = None,
    rate: float = 1.0,
    sound_rate: float = 8.0,
    tune: int = 0,
    likeness: Likeness = "drawn",
    system: str = "stylemask",
    option: tuple[str, ...] = (),
    family: str = "builtin",
    device: Device = "auto",
    overwrite: bool = False,
    stages: Stages | None = None,
) -> dict[str, Any]:
    """Write the face in a clip as a talk file: motion, person, crops and sound in about a kilobit a second.

    Args:
        clip: the clip to compress.
        out: the file to write (.talk); its record is written next to it as .json.
        source: the person to show, as for `drive`: a seed, or a file with an image, codes or an identity; the face of
            the clip if not given, of its first frame with a face or the one that the system chooses.
        start: where the part of the clip begins that is compressed: seconds (12.5) or h:m:s (1:02:03.5).
        duration: how long that part is, in the same form; to the end if not given.
        rate: kbit/s of motion, index and checksums.
        sound_rate: kbit/s of the sound; 0 leaves it out.
        tune: passes of tuning the generator to four frames of the clip, which the file carries in some hundred
            kilobytes (expressive only); 30 are enough, 0 leaves it as it is.
        likeness: drawn shows a photographed person as they are drawn, in a few kilobytes; photo tunes the generator to
            the photograph, or to the frame that says who it is, as `drive` does, and the file carries the tuning.
        system: the system that measures the motion and renders it.
        option: one of the system's own options as NAME=VALUE, such as refine=20; `drive SYSTEM --help` has them; may be
            given several times.
        family: whose weights: builtin, ffhq, or a TOML file that names them.
        device: where the networks run; auto takes a GPU if there is one.
        overwrite: also replace files that stylereel did not write; inputs are never replaced.
        stages: clock to use, for watching the progress.

    Returns:
        The record: bytes by what they are for, kbit/s, and the files.

    Raises:
        ValueError: no face, a rate that cannot be kept, a system that cannot tune, or a file that cannot be read or
            written (MediaError).
    """
    stages = stages or Stages()
    target = ensure_writable(out, ".talk")
    log = target.with_name(f"{target.name}.json")  # NAME.json is that of a clip NAME.mp4 which is made of it
    claim([target, log], [clip, source], overwrite)
    if not rate > 0 or sound_rate < 0:
        raise ValueError("--rate takes more than 0 kbit/s, --sound-rate 0 or more.")
    if tune < 0 or (tune and source is not None):
        raise ValueError("--tune takes 0 passes or more, for the clip's own face; leave out --source or --tune.")
    check_likeness(likeness)
    if tune and likeness != "drawn":
        raise ValueError("--tune and --likeness photo both tune the generator; give one of them.")
    reader = part_of(VideoReader(clip), RenderOptions(start=start, duration=duration))
    with stages("load"):
        loaded = systems.load(system, family=family, device=device)
    tuning: Callable[[Identity, Clip, Motion, int], Identity] | None = getattr(loaded, "tune", None)
    if tune and tuning is None:
        raise ValueError(f"{system} does not tune its generator; choose the system expressive, or leave out --tune.")
    if not isinstance(loaded, Drives):
        raise ValueError(f"{system} does not measure motion in clips, so it cannot encode; choose another.")
    chosen = systems.choose(loaded, VERBS, _options(loaded, option)).verbs
    with stages("extract"):
        motion = loaded.extract(Counted(reader, stages), **chosen["extract"])
    with stages("identify"):
        if source is not None:
            who = read_source(source)
        else:
            who = next(itertools.islice(iter(reader), _frame_of(loaded, reader, motion), None))
        identity = loaded.identify(who, **chosen["identify"])
    identity = resembling(loaded, identity, who, likeness, stages)
    if tune and tuning is not None:
        with stages("tune"):
            identity = tuning(identity, reader, motion, tune)
    with stages("encode"):
        sizes = codec.write(
            target,
            motion,
            identity,
            loaded.name,
            _generator(loaded),
            rate=rate,
            sound=reader.path if reader.has_audio and sound_rate else None,
            sound_rate=sound_rate,
            sound_start=float(reader.start),
        )
    seconds = len(motion) / float(motion.rate)
    stream = sizes.kilobits(seconds, "motion", "index", "checks")
    flowing = sizes.kilobits(seconds, "motion", "index", "checks", "placement", "sound")
    record = {
        "settings": {
            "system": system,
            "source": source,
            "start": start,
            "duration": duration,
            "rate": rate,
            "sound_rate": sound_rate,
            "tune": tune,
            "likeness": likeness,
            "option": list(option),
        },
        "inputs": {"clip": {"file": Path(clip), "sha256": sha256(clip)}},
        "weights": {Path(path).name: sha256(path) for path in loaded.weight_files},
        "frames": {"written": len(motion), "without a face": motion.missing},
        "rate": motion.rate,
        "bytes": vars(sizes),
        "kbit/s": {
            "motion, index and checks": round(stream, 3),
            "crops": round(sizes.kilobits(seconds, "placement"), 3),
            "sound": round(sizes.kilobits(seconds, "sound"), 3),
            "all of this file": round(sizes.kilobits(seconds), 3),
        },
        "bytes at this rate": {
            name: round(sizes.header + sizes.identity + 125 * flowing * span) for name, span in SPANS.items()
        },
        **stages.facts(),
        "files": [target, log],
    }
    write_record(log, record)
    return record


def _options(system: System, given: Sequence[str]) -> dict[str, Any]:
    """Values of a system's own options, each NAME=VALUE. Raises ValueError for one that it does not have or take."""
    known, values = systems.verb_flags(system, VERBS), dict[str, Any]()
    for text in given:
        name, equals, value = text.partition("=")
        parameter = known[name.strip()][0] if name.strip() in known else None
        if not equals or parameter is None or not isinstance(parameter.default, str | int | float):
            able = sorted(name for name, (one, _) in known.items() if isinstance(one.default, str | int | float))
            raise ValueError(f"--option takes NAME=VALUE of {', '.join(able) or 'none'}, not {text}.")
        try:
            values[parameter.name] = type(parameter.default)(value.strip())
        except ValueError:
            raise ValueError(f"--option {parameter.name}= takes a number, not {value.strip()}.") from None
    return values


def _frame_of(system: System, clip: Clip, motion: Motion) -> int:
    """The frame that says who it is: the one that the system chooses, else the first with a face."""
    first = next((frame for frame in range(len(motion)) if frame not in motion.missing), 0)
    choose: Callable[[Clip, Motion], int] | None = getattr(system, "choose_frame", None)
    return first if choose is None else choose(clip, motion)


def _generator(system: System) -> str:
    """SHA-256 of the weights of a system's generator, which is the first of its files."""
    return sha256(system.weight_files[0]) if system.weight_files else ""


def decode(
    file: str | Path,
    /,
    *,
    out: str | Path,
    source: str | None = None,
    likeness: Likeness = "auto",
    stages: Stages | None = None,
    **rendering: Unpack[RenderKeywords],
) -> dict[str, Any]:
    """Render a talk file to a clip, with its sound.

    Args:
        file: the talk file.
        out: the clip to write, .mp4, .webm, .mkv or .gif; its record is written next to it as .json.
        source: the person to show instead of the file's own; as for `encode`.
        likeness: how a photograph given as source is shown, as for `drive`.
        stages: clock to use, for watching the progress.
        rendering: what all commands that render take, see `RenderOptions`.

    Returns:
        The record; `lost` lists first frame and count of each damaged part, which was filled in.

    Raises:
        ValueError: the file was made with other weights, has no person, or cannot be read or written (MediaError).
    """
    stages, options = stages or Stages(), RenderOptions(**rendering)
    target = ensure_writable(out, *filter(None, ENDINGS))
    inputs = {"file": str(file)} | options.files()
    check_likeness(likeness)
    claim([target, target.with_suffix(".json")], [*inputs.values(), source], options.overwrite)
    with stages("read"):
        found = codec.read(require_file(file))
        first, count = options.part(len(found.motion), found.motion.rate, str(file))
        motion = found.motion.part(first, first + count)
    options.require_inputs()
    with stages("load"):
        loaded = systems.load(found.header.system, family=options.family, device=options.device)
        own = _generator(loaded)
    if found.header.generator and found.header.generator.hex() != own:
        raise ValueError(
            f"{file} was made with another generator ({found.header.generator.hex()[:12]}...) than this one's "
            f"({own[:12]}...); decode it with the version that has it."
        )
    settings = options.settings(loaded)
    with stages("identify"):
        if source is not None:
            who = read_source(source)
        elif isinstance(found.identity, Identity):
            who = found.identity
        else:
            name = f", {found.identity.name} here" if isinstance(found.identity, codec.Reference) else ""
            raise MediaError(f"{file} holds no person; give one with --source{name}.")
        identity = loaded.identify(who)
    identity = resembling(loaded, identity, who, likeness, stages)
    with tempfile.TemporaryDirectory() as folder:
        sound = options.audio
        if sound is None and found.sound is not None and target.suffix.lower() != ".gif":
            sound = Path(folder) / "sound.wav"
            save_wav(sound, found.sound)
        heard = Sound(sound, first / motion.rate)
        made = write_clip(loaded, [identity], motion, options, {}, heard, target, None, stages)
    del made["notes"], made["frames of an earlier run"]
    record = {
        "settings": {"source": source, "likeness": likeness, **settings},
        "inputs": {name: {"file": Path(path), "sha256": sha256(path)} for name, path in inputs.items()},
        "system": loaded.name,
        **made,
        "frames": {**made["frames"], "without a face": motion.missing},
        "part": part_facts(first, motion),
        "lost": found.lost,
        "files": [target, target.with_suffix(".json")],
    }
    write_record(target, record)
    return record


def lines(record: Mapping[str, Any]) -> Iterator[str]:
    """What the terminal shows of a record of either command."""
    if "bytes" in record:
        yield "bytes: " + ", ".join(f"{name} {count}" for name, count in record["bytes"].items() if count)
        yield "kbit/s: " + ", ".join(f"{name} {rate:g}" for name, rate in record["kbit/s"].items())
        yield "so: " + ", ".join(f"{name} in {count} bytes" for name, count in record["bytes at this rate"].items())
    else:
        frames, (width, height) = record["frames"], record["size"]
        yield f"{frames['written']} frames of {width} x {height}, {'with' if record['sound'] else 'without'} sound"
        for first, count in record["lost"]:
            yield f"frames {first} to {first + count - 1} are damaged and were filled in from their neighbours"
    yield from map(str, record["files"])
