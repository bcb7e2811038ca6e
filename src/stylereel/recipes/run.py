"""A recipe's inputs: the trainer, its start, other recipes' weights, and how to save its own.

A recipe is a function `recipe(run, *, options) -> [weight files]`; its keyword arguments are the flags of
`stylereel train NETWORK`, its docstring their help.
"""

from __future__ import annotations

import platform
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple, TypeVar

import torch
from torch import nn

from stylereel import world
from stylereel.core.builtin import BUILTIN, builtin
from stylereel.core.record import write_record
from stylereel.core.runs import claim
from stylereel.core.weights import fingerprint, load_module, save_module
from stylereel.family.nets import FaceNet, IdentityNet, load_face
from stylereel.generator import StyleGAN2
from stylereel.generator.base import Generator
from stylereel.train.loop import Trainer

Recipe = TypeVar("Recipe", bound=Callable[..., list[Path]])
WORLD = "pictures of stylereel.world, drawn on the fly; no photographs, no real people"


class Part(NamedTuple):
    """What a recipe of the built-in family makes.

    files: names of its weight files; needs: names of those that it reads; starts: whether it can start from weights.
    """

    files: tuple[str, ...]
    needs: tuple[str, ...]
    starts: bool


def makes(*files: str, needs: Sequence[str] = (), starts: bool = True) -> Callable[[Recipe], Recipe]:
    """Say of a recipe what it makes of the built-in family, so that `stylereel train family` knows its place."""

    def mark(recipe: Recipe) -> Recipe:
        setattr(recipe, "part", Part(files, tuple(needs), starts))  # noqa: B010 (functions have no such attribute)
        return recipe

    return mark


@dataclass(frozen=True)
class Run:
    """One training run of a network.

    Attributes:
        network: its name on the command line.
        trainer: the loop, its device and its folder.
        start: "scratch", "builtin", a weight file or a folder of them.
        options: those of the recipe that differ from their defaults, by name.
        overwrite: whether it may replace finished weights that no earlier run in the folder made.
        inputs: the `fingerprint` of every weight file of the family that the recipe has read, by name.
    """

    network: str
    trainer: Trainer
    start: str = "scratch"
    options: Mapping[str, Any] = field(default_factory=dict)
    overwrite: bool = False
    began: float = field(default_factory=time.time)
    inputs: dict[str, str] = field(default_factory=dict)

    @property
    def folder(self) -> Path:
        """Where checkpoints, logs and the finished weight files go."""
        return self.trainer.folder

    def claim(self, *names: str) -> list[Path]:
        """The weight files that the run is to write. A recipe calls it first.

        Raises:
            MediaError: one is what the run reads, or is there and no earlier run in the folder made it.
        """
        files = [self.folder / f"{name}.safetensors" for name in names]
        read = [self.start, *(value for value in self.options.values() if isinstance(value, str))]
        outputs = [each for path in files for each in (path, path.with_suffix(".json"))]
        self.trainer.on_first(lambda: claim(outputs, [one for one in read if _exists(one)], self.overwrite))
        return files

    def weight_file(self, name: str) -> Path:
        """The file of a network that another recipe trains: from the folder, else the built-in one."""
        path = weight_file(self.folder, name)
        self.inputs[name] = fingerprint(path)
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

    def only_from_scratch(self) -> None:
        """Raise ValueError if the run is to start from weights."""
        if self.start != "scratch":
            raise ValueError(f"The recipe of {self.network} starts from scratch; leave out --start.")

    def face_net(self) -> FaceNet:
        """The net that reads faces."""
        return load_face(self.weight_file("face"))

    def identity_net(self) -> IdentityNet:
        """The net that embeds a portrait's identity."""
        return load_identity(self.weight_file("identity"))

    def generator(self) -> StyleGAN2:
        """The generator of the folder, else the built-in one."""
        return StyleGAN2.load(self.weight_file("generator"))

    def card(self, data: str = WORLD, licence: str | None = "Apache-2.0") -> dict[str, Any]:
        """How the weights were trained, with the names of files but not their folders, which are nobody's business; the
        licence of weights that learned a user's images is the user's."""
        start, options = shown(self.start), {name: shown(value) for name, value in self.options.items()}
        command = f"stylereel train {self.network} --folder runs --start {start} --scale {self.trainer.scale:g}"
        flags = "".join(f" --{name.replace('_', '-')} {value}" for name, value in options.items())
        card = {
            "data": data,
            "command": command + flags,
            "inputs": {"world": str(world.VERSION), **self.inputs},
            "seconds_of_last_run": round(time.time() - self.began),
            "machine": f"{platform.machine()}, {torch.get_num_threads()} threads, torch {torch.__version__}",
        }
        return card | ({"licence": licence} if licence else {})

    def save(
        self,
        networks: Mapping[str, nn.Module],
        data: str = WORLD,
        licence: str | None = "Apache-2.0",
        facts: Mapping[str, Any] | None = None,
    ) -> list[Path]:
        """Write NAME.safetensors and its record NAME.json for each network, by process 0 alone; the weights' paths.

        facts: what the card says besides.
        """
        files = [self.folder / f"{name}.safetensors" for name in networks]
        if self.trainer.share[0] == 0:
            for (name, module), path in zip(networks.items(), files):
                kind = module.kind if isinstance(module, Generator) else name
                card = {"name": name, **self.card(data, licence), **(facts or {})}
                save_module(path, kind, module, card)
                self.write_record(path, card)
        return files

    def write_record(self, path: Path, card: Mapping[str, Any]) -> None:
        """Write NAME.json next to NAME.safetensors, by which a later run knows that it may replace both."""
        write_record(path, {**card, "settings": self.trainer.settings, "files": [path, path.with_suffix(".json")]})


def _exists(name: str) -> bool:
    try:
        return Path(name).exists()
    except (OSError, ValueError):  # a pattern too long for a name
        return False


def shown(value: Any) -> Any:
    """What a card says of an option: of files and folders their name alone."""
    return Path(value).name or value if isinstance(value, str) else value


def weight_file(folder: Path, name: str) -> Path:
    """The weight file of a network in a folder, else the built-in one. Raises ValueError if there is neither."""
    here = folder / f"{name}.safetensors"
    path = here if here.exists() else BUILTIN / here.name
    if not path.exists():
        raise ValueError(f"The weights {name} are needed first; train them in the same folder.")
    return path


def load_identity(path: Path) -> IdentityNet:
    """The built-in kind of identity net in a file."""
    return load_module(path, "identity", lambda config: IdentityNet())
