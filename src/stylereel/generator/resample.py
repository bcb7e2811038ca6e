"""Resampling with any FIR filter, for the alias-free generator.

Karras et al., "Alias-Free Generative Adversarial Networks" (2021), section 3.2 and appendices C and D. Plain PyTorch,
differentiable any number of times. Zeros are never inserted: up-sampling is a depthwise transposed convolution, which
works phase by phase, and decimation is a stride.
"""

import itertools
import math
from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from scipy.special import j1
from torch import Tensor

from stylereel.generator.cpu import fast
from stylereel.generator.ops import ACTIVATION_GAIN, LEAKY_SLOPE

# On a CPU the high-rate features are made in pieces of about this many values: they stay in the nearer caches, and
# the memory is reused, where a whole map would cost more time in page faults than in arithmetic.
PIECE_VALUES = 1 << 20
PIECE_CHANNELS = 32  # two vector registers of float32


def setup_filter(
    taps: Any, normalize: bool = True, flip: bool = False, gain: float = 1.0, separable: bool | None = None
) -> Tensor:
    """A filter for the functions below, float32, of taps [K], [KH, KW], a number, or None for the identity.

    The result is [K] if separable, which by default filters of 8 taps and more are, else [KH, KW].
    """
    found = torch.as_tensor(1.0 if taps is None else taps, dtype=torch.float32)
    if found.ndim == 0:
        found = found[None]
    if separable is None:
        separable = found.ndim == 1 and len(found) >= 8
    if found.ndim == 1 and not separable:
        found = torch.outer(found, found)
    if normalize:
        found = found / found.sum()
    if flip:
        found = found.flip(list(range(found.ndim)))
    return found * gain ** (found.ndim / 2)


def lowpass_filter(taps: int, cutoff: float, width: float, sampling_rate: float, radial: bool = False) -> Tensor | None:
    """Kaiser-windowed low-pass filter [K] (separable) or, radially symmetric, [K, K]; float32, sum 1 (appendix C).

    cutoff and width (of the transition band) have the unit of sampling_rate. One tap is no filter: None.
    """
    if taps == 1:
        return None
    # Kaiser's formulas: attenuation in decibels from length and width, then the shape of the window.
    attenuation = 2.285 * (taps - 1) * math.pi * width / (sampling_rate / 2) + 7.95
    if attenuation > 50:
        beta = 0.1102 * (attenuation - 8.7)
    elif attenuation > 21:
        beta = 0.5842 * (attenuation - 21) ** 0.4 + 0.07886 * (attenuation - 21)
    else:
        beta = 0.0
    window = np.kaiser(taps, beta)
    position = (np.arange(taps) - (taps - 1) / 2) / sampling_rate
    if radial:
        # The Fourier transform of a disk is the jinc; the tiny bound gives its limit in the centre.
        radius = np.maximum(np.hypot(position[:, None], position), 1e-12 / sampling_rate)
        found = j1(2 * math.pi * cutoff * radius) / radius * np.outer(window, window)
    else:
        found = np.sinc(2 * cutoff * position) * window
    return torch.tensor(found / found.sum(), dtype=torch.float32)


def upfirdn2d(
    x: Tensor,
    filter: Tensor | None,
    up: int | Sequence[int] = 1,
    down: int | Sequence[int] = 1,
    padding: int | Sequence[int] = 0,
    gain: float = 1.0,
    flip_filter: bool = False,
) -> Tensor:
    """Insert zeros, pad, convolve with an FIR filter, keep every `down`-th sample of x [B, C, H, W].

    filter: [K], applied along x and then along y, or [KH, KW]; None for the identity. It is a true convolution;
    flip_filter makes it a correlation. up, down: one factor or (x, y). padding: zeros at the high rate, one number,
    (x, y) or (left, right, top, bottom); negative ones crop. gain: factor of the result.
    """
    taps = torch.ones(1, 1) if filter is None else filter
    taps = (taps * gain ** (taps.ndim / 2)).to(x.device, x.dtype)
    if not flip_filter:
        taps = taps.flip(list(range(taps.ndim)))
    (up_x, up_y), (down_x, down_y) = _pair(up), _pair(down)
    return _filter(x, taps, (up_y, up_x), (down_y, down_x), _sides(padding))


def filtered_lrelu(
    x: Tensor,
    up_filter: Tensor | None = None,
    down_filter: Tensor | None = None,
    bias: Tensor | None = None,
    up: int = 1,
    down: int = 1,
    padding: int | Sequence[int] = 0,
    gain: float = ACTIVATION_GAIN,
    slope: float = LEAKY_SLOPE,
    clamp: float | None = None,
    flip_filter: bool = False,
    role: str | None = None,
) -> Tensor:
    """Leaky ReLU between up-sampling and down-sampling, so that it gives no aliases (section 3.2, figure 4b).

    x [B, C, H, W] plus bias [C] is up-sampled (amplitude kept), padded, filtered, put through
    clamp(leaky_relu(x) * gain) with gain > 0, filtered and decimated. Filters and padding as in `upfirdn2d`;
    the padding of zeros comes after the bias. Returns [B, C, H', W'] with the channels last in memory; `role` allows it
    to be overwritten by the next call with that role.
    """
    left, right, top, bottom = _sides(padding)
    (up_rows, up_columns), (down_rows, down_columns) = _size(up_filter), _size(down_filter)
    rows = (x.shape[2] * up + top + bottom - (up_rows - 1) - down_rows) // down + 1
    columns = (x.shape[3] * up + left + right - (up_columns - 1) - down_columns) // down + 1
    dtype = x.dtype
    # In half precision a CPU has no fast depthwise transposed convolution.
    inner = torch.float32 if x.device.type == "cpu" and dtype in (torch.bfloat16, torch.float16) else dtype
    # A leaky ReLU commutes with a positive factor: the gain goes into the filter.
    before, after = _correlation(up_filter, x, up**2 * gain, flip_filter), _correlation(down_filter, x, 1, flip_filter)

    def piece(x: Tensor, bias: Tensor | None, row: tuple[int, int], column: tuple[int, int]) -> Tensor:
        """The first to the last - 1 of the result's rows and columns, for some samples and channels."""
        (top_row, bottom_row), above, below = _receptive_field(*row, x.shape[2], up, down, up_rows, down_rows, top)
        (first, last), ahead, behind = _receptive_field(*column, x.shape[3], up, down, up_columns, down_columns, left)
        x = x[:, :, top_row:bottom_row, first:last].to(inner)
        if bias is not None:
            x = x + bias.to(inner)[:, None, None]
        x = _filter(x, before, (up, up), (1, 1), (ahead, behind, above, below))
        inplace = up_filter is not None and not x.requires_grad
        if slope != 1:
            x = F.leaky_relu(x, slope, inplace)
        if clamp is not None:
            x = x.clamp_(-clamp, clamp) if inplace else x.clamp(-clamp, clamp)
        return _filter(x, after, (1, 1), (down, down), (0, 0, 0, 0)).to(dtype)

    x = x.contiguous(memory_format=torch.channels_last)
    batch, channels = x.shape[:2]

    def whole(x: Tensor, bias: Tensor | None) -> Tensor:
        return piece(x, bias, (0, rows), (0, columns))

    if bias is not None and slope == LEAKY_SLOPE and fast.takes_filters(x, bias, up_filter, down_filter, up, down):
        from stylereel.generator.cpu.filters import FilteredLeakyReLU

        padding = left, right, top, bottom
        return FilteredLeakyReLU.apply(x, bias, before, after, up, down, padding, clamp, whole)
    if not fast.free(x, bias):
        return whole(x, bias)
    out = fast.buffer(role, (batch, rows, columns, channels), dtype).permute(0, 3, 1, 2)
    values = (rows * down + down_rows) * (columns * down + down_columns)
    channels_each = max(PIECE_VALUES // values // PIECE_CHANNELS, 1) * PIECE_CHANNELS
    side = max(math.isqrt(PIECE_VALUES // min(channels_each, channels)) // down, 8)

    def work(part: tuple[int, tuple[int, int], tuple[int, int], tuple[int, int]]) -> None:
        sample, channel, row, column = part
        some = slice(sample, sample + 1), slice(*channel)
        result = piece(x[some], None if bias is None else bias[some[1]], row, column)
        out[some][:, :, slice(*row), slice(*column)] = result

    parts = _parts(channels, channels_each), _parts(rows, side), _parts(columns, side)
    fast.each(list(itertools.product(range(batch), *parts)), work)
    return out


def _parts(whole: int, most: int) -> list[tuple[int, int]]:
    """First and last of equal parts of at most `most`."""
    step = -(-whole // -(-whole // most))
    return [(first, min(whole, first + step)) for first in range(0, whole, step)]


def _receptive_field(
    first: int, last: int, size: int, up: int, down: int, up_taps: int, down_taps: int, before: int
) -> tuple[tuple[int, int], int, int]:
    """The samples on an axis of `size` that outputs first to last - 1 depend on, and the padding left around them."""
    begin, end = first * down, (last - 1) * down + down_taps  # at the high rate
    start = min(max((begin - before) // up, 0), size - 1)
    stop = max(min((end + up_taps - 2 - before) // up + 1, size), start + 1)
    left = before - begin + start * up
    return (start, stop), left, end - begin + up_taps - 1 - left - (stop - start) * up


def _correlation(filter: Tensor | None, x: Tensor, gain: float, flip_filter: bool) -> Tensor:
    """A filter with a gain in the order of a correlation, in the precision in which x is filtered."""
    half = x.device.type == "cpu" and x.dtype in (torch.bfloat16, torch.float16)
    taps = torch.ones(1, 1) if filter is None else filter
    taps = taps.to(x.device, torch.float32 if half else x.dtype)
    taps = taps * gain ** (taps.ndim / 2)
    return taps if flip_filter else taps.flip(list(range(taps.ndim)))


def _filter(
    x: Tensor, taps: Tensor, up: tuple[int, int], down: tuple[int, int], padding: tuple[int, int, int, int]
) -> Tensor:
    """`upfirdn2d` with taps [K] or [KH, KW] in the order of a correlation; up and down are (y, x)."""
    if taps.ndim == 2:
        return _correlate(x, taps, up, down, padding)
    left, right, top, bottom = padding
    along_x = taps[None, :], (1, up[1]), (1, down[1]), (left, right, 0, 0)
    along_y = taps[:, None], (up[0], 1), (down[0], 1), (0, 0, top, bottom)
    # The pass over fewer rows comes first or last; it is the slower one.
    for one in (along_y, along_x) if up[0] > 1 else (along_x, along_y):
        x = _correlate(x, *one)
    return x


def _correlate(
    x: Tensor,
    taps: Tensor,
    up: tuple[int, int],
    down: tuple[int, int],
    padding: tuple[int, int, int, int],
) -> Tensor:
    """`upfirdn2d` with taps [KH, KW] in the order of a correlation; up and down are (y, x)."""
    channels = x.shape[1]
    left, right, top, bottom = padding
    if up == (1, 1):
        x = F.pad(x, padding) if any(padding) else x
        if taps.numel() == 1:
            return x[:, :, :: down[0], :: down[1]] * taps
        return F.conv2d(x, taps.expand(channels, 1, -1, -1), stride=down, groups=channels)
    samples_y, trim_y = _alignment(taps.shape[0], up[0], top, bottom)
    samples_x, trim_x = _alignment(taps.shape[1], up[1], left, right)
    if any(samples_x + samples_y):
        x = F.pad(x, samples_x + samples_y)
    # A transposed convolution trims both ends by the same length; taps of zero make up the difference.
    trim = (max(trim_y), max(trim_x))
    zeros = (trim[1] - trim_x[0], trim[1] - trim_x[1], trim[0] - trim_y[0], trim[0] - trim_y[1])
    kernel = F.pad(taps.flip(0, 1), zeros).expand(channels, 1, -1, -1)
    x = F.conv_transpose2d(x, kernel, stride=up, padding=trim, groups=channels)
    return x[:, :, :: down[0], :: down[1]] if down != (1, 1) else x


def _alignment(taps: int, up: int, before: int, after: int) -> tuple[tuple[int, int], tuple[int, int]]:
    """How a transposed convolution gives the padding of an up-sampling axis.

    Returns how many samples to add before and after it (negative: to drop, since no output depends on them), and how
    many values to trim from its result.
    """
    full = (taps - 1, taps - up)  # the padding at which nothing is trimmed

    def samples(padding: int, limit: int) -> int:
        return min(math.ceil(padding / up), 0) + max(math.ceil((padding - limit) / up), 0)

    added = (samples(before, full[0]), samples(after, full[1]))
    return added, (full[0] - before + added[0] * up, full[1] - after + added[1] * up)


def _pair(factor: int | Sequence[int]) -> tuple[int, int]:
    x, y = (factor, factor) if isinstance(factor, int) else factor
    return x, y


def _sides(padding: int | Sequence[int]) -> tuple[int, int, int, int]:
    """Padding as left, right, top, bottom."""
    values = [padding] * 4 if isinstance(padding, int) else list(padding)
    if len(values) == 2:
        values = [values[0], values[0], values[1], values[1]]
    left, right, top, bottom = values
    return left, right, top, bottom


def _size(filter: Tensor | None) -> tuple[int, int]:
    """Height and width of a filter."""
    if filter is None:
        return 1, 1
    return filter.shape[0], filter.shape[-1]
