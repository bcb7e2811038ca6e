"""How StyleVideoGAN learns: Wasserstein critic on sequences of codes, never an image."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from stylereel.core.latents import Codes
from stylereel.core.record import ratio
from stylereel.core.seeds import check_seed
from stylereel.systems.stylevideogan.codes import distinct_rows
from stylereel.systems.stylevideogan.networks import (
    KIND,
    ORDERS,
    Critic,
    Recurrence,
    VideoConfig,
    VideoGenerator,
    Wandering,
    angle_penalty,
    gradient_penalty,
)
from stylereel.train.loop import Average, Trainer, cosine

SHOWN = 4  # how often an epoch shows every frame, on average
FRESH = 16  # one sequence of so many begins at a start code, the others where an earlier one ended
CALM = 0.5  # share of the steps after which batch normalisation is fixed
AGES = 4  # groups of sequences by age in the finish


@dataclass(frozen=True)
class Recipe:
    """Settings of a training. The paper's: epochs, penalties and average (its supplement; the text has 0.995).

    The paper does not say what an epoch is. Here it shows every frame `SHOWN` times on average: so many times the
    frames of the clip / (batch x frames of a sequence) steps. Nor does it give critic steps, Adam's betas and the
    critic's widths; its batch is 128, its rate 0.005 and its networks are 512 wide and make rows, while these are for
    the built-in family; `benchmarks/stylevideogan.py` compares. The paper has neither moment_weight, of the squared
    distance of second moments (`Moments`), nor spread_weight, of that of distributions (`Spread`). least: steps that a
    short clip gets, however few its epochs would make. finish: share of the steps that come after them without the
    critic, see `finish`.
    """

    epochs: float = 350
    least: int = 3000
    batch: int = 32
    rate: float = 0.001
    critic_rate: float = 0.002
    betas: tuple[float, float] = (0.0, 0.9)
    critic_steps: int = 1
    gradient_weight: float = 50.0
    angle_weight: float = 100.0
    moment_weight: float = 1.0
    spread_weight: float = 2.0
    angle_every: int = 4  # steps; the penalty then counts so many times
    average: float = 0.997
    finish: float = 0.24
    width: int = 96
    frames: int = 25
    reduced: bool = True
    seed: int = 0

    def __post_init__(self) -> None:
        check_seed(self.seed)

    def steps(self, frames: int) -> int:
        """Generator steps for a clip of so many frames."""
        return max(self.least, round(self.epochs * SHOWN * frames / (self.batch * self.frames)))

    def lasting(self, steps: int, frames: int) -> Recipe:
        """The same with the epochs that make so many steps of a clip of so many frames."""
        return replace(self, least=1, epochs=steps * self.batch * self.frames / (SHOWN * frames))


def config_of(codes: Codes, recipe: Recipe) -> VideoConfig:
    """The architecture for codes."""
    shape = {"width": recipe.width, "frames": recipe.frames, "reduced": recipe.reduced}
    return VideoConfig(distinct_rows(codes.w), codes.w.shape[2], ratio(codes.rate), codes.generator, **shape)


def train(trainer: Trainer, codes: Codes, recipe: Recipe, name: str = KIND) -> VideoGenerator:
    """Train a model of the motion in `codes`, in float32 whatever the precision: the penalties differentiate twice.

    name: name of the stage and its folder.

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
    critic.learn_scales(real)
    moments, spread = Moments(critic, real), Spread(critic, real)
    sequences = real.to(trainer.device).unfold(0, window, 1).transpose(1, 2)  # a view
    optimizers: dict[str, torch.optim.Optimizer] = {
        key: torch.optim.Adam(module.parameters(), rate, betas=recipe.betas, fused=True)
        for key, module, rate in (("model", model, recipe.rate), ("critic", critic, recipe.critic_rate))
    }
    steps, (rank, ranks) = trainer.steps(recipe.steps(count)), trainer.share
    calm = int(CALM * steps)
    share_size = recipe.batch // ranks
    fresh, ends = -(-share_size // FRESH), Ends(model.recurrence, share_size)
    follow = Average(model, average, recipe.average)

    def step(index: int) -> dict[str, Tensor]:
        if index == calm:
            settle(model, recipe.seed)
        model.train(index < calm)
        random = torch.Generator().manual_seed((recipe.seed << 32) + index)

        def normal(*shape: int) -> Tensor:
            return torch.randn(recipe.batch, *shape, generator=random)[rank::ranks].to(trainer.device)

        def roll(penalised: bool = False) -> tuple[Tensor, Tensor, Tensor, tuple[Tensor, Tensor]]:
            """Start codes and noise of fresh sequences, animation codes of all (fresh first), and what `ends` keeps."""
            going, ages = ends.draw(fresh, random)
            firsts, others = normal(config.noise), normal(window - 1, config.noise)
            first, of_fresh = firsts[:fresh].requires_grad_(penalised), others[:fresh].requires_grad_(penalised)
            # All start codes pass, for the batch normalisation, though few of their states are used.
            starts = model.recurrence.start(torch.cat([first, firsts[fresh:]]))
            states = torch.cat([starts[:, :fresh], going], 1)
            path, end = model.recurrence.go_on(states, torch.cat([of_fresh, others[fresh:]]))
            return first, of_fresh, path, (end.detach(), ages)

        losses: dict[str, Tensor] = {}
        critic.requires_grad_(True)
        for _ in range(recipe.critic_steps):
            chosen = torch.randint(len(sequences), (recipe.batch,), generator=random)[rank::ranks].to(trainer.device)
            share = torch.rand(recipe.batch, 1, 1, generator=random)[rank::ranks].to(trainer.device)
            with torch.no_grad():
                fake, shown = critic.inputs(model.frames(roll()[2])), critic.inputs(sequences[chosen])

            def critic_losses(shown: Tensor = shown, share: Tensor = share, fake: Tensor = fake) -> Iterator[Tensor]:
                of_shown, of_fake = critic(torch.cat([shown, fake])).chunk(2)
                losses["distance"] = (of_shown - of_fake).mean()
                yield -losses["distance"]
                losses["gradient"] = gradient_penalty(critic, shown, fake, share)
                yield recipe.gradient_weight * losses["gradient"]

            trainer.descend(critic_losses(), [optimizers["critic"]])
        critic.requires_grad_(False)

        def generator_loss() -> Iterator[Tensor]:
            penalised = recipe.angle_weight > 0 and index % recipe.angle_every == 0
            first, others, path, end = roll(penalised)
            inputs = critic.inputs(model.frames(path))
            losses["fooled"] = critic(inputs).mean()
            loss = -losses["fooled"]
            if penalised:
                losses["angle"] = angle_penalty(wandering(path[:fresh]), first, others)
                loss = loss + recipe.angle_weight * recipe.angle_every * losses["angle"]
            if recipe.moment_weight:
                losses["moments"], moment_loss = moments(inputs.split([fresh, share_size - fresh]))
                loss = loss + recipe.moment_weight * moment_loss
            if recipe.spread_weight:
                losses["spread"] = spread(inputs)
                loss = loss + recipe.spread_weight * losses["spread"]
            ends.keep(*end)
            yield loss

        trainer.descend(generator_loss(), [optimizers["model"]])
        follow.update(index)
        return losses

    def sample() -> np.ndarray:
        """Curves of the first components, of the clip and of a sample as long: nothing is rendered in training."""
        length = min(count, 500)
        made = model.coordinates(average.codes(sample_path(average, 0, length).to(trainer.device)))
        return curves(model.coordinates(codes.w[:length].to(trainer.device)), made, float(codes.rate))

    trainer.fit(
        name,
        {
            "model": model,
            "average": average,
            "critic": critic,
            "wandering": wandering,
            "moments": moments,
            "ends": ends,
            "spread": spread,
        },
        optimizers,
        step,
        steps,
        batch=recipe.batch,
        schedule=lambda index: cosine(index, steps, warm=1),
        every=50,
        sample=sample,
    )
    return finish(trainer, average, real, recipe, round(recipe.finish * steps), name)


def finish(
    trainer: Trainer, model: VideoGenerator, real: Tensor, recipe: Recipe, steps: int, name: str = KIND
) -> VideoGenerator:
    """The last steps, without the critic: moments and distributions alone, of motions of every age.

    Against the critic the moments stay short of the clip's, and motions grow wilder with the minutes: what a batch
    shows is right on average over the ages, not for each. Here young and old motions count for themselves.

    Args:
        model: settled; it is changed.
        real: what its heads are to make [T, R].
        steps: how many; none leave the model as it is.
    """
    if not steps:
        return model
    torch.manual_seed(recipe.seed)
    critic, average = Critic(model.config), VideoGenerator(model.config)  # the critic for what it sees alone
    critic.learn_scales(real)
    moments = Moments(critic, real, (0.98,) * AGES, jitter=1.6, aim=0.88)
    spreads = nn.ModuleList([Spread(critic, real) for _ in range(AGES)])
    (rank, ranks), noise = trainer.share, model.config.noise
    size = 64 // ranks
    fresh, ends = max(1, size // 32), Ends(model.recurrence, size)
    for module in (critic, average, ends):
        module.to(trainer.device)
    model.eval().requires_grad_(True)
    follow = Average(model, average, 0.99)
    optimizer = torch.optim.Adam(model.parameters(), 0.24 * recipe.rate, betas=(0.5, 0.99), fused=True)

    def roll(random: torch.Generator) -> Tensor:
        """Animation codes of sequences, the youngest first."""

        def normal(*shape: int) -> Tensor:
            return torch.randn(size * ranks, *shape, generator=random)[rank::ranks].to(trainer.device)

        going, ages = ends.draw(fresh, random)
        ages, order = ages.sort(stable=True)
        states = torch.cat([model.recurrence.start(normal(noise)[:fresh]), going[:, order]], 1)
        path, end = model.recurrence.go_on(states, normal(model.config.frames - 1, noise))
        ends.keep(end.detach(), ages)
        return path

    def step(index: int) -> dict[str, Tensor]:
        path = roll(torch.Generator().manual_seed((recipe.seed << 32) + index))
        parts = critic.inputs(model.frames(path)).chunk(AGES)
        squared, moment_loss = moments(parts)
        distance = torch.stack([spread(part) for spread, part in zip(spreads, parts)]).mean()
        # Rarely a step through time explodes; without the limit one of them ended a run with a static head.
        trainer.descend(moment_loss / AGES + 6 * distance, [optimizer], 300.0, model)
        follow.update(index)
        return {"moments": squared, "spread": distance}

    with torch.no_grad():
        for _ in range(3 * size // fresh):  # until few are as young as the first ones
            roll(torch.default_generator)
    modules = {"model": model, "average": average, "moments": moments, "spreads": spreads, "ends": ends}
    trainer.fit(
        f"{name}-finish",
        modules,
        {"model": optimizer},
        step,
        steps,
        batch=size * ranks,
        schedule=lambda index: cosine(index, steps),
        every=50,
    )
    return average


class Ends(nn.Module):
    """States [4, B, N] of the recurrence at the ends of earlier sequences, and how many sequences old they are [B].

    Sequences that go on from them teach what becomes of a motion after its first second; trained from start codes
    alone, long samples come to rest or tremble.
    """

    def __init__(self, recurrence: Recurrence, batch: int) -> None:
        super().__init__()
        with torch.no_grad():
            first = torch.randn(batch, recurrence.cells.hidden_size)
            states = recurrence.start(first.to(next(recurrence.parameters()).device))
        self.register_buffer("states", states)
        self.register_buffer("ages", states.new_zeros(batch))
        self.states: Tensor
        self.ages: Tensor

    def draw(self, fresh: int, random: torch.Generator) -> tuple[Tensor, Tensor]:
        """All but `fresh` of them, at random: states [4, B - fresh, N] and ages [B - fresh]."""
        chosen = torch.randperm(len(self.ages), generator=random)[fresh:].to(self.ages.device)
        return self.states[:, chosen], self.ages[chosen]

    def keep(self, states: Tensor, ages: Tensor) -> None:
        """Take the states [4, B, N] at the ends of fresh sequences and, after them, of those sampled with `ages`."""
        self.states.copy_(states)
        self.ages.copy_(F.pad(ages, (states.shape[1] - len(ages), 0)) + 1)


class Moments(nn.Module):
    """How far the second moments of samples, as the critic sees them, are from the clip's.

    For codes and each of their differences: the covariance of the coordinates, or of more than `WIDE` the variances.
    Each kind of sequences counts for itself: fresh ones are few, so the critic hardly minds what motions begin with.
    Running means over the last steps replace the samples, since one batch says little about slow coordinates; the
    gradient goes through the newest batch.
    """

    WIDE = 64

    def __init__(
        self,
        critic: Critic,
        real: Tensor,
        decays: Sequence[float] = (0.99, 0.95),
        jitter: float = 1.0,
        aim: float = 1.0,
    ) -> None:
        """decays: of the running means, one a kind; of fresh sequences and of others if not given. jitter: weight of
        the last difference, in which jitter shows, against the others. aim: target jitter, as a share of the clip's."""
        super().__init__()
        self.decays, self.jitter = decays, jitter
        target = self._of(critic.inputs(real[None]))
        target[-1] *= aim**2
        self.register_buffer("wanted", target)  # the target; checkpoints have this name
        self.register_buffer("running", target.repeat(len(decays), *[1] * target.ndim))
        self.wanted: Tensor
        self.running: Tensor

    def _of(self, inputs: Tensor) -> Tensor:
        parts = [part[:, order:].flatten(0, 1) for order, part in enumerate(inputs.chunk(ORDERS, 2))]
        parts[-1] = self.jitter * parts[-1]
        if parts[0].shape[1] > self.WIDE:
            return torch.stack([part.square().mean(0) for part in parts])
        return torch.stack([part.T @ part / len(part) for part in parts])

    def forward(self, kinds: Sequence[Tensor]) -> tuple[Tensor, Tensor]:
        """Squared distance of the moments, the mean over the kinds, and a loss with the gradient of their sum; for what
        the critic sees [B, T, ORDERS * R] of each kind."""
        moments = torch.stack([self._of(kind) for kind in kinds])
        with torch.no_grad():
            for running, new, decay in zip(self.running, moments, self.decays, strict=True):
                running.lerp_(new, 1 - decay)
        difference = self.running - self.wanted
        return difference.square().sum() / len(kinds), (difference * moments).sum()


class Spread(nn.Module):
    """How far the distribution of each number that the critic sees is from the clip's.

    Of codes and their first difference. Second moments hardly show rare events, such as a blink: those are the tails
    of a distribution. Every value of a sample has a rank among those of the last steps and is pulled towards the
    clip's value of this rank, which is the optimal transport in one dimension. All numbers count alike, in units of
    their deviation over the clip.
    """

    KNOTS, SEEN, DECAY = 65, 2, 0.98  # quantiles, orders of difference, of the running ranks

    def __init__(self, critic: Critic, real: Tensor) -> None:
        super().__init__()
        values = self._of(critic.inputs(real[None]))
        levels = (1 - torch.linspace(0, math.pi, self.KNOTS).cos()) / 2  # close together in the tails
        self.register_buffer("levels", levels)
        self.register_buffer("unit", values.std(1, keepdim=True).clamp_min(1e-6))
        self.register_buffer("knots", torch.quantile(values / self.unit, levels, 1).T.contiguous())
        self.register_buffer("running", levels.diff().repeat(len(values), 1))
        self.levels: Tensor
        self.unit: Tensor
        self.knots: Tensor  # the clip's quantiles [SEEN * R, KNOTS]
        self.running: Tensor  # share of the samples' values between them [SEEN * R, KNOTS - 1]

    def _of(self, inputs: Tensor) -> Tensor:
        return inputs[:, ORDERS - 1 :, : inputs.shape[2] // ORDERS * self.SEEN].flatten(0, 1).T.contiguous()

    def forward(self, inputs: Tensor) -> Tensor:
        """Half the mean squared distance of values and their targets, summed over the SEEN * R numbers, for what the
        critic sees [B, T, ORDERS * R]; moves the running ranks."""
        values = self._of(inputs) / self.unit
        with torch.no_grad():
            place, share = _between(self.knots, values)
            count = torch.zeros_like(self.running).scatter_add_(1, place, torch.ones_like(values))
            self.running.lerp_(count / values.shape[1], 1 - self.DECAY)
            ranks = F.pad(self.running.cumsum(1), (1, 0))  # of the knots, among the samples
            level, part = _between(self.levels.expand_as(ranks).contiguous(), ranks)
            moved = torch.lerp(self.knots.gather(1, level), self.knots.gather(1, level + 1), part)
            target = torch.lerp(moved.gather(1, place), moved.gather(1, place + 1), share)
        return (values - target).square().sum(0).mean() / 2


def _between(knots: Tensor, values: Tensor) -> tuple[Tensor, Tensor]:
    """The number of the knot [C, K] before each value [C, N], and how far on the way to the next it is, 0 to 1."""
    place = torch.searchsorted(knots, values).clamp(1, knots.shape[1] - 1) - 1
    low, high = knots.gather(1, place), knots.gather(1, place + 1)
    return place, ((values - low) / (high - low).clamp_min(1e-9)).clamp(0, 1)


@torch.no_grad()
def settle(model: VideoGenerator, seed: int = 0, batches: int = 80, batch: int = 64) -> None:
    """Measure the statistics of batch normalisation anew, over motions of all ages as samples have them.

    A batch's own calm wild sequences and stir up calm ones, while a sample has no batch. The first half of the batches
    only lets the motions grow as old as those of a long sample.
    """
    random = torch.Generator().manual_seed(seed)
    norms = [module for module in model.modules() if isinstance(module, nn.BatchNorm1d)]
    device, config = model.mean.device, model.config
    for norm in norms:
        norm.momentum = None  # the plain mean over the batches
    model.train()
    ends = None
    for number in range(batches):
        if number == batches // 2:
            for norm in norms:
                norm.reset_running_stats()
        states = model.recurrence.start(torch.randn(batch, config.noise, generator=random).to(device))
        if ends is not None:
            states = torch.cat([states[:, : batch // FRESH], ends[:, batch // FRESH :]], 1)
        noise = torch.randn(batch, config.frames - 1, config.noise, generator=random).to(device)
        path, ends = model.recurrence.go_on(states, noise)
        ends = ends[:, torch.randperm(batch, generator=random).to(device)]
        model.frames(path)
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
    canvas = FigureCanvasAgg(figure)
    axes = figure.subplots(shown, 2, sharey="row", sharex=True, squeeze=False)
    for column, (title, values) in enumerate((("clip", clip), ("sample", sample))):
        axes[0, column].set_title(title)
        axes[-1, column].set_xlabel("seconds")
        for row in range(shown):
            axes[row, column].plot(np.arange(len(values)) / rate, values[:, row].cpu(), linewidth=0.8)
    canvas.draw()
    return np.asarray(canvas.buffer_rgba())[..., :3].copy()
