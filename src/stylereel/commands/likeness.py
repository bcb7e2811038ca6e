"""The person in a photograph, shown as in the photograph: a step of every command that takes one as its source."""

from __future__ import annotations

import copy
import hashlib
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import replace
from functools import cache, partial
from typing import Any, Literal, get_args

import numpy as np
import torch
from torch import Tensor, nn

from stylereel.core.files import MediaError, replacing
from stylereel.core.latents import Identity
from stylereel.core.record import Stages
from stylereel.core.render import pictures
from stylereel.core.render import tuned as tuned_system
from stylereel.core.system import Frames, Poses, Source, System
from stylereel.generator import StyleGAN2
from stylereel.generator.base import Generator
from stylereel.invert.perceptual import Perceptual, Vectors
from stylereel.invert.person import compose
from stylereel.invert.resemble import AGAIN, ALIAS_FREE, STEPS, tune
from stylereel.invert.views import SIZE, VIEWS, Photograph, View, crop_of, drawn_views, views
from stylereel.world.factors import MOTION_COLUMNS
from stylereel.zoo.registry import cache_folder

Likeness = Literal["auto", "photo", "drawn"]

METHOD = 19  # part of the cache's key: counts up when the same photograph gives another tuning


def check_likeness(likeness: str) -> None:
    """Raise ValueError for what `--likeness` does not take."""
    if likeness not in get_args(Likeness):
        raise ValueError(f"--likeness takes one of {', '.join(get_args(Likeness))}, not {likeness}.")


def resembling(
    system: System, identity: Identity, source: Source, likeness: Likeness, stages: Stages | None = None
) -> Identity:
    """The identity with the tuning that makes it look as in the photograph `source`, and the factors of who was tuned
    (see `views.Photograph`).

    Tunings are cached by photograph, person and generator, and by the networks of a system that `Poses`. A saved person
    who was tuned is tuned on for such a system. Anything but these, such as a drawn picture, comes back as it is.
    """
    stages, generator = stages or Stages(), system.generator
    if likeness == "drawn":
        return identity
    if identity.delta:
        return _posed_too(system, identity, stages) if isinstance(system, Poses) else identity
    if not isinstance(source, np.ndarray) or "marks" not in identity.tensors:
        return identity
    by_factors = isinstance(generator, StyleGAN2)  # whose codes are composed of them
    values, marks, irises = (identity.tensors[name].numpy() for name in ("factors", "marks", "irises"))
    crop = crop_of(source, identity.tensors["placement"].numpy())
    look = Perceptual.best(generator.mean_w.device)
    photograph = cache(lambda: Photograph(crop, values, marks, irises))
    seen = cache(lambda: _seen(photograph(), stages, rolled=by_factors))  # a StyleGAN3 rolls what is behind, too

    def named() -> Identity:
        return replace(identity, tensors={**identity.tensors, "factors": torch.from_numpy(photograph().values)})

    def tuned() -> Identity:
        w = compose(generator, photograph().values).cpu()
        return replace(named(), w=w, delta=_tuned(generator, seen(), look, stages))

    def tuned_posed(system: Poses, begun: Identity | None) -> Identity:
        steps = ALIAS_FREE if begun is None else AGAIN
        return _tuned_posed(system, begun or named(), seen(), look, stages, steps)

    read = [each.round(4) for each in (values, marks, irises)]  # alike by any number of threads
    key = [f"{METHOD} {look.name}".encode(), *read, crop, *(p.detach().cpu().numpy() for p in generator.parameters())]
    found = _cached(key, tuned) if by_factors else None
    if isinstance(system, Poses):
        found = _cached([*key, *_files(system)], partial(tuned_posed, system, found))
    assert found is not None
    tensors = {**identity.tensors, "factors": found.tensors["factors"]}
    return replace(identity, w=found.w, tensors=tensors, delta=found.delta)


def _tuned_posed(
    system: Poses, person: Identity, seen: Sequence[View], look: Vectors, stages: Stages, steps: int
) -> Identity:
    """A person whose generator, and what a system moves it by, go on learning to show views as the system does."""
    motion = [each.values[MOTION_COLUMNS] for each in seen]
    moving: Any = copy.copy(tuned_system(system, person))
    movers = {name: copy.deepcopy(getattr(moving, name)) for name in system.movers if getattr(moving, name) is not None}
    for name, net in movers.items():
        setattr(moving, name, net)

    def show(net: Generator, index: int) -> Frames:
        moving.generator = net
        return moving.posed(person, motion[index][None])

    more = _tuned(moving.generator, seen, look, stages, steps, show, movers)
    return replace(person, delta={name: change + person.delta.get(name, 0) for name, change in more.items()})


def _posed_too(system: Poses, identity: Identity, stages: Stages) -> Identity:
    """A person whose generator was tuned to be moved by codes, tuned to a system that moves it otherwise: there is no
    photograph at hand, so the views are what the codes show."""
    generator, known = system.generator, identity.tensors.get("factors")
    movers = tuple(f"{mover}." for mover in system.movers)
    if known is None or not movers or not isinstance(generator, StyleGAN2) or generator.resolution != SIZE:
        return identity
    if any(name.startswith(movers) for name in identity.delta):
        return identity
    values, look = known.cpu().numpy(), Perceptual.best(generator.mean_w.device)

    def make() -> Identity:
        net = generator.tuned(identity.delta)

        def show(values: np.ndarray) -> np.ndarray:
            with torch.inference_mode():
                return pictures(net.synthesize(compose(generator, values)[None]))[0]

        seen = list(stages.through("look", drawn_views(show, values, VIEWS), VIEWS + 1))
        return _tuned_posed(system, identity, seen, look, stages, AGAIN)

    key = [f"{METHOD} {look.name}".encode(), values, *(each.numpy() for each in identity.delta.values())]
    return replace(identity, delta=_cached([*key, *_files(system)], make).delta)


def _files(system: System) -> list[bytes]:
    return [file.read_bytes() for file in system.weight_files]


def _cached(key: Sequence[bytes | np.ndarray], make: Callable[[], Identity]) -> Identity:
    digest = hashlib.sha256()
    for each in key:
        digest.update(np.ascontiguousarray(each).tobytes() if isinstance(each, np.ndarray) else each)
    kept = cache_folder() / "likenesses" / f"{digest.hexdigest()[:32]}.safetensors"
    try:
        return Identity.load(kept)
    except ValueError:  # not there, or damaged
        found = make()
    with suppress(MediaError), replacing(kept) as file:  # a cache that cannot be written costs the next run a minute
        found.save(file)
    return found


def _seen(photograph: Photograph, stages: Stages, rolled: bool = True) -> list[View]:
    return [photograph.rest(), *stages.through("look", views(photograph, VIEWS, rolled=rolled), VIEWS)]


def _tuned(
    generator: Generator,
    seen: Sequence[View],
    look: Vectors,
    stages: Stages,
    steps: int = STEPS,
    show: Callable[[Generator, int], Frames] | None = None,
    movers: Mapping[str, nn.Module] | None = None,
) -> dict[str, Tensor]:
    with stages("tune"):
        return tune(generator, seen, look, steps, lambda indices: stages.through("tune", indices), show, movers)


def tuning(generator: StyleGAN2, photograph: Photograph, look: Vectors, stages: Stages) -> dict[str, Tensor]:
    """The change of a generator's parameters with which it shows a photograph and views of it; see `resemble.tune`."""
    return _tuned(generator, _seen(photograph, stages), look, stages)
