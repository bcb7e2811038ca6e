"""What every command that renders shares: its options, the part of a clip they choose, the loop from motion to file.

A command takes these options as `**rendering: Unpack[RenderKeywords]`; the command line makes flags of the fields of
`RenderOptions`, whose docstring is their help.
"""

from __future__ import annotations

import math
import re
import warnings
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass
from fractions import Fraction
from functools import cached_property
from pathlib import Path
from typing import Any, NamedTuple, TypedDict

import numpy as np
from PIL import Image

from stylereel.commands.background import Background, require_matte
from stylereel.core.builtin import builtin
from stylereel.core.files import require_file
from stylereel.core.latents import Identity, Motion, parse_rate
from stylereel.core.precision import Precision, choose_precision
from stylereel.core.record import Stages, sha256
from stylereel.core.render import portrait, render
from stylereel.core.runs import Unfinished
from stylereel.core.system import Device, System, device_of
from stylereel.family.matte import matte
from stylereel.media.ahead import Ahead
from stylereel.media.clip import sound_index
from stylereel.media.sheet import side_by_side
from stylereel.media.video import VideoReader, VideoWriter

SIZES = range(32, 4097)  # pixels; more than 4096 is beyond what encoders and players take side by side
RATES = range(1, 241)  # frames a second
UPSCALER = "Lanczos (Pillow)"
TIME = re.compile(r"(?:(?:(\d{1,4}):)?(\d{1,4}):)?(\d{1,7}(?:\.\d{1,20})?)")


class RenderKeywords(TypedDict, total=False):
    """The fields of `RenderOptions`, as keyword arguments."""

    start: str | None
    duration: str | None
    frames: int | None
    fps: str | None
    size: int | None
    background: str | None
    audio: str | None
    family: str
    device: Device
    precision: Precision
    chunk: int
    overwrite: bool


@dataclass(frozen=True, kw_only=True)
class RenderOptions:
    """The options of every command that renders.

    Args:
        start: where the part of the driving clip (or motion) begins that is used: seconds (12.5) or h:m:s (1:02:03.5);
            its sound begins there too.
        duration: how long that part is, in the same form; to the end if not given.
        frames: the number of frames of the result, instead of a duration; sample makes 250 if neither is given.
        fps: frames a second of the result, N or N/M (30000/1001); the motion is interpolated, no frame is doubled. The
            driver's own if not given.
        size: height of the result in pixels, or of each image in it; the width follows. As rendered if not given.
        background: what is behind the person instead: a colour (white, #3060a0), blur, or the file of an image or clip.
            Built-in people only.
        audio: file with the sound for the result, from --start on; the driver's own if not given.
        family: which set of weights: builtin, ffhq, or a TOML file that lists them.
        device: where the networks run; auto takes a GPU if there is one.
        precision: number format of the generator's features; auto takes bf16 where the hardware supports it, else 32.
        chunk: frames rendered at a time; more is faster and takes more memory; the result is the same.
        overwrite: also replace files that stylereel did not write; inputs are never replaced.

    Raises:
        ValueError: a value out of range or not in its form.
    """

    start: str | None = None
    duration: str | None = None
    frames: int | None = None
    fps: str | None = None
    size: int | None = None
    background: str | None = None
    audio: str | None = None
    family: str = "builtin"
    device: Device = "auto"
    precision: Precision = "auto"
    chunk: int = 8
    overwrite: bool = False

    def __post_init__(self) -> None:
        if self.chunk < 1:
            raise ValueError(f"A chunk is 1 frame or more, not {self.chunk}.")
        if self.frames is not None and self.duration is not None:
            raise ValueError("--frames and --duration both say how long the result is; give one of them.")
        if self.frames is not None and self.frames < 1:
            raise ValueError(f"--frames takes 1 or more, not {self.frames}.")
        if self.size is not None and self.size not in SIZES:
            raise ValueError(f"--size takes {SIZES[0]} to {SIZES[-1]} pixels, not {self.size}.")
        if self.seconds == 0:
            raise ValueError("--duration takes more than 0 seconds.")
        _ = self.begin, self.rate  # they raise for what has another form

    @cached_property
    def begin(self) -> Fraction:
        """Seconds before the part that is used."""
        return Fraction(0) if self.start is None else parse_time(self.start, "--start")

    @cached_property
    def seconds(self) -> Fraction | None:
        """How long the part is."""
        return None if self.duration is None else parse_time(self.duration, "--duration")

    @cached_property
    def rate(self) -> Fraction | None:
        """The frame rate of the result, None for the driver's."""
        return None if self.fps is None else parse_fps(self.fps)

    @property
    def alone(self) -> float | None:
        """Seconds of a result that no clip drives; None if they are not told."""
        if self.frames is not None:
            return float(self.frames / (self.rate or Fraction(25)))
        return None if self.seconds is None else float(self.seconds)

    @property
    def choosing(self) -> bool:
        """Whether the part has to be worked out: the rate matters to the length."""
        return bool(self.begin or self.duration or self.fps)

    def length(self, rate: Fraction) -> int | None:
        """The number of frames asked for of a result whose own rate is `rate`; None without a limit."""
        return self.frames if self.seconds is None else math.ceil(self.seconds * (self.rate or rate))

    def part(self, num_frames: int, rate: Fraction, name: str) -> tuple[int, int]:
        """First frame and number of frames of the chosen part of something with `num_frames` at `rate` a second.

        Frames belong to it that begin in it. Raises ValueError if it begins after the end; warns if it is cut short.
        """
        first, wanted = math.ceil(self.begin * rate), self.length(rate)
        rest = num_frames - first
        if rest < 1:
            long = f"{float(num_frames / rate):.2f} s"
            raise ValueError(f"{name} is {long} long, so nothing is left from --start {self.start} on; begin earlier.")
        if wanted is None:
            return first, rest
        count = math.ceil(wanted / (self.rate or rate) * rate)
        if count > rest:
            warnings.warn(
                f"{name} ends after {rest} of the {count} frames asked for; the result is shorter.", stacklevel=3
            )
        return first, min(count, rest)

    def shown(self, motion: Motion) -> Motion:
        """The motion of a part at the frame rate of the result, as long as was asked for."""
        made, most = motion if self.rate is None else motion.at_rate(self.rate), self.length(motion.rate)
        return made if most is None or most >= len(made) else made.part(0, most)

    def side_by_side(self, moments: Iterator[tuple[int, Sequence[np.ndarray]]]) -> Iterator[tuple[np.ndarray, None]]:
        """The images of each moment in a row."""
        for _, pictures in moments:
            shown = [scaled(picture, self.size) for picture in pictures]
            yield shown[0] if len(shown) == 1 else side_by_side(shown), None

    def settings(self, system: System) -> dict[str, Any]:
        """All of them for the record, with what auto stands for. Raises ValueError if the system cannot take one."""
        if self.behind is not None:
            require_matte(system)
        return {
            "start": self.start,
            "duration": self.duration,
            "frames": self.frames,
            "fps": self.fps,
            "size": self.size,
            "background": self.background,
            "audio": self.audio,
            "family": self.family,
            "device": device_of(system).type,
            "precision": choose_precision(self.precision, device_of(system)),
            "chunk": self.chunk,
        }

    @cached_property
    def behind(self) -> Background | None:
        """What is put behind the person."""
        return None if self.background is None else Background(self.background)

    def require_inputs(self) -> None:
        """Raise ValueError unless the files among them can be used."""
        _ = self.behind
        if self.audio is not None and sound_index(require_file(self.audio)) is None:
            raise ValueError(f"{self.audio} has no sound; give a file with sound, or leave out --audio.")

    def files(self) -> dict[str, str]:
        """The files among them, by their names."""
        given = {"audio": self.audio, "background": str(self.behind.path) if self.behind and self.behind.path else None}
        return {name: path for name, path in given.items() if path is not None}


def parse_fps(text: str) -> Fraction:
    """The frame rate that --fps gives. Raises ValueError for other forms and for what is out of range."""
    try:
        rate = parse_rate(text)
    except ValueError:
        raise ValueError(f"--fps takes N or N/M, such as 25 or 30000/1001, not {text[:40]}.") from None
    if not RATES[0] <= rate <= RATES[-1]:
        raise ValueError(f"--fps takes {RATES[0]} to {RATES[-1]} frames a second, not {text[:40]}.")
    return rate


def parse_time(text: str, flag: str) -> Fraction:
    """Seconds of 12.5, 2:03.5 or 1:02:03.5, exactly. Raises ValueError for other forms."""
    found = TIME.fullmatch(text)
    if found is None:
        raise ValueError(f"{flag} takes seconds or h:m:s, such as 12.5 or 1:02:03.5, not {text[:40]}.")
    hours, minutes, seconds = found.groups()
    return 3600 * int(hours or 0) + 60 * int(minutes or 0) + Fraction(seconds)


def scaled(picture: np.ndarray, height: int | None) -> np.ndarray:
    """uint8 [H, W, 3] with another height, the width in proportion, by Lanczos' filter; None leaves it."""
    if height is None or picture.shape[0] == height:
        return picture
    width = max(1, round(picture.shape[1] * height / picture.shape[0]))
    return np.asarray(Image.fromarray(picture).resize((width, height), Image.Resampling.LANCZOS))


class Sound(NamedTuple):
    """Where the sound of a result comes from, and how many seconds into it the result begins."""

    path: str | Path | None
    start: Fraction = Fraction(0)


# Index of a frame and an image of each person, rendered; to what is written and a note that is kept with it.
Finish = Callable[[Iterator[tuple[int, Sequence[np.ndarray]]]], Iterator[tuple[np.ndarray, Any]]]


def write_clip(
    system: System,
    people: Sequence[Identity],
    motion: Motion,
    options: RenderOptions,
    own: Mapping[str, Any],
    sound: Sound,
    target: Path,
    unfinished: Unfinished | None,
    stages: Stages,
    finish: Finish | None = None,
    resting: Collection[int] = (),
) -> dict[str, Any]:
    """Render a motion shown by each of `people`, and write what `finish` makes of each moment as a clip.

    Without `finish` the people are shown side by side.

    Args:
        motion: as extracted or sampled, the chosen part alone.
        own: options of the system's `apply`.
        resting: frames of the result that show the first of the people at rest.

    Returns:
        What the record says of it; `notes` are those of `finish`.
    """
    shown = options.shown(motion)
    films = [render(system, who, shown, options.chunk, options.precision, **own) for who in people]
    with VideoWriter(target, shown.rate, sound.path, audio_start=sound.start, unfinished=unfinished) as writer:
        resumed = writer.num_frames
        ahead = Ahead(zip(*(film.start_at(resumed) for film in films), strict=True))
        still = [portrait(system, people[0])] if resting else []

        def moments() -> Iterator[tuple[int, Sequence[np.ndarray]]]:
            behind = options.behind and options.behind.frames(resumed, shown.rate)
            for index, pictures in enumerate(stages.through("render", ahead, len(shown) - resumed), resumed):
                pictures = still if index in resting else pictures
                if options.behind and behind:
                    with stages("background"):
                        back, height = next(behind), options.size or len(pictures[0])
                        pictures = [options.behind.replace(matte(each), back, height) for each in pictures]
                yield index, pictures

        for frame, note in (finish or options.side_by_side)(moments()):
            with stages("encode"):
                writer.write(frame, note)
        with stages("encode"):
            writer.finish()
    stages.beside["render"] = max(0.0, ahead.busy - stages.seconds.get("render", 0.0))
    assert writer.num_frames == len(shown), f"{len(shown)} frames in, {writer.num_frames} out"
    rendered = writer.num_frames - resumed
    return {
        "frames": {"written": writer.num_frames},
        "frames of an earlier run": resumed,
        "size": [writer.width, writer.height],
        "resized": None if options.size is None else {"height": options.size, "by": UPSCALER},
        "background": options.background and {"is": options.background, "face net": sha256(builtin("face"))},
        "rate": shown.rate,
        "interpolated": None if shown.rate == motion.rate else {"from": motion.rate, "by": "monotone cubics (PCHIP)"},
        "sound": writer.has_audio,
        **(facts := stages.facts()),
        "frames_per_second": {
            "render": round(rendered / ahead.busy, 2) if ahead.busy else 0.0,
            "file to file": round(rendered / facts["seconds in all"], 2) if facts["seconds in all"] else 0.0,
        },
        "notes": writer.notes,
    }


def part_facts(first: int, motion: Motion) -> dict[str, Any]:
    """What the record says of the part of a driver: `motion` is that of its frames, the first of which is `first`."""
    return {"first frame": first, "frames": len(motion), "start": round(float(first / motion.rate), 6)}


class Counted:
    """An open clip whose frames are counted for the progress, each time it is read."""

    def __init__(self, clip: VideoReader, stages: Stages) -> None:
        self.path, self.rate, self.num_frames, self.has_audio = clip.path, clip.rate, clip.num_frames, clip.has_audio
        self.start = clip.start
        self._clip, self._stages = clip, stages

    def __iter__(self) -> Iterator[np.ndarray]:
        return self._stages.count(self._clip, self.num_frames)


def part_of(reader: VideoReader, options: RenderOptions) -> VideoReader:
    """The part of an open clip that the options choose."""
    first, count = options.part(reader.num_frames, reader.rate, str(reader.path))
    return reader if count == reader.num_frames else reader.part(first, count)


def result_lines(record: Mapping[str, Any]) -> Iterator[str]:
    """Seconds a stage, frames a second, and the files of a record."""
    spent = ", ".join(f"{name} {seconds:.1f}" for name, seconds in record["seconds"].items())
    beside = [f"{name} {seconds:.1f}" for name, seconds in record["seconds beside others"].items() if seconds >= 0.05]
    also = f"; meanwhile in another thread: {', '.join(beside)}" if beside else ""
    yield f"seconds: {spent}; {record['seconds in all']:.1f} in all{also}"
    yield "frames a second: " + ", ".join(f"{name} {speed:.1f}" for name, speed in record["frames_per_second"].items())
    yield from map(str, record["files"])
