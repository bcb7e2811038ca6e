"""Critics of motion in pose space, for codes of 16 numbers; those of the authors, for maps, are in `networks`.

The losses are the paper's: relativistic average least squares, and a gradient penalty for the critic of sequences.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from stylereel.systems.stylefacev.model import SIZE


class StillCritic(nn.Module):
    """A first and a later pose [B, 32] to scores [B, 1]."""

    def __init__(self, width: int = 128) -> None:
        super().__init__()
        self.layers = nn.Sequential(
            nn.Linear(2 * SIZE, width), nn.LeakyReLU(0.2), nn.Linear(width, width), nn.LeakyReLU(0.2),
            nn.Linear(width, 1),
        )  # fmt: skip

    def forward(self, pairs: Tensor) -> Tensor:
        return self.layers(pairs)


class SequenceCritic(nn.Module):
    """Poses [B, T, 16] to scores [B, t] at two scales of time: the first pose next to each later one, and its change.

    Changes are in the clips' deviations, so that jitter is seen.
    """

    def __init__(self, real: Tensor, width: int = 64) -> None:
        super().__init__()
        self.register_buffer("change", real.diff(dim=1).flatten(0, 1).std(0).clamp_min(1e-4).cpu())
        self.change: Tensor
        self.scales = nn.ModuleList(
            nn.Sequential(
                nn.Conv1d(3 * SIZE, width, 4, 2, 1), nn.LeakyReLU(0.2), nn.Conv1d(width, 2 * width, 4, 2, 1),
                nn.LeakyReLU(0.2), nn.Conv1d(2 * width, 2 * width, 3, 1, 1), nn.LeakyReLU(0.2),
                nn.Conv1d(2 * width, 1, 3, 1, 1),
            )
            for _ in range(2)
        )  # fmt: skip

    def forward(self, poses: Tensor) -> list[Tensor]:
        first = poses[:, :1].expand(-1, poses.shape[1] - 1, -1)
        x = torch.cat([first, poses[:, 1:], poses.diff(dim=1) / self.change], 2).transpose(1, 2)
        scores = []
        for scale in self.scales:
            scores.append(scale(x).flatten(1))
            x = F.avg_pool1d(x, 2)
        return scores


def critic_loss(real: Sequence[Tensor], fake: Sequence[Tensor]) -> Tensor:
    """Relativistic average least squares (Jolicoeur-Martineau 2019) of scores at each scale, the mean over scales."""
    return _relative(real, fake, 1.0)


def generator_loss(real: Sequence[Tensor], fake: Sequence[Tensor]) -> Tensor:
    """The same for what generates the fake ones."""
    return _relative(real, fake, -1.0)


def _relative(real: Sequence[Tensor], fake: Sequence[Tensor], target: float) -> Tensor:
    parts = [
        0.5 * ((r - f.mean() - target).square().mean() + (f - r.mean() + target).square().mean())
        for r, f in zip(real, fake, strict=True)
    ]
    return torch.stack(parts).mean()


def penalty(
    critic: Callable[[Tensor], Sequence[Tensor]], real: Tensor, fake: Tensor, random: torch.Generator
) -> Tensor:
    """The squared distance of the gradient's length from 1 between real and fake sequences, summed over the scales."""
    share = torch.rand(len(real), *[1] * (real.ndim - 1), generator=random).to(real)
    between = torch.lerp(real, fake, share).requires_grad_(True)
    parts = []
    for scores in critic(between):
        (gradient,) = torch.autograd.grad(scores.flatten(1).mean(1).sum(), between, create_graph=True)
        parts.append((gradient.flatten(1).norm(dim=1) - 1).square().mean())
    return torch.stack(parts).sum()
