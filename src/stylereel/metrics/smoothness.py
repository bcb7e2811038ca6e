"""Smoothness of a generator: how far its image changes when its code takes a small step.

Perceptual path length of Karras et al., "A Style-Based Generator Architecture" (2019), in the form of "Analyzing and
Improving the Image Quality of StyleGAN" (2020): in W, at the ends of the paths, without cropping.
"""

from __future__ import annotations

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from stylereel.family.nets import SIZE
from stylereel.generator.base import Generator
from stylereel.metrics.features import face_net, official
from stylereel.metrics.intervals import bootstrap
from stylereel.metrics.pictures import LPIPS, face_map_distance, lpips_heads, lpips_network
from stylereel.metrics.registry import Score, Unfit

STEP = 1e-4  # of the way from one latent's w to another's
CUT = 0.01  # share of the longest and of the shortest lengths that are left out


def _distances(a: Tensor, b: Tensor) -> Tensor:
    network = lpips_network("vgg", official(LPIPS.BACKBONES["vgg"]), lpips_heads("vgg"), a.device.type)
    return network(a, b)


def _face_distances(a: Tensor, b: Tensor) -> Tensor:
    small = (F.interpolate(x, (SIZE, SIZE), mode="bilinear", antialias=True, align_corners=False) for x in (a, b))
    return face_map_distance(*small)


@torch.inference_mode()
def path_length(generator: Generator, count: int = 256, seed: int = 0) -> Score:
    """Mean distance of images whose codes differ by `STEP`, over its square, with the 95 % interval.

    By LPIPS over VGG16 where its files are here, as published; else by the maps of the built-in face net, under that
    name and not comparable.
    """
    try:
        net, distance = f"lpips-vgg, {official(LPIPS.BACKBONES['vgg']).name}", _distances
        lpips_heads("vgg")
    except Unfit:
        net, distance = face_net().name, _face_distances
    random = np.random.default_rng((seed, 3))
    lengths = []
    for begin in range(0, count, 8):
        z = torch.from_numpy(random.standard_normal((2, min(8, count - begin), generator.config.z_dim))).float()
        first, second = (generator.map(part.to(generator.mean_w.device)) for part in z)
        pair = (generator.synthesize(w, noise="const") for w in (first, torch.lerp(first, second, STEP)))
        lengths.append(distance(*pair).cpu().double().numpy() / STEP**2)
    values = np.sort(np.concatenate(lengths))
    low, high = np.quantile(values, (CUT, 1 - CUT))
    values = values[(values >= low) & (values <= high)]
    interval, how = bootstrap(list(values[:, None]), seed)
    protocol = f"In W at t = 0, step {STEP}, stored noise, no crop, without the {CUT:.0%} shortest and longest."
    counts = {"pairs": count}
    how = how.replace("clips", "pairs")
    return Score(
        f"path-length[{net}]",
        float(values.mean()),
        interval,
        how,
        "",
        "lower",
        "frame pairs",
        counts,
        protocol,
        seed,
        {},
    )
