"""Quality of the built-in generators' samples: distances, smoothness, equivariance, and pictures of them.

    python benchmarks/family.py [--folder RUNS] [--sheets docs] [--count 1000] [--out results.json]

Without --folder the installed weights are measured. For each generator that is there: decibels to the world's images
of the same people, power and coherence in bands, tints of regions, what expressions change, Frechet distance of samples
to world images of other people (feature net in its name), perceptual path length, EQ-T and EQ-R where the input can be
moved, milliseconds an image; and with --sheets truncation, moved inputs, and the nearest training images.
"""

from __future__ import annotations

import argparse
import json
import platform
import time
from datetime import date
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F

from stylereel import world
from stylereel.core.builtin import BUILTIN
from stylereel.core.render import pictures
from stylereel.faces.backend import DlibBackend
from stylereel.family.people import (
    GROUPS,
    draw_batch,
    draw_pairs,
    draw_portraits,
    grouped_w,
    latents_of,
    mixed_values,
    num_factors,
)
from stylereel.generator import StyleGAN2, StyleGAN3, image_transform, load_generator
from stylereel.generator.base import Generator
from stylereel.media.pictures import save_picture
from stylereel.media.sheet import contact_sheet
from stylereel.metrics.equivariance import equivariance
from stylereel.metrics.exact import HELD_OUT, draw_all
from stylereel.metrics.features import face_features, shrink_for_face
from stylereel.metrics.frechet import frechet_distance
from stylereel.metrics.registry import Clip, Score, find
from stylereel.metrics.smoothness import path_length
from stylereel.recipes.losses import means
from stylereel.recipes.stylegan3 import STAGES, draw_at, draw_placed
from stylereel.world.factors import EXPRESSION, INDEX, LATENT_DIM
from stylereel.world.shading import REGIONS

PSI = (0.0, 0.35, 0.7, 1.0)
NEIGHBOURS = 4


def latents(seed: int, count: int) -> np.ndarray:
    """Held-out latents [N, Z]."""
    return np.random.default_rng((HELD_OUT, 40, seed)).standard_normal((count, LATENT_DIM))


@torch.inference_mode()
def generate(generator: Generator, z: np.ndarray, **options: Any) -> np.ndarray:
    """Images uint8 [N, H, W, 3] of latents; options go to `synthesize`, psi to `map`."""
    psi = options.pop("psi", 1.0)
    parts = torch.from_numpy(z).float().split(8)
    return np.concatenate([pictures(generator.synthesize(generator.map(part, psi=psi), **options)) for part in parts])


def truth(generator: Generator, z: np.ndarray) -> np.ndarray:
    """The world's images of the latents, the targets of this generator."""
    if not isinstance(generator, StyleGAN3):
        values = world.from_latent(z)
        known = num_factors(generator)
        values[:, known:] = world.neutral()[known:]
        return draw_all(world.align(values), generator.resolution)
    parts = [z[i : i + 50] for i in range(0, len(z), 50)]  # cut out of a wider canvas, whose backdrop is another
    return np.concatenate(
        [
            pictures(draw_at(p, torch.eye(3).repeat(len(p), 1, 1), generator.resolution, num_factors(generator)).images)
            for p in parts
        ]
    )


def training_pictures(generator: Generator, count: int) -> np.ndarray:
    """The first training images uint8 [N, 128, 128, 3] of the recipe's first stage at 128 px."""
    found: list[np.ndarray] = []
    while sum(map(len, found)) < count:
        index = len(found)
        if isinstance(generator, StyleGAN3):
            batch = draw_placed((39 + len(STAGES), index), STAGES[-1].batch // 2, 128).batch  # the recipes' seeds
        else:
            batch = draw_pairs((11, 3, index), 8, 128)
        found.append(pictures(batch.images))
    return np.concatenate(found)[:count]


def features_of(frames: np.ndarray) -> np.ndarray:
    """Features [N, 512] of images uint8 [N, H, W, 3] by the built-in face net."""
    parts = (frames[i : i + 16] for i in range(0, len(frames), 16))
    return np.concatenate([face_features(np.stack([shrink_for_face(frame) for frame in part])) for part in parts])


def nearest(frames: np.ndarray, others: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Indices and distances [N, NEIGHBOURS] of those among `others` whose features are nearest to each frame's."""
    ours, theirs = features_of(frames), features_of(others)
    distances = np.linalg.norm(ours[:, None] - theirs[None], axis=2)
    order = np.argsort(distances, axis=1)[:, :NEIGHBOURS]
    return order, np.take_along_axis(distances, order, axis=1)


def spectrum(frames: np.ndarray, real: np.ndarray) -> dict[str, dict[str, float]]:
    """Power of images [N, H, W, 3] over that of the world's images, and their coherence, in bands of cycles an image.

    Of the brightness under a Hann window. A coherence of 1 is the same detail at the same place, 0 is invented grain.
    """
    size = frames.shape[1]
    window = np.outer(np.hanning(size), np.hanning(size))

    def transform(images: np.ndarray) -> np.ndarray:
        bright = images.mean(3, dtype=np.float64)
        return np.fft.fftshift(np.fft.fft2((bright - bright.mean((1, 2), keepdims=True)) * window), axes=(1, 2))

    ours, theirs = transform(frames), transform(real)
    radius = np.hypot(*np.meshgrid(np.arange(size) - size // 2, np.arange(size) - size // 2))
    out, low = {}, 8
    while 2 * low <= size // 2:
        band = (radius >= low) & (radius < 2 * low)
        mine, other = (np.square(np.abs(each[:, band])).sum() for each in (ours, theirs))
        shared = (ours[:, band] * theirs[:, band].conj()).sum().real
        out[f"{low}-{2 * low} cycles"] = {
            "power": round(float(mine / other), 3),
            "coherence": round(float(shared / np.sqrt(mine * other)), 3),
        }
        low *= 2
    return out


@torch.inference_mode()
def tints_missed(generator: StyleGAN2, count: int = 192) -> dict[str, float]:
    """Of each region's mean colour, less its gray, the error's mean square over the variance among people: 0 is exact,
    1 is one tint for everybody."""
    batch = draw_batch((HELD_OUT, 41), count, generator.resolution, mix=0.0)
    images = torch.cat([generator.synthesize(grouped_w(generator, z), noise="none") for z in batch.z.split(8)])
    (mine, pixels), (theirs, _) = (means(each, batch.regions, len(REGIONS)) for each in (images, batch.images))
    out = {}
    for index, name in enumerate(REGIONS):
        ours, true = (each[:, index][pixels[:, index] > 20] for each in (mine, theirs))
        ours, true = (each - each.mean(1, keepdim=True) for each in (ours, true))
        if len(true) > 20:
            missed = (ours - true).square().sum() / (true - true.mean(0)).square().sum()
            out[name] = round(float(missed), 2)
    return out


@torch.no_grad()
def responses(generator: StyleGAN2, count: int = 16) -> dict[str, dict[str, float]]:
    """How images change with one factor of the expression, from rest to .8 of its end, beside how the world's do.

    shown: the amount, where the world's change (1 is exact, by least squares at half the size); missed: the share of
    the world's change that is missing or elsewhere.
    """
    random = np.random.default_rng((HELD_OUT, 42))
    people = mixed_values(np.repeat(random.standard_normal((count, 1, LATENT_DIM)), len(GROUPS), axis=1))
    out = {}
    for name in EXPRESSION:
        column, changes = INDEX[name], []
        for value in (world.neutral()[column], 0.8 * world.HIGH[column]):
            people[:, column] = value
            latent, aligned = latents_of(people, np.random.default_rng(0)), world.align(people)
            batch = draw_portraits(latent, aligned, generator.resolution)
            made = [generator.synthesize(grouped_w(generator, z), noise="none") for z in batch.z.split(8)]
            changes.append([F.avg_pool2d(each, 2) for each in (torch.cat(made), batch.images)])
        people[:, column] = world.neutral()[column]
        ours, true = (after - before for before, after in zip(*changes, strict=True))
        there = true.abs().mean(1, keepdim=True) > 0.02
        out[name] = {
            "shown": round(float((ours * true * there).sum() / (true.square() * there).sum()), 2),
            "missed": round(float((ours - true).square().sum() / true.square().sum()), 2),
        }
    return out


def moments(frames: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Mean [128] and covariance [128, 128] of dlib's embeddings of the faces in images uint8 [N, H, W, 3]."""
    backend, found = DlibBackend(), []
    for frame in frames:
        boxes = backend.detect(frame)
        face = backend.look(frame, max(boxes, key=lambda box: box.score)) if boxes else None
        if face is not None:
            found.append(backend.embedding(frame, face.landmarks))
    return np.mean(found, axis=0), np.cov(np.array(found, np.float64), rowvar=False)


def entry(score: Score) -> dict[str, Any]:
    return {"value": round(score.value, 4), "interval": [round(end, 4) for end in score.interval or ()]}


def measure(generator: Generator, count: int, check: int) -> dict[str, Any]:
    """The numbers of one generator, by name."""
    out: dict[str, Any] = {"resolution": generator.resolution}
    out["parameters in millions"] = round(sum(p.numel() for p in generator.parameters()) / 1e6, 3)
    frames, real = generate(generator, latents(0, count)), truth(generator, latents(1, count))
    other = truth(generator, latents(2, count))
    for name in ("frechet", "kernel-distance"):
        score = find(name)([Clip(frames)], [Clip(real)])
        out[score.name] = entry(score) | {
            "of world images themselves": round(find(name)([Clip(other)], [Clip(real)]).value, 4)
        }
    mine, theirs, others = map(moments, (frames, real, other))
    out["frechet distance of dlib's embeddings, which no training has seen"] = {
        "value": round(frechet_distance(*mine, *theirs), 5),
        "of world images themselves": round(frechet_distance(*others, *theirs), 5),
    }
    out["spectrum"] = spectrum(generate(generator, z := latents(6, 64)), truth(generator, z))
    difference = (generate(generator, z := latents(5, 128)) - truth(generator, z).astype(np.float64)) / 255
    out["psnr"] = round(float((-10 * np.log10(np.square(difference).mean((1, 2, 3)))).mean()), 2)
    if isinstance(generator, StyleGAN2):
        out["tints missed"] = tints_missed(generator)
        out["responses"] = responses(generator)
    scores = [path_length(generator, 256)]
    if isinstance(generator, StyleGAN3):
        scores += equivariance(generator, 64)
    out |= {score.name: entry(score) for score in scores}
    began = time.process_time()
    generate(generator, latents(3, 16))
    out["milliseconds of processor time an image"] = round(1000 * (time.process_time() - began) / 16, 1)
    # A generator that copies is far nearer to a training image than a new image of the world is.
    others = training_pictures(generator, check)
    ours, theirs = (nearest(x[:64], others)[1][:, 0] for x in (frames, real))
    out[f"median distance to the nearest of {check} training images"] = {
        "samples": round(float(np.median(ours)), 4),
        "new world images": round(float(np.median(theirs)), 4),
    }
    return out


def sheets(generator: Generator, name: str, folder: Path, check: int) -> None:
    """Truncation, nearest training images, and for StyleGAN3 moved inputs, as NAME-*.png."""
    z = latents(4, 8)
    step = generator.resolution // 128

    def save(what: str, frames: list[np.ndarray], columns: int, labels: list[str]) -> None:
        save_picture(folder / f"{name}-{what}.png", contact_sheet([f[::step, ::step] for f in frames], columns, labels))

    rows = [generate(generator, z, psi=psi) for psi in PSI]
    save("truncation", [f for row in rows for f in row], 8, [f"psi {psi}" for psi in PSI for _ in z])
    others = training_pictures(generator, check)
    samples = generate(generator, z[:6])[:, ::step, ::step]
    order, distances = nearest(samples, others)
    grid, labels = [], []
    for sample, indices, row in zip(samples, order, distances):
        grid += [sample, *others[indices]]
        labels += ["sample", *(f"{distance:.2f}" for distance in row)]
    save_picture(folder / f"{name}-nearest.png", contact_sheet(grid, NEIGHBOURS + 1, labels))
    if isinstance(generator, StyleGAN3):
        places = (
            (0, 0.0, 0.0),
            (-30, 0.0, 0.0),
            (30, 0.0, 0.0),
            (0, -0.12, 0.0),
            (0, 0.12, 0.0),
            (0, 0.0, 0.1),
            (15, 0.1, 0.05),
        )
        rows = [generate(generator, z[:4], transform=image_transform(*place)) for place in places]
        frames = [rows[column][row] for row in range(4) for column in range(len(places))]
        save("moved", frames, len(places), [f"{r} deg {x:+} {y:+}" for r, x, y in places] * 4)


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--folder", type=Path, default=BUILTIN)
    parser.add_argument("--sheets", type=Path, help="folder for pictures")
    parser.add_argument("--count", type=int, default=1000, help="samples for the distances")
    parser.add_argument("--check", type=int, default=2000, help="training images to compare samples with")
    parser.add_argument("--out", type=Path)
    arguments = parser.parse_args()
    result: dict[str, Any] = {"date": str(date.today()), "machine": f"{platform.machine()}, torch {torch.__version__}"}
    for name in ("generator", "generator3"):
        path = arguments.folder / f"{name}.safetensors"
        if not path.exists():
            continue
        generator = load_generator(path).eval()
        result[name] = measure(generator, arguments.count, arguments.check)
        print(json.dumps({name: result[name]}, indent=2), flush=True)
        if arguments.sheets:
            sheets(generator, name, arguments.sheets, arguments.check)
    if arguments.out:
        arguments.out.write_text(json.dumps(result, indent=2) + "\n")


if __name__ == "__main__":
    main()
