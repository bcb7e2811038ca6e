"""The page's forms as data: made from signatures, for a made-up system too, and what filled forms mean."""

from __future__ import annotations

import shlex
from pathlib import Path

import pytest

from stylereel import cli, systems
from stylereel.commands import COMMANDS, signatures
from stylereel.core.record import Stages
from stylereel.core.system import Spec
from stylereel.web import forms

TOY = Spec("toy:Toy", "toy:train", "toy:study")


@pytest.fixture(autouse=True)
def one_line(monkeypatch: pytest.MonkeyPatch) -> None:
    """All that makes the toy known."""
    monkeypatch.setitem(systems.SPECS, "toy", TOY)


def test_every_argument_of_a_command_is_asked() -> None:
    for tab in forms.tabs().values():
        parameters = list(signatures.parameters_of(signatures.function_of(tab.command)))
        known = set(parameters[1:] if forms.subjects(tab.command) else parameters)
        asked = {each.name for each in forms.fields(tab)}
        assert known - asked <= forms.HIDDEN | set(tab.hidden) | set(tab.fixed) and asked <= known, tab.command


def test_what_is_asked_first_is_there() -> None:
    """No argument is named on the page that its command has not."""
    for tab in forms.tabs().values():
        names = {each.name for each in forms.fields(tab)}
        for system in forms.subjects(tab.command):
            names |= {each.name for each in forms.fields(tab, system)}
        assert set(tab.calls) | set(tab.first) <= names, tab.command


def test_a_made_up_system_appears_by_itself() -> None:
    assert "toy" in forms.subjects("drive") and "toy" in forms.subjects("sample")
    own = {each.name: each for each in forms.fields(forms.TABS["drive"], "toy") if each.group == "options"}
    assert own["psi"].kind == "number" and own["psi"].default == 1.0
    assert own["psi"].help == "how far from the mean face."
    assert own["strength"].help == "factor on the motion."
    assert "model" not in {each.name for each in forms.fields(forms.TABS["sample"], "toy")}


def test_a_new_option_of_a_command_appears_by_itself(monkeypatch: pytest.MonkeyPatch) -> None:
    from stylereel.commands import look

    def another(*files: str, out: str | None = None, loud: bool = False, rate: int | None = 3) -> None:
        """Look.

        Args:
            files: files.
            out: the image to write (.png).
            loud: make noise.
            rate: how often.
        """

    monkeypatch.setattr(look, "look", another)
    found = {each.name: each for each in forms.fields(forms.TABS["look"])}
    assert found["loud"].kind == "switch" and found["loud"].help == "make noise."
    assert found["rate"].kind == "number" and found["rate"].whole and found["rate"].default == 3


def test_a_call_is_the_same_as_a_command_line_and_as_python(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """With the toy: the page's call, the line that it shows, and the Python make the same file."""
    monkeypatch.chdir(tmp_path)
    made = []
    values = {"seed": 3.0, "frames": "4", "psi": 0.5, "out": ".mkv", "precision": "32"}
    call = forms.call(forms.TABS["sample"], "toy", values)
    call.run(Stages())
    made.append((tmp_path / "result.mkv").read_bytes())
    for way in (lambda: cli.main(shlex.split(call.line())[1:]), lambda: exec(call.python(), {})):
        (tmp_path / "result.mkv").unlink()
        way()
        made.append((tmp_path / "result.mkv").read_bytes())
    assert made[0] == made[1] == made[2]
    assert call.line() == "stylereel sample toy --seed 3 --out result.mkv --frames 4 --precision 32 --psi 0.5"


def test_only_what_differs_from_the_defaults_is_written_down() -> None:
    call = forms.call(forms.TABS["drive"], "stylemask", {"source": "29", "driving": "driving.mp4", "strength": 1.0})
    assert call.line() == "stylereel drive stylemask --source 29 --driving driving.mp4 --out result.mp4"
    told = forms.call(forms.TABS["people"], None, {"source": "source.jpg", "set_": ["beard=0", "", "hair=curls"]})
    assert told.line() == "stylereel identify source.jpg --set beard=0 --set hair=curls --out result.safetensors"


@pytest.mark.parametrize(
    "values, word",
    [
        ({"driving": "driving.mp4"}, "Who is shown is missing"),
        ({"source": "29", "driving": "d.mp4", "slider": "yaw=3 edit=../x"}, "no path"),
        ({"source": "29", "driving": "d.mp4", "size": "tall"}, "takes a number"),
        ({"source": "29", "driving": "d.mp4", "size": 9000}, "1080 at most"),
        ({"source": "29", "driving": "d.mp4", "frames": 1.5}, "whole number"),
        ({"source": "29", "driving": "d.mp4", "precision": "64"}, "one of auto, 32, bf16"),
        ({"source": "29", "driving": "d.mp4", "face": "/etc/passwd"}, "no path"),
        ({"source": "29", "driving": "d.mp4", "face": "..\\secret.png"}, "no path"),
        ({"source": "29", "driving": "d.mp4", "start": "~/x"}, "no path"),
        ({"source": "29", "driving": "d.mp4", "set_": "beard=0 ../x"}, "no path"),
        ({"source": "29", "driving": "d.mp4", "family": "mine.toml"}, "one of"),
        ({"source": "29", "driving": "d.mp4", "out": ".exe"}, "one of"),
    ],
)
def test_wrong_values_are_one_sentence(values: dict[str, object], word: str) -> None:
    with pytest.raises(ValueError, match=word) as raised:
        forms.call(forms.TABS["drive"], "stylemask", values)
    assert "\n" not in str(raised.value)


def test_curves_keep_their_commas_and_corrections_are_parted_by_them() -> None:
    values = {"source": "29", "slider": "yaw=0:-9,1:9 smile=0.5", "set_": "beard=0, hair=curls"}
    call = forms.call(forms.TABS["drive"], "stylemask", values)
    assert call.line() == (
        "stylereel drive stylemask --source 29 --out result.mp4 --slider yaw=0:-9,1:9 --slider smile=0.5 "
        "--set beard=0 --set hair=curls"
    )


def test_a_rate_is_no_path() -> None:
    call = forms.call(forms.TABS["drive"], "stylemask", {"source": "1", "driving": "d.mp4", "fps": "30000/1001"})
    assert call.keywords["fps"] == "30000/1001"


def test_tabs_are_those_of_the_commands_there_are(monkeypatch: pytest.MonkeyPatch) -> None:
    assert all(tab.command in COMMANDS for tab in forms.tabs().values())
    others = {name: place for name, place in COMMANDS.items() if name != "drive"}
    monkeypatch.setattr(forms, "COMMANDS", others)
    assert "drive" not in forms.tabs()


def test_every_field_has_help() -> None:
    for tab in forms.tabs().values():
        for system in [None, *[name for name in forms.subjects(tab.command) if name != "toy"]]:
            silent = [each.name for each in forms.fields(tab, system) if not each.help]
            assert not silent, f"{tab.command}: {silent}"
