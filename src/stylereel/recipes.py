"""The command that trains networks, on the procedural world or on a user's pictures: `stylereel train NETWORK`."""

from __future__ import annotations

import platform
import time
from pathlib import Path
from typing import Any, Literal

import torch
from torch import nn

from stylereel.faces.perception import FaceNet, IdentityNet, load_face
from stylereel.generator import StyleGAN2, load_generator
from stylereel.invert.encoder import load_encoder
from stylereel.media import ensure_writable
from stylereel.systems import stylemask
from stylereel.train import adversarial, directions, encoder, generator, perception
from stylereel.train.loop import Accelerator, Precision, Trainer
from stylereel.weights import BUILTIN, builtin
from stylereel.weights.files import load_module, save_module

Network = Literal["generator", "perception", "encoder", "stylemask", "directions"]
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
    return load_face(_stored(folder, "face")), _identity(_stored(folder, "identity"))


def _identity(path: Path) -> IdentityNet:
    return load_module(path, "identity", lambda config: IdentityNet())


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
    generator_file: str | None = None,
) -> list[Path]:
    """Train `network` in `folder`, from random or built-in weights, with a share `scale` of the recipe's steps.

    `data` are a user's pictures for the generator, or for the encoder of `generator_file`, any generator of ours; all
    else learns from the world. The other settings are those of `Trainer`. Returns the weight files.

    Raises:
        ValueError: weights that the recipe needs are missing, the folder cannot be written, or a setting cannot be
            honoured.
        KeyboardInterrupt: stopped by a signal, after the state was saved.
    """
    place = Path(folder)
    ensure_writable(place / "try")
    if generator_file is not None and network != "encoder":
        raise ValueError(f"The recipe of {network} has its own generator; leave out --generator.")
    if data is not None and network != "generator" and generator_file is None:
        raise ValueError(f"The recipe of {network} learns from the world alone; leave out --data.")
    if network == "directions":
        return [_find_directions(place)]
    teacher = StyleGAN2.load(_stored(place, "generator")) if network in ("encoder", "stylemask") else None
    other = None if generator_file is None else load_generator(generator_file)
    seeing = _perception(place) if network != "perception" and (data is None or other) else None
    source = None
    if data is not None:
        from stylereel.train.sources import open_source

        source = open_source(data, size=other.resolution if other else generator.CONFIG.resolution)
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
        made["face"] = face = perception.train_face(trainer, load_face(builtin("face")) if old else None)
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
            first = load_encoder(builtin("encoder")) if old else None
            family = other is None
            made["encoder"] = encoder.train(trainer, other or teacher, *seeing, first, family=family, source=source)
        else:
            first = _masks(builtin("stylemask")) if old else None
            made["stylemask"] = stylemask.train(trainer, teacher, *seeing, first)
    files = [place / f"{name}.safetensors" for name in made]
    if trainer.share[0] == 0:
        card = _card(network, start, scale, data, time.time() - began)
        if generator_file:
            card["generator"] = generator_file
        for (name, module), path in zip(made.items(), files):
            kind = StyleGAN2.kind if name == "generator" else name
            save_module(path, kind, module, {"name": name, **card})
    return files


def _find_directions(place: Path) -> Path:
    """Find the directions of the generator in a folder, or of the built-in one, and write them."""
    began = time.time()
    network = StyleGAN2.load(_stored(place, "generator")).eval()
    found = directions.find(network, load_face(_stored(place, "face")).eval())
    found.card.update({"name": "directions", **_card("directions", "scratch", 1.0, None, time.time() - began)})
    path = place / "directions.safetensors"
    found.save(path)
    return path


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
