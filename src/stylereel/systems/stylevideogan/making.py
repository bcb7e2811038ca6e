"""`stylereel train stylevideogan`: from a clip, a file of codes or the world's clips to trained models."""

from __future__ import annotations

import platform
import time
from dataclasses import replace
from pathlib import Path

import torch

from stylereel.core.builtin import BUILTIN
from stylereel.core.files import ensure_writable, require_file
from stylereel.core.latents import Codes
from stylereel.core.record import sha256
from stylereel.core.weights import save_module
from stylereel.generator import StyleGAN2
from stylereel.systems.stylevideogan.codes import CLIPS, clip_codes
from stylereel.systems.stylevideogan.networks import KIND
from stylereel.systems.stylevideogan.training import Recipe, train
from stylereel.train.loop import Trainer


def make(
    trainer: Trainer,
    data: str | None = None,
    encoder: str | None = None,
    generator: str | None = None,
    seed: int = 0,
) -> list[Path]:
    """Train a model of each clip in `data`, in the trainer's folder; an interrupted run goes on.

    Args:
        trainer: of the run.
        data: names of world clips (talking, listening, expressions) with commas between, all of them if None; or a
            clip; or a file of codes that `stylereel invert` wrote.
        encoder, generator: files for the inversion of a clip, see `codes.clip_codes`. For the world's clips the
            generator is that of the folder, else the built-in one.
        seed: of each training.

    Returns:
        A weight file for each clip, stylevideogan-NAME.safetensors.

    Raises:
        ValueError: a file that cannot be used, or a clip that teaches nothing.
    """
    files: list[Path] = []
    for name in (data or ",".join(CLIPS)).split(","):
        name, began = name.strip(), time.time()
        stem = name if name in CLIPS else Path(name).stem
        target = ensure_writable(trainer.folder / f"{KIND}-{stem}.safetensors")
        codes = codes_of(name, trainer.folder, encoder, generator)
        model = train(trainer, codes, Recipe(seed=seed), f"{KIND}/{stem}")
        files.append(target)
        if trainer.share[0] == 0:
            card = {
                "name": stem,
                "data": "a clip of stylereel.world with exact codes; no real person" if name in CLIPS else f"{name}",
                "frames": len(codes),
                "command": f"stylereel train {KIND} --data {name} --scale {trainer.scale:g} --seed {seed}",
                "seconds_of_last_run": round(time.time() - began),
                "machine": f"{platform.machine()}, {torch.get_num_threads()} threads, torch {torch.__version__}",
            }
            save_module(target, KIND, model, card | ({"licence": "Apache-2.0"} if name in CLIPS else {}))
    return files


def codes_of(data: str, folder: Path, encoder: str | None = None, generator: str | None = None) -> Codes:
    """The codes of one clip: exact ones of the world, those in a file, or those of a clip, which are kept in `folder`.

    Raises ValueError as `make`.
    """
    if data in CLIPS:
        here = folder / "generator.safetensors"
        file = Path(generator) if generator else here if here.exists() else BUILTIN / here.name
        return CLIPS[data].codes(StyleGAN2.load(file).eval().requires_grad_(False), file)
    path = require_file(data)
    if path.suffix == ".safetensors":
        return Codes.load(path)
    kept = folder / KIND / f"{path.stem}-{sha256(path)[:12]}-codes.safetensors"
    if not kept.exists():
        codes = clip_codes(path, encoder, generator)
        replace(codes, w=codes.w.cpu()).save(ensure_writable(kept))
    return Codes.load(kept)
