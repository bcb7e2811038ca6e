"""Numba kernels of the StyleGAN2 layers on a CPU: each does in one pass over memory what takes torch five.

Features are arrays [H, W, C], one sample at a time, float32 or bfloat16 (as uint16); arithmetic is float32. Each runs
on one core without Python's lock; `fast`, which calls them, gives each core rows of its own. The plain form that they
equal is in `ops` and `resample`.
"""

from __future__ import annotations

import numpy as np
from numba import njit, types
from numba.extending import intrinsic, overload

from stylereel.core import compiled  # noqa: F401 (before any kernel)
from stylereel.generator.cpu.lanes import WIDTH, add, fill, fma, leaky, load, product, spread, store, subtract

SLOPE, ZERO = np.float32(0.2), np.float32(0.0)
TILES = 8  # between the two passes of a transform, which then stay in the nearest cache


@intrinsic
def _bits_to_float(context, bits):
    """A uint32 read as float32."""

    def code(context, builder, signature, arguments):
        return builder.bitcast(arguments[0], context.get_value_type(types.float32))

    return types.float32(types.uint32), code


@intrinsic
def _float_to_bits(context, value):
    """A float32 read as uint32."""

    def code(context, builder, signature, arguments):
        return builder.bitcast(arguments[0], context.get_value_type(types.uint32))

    return types.uint32(types.float32), code


def read(value):
    """An element of a feature as float32; uint16 holds the upper half of one."""
    raise TypeError("only compiled kernels can call this; the overload below is its code")


@overload(read, inline="always")
def _read(value):
    if isinstance(value, types.Integer):
        return lambda value: _bits_to_float(np.uint32(value) << np.uint32(16))  # pyright: ignore[reportCallIssue]
    return lambda value: value


def write(row, c, value):
    """Store a float32 in row[c], rounded to the nearest (even) if the row holds bfloat16."""
    raise TypeError("only compiled kernels can call this; the overload below is its code")


@overload(write, inline="always")
def _write(row, c, value):
    if isinstance(row.dtype, types.Integer):

        def half(row, c, value):
            bits = _float_to_bits(np.float32(value))  # pyright: ignore[reportCallIssue]
            bits += np.uint32(0x7FFF) + ((bits >> np.uint32(16)) & np.uint32(1))
            row[c] = np.uint16(bits >> np.uint32(16))

        return half

    def whole(row, c, value):
        row[c] = value

    return whole


@njit(cache=True, fastmath=True, nogil=True, error_model="numpy")
def finish(y, out, scale, shift, noise, clamp):
    """out = clamp(leaky_relu(y * scale[c] + shift[c] + noise[h, w])), all [H, W, C]; noise may have one element."""
    height, width, channels = y.shape
    noisy = noise.size > 1
    for i in range(height):
        for j in range(width):
            n = noise[i, j] if noisy else np.float32(0.0)
            source, target = y[i, j], out[i, j]
            for c in range(channels):
                t = read(source[c]) * scale[c] + (shift[c] + n)
                t = max(t, SLOPE * t)
                write(target, c, min(max(t, -clamp), clamp))


@njit(cache=True, fastmath=True, inline="always", error_model="numpy")
def _spread(evens, odds, row, shift, even, odd, filtered, width, channels):
    """One row of an up-sampled pair through [1, 3, 3, 1] along the row.

    evens [.., N, (W + 1) / N, C] and odds [.., M, W / M, C] are sorted by column modulo N and M, odds after `shift`
    columns. even and odd [W + 2, C] take the two rows in float32; the first and last of odd stay zero.
    """
    three = np.float32(3.0)
    n, m = evens.shape[1], odds.shape[1]
    for j in range(width):
        k = j + shift
        source, other = evens[row, j % n, j // n], odds[row, k % m, k // m]
        for c in range(channels):
            even[j, c] = read(source[c])
            odd[j + 1, c] = read(other[c])
    source = evens[row, width % n, width // n]
    for c in range(channels):
        even[width, c] = read(source[c])
    for j in range(width):
        for c in range(channels):
            e, o, f = even[j, c], odd[j + 1, c], even[j + 1, c]
            filtered[2 * j, c] = odd[j, c] + three * (e + o) + f
            filtered[2 * j + 1, c] = e + three * (o + f) + odd[j + 2, c]


@njit(cache=True, fastmath=True, nogil=True, error_model="numpy")
def smooth(ee, eo, oe, oo, shift_eo, out, scale, shift, noise, clamp):
    """The [1, 3, 3, 1] filter over the four phases of a transposed convolution, then as `finish`.

    For output rows 2 m, 2 m + 1 with m below M: ee and eo are the even rows 0..M, oe and oo the odd rows -1..M, of the
    even (W + 1) and odd columns (W), sorted as `_spread` says: [rows, N, columns / N, C]. out is [2 M, 2 W, C]; scale
    holds the filter's gain.
    """
    count = out.shape[0] // 2
    width, channels = out.shape[1] // 2, out.shape[2]
    noisy = noise.size > 1
    three = np.float32(3.0)
    odd_0 = np.empty((2 * width, channels), np.float32)
    odd_1 = np.empty((2 * width, channels), np.float32)
    odd_2 = np.empty((2 * width, channels), np.float32)
    even_0 = np.empty((2 * width, channels), np.float32)
    even_1 = np.empty((2 * width, channels), np.float32)
    even, odd = np.empty((width + 2, channels), np.float32), np.zeros((width + 2, channels), np.float32)
    _spread(oe, oo, 0, 0, even, odd, odd_0, width, channels)
    _spread(ee, eo, 0, shift_eo, even, odd, even_0, width, channels)
    _spread(oe, oo, 1, 0, even, odd, odd_1, width, channels)
    for m in range(count):
        _spread(ee, eo, m + 1, shift_eo, even, odd, even_1, width, channels)
        _spread(oe, oo, m + 2, 0, even, odd, odd_2, width, channels)
        for j in range(2 * width):
            n = noise[2 * m, j] if noisy else np.float32(0.0)
            k = noise[2 * m + 1, j] if noisy else np.float32(0.0)
            upper, lower = out[2 * m, j], out[2 * m + 1, j]
            for c in range(channels):
                a, b = even_0[j, c], even_1[j, c]
                o = odd_1[j, c]
                t = (odd_0[j, c] + three * (a + o) + b) * scale[c] + (shift[c] + n)
                u = (a + three * (o + b) + odd_2[j, c]) * scale[c] + (shift[c] + k)
                t, u = max(t, SLOPE * t), max(u, SLOPE * u)
                write(upper, c, min(max(t, -clamp), clamp))
                write(lower, c, min(max(u, -clamp), clamp))
        odd_0, odd_1, odd_2 = odd_1, odd_2, odd_0
        even_0, even_1 = even_1, even_0


@njit(inline="always")
def _spread_six(d0, d1, d2, d3, d4, d5):
    """F(4, 3)'s transform of six inputs."""
    two, four, five = fill(np.float32(2.0)), fill(np.float32(4.0)), fill(np.float32(-5.0))
    a, b = fma(d2, fill(np.float32(-4.0)), d4), fma(d1, fill(np.float32(-4.0)), d3)
    c, d = subtract(d4, d2), subtract(d3, d1)
    first, last = fma(d2, five, fma(d0, four, d4)), fma(d3, five, fma(d1, four, d5))
    return first, add(a, b), subtract(a, b), fma(d, two, c), fma(d, fill(np.float32(-2.0)), c), last


@njit(inline="always")
def _gather_six(m0, m1, m2, m3, m4, m5):
    """F(4, 3)'s back transform of six products."""
    a, b, c, d = add(m1, m2), subtract(m1, m2), add(m3, m4), subtract(m3, m4)
    last = add(fma(d, fill(np.float32(8.0)), b), m5)
    return add(add(m0, a), c), fma(d, fill(np.float32(2.0)), b), fma(c, fill(np.float32(4.0)), a), last


@njit(cache=True, nogil=True, error_model="numpy")
def winograd_input(x, first, rows, across, pad, style, out, plane, wide):
    """Transform of F(4x4, 3x3) (Lavin and Gray 2015) of tile rows first..first + rows: out [36, plane].

    x [H, W, C] counts as zero outside and has `pad` zeros before it; a tile makes 4x4 outputs from 6x6 inputs; `style`
    [C] scales the inputs. The planes hold tiles times `wide` channels, the first C of which are made.
    """
    height, width, channels = x.shape
    columns = np.empty((4 * TILES + 2) * 6 * WIDTH, np.float32)
    step = 6 * WIDTH
    inside, starts = np.empty(6, np.float32), np.empty(6, np.int64)
    for row in range(rows):
        # Values outside are read at the border and count nothing.
        for i in range(6):
            y = 4 * (first + row) - pad + i
            inside[i] = y >= 0 and y < height
            starts[i] = min(max(y, 0), height - 1) * width * channels
        r0, r1, r2, r3, r4, r5 = starts[0], starts[1], starts[2], starts[3], starts[4], starts[5]
        for begin in range(0, across, TILES):
            end = min(across, begin + TILES)
            for c in range(0, channels, WIDTH):
                count, factor, zero = channels - c, load(style, c, channels - c), fill(ZERO)
                s0, s1 = fma(factor, spread(inside, 0), zero), fma(factor, spread(inside, 1), zero)
                s2, s3 = fma(factor, spread(inside, 2), zero), fma(factor, spread(inside, 3), zero)
                s4, s5 = fma(factor, spread(inside, 4), zero), fma(factor, spread(inside, 5), zero)
                for q in range(4 * (end - begin) + 2):
                    w = 4 * begin + q - pad
                    to, at = q * step, w * channels + c
                    if w < 0 or w >= width:
                        for e in range(to, to + step, WIDTH):
                            store(columns, e, zero, WIDTH)
                        continue
                    d0, d1 = fma(load(x, r0 + at, count), s0, zero), fma(load(x, r1 + at, count), s1, zero)
                    d2, d3 = fma(load(x, r2 + at, count), s2, zero), fma(load(x, r3 + at, count), s3, zero)
                    d4, d5 = fma(load(x, r4 + at, count), s4, zero), fma(load(x, r5 + at, count), s5, zero)
                    t0, t1, t2, t3, t4, t5 = _spread_six(d0, d1, d2, d3, d4, d5)
                    store(columns, to, t0, WIDTH)
                    store(columns, to + WIDTH, t1, WIDTH)
                    store(columns, to + 2 * WIDTH, t2, WIDTH)
                    store(columns, to + 3 * WIDTH, t3, WIDTH)
                    store(columns, to + 4 * WIDTH, t4, WIDTH)
                    store(columns, to + 5 * WIDTH, t5, WIDTH)
                for tile in range(begin, end):
                    at, to = (tile - begin) * 4 * step, (row * across + tile) * wide + c
                    for _ in range(6):
                        d0, d1 = load(columns, at, WIDTH), load(columns, at + step, WIDTH)
                        d2, d3 = load(columns, at + 2 * step, WIDTH), load(columns, at + 3 * step, WIDTH)
                        d4, d5 = load(columns, at + 4 * step, WIDTH), load(columns, at + 5 * step, WIDTH)
                        t0, t1, t2, t3, t4, t5 = _spread_six(d0, d1, d2, d3, d4, d5)
                        store(out, to, t0, count)
                        store(out, to + plane, t1, count)
                        store(out, to + 2 * plane, t2, count)
                        store(out, to + 3 * plane, t3, count)
                        store(out, to + 4 * plane, t4, count)
                        store(out, to + 5 * plane, t5, count)
                        at, to = at + WIDTH, to + 6 * plane


@njit(cache=True, nogil=True, error_model="numpy")
def winograd_output(product, plane, wide, first, rows, across, out, scale, shift, noise, slope, clamp):
    """Back transform of product [36, plane] into tile rows first..first + rows of out [H, W, C], then as `finish`.

    The planes hold tiles times `wide` channels, the first C of which count. Tiles may reach beyond the image; `slope`
    1 leaves the activation out.
    """
    height, width, channels = out.shape
    noisy = noise.size > 1
    middle = np.empty(24 * WIDTH, np.float32)
    slopes, limit = fill(slope), fill(clamp)
    for row in range(rows):
        top = 4 * (first + row)
        for tile in range(across):
            left = 4 * tile
            there = min(4, width - left)
            for c in range(0, channels, WIDTH):
                count, at = channels - c, (row * across + tile) * wide + c
                for e in range(0, 6 * WIDTH, WIDTH):
                    m0, m1 = load(product, at, WIDTH), load(product, at + 6 * plane, WIDTH)
                    m2, m3 = load(product, at + 12 * plane, WIDTH), load(product, at + 18 * plane, WIDTH)
                    m4, m5 = load(product, at + 24 * plane, WIDTH), load(product, at + 30 * plane, WIDTH)
                    t0, t1, t2, t3 = _gather_six(m0, m1, m2, m3, m4, m5)
                    store(middle, e, t0, WIDTH)
                    store(middle, e + 6 * WIDTH, t1, WIDTH)
                    store(middle, e + 12 * WIDTH, t2, WIDTH)
                    store(middle, e + 18 * WIDTH, t3, WIDTH)
                    at += plane
                a, b = load(scale, c, count), load(shift, c, count)
                for i in range(min(4, height - top)):
                    e, pixel = 6 * i * WIDTH, (top + i) * width + left
                    m0, m1 = load(middle, e, WIDTH), load(middle, e + WIDTH, WIDTH)
                    m2, m3 = load(middle, e + 2 * WIDTH, WIDTH), load(middle, e + 3 * WIDTH, WIDTH)
                    m4, m5 = load(middle, e + 4 * WIDTH, WIDTH), load(middle, e + 5 * WIDTH, WIDTH)
                    t0, t1, t2, t3 = _gather_six(m0, m1, m2, m3, m4, m5)
                    to, grain = pixel * channels + c, pixel if noisy else 0
                    t0 = fma(t0, a, add(b, spread(noise, grain)))
                    store(out, to, leaky(t0, slopes, limit), count)
                    if there > 1:
                        t1 = fma(t1, a, add(b, spread(noise, grain + 1 if noisy else 0)))
                        store(out, to + channels, leaky(t1, slopes, limit), count)
                    if there > 2:
                        t2 = fma(t2, a, add(b, spread(noise, grain + 2 if noisy else 0)))
                        store(out, to + 2 * channels, leaky(t2, slopes, limit), count)
                    if there > 3:
                        t3 = fma(t3, a, add(b, spread(noise, grain + 3 if noisy else 0)))
                        store(out, to + 3 * channels, leaky(t3, slopes, limit), count)


@njit(cache=True, nogil=True, error_model="numpy")
def winograd(
    x,
    pad,
    style,
    matrices,
    out,
    scale,
    shift,
    noise,
    slope,
    clamp,
    spreads,
    wide,
    products,
    filled,
    plane,
    step,
    first,
    last,
):
    """Tile rows first..last of a 3x3 convolution, `step` of them at a time: transform, products, back transform.

    See `winograd_input`, `lanes.product` and `winograd_output`; spreads [36, plane, wide] and products [36, plane,
    filled] are flat and serve as memory.
    """
    across = (out.shape[1] + 3) // 4
    for row in range(first, last, step):
        rows = min(step, last - row)
        winograd_input(x, row, rows, across, pad, style, spreads, plane * wide, wide)
        product(spreads, wide, matrices, products, rows * across, x.shape[2], filled, plane)
        winograd_output(products, plane * filled, filled, row, rows, across, out, scale, shift, noise, slope, clamp)


@njit(cache=True, fastmath=True, nogil=True, error_model="numpy")
def _spread_two(d, n, channels, out):
    """Transform of F(4, 2) along a row whose pixels are sorted by column modulo 4: d [4, ..] to out [5, n]."""
    two, three = np.float32(2.0), np.float32(3.0)
    p0, p1, p2, p3, p4 = d[0, :n], d[1, :n], d[2, :n], d[3, :n], d[0, channels : channels + n]
    t0, t1, t2, t3, t4 = out[0], out[1], out[2], out[3], out[4]
    for e in range(n):
        d0, d1, d2, d3, d4 = p0[e], p1[e], p2[e], p3[e], p4[e]
        t0[e] = two * (d0 - d2) - d1 + d3
        t1[e] = two * d1 + d2 - d3
        t2[e] = three * d2 - two * d1 - d3
        t3[e] = d3 - d1
        t4[e] = two * (d1 - d3) - d2 + d4


@njit(cache=True, fastmath=True, nogil=True, error_model="numpy")
def winograd_up_input(x, first, rows, across, style, even_even, even_odd, odd_even):
    """Transforms for a transposed 3x3 convolution of stride 2, of the parts that take two taps along an axis.

    Even rows (columns) take taps 2 and 0 of two neighbours, odd ones tap 1, so F(4, 2) serves the even ones and the
    odd ones stay as they are. x [H, W, C], zero outside, times `style` [C]. Serves the rows first + 1..first + rows of
    either kind, rows = 4 R: even_even [25, R * across * C] for even rows and columns, even_odd [5, R, 4, (across + 1)
    * C] for even rows and odd columns (sorted by column modulo 4, after one zero column), odd_even [5, rows * across *
    C] for odd rows and even columns.
    """
    height, width, channels = x.shape
    two, three = np.float32(2.0), np.float32(3.0)
    n = across * channels
    inside = np.empty(5, np.float32)
    for r in range(even_odd.shape[1]):
        top = first + 4 * r
        for i in range(5):
            inside[i] = top + i >= 0 and top + i < height
        f0, f1, f2, f3, f4 = inside[0], inside[1], inside[2], inside[3], inside[4]
        x0, x1, x2 = x[max(top, 0)], x[max(top + 1, 0)], x[max(top + 2, 0)]
        x3, x4 = x[max(top + 3, 0)], x[min(top + 4, height - 1)]
        for q in range(4 * across + 4):
            w, at = q - 1, (q // 4) * channels
            part = even_odd[:, r, q % 4, at : at + channels]
            if w < 0 or w >= width:
                part[:] = np.float32(0.0)
                continue
            p0, p1, p2, p3, p4 = x0[w], x1[w], x2[w], x3[w], x4[w]
            t0, t1, t2, t3, t4 = part[0], part[1], part[2], part[3], part[4]
            for c in range(channels):
                s = style[c]
                d0, d1, d2, d3, d4 = p0[c] * s * f0, p1[c] * s * f1, p2[c] * s * f2, p3[c] * s * f3, p4[c] * s * f4
                t0[c] = two * (d0 - d2) - d1 + d3
                t1[c] = two * d1 + d2 - d3
                t2[c] = three * d2 - two * d1 - d3
                t3[c] = d3 - d1
                t4[c] = two * (d1 - d3) - d2 + d4
        for k in range(5):
            _spread_two(even_odd[k, r], n, channels, even_even[5 * k : 5 * k + 5, r * n : (r + 1) * n])
    line = np.zeros((4, (across + 1) * channels), np.float32)
    for m in range(rows):
        row = first + 1 + m
        target = odd_even[:, m * n : (m + 1) * n]
        if row < 0 or row >= height:
            target[:] = np.float32(0.0)
            continue
        for w in range(width):
            at = ((w + 1) // 4) * channels
            part, source = line[(w + 1) % 4, at : at + channels], x[row, w]
            for c in range(channels):
                part[c] = source[c] * style[c]
        _spread_two(line, n, channels, target)


@njit(cache=True, fastmath=True, nogil=True, error_model="numpy")
def _gather_two(m, n, out):
    """Back transform of F(4, 2) of m [5, n] to out [4, n]."""
    two, four, eight = np.float32(2.0), np.float32(4.0), np.float32(8.0)
    p0, p1, p2, p3, p4 = m[0], m[1], m[2], m[3], m[4]
    t0, t1, t2, t3 = out[0], out[1], out[2], out[3]
    for e in range(n):
        m0, m1, m2, m3, m4 = p0[e], p1[e], p2[e], p3[e], p4[e]
        t0[e] = m0 + m1 + m2 + m3
        t1[e] = m1 - m2 + two * m3
        t2[e] = m1 + m2 + four * m3
        t3[e] = m1 - m2 + eight * m3 + m4


@njit(cache=True, fastmath=True, nogil=True, error_model="numpy")
def winograd_up_output(even_even, even_odd, odd_even, ee, eo, oe):
    """Back transform of the products of `winograd_up_input`'s transforms into phases as `smooth` takes them.

    even_even [25, R * N], even_odd [5, R, M] and odd_even [5, rows * N] become ee [4 R, 4, N], eo [4 R, M] and oe
    [rows, 4, N], where N and M are all tiles and channels of a row.
    """
    n = ee.shape[2]
    middle = np.empty((4, 5, n), np.float32)
    for r in range(even_odd.shape[1]):
        for j in range(5):
            _gather_two(even_even[j::5, r * n : (r + 1) * n], n, middle[:, j])
        for i in range(4):
            _gather_two(middle[i], n, ee[4 * r + i])
        _gather_two(even_odd[:, r], eo.shape[1], eo[4 * r : 4 * r + 4])
    for m in range(len(oe)):
        _gather_two(odd_even[:, m * n : (m + 1) * n], n, oe[m])


@njit(cache=True, fastmath=True, nogil=True, error_model="numpy")
def colours(x, weight, bias, clamp, before, out, first, last):
    """toRGB: out [K, H, W] = clamp(x [H, W, C] times weight [K, C] + bias [K]) + before [K, H / 2, W / 2] doubled.

    Makes rows first..last. `before` may have no elements (first layer). Doubling is zero insertion and [1, 3, 3, 1] / 4
    along both axes.
    """
    _, width, channels = x.shape
    count = weight.shape[0]
    doubled = before.size > 0
    for i in range(first, last):
        m = i // 2
        near, far = m, m + 1 if i % 2 else m - 1
        for k in range(count):
            for j in range(width):
                total = np.float32(0.0)
                for c in range(channels):
                    total += read(x[i, j, c]) * weight[k, c]
                out[k, i, j] = min(max(total + bias[k], -clamp), clamp)
            if doubled:
                inside = far >= 0 and far < before.shape[1]
                half = width // 2
                column = np.empty(half + 2, np.float32)
                column[0] = column[half + 1] = 0.0
                for j in range(half):
                    beyond = before[k, far, j] if inside else np.float32(0.0)
                    column[j + 1] = (np.float32(3.0) * before[k, near, j] + beyond) * np.float32(1 / 16)
                for j in range(half):
                    out[k, i, 2 * j] += np.float32(3.0) * column[j + 1] + column[j]
                    out[k, i, 2 * j + 1] += np.float32(3.0) * column[j + 1] + column[j + 2]


@njit(inline="always")
def _between(taps, t, w0, w1, w2, w3, w4, w5, slope, clamp):
    """One high-rate value from six neighbours and the factors taps[t] and on, activated."""
    value = fma(w0, spread(taps, t), fma(w1, spread(taps, t + 1), fill(ZERO)))
    other = fma(w2, spread(taps, t + 2), fma(w3, spread(taps, t + 3), fill(ZERO)))
    value, other = fma(w4, spread(taps, t + 4), value), fma(w5, spread(taps, t + 5), other)
    return leaky(add(value, other), slope, clamp)


@njit(inline="always")
def _twelve(g0, g1, g2, g3, g4, g5, h0, h1, h2, h3, h4, h5, h6, h7, h8, h9, h10, h11, total):
    """total plus twelve neighbours times symmetric taps."""
    total = fma(add(h0, h11), g0, fma(add(h1, h10), g1, total))
    other = fma(add(h2, h9), g2, fma(add(h3, h8), g3, fill(ZERO)))
    total, other = fma(add(h4, h7), g4, total), fma(add(h5, h6), g5, other)
    return add(total, other)


@njit(inline="always")
def _pair_sum(ring, upper, lower, column):
    """Two rows of the ring added, in one column."""
    return add(load(ring, upper + column * WIDTH, WIDTH), load(ring, lower + column * WIDTH, WIDTH))


@njit(cache=True, nogil=True, error_model="numpy")
def filtered_leaky_relu(x, out, shift, up_taps, up, pad, clamp, down_taps, begin, end, first, last, left, right):
    """Up-sample, leaky ReLU, down-sample by 2 (Karras et al. 2021, section 3), without the high-rate features.

    x [H, W, C or more] plus shift [C] counts as zero outside. up_taps [2, 6 up] serve the columns and the rows and hold
    the gain `up` (2 or 4), the latter that of the activation too; `pad` = (left, top) zeros come before the
    zero-stuffed features. down_taps [1, 12] serve both axes, or [12, 12] is radially symmetric. Makes rows first..last,
    columns left..right and channels begin..end of out [H', W', C], a register of channels at a time.

    The up filter makes `up` high-rate columns from the same six columns of x; they are made two at a time, in
    registers, and the filter down the row takes them from there. Twelve rows wait in memory for the filter down the
    column. Symmetric taps are added before they are multiplied.
    """
    height, width, channels = x.shape
    radial = len(down_taps) > 1
    group = (2 * left - pad[0] - 1) // up  # the first group of columns from the same ones of x
    start = pad[0] + 1 + up * group  # its first high-rate column
    late = start % 2 == 0  # the second of a pair ends a window of the filter that halves the rate, not the first
    base = (start - 10) // 2  # the column of the result whose window ends with the first pair
    pairs = right - base
    size = (2 if radial else 1) * pairs * WIDTH
    ring = np.empty(12 * size, np.float32)
    sums = np.empty((right - left) * WIDTH, np.float32)
    across = np.empty(6 * up, np.float32)  # taps in the order of use
    for q in range(up):
        for t in range(6):
            across[6 * q + t] = up_taps[1, t * up + up - 1 - q]
    taps, places = np.empty(6, np.float32), np.empty(12, np.int64)
    columns = (2 * pairs + up - 1) // up + 5  # of x that count
    inner, outer = max(0, group + 1), min(width, group + 1 + columns)
    line = columns * WIDTH
    near, middle = np.zeros(8 * line, np.float32), np.empty(line, np.float32)
    slope, limit = fill(SLOPE), fill(clamp)
    for c in range(begin, end, WIDTH):
        count = end - c
        offset = load(shift, c, count)
        known = (2 * first - pad[1]) // up - 1  # rows of x before this one have come
        for r in range(2 * first, 2 * last + 10):
            tap = (pad[1] - r) % up
            i = (r + tap - pad[1]) // up
            while known < i + 6:
                if known >= 0 and known < height:
                    source, target = known * width * channels + c, (known % 8) * line
                    for column in range(inner, outer):
                        value = add(load(x, source + column * channels, count), offset)
                        store(near, target + (column - group - 1) * WIDTH, value, WIDTH)
                known += 1
            for t in range(6):
                taps[t] = up_taps[0, tap + t * up] if i + t >= 0 and i + t < height else ZERO
            r0, r1, r2 = (i % 8) * line, ((i + 1) % 8) * line, ((i + 2) % 8) * line
            r3, r4, r5 = ((i + 3) % 8) * line, ((i + 4) % 8) * line, ((i + 5) % 8) * line
            for e in range(0, line, WIDTH):
                value = fma(load(near, r0 + e, WIDTH), spread(taps, 0), fill(ZERO))
                other = fma(load(near, r1 + e, WIDTH), spread(taps, 1), fill(ZERO))
                value = fma(load(near, r2 + e, WIDTH), spread(taps, 2), value)
                other = fma(load(near, r3 + e, WIDTH), spread(taps, 3), other)
                value = fma(load(near, r4 + e, WIDTH), spread(taps, 4), value)
                other = fma(load(near, r5 + e, WIDTH), spread(taps, 5), other)
                store(middle, e, add(value, other), WIDTH)
            w0, w1, w2 = fill(ZERO), load(middle, 0, WIDTH), load(middle, WIDTH, WIDTH)
            w3, w4, w5 = load(middle, 2 * WIDTH, WIDTH), load(middle, 3 * WIDTH, WIDTH), load(middle, 4 * WIDTH, WIDTH)
            place, column, phase = (r % 12) * size, 5 * WIDTH, 0
            h0 = h1 = h2 = h3 = h4 = h5 = h6 = h7 = h8 = h9 = h10 = h11 = fill(ZERO)
            pending = fill(ZERO)
            g0, g1, g2 = fill(down_taps[0, 0]), fill(down_taps[0, 1]), fill(down_taps[0, 2])
            g3, g4, g5 = fill(down_taps[0, 3]), fill(down_taps[0, 4]), fill(down_taps[0, 5])
            for pair in range(pairs):
                if phase == 0:
                    w0, w1, w2, w3, w4 = w1, w2, w3, w4, w5
                    w5 = load(middle, column, WIDTH)
                    column += WIDTH
                a = _between(across, phase, w0, w1, w2, w3, w4, w5, slope, limit)
                b = _between(across, phase + 6, w0, w1, w2, w3, w4, w5, slope, limit)
                phase = phase + 12 if phase + 12 < 6 * up else 0
                if radial:
                    store(ring, place + 2 * pair * WIDTH, a, WIDTH)
                    store(ring, place + (2 * pair + 1) * WIDTH, b, WIDTH)
                    continue
                h0, h1, h2, h3, h4, h5, h6, h7, h8, h9 = h2, h3, h4, h5, h6, h7, h8, h9, h10, h11
                if late:
                    h10, h11 = a, b
                else:
                    h10, h11, pending = pending, a, b
                value = _twelve(g0, g1, g2, g3, g4, g5, h0, h1, h2, h3, h4, h5, h6, h7, h8, h9, h10, h11, fill(ZERO))
                store(ring, place + pair * WIDTH, value, WIDTH)
            if r < 2 * first + 11 or r % 2 == 0:
                continue
            row = (r - 11) // 2
            to = (row * out.shape[1] + left) * out.shape[2] + c
            if not radial:
                for q in range(12):
                    places[q] = (2 * row + q) % 12 * size + (left - base) * WIDTH
                p0, p1, p2, p3, p4, p5 = places[0], places[1], places[2], places[3], places[4], places[5]
                p6, p7, p8, p9, p10, p11 = places[6], places[7], places[8], places[9], places[10], places[11]
                for e in range(0, (right - left) * WIDTH, WIDTH):
                    h0, h11 = load(ring, p0 + e, WIDTH), load(ring, p11 + e, WIDTH)
                    h1, h10 = load(ring, p1 + e, WIDTH), load(ring, p10 + e, WIDTH)
                    h2, h9 = load(ring, p2 + e, WIDTH), load(ring, p9 + e, WIDTH)
                    h3, h8 = load(ring, p3 + e, WIDTH), load(ring, p8 + e, WIDTH)
                    h4, h7 = load(ring, p4 + e, WIDTH), load(ring, p7 + e, WIDTH)
                    h5, h6 = load(ring, p5 + e, WIDTH), load(ring, p6 + e, WIDTH)
                    value = _twelve(
                        g0, g1, g2, g3, g4, g5, h0, h1, h2, h3, h4, h5, h6, h7, h8, h9, h10, h11, fill(ZERO)
                    )
                    store(out, to, value, count)
                    to += out.shape[2]
                continue
            for i in range(6):
                g0, g1, g2 = fill(down_taps[i, 0]), fill(down_taps[i, 1]), fill(down_taps[i, 2])
                g3, g4, g5 = fill(down_taps[i, 3]), fill(down_taps[i, 4]), fill(down_taps[i, 5])
                upper = (2 * row + i) % 12 * size + (2 * left - start) * WIDTH
                lower = (2 * row + 11 - i) % 12 * size + (2 * left - start) * WIDTH
                h2, h3 = _pair_sum(ring, upper, lower, 0), _pair_sum(ring, upper, lower, 1)
                h4, h5 = _pair_sum(ring, upper, lower, 2), _pair_sum(ring, upper, lower, 3)
                h6, h7 = _pair_sum(ring, upper, lower, 4), _pair_sum(ring, upper, lower, 5)
                h8, h9 = _pair_sum(ring, upper, lower, 6), _pair_sum(ring, upper, lower, 7)
                h10, h11 = _pair_sum(ring, upper, lower, 8), _pair_sum(ring, upper, lower, 9)
                for j in range(right - left):
                    h0, h1, h2, h3, h4, h5, h6, h7, h8, h9 = h2, h3, h4, h5, h6, h7, h8, h9, h10, h11
                    h10 = _pair_sum(ring, upper, lower, 2 * j + 10)
                    h11 = _pair_sum(ring, upper, lower, 2 * j + 11)
                    total = load(sums, j * WIDTH, WIDTH) if i > 0 else fill(ZERO)
                    value = _twelve(g0, g1, g2, g3, g4, g5, h0, h1, h2, h3, h4, h5, h6, h7, h8, h9, h10, h11, total)
                    if i < 5:
                        store(sums, j * WIDTH, value, WIDTH)
                    else:
                        store(out, to + j * out.shape[2], value, count)
