"""Resampling with any FIR filter: what the alias-free generator is made of.

Karras et al., "Alias-Free Generative Adversarial Networks" (2021), section 3.2 and appendices C and D. Plain PyTorch,
differentiable any number of times. Zeros are never inserted: up-sampling is a depthwise transposed convolution, which
works phase by phase, and decimation is a stride.
"""

import math
from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from scipy.special import j1
from torch import Tensor

from stylereel.generator.ops import ACTIVATION_GAIN, LEAKY_SLOPE

# On a CPU the high-rate picture is made piece by piece, of about this many values: they stay in the cache, and the
# memory is used again, where a whole picture would cost more time in page faults than in arithmetic.
PIECE_VALUES = 1 << 21
PIECE_CHANNELS = 16  # one vector register of float32


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
        # The Fourier transform of a disk is the jinc; the tiny bound stands for its limit in the centre.
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
    taps = torch.ones(1, 1, dtype=x.dtype, device=x.device) if filter is None else filter
    taps = (taps * gain ** (taps.ndim / 2)).to(x.device, x.dtype)
    if not flip_filter:
        taps = taps.flip(list(range(taps.ndim)))
    (up_x, up_y), (down_x, down_y) = _pair(up), _pair(down)
    left, right, top, bottom = _sides(padding)
    if taps.ndim == 2:
        return _correlate(x, taps, (up_y, up_x), (down_y, down_x), (left, right, top, bottom))
    x = _correlate(x, taps[None, :], (1, up_x), (1, down_x), (left, right, 0, 0))
    return _correlate(x, taps[:, None], (up_y, 1), (down_y, 1), (0, 0, top, bottom))


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
) -> Tensor:
    """Leaky ReLU between up-sampling and down-sampling, so that it makes no aliases (section 3.2, figure 4b).

    x [B, C, H, W] plus bias [C] is up-sampled (amplitude kept), padded, filtered, put through
    clamp(leaky_relu(x) * gain) with gain > 0, filtered again and decimated. Filters and padding as in `upfirdn2d`;
    the padding of zeros comes after the bias. Returns [B, C, H', W'] with the channels last in memory.
    """
    left, right, top, bottom = _sides(padding)
    (up_rows, up_columns), (down_rows, down_columns) = _size(up_filter), _size(down_filter)
    height = x.shape[2] * up + top + bottom - (up_rows - 1)  # of the picture at the high rate
    width = x.shape[3] * up + left + right - (up_columns - 1)
    rows = (height - down_rows) // down + 1
    dtype = x.dtype
    # In half precision a CPU has no fast depthwise transposed convolution.
    inner = torch.float32 if x.device.type == "cpu" and dtype in (torch.bfloat16, torch.float16) else dtype

    def piece(x: Tensor, bias: Tensor | None, first: int, last: int) -> Tensor:
        """Rows first to last - 1 of the result, for some samples and channels."""
        begin, end = first * down, (last - 1) * down + down_rows  # rows at the high rate
        # The rows of x that they see, and the padding that is left around these.
        start = max((begin - top) // up, 0)
        stop = min((end + up_rows - 2 - top) // up + 1, x.shape[2])
        above = top - begin + start * up
        sides = (left, right, above, end - begin + up_rows - 1 - above - (stop - start) * up)
        x = x[:, :, start:stop].to(inner)
        if bias is not None:
            x = x + bias.to(inner)[:, None, None]
        # A leaky ReLU commutes with a positive factor: the gain goes into the filter.
        x = upfirdn2d(x, up_filter, up, padding=sides, gain=up**2 * gain, flip_filter=flip_filter)
        inplace = up_filter is not None and not x.requires_grad
        if slope != 1:
            x = F.leaky_relu(x, slope, inplace)
        if clamp is not None:
            x = x.clamp_(-clamp, clamp) if inplace else x.clamp(-clamp, clamp)
        return upfirdn2d(x, down_filter, down=down, flip_filter=flip_filter).to(dtype)

    x = x.contiguous(memory_format=torch.channels_last)
    trained = torch.is_grad_enabled() and (x.requires_grad or (bias is not None and bias.requires_grad))
    if trained or x.device.type != "cpu":
        return piece(x, bias, 0, rows)
    batch, channels = x.shape[:2]
    columns = (width - down_columns) // down + 1
    samples_each = max(PIECE_VALUES // (height * width * channels), 1)
    channels_each = max(PIECE_VALUES // (height * width) // PIECE_CHANNELS, 1) * PIECE_CHANNELS
    rows_each = max((PIECE_VALUES // (width * min(channels_each, channels)) - down_rows) // down, 8)
    out = torch.empty(batch, channels, rows, columns, dtype=dtype, memory_format=torch.channels_last)
    for sample in range(0, batch, samples_each):
        for channel in range(0, channels, channels_each):
            some = slice(sample, sample + samples_each), slice(channel, channel + channels_each)
            part = None if bias is None else bias[some[1]]
            for row in range(0, rows, rows_each):
                last = min(row + rows_each, rows)
                out[some][:, :, row:last] = piece(x[some], part, row, last)
    return out


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

    Returns how many samples to add before and after it (negative: to drop, since no output sees them), and how many
    values to trim from its result.
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
