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
from stylereel.invert.encoder import Encoder, EncoderConfig
from stylereel.media import ensure_writable
from stylereel.systems import stylemask
from stylereel.train import encoder, generator, perception
from stylereel.weights import BUILTIN, builtin
from stylereel.weights.files import load_module, save_module

Network = Literal["generator", "perception", "encoder", "stylemask"]
Start = Literal["scratch", "builtin"]


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
    return _face(_stored(folder, "face")), _identity(_stored(folder, "identity"))


def _face(path: Path) -> FaceNet:
    return load_module(path, "face", lambda config: FaceNet())


def _identity(path: Path) -> IdentityNet:
    return load_module(path, "identity", lambda config: IdentityNet())


def _encoder(path: Path) -> Encoder:
    return load_module(path, "encoder", lambda config: Encoder(EncoderConfig(**config)))


def _masks(path: Path) -> stylemask.MaskNets:
    return load_module(path, "stylemask", lambda config: stylemask.MaskNets(stylemask.MaskConfig(**config)))


def train(network: Network, folder: str, start: Start, scale: float) -> list[Path]:
    """Train `network` in `folder`, from random or built-in weights, with a share `scale` of the recipe's steps.

    Returns the weight files.

    Raises:
        ValueError: weights that the recipe needs are missing, or the folder cannot be written.
    """
    place = Path(folder)
    ensure_writable(place / "try")
    if not 0 < scale <= 1:
        raise ValueError(f"The scale is a share of the steps between 0 and 1, not {scale}.")
    began = time.time()
    made: dict[str, tuple[str, nn.Module]] = {}
    old = start == "builtin"
    if network == "generator":
        first = StyleGAN2.load(builtin("generator")) if old else None
        made["generator"] = ("stylegan2", generator.train(place / network, _perception(place)[0], scale, first))
    elif network == "perception":
        face = perception.train_face(place / "face", scale, _face(builtin("face")) if old else None)
        made["face"] = ("face", face)
        first = _identity(builtin("identity")) if old else None
        made["identity"] = ("identity", perception.train_identity(place / "identity", face, scale, first))
    elif network == "encoder":
        first = _encoder(builtin("encoder")) if old else None
        nets = (_generator(place), *_perception(place))
        made["encoder"] = ("encoder", encoder.train(place / network, *nets, scale, first))
    else:
        first = _masks(builtin("stylemask")) if old else None
        nets = (_generator(place), *_perception(place))
        made["stylemask"] = ("stylemask", stylemask.train(place / network, *nets, scale, first))
    files = []
    for name, (kind, module) in made.items():
        path = place / f"{name}.safetensors"
        save_module(path, kind, module, _card(name, network, start, scale, time.time() - began))
        files.append(path)
    return files


def _card(name: str, network: Network, start: Start, scale: float, seconds: float) -> dict[str, Any]:
    """What the file itself says; the page beside it says more."""
    return {
        "name": name,
        "data": "pictures of stylereel.world, drawn on the fly; no photographs, no real people",
        "command": f"stylereel train {network} --folder runs --start {start} --scale {scale:g}",
        "seconds_of_last_run": round(seconds),
        "machine": f"{platform.machine()}, {torch.get_num_threads()} threads, torch {torch.__version__}",
        "licence": "Apache-2.0",
    }
