"""The factors of a portrait of the world: 80 names, their ranges, and their latent coordinates.

A factor belongs to one of four groups. `POSE` and `EXPRESSION` together are `MOTION` (they change from frame to
frame), `SHAPE` and `LOOK` together are `IDENTITY` (they stay: head geometry and hair cut; colours, light, clothes and
background). A value vector holds all of them in the order of `NAMES`; `MOTION_COLUMNS` says where `MOTION` is in it.

`from_latent` turns a latent z into values and `to_normal` goes back to normal numbers, so a generator that is trained
on images of `from_latent(z)` knows which number of z means what.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from scipy.special import ndtr, ndtri

from stylereel.core.seeds import check_seed

LATENT_DIM = 80


@dataclass(frozen=True)
class Factor:
    """One factor: its name, group, neutral value, limits, and how a normal number becomes a value.

    `spread` "even" fills the range uniformly, "middle" prefers the middle of the range, "rare" stays near `low` for
    most draws (glasses, beards, closed eyes), "narrow" stays near the middle.
    """

    name: str
    group: str
    neutral: float
    low: float
    high: float
    spread: str = "middle"


POSE = ("yaw", "pitch", "roll", "shift_x", "shift_y", "scale")
EXPRESSION = (
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
    "funnel",
    "smile_side",
    "cheek",
    "jaw_side",
)
MOTION = POSE + EXPRESSION

_TABLE = (
    # pose: degrees, fractions of the image, ratio
    Factor("yaw", "pose", 0, -40, 40),
    Factor("pitch", "pose", 0, -18, 18),
    Factor("roll", "pose", 0, -10, 10),
    Factor("shift_x", "pose", 0, -0.08, 0.08),
    Factor("shift_y", "pose", 0, -0.06, 0.06),
    Factor("scale", "pose", 1, 0.85, 1.15),
    # expression: see MOTION in the package's documentation
    Factor("jaw", "expression", 0, 0, 1, "rare"),
    Factor("smile", "expression", 0, -0.6, 1),
    Factor("pucker", "expression", 0, 0, 1, "rare"),
    Factor("press", "expression", 0, 0, 1, "rare"),
    Factor("brow_left", "expression", 0, -1, 1),
    Factor("brow_right", "expression", 0, -1, 1),
    Factor("blink_left", "expression", 0, 0, 1, "rare"),
    Factor("blink_right", "expression", 0, 0, 1, "rare"),
    Factor("gaze_x", "expression", 0, -1, 1),
    Factor("gaze_y", "expression", 0, -1, 1),
    # shape of the head and cut of the hair
    *(
        Factor(name, "shape", 0, -1, 1)
        for name in (
            "face_width",
            "jaw_width",
            "chin_length",
            "chin_width",
            "cheeks",
            "forehead_height",
            "eye_distance",
            "eye_size",
            "eye_tilt",
            "nose_length",
            "nose_width",
            "nose_bridge",
            "mouth_width",
            "lip_fullness",
            "brow_thickness",
            "brow_height",
            "brow_arch",
            "ear_size",
            "neck_width",
            "hair_volume",
        )
    ),
    Factor("hair_length", "shape", 0.2, 0, 1, "even"),
    Factor("hairline", "shape", 0, -1, 1),
    Factor("fringe", "shape", 0, 0, 1, "rare"),
    Factor("parting", "shape", 0, -1, 1),
    Factor("curl", "shape", 0.3, 0, 1, "even"),
    Factor("beard", "shape", 0, 0, 1, "rare"),
    Factor("moustache", "shape", 0, 0, 1, "rare"),
    Factor("glasses", "shape", 0, 0, 1, "rare"),
    Factor("age", "shape", 0.35, 0, 1, "even"),
    # colours, light, clothes, background
    Factor("skin_tone", "look", 0.35, 0, 1, "even"),
    Factor("skin_warmth", "look", 0, -1, 1),
    Factor("freckles", "look", 0, 0, 1, "rare"),
    Factor("hair_light", "look", 0.2, 0, 1, "rare"),
    Factor("hair_red", "look", 0, 0, 1, "rare"),
    Factor("hair_gray", "look", 0, 0, 1, "rare"),
    Factor("eye_light", "look", 0.3, 0, 1, "even"),
    Factor("eye_hue", "look", 0, -1, 1),
    Factor("lip_colour", "look", 0, -1, 1),
    Factor("clothes_hue", "look", 0, -1, 1, "even"),
    Factor("clothes_light", "look", 0.4, 0, 1, "even"),
    Factor("backdrop_hue", "look", 0, -1, 1, "even"),
    Factor("backdrop_light", "look", 0.5, 0, 1, "even"),
    Factor("backdrop_pattern", "shape", 0.5, 0, 1, "even"),
    Factor("light_side", "look", 0, -1, 1),
    Factor("light_height", "look", 0, -1, 1),
    Factor("light_warmth", "look", 0, -1, 1),
    Factor("light_contrast", "look", 0, -1, 1),
    Factor("backdrop_kind", "shape", 0.1, 0, 1, "even"),  # studio, window, bokeh discs, room, landscape
    Factor("glasses_tint", "look", 0, 0, 1, "rare"),
    Factor("makeup", "look", 0, 0, 1, "rare"),
    Factor("accent_hue", "look", 0, -1, 1, "even"),  # hat, frames, earrings
    Factor("clothes_pattern", "look", 0.1, 0, 1, "even"),  # plain, stripes, knitted, checked
    # more of the shape, at the end: the numbers before keep their place
    Factor("hair_style", "shape", 0.25, 0, 1, "even"),  # ten styles, see `hair.STYLES`
    Factor("hat", "shape", 0, 0, 1, "rare"),
    Factor("hat_style", "shape", 0.5, 0, 1, "even"),  # beanie, cap, brimmed hat
    Factor("earring", "shape", 0, 0, 1, "rare"),
    Factor("glasses_shape", "shape", 0.5, 0, 1, "even"),  # round, rectangular, drop
    Factor("neckline", "shape", 0.1, 0, 1, "even"),  # crew neck, V, shirt collar, roll neck
    Factor("eyelid", "shape", 0, -1, 1),  # open lid with a high crease .. hooded
    Factor("nose_tip", "shape", 0, -1, 1),  # drooping .. turned up
    # more of the expression; left is the subject's left
    Factor("funnel", "expression", 0, 0, 1, "rare"),  # lips rounded around an opening (FACS 22, mouthFunnel)
    Factor("smile_side", "expression", 0, -1, 1, "narrow"),  # left corner of the mouth higher than the right one
    Factor("cheek", "expression", 0, -1, 1, "narrow"),  # puffed (FACS 34) .. raised, with narrowed eyes (FACS 6)
    Factor("jaw_side", "expression", 0, -1, 1, "narrow"),  # jaw moved to the left (FACS 30, jawLeft)
)

NAMES = tuple(factor.name for factor in _TABLE)
GROUP = {factor.name: factor.group for factor in _TABLE}
INDEX = {name: index for index, name in enumerate(NAMES)}
MOTION_COLUMNS = [INDEX[name] for name in MOTION]
IDENTITY = tuple(factor.name for factor in _TABLE if factor.group in ("shape", "look"))
LOW = np.array([factor.low for factor in _TABLE], np.float32)
HIGH = np.array([factor.high for factor in _TABLE], np.float32)
NEUTRAL = np.array([factor.neutral for factor in _TABLE], np.float32)

# Left and right of these pairs move together most of the time: the latent holds their mean and their difference.
_PAIRS = (("brow_left", "brow_right"), ("blink_left", "blink_right"))
_MIX = np.array([[0.95, 0.3122499], [0.95, -0.3122499]])  # rows have unit length, so both stay standard normal


def _spread_index(spread: str) -> np.ndarray:
    return np.array([i for i, factor in enumerate(_TABLE) if factor.spread == spread])


_MIDDLE, _EVEN, _RARE, _NARROW = (_spread_index(spread) for spread in ("middle", "even", "rare", "narrow"))
_RARE_CENTRE, _RARE_SLOPE = 0.75, 1.9
_NARROW_SLOPE, _NARROW_MOST = 0.6, np.sinh(0.6 * 2.6)


def neutral() -> np.ndarray:
    """The value vector [K] of a neutral head that looks straight ahead."""
    return NEUTRAL.copy()


def normalize(z: np.ndarray) -> np.ndarray:
    """z [..., 80] scaled to unit second moment, as the mapping network of a StyleGAN does before anything else."""
    z = np.asarray(z, np.float64)
    return z / np.sqrt(np.mean(z**2, axis=-1, keepdims=True) + 1e-8)


def from_latent(z: np.ndarray) -> np.ndarray:
    """Values [..., K] of the factors for latents z [..., 80]."""
    return from_normal(normalize(z))


def person(seed: int) -> np.ndarray:
    """Values [K] of the invented person of a seed, as `world sheet` and `world portrait` draw them."""
    return from_latent(np.random.default_rng(check_seed(seed)).standard_normal(LATENT_DIM))


def from_normal(n: np.ndarray) -> np.ndarray:
    """Values [..., K] for numbers n [..., 80] that are standard normal already; the inverse of `to_normal`."""
    n = n[..., : len(NAMES)].copy()
    for left, right in _PAIRS:
        pair = [INDEX[left], INDEX[right]]
        n[..., pair] = n[..., pair] @ _MIX.T
    unit = np.empty_like(n)  # 0..1
    unit[..., _MIDDLE] = 0.5 + 0.5 * np.tanh(0.62 * n[..., _MIDDLE])
    unit[..., _EVEN] = ndtr(n[..., _EVEN])
    unit[..., _RARE] = ndtr(_RARE_SLOPE * (n[..., _RARE] - _RARE_CENTRE))
    unit[..., _NARROW] = 0.5 + 0.5 * np.clip(np.sinh(_NARROW_SLOPE * n[..., _NARROW]) / _NARROW_MOST, -1, 1)
    return (LOW + unit * (HIGH - LOW)).astype(np.float32)


def to_normal(values: np.ndarray) -> np.ndarray:
    """Normal numbers [..., 80] whose `from_normal` gives `values` [..., K]; clipped to +-2.6."""
    unit = np.clip((np.asarray(values, np.float64) - LOW) / (HIGH - LOW), 0.004, 0.996)
    n = np.empty_like(unit)
    n[..., _MIDDLE] = np.arctanh(2 * unit[..., _MIDDLE] - 1) / 0.62
    n[..., _EVEN] = ndtri(unit[..., _EVEN])
    n[..., _RARE] = _RARE_CENTRE + ndtri(unit[..., _RARE]) / _RARE_SLOPE
    n[..., _NARROW] = np.arcsinh((2 * unit[..., _NARROW] - 1) * _NARROW_MOST) / _NARROW_SLOPE
    inverse = np.linalg.inv(_MIX)
    for left, right in _PAIRS:
        pair = [INDEX[left], INDEX[right]]
        n[..., pair] = n[..., pair] @ inverse.T
    return np.clip(n, -2.6, 2.6)
