"""How the audio warper first learns where sound takes chin and lips, before any image of it is made.

An image shows the lips' place only to a network that already moves them about there, and rendering takes nearly all
the time of a step. The world knows the landmarks of a mouth that says a phoneme, on any head and at once; so thousands
of proxies (what the video warper makes of a source, as in `talking`) are looked at once and kept, and each step lets
some of them say something new. Next to the flow at the landmarks, a linear layer, which is thrown away, has to tell
the mouth from the descriptor.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import NamedTuple

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from stylereel import world
from stylereel.core.prefetch import Prefetch
from stylereel.family.people import grouped_w
from stylereel.generator import StyleGAN2
from stylereel.media.mel import styleheat_windows
from stylereel.recipes.voice import SECONDS
from stylereel.systems.styleheat.guide import guide, mean_head
from stylereel.systems.styleheat.motion import beside_own, coordinates
from stylereel.systems.styleheat.networks import FLOW_SIZE, Warper, lower_half
from stylereel.systems.styleheat.pairs import Kept, kept, window_around
from stylereel.systems.styleheat.state import look, read_state, split
from stylereel.systems.styleheat.talking import FPS, MARGIN, SEED, hear, moved_to, speaking, turned_people
from stylereel.systems.styleheat.training import Settings, make_optimizers, schedule
from stylereel.train.loop import Average, Trainer
from stylereel.world.factors import MOTION_COLUMNS
from stylereel.world.speech import MOUTH, mouth

CHIN_AND_LIPS = [*range(5, 12), *range(48, 68)]
HEADS, CROPS = 64, 16  # people and crops of sound of a file of a pool
MOMENTS = 24  # of a crop
TOLD = 2.0  # weight of the mouth that the descriptor tells, next to points in pixels
STILL = 0.3  # weight of the flow away from chin and lips, in pixels
NEAR = 5.0  # pixels around a landmark that may move with it


class Heads(NamedTuple):
    """People as the video warper shows them: images uint8 [N, 3, 64, 64], and their factors in that motion [N, K]."""

    images: Tensor
    factors: Tensor


class Sounds(NamedTuple):
    """What the audio warper hears [N, 80, 32], and the mouth that belongs to its moment [N, 5]."""

    mel: Tensor
    mouth: Tensor


class Saying(NamedTuple):
    """B heads that say something: images uint8 [B, 3, 64, 64], mel [B, 80, 32], mouth [B, 5], and the landmarks
    [B, 68, 2], 0..1, before and then."""

    images: Tensor
    mel: Tensor
    mouth: Tensor
    before: Tensor
    landmarks: Tensor


def point_error(flow: Tensor, before: Tensor, landmarks: Tensor) -> Tensor:
    """Mean distance in pixels between where a flow [B, 2, H, W] takes chin and lips from, at their landmarks
    [B, 68, 2], and where they were before; the world knows both. Lips move over its surface, whose exact flow does not
    hold them."""
    size = flow.shape[-1]
    here, there = landmarks[:, CHIN_AND_LIPS], before[:, CHIN_AND_LIPS]
    found = F.grid_sample(flow, 2 * here[:, None] - 1, padding_mode="border", align_corners=False)[:, :, 0]
    return (found.mT - size * (there - here)).square().sum(2).add(1e-6).sqrt().mean()


def away(landmarks: Tensor, size: int = FLOW_SIZE) -> Tensor:
    """Where nothing moves when a mouth with landmarks [B, 68, 2] speaks: 1, and 0 near chin and lips [B, 1, H, W]."""
    pixels = torch.arange(size, device=landmarks.device) + 0.5
    y, x = torch.meshgrid(pixels, pixels, indexing="ij")
    places = torch.stack([x, y], 2).flatten(0, 1).expand(len(landmarks), -1, -1)
    nearest = torch.cdist(places, size * landmarks[:, CHIN_AND_LIPS]).amin(2)
    return (nearest > NEAR).float().view(-1, 1, size, size)


@torch.no_grad()
def draw_heads(
    index: int, generator: StyleGAN2, video: Warper, dtype: torch.dtype, count: int, seed: int = SEED
) -> Heads:
    """People with a pose that is another's by chance, moved there from their own by the video warper."""
    random = np.random.default_rng((seed, 7, index))
    source, before, after = turned_people((seed, 8, index), count, random)
    windows, led = [], []
    for own, values in zip(before[:, MOTION_COLUMNS], after[:, MOTION_COLUMNS], strict=True):
        windows.append(coordinates(window_around(values, random)).T)
        led.append(guide(mean_head(own), values))
    place, size = generator.mean_w.device, video.config.size
    own = coordinates(before[:, MOTION_COLUMNS])
    window = torch.cat([beside_own(torch.from_numpy(w)[None], o[None]) for w, o in zip(windows, own, strict=True)])
    w = grouped_w(generator, torch.from_numpy(source).float().to(place))
    state = read_state(generator, w)
    flow = video(look(generator, state, w, size), window.to(place), torch.stack(led).to(place)).flow
    images = look(generator, split(video.warp(state.joined(), flow)), w, FLOW_SIZE, dtype=dtype).float()
    values = [
        moved_to(person, motion[None])[0] for person, motion in zip(before, after[:, MOTION_COLUMNS], strict=True)
    ]
    return Heads(images.add(1).mul(127.5).round().clamp(0, 255).byte().cpu(), torch.from_numpy(np.stack(values)))


def draw_sounds(index: int, count: int, seed: int = SEED) -> Sounds:
    """Moments of speech, of music and of noise."""
    mels, mouths = [], []
    for number in range(count):
        random = np.random.default_rng((seed, 9, index, number))
        mel, track = hear(seed, random)
        frames = int((SECONDS - MARGIN) * FPS)
        chosen = np.sort(random.choice(frames, MOMENTS, replace=False))
        mels.append(styleheat_windows(mel, frames, FPS)[chosen])
        mouths.append(torch.from_numpy(mouth(track, chosen / float(FPS))))
    return Sounds(torch.cat(mels), torch.cat(mouths).float())


def let_say(heads: Heads, sounds: Sounds, count: int, random: np.random.Generator) -> Saying:
    """Some of the heads with the mouth of some of the sounds."""
    who, what = random.integers(len(heads.images), size=count), random.integers(len(sounds.mel), size=count)
    before, then = [], []
    for head, sound in zip(heads.factors[who].numpy(), sounds.mouth[what].numpy(), strict=True):
        before.append(world.project_landmarks(head)[0])
        then.append(world.project_landmarks(moved_to(head, speaking(head[None, MOTION_COLUMNS], sound[None]))[0])[0])
    landmarks = (torch.from_numpy(np.stack(each)).float() for each in (before, then))
    return Saying(heads.images[who], sounds.mel[what], sounds.mouth[what], *landmarks)


class Listener(nn.Module):
    """An audio warper, and the layer that has to tell the mouth from its descriptor."""

    def __init__(self, audio: Warper) -> None:
        super().__init__()
        self.audio, self.tell = audio, nn.Linear(audio.config.descriptor, len(MOUTH))


def train_points(trainer: Trainer, generator: StyleGAN2, video: Warper, model: Warper, settings: Settings) -> Warper:
    """The audio warper moves landmarks; `settings.pool` files of heads and of sounds are drawn once and kept."""
    listener, average = Listener(model), Warper(model.config)
    trainer.freeze(generator, video)
    parts: list[tuple[nn.Module, float]] = [(model, settings.rate), (listener.tell, settings.rate)]
    optimizers, follow = make_optimizers(parts, settings.muon), Average(model, average, 0.99)
    steps, (rank, ranks) = trainer.steps(settings.steps), trainer.share
    folder = trainer.folder / "styleheat-points"
    made: list[tuple[Heads, Sounds]] = []

    def pool(name: str, kind: Callable[..., Kept], make: Callable[[int], Kept], half: tuple[str, ...] = ()) -> Kept:
        folder.mkdir(parents=True, exist_ok=True)
        paths = [folder / f"{name}-{SEED}-{index:04}.safetensors" for index in range(trainer.steps(settings.pool))]
        files = [kept(path, kind, partial(make, index), half) for index, path in enumerate(paths)]
        return kind(*(torch.cat(each) for each in zip(*files, strict=True)))

    def make(index: int) -> Saying:
        if not made:
            heads = pool("heads", Heads, lambda i: draw_heads(i, generator, video, trainer.dtype, HEADS))
            made.append((heads, pool("sounds", Sounds, lambda i: draw_sounds(i, CROPS), ("mel",))))
        batch = let_say(*made[0], settings.batch, np.random.default_rng((SEED, 10, index)))
        return Saying(*(each[rank::ranks] for each in batch))

    batches = Prefetch(make, trainer.to_device)

    def step(index: int) -> dict[str, Tensor]:
        batch = batches(index)
        with trainer.autocast():
            moved = model(batch.images.float() / 127.5 - 1, batch.mel)
            told = listener.tell(moved.descriptor).float()
        flow = lower_half(moved.flow.float())
        points = point_error(flow, batch.before, batch.landmarks)
        tell = F.smooth_l1_loss(told, batch.mouth, beta=0.1)
        still = (flow.abs() * away(batch.landmarks)).mean()
        trainer.descend(points + TOLD * tell + STILL * still, optimizers.values(), 5.0, listener)
        follow.update(index)
        unmoved = point_error(torch.zeros_like(flow), batch.before, batch.landmarks)
        return {"points": points, "points, not moved": unmoved, "tell": tell, "still": still}

    trainer.fit(
        "styleheat-audio-points",
        {"model": listener, "average": average},
        optimizers,
        step,
        steps,
        batch=settings.batch,
        schedule=schedule(settings, steps),
        every=20,
    )
    return average
