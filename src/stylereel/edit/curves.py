"""What a user changes by hand while a portrait moves: motion factors and attributes, as numbers or curves over time.

One form for all: `20` is a number, `0:0,1:20,2:0` are keys (seconds:value), between which a monotone cubic runs (as
between frames in `Motion.at_rate`, it overshoots nothing) or, after the word linear, a straight line. Before the first
key and after the last the curve keeps their values. `+` in front: on top of the driving instead of in its place.

| given | in this form |
|---|---|
| slider, edit | `yaw=0:-20,2:20`, `age=+1.5` |
| file of curves, text | a line each, `jaw = +linear 0:0, 0.5:0.4, 1:0`; # begins a comment |
| file of curves, .csv | a column each under a header `time,yaw,+jaw`; an empty cell is no key |
"""

from __future__ import annotations

import csv
import difflib
import hashlib
import io
import math
import re
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, replace
from fractions import Fraction
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from scipy.interpolate import PchipInterpolator

from stylereel.core.files import require_file
from stylereel.core.latents import FACE, Identity, Motion
from stylereel.edit import directions
from stylereel.world.factors import HIGH, LOW, MOTION, MOTION_COLUMNS

GROUPS = {"brows": ("brow_left", "brow_right"), "blinks": ("blink_left", "blink_right")}
FRAME = ("shift_x", "shift_y", "scale")  # where the head is in the frame; aligned faces do not move there by themselves
IN_FRAME, EDIT = "frame ", "edit "  # what the columns of a motion that hold these are called before their names
BIGGEST, KEYS, LONGEST, STRONGEST = 1 << 20, 10_000, 86_400.0, 1000.0  # bytes, keys of a curve, seconds, strength
RATE = Fraction(25)  # frames a second where nothing else says it
_LIMITS = {name: (float(LOW[i]), float(HIGH[i])) for name, i in zip(MOTION, MOTION_COLUMNS, strict=True)}


class Curve(NamedTuple):
    """times: seconds [N], rising; values: [N]; on_top: whether it is added; linear: straight between keys."""

    times: np.ndarray
    values: np.ndarray
    on_top: bool = False
    linear: bool = False

    def at(self, seconds: np.ndarray) -> np.ndarray:
        """The values [T] at times [T]."""
        if self.linear or len(self.times) == 1:
            return np.interp(seconds, self.times, self.values)
        return PchipInterpolator(self.times, self.values)(seconds.clip(self.times[0], self.times[-1]))


def parse(text: str, about: str) -> Curve:
    """The curve that a text says. Raises ValueError, which names what it is `about`, for another form."""
    body = text.strip()
    on_top = body.startswith("+")
    linear = bool(re.match(r"linear\b", body := body[on_top:].lstrip()))
    words = re.split(r"[\s,]+", body.removeprefix("linear").strip())
    keys = [word.split(":") for word in words]
    try:
        if len(words) == 1 and len(keys[0]) == 1:
            return _checked(Curve(np.zeros(1), np.array([float(words[0])]), on_top, linear), about)
        if len(keys) > KEYS or any(len(key) != 2 for key in keys):
            raise ValueError
        times, values = np.array([[float(part) for part in key] for key in keys]).T
    except ValueError:
        raise ValueError(
            f"{about} takes a number (20) or keys of seconds:value (0:0,1:20), not {text.strip()[:60]!r}."
        ) from None
    return _checked(Curve(times, values, on_top, linear), about)


def _checked(curve: Curve, about: str) -> Curve:
    """The curve. Raises ValueError unless its numbers are finite and its times rise from 0 on."""
    times, values = curve.times, curve.values
    if not np.isfinite(values).all() or not (times >= 0).all() or not (np.diff(times) > 0).all():
        raise ValueError(f"{about} needs finite numbers at times that rise from 0 seconds on.")
    if times[-1] > LONGEST:
        raise ValueError(f"{about} has a key after {LONGEST:.0f} seconds, the most there may be.")
    return curve


def split_word(word: str, flag: str) -> tuple[str, str]:
    """NAME and what follows of NAME=CURVE. Raises ValueError for another form."""
    name, equals, text = word.rpartition("=")
    if not equals or not name.strip():
        raise ValueError(f"{flag} takes NAME=NUMBER or NAME=SECONDS:NUMBER,..., not {word[:60]!r}.")
    return name.strip(), text


def read_curves(path: str | Path) -> dict[str, Curve]:
    """The curves in a small file by the names of factors, in one of the forms above.

    Raises ValueError, saying which line or column is wrong, for any other file.
    """
    path = require_file(path)
    if path.stat().st_size > BIGGEST:
        raise ValueError(f"{path} has more than {BIGGEST >> 20} MiB; a file of curves is a small text.")
    try:
        text = path.read_text(encoding="utf-8-sig")
    except UnicodeDecodeError:
        raise ValueError(f"{path} is no text; give a file of curves, such as: yaw = 0:0, 1:20") from None
    found: dict[str, Curve] = {}
    for name, curve in (_of_table if path.suffix.lower() == ".csv" else _of_lines)(path, text):
        if name in found:
            raise ValueError(f"{path} has {name} twice; keep one of the curves.")
        found[name] = curve
    if not found:
        raise ValueError(f"{path} has no curve; write lines such as: yaw = 0:0, 1:20")
    return found


def _of_lines(path: Path, text: str) -> Iterator[tuple[str, Curve]]:
    for number, line in enumerate(text.splitlines(), 1):
        line = line.partition("#")[0].strip()
        if line:
            name, value = split_word(line, f"Line {number} of {path}")
            yield name, parse(value, f"{name} in line {number} of {path}")


def _of_table(path: Path, text: str) -> Iterator[tuple[str, Curve]]:
    try:
        rows = [row for row in csv.reader(io.StringIO(text)) if any(map(str.strip, row))]
    except csv.Error as error:
        raise ValueError(f"{path} is no table: {error}.") from None
    if len(rows) < 2 or rows[0][0].strip() != "time" or any(len(row) > len(rows[0]) for row in rows):
        raise ValueError(f"{path} needs a header such as time,yaw,+jaw and rows of numbers under it.")
    for column, title in enumerate(map(str.strip, rows[0][1:]), 1):
        cells = [(row[0].strip(), row[column].strip()) for row in rows[1:] if column < len(row)]
        keys = ",".join(f"{time}:{value}" for time, value in cells if value)
        yield title.lstrip("+ "), parse(("+" if title.startswith("+") else "") + keys, f"{title} in {path}")


@dataclass(frozen=True)
class Changes:
    """What a user changes by hand.

    curves: of the factors of MOTION; edits: of attributes, by the name of a direction; directions: what strength 1
    of these adds to W+ codes.
    """

    curves: Mapping[str, Curve]
    edits: Mapping[str, Curve]
    directions: Mapping[str, directions.Direction]

    @classmethod
    def read(cls, curves: str | Path | None = None, sliders: Iterable[str] = (), edits: Iterable[str] = ()) -> Changes:
        """Of a file of curves, sliders NAME=CURVE, which come before the file's, and edits DIRECTION=CURVE.

        A name is a factor of the world's MOTION, or brows or blinks for both sides; a direction is as in
        `directions.find`. Raises ValueError for an unknown name and a number out of its range.
        """
        given = [*(read_curves(curves) if curves else {}).items()]
        given += [
            (name, parse(text, f"--slider {name}")) for name, text in (split_word(w, "--slider") for w in sliders)
        ]
        factors: dict[str, Curve] = {}
        for group, curve in given:
            for name in GROUPS.get(group, (group,)):
                factors[name] = _within(name, curve)
        strengths, found = {}, {}
        for word in edits:
            name, text = split_word(word, "--edit")
            found[name], strengths[name] = directions.find(name), parse(text, f"--edit {name}")
            if np.abs(strengths[name].values).max() > STRONGEST:
                raise ValueError(f"--edit {name} takes strengths up to {STRONGEST:.0f}; 1 is usually a small step.")
        return cls(factors, strengths, found)

    def fingerprints(self) -> dict[str, str]:
        """SHA-256 of the numbers of each direction."""
        return {n: hashlib.sha256(d.change.numpy().tobytes()).hexdigest() for n, d in self.directions.items()}

    def __bool__(self) -> bool:
        return bool(self.curves or self.edits)

    @property
    def seconds(self) -> float:
        """The time of the last key; 0 where all are numbers."""
        return max((float(c.times[-1]) for c in (*self.curves.values(), *self.edits.values())), default=0.0)

    def at_rest(self, seconds: float | None, rate: Fraction | None) -> Motion:
        """A motion in which nothing but these changes: relative, of 0, as long as the keys if not told.

        Raises ValueError if there is no length.
        """
        rate, seconds = rate or RATE, self.seconds if seconds is None else seconds
        if seconds <= 0:
            raise ValueError("Numbers alone have no length; give --duration or --frames, or keys over time (0:0,2:20).")
        count = math.ceil(Fraction(seconds).limit_denominator(10**6) * rate)
        whole = np.tile(np.array([[0.5, 0.5, 1, 0]], np.float32), (count, 1))
        return Motion(
            np.zeros((count, len(MOTION)), np.float32), FACE._replace(relative=True), tuple(MOTION), rate, whole
        )

    def show_on(self, motion: Motion, own: np.ndarray, in_frame: bool) -> Motion:
        """A motion with the curves in it or on top, the first frame at 0 seconds.

        Args:
            motion: of factors; or any, if there are only edits.
            own: motion factors [M] of who is to be shown, to which a relative motion is added.
            in_frame: whether the system moves the head in the frame, by columns that begin with `IN_FRAME`.

        Raises:
            ValueError: the motion is none of factors, or the system cannot move the head in the frame.
        """
        seconds = np.arange(len(motion)) / float(motion.rate)
        values, names, more = motion.values.astype(np.float32), list(motion.names), []
        if self.curves and motion.kind.coordinates != FACE.coordinates:
            raise ValueError(
                f"Curves and sliders change the motion of the built-in people, not one of kind {motion.kind}; "
                "drive by a clip with the built-in family."
            )
        for name, curve in self.curves.items():
            track = curve.at(seconds)
            low, high = _LIMITS[name]
            if name in FRAME:
                if not in_frame:
                    raise ValueError(f"This system shows aligned faces, which cannot follow {name}; use styleheat.")
                names.append(IN_FRAME + name)
                more.append(track + (1.0 if name == "scale" and curve.on_top else 0.0))
                continue
            column, rest = names.index(name), own[MOTION.index(name)] if motion.kind.relative else 0.0
            whole = track + (values[:, column] + rest if curve.on_top else 0.0)
            values[:, column] = whole.clip(low, high) - rest
        for name, curve in self.edits.items():
            names.append(EDIT + name)
            more.append(curve.at(seconds))
        if more:
            values = np.concatenate([values, np.stack(more, axis=1).astype(np.float32)], axis=1)
        return replace(motion, values=values, names=tuple(names))

    def taught(self, identity: Identity) -> Identity:
        """The identity with what strength 1 of each edit adds to its code. Raises ValueError if a width differs."""
        tensors = dict(identity.tensors)
        for name, direction in self.directions.items():
            still = torch.zeros_like(identity.w)[None]
            tensors[EDIT + name] = direction.apply(still)[0]
        return replace(identity, tensors=tensors)


def is_edited(identity: Identity, motion: Motion) -> bool:
    """Whether a motion has edits that the identity was taught."""
    return any(name.startswith(EDIT) and name in identity.tensors for name in motion.names)


def edited(identity: Identity, motion: Motion) -> torch.Tensor:
    """The W+ codes of an identity as a motion's edits change them: [1, L, D], or [T, L, D] if there are any."""
    w = identity.w[None]
    for name in motion.names:
        if name.startswith(EDIT) and name in identity.tensors:
            strength = torch.from_numpy(np.ascontiguousarray(motion.column(name))).to(w)
            w = w + strength[:, None, None] * identity.tensors[name].to(w)
    return w


def in_frame(motion: Motion) -> np.ndarray:
    """Where a motion has the head in the frame [T, 3]: shift right and down in parts of the image, scale."""
    still = (0.0, 0.0, 1.0)
    columns = [motion.column(IN_FRAME + name) if IN_FRAME + name in motion.names else np.full(len(motion), rest)
               for name, rest in zip(FRAME, still)]  # fmt: skip
    return np.stack(columns, axis=1).astype(np.float32)


def driven(motion: Motion) -> Motion:
    """The motion without what was added by hand in columns of its own."""
    kept = [i for i, name in enumerate(motion.names) if not name.startswith((IN_FRAME, EDIT))]
    if len(kept) == len(motion.names):
        return motion
    return replace(motion, values=motion.values[:, kept], names=tuple(motion.names[i] for i in kept))


def _within(name: str, curve: Curve) -> Curve:
    """The curve. Raises ValueError if there is no such factor or its numbers are out of the factor's range."""
    if name not in _LIMITS:
        near = difflib.get_close_matches(name, [*MOTION, *GROUPS], n=1)
        known = f"did you mean {near[0]}?" if near else f"choose one of {', '.join([*MOTION, *GROUPS])}."
        raise ValueError(f"There is no motion {name[:40]!r}; {known}")
    low, high = _LIMITS[name]
    if curve.on_top:
        low, high = low - high, high - low
    beyond = curve.values[(curve.values < low - 1e-6) | (curve.values > high + 1e-6)]  # limits are float32
    if len(beyond):
        raise ValueError(f"{name} takes {low:g} to {high:g}{' on top' if curve.on_top else ''}, not {beyond[0]:g}.")
    return curve
