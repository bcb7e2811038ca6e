"""StyleGAN2 and StyleGAN3 synthesis in the plain form: the yardstick of benchmarks/generator.py, not for use.

It does what the papers' equations say step by step, in the order and with the memory layout of the official
programs' fallback code: every sample gets modulated weights of its own and one group of a grouped convolution;
up-sampling inserts zeros and filters at the full rate; down-sampling filters at the full rate and drops samples;
bias, activation, clamp and noise are passes of their own; tensors are NCHW. The weights come from our networks by
their names, which are NVIDIA's; sizes are read from names and shapes.

Karras et al., "Analyzing and Improving the Image Quality of StyleGAN" (2020) and "Alias-Free Generative
Adversarial Networks" (2021); the latter's appendix C and D give filters and layer geometry.
"""

import math
from collections.abc import Mapping
from functools import cache

import numpy as np
import scipy.signal
import scipy.special
import torch
import torch.nn.functional as F
from torch import Tensor, nn

Tensors = Mapping[str, Tensor]

BINOMIAL = (1.0, 3.0, 3.0, 1.0)
SQRT2 = math.sqrt(2)


def tensors_of(module: nn.Module) -> dict[str, Tensor]:
    """Parameters and buffers by name, still joined to the module, so gradients reach it."""
    return {**dict(module.named_parameters()), **dict(module.named_buffers())}


def is_stylegan3(tensors: Tensors) -> bool:
    return "synthesis.input.freqs" in tensors


def synthesize(tensors: Tensors, w: Tensor, clamp: float | None = None, per_sample: bool = True) -> Tensor:
    """W+ codes [B, L, D] to images [B, 3, H, W] with the stored noise, by whichever network the tensors are of."""
    return stylegan3(tensors, w) if is_stylegan3(tensors) else stylegan2(tensors, w, clamp, per_sample)


# --- passes


def resample(
    x: Tensor, taps: Tensor, up: int = 1, down: int = 1, padding: tuple[int, int] = (0, 0), gain: float = 1.0
) -> Tensor:
    """Insert zeros, pad (or crop) both axes alike, filter with taps [N] per axis or [N, N], drop samples."""
    batch, channels, height, width = x.shape
    if up > 1:
        x = F.pad(x.reshape(batch, channels, height, 1, width, 1), (0, up - 1, 0, 0, 0, up - 1))
        x = x.reshape(batch, channels, height * up, width * up)
    x = F.pad(x, (*padding, *padding))
    taps = taps.to(x) * gain ** (taps.ndim / 2)
    if taps.ndim == 2:
        x = F.conv2d(x, taps.expand(channels, 1, -1, -1), groups=channels)
    else:
        x = F.conv2d(x, taps[None, :].expand(channels, 1, -1, -1), groups=channels)
        x = F.conv2d(x, taps[:, None].expand(channels, 1, -1, -1), groups=channels)
    return x[:, :, ::down, ::down]


@cache
def _binomial(dtype: torch.dtype, device: torch.device) -> Tensor:
    with torch.inference_mode(False):  # else it could not serve in training later
        taps = torch.tensor(BINOMIAL, device=device, dtype=dtype) / 8
        return torch.outer(taps, taps)


def binomial(like: Tensor) -> Tensor:
    """[1, 3, 3, 1] on both axes, with the sum 1."""
    return _binomial(like.dtype, like.device)


def bias_activation(x: Tensor, bias: Tensor | None, slope: float, gain: float, clamp: float | None) -> Tensor:
    if bias is not None:
        x = x + bias[:, None, None]
    if slope != 1:
        x = F.leaky_relu(x, slope)
    if gain != 1:
        x = x * gain
    return x if clamp is None else x.clamp(-clamp, clamp)


def linear(tensors: Tensors, name: str, x: Tensor, slope: float = 1.0) -> Tensor:
    weight = tensors[f"{name}.weight"] * (1 / math.sqrt(x.shape[1]))
    x = torch.addmm(tensors[f"{name}.bias"], x, weight.T)
    return F.leaky_relu(x, slope) * SQRT2 if slope != 1 else x


def convolve_each(x: Tensor, weight: Tensor, padding: int = 0, transposed: bool = False) -> Tensor:
    """Convolve sample b of x [B, I, H, W] with weight[b] [O, I, K, K]: one convolution of B groups."""
    batch, outputs, inputs, size, _ = weight.shape
    x = x.reshape(1, batch * inputs, *x.shape[2:])
    if transposed:
        weight = weight.transpose(1, 2).reshape(batch * inputs, outputs, size, size)
        x = F.conv_transpose2d(x, weight, stride=2, groups=batch)
    else:
        x = F.conv2d(x, weight.reshape(batch * outputs, inputs, size, size), padding=padding, groups=batch)
    return x.reshape(batch, outputs, *x.shape[2:])


# --- StyleGAN2


def stylegan2(tensors: Tensors, w: Tensor, clamp: float | None = None, per_sample: bool = True) -> Tensor:
    """Skip architecture, stored noise. Without per_sample the activations are scaled, as in official training."""
    sizes = sorted(int(name.split(".")[1][1:]) for name in tensors if name.endswith("torgb.weight"))
    x = tensors["synthesis.b4.const"].expand(len(w), -1, -1, -1)
    image: Tensor | None = None
    row = 0
    for size in sizes:
        for layer in ("conv0", "conv1") if size > 4 else ("conv1",):
            x = _layer(tensors, f"synthesis.b{size}.{layer}", x, w[:, row], layer == "conv0", clamp, per_sample)
            row += 1
        name = f"synthesis.b{size}.torgb"
        style = linear(tensors, f"{name}.affine", w[:, row]) * (1 / math.sqrt(x.shape[1]))
        if per_sample:
            colours = convolve_each(x, tensors[f"{name}.weight"] * style[:, None, :, None, None])
        else:
            colours = F.conv2d(x * style[:, :, None, None], tensors[f"{name}.weight"])
        colours = bias_activation(colours, tensors[f"{name}.bias"], slope=1, gain=1, clamp=clamp)
        if image is not None:
            colours = resample(image, binomial(image), up=2, padding=(2, 1), gain=4).add_(colours)
        image = colours
    assert image is not None
    return image


def _layer(
    tensors: Tensors, name: str, x: Tensor, w: Tensor, up: bool, clamp: float | None, per_sample: bool
) -> Tensor:
    weight = tensors[f"{name}.weight"]
    style = linear(tensors, f"{name}.affine", w)
    modulated = weight * style[:, None, :, None, None]
    demodulation = (modulated.square().sum(dim=(2, 3, 4)) + 1e-8).rsqrt()
    noise = tensors[f"{name}.noise_const"] * tensors[f"{name}.noise_strength"]
    if per_sample:
        x = convolve_each(x, modulated * demodulation[:, :, None, None, None], padding=1, transposed=up)
    else:
        x = x * style[:, :, None, None]
        x = F.conv_transpose2d(x, weight.transpose(0, 1), stride=2) if up else F.conv2d(x, weight, padding=1)
    if up:
        x = resample(x, binomial(x), padding=(1, 1), gain=4)
    x = x.add_(noise) if per_sample else torch.addcmul(noise, x, demodulation[:, :, None, None])
    return bias_activation(x, tensors[f"{name}.bias"], slope=0.2, gain=SQRT2, clamp=clamp)


def discriminator(tensors: Tensors, image: Tensor, group_size: int = 4) -> Tensor:
    """Images [B, 3, H, W] to scores [B, 1]: residual blocks, deviation over the batch, two linear layers."""
    sizes = sorted((int(name.split(".")[0][1:]) for name in tensors if name.endswith("skip.weight")), reverse=True)
    x = _equalized(tensors, f"b{sizes[0]}.fromrgb", image)
    for size in sizes:
        skip = resample(x, binomial(x), down=2, padding=(1, 1))
        weight = tensors[f"b{size}.skip.weight"]
        skip = F.conv2d(skip, weight * (1 / math.sqrt(weight.shape[1]))) * math.sqrt(0.5)
        x = _equalized(tensors, f"b{size}.conv0", x)
        x = resample(x, binomial(x), padding=(2, 2))
        x = _equalized(tensors, f"b{size}.conv1", x, stride=2, gain=math.sqrt(0.5)) + skip
    batch, channels, height, width = x.shape
    groups = x.reshape(min(group_size, batch), -1, 1, channels, height, width)
    spread = ((groups - groups.mean(dim=0)).square().mean(dim=0) + 1e-8).sqrt().mean(dim=(2, 3, 4))
    x = torch.cat([x, spread.reshape(-1, 1, 1, 1).repeat(len(groups), 1, height, width)], dim=1)
    x = linear(tensors, "b4.fc", _equalized(tensors, "b4.conv", x).flatten(1), slope=0.2)
    return linear(tensors, "b4.out", x)


def _equalized(tensors: Tensors, name: str, x: Tensor, stride: int = 1, gain: float = 1.0) -> Tensor:
    weight = tensors[f"{name}.weight"]
    padding = weight.shape[-1] // 2 if stride == 1 else 0  # before a stride, the filter has padded already
    x = F.conv2d(x, weight * (1 / math.sqrt(weight[0].numel())), stride=stride, padding=padding)
    return bias_activation(x, tensors[f"{name}.bias"], slope=0.2, gain=SQRT2 * gain, clamp=None)


# --- StyleGAN3

FIRST_CUTOFF, FIRST_STOPBAND = 2.0, 2**2.1
LAST_STOPBAND = 2**0.3  # times the last cut-off, which is half the resolution
MARGIN = 10  # pixels around the image in every layer but the last two
TAPS = 6  # times the factor of a filter
NUM_CRITICAL = 2  # layers at the end whose cut-off is as far as sampling allows
CLAMP = 256.0
OUTPUT_SCALE = 0.25


def lowpass(taps: int, cutoff: float, width: float, rate: float, radial: bool) -> np.ndarray:
    """Kaiser-windowed low-pass filter [taps], or [taps, taps] with radial symmetry (appendix C)."""
    if taps == 1:
        return np.ones(1)
    if not radial:
        return np.asarray(scipy.signal.firwin(taps, cutoff, width=width, fs=rate))
    axis = (np.arange(taps) - (taps - 1) / 2) / rate
    radius = np.hypot(*np.meshgrid(axis, axis))
    jinc = scipy.special.j1(2 * np.pi * cutoff * radius) / (np.pi * radius)
    beta = scipy.signal.kaiser_beta(scipy.signal.kaiser_atten(taps, width / (rate / 2)))
    window = np.kaiser(taps, beta)
    kernel = jinc * np.outer(window, window)
    return kernel / kernel.sum()


@cache
@torch.inference_mode(False)
def geometry(names: tuple[str, ...], kernel: int, device: torch.device) -> list[dict]:
    """Of the input, then of every layer: rates, filters, padding, from the names L0_36_512 ... (appendix D)."""
    sizes = [int(name.split("_")[1]) for name in names]
    resolution = sizes[-1]
    layers = len(names) - 1  # without the one to colours
    progress = np.minimum(np.arange(layers + 1) / (layers - NUM_CRITICAL), 1)
    cutoffs = FIRST_CUTOFF * (resolution / 2 / FIRST_CUTOFF) ** progress
    stopbands = FIRST_STOPBAND * (resolution / 2 * LAST_STOPBAND / FIRST_STOPBAND) ** progress
    rates = np.exp2(np.ceil(np.log2(np.minimum(stopbands * 2, resolution))))
    half_widths = np.maximum(stopbands, rates / 2) - cutoffs

    out = [{"rate": rates[0], "cutoff": cutoffs[0], "size": int(rates[0]) + 2 * MARGIN}]
    for i, size in enumerate(sizes):
        before = max(i - 1, 0)
        colours = i == layers
        inner = max(rates[before], rates[i]) * (1 if colours else 2)  # the activation runs at twice the rate
        up, down = round(inner / rates[before]), round(inner / rates[i])
        up_taps, down_taps = (1, 1) if colours else (TAPS * up, TAPS * down)
        radial = kernel == 1 and i < layers - NUM_CRITICAL
        incoming = out[0]["size"] if i == 0 else sizes[before]
        missing = (size - 1) * down + 1 - (incoming + (1 if colours else kernel) - 1) * up + up_taps + down_taps - 2
        left = (missing + up) // 2
        up_filter = lowpass(up_taps, cutoffs[before], half_widths[before] * 2, inner, False)
        down_filter = lowpass(down_taps, cutoffs[i], half_widths[i] * 2, inner, radial)
        out.append(
            {
                "up": up,
                "down": down,
                "padding": (left, missing - left),
                "up_filter": torch.tensor(up_filter, dtype=torch.float32, device=device),
                "down_filter": torch.tensor(down_filter, dtype=torch.float32, device=device),
            }
        )
    return out


def stylegan3(tensors: Tensors, w: Tensor) -> Tensor:
    """The published configurations: 3x3 convolutions (T), or 1x1 with radial filters (R)."""
    names = {name.split(".")[1] for name in tensors if name.startswith("synthesis.L")}
    ordered = tuple(sorted(names, key=lambda name: int(name[1:].split("_")[0])))
    first, *layers = geometry(ordered, tensors[f"synthesis.{ordered[0]}.weight"].shape[-1], w.device)
    x = fourier_features(tensors, w[:, 0], first)
    for row, (name, shape) in enumerate(zip(ordered, layers, strict=True), start=1):
        x = _alias_free_layer(tensors, f"synthesis.{name}", x, w[:, row], shape, colours=name == ordered[-1])
    return x * OUTPUT_SCALE


def fourier_features(tensors: Tensors, w: Tensor, first: dict) -> Tensor:
    """The input: sines on a grid that the code rotates and shifts, mixed by a matrix (section 3.1)."""
    pose = linear(tensors, "synthesis.input.affine", w)
    pose = pose / pose[:, :2].norm(dim=1, keepdim=True)
    cosine, sine, right, down = pose.unbind(dim=1)
    zero, one = torch.zeros_like(sine), torch.ones_like(sine)
    rotation = torch.stack([cosine, -sine, zero, sine, cosine, zero, zero, zero, one], dim=1).reshape(-1, 3, 3)
    shift = torch.stack([one, zero, -right, zero, one, -down, zero, zero, one], dim=1).reshape(-1, 3, 3)
    transform = rotation @ shift @ tensors["synthesis.input.transform"].to(w)

    freqs = tensors["synthesis.input.freqs"]
    phases = tensors["synthesis.input.phases"] + (freqs @ transform[:, :2, 2:]).squeeze(2)
    freqs = freqs @ transform[:, :2, :2]
    # Waves that the rotation or a zoom pushes beyond the band fade out.
    amplitudes = (1 - (freqs.norm(dim=2) - first["cutoff"]) / (first["rate"] / 2 - first["cutoff"])).clamp(0, 1)

    size = first["size"]
    reach = 0.5 * size / first["rate"]
    axis = ((torch.arange(size, device=w.device, dtype=w.dtype) * 2 + 1) / size - 1) * reach
    grid = torch.stack(torch.meshgrid(axis, axis, indexing="xy"), dim=-1)
    waves = torch.einsum("hwk,bck->bhwc", grid, freqs) + phases[:, None, None]
    x = torch.sin(waves * (2 * math.pi)) * amplitudes[:, None, None]
    weight = tensors["synthesis.input.weight"]
    return (x @ (weight / math.sqrt(len(weight))).T).permute(0, 3, 1, 2).contiguous()


def _alias_free_layer(tensors: Tensors, name: str, x: Tensor, w: Tensor, shape: dict, colours: bool) -> Tensor:
    weight = tensors[f"{name}.weight"]
    kernel = weight.shape[-1]
    style = linear(tensors, f"{name}.affine", w)
    if colours:
        modulated = weight * (style * (1 / math.sqrt(weight[0].numel())))[:, None, :, None, None]
    else:
        weight = weight * weight.square().mean(dim=(1, 2, 3), keepdim=True).rsqrt()
        style = style * style.square().mean().rsqrt()
        modulated = weight * style[:, None, :, None, None]
        modulated = modulated * (modulated.square().sum(dim=(2, 3, 4), keepdim=True) + 1e-8).rsqrt()
    modulated = modulated * tensors[f"{name}.magnitude_ema"].rsqrt()
    x = convolve_each(x, modulated, padding=kernel - 1)
    bias = tensors[f"{name}.bias"]
    if colours:
        return bias_activation(x, bias, slope=1, gain=1, clamp=CLAMP)
    up, down = shape["up"], shape["down"]
    x = bias_activation(x, bias, slope=1, gain=1, clamp=None)
    x = resample(x, shape["up_filter"], up=up, padding=shape["padding"], gain=up**2)
    x = bias_activation(x, None, slope=0.2, gain=SQRT2, clamp=CLAMP)
    return resample(x, shape["down_filter"], down=down)
