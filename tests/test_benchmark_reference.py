"""The benchmark's plain reference gives our generators' pictures and gradients, and the benchmark runs.

Everything is tiny; the goldens were computed with the original StyleGAN3.
"""

import importlib
import json
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file
from torch import Tensor

from stylereel.generator import Discriminator, DiscriminatorConfig, StyleGAN2, StyleGAN2Config

HERE = Path(__file__).parent


def benchmark(name: str, monkeypatch: pytest.MonkeyPatch) -> Any:
    monkeypatch.syspath_prepend(str(HERE.parent / "benchmarks"))
    return importlib.import_module(name)


@pytest.fixture
def reference(monkeypatch: pytest.MonkeyPatch) -> Any:
    return benchmark("reference", monkeypatch)


@pytest.fixture
def command(monkeypatch: pytest.MonkeyPatch) -> Any:
    return benchmark("generator", monkeypatch)


def stylegan2(**changes: Any) -> StyleGAN2:
    torch.manual_seed(0)
    sizes = {"resolution": 32, "z_dim": 12, "w_dim": 16, "channel_base": 256, "channel_max": 12, "mapping_layers": 2}
    generator = StyleGAN2(StyleGAN2Config(**{**sizes, **changes}))
    for name, parameter in generator.named_parameters():
        if name.endswith("bias") or name.endswith("noise_strength"):
            torch.nn.init.normal_(parameter, std=0.3)
    return generator


def assert_near(found: Tensor, expected: Tensor) -> None:
    """Within 1e-4 of the largest value, as reordered arithmetic is."""
    assert found.shape == expected.shape
    assert (found - expected).abs().max() < 1e-4 * expected.abs().max()


@pytest.mark.parametrize("per_sample", [True, False])
@pytest.mark.parametrize("clamp", [None, 1.5])
def test_stylegan2_gives_our_pictures(reference: Any, per_sample: bool, clamp: float | None) -> None:
    generator = stylegan2(conv_clamp=clamp).requires_grad_(False)
    w = torch.randn(3, generator.num_ws, 16, generator=torch.Generator().manual_seed(1))
    expected = generator.synthesize(w)
    assert expected.std() > 0.05
    assert_near(reference.synthesize(reference.tensors_of(generator), w, clamp, per_sample), expected)


@pytest.mark.parametrize("name", ["sg3t_gen_r32", "sg3r_gen_r32"])
def test_stylegan3_gives_the_original_pictures(reference: Any, name: str) -> None:
    arrays = load_file(HERE / "goldens" / f"{name}.safetensors")
    tensors = {key.removeprefix("state/"): value for key, value in arrays.items() if key.startswith("state/")}
    w = arrays["in/ws"]
    assert_near(reference.synthesize(tensors, w), arrays["out/img"])
    for i in range(2):
        tensors["synthesis.input.transform"] = arrays[f"in/transform{i}"].float()
        assert_near(reference.synthesize(tensors, w), arrays[f"out/img_transform{i}"])
    # Its own filters are the original's.
    layers = sorted(
        {key.split(".")[1] for key in tensors if key.startswith("synthesis.L")}, key=lambda k: int(k[1:3].strip("_"))
    )
    kernel = tensors[f"synthesis.{layers[0]}.weight"].shape[-1]
    shapes = reference.geometry(tuple(layers), kernel, torch.device("cpu"))[1:]
    for layer, shape in zip(layers[:-1], shapes):
        for side in ("up_filter", "down_filter"):
            assert_near(shape[side], tensors[f"synthesis.{layer}.{side}"])


@pytest.mark.parametrize("name", ["stylegan3-t-32", "stylegan3-r-32"])
def test_stylegan3_gives_our_pictures(reference: Any, command: Any, name: str) -> None:
    generator = command.build(command.MODELS[name]).requires_grad_(False)
    for key, tensor in generator.state_dict().items():
        if key.endswith("magnitude_ema"):
            tensor.uniform_(0.5, 2.0)
        elif key.startswith("synthesis.input.affine"):
            tensor.add_(0.1 * torch.randn_like(tensor))
    w = command.codes(generator, 2)
    expected = generator.synthesize(w)
    assert expected.std() > 0.01
    assert_near(reference.synthesize(reference.tensors_of(generator), w), expected)


def test_discriminator_gives_our_scores(reference: Any) -> None:
    torch.manual_seed(0)
    ours = Discriminator(DiscriminatorConfig(16, channel_base=128, channel_max=8)).requires_grad_(False)
    images = torch.randn(8, 3, 16, 16)
    assert_near(reference.discriminator(reference.tensors_of(ours), images), ours(images))


@pytest.mark.parametrize(
    ("task", "model"),
    [
        *((task, "stylegan2-32") for task in ("generator", "path length", "discriminator", "R1")),
        ("generator", "stylegan3-r-32"),
        ("generator", "stylegan3-t-32"),
    ],
)
def test_gradients_are_ours(command: Any, task: str, model: str) -> None:
    found = {}
    for name in ("reference", "ours"):
        variant = command.TRAINING_VARIANTS[name]
        found[name] = command.training(command.Job(task, model, variant, 4, "cpu", 1, 0.0, ""))()
    assert found["reference"].abs().max() > 0
    assert_near(found["ours"], found["reference"])


def test_operations_are_counted_by_hand(command: Any) -> None:
    model = command.MODELS["stylegan2-32"]
    channels = {size: min(model.channel_base // size, model.channel_max) for size in (4, 8, 16, 32)}
    products = 9 * channels[4] ** 2 * 4**2 + 3 * channels[4] * 4**2
    for size in (8, 16, 32):
        # The transposed convolution works at the lower resolution, once for each of its pixels.
        products += 9 * channels[size // 2] * channels[size] * (size // 2) ** 2
        products += 9 * channels[size] ** 2 * size**2 + 3 * channels[size] * size**2
    assert command.gigaflop(model) == pytest.approx(2 * products / 1e9)


def test_ratios_are_medians_of_ratios_inside_a_round(command: Any) -> None:
    def runs(*rounds: list[float]) -> list[dict[str, Any]]:
        return [{"ms": ms, "peak MiB": 10.0 * len(ms)} for ms in rounds]

    found = {"reference": runs([10, 30, 20], [90], [40]), "ours": runs([10], [10, 30], [8])}
    image = torch.arange(4.0).numpy()
    row = command.row("ours", found["ours"], found, {"reference": image, "ours": image + 0.03})
    assert row["times reference"] == 4.5  # of 2, 4.5 and 5
    assert (row["min ms"], row["median ms"], row["peak MiB"]) == (8, 10, 20)
    assert row["max error"] == pytest.approx(0.01) and row["mean error"] == pytest.approx(0.01)
    assert row["PSNR dB"] == pytest.approx(40)  # off by a hundredth of the range
    skipped = command.row("other", [{"skipped": "no compiler"}], found, {})
    command.add_floor([row, skipped], {"ours": command.Variant()}, 0.4, {"float32": 100.0})
    assert row["share of ceiling"] == 0.5
    text = command.table([row, skipped]).splitlines()
    assert text[2].startswith("| ours | 8.0 | 10.0 | 4.50 | 50% |")
    assert text[3].startswith("| other | skipped: no compiler |")
    assert len({line.count("|") for line in text}) == 1


def test_a_variant_that_fails_is_skipped_with_the_reason(command: Any, tmp_path: Path) -> None:
    job = command.Job(
        "frames", "stylegan2-32", command.Variant(dtype="nonsense"), 1, "cpu", 1, 0.0, str(tmp_path / "x")
    )
    assert "nonsense" in command.measure(job)["skipped"]


def test_compiling_without_a_compiler_is_skipped(command: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CXX", "no-such-compiler")
    job = command.Job("frames", "stylegan2-32", command.Variant(compiled=True), 1, "cpu", 1, 0.0, "")
    assert "C++ compiler" in command.measure(job)["skipped"]


def test_a_slow_reference_is_called_once(command: Any) -> None:
    calls: list[int] = []
    seconds, last = command.timed(
        lambda: calls.append(1) or len(calls), command.Job("", "", None, 1, "cpu", 1, 0.0, "", 0)
    )
    assert len(calls) == len(seconds) == last == 1


def test_the_command_measures_and_writes(command: Any, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = tmp_path / "results.json"
    flags = ["--rounds", "1", "--seconds", "0.01", "--threads", "1", "--out", str(out)]
    command.main(["--model", "stylegan2-32", "--batch", "2", "--variant", "reference", "ours", *flags])
    text = capsys.readouterr().out
    assert "stylegan2-32, batch 2, frames" in text and "| ours |" in text
    result = json.loads(out.read_text())
    assert result["machine"]["torch"] == torch.__version__ and result["machine"]["threads"] == 1
    (entry,) = result["tables"]
    for row in entry["rows"]:
        assert 0 < row["min ms"] <= row["median ms"] and row["times reference"] > 0 and row["floor ms"] > 0
    assert 0 < entry["rows"][1]["max error"] < 1e-4


def test_mistakes_of_the_command(command: Any, capsys: pytest.CaptureFixture[str]) -> None:
    for flags, reason in (
        (["--variant", "fastest"], "no variant fastest"),
        (["--model", "stylegan4"], "invalid choice"),
    ):
        with pytest.raises(SystemExit) as caught:
            command.main(flags)
        assert caught.value.code == 2
        assert reason in capsys.readouterr().err
