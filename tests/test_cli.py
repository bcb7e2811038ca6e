"""The command line: drive from file to file with a small system, its flags, its record, and every mistake."""

import json
import shlex
import subprocess
import sys
from fractions import Fraction
from pathlib import Path
from types import SimpleNamespace
from typing import Any, Literal

import numpy as np
import pytest
import torch
from test_media import bad_clips, durations, make_clip, square, truncate

from stylereel import systems
from stylereel.cli import main
from stylereel.commands.drive import drive
from stylereel.core.latents import Identity, Motion, MotionKind
from stylereel.core.precision import choose_precision
from stylereel.core.system import Frames, Spec
from stylereel.core.version import __version__
from stylereel.media.pictures import read_picture, save_picture
from stylereel.media.video import VideoReader, VideoWriter
from stylereel.systems.sources import read_source

SIZE = 32


def _painted(w: torch.Tensor, s: None = None, dtype: torch.dtype | None = None) -> torch.Tensor:
    """Codes [B, 1, 1], grey levels, as images of one grey."""
    return (w.floor() / 127.5 - 1)[:, None].expand(-1, 3, SIZE, SIZE)


class Squares:
    """A system that paints frames in one grey, brighter with every frame."""

    name, context = "squares", 0
    motion_kinds = (MotionKind("grey"),)
    weight_files: tuple[Path, ...] = ()
    generator: Any = SimpleNamespace(synthesize=_painted, mean_w=torch.zeros(1))

    @classmethod
    def builtin(cls) -> "Squares":
        return cls()

    def to(self, device: torch.device | str) -> "Squares":
        return self

    def identify(self, source: int | np.ndarray, *, detail: int | None = None) -> Identity:
        """Who.

        Args:
            detail: how closely to look.
        """
        grey = source if isinstance(source, int) else int(source.mean())
        return Identity(torch.tensor([[float(grey)]]), self.name)

    def extract(
        self, driving: VideoReader, *, smooth_frames: float = 1.5, missing: Literal["hold", "stop"] = "hold"
    ) -> Motion:
        """What happens.

        Args:
            smooth_frames: width of the smoothing, in frames.
        """
        count = sum(1 for _ in driving)
        placement = np.tile(np.array([32, 24, 32, 0], np.float32), (count, 1))
        values = np.linspace(0, smooth_frames, count, dtype=np.float32)[:, None]
        return Motion(values, self.motion_kinds[0], ("grey",), driving.rate, placement, (3, 4))

    def apply(
        self,
        identity: Identity,
        motion: Motion,
        *,
        strength: float = 1.0,
        detail: int | None = None,
        mirror: bool = False,
    ) -> Frames:
        return Frames(w=identity.w + strength * torch.from_numpy(motion.values)[:, None] * 10)

    def portrait(self, identity: Identity) -> Frames:
        return Frames(w=identity.w[None])


@pytest.fixture(autouse=True)
def squares(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(systems, "SPECS", {"squares": Spec("test_cli:Squares")})


@pytest.fixture
def clip(tmp_path: Path) -> Path:
    return make_clip(tmp_path / "clip.mp4", Fraction(30000, 1001), 20, "aac")


def run_drive(source: Any, clip: Path, out: Path, *more: str) -> int:
    return main(["drive", "squares", "--source", str(source), "--driving", str(clip), "--out", str(out), *more])


def mistake(capsys: pytest.CaptureFixture[str], code: int) -> str:
    """The one line on stderr of a command that ended with exit code 2 and said nothing else."""
    out, err = capsys.readouterr()
    assert code == 2 and out == ""
    assert err.startswith("stylereel: ") and err.count("\n") == 1 and "Traceback" not in err
    return err


def test_drive_from_file_to_file(tmp_path: Path, clip: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = tmp_path / "new" / "out.mp4"
    assert run_drive(100, clip, out, "--strength", "2") == 0
    video = VideoReader(out)
    assert (video.rate, video.num_frames, video.width) == (Fraction(30000, 1001), 20, SIZE)
    brightness = [frame.mean() for frame in video]
    assert brightness == pytest.approx(100 + np.linspace(0, 30, 20), abs=2)
    lengths = durations(out)
    assert abs(lengths["audio"] - lengths["video"]) <= 1 / video.rate
    printed, err = capsys.readouterr()
    assert err == ""
    for text in [
        "20 frames of 32 x 32 at 30000/1001",
        "2 frames: 3, 4",
        "render",
        "encode",
        str(out),
        "out.json",
    ]:
        assert text in printed
    assert sorted(path.name for path in out.parent.iterdir()) == ["out.json", "out.mp4"]


def test_record(tmp_path: Path, clip: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "weights").write_bytes(b"abc")
    monkeypatch.setattr(Squares, "weight_files", (tmp_path / "weights",))
    assert run_drive(7, clip, tmp_path / "out.mp4", "--mirror", "--missing", "stop") == 0
    record = json.loads((tmp_path / "out.json").read_text())
    assert record["seeds"] == {"source": 7} and list(record["inputs"]) == ["driving"]
    assert record["weights"] == {"weights": "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad"}
    assert record["settings"] == {
        "curves": None,
        "slider": [],
        "edit": [],
        "compare": False,
        "lips": "driving",
        "movement": 0,
        "paste_back": "no",
        "likeness": "auto",
        "chunk": 8,
        "precision": choose_precision("auto", torch.device("cpu")),
        "start": None,
        "duration": None,
        "frames": None,
        "fps": None,
        "size": None,
        "background": None,
        "detail": None,
        "smooth_frames": 1.5,
        "missing": "stop",
        "strength": 1.0,
        "mirror": True,
        "audio": None,
        "family": "builtin",
        "device": "cpu",
    }
    assert record["frames"] == {"driving": 20, "written": 20, "without a face": [3, 4], "doubtful": []}
    assert record["rate"] == "30000/1001"
    assert set(record["seconds"]) == {"load", "identify", "extract", "render", "encode", "other"}
    assert all(spent >= 0 for spent in record["seconds"].values())
    assert sum(record["seconds"].values()) == pytest.approx(record["seconds in all"], abs=0.005)
    words = shlex.split(record["command"])
    first = (tmp_path / "out.mp4").read_bytes()
    assert words[0] == "stylereel" and main(words[1:]) == 0
    assert (tmp_path / "out.mp4").read_bytes() == first
    assert json.loads((tmp_path / "out.json").read_text())["settings"] == record["settings"]


def test_compare_shows_photo_person_at_rest_driving_and_result(tmp_path: Path, clip: Path) -> None:
    save_picture(tmp_path / "who.png", np.full((64, 48, 3), 60, np.uint8))
    assert run_drive(tmp_path / "who.png", clip, tmp_path / "out.mp4", "--compare") == 0
    panels = photo, rest, driving, result = (slice(2, 20), slice(30, 54), slice(64, 88), slice(98, 120))
    for index, frame in enumerate(VideoReader(tmp_path / "out.mp4")):
        assert frame.shape == (48, 126, 3)  # 24 + 3 x 32 wide, three gaps; a strip of labels above
        assert frame[20:, photo].mean() == pytest.approx(60, abs=3)
        assert frame[20:, rest].mean() == pytest.approx(60, abs=3)
        assert frame[20:, result].mean() == pytest.approx(60 + 15 * index / 19, abs=3)
        expected = square(index)[12:, 20:44]
        assert np.abs(frame[20:44, driving].astype(int) - expected[:24]).mean() < 12
        assert all(frame[:14, panel].min() < 120 for panel in panels), "labels"
    assert run_drive(60, clip, tmp_path / "seed.mp4", "--compare") == 0
    seed = next(iter(VideoReader(tmp_path / "seed.mp4")))
    assert seed[20:, 2:28].mean() == pytest.approx(60, abs=3) and seed.shape[1] == 3 * 32 + 4


def test_a_comparison_fits_a_screen_unless_its_size_is_chosen(
    tmp_path: Path, clip: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("stylereel.commands.drive.SCREEN", (80, 60))
    assert run_drive(60, clip, tmp_path / "small.mkv", "--compare", "--frames", "6") == 0
    assert VideoReader(tmp_path / "small.mkv").width <= 80
    assert run_drive(60, clip, tmp_path / "sized.mkv", "--compare", "--frames", "6", "--size", "40") == 0
    assert VideoReader(tmp_path / "sized.mkv").width == 3 * 40 + 4


def test_help_shows_the_systems_own_flags_once(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["drive", "squares", "--help"]) == 0
    text = " ".join(capsys.readouterr().out.split())
    for expected in [
        "--smooth-frames",
        "width of the smoothing",
        "{hold,stop}",
        "--mirror, --no-mirror",
        "how closely",
    ]:
        assert expected in text
    assert text.count("--detail DETAIL how") == 1
    assert main(["drive", "--help"]) == 0
    assert "--smooth-frames" not in capsys.readouterr().out


def test_help_is_fast_because_it_imports_little() -> None:
    code = "import sys; from stylereel.cli import main; main(['--help']); sys.exit('torch' in sys.modules)"
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert result.returncode == 0 and "drive" in result.stdout


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        (["drvie"], "did you mean drive?"),
        (["nonsense"], "no command nonsense"),
        (["drive"], "Name the system first"),
        (["drive", "squares"], "needs --source, --out"),
        (["drive", "squares", "--drivin", "x"], "did you mean --driving?"),
        (["drive", "squares", "--strength"], "--strength"),
        (["drive", "squares", "--strength", "much"], "--strength takes a number, not much"),
        (["drive", "squares", "--missing", "skip"], "--missing takes one of hold, stop, not skip"),
        (["drive", "squares", "--detail", "x"], "--detail takes a whole number or null, not x"),
        (["look", "--out", "x.png"], "needs a file"),
        (
            ["drive", "squares", "--source", "", "--driving", "x.mp4", "--out", "y.mp4"],
            "--source was given an empty text",
        ),
        (
            ["drive", "squares", "--source", "1", "--driving", "x", "--out", "y", "--background="],
            "--background was given an empty text",
        ),
        (
            ["world", "portrait", "--out", "x.png", "--size", "1000000000"],
            "--size takes 16 to 8192 pixels",
        ),
        (["world", "clip", "--out", "x.mp4", "--rate", "1000000"], "--rate takes 1 to 240 frames a second"),
        (["look", ""], "files was given an empty text"),
    ],
)
def test_wrong_words(arguments: list[str], expected: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert expected in mistake(capsys, main(arguments))


def test_a_negative_seed_is_no_file() -> None:
    with pytest.raises(ValueError, match="A seed is 0 or more, not -1"):
        read_source("-1")


@pytest.mark.parametrize("command", ["drive", "look"])
@pytest.mark.parametrize(
    "case", ["missing", "folder", "empty", "text", "only sound", "no frames", "without index", "cut"]
)
def test_unusable_clips(tmp_path: Path, case: str, command: str, capsys: pytest.CaptureFixture[str]) -> None:
    cases = bad_clips(tmp_path)
    cases["cut"] = noisy_clip(tmp_path / "cut.mp4", 0.6)
    out = tmp_path / "out"
    if command == "drive":
        code = run_drive(1, cases[case], out / "out.mp4")
    else:
        code = main(["look", str(cases[case]), "--out", str(out / "out.png")])
    assert str(cases[case]) in mistake(capsys, code)
    assert not out.exists()


def noisy_clip(path: Path, part: float) -> Path:
    """A clip whose index is in front and whose data are cut."""
    random = np.random.default_rng(0)
    with VideoWriter(path, Fraction(25)) as writer:
        for _ in range(30):
            writer.write(random.integers(0, 255, (48, 64, 3), np.uint8))
    return truncate(path, part)


def test_a_clip_that_breaks_while_rendering_leaves_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    motion = Squares().extract(VideoReader(make_clip(tmp_path / "whole.mp4", num_frames=30)))
    monkeypatch.setattr(Squares, "extract", lambda self, driving: motion)
    code = run_drive(1, noisy_clip(tmp_path / "cut.mp4", 0.6), tmp_path / "out" / "out.mp4", "--compare")
    assert "damaged after" in mistake(capsys, code)
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("kind", ["missing", "folder", "text"])
def test_unusable_sources(tmp_path: Path, clip: Path, kind: str, capsys: pytest.CaptureFixture[str]) -> None:
    source = tmp_path / "who.png"
    if kind == "folder":
        source.mkdir()
    elif kind == "text":
        source.write_text("not a picture")
    assert str(source) in mistake(capsys, run_drive(source, clip, tmp_path / "out" / "out.mp4"))
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("folder", "is a folder"),
        ("out.avi", "must end in .mp4"),
        ("clip.mp4/out.mp4", "cannot be written"),
        ("clip.mp4", "would be written over the input"),
    ],
)
def test_unusable_outputs_are_found_before_any_work(
    tmp_path: Path,
    clip: Path,
    name: str,
    expected: str,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    def worked(*_: Any) -> None:
        raise AssertionError("work began before the check")

    monkeypatch.setattr(Squares, "identify", worked)
    (tmp_path / "folder").mkdir()
    before = clip.read_bytes()
    assert expected in mistake(capsys, run_drive(1, clip, tmp_path / name))
    assert clip.read_bytes() == before
    assert sorted(path.name for path in tmp_path.rglob("*")) == ["clip.mp4", "folder"]


def test_values_out_of_range(tmp_path: Path, clip: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert "1 frame or more" in mistake(capsys, run_drive(1, clip, tmp_path / "out.mp4", "--chunk", "0"))
    assert "larger numbers" in mistake(
        capsys, main(["look", str(clip), "--out", str(tmp_path / "a.png"), "--rows", "0"])
    )


def test_ctrl_c(tmp_path: Path, clip: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def stopped(self: Any, *given: Any) -> Frames:
        raise KeyboardInterrupt

    monkeypatch.setattr(Squares, "apply", stopped)
    assert run_drive(1, clip, tmp_path / "out" / "out.mp4") == 130
    assert not (tmp_path / "out").exists()


def test_a_system_that_cannot_be_driven_says_so(
    tmp_path: Path, clip: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(Squares, "extract", None)
    assert "squares does not offer moving a portrait by a clip" in mistake(
        capsys, run_drive(1, clip, tmp_path / "out.mp4")
    )


def test_drive_from_python(tmp_path: Path, clip: Path) -> None:
    record = drive("squares", source="9", driving=str(clip), out=str(tmp_path / "out.mp4"), options={"strength": 0.0})
    assert record["settings"]["strength"] == 0.0 and record["frames"]["written"] == 20
    with pytest.raises(ValueError, match="no option strenght; it has detail, mirror"):
        drive("squares", source="9", driving=str(clip), out=str(tmp_path / "out.mp4"), options={"strenght": 0.0})


def test_the_sound_is_the_drivers_or_the_one_given(
    tmp_path: Path, clip: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    motion = Squares().extract(VideoReader(clip))
    motion.save(tmp_path / "motion.safetensors")
    out = tmp_path / "out.mp4"
    assert run_drive(1, tmp_path / "motion.safetensors", out) == 0 and not VideoReader(out).has_audio
    assert run_drive(1, tmp_path / "motion.safetensors", out, "--audio", str(clip)) == 0
    assert VideoReader(out).has_audio
    assert json.loads(out.with_suffix(".json").read_text())["inputs"]["audio"]["file"] == str(clip)
    capsys.readouterr()
    silent = make_clip(tmp_path / "silent.mp4", num_frames=3)
    assert "has no sound" in mistake(capsys, run_drive(1, clip, tmp_path / "b.mp4", "--audio", str(silent)))


def test_look(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for name in ("clip.mp4", "clip.mkv"):  # with and without an index of frames
        clip = make_clip(tmp_path / name, num_frames=11)
        assert main(["look", str(clip), "--columns", "3", "--rows", "2", "--overwrite"]) == 0
        page = read_picture(tmp_path / "clip-look.png")[-(2 * 64 + 2) :, : 3 * 64 + 4]
        for place, index in enumerate([0, 2, 4, 6, 8, 10]):
            top, left = 16 + place // 3 * 66, place % 3 * 66
            assert np.abs(page[top : top + 48, left : left + 64].astype(int) - square(index)).mean() < 5
    assert capsys.readouterr().out.count("clip-look.png") == 2
    assert main(["look", str(tmp_path / "clip.mp4"), str(tmp_path / "clip.mkv"), "--out", str(tmp_path / "b.png")]) == 0
    assert read_picture(tmp_path / "b.png").shape == (2 * 64 + 2, 6 * 64 + 5 * 2, 3)


def test_world_sheet_gives_each_portrait_its_own_seed(tmp_path: Path) -> None:
    def portraits(seed: int, rows: int) -> list[np.ndarray]:
        path = tmp_path / "world.png"
        words = [
            "--seed",
            str(seed),
            "--columns",
            "2",
            "--rows",
            str(rows),
            "--size",
            "32",
            "--out",
            str(path),
            "--overwrite",
        ]
        assert main(["world", "sheet", *words]) == 0
        page = read_picture(path)
        return [page[16 + 50 * row : 48 + 50 * row, 34 * column :][:, :32] for row in range(rows) for column in (0, 1)]

    four, two = portraits(3, 2), portraits(5, 1)
    assert np.array_equal(four[2:], two)
    assert not np.array_equal(four[0], four[1])


def test_systems_and_version(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["systems"]) == 0 and main(["--version"]) == 0 and main([]) == 0
    assert capsys.readouterr().out.startswith(f"squares\nstylereel {__version__}\nusage:")


def test_unknown_system_lists_the_known(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.undo()
    message = mistake(capsys, main(["drive", "nobody", "--help"]))
    assert all(name in message for name in systems.list_systems())


def test_paste_back_alone_means_the_source(tmp_path: Path, clip: Path, capsys: pytest.CaptureFixture[str]) -> None:
    from stylereel.cli import _add_flags, _parse, _parser
    from stylereel.commands.drive import drive

    parser = _parser("drive", "")
    _add_flags(parser, drive, skip=("system", "files", "options", "stages", "rendering"))
    given = ["--source", "1", "--driving", str(clip), "--out", str(tmp_path / "out.mp4")]
    for words, expected in (([], "no"), (["--paste-back"], "source"), (["--paste-back", "driving"], "driving")):
        assert _parse(parser, [*given, *words])["paste_back"] == expected
    assert main(["drive", "squares", *given, "--paste-back", "elsewhere"]) == 2
    assert "--paste-back takes one of no, source, driving" in capsys.readouterr().err
