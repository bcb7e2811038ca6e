"""Resampling, activation and modulated convolution against numbers computed with the original implementations."""

import json
import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from safetensors.torch import load_file
from torch import Tensor

from stylereel.generator import resample
from stylereel.generator.ops import LEAKY_SLOPE, activate, modulated_conv, pointwise
from stylereel.generator.resample import filtered_lrelu, lowpass_filter, setup_filter, upfirdn2d
from stylereel.generator.stylegan3 import normalized_modulated_conv

GOLDENS = Path(__file__).parent / "goldens"


def cases(name: str, select: Callable[[Any], bool] = lambda case: True) -> list[Any]:
    """The cases of a golden file, each with its number as the test's name."""
    manifest = json.loads((GOLDENS / f"{name}.json").read_text())
    return [pytest.param(case, id=case["case"]) for case in manifest["config"]["cases"] if select(case)]


class Golden:
    """Inputs of a golden file, and the comparison with its outputs in both precisions."""

    def __init__(self, name: str) -> None:
        self.outputs = json.loads((GOLDENS / f"{name}.json").read_text())["outputs"]
        self.arrays = load_file(GOLDENS / f"{name}.safetensors")

    def check(self, case: str, compute: Callable[[dict[str, Tensor]], Tensor], slack: float = 0.0) -> None:
        limits = self.outputs[case]
        inputs = {key.removeprefix("in/"): value for key, value in self.arrays.items() if key.startswith("in/")}
        found = compute(inputs)
        expected = self.arrays[f"out/{case}"]
        torch.testing.assert_close(found, expected, atol=limits["advised_atol_fp32"], rtol=1e-5)
        found = compute({key: value.double() for key, value in inputs.items()})
        expected = self.arrays[f"out64/{case}"]
        torch.testing.assert_close(found, expected, atol=limits["advised_atol_fp64"] + slack, rtol=1e-9)


def sides(padding: Any) -> list[int]:
    """left, right, top, bottom."""
    values = [padding] * 4 if isinstance(padding, int) else padding
    return [values[0], values[0], values[1], values[1]] if len(values) == 2 else list(values)


def around(padding: Any, function: str, factor: Any, taps: Tensor) -> list[int]:
    """Padding that keeps the samples in place: what the wrappers of upfirdn2d add to that of their caller."""
    found = sides(padding)
    factors = [factor] * 2 if isinstance(factor, int) else factor
    for axis, (f, k) in enumerate(zip(factors, (taps.shape[-1], taps.shape[0]), strict=True)):
        before, after = {
            "filter2d": (k // 2, (k - 1) // 2),
            "upsample2d": ((k + f - 1) // 2, (k - f) // 2),
            "downsample2d": ((k - f + 1) // 2, (k - f) // 2),
        }[function]
        found[2 * axis] += before
        found[2 * axis + 1] += after
    return found


# Filters


@pytest.mark.parametrize("case", cases("op_setup_filter"))
def test_setup_filter_equals_golden(case: Any) -> None:
    args = dict(case["args"])
    found = setup_filter(case["f"], flip=args.pop("flip_filter", False), **args)
    expected = Golden("op_setup_filter").arrays[f"out/{case['case']}"]
    torch.testing.assert_close(found, expected, atol=1e-6 * expected.abs().max().item(), rtol=0)


@pytest.mark.parametrize("case", cases("op_lowpass_filters"))
def test_lowpass_filter_equals_golden(case: Any) -> None:
    found = lowpass_filter(case["numtaps"], case["cutoff"], case["width"], case["fs"], case["radial"])
    if case["numtaps"] == 1:
        assert found is None
    else:
        assert found is not None
        expected = Golden("op_lowpass_filters").arrays[f"out/{case['case']}"]
        torch.testing.assert_close(found, expected, atol=1e-6 * expected.abs().max().item(), rtol=0)


def test_lowpass_filter_with_an_odd_number_of_taps_has_its_peak_in_the_centre() -> None:
    for radial in (False, True):
        found = lowpass_filter(13, 2.0, 3.0, 16.0, radial)
        assert found is not None and found.isfinite().all()
        assert found.argmax() == found.numel() // 2
        torch.testing.assert_close(found.sum(), torch.tensor(1.0))


# Resampling


@pytest.mark.parametrize("case", cases("op_upfirdn2d"))
def test_upfirdn2d_equals_golden(case: Any) -> None:
    args = dict(case["args"])
    name, function = args.pop("f"), case["function"]

    def compute(inputs: dict[str, Tensor]) -> Tensor:
        taps = None if name == "none" else inputs[f"filter/{name}"]
        if function == "upfirdn2d":
            return upfirdn2d(inputs["x"], taps, **args)
        assert taps is not None
        up, down = args.get("up", 1), args.get("down", 1)
        padding = around(args.get("padding", 0), function, up if function == "upsample2d" else down, taps)
        gain = args.get("gain", 1.0) * (math.prod([up] * 2 if isinstance(up, int) else up))
        return upfirdn2d(inputs["x"], taps, up, down, padding, gain, args.get("flip_filter", False))

    Golden("op_upfirdn2d").check(case["case"], compute)


@pytest.mark.parametrize("case", cases("op_conv2d_resample"))
def test_upfirdn2d_around_a_convolution_equals_golden(case: Any) -> None:
    args = case["args"]
    up, down = args.get("up", 1), args.get("down", 1)
    flip_filter = args.get("flip_filter", False)

    def compute(inputs: dict[str, Tensor]) -> Tensor:
        weight = inputs[case["w"]]
        taps = inputs[case["f"]] if case["f"] else None
        padding: Any = args.get("padding", 0)
        if taps is not None and up > 1:
            padding = around(padding, "upsample2d", up, taps)
        if taps is not None and down > 1:
            padding = around(padding, "downsample2d", down, taps)
        x = upfirdn2d(inputs["x"], taps if up > 1 else None, up, padding=padding, gain=up**2, flip_filter=flip_filter)
        if not args.get("flip_weight", True):
            weight = weight.flip(2, 3)
        x = F.conv2d(x, weight, groups=args.get("groups", 1))
        return upfirdn2d(x, taps, down=down, flip_filter=flip_filter) if down > 1 else x

    Golden("op_conv2d_resample").check(case["case"], compute)


@pytest.mark.parametrize("case", cases("op_filtered_lrelu"))
@pytest.mark.parametrize("piece_values", [resample.PIECE_VALUES, 300])
def test_filtered_lrelu_equals_golden(case: Any, piece_values: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(resample, "PIECE_VALUES", piece_values)
    monkeypatch.setattr(resample, "PIECE_CHANNELS", 2)
    args = dict(case["args"])
    biased = not args.pop("no_bias", False)

    def compute(inputs: dict[str, Tensor]) -> Tensor:
        up_filter, down_filter = (inputs[f"filter/{case[key]}"] if case[key] else None for key in ("fu", "fd"))
        x = inputs["x"].clone()
        found = filtered_lrelu(x, up_filter, down_filter, inputs["b"] if biased else None, **args)
        assert torch.equal(x, inputs["x"])
        return found

    Golden("op_filtered_lrelu").check(case["case"], compute)


def test_filtered_lrelu_in_pieces_is_the_same(monkeypatch: pytest.MonkeyPatch) -> None:
    torch.manual_seed(0)
    x, bias = torch.randn(3, 40, 24, 20, dtype=torch.float64), torch.randn(40, dtype=torch.float64)
    up_filter, down_filter = lowpass_filter(24, 4, 4, 64), lowpass_filter(12, 4, 6, 64, radial=True)
    args: Any = {"up": 4, "down": 2, "padding": (-6, -9, 3, 2), "clamp": 1.5}
    whole = filtered_lrelu(x, up_filter, down_filter, bias, **args)
    monkeypatch.setattr(resample, "PIECE_VALUES", 20_000)
    monkeypatch.setattr(resample, "PIECE_CHANNELS", 16)
    calls: list[Tensor] = []
    once = resample._filter
    monkeypatch.setattr(resample, "_filter", lambda *a, **k: calls.append(once(*a, **k)) or calls[-1])
    torch.testing.assert_close(filtered_lrelu(x, up_filter, down_filter, bias, **args), whole)
    # Samples, channels and rows all came in pieces.
    assert len(calls) > 2 * 3 * 3
    assert all(call.shape[0] == 1 and call.shape[1] <= 16 and call.shape[2] < 60 for call in calls)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_filtered_lrelu_in_lower_precision_stays_near(dtype: torch.dtype) -> None:
    torch.manual_seed(0)
    x = torch.randn(1, 4, 12, 12).to(dtype)
    args: Any = {"up_filter": lowpass_filter(12, 4, 6, 32), "down_filter": lowpass_filter(12, 4, 6, 32)}
    near = filtered_lrelu(x, **args, up=2, down=2, padding=10)
    exact = filtered_lrelu(x.double(), **args, up=2, down=2, padding=10)
    assert near.dtype == dtype
    torch.testing.assert_close(near.double(), exact, rtol=torch.finfo(dtype).eps, atol=1e-6)


@pytest.mark.parametrize("radial", [False, True])
def test_second_derivatives_of_filtered_lrelu(radial: bool) -> None:
    torch.manual_seed(0)
    x = torch.randn(1, 2, 5, 4, dtype=torch.float64, requires_grad=True)
    bias = torch.randn(2, dtype=torch.float64, requires_grad=True)
    up_filter, down_filter = lowpass_filter(4, 4, 6, 32), lowpass_filter(4, 4, 6, 32, radial)

    def function(x: Tensor, bias: Tensor) -> Tensor:
        # The square makes the second derivative of a piecewise linear function something to test.
        return filtered_lrelu(x.square(), up_filter, down_filter, bias, up=2, down=2, padding=3, clamp=2.0)

    assert torch.autograd.gradcheck(function, (x, bias))
    assert torch.autograd.gradgradcheck(function, (x, bias))


# Operations that stand in ops


def has_our_activation(case: Any) -> bool:
    """No generator here has relu, tanh, sigmoid, elu, selu, softplus, swish, another slope or linear (mere sums)."""
    return case["act"] == "lrelu" and case["args"].get("alpha", LEAKY_SLOPE) == LEAKY_SLOPE


def has_our_modulation(case: Any) -> bool:
    """No generator here modulates while down-sampling, or a 3x3 convolution without demodulation."""
    return case["args"].get("down", 1) == 1 and (case["args"].get("demodulate", True) or case["weight"] == "w1")


@pytest.mark.parametrize("case", cases("op_bias_act", has_our_activation))
def test_activation_equals_golden(case: Any) -> None:
    args = case["args"]
    gain = args.get("gain", math.sqrt(2)) / math.sqrt(2)

    def compute(inputs: dict[str, Tensor]) -> Tensor:
        x = inputs["x"]
        if case["bias_dim"] is not None:
            shape = [-1 if axis == case["bias_dim"] else 1 for axis in range(x.ndim)]
            x = x + inputs[f"b_dim{case['bias_dim']}"].reshape(shape)
        # The clamp of activate() is scaled by the gain.
        return activate(x, gain, args["clamp"] / gain if "clamp" in args else None)

    Golden("op_bias_act").check(case["case"], compute)


@pytest.mark.parametrize("case", cases("op_modulated_conv2d", has_our_modulation))
def test_modulated_convolution_equals_golden(case: Any) -> None:
    args, extra = case["args"], case["extra"]

    def compute(inputs: dict[str, Tensor]) -> Tensor:
        x, weight, style = inputs["x"], inputs[case["weight"]], inputs["s"]
        if case["family"] == "sg3":
            scalar = torch.tensor(0.83, dtype=torch.float32).to(x.dtype)
            gain = scalar if extra == "gain_scalar" else inputs[extra] if extra else 1.0
            padding = tuple(args["padding"]) if isinstance(args.get("padding"), list) else args.get("padding", 0)
            return normalized_modulated_conv(x, weight, style, padding, args.get("demodulate", True), gain)
        if not args.get("demodulate", True):  # the toRGB layers
            return pointwise(x, weight.flatten(1) * style[:, None])
        noise = inputs[extra] if extra else None
        bias = x.new_zeros(weight.shape[0])
        y = modulated_conv(x, weight, style, bias, noise, x.new_ones([]), up=args.get("up", 1) == 2)
        # This one ends with the activation, which is undone here.
        y = y / math.sqrt(2)
        return torch.where(y < 0, y / LEAKY_SLOPE, y)

    # The original normalises the styles of a whole batch together, so that its epsilon of 1e-8 depends on the batch.
    Golden("op_modulated_conv2d").check(case["case"], compute, slack=3e-9 if case["family"] == "sg3" else 0.0)
