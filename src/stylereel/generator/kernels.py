"""Numba kernels of the StyleGAN2 layers on a CPU: each does in one pass over memory what takes torch five.

Features are arrays [H, W, C], one picture at a time, float32 or bfloat16 (as uint16); arithmetic is float32. Each runs
on one core without Python's lock; `fast`, which calls them, gives each core rows of its own. The plain form that they
equal is in `ops` and `resample`.
"""

from __future__ import annotations

import numpy as np
from numba import njit, types
from numba.extending import intrinsic, overload

SLOPE = np.float32(0.2)
CHUNK = 2048  # tiles times channels between the two passes of a transform, which then stay in the nearest cache


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


@njit(cache=True, fastmath=True, nogil=True, error_model="numpy")
def winograd_input(x, first, rows, across, pad, style, out):
    """Transform of F(4x4, 3x3) (Lavin and Gray 2015) of tile rows first..first + rows: out [36, tiles times C].

    x [H, W, C] counts as zero outside and has `pad` zeros before it; a tile makes 4x4 outputs from 6x6 inputs; `style`
    [C] scales the inputs. Pixels are sorted by their column modulo 4 on the way, so that the loops along the row are
    long.
    """
    height, width, channels = x.shape
    two, four, five = np.float32(2.0), np.float32(4.0), np.float32(5.0)
    chunk = max(1, CHUNK // channels)
    middle = np.empty((6, 4, (chunk + 1) * channels), np.float32)
    inside = np.empty(6, np.float32)
    for row in range(rows):
        top = 4 * (first + row) - pad
        # What lies outside is read at the border and counts nothing.
        for i in range(6):
            inside[i] = top + i >= 0 and top + i < height
        f0, f1, f2, f3, f4, f5 = inside[0], inside[1], inside[2], inside[3], inside[4], inside[5]
        x0, x1, x2 = x[max(top, 0)], x[max(top + 1, 0)], x[min(top + 2, height - 1)]
        x3, x4, x5 = x[min(top + 3, height - 1)], x[min(top + 4, height - 1)], x[min(top + 5, height - 1)]
        for begin in range(0, across, chunk):
            end = min(across, begin + chunk)
            for q in range(4 * begin, 4 * end + 2):
                w, at = q - pad, (q // 4 - begin) * channels
                part = middle[:, q % 4, at : at + channels]
                if w < 0 or w >= width:
                    part[:] = np.float32(0.0)
                    continue
                p0, p1, p2, p3, p4, p5 = x0[w], x1[w], x2[w], x3[w], x4[w], x5[w]
                m0, m1, m2, m3, m4, m5 = part[0], part[1], part[2], part[3], part[4], part[5]
                for c in range(channels):
                    s = style[c]
                    d0, d1, d2 = read(p0[c]) * s * f0, read(p1[c]) * s * f1, read(p2[c]) * s * f2
                    d3, d4, d5 = read(p3[c]) * s * f3, read(p4[c]) * s * f4, read(p5[c]) * s * f5
                    m0[c] = four * d0 - five * d2 + d4
                    m1[c] = d3 + d4 - four * (d1 + d2)
                    m2[c] = four * (d1 - d2) - d3 + d4
                    m3[c] = two * (d3 - d1) - d2 + d4
                    m4[c] = two * (d1 - d3) - d2 + d4
                    m5[c] = four * d1 - five * d3 + d5
            n, base = (end - begin) * channels, (row * across + begin) * channels
            for k in range(6):
                line, target = middle[k], out[6 * k : 6 * k + 6, base : base + n]
                p0, p1, p2, p3 = line[0, :n], line[1, :n], line[2, :n], line[3, :n]
                p4, p5 = line[0, channels : channels + n], line[1, channels : channels + n]
                t0, t1, t2, t3, t4, t5 = target[0], target[1], target[2], target[3], target[4], target[5]
                for e in range(n):
                    d0, d1, d2, d3, d4, d5 = p0[e], p1[e], p2[e], p3[e], p4[e], p5[e]
                    t0[e] = four * d0 - five * d2 + d4
                    t1[e] = d3 + d4 - four * (d1 + d2)
                    t2[e] = four * (d1 - d2) - d3 + d4
                    t3[e] = two * (d3 - d1) - d2 + d4
                    t4[e] = two * (d1 - d3) - d2 + d4
                    t5[e] = four * d1 - five * d3 + d5


@njit(cache=True, fastmath=True, nogil=True, error_model="numpy")
def winograd_output(product, first, rows, across, out, scale, shift, noise, slope, clamp):
    """Back transform of product [36, tiles times C] into tile rows first..first + rows of out [H, W, C], then `finish`.

    Tiles may reach beyond the picture; `slope` 1 leaves the activation out.
    """
    height, width, channels = out.shape
    noisy = noise.size > 1
    two, four, eight = np.float32(2.0), np.float32(4.0), np.float32(8.0)
    chunk = max(1, CHUNK // channels)
    middle = np.empty((4, 6, chunk * channels), np.float32)
    spare = np.empty((4, channels), out.dtype)  # a tile that reaches beyond the picture goes here first
    for row in range(rows):
        top = 4 * (first + row)
        for begin in range(0, across, chunk):
            end = min(across, begin + chunk)
            n, base = (end - begin) * channels, (row * across + begin) * channels
            for j in range(6):
                source = product[j::6, base : base + n]
                p0, p1, p2, p3, p4, p5 = source[0], source[1], source[2], source[3], source[4], source[5]
                r0, r1, r2, r3 = middle[0, j], middle[1, j], middle[2, j], middle[3, j]
                for e in range(n):
                    m0, m1, m2, m3, m4, m5 = p0[e], p1[e], p2[e], p3[e], p4[e], p5[e]
                    r0[e] = m0 + m1 + m2 + m3 + m4
                    r1[e] = m1 - m2 + two * (m3 - m4)
                    r2[e] = m1 + m2 + four * (m3 + m4)
                    r3[e] = m1 - m2 + eight * (m3 - m4) + m5
            for i in range(min(4, height - top)):
                for tile in range(begin, end):
                    left, at = 4 * tile, (tile - begin) * channels
                    wide = min(4, width - left)
                    n0 = n1 = n2 = n3 = np.float32(0.0)
                    if noisy:
                        line, most = noise[top + i], width - 1
                        n0, n1 = line[left], line[min(left + 1, most)]
                        n2, n3 = line[min(left + 2, most)], line[min(left + 3, most)]
                    source = middle[i, :, at : at + channels]
                    p0, p1, p2, p3, p4, p5 = source[0], source[1], source[2], source[3], source[4], source[5]
                    square = out[top + i, left : left + 4] if wide == 4 else spare
                    o0, o1, o2, o3 = square[0], square[1], square[2], square[3]
                    for c in range(channels):
                        m0, m1, m2, m3, m4, m5 = p0[c], p1[c], p2[c], p3[c], p4[c], p5[c]
                        a, b = scale[c], shift[c]
                        t0 = (m0 + m1 + m2 + m3 + m4) * a + (b + n0)
                        t1 = (m1 - m2 + two * (m3 - m4)) * a + (b + n1)
                        t2 = (m1 + m2 + four * (m3 + m4)) * a + (b + n2)
                        t3 = (m1 - m2 + eight * (m3 - m4) + m5) * a + (b + n3)
                        write(o0, c, min(max(max(t0, slope * t0), -clamp), clamp))
                        write(o1, c, min(max(max(t1, slope * t1), -clamp), clamp))
                        write(o2, c, min(max(max(t2, slope * t2), -clamp), clamp))
                        write(o3, c, min(max(max(t3, slope * t3), -clamp), clamp))
                    if wide < 4:
                        out[top + i, left:width] = spare[:wide]


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


@njit(cache=True, fastmath=True, nogil=True, error_model="numpy")
def filtered_leaky_relu(
    x, out, scale, shift, up_taps, up, pad, gain, clamp, down_taps, begin, end, first, last, left, right
):
    """Up-sample, leaky ReLU, down-sample by 2 (Karras et al. 2021, section 3), without the high-rate picture.

    x [H, W, C] times scale [C] plus shift [C] counts as zero outside. up_taps [6 up] serve both axes and hold the
    gain `up` (2 or 4) each; `pad` = (left, top) zeros stand before the zero-stuffed picture. down_taps [12] serve both
    axes, or [12, 12] is radially symmetric. Makes rows first..last, columns left..right and channels begin..end of
    out [H', W', C], with twelve high-rate rows in memory. Those are sorted by column modulo `up`, so that all loops
    along the row are long; symmetric taps are added before they are multiplied.
    """
    height, width = x.shape[:2]
    n, columns, split = end - begin, right - left, up // 2
    most = (2 * columns + 10 + up - 1) // up  # high-rate columns of one remainder
    half = (columns + split - 1) // split  # columns of one remainder in the result
    base = (2 * left - pad[0]) // up  # first input column that counts
    radial = down_taps.ndim == 2
    middle = np.zeros((most + 8) * n, np.float32)
    planes, folded = np.empty((up, most * n), np.float32), np.empty((up, most * n), np.float32)
    ring = np.empty((12, up if radial else split, (most if radial else half) * n), np.float32)
    ready = np.empty((split, half * n), np.float32)
    factor, offset = scale[begin:end], shift[begin:end]
    taps, at = np.empty(6, np.float32), np.empty(6, np.int64)
    for r in range(2 * first, 2 * last + 10):
        # Down the columns: six input rows make one high-rate row.
        tap = (pad[1] - r) % up
        i = (r + tap - pad[1]) // up
        total = np.float32(0.0)
        for t in range(6):
            inside = i + t >= 0 and i + t < height
            taps[t], at[t] = up_taps[tap + t * up] if inside else np.float32(0.0), i + t if inside else 0
            total += taps[t]
        k0, k1, k2, k3, k4, k5 = taps[0], taps[1], taps[2], taps[3], taps[4], taps[5]
        r0, r1, r2, r3, r4, r5 = x[at[0]], x[at[1]], x[at[2]], x[at[3]], x[at[4]], x[at[5]]
        for m in range(most + 8):
            w, target = base + m, middle[m * n : (m + 1) * n]
            if w < 0 or w >= width:
                target[:] = np.float32(0.0)
                continue
            p0, p1, p2 = r0[w, begin:end], r1[w, begin:end], r2[w, begin:end]
            p3, p4, p5 = r3[w, begin:end], r4[w, begin:end], r5[w, begin:end]
            for c in range(n):
                value = k0 * read(p0[c]) + k1 * read(p1[c]) + k2 * read(p2[c])
                value += k3 * read(p3[c]) + k4 * read(p4[c]) + k5 * read(p5[c])
                target[c] = value * factor[c] + total * offset[c]
        # Along the row, then the activation.
        lines, count = ring[r % 12] if radial else planes, most * n
        for p in range(up):
            tap = (pad[0] - 2 * left - p) % up
            k0, k1, k2 = up_taps[tap] * gain, up_taps[tap + up] * gain, up_taps[tap + 2 * up] * gain
            k3, k4, k5 = up_taps[tap + 3 * up] * gain, up_taps[tap + 4 * up] * gain, up_taps[tap + 5 * up] * gain
            source = middle[((2 * left + p + tap - pad[0]) // up - base) * n :]
            p0, p1, p2 = source[:count], source[n : n + count], source[2 * n : 2 * n + count]
            p3, p4, p5 = source[3 * n : 3 * n + count], source[4 * n : 4 * n + count], source[5 * n : 5 * n + count]
            line = lines[p]
            for e in range(count):
                value = k0 * p0[e] + k1 * p1[e] + k2 * p2[e] + k3 * p3[e] + k4 * p4[e] + k5 * p5[e]
                value = max(value, SLOPE * value)
                line[e] = min(max(value, -clamp), clamp)
        if not radial:
            _halve(planes, n, down_taps, ring[r % 12], True)
        if r >= 2 * first + 11 and r % 2 == 1:
            row = (r - 11) // 2
            _emit(ring, 2 * row, n, down_taps, ready, folded)
            for j in range(columns):
                at_j = (j // split) * n
                source, target = ready[j % split, at_j : at_j + n], out[row, left + j, begin:end]
                for c in range(n):
                    write(target, c, source[c])


@njit(cache=True, fastmath=True, nogil=True, error_model="numpy")
def _halve(planes, n, taps, out, fresh):
    """Twelve symmetric taps along a row at every second column, into out or, unless `fresh`, added to it.

    planes [up, ..] and out [up / 2, ..] hold columns times n channels, sorted by column modulo their number.
    """
    up, count = len(planes), out.shape[1]
    for s in range(len(out)):
        line = out[s]
        for q in range(0, 6, 2):
            g0, g1 = taps[q], taps[q + 1]
            a, b, c, d = 2 * s + q, 2 * s + 11 - q, 2 * s + q + 1, 2 * s + 10 - q
            p0, p1 = planes[a % up, (a // up) * n :], planes[b % up, (b // up) * n :]
            p2, p3 = planes[c % up, (c // up) * n :], planes[d % up, (d // up) * n :]
            # With an odd number of columns the last of a remainder may have no neighbours; nobody reads it.
            size = min(count, len(p0), len(p1), len(p2), len(p3))
            if fresh and q == 0:
                for e in range(size):
                    line[e] = g0 * (p0[e] + p1[e]) + g1 * (p2[e] + p3[e])
            else:
                for e in range(size):
                    line[e] += g0 * (p0[e] + p1[e]) + g1 * (p2[e] + p3[e])


def _emit(ring, start, n, taps, out, folded):
    """One row [up / 2, columns n] from twelve in the ring; with separable taps those are at half rate already."""
    raise TypeError("only compiled kernels can call this; the overload below is its code")


@overload(_emit)
def _emit_one(ring, start, n, taps, out, folded):
    if taps.ndim == 1:

        def separable(ring, start, n, taps, out, folded):
            for s in range(len(out)):
                line = out[s]
                for q in range(0, 6, 2):
                    g0, g1 = taps[q], taps[q + 1]
                    p0, p1 = ring[(start + q) % 12, s], ring[(start + 11 - q) % 12, s]
                    p2, p3 = ring[(start + q + 1) % 12, s], ring[(start + 10 - q) % 12, s]
                    if q == 0:
                        for e in range(len(line)):
                            line[e] = g0 * (p0[e] + p1[e]) + g1 * (p2[e] + p3[e])
                    else:
                        for e in range(len(line)):
                            line[e] += g0 * (p0[e] + p1[e]) + g1 * (p2[e] + p3[e])

        return separable

    def radial(ring, start, n, taps, out, folded):
        for i in range(6):
            for p in range(len(folded)):
                upper, lower, line = ring[(start + i) % 12, p], ring[(start + 11 - i) % 12, p], folded[p]
                for e in range(len(line)):
                    line[e] = upper[e] + lower[e]
            _halve(folded, n, taps[i], out, i == 0)

    return radial
