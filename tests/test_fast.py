"""The CPU kernels equal the plain layers, and step aside where they cannot serve."""

from concurrent.futures import ThreadPoolExecutor
from typing import Literal

import numpy as np
import pytest
import torch
from torch import Tensor

from stylereel.generator import StyleGAN2, StyleGAN2Config, StyleGAN3, StyleGAN3Config, ops
from stylereel.generator.cpu import fast, lanes

# Rounding of Winograd's transform, relative to the largest value; bfloat16 rounds at another place than the plain form.
BOUND = {torch.float32: 1e-4, torch.bfloat16: 6e-2}


@pytest.fixture(autouse=True)
def always(monkeypatch: pytest.MonkeyPatch) -> None:
    """Small layers too."""
    monkeypatch.setattr(fast, "LEAST_WORK", 0)


def layer(inputs: int, outputs: int, size: int, batch: int = 1) -> list[Tensor]:
    generator = torch.Generator().manual_seed(inputs + outputs + size)

    def draw(*shape: int) -> Tensor:
        return torch.randn(shape, generator=generator)

    x = draw(batch, inputs, size, size).contiguous(memory_format=torch.channels_last)
    return [x, draw(outputs, inputs, 3, 3), 1 + 0.3 * draw(batch, inputs), draw(outputs)]


def close(result: Tensor, expected: Tensor, dtype: torch.dtype = torch.float32) -> bool:
    return bool((result.float() - expected.float()).abs().max() <= BOUND[dtype] * expected.float().abs().max())


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("up", [False, True])
@pytest.mark.parametrize("channels", [(64, 128), (24, 16), (5, 7)])  # the first through Winograd
@pytest.mark.parametrize("noise", ["one", "each", "none"])
@torch.inference_mode()
def test_a_layer_equals_the_plain_one(dtype: torch.dtype, up: bool, channels: tuple[int, int], noise: str) -> None:
    x, weight, style, bias = layer(*channels, 36, batch=2)
    size = 72 if up else 36
    maps = {"one": torch.randn(size, size), "each": torch.randn(2, 1, size, size), "none": None}[noise]
    tensors = (x.to(dtype), weight, style, bias, maps)
    arguments = (*tensors, torch.tensor(0.3), up, 0.7, 8.0)
    assert fast.takes(0, *tensors)
    assert close(fast.modulated_conv(*arguments, role=None), ops.modulated_conv(*arguments), dtype)


@pytest.mark.parametrize("channels", [(64, 32), (24, 16)])
@pytest.mark.parametrize("size", [40, 44])  # halves of 20 and 22 rows
@pytest.mark.parametrize("up", [False, True])
def test_two_threads_give_the_same_as_one(up: bool, size: int, channels: tuple[int, int]) -> None:
    x, weight, style, bias = layer(*channels, size)
    arguments = (x, weight, style, bias, None, torch.tensor(0.0), up, 1.0, None)
    alone = fast.modulated_conv(*arguments, role=None)
    torch.set_num_threads(2)
    try:
        together = fast.modulated_conv(*arguments, role=None)
        assert torch.get_num_threads() == 2
    finally:
        torch.set_num_threads(1)
    assert close(together, alone)


@pytest.mark.parametrize("up", [False, True])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@torch.inference_mode()
def test_small_images_of_large_weights(up: bool, dtype: torch.dtype) -> None:
    x, weight, style, bias = layer(64, 64, 4)
    arguments = (x.to(dtype), weight, style, bias, None, torch.tensor(0.0), up, 1.0, None)
    expected = ops.modulated_conv(*arguments)
    for _ in range(2):
        assert close(fast.modulated_conv(*arguments, role=None), expected, dtype)


@pytest.mark.parametrize("up", [False, True])
@torch.inference_mode()
def test_strips_meet_without_a_seam(up: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(fast, "STRIP_BYTES", 1)  # four rows at a time
    x, weight, style, bias = layer(16, 16, 44)
    arguments = (x, weight, style, bias, torch.randn((88, 88) if up else (44, 44)), torch.tensor(0.5), up, 1.0, None)
    assert close(fast.modulated_conv(*arguments, role=None), ops.modulated_conv(*arguments))


@torch.inference_mode()
def test_changed_weights_are_noticed() -> None:
    with torch.inference_mode(False):
        x, weight, style, bias = layer(64, 64, 32)
    arguments = (x, weight, style, bias, None, torch.tensor(0.0), False, 1.0, None)
    first = fast.modulated_conv(*arguments, role=None)
    with torch.inference_mode(False), torch.no_grad():
        weight.add_(torch.randn_like(weight))
    second = fast.modulated_conv(*arguments, role=None)
    assert not close(first, second)
    assert close(second, ops.modulated_conv(*arguments))


@pytest.fixture(scope="module")
def generator() -> StyleGAN2:
    torch.manual_seed(1)
    model = StyleGAN2(StyleGAN2Config(128, z_dim=16, w_dim=16, channel_base=4096, channel_max=64, mapping_layers=1))
    for layer in model.style_layers:
        if layer.kind == "conv":
            model.synthesis.get_parameter(f"{layer.name}.noise_strength").data.fill_(0.2)
    return model.eval().requires_grad_(False)


@pytest.mark.parametrize("dtype", [None, torch.bfloat16])
def test_a_generator_gives_the_same_image(generator: StyleGAN2, dtype: torch.dtype | None, monkeypatch) -> None:
    w = generator.map(torch.randn(2, 16))
    image = generator.synthesize(w, dtype=dtype)
    second = generator.synthesize(w, dtype=dtype)
    assert torch.equal(image, second)
    monkeypatch.setattr(fast, "takes", lambda *anything: False)
    assert close(image, generator.synthesize(w, dtype=dtype), dtype or torch.float32)


@pytest.mark.parametrize("dtype", [None, torch.bfloat16])
@pytest.mark.parametrize(("kernel", "filter_size"), [(1, 6), (3, 6), (1, 4)])
def test_stylegan3_gives_the_same_image(
    kernel: Literal[1, 3], filter_size: int, dtype: torch.dtype | None, monkeypatch
) -> None:
    torch.manual_seed(2)
    config = StyleGAN3Config(
        32,
        z_dim=16,
        w_dim=16,
        channel_base=2048,
        channel_max=70,
        conv_kernel=kernel,
        use_radial_filters=kernel == 1,
        filter_size=filter_size,
    )
    model = StyleGAN3(config).eval().requires_grad_(False)
    w = model.map(torch.randn(2, 16))
    features: list[Tensor] = []
    stopped = model.synthesize(w, stop=7, dtype=dtype)
    image = model.synthesize(w, dtype=dtype)
    assert torch.equal(image, model.synthesize(w, dtype=dtype, taps={9: features.append}))
    monkeypatch.setattr(fast, "takes", lambda *anything: False)
    plain: list[Tensor] = []
    expected = model.synthesize(w, dtype=dtype, taps={9: plain.append})
    assert close(image, expected, dtype or torch.float32)
    assert close(features[0], plain[0], dtype or torch.float32)
    assert close(stopped, model.synthesize(w, stop=7, dtype=dtype), dtype or torch.float32)


def test_what_a_caller_holds_is_never_written_again(generator: StyleGAN2) -> None:
    first, second = generator.map(torch.randn(2, 16)).split(1)
    held: list[Tensor] = []
    taps = {layer.index: held.append for layer in generator.style_layers}
    generator.synthesize(first, taps=taps)
    stopped = generator.synthesize(first, stop="b128.conv0")
    image = generator.synthesize(first)
    kept = [tensor.clone() for tensor in (*held, stopped, image)]
    generator.synthesize(second)
    generator.synthesize(second, stop="b128.conv0")
    for before, now in zip(kept, (*held, stopped, image), strict=True):
        assert torch.equal(before, now)


def alias_free() -> StyleGAN3:
    torch.manual_seed(4)
    config = StyleGAN3Config(32, z_dim=16, w_dim=16, channel_base=512, channel_max=40)
    return StyleGAN3(config).eval().requires_grad_(False)


@pytest.mark.parametrize("dtype", [None, torch.bfloat16])
def test_networks_in_turn_on_several_threads_do_not_disturb_each_other(
    generator: StyleGAN2, dtype: torch.dtype | None
) -> None:
    networks: list[StyleGAN2 | StyleGAN3] = [generator, alias_free()]
    codes = [[network.map(torch.randn(1, 16)) for _ in range(4)] for network in networks]
    torch.set_num_threads(2)
    try:
        expected = [[net.synthesize(w, dtype=dtype) for w in own] for net, own in zip(networks, codes, strict=True)]

        def work(which: int) -> bool:
            torch.set_num_threads(2)
            same = True
            for turn in range(6):
                if turn == 3:
                    fast.release()
                net = turn % 2
                image = networks[net].synthesize(codes[net][which], dtype=dtype)
                same = same and torch.equal(image, expected[net][which])
            return same

        with ThreadPoolExecutor(4) as pool:
            assert all(pool.map(work, range(4)))
    finally:
        torch.set_num_threads(1)


def test_a_tap_may_run_the_network_again(generator: StyleGAN2) -> None:
    first, second = generator.map(torch.randn(2, 16)).split(1)
    expected = generator.synthesize(first)

    def look(image: Tensor) -> Tensor:
        generator.synthesize(second)
        return image

    taps = {layer.index: look for layer in generator.style_layers}
    assert torch.equal(generator.synthesize(first, taps=taps), expected)


def test_gradients_take_the_plain_form(generator: StyleGAN2) -> None:
    w = generator.map(torch.randn(1, 16)).clone().requires_grad_(True)
    generator.synthesize(w).sum().backward()
    assert w.grad is not None and w.grad.abs().sum() > 0
    weight = torch.randn(8, 8, 3, 3, requires_grad=True)
    x, style = torch.randn(1, 8, 32, 32), torch.randn(1, 8)
    assert not fast.takes(0, x, weight, style)
    assert fast.takes(0, x, weight.detach(), style)
    assert not fast.takes(0, x.double(), weight.detach(), style)


@pytest.mark.parametrize("quiet", [torch.no_grad, torch.inference_mode])
def test_weights_that_could_be_trained_serve_too(quiet) -> None:
    """Loaded weights want gradients; the kernels see them only where none are recorded."""
    torch.manual_seed(3)
    model = StyleGAN2(StyleGAN2Config(32, z_dim=16, w_dim=16, channel_base=512, channel_max=16, mapping_layers=1))
    other = StyleGAN3(StyleGAN3Config(32, z_dim=16, w_dim=16, channel_base=512, channel_max=16)).eval()
    for network in (model, other):
        with quiet():
            image = network.synthesize(network.map(torch.randn(1, 16)))
        assert image.isfinite().all()


def test_small_layers_take_the_plain_form(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(fast, "LEAST_WORK", 100)
    assert fast.takes(100, torch.randn(1, 8, 32, 32))
    assert not fast.takes(99, torch.randn(1, 8, 32, 32))
    monkeypatch.setattr(fast, "LEAST_WEIGHT", 64)
    assert fast.takes(99, torch.randn(1, 8, 32, 32), torch.randn(8, 8, 1, 1))


@pytest.mark.parametrize(("tall", "depth", "columns"), [(3, 5, 7), (14, 33, 16), (15, 8, 40), (31, 64, 70)])
def test_matrix_product_of_any_size(tall: int, depth: int, columns: int) -> None:
    """Fewer rows than a block, a last block that overlaps, columns that fill no register; rows and planes apart."""
    generator = np.random.default_rng(tall)
    a = generator.standard_normal((2, tall + 1, depth + 3), np.float32)
    b = generator.standard_normal((2, depth, columns), np.float32)
    matrix = lanes.pack(b)
    wide = matrix.shape[1] // depth
    out = np.empty((2, tall + 1, wide), np.float32)
    lanes.product(a.reshape(-1), depth + 3, matrix, out.reshape(-1), tall, depth, wide, tall + 1)
    expected = a[:, :tall, :depth] @ b
    np.testing.assert_allclose(out[:, :tall, :columns], expected, atol=1e-5, rtol=1e-5)
    assert not out[:, :tall, columns:].any()


def test_memory_can_be_given_back(generator: StyleGAN2) -> None:
    generator.synthesize(generator.map(torch.randn(1, 16)))
    assert fast._memory.buffers
    fast.release()
    assert not fast._memory.buffers
