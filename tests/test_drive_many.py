"""Driving with saved codes, identities and motions, with folders of sources and clips, and with own weight files."""

import json
from fractions import Fraction
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from stylereel import world
from stylereel.cli import main
from stylereel.commands.drive import drive
from stylereel.core.latents import Codes
from stylereel.generator import StyleGAN2, StyleGAN2Config
from stylereel.media.ahead import Ahead
from stylereel.media.pictures import save_picture
from stylereel.media.video import VideoReader, VideoWriter
from stylereel.systems.stylemask import MaskConfig, MaskNets, StyleMask
from stylereel.world.factors import LATENT_DIM


@pytest.fixture(scope="module")
def system() -> StyleMask:
    return StyleMask.builtin()


@pytest.fixture(scope="module")
def place(system: StyleMask, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """clips/ with one clip and one without a face, people/ with a picture, codes and an identity."""
    folder = tmp_path_factory.mktemp("many")
    (folder / "clips").mkdir()
    (folder / "people").mkdir()
    values = np.tile(world.neutral(), (6, 1))
    values[:, 0] = np.linspace(-15, 15, 6)
    heads = [world.draw(v, 160).image for v in world.align(values)]
    for name, frames in (("turns", heads), ("empty", [np.full((96, 96, 3), 99, np.uint8)] * 3)):
        with VideoWriter(folder / "clips" / f"{name}.mp4", Fraction(25)) as writer:
            for frame in frames:
                writer.write(frame)
            writer.finish()
    person = world.align(world.from_latent(np.random.default_rng(2).standard_normal(LATENT_DIM)))
    save_picture(folder / "people" / "ann.png", world.draw(person, 256).image)
    w = system.identify(4).w
    Codes(w[None], "", Fraction(1), torch.ones(1, 4)).save(folder / "people" / "codes.safetensors")
    system.identify(5).save(folder / "people" / "identity.safetensors")
    return folder


def test_folders_of_people_and_clips_make_a_clip_for_each_pair(
    place: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    command = ["drive", "stylemask", "--source", str(place / "people"), "--driving", str(place / "clips")]
    assert main([*command, "--out", str(tmp_path / "out")]) == 0
    index = json.loads((tmp_path / "out" / "index.json").read_text())
    made = [line for line in index["results"] if "out" in line]
    assert {Path(line["out"]).name for line in made} == {f"{who}--turns.mp4" for who in ("ann", "codes", "identity")}
    assert all(VideoReader(line["out"]).num_frames == 6 for line in made)
    failed = [line for line in index["results"] if "error" in line]
    assert len(failed) == 3 and all("face" in line["error"] and "empty" in line["driving"] for line in failed)
    grid = np.asarray(Image.open(tmp_path / "out" / "grid.png"))
    assert 1000 < grid.shape[0] <= 1080 and grid.shape[1] > 3 * 240, "it fits a screen"
    assert "ann--turns.mp4" in capsys.readouterr().out


def test_a_folder_in_which_nothing_works_is_one_sentence(place: Path, tmp_path: Path, system: StyleMask) -> None:
    folder = tmp_path / "clips"
    folder.mkdir()
    (folder / "empty.mp4").write_bytes((place / "clips" / "empty.mp4").read_bytes())
    with pytest.raises(ValueError, match="No pair could be made: .*face"):
        drive(system, source="1", driving=str(folder), out=str(tmp_path / "out"))


def test_saved_codes_and_motions_drive(place: Path, tmp_path: Path, system: StyleMask) -> None:
    w = torch.stack([system.identify(seed).w for seed in (7, 8, 9)])
    Codes(w, "", Fraction(30000, 1001), torch.ones(3, 4)).save(tmp_path / "driver.safetensors")
    identity = str(place / "people" / "identity.safetensors")
    record = drive(
        system,
        source=identity,
        driving=str(tmp_path / "driver.safetensors"),
        out=str(tmp_path / "out.mp4"),
        compare=True,
    )
    assert record["frames"]["written"] == 3 and record["rate"] == Fraction(30000, 1001)
    assert VideoReader(tmp_path / "out.mp4").num_frames == 3
    motion = system.extract(place / "clips" / "turns.mp4")
    motion.save(tmp_path / "motion.safetensors")
    results = []
    for driving in (place / "clips" / "turns.mp4", tmp_path / "motion.safetensors"):
        drive(system, source="3", driving=str(driving), out=str(tmp_path / "both.mkv"))
        results.append(np.stack(list(VideoReader(tmp_path / "both.mkv"))))
    assert np.array_equal(*results)
    with pytest.raises(ValueError, match="Codes have no image to paste"):
        drive(
            system,
            source=identity,
            driving=str(place / "clips" / "turns.mp4"),
            out=str(tmp_path / "x.mp4"),
            paste_back="source",
        )


def test_the_command_line_takes_own_weight_files(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    torch.manual_seed(0)
    generator = StyleGAN2(StyleGAN2Config(16, z_dim=8, w_dim=8, channel_base=128, channel_max=8, mapping_layers=1))
    torch.save(generator.state_dict(), tmp_path / "g.pt")
    masks = MaskNets(MaskConfig.of(generator)).state_dict()
    torch.save({"mask_net": masks, "num_layers_control": 5, "step": 0}, tmp_path / "m.pt")
    Codes(torch.randn(2, 6, 8), "", Fraction(25), torch.ones(2, 4)).save(tmp_path / "c.safetensors")
    words = ["drive", "stylemask", "--generator", str(tmp_path / "g.pt"), "--source", "1"]
    words += ["--driving", str(tmp_path / "c.safetensors"), "--out", str(tmp_path / "out.mp4")]
    assert main([*words, "--masks", str(tmp_path / "m.pt")]) == 0
    record = json.loads((tmp_path / "out.json").read_text())
    assert record["size"] == [16, 16] and set(record["weights"]) == {"g.pt", "m.pt"}
    assert f"--generator {tmp_path / 'g.pt'}" in record["command"]
    capsys.readouterr()
    assert main(words) == 2
    assert "need --masks" in capsys.readouterr().err


def test_items_made_ahead_keep_their_order_and_their_errors() -> None:
    class Items(list):
        def __iter__(self):
            yield from range(3)
            raise ValueError("no more")

    seen = []
    with pytest.raises(ValueError, match="no more"):
        for item in Ahead(Items([0] * 5)):
            seen.append(item)
    assert seen == [0, 1, 2] and len(Ahead(Items([0] * 5))) == 5
