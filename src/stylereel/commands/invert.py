"""The command `stylereel invert`: an image or clip to codes of a generator, cached by content."""

from __future__ import annotations

import hashlib
import itertools
import json
import os
import shutil
from collections.abc import Iterable, Iterator, Mapping
from fractions import Fraction
from pathlib import Path
from typing import Any, Literal, NamedTuple

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from stylereel.commands.likeness import tuning
from stylereel.commands.rendering import RenderOptions, part_of
from stylereel.core.builtin import builtin
from stylereel.core.files import ensure_writable, listed, replacing, replacing_folder, require_file
from stylereel.core.latents import Codes
from stylereel.core.record import Stages, command_line, sha256, write_record
from stylereel.core.render import pictures
from stylereel.core.runs import claim
from stylereel.core.system import Device, choose_device
from stylereel.encoders import pyramid
from stylereel.encoders.hfgi import LAYER
from stylereel.faces import backend, mesh, placement
from stylereel.family.encoder import Encoder
from stylereel.family.likeness import load_likeness
from stylereel.generator import StyleGAN2, StyleGAN3
from stylereel.invert import networks
from stylereel.invert.networks import Networks
from stylereel.invert.optimise import Fit, Space, optimise
from stylereel.invert.perceptual import Perceptual, Vectors, distance, likeness
from stylereel.invert.person import compose, painter, read, refine, view
from stylereel.invert.pti import at_once, tune
from stylereel.invert.views import Photograph, crop_of
from stylereel.media.pictures import FORMATS, read_picture, save_picture
from stylereel.media.sheet import contact_sheet, side_by_side
from stylereel.media.video import VideoReader
from stylereel.metrics.likeness import ARCFACE
from stylereel.metrics.motion import crop_jitter
from stylereel.systems.sources import face_motion, reproduces
from stylereel.world.factors import LATENT_DIM
from stylereel.zoo.families import open_family
from stylereel.zoo.registry import cache_folder

STEPS, PERSON_STEPS = 100, 30  # of optimisation, in codes and in a person's factors
METHOD = 4  # part of the cache's key: counts up when the same settings give other codes
CHUNK = 16  # frames at a time, at up to 256 px
TUNED = 64  # frames of a clip, evenly spaced, for tuning
SHOWN = 6  # of these in the image
LARGEST = 2**30  # bytes of feature maps in one file
SMOOTH = 0.1  # seconds, of the crops in FFHQ's framing; the built-in one has its own


class Quality(NamedTuple):
    """How close reconstructions are to their targets, for each image: PSNR in dB at 8 bits a channel, the cosine of
    the identity net's embeddings, and the perceptual distance."""

    psnr: list[float]
    identity: list[float]
    perceptual: list[float]

    @classmethod
    @torch.no_grad()
    def of(cls, images: Tensor, reconstruction: Tensor, perceptual: Perceptual, embed: Vectors) -> Quality:
        """Both [B, 3, H, W] in [-1, 1]."""
        rounded = ((reconstruction.clamp(-1, 1) + 1) * 127.5).round() / 127.5 - 1
        error = (rounded - images).square().mean((1, 2, 3)).clamp_min(1e-12)
        same = (embed(rounded) * embed(images)).sum(1)
        difference = distance(perceptual(rounded), perceptual(images))
        return cls((10 * torch.log10(4 / error)).tolist(), same.tolist(), difference.tolist())


def invert(
    source: str | Path,
    /,
    *,
    out: str | Path,
    space: Space | Literal["auto", "person"] = "auto",
    steps: int | None = None,
    pti: bool = False,
    encoder: str | Path | None = None,
    generator: str | Path | None = None,
    face: str = "largest",
    start: str | None = None,
    duration: str | None = None,
    family: str = "builtin",
    device: Device = "auto",
    overwrite: bool = False,
    stages: Stages | None = None,
) -> dict[str, Any]:
    """Find the latent codes with which a generator reproduces the face in an image or clip.

    Results are cached by source, settings and weights. A clip is processed in chunks, so only its codes, and feature
    maps if there are any, grow with its length.

    Args:
        source: an image with a face, or a clip.
        out: the file NAME.safetensors, or a folder for it; NAME.png next to it shows target, reconstruction and
            difference, NAME.json is the record.
        space: person (who is in a photograph is read, composed of factors, and refined within what people have;
            built-in networks only), w (one code for all layers), w+ (a code for each layer), or features (a feature map
            and the codes of the layers after it). auto is person for a photograph, where the networks are the built-in
            ones, and w+ for drawn pictures and clips.
        steps: optimisation steps; 0 keeps the encoder's codes, or the person as read. 30 for person if not given, else
            100.
        pti: also fine-tune the generator to the image, or to up to 64 frames of the clip (pivotal tuning); for a person
            in a photograph, also to views of it that are turned and have other expressions.
        encoder: file of a pSp, e4e, ReStyle or HFGI encoder; the built-in one if not given.
        generator: file of the generator; the one in the encoder's file, or the built-in one, if not given.
        face: which of several faces: largest, left, a number from the left, or an image of the person.
        start: where the part of a clip begins that is inverted: seconds (12.5) or h:m:s (1:02:03.5).
        duration: how long that part is, in the same form; to the end if not given.
        family: whose encoder and generator, where none is given: builtin, ffhq, or a TOML file that names them.
        device: where the networks run; auto takes a GPU if there is one.
        overwrite: also replace files that an earlier run did not make; never the inputs.
        stages: clock to use, for watching the progress.

    Returns:
        The record, as in NAME.json, with the files.

    Raises:
        ValueError: no face, unusable settings or weights, or a file that cannot be read or written (MediaError).
    """
    stages, source, out = stages or Stages(), Path(source), Path(out)
    part = RenderOptions(start=start, duration=duration)
    place = choose_device(device)
    if steps is not None and steps < 0:
        raise ValueError(f"--steps takes 0 or more, not {steps}.")
    if not os.path.isdir(source):
        require_file(source)
    target = ensure_writable(out if out.suffix == ".safetensors" else out / f"{source.stem}.safetensors")
    files = [target, target.with_suffix(".png"), target.with_suffix(".json")]
    own = open_family(family).options(None, ["encoder", "generator"])
    encoder, generator = encoder or own.get("encoder"), generator or own.get("generator")
    claim(files, [source, encoder, generator, face if Path(face).is_file() else None], overwrite)
    with stages("load"):
        chosen = networks.choose(encoder, generator)
        if steps == 0 and "encoder" not in chosen:
            raise ValueError("Without an encoder all codes start at the mean; give --encoder or 100 or more --steps.")
        settings = {"encoder": encoder, "generator": generator, "space": space, "steps": steps, "pti": pti}
        settings |= {"face": face, "start": start, "duration": duration}
        inputs = {"source": {"file": source, "sha256": _contents(source)}}
        if Path(face).is_file():
            inputs["face"] = {"file": face, "sha256": sha256(face)}
        perceptual = Perceptual.best(place)
        own_nets = {name: builtin(name) for name in ("face", "likeness")}
        weights = {name: sha256(file) for name, file in {**chosen, **own_nets}.items()}
        hashes = [each["sha256"] for each in inputs.values()]
        key = json.dumps(
            [
                METHOD,
                hashes,
                weights,
                space,
                steps,
                pti,
                face if len(hashes) == 1 else "",
                *([start, duration] if start or duration else []),
                perceptual.name,
            ]
        )
        kept = cache_folder() / "inversions" / hashlib.sha256(key.encode()).hexdigest()[:32]
    cached = (kept / "record.json").exists()
    if not cached:
        with stages("load"):
            nets = networks.load(chosen).to(place)
        if nets.hfgi and space == "features":
            raise ValueError("HFGI corrects a feature map already; choose the space w or w+.")
        with stages("find"):
            found = Found.of(source, face, networks.is_canonical(chosen), part, stages)
        begin = None
        if space in ("auto", "person"):
            begin = _person(found, nets, space == "person", PERSON_STEPS if steps is None else steps, face, stages)
        free: Space = "w+" if space in ("auto", "person") else space
        used = 0 if begin is not None else STEPS if steps is None else steps
        with replacing_folder(kept) as folder:
            measured, codes, picture = _invert(
                found, nets, free, used, pti, perceptual, weights["generator"], stages, begin
            )
            codes.save(folder / "codes.safetensors")
            save_picture(folder / "codes.png", picture)
            measured["identity"] = "arcface" if chosen["identity"].name == ARCFACE else "builtin"
            (folder / "record.json").write_text(json.dumps(measured), encoding="utf-8")
    with replacing(target) as codes_file, replacing(files[1]) as shown:  # both or, after an error, neither
        shutil.copyfile(kept / "codes.safetensors", codes_file)
        shutil.copyfile(kept / "codes.png", shown)
    record = {
        "command": command_line("invert", str(source), settings | {"out": out}),
        "settings": settings,
        "inputs": inputs,
        "weights": weights,
        **json.loads((kept / "record.json").read_text(encoding="utf-8")),
        "cached": cached,
        **stages.facts(),
        "files": files,
    }
    write_record(target, record)
    return record


def lines(record: Mapping[str, Any]) -> Iterator[str]:
    """What the terminal shows of a record."""
    for step, numbers in record["quality"].items():
        distance = f"{record['perceptual']} {numbers['perceptual']:.4f}"
        yield f"{step}: PSNR {numbers['psnr']:.2f} dB, identity {numbers['identity']:.4f}, {distance}"
    yield f"frames: {record['frames']['inverted']}, without a face: {record['frames']['without a face'] or 'none'}"
    if jitter := record["jitter"]:
        yield f"jitter: crop {jitter['crop']:.6f} of its side, landmarks {jitter['landmarks']:.6f}"
    if record["cached"]:
        yield "from the cache"
    yield from map(str, record["files"])


def _contents(source: Path) -> str:
    """SHA-256 of a file, or of the files of a folder in the order of their names."""
    if source.is_file():
        return sha256(source)
    hashes = [f"{file.name} {sha256(file)}" for file in sorted(listed(source)) if file.is_file()]
    return hashlib.sha256("\n".join(hashes).encode()).hexdigest()


class Found(NamedTuple):
    """A face in an image or clip.

    frames: uint8 [H, W, 3], iterable any number of times; rows: the crop of each [T, 4]; rate: frames a
    second, 1 for an image; missing: frames without the face; jitter: of the crops, and of crops that follow the
    landmarks of every frame; empty for an image or under 5 frames.
    """

    frames: Iterable[np.ndarray]
    rows: np.ndarray
    rate: Fraction
    missing: list[int]
    jitter: dict[str, float]

    @classmethod
    def of(cls, source: Path, face: str, canonical: bool, part: RenderOptions, stages: Stages) -> Found:
        """The crops are in the built-in framing, or else in FFHQ's. Raises ValueError if there is no such face."""
        if source.is_file() and source.suffix.lower() in FORMATS and VideoReader(source).num_frames == 1:
            if part.choosing:
                raise ValueError(f"{source} is an image; --start and --duration choose a part of a clip.")
            picture = read_picture(source)
            marks = backend.find_face(picture, face=face)
            row = placement.align(marks) if canonical else placement.place_ffhq(marks[None])[0]
            return cls([picture], row[None], Fraction(1), [], {})
        reader = part_of(VideoReader(source), part)
        track = backend.track(stages.count(reader, reader.num_frames), reader.rate, face=face)
        if canonical:
            rows = placement.place(track.landmarks, track.rate, track.found)
        else:
            rows = placement.place_ffhq(track.landmarks, track.rate, track.found, SMOOTH)
        jitter = {}
        if len(rows) >= 5:
            jitter = {"crop": crop_jitter(rows), "landmarks": crop_jitter(placement.place_ffhq(track.landmarks))}
        return cls(reader, np.ascontiguousarray(rows, np.float32), track.rate, track.missing, jitter)

    def crops(self, size: int, count: int) -> Iterator[Tensor]:
        """The crops in their order as tensors [up to `count`, 3, size, size] in [-1, 1]."""
        cuts = (placement.cut(frame, row, size) for frame, row in zip(self.frames, self.rows, strict=True))
        while part := list(itertools.islice(cuts, count)):
            yield torch.from_numpy(np.stack(part)).permute(0, 3, 1, 2).float().div(127.5).sub(1)


def _invert(
    found: Found,
    nets: Networks,
    space: Space,
    steps: int,
    pti: bool,
    perceptual: Perceptual,
    name: str,
    stages: Stages,
    person: _Read | None = None,
) -> tuple[dict[str, Any], Codes, np.ndarray]:
    """What the record says of the result, the codes, and the image of target, reconstruction and difference.

    person: who is in an image, instead of the encoder's codes.
    """
    generator, count, size = nets.generator, len(found.rows), nets.generator.resolution
    look, chunk = likeness(perceptual, nets.embed), at_once(CHUNK, size)
    chosen = sorted(set(np.linspace(0, count - 1, TUNED if pti else SHOWN).round().astype(int).tolist()))
    quality: dict[str, list[Quality]] = {}
    whole: Fit | None = None
    images: list[Tensor] = []  # of the chosen frames
    _refuse_too_many_maps(count, nets, space if steps else "w")

    def note(step: str, fit: Fit, targets: Tensor, generator: StyleGAN2 | StyleGAN3 = generator) -> None:
        few = max(1, chunk // 4)
        for frames in (slice(i, i + few) for i in range(0, len(targets), few)):
            with stages("measure"), torch.no_grad():
                rendered = fit[frames].render(generator)
                quality.setdefault(step, []).append(Quality.of(targets[frames], rendered, perceptual, nets.embed))

    first = 0
    device = generator.mean_w.device
    chunks = -(-count // chunk)
    for crops in stages.through("cut", found.crops(max(size, pyramid.SIZE), chunk), chunks):
        crops = crops.to(device)
        targets, last = F.adaptive_avg_pool2d(crops, size), first + len(crops)
        with stages("encode"):
            fit = Fit(nets.encode(crops))
        note("encoder", fit, targets)
        if person is not None:
            fit = Fit(person.w[None])
            note("person", fit, targets)
        if steps:
            fit = optimise(generator, targets, fit.w, look, space, steps, lambda s: stages.through("optimise", s))
            note("optimised", fit, targets)
        if nets.hfgi:
            with stages("encode"), torch.no_grad():
                correction = nets.hfgi(pyramid.resampled(crops), generator.synthesize(fit.w))
                fit = Fit(fit.w, {LAYER: correction.apply(generator.synthesize(fit.w, stop=LAYER))})
            note("corrected", fit, targets)
        if whole is None:
            whole = Fit(_room(count, fit.w), {layer: _room(count, maps) for layer, maps in fit.features.items()})
        whole.w[first:last] = fit.w
        for layer, maps in fit.features.items():
            whole.features[layer][first:last] = maps
        images += [targets[index - first] for index in chosen if first <= index < last]
        first = last
    assert whole is not None
    delta: dict[str, Tensor] = {}
    if pti:
        if person is not None:
            assert isinstance(generator, StyleGAN2)
            whole.w[:] = compose(generator, person.photograph.values)
            delta = tuning(generator, person.photograph, perceptual, stages)
        else:
            frames = torch.stack(images)
            delta = tune(generator, whole[chosen], frames, look, through=lambda s: stages.through("tune", s))
        generator, first = generator.tuned(delta), 0
        for crops in stages.through("cut", found.crops(max(size, pyramid.SIZE), chunk), chunks):
            targets = F.adaptive_avg_pool2d(crops.to(device), size)
            note("tuned", whole[first : first + len(crops)], targets, generator)
            first += len(crops)
    codes = Codes(whole.w, name, found.rate, torch.from_numpy(found.rows), whole.features, delta)
    measured = {
        "frames": {"inverted": count, "without a face": found.missing},
        "jitter": found.jitter,
        "perceptual": perceptual.name,
        "quality": {step: _means(parts) for step, parts in quality.items()},
    }
    shown = np.linspace(0, len(chosen) - 1, min(SHOWN, len(chosen))).round().astype(int).tolist()
    picture = comparison(generator, whole[[chosen[i] for i in shown]], torch.stack([images[i] for i in shown]))
    return measured, codes, picture


class _Read(NamedTuple):
    """A person in a photograph: codes [L, D], and the photograph for views of it."""

    w: Tensor
    photograph: Photograph


def _person(found: Found, nets: Networks, asked: bool, steps: int, face: str, stages: Stages) -> _Read | None:
    """Who is read in a photograph, and refined; None where it is none.

    Raises ValueError if it was asked for and the networks or the source do not allow it.
    """
    generator = nets.generator
    fits = (
        isinstance(generator, StyleGAN2) and generator.config.z_dim == LATENT_DIM and isinstance(nets.encode, Encoder)
    )
    frames = list(itertools.islice(found.frames, 1)) if len(found.rows) == 1 else []
    if not fits or not frames:
        if asked:
            raise ValueError("The space person takes one photograph and the built-in networks; choose w+.")
        return None
    assert isinstance(generator, StyleGAN2)
    image = frames[0]
    with stages("find"):
        track = backend.track_picture(image, face=face)
    device = generator.mean_w.device
    crop = placement.cut(image, found.rows[0], generator.resolution)
    with torch.inference_mode():
        target = torch.tensor(crop, device=device).permute(2, 0, 1)[None].float() / 127.5 - 1
        if not asked and reproduces(generator, nets.encode(target), crop):
            return None
    with stages("read"):
        net, marks = load_likeness(builtin("likeness")), track.landmarks[0]
        irises = None if track.points is None else mesh.irises(track.points[0])
        row = placement.align(marks)
        person = read(net, painter(generator), image, marks, row, face_motion(track).values[0], irises)
        values = person.values
    if steps:
        seen, _ = view(net, image, marks, row)
        values = refine(generator, values, seen, steps, lambda each: stages.through("optimise", each))
    photograph = Photograph(crop_of(image, row), values, person.marks, person.irises)
    return _Read(compose(generator, values), photograph)


def _room(count: int, part: Tensor) -> Tensor:
    return part.new_empty(count, *part.shape[1:])


def _refuse_too_many_maps(count: int, nets: Networks, space: Space) -> None:
    """Raises ValueError if the feature maps of so many frames would not fit into memory and file."""
    numbers = 0
    if nets.hfgi:
        numbers = nets.hfgi.config.channels * 64**2
    elif space == "features" and isinstance(nets.generator, StyleGAN2):
        numbers = nets.generator.config.channels(32) * 32**2
    if count * numbers * 4 > LARGEST:
        most = LARGEST // (numbers * 4)
        raise ValueError(f"{count} frames have too large feature maps; cut the clip to {most} frames or choose w+.")


def _means(parts: list[Quality]) -> dict[str, float]:
    """Means over all frames."""
    return {name: float(np.mean(np.concatenate(values))) for name, values in zip(Quality._fields, zip(*parts))}


def comparison(generator: StyleGAN2 | StyleGAN3, fit: Fit, images: Tensor) -> np.ndarray:
    """Target, reconstruction and twice their difference on grey, a row for each frame."""
    with torch.no_grad():
        reconstruction = torch.cat([fit[i : i + 1].render(generator) for i in range(len(images))]).clamp(-1, 1)
    columns = [images, reconstruction, 2 * (reconstruction - images)]
    labels = ["target", "reconstruction", "2 x difference"]
    rows = [side_by_side(list(row), labels) for row in zip(*map(pictures, columns))]
    return contact_sheet(rows, 1)
