"""Optimisers of the recipes: Muon for weight matrices with Adam for the rest, and Adam for adversarial training."""

from __future__ import annotations

from collections.abc import Iterable

import torch
from torch import Tensor, nn

# Coefficients of the quintic Newton-Schulz iteration (Jordan et al. 2024, "Muon"): singular values end in 0.7..1.2.
_QUINTIC = (3.4445, -4.7750, 2.0315)


def orthogonalize(matrix: Tensor, steps: int = 5) -> Tensor:
    """The matrix [M, N] with all its singular values near 1, by Newton-Schulz iteration.

    In bfloat16 on a GPU; most CPUs only imitate that, which takes 14 times as long as float32.
    """
    a, b, c = _QUINTIC
    x = matrix.bfloat16() if matrix.is_cuda else matrix.float()
    tall = x.shape[0] > x.shape[1]
    if tall:
        x = x.T
    x = x / (x.norm() + 1e-7)
    for _ in range(steps):
        square = x @ x.T
        x = a * x + (b * square + c * square @ square) @ x
    return (x.T if tall else x).to(matrix.dtype)


class Muon(torch.optim.Optimizer):
    """Momentum whose update is orthogonalised, for weights of two and more axes (Jordan et al. 2024).

    The update has root mean square 1 times the learning rate whatever the shape; convolutions count as matrices
    [out, in times window]. torch.optim.Muon takes only matrices and is not in the oldest torch that we accept.
    """

    def __init__(self, params: Iterable, lr: float, momentum: float = 0.95) -> None:
        super().__init__(params, {"lr": lr, "momentum": momentum})

    @torch.no_grad()
    def step(self, closure: None = None) -> None:  # type: ignore[override]  # noqa: ARG002 (torch's signature)
        """One update of all parameters that have a gradient."""
        for group in self.param_groups:
            for parameter in group["params"]:
                if parameter.grad is None:
                    continue
                state = self.state[parameter]
                if not state:
                    state["momentum"] = torch.zeros_like(parameter)
                mean = state["momentum"].lerp_(parameter.grad, 1 - group["momentum"])
                ahead = parameter.grad.lerp(mean, group["momentum"])
                update = orthogonalize(ahead.reshape(len(ahead), -1))
                size = max(update.shape) ** 0.5
                parameter.add_(update.reshape(parameter.shape), alpha=-group["lr"] * size)


def muon_and_adam(model: nn.Module, lr: float) -> dict[str, torch.optim.Optimizer]:
    """Muon for the weights of hidden and output layers, AdamW for gains and biases, both at learning rate `lr`."""
    matrices = [p for p in model.parameters() if p.ndim >= 2]
    rest = [p for p in model.parameters() if p.ndim < 2]
    return {"matrices": Muon(matrices, lr), "rest": torch.optim.AdamW(rest, lr, foreach=True)}


def lazy_adam(model: nn.Module, lr: float, every: int) -> torch.optim.Adam:
    """Adam for a network whose regulariser runs at each `every`-th step (Karras et al. 2020, appendix B)."""
    share = every / (every + 1)
    return torch.optim.Adam(model.parameters(), share * lr, betas=(0.0, 0.99**share), foreach=True)
