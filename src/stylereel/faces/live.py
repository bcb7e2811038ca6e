"""The motion of a face as it comes, frame by frame: causal, so it may lag a little where files do not.

What is still is smoothed strongly and what moves quickly hardly at all (the 1 euro filter, Casiez et al. 2012).
"""

from __future__ import annotations

from collections import deque
from fractions import Fraction
from typing import NamedTuple

import numpy as np

from stylereel.faces.backend import DOUBT, Face, Tracker, against_usual
from stylereel.faces.coefficients import HIGH, LOW, NAMES, trusts
from stylereel.faces.expression import factors, head_pose, measures, rest_of
from stylereel.faces.mesh import MeshBackend
from stylereel.faces.placement import align

_SECONDS = 60  # of the past from which a person's rest is estimated
_CUTOFF_OF_CHANGE = 1.0  # Hz, for the speed itself

# Lowest cutoff in Hz, and how much it rises with the speed: for degrees, for expression, for lids.
_DEGREES, _EXPRESSION, _LIDS = (1.5, 0.12), (2.5, 4.0), (6.0, 4.0)
_PIXELS = 0.4, 0.003  # of the crop, in crop sides and degrees


class OneEuro:
    """A low-pass for values [K] that come one by one, whose cutoff rises with their speed.

    rate: calls a second; cutoff: Hz, of what keeps still; rise: Hz a unit a second; one number or [K] each.
    """

    def __init__(self, rate: Fraction, cutoff: float | np.ndarray, rise: float | np.ndarray) -> None:
        self._rate, self._cutoff, self._rise = float(rate), cutoff, rise
        self._value: np.ndarray | None = None
        self._speed: np.ndarray | float = 0.0

    def __call__(self, value: np.ndarray) -> np.ndarray:
        if self._value is None:
            self._value = np.array(value, np.float64)
            return self._value
        self._speed += self._part(_CUTOFF_OF_CHANGE) * ((value - self._value) * self._rate - self._speed)
        self._value = self._value + self._part(self._cutoff + self._rise * np.abs(self._speed)) * (value - self._value)
        return self._value

    def _part(self, cutoff: float | np.ndarray) -> float | np.ndarray:
        """How much of a change is taken over at once, at a cutoff in Hz."""
        return 1 / (1 + self._rate / (2 * np.pi * cutoff))


class Seen(NamedTuple):
    """One frame: motion values float32 [20] in the order of `coefficients.NAMES`, with neutral framing; the crop [4];
    and whether each of `PARTS` is sure [4], or was held."""

    values: np.ndarray
    placement: np.ndarray
    sure: np.ndarray


class Live:
    """Reads a stream. Needs the mesh; raises ValueError as `mesh.MeshBackend`, and as `Tracker` for `face`."""

    def __init__(self, rate: Fraction = Fraction(25), face: str = "largest") -> None:
        self._tracker, self._rate, self._count = Tracker(MeshBackend(), face), rate, 0
        self._past: deque[tuple[np.ndarray, np.ndarray]] = deque(maxlen=round(_SECONDS * rate))
        self._sures: deque[np.ndarray] = deque(maxlen=self._past.maxlen)
        self._rest: np.ndarray | None = None
        kinds = [_DEGREES if name in NAMES[:3] else _LIDS if "blink" in name else _EXPRESSION for name in NAMES]
        self._smooth = OneEuro(rate, *np.array(kinds).T)
        self._place = OneEuro(rate, *_PIXELS)
        self._last: Seen | None = None
        self._held = np.zeros(len(NAMES))

    def step(self, frame: np.ndarray) -> Seen | None:
        """What a frame uint8 [H, W, 3] shows, or None before the first face. Without a face the last one is held."""
        face = self._tracker.step(frame)
        self._count += 1
        if self._count % max(1, round(self._rate)) == 0:
            face = self._tracker.check(frame, face)
        if face is None:
            self._last = self._last and self._last._replace(sure=np.zeros(4, bool))
        else:
            self._last = self._read(face)
        return self._last

    def _read(self, face: Face) -> Seen:
        assert face.points is not None
        head = head_pose(face.points[None])
        self._sures.append(face.sure)
        sure = against_usual(face.sure, np.stack(self._sures))
        shown, trust = measures(head.frontal), trusts(sure[None])
        self._past.append((shown[0], trust.measures[0]))
        # A rest changes slowly: look at the past often at first, then about once a second.
        if self._rest is None or self._count % max(1, min(round(self._rate), len(self._past) // 4)) == 0:
            self._rest = rest_of(*(np.stack(column) for column in zip(*self._past)))
        out = factors(shown, self._rest) | {name: head.pose[name] for name in ("yaw", "pitch", "roll")}
        out |= {"shift_x": np.zeros(1), "shift_y": np.zeros(1), "scale": np.ones(1)}
        read = np.array([out[name][0] for name in NAMES]).clip(LOW, HIGH)
        known = np.array([trust.factors[name][0] >= DOUBT for name in NAMES])
        self._held = np.where(known, read, self._held)
        row = self._place(align(face.landmarks))
        return Seen(self._smooth(self._held).astype(np.float32), row.astype(np.float32), sure >= DOUBT)
