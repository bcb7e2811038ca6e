"""A larger StyleGAN3 of the built-in family, for poses that were learned small (the paper renders at 1024 px so).

It takes over the mapping network and all layers of the small one but the last two, whose work its new layers begin by
doing (`begin`). They learn with the one before them from single images: no large video is needed. Codes of the small
one mean the same in it, so that appearance, pose and motion need no further training.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import replace

import torch
import torch.nn.functional as F
from torch import Tensor

from stylereel.generator import StyleGAN3
from stylereel.generator.base import StyleLayer
from stylereel.generator.stylegan3 import SynthesisLayer
from stylereel.recipes.losses import image_loss, normalize_weights, optimizers_of
from stylereel.recipes.stylegan3 import Placed, draw_placed, samples, transfer
from stylereel.systems.stylefacev.data import KNOWN
from stylereel.train.loop import Average, Trainer, cosine

STEPS, PAIRS = 400, 1  # pairs of portraits a step
NEW = 2  # layers for each doubling
LR = 5e-4
FIRST = 12  # pairs of portraits by which new layers begin


def grow(small: StyleGAN3, resolution: int) -> StyleGAN3:
    """A generator of twice, four times ... the resolution that begins with all layers of the small one but toRGB.

    Raises ValueError for another resolution.
    """
    times = resolution // small.resolution
    if times < 2 or times & (times - 1) or times * small.resolution != resolution:
        raise ValueError(f"A larger generator has 2, 4, ... times {small.resolution} px, not {resolution}.")
    layers = small.config.num_layers + NEW * (times.bit_length() - 1)
    return transfer(small, replace(small.config, resolution=resolution, num_layers=layers))


def new_layers(model: StyleGAN3, small: StyleGAN3) -> tuple[StyleLayer, ...]:
    """What the larger generator does not have from the small one, toRGB last: that one's last layer before toRGB has
    other filters, which suit the last layer alone."""
    return model.style_layers[len(small.style_layers) - 2 :]


def _modules(model: StyleGAN3, layers: Iterable[StyleLayer]) -> list[SynthesisLayer]:
    modules = [model.synthesis.get_submodule(layer.name) for layer in layers]
    return [module for module in modules if isinstance(module, SynthesisLayer)]


@torch.no_grad()
def begin(model: StyleGAN3, small: StyleGAN3, placed: Placed) -> None:
    """Let new layers show nearly what the small generator shows, matched in colour to portraits.

    The first takes over those channels of the small one's last layer that its toRGB shows most, the second what toRGB
    makes of them. A leaky ReLU keeps a number that two channels hold with either sign, since the difference of the two
    is linear in it: so six channels of each later layer hand on the colours, and the others, which toRGB does not show
    yet, are free to learn.
    """
    old, old_rgb = _modules(small, small.style_layers[-2:])
    new = _modules(model, new_layers(model, small))
    w = small.map(placed.batch.z[:, 0])
    seen = small.synthesize(w, transform=placed.transform, stop=small.style_layers[-2].name)
    chosen = (old_rgb.weight.abs().sum((0, 2, 3)) * seen.std((0, 2, 3))).topk(len(new[0].weight)).indices
    new[0].weight.copy_(old.weight[chosen])
    new[0].bias.copy_(old.bias[chosen])
    new[0].affine.load_state_dict(old.affine.state_dict())
    new[1].affine.weight.copy_(old_rgb.affine.weight[chosen])
    new[1].affine.bias.copy_(old_rgb.affine.bias[chosen])
    colours = old_rgb.weight[:, chosen, 0, 0]
    x = model.synthesize(w[:, :1].expand(-1, model.num_ws, -1), transform=placed.transform,
                         stop=model.style_layers[new_layers(model, small)[0].index - 1].name)  # fmt: skip
    for number, module in enumerate(new[:-1]):
        if number:
            rows = torch.cat([colours, -colours])
            module.weight[: len(rows), :, 0, 0] = rows * (rows.shape[1] ** 0.5 / rows.norm(dim=1, keepdim=True))
            colours = F.pad(torch.cat([torch.eye(3), -torch.eye(3)], 1).to(x), (0, len(module.weight) - 6))
        if number > 1:
            module.affine.weight.zero_()
        x = module(x, module.affine(w[:, 0]), 0.0)
    matrix, bias = _nearest(x[:, :3] - x[:, 3:6], placed.batch.images / model.config.output_scale)
    last = new[-1]
    last.magnitude_ema.copy_(x.square().mean())
    last.affine.weight.zero_()
    last.weight.zero_()
    last.weight[:, :6, 0, 0] = torch.cat([matrix, -matrix], 1) * (x.shape[1] * last.magnitude_ema) ** 0.5
    last.bias.copy_(bias)


def _nearest(x: Tensor, images: Tensor) -> tuple[Tensor, Tensor]:
    """The matrix [3, C] and the offset [3] by which features [B, C, H, W] are nearest to images [B, 3, H, W]."""
    inputs, target = (each.permute(0, 2, 3, 1).flatten(0, 2).double() for each in (x, images))
    inputs = F.pad(inputs, (0, 1), value=1.0)
    found = torch.linalg.solve(inputs.T @ inputs, inputs.T @ target).to(x)
    return found[:-1].T, found[-1]


def train_larger(trainer: Trainer, small: StyleGAN3, resolution: int, steps: int = STEPS) -> StyleGAN3:
    """`grow` and `begin`, and the new layers and the one before them by the world's single images."""
    torch.manual_seed(70)
    model = grow(small, resolution).requires_grad_(False)
    new = new_layers(model, small)
    begin(model, small, draw_placed((72,), FIRST, resolution, known=KNOWN))
    for layer in model.style_layers[new[0].index - 1 :]:
        model.synthesis.get_submodule(layer.name).requires_grad_(True)
    average = StyleGAN3(model.config)
    optimizers = optimizers_of(model, LR)
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
