"""`stylereel train stylefacev`: the paper's stages for the built-in StyleGAN3-R, in which the world's truth supervises.

| stage | paper | learns from |
|---|---|---|
| pose | A | crops of people, to their exact pose |
| appearance | B | crops of people, and the w that the generator itself has for each with the pose of any other frame |
| joint | C | the same and the true images, of single images and of two frames of a clip |
| motion | D | pose codes of the world's natural clips |
| images | D' | images of the world's clips, against those that the generator shows; left out of "all" |
| larger | | single images of 256 px, for a larger generator that shows the same codes (`larger`); left out too |

The paper's stage A knows 14 key points of a frame, its stage B pairs of images of one w; neither has a target for the
appearance of one person with the pose of another, which here every step has. The paper's own networks are trained by
its own losses (`paper`).
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Literal, NamedTuple

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from stylereel import world
from stylereel.core.render import pictures
from stylereel.core.weights import read_tensors, write_tensors
from stylereel.family.encoder import Encoder, load_encoder
from stylereel.family.nets import FaceNet
from stylereel.family.people import GROUPS, Batch, grouped_w
from stylereel.generator import StyleGAN2, StyleGAN3
from stylereel.media.sheet import side_by_side
from stylereel.recipes.losses import image_loss, perceptual_loss
from stylereel.recipes.run import WORLD, Run, makes
from stylereel.systems.stylefacev import paper
from stylereel.systems.stylefacev.critics import SequenceCritic, StillCritic, critic_loss, generator_loss, penalty
from stylereel.systems.stylefacev.data import (
    EACH,
    SHARD,
    UPRIGHT,
    clip_codes,
    draw_people,
    kept_people,
    latents,
    motion_normals,
    prepared_codes,
    upright,
    values_of,
)
from stylereel.systems.stylefacev.data import people as people_of
from stylereel.systems.stylefacev.larger import train_larger
from stylereel.systems.stylefacev.model import (
    KIND,
    NOISE,
    PLACE,
    SHOWN,
    AppearanceNet,
    FacePoseNets,
    Fusion,
    PoseSampler,
    State,
    load_nets,
    to_code,
    to_values,
    transforms,
)
from stylereel.systems.stylefacev.published import KIND as PAPER
from stylereel.systems.stylefacev.published import Config as PaperConfig
from stylereel.systems.stylefacev.published import PaperNets, load_paper_nets, steered
from stylereel.train.loop import Average, Trainer, cosine
from stylereel.train.sources import open_source
from stylereel.world.factors import LATENT_DIM

Stage = Literal["all", "pose", "appearance", "joint", "motion", "images", "larger"]
STAGES = ("pose", "appearance", "joint", "motion")
PEOPLE = 1600
HELD_OUT = 10_000  # shards from here on are never used in training
CLIPS, CLIP_FRAMES = 60, 1500
SHOWN_FRAMES = 8  # of a sequence of images
WINDOWS, WINDOW = 600, 60  # of prepared clips, in frames, the shortest that are prepared


@dataclass(frozen=True)
class Settings:
    """Steps and sizes of the stages.

    Weights of the joint stage as in the paper, next to each other: of pixels, of features, of w; `single` is the share
    of single images' losses next to the clips', the paper's re-balancing (a tenth there).
    """

    pose_steps: int = 3000
    visible: int = 40  # batches of 8 gradients, see `measure_visible`
    fusion_steps: int = 2500
    appearance_steps: int = 1500
    joint_steps: int = 100
    motion_steps: int = 4000
    images_steps: int = 100
    people: int = 48  # a batch of the appearance stage, all frames of each
    others: int = 3  # poses of other people that each appearance is shown with
    critic: int = 16  # width of the critics of images
    shown: int = 8  # images a step that the generator renders in the joint stage
    pixels: float = 1.0
    features: float = 1.0
    seen: float = 1.0  # of what differences of w show, see `measure_visible`
    w: float = 0.1
    code: float = 0.1  # that it is what the fusion takes for the person's latent
    same: float = 0.3  # that frames of a person have one appearance code
    single: float = 0.5


class People(NamedTuple):
    """The frames that are learned from, on the device; N frames of P people, see `data.draw_people`."""

    crops: Tensor
    readings: Tensor
    pose: Tensor  # codes [N, 16] within the crops
    normals: Tensor  # [N, 12], for `latents`
    shown: Tensor  # codes [N, 16] as the generator shows them
    person: Tensor
    images: Tensor  # [P, 3, 3, H, W] of the upright frames
    regions: Tensor

    @classmethod
    def of(cls, parts: dict[str, Tensor]) -> People:
        return cls(
            parts["crops"], parts["readings"].float(), to_code(parts["pose"]), motion_normals(parts["shown"].numpy()),
            to_code(parts["shown"]), parts["person"], parts["images"].unflatten(0, (-1, UPRIGHT)),
            parts["regions"].unflatten(0, (-1, UPRIGHT)),
        )  # fmt: skip


def unit(images: Tensor) -> Tensor:
    """Images uint8 as numbers in -1..1."""
    return images.float() / 127.5 - 1


def target_w(generator: StyleGAN3, person: Tensor, normals: Tensor) -> Tensor:
    """The generator's own w [B, D] of people [B, 80] with motion [B, 12]."""
    with torch.no_grad():
        return generator.mapping(latents(person, normals))


def train_pose(trainer: Trainer, nets: FacePoseNets, data: People, settings: Settings) -> None:
    """Stage A."""
    torch.manual_seed(50)
    net = nets.pose
    net.mean.copy_(data.readings.mean(0))
    net.deviation.copy_(data.readings.std(0) + 1e-3)
    spread = data.pose.std(0).clamp_min(1e-3)
    average = type(net)()
    steps = trainer.steps(settings.pose_steps)
    optimizers: dict[str, torch.optim.Optimizer] = {"net": torch.optim.AdamW(net.parameters(), 2e-3, weight_decay=1e-2)}
    follow = Average(net, average, 0.995)

    def step(index: int) -> dict[str, Tensor]:
        random = torch.Generator().manual_seed(index)
        chosen = torch.randint(len(data.pose), (256,), generator=random)[trainer.share[0] :: trainer.share[1]]
        readings, pose = trainer.to_device({"in": data.readings[chosen], "out": data.pose[chosen]}).values()
        error = (net(readings) - pose) / spread.to(pose)
        loss = error.square().mean()
        trainer.descend(loss, optimizers.values(), 5.0, net)
        follow.update(index)
        return {"error": loss, "shown": error[:, SHOWN].square().mean()}

    trainer.fit(
        f"{KIND}/pose", {"net": net, "average": average}, optimizers, step, steps,
        schedule=lambda index: cosine(index, steps),
    )  # fmt: skip
    net.load_state_dict(average.state_dict())


@torch.no_grad()
def read_poses(trainer: Trainer, nets: FacePoseNets, data: People) -> Tensor:
    """The pose codes [N, 16] that the pose net reads, of what is shown alone."""
    nets.pose.eval()
    return torch.cat([nets.pose(part.to(trainer.device)).cpu() for part in data.readings.split(4096)])


@torch.no_grad()
def start_code(net: AppearanceNet, encoder: Encoder, generator: StyleGAN2, known: Known, count: int = 8192) -> None:
    """Begin the appearance code where the built-in encoder is: what it finds of a person in the latents of the built-in
    StyleGAN2 is, by one matrix, the person's numbers, and `known` makes the code of these."""
    person = torch.from_numpy(people_of(count, 5_000_000)).float()
    motion = torch.randn(count, len(SHOWN), generator=torch.Generator().manual_seed(5))
    w = grouped_w(generator, latents(person, motion)[:, None].expand(-1, len(GROUPS), -1))
    first, width = list(encoder.config.first_rows), encoder.config.w_dim
    codes = ((w[:, first] - encoder.mean) / encoder.deviation).flatten(1)
    codes = F.pad(codes, (0, 1), value=1.0).double()
    normal = codes.T @ codes + 0.01 * count * torch.eye(codes.shape[1]).double()
    read = torch.linalg.solve(normal, codes.T @ person.double()).float()  # [4 D + 1, 80]
    rows = (torch.tensor(first)[:, None] * width + torch.arange(width)).flatten()
    weight = encoder.groups.weight + 0.1 * encoder.rows.weight[rows]
    bias = encoder.groups.bias + 0.1 * encoder.rows.bias[rows]
    matrix = known.code.weight.cpu() @ read.T  # [C, 4 D + 1]
    net.code.weight.copy_(matrix[:, :-1] @ weight)
    net.code.bias.copy_(matrix[:, :-1] @ bias + matrix[:, -1] + known.code.bias.cpu())


@torch.no_grad()
def _features(trainer: Trainer, net: AppearanceNet, crops: Tensor) -> Tensor:
    """The trunk's features [N, 512] of crops uint8 [N, 3, H, W]."""
    net.trunk.eval()
    parts = []
    for part in crops.split(64):
        with trainer.autocast():
            parts.append(net.trunk(unit(part.to(trainer.device))).float().cpu())
    return torch.cat(parts)


class Look(nn.Module):
    """Appearance and fusion, which learn together."""

    def __init__(self, nets: FacePoseNets) -> None:
        super().__init__()
        self.appearance, self.fusion = nets.appearance, nets.fusion


def sameness(codes: Tensor, each: int = EACH) -> Tensor:
    """The share of the variance of appearance codes [P * each, C] that is between frames of one person."""
    grouped = codes.unflatten(0, (-1, each))
    within = (grouped - grouped.mean(1, keepdim=True)).square().mean((0, 1))
    whole = (codes - codes.mean(0)).square().mean(0)
    return within.sum() / whole.sum()


def measure_visible(trainer: Trainer, generator: StyleGAN3, data: People, batches: int, batch: int = 8) -> Tensor:
    """A matrix [D, R] by which differences of w are as long as those of their images, to first order.

    Of white noise v in the images the gradients J'v have the covariance J'J, of which R of them are a sample. Much of w
    is of what a person does not show: the shape of glasses that nobody wears.
    """
    rows = []
    for index in range(batches):
        random = torch.Generator().manual_seed(6_000_000 + index)
        person = torch.from_numpy(people_of(batch, 6_000_000 + index)).float()
        normals = data.normals[torch.randint(len(data.normals), (batch,), generator=random)]
        w = target_w(generator, *trainer.to_device((person, normals))).requires_grad_(True)
        images = generator.synthesize(w[:, None].expand(-1, generator.num_ws, -1), dtype=_dtype(trainer))
        noise = torch.randn(images.shape, generator=random).to(images)
        (gradient,) = torch.autograd.grad((images * noise).sum(), w)
        rows.append(gradient / (images[0].numel() * batch * batches) ** 0.5)
    return torch.cat(rows).T.contiguous()


def _dtype(trainer: Trainer) -> torch.dtype | None:
    """Of the generator's features."""
    return None if trainer.dtype == torch.float32 else trainer.dtype


def kept_visible(trainer: Trainer, generator: StyleGAN3, data: People, settings: Settings) -> Tensor:
    """`measure_visible`, from a file in the folder, which is made if it is not there."""
    batches = trainer.steps(settings.visible)
    file = trainer.folder / KIND / "data" / f"visible-{batches}.safetensors"
    if not file.exists():
        matrix = measure_visible(trainer, generator, data, batches)
        trainer.on_first(lambda: write_tensors(file, {"visible": matrix}, {"kind": "visible"}))
    return trainer.to_device(read_tensors(file)[0]["visible"])


class Known(nn.Module):
    """The appearance code of people whose latents are known: a matrix that learns with the fusion, and goes then."""

    def __init__(self, code: int) -> None:
        super().__init__()
        self.code = nn.Linear(LATENT_DIM, code)

    def forward(self, person: Tensor) -> Tensor:
        """Codes [B, C] of people [B, 80]."""
        return self.code(person)


def train_fusion(trainer: Trainer, nets: FacePoseNets, generator: StyleGAN3, data: People, settings: Settings) -> Known:
    """The first half of stage B: the fusion, by any number of people, whose codes are a matrix times their latents."""
    torch.manual_seed(54)
    fusion, known = nets.fusion, Known(nets.config.code)
    with torch.no_grad():
        w = generator.map(torch.randn(4096, generator.config.z_dim).to(trainer.device))[:, 0]
        fusion.mean.copy_(w.mean(0))
        fusion.deviation.copy_(w.std(0).clamp_min(1e-3))
    average, (rank, ranks) = Fusion(nets.config), trainer.share
    steps = trainer.steps(settings.fusion_steps)
    parameters = [*fusion.parameters(), *known.parameters()]
    optimizers: dict[str, torch.optim.Optimizer] = {"all": torch.optim.Adam(parameters, 2e-3, foreach=True)}
    follow = Average(fusion, average, 0.995)

    def step(index: int) -> dict[str, Tensor]:
        random = torch.Generator().manual_seed(4_000_000 + index)
        person = torch.from_numpy(people_of(512, 4_000_000 + index)[rank::ranks]).float()
        chosen = torch.randint(len(data.pose), (512,), generator=random)[rank::ranks]
        person, normals, pose = trainer.to_device((person, data.normals[chosen], data.shown[chosen]))
        error = (fusion(known(person), pose) - target_w(generator, person, normals)) / fusion.deviation
        loss = error.abs().mean()
        trainer.descend(loss, optimizers.values(), 5.0, fusion)
        follow.update(index)
        return {"w": loss}

    trainer.fit(
        f"{KIND}/fusion", {"fusion": fusion, "average": average, "known": known}, optimizers, step, steps,
        schedule=lambda index: cosine(index, steps),
    )  # fmt: skip
    fusion.load_state_dict(average.state_dict())
    return known


def train_appearance(
    trainer: Trainer,
    nets: FacePoseNets,
    generator: StyleGAN3,
    data: People,
    settings: Settings,
    begin: Callable[[Known], None] | None = None,
) -> None:
    """Stage B: appearance and fusion, by the generator's own w of each person with each pose; the trunk is frozen.

    What the fusion takes for a person whose latent is known is a target for the code of the person's images, too.
    begin: sets the appearance net before its first step.
    """
    known = train_fusion(trainer, nets, generator, data, settings).requires_grad_(False)
    if begin is not None:
        begin(known)
    torch.manual_seed(51)
    model, average = Look(nets).train(), Look(FacePoseNets(nets.config))
    features = _features(trainer, model.appearance, data.crops)
    optimizers: dict[str, torch.optim.Optimizer] = {"model": _adam(model, 5e-4)}
    steps = trainer.steps(settings.appearance_steps)
    follow, poses = Average(model, average, 0.995), read_poses(trainer, nets, data)
    visible = kept_visible(trainer, generator, data, settings)

    def step(index: int) -> dict[str, Tensor]:
        part = appearance_part(trainer, features, data, poses, settings, index)
        codes = model.appearance.of_features(part.seen)
        losses = w_losses(model.fusion, generator, part, codes, visible)
        target = known(part.person)
        losses["code"] = (codes - target).square().mean() / target.var(0).mean()
        total = settings.seen * losses["visible"] + settings.w * losses["w"] + settings.code * losses["code"]
        trainer.descend(total + settings.same * losses["same"], optimizers.values(), 5.0, model)
        follow.update(index)
        return losses

    trainer.fit(
        f"{KIND}/appearance", {"model": model, "average": average}, optimizers, step, steps, every=50,
        batch=settings.people, schedule=lambda index: cosine(index, steps),
    )  # fmt: skip
    model.load_state_dict(average.state_dict())


def _adam(model: nn.Module, lr: float) -> torch.optim.Optimizer:
    """AdamW; orthogonalising the wide linear layers for Muon would cost as much as the gradient."""
    return torch.optim.AdamW(model.parameters(), lr, betas=(0.9, 0.98), weight_decay=1e-2, foreach=True)


class Part(NamedTuple):
    """Frames of a step: what is seen of each, the trunk's features [B, 512] or crops uint8 [B, 3, H, W]; who is in them
    [B, 80]; poses that each is shown with, as they are read [B, K, 16], and the exact ones [B, K, 12]."""

    seen: Tensor
    person: Tensor
    poses: Tensor
    normals: Tensor


def appearance_part(
    trainer: Trainer, seen: Tensor, data: People, poses: Tensor, settings: Settings, index: int
) -> Part:
    """All frames of some people, each with the pose of a frame of the person and with poses of others."""
    random, (rank, ranks) = torch.Generator().manual_seed(1_000_000 + index), trainer.share
    people = torch.randperm(len(data.person), generator=random)[: settings.people][rank::ranks]
    frames = (EACH * people[:, None] + torch.arange(EACH)).flatten()
    own = EACH * people.repeat_interleave(EACH) + torch.randint(EACH, frames.shape, generator=random)
    others = torch.randint(len(data.pose), (len(frames), settings.others), generator=random)
    chosen = torch.cat([own[:, None], others], 1)
    part = Part(seen[frames], data.person[people].repeat_interleave(EACH, 0), poses[chosen], data.normals[chosen])
    return trainer.to_device(part)


def w_losses(
    fusion: Fusion, generator: StyleGAN3, part: Part, appearance: Tensor, visible: Tensor
) -> dict[str, Tensor]:
    """How far w is from the generator's own: visibly, as a share of how much the images of w vary; and the mean
    difference in deviations. And how much appearance codes differ between frames of a person."""
    count = part.poses.shape[1]
    w = fusion(appearance.repeat_interleave(count, 0), part.poses.flatten(0, 1))
    target = target_w(generator, part.person.repeat_interleave(count, 0), part.normals.flatten(0, 1))
    seen = ((w - target) @ visible).square().sum(1)
    whole = ((target - fusion.mean) @ visible).square().sum(1).mean()
    error = ((w - target) / fusion.deviation).abs().mean()
    return {"visible": seen.mean() / whole, "w": error, "same": sameness(appearance)}


def train_joint(
    trainer: Trainer, nets: FacePoseNets, generator: StyleGAN3, face: FaceNet, data: People, settings: Settings
) -> None:
    """Stage C: also by the true images, half of them single images, half of another frame of the clip."""
    torch.manual_seed(52)
    model, average = Look(nets).train(), Look(FacePoseNets(nets.config))
    optimizers: dict[str, torch.optim.Optimizer] = {"model": _adam(model, 2e-4)}
    steps = trainer.steps(settings.joint_steps)
    follow, poses = Average(model, average, 0.99), read_poses(trainer, nets, data)
    visible = kept_visible(trainer, generator, data, settings)
    small = Settings(people=max(trainer.share[1], settings.people // 8), others=settings.others)

    def step(index: int) -> dict[str, Tensor]:
        part = appearance_part(trainer, data.crops, data, poses, small, 500_000 + index)
        random, (rank, ranks) = torch.Generator().manual_seed(2_000_000 + index), trainer.share
        people = torch.randint(len(data.person), (settings.shown,), generator=random)[rank::ranks]
        frame = torch.randint(UPRIGHT, people.shape, generator=random)
        from_frame = torch.where(torch.arange(len(people)) % 2 == 0, frame, (frame + 1) % EACH)
        crops, pose, images, regions = trainer.to_device(
            (data.crops[EACH * people + from_frame], poses[EACH * people + frame], data.images[people, frame],
             data.regions[people, frame])
        )  # fmt: skip
        with trainer.autocast():  # together, for the batch normalisation
            appearance = model.appearance(unit(torch.cat([part.seen, crops]))).float()
        of_part, of_crops = appearance.split([len(part.seen), len(crops)])
        losses = w_losses(model.fusion, generator, part, of_part, visible)
        w = model.fusion(of_crops, pose)[:, None].expand(-1, generator.num_ws, -1)
        shown = generator.synthesize(w, dtype=_dtype(trainer))
        total = settings.seen * losses["visible"] + settings.w * losses["w"] + settings.same * losses["same"]
        for name, weight, places in (("single", settings.single, slice(0, None, 2)), ("clip", 1.0, slice(1, None, 2))):
            batch = Batch(w, w, unit(images[places]), w, regions[places])  # images and regions alone are looked at
            losses[f"{name} pixels"] = image_loss(shown[places], batch)
            losses[f"{name} features"] = perceptual_loss(trainer, face, shown[places], batch)
            total = total + weight * settings.pixels * losses[f"{name} pixels"]
            total = total + weight * settings.features * losses[f"{name} features"]
        losses["psnr"] = 10 * torch.log10(4 / (shown.detach() - unit(images)).square().mean())
        trainer.descend(total, optimizers.values(), 5.0, model)
        follow.update(index)
        return losses

    trainer.fit(
        f"{KIND}/joint", {"model": model, "average": average}, optimizers, step, steps, every=10, batch=settings.shown,
        schedule=lambda index: cosine(index, steps, 20),
        sample=lambda: show(trainer, nets.pose, average, generator, face),
    )  # fmt: skip
    model.load_state_dict(average.state_dict())


@torch.no_grad()
def erase_pose(trainer: Trainer, net: AppearanceNet, data: People, frames: int = 4000) -> None:
    """Take out of the appearance code what a matrix can tell of the pose, with the least change of the code.

    Belrose et al., "LEACE: Perfect linear concept erasure in closed form" (2023): a projection, which the code's last
    layer takes up. Roll is that of the body, which leans in the aligned crop of a frame whose head rolls.
    """
    net.eval()
    codes = torch.cat([net(unit(part.to(trainer.device))).cpu() for part in data.crops[:frames].split(64)]).double()
    wild = torch.arange(len(codes)) % EACH == UPRIGHT
    roll = data.shown[:frames, PLACE[:1]] * wild[:, None]
    pose = torch.cat([data.shown[:frames, SHOWN], roll], 1).double()
    middle, pose = codes.mean(0), pose - pose.mean(0)
    spread, basis = torch.linalg.eigh((codes - middle).T @ (codes - middle) / len(codes))
    spread = spread.clamp_min(1e-6 * float(spread.max())).sqrt()
    white, back = basis / spread @ basis.T, basis * spread @ basis.T
    told = torch.linalg.svd(white @ (codes - middle).T @ pose, full_matrices=False)[0]
    kept = torch.eye(len(middle)).double() - back @ told @ told.T @ white
    layer = net.code
    layer.weight.copy_(kept @ layer.weight.cpu().double())
    layer.bias.copy_(kept @ (layer.bias.cpu().double() - middle) + middle)


@torch.no_grad()
def show(
    trainer: Trainer, pose: nn.Module, look: Look, generator: StyleGAN3, face: FaceNet, count: int = 8
) -> np.ndarray:
    """Crops of held-out people, the generator's images of their own w, theirs by the networks, and with the pose of
    the next person: uint8 [H, W, 3]."""
    data = trainer.to_device(People.of(draw_people(HELD_OUT, face.cpu(), count)))
    face.to(trainer.device)
    first = torch.arange(count, device=trainer.device) * EACH
    look.eval()
    codes, poses = look.appearance(unit(data.crops[first])), pose(data.readings[first])
    best = target_w(generator, data.person, data.normals[first])
    rows = [unit(data.crops[first])]
    for w in (best, look.fusion(codes, poses), look.fusion(codes, poses.roll(-1, 0))):
        rows.append(generator.synthesize(w[:, None].expand(-1, generator.num_ws, -1)))
    return np.concatenate([side_by_side(list(pictures(row))) for row in rows])


def kept_clips(folder: Path, count: int = CLIPS, length: int = CLIP_FRAMES) -> Tensor:
    """Pose codes [count, length, 16] of natural clips, from a file in the folder, which is made if it is not there."""
    folder.mkdir(parents=True, exist_ok=True)
    file = folder / f"clips-{count}-{length}.safetensors"
    if not file.exists():
        write_tensors(file, {"codes": clip_codes(count, length)}, {"kind": "clips"})
    return read_tensors(file)[0]["codes"]


FRAMES, BATCH, FRESH = 30, 64, 8  # of sequences; of these begin anew, the others where earlier ones ended
LAGS = (1, 3, 10)  # frames, of the changes whose distributions are compared


def spread_loss(found: Tensor, real: Tensor) -> Tensor:
    """How far the distributions of numbers and of their changes are apart, for sequences [B, T, 16] of both.

    The mean distance of values of one rank, which is the optimal transport in one dimension: rare events such as
    blinks are in the tails, of which a critic takes little notice. Changes, and the changes of changes, in which
    trembling shows, count in the clips' deviations.
    """
    loss = (found.flatten(0, 1).sort(0).values - real.flatten(0, 1).sort(0).values).abs().mean()
    changes = [tuple(each[:, lag:] - each[:, :-lag] for each in (found, real)) for lag in LAGS]
    for ours, theirs in [*changes, (found.diff(n=2, dim=1), real.diff(n=2, dim=1))]:
        ours, theirs = ours.flatten(0, 1), theirs.flatten(0, 1)
        loss = loss + ((ours.sort(0).values - theirs.sort(0).values).abs() / theirs.std(0).clamp_min(1e-3)).mean()
    return loss


def train_motion(trainer: Trainer, net: PoseSampler, codes: Tensor, settings: Settings) -> None:
    """Stage D: the motion LSTM against the critics of pairs and of sequences, in float32."""
    torch.manual_seed(53)
    net.learn_statistics(codes)
    real = net.units(codes).to(trainer.device)
    still, sequence = StillCritic(), SequenceCritic(real)
    average = PoseSampler(net.cell.hidden_size)
    average.load_state_dict(net.state_dict())
    steps, (rank, ranks) = trainer.steps(settings.motion_steps), trainer.share
    size = BATCH // ranks
    ends = Ends(net, real, size)
    follow = Average(net, average, 0.998)
    critics = [*still.parameters(), *sequence.parameters()]
    optimizers: dict[str, torch.optim.Optimizer] = {
        "net": torch.optim.Adam(net.parameters(), 5e-4, betas=(0.5, 0.999)),
        "critics": torch.optim.Adam(critics, 5e-4, betas=(0.5, 0.999)),
    }

    def windows(random: torch.Generator) -> Tensor:
        clip = torch.randint(len(real), (BATCH,), generator=random)
        first = torch.randint(real.shape[1] - FRAMES + 1, (BATCH,), generator=random)
        frames = first[:, None] + torch.arange(FRAMES)
        return real[clip[:, None], frames][rank::ranks]

    def step(index: int) -> dict[str, Tensor]:
        random = torch.Generator().manual_seed(3_000_000 + index)
        shown = windows(random)
        state = ends.draw(net, shown[: max(1, FRESH // ranks), 0], random)
        noise = torch.randn(BATCH, FRAMES - 1, NOISE, generator=random)[rank::ranks].to(trainer.device)
        path, predicted, end = net.go_on(state, noise)
        found = torch.cat([state[0].detach()[:, None], path], 1)
        ends.keep(end)
        later = torch.randint(1, FRAMES, (size,), generator=random).to(trainer.device)
        rows = torch.arange(size, device=trainer.device)

        def pairs(each: Tensor) -> Tensor:
            return torch.cat([each[:, 0], each[rows, later]], 1)

        for critic in (still, sequence):
            critic.requires_grad_(True)
        kept = found.detach()
        losses = {"still": critic_loss([still(pairs(shown))], [still(pairs(kept))])}
        losses["sequence"] = critic_loss(sequence(shown), sequence(kept))
        total = losses["still"] + losses["sequence"]
        if index % 4 == 0:
            losses["penalty"] = penalty(sequence, shown, kept, random)
            total = total + 4 * 5 * losses["penalty"]  # the paper's 10 over two scales
        trainer.descend(total, [optimizers["critics"]])
        for critic in (still, sequence):
            critic.requires_grad_(False)
        losses["fooled"] = generator_loss([still(pairs(shown))], [still(pairs(found))])
        losses["fooled sequence"] = generator_loss(sequence(shown), sequence(found))
        losses["noise"] = 1 - F.cosine_similarity(predicted, noise, dim=2).mean()
        losses["spread"] = spread_loss(found, shown)
        total = losses["fooled"] + losses["fooled sequence"] + losses["noise"] + 10 * losses["spread"]
        trainer.descend(total, [optimizers["net"]], 5.0, net)
        follow.update(index)
        return {name: loss for name, loss in losses.items() if name != "penalty"}

    trainer.fit(
        f"{KIND}/motion",
        {"net": net, "average": average, "still": still, "sequence": sequence, "ends": ends},
        optimizers, step, steps, schedule=lambda index: cosine(index, steps),
    )  # fmt: skip
    net.load_state_dict(average.state_dict())
    calibrate(net, codes)


POLES = torch.linspace(0, 0.7, 29)
GAIN = 1.25  # by which the calibration makes a number's motion larger or smaller at most


@torch.no_grad()
def calibrate(net: PoseSampler, codes: Tensor, count: int = 256, frames: int = 1500) -> None:
    """After training: the low-pass with which a sample trembles as little as the clips' codes [N, T, 16], and for each
    number half of the change in size that would bring range and speed together, on average, to the clips': all of it
    goes too far for slow numbers, whose range is different in every hour."""
    random = torch.Generator().manual_seed(56)
    start = net.starts[torch.randint(len(net.starts), (count,), generator=random).to(net.starts.device)]
    noise = torch.randn(count, frames, NOISE, generator=random).to(start)
    net.glide.zero_()
    tracks, real = net.go_on(net.start(start), noise)[0], net.units(codes.to(start))
    target, settled = _fourth(real), torch.zeros_like(net.glide, dtype=torch.bool)
    calm = tracks
    for pole in POLES:  # trembling falls with the pole
        calm = torch.where(settled, calm, _low_passed(tracks, float(pole)))
        net.glide.copy_(torch.where(settled, net.glide, pole))
        settled |= _fourth(calm) <= target
    tracks = calm
    size = (_range(tracks) * _speed(tracks) + 1e-6) / (_range(real) * _speed(real) + 1e-6)
    net.deviation.mul_(size.pow(-0.25).clamp(1 / GAIN, GAIN))


def _low_passed(tracks: Tensor, pole: float) -> Tensor:
    """Tracks [B, T, K] after two stages of the low-pass."""
    for _ in range(2):
        now, steps = tracks[:, 0], []
        for step in tracks.unbind(1):
            now = torch.lerp(step, now, pole)
            steps.append(now)
        tracks = torch.stack(steps, 1)
    return tracks


def _fourth(tracks: Tensor) -> Tensor:
    """The root mean square [K] of fourth differences of tracks [B, T, K]: what five frames cannot explain."""
    return tracks.diff(n=4, dim=1).square().mean((0, 1)).sqrt()


def _range(tracks: Tensor) -> Tensor:
    """From the 2nd to the 98th percentile [K]."""
    ordered = tracks.flatten(0, 1).sort(0).values
    return ordered[int(0.98 * len(ordered))] - ordered[int(0.02 * len(ordered))]


def _speed(tracks: Tensor) -> Tensor:
    """The root mean square [K] of changes."""
    return tracks.diff(dim=1).square().mean((0, 1)).sqrt()


def train_images(trainer: Trainer, nets: FacePoseNets, generator: StyleGAN3, settings: Settings) -> None:
    """Stage D': the motion LSTM by the images of its poses, against clips that the world draws, two people a step."""
    torch.manual_seed(55)
    nets.eval()
    net, count = nets.motion, 2
    if not bool(net.starts.any()):
        raise ValueError("The motion by images goes on from the motion by poses; train the stage motion first.")
    appearance = list[Tensor]()

    def windows(index: int) -> tuple[Tensor, Tensor]:
        who, motion = paper.clip_motion(900_000 + index, count, SHOWN_FRAMES)
        images = paper.draw_clip(trainer, generator, who, motion).images
        straight = upright(values_of(who, motion[:, 0]))
        portraits = np.stack([world.draw(row, generator.resolution).image for row in straight])
        crops, codes = trainer.to_device((torch.from_numpy(portraits).permute(0, 3, 1, 2),
                                          to_code(torch.from_numpy(motion[:, 0])).float()))  # fmt: skip
        with torch.no_grad():
            appearance[:] = [nets.appearance(unit(crops))]
        return net.units(codes), images.unflatten(0, (count, -1))

    def show(poses: Tensor) -> Tensor:
        codes = net.codes(poses.flatten(0, 1))
        w = nets.fusion(appearance[0].repeat_interleave(poses.shape[1], 0), codes)
        w = w[:, None].expand(-1, generator.num_ws, -1)
        places = transforms(to_values(codes)).float()
        return generator.synthesize(w, transform=places, dtype=_dtype(trainer)).unflatten(0, poses.shape[:2])

    for part in (nets.pose, nets.appearance, nets.fusion):
        part.requires_grad_(False)
    steps = settings.images_steps
    paper.compete(trainer, f"{KIND}/images", net, windows, show, 3, steps, settings.critic, SHOWN_FRAMES)
    nets.requires_grad_(True)


class Ends(nn.Module):
    """The states in which earlier sequences ended, so that later seconds of a motion are learned, too."""

    def __init__(self, net: PoseSampler, real: Tensor, size: int) -> None:
        super().__init__()
        with torch.no_grad():
            states = net.start(real[:, 0].repeat(size // len(real) + 1, 1)[:size].cpu())
        for index, state in enumerate(states):
            self.register_buffer(f"part{index}", state.clone())

    def draw(self, net: PoseSampler, fresh: Tensor, random: torch.Generator) -> State:
        """States of which some begin at fresh poses [F, 16]."""
        parts = list(self.buffers())
        kept = torch.randperm(len(parts[0]), generator=random)[len(fresh) :].to(fresh.device)
        return tuple(torch.cat([new, old[kept]]) for new, old in zip(net.start(fresh), parts))

    def keep(self, states: State) -> None:
        """Take the states at the ends of sequences."""
        for mine, state in zip(self.buffers(), states):
            mine.copy_(state.detach())


@makes(KIND, needs=("face", "generator", "encoder", "generator3"))
def recipe(
    run: Run,
    *,
    data: str | None = None,
    stage: Stage = "all",
    people: int = PEOPLE,
    networks: Literal["own", "paper"] = "own",
    losses: paper.Losses = "paper",
    width: int = 64,
) -> list[Path]:
    """Train StyleFaceV's networks on the built-in StyleGAN3-R and the world's people: all stages, or one of them.

    Args:
        data: shards that `stylereel prepare --for stylefacev` wrote, whose motion the stage motion learns; the world's
            natural motion if not given.
        stage: pose, appearance, joint or motion, which needs the weights of the stages before it in the folder, as
            --start, or built in; all of them in this order; images, which goes on with the motion by what the
            generator shows of it; or larger, which makes generator3-256.safetensors, a generator of 256 px for the
            same codes.
        people: how many people are drawn, four frames of each, and kept in the folder.
        networks: own are the small built-in ones, of 16 named numbers; paper are the paper's, of 64, by its losses.
        losses: weights of the losses of the paper's networks: the paper's, or those of the authors' code.
        width: of the paper's appearance encoder and discriminators; 64 in the paper, 140 million numbers.
    """
    if networks == "paper":
        return _paper_recipe(run, data, stage, losses, width)
    if losses != "paper" or width != 64:
        raise ValueError("--losses and --width are of the paper's networks; give --networks paper, too.")
    if stage == "larger":
        return _larger_recipe(run)
    run.claim(KIND)
    if people < SHARD:
        raise ValueError(f"Learning takes {SHARD} people or more, not {people}.")
    if data is not None and stage not in ("all", "motion"):
        raise ValueError("Only the motion is learned from data; give --stage motion, or leave out --data.")
    clips = None if data is None else open_source(data, size=16, frames=WINDOW, arrays=["coefficients"])
    trainer, settings = run.trainer, Settings()
    generator, face = StyleGAN3.load(run.weight_file("generator3")), run.face_net().eval()
    path = run.first(KIND)
    if path is None and stage not in ("all", "pose"):
        path = run.weight_file(KIND)
    torch.manual_seed(49)
    nets = FacePoseNets() if path is None else load_nets(path).requires_grad_(True)
    begin: Callable[[Known], None] | None = None
    if path is None:
        encoder, drawer = load_encoder(run.weight_file("encoder")), run.generator()

        begin = partial(start_code, nets.appearance, encoder, drawer)
        nets.appearance.trunk.load_state_dict(encoder.trunk.state_dict())
        nets.appearance.hidden.load_state_dict(encoder.hidden.state_dict())
    folder = trainer.folder / KIND / "data"
    chosen = STAGES if stage == "all" else (stage,)
    trainer.freeze(generator, face)
    nets.to(trainer.device)
    if set(chosen) - {"motion", "images"}:
        shards = max(1, trainer.steps(people) // SHARD)
        drawn = People.of(trainer.on_first(lambda: kept_people(folder, shards, face)))
        for name in chosen:
            if name == "pose":
                train_pose(trainer, nets, drawn, settings)
            elif name == "appearance":
                train_appearance(trainer, nets, generator, drawn, settings, begin)
            elif name == "joint":
                train_joint(trainer, nets, generator, face, drawn, settings)
        if set(chosen) & {"appearance", "joint"}:
            erase_pose(trainer, nets.appearance, drawn)
    if "motion" in chosen:
        codes = trainer.on_first(lambda: prepared_codes(clips, trainer.steps(WINDOWS)) if clips else kept_clips(folder))
        train_motion(trainer, nets.motion, codes, settings)
    if "images" in chosen:
        train_images(trainer, nets, generator, settings)
    about = (WORLD, "Apache-2.0") if data is None else (f"{WORLD}; motion of prepared clips of {data}", None)
    return run.save({KIND: nets}, *about)


def _larger_recipe(run: Run) -> list[Path]:
    """A generator of twice the built-in one's resolution, for the same codes."""
    small = StyleGAN3.load(run.weight_file("generator3"))
    resolution = 2 * small.resolution
    name = f"generator3-{resolution}"
    run.claim(name)
    run.only_from_scratch()
    return run.save({name: train_larger(run.trainer, small, resolution)})


def _paper_recipe(run: Run, data: str | None, stage: Stage, losses: paper.Losses, width: int) -> list[Path]:
    """The paper's networks, `stylefacev-paper.safetensors`."""
    if data is not None or stage == "larger":
        raise ValueError("The paper's networks learn from the world's clips, at one size; leave out --networks paper.")
    if not 4 <= width <= 64:
        raise ValueError(f"The width is 4 to 64, not {width}.")
    (file,) = run.claim(PAPER)
    generator = steered(StyleGAN3.load(run.weight_file("generator3")))
    path = run.first(PAPER) or (file if file.exists() and stage not in ("all", "pose") else None)
    if path is None and stage not in ("all", "pose"):
        raise ValueError(f"The stage {stage} goes on from those before it; train --stage pose first, or give --start.")
    torch.manual_seed(59)
    config = PaperConfig(generator.num_ws, generator.config.w_dim, width)
    nets = PaperNets(config) if path is None else load_paper_nets(path)
    settings = replace(paper.Settings(), width=nets.config.width)
    face = run.face_net().eval()
    paper.train(run.trainer, nets, generator, face, STAGES if stage == "all" else (stage,), losses, settings)
    return run.save({PAPER: nets}, facts={"losses": losses})
