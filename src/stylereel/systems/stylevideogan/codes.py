"""What StyleVideoGAN learns from: the W+ codes of one clip, of the world with exact codes or of a camera by inversion.

The data line of a clip: eye corners, low-passed in time, place the crop (no mouth moves it); an encoder gives the W+
code of every crop; `latents.Codes` keeps them with rate, placements and the generator's SHA-256.
"""

from __future__ import annotations

from fractions import Fraction
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from stylereel import world
from stylereel.core.latents import Codes
from stylereel.core.record import sha256
from stylereel.faces import backend, placement
from stylereel.family.people import grouped_w, latents_of
from stylereel.generator import StyleGAN2, StyleGAN3
from stylereel.invert import networks as inversion
from stylereel.media.video import VideoReader
from stylereel.world.factors import MOTION_COLUMNS
from stylereel.world.motion import Manner

BATCH, SIZE = 16, 256  # crops that are encoded together, and their side in pixels


class WorldClip(NamedTuple):
    """A clip of the world: seeds of person and movement, and what the person does."""

    person: int
    movement: int
    manner: Manner
    frames: int = 7500  # five minutes
    rate: Fraction = Fraction(25)

    def values(self) -> np.ndarray:
        """Factor values [T, K] of every frame, aligned."""
        motion = world.natural_motion(self.movement, self.frames, self.rate, self.manner)
        values = np.tile(world.person(self.person), (len(motion), 1))
        values[:, MOTION_COLUMNS] = motion
        return world.align(values)

    def codes(self, generator: StyleGAN2, file: str | Path) -> Codes:
        """The exact codes: those that the mapping network makes of the latents of each frame's factors.

        file: the generator's weights.
        """
        return exact_codes(self.values(), generator, file, self.person, self.rate)


# The clips of the built-in models.
CLIPS = {
    "talking": WorldClip(7, 5, "talking"),
    "listening": WorldClip(12, 6, "listening"),
    "expressions": WorldClip(3, 7, "expressions"),
}


@torch.inference_mode()
def precision(generator: StyleGAN2 | StyleGAN3) -> Tensor:
    """The inverse covariance [D, D] of a generator's w, with a tenth of the mean variance added in all directions: no
    encoder is as exact as the narrowest ones."""
    z = torch.randn(8192, generator.config.z_dim, generator=torch.Generator().manual_seed(1))
    device = generator.mean_w.device
    w = torch.cat([generator.map(part.to(device))[:, 0].cpu() for part in z.split(1024)])  # not every GPU has float64
    covariance = torch.cov(w.double().T)
    floor = 0.1 * covariance.diagonal().mean() * torch.eye(len(covariance), dtype=covariance.dtype, device=w.device)
    return torch.linalg.inv(covariance + floor).float().to(device)


def resting_code(generator: StyleGAN2, seed: int) -> Tensor:
    """The W+ code [L, D] of the invented person of a seed with a face at rest, looking ahead: what else is outside a
    clip's components, such as a wink on one side, would stay in every frame."""
    person = world.person(seed)
    person[MOTION_COLUMNS] = world.neutral()[MOTION_COLUMNS]
    z = torch.from_numpy(latents_of(world.align(person[None]), np.random.default_rng(seed))).float()
    with torch.inference_mode():
        return grouped_w(generator, z.to(generator.mean_w.device))[0]


def exact_codes(
    values: np.ndarray, generator: StyleGAN2, file: str | Path, seed: int, rate: Fraction = Fraction(25)
) -> Codes:
    """Codes of aligned factor values [T, K] of one person; `seed` fills what the latents do not use."""
    z = torch.from_numpy(latents_of(values, np.random.default_rng(seed), steady=True)).float()
    with torch.no_grad():
        w = torch.cat([grouped_w(generator, part.to(generator.mean_w.device)).cpu() for part in z.split(1024)])
    half = generator.resolution / 2
    return Codes(w, sha256(file), rate, torch.tensor([[half, half, 2 * half, 0.0]]).repeat(len(w), 1))


def clip_codes(
    clip: str | Path,
    encoder: str | Path | None = None,
    generator: str | Path | None = None,
    missing: backend.Missing = "hold",
) -> Codes:
    """The codes of the face in a clip: the data line.

    Args:
        clip: the clip.
        encoder: file of a pSp, e4e or ReStyle encoder; the built-in one if not given.
        generator: file of the generator; the one in the encoder's file, or the built-in one, if not given.
        missing: what to do with frames without a face, see `backend.track`.

    Raises:
        ValueError: no face in the clip, weights that do not fit, or a file that cannot be read (MediaError).
    """
    reader = VideoReader(clip)
    files = inversion.choose(encoder, generator)
    nets = inversion.load(files)
    track = backend.track(reader, reader.rate, missing)
    rows = placement.place_by_eyes(track.landmarks, track.rate, track.found)
    if inversion.is_canonical(files):
        rows = placement.to_builtin_framing(rows, placement.place(track.landmarks, track.rate, track.found))
    parts: list[Tensor] = []
    crops: list[np.ndarray] = []
    for index, frame in enumerate(reader):
        crops.append(placement.cut(frame, rows[index], SIZE))
        if len(crops) == BATCH or index + 1 == len(rows):
            parts.append(inversion.encoded(nets.encode, np.stack(crops)).cpu())
            crops.clear()
    return Codes(torch.cat(parts), sha256(files["generator"]), track.rate, torch.from_numpy(rows))


def distinct_rows(w: Tensor) -> tuple[int, ...]:
    """For each row of codes [T, L, D] the number of the first row that equals it in every frame, counted without
    gaps; -1 for a row that never changes."""
    heads: list[int] = []
    first: list[int] = []
    for row in range(w.shape[1]):
        if torch.equal(w[:, row], w[:1, row].expand(len(w), -1)):
            heads.append(-1)
            continue
        same = next((head for head, other in enumerate(first) if torch.equal(w[:, other], w[:, row])), len(first))
        if same == len(first):
            first.append(row)
        heads.append(same)
    if not first:
        raise ValueError("The codes never change, so there is no motion to learn; give a clip in which the face moves.")
    return tuple(heads)
