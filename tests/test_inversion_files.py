"""`stylereel invert` with the files people have (official encoders, HFGI, any generator), and with long clips."""

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from test_encoders import random_images, save_checkpoint, small_encoder, small_generator
from test_inversion import draw_portrait

from stylereel.cli import main
from stylereel.commands import invert as inversion
from stylereel.core.latents import Codes
from stylereel.core.record import sha256
from stylereel.core.render import pictures
from stylereel.core.weights import save_module
from stylereel.encoders import pyramid
from stylereel.encoders.hfgi import HFGI, LAYER, HFGIConfig
from stylereel.faces import backend, placement
from stylereel.generator import StyleGAN3, StyleGAN3Config
from stylereel.invert import networks
from stylereel.invert.optimise import Fit
from stylereel.media.pictures import read_picture
from stylereel.media.sheet import LABEL_HEIGHT
from stylereel.zoo.formats import load_generator_file


@pytest.fixture
def portrait(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("STYLEREEL_CACHE", str(tmp_path / "cache"))
    return draw_portrait(tmp_path / "who.png")


def crop_of(path: Path) -> torch.Tensor:
    """The face of a picture as the official tools give it to their encoders: FFHQ's crop at 256 px."""
    picture = read_picture(path)
    crop = placement.cut(picture, placement.place_ffhq(backend.find_face(picture)[None])[0], 256)
    return torch.tensor(crop).permute(2, 0, 1)[None].float() / 127.5 - 1


def shown(file: Path, generator: Any) -> tuple[np.ndarray, np.ndarray]:
    """The reconstruction in NAME.png, and what the generator makes of the codes in NAME.safetensors."""
    codes = Codes.load(file)
    with torch.no_grad():
        image = Fit(codes.w, codes.features).render(generator.tuned(codes.delta))
    size = generator.resolution
    sheet = read_picture(file.with_suffix(".png"))
    return sheet[LABEL_HEIGHT : LABEL_HEIGHT + size, size + 2 : 2 * size + 2], pictures(image)[0]


TYPES = {
    "GradualStyleEncoder": {},
    "Encoder4Editing": {"offsets": True},
    "BackboneEncoder": {"heads": "last", "channels": 6},
    "ProgressiveBackboneEncoder": {"heads": "last", "channels": 6, "offsets": True},
}


@pytest.mark.parametrize("kind", TYPES)
def test_an_official_file_alone_inverts_a_picture_with_the_generator_in_it(
    kind: str, portrait: Path, tmp_path: Path
) -> None:
    file = save_checkpoint(tmp_path / "official.pt", encoder := small_encoder(**TYPES[kind]), {"encoder_type": kind})
    out = tmp_path / "codes.safetensors"
    assert main(["invert", str(portrait), "--encoder", str(file), "--steps", "0", "--out", str(out)]) == 0
    codes, generator = Codes.load(out), load_generator_file(file)
    expected = pyramid.invert(encoder, crop_of(portrait), generator, steps=5).codes
    torch.testing.assert_close(codes.w, expected.clone(), atol=1e-5, rtol=1e-5)
    record = json.loads(out.with_suffix(".json").read_text())
    assert codes.generator == record["weights"]["encoder"] == sha256(file)
    drawn, again = shown(out, generator)
    assert np.array_equal(drawn, again) and not codes.features


def test_hfgi_in_a_file_corrects_the_picture_after_the_optimisation(portrait: Path, tmp_path: Path) -> None:
    torch.manual_seed(3)
    hfgi = HFGI(HFGIConfig(channels=8)).eval().requires_grad_(False)
    torch.nn.init.normal_(hfgi.encoder.condition_shift3[2].bias)  # type: ignore[arg-type]
    nets = {"residue": hfgi.encoder.state_dict(), "grid_align": hfgi.aligner.state_dict()}
    encoder, generator = small_encoder(rows=10, offsets=True), small_generator(64)
    file = save_checkpoint(tmp_path / "hfgi.pt", encoder, {"encoder_type": "Encoder4Editing"}, **nets)
    generator.save(tmp_path / "generator.safetensors")
    out = tmp_path / "codes.safetensors"
    files: Any = {"encoder": file, "generator": tmp_path / "generator.safetensors"}
    record = inversion.invert(portrait, out=out, steps=2, **files)
    assert list(record["quality"]) == ["encoder", "optimised", "corrected"]
    codes, generator = Codes.load(out), load_generator_file(files["generator"])
    with torch.no_grad():
        correction = hfgi(crop_of(portrait), generator.synthesize(codes.w))
        wanted = correction.apply(generator.synthesize(codes.w, stop=LAYER))
        torch.testing.assert_close(codes.features[LAYER], wanted, atol=1e-3, rtol=1e-3)
        assert (wanted - generator.synthesize(codes.w, stop=LAYER)).abs().max() > 0.1
    drawn, again = shown(out, generator)
    assert np.array_equal(drawn, again)
    with pytest.raises(ValueError, match="choose the space w or w"):
        inversion.invert(portrait, out=out, space="features", **files)


def test_a_generator_alone_begins_at_its_mean(
    portrait: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    generator = small_generator(32)
    torch.nn.init.normal_(generator.mean_w)
    generator.save(tmp_path / "generator.safetensors")
    out, flags = tmp_path / "codes.safetensors", ["--generator", str(tmp_path / "generator.safetensors")]
    assert main(["invert", str(portrait), *flags, "--steps", "10", "--out", str(out)]) == 0
    quality = json.loads(out.with_suffix(".json").read_text())["quality"]
    assert quality["optimised"]["psnr"] > quality["encoder"]["psnr"]
    assert "encoder" not in json.loads(out.with_suffix(".json").read_text())["weights"]
    assert main(["invert", str(portrait), *flags, "--steps", "0", "--out", str(out)]) == 2
    assert "start at the mean" in capsys.readouterr().err


def test_stylegan3_is_inverted_too_and_restyle_takes_three_steps(portrait: Path, tmp_path: Path) -> None:
    torch.manual_seed(0)
    config = StyleGAN3Config(16, z_dim=8, w_dim=32, channel_base=256, channel_max=8, mapping_layers=1, num_layers=6)
    generator = StyleGAN3(config).eval().requires_grad_(False)
    generator.save(tmp_path / "generator.safetensors")
    encoder = small_encoder(rows=generator.num_ws, heads="last", channels=6)
    file = save_checkpoint(tmp_path / "restyle.pt", encoder, {"encoder_type": "BackboneEncoder"})
    out = tmp_path / "codes.safetensors"
    inversion.invert(portrait, out=out, steps=0, encoder=file, generator=tmp_path / "generator.safetensors")
    generator = load_generator_file(tmp_path / "generator.safetensors")
    expected = pyramid.invert(encoder, crop_of(portrait), generator, steps=3).codes
    torch.testing.assert_close(Codes.load(out).w, expected.clone(), atol=1e-4, rtol=1e-4)


@pytest.mark.parametrize("framing", ["encoder", "generator"])
def test_a_tuned_generator_from_the_file_draws_the_picture_in_the_record(
    framing: str, portrait: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Pixel for pixel; the style vectors of the generator as it was are those of the tuned one."""
    monkeypatch.setattr(inversion, "tune", lambda *given, through: networks_tune(*given, passes=2, through=through))
    file = save_checkpoint(tmp_path / "e4e.pt", small_encoder(offsets=True), {"encoder_type": "Encoder4Editing"})
    small_generator(32).save(tmp_path / "generator.safetensors")
    given: Any = {"encoder": file} if framing == "encoder" else {"generator": tmp_path / "generator.safetensors"}
    out = tmp_path / "codes.safetensors"
    record = inversion.invert(portrait, out=out, steps=1, pti=True, **given)
    assert list(record["quality"]) == ["encoder", "optimised", "tuned"]
    generator, codes = load_generator_file(next(iter(given.values()))), Codes.load(out)
    drawn, again = shown(out, generator)
    assert np.array_equal(drawn, again)
    assert any(delta.any() for delta in codes.delta.values()) and not any("affine" in name for name in codes.delta)
    with torch.no_grad():
        by_styles = generator.tuned(codes.delta).synthesize(s=generator.styles(codes.w))
    assert np.array_equal(pictures(by_styles)[0], drawn)


networks_tune = inversion.tune


def test_codes_and_generators_that_do_not_belong_together_are_named(portrait: Path, tmp_path: Path) -> None:
    file = save_checkpoint(tmp_path / "e4e.pt", small_encoder(rows=18), {"encoder_type": "Encoder4Editing"})
    with pytest.raises(ValueError, match="18 rows of 32, but the generator takes 8 of 32"):
        inversion.invert(portrait, out=tmp_path / "a.safetensors", encoder=file)
    save_module(tmp_path / "own.safetensors", "style_encoder", small_encoder())
    with pytest.raises(ValueError, match="includes no generator"):
        inversion.invert(portrait, out=tmp_path / "a.safetensors", encoder=tmp_path / "own.safetensors")
    with pytest.raises(ValueError, match="no file"):
        inversion.invert(portrait, out=tmp_path / "a.safetensors", encoder=tmp_path / "none.pt")
    assert not list((tmp_path / "cache").rglob("record.json"))


def test_arcface_is_the_identity_where_its_official_file_is(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    small_generator().save(tmp_path / "generator.safetensors")
    assert networks.choose(None, tmp_path / "generator.safetensors")["identity"].stem == "identity"
    monkeypatch.setattr(networks, "official", lambda name: tmp_path / name)
    assert networks.choose(None, tmp_path / "generator.safetensors")["identity"].name == "model_ir_se50.pth"
    assert networks.choose(None, None)["identity"].stem == "identity"  # in the built-in framing


def test_an_encoder_without_an_average_adds_to_the_generators_mean(tmp_path: Path) -> None:
    encoder = small_encoder(offsets=True)
    path = save_checkpoint(tmp_path / "e4e.pt", encoder, {"encoder_type": "Encoder4Editing"})
    content = torch.load(path)
    del content["latent_avg"]
    torch.save(content, path)
    with pytest.warns(UserWarning, match="no mean of w; it was measured"):
        nets = networks.load(networks.choose(path, None))
    images = random_images(1)
    with torch.no_grad():
        offsets = encoder(images) - encoder.average
    torch.testing.assert_close(nets.encode(images), nets.generator.mean_w + offsets, atol=1e-5, rtol=1e-5)


def test_too_many_feature_maps_are_refused_before_the_work() -> None:
    nets = networks.Networks(small_generator(64), torch.nn.Identity(), torch.zeros_like)
    inversion._refuse_too_many_maps(100, nets, "features")
    inversion._refuse_too_many_maps(10**6, nets, "w+")
    with pytest.raises(ValueError, match=r"cut the clip to \d+ frames or choose w\+"):
        inversion._refuse_too_many_maps(10**6, nets, "features")


@pytest.mark.skipif(sys.platform != "linux", reason="reads the process's peak memory as Linux gives it")
def test_a_long_clip_takes_the_memory_of_a_short_one(tmp_path: Path) -> None:
    """Sixty crops of 1024 px are 755 MB as tensors, two at a time are 25."""
    code = """
import resource
from fractions import Fraction
import numpy as np, torch
from stylereel.commands import invert as inversion
from stylereel.generator import StyleGAN2, StyleGAN2Config
from stylereel.invert.networks import Networks
from stylereel.core.record import Stages
class Seen:
    name = "mean"
    def __call__(self, images): return images.mean((2, 3)) + 1
inversion.CHUNK, inversion.pyramid.SIZE = 2, 1024
config = StyleGAN2Config(8, z_dim=4, w_dim=4, channel_max=2, mapping_layers=1)
generator = StyleGAN2(config).eval().requires_grad_(False)
nets = Networks(generator, lambda x: generator.mean_w.expand(len(x), generator.num_ws, -1), Seen())
def made(count):
    rows = np.tile(np.array([32, 32, 64, 0], np.float32), (count, 1))
    found = inversion.Found([np.zeros((64, 64, 3), np.uint8)] * count, rows, Fraction(25), [], {})
    measured, codes, _ = inversion._invert(found, nets, "w+", 0, False, Seen(), "", Stages())
    assert len(codes) == measured["frames"]["inverted"] == count
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
start = made(6)
print(made(60) - start)
"""
    command = [sys.executable, "-c", code]
    grown = int(subprocess.run(command, capture_output=True, text=True, check=True).stdout)
    assert grown < 100_000  # KiB
