"""The loop resumes exactly and stops at nonsense; every recipe learns, on tiny networks."""

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn

from stylereel import recipes, world
from stylereel.generator import StyleGAN2, StyleGAN2Config
from stylereel.systems import stylemask
from stylereel.train import data, encoder, generator, perception
from stylereel.train.loop import Average, fit
from stylereel.world.factors import GROUP


def line_fit(folder: Path, steps: int, stop_with: int | None = None) -> nn.Linear:
    torch.manual_seed(0)
    model = nn.Linear(3, 1)
    optimizer = torch.optim.Adam(model.parameters(), lr=0.05)

    def step(index: int) -> dict[str, float]:
        if index == stop_with:
            raise KeyboardInterrupt
        x = torch.randn(16, 3, generator=torch.Generator().manual_seed(index))
        loss = (model(x) - x.sum(1, keepdim=True)).square().mean()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        return {"loss": loss.item()}

    fit(folder, {"model": model}, {"model": optimizer}, step, steps, every=5, checkpoint_seconds=0)
    return model


def test_a_resumed_run_equals_an_uninterrupted_one(tmp_path: Path) -> None:
    whole = line_fit(tmp_path / "whole", 40)
    with pytest.raises(KeyboardInterrupt):
        line_fit(tmp_path / "parts", 40, stop_with=23)
    resumed = line_fit(tmp_path / "parts", 40)
    for a, b in zip(whole.parameters(), resumed.parameters()):
        assert torch.equal(a, b)
    log = [json.loads(line) for line in (tmp_path / "parts" / "log.jsonl").read_text().splitlines()]
    assert log[-1]["step"] == 40 and log[-1]["loss"] < log[0]["loss"]


def test_a_loss_that_is_not_finite_is_named_and_keeps_the_state(tmp_path: Path) -> None:
    line_fit(tmp_path, 10)
    before = (tmp_path / "checkpoint.pt").read_bytes()
    model = nn.Linear(3, 1)
    optimizer = torch.optim.Adam(model.parameters())
    with pytest.raises(FloatingPointError, match="'shape' is nan at step 10"):
        fit(tmp_path, {"model": model}, {"model": optimizer}, lambda index: {"shape": float("nan")}, 20)
    assert (tmp_path / "checkpoint.pt").read_bytes() == before


def test_the_average_follows_its_source() -> None:
    source, copy = nn.Linear(2, 2), nn.Linear(2, 2)
    average = Average(source, copy, 0.9)
    assert torch.equal(copy.weight, source.weight)
    with torch.no_grad():
        source.weight += 1
    for index in range(200):
        average.update(index)
    torch.testing.assert_close(copy.weight, source.weight)


def test_batches_are_reproducible_and_mixed_with_truth() -> None:
    first, again = data.draw_batch((1, 2), 6, 64), data.draw_batch((1, 2), 6, 64)
    assert torch.equal(first.images, again.images) and torch.equal(first.z, again.z)
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
        [world.neutral()[None], world.from_latent(np.random.default_rng(1).standard_normal((9, 64)))]
    )
    again = data.mixed_values(data.latents_of(values, np.random.default_rng(0)))
    assert (np.abs(again - values) / (world.HIGH - world.LOW)).max() < 0.03


@pytest.fixture
def tiny(monkeypatch: pytest.MonkeyPatch) -> None:
    """Recipes with few channels, few steps and small batches."""
    config = StyleGAN2Config(128, z_dim=64, w_dim=32, channel_base=512, channel_max=16, mapping_layers=1)
    monkeypatch.setattr(generator, "CONFIG", config)
    stages = (generator.Stage(64, 60, 4, 2e-2, 1e-2), generator.Stage(128, 6, 2, 1e-2, 1e-3, top=True))
    monkeypatch.setattr(generator, "STAGES", stages)
    monkeypatch.setattr(generator, "FINISH_STEPS", 3)
    monkeypatch.setattr(generator, "FINISH_BATCH", 4)
    for module, values in (
        (perception, {"FACE_STEPS": 12, "FACE_BATCH": 4, "IDENTITY_STEPS": 6, "IDENTITY_BATCH": 4}),
        (encoder, {"STEPS": 8, "COUNT": 6, "RENDERED": 3, "NEUTRAL": 2}),
        (stylemask, {"STEPS": 6, "COUNT": 2}),
    ):
        for name, value in values.items():
            monkeypatch.setattr(module, name, value)


@pytest.mark.usefixtures("tiny")
def test_every_recipe_runs_and_learns(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(recipes, "BUILTIN", tmp_path / "nothing")
    with pytest.raises(ValueError, match="weights generator are needed first"):
        recipes.train("encoder", str(tmp_path), "scratch", 1.0)
    made = [
        recipes.train(name, str(tmp_path), "scratch", 1.0)
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
        start = StyleGAN2(network.config).synthesize(generator.grouped_w(StyleGAN2(network.config), batch.z))
        now = network.synthesize(generator.grouped_w(network, batch.z))
    assert (now - batch.images).abs().mean() < 0.6 * (start - batch.images).abs().mean()


def test_scale_is_checked(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="between 0 and 1"):
        recipes.train("generator", str(tmp_path), "scratch", 2.0)


@pytest.mark.usefixtures("tiny")
def test_training_can_start_from_the_built_in_weights(tmp_path: Path) -> None:
    """Two steps leave the net near the built-in one, whose landmarks a net from scratch has not."""
    recipes.train("perception", str(tmp_path), "builtin", 0.1)
    batch = data.draw_batch((5,), 16, 128, aligned=False)
    with torch.inference_mode():
        seen = recipes._face(tmp_path / "face.safetensors").eval()(batch.images)
    assert (seen.landmarks - batch.landmarks).abs().mean() < 0.02
