"""`stylereel reproduce`: numbers with intervals, claims decided by them, and StyleMask's study at a tiny size."""

import json
import math
from pathlib import Path

import numpy as np
import pytest

from stylereel.cli import main
from stylereel.commands import reproduce
from stylereel.media.pictures import read_picture
from stylereel.metrics.report import Claim, Number, write_report
from stylereel.systems.stylemask import study


def test_a_claim_is_decided_by_the_interval_of_the_difference() -> None:
    random = np.random.default_rng(0)
    values = random.standard_normal(400)
    above, below, open_ = (Number.mean(values + shift) for shift in (1.0, -1.0, 0.0))
    assert Claim.of("A is more", "it", above, True).holds is True
    assert Claim.of("A is more", "it", below, True).holds is False
    assert Claim.of("A is less", "it", below, False).holds is True
    assert Claim.of("A is more", "it", open_, True).holds is None
    assert "left open here" in Claim.of("A is more", "it", open_, True).sentence
    assert Claim.of("A is more", "it", Number(math.nan), True).holds is None
    assert "holds here; the error differs by" in Claim.of("A is less", "the error", below, False).sentence


def test_a_number_leaves_out_what_cannot_be_told() -> None:
    assert Number.mean(np.array([1.0, np.nan, 3.0])).value == 2.0
    assert str(Number.mean(np.full(3, np.nan))) == "undefined"


def test_a_report_holds_table_claims_and_facts(tmp_path: Path) -> None:
    rows = {"a": {"x": Number(1.0, (0.5, 1.5)), "n": "3 of 4"}, "b": {"x": Number(math.nan), "n": "0 of 4"}}
    claim = Claim.of("a is more than b", "x", Number(1.0, (0.5, 1.5)), True)
    text, data = (path.read_text() for path in write_report(tmp_path, "Title", rows, [claim], {"pairs": 4}))
    assert (
        "| a | 1 (0.5 to 1.5) | 3 of 4 |" in text and "- a is more than b: holds here" in text and "- pairs: 4" in text
    )
    loaded = json.loads(data)
    assert loaded["rows"]["b"]["x"]["value"] is None and loaded["claims"][0]["holds"] is True


def test_unknown_studies_are_told_apart(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["reproduce", "stylemsk"]) == 2
    assert "did you mean stylemask?" in capsys.readouterr().err
    assert main(["reproduce"]) == 2
    assert "Name the system first" in capsys.readouterr().err
    assert main(["reproduce", "stylemask", "--help"]) == 0
    assert "--pairs" in capsys.readouterr().out
    assert "stylemask" in reproduce.list_studies()


def test_stylemasks_study_runs_and_uses_its_trainings_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(study, "SHOWN", 1)
    monkeypatch.setattr(study, "VARIANTS", {name: study.VARIANTS[name] for name in ("paper", "no-cycle")})
    monkeypatch.setattr(study, "CLAIMS", [claim for claim in study.CLAIMS if claim[0] == "no-cycle"])
    monkeypatch.setattr(study, "QUICK", study.replace(study.QUICK, batch=1))
    words = ["reproduce", "stylemask", "--pairs", "2", "--steps", "2", "--trainings", str(tmp_path / "kept")]
    assert main([*words, "--out", str(tmp_path / "one")]) == 0
    report = json.loads((tmp_path / "one" / "report.json").read_text())
    assert list(report["rows"])[:2] == ["as in the paper", "without the cycle"]
    truth, ours = report["rows"]["the true picture"], report["rows"]["as in the paper"]
    assert truth["exact L1, levels"]["value"] == 0 < ours["exact L1, levels"]["value"]
    assert len(report["claims"]) == 4 and all(claim["sentence"] for claim in report["claims"])
    assert read_picture(tmp_path / "one" / "grid.png").ndim == 3
    monkeypatch.setattr(study, "train", lambda *_: pytest.fail("trained again"))
    assert main([*words, "--out", str(tmp_path / "two")]) == 0
    again = json.loads((tmp_path / "two" / "report.json").read_text())
    assert again["rows"] == report["rows"] and again["claims"] == report["claims"]
    capsys.readouterr()
    assert main([*words, "--out", str(tmp_path / "three"), "--pairs", "1"]) == 2
    assert "2 pairs" in capsys.readouterr().err
