"""How near the matte of `--background` is to the world's exact masks: `python benchmarks/matte.py`.

Prints a JSON: for people of the world, drawn at 256 px, the part of the pixels that is wrong (mean of the absolute
difference from the exact mask, in %) by the region map alone and by the matte, and the part of the person's pixels that
is lost and of the background's that is kept, where the matte is rounded.
"""

from __future__ import annotations

import argparse
import json

import numpy as np
from PIL import Image

from stylereel import world
from stylereel.family.matte import in_front, matte
from stylereel.world.factors import LATENT_DIM

SIZE = 256


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--people", type=int, default=24)
    parser.add_argument("--seed", type=int, default=5)
    given = parser.parse_args()
    random, rows = np.random.default_rng(given.seed), []
    for _ in range(given.people):
        drawn = world.draw(world.align(world.from_latent(random.standard_normal(LATENT_DIM))), SIZE)
        exact, alpha = np.asarray(drawn.regions) != 0, matte(drawn.image).alpha
        share = Image.fromarray(in_front(drawn.image)).resize((SIZE, SIZE), Image.Resampling.BILINEAR)
        coarse, firm = np.asarray(share), alpha > 0.5
        rows.append([np.abs(coarse - exact).mean(), np.abs(alpha - exact).mean(), ~firm[exact], firm[~exact]])
    names = ("region map alone", "matte", "person lost", "background kept")
    means = {name: round(float(np.mean([np.mean(row[at]) for row in rows])) * 100, 2) for at, name in enumerate(names)}
    print(json.dumps({"people": given.people, "percent of pixels": means}))


if __name__ == "__main__":
    main()
