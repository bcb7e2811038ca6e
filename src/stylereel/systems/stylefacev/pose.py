"""The pose net, stage A: what the face net finds in an aligned crop, to the exact pose, with little of the person."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from stylereel.systems.stylefacev.data import Readings
from stylereel.systems.stylefacev.model import KIND, SHOWN, SIZE, PoseNet
from stylereel.train.loop import Average, Trainer, cosine

STEPS = 4000
GROWTH = 0.1  # how much what errors grow by counts, next to what a code tells of the person, see `hide_person`


def train_pose(trainer: Trainer, net: PoseNet, data: Readings, whole: int = STEPS) -> None:
    """By the exact pose codes within the crops; then `hide_person`."""
    torch.manual_seed(50)
    net.mean.copy_(data.readings.mean(0))
    net.deviation.copy_(data.readings.std(0) + 1e-3)
    spread = data.codes.std(0).clamp_min(1e-3)
    average = PoseNet()
    steps = trainer.steps(whole)
    optimizers: dict[str, torch.optim.Optimizer] = {"net": torch.optim.AdamW(net.parameters(), 2e-3, weight_decay=5e-2)}
    follow = Average(net, average, 0.995)
    net.train()

    def step(index: int) -> dict[str, Tensor]:
        random = torch.Generator().manual_seed(index)
        chosen = torch.randint(len(data.codes), (512,), generator=random)[trainer.share[0] :: trainer.share[1]]
        readings, codes = trainer.to_device((data.readings[chosen], data.codes[chosen]))
        error = (net.estimate(readings) - codes) / spread.to(codes)
        loss = error.square().mean()
        trainer.descend(loss, optimizers.values(), 5.0, net)
        follow.update(index)
        return {"error": loss, "shown": error[:, SHOWN].square().mean()}

    trainer.fit(
        f"{KIND}/pose", {"net": net, "average": average}, optimizers, step, steps,
        schedule=lambda index: cosine(index, steps),
    )  # fmt: skip
    net.load_state_dict(average.state_dict())
    hide_person(net.eval(), data)


@torch.no_grad()
def hide_person(net: PoseNet, data: Readings, growth: float = GROWTH, steps: int = 300) -> None:
    """Learn the last layer anew, so that codes tell a linear probe less of the person.

    The covariance of codes across two frames of a person is that between people; the trace of between / within is what
    a probe finds. Least is that and `growth` times what each number's error grows by, as a share. It is of natural
    frames, and of codes in the frame, not in the crop, which is cut as large as the head is.
    """
    layer = net.layers[-1]
    assert isinstance(layer, nn.Linear)
    weight = torch.cat([layer.weight, layer.bias[:, None]], 1).T.cpu().double()  # [H + 1, 16]
    own, hidden = (torch.cat(parts).cpu().double() for parts in zip(*(
        (net.own(part), F.pad(net.hidden(part), (0, 1), value=1.0)) for part in data.readings.to(net.mean).split(4096)
    )))  # fmt: skip
    error = (own + hidden @ weight - data.codes).std(0)
    pairs = torch.cat([hidden, own + data.moved], 1).unflatten(0, (-1, 2))[1::2]  # the others' second are not natural
    one, other = (pairs - pairs.mean((0, 1))).unbind(1)
    shared, whole = (one.T @ other + other.T @ one) / 2 / len(one), (one.T @ one + other.T @ other) / 2 / len(one)
    # What is shared by chance is as often less than nothing; a twentieth of the variance is taken for that.
    sizes, basis = torch.linalg.eigh(whole)
    root = basis * sizes.clamp_min(1e-6).sqrt() @ basis.T
    inverse = torch.linalg.inv(root)
    shares, axes = torch.linalg.eigh(inverse @ shared @ inverse)
    between = root @ (axes * (shares - 0.05).clamp_min(0)) @ axes.T @ root
    within = whole - between
    # Of this change, in units of the error, the square is the growth of the error.
    white = torch.linalg.inv(torch.linalg.cholesky(hidden.T @ hidden / len(hidden) + 1e-8 * _one(hidden.shape[1])).T)
    change = torch.zeros_like(weight).requires_grad_(True)
    optimizer = torch.optim.Adam([change], 2e-2)
    for _ in range(steps):
        with torch.enable_grad():
            codes = torch.cat([weight + white @ change * error, _one(SIZE)])
            found = torch.linalg.solve(codes.T @ within @ codes + 1e-6 * _one(SIZE), codes.T @ between @ codes)
            loss = found.trace() + growth * change.square().sum()
        (change.grad,) = torch.autograd.grad(loss, change)
        optimizer.step()
    weight = weight + white @ change.detach() * error
    layer.weight.copy_(weight[:-1].T)
    layer.bias.copy_(weight[-1])


def _one(size: int) -> Tensor:
    return torch.eye(size, dtype=torch.float64)


@torch.no_grad()
def read_poses(trainer: Trainer, net: PoseNet, readings: Tensor) -> Tensor:
    """The pose codes [N, 16] of readings [N, 156]."""
    net.eval()
    return torch.cat([net(part.to(trainer.device)).cpu() for part in readings.split(4096)])
