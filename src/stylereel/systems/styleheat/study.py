"""StyleHEAT's claims on the built-in family: what moving features does, which layer is best, what calibration adds.

What the world knows replaces what the paper estimates: the transformed image itself, the exact flow, and the true image
of the source with the driver's motion.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Mapping
from dataclasses import asdict, replace
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
import torch.nn.functional as F
from scipy.interpolate import RBFInterpolator
from torch import Tensor

from stylereel import systems, world
from stylereel.core.builtin import builtin
from stylereel.core.files import replacing
from stylereel.core.record import sha256
from stylereel.core.render import pictures
from stylereel.core.runs import claim
from stylereel.core.system import Device
from stylereel.core.weights import save_module
from stylereel.family.encoder import load_encoder
from stylereel.family.people import grouped_w, mixed_values
from stylereel.generator import StyleGAN2
from stylereel.media.pictures import save_picture
from stylereel.media.sheet import contact_sheet
from stylereel.metrics.exact import HELD_OUT, by_face_net, draw_all, exact
from stylereel.metrics.faces import landmark_error
from stylereel.metrics.report import Claim, Number, write_report
from stylereel.systems.sources import world_generator
from stylereel.systems.styleheat import training
from stylereel.systems.styleheat.drivers import by_pictures, say
from stylereel.systems.styleheat.files import (
    AUDIO_CALIBRATION,
    CALIBRATION,
    KINDS,
    load_calibration,
    load_warper,
)
from stylereel.systems.styleheat.flow import place_in_frame, warp
from stylereel.systems.styleheat.networks import FLOW_SIZE
from stylereel.systems.styleheat.pairs import draw_pairs
from stylereel.systems.styleheat.system import StyleHEAT

RESOLUTIONS = (8, 16, 32, 64, 128)  # of the feature maps that are moved, in pixels
LAYERS = (16, 32, 64, 128)  # of the second study
SHOWN = 64  # the resolution whose results the picture shows
BATCH = 8
Flow = Callable[[np.random.Generator], Tensor]  # [1, 2, 64, 64]


class Variant(NamedTuple):
    """A training: its title, and how its settings differ."""

    title: str
    guide: bool = True
    domain: float = 0.0


OURS = "as shipped, trained briefly"
VARIANTS = {
    "ours": Variant(OURS),
    "domain": Variant("with the domain loss", domain=0.5),
    "no-guide": Variant("without the mean head's guide", guide=False),
}
_COLUMNS = {
    "exact-psnr": "exact PSNR, dB",
    "exact-nme-eyes-face-net": "landmarks (face net), eye distances",
    "exact-pose-error-dlib": "pose by dlib, degrees",
    "exact-aed-face-net": "expression (face net)",
    "exact-identity-source": "identity, cosine",
}


def _affine(matrix: np.ndarray) -> Tensor:
    """The flow that moves a whole image by a matrix [2, 3]: where each target pixel's content comes from."""
    places = np.stack(np.meshgrid(*[np.arange(FLOW_SIZE) + 0.5 - FLOW_SIZE / 2] * 2), 2)
    inverse = np.linalg.inv(matrix[:, :2])
    source = (places - matrix[:, 2] * FLOW_SIZE) @ inverse.T
    return torch.from_numpy((source - places).transpose(2, 0, 1)[None]).float()


def _rotation(random: np.random.Generator) -> Tensor:
    angle = np.deg2rad(random.choice([-1, 1]) * random.uniform(10, 25))
    return _affine(np.array([[np.cos(angle), -np.sin(angle), 0], [np.sin(angle), np.cos(angle), 0]]))


def _scaled(low: float, high: float) -> Flow:
    def flow(random: np.random.Generator) -> Tensor:
        return place_in_frame(torch.tensor([[0, 0, random.uniform(low, high)]]).float())

    return flow


def _translation(random: np.random.Generator) -> Tensor:
    return place_in_frame(torch.tensor([[*random.uniform(-0.2, 0.2, 2), 1.0]]).float())


def _shear(random: np.random.Generator) -> Tensor:
    return _affine(np.array([[1, random.choice([-1, 1]) * random.uniform(0.15, 0.35), 0], [0, 1, 0]]))


def _spline(random: np.random.Generator) -> Tensor:
    """A thin-plate spline through 16 points that are moved by up to 3 pixels of 64 each way."""
    grid = np.stack(np.meshgrid(*[np.linspace(8, 56, 4)] * 2), 2).reshape(-1, 2)
    spline = RBFInterpolator(grid, random.uniform(-3, 3, grid.shape), kernel="thin_plate_spline")
    places = np.stack(np.meshgrid(*[np.arange(FLOW_SIZE) + 0.5] * 2), 2).reshape(-1, 2)
    return torch.from_numpy(spline(places).reshape(FLOW_SIZE, FLOW_SIZE, 2).transpose(2, 0, 1)[None]).float()


TRANSFORMS: dict[str, Flow | None] = {
    "translation": _translation,
    "rotation": _rotation,
    "zoom in": _scaled(1.15, 1.4),
    "zoom out": _scaled(0.65, 0.85),
    "shear": _shear,
    "thin-plate spline": _spline,
    "occlusion": None,  # a square of the map is set to 0; the image outside of it should stay
}


def reproduce(
    *,
    out: str,
    people: int = 16,
    pairs: int = 24,
    steps: int = 0,
    seed: int = 0,
    utterances: int = 4,
    trainings: str | None = None,
    audio: str | None = None,
    family: str = "builtin",
    device: Device = "auto",
    overwrite: bool = False,
) -> list[Path]:
    """StyleHEAT's paper on the built-in family: its feature-space study, the layer, the calibration, beside StyleMask.

    Writes report.md and report.json about the systems, others in the folders features, layers, pictures (driven by
    pictures of the same and of other people) and sound, and features.png. What is measured and trained is kept, in the
    folder of the trainings, and a run that was stopped goes on from there.

    Args:
        out: folder for the report.
        people: number of people of the two studies of features, 2 or more.
        pairs: number of pairs of a source person and a target person of the comparison of systems, 2 or more; half as
            many are driven by pictures.
        utterances: sentences that each system says, on a head at rest and on one that moves, 2 or more.
        audio: folder with the weights of `train styleheat-sound`; the built-in ones if not given.
        steps: training steps of each variant (domain loss, no guide), all alike; 0 leaves these out.
        seed: random seed of the people and of the intervals.
        trainings: folder for the trainings; null puts them into the folder `out`.
        family: whose weights; a generator that learned the world's people.
        device: where the networks run; auto takes a GPU if there is one.
        overwrite: also replace a report that no earlier run made.
    """
    if min(people, pairs, utterances) < 2 or steps < 0:
        raise ValueError("A comparison needs 2 people, pairs and utterances or more, and steps of 0 or more.")
    folder = Path(out)
    grid = folder / "features.png"
    parts = ("", "features", "layers", "pictures", "sound")
    reports = [folder / part / name for part in parts for name in ("report.md", "report.json")]
    claim([*reports, grid], overwrite=overwrite)
    generator, _ = world_generator(family, device)

    store = Path(trainings) if trainings else folder / "trainings"
    shipped = systems.load("styleheat", family=family, device=device)
    assert isinstance(shipped, StyleHEAT)
    weights = {path.name: sha256(path) for path in shipped.weight_files}
    keep = partial(_kept, store, {"weights": weights, "seed": seed})
    facts: dict[str, Any] = {"people": people, "seed": seed, "intervals": "95 %, bootstrap over people or pairs"}

    def features() -> Any:
        found, cells = feature_space(generator, people, seed)
        save_picture(grid, cells)
        return [[name, size, *map(np.ndarray.tolist, each)] for (name, size), each in found.items()]

    made = keep("features", people, features, redo=not grid.exists())
    space = {(name, size): (np.array(db), np.array(off)) for name, size, db, off in made}
    table: dict[str, dict[str, Number | str]] = {
        f"{resolution} px, {words}": {name: Number.mean(space[name, resolution][part], seed) for name in TRANSFORMS}
        for part, words in enumerate(("dB", "landmarks (face net), eye distances"))
        for resolution in RESOLUTIONS
    }
    title = "Features moved: how near the image is to the moved image"
    files = write_report(folder / "features", title, table, _feature_claims(space, seed), facts, [grid])

    def by_layer() -> Any:
        return {name: [part.tolist() for part in each] for name, each in best_layer(generator, people, seed).items()}

    made = keep("layers", people, by_layer)
    layers = {name: (np.array(whole), np.array(seen)) for name, (whole, seen) in made.items()}
    table = {
        name: {"to the true image, dB": Number.mean(whole, seed), "of that where it was seen": Number.mean(seen, seed)}
        for name, (whole, seen) in layers.items()
    }
    title = "Features moved by the exact flow: how near the image is to the true one"
    files += write_report(folder / "layers", title, table, _layer_claims(layers, seed), facts)

    stylemask = systems.load("stylemask", family=family, device=device)
    compared: dict[str, Any] = {
        "StyleHEAT": shipped,
        "StyleHEAT without calibration": StyleHEAT(
            shipped.generator, shipped.encode, shipped.warper, None, files=shipped.weight_files
        ),
        "StyleMask": stylemask,
    }
    for name, variant in VARIANTS.items() if steps else ():
        compared[variant.title] = train_variant(name, steps, store, shipped, device)
    facts |= {"pairs": pairs, "steps of each training": steps, "weights": weights}
    scores = {
        title: _scores(keep("exact", [title, pairs, _prints(system)], partial(_exact, system, pairs, seed)))
        for title, system in compared.items()
    }
    rows: dict[str, dict[str, Number | str]] = {
        title: {words: found[name] for name, words in _COLUMNS.items()} for title, found in scores.items()
    }
    files += write_report(folder, "StyleHEAT on the built-in family", rows, _system_claims(scores), facts)
    files += _by_pictures({"StyleHEAT": shipped, "StyleMask": stylemask}, max(2, pairs // 2), seed, keep, folder, facts)
    return files + _by_sound(shipped, stylemask, utterances, seed, audio, keep, folder, facts)


Keep = Callable[..., Any]


def _kept(
    store: Path, facts: Mapping[str, Any], part: str, settings: Any, make: Callable[[], Any], redo: bool = False
) -> Any:
    """Plain values that an earlier run has measured with the same weights and settings, else made and written."""
    text = json.dumps({**facts, "part": part, "settings": settings}, sort_keys=True)
    path = store / f"{part}-{hashlib.sha256(text.encode()).hexdigest()[:10]}.json"
    if path.exists() and not redo:
        return json.loads(path.read_text())
    made = make()
    store.mkdir(parents=True, exist_ok=True)
    with replacing(path) as partial_file:
        partial_file.write_text(json.dumps(made))
    return made


def _prints(system: Any) -> list[str]:
    return [sha256(path) for path in system.weight_files]


def _exact(system: Any, pairs: int, seed: int) -> dict[str, Any]:
    return {score.name: [score.value, score.interval] for score in exact(system, pairs, seed)}


def _scores(kept: Mapping[str, Any]) -> dict[str, Number]:
    return {name: Number(value, interval and tuple(interval)) for name, (value, interval) in kept.items()}


def _plain(found: Mapping[str, np.ndarray]) -> dict[str, list[float | None]]:
    """Arrays [N] as JSON has them."""
    return {name: [None if np.isnan(x) else float(x) for x in each] for name, each in found.items()}


def _arrays(kept: Mapping[str, list[float | None]]) -> dict[str, np.ndarray]:
    return {name: np.array([np.nan if x is None else x for x in each]) for name, each in kept.items()}


def _by_pictures(
    compared: Mapping[str, Any], count: int, seed: int, keep: Keep, folder: Path, facts: Mapping[str, Any]
) -> list[Path]:
    """The paper's two tables: the motion is read off a picture of the same person, or of another."""
    rows: dict[str, dict[str, Number | str]] = {}
    found: dict[tuple[str, bool], dict[str, np.ndarray]] = {}
    for same, words in ((True, "same identity"), (False, "another identity")):
        for title, system in compared.items():
            settings = [title, count, same, _prints(system)]
            make = partial(by_pictures, system, count, seed, same)
            one = found[title, same] = _arrays(keep("pictures", settings, lambda make=make: _plain(make())))
            rows[f"{title}, {words}"] = {
                column: Number.mean(one[name.removeprefix("exact-")], seed) for name, column in _COLUMNS.items()
            }
    claims = []
    for same, words in ((True, "the same person"), (False, "another person")):
        ours, theirs = (found[title, same] for title in compared)
        for name, column, better in (
            ("aed-face-net", "expression (face net)", False), ("identity-source", "identity, cosine", True)
        ):  # fmt: skip
            if len(ours[name]) == len(theirs[name]):
                difference = Number.mean(ours[name] - theirs[name], seed)
                claims.append(
                    Claim.of(
                        f"Driven by {words} StyleHEAT is better than StyleMask ({column})", column, difference, better
                    )
                )
    title = "Driven by pictures"
    return write_report(folder / "pictures", title, rows, claims, {**facts, "pairs": count})


_SAID = {
    "opening": "opening of the lips, r with the exact one",
    "closed": "p, b, m closed",
    "offset": "late by frames",
    "silence": "opening in silence",
    "pose": "pose, degrees",
    "opening, true images": "r of the true images",
}


def _by_sound(
    shipped: StyleHEAT, stylemask: Any, count: int, seed: int, audio: str | None, keep: Keep, folder: Path,
    facts: Mapping[str, Any],
) -> list[Path]:  # fmt: skip
    """World speech on a head at rest and, jointly, on one that moves, by the net from sound to motion and by the audio
    warper."""
    speakers: dict[str, tuple[Any, bool]] = {"StyleHEAT, voice net": (shipped, False)}
    names = KINDS["audio"], AUDIO_CALIBRATION
    files = [builtin(name) if audio is None else Path(audio) / f"{name}.safetensors" for name in names]
    by_warper = StyleHEAT(
        shipped.generator, shipped.encode, shipped.warper, shipped.calibration,
        files=[*shipped.weight_files, *files], audio=(load_warper(files[0], "audio"), load_calibration(files[1])),
    )  # fmt: skip
    speakers["StyleHEAT, audio warper"] = by_warper.to(shipped.generator.mean_w.device), True
    speakers["StyleMask, voice net"] = stylemask, False
    found: dict[tuple[str, bool], dict[str, np.ndarray]] = {}
    for title, (system, warper) in speakers.items():
        for moving in (False, True):
            settings = [title, count, moving, _prints(system)]
            make = partial(say, system, count, seed, moving, warper)
            found[title, moving] = _arrays(keep("sound", settings, lambda make=make: _plain(make())))
    rows: dict[str, dict[str, Number | str]] = {
        f"{title}, {'joint: pose from a motion' if moving else 'sound alone'}": {
            column: Number.mean(one[name], seed) for name, column in _SAID.items()
        }
        for (title, moving), one in found.items()
    }
    claims = []
    for title in speakers:
        difference = Number.mean(found[title, True]["opening"] - found[title, False]["opening"], seed)
        words = f"{title}: driven jointly, the lips follow the sound as well as by sound alone"
        holds = None if difference.interval is None else difference.interval[0] > -0.05
        claims.append(Claim(words, holds, difference, f"{words}: r of the opening differs by {difference}."))
    difference = Number.mean(
        found["StyleHEAT, audio warper", False]["opening"] - found["StyleHEAT, voice net", False]["opening"], seed
    )
    claims.append(
        Claim.of("The audio warper moves the lips better than the net from sound to motion", "r", difference, True)
    )
    title = "World speech"
    return write_report(folder / "sound", title, rows, claims, {**facts, "utterances": count})


def moved_at(generator: StyleGAN2, w: Tensor, resolution: int, change: Callable[[Tensor], Tensor]) -> Tensor:
    """Images [B, 3, H, W] of codes w with feature map and image so far at a resolution changed by `change`."""
    layer, colours = f"b{resolution}.conv0", f"b{resolution // 2}.torgb"
    so_far: list[Tensor] = []
    features = generator.synthesize(w, taps={colours: so_far.append}, stop=layer)
    doubled = F.interpolate(so_far[0], scale_factor=2, mode="nearest")
    return generator.synthesize(w, start=(layer, change(features), F.avg_pool2d(change(doubled), 2)))


def _moving(flow: Tensor) -> Callable[[Tensor], Tensor]:
    def change(x: Tensor) -> Tensor:
        size = x.shape[-1]
        own = flow if size >= FLOW_SIZE else F.interpolate(flow, (size, size), mode="area") * (size / FLOW_SIZE)
        return warp(x, own)

    return change


def _hiding(box: tuple[float, float, float]) -> Callable[[Tensor], Tensor]:
    def change(x: Tensor) -> Tensor:
        left, top, side = (round(number * x.shape[-1]) for number in box)
        x = x.clone()
        x[..., top : top + side, left : left + side] = 0
        return x

    return change


def _inside(flow: Tensor, size: int) -> np.ndarray:
    """Which pixels [size, size] come from inside the image, 2 of 64 from its edge."""
    y, x = torch.meshgrid(*[torch.arange(FLOW_SIZE) + 0.5] * 2, indexing="ij")
    place = torch.stack([x, y]) + flow[0]
    inside = ((place > 2) & (place < FLOW_SIZE - 2)).all(0)
    return inside.numpy().repeat(size // FLOW_SIZE, 0).repeat(size // FLOW_SIZE, 1)


def decibels(images: np.ndarray, targets: np.ndarray, counted: np.ndarray) -> np.ndarray:
    """PSNR [N] of uint8 [N, H, W, 3] where `counted` [N, H, W] is true, peak 255."""
    square = ((images.astype(np.float64) - targets) ** 2).mean(3)
    mean = (square * counted).sum((1, 2)) / counted.sum((1, 2))
    return 10 * np.log10(255**2 / np.maximum(mean, 1e-6))


@torch.inference_mode()
def feature_space(
    generator: StyleGAN2, people: int, seed: int
) -> tuple[dict[tuple[str, int], tuple[np.ndarray, np.ndarray]], np.ndarray]:
    """For each transform and resolution decibels [N] and landmark errors [N] to the moved image; and the picture."""
    random = np.random.default_rng((HELD_OUT, 21, seed))
    z = torch.from_numpy(random.standard_normal((people, generator.config.z_dim))).float()
    found: dict[tuple[str, int], tuple[np.ndarray, np.ndarray]] = {}
    cells: list[np.ndarray] = []
    for name, make in TRANSFORMS.items():
        results: dict[int, list[np.ndarray]] = {resolution: [] for resolution in RESOLUTIONS}
        targets, counted = [], []
        for one in z:
            w = generator.map(one[None].to(generator.mean_w.device))
            image = generator.synthesize(w)
            size = image.shape[-1]
            if make is None:
                box = (*random.uniform(0.2, 0.55, 2), 0.25)
                change, target = _hiding(box), image
                left, top, side = (round(number * size) for number in box)
                inside = np.ones((size, size), bool)
                inside[top - size // 32 : top + side + size // 32, left - size // 32 : left + side + size // 32] = False
            else:
                flow = make(random)
                change, inside = _moving(flow.to(image)), _inside(flow, size)
                target = change(image)
            targets.append(pictures(target)[0])
            counted.append(inside)
            for resolution in RESOLUTIONS:
                results[resolution].append(pictures(moved_at(generator, w, resolution, change))[0])
        whole = np.stack(targets)
        marks = by_face_net(whole)[0]
        for resolution, made in results.items():
            images = np.stack(made)
            off = landmark_error(by_face_net(images)[0], marks)
            found[name, resolution] = decibels(images, whole, np.stack(counted)), off
        cells += [whole[0], *(results[resolution][0] for resolution in RESOLUTIONS)]
    labels = [label for name in TRANSFORMS for label in (name, *(f"{resolution} px" for resolution in RESOLUTIONS))]
    half = [np.reshape(c, (len(c) // 2, 2, len(c) // 2, 2, 3)).mean((1, 3)).round().astype(np.uint8) for c in cells]
    return found, contact_sheet(half, 1 + len(RESOLUTIONS), labels)


@torch.inference_mode()
def best_layer(generator: StyleGAN2, people: int, seed: int) -> dict[str, tuple[np.ndarray, np.ndarray]]:
    """Decibels [N] to the true image, whole and where the surface was seen, of states moved by the exact flow."""
    pairs = draw_pairs(0, people, seed=HELD_OUT + seed)
    values = world.align(mixed_values(pairs.target.double().numpy()))
    truth = draw_all(values, generator.resolution)
    factor = generator.resolution // FLOW_SIZE
    seen = pairs.seen.numpy().repeat(factor, 1).repeat(factor, 2)
    everywhere = np.ones_like(seen)
    place = generator.mean_w.device
    before, after = (grouped_w(generator, z.to(place)) for z in (pairs.source, pairs.target))

    def shown(make: Callable[[slice], Tensor]) -> tuple[np.ndarray, np.ndarray]:
        cuts = [slice(i, i + BATCH) for i in range(0, people, BATCH)]
        images = np.concatenate([pictures(make(cut)) for cut in cuts])
        return decibels(images, truth, everywhere), decibels(images, truth, seen)

    found = {"source, not moved": shown(lambda cut: generator.synthesize(before[cut]))}
    for resolution in LAYERS:
        found[f"exact flow at {resolution} px"] = shown(
            lambda cut, at=resolution: moved_at(generator, before[cut], at, _moving(pairs.flow[cut].to(place)))
        )
    found["the generator, given the factors"] = shown(lambda cut: generator.synthesize(after[cut]))
    return found


def train_variant(name: str, steps: int, store: Path, shipped: StyleHEAT, device: Device) -> StyleHEAT:
    """A variant's networks: from the store if they are there, else trained, going on where a run was stopped."""
    from stylereel.train.loop import Trainer

    variant, generator = VARIANTS[name], shipped.generator
    video = replace(training.QUICK.video, steps=max(2, steps // 5), pool=max(1, steps // 3))
    joint = replace(training.QUICK.joint, steps=steps, domain=variant.domain, pool=max(1, steps // 3))
    facts: dict[str, Any] = {"variant": dict(variant._asdict()), "video": asdict(video), "joint": asdict(joint)}
    facts["weights"] = {path.name: sha256(path) for path in shipped.weight_files[:2]}
    key = hashlib.sha256(json.dumps(facts, sort_keys=True).encode()).hexdigest()[:8]
    files = [store / f"{name}-{key}-{part}.safetensors" for part in ("video", "calibration")]
    if not all(file.exists() for file in files):
        store.mkdir(parents=True, exist_ok=True)
        trainer = Trainer(store / f"{name}-{key}", device=device, settings={"study": facts})
        encode = load_encoder(builtin("encoder")).eval()
        config = replace(training.WARPER, guide=variant.guide)
        warper = training.train_video(trainer, generator, video, config=config, encode=encode)
        start = training.new_calibration(
            generator, config.descriptor, replace(training.CALIBRATION, guide=variant.guide)
        )
        maps = None
        if variant.domain:
            from stylereel.family.nets import load_face

            face = load_face(builtin("face"))
            trainer.freeze(face)
            maps = face.trunk.maps
        networks = training.train_joint(trainer, generator, warper, joint, maps, start=start, encode=encode)
        for file, kind, network in zip(files, (KINDS["video"], CALIBRATION), networks, strict=True):
            save_module(file, kind, network, facts)
    warper, calibration = load_warper(files[0]), load_calibration(files[1])
    system = StyleHEAT(generator, shipped.encode, warper, calibration, files=[*shipped.weight_files[:2], *files])
    return system.to(generator.mean_w.device)


def _feature_claims(features: Mapping[tuple[str, int], tuple[np.ndarray, np.ndarray]], seed: int) -> list[Claim]:
    """What the paper says of moved features."""
    moves = [name for name, make in TRANSFORMS.items() if make is not None]
    mean = {r: np.mean([features[name, r][0] for name in moves], axis=0) for r in RESOLUTIONS}
    words = "Moving features of 64 px moves the image more exactly than moving those of {} px"
    what = "the ratio (dB to the moved image, mean of the movements)"
    return [Claim.of(words.format(r), what, Number.mean(mean[64] - mean[r], seed), True) for r in mean if r < FLOW_SIZE]


def _layer_claims(layers: Mapping[str, tuple[np.ndarray, np.ndarray]], seed: int) -> list[Claim]:
    what = "the ratio (dB to the true image)"
    return [
        Claim.of(
            f"64 px is a better layer to move than {other} px",
            what,
            Number.mean(layers["exact flow at 64 px"][0] - layers[f"exact flow at {other} px"][0], seed),
            True,
        )
        for other in LAYERS
        if other != FLOW_SIZE
    ]


def _system_claims(scores: Mapping[str, Mapping[str, Number]]) -> list[Claim]:
    """What calibration and, where it was trained, the domain loss add; the pairs are the same, the intervals those of
    both means taken as independent, which is too wide rather than too narrow."""
    pairs = [("Calibration", "StyleHEAT", "StyleHEAT without calibration")]
    if VARIANTS["domain"].title in scores:
        pairs += [("The domain loss", VARIANTS["domain"].title, OURS)]
        pairs += [("The mean head's guide", OURS, VARIANTS["no-guide"].title)]
    claims = []
    for subject, one, other in pairs:
        for name, more in (("exact-psnr", True), ("exact-aed-face-net", False), ("exact-identity-source", True)):
            a, b = scores[one][name], scores[other][name]
            difference = _difference(a, b)
            words = f"{subject} makes the result better ({_COLUMNS[name]})"
            claims.append(Claim.of(words, _COLUMNS[name], difference, more))
    return claims


def _difference(a: Number, b: Number) -> Number:
    if a.interval is None or b.interval is None:
        return Number(a.value - b.value)
    half = np.hypot(*((score.interval[1] - score.interval[0]) / 2 for score in (a, b)))  # type: ignore[index]
    return Number(a.value - b.value, (a.value - b.value - half, a.value - b.value + half))
