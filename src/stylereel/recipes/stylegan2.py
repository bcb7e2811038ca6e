"""Recipe of the built-in generator: StyleGAN2 distilled from the world, then sharpened.

First the mapping network alone learns the factors (`mapping.pretrain`); from then on it is frozen.

Distillation. G(z) is regressed onto the world's image of the factors of z. Half of the batch mixes styles *with
truth*: pose, shape, expression and look are each taken from one of two latents, the rows of W+ that carry a group get
the w of its latent, and the target is the world's image of the mixed factors. So the rows of W+, and the S of their
layers, come to mean what coarse, middle and fine rows mean in a StyleGAN. Half of a batch are partners that differ in
expression or shape alone; a loss on the differences gives small movements a clear gradient. The resolution
grows: 32, 64, 128, then 256 px.

Sharpening (`sharpen`): the whole synthesis network goes on learning next to a discriminator of patches, and then the
blocks of 128 and 256 px alone, with less of the loss on single pixels, whose best answer to what it cannot tell is a
haze. What detail there is remains weaker than the world's: at the end the last block learns to show it stronger by a
linear filter (`emphasise`), which adds it nowhere else.

A generator that is there learns on in about half of that (`AGAIN`), and factors that are newer than it; codes made for
it before go on to mean what they meant.
"""

from __future__ import annotations

import zlib
from collections.abc import Iterable
from dataclasses import replace
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from stylereel.core.prefetch import Prefetch
from stylereel.core.render import pictures
from stylereel.family.nets import SIZE, FaceNet
from stylereel.family.people import Batch, draw_batch, draw_pairs, grouped_w, mixed_latents, num_factors
from stylereel.generator import StyleGAN2, StyleGAN2Config
from stylereel.generator.base import Generator
from stylereel.generator.ops import FullyConnected
from stylereel.media.sheet import side_by_side
from stylereel.recipes import curve
from stylereel.recipes.curve import FrechetCurve
from stylereel.recipes.losses import (
    COLOUR,
    RegionHeads,
    colour_loss,
    difference_loss,
    image_loss,
    normalize_weights,
    optimizers_of,
    perceptual_loss,
)
from stylereel.recipes.mapping import learn_newer, pretrain
from stylereel.recipes.run import Run, makes, shown
from stylereel.recipes.sharpen import SharpenConfig, emphasised, sharpen
from stylereel.train import adversarial
from stylereel.train.loop import Average, Trainer, cosine
from stylereel.train.sources import open_source
from stylereel.world.factors import LATENT_DIM, NAMES

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
# For a generator that is there: from its own blocks.
AGAIN = Stage(128, 1800, 16, 2e-3, 5e-5)
SHARPEN = SharpenConfig(1700, g_lr=1.5e-3, image=0.6, features=0.5, gan=0.05, power=0.4)
DETAIL = SharpenConfig(800, patch=96, g_lr=4e-3, image=0.3, features=1.0, gan=0.1, power=0.7, rim=6.0)
EMPHASIS = Stage(256, 700, 8, 6e-3, 6e-5, top=True)
GAIN = 1.26  # of the detail, which then has three fifths of the power of the world's
DETAILED = 2  # the last blocks alone learn from it; what others learned of those below stays true


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
        losses["colour"] = colour_loss(images, batch)
        trainer.descend(total + 0.4 * losses["pairs"] + COLOUR * losses["colour"], optimizers.values(), 1.0, model)
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


def finish(
    trainer: Trainer,
    start: StyleGAN2,
    face: FaceNet,
    config: SharpenConfig,
    stage: str,
    blocks: Iterable[int],
    seed: int = 0,
) -> StyleGAN2:
    """Sharpen the blocks of some resolutions (see `sharpen`)."""
    model, average = StyleGAN2(start.config), StyleGAN2(start.config)
    model.load_state_dict(start.state_dict())
    model.requires_grad_(False)
    for resolution in blocks:
        model.synthesis.get_submodule(f"b{resolution}").requires_grad_(True)
    batches = Prefetch(
        lambda index: draw_pairs((13, seed, index), config.pairs, model.resolution, trainer.share), trainer.to_device
    )

    def generate(index: int) -> tuple[Tensor, Batch]:
        batch = batches(index)
        return model.synthesize(grouped_w(model, batch.z), noise="none", dtype=trainer.dtype), batch

    torch.manual_seed(9)
    sharpen(trainer, stage, model, average, face, config, generate, lambda: samples(average))
    return average


def emphasise(trainer: Trainer, start: StyleGAN2, seed: int = 0) -> StyleGAN2:
    """The generator whose last block has learned to show the images of `start` with stronger detail."""
    size, batch, share = start.resolution, EMPHASIS.batch, trainer.share
    model, average = StyleGAN2(start.config), StyleGAN2(start.config)
    model.load_state_dict(start.state_dict())
    trainer.freeze(start, model)
    block = model.synthesis.get_submodule(f"b{size}")
    free = [p.requires_grad_() for name, p in block.named_parameters() if "affine" not in name]
    model.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
    optimizer = torch.optim.Adam(free, EMPHASIS.first, betas=(0.9, 0.99), foreach=True)
    ema, steps = Average(model, average, 0.99), trainer.steps(EMPHASIS.steps)

    def step(index: int) -> dict[str, Tensor]:
        z = torch.from_numpy(mixed_latents((16, seed, index, share[0]), batch, 0.5)).float()
        with torch.no_grad():
            w = grouped_w(start, trainer.to_device(z))
            shown = start.synthesize(w, noise="none")
            target = emphasised(shown, GAIN)
        images = model.synthesize(w, noise="none")
        loss = (images - target).square().mean()
        trainer.descend(loss, [optimizer])
        ema.update(index)
        return {"missing": loss.detach() / (shown - target).square().mean()}

    trainer.fit(
        "generator/7-emphasis",
        {"model": model, "average": average},
        {"model": optimizer},
        step,
        steps,
        batch=batch,
        schedule=lambda index: cosine(index, steps, floor=EMPHASIS.last / EMPHASIS.first),
        sample=lambda: samples(average),
    )
    return average


def train(trainer: Trainer, face: FaceNet, start: StyleGAN2 | None = None) -> StyleGAN2:
    """Train the built-in generator.

    With a generator of today's size to `start` from, only the stages from 128 px on run: it keeps its mapping network,
    so that codes keep their meaning, and where it is older than some factors learns these, see `learn_newer`. From
    one with fewer latent numbers the blocks are taken over, see `adopt`.

    Raises ValueError if that one has other blocks, or more latent numbers.
    """
    if start is not None and (start.config.z_dim > CONFIG.z_dim or replace(start.config, z_dim=CONFIG.z_dim) != CONFIG):
        raise ValueError("That generator is not one of the built-in family; start from another or from scratch.")
    trainer.freeze(face)
    torch.manual_seed(20)
    seed = 0 if start is None else _seed_of(start)
    if start is not None and start.config == CONFIG:
        whole = _distil_again(trainer, face, start)
    else:
        whole = _distil_all(trainer, face, start)
    sharp = finish(trainer, whole, face, SHARPEN, "generator/5-sharpen", CONFIG.resolutions, seed)
    detailed = finish(trainer, sharp, face, DETAIL, "generator/6-detail", CONFIG.resolutions[-DETAILED:], seed)
    finished = emphasise(trainer, detailed, seed)
    measure_mean_w(finished)
    return finished


def _distil_all(trainer: Trainer, face: FaceNet, start: StyleGAN2 | None) -> StyleGAN2:
    """The mapping network and the stages of distillation."""
    average = StyleGAN2(replace(CONFIG, resolution=STAGES[0].resolution))
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
    return average


def _seed_of(start: StyleGAN2) -> int:
    """A number of its own for each start, whose training so sees other people than the one before."""
    return zlib.crc32(start.state_dict()["synthesis.b4.const"].cpu().numpy().tobytes())


def _distil_again(trainer: Trainer, face: FaceNet, start: StyleGAN2) -> StyleGAN2:
    """The world once more by the blocks up to 128 px, after factors that are newer by the mapping network."""
    whole = StyleGAN2(CONFIG)
    whole.load_state_dict(start.state_dict())
    if num_factors(start) < len(NAMES):
        learn_newer(trainer, "generator/0-newer", whole.mapping, num_factors(start))
        adopt(whole, start, CONFIG.resolutions)
    torch.manual_seed(3)
    model = grow(whole, replace(CONFIG, resolution=AGAIN.resolution))
    average = StyleGAN2(model.config)
    distil(trainer, f"generator/3-distil-{AGAIN.resolution}", model, average, face, _seed_of(start), AGAIN)
    whole.load_state_dict(average.state_dict(), strict=False)
    return whole


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


@makes("generator", needs=("face",))
def recipe(run: Run, *, data: str | None = None) -> list[Path]:
    """Train a StyleGAN2 generator: on the world, or adversarially on your images.

    Args:
        data: your images, which are learned adversarially; the world if not given.
    """
    run.claim("generator")
    path = run.first("generator")
    first = None if path is None else StyleGAN2.load(path)
    if data is None:
        model = train(run.trainer, run.face_net(), first)
        return run.save({"generator": model}, facts={"factors": " ".join(NAMES)})
    source = open_source(data, size=CONFIG.resolution)
    model = adversarial.train(run.trainer, source, CONFIG, first)
    return run.save({"generator": model}, f"pictures of {shown(data)}", None)
