"""The motion of a face as it comes, frame by frame: causal, so it may lag a little where files do not.

What is still is smoothed strongly and what moves quickly hardly at all (the 1 euro filter, Casiez et al. 2012). Without
a face the last motion is held for a second, then the head goes back to rest.
"""

from __future__ import annotations

from collections import deque
from fractions import Fraction
from typing import NamedTuple

import numpy as np

from stylereel.faces.backend import DOUBT, Face, Tracker, against_usual
from stylereel.faces.coefficients import HIGH, LOW, NAMES, seen_factors, trusts
from stylereel.faces.expression import head_pose, measures, rest_of
from stylereel.faces.mesh import IBUG, MeshBackend
from stylereel.faces.placement import place_pose

_SECONDS = 60  # of the past from which a person's rest is estimated
_CUTOFF_OF_CHANGE = 2.0  # Hz, for the speed itself

# Lowest cutoff in Hz, and how much it rises with the speed. Chosen on five real clips: the least distance from what the
# file path reads, which looks ahead, next to the least tremble.
_DEGREES, _BROWS, _GAZE, _LIDS, _MOUTH = (1.3, 0.035), (4.0, 0.0), (3.2, 0.5), (7.0, 8.0), (5.0, 0.5)
_KINDS = {
    **dict.fromkeys(("yaw", "pitch", "roll"), _DEGREES),
    **dict.fromkeys(("brow_left", "brow_right"), _BROWS),
    **dict.fromkeys(("gaze_x", "gaze_y"), _GAZE),
    **dict.fromkeys(("blink_left", "blink_right"), _LIDS),
}
_LARGER = 1.065  # how much larger the mesh's head is than the mean head for the same face, seen on the real clips
_PIXELS = 0.4, 0.003  # of the crop, in crop sides and degrees

REST = np.array([float(name == "scale") for name in NAMES], np.float32)  # values of a head at rest
_HOLD, _RETURN = 1.0, 0.4  # seconds without a face until the head goes back to rest, and how long that takes


class OneEuro:
    """A low-pass for values [K] that come one by one, whose cutoff rises with their speed.

    cutoff: Hz, of what keeps still; rise: Hz a unit a second; one number or [K] each.
    """

    def __init__(self, cutoff: float | np.ndarray, rise: float | np.ndarray) -> None:
        self._cutoff, self._rise = cutoff, rise
        self.value: np.ndarray | None = None
        self._speed: np.ndarray | float = 0.0

    def __call__(self, value: np.ndarray, seconds: float) -> np.ndarray:
        """The next value, so many seconds after the one before."""
        if self.value is None:
            self.value = np.array(value, np.float64)
            return self.value
        self._speed += _part(_CUTOFF_OF_CHANGE, seconds) * ((value - self.value) / seconds - self._speed)
        self.value = self.value + _part(self._cutoff + self._rise * np.abs(self._speed), seconds) * (value - self.value)
        return self.value


def _part(cutoff: float | np.ndarray, seconds: float) -> float | np.ndarray:
    """How much of a change is taken over in so many seconds, at a cutoff in Hz."""
    return 1 / (1 + 1 / (2 * np.pi * cutoff * seconds))


class Seen(NamedTuple):
    """One frame: motion values float32 [20] in the order of `coefficients.NAMES`, with neutral framing; the crop [4];
    whether each of `PARTS` is sure [4], or was held; and whether there is a face at all."""

    values: np.ndarray
    placement: np.ndarray
    sure: np.ndarray
    found: bool


class Live:
    """Reads a stream. Needs the mesh; raises ValueError as `mesh.MeshBackend`, and as `Tracker` for `face`.

    rate: about how many frames come in a second. face: which one, see `Tracker`. smoothing: factor on the time that is
    smoothed over; 0 leaves what is read as it is. rest: a person's rest [12], see `expression.rest_of`; it is estimated
    from the last minute if not given.

    Attributes:
        rest: the person's rest so far.
    """

    def __init__(
        self,
        rate: Fraction = Fraction(25),
        face: str = "largest",
        smoothing: float = 1.0,
        rest: np.ndarray | None = None,
    ) -> None:
        self._tracker, self._rate, self._count = Tracker(MeshBackend(), face), rate, 0
        self._past: deque[tuple[np.ndarray, np.ndarray]] = deque(maxlen=round(_SECONDS * rate))
        self._sures: deque[np.ndarray] = deque(maxlen=self._past.maxlen)
        self.rest, self._known = rest, rest is not None
        kinds = [_KINDS.get(name, _MOUTH) for name in NAMES]
        self._smooth, self._place = OneEuro(*np.array(kinds).T), OneEuro(*_PIXELS)
        self._smoothing = smoothing
        self._last = Seen(REST, np.array([0, 0, 1, 0], np.float32), np.zeros(4, bool), False)
        self._held, self._without = np.zeros(len(NAMES)), np.inf

    def step(self, frame: np.ndarray | None, seconds: float | None = None) -> Seen:
        """What a frame uint8 [H, W, 3] shows, `seconds` after the one before; None is a frame that is missing."""
        seconds = 1 / float(self._rate) if seconds is None else max(seconds, 1e-3)
        face = None if frame is None else self._face(frame)
        if face is not None:
            self._without = 0.0
            self._last = self._read(face, seconds)
            return self._last
        self._without += seconds
        values = self._last.values
        if self._without > _HOLD:
            values = (REST + (values - REST) * np.exp(-seconds / _RETURN)).astype(np.float32)
            self._smooth.value = values.astype(np.float64) if self._smooth.value is not None else None
        self._last = self._last._replace(values=values, sure=np.zeros(4, bool), found=False)
        return self._last

    def _face(self, frame: np.ndarray) -> Face | None:
        self._count += 1
        try:
            face = self._tracker.step(frame)
            if self._count > 1 and (self._count - 1) % max(1, round(self._rate)) == 0:
                face = self._tracker.check(frame, face)
        except ValueError:  # no face of the number that was asked for: it may come
            return None
        return face

    def _read(self, face: Face, seconds: float) -> Seen:
        assert face.points is not None
        head = head_pose(face.points[None])
        self._sures.append(face.sure)
        sure = against_usual(face.sure, np.stack(self._sures))
        shown, trust = measures(head.frontal), trusts(sure[None])
        self._past.append((shown[0], trust.measures[0]))
        # A rest changes slowly: look at the past often at first, then about once a second.
        often = max(1, min(round(self._rate), len(self._past) // 4))
        if self.rest is None or (not self._known and self._count % often == 0):
            self.rest = rest_of(*(np.stack(column) for column in zip(*self._past)))
        out, trust = seen_factors(shown, self.rest, sure[None])
        out |= {name: head.pose[name] for name in ("yaw", "pitch", "roll")}
        out |= {"shift_x": np.zeros(1), "shift_y": np.zeros(1), "scale": np.ones(1)}
        read = np.array([out[name][0] for name in NAMES]).clip(LOW, HIGH)
        known = np.array([trust.factors[name][0] >= DOUBT for name in NAMES])
        self._held = np.where(known, read, self._held)
        values = self._held
        row = place_pose(head.pose, head.frontal[:, IBUG, :2])[0].astype(np.float64) / (1, 1, _LARGER, 1)
        if self._smoothing:
            values, row = self._smooth(values, seconds / self._smoothing), self._place(row, seconds / self._smoothing)
        return Seen(values.astype(np.float32), row.astype(np.float32), sure >= DOUBT, True)
