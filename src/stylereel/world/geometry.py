"""The shape of a portrait: every part is a grid of vertices computed from the factor values.

Lengths are decimetres in head coordinates: x to the picture's right, y down, z towards the viewer; the origin lies
between the pupils in the plane of the ears. `build` fills one vertex array with all parts (head, ears, neck, torso,
hair shell, hanging hair, glasses); the triangles never change, so they are made once.
"""

from __future__ import annotations

import math

import numpy as np
from numba import njit
from scipy.interpolate import PchipInterpolator

from stylereel.world.factors import INDEX

# Parts, in the order of the vertex array.
HEAD, EAR, NECK, TORSO, HAIR, CURTAIN, GLASSES = range(7)
# (part, rows, columns) of each grid; ears and the two lens rings come twice.
GRIDS = (
    (HEAD, 50, 61),
    (EAR, 9, 13),
    (EAR, 9, 13),
    (NECK, 7, 29),
    (TORSO, 12, 33),
    (HAIR, 16, 57),
    (CURTAIN, 12, 41),
    (GLASSES, 5, 25),
    (GLASSES, 5, 25),
    (GLASSES, 5, 6),
    (GLASSES, 5, 7),
    (GLASSES, 5, 7),
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
        (0.45, 0.665, 0.845, 0.78),
        (0.66, 0.590, 0.835, 0.66),
        (0.84, 0.490, 0.815, 0.58),
        (0.98, 0.375, 0.795, 0.52),
        (1.08, 0.255, 0.745, 0.47),
        (1.135, 0.150, 0.655, 0.42),
        (1.15, 0.060, 0.50, 0.36),
    ]
)
_HEAD_ROWS = GRIDS[0][1]
_along = np.linspace(0, 1, len(_OUTLINE)) ** 1.0
PROFILE = PchipInterpolator(_along, _OUTLINE)(np.linspace(0, 1, _HEAD_ROWS)).astype(np.float32)

_N = {name: INDEX[name] for name in INDEX}
(_JAW, _SMILE, _PUCKER, _PRESS) = (_N[n] for n in ("jaw", "smile", "pucker", "press"))
_FACE_WIDTH, _JAW_WIDTH, _CHIN_LENGTH, _CHIN_WIDTH = (
    _N[n] for n in ("face_width", "jaw_width", "chin_length", "chin_width")
)
_CHEEKS, _FOREHEAD, _EYE_DISTANCE, _EYE_SIZE = (
    _N[n] for n in ("cheeks", "forehead_height", "eye_distance", "eye_size")
)
_NOSE_LENGTH, _NOSE_WIDTH, _NOSE_BRIDGE = (_N[n] for n in ("nose_length", "nose_width", "nose_bridge"))
_LIPS, _EAR_SIZE, _NECK_WIDTH = (_N[n] for n in ("lip_fullness", "ear_size", "neck_width"))
_VOLUME, _LENGTH, _HAIRLINE, _FRINGE, _PARTING, _CURL = (
    _N[n] for n in ("hair_volume", "hair_length", "hairline", "fringe", "parting", "curl")
)
_GLASSES, _BROW_HEIGHT, _AGE = (_N[n] for n in ("glasses", "brow_height", "age"))
_HEAD_COLUMNS = GRIDS[0][2]
_EAR_A, _EAR_B, _NECK_S, _TORSO_S, _HAIR_S, _CURTAIN_S, _RING_A, _RING_B, _BRIDGE, _ARM_A, _ARM_B = STARTS[1:12]


@njit(cache=True, fastmath=True, error_model="numpy", inline="always")
def smoothstep(low, high, x):
    """0 below `low`, 1 above `high`, a smooth cubic between (either order of the limits)."""
    t = (x - low) / (high - low)
    if t < 0.0:
        t = 0.0
    elif t > 1.0:
        t = 1.0
    return t * t * (3.0 - 2.0 * t)


@njit(cache=True, fastmath=True, error_model="numpy", inline="always")
def bump(x, y, cx, cy, sx, sy):
    """A Gaussian hill of height 1."""
    dx = (x - cx) / sx
    dy = (y - cy) / sy
    r = dx * dx + dy * dy
    return math.exp(-r) if r < 9.0 else 0.0


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
    return a, front, back


@njit(cache=True, fastmath=True, error_model="numpy", inline="always")
def stretch(y, v):
    """Rest height y of the mean head moved by forehead height and chin length."""
    if y < -0.15:
        return -0.15 + (y + 0.15) * (1.0 + 0.09 * v[_FOREHEAD])
    if y > 0.6:
        return 0.6 + (y - 0.6) * (1.0 + 0.14 * v[_CHIN_LENGTH])
    return y


@njit(cache=True, fastmath=True, error_model="numpy", inline="always")
def jaw_drop(x, y, z, v):
    """How far [dm] the open jaw lowers a point of the rest face."""
    low = smoothstep(0.62, 0.92, y) * smoothstep(-0.35, 0.45, z)
    return 0.30 * v[_JAW] * low


@njit(cache=True, fastmath=True, error_model="numpy")
def relief(x, y, v):
    """Forward displacement [dm] of the front of the face at rest position (x, y): nose, sockets, lips, chin."""
    eye = 0.325 * (1.0 + 0.09 * v[_EYE_DISTANCE])
    ax = abs(x)
    d = -0.085 * bump(ax, y, eye, 0.01, 0.19, 0.13)
    d += 0.05 * bump(ax, y, eye, 0.015, 0.12, 0.085)
    d += 0.035 * bump(ax, y, 0.30, -0.20, 0.26, 0.07) * (1.0 - 0.4 * v[_BROW_HEIGHT])
    d += (0.045 + 0.03 * v[_CHEEKS]) * bump(ax, y, 0.44, 0.24, 0.17, 0.16)
    tip = 0.40 * (1.0 + 0.13 * v[_NOSE_LENGTH])
    bridge = 0.5 + 0.5 * smoothstep(-0.10, 0.12, y)
    t = (y + 0.10) / (tip + 0.10)
    if t > 0.0 and y < tip + 0.14:
        height = (0.05 + 0.045 * v[_NOSE_BRIDGE] * math.sin(min(t, 1.0) * 3.1)) * bridge + 0.225 * min(t, 1.0) ** 1.6
        height *= smoothstep(tip + 0.13, tip + 0.005, y)
        width = (0.085 + 0.07 * min(t, 1.0) ** 2) * (1.0 + 0.22 * v[_NOSE_WIDTH])
        d += height * math.exp(-((x / width) ** 2))
        wing = 0.135 * (1.0 + 0.25 * v[_NOSE_WIDTH])
        d += 0.085 * bump(ax, y, wing, tip + 0.01, 0.05, 0.06)
    full = 1.0 + 0.35 * v[_LIPS] + 0.6 * v[_PUCKER] - 0.7 * v[_PRESS]
    d += 0.045 * full * bump(x, y, 0.0, 0.66, 0.22, 0.09)
    d -= 0.035 * bump(x, y, 0.0, 0.80, 0.20, 0.05)
    d += 0.05 * bump(x, y, 0.0, 0.98, 0.20, 0.12)
    d -= 0.025 * bump(ax, y, 0.36, 0.62, 0.10, 0.16) * (1.0 - 0.7 * v[_CHEEKS])
    smile = max(0.0, v[_SMILE])
    d += 0.05 * smile * bump(ax, y, 0.38, 0.36, 0.15, 0.13)
    return d


@njit(cache=True, fastmath=True, error_model="numpy", inline="always")
def _skin_point(c, s, across, a, front, back, rest, v):
    """`head_point` for cosine c and sine s of the azimuth, across = |s| ** 0.92, and the outline a, front, back."""
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
    return _skin_point(c, s, abs(s) ** 0.92, a, front, back, rest, v)


@njit(cache=True, fastmath=True, error_model="numpy")
def hairline(theta, v):
    """Rest height where the hair ends at azimuth theta: forehead, temple, in front of the ear, nape."""
    t = abs(theta)
    front = -0.72 - 0.11 * v[_HAIRLINE] - 0.10 * v[_AGE] * smoothstep(0.55, 1.0, v[_AGE])
    side = 0.5 + 0.5 * math.tanh(6.0 * (theta - 0.5 * v[_PARTING]) * (1.0 if v[_PARTING] >= 0.0 else -1.0))
    front += 0.42 * v[_FRINGE] * (0.45 + 0.55 * side) * smoothstep(1.0, 0.5, t)
    temple = front + (0.22 - front) * (0.75 * smoothstep(0.40, 1.42, t) + 0.25 * smoothstep(0.95, 1.25, t))
    nape = temple + (0.62 - temple) * smoothstep(1.55, 2.0, t)
    return nape


@njit(cache=True, fastmath=True, error_model="numpy", inline="always")
def wobble(a, b):
    """A cheap smooth irregular function of two numbers in -1..1 (for locks of hair)."""
    return (
        math.sin(7.1 * a + 1.3 * math.sin(5.3 * b)) * 0.5
        + math.sin(17.3 * a - 4.1 * b) * 0.3
        + math.sin(31.0 * a + 9.0 * b) * 0.2
    )


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
    """Azimuth [rad] of a column of the head grid; columns lie closer together in the face."""
    u = 2.0 * column / (_HEAD_COLUMNS - 1) - 1.0
    return math.pi * abs(u) ** 1.35 * (1.0 if u >= 0.0 else -1.0)


@njit(cache=True, fastmath=True, error_model="numpy")
def build(v, vertices, extra):
    """Fill `vertices` [V, 3] in head coordinates and `extra` [V, 2] (rest height and azimuth or grid coordinates)."""
    turns = np.empty((_HEAD_COLUMNS, 4), np.float64)
    for column in range(_HEAD_COLUMNS):
        theta = azimuth(column)
        c, s = math.cos(theta), math.sin(theta)
        turns[column, 0], turns[column, 1], turns[column, 2], turns[column, 3] = theta, c, s, abs(s) ** 0.92
    for row in range(_HEAD_ROWS):
        rest = PROFILE[row, 0]
        a, front, back = outline(rest, v)
        for column in range(_HEAD_COLUMNS):
            i = row * _HEAD_COLUMNS + column
            theta, c, s, across = turns[column]
            x, y, z = _skin_point(c, s, across, a, front, back, rest, v)
            vertices[i, 0], vertices[i, 1], vertices[i, 2] = x, y, z
            extra[i, 0], extra[i, 1] = rest, theta
    # Ears: half discs that stand off the sides of the head.
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
                shape = 1.0 - 0.22 * math.sin(phi) * (1.0 if math.sin(phi) > 0 else 0.0)
                ey = 0.27 * size * r * math.sin(phi)
                ez = 0.155 * size * r * math.cos(phi) * shape
                rim = 0.05 * math.sin(r * 2.6) * r
                vertices[i, 0] = side * (width - 0.03 + 0.085 * r * (1.0 - 0.6 * math.cos(phi)) + rim)
                vertices[i, 1] = 0.20 + ey
                vertices[i, 2] = -0.08 + ez - 0.05 * r
                extra[i, 0], extra[i, 1] = r, phi
    # Neck: rows go from inside the head to inside the torso; `extra` 0 says how much the head moves it.
    neck = 0.46 * (1.0 + 0.13 * v[_NECK_WIDTH])
    for row in range(7):
        t = row / 6.0
        for column in range(29):
            i = _NECK_S + row * 29 + column
            phi = 2.0 * math.pi * column / 28.0 - math.pi
            flare = 1.0 + 0.22 * t * t
            vertices[i, 0] = neck * flare * math.sin(phi)
            vertices[i, 1] = 0.55 + 1.25 * t
            vertices[i, 2] = -0.10 - 0.12 * t + (0.48 * flare) * math.cos(phi)
            extra[i, 0], extra[i, 1] = 1.0 - t, phi
    for row in range(12):
        t = row / 11.0
        for column in range(33):
            i = _TORSO_S + row * 33 + column
            s = 2.0 * column / 32.0 - 1.0
            x = 2.1 * math.sin(1.5 * s) * (0.30 + 0.70 * min(1.0, t * 2.6) ** 0.55)
            ax = abs(x)
            top = 1.42 + 0.20 * smoothstep(0.35, 1.9, ax) + 0.55 * smoothstep(1.45, 2.1, ax)
            vertices[i, 0] = x
            vertices[i, 1] = top + 0.05 + 1.7 * t * t
            vertices[i, 2] = -0.42 + 1.0 * math.sqrt(t) * math.sqrt(max(0.0, 1.0 - (ax / 2.25) ** 2))
            extra[i, 0], extra[i, 1] = t, s
    # Hair shell: the head's surface moved outwards, from the crown down to the hairline.
    volume = 0.075 + 0.055 * v[_VOLUME] + 0.05 * v[_CURL] + 0.03 * v[_LENGTH]
    for row in range(16):
        for column in range(57):
            i = _HAIR_S + row * 57 + column
            theta = math.pi * (2.0 * column / 56.0 - 1.0)
            # Locks of different length make the edge of the hair.
            edge = hairline(theta, v) + 0.035 * wobble(theta * 2.2, v[_PARTING]) * (0.5 + v[_CURL])
            t = row / 15.0
            rest = -1.1995 + (edge + 1.1995) * (1.0 - (1.0 - t) ** 1.4 if t < 1.0 else 1.0)
            x, y, z = head_point(theta, min(rest, 0.7), v)
            taper = smoothstep(1.0, 0.72, t)
            grow = (0.012 + volume * taper) * (1.0 + v[_CURL] * 0.55 * wobble(theta * 2.0 + 3.0, rest * 3.0))
            # The parting is a shallow valley on the crown.
            grow -= (
                0.03
                * math.exp(-(((x - 0.30 * v[_PARTING]) / 0.06) ** 2))
                * smoothstep(-0.7, -1.0, rest)
                * (1.0 if z > -0.2 else 0.0)
            )
            length = math.sqrt(x * x + (y - 0.1) * (y - 0.1) + z * z) + 1e-6
            vertices[i, 0] = x * (1.0 + grow / length)
            vertices[i, 1] = y + (y - 0.1) / length * grow
            vertices[i, 2] = z * (1.0 + grow / length)
            extra[i, 0], extra[i, 1] = t, theta
    # Hanging hair: a curtain around the sides and the back, as long as `hair_length` says.
    fall = 1.75 * smoothstep(0.42, 1.0, v[_LENGTH])
    for row in range(12):
        t = row / 11.0
        for column in range(41):
            i = _CURTAIN_S + row * 41 + column
            s = 2.0 * column / 40.0 - 1.0
            theta = math.pi + s * 1.72
            y = -0.25 + (0.55 + fall) * t
            a, front, back = outline(min(0.2, y), v)
            curl = 1.0 + 0.05 * v[_CURL] * wobble(theta * 3.0, y * 3.0)
            r = (a + 0.6 * volume + 0.08 * math.sin(min(t, 1.0) * 2.4)) * curl
            hang = smoothstep(0.02, 0.2, fall)
            inside = 1.0 - 0.25 * (1.0 - hang)
            vertices[i, 0] = r * math.sin(theta) * inside
            vertices[i, 1] = y + 0.08 * wobble(theta * 3.0, 2.0) * t * hang
            depth = (back + 0.5 * volume) if math.cos(theta) < 0.0 else 0.45
            vertices[i, 2] = math.cos(theta) * depth * curl * inside - 0.05
            extra[i, 0], extra[i, 1] = t, theta
    # Glasses: two rings, a bridge and two arms; thickness 0 hides them.
    thick = 0.022 * smoothstep(0.5, 0.75, v[_GLASSES])
    eye = 0.325 * (1.0 + 0.09 * v[_EYE_DISTANCE])
    lens = 0.235
    nose_z = 0.97
    for which in range(2):
        side = -1.0 if which == 0 else 1.0
        start = _RING_A if which == 0 else _RING_B
        for column in range(25):
            phi = 2.0 * math.pi * column / 24.0
            c, s = math.cos(phi), math.sin(phi)
            cx = (abs(c) ** 0.75) * (1.0 if c >= 0 else -1.0)
            cy = (abs(s) ** 0.75) * (1.0 if s >= 0 else -1.0)
            px = side * (eye + 0.01) + lens * cx
            py = 0.035 + 0.175 * cy
            pz = nose_z - 0.10 * (abs(px) - 0.1)
            _tube(vertices, start, 25, column, px, py, pz, thick, cx, cy, 0.0, 0.0, 0.0, 1.0)
    for column in range(6):
        t = column / 5.0
        px = (2.0 * t - 1.0) * (eye + 0.01 - lens)
        _tube(
            vertices,
            _BRIDGE,
            6,
            column,
            px,
            0.0 - 0.03 * math.sin(t * math.pi),
            nose_z + 0.01,
            thick,
            0.0,
            1.0,
            0.0,
            0.0,
            0.0,
            1.0,
        )
    side_width, _, _ = outline(0.0, v)
    for which in range(2):
        side = -1.0 if which == 0 else 1.0
        start = _ARM_A if which == 0 else _ARM_B
        for column in range(7):
            t = column / 6.0
            px = side * ((eye + 0.01 + lens) * (1.0 - t) + (side_width + 0.03) * t)
            pz = (nose_z - 0.10 * (eye + lens - 0.1)) * (1.0 - t) - 0.1 * t
            _tube(vertices, start, 7, column, px, -0.03 + 0.08 * t, pz, thick, 0.0, 1.0, 0.0, 1.0, 0.0, 0.0)
    for i in range(_RING_A, vertices.shape[0]):
        extra[i, 0], extra[i, 1] = 0.0, 0.0


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
