"""How StyleVideoGAN learns: Wasserstein critic on sequences of codes, never a picture."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from stylereel.latents import Codes
from stylereel.record import ratio
from stylereel.systems.stylevideogan.codes import distinct_rows
from stylereel.systems.stylevideogan.networks import (
    KIND,
    Critic,
    VideoConfig,
    VideoGenerator,
    Wandering,
    angle_penalty,
    gradient_penalty,
)
from stylereel.train.loop import Average, Trainer, cosine

CRITIC_ENERGY = 50.0  # mean squared distance of a code from the mean, as the critic sees it


@dataclass(frozen=True)
class Recipe:
    """Settings of a training. The paper's: epochs, penalties and average (its supplement; the text has 0.995).

    The paper does not say what an epoch is. Here it shows every frame once on average: frames of the clip / (batch x
    frames of a sequence) steps. Nor does it give critic steps, Adam's betas and the critic's widths; its batch is 128,
    its rate 0.005 and its networks are 512 wide and make rows, while these are for the built-in family;
    `benchmarks/stylevideogan.py` compares.
    """

    epochs: int = 350
    batch: int = 32
    rate: float = 0.001
    betas: tuple[float, float] = (0.0, 0.99)
    critic_steps: int = 1
    gradient_weight: float = 50.0
    angle_weight: float = 100.0
    angle_every: int = 4  # steps; the penalty then counts so many times
    average: float = 0.997
    width: int = 128
    frames: int = 25
    reduced: bool = True
    seed: int = 0

    def steps(self, frames: int) -> int:
        """Generator steps for a clip of so many frames."""
        return max(1, math.ceil(self.epochs * frames / (self.batch * self.frames)))


def config_of(codes: Codes, recipe: Recipe) -> VideoConfig:
    """The architecture for codes."""
    shape = {"width": recipe.width, "frames": recipe.frames, "reduced": recipe.reduced}
    return VideoConfig(distinct_rows(codes.w), codes.w.shape[2], ratio(codes.rate), codes.generator, **shape)


def train(trainer: Trainer, codes: Codes, recipe: Recipe, name: str = KIND) -> VideoGenerator:
    """Train a model of the motion in `codes`, in float32 whatever the precision: the penalties differentiate twice.

    name: of the stage and its folder.

    Raises:
        ValueError: a clip shorter than two sequences, or one in which nothing moves.
    """
    count, window = len(codes), recipe.frames
    if count < 2 * window:
        raise ValueError(f"Learning a motion takes {2 * window} frames or more, not {count}; give a longer clip.")
    torch.manual_seed(recipe.seed)
    config = config_of(codes, recipe)
    model, average = VideoGenerator(config), VideoGenerator(config)
    model.learn_statistics(codes.w)
    critic, wandering = Critic(config), Wandering(config.noise)
    real = model.made_of(codes.w)
    critic.mean.copy_(real.mean(0))
    critic.scale.copy_(((real - critic.mean).square().sum(1).mean() / CRITIC_ENERGY).sqrt())
    sequences = critic.normalized(real).unfold(0, window, 1).transpose(1, 2).to(trainer.device)  # a view
    optimizers: dict[str, torch.optim.Optimizer] = {
        key: torch.optim.Adam(module.parameters(), recipe.rate, betas=recipe.betas, foreach=True)
        for key, module in (("model", model), ("critic", critic))
    }
    steps, (rank, ranks) = trainer.steps(recipe.steps(count)), trainer.share
    follow = Average(model, average, recipe.average)

    def step(index: int) -> dict[str, Tensor]:
        random = torch.Generator().manual_seed((recipe.seed << 32) + index)

        def normal(*shape: int) -> Tensor:
            return torch.randn(recipe.batch, *shape, generator=random)[rank::ranks].to(trainer.device)

        def noise() -> tuple[Tensor, Tensor]:
            return normal(config.noise), normal(window - 1, config.noise)

        losses: dict[str, Tensor] = {}
        critic.requires_grad_(True)
        for _ in range(recipe.critic_steps):
            chosen = torch.randint(len(sequences), (recipe.batch,), generator=random)[rank::ranks].to(trainer.device)
            share = torch.rand(recipe.batch, 1, 1, generator=random)[rank::ranks].to(trainer.device)
            with torch.no_grad():
                fake = critic.normalized(model(*noise()))

            def judge(chosen: Tensor = chosen, share: Tensor = share, fake: Tensor = fake) -> Iterator[Tensor]:
                shown = sequences[chosen]
                losses["distance"] = (critic(shown) - critic(fake)).mean()
                yield -losses["distance"]
                losses["gradient"] = gradient_penalty(critic, shown, fake, share)
                yield recipe.gradient_weight * losses["gradient"]

            trainer.descend(judge(), [optimizers["critic"]])
        critic.requires_grad_(False)

        def fool() -> Iterator[Tensor]:
            first, others = noise()
            penalised = recipe.angle_weight > 0 and index % recipe.angle_every == 0
            path = model.recurrence(first.requires_grad_(penalised), others.requires_grad_(penalised))
            losses["fooled"] = critic(critic.normalized(model.frames(path))).mean()
            loss = -losses["fooled"]
            if penalised:
                losses["angle"] = angle_penalty(wandering(path), first, others)
                loss = loss + recipe.angle_weight * recipe.angle_every * losses["angle"]
            yield loss

        trainer.descend(fool(), [optimizers["model"]])
        follow.update(index)
        return losses

    def sample() -> np.ndarray:
        """Curves of the first components, of the clip and of a sample as long: nothing is rendered in training."""
        length = min(count, 500)
        made = model.coordinates(average.codes(sample_path(average, 0, length).to(trainer.device)))
        return curves(model.coordinates(codes.w[:length].to(trainer.device)), made, float(codes.rate))

    trainer.fit(
        name,
        {"model": model, "average": average, "critic": critic, "wandering": wandering},
        optimizers,
        step,
        steps,
        batch=recipe.batch,
        schedule=lambda index: cosine(index, steps, warm=1),
        every=50,
        sample=sample,
    )
    settle(average, recipe.seed)
    return average


@torch.no_grad()
def settle(model: VideoGenerator, seed: int = 0, batches: int = 40, batch: int = 64) -> None:
    """Measure the statistics of batch normalisation anew: averaged weights have others than the ones they follow."""
    random = torch.Generator().manual_seed(seed)
    norms = [module for module in model.modules() if isinstance(module, nn.BatchNorm1d)]
    device, config = model.mean.device, model.config
    for norm in norms:
        norm.reset_running_stats()
        norm.momentum = None  # the plain mean over the batches
    model.train()
    for _ in range(batches):
        shapes = (batch, config.noise), (batch, config.frames - 1, config.noise)
        model(*(torch.randn(*shape, generator=random).to(device) for shape in shapes))
    model.eval()
    for norm in norms:
        norm.momentum = 0.1


@torch.no_grad()
def sample_path(
    model: VideoGenerator, seed: int, num_frames: int, towards: int | None = None, share: float = 0.5, chunk: int = 1000
) -> Tensor:
    """Animation codes [T, N] of a seed; a longer path of the same seed begins with the same frames.

    towards, share: start that share of the way, on the arc, to another seed's start. chunk: frames computed at a time;
    it changes memory, not numbers.
    """

    def stream(number: int) -> np.random.Generator:
        return np.random.default_rng((83, number))

    random, size = stream(seed), model.config.noise
    first = random.standard_normal(size, np.float32)
    if towards not in (None, seed):
        other = stream(towards).standard_normal(size, np.float32)
        cosine = np.dot(first, other) / (np.linalg.norm(first) * np.linalg.norm(other))
        angle = np.arccos(np.clip(cosine, -1, 1))
        first = (np.sin((1 - share) * angle) * first + np.sin(share * angle) * other) / np.sin(angle)
    recurrence = model.recurrence.eval()
    start = torch.from_numpy(first.astype(np.float32)).to(model.mean.device)[None]
    path, state = [start], recurrence.start(start)
    for begin in range(1, num_frames, chunk):
        noise = random.standard_normal((1, min(chunk, num_frames - begin), size), np.float32)
        part, state = recurrence.cells(torch.from_numpy(noise).to(start.device), state)
        path.append(part[0])
    return torch.cat(path)[:num_frames]


def curves(clip: Tensor, sample: Tensor, rate: float, shown: int = 4) -> np.ndarray:
    """The first coordinates [T, K] of clip and sample over time, one above the other: uint8 [H, W, 3]."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(10, 1.1 * shown), layout="constrained")
    canvas: Any = FigureCanvasAgg(figure)
    axes = figure.subplots(shown, 2, sharey="row", sharex=True, squeeze=False)
    for column, (title, values) in enumerate((("clip", clip), ("sample", sample))):
        axes[0, column].set_title(title)
        axes[-1, column].set_xlabel("seconds")
        for row in range(shown):
            axes[row, column].plot(np.arange(len(values)) / rate, values[:, row].cpu(), linewidth=0.8)
    canvas.draw()
    return np.asarray(canvas.buffer_rgba())[..., :3].copy()
