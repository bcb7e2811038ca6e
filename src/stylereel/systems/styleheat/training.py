"""How StyleHEAT's networks learn, in the paper's stages: the video warper, then warper and calibration together.

The paper trains on video: the target is another frame of the source's own clip. The built-in family has something
better. Its codes hold pose and expression in rows of their own, so that the generator itself shows the source with the
target's motion, and the state that it passes through at 64 px is known; and the world knows the exact flow and draws
the true image of the target. Half of the sources are codes that the encoder found, as those of pictures are.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Literal, NamedTuple

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from stylereel import world
from stylereel.core.prefetch import Prefetch
from stylereel.core.render import pictures
from stylereel.family.encoder import load_encoder
from stylereel.family.nets import FaceNet, IdentityNet, unit_values
from stylereel.family.people import Batch as Portraits
from stylereel.family.people import grouped_w, mixed_values
from stylereel.generator import Discriminator, StyleGAN2
from stylereel.media.sheet import side_by_side
from stylereel.recipes.losses import image_loss
from stylereel.recipes.run import WORLD, Run, makes, shown
from stylereel.systems.styleheat.files import load_calibration, load_warper
from stylereel.systems.styleheat.flow import endpoint_error
from stylereel.systems.styleheat.losses import (
    Maps,
    PyramidLoss,
    adversarial_loss,
    boxes,
    domain_loss,
    local_loss,
    weighted_l1,
)
from stylereel.systems.styleheat.motion import INPUTS
from stylereel.systems.styleheat.networks import (
    FLOW_SIZE,
    RADIUS,
    Calibration,
    CalibrationConfig,
    Warper,
    WarperConfig,
)
from stylereel.systems.styleheat.pairs import (
    PICTURE,
    SEED,
    TRUE_SIZE,
    Encode,
    Pairs,
    clip_pairs,
    draw_pairs,
    kept_pairs,
)
from stylereel.systems.styleheat.state import COLOURS, State, look, read_state, split
from stylereel.train.loop import Average, Trainer, cosine
from stylereel.train.optimizers import muon_and_adam
from stylereel.train.sources import Source, open_source
from stylereel.world.factors import MOTION_COLUMNS
from stylereel.world.materials import REGIONS

WARPER = WarperConfig(INPUTS, descriptor=96, size=FLOW_SIZE, width=24, widest=64, hidden=48, places=True, guide=True)
CALIBRATION = CalibrationConfig(width=32, hidden=48, heads=1, guide=True, finest=True)
POSE_ROWS, EXPRESSION_ROWS = slice(0, 2), slice(4, 6)  # of W+
SHOWN = 128  # pixels of the samples
INNER = ("skin", "brow", "eye", "lips", "mouth", "glasses", "beard")  # regions inside of which the nets look
LANDMARKS = 20.0  # weight of landmarks, in parts of the image, next to factors
JOINT_SEED = 73
HELD_OUT = 72  # the seed of pairs that no training draws


@dataclass(frozen=True)
class Settings:
    """One stage's reading; the defaults are the paper's.

    steps, batch, rate: of the optimiser; warper_rate: of the warper, where both learn. Weights: perceptual, of the
    warped source image against the target frame; local, domain, adversarial: see `losses`; flow: of the distance to
    the exact flow, or of the sound's to the exact landmarks; state: of the difference to the target's state, eyes and
    mouth `detail` times; exact: of that to the world's true image, see `recipes.losses.image_loss`; these three need
    the built-in family. reading, identity: of what the face net reads inside the face, and of whom the identity net
    sees there; contrast: of SyncNet's `hearing.contrast_loss`. pool: so many batches are drawn, kept on the disk and
    taken in turn; 0 draws each step's anew. muon: orthogonalised momentum and a cosine schedule instead of Adam.
    inverted: the authors' sign of the adversarial loss.
    """

    steps: int
    batch: int
    rate: float = 1e-4
    warper_rate: float = 2e-5
    perceptual: float = 1.0
    local: float = 0.0
    domain: float = 0.0
    adversarial: float = 0.0
    flow: float = 0.0
    state: float = 0.0
    exact: float = 0.0
    detail: float = 1.0
    reading: float = 0.0
    identity: float = 0.0
    contrast: float = 0.0
    pool: int = 0
    muon: bool = False
    inverted: bool = False


@dataclass(frozen=True)
class Preset:
    """Both stages."""

    video: Settings
    joint: Settings


PAPER = Preset(
    video=Settings(200_000, 20),
    joint=Settings(20_000, 4, perceptual=0.01, local=1.0, domain=0.01, adversarial=0.1),
)
# The authors' first stage cannot run; their second differs in weights and in the sign of the adversarial loss.
CODE = Preset(
    video=Settings(200_000, 16),
    joint=Settings(
        100_000, 16, warper_rate=0.0, perceptual=0.02, local=2.0, domain=0.01, adversarial=0.1, inverted=True
    ),
)
# For the built-in family on a CPU.
QUICK = Preset(
    video=Settings(30, 8, rate=5e-4, perceptual=0.0, flow=1.0, state=0.5, detail=3.0, pool=120, muon=True),
    joint=Settings(
        800, 8, rate=7e-3, warper_rate=5e-4, perceptual=0.0, flow=0.2, state=1.0, exact=3.0, detail=3.0,
        reading=1.0, identity=1.0, pool=120, muon=True,
    ),
)  # fmt: skip

# The same on prepared clips, of which nobody knows flow and states: the true image is the target's frame.
CLIPS = Preset(
    video=replace(QUICK.video, perceptual=1.0, flow=0.0, state=0.0, pool=0),
    joint=replace(QUICK.joint, perceptual=0.1, flow=0.0, state=0.0, pool=0),
)


class Batch(NamedTuple):
    """Pairs as the generator shows them: w of the sources [B, L, D], the states of both, the warper's images, targets'
    images where a loss looks at them, the targets as the world draws them, and the mask of eyes and mouth
    [B, 1, 64, 64]."""

    w: Tensor
    source: State
    target: State
    images: Tensor
    target_images: Tensor | None
    truth: Portraits
    mask: Tensor


class Readers(NamedTuple):
    """The built-in nets that look at images in training."""

    face: FaceNet
    identity: IdentityNet


class Teacher:
    """Batches of a generator of the built-in family, and what its states mean."""

    def __init__(
        self, trainer: Trainer, generator: StyleGAN2, size: int, with_targets: bool, from_clips: bool = False
    ) -> None:
        """size: of the warper's images in pixels; with_targets: of the targets, too; from_clips: these are frames."""
        self.trainer, self.generator, self.size, self.with_targets = trainer, generator, size, with_targets
        self.from_clips = from_clips
        trainer.freeze(generator)
        with torch.no_grad():
            z = torch.randn(64, generator.config.z_dim, generator=torch.Generator().manual_seed(0)).to(trainer.device)
            state = read_state(generator, generator.map(z)).joined()
            # A difference counts against how much a channel varies.
            self.deviation = state.std((0, 2, 3), keepdim=True).clamp_min(1e-3)

    def image(self, state: State, w: Tensor) -> Tensor:
        """The image of a state, as large as the warper's images."""
        return look(self.generator, state, w, self.size, dtype=self.trainer.dtype)

    @torch.no_grad()
    def __call__(self, pairs: Pairs) -> Batch:
        w, other = (grouped_w(self.generator, z) for z in (pairs.source, pairs.target))
        w = torch.where(pairs.codes.flatten(1).any(1)[:, None, None], pairs.codes, w)
        moved = w.clone()
        for rows in (POSE_ROWS, EXPRESSION_ROWS):
            moved[:, rows] = other[:, rows]
        source, target = (read_state(self.generator, codes) for codes in (w, moved))
        shown = None
        truth = Portraits(
            pairs.target, unit_values(torch.from_numpy(world.align(mixed_values(pairs.target.cpu().double().numpy())))),
            pairs.truth / 127.5 - 1, pairs.landmarks, pairs.regions,
        )  # fmt: skip
        if self.with_targets:
            shown = F.adaptive_avg_pool2d(truth.images, self.size) if self.from_clips else self.image(target, w)
        return Batch(w, source, target, self.image(source, w), shown, truth, boxes(pairs.landmarks, FLOW_SIZE))

    def shown(self, state: State, batch: Batch) -> Tensor:
        """The images of a state at the true ones' size, or the generator's if that is smaller."""
        size = min(TRUE_SIZE, self.generator.resolution)
        return look(self.generator, state, batch.w, size, dtype=self.trainer.dtype).float()

    def read(self, images: Tensor, truth: Portraits, readers: Readers) -> dict[str, Tensor]:
        """How far what the nets see inside the face is from the exact landmarks and factors of the target, and from
        the person of its true image.

        All else they are shown as it truly is: they look at edges so little that to please them these got ragged.
        """
        inside = inner_face(truth.regions)
        images = truth.images + inside * (images - truth.images)
        found, values = readers.face(images), truth.values.to(images)
        apart = (found.values - values).abs()
        moving = torch.zeros(apart.shape[1], dtype=torch.bool, device=apart.device)
        moving[MOTION_COLUMNS] = True
        points = (found.landmarks - truth.landmarks).abs().mean()
        with torch.no_grad():
            person = readers.identity(truth.images)
        return {
            "reading": LANDMARKS * points + apart[:, moving].mean() + apart[:, ~moving].mean(),
            "identity": (1 - (readers.identity(images) * person).sum(1)).mean(),
        }

    def difference(self, found: Tensor, target: State, mask: Tensor, detail: float) -> Tensor:
        """Mean difference of joined states in deviations, eyes and mouth `detail` times."""
        return weighted_l1(found / self.deviation, target.joined() / self.deviation, 1 + (detail - 1) * mask)


def inner_face(regions: Tensor) -> Tensor:
    """Where the inside of the face is [B, 1, H, W], from 1 to 0 with soft edges, of regions [B, H, W] of 128 px."""
    outside = torch.ones(len(REGIONS), device=regions.device)
    outside[[REGIONS.index(name) for name in INNER]] = 0
    eroded = 1 - F.max_pool2d(outside[regions.long()][:, None], 7, 1, 3)
    return F.avg_pool2d(eroded, 3, 1, 1)


def smaller(truth: Portraits, size: int) -> Portraits:
    """Portraits at a size that divides theirs."""
    step = truth.images.shape[-1] // size
    images = F.adaptive_avg_pool2d(truth.images, size)
    return truth._replace(images=images, regions=truth.regions[:, step // 2 :: step, step // 2 :: step])


def make_optimizers(parts: list[tuple[nn.Module, float]], muon: bool) -> dict[str, torch.optim.Optimizer]:
    """Muon or Adam for networks, each with its learning rate; of 0, it stays as it is."""
    if not muon:
        groups = [{"params": list(module.parameters()), "lr": rate} for module, rate in parts if rate]
        return {"all": torch.optim.Adam(groups)}
    found: dict[str, torch.optim.Optimizer] = {}
    for number, (module, rate) in enumerate(parts):
        if rate:
            found |= {f"{name}{number}": optimizer for name, optimizer in muon_and_adam(module, rate).items()}
    return found


def _batches(
    trainer: Trainer, settings: Settings, seed: int, encode: Encode | None, clips: Source | None
) -> Prefetch[Pairs]:
    """The pairs of each step, of clips or of the world; these from a pool on the disk if the settings have one."""

    def make(index: int) -> Pairs:
        if clips is not None:
            assert encode is not None
            return clip_pairs(clips, index, settings.batch, trainer.share, encode)
        if not settings.pool:
            return draw_pairs(index, settings.batch, trainer.share, seed, encode)
        folder = trainer.folder / "styleheat-pairs"
        folder.mkdir(exist_ok=True)
        return kept_pairs(folder, index % settings.pool, settings.batch, trainer.share, seed, encode)

    return Prefetch(make, trainer.to_device)


def schedule(settings: Settings, steps: int) -> Callable[[int], float]:
    """Of the learning rate: a cosine with Muon, none with Adam."""
    return (lambda index: cosine(index, steps)) if settings.muon else (lambda index: 1.0)


def end_point_errors(flow: Tensor, pairs: Pairs) -> dict[str, Tensor]:
    """How far a flow is from the exact one, and how far no flow at all would be, in pixels of 64."""
    still = endpoint_error(torch.zeros_like(flow), pairs.flow, pairs.seen)
    return {"end_point_error": endpoint_error(flow, pairs.flow, pairs.seen), "without_flow": still}


def train_video(
    trainer: Trainer,
    generator: StyleGAN2,
    settings: Settings,
    maps: Maps | None = None,
    start: Warper | None = None,
    config: WarperConfig = WARPER,
    encode: Encode | None = None,
    clips: Source | None = None,
) -> Warper:
    """The first stage: the video warper alone. maps: what the perceptual loss compares, for a weight over 0; encode:
    an encoder, on the CPU, that half of the sources go through; clips: prepared ones instead of the world's people,
    which all go through the encoder.

    Raises ValueError if the settings need maps and there are none.
    """
    torch.manual_seed(7)
    perceptual = _perceptual(settings.perceptual, maps)
    model, average = start or new_warper(config), Warper(start.config if start else config)
    teacher = Teacher(trainer, generator, model.config.size, perceptual is not None, clips is not None)
    batches = _batches(trainer, settings, SEED, encode, clips)
    steps = trainer.steps(settings.steps)
    optimizers = make_optimizers([(model, settings.rate)], settings.muon)
    follow = Average(model, average, 0.995)

    def step(index: int) -> dict[str, Tensor]:
        pairs = batches(index)
        batch = teacher(pairs)
        with trainer.autocast():
            flow = model(batch.images, pairs.window, pairs.guide).flow.float()
        losses = {} if clips else end_point_errors(flow, pairs)
        loss = settings.flow * losses["end_point_error"] if settings.flow else flow.new_zeros([])
        if settings.state:
            warped = model.warp(batch.source.joined(), flow)
            losses["state"] = teacher.difference(warped, batch.target, batch.mask, settings.detail)
            loss = loss + settings.state * losses["state"]
        if perceptual is not None and batch.target_images is not None:
            losses["perceptual"] = perceptual(model.warp(batch.images, flow), batch.target_images)
            loss = loss + settings.perceptual * losses["perceptual"]
        trainer.descend(loss, optimizers.values(), 5.0, model)
        follow.update(index)
        return losses

    trainer.fit(
        "styleheat-video",
        {"model": model, "average": average},
        optimizers,
        step,
        steps,
        batch=settings.batch,
        schedule=schedule(settings, steps),
        every=20,
        sample=lambda: show(teacher, average, None),
    )
    return average


class Pair(nn.Module):
    """Warper and calibration, which learn together."""

    def __init__(self, warper: Warper, calibration: Calibration) -> None:
        super().__init__()
        self.warper, self.calibration = warper, calibration

    def forward(self, images: Tensor, window: Tensor, guide: Tensor, joined: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Flow [B, 2, 64, 64], warped states and calibrated states [B, C + 3, 64, 64]."""
        moved = self.warper(images, window, guide)
        warped = self.warper.warp(joined, moved.flow.float())
        descriptor = moved.descriptor if self.calibration.config.descriptor else None
        return moved.flow.float(), warped, self.calibration(warped, descriptor, guide).apply(warped)


def new_warper(config: WarperConfig) -> Warper:
    """A warper whose flow is its guide's or, without one, is random."""
    network = Warper(config)
    if config.guide:
        nn.init.zeros_(network.flow.weight)
        nn.init.zeros_(network.flow.bias)  # type: ignore[arg-type]
    return network


def new_calibration(generator: StyleGAN2, descriptor: int, config: CalibrationConfig = CALIBRATION) -> Calibration:
    """A calibration of states of the generator, for a descriptor of so many numbers, that changes nothing yet."""
    channels = generator.config.channels(FLOW_SIZE) + COLOURS
    network = Calibration(replace(config, channels=channels, descriptor=descriptor))
    for heads in (network.scale, network.shift):
        for parameter in heads[-1][-1].parameters():  # type: ignore[index]
            nn.init.zeros_(parameter)
    return network


def train_joint(
    trainer: Trainer,
    generator: StyleGAN2,
    warper: Warper,
    settings: Settings,
    maps: Maps | None = None,
    discriminator: Discriminator | None = None,
    start: Calibration | None = None,
    encode: Encode | None = None,
    clips: Source | None = None,
    readers: Readers | None = None,
) -> tuple[Warper, Calibration]:
    """The second stage: calibration, and the warper at a rate of its own.

    discriminator: frozen, of the generator's images; without one the adversarial loss is left out. encode, clips: as
    in `train_video`. readers: what the reading and identity losses ask; without them these are left out.
    Raises ValueError if the settings need maps and there are none.
    """
    torch.manual_seed(8)
    features = _perceptual(max(settings.perceptual, settings.local, settings.domain), maps)
    model = Pair(warper, start or new_calibration(generator, warper.config.descriptor)).requires_grad_(True)
    average = Pair(Warper(warper.config), Calibration(model.calibration.config))
    looks = features is not None or (settings.adversarial > 0 and discriminator is not None)
    teacher = Teacher(trainer, generator, warper.config.size, looks, clips is not None)
    if discriminator is not None:
        trainer.freeze(discriminator)
    if readers is not None:
        trainer.freeze(*readers)
    batches = _batches(trainer, settings, SEED if settings.pool else JOINT_SEED, encode, clips)
    steps = trainer.steps(settings.steps)
    parts: list[tuple[nn.Module, float]] = [
        (model.calibration, settings.rate), (model.warper, settings.warper_rate)
    ]  # fmt: skip
    optimizers = make_optimizers(parts, settings.muon)
    follow = Average(model, average, 0.995)

    def step(index: int) -> dict[str, Tensor]:
        pairs = batches(index)
        batch = teacher(pairs)
        with trainer.autocast():
            flow, warped, calibrated = model(batch.images, pairs.window, pairs.guide, batch.source.joined())
        losses = {} if clips else end_point_errors(flow, pairs)
        terms = [settings.flow * losses["end_point_error"]] if settings.flow else []
        if settings.state:
            losses["warped"] = teacher.difference(warped, batch.target, batch.mask, settings.detail)
            losses["state"] = teacher.difference(calibrated, batch.target, batch.mask, settings.detail)
            terms.append(settings.state * (losses["state"] + 0.5 * losses["warped"]))
        reads = readers is not None and not clips and (settings.reading or settings.identity)
        if settings.exact or reads:
            shown = teacher.shown(split(calibrated.float()), batch)
            truth = smaller(batch.truth, shown.shape[-1])
            losses["exact"] = image_loss(shown, truth)
            terms.append(settings.exact * losses["exact"])
            if readers is not None and reads:
                losses |= teacher.read(shown, truth, readers)
                terms.append(settings.reading * losses["reading"] + settings.identity * losses["identity"])
        if batch.target_images is not None:
            for name, weight, value in _image_losses(batch, flow, warped, calibrated):
                losses[name] = value
                terms.append(weight * value)
        trainer.descend(torch.stack(terms).sum(), optimizers.values(), 5.0, model)
        follow.update(index)
        return losses

    def _image_losses(
        batch: Batch, flow: Tensor, warped: Tensor, calibrated: Tensor
    ) -> Iterator[tuple[str, float, Tensor]]:
        assert batch.target_images is not None
        images = teacher.image(split(calibrated), batch.w)
        mask = F.interpolate(batch.mask, images.shape[-2:], mode="bilinear", align_corners=False)
        if features is not None:
            if settings.perceptual:
                moved = model.warper.warp(batch.images, flow)
                yield "perceptual", settings.perceptual, features(moved, batch.target_images)
            if settings.local:
                yield "local", settings.local, local_loss(features, images, batch.target_images, mask)
            if settings.domain:
                with torch.no_grad():
                    before = teacher.image(split(warped), batch.w)
                yield "domain", settings.domain, domain_loss(features, images, before, mask)
        if settings.adversarial and discriminator is not None:
            yield "adversarial", settings.adversarial, adversarial_loss(discriminator(images), settings.inverted)

    trainer.fit(
        "styleheat-joint",
        {"model": model, "average": average},
        optimizers,
        step,
        steps,
        batch=settings.batch,
        schedule=schedule(settings, steps),
        every=20,
        sample=lambda: show(teacher, average.warper, average.calibration),
    )
    return average.warper, average.calibration


def _perceptual(weight: float, maps: Maps | None) -> PyramidLoss | None:
    if not weight:
        return None
    if maps is None:
        raise ValueError("These settings have a perceptual loss; give the feature maps that it compares.")
    return PyramidLoss(maps)


@torch.no_grad()
def show(teacher: Teacher, warper: Warper, calibration: Calibration | None, count: int = 8) -> np.ndarray:
    """Images of held-out sources, the warped states, the calibrated ones, the generator's targets and the true ones."""
    pairs = teacher.trainer.to_device(draw_pairs(0, count, seed=HELD_OUT))
    batch = teacher(pairs)
    moved = warper(batch.images, pairs.window, pairs.guide)
    warped = warper.warp(batch.source.joined(), moved.flow)
    states = [batch.source, split(warped)]
    if calibration is not None:
        descriptor = moved.descriptor if calibration.config.descriptor else None
        states.append(split(calibration(warped, descriptor, pairs.guide).apply(warped)))
    size = min(SHOWN, teacher.generator.resolution)
    rows = [look(teacher.generator, state, batch.w, size) for state in [*states, batch.target]]
    if TRUE_SIZE >= size:
        rows.append(F.adaptive_avg_pool2d(batch.truth.images, size))
    return np.concatenate([side_by_side(list(pictures(row))) for row in rows])


@makes("styleheat-video", "styleheat-calibration", needs=("face", "identity", "generator", "encoder"))
def recipe(
    run: Run,
    *,
    data: str | None = None,
    preset: Literal["quick", "paper", "code"] = "quick",
) -> list[Path]:
    """Train StyleHEAT's half with video: the video warper, then it and the calibration.

    Args:
        data: shards that `stylereel prepare --for styleheat` wrote; pairs of the world's people if not given.
        preset: quick settings for the built-in family, which also learn from the exact flow, the generator's own
            states and the world's true images, where these are known; or the paper's losses; or those of the authors'
            code, with their sign of the adversarial loss.
    """
    run.claim("styleheat-video", "styleheat-calibration")
    chosen = {"quick": CLIPS if data else QUICK, "paper": PAPER, "code": CODE}[preset]
    clips = None
    if data is not None:
        clips = open_source(data, size=PICTURE, frames=2 * RADIUS + 1, arrays=["coefficients", "landmarks"])
    maps = None
    if preset != "quick" or clips:
        face = run.face_net()
        run.trainer.freeze(face)
        maps = face.trunk.maps
    readers = Readers(run.face_net(), run.identity_net()) if preset == "quick" and not clips else None
    generator, first = run.generator(), run.first("styleheat-video")
    encode = load_encoder(run.weight_file("encoder")).eval()
    start = None if first is None else load_warper(first)
    warper = train_video(run.trainer, generator, chosen.video, maps, start, encode=encode, clips=clips)
    whole = run.start != "scratch" and not Path(run.start).is_file()  # a file holds the warper alone
    repair = run.first("styleheat-calibration") if whole else None
    again = None if repair is None else load_calibration(repair)
    warper, calibration = train_joint(
        run.trainer, generator, warper, chosen.joint, maps, start=again, encode=encode, clips=clips, readers=readers
    )
    about = (WORLD, "Apache-2.0") if data is None else (f"prepared clips of {shown(data)}", None)
    return run.save({"styleheat-video": warper, "styleheat-calibration": calibration}, *about)
