"""The systems by name. One line here is all that a new system needs to be known everywhere."""

from __future__ import annotations

import difflib
from importlib import import_module
from typing import Any

_SYSTEMS = {
    "stylemask": "stylereel.systems.stylemask:StyleMask",
}


def list_systems() -> list[str]:
    """Names of all systems."""
    return sorted(_SYSTEMS)


def load(name: str) -> Any:
    """The system `name` with its built-in weights. Raises ValueError, naming the nearest one, if there is none."""
    if name not in _SYSTEMS:
        near = difflib.get_close_matches(name, _SYSTEMS, n=1)
        hint = f"did you mean {near[0]}?" if near else f"choose one of {', '.join(list_systems())}."
        raise ValueError(f"There is no system {name!r}; {hint}")
    module, attribute = _SYSTEMS[name].split(":")
    return getattr(import_module(module), attribute).builtin()
