"""What a live run counts and times, in memory that does not grow."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np

PERCENT = (50, 95, 99)
_LEAST, _STEP, _BINS = 1e-5, 1.02, 900  # seconds of the first bin, ratio of one to the next: 10 us to 550 s within 2 %


class Times:
    """Durations, of which percentiles are known within 2 %."""

    def __init__(self) -> None:
        self._bins = np.zeros(_BINS, np.int64)
        self.count, self.total, self.most = 0, 0.0, 0.0

    def add(self, seconds: float) -> None:
        place = np.log(max(seconds, _LEAST) / _LEAST) / np.log(_STEP)
        self._bins[min(int(place), _BINS - 1)] += 1
        self.count, self.total, self.most = self.count + 1, self.total + seconds, max(self.most, seconds)

    def percentile(self, percent: float) -> float:
        """Seconds that so many percent of the durations are at most; nan without any."""
        if not self.count:
            return float("nan")
        place = int(np.searchsorted(np.cumsum(self._bins), percent / 100 * self.count))
        return min(_LEAST * _STEP ** (place + 1), self.most)

    def facts(self) -> dict[str, float]:
        """Milliseconds, for records."""
        if not self.count:
            return {}
        shown = {f"p{percent}": self.percentile(percent) for percent in PERCENT}
        return {name: round(1e3 * one, 2) for name, one in (shown | {"mean": self.total / self.count}).items()}


class Mark:
    """A moment of a thread."""

    def __init__(self) -> None:
        self.wall, self.processor = time.perf_counter(), time.thread_time()


class Meter:
    """Counts of frames and times of stages; all threads of a run share one.

    `whole` is from frame in to frame out. Of each stage the time that passes and the time of a processor are kept: on a
    busy machine they differ.
    """

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self.counts: dict[str, int] = {}
        self.whole, self.stages, self.work = Times(), dict[str, Times](), dict[str, Times]()
        self._recent: dict[str, int] = {}
        self._begun = self._since = time.monotonic()

    def count(self, what: str, number: int = 1) -> None:
        with self._lock:
            self.counts[what] = self.counts.get(what, 0) + number

    def out(self, seconds: float) -> None:
        """A frame has come out, so long after it came in."""
        with self._lock:
            self.counts["out"] = self.counts.get("out", 0) + 1
            self.whole.add(seconds)

    def stage(self, name: str, mark: Mark) -> None:
        """A stage that began at a mark of this thread is done."""
        wall, processor = time.perf_counter() - mark.wall, time.thread_time() - mark.processor
        with self._lock:
            self.stages.setdefault(name, Times()).add(wall)
            self.work.setdefault(name, Times()).add(processor)

    @property
    def seconds(self) -> float:
        """How long the run is."""
        return time.monotonic() - self._begun

    def line(self, dropped: int) -> str:
        """What happened since the line before, and the latency of all."""
        with self._lock:
            now = time.monotonic()
            spent, self._since = max(now - self._since, 1e-3), now
            rates = {name: (self.counts.get(name, 0) - self._recent.get(name, 0)) / spent for name in ("in", "out")}
            self._recent = dict(self.counts)
            parts = [f"{name} {_ms(times)}" for name, times in self.stages.items()]
            whole = "nothing out yet" if not self.whole.count else f"ms from in to out {_ms(self.whole)}"
        per = ", ".join(f"{rate:.1f} {name}" for name, rate in rates.items())
        return f"frames a second {per}; {dropped} dropped; {whole} ({', '.join(parts)})"

    def facts(self) -> dict[str, Any]:
        """For the record; times are milliseconds."""
        with self._lock:
            return {
                "seconds": round(self.seconds, 2),
                "frames": dict(self.counts),
                "frames_per_second": {
                    name: round(self.counts.get(name, 0) / max(self.seconds, 1e-3), 2) for name in ("in", "out")
                },
                "ms from in to out": self.whole.facts(),
                "ms": {name: times.facts() for name, times in self.stages.items()},
                "ms of a processor": {name: times.facts() for name, times in self.work.items()},
            }


def _ms(times: Times) -> str:
    """Median, 95 and 99 percent."""
    return "/".join(f"{1e3 * times.percentile(percent):.0f}" for percent in PERCENT)


def summary(facts: Mapping[str, Any]) -> Iterator[str]:
    """The lines at the end of a run."""
    frames, speed = facts["frames"], facts["frames_per_second"]
    dropped = ", ".join(f"{count} {name}" for name, count in facts["dropped"].items() if count) or "none"
    yield (
        f"{frames.get('in', 0)} frames in, {frames.get('out', 0)} out in {facts['seconds']:.1f} s "
        f"({speed['in']:.1f} and {speed['out']:.1f} a second); dropped: {dropped}"
    )
    if facts["ms from in to out"]:
        parts = {"from frame in to frame out": facts["ms from in to out"], **facts["ms"]}
        shown = [f"{name} {' / '.join(_rounded(times, each) for each in PERCENT)}" for name, times in parts.items()]
        yield "milliseconds, half / 95 % / 99 % of frames: " + ", ".join(shown)


def _rounded(times: Mapping[str, float], percent: int) -> str:
    return f"{times[f'p{percent}']:.0f}"
