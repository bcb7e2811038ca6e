"""One photograph seen from other sides and with other expressions: what a generator is tuned to (`invert.resemble`).

The drawn person, who was read from the photograph (`invert.person`), lends the geometry, in the outline and with the
landmarks of the photographed one: `world.truth` says where each point of the surface goes when the head turns, and the
photograph's pixels go with it. What moves on the surface itself (lips, lids, brows) goes where the drawn landmarks go,
the rest of the face between them by radial basis functions; whole irises go before the white of the eye. Between lips
that open further than in the photograph is the drawn inside, in its light, below the teeth that it shows; lips that
shut cover what was between them; lids that close are as light as the skin under the eye, above a line of lashes that
shades what is left open; brows that frown come nearer to each other, beside two creases. The person is cut out by the
matte and laid over a filled background, which stays. Such warps hold near the photograph only: what a turn uncovers is
taken from the other side of the head where that is seen, else hair goes on as it is seen and the rest is drawn in the
photograph's colours, and counts less.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from functools import cache
from typing import NamedTuple

import numpy as np
from PIL import Image, ImageDraw
from scipy import ndimage
from scipy.interpolate import CubicSpline, RBFInterpolator
from scipy.spatial import KDTree

from stylereel import world
from stylereel.faces.expression import JAW
from stylereel.faces.paste import fill
from stylereel.faces.placement import cut, to_picture
from stylereel.family.matte import matte_of, parsed
from stylereel.family.nets import PARSED
from stylereel.invert.motions import motions, moved
from stylereel.invert.outline import fitted, outlined
from stylereel.media.colour import is_gray, linear, srgb
from stylereel.world.draw import ZOOM
from stylereel.world.factors import HIGH, INDEX, LOW
from stylereel.world.geometry import EAR, HAIR, HAT, HEAD, NECK, TORSO, TRIANGLE_PART, TRIANGLES
from stylereel.world.shading import REGIONS
from stylereel.world.truth import Surface, flow_between, surface_of

SIZE = 256
# Weights of what the photograph does not show, of brows and lips, and of eyes, whose irises pale with less.
HIDDEN, FEATURED, LOOKING = 0.4, 8.0, 24.0
VIEWS = 72
_ARCS = (  # of landmarks, along which a contour is smooth
    *([17, 18, 19, 20, 21], [22, 23, 24, 25, 26]),
    *([36, 37, 38, 39], [39, 40, 41, 36], [42, 43, 44, 45], [45, 46, 47, 42]),
    *([48, 49, 50, 51, 52, 53, 54], [54, 55, 56, 57, 58, 59, 48], [60, 61, 62, 63, 64], [64, 65, 66, 67, 60]),
)
_PAIRS = ((37, 41), (38, 40), (43, 47), (44, 46), (61, 67), (62, 66), (63, 65))  # upper and lower, which may close
# Of each upper inner landmark of the lips: inner and outer ones, between which a lip is.
_OUTSIDE = {
    61: ((61, 50), (67, 58), (61, 49), (67, 59)),
    62: ((62, 51), (66, 57)),
    63: ((63, 52), (65, 56), (63, 53), (65, 55)),
}
# Landmarks, and the share of a mouth's opening by which they sink below where they are drawn: people's corners go down
# about a third of the way of the lower lip, those of the world hardly do.
_SINK = {(48, 54, 60, 64): 0.33, (55, 59): 0.22, (65, 67): 0.13, (49, 53): 0.13, (56, 58): 0.07}
_BROWS = [INDEX["brow_right"], INDEX["brow_left"]]
# In a frown: the share of the gap between both brows by which each inner end comes nearer, which drawn ones do not; the
# place of the creases in that gap, and their darkness.
_NEARER, _CREASE, _CREASED = 0.12, 0.22, np.array([0.16, 0.22, 0.22])
_PARTED = 0.93  # of the way that drawn lips part: by all of it mouths opened 1.07 times as far as their drivers'
_LIFTED = 0.3  # of that sinking, which a smile takes back
_EYES = ((36, 39), (42, 45))  # corners
# Pixels for gaze 1, right and down: 1.12 and 1.3 times the drawn travel, since a reader sees less of it in people.
_IRIS = {"gaze_x": 0.083 * ZOOM * SIZE, "gaze_y": 0.062 * ZOOM * SIZE}
_IRIS_RADIUS = 0.072 * ZOOM * SIZE
# Of the pixels beside an iris, the percentile as light as the white in the middle of the eye is, by how much that is
# lighter at most, and pixels from the lids to there.
_WHITE, _LIGHTER_BALL, _LID_SHADE = 85, 1.4, 2.0
_LITTLE = 0.25  # of an iris, without which its colours are not known
_CLOSED = 1.0  # pixels that closed lips or lids keep between them, so that they do not fold
# Pixels between the lips from which their inside is drawn, and from which it is seen in a photograph: if that shows
# teeth, and in any case.
_OPEN, _SHOWN = 2.0, (4.0, 8.0)
# By how much the smile is larger with which the inside of a mouth is drawn: drawn lips cover the teeth of who speaks.
_BARED = 0.6
_WIDE = 8.0  # pixels between the lips that let all light in
_TEETH = 0.7  # of the skin's brightness, from which a photographed mouth shows teeth
# Of a drawn inside: green for red from which it is ivory, and is all ivory.
_IVORY = 0.4, 0.7
# How light teeth are at their lightest: of the skin, of the light, at most; and how much of the skin's hue they have.
_TEETH_OF_SKIN, _TEETH_LIT, _LIGHTEST, _TINT = 1.15, 0.5, 0.8, 0.35
_LINING = np.array([0.05, 0.018, 0.016])  # in the place of drawn teeth, where the photograph shows its own
_LID = 0.4, 0.8, 1.2  # heights of lids over that of the open eye, which fade upwards
_SHADED = 0.4  # of the light between lids that close, which their lashes take
_LASHES = 2.0  # pixels above the edge of a lid that are as dark as they were
_LIGHTER = 0.7  # of the difference by which closed lids get as light as the skin under the eye
_INNER = [60, 61, 62, 63, 64], [64, 65, 66, 67, 60]  # lips
_OUTER = [48, 49, 50, 51, 52, 53, 54], [54, 55, 56, 57, 58, 59, 48]
_LINE = 0.45  # of the lips' brightness, which the line between closed ones lacks
_BROW = 4.0  # pixels by which brows reach above and below their landmarks
_APART = 90.0  # levels by which a pixel of the photograph and a drawn one of the same part differ at most
_FEW = 20  # pixels, too few to tell a part's colour
_SMOOTH = 4.0  # pixels
_RIM, _BESIDE = 6, 16  # pixels next to what is hidden, and to the photographed body, which belong to a skull
_BLURS = 1.5, 3.0, 6.0, 12.0  # pixels, each for what is twice as far beyond the photograph's border
_TORN = 4.0  # pixels of the photograph by which neighbours differ at a seam
_STRETCHED, _GRAZING = 0.5, 0.4  # columns of the photograph for one of the view, from which outlines are calmed, and
# from which the other side of a head is seen better
_ROUND = np.hypot(*np.indices((9, 9)) - 4) < 4.5  # pixels that fill notches of a matte
_FINER = 3  # points of a contour for each landmark
_GAIN = 0.15, 1.3  # of the drawn image's light: limits
_SHADE = np.array([0.6, 0.56, 0.5])  # of that light reaches the inside of a mouth, the redder part by the lips
_SKIN = REGIONS.index("skin")
_PARTS = [
    [REGIONS.index(name) for name in names.split()]
    for names in ("skin ear earring brow eye lips mouth beard glasses", "hair hat", "neck", "clothes")
]
_FACE = [REGIONS.index(name) for name in ("skin", "eye", "brow", "lips", "mouth", "beard", "glasses")]
_PART_OF = np.zeros(TRIANGLES.max() + 1, int)  # of each vertex
_PART_OF[TRIANGLES] = TRIANGLE_PART[:, None]
_SYMMETRIC, _SKULL = (HEAD, EAR, NECK, TORSO, HAIR), (HEAD, EAR, HAIR, HAT)
_FEATURES, _EYE = [REGIONS.index(name) for name in ("brow", "lips", "mouth")], [REGIONS.index("eye")]


class View(NamedTuple):
    """values [K]: the person as seen; image: float32 [256, 256, 3], 0 to 255; weight: float32 [256, 256], how much each
    pixel counts: 1, less where it is not known, and more at brows, lips and eyes, up to `LOOKING`."""

    values: np.ndarray
    image: np.ndarray
    weight: np.ndarray


class _Iris(NamedTuple):
    """A photographed iris: how far [2] its middle is from where the world has it, and its radius, in pixels; its
    colours, whole, about the middle, and how much of each of them is seen, not guessed [N, N, 4]."""

    aside: np.ndarray
    radius: float
    colours: np.ndarray


class Photograph:
    """A photograph's face, ready to be seen otherwise.

    Args:
        crop: uint8 [256, 256, 3], in the built-in framing.
        values: factors [K] of the person who was read in it.
        marks: its landmarks [68, 2] in 0..1 of the crop.
        irises: their middles and radii there [2, 3]; if not given, they are where the gaze has those of the world.
    """

    def __init__(
        self, crop: np.ndarray, values: np.ndarray, marks: np.ndarray, irises: np.ndarray | None = None
    ) -> None:
        self.crop, self.gray = crop, is_gray(crop)
        self.marks = marks.astype(np.float64) * SIZE
        parts = dict(zip(PARSED, parsed(crop), strict=True))
        cut = matte_of(crop, 1 - parts["background"])
        self.values = world.align(outlined(values, cut.alpha, parts["hair"]))
        body = ndimage.binary_closing(np.pad(cut.alpha > 0.5, 8, mode="edge"), _ROUND)[8:-8, 8:-8]
        within = ndimage.gaussian_filter(np.asarray(ndimage.binary_fill_holes(body), np.float32), 0.7)
        alpha = np.maximum(cut.alpha, 0.98 * within)
        behind = np.asarray(ndimage.binary_dilation(alpha > 0.03, iterations=3), bool)
        plate = cut.behind.astype(np.float32)
        self.beside = np.asarray(ndimage.distance_transform_edt(within < 0.5))
        self.shape = fitted(self.values, _places(self.values), self.marks, within > 0.5)
        self.surface, self.drawn = self._drawn(self.values)
        self.plate = plate if behind.all() else fill(plate, ~behind)
        taken = (1 - within + within * cut.alpha)[..., None]  # where the matte doubts, the pixels are the person's
        person = taken * cut.person + (1 - taken) * crop
        self.person = np.dstack([person * alpha[..., None], 255 * alpha]).astype(np.float32)
        self.inside = _inside_of_mouth(crop, self.marks)
        self.white, self.irises = crop.astype(np.float32), list[_Iris | None]()
        for index, corners in enumerate(_EYES):
            usual = _middle(self.marks, self.values, *corners)
            *middle, radius = (*usual, _IRIS_RADIUS) if irises is None or not len(irises) else irises[index] * SIZE
            between = _filled(_contour(self.marks, _lids_of(*corners))) > 0.5
            iris, self.white = _iris_of(self.white, between, np.array(middle), float(radius))
            self.irises.append(iris and iris._replace(aside=middle - usual))

    def rest(self) -> View:
        """The photograph itself."""
        return View(self.values, self.crop.astype(np.float32), _attention(self.drawn))

    def view(self, motion: dict[str, float]) -> View:
        """The person with other values of motion, by name."""
        values = moved(self.values, motion)
        surface, drawn = self._drawn(values)
        back, on = flow_between(surface, self.surface), surface.covers
        known = on & back.visible
        nearest = np.asarray(ndimage.distance_transform_edt(~known, return_distances=False, return_indices=True))
        flow = back.flow[tuple(nearest)]
        # In the face the drawn outlines of nose and lids are not the photograph's: there the flow is continuous.
        inner = known & np.isin(drawn.regions, _FACE)
        flow = np.where(inner[..., None], _low_passed(flow, inner), flow)
        flow = np.where(known[..., None], flow, _low_passed(flow, np.ones_like(known)))
        seam = _seam(flow) & on
        rigid = self._goal(values)
        goal = self._as_people(values, rigid)
        flow = flow + self._painted(values, goal, flow, inner)
        rows, columns = np.indices((SIZE, SIZE))
        place = np.stack([rows + flow[..., 1], columns + flow[..., 0]])
        seen = [ndimage.map_coordinates(self.person[..., c], place, order=1, mode="nearest") for c in range(4)]
        alpha = seen[3] / 255
        own = np.stack(seen[:3], -1) / np.maximum(alpha, 0.05)[..., None]
        alpha = _calmed(alpha, place)
        # Threads of what is hidden are stretched over instead, and beyond the photograph its border is repeated.
        beyond = ((place < -1) | (place > SIZE)).any(0)
        hidden = ndimage.binary_opening(on & ~back.visible & ~beyond, iterations=2)
        hidden = np.asarray(ndimage.binary_dilation(hidden, iterations=2), bool) & on
        # A skull goes on where the photograph's outline was, and to where it is hidden now.
        away = ndimage.map_coordinates(self.beside, place, order=1, mode="nearest")
        skull = np.zeros((SIZE, SIZE), bool)
        skull[surface.rows, surface.columns] = np.isin(_PART_OF[surface.corners[:, 0]], _SKULL)
        inside = np.asarray(ndimage.binary_erosion(on, iterations=_RIM), bool)
        inside |= np.asarray(ndimage.binary_dilation(skull & ~back.visible, iterations=_RIM), bool)
        hidden |= inside & skull & (alpha < 0.98) & (away < _BESIDE)
        hidden = _adjoining(hidden, (alpha > 0.5) & ~hidden, on)
        mirrored = self._mirrored(surface)
        # Hidden is, too, what was seen at a grazing angle, where the other side is seen well.
        grazing = (_shrunk(place) < _GRAZING) & inner & (alpha > 0.5) & (mirrored[..., 3] > 200)
        grazing = ndimage.binary_dilation(ndimage.binary_opening(grazing, iterations=5), iterations=3)
        hidden |= np.asarray(grazing, bool) & inner
        guess = self._guess(own, drawn, mirrored, (alpha > 0.9) & ~hidden)
        own = np.where(hidden[..., None], guess, own)
        alpha = np.where(hidden, _joined(alpha > 0.5, hidden), alpha)[..., None]
        image = own * alpha + (1 - alpha) * self.plate
        image = np.where(seam[..., None], ndimage.median_filter(image, (5, 5, 1)), image)
        image, unknown = self._gaze(image, place, values, goal)
        unknown |= hidden | beyond
        weight = 1 - (1 - HIDDEN) * ndimage.gaussian_filter(unknown.astype(np.float32), 1)
        weight *= _attention(drawn)
        image = self._closed(self._frown(self._lids(image, goal), values, drawn, goal), place, goal)
        image = self._mouth(image, values, drawn, goal, rigid)
        return View(values, image.astype(np.float32), weight.astype(np.float32))

    def _drawn(self, values: np.ndarray) -> tuple[Surface, world.Portrait]:
        """The drawn person with the values [K], in the shape of the photographed one; the landmarks stay."""
        plain, surface = surface_of(values, SIZE), surface_of(values, SIZE, self.shape)
        flow, (rows, columns) = flow_between(surface, plain).flow, np.indices((SIZE, SIZE))
        at = np.stack([rows + flow[..., 1], columns + flow[..., 0]])
        image, regions = plain.portrait.image, plain.portrait.regions
        image = [ndimage.map_coordinates(image[..., c], at, order=1, mode="nearest") for c in range(3)]
        regions = ndimage.map_coordinates(regions, at, order=0) * surface.covers
        return surface, replace(plain.portrait, image=np.stack(image, -1), regions=regions)

    def _goal(self, values: np.ndarray) -> np.ndarray:
        """Where the landmarks [68, 2] of the photograph go: as far from the drawn ones as they are in it."""
        there, here = (_places(each) for each in (values, self.values))
        goal = there + (self.marks - here)
        # Lids open in proportion, and close where the drawn ones do; lips, too, but what is more open than in the
        # photograph opens nearly as far as drawn lips do.
        for upper, lower in _PAIRS:
            gap, before, own = (each[lower] - each[upper] for each in (there, here, self.marks))
            share = np.clip(np.hypot(*own) / np.hypot(*before), 0.5, 2) if np.hypot(*before) > 2 else 1.0
            middle = (goal[upper] + goal[lower]) / 2
            half = (own + _PARTED * (gap - before) if upper in _INNER[0] and gap[1] > before[1] else gap * share) / 2
            half[1] = max(half[1], _CLOSED / 2)
            goal[upper], goal[lower] = middle - half, middle + half
            for inner, outer in _OUTSIDE.get(upper, ()) if gap[1] < before[1] or 2 * half[1] < own[1] else ():
                # Lips that shut do not get thicker than they were.
                was, grown = (abs(each[inner, 1] - each[outer, 1]) for each in (self.marks, goal))
                drawn = max(abs(there[inner, 1] - there[outer, 1]) / max(abs(here[inner, 1] - here[outer, 1]), 1), 1)
                goal[outer, 1] += np.sign(goal[inner, 1] - goal[outer, 1]) * max(grown - was * drawn, 0)
        return goal

    def _as_people(self, values: np.ndarray, goal: np.ndarray) -> np.ndarray:
        """The goal [68, 2] with the corners of a mouth that opens, and brows that frown, where people have them."""
        goal, wider = goal.copy(), (goal[66] - goal[62]) - (self.marks[66] - self.marks[62])
        smiling = _LIFTED * np.clip(values[INDEX["smile"]], 0, 1)
        for points, share in _SINK.items():
            goal[list(points)] += share * (1 - smiling) * wider
        apart = goal[22] - goal[21]
        for inner, by, way in zip((21, 22), self._frowns(values), (1, -1)):
            goal[inner] += _NEARER * by * way * apart
        return goal

    def _frowns(self, values: np.ndarray) -> np.ndarray:
        """How far [2] the brows, right and left, are lowered next to the photograph's."""
        return np.clip(self.values[_BROWS] - values[_BROWS], 0, 1)

    def _painted(self, values: np.ndarray, goal: np.ndarray, flow: np.ndarray, face: np.ndarray) -> np.ndarray:
        """What is added to the flow [256, 256, 2] so that painted features follow their landmarks, and the jaw does.
        Beyond the edge of the `face`, bool [256, 256], the flow is that of hair or neck: there the far side of the jaw
        goes on from the nearest of the face."""
        source = self.marks
        ends = [(goal, source)]
        for arc in _ARCS:
            knots, fine = np.arange(len(arc)), np.linspace(0, len(arc) - 1, _FINER * (len(arc) - 1) + 1)
            fine = fine[fine % 1 > 1e-6]
            ends.append((CubicSpline(knots, goal[arc])(fine), CubicSpline(knots, source[arc])(fine)))
        for aside in (-_BROW, _BROW):
            ends.append((goal[17:27] + (0, aside), source[17:27] + (0, aside)))
        for eye, brow in ((slice(36, 40), slice(17, 22)), (slice(42, 46), slice(22, 27))):
            # Half of what is between a lid and its brow goes with the brow: only the lid itself unfolds.
            x, over = source[eye, 0], np.maximum.accumulate(source[brow, 0])
            height, *moved = (np.interp(x, over, of) for of in (source[brow, 1], *(goal - source)[brow].T))
            still = np.stack([x, (source[eye, 1] + height) / 2], 1)
            ends.append((still + np.stack(moved, 1), still))
        to, of = (np.concatenate(each) for each in zip(*ends))
        middle, spread = goal.mean(0), np.ptp(goal, axis=0).max()
        angle = np.linspace(0, 2 * np.pi, 24, endpoint=False)
        ring = middle + 0.85 * spread * np.stack([np.cos(angle), np.sin(angle)], 1)
        where = np.clip(to, 0, SIZE - 1)
        carried = [ndimage.map_coordinates(flow[..., axis], where.T[::-1], order=1) for axis in (0, 1)]
        far = (np.arange(17) - 8) * (values[INDEX["yaw"]] - self.values[INDEX["yaw"]]) > 0
        nearest = np.asarray(ndimage.distance_transform_edt(~face, return_distances=False, return_indices=True))
        for point in np.flatnonzero(far):
            column, row = where[point].astype(int)
            if not face[row, column]:
                for axis in (0, 1):
                    carried[axis][point] = flow[(*nearest[:, row, column], axis)]
        missing = np.concatenate([of - to - np.stack(carried, 1), np.zeros_like(ring)])
        rows, columns = np.indices((SIZE, SIZE))
        inside = np.hypot(columns - middle[0], rows - middle[1]) < 0.85 * spread
        basis = RBFInterpolator(np.concatenate([to, ring]), missing, kernel="linear", smoothing=0.1)
        added = np.zeros((SIZE, SIZE, 2))
        added[inside] = basis(np.stack([columns[inside], rows[inside]], 1).astype(float))
        return added

    def _gaze(
        self, image: np.ndarray, place: np.ndarray, values: np.ndarray, goal: np.ndarray
    ) -> tuple[np.ndarray, np.ndarray]:
        """The image with irises that follow the gaze between the lids, before the white of the eye, which is seen at
        rows and columns `place` [2, 256, 256]; and bool [256, 256]: what of them is guessed."""
        unknown = np.zeros((SIZE, SIZE), bool)
        for iris, corners in zip(self.irises, _EYES):
            if iris is None:
                continue
            wide, before = (_filled(_contour(marks, _lids_of(*corners))) for marks in (goal, self.marks))
            middle, still = (_middle(goal, each, *corners) + iris.aside for each in (values, self.values))
            # What is seen as in the photograph stays as it is.
            share = np.clip(np.hypot(*(middle - still)) + abs(wide.sum() - before.sum()) / iris.radius / 4, 0, 1)
            if not share or not wide.any():
                continue
            rows, columns = np.nonzero(wide)
            within = share * ndimage.gaussian_filter(wide, 0.7)[rows, columns]
            off = np.stack([columns, rows], 1) + 0.5 - middle
            on = np.clip(iris.radius + 0.5 - np.hypot(*off.T), 0, 1)
            colours = _colours(iris.colours, off + len(iris.colours) / 2)
            shown = _colours(self.white, place[::-1, rows, columns].T + 0.5)
            shown += on[:, None] * (colours[:, :3] - shown)
            image = image.copy()
            image[rows, columns] += within[:, None] * (shown - image[rows, columns])
            unknown[rows, columns] |= (colours[:, 3] < 0.5) & (on > 0.5) & (within > 0.5)
        return image, unknown

    def _mirrored(self, surface: Surface) -> np.ndarray:
        """What the photograph shows of the other side of the head [256, 256, 4], 0 to 255: its colours times how much
        is to be had of them, and that."""
        flow = flow_between(surface._replace(corners=_mirror()[surface.corners]), self.surface)
        rows, columns = np.indices((SIZE, SIZE))
        place = np.stack([columns, rows], -1) + flow.flow
        there = np.isin(_PART_OF[surface.corners].max(1), _SYMMETRIC)
        shown = np.zeros((SIZE, SIZE), bool)
        shown[surface.rows[there], surface.columns[there]] = True
        shown &= flow.visible
        at = place[..., 1], place[..., 0]
        share = ndimage.map_coordinates(self.person[..., 3], at, order=1) > 250
        share = ndimage.binary_erosion(shown & share, iterations=2).astype(np.float32)
        share = ndimage.gaussian_filter(share, 1.5)[..., None]
        seen = [ndimage.map_coordinates(self.crop[..., c].astype(np.float32), at, order=1) for c in range(3)]
        return np.concatenate([np.stack(seen, -1) * share, 255 * share], -1)

    def _guess(self, own: np.ndarray, drawn: world.Portrait, mirrored: np.ndarray, known: np.ndarray) -> np.ndarray:
        """What the photograph hides [256, 256, 3]: as it shows the other side (see `_mirrored`), or as drawn, each part
        in its colour there; continuous with what is `known`, bool [256, 256], of the person's `own` pixels."""
        light, sure = linear(drawn.image), self.person[..., 3] > 250
        here, there = ([np.isin(each.regions, part) for part in _PARTS] for each in (self.drawn, drawn))
        for before, now in zip(here, there):
            if (before & sure).sum() > _FEW:
                mine, other = (linear(np.median(of[before & sure], axis=0)) for of in (self.crop, self.drawn.image))
                light[now] *= (mine + 1e-3) / (other + 1e-3)
        image = srgb(light)
        if self.gray:
            image = np.repeat(image.mean(-1, keepdims=True), 3, -1)
        image = mirrored[..., :3] + (1 - mirrored[..., 3:] / 255) * image
        away = (own - image).astype(np.float32)
        alike = known & ((np.abs(away).max(-1) < _APART) | (mirrored[..., 3] > 200))
        for now in there:
            if (now & alike).any():
                image[now] += fill(away, now & alike)[now]
        strands = there[1] & known
        if strands.any():  # hair goes on as it is seen
            share = (there[1] * (1 - mirrored[..., 3] / 255))[..., None]
            image += share * (_reflected(own, strands) - image)
        return np.clip(image, 0, 255)

    def _lit(self, mouth: np.ndarray, within: np.ndarray, drawn: world.Portrait, bare: float) -> np.ndarray:
        """A drawn mouth [512, 512, 3], whose inside is `within`, bool [512, 512], in the photograph's light: a share of
        its skin's hue, and teeth lighter than it, whom drawn lips shade too much. bare: 1, less where lips are nearly
        shut and shade them; 0 for a mouth without the drawn teeth."""
        own = linear(np.median(self.crop[self.drawn.regions == _SKIN], axis=0)) + 1e-3
        other = linear(np.median(drawn.image[drawn.regions == _SKIN], axis=0)) + 1e-3
        light = float(np.clip(own.mean() / other.mean(), *_GAIN))
        shown = linear(mouth)
        white = np.clip((shown[..., 1:2] / (shown[..., :1] + 1e-3) - _IVORY[0]) / np.diff(_IVORY), 0, 1)
        bright = shown.mean(-1, keepdims=True)
        shown = shown * light * _SHADE
        teeth = _LINING * light
        if bare and (within & (white[..., 0] > 0.5)).sum() > _FEW:
            full = np.percentile(bright[within & (white[..., 0] > 0.5)], 90)
            teeth = np.sqrt(bright / full) * np.clip(_TEETH_OF_SKIN * own.mean(), _TEETH_LIT * light, _LIGHTEST)
            teeth = bare * teeth
        return srgb((shown + white * (teeth - shown)) * (own / own.mean()) ** _TINT)

    def _closed(self, image: np.ndarray, place: np.ndarray, goal: np.ndarray) -> np.ndarray:
        """The image with lips, as far as they close, where rows and columns `place` [2, 256, 256] of the photograph
        show what is between them, and with the line that shut ones have."""
        gap, before = (np.abs(marks[66] - marks[62]).sum() for marks in (goal, self.marks))
        closing = np.clip(2 - 2 * gap / max(before, 1), 0, 1) if self.inside.any() else 0
        if not closing:
            return image
        shut = np.clip(2 - gap / _CLOSED, 0, 1)
        lips, slit = _filled(_contour(goal, _OUTER)) > 0.5, _filled(_contour(goal, _INNER)) > 0.5
        left = ndimage.map_coordinates(self.inside, place, order=1) > 0.1
        left = np.asarray(ndimage.binary_dilation(left & (~slit | (shut > 0))), bool) & lips
        if (lips & ~left & ~slit).sum() < _FEW:
            return image
        rows, columns = (slice(at.min(), at.max() + 1) for at in np.nonzero(lips))
        share = closing * ndimage.gaussian_filter(left.astype(np.float32), 0.7)[rows, columns, None]
        image = image.copy()
        healed = fill(image[rows, columns].astype(np.float32), (lips & ~left & ~slit)[rows, columns])
        image[rows, columns] += share * (healed - image[rows, columns])
        between = (_contour(goal, _INNER[:1]) + _contour(goal, _INNER[1:])[::-1]) / 2
        line = _filled(np.concatenate([between - (0, _CLOSED / 2), (between + (0, _CLOSED / 2))[::-1]]))
        return image * (1 - shut * closing * _LINE * ndimage.gaussian_filter(line, 0.5)[..., None])

    def _mouth(
        self, image: np.ndarray, values: np.ndarray, drawn: world.Portrait, goal: np.ndarray, rigid: np.ndarray
    ) -> np.ndarray:
        """The image with an inside of the mouth, if it is not open as in the photograph: teeth that the photograph
        shows stay with the upper lip, and the rest is drawn in its light. The corners sink (`goal`), but not the teeth
        (`rigid`)."""
        gap, before = (np.abs(marks[62] - marks[66]).sum() for marks in (goal, self.marks))
        if gap < _OPEN or abs(gap - before) < 1:
            return image
        share = _filled(_contour(goal, _INNER))
        rows, columns = np.nonzero(share > 0)
        here = np.stack([columns, rows], 1) + 0.5
        bared = values.copy()
        bared[INDEX["smile"]] += _BARED * (1 - values[[INDEX["pucker"], INDEX["funnel"]]].max())
        large = world.draw(world.align(np.clip(bared, LOW, HIGH)), 2 * SIZE)
        inside = large.regions == REGIONS.index("mouth")
        if not inside.any():
            return image
        own, skin = _filled(_contour(self.marks, _INNER)), np.median(self.crop[self.drawn.regions == _SKIN])
        teeth = before > _SHOWN[0] and np.median(self.crop[own > 0.5]) > _TEETH * skin
        lit = self._lit(large.image, inside, drawn, 0.0 if teeth else float(np.clip(gap / _WIDE, 0.5, 1)))
        lit = np.repeat(lit.mean(-1, keepdims=True), 3, -1) if self.gray else lit
        nearest = np.asarray(ndimage.distance_transform_edt(~inside, return_distances=False, return_indices=True))
        lit = lit[tuple(nearest)]
        there = RBFInterpolator(rigid[60:68], large.landmarks[60:68] * 2 * SIZE, kernel="linear", degree=1)(here)
        shown = _colours(lit, there)
        if teeth or before > _SHOWN[1]:
            below = (0, SIZE)  # what hangs from the upper lip moves with it
            upper, seen_at = (np.concatenate([each[60:65], each[60:65] + below]) for each in (rigid, self.marks))
            there = RBFInterpolator(upper, seen_at, kernel="linear", degree=1)(here)
            seen = _colours(self.crop.astype(float), there)
            known = _colours(own[..., None], there)
            shown += known * (seen - shown)
        image = image.copy()
        image[rows, columns] += share[rows, columns, None] * (shown - image[rows, columns])
        return image

    def _frown(self, image: np.ndarray, values: np.ndarray, drawn: world.Portrait, goal: np.ndarray) -> np.ndarray:
        """The image with the two creases of a frown beside the inner ends of the brows."""
        by, between = self._frowns(values).min(), goal[22] - goal[21]
        if not by:
            return image
        long = np.hypot(*(goal[42] - goal[39]))
        up = np.array([between[1], -between[0]]) / max(np.hypot(*between), 1)
        rows, columns = np.indices((SIZE, SIZE))
        place = np.stack([columns, rows], -1) + 0.5
        shade = np.zeros((SIZE, SIZE))
        for end, way in ((goal[21], 1), (goal[22], -1)):
            from_end = place - (end + way * _CREASE * between)
            along, across = from_end @ up / long, from_end @ (up[1], -up[0])
            shade += np.exp(-((along - 0.04) ** 2) / (2 * 0.12**2) - across**2 / (2 * 1.5**2))
        skin = ndimage.gaussian_filter(np.isin(drawn.regions, (_SKIN, REGIONS.index("brow"))).astype(np.float32), 1)
        return image * (1 - by * _CREASED * (shade * skin)[..., None])

    def _lids(self, image: np.ndarray, goal: np.ndarray) -> np.ndarray:
        """The image with lids as light as the skin under the eye, as far as they are more closed than the photograph's:
        the fold that they are stretched from lies in the shade. Their edge is as dark as the photograph's."""
        image = image.copy()
        for left, right in _EYES:
            arcs = [range(left, right + 1)], [[*range(right, right + 3), left]]
            upper, lower = (_contour(goal, arc) for arc in arcs)
            gap, before = (
                np.abs(marks[[left + 1, left + 2]] - marks[[right + 2, right + 1]])[:, 1].mean()
                for marks in (goal, self.marks)
            )
            closed = np.clip(1 - gap / max(before, 1), 0, 1)
            slit = np.asarray(ndimage.gaussian_filter(_filled(np.concatenate([upper, lower])), 0.7))
            image *= 1 - (_SHADED * closed * slit)[..., None]
            over = upper - (0, _LASHES)
            lid = sum(_filled(np.concatenate([over, over[::-1] - (0, by * before)])) for by in _LID)
            lid = ndimage.gaussian_filter(lid / len(_LID), 1)[..., None]
            under = _filled(np.concatenate([lower + (0, 2), lower[::-1] + (0, 2 + before)])) > 0.5
            if closed == 0 or not under.any():
                continue
            usual = ndimage.gaussian_filter(image * lid, (3, 3, 0)) / ndimage.gaussian_filter(lid, (3, 3, 0)).clip(1e-3)
            image += _LIGHTER * closed * lid * (np.median(image[under], axis=0) - usual).clip(0)
            thick = np.sin(np.linspace(0, np.pi, len(upper)))[:, None] ** 0.5 * (0, 1)
            line = _filled(np.concatenate([upper - thick, (upper + 1.2 * _CLOSED * thick)[::-1]]))
            own = _colours(self.crop.astype(float), _contour(self.marks, arcs[0]))
            image += (closed * line)[..., None] * np.minimum(np.percentile(own, 25, axis=0) - image, 0)
        return image


def _places(values: np.ndarray) -> np.ndarray:
    """Where landmarks [68, 2] are in pixels, lips only as far apart as they are seen by the value of the jaw."""
    seen = values.copy()
    seen[INDEX["jaw"]] = np.interp(values[INDEX["jaw"]], *JAW[::-1])
    return world.project_landmarks(seen)[0].astype(np.float64) * SIZE


@cache
def _mirror() -> np.ndarray:
    """For each vertex [V] of a head the one at the same place on its other side."""
    places = surface_of(world.neutral(), SIZE).camera.astype(np.float64)
    mirror = np.arange(len(places))
    for part in _SYMMETRIC:
        mine = np.flatnonzero(_PART_OF == part)
        mirror[mine] = mine[KDTree(places[mine]).query(places[mine] * (-1, 1, 1))[1]]
    return mirror


def _low_passed(flow: np.ndarray, within: np.ndarray) -> np.ndarray:
    """A flow [256, 256, 2] without what is finer than `_SMOOTH`; only pixels `within`, bool [256, 256], count."""
    share = ndimage.gaussian_filter(within.astype(float), _SMOOTH)
    sums = [ndimage.gaussian_filter(flow[..., axis] * within, _SMOOTH) for axis in (0, 1)]
    return np.stack(sums, -1) / np.maximum(share, 1e-3)[..., None]


def _attention(drawn: world.Portrait) -> np.ndarray:
    """float32 [256, 256]: 1, and up to `FEATURED` about brows and lips, which are small and say most, and `LOOKING`
    about eyes."""
    counts = np.ones((SIZE, SIZE), np.float32)
    for weight, parts in ((FEATURED, _FEATURES), (LOOKING, _EYE)):
        near = np.asarray(ndimage.binary_dilation(np.isin(drawn.regions, parts), iterations=3), np.float32)
        counts = np.maximum(counts, 1 + (weight - 1) * ndimage.gaussian_filter(near, 1.5))
    return counts


def _calmed(alpha: np.ndarray, place: np.ndarray) -> np.ndarray:
    """How much [256, 256] of a pixel the person covers, with a smooth outline where the turn stretches what was seen at
    a grazing angle, rows and columns `place` [2, 256, 256] of the photograph, and would tear it."""
    wide = ndimage.binary_dilation(_shrunk(place) < _STRETCHED, iterations=4)
    share = ndimage.gaussian_filter(wide.astype(np.float32), 3)
    smooth = np.clip(2 * ndimage.gaussian_filter(alpha, 4) - 0.5, 0, 1)
    return alpha + share * (smooth - alpha)


def _seam(flow: np.ndarray) -> np.ndarray:
    """bool [256, 256]: where neighbours in a view are far from each other in the photograph, by the flow [256, 256, 2]
    to it, as at the edge of the jaw: specks of what is on one side of it lie on the other."""
    apart = ndimage.maximum_filter(flow, (3, 3, 1)) - ndimage.minimum_filter(flow, (3, 3, 1))
    return np.asarray(ndimage.binary_dilation(apart.max(-1) > _TORN), bool)


def _shrunk(place: np.ndarray) -> np.ndarray:
    """How many columns [256, 256] of the photograph are seen in a column of the view, by `place` [2, 256, 256]."""
    return np.abs(np.gradient(ndimage.gaussian_filter(place[1], 2), axis=1))


def _reflected(image: np.ndarray, known: np.ndarray) -> np.ndarray:
    """An image [256, 256, 3] that goes on beyond what is `known`, bool [256, 256], as in a mirror at its edge."""
    edge = np.asarray(ndimage.distance_transform_edt(~known, return_distances=False, return_indices=True))
    behind = np.clip(2 * edge - np.indices((SIZE, SIZE)), 0, SIZE - 1)
    return image[tuple(edge[:, behind[0], behind[1]])]


def _adjoining(hidden: np.ndarray, body: np.ndarray, on: np.ndarray) -> np.ndarray:
    """Of the hidden pixels of the drawn person, which is `on`, all bool [256, 256], those next to what is seen of the
    photographed `body`, with the notches between both. Others are horns: a strip of drawn hair about a smaller head."""
    seen = on & ~hidden
    if seen.any():
        nearest = ndimage.distance_transform_edt(~seen, return_distances=False, return_indices=True)
        hidden = hidden & np.asarray(ndimage.binary_dilation(body, iterations=3), bool)[tuple(np.asarray(nearest))]
    notches = ndimage.binary_closing(np.pad(body | hidden, 8, mode="edge"), iterations=6)[8:-8, 8:-8]
    return hidden | (notches & on & ~body & np.asarray(ndimage.binary_dilation(hidden, iterations=6), bool))


def _joined(body: np.ndarray, hidden: np.ndarray) -> np.ndarray:
    """How much [256, 256], 0 to 1, hidden pixels of the drawn person belong to the photographed one: those do that join
    the `body` that is seen, bool [256, 256], without a gap or a thread."""
    both = body | hidden
    core = np.asarray(ndimage.binary_opening(both, iterations=2), bool) & body & ~hidden
    whole = np.asarray(ndimage.binary_opening(ndimage.binary_propagation(core, mask=both), iterations=2), bool)
    return ndimage.gaussian_filter((whole | (body & ~hidden)).astype(np.float32), 0.7)


def _contour(marks: np.ndarray, arcs: Sequence[Sequence[int]]) -> np.ndarray:
    """Points [P, 2] of a contour along arcs of landmarks [68, 2]."""
    found = []
    for arc in arcs:
        fine = np.linspace(0, len(arc) - 1, 4 * (len(arc) - 1) + 1)
        found.append(CubicSpline(np.arange(len(arc)), marks[list(arc)])(fine))
    return np.concatenate(found)


def _colours(image: np.ndarray, points: np.ndarray) -> np.ndarray:
    """An image [H, W, C] at points [N, 2], x and y in pixels: [N, C]."""
    at = points.T[::-1] - 0.5
    return np.stack([ndimage.map_coordinates(channel, at, order=1) for channel in np.moveaxis(image, -1, 0)], -1)


def _lids_of(left: int, right: int) -> list[Sequence[int]]:
    """The arcs of landmarks about an eye, by its corners."""
    return [range(left, right + 1), [right, right + 1, right + 2, left]]


def _iris_of(
    image: np.ndarray, between: np.ndarray, middle: np.ndarray, radius: float
) -> tuple[_Iris | None, np.ndarray]:
    """The iris of an eye in an image float32 [256, 256, 3], about a middle [2] in pixels; and the image with white of
    the eye in its place. What a lid hides of it has the colour of what is as far from its middle; between: bool
    [256, 256], what is between the lids. None where too little is seen."""
    seen = np.asarray(ndimage.binary_erosion(between), bool)
    rows, columns = np.indices((SIZE, SIZE))
    away = np.hypot(columns + 0.5 - middle[0], rows + 0.5 - middle[1])
    light = image.mean(-1)

    def contrast(radius: float) -> float:
        """By how much it is lighter beyond than within."""
        rings = (seen & (away > start) & (away <= start + 1.5) for start in (radius, radius - 1.5))
        within, beyond = (np.median(light[ring]) if ring.sum() > 4 else np.nan for ring in rings)
        return np.nan_to_num(within - beyond, nan=-np.inf)

    radius = max(np.linspace(0.9, 1.5, 13) * radius, key=contrast)
    white = seen & (away > radius + 1)
    if (seen & (away < radius)).sum() < _LITTLE * np.pi * radius**2 or white.sum() < 4:
        return None, image
    near = tuple(slice(max(int(at - 3 * radius), 0), int(at + 3 * radius) + 1) for at in middle[::-1])
    blank = image.copy()
    inner = (between & (away < radius + 1))[near]
    ball = fill(image[near], white[near])
    # What is left beside an iris lies in the shade of the lids; in the middle of the eye it is lighter.
    depth = np.clip(np.asarray(ndimage.distance_transform_edt(between[near])) / _LID_SHADE - 0.5, 0, 1)
    lighter = np.clip(np.percentile(light[white], _WHITE) / ball.mean(-1).clip(1), 1, _LIGHTER_BALL)
    ball = ball * (1 + depth * (lighter - 1))[..., None]
    blank[near] = np.where(inner[..., None], ball, image[near])
    rings, spread = np.arange(radius + 2), int(radius) + 2
    known = [seen & (np.abs(away - ring) <= 1) for ring in rings]
    usual = np.array([np.median(image[each], axis=0) if each.any() else [np.nan] * 3 for each in known])
    told = np.isfinite(usual[:, 0])
    grid = np.stack(np.meshgrid(*2 * [np.arange(-spread, spread + 1.0)]), -1)
    own = _colours(np.dstack([image, seen]), middle + grid.reshape(-1, 2)).reshape(*grid.shape[:2], 4)
    alike = np.stack([np.interp(np.hypot(*grid.T), rings[told], usual[told, each]).T for each in range(3)], -1)
    own[..., :3] = alike + own[..., 3:] * (own[..., :3] - alike)
    return _Iris(np.zeros(2), radius, own), blank


def _middle(marks: np.ndarray, values: np.ndarray, left: int, right: int) -> np.ndarray:
    """Where the world has the middle [2] of an iris, by the corners of the eye and the gaze."""
    return (marks[left] + marks[right]) / 2 + [values[INDEX[name]] * by for name, by in _IRIS.items()]


def _inside_of_mouth(crop: np.ndarray, marks: np.ndarray) -> np.ndarray:
    """float32 [256, 256]: 1 where an open mouth of a photograph, uint8 [256, 256, 3], shows what is between the lips:
    darker than they are, or lighter and less red. Landmarks [68, 2] alone miss its corners."""
    inside = np.zeros((SIZE, SIZE), np.float32)
    if np.abs(marks[66] - marks[62]).sum() < _OPEN:
        return inside
    between = _filled(_contour(marks, _INNER)) > 0.5
    within = _filled(_contour(marks, _OUTER)) > 0.5
    near = np.asarray(ndimage.binary_dilation(between, _ROUND), bool)
    lips = within & ~np.asarray(ndimage.binary_dilation(between, iterations=2), bool)
    if lips.sum() < _FEW:
        return inside
    colours = linear(crop)
    light = colours.mean(-1)
    red = colours[..., 0] / (colours.sum(-1) + 1e-3)
    usual, redness = np.median(light[lips]), np.median(red[lips])
    dark, teeth = light < 0.45 * usual, (light > 1.1 * usual) & (red < (redness + 1 / 3) / 2)
    inside[near & (between | (within & (dark | teeth)))] = 1
    return np.asarray(ndimage.binary_closing(inside, iterations=1), np.float32)


def _filled(contour: np.ndarray) -> np.ndarray:
    """float32 [256, 256]: how much of each pixel is within a contour [P, 2] in pixels."""
    mask = Image.new("L", (4 * SIZE, 4 * SIZE))
    ImageDraw.Draw(mask).polygon([tuple(point) for point in 4 * contour], fill=255)
    return np.asarray(mask.reduce(4), np.float32) / 255


def crop_of(image: np.ndarray, placement: np.ndarray) -> np.ndarray:
    """An image uint8 [H, W, 3] in the built-in framing, by its placement [4]: uint8 [256, 256, 3]. Beyond its border,
    which `cut` repeats in streaks, it gets blurred, the more the further."""
    crop = cut(image, placement, SIZE)
    rows, columns = np.indices((SIZE, SIZE))
    x, y = np.moveaxis(to_picture(((np.stack([columns, rows], -1) + 0.5) / SIZE).reshape(-1, 2), placement), -1, 0)
    height, width = image.shape[:2]
    out = np.maximum.reduce([-x, x - width, -y, y - height]).reshape(SIZE, SIZE) * SIZE / placement[2]
    soft = crop.astype(np.float32)
    for blur in _BLURS:
        share = np.clip(out / (2 * blur), 0, 1)[..., None]
        soft += share * (ndimage.gaussian_filter(crop.astype(np.float32), (blur, blur, 0), mode="nearest") - soft)
    return np.rint(soft).astype(np.uint8)


def views(photograph: Photograph, count: int, seed: int = 0, rolled: bool = True) -> Iterator[View]:
    """Views of a photograph in random `motions`."""
    yield from map(photograph.view, motions(photograph.values, count, seed, rolled))


def drawn_views(show: Callable[[np.ndarray], np.ndarray], values: np.ndarray, count: int) -> Iterator[View]:
    """Views of someone of whom there is no photograph at hand: first as they are, then in random `motions`.

    show: the image uint8 [256, 256, 3] of factors [K].
    """
    for motion in itertools.chain([{}], motions(values, count)):
        there = moved(values, motion)
        yield View(there, show(there).astype(np.float32), _attention(world.draw(there, SIZE)))
