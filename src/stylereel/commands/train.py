"""The command `stylereel train NETWORK`: on the procedural world, or on a user's images, clips and codes."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from stylereel.core.files import ensure_writable
from stylereel.core.record import sha256
from stylereel.core.system import Device
from stylereel.recipes.run import Run, weight_file
from stylereel.systems import SPECS, hint, options_of, resolve
from stylereel.train.loop import Precision, Trainer
from stylereel.zoo.families import BUILTIN, open_family

_RECIPES = {
    "perception": "stylereel.recipes.perception:recipe",
    "likeness": "stylereel.recipes.likeness:recipe",
    "generator": "stylereel.recipes.stylegan2:recipe",
    "generator3": "stylereel.recipes.stylegan3:recipe",
    "encoder": "stylereel.recipes.encoder:recipe",
    "directions": "stylereel.recipes.directions:recipe",
    "voice": "stylereel.recipes.voice:recipe",
}


# What builds on a system's networks.
_AFTERWARDS = {"styleheat-sound": "stylereel.systems.styleheat.hearing:recipe"}


def list_networks() -> list[str]:
    """What can be trained; each network comes after those that it needs."""
    return [*_RECIPES, *(name for name, spec in SPECS.items() if spec.train), *_AFTERWARDS]


def recipe_of(network: str) -> Callable[..., list[Path]]:
    """The recipe of a network. Raises ValueError, naming the nearest one, if there is none."""
    if network not in list_networks():
        raise ValueError(f"There is no network {network!r} to train; {hint(network, list_networks())}")
    return resolve((_RECIPES | _AFTERWARDS).get(network) or SPECS[network].train)


def train(
    network: str,
    /,
    *,
    folder: str = "runs",
    start: str = "scratch",
    scale: float = 1.0,
    devices: int = 1,
    nodes: int = 1,
    precision: Precision = "auto",
    family: str = BUILTIN,
    device: Device = "auto",
    overwrite: bool = False,
    options: Mapping[str, Any] | None = None,
) -> list[Path]:
    """Train a network on the procedural world or on your own data; the same command resumes an interrupted run.

    Args:
        network: perception comes first; generator (StyleGAN2) and generator3 (StyleGAN3-R) need it; encoder,
            directions and the systems also need a generator, styleheat-sound also styleheat. Weights that are not in
            the folder are the built-in ones.
        folder: folder for checkpoints, logs, sample images and the finished weight files.
        start: initial weights: scratch (random), builtin, a weight file or a folder of weight files.
        scale: share of the recipe's steps, for a trial run.
        devices: processes on this machine, each with its own GPU or its share of the cores.
        nodes: number of machines; torchrun sets this and devices itself.
        precision: number format of features and convolutions; auto takes bf16 where the hardware supports it, else 32;
            16 needs CUDA.
        family: whose generator and encoder a network is trained for, where it takes one and none is given: builtin,
            ffhq, or a TOML file that names them.
        device: where the networks are trained; auto takes a GPU if there is one.
        overwrite: also replace finished weights in the folder that no earlier run there made; never what is read.
        options: values for the recipe's own options; the others keep their defaults.

    Returns:
        The weight files.

    Raises:
        ValueError: no such network or family, weights that the recipe needs are missing, the folder cannot be
            written, or a setting is not supported.
        KeyboardInterrupt: stopped by a signal, after the state was saved.
    """
    recipe = recipe_of(network)
    known = {name: each.default for name, each in options_of(recipe).items()}
    if unknown := sorted((options or {}).keys() - known.keys()):
        raise ValueError(f"The recipe of {network} has no {unknown[0]}; leave out --{unknown[0]}.")
    own = open_family(family).options(network, list(known))
    if family != BUILTIN and not own:
        raise ValueError(f"The recipe of {network} takes no weights of another family; leave out --family.")
    given = known | own | dict(options or {})
    chosen = {name: value for name, value in given.items() if value != known[name]}
    place = Path(folder)
    ensure_writable(place / "try")
    reader = {} if network == "perception" else {"face": f"stylereel-face-{sha256(weight_file(place, 'face'))[:8]}"}
    trainer = Trainer(
        place,
        scale=scale,
        device=device,
        devices=devices,
        nodes=nodes,
        precision=precision,
        settings={"network": network, "start": start, **reader, **chosen},
    )
    return recipe(Run(network, trainer, start, chosen, overwrite), **given)


def flags(network: str) -> dict[str, dict[str, tuple[inspect.Parameter, Callable[..., Any]]]]:
    """A network's own flags: each with the function whose docstring explains it."""
    recipe = recipe_of(network)
    return {"options": {name: (parameter, recipe) for name, parameter in options_of(recipe).items()}}


def subjects() -> str:
    """The networks, for the help."""
    return f"The networks are {', '.join(list_networks())}; NETWORK --help also shows a network's own flags."
