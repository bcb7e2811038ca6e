"""Motion curves, sliders and attribute edits: their forms, their limits, and what they do to frames."""

from collections.abc import Callable
from dataclasses import replace
from fractions import Fraction
from pathlib import Path

import numpy as np
import pytest
import torch

from stylereel import world
from stylereel.cli import main
from stylereel.core.latents import CODES, FACE, Identity, Motion
from stylereel.core.record import sha256
from stylereel.core.render import render
from stylereel.edit import directions
from stylereel.edit.curves import EDIT, Changes, driven, edited, in_frame, parse, read_curves
from stylereel.media.video import VideoReader
from stylereel.systems.stylemask import StyleMask
from stylereel.world.factors import MOTION

OWN = world.neutral()[world.MOTION_COLUMNS]


def still(frames: int = 5, relative: bool = False) -> Motion:
    values = np.zeros((frames, len(MOTION)), np.float32) if relative else np.tile(OWN, (frames, 1)).astype(np.float32)
    rows = np.tile(np.array([[0.5, 0.5, 1, 0]], np.float32), (frames, 1))
    return Motion(values, FACE._replace(relative=relative), tuple(MOTION), Fraction(4), rows)


def test_a_curve_passes_its_keys_and_holds_its_ends() -> None:
    times = np.array([0.0, 0.5, 1.0, 1.5, 9.0])
    cubic, straight = parse("0:0,1:20,2:20", "x"), parse("+ linear 0.5:0 1:20", "x")
    assert cubic.at(times)[[0, 2, 4]].tolist() == [0, 20, 20] and not cubic.on_top
    assert 10 < cubic.at(times)[1] < 20 and cubic.at(times).max() == 20, "it overshoots nothing"
    assert straight.at(times).tolist() == [0, 0, 20, 20, 20] and straight.on_top
    assert straight.at(np.array([0.75])) == 10
    assert parse("-3", "x").at(times).tolist() == [-3] * 5
    assert parse("+-3", "x").on_top


@pytest.mark.parametrize(
    "text", ["", "a", "1,2", "0:1,1", "1:0,0:1", "0:0,0:1", "-1:0", "0:nan", "inf", "1e9:2", "0:1:2"]
)
def test_other_forms_of_a_curve_are_one_sentence(text: str) -> None:
    with pytest.raises(ValueError, match="yaw "):
        parse(text, "yaw")


def test_files_of_lines_and_of_columns_say_the_same(tmp_path: Path) -> None:
    lines, table = tmp_path / "c.txt", tmp_path / "c.csv"
    lines.write_text("# head\nyaw = 0:0, 1:20\njaw=+linear 0.5:0 1:0.4  # lips\n")
    table.write_text("time,yaw,+jaw\n0,0,\n0.5,,0\n1,20,0.4\n")
    one, other = read_curves(lines), read_curves(table)
    assert one.keys() == other.keys() == {"yaw", "jaw"}
    assert one["jaw"].on_top and other["jaw"].on_top and one["jaw"].linear and not other["jaw"].linear
    for name in one:
        np.testing.assert_array_equal(one[name].times, other[name].times)
        np.testing.assert_array_equal(one[name].values, other[name].values)


@pytest.mark.parametrize(
    ("name", "content", "says"),
    [
        ("a.txt", b"# nothing", "no curve"),
        ("a.txt", b"\xff\xfe\x00", "no text"),
        ("a.txt", b"yaw 3", "Line 1"),
        ("a.txt", b"yaw = 1\nyaw = 2", "twice"),
        ("a.csv", b"yaw,time\n1,2", "header"),
        ("a.csv", b"time,yaw\n0,x", "yaw in"),
        ("a.txt", b"yaw = 1 " * 200_000, "MiB"),
    ],
)
def test_other_files_are_one_sentence(tmp_path: Path, name: str, content: bytes, says: str) -> None:
    (tmp_path / name).write_bytes(content)
    with pytest.raises(ValueError, match=says):
        read_curves(tmp_path / name)


def test_absolute_curves_replace_and_others_come_on_top_within_the_limits() -> None:
    changes = Changes.read(sliders=["yaw=30", "smile=+0.9", "blinks=0:0,1:1"])
    driven_by = replace(still(), values=still().values + 0.3)
    found = changes.show_on(driven_by, OWN, False)
    assert (found.column("yaw") == 30).all()
    assert (found.column("smile") == 1).all(), "0.3 + 0.9 is more than a smile can be"
    assert found.column("blink_left").tolist() == found.column("blink_right").tolist()
    assert found.column("blink_left")[[0, 4]].tolist() == [0, 1]
    kept = [i for i, name in enumerate(MOTION) if name not in ("yaw", "smile", "blink_left", "blink_right")]
    np.testing.assert_array_equal(found.values[:, kept], driven_by.values[:, kept])


def test_on_a_relative_motion_an_absolute_curve_is_what_is_shown() -> None:
    own = OWN.copy()
    own[MOTION.index("yaw")] = 7
    found = Changes.read(sliders=["yaw=30", "pitch=+5"]).show_on(still(relative=True), own, False)
    assert (found.column("yaw") + 7 == 30).all() and (found.column("pitch") == 5).all()


@pytest.mark.parametrize(
    ("given", "says"),
    [
        ({"sliders": ["yaw=80"]}, "-40 to 40"),
        ({"sliders": ["yaw=+90"]}, "on top"),
        ({"sliders": ["yawn=8"]}, "did you mean yaw"),
        ({"sliders": ["yaw"]}, "NAME="),
        ({"edits": ["agee=1"]}, "did you mean age"),
        ({"edits": ["s:age=1"]}, "direction of S"),
        ({"edits": ["age=1e9"]}, "strengths"),
        ({"edits": ["gone.pt=1"]}, "no file"),
    ],
)
def test_what_does_not_exist_or_is_out_of_range_is_one_sentence(given: dict[str, list[str]], says: str) -> None:
    with pytest.raises(ValueError, match=says):
        Changes.read(**given)  # type: ignore[arg-type]


def test_a_motion_of_codes_has_no_factors_and_aligned_faces_stay_in_the_frame() -> None:
    codes = replace(still(), kind=CODES)
    with pytest.raises(ValueError, match="kind codes"):
        Changes.read(sliders=["yaw=1"]).show_on(codes, OWN, True)
    moved = Changes.read(sliders=["shift_x=0.05", "scale=+0.1"])
    with pytest.raises(ValueError, match="use styleheat"):
        moved.show_on(still(), OWN, False)
    shown = moved.show_on(still(), OWN, True)
    np.testing.assert_allclose(in_frame(shown)[0], [0.05, 0, 1.1], rtol=1e-6)
    assert driven(shown).names == still().names and in_frame(still()).tolist() == [[0, 0, 1]] * 5


def test_numbers_alone_have_no_length() -> None:
    changes = Changes.read(sliders=["yaw=3"])
    assert len(changes.at_rest(2.0, None)) == 50 and len(changes.at_rest(0.1, Fraction(30))) == 3
    assert len(Changes.read(sliders=["yaw=0:0,2:9"]).at_rest(None, None)) == 50
    with pytest.raises(ValueError, match="--duration"):
        changes.at_rest(None, None)


@pytest.fixture
def direction_files(tmp_path: Path) -> dict[str, str]:
    """A direction of 256 numbers in each form that users have."""
    vector = np.random.default_rng(0).standard_normal((1, 256)).astype(np.float32)
    np.save(tmp_path / "a.npy", vector)
    torch.save(torch.from_numpy(vector), tmp_path / "a.pt")
    np.savez(tmp_path / "pca.npz", X_comp=np.stack([0 * vector, vector]), X_stdev=np.ones((2, 1), np.float32))
    table = directions.Directions([directions.Direction("mine", "w+", torch.arange(7, 10), torch.from_numpy(vector))])
    table.save(tmp_path / "mine.safetensors")
    names = {"npy": "a.npy", "pt": "a.pt@7-9", "npz": "pca.npz:1@7-9", "safetensors": "mine.safetensors:mine"}
    return {kind: str(tmp_path / name) for kind, name in names.items()}


def test_a_users_direction_grows_over_time_in_the_rows_it_is_for(direction_files: dict[str, str]) -> None:
    identity = Identity(torch.randn(14, 256, generator=torch.Generator().manual_seed(0)), "stylemask")
    found = {}
    for kind, name in direction_files.items():
        changes = Changes.read(edits=[f"{name}=0:0,1:2"])
        motion = changes.show_on(still(), OWN, False)
        assert motion.names[-1] == EDIT + name
        w = edited(changes.taught(identity), motion)
        assert w.shape == (5, 14, 256) and torch.equal(w[0], identity.w)
        found[kind] = w[4] - identity.w
    assert (found["npy"].abs().sum(1) > 0).all()
    assert found["pt"].abs().sum(1).nonzero().flatten().tolist() == [7, 8, 9]
    for kind in ("npz", "safetensors"):
        torch.testing.assert_close(found[kind], found["pt"], atol=2e-3, rtol=1e-3)
    torch.testing.assert_close(found["pt"][7], found["npy"][7])
    wide = Identity(torch.zeros(18, 512), "stylemask")
    with pytest.raises(ValueError, match="for another generator"):
        changes.taught(wide)
    with pytest.raises(ValueError, match="lower one first"):
        directions.find(direction_files["npy"] + "@9-7")


def test_a_direction_of_another_width_is_refused_in_a_sentence(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    np.save(tmp_path / "wide.npy", np.ones(512, np.float32))
    out = tmp_path / "no.mp4"
    command = ["drive", "styleheat", "--source", "3", "--slider", "yaw=5", "--frames", "2", "--out", str(out)]
    capsys.readouterr()
    assert main([*command, "--edit", f"{tmp_path / 'wide.npy'}=1"]) == 2
    error = capsys.readouterr().err
    assert (
        "for another generator" in error
        and error.count("\n") == 1
        and list(tmp_path.iterdir()) == [tmp_path / "wide.npy"]
    )


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Callable[..., Path]:
    folder = tmp_path_factory.mktemp("curves")

    def drive(name: str, *words: str) -> Path:
        out = folder / name
        command = ["drive", "stylemask", "--source", "3", "--precision", "32", "--out", str(out), *words]
        assert main(command) == 0
        return out

    return drive


def test_curves_and_edits_alone_make_a_clip_from_file_to_file(run: Callable[..., Path], tmp_path: Path) -> None:
    curves = tmp_path / "turn.txt"
    curves.write_text("yaw = 0:-25, 0.4:25\n")
    made = run("a.mkv", "--curves", str(curves), "--fps", "10", "--edit", "beard=linear 0:0,0.4:3")
    frames = [frame.astype(float) for frame in VideoReader(made)]
    assert len(frames) == 4
    system = StyleMask.builtin()
    changes = Changes.read(curves, edits=["beard=linear 0:0,0.4:3"])
    identity, motion = changes.taught(system.identify(3)), changes.at_rest(None, Fraction(10))
    from stylereel.systems.sources import own_motion

    motion = changes.show_on(motion, own_motion(system, identity), False)
    for one, other in zip(frames, render(system, identity, motion, precision="32"), strict=True):
        assert np.abs(one - other).mean() < 1.5, "the same from Python"
    plain = render(system, identity, driven(motion), precision="32")
    apart = [float(np.abs(a - b).mean()) for a, b in zip(render(system, identity, motion, precision="32"), plain)]
    assert apart[0] < 0.01 and apart == sorted(apart) and apart[-1] > 1, "the beard grows"
    before = sha256(made)
    assert sha256(run("b.mkv", "--curves", str(curves), "--fps", "10", "--edit", "beard=linear 0:0,0.4:3")) == before
