"""Codes by optimisation: in W, in W+, or a structure map with the styles after it.

| space | what is free | after |
|---|---|---|
| w | one w for all rows | Karras et al., "Analyzing and Improving the Image Quality of StyleGAN" (2020), section 5 |
| w+ | a w for each row | Abdal et al., "Image2StyleGAN" (2019) |
| features | the map after the 32 px block, and the rows after it | Zhu et al., "Barbershop" (2021), section 3.2 |

All start from an encoder's codes. The loss of an image is its mean squared error, its distance in network features
(`perceptual.likeness`), `PRIOR` times how unlikely the codes are (Zhu et al., "Improved StyleGAN Embedding", 2020:
the squared length of the whitened codes before the mapping network's last activation), and `STRUCTURE` times how far
the map moved.

Different from the papers: steps are counted in standard deviations of w (of the map), so that one learning rate fits
any generator; noise maps stay as they are, and w is not perturbed, because the encoder's codes are close already.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any, Literal, NamedTuple, get_args

import torch
import torch.nn.functional as F
from torch import Tensor

from stylereel.core.system import Frames
from stylereel.generator import StyleGAN2, StyleGAN3
from stylereel.invert.perceptual import Vectors, distance

Space = Literal["w", "w+", "features"]
Through = Callable[[range], Iterable[int]]  # hands the numbers of the steps on, and may show or time them

STRUCTURE_LAYER = "b32.conv1"  # its output is the structure map
LR = 0.03  # of Adam, in standard deviations
PRIOR, STRUCTURE = 0.001, 0.1
SAMPLES = 10_000  # of w, for its statistics, as in the published projector


@dataclass(frozen=True)
class Fit:
    """Codes w [B, L, D], and the feature maps {layer: [B, C, H, W]} that replace those that the generator computes."""

    w: Tensor
    features: Mapping[str, Tensor] = field(default_factory=dict)

    def __getitem__(self, frames: Any) -> Fit:
        """The fit of a slice, or a list, of the frames."""
        return Fit(self.w[frames], {layer: maps[frames] for layer, maps in self.features.items()})

    def render(self, generator: StyleGAN2 | StyleGAN3) -> Tensor:
        """The images [B, 3, H, W] that a generator makes from it."""
        return Frames(w=self.w, taps=self.features).synthesize(generator)


class Known(NamedTuple):
    """How the generator's own w are distributed: deviation [D] of w; mean [D] and whitening [D, D] of w before the
    mapping network's last activation."""

    deviation: Tensor
    mean: Tensor
    whitening: Tensor

    @classmethod
    @torch.no_grad()
    def of(cls, generator: StyleGAN2 | StyleGAN3) -> Known:
        device = generator.mean_w.device
        z = torch.randn(SAMPLES, generator.config.z_dim, generator=torch.Generator().manual_seed(0))
        w = generator.mapping(z.to(device))
        before = F.leaky_relu(w, 5.0)
        variances, directions = torch.linalg.eigh(before.T.cov())
        # A small generator's w are near a subspace; leaving it is to cost much, but not everything.
        whitening = directions / variances.clamp_min(1e-3 * float(variances[-1])).sqrt()
        return cls(w.std(0).clamp_min(1e-3), before.mean(0), whitening)

    def unlikely(self, w: Tensor) -> Tensor:
        """Mean square [B] of the whitened codes w [B, L, D]; up to about 1 for the generator's own."""
        return ((F.leaky_relu(w, 5.0) - self.mean) @ self.whitening).square().mean((1, 2))


def optimise(
    generator: StyleGAN2 | StyleGAN3,
    images: Tensor,
    start: Tensor,
    look: Vectors,
    space: Space = "w+",
    steps: int = 100,
    through: Through = iter,
) -> Fit:
    """Codes of images [B, 3, H, W] in [-1, 1] of the generator's size, from codes `start` [B, L, D] on.

    All images are optimised at once, independently of each other. Each ends with the codes of its lowest loss, so a
    few steps never make it worse. Steps of 0 give the start.
    look: gives the vectors whose squared distance is added to the loss, as `likeness` or `Perceptual` do.

    Raises:
        ValueError: images of another size or number, an unknown space, fewer than 0 steps, or a structure map is
            requested from a generator that has none (StyleGAN3, or under 32 px).
    """
    if space not in get_args(Space) or steps < 0:
        raise ValueError(f"Choose a space of {', '.join(get_args(Space))} and 0 steps or more.")
    if images.shape[1:] != (3, generator.resolution, generator.resolution) or len(images) != len(start):
        size = generator.resolution
        raise ValueError(f"Give one image [3, {size}, {size}] for each code, not {list(images.shape)}.")
    start = start.detach().clone()
    if space == "w":
        start = start.mean(1, keepdim=True).expand_as(start)
    first, maps, before = _structure(generator, start) if space == "features" else (0, None, None)
    known, target = Known.of(generator), look(images).detach()
    free = torch.zeros_like(start[:, first : first + 1] if space == "w" else start[:, first:]).requires_grad_()
    moves = [free]
    if maps is not None:
        moves.append(torch.zeros_like(maps).requires_grad_())
        unit = maps.std((1, 2, 3), keepdim=True)
    optimizer = torch.optim.Adam(moves, betas=(0.9, 0.95))
    best = [move.detach().clone() for move in moves]
    least = torch.full((len(images),), math.inf, device=start.device)

    def fit() -> tuple[Tensor, Tensor | None]:
        rows = start[:, first:] + known.deviation * free
        return torch.cat([start[:, :first], rows], dim=1), None if maps is None else maps + unit * moves[1]

    def evaluate() -> Tensor:
        """The loss [B]; the moves of each image's lowest loss are kept."""
        w, structure = fit()
        begin: Any = None if structure is None else (STRUCTURE_LAYER, structure, before)
        reconstruction = generator.synthesize(w, start=begin)
        loss = (reconstruction - images).square().mean((1, 2, 3)) + distance(look(reconstruction), target)
        loss = loss + PRIOR * known.unlikely(w)
        if structure is not None:
            loss = loss + STRUCTURE * moves[1].square().mean((1, 2, 3))
        with torch.no_grad():
            better = loss < least
            least[better] = loss[better]
            for kept, move in zip(best, moves, strict=True):
                kept[better] = move[better]
        return loss

    for index in through(range(steps)):
        optimizer.param_groups[0]["lr"] = LR * _ramp(index, steps)
        for move, gradient in zip(moves, torch.autograd.grad(evaluate().sum(), moves), strict=True):
            move.grad = gradient
        optimizer.step()
    with torch.no_grad():
        if steps:
            evaluate()
        for move, kept in zip(moves, best, strict=True):
            move.copy_(kept)
        w, structure = fit()
    return Fit(w.detach(), {} if structure is None else {STRUCTURE_LAYER: structure.detach()})


def _ramp(index: int, steps: int) -> float:
    """Factor on LR, as in the published projector: up in the first 5 % of the steps, down in the last 25 %."""
    up, down = (index + 1) / (0.05 * steps), (1 - index / steps) / 0.25
    return min(1.0, up) * (0.5 - 0.5 * math.cos(math.pi * min(1.0, down)))


@torch.no_grad()
def _structure(generator: StyleGAN2 | StyleGAN3, w: Tensor) -> tuple[int, Tensor, Tensor]:
    """The first row after the structure map, the map, and the image so far before it."""
    names = [layer.name for layer in generator.style_layers]
    if STRUCTURE_LAYER not in names or not isinstance(generator, StyleGAN2):
        raise ValueError("The feature space needs a StyleGAN2 of 32 px or more; choose the space w or w+.")
    colours: list[Tensor] = []
    maps = generator.synthesize(w, taps={"b16.torgb": colours.append}, stop=STRUCTURE_LAYER)
    return generator.style_layers[names.index(STRUCTURE_LAYER)].row + 1, maps, colours[0]
