"""Appearance and fusion, stages B and C: by the generator's own w of each person with each pose, then by true images.

Stage B begins with the fusion alone, by people whose latents are known; what it takes for a person is then a target for
the code of the person's images.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from stylereel.core.render import pictures
from stylereel.core.weights import read_tensors, write_tensors
from stylereel.family.encoder import Encoder
from stylereel.family.nets import FaceNet
from stylereel.family.people import GROUPS, Batch, grouped_w
from stylereel.generator import StyleGAN2, StyleGAN3
from stylereel.media.sheet import side_by_side
from stylereel.recipes.losses import image_loss, perceptual_loss
from stylereel.systems.stylefacev.data import EACH, UPRIGHT, draw_people, latents, motion_normals
from stylereel.systems.stylefacev.data import people as people_of
from stylereel.systems.stylefacev.model import KIND, PLACE, SHOWN, AppearanceNet, FacePoseNets, Fusion, to_code
from stylereel.systems.stylefacev.pose import read_poses
from stylereel.train.loop import Average, Trainer, cosine
from stylereel.world.factors import LATENT_DIM

HELD_OUT = 10_000  # shards from here on are never used in training


@dataclass(frozen=True)
class Settings:
    """Steps and sizes of both stages.

    Weights of the joint stage as in the paper, next to each other: of pixels, of features, of w; `single` is the share
    of single images' losses next to the clips', the paper's re-balancing (a tenth there).
    """

    visible: int = 40  # batches of 8 gradients, see `measure_visible`
    fusion_steps: int = 2500
    appearance_steps: int = 1500
    joint_steps: int = 300
    people: int = 48  # a batch of the appearance stage, all frames of each
    others: int = 3  # poses of other people that each appearance is shown with
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
        images = generator.synthesize(w[:, None].expand(-1, generator.num_ws, -1), dtype=trainer.dtype)
        noise = torch.randn(images.shape, generator=random).to(images)
        (gradient,) = torch.autograd.grad((images * noise).sum(), w)
        rows.append(gradient / (images[0].numel() * batch * batches) ** 0.5)
    return torch.cat(rows).T.contiguous()


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
    follow, poses = Average(model, average, 0.995), read_poses(trainer, nets.pose, data.readings)
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
    follow, poses = Average(model, average, 0.99), read_poses(trainer, nets.pose, data.readings)
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
        shown = generator.synthesize(w, dtype=trainer.dtype)
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
