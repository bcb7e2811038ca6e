"""The systems by name. One line here is all that a new system needs to be known everywhere."""

from __future__ import annotations

import difflib
import inspect
from collections.abc import Sequence
from importlib import import_module
from typing import Any

from stylereel.core.system import Spec, System

SPECS = {
    name: Spec(*(f"stylereel.systems.{name}.{part}" for part in parts))
    for name, *parts in [
        ("stylemask", "system:StyleMask", "training:train", "study:reproduce"),
        ("stylevideogan", "system:StyleVideoGAN", "making:make", "study:reproduce"),
    ]
}


def resolve(place: str) -> Any:
    """What a Spec names as module:name."""
    module, attribute = place.split(":")
    return getattr(import_module(module), attribute)


def list_systems() -> list[str]:
    """Names of all systems."""
    return sorted(SPECS)


def load(name: str, **files: str) -> System:
    """The system `name` with its built-in weights, or with a user's files, as its `from_files` takes them.

    Raises ValueError for files it cannot use, or if there is no such system, naming the nearest one.
    """
    system = find(name)
    return system.from_files(**files) if files else system.builtin()


def hint(name: str, known: Sequence[str]) -> str:
    """What to take instead of an unknown name: the nearest one, or the list."""
    near = difflib.get_close_matches(name, known, n=1)
    return f"did you mean {near[0]}?" if near else f"choose one of {', '.join(known)}."


def find(name: str) -> Any:
    """The class of a system. Raises ValueError, naming the nearest one, if there is none."""
    if name not in SPECS:
        raise ValueError(f"There is no system {name!r}; {hint(name, list_systems())}")
    return resolve(SPECS[name].system)


def options_of(system: Any, verb: str) -> dict[str, inspect.Parameter]:
    """The run-time options of one verb of a system: its keyword-only arguments, by name."""
    parameters = inspect.signature(getattr(system, verb), eval_str=True).parameters
    return {name: p for name, p in parameters.items() if p.kind is inspect.Parameter.KEYWORD_ONLY}


def file_options(name: str) -> dict[str, inspect.Parameter]:
    """The files that a system can be loaded from, by name; none for an unknown system."""
    if name not in SPECS:
        return {}
    reader = getattr(find(name), "from_files", None)
    return dict(inspect.signature(reader, eval_str=True).parameters) if reader else {}
