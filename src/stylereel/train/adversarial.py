"""Adversarial training on a user's pictures, as StyleGAN2-ADA does it.

Karras et al., "Analyzing and Improving the Image Quality of StyleGAN" (2020): non-saturating logistic loss, lazy R1 and
path length, style mixing, averaged weights. Karras et al., "Training Generative Adversarial Networks with Limited Data"
(2020): adaptive augmentation. The caller of `train_gan` gives the real images and how codes become images.
All random numbers of a step are drawn for the whole batch from its index.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from stylereel.core.render import pictures
from stylereel.generator import Discriminator, DiscriminatorConfig, StyleGAN2, StyleGAN2Config
from stylereel.generator.base import Generator
from stylereel.media.sheet import contact_sheet
from stylereel.train.augment import Augment
from stylereel.train.loop import Average, Trainer
from stylereel.train.losses import PathLength, d_loss, g_loss, r1_penalty
from stylereel.train.optimizers import lazy_adam
from stylereel.train.sources import Source

STEPS, BATCH = 200_000, 16  # 3.2 million images; a scale of 0.1 is enough to move built-in weights to a new set
LR = 2.5e-3
R1_EVERY, PATH_EVERY, PATH_WEIGHT = 16, 4, 2.0
MIXING = 0.9  # share of samples whose later rows of W+ come from a second latent
HALF_LIFE = 5000  # of the average, in images
SPEED, SPEED_FROM_TRAINED = 500_000, 100_000  # real images in which the augmentation's p could go from 0 to 1


@dataclass(frozen=True)
class GANConfig:
    """Settings of `train_gan`.

    steps; batch; g_lr, d_lr: learning rates; r1, path: weights of the regularisers (a path of 0 leaves it out);
    half_life: of the average, in images; flip, speed: see `Augment`; every: steps between log lines.
    """

    steps: int
    batch: int
    g_lr: float
    d_lr: float
    r1: float
    path: float = PATH_WEIGHT
    half_life: float = HALF_LIFE
    flip: bool = False
    speed: int = SPEED
    every: int = 50


class GANBatch(NamedTuple):
    """Inputs of one step, this process's share of them.

    real: images [B, 3, H, W]; codes(count): W+ codes of a global batch of `count`, by new random numbers or the
    step's own; generate(w): their images.
    """

    real: Tensor
    codes: Callable[[int], Tensor]
    generate: Callable[[Tensor], Tensor]


class RandomState:
    """The random numbers of one step, drawn for the whole batch; every process takes its share of each."""

    def __init__(self, index: int, trainer: Trainer) -> None:
        self._random = torch.Generator(trainer.device).manual_seed(index)
        self._matrices = torch.Generator().manual_seed(2**32 + index)
        self._share = trainer.share

    def normal(self, count: int, *shape: int) -> Tensor:
        """Normal numbers for `count` samples of the whole batch."""
        return self._share_of(torch.randn(count, *shape, generator=self._random, device=self._random.device))

    def mix_styles(self, model: StyleGAN2, count: int) -> Tensor:
        """W+ codes [B, L, D], of which a share MIXING changes to a second latent at some row (style mixing)."""
        first, second = (model.map(self.normal(count, model.config.z_dim)) for _ in range(2))
        device = self._random.device
        cut = torch.randint(1, model.num_ws, (count, 1, 1), generator=self._random, device=device)
        whole = torch.rand(count, 1, 1, generator=self._random, device=device) >= MIXING
        rows = torch.arange(model.num_ws, device=device)[:, None]
        return torch.where((rows < self._share_of(cut)) | self._share_of(whole), first, second)

    def noise(self, model: StyleGAN2, count: int) -> list[Tensor]:
        """Noise maps [B, 1, H, W] of all convolutions."""
        sizes = [layer.resolution for layer in model.style_layers if layer.kind == "conv"]
        return [self.normal(count, 1, size, size) for size in sizes]

    def augment(self, augment: Augment, images: Tensor) -> Tensor:
        """This process's images [B, 3, H, W], augmented."""
        motion, colour = augment.draw(len(images) * self._share[1], self._matrices)
        return augment(images, (self._share_of(motion), self._share_of(colour)))

    def _share_of(self, numbers: Tensor) -> Tensor:
        return numbers[self._share[0] :: self._share[1]]


def train_gan(
    trainer: Trainer,
    name: str,
    model: Generator,
    average: Generator,
    discriminator: Discriminator,
    config: GANConfig,
    make_batch: Callable[[int, RandomState], GANBatch],
    sample: Callable[[], np.ndarray],
) -> None:
    """Train those parameters of `model` that require a gradient against `discriminator`; `average` follows the model.

    R1 is taken at the augmented images, which are the discriminator's inputs, since the warp has no second derivative.
    """
    size, (_, ranks) = model.resolution, trainer.share
    lengths, augment = PathLength(), Augment(config.flip, config.speed)
    for network in (model, discriminator):
        network.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
    g_optimizer = lazy_adam(model, config.g_lr, PATH_EVERY)
    d_optimizer = lazy_adam(discriminator, config.d_lr, R1_EVERY)
    ema = Average(model, average, 0.5 ** (config.batch / config.half_life))
    half = max(config.batch // 2, ranks)

    def step(index: int) -> dict[str, Tensor]:
        random = RandomState(index, trainer)
        real, codes, generate = make_batch(index, random)
        losses: dict[str, Tensor] = {"p": augment.p.clone()}
        w = codes(config.batch)
        images = generate(w)

        def d_losses() -> Iterator[Tensor]:
            inputs = random.augment(augment, real)
            scores = discriminator(inputs, dtype=trainer.dtype)
            fake_scores = discriminator(random.augment(augment, images.detach()), dtype=trainer.dtype)
            losses["d_loss"], losses["sign"] = d_loss(scores, fake_scores), scores.detach().sign().mean()
            yield losses["d_loss"]
            if index % R1_EVERY == 0:
                losses["r1"] = r1_penalty(discriminator, inputs)
                yield 0.5 * config.r1 * R1_EVERY * losses["r1"]
            augment.adapt(scores)

        def g_losses() -> Iterator[Tensor]:
            losses["g_loss"] = g_loss(discriminator(random.augment(augment, images), dtype=trainer.dtype))
            yield losses["g_loss"]
            if config.path and index % PATH_EVERY == 0:
                start = codes(half)
                start = start if start.requires_grad else start.requires_grad_()
                path = generate(start)
                losses["path"] = lengths(path, start, random.normal(half, 3, size, size))
                yield config.path * PATH_EVERY * losses["path"]

        discriminator.requires_grad_(True)
        trainer.descend(d_losses(), [d_optimizer])
        discriminator.requires_grad_(False)
        trainer.descend(g_losses(), [g_optimizer])
        model.track_mean_w(w, 0.998)
        ema.update(index)
        return losses

    trainer.fit(
        name,
        # "critic" is the discriminator's name in checkpoints since version 0.1.
        {"model": model, "average": average, "critic": discriminator, "lengths": lengths, "augment": augment},
        {"model": g_optimizer, "critic": d_optimizer},
        step,
        trainer.steps(config.steps),
        batch=config.batch // 2,
        every=config.every,
        sample=sample,
    )


def train(trainer: Trainer, source: Source, config: StyleGAN2Config, start: StyleGAN2 | None = None) -> StyleGAN2:
    """Train a generator on the images of `source`, from random weights of a config or trained ones.

    The images must have the size of the generator.
    """
    torch.manual_seed(20)
    config = config if start is None else start.config
    model, average = start or StyleGAN2(config), StyleGAN2(config)

    def make_batch(index: int, random: RandomState) -> GANBatch:
        real = source.batch(index, BATCH, trainer.share)["images"]
        assert isinstance(real, Tensor)

        def generate(w: Tensor) -> Tensor:
            noise = random.noise(model, len(w) * trainer.share[1])
            return model.synthesize(w, noise=noise, dtype=trainer.dtype)

        return GANBatch(trainer.to_device(real), lambda count: random.mix_styles(model, count), generate)

    @torch.no_grad()
    def sample() -> np.ndarray:
        """Images of 32 latents that stay the same throughout."""
        z = torch.randn(32, config.z_dim, generator=torch.Generator().manual_seed(0)).to(trainer.device)
        return contact_sheet([frame for part in z.split(8) for frame in pictures(average(part))], 8)

    settings = GANConfig(
        STEPS,
        BATCH,
        LR,
        LR,
        r1=0.0002 * config.resolution**2 / BATCH,  # the rule of "Limited Data"
        half_life=HALF_LIFE,
        flip=True,
        speed=SPEED if start is None else SPEED_FROM_TRAINED,
    )
    discriminator = Discriminator(
        DiscriminatorConfig(config.resolution, channel_base=config.channel_base, channel_max=config.channel_max)
    )
    train_gan(trainer, "generator/adversarial", model, average, discriminator, settings, make_batch, sample)
    return average
