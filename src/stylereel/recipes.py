"""The command that trains networks, on the procedural world or on a user's pictures: `stylereel train NETWORK`."""

from __future__ import annotations

import platform
import time
from pathlib import Path
from typing import Any, Literal, TypeVar

import torch
from safetensors import safe_open
from torch import nn

from stylereel.faces.deca import load_deca
from stylereel.faces.flame import load_flame
from stylereel.faces.perception import FaceNet, IdentityNet
from stylereel.generator import StyleGAN2, StyleGAN3
from stylereel.generator.base import Generator
from stylereel.invert.encoder import Encoder, EncoderConfig
from stylereel.media import ensure_writable
from stylereel.record import sha256
from stylereel.systems import stylemask
from stylereel.train import adversarial, encoder, generator, generator3, perception
from stylereel.train.loop import Accelerator, Precision, Trainer
from stylereel.weights import BUILTIN, builtin
from stylereel.weights.encoders import load_arcface_file
from stylereel.weights.files import load_module, own_kind, save_module
from stylereel.weights.formats import load_generator_file
from stylereel.weights.registry import cache_folder
from stylereel.weights.registry import find as find_row

Network = Literal["generator", "generator3", "perception", "encoder", "stylemask", "stylevideogan"]
Network_ = TypeVar("Network_", bound=nn.Module)
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


def _stylegan2(path: str) -> StyleGAN2:
    """The StyleGAN2 generator in a file of any known tool."""
    found = load_generator_file(path)
    if not isinstance(found, StyleGAN2):
        raise ValueError(f"{path} is no StyleGAN2 generator, which stylemask needs.")
    return found


def _real_faces() -> stylemask.DecaFaces:
    """DECA, FLAME and ArcFace from the cache folder. Raises ValueError that says which file is missing."""
    names = ("deca_model.tar", "generic_model.pkl", "landmark_embedding.npy", "model_ir_se50.pth")
    paths = [cache_folder() / name for name in names]
    if missing := [path for path in paths if not path.exists()]:
        page = find_row(missing[0].name).url
        raise ValueError(f"{missing[0].name} is missing in {missing[0].parent}; get it from {page} and put it there.")
    deca, model, embedding, arcface = paths
    return stylemask.DecaFaces(load_deca(deca), load_flame(model, embedding), load_arcface_file(arcface))


def _first(start: str, name: str) -> Path | None:
    """The file that training starts from; None for "scratch". Raises ValueError if it is not there."""
    if start in ("scratch", "builtin"):
        return None if start == "scratch" else builtin(name)
    path = Path(start) / f"{name}.safetensors" if Path(start).is_dir() else Path(start)
    if not path.is_file():
        raise ValueError(f"There is no {path} to start from; give scratch, builtin, a weight file or a folder of them.")
    return path


def _begun(path: Path | None, kind: str, network: Network_) -> Network_ | None:
    """`network` with the weights of a file of its kind, which may know fewer factors: zeros for the outputs it lacks.

    Layers that the file does not have stay as they are. None without a file; raises ValueError if one does not fit.
    """
    if path is None:
        return None
    if (found := own_kind(path)) != kind:
        raise ValueError(f"{path} holds {found!r} weights; start from a file of kind {kind!r}.")
    with safe_open(path, framework="pt") as file:
        for name, value in network.state_dict().items():
            if name not in file.keys():  # noqa: SIM118 (not a dict)
                continue
            old = file.get_tensor(name)
            if old.shape[1:] != value.shape[1:] or old.numel() > value.numel():
                raise ValueError(f"{name} in {path} is {list(old.shape)}, not {list(value.shape)}; start from scratch.")
            value.zero_().view(-1)[: old.numel()] = old.flatten()
    return network


def _encoder(path: Path) -> Encoder:
    return load_module(path, "encoder", lambda config: Encoder(EncoderConfig(**config)))


def train(
    network: Network,
    folder: str,
    start: str = "scratch",
    scale: float = 1.0,
    data: str | None = None,
    devices: int = 1,
    nodes: int = 1,
    precision: Precision = "bf16",
    accelerator: Accelerator = "auto",
    generator_file: str | None = None,
    perceive: Literal["builtin", "deca"] = "builtin",
    preset: Literal["quick", "paper", "code"] | None = None,
    encoder_file: str | None = None,
) -> list[Path]:
    """Train `network` in `folder` with a share `scale` of the recipe's steps.

    `start` is "scratch", "builtin", a weight file, or a folder of them; weights of a smaller world are made to fit.
    `data` are a user's pictures for the generator, or a clip or codes for stylevideogan, whose clip is inverted by
    `encoder_file` and `generator_file`; all else learns from the world, but stylemask also from any
    `generator_file`, seen by the nets that `perceive` names, with the settings of `preset` (by default quick for the
    built-in nets, else the paper's). The other settings are those of `Trainer`. Returns the weight files.

    Raises:
        ValueError: weights that the recipe needs are missing, the folder cannot be written, or a setting cannot be
            honoured.
        KeyboardInterrupt: stopped by a signal, after the state was saved.
    """
    place = Path(folder)
    ensure_writable(place / "try")
    if network == "stylevideogan":
        from stylereel.systems.stylevideogan.making import make

        if start != "scratch" or perceive != "builtin" or preset:
            raise ValueError("The recipe of stylevideogan starts from scratch and has neither perception nor preset.")
        machine = {"accelerator": accelerator, "devices": devices, "nodes": nodes, "precision": precision}
        run = Trainer(place, scale=scale, settings={"network": network, "start": start, "data": data}, **machine)
        return make(run, data, encoder_file, generator_file)
    if encoder_file is not None:
        raise ValueError(f"The recipe of {network} takes no encoder; leave out --encoder.")
    if data is not None and network != "generator":
        raise ValueError(f"The recipe of {network} learns from the world alone; leave out --data.")
    own = {"generator": generator_file, "preset": preset, "perception": None if perceive == "builtin" else perceive}
    if network != "stylemask" and (unused := [name for name, value in own.items() if value]):
        raise ValueError(f"The recipe of {network} has no {unused[0]}; leave out --{unused[0]}.")
    if generator_file is not None:
        if start == "builtin":
            raise ValueError("The built-in masks fit the built-in generator alone; give --start scratch.")
        teacher = _stylegan2(generator_file)
    else:
        teacher = StyleGAN2.load(_stored(place, "generator")) if network in ("encoder", "stylemask") else None
    seeing = _perception(place) if network != "perception" and data is None and perceive == "builtin" else None
    net = None if seeing is None else f"stylereel-face-{sha256(_stored(place, 'face'))[:8]}"
    real = _real_faces() if perceive == "deca" else None
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
        settings={"network": network, "start": start, "data": data, "face": net, **{k: v for k, v in own.items() if v}},
    )
    began = time.time()
    made: dict[str, nn.Module] = {}
    if network == "perception":
        first = _begun(_first(start, "face"), "face", FaceNet())
        made["face"] = face = perception.train_face(trainer, first)
        first = _begun(_first(start, "identity"), "identity", IdentityNet())
        made["identity"] = perception.train_identity(trainer, face, first)
    elif network == "generator":
        path = _first(start, "generator")
        first = None if path is None else StyleGAN2.load(path)
        if source:
            made["generator"] = adversarial.train(trainer, source, generator.CONFIG, first)
        else:
            assert seeing
            made["generator"] = generator.train(trainer, seeing[0], first)
    elif network == "generator3":
        assert seeing
        path = _first(start, "generator3")
        made["generator3"] = generator3.train(trainer, seeing[0], None if path is None else StyleGAN3.load(path))
    elif teacher and real:
        settings = stylemask.CODE if preset == "code" else stylemask.PAPER
        if preset == "quick":
            raise ValueError("The quick settings are for the built-in nets; give --preset paper or code.")
        made["stylemask"] = stylemask.train(trainer, teacher, real, settings)
    elif teacher and seeing:
        if network == "encoder":
            path = _first(start, "encoder")
            first = None if path is None else _encoder(path)
            made["encoder"] = encoder.train(trainer, teacher, *seeing, first)
        else:
            path = _first(start, "stylemask")
            first = None if path is None else stylemask.load_masks(path)
            faces = stylemask.WorldFaces(*seeing)
            settings = {"paper": stylemask.PAPER, "code": stylemask.CODE}.get(preset or "", stylemask.QUICK)
            made["stylemask"] = stylemask.train(trainer, teacher, faces, settings, first)
    files = [place / f"{name}.safetensors" for name in made]
    if trainer.share[0] == 0:
        card = _card(network, start, scale, {"data": data, **own}, time.time() - began)
        for (name, module), path in zip(made.items(), files):
            kind = module.kind if isinstance(module, Generator) else name
            save_module(path, kind, module, {"name": name, **card})
    return files


def _card(network: Network, start: str, scale: float, given: dict[str, str | None], seconds: float) -> dict[str, Any]:
    """What the weight file itself says; the licence of weights that learned a user's pictures is the user's."""
    command = f"stylereel train {network} --folder runs --start {start} --scale {scale:g}"
    data, people = given["data"], given["generator"]
    card = {
        "data": f"random people of {people}; no pictures" if people else f"pictures of {data}" if data else WORLD,
        "command": command + "".join(f" --{name} {value}" for name, value in given.items() if value),
        "seconds_of_last_run": round(seconds),
        "machine": f"{platform.machine()}, {torch.get_num_threads()} threads, torch {torch.__version__}",
    }
    return card | ({} if data or people else {"licence": "Apache-2.0"})
