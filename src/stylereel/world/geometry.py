"""The shape of a portrait: every part is a grid of vertices computed from the factor values.

Lengths are decimetres in head coordinates: x to the image's right, y down, z towards the viewer; the origin is
between the pupils in the plane of the ears. `build` fills one vertex array with head, ears, neck, torso, collar and
glasses, `hair.build_hair` and `hair.build_worn` the rest; the triangles never change, so they are made once.
"""

from __future__ import annotations

import math

import numpy as np
from numba import njit
from scipy.interpolate import PchipInterpolator

from stylereel.world.factors import INDEX

# Parts; the first seven in the order of the vertex array, then the others.
HEAD, EAR, NECK, TORSO, HAIR, CURTAIN, GLASSES, KNOT, HAT, BRIM, EARRING, COLLAR = range(12)
# (part, rows, columns) of each grid; ears, lens rings and earrings come twice.
GRIDS = (
    (HEAD, 58, 69),
    (EAR, 9, 13),
    (EAR, 9, 13),
    (NECK, 9, 29),
    (TORSO, 14, 37),
    (HAIR, 18, 77),
    (CURTAIN, 14, 53),
    (GLASSES, 5, 33),
    (GLASSES, 5, 33),
    (GLASSES, 5, 6),
    (GLASSES, 5, 7),
    (GLASSES, 5, 7),
    (KNOT, 11, 21),
    (HAT, 12, 45),
    (BRIM, 5, 45),
    (EARRING, 13, 7),
    (EARRING, 13, 7),
    (COLLAR, 5, 37),
)
STARTS = tuple(int(n) for n in np.cumsum([0] + [rows * columns for _, rows, columns in GRIDS]))
VERTICES = STARTS[-1]


def _triangles() -> tuple[np.ndarray, np.ndarray]:
    triangles, parts = [], []
    for (part, rows, columns), start in zip(GRIDS, STARTS[:-1], strict=True):
        row, column = np.meshgrid(np.arange(rows - 1), np.arange(columns - 1), indexing="ij")
        a = (start + row * columns + column).ravel()
        b, c, d = a + 1, a + columns, a + columns + 1
        triangles += [np.stack([a, c, b], 1), np.stack([b, c, d], 1)]
        parts += [np.full(2 * len(a), part)]
    return np.concatenate(triangles).astype(np.int32), np.concatenate(parts).astype(np.int8)


TRIANGLES, TRIANGLE_PART = _triangles()
GRID_TABLE = np.array(
    [(part, rows, columns, start) for (part, rows, columns), start in zip(GRIDS, STARTS[:-1], strict=True)]
)

# Outline of the mean head from the crown to the throat: height y, half width, depth in front of and behind the ears.
_OUTLINE = np.array(
    [
        (-1.20, 0.00, 0.00, 0.00),
        (-1.17, 0.27, 0.29, 0.38),
        (-1.08, 0.47, 0.51, 0.66),
        (-0.93, 0.62, 0.68, 0.84),
        (-0.70, 0.715, 0.80, 0.96),
        (-0.40, 0.745, 0.865, 1.00),
        (-0.18, 0.735, 0.885, 0.99),
        (0.00, 0.715, 0.865, 0.96),
        (0.25, 0.700, 0.850, 0.88),
        (0.45, 0.670, 0.845, 0.78),
        (0.66, 0.605, 0.830, 0.66),
        (0.84, 0.510, 0.805, 0.58),
        (0.98, 0.405, 0.775, 0.52),
        (1.08, 0.290, 0.715, 0.47),
        (1.135, 0.175, 0.620, 0.42),
        (1.15, 0.060, 0.50, 0.36),
    ]
)
HEAD_ROWS = GRIDS[0][1]
_along = np.linspace(0, 1, len(_OUTLINE)) ** 1.0
PROFILE = PchipInterpolator(_along, _OUTLINE)(np.linspace(0, 1, HEAD_ROWS)).astype(np.float32)

_N = {name: INDEX[name] for name in INDEX}
(_JAW, _SMILE, _PUCKER, _PRESS) = (_N[n] for n in ("jaw", "smile", "pucker", "press"))
(_FUNNEL, _CHEEK, _JAW_SIDE) = (_N[n] for n in ("funnel", "cheek", "jaw_side"))
_FACE_WIDTH, _JAW_WIDTH, _CHIN_LENGTH, _CHIN_WIDTH = (
    _N[n] for n in ("face_width", "jaw_width", "chin_length", "chin_width")
)
_CHEEKS, _FOREHEAD, _EYE_DISTANCE, _EYE_SIZE = (
    _N[n] for n in ("cheeks", "forehead_height", "eye_distance", "eye_size")
)
_NOSE_LENGTH, _NOSE_WIDTH, _NOSE_BRIDGE = (_N[n] for n in ("nose_length", "nose_width", "nose_bridge"))
_LIPS, _EAR_SIZE, _NECK_WIDTH = (_N[n] for n in ("lip_fullness", "ear_size", "neck_width"))
_GLASSES, _BROW_HEIGHT, _AGE, _BEARD, _GLASSES_SHAPE, _NECKLINE, _NOSE_TIP = (
    _N[n] for n in ("glasses", "brow_height", "age", "beard", "glasses_shape", "neckline", "nose_tip")
)
HEAD_COLUMNS = GRIDS[0][2]
_EAR_A, _EAR_B, _NECK_S, _TORSO_S, HAIR_S, CURTAIN_S, _RING_A, _RING_B, _BRIDGE, _ARM_A, _ARM_B = STARTS[1:12]
KNOT_S, HAT_S, BRIM_S, EARRING_S, _, _COLLAR_S = STARTS[12:18]
(_, HAIR_ROWS, HAIR_COLUMNS), (_, CURTAIN_ROWS, CURTAIN_COLUMNS) = GRIDS[5:7]
_, HAT_ROWS, HAT_COLUMNS = GRIDS[13]
_NECK_ROWS, _TORSO_ROWS, _TORSO_COLUMNS, _RING = GRIDS[3][1], GRIDS[4][1], GRIDS[4][2], GRIDS[7][2]


@njit(cache=True, fastmath=True, error_model="numpy")
def smoothstep(low, high, x):
    """0 below `low`, 1 above `high`, a smooth cubic between (either order of the limits)."""
    t = (x - low) / (high - low)
    if t < 0.0:
        t = 0.0
    elif t > 1.0:
        t = 1.0
    return t * t * (3.0 - 2.0 * t)


@njit(cache=True, fastmath=True, error_model="numpy")
def bump(x, y, cx, cy, sx, sy):
    """A hill of height 1, nearly Gaussian but of finite width (and cheaper)."""
    dx = (x - cx) / sx
    dy = (y - cy) / sy
    t = 1.0 - (dx * dx + dy * dy) * (1.0 / 6.0)
    if t <= 0.0:
        return 0.0
    t *= t * t
    return t * t


@njit(cache=True, fastmath=True, error_model="numpy")
def wave(x):
    """The sine of x within 0.001, cheaper than the exact one."""
    u = x * 0.15915494309
    u -= math.floor(u) + 0.5
    s = -8.0 * u * (1.0 - 2.0 * abs(u))
    return s * (0.775 + 0.225 * abs(s))


@njit(cache=True, fastmath=True, error_model="numpy")
def outline(y, v):
    """Half width, front depth and back depth [dm] of head `v` at rest height y."""
    # The profile's heights are not evenly spaced; search the segment.
    low, k = 0, PROFILE.shape[0] - 1
    while k - low > 1:
        middle = (low + k) // 2
        if PROFILE[middle, 0] < y:
            low = middle
        else:
            k = middle
    span = PROFILE[k, 0] - PROFILE[k - 1, 0]
    t = 0.0
    if span > 1e-6:
        t = min(1.0, max(0.0, (y - PROFILE[k - 1, 0]) / span))
    a = PROFILE[k - 1, 1] + t * (PROFILE[k, 1] - PROFILE[k - 1, 1])
    front = PROFILE[k - 1, 2] + t * (PROFILE[k, 2] - PROFILE[k - 1, 2])
    back = PROFILE[k - 1, 3] + t * (PROFILE[k, 3] - PROFILE[k - 1, 3])
    a *= 1.0 + 0.07 * v[_FACE_WIDTH]
    low = smoothstep(0.1, 0.75, y)
    a *= 1.0 + 0.11 * v[_JAW_WIDTH] * low
    a *= 1.0 + 0.16 * v[_CHIN_WIDTH] * smoothstep(0.75, 1.0, y)
    a *= 1.0 + 0.05 * v[_CHEEKS] * bump(y, 0.0, 0.35, 0.0, 0.3, 1.0)
    a *= 1.0 + 0.085 * max(0.0, -v[_CHEEK]) * bump(y, 0.0, 0.64, 0.0, 0.22, 1.0)
    return a, front, back


@njit(cache=True, fastmath=True, error_model="numpy")
def stretch(y, v):
    """Rest height y of the mean head moved by forehead height and chin length."""
    if y < -0.15:
        return -0.15 + (y + 0.15) * (1.0 + 0.09 * v[_FOREHEAD])
    if y > 0.6:
        return 0.6 + (y - 0.6) * (1.0 + 0.14 * v[_CHIN_LENGTH])
    return y


@njit(cache=True, fastmath=True, error_model="numpy")
def jaw_drop(x, y, z, v):
    """How far [dm] the open jaw lowers a point of the rest face."""
    low = smoothstep(0.62, 0.92, y) * smoothstep(-0.35, 0.45, z)
    return 0.30 * v[_JAW] * low


@njit(cache=True, fastmath=True, error_model="numpy")
def jaw_shift(y, z, v):
    """How far [dm] the jaw moves a point of the rest face sideways, to the image's right."""
    if v[_JAW_SIDE] == 0.0 or y < 0.5:
        return 0.0
    return 0.12 * v[_JAW_SIDE] * smoothstep(0.50, 0.95, y) * smoothstep(-0.45, 0.35, z)


@njit(cache=True, fastmath=True, error_model="numpy")
def relief(x, y, v):
    """Forward displacement [dm] of the front of the face at rest position (x, y): nose, sockets, lips, chin."""
    eye = 0.325 * (1.0 + 0.09 * v[_EYE_DISTANCE])
    ax = abs(x)
    d = -0.095 * bump(ax, y, eye - 0.01, 0.00, 0.20, 0.13)
    d += 0.075 * bump(ax, y, eye, 0.012, 0.13, 0.095)
    d += 0.035 * bump(ax, y, 0.28, -0.20, 0.26, 0.08) * (1.0 - 0.4 * v[_BROW_HEIGHT])
    d += (0.055 + 0.035 * v[_CHEEKS]) * bump(ax, y, 0.42, 0.27, 0.20, 0.18)
    tip = 0.40 * (1.0 + 0.13 * v[_NOSE_LENGTH])
    bridge = 0.5 + 0.5 * smoothstep(-0.10, 0.12, y)
    t = (y + 0.10) / (tip + 0.10)
    if t > 0.0 and y < tip + 0.16:
        along = min(t, 1.0)
        height = (0.055 + 0.045 * v[_NOSE_BRIDGE] * math.sin(along * 3.1)) * bridge + 0.175 * along**1.5
        height *= smoothstep(tip + 0.145, tip + 0.01, y)
        width = (0.092 + 0.052 * along * along) * (1.0 + 0.22 * v[_NOSE_WIDTH])
        d += height * math.exp(-((x / width) ** 2))
        # A round tip between two wings.
        d += 0.085 * bump(x, y, 0.0, tip - 0.005 - 0.035 * v[_NOSE_TIP], 0.100, 0.085)
        wing = 0.130 * (1.0 + 0.25 * v[_NOSE_WIDTH])
        d += 0.095 * bump(ax, y, wing, tip + 0.025, 0.060, 0.060)
    full = 1.0 + 0.35 * v[_LIPS] + 0.6 * v[_PUCKER] + 0.5 * v[_FUNNEL] - 0.7 * v[_PRESS]
    d -= 0.012 * bump(x, y, 0.0, 0.555, 0.035, 0.05)
    d += 0.050 * full * bump(x, y, 0.0, 0.625, 0.21, 0.055)
    d += 0.052 * full * bump(x, y, 0.0, 0.715, 0.17, 0.055)
    d -= 0.040 * bump(x, y, 0.0, 0.815, 0.20, 0.05)
    d += 0.055 * bump(x, y, 0.0, 0.97, 0.19, 0.11)
    d -= 0.022 * bump(ax, y, 0.38, 0.62, 0.11, 0.17) * (1.0 - 0.7 * v[_CHEEKS])
    smile = max(0.0, v[_SMILE])
    d += 0.055 * smile * bump(ax, y, 0.38, 0.36, 0.16, 0.13)
    raised = v[_CHEEK]
    if raised > 0.0:
        d += 0.050 * raised * bump(ax, y, 0.37, 0.25, 0.17, 0.12)
    else:
        d -= 0.120 * raised * bump(ax, y, 0.41, 0.62, 0.15, 0.16)
    return d


@njit(cache=True, fastmath=True, error_model="numpy")
def skin_point(c, s, across, a, front, back, rest, v):
    """`head_point` before the jaw moves sideways, for cosine c and sine s of the azimuth, across = |s| ** 0.92, and the
    outline a, front, back."""
    x = a * across * (1.0 if s >= 0.0 else -1.0)
    if c >= 0.0:
        # Lower down, the front narrows from an oval to the U of the jaw.
        power = 0.92 - 0.17 * smoothstep(-0.1, 0.5, rest) + 0.1 * smoothstep(0.6, 1.0, rest)
        z = front * c**power
        if c > 0.05 and rest > -0.75:
            z += relief(x, rest, v) * smoothstep(0.05, 0.45, c)
    else:
        z = -back * (-c) ** 0.9
    y = stretch(rest, v)
    y += jaw_drop(x, rest, z, v)
    return x, y, z


@njit(cache=True, fastmath=True, error_model="numpy")
def head_point(theta, rest, v):
    """The point of the head's skin at azimuth theta [rad, 0 = front] and rest height `rest`: x, y, z in dm."""
    a, front, back = outline(rest, v)
    c, s = math.cos(theta), math.sin(theta)
    x, y, z = skin_point(c, s, abs(s) ** 0.92, a, front, back, rest, v)
    return x + jaw_shift(rest, z, v), y, z


LENS_Z = 0.985  # depth of the lenses [dm]


@njit(cache=True, fastmath=True, error_model="numpy")
def lens_shape(v):
    """Half width and half height [dm], exponent and taper of the lenses: round, rectangular or drop-shaped."""
    place = 2.0 * v[_GLASSES_SHAPE]
    box = smoothstep(0.55, 0.75, place) * smoothstep(1.45, 1.25, place)
    drop = smoothstep(1.25, 1.45, place)
    return 0.215 + 0.030 * box + 0.030 * drop, 0.205 - 0.050 * box, 1.0 - 0.42 * box - 0.12 * drop, 0.16 * drop


@njit(cache=True, fastmath=True, error_model="numpy")
def _tube(vertices, start, columns, column, px, py, pz, radius, ux, uy, uz, wx, wy, wz):
    """One ring (5 points, the last equals the first) of a tube around (px, py, pz) in the plane of u and w."""
    for k in range(5):
        angle = k * math.pi / 2
        c, s = radius * math.cos(angle), radius * math.sin(angle)
        i = start + k * columns + column
        vertices[i, 0] = px + c * ux + s * wx
        vertices[i, 1] = py + c * uy + s * wy
        vertices[i, 2] = pz + c * uz + s * wz


@njit(cache=True, fastmath=True, error_model="numpy")
def azimuth(column):
    """Azimuth [rad] of a column of the head grid; columns are closer together in the face."""
    u = 2.0 * column / (HEAD_COLUMNS - 1) - 1.0
    return math.pi * abs(u) ** 1.35 * (1.0 if u >= 0.0 else -1.0)


@njit(cache=True, fastmath=True, error_model="numpy")
def build(v, vertices, extra):
    """Fill `vertices` [V, 3] in head coordinates and `extra` [V, 3] (rest height and azimuth, or grid coordinates)."""
    turns = np.empty((HEAD_COLUMNS, 4), np.float64)
    for column in range(HEAD_COLUMNS):
        theta = azimuth(column)
        c, s = math.cos(theta), math.sin(theta)
        turns[column, 0], turns[column, 1], turns[column, 2], turns[column, 3] = theta, c, s, abs(s) ** 0.92
    for row in range(HEAD_ROWS):
        rest = PROFILE[row, 0]
        a, front, back = outline(rest, v)
        for column in range(HEAD_COLUMNS // 2, HEAD_COLUMNS):
            i = row * HEAD_COLUMNS + column
            theta, c, s, across = turns[column, 0], turns[column, 1], turns[column, 2], turns[column, 3]
            x, y, z = skin_point(c, s, across, a, front, back, rest, v)
            # A full beard rises a little, least at its edge.
            if v[_BEARD] > 0.55 and rest > 0.45 and c > -0.1:
                thick = (
                    0.05 * smoothstep(0.55, 1.0, v[_BEARD]) * smoothstep(0.72, 0.95, rest) * smoothstep(-0.1, 0.2, c)
                )
                x, y, z = x * (1.0 + 0.7 * thick), y + thick * smoothstep(0.9, 1.1, rest), z + thick * c
            shift = jaw_shift(rest, z, v)
            vertices[i, 0], vertices[i, 1], vertices[i, 2] = shift + x, y, z
            extra[i, 0], extra[i, 1], extra[i, 2] = rest, theta, 0.0
            # The left half mirrors the right one.
            i = (row + 1) * HEAD_COLUMNS - 1 - column
            vertices[i, 0], vertices[i, 1], vertices[i, 2] = shift - x, y, z
            extra[i, 0], extra[i, 1], extra[i, 2] = rest, -theta, 0.0
    # Ears: half discs that rise from the sides of the head and lean back.
    size = 1.0 + 0.18 * v[_EAR_SIZE]
    width, _, _ = outline(0.2, v)
    for which in range(2):
        side = -1.0 if which == 0 else 1.0
        start = _EAR_A if which == 0 else _EAR_B
        for row in range(9):
            for column in range(13):
                i = start + row * 13 + column
                r = row / 8.0
                phi = 2.0 * math.pi * column / 12.0
                shape = 1.0 - 0.34 * max(0.0, math.sin(phi))
                ey = 0.27 * size * r * math.sin(phi)
                ez = 0.165 * size * r * math.cos(phi) * shape
                rim = 0.05 * math.sin(r * 2.6) * r
                vertices[i, 0] = side * (width - 0.03 + 0.085 * r * (1.0 - 0.6 * math.cos(phi)) + rim)
                vertices[i, 1] = 0.19 + ey
                vertices[i, 2] = -0.08 + ez - 0.05 * r + 0.22 * ey
                extra[i, 0], extra[i, 1], extra[i, 2] = r, phi, ey
    # Neck: rows go from inside the head to inside the torso; `extra` 0 says how much the head moves it.
    neck = 0.435 * (1.0 + 0.13 * v[_NECK_WIDTH])
    for row in range(_NECK_ROWS):
        t = row / (_NECK_ROWS - 1.0)
        for column in range(29):
            i = _NECK_S + row * 29 + column
            phi = 2.0 * math.pi * column / 28.0 - math.pi
            flare = 1.0 + 0.10 * t + 0.55 * smoothstep(0.45, 1.0, t) * smoothstep(0.9, -0.3, math.cos(phi))
            vertices[i, 0] = neck * flare * math.sin(phi)
            vertices[i, 1] = 0.55 + 1.15 * t
            # The throat between two muscles, and the larynx.
            throat = 0.03 * bump(phi, t, 0.0, 0.62, 0.22, 0.16)
            vertices[i, 2] = -0.10 - 0.12 * t + (0.46 * (1.0 + 0.08 * t) + throat) * math.cos(phi)
            extra[i, 0], extra[i, 1], extra[i, 2] = 1.0 - t, phi, 0.0
    for row in range(_TORSO_ROWS):
        t = (row / (_TORSO_ROWS - 1.0)) ** 1.7  # denser where the shoulders turn away
        for column in range(_TORSO_COLUMNS):
            i = _TORSO_S + row * _TORSO_COLUMNS + column
            s = 2.0 * column / (_TORSO_COLUMNS - 1.0) - 1.0
            x = 2.25 * math.sin(1.5 * s) * (0.30 + 0.70 * min(1.0, t * 2.6) ** 0.55)
            ax = abs(x)
            top = 1.22 + 0.34 * smoothstep(0.25, 1.5, ax) + 0.55 * smoothstep(1.45, 2.25, ax)
            vertices[i, 0] = x
            vertices[i, 1] = top + 0.75 * t * t + 0.85 * t**6
            vertices[i, 2] = -0.46 + 1.0 * math.sqrt(t) * math.sqrt(max(0.0, 1.0 - (ax / 2.45) ** 2))
            extra[i, 0], extra[i, 1], extra[i, 2] = t, s, 0.0
    # A standing collar around the neck moves as the neck does; without one it is inside.
    shirt = smoothstep(0.46, 0.54, v[_NECKLINE])
    roll = smoothstep(0.76, 0.84, v[_NECKLINE])
    for row in range(5):
        t = row / 4.0
        for column in range(37):
            i = _COLLAR_S + row * 37 + column
            phi = 2.0 * math.pi * column / 36.0
            front = 0.5 + 0.5 * math.cos(phi)
            high = 1.40 - 0.17 * shirt * (1.0 - front**3) * (1.0 - roll) - 0.20 * roll + 0.10 * front
            y = high + (1.60 + 0.25 * shirt - high) * t
            fold = 0.03 * roll * math.sin(3.0 * min(1.0, 2.2 * t)) + 0.02 * roll * math.sin(3.0 * phi + 20.0 * t)
            out = (0.07 * shirt + fold - 0.10 * (1.0 - shirt)) * (1.0 - 0.4 * (1.0 - roll) * front)
            out -= 0.11 * shirt * (1.0 - roll) * front**4  # a shirt is open in front
            place = (y - 0.55) / 1.15
            vertices[i, 0] = (neck * (1.0 + 0.16 * place) + out) * math.sin(phi)
            vertices[i, 1] = y
            vertices[i, 2] = -0.10 - 0.12 * place + (0.47 * (1.0 + 0.10 * place) + out) * math.cos(phi)
            extra[i, 0], extra[i, 1], extra[i, 2] = 1.0 - place, phi, t
    # Glasses: two rings, a bridge and two arms; thickness 0 hides them.
    thick = 0.024 * smoothstep(0.5, 0.6, v[_GLASSES])
    eye = 0.325 * (1.0 + 0.09 * v[_EYE_DISTANCE])
    lens_x, lens_y, power, drop = lens_shape(v)
    for which in range(2):
        side = -1.0 if which == 0 else 1.0
        start = _RING_A if which == 0 else _RING_B
        for column in range(_RING):
            phi = 2.0 * math.pi * column / (_RING - 1.0)
            c, s = math.cos(phi), math.sin(phi)
            cx = (abs(c) ** power) * (1.0 if c >= 0 else -1.0)
            cy = (abs(s) ** power) * (1.0 if s >= 0 else -1.0)
            px = side * (eye + 0.01) + lens_x * cx * (1.0 - drop * cy)
            py = 0.035 + lens_y * cy
            pz = LENS_Z - 0.10 * (abs(px) - 0.1)
            _tube(vertices, start, _RING, column, px, py, pz, thick, cx, cy, 0.0, 0.0, 0.0, 1.0)
    for column in range(6):
        t = column / 5.0
        px = (2.0 * t - 1.0) * (eye + 0.01 - lens_x)
        py = -0.03 * math.sin(t * math.pi)
        _tube(vertices, _BRIDGE, 6, column, px, py, LENS_Z + 0.01, thick, 0.0, 1.0, 0.0, 0.0, 0.0, 1.0)
    side_width, _, _ = outline(0.0, v)
    for which in range(2):
        side = -1.0 if which == 0 else 1.0
        start = _ARM_A if which == 0 else _ARM_B
        for column in range(7):
            t = column / 6.0
            px = side * ((eye + 0.01 + lens_x) * (1.0 - t) + (side_width + 0.03) * t)
            pz = (LENS_Z - 0.10 * (eye + lens_x - 0.1)) * (1.0 - t) - 0.1 * t
            _tube(vertices, start, 7, column, px, -0.03 + 0.08 * t, pz, thick, 0.0, 1.0, 0.0, 1.0, 0.0, 0.0)
    for i in range(_RING_A, KNOT_S):
        extra[i, 0], extra[i, 1], extra[i, 2] = 0.0, 0.0, 0.0


@njit(cache=True, fastmath=True, error_model="numpy")
def grid_normals(points, table, normals):
    """Outward unit normals [V, 3] of all grids by central differences of `points` [V, 3]."""
    for g in range(table.shape[0]):
        rows, columns, start = table[g, 1], table[g, 2], table[g, 3]
        for row in range(rows):
            up, down = max(row - 1, 0), min(row + 1, rows - 1)
            for column in range(columns):
                left, right = column - 1, column + 1
                if left < 0:
                    left = 0
                if right > columns - 1:
                    right = columns - 1
                a, b = start + row * columns + left, start + row * columns + right
                c, d = start + up * columns + column, start + down * columns + column
                ux, uy, uz = points[b, 0] - points[a, 0], points[b, 1] - points[a, 1], points[b, 2] - points[a, 2]
                wx, wy, wz = points[d, 0] - points[c, 0], points[d, 1] - points[c, 1], points[d, 2] - points[c, 2]
                nx, ny, nz = uy * wz - uz * wy, uz * wx - ux * wz, ux * wy - uy * wx
                length = math.sqrt(nx * nx + ny * ny + nz * nz) + 1e-9
                i = start + row * columns + column
                normals[i, 0], normals[i, 1], normals[i, 2] = nx / length, ny / length, nz / length
