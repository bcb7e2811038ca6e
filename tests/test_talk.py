"""The commands `stylereel encode` and `stylereel decode`, from file to file with a small system."""

import json
from fractions import Fraction
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from test_cli import Squares, mistake
from test_media import durations, make_clip

from stylereel import codec, systems
from stylereel.cli import main
from stylereel.codec import packets
from stylereel.core.latents import Identity
from stylereel.core.system import Spec
from stylereel.media.video import VideoReader


class Painted(Squares):
    """Squares that also take a saved identity."""

    name = "painted"

    def identify(self, source: Any, *, detail: int | None = None) -> Identity:
        return source if isinstance(source, Identity) else super().identify(source, detail=detail)


@pytest.fixture(autouse=True)
def painted(monkeypatch: pytest.MonkeyPatch) -> None:
    spec = Spec("test_talk:Painted")
    monkeypatch.setattr(systems, "SPECS", {"stylemask": spec, "painted": spec})


@pytest.fixture
def clip(tmp_path: Path) -> Path:
    return make_clip(tmp_path / "clip.mp4", Fraction(30000, 1001), 40, "aac")


def test_there_and_back(tmp_path: Path, clip: Path, capsys: pytest.CaptureFixture[str]) -> None:
    talk = tmp_path / "a.talk"
    assert main(["encode", str(clip), "--out", str(talk), "--source", "100"]) == 0
    printed = capsys.readouterr().out
    assert "motion, index and checks" in printed and "10 min in" in printed and str(talk) in printed
    record = json.loads((tmp_path / "a.talk.json").read_text())
    assert sum(record["bytes"].values()) == talk.stat().st_size
    assert record["frames"] == {"written": 40, "without a face": [3, 4]}
    assert main(["decode", str(talk), "--out", str(tmp_path / "a.mp4")]) == 0
    assert "40 frames of 32 x 32, with sound" in capsys.readouterr().out
    video = VideoReader(tmp_path / "a.mp4")
    assert (video.rate, video.num_frames) == (Fraction(30000, 1001), 40)
    assert [frame.mean() for frame in video] == pytest.approx(100 + np.linspace(0, 15, 40), abs=3)
    lengths = durations(tmp_path / "a.mp4")
    assert abs(lengths["audio"] - lengths["video"]) <= 0.1
    assert (tmp_path / "a.talk.json").exists() and (tmp_path / "a.json").exists()
    assert main(["decode", str(talk), "--out", str(tmp_path / "b.mkv"), "--source", "30"]) == 0
    assert next(iter(VideoReader(tmp_path / "b.mkv"))).mean() == pytest.approx(30, abs=3)


def test_a_talk_file_drives(tmp_path: Path, clip: Path, capsys: pytest.CaptureFixture[str]) -> None:
    talk = tmp_path / "a.talk"
    assert main(["encode", str(clip), "--out", str(talk), "--source", "100"]) == 0
    drive = ["drive", "painted", "--source", "30", "--driving", str(talk), "--out"]
    assert main([*drive, str(tmp_path / "a.mkv"), "--start", "0.5"]) == 0
    video = VideoReader(tmp_path / "a.mkv")
    assert (video.rate, video.num_frames, video.has_audio) == (Fraction(30000, 1001), 25, True)
    assert [frame.mean() for frame in video] == pytest.approx(30 + np.linspace(0, 15, 40)[15:], abs=1)
    assert main([*drive, str(tmp_path / "b.gif")]) == 0
    capsys.readouterr()
    sentence = mistake(capsys, main([*drive, str(tmp_path / "c.mp4"), "--paste-back", "driving"]))
    assert "Only a clip has frames to paste into" in sentence
    talk.write_bytes(talk.read_bytes()[:60])
    assert "get another copy" in mistake(capsys, main([*drive, str(tmp_path / "c.mp4")]))
    assert not (tmp_path / "c.mp4").exists()


def test_the_clips_own_face_and_no_sound(tmp_path: Path, clip: Path) -> None:
    assert main(["encode", str(clip), "--out", str(tmp_path / "a.talk"), "--sound-rate", "0"]) == 0
    found = codec.read(tmp_path / "a.talk")
    first = next(iter(VideoReader(clip)))
    assert isinstance(found.identity, Identity) and found.sound is None
    assert float(found.identity.w) == pytest.approx(int(first.mean()), rel=0.02)


def test_a_part_of_the_clip(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    clip, talk = make_clip(tmp_path / "long.mp4", Fraction(10), 60, "aac"), tmp_path / "a.talk"
    assert main(["encode", str(clip), "--out", str(talk), "--source", "100", "--start", "2", "--duration", "3"]) == 0
    found, whole = codec.read(talk), list(VideoReader(clip))
    assert len(found.motion) == 30
    assert found.sound is not None and len(found.sound) / 48_000 == pytest.approx(3, abs=0.05)
    assert main(["encode", str(clip), "--out", str(tmp_path / "b.talk"), "--start", "2", "--sound-rate", "0"]) == 0
    begins = codec.read(tmp_path / "b.talk").identity  # the first frame of the part is who is shown
    assert isinstance(begins, Identity) and float(begins.w) == pytest.approx(int(whole[20].mean()), rel=0.02)
    capsys.readouterr()
    late = ["encode", str(clip), "--out", str(tmp_path / "c.talk"), "--start", "6"]
    assert "begin earlier" in mistake(capsys, main(late))


def test_options_of_the_system(tmp_path: Path, clip: Path, capsys: pytest.CaptureFixture[str]) -> None:
    encode = ["encode", str(clip), "--source", "5", "--out"]
    assert main([*encode, str(tmp_path / "a.talk"), "--option", "smooth_frames=3"]) == 0
    assert codec.read(tmp_path / "a.talk").motion.values.max() == pytest.approx(3, abs=0.3)
    assert json.loads((tmp_path / "a.talk.json").read_text())["settings"]["option"] == ["smooth_frames=3"]
    capsys.readouterr()
    for given, sentence in {
        "smooth_frames": "NAME=VALUE of",
        "nose=1": "smooth_frames",
        "smooth_frames=x": "a number",
    }.items():
        assert sentence in mistake(capsys, main([*encode, str(tmp_path / "b.talk"), "--option", given]))


def test_only_a_clips_own_face_is_tuned_to(tmp_path: Path, clip: Path, capsys: pytest.CaptureFixture[str]) -> None:
    encode = ["encode", str(clip), "--out", str(tmp_path / "a.talk")]
    for given, sentence in {
        "--tune -1": "0 passes or more",
        "--tune 2 --source 5": "leave out --source",
        "--tune 2 --system painted": "choose the system expressive",
    }.items():
        assert sentence in mistake(capsys, main([*encode, *given.split()]))


def test_damage_is_told(tmp_path: Path, clip: Path, capsys: pytest.CaptureFixture[str]) -> None:
    long = make_clip(tmp_path / "long.mp4", Fraction(10), 120)
    assert main(["encode", str(long), "--out", str(tmp_path / "a.talk"), "--source", "5"]) == 0
    data = bytearray((tmp_path / "a.talk").read_bytes())
    groups = [place for kind, _, *place in packets.Scanner().feed(bytes(data), last=True) if kind == packets.GROUP]
    assert len(groups) == 3
    data[groups[1][0] + groups[1][1] // 2] ^= 255
    (tmp_path / "a.talk").write_bytes(data)
    capsys.readouterr()
    assert main(["decode", str(tmp_path / "a.talk"), "--out", str(tmp_path / "a.mp4")]) == 0
    assert "frames 40 to 79 are damaged" in capsys.readouterr().out
    assert VideoReader(tmp_path / "a.mp4").num_frames == 120


def test_mistakes(tmp_path: Path, clip: Path, capsys: pytest.CaptureFixture[str]) -> None:
    talk = tmp_path / "a.talk"
    assert main(["encode", str(clip), "--out", str(talk), "--source", "100"]) == 0
    capsys.readouterr()
    (tmp_path / "mine.talk").write_bytes(b"mine")
    cases = [
        (["encode", str(clip), "--out", str(tmp_path / "x.mp4")], "must end in .talk"),
        (["encode", str(clip), "--out", str(tmp_path / "mine.talk")], "--overwrite"),
        (["encode", str(clip), "--out", str(tmp_path / "x.talk"), "--rate", "0"], "more than 0"),
        (["encode", str(clip), "--out", str(tmp_path / "x.talk"), "--rate", "0.001"], "does not fit into"),
        (["encode", str(tmp_path / "no.mp4"), "--out", str(tmp_path / "x.talk")], "no.mp4"),
        (["decode", str(clip), "--out", str(tmp_path / "x.mp4")], "no talk file"),
        (["decode", str(talk), "--out", str(clip)], "clip.mp4"),
    ]
    for arguments, sentence in cases:
        assert sentence in mistake(capsys, main(arguments))
    assert (tmp_path / "mine.talk").read_bytes() == b"mine" and not (tmp_path / "x.talk").exists()


def test_other_weights_and_no_person(
    tmp_path: Path, clip: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "weights").write_bytes(b"abc")
    monkeypatch.setattr(Painted, "weight_files", (tmp_path / "weights",))
    assert main(["encode", str(clip), "--out", str(tmp_path / "a.talk"), "--source", "5"]) == 0
    (tmp_path / "weights").write_bytes(b"other")
    capsys.readouterr()
    sentence = mistake(capsys, main(["decode", str(tmp_path / "a.talk"), "--out", str(tmp_path / "a.mp4")]))
    assert "another generator" in sentence
    motion = codec.read(tmp_path / "a.talk").motion
    codec.write(tmp_path / "b.talk", motion, codec.Reference(bytes(32), "anna.safetensors"), "painted")
    sentence = mistake(capsys, main(["decode", str(tmp_path / "b.talk"), "--out", str(tmp_path / "b.mp4")]))
    assert "--source, anna.safetensors" in sentence
