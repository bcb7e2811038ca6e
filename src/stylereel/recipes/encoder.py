"""Recipe of an encoder of the e4e kind: portraits to the W+ of a generator, by codes where they are known and images.

Tov et al., "Designing an Encoder for StyleGAN Image Manipulation" (2021): all rows begin as one w; their offsets are
freed one after the other, and a loss keeps rows similar. The losses are pixels, features, identity and, as the
generators here draw faces, landmarks and motion. e4e's discriminator of codes is left out: the codes of a generator's
own samples are known and hold the encoder in its distribution.

For the built-in generator the codes of the world's images are known too (the mapping network of their latents).
For any other generator, half of a batch are its own samples and half the user's pictures, which have no code loss;
without pictures all are samples.
"""

from __future__ import annotations

from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from stylereel import world
from stylereel.core.prefetch import WHOLE, Prefetch, Share
from stylereel.core.render import pictures
from stylereel.family.encoder import Encoder, EncoderConfig, load_encoder
from stylereel.family.nets import SIZE, FaceNet, IdentityNet
from stylereel.family.people import FIRST_ROW, Batch, draw_portraits, grouped_w, latents_of, mixed_latents, mixed_values
from stylereel.generator import StyleGAN2, StyleGAN3
from stylereel.media.sheet import side_by_side
from stylereel.recipes.losses import image_loss
from stylereel.recipes.perception import disturb
from stylereel.recipes.run import Run, makes, shown
from stylereel.train.loop import Average, Trainer, cosine
from stylereel.train.optimizers import muon_and_adam
from stylereel.train.sources import Source, open_source
from stylereel.world.factors import MOTION_COLUMNS
from stylereel.zoo.formats import load_generator_file

STEPS, COUNT, RENDERED = 2600, 32, 9
NEUTRAL = 10  # of COUNT: the neutral head with any motion, on which a real clip's motion is rendered
FREED = (0.05, 0.2)  # between these shares of a run from scratch the rows become free
DELTA_WEIGHT = 2e-4  # e4e's


class EncoderBatch(NamedTuple):
    """Inputs and targets.

    images [B, 3, H, W]; codes [B, L, D] and where they are known [B]; regions [B, H, W] of the world or zeros; chosen,
    the indices whose code is rendered and compared, and the weight of that comparison.
    """

    images: Tensor
    codes: Tensor
    known: Tensor
    regions: Tensor
    chosen: list[int]
    weight: float = 1.0


def batch_of(index: int, share: Share = WHOLE) -> Batch:
    """Random portraits, the last `NEUTRAL` of the whole batch with the neutral identity."""
    z = mixed_latents((41, index), COUNT, mix=0.7)
    values = world.align(mixed_values(z))
    neutral = np.tile(world.neutral(), (NEUTRAL, 1))
    neutral[:, MOTION_COLUMNS] = values[-NEUTRAL:][:, MOTION_COLUMNS]
    z[-NEUTRAL:], values[-NEUTRAL:] = latents_of(neutral, np.random.default_rng((43, index))), neutral
    return draw_portraits(z, values, SIZE, share)


def free_rows(index: int, steps: int, rows: int) -> int:
    """How many rows after the first have an offset of their own at step `index` of `steps`."""
    begin, end = FREED
    part = (index / steps - begin) / (end - begin)
    return int(np.clip(part, 0, 1) * (rows - 1))


def feature_distance(predicted: list[Tensor], target: list[Tensor]) -> Tensor:
    """Mean squared distance of feature maps whose pixels are normalised to length 1, over all levels."""
    pairs = zip(predicted, target, strict=True)
    distances = [(F.normalize(a.float()) - F.normalize(b.float())).square().sum(1).mean() for a, b in pairs]
    return torch.stack(distances).mean()


class Family:
    """Batches for the built-in generator: the world's images, a part of them as the generator renders them."""

    first_rows = tuple(FIRST_ROW.values())

    def __init__(self, trainer: Trainer, generator: StyleGAN2) -> None:
        self.generator, self.dtype = generator, trainer.dtype
        share = trainer.share
        self._batches = Prefetch(lambda index: batch_of(index, share), trainer.to_device)
        # Of the images that are reconstructed a third is generated, a third random, a third neutral.
        third = RENDERED // 3
        mine = list(range(COUNT))[share[0] :: share[1]]
        self._chosen = [place for place, which in enumerate(mine) if which < 2 * third or which >= COUNT - third]
        self._generated = sum(which < third for which in mine)
        self._weight = share[1] * len(self._chosen) / (3 * third)  # they need not divide evenly; 1 in one process

    def generate(self, codes: Tensor) -> Tensor:
        """Images of codes at 128 px, the output of the blocks up to there."""
        return self.generator.synthesize(codes, noise="none", stop=f"b{SIZE}.torgb", dtype=self.dtype)

    @torch.no_grad()
    def __call__(self, index: int) -> EncoderBatch:
        batch = self._batches(index)
        codes, images = grouped_w(self.generator, batch.z), batch.images.clone()
        if self._generated:
            images[: self._generated] = self.generate(codes[: self._generated])
        known = torch.ones(len(images), dtype=torch.bool, device=images.device)
        return EncoderBatch(images, codes, known, batch.regions, self._chosen, self._weight)


class Others:
    """Batches for any generator: its own samples, and images of `source`."""

    first_rows = (0,)

    def __init__(self, trainer: Trainer, generator: StyleGAN2 | StyleGAN3, source: Source | None) -> None:
        self.generator, self.source, self.trainer = generator, source, trainer

    def generate(self, codes: Tensor) -> Tensor:
        """Images of codes, at 128 px or less."""
        return self.generator.synthesize(codes, resize=min(SIZE, self.generator.resolution), dtype=self.trainer.dtype)

    @torch.no_grad()
    def __call__(self, index: int) -> EncoderBatch:
        rank, ranks = self.trainer.share
        device = self.trainer.device
        count = COUNT if self.source is None else COUNT // 2
        random = torch.Generator().manual_seed(index)
        z = torch.randn(count, self.generator.config.z_dim, generator=random)[rank::ranks].to(device)
        codes = self.generator.map(z)
        images = self.generate(codes).float()
        if self.source is not None:
            real = self.source.batch(index, COUNT - count, (rank, ranks))["images"]
            assert isinstance(real, Tensor)
            real = F.adaptive_avg_pool2d(real.to(device), images.shape[-1])
            images, codes = torch.cat([images, real]), torch.cat([codes, codes.mean(0).expand(len(real), -1, -1)])
        known = torch.arange(len(images), device=device) < len(z)
        chosen = list(range(len(images)))[:: max(1, COUNT // RENDERED)]
        return EncoderBatch(images, codes, known, torch.zeros_like(images[:, 0], dtype=torch.uint8), chosen)


def train(
    trainer: Trainer,
    generator: StyleGAN2 | StyleGAN3,
    face: FaceNet,
    identity: IdentityNet,
    start: Encoder | None = None,
    *,
    family: bool = True,
    source: Source | None = None,
) -> Encoder:
    """Train the encoder of `generator`, from scratch or a trained one.

    family: the generator is the built-in one or one that learned the world as it did; source: images for any other.
    """
    torch.manual_seed(2)
    trainer.freeze(generator, face, identity)
    if family:
        assert isinstance(generator, StyleGAN2)
        batches: Family | Others = Family(trainer, generator)
    else:
        batches = Others(trainer, generator, source)
    config = EncoderConfig(batches.first_rows, generator.num_ws, generator.config.w_dim)
    if start is not None and start.config != config:
        raise ValueError("The built-in encoder is for the built-in generator; start from scratch.")
    model, average = start or Encoder(config), Encoder(config)
    if start is None:
        model.trunk.load_state_dict(face.trunk.state_dict())
    with torch.no_grad():
        w = generator.mapping(torch.randn(4096, generator.config.z_dim).to(trainer.device))
        model.mean.copy_(w.mean(0))
        model.deviation.copy_(w.std(0).clamp_min(1e-3))
    optimizers = muon_and_adam(model, 1e-3)
    steps, share = trainer.steps(STEPS), trainer.share
    ema = Average(model, average, 0.995)

    def step(index: int) -> dict[str, Tensor]:
        batch = batches(index)
        deltas = None if start else free_rows(index, steps, config.rows)
        with trainer.autocast():
            codes = model(disturb(batch.images, (42, index), share), deltas).float()
        reconstruction, images = batches.generate(codes[batch.chosen]), batch.images[batch.chosen]
        with trainer.autocast():
            predicted, target = face(reconstruction), face(images)
            cosine_similarity = (identity(reconstruction) * identity(images)).sum(1)
        errors = ((codes - batch.codes) / model.deviation).square().mean((1, 2))
        code_loss = (errors * batch.known).sum() / batch.known.sum().clamp_min(1)
        unknown = codes[~batch.known]
        offsets = ((unknown[:, 1:] - unknown[:, :1]) / model.deviation).norm(dim=2).sum() / max(1, len(unknown))
        portraits = Batch(codes, codes, images, codes, batch.regions[batch.chosen])  # only images and regions are used
        pixels = batch.weight * image_loss(reconstruction, portraits)
        features = batch.weight * feature_distance(predicted.maps, target.maps)
        points = batch.weight * (predicted.landmarks.float() - target.landmarks.float()).abs().mean()
        motion = batch.weight * (predicted.motion.float() - target.motion.float()).abs().mean()
        person = batch.weight * (1 - cosine_similarity.float()).mean()
        loss = code_loss + 2 * pixels + 0.8 * features + 20 * points + 2 * motion + 0.5 * person
        trainer.descend(loss + DELTA_WEIGHT * offsets, optimizers.values(), 5.0, model)
        ema.update(index)
        psnr = 10 * torch.log10(4 / F.mse_loss(reconstruction.detach(), images))
        losses = {"codes": code_loss, "image": pixels, "features": features, "points": points, "motion": motion}
        return losses | {"identity": person, "offsets": offsets, "psnr": psnr}

    @torch.no_grad()
    def sample() -> np.ndarray:
        """Eight held-out portraits above their reconstructions."""
        images = batches(steps + 1).images[-8:]
        rows = (images, batches.generate(average(images)))
        return np.concatenate([side_by_side(list(pictures(row))) for row in rows])

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


@makes("encoder", needs=("face", "identity", "generator"))
def recipe(run: Run, *, data: str | None = None, generator: str | None = None) -> list[Path]:
    """Train an encoder for the built-in generator, or by the e4e recipe for any other.

    Args:
        data: images for another generator's encoder; without them it learns that generator's random people alone.
        generator: weight file of a generator of any known tool; the one in the folder if not given.
    """
    run.claim("encoder")
    path = run.first("encoder")
    first, nets = None if path is None else load_encoder(path), (run.face_net(), run.identity_net())
    if generator is None:
        if data is not None:
            raise ValueError("The built-in generator's encoder learns from the world; leave out --data.")
        return run.save({"encoder": train(run.trainer, run.generator(), *nets, first)})
    other = load_generator_file(generator)
    source = None if data is None else open_source(data, size=other.resolution)
    model = train(run.trainer, other, *nets, first, family=False, source=source)
    origin = f"pictures of {shown(data)}" if data else f"random people of {shown(generator)}; no pictures"
    return run.save({"encoder": model}, origin, None)
