"""Draws a portrait: projects the geometry, rasterises it with a depth buffer, shades it, and labels it exactly."""

from __future__ import annotations

import functools
import math
import subprocess
import sys
import threading
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numba import boolean, float64, int32, njit, typeof

from stylereel.world import face, hair, shading
from stylereel.world import geometry as g
from stylereel.world.backdrop import backdrop, backdrop_grid
from stylereel.world.factors import INDEX, NAMES, POSE
from stylereel.world.materials import FLOW, GLASSES_REGION, LIGHT, SCENE, SHADOW, TURN, palette

# Camera: distance [dm] and image widths per dm, so that a canonical face has the midpoint of its eyes at
# (0.5, EYE_LINE) and its mouth centre EYE_TO_MOUTH below.
EYE_LINE, EYE_TO_MOUTH = 0.43, 0.21
_DISTANCE, ZOOM = 14.0, 0.2993
PIVOT = (0.0, 0.30, 0.0)
_YAW, _PITCH, _ROLL, _SHIFT_X, _SHIFT_Y, _SCALE = (INDEX[name] for name in POSE)
_GLASSES = INDEX["glasses"]


@dataclass(frozen=True)
class Portrait:
    """An image with its labels.

    image: uint8 [H, W, 3]; landmarks: float32 [68, 2] in 0..1 (iBUG order, origin top left); visible: bool [68];
    regions: uint8 [H, W], indices into `shading.REGIONS`.
    """

    image: np.ndarray
    landmarks: np.ndarray
    visible: np.ndarray
    regions: np.ndarray


def rotation(yaw: float, pitch: float, roll: float) -> np.ndarray:
    """Rotation matrix [3, 3] from head to camera for angles in degrees: roll times yaw times pitch."""
    a, b, c = math.radians(yaw), math.radians(pitch), math.radians(roll)
    turn = np.array([[math.cos(a), 0, math.sin(a)], [0, 1, 0], [-math.sin(a), 0, math.cos(a)]])
    nod = np.array([[1, 0, 0], [0, math.cos(b), -math.sin(b)], [0, math.sin(b), math.cos(b)]])
    tilt = np.array([[math.cos(c), -math.sin(c), 0], [math.sin(c), math.cos(c), 0], [0, 0, 1]])
    return tilt @ turn @ nod


def rotations(v: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """The rotations [3, 3] of the head of a value vector [K], and of its torso, which hardly turns."""
    head, body = rotation(v[_YAW], v[_PITCH], v[_ROLL]), rotation(0.18 * v[_YAW], 0.0, 0.12 * v[_ROLL])
    return head.astype(np.float32), body.astype(np.float32)


@njit(cache=True, fastmath=True, error_model="numpy")
def _place(local, extra, head, body, table, camera):
    """Head to camera coordinates [V, 3]: head parts turn with the head, the torso hardly, the neck between."""
    for index in range(table.shape[0]):
        part, rows, columns, start = table[index]
        for i in range(start, start + rows * columns):
            x, y, z = local[i, 0] - PIVOT[0], local[i, 1] - PIVOT[1], local[i, 2] - PIVOT[2]
            share = 1.0
            if part == g.TORSO:
                share = 0.0
            elif part == g.NECK or part == g.COLLAR:
                share = g.smoothstep(0.0, 1.0, extra[i, 0])
            for k in range(3):
                turned = head[k, 0] * x + head[k, 1] * y + head[k, 2] * z
                still = body[k, 0] * x + body[k, 1] * y + body[k, 2] * z
                camera[i, k] = share * turned + (1.0 - share) * still + PIVOT[k]


@njit(cache=True, fastmath=True, error_model="numpy")
def _project(camera, v, size, screen):
    """Camera coordinates to pixels and depth [V, 3]."""
    zoom = ZOOM * v[_SCALE]
    for i in range(camera.shape[0]):
        depth = 1.0 / (1.0 - camera[i, 2] / _DISTANCE)
        screen[i, 0] = (0.5 + v[_SHIFT_X] + zoom * camera[i, 0] * depth) * size
        screen[i, 1] = (EYE_LINE + v[_SHIFT_Y] + zoom * camera[i, 1] * depth) * size
        screen[i, 2] = camera[i, 2]


@njit(cache=True, fastmath=True, error_model="numpy")
def _rasterise(screen, triangles, parts, depth, covering):
    """Depth buffer: the index of the nearest triangle per sample into `covering` (-1: none)."""
    height, width = depth.shape
    depth[:] = -1e9
    covering[:] = -1
    one, none = np.float32(1.0), np.float32(0.0)
    for t in range(triangles.shape[0]):
        a, b, c = triangles[t, 0], triangles[t, 1], triangles[t, 2]
        ax, ay = screen[a, 0], screen[a, 1]
        bx, by, cx, cy = screen[b, 0] - ax, screen[b, 1] - ay, screen[c, 0] - ax, screen[c, 1] - ay
        area = bx * cy - by * cx
        if area > -1e-9 and area < 1e-9:
            continue
        # The far side of closed parts is never visible.
        if area > none:
            part = parts[t]
            if part == g.HEAD or (g.NECK <= part <= g.HAIR) or part == g.HAT or part == g.KNOT:
                continue
        low_x = max(0, int(math.ceil(ax + min(none, min(bx, cx)) - 0.5)))
        high_x = min(width - 1, int(math.floor(ax + max(none, max(bx, cx)) - 0.5)))
        if low_x > high_x:
            continue
        low_y = max(0, int(math.ceil(ay + min(none, min(by, cy)) - 0.5)))
        high_y = min(height - 1, int(math.floor(ay + max(none, max(by, cy)) - 0.5)))
        inverse = one / area
        az, bz, cz = screen[a, 2], screen[b, 2] - screen[a, 2], screen[c, 2] - screen[a, 2]
        # Barycentric weights and depth change by a constant per step right.
        step_b, step_c = cy * inverse, -by * inverse
        step_z = step_b * bz + step_c * cz
        dx = np.float32(low_x + 0.5) - ax
        for py in range(low_y, high_y + 1):
            dy = np.float32(py + 0.5) - ay
            wb = (dx * cy - dy * cx) * inverse
            wc = (bx * dy - by * dx) * inverse
            z = az + wb * bz + wc * cz
            for px in range(low_x, high_x + 1):
                # (One test, then two selected stores: a branch per edge would be guessed wrongly too often.)
                old, before = depth[py, px], covering[py, px]
                nearer = (min(wb, min(wc, one - wb - wc)) >= none) & (z > old)
                depth[py, px] = z if nearer else old
                covering[py, px] = t if nearer else before
                wb += step_b
                wc += step_c
                z += step_z


_SHADOW_REACH = 2.2  # half the width of the shadow map [dm]
_SHADOW_SCALE = 0.5 * SHADOW / _SHADOW_REACH


@njit(cache=True, fastmath=True, error_model="numpy")
def _light_frame(p):
    """Rows right, down, towards the light [3, 3], all in camera coordinates."""
    frame = np.empty((3, 3), np.float32)
    lx, ly, lz = p[LIGHT, 0], p[LIGHT, 1], p[LIGHT, 2]
    norm = math.sqrt(lx * lx + lz * lz)
    frame[0, 0], frame[0, 1], frame[0, 2] = lz / norm, 0.0, -lx / norm
    frame[1, 0], frame[1, 1], frame[1, 2] = -lx * ly / norm, norm, -lz * ly / norm
    frame[2, 0], frame[2, 1], frame[2, 2] = lx, ly, lz
    return frame


@njit(cache=True, fastmath=True, error_model="numpy")
def _shadow_map(camera, frame, triangles, parts, light, nearest, covering):
    """Distance towards the light of what it meets first into `nearest` [SHADOW, SHADOW]; `light` [V, 3] for work."""
    for i in range(camera.shape[0]):
        for k in range(3):
            light[i, k] = frame[k, 0] * camera[i, 0] + frame[k, 1] * camera[i, 1] + frame[k, 2] * camera[i, 2]
        light[i, 0] = light[i, 0] * _SHADOW_SCALE + 0.5 * SHADOW
        light[i, 1] = (light[i, 1] - 0.2) * _SHADOW_SCALE + 0.5 * SHADOW
    _rasterise(light, triangles, parts, nearest, covering)


@njit(cache=True, fastmath=True, error_model="numpy")
def _shadow(x, y, z, bias, scene):
    """How much of the key light arrives at a camera point, 0..1: sixteen soft comparisons under a tent."""
    frame, nearest = scene.frame, scene.nearest
    u = (frame[0, 0] * x + frame[0, 1] * y + frame[0, 2] * z) * _SHADOW_SCALE + 0.5 * SHADOW - 0.5
    w = (frame[1, 0] * x + frame[1, 1] * y + frame[1, 2] * z - 0.2) * _SHADOW_SCALE + 0.5 * SHADOW - 0.5
    i, j = int(math.floor(u)), int(math.floor(w))
    if i < 1 or j < 1 or i > SHADOW - 3 or j > SHADOW - 3:
        return 1.0
    depth = np.float32(frame[2, 0] * x + frame[2, 1] * y + frame[2, 2] * z + bias)
    a, b = np.float32(u - i), np.float32(w - j)
    none, one, two, sharp = np.float32(0.0), np.float32(1.0), np.float32(2.0), np.float32(12.0)
    left, right = one + a, two - a
    far_left, far_right = one - a, a
    total = none
    for row in range(-1, 3):
        down = two - abs(b - np.float32(row))
        first = one - min(one, max(none, (nearest[j + row, i - 1] - depth) * sharp))
        second = one - min(one, max(none, (nearest[j + row, i] - depth) * sharp))
        third = one - min(one, max(none, (nearest[j + row, i + 1] - depth) * sharp))
        fourth = one - min(one, max(none, (nearest[j + row, i + 2] - depth) * sharp))
        total += down * (far_left * first + right * second + left * third + far_right * fourth)
    return total * 0.0625


@njit(cache=True, fastmath=True, error_model="numpy")
def _interpolate(t, sx, sy, screen, surface, triangles, scene):
    """The attributes of triangle t at sample position (sx, sy) into `scene.point`; whether it faces the viewer."""
    a, b, c = triangles[t, 0], triangles[t, 1], triangles[t, 2]
    point = scene.point
    ax, ay = screen[a, 0], screen[a, 1]
    bx, by, cx, cy = screen[b, 0] - ax, screen[b, 1] - ay, screen[c, 0] - ax, screen[c, 1] - ay
    inverse = 1.0 / (bx * cy - by * cx)  # triangles that face the viewer wind clockwise: negative
    dx, dy = sx - ax, sy - ay
    wb = max(0.0, (dx * cy - dy * cx) * inverse)
    wc = max(0.0, (bx * dy - by * dx) * inverse)
    # The middle of a pixel may lie beside the triangle of its first sample: far beside, by the weights of a thin one.
    both = 1.0 / max(1.0, wb + wc)
    wb, wc = np.float32(wb * both), np.float32(wc * both)
    wa = np.float32(1.0) - wb - wc
    for k in range(12):
        point[k] = wa * surface[a, k] + wb * surface[b, k] + wc * surface[c, k]
    return inverse <= 0.0


@njit(cache=True, fastmath=True, error_model="numpy")
def _point_colour(part, front, glasses, aa, scene):
    """Shade the point of `scene` into `scene.out`: part, whether it faces the viewer; returns its region."""
    point, eye = scene.point, scene.eye
    x, y, z, e0, e1, e2 = point[0], point[1], point[2], point[3], point[4], point[5]
    nx, ny, nz = point[6], point[7], point[8]
    norm = 1.0 / math.sqrt(nx * nx + ny * ny + nz * nz + 1e-9)
    if not front and part != g.TORSO:  # a thin sheet from behind
        norm = -norm
    if part == g.TORSO:  # the rim of the shoulders: never lit from behind or below
        nz = abs(nz)
        ny = -abs(ny) if e0 < 0.35 else ny
    nx, ny, nz = nx * norm, ny * norm, nz * norm
    if part == g.GLASSES:  # thinner than a pixel: its roundness is not seen, and highlights would break into dots
        nx, ny, nz = 0.25 * nx, 0.25 * ny - 0.22, 0.25 * nz + 0.70
        norm = 1.0 / math.sqrt(nx * nx + ny * ny + nz * nz)
        nx, ny, nz = nx * norm, ny * norm, nz * norm
    bias = 0.14 if part == g.HAIR or part == g.CURTAIN else 0.06
    lift = 0.05
    shadow = _shadow(point[9] + lift * nx, point[10] + lift * ny, point[11] + lift * nz, bias, scene)
    region = shading.shade(part, (x, y, z, e0, e1, e2), (nx, ny, nz), shadow, aa, scene)
    if glasses and part != g.TORSO and part != g.NECK and y > -0.4 and y < 0.5:
        tx, ty, tz = eye[0] - x, eye[1] - y, eye[2] - z
        norm = 1.0 / math.sqrt(tx * tx + ty * ty + tz * tz)
        if shading.lens(x, y, z, tx * norm, ty * norm, tz * norm, 2.0, aa, scene) > 0.6:
            region = GLASSES_REGION
    return region


@njit(cache=True, fastmath=True, error_model="numpy")
def _alike(row, column, part, z, covering, depth, parts):
    """Whether a sample shows this part (not the backdrop) at about this depth."""
    t = covering[row, column]
    return t >= 0 and parts[t] == part and abs(depth[row, column] - z) < 0.30


@njit(cache=True, fastmath=True, error_model="numpy")
def _prepare(v, p, head, body, size, triangles, parts, table, scene, buffers):
    """Everything before the pixels: geometry, depth buffer, shadow map, and the record of the image."""
    screen, camera, local, depth, covering, extra, normal, nearest, shadow_covering, surface = buffers
    cut = hair.style(v)
    g.build(v, local, extra)
    hair.build_hair(v, cut, local, extra)
    hair.build_worn(v, local, extra)
    _place(local, extra, head, body, table, camera)
    _project(camera, v, 2 * size, screen)
    g.grid_normals(camera, table, normal)
    for i in range(local.shape[0]):
        for k in range(3):
            surface[i, k], surface[i, 3 + k] = local[i, k], extra[i, k]
            surface[i, 6 + k], surface[i, 9 + k] = normal[i, k], camera[i, k]
    _rasterise(screen, triangles, parts, depth, covering)
    frame = _light_frame(p)
    _shadow_map(camera, frame, triangles, parts, normal, nearest, shadow_covering)
    # Strands fall, run back, or go to the side of the parting.
    fx, fy, fz = hair.flow(v, cut)
    for k in range(3):
        p[TURN + k, 0], p[TURN + k, 1], p[TURN + k, 2] = head[k, 0], head[k, 1], head[k, 2]
        p[FLOW, k] = head[k, 0] * fx + head[k, 1] * fy + head[k, 2] * fz
        scene.eye[k] = head[0, k] * -PIVOT[0] + head[1, k] * -PIVOT[1] + head[2, k] * (_DISTANCE - PIVOT[2]) + PIVOT[k]
        for m in range(3):
            scene.frame[k, m] = frame[k, m]
    for k in range(v.shape[0]):
        scene.v[k] = v[k]
    for k in range(cut.shape[0]):
        scene.cut[k] = cut[k]
    for k in range(p.shape[0]):
        for m in range(3):
            scene.p[k, m] = p[k, m]
    for k in range(SHADOW):
        for m in range(SHADOW):
            scene.nearest[k, m] = nearest[k, m]


@njit(cache=True, fastmath=True, error_model="numpy", nogil=True)
def _draw(v, p, head, body, size, triangles, parts, table, image, regions, scenes, buffers, light):
    """The whole image into `image` [H * W * 3] uint8; samples are on a grid of twice the size."""
    scene = scenes[0]
    _prepare(v, p, head, body, size, triangles, parts, table, scene, buffers)
    screen, depth, covering, surface = buffers[0], buffers[3], buffers[4], buffers[9]
    glasses = v[_GLASSES] > 0.5
    aa = 0.5 / (size * ZOOM * v[_SCALE])
    grid = backdrop_grid(v, p)
    out = scene.out
    last = 2 * size - 1
    seen = np.empty(16, np.int32)
    seen_part = np.empty(16, np.int32)
    seen_z = np.empty(16, np.float32)
    for row in range(size):
        top, bottom = max(0, 2 * row - 1), min(last, 2 * row + 2)
        for column in range(size):
            # Sixteen samples under a tent two pixels wide: soft edges. `first` is one of the middle four.
            first = covering[2 * row, 2 * column]
            left, right = max(0, 2 * column - 1), min(last, 2 * column + 2)
            place = 3 * (row * size + column)
            region = 0
            if first < 0:
                others = covering[top, left] & covering[top, right] & covering[bottom, left] & covering[bottom, right]
                others &= covering[2 * row, 2 * column + 1] & covering[2 * row + 1, 2 * column]
                same = (others & covering[2 * row + 1, 2 * column + 1]) < 0  # all of them are -1
                if same:
                    backdrop((column + 0.5) / size, (row + 0.5) / size, grid, out)
            else:
                part = np.int32(parts[first])
                z = depth[2 * row, 2 * column]
                same = (
                    _alike(top, left, part, z, covering, depth, parts)
                    and _alike(top, right, part, z, covering, depth, parts)
                    and _alike(bottom, left, part, z, covering, depth, parts)
                    and _alike(bottom, right, part, z, covering, depth, parts)
                    and _alike(2 * row, 2 * column + 1, part, z, covering, depth, parts)
                    and _alike(2 * row + 1, 2 * column, part, z, covering, depth, parts)
                    and _alike(2 * row + 1, 2 * column + 1, part, z, covering, depth, parts)
                )
                if same:
                    front = _interpolate(first, 2 * column + 1.0, 2 * row + 1.0, screen, surface, triangles, scene)
                    region = _point_colour(part, front, glasses, aa, scene)
            if same:
                light[place], light[place + 1], light[place + 2] = out[0], out[1], out[2]
            else:
                # An edge: the samples of one surface share a colour, that of the one nearest to the middle.
                for k in range(16):
                    r = min(max(2 * row + _DOWN[k], 0), last)
                    c = min(max(2 * column + _RIGHT[k], 0), last)
                    seen[k], seen_z[k] = covering[r, c], depth[r, c]
                    seen_part[k] = parts[seen[k]] if seen[k] >= 0 else -1
                red = green = blue = 0.0
                left_over = 0xFFFF
                for k in range(16):
                    if not (left_over >> k) & 1:
                        continue
                    part, z = np.int32(seen_part[k]), seen_z[k]
                    share = 0.0
                    for m in range(k, 16):
                        alike = (seen_part[m] == part) & (abs(seen_z[m] - z) < 0.30) & ((left_over >> m) & 1 == 1)
                        if alike:
                            left_over ^= 1 << m
                            share += _WEIGHT[m]
                    if k >= 4 and share <= 3.0:
                        pass  # a lone outer sample takes the last colour
                    elif part >= 0:
                        r = min(max(2 * row + _DOWN[k], 0), last)
                        c = min(max(2 * column + _RIGHT[k], 0), last)
                        front = _interpolate(seen[k], c + 0.5, r + 0.5, screen, surface, triangles, scene)
                        found = _point_colour(part, front, glasses, aa, scene)
                        if k < 4:
                            region = max(region, found)
                    else:
                        backdrop((column + 0.5) / size, (row + 0.5) / size, grid, out)
                    share *= 1.0 / 64.0
                    red += share * min(1.4, out[0])
                    green += share * min(1.4, out[1])
                    blue += share * min(1.4, out[2])
                light[place], light[place + 1], light[place + 2] = red, green, blue
            regions[row, column] = region
    _develop(light, image)


@njit(cache=True, fastmath=True, error_model="numpy")
def _develop(light, image):
    """Linear light to pixel values; a soft shoulder keeps the lights from clipping."""
    none, one, gain, bend = np.float32(0.0), np.float32(1.0), np.float32(1.30), np.float32(0.34)
    for i in range(light.shape[0]):
        value = max(none, light[i])
        value = min(one, gain * value / (one + bend * value))
        image[i] = np.uint8(np.int32(np.float32(255.0) * np.sqrt(value) + np.float32(0.5)))


# The samples of a 4 x 4 block from its middle outwards: their places, and their weights under the tent.
_CENTRE_OUT = np.array([5, 6, 9, 10, 1, 2, 4, 7, 8, 11, 13, 14, 0, 3, 12, 15])
_DOWN, _RIGHT = _CENTRE_OUT // 4 - 1, _CENTRE_OUT % 4 - 1
_WEIGHT = np.repeat((9.0, 3.0, 1.0), (4, 8, 4))


@njit(cache=True, fastmath=True, error_model="numpy")
def _surface(x, y, v):
    """A point of the face's skin [3] with face coordinates (x, y) after expression."""
    rest = y
    theta = 0.0
    z = 0.85
    for _ in range(6):
        a, front, back = g.outline(rest, v)
        across = x - g.jaw_shift(rest, z, v)
        ratio = min(0.999, abs(across) / max(a, 1e-3))
        theta = math.asin(ratio ** (1.0 / 0.92)) * (1.0 if across >= 0 else -1.0)
        px, py, z = g.head_point(theta, rest, v)
        rest += y - py
    return x, y, z


@njit(cache=True, fastmath=True, error_model="numpy")
def _put(points, row, point):
    """points[row] = point, without the code for shapes that differ, which takes long to compile."""
    points[row, 0], points[row, 1], points[row, 2] = point


@njit(cache=True, fastmath=True, error_model="numpy")
def landmark_points(v):
    """The 68 iBUG points [68, 3] in head coordinates [dm]."""
    points = np.zeros((68, 3), np.float32)
    jaw_rest = (0.02, 0.22, 0.42, 0.60, 0.77, 0.92, 1.02, 1.09, 1.115)
    jaw_angle = (84.0, 83.0, 82.0, 79.0, 72.0, 60.0, 43.0, 23.0, 0.0)
    for i in range(17):
        k = i if i <= 8 else 16 - i
        sign = -1.0 if i < 8 else 1.0
        _put(points, i, g.head_point(sign * math.radians(jaw_angle[k]), jaw_rest[k], v))
    for i in range(5):
        for side in (-1, 1):
            index = 17 + i if side < 0 else 26 - i
            t = 1.0 - i / 4.0
            inner = 0.105 + 0.05 * v[face.EYE_DISTANCE] * 0.5
            y, half = face.brow_line(t, side, v)
            _put(points, index, _surface(side * (inner + 0.47 * (0.04 + 0.92 * t)), y - 0.4 * half, v))
    tip = 0.40 * (1.0 + 0.13 * v[face.NOSE_LENGTH])
    for i in range(4):
        _put(points, 27 + i, _surface(0.0, -0.02 + (tip + 0.02) * i / 3.0, v))
    wing = 0.150 * (1.0 + 0.22 * v[face.NOSE_WIDTH])
    for i in range(5):
        _put(points, 31 + i, _surface(wing * (i - 2) / 2.0, tip + 0.085 + 0.02 * (1.0 - abs(i - 2) / 2.0), v))
    for side in (-1, 1):
        cx, half, slope = face.eye_frame(side, v)
        # Order of the left-hand eye: outer corner, upper outer, upper inner, inner corner, lower inner, lower outer.
        along = (1.0, 0.40, -0.40, -1.0, -0.40, 0.40)
        for i in range(6):
            s = along[i]
            upper, lower, _ = face.eye_lines(s, side, v)
            y = upper if i in (1, 2) else (lower if i in (4, 5) else 0.5 * (upper + lower))
            x = cx + side * s * half
            point = _surface(x, 0.012 + slope * s * half + y, v)
            if side < 0:
                _put(points, 36 + i, point)
            else:
                _put(points, (45, 44, 43, 42, 47, 46)[i], point)
    half_mouth, middle, _, _ = face.mouth_frame(v)
    outer = (-1.0, -0.62, -0.24, 0.0, 0.24, 0.62, 1.0, 0.62, 0.30, 0.0, -0.30, -0.62)
    for i in range(12):
        top, upper, lower, bottom = face.mouth_lines(outer[i], v)
        y = 0.5 * (upper + lower) if i in (0, 6) else (top if i < 6 else bottom)
        _put(points, 48 + i, _surface(middle + outer[i] * half_mouth, y, v))
    inner_s = (-0.88, -0.35, 0.0, 0.35, 0.88, 0.35, 0.0, -0.35)
    for i in range(8):
        top, upper, lower, bottom = face.mouth_lines(inner_s[i], v)
        y = 0.5 * (upper + lower) if i in (0, 4) else (upper if i < 4 else lower)
        _put(points, 60 + i, _surface(middle + inner_s[i] * half_mouth, y, v))
    return points


_LOCAL = threading.local()
MOST_SIZE = 4096  # takes 900 MB


def _buffers(size: int) -> tuple[np.ndarray, ...]:
    """Working arrays for an image size, made once per thread: fresh pages would cost a tenth of the drawing.

    screen, camera, local [V, 3]; depth, covering [2 size, 2 size]; extra, normal [V, 3]; the shadow map and what covers
    it; surface [V, 12]; then the image's record and its light [size * size * 3].

    Raises ValueError for a size that takes too much memory.
    """
    if not 1 <= size <= MOST_SIZE:
        raise ValueError(f"Portraits are drawn at 1 to {MOST_SIZE} pixels a side, not {size}.")
    if getattr(_LOCAL, "size", None) != size:
        _LOCAL.size = size
        _LOCAL.arrays = (
            *(np.zeros((g.VERTICES, 3), np.float32) for _ in range(3)),
            np.empty((2 * size, 2 * size), np.float32),
            np.empty((2 * size, 2 * size), np.int32),
            *(np.zeros((g.VERTICES, 3), np.float32) for _ in range(2)),
            np.empty((SHADOW, SHADOW), np.float32),
            np.empty((SHADOW, SHADOW), np.int32),
            np.empty((g.VERTICES, 12), np.float32),
            np.zeros(1, SCENE),
            np.empty(size * size * 3, np.float32),
        )
    return _LOCAL.arrays


_COMPILING = threading.Lock()


@functools.cache
def _compile() -> None:
    """Compile the kernels where none are kept, in two processes at once, and say so on stderr: it takes long.

    The other process compiles the geometry meanwhile and leaves it in Numba's cache. If it cannot, this one does.
    """
    if any(Path(str(_draw.stats.cache_path)).glob("draw._draw-*.nbc")):
        return
    print("stylereel: compiling the drawing kernels (once)", file=sys.stderr, flush=True)
    program = f"import sys; sys.path[:] = {sys.path!r}; from stylereel.world.draw import compile_geometry as c; c()"
    try:
        nothing = subprocess.DEVNULL
        other = subprocess.Popen([sys.executable, "-c", program], stdin=nothing, stdout=nothing, stderr=nothing)
    except OSError:
        return
    try:
        _point_colour.compile((int32, boolean, boolean, float64, typeof(_buffers(16)[-2][0])))
    except BaseException:
        other.kill()
        raise
    finally:
        other.wait()


def compile_geometry() -> None:
    """Compile what comes before the pixels, for the types of arguments with which `_draw` calls it."""
    *buffers, scene, _ = _buffers(16)
    v, turn = np.zeros(len(NAMES), np.float32), np.eye(3, dtype=np.float32)
    tables = g.TRIANGLES, g.TRIANGLE_PART, g.GRID_TABLE
    given = (v, palette(v), turn, turn, 16, *tables, scene[0], tuple(buffers))
    _prepare.compile(tuple(typeof(each) for each in given))
    backdrop_grid(v, palette(v))


def draw(values: np.ndarray, size: int = 256) -> Portrait:
    """Draw the portrait of a value vector [K] (order of `factors.NAMES`) at `size` pixels.

    Deterministic: the same values give the same image. Raises ValueError for a vector of another length and for
    more than MOST_SIZE pixels a side.
    """
    v = np.ascontiguousarray(values, np.float32)
    if v.shape != (len(NAMES),):
        raise ValueError(f"A portrait needs {len(NAMES)} factor values, got an array of shape {v.shape}.")
    if not _draw.signatures:
        with _COMPILING:
            _compile()
    head, body = rotations(v)
    *buffers, scene, light = _buffers(size)
    image = np.empty(size * size * 3, np.uint8)
    regions = np.empty((size, size), np.uint8)
    tables = g.TRIANGLES, g.TRIANGLE_PART, g.GRID_TABLE
    _draw(v, palette(v), head, body, size, *tables, image, regions, scene, tuple(buffers), light)
    depth = buffers[3]
    landmarks, nearness = project_landmarks(v)
    column = np.clip((landmarks[:, 0] * 2 * size).astype(int), 0, 2 * size - 1)
    row = np.clip((landmarks[:, 1] * 2 * size).astype(int), 0, 2 * size - 1)
    inside = np.all((landmarks > 0) & (landmarks < 1), axis=1)
    return Portrait(image.reshape(size, size, 3), landmarks, inside & (nearness > depth[row, column] - 0.09), regions)


def align(values: np.ndarray) -> np.ndarray:
    """Values [..., K] with shift and scale as a face-aligned data set has them.

    The middle of eyes and mouth of the mean head stays where it is in a frontal face, at the canonical size, however
    the head turns; the built-in generator was trained on such images alone, as the published ones on aligned faces.
    """
    out = np.array(values, np.float32)
    out[..., _SCALE] = 1.0
    for v in out.reshape(-1, out.shape[-1]):
        v[[_SHIFT_X, _SHIFT_Y]] = _FACE_CENTRE - _project_points(_FACE_POINTS, *v[[_YAW, _PITCH, _ROLL]]).mean(0)
    return out


# Middle of the eyes and mouth of the mean head [dm].
_FACE_POINTS = np.array([(0.0, 0.01, 0.85), (0.0, 0.66, 0.90)])


def _project_points(points: np.ndarray, yaw: float, pitch: float, roll: float) -> np.ndarray:
    turned = (points - PIVOT) @ rotation(yaw, pitch, roll).T + PIVOT
    return ZOOM * turned[:, :2] / (1 - turned[:, 2:] / _DISTANCE)


_FACE_CENTRE = _project_points(_FACE_POINTS, 0, 0, 0).mean(0)


def project_landmarks(values: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Landmarks [68, 2] in 0..1 and their camera z [68] (dm, towards the viewer) of a value vector."""
    v = np.asarray(values, np.float32)
    turned = (landmark_points(v) - PIVOT) @ rotation(v[_YAW], v[_PITCH], v[_ROLL]).T + PIVOT
    zoom = ZOOM * v[_SCALE] / (1 - turned[:, 2] / _DISTANCE)
    x = 0.5 + v[_SHIFT_X] + zoom * turned[:, 0]
    y = EYE_LINE + v[_SHIFT_Y] + zoom * turned[:, 1]
    return np.stack([x, y], 1).astype(np.float32), turned[:, 2]
