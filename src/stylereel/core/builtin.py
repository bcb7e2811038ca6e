"""Weight files and where the built-in ones are."""

from __future__ import annotations

from pathlib import Path

BUILTIN = Path(__file__).parents[1] / "builtin"


def builtin(name: str) -> Path:
    """The file of a built-in network. Raises ValueError when the installation lacks it."""
    path = BUILTIN / f"{name}.safetensors"
    if not path.exists():
        raise ValueError(f"The built-in weights {name} are missing; reinstall stylereel.")
    return path
