"""How well 35 numbers a frame show held-out clips of the world again, and what the search costs at 1024 px.

    python benchmarks/expressive.py [--clips 6] [--frames 60] [--refine 0] [--pti 0] [--sheet FILE.png]
    python benchmarks/expressive.py --speed CLIP...
    python benchmarks/expressive.py --channels FILE.png
    python benchmarks/expressive.py --search-cost

The first draws clips of people whom no training has seen, encodes them (the person by the frame that is near frontal
and whose reconstruction is most similar, the numbers by the reader in one pass, with --refine also so many steps of
optimisation, with --pti the generator tuned to 4 frames by so many passes), decodes them, and prints for each factor
the correlation with the truth, within clips (mean over those in which the factor moves) and over all: of what was
read, and of what the face net reads in the decoded frames, in the generator's best (given the true factors) and in
the true frames, its own ceiling; every fourth frame of 25 a second is taken. Identity is the cosine of the built-in
net between decoded and true frames, as a share of that between the true first frame and the others. --speed takes the
time of encoding clips and of decoding the files again, without loading. --channels draws every channel at both ends
of its range. --search-cost times the search's rendering on a 1024 px generator with random weights.
"""

from __future__ import annotations

import argparse
import tempfile
import time
import warnings
from fractions import Fraction
from pathlib import Path

import numpy as np
import torch

from stylereel import codec, systems, world
from stylereel.core.latents import Identity
from stylereel.core.render import pictures, portrait, render, tuned
from stylereel.family.people import motion_codes
from stylereel.generator import StyleGAN2, StyleGAN2Config
from stylereel.media.pictures import save_picture
from stylereel.media.sheet import contact_sheet
from stylereel.metrics.exact import HELD_OUT, by_face_net
from stylereel.metrics.features import to_unit
from stylereel.metrics.likeness import builtin_embeddings, cosine
from stylereel.systems.expressive import fit, search
from stylereel.systems.expressive.channels import POSE, table
from stylereel.systems.expressive.reader import READ
from stylereel.systems.expressive.system import CANDIDATES, TURN, Expressive
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


def evaluate(clips: int, frames: int, steps: int, passes: int, sheet: Path | None) -> None:
    system = systems.load("expressive")
    assert isinstance(system, Expressive)
    rows: dict[str, list[np.ndarray]] = {}
    pooled: dict[str, list[tuple[np.ndarray, np.ndarray]]] = {}
    identity, seconds, cells = [], {"read": 0.0, "code": 0.0, "decode": 0.0, "refine": 0.0}, []
    for number in range(clips):
        images, values = draw_clip(number, frames)
        motion = values[:, MOTION_COLUMNS]
        truth = motion[:, PLACES]
        began = time.process_time()
        parts = [system.read_images(to_unit(part)) for part in np.split(images, range(8, frames, 8))]
        read = np.concatenate(parts)
        seconds["read"] += time.process_time() - began
        began = time.process_time()
        numbers = system.encode_factors(read)
        seconds["code"] += time.process_time() - began
        turn = np.abs(numbers[:, :2] / TURN).max(1)
        near = turn.argsort(kind="stable")[:CANDIDATES]
        codes = torch.stack([system.identify(images[at]).w for at in near])
        w = codes[fit.best_of(system.generator, codes, images[near])]
        began = time.process_time()
        if steps:
            numbers[:, len(POSE) :] = refined(system, w, numbers, images, steps)
        seconds["refine"] += time.process_time() - began
        began = time.process_time()
        shown = batches(system, w, numbers)
        seconds["decode"] += time.process_time() - began
        if passes:
            pivots = np.linspace(0, frames - 1, 4).round().astype(int)
            with torch.inference_mode():
                flat = system.show(w[None], torch.from_numpy(numbers[pivots]))
            delta = fit.tune_to(system.generator, flat.clone(), images[pivots], passes)
            sharp = batches(tuned(system, Identity(w, "expressive", {}, delta)), w, numbers)
        else:
            sharp = shown
        best = given_factors(system, w, motion)
        exact = batches(system, w, system.encode_factors(motion))
        for name, seen in {"read in one pass": read, **{name: by_face_net(each)[1] for name, each in {
            "decoded": shown, "decoded, tuned": sharp, "decoded, given the truth": exact,
            "the generator, given the truth": best, "true frames": images}.items()}}.items():  # fmt: skip
            rows.setdefault(name, []).append(correlations(seen[:, PLACES], truth))
            pooled.setdefault(name, []).append((seen[:, PLACES], truth))
        psnr = 10 * np.log10(255**2 / np.square(exact.astype(float) - best).mean())
        true, made = builtin_embeddings(images), builtin_embeddings(shown)
        same = cosine(np.repeat(true[:1], frames - 1, 0), true[1:]).mean()
        known = builtin_embeddings(batches(system, still_codes(system.generator, values[:1])[0], numbers))
        by_tuned = cosine(builtin_embeddings(sharp), true).mean()
        identity.append((cosine(made, true).mean(), cosine(known, true).mean(), by_tuned, same, psnr))
        cells += [images[at] for at in range(0, frames, frames // 6)][:6]
        cells += [sharp[at] for at in range(0, frames, frames // 6)][:6]
        print(f"clip {number}: identity {identity[-1][0]:.3f} of {same:.3f}; 32 channels against all {psnr:.1f} dB")
    print("\n| | " + " | ".join(READ) + " |\n|" + "---|" * (len(READ) + 1))
    for name, found in rows.items():
        whole = correlations(*(np.concatenate(part) for part in zip(*pooled[name])))
        with warnings.catch_warnings(action="ignore"):  # a factor that moves in no clip has no mean
            means = np.nanmean(found, axis=0)
        for title, numbers in (("", means), (", over all", whole)):
            print(f"| {name}{title} | " + " | ".join("" if np.isnan(one) else f"{one:.2f}" for one in numbers) + " |")
    cosines, known, by_tuned, same, psnr = np.mean(identity, axis=0)
    print(f"\nidentity {cosines:.3f}, {known:.3f} with the person's own code, {by_tuned:.3f} by the tuned generator")
    print(f"of the same person's ceiling {same:.3f}: {cosines / same:.3f}, {known / same:.3f}, {by_tuned / same:.3f}")
    print(f"32 channels against all {psnr:.1f} dB")
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


def speed(clips: list[Path]) -> None:
    """Processor time and time by the clock of a frame, from a clip's file to a talk file and from that to images."""
    system = systems.load("expressive")
    assert isinstance(system, Expressive)
    person = system.identify(3)

    def encode(clip: Path, file: Path) -> int:
        motion = system.extract(clip)
        codec.write(file, motion, person, "expressive", rate=1)
        return len(motion)

    def decode(file: Path) -> int:
        talk = codec.read(file)
        assert isinstance(talk.identity, Identity)
        return sum(1 for _ in render(system, talk.identity, talk.motion))

    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / "a.talk"
        for clip in clips:
            for name, run in {"encode": lambda: encode(clip, file), "decode": lambda: decode(file)}.items():  # noqa: B023
                run()  # compiles and reads what the first run does
                began, clock = time.process_time(), time.perf_counter()
                frames = run()
                spent = [1000 * each / frames for each in (time.process_time() - began, time.perf_counter() - clock)]
                print(f"{clip.stem}, {frames} frames, {name}: {spent[0]:.1f} ms of processor time a frame, ", end="")
                print(f"{spent[1]:.1f} by the clock, {torch.get_num_threads()} threads", flush=True)


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
    parser.add_argument("--pti", type=int, default=0)
    parser.add_argument("--speed", type=Path, nargs="+")
    parser.add_argument("--sheet", type=Path)
    parser.add_argument("--channels", type=Path)
    parser.add_argument("--search-cost", action="store_true")
    given = parser.parse_args()
    if given.channels:
        return draw_channels(given.channels)
    if given.speed:
        return speed(given.speed)
    if given.search_cost:
        return search_cost()
    return evaluate(given.clips, given.frames, given.refine, given.pti, given.sheet)


if __name__ == "__main__":
    main()
