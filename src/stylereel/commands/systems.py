"""The command `stylereel systems`."""

from __future__ import annotations

from stylereel.systems import list_systems


def systems() -> list[str]:
    """List the systems by name."""
    return list_systems()
