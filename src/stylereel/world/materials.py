"""Colours and lights of a portrait, the noise that sticks to its surfaces, and small helpers to paint with.

A painted point, `out` of a `SCENE`, is a float32 [8]: linear red, green, blue; bend of the normal across and down (head
coordinates); gloss; how sharp its highlight is; occlusion (1: open). The painters of `face` and `shading` fill it.
"""

from __future__ import annotations

import math

import numpy as np
from numba import njit

from stylereel.world.factors import INDEX, NAMES
from stylereel.world.geometry import smoothstep

REGIONS = (
    *("background", "skin", "hair", "brow", "eye", "lips", "mouth", "neck", "clothes", "ear", "glasses", "beard"),
    *("hat", "earring"),
)
_BACKGROUND, SKIN_REGION, HAIR_REGION, BROW_REGION, EYE_REGION, LIPS_REGION, MOUTH_REGION, NECK_REGION = range(8)
CLOTHES_REGION, EAR_REGION, GLASSES_REGION, BEARD_REGION, HAT_REGION, EARRING_REGION = range(8, 14)

(SKIN_TONE, SKIN_WARMTH, HAIR_LIGHT, HAIR_RED, HAIR_GRAY, EYE_LIGHT, EYE_HUE, LIP_COLOUR, MAKEUP) = (
    INDEX[n]
    for n in (
        *("skin_tone", "skin_warmth", "hair_light", "hair_red", "hair_gray"),
        *("eye_light", "eye_hue", "lip_colour", "makeup"),
    )
)
(CLOTHES_HUE, CLOTHES_LIGHT, BACKDROP_HUE, BACKDROP_LIGHT, LIGHT_WARMTH, LIGHT_SIDE, LIGHT_HEIGHT) = (
    INDEX[n]
    for n in (
        *("clothes_hue", "clothes_light", "backdrop_hue", "backdrop_light"),
        *("light_warmth", "light_side", "light_height"),
    )
)
LIGHT_CONTRAST, ACCENT_HUE = INDEX["light_contrast"], INDEX["accent_hue"]

# Rows of the palette made by `palette`; the head's rotation (3 rows) and the direction of the hair are filled later.
SKIN, HAIR, IRIS, LIP, CLOTH, CLOTH_2, BACK_1, BACK_2, ACCENT, KEY, AMBIENT, LIGHT, RIM, HALF, TURN = range(15)
FLOW, ROWS = 17, 18

# The inputs of every point of an image: factor values, palette, hair parameters, the camera in head coordinates, the
# light's axes and its shadow map; and the point itself: its twelve attributes and its paint. One record travels as one
# pointer; as many arrays, they would be counted and copied at every call.
SHADOW = 96  # size of the shadow map
SCENE = np.dtype(
    [
        ("v", np.float32, len(NAMES)),
        ("p", np.float32, (ROWS, 3)),
        ("cut", np.float32, 16),
        ("eye", np.float32, 3),
        ("frame", np.float32, (3, 3)),
        ("nearest", np.float32, (SHADOW, SHADOW)),
        ("point", np.float32, 12),
        ("out", np.float32, 8),
    ],
    align=True,
)


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


@njit(cache=True, fastmath=True, error_model="numpy")
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
def _colourful(hue, light):
    """Share 0..1 of a colour's saturation: gray at both ends of the hue's factor, white and black at those of light."""
    return smoothstep(0.92, 0.78, abs(hue)) * smoothstep(0.97, 0.80, light) * smoothstep(0.02, 0.16, light)


@njit(cache=True, fastmath=True, error_model="numpy")
def palette(v):
    """Colours (linear RGB) and lights [18, 3] of a value vector."""
    p = np.zeros((ROWS, 3), np.float32)
    position = v[SKIN_TONE] * (_TONES.shape[0] - 1)
    low = min(int(position), _TONES.shape[0] - 2)
    light, gray, eye = v[HAIR_LIGHT], 0.85 * v[HAIR_GRAY], v[EYE_LIGHT]
    brown = 0.45 * 4.0 * light * (1.0 - light)
    pale = _hsv(0.53 + 0.13 * v[EYE_HUE], 0.30, 0.66)
    hue, cloth = (v[CLOTHES_HUE] + 1.0) / 2.0, v[CLOTHES_LIGHT]
    vivid = _colourful(v[CLOTHES_HUE], cloth)
    cloth_1 = _hsv(hue, vivid * (0.55 - 0.32 * cloth), 0.14 + 0.78 * cloth)
    cloth_2 = _hsv((hue + 0.08) % 1.0, 0.35 * vivid, 0.30 + 0.6 * (1.0 - cloth))
    hue, back = (v[BACKDROP_HUE] + 1.0) / 2.0, v[BACKDROP_LIGHT]
    vivid = 0.26 * _colourful(v[BACKDROP_HUE], back)
    white, black = smoothstep(0.78, 1.0, back), smoothstep(0.22, 0.0, back)
    back_1 = _hsv(hue, vivid, 0.26 + 0.6 * back + 0.12 * white - 0.12 * black)
    back_2 = _hsv((hue + 0.13) % 1.0, vivid, 0.14 + 0.55 * back + 0.20 * white - 0.06 * black)
    accent = _hsv((v[ACCENT_HUE] + 1.0) / 2.0, 0.45, 0.52 + 0.25 * math.sin(5.0 * v[ACCENT_HUE]))
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
        p[LIP, k] += v[MAKEUP] * 0.12 * _LIP_SHIFT[k]
        p[CLOTH, k], p[CLOTH_2, k], p[BACK_1, k], p[BACK_2, k] = cloth_1[k], cloth_2[k], back_1[k], back_2[k]
        p[ACCENT, k] = accent[k]
        for row in range(KEY):
            p[row, k] = max(0.01, min(1.0, p[row, k])) ** 2
    # Contrast takes from the sky and gives to the key.
    warm, contrast = v[LIGHT_WARMTH], v[LIGHT_CONTRAST]
    key, sky = 1.02 + 0.16 * contrast, 0.36 - 0.11 * contrast
    p[KEY, 0], p[KEY, 1], p[KEY, 2] = key * (1.0 + 0.12 * warm), key, key * (1.0 - 0.15 * warm)
    p[AMBIENT, 0], p[AMBIENT, 1], p[AMBIENT, 2] = sky * (1.0 - 0.08 * warm), sky, sky * (1.0 + 0.10 * warm)
    side, height = math.radians(42.0 * v[LIGHT_SIDE]), math.radians(28.0 + 22.0 * v[LIGHT_HEIGHT])
    p[LIGHT, 0] = math.sin(side) * math.cos(height)
    p[LIGHT, 1] = -math.sin(height)
    p[LIGHT, 2] = math.cos(side) * math.cos(height)
    # Halfway to a viewer straight ahead.
    norm = math.sqrt(p[LIGHT, 0] ** 2 + p[LIGHT, 1] ** 2 + (p[LIGHT, 2] + 1.0) ** 2)
    p[HALF, 0], p[HALF, 1], p[HALF, 2] = p[LIGHT, 0] / norm, p[LIGHT, 1] / norm, (p[LIGHT, 2] + 1.0) / norm
    for k in range(3):
        p[AMBIENT, k] *= 0.80 + 0.35 * p[BACK_1, k]
        p[RIM, k] = 0.30 + 0.9 * p[BACK_1, k]
    return p


@njit(cache=True, fastmath=True, error_model="numpy")
def cover(distance, aa):
    """Coverage 0..1 of a pixel of half size `aa` by a shape with signed distance (negative inside)."""
    t = 0.5 - distance / (2.0 * aa)
    if t < 0.0:
        t = 0.0
    elif t > 1.0:
        t = 1.0
    return t


@njit(cache=True, fastmath=True, error_model="numpy")
def mix(rgb, r, gg, b, t):
    rgb[0] += (r - rgb[0]) * t
    rgb[1] += (gg - rgb[1]) * t
    rgb[2] += (b - rgb[2]) * t
