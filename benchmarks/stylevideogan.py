"""StyleVideoGAN's motion against its clip's, for the models of the world's clips and for the unpublished choices.

    python benchmarks/stylevideogan.py --models FOLDER [--sheets docs] [--seed 0]
    python benchmarks/stylevideogan.py [--steps 1000] [--clip talking] [--out FOLDER] [--only NAME,NAME]
    python benchmarks/stylevideogan.py --cost

Sixty-four samples of 1,500 frames are held against the clip: standard deviation, speed (root mean square change a
frame) and jitter (`metrics.motion.unsteadiness`) of factors read from the codes, as ratios to the clip's; blinks; the
deviation of lids that are not shut; the largest repetition. --models does so for the models in a folder (`builtin` for
the installed ones); --sheets draws curves and frames of them, --seed is that of the first sample. Otherwise critic
steps, Adam's betas, rates, widths, rows or components are compared: every choice trains for as many steps, on one
thread, and its processor time a step is shown. --cost times a training step on random codes of FFHQ's size (18 x 512)
at the paper's width and batch.
"""

from __future__ import annotations

import argparse
import json
import math
import tempfile
import time
from collections.abc import Sequence
from dataclasses import replace
from fractions import Fraction
from pathlib import Path
from typing import Any

import numpy as np
import torch
from matplotlib.figure import Figure

from stylereel.core.builtin import BUILTIN, builtin
from stylereel.core.latents import Codes
from stylereel.core.render import pictures
from stylereel.family.people import FIRST_ROW
from stylereel.generator import StyleGAN2
from stylereel.media.pictures import save_picture
from stylereel.media.sheet import contact_sheet
from stylereel.metrics.motion import loop, unsteadiness
from stylereel.systems.stylevideogan.codes import CLIPS, precision, resting_code
from stylereel.systems.stylevideogan.networks import KIND, VideoGenerator, load_model
from stylereel.systems.stylevideogan.training import Recipe, sample_path, train
from stylereel.train.loop import Trainer
from stylereel.world.factors import GROUP, LATENT_DIM, MOTION, MOTION_COLUMNS, from_latent

BASE = Recipe()
CHOICES: dict[str, Recipe] = {
    "base: components, width 96, rates 0.001 and 0.002, betas 0 and 0.9, 1 critic step": BASE,
    "no moments": replace(BASE, moment_weight=0.0),
    "no distributions": replace(BASE, spread_weight=0.0),
    "no finish": replace(BASE, finish=0.0),
    "no angle penalty": replace(BASE, angle_weight=0.0),
    "gradient penalty 10": replace(BASE, gradient_weight=10.0),
    "2 critic steps": replace(BASE, critic_steps=2),
    "5 critic steps": replace(BASE, critic_steps=5),
    "betas 0.5 and 0.9": replace(BASE, betas=(0.5, 0.9)),
    "betas 0 and 0.99": replace(BASE, betas=(0.0, 0.99)),
    "rates twice as high": replace(BASE, rate=2 * BASE.rate, critic_rate=2 * BASE.critic_rate),
    "the paper's rate 0.005": replace(BASE, rate=0.005, critic_rate=0.005),
    "width 192": replace(BASE, width=192),
    "batch 64": replace(BASE, batch=64),
    "rows, width 192": replace(BASE, reduced=False, width=192),
}
FACTORS = ("yaw", "pitch", "roll", "jaw", "smile", "brow_left", "blink_left", "gaze_x")
SAMPLES, FRAMES, SETTLED = 64, 1500, 50
CURVES, PEOPLE, COLUMNS = ("yaw", "jaw", "smile", "blink_left"), (None, 29, 12), 8


class Readout:
    """Reads motion factors [T, M] from W+ codes [T, L, D] of the built-in generator.

    Each is a linear function of the first row that carries its group, fitted to random latents, whose factors are
    exact; a fit to the clip's own codes would follow them closer, but mistake blends that the clip does not have.
    """

    def __init__(self, generator: StyleGAN2) -> None:
        z = np.random.default_rng(5).standard_normal((20_000, LATENT_DIM), np.float32)
        with torch.no_grad():
            w = generator.mapping(torch.from_numpy(z)).numpy()
        self._matrix = np.linalg.lstsq(self._terms(w), from_latent(z)[:, MOTION_COLUMNS], rcond=None)[0]
        groups = [FIRST_ROW[GROUP[name]] for name in MOTION]
        self._columns = {row: [i for i, group in enumerate(groups) if group == row] for row in set(groups)}

    @staticmethod
    def _terms(w: np.ndarray) -> np.ndarray:
        return np.pad(w, ((0, 0), (0, 1)), constant_values=1.0).astype(np.float64)

    def __call__(self, w: torch.Tensor) -> np.ndarray:
        values = np.empty((len(w), len(MOTION)))
        for row, columns in self._columns.items():
            values[:, columns] = self._terms(w[:, row].numpy()) @ self._matrix[:, columns]
        return values


def described(tracks: Sequence[np.ndarray], rate: Fraction) -> dict[str, float]:
    """Deviation, speed and jitter of each factor in tracks [T, M] of one length, all together, and blinks a minute."""
    numbers: dict[str, float] = {}
    for name in FACTORS:
        rows = np.stack([track[:, MOTION.index(name)] for track in tracks])
        numbers[f"{name} deviation"] = float(rows.std())
        numbers[f"{name} speed"] = float(np.sqrt(np.mean(np.diff(rows) ** 2)))
        numbers[f"{name} jitter"] = float(np.sqrt(np.mean([np.square(unsteadiness(row)) for row in rows])))
    lids = np.stack([track[:, MOTION.index("blink_left")] for track in tracks])
    shut, numbers["lids at rest"] = lids > 0.5, float(lids[lids < 0.3].std())
    numbers["blinks a minute"] = float(np.count_nonzero(shut[:, 1:] & ~shut[:, :-1]) / shut.size * float(rate) * 60)
    return numbers


@torch.no_grad()
def judge(model: VideoGenerator, codes: Codes, readout: Readout, first: int = 0) -> dict[str, Any]:
    """Ratios of a model's samples to the clip it learned from, and how much they repeat."""
    clip = described([readout(codes.w)], codes.rate)
    seeds = range(first, first + SAMPLES)
    tracks = [readout(model.codes(sample_path(model, seed, FRAMES)))[SETTLED:] for seed in seeds]
    made = described(tracks, codes.rate)
    repeats = [loop(track[:, [MOTION.index(name) for name in FACTORS]]).repetition for track in tracks]
    ratios = {name: made[name] / max(clip[name], 1e-9) for name in clip}
    ratios["repetition"] = max(repeats)
    return ratios


def seconds_of(steps: int, codes: Codes, recipe: Recipe, folder: str | Path) -> tuple[float, VideoGenerator]:
    """Processor time of a training, and its model."""
    began = time.process_time()
    model = train(Trainer(folder, precision="32", device="cpu"), codes, recipe.lasting(steps, len(codes)))
    return time.process_time() - began, model


def run(name: str, recipe: Recipe, codes: Codes, readout: Readout, steps: int, out: Path) -> dict[str, Any]:
    """Train one choice for `steps` and judge it."""
    place = out / "".join(c if c.isalnum() else "-" for c in name)[:60]
    seconds, model = seconds_of(steps, codes, recipe, place)
    return {"seconds a step": seconds / steps, **judge(model, codes, readout)}


def models(folder: Path, sheets: Path | None, seed: int) -> None:
    """Print the table of the models of the world's clips in a folder; with `sheets` draw curves and frames of them."""
    generator = StyleGAN2.load(builtin("generator")).eval().requires_grad_(False)
    print(f"| clip | | {' | '.join(FACTORS)} |\n" + (2 + len(FACTORS)) * "|---" + "|")
    readout, ends, frames, tracks, weighed = Readout(generator), [], [], {}, precision(generator)
    for name, clip in CLIPS.items():
        path = folder / f"{KIND}-{name}.safetensors"
        if not path.exists():
            continue
        model, codes, values = load_model(path), clip.codes(generator, builtin("generator")), clip.values()
        numbers = judge(model, codes, readout, seed)
        for kind in ("deviation", "speed", "jitter"):
            # What hardly moves in the clip has no ratio.
            cells = [
                f"{numbers[f'{factor} {kind}']:.2f}" if values[:, MOTION.index(factor)].std() > 1e-3 else ""
                for factor in FACTORS
            ]
            print(f"| {name if kind == 'deviation' else ''} | {kind} | {' | '.join(cells)} |", flush=True)
        ends.append(
            f"{name}: {numbers['blinks a minute']:.2f} times the blinks, {numbers['lids at rest']:.2f} times the "
            f"movement of open lids, repetition {numbers['repetition']:.2f}"
        )
        if sheets:
            sample = model.codes(sample_path(model, 3, FRAMES))
            tracks[name] = readout(codes.w[:FRAMES]), readout(sample)
            for person in PEOPLE:
                shown = sample[SETTLED :: (FRAMES - SETTLED) // COLUMNS][:COLUMNS]
                if person is not None:
                    shown = shown + model.offset(resting_code(generator, person), weighed)
                with torch.inference_mode():
                    frames += [image[::2, ::2] for image in pictures(generator.synthesize(shown))]
    print("\n" + "\n".join(ends))
    if sheets:
        save_picture(sheets / f"{KIND}.png", contact_sheet(frames, COLUMNS))
        draw_curves(tracks, sheets / f"{KIND}-curves.png")


def draw_curves(tracks: dict[str, tuple[np.ndarray, np.ndarray]], out: Path) -> None:
    """Factors of each clip (above) and of a sample of its model (below) over time, as a PNG."""
    figure = Figure(figsize=(6 * len(tracks), 1.2 * 2 * len(CURVES)), layout="constrained")
    axes = figure.subplots(2 * len(CURVES), len(tracks), squeeze=False, sharex=True)
    for column, (name, pair) in enumerate(tracks.items()):
        for row, factor in enumerate(CURVES):
            values = [track[:, MOTION.index(factor)] for track in pair]
            limits = min(map(np.min, values)), max(map(np.max, values)) + 1e-3
            for part, (what, track) in enumerate(zip(("clip", "sample"), values)):
                axis = axes[2 * row + part, column]
                axis.plot(np.arange(len(track)) / 25, track, linewidth=0.7, color=f"C{part}")
                axis.set_ylim(*limits)
                axis.set_title(f"{name}, {what}: {factor}", fontsize=8)
        axes[-1, column].set_xlabel("seconds")
    figure.savefig(out, dpi=70)


def cost() -> None:
    """Seconds of a step at the paper's size on this machine, and what 350 epochs of ten minutes would take."""
    codes = Codes(torch.randn(2000, 18, 512), "random", Fraction(25), torch.zeros(2000, 4))
    recipe = Recipe(batch=128, width=512, reduced=False)
    with tempfile.TemporaryDirectory() as few, tempfile.TemporaryDirectory() as many:
        # Without what comes before and after the steps.
        each = (seconds_of(8, codes, recipe, many)[0] - seconds_of(4, codes, recipe, few)[0]) / 4
    steps = recipe.steps(15_000)
    print(f"{each:.1f} s a step of 128 x 25 codes of 18 x 512; {steps} steps: {each * steps / 3600:.1f} h")


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--steps", type=int, default=1000)
    parser.add_argument("--clip", default="talking", choices=sorted(CLIPS))
    parser.add_argument("--out", type=Path, default=Path("runs/stylevideogan-sweep"))
    parser.add_argument("--only", default="")
    parser.add_argument("--cost", action="store_true")
    parser.add_argument("--models")
    parser.add_argument("--sheets", type=Path)
    parser.add_argument("--seed", type=int, default=0)
    given = parser.parse_args()
    torch.set_num_threads(1)
    if given.cost:
        return cost()
    if given.models:
        return models(BUILTIN if given.models == "builtin" else Path(given.models), given.sheets, given.seed)
    clip, file = CLIPS[given.clip], builtin("generator")
    generator = StyleGAN2.load(file).eval().requires_grad_(False)
    codes, readout = clip.codes(generator, file), Readout(generator)
    given.out.mkdir(parents=True, exist_ok=True)
    columns = ("choice", "seconds a step", "pose deviation", "pose speed", "mouth deviation", "mouth speed", "blinks",
               "jitter", "repeats")  # fmt: skip
    print(f"| {' | '.join(columns)} |\n{len(columns) * '|---'}|")
    for name, recipe in CHOICES.items():
        if given.only and not any(part in name for part in given.only.split(",")):
            continue
        numbers = run(name, recipe, codes, readout, given.steps, given.out)
        (given.out / "results.jsonl").open("a").write(json.dumps({"choice": name, **numbers}) + "\n")
        pose = [math.exp(np.mean([math.log(numbers[f"{p} {kind}"]) for p in ("yaw", "pitch", "roll")]))
                for kind in ("deviation", "speed")]  # fmt: skip
        jitter = max(numbers[f"{factor} jitter"] for factor in FACTORS)
        cells = [*pose, numbers["jaw deviation"], numbers["jaw speed"], numbers["blinks a minute"], jitter]
        row = " | ".join(f"{cell:.2f}" for cell in [*cells, numbers["repetition"]])
        print(f"| {name} | {numbers['seconds a step']:.3f} | {row} |", flush=True)


if __name__ == "__main__":
    main()
