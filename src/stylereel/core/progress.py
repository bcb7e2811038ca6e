"""How far a run is: what its stages say, as a name, a count, a speed and the time left; and that in plain lines."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import NamedTuple

from stylereel.core.record import Stages

FIRST = 10.0  # seconds without a word
STEP = 0.1  # later lines are at least this part of the whole time apart: a run of hours says some dozens


class Pace(NamedTuple):
    """A stage: its name, items done and to do, items a second and seconds left; None for what is not known."""

    name: str
    done: int
    total: int | None
    speed: float | None
    left: float | None

    def __str__(self) -> str:
        if not self.total:
            return f"{self.name} ..."
        text = f"{self.name}: {self.done} of {self.total}"
        return (
            text
            if self.speed is None or self.left is None
            else f"{text}, {self.speed:.1f} a second, {_time(self.left)} left"
        )


class Watch:
    """Takes the time of the stages that it is called with.

    Stages that take turns frame by frame count as the one that is counted.
    """

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock, self._key, self._done, self._begun, self._from = clock, (0, ""), 0, 0.0, 0

    def __call__(self, stages: Stages) -> Pace:
        name, now = stages.counting or stages.current, self._clock()
        if (id(stages), name) != self._key or stages.done < self._done:
            self._key, self._begun, self._from = (id(stages), name), now, stages.done
        self._done = stages.done
        made, spent = stages.done - self._from, now - self._begun
        speed = made / spent if made and spent else None
        left = (stages.total - stages.done) / speed if speed and stages.total else None
        return Pace(f"{stages.about}: {name}" if stages.about else name, stages.done, stages.total, speed, left)


class Lines:
    """Says in plain lines how far a run is: the first after 10 seconds, then ever more seldom."""

    def __init__(self, say: Callable[[str], None], clock: Callable[[], float] = time.monotonic) -> None:
        self._say, self._clock, self._watch = say, clock, Watch(clock)
        self._begun = self._last = clock()

    def __call__(self, stages: Stages) -> None:
        pace, now = self._watch(stages), self._clock()
        if now - self._last >= max(FIRST, STEP * (now - self._begun)):
            self._last = now
            self._say(str(pace))


def _time(seconds: float) -> str:
    """1:02:03, 2:03 or 45 s."""
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    if hours:
        return f"{hours}:{minutes:02}:{rest:02}"
    return f"{minutes}:{rest:02}" if minutes else f"{rest} s"
