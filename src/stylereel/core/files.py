"""Pictures and video in and out: the border between files and uint8 RGB arrays [H, W, 3].

Here stands what the room's modules share: the error for unusable files, and safe writing.
"""

import os
import secrets
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path


class MediaError(ValueError):
    """A file cannot be read or written; the message is one sentence that says which and what to do."""


def require_file(path: str | Path) -> Path:
    """`path`, if it is a file with something in it.

    Raises:
        MediaError: there is no such file, it is a folder, or it is empty.
    """
    path = Path(path)
    if path.is_dir():
        raise MediaError(f"{path} is a folder; give a file inside it.")
    if not path.exists():
        raise MediaError(f"There is no file {path}; check its name and folder.")
    if path.stat().st_size == 0:
        raise MediaError(f"{path} is empty; give a file that was written completely.")
    return path


def _partial(path: Path) -> Path:
    return path.parent / f".{secrets.token_hex(8)}.part"


def ensure_writable(path: str | Path, *endings: str) -> Path:
    """`path`, once a file can be created in its folder, which is made if needed.

    The folder is tried by creating a file in it, because permission bits tell nothing to the root user and
    nothing on read-only disks. Call it before any long work.

    Raises:
        MediaError: the name has none of the endings (if some are given), `path` is a folder, or nothing can
            be written in its folder.
    """
    path = Path(path)
    if path.is_dir():
        raise MediaError(f"{path} is a folder; give the name of the file to write in it.")
    if endings and path.suffix.lower() not in endings:
        raise MediaError(f"The name {path} must end in {' or '.join(endings)}.")
    trial = _partial(path)
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        trial.open("xb").close()
        trial.unlink()
    except OSError as error:
        reason = error.strerror or error
        raise MediaError(f"{path} cannot be written ({reason}); choose another folder.") from error
    return path


@contextmanager
def replacing(path: str | Path) -> Iterator[Path]:
    """Give a temporary name beside `path`; rename it to `path` at the end, remove it after an error.

    Raises:
        MediaError: as `ensure_writable`.
    """
    path = ensure_writable(path)
    partial = _partial(path)
    try:
        yield partial
        os.replace(partial, path)
    except BaseException:
        partial.unlink(missing_ok=True)
        raise


@contextmanager
def replacing_folder(path: str | Path) -> Iterator[Path]:
    """Give a temporary folder beside `path`; rename it to `path` at the end, remove it after an error.

    Raises:
        MediaError: `path` is a file or a folder with something in it, or nothing can be written beside it.
    """
    path = Path(path)
    if path.is_dir():
        if any(path.iterdir()):
            raise MediaError(f"The folder {path} holds files already; give the name of a new folder.")
    elif path.exists():
        raise MediaError(f"{path} is a file; give the name of a new folder.")
    else:
        ensure_writable(path)
    partial = _partial(path)
    try:
        partial.mkdir()
        yield partial
        if path.is_dir():
            path.rmdir()
        os.replace(partial, path)
    except BaseException:
        shutil.rmtree(partial, ignore_errors=True)
        raise
