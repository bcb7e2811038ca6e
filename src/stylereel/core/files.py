"""Files: the error for unusable ones, and safe writing."""

import errno
import hashlib
import os
import platform
import re
import secrets
import shutil
import stat
from collections.abc import Collection, Iterator
from contextlib import contextmanager
from pathlib import Path


class MediaError(ValueError):
    """A file cannot be read or written; the message is one sentence that says which and what to do."""


def require_file(path: str | Path) -> Path:
    """`path`, if it is a file with something in it; a pipe or device could keep its reader waiting for ever.

    Raises:
        MediaError: there is no such file, it is a folder, a pipe or a device, or it is empty.
    """
    path = Path(path)
    try:
        found = path.stat()
    except (FileNotFoundError, NotADirectoryError) as error:
        raise MediaError(f"There is no file {path}; check its name and folder.") from error
    except (OSError, ValueError) as error:  # a name too long, a folder closed to us, a zero byte
        reason = getattr(error, "strerror", None) or error
        raise MediaError(f"{path} cannot be read ({reason}); check its name and folder.") from error
    if stat.S_ISDIR(found.st_mode):
        raise MediaError(f"{path} is a folder; give a file inside it.")
    if not stat.S_ISREG(found.st_mode):
        raise MediaError(f"{path} is a pipe or device; save what it gives to a file first.")
    if found.st_size == 0:
        raise MediaError(f"{path} is empty; give a file that was written completely.")
    return path


_HOST = hashlib.sha256(platform.node().encode()).hexdigest()[:8]
_OPEN: set[Path] = set()  # temporary names that this process is writing
_CLEARED: set[Path] = set()  # folders in which it has looked for what killed processes left


def listed(folder: str | Path, endings: Collection[str] | None = None) -> list[Path]:
    """What a folder holds, hidden files left out, in natural order: frame2.png comes before frame10.png.

    Args:
        folder: the folder.
        endings: lower-case endings, such as ".png", of the names that are meant; without them all.

    Raises:
        MediaError: the folder cannot be read.
    """
    try:
        inside = [part for part in Path(folder).iterdir() if not part.name.startswith(".")]
    except OSError as error:
        raise MediaError(f"{folder} cannot be listed ({error.strerror}); give a folder that can be read.") from error
    return sorted((p for p in inside if endings is None or p.suffix.lower() in endings), key=_natural)


def _natural(path: Path) -> list[tuple[int, str]]:
    """A key that sorts digits by their number; the split makes every second part one."""
    parts = re.split(r"([0-9]+)", path.name.lower())
    return [(int(part), "") if index % 2 else (0, part) for index, part in enumerate(parts)]


def _partial(path: Path) -> Path:
    """A temporary name that says which process of which machine it belongs to, for `_remove_stale`."""
    return path.parent / f".{_HOST}-{os.getpid()}-{secrets.token_hex(8)}.part"


def _remove_stale(folder: Path) -> None:
    """Remove what processes of this machine left in a folder when they were killed."""
    if os.name != "posix" or folder in _CLEARED:  # elsewhere no harmless call says whether a process lives
        return
    _CLEARED.add(folder)
    for left in folder.glob(f".{_HOST}-*.part"):
        number = left.name.split("-")[1]
        if left in _OPEN or not number.isdecimal() or (int(number) != os.getpid() and is_running(int(number))):
            continue
        shutil.rmtree(left, ignore_errors=True) if left.is_dir() else left.unlink(missing_ok=True)


def is_running(process: int) -> bool:
    """Whether a process of that number lives on this machine."""
    try:
        os.kill(process, 0)
    except ProcessLookupError:
        return False
    except (OSError, OverflowError):  # somebody else's process
        return True
    return True


def ensure_writable(path: str | Path, *endings: str) -> Path:
    """`path`, once a file can be created in its folder, or where that folder will be made. Nothing is left there.

    The folder is tried by creating a file in it, because permission bits mean nothing to the root user or
    on read-only disks. Call it before any long work.

    Raises:
        MediaError: the name has none of the endings (if some are given), `path` is a folder, or nothing can
            be written in its folder.
    """
    path = Path(path)
    if path.is_dir():
        raise MediaError(f"{path} is a folder; give the name of the file to write in it.")
    if endings and path.suffix.lower() not in endings:
        raise MediaError(f"The name {path} must end in {' or '.join(endings)}.")
    try:
        folder = path.parent
        while not folder.exists():
            folder = folder.parent
        _remove_stale(folder)
        _try(folder / path.name)
    except OSError as error:
        raise _unwritable(path, error) from error
    return path


def _try(path: Path) -> int:
    """Create and remove a file next to `path`; the permissions that it had, which are those of the user's umask."""
    trial = _partial(path)
    try:
        trial.open("xb").close()
        return trial.stat().st_mode & 0o777
    finally:
        trial.unlink(missing_ok=True)


def _unwritable(path: Path, error: OSError) -> MediaError:
    return MediaError(f"{path} cannot be written ({error.strerror or error}); choose another folder.")


_NO_ROOM = [getattr(errno, name) for name in ("ENOSPC", "EDQUOT", "EFBIG") if hasattr(errno, name)]


def no_room(error: BaseException) -> int | None:
    """The error number where writing failed for want of room: a full disk, a quota, a limit of a file's size.

    Libraries that write files by themselves (safetensors, FFmpeg) say it in their own exceptions' text alone.
    """
    number = getattr(error, "errno", None)
    if number in _NO_ROOM:
        return number
    return next((number for number in _NO_ROOM if os.strerror(number) in str(error)), None)


def _explained(path: Path, error: BaseException) -> BaseException:
    """An error of writing: a sentence where there was no room, else the error itself."""
    number = no_room(error)
    if number is None or isinstance(error, MediaError):
        return error
    return MediaError(f"{path} cannot be written ({os.strerror(number)}); make room, or choose another folder.")


@contextmanager
def new_folder(folder: Path) -> Iterator[None]:
    """Make a folder and those above it that lack; after an error those made are removed, unless something is in them.

    Raises:
        MediaError: it cannot be made.
    """
    lacking = [each for each in (folder, *folder.parents) if not each.exists()]
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise _unwritable(folder, error) from error
    try:
        yield
    except BaseException:
        for each in lacking:
            try:
                each.rmdir()
            except FileNotFoundError:
                continue
            except OSError:
                break
        raise


@contextmanager
def replacing(path: str | Path) -> Iterator[Path]:
    """Give a temporary name next to `path`; rename it to `path` at the end, remove it after an error.

    Folders that lack are made. The file gets the permissions of the user's umask, however it was written.

    Raises:
        MediaError: as `ensure_writable`; also for a full disk, whatever the writing library makes of it.
    """
    path = ensure_writable(path)
    partial = _partial(path)
    with new_folder(path.parent):
        _OPEN.add(partial)
        try:
            mode = _try(path)
            yield partial
            partial.chmod(mode)
            os.replace(partial, path)
        except BaseException as error:
            partial.unlink(missing_ok=True)
            if (told := _explained(path, error)) is not error:
                raise told from error
            raise
        finally:
            _OPEN.discard(partial)


@contextmanager
def replacing_folder(path: str | Path) -> Iterator[Path]:
    """Give a temporary folder next to `path`; rename it to `path` at the end, remove it after an error.

    Raises:
        MediaError: `path` is a file or a folder with something in it, or nothing can be written next to it, or the
            disk is full.
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
    with new_folder(path.parent):
        _remove_stale(path.parent)
        _OPEN.add(partial)
        try:
            partial.mkdir()
            yield partial
            if path.is_dir():
                path.rmdir()
            os.replace(partial, path)
        except BaseException as error:
            shutil.rmtree(partial, ignore_errors=True)
            if (told := _explained(path, error)) is not error:
                raise told from error
            raise
        finally:
            _OPEN.discard(partial)
