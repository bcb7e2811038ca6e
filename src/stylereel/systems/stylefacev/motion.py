"""The motion LSTM: stage D, by pose codes of clips, with its calibration, and D', by what the generator shows of it."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from stylereel import world
from stylereel.core.weights import read_tensors, write_tensors
from stylereel.generator import StyleGAN3
from stylereel.systems.stylefacev import paper
from stylereel.systems.stylefacev.appearance import unit
from stylereel.systems.stylefacev.critics import SequenceCritic, StillCritic, critic_loss, generator_loss, penalty
from stylereel.systems.stylefacev.data import clip_codes, upright, values_of
from stylereel.systems.stylefacev.model import (
    KIND,
    NOISE,
    FacePoseNets,
    PoseSampler,
    State,
    to_code,
    to_values,
    transforms,
)
from stylereel.train.loop import Average, Trainer, cosine

STEPS, IMAGES_STEPS = 4000, 100
CRITIC = 16  # width of the critics of images
CLIPS, CLIP_FRAMES = 60, 1500
SHOWN_FRAMES = 8  # of a sequence of images


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


def train_motion(trainer: Trainer, net: PoseSampler, codes: Tensor, whole: int = STEPS) -> None:
    """Stage D: the motion LSTM against the critics of pairs and of sequences, in float32."""
    torch.manual_seed(53)
    net.learn_statistics(codes)
    real = net.units(codes).to(trainer.device)
    still, sequence = StillCritic(), SequenceCritic(real)
    average = PoseSampler(net.cell.hidden_size)
    average.load_state_dict(net.state_dict())
    steps, (rank, ranks) = trainer.steps(whole), trainer.share
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


def train_images(trainer: Trainer, nets: FacePoseNets, generator: StyleGAN3, steps: int = IMAGES_STEPS) -> None:
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
        return generator.synthesize(w, transform=places, dtype=trainer.dtype).unflatten(0, poses.shape[:2])

    for part in (nets.pose, nets.appearance, nets.fusion):
        part.requires_grad_(False)
    paper.compete(trainer, f"{KIND}/images", net, windows, show, 3, steps, CRITIC, SHOWN_FRAMES)
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
