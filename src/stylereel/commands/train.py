"""The command that trains networks, on the procedural world or on a user's pictures: `stylereel train NETWORK`."""

from __future__ import annotations

import platform
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import torch
from torch import nn

from stylereel.core.builtin import BUILTIN, builtin
from stylereel.core.files import ensure_writable
from stylereel.core.record import sha256
from stylereel.core.weights import load_module, save_module
from stylereel.faces.deca import load_deca
from stylereel.faces.flame import load_flame
from stylereel.family.encoder import load_encoder
from stylereel.family.nets import FaceNet, IdentityNet, load_face
from stylereel.generator import StyleGAN2, StyleGAN3
from stylereel.generator.base import Generator
from stylereel.recipes import directions, encoder, perception
from stylereel.recipes import stylegan2 as generator
from stylereel.recipes import stylegan3 as generator3
from stylereel.systems import stylemask
from stylereel.train import adversarial
from stylereel.train.loop import Accelerator, Precision, Trainer
from stylereel.train.sources import open_source
from stylereel.zoo.encoders import load_arcface_file
from stylereel.zoo.formats import load_generator_file
from stylereel.zoo.registry import cache_folder
from stylereel.zoo.registry import find as find_row

Network = Literal["perception", "generator", "generator3", "encoder", "stylemask", "stylevideogan", "directions"]
WORLD = "pictures of stylereel.world, drawn on the fly; no photographs, no real people"


@dataclass(frozen=True)
class Given:
    """What the user gave beside the settings of `Trainer`; see `train`."""

    folder: Path
    start: str
    data: str | None = None
    generator: str | None = None
    encoder: str | None = None
    perception: Literal["builtin", "deca"] = "builtin"
    preset: Literal["quick", "paper", "code"] | None = None
    seed: int = 0

    def chosen(self) -> dict[str, str | int]:
        """The options that are not as they stand here, by name."""
        options = {name: getattr(self, name) for name in ("data", "generator", "encoder", "preset", "seed")}
        options["perception"] = None if self.perception == "builtin" else self.perception
        return {name: value for name, value in options.items() if value}

    def stored(self, name: str) -> Path:
        """The file of a network that another recipe needs: from the folder, else the built-in one."""
        here = self.folder / f"{name}.safetensors"
        path = here if here.exists() else BUILTIN / here.name
        if not path.exists():
            raise ValueError(f"The weights {name} are needed first; train them in the same folder.")
        return path

    def first(self, name: str) -> Path | None:
        """The file that training starts from; None for "scratch". Raises ValueError if it is not there."""
        if self.start in ("scratch", "builtin"):
            return None if self.start == "scratch" else builtin(name)
        path = Path(self.start)
        path = path / f"{name}.safetensors" if path.is_dir() else path
        if not path.is_file():
            raise ValueError(
                f"There is no {path} to start from; give scratch, builtin, a weight file or a folder of them."
            )
        return path

    def seeing(self) -> tuple[FaceNet, IdentityNet]:
        """The nets that see faces."""
        return load_face(self.stored("face")), _identity(self.stored("identity"))

    def teacher(self) -> StyleGAN2:
        """The generator of the folder, else the built-in one."""
        return StyleGAN2.load(self.stored("generator"))


def _identity(path: Path) -> IdentityNet:
    return load_module(path, "identity", lambda config: IdentityNet())


def _perception(trainer: Trainer, given: Given) -> dict[str, nn.Module]:
    path = given.first("face")
    face = perception.train_face(trainer, None if path is None else load_face(path))
    face = perception.train_lips(trainer, face)
    path = given.first("identity")
    first = None if path is None else _identity(path)
    return {"face": face, "identity": perception.train_identity(trainer, face, first)}


def _generator(trainer: Trainer, given: Given) -> dict[str, nn.Module]:
    path = given.first("generator")
    first = None if path is None else StyleGAN2.load(path)
    if given.data is None:
        return {"generator": generator.train(trainer, given.seeing()[0], first)}
    source = open_source(given.data, size=generator.CONFIG.resolution)
    return {"generator": adversarial.train(trainer, source, generator.CONFIG, first)}


def _generator3(trainer: Trainer, given: Given) -> dict[str, nn.Module]:
    path = given.first("generator3")
    first = None if path is None else StyleGAN3.load(path)
    return {"generator3": generator3.train(trainer, given.seeing()[0], first)}


def _encoder(trainer: Trainer, given: Given) -> dict[str, nn.Module]:
    path = given.first("encoder")
    first = None if path is None else load_encoder(path)
    if given.generator is None:
        if given.data is not None:
            raise ValueError("The built-in generator's encoder learns from the world; leave out --data.")
        return {"encoder": encoder.train(trainer, given.teacher(), *given.seeing(), first)}
    other = load_generator_file(given.generator)
    source = None if given.data is None else open_source(given.data, size=other.resolution)
    return {"encoder": encoder.train(trainer, other, *given.seeing(), first, family=False, source=source)}


def _stylemask(trainer: Trainer, given: Given) -> dict[str, nn.Module]:
    if given.generator is None:
        teacher = given.teacher()
    else:
        if given.start == "builtin":
            raise ValueError("The built-in masks fit the built-in generator alone; give --start scratch.")
        teacher = load_generator_file(given.generator)
        if not isinstance(teacher, StyleGAN2):
            raise ValueError(f"{given.generator} is no StyleGAN2 generator, which stylemask needs.")
    settings = {"paper": stylemask.PAPER, "code": stylemask.CODE, "quick": stylemask.QUICK}
    if given.perception == "deca":
        if given.preset == "quick":
            raise ValueError("The quick settings are for the built-in nets; give --preset paper or code.")
        faces = _real_faces()
        return {"stylemask": stylemask.train(trainer, teacher, faces, settings[given.preset or "paper"])}
    path = given.first("stylemask")
    first = None if path is None else stylemask.load_masks(path)
    faces = stylemask.WorldFaces(*given.seeing())
    return {"stylemask": stylemask.train(trainer, teacher, faces, settings[given.preset or "quick"], first)}


def _real_faces() -> stylemask.DecaFaces:
    """DECA, FLAME and ArcFace from the cache folder. Raises ValueError that says which file is missing."""
    names = ("deca_model.tar", "generic_model.pkl", "landmark_embedding.npy", "model_ir_se50.pth")
    paths = [cache_folder() / name for name in names]
    if missing := [path for path in paths if not path.exists()]:
        page = find_row(missing[0].name).url
        raise ValueError(f"{missing[0].name} is missing in {missing[0].parent}; get it from {page} and put it there.")
    deca, model, embedding, arcface = paths
    return stylemask.DecaFaces(load_deca(deca), load_flame(model, embedding), load_arcface_file(arcface))


# Recipes whose networks `train` saves, and the options that each takes. The two others save what they make themselves.
_RECIPES: dict[str, Callable[[Trainer, Given], dict[str, nn.Module]]] = {
    "perception": _perception,
    "generator": _generator,
    "generator3": _generator3,
    "encoder": _encoder,
    "stylemask": _stylemask,
}
_TAKES = {
    "generator": {"data"},
    "encoder": {"data", "generator"},
    "stylemask": {"generator", "perception", "preset"},
    "stylevideogan": {"data", "generator", "encoder", "seed"},
}


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
    seed: int = 0,
) -> list[Path]:
    """Train `network` in `folder` with a share `scale` of the recipe's steps.

    `start` is "scratch", "builtin", a weight file, or a folder of them; weights of a smaller world are made to fit.
    `data` are a user's pictures for the generator, or for the encoder of `generator_file`, or a clip or codes for
    stylevideogan, whose clip is inverted by `encoder_file` and `generator_file` and whose draws are those of `seed`;
    all else learns from the world, but stylemask also from any `generator_file`, seen by the nets that `perceive`
    names, with the settings of `preset` (by default quick for the built-in nets, else the paper's). The other settings
    are those of `Trainer`. Returns the weight files.

    Raises:
        ValueError: weights that the recipe needs are missing, the folder cannot be written, or a setting cannot be
            honoured.
        KeyboardInterrupt: stopped by a signal, after the state was saved.
    """
    place = Path(folder)
    ensure_writable(place / "try")
    given = Given(place, start, data, generator_file, encoder_file, perceive, preset, seed)
    own = given.chosen()
    if unused := sorted(set(own) - _TAKES.get(network, set())):
        raise ValueError(f"The recipe of {network} has no {unused[0]}; leave out --{unused[0]}.")
    if network in ("stylevideogan", "directions") and start != "scratch":
        raise ValueError(f"The recipe of {network} starts from scratch; leave out --start.")
    began = time.time()
    if network == "directions":
        return [_find_directions(given)]
    seen = {} if network == "perception" else {"face": f"stylereel-face-{sha256(given.stored('face'))[:8]}"}
    trainer = Trainer(
        place,
        scale=scale,
        accelerator=accelerator,
        devices=devices,
        nodes=nodes,
        precision=precision,
        settings={"network": network, "start": start, **seen, **own},
    )
    if network == "stylevideogan":
        from stylereel.systems.stylevideogan.making import make

        return make(trainer, data, encoder_file, generator_file, seed)
    made = _RECIPES[network](trainer, given)
    files = [place / f"{name}.safetensors" for name in made]
    if trainer.share[0] == 0:
        card = _card(given, network, scale, time.time() - began)
        for (name, module), path in zip(made.items(), files):
            kind = module.kind if isinstance(module, Generator) else name
            save_module(path, kind, module, {"name": name, **card})
    return files


def _find_directions(given: Given) -> Path:
    """Find the directions of the generator in a folder, or of the built-in one, and write them."""
    began = time.time()
    found = directions.find(given.teacher().eval(), load_face(given.stored("face")).eval())
    found.card.update({"name": "directions", **_card(given, "directions", 1.0, time.time() - began)})
    path = given.folder / "directions.safetensors"
    found.save(path)
    return path


def _card(given: Given, network: Network, scale: float, seconds: float) -> dict[str, Any]:
    """What the weight file itself says; the licence of weights that learned a user's pictures is the user's."""
    command = f"stylereel train {network} --folder runs --start {given.start} --scale {scale:g}"
    data, people = given.data, given.generator
    card = {
        "data": f"pictures of {data}" if data else f"random people of {people}; no pictures" if people else WORLD,
        "command": command + "".join(f" --{name} {value}" for name, value in given.chosen().items()),
        "seconds_of_last_run": round(seconds),
        "machine": f"{platform.machine()}, {torch.get_num_threads()} threads, torch {torch.__version__}",
    }
    return card | ({} if data or people else {"licence": "Apache-2.0"})
