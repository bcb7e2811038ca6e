"""Recipe of the net that reads a photograph's hair, glasses, beard, age and features: strongly spoiled portraits.

The world is drawn, photographs are not, so nothing about the world's own colours and textures may help: every region
is painted anew in colours of people (hair from black to white, or dyed), with other texture; frames are thinned and
made transparent; the backdrop is another; shapes are bent; light is hard; and the whole is blurred, made gray or
flat, and compressed. Whatever is rare in the world (hats, beards, glasses, each hair style) is drawn often. Each
portrait is used twice, spoiled differently.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from stylereel import world
from stylereel.core.prefetch import WHOLE, Prefetch, Share
from stylereel.faces import backend, mesh, placement
from stylereel.family.likeness import CUT, INPUT, KIND, WORN, LikenessNet
from stylereel.family.nets import PARSED, region_classes, unit_values
from stylereel.family.people import Batch, draw_portraits, mixed_latents, mixed_values
from stylereel.recipes.losses import means
from stylereel.recipes.perception import RandomState, disturb, hide, move
from stylereel.recipes.run import Run, makes
from stylereel.train.loop import Average, Trainer, cosine
from stylereel.train.optimizers import muon_and_adam
from stylereel.world import hair
from stylereel.world.factors import GROUP, INDEX, LATENT_DIM, NAMES
from stylereel.world.shading import REGIONS

STEPS, BATCH = 500, 32
SIZE = 256  # pixels of the portraits that other readers look at
# How often what is rare in the world is drawn.
_OFTEN = {"glasses": 0.45, "hat": 0.15, "beard": 0.3, "moustache": 0.3, "earring": 0.3, "glasses_tint": 0.12}
_VALUES = [INDEX[name] for name in NAMES if GROUP[name] in ("shape", "look")]
# Colours that region medians tell better count little.
_WEIGHT = torch.tensor([1.0 if GROUP[NAMES[index]] == "shape" else 0.2 for index in _VALUES])
_CLASS_WEIGHT = torch.tensor([0.3 if name in ("background", "clothes", "hair", "skin") else 1.0 for name in PARSED])
_CUT_MEAN, _CUT_SPREAD = (
    torch.tensor([0.12, 0.07, 0.08, 0.6, 0.1, 0.3, 0.1, 0.1, 0.3]),
    torch.tensor([0.1, 0.07, 0.13, 0.65, 0.13, 0.3, 0.3, 0.3, 0.35]),
)
# Hair of people as sRGB, 0..1: black, brown, chestnut, red, blond, light blond, gray, white.
_HAIR = torch.tensor(
    [
        *((0.06, 0.055, 0.06), (0.13, 0.10, 0.09), (0.27, 0.18, 0.13), (0.42, 0.27, 0.17), (0.48, 0.22, 0.11)),
        *((0.66, 0.50, 0.33), (0.85, 0.74, 0.55), (0.50, 0.49, 0.48), (0.86, 0.85, 0.84)),
    ]
)


def rare_things(index: int) -> tuple[np.ndarray, np.ndarray]:
    """Latents [B, 4, 80] and values [B, K] of half a batch of people, with every style and what is worn often."""
    random, count = np.random.default_rng((41, index)), BATCH // 2
    z = mixed_latents((42, index), count, 0.3)
    values = mixed_values(z)
    for name, often in _OFTEN.items():
        there = random.random(count) < often
        edge = WORN[name]
        low, high = random.uniform(0, 0.85 * edge, count), random.uniform(edge + 0.06, 1, count)
        if name in ("beard", "moustache"):
            low *= random.random(count) < 0.3  # mostly none at all
        values[:, INDEX[name]] = np.where(there, high, low)
    style = random.integers(0, len(hair.STYLES), count)
    edges = hair.STYLE_EDGES
    values[:, INDEX["hair_style"]] = edges[style] + random.random(count) * (edges[style + 1] - edges[style])
    values[:, INDEX["hair_length"]] = random.random(count)
    values[:, INDEX["fringe"]] = random.random(count) * (random.random(count) < 0.5)
    for name in ("blink_left", "blink_right"):
        values[:, INDEX[name]] *= 0.5
    return z, values


def portraits(index: int, share: Share = WHOLE) -> Batch:
    """Half a batch of aligned portraits."""
    z, values = rare_things(index)
    return draw_portraits(z, world.align(values), INPUT, share)


def targets(values: np.ndarray) -> tuple[Tensor, Tensor, Tensor]:
    """The style of the hair [B], what is worn [B, 6] (0 or 1), and the normalised cut [B, 9] of values [B, K]."""
    style = np.clip(np.searchsorted(hair.STYLE_EDGES, values[:, INDEX["hair_style"]]) - 1, 0, len(hair.STYLES) - 1)
    worn = np.stack([values[:, INDEX[name]] > edge for name, edge in WORN.items()], 1)
    cut = np.stack([hair.style(np.ascontiguousarray(row, np.float32)) for row in values])[:, list(CUT.values())]
    cut = (torch.from_numpy(cut) - _CUT_MEAN) / _CUT_SPREAD
    return torch.from_numpy(style), torch.from_numpy(worn).float(), cut.clamp(-3, 3)


def _picked(random: RandomState, colours: Tensor) -> Tensor:
    """Colours [B, 3, 1, 1] in 0..1 between two of a table [N, 3]."""
    first, second = ((len(colours) * random.uniform(0, 1).flatten()).long().clamp_max(len(colours) - 1) for _ in "ab")
    return torch.lerp(colours[first], colours[second], random.uniform(0, 1).flatten()[:, None])[..., None, None]


def _streaks(random: RandomState, size: int) -> Tensor:
    """Texture [B, 1, size, size] of about unit size: fine across, coarse along one of two ways."""
    fine = random.field(1, size // 2, size // 2)
    parts = [F.interpolate(F.avg_pool2d(fine, each), (size, size), mode="bilinear") for each in ((12, 1), (1, 12))]
    return 3 * torch.where(random.uniform(0, 3) < 2, *parts)


def _around(values: Tensor, width: int) -> Tensor:
    """Means [B, C, H, W] over about `width` pixels."""
    coarse = F.avg_pool2d(values, width, ceil_mode=True, count_include_pad=False)
    return F.interpolate(coarse, values.shape[-2:], mode="bilinear", align_corners=False)


class _Table:
    """Numbers for each region of each image, laid over the region maps [B, H, W]."""

    def __init__(self, regions: Tensor) -> None:
        self._index = regions.long()
        self._rows = torch.arange(len(regions), device=regions.device)[:, None, None]

    def spread(self, values: Tensor) -> Tensor:
        """Values [B, R, C] as images [B, C, H, W]."""
        return values[self._rows, self._index].permute(0, 3, 1, 2)


def _of(*names: str) -> list[int]:
    return [REGIONS.index(name) for name in names]


def repaint(images: Tensor, regions: Tensor, seed: tuple[int, ...], share: Share = WHOLE) -> Tensor:
    """Other colours and textures for each region of images [B, 3, H, W] in [-1, 1]; a tenth stays as it is."""
    random, size = RandomState(seed, images, share), images.shape[-1]
    light, table, count = (images + 1) / 2, _Table(regions), len(REGIONS)

    def rows(low: float, high: float, channels: int = 1) -> Tensor:
        return random.uniform(low, high, channels).flatten(1)[:, None]

    def flags(*names: str) -> Tensor:
        chosen = torch.zeros(len(images), count, 1, device=images.device)
        chosen[:, _of(*names)] = 1
        return chosen

    usual, _ = means(light, regions, count)
    # Thin, transparent frames: what is behind them is filled in from around, and shows through.
    frames = F.max_pool2d((regions == REGIONS.index("glasses"))[:, None].float(), 3, 1, 1)
    near = _around(torch.cat([light * (1 - frames), 1 - frames], 1), 12)
    filled = near[:, :3] / near[:, 3:].clamp_min(1e-2)
    metal = (random.uniform(0, 1) + 0.15 * random.uniform(-1, 1, 3)).clamp(0, 1)
    other = torch.where(random.uniform(0, 2) < 1, metal.expand_as(light), light)
    out = torch.lerp(light, torch.lerp(other, filled, random.uniform(-0.4, 0.75).clamp_min(0)), frames)

    # Hair, brows and hats, and clothes in new colours, with more or less of their own light and shade.
    natural = _picked(random, _HAIR).flatten(1) * torch.exp(rows(-0.2, 0.2) + 0.06 * rows(-1, 1, 3))[:, 0]
    second = torch.where(rows(0, 2)[:, 0] < 1, natural, _picked(random, _HAIR).flatten(1))
    paint, contrast = torch.zeros(len(images), count, 3).to(light), torch.zeros(len(images), count, 1).to(light)
    paint[:, _of("hair")] = torch.where(rows(0, 12) < 1, rows(0, 1, 3), natural[:, None])
    paint[:, _of("brow")] = torch.lerp(natural, second, 0.6)[:, None]
    paint[:, _of("hat")] = torch.where(rows(0, 3) < 1, natural[:, None], rows(0, 1, 3))
    paint[:, _of("clothes")] = rows(0, 1) + rows(-0.35, 0.35, 3)
    for name, low, high in (("hair", 0.1, 1.2), ("brow", 0.4, 1.0), ("hat", 0.2, 1.3), ("clothes", 0.1, 1.3)):
        contrast[:, _of(name)] = rows(low, high)
    painted = flags("hair", "brow", "hat", "clothes") * (random.uniform(0, 8, count).flatten(1)[..., None] < 7)
    bright = out.mean(1, keepdim=True) + 0.02
    tone = (bright / table.spread(usual.mean(2, keepdim=True).clamp_min(0.02) + 0.02)).clamp(0.1, 4)
    blotches = random.field(1, 6, size)
    rough = random.uniform(0, 0.35) * _streaks(random, size) + random.uniform(-0.5, 0.5) * blotches
    tone = torch.exp(table.spread(contrast) * tone.log() + rough)
    spread = table.spread(torch.cat([paint.clamp(0.02, 1), painted], 2))
    out = torch.lerp(out, spread[:, :3] * tone + random.uniform(0, 0.05), spread[:, 3:])
    # Stubble and beards: nearer to the skin or not.
    flesh = usual[:, _of("skin")[0], :, None, None]
    beard = (regions == REGIONS.index("beard"))[:, None].float()
    out = torch.lerp(out, torch.lerp(out, flesh, random.uniform(0, 0.5)), beard)

    # The light on each region, and a shadow with an edge across the head, as from a hard lamp: that is no beard.
    gain = torch.zeros(len(images), count, 3).to(light)
    for names, low, high, tint in (
        (("skin", "neck", "ear", "lips", "eye", "beard"), -0.7, 0.25, 0.16),
        (("lips",), -0.35, 0.2, 0.2),
        (("eye",), -0.6, 0.1, 0.15),
        (("mouth",), -2.2, 0.2, 0.2),
        (("neck",), -0.6, 0.1, 0.05),
        (("ear",), -0.3, 0.1, 0.05),
        (("beard",), -0.5, 0.2, 0.05),
    ):
        gain[:, _of(*names)] += rows(low, high) + rows(-tint, tint, 3)
    body, flesh = (
        flags("skin", "neck", "ear", "lips", "eye", "mouth", "beard", "brow", "hair"),
        flags("skin", "neck", "ear"),
    )
    spread = table.spread(torch.cat([gain, body, flesh], 2))
    angle, place = random.uniform(-3.2, 3.2), random.uniform(-0.3, 0.3)
    steps = (torch.arange(size, device=images.device) + 0.5) / size - 0.5
    across = steps * torch.cos(angle) + steps[:, None] * torch.sin(angle) + 0.08 * random.field(1, 4, size) - place
    shadow = torch.sigmoid(across * torch.exp(random.uniform(1.5, 4.0))) * random.uniform(-1.3, 0.9).clamp_max(0)
    # Blotches and pores of the skin; sockets in shadow, or made up.
    around = _around((regions == REGIONS.index("eye"))[:, None].float(), 16)
    marks = 0.1 * random.uniform(0, 1) * random.field(1, size // 3, size) + 0.2 * random.uniform(-1, 1) * blotches
    marks = marks + random.uniform(-1.6, 0.4).clamp_max(0) * around
    gains = F.avg_pool2d(spread[:, :3] + spread[:, 3:4] * shadow, 3, 1, 1, count_include_pad=False)
    out = out * torch.exp(gains + marks * spread[:, 4:])
    return torch.where(random.uniform(0, 10) < 1, light, out).clamp(0, 1) * 2 - 1


def surround(images: Tensor, regions: Tensor, seed: tuple[int, ...], share: Share = WHOLE) -> Tensor:
    """Another backdrop for four fifths of the images: plain, soft, striped, rough, or other people of the batch."""
    random, size = RandomState(seed, images, share), images.shape[-1]
    kind = random.uniform(0, 5)
    plain = random.uniform(-1.2, 1.2) + random.uniform(-0.3, 0.3, 3)
    room = 0.5 * random.field(3, 3, size) + 0.5 * random.field(1, 10, size) + 0.25 * random.field(1, 64, size)
    room = plain + room * random.uniform(0, 1.1)
    angle = random.uniform(-3.2, 3.2)
    steps = torch.arange(size, device=images.device) / size
    stripes = steps * torch.cos(angle) + steps[:, None] * torch.sin(angle)
    stripes = plain + random.uniform(-0.8, 0.8) * torch.sign(
        torch.sin(stripes * random.uniform(8, 60) + 0.4 * random.field(1, 4, size))
    )
    people = images.flip(0, 2) * torch.exp(0.3 * random.uniform(-1, 1, 3))
    other = torch.where(
        kind < 1, plain.expand_as(images), torch.where(kind < 3, room, torch.where(kind < 3.7, stripes, people))
    )
    behind = (regions == REGIONS.index("background"))[:, None].float()
    behind = F.avg_pool2d(behind, 3, 1, 1, count_include_pad=False) * (kind < 4.3)
    return torch.lerp(images, other.clamp(-1, 1), behind)


def bend(batch: Batch, seed: tuple[int, ...], share: Share = WHOLE) -> Batch:
    """Images and regions bent smoothly by some hundredths of their side: people differ more than the world's."""
    random, size = RandomState(seed, batch.images, share), batch.images.shape[-1]
    off = 0.035 * random.uniform(0, 1) * random.field(2, 4, size) + 0.008 * random.uniform(0, 1) * random.field(
        2, 14, size
    )
    place = (torch.arange(size, device=off.device) + 0.5) / size * 2 - 1
    grid = torch.stack(torch.meshgrid(place, place, indexing="xy"), -1) + off.permute(0, 2, 3, 1)
    images = F.grid_sample(batch.images, grid, padding_mode="border", align_corners=False)
    regions = F.grid_sample(batch.regions[:, None].float(), grid, "nearest", "border", align_corners=False)[:, 0]
    return batch._replace(images=images, regions=regions.to(torch.uint8))


def flatten(images: Tensor, seed: tuple[int, ...], share: Share = WHOLE) -> Tensor:
    """Some images as gray, some in few levels, some brushed over as paintings are."""
    random = RandomState(seed, images, share)
    out = torch.where(random.uniform(0, 7) < 1, images.mean(1, keepdim=True).expand_as(images), images)
    levels = torch.exp(random.uniform(1.2, 3.0))
    out = torch.where(random.uniform(0, 12) < 1, torch.round(out * levels) / levels, out)
    some = random.uniform(0, 8).flatten() < 1
    closed = -F.max_pool2d(-F.max_pool2d(out[some], 3, 1, 1), 3, 1, 1)
    out[some] = F.avg_pool2d(closed, 3, 1, 1, count_include_pad=False)
    return out


def spoil(batch: Batch, index: int, share: Share = WHOLE) -> tuple[Batch, Tensor]:
    """A batch as photographs might show it, and where patches hide it [B, 1, H, W]."""
    moved = move(bend(batch, (43, index), share), (44, index), share)
    images = repaint(moved.images, moved.regions, (45, index), share)
    images = surround(images, moved.regions, (46, index), share)
    images, hidden = hide(images, moved.regions, (47, index), share)
    images = flatten(disturb(images, (48, index), share, most=0.8), (49, index), share)
    return moved._replace(images=images), hidden


def train_likeness(trainer: Trainer, start: LikenessNet) -> LikenessNet:
    """Train the net, from one that has taken over the face net or is trained already."""
    torch.manual_seed(3)
    model, average = start, LikenessNet()
    average.load_state_dict(model.state_dict())
    optimizers = muon_and_adam(model, 7e-4)
    steps, share = trainer.steps(STEPS), trainer.share
    weight, class_weight = _WEIGHT.to(trainer.device), _CLASS_WEIGHT.to(trainer.device)
    batches = Prefetch(lambda index: portraits(index, share), trainer.to_device)
    ema = Average(model, average, 0.99)

    def step(index: int) -> dict[str, Tensor]:
        once = batches(index)
        batch, hidden = spoil(Batch(*(torch.cat([part, part]) for part in once)), index, share)
        style, worn, cut = (trainer.to_device(part) for part in targets(batch.values.cpu().numpy()))
        with trainer.autocast():
            seen = model(batch.images)
        values = ((seen.values.float() - unit_values(batch.values)[:, _VALUES]).square() * weight).mean()
        styles = F.cross_entropy(seen.styles.float(), style, label_smoothing=0.05)
        presence = F.binary_cross_entropy_with_logits(seen.worn.float(), worn)
        cuts = F.smooth_l1_loss(seen.cut.float(), cut, beta=0.5)
        classes = region_classes(batch.regions)
        hidden = F.interpolate(F.max_pool2d(hidden.float(), 3), classes.shape[-2:])[:, 0] > 0
        classes[hidden] = -100  # none
        regions = F.cross_entropy(seen.regions.float(), classes, class_weight)
        loss = values + 0.3 * styles + 1.5 * presence + 0.7 * cuts + regions
        trainer.descend(loss, optimizers.values(), 5.0, model)
        ema.update(index)
        hit = (seen.styles.argmax(1) == style).float().mean()
        right = ((seen.worn > 0) == (worn > 0)).float().mean(0)
        return {"values": values, "hit": hit, "cut": cuts, "regions": regions, "presence": presence} | {
            name: each for name, each in zip(("glasses", "hat", "beard", "moustache"), right)
        }

    trainer.fit(
        KIND,
        {"model": model, "average": average},
        optimizers,
        step,
        steps,
        batch=BATCH,
        schedule=lambda index: cosine(index, steps),
    )
    return average


def measure_offsets(net: LikenessNet) -> None:
    """How far readers' landmarks are from the world's, as medians over people who look nearly ahead, into the net.

    A reader that is not installed here leaves zeros.
    """
    if mesh.available():
        net.offsets[0] = torch.from_numpy(_offsets(mesh.MeshBackend(), 150))
    net.offsets[1] = torch.from_numpy(_offsets(backend.DlibBackend(), 80))


def _offsets(reader: backend.FaceBackend, people: int) -> np.ndarray:
    """Medians [68, 2] of a reader's landmarks less the exact ones, in sides of the reader's own crop."""
    random, found = np.random.default_rng(5), []
    for _ in range(people):
        values = world.from_latent(random.standard_normal(LATENT_DIM))
        for name, part in (("yaw", 0.3), ("pitch", 0.3), ("roll", 0.3), ("glasses", 0.0), ("hat", 0.0)):
            values[INDEX[name]] *= part
        values = world.align(values)
        try:
            marks = backend.find_face(world.draw(values, SIZE).image, reader)
        except ValueError:
            continue
        row = placement.align(marks)
        exact = placement.to_crop(world.project_landmarks(values)[0] * SIZE, row)
        found.append(placement.to_crop(marks, row) - exact)
    return np.median(found, axis=0)


@makes(KIND, needs=("face",), starts=False)
def recipe(run: Run) -> list[Path]:
    """Train the net that reads who is in a photograph; it starts from the face net."""
    run.only_from_scratch()
    run.claim(KIND)
    net = LikenessNet()
    net.start(run.face_net())
    net = train_likeness(run.trainer, net)
    if run.trainer.share[0] == 0:
        measure_offsets(net)
    return run.save({KIND: net})
