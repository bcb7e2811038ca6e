"""The StyleGAN2 generator and discriminator against numbers computed with the original implementation.

The files in goldens/ hold weights, inputs and outputs; their manifests give the tolerances.
"""

import json
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

from stylereel.generator import (
    Discriminator,
    DiscriminatorConfig,
    StyleGAN2,
    StyleGAN2Config,
    load_generator,
)
from stylereel.generator.ops import blur, modulated_conv

GOLDENS = Path(__file__).parent / "goldens"
GENERATORS = ["sg2_gen_r32", "sg2_gen_r64", "sg2_gen_r16_resnet", "sg2_gen_r32_cond_clamp"]
DISCRIMINATORS = ["sg2_disc_r32", "sg2_disc_r32_group2"]


class Golden:
    """A manifest and its arrays, and the comparison with them."""

    def __init__(self, name: str) -> None:
        manifest = json.loads((GOLDENS / f"{name}.json").read_text())
        self.config = manifest["config"]
        self.outputs: dict[str, dict[str, float]] = manifest["outputs"]
        self.arrays = load_file(GOLDENS / f"{name}.safetensors")
        self.state = {
            key.removeprefix("state/"): value
            for key, value in self.arrays.items()
            if key.startswith("state/") and not key.endswith("resample_filter")
        }

    def check(self, name: str, found: Tensor) -> None:
        limits = self.outputs[name]
        if found.dtype == torch.float32:
            expected = self.arrays[f"out/{name}"]
            atol, rtol = limits["advised_atol_fp32"], 1e-5
        else:
            expected = self.arrays[f"out64/{name}"]
            atol, rtol = limits["advised_atol_fp64"], 1e-9
        torch.testing.assert_close(found, expected, atol=atol, rtol=rtol, msg=lambda text: f"{name}: {text}")


def golden_generator(golden: Golden) -> StyleGAN2:
    config = golden.config
    synthesis = config["synthesis_kwargs"]
    generator = StyleGAN2(
        StyleGAN2Config(
            resolution=config["img_resolution"],
            z_dim=config["z_dim"],
            w_dim=config["w_dim"],
            c_dim=config["c_dim"],
            channel_base=synthesis["channel_base"],
            channel_max=synthesis["channel_max"],
            mapping_layers=config["mapping_kwargs"]["num_layers"],
            architecture=synthesis.get("architecture", "skip"),
            conv_clamp=synthesis.get("conv_clamp"),
        )
    )
    generator.load_state_dict(golden.state)
    return generator.eval().requires_grad_(False)


def golden_discriminator(golden: Golden) -> Discriminator:
    config = golden.config
    discriminator = Discriminator(
        DiscriminatorConfig(
            resolution=config["img_resolution"],
            channel_base=config["channel_base"],
            channel_max=config["channel_max"],
            **config.get("epilogue_kwargs", {}),
        )
    )
    discriminator.load_state_dict(golden.state)
    return discriminator


def tiny(**changes: object) -> StyleGAN2:
    """A generator of 32 px with random weights, biases and noise."""
    torch.manual_seed(0)
    settings = {"resolution": 32, "z_dim": 12, "w_dim": 16, "channel_base": 256, "channel_max": 12}
    generator = StyleGAN2(StyleGAN2Config(**{**settings, "mapping_layers": 2, **changes}))  # type: ignore[arg-type]
    for name, parameter in generator.named_parameters():
        if name.endswith("bias") or name.endswith("noise_strength"):
            torch.nn.init.normal_(parameter, std=0.3)
    torch.nn.init.normal_(generator.mapping.w_avg)
    return generator


def random_w(generator: StyleGAN2, batch: int) -> Tensor:
    seeded = torch.Generator().manual_seed(1)
    return torch.randn(batch, generator.num_ws, generator.config.w_dim, generator=seeded)


def layer_names(generator: StyleGAN2) -> list[str]:
    return [layer.name for layer in generator.style_layers]


def recorded(generator: StyleGAN2, w: Tensor) -> tuple[Tensor, dict[str, Tensor]]:
    """Image, and the output of every layer."""
    outputs: dict[str, Tensor] = {}
    taps = {name: lambda x, name=name: outputs.update({name: x}) for name in layer_names(generator)}
    return generator.synthesize(w, taps=taps), outputs


# Generator against the goldens


@pytest.mark.parametrize("name", GENERATORS)
def test_generator_equals_golden(name: str) -> None:
    golden = Golden(name)
    generator = golden_generator(golden)
    z, w, c = golden.arrays["in/z"], golden.arrays["in/w_plus"], golden.arrays.get("in/c")
    psi, cutoff = golden.config["truncation_psi"], golden.config["truncation_cutoff"]
    found = {
        "mapping_w": generator.map(z, c),
        "mapping_w_psi": generator.map(z, c, psi=psi),
        "mapping_w_psi_cutoff": generator.map(z, c, psi=psi, cutoff=cutoff),
        "img_none": generator.synthesize(w, noise="none"),
        "img_from_z_psi": generator(z, c, psi=psi),
    }
    for layer, style in zip(generator.style_layers, generator.styles(w), strict=True):
        found[f"styles/{layer.name}"] = style

    found["img_const"], outputs = recorded(generator, w)
    for key, output in outputs.items():
        block, module = key.split(".")
        names = {"conv0": f"layer/{key}", "conv1": f"block_x/{block}", "torgb": f"block_img/{block}"}
        found[names[module]] = output

    assert set(found) == set(golden.outputs)
    for key, value in found.items():
        if f"out/{key}" in golden.arrays:
            golden.check(key, value)


@pytest.mark.parametrize("name", GENERATORS)
def test_generator_equals_golden_in_double_precision(name: str) -> None:
    golden = Golden(name)
    generator = golden_generator(golden).double()
    z, w = golden.arrays["in/z"].double(), golden.arrays["in/w_plus"].double()
    c = golden.arrays["in/c"].double() if "in/c" in golden.arrays else None
    psi, cutoff = golden.config["truncation_psi"], golden.config["truncation_cutoff"]
    golden.check("mapping_w_psi_cutoff", generator.map(z, c, psi=psi, cutoff=cutoff))
    golden.check("img_none", generator.synthesize(w, noise="none"))
    golden.check("img_const", generator.synthesize(w))
    golden.check("img_from_z_psi", generator(z, c, psi=psi))


@pytest.mark.parametrize("resolution", [256, 512, 1024])
def test_style_layers_equal_published_table(resolution: int) -> None:
    table = json.loads((GOLDENS / f"sg2_style_space_{resolution}.json").read_text())
    with torch.device("meta"):
        generator = StyleGAN2(StyleGAN2Config(resolution, channel_base=table["channel_base"]))
    found = [
        {"layer": layer.name, "channels": layer.channels, "torgb": layer.kind == "rgb", "w_index": layer.row}
        for layer in generator.style_layers
    ]
    expected = [{key: row[key] for key in found[0]} for row in table["layers"]]
    assert found == expected
    assert [layer.index for layer in generator.style_layers] == list(range(len(expected)))
    for kinds, total in ((("conv", "rgb"), "total"), (("conv",), "total_without_torgb")):
        assert sum(layer.channels for layer in generator.style_layers if layer.kind in kinds) == table[total]


# Styles, taps, start and stop


@pytest.mark.parametrize("architecture", ["orig", "skip", "resnet"])
def test_styles_give_the_same_image_as_w(architecture: str) -> None:
    generator = tiny(architecture=architecture)
    w = random_w(generator, 2)
    assert torch.equal(generator.synthesize(s=generator.styles(w)), generator.synthesize(w))


def test_start_from_a_recorded_feature_equals_the_full_run() -> None:
    generator = tiny()
    w = random_w(generator, 2)
    image, outputs = recorded(generator, w)
    assert torch.equal(image, generator.synthesize(w))
    so_far: Tensor | None = None
    for layer in generator.style_layers:
        if layer.kind == "rgb":
            so_far = outputs[layer.name]
        else:
            started = generator.synthesize(w, start=(layer.name, outputs[layer.name].contiguous(), so_far))
            torch.testing.assert_close(started, image, atol=1e-5, rtol=1e-5)
    # None stands for black, not for the image that is missing.
    black = generator.synthesize(w, start=("b32.conv1", outputs["b32.conv1"], None))
    assert (black - image).abs().max() > 0.1


def test_start_in_a_resnet_generator_equals_the_full_run() -> None:
    generator = tiny(architecture="resnet")
    w = random_w(generator, 2)
    image, outputs = recorded(generator, w)
    for name in ("b4.conv1", "b8.conv1", "b32.conv1"):
        started = generator.synthesize(w, start=(name, outputs[name]))
        torch.testing.assert_close(started, image, atol=1e-5, rtol=1e-5)
    with pytest.raises(ValueError, match="Start from a conv1 layer"):
        generator.synthesize(w, start=("b8.conv0", outputs["b8.conv0"]))
    with pytest.raises(ValueError, match="without an image"):
        generator.synthesize(w, start=("b8.conv1", outputs["b8.conv1"], torch.zeros(2, 3, 4, 4)))


@pytest.mark.parametrize("architecture", ["orig", "skip", "resnet"])
def test_stop_returns_what_a_tap_sees(architecture: str) -> None:
    generator = tiny(architecture=architecture)
    w = random_w(generator, 2)
    image, outputs = recorded(generator, w)
    for layer in generator.style_layers:
        assert torch.equal(generator.synthesize(w, stop=layer.index), outputs[layer.name])
        assert outputs[layer.name].shape[2:] == (layer.resolution, layer.resolution)
    assert torch.equal(outputs["b32.torgb"], image)


def test_start_and_stop_together() -> None:
    generator = tiny()
    w = random_w(generator, 2)
    _, outputs = recorded(generator, w)
    start = ("b8.conv1", outputs["b8.conv1"], outputs["b4.torgb"])
    torch.testing.assert_close(generator.synthesize(w, start=start, stop="b16.torgb"), outputs["b16.torgb"])
    for name in ("b4.conv1", "b8.conv1"):
        with pytest.raises(ValueError, match=f"after the start layer, unlike {name}"):
            generator.synthesize(w, start=start, stop=name)
        with pytest.raises(ValueError, match=f"after the start layer, unlike {name}"):
            generator.synthesize(w, start=start, taps={name: torch.zeros_like})


def test_tap_replaces_the_output_of_its_layer() -> None:
    generator = tiny()
    w = random_w(generator, 2)
    image, outputs = recorded(generator, w)
    same = generator.synthesize(w, taps={"b16.conv0": lambda x: x.clone()})
    assert torch.equal(same, image)
    other = generator.synthesize(w, taps={5: lambda x: x * 0.5})
    start = ("b16.conv0", outputs["b16.conv0"] * 0.5, outputs["b8.torgb"])
    assert generator.style_layers[5].name == "b16.conv0"
    torch.testing.assert_close(other, generator.synthesize(w, start=start))
    assert (other - image).abs().max() > 0.1
    grey = generator.synthesize(w, taps={"b32.torgb": torch.zeros_like})
    assert torch.equal(grey, torch.zeros_like(image))


def test_noise_modes() -> None:
    generator = tiny()
    w = random_w(generator, 2)
    const = generator.synthesize(w)
    convs = [layer for layer in generator.style_layers if layer.kind == "conv"]
    stored = [generator.synthesis.get_buffer(f"{layer.name}.noise_const") for layer in convs]
    assert torch.equal(generator.synthesize(w, noise=stored), const)
    a_sample = [tensor.expand(2, 1, -1, -1) for tensor in stored]
    torch.testing.assert_close(generator.synthesize(w, noise=a_sample), const)
    silent = [torch.zeros_like(tensor) for tensor in stored]
    torch.testing.assert_close(generator.synthesize(w, noise=silent), generator.synthesize(w, noise="none"))
    assert (generator.synthesize(w, noise="none") - const).abs().max() > 0.01
    twice = [generator.synthesize(w[:1].repeat(2, 1, 1), noise="random") for _ in range(2)]
    assert (twice[0] - twice[1]).abs().max() > 0.01
    assert (twice[0][0] - twice[0][1]).abs().max() > 0.01


def test_batch_does_not_change_an_image() -> None:
    generator = tiny()
    w = random_w(generator, 5)
    together = generator.synthesize(w)
    alone = torch.cat([generator.synthesize(w[i : i + 1]) for i in range(5)])
    torch.testing.assert_close(together, alone, atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize(("dtype", "limit"), [(torch.bfloat16, 3e-2), (torch.float16, 4e-3)])
def test_lower_precision_stays_near(dtype: torch.dtype, limit: float) -> None:
    generator = tiny().requires_grad_(False)
    s = generator.styles(random_w(generator, 2))
    s[3] = s[3] * 3e4  # demodulation undoes it, but only if it does not overflow before
    exact = generator.synthesize(s=s)
    near = generator.synthesize(s=s, dtype=dtype)
    assert near.dtype == torch.float32
    assert generator.synthesize(s=s, stop="b8.conv1", dtype=dtype).dtype == dtype
    assert 0 < (near - exact).square().mean().sqrt() < limit * exact.std()


# Mapping


def test_truncation_moves_towards_the_mean() -> None:
    generator = tiny()
    z = torch.randn(3, 12)
    assert torch.equal(generator.map(z, psi=0.0)[0, 0], generator.mean_w)
    cut = generator.map(z, psi=0.5, cutoff=2)
    full = generator.map(z)
    assert torch.equal(cut[:, 2:], full[:, 2:])
    torch.testing.assert_close(cut[:, :2], (full[:, :2] + generator.mean_w) / 2)


def test_track_mean_w_follows_the_batches() -> None:
    generator = tiny()
    generator.mapping.w_avg.zero_()
    w = generator.map(torch.randn(64, 12))
    generator.track_mean_w(w, decay=0.75)
    torch.testing.assert_close(generator.mean_w, w[:, 0].mean(dim=0).detach() / 4)


# Gradients


@pytest.mark.parametrize("architecture", ["orig", "skip", "resnet"])
def test_every_parameter_gets_a_gradient(architecture: str) -> None:
    generator = tiny(architecture=architecture, c_dim=3)
    generator(torch.randn(2, 12), torch.eye(3)[:2]).square().sum().backward()
    for name, parameter in generator.named_parameters():
        assert parameter.grad is not None and parameter.grad.abs().sum() > 0, name


@pytest.mark.parametrize("up", [False, True])
def test_second_derivatives_of_a_layer(up: bool) -> None:
    def draw(*shape: int) -> Tensor:
        return torch.randn(*shape, dtype=torch.float64, requires_grad=True)

    torch.manual_seed(0)
    size = 6 if up else 3
    noise = torch.randn(size, size, dtype=torch.float64)
    inputs = (draw(2, 2, 3, 3), draw(3, 2, 3, 3), draw(2, 2), draw(3), noise, draw(1))

    def layer(*tensors: Tensor) -> Tensor:
        return modulated_conv(*tensors, up=up)

    assert torch.autograd.gradcheck(layer, inputs)
    assert torch.autograd.gradgradcheck(layer, inputs)


def test_second_derivatives_of_a_generator() -> None:
    generator = tiny(resolution=8, channel_max=3, w_dim=4).double().requires_grad_(False)
    w = random_w(generator, 1).double().requires_grad_()
    assert torch.autograd.gradgradcheck(generator.synthesize, (w,))


def test_inference_mode_does_not_spoil_later_training() -> None:
    channels = 7  # not used elsewhere, so nothing is cached yet
    with torch.inference_mode():
        blur(torch.randn(1, channels, 8, 8), padding=1)
    x = torch.randn(1, channels, 8, 8, requires_grad=True)
    blur(x, padding=1).sum().backward()
    assert x.grad is not None and x.grad.abs().sum() > 0


# Discriminator


@pytest.mark.parametrize("name", DISCRIMINATORS)
def test_discriminator_equals_golden(name: str) -> None:
    golden = Golden(name)
    discriminator = golden_discriminator(golden)
    found: dict[str, Tensor] = {}
    for key in ("b32", "b16", "b8"):
        block = discriminator.get_submodule(key)
        block.register_forward_hook(lambda *call, name=f"block/{key}": found.update({name: call[-1]}))
    discriminator.b4.conv.register_forward_pre_hook(lambda *call: found.update(mbstd=call[-1][0]))
    image = golden.arrays["in/img"].requires_grad_()
    found["logits"] = discriminator(image)
    found["grad_img"] = torch.autograd.grad(found["logits"].sum(), image)[0]
    assert set(found) == set(golden.outputs)
    for key, value in found.items():
        golden.check(key, value.detach())


@pytest.mark.parametrize("name", DISCRIMINATORS)
def test_discriminator_equals_golden_in_double_precision(name: str) -> None:
    golden = Golden(name)
    logits = golden_discriminator(golden).double()(golden.arrays["in/img"].double())
    golden.check("logits", logits.detach())


def test_gradient_penalty_reaches_every_parameter() -> None:
    torch.manual_seed(0)
    config = DiscriminatorConfig(16, c_dim=3, channel_base=128, channel_max=8)
    discriminator = Discriminator(config)
    image = torch.randn(4, 3, 16, 16, requires_grad=True)
    score = discriminator(image, torch.eye(3)[[0, 1, 2, 0]])
    assert score.shape == (4, 1)
    gradient = torch.autograd.grad(score.sum(), image, create_graph=True)[0]
    (gradient.square().sum() + score.sum()).backward()
    for name, parameter in discriminator.named_parameters():
        assert parameter.grad is not None and parameter.grad.abs().sum() > 0, name


def test_discriminator_in_lower_precision_stays_near() -> None:
    golden = Golden("sg2_disc_r32")
    discriminator = golden_discriminator(golden)
    near = discriminator(golden.arrays["in/img"], dtype=torch.bfloat16)
    assert near.dtype == torch.float32
    error = (near - golden.arrays["out/logits"]).abs().max()
    assert 0 < error < 0.02 * golden.arrays["out/logits"].abs().max()


# Files


def test_save_and_load_round_trip(tmp_path: Path) -> None:
    generator = tiny(c_dim=3, architecture="resnet", conv_clamp=2.0).half().float()
    path = tmp_path / "generator.safetensors"
    generator.save(path, {"trained_on": "the world", "steps": 7})
    assert [file.name for file in tmp_path.iterdir()] == [path.name]
    for loaded in (StyleGAN2.load(path), load_generator(str(path))):
        assert loaded.config == generator.config
        assert loaded.card == {"trained_on": "the world", "steps": 7}
        expected = generator.state_dict()
        assert list(loaded.state_dict()) == list(expected)
        for key, value in loaded.state_dict().items():
            assert value.dtype == torch.float32
            assert torch.equal(value, expected[key]), key
    assert path.stat().st_size < 3 * sum(tensor.numel() for tensor in generator.state_dict().values())
    w = random_w(generator, 1)
    torch.testing.assert_close(StyleGAN2.load(path).synthesize(w), generator.synthesize(w))


def test_saved_values_beyond_half_precision_survive(tmp_path: Path) -> None:
    generator = tiny()
    with torch.no_grad():
        generator.synthesis.get_parameter("b4.const")[0, 0, 0] = 1e6
    generator.save(tmp_path / "generator.safetensors")
    loaded = StyleGAN2.load(tmp_path / "generator.safetensors")
    assert torch.equal(loaded.state_dict()["synthesis.b4.const"], generator.state_dict()["synthesis.b4.const"])


def bad_files(folder: Path) -> Iterator[tuple[Path, str]]:
    """Files that load() must refuse, and a part of the reason it must give."""
    good = folder / "good.safetensors"
    tiny().save(good)
    state = load_file(good)
    header = {"format": "stylereel", "kind": "stylegan2"}
    config = json.dumps({"resolution": 32, "z_dim": 12, "w_dim": 16, "channel_base": 256, "channel_max": 12})
    yield folder / "absent.safetensors", "no file"
    yield folder, "a folder"
    (folder / "text.safetensors").write_text("no weights here")
    yield folder / "text.safetensors", "not a safetensors file"
    save_file(state, folder / "plain.safetensors")
    yield folder / "plain.safetensors", "not written by stylereel"
    save_file(state, folder / "kind.safetensors", {**header, "kind": "encoder", "config": "{}"})
    yield folder / "kind.safetensors", "'encoder'"
    save_file(state, folder / "config.safetensors", {**header, "config": '{"size": 32}'})
    yield folder / "config.safetensors", "size"
    save_file(state, folder / "layers.safetensors", {**header, "config": config})
    yield folder / "layers.safetensors", "mapping.fc7.weight is missing"
    changed = {**state, "extra": torch.zeros(1), "synthesis.b4.const": torch.zeros(12, 2, 2)}
    full = json.dumps({**json.loads(config), "mapping_layers": 2})
    save_file(changed, folder / "shape.safetensors", {**header, "config": full})
    yield folder / "shape.safetensors", r"extra is not known.*b4.const is \[12, 2, 2\], not \[12, 4, 4\]"


def test_bad_files_are_refused_with_the_reason(tmp_path: Path) -> None:
    for path, reason in bad_files(tmp_path):
        with pytest.raises(ValueError, match=reason):
            StyleGAN2.load(path)


# Mistakes


def test_mistakes_are_explained() -> None:
    generator = tiny(c_dim=3)
    w = random_w(generator, 1)
    feature = torch.zeros(1, 8, 32, 32)
    with pytest.raises(ValueError, match="power of two"):
        StyleGAN2Config(resolution=100)
    with pytest.raises(ValueError, match="'orig', 'skip' or 'resnet'"):
        StyleGAN2Config(resolution=32, architecture="new")  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="power of two"):
        DiscriminatorConfig(resolution=4)
    with pytest.raises(ValueError, match="conditional"):
        generator.map(torch.randn(1, 12))
    with pytest.raises(ValueError, match=r"\[B, 8, 16\]"):
        generator.synthesize(w[:, :5])
    with pytest.raises(ValueError, match="either w or s"):
        generator.synthesize()
    with pytest.raises(ValueError, match="either w or s"):
        generator.synthesize(w, s=generator.styles(w))
    with pytest.raises(ValueError, match="11 style vectors"):
        generator.synthesize(s=generator.styles(w)[:4])
    with pytest.raises(ValueError, match="no layer 'b64.conv0'"):
        generator.synthesize(w, stop="b64.conv0")
    with pytest.raises(ValueError, match="no layer 11"):
        generator.synthesize(w, taps={11: lambda x: x})
    with pytest.raises(ValueError, match="the output of b16.torgb"):
        generator.synthesize(w, start=("b32.conv1", feature))
    with pytest.raises(ValueError, match=r"a feature \[B, 12, 16, 16\]"):
        generator.synthesize(w, start=("b16.conv1", feature, None))
    with pytest.raises(ValueError, match="the image so far at 16 px"):
        generator.synthesize(w, start=("b32.conv1", feature, torch.zeros(1, 3, 32, 32)))
    with pytest.raises(ValueError, match="rgb layer"):
        generator.synthesize(w, start=("b32.torgb", feature, None))
    with pytest.raises(ValueError, match="'const', 'none', 'random'"):
        generator.synthesize(w, noise="zero")  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="one square noise tensor per conv layer"):
        generator.synthesize(w, noise=[torch.zeros(4, 4)])
    discriminator = Discriminator(DiscriminatorConfig(16, c_dim=3, channel_base=128, channel_max=8))
    with pytest.raises(ValueError, match="multiple"):
        discriminator(torch.zeros(6, 3, 16, 16), torch.zeros(6, 3))
    with pytest.raises(ValueError, match="conditional"):
        discriminator(torch.zeros(4, 3, 16, 16))
