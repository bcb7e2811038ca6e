"""Adversarial training: augmentation that adapts, a killed run that goes on the same, networks that grow, StyleGAN3."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any, cast

import pytest
import torch

from stylereel.commands import train as recipes
from stylereel.generator import StyleGAN2Config, StyleGAN3
from stylereel.metrics.equivariance import disk, move
from stylereel.recipes import curve, mapping
from stylereel.recipes import stylegan3 as generator3
from stylereel.recipes.losses import image_loss
from stylereel.train import adversarial, augment, checkpoints
from stylereel.train.augment import Augment
from stylereel.train.loop import Trainer
from stylereel.train.report import read_log


def random(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def smooth(count: int = 4, size: int = 32) -> torch.Tensor:
    """Images [B, 3, H, W] in -1..1 without high frequencies."""
    coarse = torch.rand(count, 3, 6, 6, generator=random()) * 1.6 - 0.8
    return torch.nn.functional.interpolate(coarse, (size, size), mode="bicubic", align_corners=False)


def test_at_zero_probability_the_images_are_the_same_bits() -> None:
    network, images = Augment(flip=True, speed=100), torch.randn(4, 3, 16, 16)
    motion, colour = network.draw(4, random())
    assert torch.equal(motion, torch.eye(3).expand(4, 3, 3)) and torch.equal(colour, torch.eye(4).expand(4, 4, 4))
    assert torch.equal(network(images, (motion, colour)), images)


def test_every_matrix_inverts_and_each_part_comes_with_its_probability() -> None:
    motion, colour = augment.geometry(500, 1.0, random(), flip=True), augment.colours(500, 1.0, random())
    for matrix in (motion, colour):
        torch.testing.assert_close(
            matrix @ torch.linalg.inv(matrix), torch.eye(matrix.shape[1]).expand_as(matrix), atol=1e-3, rtol=0
        )
    mirrored = torch.linalg.det(motion) < 0
    assert 0.4 < mirrored.float().mean() < 0.6  # a mirror image is drawn from both ways round
    assert (torch.linalg.det(augment.geometry(100, 1.0, random())) > 0).all()
    # Of independent gates of probability 0.2: four brightnesses in five stay.
    some = augment.colours(2000, 0.2, random())[:, :3, 3].abs().amax(1)
    assert 0.75 < (some == 0).float().mean() < 0.85


def test_the_warp_moves_images_and_leaves_them_sharp() -> None:
    images = smooth()
    still = augment.warp(images, torch.eye(3).expand(4, 3, 3))
    assert (still - images).abs().max() < 0.03
    right = torch.eye(3).repeat(4, 1, 1)
    right[:, 0, 2] = 2 * 5 / 32  # five pixels
    assert (augment.warp(images, right)[..., 5:] - images[..., :-5]).abs().max() < 0.03
    half = torch.diag(torch.tensor([-1.0, -1.0, 1.0])).expand(4, 3, 3)
    assert (augment.warp(images, half) - images.flip(2, 3)).abs().max() < 0.03


def test_hue_and_saturation_keep_grey_and_a_luma_flip_negates_it() -> None:
    grey = torch.full((200, 3, 1, 1), 0.3)
    matrices = augment.colours(200, 1.0, random())
    matrices[:, :3, 3] = 0
    changed = augment.recolour(grey, matrices).flatten(1)
    torch.testing.assert_close(changed, changed[:, :1].expand(-1, 3), atol=1e-4, rtol=0)
    assert 0.3 < (changed[:, 0] < 0).float().mean() < 0.7


def test_gradients_flow_through_the_augmentation() -> None:
    network, images = Augment(flip=True, speed=100), smooth().requires_grad_(True)
    network.p.fill_(1.0)
    out = network(images, network.draw(4, random()))
    assert out.shape == images.shape and not torch.allclose(out, images)
    (gradient,) = torch.autograd.grad(out.square().sum(), images)
    assert gradient.isfinite().all() and (gradient.flatten(1).norm(dim=1) > 0).all()


@pytest.mark.parametrize(("scores", "moves"), [([1.0, 1.0, 1.0, 1.0], 1), ([1.0, 1.0, 1.0, -1.0], -1)])
def test_p_rises_above_the_target_and_falls_below(scores: list[float], moves: int) -> None:
    """All signs positive are 1, over the target of 0.6; three of four are 0.5, under it."""
    network = Augment(flip=False, speed=100)
    network.p.fill_(0.5)
    for _ in range(Augment.EVERY - 1):
        network.adapt(torch.tensor(scores)[:, None])
    assert network.p == 0.5
    network.adapt(torch.tensor(scores)[:, None])
    torch.testing.assert_close(network.p, torch.tensor(0.5 + moves * 16 / 100))
    for _ in range(100):
        network.adapt(torch.tensor(scores)[:, None])
    assert network.p == (1 if moves > 0 else 0)


# Resuming


class Pictures:
    """Eight pictures of one colour each, as `train.sources.Source` gives a user's."""

    def batch(self, index: int, count: int, share: tuple[int, int] = (0, 1)) -> dict[str, torch.Tensor]:
        chosen = torch.randint(8, (count,), generator=random(index))[share[0] :: share[1]]
        return {"images": (0.5 * torch.sin(chosen.float()))[:, None, None, None].expand(-1, 3, 16, 16).clone()}


def train_briefly(folder: Path, killed_at: int | None = None) -> None:
    """A run of few steps in which p moves fast; its networks go to weights.pt. Step `killed_at` kills the process."""
    config = StyleGAN2Config(16, z_dim=8, w_dim=16, channel_base=128, channel_max=8, mapping_layers=2)
    trainer = Trainer(folder, device="cpu", precision="32", checkpoint_seconds=0.0)
    source = Pictures()
    draw = source.batch

    def draw_or_die(index: int, *arguments: Any) -> dict[str, torch.Tensor]:
        if index == killed_at:
            os.kill(os.getpid(), signal.SIGKILL)
        return draw(index, *arguments)

    source.batch = draw_or_die  # type: ignore[method-assign]
    with pytest.MonkeyPatch.context() as patch:
        for name, value in (("STEPS", 14), ("BATCH", 8), ("SPEED", 300)):
            patch.setattr(adversarial, name, value)
        patch.setattr(Augment, "TARGET", -0.9)
        trained = adversarial.train(trainer, cast(Any, source), config)
    torch.save(trained.state_dict(), folder / "weights.pt")


def test_a_killed_run_goes_on_with_the_same_p_to_the_same_bits(tmp_path: Path) -> None:
    whole, killed = tmp_path / "whole", tmp_path / "killed"
    train_briefly(whole)
    command = [sys.executable, __file__, str(killed)]
    child = subprocess.run(command, env={**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)}, timeout=600)
    assert child.returncode == -signal.SIGKILL
    stage = killed / "generator" / "adversarial"
    stopped = checkpoints.read_newest(stage)
    assert stopped is not None and 0 < stopped["step"] < 14
    # The names that checkpoints of version 0.1 have.
    assert set(stopped["modules"]) == {"model", "average", "critic", "lengths", "augment"}
    assert set(stopped["optimizers"]) == {"model", "critic"}
    assert 0 < stopped["modules"]["augment"]["p"] < 1
    train_briefly(killed)
    states = [checkpoints.read_newest(folder / "generator" / "adversarial") for folder in (whole, killed)]
    assert states[0] is not None and states[1] is not None
    assert torch.equal(*(state["modules"]["augment"]["p"] for state in states if state))
    ours, theirs = (torch.load(folder / "weights.pt", weights_only=True) for folder in (whole, killed))
    assert all(torch.equal(ours[key], theirs[key]) for key in ours)
    log = read_log(stage / "log.jsonl")
    assert log and all(name in log[-1] for name in ("p", "sign", "d_loss", "g_loss"))


# StyleGAN3-R


def test_placed_portraits_are_where_their_matrix_says() -> None:
    """The same people upright and placed: the placed landmarks are the moved ones, and so is the picture."""
    z, places = generator3.latents_and_places((1,), 2)
    upright, placed = (generator3.draw_at(z, transform, 64) for transform in (torch.eye(3).repeat(4, 1, 1), places))
    points = upright.landmarks - 0.5
    points = points @ places[:, :2, :2].mT + places[:, None, :2, 2] + 0.5
    torch.testing.assert_close(placed.landmarks, points, atol=1e-5, rtol=0)
    for still, picture, transform in zip(upright.images, placed.images, places, strict=True):
        target, mask = move(still[None], transform, disk)
        errors = (picture[None] - target)[..., mask].abs()
        assert errors.mean() < 0.03 < (picture - still)[:, mask].abs().mean()
    part = generator3.draw_placed((1,), 2, 64, (1, 2))
    assert torch.equal(part.batch.images, placed.images[[1, 3]])


def test_the_recipe_of_stylegan3_learns_and_carries_weights_from_stage_to_stage(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    config = replace(
        generator3.CONFIG, resolution=32, w_dim=32, channel_base=1024, channel_max=32, num_layers=5, first_cutoff=4.0
    )
    monkeypatch.setattr(generator3, "CONFIG", config)
    stage = generator3.Stage
    stages = (stage(16, 30, 4, 2e-2, 1e-2), stage(32, 30, 4, 2e-2, 1e-2), stage(32, 8, 4, 1e-2, 1e-3))
    monkeypatch.setattr(generator3, "STAGES", stages)
    monkeypatch.setattr(curve, "EVERY", 15)
    monkeypatch.setattr(curve, "COUNT", 32)
    monkeypatch.setattr(mapping, "STEPS", 200)
    (path,) = recipes.train("generator3", folder=str(tmp_path), precision="32")
    made = StyleGAN3.load(path)
    folders = [tmp_path / "generator3" / name for name in ("0-distil-16", "1-distil-32", "2-distil-32")]
    logs = [read_log(folder / "log.jsonl")[-1] for folder in folders]
    assert [log["step"] for log in logs] == [30, 30, 8] and "frechet" in logs[0]
    held_out, places = generator3.draw_placed((9,), 8, 32)

    def loss(generator: StyleGAN3) -> float:
        with torch.no_grad():
            images = generator.synthesize(generator.map(held_out.z[:, 0]), transform=places)
            return float(image_loss(images, held_out))

    assert loss(made) < 0.9 * loss(StyleGAN3(config))
    assert not made.synthesis.get_submodule("input.affine").get_parameter("weight").any()
    other = generator3.transfer(made, replace(config, margin_size=3))
    ours, theirs = made.state_dict(), other.state_dict()  # layers are named after their sizes, margin included
    assert list(ours) != list(theirs)
    assert all(torch.equal(a, b) for a, b in zip(ours.values(), theirs.values(), strict=True))
    # A larger network begins as the smaller one with other last layers.
    small = StyleGAN3(stages[0].config)
    shared = [(a.name, b.name) for a, b in zip(small.style_layers[:4], made.style_layers)]
    larger = generator3.transfer(small, config).synthesis
    for before, after in shared[1:]:
        kept = small.synthesis.get_submodule(before).get_parameter("weight")
        assert torch.equal(larger.get_submodule(after).get_parameter("weight"), kept)


if __name__ == "__main__":
    train_briefly(Path(sys.argv[1]), killed_at=9)
