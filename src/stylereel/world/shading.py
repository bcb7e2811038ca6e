"""The look of a portrait: colours, light, and everything that is painted on the geometry.

Eyes, brows, lips, mouth cavity, nostrils, beard and hairline are signed distances in face coordinates (dm), so they
have clean edges at any size; `shade` gives the colour and region of one point. Colours are linear light inside.
"""

from __future__ import annotations

import math

import numpy as np
from numba import njit

from stylereel.world import geometry as g
from stylereel.world.factors import INDEX
from stylereel.world.geometry import bump, hairline, smoothstep

REGIONS = ("background", "skin", "hair", "brow", "eye", "lips", "mouth", "neck", "clothes", "ear", "glasses", "beard")
_BACKGROUND, _SKIN, _HAIR, _BROW, _EYE, _LIPS, _MOUTH, _NECK, _CLOTHES, _EAR, _GLASSES, _BEARD = range(len(REGIONS))

(YAW, JAW, SMILE, PUCKER, PRESS, BROW_LEFT, BROW_RIGHT, BLINK_LEFT, BLINK_RIGHT, GAZE_X, GAZE_Y) = (
    INDEX[n]
    for n in (
        "yaw",
        "jaw",
        "smile",
        "pucker",
        "press",
        "brow_left",
        "brow_right",
        "blink_left",
        "blink_right",
        "gaze_x",
        "gaze_y",
    )
)
EYE_DISTANCE, EYE_SIZE, EYE_TILT, NOSE_LENGTH, NOSE_WIDTH, MOUTH_WIDTH, LIPS = (
    INDEX[n]
    for n in ("eye_distance", "eye_size", "eye_tilt", "nose_length", "nose_width", "mouth_width", "lip_fullness")
)
BROW_THICKNESS, BROW_HEIGHT, BROW_ARCH, AGE, BEARD, MOUSTACHE, CURL, FRECKLES, CHEEKS = (
    INDEX[n]
    for n in (
        "brow_thickness",
        "brow_height",
        "brow_arch",
        "age",
        "beard",
        "moustache",
        "curl",
        "freckles",
        "cheeks",
    )
)
PATTERN = INDEX["backdrop_pattern"]
(SKIN_TONE, SKIN_WARMTH, HAIR_LIGHT, HAIR_RED, HAIR_GRAY, EYE_LIGHT, EYE_HUE, LIP_COLOUR) = (
    INDEX[n]
    for n in ("skin_tone", "skin_warmth", "hair_light", "hair_red", "hair_gray", "eye_light", "eye_hue", "lip_colour")
)
(CLOTHES_HUE, CLOTHES_LIGHT, BACKDROP_HUE, BACKDROP_LIGHT, LIGHT_WARMTH, LIGHT_SIDE, LIGHT_HEIGHT) = (
    INDEX[n]
    for n in (
        "clothes_hue",
        "clothes_light",
        "backdrop_hue",
        "backdrop_light",
        "light_warmth",
        "light_side",
        "light_height",
    )
)

# Rows of the palette made by `palette`.
SKIN, HAIR, IRIS, LIP, CLOTH, CLOTH_2, BACK_1, BACK_2, KEY, AMBIENT, LIGHT = range(11)


def _noise_texture() -> np.ndarray:
    """Two tileable noise layers [2, 256, 256] in 0..1: soft blotches and fine grain."""
    random = np.random.default_rng(7)
    fine = random.random((256, 256))
    frequency = np.fft.fftfreq(256)
    radius = np.hypot(frequency[:, None], frequency[None])

    def filtered(width: float) -> np.ndarray:
        layer = np.fft.ifft2(np.fft.fft2(fine - 0.5) * np.exp(-((radius / width) ** 2))).real
        layer = layer / (layer.std() * 5) + 0.5
        return np.clip(layer, 0, 1)

    return np.stack([filtered(0.02), filtered(0.18)]).astype(np.float32)


NOISE = _noise_texture()


@njit(cache=True, fastmath=True, error_model="numpy", inline="always")
def noise(layer, u, w):
    """Bilinear look-up in noise layer 0 or 1; one unit of u, w is one texture cell of 256."""
    fu, fw = math.floor(u), math.floor(w)
    a, b = u - fu, w - fw
    i, j = int(fu) & 255, int(fw) & 255
    i1, j1 = (i + 1) & 255, (j + 1) & 255
    top = NOISE[layer, j, i] * (1 - a) + NOISE[layer, j, i1] * a
    bottom = NOISE[layer, j1, i] * (1 - a) + NOISE[layer, j1, i1] * a
    return top * (1 - b) + bottom * b


@njit(cache=True, fastmath=True, error_model="numpy")
def _hsv(hue, saturation, value):
    """sRGB colour [3] of hue, saturation and value in 0..1."""
    rgb = np.empty(3)
    for channel in range(3):
        k = (5.0 - 2.0 * channel + hue * 6.0) % 6.0
        rgb[channel] = value - value * saturation * max(0.0, min(1.0, min(k, 4.0 - k)))
    return rgb


_TONES = np.array(
    [(0.97, 0.82, 0.73), (0.90, 0.72, 0.60), (0.79, 0.59, 0.46), (0.64, 0.45, 0.34), (0.48, 0.325, 0.245)]
)
# Dark, blond, brown and gray hair; dark eyes; what warm skin, red hair, lips and lip colour multiply or add.
_DARK, _BLOND, _BROWN, _GRAY, _DARK_EYE, _WARM, _RED, _LIP_TINT, _LIP_SHIFT = np.array(
    [
        (0.12, 0.085, 0.065),
        (0.82, 0.66, 0.43),
        (0.42, 0.27, 0.16),
        (0.74, 0.73, 0.72),
        (0.24, 0.145, 0.085),
        (0.035, -0.01, -0.06),
        (0.55, -0.10, -0.35),
        (0.86, 0.60, 0.58),
        (1.2, -0.9, -0.5),
    ]
)


@njit(cache=True, fastmath=True, error_model="numpy")
def palette(v):
    """Colours (linear RGB) and lights [11, 3] of a value vector."""
    p = np.empty((11, 3), np.float32)
    position = v[SKIN_TONE] * (_TONES.shape[0] - 1)
    low = min(int(position), _TONES.shape[0] - 2)
    light, gray, eye = v[HAIR_LIGHT], 0.85 * v[HAIR_GRAY], v[EYE_LIGHT]
    brown = 0.45 * 4.0 * light * (1.0 - light)
    pale = _hsv(0.42 + 0.14 * v[EYE_HUE], 0.42, 0.66)
    hue, cloth = (v[CLOTHES_HUE] + 1.0) / 2.0, v[CLOTHES_LIGHT]
    cloth_1 = _hsv(hue, 0.50 - 0.32 * cloth, 0.16 + 0.74 * cloth)
    cloth_2 = _hsv((hue + 0.08) % 1.0, 0.35, 0.30 + 0.6 * (1.0 - cloth))
    hue, back = (v[BACKDROP_HUE] + 1.0) / 2.0, v[BACKDROP_LIGHT]
    back_1 = _hsv(hue, 0.22, 0.28 + 0.6 * back)
    back_2 = _hsv((hue + 0.13) % 1.0, 0.20, 0.16 + 0.55 * back)
    for k in range(3):
        skin = _TONES[low, k] + (position - low) * (_TONES[low + 1, k] - _TONES[low, k])
        skin *= 1.0 + v[SKIN_WARMTH] * _WARM[k]
        hair = (1.0 - light) * _DARK[k] + light * _BLOND[k]
        hair = ((1.0 - brown) * hair + brown * _BROWN[k]) * (1.0 + v[HAIR_RED] * _RED[k])
        p[SKIN, k] = skin
        p[HAIR, k] = (1.0 - gray) * hair + gray * _GRAY[k]
        p[IRIS, k] = (1.0 - eye) * _DARK_EYE[k] + eye * pale[k]
        # Lips follow the skin.
        p[LIP, k] = skin * _LIP_TINT[k] * (1.0 - 0.05 * v[SKIN_TONE]) + 0.06 * v[LIP_COLOUR] * _LIP_SHIFT[k]
        p[CLOTH, k], p[CLOTH_2, k], p[BACK_1, k], p[BACK_2, k] = cloth_1[k], cloth_2[k], back_1[k], back_2[k]
        for row in range(KEY):
            p[row, k] = max(0.01, min(1.0, p[row, k])) ** 2
    warm = v[LIGHT_WARMTH]
    p[KEY, 0], p[KEY, 1], p[KEY, 2] = 0.86 + 0.086 * warm, 0.86, 0.86 - 0.1032 * warm
    p[AMBIENT, 0], p[AMBIENT, 1], p[AMBIENT, 2] = 0.45 - 0.027 * warm, 0.45, 0.45 + 0.036 * warm
    side, height = math.radians(42.0 * v[LIGHT_SIDE]), math.radians(28.0 + 22.0 * v[LIGHT_HEIGHT])
    p[LIGHT, 0] = math.sin(side) * math.cos(height)
    p[LIGHT, 1] = -math.sin(height)
    p[LIGHT, 2] = math.cos(side) * math.cos(height)
    return p


@njit(cache=True, fastmath=True, error_model="numpy", inline="always")
def cover(distance, aa):
    """Coverage 0..1 of a pixel of half size `aa` by a shape with signed distance (negative inside)."""
    t = 0.5 - distance / (2.0 * aa)
    if t < 0.0:
        t = 0.0
    elif t > 1.0:
        t = 1.0
    return t


@njit(cache=True, fastmath=True, error_model="numpy")
def eye_lines(s, side, v):
    """Upper lid, lower lid and crease heights [dm, relative to the eye centre] at s in -1..1 (outwards positive)."""
    blink = v[BLINK_LEFT] if side > 0 else v[BLINK_RIGHT]
    brow = v[BROW_LEFT] if side > 0 else v[BROW_RIGHT]
    size = 1.0 + 0.20 * v[EYE_SIZE]
    f = max(0.0, 1.0 - s * s)
    # The lower lid follows the cheek of a smile; the upper lid follows the gaze.
    high = 0.082 * size * (1.0 + 0.12 * brow - 0.12 * v[AGE] - 0.22 * v[GAZE_Y]) * f ** (0.62 + 0.10 * s)
    low = 0.052 * size * (1.0 - 0.30 * max(0.0, v[SMILE])) * f ** (0.85 - 0.15 * s)
    upper = -high * (1.0 - blink) + 0.60 * low * blink
    lower = low * (1.0 - 0.25 * blink)
    crease = -0.082 * size * f**0.6 * (1.0 - 0.45 * blink) - 0.048 - 0.012 * brow
    return upper, lower, crease


@njit(cache=True, fastmath=True, error_model="numpy")
def eye_frame(side, v):
    """Centre x, half width [dm] and slope of an eye."""
    return (
        side * 0.325 * (1.0 + 0.09 * v[EYE_DISTANCE]),
        0.165 * (1.0 + 0.09 * v[EYE_SIZE]),
        -0.10 + 0.13 * -v[EYE_TILT],
    )


@njit(cache=True, fastmath=True, error_model="numpy")
def brow_line(t, side, v):
    """Height y and half thickness [dm] of a brow at t in 0 (inner end) .. 1 (outer end)."""
    raised = v[BROW_LEFT] if side > 0 else v[BROW_RIGHT]
    y = -0.205 - 0.035 * v[BROW_HEIGHT] - (0.075 + 0.035 * v[BROW_ARCH]) * math.sin(min(t * 1.35, 1.55)) + 0.085 * t * t
    y -= 0.085 * raised if raised > 0 else 0.045 * raised * (1.3 - 0.8 * t)
    half = 0.040 * (1.0 + 0.45 * v[BROW_THICKNESS]) * (0.75 + 0.6 * t - 1.15 * t * t)
    return y, half


@njit(cache=True, fastmath=True, error_model="numpy")
def mouth_frame(v):
    """Half width, centre height and opening [dm] of the mouth."""
    smile = v[SMILE]
    half = 0.255 * (1.0 + 0.11 * v[MOUTH_WIDTH]) * (1.0 + 0.17 * smile - 0.36 * v[PUCKER] - 0.10 * v[JAW])
    opening = 0.30 * v[JAW] * (1.0 - 0.35 * v[PUCKER]) * (1.0 - 0.7 * v[PRESS])
    return half, 0.66, opening


@njit(cache=True, fastmath=True, error_model="numpy")
def mouth_lines(s, v):
    """Outer upper, inner upper, inner lower, outer lower lip heights y [dm] at s in -1..1 across the mouth."""
    _, centre, opening = mouth_frame(v)
    f = max(0.0, 1.0 - s * s)
    smile = v[SMILE]
    y = centre - (0.085 * smile + 0.014) * (s * s - 0.35) + 0.012 * math.cos(s * 6.0) * (1.0 - abs(s))
    gap = opening * f**0.62
    thick = (1.0 + 0.42 * v[LIPS]) * (1.0 - 0.78 * v[PRESS]) * (1.0 + 0.40 * v[PUCKER]) * (1.0 - 0.18 * max(0.0, smile))
    bow = 1.0 - 0.26 * math.exp(-((s / 0.14) ** 2)) + 0.10 * math.exp(-(((abs(s) - 0.3) / 0.16) ** 2))
    upper = y - 0.10 * gap
    lower = y + 0.90 * gap
    return upper - 0.070 * thick * f**0.75 * bow, upper, lower, lower + 0.092 * thick * f**0.62


@njit(cache=True, fastmath=True, error_model="numpy")
def _mix(rgb, r, gg, b, t):
    rgb[0] += (r - rgb[0]) * t
    rgb[1] += (gg - rgb[1]) * t
    rgb[2] += (b - rgb[2]) * t


@njit(cache=True, fastmath=True, error_model="numpy")
def paint_face(x, y, z, rest, theta, aa, v, p, rgb):
    """Albedo of the head at face point (x, y, z) with rest height `rest`; returns region, gloss and occlusion.

    `rgb` [3] is filled with linear albedo. `aa` is half a pixel in dm.
    """
    region = _SKIN
    gloss, occlusion = 0.10, 1.0
    blotch = noise(0, x * 60.0 + 31.0, y * 60.0)
    grain = noise(1, x * 150.0, y * 150.0 + 17.0)
    tint = 1.0 + 0.10 * (blotch - 0.5) + 0.07 * (grain - 0.5)
    rgb[0], rgb[1], rgb[2] = p[SKIN, 0] * tint, p[SKIN, 1] * tint, p[SKIN, 2] * tint
    front = z > 0.15
    ax = abs(x)
    if front:
        # Blood under the skin: cheeks, nose tip; warm and cool zones of a face.
        flush = 0.55 * bump(ax, rest, 0.42, 0.30, 0.18, 0.16) + 0.5 * bump(x, rest, 0.0, 0.40, 0.10, 0.10)
        rgb[1] *= 1.0 - 0.16 * flush
        rgb[2] *= 1.0 - 0.16 * flush
        if v[FRECKLES] > 0.05:
            spots = smoothstep(0.66, 0.80, noise(1, x * 95.0 + 5.0, rest * 95.0))
            amount = 0.45 * v[FRECKLES] * spots * bump(ax, rest, 0.28, 0.22, 0.34, 0.22)
            _mix(rgb, rgb[0] * 0.62, rgb[1] * 0.48, rgb[2] * 0.40, amount)
        # Sockets and the sides of the nose lie in shade, lower lip throws a shadow.
        eye_x = 0.325 * (1.0 + 0.09 * v[EYE_DISTANCE])
        occlusion -= 0.22 * bump(ax, y, eye_x - 0.06, -0.09, 0.20, 0.08)
        occlusion -= 0.14 * bump(ax, y, 0.165, 0.02, 0.06, 0.12)
        tip = 0.40 * (1.0 + 0.13 * v[NOSE_LENGTH])
        occlusion -= 0.24 * bump(x, rest, 0.0, tip + 0.115, 0.17, 0.05)
        if y > 0.55 and ax < 0.5:
            _, _, _, chin_shadow = mouth_lines(0.0, v)
            occlusion -= 0.20 * bump(x, y, 0.0, chin_shadow + 0.05, 0.17, 0.05)
        # Folds: nose to mouth, under the eyes, forehead.
        half, centre, opening = mouth_frame(v)
        age, smile = v[AGE], max(0.0, v[SMILE])
        t = (y - tip - 0.02) / (centre + 0.06 - tip)
        if -0.1 < t < 1.25:
            wing = 0.16 * (1.0 + 0.22 * v[NOSE_WIDTH])
            fold_x = wing + 0.02 + (half + 0.075 - wing) * t**0.8 if t > 0 else wing + 0.02
            strength = (0.10 + 0.28 * age * age + 0.30 * smile) * smoothstep(-0.1, 0.15, t) * smoothstep(1.25, 0.8, t)
            occlusion -= strength * math.exp(-(((ax - fold_x) / 0.030) ** 2))
        if age > 0.45:
            wrinkles = (age - 0.45) * 0.55
            if rest < -0.1:
                lines = math.sin((y + 0.02 * math.sin(x * 9.0)) * 62.0)
                occlusion -= wrinkles * 0.45 * max(0.0, lines) ** 2 * bump(x, rest, 0.0, -0.50, 0.42, 0.13)
            occlusion -= wrinkles * bump(ax, y, eye_x, 0.115, 0.15, 0.022)
        occlusion -= 0.10 * bump(ax, y, eye_x, 0.105, 0.14, 0.03)
        # Nostrils and wings of the nose.
        wing = 0.085 * (1.0 + 0.20 * v[NOSE_WIDTH])
        hole = ((ax - wing) / 0.052) ** 2 + ((rest - tip - 0.066 + 0.10 * (ax - wing)) / 0.024) ** 2
        dark = 0.80 * smoothstep(1.5, 0.4, hole)
        _mix(rgb, rgb[0] * 0.16, rgb[1] * 0.08, rgb[2] * 0.07, dark)
        occlusion -= 0.22 * bump(ax, rest, 0.175 * (1.0 + 0.22 * v[NOSE_WIDTH]), tip + 0.015, 0.020, 0.06)
    # Beard and stubble.
    if rest > 0.0 and (v[BEARD] > 0.03 or v[MOUSTACHE] > 0.03):
        half, centre, opening = mouth_frame(v)
        upper_lip, _, _, lower_lip = mouth_lines(min(1.0, ax / half) * 0.98, v)
        edge = 0.62 - 0.55 * smoothstep(0.30, 0.62, ax)
        beard = v[BEARD] * smoothstep(edge - 0.06, edge + 0.10, rest) * smoothstep(-0.42, -0.1, z)
        beard *= smoothstep(
            0.02,
            0.08,
            math.hypot(
                max(0.0, ax - half * 0.75),
                max(0.0, abs(y - 0.5 * (upper_lip + lower_lip)) - 0.5 * (lower_lip - upper_lip)),
            ),
        )
        between = (
            smoothstep(0.455, 0.50, rest)
            * smoothstep(upper_lip + 0.005, upper_lip - 0.03, y)
            * smoothstep(half + 0.11, half + 0.02, ax)
        )
        beard *= 1.0 - between
        tache = max(v[MOUSTACHE], 0.75 * v[BEARD]) * between * (1.0 if front else 0.0)
        density = max(beard, tache)
        if density > 0.01:
            strands = noise(1, x * 130.0 + 3.0 * y, y * 38.0)
            amount = smoothstep(0.0, 1.0, density * 1.25) * (0.62 + 0.55 * strands)
            amount = min(0.94, amount)
            shade_hair = 0.75 + 0.5 * strands
            _mix(rgb, p[HAIR, 0] * shade_hair, p[HAIR, 1] * shade_hair, p[HAIR, 2] * shade_hair, amount)
            gloss *= 1.0 - 0.6 * amount
            if amount > 0.5:
                region = _BEARD
    if front and -0.45 < y < -0.05 and 0.03 < ax < 0.72:
        side = 1.0 if x > 0 else -1.0
        inner = 0.105 + 0.05 * v[EYE_DISTANCE] * 0.5
        t = (ax - inner) / 0.47
        if -0.08 < t < 1.06:
            middle, half_brow = brow_line(min(1.0, max(0.0, t)), side, v)
            strands = noise(1, ax * 150.0 - 60.0 * y, y * 70.0 + 40.0 * ax)
            distance = abs(y - middle) - half_brow * (0.80 + 0.45 * strands)
            distance = max(distance, max(-t, t - 1.0) * 0.47)
            amount = cover(distance, aa + 0.010) * (0.72 + 0.28 * strands) * 0.92
            if amount > 0.0:
                _mix(rgb, p[HAIR, 0] * 0.62, p[HAIR, 1] * 0.60, p[HAIR, 2] * 0.60, amount)
                gloss *= 1.0 - amount
                if amount > 0.45:
                    region = _BROW
    if front and -0.24 < y < 0.22 and 0.05 < ax < 0.62:
        side = 1.0 if x > 0 else -1.0
        cx, half_eye, slope = eye_frame(side, v)
        dx = (x - cx) * side
        dy = y - 0.012 - slope * dx
        s = dx / half_eye
        if abs(s) < 1.25:
            upper, lower, crease = eye_lines(max(-1.0, min(1.0, s)), side, v)
            ends = (abs(s) - 1.0) * half_eye * 0.5
            inside = cover(max(max(upper - dy, dy - lower), ends), aa)
            # Crease and shadowed lid.
            fade = smoothstep(1.22, 0.85, abs(s))
            line = (dy - crease) / (0.011 + aa * 0.6)
            occlusion -= 0.34 * math.exp(-line * line) * fade
            if crease < dy < upper:
                _mix(rgb, rgb[0] * 0.90, rgb[1] * 0.82, rgb[2] * 0.80, 0.6 * fade)
            if inside > 0.0:
                blink = v[BLINK_LEFT] if side > 0 else v[BLINK_RIGHT]
                er, eg, eb = 0.80, 0.76, 0.73
                corner = 1.0 - 0.30 * s * s
                er, eg, eb = er * corner, eg * corner, eb * corner
                ix = dx - side * v[GAZE_X] * 0.072
                iy = (y - 0.012) + 0.010 - v[GAZE_Y] * 0.045
                r = math.sqrt(ix * ix + iy * iy)
                radius = 0.077
                iris = cover(r - radius, aa)
                if iris > 0.0:
                    spokes = 0.80 + 0.40 * noise(1, math.atan2(iy, ix) * 16.0 + 90.0, r * 160.0)
                    depth = 0.70 + 0.60 * smoothstep(-0.07, 0.07, iy)
                    ring = 1.0 - 0.62 * smoothstep(radius * 0.70, radius, r)
                    tone = spokes * depth * ring
                    ir, ig, ib = p[IRIS, 0] * tone, p[IRIS, 1] * tone, p[IRIS, 2] * tone
                    pupil = cover(r - 0.032, aa)
                    ir, ig, ib = (
                        ir * (1 - pupil) + 0.006 * pupil,
                        ig * (1 - pupil) + 0.006 * pupil,
                        ib * (1 - pupil) + 0.007 * pupil,
                    )
                    er, eg, eb = er + (ir - er) * iris, eg + (ig - eg) * iris, eb + (ib - eb) * iris
                # The lid's shadow, then the light in the eye, then the tear corner.
                shadow = 0.50 + 0.50 * smoothstep(0.0, 0.055, dy - upper)
                er, eg, eb = er * shadow, eg * shadow, eb * shadow
                spark_x = ix * side - 0.030 * (1.0 if p[LIGHT, 0] > 0 else -1.0)
                spark = cover(math.sqrt(spark_x * spark_x + (iy + 0.030) ** 2) - 0.016, aa) * (1.0 - blink)
                er, eg, eb = er + (1.5 - er) * spark, eg + (1.5 - eg) * spark, eb + (1.5 - eb) * spark
                tear = smoothstep(-0.80, -1.0, s) * 0.6
                er, eg, eb = er * (1 - tear) + 0.55 * tear, eg * (1 - tear) + 0.26 * tear, eb * (1 - tear) + 0.24 * tear
                _mix(rgb, er, eg, eb, inside)
                occlusion += (1.0 - occlusion) * inside
                gloss *= 1.0 - inside
                if inside > 0.5:
                    region = _EYE
            # Lashes: a dark line on the upper lid, stronger outside; a faint one below.
            thick = 0.012 + 0.007 * smoothstep(-0.6, 1.0, s)
            lash = cover(max(abs(dy - upper) - thick, ends - 0.012), aa) * (0.90 if s > -0.9 else 0.5)
            _mix(rgb, 0.022, 0.016, 0.014, lash * 0.88)
            under = cover(max(abs(dy - lower - 0.004) - 0.006, ends), aa)
            _mix(rgb, rgb[0] * 0.45, rgb[1] * 0.34, rgb[2] * 0.32, under * 0.55)
    if front and 0.40 < y < 1.15 and ax < 0.45:
        half, centre, opening = mouth_frame(v)
        s = x / half
        if abs(s) < 1.2:
            clipped = max(-1.0, min(1.0, s))
            top, upper, lower, bottom = mouth_lines(clipped, v)
            ends = (abs(s) - 1.0) * half
            lips = cover(max(max(top - y, y - bottom), ends), aa + 0.006)
            if lips > 0.0:
                lines = 0.90 + 0.20 * noise(1, x * 190.0, y * 24.0)
                shade = lines * (0.80 if y < upper else 1.0)
                # A soft light on the middle of the lower lip.
                shade *= 1.0 + 0.22 * bump(x, y, 0.0, 0.6 * bottom + 0.4 * lower, 0.12, 0.035)
                _mix(rgb, p[LIP, 0] * shade, p[LIP, 1] * shade, p[LIP, 2] * shade, lips)
                gloss += (0.30 - gloss) * lips
                occlusion += (1.0 - occlusion) * lips * 0.7
                if lips > 0.5:
                    region = _LIPS
            inner = cover(max(max(upper - y, y - lower), ends), aa)
            if inner > 0.0 and opening > 0.002:
                depth = y - upper
                mr, mg, mb = 0.055, 0.012, 0.012
                tongue = cover(math.hypot(x / 0.17, (y - lower - 0.01) / (0.35 * opening + 0.01)) - 1.0, 0.25)
                mr, mg, mb = mr + (0.34 - mr) * tongue, mg + (0.09 - mg) * tongue, mb + (0.09 - mb) * tongue
                teeth_low = (
                    cover(lower - 0.030 - y, aa) * smoothstep(0.12, 0.20, opening) * smoothstep(0.72, 0.5, abs(s))
                )
                mr, mg, mb = mr + (0.42 - mr) * teeth_low, mg + (0.38 - mg) * teeth_low, mb + (0.33 - mb) * teeth_low
                teeth = cover(depth - 0.080, aa) * smoothstep(0.95, 0.75, abs(s))
                gap_line = abs(math.sin(x * math.pi / 0.083))
                ivory = (0.72 - 0.18 * s * s) * (0.80 + 0.20 * smoothstep(0.0, 0.18, gap_line))
                ivory *= 0.72 + 0.28 * smoothstep(0.0, 0.05, depth)
                mr, mg, mb = (
                    mr + (ivory - mr) * teeth,
                    mg + (ivory * 0.94 - mg) * teeth,
                    mb + (ivory * 0.85 - mb) * teeth,
                )
                _mix(rgb, mr, mg, mb, inner)
                gloss *= 1.0 - inner
                if inner > 0.5:
                    region = _MOUTH
            # The line between closed lips and the corners.
            seam = math.exp(-(((y - upper) / (0.010 + 0.5 * aa)) ** 2)) * smoothstep(1.10, 0.96, abs(s))
            seam *= smoothstep(0.05, 0.0, opening) * 0.75 + 0.12
            _mix(rgb, rgb[0] * 0.22, rgb[1] * 0.12, rgb[2] * 0.12, seam)
    # Hair roots on the scalp: a soft, irregular border, and the shade of the hair on the forehead.
    # (The middle of the face is far from any hairline.)
    edge = -2.0 if rest > 0.0 and abs(theta) < 0.7 else hairline(theta, v)
    if rest < edge + 0.20:
        strands = noise(1, theta * 70.0, rest * 30.0)
        border = edge - rest + 0.05 * (strands - 0.45)
        amount = smoothstep(-0.035, 0.045, border)
        if amount < 1.0:
            occlusion -= 0.28 * smoothstep(-0.16, 0.0, border)
        if amount > 0.0:
            tone = 0.75 + 0.5 * strands
            _mix(rgb, p[HAIR, 0] * tone, p[HAIR, 1] * tone, p[HAIR, 2] * tone, amount)
            gloss *= 1.0 - amount
            if amount > 0.5:
                region = _HAIR
    return region, gloss, max(0.25, occlusion)


@njit(cache=True, fastmath=True, error_model="numpy")
def shade(part, x, y, z, e0, e1, nx, ny, nz, ly, aa, v, p, rgb):
    """Linear colour of a surface point into `rgb` [3]; returns its region.

    (x, y, z) head coordinates, (e0, e1) the part's own coordinates, (nx, ny, nz) camera normal, ly the height of the
    head normal (for the light on hair).
    """
    gloss, occlusion, wrap = 0.10, 1.0, 0.30
    if part == g.HEAD:
        region, gloss, occlusion = paint_face(x, y, z, e0, e1, aa, v, p, rgb)
        if region == _HAIR:
            wrap = 0.1
    elif part == g.HAIR or part == g.CURTAIN:
        region = _HAIR
        freq = 26.0 if part == g.HAIR else 30.0
        sway = v[CURL] * 2.0 * math.sin(y * 9.0 + 3.0 * e1)
        strands = noise(1, e1 * freq * 2.0 + sway, e0 * 9.0 + 7.0)
        locks = noise(0, e1 * freq * 3.0 + 2.0 * sway, e0 * 18.0 + 31.0)
        tone = 0.50 + 0.62 * strands + 0.45 * (locks - 0.4)
        # Thicker hair is darker at the roots and where it hangs behind the face.
        occlusion = (
            0.62 + 0.38 * smoothstep(1.0, 0.75, e0)
            if part == g.HAIR
            else 0.70 - 0.25 * smoothstep(0.15, 0.6, e0) * smoothstep(0.75, 0.35, abs(x))
        )
        rgb[0], rgb[1], rgb[2] = p[HAIR, 0] * tone, p[HAIR, 1] * tone, p[HAIR, 2] * tone
        band = smoothstep(0.16, 0.42, -ly) * smoothstep(0.80, 0.45, -ly)
        gloss = 0.22 * band * strands
        wrap = 0.25
    elif part == g.EAR:
        region = _EAR
        groove = 0.5 + 0.5 * math.cos(e0 * 9.0 - 1.2)
        occlusion = 0.62 + 0.34 * groove * smoothstep(0.1, 0.7, e0)
        rgb[0], rgb[1], rgb[2] = p[SKIN, 0], p[SKIN, 1] * 0.90, p[SKIN, 2] * 0.88
    elif part == g.NECK:
        region = _NECK
        tint = 0.96 + 0.08 * noise(0, x * 60.0, y * 40.0)
        rgb[0], rgb[1], rgb[2] = p[SKIN, 0] * tint, p[SKIN, 1] * tint, p[SKIN, 2] * tint
        # The chin's shadow falls on the neck.
        occlusion = 0.42 + 0.50 * smoothstep(1.0, 1.60, y)
        gloss = 0.03
    elif part == g.TORSO:
        region = _CLOTHES
        weave = 0.92 + 0.16 * noise(1, x * 70.0, y * 70.0)
        folds = 0.88 + 0.24 * noise(0, x * 34.0 + 9.0, y * 20.0)
        rgb[0], rgb[1], rgb[2] = p[CLOTH, 0] * weave * folds, p[CLOTH, 1] * weave * folds, p[CLOTH, 2] * weave * folds
        collar = math.sqrt((x / 0.78) ** 2 + ((y - 1.42) / 0.44) ** 2)
        trim = cover(abs(collar - 1.0) * 0.5 - 0.04, aa)
        _mix(rgb, p[CLOTH_2, 0], p[CLOTH_2, 1], p[CLOTH_2, 2], trim * 0.8)
        skin = cover((collar - 0.92) * 0.5, aa)
        if skin > 0.0:
            _mix(rgb, p[SKIN, 0], p[SKIN, 1], p[SKIN, 2], skin)
            if skin > 0.5:
                region = _NECK
        occlusion = 0.72 + 0.28 * smoothstep(0.3, 0.9, abs(x))
        gloss = 0.0
    else:
        region = _GLASSES
        rgb[0], rgb[1], rgb[2] = 0.020, 0.018, 0.020
        gloss = 0.5
    facing = nx * p[LIGHT, 0] + ny * p[LIGHT, 1] + nz * p[LIGHT, 2]
    diffuse = max(0.0, (facing + wrap) / (1.0 + wrap))
    sky = 0.72 - 0.34 * ny + 0.10 * nz
    # Halfway vector to a viewer straight ahead.
    hx, hy, hz = p[LIGHT, 0], p[LIGHT, 1], p[LIGHT, 2] + 1.0
    norm = math.sqrt(hx * hx + hy * hy + hz * hz)
    spec = max(0.0, (nx * hx + ny * hy + nz * hz) / norm)
    spec = spec * spec
    spec = spec * spec
    spec = spec * spec
    spec = gloss * spec * spec * (0.5 + 0.5 * spec)
    rim = (1.0 - abs(nz)) ** 3 * 0.10 * (1.0 - ny)
    for k in range(3):
        light = p[KEY, k] * diffuse * (0.45 + 0.55 * occlusion) + p[AMBIENT, k] * (sky + rim) * occlusion
        # Light that goes through skin comes out red.
        if k == 0 and wrap == 0.30:
            light += 0.06 * diffuse * (1.0 - diffuse)
        rgb[k] = rgb[k] * light + spec * p[KEY, k] * 0.6
    return region


@njit(cache=True, fastmath=True, error_model="numpy")
def backdrop_shapes(size, v):
    """Three blurred shapes behind the head, each the product of a curve across and a curve down: [6, size]."""
    pattern = v[PATTERN]
    shapes = np.empty((6, size), np.float32)
    for i in range(size):
        t = (i + 0.5) / size
        shapes[0, i] = math.exp(-(((t - 0.12 - 0.25 * pattern) / 0.17) ** 2))
        shapes[1, i] = math.exp(-(((t - 0.30) / 0.22) ** 2))
        shapes[2, i] = math.exp(-(((t - 0.95 + 0.20 * pattern) / 0.14) ** 2))
        shapes[3, i] = math.exp(-(((t - 0.42 - 0.2 * pattern) / 0.30) ** 2))
        shapes[4, i] = math.exp(-(((t - 0.5) / 0.45) ** 2))
        shapes[5, i] = math.exp(-((t / 0.25) ** 2))
    return shapes


@njit(cache=True, fastmath=True, error_model="numpy")
def backdrop(column, row, shapes, v, p, rgb):
    """Linear colour of the background at a pixel: a soft gradient with the shapes of `backdrop_shapes`."""
    pattern = v[PATTERN]
    size = shapes.shape[1]
    u, w = (column + 0.5) / size, (row + 0.5) / size
    t = smoothstep(-0.1, 1.15, 0.65 * w + 0.35 * (u if pattern < 0.5 else 1.0 - u))
    light = 1.0 + 0.75 * (pattern - 0.35) * shapes[0, column] * shapes[1, row]
    light += 0.35 * shapes[4, column] * shapes[5, row] - 0.45 * pattern * shapes[2, column] * shapes[3, row]
    for k in range(3):
        rgb[k] = (p[BACK_1, k] * (1.0 - t) + p[BACK_2, k] * t) * light
