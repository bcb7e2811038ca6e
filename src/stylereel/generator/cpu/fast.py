"""Layers for inference on a CPU: faster twins of StyleGAN2's convolution and toRGB and of StyleGAN3's layer.

Used automatically when no gradient is required, on CPU tensors in float32 or bfloat16; equal to the plain form up to
rounding (tests/test_fast.py). Where the time of the plain form goes: fresh memory for every result, five passes over
each feature, nine multiplications where Winograd's transform needs two and a quarter. So here the convolution runs
in strips that stay in the cache, one Numba kernel does the rest, and results are in buffers that are reused. Each
core works on strips of its own with torch on one thread: two pools of threads that take turns, torch's and another,
would wait for each other after every operation.
"""

from __future__ import annotations

import ctypes
import functools
import itertools
import math
import threading
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any, NamedTuple, TypeVar

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor
from torch.utils.weak import WeakTensorKeyDictionary

from stylereel.generator.ops import ACTIVATION_GAIN, DEMODULATION_EPSILON, LEAKY_SLOPE

# Multiplications of a layer; in layers that have fewer, compiling the kernels (once) costs more than they ever save.
LEAST_WORK = 1e9
LEAST_VALUES = 1 << 20  # of the high-rate features between StyleGAN3's filters, for the same reason
LEAST_WEIGHT = 1 << 20  # numbers in a weight from which on preparing it once pays, however small the image
STRIP_BYTES = 4 << 20  # of a convolution's result; one for each core fits into the last-level cache
LEAST_PIXELS = 96 * 96  # of features whose convolution by torch is shared; below, torch shares it better itself
WINOGRAD_CHANNELS = 32  # from here on Winograd's transform pays, in bfloat16 too, though its products are of float32
TILE_NUMBERS = 16384  # tiles times channels of Winograd's at a time, more where many channels want larger products
TASK_COLUMNS, TASK_ROWS, TASK_CHANNELS = 64, 128, 128  # of StyleGAN3's filters at a time
MIX_BYTES = 1 << 20  # of the larger side of a 1x1 convolution, which passes from one cache to the next
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
_making = threading.Lock()
_prepared: WeakTensorKeyDictionary = WeakTensorKeyDictionary()


Item = TypeVar("Item")


@functools.cache
def _make_pool(threads: int) -> ThreadPoolExecutor:
    """As many threads as torch has, each with torch on one thread, which is a setting of the thread."""
    ready = threading.Barrier(threads)

    def prepare() -> None:
        torch.set_num_threads(1)
        ready.wait()

    pool = ThreadPoolExecutor(threads, "stylereel-layers", prepare)
    for waiting in [pool.submit(torch.get_num_threads) for _ in range(threads)]:
        waiting.result()
    torch.set_num_threads(threads)  # new threads take the number that was set last
    return pool


def _pool(threads: int) -> ThreadPoolExecutor:
    with _making:  # two callers at once would make two, and see each other's numbers of threads meanwhile
        return _make_pool(threads)


def each(items: Sequence[Item], work: Callable[[Item], None]) -> None:
    """work(item) for all items, on as many cores as torch may use."""
    threads = torch.get_num_threads()
    if threads == 1 or len(items) == 1:
        for item in items:
            work(item)
        return

    def alone(item: Item) -> None:
        with torch.inference_mode():  # a setting of the thread too
            work(item)

    for _ in _pool(threads).map(alone, items):
        pass


def _strips(height: int, most: int, shared: bool = True) -> list[tuple[int, int]]:
    """First and last row of strips of at most `most` rows; if shared, an equal share of them for every core."""
    threads = torch.get_num_threads() if shared else 1
    count = -(-height // max(1, most))
    step = -(-height // (-(-count // threads) * threads))
    return [(first, min(height, first + step)) for first in range(0, height, step)]


def release() -> None:
    """Give back this thread's buffers and the transformed weights."""
    _memory.buffers.clear()
    _prepared.clear()


def keep_memory() -> bool:
    """Make the C library keep freed memory for the next request instead of giving it back; False where it cannot.

    It holds for the whole process, which then keeps its peak memory, so it is for programs to choose. With glibc, large
    tensors otherwise come as fresh pages each time, which cost more than filling them; layers that have no twin here,
    and all of training, gain most.
    """
    try:
        mallopt = ctypes.CDLL(None).mallopt
    except (AttributeError, OSError, TypeError):
        return False
    most_mapped, trim_threshold = -4, -1  # names of glibc's malloc.h
    return bool(mallopt(most_mapped, 0)) and bool(mallopt(trim_threshold, 2**31 - 1))


def takes(work: float, x: Tensor, *others: Tensor | None) -> bool:
    """Whether a fast twin can replace the plain form on features x and other tensors, the weight first.

    `work` is the layer's number of multiplications for one sample, as a plain 3x3 convolution counts them.
    """
    small = work < LEAST_WORK and not (others and others[0] is not None and others[0].numel() >= LEAST_WEIGHT)
    if small or x.dtype not in (torch.float32, torch.bfloat16) or not free(x, *others):
        return False
    return all(other is None or other.dtype == torch.float32 for other in others)


def knows_filters(up: int, down: int, up_taps: int, down_taps: int) -> bool:
    """Whether `filtered_layer` knows a layer of these factors and taps; its kernel has six for each factor in it."""
    return up in (2, 4) and down == 2 and up_taps == 6 * up and down_taps == 12


def free(*tensors: Tensor | None) -> bool:
    """Whether all is on the CPU and neither gradients nor a compiler nor autocast watches what is done with it."""
    given = [tensor for tensor in tensors if tensor is not None]
    if torch.compiler.is_compiling() or torch.is_autocast_enabled("cpu") or any(x.device.type != "cpu" for x in given):
        return False
    return not (torch.is_grad_enabled() and any(tensor.requires_grad for tensor in given))


def takes_filters(
    x: Tensor, bias: Tensor, up_filter: Tensor | None, down_filter: Tensor | None, up: int, down: int
) -> bool:
    """Whether the kernels of `filters`, which have gradients, can replace `resample.filtered_lrelu`.

    It takes CPU tensors in float32 or bfloat16, a separable filter up, one down that is separable or the same upside
    down, and features large enough to be worth a kernel and not smaller than the filters.
    """
    if up_filter is None or down_filter is None or up_filter.ndim != 1 or len(down_filter) % math.lcm(2, down):
        return False
    known = all(t.device.type == "cpu" and t.dtype in (torch.float32, torch.bfloat16) for t in (x, bias))
    if not known or torch.compiler.is_compiling() or torch.is_autocast_enabled("cpu"):
        return False
    if down_filter.ndim == 2 and not torch.equal(down_filter, down_filter.flip(0)):
        return False
    return x.numel() * up**2 >= LEAST_VALUES and min(x.shape[2:]) >= 8 + len(up_filter) // up


def _derive(weight: Tensor, name: str, make: Callable[[Tensor], Any]) -> Any:
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


def _transform(weight: Tensor) -> np.ndarray:
    """Winograd's transform [36, I, O] of a weight [O, I, 3, 3], packed."""
    from stylereel.generator.cpu.lanes import pack

    rows = [[6, 0, 0], [-4, -4, -4], [-4, 4, -4], [1, 2, 4], [1, -2, 4], [0, 0, 24]]
    matrix = torch.tensor(rows, dtype=torch.float64) / 24
    spread = torch.einsum("ar,oirs,bs->abio", matrix, weight.double(), matrix)
    return pack(spread.flatten(0, 1).numpy())


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


def _transform_up(weight: Tensor) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """All parts of `_phases` but the last, transformed by F(4, 2) where they have two taps, and packed: 25, 5, 5."""
    from stylereel.generator.cpu.lanes import pack

    matrix = torch.tensor([[3, 0], [3, 3], [1, -1], [1, 2], [0, 6]], dtype=torch.float64) / 6
    parts = weight.double()
    even_even = torch.einsum("ar,oirs,bs->abio", matrix, parts[:, :, ::2, ::2].flip(2, 3), matrix).flatten(0, 1)
    even_odd = torch.einsum("ar,oir->aio", matrix, parts[:, :, ::2, 1].flip(2))
    odd_even = torch.einsum("bs,ois->bio", matrix, parts[:, :, 1, ::2].flip(2))
    return pack(even_even.numpy()), pack(even_odd.numpy()), pack(odd_even.numpy())


def _window(weight: Tensor) -> Tensor:
    return weight.contiguous(memory_format=torch.channels_last)


def buffer(role: str | None, shape: tuple[int, ...], dtype: torch.dtype) -> Tensor:
    return torch.empty(shape, dtype=dtype) if role is None else _memory.get(role, shape, dtype)


def array(x: Tensor) -> np.ndarray:
    """Features [C, H, W] as array [H, W, C], on the same memory if its channels are last; bfloat16 as uint16."""
    x = x.detach().permute(1, 2, 0).contiguous()
    return x.view(torch.uint16).numpy() if x.dtype == torch.bfloat16 else x.numpy()


def _rows(x: Tensor, first: int, last: int) -> Tensor:
    """Rows first..last of x [1, C, H, W], with zeros where they are outside."""
    height = x.shape[2]
    part = x[:, :, max(first, 0) : min(last, height)]
    above, below = max(0, -first), max(0, last - height)
    return F.pad(part, (0, 0, above, below)) if above or below else part


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
    winograd = min(weight.shape[:2]) >= WINOGRAD_CHANNELS and width >= 16
    if up:
        winograd = winograd and x.dtype == torch.float32 and height % 4 == 0
    energy = _derive(weight, "energy", _energy)
    # The style goes where there is less to multiply; a weight that stays as it is stays prepared.
    styled_input = not winograd and x[0].numel() <= weight.numel()
    prepare: Callable[[Tensor], Any] = _phases if up else _window

    def convert(weight: Tensor) -> Any:
        return prepare(weight.to(x.dtype))

    result = buffer(role, shape, x.dtype)
    total = ACTIVATION_GAIN * gain
    demodulation = total * (style.square() @ energy.T + DEMODULATION_EPSILON).rsqrt()
    shift = (total * bias).detach().numpy()
    limit = np.float32(math.inf if clamp is None else clamp * gain)
    for index in range(batch):
        factor = float(strength) * total
        if noise is None or factor == 0:
            grain = _NO_NOISE
        else:
            own = (noise if noise.ndim == 2 or len(noise) == 1 else noise[index]).detach().reshape(shape[1:3])
            grain = torch.mul(own, factor, out=_memory.get("noise", shape[1:3], torch.float32)).numpy()
        sample, out = x[index : index + 1], result[index].permute(2, 0, 1)
        scale = demodulation[index].detach().numpy()
        end = _End(scale / np.float32(16) if up else scale, shift, grain, limit)
        if winograd and up:
            _winograd_up(sample, weight, style[index], out, end)
            continue
        if winograd:
            _winograd(sample, weight, style[index], out, end)
            continue
        if styled_input:
            sample = sample * style[index].to(x.dtype)[:, None, None]
            kernel: Any = _derive(weight, f"{prepare.__name__} {x.dtype}", convert)
        else:
            kernel = prepare((weight * style[index][None, :, None, None]).to(x.dtype))
        (_up if up else _direct)(sample, kernel, out, end)
    return result.permute(0, 3, 1, 2)


def _rows_of(width: int, channels: int, dtype: torch.dtype) -> int:
    """Rows of a strip."""
    return max(4, STRIP_BYTES // (width * channels * dtype.itemsize))


class _End(NamedTuple):
    """What follows a convolution, see `kernels.finish`: scale and shift [C], noise [H, W] or one zero, clamp."""

    scale: np.ndarray
    shift: np.ndarray
    noise: np.ndarray
    clamp: np.float32

    def rows(self, first: int, last: int) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.float32]:
        """The same for rows first..last alone."""
        noise = self.noise[first:last] if self.noise.size > 1 else self.noise
        return self.scale, self.shift, noise, self.clamp


def _direct(x: Tensor, weight: Tensor, out: Tensor, end: _End) -> None:
    from stylereel.generator.cpu.kernels import finish

    def work(strip: tuple[int, int]) -> None:
        first, last = strip
        y = F.conv2d(_rows(x, first - 1, last + 1), weight, padding=(0, 1))
        finish(array(y[0]), array(out[:, first:last]), *end.rows(first, last))

    height, width = x.shape[2:]
    each(_strips(height, _rows_of(width, len(weight), x.dtype), height * width >= LEAST_PIXELS), work)


def _up(x: Tensor, parts: tuple[Tensor, Tensor, Tensor, Tensor], out: Tensor, end: _End) -> None:
    from stylereel.generator.cpu.kernels import smooth

    def work(strip: tuple[int, int]) -> None:
        first, last = strip
        part = _rows(x, first - 1, last + 1)
        phases = [F.conv2d(part, weight, padding=(0, weight.shape[3] - 1))[0] for weight in parts]
        ee, eo, oe, oo = (array(phase)[:, None] for phase in phases)
        smooth(ee, eo, oe, oo, 0, array(out[:, 2 * first : 2 * last]), *end.rows(2 * first, 2 * last))

    height, width = x.shape[2:]
    each(_strips(height, _rows_of(4 * width, len(parts[0]), x.dtype), height * width >= LEAST_PIXELS), work)


def _winograd_up(x: Tensor, weight: Tensor, style: Tensor, out: Tensor, end: _End) -> None:
    """As `_up`, on float32 with the weights of `_transform_up`; 81 multiplications instead of 144."""
    from stylereel.generator.cpu.kernels import smooth, winograd_up_input, winograd_up_output
    from stylereel.generator.cpu.lanes import pack, product

    parts = _derive(weight, "winograd up", _transform_up)
    inputs, height, width = x.shape[1:]
    outputs = parts[0].shape[1] // inputs  # filled up
    across = width // 4 + 1
    source, factor, pixel_rows = array(x[0]), style.numpy(), x[0].permute(1, 2, 0)
    middle = pack((weight.detach()[:, :, 1, 1] * style).T[None].numpy())

    def work(band: tuple[int, int]) -> None:
        start, stop = band
        most = 4 * max(1, max(inputs // 2, TILE_NUMBERS // inputs) // across)
        for i in range(4):  # rows are carried over, so these buffers must not grow on the way
            _memory.get(f"phase {i}", (most + 2, 4, across + 1, outputs), torch.float32)
        # The first round makes the rows from before the band that the filter needs; later ones go on from the last.
        for first in (start - 4, *range(start, stop, most)):
            rows = 4 if first < start else min(most, stop - first)
            counts = (25, rows // 4 * across), (5, rows * (across + 1)), (5, rows * across)
            spreads = [_memory.get(f"spread {i}", (*count, inputs), torch.float32) for i, count in enumerate(counts)]
            products = [_memory.get(f"product {i}", (*count, outputs), torch.float32) for i, count in enumerate(counts)]
            ee, eo, oe = (spread.view(len(spread), -1).numpy() for spread in spreads)
            winograd_up_input(source, first, rows, across, factor, ee, eo.reshape(5, rows // 4, 4, -1), oe)
            for spread, part, out_part in zip(spreads, parts, products, strict=True):
                count = spread.shape[1]
                product(spread.view(-1).numpy(), inputs, part, out_part.view(-1).numpy(), count, inputs, outputs, count)
            sizes = (rows + 1, 4, across), (rows + 1, 4, across + 1), (rows + 2, 4, across), (rows + 2, 1, width)
            phases = [_memory.get(f"phase {i}", (*size, outputs), torch.float32) for i, size in enumerate(sizes)]
            top, bottom = max(first + 1, 0), min(first + 1 + rows, height)
            place = phases[3][top - first + 1 : bottom - first + 1]
            pixels = pixel_rows[top:bottom].reshape(-1).numpy()
            product(pixels, inputs, middle, place.view(-1).numpy(), len(pixels) // inputs, inputs, outputs, 0)
            ready = [phase.numpy() for phase in phases]
            ready[3][2 : top - first + 1] = ready[3][bottom - first + 1 :] = 0
            ee, eo, oe = (part.view(len(part), -1).numpy() for part in products)
            to_ee, to_eo, to_oe = (phase.reshape(*phase.shape[:2], -1) for phase in ready[:3])
            eo = eo.reshape(5, rows // 4, -1)
            winograd_up_output(ee, eo, oe, to_ee[1:], to_eo[1:].reshape(rows, -1), to_oe[2:])
            if first >= start:
                ee, eo, oe, oo = ready
                span = 2 * first, 2 * (first + rows)
                smooth(ee, eo, oe, oo, 1, array(out[:, span[0] : span[1]]), *end.rows(*span))
            for phase in ready:
                kept = len(phase) - rows
                phase[:kept] = phase[rows:]

    each([(4 * first, 4 * last) for first, last in _strips(height // 4, height)], work)


def _winograd(
    x: Tensor,
    weight: Tensor,
    style: Tensor,
    out: Tensor,
    end: _End,
    pad: int = 1,
    slope: float = LEAKY_SLOPE,
) -> None:
    """3x3 convolution of x [1, I, H, W] with `pad` zeros around it, then the kernel `finish`; into out [O, H', W']."""
    from stylereel.generator.cpu.kernels import winograd
    from stylereel.generator.cpu.lanes import WIDTH

    transform = _derive(weight, "winograd", _transform)
    inputs = x.shape[1]
    outputs = transform.shape[1] // inputs  # filled up
    wide = -(-inputs // WIDTH) * WIDTH  # so that no register is across two lines of the cache
    down, across = -(-out.shape[1] // 4), -(-out.shape[2] // 4)
    widest = max(inputs, outputs)
    step = max(1, max(widest // 2, TILE_NUMBERS // widest) // across)
    step = min(step, down)
    plane = step * across + 1  # planes at a distance of a power of two would drive each other out of the cache
    layer = array(x[0]), pad, style.numpy(), transform, array(out)
    after = end.scale, end.shift, end.noise, np.float32(slope), end.clamp

    def work(strip: tuple[int, int]) -> None:
        spreads = _memory.get("spread", (36 * plane * wide,), torch.float32).numpy()
        products = _memory.get("product", (36 * plane * outputs,), torch.float32).numpy()
        winograd(*layer, *after, spreads, wide, products, outputs, plane, step, *strip)

    each(_strips(down, max(step, down // (4 * torch.get_num_threads()))), work)


def colours(x: Tensor, weight: Tensor, bias: Tensor, clamp: float | None, before: Tensor | None) -> Tensor:
    """toRGB with the sum of the blocks: x [B, I, H, W] by weight [B, K, I] plus bias [K], clamped; plus the image
    `before` [B, K, H / 2, W / 2] up-sampled. Returns float32 [B, K, H, W].
    """
    from stylereel.generator.cpu import kernels

    batch, _, height, width = x.shape
    out = torch.empty(batch, weight.shape[1], height, width)
    nothing = np.empty((0, 0, 0), np.float32)
    limit = np.float32(math.inf if clamp is None else clamp)
    for index in range(batch):
        image = nothing if before is None else before[index].contiguous().numpy()
        features, matrix, result = array(x[index]), weight[index].contiguous().numpy(), out[index].numpy()
        arguments = features, matrix, bias.detach().numpy(), limit, image, result
        each(
            _strips(height, height, height * width >= LEAST_PIXELS),
            functools.partial(_call, kernels.colours, arguments),
        )
    return out


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
    size, size]. padding (left, right, top, bottom) belongs to the zero-stuffed features.
    """
    from stylereel.generator.cpu.kernels import filtered_leaky_relu
    from stylereel.generator.cpu.lanes import WIDTH

    batch, inputs, height, width = x.shape
    outputs, kernel = weight.shape[0], weight.shape[2]
    winograd = kernel == 3 and min(inputs, outputs) >= WINOGRAD_CHANNELS
    result = buffer(role, (batch, size, size, outputs), x.dtype)
    dense = kernel == 1 and x.dtype == torch.float32
    wide = -(-outputs // WIDTH) * WIDTH if dense else outputs
    convolved = _memory.get("convolved", (height + kernel - 1, width + kernel - 1, wide), x.dtype)
    shift = bias.detach().numpy()
    limit = np.float32(math.inf if clamp is None else clamp)
    up_taps = (up_filter * up).outer(torch.tensor([1.0, ACTIVATION_GAIN])).T.contiguous().numpy()
    down_taps, corner = np.atleast_2d(down_filter.numpy()), (padding[0], padding[2])
    # A task takes some channels of a part of the picture, whose twelve high-rate rows stay in the nearest cache.
    high, columns = (-(-size // -(-size // most)) for most in (TASK_ROWS, TASK_COLUMNS))
    parts = [
        [(first, min(whole, first + part)) for first in range(0, whole, part)]
        for whole, part in ((size, high), (size, columns), (outputs, TASK_CHANNELS))
    ]
    tasks = [(*part, *row, *column) for row, column, part in itertools.product(*parts)]
    for index in range(batch):
        sample, target = x[index : index + 1], convolved.permute(2, 0, 1)
        factor, scale = style[index].detach(), demodulation[index].detach()
        if winograd:
            end = _End(scale.numpy(), 0 * shift, _NO_NOISE, np.float32(math.inf))
            _winograd(sample, weight, factor, target, end, 2, 1.0)
        else:
            styled = weight.detach() * factor[None, :, None, None] * scale[:, None, None, None]
            if dense:
                _mix(sample, styled, target)
            else:
                _convolve(sample, styled.to(x.dtype), target, kernel - 1)
        source, destination = array(target), array(result[index].permute(2, 0, 1))
        arguments = source, destination, shift, up_taps, up, corner, limit, down_taps
        each(tasks, functools.partial(_call, filtered_leaky_relu, arguments))
    return result.permute(0, 3, 1, 2)


def _call(function: Callable[..., None], arguments: tuple, more: tuple) -> None:
    function(*arguments, *more)


def _mix(x: Tensor, weight: Tensor, out: Tensor) -> None:
    """1x1 convolution of x [1, I, H, W] with weight [O, I, 1, 1] in float32, into the first O of out [O', H, W]."""
    from stylereel.generator.cpu.lanes import WIDTH, pack, product

    inputs, height, width = x.shape[1:]
    matrix, source, target = pack(weight[:, :, 0, 0].T[None].numpy()), x[0].permute(1, 2, 0), array(out)
    stride = inputs if inputs % 1024 else inputs + WIDTH  # see `product`

    def work(strip: tuple[int, int]) -> None:
        first, last = strip
        pixels = source[first:last].reshape(-1, inputs)
        if stride > inputs:
            padded = _memory.get("pixels", (len(pixels), stride), torch.float32)
            padded[:, :inputs] = pixels
            pixels = padded
        rows = target[first:last].reshape(-1)
        product(pixels.view(-1).numpy(), stride, matrix, rows, len(pixels), inputs, len(out), 0)

    each(_strips(height, max(1, MIX_BYTES // (4 * width * max(inputs, len(out))))), work)


def convolve_each(x: Tensor, weight: Tensor, padding: int, role: str | None) -> Tensor:
    """Convolution of each sample of x [B, I, H, W] with a weight of its own [B, O, I, K, K], in plain PyTorch.

    `role` names the buffer of the result [B, O, H', W']; None makes a fresh one.
    """
    batch, _, height, width = x.shape
    more = 2 * padding - weight.shape[3] + 1
    out = buffer(role, (batch, height + more, width + more, weight.shape[1]), x.dtype).permute(0, 3, 1, 2)
    x = x.contiguous(memory_format=torch.channels_last)
    for index in range(batch):
        _convolve(x[index : index + 1], weight[index], out[index], padding)
    return out


def _convolve(x: Tensor, weight: Tensor, out: Tensor, padding: int) -> None:
    """Convolution of x [1, I, H, W] with weight [O, I, K, K] and `padding` zeros around x, into out [O, H', W']."""
    kernel, width = weight.shape[2], out.shape[2]
    weight = weight.contiguous(memory_format=torch.channels_last)

    def work(strip: tuple[int, int]) -> None:
        first, last = strip
        part = _rows(x, first - padding, last - padding + kernel - 1)
        if kernel == 1 and padding == 0:
            pixels = part[0].permute(1, 2, 0).reshape(-1, x.shape[1])
            rows = out[:, first:last].permute(1, 2, 0)
            if rows.is_contiguous():
                torch.mm(pixels, weight[:, :, 0, 0].T, out=rows.view(len(pixels), -1))
                return
        out[:, first:last].copy_(F.conv2d(part, weight, padding=(0, padding))[0])

    each(_strips(out.shape[1], _rows_of(width, len(weight), x.dtype), out.shape[1] * width >= LEAST_PIXELS), work)
