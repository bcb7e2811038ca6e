"""Layers for inference on a CPU: faster twins of StyleGAN2's convolution and toRGB and of StyleGAN3's layer.

Used by themselves when no gradient is wanted, on CPU tensors in float32 or bfloat16; equal to the plain form up to
rounding (tests/test_fast.py). Where the time of the plain form goes: fresh memory for every result, five passes over
each feature, nine multiplications where Winograd's transform needs two and a quarter. So here the convolution runs
in strips that stay in the cache, one Numba kernel does the rest, and results lie in buffers that are used again.
"""

from __future__ import annotations

import functools
import math
import threading
from collections.abc import Callable
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor
from torch.utils.weak import WeakTensorKeyDictionary

from stylereel.generator.ops import ACTIVATION_GAIN, DEMODULATION_EPSILON, LEAKY_SLOPE

# Multiplications of a layer; in layers that have fewer, compiling the kernels (once) costs more than they ever save.
LEAST_WORK = 1e9
LEAST_WEIGHT = 1 << 20  # numbers in a weight from which on preparing it once pays, however small the picture
STRIP_BYTES = 8 << 20  # of a convolution's result; several fit into the last-level cache
WINOGRAD_CHANNELS = 64  # from here on Winograd's transform pays
TILE_NUMBERS = 32768  # tiles times channels of Winograd's at a time, more where many channels want larger products
_NO_NOISE = np.zeros((1, 1), np.float32)


class _Memory(threading.local):
    """Buffers by role, kept for the next call of the same thread and as large as the largest request."""

    def __init__(self) -> None:
        self.buffers: dict[str, Tensor] = {}

    def get(self, role: str, shape: tuple[int, ...], dtype: torch.dtype) -> Tensor:
        size = math.prod(shape) * dtype.itemsize
        if role not in self.buffers or self.buffers[role].numel() < size:
            with torch.inference_mode(False):
                self.buffers[role] = torch.empty(size, dtype=torch.uint8)
        return self.buffers[role][:size].view(dtype).view(shape)


_memory = _Memory()
_turn = threading.Lock()  # one layer at a time: it uses all cores, and not every thread pool of Numba's may be shared
_prepared: WeakTensorKeyDictionary = WeakTensorKeyDictionary()


def _alone(function: Callable[..., Tensor]) -> Callable[..., Tensor]:
    @functools.wraps(function)
    def waiting(*arguments: Any, **named: Any) -> Tensor:
        with _turn:
            return function(*arguments, **named)

    return waiting


def release() -> None:
    """Give back this thread's buffers and the transformed weights."""
    _memory.buffers.clear()
    _prepared.clear()


def takes(work: float, x: Tensor, *others: Tensor | None) -> bool:
    """Whether a fast twin can stand in for the plain form on features x and other tensors, the weight first.

    `work` is the layer's number of multiplications for one sample, as a plain 3x3 convolution counts them.
    """
    small = work < LEAST_WORK and not (others and others[0] is not None and others[0].numel() >= LEAST_WEIGHT)
    if small or x.device.type != "cpu" or x.dtype not in (torch.float32, torch.bfloat16):
        return False
    if torch.compiler.is_compiling() or torch.is_autocast_enabled("cpu"):
        return False
    tensors = [other for other in others if other is not None]
    if any(tensor.dtype != torch.float32 for tensor in tensors):
        return False
    return not (torch.is_grad_enabled() and any(tensor.requires_grad for tensor in (x, *tensors)))


def _derived(weight: Tensor, name: str, make: Callable[[Tensor], Any]) -> Any:
    """`make(weight)`, kept with the weight until it changes."""
    with torch.no_grad():
        if weight.is_inference():  # it may change without a trace
            return make(weight)
        known = _prepared.get(weight)
        if known is None or known[0] != weight._version:
            known = _prepared[weight] = (weight._version, {})
        if name not in known[1]:
            known[1][name] = make(weight.detach())
        return known[1][name]


def _energy(weight: Tensor) -> Tensor:
    """Sum of squares [O, I] over the window of a weight [O, I, K, K]."""
    return weight.square().sum(dim=(2, 3))


def _transform(weight: Tensor) -> Tensor:
    """Winograd's transform [36, I, O] of a weight [O, I, 3, 3]."""
    rows = [[6, 0, 0], [-4, -4, -4], [-4, 4, -4], [1, 2, 4], [1, -2, 4], [0, 0, 24]]
    matrix = torch.tensor(rows, dtype=torch.float64) / 24
    spread = torch.einsum("ar,oirs,bs->abio", matrix, weight.double(), matrix)
    return spread.reshape(36, weight.shape[1], weight.shape[0]).float().contiguous()


def _phases(weight: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """The parts of a 3x3 weight that make the even and odd rows and columns of its transposed convolution.

    Row y of that takes tap k from row (y - k) / 2: even rows the taps 2 and 0, odd rows tap 1.
    """
    parts = (
        weight[:, :, 0::2, 0::2].flip(2, 3),
        weight[:, :, 0::2, 1:2].flip(2),
        weight[:, :, 1:2, 0::2].flip(3),
        weight[:, :, 1:2, 1:2],
    )
    ee, eo, oe, oo = (part.contiguous(memory_format=torch.channels_last) for part in parts)
    return ee, eo, oe, oo


def _window(weight: Tensor) -> Tensor:
    return weight.contiguous(memory_format=torch.channels_last)


def _result(role: str | None, shape: tuple[int, ...], dtype: torch.dtype) -> Tensor:
    return torch.empty(shape, dtype=dtype) if role is None else _memory.get(role, shape, dtype)


def _array(x: Tensor) -> np.ndarray:
    """A channels-last picture [C, H, W] as array [H, W, C] on the same memory; bfloat16 as uint16."""
    x = x.detach().permute(1, 2, 0)
    return x.view(torch.uint16).numpy() if x.dtype == torch.bfloat16 else x.numpy()


def _rows(x: Tensor, first: int, last: int) -> Tensor:
    """Rows first..last of x [1, C, H, W], with zeros where they lie outside."""
    height = x.shape[2]
    part = x[:, :, max(first, 0) : min(last, height)]
    above, below = max(0, -first), max(0, last - height)
    return F.pad(part, (0, 0, above, below)) if above or below else part


@_alone
def modulated_conv(
    x: Tensor,
    weight: Tensor,
    style: Tensor,
    bias: Tensor,
    noise: Tensor | None,
    strength: Tensor,
    up: bool,
    gain: float,
    clamp: float | None,
    role: str | None,
) -> Tensor:
    """The twin of `ops.modulated_conv`. `role` names the buffer of the result; None makes a fresh one."""
    batch, _, height, width = x.shape
    outputs = weight.shape[0]
    shape = (batch, 2 * height, 2 * width, outputs) if up else (batch, height, width, outputs)
    winograd = x.dtype == torch.float32 and not up and min(weight.shape[:2]) >= WINOGRAD_CHANNELS and width >= 16
    energy = _derived(weight, "energy", _energy)
    # The style goes where there is less to multiply; a weight that stays as it is stays prepared.
    styled_input = not winograd and x[0].numel() <= weight.numel()
    prepare: Callable[[Tensor], Any] = _phases if up else _window

    def prepared(weight: Tensor) -> Any:
        return prepare(weight.to(x.dtype))

    result = _result(role, shape, x.dtype)
    total = ACTIVATION_GAIN * gain
    demodulation = total * (style.square() @ energy.T + DEMODULATION_EPSILON).rsqrt()
    shift = (total * bias).detach().numpy()
    limit = np.float32(math.inf if clamp is None else clamp * gain)
    for index in range(batch):
        factor = float(strength) * total
        if noise is None or factor == 0:
            grain = _NO_NOISE
        else:
            grain = (noise if noise.ndim == 2 or len(noise) == 1 else noise[index]).reshape(shape[1:3])
            grain = (grain.float() * factor).contiguous().numpy()
        sample, out = x[index : index + 1], result[index].permute(2, 0, 1)
        scale = demodulation[index].detach().numpy()
        if winograd:
            transform = _derived(weight, "winograd", _transform)
            _winograd(sample, transform, style[index], out, scale, shift, grain, limit)
            continue
        if styled_input:
            sample = sample * style[index].to(x.dtype)[:, None, None]
            kernel: Any = _derived(weight, f"{prepare.__name__} {x.dtype}", prepared)
        else:
            kernel = prepare((weight * style[index][None, :, None, None]).to(x.dtype))
        if up:
            _up(sample, kernel, out, scale / np.float32(16), shift, grain, limit)
        else:
            _direct(sample, kernel, out, scale, shift, grain, limit)
    return result.permute(0, 3, 1, 2)


def _strip(width: int, channels: int, dtype: torch.dtype) -> int:
    return max(4, STRIP_BYTES // (width * channels * dtype.itemsize))


def _direct(
    x: Tensor, weight: Tensor, out: Tensor, scale: np.ndarray, shift: np.ndarray, noise: np.ndarray, limit: np.float32
) -> None:
    from stylereel.generator.kernels import finish

    height, width = x.shape[2:]
    step = _strip(width, len(weight), x.dtype)
    for first in range(0, height, step):
        last = min(height, first + step)
        y = F.conv2d(_rows(x, first - 1, last + 1), weight, padding=(0, 1))
        finish(
            _array(y[0]),
            _array(out[:, first:last]),
            scale,
            shift,
            noise[first:last] if noise.size > 1 else noise,
            limit,
        )


def _up(
    x: Tensor,
    parts: tuple[Tensor, Tensor, Tensor, Tensor],
    out: Tensor,
    scale: np.ndarray,
    shift: np.ndarray,
    noise: np.ndarray,
    limit: np.float32,
) -> None:
    from stylereel.generator.kernels import smooth

    height, width = x.shape[2:]
    ee, eo, oe, oo = parts
    step = _strip(4 * width, len(ee), x.dtype)
    for first in range(0, height, step):
        last = min(height, first + step)
        part = _rows(x, first - 1, last + 1)
        even = _array(F.conv2d(part, ee, padding=(0, 1))[0]), _array(F.conv2d(part, eo)[0])
        odd = _array(F.conv2d(part, oe, padding=(0, 1))[0]), _array(F.conv2d(part, oo)[0])
        grain = noise[2 * first : 2 * last] if noise.size > 1 else noise
        each = max(4, (last - first + 3) // 4)
        target = _array(out[:, 2 * first : 2 * last])
        smooth(even[0], even[1], odd[0], odd[1], target, scale, shift, grain, limit, each)


def _winograd(
    x: Tensor,
    transform: Tensor,
    style: Tensor,
    out: Tensor,
    scale: np.ndarray,
    shift: np.ndarray,
    noise: np.ndarray,
    limit: np.float32,
    pad: int = 1,
    slope: float = LEAKY_SLOPE,
) -> None:
    """3x3 convolution of x [1, I, H, W] with `pad` zeros around it, then the kernel `finish`; into out [O, H', W']."""
    from stylereel.generator.kernels import winograd_input, winograd_output

    inputs, outputs = transform.shape[1:]
    down, across = -(-out.shape[1] // 4), -(-out.shape[2] // 4)
    widest = max(inputs, outputs)
    step = max(2, max(widest // 2, TILE_NUMBERS // widest) // across)
    source, target, factor = _array(x[0]), _array(out), style.numpy()
    spreads = _memory.get("winograd in", (36 * step * across * inputs,), torch.float32)
    products = _memory.get("winograd out", (36 * step * across * outputs,), torch.float32)
    for first in range(0, down, step):
        rows = min(step, down - first)
        tiles = rows * across
        spread = spreads[: 36 * tiles * inputs].view(36, tiles, inputs)
        product = products[: 36 * tiles * outputs].view(36, tiles, outputs)
        winograd_input(source, first, rows, across, pad, factor, spread.numpy())
        torch.bmm(spread, transform, out=product)
        winograd_output(product.numpy(), first, rows, across, target, scale, shift, noise, np.float32(slope), limit)


@_alone
def colours(x: Tensor, weight: Tensor, bias: Tensor, clamp: float | None, before: Tensor | None) -> Tensor:
    """toRGB with the sum of the blocks: x [B, I, H, W] by weight [B, K, I] plus bias [K], clamped; plus the image
    `before` [B, K, H / 2, W / 2] up-sampled. Returns float32 [B, K, H, W].
    """
    from stylereel.generator import kernels

    batch, _, height, width = x.shape
    out = torch.empty(batch, weight.shape[1], height, width)
    nothing = np.empty((0, 0, 0), np.float32)
    limit = np.float32(math.inf if clamp is None else clamp)
    for index in range(batch):
        image = nothing if before is None else before[index].contiguous().numpy()
        matrix, result = weight[index].contiguous().numpy(), out[index].numpy()
        kernels.colours(_array(x[index]), matrix, bias.detach().numpy(), limit, image, result)
    return out


@_alone
def filtered_layer(
    x: Tensor,
    weight: Tensor,
    style: Tensor,
    demodulation: Tensor,
    bias: Tensor,
    up_filter: Tensor,
    down_filter: Tensor,
    up: int,
    padding: tuple[int, int, int, int],
    size: int,
    clamp: float | None,
    role: str | None,
) -> Tensor:
    """One layer of StyleGAN3: the twin of `stylegan3.normalized_modulated_conv` and `resample.filtered_lrelu`.

    x [B, I, H, W] times style [B, I], convolved with weight [O, I, K, K] (K 1 or 3, with K - 1 zeros around x), times
    demodulation [B, O], plus bias [O]; then up-sampling by `up`, leaky ReLU, clamp and down-sampling by 2 to [B, O,
    size, size]. padding (left, right, top, bottom) belongs to the zero-stuffed picture.
    """
    from stylereel.generator.kernels import filtered_leaky_relu

    batch, inputs, height, width = x.shape
    outputs, kernel = weight.shape[0], weight.shape[2]
    winograd = kernel == 3 and x.dtype == torch.float32 and min(inputs, outputs) >= WINOGRAD_CHANNELS
    result = _result(role, (batch, size, size, outputs), x.dtype)
    convolved = _memory.get("convolved", (height + kernel - 1, width + kernel - 1, outputs), x.dtype)
    shift, ones, zeros = bias.detach().numpy(), np.ones(outputs, np.float32), np.zeros(outputs, np.float32)
    limit = np.float32(math.inf if clamp is None else clamp)
    up_taps = (up_filter * up).numpy()
    for index in range(batch):
        sample, target = x[index : index + 1], convolved.permute(2, 0, 1)
        scale = demodulation[index].detach().numpy()
        if winograd:
            factor = style[index].detach()
            free = np.float32(math.inf)
            _winograd(
                sample, _derived(weight, "winograd", _transform), factor, target, ones, zeros, _NO_NOISE, free, 2, 1.0
            )
        else:
            modulated = (weight * style[index][None, :, None, None]).detach().to(x.dtype)
            if kernel == 1:
                pixels = sample[0].permute(1, 2, 0).reshape(height * width, inputs)
                torch.mm(pixels, modulated.flatten(1).T, out=convolved.view(height * width, outputs))
            else:
                modulated = modulated.contiguous(memory_format=torch.channels_last)
                step = _strip(width, outputs, x.dtype)
                for first in range(0, height + 2, step):
                    last = min(height + 2, first + step)
                    strip = F.conv2d(_rows(sample, first - 2, last), modulated, padding=(0, 2))
                    target[:, first:last].copy_(strip[0])
        # A task takes sixteen channels; few channels are cut into more rows, so that all cores have work.
        chunk = max(8, -(-size // (64 // outputs + 1)))
        filtered_leaky_relu(
            convolved.view(torch.uint16).numpy() if x.dtype == torch.bfloat16 else convolved.numpy(),
            _array(result[index].permute(2, 0, 1)),
            scale,
            shift,
            up_taps,
            up,
            (padding[0], padding[2]),
            np.float32(ACTIVATION_GAIN),
            limit,
            down_filter.numpy(),
            chunk,
        )
    return result.permute(0, 3, 1, 2)
