"""Arrays from .npy and .npz files: numbers and text, never objects, in memory that is bounded by the file's size."""

from __future__ import annotations

import io
import math
import zipfile
import zlib
from pathlib import Path
from tokenize import TokenError
from typing import IO, NamedTuple

import numpy as np

from stylereel.core.files import require_file

UNFOLDED = 2**29  # bytes that compressed arrays may have together, and
UNFOLDED_PER_BYTE = 4  # for each byte of the file
MOST_MEMBERS = 10_000

# What reading a header of NumPy's or a zip archive can raise.
DAMAGE = (
    ValueError,
    TypeError,
    LookupError,
    ArithmeticError,
    EOFError,
    OSError,
    SyntaxError,
    MemoryError,
    RuntimeError,  # RecursionError, NotImplementedError and encrypted archives
    TokenError,
    zipfile.BadZipFile,
    zlib.error,
)


class Header(NamedTuple):
    """What is said before the numbers of a .npy file: shape, whether the first axis is the fastest, and type."""

    shape: tuple[int, ...]
    fortran: bool
    dtype: np.dtype


def read_arrays(path: str | Path) -> dict[str, np.ndarray]:
    """The arrays of a .npz file by name, or that of a .npy file, whose name is "", in memory of their own.

    Raises ValueError, which says why, if the file is neither, is damaged, holds objects, or unfolds to far more than
    its own size.
    """
    path = require_file(path)
    try:
        with path.open("rb") as file:
            if file.read(2) != b"PK":
                file.seek(0)
                return {"": _read(file, path.stat().st_size)}
            with zipfile.ZipFile(file) as archive:
                return _members(archive, UNFOLDED + UNFOLDED_PER_BYTE * path.stat().st_size)
    except _Unfit as error:
        raise ValueError(f"{path} {error}.") from None
    except DAMAGE as error:
        raise ValueError(f"{path} is damaged, or no .npy or .npz file; get a complete copy.") from error


def open_array(path: str | Path) -> np.ndarray:
    """The array of a .npy file, mapped from the disk, for reading. Raises ValueError as read_arrays."""
    path = require_file(path)
    return map_array(path, 0, path.stat().st_size)


def map_array(path: Path, offset: int, size: int) -> np.ndarray:
    """The array of the .npy file that is the `size` bytes from `offset` on in a file (a tar), as `open_array`."""
    try:
        with path.open("rb") as file:
            file.seek(offset)
            header = read_npy_header(file)
            shape, fortran, dtype = _checked(header, offset + size - file.tell())
            start = file.tell()
        return np.memmap(path, dtype, "r", start, shape, "F" if fortran else "C")
    except _Unfit as error:
        raise ValueError(f"{path} {error}.") from None
    except DAMAGE as error:
        raise ValueError(f"{path} is damaged, or no .npy file; get a complete copy.") from error


def read_npy_header(file: IO[bytes]) -> Header:
    """The header of a .npy file, which is read as far as its numbers. Raises one of DAMAGE if there is none."""
    version = np.lib.format.read_magic(file)
    if version == (1, 0):
        shape, fortran, dtype = np.lib.format.read_array_header_1_0(file)
    else:
        shape, fortran, dtype = np.lib.format.read_array_header_2_0(file)
    if any(type(length) is not int or length < 0 for length in shape):
        raise ValueError(f"{shape} is no shape")
    return Header(shape, fortran, dtype)


class _Unfit(Exception):
    """Why a file that can be read is not: the rest of a sentence that begins with its name."""


def _checked(header: Header, size: int) -> Header:
    """The header, once it is known that its numbers are in the `size` bytes that follow."""
    if header.dtype.hasobject or header.dtype.kind not in "biufcSU":
        raise _Unfit("holds Python objects instead of numbers; save it as an array of numbers")
    if not header.dtype.itemsize or math.prod(header.shape) * header.dtype.itemsize > size:
        raise _Unfit("is cut off, or announces more numbers than it has; get a complete copy")
    return header


def _read(file: IO[bytes], size: int) -> np.ndarray:
    shape, fortran, dtype = _checked(read_npy_header(file), size)
    count = math.prod(shape)
    data = bytearray(file.read(count * dtype.itemsize))
    return np.frombuffer(data, dtype, count).reshape(shape, order="F" if fortran else "C")


def _members(archive: zipfile.ZipFile, most: int) -> dict[str, np.ndarray]:
    infos = archive.infolist()
    if len(infos) > MOST_MEMBERS or sum(info.file_size for info in infos) > most:
        raise _Unfit("unfolds to far more than its own size; save it with numpy.savez, uncompressed")
    found = {}
    for info in infos:
        if info.compress_type not in (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED):
            raise _Unfit("is compressed in a way that NumPy does not write")
        with archive.open(info) as member:
            found[info.filename.removesuffix(".npy")] = _read(io.BufferedReader(member), info.file_size)  # type: ignore[arg-type]
    return found
