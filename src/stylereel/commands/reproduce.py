"""The command `stylereel reproduce SYSTEM`: a paper's experiments, repeated with the built-in weights.

A system's study is one function, which its Spec names. Its keyword arguments are the command's flags and its
docstring the help; it gives the files it wrote.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from stylereel.systems import SPECS, hint, resolve


def list_studies() -> list[str]:
    """The systems whose paper can be reproduced."""
    return sorted(name for name, spec in SPECS.items() if spec.study)


def study(system: str) -> Callable[..., list[Path]]:
    """The study of a system. Raises ValueError, naming the nearest one, if there is none."""
    if system not in list_studies():
        raise ValueError(f"There is no study of {system!r}; {hint(system, list_studies())}")
    return resolve(SPECS[system].study)


def reproduce(system: str, /, *, options: Mapping[str, Any]) -> list[Path]:
    """Repeat a paper's experiments with the built-in weights and report which of its claims hold.

    Args:
        system: the system whose paper to reproduce.
        options: the study's own options, by name.

    Returns:
        The files of the report.

    Raises:
        ValueError: no such study, or an option it cannot use.
    """
    return study(system)(**options)


def flags(system: str) -> dict[str, dict[str, tuple[inspect.Parameter, Callable[..., Any]]]]:
    """The flags of a study: its arguments."""
    function = study(system)
    parameters = inspect.signature(function, eval_str=True).parameters
    return {"options": {name: (parameter, function) for name, parameter in parameters.items()}}


def subjects() -> str:
    """The systems, for the help."""
    return f"There are studies of {', '.join(list_studies())}; SYSTEM --help shows their flags."
