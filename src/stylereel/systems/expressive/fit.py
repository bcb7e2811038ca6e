"""The facial code and the pose of a clip by optimisation, against the images that they are to show.

As published, by the targets' reconstruction rather than photographs. Pose comes first, by the squared error and the
perceptual distance of the head, with eyes, mouth and brows cut out of the error; then the 32 numbers, all regions at
once:

    L = sum over mouth, eyes and brows (perceptual + squared error + change) + pupils (squared error + change)

where `change` compares what changes from the frame before, and from the first frame, with what changes in the target.
A channel's step is exp(-1.5 Gamma(f, i) / max Gamma(f)) of the learning rate; channels of the pupils stand still in
frames with a blink.

Different from the paper: all frames of a clip are optimised at once (their order matters only through the change terms
and the start); the start is the amortised code, or, in the paper's way, what every `EVERY`th frame found from nothing;
a small pull keeps the code near its start (PULL), because 32 channels can show the same image in more than one way. The
face net's features stand in for LPIPS where its files are missing; the paper's losses of identity and parsing, whose
weights it does not give, are left out: the base holds the identity.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple, Protocol

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from stylereel.core.render import pictures
from stylereel.family.nets import SIZE, FaceNet
from stylereel.family.people import codes_of
from stylereel.generator import StyleGAN2, StyleGAN3
from stylereel.invert.networks import encoded
from stylereel.invert.optimise import Fit, optimise
from stylereel.invert.perceptual import Perceptual
from stylereel.invert.pti import tune
from stylereel.metrics.features import to_unit
from stylereel.metrics.likeness import builtin_embeddings, cosine
from stylereel.systems.expressive import search
from stylereel.systems.expressive.channels import POSE, Channels
from stylereel.systems.expressive.pose import Turn, clip_angles
from stylereel.world.factors import HIGH, LOW

STEPS, LR = 40, 0.03  # of Adam, in ranges of the channels
POSE_STEPS, POSE_LR = 40, 0.8  # in degrees
PULL = 1e-3
EVERY = 4
BATCH = 8
PASSES, PERSON_STEPS = 5, 45  # of the encoder, as ReStyle's; of optimisation of a person's code after it
CLOSED = 0.5  # of an eye's usual opening, below which it blinks
_EYES = ((37, 41, 36, 39), (38, 40, 36, 39), (43, 47, 42, 45), (44, 46, 42, 45))


class Shows(Protocol):
    """What of a system an optimisation needs."""

    generator: StyleGAN2
    channels: Channels
    face: FaceNet

    def base(self, w: Tensor, angles: Tensor) -> Tensor: ...


class Found(NamedTuple):
    """values [T, C], the first loss and the last [T]."""

    values: Tensor
    before: Tensor
    after: Tensor


def blinks(points: Tensor) -> Tensor:
    """Frames [T] in which an eye is closed, by 68 points [T, 68, 2]: less open than `CLOSED` of the clip's usual."""
    open_ = torch.stack([(points[:, a] - points[:, b]).norm(dim=1) / (points[:, c] - points[:, d]).norm(dim=1)
                         for a, b, c, d in _EYES], 1).mean(1)  # fmt: skip
    return open_ < CLOSED * open_.quantile(0.75)


def rates(sensitivity: Tensor) -> Tensor:
    """Factor [C] on each channel's learning rate, by its own region of a table [4, C] whose rows are at most 1."""
    return torch.exp(-1.5 * sensitivity.amax(0))


def refine(
    generator: StyleGAN2,
    channels: Channels,
    base: Callable[[slice], Tensor],
    images: Tensor,
    points: Tensor,
    start: Tensor,
    perceptual: Perceptual,
    steps: int = STEPS,
) -> Found:
    """The 32 numbers [T, 32] of the frames of a clip, from `start` [T, 32] on.

    Each frame ends with the numbers of its lowest loss.
    base: S [B, N] of a slice of frames without expression; images: [T, 3, 128, 128] in [-1, 1], the targets; points:
    their landmarks [T, 68, 2] in 0..1.
    """
    areas = search.masks(points, search.SIZE)
    frozen = torch.ones_like(start)
    pupils = torch.tensor([name.startswith("pupils") for name in channels.names], device=start.device)
    frozen[blinks(points)[:, None] & pupils] = 0
    step = rates(channels.sensitivity) * (channels.high - channels.low).clamp_min(0.02) * frozen
    code = start.clone()
    best, least = start.clone(), torch.full((len(start),), float("inf"), device=start.device)
    first = torch.zeros_like(least)
    momentum, squares = torch.zeros_like(start), torch.zeros_like(start)
    with torch.no_grad():
        parts = [slice(begin, begin + BATCH) for begin in range(0, len(code), BATCH)]
        shown = torch.cat([search.paint(generator, channels.apply_to(base(part), code[part])) for part in parts])
    for index in range(steps + 1):
        losses, slopes = torch.zeros_like(least), torch.zeros_like(code)
        for part in parts:
            leaf = code[part].clone().requires_grad_()
            made = search.paint(generator, channels.apply_to(base(part), leaf))
            loss = _loss(made, images, areas, shown, part.start, perceptual)
            loss = loss + PULL * (leaf - start[part]).square().sum(1)
            (slopes[part],) = torch.autograd.grad(loss.sum(), leaf)
            losses[part] = loss.detach()
            shown[part] = made.detach()
        if index == 0:
            first = losses.clone()
        better = losses < least
        least[better], best[better] = losses[better], code[better]
        momentum = 0.9 * momentum + 0.1 * slopes
        squares = 0.95 * squares + 0.05 * slopes.square()
        unit = momentum / (1 - 0.9 ** (index + 1)) / ((squares / (1 - 0.95 ** (index + 1))).sqrt() + 1e-8)
        code = code - LR * (0.5 + 0.5 * np.cos(np.pi * index / (steps + 1))) * step * unit
    return Found(best, first, least)


def _loss(made: Tensor, images: Tensor, areas: Tensor, shown: Tensor, begin: int, perceptual: Perceptual) -> Tensor:
    """The loss [B] of rendered frames from `begin` on; `shown` is what all frames last looked like."""
    target, area = images[begin : begin + len(made)], areas[begin : begin + len(made)]
    size = area.sum((2, 3)).clamp_min(1.0)  # [B, 4]

    def within(error: Tensor, region: int) -> Tensor:
        return (error.mean(1) * area[:, region]).sum((1, 2)) / size[:, region]

    error = (made - target).square()
    total = sum((within(error, region) for region in (0, 1, 2, 3)), torch.zeros(len(made), device=made.device))
    for (one, weights), (other, _) in zip(perceptual.maps(made), perceptual.maps(target), strict=True):
        apart = (F.normalize(one, dim=1, eps=1e-10) - F.normalize(other, dim=1, eps=1e-10)).square() * weights
        small = F.adaptive_avg_pool2d(area[:, :3], apart.shape[-1])
        total = total + torch.einsum("bchw,brhw->br", apart, small).div(small.sum((2, 3)).clamp_min(1e-3)).sum(1)
    places = torch.arange(begin, begin + len(made), device=made.device)
    for others in (places.sub(1).clamp_min(0), torch.zeros_like(places)):
        change = (made - shown[others]) - (target - images[others])
        total = total + sum(within(change.square(), region) for region in (0, 1, 2, 3))
    return total


@torch.no_grad()
def best_of(generator: StyleGAN2, w: Tensor, crops: np.ndarray) -> int:
    """Which of codes w [N, L, D] shows its own crop uint8 [N, H, W, 3] most as the same person: the identity frame."""
    shown = np.concatenate([pictures(generator.synthesize(part)) for part in w.split(BATCH)])
    return int(cosine(builtin_embeddings(shown), builtin_embeddings(crops)).argmax())


@torch.no_grad()
def looped(generator: StyleGAN2, encode: nn.Module | None, w: Tensor, crop: np.ndarray) -> Tensor:
    """The code [L, D] of a portrait uint8 [H, W, 3] by its encoder in a loop through the generator, from the encoder's
    w [L, D] on: what the encoder gives for the portrait and not for its reconstruction is added, `PASSES` times in all,
    and the code with the smallest squared error is kept.

    It stands for ReStyle (Alaluf et al. 2021), whose encoder is trained for that loop, as one pass stands for e4e.
    """
    best = now = first = w[None]
    least, target = float("inf"), to_unit(crop[None]).to(w.device)
    for _ in range(PASSES):
        shown = generator.synthesize(now).clamp(-1, 1)
        error = float((shown - target).square().mean())
        if error < least:
            best, least = now, error
        now = now + first - encoded(encode, pictures(shown)).to(now)
    return best[0]


@torch.no_grad()
def read(generator: StyleGAN2, face: FaceNet, crop: np.ndarray) -> Tensor:
    """The code [L, D] of the person whose factors the face net sees in a drawn portrait uint8 [H, W, 3]."""
    image = F.adaptive_avg_pool2d(to_unit(crop[None]), SIZE).to(generator.mean_w.device)
    unit = face(image).values.clamp(-1, 1).double().cpu().numpy()
    return codes_of(generator, (LOW + HIGH) / 2 + unit * (HIGH - LOW) / 2)[0]


def person(generator: StyleGAN2, encode: nn.Module | None, face: FaceNet, w: Tensor, crop: np.ndarray) -> Tensor:
    """The code [L, D] of a portrait uint8 [H, W, 3] from the encoder's w [L, D] on: by the encoder in a loop, then by
    `PERSON_STEPS` of optimisation in W+, which find what the encoder hardly ever saw, such as the colour of a hat.

    It begins half of the way to what the face net reads. That is further off, but knows of each factor by itself, where
    the encoder takes one that is rare beside others, gray hair under a yellow hat, for a usual one.
    """
    found = (looped(generator, encode, w, crop) + read(generator, face, crop)) / 2
    with torch.inference_mode(False), torch.enable_grad():  # a caller may need no gradients
        start, target = found[None].clone(), to_unit(crop[None]).to(found.device)
        return optimise(generator, target, start, Perceptual.best(found.device), "w+", PERSON_STEPS).w[0]


def clip_code(
    system: Shows, identity: Tensor, w: Tensor, numbers: Tensor, perceptual: Perceptual, steps: int
) -> Tensor:
    """The 32 numbers [T, 32] of a clip whose frames the encoder gave codes w [T, L, D], by `refine` from numbers
    [T, 35] on; identity: code [L, D] of the frame that says who it is."""
    with torch.no_grad():
        space, parts = system.generator.style_space, range(0, len(w), BATCH)
        flat = [space.flatten(system.generator.styles(w[at : at + BATCH])) for at in parts]
        images = torch.cat([search.paint(system.generator, part) for part in flat])
        points = torch.cat([system.face(part).landmarks for part in images.split(BATCH)])
        base = torch.cat([system.base(identity[None], part) for part in numbers[:, : len(POSE)].split(BATCH)])
    start = numbers[:, len(POSE) :]
    return refine(
        system.generator, system.channels, lambda part: base[part], images, points, start, perceptual, steps
    ).values


class _ByStyles(Fit):
    """Frames given by S [T, 1, N] instead of W+."""

    def __getitem__(self, frames: Any) -> Fit:
        return _ByStyles(self.w[frames])

    def render(self, generator: StyleGAN2 | StyleGAN3) -> Tensor:
        return generator.synthesize(s=generator.style_space.unflatten(self.w[:, 0]))


def tune_to(generator: StyleGAN2, flat: Tensor, images: np.ndarray, passes: int) -> dict[str, Tensor]:
    """Pivotal tuning: the change of the generator with which S [T, N] show the frames uint8 [T, H, W, 3] of a clip."""
    return tune(generator, _ByStyles(flat[:, None]), to_unit(images), Perceptual.best(), passes, locality=0.0)


def by_key_frames(frames: int, solve: Callable[[list[int], Tensor], Tensor], width: int) -> Tensor:
    """Numbers [T, width] in the paper's order: every `EVERY`th frame from nothing, the others from between these."""
    keys = sorted({*range(0, frames, EVERY), frames - 1})
    found = solve(keys, torch.zeros(len(keys), width))
    place = np.arange(frames)
    between = np.stack([np.interp(place, keys, column) for column in found.cpu().numpy().T], 1)
    return torch.from_numpy(between).float().to(found)


def search_angles(
    generator: StyleGAN2,
    turn: Turn,
    w: Tensor,
    own: Tensor,
    images: Tensor,
    points: Tensor,
    perceptual: Perceptual,
    start: Tensor,
    steps: int = POSE_STEPS,
) -> Found:
    """The angles [T, 3] in degrees by which a way to turn shows the heads of images, from `start` [T, 3] on.

    w: [1, L, D] and own: [1, 3], the identity's code and angles. The mapping network has no gradient here: each
    angle is differentiated by two renderings, half a degree to each side.
    """
    areas = search.masks(points, search.SIZE)
    whole = search.masks_of_head(points, search.SIZE)
    inner = (whole - areas[:, :3].amax(1, keepdim=True)).clamp_min(0)

    @torch.inference_mode()
    def losses(angles: Tensor) -> Tensor:
        parts = []
        for begin in range(0, len(angles), BATCH):
            part = slice(begin, begin + BATCH)
            codes = turn(w, own.expand(len(angles[part]), -1), angles[part])
            made = search.paint(generator, generator.style_space.flatten(generator.styles(codes)))
            target = images[part]
            loss = ((made - target).square().mean(1, keepdim=True) * inner[part]).sum((1, 2, 3)) / inner[part].sum(
                (1, 2, 3)
            )
            for (one, weights), (other, _) in zip(perceptual.maps(made), perceptual.maps(target), strict=True):
                apart = (F.normalize(one, dim=1) - F.normalize(other, dim=1)).square() * weights
                small = F.adaptive_avg_pool2d(whole[part], apart.shape[-1])
                loss = loss + (apart.sum(1, keepdim=True) * small).sum((1, 2, 3)) / small.sum((1, 2, 3))
            parts.append(loss)
        return torch.cat(parts)

    angles, best = clip_angles(start.clone()), start.clone()
    first = least = losses(angles)
    momentum, squares, nudge = torch.zeros_like(angles), torch.zeros_like(angles), 0.5
    for index in range(steps):
        slope = torch.zeros_like(angles)
        for axis in range(len(POSE)):
            aside = torch.zeros_like(angles)
            aside[:, axis] = nudge
            slope[:, axis] = (losses(angles + aside) - losses(angles - aside)) / (2 * nudge)
        momentum, squares = 0.8 * momentum + 0.2 * slope, 0.9 * squares + 0.1 * slope.square()
        unit = momentum / (1 - 0.8 ** (index + 1)) / ((squares / (1 - 0.9 ** (index + 1))).sqrt() + 1e-9)
        angles = clip_angles(angles - POSE_LR * (1 - index / steps) * unit)
        now = losses(angles)
        better = now < least
        best[better], least = angles[better], torch.minimum(now, least)
    return Found(best, first, least)
