"""The person in a photograph, shown as in the photograph: a step of every command that takes one as its source."""

from __future__ import annotations

import hashlib
from contextlib import suppress
from dataclasses import replace
from typing import Literal, cast, get_args

import numpy as np
import torch
from torch import Tensor

from stylereel.core.files import MediaError, replacing
from stylereel.core.latents import Identity
from stylereel.core.record import Stages
from stylereel.core.system import Source, System
from stylereel.faces.placement import cut
from stylereel.generator import StyleGAN2
from stylereel.invert.perceptual import Perceptual, Vectors
from stylereel.invert.person import compose
from stylereel.invert.views import SIZE, VIEWS, Photograph, tune, views
from stylereel.zoo.registry import cache_folder

Likeness = Literal["auto", "photo", "drawn"]

METHOD = 3  # part of the cache's key: counts up when the same photograph gives another tuning


def check_likeness(likeness: str) -> None:
    """Raise ValueError for what `--likeness` does not take."""
    if likeness not in get_args(Likeness):
        raise ValueError(f"--likeness takes one of {', '.join(get_args(Likeness))}, not {likeness}.")


def resembling(
    system: System, identity: Identity, source: Source, likeness: Likeness, stages: Stages | None = None
) -> Identity:
    """The identity with the tuning that makes it look as in the photograph `source`, and the factors of who was tuned
    (see `views.Photograph`).

    Tunings are cached by photograph, person and generator. Anything but a photograph that the built-in family has
    read, such as a drawn picture, comes back as it is. So does all with the likeness "drawn", and with "auto" where
    the system has networks that know the drawn generator's feature maps alone.
    """
    if likeness == "auto":
        likeness = "drawn" if getattr(system, "repairs", False) else "photo"
    if likeness == "drawn" or not isinstance(source, np.ndarray) or "marks" not in identity.tensors or identity.delta:
        return identity
    stages, generator = stages or Stages(), cast(StyleGAN2, system.generator)
    values, marks = (identity.tensors[name].numpy() for name in ("factors", "marks"))
    crop = cut(source, identity.tensors["placement"].numpy(), SIZE)
    look = Perceptual.best(generator.mean_w.device)
    key = hashlib.sha256(f"{METHOD} {look.name}".encode())
    for each in (values, marks, crop, *(p.detach().cpu().numpy() for p in generator.parameters())):
        key.update(np.ascontiguousarray(each).tobytes())
    kept = cache_folder() / "likenesses" / f"{key.hexdigest()[:32]}.safetensors"
    try:
        found = Identity.load(kept)
        tensors = {**identity.tensors, "factors": found.tensors["factors"]}
        return replace(identity, w=found.w, tensors=tensors, delta=found.delta)
    except ValueError:  # not there, or damaged
        pass
    photograph = Photograph(crop, values, marks)
    w = compose(generator, photograph.values).cpu()
    tensors = {**identity.tensors, "factors": torch.from_numpy(photograph.values)}
    found = replace(identity, w=w, tensors=tensors, delta=tuning(generator, photograph, look, stages))
    with suppress(MediaError), replacing(kept) as partial:  # a cache that cannot be written costs the next run a minute
        found.save(partial)
    return found


def tuning(generator: StyleGAN2, photograph: Photograph, look: Vectors, stages: Stages) -> dict[str, Tensor]:
    """The change of a generator's parameters with which it shows a photograph and views of it; see `views.tune`."""
    seen = [photograph.rest(), *stages.through("look", views(photograph, VIEWS), VIEWS)]
    return tune(generator, seen, look, through=lambda steps: stages.through("tune", steps))
