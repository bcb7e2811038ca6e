"""Names of parameters in the families of weight files, and the renames to and from NVIDIA's, which are ours.

Tables for every resolution:

- rosinality (and the decoders of pSp and e4e): a pure rename; some tensors have axes of length 1 more there.
- TensorFlow StyleGAN2: kernels HWIO -> OIHW, those of up-sampling convolutions also turned by 180 degrees,
  dense weights transposed, and 1 added to the biases of modulation.

A key that no table knows keeps its name, so that whoever checks the result against a network can list it.
"""

import re
from collections.abc import Callable, Mapping

import numpy as np
import torch
from torch import Tensor

# rosinality's name of a part of a layer -> NVIDIA's.
CONVOLUTION = {
    "conv.weight": "weight",
    "conv.modulation.weight": "affine.weight",
    "conv.modulation.bias": "affine.bias",
    "activate.bias": "bias",
    "noise.weight": "noise_strength",
}
TO_RGB = {
    "conv.weight": "weight",
    "conv.modulation.weight": "affine.weight",
    "conv.modulation.bias": "affine.bias",
    "bias": "bias",
}
DISCRIMINATOR_BLOCK = {
    "conv1.0.weight": "conv0.weight",
    "conv1.1.bias": "conv0.bias",
    "conv2.1.weight": "conv1.weight",
    "conv2.2.bias": "conv1.bias",
    "skip.1.weight": "skip.weight",
}
DISCRIMINATOR_END = {
    "final_conv.0.weight": "b4.conv.weight",
    "final_conv.1.bias": "b4.conv.bias",
    "final_linear.0.weight": "b4.fc.weight",
    "final_linear.0.bias": "b4.fc.bias",
    "final_linear.1.weight": "b4.out.weight",
    "final_linear.1.bias": "b4.out.bias",
}

# Constant filters; networks make them themselves.
FILTER = re.compile(r"(^|\.)(resample_filter|kernel|up_filter|down_filter)$")
# Those of them that StyleGAN2 uses: NVIDIA's layers that change no size have one as well, always the default.
USED_FILTER = re.compile(r"^(synthesis\.b\d+\.((conv0|skip)\.)?|b\d+\.((conv1|skip)\.)?)resample_filter$|\.kernel$")
BINOMIAL = torch.outer(torch.tensor([1.0, 3.0, 3.0, 1.0]), torch.tensor([1.0, 3.0, 3.0, 1.0])) / 64


# --- rosinality


def generator_names(resolution: int, mapping_layers: int) -> dict[str, str]:
    """rosinality's names of a generator's parameters and noise maps -> NVIDIA's."""
    names = {"input.input": "synthesis.b4.const"}
    for i in range(mapping_layers):  # style.0 only normalises
        names |= {f"style.{i + 1}.{part}": f"mapping.fc{i}.{part}" for part in ("weight", "bias")}
    layers = [("conv1", "b4.conv1"), ("to_rgb1", "b4.torgb")]
    for k, r in enumerate(_resolutions(8, resolution)):
        layers += [(f"convs.{2 * k}", f"b{r}.conv0"), (f"convs.{2 * k + 1}", f"b{r}.conv1")]
        layers += [(f"to_rgbs.{k}", f"b{r}.torgb")]
    for theirs, ours in layers:
        parts = TO_RGB if theirs.startswith("to_rgb") else CONVOLUTION
        names |= {f"{theirs}.{part}": f"synthesis.{ours}.{name}" for part, name in parts.items()}
    convolutions = [ours for theirs, ours in layers if not theirs.startswith("to_rgb")]
    return names | {f"noises.noise_{k}": f"synthesis.{ours}.noise_const" for k, ours in enumerate(convolutions)}


def discriminator_names(resolution: int) -> dict[str, str]:
    """rosinality's names of a discriminator's parameters -> NVIDIA's."""
    names = {"convs.0.0.weight": f"b{resolution}.fromrgb.weight", "convs.0.1.bias": f"b{resolution}.fromrgb.bias"}
    for i, r in enumerate(reversed(_resolutions(8, resolution)), start=1):
        names |= {f"convs.{i}.{part}": f"b{r}.{name}" for part, name in DISCRIMINATOR_BLOCK.items()}
    return names | DISCRIMINATOR_END


def generator_from_rosinality(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """A rosinality generator's state dict under NVIDIA's names and shapes.

    The first generation of these files has no noise maps, and a layer's bias may be `convs.0.bias` [1, C, 1, 1]
    instead of `convs.0.activate.bias` [C].
    """
    state = {re.sub(r"^(conv1|convs\.\d+)\.bias$", r"\1.activate.bias", key): value for key, value in state.items()}
    blocks = 1 + max((int(key.split(".")[1]) for key in state if re.match(r"to_rgbs\.\d{1,2}\.", key)), default=-1)
    layers = sum(re.fullmatch(r"style\.\d+\.weight", key) is not None for key in state)
    return _rename(state, generator_names(4 * 2**blocks, layers))


def discriminator_from_rosinality(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """A rosinality discriminator's state dict under NVIDIA's names."""
    blocks = max((int(key.split(".")[1]) for key in state if re.match(r"convs\.\d{1,2}\.conv1\.", key)), default=0)
    return _rename(state, discriminator_names(4 * 2**blocks))


def generator_to_rosinality(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Our StyleGAN2's state dict (skip architecture) as a rosinality generator's, its constant kernels included.

    mapping.w_avg is left out: such files keep it next to the state dict, as latent_avg.
    """
    resolution = max(int(key.split(".")[1][1:]) for key in state if key.startswith("synthesis.b"))
    layers = sum(re.fullmatch(r"mapping\.fc\d+\.weight", key) is not None for key in state)
    result = {}
    for theirs, ours in generator_names(resolution, layers).items():
        value = state[ours]
        if theirs == "input.input" or theirs.endswith("conv.weight"):
            value = value[None]
        elif theirs.startswith("to_rgb") and theirs.endswith(".bias") and "modulation" not in theirs:
            value = value[None, :, None, None]
        elif theirs.startswith("noises."):
            value = value[None, None]
        elif theirs.endswith("noise.weight"):
            value = value[None]
        result[theirs] = value
    for k in range(len(_resolutions(8, resolution))):
        result[f"convs.{2 * k}.conv.blur.kernel"] = BINOMIAL * 4
        result[f"to_rgbs.{k}.upsample.kernel"] = BINOMIAL * 4
    return result


def discriminator_to_rosinality(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Our discriminator's state dict as a rosinality discriminator's, its constant kernels included."""
    resolution = max(int(key.split(".")[0][1:]) for key in state if re.match(r"b\d+\.", key))
    result = {theirs: state[ours] for theirs, ours in discriminator_names(resolution).items()}
    for i in range(1, len(_resolutions(8, resolution)) + 1):
        result |= {f"convs.{i}.{part}.0.kernel": BINOMIAL.clone() for part in ("conv2", "skip")}
    return result


# --- TensorFlow


def _kernel(value: np.ndarray) -> np.ndarray:
    return value.transpose(3, 2, 0, 1)


def _turned_kernel(value: np.ndarray) -> np.ndarray:
    return value[::-1, ::-1].transpose(3, 2, 0, 1)


def _dense(value: np.ndarray) -> np.ndarray:
    return value.T


def _plus_one(value: np.ndarray) -> np.ndarray:
    return value + 1


def _same(value: np.ndarray) -> np.ndarray:
    return value


Arithmetic = Callable[[np.ndarray], np.ndarray]
AXES: dict[Arithmetic, int] = {_kernel: 4, _turned_kernel: 4, _dense: 2}

# TensorFlow's name (a pattern), NVIDIA's PyTorch name, the arithmetic.
TENSORFLOW_GENERATOR: list[tuple[str, str, Arithmetic]] = [
    (r"dlatent_avg", r"mapping.w_avg", _same),
    (r"mapping/LabelEmbed/weight", r"mapping.embed.weight", _dense),
    (r"mapping/LabelEmbed/bias", r"mapping.embed.bias", _same),
    (r"mapping/Dense(\d+)/weight", r"mapping.fc\1.weight", _dense),
    (r"mapping/Dense(\d+)/bias", r"mapping.fc\1.bias", _same),
    (r"synthesis/4x4/Const/const", r"synthesis.b4.const", _same),
    (r"synthesis/(\d+)x\d+/Conv0_up/weight", r"synthesis.b\1.conv0.weight", _turned_kernel),
    (r"synthesis/(\d+)x\d+/Skip/weight", r"synthesis.b\1.skip.weight", _turned_kernel),
    (r"synthesis/(\d+)x\d+/Conv1?/weight", r"synthesis.b\1.conv1.weight", _kernel),
    (r"synthesis/(\d+)x\d+/ToRGB/weight", r"synthesis.b\1.torgb.weight", _kernel),
    *(
        rule
        for theirs, ours in (("Conv0_up", "conv0"), ("Conv1?", "conv1"), ("ToRGB", "torgb"))
        for rule in (
            (rf"synthesis/(\d+)x\d+/{theirs}/bias", rf"synthesis.b\1.{ours}.bias", _same),
            (rf"synthesis/(\d+)x\d+/{theirs}/noise_strength", rf"synthesis.b\1.{ours}.noise_strength", _same),
            (rf"synthesis/(\d+)x\d+/{theirs}/mod_weight", rf"synthesis.b\1.{ours}.affine.weight", _dense),
            (rf"synthesis/(\d+)x\d+/{theirs}/mod_bias", rf"synthesis.b\1.{ours}.affine.bias", _plus_one),
        )
    ),
    # noise0 is that of 4x4, then come two for every resolution.
    (r"synthesis/noise0", r"synthesis.b4.conv1.noise_const", _same),
    *(
        (rf"synthesis/noise{2 * k + i - 1}", rf"synthesis.b{4 * 2**k}.conv{i}.noise_const", _same)
        for k in range(1, 12)
        for i in range(2)
    ),
]
TENSORFLOW_DISCRIMINATOR: list[tuple[str, str, Arithmetic]] = [
    (r"(\d+)x\d+/FromRGB/weight", r"b\1.fromrgb.weight", _kernel),
    (r"(\d+)x\d+/FromRGB/bias", r"b\1.fromrgb.bias", _same),
    (r"(\d+)x\d+/Conv(0|1_down)/weight", r"b\1.conv\2.weight", _kernel),
    (r"(\d+)x\d+/Conv(0|1_down)/bias", r"b\1.conv\2.bias", _same),
    (r"(\d+)x\d+/Skip/weight", r"b\1.skip.weight", _turned_kernel),
    (r"4x4/Conv/weight", r"b4.conv.weight", _kernel),
    (r"4x4/Conv/bias", r"b4.conv.bias", _same),
    (r"4x4/Dense0/weight", r"b4.fc.weight", _dense),
    (r"4x4/Dense0/bias", r"b4.fc.bias", _same),
    (r"Output/weight", r"b4.out.weight", _dense),
    (r"Output/bias", r"b4.out.bias", _same),
    (r"LabelEmbed/weight", r"mapping.embed.weight", _dense),
    (r"LabelEmbed/bias", r"mapping.embed.bias", _same),
    (r"Mapping(\d+)/weight", r"mapping.fc\1.weight", _dense),
    (r"Mapping(\d+)/bias", r"mapping.fc\1.bias", _same),
]


def from_tensorflow(variables: Mapping[str, np.ndarray]) -> dict[str, Tensor]:
    """The variables of a TensorFlow StyleGAN2 generator or discriminator under NVIDIA's names and shapes.

    Names are as in "synthesis/8x8/Conv1/weight". Arrays that do not have the axes of their kind keep name and shape.
    Networks that grew have a way to or from colours for each size, of which the last counts when growing has ended.
    """
    sizes = [int(match[1]) for name in variables if (match := re.match(r"(?:synthesis/)?(\d{1,9})x\d+/", name))]
    last = rf"\g<1>{max(sizes, default=0)}x{max(sizes, default=0)}/\g<2>/"
    variables = {re.sub(r"^(synthesis/)?(ToRGB|FromRGB)_lod0/", last, name): v for name, v in variables.items()}
    generator = any(name.startswith("synthesis/") for name in variables)
    rules = [(re.compile(p), o, a) for p, o, a in (TENSORFLOW_GENERATOR if generator else TENSORFLOW_DISCRIMINATOR)]
    state: dict[str, Tensor] = {}
    for name, value in variables.items():
        if re.fullmatch(r"(synthesis/)?(lod|(ToRGB|FromRGB)_lod[1-9]\d?/.*)", name):
            continue
        key = name
        for pattern, ours, arithmetic in rules:
            if match := pattern.fullmatch(name):
                if value.ndim == AXES.get(arithmetic, value.ndim):
                    key, value = match.expand(ours).replace("1_down", "1"), arithmetic(value)
                break
        state[key] = _squeeze(key, torch.from_numpy(np.array(value, np.float32)))
    return state


# --- shapes and constants


def split_filters(state: Mapping[str, Tensor]) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
    """A state dict without its constant filters, and those of them that it uses."""
    filters = {key: value for key, value in state.items() if FILTER.search(key)}
    used = {key: value for key, value in filters.items() if USED_FILTER.search(key)}
    return {key: value for key, value in state.items() if key not in filters}, used


def _resolutions(first: int, last: int) -> list[int]:
    return [2**i for i in range(first.bit_length() - 1, last.bit_length())]


def _rename(state: Mapping[str, Tensor], names: Mapping[str, str]) -> dict[str, Tensor]:
    return {names.get(key, key): _squeeze(names.get(key, key), value) for key, value in state.items()}


def _squeeze(key: str, value: Tensor) -> Tensor:
    """The value without the axes of length 1 that other families add around a parameter of NVIDIA's name `key`."""
    part = key.rpartition(".")[2]
    if part == "noise_strength" and value.numel() == 1:
        return value.reshape(())
    if part == "bias":
        return value.flatten()
    extra = max(value.ndim - {"noise_const": 2, "const": 3, "weight": 4}.get(part, value.ndim), 0)
    return value.reshape(value.shape[extra:]) if all(length == 1 for length in value.shape[:extra]) else value
