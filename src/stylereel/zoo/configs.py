"""Configs of networks from the names and shapes of their tensors, and from a pickle's metadata."""

from __future__ import annotations

import math
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from stylereel.generator import DiscriminatorConfig, StyleGAN2Config, StyleGAN3Config
from stylereel.generator.ops import BINOMIAL, FilterTaps
from stylereel.generator.stylegan2 import Architecture
from stylereel.zoo.unpickle import Stub

MAX_RESOLUTION = 2048

Attributes = Mapping[str, Mapping[str, Any]]

# Layers of a network that have the activation and the clamp of the whole; the others are linear.
_ACTIVE = re.compile(r"(^|\.)(fc\d+|conv[01]|fromrgb|b4\.conv|b4\.fc)$")
_CLAMPED = re.compile(r"(^|\.)(conv[01]|torgb|L\d+_\d+_\d+)$")
_MAPPING = re.compile(r"(^|\.)(mapping\.fc|style\.)\d+$")
_MAPPING_NETWORK = re.compile(r"(^|\.)mapping$")
_SYNTHESIS = re.compile(r"(^|\.)synthesis$")
_NOTHING = re.compile(r"(?!)")
_DEVIATION = re.compile(r"(^|\.)b4\.mbstd$")


class Metadata:
    """What a file says about a network besides its tensors: the attributes of its modules and its arguments.

    attributes: of each module by its path, with the arguments that it was made with as `_init_kwargs`. No
    stored value is ever replaced by a default: a value that cannot be understood raises ValueError.
    """

    def __init__(self, path: Path, attributes: Attributes) -> None:
        self.path, self.attributes = path, attributes
        self.arguments: dict[str, Any] = {}  # those of the mapping network have "mapping_" before their names
        for place, prefix in (("", ""), ("synthesis", ""), ("mapping", "mapping_")):
            self._add(mapping(attributes.get(place, {}).get("_init_kwargs")), prefix, 0)

    def _add(self, arguments: Mapping[Any, Any], prefix: str, depth: int) -> None:
        for name, value in arguments.items():
            if name == "mapping_kwargs":
                self._add(mapping(value), "mapping_", depth + 1)
            elif isinstance(name, str) and name.endswith("_kwargs") and depth < 4:
                self._add(mapping(value), prefix, depth + 1)
            elif isinstance(name, str):
                self.arguments[prefix + name] = value

    def values(self, name: str, layers: re.Pattern[str], argument: str | None = None) -> list[Any]:
        """The different values of an attribute of the modules whose path matches, else that of the argument."""
        found = [value[name] for place, value in self.attributes.items() if layers.search(place) and name in value]
        if not found and (argument or name) in self.arguments:
            found = [self.arguments[argument or name]]
        return list({repr(value): value for value in found}.values())

    def number(
        self, name: str, layers: re.Pattern[str], default: float | None, argument: str | None = None, none: bool = False
    ) -> float | None:
        """A number that all layers agree on. none: whether None is a value too."""
        found = self.values(name, layers, argument)
        if not found:
            return default
        if len(found) > 1:
            raise ValueError(
                f"The network in {self.path} has layers with different {name}, which stylereel's have not."
            )
        return None if none and found[0] is None else _number(self.path, argument or name, found[0])

    def check_activations(self) -> None:
        """Raise ValueError unless the layers between inputs and outputs have leaky ReLUs."""
        names = ("mapping_activation", "nonlinearity", "mapping_nonlinearity")
        named = self.values("activation", _ACTIVE) + [self.arguments[name] for name in names if name in self.arguments]
        for value in named:
            if value != "lrelu":
                raise ValueError(
                    f"The network in {self.path} has other activations than leaky ReLU ({shortened(value)}), which "
                    "stylereel's networks do not have."
                )


def _number(path: Path, name: str, value: Any) -> float:
    """A number of any kind as int or float. Raises ValueError for anything else, and for what is not finite."""
    if isinstance(value, (Tensor, np.ndarray, np.generic)) and math.prod(value.shape) == 1:
        value = value.item()
    if not isinstance(value, (int, float)) or not math.isfinite(value):
        raise ValueError(f"The network in {path} has a {name} that is no number: {shortened(repr(value))}.")
    return int(value) if isinstance(value, int) else value


def _checked_resolution(path: Path, resolution: int) -> int:
    if not 8 <= resolution <= MAX_RESOLUTION or resolution & (resolution - 1):
        raise ValueError(f"The network in {path} is of {resolution} px; such a size is not supported.")
    return resolution


def _label_config(path: Path, state: Mapping[str, Tensor], meta: Metadata, w_dim: int) -> dict[str, Any]:
    """The settings of a mapping network with outputs of w_dim."""
    embed = state.get("mapping.embed.weight")
    indices = [int(match[1]) for key in state if (match := re.fullmatch(r"mapping\.fc(\d{1,9})\.weight", key))]
    layers = 1 + max(indices, default=-1)
    if layers > LIMITS["mapping_layers"][1]:
        raise ValueError(f"The network in {path} has {layers} mapping layers, more than any network needs.")
    # A file from which they were lost has none either, so no layers must be stated.
    if not layers and (
        meta.number("num_layers", _MAPPING_NETWORK, meta.arguments.get("mapping_layers"), "mapping_num_layers") != 0
    ):
        raise KeyError("mapping.fc0.weight")
    multiplier: float | None = 0.01
    for name in ("bias_gain", "lr_mul"):  # of NVIDIA's and of rosinality's modules
        multiplier = meta.number(name, _MAPPING, multiplier, "mapping_lr_multiplier")
    multiplier = meta.number("", _NOTHING, multiplier, "mapping_lrmul")
    assert multiplier is not None
    embedding = embed.shape[0] if embed is not None else 0
    hidden = state["mapping.fc0.weight"].shape[0] if layers > 1 else w_dim
    return {
        "c_dim": embed.shape[1] if embed is not None else 0,
        "mapping_layers": layers,
        "mapping_learning_rate_multiplier": float(multiplier),
        "embed_features": embedding if embed is not None and embedding != w_dim else None,
        "layer_features": hidden if hidden != w_dim else None,
    }


def _mapping_config(path: Path, state: Mapping[str, Tensor], meta: Metadata, w_dim: int) -> dict[str, Any]:
    settings = _label_config(path, state, meta, w_dim)
    embedding = (settings["embed_features"] or w_dim) if settings["c_dim"] else 0
    inputs = state["mapping.fc0.weight"].shape[1] if settings["mapping_layers"] else w_dim
    return {**settings, "z_dim": inputs - embedding, "w_dim": w_dim}


def _widths_config(widths: Mapping[int, int], meta: Metadata) -> dict[str, Any]:
    """channel_base and channel_max that give blocks of these widths, or the widths where none do."""
    largest = max(widths.values())
    low = max(resolution * width for resolution, width in widths.items())
    high = min(((width + 1) * r - 1 for r, width in widths.items() if width < largest), default=low)
    stated = meta.arguments.get("channel_base"), meta.arguments.get("channel_max", largest)
    for base, most in (stated, (widths[max(widths)] * max(widths), largest), (low, largest)):
        if type(base) is int and type(most) is int and all(min(base // r, most) == widths[r] for r in widths):
            return {"channel_base": base, "channel_max": most}
    return {"channel_base": min(low, high), "channel_max": largest, "widths": tuple(widths[r] for r in sorted(widths))}


def resample_filter(path: Path, filters: Mapping[str, Tensor], meta: Metadata) -> FilterTaps:
    """The taps of the resampling filters [N, N] or [N] of a StyleGAN2, else those that its arguments name.

    Raises ValueError if they differ from each other, or are no product of one row with itself.
    """
    found = {_taps(path, key, value) for key, value in filters.items()}
    if not found and "resample_kernel" in meta.arguments:  # of TensorFlow, where None is a box
        row = meta.arguments["resample_kernel"]
        found = {_taps(path, "resample_kernel", _row(path, [1, 1] if row is None else row))}
    elif not found and "resample_filter" in meta.arguments:
        row = meta.arguments["resample_filter"]
        found = {_taps(path, "resample_filter", _row(path, [1] if row is None else row))}
    if len(found) > 1:
        raise ValueError(f"The network in {path} resamples with different filters, which stylereel's do not.")
    return found.pop() if found else BINOMIAL


def _row(path: Path, row: Any) -> Tensor:
    if isinstance(row, (list, tuple)) and row and not isinstance(row[0], (list, tuple)):
        return torch.tensor([_number(path, "resampling filter", tap) for tap in row], dtype=torch.float32)
    if isinstance(row, (np.ndarray, Tensor)):
        return torch.as_tensor(np.asarray(row, np.float32))
    raise ValueError(f"The network in {path} has a resampling filter that is no row of numbers.")


def _taps(path: Path, key: str, value: Tensor) -> FilterTaps:
    value = value.double()
    row = value if value.ndim == 1 else value.sum(dim=1) if value.ndim == 2 else value.flatten()[:0]
    if not 1 <= len(row) <= 64 or not value.isfinite().all() or not row.sum():
        raise ValueError(f"The filter {shortened(key)} in {path} is none that a network resamples with.")
    row = row / row.sum()
    if value.ndim == 2 and not torch.allclose(value / value.sum(), torch.outer(row, row), atol=1e-4):
        raise ValueError(f"The filter {shortened(key)} in {path} is no product of one row of taps with itself.")
    # The whole numbers that people write, where there are such.
    whole = row / row[row != 0].abs().min()
    row = whole.round() if torch.allclose(whole, whole.round(), atol=1e-3) else row
    return tuple(row.tolist())


def stylegan2_config(
    path: Path, state: Mapping[str, Tensor], filters: Mapping[str, Tensor], attributes: Attributes
) -> StyleGAN2Config:
    meta = Metadata(path, attributes)
    meta.check_activations()
    widths = _widths(state, r"synthesis\.b(\d{1,9})\.conv1\.weight")
    resolution = _checked_resolution(path, max(widths, default=0))
    w_dim = state["synthesis.b4.conv1.affine.weight"].shape[1]
    return StyleGAN2Config(
        resolution=resolution,
        img_channels=state[f"synthesis.b{resolution}.torgb.weight"].shape[0],
        architecture=_architecture_of(state, "torgb", resolution),
        conv_clamp=meta.number("conv_clamp", _CLAMPED, None, none=True),
        use_noise=any(key.endswith((".noise_strength", ".noise_const")) for key in state),
        resample_filter=resample_filter(path, filters, meta),
        **_widths_config(_all_widths(path, widths), meta),
        **_mapping_config(path, state, meta, w_dim),
    )


def _widths(state: Mapping[str, Tensor], pattern: str) -> dict[int, int]:
    return {int(match[1]): value.shape[0] for key, value in state.items() if (match := re.fullmatch(pattern, key))}


def _all_widths(path: Path, widths: Mapping[int, int]) -> dict[int, int]:
    """The widths of the blocks from 4 px up. Raises ValueError if one is missing."""
    sizes = [2**i for i in range(2, max(widths).bit_length())]
    if sorted(widths) != sizes or min(widths.values()) < 1:
        raise ValueError(f"The network in {path} lacks blocks, or has some of sizes that are not known.")
    return {size: widths[size] for size in sizes}


def _architecture_of(state: Mapping[str, Tensor], colours: str, resolution: int) -> Architecture:
    """Where blocks have a way for colours of their own; the last resolution has it in every architecture."""
    if any(re.search(r"(^|\.)b\d+\.skip\.", key) for key in state):
        return "resnet"
    last = f"b{resolution}.{colours}."
    return "skip" if any(f".{colours}." in key and last not in key for key in state) else "orig"


# Ranges of any network's settings; those of _STYLEGAN3_OPTIONS are only in a pickle's attributes.
LIMITS = {
    "resolution": (8, MAX_RESOLUTION),
    "mapping_layers": (0, 64),
    "num_layers": (2, 64),
    "channel_base": (1, 2**20),
    "num_critical": (0, 32),
    "first_cutoff": (1, 64),
    "first_stopband": (1, 64),
    "last_stopband_rel": (1, 16),
    "margin_size": (0, 64),
    "output_scale": (0, 64),
    "filter_size": (1, 64),
    "lrelu_upsampling": (1, 8),
    "conv_clamp": (0, 2**20),
}
_STYLEGAN3_OPTIONS = tuple(LIMITS)[3:-1]
_FRACTIONS = ("first_cutoff", "first_stopband", "last_stopband_rel", "output_scale", "conv_clamp")


def stylegan3_config(
    path: Path, state: Mapping[str, Tensor], filters: Mapping[str, Tensor], attributes: Attributes
) -> StyleGAN3Config:
    layers = {
        int(match[1]): (int(match[2]), int(match[3]), value)
        for key, value in state.items()
        if (match := re.fullmatch(r"synthesis\.L(\d{1,3})_(\d{1,5})_(\d{1,6})\.weight", key))
    }
    num_layers = len(layers) - 1
    if num_layers < 2 or sorted(layers) != list(range(num_layers + 1)):
        raise ValueError(f"The StyleGAN3 generator in {path} lacks layers; get a complete copy.")
    meta = Metadata(path, attributes)
    meta.check_activations()
    options: dict[str, Any] = {"conv_clamp": meta.number("conv_clamp", _CLAMPED, 256, none=True)}
    for name in _STYLEGAN3_OPTIONS:
        option = meta.number(name, _SYNTHESIS, None)
        if option is not None:
            whole = name not in _FRACTIONS and float(option).is_integer()
            options[name] = int(option) if whole else option
    for name, option in options.items():
        low, high = LIMITS[name]
        if option is not None and (not low <= option <= high or (name not in _FRACTIONS and type(option) is not int)):
            raise ValueError(f"The StyleGAN3 generator in {path} has an impossible {name}.")
    resolution = _checked_resolution(path, layers[num_layers][0])
    widths = [layers[i][1] for i in range(num_layers)]
    radial = meta.arguments.get("use_radial_filters")
    if radial not in (False, True, None):
        raise ValueError(f"The StyleGAN3 generator in {path} has a use_radial_filters that is neither true nor false.")
    if radial is None:
        first = filters.get("synthesis.L0_{}_{}.down_filter".format(*layers[0][:2]))
        radial = layers[0][2].shape[-1] == 1 if first is None else first.ndim == 2
    fixed = {
        "resolution": resolution,
        "img_channels": layers[num_layers][1],
        "channel_max": max(widths),
        "num_layers": num_layers,
        "conv_kernel": layers[0][2].shape[-1],
        "use_radial_filters": bool(radial),
        **_mapping_config(path, state, meta, state["synthesis.input.affine.weight"].shape[1]),
        **options,
    }
    # The names of the layers show how many are critically sampled, and the filters where names are the same;
    # official networks have two.
    criticals = [options["num_critical"]] if "num_critical" in options else [2, 1, 3, 4, 0]
    named = []
    for critical in criticals:
        try:
            base = options.get("channel_base") or _channel_base(widths, resolution, critical, options)
            config = StyleGAN3Config(**{**fixed, "num_critical": critical, "channel_base": base})
            if all(f"synthesis.{layer.name}.weight" in state for layer in config.layers()):
                named.append(config)
        except (ValueError, TypeError, ArithmeticError) as error:
            if len(criticals) == 1:
                reason = shortened(error)
                raise ValueError(f"The StyleGAN3 generator in {path} has impossible settings: {reason}.") from error
    if not named:
        raise ValueError(f"The layers of the StyleGAN3 generator in {path} follow no known plan of sizes and channels.")
    fitting = [config for config in named if not other_filter(config, filters)]
    if not fitting:
        key = shortened(other_filter(named[0], filters))
        raise ValueError(f"{path} uses another filter {key} than stylereel makes for such a network.")
    return fitting[0]


def other_filter(config: StyleGAN3Config, filters: Mapping[str, Tensor]) -> str | None:
    """The first of a StyleGAN3's stored filters that is not the one that ours has, if there is one."""
    for layer in config.layers():
        for name, ours in (("up_filter", layer.up_filter()), ("down_filter", layer.down_filter())):
            value = filters.get(key := f"synthesis.{layer.name}.{name}")
            if value is not None and ours is not None:
                if ours.shape != value.shape or not torch.allclose(ours, value, atol=1e-4):
                    return key
    return None


def _channel_base(widths: Sequence[int], resolution: int, num_critical: int, options: Mapping[str, Any]) -> int:
    """The roundest channel base that gives a StyleGAN3 of these layers: width = round(base / (2 cutoff))."""
    low, high = 1.0, math.inf
    first = options.get("first_cutoff", 2)
    for i, width in enumerate(widths):
        cutoff = first * (resolution / 2 / first) ** min(i / (len(widths) - num_critical), 1)
        low = max(low, (width - 0.5) * 2 * cutoff)
        high = min(high, (width + 0.5) * 2 * cutoff) if width < max(widths) else high
    power = 2 ** math.ceil(math.log2(low))
    while power > 1 and math.ceil(low / power) * power > high:
        power //= 2
    return math.ceil(low / power) * power


def discriminator_config(
    path: Path, state: Mapping[str, Tensor], filters: Mapping[str, Tensor], attributes: Attributes
) -> DiscriminatorConfig:
    meta = Metadata(path, attributes)
    meta.check_activations()
    widths = _widths(state, r"b(\d{1,9})\.conv0\.weight")
    resolution = _checked_resolution(path, max(widths, default=0))
    outputs, inputs = state["b4.conv.weight"].shape[:2]
    widths = _all_widths(path, {4: outputs, **widths})
    settings: dict[str, Any] = {}
    if "mapping.embed.weight" in state:
        cmap_dim = state["b4.out.weight"].shape[0]
        settings = {**_label_config(path, state, meta, cmap_dim), "cmap_dim": cmap_dim if cmap_dim != outputs else None}
    group = meta.number("group_size", _DEVIATION, 4, "mbstd_group_size", none=True)
    return DiscriminatorConfig(
        resolution=resolution,
        img_channels=state[f"b{resolution}.fromrgb.weight"].shape[1],
        mbstd_group_size=None if group is None else int(group),
        mbstd_num_channels=inputs - outputs,
        conv_clamp=meta.number("conv_clamp", _CLAMPED, None, none=True),
        architecture=_architecture_of(state, "fromrgb", resolution),
        resample_filter=resample_filter(path, filters, meta),
        **_widths_config(widths, meta),
        **settings,
    )


def mapping(value: Any) -> dict[Any, Any]:
    """The items of a dict, of a subclass of it, or the attributes of an object."""
    if isinstance(value, Stub):
        value = value.items or value.state
    return value if isinstance(value, dict) else {}


def shortened(value: object) -> str:
    """Words from a file, fit for a message of one line."""
    text = " ".join(ascii(str(value))[1:-1].split()).rstrip(".")
    return text if len(text) <= 160 else text[:160] + "..."
