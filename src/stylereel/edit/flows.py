"""StyleFlow: attributes of a portrait changed through a conditional normalising flow of its W+ code.

Abdal, Zhu, Mitra, Wonka: "StyleFlow: Attribute-conditioned Exploration of StyleGAN-Generated Images using Conditional
Continuous Normalizing Flows" (2021). Forward, the flow takes a row of W+ and the portrait's attributes to a z that
knows nothing of them; backward, with other attributes, it makes the row of the portrait that has these. Each row goes
by itself, under the same weights.

dy/dt = f(y, t, attributes) from t = 0 to T, f a network whose linear layers are gated and shifted by time and
attributes. Tensors carry the names of the published file (modellarge10k.pt).

Different from the authors' code: solvers of our own, which work on a whole batch and can be differentiated; the step of
the adaptive one follows the worst sample, so that each keeps the tolerance; and the divergence comes from a tangent
that is carried along instead of a second differentiation.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor, nn

from stylereel.core.weights import load_module, own_kind
from stylereel.zoo.encoders import load_part

KIND = "flow"  # in the header of our files
TOLERANCE = 1e-5  # of the adaptive solver, absolute and relative
MAX_STEPS, SMALLEST_STEP = 10_000, 1e-9  # of the adaptive solver; the whole time is 1

# The published flow's attributes in order: nine coefficients of the light, and labels of a face service, which is
# closed by now. Rows of W+ that an edit of each changes; the others keep the portrait's own.
LIGHT = tuple(f"light_{index}" for index in range(9))
ATTRIBUTES = (*LIGHT, "gender", "glasses", "yaw", "pitch", "baldness", "beard", "age", "expression")
ROWS: dict[str, range] = {
    "yaw": range(4),
    "pitch": range(4),
    "expression": range(4, 6),
    "gender": range(8),
    "glasses": range(2, 4),
    "beard": range(5, 10),
    "age": range(4, 8),
    "baldness": range(6),
    **{name: range(7, 12) for name in LIGHT},
}


@dataclass(frozen=True)
class FlowConfig:
    """width: of a row of W+; hidden: widths inside f; attributes: how many; blocks: flows in a row."""

    width: int = 512
    hidden: tuple[int, ...] = (512,) * 5
    attributes: int = len(ATTRIBUTES)
    blocks: int = 1


class GatedLinear(nn.Module):
    """A linear layer of [B, R, C] whose output a context [B, 1, K] scales (0..1) and shifts."""

    def __init__(self, channels: int, out: int, context: int) -> None:
        super().__init__()
        self._layer = nn.Linear(channels, out)
        self._hyper_bias = nn.Linear(context, out, bias=False)
        self._hyper_gate = nn.Linear(context, out)

    def forward(self, x: Tensor, tangent: Tensor | None, context: Tensor) -> tuple[Tensor, Tensor | None]:
        """The output, and its change along a tangent of x."""
        gate = torch.sigmoid(self._hyper_gate(context))
        along = None if tangent is None else (tangent @ self._layer.weight.T) * gate
        return self._layer(x) * gate + self._hyper_bias(context), along


class _Layers(nn.Module):
    def __init__(self, config: FlowConfig) -> None:
        super().__init__()
        widths = (config.width, *config.hidden, config.width)
        self.layers = nn.ModuleList(GatedLinear(a, b, config.attributes + 1) for a, b in zip(widths, widths[1:]))


class _Dynamics(nn.Module):
    def __init__(self, config: FlowConfig) -> None:
        super().__init__()
        self.diffeq = _Layers(config)
        self.register_buffer("_num_evals", torch.zeros(()))  # a counter that is in the published file; not used


class ContinuousFlow(nn.Module):
    """One flow: the integral of f over time."""

    def __init__(self, config: FlowConfig) -> None:
        super().__init__()
        self.odefunc = _Dynamics(config)
        self.sqrt_end_time = nn.Parameter(torch.ones(()))

    def forward(
        self, x: Tensor, attributes: Tensor, probe: Tensor | None, steps: int | None, back: bool
    ) -> tuple[Tensor, Tensor | None]:
        end = self.sqrt_end_time.square()

        def derivative(time: float, state: Tensor) -> Tensor:
            """Of the state [B, R, C] (or C + 1 with the density) over the share of the time, 0..1."""
            share = 1 - time if back else time
            context = torch.cat([(end * share).expand(len(x), 1), attributes], 1)[:, None]
            y, along = state[..., : x.shape[-1]], probe
            for layer in self.odefunc.diffeq.layers:
                if layer is not self.odefunc.diffeq.layers[0]:
                    y = torch.tanh(y)
                    along = None if along is None else along * (1 - y.square())
                y, along = layer(y, along, context)
            if along is not None:
                assert probe is not None
                y = torch.cat([y, -(along * probe).sum(-1, keepdim=True)], -1)
            return (-end if back else end) * y

        start = x if probe is None else torch.cat([x, torch.zeros_like(x[..., :1])], -1)
        state = integrate(derivative, start) if steps is None else runge_kutta(derivative, start, steps)
        return (state, None) if probe is None else (state[..., :-1], state[..., -1:])


class MovingNorm(nn.Module):
    """Normalisation [B, R, C] by running statistics, in training too, with a log scale and a shift."""

    EPS, DECAY = 1e-4, 0.1

    def __init__(self, width: int) -> None:
        super().__init__()
        self.weight, self.bias = nn.Parameter(torch.zeros(width)), nn.Parameter(torch.zeros(width))
        self.register_buffer("running_mean", torch.zeros(width))
        self.register_buffer("running_var", torch.ones(width))
        self.register_buffer("step", torch.zeros(1))
        self.running_mean: Tensor
        self.running_var: Tensor
        self.step: Tensor

    def forward(
        self, x: Tensor, _attributes: Tensor, _probe: Tensor | None, _steps: int | None, back: bool
    ) -> tuple[Tensor, Tensor]:
        log_scale = self.weight - 0.5 * torch.log(self.running_var + self.EPS)
        mean = self.running_mean.clone()
        if self.training and not back and x[..., 0].numel() > 1:
            with torch.no_grad():
                self.running_mean.lerp_(x.flatten(0, 1).mean(0), self.DECAY)
                self.running_var.lerp_(x.flatten(0, 1).var(0), self.DECAY)
                self.step += 1
        density = log_scale.sum().expand(*x.shape[:-1], 1)
        if back:
            return (x - self.bias) * torch.exp(-log_scale) + mean, density
        return (x - mean) * torch.exp(log_scale) + self.bias, -density


class Flow(nn.Module):
    """The whole flow: normalisation, and for each block a flow and another normalisation.

    In all calls w and z are [B, R, C], R rows of W+; attributes are [B, K] in the units of the flow's training. steps:
    of the fixed-step solver, or None for the adaptive one at `TOLERANCE`.
    """

    def __init__(self, config: FlowConfig = FlowConfig()) -> None:
        super().__init__()
        self.config = config
        chain: list[nn.Module] = [MovingNorm(config.width)]
        for _ in range(config.blocks):
            chain += [ContinuousFlow(config), MovingNorm(config.width)]
        self.chain = nn.ModuleList(chain)

    def forward(self, w: Tensor, attributes: Tensor, steps: int | None = None) -> Tensor:
        """z of codes w that have these attributes."""
        return self._run(w, attributes, None, steps, back=False)[0]

    def reverse(self, z: Tensor, attributes: Tensor, steps: int | None = None) -> Tensor:
        """Codes w with these attributes, of z."""
        return self._run(z, attributes, None, steps, back=True)[0]

    def densities(
        self, x: Tensor, attributes: Tensor, probe: Tensor, steps: int | None = None, back: bool = False
    ) -> tuple[Tensor, Tensor]:
        """z and the change of log density [B, R, 1] on the way there (or w on the way back).

        probe: [B, R, C] of mean 0 and variance 1, by which the divergence is estimated (Hutchinson 1990): the density
        of w is that of z minus the change, on the mean over probes.
        """
        out, change = self._run(x, attributes, probe, steps, back)
        assert change is not None
        return out, change

    def _run(
        self, x: Tensor, attributes: Tensor, probe: Tensor | None, steps: int | None, back: bool
    ) -> tuple[Tensor, Tensor | None]:
        change = None if probe is None else torch.zeros_like(x[..., :1])
        for part in reversed(self.chain) if back else self.chain:
            x, more = part(x, attributes, probe, steps, back)
            change = None if change is None or more is None else change + more
        return x, change

    def edit(
        self,
        w: Tensor,
        attributes: Tensor,
        target: Tensor,
        rows: Sequence[int] | None = None,
        steps: int | None = None,
    ) -> Tensor:
        """Codes w [B, R, C] with `target` attributes instead of their own, both [B, K]; B of each may also be 1.

        rows: those that change; `ROWS` has the published flow's. All by default.
        """
        count = max(len(w), len(attributes), len(target))
        w, attributes, target = (part.expand(count, *part.shape[1:]) for part in (w, attributes, target))
        chosen = list(range(w.shape[1])) if rows is None else list(rows)
        edited = w.clone()
        edited[:, chosen] = self.reverse(self(w[:, chosen], attributes, steps), target, steps)
        return edited


def load_flow(path: str | Path) -> Flow:
    """The flow in modellarge10k.pt or in one of our files, ready to use. Nothing in the file is run.

    Raises ValueError, saying what does not fit.
    """
    if own_kind(path) is not None:
        flow = load_module(path, KIND, lambda config: Flow(FlowConfig(**{**config, "hidden": tuple(config["hidden"])})))
        return flow.eval().requires_grad_(False)

    def build(state: dict[str, Tensor]) -> Flow:
        layer = re.compile(r"chain\.1\.odefunc\.diffeq\.layers\.\d+\._layer\.bias")
        hidden = [len(state[key]) for key in sorted(filter(layer.fullmatch, state), key=lambda key: (len(key), key))]
        context = state["chain.1.odefunc.diffeq.layers.0._hyper_gate.weight"].shape[1]
        blocks = sum(key.endswith(".sqrt_end_time") for key in state)
        return Flow(FlowConfig(len(state["chain.0.weight"]), tuple(hidden[:-1]), context - 1, blocks))

    return load_part(path, "chain.0.running_mean", "flow of StyleFlow", build)


# --- solvers of dy/ds = derivative(s, y) for s from 0 to 1


def runge_kutta(derivative: Callable[[float, Tensor], Tensor], y: Tensor, steps: int) -> Tensor:
    """y at s = 1, by `steps` equal steps of the classical fourth-order method: 4 calls of derivative each."""
    if steps < 1:
        raise ValueError("A solver needs at least one step.")
    h = 1 / steps
    for step in range(steps):
        s = step * h
        a = derivative(s, y)
        b = derivative(s + h / 2, y + h / 2 * a)
        c = derivative(s + h / 2, y + h / 2 * b)
        d = derivative(s + h, y + h * c)
        y = y + h / 6 * (a + 2 * b + 2 * c + d)
    return y


# Dormand and Prince (1980): times of the stages, their weights, and what the fourth-order result differs by.
_STAGES = (
    (1 / 5, (1 / 5,)),
    (3 / 10, (3 / 40, 9 / 40)),
    (4 / 5, (44 / 45, -56 / 15, 32 / 9)),
    (8 / 9, (19372 / 6561, -25360 / 2187, 64448 / 6561, -212 / 729)),
    (1.0, (9017 / 3168, -355 / 33, 46732 / 5247, 49 / 176, -5103 / 18656)),
    (1.0, (35 / 384, 0.0, 500 / 1113, 125 / 192, -2187 / 6784, 11 / 84)),
)
_ERROR = (71 / 57600, 0.0, -71 / 16695, 71 / 1920, -17253 / 339200, 22 / 525, -1 / 40)


def integrate(derivative: Callable[[float, Tensor], Tensor], y: Tensor, tolerance: float = TOLERANCE) -> Tensor:
    """y [B, ...] at s = 1 by the adaptive method of Dormand and Prince of order 5(4).

    A step is taken when the error of every sample, root mean square over its numbers in units of
    tolerance * (1 + |y|), is at most 1. Raises ValueError if that takes too many steps or too small ones.
    """
    s, h, first = 0.0, 0.05, derivative(0.0, y)
    for _ in range(MAX_STEPS):
        if h < SMALLEST_STEP:
            break
        h = min(h, 1 - s)
        stages, new = [first], y
        for time, weights in _STAGES:
            new = y + h * sum(weight * stage for weight, stage in zip(weights, stages) if weight)
            stages.append(derivative(s + time * h, new))
        error = h * sum(weight * stage for weight, stage in zip(_ERROR, stages) if weight)
        assert isinstance(error, Tensor)
        with torch.no_grad():
            scale = tolerance * (1 + torch.maximum(y.abs(), new.abs()))
            worst = float((error / scale).flatten(1).square().mean(1).sqrt().max())
        if worst <= 1:
            s, y, first = s + h, new, stages[-1]
            if s >= 1 - 1e-12:
                return y
        h *= min(5.0, max(0.2, 0.9 * max(worst, 1e-10) ** -0.2)) if worst == worst else 0.2
    raise ValueError("The flow cannot be integrated; its weights or the codes are beyond all measure.")
