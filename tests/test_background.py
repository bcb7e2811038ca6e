"""Another background: who is in front by the world's exact masks, and what `--background` makes of it."""

from __future__ import annotations

import json
from fractions import Fraction
from pathlib import Path

import numpy as np
import pytest
from test_media import make_clip

from stylereel import systems, world
from stylereel.cli import main
from stylereel.commands.background import Background
from stylereel.core.latents import FACE, Motion
from stylereel.core.system import Spec
from stylereel.faces.coefficients import NAMES
from stylereel.family.matte import Matte, blurred, matte
from stylereel.media.pictures import save_picture
from stylereel.media.video import VideoReader, VideoWriter
from stylereel.world.factors import LATENT_DIM


def test_the_matte_is_near_the_worlds_exact_masks() -> None:
    """Hardly anything of the old colours stays in what is in front. Two of the four have gray hair before gray."""
    random = np.random.default_rng(5)
    for _ in range(4):
        drawn = world.draw(world.align(world.from_latent(random.standard_normal(LATENT_DIM))), 256)
        front, shown = np.asarray(drawn.regions) != 0, matte(drawn.image)
        assert np.abs(shown.alpha - front).mean() < 0.035
        assert (shown.alpha > 0.5)[front].mean() > 0.94 and (shown.alpha > 0.5)[~front].mean() < 0.01
        assert np.abs(shown.person[front].astype(float) - drawn.image[front]).mean() < 2


def test_a_blurred_background_has_nothing_of_the_person() -> None:
    """A red disk before green: around its edge and behind it there is green alone."""
    y, x = np.mgrid[:128, :128] - 63.5
    alpha = (41 - np.hypot(x, y)).clip(0, 2).astype(np.float32) / 2
    red, green = np.full((128, 128, 3), (220, 30, 30), np.uint8), np.full((128, 128, 3), (20, 160, 60), np.uint8)
    mixed = np.where(alpha[..., None] > 0.5, red, green)
    assert np.abs(blurred(Matte(red, alpha, green)).astype(int) - green)[alpha < 1].max() <= 1
    assert np.abs(blurred(Matte(red, alpha, mixed)).astype(int) - green)[alpha < 1].max() < 20


@pytest.fixture(scope="module")
def motion(tmp_path_factory: pytest.TempPathFactory) -> Path:
    values = np.zeros((3, len(NAMES)), np.float32)
    values[:, NAMES.index("yaw")], values[:, NAMES.index("scale")] = (-12, 0, 12), 1
    rows = np.tile(np.array((64, 64, 128, 0), np.float32), (3, 1))
    path = tmp_path_factory.mktemp("motion") / "motion.safetensors"
    Motion(values, FACE, NAMES, Fraction(25), rows).save(path)
    return path


def drive(motion: Path, out: Path, background: str, *more: str) -> np.ndarray:
    words = ["drive", "stylemask", "--source", "29", "--driving", str(motion), "--out", str(out)]
    assert main([*words, "--background", background, *more]) == 0
    return np.stack(list(VideoReader(out)))


def test_a_colour_an_image_or_a_clip_is_behind_the_person(motion: Path, tmp_path: Path) -> None:
    frames = drive(motion, tmp_path / "a.mkv", "#ff8000")
    orange = np.array((255.0, 128, 0))
    assert (frames[:, :60, :8] == orange).all() and np.abs(frames[:, 128, 128] - orange).max(1).min() > 20
    record = json.loads((tmp_path / "a.json").read_text())
    assert record["background"]["is"] == "#ff8000" and record["seconds"]["background"] > 0
    ramp = np.tile(np.arange(0, 250, 2, dtype=np.uint8)[:, None, None], (1, 60, 3))
    save_picture(tmp_path / "ramp.png", ramp)
    large = drive(motion, tmp_path / "b.mkv", str(tmp_path / "ramp.png"), "--size", "320", "--frames", "1")
    assert large.shape[1:3] == (320, 320)
    assert (np.diff(large[0, :200, 4, 0].astype(int)) >= -1).all(), "filled, its middle part"
    assert 58 < large[0, 0, 4, 0] < 72, "60 of 125 rows are left, from the 32nd on"
    record = json.loads((tmp_path / "b.json").read_text())
    assert record["inputs"]["background"]["sha256"]
    with VideoWriter(tmp_path / "clip.mkv", Fraction(25)) as writer:
        for grey in (40, 200):
            writer.write(np.full((32, 32, 3), grey, np.uint8))
    frames = drive(motion, tmp_path / "c.mkv", str(tmp_path / "clip.mkv"))
    assert [int(frame[20, 4, 0]) for frame in frames] == [40, 200, 40], "it is repeated"
    again = Background(str(tmp_path / "clip.mkv")).frames(3, Fraction(25))
    assert int(next(again)[0, 0, 0]) == 200, "a resumed run goes on where it was"  # type: ignore[index]


@pytest.mark.parametrize(
    ("system", "background", "more", "expected"),
    [
        ("stylemask", "nocolour", [], "nocolour is no background; give a colour"),
        ("stylemask", "{text}", [], "cannot be read"),
        ("stylemask", "white", ["--paste-back"], "give one of them"),
        ("toy", "white", [], "only those of the built-in family; leave out --background"),
    ],
)
def test_what_cannot_be_is_one_sentence(
    system: str,
    background: str,
    more: list[str],
    expected: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.setitem(systems.SPECS, "toy", Spec("toy:Toy"))
    (tmp_path / "text.png").write_text("no image")
    save_picture(tmp_path / "who.png", np.full((64, 64, 3), 90, np.uint8))
    clip = make_clip(tmp_path / "clip.mp4", num_frames=3)
    words = ["drive", system, "--source", str(tmp_path / "who.png"), "--driving", str(clip)]
    words += ["--out", str(tmp_path / "new" / "out.mp4"), "--background", background.format(text=tmp_path / "text.png")]
    assert main([*words, *more]) == 2
    said = capsys.readouterr()
    assert expected in said.err and said.err.count("\n") == 1 and not (tmp_path / "new").exists()
