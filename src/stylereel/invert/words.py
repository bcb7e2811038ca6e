"""A person's factors in words, and words that correct them: `beard=0`, `hair=curls`, `glasses=round`, `age=old`."""

from __future__ import annotations

import difflib
from collections.abc import Iterable

import numpy as np

from stylereel.invert.person import CHILD, Person, child_score
from stylereel.invert.regions import describe
from stylereel.media.colour import lab
from stylereel.world import hair
from stylereel.world.factors import HIGH, INDEX, LOW, NAMES

LENGTHS = ("none", "short", "middle", "long")
AGES = ("child", "young", "older")
GLASSES = ("round", "rectangular", "drop")
HATS = ("beanie", "cap", "brimmed")
_OLDER = 0.51  # of the factor age
# What makes a face look like a woman's (positive) or a man's.
_WOMAN = {
    "makeup": 1.2, "lip_colour": 0.4, "lip_fullness": 0.4, "brow_thickness": -0.5, "brow_height": 0.3,
    "jaw_width": -0.5, "chin_width": -0.3, "neck_width": -0.5, "eye_size": 0.3,
}  # fmt: skip
_BY_STYLE = {"long": 1.5, "wavy": 1.5, "knot": 1.2, "fringe": 0.7}


def style_of(values: np.ndarray) -> str:
    """The hair style whose part of `hair_style` it is."""
    return hair.STYLES[int(np.searchsorted(hair.STYLE_EDGES[1:-1], values[INDEX["hair_style"]]))]


def length_of(values: np.ndarray) -> str:
    """How long the hair is drawn: `LENGTHS`; tied hair is long."""
    cut = hair.style(np.ascontiguousarray(values, np.float32))
    if is_tied(values) or cut[hair.FALL] > 1.05:
        return "long"
    if cut[hair.FALL] > 0.35:
        return "middle"
    return "short" if cut[hair.SIDE] > 0.0 else "none"


def is_tied(values: np.ndarray) -> bool:
    """Whether the hair is tied to a knot or a tail."""
    return bool(hair.style(np.ascontiguousarray(values, np.float32))[hair.KNOT] > 0.4) or (
        style_of(values) == "knot" and bool(values[INDEX["hat"]] > 0.6)
    )


def has_fringe(values: np.ndarray) -> bool:
    """Whether hair hangs over the forehead."""
    return bool(hair.style(np.ascontiguousarray(values, np.float32))[hair.FRONT] > 0.16)


def age_of(values: np.ndarray) -> str:
    """`AGES`: by the proportions of the face, and by wrinkles."""
    if child_score(values) > CHILD:
        return "child"
    return "older" if values[INDEX["age"]] > _OLDER or values[INDEX["hair_gray"]] > 0.55 else "young"


def womanly(values: np.ndarray) -> float:
    """How much the drawn face looks like a woman's; negative: like a man's."""
    beard = max(values[INDEX["beard"]], values[INDEX["moustache"]])
    score = sum(sign * values[INDEX[name]] for name, sign in _WOMAN.items()) + _BY_STYLE.get(style_of(values), -0.4)
    return float(score - (4 if beard > 0.3 else 0))


def table(person: Person) -> dict[str, str]:
    """What was read, in words, by name."""
    v = person.values
    lines = {
        "face": f"{age_of(v)}, looks like a {'woman' if womanly(v) > 0 else 'man'}'s"
        if age_of(v) != "child"
        else "child",
        "hair": ", ".join(
            [style_of(v), length_of(v) + (" and tied" if is_tied(v) else "")]
            + (["fringe"] if has_fringe(v) else [])
            + (
                [f"parted on the {'left' if v[INDEX['parting']] > 0 else 'right'}"]
                if abs(v[INDEX["parting"]]) > 0.3
                else []
            )
        ),
        "beard": f"{v[INDEX['beard']]:.2f}" if v[INDEX["beard"]] > 0.25 else "none",
        "moustache": f"{v[INDEX['moustache']]:.2f}" if v[INDEX["moustache"]] > 0.25 else "none",
        "glasses": _kind(v, "glasses", 0.5, "glasses_shape", GLASSES)
        + (" with dark lenses" if v[INDEX["glasses"]] > 0.5 and v[INDEX["glasses_tint"]] > 0.6 else ""),
        "hat": _kind(v, "hat", 0.64, "hat_style", HATS),
    }
    for name in ("glasses", "hat", "beard", "moustache"):
        if name in person.sure:
            lines[name] += f" ({100 * max(person.sure[name], 1 - person.sure[name]):.0f} % sure)"
    for part, colour in person.colours.items():
        lines[f"{part} colour"] = describe(colour)
    lines["head"] = ", ".join(f"{name} {v[INDEX[name]]:.0f}" for name in ("yaw", "pitch", "roll")) + " degrees"
    return lines


def _kind(values: np.ndarray, name: str, edge: float, kind: str, names: tuple[str, ...]) -> str:
    if values[INDEX[name]] <= edge:
        return "none"
    return names[min(len(names) - 1, int(values[INDEX[kind]] * len(names)))]


_NONE, _SOME = ("0", "no", "none", "false"), ("1", "yes", "true")
_HAIR = {
    **{name: {"hair_style": hair.style_value(index)} for index, name in enumerate(hair.STYLES)},
    "curls": {"hair_style": hair.style_value(hair.STYLES.index("curly")), "curl": 0.9},
    "bald": {"hair_style": hair.style_value(hair.STYLES.index("shaved"))},
    "short": {"hair_style": hair.style_value(hair.STYLES.index("side part")), "hair_length": 0.3},
    "middle": {"hair_style": hair.style_value(hair.STYLES.index("side part")), "hair_length": 0.9},
    "tied": {"hair_style": hair.style_value(hair.STYLES.index("knot")), "hair_length": 0.2},
    "straight": {"curl": 0.0},
}
_FACES = {
    "woman": {"makeup": 0.45, "lip_colour": 0.5, "brow_thickness": -0.6, "jaw_width": -0.6, "chin_width": -0.5,
              "neck_width": -0.7, "beard": 0.0, "moustache": 0.0},
    "man": {"makeup": 0.0, "lip_colour": -0.3, "brow_thickness": 0.5, "jaw_width": 0.5, "chin_width": 0.4,
            "neck_width": 0.5},
    "child": {"eye_size": 0.6, "eye_distance": 0.5, "nose_length": -0.7, "chin_length": -0.3, "cheeks": 0.5, "age": 0.0,
              "beard": 0.0, "moustache": 0.0, "neck_width": -0.8},
}  # fmt: skip
_COLOURS = {
    "black": (0.02, 0, 0),
    "brown": (0.3, 0.1, 0),
    "red": (0.4, 0.75, 0),
    "blond": (0.85, 0, 0),
    "gray": (0.3, 0, 0.7),
    "white": (0.6, 0, 1),
}
_EYES = {"brown": (0.1, 0), "green": (0.8, -0.6), "blue": (0.9, 0.8), "gray": (0.7, 0.4)}
_WORDS: dict[str, dict[str, dict[str, float]]] = {
    "hair": _HAIR,
    "face": _FACES,
    "hair_colour": {name: dict(zip(("hair_light", "hair_red", "hair_gray"), each)) for name, each in _COLOURS.items()},
    "eyes": {name: dict(zip(("eye_light", "eye_hue"), each)) for name, each in _EYES.items()},
    "glasses": {name: {"glasses": 0.85, "glasses_shape": (i + 0.5) / 3} for i, name in enumerate(GLASSES)}
    | {"dark": {"glasses": 0.85, "glasses_tint": 0.95}},
    "hat": {name: {"hat": 0.9, "hat_style": (i + 0.5) / 3} for i, name in enumerate(HATS)},
    "age": {"child": _FACES["child"], "young": {"age": 0.25}, "older": {"age": 0.75}, "old": {"age": 0.95}},
    "parting": {"left": {"parting": 0.8}, "middle": {"parting": 0.0}, "right": {"parting": -0.8}},
    "makeup": {}, "beard": {}, "moustache": {}, "fringe": {}, "earring": {},
}  # fmt: skip
_PRESENT = {"glasses": 0.85, "hat": 0.9, "beard": 0.8, "moustache": 0.8, "fringe": 0.9, "earring": 0.9, "makeup": 0.7}


def correct(values: np.ndarray, corrections: Iterable[str]) -> np.ndarray:
    """Factor values [K] with corrections `name=value` applied in their order.

    A name is a word (hair, face, hair_colour, eyes, glasses, hat, beard, moustache, fringe, age, parting, makeup,
    earring) with one of its values, yes, no or an amount from 0 to 1, or any factor of the world with a number.

    Raises:
        ValueError: an unknown name or value, with what there is.
    """
    out = np.array(values, np.float32)
    for correction in corrections:
        name, found, value = (part.strip().lower() for part in correction.partition("="))
        name = name.replace("-", "_").replace("hair_color", "hair_colour")
        if not name or not found or not value:
            raise ValueError(f"Corrections are name=value, such as beard=0 or hair=curls, not {correction!r}.")
        changed = _changes(name, value)
        for factor, number in changed.items():
            low, high = float(LOW[INDEX[factor]]), float(HIGH[INDEX[factor]])
            if not low <= number <= high:
                raise ValueError(f"{factor} is between {low:g} and {high:g}, not {number:g}.")
            out[INDEX[factor]] = number
    return out


def choices() -> dict[str, list[str]]:
    """What `correct` takes, by name: its words, yes and no; most names also take amounts."""
    return {name: [*words, *(["yes", "no"] if name in _PRESENT else [])] for name, words in _WORDS.items()}


def _changes(name: str, value: str) -> dict[str, float]:
    words = _WORDS.get(name, {})
    if value in words:
        return words[value]
    if name in _PRESENT and value in (*_NONE, *_SOME):
        return {name: _PRESENT[name] if value in _SOME else 0.0}
    if name in INDEX:
        try:
            return {name: float(value)}
        except ValueError:
            pass
    if name not in _WORDS and name not in INDEX:
        known = [*_WORDS, *NAMES]
        near = difflib.get_close_matches(name, known, n=1)
        raise ValueError(
            f"There is no {name} to set; "
            + (f"did you mean {near[0]}?" if near else f"choose one of {', '.join(_WORDS)}.")
        )
    takes = [*words, *(["yes", "no"] if name in _PRESENT else []), *(["a number"] if name in INDEX else [])]
    raise ValueError(f"{name} takes {', '.join(takes)}, not {value}.")


def lightness(colour: np.ndarray) -> float:
    """CIELAB's lightness of a colour in sRGB, 0..255."""
    return float(lab(np.asarray(colour, float))[0])
