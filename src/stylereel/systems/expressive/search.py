"""The channel search: which channels of S move one region of the face, and which 32 of them carry its expressions.

Sensitivity of a region to a channel, as published: the perceptual distance of successive renderings within the region,
over how far the channel moved, mean over a grid of movements; a channel is local to a region where that is `LOCAL`
times its sensitivity of all the rest, in most of the subjects and frames. The paper's thresholds, grid and list are in
a supplement that is not public; ours are below.

Of the local channels those 32 are taken that together carry the most of natural changes, one after the other. What a
channel does to the regions is its derivative of the image there; H holds their products over subjects, so that the part
of a change of S that a set of channels can show is a least squares fit under H.

Different from the paper: the regions' masks weight the maps of differences instead of cutting the images (one pass of
the network serves all regions); LPIPS is used where its files are, else the face net's features.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from stylereel.generator import StyleGAN2
from stylereel.invert.perceptual import Perceptual
from stylereel.systems.expressive.channels import COUNT, REGIONS

GRID = (-1.5, 0.0, 1.5)  # of movements, in standard deviations of the channel
SAMPLES = 2000  # of w, for these
LOCAL, MOST = 1.5, 0.75  # times the sensitivity outside; share of the frames
STRONG = 0.002  # of a region's greatest sensitivity
BATCH = 32
SIZE = 128  # pixels of what is compared
COARSE = 64  # pixels of derivatives
RIDGE = 1e-4  # of the least squares fit, of its trace
FIRST = 16  # channels that show what they can before the others add the rest
# Points of the 68, and how far a region goes beyond them, in widths of the image.
_POINTS = {
    "mouth": ([*range(48, 68), *range(5, 12)], 0.08),
    "eyes": (range(36, 48), 0.045),
    "brows": (range(17, 27), 0.05),
}
_PUPIL = 0.022

Landmarks = Callable[[Tensor], Tensor]  # images [B, 3, H, W] in [-1, 1] to the 68 points [B, 68, 2] in 0..1


def masks(points: Tensor, size: int) -> Tensor:
    """Weights 0..1 [B, 4, size, size] of the `REGIONS` by 68 points [B, 68, 2]."""
    place = (torch.arange(size, device=points.device) + 0.5) / size
    grid = torch.stack(torch.meshgrid(place, place, indexing="xy"), -1)[None, :, :, None]

    def around(centres: Tensor, reach: float) -> Tensor:
        away = (grid - centres[:, None, None]).norm(dim=-1).amin(-1)
        return (1.5 - away / reach).clamp(0, 1)

    found = [around(points[:, list(chosen)], reach) for chosen, reach in _POINTS.values()]
    pupils = torch.stack([points[:, 36:42].mean(1), points[:, 42:48].mean(1)], 1)
    return torch.stack([*found, around(pupils, _PUPIL)], 1)


def masks_of_head(points: Tensor, size: int) -> Tensor:
    """Weights [B, 1, size, size] of the head: an ellipse around all 68 points and as much above the brows."""
    low, high = points.amin(1), points.amax(1)
    low = torch.stack([low[:, 0], low[:, 1] - 0.35 * (high[:, 1] - low[:, 1])], 1)
    place = (torch.arange(size, device=points.device) + 0.5) / size
    grid = torch.stack(torch.meshgrid(place, place, indexing="xy"), -1)[None]
    away = ((grid - ((low + high) / 2)[:, None, None]) / ((high - low) / 2)[:, None, None]).norm(dim=-1)
    return (6 * (1.1 - away)).clamp(0, 1)[:, None]


def searched(generator: StyleGAN2) -> Tensor:
    """Places in S of the channels that are tried: convolutions of S 2 to 17, as far as there are such."""
    places, first = [], 0
    for layer in generator.style_layers:
        if layer.kind == "conv" and 2 <= layer.index <= 17:
            places.append(torch.arange(first, first + layer.channels))
        first += layer.channels
    return torch.cat(places)


@torch.inference_mode()
def deviations(generator: StyleGAN2, seed: int = 0) -> Tensor:
    """Standard deviation [N] of each style over the generator's own codes."""
    z = torch.randn(SAMPLES, generator.config.z_dim, generator=torch.Generator().manual_seed(seed))
    parts = [_flat(generator, generator.map(part.to(generator.mean_w.device))) for part in z.split(500)]
    return torch.cat(parts).std(0).clamp_min(1e-4)


def _flat(generator: StyleGAN2, w: Tensor) -> Tensor:
    return generator.style_space.flatten(generator.styles(w))


def paint(generator: StyleGAN2, flat: Tensor, size: int = SIZE, dtype: torch.dtype | None = None) -> Tensor:
    """Images [B, 3, size, size] of S [B, N]; higher blocks are left out where that gives the size."""
    names = [layer.name for layer in generator.style_layers]
    small = f"b{size}.torgb" if f"b{size}.torgb" in names and generator.resolution > size else None
    images = generator.synthesize(s=generator.style_space.unflatten(flat), stop=small, dtype=dtype)
    return images if images.shape[-1] == size else F.adaptive_avg_pool2d(images, size)


@torch.inference_mode()
def sensitivity(
    generator: StyleGAN2,
    flat: Tensor,
    find: Landmarks,
    perceptual: Perceptual,
    places: Tensor,
    unit: Tensor,
    dtype: torch.dtype | None = None,
) -> Tensor:
    """What moving each channel changes, by region and outside it: [2, 4, P] for one frame S [1, N].

    Distances within a region (and outside of it) are means over its area, per standard deviation.
    unit: [N] standard deviations; dtype: precision of the generator's features.
    """
    points = find(paint(generator, flat, dtype=dtype).float())
    found = torch.zeros(2, len(REGIONS), len(places), device=flat.device)
    deltas = torch.tensor([delta for delta in GRID if delta], device=flat.device)
    middle = GRID.index(0.0)
    at_rest = [maps for maps, _ in perceptual.maps(paint(generator, flat, dtype=dtype).float())]
    for chosen in torch.arange(len(places)).split(BATCH // len(deltas)):
        at = places[chosen].to(flat.device)
        moved = flat.repeat(len(deltas) * len(at), 1).view(len(deltas), len(at), -1)
        moved[:, torch.arange(len(at)), at] += deltas[:, None] * unit[at]
        images = paint(generator, moved.flatten(0, 1), dtype=dtype).float()
        for (maps, weights), still in zip(perceptual.maps(images), at_rest, strict=True):
            maps = F.normalize(maps, dim=1, eps=1e-10).unflatten(0, (len(deltas), len(at)))
            still = F.normalize(still, dim=1, eps=1e-10).expand(1, len(at), -1, -1, -1)
            path = torch.cat([maps[:middle], still, maps[middle:]])
            gaps = torch.tensor(GRID, device=flat.device).diff().view(-1, 1, 1, 1)
            apart = (((path[1:] - path[:-1]).square() * weights).sum(2) / gaps).mean(0)  # of successive movements
            area = F.adaptive_avg_pool2d(masks(points, SIZE), apart.shape[-1])[0]
            for place, weight in enumerate((area, 1 - area)):
                inside = torch.einsum("chw,rhw->rc", apart, weight) / weight.sum((1, 2))[:, None]
                found[place, :, chosen] += inside
    return found


def local(found: Tensor) -> tuple[Tensor, Tensor]:
    """Which channels are local to which region, bool [4, P], and their sensitivity [4, P], of frames [F, 2, 4, P]."""
    own, rest = found[:, 0], found[:, 1]
    share = (own > LOCAL * rest).float().mean(0)
    strength = own.mean(0)
    strong = strength > STRONG * strength.amax(1, keepdim=True)
    return (share >= MOST) & strong, strength


class Carry(NamedTuple):
    """What changes of S do within the regions.

    products: [4, P, P], of the derivatives of the image in each region by the channels, mean over subjects;
    natural: [P, P], second moments of natural changes.
    """

    products: Tensor
    natural: Tensor

    @property
    def together(self) -> Tensor:
        """The products with the regions (not the pupils, which are in the eyes) in units of their natural changes."""
        parts = [self.products[r] / torch.trace(self.products[r] @ self.natural) for r in range(3)]
        return sum(parts, torch.zeros_like(parts[0])) / 3

    def left(self, chosen: Sequence[int], products: Tensor | None = None) -> float:
        """The share of natural change that a least squares fit by the chosen channels does not show."""
        h = self.together if products is None else products
        part = h[:, list(chosen)]
        inside = part[list(chosen)] + 1e-7 * torch.trace(h) / len(h) * torch.eye(len(chosen), device=h.device)
        fit = part @ torch.linalg.solve(inside, part.T)
        return float(torch.trace((h - fit) @ self.natural) / torch.trace(h @ self.natural))


@torch.inference_mode()
def carry(generator: StyleGAN2, flat: Tensor, find: Landmarks, places: Tensor, unit: Tensor, changes: Tensor) -> Carry:
    """What the channels at `places` do to subjects S [B, N], next to natural `changes` [M, P] of them."""
    total = torch.zeros(len(REGIONS), len(places), len(places), device=flat.device)
    size = unit[places].clamp_min(1e-3)
    for one in flat.split(1):
        image = paint(generator, one)
        weight = F.adaptive_avg_pool2d(masks(find(image), SIZE), COARSE)[0]
        parts = []
        for chosen in torch.arange(len(places)).split(BATCH):
            moved = one.repeat(len(chosen), 1)
            moved[torch.arange(len(chosen)), places[chosen]] += size[chosen]
            apart = F.adaptive_avg_pool2d(paint(generator, moved) - image, COARSE)
            parts.append(apart / size[chosen, None, None, None])
        slopes = torch.cat(parts)
        for region, area in enumerate(weight):
            seen = (slopes * area).flatten(1)[:, (area > 0).expand(3, -1, -1).flatten()]
            total[region] += seen @ seen.T / len(flat)
    return Carry(total, changes.T @ changes / len(changes))


def choose(carried: Carry, candidates: Sequence[int], count: int = COUNT) -> list[int]:
    """The channels among the candidates that leave the least, one after the other."""
    h, natural = carried.together, carried.natural
    # What is left of H after the chosen channels; adding c takes its column's outer product away (Schur).
    left, chosen, pool = h.clone(), list[int](), list(candidates)
    floor = 1e-7 * float(torch.trace(h)) / len(h)
    for _ in range(min(count, len(pool))):
        gain = torch.einsum("ij,jk,ki->i", left, natural, left) / (torch.diagonal(left) + floor)
        best = max(pool, key=lambda channel: float(gain[channel]))
        pool.remove(best)
        chosen.append(best)
        column = left[:, best].clone()
        left -= torch.outer(column, column) / (column[best] + floor)
    return chosen


def coder(carried: Carry, chosen: Sequence[int], first: int = FIRST) -> tuple[Tensor, Tensor]:
    """The matrix [C, P] from a change of S to the code of the chosen channels, and the unit [C] of each.

    A unit changes the regions as much as natural expressions do, root mean square. The first channels take what they
    can; the others add what is left, so that these stay small and cost few bits.
    """
    h = carried.together
    spread = carried.natural.diagonal().sqrt().clamp_min(1e-4)
    unit = h.diagonal()[list(chosen)].clamp_min(1e-12).rsqrt()

    def solve(part: list[int], change: Tensor) -> Tensor:
        ridge = RIDGE * torch.diag(spread[part] ** -2) * float(torch.trace(h @ carried.natural))
        return torch.linalg.solve(h[part][:, part] + ridge, h[part] @ change)

    whole = torch.eye(len(h), device=h.device)
    early, late = list(chosen[:first]), list(chosen[first:])
    matrix = solve(early, whole)
    if late:
        rest = whole.clone()
        rest[early] -= matrix
        matrix = torch.cat([matrix, solve(late, rest)])
    return matrix / unit[:, None], unit


def name_channels(chosen: Sequence[int], strength: Tensor) -> list[str]:
    """REGION_NUMBER for each of the chosen, by the region that it moves most against that region's strongest."""
    relative = strength / strength.amax(1, keepdim=True)
    counts, names = dict.fromkeys(REGIONS, 0), []
    for channel in chosen:
        region = REGIONS[int(relative[:, channel].argmax())]
        counts[region] += 1
        names.append(f"{region}_{counts[region]}")
    return names


def frames_of(generator: StyleGAN2, count: int, seed: int) -> Tensor:
    """S [count, N] of the generator's own people."""
    z = torch.randn(count, generator.config.z_dim, generator=torch.Generator().manual_seed(seed))
    with torch.inference_mode():
        return _flat(generator, generator.map(z.to(generator.mean_w.device), psi=0.8))


def renders(generator: StyleGAN2, frames: int) -> int:
    """How many images the search of sensitivities renders."""
    return frames * len(searched(generator)) * (len(GRID) - 1)
