"""The backdrop, out of focus: painted on a coarse grid and interpolated smoothly over the image."""

from __future__ import annotations

import math

import numpy as np
from numba import njit

from stylereel.world.factors import INDEX
from stylereel.world.geometry import smoothstep
from stylereel.world.hair import bins
from stylereel.world.materials import BACK_1, BACK_2, KEY, LIGHT

_KIND, _PATTERN = INDEX["backdrop_kind"], INDEX["backdrop_pattern"]
NODES = 45


@njit(cache=True, fastmath=True, error_model="numpy")
def _box(u, w, left, right, top, bottom, soft):
    """A blurred rectangle."""
    across = smoothstep(left - soft, left + soft, u) * smoothstep(right + soft, right - soft, u)
    return across * smoothstep(top - soft, top + soft, w) * smoothstep(bottom + soft, bottom - soft, w)


@njit(cache=True, fastmath=True, error_model="numpy")
def _paint(kind, u, w, a, p, out):
    """Linear colour [3] of backdrop `kind` at (u, w) in 0..1; `a` in 0..1 shifts its parts."""
    one, two, warm = 0.0, 0.0, 0.0  # light of the first colour, of the second, and warm white on top
    if kind == 0:  # studio: a pool of light behind the head
        r = math.hypot(u - 0.5 - 0.25 * (a - 0.5), (w - 0.45) * 0.9)
        one = 1.15 * smoothstep(0.85, 0.0, r)
        two = 0.75 * smoothstep(0.15, 0.95, r)
    elif kind == 1:  # a window at one side, a wall at the other
        turn = smoothstep(0.42, 0.58, a)
        x = u + (1.0 - 2.0 * u) * turn
        glass = _box(x, w, -0.10 + 0.1 * a, 0.30, 0.02, 0.72, 0.07)
        bar = smoothstep(0.05, 0.0, abs(x - 0.12)) * 0.35 + smoothstep(0.05, 0.0, abs(w - 0.36)) * 0.35
        warm = 0.85 * glass * (1.0 - bar)
        one = 0.65 * smoothstep(1.1, 0.1, x)
        two = 0.35 + 0.15 * smoothstep(0.3, 1.0, x)
    elif kind == 2:  # discs of light in the dark
        one, two = 0.20 + 0.25 * (1.0 - w), 0.42
        for i in range(11):
            cx = 1.2 * ((0.13 + 0.618 * i + 0.15 * a) % 1.0) - 0.1
            cy = 0.06 + 0.80 * ((0.37 * i * i + 0.21 * i) % 1.0)
            r = math.hypot(u - cx, w - cy) / (0.070 + 0.040 * ((0.77 * i) % 1.0))
            disc = smoothstep(1.35, 0.60, r) * (0.30 + 0.25 * ((0.53 * i) % 1.0))
            if i % 3 == 0:
                one += 1.3 * disc
            elif i % 3 == 1:
                warm += 0.55 * disc
            else:
                two += 1.4 * disc
    elif kind == 3:  # a room: shelves, a lamp, a door
        one = 0.72 + 0.15 * w
        shelf = _box(u, w, 0.66 + 0.1 * a, 1.1, 0.05, 1.1, 0.05)
        boards = 0.5 + 0.5 * math.cos(2.0 * math.pi * w * 4.0)
        one -= 0.40 * shelf
        two = 0.30 * shelf * boards + 0.55 * _box(u, w, -0.1, 0.20 + 0.1 * a, 0.22, 1.1, 0.05)
        one -= 0.30 * _box(u, w, -0.1, 0.20 + 0.1 * a, 0.22, 1.1, 0.05)
        warm = 0.55 * math.exp(-(((u - 0.30 - 0.1 * a) / 0.16) ** 2) - ((w - 0.14) / 0.14) ** 2)
    else:  # a landscape: sky, hills, meadow
        hills = 0.52 + 0.09 * math.sin(5.0 * u + 6.0 * a) + 0.04 * math.sin(11.0 * u + 2.0)
        near = 0.74 + 0.06 * math.sin(4.0 * u - 5.0 * a)
        sky = smoothstep(hills + 0.05, hills - 0.05, w)
        front = smoothstep(near - 0.05, near + 0.05, w)
        warm = sky * (0.30 + 0.55 * w)
        one = sky * (0.75 - 0.4 * w) + 0.10 * (1.0 - sky)
        two = (1.0 - sky) * (0.75 - 0.35 * front)
    out[0] = one * p[BACK_1, 0] + two * p[BACK_2, 0] + warm * p[KEY, 0] * 0.95
    out[1] = one * p[BACK_1, 1] + two * p[BACK_2, 1] + warm * p[KEY, 1] * 0.88
    out[2] = one * p[BACK_1, 2] + two * p[BACK_2, 2] + warm * p[KEY, 2] * 0.78


@njit(cache=True, fastmath=True, error_model="numpy")
def backdrop_grid(v, p):
    """Linear colours [NODES, NODES, 3] of the whole backdrop."""
    kind, share = bins(v[_KIND], 5, 0.12)
    pattern = v[_PATTERN]
    grid = np.empty((NODES, NODES, 3), np.float32)
    first, second = np.zeros(3), np.zeros(3)
    for row in range(NODES):
        w = row / (NODES - 1.0)
        for column in range(NODES):
            u = column / (NODES - 1.0)
            if share < 1.0:
                _paint(kind, u, w, pattern, p, first)
            if share > 0.0:
                _paint(kind + 1, u, w, pattern, p, second)
            # Darker to the corners and away from the light.
            shade = 1.0 - 0.30 * ((u - 0.5) ** 2 + (w - 0.5) ** 2) - 0.16 * (u - 0.5) * p[LIGHT, 0]
            for k in range(3):
                grid[row, column, k] = shade * (first[k] * (1.0 - share) + second[k] * share)
    return grid


@njit(cache=True, fastmath=True, error_model="numpy")
def backdrop(u, w, grid, rgb):
    """Linear colour of the backdrop at image position (u, w) in 0..1."""
    x, y = u * (NODES - 1), w * (NODES - 1)
    i, j = min(NODES - 2, int(x)), min(NODES - 2, int(y))
    a, b = x - i, y - j
    for k in range(3):
        top = grid[j, i, k] * (1.0 - a) + grid[j, i + 1, k] * a
        bottom = grid[j + 1, i, k] * (1.0 - a) + grid[j + 1, i + 1, k] * a
        rgb[k] = top * (1.0 - b) + bottom * b
