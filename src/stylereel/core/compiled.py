"""Where compiled kernels are kept. Imported before any function is decorated with `numba.njit(cache=True)`."""

import hashlib
import os
import tempfile
from pathlib import Path

from numba.core import config

PACKAGE = Path(__file__).parents[1]
VARIABLE = "NUMBA_CACHE_DIR"


def choose_cache() -> None:
    """Give Numba a folder to keep kernels in where it cannot keep them in the package's own.

    That is so where the package belongs to somebody else, as in a container. The folder lies in the user's place for
    caches, or without one in the system's for temporary files, and is one for each state of the package's sources:
    Numba does not see that a function of another file has changed. NUMBA_CACHE_DIR, where it is set, stays.
    """
    if os.environ.get(VARIABLE) or _usable(PACKAGE / "world" / "__pycache__"):
        return
    sources = sorted(PACKAGE.rglob("*.py"))
    name = f"kernels-{hashlib.sha256(b''.join(path.read_bytes() for path in sources)).hexdigest()[:16]}"
    own = (place / name for place in _places() if _usable(place / name) and _mine(place) and _mine(place / name))
    folder = next(own, None) or tempfile.mkdtemp(prefix="stylereel-")  # at worst one of this run alone
    os.environ[VARIABLE] = str(folder)
    setattr(config, "CACHE_DIR", str(folder))  # noqa: B010 (no attribute that types know; numba has read the variable)


def _places() -> list[Path]:
    import pooch

    user = os.getuid() if hasattr(os, "getuid") else 0
    return [Path(pooch.os_cache("stylereel")), Path(tempfile.gettempdir()) / f"stylereel-{user}"]


def _usable(folder: Path) -> bool:
    """Whether a file can be made in the folder, which is made if needed; permission bits tell nothing to root."""
    try:
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        tempfile.TemporaryFile(dir=folder).close()
    except OSError:
        return False
    return True


def _mine(folder: Path) -> bool:
    """Whether nobody else can put kernels there, which would be run."""
    if os.name != "posix":
        return True
    found = folder.lstat()
    return found.st_uid == os.getuid() and not found.st_mode & 0o022


choose_cache()
