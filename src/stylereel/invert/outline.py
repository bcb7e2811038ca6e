"""The drawn person in the outline of the photographed one, who lends the geometry to views of a photograph."""

from __future__ import annotations

import numpy as np
from scipy import ndimage
from scipy.interpolate import RBFInterpolator
from scipy.spatial import KDTree

from stylereel import world
from stylereel.world import hair
from stylereel.world.factors import INDEX
from stylereel.world.shading import REGIONS
from stylereel.world.truth import shape_of, surface_of

_GUESSED, _SHORT = 0.008, 0.2  # share of the image by which knot or tail must fit better; length of hair without
# Points of two outlines belong together if they are next to each other, and look the same way out: pixels for a unit of
# difference of these ways; most pixels and least cosine between two; rounds; smoothing.
_WAY, _FAR, _ALIKE, _ROUNDS, _STIFF = 20.0, 30.0, 0.7, 5, 20.0


def outlined(values: np.ndarray, alpha: np.ndarray, seen: np.ndarray) -> np.ndarray:
    """The factors with the hair that is most like the person's outline, alpha [N, N], and like where hair is `seen`,
    shares [64, 64]: a knot or tail behind a head with short hair was only guessed, see `invert.person`."""
    if hair.STYLES[int(np.searchsorted(hair.STYLE_EDGES[1:-1], values[INDEX["hair_style"]]))] != "knot":
        return values
    tried, size = [values], len(alpha)
    for style in ("knot", "swept back", "side part", "buzz"):
        tried.append(values.copy())
        tried[-1][[INDEX["hair_style"], INDEX["hair_length"]]] = hair.style_value(hair.STYLES.index(style)), _SHORT
    covers = np.kron(seen, np.ones((size // len(seen), size // len(seen)))) > 0.5
    drawn = [world.draw(world.align(each), size).regions for each in tried]
    off = [np.mean((alpha > 0.5) != (each > 0)) + np.mean(covers != (each == REGIONS.index("hair"))) for each in drawn]
    off[0], off[1] = off[0] + _GUESSED, off[1] + _GUESSED
    return tried[int(np.argmin(off))]


def fitted(values: np.ndarray, drawn: np.ndarray, marks: np.ndarray, body: np.ndarray) -> np.ndarray:
    """The shape (see `world.truth.shape_of`) with which a drawn person has the landmarks, and the outline of head and
    neck, of a photographed one; what they wear stays.

    Args:
        values: factors [K] of the drawn person.
        drawn: its landmarks [68, 2], in pixels.
        marks: those of the photographed person [68, 2].
        body: bool [N, N], where the photographed person is.
    """
    size = len(body)
    plain = surface_of(values, size)
    regions = plain.portrait.regions
    outline, way = _outline(regions > 0)
    worn = regions[tuple(outline.T[::-1].astype(int))] == REGIONS.index("clothes")
    below = np.stack([np.arange(0.0, size + 1, 16), np.full(size // 16 + 1, size)], 1)
    still, outline, way = np.concatenate([outline[worn], below]), outline[~worn], way[~worn]
    there, there_way = _outline(body)
    nearby = KDTree(np.concatenate([there, _WAY * there_way], 1))
    start, goal = np.concatenate([drawn, still]), np.concatenate([marks, still])
    shift = RBFInterpolator(start, goal - start, kernel="linear", smoothing=_STIFF)
    for _ in range(_ROUNDS if len(there) else 0):  # each pulls the outline to the points next to it
        placed = outline + shift(outline)
        _, nearest = nearby.query(np.concatenate([placed, _WAY * way], 1))
        found, alike = there[nearest], (there_way[nearest] * way).sum(1)
        near = (np.hypot(*(found - placed).T) < _FAR) & (alike > _ALIKE)
        points = np.concatenate([start, outline[near]])
        by = np.concatenate([goal, found[near]]) - points
        shift = RBFInterpolator(points, by, kernel="linear", smoothing=_STIFF)
    return shape_of(values, size, shift(plain.screen[:, :2].astype(float)))


def _outline(body: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Points [P, 2] on the outline of a body, bool [N, N], in pixels, and which way [P, 2] is out; not where the
    image's border cuts it."""
    smooth = np.asarray(ndimage.gaussian_filter(np.pad(body, 8, mode="edge").astype(np.float32), 2.0))[8:-8, 8:-8]
    inner = smooth > 0.5
    edge = inner & ~np.asarray(ndimage.binary_erosion(inner), bool)
    edge[:3] = edge[-3:] = edge[:, :3] = edge[:, -3:] = False
    rows, columns = np.nonzero(edge)
    smooth = np.asarray(ndimage.gaussian_filter(smooth, 2.0))
    way = -np.stack([np.gradient(smooth, axis=axis)[edge] for axis in (1, 0)], 1)
    way /= np.linalg.norm(way, axis=1, keepdims=True) + 1e-6
    return np.stack([columns, rows], 1)[::3] + 0.5, way[::3]
