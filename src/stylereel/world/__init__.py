"""The world: procedural portraits with exact labels, all our own; what the built-in weights are trained on.

`draw(values, size)` draws one portrait, `factors` names what its values mean, `motion` makes natural movement.
"""

from __future__ import annotations

import hashlib
from pathlib import Path

from stylereel.core import compiled  # noqa: F401 (before any kernel)


def _refresh_kernel_cache() -> None:
    """Drop compiled kernels of older sources: numba does not see that a function of another file has changed."""
    folder = Path(__file__).parent
    names = ("factors", "geometry", "hair", "materials", "face", "backdrop", "shading", "draw")
    sources = b"".join((folder / f"{name}.py").read_bytes() for name in names)
    stamp = folder / "__pycache__" / f"kernels-{hashlib.sha256(sources).hexdigest()[:16]}"
    if stamp.exists():
        return
    try:
        stamp.parent.mkdir(exist_ok=True)
        for old in [*stamp.parent.glob("*.nb[ci]"), *stamp.parent.glob("kernels-*")]:
            old.unlink(missing_ok=True)
        stamp.touch()
    except OSError:
        pass  # a folder we may not write: numba keeps its cache elsewhere


_refresh_kernel_cache()

from stylereel.world.draw import Portrait, align, draw, project_landmarks  # noqa: E402
from stylereel.world.factors import (  # noqa: E402
    HIGH,
    IDENTITY,
    LOW,
    MOTION,
    MOTION_COLUMNS,
    NAMES,
    from_latent,
    from_normal,
    neutral,
    person,
    to_normal,
)
from stylereel.world.motion import natural_motion  # noqa: E402

# Changes with what is drawn for a value vector; weights trained on another version are out of date.
VERSION = 4

__all__ = [
    "VERSION",
    "HIGH",
    "IDENTITY",
    "LOW",
    "MOTION",
    "MOTION_COLUMNS",
    "NAMES",
    "Portrait",
    "align",
    "draw",
    "from_latent",
    "from_normal",
    "natural_motion",
    "neutral",
    "person",
    "project_landmarks",
    "to_normal",
]
