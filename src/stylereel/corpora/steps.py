"""The steps from a video to what is packed of its clips.

A step is a named, versioned function of the video, of its own parameters and of the results of earlier steps. The key
of its result is the hash of all of these, so that nothing is ever looked up by a name that could mean something else.

Where a step cannot give a result the clip is rejected with a sentence, which is a result too. `judge` alone has
thresholds; the steps behind it are not run for clips that it rejects, but do not depend on it: another threshold redoes
no work.
"""

from __future__ import annotations

import ctypes
import hashlib
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import replace
from fractions import Fraction
from functools import cache
from pathlib import Path
from typing import Any, Literal, NamedTuple

import numpy as np
import torch

from stylereel.core.files import MediaError
from stylereel.core.record import sha256
from stylereel.core.system import Device, choose_device
from stylereel.corpora import crops, looks, shots, sounds
from stylereel.corpora.ledger import Row
from stylereel.corpora.settings import NEEDS, Settings
from stylereel.corpora.sources import BLOCK, Video, as_file
from stylereel.corpora.store import Head, Result, Store, key_of
from stylereel.faces.backend import FaceBackend, Track, open_backend, track
from stylereel.faces.coefficients import NAMES, motion_of
from stylereel.invert import networks as inversion
from stylereel.media import activity
from stylereel.media.mel import FFT, mel_spectrogram
from stylereel.media.video import VideoReader
from stylereel.zoo.families import BUILTIN, open_family

EXACT = 1  # frames by which offsets that are found are wrong


class Work(NamedTuple):
    """What a step is a function of.

    path: the video; table: its parameters; clip: (first frame, number of frames) at `rate`; native: the video's own
    rate; device: of networks; before: heads of the steps it takes; arrays: reads the arrays of one of them.
    """

    path: Path
    table: Any
    before: Mapping[str, Head]
    arrays: Callable[[str], dict[str, np.ndarray]]
    clip: tuple[int, int] = (0, 0)
    rate: Fraction = Fraction(25)
    native: Fraction = Fraction(25)
    device: str = "cpu"

    def frames(self) -> Iterator[np.ndarray]:
        """The frames of the clip, uint8 [H, W, 3]."""
        return _reader(self.path, self.rate, self.native).frames(*self.clip)


class Step(NamedTuple):
    """name: of the step and of its table; version: a new one for new results; after: the steps that it takes; run: what
    does it; of: the whole video or a clip of it."""

    name: str
    version: int
    after: tuple[str, ...]
    run: Callable[[Work], Result]
    of: Literal["video", "clip"] = "clip"


def _reader(path: Path, rate: Fraction, native: Fraction) -> VideoReader:
    return VideoReader(path, None if rate == native else rate)


# --- of the video


def _probe(work: Work) -> Result:
    reader = VideoReader(work.path)
    facts = {
        "width": reader.width,
        "height": reader.height,
        "frames": reader.num_frames,
        "rate": str(reader.rate),
        "seconds": round(float(reader.num_frames / reader.rate), 3),
        "sound": reader.has_audio,
        "timing": reader.timing,
        "colours": reader.colours,
    }
    return Result(facts)


def _shots(work: Work) -> Result:
    native = Fraction(work.before["probe"].facts["rate"])
    wanted = Fraction(str(work.table.rate)).limit_denominator(1001) if work.table.rate else native
    change = shots.changes(VideoReader(work.path))
    found = shots.divide(
        shots.find_cuts(change, work.table.change), len(change), native, wanted, work.table.shortest, work.table.longest
    )
    last = _reader(work.path, wanted, native).num_frames
    clips = [(first, min(count, last - first)) for first, count in found.clips]
    facts = {"rate": str(wanted), "native": str(native), "cuts": found.cuts, "short": found.short, "clips": clips}
    none = "" if clips else f"No shot lasts {work.table.shortest:g} s."
    return Result(facts, {"change": change.astype(np.float32)}, none)


# --- of a clip


@cache
def _backend(detector: Any) -> FaceBackend:
    return open_backend(detector)


def _track(work: Work) -> Result:
    backend = _backend(work.table.detector)
    try:
        found = track(work.frames(), work.rate, backend=backend, face=work.table.face)
    except MediaError:
        raise
    except ValueError as error:
        return Result(rejected=_sentence(error))
    arrays = {"landmarks": found.landmarks, "found": found.found}
    arrays |= {name: part for name in ("readings", "points", "sure") if (part := getattr(found, name)) is not None}
    facts = {
        "frames": len(found.found),
        "size": found.size,
        "faces": found.num_faces,
        "present": round(float(found.found.mean()), 4),
        "missing": len(found.missing),
    }
    return Result(facts, arrays)


def _tracked(work: Work) -> Track:
    arrays, facts = work.arrays("track"), work.before["track"].facts
    width, height = facts["size"]
    return Track(
        arrays["landmarks"], arrays.get("readings"), arrays["found"], work.rate, (width, height),
        num_faces=facts["faces"], points=arrays.get("points"), sure=arrays.get("sure"),
    )  # fmt: skip


def _looks(work: Work) -> Result:
    followed = _tracked(work)
    sharp, hashes, small = looks.look(work.frames(), followed.landmarks, followed.found)
    facts = {
        "face": round(float(np.median(looks.face_sizes(followed.landmarks[followed.found]))), 1),
        "sharpness": round(float(np.median(sharp)) if sharp else 0.0, 3),
        "jitter": round(looks.jitter(followed.landmarks, followed.found), 5),
    }
    arrays = {
        "hashes": np.array(hashes, np.uint64),
        "signature": looks.signature(followed.landmarks),
        "thumbnail": np.frombuffer(small, np.uint8),
    }
    return Result(facts, arrays)


def _sound(work: Work) -> Result:
    if not work.before["probe"].facts["sound"]:
        return Result(rejected="The video has no sound.")
    samples = sounds.cut_sound(work.path, *work.clip, work.rate)
    peak = float(np.abs(samples.astype(np.int32)).max(initial=0)) / 32767
    return Result({"seconds": round(len(samples) / sounds.RATE, 3), "peak": round(peak, 4)}, {"samples": samples})


def _speech(work: Work) -> Result:
    found = activity.speech(work.arrays("sound")["samples"], work.table.voice)
    share = float((found > 0.5).mean()) if len(found) else 0.0
    return Result({"voice": work.table.voice, "share": round(share, 4)}, {"speech": found})


def _judge(work: Work) -> Result:
    table, before = work.table, work.before
    seen, looked = before["track"].facts, before["looks"].facts
    seconds = seen["frames"] / float(work.rate)
    said = before["speech"].facts["share"] if "speech" in before else 1.0
    faults = [
        (seconds < table.seconds, f"It lasts {seconds:.2f} s, less than {table.seconds:g}."),
        (table.alone and seen["faces"] > 1, f"{seen['faces']} faces are in one frame."),
        (seen["present"] < table.present, f"Only {seen['present']:.0%} of the frames show the face."),
        (looked["face"] < table.smallest, f"The face has {looked['face']:.0f} pixels, fewer than {table.smallest:g}."),
        (looked["sharpness"] < table.sharpness, f"The face is blurred: {looked['sharpness']:.2f} of detail, less than "
                                                f"{table.sharpness:g}."),
        (looked["jitter"] > table.jitter, f"The landmarks tremble by {looked['jitter']:.3f} eye distances."),
        (said < table.speech, f"Speech fills {said:.0%} of the time, less than {table.speech:.0%}."),
    ]  # fmt: skip
    return Result(rejected=next((sentence for bad, sentence in faults if bad), ""))


def _place(work: Work) -> Result:
    followed = _tracked(work)
    try:
        rows = crops.place_as(work.table.align, work.frames, followed, work.table.low_pass)
    except ValueError as error:
        if isinstance(error, MediaError):
            raise
        return Result(rejected=_sentence(error))
    inside = crops.share_inside(rows, *followed.size)
    return Result({"align": work.table.align, "inside": round(inside, 4)}, {"placement": rows})


def _crop(work: Work) -> Result:
    rows = work.arrays("place")["placement"]
    parts: list[bytes] = []
    for index, frame in enumerate(work.frames()):
        if index % work.table.every == 0:
            try:
                parts.append(crops.picture(frame, rows[index], work.table.size, work.table.form, work.table.quality))
            except ValueError as error:
                return Result(rejected=_sentence(error))
    facts = {"size": work.table.size, "every": work.table.every, "form": work.table.form, "pictures": len(parts)}
    data = np.frombuffer(b"".join(parts), np.uint8)
    return Result(facts, {"data": data, "ends": np.cumsum([len(part) for part in parts], dtype=np.int64)})


def _coefficients(work: Work) -> Result:
    motion = motion_of(_tracked(work))
    return Result({"names": NAMES}, {"coefficients": motion.values.astype(np.float32)})


@cache
def _networks(encoder: str, generator: str, device: str) -> tuple[inversion.Networks, bool, str]:
    files = inversion.choose(encoder or None, generator or None)
    nets = inversion.load(files).to(torch.device(device))
    return nets, inversion.is_canonical(files), sha256(files["generator"])


def _codes(work: Work) -> Result:
    nets, canonical, generator = _networks(work.table.encoder, work.table.generator, work.device)
    followed, rows = _tracked(work), work.arrays("place")["placement"]
    try:
        rows, codes = crops.encode(work.frames(), rows, followed, nets, canonical)
    except ValueError as error:
        if isinstance(error, MediaError):
            raise
        return Result(rejected=_sentence(error))
    return Result({"generator": generator}, {"codes": codes, "placement": rows})


def _sync(work: Work) -> Result:
    table, samples = work.table, work.arrays("sound")["samples"]
    found = sounds.find_offset(work.arrays("track")["landmarks"], samples, work.rate, table.reach)
    facts: dict[str, Any] = {"offset": None, "corrected": False}
    if found is not None:
        facts |= {"correlation": round(found.correlation, 4), "lead": round(found.lead, 4)}
        known = found.correlation >= table.sure and found.lead >= table.lead and abs(found.frames) < table.reach
        facts["offset"] = found.frames if known else None
        if known and table.correct and abs(found.frames) > EXACT:
            samples, facts["corrected"] = sounds.delayed(samples, found.frames, work.rate), True
    return Result(facts, {"samples": samples})


def _mel(work: Work) -> Result:
    samples = work.arrays("sync")["samples"]
    if len(samples) <= FFT // 2:
        return Result(rejected="The clip is too short for a mel spectrogram.")
    return Result({}, {"mel": mel_spectrogram(torch.from_numpy(samples / np.float32(32768))).numpy()})


STEPS = {
    step.name: step
    for step in [
        Step("probe", 1, (), _probe, "video"),
        Step("shots", 1, ("probe",), _shots, "video"),
        Step("track", 1, ("shots",), _track),
        Step("looks", 1, ("track",), _looks),
        Step("sound", 1, ("probe", "shots"), _sound),
        Step("speech", 1, ("sound",), _speech),
        Step("judge", 1, ("track", "looks", "speech"), _judge),
        Step("place", 1, ("track",), _place),
        Step("crop", 1, ("place",), _crop),
        Step("coefficients", 1, ("track",), _coefficients),
        Step("codes", 1, ("place", "track"), _codes),
        Step("sync", 1, ("track", "sound"), _sync),
        Step("mel", 1, ("sync",), _mel),
    ]
}


class Plan(NamedTuple):
    """What is done to every video: for which system, with which parameters, which are all of fixed meaning, and the
    steps in their order. files: SHA-256 of the weight files by their names in the parameters; device: of networks."""

    system: str
    settings: Settings
    steps: tuple[str, ...]
    files: Mapping[str, str]
    device: str

    def parameters(self, step: str) -> str:
        """The hash of a step's parameters, in which files count by what is in them."""
        table = {name: self.files.get(value, value) for name, value in self.settings.table(step).items()}
        table |= {"codes": {"device": self.device}, "coefficients": {"names": NAMES}}.get(step, {})
        return key_of(table)[:16]

    def after(self, step: str) -> tuple[str, ...]:
        """The steps that a step takes, as far as the plan has them."""
        return tuple(name for name in STEPS[step].after if name in self.steps)

    def key(self, step: str, video: str, keys: Mapping[str, str], clip: Sequence[Any] = ()) -> str:
        """The key of a result. video: SHA-256 of the file; keys: of earlier results of the same kind; clip: see
        `clip_parts`, which stands for the steps of the whole video: what cuts the same clip changes nothing."""
        before = [keys[name] for name in self.after(step) if STEPS[name].of == STEPS[step].of]
        return key_of(step, STEPS[step].version, self.parameters(step), video, [*clip], before)


def clip_parts(shots: Mapping[str, Any], number: int) -> list[Any]:
    """What a clip is: first frame, number of frames, its rate, the rate of the video; `shots` are that step's facts."""
    return [*shots["clips"][number], shots["rate"], shots["native"]]


def plan_for(system: str, settings: Settings, family: str = BUILTIN, device: Device = "auto") -> Plan:
    """The plan for a system. What is left to `auto` is chosen here, once for all.

    Args:
        system: what the data is for.
        settings: parameters of the steps; the family has what they leave to it.
        family: whose encoder, generator and detector.
        device: where the encoder runs; codes of a GPU are not, bit by bit, those of a CPU.

    Raises:
        ValueError: a detector, Silero, a weight file or the device is missing.
    """
    files: dict[str, str] = {}
    place = "cpu"
    chosen = open_family(family)
    detector: Any = settings.track.detector
    if detector == "auto" and chosen.detector is not None:
        detector = chosen.detector
    if detector == "auto":
        detector = type(_backend("auto")).__name__.removesuffix("Backend").lower()
    settings = replace(
        settings,
        track=replace(settings.track, detector=detector),
        speech=replace(settings.speech, voice=activity.choose_voice(settings.speech.voice)),
    )
    wanted = {"judge", "looks", *NEEDS[system].fields}
    if settings.judge.speech > 0:
        wanted.add("speech")
    for name in reversed(STEPS):
        if name in wanted:
            wanted |= {each for each in STEPS[name].after if name != "judge"}
    wanted |= {"probe", "shots", "track"}
    if "codes" in wanted:
        own = chosen.options(None, ["encoder", "generator"])
        named = {name: getattr(settings.codes, name) or own.get(name) for name in ("encoder", "generator")}
        nets = inversion.choose(**named)
        files = {str(path): sha256(path) for path in nets.values()}
        names = {"encoder": str(nets.get("encoder", "")), "generator": str(nets["generator"])}
        settings = replace(settings, codes=replace(settings.codes, **names))
        place = choose_device(device).type
    if "track" in wanted:
        _backend(detector)
    return Plan(system, settings, tuple(name for name in STEPS if name in wanted), files, place)


# --- the work on one video


class Task(NamedTuple):
    """One video to work on: what a process anywhere needs to know. folder: of the data set; sha256: of the video, or ""
    where it is not yet known."""

    video: Video
    plan: Plan
    folder: str
    sha256: str = ""


class Done(NamedTuple):
    """The rows of a video, all of them; made: how many results had to be made; failed: why the video could not be read
    this time, a sentence, or ""."""

    task: Task
    rows: tuple[Row, ...]
    made: int
    failed: str = ""


def hash_video(video: Video) -> str:
    """The SHA-256 of a video, in a file of its own or in a shard."""
    if video.offset < 0:
        return sha256(video.path)
    total, left = hashlib.sha256(), video.size
    with open(video.path, "rb") as file:
        file.seek(video.offset)
        while left and (part := file.read(min(BLOCK, left))):
            total.update(part)
            left -= len(part)
    return total.hexdigest()


def work_on(task: Task) -> Done:
    """Do what is still to be done for a video. Results go into the store one by one; nothing is raised for the video's
    faults. With one thread, so that the results do not depend on how many processes work."""
    torch.set_num_threads(1)
    rows: list[Row] = []
    made = 0
    try:
        task = task._replace(sha256=task.sha256 or hash_video(task.video))
        with as_file(task.video, Path(task.folder) / "work" / "members") as path:
            for row, new in _rows(task, path):
                rows.append(row)
                made += new
    except OSError as error:
        return Done(task, tuple(rows), made, f"{task.video.path} cannot be read ({error.strerror or error}).")
    _trim()
    return Done(task, tuple(rows), made)


def _trim() -> None:
    """Give freed memory back to the system, where the C library can (glibc): frames of many sizes leave holes between
    what is kept, so that a process otherwise grows a little with each video."""
    try:
        ctypes.CDLL(None).malloc_trim(0)
    except (AttributeError, OSError, TypeError):
        return


def _rows(task: Task, path: Path) -> Iterator[tuple[Row, bool]]:
    plan, store = task.plan, Store(Path(task.folder) / "work")
    keys: dict[str, str] = {}
    heads: dict[str, Head] = {}

    def run(step: str, number: int, clip: list[Any], keys: dict[str, str], heads: dict[str, Head]) -> tuple[Row, bool]:
        keys[step] = key = plan.key(step, task.sha256, keys, clip)
        head, new = store.head(key), False
        if head is None:
            begun = time.perf_counter()
            first, count, rate, native = clip or (0, 0, 1, 1)
            state = Work(
                path, getattr(plan.settings, step), heads, lambda name: store.arrays(keys[name]),
                (first, count), Fraction(rate), Fraction(native), plan.device,
            )  # fmt: skip
            try:
                result = STEPS[step].run(state)
            except MediaError as error:
                result = Result(rejected=_sentence(error).replace(str(path), task.video.name))
            head, new = store.save(key, result, time.perf_counter() - begun), True
        heads[step] = head
        name = task.video.name + (f"#{number:03}" if STEPS[step].of == "clip" else "")
        row = Row(
            name, step, key, task.video.name, task.sha256, STEPS[step].version, plan.parameters(step),
            "rejected" if head.rejected else "done", head.seconds, head.bytes, head.rejected, head.facts,
            task.video.licence, "",
        )  # fmt: skip
        return row, new

    for step in (name for name in plan.steps if STEPS[name].of == "video"):
        yield run(step, 0, [], keys, heads)
        if heads[step].rejected:
            return
    about = heads["shots"].facts
    for number in range(len(about["clips"])):
        own_keys, own_heads = dict(keys), dict(heads)
        for step in (name for name in plan.steps if STEPS[name].of == "clip"):
            yield run(step, number, clip_parts(about, number), own_keys, own_heads)
            if own_heads[step].rejected:
                break


def _sentence(error: Exception) -> str:
    return " ".join(str(error).split())
