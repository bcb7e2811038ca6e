"""Last stage of the generators' recipes: sharp hair, lashes, frames and cloth.

Regression paints the mean of what it cannot tell apart, which is a haze. Here the generator also matches the features
of a patch discriminator that is trained along with it, on patches of its image and of the world's image of the same
latents (`train.patches`). The discriminator is told the coarse image, so it asks for edges where they belong and
gains nothing by others. Where a texture cannot be painted strand by strand it shall at least be as strong as the
world's (`power_loss`), without rims along edges (`rim_loss`). The losses of the distillation stay, of which the ones on
low-passed images, on pairs and on what the face net reads keep the factors in place.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from stylereel.family.nets import SIZE, FaceNet
from stylereel.family.people import Batch
from stylereel.generator.base import Generator
from stylereel.recipes.losses import (
    COLOUR,
    colour_loss,
    difference_loss,
    image_loss,
    normalize_weights,
    perceptual_loss,
)
from stylereel.train.loop import Average, Trainer, cosine
from stylereel.train.patches import PatchDiscriminator, coarse_of, cut_patches, feature_loss, hinge_d_loss

_BORDER = 16  # pixels
FINE = 0.19, 0.28  # cycles a pixel, from where to where the emphasis of detail rises


@dataclass(frozen=True)
class SharpenConfig:
    """Settings of `sharpen`.

    steps; pairs: of portraits a step; patch, patches: side in pixels and number of them an image; g_lr, d_lr: learning
    rates; image, low, pair, colour, perceptual, features, gan, power, rim: weights of the losses.
    """

    steps: int
    pairs: int = 4
    patch: int = 128
    patches: int = 2
    g_lr: float = 8e-4
    d_lr: float = 1.5e-4
    image: float = 1.0
    low: float = 4.0
    pair: float = 0.4
    colour: float = COLOUR
    perceptual: float = 1.0
    features: float = 0.2
    gan: float = 0.03
    power: float = 0.0
    rim: float = 0.0


def power_loss(images: Tensor, target: Tensor, window: int = 16) -> Tensor:
    """By how much fine detail is weaker or stronger than the target's, wherever it lies within a window.

    Of the two finest bands of a Laplacian pyramid; amplitude is the root mean square over windows.
    """
    losses = []
    for size in (window, window // 2):
        amplitudes = []
        for each in (images, target):
            low = F.avg_pool2d(each, 2)
            band = each - F.interpolate(low, scale_factor=2, mode="bilinear", align_corners=False)
            amplitudes.append((F.avg_pool2d(band.square(), size, size // 2) + 1e-6).sqrt())
        losses.append((amplitudes[0] - amplitudes[1]).abs().mean() / amplitudes[1].mean())
        images, target = F.avg_pool2d(images, 2), F.avg_pool2d(target, 2)
    return torch.stack(losses).mean()


def emphasised(images: Tensor, gain: float) -> Tensor:
    """Images [B, 3, H, W] whose finest detail, more than 0.25 cycles a pixel, is `gain` times as strong.

    A filter that is the same everywhere adds no grain: what agreed with the world's detail agrees with it as before.
    """
    images = F.pad(images.float(), (_BORDER,) * 4, mode="reflect")  # else the borders would be edges
    height, width = images.shape[2:]
    down = torch.fft.fftfreq(height, device=images.device)[:, None]
    across = torch.fft.rfftfreq(width, device=images.device)[None]
    t = ((torch.hypot(down, across) - FINE[0]) / (FINE[1] - FINE[0])).clamp(0, 1)
    factor = 1 + (gain - 1) * t.square() * (3 - 2 * t)
    strong = torch.fft.irfft2(torch.fft.rfft2(images) * factor, s=(height, width))
    return strong[..., _BORDER:-_BORDER, _BORDER:-_BORDER]


def rim_loss(images: Tensor, target: Tensor, window: int = 7) -> Tensor:
    """By how much the images are brighter or darker than anything that the target shows within a window.

    What is asked to be sharp, and cannot be, gets bright and dark rims along its edges instead.
    """
    high = F.max_pool2d(target, window, 1, window // 2)
    low = -F.max_pool2d(-target, window, 1, window // 2)
    return ((images - high).clamp_min(0) + (low - images).clamp_min(0)).mean()


def sharpen(
    trainer: Trainer,
    name: str,
    model: Generator,
    average: Generator,
    face: FaceNet,
    config: SharpenConfig,
    generate: Callable[[int], tuple[Tensor, Batch]],
    sample: Callable[[], np.ndarray],
) -> None:
    """Train those parameters of `model` that require a gradient; `average` follows the model.

    Args:
        generate: the index of a step to the model's images [B, 3, H, W] and the world's batch of pairs.
        sample: an image uint8 [H, W, 3] for the log.
    """
    discriminator = PatchDiscriminator()
    for network in (model, discriminator):
        network.to(trainer.device, memory_format=torch.channels_last)  # type: ignore[call-overload]
    parameters = [parameter for parameter in model.parameters() if parameter.requires_grad]
    g_optimizer = torch.optim.Adam(parameters, config.g_lr, betas=(0.5, 0.99), foreach=True)
    d_optimizer = torch.optim.Adam(discriminator.parameters(), config.d_lr, betas=(0.5, 0.99), foreach=True)
    ema = Average(model, average, 0.995)
    steps, free = trainer.steps(config.steps), model.resolution - config.patch

    def step(index: int) -> dict[str, Tensor]:
        images, batch = generate(index)
        rank, ranks = trainer.share
        corners = np.random.default_rng((15, index)).integers(free + 1, size=(config.patches * len(images) * ranks, 2))
        corners = corners[rank::ranks]
        places = [(k % len(images), int(top), int(left)) for k, (top, left) in enumerate(corners)]
        coarse, real, fake = (
            cut_patches(each, places, config.patch) for each in (coarse_of(batch.images), batch.images, images)
        )
        with trainer.autocast():
            d_loss = hinge_d_loss(discriminator(real, coarse).scores, discriminator(fake.detach(), coarse).scores)
        trainer.descend(d_loss, [d_optimizer])
        discriminator.requires_grad_(False)
        with trainer.autocast():
            with torch.no_grad():
                target = discriminator(real, coarse).features
            scores, features = discriminator(fake, coarse)
        discriminator.requires_grad_(True)
        losses = {
            "image": image_loss(images, batch),
            "low": F.avg_pool2d(images - batch.images, 4).abs().mean(),
            "pair": difference_loss(images, batch),
            "colour": colour_loss(images, batch),
            "features": feature_loss(features, target),
            "gan": -scores.float().mean(),
            "power": power_loss(images, batch.images),
            "rim": rim_loss(images, batch.images),
        }
        if model.resolution >= SIZE:
            losses["perceptual"] = perceptual_loss(trainer, face, images, batch)
        total = torch.stack([getattr(config, name) * loss for name, loss in losses.items()]).sum()
        trainer.descend(total, [g_optimizer], 1.0, model)
        normalize_weights(model)
        ema.update(index)
        psnr = 10 * torch.log10(4 / (images.detach() - batch.images).square().mean())
        return {**losses, "d_loss": d_loss, "psnr": psnr}

    trainer.fit(
        name,
        {"model": model, "average": average, "discriminator": discriminator},
        {"model": g_optimizer, "discriminator": d_optimizer},
        step,
        steps,
        batch=config.pairs,
        schedule=lambda index: cosine(index, steps),
        sample=sample,
    )
