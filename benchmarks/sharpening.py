"""Ways of sharpening the built-in generator, on held-out people.

    python benchmarks/sharpening.py --folder FOLDER [--start FILE] [--people 48] [--sheet SHEET.png]

The last two go on for longer than the first three. For each way: seconds, PSNR to the world's images, power over theirs
and coherence with them in bands of frequency. The sheet shows the world's images in its first row, then each way's.
"""

from __future__ import annotations

import argparse
import time
from dataclasses import replace
from pathlib import Path

import numpy as np
import torch
from family import generate, latents, spectrum, truth
from PIL import Image

from stylereel.core.builtin import builtin
from stylereel.family.nets import load_face
from stylereel.generator import StyleGAN2
from stylereel.media.sheet import side_by_side
from stylereel.recipes.sharpen import SharpenConfig
from stylereel.recipes.stylegan2 import CONFIG, DETAIL, DETAILED, finish
from stylereel.train.loop import Trainer

# The blocks that learn, and the losses.
FINE, NO_PIXELS = CONFIG.resolutions[-DETAILED:], replace(DETAIL, steps=200, image=0.0, colour=0.0)
WAYS = {
    "all blocks, pixels": (CONFIG.resolutions, SharpenConfig(200, colour=0.0)),
    "fine blocks, features": (FINE, replace(NO_PIXELS, power=0.0)),
    "fine blocks, features and power": (FINE, replace(NO_PIXELS, power=0.5)),
    "that for longer, more power": (FINE, replace(NO_PIXELS, steps=1000, power=0.75)),
    "the recipe": (FINE, replace(DETAIL, colour=0.0)),
}


def sharpened(start: StyleGAN2, folder: Path, way: str) -> StyleGAN2:
    blocks, config = WAYS[way]
    trainer, face = Trainer(folder / way.replace(" ", "-").replace(",", "")), load_face(builtin("face"))
    trainer.freeze(face)
    return finish(trainer, start, face, config, "sharpening", blocks)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--folder", type=Path, required=True, help="for checkpoints; a second call goes on from them")
    parser.add_argument("--start", type=Path, default=builtin("generator"), help="weights of a built-in generator")
    parser.add_argument("--people", type=int, default=48)
    parser.add_argument("--sheet", type=Path)
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    before, z = StyleGAN2.load(arguments.start), latents(6, arguments.people)
    real = truth(before, z)
    rows = [real[:6]]
    for way in ["before", *WAYS]:
        begun = time.process_time()
        made = generate(before if way == "before" else sharpened(before, arguments.folder, way), z)
        psnr = np.mean([10 * np.log10(255**2 / np.square(a - b.astype(float)).mean()) for a, b in zip(made, real)])
        print(f"{way}: {time.process_time() - begun:.0f} s of a processor, {psnr:.1f} dB, {spectrum(made, real)}")
        rows.append(made[:6])
    if arguments.sheet:
        Image.fromarray(np.concatenate([side_by_side(list(row)) for row in rows])).save(arguments.sheet)


if __name__ == "__main__":
    main()
