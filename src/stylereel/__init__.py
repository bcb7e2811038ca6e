"""stylereel makes, drives, encodes, edits and measures face video in the latent spaces of a StyleGAN.

The public names are loaded on first use, so that importing the package and the command line's help are fast.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

from stylereel.core.version import __version__

_HOMES = {
    "load": "stylereel.systems",
    "list_systems": "stylereel.systems",
    "Identity": "stylereel.core.latents",
    "Motion": "stylereel.core.latents",
    "Frames": "stylereel.core.system",
    "render": "stylereel.core.render",
    "StyleGAN2": "stylereel.generator.stylegan2",
}

__all__ = ["Frames", "Identity", "Motion", "StyleGAN2", "__version__", "list_systems", "load", "render"]

if TYPE_CHECKING:
    from stylereel.core.latents import Identity, Motion
    from stylereel.core.render import render
    from stylereel.core.system import Frames
    from stylereel.generator.stylegan2 import StyleGAN2
    from stylereel.systems import list_systems, load


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module 'stylereel' has no attribute {name!r}")
    value = getattr(import_module(_HOMES[name]), name)
    globals()[name] = value
    return value
