"""What each masked channel changes in an image, and what it moves: the table by which look stays the source's.

A mask learns from landmarks, motion and identity; none of them sees the backdrop, the clothes or the light, so that
what these do is left to chance. Here it is measured, for any generator: the derivative of the image, and of what the
perception reads, by each style at a place between the source and what the masks make of it, times the way that the
style goes. The sum of squared derivatives over an area needs no pass for each pixel: for independent signs v, the mean
of (v' J)^2 is that sum (Hutchinson 1989), and one pass backwards gives it for all channels.
"""

from __future__ import annotations

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from stylereel import world
from stylereel.generator import StyleGAN2
from stylereel.systems.stylemask.networks import MaskNets
from stylereel.systems.stylemask.training import Perception

PAIRS = 64  # of people
BATCH = 4
SIGNS = 2  # vectors of signs for each pair and area
LEVELS, PERCENT = 127.5, 50.0  # of a unit of images, and of landmarks in -1..1


def measured(
    nets: MaskNets, generator: StyleGAN2, perception: Perception, psi: float = 1.0, pairs: int = PAIRS, seed: int = 0
) -> MaskNets:
    """The mask networks of `generator` with the effects of their channels (see `MaskNets`), over random pairs.

    nets: a table that they have is not used. psi: how far people are from the mean face, as in training. Each pair
    counts with the driver's own code. Raises ValueError for a perception that cannot separate the head from the rest.
    """
    nets = nets.with_effects(None)
    device = next(generator.parameters()).device
    nets = nets.to(device).eval()
    signs = torch.Generator().manual_seed(seed)
    z = np.random.default_rng((52, seed)).standard_normal((pairs, 2, generator.config.z_dim))
    total = torch.zeros(4, sum(nets.config.channels), device=device)
    for part in torch.from_numpy(z).float().to(device).split(BATCH):
        own, other = (generator.map(one, psi=psi) for one in part.unbind(1))
        total += _squares(nets, generator, perception, own, other, signs)
    return nets.with_effects((total / pairs).sqrt().cpu())


def _squares(
    nets: MaskNets, generator: StyleGAN2, perception: Perception, own: Tensor, other: Tensor, signs: torch.Generator
) -> Tensor:
    """Squared effects [4, C], summed over the pairs of people of W+ codes own and other [B, L, D]."""

    def paint(vectors: list[Tensor]) -> Tensor:
        images = generator.synthesize(s=nets.styles(generator, vectors, own))
        return F.adaptive_avg_pool2d(images, perception.size) if images.shape[-1] > perception.size else images

    with torch.no_grad():
        source, target = (nets.vectors(generator, w) for w in (own, other))
        masks = nets.masks(source, target)
        ways = [mask * (b - a) for mask, a, b in zip(masks, source, target)]
        rest = source[len(ways) :]
        ends = (
            perception.areas(paint([*vectors, *rest])) for vectors in (source[: len(ways)], _move(source, ways, 1.0))
        )
        (outside, head), (outside_too, head_too) = ends
        outside, head = outside * outside_too, torch.maximum(head, head_too)
    share = torch.rand([], generator=signs).item()
    leaves = [leaf.detach().requires_grad_() for leaf in _move(source, ways, share)]
    images = paint([*leaves, *rest])
    face = perception.see(images)
    areas = [F.interpolate(area, images.shape[-2:]).expand_as(images) for area in (outside, head)]
    values = face.values[:, world.MOTION_COLUMNS] if face.values is not None else torch.zeros_like(images[:, 0, 0, :1])
    parts = [(LEVELS * images, areas[0]), (LEVELS * images, areas[1])]
    parts += [(output, torch.ones_like(output)) for output in (PERCENT * face.landmarks, values)]
    return torch.stack([_mean_square(part, weight, leaves, ways, signs) for part, weight in parts])


def _move(source: list[Tensor], ways: list[Tensor], share: float) -> list[Tensor]:
    return [a + share * way for a, way in zip(source, ways)]


def _mean_square(
    output: Tensor, weight: Tensor, leaves: list[Tensor], ways: list[Tensor], signs: torch.Generator
) -> Tensor:
    """What each channel changes of `output` [B, ...] where weight is 1: squares [C], means there, summed over B."""
    total = torch.zeros(sum(way.shape[1] for way in ways), device=output.device)
    if not output.requires_grad:
        return total
    count = weight.flatten(1).sum(1).clamp(min=1)[:, None]
    for _ in range(SIGNS):
        sign = (2 * torch.randint(0, 2, output.shape, generator=signs) - 1).to(output)
        found = torch.autograd.grad(output, leaves, sign * weight, retain_graph=True, allow_unused=True)
        slopes = [torch.zeros_like(way) if one is None else one * way for one, way in zip(found, ways)]
        total += (torch.cat(slopes, 1).square() / count).sum(0) / SIGNS
    return total
