"""The kernels of the filtered leaky ReLU, and their slopes, equal plain PyTorch."""

import pytest
import torch
from torch import Tensor

from stylereel.generator.cpu import fast
from stylereel.generator.resample import filtered_lrelu, lowpass_filter

# Channels, height, width, up, taps for each factor, radial, clamp.
CASES = [
    (20, 18, 21, 2, 4, True, None),
    (40, 18, 17, 4, 4, True, 0.5),
    (16, 28, 28, 2, 6, False, None),
    (16, 22, 22, 2, 3, True, None),  # taps that are no multiple of four
    (7, 20, 20, 4, 6, True, 0.8),
    (33, 90, 70, 2, 4, False, 1.0),  # strips, and a register that is not full
]


def slopes(
    kernels: bool, case: tuple, monkeypatch: pytest.MonkeyPatch, dtype: torch.dtype = torch.float32
) -> tuple[Tensor, ...]:
    """The result, and the slopes at x and at the bias of its product with random numbers."""
    channels, height, width, up, taps, radial, clamp = case
    random = torch.Generator().manual_seed(1)
    x = torch.randn(2, channels, height, width, generator=random).to(dtype).requires_grad_()
    bias = torch.randn(channels, generator=random).requires_grad_()
    filters = lowpass_filter(taps * up, 8, 16, 32 * up), lowpass_filter(taps * 2, 8, 16, 64, radial)
    monkeypatch.setattr(fast, "LEAST_VALUES", 1 if kernels else 1 << 40)
    assert fast.takes_filters(x, bias, *filters, up, 2) == kernels
    out = filtered_lrelu(x, *filters, bias, up, 2, (3, 4, 5, 2), clamp=clamp)
    weight = torch.randn(out.shape, generator=random).to(dtype)
    return out, *torch.autograd.grad((out * weight).sum(), (x, bias))


@pytest.mark.parametrize("case", CASES)
@pytest.mark.parametrize("threads", [1, 2])
def test_result_and_slopes_equal_the_plain_ones(case: tuple, threads: int, monkeypatch: pytest.MonkeyPatch) -> None:
    before = torch.get_num_threads()
    torch.set_num_threads(threads)
    try:
        for ours, plain in zip(slopes(True, case, monkeypatch), slopes(False, case, monkeypatch)):
            assert (ours - plain).abs().max() <= 2e-6 * plain.abs().max()
    finally:
        torch.set_num_threads(before)


def test_half_precision_stays_near(monkeypatch: pytest.MonkeyPatch) -> None:
    both = (slopes(kernels, CASES[0], monkeypatch, torch.bfloat16) for kernels in (True, False))
    for ours, plain in zip(*both):
        assert ours.dtype == plain.dtype
        assert (ours.float() - plain.float()).abs().max() <= 2e-2 * plain.float().abs().max()


def test_a_slope_of_the_slope_goes_the_plain_way(monkeypatch: pytest.MonkeyPatch) -> None:
    def penalty(kernels: bool) -> Tensor:
        case = CASES[0]
        monkeypatch.setattr(fast, "LEAST_VALUES", 1 if kernels else 1 << 40)
        x = torch.randn(1, *case[:3], generator=torch.Generator().manual_seed(2)).requires_grad_()
        filters = lowpass_filter(8, 8, 16, 64), lowpass_filter(8, 8, 16, 64, True)
        out = filtered_lrelu(x, *filters, torch.ones(case[0]), 2, 2, (3, 4, 5, 2))
        (gradient,) = torch.autograd.grad(out.square().sum(), x, create_graph=True)
        (second,) = torch.autograd.grad(gradient.square().sum(), x)
        return second

    ours, plain = penalty(True), penalty(False)
    assert plain.abs().max() > 0.1
    assert (ours - plain).abs().max() <= 1e-5 * plain.abs().max()


def test_without_gradients_it_is_the_same(monkeypatch: pytest.MonkeyPatch) -> None:
    x = torch.randn(1, 24, 30, 30, generator=torch.Generator().manual_seed(3))
    filters = lowpass_filter(8, 8, 16, 64), lowpass_filter(8, 8, 16, 64, True)
    made = []
    for least in (1, 1 << 40):
        monkeypatch.setattr(fast, "LEAST_VALUES", least)
        with torch.inference_mode():
            made.append(filtered_lrelu(x, *filters, torch.ones(24), 2, 2, (3, 4, 5, 2)))
    assert (made[0] - made[1]).abs().max() <= 2e-6 * made[1].abs().max()


def test_small_images_take_the_plain_form() -> None:
    x, bias = torch.zeros(1, 8, 16, 16), torch.zeros(8)
    assert not fast.takes_filters(x, bias, lowpass_filter(8, 8, 16, 64), lowpass_filter(8, 8, 16, 64), 2, 2)


def test_other_filters_take_the_plain_form() -> None:
    x, bias, up = torch.zeros(1, 64, 128, 128), torch.zeros(64), lowpass_filter(8, 8, 16, 64)
    known, other = torch.ones(8, 8), torch.ones(8, 8).triu()
    assert [fast.takes_filters(x, bias, up, down, 2, 2) for down in (up, known, other, known[:7, :7], None)] == [
        True,
        True,
        False,
        False,
        False,
    ]
