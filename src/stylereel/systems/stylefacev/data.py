"""What StyleFaceV learns from: people of the world in several poses each, drawn once and kept, and poses of clips.

Of each person three frames are aligned and upright, as the generator's own images are before its input moves them; the
fourth is a frame as a camera has it, the head turned and shifted in it, cut out by its landmarks. All crops are cut by
landmarks that are as unsure as a detector's. Truth is exact: the generator's w of the same latents, the pose, and the
image of the person with it.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from stylereel import world
from stylereel.core.weights import read_tensors, write_tensors
from stylereel.faces import placement
from stylereel.family.nets import SIZE as PIXELS
from stylereel.family.nets import FaceNet
from stylereel.family.people import without_funnel
from stylereel.systems.sources import prepared_motion
from stylereel.systems.stylefacev.model import NAMES, PLACE, PoseNet, places, to_code, transforms
from stylereel.train.sources import Source
from stylereel.world.factors import GROUP, HIGH, INDEX, LATENT_DIM, LOW, MOTION, MOTION_COLUMNS, from_normal, to_normal
from stylereel.world.factors import NAMES as FACTORS

KNOWN = 76  # factors of the built-in StyleGAN3
UPRIGHT, EACH = 3, 4  # frames of a person
SHARD = 100  # people in a file
READ = 500  # people in a file of readings, two frames of each
MOST = 62.0  # squared length of a person's latent at most: the rest is left for the motion
FURTHER = (10, 0.06, 0.05)  # roll (degrees) and shift (image widths) of a head in the frame beyond its clip's, at most
UNSURE = 0.004  # deviation of a detector's landmarks, image widths
MANNERS = ("talking", "conversation", "expressions", "listening")
WHOLE = np.array([0.5, 0.5, 1.0, 0.0])  # a placement: all of the image
_OWN = np.array([GROUP[name] in ("shape", "look") for name in FACTORS])
_SHOWN = [INDEX[name] for name in NAMES if name not in ("roll", "shift_x", "shift_y", "scale")]


def people(count: int, seed: int) -> np.ndarray:
    """Normal numbers [count, 80] of people; those of the motion are 0."""
    z = np.random.default_rng((85, seed)).standard_normal((count, LATENT_DIM)) * _OWN
    return z * np.minimum(1, np.sqrt(MOST / (z**2).sum(1, keepdims=True)))


def motion_normals(motion: np.ndarray) -> Tensor:
    """Normal numbers [B, 12] of what the generator shows of motion factors [B, 16], for `latents`."""
    values = np.tile(world.neutral(), (len(motion), 1))
    values[:, [INDEX[name] for name in NAMES]] = motion
    return torch.from_numpy(to_normal(values)[:, _SHOWN]).float()


def latents(person: Tensor, normals: Tensor) -> Tensor:
    """Latents z [B, 80] of people [B, 80] with motion [B, 12]; the numbers that mean nothing to the generator give them
    the length that normalising expects."""
    z = person.clone()
    z[:, _SHOWN] = normals
    left = (LATENT_DIM - z.square().sum(1, keepdim=True)).clamp_min(1e-3)
    z[:, KNOWN:] = (left / (LATENT_DIM - KNOWN)).sqrt()
    return z


def values_of(person: np.ndarray, motion: np.ndarray) -> np.ndarray:
    """Factor values [B, K] of people [B, 80] with motion factors [B, M], M from 16 to 20; the others are neutral."""
    values = from_normal(person)
    values[:, MOTION_COLUMNS] = world.neutral()[MOTION_COLUMNS]
    values[:, MOTION_COLUMNS[: motion.shape[1]]] = motion
    return values


def upright(values: np.ndarray) -> np.ndarray:
    """The same heads [B, K] aligned, without roll and with the generator's factors alone."""
    values = without_funnel(values)
    values[:, KNOWN:] = world.neutral()[KNOWN:]
    values[:, INDEX["roll"]] = 0
    return world.align(values)


def place_of(values: np.ndarray) -> np.ndarray:
    """Roll, shift_x, shift_y and scale [B, 4] that take the upright heads to where heads [B, K] are.

    A head that rolls turns its upright image about the neck: the relation is exact for all landmarks.
    """
    found = []
    for row, straight in zip(values, upright(values)):
        straight = straight.copy()
        columns = [INDEX[name] for name in MOTION[6:]]
        straight[columns] = row[columns]  # the expression that is there, so that landmarks correspond
        first, second = ((world.project_landmarks(one)[0] - 0.5) @ (1, 1j) for one in (straight, row))
        a = first - first.mean()
        turn = np.vdot(a, second) / np.vdot(a, a)
        shift = second.mean() - turn * first.mean()
        found.append((np.rad2deg(np.angle(turn)), shift.real, shift.imag, abs(turn)))
    return np.array(found, np.float32)


def pose_values(values: np.ndarray) -> np.ndarray:
    """The pose factors [B, 16] of heads with values [B, K]."""
    motion = upright(values)[:, MOTION_COLUMNS[: len(NAMES)]]
    motion[:, PLACE] = place_of(values)
    return motion


def motions(count: int, seed: int, clips: int = 120, length: int = 500) -> np.ndarray:
    """Motion factors [count, 20] of frames of natural clips."""
    random = np.random.default_rng((86, seed))
    bank = [world.natural_motion(seed * 1000 + i, length, manner=MANNERS[i % 4]) for i in range(clips)]  # type: ignore[arg-type]
    return np.concatenate(bank)[random.integers(0, clips * length, count)]


def any_motions(count: int, random: np.random.Generator) -> np.ndarray:
    """Motion factors [count, 16] as people are drawn at random, a third with expressions drawn evenly."""
    z = random.standard_normal((count, LATENT_DIM))
    motion = from_normal(z)[:, MOTION_COLUMNS[: len(NAMES)]]
    low, high = (limit[MOTION_COLUMNS[: len(NAMES)]] for limit in (LOW, HIGH))
    evenly = random.uniform(low, high, motion.shape)
    evenly[:, :6] = motion[:, :6]
    return np.where(random.random((count, 1)) < 1 / 3, evenly, motion).astype(np.float32)


def cut_out(image: np.ndarray, landmarks: np.ndarray, random: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
    """The aligned crop by unsure landmarks, and its placement [4] in image widths."""
    size = image.shape[0]
    # A detector is wrong about a face as a whole more than about single points.
    noise = random.normal(0, UNSURE, (1, 2)) + random.normal(0, UNSURE, landmarks.shape)
    row = placement.align((landmarks + noise) * size)
    return placement.cut(image, row, PIXELS), row / (size, size, size, 1)


def within(row: np.ndarray, pose: np.ndarray) -> np.ndarray:
    """Pose factors [B, 16] of a frame as they are within its crop [B, 4]."""
    matrix = placement.stylegan3_transform(WHOLE, row) @ transforms(torch.from_numpy(pose)).numpy()
    inside = np.array(pose)
    inside[:, PLACE] = places(torch.from_numpy(matrix)).numpy()
    return inside


def draw_people(shard: int, face: FaceNet, count: int = SHARD) -> dict[str, Tensor]:
    """Frames of `count` people, four after the other of each.

    crops uint8 [N, 3, 128, 128]; readings float16 [N, 156] of the face net; pose [N, 16], in the crop; person float32
    [P, 80]; shown [N, 16], the motion as the generator shows it; images and regions of the upright ones, uint8
    [P, 3, 3, 128, 128] and [P, 3, 128, 128].
    """
    random = np.random.default_rng((87, shard))
    who = people(count, shard)
    natural = motions(3 * count, shard + 1, 24)
    crops, poses, shown, images, regions = [], [], [], [], []
    for index in range(count):
        mine = natural[3 * index : 3 * index + 3].copy()
        three = np.concatenate([any_motions(1, random), mine[:2, : len(NAMES)]])
        values = upright(values_of(np.repeat(who[index : index + 1], UPRIGHT, 0), three))
        wild = mine[2:]
        wild[:, [2, 3, 4]] += random.uniform(-1, 1, 3) * FURTHER
        wild = values_of(who[index : index + 1], wild)
        for row in values:
            drawn = world.draw(row, PIXELS)
            crop, place = cut_out(drawn.image, drawn.landmarks, random)
            crops.append(crop)
            poses.append(within(place[None], pose_values(row[None]))[0])
            images.append(drawn.image)
            regions.append(drawn.regions)
        drawn = world.draw(wild[0], 160)
        crop, place = cut_out(drawn.image, drawn.landmarks, random)
        crops.append(crop)
        poses.append(within(place[None], pose_values(wild))[0])
        shown.append(np.concatenate([three, pose_values(wild)]))
    tensor = torch.from_numpy(np.stack(crops)).permute(0, 3, 1, 2).contiguous()
    return {
        "crops": tensor,
        "readings": _read(face, tensor),
        "pose": torch.from_numpy(np.stack(poses)).float(),
        "shown": torch.from_numpy(np.concatenate(shown)).float(),
        "person": torch.from_numpy(who).float(),
        "images": torch.from_numpy(np.stack(images)).permute(0, 3, 1, 2).contiguous(),
        "regions": torch.from_numpy(np.stack(regions)),
    }


@torch.inference_mode()
def _read(face: FaceNet, crops: Tensor) -> Tensor:
    """Readings float16 [N, 156] of crops uint8 [N, 3, 128, 128]."""
    return torch.cat([PoseNet.reading(face(part.float() / 127.5 - 1)) for part in crops.split(32)]).half()


def draw_readings(shard: int, face: FaceNet, count: int = READ) -> dict[str, Tensor]:
    """Of two frames of each of `count` people, as a camera has them, what the face net reads of the crops: readings
    float16 [N, 156]; pose [N, 16], in the crop, and place [N, 16], in the image, float32. Every other person's second
    frame has any expression at all."""
    random = np.random.default_rng((88, shard))
    who = np.repeat(people(count, 1000 + shard), 2, 0)
    motion = motions(len(who), 1000 + shard, 24)
    odd = np.arange(len(who)) % 4 == 1
    motion[odd, : len(NAMES)] = any_motions(int(odd.sum()), random)
    motion[:, 2:5] += random.uniform(-1, 1, (len(who), 3)) * FURTHER
    values = values_of(who, motion)
    poses, readings, inside = pose_values(values), [], []
    for rows in np.array_split(np.arange(len(who)), -(-len(who) // 50)):  # few images in memory
        crops = []
        for row in rows:
            drawn = world.draw(values[row], 160)
            crop, place = cut_out(drawn.image, drawn.landmarks, random)
            crops.append(crop)
            inside.append(within(place[None], poses[row : row + 1])[0])
        readings.append(_read(face, torch.from_numpy(np.stack(crops)).permute(0, 3, 1, 2)))
    found = {"pose": np.stack(inside), "place": poses}
    return {"readings": torch.cat(readings)} | {name: torch.from_numpy(each).float() for name, each in found.items()}


class Readings(NamedTuple):
    """Two frames of each of P people, one after the other: what is read of crops [2 P, 156], the exact pose codes
    [2 P, 16] within them, and what these are less than those in the image."""

    readings: Tensor
    codes: Tensor
    moved: Tensor


def kept_readings(folder: Path, shards: int, face: FaceNet, count: int = READ) -> Readings:
    """Of `shards` times `count` people, kept as `kept_people` keeps them."""
    parts = _kept(folder, "readings", shards, lambda shard: draw_readings(shard, face, count))
    codes = to_code(parts["pose"])
    return Readings(parts["readings"].float(), codes, to_code(parts["place"]) - codes)


def kept_people(folder: Path, shards: int, face: FaceNet, count: int = SHARD) -> dict[str, Tensor]:
    """The frames of `shards` times `count` people, from files in the folder, which are made if they are not there."""
    return _kept(folder, "people", shards, lambda shard: draw_people(shard, face, count))


def _kept(folder: Path, kind: str, shards: int, draw: Callable[[int], dict[str, Tensor]]) -> dict[str, Tensor]:
    folder.mkdir(parents=True, exist_ok=True)
    found = []
    for shard in range(shards):
        file = folder / f"{kind}-{shard:04}.safetensors"
        if not file.exists():
            write_tensors(file, draw(shard), {"kind": kind})
        found.append(read_tensors(file)[0])
    return {name: torch.cat([part[name] for part in found]) for name in found[0]}


def prepared_codes(clips: Source, count: int) -> Tensor:
    """Pose codes [count, T, 16] of windows of prepared clips, by their coefficients.

    Raises ValueError if these are not those of this package.
    """
    # One by one, since their pictures come along.
    return torch.stack([_codes_of(prepared_motion(clips.batch(index, 1))[0]) for index in range(count)])


def _codes_of(motion: np.ndarray) -> Tensor:
    """Pose codes [T, 16] of motion factors [T, 20]."""
    values = np.tile(world.neutral(), (len(motion), 1))
    values[:, MOTION_COLUMNS] = motion
    return to_code(torch.from_numpy(pose_values(values))).float()


def clip_codes(count: int, length: int, seed: int = 0) -> Tensor:
    """Pose codes [count, length, 16] of natural clips of the world, by its truth: nothing is drawn or read."""
    tracks = (world.natural_motion(500_000 + seed + index, length, manner="talking") for index in range(count))
    return torch.stack([_codes_of(motion) for motion in tracks])
