"""The leaky ReLU between two filters, with its gradient: a twin of `resample.filtered_lrelu` for training on a CPU.

Plain PyTorch makes the features at the high rate, and four more of their size for the gradient. Here one register of
channels goes through all steps before the next one, in strips of rows that stay in the cache. Each filter is a table:
for every row (or column) of its result the first row that it uses, and the factors from there on.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np
import torch
from numba import njit
from torch import Tensor

from stylereel.core import compiled  # noqa: F401 (before any kernel)
from stylereel.generator.cpu import fast
from stylereel.generator.cpu.kernels import SLOPE, ZERO
from stylereel.generator.cpu.lanes import WIDTH, add, fill, fma, leaky, load, spread, store

STRIP_VALUES = 1 << 17  # of the high-rate features in the cache at a time


class Band(NamedTuple):
    """A filter along one axis: result i is the sum of factors[i, k] times value starts[i] + k."""

    starts: np.ndarray
    factors: np.ndarray


class Geometry(NamedTuple):
    """Filter tables of one layer: up along y and x, down along y and x, and the transposed of each.

    radial [K + 1, K'] are the taps of a filter down that is not separable, with a row of zeros after them and zeros up
    to a multiple of four columns, or [1, 1]. Then the transposed table down along y holds numbers of its rows instead.
    """

    up_y: Band
    up_x: Band
    down_y: Band
    down_x: Band
    up_y_back: Band
    up_x_back: Band
    down_y_back: Band
    down_x_back: Band
    radial: np.ndarray


def _band(matrix: np.ndarray) -> Band:
    """The table of a matrix [results, values] that is zero far from its diagonal, with a multiple of four factors."""
    found = [np.flatnonzero(row) for row in matrix]
    width = -(-max(int(f[-1] - f[0] + 1) for f in found if len(f)) // 4) * 4
    assert width <= matrix.shape[1]
    starts = np.array([min(f[0], matrix.shape[1] - width) if len(f) else 0 for f in found], np.int64)
    starts = np.maximum.accumulate(starts)  # rows without any value start where the one before does
    factors = np.take_along_axis(matrix, starts[:, None] + np.arange(width), 1)
    return Band(starts, np.ascontiguousarray(factors, np.float32))


def _matrix(taps: np.ndarray, size: int, up: int, down: int, before: int, after: int) -> np.ndarray:
    """Zero insertion, padding, correlation with taps [K] and decimation as a matrix [results, size]."""
    stuffed = np.zeros((size * up + before + after, size))
    rows = before + up * np.arange(size)
    inside = (rows >= 0) & (rows < len(stuffed))
    stuffed[rows[inside], np.flatnonzero(inside)] = 1
    count = (len(stuffed) - len(taps)) // down + 1
    return sum(t * stuffed[k : k + down * (count - 1) + 1 : down] for k, t in enumerate(taps))  # type: ignore[return-value]


@functools.lru_cache(maxsize=64)
def geometry(
    up_taps: bytes, down_taps: bytes, radial: bool, up: int, down: int, padding: tuple[int, int, int, int], size: tuple
) -> Geometry:
    """Tables for taps (float32, in the order of a correlation, gains in them) and features of `size` [H, W]."""
    first, second = np.frombuffer(up_taps, np.float32), np.frombuffer(down_taps, np.float32)
    left, right, top, bottom = padding
    count = round(len(second) ** 0.5) if radial else len(second)
    tables: list[Band] = []
    back: list[Band] = []
    for length, before, after in ((size[0], top, bottom), (size[1], left, right)):
        matrix = _matrix(first, length, up, 1, before, after)
        tables.append(_band(matrix))
        back.append(_band(matrix.T))
        # Of a radial filter, the numbers of the taps, from 1 so that zero is none.
        line = np.arange(1.0, count + 1) if radial else second
        matrix = _matrix(line, len(matrix), 1, down, 0, 0)
        tables.append(_band(matrix))
        turned = _band(matrix.T)
        if radial:
            turned = Band(turned.starts, (turned.factors - 1) % (count + 1))
        back.append(turned)
    taps = np.zeros((count + 1, -(-count // 4) * 4) if radial else (1, 1), np.float32)
    if radial:
        taps[:count, :count] = second.reshape(count, count)
    up_y, down_y, up_x, down_x = tables
    up_y_back, down_y_back, up_x_back, down_x_back = back
    return Geometry(up_y, up_x, down_y, down_x, up_y_back, up_x_back, down_y_back, down_x_back, taps)


@njit(cache=True, nogil=True, error_model="numpy")
def _gather(x, c, first, last, shift, shifted, before, line, out):
    """Rows first..last of x [H, W, C] from channel c on, plus their shift, as registers.

    A row of out has `line` registers, of which `before` come before those of x.
    """
    width, channels = x.shape[1], x.shape[2]
    count = channels - c
    offset = load(shift, c, count) if shifted else fill(ZERO)
    at = (first * width) * channels + c
    for r in range(last - first):
        to = (r * line + before) * WIDTH
        for _ in range(width):
            store(out, to, add(load(x, at, count), offset), WIDTH)
            at += channels
            to += WIDTH


@njit(inline="always")
def _four(source, at, step, f0, f1, f2, f3, value):
    """value plus four registers, `step` numbers apart, times their factors."""
    value = fma(load(source, at, WIDTH), f0, value)
    other = fma(load(source, at + step, WIDTH), f1, fill(ZERO))
    value = fma(load(source, at + 2 * step, WIDTH), f2, value)
    other = fma(load(source, at + 3 * step, WIDTH), f3, other)
    return add(value, other)


@njit(cache=True, nogil=True, error_model="numpy")
def _along_y(source, base, line, starts, factors, first, last, out):
    """Rows first..last of a filter down the columns; source holds rows of `line` numbers from row `base` on."""
    taps, to = factors.shape[1], 0
    for r in range(first, last):
        for k in range(0, taps, 4):
            f0, f1 = spread(factors, r * taps + k), spread(factors, r * taps + k + 1)
            f2, f3 = spread(factors, r * taps + k + 2), spread(factors, r * taps + k + 3)
            begin = (starts[r] - base + k) * line
            for e in range(0, line, WIDTH):
                before = load(out, to + e, WIDTH) if k > 0 else fill(ZERO)
                store(out, to + e, _four(source, begin + e, line, f0, f1, f2, f3, before), WIDTH)
        to += line


@njit(cache=True, nogil=True, error_model="numpy")
def _along_x(source, rows, width, starts, factors, active, clamp, out):
    """A filter along rows of `width` registers each; if active, leaky ReLU and clamp after it.

    Works on four rows at a time, so source and out have room for rows up to a multiple of four.
    """
    taps, line, length = factors.shape[1], width * WIDTH, len(starts) * WIDTH
    slope, limit = fill(SLOPE), fill(clamp)
    for r in range(0, rows, 4):
        for j in range(len(starts)):
            a = b = c = d = fill(ZERO)
            for k in range(0, taps, 4):
                f0, f1 = spread(factors, j * taps + k), spread(factors, j * taps + k + 1)
                f2, f3 = spread(factors, j * taps + k + 2), spread(factors, j * taps + k + 3)
                at = r * line + (starts[j] + k) * WIDTH
                a = _four(source, at, WIDTH, f0, f1, f2, f3, a)
                b = _four(source, at + line, WIDTH, f0, f1, f2, f3, b)
                c = _four(source, at + 2 * line, WIDTH, f0, f1, f2, f3, c)
                d = _four(source, at + 3 * line, WIDTH, f0, f1, f2, f3, d)
            if active:
                a, b, c, d = (
                    leaky(a, slope, limit),
                    leaky(b, slope, limit),
                    leaky(c, slope, limit),
                    leaky(d, slope, limit),
                )
            to = r * length + j * WIDTH
            store(out, to, a, WIDTH)
            store(out, to + length, b, WIDTH)
            store(out, to + 2 * length, c, WIDTH)
            store(out, to + 3 * length, d, WIDTH)


@njit(cache=True, nogil=True, error_model="numpy")
def _around(source, width, first, last, base, down, radial, columns, line, out):
    """Rows first..last of a radial filter down; source holds rows of `width` registers from high-rate row base on."""
    count, stride = radial.shape[0] - 1, radial.shape[1]
    to, length = 0, columns * WIDTH
    for row in range(first, last):
        for i in range(count // 2):
            upper = (row * down + i - base) * width * WIDTH
            lower = (row * down + count - 1 - i - base) * width * WIDTH
            for e in range(0, width * WIDTH, WIDTH):
                store(line, e, add(load(source, upper + e, WIDTH), load(source, lower + e, WIDTH)), WIDTH)
            for k in range(0, count, 4):
                f0, f1 = spread(radial, i * stride + k), spread(radial, i * stride + k + 1)
                f2, f3 = spread(radial, i * stride + k + 2), spread(radial, i * stride + k + 3)
                at = k * WIDTH
                for e in range(to, to + length, WIDTH):
                    before = load(out, e, WIDTH) if i + k > 0 else fill(ZERO)
                    store(out, e, _four(line, at, WIDTH, f0, f1, f2, f3, before), WIDTH)
                    at += down * WIDTH
        to += length


@njit(cache=True, nogil=True, error_model="numpy")
def _around_back(source, base, width, starts, taps, first, last, down, radial, wide, out):
    """The transposed of `_around`: high-rate rows first..last, `wide` registers each, of rows of the result.

    source holds those from row `base` on, each with K / down - 1 registers of zeros before it and four more after it.
    """
    stride, high, reach = radial.shape[1], taps.shape[1], (radial.shape[0] - 1) // down
    to = 0
    for r in range(first, last):
        begin = (starts[r] - base) * width * WIDTH
        for phase in range(down):
            for j in range(0, (wide - phase + down - 1) // down, 4):
                a = b = c = d = fill(ZERO)
                for i in range(high):
                    at = begin + (i * width + j) * WIDTH
                    row = np.int64(taps[r, i]) * stride + phase + down * (reach - 1)
                    for k in range(reach):
                        factor = spread(radial, row - down * k)
                        a = fma(load(source, at, WIDTH), factor, a)
                        b = fma(load(source, at + WIDTH, WIDTH), factor, b)
                        c = fma(load(source, at + 2 * WIDTH, WIDTH), factor, c)
                        d = fma(load(source, at + 3 * WIDTH, WIDTH), factor, d)
                        at += WIDTH
                place = to + (j * down + phase) * WIDTH
                store(out, place, a, WIDTH)
                store(out, place + down * WIDTH, b, WIDTH)
                store(out, place + 2 * down * WIDTH, c, WIDTH)
                store(out, place + 3 * down * WIDTH, d, WIDTH)
        to += wide * WIDTH


@njit(cache=True, nogil=True, error_model="numpy")
def _scatter(source, c, first, rows, out):
    """Registers [rows, W] into rows from `first` on of out [H, W, C], from channel c on."""
    width, channels = out.shape[1], out.shape[2]
    at, to = 0, first * width * channels + c
    for _ in range(rows * width):
        store(out, to, load(source, at, WIDTH), channels - c)
        at += WIDTH
        to += channels


@njit(cache=True, fastmath=True, nogil=True, error_model="numpy")
def _leaky_back(gradients, values, count, clamp):
    """Multiply gradients by the derivative of leaky ReLU and clamp at `values`, their inputs."""
    for e in range(count):
        value = values[e]
        active = value < clamp and value * SLOPE > -clamp
        gradients[e] *= (np.float32(1.0) if value > ZERO else SLOPE) if active else ZERO


@njit(cache=True, nogil=True, error_model="numpy")
def forward(x, shift, tables, down, clamp, strip, out, start, stop):
    """out [H', W', C] of x [H, W, C] plus shift [C]: up, leaky ReLU, clamp, down; `strip` rows of out at a time.

    Makes channels start..stop.
    """
    up_y, up_x, down_y, down_x, _, _, _, _, radial = tables
    height, width, _ = x.shape
    around = len(radial) > 1
    taps = len(radial) - 1 if around else down_y[1].shape[1]
    wide, columns = len(up_x[0]), out.shape[1]
    most = (strip - 1) * down + taps + 3
    near = np.empty(height * width * WIDTH, np.float32)
    middle = np.empty(most * width * WIDTH, np.float32)
    high = np.empty(most * wide * WIDTH, np.float32)
    line = np.zeros(max(wide + 4, most * columns) * WIDTH, np.float32)  # taps of zero may read what follows a row
    result = np.empty(strip * columns * WIDTH, np.float32)
    for c in range(start, stop, WIDTH):
        for first in range(0, len(out), strip):
            last = min(len(out), first + strip)
            if around:
                begin, end = first * down, (last - 1) * down + taps
            else:
                begin, end = down_y[0][first], down_y[0][last - 1] + taps
            low, top = up_y[0][begin], up_y[0][end - 1] + up_y[1].shape[1]
            _gather(x, c, low, top, shift, True, 0, width, near)
            _along_y(near, low, width * WIDTH, up_y[0], up_y[1], begin, end, middle)
            _along_x(middle, end - begin, width, up_x[0], up_x[1], True, clamp, high)
            if around:
                _around(high, wide, first, last, begin, down, radial, columns, line, result)
            else:
                _along_x(high, end - begin, wide, down_x[0], down_x[1], False, clamp, line)
                _along_y(line, begin, columns * WIDTH, down_y[0], down_y[1], first, last, result)
            _scatter(result, c, first, last - first, out)


@njit(cache=True, nogil=True, error_model="numpy")
def backward(x, shift, gradient, tables, down, clamp, strip, out, start, stop):
    """The gradient [H, W, C] at x of a loss whose gradient at `forward`'s result is `gradient` [H', W', C], into out.

    Makes channels start..stop, `strip` rows of out at a time.
    """
    up_y, up_x, _, _, up_y_back, up_x_back, down_y_back, down_x_back, radial = tables
    height, width, _ = x.shape
    wide, columns, around = len(up_x[0]), gradient.shape[1], len(radial) > 1
    reach = (len(radial) - 1) // down
    line = columns + 2 * reach + 2 if around else columns
    most = 0
    for first in range(0, height, strip):
        last = min(height, first + strip)
        most = max(most, up_y_back[0][last - 1] + up_y_back[1].shape[1] - up_y_back[0][first])
    near = np.empty(height * width * WIDTH, np.float32)
    edged = np.zeros(len(gradient) * line * WIDTH, np.float32)
    middle = np.empty((most + 3) * max(width, columns) * WIDTH, np.float32)
    high = np.empty((most + 3) * wide * WIDTH, np.float32)
    inner = np.empty(((most + 3) * wide + 4 * down) * WIDTH, np.float32)
    result = np.empty(strip * width * WIDTH, np.float32)
    for c in range(start, stop, WIDTH):
        for first in range(0, height, strip):
            last = min(height, first + strip)
            begin, end = up_y_back[0][first], up_y_back[0][last - 1] + up_y_back[1].shape[1]
            low, top = up_y[0][begin], up_y[0][end - 1] + up_y[1].shape[1]
            _gather(x, c, low, top, shift, True, 0, width, near)
            _along_y(near, low, width * WIDTH, up_y[0], up_y[1], begin, end, middle)
            _along_x(middle, end - begin, width, up_x[0], up_x[1], False, clamp, high)
            low, top = down_y_back[0][begin], down_y_back[0][end - 1] + down_y_back[1].shape[1]
            _gather(gradient, c, low, top, shift, False, reach - 1 if around else 0, line, edged)
            if around:
                starts, taps = down_y_back[0], down_y_back[1]
                _around_back(edged, low, line, starts, taps, begin, end, down, radial, wide, inner)
            else:
                _along_y(edged, low, columns * WIDTH, down_y_back[0], down_y_back[1], begin, end, middle)
                _along_x(middle, end - begin, columns, down_x_back[0], down_x_back[1], False, clamp, inner)
            _leaky_back(inner, high, (end - begin) * wide * WIDTH, clamp)
            _along_x(inner, end - begin, wide, up_x_back[0], up_x_back[1], False, clamp, middle)
            _along_y(middle, begin, width * WIDTH, up_y_back[0], up_y_back[1], first, last, result)
            _scatter(result, c, first, last - first, out)


class FilteredLeakyReLU(torch.autograd.Function):
    """`filtered_lrelu` of x [B, C, H, W] and bias [C] by the kernels; a second derivative goes through `plain`.

    The taps are in the order of a correlation, with gains in them. plain: the same function of (x, bias) in PyTorch.
    """

    @staticmethod
    def forward(
        ctx: Any,
        x: Tensor,
        bias: Tensor,
        up_taps: Tensor,
        down_taps: Tensor,
        up: int,
        down: int,
        padding: tuple[int, int, int, int],
        clamp: float | None,
        plain: Callable[[Tensor, Tensor], Tensor],
    ) -> Tensor:
        ctx.save_for_backward(x, bias)
        taps = up_taps.numpy().tobytes(), down_taps.numpy().tobytes(), down_taps.ndim == 2
        ctx.plain, ctx.down, ctx.clamp = plain, down, np.float32(math.inf if clamp is None else clamp)
        ctx.tables = tables = geometry(*taps, up, down, padding, tuple(x.shape[2:]))
        shape = len(x), len(tables.down_y.starts), len(tables.down_x.starts), x.shape[1]
        out = torch.empty(shape, dtype=x.dtype).permute(0, 3, 1, 2)
        shift, strip = bias.detach().float().numpy(), max(STRIP_VALUES // (len(tables.up_x.starts) * WIDTH * down), 4)

        def work(index: int, start: int, stop: int) -> None:
            arrays = fast.array(x[index]), shift, tables, down, ctx.clamp, strip, fast.array(out[index])
            forward(*arrays, start, stop)

        _each(x, work)
        return out

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor | None, ...]:
        x, bias = ctx.saved_tensors
        if torch.is_grad_enabled():  # somebody will differentiate the gradient
            inputs = [tensor for tensor, needed in zip((x, bias), ctx.needs_input_grad) if needed]
            found = iter(torch.autograd.grad(ctx.plain(x, bias), inputs, gradients[0], create_graph=True))
            return *(next(found) if needed else None for needed in ctx.needs_input_grad[:2]), *[None] * 7
        tables, gradient = ctx.tables, gradients[0].to(x.dtype).contiguous(memory_format=torch.channels_last)
        out = torch.empty_like(x)  # its channels are last too
        width, up = len(tables.up_x.starts), len(tables.up_y.starts) / x.shape[2]
        shift, strip = bias.detach().float().numpy(), max(int(STRIP_VALUES / (width * WIDTH * up)), 4)

        def work(index: int, start: int, stop: int) -> None:
            arrays = fast.array(x[index]), shift, fast.array(gradient[index]), tables, ctx.down, ctx.clamp, strip
            backward(*arrays, fast.array(out[index]), start, stop)

        _each(x, work)
        return out, out.sum((0, 2, 3), dtype=torch.float32).to(bias.dtype), *[None] * 7


def _each(x: Tensor, work: Callable[[int, int, int], None]) -> None:
    """work(sample, first channel, last) for all of x [B, C, H, W], on as many cores as torch may use."""
    batch, channels = x.shape[:2]
    step = channels if torch.get_num_threads() == 1 else 4 * WIDTH
    parts = [(b, c, min(c + step, channels)) for b in range(batch) for c in range(0, channels, step)]
    fast.each(parts, lambda part: work(*part))
