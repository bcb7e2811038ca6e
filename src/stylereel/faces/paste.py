"""Putting a changed crop back into the frame it was cut from, without a visible border.

`Head` pastes face and hair alone, by a map of regions, over a plate from which the old head is gone. `paste` needs no
network: it fades the whole crop in by a mask that is soft at its rim, after its colours were moved towards the frame's
along that rim. Pixels outside the mask keep their bytes.
"""

from __future__ import annotations

from functools import cached_property
from typing import NamedTuple

import numpy as np
import torch
from PIL import Image
from scipy import ndimage

from stylereel.core.builtin import builtin
from stylereel.faces.placement import EYE_LEVEL, cut, to_crop, to_picture, warp
from stylereel.family.matte import matte_of
from stylereel.family.nets import PARSED, PARSED_SIZE, FaceNet, load_face
from stylereel.media.colour import lab, linear, srgb

# The mask is a superellipse around the middle between the eyes. It reaches from the crop's top to the neck and leaves
# out the shoulders, which in most images do not turn with the head.
_NECK = 0.9  # height in the crop at which it ends
_ROUND = 5  # its exponent: 2 is an ellipse, infinity a rectangle
_RIM, _NECK_RIM = 0.12, 0.4  # how wide its soft rim is, in half sizes, around the head and on the neck
_CELLS = 16  # the colour correction is found on a grid of so many cells a side
_COLOUR = 24.0  # levels of 8 bits: what differs by much more is another thing, not another colour

_HEAD = ("skin", "hair", "brow", "eye", "lips", "mouth", "ear", "glasses", "beard", "hat")  # the neck fades out below
_CHIN, _COLLAR = 0.74, 0.88  # heights in the crop between which the neck fades out
_EDGE = 0.05  # part of the crop along its left, right and lower edges in which the mask fades out
_SOFT = 0.02  # how soft the rim is of a crop of the frame's own person, in sides of the part
_OUTSIDE = 0.04  # how much farther than the old head the plate is filled, in sides of the crop
_VIEW = 256  # pixels of a crop that is looked at
_MOST_GAIN = 1.7  # of the head's colours towards the frame's
_OUTLINE = 8.0  # of the seam: an edge of a source, in CIELAB's units, from which on it is an outline
_STEPS = ((1, 1.0), (2, 0.9), (4, 0.7), (8, 0.45))  # of the seam: half a distance in pixels of 256, and its weight


class Pasted(NamedTuple):
    """A frame uint8 [H, W, 3] with the crop in it, and its `seam`."""

    frame: np.ndarray
    seam: float


class _Place(NamedTuple):
    """Where a crop is in a frame: its left, top, right and bottom pixels, and the matrix [2, 3] from pixels of that
    part to fractions of the crop."""

    left: int
    top: int
    right: int
    bottom: int
    affine: np.ndarray

    @classmethod
    def of(cls, frame: np.ndarray, placement: np.ndarray) -> _Place | None:
        """None for a crop outside the frame."""
        height, width = frame.shape[:2]
        corners = to_picture(np.array([[0, 0], [1, 0], [0, 1], [1, 1]]), placement)
        left, top = np.clip(np.floor(corners.min(0)).astype(int), 0, (width, height))
        right, bottom = np.clip(np.ceil(corners.max(0)).astype(int), 0, (width, height))
        if right - left < 2 or bottom - top < 2:
            return None
        origin, to_right, down = to_crop(np.array([[left, top], [left + 1, top], [left, top + 1]], float), placement)
        return cls(left, top, right, bottom, np.column_stack([to_right - origin, down - origin, origin]))

    @property
    def size(self) -> tuple[int, int]:
        return self.right - self.left, self.bottom - self.top

    def part(self, frame: np.ndarray) -> np.ndarray:
        return frame[self.top : self.bottom, self.left : self.right]

    def places(self) -> list[np.ndarray]:
        """x and y [h, w] of the part's pixels, in fractions of the crop."""
        y, x = np.indices(self.size[::-1], np.float32) + np.float32(0.5)
        return [np.float32(row[0]) * x + np.float32(row[1]) * y + np.float32(row[2]) for row in self.affine]

    def inside(self) -> np.ndarray:
        """1 where the part's pixels [h, w] are in the crop, else 0."""
        x, y = self.places()
        return ((x > 0) & (x < 1) & (y > 0) & (y < 1)).astype(np.float32)

    def seen(self, crop: np.ndarray) -> np.ndarray:
        """A crop [h, h] or [h, h, 3], uint8, in the part's pixels."""
        return warp(crop, self.affine * len(crop), self.size)


def paste(frame: np.ndarray, crop: np.ndarray, placement: np.ndarray) -> Pasted:
    """The crop uint8 [h, h, 3] laid over the frame uint8 [H, W, 3] at its placement [4], but for its corners."""
    place = _Place.of(frame, placement)
    if place is None:
        return Pasted(frame.copy(), 0.0)
    mask = _mask(*place.places())
    below, above = place.part(frame).astype(np.float32), place.seen(crop).astype(np.float32)
    above += _colour_shift(below - above, mask)
    blend = np.rint(np.clip(below + mask[..., None] * (above - below), 0, 255)).astype(np.uint8)
    result = frame.copy()
    place.part(result)[:] = np.where(mask[..., None] > 0, blend, place.part(frame))
    return Pasted(result, seam(place.part(result), [below, above], mask, 256 / float(placement[2])))


class Head:
    """Pastes heads: face and hair as they are drawn, over a frame from which its own head is gone.

    The map of regions of the drawn crop tells what is head; that of the frame's own crop, what has to go. The plate
    behind is filled smoothly from what is around. The head's colours become those of the frame's light, by the skin.

    own: whether the crop shows the frame's own person before its own backdrop, as a generator does that is tuned to it.
    Then the crop itself tells what was behind, and what of neck and clothes moves with the head comes along.
    """

    def __init__(self, own: bool = False) -> None:
        self._own = own
        self._kept: tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray, np.ndarray] | None = None

    @cached_property
    def _net(self) -> FaceNet:
        return load_face(builtin("face")).eval().requires_grad_(False)

    def paste(self, frame: np.ndarray, crop: np.ndarray, placement: np.ndarray) -> Pasted:
        """The head in the crop uint8 [h, h, 3] on the frame uint8 [H, W, 3], at its placement [4]."""
        place = _Place.of(frame, placement)
        if place is None:
            return Pasted(frame.copy(), 0.0)
        plate, flesh, gone = self._plate(frame, placement, place)
        regions = _regions(self._net, crop)
        head = matte_of(crop, head_share(regions))
        if self._own:
            heads = np.maximum(gone, place.seen(_bytes(head.alpha)) / np.float32(255))
            return self._over(frame, crop, place, heads, _VIEW / float(placement[2]))
        mask = place.seen(_bytes(head.alpha * _fading(crop.shape[0]))).astype(np.float32) / 255
        mask *= place.inside()
        skin = _skin(crop, regions)
        gain = np.ones(3)
        if len(skin) and len(flesh):
            gain = (linear(np.median(flesh, 0)) + 1e-3) / (linear(np.median(skin, 0)) + 1e-3)
            gain = np.clip(gain, 1 / _MOST_GAIN, _MOST_GAIN)
        table = np.stack([srgb(linear(np.arange(256)) * each) for each in gain], 1)
        lit = np.stack([table[head.person[..., channel], channel] for channel in range(3)], -1)
        above = place.seen(np.rint(lit).astype(np.uint8)).astype(np.float32)
        blend = np.rint(plate + mask[..., None] * (above - plate)).astype(np.uint8)
        result = frame.copy()
        place.part(result)[:] = blend
        sources = [place.seen(crop).astype(np.float32), above, plate, place.part(frame).astype(np.float32)]
        return Pasted(result, seam(blend, sources, mask, _VIEW / float(placement[2])))

    @staticmethod
    def _over(frame: np.ndarray, crop: np.ndarray, place: _Place, mask: np.ndarray, scale: float) -> Pasted:
        """The crop on the frame where either of both heads is, float [h, w] of the part."""
        soft = np.asarray(ndimage.gaussian_filter(mask, _SOFT * np.sqrt(mask.size)), np.float32)
        wide = np.clip(2 * soft, 0, 1) * place.seen(_bytes(_fading(crop.shape[0]))) / np.float32(255) * place.inside()
        below, above = place.part(frame).astype(np.float32), place.seen(crop).astype(np.float32)
        above += _colour_shift(below - above, wide)
        result = frame.copy()
        place.part(result)[:] = np.rint(np.clip(below + wide[..., None] * (above - below), 0, 255)).astype(np.uint8)
        return Pasted(result, seam(place.part(result), [below, above], wide, scale))

    def _plate(
        self, frame: np.ndarray, placement: np.ndarray, place: _Place
    ) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """The part of the frame, float32, without its head, the pixels [N, 3] of that head's skin, and how much of the
        part has gone [h, w]. One is kept."""
        if self._kept is not None and self._kept[0] is frame and np.array_equal(self._kept[1], placement):
            return self._kept[2:]
        crop = cut(frame, placement, _VIEW)
        regions = _regions(self._net, crop)
        reach = 2 * round(_OUTSIDE * PARSED_SIZE) + 1
        old = sum(regions[PARSED.index(name)] for name in _HEAD)
        wide = torch.from_numpy(np.clip(2 * np.asarray(old, np.float32), 0, 1))[None, None]
        wide = torch.nn.functional.max_pool2d(wide, reach, 1, reach // 2)[0, 0].numpy()
        # Neck and clothes stay, whatever is drawn before them.
        wide *= 1 - np.clip(2 * (regions[PARSED.index("neck")] + regions[PARSED.index("clothes")]) - 0.5, 0, 1)
        gone, neck = (
            place.seen(_bytes(_resized(each[..., None], (_VIEW, _VIEW))[..., 0])) / np.float32(255)
            for each in (wide, regions[PARSED.index("neck")])
        )
        gone = gone * place.inside()
        part = place.part(frame).astype(np.float32)
        behind = (gone <= 0.02) & (neck * place.inside() < 0.1)  # the neck's skin is not what is behind the head
        filled = fill(part, behind) if behind.any() else part
        gone = np.clip(gone * 1.5, 0, 1)
        plate = part + gone[..., None] * (filled - part)
        self._kept = frame, np.array(placement), plate, _skin(crop, regions), gone
        return self._kept[2:]


@torch.inference_mode()
def _regions(net: FaceNet, crop: np.ndarray) -> np.ndarray:
    """Probabilities [R, 64, 64] of the regions of a crop uint8 [h, h, 3]."""
    image = torch.tensor(crop).permute(2, 0, 1)[None].float() / 127.5 - 1
    scores = net(image, parse=True, close=False).regions
    assert scores is not None
    return scores[0].float().softmax(0).numpy()


def _bytes(share: np.ndarray) -> np.ndarray:
    return np.rint(255 * share).astype(np.uint8)


def _skin(crop: np.ndarray, regions: np.ndarray) -> np.ndarray:
    """Pixels [N, 3] of the skin of a crop by its regions [R, 64, 64]."""
    small = np.asarray(Image.fromarray(crop).resize(regions.shape[:0:-1], Image.Resampling.BOX))
    return small[regions[PARSED.index("skin")] > 0.8]


def head_share(regions: np.ndarray) -> np.ndarray:
    """How much of each pixel is head [64, 64], 0..1, by probabilities [R, 64, 64] of regions; the neck fades out."""
    height = (np.arange(regions.shape[1]) + 0.5)[:, None] / regions.shape[1]
    neck = regions[PARSED.index("neck")] * np.clip((_COLLAR - height) / (_COLLAR - _CHIN), 0, 1)
    return np.asarray(sum(regions[PARSED.index(name)] for name in _HEAD) + neck, np.float32)


def _fading(size: int) -> np.ndarray:
    """How much of a crop of a size may show at all [size, size]: it fades out at its sides and below."""
    place = (np.arange(size) + 0.5) / size
    side, down = np.clip(np.minimum(place, 1 - place) / _EDGE, 0, 1), np.clip((1 - place) / (2 * _EDGE), 0, 1)
    return np.minimum(side[None], down[:, None]).astype(np.float32)


def fill(image: np.ndarray, known: np.ndarray) -> np.ndarray:
    """An image float32 [H, W, 3] whose unknown pixels follow smoothly from the known ones, bool [H, W].

    Pulled to halves until all is known, and pushed back (Gortler et al. 1996).
    """
    weight = known.astype(np.float32)[..., None]
    if known.all() or min(image.shape[:2]) < 2:
        return image
    height, width = (side + side % 2 for side in image.shape[:2])
    pad = [(0, height - image.shape[0]), (0, width - image.shape[1]), (0, 0)]
    both = np.pad(np.dstack([image * weight, weight]), pad)
    both = both.reshape(height // 2, 2, width // 2, 2, 4).mean((1, 3))
    coarse = both[..., :3] / np.maximum(both[..., 3:], 1e-6)
    coarse = fill(coarse, both[..., 3] > 0)
    fine = _resized(coarse, (width, height))[: image.shape[0], : image.shape[1]]
    return np.where(weight > 0, image, fine)


def seam(result: np.ndarray, sources: list[np.ndarray], mask: np.ndarray, scale: float) -> float:
    """How visible the rim of a pasted part is, in CIELAB's units: about 2 is just seen, from 6 on it is a line.

    The largest edges along the rim (95th percentile) that no source has there: differences of colour across 2, 4, 8 and
    16 pixels of a crop of 256, of which wide ones count less, for the eye forgives soft ones. Where a source has an
    outline itself, as a head has against what was behind it, nothing is out of place.

    Args:
        result: uint8 or float [H, W, 3].
        sources: what was blended, each [H, W, 3]; an edge that one of them has is no seam.
        mask: how much of the pasted part shows [H, W], 0 to 1.
        scale: pixels of a crop of 256 for a pixel of these.
    """
    if scale != 1:
        size = max(2, round(mask.shape[1] * scale)), max(2, round(mask.shape[0] * scale))
        mask = _resized(mask[..., None], size)[..., 0]
        result, sources = _resized(result, size), [_resized(each, size) for each in sources]
    rim = (mask > 0.02) & (mask < 0.98)
    inner, outer = mask >= 0.98, mask <= 0.02  # also a hard edge has a rim, of two pixels
    for axis in (0, 1):
        rim |= (np.roll(inner, 1, axis) & outer) | (np.roll(outer, 1, axis) & inner)
    if not rim.any():
        return 0.0
    colours = [lab(np.rint(np.clip(each, 0, 255)).astype(np.uint8)) for each in (result, *sources)]
    worst = np.zeros(mask.shape)
    for half, weight in _STEPS:
        edges = [_edges(each, half) for each in colours]
        own = np.max(edges[1:], axis=0)
        worst = np.maximum(worst, weight * (edges[0] - own) * np.clip(1 - own / _OUTLINE, 0, 1))
    return float(np.percentile(worst[rim], 95))


def _edges(colour: np.ndarray, half: int) -> np.ndarray:
    """The larger difference of colour [H, W, 3] across 2 x half pixels, right or down: [H, W]."""
    found = np.zeros(colour.shape[:2])
    for axis in (0, 1):
        if colour.shape[axis] > 2 * half:
            front, back = (slice(2 * half, None), slice(None, -2 * half))
            ends = [colour[each] if axis == 0 else colour[:, each] for each in (front, back)]
            middle = slice(half, colour.shape[axis] - half)
            where = (middle, slice(None)) if axis == 0 else (slice(None), middle)
            found[where] = np.maximum(found[where], np.linalg.norm(ends[0] - ends[1], axis=-1))
    return found


def _mask(x: np.ndarray, y: np.ndarray) -> np.ndarray:
    """How much of the crop shows [H, W], 0 to 1, at positions x and y [H, W] in fractions of the crop."""
    x, y = 2 * x - 1, y - EYE_LEVEL
    y = np.where(y > 0, y / (_NECK - EYE_LEVEL), y / EYE_LEVEL)
    rim = _RIM + (_NECK_RIM - _RIM) * np.clip(y, 0, 1)
    rising = np.clip((1 - (np.abs(x) ** _ROUND + np.abs(y) ** _ROUND) ** (1 / _ROUND)) / rim, 0, 1)
    return (rising**2 * (3 - 2 * rising)).astype(np.float32)


def _colour_shift(difference: np.ndarray, mask: np.ndarray) -> np.ndarray:
    """What to add to the crop [H, W, 3]: the difference on the rim, carried inwards by inverse squared distance."""
    size, step = difference.shape[1::-1], max(1, min(mask.shape) // (8 * _CELLS))  # a sample of the pixels will do
    difference, mask = difference[::step, ::step], mask[::step, ::step]
    # A difference counts by how much it looks like one of colour, and by how near the middle of the rim it is.
    likely = 1 / (1 + (np.abs(difference).max(-1) / _COLOUR) ** 2)
    weight = mask * (1 - mask) * likely
    counted = np.dstack([weight, weight[..., None] * difference])
    cells = _resized(counted, (_CELLS, _CELLS)).reshape(_CELLS**2, 4)
    y, x = np.indices((_CELLS, _CELLS)).reshape(2, -1)
    near = 1 / ((x[:, None] - x) ** 2 + (y[:, None] - y) ** 2 + 0.5)
    total = near @ cells
    shift = (total[:, 1:] / (total[:, :1] + 1e-6)).reshape(_CELLS, _CELLS, 3)
    return _resized(shift / (1 + (shift / (2 * _COLOUR)) ** 4), size)


def _resized(field: np.ndarray, size: tuple[int, int]) -> np.ndarray:
    """A field [H, W, C] at another (width, height), float32: averaged when it shrinks, smooth when it grows."""
    parts = (Image.fromarray(np.ascontiguousarray(part, np.float32)) for part in np.moveaxis(field, -1, 0))
    return np.dstack([np.asarray(part.resize(size, Image.Resampling.BILINEAR)) for part in parts])
