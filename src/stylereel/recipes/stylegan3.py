"""Recipe of the built-in alias-free generator: StyleGAN3-R distilled from the world, at any placement of its input.

z means the same people as for the StyleGAN2 of `recipes.stylegan2`, but roll, shift and scale are not z's: the aligned
head is drawn upright on a wider canvas, and one matrix both warps that image into the target and is the network's
input transform (Karras et al., "Alias-Free Generative Adversarial Networks", 2021, section 3.2). All layers see one w.

Configuration R sees one pixel at a time: a pixel's value follows from its place alone, which the input's waves encode,
through layers that only filter. From waves of up to 2 periods an image, as in the paper, detail must come out of
nonlinearity after nonlinearity, which is slow to learn. Here the waves go up to 8 periods.

Small images come first. A larger network begins with the first layers of the smaller one.
"""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from stylereel import world
from stylereel.core.prefetch import WHOLE, Prefetch, Share
from stylereel.core.render import pictures
from stylereel.family.nets import SIZE, FaceNet
from stylereel.family.people import GROUPS, Batch, draw_portraits, mixed_values, num_factors
from stylereel.generator import StyleGAN3, StyleGAN3Config, image_transform
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
from stylereel.recipes.mapping import pretrain
from stylereel.recipes.run import Run, makes
from stylereel.recipes.stylegan2 import measure_mean_w
from stylereel.train.loop import Average, Trainer, cosine
from stylereel.world.draw import EYE_LINE
from stylereel.world.factors import GROUP, INDEX, LATENT_DIM, NAMES

CONFIG = StyleGAN3Config(
    resolution=128,
    z_dim=LATENT_DIM,
    w_dim=256,
    channel_base=11585,  # 256 channels in the layers that a smaller network hands on
    channel_max=256,
    conv_kernel=1,
    use_radial_filters=True,
    mapping_layers=3,
    num_layers=8,  # half an octave of cutoff a layer, then the two critical ones
    first_cutoff=8.0,
    first_stopband=11.5,
    filter_size=4,
    margin_size=6,  # shorter filters reach less far than the official ones, which have 10
)


class Stage(NamedTuple):
    """Part of the training: learning rates go from `first` to `last`."""

    resolution: int
    steps: int
    batch: int
    first: float
    last: float
    margin: int = 2  # narrower than `CONFIG`'s, which would make a small image a third more expensive

    @property
    def config(self) -> StyleGAN3Config:
        """`CONFIG` in this stage's size."""
        layers = CONFIG.num_layers - (CONFIG.resolution // self.resolution).bit_length() + 1
        return replace(CONFIG, resolution=self.resolution, num_layers=layers, margin_size=self.margin)


STAGES = (Stage(32, 4000, 8, 2e-2, 1e-3), Stage(128, 1400, 8, 1e-2, 1e-4))
AGAIN = Stage(128, 1000, 8, 3e-3, 1e-4)  # for a generator that is there
CANVAS = 1.5  # image widths that are drawn, so that a turned and shifted image has no empty corner
ROLL, SHIFT = 20.0, 0.1  # largest placement in training: degrees, image widths


class Placed(NamedTuple):
    """Portraits and the matrices [B, 3, 3] that placed them; the batch's z are [B, 1, Z]."""

    batch: Batch
    transform: Tensor


def upright(values: np.ndarray) -> np.ndarray:
    """Factor values [B, K] of the same heads, aligned and without roll."""
    values = np.array(values, np.float32)
    values[:, INDEX["roll"]] = 0
    return world.align(values)


def draw_at(z: np.ndarray, transform: Tensor, size: int, known: int = len(NAMES)) -> Batch:
    """Upright portraits of latents z [B, Z], each moved by its matrix [B, 3, 3] as a whole, labels too.

    Factors after the first `known` are neutral.
    """
    values = upright(mixed_values(np.repeat(z[:, None], len(GROUPS), axis=1), known))
    wide = values.copy()
    wide[:, INDEX["scale"]] /= CANVAS
    wide[:, INDEX["shift_x"]] /= CANVAS
    wide[:, INDEX["shift_y"]] = (EYE_LINE + (CANVAS - 1) / 2 + values[:, INDEX["shift_y"]]) / CANVAS - EYE_LINE
    canvas = draw_portraits(z[:, None], wide, round(CANVAS * size))
    # grid_sample takes the place on the canvas of each pixel of the image, in half canvas widths.
    to_canvas = torch.linalg.inv(transform)[:, :2] * torch.tensor([1 / CANVAS, 1 / CANVAS, 2 / CANVAS])
    grid = F.affine_grid(to_canvas, [len(z), 3, size, size], align_corners=False)
    images = F.grid_sample(canvas.images, grid, "bicubic", "border", align_corners=False).clamp(-1, 1)
    regions = F.grid_sample(canvas.regions[:, None].float(), grid, "nearest", "border", align_corners=False)
    points = (canvas.landmarks - 0.5) * CANVAS
    points = points @ transform[:, :2, :2].mT + transform[:, None, :2, 2] + 0.5
    images = images.contiguous(memory_format=torch.channels_last)
    return Batch(canvas.z, torch.from_numpy(values), images, points, regions[:, 0].byte())


def latents_and_places(seed: tuple[int, ...], count: int) -> tuple[np.ndarray, Tensor]:
    """`count` latents and then `count` partners [2 B, Z], and the matrices [2 B, 3, 3] of where they are, in pairs.

    Partners differ in expression or (a third) in shape, as those of `family.people.draw_pairs`.
    """
    random = np.random.default_rng(seed)
    first, other = random.standard_normal((2, count, LATENT_DIM))
    group = np.where(random.random(count) < 2 / 3, "expression", "shape")
    group_of = np.array([GROUP[name] for name in NAMES] + [""] * (LATENT_DIM - len(NAMES)))
    second = np.where(group_of == group[:, None], other, first)
    draws = random.uniform(-1, 1, (count, 3)) * (ROLL, SHIFT, SHIFT)
    transform = torch.stack([image_transform(*draw) for draw in draws]).float()
    return np.concatenate([first, second]), transform.repeat(2, 1, 1)


def draw_placed(seed: tuple[int, ...], count: int, size: int, share: Share = WHOLE, known: int = len(NAMES)) -> Placed:
    """The portraits of `latents_and_places`; of a share (rank, ranks), those of every ranks-th pair from rank on."""
    z, transform = latents_and_places(seed, count)
    rank, ranks = share
    mine = np.arange(2 * count).reshape(2, count)[:, rank::ranks].ravel()
    return Placed(draw_at(z[mine], transform[mine], size, known), transform[mine])


def transfer(old: StyleGAN3, config: StyleGAN3Config) -> StyleGAN3:
    """A generator of another config with the weights, layer by layer, that fit both."""
    new = StyleGAN3(config)
    state, layers = new.state_dict(), {b.name: a.name for a, b in zip(old.style_layers, new.style_layers)}
    before = old.state_dict()
    for key, value in state.items():
        room, _, rest = key.partition(".")
        name, _, what = rest.partition(".")
        found = before.get(key if room == "mapping" else f"{room}.{layers.get(name)}.{what}")
        if found is not None and found.shape == value.shape:
            value.copy_(found)
    return new


def distil(
    trainer: Trainer,
    name: str,
    model: StyleGAN3,
    average: StyleGAN3,
    face: FaceNet,
    seed: int,
    stage: Stage,
    known: int,
) -> None:
    """One stage of regression onto the world's placed images; `average` follows the model."""
    model.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
    # The input's learned rotation and shift stay zero, so that the transform alone places the face.
    model.synthesis.get_submodule("input.affine").requires_grad_(False)
    model.mapping.requires_grad_(False)
    optimizers = optimizers_of(model, stage.first)
    # The region heads read the last two layers before the critical ones.
    tapped = [layer for layer in model.config.layers() if not layer.critical][-2:]
    heads = RegionHeads([layer.out_channels for layer in tapped], stage.margin)
    optimizers["heads"] = torch.optim.Adam(heads.parameters(), lr=3e-3)
    steps, half, size = trainer.steps(stage.steps), stage.batch // 2, model.resolution
    batches = _placed_batches(trainer, 40 + seed, half, size, known)
    ema = Average(model, average, 0.99)
    frechet = FrechetCurve(
        trainer, face, lambda number: draw_placed((32, 1, number), curve.BATCH // 2, size, WHOLE, known).batch.images
    )

    def generate_held_out(number: int) -> Tensor:
        z, transform = latents_and_places((32, 1, number), curve.BATCH // 2)
        z = trainer.to_device(torch.from_numpy(z).float())
        return average.synthesize(average.map(z), transform=trainer.to_device(transform))

    def step(index: int) -> dict[str, Tensor | float]:
        batch, transform = batches(index)
        w = model.map(batch.z[:, 0])
        features: list[Tensor] = []
        taps = {layer.name: features.append for layer in tapped}
        images = model.synthesize(w, transform=transform, dtype=trainer.dtype, magnitude_decay=0.99, taps=taps)
        losses: dict[str, Tensor | float] = {"loss": image_loss(images, batch)}
        losses["regions"] = heads(features, batch.regions)
        losses["pairs"] = difference_loss(images, batch)
        losses["colour"] = colour_loss(images, batch)
        total = losses["loss"] + 0.4 * losses["pairs"] + 0.4 * losses["regions"] + COLOUR * losses["colour"]
        if size == SIZE:
            losses["perceptual"] = perceptual_loss(trainer, face, images, batch)
            total = total + losses["perceptual"]
        trainer.descend(total, optimizers.values(), 1.0, model)
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


def _placed_batches(trainer: Trainer, seed: int, pairs: int, size: int, known: int) -> Prefetch[Placed]:
    return Prefetch(
        lambda index: draw_placed((seed, index), pairs, size, trainer.share, known),
        lambda placed: Placed(trainer.to_device(placed.batch), trainer.to_device(placed.transform)),
    )


def train(trainer: Trainer, face: FaceNet, start: StyleGAN3 | None = None) -> StyleGAN3:
    """Train the built-in StyleGAN3-R; with a trained one to `start` from, only the last stage runs (`AGAIN`).

    Raises ValueError if that one has another number of latent numbers.
    """
    if start is not None and start.config.z_dim != CONFIG.z_dim:
        raise ValueError(
            f"That generator has {start.config.z_dim} latent numbers, not {CONFIG.z_dim}; start from scratch."
        )
    trainer.freeze(face)
    average, known = start, len(NAMES) if start is None else num_factors(start)
    if average is None:
        torch.manual_seed(29)
        average = StyleGAN3(STAGES[0].config)
        pretrain(trainer, "generator3/mapping", average.mapping)
    for number, stage in enumerate(STAGES if start is None else [AGAIN], 0 if start is None else len(STAGES)):
        torch.manual_seed(30 + number)
        model = transfer(average, stage.config)
        average = StyleGAN3(stage.config)
        distil(trainer, f"generator3/{number}-distil-{stage.resolution}", model, average, face, number, stage, known)
    finished = transfer(average, CONFIG)
    measure_mean_w(finished)
    return finished


@torch.no_grad()
def samples(generator: StyleGAN3) -> np.ndarray:
    """Eight held-out placed portraits of the world above the generator's images of them: uint8 [H, W, 3]."""
    batch, transform = draw_placed((32, 0), 4, generator.resolution)
    device = generator.mean_w.device
    images = generator.synthesize(generator.map(batch.z[:, 0].to(device)), transform=transform.to(device))
    return np.concatenate([side_by_side(list(pictures(row))) for row in (batch.images, images)])


@makes("generator3", needs=("face",))
def recipe(run: Run) -> list[Path]:
    """Train a StyleGAN3-R generator of the world, whose heads shift and roll in the frame."""
    run.claim("generator3")
    path = run.first("generator3")
    first = None if path is None else StyleGAN3.load(path)
    known = len(NAMES) if first is None else num_factors(first)
    model = train(run.trainer, run.face_net(), first)
    return run.save({"generator3": model}, facts={"factors": " ".join(NAMES[:known])})
