"""StyleFaceV's study: its distances and claims, and all of it at a tiny size, stopped and gone on with."""

from __future__ import annotations

import json
from dataclasses import replace
from functools import partial
from pathlib import Path

import numpy as np
import pytest
import torch

from stylereel.generator import StyleGAN3, StyleGAN3Config
from stylereel.systems.stylefacev import appearance, data, motion, study


def test_a_distance_grows_with_the_difference_and_its_interval_holds_it() -> None:
    random = np.random.default_rng(0)
    reference, near = random.standard_normal((2, 200, 4))
    first, second = study.Distance(near, reference), study.Distance(near + 1, reference)
    assert first.value < 0.3 < 3 < second.value
    more = second.over(first)
    assert more.interval is not None and more.interval[0] < second.value - first.value < more.interval[1]
    assert study.Distance(near, reference).over(first).value == 0 and more.interval[0] > 2


def test_claims_are_decided_by_paired_differences() -> None:
    random = np.random.default_rng(0)
    names = [*study.VARIANTS, *study.MOTIONS, "built-in weights, frame 50", "built-in weights, frame 1000",
             "StyleVideoGAN, talking"]  # fmt: skip
    reference = random.standard_normal((40, 3))
    wrong = {study.NO_W: 3.0, "motion by images": 2.0}
    features = {name: random.standard_normal((40, 3)) + wrong.get(name, 0.0) for name in names}
    lower = random.random(40) * 0.01
    found = {name: {"identity": (0.9 - wrong.get(name, 0) * 0.1 + lower).tolist(), "likeness": [0.5] * 40}
             for name in names}  # fmt: skip
    verdicts = study.claims(found, {name: study.Distance(x, reference) for name, x in features.items()})
    holds = [each.holds for each in verdicts]
    assert holds[:2] == [True, True] and holds[4] is True and holds[2] is None
    assert "is left open here" in verdicts[2].sentence


def test_trembling_poses_are_told() -> None:
    track = torch.sin(torch.arange(16.0) / 5)[None, :, None].expand(64, -1, 16) + torch.randn(64, 1, 16)
    text = study._of_poses(track + 0.1 * torch.randn(64, 16, 16), track)
    assert float(text.split("yaw ")[1].split(" times")[0]) > 5


def test_the_study_at_a_tiny_size(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    torch.manual_seed(2)
    tiny = StyleGAN3(StyleGAN3Config(128, 80, 256, channel_base=1024, channel_max=16, num_layers=8, filter_size=4))
    monkeypatch.setattr(study.StyleGAN3, "load", lambda _: tiny)
    for name, value in {
        "BEFORE": 2,
        "MOTION_BEFORE": 2,
        "MOTION_PER": 1,
        "LATE": 60,
        "TRACKS": 64,
        "SHARD": 2,
        "LENGTH": 6,
    }.items():
        monkeypatch.setattr(study, name, value)
    monkeypatch.setattr(study, "kept_people", lambda folder, shards, face: data.kept_people(folder, 1, face, 2))
    small = appearance.Settings(1, 2, 2, 2)
    monkeypatch.setattr(study, "Settings", lambda: small)
    monkeypatch.setattr(motion, "CRITIC", 4)
    monkeypatch.setattr(motion, "kept_clips", lambda folder: data.clip_codes(1, 60))
    monkeypatch.setattr(motion, "SHOWN_FRAMES", 4)
    monkeypatch.setattr(motion, "BATCH", 8)
    monkeypatch.setattr(motion, "calibrate", partial(motion.calibrate, count=4, frames=40))
    monkeypatch.setattr(appearance, "show", lambda *_: np.zeros((8, 8, 3), np.uint8))
    monkeypatch.setattr(
        study, "replace", lambda settings, **kept: replace(settings, **kept | {"people": 2, "shown": 2})
    )
    calls = []

    def videos(clips: int, *_: object) -> np.ndarray:
        calls.append(clips)
        return np.random.default_rng(0).integers(0, 255, (clips, study.LENGTH, 32, 32, 3), np.uint8)

    monkeypatch.setattr(study, "_stylevideogan", videos)
    files = study.reproduce(out=str(tmp_path), clips=4, steps=2, people=2, device="cpu")
    report = json.loads(files[1].read_text())
    assert len(report["claims"]) == 7 and len(report["rows"]) == 9 and len(calls) == 1
    assert report["rows"]["as in the paper"]["video distance"]["value"] > 0
    trainings = {path.stem for path in tmp_path.glob("trainings-*/*.safetensors")}
    assert trainings == {"start", *(name.replace(" ", "-") for name in (*study.VARIANTS, *study.MOTIONS))}
    monkeypatch.setattr(appearance, "train_joint", None)  # nothing is trained or measured again
    again = study.reproduce(out=str(tmp_path), clips=4, steps=2, people=2, device="cpu")
    assert json.loads(again[1].read_text())["rows"] == report["rows"] and len(calls) == 1
    with pytest.raises(ValueError, match="4 clips"):
        study.reproduce(out=str(tmp_path), clips=1)
