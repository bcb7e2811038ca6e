"""Recipe of the built-in perception nets: landmarks and factors by regression, identity by contrast.

Both see world portraits at 128 px with blur, noise and changed colours, so that they also read generated pictures.
"""

from __future__ import annotations

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from stylereel.faces.perception import SIZE, FaceNet, IdentityNet, unit_values
from stylereel.train.data import WHOLE, Batch, Prefetch, Share, draw_batch, drawn, mixed_values
from stylereel.train.loop import Average, Trainer, cosine
from stylereel.train.optimise import muon_and_adam
from stylereel.world.factors import GROUP, INDEX, LATENT_DIM, NAMES

FACE_STEPS, FACE_BATCH = 2400, 48
IDENTITY_STEPS, IDENTITY_BATCH = 500, 40
# What a person can change without becoming another: clothes, backdrop and light do not belong to the embedding.
_CHANGING = [
    INDEX[name]
    for name in NAMES
    if GROUP[name] in ("pose", "expression") or name.startswith(("clothes", "backdrop", "light"))
]
# Factors that matter for driving count more than the rest.
_WEIGHT = torch.tensor([3.0 if GROUP[name] in ("pose", "expression") else 1.0 for name in NAMES])


def disturb(images: Tensor, seed: tuple[int, ...], share: Share = WHOLE) -> Tensor:
    """Blur, change of colours and noise, drawn for each picture of [B, 3, H, W], a share of a batch."""
    random = np.random.default_rng(seed)
    rank, ranks = share
    count = len(images) * ranks

    def draw(low: float, high: float, channels: int = 1) -> Tensor:
        values = random.uniform(low, high, (count, channels, 1, 1))[rank::ranks]
        return torch.from_numpy(values).float().to(images.device)

    out = images * draw(0.75, 1.2) * draw(0.92, 1.08, 3) + draw(-0.15, 0.15) + draw(-0.04, 0.04, 3)
    softness = draw(0.0, 1.0) * (draw(0.0, 1.0) < 0.5)
    small = F.interpolate(F.avg_pool2d(out, 2), scale_factor=2, mode="bilinear")
    out = torch.lerp(out, small, softness)
    noise = random.standard_normal((count, *out.shape[1:]), np.float32)[rank::ranks]
    return out + torch.from_numpy(noise).to(images.device) * draw(0.0, 0.08)


def train_face(trainer: Trainer, start: FaceNet | None = None) -> FaceNet:
    """Train landmarks and factors, from scratch or from a trained net."""
    torch.manual_seed(0)
    model, average = start or FaceNet(), FaceNet()
    optimizers = muon_and_adam(model, 1e-3)
    steps, share, weight = trainer.steps(FACE_STEPS), trainer.share, _WEIGHT.to(trainer.device)
    batches = Prefetch(
        lambda index: draw_batch((21, index), FACE_BATCH, SIZE, aligned=False, share=share), trainer.to_device
    )
    follow = Average(model, average, 0.995)

    def step(index: int) -> dict[str, Tensor]:
        batch = batches(index)
        with trainer.autocast():
            seen = model(disturb(batch.images, (22, index), share))
        points = (seen.landmarks.float() - batch.landmarks).abs().mean()
        values = ((seen.values.float() - unit_values(batch.values)).square() * weight).mean()
        trainer.descend(30 * points + values, optimizers.values(), 5.0, model)
        follow.update(index)
        motion = (seen.motion.float() - unit_values(batch.values)[:, :16]).abs().mean()
        return {"landmarks": points, "values": values, "motion": motion}

    trainer.fit(
        "face",
        {"model": model, "average": average},
        optimizers,
        step,
        steps,
        batch=FACE_BATCH,
        schedule=lambda index: cosine(index, steps),
    )
    return average


def pairs(index: int, share: Share = WHOLE) -> Batch:
    """Two portraits each of several people: [2 N, ...], the second half shows the people of the first half again."""
    random = np.random.default_rng((31, index))
    z = np.repeat(random.standard_normal((IDENTITY_BATCH, 1, LATENT_DIM)), 4, axis=1)
    first = mixed_values(z)
    second = first.copy()
    changed = mixed_values(np.repeat(random.standard_normal((IDENTITY_BATCH, 1, LATENT_DIM)), 4, axis=1))
    second[:, _CHANGING] = changed[:, _CHANGING]
    return drawn(np.concatenate([z, z]), np.concatenate([first, second]), SIZE, share)


def train_identity(trainer: Trainer, trunk: FaceNet, start: IdentityNet | None = None) -> IdentityNet:
    """Train the identity embedding, from the trunk of the trained face net or from a trained embedding."""
    torch.manual_seed(1)
    model, average = start or IdentityNet(), IdentityNet()
    if start is None:
        model.trunk.load_state_dict(trunk.trunk.state_dict())
    optimizers = muon_and_adam(model, 5e-4)
    steps, share = trainer.steps(IDENTITY_STEPS), trainer.share
    batches = Prefetch(lambda index: pairs(index, share), trainer.to_device)
    follow = Average(model, average, 0.99)

    def step(index: int) -> dict[str, Tensor]:
        batch = batches(index)
        with trainer.autocast():
            embedding = model(disturb(batch.images, (32, index), share))
        first, second = embedding.float().chunk(2)
        likeness = first @ second.T
        target = torch.arange(len(first), device=first.device)
        loss = 0.5 * (F.cross_entropy(12 * likeness, target) + F.cross_entropy(12 * likeness.T, target))
        trainer.descend(loss, optimizers.values(), 5.0, model)
        follow.update(index)
        hit = (likeness.argmax(1) == target).float().mean()
        same, other = likeness.diagonal().mean(), likeness.mean()
        return {"contrast": loss, "top1": hit, "same": same, "all": other}

    trainer.fit(
        "identity",
        {"model": model, "average": average},
        optimizers,
        step,
        steps,
        batch=IDENTITY_BATCH,
        schedule=lambda index: cosine(index, steps),
    )
    return average
