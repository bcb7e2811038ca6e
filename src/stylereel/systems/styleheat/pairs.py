"""Training pairs of the world: one person twice, the motion in between, the exact flow and the true image."""

from __future__ import annotations

from collections.abc import Callable, Collection
from functools import cache
from pathlib import Path
from typing import Any, NamedTuple, TypeVar

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from stylereel import world
from stylereel.core.weights import read_tensors, write_tensors
from stylereel.family.people import GROUPS, WHOLE, Share, mixed_latents, mixed_values
from stylereel.systems.sources import prepared_motion
from stylereel.systems.styleheat.guide import guide, mean_head
from stylereel.systems.styleheat.losses import boxes
from stylereel.systems.styleheat.motion import beside_own, coordinates, in_factors
from stylereel.systems.styleheat.networks import FLOW_SIZE, RADIUS
from stylereel.train.sources import Source
from stylereel.world.factors import LATENT_DIM, MOTION_COLUMNS
from stylereel.world.materials import LIPS_REGION
from stylereel.world.motion import natural_motion
from stylereel.world.truth import flow

TRACKS, TRACK_FRAMES = 12, 400  # natural motion that windows are cut from
MANNERS = ("talking", "listening", "laughing", "conversation", "expressions")
FACING = 0.2  # share of pairs that keep the pose and change expression alone
OWN_ERROR = 0.04  # of the source's own motion, in the units of the coordinates: as wrong as the face net reads it
SEED = 71
TRUE_SIZE = 128  # pixels of the true images
CODED = 0.5  # share of sources that are an encoder's codes of a drawn picture, where there is an encoder
PICTURE = 256  # pixels of what the encoder sees
Encode = Callable[[Tensor], Tensor]  # images [B, 3, 256, 256] in [-1, 1] to W+ codes [B, L, D]
_POSE, _EXPRESSION = GROUPS.index("pose"), GROUPS.index("expression")


class Pairs(NamedTuple):
    """Sources and targets of the built-in family.

    source, target: latents [B, 4, 80]; window: [B, 40, 27], the motion around the target's and the source's own, see
    `motion`; flow: [B, 2, 64, 64], for each pixel of the target where its surface point is in the source, in pixels;
    seen: [B, 64, 64], whether it is seen there; landmarks: [B, 68, 2] of the target, 0..1; guide: [B, 9, 64, 64], see
    `guide`; truth: uint8 [B, 3, 128, 128], the target as the world draws it, and its regions: uint8 [B, 128, 128], of
    clips those of eyes and mouth alone; codes: [B, L, D], what an encoder makes of the drawn source, 0 where there is
    none.
    """

    source: Tensor
    target: Tensor
    window: Tensor
    flow: Tensor
    seen: Tensor
    landmarks: Tensor
    guide: Tensor
    truth: Tensor
    regions: Tensor
    codes: Tensor


@cache
def _tracks() -> np.ndarray:
    """Natural motion [N, T, M] of all manners."""
    return np.stack([natural_motion(SEED + i, TRACK_FRAMES, manner=MANNERS[i % len(MANNERS)]) for i in range(TRACKS)])


def window_around(values: np.ndarray, random: np.random.Generator, radius: int = RADIUS) -> np.ndarray:
    """Motion values [2 radius + 1, M] as natural as the world's, whose middle frame is `values` [M].

    A stretch of natural motion is moved there as a whole; by chance it is slower or still.
    """
    tracks = _tracks()
    track = tracks[random.integers(len(tracks))]
    speed = random.uniform(0.5, 1.2)
    middle = random.uniform(radius * speed, len(track) - 1 - radius * speed)
    places = middle + speed * np.arange(-radius, radius + 1)
    whole = places.astype(int)
    after = np.minimum(whole + 1, len(track) - 1)
    stretch = track[whole] + (places - whole)[:, None] * (track[after] - track[whole])
    change = (stretch - stretch[radius]) * (0 if random.random() < 0.15 else random.uniform(0.3, 1.0))
    return np.clip(values + change, world.LOW[MOTION_COLUMNS], world.HIGH[MOTION_COLUMNS])


def draw_pairs(index: int, count: int, share: Share = WHOLE, seed: int = SEED, encode: Encode | None = None) -> Pairs:
    """The pairs of step `index`, or this process's share of them."""
    random = np.random.default_rng((seed, index))
    source = mixed_latents((seed, index, 1), count, 0.5)
    other = mixed_latents((seed, index, 2), count, 0.5)
    target = source.copy()
    target[:, _EXPRESSION] = other[:, _EXPRESSION]
    turning = random.random(count) >= FACING
    target[turning, _POSE] = other[turning, _POSE]
    before, after = (world.align(mixed_values(z)) for z in (source, target))
    windows = np.stack([coordinates(window_around(values[MOTION_COLUMNS], random)).T for values in after])
    own = coordinates(before[:, MOTION_COLUMNS])
    error = OWN_ERROR * random.standard_normal(own.shape).astype(np.float32)
    rank, ranks = share
    mine = slice(rank, None, ranks)
    before, after = before[mine], after[mine]
    truths = [flow(b, a, FLOW_SIZE) for a, b in zip(before, after, strict=True)]
    drawn = [world.draw(values, TRUE_SIZE) for values in after]
    seen = before[:, MOTION_COLUMNS] + in_factors(error[mine])
    led = [guide(mean_head(one), values[MOTION_COLUMNS]) for one, values in zip(seen, after, strict=True)]
    codes = torch.zeros(len(before), 1, 1)
    if encode is not None:
        coded = np.flatnonzero(np.arange(count)[mine] < CODED * count)
        pictures = [world.draw(before[i], PICTURE).image for i in coded]
        if pictures:
            images = torch.from_numpy(np.stack(pictures)).permute(0, 3, 1, 2).float() / 127.5 - 1
            with torch.inference_mode():
                found = encode(images)
            codes = found.new_zeros(len(before), *found.shape[1:])
            codes[coded] = found
    return Pairs(
        torch.from_numpy(source[mine]).float(),
        torch.from_numpy(target[mine]).float(),
        beside_own(torch.from_numpy(windows[mine]), (own + error)[mine]),
        torch.from_numpy(np.stack([truth.flow for truth in truths])).permute(0, 3, 1, 2).contiguous(),
        torch.from_numpy(np.stack([truth.visible for truth in truths])),
        torch.from_numpy(np.stack([portrait.landmarks for portrait in drawn])).float(),
        torch.stack(led),
        torch.from_numpy(np.stack([portrait.image for portrait in drawn])).permute(0, 3, 1, 2).contiguous(),
        torch.from_numpy(np.stack([portrait.regions for portrait in drawn])),
        codes.clone(),
    )


def clip_pairs(clips: Source, index: int, count: int, share: Share, encode: Encode) -> Pairs:
    """Pairs of prepared clips: a frame of a window is the source, its middle frame the target.

    clips: gives windows of 27 frames of 256 px with their coefficients and landmarks. Flow and latents are 0, since
    nobody knows them.
    Raises ValueError if the coefficients are not those of this package.
    """
    batch = clips.batch(index, count, share)
    motion, frames = prepared_motion(batch), batch["clips"]
    chosen = np.random.default_rng((SEED, index, 3)).integers(frames.shape[1], size=count)[share[0] :: share[1]]
    each = np.arange(len(frames))
    own = motion[each, chosen]
    led = [guide(mean_head(one), values[RADIUS]) for one, values in zip(own, motion, strict=True)]
    windows = torch.from_numpy(coordinates(motion).transpose(0, 2, 1).copy())
    truth = F.adaptive_avg_pool2d(frames[:, RADIUS], TRUE_SIZE).add(1).mul(127.5).round().to(torch.uint8)
    with torch.inference_mode():
        codes = encode(frames[each, chosen]).clone()
    nothing = torch.zeros(len(frames), len(GROUPS), LATENT_DIM)
    landmarks = (batch["landmarks"][:, RADIUS] / batch["side"][:, None, None]).float()
    detail = boxes(landmarks, TRUE_SIZE)[:, 0] > 0.5
    return Pairs(
        nothing,
        nothing,
        beside_own(windows, coordinates(own)),
        torch.zeros(len(frames), 2, FLOW_SIZE, FLOW_SIZE),
        torch.zeros(len(frames), FLOW_SIZE, FLOW_SIZE, dtype=torch.bool),
        landmarks,
        torch.stack(led),
        truth,
        detail.to(torch.uint8) * LIPS_REGION,
        codes,
    )


def kept_pairs(
    folder: Path, index: int, count: int, share: Share = WHOLE, seed: int = SEED, encode: Encode | None = None
) -> Pairs:
    """The same, from a file in `folder` once they were drawn, where flows, guides and codes have half precision."""
    path = folder / f"{seed}-{index:05}-{count}-{share[0]}of{share[1]}.safetensors"
    return kept(path, Pairs, lambda: draw_pairs(index, count, share, seed, encode), ("flow", "guide", "codes"))


Kept = TypeVar("Kept", bound=tuple[Tensor, ...])  # a named tuple


def kept(path: Path, kind: Callable[..., Kept], make: Callable[[], Kept], half: Collection[str]) -> Kept:
    """Tensors of a file, made and written once; those named in `half` have half precision there."""
    if path.exists():
        tensors, _ = read_tensors(path)
        return kind(**{n: each.float() if each.dtype == torch.float16 else each for n, each in tensors.items()})
    made: Any = make()
    write_tensors(path, {name: each.half() if name in half else each for name, each in made._asdict().items()}, {})
    return made
