"""The comparisons of StyleMask's paper, repeated on held-out identities of the built-in family.

Four trainings of equal budget: the paper's own (style space, a network for each layer, recurrent cycle), and one each
with W instead of S, one network instead of one a layer, and no cycle. Results are compared with the world's true
picture of "source with the target's motion", and read by dlib, which no training here has used.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch

from stylereel import world
from stylereel.core.builtin import builtin
from stylereel.core.record import sha256
from stylereel.core.render import pictures
from stylereel.core.runs import claim
from stylereel.core.system import Device
from stylereel.core.weights import load_module, read_card, save_module
from stylereel.faces.backend import DlibBackend, find_face
from stylereel.faces.pose import pose_from_landmarks, unrotate
from stylereel.family.nets import IdentityNet, load_face
from stylereel.family.people import latents_of
from stylereel.generator import StyleGAN2
from stylereel.media.pictures import save_picture
from stylereel.media.sheet import contact_sheet
from stylereel.metrics.clips import Clip
from stylereel.metrics.exact import HELD_OUT, cross, draw_all
from stylereel.metrics.faces import POSE, landmark_error
from stylereel.metrics.frechet import Pool, frechet_between
from stylereel.metrics.intervals import GROUPS, jackknife
from stylereel.metrics.likeness import builtin_embeddings, cosine
from stylereel.metrics.pictures import l1, psnr
from stylereel.metrics.report import Claim, Number, write_report
from stylereel.systems.sources import world_generator
from stylereel.systems.stylemask.networks import KIND, MaskConfig, MaskNets, load_masks
from stylereel.systems.stylemask.system import StyleMask
from stylereel.systems.stylemask.training import QUICK, Settings, WorldFaces, train
from stylereel.zoo.families import BUILTIN

BATCH = 8
SHOWN = 6  # sources and targets in the grid


@dataclass(frozen=True)
class Variant:
    """One training. space and one_net as in `MaskConfig`."""

    title: str
    space: Literal["s", "w"] = "s"
    one_net: bool = False
    cycle: bool = True


OURS = "as in the paper"
VARIANTS = {
    "paper": Variant(OURS),
    "w-space": Variant("W instead of S", space="w"),
    "one-net": Variant("one mask network", one_net=True),
    "no-cycle": Variant("without the cycle", cycle=False),
}

# Columns: unit in the claims, whether more is better.
COLUMNS = {
    "CSIM (dlib)": ("the cosine", True),
    "NME of box, %": ("the error", False),
    "NME of eyes": ("the error", False),
    "NME of eyes, to the true picture": ("the error", False),
    "pose, degrees": ("the error", False),
    "expression": ("the error", False),
    "exact L1, levels": ("the error", False),
    "exact PSNR, dB": ("the ratio", True),
    "CSIM (built-in net)": ("the cosine", True),
}
# What the paper's tables say: variant, column, whether the paper's own training has more of it, in words.
CLAIMS = (
    ("w-space", "CSIM (dlib)", True, "S keeps identity better than W"),
    ("w-space", "NME of box, %", False, "S has a smaller landmark error than W"),
    ("w-space", "pose, degrees", False, "S has a smaller pose error than W"),
    ("w-space", "expression", False, "S has a smaller expression error than W"),
    ("one-net", "CSIM (dlib)", True, "A network a layer keeps identity better than one"),
    ("one-net", "NME of box, %", False, "A network a layer has a smaller landmark error than one"),
    ("one-net", "pose, degrees", False, "A network a layer has a smaller pose error than one"),
    ("one-net", "expression", False, "A network a layer has a smaller expression error than one"),
    ("no-cycle", "NME of box, %", False, "The recurrent cycle makes the landmark error smaller"),
    ("no-cycle", "pose, degrees", False, "The recurrent cycle makes the pose error smaller"),
    ("no-cycle", "expression", False, "The recurrent cycle makes the expression error smaller"),
    ("no-cycle", "CSIM (dlib)", False, "The recurrent cycle costs some identity"),
)


def reproduce(
    *,
    out: str,
    pairs: int = 500,
    steps: int = QUICK.steps,
    seed: int = 0,
    trainings: str | None = None,
    family: str = BUILTIN,
    device: Device = "auto",
    overwrite: bool = False,
) -> list[Path]:
    """StyleMask's paper on the built-in family: S or W, a mask network a layer or one, with or without the cycle.

    Writes report.md, report.json and grid.png. Trained networks are kept and reused by the next run.

    Args:
        out: folder for the report.
        pairs: number of pairs of a source person and a target person, 2 or more.
        steps: training steps of each variant.
        seed: random seed of the people and of the intervals.
        trainings: folder for the trainings; null puts them into the folder `out`.
        family: whose generator: builtin, or a TOML file that names another one of the world's people.
        device: where the networks run; auto takes a GPU if there is one.
        overwrite: also replace a report that no earlier run made.
    """
    if pairs < 2 or steps < 2:
        raise ValueError("A comparison needs 2 pairs and 2 steps or more.")
    folder = Path(out)
    grid = folder / "grid.png"
    claim([folder / "report.md", folder / "report.json", grid], overwrite=overwrite)
    store = Path(trainings) if trainings else folder / "trainings"
    generator, file = world_generator(family, device)
    weights = {"generator": sha256(file), **{net: sha256(builtin(net)) for net in ("face", "identity")}}
    nets = {name: train_variant(name, steps, store, generator, weights, device) for name in VARIANTS}

    z = np.random.default_rng((HELD_OUT, 3, seed)).standard_normal((2, pairs, generator.config.z_dim))
    source, target = (world.align(world.from_latent(part)) for part in z)
    with torch.inference_mode():
        codes = [generator.map(torch.from_numpy(part).float().to(generator.mean_w.device)) for part in z]
        labels = latents_of(cross(source, target), np.random.default_rng((HELD_OUT, 4, seed)))
        best = _grouped_codes(generator, labels)
    shown = {"source": _synthesize(generator, codes[0]), "target": _synthesize(generator, codes[1])}
    for name, variant in VARIANTS.items():
        shown[variant.title] = _mix(generator, nets[name], *codes)
    made = {"the generator, given the factors": _synthesize(generator, best), "the source, unmoved": shown["source"]}
    made = {variant.title: shown[variant.title] for variant in VARIANTS.values()} | made
    size = generator.resolution
    truth = draw_all(cross(source, target), size)
    scene = Scene(source, target, truth, draw_all(source, size), generator.mean_w.device.type)
    made["the true picture"] = truth

    readings = {title: scene.errors(images) for title, images in made.items()}
    rows: dict[str, dict[str, Number | str]] = {}
    for title, (errors, embeddings) in readings.items():
        row: dict[str, Number | str] = {column: Number.mean(errors[column], seed) for column in COLUMNS}
        row["CSIM of ceiling, over chance"] = scene.of_ceiling(errors["CSIM (dlib)"])
        row["Frechet distance (dlib embedding)"] = frechet(embeddings, scene.embeddings, seed)
        row["faces found"] = f"{int(np.isfinite(errors['pose, degrees']).sum())} of {pairs}"
        rows[title] = row
    claims = []
    for name, column, more, words in CLAIMS:
        ours, theirs = readings[OURS][0][column], readings[VARIANTS[name].title][0][column]
        difference = Number.mean(ours - theirs, seed)  # of the same pairs
        claims.append(Claim.of(words, f"{COLUMNS[column][0]} ({column})", difference, more))
    facts = {
        "pairs": pairs,
        "steps of each training": steps,
        "seed": seed,
        "intervals": "95 %, bootstrap over pairs; of Frechet distances jackknife over ten groups",
        "CSIM": "cosine of embeddings of the result and of the true picture of the source",
        "CSIM of ceiling": "(CSIM - that of strangers) / (that of the true pictures - that of strangers)",
        "NME": "mean distance of 68 landmarks by dlib from the exact ones, over the root of the area of the landmarks' "
        "box (as in the paper, percent) or over the distance of the outer eye corners; to the true picture: from those "
        "that dlib finds in the true picture, which leaves out what dlib misreads in every picture",
        "pose": "mean of yaw, pitch and roll by dlib against those of the true picture by dlib",
        "expression": "mean of seven lengths on the frontal face by dlib (mouth, lids, brows; eye distances) against "
        "those of the true picture by dlib, times 10",
        "Frechet distance": "of dlib's embeddings (128 numbers), to the true pictures",
        "last rows": "bounds: what the generator can show at all, what doing nothing gives, and dlib's own error",
        "weights": weights,
    }
    save_picture(grid, _grid(generator, nets["paper"], codes))
    return write_report(folder, "StyleMask on the built-in family", rows, claims, facts, [grid])


def train_variant(
    name: str, steps: int, store: Path, generator: StyleGAN2, weights: Mapping[str, str], device: Device
) -> MaskNets:
    """A variant's mask networks: from the store if they are there, else trained, going on where a run was stopped.

    weights: the hashes of the networks that it learns from; device: where it is trained, as for the generator.
    """
    from stylereel.train.loop import Trainer

    variant = VARIANTS[name]
    settings: Settings = replace(QUICK, steps=steps, cycle=variant.cycle, exact_weight=0.0)  # which the paper has not
    place = generator.mean_w.device
    facts: dict[str, Any] = {"variant": asdict(variant), "settings": asdict(settings), "weights": dict(weights)}
    key = hashlib.sha256(json.dumps(facts, sort_keys=True).encode()).hexdigest()[:8]
    file = store / f"{name}-{key}.safetensors"
    if not (file.exists() and read_card(file).get("settings") == facts["settings"]):
        face = load_face(builtin("face"))
        identity = load_module(builtin("identity"), "identity", lambda config: IdentityNet())
        config = MaskConfig.of(generator, space=variant.space, one_net=variant.one_net)
        trainer = Trainer(store, device=device, settings={"study": facts})
        nets = train(trainer, generator, WorldFaces(face, identity), settings, None, config, f"{name}-{key}")
        generator.to(place)
        save_module(file, KIND, nets, facts)
    return load_masks(file, generator).eval().to(place)


class Scene:
    """Pairs of people, the true pictures of sources with the targets' motion, and what dlib reads in pictures.

    source, target: factor values [N, K]; truth, people: uint8 [N, H, W, 3], of the crossed persons and of the sources;
    device: where the identity net runs.
    """

    def __init__(
        self, source: np.ndarray, target: np.ndarray, truth: np.ndarray, people: np.ndarray, device: str
    ) -> None:
        self.points = np.stack([world.project_landmarks(v)[0] for v in cross(source, target)])
        self.truth, self.people, self.device = truth, builtin_embeddings(people, device), device
        self.backend = DlibBackend()
        self.angles, self.lengths, self.landmarks, self.embeddings = self.read(truth)
        self.who = self.read(people)[3]
        strangers = cosine(np.roll(self.who, 1, axis=0), self.who)
        self.chance, self.ceiling = float(np.nanmean(strangers)), float(np.nanmean(cosine(self.embeddings, self.who)))

    def read(self, images: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
        """By dlib, NaN where it finds no face: angles [N, 3], lengths [N, 7], landmarks [N, 68, 2], embeddings."""
        count = len(images)
        angles, lengths = np.full((count, 3), np.nan), np.full((count, 7), np.nan)
        landmarks, embeddings = np.full((count, 68, 2), np.nan), np.full((count, 128), np.nan)
        for index, picture in enumerate(images):
            try:
                points = find_face(picture, self.backend)
            except ValueError:
                continue
            pose = pose_from_landmarks(points[None])
            angles[index] = [pose[name][0] for name in POSE]
            lengths[index] = _lengths(unrotate(points[None], pose)[0])
            landmarks[index] = points / picture.shape[0]
            embeddings[index] = self.backend.embedding(picture, points)
        return angles, lengths, landmarks, embeddings

    def errors(self, images: np.ndarray) -> tuple[dict[str, np.ndarray], np.ndarray]:
        """For each of `COLUMNS` its value [N], and dlib's embeddings [N, 128]."""
        angles, lengths, landmarks, embeddings = self.read(images)
        numbers = {
            "CSIM (dlib)": cosine(embeddings, self.who),
            "NME of box, %": 100 * landmark_error(landmarks, self.points, "box"),
            "NME of eyes": landmark_error(landmarks, self.points, "eyes"),
            "NME of eyes, to the true picture": landmark_error(landmarks, self.landmarks, "eyes"),
            "pose, degrees": np.abs(angles - self.angles).mean(1),
            "expression": 10 * np.abs(lengths - self.lengths).mean(1),
            "exact L1, levels": np.array([_one(l1, a, b) for a, b in zip(images, self.truth)]),
            "exact PSNR, dB": np.array([_one(psnr, a, b) for a, b in zip(images, self.truth)]),
            "CSIM (built-in net)": cosine(builtin_embeddings(images, self.device), self.people),
        }
        return {name: np.where(np.isfinite(value), value, np.nan) for name, value in numbers.items()}, embeddings

    def of_ceiling(self, values: np.ndarray) -> Number:
        """Similarities [N] as a share of the way from strangers to the same person's true pictures."""
        return Number.mean((values - self.chance) / (self.ceiling - self.chance))


def _one(measure: Callable[[Clip, Clip], np.ndarray], image: np.ndarray, other: np.ndarray) -> float:
    return float(measure(Clip(image[None]), Clip(other[None]))[0])


def _lengths(frontal: np.ndarray) -> np.ndarray:
    """Mouth opening and width, lift of its corners, both eyes' opening, both brows' height, of a face [68, 2]."""
    y = frontal[:, 1]
    opening = (y[[65, 66, 67]] - y[[63, 62, 61]]).mean()
    width = np.linalg.norm(frontal[54] - frontal[48])
    lift = y[62] - y[[48, 54]].mean()
    lids = [(y[[o + 4, o + 5]] - y[[o + 1, o + 2]]).mean() for o in (36, 42)]
    brows = [y[[o, o + 3]].mean() - y[b].mean() for o, b in ((36, slice(17, 22)), (42, slice(22, 27)))]
    return np.array([opening, width, lift, *lids, *brows])


def frechet(embeddings: np.ndarray, others: np.ndarray, seed: int) -> Number:
    """Frechet distance of two sets of embeddings [N, D], NaN rows left out."""
    pools = []
    for rows in (embeddings, others):
        rows = rows[np.isfinite(rows[:, 0])]
        pool = Pool(GROUPS, seed)
        places = np.stack([np.arange(len(rows)), np.zeros(len(rows), int)], 1)
        pool.add(rows, np.arange(len(rows)) % GROUPS, places)
        pools.append(pool)
    if min(pool.count for pool in pools) < 2:
        return Number(float("nan"))
    value, without = frechet_between(*pools)
    return Number(value, jackknife(value, without)[0])


def _grouped_codes(generator: StyleGAN2, z: np.ndarray) -> torch.Tensor:
    """W+ codes [B, L, D] of latents z [B, groups, Z], one for each group of factors."""
    from stylereel.family.people import grouped_w

    return grouped_w(generator, torch.from_numpy(z).float().to(generator.mean_w.device))


@torch.inference_mode()
def _synthesize(generator: StyleGAN2, w: torch.Tensor) -> np.ndarray:
    """Pictures uint8 [N, H, W, 3] of codes [N, L, D]."""
    return np.concatenate([pictures(generator.synthesize(w=part)) for part in w.split(BATCH)])


@torch.inference_mode()
def _mix(generator: StyleGAN2, nets: MaskNets, source: torch.Tensor, target: torch.Tensor) -> np.ndarray:
    """Pictures of the sources as the targets move them."""
    system = StyleMask(generator, None, nets)
    return np.concatenate(
        [
            pictures(generator.synthesize(s=system.mix(one, other)))
            for one, other in zip(source.split(BATCH), target.split(BATCH), strict=True)
        ]
    )


def _grid(generator: StyleGAN2, nets: MaskNets, codes: list[torch.Tensor]) -> np.ndarray:
    """Every source (first column) as every target (first row) moves it, in half size."""
    source, target = (w[:SHOWN] for w in codes)
    cells = [np.full((generator.resolution, generator.resolution, 3), 255, np.uint8), *_synthesize(generator, target)]
    labels = ["", *["target"] * len(target)]
    for one, picture in zip(source, _synthesize(generator, source)):
        cells += [picture, *_mix(generator, nets, one[None].expand(len(target), -1, -1), target)]
        labels += ["source", *[""] * len(target)]
    half = generator.resolution // 2
    small = [np.reshape(cell, (half, 2, half, 2, 3)).mean((1, 3)).round().astype(np.uint8) for cell in cells]
    return contact_sheet(small, len(target) + 1, labels)
