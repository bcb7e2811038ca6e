"""Random motions of a person, in which views of them are made (`invert.views`)."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

from stylereel import world
from stylereel.world.factors import HIGH, INDEX, LOW

TURN = {"yaw": 24.0, "pitch": 13.0, "roll": 9.0}  # degrees by which views are turned at most
_GAZE = 1.2  # by how much the gaze differs at most; people's ends at 1, which views are to have, too


def moved(values: np.ndarray, motion: dict[str, float]) -> np.ndarray:
    """Factors [K] with other values of motion, by name, as far as people can."""
    values = values.copy()
    for name, value in motion.items():
        values[INDEX[name]] = value
    return world.align(np.clip(values, LOW, HIGH))


def expression(random: np.random.Generator) -> dict[str, float]:
    """A random expression: factors of motion by name."""
    brow, lid = random.uniform(-1, 1), float(random.random() < 0.35) * random.uniform(0.2, 1)
    made = {"smile": random.uniform(-0.6, 1), "brow_left": brow, "brow_right": brow}
    made |= {"blink_left": lid, "blink_right": lid, "jaw": 0.0, "pucker": 0.0, "press": 0.0, "funnel": 0.0}
    if random.random() < 0.15:
        made["blink_left" if random.random() < 0.5 else "blink_right"] = random.uniform(0, 1)
    if random.random() < 0.6:
        made["jaw"] = random.uniform(0.05, 1)
    for name in ("pucker", "press", "funnel"):
        if random.random() < 0.25:
            made[name] = random.uniform(0.2, 0.9)
    if made["press"]:
        made["jaw"] = 0.0
    return made


def motions(values: np.ndarray, count: int, seed: int = 0, rolled: bool = True) -> Iterator[dict[str, float]]:
    """Random motions, by name, of a person with factors [K]: a third turned, a third with other expressions, a third
    both.

    rolled: whether turned ones roll, too, in front of a backdrop that stays.
    """
    random = np.random.default_rng(seed)
    turns = TURN if rolled else TURN | {"roll": 0.0}
    for index in range(count):
        motion: dict[str, float] = {}
        if index % 3 != 1:
            for name, most in turns.items():
                motion[name] = float(values[INDEX[name]] + random.uniform(-most, most))
        if index % 3:
            motion |= expression(random)
            for name in ("gaze_x", "gaze_y"):
                motion[name] = float(values[INDEX[name]] + random.uniform(-_GAZE, _GAZE))
        yield motion
