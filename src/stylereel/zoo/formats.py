"""Generators and discriminators from the files of every known tool, recognised by what is in them, not by name.

| file | family |
|---|---|
| safetensors that stylereel wrote | stylereel |
| pickled dict with G, D, G_ema (stylegan2-ada-pytorch, stylegan3) | NVIDIA pickle |
| pickled (G, D, Gs) of TensorFlow StyleGAN2 | TensorFlow pickle |
| torch file with g_ema, and maybe latent_avg (stylegan2-pytorch and its conversions) | rosinality |
| torch file with state_dict, decoder.* inside, and latent_avg | pSp decoder, e4e decoder |
| pickled module (pivotal tuning) | PTI module |
| tensors by name, in safetensors or a torch file | state dict (NVIDIA names), rosinality |

Nothing in a file is run. What a file lacks is made good and said by a warning: the mean of w is measured, noise maps
are sampled once from a fixed seed (the networks were trained with noise; maps of zeros would blur hair and skin).
"""

from __future__ import annotations

import json
import re
import warnings
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, get_args

import numpy as np
import torch
from torch import Tensor

from stylereel.core.files import require_file
from stylereel.core.weights import (
    check_finite,
    check_sharing,
    config_of,
    misfits,
    parse_card,
    read_tensors,
    without_memory,
)
from stylereel.generator import (
    Discriminator,
    DiscriminatorConfig,
    StyleGAN2,
    StyleGAN2Config,
    StyleGAN3,
    StyleGAN3Config,
)
from stylereel.zoo import names
from stylereel.zoo.configs import (
    LIMITS,
    discriminator_config,
    mapping,
    shortened,
    stylegan2_config,
    stylegan3_config,
)
from stylereel.zoo.unpickle import Stub, WeightFileError, unpickle

Network = Literal["G_ema", "G", "D"]
Config = StyleGAN2Config | StyleGAN3Config | DiscriminatorConfig

MEAN_SAMPLES = 8192  # w for its mean, where a file lacks it
MAX_LISTED = 12  # tensors in a message
MAX_DEPTH = 32  # of modules in modules
MAX_PARTS = 100_000  # modules and tensors of one network

# What the files call each network, and where a file with one unnamed network keeps it.
_PARTS: dict[str, tuple[str, ...]] = {
    "G_ema": ("G_ema", "g_ema", "net_G_ema", "Gs"),
    "G": ("G", "g", "net_G", "generator"),
    "D": ("D", "d", "net_D", "discriminator"),
    "": ("state_dict",),
}
# A tensor that shows naming and place of a network in a state dict.
_GENERATOR_MARKS = ("synthesis.b4.const", "synthesis.input.freqs", "input.input")
_DISCRIMINATOR_MARKS = ("b4.out.weight", "final_linear.1.weight")


@dataclass(frozen=True)
class WeightsInfo:
    """What a weight file holds; str() gives one line.

    architecture: StyleGAN2, StyleGAN3-T, StyleGAN3-R or StyleGAN2 discriminator; resolution in pixels; channel_base
    and channel_max as in the network's config; num_ws, the rows of W+ (None for a discriminator); network, which
    of several networks this is about, of `networks`; has_noise is None for architectures without noise.
    """

    architecture: str
    family: str
    resolution: int
    channel_base: int
    channel_max: int
    z_dim: int | None
    w_dim: int | None
    c_dim: int
    num_ws: int | None
    conv_clamp: float | None
    network: str
    networks: tuple[str, ...]
    has_w_avg: bool | None
    has_noise: bool | None

    def __str__(self) -> str:
        parts = [f"{self.architecture} of {self.resolution} px", self.family]
        if self.network:
            others = [name for name in self.networks if name != self.network]
            parts.append(self.network + (f" (there is also {', '.join(others)})" if others else ""))
        parts.append(f"channel base {self.channel_base}, at most {self.channel_max} channels")
        if self.num_ws is not None:
            parts.append(f"z of {self.z_dim}, {self.num_ws} rows of W+ of {self.w_dim}")
        if self.c_dim:
            parts.append(f"labels of {self.c_dim}")
        if self.conv_clamp is not None:
            parts.append(f"activations within {self.conv_clamp:g}")
        for has, what in ((self.has_w_avg, "mean of w"), (self.has_noise, "noise maps")):
            if has is not None:
                parts.append(f"{'with' if has else 'without'} {what}")
        return "; ".join(parts)


@dataclass
class _Found:
    """One network of a file: NVIDIA's names, our config, and what else the file says."""

    family: str
    network: str
    networks: tuple[str, ...]
    state: dict[str, Tensor]
    filters: dict[str, Tensor]
    config: Config
    card: dict[str, Any]


def inspect(path: str | Path, network: Network | None = None) -> WeightsInfo:
    """What a weight file holds. Raises ValueError if there is no network that stylereel knows.

    network: which of several; by default the first of G_ema, G and D that is there.
    """
    return _describe(path, _find(path, network))


def inspect_all(path: str | Path) -> list[WeightsInfo | str]:
    """What a weight file holds, each of its networks in the order of G_ema, G and D: the network if it can be loaded,
    else the sentence that loading it would end with.

    Raises ValueError if there is no network that can be loaded.
    """
    path = require_file(path)
    content, header = _content(path)
    parts = [] if header else [name for name in ("G_ema", "", "G", "D") if name in _parts(content)]
    if len(parts) < 2:
        return [_describe(path, _find_in(path, content, header, None))]
    found: list[WeightsInfo | str] = []
    for name in parts:
        try:
            found.append(_describe(path, _find_in(path, content, header, name)))
        except ValueError as error:
            found.append(str(error))
    if all(isinstance(entry, str) for entry in found):
        raise ValueError(found[0])
    return found


def _describe(path: str | Path, found: _Found) -> WeightsInfo:
    """What a network is. Raises ValueError if it could not be loaded."""
    config = found.config
    _missing_tensors(path, found)
    generator = not isinstance(config, DiscriminatorConfig)
    two = isinstance(config, StyleGAN2Config)
    return WeightsInfo(
        architecture=_architecture(config),
        family=found.family,
        resolution=config.resolution,
        channel_base=config.channel_base,
        channel_max=config.channel_max,
        z_dim=config.z_dim if generator else None,
        w_dim=config.w_dim if generator else None,
        c_dim=config.c_dim,
        num_ws=config.num_ws if generator else None,
        conv_clamp=config.conv_clamp,
        network=found.network,
        networks=found.networks,
        has_w_avg="mapping.w_avg" in found.state if generator else None,
        has_noise=any(key.endswith("noise_const") for key in found.state) if two else None,
    )


def load_generator_file(path: str | Path, network: Literal["G_ema", "G"] = "G_ema") -> StyleGAN2 | StyleGAN3:
    """The generator in a file of any family, as float32.

    network: which of several; G_ema is the average over training that makes the best images. A file with one
    unnamed generator gives that one.

    Raises:
        WeightFileError: the file is damaged or unsafe.
        ValueError: it has no such generator, or tensors that do not fit, which are listed.
    """
    found = _find(path, network)
    config, state = found.config, found.state
    if isinstance(config, DiscriminatorConfig):
        raise ValueError(f"{path} holds a discriminator; give the file of a generator.")
    lacking = _missing_tensors(path, found)
    measure = "mapping.w_avg" in lacking
    maps = {key: shape for key, shape in lacking.items() if key != "mapping.w_avg"}
    if maps:
        warnings.warn(f"{path} has no noise maps for {len(maps)} layers; random ones of seed 0 are used.", stacklevel=2)
    seeded = torch.Generator().manual_seed(0)
    state |= {key: torch.randn(shape, generator=seeded) for key, shape in maps.items()}
    if measure:
        state["mapping.w_avg"] = torch.zeros(config.w_dim)
    generator = StyleGAN2(config) if isinstance(config, StyleGAN2Config) else StyleGAN3(config)
    generator.load_state_dict(state)
    generator.card = found.card
    if measure:
        generator.mapping.w_avg.copy_(_measured_mean(generator))
        warnings.warn(f"{path} has no mean of w; it was measured from {MEAN_SAMPLES} samples.", stacklevel=2)
    return generator


def load_discriminator_file(path: str | Path) -> Discriminator:
    """The StyleGAN2 discriminator in a file of any family, as float32. Raises as load_generator_file."""
    found = _find(path, "D")
    if not isinstance(found.config, DiscriminatorConfig):
        raise ValueError(f"{path} holds a generator; give the file of a discriminator.")
    _missing_tensors(path, found)
    discriminator = Discriminator(found.config)
    discriminator.load_state_dict(found.state)
    return discriminator


# --- building


def _architecture(config: Config) -> str:
    if isinstance(config, StyleGAN2Config):
        return "StyleGAN2"
    if isinstance(config, DiscriminatorConfig):
        return "StyleGAN2 discriminator"
    return "StyleGAN3-R" if config.conv_kernel == 1 and config.use_radial_filters else "StyleGAN3-T"


def _skeleton(path: str | Path, config: Config) -> torch.nn.Module:
    """The network that a config describes, without memory for its tensors, whatever sizes a file claims."""
    try:
        with without_memory():
            if isinstance(config, StyleGAN2Config):
                return StyleGAN2(config)
            return Discriminator(config) if isinstance(config, DiscriminatorConfig) else StyleGAN3(config)
    except (RuntimeError, ValueError, TypeError, ArithmeticError) as error:
        raise ValueError(f"The tensors in {path} have sizes that make no network: {shortened(error)}.") from error


def _missing_tensors(path: str | Path, found: _Found) -> dict[str, torch.Size]:
    """Shapes by name of the tensors that can be made good. Raises ValueError for a network that cannot be loaded."""
    skeleton = _skeleton(path, found.config)
    made = ("noise_const", "mapping.w_avg")
    lacking = {k: v.shape for k, v in skeleton.state_dict().items() if k.endswith(made) and k not in found.state}
    _check(path, skeleton, {key: torch.empty(shape, device="meta") for key, shape in lacking.items()} | found.state)
    check_finite(str(path), found.state)
    return lacking


def _check(path: str | Path, skeleton: torch.nn.Module, state: Mapping[str, Tensor]) -> None:
    """Raises ValueError that lists the tensors that are missing, unknown or of another shape."""
    problems = [shortened(problem) for problem in misfits(skeleton, state)]
    if problems:
        more = f"; and {len(problems) - MAX_LISTED} more" if len(problems) > MAX_LISTED else ""
        raise ValueError(f"The tensors in {path} fit no known network: {'; '.join(problems[:MAX_LISTED])}{more}.")


@torch.inference_mode()
def _measured_mean(generator: StyleGAN2 | StyleGAN3) -> Tensor:
    """The mean [D] of w over MEAN_SAMPLES latents (and over labels), from a fixed seed."""
    config = generator.config
    seeded = torch.Generator().manual_seed(0)
    z = torch.randn(MEAN_SAMPLES, config.z_dim, generator=seeded)
    c = torch.eye(config.c_dim)[torch.arange(MEAN_SAMPLES) % config.c_dim] if config.c_dim else None
    return generator.map(z, c)[:, 0].mean(dim=0)


# --- finding the network


def _content(path: Path) -> tuple[Any, dict[str, str]]:
    """What is in a file, and the header of one of ours."""
    if not is_safetensors(path):
        return unpickle(path), {}
    content, header = _read_safetensors(path)
    return content, header if header.get("format") == "stylereel" else {}


def _find(path: str | Path, network: str | None) -> _Found:
    """The network of that name in a file, or the best one if None, with NVIDIA's parameter names."""
    if network not in (None, *get_args(Network)):
        raise ValueError(f"The network must be one of {', '.join(get_args(Network))}, not {network!r}.")
    path = require_file(path)
    return _find_in(path, *_content(path), network)


def _find_in(path: Path, content: Any, header: Mapping[str, str], network: str | None) -> _Found:
    if header:
        return _own(path, header, content)
    parts = _parts(content)
    named = tuple(name for name in parts if name)
    accepted = {None: ("G_ema", "", "G", "D"), "G_ema": ("G_ema", "", "G")}.get(network, (network, ""))
    name = next((name for name in accepted if name in parts), None)
    if name is None:
        known = ", ".join(named) or "no network that stylereel knows"
        raise ValueError(f"{path} has no {network or 'weights'}; it has {known}.")
    if (network, name) == ("G_ema", "G"):
        warnings.warn(f"{path} has no G_ema; its G is used, which makes poorer images.", stacklevel=4)
    try:
        return _network(path, content, parts[name], network, name or "", named)
    except LookupError as error:
        lacking = error.args[0] if isinstance(error, KeyError) else "a dimension of a tensor"
        raise ValueError(f"The network in {path} lacks {shortened(lacking)}.") from error


def _parts(content: Any) -> dict[str, Any]:
    """The networks of a file by our names; an unnamed one is called ""."""
    if isinstance(content, (tuple, list)) and len(content) == 3 and all(map(_is_tensorflow, content)):
        return dict(zip(("G", "D", "G_ema"), content, strict=True))
    if isinstance(content, dict):
        found = {
            name: content[alias]
            for name, aliases in _PARTS.items()
            for alias in aliases
            if isinstance(content.get(alias), (dict, Stub)) and content[alias] != {}
        }
        return found or {"": content}
    return {"": content} if isinstance(content, Stub) else {}


def _network(path: Path, content: Any, part: Any, asked: str | None, name: str, networks: tuple[str, ...]) -> _Found:
    attributes: dict[str, dict[str, Any]] = {}
    if _is_tensorflow(part):
        variables = _tensorflow_variables(path, part)
        tensors, family = names.from_tensorflow(variables), "TensorFlow pickle"
        attributes[""] = {"_init_kwargs": _tensorflow_arguments(path, part, variables)}
    elif isinstance(part, Stub):
        tensors, attributes = _module(path, part)
        family = "NVIDIA pickle" if networks else "PTI module"
    else:
        tensors, family = _tensors(path, part), "state dict"

    every = _GENERATOR_MARKS + _DISCRIMINATOR_MARKS
    marks = {None: every, "D": _DISCRIMINATOR_MARKS}.get(asked, _GENERATOR_MARKS)
    mark, prefix = _place(tensors, marks)
    if mark is None:
        other = ", but another network" if _place(tensors, every)[0] else ""
        kind = {None: "network", "D": "discriminator"}.get(asked, "generator")
        raise ValueError(f"{path} holds no {kind} that stylereel knows{other}.")
    discriminator = mark in _DISCRIMINATOR_MARKS
    state = {key.removeprefix(prefix): value for key, value in tensors.items() if key.startswith(prefix)}
    attributes = {key.removeprefix(prefix): value for key, value in attributes.items() if f"{key}.".startswith(prefix)}
    mean = state.pop("latent_avg", None)

    if mark in ("input.input", "final_linear.1.weight"):
        if family == "state dict":
            family = "rosinality"
            if any(re.match(r"(conv1|convs\.\d+)\.bias$", key) for key in state):
                family += ", first generation"
        rename = names.discriminator_from_rosinality if discriminator else names.generator_from_rosinality
        state = rename(state)
    if prefix.endswith("decoder."):
        family = "e4e decoder" if _is_e4e(content) else "pSp decoder"
    filters: dict[str, Tensor] = {}
    if mark == "synthesis.input.freqs":
        filters = {key: value for key, value in state.items() if names.FILTER.search(key)}
        state = {key: value for key, value in state.items() if key not in filters}
        transform = state.get("synthesis.input.transform")
        if transform is None or transform.ndim != 2:  # editing tools leave the one of their last images
            state["synthesis.input.transform"] = torch.eye(3)
    else:
        state, filters = names.split_filters(state)

    if discriminator:
        config = discriminator_config(path, state, filters, attributes)
    elif mark == "synthesis.input.freqs":
        config = stylegan3_config(path, state, filters, attributes)
    else:
        config = stylegan2_config(path, state, filters, attributes)
    stored = content.get("latent_avg") if isinstance(content, dict) else None
    mean = stored if isinstance(stored, Tensor) else mean
    if mean is not None and "mapping.w_avg" not in state and not isinstance(config, DiscriminatorConfig):
        if mean.numel() and mean.ndim and mean.shape[-1] == config.w_dim:
            state["mapping.w_avg"] = mean.float().reshape(-1, config.w_dim)[0].clone()  # the rows of W+ are equal
    card = {"source": path.name, "family": family, **({"network": name} if name else {})}
    return _Found(family, name, networks, state, filters, config, card)


def _own(path: Path, header: Mapping[str, str], state: dict[str, Tensor]) -> _Found:
    kinds = {"stylegan2": StyleGAN2Config, "stylegan3": StyleGAN3Config, "discriminator": DiscriminatorConfig}
    kind = kinds.get(header.get("kind", ""))
    if kind is None:
        raise ValueError(
            f"{path} holds '{shortened(header.get('kind', ''))}' weights; give a generator or discriminator."
        )
    try:
        settings = json.loads(header["config"])
        if any(not low <= settings[name] <= high for name, (low, high) in LIMITS.items() if settings.get(name)):
            raise ValueError("a setting is beyond what any network has")
        config = config_of(kind, settings)
    except (KeyError, TypeError, ValueError, AttributeError, ArithmeticError, RecursionError) as error:
        raise ValueError(f"The config in {path} is not one of its kind: {shortened(error)}.") from error
    return _Found("stylereel", "", (), state, {}, config, parse_card(path, header))


def _place(tensors: Iterable[str], marks: Iterable[str]) -> tuple[str | None, str]:
    """The first mark that is among the keys, alone or after a prefix, and the shortest such prefix."""
    keys = list(tensors)
    for mark in marks:
        prefixes = [key.removesuffix(mark) for key in keys if key == mark or key.endswith(f".{mark}")]
        if prefixes:
            return mark, min(prefixes, key=len)
    return None, ""


# --- what the containers hold


def is_safetensors(path: Path) -> bool:
    with path.open("rb") as file:
        head = file.read(9)
    return len(head) == 9 and head[8:] == b"{" and int.from_bytes(head[:8], "little") <= path.stat().st_size - 8


def _read_safetensors(path: Path) -> tuple[dict[str, Tensor], dict[str, str]]:
    try:
        tensors, header = read_tensors(path)
    except ValueError as error:
        raise WeightFileError(str(error)) from error
    return _tensors(path, tensors), header


def _tensors(path: Path, values: Mapping[Any, Any]) -> dict[str, Tensor]:
    """What is a tensor, or an array, among the values; fractions as float32, once for all names of the same numbers."""
    found: dict[str, Tensor] = {}
    converted: dict[int, Tensor] = {}
    for key, value in values.items():
        if isinstance(value, np.ndarray) and value.dtype.kind in "fiub":
            array = value
            value = converted.get(id(array))
            if value is None:
                value = converted[id(array)] = torch.from_numpy(array.astype(array.dtype.newbyteorder("=")))
        if isinstance(value, Tensor) and type(key) is str:
            if id(value) not in converted:
                converted[id(value)] = value.float() if value.is_floating_point() else value
            found[key] = converted[id(value)]
    check_sharing(path, found)
    return found


def _string_items(value: Any) -> list[tuple[str, Any]]:
    """The items of a mapping whose keys are names; long ones would multiply in the names of nested modules."""
    return [(key, part) for key, part in mapping(value).items() if type(key) is str and len(key) < 100]


def _is_tensorflow(value: Any) -> bool:
    return isinstance(value, Stub) and value.name == "Network" and "variables" in mapping(value.state)


def _is_e4e(content: Any) -> bool:
    options = mapping(content.get("opts")) if isinstance(content, dict) else {}
    return options.get("encoder_type") in ("Encoder4Editing", "ProgressiveBackboneEncoder")


# What a TensorFlow network may be made with, besides what its variables and `Metadata` say, without being another.
_TENSORFLOW_HARMLESS = set(
    "latent_size label_size label_fmaps dlatent_size dlatent_broadcast dlatent_avg_beta w_avg_beta resolution "
    "num_channels mapping_layers mapping_fmaps mapping_func synthesis_func fmap_base fmap_decay fmap_min fmap_max "
    "fmap_const architecture use_noise randomize_noise dtype num_fp16_res fused_modconv structure freeze_layers "
    "truncation_psi truncation_cutoff truncation_psi_val truncation_cutoff_val style_mixing_prob mbstd_num_features "
    "mapping_lrmul nonlinearity mapping_nonlinearity conv_clamp resample_kernel mbstd_group_size components "
    "is_training is_validation is_template_graph force_clean_graph return_dlatents".split()
)


def _tensorflow_arguments(path: Path, network: Stub, variables: Mapping[str, np.ndarray]) -> dict[str, Any]:
    """What a TensorFlow network was made with, where its variables do not show it (the whole goes before its parts).

    Raises ValueError for what makes another network of it than stylereel's.
    """
    state = mapping(network.state)
    parts = [mapping(part.state) for _, part in _string_items(state.get("components")) if _is_tensorflow(part)]
    arguments: dict[str, Any] = {}
    for part in (*parts, state):
        arguments |= {name: value for name, value in _string_items(part.get("static_kwargs"))}
    other = sorted(name for name in arguments if name not in _TENSORFLOW_HARMLESS)
    if arguments.get("normalize_latents") is True:
        other.remove("normalize_latents")
    if other:
        raise ValueError(f"{path} has a network made with {shortened(other[0])}, which stylereel does not know.")
    if not np.all(variables.get("lod", np.zeros(1)) == 0) or not np.all(
        variables.get("synthesis/lod", np.zeros(1)) == 0
    ):
        raise ValueError(f"{path} has a network that has not grown to its full size; train it to the end.")
    if not any(name.startswith("synthesis/") for name in variables):
        arguments.setdefault("mapping_lrmul", 0.1)
        # StyleGAN2's own default is 4, that of its successor the whole batch; the source text in the file says.
        text = state.get("build_module_src")
        stated = re.search(r"mbstd_group_size\s*=\s*(None|\d{1,9})\b", text) if isinstance(text, str) else None
        arguments.setdefault("mbstd_group_size", int(stated[1]) if stated and stated[1] != "None" else None)
    return arguments


def _tensorflow_variables(path: Path, network: Stub) -> dict[str, np.ndarray]:
    """All variables of a network and its components, as in "synthesis/8x8/Conv1/weight"."""
    found: dict[str, np.ndarray] = {}
    waiting, count = [("", network)], 0
    while waiting:
        prefix, part = waiting.pop()
        state = mapping(part.state)
        variables, components = state.get("variables"), _string_items(state.get("components"))
        count += 1 + len(components) + (len(variables) if isinstance(variables, list) else 0)
        if count > MAX_PARTS or prefix.count("/") > MAX_DEPTH:
            raise WeightFileError(f"{path} has networks nested without end.")
        for variable in variables if isinstance(variables, list) else ():
            if isinstance(variable, tuple) and len(variable) == 2 and isinstance(variable[0], str):
                if isinstance(variable[1], (float, np.ndarray)):
                    found[prefix + variable[0]] = np.asarray(variable[1])
        waiting += [(f"{prefix}{name}/", part) for name, part in components if _is_tensorflow(part)]
    return found


def _module(path: Path, module: Stub) -> tuple[dict[str, Tensor], dict[str, dict[str, Any]]]:
    """State dict of a pickled torch module, and the attributes of each of its modules."""
    values: dict[str, Any] = {}
    attributes: dict[str, dict[str, Any]] = {}
    waiting: list[tuple[str, Any]] = [("", module)]
    count = 0
    while waiting:
        prefix, part = waiting.pop()
        state = _module_state(part)
        count += 1 + sum(len(mapping(state.get(kind))) for kind in ("_parameters", "_buffers", "_modules"))
        if count > MAX_PARTS or prefix.count(".") > MAX_DEPTH:
            raise WeightFileError(f"{path} has modules nested without end.")
        attributes[prefix.rstrip(".")] = state
        for kind in ("_parameters", "_buffers"):
            values |= {f"{prefix}{key}": value for key, value in _string_items(state.get(kind))}
        waiting += [(f"{prefix}{key}.", child) for key, child in _string_items(state.get("_modules"))]
    return _tensors(path, values), attributes


def _module_state(module: Any) -> dict[Any, Any]:
    """The attributes of a pickled module; NVIDIA's keep them, and their source text, in one argument."""
    if isinstance(module, Stub) and module.name == "_reconstruct_persistent_obj" and module.arguments:
        return mapping(mapping(module.arguments[0]).get("state"))
    return mapping(module.state) if isinstance(module, Stub) else {}
