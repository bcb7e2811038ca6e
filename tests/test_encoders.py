"""The published encoders, HFGI and ArcFace against numbers of the originals, and files in the published layouts.

The goldens' weights are drawn from seeds by the rule in their manifests.
"""

import argparse
import hashlib
import json
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from safetensors.torch import load_file
from torch import Tensor, nn

from stylereel.commands.weights import weights_info
from stylereel.encoders.arcface import ArcFace
from stylereel.encoders.hfgi import HFGI, Correction, HFGIConfig
from stylereel.encoders.pyramid import StyleEncoder, StyleEncoderConfig, invert, restyle
from stylereel.generator import StyleGAN2, StyleGAN2Config
from stylereel.zoo import names
from stylereel.zoo.encoders import convert, load_arcface_file, load_encoder_file, load_hfgi_file
from stylereel.zoo.formats import load_generator_file

GOLDENS = Path(__file__).parent / "goldens"

State = dict[str, Tensor]
Network = TypeVar("Network", bound=nn.Module)


class Golden:
    """A manifest, its arrays, and the comparison with them."""

    def __init__(self, name: str) -> None:
        self.manifest = json.loads((GOLDENS / f"{name}.json").read_text())
        self.arrays = load_file(GOLDENS / f"{name}.safetensors")

    def drawn(self, key: str, shape: list[int], kind: str, mean: float, std: float) -> Tensor:
        seed = int.from_bytes(hashlib.sha256(f"{self.manifest['hash_salt']}|{key}".encode()).digest()[:4], "little")
        source, values = np.random.RandomState(seed), np.empty(int(np.prod(shape)), np.float32)
        for part in np.array_split(values, len(values) // 2**15 + 1):  # parts that fit a cache are twice as fast
            normal = mean + std * source.standard_normal(len(part))
            part[:] = np.exp(normal) if kind == "lognormal" else normal
        return torch.from_numpy(values).reshape(shape)

    def state(self, prefix: str = "") -> State:
        rules = self.manifest["hashed_state"].items()
        return {key.removeprefix(prefix): self.drawn(key, *rule) for key, rule in rules if key.startswith(prefix)}

    def input(self, name: str) -> Tensor:
        rule = self.manifest["hashed_inputs"][name]
        limit = rule.get("clamp_to_plus_minus", np.inf)
        return self.drawn(*(rule[part] for part in ("key", "shape", "kind", "mean", "std"))).clamp(-limit, limit)

    def check(self, name: str, found: Tensor) -> None:
        atol = self.manifest["outputs"][name]["advised_atol_fp32"]
        expected = self.arrays[f"out/{name}"][: len(found)]
        torch.testing.assert_close(found, expected, atol=atol, rtol=1e-5, msg=lambda text: f"{name}: {text}")


def empty(build: Callable[[], Network]) -> Network:
    """A network without memory for its tensors."""
    with torch.device("meta"):
        return build()


def filled(network: Any, state: State) -> Any:
    """An empty network with the tensors of a state dict, and zeros for the counters that goldens lack."""
    counters = {key: torch.zeros(()) for key in network.state_dict() if key.endswith("num_batches_tracked")}
    network.load_state_dict(counters | state, assign=True)
    return network.eval().requires_grad_(False)


def golden_encoder(golden: Golden, prefix: str = "", **settings: Any) -> StyleEncoder:
    encoder = empty(lambda: StyleEncoder(StyleEncoderConfig(**settings)))
    zeros = torch.zeros(encoder.average.shape)
    average = golden.input("latent_avg") if "latent_avg" in golden.manifest["hashed_inputs"] else zeros
    return filled(encoder, {**golden.state(prefix), "average": average})


def golden_decoder(golden: Golden, resolution: int, prefix: str = "decoder.", **settings: Any) -> StyleGAN2:
    state = names.generator_from_rosinality(golden.state(prefix))
    generator = empty(lambda: StyleGAN2(StyleGAN2Config(resolution, **settings)))
    return filled(generator, {**state, "mapping.w_avg": torch.zeros(512)})


# Against the goldens


@pytest.mark.parametrize(
    ("name", "settings"),
    [
        ("enc_psp", {}),
        ("enc_psp_backbone_w", {"heads": "w"}),
        ("enc_psp_backbone_wplus", {"heads": "w_plus", "squeeze": False}),
    ],
)
def test_psp_equals_golden(name: str, settings: dict[str, Any]) -> None:
    golden = Golden(name)
    codes = golden_encoder(golden, rows=8, **settings)(golden.input("x"))
    assert codes.shape == (2, 8, 512)
    if settings.get("heads") == "w":  # the original gives one w for all rows
        assert (codes == codes[:, :1]).all()
        codes = codes[:, 0]
    golden.check("w", codes)


def test_e4e_equals_golden_in_every_block_and_stage() -> None:
    golden = Golden("enc_e4e")
    encoder = golden_encoder(golden, rows=8, offsets=True)

    def check_block(i: int, _: nn.Module, __: Any, block: Tensor) -> None:
        step = max(block.shape[-1] // 8, 1)
        golden.check(f"body{i:02d}", block[:, ::4, ::step, ::step])
        checked.append(i)

    checked: list[int] = []
    for i in (0, 2, 6, 20, 23):
        encoder.body[i].register_forward_hook(partial(check_block, i))
    features = encoder.features(golden.input("x"))
    assert checked == [0, 2, 6, 20, 23]

    encoder.features = lambda images: features  # once is enough
    golden.check("w", encoder(golden.input("x")))
    for stage, deltas in (("WTraining", 0), ("Delta1Training", 1), ("Delta4Training", 4)):
        golden.check(f"w_stage_{stage}", encoder(golden.input("x"), deltas=deltas))


def test_e4e_with_its_generator_equals_golden() -> None:
    golden = Golden("e4e_end_to_end")
    codes = golden_encoder(golden, "encoder.", rows=8, offsets=True)(golden.input("x"))
    golden.check("codes", codes)
    image = golden_decoder(golden, 32).synthesize(codes)
    golden.check("image", image)
    golden.check("image_pooled", F.adaptive_avg_pool2d(image, 256)[:, :, ::8, ::8])


@pytest.mark.parametrize(("name", "offsets"), [("restyle_psp_loop", False), ("restyle_e4e_loop", True)])
def test_restyle_equals_golden_after_every_step(name: str, offsets: bool) -> None:
    golden = Golden(name)
    encoder = golden_encoder(golden, "encoder.", rows=6, heads="last", channels=6, offsets=offsets)
    generator = golden_decoder(golden, 16)
    average = F.adaptive_avg_pool2d(generator.synthesize(encoder.average[None]), 256)
    golden.check("avg_image", average[0, :, ::8, ::8])
    images = golden.input("x")[:1]
    for k, codes in enumerate(restyle(encoder, generator, images, steps=3)):
        golden.check(f"latent_{k}", codes)
        golden.check(f"image_{k}", generator.synthesize(codes))


def test_hfgi_equals_golden() -> None:
    golden = Golden("hfgi_aligner_encoder")
    hfgi = filled(empty(lambda: HFGI(HFGIConfig())), golden.state())
    aligned = hfgi.aligner(golden.input("x"))
    correction = hfgi.encoder(aligned)
    golden.check("aligned", aligned[:, :, ::4, ::4])
    golden.check("scale", correction.scale[:, ::8, ::4, ::4])
    golden.check("shift", correction.shift[:, ::8, ::4, ::4])


def test_hfgi_with_its_generator_equals_golden() -> None:
    """The inversion of StyleHEAT, whose generator has no noise."""
    golden = Golden("styleheat_end_to_end")
    parts = {"aligner": golden.state("generator.hfgi_aligner."), "encoder": golden.state("generator.hfgi_encoder.")}
    state = {f"{name}.{key}": value for name, part in parts.items() for key, value in part.items()}
    hfgi = filled(empty(lambda: HFGI(HFGIConfig())), state)
    generator = golden_decoder(golden, 64, "generator.stylegan.", mapping_layers=2)
    codes = golden.arrays["out/w_plus"]
    correction = hfgi(golden.input("image"), generator.synthesize(codes, noise="none"))
    golden.check("inversion_scale", correction.scale[:, ::16, ::4, ::4])
    golden.check("inversion_shift", correction.shift[:, ::16, ::4, ::4])
    features = correction.apply(generator.synthesize(codes, noise="none", stop="b64.conv0"))
    golden.check("fx", features[:, ::16, ::4, ::4])
    image = generator.synthesize(codes, noise="none", taps=correction.taps).clamp(-1, 1)
    image = F.interpolate(image, (256, 256), mode="bilinear", align_corners=False)
    golden.check("inverse_image", image[:, :, ::4, ::4])


def test_arcface_equals_golden() -> None:
    golden = Golden("arcface_irse50")
    arcface = filled(empty(ArcFace), golden.state())
    golden.check("emb", arcface(golden.input("x112")))
    embeddings = arcface.embed(golden.input("x256"))
    golden.check("emb_crop", embeddings)
    golden.check("cosine_crop", embeddings @ embeddings.T)


# Published sizes


@pytest.mark.parametrize(
    ("name", "build"),
    [
        ("psp_encoder_1024", lambda: StyleEncoder(StyleEncoderConfig())),
        ("e4e_encoder_1024", lambda: StyleEncoder(StyleEncoderConfig(offsets=True))),
        ("restyle_psp_encoder_1024", lambda: StyleEncoder(StyleEncoderConfig(heads="last", channels=6))),
        ("restyle_e4e_encoder_1024", lambda: StyleEncoder(StyleEncoderConfig(heads="last", channels=6, offsets=True))),
        ("arcface_irse50", ArcFace),
    ],
)
def test_names_and_shapes_are_those_of_the_published_files(name: str, build: Callable[[], nn.Module]) -> None:
    published = json.loads((GOLDENS / "keys" / f"{name}.json").read_text())["keys"]
    found = {key: list(value.shape) for key, value in empty(build).state_dict().items() if key != "average"}
    assert found == published


def test_numbers_of_parameters_are_the_published_ones() -> None:
    def parameters(network: nn.Module) -> int:
        return sum(parameter.numel() for parameter in network.parameters())

    hfgi = empty(lambda: HFGI(HFGIConfig()))
    assert parameters(empty(lambda: StyleEncoder(StyleEncoderConfig(offsets=True)))) == 267_136_704
    assert parameters(hfgi.aligner) == 596_801
    assert parameters(hfgi.encoder) == 5_647_344


# Behaviour, on small networks


def small_encoder(**settings: Any) -> StyleEncoder:
    torch.manual_seed(0)
    encoder = StyleEncoder(StyleEncoderConfig(**{"rows": 8, "w_dim": 32, "width": 16, **settings}))
    torch.nn.init.normal_(encoder.average)
    for module in encoder.modules():
        if isinstance(module, nn.BatchNorm2d):
            assert module.running_var is not None
            torch.nn.init.uniform_(module.running_var, 0.5, 2.0)
    return encoder.eval()


def small_generator(resolution: int = 32) -> StyleGAN2:
    torch.manual_seed(1)
    config = StyleGAN2Config(resolution, z_dim=8, w_dim=32, channel_base=512, channel_max=12, mapping_layers=2)
    return StyleGAN2(config).eval().requires_grad_(False)


def random_images(batch: int = 2, size: int = 256, channels: int = 3) -> Tensor:
    return torch.rand(batch, channels, size, size, generator=torch.Generator().manual_seed(2)) * 2 - 1


def test_a_stage_of_e4e_trains_only_the_heads_in_use() -> None:
    encoder = small_encoder(offsets=True).train()
    codes = encoder(random_images(size=64), deltas=3)
    rows = codes - encoder.average
    torch.testing.assert_close(rows[:, 4:], rows[:, :1].expand(-1, 4, -1))
    assert (rows[:, 3] - rows[:, 0]).abs().max() > 1e-3
    codes.square().sum().backward()
    trained = {key for key, parameter in encoder.named_parameters() if parameter.grad is not None}
    assert [f"styles.{row}.linear.weight" in trained for row in range(8)] == [True] * 4 + [False] * 4
    assert "input_layer.0.weight" in trained


def test_wrong_input_is_refused_with_advice() -> None:
    encoder = small_encoder()
    with pytest.raises(ValueError, match=r"images \[B, 3, H, W\]"):
        encoder(random_images(channels=6))
    with pytest.raises(ValueError, match="leave deltas out"):
        encoder(random_images(), deltas=1)
    corrects = small_encoder(heads="last", channels=6)
    with pytest.raises(ValueError, match="give the generator too"):
        invert(corrects, random_images())
    with pytest.raises(ValueError, match="at least one step"):
        invert(corrects, random_images(), small_generator(), steps=0)


def test_invert_resamples_portraits_and_takes_the_last_step_of_restyle() -> None:
    encoder, generator = small_encoder(heads="last", channels=6), small_generator()
    images = random_images(batch=1)
    steps = list(restyle(encoder, generator, images, 2))
    codes, correction = invert(encoder, images, generator, steps=2)
    assert correction is None
    torch.testing.assert_close(codes, steps[-1].detach())
    assert (steps[0] - steps[1]).abs().max() > 1e-4
    large = F.interpolate(images, scale_factor=2, mode="nearest")
    plain = small_encoder()
    torch.testing.assert_close(invert(plain, large).codes, plain(images).detach(), atol=0.2, rtol=0.1)


def test_hfgi_corrects_the_first_map_of_64_pixels() -> None:
    generator, encoder = small_generator(64), small_encoder(rows=10)
    hfgi = HFGI(HFGIConfig(channels=8)).eval()
    images = random_images()
    codes, correction = invert(encoder, images, generator, hfgi)
    assert correction is not None and correction.scale.shape == (2, 8, 64, 64)
    before = generator.synthesize(codes, stop="b64.conv0")
    colours = generator.synthesize(codes, stop="b32.torgb")
    corrected = before * (1 + correction.scale) + correction.shift
    expected = generator.synthesize(codes, start=("b64.conv0", corrected, colours))
    torch.testing.assert_close(generator.synthesize(codes, taps=correction.taps), expected)
    assert (expected - generator.synthesize(codes)).abs().max() > 1e-3
    nothing = Correction(torch.zeros_like(correction.scale), torch.zeros_like(correction.shift))
    torch.testing.assert_close(generator.synthesize(codes, taps=nothing.taps), generator.synthesize(codes))


def test_hfgi_sees_pictures_within_range_and_the_edited_ones_if_given() -> None:
    hfgi = HFGI(HFGIConfig(channels=8)).eval().requires_grad_(False)
    images, renders = random_images(), random_images(size=64) * 3
    plain = hfgi(images, renders)
    torch.testing.assert_close(hfgi(images, renders.clamp(-1, 1)), plain)
    torch.testing.assert_close(hfgi(images, renders, renders), plain)
    assert (hfgi(images, renders, -renders).shift - plain.shift).abs().max() > 1e-4


# Files


def save_checkpoint(path: Path, encoder: StyleEncoder, options: Any, **more: State) -> Path:
    """A file in the layout of the pSp family: the nets in one state dict, average and options beside it."""
    generator = small_generator()
    nets = {"encoder": encoder.state_dict(), "decoder": names.generator_to_rosinality(generator.state_dict()), **more}
    state = {f"{net}.{key}": value for net, tensors in nets.items() for key, value in tensors.items()}
    average = state.pop("encoder.average")
    torch.save({"state_dict": state, "latent_avg": average, "opts": options}, path)
    return path


def equal(first: nn.Module, second: nn.Module, tolerance: float = 0.0) -> None:
    expected = second.state_dict()
    assert first.state_dict().keys() == expected.keys()
    for key, value in first.state_dict().items():
        torch.testing.assert_close(value, expected[key], atol=tolerance, rtol=tolerance)


@pytest.mark.parametrize(
    ("encoder_type", "settings"),
    [
        ("GradualStyleEncoder", {}),
        ("Encoder4Editing", {"offsets": True}),
        ("BackboneEncoder", {"heads": "last", "channels": 6}),
        ("ProgressiveBackboneEncoder", {"heads": "last", "channels": 6, "offsets": True}),
        ("BackboneEncoderUsingLastLayerIntoW", {"heads": "w"}),
        ("BackboneEncoderUsingLastLayerIntoWPlus", {"heads": "w_plus", "squeeze": False}),
    ],
)
def test_an_encoder_of_every_type_is_loaded_and_converted(
    tmp_path: Path, encoder_type: str, settings: dict[str, Any]
) -> None:
    encoder = small_encoder(**settings)
    options = {"encoder_type": encoder_type, "exp_dir": Path("here"), "start_from_latent_avg": True}
    path = save_checkpoint(tmp_path / "encoder.pt", encoder, options)
    found = load_encoder_file(path)
    assert found.config == encoder.config and not found.training
    equal(found, encoder)
    equal(load_generator_file(path).synthesis, small_generator().synthesis)

    convert(path, tmp_path / "own.safetensors", "style_encoder")
    own = load_encoder_file(tmp_path / "own.safetensors")
    assert own.config == encoder.config
    equal(own, encoder, 1e-3)


def test_options_of_a_namespace_and_an_average_that_is_not_used(tmp_path: Path) -> None:
    options = argparse.Namespace(encoder_type="Encoder4Editing", start_from_latent_avg=False)
    found = load_encoder_file(save_checkpoint(tmp_path / "e4e.pt", small_encoder(), options))
    assert found.config.offsets and not found.average.any()


def test_hfgi_is_loaded_from_its_own_file_and_from_those_of_styleheat(tmp_path: Path) -> None:
    torch.manual_seed(3)
    hfgi, encoder = HFGI(HFGIConfig(channels=8)), small_encoder()
    aligner, residual = hfgi.aligner.state_dict(), hfgi.encoder.state_dict()
    path = save_checkpoint(
        tmp_path / "hfgi.pt", encoder, {"encoder_type": "Encoder4Editing"}, residue=residual, grid_align=aligner
    )
    equal(load_hfgi_file(path), hfgi)
    equal(load_encoder_file(path), encoder)
    convert(path, tmp_path / "own.safetensors", "hfgi")
    equal(load_hfgi_file(tmp_path / "own.safetensors"), hfgi, 1e-3)

    torch.save({"aligner": aligner, "encoder": residual}, tmp_path / "split.pth")
    equal(load_hfgi_file(tmp_path / "split.pth"), hfgi)

    state = encoder.state_dict()
    average = state.pop("average")
    torch.save({"encoder": state, "latent_avg": average}, tmp_path / "e4e.pth")
    found = load_encoder_file(tmp_path / "e4e.pth")
    assert found.config.offsets and not found.config.align_corners
    equal(found, encoder)

    nets = {"hfgi_aligner": aligner, "hfgi_encoder": residual, "e4e_encoder.encoder": state}
    whole = {f"generator.{net}.{key}": value for net, tensors in nets.items() for key, value in tensors.items()}
    torch.save({"net_G_ema": whole}, tmp_path / "StyleHEAT_visual.pt")
    equal(load_hfgi_file(tmp_path / "StyleHEAT_visual.pt"), hfgi)
    with pytest.warns(UserWarning, match="no latent_avg"):
        found = load_encoder_file(tmp_path / "StyleHEAT_visual.pt")
    assert found.config.offsets and not found.config.align_corners and not found.average.any()


def save_arcface(path: Path) -> dict[str, Tensor]:
    """A random ArcFace in the layout of the official file; windows of one store of numbers keep it small."""
    shapes = {key: value.shape for key, value in empty(ArcFace).state_dict().items()}
    store = (0.03 * torch.randn(512 * 25088 + len(shapes), generator=torch.Generator().manual_seed(0))).half()
    state = {key: store[i : i + shape.numel()].view(shape) for i, (key, shape) in enumerate(shapes.items())}
    state |= {key: value.abs() + 1 for key, value in state.items() if value.ndim == 1 and "bias" not in key}
    state |= {key: torch.tensor(7) for key in state if key.endswith("num_batches_tracked")}
    torch.save(state, path)
    return state


def test_weights_info_tells_the_encoder_and_the_generator_in_a_file(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = save_checkpoint(tmp_path / "e4e.pt", small_encoder(offsets=True), {"encoder_type": "Encoder4Editing"})
    weights_info(str(path))
    encoder, decoder = capsys.readouterr().out.splitlines()
    assert encoder == "encoder Encoder4Editing; images of 3 channels; 8 rows of W+ of 32; with latent_avg"
    assert decoder.startswith("StyleGAN2 of 32 px; e4e decoder")
    restyle = small_encoder(heads="last", channels=6)
    hfgi = HFGI(HFGIConfig(channels=8))
    parts = {"residue": hfgi.encoder.state_dict(), "grid_align": hfgi.aligner.state_dict()}
    weights_info(str(save_checkpoint(path, restyle, {"encoder_type": "BackboneEncoder"}, **parts)))
    line = capsys.readouterr().out.splitlines()[0]
    assert line == "encoder BackboneEncoder; images of 6 channels; 8 rows of W+ of 32; with latent_avg; HFGI"
    save_arcface(tmp_path / "model_ir_se50.pth")
    weights_info(str(tmp_path / "model_ir_se50.pth"))
    assert capsys.readouterr().out == "ArcFace IR-SE50\n"
    with pytest.raises(ValueError, match="no file"):
        weights_info(str(tmp_path / "none.pt"))


def test_arcface_is_loaded_and_converted(tmp_path: Path) -> None:
    state = save_arcface(tmp_path / "model_ir_se50.pth")
    found = load_arcface_file(tmp_path / "model_ir_se50.pth").state_dict()
    assert found.keys() == state.keys()
    assert all(torch.equal(found[key], value.to(found[key].dtype)) for key, value in state.items())
    convert(tmp_path / "model_ir_se50.pth", tmp_path / "own.safetensors", "arcface")
    own = load_arcface_file(tmp_path / "own.safetensors").state_dict()
    assert all(torch.equal(own[key], value.to(own[key].dtype)) for key, value in state.items())


def test_tensors_that_do_not_fit_are_listed_by_name(tmp_path: Path) -> None:
    options = {"encoder_type": "GradualStyleEncoder"}
    encoder = small_encoder()
    path = save_checkpoint(tmp_path / "encoder.pt", encoder, options)
    content = torch.load(path)
    del content["state_dict"]["encoder.latlayer2.bias"]
    content["state_dict"]["encoder.styles.7.linear.bias"] = torch.zeros(5)
    torch.save(content, path)
    with pytest.raises(ValueError, match=r"latlayer2\.bias is missing; styles\.7\.linear\.bias is \[5\], not \[32\]"):
        load_encoder_file(path)

    content = torch.load(save_checkpoint(path, encoder, options))
    content["state_dict"]["encoder.styles.0.extra"] = torch.zeros(5)
    content["state_dict"].pop("encoder.input_layer.1.num_batches_tracked")  # older files have none
    torch.save(content, path)
    with pytest.warns(UserWarning, match=r"not used: styles\.0\.extra"):
        load_encoder_file(path)


def test_files_of_something_else_are_refused(tmp_path: Path) -> None:
    generator = small_generator()
    torch.save({"g_ema": names.generator_to_rosinality(generator.state_dict())}, tmp_path / "generator.pt")
    for load, what in ((load_encoder_file, "encoder"), (load_hfgi_file, "HFGI"), (load_arcface_file, "ArcFace")):
        with pytest.raises(ValueError, match=f"holds no {what}"):
            load(tmp_path / "generator.pt")
    generator.save(tmp_path / "generator.safetensors")
    with pytest.raises(ValueError, match="give a file of kind 'style_encoder'"):
        load_encoder_file(tmp_path / "generator.safetensors")
    path = save_checkpoint(tmp_path / "encoder.pt", small_encoder(), {"encoder_type": "Mystery"})
    with pytest.raises(ValueError, match="of type Mystery; give encoder_type as one of"):
        load_encoder_file(path)
    assert load_encoder_file(path, "Encoder4Editing").config.offsets
