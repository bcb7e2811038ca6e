"""The losses that make the built-in generators sharp."""

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from stylereel.family.people import draw_batch
from stylereel.recipes.sharpen import power_loss, rim_loss


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
