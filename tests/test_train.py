"""Every recipe learns, on tiny networks; batches can be shared."""

import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from stylereel import world
from stylereel.commands import train as recipes
from stylereel.commands.weights import weights_list
from stylereel.core.builtin import BUILTIN
from stylereel.core.weights import read_card
from stylereel.family import people as data
from stylereel.family.encoder import Encoder, EncoderConfig, load_encoder
from stylereel.family.nets import load_face
from stylereel.family.people import grouped_w
from stylereel.generator import StyleGAN2, StyleGAN2Config, StyleGAN3, StyleGAN3Config
from stylereel.generator.base import MappingNetwork
from stylereel.media.pictures import save_picture
from stylereel.recipes import encoder, losses, mapping, perception, run
from stylereel.recipes import stylegan2 as generator
from stylereel.systems.stylemask import training as stylemask
from stylereel.train import adversarial
from stylereel.train.loop import Trainer
from stylereel.world.factors import EXPRESSION, GROUP, INDEX, LATENT_DIM, NAMES, POSE
from stylereel.world.shading import REGIONS


def test_batches_are_reproducible_and_mixed_with_truth() -> None:
    first, second = data.draw_batch((1, 2), 6, 64), data.draw_batch((1, 2), 6, 64)
    assert torch.equal(first.images, second.images) and torch.equal(first.z, second.z)
    mixed = data.draw_batch((3,), 12, 64, mix=1.0)
    assert (mixed.z[:, 0] != mixed.z[:, 1]).any(dim=1).float().mean() > 0.2
    # A factor is read from the latent of its own group alone.
    z = mixed.z.numpy().astype(np.float64)
    values = data.mixed_values(z)
    look = data.GROUPS.index("look")
    z[:, look] = np.random.default_rng(0).standard_normal(z[:, look].shape)
    changed = data.mixed_values(z) != values
    groups = np.array([GROUP[name] for name in world.NAMES])
    assert changed[:, groups == "look"].mean() > 0.9 and not changed[:, groups != "look"].any()


def test_latents_of_given_values() -> None:
    values = np.concatenate(
        [world.neutral()[None], world.from_latent(np.random.default_rng(1).standard_normal((9, LATENT_DIM)))]
    )
    reconstruction = data.mixed_values(data.latents_of(values, np.random.default_rng(0)))
    assert (np.abs(reconstruction - values) / (world.HIGH - world.LOW)).max() < 0.03


@pytest.fixture
def tiny(monkeypatch: pytest.MonkeyPatch) -> None:
    """Recipes with few channels, few steps and small batches."""
    config = StyleGAN2Config(128, z_dim=LATENT_DIM, w_dim=32, channel_base=512, channel_max=16, mapping_layers=1)
    monkeypatch.setattr(generator, "CONFIG", config)
    monkeypatch.setattr(mapping, "STEPS", 30)
    monkeypatch.setattr(mapping, "NEWER_STEPS", 30)
    monkeypatch.setattr(generator, "AGAIN", generator.Stage(64, 3, 4, 1e-3, 1e-3))
    stages = (generator.Stage(64, 60, 4, 2e-2, 1e-2), generator.Stage(128, 6, 2, 1e-2, 1e-3, top=True))
    monkeypatch.setattr(generator, "STAGES", stages)
    monkeypatch.setattr(generator, "EMPHASIS", generator.EMPHASIS._replace(steps=3, batch=2))
    for stage in ("SHARPEN", "DETAIL"):
        monkeypatch.setattr(generator, stage, replace(getattr(generator, stage), steps=3, pairs=2, patch=64))
    for module, values in (
        (perception, {"FACE_STEPS": 12, "FACE_BATCH": 4, "IDENTITY_STEPS": 6, "IDENTITY_BATCH": 4}),
        (perception, {"LIPS_STEPS": 6, "LIPS_BATCH": 4}),
        (encoder, {"STEPS": 8, "COUNT": 6, "RENDERED": 3, "NEUTRAL": 2}),
        (stylemask, {"QUICK": replace(stylemask.QUICK, steps=6, batch=2)}),
    ):
        for name, value in values.items():
            monkeypatch.setattr(module, name, value)


@pytest.mark.usefixtures("tiny")
def test_every_recipe_runs_and_learns(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(run, "BUILTIN", tmp_path / "nothing")
    with pytest.raises(ValueError, match="weights face are needed first"):
        recipes.train("encoder", folder=str(tmp_path), start="scratch", scale=1.0)
    made = [
        recipes.train(name, folder=str(tmp_path), start="scratch", scale=1.0)
        for name in ("perception", "generator", "encoder", "stylemask")
    ]
    assert [path.name for paths in made for path in paths] == [
        "face.safetensors",
        "identity.safetensors",
        "generator.safetensors",
        "encoder.safetensors",
        "stylemask.safetensors",
    ]
    network = StyleGAN2.load(tmp_path / "generator.safetensors")
    assert network.card["licence"] == "Apache-2.0"
    batch = data.draw_batch((9,), 4, 128)
    with torch.no_grad():
        start = StyleGAN2(network.config).synthesize(grouped_w(StyleGAN2(network.config), batch.z))
        now = network.synthesize(grouped_w(network, batch.z))
    assert (now - batch.images).abs().mean() < 0.6 * (start - batch.images).abs().mean()
    # From these weights it goes on; the mapping stays.
    (tmp_path / "on").mkdir()
    shutil.copy(tmp_path / "face.safetensors", tmp_path / "on")
    (path,) = recipes.train("generator", folder=str(tmp_path / "on"), start=str(tmp_path / "generator.safetensors"))
    assert "--start generator.safetensors" in read_card(path)["command"]  # where it lay is nobody's business
    again, z = StyleGAN2.load(path), torch.randn(4, LATENT_DIM)
    assert torch.equal(again.mapping(z), network.mapping(z))
    weights = [each.get_parameter("synthesis.b64.conv1.weight") for each in (again, network)]
    assert not torch.equal(*weights)
    # One that is older than some factors learns them, with all its blocks, and w stays where their numbers are 0.
    network.card["factors"] = " ".join(world.NAMES[:-4])
    grown = generator.train(Trainer(tmp_path / "newer"), load_face(tmp_path / "face.safetensors"), network)
    assert not torch.allclose(grown.mapping(z), network.mapping(z), atol=1e-2)
    assert not torch.equal(*(each.get_parameter("synthesis.b16.conv1.weight") for each in (grown, network)))
    z[:, len(world.NAMES) - 4 :] = 0
    assert torch.allclose(grown.mapping(z), network.mapping(z), atol=1e-5)


def test_each_region_counts_alike_in_the_loss_of_colours() -> None:
    batch = data.draw_batch((5, 1), 4, 128)
    assert losses.colour_loss(batch.images, batch) == 0
    colours, pixels = losses.means(batch.images, batch.regions, len(REGIONS))
    assert (pixels.sum(1) == 128 * 128).all()
    hair = batch.regions[0] == REGIONS.index("hair")
    torch.testing.assert_close(colours[0, REGIONS.index("hair")], batch.images[0][:, hair].mean(1))
    loss = {}
    for name in ("skin", "background"):
        green = torch.tensor([0.0, 0.3, 0.0])[:, None, None] * (batch.regions == REGIONS.index(name))[:, None]
        loss[name] = losses.colour_loss(batch.images + green, batch)
    assert 0.3**2 / 3 / 28 < loss["skin"] < 0.3**2 / 3 / 5
    torch.testing.assert_close(loss["skin"], loss["background"])
    # What is dark and what is light in a region cannot make up for each other.
    shade = 0.2 * torch.sign(batch.images.mean(1, keepdim=True) - batch.images.mean((1, 2, 3), keepdim=True))
    assert losses.colour_loss(batch.images + shade, batch) > 5e-3


def test_targets_of_the_mapping() -> None:
    """Factors in 0..1; of each choice shares that add up to 1; colours."""
    values = world.from_latent(np.random.default_rng(0).standard_normal((500, LATENT_DIM)))
    targets = mapping.targets(values)
    at = len(world.NAMES)
    assert targets[:, :at].min() >= 0 and targets[:, :at].max() <= 1
    for count in mapping.KINDS.values():
        kinds, at = targets[:, at : at + count], at + count
        assert (kinds.max(0) == 1).all() and (kinds.min(0) == 0).all()
        assert ((kinds > 0).sum(1) <= 2).all() and (abs(kinds.sum(1) - 1) < 1e-4).all()
    # Skin grows darker with its tone.
    assert np.corrcoef(targets[:, at], values[:, world.NAMES.index("skin_tone")])[0, 1] < -0.9


def test_a_mapping_network_learns_the_factors(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(mapping, "STEPS", 300)
    network = MappingNetwork(LATENT_DIM, 0, 128, 2, 0.01)
    z = torch.randn(2000, LATENT_DIM, generator=torch.Generator().manual_seed(0))
    target = torch.from_numpy(mapping.targets(world.from_latent(z.numpy())))
    target = target[:, target.std(0) > 1e-3]

    def unexplained() -> float:
        """The share of the variance that the best matrix does not predict from the codes of other latents."""
        with torch.no_grad():
            w = torch.nn.functional.pad(network(z), (0, 1), value=1.0)
        wrong = target[1000:] - w[1000:] @ torch.linalg.lstsq(w[:1000], target[:1000]).solution
        return float((wrong.square().mean(0) / target.var(0)).mean())

    before = unexplained()
    mapping.pretrain(Trainer(tmp_path), "mapping", network)
    assert unexplained() < 0.6 * before


def test_some_partners_differ_in_few_factors_of_the_expression() -> None:
    first, second = data.draw_pairs((5,), 60, 32).values.chunk(2)
    names = np.array(NAMES)
    differ = [set(names[np.flatnonzero(pair)]) for pair in ((first - second).abs() > 0.02).numpy()]
    expression = set(EXPRESSION)
    few = [pair & expression for pair in differ if pair <= expression | set(POSE) and len(pair & expression) < 5]
    assert 10 < len(few) < 40 and set().union(*few) >= {"funnel", "cheek", "smile_side"}


def test_factors_newer_than_a_generator_stay_neutral() -> None:
    new, known = len(world.NAMES), len(world.NAMES) - 4
    whole, part = (data.draw_pairs((5,), 3, 64, known=count) for count in (new, known))
    assert torch.equal(whole.z, part.z)
    assert np.allclose(part.values[:, known:], world.neutral()[known:]) and whole.values[:, known:].std() > 0.1
    network = StyleGAN2(StyleGAN2Config(16, z_dim=LATENT_DIM, w_dim=16, channel_base=128, channel_max=8))
    assert data.num_factors(network) == data.FACTORS_OF_0_1
    network.card["factors"] = " ".join(world.NAMES)
    assert data.num_factors(network) == new


def test_a_generator_that_knows_no_funnel_shows_the_nearest_mouth() -> None:
    values = np.tile(world.neutral(), (4, 1))
    for row, (jaw, pucker, funnel) in enumerate([(0.2, 0, 0.8), (0.5, 0.3, 0.5), (0.1, 0.1, 1.0), (0.4, 0.2, 0)]):
        for name, value in (("jaw", jaw), ("pucker", pucker), ("funnel", funnel)):
            values[row, INDEX[name]] = value
    replaced = data.without_funnel(values)
    assert (replaced[:, INDEX["funnel"]] == 0).all() and (replaced[3] == values[3]).all()

    def mouth(of: np.ndarray) -> np.ndarray:  # width and opening
        marks = np.stack([world.project_landmarks(each)[0] for each in of])
        return np.stack([marks[:, 54, 0] - marks[:, 48, 0], marks[:, 66, 1] - marks[:, 62, 1]], axis=1)

    rest = mouth(world.neutral()[None])
    moved = np.abs(mouth(values) - rest)[:3]
    assert (np.abs(mouth(replaced) - mouth(values))[:3] < 0.25 * moved + 0.002).all()


def test_an_adopted_generator_gives_the_same_images_from_another_w() -> None:
    """The old generator knows the first six numbers of z, and its w is a matrix times the new one's."""
    torch.manual_seed(2)
    old = StyleGAN2(StyleGAN2Config(16, z_dim=6, w_dim=16, channel_base=128, channel_max=8, mapping_layers=1))
    new = StyleGAN2(replace(old.config, z_dim=6))
    order = torch.randperm(16)
    with torch.no_grad():
        for part in ("weight", "bias"):
            value = old.mapping.get_submodule("fc0").get_parameter(part)[order]
            new.mapping.get_submodule("fc0").get_parameter(part).copy_(value * 3 if part == "weight" else value + 0.5)
        # Without its activation the layer is linear, so a matrix between the two exists.
        for network in (old, new):
            network.mapping.get_submodule("fc0").activation = False  # type: ignore[assignment]
        z = torch.randn(4, 6)
        assert (new(z) - old(z)).abs().mean() > 0.05
        generator.adopt(new, old, old.config.resolutions)
        torch.testing.assert_close(new(z), old(z), atol=1e-3, rtol=0)


def test_the_length_of_a_convolutions_weights_does_not_matter_and_is_kept_at_one() -> None:
    torch.manual_seed(3)
    network = StyleGAN2(StyleGAN2Config(16, z_dim=6, w_dim=16, channel_base=128, channel_max=8, mapping_layers=1))
    weights = [p for p in network.parameters() if p.ndim == 4 and len(p) != 3]
    z = torch.randn(2, 6)
    with torch.no_grad():
        for number, weight in enumerate(weights):
            weight *= 1.5 + number
        before = network(z)
        generator.normalize_weights(network)
        torch.testing.assert_close(network(z), before, atol=1e-4, rtol=0)
    assert all(abs(float(weight.detach().square().mean()) - 1) < 1e-4 for weight in weights)


def test_the_shares_of_a_batch_make_up_the_whole() -> None:
    for draw in (
        lambda share: data.draw_batch((4,), 6, 64, share=share),
        lambda share: data.draw_pairs((4,), 6, 64, share=share),
        lambda share: encoder.batch_of(0, share),
        lambda share: perception.pairs(0, share),
        lambda share: perception.close_ups(0, share),
    ):
        whole = draw(data.WHOLE)
        for rank in (0, 1):
            part = draw((rank, 2))
            assert all(torch.equal(a, b[rank::2]) for a, b in zip(part, whole, strict=True))
    images = torch.rand(6, 3, 32, 32)
    whole = perception.disturb(images, (7,))
    torch.testing.assert_close(perception.disturb(images[1::2], (7,), (1, 2)), whole[1::2])


def test_scale_and_data_are_checked(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="between 0 and 1"):
        recipes.train("generator", folder=str(tmp_path), start="scratch", scale=2.0)
    with pytest.raises(ValueError, match="to start from"):
        recipes.train("generator", folder=str(tmp_path), start=str(tmp_path / "nowhere.safetensors"))
    with pytest.raises(ValueError, match="give a file of kind 'stylegan2'"):
        recipes.train("generator", folder=str(tmp_path), start=str(BUILTIN / "face.safetensors"))
    foreign = StyleGAN2(StyleGAN2Config(16, z_dim=8, w_dim=8, channel_base=64, channel_max=8, mapping_layers=1))
    foreign.save(tmp_path / "foreign.safetensors")
    with pytest.raises(ValueError, match="not one of the built-in family"):
        recipes.train("generator", folder=str(tmp_path), start=str(tmp_path / "foreign.safetensors"))
    StyleGAN3(StyleGAN3Config(32, z_dim=8, w_dim=8, channel_base=256, channel_max=12, num_layers=4)).save(
        tmp_path / "foreign3.safetensors"
    )
    with pytest.raises(ValueError, match="has 8 latent numbers, not 80"):
        recipes.train("generator3", folder=str(tmp_path), start=str(tmp_path / "foreign3.safetensors"))
    with pytest.raises(ValueError, match="encoder learns from the world; leave out --data"):
        recipes.train("encoder", folder=str(tmp_path), options={"data": str(tmp_path)})


def test_a_generator_learns_the_users_pictures(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Pictures of one colour each: after a few steps the generator's colours are nearer to them."""
    config = StyleGAN2Config(16, z_dim=8, w_dim=16, channel_base=256, channel_max=16, mapping_layers=2)
    monkeypatch.setattr(generator, "CONFIG", config)
    monkeypatch.setattr(adversarial, "STEPS", 60)
    monkeypatch.setattr(adversarial, "HALF_LIFE", 100)
    for number in range(6):
        save_picture(tmp_path / "pictures" / f"{number}.png", np.full((20, 20, 3), (200, 60, 10 * number), np.uint8))
    (path,) = recipes.train(
        "generator", folder=str(tmp_path), precision="32", options={"data": str(tmp_path / "pictures")}
    )
    network = StyleGAN2.load(path)
    assert "licence" not in network.card and network.card["data"] == "pictures of pictures"

    def distance(model: StyleGAN2) -> float:
        with torch.no_grad():
            colour = model(torch.randn(32, 8, generator=torch.Generator().manual_seed(1))).mean((0, 2, 3))
        return float((colour - torch.tensor([0.57, -0.53, -0.8])).abs().mean())

    assert distance(network) < 0.5 * distance(StyleGAN2(config))
    folder = tmp_path / "generator" / "adversarial"
    lines = (folder / "log.jsonl").read_text()
    assert all(name in lines for name in ("d_loss", "r1", "g_loss", "path"))
    assert (folder / "samples.png").exists() and (folder / "curves.png").exists()


@pytest.mark.usefixtures("tiny")
def test_training_can_start_from_the_built_in_weights(tmp_path: Path) -> None:
    """Two steps leave the net near the built-in one, whose landmarks a net from scratch has not."""
    recipes.train("perception", folder=str(tmp_path), start="builtin", scale=0.1)
    batch = data.draw_batch((5,), 16, 128, aligned=False)
    with torch.inference_mode():
        predicted = load_face(tmp_path / "face.safetensors").eval()(batch.images)
    assert (predicted.landmarks - batch.landmarks).abs().mean() < 0.02


def test_rows_of_an_encoder_become_free_one_after_the_other() -> None:
    """e4e's stages: all rows begin as one w, and the offsets' weights move only once their stage has come."""
    assert [encoder.free_rows(index, 100, 15) for index in (0, 4, 12, 20, 99)] == [0, 0, 6, 14, 14]
    torch.manual_seed(0)
    model = Encoder(EncoderConfig((0,), 6, 8)).eval()
    torch.nn.init.normal_(model.rows.weight)
    images = torch.rand(2, 3, 128, 128)
    stages = [model(images, deltas) for deltas in range(6)]
    assert all(torch.equal(stages[0][:, row], stages[0][:, 0]) for row in range(6))
    for deltas, codes in enumerate(stages):
        assert torch.equal(codes[:, deltas + 1 :], codes[:, :1].expand(-1, 5 - deltas, -1))
        assert torch.equal(codes[:, : deltas + 1], model(images)[:, : deltas + 1])
    stages[2].sum().backward()
    moved = model.rows.weight.grad.view(6, -1).abs().sum(1) > 0  # type: ignore[union-attr]
    assert moved.tolist() == [True, True, True, False, False, False]


@pytest.mark.usefixtures("tiny")
def test_an_encoder_of_any_generator_is_trained(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A StyleGAN3 that never saw the world, with a user's pictures: the errors of its own samples' codes fall."""
    torch.manual_seed(0)
    foreign = StyleGAN3(StyleGAN3Config(32, z_dim=8, w_dim=8, channel_base=256, channel_max=12, num_layers=4))
    foreign.save(tmp_path / "other.safetensors")
    for number in range(4):
        save_picture(tmp_path / "pictures" / f"{number}.png", np.full((40, 40, 3), 50 * number, np.uint8))
    monkeypatch.setattr(encoder, "STEPS", 40)
    (path,) = recipes.train(
        "encoder",
        folder=str(tmp_path),
        options={"data": str(tmp_path / "pictures"), "generator": str(tmp_path / "other.safetensors")},
    )
    model = load_encoder(path).eval()
    assert model.config == EncoderConfig((0,), foreign.num_ws, 8)
    z = torch.randn(16, 8)
    with torch.inference_mode():
        codes = foreign.map(z)
        error = (model(foreign.synthesize(codes)) - codes).square().mean()
        assert error < 0.9 * (codes - codes.mean(0)).square().mean()
    assert "other" in str(read_card(path))
    with pytest.raises(ValueError, match="has no generator"):
        recipes.train("generator", folder=str(tmp_path), options={"generator": "x"})


def test_every_built_in_file_is_listed_and_has_a_card_that_tells_all(capsys: pytest.CaptureFixture[str]) -> None:
    weights_list()
    listed = capsys.readouterr().out
    cards = [path.read_text() for path in BUILTIN.glob("*.md")]
    for path in BUILTIN.glob("*.safetensors"):
        assert f"{path.name} (built in, " in listed
        assert any(path.name in card.splitlines()[0] for card in cards)
    for card in cards:
        for part in ("Data", "Recipe", "Command", "Made on", "Numbers", "Limits", "Licence"):
            assert f"- **{part}" in card
    assert sum(path.stat().st_size for path in BUILTIN.glob("*.safetensors")) < 80e6
