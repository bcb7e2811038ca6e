"""The command `stylereel reproduce SYSTEM`: a paper's comparisons, repeated on the built-in family.

A system's study is one function, which its Spec names. Its keyword arguments are the command's flags and its
docstring the help; it gives the files it wrote.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from stylereel.systems import SPECS, hint, resolve


def list_studies() -> list[str]:
    """The systems whose paper can be reproduced."""
    return sorted(name for name, spec in SPECS.items() if spec.study)


def study(system: str) -> Callable[..., list[Path]]:
    """The study of a system. Raises ValueError, naming the nearest one, if there is none."""
    if system not in list_studies():
        raise ValueError(f"No study of {system!r} is known; {hint(system, list_studies())}")
    return resolve(SPECS[system].study)
