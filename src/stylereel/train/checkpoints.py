"""Checkpoints of the training loop: complete, atomic, rotated, and read without running anything in them.

A checkpoint is `checkpoint-STEP.pt`, a torch file that `torch.load(weights_only=True)` takes. It is written under a
temporary name, brought to the disk and renamed, so a killed process or a full disk leaves the ones before it whole.
"""

from __future__ import annotations

import os
import random
import subprocess
import sys
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch

from stylereel.core.files import replacing

KEEP = 2  # newest checkpoints that stay


def write(folder: Path, state: dict[str, Any]) -> None:
    """Write `state` as the checkpoint of `state["step"]` steps, then remove all but the newest KEEP.

    Raises:
        ValueError: it cannot be written, as on a full disk; the checkpoints before it stay.
    """
    path = folder / f"checkpoint-{state['step']:08d}.pt"
    try:
        with replacing(path) as partial:
            with partial.open("xb") as file:
                torch.save(state, file)
                file.flush()
                os.fsync(file.fileno())
        _sync_folder(folder)
    except (OSError, RuntimeError) as error:
        # torch reports a failed write as a RuntimeError of its own; the disk's word is the cause.
        cause = error.__context__ if isinstance(error.__context__, OSError) else error
        reason = getattr(cause, "strerror", None) or str(cause).splitlines()[0]
        raise ValueError(
            f"{path} cannot be written ({reason}); make room on the disk and start again: training goes on from the "
            "checkpoint before it."
        ) from error
    for old in _list_checkpoints(folder)[KEEP:]:
        old.unlink()


def read_newest(folder: Path, check: Callable[[Any], None] = lambda state: None) -> dict[str, Any] | None:
    """The newest good checkpoint, on the CPU, or None if there is none; others are named and left out.

    A good one has the checksums that were written with it and passes `check`, which raises an error if not.

    Raises:
        ValueError: there are checkpoints and none is good.
    """
    for partial in folder.glob(".*.part"):  # left by a process that was killed while it wrote
        partial.unlink()
    stored = _list_checkpoints(folder)
    for path in stored:
        try:
            with zipfile.ZipFile(path) as archive:  # torch writes a checksum of each part and does not look at it
                if (part := archive.testzip()) is not None:
                    raise ValueError(f"{part} is not what was written")
            state = torch.load(path, map_location="cpu", weights_only=True)
            check(state)
            return state
        except Exception as error:  # a damaged file fails in any way
            reason = " ".join(str(error).split())[:120] or type(error).__name__
            print(
                f"{path} is broken ({reason}) and left out; training goes on from the one before it.",
                file=sys.stderr,
            )
    if stored:
        raise ValueError(f"No checkpoint in {folder} can be read; move them away to begin again.")
    return None


def _list_checkpoints(folder: Path) -> list[Path]:
    """Checkpoints of a folder, the newest first."""
    return sorted(folder.glob("checkpoint-*.pt"), reverse=True)


def _sync_folder(folder: Path) -> None:
    """Bring the renaming itself to the disk, where the system can."""
    if os.name == "posix":
        handle = os.open(folder, os.O_RDONLY)
        try:
            os.fsync(handle)
        finally:
            os.close(handle)


def random_state() -> dict[str, Any]:
    """The state of this process's random numbers: Python, NumPy, torch on the CPU and on all CUDA devices."""
    _, keys, position, has_normal, normal = np.random.get_state()
    return {
        "python": random.getstate(),
        "numpy": (torch.from_numpy(np.asarray(keys, np.int64)), position, has_normal, normal),
        "torch": torch.get_rng_state(),
        "cuda": torch.cuda.get_rng_state_all() if torch.cuda.is_available() else [],
    }


def restore_random_state(state: dict[str, Any]) -> None:
    """Put this process's random numbers where `random_state` found them."""
    random.setstate(state["python"])
    keys, *rest = state["numpy"]
    np.random.set_state(("MT19937", keys.numpy().astype(np.uint32), *rest))
    torch.set_rng_state(state["torch"])
    if len(state["cuda"]) == torch.cuda.device_count():
        torch.cuda.set_rng_state_all(state["cuda"])


def git_state() -> dict[str, Any] | None:
    """Commit of the repository that this package is in and whether it has changes; None outside a repository."""
    package = Path(__file__).parents[1]

    def git(*arguments: str) -> str:
        command = ["git", "-C", str(package), *arguments]
        return subprocess.run(command, capture_output=True, text=True, check=True).stdout.strip()

    try:
        git("ls-files", "--error-unmatch", "__init__.py")  # an installed package may be in somebody else's repository
        return {"commit": git("rev-parse", "HEAD"), "dirty": bool(git("status", "--porcelain"))}
    except (OSError, subprocess.CalledProcessError):
        return None
