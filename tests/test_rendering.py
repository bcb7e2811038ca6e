"""The options that every command which renders shares, on a system that knows nothing of them (`toy.py`)."""

from __future__ import annotations

import json
from fractions import Fraction
from pathlib import Path
from typing import Any

import av
import numpy as np
import pytest
from test_media import make_clip
from toy import Toy

from stylereel import systems
from stylereel.cli import main
from stylereel.commands.rendering import RenderOptions, parse_time, scaled
from stylereel.core.latents import Motion, MotionKind
from stylereel.core.render import render
from stylereel.core.system import Spec
from stylereel.media.sound import waveform
from stylereel.media.video import VideoReader, VideoWriter

NTSC = Fraction(30000, 1001)


@pytest.fixture(autouse=True)
def toy(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(systems.SPECS, "toy", Spec("toy:Toy", "toy:train", "toy:study"))


@pytest.fixture(scope="module")
def clip(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """150 frames of changing grey at 29.97, with a click in the sound at second 2."""
    folder = tmp_path_factory.mktemp("clip")
    sound = np.zeros(5 * 16000, np.int16)
    sound[2 * 16000] = 30000
    with av.open(str(folder / "click.wav"), "w") as container:
        stream = container.add_stream("pcm_s16le", rate=16000, layout="mono")
        frame = av.AudioFrame.from_ndarray(sound[None], "s16", "mono")
        frame.sample_rate = 16000
        container.mux(stream.encode(frame))
        container.mux(stream.encode(None))
    greys = 128 + 100 * np.sin(np.arange(150) / 7)
    with VideoWriter(folder / "clip.mkv", NTSC, audio_from=folder / "click.wav") as writer:
        for grey in greys:
            writer.write(np.full((32, 32, 3), int(grey), np.uint8))
    return folder / "clip.mkv"


def drive(clip: Path, out: Path, *more: str) -> dict[str, Any]:
    words = ["drive", "toy", "--source", "7", "--driving", str(clip), "--out", str(out), *more]
    assert main(words) == 0
    return json.loads(out.with_suffix(".json").read_text())


def frames(path: Path) -> np.ndarray:
    return np.stack(list(VideoReader(path)))


def rendered(motion: Motion) -> np.ndarray:
    system = Toy()
    return np.stack(list(render(system, system.identify(7), motion)))


def test_a_part_of_a_clip_drives_as_if_it_were_the_whole(clip: Path, tmp_path: Path) -> None:
    """Frames that begin in the part, the sound from the first of them on, wherever the driver is from."""
    whole = Toy().extract(VideoReader(clip))
    record = drive(clip, tmp_path / "part.mkv", "--start", "0:01.5", "--duration", "2")
    first = 45  # 1.5 s is between frames 44 and 45
    assert record["part"] == {"first frame": first, "frames": 60, "start": round(first / float(NTSC), 6)}
    assert record["frames"]["written"] == record["frames"]["driving"] == 60 and record["rate"] == "30000/1001"
    expected = rendered(whole.part(first, first + 60))
    assert np.array_equal(frames(tmp_path / "part.mkv"), expected)
    heard = waveform(tmp_path / "part.mkv")
    assert abs(np.abs(heard).argmax() / 16000 - (2 - first / float(NTSC))) < 1e-3
    assert len(heard) / 16000 == pytest.approx(60 / float(NTSC), abs=0.03)
    whole.save(tmp_path / "motion.safetensors")
    more = ["--start", "1.5", "--frames", "60", "--audio", str(clip)]
    drive(tmp_path / "motion.safetensors", tmp_path / "saved.mkv", *more)
    assert np.array_equal(frames(tmp_path / "saved.mkv"), expected)
    assert np.array_equal(waveform(tmp_path / "saved.mkv"), heard)


def test_copied_sound_begins_with_the_part(tmp_path: Path, clip: Path) -> None:
    """AAC is copied packet by packet: what comes before the first frame is cut by the container's edit list."""
    drive(clip, tmp_path / "whole.mp4")
    click = np.abs(waveform(tmp_path / "whole.mp4")).argmax() / 16000
    assert abs(click - 2) < 2e-3
    drive(tmp_path / "whole.mp4", tmp_path / "part.mp4", "--start", "1.5")
    assert abs(np.abs(waveform(tmp_path / "part.mp4")).argmax() / 16000 - (click - 45 / float(NTSC))) < 2e-3


@pytest.mark.parametrize("ending", [".mp4", ".webm"])
def test_sound_that_is_encoded_anew_begins_with_the_part(tmp_path: Path, clip: Path, ending: str) -> None:
    """At any rate of the samples: the clip's own 16 kHz, where nothing is resampled, too."""
    drive(clip, tmp_path / f"part{ending}", "--start", "1.5", "--duration", "1")
    for rate in (16000, 44100, 48000):
        heard = np.abs(waveform(tmp_path / f"part{ending}", rate))
        assert abs(heard.argmax() / rate - (2 - 45 / float(NTSC))) < 3e-3
        assert len(heard) / rate == pytest.approx(1, abs=0.06)


def test_the_motion_is_interpolated_to_another_frame_rate(clip: Path, tmp_path: Path) -> None:
    record = drive(clip, tmp_path / "fast.mkv", "--fps", "60000/1001", "--frames", "41")
    assert (
        record["rate"] == "60000/1001"
        and record["frames"]["written"] == 41 == VideoReader(tmp_path / "fast.mkv").num_frames
    )
    assert record["interpolated"]["from"] == "30000/1001"
    fast, slow = frames(tmp_path / "fast.mkv").astype(float), drive(clip, tmp_path / "slow.mkv", "--frames", "21")
    assert slow["interpolated"] is None
    own = frames(tmp_path / "slow.mkv").astype(float)
    steps = np.abs(np.diff(fast, axis=0)).mean((1, 2, 3))
    assert (steps > 0).mean() > 0.9, "no frame is doubled"
    assert np.abs(fast[1:39:2] - (own[:19] + own[1:20]) / 2).mean() < 2
    length = len(waveform(tmp_path / "fast.mkv"))
    drive(clip, tmp_path / "less.mkv", "--fps", "12", "--duration", str(41 * 1001 / 60000))
    assert abs(len(waveform(tmp_path / "less.mkv")) - length) < 16000 / 12


def test_resampled_motion_passes_through_its_frames_and_overshoots_nothing() -> None:
    random = np.random.default_rng(0)
    values = random.random((700, 3)).astype(np.float32)
    values[100:103] = 0, 0, 1
    rows = np.column_stack([random.random((700, 3)), np.where(np.arange(700) % 2, -179, 179)]).astype(np.float32)
    motion = Motion(values, MotionKind("x"), ("a", "b", "c"), Fraction(25), rows, (2, 699), doubtful=(0,))
    made = motion.at_rate(Fraction(75))
    assert len(made) == 2100 and made.rate == 75
    assert np.array_equal(made.values[::3], values)
    low, high = np.minimum(values[:-1], values[1:]), np.maximum(values[:-1], values[1:])
    for inner in (made.values[1:-3:3], made.values[2:-3:3]):
        assert (inner >= low - 1e-6).all() and (inner <= high + 1e-6).all()
    assert np.abs(np.abs(made.placement[:, 3] % 360 - 180)).max() < 1.5, "rolls turn the shorter way"
    assert made.missing == (5, 6, 7, 2096, 2097, 2098, 2099) and made.doubtful == (0, 1)
    part = motion.part(0, 40).at_rate(Fraction(75))  # what is far away does not matter
    assert np.array_equal(part.values[:105], made.values[:105])
    assert motion.at_rate(Fraction(25)) is motion and len(motion.at_rate(Fraction(10))) == 280
    assert len(motion.part(3, 4).at_rate(Fraction(100))) == 4


def test_the_result_has_the_size_asked_for(clip: Path, tmp_path: Path) -> None:
    record = drive(clip, tmp_path / "large.mkv", "--size", "96", "--frames", "3")
    assert record["size"] == [96, 96] and record["resized"] == {"height": 96, "by": "Lanczos (Pillow)"}
    small = drive(clip, tmp_path / "own.mkv", "--frames", "3")
    assert small["size"] == [32, 32] and small["resized"] is None
    for large, own in zip(frames(tmp_path / "large.mkv"), frames(tmp_path / "own.mkv"), strict=True):
        assert np.array_equal(large, scaled(own, 96))
    assert scaled(np.zeros((20, 31, 3), np.uint8), 40).shape == (40, 62, 3)


def test_a_stopped_run_goes_on_with_all_of_them(
    clip: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    more = ["--start", "0.5", "--fps", "50", "--size", "64", "--compare"]
    drive(clip, tmp_path / "once.mp4", *more)
    apply, calls = Toy.apply, 0

    def stopped(self: Toy, *given: Any, **options: Any) -> Any:
        nonlocal calls
        calls += 1
        if calls == 20:
            raise KeyboardInterrupt
        return apply(self, *given, **options)

    monkeypatch.setattr(Toy, "apply", stopped)
    out = tmp_path / "twice.mp4"
    assert main(["drive", "toy", "--source", "7", "--driving", str(clip), "--out", str(out), *more]) == 130
    record = drive(clip, out, *more)
    assert record["frames of an earlier run"] == 120 and record["frames"]["written"] > 200
    assert out.read_bytes() == (tmp_path / "once.mp4").read_bytes()


def test_sampled_motion_has_the_length_rate_and_size(tmp_path: Path) -> None:
    words = ["sample", "toy", "--seed", "3", "--out"]
    assert (
        main([*words, str(tmp_path / "a.mkv"), "--duration", "1", "--start", "0.2", "--fps", "50", "--size", "64"]) == 0
    )
    record = json.loads((tmp_path / "a.json").read_text())
    assert (record["frames"]["written"], record["rate"], record["size"]) == (50, "50/1", [64, 64])
    assert main([*words, str(tmp_path / "b.mkv"), "--frames", "30"]) == 0
    motion, whole = Motion.load(tmp_path / "a.safetensors"), Motion.load(tmp_path / "b.safetensors")
    assert np.array_equal(motion.values, whole.values[5:])
    assert record["command"].split()[:5] == ["stylereel", "sample", "toy", "--seed", "3"]


@pytest.mark.parametrize("more", [["--frames", "99999999999"], ["--duration", "9999999"], ["--start", "9999999"]])
def test_a_sample_that_would_fill_the_memory_is_refused(
    tmp_path: Path, more: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["sample", "toy", "--seed", "3", "--out", str(tmp_path / "a.mkv"), *more]) == 2
    assert "A sample ends after 5000000 frames at most" in capsys.readouterr().err and not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    ("more", "expected"),
    [
        (["--start", "a"], "--start takes seconds or h:m:s"),
        (["--start", "-1"], "--start"),
        (["--start", "9"], "is 5.00 s long, so nothing is left from --start 9 on"),
        (["--duration", "0"], "--duration takes more than 0"),
        (["--duration", "1", "--frames", "3"], "give one of them"),
        (["--frames", "0"], "--frames takes 1 or more"),
        (["--fps", "29,97"], "--fps takes N or N/M"),
        (["--fps", "1000"], "--fps takes 1 to 240"),
        (["--size", "100000"], "--size takes 32 to 4096 pixels, not 100000"),
        (["--size", "1"], "--size takes 32 to 4096 pixels, not 1"),
        (["--chunk", "0"], "1 frame or more"),
    ],
)
def test_mistakes_are_one_sentence_before_any_work(
    more: list[str], expected: str, clip: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "new" / "out.mp4"
    assert main(["drive", "toy", "--source", "7", "--driving", str(clip), "--out", str(out), *more]) == 2
    said = capsys.readouterr()
    assert said.out == "" and said.err.count("\n") == 1 and expected in said.err
    assert not out.parent.exists()


def test_a_clip_that_is_too_short_is_said(clip: Path, tmp_path: Path) -> None:
    with pytest.warns(UserWarning, match="ends after 30 of the 90 frames asked for"):
        record = drive(clip, tmp_path / "short.mp4", "--start", str(120 * 1001 / 30000), "--frames", "90")
    assert record["frames"]["written"] == 30


def test_times_are_exact() -> None:
    assert parse_time("1:02:03.5", "x") == Fraction(7447, 2) and parse_time("90", "x") == 90
    assert RenderOptions(start="0.1").part(100, Fraction(10), "x") == (1, 99)


def test_an_image_drives_one_frame_at_any_rate(tmp_path: Path) -> None:
    record = drive(make_clip(tmp_path / "one.mp4", num_frames=1), tmp_path / "out.mp4", "--fps", "25")
    assert record["rate"] == "25/1" and record["frames"]["written"] == 1
