"""The whole line from a clip to a finished mp4 on the built-in weights: demo, motion, people, real clips."""

import json
import shlex
from dataclasses import replace
from fractions import Fraction
from pathlib import Path

import numpy as np
import pytest

from stylereel import world
from stylereel.cli import main
from stylereel.commands import demo
from stylereel.commands.drive import drive
from stylereel.core.render import render
from stylereel.faces.backend import DlibBackend, find_face
from stylereel.media.pictures import save_picture
from stylereel.media.video import VideoReader, VideoWriter
from stylereel.metrics.likeness import same_person_closer
from stylereel.metrics.registry import find, open_clips
from stylereel.systems.stylemask import StyleMask

CLIPS = Path(__file__).parents[2] / "shared" / "clips"


def correlations(driving: Path, result: Path) -> list[float]:
    """How the result's yaw and mouth follow the driving clip's."""
    theirs, ours = open_clips(driving), open_clips(result)
    return [find(f"correlation-{track}")(ours, theirs).value for track in ("yaw", "mouth")]


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("demo")
    assert main(["demo", "--out", str(folder)]) == 0
    return folder


def test_the_demo_makes_what_it_says(made: Path) -> None:
    names = {"driving.mp4", "driving.json", "drive.mp4", "drive.json", "sheet.png"}
    assert {path.name for path in made.iterdir()} == names
    driving, result = VideoReader(made / "driving.mp4"), VideoReader(made / "drive.mp4")
    assert driving.num_frames == result.num_frames == demo.SECONDS * 25
    assert driving.rate == result.rate == Fraction(25) and result.has_audio
    assert result.width >= 3 * 256 and result.height >= 256  # with gaps and labels
    record = json.loads((made / "drive.json").read_text())
    assert record["rate"] == "25/1" and record["frames"]["written"] == result.num_frames


def test_the_demos_clip_is_what_the_world_draws(made: Path) -> None:
    motion = world.natural_motion(demo.MOVEMENT, demo.SECONDS * 25, Fraction(25))
    for index, frame in enumerate(VideoReader(made / "driving.mp4")):
        if index % 20 == 3:
            values = world.person(demo.SPEAKER)
            values[world.MOTION_COLUMNS] = motion[index]
            wrong = world.draw(values, demo.SIZE).image.astype(float) - frame
            assert 10 * np.log10(255**2 / np.square(wrong).mean()) > 30, "make it again: stylereel demo --draw"


def test_the_result_moves_as_the_driving_clip(made: Path, tmp_path: Path) -> None:
    out = tmp_path / "alone.mp4"
    drive("stylemask", source=str(demo.SOURCE), driving=str(made / "driving.mp4"), out=str(out))
    yaw, mouth = correlations(made / "driving.mp4", out)
    assert yaw >= 0.8 and mouth >= 0.6


def test_sources_stay_themselves(made: Path) -> None:
    """Frames of one source are closer in dlib's embedding than frames of others (benchmarks/drive.py: at length)."""
    system = StyleMask.builtin()
    motion = system.extract(made / "driving.mp4")
    motion = replace(motion, values=motion.values[::20], placement=motion.placement[::20])
    backend = DlibBackend()
    people = []
    for seed in range(5):
        frames = render(system, system.identify(seed), motion)
        people.append(np.array([backend.embedding(frame, find_face(frame, backend)) for frame in frames]))
    assert same_person_closer(people) >= 0.9


@pytest.mark.skipif(not CLIPS.is_dir(), reason="the real clips are not part of the repository")
def test_a_real_clip_drives(tmp_path: Path) -> None:
    clip, out = CLIPS / "woman-expressive-30fps.mp4", tmp_path / "out.mp4"
    assert VideoReader(clip).num_frames == 354
    cut = tmp_path / "cut.mp4"  # every third frame, at a third of the rate
    with VideoWriter(cut, Fraction(10)) as writer:
        for frame in list(VideoReader(clip))[::3]:
            writer.write(frame)
        writer.finish()
    drive("stylemask", source="1", driving=str(cut), out=str(out))
    given, result = VideoReader(cut), VideoReader(out)
    assert result.num_frames == given.num_frames == 118 and result.rate == given.rate
    yaw, mouth = correlations(cut, out)
    assert yaw >= 0.9 and mouth >= 0.8


@pytest.mark.parametrize("wrong", ["driving", "source"])
def test_no_face_is_one_sentence_and_leaves_nothing(
    wrong: str, made: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    empty_clip, empty_picture = tmp_path / "empty.mp4", tmp_path / "empty.png"
    with VideoWriter(empty_clip, Fraction(25)) as writer:
        for _ in range(5):
            writer.write(np.full((128, 128, 3), 90, np.uint8))
        writer.finish()
    save_picture(empty_picture, np.full((128, 128, 3), 90, np.uint8))
    source = str(empty_picture) if wrong == "source" else "1"
    driving = str(empty_clip) if wrong == "driving" else str(made / "driving.mp4")
    out = tmp_path / "out" / "result.mp4"
    assert main(["drive", "stylemask", "--source", source, "--driving", driving, "--out", str(out)]) == 2
    said = capsys.readouterr().err.strip().splitlines()
    assert len(said) == 1 and "face" in said[0] and "Traceback" not in said[0]
    assert not out.parent.exists()


def test_the_readme_commands_are_real(made: Path, tmp_path: Path) -> None:
    """Every `python3 run.py ...` line of the README runs, with its own files moved to a temporary folder."""
    text = (Path(__file__).parents[1] / "README.md").read_text()
    lines = [line.removeprefix("python3 run.py ") for line in text.splitlines() if line.startswith("python3 run.py ")]
    commands = [shlex.split(line) for line in lines if line.split()[0] not in ("demo", "page", "test")]
    assert {"demo", "page", "test"} <= {line.split()[0] for line in lines} and len(commands) >= 3
    (tmp_path / "my-clip.mp4").write_bytes((made / "driving.mp4").read_bytes())
    save_picture(tmp_path / "portrait.png", world.draw(world.neutral(), 256).image)
    for command in commands:
        words = [str(tmp_path / word) if word.endswith((".mp4", ".png", ".safetensors")) else word for word in command]
        assert main(words) == 0, command
    assert (tmp_path / "result.mp4").exists() and (tmp_path / "result-look.png").exists()
    assert (tmp_path / "codes.safetensors").exists() and (tmp_path / "codes.png").exists()
