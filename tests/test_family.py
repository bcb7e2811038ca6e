"""`stylereel train family`: what is out of date is trained, in order, and nothing else."""

import sys
import time
from pathlib import Path

import pytest
import torch

from stylereel import world
from stylereel.cli import main
from stylereel.commands import family
from stylereel.core.builtin import BUILTIN
from stylereel.core.weights import fingerprint, save_module
from stylereel.recipes.run import Part

PARTS = {
    "eyes": Part(("left", "right"), (), True),
    "head": Part(("head",), ("left",), True),
    "body": Part(("body",), ("head", "right"), False),
    "shoes": Part(("shoes",), (), True),
}
# A training that takes as long as the file `slow` in its folder says, and counts how often it began.
SCRIPT = """
import json, sys, time
from pathlib import Path
import torch
from test_family import PARTS, write
name, folder, start = sys.argv[1], Path(sys.argv[3]), sys.argv[5]
with open(folder / "begun", "a") as log:
    log.write(start + "\\n")
if (folder.parent / f"{name}-fails").exists():
    sys.exit("the loss is nan")
slow = folder.parent / f"{name}-slow"
time.sleep(float(slow.read_text()) if slow.exists() else 0)
for file in PARTS[name].files:
    write(folder, name, file)
"""


def write(folder: Path, name: str, file: str) -> None:
    """A weight file with its record, as a recipe writes them."""
    from stylereel.core.record import write_record

    inputs = {need: fingerprint(folder / f"{need}.safetensors") for need in PARTS[name].needs}
    card = {"inputs": {"world": str(world.VERSION), **inputs}, "data": "none", "command": "none", "machine": "this"}
    path = folder / f"{file}.safetensors"
    layer = torch.nn.Linear(1, 1, bias=False)  # with weights that the folder's inputs decide
    torch.nn.init.constant_(layer.weight, int(folder.name.split("-")[1][:4], 16))
    save_module(path, "test", layer, card)
    write_record(path, {**card, "files": [path, path.with_suffix(".json")]})


@pytest.fixture
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setattr(family, "parts", lambda: PARTS)
    monkeypatch.setattr(family, "BUILTIN", tmp_path / "nothing")
    script = tmp_path / "train.py"
    script.write_text(SCRIPT)
    monkeypatch.setattr(family, "TRAIN", [sys.executable, str(script)])
    monkeypatch.setenv("PYTHONPATH", ":".join([str(Path(__file__).parent), *sys.path]))
    return tmp_path / "runs"


def begun(home: Path, name: str) -> list[str]:
    return [line for file in sorted(home.glob(f"{name}-*/begun")) for line in file.read_text().split()]


def test_only_what_is_out_of_date_is_trained(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert family.train_family(folder=str(home), dry_run=True)[0] == "eyes: left.safetensors is missing"
    assert not home.exists()
    trained = family.train_family(folder=str(home), start="builtin", processes=2)
    assert sorted(line.split(":")[0] for line in trained) == sorted(PARTS) and "trained in" in trained[0]
    assert begun(home, "eyes") == ["builtin"] and begun(home, "body") == ["scratch"]  # which starts from none
    assert (
        "- **Licence:**" in (home / "body.md").read_text()
        and "- **Made from:** world" in (home / "head.md").read_text()
    )
    assert all(line.endswith("up to date") for line in family.train_family(folder=str(home)))
    # Other eyes make head and body out of date, and not the shoes.
    (home / "left.safetensors").unlink()
    family.train_family(folder=str(home), only="eyes", start="builtin")
    assert family.reason(home, PARTS["head"]) is None  # the same training again: the same eyes
    monkeypatch.setattr(world, "VERSION", "next")
    assert family.reason(home, PARTS["shoes"]) == "shoes.safetensors was made from another world"
    lines = family.train_family(folder=str(home), until="head", start="builtin")
    assert [line.split(":")[0] for line in lines] == ["eyes", "head"] and len(begun(home, "head")) == 2
    assert len(begun(home, "body")) == 1


def test_a_training_that_fails_or_takes_too_long_is_stopped(home: Path, capsys: pytest.CaptureFixture[str]) -> None:
    home.mkdir()
    (home / "head-fails").touch()
    with pytest.raises(ValueError, match="The training of head failed: the loss is nan"):
        family.train_family(folder=str(home), only="eyes,head")
    (home / "head-fails").unlink()
    (home / "head-slow").write_text("60")
    begin = time.monotonic()
    lines = family.train_family(folder=str(home), only="eyes,head", hours=2 / 3600)
    assert lines[-1] == "stopped after the given hours at head; the same command goes on"
    assert time.monotonic() - begin < 40 and not (home / "head.safetensors").exists()
    (home / "head-slow").write_text("0")
    assert "head: trained in" in family.train_family(folder=str(home), only="eyes,head")[-1]
    assert len(list(home.glob("head-*/begun"))) == 1, "one folder for the same inputs, in which it goes on"
    (home / "shoes.safetensors").write_bytes(b"theirs")
    assert main(["train", "family", "--folder", str(home), "--only", "nose"]) == 2
    assert "has no part 'nose'" in capsys.readouterr().err


def test_what_nobody_trained_is_spared(home: Path, capsys: pytest.CaptureFixture[str]) -> None:
    home.mkdir()
    (home / "left.safetensors").write_bytes(b"theirs")
    assert main(["train", "family", "--folder", str(home)]) == 2
    assert "left.safetensors exists" in capsys.readouterr().err
    assert (home / "left.safetensors").read_bytes() == b"theirs"


def test_mistakes_are_found_before_any_training_and_a_dry_run_says_what_was_asked(home: Path, tmp_path: Path) -> None:
    assert len(family.train_family(folder=str(home), only="eyes", dry_run=True)) == 1
    for scale in (0.0, -1.0, 2.0):
        with pytest.raises(ValueError, match="share of the steps"):
            family.train_family(folder=str(home), scale=scale)
    with pytest.raises(ValueError, match="None of head comes before eyes"):
        family.train_family(folder=str(home), only="head", until="eyes")
    (tmp_path / "file").touch()
    with pytest.raises(ValueError, match="is a file; give a folder"):
        family.train_family(folder=str(tmp_path / "file"), dry_run=True)
    assert not home.exists()


def test_every_built_in_file_belongs_to_a_part() -> None:
    made = {file for part in family.parts().values() for file in part.files}
    assert {path.stem for path in BUILTIN.glob("*.safetensors")} == made
    order: list[str] = []
    for part in family.parts().values():
        assert set(part.needs) <= set(order)
        order += part.files
