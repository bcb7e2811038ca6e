"""Results of steps as files: each is named by the key of what it follows from, and appears only when it is whole.

A file with the right name is the right result, whoever made it and when. So a process that was killed has lost the step
that it was in and no other, and two that make the same result by accident write the same file.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from safetensors import SafetensorError, safe_open
from safetensors.numpy import save_file

from stylereel.core.files import MediaError, replacing


class Result(NamedTuple):
    """What a step found out about a video or clip.

    facts: plain values; arrays: the rest; rejected: why the clip is of no use, a sentence, or "".
    """

    facts: Mapping[str, Any] = {}
    arrays: Mapping[str, np.ndarray] = {}
    rejected: str = ""


class Head(NamedTuple):
    """A result without its arrays, and the seconds that it took."""

    facts: Mapping[str, Any]
    rejected: str
    seconds: float
    bytes: int


def key_of(*parts: Any) -> str:
    """The key of a result: SHA-256 of plain values, 64 hexadecimal digits."""
    return hashlib.sha256(json.dumps(parts, sort_keys=True).encode()).hexdigest()


class Store:
    """The results below a folder."""

    def __init__(self, folder: str | Path) -> None:
        self.folder = Path(folder)

    def path(self, key: str) -> Path:
        return self.folder / key[:2] / f"{key}.safetensors"

    def head(self, key: str) -> Head | None:
        """The result of a key without its arrays, or None if it is not there or not whole."""
        path = self.path(key)
        try:
            with safe_open(path, "np") as file:
                about = file.metadata() or {}
            return Head(json.loads(about["facts"]), about["rejected"], float(about["seconds"]), path.stat().st_size)
        except (OSError, SafetensorError, KeyError, ValueError):
            return None

    def arrays(self, key: str) -> dict[str, np.ndarray]:
        """The arrays of a result that is there. Raises MediaError if the file is damaged or gone."""
        try:
            with safe_open(self.path(key), "np") as file:
                return {name: file.get_tensor(name) for name in file.keys()}
        except (OSError, SafetensorError, ValueError) as error:
            raise MediaError(
                f"{self.path(key)} is gone or damaged; remove it and the ledger next to its folder, and prepare again."
            ) from error

    def save(self, key: str, result: Result, seconds: float) -> Head:
        """Write a result; once this returns it is there for good."""
        arrays = {name: np.ascontiguousarray(array) for name, array in result.arrays.items()}
        about = {
            "facts": json.dumps(dict(result.facts), sort_keys=True),
            "rejected": result.rejected,
            "seconds": f"{seconds:.6f}",
        }
        path = self.path(key)
        with replacing(path) as partial:
            save_file(arrays, partial, about)
        return Head(json.loads(about["facts"]), result.rejected, seconds, path.stat().st_size)
