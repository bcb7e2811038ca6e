"""The command `stylereel measures`."""

from __future__ import annotations

from stylereel.metrics.registry import describe


def measures() -> str:
    """List the measures: what each compares, its protocol and its source."""
    return describe().rstrip("\n")
