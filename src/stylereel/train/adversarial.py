"""Adversarial training as StyleGAN2-ADA does it: of a user's pictures, and as the finish of the built-in generators.

Karras et al., "Analyzing and Improving the Image Quality of StyleGAN" (2020): non-saturating logistic loss, lazy R1 and
path length, style mixing, averaged weights. Karras et al., "Training Generative Adversarial Networks with Limited Data"
(2020): adaptive augmentation. `compete` is the one way; who calls it says which pictures are real, how codes become
pictures, and what else those must keep to. All random numbers of a step are drawn for the whole batch from its index.
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
from stylereel.train.losses import PathLength, critic_loss, fooling_loss, r1_penalty
from stylereel.train.optimizers import lazy_adam
from stylereel.train.sources import Source

STEPS, BATCH = 200_000, 16  # 3.2 million pictures; a scale of 0.1 is enough to move built-in weights to a new set
RATE = 2.5e-3
R1_EVERY, PATH_EVERY, PATH_WEIGHT = 16, 4, 2.0
MIXING = 0.9  # share of samples whose later rows of W+ come from a second latent
HALF_LIFE = 5000  # of the average, in pictures
SPEED, SPEED_FROM_TRAINED = 500_000, 100_000  # real pictures in which the augmentation's p could go from 0 to 1


@dataclass(frozen=True)
class Rules:
    """How generator and critic meet.

    steps; batch; rate, critic_rate: learning rates; fooling: weight of the generator's adversarial loss beside its
    other losses; r1, path: weights of the regularisers (a path of 0 leaves it out); half_life: of the average, in
    pictures; flip, speed: see `Augment`; warm: steps in which the rates rise.
    """

    steps: int
    batch: int
    rate: float
    critic_rate: float
    r1: float
    path: float = PATH_WEIGHT
    fooling: float = 1.0
    half_life: float = HALF_LIFE
    flip: bool = False
    speed: int = SPEED
    warm: int = 1
    every: int = 50


class Round(NamedTuple):
    """What one step is about, this process's share of it.

    real: pictures [B, 3, H, W]; codes(count): W+ codes of a global batch of `count`, by new random numbers or the
    step's own; paint(w): their pictures; also(images): further losses of the step's pictures.
    """

    real: Tensor
    codes: Callable[[int], Tensor]
    paint: Callable[[Tensor], Tensor]
    also: Callable[[Tensor], dict[str, Tensor]] = lambda images: {}


class Draws:
    """The random numbers of one step, drawn for the whole batch; every process takes its share of each."""

    def __init__(self, index: int, trainer: Trainer) -> None:
        self._random = torch.Generator(trainer.device).manual_seed(index)
        self._matrices = torch.Generator().manual_seed(2**32 + index)
        self._share = trainer.share

    def normal(self, count: int, *shape: int) -> Tensor:
        """Normal numbers for `count` samples of the whole batch."""
        return self._mine(torch.randn(count, *shape, generator=self._random, device=self._random.device))

    def mixed_w(self, model: StyleGAN2, count: int) -> Tensor:
        """W+ codes [B, L, D]: a share MIXING of them goes over to a second latent at some row."""
        first, second = (model.map(self.normal(count, model.config.z_dim)) for _ in range(2))
        device = self._random.device
        cut = torch.randint(1, model.num_ws, (count, 1, 1), generator=self._random, device=device)
        whole = torch.rand(count, 1, 1, generator=self._random, device=device) >= MIXING
        rows = torch.arange(model.num_ws, device=device)[:, None]
        return torch.where((rows < self._mine(cut)) | self._mine(whole), first, second)

    def noise(self, model: StyleGAN2, count: int) -> list[Tensor]:
        """Noise maps [B, 1, H, W] of all convolutions."""
        sizes = [layer.resolution for layer in model.style_layers if layer.kind == "conv"]
        return [self.normal(count, 1, size, size) for size in sizes]

    def augmented(self, augment: Augment, images: Tensor) -> Tensor:
        """This process's pictures [B, 3, H, W] as the critic gets to see them."""
        motion, colour = augment.draw(len(images) * self._share[1], self._matrices)
        return augment(images, (self._mine(motion), self._mine(colour)))

    def _mine(self, numbers: Tensor) -> Tensor:
        return numbers[self._share[0] :: self._share[1]]


def compete(
    trainer: Trainer,
    name: str,
    model: Generator,
    average: Generator,
    critic: Discriminator,
    rules: Rules,
    play: Callable[[int, Draws], Round],
    sample: Callable[[], np.ndarray],
) -> None:
    """Train those parameters of `model` that want a gradient against `critic`; `average` follows the model.

    R1 is taken at the augmented pictures, where the critic is asked, since the warp has no second derivative.
    """
    size, (_, ranks) = model.resolution, trainer.share
    lengths, augment = PathLength(), Augment(rules.flip, rules.speed)
    for network in (model, critic):
        network.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
    optimizer = lazy_adam(model, rules.rate, PATH_EVERY)
    critic_optimizer = lazy_adam(critic, rules.critic_rate, R1_EVERY)
    follow = Average(model, average, 0.5 ** (rules.batch / rules.half_life))
    half = max(rules.batch // 2, ranks)

    def step(index: int) -> dict[str, Tensor]:
        draws = Draws(index, trainer)
        real, codes, paint, also = play(index, draws)
        losses: dict[str, Tensor] = {"p": augment.p.clone()}
        w = codes(rules.batch)
        images = paint(w)

        def judge() -> Iterator[Tensor]:
            seen = draws.augmented(augment, real)
            scores = critic(seen, dtype=trainer.dtype)
            made = critic(draws.augmented(augment, images.detach()), dtype=trainer.dtype)
            losses["critic"], losses["sign"] = critic_loss(scores, made), scores.detach().sign().mean()
            yield losses["critic"]
            if index % R1_EVERY == 0:
                losses["r1"] = r1_penalty(critic, seen)
                yield 0.5 * rules.r1 * R1_EVERY * losses["r1"]
            augment.adapt(scores)

        def fool() -> Iterator[Tensor]:
            losses["fooled"] = fooling_loss(critic(draws.augmented(augment, images), dtype=trainer.dtype))
            others = also(images)
            losses.update(others)
            yield rules.fooling * losses["fooled"] + sum(others.values())
            if rules.path and index % PATH_EVERY == 0:
                start = codes(half)
                start = start if start.requires_grad else start.requires_grad_()
                path = paint(start)
                losses["path"] = lengths(path, start, draws.normal(half, 3, size, size))
                yield rules.path * PATH_EVERY * losses["path"]

        critic.requires_grad_(True)
        trainer.descend(judge(), [critic_optimizer])
        critic.requires_grad_(False)
        trainer.descend(fool(), [optimizer])
        model.track_mean_w(w, 0.998)
        follow.update(index)
        return losses

    trainer.fit(
        name,
        {"model": model, "average": average, "critic": critic, "lengths": lengths, "augment": augment},
        {"model": optimizer, "critic": critic_optimizer},
        step,
        trainer.steps(rules.steps),
        batch=rules.batch // 2,
        schedule=lambda index: min(1.0, (index + 1) / rules.warm),
        every=rules.every,
        sample=sample,
    )


def train(trainer: Trainer, source: Source, config: StyleGAN2Config, start: StyleGAN2 | None = None) -> StyleGAN2:
    """Train a generator of the pictures of `source`, from random weights of a config or trained ones.

    The pictures must have the size of the generator.
    """
    torch.manual_seed(20)
    config = config if start is None else start.config
    model, average = start or StyleGAN2(config), StyleGAN2(config)

    def play(index: int, draws: Draws) -> Round:
        real = source.batch(index, BATCH, trainer.share)["images"]
        assert isinstance(real, Tensor)

        def paint(w: Tensor) -> Tensor:
            noise = draws.noise(model, len(w) * trainer.share[1])
            return model.synthesize(w, noise=noise, dtype=trainer.dtype)

        return Round(trainer.to_device(real), lambda count: draws.mixed_w(model, count), paint)

    @torch.no_grad()
    def sample() -> np.ndarray:
        """32 pictures of latents that stay the same throughout."""
        z = torch.randn(32, config.z_dim, generator=torch.Generator().manual_seed(0)).to(trainer.device)
        return contact_sheet([frame for part in z.split(8) for frame in pictures(average(part))], 8)

    rules = Rules(
        STEPS,
        BATCH,
        RATE,
        RATE,
        r1=0.0002 * config.resolution**2 / BATCH,  # the rule of "Limited Data"
        half_life=HALF_LIFE,
        flip=True,
        speed=SPEED if start is None else SPEED_FROM_TRAINED,
    )
    critic = DiscriminatorConfig(config.resolution, channel_base=config.channel_base, channel_max=config.channel_max)
    compete(trainer, "generator/adversarial", model, average, Discriminator(critic), rules, play, sample)
    return average
