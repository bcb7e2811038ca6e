"""Colours of the parts of a portrait: skin, lips, irises by its landmarks; hair, clothes, backdrop by a region map."""

from __future__ import annotations

import numpy as np
from PIL import Image, ImageDraw

from stylereel.family.nets import PARSED
from stylereel.media.colour import is_gray, lab, linear, srgb

PARTS = ("skin", "hair", "lips", "iris", "clothes", "background")
_SURE = 0.6  # probability from which a pixel counts as part of its region
# How the logarithms of red and blue over green are spread: of lamps; of skin in daylight; and how far whites of eyes
# and the whole picture tell.
_LAMPS, _SKIN, _EYES, _WHOLE = (0.0, 0.10), (np.array([0.52, -0.42]), np.array([0.13, 0.22])), 0.12, 0.30
# The strength of light: how it is spread, and what skin and the brightest things in a picture usually have (linear),
# and how that is spread, in logarithms.
_STRENGTH, _FLESH, _BRIGHT = 0.45, (0.60, 0.45), (0.80, 0.5)
_LUMA = np.array([0.2126, 0.7152, 0.0722])
_FEWEST = 12  # pixels


def _polygon(points: np.ndarray, shape: tuple[int, int]) -> np.ndarray:
    mask = Image.new("1", (shape[1], shape[0]))
    ImageDraw.Draw(mask).polygon([(float(x), float(y)) for x, y in points], fill=1)
    return np.asarray(mask)


def _discs(centres: np.ndarray, radius: float, shape: tuple[int, int]) -> np.ndarray:
    y, x = np.indices(shape) + 0.5
    return np.any([(x - cx) ** 2 + (y - cy) ** 2 < radius**2 for cx, cy in centres], axis=0)


def skin_mask(marks: np.ndarray, shape: tuple[int, int]) -> np.ndarray:
    """Cheeks, the bridge of the nose and the middle of the forehead [H, W], by landmarks [68, 2] in pixels."""
    unit = float(np.linalg.norm(marks[45] - marks[36]))
    up = (marks[27] - marks[33]) / np.linalg.norm(marks[27] - marks[33])
    cheeks = [0.45 * marks[[40, 41]].mean(0) + 0.40 * marks[48] + 0.15 * marks[2],
              0.45 * marks[[46, 47]].mean(0) + 0.40 * marks[54] + 0.15 * marks[14]]  # fmt: skip
    return _discs(np.stack([*cheeks, marks[28], marks[[21, 22]].mean(0) + 0.22 * unit * up]), 0.13 * unit, shape)


def lip_mask(marks: np.ndarray, shape: tuple[int, int]) -> np.ndarray:
    """Both lips [H, W]."""
    return _polygon(marks[48:60], shape) & ~_polygon(marks[60:68], shape)


def _iris(image: np.ndarray, marks: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Pixels [N, 3] of both irises, and of the whites of the eyes."""
    irises, whites = [np.zeros((0, 3))], [np.zeros((0, 3))]
    light = image.mean(-1)
    for first in (36, 42):
        eye = marks[first : first + 6]
        inside = _polygon(eye, light.shape)
        y, x = np.nonzero(inside)
        if len(x) < _FEWEST:
            continue
        dark = np.clip(np.percentile(light[y, x], 50) - light[y, x], 0, None) ** 2 + 1e-6
        cx, cy = (x + 0.5) @ dark / dark.sum(), (y + 0.5) @ dark / dark.sum()
        width = float(np.linalg.norm(eye[3] - eye[0]))
        away = np.hypot(x + 0.5 - cx, y + 0.5 - cy) / (0.21 * width)
        ring = image[y, x][(away > 0.45) & (away < 0.9)]
        if len(ring):
            level = ring.mean(-1)
            irises.append(ring[(level >= np.percentile(level, 25)) & (level <= np.percentile(level, 85))])
        rest = image[y, x][away > 1.3]
        if len(rest):
            whites.append(rest[rest.mean(-1) >= np.percentile(rest.mean(-1), 60)])
    return np.concatenate(irises), np.concatenate(whites)


def _core(mask: np.ndarray) -> np.ndarray:
    """A mask [H, W] without its rim, unless little would be left."""
    inner = mask.copy()
    inner[1:-1, 1:-1] &= mask[:-2, 1:-1] & mask[2:, 1:-1] & mask[1:-1, :-2] & mask[1:-1, 2:]
    return inner if inner.sum() >= _FEWEST else mask


def measure(image: np.ndarray, marks: np.ndarray, regions: np.ndarray) -> dict[str, np.ndarray]:
    """Median colours (sRGB 0..255) of the `PARTS` that a portrait uint8 [H, W, 3] shows; of hair, of its lit half.

    marks: landmarks [68, 2] in 0..1. regions: probabilities [R, h, w] of `PARSED`, or the map [h, w] of its numbers.
    """
    height, width = image.shape[:2]
    pixels = marks * (width, height)
    if regions.ndim == 2:
        regions = (np.arange(len(PARSED))[:, None, None] == regions).astype(np.float32)
    small = np.asarray(Image.fromarray(image).resize(regions.shape[:0:-1], Image.Resampling.BOX)).astype(float)
    irises, _ = _iris(image.astype(float), pixels)
    found = {
        "skin": image[skin_mask(pixels, (height, width))],
        "hair": small[_core(regions[PARSED.index("hair")] > _SURE)],
        "lips": image[lip_mask(pixels, (height, width))],
        "iris": irises,
        "clothes": small[_core(regions[PARSED.index("clothes")] > _SURE)],
        "background": small[_core(regions[PARSED.index("background")] > _SURE)],
    }
    if len(hair := found["hair"]):
        level = hair.mean(-1)  # between the locks it is dark
        found["hair"] = hair[(level >= np.percentile(level, 45)) & (level <= np.percentile(level, 95))]
    return {name: np.median(part, axis=0) for name, part in found.items() if len(part) >= _FEWEST}


def bridge(image: np.ndarray, marks: np.ndarray) -> float:
    """The sharpest line across the bridge of the nose of a portrait uint8 [H, W, 3], in units of CIELAB's lightness.

    Skin is smooth there, glasses have their bridge: in a picture of 256 px they have about 5 and more, skin up to 2.
    marks: landmarks [68, 2] in 0..1.
    """
    pixels = marks * image.shape[1::-1]
    unit = float(np.linalg.norm(pixels[45] - pixels[36]))
    left, right = np.sort(pixels[[39, 42], 0])
    left, right = left + 0.12 * unit, right - 0.12 * unit
    top, bottom = pixels[27, 1] - 0.12 * unit, pixels[27, 1] + 0.22 * unit
    part = image[max(0, int(top)) : int(bottom), max(0, int(left)) : int(right) + 1]
    if part.shape[0] < 5 or part.shape[1] < 2:
        return 0.0
    rows = lab(part)[..., 0].mean(1)
    return float(np.abs(rows[2:] - 2 * rows[1:-1] + rows[:-2]).max())


def lamp(image: np.ndarray, marks: np.ndarray) -> np.ndarray:
    """The light of a photograph [3], linear, (1, 1, 1) for white light of the usual strength.

    Its colour is the most probable one by four things, each with its spread: that lamps are nearly white, that skin
    has one hue, the whites of the eyes, and the mean of the whole picture; its strength by three: that it is the usual
    one, the skin, and the brightest things in the picture. image: uint8 [H, W, 3]; marks: [68, 2] in 0..1.
    """
    pixels = marks * image.shape[1::-1]
    strength = np.exp(_strength(image, pixels))
    if is_gray(image):
        return np.full(3, strength)

    def ratios(part: np.ndarray) -> np.ndarray:
        light = linear(np.median(part, axis=0)) + 1e-4
        return np.log(light[[0, 2]] / light[1])

    total, weight = np.full(2, _LAMPS[0] / _LAMPS[1] ** 2), np.full(2, 1 / _LAMPS[1] ** 2)

    def add(seen: np.ndarray, spread: np.ndarray | float) -> None:
        nonlocal total, weight
        total, weight = total + seen / np.square(spread), weight + 1 / np.square(spread)

    skin = image[skin_mask(pixels, image.shape[:2])]
    if len(skin) >= _FEWEST:
        add(ratios(skin) - _SKIN[0], _SKIN[1])
    _, whites = _iris(image.astype(float), pixels)
    if len(whites) >= _FEWEST:
        add(ratios(whites) - (0.06, -0.04), _EYES)
    add(ratios(image.reshape(-1, 3)), _WHOLE)
    red, blue = total / weight
    gain = np.array([red, 0.0, blue])
    return strength * np.exp(gain - gain.mean())


def _strength(image: np.ndarray, pixels: np.ndarray) -> float:
    """The logarithm of the light's strength: most probable by the skin and by the brightest things; 0 is usual."""
    total, weight = 0.0, 1 / _STRENGTH**2
    skin = image[skin_mask(pixels, image.shape[:2])]
    seen = [(np.percentile(image.reshape(-1, 3), 98, axis=0), _BRIGHT)]
    if len(skin) >= _FEWEST:
        seen.append((np.median(skin, axis=0), _FLESH))
    for colour, (usual, spread) in seen:
        total += float(np.log((linear(colour) @ _LUMA + 1e-3) / usual)) / spread**2
        weight += 1 / spread**2
    return float(np.clip(total / weight, -1.2, 0.3))


def balanced(image: np.ndarray, light: np.ndarray) -> np.ndarray:
    """An image, or colours, uint8 or float [..., 3] as it would be in white light."""
    white = srgb(linear(image) / light)
    return np.rint(white).astype(np.uint8) if image.dtype == np.uint8 else white


def describe(colour: np.ndarray) -> str:
    """A colour in sRGB 0..255 as #rrggbb."""
    return "#" + "".join(f"{round(float(part)):02x}" for part in np.clip(colour, 0, 255))


def apart(first: np.ndarray, second: np.ndarray) -> float:
    """The squared distance of two sRGB colours in CIELAB, for fitting."""
    return float(np.square(lab(first) - lab(second)).sum())
