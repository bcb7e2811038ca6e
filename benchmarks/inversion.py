"""How near inversion comes: held-out portraits of the world by encoder, optimisation and pivotal tuning.

    python benchmarks/inversion.py [--count 200] [--steps 100] [--passes 60] [--out numbers.md] [--picture rows.png]

Prints a Markdown table: means over the portraits at the generator's size, and the seconds that each step took for one
portrait. Identity is the cosine of the built-in identity net's embeddings.
"""

from __future__ import annotations

import argparse
import time
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from stylereel.commands.invert import Quality
from stylereel.core.builtin import builtin
from stylereel.core.render import pictures
from stylereel.family.people import draw_batch
from stylereel.generator import StyleGAN2
from stylereel.invert.networks import identity_net, load_encoder
from stylereel.invert.optimise import Fit, optimise
from stylereel.invert.perceptual import Perceptual, likeness
from stylereel.invert.pti import tune
from stylereel.media.pictures import save_picture
from stylereel.media.sheet import contact_sheet

SEED = 777  # of the portraits; no recipe draws from it
BATCH = 3  # the first batch is in the picture


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--count", type=int, default=200)
    parser.add_argument("--steps", type=int, default=100)
    parser.add_argument("--passes", type=int, default=60)
    parser.add_argument("--out", type=Path)
    parser.add_argument("--picture", type=Path)
    arguments = parser.parse_args()

    generator = StyleGAN2.load(builtin("generator")).eval().requires_grad_(False)
    encoder, perceptual, embed = load_encoder(), Perceptual.best(), identity_net()
    look = likeness(perceptual, embed)
    numbers: dict[str, list[list[float]]] = {}
    rows: list[Tensor] = []

    def note(name: str, images: Tensor, again: Tensor, seconds: float) -> None:
        measured = Quality.of(images, again, perceptual, embed)
        numbers.setdefault(name, []).extend([*row, seconds / len(images)] for row in zip(*measured))
        if first == 0:
            rows.append(again)

    for first in range(0, arguments.count, BATCH):
        images = draw_batch((SEED, first), min(BATCH, arguments.count - first), generator.resolution).images
        note("the portraits themselves", images, images, 0.0)
        began = time.perf_counter()
        with torch.no_grad():
            start = Fit(encoder(images))
        note("encoder", images, shown(start, generator), time.perf_counter() - began)
        fits = {}
        for space in ("w+", "features"):
            began = time.perf_counter()
            fits[space] = optimise(generator, images, start.w, look, space, arguments.steps)
            spent = time.perf_counter() - began
            note(f"+ optimisation, {space}", images, shown(fits[space], generator), spent)
        began = time.perf_counter()
        again = []
        for i in range(len(images)):
            one = fits["w+"][i : i + 1]
            delta = tune(generator, one, images[i : i + 1], look, arguments.passes)
            again.append(shown(one, generator.tuned(delta)))
        note("+ optimisation, w+, + PTI", images, torch.cat(again), time.perf_counter() - began)
        text = table(numbers, perceptual.name, arguments)
        if arguments.out:
            arguments.out.write_text(text, encoding="utf-8")
        if arguments.picture and first == 0:
            save_picture(arguments.picture, contact_sheet([p for row in rows for p in pictures(row)], len(images)))
        print(text, flush=True)


def shown(fit: Fit, generator: StyleGAN2) -> Tensor:
    with torch.no_grad():
        return fit.render(generator).clamp(-1, 1)


def table(numbers: dict[str, list[list[float]]], name: str, arguments: argparse.Namespace) -> str:
    lines = [f"| | PSNR, dB | identity | {name} | seconds |", "|---|---|---|---|---|"]
    for step, values in list(numbers.items())[1:]:
        psnr, identity, distance, seconds = np.mean(values, axis=0)
        lines.append(f"| {step} | {psnr:.2f} | {identity:.4f} | {distance:.4f} | {seconds:.2f} |")
    count = len(numbers["encoder"])
    told = f"{count} portraits, {arguments.steps} steps, {arguments.passes} passes of PTI, "
    return "\n".join([*lines, "", told + f"{torch.get_num_threads()} threads."]) + "\n"


if __name__ == "__main__":
    main()
