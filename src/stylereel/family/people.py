"""The built-in people: their latents, the rows of W+ that carry each group of factors, and their portraits.

A batch follows from its seed alone. With a share (rank, ranks) only every ranks-th sample from rank on is drawn, so
that several processes draw one batch together.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from stylereel import world
from stylereel.core.prefetch import WHOLE, Share
from stylereel.generator import StyleGAN2
from stylereel.generator.base import Generator
from stylereel.world.factors import (
    EXPRESSION,
    GROUP,
    HIGH,
    INDEX,
    LATENT_DIM,
    LOW,
    MOTION_COLUMNS,
    NAMES,
    from_normal,
    neutral,
    normalize,
    to_normal,
)

FACTORS_OF_0_1 = 76  # of the generators whose files do not say it
GROUPS = ("pose", "shape", "expression", "look")
# The rows of W+ that carry each group of factors in the built-in generator, from coarse to fine.
FIRST_ROW = {"pose": 0, "shape": 2, "expression": 4, "look": 6}


def group_of_row(row: int) -> int:
    """Index into GROUPS of the factors that row `row` of W+ carries."""
    return max(i for i, group in enumerate(GROUPS) if FIRST_ROW[group] <= row)


FEW = 0.1  # of the factors change with the one that surely does, see `draw_pairs`
_EXPRESSION = [INDEX[name] for name in EXPRESSION]
_GROUP_OF_FACTOR = np.array([GROUPS.index(GROUP[name]) for name in NAMES])


class Batch(NamedTuple):
    """Portraits with their labels.

    z: latents [B, 4, 80], one for each of GROUPS (they differ where styles are mixed); values: factors [B, K];
    images: [B, 3, H, W] in [-1, 1]; landmarks: [B, 68, 2] in 0..1; regions: [B, H, W] uint8.
    """

    z: Tensor
    values: Tensor
    images: Tensor
    landmarks: Tensor
    regions: Tensor


def mixed_values(z: np.ndarray, known: int = len(NAMES)) -> np.ndarray:
    """Factor values [B, K] of latents z [B, 4, 80]: each factor is read from the latent of its group.

    Those after the first `known` are neutral, for generators that are older than they are.
    """
    normal = normalize(z)[..., : len(NAMES)]
    index = np.broadcast_to(_GROUP_OF_FACTOR, (len(z), 1, len(NAMES)))
    values = from_normal(np.take_along_axis(normal, index, axis=1)[:, 0])
    values[:, known:] = neutral()[known:]
    return values


def latents_of(values: np.ndarray, random: np.random.Generator, steady: bool = False) -> np.ndarray:
    """Latents z [B, 4, 80] whose `mixed_values` are `values` [B, K]: the inverse, up to clipping at the limits.

    The numbers that a group's latent does not use are random; they give it the length that normalising expects.
    steady: they have one direction in all latents, as the frames of a clip need it.
    """
    normal = to_normal(values)
    z = random.standard_normal((1 if steady else len(values), len(GROUPS), LATENT_DIM))
    z = np.repeat(z, len(values) // len(z), axis=0)
    for group in range(len(GROUPS)):
        own = np.flatnonzero(_GROUP_OF_FACTOR == group)
        rest = np.setdiff1d(np.arange(LATENT_DIM), own)
        z[:, group, own] = normal[:, own]
        left = LATENT_DIM - (normal[:, own] ** 2).sum(1, keepdims=True)
        assert (left > 0).all()
        others = z[:, group, rest]
        z[:, group, rest] = others * np.sqrt(left / (others**2).sum(1, keepdims=True))
    return z


def draw_batch(
    seed: tuple[int, ...],
    count: int,
    size: int,
    mix: float = 0.5,
    aligned: bool = True,
    share: Share = WHOLE,
    known: int = len(NAMES),
) -> Batch:
    """`count` random portraits of `size` pixels; a part `mix` of them takes each group from one of two latents."""
    z = mixed_latents(seed, count, mix)
    values = mixed_values(z, known)
    return draw_portraits(z, world.align(values) if aligned else values, size, share)


def mixed_latents(seed: tuple[int, ...], count: int, mix: float) -> np.ndarray:
    """Latents z [B, 4, 80]; a part `mix` of them takes each group from one of two latents."""
    random = np.random.default_rng(seed)
    z = np.repeat(random.standard_normal((count, 1, LATENT_DIM)), len(GROUPS), axis=1)
    other = random.standard_normal((count, 1, LATENT_DIM))
    swap = (random.random((count, len(GROUPS), 1)) < 0.5) & (random.random((count, 1, 1)) < mix)
    return np.where(swap, other, z)


def draw_pairs(seed: tuple[int, ...], count: int, size: int, share: Share = WHOLE, known: int = len(NAMES)) -> Batch:
    """`count` random aligned portraits and then `count` partners.

    A third differ in shape, a third in expression, a third in few factors of the expression, each anywhere in its
    range: so what is rare, and what is small beside an opening mouth, is learned as well.
    """
    first = draw_batch(seed, count, size, share=share, known=known)
    random = np.random.default_rng((*seed, 1))
    z = mixed_latents(seed, count, 0.5).astype(np.float32).astype(np.float64)
    kind = random.random(count)
    group = np.where(kind < 2 / 3, GROUPS.index("expression"), GROUPS.index("shape"))
    other = random.standard_normal((count, LATENT_DIM))
    anywhere = to_normal(random.uniform(LOW, HIGH, (count, len(NAMES))).astype(np.float32))
    changed = random.random((count, len(NAMES))) < FEW
    changed[np.arange(count), random.choice(_EXPRESSION, count)] = True
    few = z[:, GROUPS.index("expression")].copy()
    few[:, : len(NAMES)] = np.where(changed, anywhere, few[:, : len(NAMES)])
    z[np.arange(count), group] = np.where(kind[:, None] < 1 / 3, few, other)
    second = draw_portraits(z, world.align(mixed_values(z, known)), size, share)
    return Batch(*(torch.cat(parts) for parts in zip(first, second, strict=True)))


def draw_portraits(z: np.ndarray, values: np.ndarray, size: int, share: Share = WHOLE) -> Batch:
    """The batch of given latents [B, 4, 80] and factor values [B, K]."""
    rank, ranks = share
    z, values = z[rank::ranks], values[rank::ranks]
    portraits = [world.draw(v, size) for v in values]
    images = torch.from_numpy(np.stack([p.image for p in portraits])).permute(0, 3, 1, 2)
    return Batch(
        torch.from_numpy(z).float(),
        torch.from_numpy(values),
        images.float().div(127.5).sub(1).contiguous(memory_format=torch.channels_last),
        torch.from_numpy(np.stack([p.landmarks for p in portraits])),
        torch.from_numpy(np.stack([p.regions for p in portraits])),
    )


def grouped_w(generator: StyleGAN2, z: Tensor) -> Tensor:
    """W+ codes [B, L, D] of latents z [B, 4, 80], one latent for each group of rows."""
    batch, groups, width = z.shape
    w = generator.mapping(z.reshape(batch * groups, width)).view(batch, groups, -1)
    return w[:, [group_of_row(row) for row in range(generator.num_ws)]]


def codes_of(generator: StyleGAN2, values: np.ndarray) -> Tensor:
    """W+ codes [B, L, D] of factor values [B, K], by the mapping network alone."""
    z = torch.from_numpy(latents_of(values, np.random.default_rng(0), steady=True)).float()
    with torch.inference_mode():
        return grouped_w(generator, z.to(generator.mean_w.device))


def motion_codes(generator: StyleGAN2, motion: np.ndarray) -> Tensor:
    """W+ codes [B, L, D] of the neutral head with motion values [B, M] of the world, by the mapping network alone.

    The generator's latent numbers must mean the factors, as those of the built-in one do.
    """
    values = np.tile(neutral(), (len(motion), 1))
    values[:, MOTION_COLUMNS] = np.clip(motion, LOW[MOTION_COLUMNS], HIGH[MOTION_COLUMNS])
    if num_factors(generator) <= INDEX["funnel"]:
        values = without_funnel(values)
    return codes_of(generator, values)


def without_funnel(values: np.ndarray) -> np.ndarray:
    """Factor values [B, K] with the nearest mouth for a generator that does not know the funnel: as narrow by a pucker,
    and as open by the jaw (`world.face.mouth_frame`)."""
    out = values.copy()
    jaw, pucker, funnel = (values[:, INDEX[name]] for name in ("jaw", "pucker", "funnel"))
    rounded = np.clip(pucker + 1.1 * funnel * (1 - 0.6 * pucker), 0, 1)
    opens = 0.28 * jaw * (1 - 0.35 * pucker) + 0.075 * funnel * (1 - 0.6 * pucker)
    out[:, INDEX["jaw"]] = np.where(funnel > 0, np.clip(opens / (1 - 0.35 * rounded) / 0.28, 0, 1), jaw)
    out[:, INDEX["pucker"]], out[:, INDEX["funnel"]] = rounded, 0
    return out


def num_factors(generator: Generator) -> int:
    """How many of the world's factors the latents of a generator mean: those that the world had when it was trained."""
    return len(generator.card.get("factors", "").split()) or FACTORS_OF_0_1
