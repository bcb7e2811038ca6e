"""The losses that make the built-in generators sharp."""

from pathlib import Path

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from stylereel.core.builtin import builtin
from stylereel.family.people import draw_batch
from stylereel.generator import StyleGAN2
from stylereel.recipes import stylegan2
from stylereel.recipes.sharpen import FINE, emphasised, power_loss, rim_loss
from stylereel.train.loop import Trainer


@pytest.fixture(scope="module")
def portraits() -> Tensor:
    return draw_batch((3,), 2, 128).images


def blurred(images: Tensor) -> Tensor:
    return F.avg_pool2d(F.pad(images, (1, 1, 1, 1), mode="replicate"), 3, 1)


def test_power_is_missed_where_detail_is_soft_and_not_where_it_lies_elsewhere(portraits: Tensor) -> None:
    moved = torch.roll(portraits, 1, 3)
    assert power_loss(portraits, portraits) == 0
    soft, hard = power_loss(blurred(portraits), portraits), power_loss(1.5 * portraits, portraits)
    assert soft > 0.3 and hard > 0.3
    assert power_loss(moved, portraits) < 0.5 * soft, "a pixel to the side, where single pixels differ more"
    assert (moved - portraits).abs().mean() > (blurred(portraits) - portraits).abs().mean()


def test_rims_count_and_soft_edges_do_not(portraits: Tensor) -> None:
    sharpened = portraits + 1.5 * (portraits - blurred(blurred(portraits)))  # an unsharp mask: a rim along each edge
    assert rim_loss(portraits, portraits) == 0
    assert rim_loss(blurred(portraits), portraits) < 1e-6
    assert rim_loss(sharpened, portraits) > 0.005


def test_emphasis_is_of_the_finest_detail_alone() -> None:
    y, x = torch.meshgrid(torch.arange(128.0), torch.arange(128.0), indexing="ij")

    def waves(cycles: float) -> Tensor:
        return torch.sin(2 * torch.pi * cycles * (0.8 * x + 0.6 * y)).expand(1, 3, -1, -1)

    inside = (..., slice(24, -24), slice(24, -24))
    for cycles, gain in ((0.05, 1.0), (FINE[0] - 0.03, 1.0), (FINE[1] + 0.03, 1.5), (0.45, 1.5)):
        shown = emphasised(waves(cycles), 1.5)
        torch.testing.assert_close(shown[inside], gain * waves(cycles)[inside], atol=0.06, rtol=0)
    ramp = (x / 128).expand(1, 3, -1, -1)  # whose left and right borders differ
    assert (emphasised(ramp, 1.5) - ramp).abs().max() < 0.01


def test_the_last_block_learns_the_emphasis(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(stylegan2, "EMPHASIS", stylegan2.EMPHASIS._replace(steps=25, batch=2))
    monkeypatch.setattr(stylegan2, "GAIN", 2.0)
    monkeypatch.setattr(stylegan2, "samples", lambda _: np.zeros((8, 8, 3), np.uint8))
    start = StyleGAN2.load(builtin("generator"))
    learned = stylegan2.emphasise(Trainer(tmp_path), start)
    changed = [name for name, p in learned.state_dict().items() if not torch.equal(p, start.state_dict()[name])]
    assert changed and all(name.startswith("synthesis.b256.") and "affine" not in name for name in changed)
    w = start.map(torch.randn(2, 80, generator=torch.Generator().manual_seed(9)))
    with torch.inference_mode():
        shown, now = (each.synthesize(w, noise="none") for each in (start, learned))
        target = emphasised(shown, 2.0)
    assert (now - target).square().mean() < 0.9 * (shown - target).square().mean()
