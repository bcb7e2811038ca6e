"""How StyleMask's mask networks learn: random pairs of any generator, a perception, and no image on disk."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, NamedTuple, Protocol

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from stylereel import world
from stylereel.core.render import pictures
from stylereel.encoders.arcface import ArcFace
from stylereel.faces.deca import Deca, in_portrait, load_deca
from stylereel.faces.flame import EXPRESSION, POSE, SHAPE, Flame, load_flame
from stylereel.family.nets import PARSED_SIZE, SIZE, FaceNet, IdentityNet, unit_values
from stylereel.family.people import GROUPS, group_of_row, grouped_w, latents_of, mixed_latents, mixed_values
from stylereel.generator import StyleGAN2
from stylereel.media.sheet import side_by_side
from stylereel.recipes.run import Run, makes, shown
from stylereel.systems.stylemask.networks import MaskConfig, MaskNets, load_masks
from stylereel.train.loop import Average, Trainer, cosine
from stylereel.train.optimizers import Muon
from stylereel.train.sources import Source, open_source
from stylereel.world.factors import LATENT_DIM
from stylereel.zoo.encoders import load_arcface_file
from stylereel.zoo.formats import load_generator_file
from stylereel.zoo.registry import cache_folder, find

# The code's pairs of landmarks, whose distances count once more.
MOUTH_PAIRS = ((48, 54), (49, 59), (50, 58), (51, 57), (52, 56), (53, 55), (60, 64), (61, 67), (62, 66), (63, 65))
EYE_PAIRS = ((36, 39), (37, 41), (38, 40), (42, 45), (43, 47), (44, 46))
CAMERA = 8.0  # FLAME's metres to images in -1..1, the fixed camera of the authors' code
MEAN_SAMPLES = 4096
HAIR = 0.4  # how far beyond FLAME's bare head hair may reach, in halves of the image's side


@dataclass(frozen=True)
class Settings:
    """One reading of the training; the defaults are the paper's where it speaks, else the code's.

    mesh: shape loss on the vertices of the 3-D model instead of landmarks (needs DECA and FLAME); pairs_weight: weight
    of the distances of mouth and eye pairs; values_weight: that of the world's factors, which only the built-in
    perception reads; exact_weight: that of the way to the vectors which show the source with the target's motion, known
    for the built-in family alone;
    cycle: the recurrent cycle; cycle_identity: the two results of the cycle also have to show one identity; psi: how
    far people are from the mean face; muon: orthogonalised momentum for matrices, Adam at bias_rate for biases, and a
    cosine schedule, instead of Adam with weight decay at a constant learning rate.
    """

    steps: int = 70_000
    batch: int = 6
    rate: float = 1e-4
    weight_decay: float = 5e-4
    psi: float = 0.7
    shape_weight: float = 1.0
    identity_weight: float = 10.0
    mesh: bool = True
    pairs_weight: float = 0.0
    values_weight: float = 0.0
    exact_weight: float = 0.0
    cycle: bool = True
    cycle_identity: bool = True
    muon: bool = False
    bias_rate: float = 0.0


PAPER = Settings()
CODE = Settings(steps=100_000, batch=12, mesh=False, pairs_weight=1.0, cycle_identity=False)
# For the built-in family on a CPU: biases carry what a channel usually means and have far to go from a mask of 0.5.
QUICK = Settings(
    steps=1200, rate=1e-3, psi=1.0, shape_weight=10.0, identity_weight=1.0, mesh=False, values_weight=1.0,
    exact_weight=10.0, muon=True, bias_rate=5e-2,
)  # fmt: skip


class Face(NamedTuple):
    """What the shape loss compares: landmarks [B, 68, 2] in -1..1 of the image or in the camera's units; values
    [B, K] of the world's factors, -1..1; mesh [B, V, 3] in the units of the landmarks."""

    landmarks: Tensor
    values: Tensor | None = None
    mesh: Tensor | None = None


class Perception(Protocol):
    """What training asks of the nets that see faces."""

    size: int  # pixels of the images it takes

    def read(self, z: np.ndarray | None, psi: float, paint: Callable[[], Tensor]) -> Tensor:
        """The features [B, F] of the people of latents z [B, Z], or [B, 4, Z] for the built-in family, or without z of
        their images [B, 3, H, W]."""
        ...

    def ideal(self, source: Tensor, target: Tensor) -> Face:
        """The sources [B, F] with the targets' pose and expression."""
        ...

    def see(self, images: Tensor) -> Face:
        """The faces in images, with a gradient."""
        ...

    def embed(self, images: Tensor) -> Tensor:
        """Identity embeddings of images: [B, D] of length 1."""
        ...

    def areas(self, images: Tensor) -> tuple[Tensor, Tensor]:
        """Where images show no head, and where they show a head: two maps [B, 1, 64, 64] of 0 and 1, with a gap
        between."""
        ...


class WorldFaces(nn.Module):
    """The perception of the built-in family: built-in nets, and the world's exact ideal."""

    size = SIZE

    def __init__(self, face: FaceNet, identity: IdentityNet) -> None:
        super().__init__()
        self.face, self.identity = face, identity

    def read(self, z: np.ndarray | None, psi: float, paint: Callable[[], Tensor]) -> Tensor:
        """World factors [B, K], on the CPU: exact for whole latents, else by the face net."""
        if psi == 1 and z is not None and z.shape[-1] == LATENT_DIM:
            return torch.from_numpy(world.align(mixed_values(z) if z.ndim == 3 else world.from_latent(z)))
        middle, half = (
            torch.from_numpy(limit) for limit in ((world.HIGH + world.LOW) / 2, (world.HIGH - world.LOW) / 2)
        )
        values = middle + half * self.face(paint()).values.float().cpu().clamp(-1, 1)
        return torch.from_numpy(world.align(values.numpy()))

    def ideal(self, source: Tensor, target: Tensor) -> Face:
        values = source.clone()
        values[:, world.MOTION_COLUMNS] = target[:, world.MOTION_COLUMNS]
        points = np.stack([world.project_landmarks(v)[0] for v in values.numpy()])
        device = next(self.parameters()).device
        return Face(torch.from_numpy(2 * points - 1).to(device), unit_values(values.to(device)))

    def see(self, images: Tensor) -> Face:
        predicted = self.face(images)
        return Face(2 * predicted.landmarks - 1, predicted.values)

    def embed(self, images: Tensor) -> Tensor:
        return self.identity(images)

    def areas(self, images: Tensor) -> tuple[Tensor, Tensor]:
        """By the face net's parser; backdrop and clothes are outside."""
        regions = self.face(images, parse=True, close=False).regions
        if regions is None:
            raise ValueError("This face net has no parser; train perception anew, or give the built-in one.")
        names = self.face.config.regions.split()
        beyond = torch.tensor([names.index(name) for name in ("background", "clothes")], device=regions.device)
        head = 1 - torch.isin(regions.argmax(1), beyond).float()[:, None]
        return 1 - F.max_pool2d(head, 3, 1, 1), head


class DecaFaces(nn.Module):
    """The paper's perception for generators of real faces: DECA and FLAME for shape, ArcFace for identity."""

    size = 256

    def __init__(self, deca: Deca, flame: Flame, arcface: ArcFace) -> None:
        super().__init__()
        self.deca, self.flame, self.arcface = deca, flame, arcface

    def read(self, z: np.ndarray | None, psi: float, paint: Callable[[], Tensor]) -> Tensor:  # noqa: ARG002 (the other's)
        """Shape, expression and pose [B, 156] by DECA."""
        codes = self.deca.read(paint())
        return torch.cat([codes["shape"], codes["expression"], codes["pose"]], 1)

    def ideal(self, source: Tensor, target: Tensor) -> Face:
        return self._face(torch.cat([source[:, :SHAPE], target[:, SHAPE:]], 1))

    def see(self, images: Tensor) -> Face:
        return self._face(self.read(None, 1.0, lambda: images))

    def embed(self, images: Tensor) -> Tensor:
        return self.arcface.embed(images)

    def areas(self, images: Tensor) -> tuple[Tensor, Tensor]:
        """By the distance from FLAME's vertices; hair, which it lacks, is in the gap."""
        codes = self.deca.read(images)
        vertices = self.flame(codes["shape"], codes["expression"], codes["pose"])
        place = (torch.arange(PARSED_SIZE, device=images.device) + 0.5) / PARSED_SIZE * 2 - 1
        grid = torch.stack(torch.meshgrid(place, place, indexing="xy"), 2).view(1, -1, 2)
        points = in_portrait(vertices, codes["camera"])
        nearest = torch.cdist(grid.expand(len(points), -1, -1), points).amin(2)
        nearest = nearest.view(-1, 1, PARSED_SIZE, PARSED_SIZE)
        return (nearest > HAIR).float(), (nearest < 2 / PARSED_SIZE).float()

    def _face(self, codes: Tensor) -> Face:
        vertices = self.flame(*codes.split([SHAPE, EXPRESSION, POSE], dim=1))
        points = CAMERA * self.flame.landmarks(vertices)[..., :2] * vertices.new_tensor([1.0, -1.0])
        return Face(points, mesh=CAMERA * vertices)


def shape_loss(predicted: Face, ideal: Face, settings: Settings) -> Tensor:
    """How far faces are from their ideals, as the settings weigh it; a mean over the batch."""
    if settings.mesh and predicted.mesh is not None and ideal.mesh is not None:
        loss = (predicted.mesh - ideal.mesh).abs().mean()
    else:
        loss = (predicted.landmarks - ideal.landmarks).abs().mean()
    if settings.pairs_weight:
        for pairs in (MOUTH_PAIRS, EYE_PAIRS):
            one, other = torch.tensor(pairs, device=loss.device).T
            distances = [(face.landmarks[:, one] - face.landmarks[:, other]).abs() for face in (predicted, ideal)]
            loss = loss + settings.pairs_weight * (distances[0] - distances[1]).abs().mean()
    loss = settings.shape_weight * loss
    if settings.values_weight and predicted.values is not None and ideal.values is not None:
        apart = (predicted.values - ideal.values).abs()
        moving = torch.zeros(apart.shape[1], dtype=torch.bool, device=apart.device)
        moving[world.MOTION_COLUMNS] = True
        loss = loss + settings.values_weight * (apart[:, moving].mean() + apart[:, ~moving].mean())
    return loss


def latents(index: int, count: int, width: int) -> np.ndarray:
    """Latents [3, B, Z] of step `index`: sources, targets, and the cycle's second targets."""
    return np.random.default_rng((51, index)).standard_normal((3, count, width))


def people(index: int, count: int) -> np.ndarray:
    """The same of the built-in family, [3, B, 4, 80]. Every second mover is the neutral head, as in `StyleMask`."""
    z = mixed_latents((51, index), 3 * count, mix=0.5)
    neutral = np.tile(world.neutral(), (len(z), 1))
    neutral[:, world.MOTION_COLUMNS] = mixed_values(z)[:, world.MOTION_COLUMNS]
    plain = np.arange(len(z)) % 2 == 1
    plain[:count] = False
    z[plain] = latents_of(neutral[plain], np.random.default_rng((53, index)))
    return z.reshape(3, count, *z.shape[1:])


def knows_exact(generator: StyleGAN2, perception: Perception, settings: Settings, codes: Source | None) -> bool:
    """Whether `train` is told the vectors that its masks should make."""
    family = isinstance(perception, WorldFaces) and generator.config.z_dim == LATENT_DIM and codes is None
    return family and settings.psi == 1 and settings.exact_weight > 0


def exact_codes(source: Tensor, target: Tensor) -> Tensor:
    """The W+ codes [B, L, D] of the built-in family that show sources with the motion of targets: rows of pose and
    expression are the target's."""
    moves = [GROUPS[group_of_row(row)] in ("pose", "expression") for row in range(source.shape[1])]
    return torch.where(torch.tensor(moves, device=source.device)[:, None], target, source)


def exact_loss(
    mixed: Sequence[Tensor], ideal: Sequence[Tensor], source: Sequence[Tensor], target: Sequence[Tensor]
) -> Tensor:
    """How far mixed vectors [B, C_l] are from ideal ones, squared, as a share of how far targets are from sources; a
    mean over the layers."""
    parts = [
        (m - i).square().mean() / (b - a).square().mean().clamp(min=1e-8)
        for m, i, a, b in zip(mixed, ideal, source, target, strict=True)
    ]
    return torch.stack(parts).mean()


def identity_loss(one: Tensor, other: Tensor) -> Tensor:
    """1 - cosine of embeddings [B, D] of length 1, a mean over the batch."""
    return (1 - (one * other).sum(1)).mean()


def train(
    trainer: Trainer,
    generator: StyleGAN2,
    perception: Perception,
    settings: Settings = PAPER,
    start: MaskNets | None = None,
    config: MaskConfig | None = None,
    stage: str = "stylemask",
    codes: Source | None = None,
) -> MaskNets:
    """Train the mask networks of `generator`, from scratch or trained ones.

    config: what is mixed, by default style vectors with a network for each layer; stage: the folder's name; codes:
    prepared pictures with their W+ codes, whose people are taken instead of random ones.
    Raises ValueError if the codes are another generator's.
    """
    torch.manual_seed(3)
    trainer.freeze(generator, *([perception] if isinstance(perception, nn.Module) else []))
    if settings.psi != 1 and not generator.mean_w.any():  # a file may lack it, and truncation needs it
        with torch.no_grad():
            z = torch.randn(MEAN_SAMPLES, generator.config.z_dim, generator=torch.Generator().manual_seed(0))
            generator.mean_w.copy_(generator.map(z.to(trainer.device))[:, 0].mean(0))
    start = start and start.with_effects(None)  # what stays the source's is measured anew, behind training
    config = start.config if start else config or MaskConfig.of(generator)
    model, average = start or MaskNets(config), MaskNets(config)
    optimizers = _optimizers(model, settings)
    steps, (rank, ranks) = trainer.steps(settings.steps), trainer.share
    follow = Average(model, average, 0.98)
    noise = "none" if isinstance(perception, WorldFaces) else "const"
    exact = knows_exact(generator, perception, settings, codes)
    stop = f"b{perception.size}.torgb" if noise == "none" and perception.size <= generator.resolution else None

    def paint(styles: list[Tensor]) -> Tensor:
        images = generator.synthesize(s=styles, noise=noise, stop=stop, dtype=trainer.dtype)
        return F.adaptive_avg_pool2d(images, perception.size) if images.shape[-1] > perception.size else images

    @torch.no_grad()
    def take(index: int) -> tuple[np.ndarray | None, Tensor]:
        """Latents [3B, (4,) Z], where there are any, and W+ codes [3B, L, D]: sources, targets, second targets."""
        if codes is not None:
            w = codes.batch(index, 3 * settings.batch, trainer.share)["codes"][:, 0].float()
            if w.shape[1:] != (generator.num_ws, generator.config.w_dim):
                raise ValueError(
                    f"The codes are {list(w.shape[1:])}, of another generator; prepare them with this one."
                )
            return None, trainer.to_device(w)
        if exact:
            z = people(index, settings.batch)[:, rank::ranks]
            z = z.reshape(-1, *z.shape[2:])
            return z, grouped_w(generator, torch.from_numpy(z).float().to(trainer.device))
        flat = latents(index, settings.batch, generator.config.z_dim)[:, rank::ranks].reshape(
            -1, generator.config.z_dim
        )
        return flat, generator.map(torch.from_numpy(flat).float().to(trainer.device), psi=settings.psi)

    def step(index: int) -> dict[str, Tensor]:
        z, w = take(index)
        with torch.no_grad():
            vectors = model.vectors(generator, w)
            facts = perception.read(z, settings.psi, lambda: paint(model.styles(generator, vectors, w)))
            person, mover, other = facts.chunk(3)
            targets = [perception.ideal(person, mover)]
            if settings.cycle:
                targets += [perception.ideal(person, other)] * 2
            source, target, second = zip(*(vector.chunk(3) for vector in vectors), strict=True)
            own, mover_w, other_w = w.chunk(3)
            who = perception.embed(paint(model.styles(generator, source, own)))
        # The paper's r, and the cycle's r1 (the source by a second target) and r2 (r by the same): one batch.
        mixed = [model(source, target)]
        if settings.cycle:
            mixed += [model(source, second), model(mixed[0], second)]
        together = [torch.cat(parts) for parts in zip(*mixed, strict=True)]
        images = paint(model.styles(generator, together, own.repeat(len(mixed), 1, 1)))
        predicted, people = perception.see(images), perception.embed(images).chunk(len(mixed))
        faces = [Face(*parts) for parts in zip(*(_chunks(part, len(mixed)) for part in predicted), strict=True)]
        shapes = [shape_loss(face, ideal, settings) for face, ideal in zip(faces, targets, strict=True)]
        same = [identity_loss(who, p) for p in people]
        if settings.cycle and settings.cycle_identity:
            same.append(identity_loss(people[1], people[2]))
        identity = torch.stack(same)
        loss = torch.stack(shapes).sum() + settings.identity_weight * identity.sum()
        losses = {"shape": shapes[0], "identity": identity.mean()}
        losses |= {"cycle": (shapes[1] + shapes[2]) / 2} if settings.cycle else {}
        if exact:
            pairs = [(target, mover_w)] + [(second, other_w)] * (len(mixed) - 1)
            aims = [model.vectors(generator, exact_codes(own, w)) for _, w in pairs]
            known = [exact_loss(m, aim, source, to) for m, aim, (to, _) in zip(mixed, aims, pairs, strict=True)]
            losses["exact"] = torch.stack(known).mean()
            loss = loss + settings.exact_weight * torch.stack(known).sum()
        trainer.descend(loss, optimizers.values())
        follow.update(index)
        return losses

    @torch.no_grad()
    def sample() -> np.ndarray:
        """Eight people, eight targets below them, and below these the people as the targets move them."""
        z = torch.randn(16, generator.config.z_dim, generator=torch.Generator().manual_seed(0)).to(trainer.device)
        source, target = generator.map(z, psi=settings.psi).chunk(2)
        one, two = (average.vectors(generator, w) for w in (source, target))
        rows = [(one, source), (two, target), (average(one, two), source)]
        return np.concatenate([side_by_side(list(pictures(paint(average.styles(generator, *row))))) for row in rows])

    trainer.fit(
        stage,
        {"model": model, "average": average},
        optimizers,
        step,
        steps,
        batch=settings.batch,
        schedule=(lambda index: cosine(index, steps)) if settings.muon else (lambda index: 1.0),
        every=50,
        sample=sample,
    )
    return average


def _optimizers(model: MaskNets, settings: Settings) -> dict[str, torch.optim.Optimizer]:
    if not settings.muon:
        return {"all": torch.optim.Adam(model.parameters(), settings.rate, weight_decay=settings.weight_decay)}
    weights = [p for name, p in model.named_parameters() if name.endswith("weight")]
    biases = [p for name, p in model.named_parameters() if name.endswith("bias")]
    return {
        "matrices": Muon(weights, settings.rate),
        "rest": torch.optim.Adam(biases, lr=settings.bias_rate, foreach=True),
    }


def _chunks(part: Tensor | None, count: int) -> list[Tensor | None]:
    return [None] * count if part is None else list(part.chunk(count))


@makes("stylemask", needs=("face", "identity", "generator"))
def recipe(
    run: Run,
    *,
    data: str | None = None,
    generator: str | None = None,
    perception: Literal["builtin", "deca"] = "builtin",
    preset: Literal["quick", "paper", "code"] | None = None,
) -> list[Path]:
    """Train mask networks of a StyleGAN2 generator.

    Args:
        data: shards that `stylereel prepare --for stylemask` wrote, whose codes are the people; random people of the
            generator, as in the paper, if not given.
        generator: weight file of a generator of any known tool; without it that of the folder.
        perception: what sees faces: the built-in nets for the built-in family, or the files of DECA, FLAME and ArcFace
            in the cache folder for real faces.
        preset: the paper's settings, those of the authors' code, or quick ones for the built-in family; without it
            quick for builtin and paper for deca.
    """
    from stylereel.systems.stylemask.effects import measured  # which knows this module

    run.claim("stylemask")
    if generator is None:
        teacher = run.generator()
    else:
        if run.start == "builtin":
            raise ValueError("The built-in masks fit the built-in generator alone; give --start scratch.")
        other = load_generator_file(generator)
        if not isinstance(other, StyleGAN2):
            raise ValueError(f"{generator} is no StyleGAN2 generator, which stylemask needs.")
        teacher = other
    presets = {"paper": PAPER, "code": CODE, "quick": QUICK}
    card = {} if generator is None else {"data": f"random people of {shown(generator)}; no images", "licence": None}
    codes = None
    if data is not None:
        codes = open_source(data, size=SIZE, frames=1, arrays=["codes"])
        card = {"data": f"codes of prepared clips of {shown(data)}", "licence": None}
    if perception == "deca":
        if preset == "quick":
            raise ValueError("The quick settings are for the built-in nets; give --preset paper or code.")
        faces, first, settings = real_faces(), None, presets[preset or "paper"]
    else:
        path = run.first("stylemask")
        first = None if path is None else load_masks(path)
        faces, settings = WorldFaces(run.face_net(), run.identity_net()), presets[preset or "quick"]
    nets = train(run.trainer, teacher, faces, settings, first, codes=codes)
    if not knows_exact(teacher, faces, settings, codes):
        nets = measured(nets, teacher, faces, settings.psi)
    return run.save({"stylemask": nets}, **card)


def real_faces() -> DecaFaces:
    """DECA, FLAME and ArcFace from the cache folder. Raises ValueError that says which file is missing."""
    names = ("deca_model.tar", "generic_model.pkl", "landmark_embedding.npy", "model_ir_se50.pth")
    paths = [cache_folder() / name for name in names]
    if missing := [path for path in paths if not path.exists()]:
        page = find(missing[0].name).url
        raise ValueError(f"{missing[0].name} is missing in {missing[0].parent}; get it from {page} and put it there.")
    deca, model, embedding, arcface = paths
    return DecaFaces(load_deca(deca), load_flame(model, embedding), load_arcface_file(arcface))
