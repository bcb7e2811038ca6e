"""The StyleGAN3 generator against numbers computed with the original implementation.

The files in goldens/ hold weights, inputs and outputs; their manifests give the tolerances.
"""

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file
from torch import Tensor

from stylereel.generator import StyleGAN3, StyleGAN3Config, image_transform, load_generator

GOLDENS = Path(__file__).parent / "goldens"
GENERATORS = ["sg3t_gen_r32", "sg3t_gen_r64", "sg3r_gen_r32", "sg3r_gen_r64"]
TABLES = json.loads((GOLDENS / "sg3_layer_tables.json").read_text())
ROTATING: Any = {"conv_kernel": 1, "use_radial_filters": True}


class Golden:
    """A manifest and its arrays, and the comparison with them."""

    def __init__(self, name: str) -> None:
        manifest = json.loads((GOLDENS / f"{name}.json").read_text())
        self.config = manifest["config"]
        self.outputs: dict[str, dict[str, float]] = manifest["outputs"]
        self.arrays = load_file(GOLDENS / f"{name}.safetensors")
        self.state = {
            key.removeprefix("state/"): value for key, value in self.arrays.items() if key.startswith("state/")
        }

    def check(self, name: str, found: Tensor, slack: float = 0.0) -> None:
        limits = self.outputs[name]
        if found.dtype == torch.float32:
            expected = self.arrays[f"out/{name}"]
            atol, rtol = limits["advised_atol_fp32"], 1e-5
        else:
            expected = self.arrays[f"out64/{name}"]
            atol, rtol = limits["advised_atol_fp64"] + slack, 1e-9
        torch.testing.assert_close(found, expected, atol=atol, rtol=rtol, msg=lambda text: f"{name}: {text}")

    def generator(self) -> StyleGAN3:
        names = {"conv_kernel", "use_radial_filters", "num_layers", "num_critical", "channel_base", "channel_max"}
        config = StyleGAN3Config(
            resolution=self.config["img_resolution"],
            z_dim=self.config["z_dim"],
            w_dim=self.config["w_dim"],
            mapping_layers=self.config["mapping_kwargs"]["num_layers"],
            **{key: value for key, value in self.config.items() if key in names},
        )
        generator = StyleGAN3(config)
        generator.load_state_dict(self.state)
        return generator.eval().requires_grad_(False)

    def transforms(self) -> dict[str, Tensor]:
        """Where the images of this file go; it holds the inverse of that."""
        return {
            key.removeprefix("in/"): torch.linalg.inv(value.double())
            for key, value in self.arrays.items()
            if key.startswith("in/transform")
        }


def tiny(**changes: Any) -> StyleGAN3:
    """A generator of 32 px with 5 layers and random weights, biases and magnitudes."""
    torch.manual_seed(0)
    settings = {"resolution": 32, "z_dim": 12, "w_dim": 16, "channel_base": 256, "channel_max": 12, "num_layers": 5}
    generator = StyleGAN3(StyleGAN3Config(**{**settings, **changes}))
    for name, parameter in generator.named_parameters():
        if name.endswith("bias"):
            parameter.data += 0.3 * torch.randn_like(parameter)
    torch.nn.init.normal_(generator.synthesis.get_parameter("input.affine.weight"))
    for name, buffer in generator.named_buffers():
        if name.endswith("magnitude_ema"):
            buffer.fill_(0.5)
    torch.nn.init.normal_(generator.mapping.w_avg)
    return generator


def random_w(generator: StyleGAN3, batch: int) -> Tensor:
    seeded = torch.Generator().manual_seed(1)
    return torch.randn(batch, generator.num_ws, generator.config.w_dim, generator=seeded)


def recorded(generator: StyleGAN3, w: Tensor, **options: Any) -> tuple[Tensor, dict[str, Tensor]]:
    """Image, and the output of every layer."""
    outputs: dict[str, Tensor] = {}
    names = [layer.name for layer in generator.style_layers]
    taps = {name: lambda x, name=name: outputs.update({name: x}) for name in names}
    return generator.synthesize(w, taps=taps, **options), outputs


# Against the goldens


@pytest.mark.parametrize("name", GENERATORS)
def test_generator_equals_golden(name: str) -> None:
    golden = Golden(name)
    generator = golden.generator()
    z, w = golden.arrays["in/z"], golden.arrays["in/ws"]
    psi, cutoff = golden.config["truncation_psi"], golden.config["truncation_cutoff"]
    found = {
        "mapping_w": generator.map(z),
        "mapping_w_psi": generator.map(z, psi=psi),
        "mapping_w_psi_cutoff": generator.map(z, psi=psi, cutoff=cutoff),
        "img_from_z_psi": generator(z, psi=psi),
    }
    for layer, style in zip(generator.style_layers, generator.styles(w), strict=True):
        found[f"styles/{layer.name}"] = style
    found["img"], outputs = recorded(generator, w)
    step = 2 if generator.resolution == 32 else 4  # the file holds samples of the features
    found["input"] = outputs.pop("input")[:, ::2]
    for layer, output in outputs.items():
        output = output / generator.config.output_scale if layer == generator.style_layers[-1].name else output
        found[f"layer/{layer}"] = output[:, ::2, ::step, ::step]
    for key, transform in golden.transforms().items():
        found[f"img_{key}"] = generator.synthesize(w, transform=transform)
        found[f"input_{key}"] = generator.synthesize(w, transform=transform, stop="input")[:, ::2]

    assert set(found) == set(golden.outputs)
    for key, value in found.items():
        golden.check(key, value)


@pytest.mark.parametrize("name", GENERATORS)
def test_generator_equals_golden_in_double_precision(name: str) -> None:
    golden = Golden(name)
    generator = golden.generator().double()
    z, w = golden.arrays["in/z"].double(), golden.arrays["in/ws"].double()
    golden.check("img", generator.synthesize(w))
    # The original normalises the styles of a whole batch together, so that its epsilon of 1e-8 depends on the batch.
    golden.check("img_from_z_psi", generator(z, psi=golden.config["truncation_psi"]), slack=1e-9)
    for key, transform in golden.transforms().items():
        golden.check(f"img_{key}", generator.synthesize(w, transform=transform))


@pytest.mark.parametrize("name", GENERATORS)
def test_filters_equal_those_of_the_golden(name: str) -> None:
    golden = Golden(name)
    found = {key: value for key, value in golden.generator().named_buffers() if key.endswith("_filter")}
    expected = {key: value for key, value in golden.state.items() if key.endswith("_filter")}
    assert set(found) == set(expected)
    for key, value in found.items():
        torch.testing.assert_close(value, expected[key], atol=1e-6 * expected[key].abs().max().item(), rtol=0)


@pytest.mark.parametrize("name", TABLES)
def test_layers_equal_published_table(name: str) -> None:
    table = TABLES[name]
    config = StyleGAN3Config(table["img_resolution"], **table["args"])
    layers = config.layers()
    assert table["input"]["channels"] == layers[0].in_channels
    assert table["input"]["size"] == [layers[0].in_size] * 2
    assert table["input"]["sampling_rate"] == layers[0].in_sampling_rate
    assert table["input"]["bandwidth"] == layers[0].in_cutoff
    assert len(layers) == len(table["layers"]) == config.num_ws - 1
    for layer, row in zip(layers, table["layers"], strict=True):
        found = {**vars(layer), "padding": list(layer.padding)}
        assert set(found) == set(row)
        for key, value in row.items():
            assert found[key] == (pytest.approx(value, rel=1e-12) if isinstance(value, float) else value), key


@pytest.mark.parametrize(
    "name", ["sg3t_generator_256", "sg3t_generator_1024", "sg3r_generator_256", "sg3r_generator_1024"]
)
def test_state_dict_keys_equal_published_ones(name: str) -> None:
    table = json.loads((GOLDENS / "keys" / f"{name}.json").read_text())
    given = table["config"]
    widths = {key: given[key] for key in ("channel_base", "channel_max")}
    shape = {key: given[key] for key in ("conv_kernel", "use_radial_filters") if key in given}
    with torch.device("meta"):
        generator = StyleGAN3(StyleGAN3Config(given["img_resolution"], **widths, **shape))
    stored = {key: list(value.shape) for key, value in generator.state_dict().items()}
    filters = {key: list(value.shape) for key, value in generator.named_buffers() if key.endswith("_filter")}
    assert {**stored, **filters} == table["keys"]
    assert not set(stored) & set(filters)


def test_a_batch_of_stored_transforms_is_dropped() -> None:
    generator = tiny()
    state = {**generator.state_dict(), "synthesis.input.transform": torch.randn(4, 3, 3)}
    generator.load_state_dict(state)
    assert torch.equal(generator.synthesis.get_buffer("input.transform"), torch.eye(3))


# Styles, taps, start and stop


def test_styles_give_the_same_image_as_w() -> None:
    generator = tiny()
    w = random_w(generator, 2)
    s = generator.styles(w)
    assert torch.equal(generator.synthesize(s=s), generator.synthesize(w))
    assert [layer.kind for layer in generator.style_layers] == ["input", *["conv"] * 5, "rgb"]
    assert [layer.row for layer in generator.style_layers] == list(range(generator.num_ws))
    # The style of the input affects the image.
    turned = [s[0][:, [1, 0, 2, 3]], *s[1:]]
    assert (generator.synthesize(s=turned) - generator.synthesize(s=s)).abs().max() > 0.01


def test_start_from_a_recorded_feature_equals_the_full_run() -> None:
    generator = tiny()
    w = random_w(generator, 2)
    image, outputs = recorded(generator, w)
    assert torch.equal(image, generator.synthesize(w))
    for layer in generator.style_layers[:-1]:
        started = generator.synthesize(w, start=(layer.name, outputs[layer.name].contiguous()))
        torch.testing.assert_close(started, image, atol=1e-5, rtol=1e-5)
    last = generator.style_layers[-1].name
    torch.testing.assert_close(generator.synthesize(w, start=(1, outputs["L0_36_12"]), stop=last), image)


def test_stop_returns_what_a_tap_sees() -> None:
    generator = tiny()
    w = random_w(generator, 2)
    image, outputs = recorded(generator, w)
    for layer in generator.style_layers:
        assert torch.equal(generator.synthesize(w, stop=layer.index), outputs[layer.name])
        assert outputs[layer.name].shape[2:] == (layer.resolution, layer.resolution)
    assert torch.equal(outputs[generator.style_layers[-1].name], image)


def test_tap_replaces_the_output_of_its_layer() -> None:
    generator = tiny()
    w = random_w(generator, 2)
    image, outputs = recorded(generator, w)
    assert torch.equal(generator.synthesize(w, taps={2: lambda x: x.clone()}), image)
    other = generator.synthesize(w, taps={"input": lambda x: x * 0.5})
    torch.testing.assert_close(other, generator.synthesize(w, start=("input", outputs["input"] * 0.5)))
    assert (other - image).abs().max() > 0.01
    assert torch.equal(generator.synthesize(w, taps={6: torch.zeros_like}), torch.zeros_like(image))


def test_batch_does_not_change_an_image() -> None:
    generator = tiny()
    s = generator.styles(random_w(generator, 3))
    s[2] = s[2] * torch.tensor([0.01, 1.0, 100.0])[:, None]
    transform = torch.stack([image_transform(angle) for angle in (0, 10, 20)])
    together = generator.synthesize(s=s, transform=transform)
    alone = [
        generator.synthesize(s=[style[i : i + 1] for style in s], transform=transform[i]) for i in range(len(s[0]))
    ]
    torch.testing.assert_close(together, torch.cat(alone), atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize(("dtype", "limit"), [(torch.bfloat16, 5e-2), (torch.float16, 6e-3)])
@pytest.mark.parametrize("settings", [{}, ROTATING], ids=["t", "r"])
def test_lower_precision_stays_near(dtype: torch.dtype, limit: float, settings: Any) -> None:
    generator = tiny(**settings).requires_grad_(False)
    s = generator.styles(random_w(generator, 2))
    # Demodulation undoes these, but only if nothing overflows before.
    s[3] = s[3] * 3e4
    s[4][:, 0] *= 1e4
    generator.synthesis.get_buffer(f"{generator.style_layers[4].name}.magnitude_ema").fill_(1e-5)
    exact = generator.synthesize(s=s)
    near = generator.synthesize(s=s, dtype=dtype)
    assert near.dtype == torch.float32
    assert generator.synthesize(s=s, stop="L2_52_12", dtype=dtype).dtype == dtype
    assert 0 < (near - exact).square().mean().sqrt() < limit * exact.std()


# Where the content goes


def test_shift_moves_the_image_to_the_right_and_down() -> None:
    generator = tiny(num_layers=4)
    w = random_w(generator, 1)
    image = generator.synthesize(w)
    moved = generator.synthesize(w, transform=image_transform(shift_x=4 / 32, shift_y=8 / 32))
    difference = (moved[:, :, 8:, 4:] - image[:, :, :-8, :-4]).square().mean().sqrt()
    assert difference < 0.05 * image.std()


def test_roll_turns_the_image_clockwise() -> None:
    generator = tiny(num_layers=4, **ROTATING)
    w = random_w(generator, 1)
    image = generator.synthesize(w)
    turned = generator.synthesize(w, transform=image_transform(roll_degrees=90))
    assert (turned - image.rot90(-1, dims=(2, 3))).square().mean().sqrt() < 0.05 * image.std()
    # A turn about the centre and then a shift.
    matrix = image_transform(roll_degrees=90, shift_x=0.25)
    torch.testing.assert_close(matrix @ matrix.new_tensor([0.5, 0, 1]), matrix.new_tensor([0.25, 0.5, 1]))


def test_the_buffer_holds_the_inverse_of_the_transform() -> None:
    generator = tiny()
    w = random_w(generator, 2)
    transform = image_transform(30, 0.1, -0.2)
    given = generator.synthesize(w, transform=transform.expand(2, 3, 3))
    generator.synthesis.get_buffer("input.transform").copy_(torch.linalg.inv(transform))
    torch.testing.assert_close(generator.synthesize(w), given, atol=1e-5, rtol=1e-5)


# Training


def test_magnitudes_follow_the_batches() -> None:
    generator = tiny()
    w = random_w(generator, 2)
    _, outputs = recorded(generator, w, magnitude_decay=0.75)
    for before, layer in zip(generator.style_layers, generator.style_layers[1:], strict=False):
        found = generator.synthesis.get_buffer(f"{layer.name}.magnitude_ema")
        torch.testing.assert_close(found, 0.375 + outputs[before.name].square().mean() / 4)
    stored = generator.synthesize(w)
    torch.testing.assert_close(stored, generator.synthesize(w, magnitude_decay=1.0))
    assert (stored - generator.synthesize(w, magnitude_decay=0.0)).abs().max() > 0.01


@pytest.mark.parametrize("settings", [{}, ROTATING], ids=["t", "r"])
def test_every_parameter_gets_a_gradient(settings: Any) -> None:
    generator = tiny(c_dim=3, **settings)
    generator(torch.randn(2, 12), torch.eye(3)[:2]).square().sum().backward()
    for name, parameter in generator.named_parameters():
        assert parameter.grad is not None and parameter.grad.abs().sum() > 0, name


def test_second_derivatives_of_a_generator() -> None:
    generator = tiny(resolution=16, channel_max=3, w_dim=4, num_layers=2, num_critical=1, margin_size=2)
    generator = generator.double().requires_grad_(False)
    w = random_w(generator, 1).double().requires_grad_()
    assert torch.autograd.gradcheck(lambda w: generator.synthesize(w, resize=4), (w,))
    assert torch.autograd.gradgradcheck(lambda w: generator.synthesize(w, resize=4), (w,))


# Files and mistakes


def test_save_and_load_round_trip(tmp_path: Path) -> None:
    generator = tiny(c_dim=3, conv_clamp=None, **ROTATING)
    generator.load_state_dict({key: value.half().float() for key, value in generator.state_dict().items()})
    path = tmp_path / "generator.safetensors"
    generator.save(path, {"trained_on": "the world"})
    for loaded in (StyleGAN3.load(path), load_generator(str(path))):
        assert isinstance(loaded, StyleGAN3)
        assert loaded.config == generator.config
        assert loaded.card == {"trained_on": "the world"}
        for key, value in loaded.state_dict().items():
            assert torch.equal(value, generator.state_dict()[key]), key
    w = random_w(generator, 1)
    torch.testing.assert_close(StyleGAN3.load(path).synthesize(w), generator.synthesize(w))


def test_mistakes_are_explained() -> None:
    generator = tiny()
    w = random_w(generator, 1)
    with pytest.raises(ValueError, match="power of two"):
        StyleGAN3Config(resolution=100)
    with pytest.raises(ValueError, match="1 or 3 pixels"):
        StyleGAN3Config(resolution=32, conv_kernel=5)  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="critically sampled"):
        StyleGAN3Config(resolution=32, num_layers=3, num_critical=3)
    with pytest.raises(ValueError, match=r"\[B, 7, 16\]"):
        generator.synthesize(w[:, :5])
    with pytest.raises(ValueError, match="either w or s"):
        generator.synthesize()
    with pytest.raises(ValueError, match="7 style vectors"):
        generator.synthesize(s=generator.styles(w)[1:])
    with pytest.raises(ValueError, match="no noise"):
        generator.synthesize(w, noise="random")  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="no layer 'b8.conv0'"):
        generator.synthesize(w, stop="b8.conv0")
    with pytest.raises(ValueError, match=r"a feature \[B, 12, 36, 36\]"):
        generator.synthesize(w, start=(0, torch.zeros(1, 12, 32, 32)))
    with pytest.raises(ValueError, match="without an image"):
        generator.synthesize(w, start=(0, torch.zeros(1, 12, 36, 36), torch.zeros(1, 3, 4, 4)))  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="another layer than L5"):
        generator.synthesize(w, start=(6, torch.zeros(1, 3, 32, 32)))
    with pytest.raises(ValueError, match="after the start layer, unlike input"):
        generator.synthesize(w, start=(0, torch.zeros(1, 12, 36, 36)), stop="input")
    with pytest.raises(ValueError, match="either a start or a transform"):
        generator.synthesize(w, start=(0, torch.zeros(1, 12, 36, 36)), transform=torch.eye(3))
    with pytest.raises(ValueError, match=r"\[3, 3\] or \[1, 3, 3\]"):
        generator.synthesize(w, transform=torch.eye(3).expand(2, 3, 3))
    with pytest.raises(ValueError, match="no inverse"):
        generator.synthesize(w, transform=torch.zeros(3, 3))
