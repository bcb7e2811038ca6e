"""The record beside an output, and the clock that feeds it."""

import hashlib
import json
import time
from fractions import Fraction
from pathlib import Path

import numpy as np
import pytest

from stylereel import __version__
from stylereel.core.progress import Lines
from stylereel.core.record import Stages, sha256, write_record


def test_record_lies_beside_its_output_in_plain_json(tmp_path: Path) -> None:
    data = {
        "rate": Fraction(30000, 1001),
        "whole": Fraction(25),
        "seeds": np.arange(3),
        "best": np.float32(0.5),
        "files": [Path("a/b.mp4")],
    }
    path = write_record(tmp_path / "out.mp4", data)
    assert path == tmp_path / "out.json" and list(tmp_path.iterdir()) == [path]
    assert json.loads(path.read_text()) == {
        "stylereel": __version__,
        "rate": "30000/1001",
        "whole": "25/1",
        "seeds": [0, 1, 2],
        "best": 0.5,
        "files": ["a/b.mp4"],
        "written": {},  # of these files, those that are there
    }


def test_a_record_that_cannot_be_written_leaves_the_old_one(tmp_path: Path) -> None:
    path = write_record(tmp_path / "out.mp4", {"run": 1})
    with pytest.raises(TypeError):
        write_record(tmp_path / "out.mp4", {"run": object()})
    assert json.loads(path.read_text())["run"] == 1 and list(tmp_path.iterdir()) == [path]


def test_sha256(tmp_path: Path) -> None:
    (tmp_path / "file").write_bytes(b"stylereel" * 100_000)
    assert sha256(tmp_path / "file") == hashlib.sha256(b"stylereel" * 100_000).hexdigest()


def test_stages_time_making_and_using_apart() -> None:
    seen = []
    stages = Stages(watch=lambda clock: seen.append((clock.current, clock.done, clock.total)))

    class Slow:
        def __len__(self) -> int:
            return 3

        def __iter__(self):
            for index in range(3):
                time.sleep(0.02)
                yield index

    used = []
    for item in stages.through("render", Slow()):
        with stages("encode"):
            time.sleep(0.005)
            used.append(item)
    assert used == [0, 1, 2]
    assert list(stages.seconds) == ["render", "encode"]
    assert stages.seconds["render"] >= 0.06 and stages.seconds["encode"] >= 0.015
    assert seen == [("render", 0, 3), ("encode", 0, 3), ("encode", 1, 3), ("encode", 2, 3), ("encode", 3, 3)]


def test_frames_per_second_counts_the_named_stages() -> None:
    stages = Stages()
    assert stages.frames_per_second(10) == 0
    stages.seconds = {"extract": 3.0, "render": 1.0, "encode": 1.0}
    assert stages.frames_per_second(10, "render") == 10
    assert stages.frames_per_second(10) == 2


def test_a_stage_counts_even_if_it_fails() -> None:
    stages = Stages()
    with pytest.raises(ValueError), stages("extract"):
        time.sleep(0.01)
        raise ValueError
    assert stages.seconds["extract"] >= 0.01


def test_stages_and_the_rest_are_the_whole_time(monkeypatch: pytest.MonkeyPatch) -> None:
    """A stage inside another stops the outer one's clock."""
    now = 100.0
    monkeypatch.setattr("stylereel.core.record.time.perf_counter", lambda: now)
    stages = Stages()
    now += 1
    with stages("outer"):
        now += 2
        with stages("inner"):
            now += 5
        now += 10
    now += 20
    assert stages.facts() == {
        "seconds": {"outer": 12.0, "inner": 5.0, "other": 21.0},
        "seconds in all": 38.0,
        "seconds beside others": {},
    }


def test_counts_inside_counts() -> None:
    stages, seen = Stages(), []
    for _ in stages.through("cut", [0, 1]):
        for _ in stages.through("optimise", range(3)):
            seen.append((stages.counting, stages.done, stages.total))
        seen.append((stages.counting, stages.done, stages.total))
    assert seen[:4] == [("optimise", 0, 3), ("optimise", 1, 3), ("optimise", 2, 3), ("cut", 0, 2)]
    assert seen[-1] == ("cut", 1, 2) and stages.counting == ""


def test_lines_say_name_count_speed_and_time_left_ever_more_seldom() -> None:
    now, said = 0.0, []
    lines = Lines(said.append, lambda: now)
    stages = Stages(lines, "pair 2 of 3")
    with stages("load"):
        now += 4
    for _ in stages.through("render", range(1000)):
        with stages("encode"):
            now += 2
    assert said[:2] == [
        "pair 2 of 3: render: 3 of 1000, 0.5 a second, 33:14 left",
        "pair 2 of 3: render: 8 of 1000, 0.5 a second, 33:04 left",
    ]
    assert 20 < len(said) < 50
    with stages("finish"):
        now += 1000
    with stages("check"):
        pass
    assert said[-1] == "pair 2 of 3: check ..."
