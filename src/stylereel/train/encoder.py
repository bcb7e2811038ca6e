"""Recipe of the built-in encoder: world and generated portraits to W+, by codes first and pictures second.

The codes are known for every training picture (the mapping network of its latents), so the encoder regresses them;
a part of each batch also goes through the generator, and its picture, landmarks and identity must come back.
"""

from __future__ import annotations

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from stylereel import world
from stylereel.faces.perception import SIZE, FaceNet, IdentityNet
from stylereel.generator import StyleGAN2
from stylereel.invert.encoder import Encoder, EncoderConfig
from stylereel.media.sheet import side_by_side
from stylereel.render import pictures
from stylereel.train.data import (
    FIRST_ROW,
    WHOLE,
    Batch,
    Prefetch,
    Share,
    draw_batch,
    drawn,
    latents_of,
    mixed_latents,
    mixed_values,
)
from stylereel.train.generator import grouped_w, picture_loss
from stylereel.train.loop import Average, Trainer, cosine
from stylereel.train.optimise import muon_and_adam
from stylereel.train.perception import disturb
from stylereel.world.factors import MOTION

STEPS, COUNT, RENDERED = 2600, 32, 9
NEUTRAL = 10  # of COUNT: the neutral head with any motion, which is what a real clip's motion is shown on


def batch_of(index: int, share: Share = WHOLE) -> Batch:
    """Random portraits, the last `NEUTRAL` of the whole batch with the neutral identity."""
    z = mixed_latents((41, index), COUNT, mix=0.7)
    values = world.aligned(mixed_values(z))
    neutral = np.tile(world.neutral(), (NEUTRAL, 1))
    neutral[:, : len(MOTION)] = values[-NEUTRAL:, : len(MOTION)]
    z[-NEUTRAL:], values[-NEUTRAL:] = latents_of(neutral, np.random.default_rng((43, index))), neutral
    return drawn(z, values, SIZE, share)


def train(
    trainer: Trainer, generator: StyleGAN2, face: FaceNet, identity: IdentityNet, start: Encoder | None = None
) -> Encoder:
    """Train the encoder of `generator`, from scratch or a trained one."""
    torch.manual_seed(2)
    trainer.freeze(generator, face, identity)
    config = EncoderConfig(tuple(FIRST_ROW.values()), generator.num_ws, generator.config.w_dim)
    model, average = start or Encoder(config), Encoder(config)
    if start is None:
        model.trunk.load_state_dict(face.trunk.state_dict())
    with torch.no_grad():
        w = generator.mapping(torch.randn(4096, generator.config.z_dim).to(trainer.device))
        model.mean.copy_(w.mean(0))
        model.deviation.copy_(w.std(0).clamp_min(1e-3))
    optimizers = muon_and_adam(model, 1e-3)
    steps, share = trainer.steps(STEPS), trainer.share
    batches = Prefetch(lambda index: batch_of(index, share), trainer.to_device)
    follow = Average(model, average, 0.995)
    small = f"b{SIZE}.torgb"
    # Of the pictures that are rendered again a third is generated, a third random, a third neutral.
    third = RENDERED // 3
    mine = list(range(COUNT))[share[0] :: share[1]]
    chosen = [place for place, which in enumerate(mine) if which < 2 * third or which >= COUNT - third]
    generated = sum(which < third for which in mine)
    weight = share[1] * len(chosen) / (3 * third)  # the rendered ones need not divide evenly; 1 in one process

    def step(index: int) -> dict[str, Tensor]:
        batch = batches(index)
        with torch.no_grad():
            truth = grouped_w(generator, batch.z)
            images = batch.images.clone()
            if generated:
                images[:generated] = generator.synthesize(
                    truth[:generated], noise="none", stop=small, dtype=trainer.dtype
                )
        with trainer.autocast():
            codes = model(disturb(images, (42, index), share)).float()
        again = generator.synthesize(codes[chosen], noise="none", stop=small, dtype=trainer.dtype)
        with trainer.autocast():
            seen, wanted = face(again), face(images[chosen])
            same = (identity(again) * identity(images[chosen])).sum(1)
        code_loss = ((codes - truth) / model.deviation).square().mean()
        target = Batch(*(part[chosen] for part in batch))._replace(images=images[chosen])
        picture = weight * picture_loss(again, target)
        points = weight * (seen.landmarks.float() - wanted.landmarks.float()).abs().mean()
        motion = weight * (seen.motion.float() - wanted.motion.float()).abs().mean()
        person = weight * (1 - same.float()).mean()
        loss = code_loss + 2 * picture + 20 * points + 2 * motion + 0.5 * person
        trainer.descend(loss, optimizers.values(), 5.0, model)
        follow.update(index)
        psnr = 10 * torch.log10(4 / F.mse_loss(again.detach(), images[chosen]))
        losses = {"codes": code_loss, "picture": picture, "points": points, "motion": motion, "identity": person}
        return losses | {"psnr": psnr}

    @torch.no_grad()
    def sample() -> np.ndarray:
        """Eight held-out portraits above what encoder and generator make of them."""
        images = draw_batch((44, 0), 8, SIZE).images.to(trainer.device)
        again = generator.synthesize(average(images), noise="none", stop=small)
        return np.concatenate([side_by_side(list(pictures(row))) for row in (images, again)])

    trainer.fit(
        "encoder",
        {"model": model, "average": average},
        optimizers,
        step,
        steps,
        batch=COUNT,
        schedule=lambda index: cosine(index, steps),
        every=50,
        sample=sample,
    )
    return average
