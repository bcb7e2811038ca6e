"""Inversion by optimisation and pivotal tuning on a tiny generator, the files of it, and the command with its cache."""

import json
from fractions import Fraction
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor

from stylereel import world
from stylereel.cli import main
from stylereel.commands import invert as inversion
from stylereel.core.latents import Codes, Identity
from stylereel.generator import StyleGAN2, StyleGAN2Config
from stylereel.invert.optimise import STRUCTURE_LAYER, Fit, Known, optimise
from stylereel.invert.perceptual import Perceptual, distance, likeness
from stylereel.invert.pti import tune
from stylereel.media.pictures import read_picture, save_picture
from stylereel.metrics.features import face_trunk
from stylereel.metrics.pictures import LPIPS
from stylereel.metrics.registry import find, open_clips


@pytest.fixture(scope="module")
def generator() -> StyleGAN2:
    torch.manual_seed(0)
    config = StyleGAN2Config(32, z_dim=16, w_dim=16, channel_base=256, channel_max=16, mapping_layers=2)
    return StyleGAN2(config).eval().requires_grad_(False)


@pytest.fixture(scope="module")
def perceptual() -> Perceptual:
    torch.manual_seed(1)
    return Perceptual(LPIPS("alex"))  # random weights do for the machinery


def codes(generator: StyleGAN2, seed: int, count: int = 2) -> Tensor:
    return generator.map(torch.randn(count, 16, generator=torch.Generator().manual_seed(seed))).clone()


def error(generator: StyleGAN2, fit: Fit, images: Tensor) -> Tensor:
    with torch.no_grad():
        return (fit.render(generator) - images).square().mean((1, 2, 3))


def pictures_of(generator: StyleGAN2, w: Tensor) -> Tensor:
    with torch.no_grad():
        return generator.synthesize(w)


@pytest.mark.parametrize("space", ["w", "w+", "features"])
def test_optimisation_comes_much_nearer(space, generator: StyleGAN2, perceptual: Perceptual) -> None:
    images, start = pictures_of(generator, codes(generator, 3)), codes(generator, 4)
    fit = optimise(generator, images, start, perceptual, space, 60)
    assert (error(generator, fit, images) < 0.4 * error(generator, Fit(start), images)).all()
    same_rows = (fit.w == fit.w[:, :1]).all(2).sum(1)
    assert (same_rows == generator.num_ws).all() if space == "w" else (same_rows < generator.num_ws).all()
    if space == "features":
        assert list(fit.features) == [STRUCTURE_LAYER] and torch.equal(fit.w[:, :7], start[:, :7])


def test_a_picture_is_inverted_the_same_alone_and_beside_others(generator: StyleGAN2, perceptual: Perceptual) -> None:
    images, start = pictures_of(generator, codes(generator, 3)), codes(generator, 4)
    both = optimise(generator, images, start, perceptual, "features", 5)
    alone = optimise(generator, images[1:], start[1:], perceptual, "features", 5)
    torch.testing.assert_close(both.w[1:], alone.w, atol=2e-3, rtol=1e-3)


@pytest.mark.parametrize("space", ["w+", "features"])
def test_no_steps_give_the_start(space, generator: StyleGAN2, perceptual: Perceptual) -> None:
    start = codes(generator, 4)
    images = pictures_of(generator, start)
    fit = optimise(generator, images, start, perceptual, space, 0)
    assert torch.equal(fit.w, start)
    torch.testing.assert_close(fit.render(generator), images, atol=1e-5, rtol=1e-5)


def test_the_generators_own_codes_are_likelier_than_others() -> None:
    generator = StyleGAN2(StyleGAN2Config(8, z_dim=32, w_dim=16, channel_max=8, mapping_layers=2))
    known = Known.of(generator)
    own = generator.map(torch.randn(500, 32))
    assert 0.5 < known.unlikely(own).mean() < 1.1
    far = generator.mean_w + 3 * (own - generator.mean_w)
    assert (known.unlikely(far) > known.unlikely(own)).all() and known.unlikely(far).mean() > 3


@pytest.mark.parametrize("wrong", ["size", "space", "number", "small"])
def test_mistakes_are_named(wrong: str, generator: StyleGAN2, perceptual: Perceptual) -> None:
    images, start, space = torch.zeros(2, 3, 32, 32), codes(generator, 4), "w+"
    if wrong == "size":
        images = torch.zeros(2, 3, 16, 16)
    elif wrong == "space":
        space = "z"
    elif wrong == "number":
        start = start[:1]
    else:
        generator, space = StyleGAN2(StyleGAN2Config(16, z_dim=4, w_dim=4, channel_max=4, mapping_layers=1)), "features"
        images, start = torch.zeros(1, 3, 16, 16), generator.map(torch.zeros(1, 4))
    with pytest.raises(ValueError, match="Give one image|Choose a space|needs a StyleGAN2"):
        optimise(generator, images, start, perceptual, space, 1)  # type: ignore[arg-type]


def test_one_tuned_generator_fits_all_frames_of_a_clip(generator: StyleGAN2, perceptual: Perceptual) -> None:
    fit = Fit(codes(generator, 5, 6))
    images = (pictures_of(generator, fit.w) * 0.7).roll(1, dims=3)  # what no code of this generator shows
    before = {name: value.clone() for name, value in generator.state_dict().items()}
    delta = tune(generator, fit, images, perceptual, passes=15)
    assert all(torch.equal(value, before[name]) for name, value in generator.state_dict().items())
    tuned = generator.tuned(delta)
    assert (error(tuned, fit, images) < 0.7 * error(generator, fit, images)).all()
    assert all(name.startswith("synthesis.") for name in delta)
    assert {value.dtype for value in delta.values()} == {torch.float16}


def test_locality_keeps_other_people_as_they_were(generator: StyleGAN2, perceptual: Perceptual) -> None:
    fit, others = Fit(codes(generator, 5, 1)), codes(generator, 6, 8)
    images = -pictures_of(generator, fit.w)
    before = pictures_of(generator, others)
    moved = []
    for locality in (0.0, 1.0):
        delta = tune(generator, fit, images, perceptual, 20, locality)
        moved.append((pictures_of(generator.tuned(delta), others) - before).square().mean())
    assert moved[1] < 0.8 * moved[0]


def test_a_delta_of_another_generator_is_refused(generator: StyleGAN2) -> None:
    with pytest.raises(ValueError, match="another network"):
        generator.tuned({"synthesis.b4.const": torch.zeros(3)})


def test_perceptual_vectors_give_lpips() -> None:
    torch.manual_seed(0)
    network = LPIPS("alex")
    for weights in network.weights:
        weights.data.uniform_(0, 1)
    a, b = torch.rand(2, 2, 3, 64, 64) * 2 - 1
    perceptual = Perceptual(network)
    with torch.no_grad():
        torch.testing.assert_close(distance(perceptual(a), perceptual(b)), network(a, b), rtol=1e-4, atol=1e-6)
    assert perceptual.name == "lpips-alex"


def test_perceptual_vectors_give_the_face_feature_distance(tmp_path: Path) -> None:
    random = np.random.default_rng(0)
    frames = [random.integers(0, 256, (96, 96, 3), np.uint8) for _ in range(2)]
    for name, frame in zip("ab", frames):
        save_picture(tmp_path / f"{name}.png", frame)
    wanted = find("face-feature-distance")(open_clips(tmp_path / "a.png"), open_clips(tmp_path / "b.png")).value
    perceptual = Perceptual(face_trunk())
    images = torch.from_numpy(np.stack(frames)).permute(0, 3, 1, 2).float() / 127.5 - 1
    with torch.no_grad():
        a, b = perceptual(images).split(1)
    assert distance(a, b).item() == pytest.approx(wanted, rel=1e-4)


def test_likeness_weighs_perception_and_identity_as_e4e_does(perceptual: Perceptual) -> None:
    def embed(images: Tensor) -> Tensor:
        return torch.nn.functional.normalize(images.flatten(1)[:, :10], dim=1)

    a, b = torch.rand(2, 2, 3, 32, 32) * 2 - 1
    look = likeness(perceptual, embed)
    cosine = (embed(a) * embed(b)).sum(1)
    wanted = 0.8 * distance(perceptual(a), perceptual(b)) + 0.5 * (1 - cosine)
    torch.testing.assert_close(distance(look(a), look(b)), wanted, rtol=1e-4, atol=1e-6)


def test_codes_and_identities_come_back_from_their_files(tmp_path: Path) -> None:
    delta = {"synthesis.b4.const": torch.randn(2, 4, 4).half()}
    features = {STRUCTURE_LAYER: torch.randn(3, 2, 4, 4)}
    made = Codes(torch.randn(3, 5, 8), "ab12", Fraction(30000, 1001), torch.rand(3, 4), features, delta)
    made.save(tmp_path / "codes.safetensors")
    again = Codes.load(tmp_path / "codes.safetensors")
    assert torch.equal(again.w, made.w) and torch.equal(again.placement, made.placement)
    assert (again.rate, again.generator, len(again)) == (made.rate, made.generator, 3)
    assert torch.equal(again.features[STRUCTURE_LAYER], features[STRUCTURE_LAYER])
    identity = again.identity("stylemask", 1)
    identity.save(tmp_path / "identity.safetensors")
    who = Identity.load(tmp_path / "identity.safetensors")
    assert torch.equal(who.w, made.w[1]) and not who.tensors
    assert torch.equal(who.delta["synthesis.b4.const"], delta["synthesis.b4.const"])
    with pytest.raises(ValueError, match="does not hold codes"):
        Codes.load(tmp_path / "identity.safetensors")


def draw_portrait(path: Path) -> Path:
    save_picture(path, world.draw(world.align(world.neutral()[None])[0], 256).image)
    return path


@pytest.fixture
def portrait(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("STYLEREEL_CACHE", str(tmp_path / "cache"))
    return draw_portrait(tmp_path / "who.png")


def test_the_command_improves_on_the_encoder_and_works_only_once(
    portrait: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    arguments = ["invert", str(portrait), "--steps", "25", "--out", str(tmp_path / "out")]
    assert main(arguments) == 0
    record = json.loads((tmp_path / "out" / "who.json").read_text())
    quality = record["quality"]
    assert quality["optimised"]["psnr"] > quality["encoder"]["psnr"]
    assert quality["optimised"]["perceptual"] < quality["encoder"]["perceptual"]
    assert not record["cached"] and (tmp_path / "out" / "who.png").exists()
    first = (tmp_path / "out" / "who.safetensors").read_bytes()
    assert len(Codes.load(tmp_path / "out" / "who.safetensors")) == 1

    def work(*_: object) -> None:
        raise AssertionError("the second run must not invert again")

    monkeypatch.setattr(inversion, "_invert", work)
    copy = tmp_path / "same-contents.png"
    copy.write_bytes(portrait.read_bytes())
    named = tmp_path / "new" / "again.safetensors"
    with monkeypatch.context() as full:  # the disk is full once the codes are written

        def copy_codes_only(source: Path, target: Path) -> None:
            if source.suffix == ".png":
                raise OSError("No space left on device")
            target.write_bytes(source.read_bytes())

        full.setattr(inversion.shutil, "copyfile", copy_codes_only)
        assert main(["invert", str(copy), "--steps", "25", "--out", str(named)]) == 2
    assert not named.parent.exists(), "codes and picture are put in place together"
    assert main(["invert", str(copy), "--steps", "25", "--out", str(named)]) == 0
    assert named.read_bytes() == first
    again = json.loads(named.with_suffix(".json").read_text())
    assert again["cached"] and again["quality"] == quality
    assert "from the cache" in capsys.readouterr().out


def test_another_setting_is_another_result(portrait: Path, tmp_path: Path) -> None:
    plain = inversion.invert(portrait, out=tmp_path / "plain.safetensors", steps=0)
    tuned = inversion.invert(portrait, out=tmp_path / "w.safetensors", space="w", steps=1)
    assert list(plain["quality"]) == ["encoder"] and list(tuned["quality"]) == ["encoder", "optimised"]
    assert not tuned["cached"]


def test_a_clip_has_a_code_and_a_placement_for_each_frame(portrait: Path, tmp_path: Path) -> None:
    picture = read_picture(portrait)
    (tmp_path / "clip").mkdir()
    for index in range(3):
        save_picture(tmp_path / "clip" / f"{index}.png", np.roll(picture, 15 * index, axis=1))
    inversion.invert(tmp_path / "clip", out=tmp_path / "clip.safetensors", steps=0)
    codes = Codes.load(tmp_path / "clip.safetensors")
    assert len(codes) == len(codes.placement) == 3 and codes.rate == 25
    inversion.invert(portrait, out=tmp_path / "still.safetensors", steps=0)
    still = Codes.load(tmp_path / "still.safetensors")
    assert 5 < codes.placement[:, 0].mean() - still.placement[0, 0] < 25  # the face moves 15 pixels in the mean
    inversion.invert(tmp_path / "clip", out=tmp_path / "part.safetensors", steps=0, start="0.04", duration="0.04")
    assert len(Codes.load(tmp_path / "part.safetensors")) == 1
    with pytest.raises(ValueError, match="is an image"):
        inversion.invert(portrait, out=tmp_path / "part.safetensors", steps=0, start="1")


def test_a_picture_without_a_face_or_a_missing_one_is_refused(
    portrait: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    save_picture(tmp_path / "blank.png", np.full((64, 64, 3), 128, np.uint8))
    assert main(["invert", str(tmp_path / "blank.png"), "--out", str(tmp_path / "out")]) == 2
    assert "No face" in capsys.readouterr().err
    assert main(["invert", str(tmp_path / "none.png"), "--out", str(tmp_path / "out")]) == 2
    assert "no file" in capsys.readouterr().err
    assert not list((tmp_path / "cache").rglob("record.json"))
