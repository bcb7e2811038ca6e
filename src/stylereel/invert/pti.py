"""Pivotal tuning: the generator is fine-tuned until it reproduces the images of a person.

Roich et al., "Pivotal Tuning for Latent-based Editing of Real Images" (2021); one generator for all frames of a clip
as in Tzaban et al., "Stitch it in Time" (2022). The loss is the mean squared error plus the distance in network
features (`perceptual.likeness`) at the pivots, and `LOCALITY` times the same between the tuned and the original
generator at a random code near a pivot, which preserves the rest of the latent space (section 3.3 of the first paper).

Different from the papers: the distance of that random code is the usual distance of two codes instead of 30, which
belongs to one generator; the loss includes the face's identity, which the papers' does not; steps are passes over all
frames; the affine layers stay as they are, so that style vectors mean the same to both generators; what is kept is the
difference of the weights, in half precision, and never a module.
"""

from __future__ import annotations

import copy

import torch
from torch import Tensor

from stylereel.generator import StyleGAN2, StyleGAN3
from stylereel.invert.optimise import Fit, Through
from stylereel.invert.perceptual import Vectors, distance

LR = 1e-3  # of Adam
LOCALITY = 0.1
BATCH = 4  # frames at a time, at up to 256 px


def tune(
    generator: StyleGAN2 | StyleGAN3,
    fit: Fit,
    images: Tensor,
    look: Vectors,
    passes: int = 60,
    locality: float = LOCALITY,
    through: Through = iter,
) -> dict[str, Tensor]:
    """The change of a generator's parameters with which its images of `fit` become `images` [T, 3, H, W].

    All layers of synthesis change but the affine ones; the mapping network does not. The generator given stays as it
    is; `generator.tuned(delta)` makes the other one.

    Returns:
        {name of the parameter: difference, float16}.
    """
    generator = copy.deepcopy(generator).requires_grad_(False)
    tuned = copy.deepcopy(generator)
    parameters = {name: p for name, p in tuned.synthesis.named_parameters("synthesis") if ".affine." not in name}
    free = [p.requires_grad_() for p in parameters.values()]
    optimizer = torch.optim.Adam(free, LR, betas=(0.9, 0.99))
    random = torch.Generator().manual_seed(0)
    batch = at_once(BATCH, generator.resolution)
    with torch.no_grad():
        targets = torch.cat([look(part) for part in images.split(batch)])
    for _ in through(range(passes)):
        for frames in torch.randperm(len(images), generator=random).split(batch):
            rendered = fit[frames].render(tuned)
            loss = (rendered - images[frames]).square().mean() + distance(look(rendered), targets[frames]).mean()
            if locality:
                w = _near(generator, fit.w[frames[:1]], random)
                with torch.no_grad():
                    before = generator.synthesize(w)
                    features = look(before)
                after = tuned.synthesize(w)
                difference = (after - before).square().mean() + distance(look(after), features).mean()
                loss = loss + locality * difference
            for parameter, gradient in zip(free, torch.autograd.grad(loss, free, allow_unused=True), strict=True):
                parameter.grad = gradient
            optimizer.step()
    original = dict(generator.named_parameters())
    with torch.no_grad():
        return {name: (p - original[name]).half() for name, p in parameters.items()}


def at_once(count: int, size: int) -> int:
    """As many images of a size in pixels as take the memory of `count` of 256 px, and never more than `count`."""
    return max(1, min(count, count * 256**2 // size**2))


def _near(generator: StyleGAN2 | StyleGAN3, pivot: Tensor, random: torch.Generator) -> Tensor:
    """A code [1, L, D] in a random direction from the pivot, as far from it as two random codes from each other."""
    z = torch.randn(3, generator.config.z_dim, generator=random).to(pivot.device)
    with torch.no_grad():
        towards, one, two = generator.map(z).split(1)
        length = (one - two)[:, :1].norm(dim=2, keepdim=True)
        way = towards - pivot
        return pivot + way * length / way.norm(dim=2, keepdim=True)
