"""`stylereel reproduce stylevideogan`: the paper's comparisons on the built-in family, with exact truth.

The paper trains 20 models on a clip of 20 seconds that says one sentence three times and counts how many loop, with and
without the gradient angle penalty; it gives Frechet distances of short and of long samples against the original frames
and against the frames rebuilt from their codes; and it moves the motion to other people by an offset through a PCA.
The clip here is the world's: three times the same speech under a head that moves on.
"""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Iterator
from fractions import Fraction
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from stylereel import world
from stylereel.core.files import replacing
from stylereel.core.latents import Codes
from stylereel.core.render import pictures
from stylereel.core.runs import claim
from stylereel.core.system import Device
from stylereel.core.weights import save_module
from stylereel.generator import StyleGAN2
from stylereel.metrics.clips import Clip
from stylereel.metrics.motion import loop
from stylereel.metrics.registry import Run, Unfit, find
from stylereel.metrics.report import Claim, Number, write_report
from stylereel.systems.sources import world_generator
from stylereel.systems.stylevideogan.codes import exact_codes, precision
from stylereel.systems.stylevideogan.networks import KIND, VideoGenerator, load_model
from stylereel.systems.stylevideogan.training import Recipe, config_of, sample_path, train
from stylereel.train.loop import Trainer
from stylereel.world.factors import LATENT_DIM, MOTION, MOTION_COLUMNS
from stylereel.zoo.families import BUILTIN

RATE, SENTENCE, TIMES = Fraction(25), 167, 3  # 20 seconds
SPEAKER, MOVEMENT = 7, 21  # seeds
SPEECH = ("jaw", "pucker", "press")
VARIANTS = {"with the angle penalty": 100.0, "without": 0.0}
LOOPED = 3  # samples of a model that the loop test sees; the model loops if most of them do
LOOP_FRAMES, SETTLED = 1500, 100  # of such a sample, and frames left out at its start
CHUNK, BATCH = 8, 16


class Frames:
    """Pictures of W+ codes [T, L, D] or of factor values [T, K], made anew at each iteration."""

    def __init__(self, count: int, draw: Callable[[slice], np.ndarray]) -> None:
        self._count, self._draw = count, draw

    def __len__(self) -> int:
        return self._count

    def __iter__(self) -> Iterator[np.ndarray]:
        for first in range(0, self._count, CHUNK):
            yield from self._draw(slice(first, min(first + CHUNK, self._count)))

    @classmethod
    def of_codes(cls, generator: StyleGAN2, w: Tensor) -> Frames:
        """Shown by the generator."""

        def draw(part: slice) -> np.ndarray:
            with torch.inference_mode():
                return pictures(generator.synthesize(w[part].to(generator.mean_w.device)))

        return cls(len(w), draw)

    @classmethod
    def of_values(cls, values: np.ndarray, size: int) -> Frames:
        """Drawn by the world."""
        return cls(len(values), lambda part: np.stack([world.draw(each, size).image for each in values[part]]))


def sentence_clip() -> np.ndarray:
    """Factor values [501, K] of the speaker, who says one sentence three times."""
    motion = world.natural_motion(MOVEMENT, SENTENCE * TIMES, RATE)
    spoken = [MOTION.index(name) for name in SPEECH]
    motion[:, spoken] = np.tile(motion[:SENTENCE, spoken], (TIMES, 1))
    return _person(SPEAKER, motion)


def _person(seed: int, motion: np.ndarray) -> np.ndarray:
    """Aligned factor values [T, K] of a person with a motion [T, M]."""
    values = np.tile(world.person(seed), (len(motion), 1))
    values[:, MOTION_COLUMNS] = motion
    return world.align(values)


def reproduce(
    *,
    out: str,
    trainings: int = 10,
    steps: int = 3000,
    short: int = 64,
    long: int = 8,
    long_frames: int = 250,
    people: int = 20,
    seed: int = 0,
    official: bool = False,
    family: str = BUILTIN,
    device: Device = "auto",
    overwrite: bool = False,
) -> list[Path]:
    """StyleVideoGAN's paper on the built-in family: looping, short and long distances, and the offset.

    Writes report.md and report.json. Trainings and measured numbers are kept, so that a stopped run goes on.

    Args:
        out: folder for the report and the trainings.
        trainings: with the angle penalty, and as many without.
        steps: training steps of each variant.
        short: samples of 25 frames of each model (the paper: 2048).
        long: longer samples of each model (the paper: 128).
        long_frames: frames of a long sample, 32 or more.
        people: to whom the motion is moved.
        seed: random seed of the first training; the others count up from it.
        official: FID and FVD by Inception and I3D, whose files must be in the cache folder; else the same distances by
            the built-in face net, which are not comparable with published ones.
        family: whose generator: builtin, or a TOML file that names another one of the world's people.
        device: where the networks run; auto takes a GPU if there is one.
        overwrite: also replace a report that no earlier run made.
    """
    if min(trainings, steps, long, people) < 1 or short < 2 or long_frames < 32:
        raise ValueError("The study needs 1 training, step, long sample and person, 2 short ones and 32 frames.")
    folder = Path(out)
    claim([folder / "report.md", folder / "report.json"], overwrite=overwrite)
    generator, file = world_generator(family, device)
    run = Run(seed, BATCH, device=generator.mean_w.device.type)  # keeps the features of the references
    chosen = ["fid", "fvd"] if official else ["frechet", "frechet-video"]
    values = sentence_clip()
    codes = exact_codes(values, generator, file, SPEAKER, RATE)
    references = {
        "original": [Clip(Frames.of_values(values, generator.resolution), "original", RATE)],
        "rebuilt": [Clip(Frames.of_codes(generator, codes.w), "rebuilt", RATE)],
    }
    found: dict[str, list[dict[str, float]]] = {variant: [] for variant in VARIANTS}
    for number in range(seed, seed + trainings):
        for variant, weight in VARIANTS.items():
            place = folder / codes.generator[:8] / f"{number}-{'with' if weight else 'without'}"
            result = place / f"{chosen[0]}-{steps}-{short}-{long}-{long_frames}.json"
            if not result.exists():
                model = _train(place, codes, steps, weight, number, device).to(run.device)
                numbers = _measure(model, generator, references, short, long, long_frames, chosen, run)
                with replacing(result) as partial:
                    partial.write_text(json.dumps(numbers, indent=2))
            found[variant].append(json.loads(result.read_text()))
    columns = list(found["without"][0])
    rows: dict[str, dict[str, Number | str]] = {
        variant: {name: Number.mean(np.array([each[name] for each in numbers])) for name in columns}
        for variant, numbers in found.items()
    }
    offset = _move_to_people(generator, codes, values, people, seed)
    offset_rows = {name: {"PSNR against the truth, dB": Number.mean(numbers)} for name, numbers in offset.items()}
    files = write_report(
        folder,
        "StyleVideoGAN on the built-in family",
        rows,
        claims(found, offset),
        {
            "trainings": f"{trainings} each, {steps} steps of {Recipe.batch} sequences of {Recipe.frames} frames",
            "clip": f"{len(codes)} frames, one sentence said {TIMES} times, exact codes",
            "loops": f"share of models of which most of {LOOPED} samples of {LOOP_FRAMES} frames repeat",
            "distances": f"{chosen[0]} of frames, {chosen[1]} of windows of 16 frames",
            "short, long": f"{short} samples of {Recipe.frames} frames; {long} of {long_frames}",
            "offset": f"{people} people with the clip's motion: "
            + "; ".join(f"{name} {row['PSNR against the truth, dB']} dB" for name, row in offset_rows.items()),
        },
    )
    return files


def claims(found: dict[str, list[dict[str, float]]], offset: dict[str, np.ndarray]) -> list[Claim]:
    """The paper's claims, each decided by the interval of a paired difference."""
    with_penalty, without = (
        {name: np.array([each[name] for each in found[variant]]) for name in found[variant][0]} for variant in VARIANTS
    )
    short, video = "video, short, rebuilt", "video, long, rebuilt"

    def claim(paper: str, what: str, difference: np.ndarray) -> Claim:
        return Claim.of(paper, what, Number.mean(difference), better=False)

    return [
        claim("fewer models loop with the penalty (6 against 19 of 20)", "the share of looping models",
              with_penalty["loops"] - without["loops"]),
        claim("the penalty lowers the video distance of long samples (84 against 178)", "the distance",
              with_penalty[video] - without[video]),
        claim("without the penalty the video distance of short samples is lower (33 against 43)", "the distance",
              without[short] - with_penalty[short]),
        claim("rebuilt frames are nearer to the samples than original ones (43 against 628)", "the distance",
              with_penalty[short] - with_penalty[short.replace("rebuilt", "original")]),
        claim("long samples are farther from the clip than short ones (84 against 43)", "the distance",
              with_penalty[short] - with_penalty[video]),
        claim("the offset through the PCA shows the person better than the naive one", "PSNR in dB",
              offset["naive"] - offset["through the PCA"]),
    ]  # fmt: skip


def _train(place: Path, codes: Codes, steps: int, angle_weight: float, seed: int, device: Device) -> VideoGenerator:
    """The model of one training, from its file if it is there."""
    file = place / f"{KIND}-{steps}.safetensors"
    if not file.exists():
        recipe = Recipe(angle_weight=angle_weight, seed=seed).lasting(steps, len(codes))
        model = train(Trainer(place, precision="32", device=device), codes, recipe, str(steps))
        save_module(file, KIND, model)
    return load_model(file)


@torch.inference_mode()
def _measure(
    model: VideoGenerator,
    generator: StyleGAN2,
    references: dict[str, list[Clip]],
    short: int,
    long: int,
    long_frames: int,
    chosen: list[str],
    run: Run,
) -> dict[str, float]:
    """Loop test, Frechet distances of frames and of video, short and long, against both references, and long ACD."""
    repeats, clips = [], []
    for number in range(LOOPED):
        track = model.coordinates(model.codes(sample_path(model, 1000 + number, LOOP_FRAMES)))
        repeats.append(loop(track[:, :10].cpu().numpy(), SETTLED))
    numbers = {
        "loops": float(np.mean([each.loops for each in repeats]) > 0.5),
        "repetition": float(np.mean([each.repetition for each in repeats])),
    }
    for length, (count, frames) in {"short": (short, Recipe.frames), "long": (long, long_frames)}.items():
        shown = [Frames.of_codes(generator, model.codes(sample_path(model, n, frames))) for n in range(count)]
        clips = [Clip(each, f"sample {n}", RATE) for n, each in enumerate(shown)]
        for name, reference in references.items():
            for kind, measure in zip(("frames", "video"), chosen):
                numbers[f"{kind}, {length}, {name}"] = find(measure)(clips, reference, run).value
    try:
        numbers["ACD"] = find("acd-dlib")(clips, None, run).value
    except Unfit:  # no face is found
        numbers["ACD"] = math.nan
    return numbers


@torch.inference_mode()
def _move_to_people(
    generator: StyleGAN2, codes: Codes, values: np.ndarray, people: int, seed: int
) -> dict[str, np.ndarray]:
    """PSNR [people] of the clip's own motion moved to people by both offsets, against the world's exact images.

    A person is given by one image with a pose and expression of its own. naive: the difference of that code and the
    mean of the clip's codes is added; through the PCA: the part of it outside the clip's components; weighed: the
    same as this package does it.
    """
    model = VideoGenerator(config_of(codes, Recipe(width=8)))  # for its components alone
    model.learn_statistics(codes.w)
    chosen = np.linspace(0, len(codes) - 1, 12).round().astype(int)
    weighed, place = precision(generator).cpu(), generator.mean_w.device
    offsets = {
        "naive": lambda w: w - model.mean,
        "through the PCA": model.offset,
        "weighed": lambda w: model.offset(w, weighed),
    }
    numbers: dict[str, list[float]] = {name: [] for name in offsets}
    for person in range(seed + 500, seed + 500 + people):
        z = np.random.default_rng(person).standard_normal(LATENT_DIM)
        w = generator.map(torch.from_numpy(z).float()[None].to(place))[0].cpu()
        factors = np.tile(world.from_latent(z), (len(chosen), 1))
        factors[:, MOTION_COLUMNS] = values[chosen][:, MOTION_COLUMNS]
        truth = np.stack([world.draw(each, generator.resolution).image for each in world.align(factors)])
        for name, offset in offsets.items():
            shown = pictures(generator.synthesize((codes.w[chosen] + offset(w)).to(place)))
            error = np.square(shown.astype(np.float64) - truth).mean((1, 2, 3))
            numbers[name].append(float(np.mean(10 * np.log10(255**2 / error))))
    return {name: np.array(each) for name, each in numbers.items()}
