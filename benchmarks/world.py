"""How fast the world draws on one core, and how often a detector that never saw it finds its faces.

python benchmarks/world.py
"""

from __future__ import annotations

import json
import time

import numpy as np

from stylereel import world
from stylereel.faces.backend import DlibBackend
from stylereel.metrics.likeness import shows_one_face
from stylereel.world.factors import INDEX, LATENT_DIM


def main() -> None:
    people = world.from_latent(np.random.default_rng(1).standard_normal((600, LATENT_DIM)))
    result: dict[str, float] = {}
    for size in (64, 128, 256):
        world.draw(people[0], size)
        best = np.inf
        for _ in range(3):
            start = time.perf_counter()
            for values in people[:100]:
                world.draw(values, size)
            best = min(best, (time.perf_counter() - start) / 100)
        result[f"pictures a second at {size} px"] = round(1 / best)
    backend = DlibBackend()
    facing = [values for values in people if abs(values[INDEX["yaw"]]) <= 30][:400]
    found = [shows_one_face(world.draw(values, 256).image, backend) for values in facing]
    result["detector rate"] = float(np.mean(found))
    result["detector portraits"] = len(found)
    print(json.dumps(result, indent=2))


if __name__ == "__main__":
    main()
