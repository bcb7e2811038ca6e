"""Rate against quality: how far the motion of a clip is from itself when it has been encoded, at several rates."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np

from stylereel import systems
from stylereel.codec.talk import choose, header_of, quantise
from stylereel.core.record import Stages
from stylereel.media.video import VideoReader
from stylereel.world.factors import POSE

RATES = (0.5, 1.0, 2.0, 4.0)  # kbit/s
DEGREES = ("yaw", "pitch", "roll")


@dataclass(frozen=True)
class Rates:
    """A table for a clip's file, made next to its encoding; see `forms.Call` for what a worker runs."""

    clip: str
    system: str = "stylemask"

    def run(self, stages: Stages) -> dict[str, Any]:
        """Mean error of the head in degrees, and of the expression as a share of what people show, at each rate."""
        system: Any = systems.load(self.system)
        with stages("extract"):
            motion = system.extract(VideoReader(self.clip))
        head = [motion.names.index(name) for name in DEGREES]
        face = [index for index, name in enumerate(motion.names) if name not in POSE]
        table = {}
        for rate in RATES:
            with stages("compare rates"):
                try:
                    lever, every = choose(motion, rate)
                except ValueError:  # the motion does not fit into so little
                    continue
                header = header_of(motion, lever=lever, every=every)
                away = np.abs(quantise(motion, header) - motion.values)
            means = (float(away[:, columns].mean()) for columns in (head, face))
            table[f"{rate:g}"] = dict(zip(("head", "face"), (round(mean, 3) for mean in means)))
        return {"rate against error": table}

    def lines(self, _: dict[str, Any]) -> list[str]:
        """Nothing: the page draws the table."""
        return []

    def line(self) -> str:
        """No command does this alone."""
        return ""

    python = line
