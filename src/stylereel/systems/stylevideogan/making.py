"""`stylereel train stylevideogan`: from a clip, a file of codes or the world's clips to trained models."""

from __future__ import annotations

import time
from dataclasses import replace
from pathlib import Path

from stylereel.core.files import ensure_writable, require_file
from stylereel.core.latents import Codes
from stylereel.core.record import sha256
from stylereel.core.weights import save_module
from stylereel.corpora.pack import INDEX, read_codes
from stylereel.generator import StyleGAN2
from stylereel.recipes.run import Run, makes, weight_file
from stylereel.systems.stylevideogan.codes import CLIPS, clip_codes
from stylereel.systems.stylevideogan.networks import KIND
from stylereel.systems.stylevideogan.training import Recipe, train


@makes(*(f"{KIND}-{name}" for name in CLIPS), needs=("generator",), starts=False)
def recipe(
    run: Run,
    *,
    data: str | None = None,
    generator: str | None = None,
    encoder: str | None = None,
    seed: int = 0,
) -> list[Path]:
    """Train a model of each clip: stylevideogan-NAME.safetensors.

    Args:
        data: a clip of one person, or codes that `stylereel invert` wrote, or FOLDER/CLIP or FOLDER/VIDEO of a data set
            that `stylereel prepare` made, or names of world clips (talking, listening, expressions) with commas
            between; all of these if not given.
        generator: weight file of a generator of any known tool for the inversion of a clip; the one in the encoder's
            file or the built-in one if not given. For the world's clips that of the folder.
        encoder: weight file of an encoder (pSp, e4e, ReStyle) for the clip; the built-in one if not given.
        seed: random seed of the training, 0 or more.
    """
    run.only_from_scratch()
    trainer = run.trainer
    names = [name.strip() for name in (data or ",".join(CLIPS)).split(",")]
    stems = [name if name in CLIPS else Path(name).stem for name in names]
    files = run.claim(*(f"{KIND}-{stem}" for stem in stems))
    for name, stem, target in zip(names, stems, files):
        of_world = name in CLIPS
        if of_world and generator is None:
            run.weight_file("generator")
        codes = codes_of(name, trainer.folder, encoder, generator)
        one = replace(run, began=time.time())
        model = train(trainer, codes, Recipe(seed=seed), f"{KIND}/{stem}")
        if trainer.share[0] == 0:
            seen = "a clip of stylereel.world with exact codes; no real person" if of_world else name
            card = {"name": stem, "frames": len(codes), **one.card(seen, "Apache-2.0" if of_world else None)}
            save_module(target, KIND, model, card)
            run.write_record(target, card)
    return files


def codes_of(data: str, folder: Path, encoder: str | None = None, generator: str | None = None) -> Codes:
    """The codes of one clip: exact ones of the world, those in a file, or those of a clip, which are kept in `folder`.

    Raises ValueError for a file that cannot be used.
    """
    if data in CLIPS:
        file = Path(generator) if generator else weight_file(folder, "generator")
        return CLIPS[data].codes(StyleGAN2.load(file).eval().requires_grad_(False), file)
    if (Path(data).parent / INDEX).is_file():
        return read_codes(Path(data).parent, Path(data).name)
    path = require_file(data)
    if path.suffix == ".safetensors":
        return Codes.load(path)
    kept = folder / KIND / f"{path.stem}-{sha256(path)[:12]}-codes.safetensors"
    if not kept.exists():
        codes = clip_codes(path, encoder, generator)
        replace(codes, w=codes.w.cpu()).save(ensure_writable(kept))
    return Codes.load(kept)
