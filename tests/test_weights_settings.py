"""Every setting that the official networks have: each file makes the network that the official programs make of it.

The reference here is written from what those programs do, pass by pass in NCHW, and shares nothing with the package:
zeros are inserted, filters run at the full rate, weights are modulated for each sample.
"""

import importlib
import math
import pickle
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from test_weights_formats import EasyDict, Golden, Network, modules, nvidia_pickle, tensorflow_generator
from torch import Tensor

from stylereel.commands.weights import weights_convert, weights_info
from stylereel.generator import StyleGAN2, StyleGAN3, StyleGAN3Config
from stylereel.zoo.formats import inspect, inspect_all, load_discriminator_file, load_generator_file

State = dict[str, Tensor]
SQRT2 = math.sqrt(2)


@pytest.fixture
def sentinel(tmp_path: Path) -> Path:
    return tmp_path / "sentinel"


# --- the reference


def resample(x: Tensor, taps: Any, up: int = 1, down: int = 1, pad: tuple[int, int] = (0, 0)) -> Tensor:
    """Insert zeros, pad or crop, convolve, drop; amplitudes kept."""
    batch, channels, height, width = x.shape
    high = x.new_zeros(batch, channels, height * up, width * up)
    high[:, :, ::up, ::up] = x
    high = F.pad(high, (*pad, *pad))
    row = torch.tensor(taps, dtype=x.dtype)
    kernel = torch.outer(row, row) / row.sum() ** 2 * up**2
    return F.conv2d(high, kernel.flip(0, 1).expand(channels, 1, -1, -1), groups=channels)[:, :, ::down, ::down]


def upsampled(x: Tensor, taps: Any) -> Tensor:
    return resample(x, taps, up=2, pad=((len(taps) + 1) // 2, (len(taps) - 2) // 2))


def downsampled(x: Tensor, taps: Any) -> Tensor:
    return resample(x, taps, down=2, pad=((len(taps) - 1) // 2, (len(taps) - 2) // 2))


def linear(state: State, name: str, x: Tensor, rate: float = 1.0, active: bool = False) -> Tensor:
    weight, bias = state[f"{name}.weight"], state[f"{name}.bias"]
    x = x @ weight.T * (rate / math.sqrt(weight.shape[1])) + bias * rate
    return F.leaky_relu(x, 0.2) * SQRT2 if active else x


def unit(x: Tensor) -> Tensor:
    return x / (x.square().mean(dim=1, keepdim=True) + 1e-8).sqrt()


def mapped(state: State, z: Tensor | None, c: Tensor | None, layers: int, rate: float) -> Tensor:
    parts = [] if z is None else [unit(z)]
    if c is not None:
        parts.append(unit(linear(state, "mapping.embed", c)))
    x = torch.cat(parts, dim=1)
    for i in range(layers):
        x = linear(state, f"mapping.fc{i}", x, rate, active=True)
    return x


def clamped(x: Tensor, clamp: float | None, gain: float = 1.0) -> Tensor:
    return x if clamp is None else x.clamp(-clamp * gain, clamp * gain)


def layer(state: State, name: str, x: Tensor, w: Tensor, up: bool, s: dict[str, Any], gain: float = 1.0) -> Tensor:
    style, weight, taps = linear(state, f"{name}.affine", w), state[f"{name}.weight"], s["taps"]
    outs = []
    for sample, row in zip(x, style, strict=True):
        kernel = weight * row[None, :, None, None]
        kernel = kernel / (kernel.square().sum(dim=(1, 2, 3), keepdim=True) + 1e-8).sqrt()
        if up:
            high = sample.new_zeros(1, len(sample), 2 * sample.shape[1] - 1, 2 * sample.shape[2] - 1)
            high[0, :, ::2, ::2] = sample
            full = F.conv2d(high, kernel.flip(2, 3), padding=2)
            outs.append(resample(full, taps, pad=((len(taps) + 1) // 2 - 1, (len(taps) - 2) // 2)) * 4)
        else:
            outs.append(F.conv2d(sample[None], kernel, padding=1))
    x = torch.cat(outs)
    if s["noise"]:
        x = x + state[f"{name}.noise_const"] * state[f"{name}.noise_strength"]
    x = F.leaky_relu(x + state[f"{name}.bias"][:, None, None], 0.2) * (SQRT2 * gain)
    return clamped(x, s["clamp"], gain)


def synthesized(state: State, w: Tensor, s: dict[str, Any]) -> Tensor:
    x = state["synthesis.b4.const"].expand(len(w), -1, -1, -1)
    image, row, size = None, 0, 4
    while size <= s["resolution"]:
        block = f"synthesis.b{size}"
        half = math.sqrt(0.5) if s["architecture"] == "resnet" and size > 4 else 1.0
        skip = None
        if half != 1:
            weight = state[f"{block}.skip.weight"]
            skip = upsampled(F.conv2d(x, weight / math.sqrt(weight.shape[1])), s["taps"]) * half
        if size > 4:
            x = layer(state, f"{block}.conv0", x, w[:, row], True, s)
            row += 1
        x = layer(state, f"{block}.conv1", x, w[:, row], False, s, half)
        row += 1
        x = x if skip is None else x + skip
        image = None if image is None else upsampled(image, s["taps"])
        if s["architecture"] == "skip" or size == s["resolution"]:
            weight = state[f"{block}.torgb.weight"]
            style = linear(state, f"{block}.torgb.affine", w[:, row]) / math.sqrt(weight.shape[1])
            colours = torch.einsum("bihw,oi,bi->bohw", x, weight[:, :, 0, 0], style)
            colours = clamped(colours + state[f"{block}.torgb.bias"][:, None, None], s["clamp"])
            image = colours if image is None else image + colours
        size *= 2
    assert image is not None
    return image


def convolved(state: State, name: str, x: Tensor, s: dict[str, Any], down: bool = False, gain: float = 1.0) -> Tensor:
    weight = state[f"{name}.weight"] / math.sqrt(state[f"{name}.weight"][0].numel())
    if down:
        x = resample(x, s["taps"], pad=((len(s["taps"]) + 1) // 2, len(s["taps"]) // 2))
    x = F.conv2d(x, weight, state[f"{name}.bias"], stride=2 if down else 1, padding=0 if down else weight.shape[2] // 2)
    return clamped(F.leaky_relu(x, 0.2) * (SQRT2 * gain), s["clamp"], gain)


def judged(state: State, image: Tensor, c: Tensor | None, s: dict[str, Any]) -> Tensor:
    x, size, architecture = None, s["resolution"], s["architecture"]
    while size > 4:
        if x is None or architecture == "skip":
            colours = convolved(state, f"b{size}.fromrgb", image, s)
            x = colours if x is None else x + colours
        image = downsampled(image, s["taps"]) if architecture == "skip" else image
        half, skip = 1.0, 0.0
        if architecture == "resnet":
            half, weight = math.sqrt(0.5), state[f"b{size}.skip.weight"]
            skip = F.conv2d(downsampled(x, s["taps"]), weight * (half / math.sqrt(weight.shape[1])))
        x = convolved(state, f"b{size}.conv0", x, s)
        x = convolved(state, f"b{size}.conv1", x, s, down=True, gain=half) + skip
        size //= 2
    assert x is not None
    if architecture == "skip":
        x = x + convolved(state, "b4.fromrgb", image, {**s, "clamp": None})
    if s["features"]:
        batch, channels, height, width = x.shape
        group = batch if s["group"] is None else min(s["group"], batch)
        y = x.reshape(group, -1, s["features"], channels // s["features"], height, width)
        y = ((y - y.mean(dim=0)).square().mean(dim=0) + 1e-8).sqrt().mean(dim=(2, 3, 4))
        x = torch.cat([x, y.reshape(-1, s["features"], 1, 1).repeat(group, 1, height, width)], dim=1)
    x = linear(state, "b4.fc", convolved(state, "b4.conv", x, s).flatten(1), active=True)
    x = linear(state, "b4.out", x)
    if c is None:
        return x
    cmap = mapped(state, None, c, s["layers"], s["rate"])
    return (x * cmap).sum(dim=1, keepdim=True) / math.sqrt(cmap.shape[1])


# --- files of such networks

BASE: dict[str, Any] = {
    "resolution": 16,
    "architecture": "skip",
    "taps": [1, 3, 3, 1],
    "clamp": None,
    "noise": True,
    "widths": {4: 12, 8: 10, 16: 6},
    "z": 7,
    "w": 9,
    "c": 0,
    "layers": 2,
    "rate": 0.01,
    "embed": None,
    "hidden": None,
    "features": 1,
    "group": 4,
    "cmap": None,
}


class Draw:
    """Tensors of a network by name, drawn from a seed."""

    def __init__(self, seed: int) -> None:
        self.state: State = {}
        self.generator = torch.Generator().manual_seed(seed)

    def add(self, name: str, *shape: int, mean: float = 0.0, spread: float = 1.0) -> None:
        self.state[name] = mean + spread * torch.randn(*shape, generator=self.generator)

    def linear(self, name: str, inputs: int, outputs: int, mean: float = 0.0, rate: float = 1.0) -> None:
        self.add(f"{name}.weight", outputs, inputs, spread=1 / rate)
        self.add(f"{name}.bias", outputs, mean=mean, spread=0.3 / rate)

    def mapping(self, s: dict[str, Any], z: int, outputs: int) -> None:
        embed = (s["embed"] or outputs) if s["c"] else 0
        if s["c"]:
            self.linear("mapping.embed", s["c"], embed)
        widths = [z + embed, *[s["hidden"] or outputs] * (s["layers"] - 1), outputs]
        for i in range(s["layers"]):
            self.linear(f"mapping.fc{i}", widths[i], widths[i + 1], rate=s["rate"])


def filter_of(taps: list[float]) -> Tensor:
    row = torch.tensor(taps, dtype=torch.float32)
    return row / row.sum() if len(taps) >= 8 else torch.outer(row, row) / row.sum() ** 2


def generator_of(seed: int = 0, **changes: Any) -> tuple[State, dict[str, dict[str, Any]], dict[str, Any]]:
    """State, attributes of modules and settings of a StyleGAN2 generator as NVIDIA's program would save it."""
    s = {**BASE, **changes}
    draw, attributes = Draw(seed), {}
    draw.mapping(s, s["z"], s["w"])
    draw.add("mapping.w_avg", s["w"])
    for i in range(s["layers"]):
        attributes[f"mapping.fc{i}"] = {"bias_gain": s["rate"], "activation": "lrelu"}
    attributes["mapping"] = {"num_layers": s["layers"]}
    before = None
    for size, width in s["widths"].items():
        block = f"synthesis.b{size}"
        draw.state[f"{block}.resample_filter"] = filter_of(s["taps"])
        if before is None:
            draw.add(f"{block}.const", width, 4, 4)
        elif s["architecture"] == "resnet":
            draw.add(f"{block}.skip.weight", width, before, 1, 1)
            draw.state[f"{block}.skip.resample_filter"] = filter_of(s["taps"])
        for name, inputs in (("conv0", before), ("conv1", width)):
            if inputs is None:
                continue
            draw.add(f"{block}.{name}.weight", width, inputs, 3, 3)
            draw.add(f"{block}.{name}.bias", width, spread=0.3)
            draw.linear(f"{block}.{name}.affine", s["w"], inputs, mean=1.0)
            draw.state[f"{block}.{name}.resample_filter"] = filter_of(s["taps"] if name == "conv0" else [1, 3, 3, 1])
            if s["noise"]:
                draw.state[f"{block}.{name}.noise_strength"] = torch.tensor(0.4)
                draw.add(f"{block}.{name}.noise_const", size, size)
            attributes[f"{block}.{name}"] = {"activation": "lrelu", "conv_clamp": s["clamp"], "use_noise": s["noise"]}
        if s["architecture"] == "skip" or size == s["resolution"]:
            draw.add(f"{block}.torgb.weight", 3, width, 1, 1)
            draw.add(f"{block}.torgb.bias", 3)
            draw.linear(f"{block}.torgb.affine", s["w"], width, mean=1.0)
            attributes[f"{block}.torgb"] = {"conv_clamp": s["clamp"]}
        before = width
    return draw.state, attributes, s


def discriminator_of(seed: int = 0, **changes: Any) -> tuple[State, dict[str, dict[str, Any]], dict[str, Any]]:
    s = {**BASE, "architecture": "resnet", **changes}
    draw, widths, attributes = Draw(seed), s["widths"], {}
    for size in sorted(widths, reverse=True):
        width, block = widths[size], f"b{size}"
        if size == s["resolution"] or s["architecture"] == "skip":
            draw.add(f"{block}.fromrgb.weight", width, 3, 1, 1)
            draw.add(f"{block}.fromrgb.bias", width)
        if size == 4:
            break
        draw.state[f"{block}.resample_filter"] = filter_of(s["taps"])
        for name, outputs in (("conv0", width), ("conv1", widths[size // 2])):
            draw.add(f"{block}.{name}.weight", outputs, width, 3, 3)
            draw.add(f"{block}.{name}.bias", outputs, spread=0.3)
            draw.state[f"{block}.{name}.resample_filter"] = filter_of(s["taps"] if name == "conv1" else [1, 3, 3, 1])
            attributes[f"{block}.{name}"] = {"activation": "lrelu", "conv_clamp": s["clamp"]}
        if s["architecture"] == "resnet":
            draw.add(f"{block}.skip.weight", widths[size // 2], width, 1, 1)
            draw.state[f"{block}.skip.resample_filter"] = filter_of(s["taps"])
    draw.add("b4.conv.weight", widths[4], widths[4] + s["features"], 3, 3)
    draw.add("b4.conv.bias", widths[4])
    draw.linear("b4.fc", 16 * widths[4], widths[4])
    cmap = (s["cmap"] or widths[4]) if s["c"] else 1
    draw.linear("b4.out", widths[4], cmap)
    attributes["b4"] = {"activation": "lrelu"}
    if s["features"]:
        attributes["b4.mbstd"] = {"group_size": s["group"], "num_channels": s["features"]}
    if s["c"]:
        draw.mapping(s, 0, cmap)
        attributes["mapping"] = {"num_layers": s["layers"]}
        for i in range(s["layers"]):
            attributes[f"mapping.fc{i}"] = {"bias_gain": s["rate"], "activation": "lrelu"}
    return draw.state, attributes, s


# --- StyleGAN2 generators

GENERATORS: dict[str, dict[str, Any]] = {
    "skip": {},
    "multiplier 1": {"rate": 1},
    "multiplier 1.0": {"rate": np.float64(1.0)},
    "multiplier as an array": {"rate": np.asarray(0.5)},
    "multiplier as a tensor": {"rate": torch.tensor(0.25)},
    "orig": {"architecture": "orig"},
    "resnet with a clamp": {"architecture": "resnet", "clamp": 2},
    "no noise": {"noise": False},
    "other widths of the mapping": {"c": 4, "embed": 5, "hidden": 11, "layers": 3},
    "one mapping layer": {"layers": 1, "c": 4, "embed": 3},
    "no mapping layers": {"layers": 0, "z": 9},
    "labels alone": {"z": 0, "c": 4},
    "base 100": {"widths": {4: 20, 8: 12, 16: 6}},
    "widths of no formula": {"widths": {4: 6, 8: 10, 16: 8}},
    "filter 1 2 1": {"taps": [1, 2, 1]},
    "filter 1 4 6 4 1": {"taps": [1, 4, 6, 4, 1], "architecture": "resnet"},
    "box": {"taps": [1, 1], "architecture": "resnet"},
    "no filter": {"taps": [1]},
    "lopsided filter": {"taps": [1, 2, 4, 1, 3]},
    "long filter": {"taps": [1, 2, 3, 4, 5, 5, 4, 3, 2, 1]},
}


def labels(s: dict[str, Any], batch: int) -> Tensor | None:
    return torch.eye(s["c"])[torch.arange(batch) % s["c"]] if s["c"] else None


def rate_of(s: dict[str, Any]) -> dict[str, Any]:
    return {**s, "rate": float(s["rate"])}


@pytest.mark.parametrize("case", GENERATORS)
def test_generator_of_every_setting(case: str, tmp_path: Path, sentinel: Path) -> None:
    changes = GENERATORS[case]
    state, attributes, s = generator_of(**rate_of({**BASE, **changes}))
    for i in range(s["layers"]):
        attributes[f"mapping.fc{i}"]["bias_gain"] = changes.get("rate", 0.01)
    nvidia_pickle(tmp_path / "g.pkl", sentinel, {"G_ema": state}, attributes)
    weights_info(str(tmp_path / "g.pkl"))
    weights_convert(str(tmp_path / "g.pkl"), out=str(tmp_path / "g.safetensors"))
    z = torch.randn(3, s["z"], generator=torch.Generator().manual_seed(1))
    w = mapped(state, z if s["z"] else None, labels(s, 3), s["layers"], s["rate"])
    for path, tolerance in (("g.pkl", 1e-5), ("g.safetensors", 1e-2)):
        generator = load_generator_file(tmp_path / path).double()
        assert isinstance(generator, StyleGAN2)
        found = generator.map(z.double(), None if (c := labels(s, 3)) is None else c.double())
        torch.testing.assert_close(found[:, 0].float(), w, rtol=tolerance, atol=tolerance * w.abs().max().item())
        codes = w[:, None].expand(-1, generator.num_ws, -1) + torch.randn(3, generator.num_ws, s["w"])
        image = synthesized({k: v.double() for k, v in state.items()}, codes.double(), s)
        scale = image.abs().max().item()
        torch.testing.assert_close(generator.synthesize(codes.double()), image, rtol=0, atol=tolerance * scale)
        plain = load_generator_file(tmp_path / path).synthesize(codes)
        torch.testing.assert_close(plain, image.float(), rtol=0, atol=tolerance * scale)


def test_stated_channel_base_is_kept(tmp_path: Path, sentinel: Path) -> None:
    state, attributes, _ = generator_of(widths={4: 20, 8: 12, 16: 6})
    attributes[""] = {"_init_kwargs": EasyDict(synthesis_kwargs=EasyDict(channel_base=103, channel_max=20))}
    nvidia_pickle(tmp_path / "g.pkl", sentinel, {"G_ema": state}, attributes)
    info = inspect(tmp_path / "g.pkl")
    assert (info.channel_base, info.channel_max) == (103, 20)
    torch.save(state, tmp_path / "g.pt")
    assert inspect(tmp_path / "g.pt").channel_base in range(96, 104)


@pytest.mark.parametrize("value", ["0.01", None, float("nan"), float("inf"), [0.01], {"a": 1}, np.zeros(2), print])
def test_multiplier_that_is_no_number_is_refused(value: Any, tmp_path: Path, sentinel: Path) -> None:
    state, attributes, _ = generator_of()
    for i in range(2):
        attributes[f"mapping.fc{i}"]["bias_gain"] = value
    nvidia_pickle(tmp_path / "g.pkl", sentinel, {"G_ema": state}, attributes)
    with pytest.raises(ValueError, match="is no number"):
        weights_info(str(tmp_path / "g.pkl"))


def refused(reason: str, path: Path, sentinel: Path, attributes: dict[str, Any]) -> None:
    state, known, _ = generator_of()
    merged = {place: {**known.get(place, {}), **attributes.get(place, {})} for place in known | attributes}
    nvidia_pickle(path, sentinel, {"G_ema": state}, merged)
    with pytest.raises(ValueError, match=reason):
        weights_info(str(path))
    with pytest.raises(ValueError, match=reason):
        load_generator_file(path)


def test_what_stylereel_lacks_is_refused_by_info(tmp_path: Path, sentinel: Path) -> None:
    path = tmp_path / "g.pkl"
    for place in ("synthesis.b8.conv0", "mapping.fc1"):
        for name in ("relu", "linear", "swish", 3):
            refused("other activations than leaky ReLU", path, sentinel, {place: {"activation": name}})
    refused("different bias_gain", path, sentinel, {"mapping.fc1": {"bias_gain": 0.02}})
    refused("different conv_clamp", path, sentinel, {"synthesis.b8.conv0": {"conv_clamp": 256}})
    layers = [f"synthesis.b{size}.{name}" for size in (4, 8, 16) for name in ("conv0", "conv1", "torgb")]
    refused("conv_clamp that is no number", path, sentinel, {layer: {"conv_clamp": "256"} for layer in layers})


def test_arguments_tell_where_modules_do_not(tmp_path: Path, sentinel: Path) -> None:
    state, _, s = generator_of(rate=0.5)
    kwargs = EasyDict(mapping_kwargs=EasyDict(lr_multiplier=np.float32(0.5), num_layers=2), conv_clamp=3)
    nvidia_pickle(tmp_path / "g.pkl", sentinel, {"G_ema": state}, {"": {"_init_kwargs": kwargs}})
    generator = load_generator_file(tmp_path / "g.pkl")
    z = torch.randn(2, s["z"])
    torch.testing.assert_close(generator.map(z)[:, 0], mapped(state, z, None, 2, 0.5), rtol=1e-4, atol=1e-4)
    assert generator.config.conv_clamp == 3
    kwargs["mapping_kwargs"]["activation"] = "relu"
    nvidia_pickle(tmp_path / "g.pkl", sentinel, {"G_ema": state}, {"": {"_init_kwargs": kwargs}})
    with pytest.raises(ValueError, match="other activations"):
        inspect(tmp_path / "g.pkl")


# --- discriminators

DISCRIMINATORS: dict[str, dict[str, Any]] = {
    "resnet": {},
    "skip": {"architecture": "skip", "clamp": 2},
    "orig": {"architecture": "orig"},
    "one group": {"group": None},
    "no deviation": {"features": 0},
    "two features, groups of three": {"features": 2, "group": 3},
    "labels": {"c": 4, "layers": 8},
    "labels without layers": {"c": 4, "layers": 0, "cmap": 5},
    "labels of other widths": {"c": 4, "layers": 3, "cmap": 5, "embed": 6, "hidden": 7, "rate": 1},
    "skip with filter 1 2 1": {"architecture": "skip", "taps": [1, 2, 1]},
    "filter 1 4 6 4 1": {"taps": [1, 4, 6, 4, 1]},
    "lopsided filter": {"taps": [1, 2, 4]},
    "no filter": {"taps": [1]},
    "long filter": {"taps": [1, 2, 3, 4, 5, 5, 4, 3, 2, 1], "architecture": "skip"},
}


@pytest.mark.parametrize("case", DISCRIMINATORS)
def test_discriminator_of_every_setting(case: str, tmp_path: Path, sentinel: Path) -> None:
    state, attributes, s = discriminator_of(**DISCRIMINATORS[case])
    nvidia_pickle(tmp_path / "d.pkl", sentinel, {"D": state}, attributes)
    weights_info(str(tmp_path / "d.pkl"))
    weights_convert(str(tmp_path / "d.pkl"), out=str(tmp_path / "d.safetensors"), network="D")
    batch = 5 if s["group"] is None or not s["features"] else 6 if s["group"] == 3 else 4
    image = torch.randn(batch, 3, 16, 16, generator=torch.Generator().manual_seed(1))
    scores = judged(state, image, labels(s, batch), s)
    for path, tolerance in (("d.pkl", 1e-5), ("d.safetensors", 1e-2)):
        found = load_discriminator_file(tmp_path / path)(image, labels(s, batch))
        torch.testing.assert_close(found, scores, rtol=0, atol=tolerance * scores.abs().max().item())


def test_every_network_of_a_file_is_judged(tmp_path: Path, sentinel: Path, capsys: pytest.CaptureFixture[str]) -> None:
    state, attributes, _ = generator_of()
    broken = {key: value for key, value in state.items() if key != "synthesis.b8.conv0.bias"}
    critic, critics, _ = discriminator_of(architecture="skip")
    path = tmp_path / "n.pkl"
    nvidia_pickle(path, sentinel, {"G": broken, "D": critic, "G_ema": state}, attributes | critics)
    weights_info(str(path))
    lines = capsys.readouterr().out.splitlines()
    assert len(lines) == 3 and lines[0].startswith("StyleGAN2 of 16 px; NVIDIA pickle; G_ema")
    assert "synthesis.b8.conv0.bias is missing" in lines[1]
    assert lines[2].startswith("StyleGAN2 discriminator of 16 px; NVIDIA pickle; D")
    nvidia_pickle(path, sentinel, {"G": broken, "G_ema": broken}, attributes)
    with pytest.raises(ValueError, match="b8.conv0.bias is missing"):
        weights_info(str(path))


# --- TensorFlow


def tensorflow(path: Path, *networks: Network) -> Path:
    with modules(dnnlib__tflib__network={"Network": Network}, dnnlib__util={"EasyDict": EasyDict}):
        path.write_bytes(pickle.dumps(networks if len(networks) == 3 else networks * 3))
    return path


def told(network: Network, **arguments: Any) -> Network:
    network.state["static_kwargs"].update(arguments)
    return network


TENSORFLOW: dict[str, tuple[dict[str, Any], dict[str, Any]]] = {
    "multiplier 1": ({"rate": 1}, {"mapping_lrmul": 1}),
    "untold multiplier": ({"rate": 0.01}, {}),
    "orig": ({"architecture": "orig"}, {"architecture": "orig"}),
    "filter 1 2 1": ({"taps": [1, 2, 1]}, {"resample_kernel": [1, 2, 1]}),
    "box": ({"taps": [1, 1]}, {"resample_kernel": None}),
    "clamp": ({"clamp": 2}, {"conv_clamp": 2}),
    "no noise": ({"noise": False}, {"use_noise": False}),
    "leaky by name": ({}, {"nonlinearity": "lrelu", "mapping_nonlinearity": "lrelu", "normalize_latents": True}),
}


@pytest.mark.parametrize("case", TENSORFLOW)
def test_tensorflow_generator_of_every_setting(case: str, tmp_path: Path) -> None:
    changes, arguments = TENSORFLOW[case]
    state, _, s = generator_of(**changes)
    network = tensorflow_generator({k: v for k, v in state.items() if not k.endswith("filter")}, "")
    del network.state["static_kwargs"]["mapping_lrmul"]
    generator = load_generator_file(tensorflow(tmp_path / "g.pkl", told(network, **arguments)))
    z = torch.randn(2, s["z"])
    w = mapped(state, z, None, 2, s["rate"])
    torch.testing.assert_close(generator.map(z)[:, 0], w, rtol=1e-4, atol=1e-4)
    codes = torch.randn(2, generator.num_ws, s["w"])
    image = synthesized(state, codes, s)
    torch.testing.assert_close(generator.synthesize(codes), image, rtol=0, atol=2e-5 * image.abs().max().item())


def test_tensorflow_arguments_that_stylereel_lacks_are_refused(tmp_path: Path) -> None:
    state = {k: v for k, v in generator_of()[0].items() if not k.endswith("filter")}
    for arguments, reason in (
        ({"nonlinearity": "relu"}, "other activations than leaky ReLU"),
        ({"mapping_nonlinearity": "linear"}, "other activations than leaky ReLU"),
        ({"normalize_latents": False}, "made with normalize_latents"),
        ({"spectral": 1}, "made with spectral"),
        ({"mapping_lrmul": "1"}, "mapping_lrmul that is no number"),
        ({"resample_kernel": "box"}, "no row of numbers"),
        ({"conv_clamp": "big"}, "conv_clamp that is no number"),
    ):
        path = tensorflow(tmp_path / "g.pkl", told(tensorflow_generator(state, ""), **arguments))
        with pytest.raises(ValueError, match=reason):
            weights_info(str(path))


def test_tensorflow_generator_that_grew(tmp_path: Path) -> None:
    """Configs B to D: one way to colours for each size, of which the last one counts when growing has ended."""
    state, _, s = generator_of(architecture="orig")
    network = tensorflow_generator({k: v for k, v in state.items() if not k.endswith("filter")}, "")
    synthesis = network.state["components"]["synthesis"].state
    synthesis["variables"] = [
        (name.replace("16x16/ToRGB/", "ToRGB_lod0/"), value) for name, value in synthesis["variables"]
    ] + [("ToRGB_lod1/weight", np.zeros((1, 1, 10, 3), np.float32)), ("lod", np.float32(0))]
    generator = load_generator_file(tensorflow(tmp_path / "g.pkl", network))
    codes = torch.randn(2, generator.num_ws, s["w"])
    image = synthesized(state, codes, s)
    torch.testing.assert_close(generator.synthesize(codes), image, rtol=0, atol=2e-5 * image.abs().max().item())
    synthesis["variables"][-1] = ("lod", np.float32(0.5))
    with pytest.raises(ValueError, match="not grown to its full size"):
        weights_info(str(tensorflow(tmp_path / "g.pkl", network)))


@pytest.mark.parametrize(
    ("source", "arguments", "group"),
    [
        ("", {}, None),
        ("    mbstd_group_size    = 4,            # ...", {}, 4),
        ("    mbstd_group_size        = None,         # ...", {}, None),
        ("mbstd_group_size = 4", {"mbstd_group_size": 2}, 2),
    ],
)
def test_tensorflow_discriminator(source: str, arguments: dict[str, Any], group: int | None, tmp_path: Path) -> None:
    changes: dict[str, Any] = {"group": group, "c": 4, "layers": 2, "rate": 0.1}
    state, _, s = discriminator_of(**changes)
    variables: dict[str, Any] = {"lod": np.float32(0)}
    layers = {"fromrgb": "FromRGB", "conv0": "Conv0", "conv1": "Conv1_down", "skip": "Skip"}
    ends = {"conv": "4x4/Conv", "fc": "4x4/Dense0", "out": "Output"}
    for key, tensor in state.items():
        place, value = key.split("."), tensor.numpy()
        if key.endswith("filter"):
            continue
        if place[0] == "mapping":
            name = "LabelEmbed" if place[1] == "embed" else place[1].replace("fc", "Mapping")
        else:
            name = ends[place[1]] if place[0] == "b4" else f"{place[0][1:]}x{place[0][1:]}/{layers[place[1]]}"
        variables[f"{name}/{place[2]}"] = value.transpose(2, 3, 1, 0) if value.ndim == 4 else value.T
    content = {"version": 4, "static_kwargs": EasyDict(arguments), "components": {}, "build_module_src": source}
    network = Network({**content, "variables": list(variables.items())})
    critic = load_discriminator_file(tensorflow(tmp_path / "d.pkl", network))
    image = torch.randn(4, 3, 16, 16)
    scores = judged(state, image, labels(s, 4), s)
    torch.testing.assert_close(critic(image, labels(s, 4)), scores, rtol=0, atol=1e-5 * scores.abs().max().item())


# --- rosinality


def test_rosinality_filter_and_multiplier(tmp_path: Path) -> None:
    from stylereel.zoo.names import generator_to_rosinality

    state, _, s = generator_of(taps=[1, 2, 1], widths={4: 12, 8: 12, 16: 12}, z=9)
    mean = state["mapping.w_avg"]
    theirs = generator_to_rosinality({k: v for k, v in state.items() if not k.endswith(("filter", "w_avg"))})
    theirs = {k: filter_of([1, 2, 1]) * 4 if k.endswith("kernel") else v for k, v in theirs.items()}
    torch.save({"g_ema": theirs, "latent_avg": mean}, tmp_path / "g.pt")
    generator = load_generator_file(tmp_path / "g.pt")
    codes = torch.randn(2, generator.num_ws, s["w"])
    image = synthesized(state, codes, s)
    torch.testing.assert_close(generator.synthesize(codes), image, rtol=0, atol=2e-5 * image.abs().max().item())


# --- StyleGAN3


def stylegan3_file(
    path: Path, sentinel: Path, attributes: dict[str, dict[str, Any]], clamp: Any, **changes: Any
) -> StyleGAN3:
    config = StyleGAN3Config(**{"resolution": 16, "z_dim": 6, "w_dim": 8, "channel_base": 128, "channel_max": 9,
                                "num_layers": 5, **changes})  # fmt: skip
    torch.manual_seed(0)
    made = StyleGAN3(config)
    for name, value in made.named_parameters():
        if name.endswith("bias"):
            value.data.normal_(mean=float("affine" in name))
    state = {**made.state_dict(), **{k: v for k, v in made.named_buffers() if k.endswith("_filter")}}
    layers = {f"synthesis.{layer.name}": {"conv_clamp": clamp} for layer in config.layers()}
    told = {"": {"_init_kwargs": EasyDict(num_layers=5, mapping_kwargs=EasyDict(num_layers=2))}}
    nvidia_pickle(path, sentinel, {"G_ema": state}, {**told, **layers, **attributes})
    return made


@pytest.mark.parametrize("clamp", [None, 0.5, 256, np.float64(2.0)])
def test_clamp_of_stylegan3(clamp: Any, tmp_path: Path, sentinel: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(str(Path(__file__).parents[1] / "benchmarks"))
    reference = importlib.import_module("reference")
    monkeypatch.setattr(reference, "CLAMP", None if clamp is None else float(clamp))
    made = stylegan3_file(tmp_path / "g.pkl", sentinel, {}, clamp)
    generator = load_generator_file(tmp_path / "g.pkl")
    assert generator.config.conv_clamp == clamp
    w = 40 * torch.randn(2, made.num_ws, 8)
    w[:, 0] = torch.randn(2, 8)
    image = reference.stylegan3(reference.tensors_of(made), w).detach()
    found = generator.synthesize(w).detach()
    torch.testing.assert_close(found, image, rtol=0, atol=3e-5 * image.abs().max().item())


def test_no_critical_layers_of_stylegan3(tmp_path: Path, sentinel: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(str(Path(__file__).parents[1] / "benchmarks"))
    reference = importlib.import_module("reference")
    monkeypatch.setattr(reference, "NUM_CRITICAL", 0)
    reference.geometry.cache_clear()
    told = {"synthesis": {"num_critical": 0}}
    made = stylegan3_file(tmp_path / "g.pkl", sentinel, told, 256, num_critical=0)
    torch.save(made.state_dict() | {k: v for k, v in made.named_buffers() if "filter" in k}, tmp_path / "g.pt")
    w = torch.randn(2, made.num_ws, 8)
    image = reference.stylegan3(reference.tensors_of(made), w).detach()
    reference.geometry.cache_clear()
    for name in ("g.pkl", "g.pt"):  # a state dict tells it by its filters
        weights_info(str(tmp_path / name))
        generator = load_generator_file(tmp_path / name)
        assert isinstance(generator, StyleGAN3) and generator.config.num_critical == 0
        torch.testing.assert_close(generator.synthesize(w), image, rtol=0, atol=1e-5 * image.abs().max().item())


@pytest.mark.parametrize("multiplier", [1, np.int64(1), torch.tensor(1), 0.01])
def test_multiplier_of_stylegan3(multiplier: Any, tmp_path: Path, sentinel: Path) -> None:
    attributes = {f"mapping.fc{i}": {"bias_gain": multiplier} for i in range(2)}
    made = stylegan3_file(tmp_path / "g.pkl", sentinel, attributes, 256)
    state, z = made.state_dict(), torch.randn(2, 6)
    found = load_generator_file(tmp_path / "g.pkl").map(z)[:, 0]
    torch.testing.assert_close(found, mapped(state, z, None, 2, float(multiplier)), rtol=1e-4, atol=1e-4)


def test_labels_of_stylegan3(tmp_path: Path, sentinel: Path) -> None:
    golden = Golden("sg3r_gen_r64")
    attributes = {"synthesis": {"num_critical": "three"}}
    nvidia_pickle(tmp_path / "g.pkl", sentinel, {"G_ema": golden.state()}, attributes)
    with pytest.raises(ValueError, match="num_critical that is no number"):
        inspect_all(tmp_path / "g.pkl")
