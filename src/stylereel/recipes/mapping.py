"""First stage of the generators' recipes: the mapping network is pretrained to encode the world's factors.

Before any image, the mapping network learns to turn z into a w from which one matrix predicts the factors, the
kinds of hair, hat, collar and backdrop, and the colours of the palette. This takes under a minute, and the synthesis
network then never has to guess through the mapping which of eighty numbers makes the hair gray.

A mapping network that is older than some factors can learn them later (`learn_newer`), and w then goes on to mean what
it meant to all that was trained on it.
"""

from __future__ import annotations

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from stylereel.core.prefetch import WHOLE, Prefetch, Share
from stylereel.generator.base import MappingNetwork
from stylereel.generator.ops import FullyConnected
from stylereel.train.loop import Trainer, cosine
from stylereel.train.optimizers import Muon
from stylereel.world import from_latent
from stylereel.world.factors import HIGH, INDEX, LATENT_DIM, LOW, NAMES
from stylereel.world.hair import STYLE_EDGES
from stylereel.world.materials import HALF, KEY, palette

STEPS, NEWER_STEPS, BATCH = 3000, 2000, 512
LR = 1e-2
# Factors that choose among kinds, and how many there are.
KINDS = {"backdrop_kind": 5, "hat_style": 3, "neckline": 4, "clothes_pattern": 4, "glasses_shape": 3, "hair_style": 10}


def targets(values: np.ndarray) -> np.ndarray:
    """Regression targets of factor values [B, K]: float32 [B, F], the factors first, in 0..1.

    After the factors come the shares of each kind of `KINDS` and the palette's colours (as sRGB) and lights.
    """
    unit = (values - LOW) / (HIGH - LOW)
    parts: list[np.ndarray] = [unit]
    for name, count in KINDS.items():
        place = unit[:, INDEX[name], None]
        if name == "hair_style":  # its styles are not equally wide
            place = np.interp(place, STYLE_EDGES, np.linspace(0, 1, count + 1))
        place = np.clip(place * count - 0.5, 0, count - 1)
        parts.append(np.clip(0.5 + 3.5 * (0.5 - np.abs(place - np.arange(count))), 0, 1))
    colours = np.stack([palette(row) for row in values])[:, : HALF + 1]
    colours[:, :KEY] = np.sqrt(np.maximum(colours[:, :KEY], 0))
    parts.append(colours.reshape(len(values), -1))
    return np.concatenate(parts, 1, dtype=np.float32)


def _draw(seed: tuple[int, ...], count: int, share: Share = WHOLE) -> tuple[Tensor, Tensor]:
    """Latents [B, Z] and their `targets` [B, F]."""
    z = np.random.default_rng(seed).standard_normal((count, LATENT_DIM))[share[0] :: share[1]].astype(np.float32)
    return torch.from_numpy(z), torch.from_numpy(targets(from_latent(z)))


def _batches(trainer: Trainer) -> tuple[Prefetch[tuple[Tensor, Tensor]], int]:
    """Batches of latents and normalised targets by index, and the number of targets: those that vary."""
    examples = _draw((14, 0), 8192)[1]
    varies = examples.std(0) > 1e-3
    mean, spread = examples.mean(0)[varies], examples.std(0)[varies]

    def draw(index: int) -> tuple[Tensor, Tensor]:
        z, target = _draw((14, 1, index), BATCH, trainer.share)
        return z, (target[:, varies] - mean) / spread

    return Prefetch(draw, lambda pair: (trainer.to_device(pair[0]), trainer.to_device(pair[1]))), len(mean)


def pretrain(trainer: Trainer, name: str, mapping: MappingNetwork) -> None:
    """Train the mapping network, and a matrix that is thrown away, to predict the `targets` of a latent."""
    batches, count = _batches(trainer)
    reader = nn.Linear(mapping.w_avg.numel(), count)
    # The multiplier of the mapping network's learning rate is meant for adversarial training.
    layer = mapping.get_submodule("fc0")
    assert isinstance(layer, FullyConnected)
    lr = LR / layer.multiplier
    optimizers: dict[str, torch.optim.Optimizer] = {
        "matrices": Muon([p for p in mapping.parameters() if p.ndim > 1], lr),
        "biases": torch.optim.Adam([p for p in mapping.parameters() if p.ndim == 1], lr),
        "reader": torch.optim.Adam(reader.parameters(), 2e-3),
    }
    steps = trainer.steps(STEPS)

    def step(index: int) -> dict[str, Tensor | float]:
        z, target = batches(index)
        loss = (reader(mapping(z)) - target).square().mean()
        trainer.descend(loss, optimizers.values(), 1.0, mapping)
        return {"unexplained": loss.detach()}  # share of the variance that the code does not explain

    trainer.fit(
        name,
        {"model": mapping, "reader": reader},
        optimizers,
        step,
        steps,
        batch=BATCH,
        schedule=lambda index: cosine(index, steps, floor=1e-3),
    )


def learn_newer(trainer: Trainer, name: str, mapping: MappingNetwork, known: int) -> None:
    """Teach a trained mapping network, whose latents mean the first `known` factors, those that came after them.

    It learns only by how much the newer numbers of the latent move its first layer. So w stays as it is where they
    are 0, and what was trained on it before goes on to hold. The further they move w, the worse the older factors can
    be read from it: what these lose beyond a twentieth of their variance counts extra.
    """
    batches, count = _batches(trainer)
    reader = nn.Linear(mapping.w_avg.numel(), count)
    mapping.requires_grad_(False)
    weight = mapping.get_submodule("fc0").weight
    assert isinstance(weight, nn.Parameter)
    weight.requires_grad_(True).register_hook(lambda gradient: F.pad(gradient[:, known:], (known, 0)))
    spread = float(weight.detach().std())
    optimizers = {
        "model": torch.optim.Adam([weight], 0.06 * spread),
        "reader": torch.optim.Adam(reader.parameters(), LR),
    }
    steps = trainer.steps(NEWER_STEPS)

    def step(index: int) -> dict[str, Tensor | float]:
        z, target = batches(index)
        missing = (reader(mapping(z)) - target).square().mean(0)
        new = missing[known : len(NAMES)].mean()
        lost = (missing[:known] - 0.05).clamp_min(0).sum()
        trainer.descend(2 * new + 4 * missing.mean() + lost, optimizers.values())
        return {"unexplained": missing.mean().detach(), "newer": new.detach()}

    trainer.fit(
        name,
        {"model": mapping, "reader": reader},
        optimizers,
        step,
        steps,
        batch=BATCH,
        schedule=lambda index: cosine(index, steps),
    )
