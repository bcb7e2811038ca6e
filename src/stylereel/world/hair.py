"""Ten hair styles and what is worn on the head: a table of styles, and the geometry of hair, hats and earrings.

The hair is a shell over the scalp (where its thickness is negative it is hidden under the skin), a curtain that
hangs from it, and a knot or tail behind. Locks are stripes of a lock coordinate that `build_hair` stores per vertex.
"""

from __future__ import annotations

import math

import numpy as np
from numba import njit

from stylereel.world import geometry as g
from stylereel.world.factors import INDEX
from stylereel.world.geometry import bump, smoothstep

STYLES = ("shaved", "buzz", "side part", "swept back", "receding", "fringe", "long", "wavy", "curly", "knot")
# What a style is made of, lengths in dm: thickness on top, above the ears, behind; quiff over the forehead; how far the
# front edge comes down; how far the side edge comes down; how far the hair hangs and how wide it spreads there;
# curls; density of the roots on the skin; bald top; lock coordinate along azimuth, along x and along z; knot; wave.
(TOP, SIDE, BACK, QUIFF, FRONT, SIDES, FALL, SPREAD, CURLS, ROOTS, BALD, ALONG, ACROSS, DEPTH, KNOT, WAVE) = range(16)
_TABLE = np.array(
    [
        # top  side   back   quiff front  sides  fall spread curls roots bald along across depth knot wave
        (-0.05, -0.05, -0.05, 0.00, 0.00, 0.00, 0.0, -0.10, 0.0, 0.16, 0.0, 3.0, 0.0, 0.0, 0.0, 0.0),
        (0.022, 0.012, 0.015, 0.00, 0.00, 0.00, 0.0, -0.10, 0.0, 0.80, 0.0, 3.0, 0.0, 0.0, 0.0, 0.0),
        (0.13, 0.05, 0.07, 0.06, 0.05, 0.00, 0.0, -0.05, 0.1, 1.00, 0.0, 0.8, 0.0, 2.6, 0.0, 0.1),
        (0.12, 0.03, 0.08, 0.12, -0.03, -0.04, 0.0, -0.05, 0.1, 1.00, 0.0, 0.0, 3.4, 0.0, 0.0, 0.1),
        (-0.05, 0.09, 0.10, 0.00, 0.00, 0.08, 0.0, -0.10, 0.3, 0.95, 1.0, 3.0, 0.0, 0.0, 0.0, 0.1),
        (0.12, 0.10, 0.12, 0.03, 0.34, 0.00, 0.75, 0.16, 0.0, 1.00, 0.0, 3.4, 0.0, 0.0, 0.0, 0.0),
        (0.10, 0.08, 0.09, 0.02, -0.10, 0.00, 1.75, 0.12, 0.0, 1.00, 0.0, 0.9, 0.0, 2.4, 0.0, 0.1),
        (0.14, 0.13, 0.14, 0.04, -0.08, 0.00, 1.45, 0.27, 0.3, 1.00, 0.0, 0.9, 0.0, 2.0, 0.0, 1.0),
        (0.36, 0.30, 0.30, 0.04, 0.02, 0.10, 0.25, 0.34, 1.0, 1.00, 0.0, 4.0, 0.0, 0.0, 0.0, 0.2),
        (0.05, 0.025, 0.05, 0.02, -0.05, -0.06, 0.0, -0.10, 0.0, 1.00, 0.0, 0.6, 3.4, 0.0, 1.0, 0.0),
    ],
    np.float32,
)
_STYLE, _HAT, _HAT_STYLE, _EARRING = (INDEX[n] for n in ("hair_style", "hat", "hat_style", "earring"))
_VOLUME, _LENGTH, _HAIRLINE, _FRINGE, _PARTING, _CURL, _AGE, _EAR_SIZE = (
    INDEX[n] for n in ("hair_volume", "hair_length", "hairline", "fringe", "parting", "curl", "age", "ear_size")
)
BEANIE, CAP = 0, 1
# Where one style ends and the next begins in `hair_style`: bald heads are rare.
STYLE_EDGES = np.cumsum([0.0] + [0.055 if name in ("shaved", "receding") else 0.11125 for name in STYLES])


@njit(cache=True, fastmath=True, error_model="numpy")
def bins(value, count, width):
    """Index of the lower bin and the share of the next one for a value in 0..1 over `count` equal bins."""
    place = value * count - 0.5
    low = min(count - 2, max(0, int(math.floor(place))))
    return low, smoothstep(0.5 - width, 0.5 + width, place - low)


def style_value(index: int) -> float:
    """The value of `hair_style` in the middle of a style's range."""
    return float(STYLE_EDGES[index] + STYLE_EDGES[index + 1]) / 2


@njit(cache=True, fastmath=True, error_model="numpy")
def style(v):
    """The parameters [16] of the hair of `v`: two rows of the table mixed, then the factors of hair applied."""
    count, at = _TABLE.shape[0], v[_STYLE]
    k = 0
    while k < count - 1 and STYLE_EDGES[k + 1] < at:
        k += 1
    low, share = bins((k + (at - STYLE_EDGES[k]) / (STYLE_EDGES[k + 1] - STYLE_EDGES[k])) / count, count, 0.14)
    s = np.empty(16, np.float32)
    for k in range(16):
        s[k] = _TABLE[low, k] * (1.0 - share) + _TABLE[low + 1, k] * share
    body = smoothstep(0.02, 0.12, s[TOP] + s[SIDE])  # 0 for hair too short to shape
    length = v[_LENGTH]
    thicker = (0.78 + 0.28 * v[_VOLUME] * 0.8 + 0.45 * length) * body + 1.0 - body
    s[TOP] *= thicker if s[TOP] > 0 else 1.0
    s[SIDE] *= thicker
    s[BACK] *= thicker
    s[QUIFF] *= 0.4 + 1.2 * length
    # Short cuts grow over the ears, long ones vary in length.
    loose = body * (1.0 - s[KNOT]) * (1.0 - s[BALD])
    s[FALL] = s[FALL] * (0.62 + 0.5 * length) + 0.72 * loose * smoothstep(0.45, 1.0, length) * smoothstep(
        0.5, 0.0, s[FALL]
    )
    s[SPREAD] += 0.14 * loose * smoothstep(0.3, 0.8, length) * smoothstep(0.5, 0.0, s[FALL]) + 0.03 * v[_VOLUME]
    s[CURLS] = min(1.0, s[CURLS] + 0.5 * v[_CURL] * v[_CURL] * body)
    s[WAVE] = min(1.2, s[WAVE] + 0.7 * v[_CURL] * v[_CURL])
    s[FRONT] += 0.30 * v[_FRINGE] * loose * smoothstep(0.05, 0.10, s[TOP])
    # A hat presses the hair.
    hat = smoothstep(0.59, 0.65, v[_HAT])
    s[TOP] *= 1.0 - 0.9 * hat if s[TOP] > 0 else 1.0
    s[SIDE] *= 1.0 - 0.72 * hat if s[SIDE] > 0 else 1.0
    s[BACK] *= 1.0 - 0.72 * hat if s[BACK] > 0 else 1.0
    s[QUIFF] *= 1.0 - hat
    s[FRONT] *= 1.0 - hat
    s[KNOT] *= 1.0 - hat
    return s


@njit(cache=True, fastmath=True, error_model="numpy")
def draped(s):
    """How much hair is parted and falls to both sides of the face, 0..1."""
    return smoothstep(0.7, 1.2, s[FALL]) * smoothstep(0.16, 0.06, s[FRONT])


@njit(cache=True, fastmath=True, error_model="numpy")
def flow(v, s):
    """Direction of the strands (head coordinates, unit): down, back, or sideways from the parting."""
    side = -1.0 if v[_PARTING] >= 0.0 else 1.0
    whole = s[ALONG] + s[ACROSS] + s[DEPTH] + 1e-6
    side *= 1.0 - draped(s)
    x, y, z = 0.75 * side * s[DEPTH] / whole, (s[ALONG] + 0.45 * s[ACROSS] + 0.6 * s[DEPTH]) / whole, -s[ACROSS] / whole
    norm = math.sqrt(x * x + y * y + z * z) + 1e-6
    return x / norm, y / norm, z / norm


@njit(cache=True, fastmath=True, error_model="numpy")
def worn(v):
    """How much of a hat is there, 0..1."""
    return smoothstep(0.64, 0.67, v[_HAT])


@njit(cache=True, fastmath=True, error_model="numpy")
def hairline(theta, v, s):
    """Rest height where the hair ends at azimuth theta: forehead, temple, sideburn, nape."""
    t = abs(theta)
    front = -0.70 - 0.10 * v[_HAIRLINE] - 0.10 * v[_AGE] * smoothstep(0.55, 1.0, v[_AGE])
    # Temples recede a little, more with age; the widow's peak stays. Long hair falls over them.
    drape = draped(s)
    front -= (0.05 + 0.06 * v[_AGE]) * bump(t, 0.0, 0.52, 0.0, 0.22, 1.0) * (1.0 - drape)
    sign = 1.0 if v[_PARTING] >= 0.0 else -1.0
    sweep = 0.5 + 0.5 * math.tanh(5.0 * (theta * sign - 0.45 * abs(v[_PARTING]))) * min(1.0, 3.0 * abs(v[_PARTING]))
    front += s[FRONT] * (0.70 + 0.30 * sweep) * smoothstep(1.15, 0.6, t)
    side = 0.17 + s[SIDES]
    low, high = 0.45 - 0.33 * drape, 1.36 - 0.36 * drape
    temple = front + (side - front) * (0.72 * smoothstep(low, high, t) + 0.28 * smoothstep(1.0, 1.3, t))
    # Free the ear, then down to the nape.
    ear = temple - 0.16 * bump(t, 0.0, 1.72, 0.0, 0.16, 1.0)
    return ear + (0.66 - ear) * smoothstep(1.78, 2.15, t)


@njit(cache=True, fastmath=True, error_model="numpy")
def lock(q):
    """Rounded section of the locks at lock coordinate q: 0 in the grooves, 1 in the middle."""
    u = q - math.floor(q)
    return 4.0 * u * (1.0 - u)


@njit(cache=True, fastmath=True, error_model="numpy")
def roots(theta, rest, v, s):
    """Density 0..1 of hair on the skin of the head: all of it above the hairline but a bald top."""
    bald = s[BALD] * smoothstep(0.12, -0.22, rest + 0.30 + 0.12 * smoothstep(1.2, 2.6, abs(theta)))
    return s[ROOTS] * (1.0 - 0.93 * bald)


@njit(cache=True, fastmath=True, error_model="numpy")
def _clear(vertices, start, count):
    """What is not worn has no size: its vertices [start, start + count) are in one point."""
    for i in range(start, start + count):
        vertices[i, 0] = vertices[i, 1] = vertices[i, 2] = 0.0


@njit(cache=True, fastmath=True, error_model="numpy")
def build_hair(v, s, vertices, extra):
    """Shell, curtain, knot and tail.

    `extra` [V, 3]: along the strand 0..1, azimuth, lock coordinate; the third number of the head is its hairline.
    """
    for column in range(g.HEAD_COLUMNS):
        edge = hairline(g.azimuth(column), v, s)
        for row in range(g.HEAD_ROWS):
            extra[row * g.HEAD_COLUMNS + column, 2] = edge
    rows, columns = g.HAIR_ROWS, g.HAIR_COLUMNS
    part = 0.30 * v[_PARTING]
    sign = 1.0 if v[_PARTING] >= 0.0 else -1.0
    drape = draped(s)
    for column in range(columns):
        theta = math.pi * (2.0 * column / (columns - 1) - 1.0)
        edge = hairline(theta, v, s)
        around = abs(theta)
        c, turned = math.cos(theta), math.sin(theta)
        across = abs(turned) ** 0.92
        bend = 0.45 * math.sin(2.3 * theta + 1.7)
        for row in range(rows):
            i = g.HAIR_S + row * columns + column
            t = row / (rows - 1.0)
            along = 1.0 - (1.0 - t) ** 1.35
            rest = -1.1995 + (edge + 1.1995) * along
            low = min(rest, 0.8)
            a, ahead, back = g.outline(low, v)
            x, y, z = g.skin_point(c, turned, across, a, ahead, back, low, v)
            length = math.sqrt(x * x + (y - 0.1) * (y - 0.1) + z * z) + 1e-6
            sweep = (1.0 - drape) * sign * x + drape * abs(x - part)
            q = s[ALONG] * theta * 1.15 + s[DEPTH] * (z * 1.25 - sweep * 0.5) + bend
            if s[ACROSS] > 0.0:
                q += s[ACROSS] * math.atan2(x, 0.15 - y)
            if s[WAVE] > 0.0:
                q += s[WAVE] * 0.30 * math.sin(4.0 * y + theta * 2.0)
            section = lock(q)
            # Locks of different length make the edge.
            top = smoothstep(-0.45, -0.95, rest)
            behind = smoothstep(1.3, 2.1, around)
            thick = s[SIDE] + (s[BACK] - s[SIDE]) * behind
            thick += (s[TOP] - thick) * top
            bald = s[BALD] * smoothstep(0.10, -0.20, rest + 0.30 + 0.12 * smoothstep(1.2, 2.6, around))
            thick += (-0.06 - thick) * bald
            thick += s[QUIFF] * (1.0 - bald) * bump(theta, rest, 0.0, -0.80, 0.75, 0.30)
            over = smoothstep(0.06, 0.25, s[FRONT]) * smoothstep(1.3, 0.9, around)
            taper = smoothstep(1.0, 0.80 + 0.10 * over - 0.25 * drape, t) ** (0.6 + 0.4 * drape)
            grow = thick * (0.12 + 0.30 * over + (0.88 - 0.30 * over) * taper) if thick > 0.0 else thick
            if thick > 0.0:
                grow *= 1.0 + 0.26 * (section - 0.6) * min(1.0, thick * 12.0)
                grow += 0.004
            curls = s[CURLS] * max(0.0, min(thick, 0.25))
            if curls > 0.001:
                grow += (
                    curls
                    * 0.42
                    * (
                        math.sin(7.5 * theta + 2.0 * math.sin(5.0 * rest))
                        * math.sin(8.5 * rest + 1.2 * math.sin(3.0 * theta))
                    )
                )
            # The parting is a shallow valley on the crown.
            grow -= (
                0.45
                * max(0.0, s[TOP])
                * smoothstep(0.0, 1.5, s[DEPTH])
                * bump(x, rest, part, -1.05, 0.07, 0.35)
                * smoothstep(-0.35, 0.0, z)
            )
            vertices[i, 0] = x * (1.0 + grow / length)
            vertices[i, 1] = y + (y - 0.1) / length * grow
            vertices[i, 2] = z * (1.0 + grow / length)
            extra[i, 0], extra[i, 1], extra[i, 2] = t, theta, q
    rows, columns = g.CURTAIN_ROWS, g.CURTAIN_COLUMNS
    fall = s[FALL]
    hang = smoothstep(0.05, 0.35, fall)
    # Long hair covers the ears and frames the cheeks.
    cover = smoothstep(0.45, 0.7, fall)
    reach, start = 1.86 + 0.40 * cover + 0.04 * drape, -0.30 - 0.34 * cover
    if hang == 0.0:
        _clear(vertices, g.CURTAIN_S, rows * columns)
        columns = 0
    for column in range(columns):
        u = 2.0 * column / (columns - 1) - 1.0
        theta = math.pi + u * reach
        q = 3.2 * u * reach + 0.35 * math.sin(5.0 * u)
        tip = 0.10 * (lock(q) - 0.5) + 0.05 * math.sin(9.0 * u + 3.0 * v[_PARTING])
        front = smoothstep(0.80, 1.0, abs(u))
        before = cover * smoothstep(1.5, 1.0, math.pi - abs(u) * reach)
        ear = cover * bump(abs(u) * reach, 0.0, math.pi - 1.5, 0.0, 0.36, 1.0)
        for row in range(rows):
            i = g.CURTAIN_S + row * columns + column
            t = row / (rows - 1.0)
            y = start + (0.15 - start + fall + tip * hang) * t - 0.12 * fall * front * t * t
            a, front_depth, back = g.outline(min(0.15, y), v)
            out = (
                0.05
                + 0.3 * s[SIDE]
                + s[SPREAD] * (1.0 - 0.8 * before) * math.sin(min(1.0, 1.15 * t) * 2.2)
                - 0.20 * t * t * smoothstep(0.9, 1.6, fall)
            )
            wave = s[WAVE] * 0.075 * (1.0 - 0.5 * before) * math.sin(7.0 * y + 2.5 * math.sin(2.0 * u)) * t
            curls = s[CURLS] * 0.08 * math.sin(9.0 * u * reach + 1.5 * math.sin(6.0 * y)) * math.sin(8.0 * y)
            out += cover * (0.03 * before - 0.06 * smoothstep(-0.2, start, y)) + 0.17 * ear * (
                smoothstep(-0.50, 0.05, y) * (1.0 - 0.75 * smoothstep(0.25, 0.9, y))
            )
            groove = 0.035 * (lock(q + 0.25 * s[WAVE] * math.sin(6.0 * y)) - 0.5) * t
            r = (a + out + wave + curls + groove) * (1.0 - 0.20 * (1.0 - hang))
            c = math.cos(theta)
            depth = (back + 0.5 * s[BACK] + 0.5 * out) * (1.0 - 0.25 * t * hang)
            if c >= 0.0:
                depth = 0.52 + 0.5 * out + before * (front_depth - 0.42 - 0.12 * t)
            vertices[i, 0] = r * math.sin(theta)
            vertices[i, 1] = y
            vertices[i, 2] = c * (depth + groove) * (1.0 - 0.20 * (1.0 - hang)) - 0.06
            extra[i, 0], extra[i, 1], extra[i, 2] = t, theta, q + s[WAVE] * 0.22 * math.sin(6.0 * y)
    # The knot sits high behind the crown; with long hair it becomes a tail over one shoulder.
    radius = 0.34 * s[KNOT] * (1.0 + 0.15 * v[_VOLUME])
    tail = smoothstep(0.45, 0.6, v[_LENGTH])
    if s[KNOT] < 0.02:
        _clear(vertices, g.KNOT_S, 11 * 21)
        return
    for row in range(11):
        phi = math.pi * row / 10.0
        for column in range(21):
            i = g.KNOT_S + row * 21 + column
            theta = 2.0 * math.pi * column / 20.0 - math.pi
            q = 1.4 * theta + 1.6 * phi
            r = radius * (1.0 + 0.10 * (lock(q) - 0.5))
            x, y, z = math.sin(phi) * math.sin(theta), -math.cos(phi), math.sin(phi) * math.cos(theta)
            down = max(0.0, y + 0.35)
            vertices[i, 0] = r * x * 1.12 + tail * s[KNOT] * 0.42 * down
            vertices[i, 1] = -1.17 + 0.15 * tail + r * y * 0.95 + tail * s[KNOT] * 1.75 * down * down
            vertices[i, 2] = -0.62 + r * z - 0.25 * tail
            extra[i, 0], extra[i, 1], extra[i, 2] = row / 10.0, theta, q


@njit(cache=True, fastmath=True, error_model="numpy")
def hat_edge(theta, kind):
    """Rest height of the hat's lower edge: a beanie sits low behind, the others level."""
    front = smoothstep(1.6, 0.6, abs(theta))
    return -0.42 + (-0.66 + 0.42) * front + 0.22 * (1.0 - front) * (1.0 - kind)


@njit(cache=True, fastmath=True, error_model="numpy")
def build_worn(v, vertices, extra):
    """Hat crown, its brim, and earrings; all have no size when not worn."""
    hat = worn(v)
    low, share = bins(v[_HAT_STYLE], 3, 0.16)
    place = low + share  # 0 beanie, 1 cap, 2 brimmed
    beanie, brimmed = max(0.0, 1.0 - place), max(0.0, place - 1.0)
    cap = 1.0 - beanie - brimmed
    rows, columns = g.HAT_ROWS, g.HAT_COLUMNS
    if hat < 0.01:
        _clear(vertices, g.HAT_S, rows * columns)
        _clear(vertices, g.BRIM_S, 5 * columns)
        columns = 0
    for column in range(columns):
        theta = math.pi * (2.0 * column / (columns - 1) - 1.0)
        edge = hat_edge(theta, min(1.0, place))
        for row in range(rows):
            i = g.HAT_S + row * columns + column
            t = row / (rows - 1.0)
            rest = -1.1995 + (edge + 1.1995) * (1.0 - (1.0 - t) ** 1.6)
            x, y, z = g.head_point(theta, rest, v)
            length = math.sqrt(x * x + y * y + z * z) + 1e-6
            roll = beanie * smoothstep(0.70, 0.74, t)
            ribs = beanie * 0.010 * math.cos(theta * 44.0)
            grow = 0.135 + 0.06 * roll + ribs + 0.10 * beanie * (1.0 - t)
            tall = (0.10 * cap + 0.22 * brimmed + 0.10 * beanie) * smoothstep(1.0, 0.55, t)
            dent = 0.16 * brimmed * bump(x, z, 0.0, 0.0, 0.22, 0.5) * smoothstep(-0.9, -1.1, y)
            shrink = 0.90 + 0.10 * hat
            vertices[i, 0] = x * (1.0 + grow / length) * shrink
            vertices[i, 1] = y * (1.0 + grow / length * (1.0 - t * t)) * shrink - (tall - dent) * hat
            vertices[i, 2] = z * (1.0 + grow / length) * shrink
            extra[i, 0], extra[i, 1], extra[i, 2] = t, theta, place
        for row in range(5):
            i = g.BRIM_S + row * columns + column
            t = row / 4.0
            x, y, z = g.head_point(theta, edge, v)
            length = math.sqrt(x * x + z * z) + 1e-6
            visor = cap * smoothstep(1.05, 0.55, abs(theta))
            reach = (0.12 + t * (0.62 * visor + brimmed * (0.46 + 0.06 * math.cos(theta)))) * (0.8 + 0.2 * hat)
            droop = t * (0.10 * visor - 0.05 * brimmed * t * abs(math.sin(theta)) + 0.02 * brimmed)
            vertices[i, 0] = x * (1.0 + reach / length)
            vertices[i, 1] = y - 0.02 + droop
            vertices[i, 2] = z * (1.0 + reach / length)
            extra[i, 0], extra[i, 1], extra[i, 2] = t, theta, place
    ring = smoothstep(0.55, 0.70, v[_EARRING])
    if ring == 0.0:
        _clear(vertices, g.EARRING_S, 2 * 13 * 7)
        return
    hoop = smoothstep(0.80, 0.90, v[_EARRING])
    width, _, _ = g.outline(0.2, v)
    size = 1.0 + 0.18 * v[_EAR_SIZE]
    for which in range(2):
        side = -1.0 if which == 0 else 1.0
        start = g.EARRING_S + which * 13 * 7
        for row in range(13):
            a = 2.0 * math.pi * row / 12.0
            for column in range(7):
                b = 2.0 * math.pi * column / 6.0
                i = start + row * 7 + column
                big = (0.052 + 0.085 * hoop) * ring
                thin = 0.055 * ring * (1.0 - 0.62 * hoop)
                r = big * hoop + thin * math.cos(b)
                vertices[i, 0] = side * (width + 0.085) + thin * math.sin(b)
                vertices[i, 1] = 0.20 + 0.235 * size + big * hoop + 0.03 + r * math.sin(a)
                vertices[i, 2] = -0.06 + r * math.cos(a)
                extra[i, 0], extra[i, 1], extra[i, 2] = a, b, hoop
