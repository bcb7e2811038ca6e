"""Who is in front in a portrait of the built-in family, with soft edges, so that something else can be put behind.

The face net's region map (64 px) says where the background is; a guided filter carries it to the edges of the image
itself (He, Sun, Tang 2013, "Guided Image Filtering", equations 14 to 20, in colour), and the colours of edge pixels,
which are mixed with the old background, are unmixed by blurred fusion (Forte 2021, "Approximate Fast Foreground Colour
Estimation", equations 4 to 6).
"""

from __future__ import annotations

from functools import cache
from typing import NamedTuple

import numpy as np
import torch
from scipy.ndimage import gaussian_filter, uniform_filter
from torch.nn import functional as F

from stylereel.core.builtin import builtin
from stylereel.family.nets import PARSED, FaceNet, load_face

REACH = 1 / 32  # of the image's side: radius of the guided filter, two pixels of the region map
SMOOTH = 1e-4  # its epsilon, for colours 0 to 1
UNMIX = 1 / 12  # of the side: width of the box in which colours of person and background are averaged
# What the filter leaves below and above counts as background and as person: a little inside the generator's soft edge,
# whose outer half would be a rim of the old colour.
FIRM = (0.5, 0.95)
PAIRS = ((0, 0), (0, 1), (0, 2), (1, 1), (1, 2), (2, 2))  # of colour channels
BLUR = 1 / 20  # of the side: standard deviation of a blurred background


class Matte(NamedTuple):
    """person: the person's own colours uint8 [H, W, 3], defined where they show; alpha: how much of each pixel is the
    person's, float32 [H, W], 0 to 1; behind: the old background's colours, uint8 [H, W, 3]."""

    person: np.ndarray
    alpha: np.ndarray
    behind: np.ndarray


@cache
def _net() -> FaceNet:
    return load_face(builtin("face")).eval()


def parsed(image: np.ndarray) -> np.ndarray:
    """How likely each pixel of a portrait uint8 [H, W, 3] is of each of `PARSED`: float32 [R, 64, 64]."""
    with torch.inference_mode():
        batch = torch.tensor(image).permute(2, 0, 1)[None] / 127.5 - 1
        regions = _net()(batch, parse=True, close=False).regions
        assert regions is not None
        return regions.softmax(1)[0].numpy()


def in_front(image: np.ndarray) -> np.ndarray:
    """How likely each pixel of a portrait uint8 [H, W, 3] is the person's, by the region map: float32 [64, 64]."""
    return 1 - parsed(image)[PARSED.index("background")]


def matte(image: np.ndarray) -> Matte:
    """The matte of a portrait uint8 [H, W, 3] in the built-in family's framing."""
    return matte_of(image, in_front(image))


def matte_of(image: np.ndarray, share: np.ndarray) -> Matte:
    """The matte of what a map of shares [h, w], 0 to 1, says is in front in an image uint8 [H, W, 3]."""
    colours = image.astype(np.float32) / 255
    whole = torch.from_numpy(np.asarray(share, np.float32))[None, None]
    front = F.interpolate(whole, image.shape[:2], mode="bilinear", align_corners=False)[0, 0].numpy()
    low, high = FIRM
    alpha = ((guided(colours, front, len(image) * REACH) - low) / (high - low)).clip(0, 1)
    person, behind = _unmixed(colours, alpha, round(len(image) * UNMIX))
    return Matte(_bytes(person), alpha, _bytes(behind))


def guided(colours: np.ndarray, values: np.ndarray, radius: float) -> np.ndarray:
    """Values [H, W] as that locally linear function of the colours [H, W, 3] which is nearest to them.

    The coefficients are found at half the size (He, Sun 2015, "Fast Guided Filter"), which is enough: they are smooth.
    """
    few, level = colours[::2, ::2], values[::2, ::2]
    size = 2 * max(1, round(radius / 2)) + 1

    def mean(field: np.ndarray) -> np.ndarray:
        return uniform_filter(field, size, mode="nearest", axes=(0, 1))

    pairs = np.stack([few[..., a] * few[..., b] for a, b in PAIRS], -1)
    means = mean(np.dstack([few, level, pairs, few * level[..., None]]))
    middle, level, pairs, along = np.split(means, (3, 4, 10), axis=-1)
    spread = np.empty((*values[::2, ::2].shape, 3, 3), np.float32)
    for at, (a, b) in enumerate(PAIRS):
        spread[..., a, b] = spread[..., b, a] = pairs[..., at] - middle[..., a] * middle[..., b] + SMOOTH * (a == b)
    slope = np.linalg.solve(spread, (along - middle * level)[..., None])[..., 0]
    lines = mean(np.dstack([slope, level - (slope * middle).sum(-1, keepdims=True)]))
    lines = torch.from_numpy(lines).permute(2, 0, 1)[None]
    lines = F.interpolate(lines, values.shape, mode="bilinear", align_corners=False)[0].numpy()
    return np.einsum("chw,hwc->hw", lines[:3], colours) + lines[3]


def _unmixed(colours: np.ndarray, alpha: np.ndarray, size: int) -> tuple[np.ndarray, np.ndarray]:
    """The colours of what is in front and of what is behind, [H, W, 3] each."""
    share = alpha[..., None]
    front, back = (_average(colours, weight, size) for weight in (share, 1 - share))
    rest = colours - share * front - (1 - share) * back
    return front + share * rest, back + (1 - share) * rest


def _average(colours: np.ndarray, weight: np.ndarray, size: int) -> np.ndarray:
    counted = uniform_filter(np.dstack([colours * weight, weight]), size, mode="nearest", axes=(0, 1))
    return counted[..., :3] / (counted[..., 3:] + 1e-5)


def blurred(shown: Matte) -> np.ndarray:
    """The old background out of focus, uint8 [H, W, 3]; the person does not bleed into it."""
    weight, width = 1 - shown.alpha[..., None], len(shown.alpha) * BLUR
    counted = gaussian_filter(np.dstack([shown.behind * weight, weight]), width, mode="nearest", axes=(0, 1))
    return _bytes(counted[..., :3] / (255 * counted[..., 3:] + 1e-5))


def _bytes(colours: np.ndarray) -> np.ndarray:
    return np.rint(255 * colours.clip(0, 1)).astype(np.uint8)
