"""Recipe of the built-in generator: StyleGAN2 distilled from the world, then finished adversarially.

First the mapping network alone learns the factors (`mapping.pretrain`); from then on it is frozen.

Distillation. G(z) is regressed onto the world's image of the factors of z. Half of the batch mixes styles *with
truth*: pose, shape, expression and look are each taken from one of two latents, the rows of W+ that carry a group get
the w of its latent, and the target is the world's image of the mixed factors. So the rows of W+, and the S of their
layers, come to mean what coarse, middle and fine rows mean in a StyleGAN. Half of a batch are partners that differ in
expression or shape alone; a loss on the differences gives small movements a clear gradient. The resolution
grows: 32, 64, 128, then 256 px.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import replace
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from stylereel.core.prefetch import Prefetch
from stylereel.core.render import pictures
from stylereel.family.nets import SIZE, FaceNet
from stylereel.family.people import Batch, draw_batch, draw_pairs, grouped_w, mixed_latents
from stylereel.generator import Discriminator, DiscriminatorConfig, StyleGAN2, StyleGAN2Config
from stylereel.generator.base import Generator
from stylereel.generator.ops import FullyConnected
from stylereel.media.sheet import side_by_side
from stylereel.recipes import curve
from stylereel.recipes.curve import FrechetCurve
from stylereel.recipes.mapping import pretrain
from stylereel.recipes.run import Run
from stylereel.train import adversarial
from stylereel.train.adversarial import GANBatch, GANConfig, RandomState, train_gan
from stylereel.train.loop import Average, Trainer, cosine
from stylereel.train.optimizers import Muon
from stylereel.train.sources import open_source
from stylereel.world.factors import LATENT_DIM, MOTION
from stylereel.world.shading import REGIONS

CONFIG = StyleGAN2Config(
    resolution=256, z_dim=LATENT_DIM, w_dim=256, channel_base=4096, channel_max=128, mapping_layers=3
)


class Stage(NamedTuple):
    """Part of the distillation: the learning rate goes from `first` to `last`; `top` trains the last block alone."""

    resolution: int
    steps: int
    batch: int
    first: float
    last: float
    top: bool = False


# The last stage leaves all but the new block as it is, so that encoders and masks may be trained at the same time.
STAGES = (
    Stage(32, 4000, 32, 1.5e-2, 5e-5),
    Stage(64, 1600, 16, 1e-2, 5e-5),
    Stage(128, 3600, 16, 6e-3, 5e-5),
    Stage(256, 500, 12, 1e-2, 2e-4, top=True),
)
# Rendered images never run out, so the augmentation hardly ever has to act.
FINISH = GANConfig(
    500, 8, 3e-3, 2e-3, r1=1.0, path=0.02, gan_weight=0.03, half_life=550, speed=20_000, warmup=30, every=20
)
_DETAIL = torch.tensor([10.0 if name in ("brow", "eye", "lips", "mouth", "glasses") else 1.0 for name in REGIONS])
_DETAIL[REGIONS.index("background")] = _DETAIL[REGIONS.index("clothes")] = 0.5


def image_loss(images: Tensor, batch: Batch) -> Tensor:
    """L1 of pixels, of their 4x4 means and of differences between neighbours, and squares of 2x2 means.

    Eyes, brows, lips, mouth and glasses count ten times.
    """
    weight = _DETAIL.to(images.device)[batch.regions.long()][:, None]
    weight = F.max_pool2d(weight, 3, 1, 1)
    weight = weight / weight.mean()
    difference = images - batch.images
    loss = (difference.abs() * weight).mean()
    loss = loss + F.avg_pool2d(difference, 4).abs().mean()
    across = (difference[..., 1:] - difference[..., :-1]).abs() * weight[..., 1:]
    down = (difference[..., 1:, :] - difference[..., :-1, :]).abs() * weight[..., 1:, :]
    return loss + 0.5 * (across.mean() + down.mean()) + 4 * F.avg_pool2d(difference, 2).square().mean()


def perceptual_loss(trainer: Trainer, face: FaceNet, images: Tensor, batch: Batch) -> Tensor:
    """Difference of the face net's outputs for the images and for the world's: landmarks, factors, features."""
    with trainer.autocast():
        predicted = face(images)
        with torch.no_grad():
            target = face(batch.images)
    points = (predicted.landmarks.float() - target.landmarks.float()).abs()
    values = (predicted.values.float() - target.values.float()).abs()
    features = (predicted.features - target.features).float().square().mean() / target.features.float().square().mean()
    motion = values[:, : len(MOTION)].mean()
    return 15 * (points.mean() + points[:, 36:].mean()) + 0.6 * motion + 0.6 * values.mean() + 0.3 * features


def difference_loss(images: Tensor, batch: Batch) -> Tensor:
    """The share of the difference within pairs that the images miss: 0 is perfect, 1 is no response at all.

    The second half of the batch are the partners of the first (see `draw_pairs`). What both images of a pair get
    wrong cancels, so even a lid or a mouth corner has a clear gradient while the rest is still rough.
    """
    target = torch.sub(*batch.images.chunk(2))
    missing = torch.sub(*images.chunk(2)) - target
    return missing.square().sum() / target.square().sum()


class RegionHeads(nn.Module):
    """Read the world's regions off features: in training only, so that geometry is learned early.

    channels: of the input features. margin: their pixels beyond each edge of the image.
    """

    def __init__(self, channels: Iterable[int], margin: int = 0) -> None:
        super().__init__()
        self.margin = margin
        self.heads = nn.ModuleList(nn.Conv2d(count, len(REGIONS), 1) for count in channels)

    def forward(self, features: list[Tensor], regions: Tensor) -> Tensor:
        """Mean cross-entropy for features [B, C, S, S] of each layer and regions [B, H, W]."""
        loss = torch.zeros([], device=regions.device)
        for head, feature in zip(self.heads, features, strict=True):
            side = feature.shape[-1] - 2 * self.margin
            feature = feature[..., self.margin :, self.margin :][..., :side, :side]
            step = regions.shape[-1] // side
            target = regions[:, step // 2 :: step, step // 2 :: step].long()
            loss = loss + F.cross_entropy(head(feature.float()), target, weight=_DETAIL.to(regions.device))
        return loss / len(self.heads)


def grow(small: StyleGAN2, config: StyleGAN2Config) -> StyleGAN2:
    """A generator of another size with the blocks that both have; rgb layers that are new start at zero."""
    large = StyleGAN2(config)
    state = large.state_dict()
    state.update(small.state_dict())
    for resolution in config.resolutions:
        if resolution > small.resolution:
            state[f"synthesis.b{resolution}.torgb.weight"].zero_()
    large.load_state_dict({key: value for key, value in state.items() if key in large.state_dict()})
    return large


@torch.no_grad()
def adopt(model: StyleGAN2, old: StyleGAN2, resolutions: Iterable[int]) -> None:
    """Give `model` the blocks of a trained generator that has other latents or another W.

    Its affine layers are multiplied by the matrix that best maps the model's w to the old one's, fitted on 20,000
    latents, of which the old generator takes the first numbers.
    """
    z = torch.randn(20_000, model.config.z_dim, generator=torch.Generator().manual_seed(3))
    mine, theirs = model.mapping(z), old.mapping(z[:, : old.config.z_dim])
    change = torch.linalg.lstsq(F.pad(mine, (0, 1), value=1.0).double(), theirs.double()).solution.float()
    before = old.state_dict()
    for resolution in resolutions:
        block = model.synthesis.get_submodule(f"b{resolution}")
        for name, tensor in block.state_dict().items():
            tensor.copy_(before[f"synthesis.b{resolution}.{name}"])
        for layer in block.modules():
            if isinstance(layer, FullyConnected):
                gain = layer.weight.shape[1] ** -0.5
                layer.bias += gain * layer.weight @ change[-1]
                layer.weight.copy_(layer.weight @ change[:-1].T)


@torch.no_grad()
def normalize_weights(model: Generator) -> None:
    """Bring the weights of each convolution back to a root mean square of 1.

    Demodulation makes their length irrelevant, but the longer they grow, the less a step turns them (Karras et al.
    2024, "Analyzing and improving the training dynamics of diffusion models", section 2.3).
    """
    for parameter in model.parameters():
        if parameter.ndim == 4 and parameter.requires_grad and len(parameter) != model.config.img_channels:
            parameter /= parameter.square().mean().sqrt()


def optimizers_of(model: Generator, lr: float) -> dict[str, torch.optim.Optimizer]:
    """Muon for the weights of affines and convolutions, Adam for the rest; only what requires a gradient."""
    split: dict[bool, list[nn.Parameter]] = {True: [], False: []}
    for name, parameter in model.named_parameters():
        if parameter.requires_grad:
            split[name.endswith("weight") and len(parameter) != model.config.img_channels].append(parameter)
    return {
        "matrices": Muon(split[True], lr),
        "rest": torch.optim.Adam(split[False], lr, betas=(0.9, 0.99), foreach=True),
    }


def distil(
    trainer: Trainer, name: str, model: StyleGAN2, average: StyleGAN2, face: FaceNet, seed: int, stage: Stage
) -> None:
    """One stage of distillation at the model's resolution; `average` follows the model."""
    model.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
    if stage.top:
        model.requires_grad_(False)
        model.synthesis.get_submodule(f"b{stage.resolution}").requires_grad_(True)
    model.mapping.requires_grad_(False)
    optimizers = optimizers_of(model, stage.first)
    sizes = [size for size in (32, 64, 128) if size <= stage.resolution]
    heads, layers = RegionHeads(map(model.config.channels, sizes)), [f"b{size}.conv1" for size in sizes]
    optimizers["heads"] = torch.optim.Adam(heads.parameters(), lr=3e-3)
    steps, half, share = trainer.steps(stage.steps), stage.batch // 2, trainer.share
    batches = Prefetch(
        lambda index: draw_pairs((11, seed, index), half, stage.resolution, share=share), trainer.to_device
    )
    ema = Average(model, average, 0.998)
    frechet = FrechetCurve(
        trainer, face, lambda number: draw_batch((12, 1, number), curve.BATCH, stage.resolution, mix=0.0).images
    )

    def generate_held_out(number: int) -> Tensor:
        z = torch.from_numpy(mixed_latents((12, 1, number), curve.BATCH, 0.0)[:, 0]).float()
        return average.synthesize(average.map(trainer.to_device(z)), noise="none")

    def step(index: int) -> dict[str, Tensor | float]:
        batch = batches(index)
        features: list[Tensor] = []
        taps = {layer: features.append for layer in layers}
        w = grouped_w(model, batch.z)
        images = model.synthesize(w, noise="none", taps=taps, dtype=trainer.dtype)
        losses: dict[str, Tensor | float] = {}
        losses["loss"] = total = image_loss(images, batch)
        if not stage.top:
            losses["regions"] = heads(features, batch.regions)
            total = total + 0.4 * losses["regions"]
        if stage.resolution == SIZE:
            losses["perceptual"] = perceptual_loss(trainer, face, images, batch)
            total = total + losses["perceptual"]
        losses["pairs"] = difference_loss(images, batch)
        trainer.descend(total + 0.4 * losses["pairs"], optimizers.values(), 1.0, model)
        normalize_weights(model)
        ema.update(index)
        losses["psnr"] = 10 * torch.log10(4 / (images.detach() - batch.images).square().mean())
        return losses | frechet(index, generate_held_out)

    trainer.fit(
        name,
        {"model": model, "average": average, "heads": heads},
        optimizers,
        step,
        steps,
        batch=half,
        schedule=lambda index: cosine(index, steps, floor=stage.last / stage.first),
        sample=lambda: samples(average),
    )


def finish(trainer: Trainer, model: StyleGAN2, average: StyleGAN2, face: FaceNet) -> None:
    """Adversarial finishing of the last two blocks, with style mixing; `average` follows the model.

    The losses of the distillation are added to the adversarial one and keep the content of the image. Mapping, affines
    and the blocks below are frozen, so codes and style vectors keep their meaning.
    """
    model.requires_grad_(False)
    for resolution in (CONFIG.resolution // 2, CONFIG.resolution):
        for name, parameter in model.synthesis.get_submodule(f"b{resolution}").named_parameters():
            if "affine" not in name and "noise" not in name:
                parameter.requires_grad_(True)
    share = trainer.share
    batches = Prefetch(
        lambda index: draw_batch((13, index), FINISH.batch, CONFIG.resolution, share=share), trainer.to_device
    )

    def make_batch(index: int, _: RandomState) -> GANBatch:
        batch = batches(index)

        def extra_losses(images: Tensor) -> dict[str, Tensor]:
            return {"image": image_loss(images, batch), "perceptual": perceptual_loss(trainer, face, images, batch)}

        return GANBatch(
            batch.images,
            lambda count: grouped_w(model, batch.z[: count // share[1]]),
            lambda w: model.synthesize(w, noise="none", dtype=trainer.dtype),
            extra_losses,
        )

    torch.manual_seed(9)
    discriminator = Discriminator(DiscriminatorConfig(CONFIG.resolution, channel_base=2048, channel_max=128))
    train_gan(trainer, "generator/finish", model, average, discriminator, FINISH, make_batch, lambda: samples(average))


def train(trainer: Trainer, face: FaceNet, start: StyleGAN2 | None = None) -> StyleGAN2:
    """Train the built-in generator; it takes the blocks of a trained one to `start` from, see `adopt`.

    Raises ValueError if that one has other blocks, or more latent numbers.
    """
    if start is not None and (start.config.z_dim > CONFIG.z_dim or replace(start.config, z_dim=CONFIG.z_dim) != CONFIG):
        raise ValueError("That generator is not one of the built-in family; start from another or from scratch.")
    trainer.freeze(face)
    torch.manual_seed(20)
    average = StyleGAN2(replace(CONFIG, resolution=STAGES[0].resolution))
    if start is not None and start.config.z_dim == CONFIG.z_dim:
        average.mapping.load_state_dict(start.mapping.state_dict())
    else:
        pretrain(trainer, "generator/0-mapping", average.mapping)
    trained: tuple[int, ...] = ()
    for number, stage in enumerate(STAGES, 1):
        config = replace(CONFIG, resolution=stage.resolution)
        torch.manual_seed(number)
        model = grow(average, config)
        if start is not None:
            adopt(model, start, [size for size in config.resolutions if size not in trained])
        trained = config.resolutions
        average = StyleGAN2(config)
        distil(trainer, f"generator/{number}-distil-{stage.resolution}", model, average, face, number, stage)
    assert average is not None
    model, finished = StyleGAN2(CONFIG), StyleGAN2(CONFIG)
    model.load_state_dict(average.state_dict())
    finish(trainer, model, finished, face)
    measure_mean_w(finished)
    return finished


@torch.no_grad()
def measure_mean_w(generator: Generator) -> None:
    """Set the mean of w to that of 8192 latents."""
    mean = generator.mapping.w_avg
    latents = torch.randn(8192, generator.config.z_dim, generator=torch.Generator().manual_seed(0))
    mean.copy_(generator.mapping(latents.to(mean.device)).mean(dim=0))


def samples(generator: StyleGAN2) -> np.ndarray:
    """Eight held-out portraits of the world above the generator's images of their latents: uint8 [H, W, 3]."""
    batch = draw_batch((12, 0), 8, generator.resolution)
    with torch.no_grad():
        images = generator.synthesize(grouped_w(generator, batch.z.to(generator.mean_w.device)), noise="none")
    return np.concatenate([side_by_side(list(pictures(row))) for row in (batch.images, images)])


def recipe(run: Run, *, data: str | None = None) -> list[Path]:
    """Train a StyleGAN2 generator: on the world, or adversarially on your images.

    Args:
        data: your images, which are learned adversarially; the world if not given.
    """
    run.claim("generator")
    path = run.first("generator")
    first = None if path is None else StyleGAN2.load(path)
    if data is None:
        return run.save({"generator": train(run.trainer, run.face_net(), first)})
    source = open_source(data, size=CONFIG.resolution)
    model = adversarial.train(run.trainer, source, CONFIG, first)
    return run.save({"generator": model}, f"pictures of {data}", None)
