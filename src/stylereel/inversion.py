"""The command `stylereel invert`: a picture or clip to codes of the built-in generator, kept by content."""

from __future__ import annotations

import hashlib
import json
import shlex
import shutil
from fractions import Fraction
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor

from stylereel.faces import backend, placement
from stylereel.faces.perception import IdentityNet
from stylereel.generator import StyleGAN2
from stylereel.invert.encoder import Encoder, EncoderConfig
from stylereel.invert.optimise import Fit, Space, optimise
from stylereel.invert.perceptual import Perceptual, distance, likeness
from stylereel.invert.pti import BATCH, tune
from stylereel.latents import Codes
from stylereel.media import MediaError, ensure_writable, replacing_folder
from stylereel.media.pictures import FORMATS, read_picture, save_picture
from stylereel.media.sheet import contact_sheet, side_by_side
from stylereel.media.video import VideoReader
from stylereel.record import Stages, sha256, write_record
from stylereel.render import pictures
from stylereel.weights import builtin
from stylereel.weights.files import load_module
from stylereel.weights.registry import cache_folder

METHOD = 1  # part of the cache's key: counts up when the same settings give other codes
CHUNK = 16  # frames optimised together
SHOWN = 6  # frames of a clip in the picture
NETWORKS = ("generator", "encoder", "face", "identity")


class Quality(NamedTuple):
    """How near pictures come to their targets, for each: PSNR in dB at 8 bits a channel, the cosine of the built-in
    identity net's embeddings, and the perceptual distance."""

    psnr: list[float]
    identity: list[float]
    perceptual: list[float]

    @classmethod
    @torch.no_grad()
    def of(cls, images: Tensor, again: Tensor, perceptual: Perceptual) -> Quality:
        """Both [B, 3, H, W] in [-1, 1]."""
        rounded, embed = ((again.clamp(-1, 1) + 1) * 127.5).round() / 127.5 - 1, identity_net()
        error = (rounded - images).square().mean((1, 2, 3)).clamp_min(1e-12)
        same = (embed(rounded) * embed(images)).sum(1)
        apart = distance(perceptual(rounded), perceptual(images))
        return cls((10 * torch.log10(4 / error)).tolist(), same.tolist(), apart.tolist())


def load_encoder() -> Encoder:
    """The built-in encoder, for use."""
    return load_module(builtin("encoder"), "encoder", lambda c: Encoder(EncoderConfig(**c))).eval()


def identity_net() -> IdentityNet:
    """The built-in identity net, for use."""
    net = load_module(builtin("identity"), "identity", lambda config: IdentityNet())
    return net.eval().requires_grad_(False)


def invert(
    source: str | Path,
    out: str | Path,
    space: Space = "w+",
    steps: int = 100,
    pti: bool = False,
    stages: Stages | None = None,
) -> dict[str, Any]:
    """Codes of the built-in generator for a picture or clip: a file of `Codes`, a picture, and a record.

    The same source with the same settings and weights is only copied from the cache.

    Args:
        source: a picture with a face, or a clip; of several faces the largest.
        out: the codes' file NAME.safetensors, or a folder for it; NAME.png and NAME.json lie beside it.
        space: where to optimise from the encoder's codes on, see `stylereel.invert.optimise`.
        steps: of the optimisation; 0 leaves the encoder's codes.
        pti: also tune the generator to the picture, or to all frames of the clip.
        stages: clock to use, for watching the progress.

    Returns:
        The record, which also stands in NAME.json, with the files.

    Raises:
        ValueError: no face, unusable settings, or a file that cannot be read or written (MediaError).
    """
    stages, source, out = stages or Stages(), Path(source), Path(out)
    if steps < 0:
        raise ValueError(f"Optimisation takes 0 steps or more, not {steps}.")
    if not source.exists():
        raise MediaError(f"There is no file {source}; check its name and folder.")
    target = ensure_writable(out if out.suffix == ".safetensors" else out / f"{source.stem}.safetensors")
    files = [target, target.with_suffix(".png"), target.with_suffix(".json")]
    if source.resolve() in [file.resolve() for file in files]:
        raise MediaError(f"{out} would overwrite {source}; choose another name.")
    with stages("load"):
        settings = {"space": space, "steps": steps, "pti": pti}
        perceptual = Perceptual.best()
        contents = _contents(source)
        weights = {name: sha256(builtin(name)) for name in NETWORKS}
        key = json.dumps([METHOD, contents, weights, settings, perceptual.name], sort_keys=True)
        kept = cache_folder() / "inversions" / hashlib.sha256(key.encode()).hexdigest()[:32]
    cached = (kept / "record.json").exists()
    if not cached:
        with replacing_folder(kept) as folder:
            measured, codes, picture = _made(source, space, steps, pti, perceptual, weights, stages)
            codes.save(folder / "codes.safetensors")
            save_picture(folder / "codes.png", picture)
            (folder / "record.json").write_text(json.dumps(measured), encoding="utf-8")
    shutil.copyfile(kept / "codes.safetensors", target)
    shutil.copyfile(kept / "codes.png", files[1])
    record = {
        "command": shlex.join(_words(source, out, settings)),
        "settings": settings,
        "inputs": {"source": {"file": source, "sha256": contents}},
        "weights": weights,
        **json.loads((kept / "record.json").read_text(encoding="utf-8")),
        "cached": cached,
        "seconds": {name: round(spent, 3) for name, spent in stages.seconds.items()},
        "files": files,
    }
    write_record(target, record)
    return record


def _words(source: Path, out: Path, settings: dict[str, Any]) -> list[str]:
    words = ["stylereel", "invert", str(source), "--space", settings["space"], "--steps", str(settings["steps"])]
    return [*words, "--pti" if settings["pti"] else "--no-pti", "--out", str(out)]


def _contents(source: Path) -> str:
    """SHA-256 of a file, or of the files of a folder in the order of their names."""
    if source.is_file():
        return sha256(source)
    hashes = [f"{file.name} {sha256(file)}" for file in sorted(source.iterdir()) if file.is_file()]
    return hashlib.sha256("\n".join(hashes).encode()).hexdigest()


def _made(
    source: Path,
    space: Space,
    steps: int,
    pti: bool,
    perceptual: Perceptual,
    weights: dict[str, str],
    stages: Stages,
) -> tuple[dict[str, Any], Codes, np.ndarray]:
    """What the record says of the result, the codes, and the picture of target, reconstruction and difference."""
    generator = StyleGAN2.load(builtin("generator")).eval().requires_grad_(False)
    with stages("align"):
        images, rows, rate, missing = _crops(source, generator.resolution)
    with stages("encode"), torch.no_grad():
        encoder = load_encoder()
        start = torch.cat([encoder(part) for part in images.split(CHUNK)])
    quality = {"encoder": _quality(Fit(start), generator, images, perceptual)}
    fit, look = Fit(start), likeness(perceptual, identity_net())
    if steps:
        parts = [
            optimise(generator, part, codes, look, space, steps, lambda s: stages.through("optimise", s))
            for part, codes in zip(images.split(CHUNK), start.split(CHUNK), strict=True)
        ]
        fit = Fit(
            torch.cat([part.w for part in parts]),
            {layer: torch.cat([part.features[layer] for part in parts]) for layer in parts[0].features},
        )
        quality["optimised"] = _quality(fit, generator, images, perceptual)
    delta: dict[str, Tensor] = {}
    if pti:
        delta = tune(generator, fit, images, look, through=lambda s: stages.through("tune", s))
        generator = generator.tuned(delta)
        quality["tuned"] = _quality(fit, generator, images, perceptual)
    codes = Codes(fit.w, weights["generator"], rate, torch.from_numpy(rows), fit.features, delta)
    measured = {
        "frames": {"inverted": len(images), "without a face": missing},
        "perceptual": perceptual.name,
        "quality": quality,
    }
    return measured, codes, comparison(generator, fit, images)


def _crops(source: Path, size: int) -> tuple[Tensor, np.ndarray, Fraction, list[int]]:
    """Aligned crops [T, 3, size, size] in [-1, 1], their placements [T, 4], the rate, and frames without a face."""
    if source.is_file() and source.suffix.lower() in FORMATS and VideoReader(source).num_frames == 1:
        picture = read_picture(source)
        rows, rate, missing = placement.align(backend.find_face(picture))[None], Fraction(1), []
        crops = [placement.cut(picture, rows[0], size)]
    else:
        reader = VideoReader(source)
        track = backend.track(reader, reader.rate)
        rows, rate, missing = placement.place(track.landmarks, track.rate, track.found), track.rate, track.missing
        crops = [placement.cut(frame, row, size) for frame, row in zip(reader, rows, strict=True)]
    images = torch.from_numpy(np.stack(crops)).permute(0, 3, 1, 2).float().div(127.5).sub(1)
    return images, np.ascontiguousarray(rows, np.float32), rate, missing


def _quality(fit: Fit, generator: StyleGAN2, images: Tensor, perceptual: Perceptual) -> dict[str, float]:
    """Means over all frames."""
    parts = []
    for first in range(0, len(images), BATCH):
        frames = slice(first, first + BATCH)
        with torch.no_grad():
            parts.append(Quality.of(images[frames], fit[frames].render(generator), perceptual))
    return {name: float(np.mean(np.concatenate(values))) for name, values in zip(Quality._fields, zip(*parts))}


def comparison(generator: StyleGAN2, fit: Fit, images: Tensor) -> np.ndarray:
    """Target, reconstruction and twice their difference on grey, a row for each of up to `SHOWN` frames."""
    chosen = sorted(set(np.linspace(0, len(images) - 1, SHOWN).round().astype(int).tolist()))
    with torch.no_grad():
        again = fit[chosen].render(generator).clamp(-1, 1)
    columns = [images[chosen], again, 2 * (again - images[chosen])]
    labels = ["target", "reconstruction", "2 x difference"]
    rows = [side_by_side(list(row), labels) for row in zip(*map(pictures, columns))]
    return contact_sheet(rows, 1)
