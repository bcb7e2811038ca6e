"""The commands that train the built-in weights: `stylereel train NETWORK --folder RUNS`."""

from __future__ import annotations

import platform
import time
from pathlib import Path
from typing import Any, Literal

import torch
from torch import nn

from stylereel.faces.perception import FaceNet, IdentityNet
from stylereel.generator import StyleGAN2
from stylereel.media import ensure_writable
from stylereel.systems import stylemask
from stylereel.train import encoder, generator, perception
from stylereel.weights import BUILTIN
from stylereel.weights.files import load_module, save_module

Network = Literal["generator", "perception", "encoder", "stylemask"]


def _stored(folder: Path, name: str) -> Path:
    """The file of a network that another recipe needs: from this folder, else the built-in one."""
    here = folder / f"{name}.safetensors"
    path = here if here.exists() else BUILTIN / here.name
    if not path.exists():
        raise ValueError(f"The weights {name} are needed first; train them in the same folder.")
    return path


def _generator(folder: Path) -> StyleGAN2:
    return StyleGAN2.load(_stored(folder, "generator"))


def _perception(folder: Path) -> tuple[FaceNet, IdentityNet]:
    face = load_module(_stored(folder, "face"), "face", lambda config: FaceNet())
    identity = load_module(_stored(folder, "identity"), "identity", lambda config: IdentityNet())
    return face, identity


def train(network: Network, folder: str, scale: float) -> list[Path]:
    """Train `network` in `folder` with a share `scale` of the recipe's steps; returns the weight files.

    Raises:
        ValueError: weights that the recipe needs are missing, or the folder cannot be written.
    """
    place = Path(folder)
    ensure_writable(place / "try")
    if not 0 < scale <= 1:
        raise ValueError(f"The scale is a share of the steps between 0 and 1, not {scale}.")
    start = time.time()
    made: dict[str, tuple[str, nn.Module]] = {}
    if network == "generator":
        made["generator"] = ("stylegan2", generator.train(place / network, _perception(place)[0], scale))
    elif network == "perception":
        face = perception.train_face(place / "face", scale)
        made["face"] = ("face", face)
        made["identity"] = ("identity", perception.train_identity(place / "identity", face, scale))
    elif network == "encoder":
        made["encoder"] = ("encoder", encoder.train(place / network, _generator(place), *_perception(place), scale))
    else:
        nets = stylemask.train(place / network, _generator(place), *_perception(place), scale)
        made["stylemask"] = ("stylemask", nets)
    files = []
    for name, (kind, module) in made.items():
        path = place / f"{name}.safetensors"
        save_module(path, kind, module, _card(name, network, scale, time.time() - start))
        files.append(path)
    return files


def _card(name: str, network: Network, scale: float, seconds: float) -> dict[str, Any]:
    """What the file itself says; the page beside it says more."""
    return {
        "name": name,
        "data": "pictures of stylereel.world, drawn on the fly; no photographs, no real people",
        "command": f"stylereel train {network} --folder runs" + ("" if scale == 1 else f" --scale {scale}"),
        "seconds_of_last_run": round(seconds),
        "machine": f"{platform.machine()}, {torch.get_num_threads()} threads, torch {torch.__version__}",
        "licence": "Apache-2.0",
    }
