"""Configs of networks from the names and shapes of their tensors, and from what a pickle tells besides."""

from __future__ import annotations

import math
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Literal

from torch import Tensor

from stylereel.generator import DiscriminatorConfig, StyleGAN2Config, StyleGAN3Config
from stylereel.zoo.unpickle import Stub

MAX_RESOLUTION = 2048

Attributes = Mapping[str, Mapping[str, Any]]


def _attribute(attributes: Attributes, name: str, default: Any = None) -> Any:
    """The first number of that name among the attributes of the modules."""
    for values in attributes.values():
        if type(values.get(name)) in (int, float):
            return values[name]
    return default


def _checked_resolution(path: Path, resolution: int) -> int:
    if not 8 <= resolution <= MAX_RESOLUTION or resolution & (resolution - 1):
        raise ValueError(f"The network in {path} is of {resolution} px; such a size is not known.")
    return resolution


def _mapping_config(state: Mapping[str, Tensor], w_dim: int, attributes: Attributes) -> dict[str, Any]:
    c_dim = state["mapping.embed.weight"].shape[1] if "mapping.embed.weight" in state else 0
    multiplier = attributes.get("mapping.fc0", {}).get("bias_gain", _attribute(attributes, "lr_multiplier"))
    return {
        "z_dim": state["mapping.fc0.weight"].shape[1] - (w_dim if c_dim else 0),
        "w_dim": w_dim,
        "c_dim": c_dim,
        "mapping_layers": sum(re.fullmatch(r"mapping\.fc\d+\.weight", key) is not None for key in state),
        "mapping_learning_rate_multiplier": multiplier if type(multiplier) is float else 0.01,
    }


def stylegan2_config(path: Path, state: Mapping[str, Tensor], attributes: Attributes) -> StyleGAN2Config:
    widths = {
        int(match[1]): value.shape[0]
        for key, value in state.items()
        if (match := re.fullmatch(r"synthesis\.b(\d{1,9})\.conv1\.weight", key))
    }
    resolution = _checked_resolution(path, max(widths, default=0))
    colours = state[f"synthesis.b{resolution}.torgb.weight"].shape[0]
    architecture = _architecture_of(path, state)
    w_dim = state["synthesis.b4.conv1.affine.weight"].shape[1]
    return StyleGAN2Config(
        resolution=resolution,
        img_channels=colours,
        channel_base=widths[resolution] * resolution,
        channel_max=max(widths.values()),
        architecture=architecture,
        conv_clamp=_attribute(attributes, "conv_clamp"),
        **_mapping_config(state, w_dim, attributes),
    )


def _architecture_of(path: Path, state: Mapping[str, Tensor]) -> Literal["skip", "resnet"]:
    if "synthesis.b8.skip.weight" in state:
        return "resnet"
    if "synthesis.b4.torgb.weight" not in state:
        raise ValueError(f"The generator in {path} is neither of the skip nor of the resnet architecture.")
    return "skip"


# Between what the settings of any network lie; those of _STYLEGAN3_OPTIONS only a pickle's attributes tell.
LIMITS = {
    "resolution": (8, MAX_RESOLUTION),
    "mapping_layers": (0, 64),
    "num_layers": (2, 64),
    "channel_base": (1, 2**20),
    "num_critical": (1, 32),
    "first_cutoff": (1, 64),
    "first_stopband": (1, 64),
    "last_stopband_rel": (1, 16),
    "margin_size": (0, 64),
    "output_scale": (0, 64),
    "filter_size": (1, 64),
    "lrelu_upsampling": (1, 8),
    "conv_clamp": (0, 2**20),
}
_STYLEGAN3_OPTIONS = tuple(LIMITS)[3:]


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
    synthesis = attributes.get("synthesis", {})
    told = {
        **mapping(attributes.get("", {}).get("_init_kwargs")),
        **synthesis,
        **mapping(synthesis.get("_init_kwargs")),
    }
    told.setdefault("conv_clamp", _attribute(attributes, "conv_clamp"))
    options = {name: told[name] for name in _STYLEGAN3_OPTIONS if type(told.get(name)) in (int, float)}
    for name, option in options.items():
        if not LIMITS[name][0] <= option <= LIMITS[name][1]:
            raise ValueError(f"The StyleGAN3 generator in {path} has an impossible {name}.")
    resolution = _checked_resolution(path, layers[num_layers][0])
    widths = [layers[i][1] for i in range(num_layers)]
    radial = told.get("use_radial_filters")
    if type(radial) is not bool:
        first = filters.get("synthesis.L0_{}_{}.down_filter".format(*layers[0][:2]))
        radial = layers[0][2].shape[-1] == 1 if first is None else first.ndim == 2
    fixed = {
        "resolution": resolution,
        "img_channels": layers[num_layers][1],
        "channel_max": max(widths),
        "num_layers": num_layers,
        "conv_kernel": layers[0][2].shape[-1],
        "use_radial_filters": radial,
        **_mapping_config(state, state["synthesis.input.affine.weight"].shape[1], attributes),
        **options,
    }
    # The names of the layers tell how many are critically sampled; official networks have two.
    criticals = [options["num_critical"]] if "num_critical" in options else [2, 1, 3, 4]
    try:
        for critical in criticals:
            base = options.get("channel_base") or _channel_base(widths, resolution, critical)
            config = StyleGAN3Config(**{**fixed, "num_critical": critical, "channel_base": base})
            if all(f"synthesis.{layer.name}.weight" in state for layer in config.layers()):
                return config
    except (ValueError, TypeError, ArithmeticError) as error:
        raise ValueError(f"The StyleGAN3 generator in {path} has impossible settings: {shortened(error)}.") from error
    raise ValueError(f"The layers of the StyleGAN3 generator in {path} follow no known plan of sizes and channels.")


def _channel_base(widths: Sequence[int], resolution: int, num_critical: int) -> int:
    """The roundest channel base that gives a StyleGAN3 of these layers: width = round(base / (2 cutoff))."""
    low, high = 1.0, math.inf
    for i, width in enumerate(widths):
        cutoff = 2 * (resolution / 4) ** min(i / (len(widths) - num_critical), 1)
        low = max(low, (width - 0.5) * 2 * cutoff)
        high = min(high, (width + 0.5) * 2 * cutoff) if width < max(widths) else high
    power = 2 ** math.ceil(math.log2(low))
    while power > 1 and math.ceil(low / power) * power > high:
        power //= 2
    return math.ceil(low / power) * power


def discriminator_config(path: Path, state: Mapping[str, Tensor], attributes: Attributes) -> DiscriminatorConfig:
    widths = {
        int(match[1]): value.shape[0]
        for key, value in state.items()
        if (match := re.fullmatch(r"b(\d{1,9})\.conv0\.weight", key))
    }
    resolution = _checked_resolution(path, max(widths, default=0))
    last = state["b4.conv.weight"].shape
    group = _attribute(attributes, "group_size", _attribute(attributes, "mbstd_group_size"))
    return DiscriminatorConfig(
        resolution=resolution,
        c_dim=state["mapping.embed.weight"].shape[1] if "mapping.embed.weight" in state else 0,
        img_channels=state[f"b{resolution}.fromrgb.weight"].shape[1],
        channel_base=widths[resolution] * resolution,
        channel_max=max(last[0], *widths.values()),
        mbstd_group_size=group if type(group) is int and group > 0 else 4,
        mbstd_num_channels=last[1] - last[0],
        conv_clamp=_attribute(attributes, "conv_clamp"),
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
