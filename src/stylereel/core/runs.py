"""Runs and their files: no file of the user's is overwritten, and a killed run resumes."""

from __future__ import annotations

import hashlib
import json
import shutil
from collections.abc import Callable, Iterable, Mapping
from contextlib import ExitStack
from importlib.metadata import version
from pathlib import Path
from types import TracebackType
from typing import Any, Protocol, Self, TypeVar

from filelock import FileLock, Timeout

from stylereel.core.files import MediaError, ensure_writable, new_folder, replacing
from stylereel.core.record import plain, sha256
from stylereel.core.version import __version__

VERSIONS = {name: version(name) for name in ("torch", "av")} | {"stylereel": __version__}

Kept = TypeVar("Kept", bound="Saved")


class Saved(Protocol):
    """What has a file of its own: a motion, an identity."""

    def save(self, path: str | Path) -> None: ...

    @classmethod
    def load(cls, path: str | Path) -> Self: ...


def claim(
    outputs: Iterable[str | Path],
    inputs: Iterable[str | Path | None] = (),
    overwrite: bool = False,
    is_ours: Callable[[Path], bool] = lambda path: False,
) -> None:
    """Refuse a run that would write over one of its inputs, or over a file that it did not make.

    Call it with all files that a run reads and writes, before any work. What an earlier run made may be replaced:
    files that a record among the outputs lists with the SHA-256 that they still have, the record itself, and the
    outputs of a run that was killed.

    Args:
        outputs: all files to write, records (.json) too.
        inputs: all files and folders to read; None is nothing.
        overwrite: replace any file but the inputs.
        is_ours: further files that an earlier run made, as they show by themselves.

    Raises:
        MediaError: one sentence that names the file.
    """
    files = [Path(path) for path in outputs]
    for path in files:
        ensure_writable(path)
        if files.count(path) > 1:
            raise MediaError(f"{path} would be written twice; choose another name.")
    read = {each: path for path in inputs if path is not None for each in _file_numbers(Path(path))}
    for path in files:
        if path.exists() and (found := read.get(_number(path))) is not None:
            raise MediaError(f"{path} would be written over the input {found}; choose another name.")
    if not overwrite:
        made = _earlier_outputs(files)
        for path in files:
            if path.exists() and path not in made and not is_ours(path):
                raise MediaError(
                    f"{path} exists, and no record says that an earlier run of this command made it; choose another "
                    "name or give --overwrite."
                )


def _number(path: Path) -> tuple[int, int]:
    found = path.stat()
    return found.st_dev, found.st_ino


def _file_numbers(path: Path) -> list[tuple[int, int]]:
    """Device and number of a file, or of the files in a folder; they identify a file whatever its name."""
    if not path.exists():
        return []
    return [_number(each) for each in (path.iterdir() if path.is_dir() else [path]) if each.exists()]


def _earlier_outputs(files: list[Path]) -> set[Path]:
    """Those of the files that an earlier run wrote and nobody has changed since."""
    made, names = set(), {path.name for path in files}
    for path in files:
        if _unfinished(path).exists():  # a run that had passed this check was killed
            made |= {each for each in files if each.stem == path.stem}
        if path.suffix != ".json" or not path.exists():
            continue
        try:
            written = dict(json.loads(path.read_bytes())["written"])
        except (OSError, ValueError, KeyError, TypeError):
            continue
        if written.keys() <= names:  # else it is the record of another command, which wrote other files
            made |= {path, *(each for each in files if each.exists() and written.get(each.name) == sha256(each))}
    return made


def _unfinished(target: Path) -> Path:
    return target.with_name(f"{target.name}.unfinished")


class Unfinished:
    """What a run has done so far, in the folder NAME.unfinished next to its output NAME, until the output is whole.

    A run that was killed or stopped leaves the folder, and the next run with the same facts goes on with what is in
    it; a run with other facts starts over. After success or an error the folder is removed.

    Args:
        target: the output.
        facts: everything that decides what the run makes: settings, seeds, hashes of the inputs; plain values.

    Raises:
        MediaError: another run that still lives is writing the same output, or the folder cannot be written.
    """

    def __init__(self, target: Path, facts: Mapping[str, Any]) -> None:
        self.target, self.folder = target, _unfinished(target)
        self._facts = json.dumps({"versions": VERSIONS, **facts}, sort_keys=True, default=plain)
        self.key = hashlib.sha256(self._facts.encode()).hexdigest()  # the same for the same facts
        self.worth = False  # whether what is in the folder is worth to be left when the user stops the run

    def __enter__(self) -> Self:
        with ExitStack() as stack:
            stack.enter_context(new_folder(self.folder))
            lock = FileLock(self.folder / "lock")
            try:
                stack.enter_context(lock.acquire(timeout=0))
            except Timeout as error:
                raise MediaError(
                    f"Another run is writing {self.target}; wait for it or choose another name."
                ) from error
            facts = self.folder / "facts.json"
            if not facts.exists() or facts.read_text(encoding="utf-8") != self._facts:
                for old in self.folder.iterdir():
                    if old.name != "lock":
                        old.unlink()
                with replacing(facts) as partial:
                    partial.write_text(self._facts, encoding="utf-8")
            self._exit = stack.pop_all()
        return self

    def keep(self, name: str, kind: type[Kept], make: Callable[[], Kept]) -> Kept:
        """What `make` gives, or gave to an earlier run: read from the file `name` of the folder if it is there."""
        path = self.folder / f"{name}.safetensors"
        if path.exists():
            return kind.load(path)
        made = make()
        made.save(path)
        return made

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        stopped = kind is not None and not issubclass(kind, Exception)
        if stopped and self.worth:
            self._exit.close()
            raise KeyboardInterrupt(f"the same command goes on with what is in {self.folder}") from error
        shutil.rmtree(self.folder, ignore_errors=True)
        self._exit.__exit__(kind, error, trace)
