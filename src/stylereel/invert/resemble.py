"""A generator that shows the person of a photograph, tuned to views of it.

Pivotal tuning (`invert.pti`) of one image teaches a generator where its pixels are, and what turns away from it is
anyone's guess. Here the tuned generator has to show the person as the photograph would look in other motions, too
(`invert.views`).

The loss of a view is its absolute error at four resolutions, and its distance in network features. A step takes one
image; the first ones compare at half the size, which costs half.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Mapping, Sequence
from typing import cast

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from stylereel.core.precision import choose_precision
from stylereel.core.system import Frames
from stylereel.generator import StyleGAN2
from stylereel.generator.base import Generator
from stylereel.invert.optimise import Through
from stylereel.invert.perceptual import Vectors, distance
from stylereel.invert.person import compose
from stylereel.invert.views import SIZE, View

STEPS = 1100
LR, FEATURES = 2e-2, 0.3  # of Adam; weight of the distance in features
AGAIN = 500  # steps for what a system shows otherwise than by its codes
_MOVERS = 0.05  # of the rate: what moves them learns slowly
ALIAS_FREE = 300  # steps for a StyleGAN3, of which one takes three times as long
_COARSE, _REST = 0.8, 0.15  # shares of the steps: at half the size, with the photograph itself
_LEVELS = 4  # resolutions, each half of the one before


def tune(
    generator: Generator,
    seen: Sequence[View],
    look: Vectors,
    steps: int = STEPS,
    through: Through = iter,
    show: Callable[[Generator, int], Frames] | None = None,
    movers: Mapping[str, nn.Module] | None = None,
) -> dict[str, Tensor]:
    """The change of a generator's parameters with which the persons of `seen`, the photograph first, look as they do.

    All layers of synthesis change but the affine ones, so style vectors mean the same to both generators, and what
    moves the drawn person moves this one.

    Args:
        generator: one of the built-in family.
        seen: views, two or more.
        look: gives the vectors whose squared distance is added to the loss.
        steps: of Adam, one image each.
        through: hands the numbers of the steps on.
        show: how a generator shows the view of an index; if not given, by the codes of its values, which a StyleGAN2 of
            the world's people has.
        movers: networks that `show` asks, by name; they learn with the generator, in place, at a twentieth of the rate.

    Returns:
        {name of the parameter: difference, float16}; those of the movers as "mover.parameter".
    """
    tuned = copy.deepcopy(generator).requires_grad_(False)
    tuned = tuned.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
    parameters = {name: p for name, p in tuned.synthesis.named_parameters("synthesis") if ".affine." not in name}
    slow = {f"{mover}.{name}": p for mover, net in (movers or {}).items() for name, p in net.named_parameters()}
    original = {name: p.detach().clone() for name, p in (parameters | slow).items()}
    free = [p.requires_grad_() for p in (parameters | slow).values()]
    groups = [{"params": parameters.values()}, {"params": slow.values(), "lr": _MOVERS * LR}]
    optimizer = torch.optim.Adam(groups, LR, betas=(0.9, 0.99))
    schedule = torch.optim.lr_scheduler.LambdaLR(
        optimizer, lambda step: min(1.0, (step + 1) / 10) * (0.5 + 0.5 * np.cos(np.pi * step / steps))
    )
    device = generator.mean_w.device
    dtype = torch.bfloat16 if choose_precision("auto", device) == "bf16" else None
    by_blocks = isinstance(generator, StyleGAN2)  # which give the image at half the size, too
    show = show or _by_codes(generator, seen)
    whole = torch.stack([torch.from_numpy(each.image).permute(2, 0, 1) for each in seen]).to(device) / 127.5 - 1
    counts = torch.stack([torch.from_numpy(each.weight)[None] for each in seen]).to(device)
    random = np.random.default_rng(0)
    coarse, left = round(_COARSE * steps) if by_blocks else 0, []
    for step in through(range(steps)):
        if step in (0, coarse):  # half the size, then the whole one
            by = max(1 if step >= coarse else 2, SIZE // generator.resolution)
            images, weights = F.avg_pool2d(whole, by), F.avg_pool2d(counts, by)
            with torch.no_grad():
                targets = torch.cat([look(each) for each in images.split(4)])
        left = left or list(random.permutation(np.arange(1, len(seen))))
        chosen = [0 if random.random() < _REST else left.pop()]
        image, weight = images[chosen], weights[chosen]
        rendered = show(tuned, chosen[0]).synthesize(tuned, dtype, f"b{SIZE // by}.torgb" if by_blocks else None)
        # What is not known is taken as right, so that no feature tells of it.
        loss = FEATURES * distance(look(image + weight.clamp_max(1) * (rendered - image)), targets[chosen]).mean()
        error = (rendered - image) * weight
        for _ in range(_LEVELS):
            loss = loss + error.abs().mean()
            error = F.avg_pool2d(error, 2)
        for parameter, gradient in zip(free, torch.autograd.grad(loss, free, allow_unused=True), strict=True):
            parameter.grad = gradient
        optimizer.step()
        schedule.step()
    for p in slow.values():
        p.requires_grad_(False)
    with torch.no_grad():
        return {name: (p - original[name]).contiguous().half() for name, p in (parameters | slow).items()}


def _by_codes(generator: Generator, seen: Sequence[View]) -> Callable[[Generator, int], Frames]:
    codes = torch.stack([compose(cast(StyleGAN2, generator), each.values) for each in seen])
    return lambda _, index: Frames(w=codes[[index]])
