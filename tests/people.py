"""People of the world whom several tests show."""

from __future__ import annotations

import numpy as np

from stylereel import world
from stylereel.world.factors import INDEX


def drawn_person(**factors: float) -> np.ndarray:
    """An aligned person of the world who looks ahead, plainly dressed."""
    values = world.person(31)
    plain = {"yaw": 4, "pitch": 0, "roll": 0, "hat": 0, "glasses": 0, "beard": 0, "moustache": 0, "fringe": 0, "jaw": 0}
    for name, value in {**plain, **factors}.items():
        values[INDEX[name]] = value
    return world.align(values)
