"""Numba kernels of the StyleGAN2 layers on a CPU: each does in one pass over memory what takes torch five.

Features are arrays [H, W, C], one picture at a time, float32 or bfloat16 (as uint16); arithmetic is float32. The
functions that call them, and the plain form that they equal, are in `fast` and `ops`.
"""

from __future__ import annotations

import numpy as np
from numba import njit, prange, types
from numba.extending import intrinsic, overload

SLOPE = np.float32(0.2)


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


def write(array, i, j, c, value):
    """Store a float32 in array[i, j, c], rounded to the nearest (even) if the array holds bfloat16."""
    raise TypeError("only compiled kernels can call this; the overload below is its code")


@overload(write, inline="always")
def _write(array, i, j, c, value):
    if isinstance(array.dtype, types.Integer):

        def half(array, i, j, c, value):
            bits = _float_to_bits(np.float32(value))  # pyright: ignore[reportCallIssue]
            bits += np.uint32(0x7FFF) + ((bits >> np.uint32(16)) & np.uint32(1))
            array[i, j, c] = np.uint16(bits >> np.uint32(16))

        return half

    def whole(array, i, j, c, value):
        array[i, j, c] = value

    return whole


@njit(cache=True, fastmath=True, parallel=True, nogil=True, error_model="numpy")
def finish(y, out, scale, shift, noise, clamp):
    """out = clamp(leaky_relu(y * scale[c] + shift[c] + noise[h, w])), all [H, W, C]; noise may have one element."""
    height, width, channels = y.shape
    noisy = noise.size > 1
    for i in prange(height):
        for j in range(width):
            n = noise[i, j] if noisy else np.float32(0.0)
            for c in range(channels):
                t = read(y[i, j, c]) * scale[c] + (shift[c] + n)
                t = max(t, SLOPE * t)
                write(out, i, j, c, min(max(t, -clamp), clamp))


@njit(cache=True, fastmath=True, inline="always", error_model="numpy")
def _spread(evens, odds, row, even, odd, filtered, width, channels):
    """One row of an up-sampled pair (evens [.., W + 1, C], odds [.., W, C]) through [1, 3, 3, 1] along the row.

    even and odd [W + 2, C] take the two rows in float32; the first and last of odd stay zero.
    """
    three = np.float32(3.0)
    for j in range(width):
        for c in range(channels):
            even[j, c] = read(evens[row, j, c])
            odd[j + 1, c] = read(odds[row, j, c])
    for c in range(channels):
        even[width, c] = read(evens[row, width, c])
    for j in range(width):
        for c in range(channels):
            e, o, f = even[j, c], odd[j + 1, c], even[j + 1, c]
            filtered[2 * j, c] = odd[j, c] + three * (e + o) + f
            filtered[2 * j + 1, c] = e + three * (o + f) + odd[j + 2, c]


@njit(cache=True, fastmath=True, parallel=True, nogil=True, error_model="numpy")
def smooth(ee, eo, oe, oo, out, scale, shift, noise, clamp, rows_each):
    """The [1, 3, 3, 1] filter over the four phases of a transposed convolution, then as `finish`.

    For output rows 2 m, 2 m + 1 with m below M: ee [M + 1, W + 1, C], eo [M + 1, W, C] are the even rows 0..M, and
    oe [M + 2, W + 1, C], oo [M + 2, W, C] the odd rows -1..M. out is [2 M, 2 W, C]; scale holds the filter's gain.
    """
    count = out.shape[0] // 2
    width, channels = oo.shape[1], oo.shape[2]
    noisy = noise.size > 1
    parts = (count + rows_each - 1) // rows_each
    three = np.float32(3.0)
    for part in prange(parts):
        first, last = part * rows_each, min(count, (part + 1) * rows_each)
        odd_0 = np.empty((2 * width, channels), np.float32)
        odd_1 = np.empty((2 * width, channels), np.float32)
        odd_2 = np.empty((2 * width, channels), np.float32)
        even_0 = np.empty((2 * width, channels), np.float32)
        even_1 = np.empty((2 * width, channels), np.float32)
        even, odd = np.empty((width + 2, channels), np.float32), np.zeros((width + 2, channels), np.float32)
        _spread(oe, oo, first, even, odd, odd_0, width, channels)
        _spread(ee, eo, first, even, odd, even_0, width, channels)
        _spread(oe, oo, first + 1, even, odd, odd_1, width, channels)
        for m in range(first, last):
            _spread(ee, eo, m + 1, even, odd, even_1, width, channels)
            _spread(oe, oo, m + 2, even, odd, odd_2, width, channels)
            for j in range(2 * width):
                n = noise[2 * m, j] if noisy else np.float32(0.0)
                k = noise[2 * m + 1, j] if noisy else np.float32(0.0)
                for c in range(channels):
                    a, b = even_0[j, c], even_1[j, c]
                    o = odd_1[j, c]
                    t = (odd_0[j, c] + three * (a + o) + b) * scale[c] + (shift[c] + n)
                    u = (a + three * (o + b) + odd_2[j, c]) * scale[c] + (shift[c] + k)
                    t, u = max(t, SLOPE * t), max(u, SLOPE * u)
                    write(out, 2 * m, j, c, min(max(t, -clamp), clamp))
                    write(out, 2 * m + 1, j, c, min(max(u, -clamp), clamp))
            odd_0, odd_1, odd_2 = odd_1, odd_2, odd_0
            even_0, even_1 = even_1, even_0


@njit(cache=True, fastmath=True, parallel=True, nogil=True, error_model="numpy")
def winograd_input(x, first, rows, across, pad, style, out):
    """Transform of F(4x4, 3x3) (Lavin and Gray 2015) of tile rows first..first + rows: out [36, tiles, C].

    x [H, W, C] counts as zero outside and has `pad` zeros before it; a tile makes 4x4 outputs from 6x6 inputs; `style`
    [C] scales the inputs.
    """
    height, width, channels = x.shape
    two, four, five = np.float32(2.0), np.float32(4.0), np.float32(5.0)
    blocks = (channels + 63) // 64
    for row in prange(rows):
        middle = np.empty((6, 6, 64), np.float32)
        inside = np.empty(6, np.float32)
        top = 4 * (first + row) - pad
        for step in range(across * blocks):
            tile, begin = row * across + step // blocks, 64 * (step % blocks)
            left, n = 4 * (step // blocks) - pad, min(64, channels - begin)
            lane = x[:, :, begin : begin + n]
            target = out[:, tile, begin : begin + n]
            factor = style[begin : begin + n]
            for j in range(6):
                # What lies outside is read at the border and counts nothing.
                w = min(max(left + j, 0), width - 1)
                for i in range(6):
                    inside[i] = top + i >= 0 and top + i < height and left + j >= 0 and left + j < width
                i0, i1, i2 = max(top, 0), max(top + 1, 0), min(top + 2, height - 1)
                i3, i4, i5 = min(top + 3, height - 1), min(top + 4, height - 1), min(top + 5, height - 1)
                f0, f1, f2, f3, f4, f5 = inside[0], inside[1], inside[2], inside[3], inside[4], inside[5]
                for c in range(n):
                    s = factor[c]
                    d0, d1, d2 = lane[i0, w, c] * s * f0, lane[i1, w, c] * s * f1, lane[i2, w, c] * s * f2
                    d3, d4, d5 = lane[i3, w, c] * s * f3, lane[i4, w, c] * s * f4, lane[i5, w, c] * s * f5
                    middle[0, j, c] = four * d0 - five * d2 + d4
                    middle[1, j, c] = d3 + d4 - four * (d1 + d2)
                    middle[2, j, c] = four * (d1 - d2) - d3 + d4
                    middle[3, j, c] = two * (d3 - d1) - d2 + d4
                    middle[4, j, c] = two * (d1 - d3) - d2 + d4
                    middle[5, j, c] = four * d1 - five * d3 + d5
            for k in range(6):
                for c in range(n):
                    d0, d1, d2 = middle[k, 0, c], middle[k, 1, c], middle[k, 2, c]
                    d3, d4, d5 = middle[k, 3, c], middle[k, 4, c], middle[k, 5, c]
                    target[6 * k, c] = four * d0 - five * d2 + d4
                    target[6 * k + 1, c] = d3 + d4 - four * (d1 + d2)
                    target[6 * k + 2, c] = four * (d1 - d2) - d3 + d4
                    target[6 * k + 3, c] = two * (d3 - d1) - d2 + d4
                    target[6 * k + 4, c] = two * (d1 - d3) - d2 + d4
                    target[6 * k + 5, c] = four * d1 - five * d3 + d5


@njit(cache=True, fastmath=True, parallel=True, nogil=True, error_model="numpy")
def winograd_output(product, first, rows, across, out, scale, shift, noise, slope, clamp):
    """Back transform of product [36, tiles, C] into tile rows first..first + rows of out [H, W, C], then as `finish`.

    Tiles may reach beyond the picture; `slope` 1 leaves the activation out.
    """
    height, width, channels = out.shape
    noisy = noise.size > 1
    two, four, eight = np.float32(2.0), np.float32(4.0), np.float32(8.0)
    blocks = (channels + 63) // 64
    for row in prange(rows):
        middle = np.empty((4, 6, 64), np.float32)
        spare = np.empty((4, 4, 65), np.float32)[:, :, :64]  # a tile that reaches beyond the picture goes here first
        grain = np.zeros((4, 4), np.float32)
        top = 4 * (first + row)
        for step in range(across * blocks):
            tile, begin = row * across + step // blocks, 64 * (step % blocks)
            left, n = 4 * (step // blocks), min(64, channels - begin)
            deep, wide = min(4, height - top), min(4, width - left)
            whole = deep == 4 and wide == 4
            source = product[:, tile, begin : begin + n]
            square = out[top : top + 4, left : left + 4, begin : begin + n] if whole else spare
            factor, offset = scale[begin : begin + n], shift[begin : begin + n]
            if noisy:
                grain[:deep, :wide] = noise[top : top + deep, left : left + wide]
            for j in range(6):
                for c in range(n):
                    m0, m1, m2 = source[j, c], source[6 + j, c], source[12 + j, c]
                    m3, m4, m5 = source[18 + j, c], source[24 + j, c], source[30 + j, c]
                    middle[0, j, c] = m0 + m1 + m2 + m3 + m4
                    middle[1, j, c] = m1 - m2 + two * (m3 - m4)
                    middle[2, j, c] = m1 + m2 + four * (m3 + m4)
                    middle[3, j, c] = m1 - m2 + eight * (m3 - m4) + m5
            for i in range(4):
                n0, n1, n2, n3 = grain[i, 0], grain[i, 1], grain[i, 2], grain[i, 3]
                for c in range(n):
                    m0, m1, m2 = middle[i, 0, c], middle[i, 1, c], middle[i, 2, c]
                    m3, m4, m5 = middle[i, 3, c], middle[i, 4, c], middle[i, 5, c]
                    a, b = factor[c], offset[c]
                    t0 = (m0 + m1 + m2 + m3 + m4) * a + (b + n0)
                    t1 = (m1 - m2 + two * (m3 - m4)) * a + (b + n1)
                    t2 = (m1 + m2 + four * (m3 + m4)) * a + (b + n2)
                    t3 = (m1 - m2 + eight * (m3 - m4) + m5) * a + (b + n3)
                    square[i, 0, c] = min(max(max(t0, slope * t0), -clamp), clamp)
                    square[i, 1, c] = min(max(max(t1, slope * t1), -clamp), clamp)
                    square[i, 2, c] = min(max(max(t2, slope * t2), -clamp), clamp)
                    square[i, 3, c] = min(max(max(t3, slope * t3), -clamp), clamp)
            if not whole:
                out[top : top + deep, left : left + wide, begin : begin + n] = spare[:deep, :wide, :n]


@njit(cache=True, fastmath=True, parallel=True, nogil=True, error_model="numpy")
def colours(x, weight, bias, clamp, before, out):
    """toRGB: out [K, H, W] = clamp(x [H, W, C] times weight [K, C] + bias [K]) + before [K, H / 2, W / 2] doubled.

    `before` may have no elements (first layer). Doubling is zero insertion and [1, 3, 3, 1] / 4 along both axes.
    """
    height, width, channels = x.shape
    count = weight.shape[0]
    doubled = before.size > 0
    for i in prange(height):
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


@njit(cache=True, fastmath=True, parallel=True, nogil=True, error_model="numpy")
def filtered_leaky_relu(x, out, scale, shift, up_taps, up, pad, gain, clamp, down_taps, chunk):
    """Up-sample, leaky ReLU, down-sample by 2 (Karras et al. 2021, section 3), without the high-rate picture.

    x [H, W, C] times scale [C] plus shift [C] counts as zero outside. up_taps [6 up] serve both axes and hold the
    gain `up` each; `pad` = (left, top) zeros stand before the zero-stuffed picture. down_taps [12] serve both axes, or
    [12, 12] is radially symmetric. out [H', W', C]. Sixteen channels at a time, `chunk` output rows a task, and
    twelve high-rate rows in memory; symmetric taps are added before they are multiplied.
    """
    height, width, channels = x.shape
    rows, columns = out.shape[0], out.shape[1]
    radial = down_taps.ndim == 2
    fine = 2 * columns + 10
    blocks, chunks = (channels + 15) // 16, (rows + chunk - 1) // chunk
    for task in prange(blocks * chunks):
        begin, first = 16 * (task % blocks), (task // blocks) * chunk
        last, n = min(rows, first + chunk), min(16, channels - begin)
        middle = np.zeros((width + 16, 16), np.float32)
        line = np.empty((fine, 16), np.float32)
        ring = np.empty((12, fine if radial else columns, 16), np.float32)
        factor, offset = np.zeros(16, np.float32), np.zeros(16, np.float32)
        for c in range(n):
            factor[c], offset[c] = scale[begin + c], shift[begin + c]
        for r in range(2 * first, 2 * last + 10):
            # Down the columns: six input rows make one fine row.
            tap = (pad[1] - r) % up
            i = (r + tap - pad[1]) // up
            taps = np.zeros(6, np.float32)
            at = np.zeros(6, np.int64)
            total = np.float32(0.0)
            for t in range(6):
                if i + t >= 0 and i + t < height:
                    taps[t], at[t] = up_taps[tap + t * up], i + t
                    total += taps[t]
            k0, k1, k2, k3, k4, k5 = taps[0], taps[1], taps[2], taps[3], taps[4], taps[5]
            r0, r1, r2, r3, r4, r5 = x[at[0]], x[at[1]], x[at[2]], x[at[3]], x[at[4]], x[at[5]]
            if n == 16:
                for w in range(width):
                    for c in range(16):
                        d = begin + c
                        value = k0 * read(r0[w, d]) + k1 * read(r1[w, d]) + k2 * read(r2[w, d])
                        value += k3 * read(r3[w, d]) + k4 * read(r4[w, d]) + k5 * read(r5[w, d])
                        middle[w + 8, c] = value * factor[c] + total * offset[c]
            else:
                for w in range(width):
                    for c in range(n):
                        d = begin + c
                        value = k0 * read(r0[w, d]) + k1 * read(r1[w, d]) + k2 * read(r2[w, d])
                        value += k3 * read(r3[w, d]) + k4 * read(r4[w, d]) + k5 * read(r5[w, d])
                        middle[w + 8, c] = value * factor[c] + total * offset[c]
            # Along the row, then the activation.
            fine_row = ring[r % 12] if radial else line
            for phase in range(up):
                tap = (pad[0] - phase) % up
                k0, k1, k2 = up_taps[tap] * gain, up_taps[tap + up] * gain, up_taps[tap + 2 * up] * gain
                k3, k4, k5 = up_taps[tap + 3 * up] * gain, up_taps[tap + 4 * up] * gain, up_taps[tap + 5 * up] * gain
                start = (phase + tap - pad[0]) // up + 8
                for m in range((fine - phase + up - 1) // up):
                    w = start + m
                    if w < 0 or w + 5 >= width + 16:  # far outside: all zero
                        for c in range(16):
                            fine_row[phase + m * up, c] = 0.0
                        continue
                    for c in range(16):
                        value = k0 * middle[w, c] + k1 * middle[w + 1, c] + k2 * middle[w + 2, c]
                        value += k3 * middle[w + 3, c] + k4 * middle[w + 4, c] + k5 * middle[w + 5, c]
                        value = max(value, SLOPE * value)
                        fine_row[phase + m * up, c] = min(max(value, -clamp), clamp)
            if not radial:
                coarse = ring[r % 12]
                g0, g1, g2 = down_taps[0], down_taps[1], down_taps[2]
                g3, g4, g5 = down_taps[3], down_taps[4], down_taps[5]
                for w in range(columns):
                    j = 2 * w
                    for c in range(16):
                        value = g0 * (line[j, c] + line[j + 11, c]) + g1 * (line[j + 1, c] + line[j + 10, c])
                        value += g2 * (line[j + 2, c] + line[j + 9, c]) + g3 * (line[j + 3, c] + line[j + 8, c])
                        value += g4 * (line[j + 4, c] + line[j + 7, c]) + g5 * (line[j + 5, c] + line[j + 6, c])
                        coarse[w, c] = value
            k = (r - 11) // 2
            if r % 2 == 0 or k < first:
                continue
            _emit(ring, 2 * k, down_taps, out, k, begin, n)


def _emit(ring, start, taps, out, row, begin, n):
    """One output row from the twelve rows of the ring that begin with fine row `start`."""
    raise TypeError("only compiled kernels can call this; the overload below is its code")


@overload(_emit)
def _emit_one(ring, start, taps, out, row, begin, n):
    if taps.ndim == 1:

        def separable(ring, start, taps, out, row, begin, n):
            a, b, p, d = ring[start % 12], ring[(start + 1) % 12], ring[(start + 2) % 12], ring[(start + 3) % 12]
            e, f, g, h = ring[(start + 4) % 12], ring[(start + 5) % 12], ring[(start + 6) % 12], ring[(start + 7) % 12]
            i, j = ring[(start + 8) % 12], ring[(start + 9) % 12]
            k, m = ring[(start + 10) % 12], ring[(start + 11) % 12]
            value = np.empty(16, np.float32)
            for w in range(out.shape[1]):
                for c in range(16):
                    total = taps[0] * (a[w, c] + m[w, c]) + taps[1] * (b[w, c] + k[w, c])
                    total += taps[2] * (p[w, c] + j[w, c]) + taps[3] * (d[w, c] + i[w, c])
                    value[c] = total + taps[4] * (e[w, c] + h[w, c]) + taps[5] * (f[w, c] + g[w, c])
                for c in range(n):
                    write(out, row, w, begin + c, value[c])

        return separable

    def radial(ring, start, taps, out, row, begin, n):
        folded = np.empty((6, ring.shape[1], 16), np.float32)
        for i in range(6):
            upper, lower = ring[(start + i) % 12], ring[(start + 11 - i) % 12]
            for w in range(ring.shape[1]):
                for c in range(16):
                    folded[i, w, c] = upper[w, c] + lower[w, c]
        value = np.empty(16, np.float32)
        for w in range(out.shape[1]):
            j = 2 * w
            for c in range(16):
                value[c] = 0.0
            for i in range(6):
                line = folded[i]
                g0, g1, g2 = taps[i, 0], taps[i, 1], taps[i, 2]
                g3, g4, g5 = taps[i, 3], taps[i, 4], taps[i, 5]
                for c in range(16):
                    total = g0 * (line[j, c] + line[j + 11, c]) + g1 * (line[j + 1, c] + line[j + 10, c])
                    total += g2 * (line[j + 2, c] + line[j + 9, c]) + g3 * (line[j + 3, c] + line[j + 8, c])
                    value[c] += total + g4 * (line[j + 4, c] + line[j + 7, c]) + g5 * (line[j + 5, c] + line[j + 6, c])
            for c in range(n):
                write(out, row, w, begin + c, value[c])

    return radial
