"""Colours as people see them: CIELAB, the difference CIEDE2000, and the light of a photograph taken out.

Images are sRGB, uint8 or float 0..255, [..., 3]; CIELAB is that of the white point D65.
"""

from __future__ import annotations

import numpy as np

_TO_XYZ = np.array(
    [(0.4124564, 0.3575761, 0.1804375), (0.2126729, 0.7151522, 0.0721750), (0.0193339, 0.1191920, 0.9503041)]
)
_WHITE = _TO_XYZ.sum(1)


def linear(srgb: np.ndarray) -> np.ndarray:
    """Linear light 0..1 of sRGB 0..255."""
    if np.asarray(srgb).dtype == np.uint8:
        return _LINEAR[srgb]
    part = np.asarray(srgb, np.float64) / 255
    return np.where(part <= 0.04045, part / 12.92, ((np.maximum(part, 0) + 0.055) / 1.055) ** 2.4)


_LINEAR = linear(np.arange(256.0))  # of bytes


def srgb(light: np.ndarray) -> np.ndarray:
    """sRGB 0..255 of linear light, limited to 0..1."""
    light = np.clip(light, 0, 1)
    return 255 * np.where(light <= 0.0031308, 12.92 * light, 1.055 * light ** (1 / 2.4) - 0.055)


def lab(colour: np.ndarray) -> np.ndarray:
    """CIELAB [..., 3] of sRGB colours [..., 3]."""
    part = linear(colour) @ _TO_XYZ.T / _WHITE
    root = np.where(part > 0.008856, np.cbrt(part), 7.787 * part + 16 / 116)
    x, y, z = np.moveaxis(root, -1, 0)
    return np.stack([116 * y - 16, 500 * (x - y), 200 * (y - z)], -1)


def delta_e(first: np.ndarray, second: np.ndarray) -> np.ndarray:
    """CIEDE2000 [...] of two colours in CIELAB [..., 3] (Sharma, Wu and Dalal 2005)."""
    (l1, a1, b1), (l2, a2, b2) = (
        np.moveaxis(np.asarray(first, float), -1, 0),
        np.moveaxis(np.asarray(second, float), -1, 0),
    )
    mean = (np.hypot(a1, b1) + np.hypot(a2, b2)) / 2
    more = 0.5 * (1 - np.sqrt(mean**7 / (mean**7 + 25.0**7)))
    a1, a2 = a1 * (1 + more), a2 * (1 + more)
    c1, c2 = np.hypot(a1, b1), np.hypot(a2, b2)
    h1, h2 = np.arctan2(b1, a1) % (2 * np.pi), np.arctan2(b2, a2) % (2 * np.pi)
    apart = (h2 - h1 + np.pi) % (2 * np.pi) - np.pi
    apart = np.where(c1 * c2 == 0, 0.0, apart)
    lightness, chroma = l2 - l1, c2 - c1
    hue = 2 * np.sqrt(c1 * c2) * np.sin(apart / 2)
    l_mean, c_mean = (l1 + l2) / 2, (c1 + c2) / 2
    h_mean = np.where(c1 * c2 == 0, h1 + h2, (h1 + apart / 2) % (2 * np.pi))
    t = (
        1
        - 0.17 * np.cos(h_mean - np.deg2rad(30))
        + 0.24 * np.cos(2 * h_mean)
        + 0.32 * np.cos(3 * h_mean + np.deg2rad(6))
        - 0.20 * np.cos(4 * h_mean - np.deg2rad(63))
    )
    sl = 1 + 0.015 * (l_mean - 50) ** 2 / np.sqrt(20 + (l_mean - 50) ** 2)
    sc, sh = 1 + 0.045 * c_mean, 1 + 0.015 * c_mean * t
    turn = np.deg2rad(60) * np.exp(-(((np.rad2deg(h_mean) - 275) / 25) ** 2))
    rt = -2 * np.sqrt(c_mean**7 / (c_mean**7 + 25.0**7)) * np.sin(turn)
    first, second, third = lightness / sl, chroma / sc, hue / sh
    return np.sqrt(np.maximum(first**2 + second**2 + third**2 + rt * second * third, 0))


def is_gray(image: np.ndarray) -> bool:
    """Whether a photograph has no colours: nearly all of it has next to no chroma, or all of it one hue."""
    chroma = lab(np.asarray(image).reshape(-1, 3)[:: max(1, image.shape[0] * image.shape[1] // 20000)])[:, 1:]
    return bool(np.percentile(np.linalg.norm(chroma - np.median(chroma, 0), axis=1), 90) < 3.0)
