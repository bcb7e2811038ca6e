"""Training the paper's own networks (`published`) in its stages A to D', on the built-in StyleGAN3-R and the world.

| stage | paper | learns |
|---|---|---|
| pose | A | the pose encoder: 14 points of a video frame and of an image |
| appearance | B | appearance and fusion by the generator's own images: x_i of w turned and shifted, x_j of w upright |
| joint | C | all of it by video, then by images, with a discriminator of frames towards the end |
| motion | D | the LSTM by pose maps of clips |
| images | D' | the LSTM by what the generator shows of it |

Landmarks of what the world draws are known; their maps take the place of the frozen landmark net's. The generator is
`published.steered`. Images of the built-in one are 128 px; the appearance encoder sees them at 256.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Literal, NamedTuple

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from stylereel import world
from stylereel.family.nets import SIZE as FACE_PIXELS
from stylereel.family.nets import FaceNet
from stylereel.generator import StyleGAN3
from stylereel.recipes.stylegan3 import draw_at, latents_and_places
from stylereel.systems.stylefacev.critics import critic_loss, generator_loss, penalty
from stylereel.systems.stylefacev.data import KNOWN, latents, motion_normals, people, pose_values, values_of
from stylereel.systems.stylefacev.model import transforms
from stylereel.systems.stylefacev.networks import (
    IMAGE_SIZE,
    FrameDiscriminator,
    MotionDiscriminator,
    against_first,
)
from stylereel.systems.stylefacev.published import KIND, PaperNets, as_maps, point_maps, still
from stylereel.train.loop import Trainer

Losses = Literal["paper", "code"]
Clips = Callable[[int], tuple[Tensor, Tensor]]  # a step's first poses [B, K] and what is seen of clips [B, T, C, H, W]

# Which of the 68 landmarks each of the 14 key points is the mean of, in the order of `networks.KEY_POINTS`; no pupil
# is among the 68, so the middle of the lids takes its place.
KEY_POINTS = (
    range(17, 22), range(22, 27), (37, 38), range(36, 42), (40, 41), (43, 44), range(42, 48), (46, 47), (30,), (51,),
    (57,), (60,), (64,), (62, 66),
)  # fmt: skip


class Weights(NamedTuple):
    """Of the losses of a step: pixels, features, key points, w, and of the discriminator of frames."""

    pixels: float
    features: float
    points: float = 0.0
    w: float = 0.0
    gan: float = 0.0


# Of stage B, and of the video and image steps of stage C. The paper and the authors' code differ.
PRESETS: dict[Losses, tuple[Weights, Weights, Weights]] = {
    "paper": (Weights(10, 100, 10, 100), Weights(10, 100, 1, 0, 0.1), Weights(1, 10, 0.1, 1, 0.01)),
    "code": (Weights(1, 100, 0, 100), Weights(10, 100, 1, 0, 0.01), Weights(1, 10, 0.1, 1, 0)),
}


@dataclass(frozen=True)
class Settings:
    """Steps and sizes. The discriminator of frames joins for the last `late` share of stage C, as in the paper."""

    pose_steps: int = 4000
    appearance_steps: int = 4000
    joint_steps: int = 4000
    motion_steps: int = 4000
    images_steps: int = 400
    batch: int = 4
    late: float = 0.2
    clips: int = 60  # whose pose maps the motion learns
    clip_frames: int = 120
    frames: int = 30  # of a sequence
    shown: int = 12  # of a sequence of images, for memory
    width: int = 64  # of the discriminators


class Frames(NamedTuple):
    """Images [B, 3, H, W] in -1..1, their landmarks [B, 68, 2] in 0..1, and w [B, L, D], row 0 at rest."""

    images: Tensor
    points: Tensor
    w: Tensor


def key_points(landmarks: Tensor) -> Tensor:
    """The 14 key points [B, 14, 2] of 68 landmarks [B, 68, 2]."""
    return torch.stack([landmarks[:, list(group)].mean(1) for group in KEY_POINTS], 1)


def draw_frames(trainer: Trainer, generator: StyleGAN3, z: np.ndarray, transform: Tensor) -> Frames:
    """The world's images of latents z [B, 80] moved by matrices [B, 3, 3]."""
    batch = draw_at(z, transform, generator.resolution, KNOWN)
    with torch.no_grad():
        w = generator.map(torch.from_numpy(z).float().to(trainer.device))
    images, points = trainer.to_device((batch.images.contiguous(), batch.landmarks.float()))
    return Frames(images, points, still(w))


def clip_motion(seed: int, count: int, length: int) -> tuple[np.ndarray, np.ndarray]:
    """People [count, 80] and pose factors [count, length, 16] of a natural clip of each."""
    who = people(count, 3_000_000 + seed)
    tracks = []
    for index in range(count):
        motion = world.natural_motion(700_000 + 100 * seed + index, length, manner="talking")
        tracks.append(pose_values(values_of(np.repeat(who[index : index + 1], length, 0), motion)))
    return who, np.stack(tracks)


def draw_clip(trainer: Trainer, generator: StyleGAN3, who: np.ndarray, motion: np.ndarray) -> Frames:
    """The world's frames of people [B, 80] with pose factors [B, T, 16], one clip after the other."""
    flat = motion.reshape(-1, motion.shape[-1])
    person = torch.from_numpy(np.repeat(who, motion.shape[1], 0)).float()
    z = latents(person, motion_normals(flat)).double().numpy()
    return draw_frames(trainer, generator, z, transforms(torch.from_numpy(flat)).float())


def video_pair(trainer: Trainer, generator: StyleGAN3, index: int, count: int) -> tuple[Frames, Frames]:
    """Two frames of each of `count` clips, 5 to 15 frames apart: for the appearance, and for the pose."""
    random = np.random.default_rng((91, index))
    who, motion = clip_motion(index, count, 16)
    later = random.integers(5, 16, count)
    return (
        draw_clip(trainer, generator, who, motion[:, :1]),
        draw_clip(trainer, generator, who, motion[np.arange(count), later][:, None]),
    )


def portraits(trainer: Trainer, generator: StyleGAN3, index: int, count: int) -> Frames:
    """Single unaligned portraits of the world."""
    z, transform = latents_and_places((92, index), -(-count // 2))
    return draw_frames(trainer, generator, z[:count], transform[:count])


def large(images: Tensor) -> Tensor:
    """Images as the appearance encoder takes them, 256 x 256."""
    return F.interpolate(images, (IMAGE_SIZE, IMAGE_SIZE), mode="bilinear", align_corners=False)


def feature_loss(face: FaceNet, images: Tensor, target: Tensor) -> Tensor:
    """L1 of the built-in face net's features, as a share of their size; the authors take those of VGG16."""
    ours, theirs = (
        face(F.interpolate(each, (FACE_PIXELS,) * 2, mode="area")).features.float() for each in (images, target)
    )
    return (ours - theirs.detach()).abs().mean() / theirs.detach().abs().mean()


def train_pose(trainer: Trainer, nets: PaperNets, settings: Settings) -> None:
    """Stage A; nothing is drawn, since the landmarks are known."""
    torch.manual_seed(60)
    steps = trainer.steps(settings.pose_steps)
    optimizer = _adam(nets.pose)

    def step(index: int) -> dict[str, Tensor]:
        points = trainer.to_device(torch.cat([_clip_points(index, settings.batch), _portrait_points(index, settings)]))
        loss = (nets.pose.points(nets.pose(point_maps(points))) - key_points(points)).square().mean()
        trainer.descend(10 * loss, [optimizer])
        return {"points": loss}

    trainer.fit(f"{KIND}/pose", {"pose": nets.pose.train()}, {"pose": optimizer}, step, steps, schedule=_decay(steps))
    nets.pose.eval()


def _clip_points(index: int, count: int) -> Tensor:
    who, motion = clip_motion(index, 1, 16)
    rows = values_of(np.repeat(who, 16, 0), motion[0])[np.random.default_rng((93, index)).integers(0, 16, count)]
    return torch.from_numpy(np.stack([world.project_landmarks(row)[0] for row in rows])).float()


def _portrait_points(index: int, settings: Settings) -> Tensor:
    z, transform = latents_and_places((94, index), settings.batch)
    rows = [world.project_landmarks(row)[0] for row in world.align(world.from_latent(z[: settings.batch]))]
    matrix = transform[: settings.batch]
    points = torch.from_numpy(np.stack(rows)).float() - 0.5
    return points @ matrix[:, :2, :2].mT + matrix[:, None, :2, 2] + 0.5


def train_appearance(
    trainer: Trainer, nets: PaperNets, generator: StyleGAN3, face: FaceNet, weights: Weights, settings: Settings
) -> None:
    """Stage B; row 0 of W+, which moves the input, is left out of the W loss."""
    torch.manual_seed(61)
    steps, count = trainer.steps(settings.appearance_steps), settings.batch
    optimizer = _adam(nets.appearance)

    def step(index: int) -> dict[str, Tensor]:
        z, transform = latents_and_places((95, index), -(-count // 2))
        rows = world.align(world.from_latent(z[:count]))
        points = trainer.to_device(torch.from_numpy(np.stack([world.project_landmarks(r)[0] for r in rows])).float())
        with torch.no_grad():
            w = still(generator.map(torch.from_numpy(z[:count]).float().to(trainer.device)))
            seen = generator.synthesize(w, transform=trainer.to_device(transform[:count]), dtype=trainer.dtype)
            target = generator.synthesize(w, dtype=trainer.dtype)
        losses = _reconstruct(trainer, nets, generator, face, seen, Frames(target, points, w), weights)[1]
        trainer.descend(_total(losses, weights), [optimizer])
        return losses

    trainer.fit(
        f"{KIND}/appearance", {"appearance": nets.appearance.train(), "pose": nets.pose}, {"appearance": optimizer},
        step, steps, schedule=_decay(steps),
    )  # fmt: skip
    nets.appearance.eval()


def train_joint(
    trainer: Trainer,
    nets: PaperNets,
    generator: StyleGAN3,
    face: FaceNet,
    video: Weights,
    image: Weights,
    settings: Settings,
) -> None:
    """Stage C: every step by video, then by images, whose losses weigh less."""
    torch.manual_seed(62)
    steps, count = trainer.steps(settings.joint_steps), settings.batch
    discriminator = FrameDiscriminator(width=settings.width)
    optimizers = {"appearance": _adam(nets.appearance), "pose": _adam(nets.pose), "frames": _adam(discriminator, 4e-5)}
    late = steps - max(1, round(settings.late * steps))

    def one(seen: Frames, target: Frames, weights: Weights, judged: bool) -> dict[str, Tensor]:
        shown, losses = _reconstruct(trainer, nets, generator, face, seen.images, target, weights)
        if judged and weights.gan:
            discriminator.requires_grad_(True)
            real, fake = discriminator(target.images), discriminator(shown.detach())
            losses["discriminator"] = 0.5 * (_entropy(real, 1.0) + _entropy(fake, 0.0))
            trainer.descend(losses["discriminator"], [optimizers["frames"]])
            discriminator.requires_grad_(False)
            losses["gan"] = _entropy(discriminator(shown), 1.0)
        trainer.descend(_total(losses, weights), [optimizers["appearance"], optimizers["pose"]], 5.0, nets)
        return losses

    def step(index: int) -> dict[str, Tensor]:
        seen, target = video_pair(trainer, generator, index, count)
        losses = {f"video {name}": loss for name, loss in one(seen, target, video, index >= late).items()}
        still_image = portraits(trainer, generator, index, count)
        return losses | {
            f"image {name}": loss for name, loss in one(still_image, still_image, image, index >= late).items()
        }

    trainer.fit(
        f"{KIND}/joint",
        {"appearance": nets.appearance.train(), "pose": nets.pose.train(), "frames": discriminator},
        optimizers, step, steps, schedule=_decay(steps),
    )  # fmt: skip
    nets.eval()


def _reconstruct(
    trainer: Trainer,
    nets: PaperNets,
    generator: StyleGAN3,
    face: FaceNet,
    seen: Tensor,
    target: Frames,
    weights: Weights,
) -> tuple[Tensor, dict[str, Tensor]]:
    """The image of the appearance that is seen with the pose of the target, and its losses."""
    pose = nets.pose(point_maps(target.points))
    with trainer.autocast():
        w = nets.appearance.fuse(nets.appearance(large(seen)), pose).float()
    shown = generator.synthesize(w, dtype=trainer.dtype)
    losses = {"pixels": (shown - target.images).abs().mean(), "features": feature_loss(face, shown, target.images)}
    if weights.points:
        losses["points"] = (nets.pose.points(pose) - key_points(target.points)).square().mean()
    if weights.w:
        losses["w"] = (w - target.w)[:, 1:].abs().mean()
    return shown, losses


def train_motion(trainer: Trainer, nets: PaperNets, settings: Settings, clips: Sequence[Tensor]) -> None:
    """Stage D, by the pose maps of clips [T, 64]."""
    torch.manual_seed(63)

    def windows(index: int) -> tuple[Tensor, Tensor]:
        random, real = np.random.default_rng((96, index)), list[Tensor]()
        for _ in range(settings.batch):
            clip = clips[int(random.integers(len(clips)))]
            first = int(random.integers(len(clip) - settings.frames + 1))
            real.append(clip[first : first + settings.frames])
        poses = trainer.to_device(torch.stack(real))
        return poses[:, 0], poses.unflatten(2, (1, 8, 8))

    compete(trainer, f"{KIND}/motion", nets.motion, windows, lambda poses: poses.unflatten(2, (1, 8, 8)),
            1, settings.motion_steps, settings.width, settings.frames)  # fmt: skip


def train_images(trainer: Trainer, nets: PaperNets, generator: StyleGAN3, settings: Settings) -> None:
    """Stage D': the critics see what the generator shows of the poses, for one person a sequence."""
    torch.manual_seed(64)
    nets.eval()
    count, held = max(1, settings.batch // 2), list[Tensor]()

    def windows(index: int) -> tuple[Tensor, Tensor]:
        frames = draw_clip(trainer, generator, *clip_motion(500 + index, count, settings.shown))
        images = frames.images.unflatten(0, (count, -1))
        with torch.no_grad():
            held[:] = [nets.appearance(large(images[:, 0]))]
            first = nets.pose(point_maps(frames.points.unflatten(0, (count, -1))[:, 0])).flatten(1)
        return first, images

    def show(poses: Tensor) -> Tensor:
        appearance = held[0].repeat_interleave(poses.shape[1], 0)
        w = nets.appearance.fuse(appearance, as_maps(poses.flatten(0, 1)))
        return generator.synthesize(w, dtype=trainer.dtype).unflatten(0, poses.shape[:2])

    nets.appearance.requires_grad_(False)
    compete(
        trainer, f"{KIND}/images", nets.motion, windows, show, 3, settings.images_steps, settings.width, settings.shown
    )
    nets.appearance.requires_grad_(True)


def compete(
    trainer: Trainer,
    name: str,
    net: nn.Module,
    clips: Clips,
    show: Callable[[Tensor], Tensor],
    channels: int,
    whole: int,
    width: int,
    frames: int,
) -> None:
    """A motion LSTM against the critics of pairs and of sequences, of what `show` makes [B, T, C, H, W] of poses.

    net: takes first poses [B, K] and noise [B, T - 1, K], and gives poses [B, T, K] and the noise that it predicts.
    clips: of a step's index the first poses [B, K] and what is seen of clips of `frames` frames, 4 or more.
    """
    pairs = MotionDiscriminator(2 * channels, 2, width)
    sequences = MotionDiscriminator(2 * channels, 3, width, halve_time=frames > 16)
    steps = trainer.steps(whole)
    optimizers = {"net": _adam(net), "critics": _adam(nn.ModuleList([pairs, sequences]))}

    def judge(critic: nn.Module, x: Tensor) -> list[Tensor]:
        return [levels[-1] for levels in critic(x)]

    def step(index: int) -> dict[str, Tensor]:
        random = torch.Generator().manual_seed(7_000_000 + index)
        first, real = clips(index)
        length = real.shape[1]
        noise = torch.randn(len(real), length - 1, first.shape[1], generator=random).to(first)
        poses, predicted = net(first, noise)
        fake = show(poses)
        later, turned = (
            int(torch.randint(1, length, (), generator=random)),
            bool(torch.rand((), generator=random) < 0.5),
        )

        def of_pair(x: Tensor) -> Tensor:
            return torch.cat([x[:, 0], x[:, later]], 1)

        def of_all(x: Tensor) -> Tensor:  # in either direction of time, as the authors have it
            return against_first(x.flip(1) if turned else x)

        for critic in (pairs, sequences):
            critic.requires_grad_(True)
        kept = fake.detach()
        losses = {"pairs": critic_loss(judge(pairs, of_pair(real)), judge(pairs, of_pair(kept)))}
        losses["sequences"] = critic_loss(judge(sequences, of_all(real)), judge(sequences, of_all(kept)))
        losses["penalty"] = penalty(partial(judge, sequences), of_all(real), of_all(kept), random)
        # The weight of 10 is shared by two scales.
        trainer.descend(losses["pairs"] + losses["sequences"] + 5 * losses["penalty"], [optimizers["critics"]])
        for critic in (pairs, sequences):
            critic.requires_grad_(False)
        losses["fooled"] = generator_loss(judge(pairs, of_pair(real)), judge(pairs, of_pair(fake)))
        losses["fooled sequences"] = generator_loss(judge(sequences, of_all(real)), judge(sequences, of_all(fake)))
        losses["noise"] = -F.cosine_similarity(predicted, noise, dim=2).mean()
        trainer.descend(losses["fooled"] + losses["fooled sequences"] + losses["noise"], [optimizers["net"]])
        return losses

    trainer.fit(
        name, {"net": net.train(), "pairs": pairs, "sequences": sequences}, optimizers, step, steps,
        schedule=_decay(steps),
    )  # fmt: skip
    net.eval()


@torch.no_grad()
def clip_poses(trainer: Trainer, nets: PaperNets, settings: Settings) -> list[Tensor]:
    """Pose codes [T, 64] of the world's clips, by their landmarks."""
    found = []
    for index in range(settings.clips):
        who, motion = clip_motion(90_000 + index, 1, settings.clip_frames)
        rows = values_of(np.repeat(who, settings.clip_frames, 0), motion[0])
        points = torch.from_numpy(np.stack([world.project_landmarks(row)[0] for row in rows])).float()
        parts = [nets.pose(point_maps(part.to(trainer.device))).flatten(1).cpu() for part in points.split(32)]
        found.append(torch.cat(parts))
    return found


def train(
    trainer: Trainer,
    nets: PaperNets,
    generator: StyleGAN3,
    face: FaceNet,
    stages: Sequence[str],
    losses: Losses,
    settings: Settings,
) -> None:
    """The named stages in the paper's order; the generator is steered and frozen."""
    samples, video, image = PRESETS[losses]
    trainer.freeze(generator, face)
    nets.to(trainer.device).requires_grad_(True)
    if "pose" in stages:
        train_pose(trainer, nets, settings)
    if "appearance" in stages:
        train_appearance(trainer, nets, generator, face, samples, settings)
    if "joint" in stages:
        train_joint(trainer, nets, generator, face, video, image, settings)
    nets.eval()
    if "motion" in stages:
        train_motion(trainer, nets, settings, clip_poses(trainer, nets, settings))
    if "images" in stages:
        train_images(trainer, nets, generator, settings)


def _adam(module: nn.Module, lr: float = 2e-4) -> torch.optim.Optimizer:
    return torch.optim.Adam(module.parameters(), lr, betas=(0.5, 0.999))


def _decay(steps: int) -> Callable[[int], float]:
    """Half of the steps flat, then linear to 0."""
    return lambda index: min(1.0, 2 * (1 - index / steps))


def _entropy(scores: Tensor, target: float) -> Tensor:
    return F.binary_cross_entropy_with_logits(scores, torch.full_like(scores, target))


def _total(losses: dict[str, Tensor], weights: Weights) -> Tensor:
    return torch.stack([weight * losses[name] for name, weight in weights._asdict().items() if name in losses]).sum()
