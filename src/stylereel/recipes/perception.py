"""Recipe of the built-in perception nets: landmarks, factors and regions by regression, identity by contrast.

The world's portraits at 128 px are all that they learn from, and photographs are what they must read. So half of the
images are augmented with the effects of cameras, lamps, rooms and files, and moved with their labels. They are not
mirrored: the world draws both sides equally often.

The mouth is learned afterwards, from close-ups whose lips, teeth and tongues are repainted: the world has one kind.
"""

from __future__ import annotations

import math
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from stylereel import world
from stylereel.core.prefetch import WHOLE, Prefetch, Share
from stylereel.family.nets import (
    LIPS_PART,
    LIPS_SIZE,
    MOUTH,
    PARSED,
    PARSED_SIZE,
    SIZE,
    FaceNet,
    IdentityNet,
    Lips,
    extend,
    load_face,
    offsets,
    region_classes,
    unit_values,
)
from stylereel.family.people import Batch, draw_portraits, mixed_latents, mixed_values
from stylereel.recipes.run import Run, load_identity, makes
from stylereel.train.loop import Average, Trainer, cosine
from stylereel.train.optimizers import muon_and_adam
from stylereel.world.draw import EYE_LINE, PIVOT, ZOOM
from stylereel.world.factors import EXPRESSION, GROUP, HIGH, INDEX, LATENT_DIM, LOW, MOTION_COLUMNS, NAMES
from stylereel.world.shading import REGIONS

FACE_STEPS, FACE_BATCH = 2400, 48
LIPS_STEPS, LIPS_BATCH = 2400, 48
IDENTITY_STEPS, IDENTITY_BATCH = 500, 40
# What a person can change without becoming another: clothes, make-up, backdrop, light do not belong to the embedding.
_WORN = ("clothes", "neckline", "hat", "accent", "earring", "glasses_tint", "makeup", "backdrop", "light")
CHANGING = [INDEX[name] for name in NAMES if GROUP[name] in ("pose", "expression") or name.startswith(_WORN)]
# Factors that matter for driving count more; colours cannot be read through coloured light and count less.
_WEIGHT = torch.tensor([{"pose": 3.0, "expression": 3.0, "shape": 1.0, "look": 0.5}[GROUP[name]] for name in NAMES])
# Large regions, of which a pixel more or less is nothing, count less.
_CLASS_WEIGHT = torch.tensor([0.3 if name in ("background", "clothes", "hair", "skin") else 1.0 for name in PARSED])
_CLOSER = 1.8  # a close-up shows a mouth so much larger than a portrait
_LIDS_AND_LIPS = torch.tensor([[61, 67], [62, 66], [63, 65], [37, 41], [38, 40], [43, 47], [44, 46]])


class RandomState:
    """Random numbers for each image of a batch of `count`, of which this process has a share."""

    def __init__(self, seed: tuple[int, ...], images: Tensor, share: Share = WHOLE) -> None:
        self._random, self._share, self._device = np.random.default_rng(seed), share, images.device
        self._count = len(images) * share[1]

    def _share_of(self, numbers: np.ndarray) -> Tensor:
        rank, ranks = self._share
        return torch.from_numpy(numbers[rank::ranks]).float().to(self._device)

    def uniform(self, low: float, high: float, channels: int = 1) -> Tensor:
        """[B, C, 1, 1] evenly between low and high."""
        return self._share_of(self._random.uniform(low, high, (self._count, channels, 1, 1)))

    def field(self, channels: int, cells: int, size: int) -> Tensor:
        """[B, C, size, size] normal numbers on a grid of cells, interpolated smoothly."""
        grid = self._share_of(self._random.standard_normal((self._count, channels, cells, cells), np.float32))
        return grid if cells == size else F.interpolate(grid, (size, size), mode="bicubic", align_corners=False)


def _cosines() -> Tensor:
    """The orthonormal cosine transform [8, 8] of JPEG."""
    k, x = torch.arange(8.0)[:, None], torch.arange(8.0)[None]
    rows = torch.cos(math.pi * (2 * x + 1) * k / 16) / 2
    rows[0] /= 2**0.5
    return rows


def _compress(images: Tensor, step: Tensor) -> Tensor:
    """Images [B, C, H, W] rounded in JPEG's blocks of 8 px to multiples of step [B, 1, 1, 1], coarser where fine."""
    batch, channels, height, width = images.shape
    transform = _cosines().to(images.device)
    blocks = images.reshape(batch, channels, height // 8, 8, width // 8, 8).transpose(3, 4)
    steps = step[..., None, None] * (1 + torch.arange(8.0)[:, None] + torch.arange(8.0)).to(images.device)
    rounded = torch.round(transform @ blocks @ transform.T / steps) * steps
    return (transform.T @ rounded @ transform).transpose(3, 4).reshape(images.shape)


def disturb(images: Tensor, seed: tuple[int, ...], share: Share = WHOLE, most: float = 0.4) -> Tensor:
    """Random light, colours, blur, noise and compression for each image of [B, 3, H, W], a share of a batch.

    Every image gets a random part of `most`, 0 to 1.
    """
    random, size = RandomState(seed, images, share), images.shape[-1]
    amount = most * random.uniform(0, 1)
    # Lamps and shadows, soft and less soft, and what colours them.
    shade = 0.45 * random.field(1, 3, size) + 0.2 * random.field(1, 9, size) + 0.12 * random.field(3, 4, size)
    out = ((images + 1) / 2).clamp_min(1e-4) * torch.exp(amount * shade)
    out = out ** torch.exp(amount * random.uniform(-0.6, 0.6)) * torch.exp(amount * random.uniform(-0.25, 0.25, 3))
    out = torch.lerp(out, out.mean(1, keepdim=True), amount * random.uniform(0, 1))
    out = 0.5 + (out - 0.5) * torch.exp(amount * random.uniform(-0.5, 0.5)) + amount * random.uniform(-0.15, 0.15)
    # The texture of skin and cloth, which the world hardly has.
    out = out + 0.05 * amount * random.uniform(0, 1) * random.field(1, size // 4, size)
    for factor, often in ((2, 0.2), (4, -0.4)):
        soft = F.interpolate(F.avg_pool2d(out, factor), scale_factor=float(factor), mode="bilinear")
        out = torch.lerp(out, soft, (2 * amount * random.uniform(often - 1, often + 1)).clamp(0, 1))
    out = out + 0.08 * amount * random.uniform(0, 1) * random.field(3, size, size)
    compressed = _compress(out, 1e-3 + 0.05 * amount * random.uniform(0, 1))
    return torch.where(random.uniform(-1, 1) < 0, compressed, out).clamp(0, 1) * 2 - 1


def _expressive(seed: tuple[int, ...], count: int) -> tuple[np.ndarray, np.ndarray]:
    """Latents [B, 4, 80] and values [B, K], half of them with an expression drawn evenly: wide mouths are rare else."""
    random = np.random.default_rng(seed)
    z = mixed_latents(seed, count, 0.5)
    values = mixed_values(z)
    columns = [INDEX[name] for name in EXPRESSION]
    evenly = random.uniform(LOW[columns], HIGH[columns], (count, len(columns)))
    half = random.random((count, 1)) < 0.5
    values[:, columns] = np.where(half, evenly, values[:, columns])
    return z, values


def portraits(index: int, share: Share = WHOLE) -> Batch:
    """Random portraits, not aligned."""
    return draw_portraits(*_expressive((21, index), FACE_BATCH), SIZE, share)


def repaint(images: Tensor, regions: Tensor, seed: tuple[int, ...], share: Share = WHOLE) -> Tensor:
    """Another brightness and tint for each region of two thirds of the images, so that shape counts, not colour.

    The inside of a mouth is mostly dark in photographs, and white with teeth in the world: it varies most.
    """
    random = RandomState(seed, images, share)
    count = len(REGIONS)
    tint = random.uniform(-0.5, 0.5, count)[..., 0] + random.uniform(-0.2, 0.2, 3 * count).view(-1, count, 3)
    tint[:, REGIONS.index("mouth")] += random.uniform(-2.2, 0.3)[:, 0, 0]
    rows = torch.arange(len(images), device=images.device)[:, None, None]
    gain = tint[rows, regions.long()].permute(0, 3, 1, 2)
    gain = F.avg_pool2d(gain, 3, 1, 1, count_include_pad=False) * (random.uniform(0, 3) < 2)
    return ((images + 1) * torch.exp(gain) - 1).clamp(-1, 1)


def hide(images: Tensor, regions: Tensor, seed: tuple[int, ...], share: Share = WHOLE) -> tuple[Tensor, Tensor]:
    """Other backdrops for half of the images [B, 3, H, W], and patches in front of a third of them.

    Also gives where the patches are, [B, 1, H, W] bool.
    """
    random, size = RandomState(seed, images, share), images.shape[-1]
    room = 0.3 * random.field(3, 3, size) + 0.4 * random.field(1, 8, size) + 0.3 * random.field(1, 40, size)
    room = (room * random.uniform(0.1, 1.2) + random.uniform(-0.8, 0.8) + random.uniform(-0.3, 0.3, 3)).clamp(-1, 1)
    behind = (regions == REGIONS.index("background"))[:, None] & (random.uniform(-1, 1) < 0)
    out = torch.where(behind, room, images)
    place = (torch.arange(size, device=images.device) + 0.5) / size
    x, y = random.uniform(0, 1), random.uniform(0, 1)
    wide, high = random.uniform(0.03, 0.15), random.uniform(0.03, 0.15)
    patch = ((place - x).abs() < wide) & ((place[:, None] - y).abs() < high) & (random.uniform(0, 3) < 1)
    paint = random.uniform(-1, 1, 3) + 0.3 * random.field(3, 12, size)
    return torch.where(patch, paint.clamp(-1, 1), out), patch


def _matrices(turn: Tensor, scale: Tensor, stretch: Tensor) -> Tensor:
    """Matrices [B, 2, 2] that turn (radians), scale and stretch places about the middle; all [B]."""
    cos, sin = scale * torch.cos(turn), scale * torch.sin(turn)
    rows = torch.stack([cos * stretch, -sin / stretch], 1), torch.stack([sin * stretch, cos / stretch], 1)
    return torch.stack(rows, 1)


def move(batch: Batch, seed: tuple[int, ...], share: Share = WHOLE) -> Batch:
    """Turn, scale and shift images, regions, landmarks and pose together; heads are also stretched a little.

    Beyond the edge the outermost pixels are repeated, as in a crop of a photograph.
    """
    random = RandomState(seed, batch.images, share)
    turn, scale = random.uniform(-0.15, 0.15).flatten(), torch.exp(random.uniform(-0.12, 0.12)).flatten()
    stretch = torch.exp(random.uniform(-0.06, 0.06)).flatten()
    shift = random.uniform(-0.05, 0.05, 2).flatten(1)
    # From images to moved images; the sampling grid needs the inverse.
    matrix = _matrices(turn, scale, stretch)
    inverse = torch.linalg.inv(matrix)
    affine = torch.cat([inverse, -2 * inverse @ shift[..., None]], dim=2)
    grid = F.affine_grid(affine, list(batch.images.shape), align_corners=False)
    images = F.grid_sample(batch.images, grid, padding_mode="border", align_corners=False)
    regions = F.grid_sample(batch.regions[:, None].float(), grid, "nearest", "border", align_corners=False)[:, 0]

    def move_points(points: Tensor) -> Tensor:
        return (points - 0.5) @ matrix.mT + 0.5 + shift[:, None]

    # The head turns about its pivot, which is below the place that the factors give.
    values = batch.values.clone()
    shifts = [INDEX["shift_x"], INDEX["shift_y"]]
    place = values[:, shifts] + torch.tensor([0.5, EYE_LINE]).to(values)
    down = torch.tensor([0.0, ZOOM * PIVOT[1]]).to(values)
    size = values[:, [INDEX["scale"]]]
    pivot = move_points((place + size * down)[:, None])[:, 0]
    values[:, INDEX["scale"]] *= scale
    values[:, INDEX["roll"]] += torch.rad2deg(turn)
    values[:, shifts] = pivot - size * scale[:, None] * down - torch.tensor([0.5, EYE_LINE]).to(values)
    return batch._replace(
        images=images, values=values, landmarks=move_points(batch.landmarks), regions=regions.to(torch.uint8)
    )


def train_face(trainer: Trainer, start: FaceNet | None = None) -> FaceNet:
    """Train landmarks, factors and regions, from scratch or from a trained net, also one with fewer outputs.

    The mouth network stays as it is; `train_lips` comes after.
    """
    torch.manual_seed(0)
    model, average = FaceNet(), FaceNet()
    if start is not None:
        model, new = extend(start)
        if new and trainer.share[0] == 0:
            print(f"new in the face net: {', '.join(new)}")
    optimizers = muon_and_adam(model, 1e-3)
    steps, share = trainer.steps(FACE_STEPS), trainer.share
    weight, class_weight = _WEIGHT.to(trainer.device), _CLASS_WEIGHT.to(trainer.device)
    batches = Prefetch(lambda index: portraits(index, share), trainer.to_device)
    ema = Average(model, average, 0.995)

    # Half of a batch is not augmented: the other recipes give this net images of the world and generated ones of it.
    unchanged = (torch.arange(FACE_BATCH)[share[0] :: share[1]] < FACE_BATCH // 2).to(trainer.device)

    def choose(original: Tensor, augmented: Tensor) -> Tensor:
        return torch.where(unchanged.view(-1, *[1] * (original.ndim - 1)), original, augmented)

    def step(index: int) -> dict[str, Tensor]:
        whole = batches(index)
        moved = move(whole, (23, index), share)
        images = repaint(moved.images, moved.regions, (25, index), share)
        images, hidden = hide(images, moved.regions, (24, index), share)
        images = choose(whole.images, disturb(images, (22, index), share, most=1.0))
        hidden = choose(torch.zeros_like(hidden), hidden)
        batch = Batch(*(choose(*parts) for parts in zip(whole, moved, strict=True)))
        with trainer.autocast():
            predicted = model(images, parse=True, close=False)
        errors = predicted.landmarks.float() - batch.landmarks
        gaps = errors[:, _LIDS_AND_LIPS[:, 0]] - errors[:, _LIDS_AND_LIPS[:, 1]]
        points = errors.abs().mean()
        values = ((predicted.values.float() - unit_values(batch.values)).square() * weight).mean()
        classes = region_classes(batch.regions)
        classes[F.max_pool2d(hidden.float(), SIZE // PARSED_SIZE)[:, 0] > 0] = -100  # none
        assert predicted.regions is not None
        regions = F.cross_entropy(predicted.regions.float(), classes, class_weight)
        trainer.descend(30 * points + 15 * gaps.abs().mean() + values + regions, optimizers.values(), 5.0, model)
        ema.update(index)
        motion = (predicted.motion.float() - unit_values(batch.values)[:, MOTION_COLUMNS]).abs().mean()
        return {"landmarks": points, "values": values, "motion": motion, "regions": regions}

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


def close_ups(index: int, share: Share = WHOLE) -> Batch:
    """Random portraits with the mouth in the middle, larger than in others; each twice, since drawing is slowest."""
    z, values = _expressive((26, index), LIPS_BATCH // 2)
    values[:, INDEX["scale"]] *= _CLOSER
    for each in values:
        each[[INDEX["shift_x"], INDEX["shift_y"]]] += 0.5 - world.project_landmarks(each)[0][MOUTH].mean(0)
    return Batch(*(torch.cat([part, part]) for part in draw_portraits(z, values, SIZE, share)))


def close_in(batch: Batch, seed: tuple[int, ...], share: Share = WHOLE) -> tuple[Tensor, Tensor, Tensor]:
    """Crops of close-ups, as `around_mouth` cuts them, but turned, scaled, shifted and bent, so that lips differ more.

    Gives images [B, 3, 64, 64], their regions [B, 64, 64] and the mouth's points [B, 20, 2] in -0.5..0.5.
    """
    random, size = RandomState(seed, batch.images, share), LIPS_SIZE
    turn, scale = random.uniform(-0.2, 0.2).flatten(), torch.exp(random.uniform(-0.2, 0.2)).flatten()
    matrix = _matrices(turn, scale / (_CLOSER * LIPS_PART), torch.exp(random.uniform(-0.15, 0.15)).flatten())
    shift = (random.uniform(-1, 1, 2) * random.uniform(0, 0.16)).flatten(1)
    # A place of the crop samples the place plus its bend.
    bend = 0.035 * random.uniform(0, 1) * random.field(2, 4, size)
    bend = bend + 0.012 * random.uniform(0, 1) * random.field(2, 9, size)
    place = torch.stack(torch.meshgrid(*[offsets(size, bend.device)] * 2, indexing="xy"))
    unbent = (place + bend).flatten(2).mT - shift[:, None]
    grid = 2 * (unbent @ torch.linalg.inv(matrix).mT).unflatten(1, (size, size))
    images = F.grid_sample(batch.images, grid, padding_mode="border", align_corners=False)
    regions = F.grid_sample(batch.regions[:, None].float(), grid, "nearest", "border", align_corners=False)[:, 0]
    target = (batch.landmarks[:, MOUTH] - 0.5) @ matrix.mT + shift[:, None]
    points = target
    for _ in range(4):  # the place that samples the target: a fixed point, as bends are small and smooth
        here = F.grid_sample(bend, 2 * points[:, None], padding_mode="border", align_corners=False)
        points = target - here[:, :, 0].mT
    return images, regions.to(torch.uint8), points


def _colour(images: Tensor, regions: Tensor, name: str) -> Tensor:
    """The mean light [B, 3, 1, 1], 0..2, of a region."""
    there = (regions == REGIONS.index(name))[:, None].float()
    return ((images + 1) * there).sum((2, 3), keepdim=True) / there.sum((2, 3), keepdim=True).clamp_min(1)


def paint_lips(images: Tensor, regions: Tensor, points: Tensor, seed: tuple[int, ...], share: Share = WHOLE) -> Tensor:
    """Other colours for the regions of four fifths of the crops [B, 3, 64, 64], above all for the lips.

    Their colour comes near that of the skin, the upper one is in shadow, and both shine in bands.
    """
    random, size, lips = RandomState(seed, images, share), images.shape[-1], REGIONS.index("lips")
    tint = random.uniform(-0.4, 0.4, len(REGIONS)).flatten(1)[..., None]
    tint = tint + random.uniform(-0.15, 0.15, 3 * len(REGIONS)).view(len(images), -1, 3)
    skin, lip = (_colour(images, regions, name) + 0.05 for name in ("skin", "lips"))
    like_skin = tint[:, REGIONS.index("skin")] + torch.log(skin / lip).flatten(1)
    tint[:, lips] = 0.3 * tint[:, lips] + like_skin * random.uniform(0, 1).flatten(1)
    rows = torch.arange(len(images), device=images.device)[:, None, None]
    gain = tint[rows, regions.long()].permute(0, 3, 1, 2)
    # The line between the lips is a parabola through the corners and the middle of the inner lips.
    ends = torch.stack([points[:, 12], points[:, [14, 18]].mean(1), points[:, 16]], 1)
    place, line = offsets(size, images.device), 0
    for i, j, k in ((0, 1, 2), (1, 2, 0), (2, 0, 1)):
        (xi, y), xj, xk = ends[:, i, :, None].unbind(1), ends[:, j, :1], ends[:, k, :1]
        line = line + y * (place - xj) * (place - xk) / ((xi - xj) * (xi - xk))
    height = size * (line[:, None, None] - place[:, None])  # pixels above it, [B, 1, H, W]
    shade = -1.3 * random.uniform(-0.2, 1).square() * torch.tanh(height / 2).clamp_min(0)
    for _ in range(2):
        band = (height + random.uniform(-8, 12)) / random.uniform(0.7, 3)
        shade = shade + random.uniform(-0.4, 0.9) * torch.exp(-band.square())
    gain = gain + shade * (regions == lips)[:, None]
    gain = F.avg_pool2d(gain, 3, 1, 1, count_include_pad=False) * (random.uniform(0, 5) < 4)
    return ((images + 1) * torch.exp(gain) - 1).clamp(-1, 1)


def fill_mouths(images: Tensor, regions: Tensor, seed: tuple[int, ...], share: Share = WHOLE) -> Tensor:
    """Other darkness, tongues and teeth in four fifths of the open mouths of crops [B, 3, 64, 64].

    In the world teeth always hang from the upper lip. Here either row shows, or both or none, and the tongue has
    nearly the colour of the lips.
    """
    random, size = RandomState(seed, images, share), images.shape[-1]
    mouth = (regions == REGIONS.index("mouth"))[:, None].float()
    down = mouth.cumsum(2) * mouth  # pixels below the upper lip, and above the lower one
    up = mouth.flip(2).cumsum(2).flip(2) * mouth
    skin, lip = (_colour(images, regions, name) for name in ("skin", "lips"))
    red = torch.tensor([0.15, -0.1, -0.05], device=images.device).view(1, 3, 1, 1)
    paint = torch.lerp(skin, lip, random.uniform(0, 1)) * torch.exp(random.uniform(-4, -0.4) + red)
    tongue = lip * torch.exp(random.uniform(-1.2, 0.3) + 0.1 * random.uniform(-1, 1, 3))
    edge = down / (down + up).clamp_min(1) - random.uniform(0, 1.6)
    edge = 4 * edge + random.uniform(0, 1) * random.field(1, 4, size)
    paint = torch.lerp(paint, tongue, (edge + 0.5).clamp(0, 1))
    teeth = skin * torch.exp(random.uniform(-0.8, 0.5))
    teeth = torch.lerp(teeth, random.uniform(0.5, 1.9).expand_as(teeth), random.uniform(0, 1))
    teeth = teeth * torch.exp(0.08 * random.uniform(-1, 1, 3) + 0.12 * random.field(1, size // 2, size))
    paint = torch.lerp(paint, teeth, (random.uniform(-6, 9) - down + 0.5).clamp(0, 1))
    lower = teeth * torch.exp(random.uniform(-0.5, 0))
    paint = torch.lerp(paint, lower, (random.uniform(-10, 6) - up + 0.5).clamp(0, 1))
    paint = (paint * (1 - random.uniform(0, 0.7) * torch.exp(-down / 4)) - 1).clamp(-1, 1)  # the upper lip's shadow
    soft = F.avg_pool2d(mouth, 3, 1, 1)
    paint = F.avg_pool2d(paint * mouth, 3, 1, 1) / soft.clamp_min(1e-3)
    return torch.lerp(images, paint, soft * (random.uniform(0, 5) < 4))


def train_lips(trainer: Trainer, face: FaceNet) -> FaceNet:
    """Train the mouth network of a face net of which all else is frozen."""
    torch.manual_seed(2)
    assert face.lips
    model, average = Lips(), face.lips
    model.load_state_dict(average.state_dict())
    optimizers = muon_and_adam(model, 1e-3)
    steps, share = trainer.steps(LIPS_STEPS), trainer.share
    batches = Prefetch(lambda index: close_ups(index, share), trainer.to_device)
    ema = Average(model, average, 0.995)
    gap = (_LIDS_AND_LIPS[:3] - MOUTH.start).T

    def step(index: int) -> dict[str, Tensor]:
        images, regions, points = close_in(batches(index), (27, index), share)
        images = paint_lips(images, regions, points, (28, index), share)
        images = fill_mouths(images, regions, (29, index), share)
        with trainer.autocast():
            predicted = model(disturb(images, (30, index), share, most=0.7))
        errors = predicted.float() - points
        distance, gaps = errors.abs().mean(), (errors[:, gap[0]] - errors[:, gap[1]]).abs().mean()
        trainer.descend(30 * distance + 15 * gaps, optimizers.values(), 5.0, model)
        ema.update(index)
        return {"points": distance, "gaps": gaps}

    trainer.fit(
        "lips",
        {"model": model, "average": average},
        optimizers,
        step,
        steps,
        batch=LIPS_BATCH,
        schedule=lambda index: cosine(index, steps),
    )
    return face


def pairs(index: int, share: Share = WHOLE) -> Batch:
    """Two portraits each of several people: [2 N, ...], the second half has the people of the first half."""
    random = np.random.default_rng((31, index))
    z = np.repeat(random.standard_normal((IDENTITY_BATCH, 1, LATENT_DIM)), 4, axis=1)
    first = mixed_values(z)
    second = first.copy()
    changed = mixed_values(np.repeat(random.standard_normal((IDENTITY_BATCH, 1, LATENT_DIM)), 4, axis=1))
    second[:, CHANGING] = changed[:, CHANGING]
    return draw_portraits(np.concatenate([z, z]), np.concatenate([first, second]), SIZE, share)


def train_identity(trainer: Trainer, trunk: FaceNet, start: IdentityNet | None = None) -> IdentityNet:
    """Train the identity embedding, from the trunk of the trained face net or from a trained embedding."""
    torch.manual_seed(1)
    model, average = start or IdentityNet(), IdentityNet()
    if start is None:
        model.trunk.load_state_dict(trunk.trunk.state_dict())
    optimizers = muon_and_adam(model, 5e-4)
    steps, share = trainer.steps(IDENTITY_STEPS), trainer.share
    batches = Prefetch(lambda index: pairs(index, share), trainer.to_device)
    ema = Average(model, average, 0.99)

    def step(index: int) -> dict[str, Tensor]:
        batch = batches(index)
        with trainer.autocast():
            embedding = model(disturb(batch.images, (32, index), share))
        first, second = embedding.float().chunk(2)
        likeness = first @ second.T
        target = torch.arange(len(first), device=first.device)
        loss = 0.5 * (F.cross_entropy(12 * likeness, target) + F.cross_entropy(12 * likeness.T, target))
        trainer.descend(loss, optimizers.values(), 5.0, model)
        ema.update(index)
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


@makes("face", "identity")
def recipe(run: Run) -> list[Path]:
    """Train the nets that read faces: landmarks, factors and regions, and identity."""
    run.claim("face", "identity")
    path = run.first("face")
    face = train_face(run.trainer, None if path is None else load_face(path))
    face = train_lips(run.trainer, face)
    path = run.first("identity")
    identity = train_identity(run.trainer, face, None if path is None else load_identity(path))
    return run.save({"face": face, "identity": identity})
