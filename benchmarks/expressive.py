"""How well 35 numbers a frame show held-out clips of the world again, and what the search costs at 1024 px.

    python benchmarks/expressive.py [--clips 10] [--frames 50] [--refine 0] [--pti 0] [--drawings] [--sheet FILE.png]
    python benchmarks/expressive.py --speed CLIP...
    python benchmarks/expressive.py --channels FILE.png
    python benchmarks/expressive.py --search-cost
    python benchmarks/expressive.py --readings [--clips 2] [--frames 12] [--refine 20]

The first draws clips of people whom no training has seen, encodes them (the person by the frame that is near frontal
and whose reconstruction is most similar, the numbers by the reader in one pass, with --refine also so many steps of
optimisation, with --pti the generator tuned to 4 frames by so many passes, as a talk file carries it), decodes them,
and prints for each factor the correlation with the truth, within clips (mean over those in which the factor moves) and
over all: of what was read, and of what the face net reads in the decoded frames, in the generator's best (given the
true factors) and in the true frames, its own ceiling; with --drawings also, of some factors, what no network reads:
the value whose drawing, all else as it truly is, correlates best with that part of the face; every fourth frame of 25
a second is taken. Identity is the cosine of the built-in net between decoded and true frames, as a share of that
between the true first frame and the others. --speed takes the time of encoding clips and of decoding the files again,
without loading.
--channels draws every channel at both ends of its range. --search-cost times the search's rendering on a 1024 px
generator with random weights. --readings compares the two readings of the paper's numbers: absolute ones, refined all
at once from the reading of one pass, and what is added from frame to frame, each frame refined from the one before;
and what rounding does to both.
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
from stylereel.codec.packets import pack_identity, unpack_identity
from stylereel.core.latents import Identity, Motion
from stylereel.core.render import pictures, portrait, render, tuned
from stylereel.family.people import codes_of, motion_codes
from stylereel.generator import StyleGAN2, StyleGAN2Config
from stylereel.invert.networks import encoded
from stylereel.invert.perceptual import Perceptual
from stylereel.media.pictures import save_picture
from stylereel.media.sheet import contact_sheet
from stylereel.metrics.exact import HELD_OUT, by_face_net
from stylereel.metrics.features import to_unit
from stylereel.metrics.likeness import builtin_embeddings, cosine
from stylereel.systems.expressive import fit, search
from stylereel.systems.expressive.channels import POSE, table
from stylereel.systems.expressive.reader import READ, through_blinks
from stylereel.systems.expressive.system import CANDIDATES, TALK, TURN, Expressive
from stylereel.world.factors import HIGH, INDEX, LOW, MOTION, MOTION_COLUMNS

MANNERS = ("talking", "expressions", "listening")
MOVES = 0.03  # of its range: the deviation from which a factor counts as moving in a clip
EVERY = 4  # of the frames of 25 a second: clips of few frames are to show many movements
PLACES = [MOTION.index(name) for name in READ]
LIDS = [MOTION.index("blink_left"), MOTION.index("blink_right")]
# Landmarks around which drawings are compared, half of the height and width in pixels, and the values that are drawn.
DRAWN = {
    "gaze_y": (((36, 42), (42, 48)), (9, 15), np.linspace(-0.7, 0.7, 8)),
    "brow_left": (((22, 27),), (15, 18), np.linspace(-1, 1, 8)),
    "pucker": (((48, 68),), (20, 30), np.linspace(0, 1, 7)),
}
STEP = 0.1  # of the 32 numbers in a talk file at its usual rate


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


def by_drawings(images: dict[str, np.ndarray], values: np.ndarray, name: str) -> dict[str, np.ndarray]:
    """Of each clip [T, H, W, 3] a factor [T], by its drawings with the true person and all else that is true."""
    places, half, grid = DRAWN[name]
    found: dict[str, list[float]] = {title: [] for title in images}

    def parts(image: np.ndarray, points: np.ndarray) -> np.ndarray:
        high, wide = half
        cut = []
        for first, last in places:
            x, y = np.rint(256 * points[first:last].mean(0)).astype(int)
            cut.append(image[y - high : y + high, x - wide : x + wide].mean(-1).ravel())
        whole = np.stack(cut)
        whole = whole - whole.mean(1, keepdims=True)
        return whole / np.linalg.norm(whole, axis=1, keepdims=True)

    for at, row in enumerate(values):
        rows = np.repeat(row[None], len(grid), 0)
        rows[:, INDEX[name]] = grid
        points = world.project_landmarks(row)[0]
        drawn = np.stack([parts(world.draw(one, 256).image, points) for one in rows])
        for title, clip in images.items():
            match = (drawn * parts(clip[at], points)).sum((1, 2))
            best = int(np.clip(match.argmax(), 1, len(grid) - 2))
            before, here, after = match[best - 1 : best + 2]
            bend = before - 2 * here + after
            found[title].append(grid[best] + (grid[1] - grid[0]) * np.clip((before - after) / (2 * bend), -1, 1))
    return {title: np.array(each) for title, each in found.items()}


def evaluate(clips: int, frames: int, steps: int, passes: int, drawings: bool, sheet: Path | None) -> None:
    system = systems.load("expressive")
    assert isinstance(system, Expressive)
    rows: dict[str, list[np.ndarray]] = {}
    matched: dict[tuple[str, str], list[list[float]]] = {}
    pooled: dict[str, list[tuple[np.ndarray, np.ndarray]]] = {}
    identity, cells, sizes = [], [], []
    seconds = dict.fromkeys(("read", "code", "decode", "refine", "person", "tune"), 0.0)
    for number in range(clips):
        images, values = draw_clip(number, frames)
        motion = values[:, MOTION_COLUMNS]
        truth = motion[:, PLACES]
        began = time.process_time()
        parts = [system.read_images(to_unit(part)) for part in np.split(images, range(8, frames, 8))]
        read = through_blinks(np.concatenate(parts))
        seconds["read"] += time.process_time() - began
        began = time.process_time()
        numbers = system.encode_factors(read)
        seconds["code"] += time.process_time() - began
        turn = np.abs(numbers[:, :2] / TURN).max(1)
        near = turn.argsort(kind="stable")[:CANDIDATES]
        began = time.process_time()
        best = near[fit.best_of(system.generator, encoded(system.encode, images[near]), images[near])]
        person = system.identify(images[best])
        w = person.w
        seconds["person"] += time.process_time() - began
        began = time.process_time()
        if steps:
            numbers[:, len(POSE) :] = refined(system, w, numbers, images, steps)
        seconds["refine"] += time.process_time() - began
        began = time.process_time()
        shown = batches(system, w, numbers)
        seconds["decode"] += time.process_time() - began
        if passes:
            began = time.process_time()
            places = np.tile(np.array([128, 128, 256, 0], np.float32), (frames, 1))
            motion_of_clip = Motion(numbers, TALK, system.channels.motion_names, Fraction(25), places)
            body = pack_identity(system.tune(person, images, motion_of_clip, passes))  # type: ignore[arg-type]
            seconds["tune"] += time.process_time() - began
            sizes.append((len(pack_identity(person)), len(body)))
            sharp = batches(tuned(system, unpack_identity(body)), w, numbers)  # type: ignore[arg-type]
        else:
            sharp = shown
        whole = given_factors(system, w, motion)
        exact = batches(system, w, system.encode_factors(motion))
        for name, seen in {"read in one pass": read, **{name: by_face_net(each)[1] for name, each in {
            "decoded": shown, "decoded, tuned": sharp, "decoded, given the truth": exact,
            "the generator, given the truth": whole, "true frames": images}.items()}}.items():  # fmt: skip
            rows.setdefault(name, []).append(correlations(seen[:, PLACES], truth))
            pooled.setdefault(name, []).append((seen[:, PLACES], truth))
        if drawings:
            kinds = {"decoded": shown, "decoded, given the truth": exact, "true frames": images}
            for name in DRAWN:
                place = MOTION.index(name)
                open_ = motion[:, LIDS].max(1) < 0.4 if name == "gaze_y" else motion[:, place] > -1
                for title, seen in by_drawings(kinds, values, name).items():
                    moves = motion[:, place].std() >= MOVES * (HIGH - LOW)[MOTION_COLUMNS][place]
                    matched.setdefault((name, title), []).append([
                        np.corrcoef(seen[kept], motion[kept, place])[0, 1] if moves else np.nan
                        for kept in (np.full(len(seen), True), open_)
                    ])  # fmt: skip
        psnr = 10 * np.log10(255**2 / np.square(exact.astype(float) - whole).mean())
        true, made = builtin_embeddings(images), builtin_embeddings(shown)
        same = cosine(np.repeat(true[:1], frames - 1, 0), true[1:]).mean()
        known = builtin_embeddings(batches(system, codes_of(system.generator, values[:1])[0], numbers))
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
    for (name, title), found in matched.items():
        whole, open_ = np.nanmean(found, axis=0)
        print(f"{name} by drawings, {title}: {whole:.2f}, of frames with open eyes {open_:.2f}")
    cosines, known, by_tuned, same, psnr = np.mean(identity, axis=0)
    print(f"\nidentity {cosines:.3f}, {known:.3f} with the person's own code, {by_tuned:.3f} by the tuned generator")
    print(f"of the same person's ceiling {same:.3f}: {cosines / same:.3f}, {known / same:.3f}, {by_tuned / same:.3f}")
    print(f"32 channels against all {psnr:.1f} dB")
    if sizes:
        before, after = np.mean(sizes, 0)
        print(f"a person takes {before:.0f} bytes, a tuned one {after:.0f}")
    each = {name: value / clips for name, value in seconds.items()}
    print(f"seconds a clip of processor time: person {each.pop('person'):.1f}, tuning {each.pop('tune'):.1f}")
    spent = ", ".join(f"{name} {1000 * value / frames:.1f}" for name, value in each.items())
    print(f"milliseconds a frame of processor time: {spent}")
    if sheet:
        half = [np.reshape(cell, (128, 2, 128, 2, 3)).mean((1, 3)).round().astype(np.uint8) for cell in cells]
        save_picture(sheet, contact_sheet(half, 6, [""] * len(half)))


def refined(system: Expressive, w: torch.Tensor, numbers: np.ndarray, images: np.ndarray, steps: int) -> np.ndarray:
    """The 32 numbers after optimisation against the frames."""
    small = torch.nn.functional.adaptive_avg_pool2d(to_unit(images), search.SIZE)
    with torch.inference_mode():
        points = torch.cat([system.face(part).landmarks for part in small.split(8)])
        base = system.base(w[None], torch.from_numpy(numbers[:, : len(POSE)]))
    points, base = points.clone(), base.clone()
    found = fit.refine(
        system.generator, system.channels, lambda part: base[part], small, points,
        torch.from_numpy(numbers[:, len(POSE) :]), Perceptual.best(), steps,
    )  # fmt: skip
    print(f"  refined: loss {found.before.mean():.4f} to {found.after.mean():.4f}")
    return found.values.numpy()


def readings(clips: int, frames: int, steps: int) -> None:
    """Loss, distance from the truth and time of both readings, and their error when coded."""
    system, perceptual = systems.load("expressive"), Perceptual.best()
    assert isinstance(system, Expressive)
    first = len(POSE)
    for number in range(clips):
        images, values = draw_clip(number, frames)
        motion = values[:, MOTION_COLUMNS]
        read = np.concatenate([system.read_images(to_unit(part)) for part in np.split(images, range(8, frames, 8))])
        numbers = torch.from_numpy(system.encode_factors(through_blinks(read)))
        exact = torch.from_numpy(system.encode_factors(motion))[:, first:]
        w = codes_of(system.generator, values[:1])
        small = torch.nn.functional.adaptive_avg_pool2d(to_unit(images), search.SIZE)
        with torch.inference_mode():
            points = torch.cat([system.face(part).landmarks for part in small.split(8)])
            base = system.base(w, numbers[:, :first])
        points, base = points.clone(), base.clone()

        def solve(places: list[int], start: torch.Tensor, steps: int) -> fit.Found:
            return fit.refine(system.generator, system.channels, lambda part: base[places][part], small[places],  # noqa: B023
                              points[places], start, perceptual, steps)  # noqa: B023  # fmt: skip

        whole, codes, seconds = list(range(frames)), {"one pass": numbers[:, first:]}, {"one pass": 0.0}
        began = time.process_time()
        codes["absolute, from one pass"] = solve(whole, codes["one pass"], steps).values
        seconds["absolute, from one pass"] = time.process_time() - began
        began = time.process_time()
        steady = [solve([0], codes["one pass"][:1], steps).values[0]]
        for at in range(1, frames):
            steady.append(solve([at - 1, at], steady[-1].expand(2, -1), steps).values[1])
        codes["from frame to frame"], seconds["from frame to frame"] = torch.stack(steady), time.process_time() - began
        for name, code in codes.items():
            loss, off = solve(whole, code, 0).before.mean(), (code - exact).square().mean().sqrt()
            spent = f"{seconds[name] / frames:.1f} s a frame"
            print(f"clip {number}, {name}: loss {loss:.3f}, from the truth {off:.3f}, {spent}")
    kept: dict[str, list[float]] = {"absolute": [], "increments": []}
    for number in range(clips):
        motion = world.natural_motion(HELD_OUT + 100_000 + number, 500, Fraction(25), MANNERS[number % 3])  # type: ignore[arg-type]
        code = system.encode_factors(motion)[:, first:]
        for name, coded in {
            "absolute": np.rint(code / STEP),
            "increments": np.cumsum(np.rint(np.diff(code, axis=0, prepend=0 * code[:1]) / STEP), 0),
        }.items():
            kept[name].append(np.sqrt(np.square(STEP * coded - code).mean(1)))  # type: ignore[arg-type]
    for name, errors in kept.items():
        error = np.mean(errors, 0)
        print(f"{name}, rounded to {STEP}: error {error[:25].mean():.3f} in the first second, {error[-25:].mean():.3f} "
              "in the twentieth")  # fmt: skip


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
    parser.add_argument("--clips", type=int, default=10)
    parser.add_argument("--frames", type=int, default=50)
    parser.add_argument("--refine", type=int, default=0)
    parser.add_argument("--pti", type=int, default=0)
    parser.add_argument("--speed", type=Path, nargs="+")
    parser.add_argument("--drawings", action="store_true")
    parser.add_argument("--sheet", type=Path)
    parser.add_argument("--channels", type=Path)
    parser.add_argument("--search-cost", action="store_true")
    parser.add_argument("--readings", action="store_true")
    given = parser.parse_args()
    if given.channels:
        return draw_channels(given.channels)
    if given.speed:
        return speed(given.speed)
    if given.search_cost:
        return search_cost()
    if given.readings:
        return readings(given.clips, given.frames, given.refine)
    return evaluate(given.clips, given.frames, given.refine, given.pti, given.drawings, given.sheet)


if __name__ == "__main__":
    main()
