"""`stylereel reproduce stylefacev`: the paper's comparisons on the built-in StyleGAN3-R, next to StyleVideoGAN.

The paper trains its networks without the W loss and without weighing the losses of images less than those of video, and
compares identity and video distance; its motion is learned in the space of poses or of images; and its samples may be
of any length. Here the joint stage goes on from one short training in all of its variants, with as many steps each.

One protocol for all videos, "aligned-16": clips of 16 frames at 25 a second, one a person, heads aligned and upright,
frechet-video of their windows to as many clips of other held-out people that the world draws.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from stylereel import systems, world
from stylereel.core.builtin import builtin
from stylereel.core.files import replacing
from stylereel.core.precision import choose_precision
from stylereel.core.render import pictures, render
from stylereel.core.runs import claim
from stylereel.core.system import Device
from stylereel.core.weights import save_module
from stylereel.family.encoder import load_encoder
from stylereel.family.nets import load_face
from stylereel.generator import StyleGAN3
from stylereel.metrics.features import face_motion_features, shrink_for_face
from stylereel.metrics.frechet import frechet_of_roots
from stylereel.metrics.intervals import GROUPS, jackknife
from stylereel.metrics.likeness import builtin_embeddings, cosine
from stylereel.metrics.motion import unsteadiness
from stylereel.metrics.report import Claim, Number, write_report
from stylereel.systems.sources import world_generator
from stylereel.systems.stylefacev import appearance, motion, paper
from stylereel.systems.stylefacev.appearance import HELD_OUT, People, Settings
from stylereel.systems.stylefacev.data import SHARD, clip_codes, kept_people, upright, values_of
from stylereel.systems.stylefacev.model import KIND, PLACE, FacePoseNets, PoseSampler, load_nets, to_code, to_values
from stylereel.train.loop import Trainer
from stylereel.zoo.families import BUILTIN

LENGTH = 16  # frames of a clip
EARLY, LATE = 50, 1000  # frames of long samples at which quality is compared
BEFORE = (
    200  # steps of the short training from which all variants go on, of the appearance; fusion takes thrice as many
)
MOTION_BEFORE, MOTION_PER = 300, 40  # pose-space steps before, and for each step by images, of about its cost
TRACKS = 256  # windows of poses whose distance is measured

# Of the joint stage: what differs from the paper's own.
VARIANTS: dict[str, dict[str, float]] = {
    "as in the paper": {"single": 0.1},
    "without the W loss": {"single": 0.1, "w": 0.0, "seen": 0.0},
    "without re-balancing": {"single": 1.0},
}
OURS, NO_W, LEVEL = VARIANTS
MOTIONS = ("motion by poses", "motion by images")


class Distance:
    """A Frechet distance of features [N, D] to a reference's, with the values without each group of clips."""

    def __init__(self, features: np.ndarray, reference: np.ndarray) -> None:
        sides = [(each, _moments(each)) for each in (features, reference)]
        self.value = frechet_of_roots(*sides[0][1], *sides[1][1])
        self.without: list[list[float]] = []
        for (mine, _), (_, other) in (sides, sides[::-1]):
            groups = np.arange(len(mine)) % min(GROUPS, len(mine) // 2)
            left = [_moments(mine[groups != group]) for group in range(groups.max() + 1)]
            self.without.append([frechet_of_roots(*moments, *other) for moments in left])

    def number(self) -> Number:
        """With its interval."""
        return Number(self.value, jackknife(self.value, self.without)[0])

    def over(self, other: Distance) -> Number:
        """The difference from another distance to the same reference, by the same groups."""
        without = [np.subtract(a, b).tolist() for a, b in zip(self.without, other.without)]
        return Number(self.value - other.value, jackknife(self.value - other.value, without)[0])


def _moments(features: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Mean [D] and a root [D, N] of the covariance of features [N, D], which are few."""
    mean = features.mean(0)
    return mean, (features - mean).T / np.sqrt(len(features) - 1)


class Bench:
    """What all rows of the table are measured with: held-out people, poses, and the world's clips of others."""

    def __init__(self, generator: StyleGAN3, clips: int, seed: int, device: str) -> None:
        self.generator, self.clips, self.device = generator, clips, device
        self.dtype = None if choose_precision("auto", torch.device(device)) == "32" else torch.bfloat16
        who, tracks = paper.clip_motion(50_000 + seed, 2 * clips, LENGTH)
        drawn = np.stack([self.world(person, track) for person, track in zip(who, tracks)])
        self.people, own = who[:clips], drawn[:clips]
        self.reference, self.floor = self.features(drawn[clips:]), self.features(own)
        self.portraits = own[:, 0]
        self.own = drawn[:clips]

    def world(self, person: np.ndarray, track: np.ndarray) -> np.ndarray:
        """The world's upright frames uint8 [T, H, W, 3] of a person [80] with pose factors [T, 16]."""
        values = upright(values_of(np.repeat(person[None], len(track), 0), track))
        return np.stack([world.draw(row, self.generator.resolution).image for row in values])

    def features(self, videos: np.ndarray) -> np.ndarray:
        """Of clips uint8 [N, T, H, W, 3] what frechet-video looks at."""
        small = (np.stack([shrink_for_face(frame) for frame in video])[None] for video in videos)
        return np.concatenate([face_motion_features(each, self.device) for each in small])

    @torch.inference_mode()
    def show(self, nets: FacePoseNets, poses: Tensor) -> np.ndarray:
        """Clips uint8 [N, T, H, W, 3] of the held-out people, each by its portrait, with poses [N, T, 16]."""
        videos = []
        for portrait, track in zip(self.portraits, poses):
            image = torch.from_numpy(portrait).permute(2, 0, 1)[None].to(self.generator.mean_w.device)
            straight = to_values(track).clone()
            straight[:, PLACE] = torch.tensor([0.0, 0.0, 0.0, 1.0])
            code = nets.appearance(appearance.unit(image))
            w = nets.fusion(code, to_code(straight).to(code))[:, None].expand(-1, self.generator.num_ws, -1)
            videos.append(pictures(self.generator.synthesize(w, dtype=self.dtype)))
        return np.stack(videos)

    def identity(self, videos: np.ndarray) -> np.ndarray:
        """For each clip the mean cosine [N] of later frames to the first, by the built-in identity net."""
        found = [builtin_embeddings(video, self.device) for video in videos]
        return np.array([cosine(each[1:], each[0]).mean() for each in found])

    def likeness(self, videos: np.ndarray) -> np.ndarray:
        """For each clip the mean cosine [N] of its frames to the world's portrait of the person."""
        target = builtin_embeddings(self.portraits, self.device)
        return np.array([cosine(builtin_embeddings(v, self.device), t).mean() for v, t in zip(videos, target)])


def reproduce(
    *,
    out: str,
    clips: int = 32,
    steps: int = 100,
    people: int = 1600,
    seed: int = 0,
    family: str = BUILTIN,
    device: Device = "auto",
    overwrite: bool = False,
) -> list[Path]:
    """StyleFaceV's paper on the built-in family: W loss, re-balancing, motion by poses or images, long samples.

    Writes report.md and report.json. Trainings and measured numbers are kept, so that a stopped run goes on.

    Args:
        out: folder for the report, the trainings and the drawn people.
        clips: held-out people who are shown, one clip of 16 frames each, and as many others of the world; 4 or more.
        steps: training steps of each variant of the joint stage, and a tenth of it of the motion by images.
        people: who are drawn to learn from, in hundreds.
        seed: random seed of the held-out people and of their motion.
        family: whose StyleGAN2 shows StyleVideoGAN's samples: builtin, or a TOML file that names another one of the
            world's people.
        device: where the networks run; auto takes a GPU if there is one.
        overwrite: also replace a report that no earlier run made.
    """
    if clips < 4 or steps < 2 or people < SHARD:
        raise ValueError(f"The study needs 4 clips, 2 steps and {SHARD} people or more.")
    folder = Path(out)
    claim([folder / "report.md", folder / "report.json"], overwrite=overwrite)
    world_generator(family, device)  # a family that cannot be used is refused before anything is trained
    trainer = Trainer(folder / f"trainings-{steps}-{people}", device=device)
    generator = StyleGAN3.load(builtin("generator3"))
    trainer.freeze(generator)
    variants, motions = _trained(trainer, generator, folder / "people", steps, people)
    bench = Bench(generator, clips, seed, trainer.device.type)
    shipped = load_nets(builtin(KIND)).to(trainer.device)
    early, late = _long(shipped.motion, clips, seed)
    real = clip_codes(TRACKS // 64, 64 * LENGTH, seed=120_000 + seed).reshape(-1, LENGTH, early.shape[2])

    def poses_of(net: PoseSampler) -> Tensor:
        return _sampled(net, TRACKS, LENGTH, seed)

    tracks = {name: poses_of(nets.motion) for name, nets in motions.items()}
    shown: dict[str, Callable[[], np.ndarray]] = {
        **{name: lambda nets=nets: bench.show(nets, early) for name, nets in variants.items()},
        **{name: lambda name=name: bench.show(shipped, tracks[name][:clips]) for name in MOTIONS},
        f"built-in weights, frame {EARLY}": lambda: bench.show(shipped, early),
        f"built-in weights, frame {LATE}": lambda: bench.show(shipped, late),
        "StyleVideoGAN, talking": lambda: _stylevideogan(clips, seed, family, device),
    }
    found = {}
    for name, make in shown.items():
        place = folder / "measured" / f"{steps}-{people}-{clips}-{seed}-{name.replace(' ', '-').replace(',', '')}.json"
        found[name] = _kept(place, lambda make=make: _measure(bench, make()))
    distances = {name: Distance(np.array(each["features"]), bench.reference) for name, each in found.items()}
    floor = Distance(bench.floor, bench.reference)
    rows: dict[str, dict[str, Number | str]] = {
        name: {
            "video distance": distances[name].number(),
            "identity over the frames": Number.mean(np.array(each["identity"])),
            "likeness to the portrait": Number.mean(np.array(each["likeness"])) if name != list(found)[-1] else "",
        }
        for name, each in found.items()
    }
    rows["the world's own clips of these people"] = {
        "video distance": floor.number(), "identity over the frames": Number.mean(bench.identity(bench.own)),
        "likeness to the portrait": Number.mean(bench.likeness(bench.own)),
    }  # fmt: skip
    poses = {name: _of_poses(each, real) for name, each in {**tracks, f"built-in, frame {EARLY}": early,
                                                            f"built-in, frame {LATE}": late}.items()}  # fmt: skip
    facts = {
        "protocol": f"aligned-16: {clips} clips of {LENGTH} frames at 25 a second, upright and aligned heads, 128 px; "
        "frechet-video to as many clips of other people; intervals by jackknife over groups of clips, of identity by "
        "bootstrap over clips",
        "trainings": f"one of each variant, {steps} steps of the joint stage from one start ({3 * BEFORE} steps of the "
        f"fusion, {BEFORE} of the appearance, {people} people); image losses count a tenth of the clips' where "
        "re-balanced, and as much where not; without the W loss neither distance of w counts",
        "motion": f"from one start of {MOTION_BEFORE} steps by poses; {max(2, steps // 10)} steps by images of two "
        f"clips of {motion.SHOWN_FRAMES} frames, or {MOTION_PER} times as many by poses, which take as long",
        "poses": "; ".join(f"{name}: {text}" for name, text in poses.items()),
        "StyleVideoGAN": "its built-in model of a talking clip, on as many invented people of the built-in StyleGAN2",
    }
    return write_report(folder, "StyleFaceV on the built-in family", rows, claims(found, distances), facts)


def claims(found: dict[str, dict[str, list[float]]], distances: dict[str, Distance]) -> list[Claim]:
    """The paper's claims, each decided by the interval of a difference over the same clips."""

    def identity(one: str, other: str, what: str = "identity") -> Number:
        return Number.mean(np.subtract(found[one][what], found[other][what]))

    first, last = f"built-in weights, frame {EARLY}", f"built-in weights, frame {LATE}"
    by_poses, by_images = MOTIONS
    video, cos = "the video distance", "the cosine"
    return [
        Claim.of("the W loss keeps identity over the frames (.727 against .668)", cos, identity(OURS, NO_W), True),
        Claim.of("the W loss lowers the video distance (119 against 461)", video, distances[OURS].over(distances[NO_W]),
                 False),
        Claim.of("the W loss keeps the person of the portrait", cos, identity(OURS, NO_W, "likeness"), True),
        Claim.of("re-balancing lowers the video distance (119 against 723)", video,
                 distances[OURS].over(distances[LEVEL]), False),
        Claim.of("motion learned by poses has a lower video distance than by images, for the same time", video,
                 distances[by_poses].over(distances[by_images]), False),
        Claim.of(f"frame {LATE} is worse than frame {EARLY}", video, distances[last].over(distances[first]), True),
        Claim.of("StyleFaceV has a lower video distance than StyleVideoGAN", video,
                 distances[first].over(distances["StyleVideoGAN, talking"]), False),
    ]  # fmt: skip


# Trainings


def _trained(
    trainer: Trainer, generator: StyleGAN3, folder: Path, steps: int, people: int
) -> tuple[dict[str, FacePoseNets], dict[str, FacePoseNets]]:
    """The networks of the variants of the joint stage, and those of the two ways to learn motion."""
    face = load_face(builtin("face")).eval()
    trainer.freeze(face)
    settings = replace(Settings(), joint_steps=steps, fusion_steps=3 * BEFORE, appearance_steps=BEFORE, visible=8,
                       shown=4, people=32)  # fmt: skip
    by_image_steps = max(2, steps // 10)
    file = trainer.folder / "start.safetensors"
    drawn: list[People] = []

    def data() -> People:
        if not drawn:
            drawn.append(People.of(kept_people(folder, people // SHARD, face)))
        return drawn[0]

    def into(name: str) -> Trainer:
        return Trainer(trainer.folder / name, device=trainer.device.type)  # type: ignore[arg-type]

    def start() -> FacePoseNets:
        torch.manual_seed(49)
        nets, shipped = FacePoseNets().to(trainer.device), load_nets(builtin(KIND))
        nets.pose.load_state_dict(shipped.pose.state_dict())
        encoder = load_encoder(builtin("encoder"))
        nets.appearance.trunk.load_state_dict(encoder.trunk.state_dict())
        nets.appearance.hidden.load_state_dict(encoder.hidden.state_dict())
        drawer, _ = world_generator(BUILTIN, "cpu")

        def begin(known: appearance.Known) -> None:
            appearance.start_code(nets.appearance, encoder, drawer, known)

        appearance.train_appearance(into("start"), nets, generator, data(), settings, begin)
        motion.train_motion(into("start"), nets.motion, motion.kept_clips(folder), MOTION_BEFORE)
        return nets

    def learn(name: str, teach: Callable[[FacePoseNets], None]) -> FacePoseNets:
        place = trainer.folder / f"{name.replace(' ', '-')}.safetensors"
        if not place.exists():
            nets = load_nets(file).requires_grad_(True).to(trainer.device)
            teach(nets)
            save_module(place, KIND, nets)
        return load_nets(place).to(trainer.device)

    if not file.exists():
        save_module(file, KIND, start())
    variants = {
        name: learn(name, lambda nets, name=name, change=change: appearance.train_joint(
            into(name), nets, generator, face, data(), replace(settings, **change)))  # type: ignore[arg-type]
        for name, change in VARIANTS.items()
    }  # fmt: skip
    by_poses, by_images = MOTIONS
    more = MOTION_PER * by_image_steps
    motions = {
        by_poses: learn(by_poses, lambda nets: motion.train_motion(
            into(by_poses), nets.motion, motion.kept_clips(folder), more)),
        by_images: learn(by_images, lambda nets: motion.train_images(into(by_images), nets, generator, by_image_steps)),
    }  # fmt: skip
    return variants, motions


# Measures


def _kept(place: Path, measure: Callable[[], dict[str, Any]]) -> dict[str, Any]:
    if not place.exists():
        numbers = measure()
        place.parent.mkdir(parents=True, exist_ok=True)
        with replacing(place) as partial:
            partial.write_text(json.dumps(numbers))
    return json.loads(place.read_text())


def _measure(bench: Bench, videos: np.ndarray) -> dict[str, Any]:
    return {
        "features": bench.features(videos).tolist(), "identity": bench.identity(videos).tolist(),
        "likeness": bench.likeness(videos).tolist(),
    }  # fmt: skip


@torch.inference_mode()
def _sampled(net: PoseSampler, count: int, length: int, seed: int) -> Tensor:
    """Pose codes [count, length, 16] from noise."""
    random = torch.Generator().manual_seed(seed)
    starts = net.starts[torch.randint(len(net.starts), (count,), generator=random).to(net.starts.device)]
    noise = torch.randn(count, length - 1, starts.shape[1], generator=random).to(starts)
    return net.codes(net(starts, noise)[0]).cpu()


def _long(net: PoseSampler, clips: int, seed: int) -> tuple[Tensor, Tensor]:
    """Of long samples the windows of poses [clips, T, 16] at both frames."""
    long = _sampled(net, clips, LATE + LENGTH, seed + 1)
    return long[:, EARLY : EARLY + LENGTH], long[:, LATE : LATE + LENGTH]


def _of_poses(found: Tensor, real: Tensor) -> str:
    """The Frechet distance of means and changes of windows of poses, in the clips' deviations, and trembling."""
    mean, deviation = real.flatten(0, 1).mean(0), real.flatten(0, 1).std(0)

    def describe(tracks: Tensor) -> np.ndarray:
        units = (tracks - mean) / deviation
        return torch.cat([units.mean(1), units.diff(dim=1).square().mean(1).sqrt()], 1).double().numpy()

    def trembling(tracks: Tensor) -> float:
        yaw = tracks[:, :, 0].numpy()
        return float(np.sqrt(np.mean([np.square(unsteadiness(row)) for row in yaw])))

    distance = Distance(describe(found), describe(real)).number()
    return f"distance {distance}, trembling of yaw {trembling(found) / trembling(real):.2f} times the clips'"


def _stylevideogan(clips: int, seed: int, family: str, device: Device) -> np.ndarray:
    """StyleVideoGAN's samples uint8 [N, T, H, W, 3], each of another person."""
    system: Any = systems.load("stylevideogan", family=family, device=device)
    videos = []
    for index in range(clips):
        sampled = system.sample(HELD_OUT + seed + index, LENGTH)[1]
        videos.append(np.stack(list(render(system, system.identify(HELD_OUT + seed + index), sampled))))
    return np.stack(videos)
