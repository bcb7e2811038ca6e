"""stylereel makes, drives, encodes, edits and measures face video in the latent spaces of a StyleGAN.

The public names are loaded on first use, so that importing the package and the command line's help are fast.
"""

import sys
from importlib import import_module
from types import ModuleType
from typing import TYPE_CHECKING, Any

__version__ = "0.1.0"

_HOMES = {
    "load": "stylereel.systems",
    "list_systems": "stylereel.systems",
    "Identity": "stylereel.latents",
    "Motion": "stylereel.latents",
    "Styles": "stylereel.latents",
    "render": "stylereel.render",
    "StyleGAN2": "stylereel.generator.stylegan2",
}

__all__ = ["Identity", "Motion", "StyleGAN2", "Styles", "__version__", "list_systems", "load", "render"]

if TYPE_CHECKING:
    from stylereel.generator.stylegan2 import StyleGAN2
    from stylereel.latents import Identity, Motion, Styles
    from stylereel.render import render
    from stylereel.systems import list_systems, load


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module 'stylereel' has no attribute {name!r}")
    value = getattr(import_module(_HOMES[name]), name)
    globals()[name] = value
    return value


class _Package(ModuleType):
    """Python binds the submodule `render` to the package when it is imported; the name is the function's."""

    def __setattr__(self, name: str, value: Any) -> None:
        if name == "render" and isinstance(value, ModuleType):
            value = value.render
        super().__setattr__(name, value)


sys.modules[__name__].__class__ = _Package
