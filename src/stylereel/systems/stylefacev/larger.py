"""A larger StyleGAN3 of the built-in family, for poses that were learned small (the paper renders at 1024 px so).

It takes over the mapping network and all layers of the small one, of which only the last two and new ones learn, from
single images: no large video is needed. Codes of the small one mean the same in it, so that appearance, pose and motion
need no further training.
"""

from __future__ import annotations

from dataclasses import replace

import torch
from torch import Tensor

from stylereel.generator import StyleGAN3
from stylereel.recipes.losses import image_loss, normalize_weights, optimizers_of
from stylereel.recipes.stylegan3 import draw_placed, samples, transfer
from stylereel.systems.stylefacev.data import KNOWN
from stylereel.train.loop import Average, Trainer, cosine

STEPS, PAIRS = 400, 1  # pairs of portraits a step
NEW = 2  # layers for each doubling
REFINED = 2  # of the small generator's layers before toRGB that learn on, since they are no longer the last


def grow(small: StyleGAN3, resolution: int) -> StyleGAN3:
    """A generator of twice, four times ... the resolution that begins with all layers of the small one but toRGB.

    Raises ValueError for another resolution.
    """
    times = resolution // small.resolution
    if times < 2 or times & (times - 1) or times * small.resolution != resolution:
        raise ValueError(f"A larger generator has 2, 4, ... times {small.resolution} px, not {resolution}.")
    layers = small.config.num_layers + NEW * (times.bit_length() - 1)
    return transfer(small, replace(small.config, resolution=resolution, num_layers=layers))


def train_larger(trainer: Trainer, small: StyleGAN3, resolution: int, steps: int = STEPS) -> StyleGAN3:
    """`grow`, and the new layers by the world's single images."""
    torch.manual_seed(70)
    model = grow(small, resolution).requires_grad_(False)
    learned = model.style_layers[len(small.style_layers) - 1 - REFINED :]
    for layer in learned:
        model.synthesis.get_submodule(layer.name).requires_grad_(True)
    average = StyleGAN3(model.config)
    optimizers = optimizers_of(model, 1e-2)
    steps, follow = trainer.steps(steps), Average(model, average, 0.98)

    def step(index: int) -> dict[str, Tensor]:
        batch, transform = draw_placed((71, index), PAIRS, resolution, trainer.share, KNOWN)
        batch, transform = trainer.to_device(batch), trainer.to_device(transform)
        images = model.synthesize(
            model.map(batch.z[:, 0]), transform=transform, dtype=trainer.dtype, magnitude_decay=0.9
        )
        loss = image_loss(images, batch)
        trainer.descend(loss, optimizers.values(), 1.0, model)
        normalize_weights(model)
        follow.update(index)
        return {"loss": loss, "psnr": 10 * torch.log10(4 / (images.detach() - batch.images).square().mean())}

    trainer.fit(
        f"stylefacev/larger-{resolution}", {"model": model, "average": average}, optimizers, step, steps, every=10,
        schedule=lambda index: cosine(index, steps, warm=10), sample=lambda: samples(average),
    )  # fmt: skip
    return average
