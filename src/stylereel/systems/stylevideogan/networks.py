"""The networks of StyleVideoGAN: a recurrent generator of W+ sequences, and the critic that scores them.

Axes: B samples, T frames, N noise numbers a frame, L rows of W+, D width of w, K principal components, R numbers of a
code that the heads make (see `VideoConfig.size`).
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from stylereel.core.latents import parse_rate
from stylereel.core.weights import config_of, load_module

KIND = "stylevideogan"  # in the header of a model's file
SLOPE = 0.2  # of every leaky ReLU; the paper does not say
ORDERS = 5  # the critic sees codes and their first four differences in time; jitter shows in the fourth
FLOOR = 0.0005  # share of all variance under which a coordinate is taken for small


@dataclass(frozen=True)
class VideoConfig:
    """Architecture and source of a model.

    rows: for each row of W+ the number of the head that makes it; rows that equal each other in all training codes
    share one, and -1 marks a row that never changed. rate: frames a second of the clip, as a ratio. generator: SHA-256
    of the weights that the codes belong to. width: channels of the mapper and the critic, 512 in the paper. frames:
    length of a training sequence. noise: numbers a frame. components: principal components of the codes, for moving
    the motion to other people. reduced: the heads make coordinates in the space of these components instead of rows,
    and the critic scores them.
    """

    rows: tuple[int, ...]
    w_dim: int
    rate: str
    generator: str
    width: int = 512
    frames: int = 25
    noise: int = 32
    components: int = 32
    reduced: bool = False

    @property
    def size(self) -> int:
        """How many numbers R of a code the heads make: distinct rows times D, or the components' coordinates."""
        return self.components if self.reduced else (max(self.rows) + 1) * self.w_dim


class PixelNorm(nn.Module):
    """Scales vectors [B, C] to a mean square of 1."""

    def forward(self, x: Tensor) -> Tensor:
        return x * (x.square().mean(1, keepdim=True) + 1e-8).rsqrt()


def _layers(*widths: int) -> list[nn.Module]:
    """Linear layers from width to width, each with a leaky ReLU."""
    return [part for a, b in zip(widths, widths[1:]) for part in (nn.Linear(a, b), nn.LeakyReLU(SLOPE))]


_GRU_WEIGHTS = ("weight_ih", "weight_hh", "bias_ih", "bias_hh")


class Recurrence(nn.Module):
    """Noise to a path of animation codes: the hallucinator H and four stacked GRU cells P.

    The state of the fourth cell is the animation code of its frame, and the start code i is its first state.
    """

    CELLS = 4

    def __init__(self, noise: int) -> None:
        super().__init__()
        self.hallucinator = nn.Sequential(
            *_layers(*[noise] * self.CELLS, (self.CELLS - 1) * noise), nn.BatchNorm1d((self.CELLS - 1) * noise)
        )
        self.cells = nn.GRU(noise, noise, self.CELLS, batch_first=True)
        self._begin_smooth()

    @torch.no_grad()
    def _begin_smooth(self, frames: float = 240.0) -> None:
        """Update gates whose states last 2 to `frames` frames (after Tallec and Ollivier 2018), orthogonal weights.

        Four slow cells on top of each other pass no white noise, while PyTorch's usual start forgets in two frames, so
        that all motion trembles; and each passes on about the variance that it gets.
        """
        size = self.cells.hidden_size
        for layer in range(self.CELLS):
            of_input, of_state, bias, other = (getattr(self.cells, f"{name}_l{layer}") for name in _GRU_WEIGHTS)
            bias.zero_()
            other.zero_()
            bias[size : 2 * size] = torch.rand(size).mul_(math.log(frames))
            nn.init.orthogonal_(of_input[2 * size :], 4.0 if layer else 6.0)
            for gate, gain in enumerate((0.3, 0.3, 1.0)):
                nn.init.orthogonal_(of_state[gate * size : (gate + 1) * size], gain)

    def start(self, first: Tensor) -> Tensor:
        """Start codes [B, N] to the states [4, B, N] of the cells."""
        others = self.hallucinator(first).view(len(first), -1, first.shape[1])
        return torch.cat([others, first[:, None]], 1).transpose(0, 1).contiguous()

    def forward(self, first: Tensor, noise: Tensor) -> Tensor:
        """Start codes [B, N] and noise [B, T - 1, N] to animation codes [B, T, N]; the first is the start code."""
        return self.go_on(self.start(first), noise)[0]

    def go_on(self, states: Tensor, noise: Tensor) -> tuple[Tensor, Tensor]:
        """States [4, B, N] and noise [B, T - 1, N] to animation codes [B, T, N], from that of the states on, and to
        the states at their end.

        As `cells` does, but each cell a frame behind the one below, so that all four are done at once: it is quicker,
        and CUDA's own cells cannot be differentiated twice, as the angle penalty does.
        """
        of_input, of_state, bias, other = (
            torch.stack([getattr(self.cells, f"{name}_l{layer}") for layer in range(self.CELLS)])
            for name in _GRU_WEIGHTS
        )
        size, count, inputs, path = noise.shape[2], noise.shape[1], noise.unbind(1), [states[-1]]
        for now in range(count + self.CELLS - 1):
            below = torch.cat([inputs[min(now, count - 1)][None], states[:-1]])
            given = torch.baddbmm(bias[:, None], below, of_input.mT)
            kept = torch.baddbmm(other[:, None], states, of_state.mT)
            reset, update = torch.sigmoid(given[..., : 2 * size] + kept[..., : 2 * size]).chunk(2, -1)
            new = torch.tanh(torch.addcmul(given[..., 2 * size :], reset, kept[..., 2 * size :]))
            new = torch.lerp(new, states, update)
            low, high = max(0, now + 1 - count), min(self.CELLS, now + 1)  # of the cells that have a frame to do
            whole = high - low == self.CELLS
            states = new if whole else torch.cat([states[:low], new[low:high], states[high:]])
            if high == self.CELLS:
                path.append(states[-1])
        return torch.stack(path, 1), states


class Mapper(nn.Module):
    """Animation codes [B, N] to what is made of W+ codes [B, R], frame by frame: T of the paper."""

    def __init__(self, config: VideoConfig) -> None:
        super().__init__()
        width = config.width
        self.trunk = nn.Sequential(
            nn.BatchNorm1d(config.noise),
            nn.Linear(config.noise, width),
            PixelNorm(),
            *_layers(*[width] * 5),
            nn.BatchNorm1d(width),
            nn.Linear(width, width),
        )
        # One linear layer for the heads of all rows: they share no output, so it equals that many heads side by side.
        # The paper's end in a leaky ReLU. Its knee is within the range of a component's coordinate and would stop a
        # turning head short, so those are linear; rows share their motion among many coordinates.
        heads = [nn.Linear(width, config.size)] if config.reduced else _layers(width, config.size)
        self.heads = nn.Sequential(*heads, nn.BatchNorm1d(config.size))

    def forward(self, code: Tensor) -> Tensor:
        return self.heads(self.trunk(code))


class VideoGenerator(nn.Module):
    """Noise to W+ sequences, and what the offset to another person needs of the training codes.

    Buffers: mean [L, D], basis [K, L * D] and deviations [K] of the training codes' principal components. What reduced
    heads make are not these components' own coordinates, but turned ones (`back` [K, K] turns them back): components
    are turned so that slow ones are separate from quick ones (slow features, Wiskott and Sejnowski 2002, but of the
    fourth difference). Otherwise the trembling of a turn drowns in the jaw's with which it shares a component. They end
    where the clip's do (`low`, `high` [K]), so that no blink closes an eye twice.
    """

    def __init__(self, config: VideoConfig) -> None:
        super().__init__()
        self.config = config
        self.recurrence, self.mapper = Recurrence(config.noise), Mapper(config)
        whole = len(config.rows) * config.w_dim
        self.register_buffer("mean", torch.zeros(len(config.rows), config.w_dim))
        self.register_buffer("basis", torch.zeros(config.components, whole))
        self.register_buffer("deviations", torch.ones(config.components))
        self.mean: Tensor
        self.basis: Tensor
        self.deviations: Tensor
        if config.reduced:
            self.register_buffer("back", torch.eye(config.components))
            self.register_buffer("low", torch.full((config.components,), -math.inf))
            self.register_buffer("high", torch.full((config.components,), math.inf))
            self.back: Tensor
            self.low: Tensor
            self.high: Tensor

    @torch.no_grad()
    def learn_statistics(self, w: Tensor) -> None:
        """Set mean, components and the heads' last normalisation from the training codes [T, L, D]."""
        self.mean.copy_(w.mean(0))
        centred, count = (w - self.mean).flatten(1), self.config.components
        with torch.random.fork_rng([]):  # the approximation draws random directions
            torch.manual_seed(0)
            _, values, vectors = torch.svd_lowrank(centred, min(*centred.shape, count + 16), niter=6)
        self.basis[: len(values)] = vectors.T[:count]
        self.deviations[: len(values)] = values[:count] / math.sqrt(max(1, len(w) - 1))
        if self.config.reduced:
            coordinates = self.coordinates(w)
            variance = coordinates.var(0)
            whitening = (variance + FLOOR * variance.sum()).rsqrt()
            jerk = (coordinates * whitening).diff(ORDERS - 1, dim=0)
            self.back.copy_(torch.linalg.eigh(jerk.T @ jerk)[1].T / whitening)
        last = self.mapper.heads[-1]
        assert isinstance(last, nn.BatchNorm1d)
        made = self.made_of(w)
        if self.config.reduced:
            self.low.copy_(made.amin(0))
            self.high.copy_(made.amax(0))
        last.bias.copy_(made.mean(0))
        last.weight.copy_(made.std(0))

    def forward(self, first: Tensor, noise: Tensor) -> Tensor:
        """Start codes [B, N] and noise [B, T - 1, N] to what the heads make [B, T, R]."""
        return self.frames(self.recurrence(first, noise))

    def frames(self, codes: Tensor) -> Tensor:
        """Animation codes [B, T, N] to what the heads make [B, T, R]."""
        return self._make(codes.flatten(0, 1)).unflatten(0, codes.shape[:2])

    def _make(self, codes: Tensor) -> Tensor:
        made = self.mapper(codes)
        return torch.clamp(made, self.low, self.high) if self.config.reduced else made

    def made_of(self, w: Tensor) -> Tensor:
        """The part [T, R] of W+ codes [T, L, D] that the heads make; of equal rows the first."""
        if self.config.reduced:
            return self.coordinates(w) @ torch.linalg.inv(self.back)
        rows = self.config.rows
        return w[:, [rows.index(head) for head in range(max(rows) + 1)]].flatten(1)

    def codes(self, path: Tensor) -> Tensor:
        """Animation codes [T, N] to W+ codes [T, L, D] of the training person."""
        made = self._make(path)
        if self.config.reduced:
            return self.within(made @ self.back)
        heads = made.unflatten(1, (-1, self.config.w_dim))
        still = self.mean.expand(len(path), -1, -1)
        return torch.stack([heads[:, h] if h >= 0 else still[:, row] for row, h in enumerate(self.config.rows)], 1)

    def coordinates(self, w: Tensor) -> Tensor:
        """W+ codes [T, L, D] to their coordinates [T, K] in the principal components."""
        return (w - self.mean).flatten(1) @ self.basis.T

    def within(self, coordinates: Tensor) -> Tensor:
        """The inverse of `coordinates` inside the components: [T, K] to [T, L, D]."""
        return self.mean + (coordinates @ self.basis).unflatten(1, self.mean.shape)

    def offset(self, w: Tensor, precision: Tensor | None = None) -> Tensor:
        """The part of a person's code [L, D] outside the components [L, D]: add it to codes to move them there.

        The part inside is the pose and expression of that one image and stays behind. The paper projects at right
        angles, but people differ along the components too, by looks: with `precision` [D, D] (`codes.precision`) the
        part inside is the most probable one, where people are spread as the generator's w are.
        """
        difference, basis = w - self.mean, self.basis.unflatten(1, w.shape)
        weighed = (basis if precision is None else basis @ precision).flatten(1)
        inverse = torch.linalg.pinv((weighed @ self.basis.T).cpu().double(), hermitian=True).to(w)
        inside = inverse @ (weighed @ difference.flatten())
        return difference - (inside @ self.basis).view_as(w)


class Critic(nn.Module):
    """Sequences [B, T, R] to scores [B, 1]: six layers for each frame, then convolutions in time.

    It sees codes and their differences in time (`inputs`), each at a deviation of 1 over the clip: in W+ itself a
    turning head has a hundred times the variance of a blink, and a visible jitter is a hundredth of a turn.
    """

    def __init__(self, config: VideoConfig) -> None:
        super().__init__()
        width = config.width
        narrow = [max(config.noise, width >> power) for power in range(1, 4)]
        self.frame = nn.Sequential(*_layers(ORDERS * config.size, width, width, *narrow, config.noise))
        layers: list[nn.Module] = []
        length, channels = config.frames, config.noise
        while length > 4:
            layers += [nn.Conv1d(channels, 2 * channels, 4, 2, 1), nn.LeakyReLU(SLOPE)]
            length, channels = length // 2, 2 * channels
        self.time = nn.Sequential(*layers, nn.Conv1d(channels, 1, length))
        self.register_buffer("mean", torch.zeros(config.size))
        self.register_buffer("scales", torch.ones(ORDERS, config.size))
        self.mean: Tensor
        self.scales: Tensor
        self._turned = config.reduced

    @torch.no_grad()
    def learn_scales(self, real: Tensor) -> None:
        """Set what `inputs` needs from the training codes [T, R]: each coordinate gets a deviation of 1, and one of
        less than `FLOOR` of all variance less than that."""
        self.mean.copy_(real.mean(0))
        variance = real.var(0)
        # Turned coordinates are weighed already: small ones deviate by less than 1.
        weight = (variance if self._turned else variance / (variance + FLOOR * variance.sum())).sqrt()
        for order, scale in enumerate(self.scales):
            scale.copy_(weight / real.diff(order, dim=0).std(0).clamp_min(1e-12))

    def inputs(self, codes: Tensor) -> Tensor:
        """Codes [B, T, R] to the critic's inputs [B, T, ORDERS * R]; differences begin late, with zeros."""
        centred = codes - self.mean
        parts = [F.pad(centred.diff(n, dim=1) * scale, (0, 0, n, 0)) for n, scale in enumerate(self.scales)]
        return torch.cat(parts, 2)

    def forward(self, inputs: Tensor) -> Tensor:
        """Scores [B, 1] of what `inputs` gave."""
        each = self.frame(inputs.flatten(0, 1)).unflatten(0, inputs.shape[:2])
        return self.time(each.transpose(1, 2)).flatten(1)


class Wandering(nn.Module):
    """How far animation codes wander from their start, as the gradient angle penalty counts it (paper, section 3).

    Components of the difference are divided by their running deviation around their running mean, which belong to
    the state.
    """

    def __init__(self, noise: int, decay: float = 0.99) -> None:
        super().__init__()
        self.decay = decay
        self.register_buffer("mean", torch.zeros(noise))
        self.register_buffer("variance", torch.ones(noise))
        self.mean: Tensor
        self.variance: Tensor

    def forward(self, path: Tensor) -> Tensor:
        """Squared lengths [B] for paths [B, T, N]; moves the running statistics."""
        way = path[:, -1] - path[:, 0]
        with torch.no_grad():
            self.mean.lerp_(way.mean(0), 1 - self.decay)
            self.variance.lerp_((way - self.mean).square().mean(0), 1 - self.decay)
        return ((way - self.mean) * (self.variance + 1e-8).rsqrt()).square().sum(1)


def angle_penalty(distance: Tensor, first: Tensor, noise: Tensor) -> Tensor:
    """max(0, pi / 4 - phi)^2, mean over samples; phi = arctan(|d distance / d noise| / |d distance / d first|).

    0 where the noise [B, T - 1, N] moves the distance [B] at least as much as the start code [B, N] does.
    """
    to_first, to_noise = torch.autograd.grad(distance.sum(), (first, noise), create_graph=True)
    angle = torch.atan2(_length(to_noise), _length(to_first))
    return F.relu(math.pi / 4 - angle).square().mean()


def gradient_penalty(critic: Critic, real: Tensor, fake: Tensor, share: Tensor) -> Tensor:
    """Two-sided penalty on the gradient norm's distance from 1 at mixtures; share [B, 1, 1] of the real one, all as
    `inputs` gives."""
    mixed = torch.lerp(fake, real, share).detach().requires_grad_(True)
    (gradient,) = torch.autograd.grad(critic(mixed).sum(), mixed, create_graph=True)
    return (_length(gradient) - 1).square().mean()


def _length(x: Tensor) -> Tensor:
    """Lengths [B] of all that belongs to each sample, with a gradient everywhere."""
    return (x.flatten(1).square().sum(1) + 1e-12).sqrt()


def load_model(path: str | Path) -> VideoGenerator:
    """A trained model, for use. Raises ValueError if the file is not one."""

    def build(config: dict) -> VideoGenerator:
        parse_rate(config["rate"])
        return VideoGenerator(config_of(VideoConfig, {**config, "rows": tuple(config["rows"])}))

    return load_module(path, KIND, build).eval().requires_grad_(False)
