"""Tests use one thread: on two cores, two busy processes with threads that wait for each other are far slower.

A shell that runs the tests in the background ignores SIGINT, and so would the commands that they start and interrupt.
"""

import os
import signal
from typing import Any

import pytest

os.environ.setdefault("OMP_NUM_THREADS", "1")
signal.signal(signal.SIGINT, signal.default_int_handler)


@pytest.fixture
def tuned_quickly(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """Commands tune to a photograph in four steps; how many images they tuned to, each time."""
    from stylereel.commands import likeness
    from stylereel.invert.resemble import tune

    done: list[int] = []

    def few(generator: Any, seen: Any, look: Any, steps: int, *others: Any) -> Any:
        done.append(len(seen))
        return tune(generator, seen, look, 4, *others)

    monkeypatch.setattr(likeness, "tune", few)
    monkeypatch.setattr(likeness, "VIEWS", 2)
    return done
