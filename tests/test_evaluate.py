"""`stylereel eval` from files to files: what it writes, how processes share the work, and its sentences."""

import json
from fractions import Fraction
from pathlib import Path

import numpy as np
import pytest

from stylereel import cli
from stylereel.commands.evaluate import Outcome, evaluate, lines, table
from stylereel.core.record import Stages, sha256
from stylereel.media.pictures import save_picture
from stylereel.media.video import VideoWriter
from stylereel.metrics import registry
from stylereel.metrics.clips import Clip, open_clips
from stylereel.metrics.registry import Measure, Run, Unfit, find, measures


def noise(seed: int, *shape: int) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 256, shape, dtype=np.uint8)


def clips(seed: int, frames: int = 5) -> list[Clip]:
    return [Clip(noise(seed + i, frames, 32, 32, 3), f"clip{i}") for i in range(3)]


@pytest.fixture
def folders(tmp_path: Path) -> tuple[Path, Path]:
    """Two clips each, of 4 and 6 frames; those of the reference are a little brighter."""
    for name, step in (("result", 0), ("reference", 20)):
        for clip, frames in (("one", 4), ("two", 6)):
            with VideoWriter(tmp_path / name / f"{clip}.mp4", Fraction(30000, 1001), crf=0) as writer:
                for frame in noise(frames, frames, 32, 32, 3) // 2 + np.uint8(step):
                    writer.write(frame)
    return tmp_path / "result", tmp_path / "reference"


def test_the_command_writes_numbers_with_all_that_is_needed_to_repeat_them(
    folders: tuple[Path, Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    result, reference = folders
    out = tmp_path / "out"
    names = "psnr,l1,frechet"
    arguments = ["eval", str(result), "--reference", str(reference), "--measures", names, "--out", str(out)]
    assert cli.main(arguments) == 0
    printed = capsys.readouterr().out
    data = json.loads((out / "results.json").read_text())
    frechet = next(name for name in data["scores"] if name.startswith("frechet[stylereel-face-"))
    assert list(data["scores"]) == ["psnr", "l1", frechet]
    assert (out / "table.md").read_text() in printed and f"| {frechet} |" in printed
    assert (out / "plot.png").read_bytes().startswith(b"\x89PNG")
    assert data["seed"] == 0 and data["stylereel"] and data["not measured"] == {}
    assert data["result"][1] == {
        "path": str(result / "two.mp4"),
        "name": "two",
        "frames": 6,
        "rate": "30000/1001",
        "sha256": sha256(result / "two.mp4"),
    }
    face = data["weights"]["face.safetensors"]["sha256"]
    assert f"[stylereel-face-{face[:8]}]" in frechet
    score = data["scores"]["l1"]
    assert score["counts"] == {"clips": 2, "frames": 10, "not told": 0} and score["protocol"]
    assert 15 < score["value"] < 25 and set(score["parts"]) == {"one", "two"}
    assert score["interval"][0] <= score["value"] <= score["interval"][1] and score["interval_by"]
    pooled = (4 * score["parts"]["one"] + 6 * score["parts"]["two"]) / 10
    assert score["value"] == pytest.approx(pooled, rel=1e-9)


def test_two_processes_give_the_numbers_of_one() -> None:
    names = ["l1", "frechet", "kernel-distance"]
    alone = evaluate(clips(0), reference=clips(9), measures=names).scores
    shared = evaluate(clips(0), reference=clips(9), measures=names, processes=2).scores
    for one, two in zip(alone, shared, strict=True):
        assert two.name == one.name and two.counts == one.counts
        assert two.value == pytest.approx(one.value, rel=1e-5)
        assert two.interval == pytest.approx(one.interval, rel=1e-4)


def test_without_names_all_that_fit_are_measured_and_the_others_named(monkeypatch: pytest.MonkeyPatch) -> None:
    few = {name: find(name) for name in ("l1", "psnr", "lpips-alex")}
    mean = Measure(
        "brightness", "clip", "neither", "levels", "", "", None, lambda clip: np.mean([f.mean() for f in clip])
    )
    monkeypatch.setattr("stylereel.commands.evaluate.all_measures", lambda: few | {"brightness": mean})
    monkeypatch.setenv("STYLEREEL_CACHE", "nowhere")
    told: list[str] = []
    stages = Stages(lambda each: told.append(f"{each.counting} {each.done} of {each.total}"))
    scores, skipped, _ = evaluate(clips(0), reference=clips(3), stages=stages)
    assert told[-1] == "measures 4 of 4"
    assert [score.name for score in scores] == ["l1", "psnr", "brightness"] and list(skipped) == ["lpips-alex"]
    scores, skipped, _ = evaluate(clips(0))
    assert [score.name for score in scores] == ["brightness"] and set(skipped) == set(few)
    scores, skipped, _ = evaluate(clips(0), reference=clips(3, frames=4))
    assert [score.name for score in scores] == ["brightness"] and "cut both to the same frames" in skipped["l1"]


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        (["--measures", "psrn"], "There is no measure 'psrn'; did you mean psnr?"),
        (["--measures", "psnr"], "psnr compares with a reference; give one with --reference."),
        (["--measures", "psnr", "--reference", "short"], "5 frames and its reference 3; cut both to the same frames."),
        (["--measures", "psnr", "--reference", "large"], "have 32 x 32 and 40 x 32 pixels; resize one of them."),
        (["--measures", "psnr", "--reference", "empty"], "holds neither clips nor images"),
        (["--video-protocol", "fid"], "There is no video protocol 'fid'; there are windows, stylefacev"),
        (["--processes", "0"], "An evaluation needs 1 or more processes"),
    ],
)
def test_mistakes_get_one_sentence(
    arguments: list[str], sentence: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture
) -> None:
    monkeypatch.chdir(tmp_path)
    for name, count, width in (("result", 5, 32), ("short", 3, 32), ("large", 5, 40)):
        for index in range(count):
            save_picture(tmp_path / name / f"{index}.png", noise(index, 32, width, 3))
    (tmp_path / "empty").mkdir()
    assert cli.main(["eval", "result", *arguments]) == 2
    said = capsys.readouterr().err
    assert sentence in said and said.count("\n") == 1


def test_a_missing_extra_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    import sys

    monkeypatch.setitem(sys.modules, "torchmetrics.functional.image", None)
    with pytest.raises(Unfit, match=r"pip install 'stylereel\[metrics\]'"):
        find("ssim")(clips(0), clips(1))
    monkeypatch.setitem(sys.modules, "matplotlib", None)
    with pytest.raises(ValueError, match=r"pip install 'stylereel\[metrics\]'"):
        evaluate(clips(0), reference=clips(1), measures=["l1"], out="anywhere")


def test_an_error_in_one_process_is_raised_in_all(monkeypatch: pytest.MonkeyPatch) -> None:
    import torch.distributed

    def everyone(box: list, mine: object) -> None:
        box[:] = [mine, (None, ValueError("the other's clip is damaged"))]

    monkeypatch.setattr(torch.distributed, "all_gather_object", everyone)
    with pytest.raises(ValueError, match="the other's clip"):
        Run(world=2).share(lambda: 1)


# Clips


def test_clips_are_read_again_and_again_from_files_folders_and_memory(
    folders: tuple[Path, Path], tmp_path: Path
) -> None:
    one, two = open_clips(folders[0])
    assert (one.name, two.name, two.num_frames, two.rate) == ("one", "two", 6, Fraction(30000, 1001))
    assert len(list(two)) == len(list(two)) == 6
    for index in (2, 10, 9):
        save_picture(tmp_path / "pictures" / f"{index}.png", np.full((8, 8, 3), index, np.uint8))
    np.savez(tmp_path / "pictures.npz", factors=np.ones((3, 2)))
    (pictures,) = open_clips(tmp_path / "pictures")
    assert [int(frame[0, 0, 0]) for frame in pictures] == [2, 9, 10]
    assert pictures.truth["factors"].shape == (3, 2) and pictures.sound is None
    memory = Clip(noise(0, 4, 8, 8, 3))
    assert memory.num_frames == 4 and memory.fingerprint() == Clip(noise(0, 4, 8, 8, 3)).fingerprint()
    assert memory.fingerprint() != Clip(noise(1, 4, 8, 8, 3)).fingerprint() and memory.track is None
    assert (memory.keep("once", lambda: 1), memory.keep("once", lambda: 2)) == (1, 1)


def test_clips_of_a_pair_have_one_name() -> None:
    ours, theirs = clips(0), clips(0)[::-1]
    assert find("l1")(ours, theirs).value == 0
    theirs[0].name = "stranger"
    with pytest.raises(Unfit, match="The reference has no clip clip2"):
        find("l1")(ours, theirs)
    with pytest.raises(Unfit, match="3 clips and the reference 2"):
        find("l1")(ours, theirs[:2])


def test_frames_of_other_moments_are_not_compared(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Files name their rate; 29.97 and 30 are one, images have none. Measures left out for one reason share a line."""
    for name, rate in (("a", Fraction(25)), ("b", Fraction(50)), ("c", Fraction(2501, 100))):
        with VideoWriter(tmp_path / f"{name}.mkv", rate) as writer:
            for frame in noise(0, 4, 32, 32, 3):
                writer.write(frame)
    a, b, c = (open_clips(tmp_path / f"{name}.mkv") for name in "abc")
    with pytest.raises(Unfit, match="a has 25 frames a second and its reference 50, so their frames are of other"):
        find("psnr")(a, b)
    assert np.isinf(find("psnr")(a, c).value) and np.isinf(find("psnr")([Clip(noise(0, 4, 32, 32, 3))], b).value)
    outcome = Outcome([], {"psnr": "It is so.", "l1": "It is so.", "ssim": "ssim compares with a reference."})
    assert [line for line in lines(outcome) if "not measured" in line] == [
        "not measured: psnr, l1: It is so.",
        "not measured: ssim: It compares with a reference.",
    ]


def test_what_cannot_be_told_is_counted_and_left_out() -> None:
    half = Measure("half", "clip", "higher", "", "", "", None, lambda clip: [1.0, np.nan, 3.0])
    score = half(clips(0))
    assert score.value == 2 and score.counts == {"clips": 3, "frames": 9, "not told": 3}
    none = Measure("none", "clip", "higher", "", "", "", None, lambda clip: np.nan)
    score = none(clips(0))
    assert np.isnan(score.value) and score.interval is None and "undefined" in table([score])


# The registry


def test_every_measure_says_what_it_is() -> None:
    for one in measures().values():
        assert one.protocol.endswith(".") and one.source and one.name == one.name.lower(), one.name


def test_two_measures_cannot_share_a_name() -> None:
    with pytest.raises(ValueError, match="a measure l1 already"):
        registry.measure("l1", compares="clip", better="lower", unit="", protocol="", source="")(lambda clip: 0.0)
