"""The command that trains networks, on the procedural world or on a user's pictures: `stylereel train NETWORK`."""

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
from stylereel.train import adversarial, encoder, generator, perception
from stylereel.train.loop import Accelerator, Precision, Trainer
from stylereel.weights import BUILTIN, builtin
from stylereel.weights.files import load_module, save_module

Network = Literal["generator", "perception", "encoder", "stylemask"]
Start = Literal["scratch", "builtin"]
WORLD = "pictures of stylereel.world, drawn on the fly; no photographs, no real people"


def _stored(folder: Path, name: str) -> Path:
    """The file of a network that another recipe needs: from this folder, else the built-in one."""
    here = folder / f"{name}.safetensors"
    path = here if here.exists() else BUILTIN / here.name
    if not path.exists():
        raise ValueError(f"The weights {name} are needed first; train them in the same folder.")
    return path


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


def train(
    network: Network,
    folder: str,
    start: Start = "scratch",
    scale: float = 1.0,
    data: str | None = None,
    devices: int = 1,
    nodes: int = 1,
    precision: Precision = "bf16",
    accelerator: Accelerator = "auto",
) -> list[Path]:
    """Train `network` in `folder`, from random or built-in weights, with a share `scale` of the recipe's steps.

    `data` are a user's pictures for the generator; all else learns from the world. The other settings are those of
    `Trainer`. Returns the weight files.

    Raises:
        ValueError: weights that the recipe needs are missing, the folder cannot be written, or a setting cannot be
            honoured.
        KeyboardInterrupt: stopped by a signal, after the state was saved.
    """
    place = Path(folder)
    ensure_writable(place / "try")
    if data is not None and network != "generator":
        raise ValueError(f"The recipe of {network} learns from the world alone; leave out --data.")
    teacher = StyleGAN2.load(_stored(place, "generator")) if network in ("encoder", "stylemask") else None
    seeing = _perception(place) if network != "perception" and data is None else None
    source = None
    if data is not None:
        from stylereel.train.sources import open_source

        source = open_source(data, size=generator.CONFIG.resolution)
    trainer = Trainer(
        place,
        scale=scale,
        accelerator=accelerator,
        devices=devices,
        nodes=nodes,
        precision=precision,
        settings={"network": network, "start": start, "data": data},
    )
    began = time.time()
    made: dict[str, nn.Module] = {}
    old = start == "builtin"
    if network == "perception":
        made["face"] = face = perception.train_face(trainer, _face(builtin("face")) if old else None)
        first = _identity(builtin("identity")) if old else None
        made["identity"] = perception.train_identity(trainer, face, first)
    elif network == "generator":
        first = StyleGAN2.load(builtin("generator")) if old else None
        if source:
            made["generator"] = adversarial.train(trainer, source, first)
        else:
            assert seeing
            made["generator"] = generator.train(trainer, seeing[0], first)
    elif teacher and seeing:
        if network == "encoder":
            first = _encoder(builtin("encoder")) if old else None
            made["encoder"] = encoder.train(trainer, teacher, *seeing, first)
        else:
            first = _masks(builtin("stylemask")) if old else None
            made["stylemask"] = stylemask.train(trainer, teacher, *seeing, first)
    files = [place / f"{name}.safetensors" for name in made]
    if trainer.share[0] == 0:
        card = _card(network, start, scale, data, time.time() - began)
        for (name, module), path in zip(made.items(), files):
            kind = StyleGAN2.kind if name == "generator" else name
            save_module(path, kind, module, {"name": name, **card})
    return files


def _card(network: Network, start: Start, scale: float, data: str | None, seconds: float) -> dict[str, Any]:
    """What the weight file itself says; the licence of weights that learned a user's pictures is the user's."""
    command = f"stylereel train {network} --folder runs --start {start} --scale {scale:g}"
    card = {
        "data": WORLD if data is None else f"pictures of {data}",
        "command": command if data is None else f"{command} --data {data}",
        "seconds_of_last_run": round(seconds),
        "machine": f"{platform.machine()}, {torch.get_num_threads()} threads, torch {torch.__version__}",
    }
    return card | ({"licence": "Apache-2.0"} if data is None else {})
