"""The command `stylereel live`: a camera moves a portrait while it runs."""

from __future__ import annotations

import re
import sys
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, closing
from functools import partial
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, Literal, get_args

from stylereel import systems
from stylereel.commands.likeness import Likeness, check_likeness, resembling
from stylereel.commands.rendering import SIZES, parse_fps, parse_time
from stylereel.core.builtin import builtin
from stylereel.core.files import ensure_writable
from stylereel.core.precision import Precision, choose_precision
from stylereel.core.record import Stages, command_line, sha256, write_record
from stylereel.core.runs import claim
from stylereel.core.system import Device, Streams, System, device_of
from stylereel.family.voice import load_voice
from stylereel.live.camera import AnyCamera, DeviceCamera, FileCamera, NoCamera, PushedCamera, open_camera
from stylereel.live.meter import summary
from stylereel.live.outputs import Pipe, VirtualCamera, Window
from stylereel.live.page import Browser, Page, Screen, save_heard
from stylereel.live.recording import Recording
from stylereel.live.session import Output, Session
from stylereel.live.sound import LATENCY, Lips, Microphone, PushedSound, Sound, SoundFile
from stylereel.media.writer import ENDINGS
from stylereel.systems import Flags
from stylereel.systems.sources import read_source
from stylereel.world.motion import natural_motion
from stylereel.zoo.families import open_family

Follow = Literal["sound", "driving"]
VERBS = ("identify", "follow", "apply")
ALONE = 120  # seconds of the movement of a head that no camera moves, which goes there and back
PLACES = ("window", "page", "virtual-camera", "-")  # of --to; anything else is a file


def live(
    system: str | System,
    /,
    *,
    source: str,
    camera: str | AnyCamera = "0",
    audio: str | Sound | None = None,
    lips: Follow = "sound",
    to: str | Output = "window",
    record: str | None = None,
    camera_size: str | None = None,
    fps: str | None = None,
    loop: bool = False,
    mirror: bool = False,
    duration: str | None = None,
    port: int = 0,
    report: str | None = None,
    likeness: Likeness = "auto",
    family: str = "builtin",
    device: Device = "auto",
    precision: Precision = "auto",
    overwrite: bool = False,
    files: Mapping[str, str] | None = None,
    options: Mapping[str, Any] | None = None,
) -> dict[str, Any]:
    """Animate a portrait with the face in front of a camera, while it moves.

    Ends with Ctrl-C, the end of the clip, the window's cross, or when the program that takes the frames has gone. What
    cannot be drawn in time is dropped and counted.

    Args:
        system: name of a system, or a loaded one.
        source: the person to animate: the seed of an invented person (a whole number), or a file with an image, codes
            or an identity.
        camera: number or name of a camera; a clip, which is played as a camera would give it; - for raw rgb24 frames on
            standard input; page, the camera of the browser that shows the page; or none.
        audio: a sound that the lips follow: microphone (or microphone:NAME), page, the microphone of the browser that
            shows the page, or a file, which is heard at its own speed. The head follows the camera, or with --camera
            none moves by itself.
        lips: what the lips follow where there is a sound: it, or driving, the face in front of the camera; the sound is
            then recorded with the picture.
        to: window; page (a local web page); virtual-camera; - for raw rgb24 frames on standard output; or a file to
            record, .mp4, .webm, .mkv or .gif.
        record: also record what is shown in this file, with its motion (.safetensors) next to it, and the sound: that
            of --audio, else the clip's.
        camera_size: width and height of the camera's frames, 640x480 if not given; raw frames need it.
        fps: frames a second of the camera, N or N/M, 30 if not given; raw frames need it.
        loop: play the clip again and again.
        mirror: show the picture as a mirror does.
        duration: end after so long: seconds or h:m:s.
        port: of the page; 0 takes a free one.
        report: file for the counts and times (.json); a recording has it next to it anyway.
        likeness: how a photograph is shown: photo (the generator is tuned to it, which takes a minute or two, once),
            drawn (the person as the generator draws what was read, at once), or auto: photo, where the system can.
        family: which set of weights: builtin, ffhq, or a TOML file that lists them.
        device: where the networks run; auto takes a GPU if there is one.
        precision: number format of the generator's features; auto takes bf16 where the hardware supports it, else 32.
        overwrite: also replace files that stylereel did not write; inputs are never replaced.
        files: weight files of the system's own file options, which override the family's.
        options: values for the system's own options; the others keep their defaults.

    Returns:
        The record: counts of frames, milliseconds of the stages, and the files.

    Raises:
        ValueError: an unknown system or option, an unusable value, no such camera, an output that is not there, or a
            file that cannot be read or written (MediaError).
    """
    size, rate = _size(camera_size), None if fps is None else parse_fps(fps)
    seconds = None if duration is None else float(parse_time(duration, "--duration"))
    if seconds == 0:
        raise ValueError("--duration takes more than 0 seconds.")
    if not 0 <= port < 65536:
        raise ValueError(f"--port takes 0 to 65535, not {port}.")
    if lips not in get_args(Follow):
        raise ValueError(f"--lips takes one of {', '.join(get_args(Follow))}, not {lips}.")
    check_likeness(likeness)
    targets = [ensure_writable(each, *filter(None, ENDINGS)) for each in (_file(to), record) if each is not None]
    reports = [target.with_suffix(".json") for target in targets]
    reports += [] if report is None else [ensure_writable(report, ".json")]
    inputs = [name for name in (source, camera, audio) if isinstance(name, str) and Path(name).is_file()]
    written = [*targets, *(target.with_suffix(".safetensors") for target in targets), *reports]
    claim(written, [*inputs, *(files or {}).values()], overwrite)
    for name, what in ((camera, "camera"), (audio, "audio")):
        if name == "page" and to != "page":
            raise ValueError(f"The {what} of a page needs the page; give --to page.")
    if camera == "none" and (audio is None or lips == "driving"):
        raise ValueError("Nothing moves the portrait; give --camera or --audio.")
    seer = open_camera(camera, size, rate, loop, _say) if isinstance(camera, str) else camera
    given = read_source(source)
    if isinstance(system, str):
        system = systems.load(system, family=family, device=device, **(files or {}))
    own, chosen = systems.choose(system, VERBS, options, open_family(family).detector)
    assert isinstance(system, Streams)  # choose has checked it
    identity = system.identify(given, **chosen["identify"])
    tell = to.tell if isinstance(to, Screen) else None
    identity = resembling(system, identity, given, likeness, Stages(partial(_say_tuning, tell)))
    with ExitStack() as stack:
        sound = _sound(audio)
        voice = None if sound is None else _lips(sound, seer, lips == "sound")
        if isinstance(sound, Microphone) and targets:
            folder = Path(stack.enter_context(TemporaryDirectory()))
            sound.kept = stack.enter_context((folder / "sound.wav").open("wb"))
        heard = partial(_heard, seer, voice)
        recordings = [stack.enter_context(Recording(target, seer.rate, heard)) for target in targets]
        session = Session(
            system,
            identity,
            seer,
            follow=chosen["follow"],
            apply=chosen["apply"],
            precision=precision,
            mirror=mirror,
            lips=voice,
        )
        outputs = [] if _file(to) else [_open(to, system, seer, sound, port, stack)]
        for screen in outputs:
            if isinstance(screen, Screen):
                screen.recording = bool(recordings)
                _play(screen, heard, sound, stack)
        facts = session.run([*outputs, *recordings], seconds, _say)
    settings = {
        "camera": _word(camera), "audio": _word(audio), "lips": lips, "to": _word(to), "record": record,
        "camera_size": camera_size, "fps": fps,
        "loop": loop, "mirror": mirror, "duration": duration, "port": port, **own, "family": family,
        "device": device_of(system).type, "precision": choose_precision(precision, device_of(system)),
    }  # fmt: skip
    made = [file for each in recordings for file in each.files if each.num_frames]
    kept = {
        "command": command_line("live", system.name, {"source": source, **(files or {}), **settings}),
        "system": system.name,
        "settings": settings,
        "inputs": {name: {"file": Path(name), "sha256": sha256(name)} for name in inputs},
        "weights": {Path(path).name: sha256(path) for path in system.weight_files},
        "rate": seer.rate,
        "ms from sound to lips": None if voice is None or not voice.follow else round(1e3 * LATENCY),
        **facts,
        "recorded": [{"file": each.path, "frames": each.num_frames, "sound": each.has_audio} for each in recordings],
        "camera went away": seer.losses if isinstance(seer, DeviceCamera) else 0,
        "files": [*made, *reports],
    }
    for file in reports:
        write_record(file, kept)
    return kept


def _word(given: Any) -> str | None:
    """What a setting is in the record: its word, and page for what is an object, which somebody else connects."""
    return given if given is None or isinstance(given, str) else "page"


def _sound(audio: str | Sound | None) -> Sound | None:
    """The sound that --audio names."""
    if not isinstance(audio, str):
        return audio
    if audio == "page":
        return PushedSound()
    if audio.partition(":")[0] == "microphone":
        return Microphone(audio.partition(":")[2] or "default")
    return SoundFile(audio)


def _lips(sound: Sound, camera: AnyCamera, follow: bool) -> Lips:
    """What makes the lips follow a sound, or only keeps it."""
    alive = (
        natural_motion(0, round(ALONE * camera.rate), camera.rate, "talking") if isinstance(camera, NoCamera) else None
    )
    return Lips(sound, load_voice(builtin("voice")) if follow else None, alive)


def _heard(camera: AnyCamera, lips: Lips | None) -> tuple[Path | None, float | None]:
    """What is heard with the picture, and when it begins there."""
    if lips is not None:
        return lips.sound.path, lips.begun
    if isinstance(camera, FileCamera) and camera.has_audio:
        return camera.path, camera.begun
    return None, 0.0


def _play(
    screen: Screen, heard: Callable[[], tuple[Path | None, float | None]], sound: Sound | None, stack: ExitStack
) -> None:
    """Let a screen's viewers hear what goes with the picture; their own microphone they hear anyway."""
    path, _ = heard()
    if path is not None and not isinstance(sound, Microphone):
        kept = Path(stack.enter_context(TemporaryDirectory())) / "heard.wav"
        save_heard(kept, path)
        screen.sound, screen.begun = kept, lambda: heard()[1]


def flags(system: str) -> dict[str, Flags]:
    """A system's own flags."""
    return systems.system_flags(system, VERBS)


def subjects() -> str:
    """The systems, for the help."""
    return systems.describe(VERBS)


def lines(record: Mapping[str, Any]) -> Iterator[str]:
    """What the terminal shows of a record; on standard error where standard output has the frames."""
    shown = [f"{record['ended']}", *summary(record)]
    if record["ms from sound to lips"] is not None:
        shown.append(f"lips were {record['ms from sound to lips']} ms behind their sound, and then drawn")
    shown += [f"{each['frames']} frames in {each['file']}" for each in record["recorded"]]
    if record["settings"]["to"] == "-":
        for line in shown:
            _say(line)
    else:
        yield from shown


def _say(line: str) -> None:
    print(line, file=sys.stderr, flush=True)


def _say_tuning(tell: Callable[[str], None] | None, stages: Stages) -> None:
    line = f"tuning to the photograph: {stages.done} of {stages.total} steps"
    if stages.counting == "tune" and stages.done % 60 == 0:
        _say(line)
    if stages.counting and tell is not None and stages.done % 10 == 0:
        tell(line if stages.counting == "tune" else f"looking at the photograph: {stages.done} of {stages.total} views")


def _file(to: str | Output) -> str | None:
    """The file that --to names, None where it is another output."""
    return to if isinstance(to, str) and to not in PLACES else None


def _open(
    to: str | Output, system: System, camera: AnyCamera, sound: Sound | None, port: int, stack: ExitStack
) -> Output:
    rate = camera.rate
    if not isinstance(to, str):
        return to
    if to == "-":
        size = system.generator.resolution
        _say(f"raw frames as FFmpeg reads them with -f rawvideo -pix_fmt rgb24 -s {size}x{size} -r {rate}")
        return Pipe(rate)
    if to == "window":
        return stack.enter_context(closing(Window()))
    if to == "virtual-camera":
        return stack.enter_context(closing(VirtualCamera(system.generator.resolution, rate)))
    browser = Browser(
        camera if isinstance(camera, PushedCamera) else None, sound if isinstance(sound, PushedSound) else None
    )
    page = stack.enter_context(closing(Page(port, browser)))
    _say(f"the picture is at {page.address}")
    return page


def _size(text: str | None) -> tuple[int, int] | None:
    if text is None:
        return None
    found = re.fullmatch(r"(\d{1,4})x(\d{1,4})", text)
    if found is None or not all(int(side) in SIZES for side in found.groups()):
        raise ValueError(
            f"--camera-size takes WIDTHxHEIGHT of {SIZES[0]} to {SIZES[-1]} pixels, such as 640x480, not {text[:40]}."
        )
    return int(found[1]), int(found[2])
