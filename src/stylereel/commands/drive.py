"""Drive a portrait by a clip: one system's identify, extract and apply, from file to file."""

from __future__ import annotations

import itertools
import json
import os
import tempfile
import warnings
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import replace
from fractions import Fraction
from functools import partial
from pathlib import Path
from typing import Any, Literal, NamedTuple, TypeVar, Unpack, get_args

import numpy as np
from PIL import Image

from stylereel import codec, systems
from stylereel.codec.sound import save_wav
from stylereel.commands import lips as by_sound
from stylereel.commands.likeness import Likeness, check_likeness, resembling
from stylereel.commands.rendering import (
    Counted,
    RenderKeywords,
    RenderOptions,
    Sound,
    part_facts,
    part_of,
    result_lines,
    scaled,
    write_clip,
)
from stylereel.core.files import ensure_writable, listed
from stylereel.core.latents import FACE, Codes, Identity, Motion
from stylereel.core.record import Stages, command_line, sha256, write_record
from stylereel.core.render import portrait, render, tuned
from stylereel.core.runs import Unfinished, claim
from stylereel.core.system import Drives, Source, System
from stylereel.core.weights import own_kind
from stylereel.edit.curves import Changes
from stylereel.faces.backend import is_picture
from stylereel.faces.paste import Head, paste
from stylereel.faces.placement import cut
from stylereel.media.pictures import FORMATS, save_picture
from stylereel.media.sheet import BACKGROUND, GAP, LABEL_HEIGHT, contact_sheet, side_by_side
from stylereel.media.video import VideoReader
from stylereel.media.writer import ENDINGS
from stylereel.metrics.motion import crop_jitter
from stylereel.systems import Flags
from stylereel.systems.sources import SAVED, own_motion, read_source
from stylereel.world.factors import MOTION
from stylereel.zoo.families import open_family

Made = TypeVar("Made")
PasteBack = Literal["no", "source", "driving"]
VERBS = ("identify", "extract", "apply")
SCREEN = (1920, 1080)  # pixels that a comparison and the grid of all pairs are made to fit
LEAST = 64  # pixels of a cell of the grid, however many there are
_PHOTO = 256  # pixels of the aligned photo, at least
TALK = ".talk"
CLIPS = (".mp4", ".mov", ".mkv", ".webm", ".avi", ".m4v", ".gif")


class _Who(NamedTuple):
    """A source: its file (None for a seed), what `identify` takes, and who that is."""

    path: Path | None
    given: Source
    identity: Identity

    @property
    def picture(self) -> np.ndarray | None:
        return self.given if isinstance(self.given, np.ndarray) else None


class _What(NamedTuple):
    """The part of a driver that is used: its file (None if sound or curves alone drive), its frames if it is a clip or
    image, its motion, and where it is."""

    path: Path | None
    reader: VideoReader | None
    motion: Motion
    whole: int  # frames of a file without a reader
    first: int  # and where in it the part begins
    sound: np.ndarray | None = None  # that of a talk file, float32 [N] at 48 kHz
    lips: dict[str, Any] | None = None  # what the record says of lips that follow a sound

    @property
    def start(self) -> Fraction:
        """Seconds of the file before the part."""
        return self.first / self.motion.rate if self.reader is None else self.reader.start


class _Run(NamedTuple):
    """What all pairs of a run share: the system, the user's weight files, all settings, and those of `apply`."""

    system: System
    files: dict[str, str]
    settings: dict[str, Any]
    rendering: RenderOptions
    options: dict[str, Any]
    changes: Changes
    alone: bool  # whether nothing else moves the portrait
    hashes: dict[Path, str]  # of the inputs so far

    def facts(self, **inputs: str) -> dict[str, Any]:
        """What decides the result, with the inputs `source` and `driving`, for `Unfinished` and the record."""
        if self.alone:
            del inputs["driving"]
        paths = {name: Path(one) for name, one in inputs.items() if not (name == "source" and one.isdecimal())}
        paths |= {name: Path(one) for name, one in self.settings.items() if _is_file_option(name, one)}
        paths |= {name: Path(one) for name, one in self.rendering.files().items()}
        for path in {*paths.values(), *map(Path, self.system.weight_files)} - self.hashes.keys():
            try:
                self.hashes[path] = sha256(path)
            except OSError:  # the pairs with it fail, with a sentence
                self.hashes[path] = ""
        return {
            "system": self.system.name,
            "settings": self.settings,
            "seeds": {name: int(one) for name, one in inputs.items() if name not in paths},
            "inputs": {name: {"file": path, "sha256": self.hashes[path]} for name, path in paths.items()},
            "weights": {Path(path).name: self.hashes[Path(path)] for path in self.system.weight_files},
            **({"edits": edits} if (edits := self.changes.fingerprints()) else {}),
        }


def _is_file_option(name: str, value: Any) -> bool:
    return isinstance(value, str) and (name == "curves" or name in ("face", "source_face") and is_picture(value))


def drive(
    system: str | System,
    /,
    *,
    source: str,
    driving: str | None = None,
    out: str,
    curves: str | None = None,
    slider: tuple[str, ...] = (),
    edit: tuple[str, ...] = (),
    lips: by_sound.Lips = "auto",
    movement: int = 0,
    compare: bool = False,
    paste_back: PasteBack = "no",
    likeness: Likeness = "auto",
    files: Mapping[str, str] | None = None,
    options: Mapping[str, Any] | None = None,
    stages: Stages | None = None,
    **rendering: Unpack[RenderKeywords],
) -> dict[str, Any]:
    """Animate a portrait by the face in a clip, by a sound, or by both.

    A clip gives the result its frame rate, length and sound. With `--audio` the lips follow that sound, and the result
    is as long as it.

    Curves and sliders change the motion by hand or, without a clip, are all of it; edits change who is shown meanwhile.

    The same command resumes a run that was stopped or killed; at most 120 frames are rendered again, and the
    file has the same bytes.

    Args:
        system: name of a system, or a loaded one.
        source: the person to animate: the seed of an invented person (a whole number), a file with an image, codes or
            an identity, or a folder of these.
        driving: where the motion comes from: a clip, image, codes, saved motion or talk file, or a folder of clips (a
            folder of images only is one clip). Not needed where a sound moves the lips, and the head moves, looks and
            blinks by itself, or where curves or sliders move the portrait.
        out: the file to write, .mp4, .webm, .mkv (lossless) or .gif; its record is written next to it as .json. With a
            folder of sources or clips, a folder: one clip for each pair, index.json and grid.png.
        curves: file of motion factors over time, see docs/driving.md: lines such as yaw = 0:-20, 2:20
            (seconds:value), or .csv; the first key is at 0 seconds of the part that is used.
        slider: the same on the command line, NAME=VALUE or NAME=SECONDS:VALUE,...: yaw=20, smile=+0.3 (on top of the
            driving), jaw=0:0,1:0.6; may be given several times.
        edit: attribute to change, DIRECTION=STRENGTH or DIRECTION=SECONDS:STRENGTH,...: age=1.5, beard=0:0,3:2, or
            FILE[:COMPONENT][@FIRST_ROW-LAST_ROW]=STRENGTH; may be given several times.
        lips: what the lips follow: sound (that of --audio, else of the driving clip), driving (the clip's face), or
            auto: the sound if --audio is given and the system can.
        movement: random seed of the head's own movement where a sound alone drives it.
        compare: show the aligned photo (of an image as the source), the drawn person at rest, the driving face and the
            result side by side.
        paste_back: paste the head into a picture: source (also --paste-back alone), the source image, whose head keeps
            its own direction; or driving, the driving clip.
        likeness: how a photograph is shown: photo (the generator is tuned to it, which takes a minute or two, once),
            drawn (the person as the generator draws what was read, at once), or auto: photo, where the system can.
        files: weight files of the system's own file options, which override the family's; for the record too.
        options: values for the system's own options; the others keep their defaults.
        stages: clock to use, for watching the progress.
        rendering: what all commands that render take, see `RenderOptions`.

    Returns:
        The record: what was written to the .json file, and the files. With folders: the content of the index, with
        the records as `results`.

    Raises:
        ValueError: an unknown system or option, an unusable value, or a file that cannot be read or written
            (MediaError). Nothing is left under the name `out` then. With folders a pair that fails is listed in the
            index, and it is an error only if all fail.
    """
    stages, shared = stages or Stages(), RenderOptions(**rendering)
    if paste_back not in get_args(PasteBack):
        raise ValueError(f"--paste-back takes one of {', '.join(get_args(PasteBack))}, not {paste_back}.")
    check_likeness(likeness)
    changes = Changes.read(curves, slider, edit)
    alone = driving is None  # nothing but a sound or the changes moves the portrait
    if alone and not changes and shared.audio is None:
        raise ValueError(
            "Say what moves the portrait: --driving a clip, --audio a sound, --curves a file, or --slider NAME=VALUE."
        )
    sources, drivers = _members(source, (*FORMATS, SAVED)), driving and _members(driving, (*CLIPS, SAVED, TALK))
    driving = driving or str(shared.audio or curves or "curves")
    several = sources is not None or drivers is not None
    if several:
        pairs = itertools.product(sources or [source], drivers or [driving])
        targets = [_target(Path(out), *pair) for pair in pairs]
        index = [Path(out) / "index.json", Path(out) / "grid.png"]
    else:
        targets, index = [ensure_writable(out, *filter(None, ENDINGS))], []
        _refuse_pasting_without_picture(source, paste_back)
    moved_by = [] if alone else drivers or [driving]
    if paste_back == "driving" and all(Path(each).suffix in (SAVED, TALK) for each in moved_by):
        raise ValueError("Only a clip has frames to paste into; give one as --driving, or --paste-back source.")
    inputs = [*(sources or [source]), *moved_by, *(files or {}).values(), *shared.files().values()]
    inputs += [curves] if curves else []
    inputs += [each for name, each in (options or {}).items() if _is_file_option(name, each)]
    claim([*index, *targets, *(each.with_suffix(".json") for each in targets)], inputs, shared.overwrite)
    # A clip that cannot be opened is reported before anything is loaded; of several, the others are made.
    with _sound_tells_length(lips != "driving" and (lips == "sound" or shared.audio is not None)):
        opened = [_or_error(lambda: _clip(one, shared)) for one in moved_by] or [None]  # noqa: B023 (called at once)
    if all(isinstance(one, ValueError) for one in opened):
        _value(opened[0])
    given = read_source(source) if sources is None else None

    shared.require_inputs()
    if paste_back != "no" and shared.background is not None:
        raise ValueError("--background and --paste-back both say what is behind the face; give one of them.")
    if isinstance(system, str):
        with stages("load"):
            system = systems.load(system, family=shared.family, device=shared.device, **(files or {}))
    own, chosen = systems.choose(system, VERBS, options, open_family(shared.family).detector)
    heard = by_sound.follow_sound(lips, system, shared, alone)
    settings: dict[str, Any] = {"curves": curves, "slider": list(slider), "edit": list(edit), "compare": compare}
    settings |= {"lips": "sound" if heard else "driving", "movement": movement}
    settings |= {"paste_back": paste_back, "likeness": likeness, **own, **shared.settings(system)}
    run = _Run(system, dict(files or {}), settings, shared, chosen["apply"], changes, alone, {})

    def who(name: str, kept: Unfinished, kept_as: str) -> _Who:
        taken = read_source(name) if given is None else given

        def identify() -> Identity:
            found = system.identify(taken, **chosen["identify"])
            return resembling(system, found, taken, likeness, stages)

        with stages("identify"):
            identity = kept.keep(kept_as, Identity, identify)
        identity = changes.taught(identity)
        return _Who(None if isinstance(taken, int) else Path(name), taken, identity)

    def what(name: str, reader: VideoReader | None, kept: Unfinished, kept_as: str) -> _What:
        if alone and not heard:
            motion = changes.at_rest(shared.alone, shared.rate)
            return _What(None, None, motion, len(motion), 0)
        found = None if alone else moved(name, reader, kept, kept_as)
        if not heard:
            assert found is not None
            return found
        with stages("listen"):
            if found is None:
                lipped = by_sound.alive_by(name, shared, movement)
                motion, facts = by_sound.by_own_network(system, name, shared.begin, lipped)
                return _What(None, None, motion, len(motion), 0, lips=facts)
            own_sound = name if found.sound is None else found.sound
            keeps = reader is not None and (compare or paste_back == "driving")
            motion = by_sound.as_face(found.motion, system)
            taken = shared.audio or own_sound
            lipped = by_sound.lipped(taken, motion, shared, found.start, keeps)
            motion, facts = by_sound.by_own_network(system, taken, found.start, lipped)
        return found._replace(motion=motion, lips=facts)

    def moved(name: str, reader: VideoReader | None, kept: Unfinished, kept_as: str) -> _What:
        with stages("extract"):
            talk = codec.read(name) if Path(name).suffix == TALK else None
            if talk is not None or (reader is None and own_kind(name) == "motion"):
                saved = Motion.load(name) if talk is None else talk.motion
                with _sound_tells_length(heard):
                    first, count = shared.part(len(saved), saved.rate, name)
                part = saved.part(first, first + count)
                return _What(Path(name), None, part, len(saved), first, talk and talk.sound)
            taken, whole, first = reader and Counted(reader, stages), 0, 0
            if taken is None:
                taken = Codes.load(name)
                whole, (first, count) = len(taken), shared.part(len(taken), taken.rate, name)
                taken = taken.part(first, first + count)
            assert isinstance(system, Drives)  # choose has checked it
            motion = kept.keep(kept_as, Motion, partial(system.extract, taken, **chosen["extract"]))
            return _What(Path(name), reader, motion, whole, first)

    if several:
        return _each_pair(
            run, sources or [source], list(zip(drivers or [driving], opened)), who, what, Path(out), stages
        )
    facts = run.facts(source=source, driving=driving)
    with Unfinished(targets[0], facts) as unfinished:
        person = who(source, unfinished, "identity")
        return _write(run, person, what(driving, _value(opened[0]), unfinished, "motion"), facts, unfinished, stages)


def flags(system: str) -> dict[str, Flags]:
    """A system's own flags."""
    return systems.system_flags(system, VERBS)


def subjects() -> str:
    """The systems, for the help."""
    return systems.describe(VERBS)


def lines(record: Mapping[str, Any]) -> Iterator[str]:
    """What the terminal shows of a record."""
    if "results" in record:
        for line in record["results"]:
            yield f"{line['source']} by {line['driving']}: {line.get('out') or line['error']}"
        yield from result_lines(record)
        return
    frames, (width, height) = record["frames"], record["size"]
    sound = "with sound" if record["sound"] else "without sound"
    yield f"{frames['written']} frames of {width} x {height} at {record['rate']} frames a second, {sound}"
    if record["colours"] != "BT.709":
        yield f"the clip's colours: {record['colours']}"
    if doubtful := frames["doubtful"]:
        yield f"eyes, mouth or head were uncertain, and held, in {len(doubtful)} of {frames['driving']} frames"
    if record["lips"]["from"] == "sound":
        yield from by_sound.lines(record["lips"])
    if turned := record["face turned by degrees"]:
        yield f"the face is turned by {turned} degrees in the clip; it drives as if it were upright"
    if lost := frames["without a face"]:
        yield f"no face was found in {len(lost)} frames: {', '.join(map(str, lost))}"
    if (count := record["faces in the clip"]) > 1:
        yield f"the clip shows up to {count} faces; --face chooses which one drives"
    for name, unit in {"crop jitter": "of the crop's side", "seam": "(CIELAB; about 2 is just seen)"}.items():
        if record[name] is not None:
            yield f"{name}: {record[name]:.2g} {unit}"
    yield from result_lines(record)


@contextmanager
def _sound_tells_length(so: bool) -> Iterator[None]:
    """No warning that a driver is shorter than what was asked for, where the result is as long as a sound."""
    with warnings.catch_warnings():
        if so:
            warnings.filterwarnings("ignore", message=".* frames asked for")
        yield


def _target(out: Path, source: str, driver: str) -> Path:
    return out / f"{Path(source).stem}--{Path(driver).stem}.mp4"


def _members(name: str, endings: Collection[str]) -> list[str] | None:
    """The files with these endings in a folder, in natural order; None for a file, and for a folder without any."""
    if not os.path.isdir(name):
        return None
    found = [file for file in listed(name, endings) if file.is_file()]
    stems = [file.stem for file in found]
    if twice := [stem for stem in stems if stems.count(stem) > 1]:
        raise ValueError(f"{name} has two files called {twice[0]}, whose results would have the same name; rename one.")
    return [str(file) for file in found] or None


def _refuse_pasting_without_picture(source: str, paste_back: PasteBack) -> None:
    if paste_back == "source" and (source.isdecimal() or Path(source).suffix == SAVED):
        what = "A seed has" if source.isdecimal() else "Codes have"
        raise ValueError(f"{what} no image to paste the result into; give an image as the source.")


def _bases(
    into: PasteBack, who: _Who, reader: VideoReader | None, motion: Motion, options: RenderOptions, first: int
) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    """What each frame of the result is pasted into, from `first` on, and where [4]."""
    shown = options.shown(motion)
    if into == "source":
        assert who.picture is not None
        yield from itertools.repeat((who.picture, who.identity.tensors["placement"].numpy()))
    assert reader is not None
    step, have, frame = motion.rate / shown.rate, -1, np.zeros(0)
    frames = iter(reader)
    for index in range(first, len(shown)):
        while have < min(int(index * step), len(motion) - 1):
            frame, have = next(frames), have + 1
        yield frame, shown.placement[index]


def _facing(system: System, identity: Identity, motion: Motion) -> Motion:
    """An absolute motion of factors, turned so that its usual direction is that of the identity's own head."""
    if motion.kind.coordinates != FACE.coordinates or motion.kind.relative:
        return motion
    columns = [motion.names.index(name) for name in ("yaw", "pitch", "roll")]
    values = motion.values.copy()
    values[:, columns] += own_motion(system, identity)[columns] - np.median(values[:, columns], axis=0)
    return replace(motion, values=values)


def _changed(run: _Run, who: _Who, motion: Motion) -> Motion:
    """A motion with what the user changes by hand."""
    if not run.changes:
        return motion
    system, identity = tuned(run.system, who.identity), who.identity
    curves, in_frame = run.changes.curves, getattr(system, "moves_in_frame", False)
    with_factors: Callable[..., Motion] | None = getattr(system, "with_factors", None)
    if curves and with_factors is not None and motion.kind.coordinates != FACE.coordinates:
        seen = by_sound.as_face(motion, system)  # what the numbers show
        return with_factors(motion, seen, run.changes.show_on(seen, np.zeros(len(MOTION)), in_frame))
    own = own_motion(system, identity) if curves and motion.kind.relative else np.zeros(len(MOTION))
    return run.changes.show_on(motion, own, in_frame)


def _write(
    run: _Run, who: _Who, what: _What, facts: dict[str, Any], unfinished: Unfinished, stages: Stages
) -> dict[str, Any]:
    """Render one pair into a clip and its record."""
    system, settings, options = run.system, run.settings, run.rendering
    identity, motion, reader, picture = who.identity, _changed(run, who, what.motion), what.reader, who.picture
    into: PasteBack = settings["paste_back"]
    if into == "source" and (picture is None or "placement" not in identity.tensors):
        raise ValueError(f"{system.name} does not record the face's crop; leave out --paste-back.")
    if into == "driving" and reader is None:
        raise ValueError(f"{what.path} has no frames to paste into; give a clip, or --paste-back source.")
    if into == "source":
        motion = _facing(system, identity, motion)
    own = into == "source" and bool(identity.delta)
    pasted = Head(own).paste if getattr(system, "builtin_family", False) else paste
    resting = set(options.shown(motion).missing) if settings.get("missing") == "skip-edit" else set[int]()

    def finish(moments: Iterator[tuple[int, Sequence[np.ndarray]]]) -> Iterator[tuple[np.ndarray, float | None]]:
        """The frames of the result, and the seam of each if it is pasted."""
        compared = behind = None
        for index, (frame,) in moments:
            seam = None
            if into != "no":
                if behind is None:
                    behind = _bases(into, who, reader, motion, options, index)
                base, row = next(behind)
                with stages("paste"):
                    frame, seam = pasted(base, frame, row)
                frame = base if index in resting else frame
            frame = scaled(frame, options.size)
            if settings["compare"]:
                if compared is None:
                    compared = _Compared(run, who, what, index, stages)
                frame = compared.with_result(frame, index)
            yield frame, seam

    own_sound = reader.path if reader is not None and reader.has_audio else None
    with tempfile.TemporaryDirectory() as folder:
        if what.sound is not None and unfinished.target.suffix.lower() != ".gif":
            own_sound = Path(folder) / "sound.wav"
            save_wav(own_sound, what.sound)
        start = options.begin if what.path is None else what.start
        sound = Sound(own_sound if options.audio is None else options.audio, start)
        made = write_clip(
            system, [identity], motion, options, run.options, sound, unfinished.target, unfinished, stages, finish,
            resting,
        )  # fmt: skip
    files = {"source": facts["inputs"].get("source", {}).get("file", facts["seeds"].get("source"))}
    files |= {"driving": what.path and str(what.path), "out": str(unfinished.target)}
    seams = [seam for seam in made.pop("notes") if seam is not None]
    record = {
        "command": command_line("drive", system.name, files | run.files | settings),
        **facts,
        **made,
        "frames": {
            "driving": len(motion),
            **made["frames"],
            "without a face": motion.missing,
            "doubtful": motion.doubtful,
        },
        "lips": what.lips or {"from": "driving"},
        "part": part_facts(round(start * motion.rate), motion),
        "faces in the clip": motion.num_faces,
        "face turned by degrees": motion.turned,
        "crop jitter": crop_jitter(motion.placement) if len(motion) >= 5 else None,
        "seam": float(np.mean(seams)) if seams else None,
        "timing": "constant" if reader is None else reader.timing,
        "colours": "BT.709" if reader is None else reader.colours,
        "run": unfinished.key,
        "files": [unfinished.target, unfinished.target.with_suffix(".json")],
    }
    write_record(unfinished.target, record)
    return record


def _each_pair(
    run: _Run,
    sources: list[str],
    drivers: list[tuple[str, VideoReader | None | ValueError]],
    who: Callable[[str, Unfinished, str], _Who],
    what: Callable[[str, VideoReader | None, Unfinished, str], _What],
    out: Path,
    stages: Stages,
) -> dict[str, Any]:
    """A clip for every source and driver, each opened once, with index.json and grid.png (their middle frames)."""
    facts = {"pairs": [run.facts(source=source, driving=driver) for driver, _ in drivers for source in sources]}
    with Unfinished(out / "index.json", facts) as unfinished:
        return _each_pair_in(run, sources, drivers, who, what, unfinished, stages)


def _each_pair_in(
    run: _Run,
    sources: list[str],
    drivers: list[tuple[str, VideoReader | None | ValueError]],
    who: Callable[[str, Unfinished, str], _Who],
    what: Callable[[str, VideoReader | None, Unfinished, str], _What],
    unfinished: Unfinished,
    stages: Stages,
) -> dict[str, Any]:
    out = unfinished.target.parent
    people: dict[str, _Who | ValueError] = {}
    results: list[dict[str, Any]] = []
    cells: dict[tuple[int, int], np.ndarray] = {}
    for column, (driver, reader) in enumerate(drivers, 1):
        stages.about = f"clip {column} of {len(drivers)}"
        mover = _or_error(lambda: what(driver, _value(reader), unfinished, f"motion-{column}"))  # noqa: B023 (at once)
        for row, source in enumerate(sources, 1):
            if source not in people:
                people[source] = _or_error(lambda: who(source, unfinished, f"identity-{row}"))  # noqa: B023
            target = _target(out, source, driver)
            line: dict[str, Any] = {"source": source, "driving": driver}
            try:
                person, moving = _value(people[source]), _value(mover)
                number = f"pair {len(results) + 1} of {len(sources) * len(drivers)}"
                clock, facts = Stages(stages.watch, number), run.facts(source=source, driving=driver)
                pair = Unfinished(target, facts)
                record = _record_of(pair)
                if record is None:
                    with pair:
                        record = _write(run, person, moving, facts, pair, clock)
                unfinished.worth = True
                _add_seconds(stages, clock)
                cells |= _cells(run, person, moving, len(moving.motion.values) // 2, row, column)
                results.append(line | {"out": target, **record})
            except ValueError as error:
                results.append(line | {"error": str(error)})
    done = [line for line in results if "error" not in line]
    if not done:
        raise ValueError(f"No pair could be made: {results[0]['error']}")
    files = [out / "index.json", out / "grid.png"]
    columns, rows = len(drivers) + 1, len(sources) + 1
    fits = min((SCREEN[0] + GAP) // columns - GAP, (SCREEN[1] + GAP) // rows - GAP - LABEL_HEIGHT)
    size = min(max(cell.shape[0] for cell in cells.values()), max(fits, LEAST))
    blank = np.full((size, size, 3), 255, np.uint8)
    places = [(row, column) for row in range(len(sources) + 1) for column in range(len(drivers) + 1)]
    shown = [_square(cells[place], size) if place in cells else blank for place in places]
    names = ["", *(Path(driver).stem for driver, _ in drivers)]
    for source in sources:
        names += [Path(source).stem, *[""] * len(drivers)]
    save_picture(files[1], contact_sheet(shown, len(drivers) + 1, names))
    kept = ("source", "driving", "out", "error", "frames", "rate", "size", "seconds")
    index = {
        "system": run.system.name,
        "settings": run.settings,
        "weights": done[0]["weights"],
        "results": [{key: line[key] for key in kept if key in line} for line in results],
        "files": files,
    }
    write_record(files[0], index)
    return index | {
        "results": results,
        **(spent := stages.facts()),
        "frames_per_second": {
            "file to file": round(sum(line["frames"]["written"] for line in done) / spent["seconds in all"], 2)
        },
        "files": [*(line["out"] for line in done), *files],
    }


def _clip(name: str, options: RenderOptions) -> VideoReader | None:
    """The chosen part of a clip, None for codes, motions and talk files."""
    return None if Path(name).suffix in (SAVED, TALK) else part_of(VideoReader(name), options)


def _record_of(pair: Unfinished) -> dict[str, Any] | None:
    """The record of a pair that an earlier, interrupted run with the same facts has finished; None if there is none."""
    path = pair.target.with_suffix(".json")
    try:
        record = json.loads(path.read_bytes())
        same = record["run"] == pair.key and record["written"][pair.target.name] == sha256(pair.target)
    except (OSError, ValueError, KeyError, TypeError):
        return None
    return record if same else None


def _or_error(make: Callable[[], Made]) -> Made | ValueError:
    try:
        return make()
    except ValueError as error:
        return error


def _value(made: Made | ValueError) -> Made:
    if isinstance(made, ValueError):
        raise made
    return made


def _add_seconds(stages: Stages, more: Stages) -> None:
    for total, part in ((stages.seconds, more.seconds), (stages.beside, more.beside)):
        for name, seconds in part.items():
            total[name] = total.get(name, 0.0) + seconds


def _cells(run: _Run, who: _Who, what: _What, frame: int, row: int, column: int) -> dict[tuple[int, int], np.ndarray]:
    """What the grid shows of a pair: the source, the driver's face if it has frames, and one frame of the result."""
    motion = _changed(run, who, what.motion)
    shown = next(render(run.system, who.identity, motion, chunk=1, **run.options).start_at(frame))
    cells = {(row, 0): portrait(run.system, who.identity), (row, column): shown}
    if what.reader is not None:
        picture = next(itertools.islice(what.reader, frame, None))
        cells[0, column] = cut(picture, what.motion.placement[frame], len(shown), BACKGROUND)
    return cells


def _square(picture: np.ndarray, size: int) -> np.ndarray:
    if picture.shape[:2] == (size, size):
        return picture
    return np.asarray(Image.fromarray(picture).resize((size, size), Image.Resampling.LANCZOS))


class _Compared:
    """Puts to the left of each result, at one height, under labels: the aligned photo, the drawn person at rest, and
    the driving face, as far as there are any.

    At another frame rate than the driver's, each result has the frame of the driver beside it that is shown then.
    Without a chosen size, all is made small enough for a screen.
    """

    def __init__(self, run: _Run, who: _Who, what: _What, first: int, stages: Stages) -> None:
        self._still = {"at rest": portrait(run.system, who.identity)}
        if who.picture is not None:
            self._still = {"photo": who.picture, **self._still}
            row = who.identity.tensors.get("placement")
            if row is not None:
                size = max(len(self._still["at rest"]), _PHOTO)
                self._still["photo"] = cut(who.picture, row.numpy(), size, BACKGROUND)
        self._stages, self._step = stages, what.motion.rate / (run.rendering.rate or what.motion.rate)
        self._placement, self._have, self._face = what.motion.placement, -1, np.zeros((1, 1, 3), np.uint8)
        self._fixed = run.rendering.size is not None
        begin = int(first * self._step)
        self._clip = None
        if what.reader is not None:
            self._clip = enumerate(what.reader.frames(begin, what.reader.num_frames - begin), begin)

    def with_result(self, frame: np.ndarray, index: int) -> np.ndarray:
        shown = dict(self._still)
        if self._clip is not None:
            with self._stages("decode"):
                while self._have < int(index * self._step):
                    self._have, picture = next(self._clip)
                    self._face = cut(picture, self._placement[self._have], len(frame), BACKGROUND)
            shown["driving"] = self._face
        shown["result"] = frame
        height = len(frame)
        if not self._fixed:
            wide = sum(part.shape[1] / len(part) for part in shown.values())
            height = min(height, int((SCREEN[0] - GAP * (len(shown) - 1)) / wide))
        return side_by_side([scaled(part, height) for part in shown.values()], list(shown))
