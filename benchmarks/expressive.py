"""How well 35 numbers a frame show held-out clips of the world again, and what the search costs at 1024 px.

    python benchmarks/expressive.py [--clips 6] [--frames 60] [--refine 0] [--sheet FILE.png]
    python benchmarks/expressive.py --channels FILE.png
    python benchmarks/expressive.py --search-cost

The first draws clips of people whom no training has seen, encodes them (the person by the first frame, the numbers by
the reader in one pass, with --refine also so many steps of optimisation), decodes them, and prints for each factor the
correlation with the truth, within clips (mean over those in which the factor moves) and over all: of what was read, and
of what the face net reads in the decoded frames, in the generator's best (given the true factors) and in the true
frames, its own ceiling; every fourth frame of 25 a second is taken. Identity is the cosine of the built-in net between
decoded and true frames, as a share of that between the true first frame and the others. --channels draws every channel
at both ends of its range. --search-cost times the search's rendering on a 1024 px generator with random weights.
"""

from __future__ import annotations

import argparse
import time
import warnings
from fractions import Fraction
from pathlib import Path

import numpy as np
import torch

from stylereel import systems, world
from stylereel.core.render import pictures, portrait
from stylereel.family.people import motion_codes
from stylereel.generator import StyleGAN2, StyleGAN2Config
from stylereel.media.pictures import save_picture
from stylereel.media.sheet import contact_sheet
from stylereel.metrics.exact import HELD_OUT, by_face_net
from stylereel.metrics.features import to_unit
from stylereel.metrics.likeness import builtin_embeddings, cosine
from stylereel.systems.expressive import search
from stylereel.systems.expressive.channels import POSE, table
from stylereel.systems.expressive.reader import READ
from stylereel.systems.expressive.system import Expressive
from stylereel.systems.expressive.training import still_codes
from stylereel.world.factors import HIGH, LOW, MOTION, MOTION_COLUMNS

MANNERS = ("talking", "expressions", "listening")
MOVES = 0.03  # of its range: the deviation from which a factor counts as moving in a clip
EVERY = 4  # of the frames of 25 a second: clips of few frames are to show many movements
PLACES = [MOTION.index(name) for name in READ]


def draw_clip(number: int, frames: int) -> tuple[np.ndarray, np.ndarray]:
    """Frames uint8 [T, 256, 256, 3] of a held-out person, and their factors [T, K]."""
    seed = HELD_OUT + 100_000 + number
    values = np.repeat(world.from_latent(np.random.default_rng((seed, 1)).standard_normal((1, 80))), frames, 0)
    motion = world.natural_motion(seed, EVERY * frames, Fraction(25), MANNERS[number % 3])[::EVERY]  # type: ignore[arg-type]
    values[:, MOTION_COLUMNS] = np.clip(motion, LOW[MOTION_COLUMNS], HIGH[MOTION_COLUMNS])
    values = world.align(values)
    return np.stack([world.draw(one, 256).image for one in values]), values


def batches(system: Expressive, w: torch.Tensor, numbers: np.ndarray) -> np.ndarray:
    """Frames uint8 of a person w [L, D] with numbers [T, 35]."""
    shown = []
    with torch.inference_mode():
        for part in torch.from_numpy(numbers).split(8):
            flat = system.show(w[None], part)
            shown.append(pictures(system.generator.synthesize(s=system.generator.style_space.unflatten(flat))))
    return np.concatenate(shown)


def given_factors(system: Expressive, w: torch.Tensor, motion: np.ndarray) -> np.ndarray:
    """Frames of a person with the pose and expression rows of the true factors: the generator's best."""
    shown = []
    with torch.inference_mode():
        for part in np.split(motion, range(8, len(motion), 8)):
            codes = motion_codes(system.generator, part)
            rows = [0, 1, 4, 5]
            whole = w[None].expand(len(part), -1, -1).clone()
            whole[:, rows] = codes[:, rows]
            shown.append(pictures(system.generator.synthesize(whole)))
    return np.concatenate(shown)


def correlations(seen: np.ndarray, truth: np.ndarray) -> np.ndarray:
    """Of each factor [T, 17]; NaN where the truth does not move."""
    still = truth.std(0) < MOVES * (HIGH - LOW)[MOTION_COLUMNS][PLACES]
    with np.errstate(invalid="ignore"):
        found = [np.corrcoef(a, b)[0, 1] for a, b in zip(seen.T, truth.T)]
    return np.where(still, np.nan, found)


def evaluate(clips: int, frames: int, steps: int, sheet: Path | None) -> None:
    system = systems.load("expressive")
    assert isinstance(system, Expressive)
    rows: dict[str, list[np.ndarray]] = {}
    pooled: dict[str, list[tuple[np.ndarray, np.ndarray]]] = {}
    identity, seconds, cells = [], {"read": 0.0, "code": 0.0, "decode": 0.0, "refine": 0.0}, []
    for number in range(clips):
        images, values = draw_clip(number, frames)
        motion = values[:, MOTION_COLUMNS]
        truth = motion[:, PLACES]
        w = system.identify(images[0]).w
        began = time.process_time()
        parts = [system.read_images(to_unit(part)) for part in np.split(images, range(8, frames, 8))]
        read = np.concatenate(parts)
        seconds["read"] += time.process_time() - began
        began = time.process_time()
        numbers = system.encode_factors(read)
        seconds["code"] += time.process_time() - began
        began = time.process_time()
        if steps:
            numbers[:, len(POSE) :] = refined(system, w, numbers, images, steps)
        seconds["refine"] += time.process_time() - began
        began = time.process_time()
        shown = batches(system, w, numbers)
        seconds["decode"] += time.process_time() - began
        best = given_factors(system, w, motion)
        exact = batches(system, w, system.encode_factors(motion))
        for name, seen in {"read in one pass": read, **{name: by_face_net(each)[1] for name, each in {
            "decoded": shown, "decoded, given the truth": exact, "the generator, given the truth": best,
            "true frames": images}.items()}}.items():  # fmt: skip
            rows.setdefault(name, []).append(correlations(seen[:, PLACES], truth))
            pooled.setdefault(name, []).append((seen[:, PLACES], truth))
        psnr = 10 * np.log10(255**2 / np.square(exact.astype(float) - best).mean())
        true, made = builtin_embeddings(images), builtin_embeddings(shown)
        same = cosine(np.repeat(true[:1], frames - 1, 0), true[1:]).mean()
        known = builtin_embeddings(batches(system, still_codes(system.generator, values[:1])[0], numbers))
        identity.append((cosine(made, true).mean(), cosine(known, true).mean(), same, psnr))
        cells += [images[at] for at in range(0, frames, frames // 6)][:6]
        cells += [shown[at] for at in range(0, frames, frames // 6)][:6]
        print(f"clip {number}: identity {identity[-1][0]:.3f} of {same:.3f}; 32 channels against all {psnr:.1f} dB")
    print("\n| | " + " | ".join(READ) + " |\n|" + "---|" * (len(READ) + 1))
    for name, found in rows.items():
        whole = correlations(*(np.concatenate(part) for part in zip(*pooled[name])))
        with warnings.catch_warnings(action="ignore"):  # a factor that moves in no clip has no mean
            means = np.nanmean(found, axis=0)
        for title, numbers in (("", means), (", over all", whole)):
            print(f"| {name}{title} | " + " | ".join("" if np.isnan(one) else f"{one:.2f}" for one in numbers) + " |")
    cosines, known, same, psnr = np.mean(identity, axis=0)
    print(f"\nidentity {cosines:.3f}, {known:.3f} with the person's own code; the same person's ceiling {same:.3f}")
    print(f"of the ceiling {cosines / same:.3f} and {known / same:.3f}; 32 channels against all {psnr:.1f} dB")
    spent = ", ".join(f"{name} {1000 * value / clips / frames:.1f}" for name, value in seconds.items())
    print(f"milliseconds a frame of processor time: {spent}")
    if sheet:
        half = [np.reshape(cell, (128, 2, 128, 2, 3)).mean((1, 3)).round().astype(np.uint8) for cell in cells]
        save_picture(sheet, contact_sheet(half, 6, [""] * len(half)))


def refined(system: Expressive, w: torch.Tensor, numbers: np.ndarray, images: np.ndarray, steps: int) -> np.ndarray:
    """The 32 numbers after optimisation against the frames."""
    from stylereel.invert.perceptual import Perceptual
    from stylereel.systems.expressive.fit import refine

    small = torch.nn.functional.adaptive_avg_pool2d(to_unit(images), search.SIZE)
    with torch.inference_mode():
        points = torch.cat([system.face(part).landmarks for part in small.split(8)])
        base = system.base(w[None], torch.from_numpy(numbers[:, : len(POSE)]))
    points, base = points.clone(), base.clone()
    found = refine(
        system.generator, system.channels, lambda part: base[part], small, points,
        torch.from_numpy(numbers[:, len(POSE) :]), Perceptual.best(), steps,
    )  # fmt: skip
    print(f"  refined: loss {found.before.mean():.4f} to {found.after.mean():.4f}")
    return found.values.numpy()


def draw_channels(path: Path, seed: int = 3) -> None:
    """A sheet of every channel at both ends of its range, and the table."""
    system = systems.load("expressive")
    assert isinstance(system, Expressive)
    channels, person = system.channels, system.identify(seed)
    cells, labels = [], []
    for index, name in enumerate(channels.names):
        numbers = np.zeros((2, len(POSE) + len(channels.names)), np.float32)
        numbers[:, len(POSE) + index] = float(channels.low[index]), float(channels.high[index])
        for frame, end in zip(batches(system, person.w, numbers), "-+"):
            cells.append(frame[56:216, 48:208])
            labels.append(f"{name} {end}")
    save_picture(path, contact_sheet(cells, 8, labels))
    print(table(channels, system.generator.style_space))
    assert portrait(system, person).shape == (256, 256, 3)


def search_cost() -> None:
    torch.manual_seed(0)
    generator = StyleGAN2(StyleGAN2Config(1024)).eval().requires_grad_(False)
    places, unit = search.searched(generator), torch.ones(generator.style_space.size)
    flat = search.frames_of(generator, 1, 0)
    batch = 8
    began = time.process_time()
    with torch.inference_mode():
        search.paint(generator, flat.repeat(batch, 1) + 0 * unit)
    each = (time.process_time() - began) / batch
    images = search.renders(generator, 4)
    print(f"1024 px, random weights, compared at {search.SIZE} px: {1000 * each:.0f} ms an image of one thread")
    print(f"{len(places)} channels, 4 frames: {images} images, {images * each / 3600:.1f} hours of one thread")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--clips", type=int, default=6)
    parser.add_argument("--frames", type=int, default=60)
    parser.add_argument("--refine", type=int, default=0)
    parser.add_argument("--sheet", type=Path)
    parser.add_argument("--channels", type=Path)
    parser.add_argument("--search-cost", action="store_true")
    given = parser.parse_args()
    if given.channels:
        return draw_channels(given.channels)
    if given.search_cost:
        return search_cost()
    return evaluate(given.clips, given.frames, given.refine, given.sheet)


if __name__ == "__main__":
    main()
