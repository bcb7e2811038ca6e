"""From one photograph to the drawn person: who is read as factors of the world, and composed by the mapping network.

What tells best is believed. Landmarks give the shape of the face: the most probable factors, whose exact landmarks in
the world are where the photograph's are. `family.likeness`'s net gives what is worn, hair, beard, age, and a map of
regions; the cut of the hair is the one that the world draws most like that map. Medians of regions in white light give
the colours: the factors of the palette are changed until the drawn person has them, too.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field, replace
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from stylereel import world
from stylereel.faces.placement import cut, to_crop
from stylereel.family.likeness import CUT, INPUT, WORN, LikenessNet
from stylereel.family.nets import PARSED, PARSED_SIZE
from stylereel.family.people import GROUPS, grouped_w, latents_of
from stylereel.generator import StyleGAN2
from stylereel.invert.regions import balanced, bridge, lamp, measure
from stylereel.media.colour import is_gray, lab, linear
from stylereel.world import hair
from stylereel.world.factors import GROUP, HIGH, INDEX, LOW, NAMES, from_normal, to_normal
from stylereel.world.materials import BACK_1 as BACKDROP
from stylereel.world.materials import CLOTH, HAIR, IRIS, LIP, SKIN, palette
from stylereel.world.shading import REGIONS

Draw = Callable[[np.ndarray], np.ndarray]  # factor values [K] to an image uint8 [H, W, 3]

SIZE = 256
_RADIUS = 2.2  # how far a number of a person may be from the mean, in standard deviations
# Factors that landmarks tell, and those of motion that move them.
_SHAPE = (
    *("face_width", "jaw_width", "chin_length", "chin_width", "cheeks", "eye_distance", "eye_size", "eye_tilt"),
    *("nose_length", "nose_width", "mouth_width", "lip_fullness", "brow_height", "brow_arch"),
)
_MOVING = ("yaw", "pitch", "roll", "shift_x", "shift_y", "scale", "jaw", "smile", "pucker", "press")
_LIDS_AND_BROWS = ("brow_left", "brow_right", "blink_left", "blink_right")
_SPREADS = {"shift_x": 0.4, "shift_y": 0.4, "scale": 0.25}  # of motion's numbers about what was read; others:
_MOTION_SPREAD = 0.25
_LIPS = 48  # first landmark of the lips
# How far landmarks of the same place are off, in sides of the crop: jaw, brows, nose, eyes, mouth.
_OFF = np.repeat([0.016, 0.010, 0.006, 0.0045, 0.007], [17, 10, 9, 12, 20])[:, None]
# Which regions tell a cut of hair.
_MERGED = {"hat": "hair", "brow": "skin", "eye": "skin", "lips": "skin", "mouth": "skin", "glasses": "skin",
           "beard": "skin", "ear": "skin", "earring": "background"}  # fmt: skip
_CLASSES = ("background", "hair", "skin", "neck", "clothes")
_PART_OF = {"skin": SKIN, "hair": HAIR, "lips": LIP, "iris": IRIS, "clothes": CLOTH, "background": BACKDROP}
_KNOBS: dict[str, dict[str, np.ndarray]] = {
    "skin": {"skin_tone": np.linspace(0, 1, 41), "skin_warmth": np.linspace(-1, 1, 9)},
    "hair": {
        "hair_light": np.linspace(0, 1, 21),
        "hair_red": np.linspace(0, 0.9, 7),
        "hair_gray": np.linspace(0, 1, 9),
    },
    "lips": {"lip_colour": np.linspace(-1, 1, 13)},
    "iris": {"eye_light": np.linspace(0, 1, 11), "eye_hue": np.linspace(-1, 1, 11)},
    "clothes": {"clothes_hue": np.linspace(-1, 1, 25), "clothes_light": np.linspace(0, 1, 15)},
    "background": {"backdrop_hue": np.linspace(-1, 1, 25), "backdrop_light": np.linspace(0, 1, 15)},
}
_BELIEVED = {"beard": 0.8}  # the shadow under a chin is more common than a beard; others from .5 on
_BRIDGE = 2.5  # of `regions.bridge`, from which on glasses are believed
CHILD = 1.05  # of `child_score`
_REDDER = 9.0  # than the skin, in CIELAB's a*: lips that are as often a woman's as a man's
_ROUNDS = 5  # of drawing and comparing colours


@dataclass(frozen=True)
class Person:
    """Who was read.

    values: factors [K] of the world, motion included; sure: how sure a reading is, 0..1, by its name in `table`;
    colours: medians in white light, sRGB 0..255, by the part; light: the photograph's [3], linear; marks: landmarks
    [68, 2] in 0..1 of the crop, as they were read; irises: their middles and radii [2, 3] there, or [0, 3] from a
    reader that does not see them.
    """

    values: np.ndarray
    sure: Mapping[str, float] = field(default_factory=dict)
    colours: Mapping[str, np.ndarray] = field(default_factory=dict)
    light: np.ndarray = field(default_factory=lambda: np.ones(3))
    marks: np.ndarray = field(default_factory=lambda: np.empty((0, 2), np.float32))
    irises: np.ndarray = field(default_factory=lambda: np.empty((0, 3), np.float32))

    def __getitem__(self, name: str) -> float:
        return float(self.values[INDEX[name]])


class View(NamedTuple):
    """A photograph's face in canonical framing: image uint8 [H, W, 3] in white light, landmarks [68, 2] in 0..1 of it,
    probabilities of regions [R, 64, 64], the light's colour [3], and whether the photograph is gray."""

    image: np.ndarray
    marks: np.ndarray
    regions: np.ndarray
    light: np.ndarray
    gray: bool


class Heard(NamedTuple):
    """The net's outputs for one face, means over several views: values by name, -1..1; probabilities of the styles
    [10] and of `WORN` by name; the cut [9], normalised."""

    values: dict[str, float]
    styles: np.ndarray
    worn: dict[str, float]
    cut: np.ndarray


_VIEWS = ((0.0, 0.0, 1.0), (0.02, 0.01, 1.04), (-0.02, -0.015, 0.97), (0.0, 0.02, 1.08))


@torch.inference_mode()
def hear(net: LikenessNet, image: np.ndarray, row: np.ndarray) -> tuple[Heard, np.ndarray]:
    """What the net reads of the face in the crop `row` [4] of an image uint8 [H, W, 3], and the regions [R, 64, 64]."""
    crops = []
    for x, y, size in _VIEWS:
        moved = row + (x * row[2], y * row[2], (size - 1) * row[2], 0)
        crops.append(cut(image, moved, INPUT))
    batch = torch.tensor(np.stack(crops)).permute(0, 3, 1, 2).float() / 127.5 - 1
    seen = net(torch.cat([batch, batch.flip(3)]))
    sign = torch.ones(seen.values.shape[1])
    names = net.config.values.split()
    sign[[i for i, name in enumerate(names) if name in ("parting", "light_side", "backdrop_pattern")]] = -1
    values = (seen.values[: len(batch)] + sign * seen.values[len(batch) :]).mean(0) / 2
    regions = seen.regions.softmax(1)
    regions = (regions[0] + regions[len(batch)].flip(2)) / 2
    worn = torch.sigmoid(seen.worn.mean(0)).tolist()
    return (
        Heard(
            dict(zip(names, values.tolist())),
            seen.styles.softmax(1).mean(0).numpy(),
            dict(zip(net.config.worn.split(), worn)),
            seen.cut.mean(0).numpy(),
        ),
        regions.numpy(),
    )


def view(net: LikenessNet, image: np.ndarray, marks: np.ndarray, row: np.ndarray) -> tuple[View, Heard]:
    """A face by its landmarks [68, 2] in pixels and its crop [4], and what the net reads of it."""
    crop, places = cut(image, row, SIZE), to_crop(marks, row)
    light = lamp(crop, places)
    heard, regions = hear(net, image, row)
    return View(balanced(crop, light), places, regions, light, is_gray(crop)), heard


def fit_shape(marks: np.ndarray, motion: np.ndarray, usual: Mapping[str, float] | None = None) -> np.ndarray:
    """Factor values [K] whose landmarks are most like `marks` [68, 2], 0..1 of the canonical crop.

    The most probable ones, given that numbers of people are standard normal (about `usual`, factor values by name) and
    that motion is near `motion` [M] as it was read. Gauss-Newton, eight steps.
    """
    start = world.neutral()
    start[: len(motion)] = np.clip(motion, LOW[: len(motion)], HIGH[: len(motion)])
    for name, value in (usual or {}).items():
        start[INDEX[name]] = value
    start = world.align(start)
    prior = to_normal(start)
    free = np.array([INDEX[name] for name in (*_SHAPE, *_MOVING, *_LIDS_AND_BROWS)])
    spread = np.array([1.0 if name in _SHAPE else _SPREADS.get(name, _MOTION_SPREAD) for name in np.array(NAMES)[free]])

    def places(numbers: np.ndarray) -> np.ndarray:
        return (world.project_landmarks(from_normal(numbers))[0] / _OFF).ravel()

    numbers, target = prior.copy(), (marks / _OFF).ravel()
    for _ in range(8):
        here = places(numbers)
        slopes = np.empty((len(here), len(free)))
        for column, index in enumerate(free):
            moved = numbers.copy()
            moved[index] += 0.05
            slopes[:, column] = (places(moved) - here) / 0.05
        weight = 1 / (1 + np.square((target - here) / 3))  # a point that is far off is wrong
        away = (prior[free] - numbers[free]) / spread**2
        normal = slopes.T @ (weight[:, None] * slopes) + np.diag(spread**-2.0)
        step = np.linalg.solve(normal, slopes.T @ (weight * (target - here)) + away)
        numbers[free] = np.clip(numbers[free] + np.clip(step, -1, 1), -_RADIUS, _RADIUS)
    return from_normal(numbers)


def _with(values: np.ndarray, **changed: float) -> np.ndarray:
    out = values.copy()
    for name, value in changed.items():
        out[INDEX[name]] = np.clip(value, LOW[INDEX[name]], HIGH[INDEX[name]])
    return out


_LOOKUP = np.array([_CLASSES.index(_MERGED.get(name, name)) for name in REGIONS])
_CUT_MEAN = np.array([0.12, 0.07, 0.08, 0.6, 0.1, 0.3, 0.1, 0.1, 0.3])
_CUT_SPREAD = np.array([0.1, 0.07, 0.13, 0.65, 0.13, 0.3, 0.3, 0.3, 0.35])


def fit_hair(values: np.ndarray, seen: View, heard: Heard, styles: np.ndarray | None = None) -> np.ndarray:
    """Factor values [K] with the cut of hair that the world draws most like the photograph's regions.

    styles: weights of the hair styles [10], as logarithms of probabilities; the net's if not given.
    """
    merged = np.zeros((len(_CLASSES), PARSED_SIZE, PARSED_SIZE))
    for part, name in zip(seen.regions, PARSED):
        merged[_CLASSES.index(_MERGED.get(name, name))] += part
    surprise = -np.log(0.05 + 0.95 * merged)  # the map may be wrong anywhere
    weights = 2 * np.log(heard.styles + 0.02) if styles is None else styles
    rows, columns = np.indices((PARSED_SIZE, PARSED_SIZE))

    def cost(candidate: np.ndarray) -> float:
        drawn = _LOOKUP[world.draw(candidate, PARSED_SIZE).regions]
        cut_of = hair.style(np.ascontiguousarray(candidate, np.float32))[list(CUT.values())]
        away = np.clip((cut_of - _CUT_MEAN) / _CUT_SPREAD, -3, 3) - heard.cut
        style = int(np.searchsorted(hair.STYLE_EDGES[1:-1], candidate[INDEX["hair_style"]]))
        return 40 * float(surprise[drawn, rows, columns].mean()) + 0.15 * float(away @ away) - float(weights[style])

    best, least = values, np.inf
    plain = _with(values, hat=0.0)
    grid = itertools.product(range(len(hair.STYLES)), (0.1, 0.5, 0.9), (0.0, 0.7), (0.15, 0.85))
    for style, length, fringe, curl in grid:
        if weights[style] < weights.max() - 6:
            continue
        each = _with(plain, hair_style=hair.style_value(style), hair_length=length, fringe=fringe, curl=curl)
        found = cost(each)
        if found < least:
            best, least = each, found
    for _ in range(2):
        for name, size in (
            *(("hair_length", 0.2), ("hair_volume", 0.5), ("hairline", 0.5), ("fringe", 0.3), ("curl", 0.25)),
            *(("parting", 0.5), ("forehead_height", 0.4)),
        ):
            for by in (-size, size, -size / 2, size / 2):
                each = _with(best, **{name: best[INDEX[name]] + by})
                found = cost(each) + 0.15 * max(0.0, abs(float(to_normal(each)[INDEX[name]])) - 1.2)
                if found < least - 1e-6:
                    best, least = each, found
    return best


def fit_colours(values: np.ndarray, target: Mapping[str, np.ndarray], show: Draw, gray: bool = False) -> np.ndarray:
    """Factor values [K] with which the drawn person has the median colours `target` of parts.

    show: draws the person. What is drawn is measured as the photograph was, and the palette's colour is changed by
    what is missing, with damping; the factors are those whose palette is nearest to that.
    """
    aim = {name: np.sqrt(palette(np.ascontiguousarray(values, np.float32))[_PART_OF[name]]) for name in target}
    best, least = {name: values for name in target}, dict.fromkeys(target, np.inf)
    for step in range(_ROUNDS):
        drawn = world.draw(values, SIZE)
        classes = np.array([PARSED.index("ear" if name == "earring" else name) for name in REGIONS])
        regions = classes[drawn.regions[2::4, 2::4]]
        found = measure(show(values), drawn.landmarks, regions)
        for name in target:
            if name not in found:
                continue
            missing = float(np.linalg.norm(lab(target[name]) - lab(found[name])))
            if missing < least[name]:
                best[name], least[name] = values, missing
            ratio = (linear(target[name]) + 2e-3) / (linear(found[name]) + 2e-3)
            aim[name] = np.clip(aim[name] * np.clip(ratio, 0.3, 3) ** 0.4, 0.02, 1.3)
        if step + 1 < _ROUNDS:
            for name in target:
                values = _nearest(values, name, aim[name], gray)
    for name in target:
        for knob in _KNOBS[name]:
            values = _with(values, **{knob: best[name][INDEX[knob]]})
    return values


def _nearest(values: np.ndarray, part: str, aim: np.ndarray, gray: bool) -> np.ndarray:
    """The values [K] with those knobs of a part's colour whose palette is nearest to `aim` [3], sRGB 0..1."""
    knobs = _KNOBS[part]
    rows = np.repeat(np.array(values, np.float32)[None], int(np.prod([len(each) for each in knobs.values()])), axis=0)
    columns = [INDEX[name] for name in knobs]
    rows[:, columns] = np.stack(np.meshgrid(*knobs.values(), indexing="ij"), -1).reshape(len(rows), -1)
    there = lab(255 * np.sqrt(np.stack([palette(row)[_PART_OF[part]] for row in rows])))
    away = there - lab(255 * np.minimum(aim, 1))
    if gray:
        away[:, 1:] = 0
    # Of colours that are as near, the most usual one.
    usual = (2.0 if gray else 0.4) * np.abs(to_normal(rows)[:, columns]).sum(1)
    return rows[int(np.argmin(np.square(away).sum(1) + usual))]


def compose(generator: StyleGAN2, values: np.ndarray) -> Tensor:
    """W+ codes [L, D] of the person with factor values [K], by the mapping network, aligned."""
    numbers = from_normal(np.clip(to_normal(world.align(values)), -_RADIUS, _RADIUS))[None]
    z = torch.from_numpy(latents_of(numbers, np.random.default_rng(0), steady=True)).float()
    with torch.inference_mode():
        return grouped_w(generator, z.to(generator.mean_w.device))[0].clone()


def painter(generator: StyleGAN2) -> Draw:
    """Draws factor values by the generator."""

    def show(values: np.ndarray) -> np.ndarray:
        with torch.inference_mode():
            image = generator.synthesize(compose(generator, values)[None])[0]
        return ((image.clamp(-1, 1) + 1) * 127.5).round().byte().permute(1, 2, 0).cpu().numpy()

    return show


# Factors that the net tells: by how much its answer, which keeps to the mean where it is unsure, is believed.
_NET = {
    **dict.fromkeys(("nose_bridge", "ear_size", "neck_width", "eyelid", "nose_tip"), 1.0),
    **dict.fromkeys(("brow_thickness", "forehead_height", "hairline", "hair_volume", "neckline"), 1.0),
    **dict.fromkeys(("age", "freckles"), 1.0),
    **dict.fromkeys(("light_side", "light_height", "light_contrast"), 0.7),
}


def _value(name: str, unit: float) -> float:
    """A factor's value from units of half its range around its middle."""
    low, high = float(LOW[INDEX[name]]), float(HIGH[INDEX[name]])
    return (low + high) / 2 + (high - low) / 2 * float(np.clip(unit, -1, 1))


def read(
    net: LikenessNet,
    show: Draw,
    image: np.ndarray,
    marks: np.ndarray,
    row: np.ndarray,
    motion: np.ndarray,
    irises: np.ndarray | None,
) -> Person:
    """Who is in an image uint8 [H, W, 3]: a face by its landmarks [68, 2] in pixels, its crop [4] in canonical
    framing, and its motion [M] as it was read. show: draws factor values, as the result will be drawn; irises:
    middles and radii [2, 3] in pixels, by a mesh, whose landmarks these are then; None: they are dlib's."""
    seen, heard = view(net, image, marks, row)
    usual = {name: _value(name, share * heard.values[name]) for name, share in _NET.items()}
    # What the reader adds in drawn faces is taken off, so that they are read alike; but not at the lips, which it sees
    # where they are in people, and too wide and too high in drawn faces.
    marks = seen.marks.copy()
    marks[:_LIPS] -= net.offsets[1 if irises is None else 0].numpy()[:_LIPS]
    values = fit_shape(marks, motion, usual)
    sure = dict(heard.worn)
    # Glasses must have a bridge, too: eyes in the shadow and lines around them look like frames to the net.
    line = bridge(seen.image, seen.marks)
    sure["glasses"] = min(sure["glasses"], float(1 / (1 + np.exp(-2.0 * (line - _BRIDGE)))))
    for name, edge in WORN.items():
        there = sure[name] > _BELIEVED.get(name, 0.5)
        least = edge + (0.45 if name in ("beard", "moustache") else 0.12)
        amount = max(_value(name, heard.values[name]), least) if there else 0.0
        values = _with(values, **{name: amount})
    values = _with(values, glasses_shape=_value("glasses_shape", heard.values["glasses_shape"]))
    values = fit_hair(values, seen, heard)
    colours = measure(seen.image, seen.marks, seen.regions)
    values = _as_woman_or_man(values, heard, sure, colours, seen.gray)
    values = fit_colours(values, colours, show, seen.gray)
    found = Person(values, sure, colours, seen.light, seen.marks.astype(np.float32))
    if irises is None:
        return found
    placed = np.column_stack([to_crop(irises[:, :2], row), irises[:, 2] / row[2]])
    return replace(found, irises=placed.astype(np.float32))


def child_score(values: np.ndarray) -> float:
    """How much like a child's a face is: large eyes, far apart, and a short nose; `CHILD` parts them from others."""
    numbers = to_normal(values)
    eyes, nose, apart = (numbers[INDEX[name]] for name in ("eye_size", "nose_length", "eye_distance"))
    return float(eyes - nose + 0.5 * apart)


def _as_woman_or_man(
    values: np.ndarray, heard: Heard, sure: Mapping[str, float], colours: Mapping[str, np.ndarray], gray: bool
) -> np.ndarray:
    """The values with what tells women from men where the photograph does not say it otherwise.

    The world has no factor for it. Judged by beards, by the length of the hair, and by how much redder than the skin
    the lips are (Russell 2009: faces of women have more contrast). If the face looks like a woman's, hair that is short
    in outline is taken as tied. Children get smooth round cheeks instead.
    """
    score = -1.2
    if child_score(values) > CHILD:
        return _with(values, age=0.0, cheeks=max(0.4, float(values[INDEX["cheeks"]])), beard=0.0, moustache=0.0)
    if not gray and "lips" in colours and "skin" in colours:
        score += float(np.clip((lab(colours["lips"])[1] - lab(colours["skin"])[1] - _REDDER) / 5, -1.0, 1.5))
    long = heard.styles[[hair.STYLES.index(name) for name in ("fringe", "long", "wavy")]].sum()
    score += 3.0 * float(long) - 4.0 * max(0.0, max(sure["beard"], sure["moustache"]) - 0.5)
    share = float(np.clip(score, -1, 1))
    if share > 0:
        if long < 0.4 and sure["hat"] < 0.5:
            tied = hair.style_value(hair.STYLES.index("knot"))
            values = _with(values, hair_style=tied, hair_length=0.7)  # a tail that is seen, too
        values = _with(values, beard=0.0, moustache=0.0, makeup=0.3 + 0.4 * share)
    for name, by in (("brow_thickness", -0.8), ("neck_width", -0.6), ("jaw_width", -0.3), ("chin_width", -0.4)):
        values = _with(values, **{name: values[INDEX[name]] + by * share})
    return values


BOUND = 0.7  # how far refining may move a person's numbers, in standard deviations
_COARSE = 32  # pixels of the images that refining compares


def refine(
    generator: StyleGAN2, values: np.ndarray, seen: View, steps: int, through: Callable[[range], Iterable[int]] = iter
) -> np.ndarray:
    """Factor values [K] near `values` whose drawn image is more like the photograph, low-passed and in white light.

    What moves is the numbers of shape and look, each by at most `BOUND` and never beyond what people have, so that it
    stays a person whatever the photograph shows. Each step costs an image and its gradient.
    """
    device = generator.mean_w.device
    start = to_normal(world.align(values))
    z = torch.from_numpy(latents_of(from_normal(start)[None], np.random.default_rng(0), steady=True)[0]).float()
    groups = np.array([GROUPS.index(GROUP[name]) for name in NAMES])
    own = torch.from_numpy(groups[None] == np.arange(len(GROUPS))[:, None]).to(device)
    own = torch.nn.functional.pad(own, (0, z.shape[1] - own.shape[1]))
    numbers = torch.from_numpy(start).float().to(device)
    free = torch.tensor([GROUP[name] in ("shape", "look") for name in NAMES], device=device)
    low, high = (numbers - BOUND).clamp_min(-_RADIUS), (numbers + BOUND).clamp_max(_RADIUS)
    target = torch.from_numpy(seen.image.astype(np.float32)).to(device).permute(2, 0, 1)[None] / 127.5 - 1
    behind = torch.from_numpy(seen.regions[PARSED.index("background")]).to(device)[None, None]
    weight = torch.nn.functional.adaptive_avg_pool2d(1 - 0.8 * behind, _COARSE)
    target = torch.nn.functional.adaptive_avg_pool2d(target, _COARSE)
    others = z.to(device) * ~own
    move = torch.zeros_like(numbers, requires_grad=True)
    optimizer = torch.optim.Adam([move], 0.08, betas=(0.9, 0.95))
    best, least = numbers, float("inf")
    for step in [*through(range(steps)), steps]:
        placed = torch.where(free, torch.minimum(torch.maximum(numbers + move, low), high), numbers)
        latent = own * torch.nn.functional.pad(placed, (0, own.shape[1] - len(placed)))
        rest = (z.shape[1] - latent.square().sum(1, keepdim=True)).clamp_min(1) / others.square().sum(1, keepdim=True)
        w = grouped_w(generator, (latent + others * rest.sqrt())[None])
        image = torch.nn.functional.adaptive_avg_pool2d(generator.synthesize(w), _COARSE)
        gray = (image - target).mean(1, keepdim=True) if seen.gray else image - target
        loss = (gray.square() * weight).mean() + 0.02 * move.square().mean()
        if float(loss.detach()) < least:
            best, least = placed.detach(), float(loss.detach())
        if step < steps:
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
    return from_normal(best.double().cpu().numpy())
