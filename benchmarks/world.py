"""How fast the world draws on one core, and how often a detector that never saw it finds its faces, group by group.

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
from stylereel.world.hair import STYLE_EDGES, STYLES

GROUPS = {
    "hair_style": (STYLES, STYLE_EDGES[1:-1]),
    "skin_tone": (("light", "middle", "dark"), (1 / 3, 2 / 3)),
    "age": (("young", "middle", "old"), (1 / 3, 2 / 3)),
}


def main() -> None:
    people = world.from_latent(np.random.default_rng(1).standard_normal((3500, LATENT_DIM)))
    result: dict[str, object] = {}
    for size in (64, 128, 256):
        world.draw(people[0], size)
        best = np.inf
        for _ in range(3):
            start = time.process_time()
            for values in people[:100]:
                world.draw(values, size)
            best = min(best, (time.process_time() - start) / 100)
        result[f"images a second of processor time at {size} px"] = round(1 / best)
    backend = DlibBackend()
    facing = np.array([values for values in people if abs(values[INDEX["yaw"]]) <= 30][:2000])
    found = np.array([shows_one_face(world.draw(values, 256).image, backend) for values in facing])
    result["detector rate"] = float(found.mean())
    result["detector portraits"] = len(found)
    for name, (groups, edges) in GROUPS.items():
        group = np.searchsorted(edges, facing[:, INDEX[name]])
        result[f"detector rate by {name}"] = {
            each: f"{found[group == k].mean():.3f} of {(group == k).sum()}" for k, each in enumerate(groups)
        }
    print(json.dumps(result, indent=2))


if __name__ == "__main__":
    main()
