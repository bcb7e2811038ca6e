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
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Literal

import torch

from stylereel.family.encoder import load_encoder
from stylereel.generator import StyleGAN3
from stylereel.recipes.run import WORLD, Run, makes, shown
from stylereel.systems.stylefacev import paper
from stylereel.systems.stylefacev.appearance import (
    Known,
    People,
    Settings,
    erase_pose,
    start_code,
    train_appearance,
    train_joint,
)
from stylereel.systems.stylefacev.data import READ, SHARD, kept_people, kept_readings, prepared_codes
from stylereel.systems.stylefacev.larger import train_larger
from stylereel.systems.stylefacev.model import KIND, FacePoseNets, load_nets
from stylereel.systems.stylefacev.motion import kept_clips, train_images, train_motion
from stylereel.systems.stylefacev.pose import train_pose
from stylereel.systems.stylefacev.published import KIND as PAPER
from stylereel.systems.stylefacev.published import Config as PaperConfig
from stylereel.systems.stylefacev.published import PaperNets, load_paper_nets, steered
from stylereel.train.sources import open_source

Stage = Literal["all", "pose", "appearance", "joint", "motion", "images", "larger"]
STAGES = ("pose", "appearance", "joint", "motion")
PEOPLE = 3200
READERS = 9_500  # people of whose crops the readings alone are kept, for the stage pose
WINDOWS, WINDOW = 600, 60  # of prepared clips, in frames, the shortest that are prepared


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
            --start, or built in (appearance begins with the built-in encoder unless --start is given); all of them in
            this order; images, which goes on with the motion by what the generator shows of it; or larger, which makes
            generator3-256.safetensors, a generator of 256 px for the same codes.
        people: how many people are drawn for the appearance, four frames of each, and kept in the folder.
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
    anew = path is None and stage in ("all", "appearance")
    if path is None and stage not in ("all", "pose"):
        path = run.weight_file(KIND)
    torch.manual_seed(49)
    nets = FacePoseNets() if path is None else load_nets(path).requires_grad_(True)
    begin: Callable[[Known], None] | None = None
    if anew:
        encoder, drawer = load_encoder(run.weight_file("encoder")), run.generator()
        begin = partial(start_code, nets.appearance, encoder, drawer)
        nets.appearance.trunk.load_state_dict(encoder.trunk.state_dict())
        nets.appearance.hidden.load_state_dict(encoder.hidden.state_dict())
    folder = trainer.folder / KIND / "data"
    chosen = STAGES if stage == "all" else (stage,)
    trainer.freeze(generator, face)
    nets.to(trainer.device)
    if "pose" in chosen:
        count = max(1, trainer.steps(READERS) // READ)
        train_pose(trainer, nets.pose, trainer.on_first(lambda: kept_readings(folder, count, face)))
    if set(chosen) & {"appearance", "joint"}:
        shards = max(1, trainer.steps(people) // SHARD)
        drawn = People.of(trainer.on_first(lambda: kept_people(folder, shards, face)))
        if "appearance" in chosen:
            train_appearance(trainer, nets, generator, drawn, settings, begin)
        if "joint" in chosen:
            train_joint(trainer, nets, generator, face, drawn, settings)
        erase_pose(trainer, nets.appearance, drawn)
    if "motion" in chosen:
        codes = trainer.on_first(lambda: prepared_codes(clips, trainer.steps(WINDOWS)) if clips else kept_clips(folder))
        train_motion(trainer, nets.motion, codes)
    if "images" in chosen:
        train_images(trainer, nets, generator)
    about = (WORLD, "Apache-2.0") if data is None else (f"{WORLD}; motion of prepared clips of {shown(data)}", None)
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
