"""Generators and discriminators from the files of every known tool, built here in miniature from golden tensors.

Classes that the files name exist only while a file is written, and would leave a sentinel if they ever ran.
"""

import json
import pickle
import sys
import types
import warnings
from collections import OrderedDict
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from stylereel.commands.weights import weights_convert, weights_info
from stylereel.core.weights import save_module
from stylereel.generator import (
    Discriminator,
    DiscriminatorConfig,
    StyleGAN2,
    StyleGAN2Config,
    StyleGAN3,
    StyleGAN3Config,
    load_generator,
)
from stylereel.zoo import names
from stylereel.zoo.configs import stylegan3_config
from stylereel.zoo.formats import WeightsInfo, inspect, load_discriminator_file, load_generator_file

GOLDENS = Path(__file__).parent / "goldens"
STYLEGAN3 = ["sg3t_gen_r32", "sg3r_gen_r32", "sg3t_gen_r64", "sg3r_gen_r64"]


class Golden:
    """Arrays and manifest of a golden, and the states in it."""

    def __init__(self, name: str) -> None:
        self.manifest = json.loads((GOLDENS / f"{name}.json").read_text())
        self.config: dict[str, Any] = self.manifest["config"]
        self.arrays = load_file(GOLDENS / f"{name}.safetensors")

    def state(self, prefix: str = "state/") -> dict[str, Tensor]:
        return {k.removeprefix(prefix): v for k, v in self.arrays.items() if k.startswith(prefix)}

    def check(self, name: str, found: Tensor) -> None:
        atol = self.manifest["outputs"][name]["advised_atol_fp32"]
        torch.testing.assert_close(found.detach(), self.arrays[f"out/{name}"], atol=atol, rtol=1e-5)


@pytest.fixture
def both() -> Golden:
    """A generator under the names of both families."""
    return Golden("sg2_two_families_r32")


@pytest.fixture
def sentinel(tmp_path: Path) -> Iterator[Path]:
    """A file that code from a weight file would leave; it must not be there in the end."""
    path = tmp_path / "sentinel"
    yield path
    assert not path.exists()


def check_generator(both: Golden, generator: StyleGAN2 | StyleGAN3) -> None:
    """The pictures of the golden, from W+ with the stored noise and from z with truncation."""
    both.check("ada/img_wplus_const", generator.synthesize(both.arrays["in/w_plus"]))
    both.check("ada/img_z_trunc", generator(both.arrays["in/z"], psi=0.7))


# --- the official formats


@contextmanager
def modules(**classes: Any) -> Iterator[None]:
    """Make importable while pickling: {"package.module": {name: class}} under names with _ for the dots."""
    made = []
    for place, contents in classes.items():
        parts = place.split("__")
        for i in range(len(parts)):
            name = ".".join(parts[: i + 1])
            if name not in sys.modules:
                sys.modules[name] = types.ModuleType(name)
                made.append(name)
        for name, value in contents.items():
            value.__module__, value.__qualname__ = ".".join(parts), name
            setattr(sys.modules[".".join(parts)], name, value)
    try:
        yield
    finally:
        for name in made:
            del sys.modules[name]


class EasyDict(dict):
    """NVIDIA's dict with attributes."""


def _reconstruct_persistent_obj(meta: Any) -> None:
    raise AssertionError("a function named by a file was called")


class Persistent:
    """A module that pickles as NVIDIA's persistent classes do: state and source text in one argument."""

    def __init__(self, source: str, class_name: str, attributes: dict[str, Any]) -> None:
        self.source, self.class_name, self.attributes = source, class_name, attributes

    def __reduce__(self) -> tuple[Any, ...]:
        meta = {"type": "class", "version": 6, "module_src": self.source, "class_name": self.class_name}
        return _reconstruct_persistent_obj, (EasyDict({**meta, "state": self.attributes}),), None


def tree(state: dict[str, Tensor], build: Callable[[str, dict[str, Any]], Any], path: str = "") -> Any:
    """Nested modules with _parameters, _buffers and _modules, made of a flat state dict."""
    buffers = ("noise_const", "w_avg", "filter", "magnitude_ema", "transform", "freqs", "phases")
    node: dict[str, Any] = {"training": False, "_parameters": OrderedDict(), "_buffers": OrderedDict()}
    node["_modules"] = OrderedDict()
    children: dict[str, dict[str, Tensor]] = {}
    for key, value in state.items():
        head, _, rest = key.partition(".")
        if rest:
            children.setdefault(head, {})[rest] = value
        elif key.endswith(buffers):
            node["_buffers"][key] = value
        else:
            node["_parameters"][key] = nn.Parameter(value)
    for name, child in children.items():
        node["_modules"][name] = tree(child, build, f"{path}{name}.")
    return build(path.rstrip("."), node)


def nvidia_pickle(
    path: Path, sentinel: Path, networks: dict[str, dict[str, Tensor]], attributes: dict[str, dict[str, Any]]
) -> None:
    """A snapshot: networks with attributes by path of module, and the other things that snapshots hold."""
    source = f"open({str(sentinel)!r}, 'w').write('ran')"

    def build(place: str, node: dict[str, Any]) -> Persistent:
        for path in attributes:  # modules without tensors
            above, _, name = path.rpartition(".")
            if path and above == place and name not in node["_modules"]:
                node["_modules"][name] = Persistent(source, "Layer", attributes[path])
        return Persistent(source, "Generator", {**node, **attributes.get(place, {})})

    content: dict[str, Any] = {name: tree(state, build) for name, state in networks.items()}
    content |= {"training_set_kwargs": EasyDict(class_name="training.dataset"), "augment_pipe": None}
    places = {
        "torch_utils__persistence": {"_reconstruct_persistent_obj": _reconstruct_persistent_obj},
        "dnnlib__util": {"EasyDict": EasyDict},
    }
    with modules(**places), path.open("wb") as file:
        pickle.dump(content, file)


def nvidia_attributes(config: dict[str, Any]) -> dict[str, dict[str, Any]]:
    """What modules of the ada family carry: init arguments, clamp, gain of the mapping's biases."""
    kwargs = {key: config[key] for key in ("z_dim", "c_dim", "w_dim", "img_resolution", "img_channels")}
    kwargs |= {key: EasyDict(config[key]) for key in ("mapping_kwargs", "synthesis_kwargs")}
    clamp = config["synthesis_kwargs"].get("conv_clamp")
    return {
        "": {"_init_args": (), "_init_kwargs": EasyDict(kwargs)},
        "mapping.fc0": {"bias_gain": 0.01, "weight_gain": np.float64(0.001), "activation": "lrelu"},
        "synthesis.b4.conv1": {"conv_clamp": clamp, "activation": "lrelu"},
    }


class Network:
    """dnnlib.tflib.network.Network: what it pickles as."""

    def __init__(self, state: dict[str, Any]) -> None:
        self.state = state

    def __getstate__(self) -> dict[str, Any]:
        return self.state


def tensorflow_generator(state: dict[str, Tensor], source: str) -> Network:
    """TensorFlow's names and axes for a generator with NVIDIA's PyTorch names (seeds 1.3)."""
    parts: dict[str, dict[str, Any]] = {"": {"lod": np.float32(0)}, "mapping": {}, "synthesis": {}}
    layers = {"conv0": "Conv0_up", "conv1": "Conv1", "torgb": "ToRGB", "skip": "Skip"}
    for key, tensor in state.items():
        value, (network, *place) = tensor.numpy(), key.split(".")
        if key == "mapping.w_avg":
            parts[""]["dlatent_avg"] = value
        elif network == "mapping":
            name = place[0].replace("fc", "Dense")
            parts["mapping"][f"{name}/{place[1]}"] = value.T
        elif key == "synthesis.b4.const":
            parts["synthesis"]["4x4/Const/const"] = value[None]
        elif place[-1] == "noise_const":
            k = int(place[0][1:]).bit_length() - 3
            index = 2 * k - (place[1] == "conv0")
            parts["synthesis"][f"noise{index}"] = value[None, None]
        elif place[-1] != "resample_filter":
            size = place[0][1:]
            layer = "Conv" if place[:2] == ["b4", "conv1"] else layers[place[1]]
            name, value = {
                "weight": lambda v: ("weight", v.transpose(2, 3, 1, 0)),
                "bias": lambda v: ("bias", v),
                "noise_strength": lambda v: ("noise_strength", v),
                "affine.weight": lambda v: ("mod_weight", v.T),
                "affine.bias": lambda v: ("mod_bias", v - 1),
            }[".".join(place[2:])](value)
            if layer in ("Conv0_up", "Skip") and name == "weight":
                value = np.ascontiguousarray(value[::-1, ::-1])
            parts["synthesis"][f"{size}x{size}/{layer}/{name}"] = value

    def network_of(part: str, **components: Network) -> Network:
        kwargs = EasyDict(resolution=32, mapping_lrmul=0.01)
        return Network(
            {
                "version": 4,
                "name": part or "G",
                "static_kwargs": kwargs,
                "components": EasyDict(components),
                "build_module_src": source,
                "build_func_name": "G_main",
                "variables": list(parts[part].items()),
            }
        )

    return network_of("", mapping=network_of("mapping"), synthesis=network_of("synthesis"))


def tensorflow_discriminator(state: dict[str, Tensor], source: str) -> Network:
    layers = {"fromrgb": "FromRGB", "conv0": "Conv0", "conv1": "Conv1_down", "skip": "Skip"}
    ends = {"conv": "4x4/Conv", "fc": "4x4/Dense0", "out": "Output"}
    variables: dict[str, Any] = {"lod": np.float32(0)}
    for key, tensor in state.items():
        if not key.endswith("resample_filter"):
            block, layer, part = key.split(".")
            place = ends[layer] if block == "b4" else f"{block[1:]}x{block[1:]}/{layers[layer]}"
            value = tensor.numpy()
            variables[f"{place}/{part}"] = value.transpose(2, 3, 1, 0) if value.ndim == 4 else value.T
    content = {"version": 4, "static_kwargs": {}, "components": {}, "build_module_src": source}
    return Network({**content, "variables": list(variables.items())})


def rosinality(both: Golden, with_mean: bool = True) -> dict[str, Any]:
    checkpoint: dict[str, Any] = {"g_ema": OrderedDict(both.state("state/ros/"))}
    return checkpoint | ({"latent_avg": both.state("state/ros_checkpoint/")["latent_avg"]} if with_mean else {})


# --- NVIDIA's pickles


@pytest.mark.parametrize("name", ["sg2_gen_r32", "sg2_gen_r32_cond_clamp", "sg2_gen_r16_resnet"])
def test_nvidia_pickle(name: str, tmp_path: Path, sentinel: Path) -> None:
    golden = Golden(name)
    state = golden.state()
    other = {k: v if k.endswith("filter") else torch.zeros_like(v) for k, v in state.items()}
    path = tmp_path / "picture.jpg"  # names say nothing
    nvidia_pickle(path, sentinel, {"G": other, "D": {}, "G_ema": state}, nvidia_attributes(golden.config))
    generator = load_generator_file(path)
    assert isinstance(generator, StyleGAN2)
    config = golden.config
    assert generator.config.conv_clamp == config["synthesis_kwargs"].get("conv_clamp")
    assert generator.config.architecture == config["synthesis_kwargs"].get("architecture", "skip")
    assert generator.config.c_dim == config["c_dim"] and generator.config.z_dim == config["z_dim"]
    golden.check("img_const", generator.synthesize(golden.arrays["in/w_plus"]))
    c = golden.arrays.get("in/c")
    golden.check("img_from_z_psi", generator(golden.arrays["in/z"], c, psi=config["truncation_psi"]))
    assert not load_generator_file(path, "G").synthesize(golden.arrays["in/w_plus"]).any()
    info = inspect(path)
    assert (info.family, info.network, info.networks) == ("NVIDIA pickle", "G_ema", ("G_ema", "G", "D"))
    assert info.resolution == config["img_resolution"] and info.has_w_avg and info.has_noise


@pytest.mark.parametrize("name", STYLEGAN3)
def test_nvidia_pickle_of_stylegan3(name: str, tmp_path: Path, sentinel: Path) -> None:
    golden = Golden(name)
    config = golden.config
    own = ("num_ws", "truncation_psi", "truncation_cutoff", "layers", "notes", "note")
    kwargs = EasyDict({key: value for key, value in config.items() if key not in own})
    attributes = {"": {"_init_kwargs": kwargs}, "mapping.fc0": {"bias_gain": 0.01}}
    nvidia_pickle(tmp_path / "g.pkl", sentinel, {"G_ema": golden.state()}, attributes)
    check_stylegan3(golden, tmp_path / "g.pkl", "NVIDIA pickle")


@pytest.mark.parametrize("name", STYLEGAN3)
@pytest.mark.parametrize("batched", [False, True])
def test_state_dict_of_stylegan3(name: str, batched: bool, tmp_path: Path) -> None:
    golden = Golden(name)
    state = golden.state()
    if batched:
        state["synthesis.input.transform"] = torch.randn(4, 3, 3)
        state = {key: value for key, value in state.items() if not key.endswith("filter")}
    torch.save(state, tmp_path / "g.pt")
    check_stylegan3(golden, tmp_path / "g.pt", "state dict")


def test_other_filters_of_stylegan3_are_refused(tmp_path: Path) -> None:
    state = Golden("sg3t_gen_r32").state()
    for key in ("synthesis.L0_36_20.up_filter", "synthesis.L5_52_20.down_filter"):
        torch.save({**state, key: state[key] * 1.01}, tmp_path / "g.pt")
        with pytest.raises(ValueError, match=f"another filter {key}"):
            load_generator_file(tmp_path / "g.pt")


def check_stylegan3(golden: Golden, path: Path, family: str) -> None:
    config = golden.config
    generator = load_generator_file(path)
    assert isinstance(generator, StyleGAN3)
    golden.check("img", generator.eval().synthesize(golden.arrays["in/ws"]))
    golden.check("img_from_z_psi", generator(golden.arrays["in/z"], psi=config["truncation_psi"]))
    info = inspect(path)
    letter = "R" if config.get("conv_kernel") == 1 else "T"
    assert (info.architecture, info.family) == (f"StyleGAN3-{letter}", family)
    assert (info.resolution, info.num_ws, info.has_noise) == (config["img_resolution"], config["num_ws"], None)


def test_other_activations_are_refused(tmp_path: Path, sentinel: Path) -> None:
    golden = Golden("sg2_gen_r16_resnet")
    nvidia_pickle(tmp_path / "g", sentinel, {"G_ema": golden.state()}, {"synthesis.b4.conv1": {"activation": "relu"}})
    with pytest.raises(ValueError, match="other activations than leaky ReLU"):
        load_generator_file(tmp_path / "g")


# --- TensorFlow's pickles


def test_tensorflow_pickle(both: Golden, tmp_path: Path, sentinel: Path) -> None:
    disc = Golden("sg2_disc_two_families_r16")
    source = f"open({str(sentinel)!r}, 'w').write('ran')"
    ada = both.state("state/ada/")
    with modules(dnnlib__tflib__network={"Network": Network}, dnnlib__util={"EasyDict": EasyDict}):
        empty = tensorflow_generator({key: torch.zeros_like(value) for key, value in ada.items()}, source)
        content = (
            empty,
            tensorflow_discriminator(disc.state("state/ada/"), source),
            tensorflow_generator(ada, source),
        )
        for protocol in (2, 4):
            (tmp_path / f"{protocol}.pkl").write_bytes(pickle.dumps(content, protocol))
    for protocol in (2, 4):
        path = tmp_path / f"{protocol}.pkl"
        check_generator(both, load_generator_file(path))
        disc.check("ada/logits", load_discriminator_file(path)(disc.arrays["in/img"]))
        info = inspect(path)
        assert (info.family, info.has_w_avg, info.has_noise) == ("TensorFlow pickle", True, True)
        assert inspect(path, "D").architecture == "StyleGAN2 discriminator"


def test_tensorflow_resnet_generator(tmp_path: Path) -> None:
    golden = Golden("sg2_gen_r16_resnet")
    with modules(dnnlib__tflib__network={"Network": Network}, dnnlib__util={"EasyDict": EasyDict}):
        network = tensorflow_generator(golden.state(), "")
        (tmp_path / "g.pkl").write_bytes(pickle.dumps((network, network, network)))
    generator = load_generator_file(tmp_path / "g.pkl")
    golden.check("img_const", generator.synthesize(golden.arrays["in/w_plus"]))


# --- rosinality's files and their relatives


@pytest.mark.parametrize("old", [False, True])
def test_rosinality_file(both: Golden, old: bool, tmp_path: Path) -> None:
    content = rosinality(both) | {"g": {}, "d": {}, "args": types.SimpleNamespace(size=32), "g_optim": {0: [1]}}
    torch.save(content, tmp_path / "g.pt", _use_new_zipfile_serialization=not old)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        check_generator(both, load_generator_file(tmp_path / "g.pt"))
    info = inspect(tmp_path / "g.pt")
    assert (info.family, info.channel_base, info.channel_max, info.num_ws) == ("rosinality", 512, 32, 8)


def test_missing_mean_of_w_is_measured_and_said(both: Golden, tmp_path: Path) -> None:
    torch.save(rosinality(both, with_mean=False), tmp_path / "g.pt")
    assert not inspect(tmp_path / "g.pt").has_w_avg
    with pytest.warns(UserWarning, match="no mean of w; it was measured from 8192 samples"):
        generator = load_generator_file(tmp_path / "g.pt")
    w = generator.map(torch.randn(20000, 40, generator=torch.Generator().manual_seed(5)))[:, 0]
    standard_error = w.std(dim=0) / 8192**0.5
    assert (generator.mean_w - w.mean(dim=0)).abs().max() < 6 * standard_error.max()
    assert generator.mean_w.abs().max() > 0.1


def test_mean_of_w_of_a_conditional_generator_is_over_labels(tmp_path: Path) -> None:
    golden = Golden("sg2_gen_r32_cond_clamp")
    torch.save({k: v for k, v in golden.state().items() if k != "mapping.w_avg"}, tmp_path / "g.pt")
    with pytest.warns(UserWarning, match="no mean of w"):
        generator = load_generator_file(tmp_path / "g.pt")
    z = torch.randn(20000, 32, generator=torch.Generator().manual_seed(5))
    w = generator.map(z, torch.eye(5).repeat(4000, 1))[:, 0]
    assert (generator.mean_w - w.mean(dim=0)).abs().max() < 6 * w.std(dim=0).max() / 8192**0.5


def test_first_generation_of_rosinality(both: Golden, tmp_path: Path) -> None:
    """No noise maps, biases [1, C, 1, 1] outside the activation, parameters of several GPUs."""
    state = {}
    for key, value in both.state("state/ros/").items():
        if key.endswith("activate.bias"):
            state["module." + key.replace("activate.", "")] = value[None, :, None, None]
        elif not key.startswith("noises"):
            state["module." + key] = value
    torch.save({"g_ema": state, "latent_avg": both.state("state/ros_checkpoint/")["latent_avg"]}, tmp_path / "g.pt")
    info = inspect(tmp_path / "g.pt")
    assert info.family == "rosinality, first generation" and not info.has_noise
    with pytest.warns(UserWarning, match="no noise maps for 7 layers"):
        generator = load_generator_file(tmp_path / "g.pt")
        again = load_generator_file(tmp_path / "g.pt")
    assert isinstance(generator, StyleGAN2)
    noises = [both.arrays[f"state/ros/noises.noise_{k}"][0] for k in range(7)]
    both.check("ada/img_wplus_const", generator.synthesize(both.arrays["in/w_plus"], noise=noises))
    drawn = [value for key, value in generator.state_dict().items() if key.endswith("noise_const")]
    assert 0.9 < torch.cat([value.flatten() for value in drawn]).std() < 1.1
    assert all(torch.equal(a, b) for a, b in zip(generator.state_dict().values(), again.state_dict().values()))


@pytest.mark.parametrize(("encoder", "family"), [("Encoder4Editing", "e4e decoder"), (None, "pSp decoder")])
def test_decoder_of_an_encoder_file(both: Golden, encoder: str | None, family: str, tmp_path: Path) -> None:
    state = {f"decoder.{key}": value for key, value in both.state("state/ros/").items()}
    state["encoder.input_layer.0.weight"] = torch.zeros(4, 3, 3, 3)
    mean = both.state("state/ros_checkpoint/")["latent_avg"].repeat(8, 1)
    options = {"encoder_type": encoder or "GradualStyleEncoder", "exp_dir": Path("somewhere")}
    torch.save({"state_dict": state, "opts": options, "latent_avg": mean}, tmp_path / "e.pt")
    check_generator(both, load_generator_file(tmp_path / "e.pt"))
    assert inspect(tmp_path / "e.pt").family == family


def test_decoder_of_a_stylegan3_encoder_file(tmp_path: Path) -> None:
    golden = Golden("sg3r_gen_r64")
    state = {f"decoder.{k}": v for k, v in golden.state().items() if not k.endswith(("transform", "w_avg"))}
    mean = golden.state()["mapping.w_avg"].repeat(golden.config["num_ws"], 1)
    torch.save({"state_dict": state, "opts": {}, "latent_avg": mean}, tmp_path / "e.pt")
    check_stylegan3(golden, tmp_path / "e.pt", "pSp decoder")


def test_generator_inside_a_larger_network(both: Golden, tmp_path: Path) -> None:
    state = {f"generator.stylegan.{key}": value for key, value in both.state("state/ros/").items()}
    torch.save({"net_G_ema": state | {"calibrator.weight": torch.zeros(2)}}, tmp_path / "s.pt")
    with pytest.warns(UserWarning, match="no mean of w"):
        generator = load_generator_file(tmp_path / "s.pt")
    both.check("ada/img_wplus_const", generator.synthesize(both.arrays["in/w_plus"]))


# --- pickled modules, plain state dicts, our own files


@pytest.mark.filterwarnings("ignore:Couldn't retrieve source code")
@pytest.mark.parametrize("family", ["ada", "ros"])
def test_pickled_module(both: Golden, family: str, tmp_path: Path, sentinel: Path) -> None:
    """A tuned generator saved whole, as a plain torch module or as one of NVIDIA's persistent classes."""

    class Generator(nn.Module):
        def __setstate__(self, state: Any) -> None:
            sentinel.write_text("ran")

    def build(place: str, node: dict[str, Any]) -> nn.Module:
        module = Generator()
        module.__dict__.update(node)
        return module

    network = tree(both.state(f"state/{family}/"), build)
    with modules(training__networks={"Generator": Generator}):
        torch.save(network, tmp_path / "model.pt")
        torch.save(network, tmp_path / "old.pt", _use_new_zipfile_serialization=False)
    for name in ("model.pt", "old.pt"):
        with warnings.catch_warnings():
            warnings.simplefilter("ignore" if family == "ros" else "error")  # such a module has no mean of w
            generator = load_generator_file(tmp_path / name)
        both.check("ada/img_wplus_const", generator.synthesize(both.arrays["in/w_plus"]))
        assert inspect(tmp_path / name).family == "PTI module"


def test_persistent_module_in_a_torch_file(both: Golden, tmp_path: Path, sentinel: Path) -> None:
    source = f"open({str(sentinel)!r}, 'w').write('ran')"
    network = tree(both.state("state/ada/"), lambda place, node: Persistent(source, "Generator", node))
    place = {"_reconstruct_persistent_obj": _reconstruct_persistent_obj}
    with modules(torch_utils__persistence=place, dnnlib__util={"EasyDict": EasyDict}):
        torch.save(network, tmp_path / "model.pt")
    check_generator(both, load_generator_file(tmp_path / "model.pt"))
    assert inspect(tmp_path / "model.pt").family == "PTI module"


@pytest.mark.parametrize("kind", ["safetensors", "torch", "half"])
def test_plain_state_dict(both: Golden, kind: str, tmp_path: Path) -> None:
    path, state = tmp_path / "g", both.state("state/ada/")
    if kind == "safetensors":
        save_file(state, path)
    elif kind == "torch":
        torch.save({f"module.{key}": value for key, value in state.items()}, path)
    else:
        torch.save({key: value.half() for key, value in state.items()}, path)
    generator = load_generator_file(path)
    assert {value.dtype for value in generator.state_dict().values()} == {torch.float32}
    if kind == "half":
        w = both.arrays["in/w_plus"]
        assert (generator.synthesize(w) - both.arrays["out/ada/img_wplus_const"]).abs().max() < 0.05
    else:
        check_generator(both, generator)
    assert inspect(path).family == "state dict"


def test_own_file_and_conversion(both: Golden, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    torch.save(rosinality(both), tmp_path / "g.pt")
    weights_info(str(tmp_path / "g.pt"))
    line = capsys.readouterr().out
    assert line == f"{inspect(tmp_path / 'g.pt')}\n" and line.count("\n") == 1
    assert line.startswith("StyleGAN2 of 32 px; rosinality; G_ema; channel base 512, at most 32 channels; z of 40")
    out = tmp_path / "g.safetensors"
    weights_convert(str(tmp_path / "g.pt"), out=str(out))
    assert capsys.readouterr().out == f"{out}: {inspect(out)}\n"
    assert inspect(out).family == "stylereel"
    loaded, own = load_generator_file(out), load_generator(out)
    assert loaded.card == own.card == {"source": "g.pt", "family": "rosinality", "network": "G_ema"}
    parameters = dict(own.named_parameters())
    for key, value in load_generator_file(tmp_path / "g.pt").state_dict().items():
        stored = value.half().float() if key in parameters else value
        assert torch.equal(loaded.state_dict()[key], stored), key
        assert torch.equal(own.state_dict()[key], stored), key
    with pytest.raises(ValueError, match="must end in .safetensors"):
        weights_convert(str(tmp_path / "g.pt"), out=str(tmp_path / "g.bin"))


def test_conversion_of_stylegan3(tmp_path: Path) -> None:
    torch.save(Golden("sg3t_gen_r32").state(), tmp_path / "g.pt")
    weights_convert(str(tmp_path / "g.pt"), out=str(tmp_path / "g.safetensors"))
    loaded = load_generator(tmp_path / "g.safetensors")
    assert isinstance(loaded, StyleGAN3)
    assert loaded.config == load_generator_file(tmp_path / "g.safetensors").config


# --- discriminators


def discriminator_files(golden: Golden, folder: Path, sentinel: Path) -> Iterator[tuple[Path, str]]:
    ada, ros = golden.state("state/ada/"), golden.state("state/ros/")
    torch.save({"d": ros, "g": {}, "g_ema": {}}, folder / "550000.pt")
    yield folder / "550000.pt", "rosinality"
    torch.save(ros, folder / "stylegan2_d_16.pth")
    yield folder / "stylegan2_d_16.pth", "rosinality"
    save_file(ada, folder / "d.safetensors")
    yield folder / "d.safetensors", "state dict"
    nvidia_pickle(folder / "n.pkl", sentinel, {"G": {}, "D": ada}, {"b4.mbstd": {"group_size": 4, "num_channels": 1}})
    yield folder / "n.pkl", "NVIDIA pickle"


def test_discriminators(tmp_path: Path, sentinel: Path) -> None:
    golden = Golden("sg2_disc_two_families_r16")
    for path, family in discriminator_files(golden, tmp_path, sentinel):
        discriminator = load_discriminator_file(path)
        golden.check("ada/logits", discriminator(golden.arrays["in/img"]))
        info = inspect(path, "D")
        assert path.suffix == ".pt" or path.suffix == ".pkl" or inspect(path) == info
        assert (info.architecture, info.family, info.resolution) == ("StyleGAN2 discriminator", family, 16)
        assert (info.num_ws, info.has_w_avg, info.has_noise) == (None, None, None)
    weights_convert(str(tmp_path / "n.pkl"), out=str(tmp_path / "own.safetensors"), network="D")
    own = load_discriminator_file(tmp_path / "own.safetensors")
    assert own.config == load_discriminator_file(tmp_path / "n.pkl").config


def test_settings_of_the_minibatch_deviation_come_from_the_pickle(tmp_path: Path, sentinel: Path) -> None:
    golden = Golden("sg2_disc_r32_group2")
    mbstd = {"b4.mbstd": {"group_size": 3, "num_channels": 2}}
    nvidia_pickle(tmp_path / "d.pkl", sentinel, {"D": golden.state()}, mbstd)
    golden.check("logits", load_discriminator_file(tmp_path / "d.pkl")(golden.arrays["in/img"]))
    assert inspect(tmp_path / "d.pkl", "D").resolution == 32


# --- names


@pytest.mark.parametrize("size", [256, 1024])
def test_generator_names_equal_published_lists(size: int) -> None:
    ours = json.loads((GOLDENS / f"keys/sg2_ada_generator_{size}.json").read_text())["keys"]
    theirs = json.loads((GOLDENS / f"keys/sg2_rosinality_generator_{size}.json").read_text())["keys"]
    width = theirs[f"convs.{2 * size.bit_length() - 7}.conv.weight"][1]
    with torch.device("meta"):
        state = StyleGAN2(StyleGAN2Config(size, channel_base=width * size)).state_dict()
    assert {key for key in ours if not names.FILTER.search(key)} == set(state)
    renamed = names.generator_to_rosinality(state)
    assert {key: list(value.shape) for key, value in renamed.items()} == theirs
    back = names.generator_from_rosinality({k: v for k, v in renamed.items() if not names.FILTER.search(k)})
    del state["mapping.w_avg"]
    assert {key: value.shape for key, value in back.items()} == {key: value.shape for key, value in state.items()}


def test_discriminator_names_equal_published_lists() -> None:
    theirs = json.loads((GOLDENS / "keys/sg2_rosinality_discriminator_1024.json").read_text())["keys"]
    ours = json.loads((GOLDENS / "keys/sg2_ada_discriminator_1024.json").read_text())["keys"]
    with torch.device("meta"):
        state = Discriminator(DiscriminatorConfig(1024)).state_dict()
    assert {key for key in ours if not names.FILTER.search(key)} == set(state)
    renamed = names.discriminator_to_rosinality(state)
    assert {key: list(value.shape) for key, value in renamed.items()} == theirs


def test_renames_back_and_forth(both: Golden) -> None:
    ros = both.state("state/ros/")
    ada = names.generator_from_rosinality({k: v for k, v in ros.items() if not names.FILTER.search(k)})
    for key, value in ada.items():
        assert torch.equal(value, both.arrays[f"state/ada/{key}"]), key
    again = names.generator_to_rosinality(ada)
    assert set(again) == set(ros)
    for key, value in again.items():
        torch.testing.assert_close(value, ros[key], atol=1e-7, rtol=0)
    disc = Golden("sg2_disc_two_families_r16")
    ros = disc.state("state/ros/")
    again = names.discriminator_to_rosinality(disc.state("state/ada/"))
    assert set(again) == set(ros)
    for key, value in again.items():
        torch.testing.assert_close(value, ros[key], atol=1e-7, rtol=0)


@pytest.mark.parametrize(
    "name", ["sg3t_generator_256", "sg3r_generator_256", "sg3t_generator_1024", "sg3r_generator_1024"]
)
def test_stylegan3_plan_is_found_from_names_alone(name: str) -> None:
    """Channel base and kind of the official networks, from nothing but names and shapes."""
    listed = json.loads((GOLDENS / f"keys/{name}.json").read_text())
    state = {k: torch.empty(v, device="meta") for k, v in listed["keys"].items() if not names.FILTER.search(k)}
    found = stylegan3_config(Path("g.pt"), state, {}, {})
    kwargs = listed["config"]
    expected = StyleGAN3Config(
        resolution=kwargs["img_resolution"],
        channel_base=kwargs["channel_base"],
        channel_max=kwargs["channel_max"],
        mapping_layers=2,
        conv_kernel=kwargs.get("conv_kernel", 3),
        use_radial_filters=kwargs.get("use_radial_filters", False),
    )
    assert found == expected


# --- mistakes


def bad_files(both: Golden, folder: Path) -> Iterator[tuple[Any, str]]:
    """Contents that hold no usable generator, and a part of the reason."""
    ada, ros = both.state("state/ada/"), both.state("state/ros/")
    yield {"weights": torch.zeros(2)}, "holds no generator that stylereel knows"
    yield [1, 2, 3], "has no G_ema; it has no network that stylereel knows"
    yield {"d": {"x": torch.zeros(1)}}, "has no G_ema; it has D"
    yield Golden("sg2_disc_two_families_r16").state("state/ros/"), "holds no generator .* but another network"
    yield {**ada, "extra": torch.zeros(1)}, "extra is not known"
    yield {k: v for k, v in ada.items() if k != "synthesis.b8.conv0.bias"}, "synthesis.b8.conv0.bias is missing"
    yield {**ada, "synthesis.b8.conv0.bias": torch.zeros(3)}, r"synthesis.b8.conv0.bias is \[3\], not \[32\]"
    yield {k: v for k, v in ada.items() if k != "mapping.fc0.weight"}, "lacks mapping.fc0.weight"
    yield {k: v for k, v in ada.items() if k != "mapping.fc7.bias"}, "mapping.fc7.bias is missing"
    yield {**ada, "synthesis.b4.resample_filter": torch.ones(4, 4)}, "resamples with different filters"
    yield {**ada, "synthesis.b4.resample_filter": torch.eye(4)}, "no product of one row of taps with itself"
    yield {**ada, "synthesis.b4.resample_filter": torch.zeros(4, 4)}, "is none that a network resamples with"
    yield {**ros, "convs.0.conv.weight": torch.zeros(1, 2, 2, 3, 3)}, r"b8.conv0.weight is \[2, 2, 3, 3\]"
    yield {**ada, "synthesis.b536870912.conv1.weight": torch.zeros(1, 1, 3, 3)}, "of 536870912 px"
    yield {**ada, "synthesis.b48.conv1.weight": torch.zeros(1, 1, 3, 3)}, "of 48 px"
    yield {**ada, "synthesis.b4.conv1.affine.weight": torch.zeros(3)}, "lacks a dimension"
    yield {**ada, "mapping.embed.weight": torch.zeros(40, 40)}, "make no network|fit no known network"
    yield {k: v for k, v in ada.items() if k != "synthesis.b4.torgb.weight"}, "synthesis.b4.torgb.weight is missing"
    yield {k: v for k, v in ada.items() if not k.startswith("mapping.fc")}, "lacks mapping.fc0.weight"
    yield {k: v for k, v in ada.items() if ".b8." not in k}, "lacks blocks"
    many = {f"extra{i}": torch.zeros(1) for i in range(100)}
    yield {**ada, **many}, "and 88 more"
    yield {**ada, "bad\nname" * 1000: torch.zeros(1)}, r"bad\\nname.{,200}\.\.\."


def test_bad_files_are_refused_with_the_reason(both: Golden, tmp_path: Path) -> None:
    for content, reason in bad_files(both, tmp_path):
        torch.save(content, tmp_path / "bad.pt")
        with pytest.raises(ValueError, match=reason) as caught:
            load_generator_file(tmp_path / "bad.pt")
        message = str(caught.value)
        assert "bad.pt" in message and "\n" not in message and message.endswith(".")


def test_mistakes_are_explained(both: Golden, tmp_path: Path) -> None:
    mean = both.state("state/ros_checkpoint/")["latent_avg"]
    torch.save({"g": both.state("state/ros/"), "latent_avg": mean}, tmp_path / "g.pt")
    with pytest.warns(UserWarning, match="no G_ema; its G is used"):
        load_generator_file(tmp_path / "g.pt")
    with pytest.raises(ValueError, match="G_ema, G, D, not 'best'"):
        inspect(tmp_path / "g.pt", "best")  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="has no D; it has G"):
        load_discriminator_file(tmp_path / "g.pt")
    save_module(tmp_path / "e.safetensors", "encoder", nn.Linear(2, 2))
    with pytest.raises(ValueError, match="holds 'encoder' weights"):
        load_generator_file(tmp_path / "e.safetensors")
    save_module(tmp_path / "d.safetensors", "discriminator", Discriminator(DiscriminatorConfig(8, channel_base=32)))
    with pytest.raises(ValueError, match="holds a discriminator"):
        load_generator_file(tmp_path / "d.safetensors")
    with pytest.raises(ValueError, match="There is no file"):
        inspect(tmp_path / "absent.pkl")
    whole = (tmp_path / "d.safetensors").read_bytes()
    (tmp_path / "cut.safetensors").write_bytes(whole[: len(whole) // 2])
    with pytest.raises(ValueError, match="damaged safetensors file"):
        inspect(tmp_path / "cut.safetensors")


def test_info_is_one_line() -> None:
    info = WeightsInfo(
        "StyleGAN2", "NVIDIA pickle", 1024, 32768, 512, 512, 512, 3, 18, 256, "G_ema", ("G_ema", "D"), True, False
    )
    assert str(info) == (
        "StyleGAN2 of 1024 px; NVIDIA pickle; G_ema (there is also D); channel base 32768, at most 512 channels; "
        "z of 512, 18 rows of W+ of 512; labels of 3; activations within 256; with mean of w; without noise maps"
    )
