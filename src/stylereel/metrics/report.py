"""The report of a study: a table, numbers with intervals, and a sentence for each claim of the paper.

The sentences are computed from the numbers, not written by hand.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from stylereel.core.files import replacing
from stylereel.core.record import write_record
from stylereel.metrics.intervals import Interval, bootstrap


class Number(NamedTuple):
    """A measured number and its 95 % interval, None where undefined."""

    value: float
    interval: Interval | None = None

    @classmethod
    def mean(cls, values: np.ndarray, seed: int = 0) -> Number:
        """The mean of independent values [N], NaN where undefined, with a bootstrap interval."""
        defined = values[~np.isnan(values)]
        if not len(defined):
            return cls(math.nan)
        return cls(float(defined.mean()), bootstrap([defined[i : i + 1] for i in range(len(defined))], seed)[0])

    def __str__(self) -> str:
        if math.isnan(self.value):
            return "undefined"
        if self.interval is None:
            return f"{self.value:.3g}"
        return f"{self.value:.3g} ({self.interval[0]:.3g} to {self.interval[1]:.3g})"


@dataclass(frozen=True)
class Claim:
    """What a paper says and what was found. holds: None where the interval of the difference leaves it open."""

    paper: str
    holds: bool | None
    difference: Number
    sentence: str

    @classmethod
    def of(cls, paper: str, what: str, difference: Number, better: bool) -> Claim:
        """A claim that a difference is over 0 (`better` True) or under 0, decided by the difference's interval.

        paper: the claim in one phrase; what: what the difference is of, unit included.
        """
        holds: bool | None = None
        if difference.interval is not None and not math.isnan(difference.value):
            low, high = difference.interval
            if low > 0 or high < 0:
                holds = (low > 0) == better
        verdict = {True: "holds here", False: "does not hold here", None: "is left open here"}[holds]
        return cls(paper, holds, difference, f"{paper}: {verdict}; {what} differs by {difference}.")


def write_report(
    out: Path,
    title: str,
    rows: Mapping[str, Mapping[str, Number | str]],
    claims: Sequence[Claim] = (),
    facts: Mapping[str, Any] | None = None,
    images: Sequence[Path] = (),
) -> list[Path]:
    """Write report.md (table, claims, facts) and report.json into the folder `out`; gives these and the images.

    rows: for each row its numbers by column; the columns are those of the first row. facts: how it was measured; plain
    values. images: files next to the report that belong to it.
    """
    columns = list(next(iter(rows.values())))
    lines = [f"# {title}", "", f"| | {' | '.join(columns)} |", "|" + "---|" * (len(columns) + 1)]
    lines += [
        f"| {name} | {' | '.join(str(row.get(column, '')) for column in columns)} |" for name, row in rows.items()
    ]
    if claims:
        lines += ["", "## Claims of the paper", "", *(f"- {claim.sentence}" for claim in claims)]
    lines += ["", "## How", "", *(f"- {name}: {value}" for name, value in (facts or {}).items())]
    data = {
        "title": title,
        "rows": {
            name: {key: each._asdict() if isinstance(each, Number) else each for key, each in row.items()}
            for name, row in rows.items()
        },
        "claims": [asdict(claim) | {"difference": claim.difference._asdict()} for claim in claims],
        "facts": dict(facts or {}),
    }
    files = [out / "report.md", out / "report.json", *images]
    with replacing(files[0]) as partial:
        partial.write_text("\n".join(lines) + "\n", encoding="utf-8")
    write_record(files[1], _without_nan(data) | {"files": files})
    return files


def _without_nan(value: Any) -> Any:
    """Plain values with null where JSON knows no number."""
    if isinstance(value, dict):
        return {str(key): _without_nan(each) for key, each in value.items()}
    if isinstance(value, (list, tuple)):
        return [_without_nan(each) for each in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value
