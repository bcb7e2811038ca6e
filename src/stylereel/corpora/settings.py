"""What each system's training data holds, and the parameters of the steps that make it.

Every step has a table of its own. A step's result depends on its own table and on the steps before it, so that a
changed number redoes no more than what follows from it. A TOML file changes single numbers:

    [judge]
    smallest = 96       # pixels of a face

    [crop]
    size = 512
"""

from __future__ import annotations

import difflib
import tomllib
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, fields, replace
from pathlib import Path
from typing import Any, Literal, NamedTuple, get_args, get_origin, get_type_hints

from stylereel.core.files import MediaError, require_file
from stylereel.faces.backend import Detector

Align = Literal["canonical", "ffhq", "eyes", "window", "registered"]
Voice = Literal["auto", "silero", "energy"]


@dataclass(frozen=True)
class Probe:
    """No parameters: what a file says of itself."""


@dataclass(frozen=True)
class Shots:
    """change: share of a frame's histogram and edges that is new after a cut, 0 to 1. longest, shortest: seconds of a
    clip; a longer shot is divided evenly, a shorter one left out. rate: frames a second of all clips; 0 keeps each
    video's own."""

    change: float = 0.45
    longest: float = 20.0
    shortest: float = 0.8
    rate: float = 0.0


@dataclass(frozen=True)
class Follow:
    """detector: the face library. face: which face where there are several, as `stylereel drive --face` takes it."""

    detector: Detector = "auto"
    face: str = "largest"


@dataclass(frozen=True)
class Looks:
    """No parameters: measures of the picture."""


@dataclass(frozen=True)
class Sound:
    """No parameters: one channel at 16 kHz."""


@dataclass(frozen=True)
class Speech:
    """voice: what finds speech: silero (the package silero-vad), energy (loudness above the clip's own noise), or auto,
    silero where it is installed."""

    voice: Voice = "auto"


@dataclass(frozen=True)
class Sync:
    """reach: frames by which the sound may be early or late. sure: correlation of mouth and loudness from which an
    offset counts as known, if it leads by `lead` over all that are not next to it. correct: whether known offsets of
    more than a frame are taken out of the sound."""

    reach: int = 10
    sure: float = 0.4
    lead: float = 0.2
    correct: bool = True


@dataclass(frozen=True)
class Judge:
    """What a clip must have. seconds: least length. present: share of frames with a face. smallest: pixels between the
    outer eye corners times 1.66 (the side of the face box), median. sharpness: least contrast of fine detail in the
    face, see `looks`. jitter: most trembling of the landmarks, in eye distances. alone: no second face. speech: share
    of the time with speech; above 0 a clip without sound is refused."""

    seconds: float = 0.8
    present: float = 0.9
    smallest: float = 48.0
    sharpness: float = 1.0
    jitter: float = 0.05
    alone: bool = True
    speech: float = 0.0


@dataclass(frozen=True)
class Place:
    """align: the crop: canonical (the built-in world's), ffhq, eyes (StyleVideoGAN's), window (one upright square for
    a whole clip), registered (fixed to the head by its pixels). low_pass: seconds of the low-pass in time of ffhq."""

    align: Align = "ffhq"
    low_pass: float = 0.0


@dataclass(frozen=True)
class Crop:
    """size: pixels a side. every: one frame of so many. form: jpg or png. quality: of jpg, 1 to 100."""

    size: int = 256
    every: int = 1
    form: Literal["jpg", "png"] = "jpg"
    quality: int = 95


@dataclass(frozen=True)
class Coefficients:
    """No parameters: the motion factors of the face, see `stylereel.faces.coefficients`."""


@dataclass(frozen=True)
class Encode:
    """encoder, generator: weight files as `stylereel invert` takes them; empty means those of the family."""

    encoder: str = ""
    generator: str = ""


@dataclass(frozen=True)
class Mel:
    """No parameters: 80 bands, see `stylereel.media.mel`."""


@dataclass(frozen=True)
class Pack:
    """shard: megabytes from which on a new shard is begun. duplicates: clips of one length whose frames differ in at
    most so many of 64 bits (median over a clip) and whose faces move alike are one; the first by name stays. -1 keeps
    all."""

    shard: int = 256
    duplicates: int = 4


@dataclass(frozen=True)
class Settings:
    """The parameters of all steps, each by the name of its table."""

    probe: Probe = field(default_factory=Probe)
    shots: Shots = field(default_factory=Shots)
    track: Follow = field(default_factory=Follow)
    looks: Looks = field(default_factory=Looks)
    sound: Sound = field(default_factory=Sound)
    speech: Speech = field(default_factory=Speech)
    sync: Sync = field(default_factory=Sync)
    judge: Judge = field(default_factory=Judge)
    place: Place = field(default_factory=Place)
    crop: Crop = field(default_factory=Crop)
    coefficients: Coefficients = field(default_factory=Coefficients)
    codes: Encode = field(default_factory=Encode)
    mel: Mel = field(default_factory=Mel)
    pack: Pack = field(default_factory=Pack)

    def table(self, step: str) -> dict[str, Any]:
        """The parameters of one step as plain values."""
        return asdict(getattr(self, step))

    def changed(self, tables: Mapping[str, Mapping[str, Any]]) -> Settings:
        """These settings with other numbers. Raises ValueError for an unknown name or a value of another type."""
        known = {each.name for each in fields(self)}
        new: dict[str, Any] = {}
        for name, values in tables.items():
            if name not in known or not isinstance(values, Mapping):
                raise ValueError(f"There is no table {name}; {_hint(name, known)}")
            new[name] = _changed(getattr(self, name), name, values)
        return replace(self, **new)


def _hint(name: str, known: set[str]) -> str:
    near = difflib.get_close_matches(name, sorted(known), n=1)
    return f"did you mean {near[0]}?" if near else f"there are {', '.join(sorted(known)) or 'none'}."


def _changed(table: Any, name: str, values: Mapping[str, Any]) -> Any:
    kinds = get_type_hints(type(table))
    new: dict[str, Any] = {}
    for key, value in values.items():
        if key not in kinds:
            raise ValueError(f"[{name}] has no {key}; {_hint(key, set(kinds))}")
        kind = kinds[key]
        if kind is float and isinstance(value, int) and not isinstance(value, bool):
            value = float(value)
        if get_origin(kind) is Literal:
            if value not in get_args(kind):
                raise ValueError(f"[{name}] {key} is one of {', '.join(get_args(kind))}, not {value!r}.")
        elif type(value) is not kind:
            words = {int: "a whole number", float: "a number", bool: "true or false", str: "text"}
            raise ValueError(f"[{name}] {key} is {words[kind]}, not {value!r}.")
        new[key] = value
    made = replace(table, **new)
    _check(made, name)
    return made


LIMITS = {  # least and most of numbers that have limits other than 0 to 1
    ("shots", "longest"): (0.1, 600.0), ("shots", "shortest"): (0.0, 600.0), ("shots", "rate"): (0.0, 240.0),
    ("sync", "reach"): (1, 100), ("judge", "seconds"): (0.0, 600.0), ("judge", "smallest"): (0.0, 10_000.0),
    ("judge", "sharpness"): (0.0, 1e6), ("judge", "jitter"): (0.0, 10.0), ("place", "low_pass"): (0.0, 10.0),
    ("crop", "size"): (16, 2048), ("crop", "every"): (1, 100_000), ("crop", "quality"): (1, 100),
    ("pack", "shard"): (1, 100_000), ("pack", "duplicates"): (-1, 64),
}  # fmt: skip


def _check(table: Any, name: str) -> None:
    for each in fields(table):
        value = getattr(table, each.name)
        low, high = LIMITS.get((name, each.name), (0.0, 1.0))
        if isinstance(value, int | float) and not isinstance(value, bool) and not low <= value <= high:
            raise ValueError(f"[{name}] {each.name} is between {low:g} and {high:g}, not {value:g}.")


class Need(NamedTuple):
    """What one system's training data holds.

    fields: names of steps whose results are packed; settings: where its parameters differ from the defaults, by table;
    about: the data of the paper, for the report.
    """

    fields: tuple[str, ...]
    settings: Mapping[str, Mapping[str, Any]]
    about: str


# 60 frames at 25 a second are the least that StyleFaceV trains on.
NEEDS: dict[str, Need] = {
    "stylefacev": Need(
        ("crop", "track", "coefficients"),
        {"shots": {"rate": 25.0}, "place": {"align": "window"}, "judge": {"seconds": 2.4}},
        "RAVDESS, one upright window a clip, 60 frames or more, face coefficients",
    ),
    "stylevideogan": Need(
        ("crop", "track", "codes"),
        {"shots": {"rate": 25.0}, "place": {"align": "eyes"}},
        "clips of one person, crops by the corners of the eyes, W+ codes",
    ),
    "expressive": Need(
        ("crop", "track", "coefficients", "codes"),
        {"place": {"align": "registered"}},
        "talking heads, crops fixed to the skull, W+ codes",
    ),
    "styleheat": Need(
        ("crop", "track", "coefficients", "speech", "sync", "mel"),
        {"shots": {"rate": 25.0}, "place": {"align": "window"}, "judge": {"speech": 0.1}},
        "VoxCeleb and HDTF, one upright window a clip, face coefficients, mel spectrograms at 16 kHz",
    ),
    "stylemask": Need(
        ("crop", "track", "codes"),
        {"place": {"align": "ffhq"}},
        "VoxCeleb for evaluation (the training takes random people of the generator), FFHQ crops, W+ codes",
    ),
    "generator": Need(
        ("crop",),
        {"place": {"align": "ffhq"}, "crop": {"every": 5}},
        "single images in FFHQ's crop",
    ),
}


def settings_for(system: str, path: str | Path | None = None) -> Settings:
    """The parameters of the steps for a system, changed by a TOML file if there is one.

    Raises:
        ValueError: no such system, or the file names what does not exist, or a value that does not fit.
    """
    if system not in NEEDS:
        raise ValueError(f"Data can be prepared for {', '.join(NEEDS)}, not for {system}.")
    settings = Settings().changed(NEEDS[system].settings)
    if path is None:
        return settings
    try:
        content = tomllib.loads(require_file(path).read_text(encoding="utf-8"))
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise MediaError(f"{path} is not a TOML file ({error}).") from error
    try:
        return settings.changed(content)
    except ValueError as error:
        raise ValueError(f"{path}: {error}") from error
