"""Recipe for a generator of the user's own pictures: StyleGAN2's adversarial training.

Karras et al., "Analyzing and Improving the Image Quality of StyleGAN" (2020): non-saturating logistic loss, lazy R1 and
path length, style mixing, averaged weights. The architecture is that of the built-in generator, whose weights may be
the start. All random numbers of a step are drawn for the whole batch from the step's index.
"""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import torch
from torch import Tensor

from stylereel.generator import Discriminator, DiscriminatorConfig, StyleGAN2
from stylereel.media.sheet import contact_sheet
from stylereel.render import pictures
from stylereel.train import generator as builtin_recipe
from stylereel.train.loop import Average, Trainer
from stylereel.train.losses import PathLength, critic_loss, fooling_loss, r1_penalty
from stylereel.train.optimise import lazy_adam
from stylereel.train.sources import Source

STEPS, BATCH = 200_000, 16  # 3.2 million pictures; a scale of 0.1 is enough to move built-in weights to a new set
RATE = 2.5e-3
R1_EVERY, PATH_EVERY, PATH_WEIGHT = 16, 4, 2.0
MIXING = 0.9  # share of samples whose later rows of W+ come from a second latent
HALF_LIFE = 5000  # of the average, in pictures


class Draws:
    """The random numbers of one step, drawn for the whole batch; every process takes its share of each."""

    def __init__(self, index: int, trainer: Trainer) -> None:
        self._random = torch.Generator(trainer.device).manual_seed(index)
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

    def _mine(self, numbers: Tensor) -> Tensor:
        return numbers[self._share[0] :: self._share[1]]


def train(trainer: Trainer, source: Source, start: StyleGAN2 | None = None) -> StyleGAN2:
    """Train a generator of the pictures of `source`, from random weights or trained ones.

    The pictures must have the size of the generator, which is that of the built-in one.
    """
    torch.manual_seed(20)
    config = builtin_recipe.CONFIG if start is None else start.config
    size, share = config.resolution, trainer.share
    model, average = start or StyleGAN2(config), StyleGAN2(config)
    critic = Discriminator(DiscriminatorConfig(size, channel_base=config.channel_base, channel_max=config.channel_max))
    lengths = PathLength()
    for network in (model, critic):
        network.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
    optimizer, critic_optimizer = lazy_adam(model, RATE, PATH_EVERY), lazy_adam(critic, RATE, R1_EVERY)
    r1_weight = 0.0002 * size**2 / BATCH  # the rule of Karras et al., "Training GANs with Limited Data" (2020)
    follow = Average(model, average, 0.5 ** (BATCH / HALF_LIFE))

    def step(index: int) -> dict[str, Tensor]:
        real, draws = source.batch(index, BATCH, share)["images"], Draws(index, trainer)
        assert isinstance(real, Tensor)
        real = trainer.to_device(real)
        losses: dict[str, Tensor] = {}
        w = draws.mixed_w(model, BATCH)
        images = model.synthesize(w, noise=draws.noise(model, BATCH), dtype=trainer.dtype)

        def judge() -> Iterator[Tensor]:
            scores = critic(real, dtype=trainer.dtype), critic(images.detach(), dtype=trainer.dtype)
            losses["critic"] = critic_loss(*scores)
            yield losses["critic"]
            if index % R1_EVERY == 0:
                losses["r1"] = r1_penalty(critic, real)
                yield 0.5 * r1_weight * R1_EVERY * losses["r1"]

        def fool() -> Iterator[Tensor]:
            losses["fooled"] = fooling_loss(critic(images, dtype=trainer.dtype))
            yield losses["fooled"]
            if index % PATH_EVERY == 0:
                half = BATCH // 2
                codes = draws.mixed_w(model, half)
                path = model.synthesize(codes, noise=draws.noise(model, half), dtype=trainer.dtype)
                losses["path"] = lengths(path, codes, draws.normal(half, 3, size, size))
                yield PATH_WEIGHT * PATH_EVERY * losses["path"]

        critic.requires_grad_(True)
        trainer.descend(judge(), [critic_optimizer])
        critic.requires_grad_(False)
        trainer.descend(fool(), [optimizer])
        model.track_mean_w(w, 0.998)
        follow.update(index)
        return losses

    @torch.no_grad()
    def sample() -> np.ndarray:
        """32 pictures of latents that stay the same throughout."""
        z = torch.randn(32, config.z_dim, generator=torch.Generator().manual_seed(0)).to(trainer.device)
        return contact_sheet([frame for part in z.split(8) for frame in pictures(average(part))], 8)

    trainer.fit(
        "generator/adversarial",
        {"model": model, "average": average, "critic": critic, "lengths": lengths},
        {"model": optimizer, "critic": critic_optimizer},
        step,
        trainer.steps(STEPS),
        batch=BATCH // 2,
        every=50,
        sample=sample,
    )
    return average
