"""Losses of adversarial training, lazy regularisers included.

Goodfellow et al. (2014): non-saturating logistic loss. Mescheder et al. (2018): R1. Karras et al., "Analyzing and
Improving the Image Quality of StyleGAN" (2020): path length (equation 4), and regularisers that are evaluated only
every k-th step with k times the weight (appendix B).
"""

from __future__ import annotations

import math
from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor, nn


def d_loss(real: Tensor, fake: Tensor) -> Tensor:
    """The discriminator's loss, given its scores [B, 1] of real and of generated images."""
    return F.softplus(-real).mean() + F.softplus(fake).mean()


def g_loss(fake: Tensor) -> Tensor:
    """The generator's loss, given the discriminator's scores [B, 1] of its images."""
    return F.softplus(-fake).mean()


def r1_penalty(discriminator: Callable[[Tensor], Tensor], images: Tensor) -> Tensor:
    """Mean squared norm of the gradient of the score at real images [B, 3, H, W], differentiable twice."""
    images = images.detach().requires_grad_(True)
    (gradient,) = torch.autograd.grad(discriminator(images).sum(), images, create_graph=True)
    return gradient.square().sum((1, 2, 3)).mean()


class PathLength(nn.Module):
    """Makes steps in W change images by a constant length; `mean`, a running mean of it, belongs to the state."""

    def __init__(self, decay: float = 0.99) -> None:
        super().__init__()
        self.decay = decay
        self.register_buffer("mean", torch.zeros([]))
        self.mean: Tensor

    def forward(self, images: Tensor, w: Tensor, noise: Tensor) -> Tensor:
        """Mean squared distance of the path lengths from their running mean, which is updated.

        Args:
            images: [B, 3, H, W] that depend on w.
            w: W+ codes [B, L, D].
            noise: normal numbers in the shape of the images.
        """
        direction = noise / math.sqrt(images.shape[2] * images.shape[3])
        (gradient,) = torch.autograd.grad((images * direction).sum(), w, create_graph=True)
        lengths = gradient.square().sum(2).mean(1).sqrt()
        now = lengths.detach().mean()
        # A mean that rose slowly from zero would first flatten the images of a generator that is trained already.
        self.mean.lerp_(now, 1 - self.decay) if self.mean else self.mean.copy_(now)
        return (lengths - self.mean).square().mean()
