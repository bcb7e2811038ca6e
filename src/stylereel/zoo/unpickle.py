"""Reading pickles and torch files as data: an interpreter of pickle opcodes that runs nothing it finds.

A pickle is a program for a stack machine whose usual interpreter imports and calls whatever the file names. This
one has no such power: numbers, strings, containers, NumPy arrays and torch tensors are built here, everything else
becomes a `Stub`, a record of what the file refers to. Work and memory are bounded by the size of the file.

Formats: pickle protocols 0 to 5, and torch.save files, both as zip archive and in the form before torch 1.6.
"""

from __future__ import annotations

import io
import math
import mmap
import pickletools
import re
import struct
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, cast

import numpy as np
import torch
from torch import Tensor

from stylereel.core.arrays import DAMAGE, read_arrays, read_npy_header
from stylereel.core.files import require_file
from stylereel.zoo.archive import Refusal, members, short

MAX_OPCODES = 1_000_000  # the largest official files have about 100 thousand
MAX_BYTES_PER_FILE_BYTE = 4  # of everything that is copied out of the file; tensors may share a storage
MAX_INTEGER_BYTES = 64  # torch's magic number has ten
MAX_DIMENSIONS = 16
TORCH_MAGIC = 0x1950A86A20F9469CFC6C

Stream = io.BytesIO | mmap.mmap

# What torch calls a type of numbers, and a storage of them.
_STORAGES = {
    "float64": "DoubleStorage",
    "float32": "FloatStorage",
    "float16": "HalfStorage",
    "bfloat16": "BFloat16Storage",
    "int64": "LongStorage",
    "int32": "IntStorage",
    "int16": "ShortStorage",
    "int8": "CharStorage",
    "uint8": "ByteStorage",
    "bool": "BoolStorage",
}
_DTYPES: dict[str, torch.dtype] = {name: getattr(torch, name) for name in _STORAGES}
_STORAGE_DTYPES = {storage: _DTYPES[name] for name, storage in _STORAGES.items()} | {"UntypedStorage": torch.uint8}


class WeightFileError(ValueError):
    """A weight file is damaged, unsafe or of an unknown form; the message is one sentence that names the file."""


@dataclass(eq=False, slots=True)
class Stub:
    """A class or function that a file names, or what it would make with it; nothing was imported or called.

    arguments is None for the bare name, else what it was to be called with. state is what the object was to be
    filled with; items and elements are what was to be added to it as a dict or list.
    """

    module: str
    name: str
    arguments: tuple[Any, ...] | None = None
    keywords: dict[str, Any] = field(default_factory=dict)
    state: Any = None
    items: dict[Any, Any] = field(default_factory=dict)
    elements: list[Any] = field(default_factory=list)

    def __repr__(self) -> str:
        # Values are left out: they may be nested without bound.
        return f"<{'' if self.arguments is None else 'object of '}{self.module}.{self.name}>"


@dataclass(frozen=True, eq=False, slots=True)
class Storage:
    """The numbers behind one or more tensors, as stored in the file."""

    dtype: torch.dtype
    data: memoryview


def unpickle(path: str | Path) -> Any:
    """The value in a pickle or torch file, with a Stub for every object that is no plain data.

    Raises:
        WeightFileError: the file is damaged, is neither of the two, or asks for more than it contains.
    """
    path = require_file(path)
    with path.open("rb") as file:
        mapped = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)
    try:
        return _read(memoryview(mapped), mapped, _Budget(len(mapped)), nested=False)
    except Refusal as refusal:
        raise WeightFileError(f"{path} {refusal}.") from None
    except (ValueError, TypeError, LookupError, ArithmeticError, EOFError, struct.error) as error:
        raise WeightFileError(f"{path} is damaged, or neither a pickle nor a torch file.") from error


def unpickle_npy(path: str | Path) -> Any:
    """The array in a .npy file, whose objects, if it holds any, are read as `unpickle` reads them.

    Raises:
        WeightFileError: the file is damaged, or no .npy file.
    """
    path = require_file(path)
    data = path.read_bytes()
    stream = io.BytesIO(data)
    try:
        if not read_npy_header(stream).dtype.hasobject:
            return read_arrays(path)[""]
        rest = data[stream.tell() :]
        return _read(memoryview(rest), io.BytesIO(rest), _Budget(len(data), objects=True), nested=False)
    except Refusal as refusal:
        raise WeightFileError(f"{path} {refusal}.") from None
    except DAMAGE as error:
        raise WeightFileError(f"{path} is damaged, or no .npy file.") from error


class _Budget:
    """What one file may still cost."""

    def __init__(self, size: int, objects: bool = False) -> None:
        self.objects = objects  # whether arrays may hold objects
        self.opcodes = MAX_OPCODES
        self.bytes = MAX_BYTES_PER_FILE_BYTE * size

    def work(self, count: int) -> None:
        self.opcodes -= count
        if self.opcodes < 0:
            raise Refusal("has more pickle instructions than any weights need")

    def spend(self, count: int) -> None:
        self.bytes -= count
        if self.bytes < 0:
            raise Refusal("asks for more numbers than it contains")


def _read(data: memoryview, stream: Stream, budget: _Budget, nested: bool) -> Any:
    """The value in a file, or in the bytes of a storage inside a file."""
    if data[:4] == b"PK\x03\x04" and not nested:
        return _read_zip(data, budget)
    value = _Machine(stream, budget, nested).run()
    if type(value) is int and value == TORCH_MAGIC:
        return _read_legacy(data, stream, budget, nested)
    if stream.tell() != len(data):
        raise Refusal("goes on after the end of its pickle, which no known tool writes")
    return value


# --- torch files


def _read_zip(data: memoryview, budget: _Budget) -> Any:
    places = members(data)
    roots = [name.removesuffix("data.pkl") for name in places if re.fullmatch(r"([^/]+/)?data\.pkl", name)]
    if len(roots) != 1:
        raise Refusal("is a zip archive, but not one that torch.save wrote")
    root = roots[0]

    def member(name: str) -> memoryview:
        if root + name not in places:
            raise Refusal(f"lacks the part {short(name)}; get a complete copy")
        start, end = places[root + name]
        return data[start:end]

    if f"{root}byteorder" in places and member("byteorder") != b"little":
        raise Refusal("was written on a big-endian machine; save it on a little-endian one")
    storages: dict[str, Storage] = {}

    def load(pid: Any) -> Any:
        key, dtype, count = _storage_id(pid)
        if key not in storages:
            storages[key] = _storage(dtype, member(f"data/{key}"), count)
        return storages[key]

    stream = io.BytesIO(member("data.pkl"))
    return _Machine(stream, budget, False, load).run()


def _read_legacy(data: memoryview, stream: Stream, budget: _Budget, nested: bool) -> Any:
    """The form before torch 1.6: magic number, version, system, value, storage keys (pickles), then the storages."""
    if _Machine(stream, budget, nested).run() != 1001:
        raise Refusal("is a torch file of an unknown version")
    system = _Machine(stream, budget, nested).run()
    if not isinstance(system, dict) or system.get("little_endian") is not True:
        raise Refusal("was written on a big-endian machine; save it on a little-endian one")
    start = stream.tell()
    # The value needs the storages, which come after it: first find its end.
    kinds: dict[str, tuple[torch.dtype, int]] = {}

    def note(pid: Any) -> Any:
        if pid[0] == "storage":
            key, dtype, count = _storage_id(pid)
            kinds[key] = (dtype, count)
            return Storage(dtype, memoryview(b""))
        return pid[1]

    _Machine(stream, budget, nested, note, dry=True).run()
    end = stream.tell()
    keys = _Machine(stream, budget, nested).run()
    if type(keys) is not list or any(type(key) is not str for key in keys) or len(set(keys)) != len(keys):
        raise Refusal("has a broken list of storages; get a complete copy")
    place = stream.tell()
    storages: dict[str, Storage] = {}
    for key in keys:
        if key not in kinds:
            raise Refusal("holds a storage that nothing refers to")
        dtype, count = kinds[key]
        (written,) = struct.unpack_from("<q", data, place)
        if written != count:
            raise Refusal("has a storage whose size is not the one announced; get a complete copy")
        place += 8
        end_place = place + count * dtype.itemsize
        storages[key] = _storage(dtype, data[place:end_place], count)
        place = end_place

    def load(pid: Any) -> Any:
        if pid[0] == "module":  # a class with its source text, which stays text
            return pid[1]
        key, dtype, count = _storage_id(pid)
        if key not in storages:
            raise Refusal(f"lacks the storage {short(key)}; get a complete copy")
        storage = storages[key]
        if len(pid) > 5 and pid[5] is not None:
            _, offset, length = pid[5]
            _check_sizes(offset, length)
            part = storage.data[offset * dtype.itemsize : (offset + length) * dtype.itemsize]
            return _storage(dtype, part, length)
        return storage

    stream.seek(start)
    value = _Machine(stream, budget, nested, load).run()
    if stream.tell() != end:
        raise Refusal("reads differently a second time")
    return value


def _storage_id(pid: Any) -> tuple[str, torch.dtype, int]:
    """Key, type and length of ('storage', type, key, place, length, ...)."""
    if type(pid) is not tuple or not 5 <= len(pid) <= 6 or pid[0] != "storage":
        raise Refusal("refers to outside objects, which torch files do only for storages")
    _, kind, key, _, count = pid[:5]
    if not isinstance(kind, Stub) or kind.name not in _STORAGE_DTYPES or kind.module.split(".")[0] != "torch":
        raise Refusal(f"has numbers of an unknown type, {short(kind)}")
    if type(key) is not str or not re.fullmatch(r"\w{1,64}", key):
        raise Refusal("has a storage with an impossible name")
    _check_sizes(count)
    return key, _STORAGE_DTYPES[kind.name], count


def _storage(dtype: torch.dtype, data: memoryview, count: int) -> Storage:
    if len(data) != count * dtype.itemsize:
        raise Refusal("has a storage whose size is not the one announced; get a complete copy")
    return Storage(dtype, data)


# --- the stack machine

# Opcodes whose argument is the value.
_LITERALS = frozenset(
    "INT BININT BININT1 BININT2 LONG LONG1 LONG4 FLOAT BINFLOAT STRING BINSTRING SHORT_BINSTRING BINBYTES "
    "SHORT_BINBYTES BINBYTES8 BYTEARRAY8 UNICODE SHORT_BINUNICODE BINUNICODE BINUNICODE8".split()
)
_FRESH: dict[str, Callable[[], Any]] = {
    "NONE": lambda: None,
    "NEWTRUE": lambda: True,
    "NEWFALSE": lambda: False,
    "EMPTY_LIST": list,
    "EMPTY_TUPLE": tuple,
    "EMPTY_DICT": dict,
    "EMPTY_SET": set,
}


class _Machine:
    """One pickle's stack, marks and memo. Containers are built by reference, so copies of copies cost nothing."""

    def __init__(
        self,
        stream: Stream,
        budget: _Budget,
        nested: bool,
        persistent: Callable[[Any], Any] | None = None,
        dry: bool = False,
    ) -> None:
        """nested: this pickle is in the bytes of another one. dry: build no tensors, for their numbers come later."""
        self.stream = stream
        self.budget = budget
        self.nested = nested
        self.persistent = persistent
        self.dry = dry
        self.stack: list[Any] = []
        self.below: list[list[Any]] = []  # the stacks under each mark
        self.memo: dict[int, Any] = {}

    def run(self) -> Any:
        stack = self.stack
        argument: Any
        for opcode, argument, _ in pickletools.genops(cast(Any, self.stream)):
            self.budget.work(1)
            name = opcode.name
            if name in _LITERALS:
                if type(argument) is int and argument.bit_length() > 8 * MAX_INTEGER_BYTES:
                    raise Refusal("has an integer that no weights need")
                stack.append(argument)
            elif name in _FRESH:
                stack.append(_FRESH[name]())
            elif name in ("BINPUT", "LONG_BINPUT", "PUT"):
                self.memo[argument] = stack[-1]
            elif name == "MEMOIZE":
                self.memo[len(self.memo)] = stack[-1]
            elif name in ("BINGET", "LONG_BINGET", "GET"):
                stack.append(self.memo[argument])
            elif name == "MARK":
                self.below.append(stack)
                self.stack = stack = []
            elif name == "STOP":
                if len(stack) != 1 or self.below:
                    raise Refusal("has a pickle that ends in the middle of something")
                return stack[0]
            else:
                self.step(name, argument)
                stack = self.stack
        raise EOFError

    def pop_mark(self) -> list[Any]:
        items, self.stack = self.stack, self.below.pop()
        return items

    def step(self, name: str, argument: Any) -> None:
        match name:
            case "PROTO" | "FRAME":
                pass  # the stream is read through its end anyway, whatever they announce
            case "TUPLE1" | "TUPLE2" | "TUPLE3":
                self.collapse(int(name[-1]), tuple)
            case "TUPLE":
                self.push(tuple(self.pop_mark()))
            case "LIST":
                self.push(self.pop_mark())
            case "DICT":
                items, target = self.pop_mark(), {}
                self.set_items(target, items)
                self.push(target)
            case "FROZENSET":
                self.push(frozenset(map(_key, self.pop_mark())))
            case "APPEND":
                value = self.stack.pop()
                self.extend(self.stack[-1], [value])
            case "APPENDS":
                items = self.pop_mark()
                self.extend(self.stack[-1], items)
            case "ADDITEMS":
                items = self.pop_mark()
                if type(self.stack[-1]) is not set:
                    raise Refusal("adds members to something that is no set")
                self.stack[-1].update(map(_key, items))
            case "SETITEM":
                value, key = self.stack.pop(), self.stack.pop()
                self.set_items(self.stack[-1], [key, value])
            case "SETITEMS":
                items = self.pop_mark()
                self.set_items(self.stack[-1], items)
            case "POP":
                if self.stack:
                    self.stack.pop()
                else:
                    self.pop_mark()
            case "POP_MARK":
                self.pop_mark()
            case "DUP":
                self.push(self.stack[-1])
            case "GLOBAL":
                self.push(Stub(*argument.split(" ", 1)))
            case "STACK_GLOBAL":
                attribute, module = self.stack.pop(), self.stack.pop()
                if type(module) is not str or type(attribute) is not str:
                    raise Refusal("names a class by something that is no text")
                self.push(Stub(module, attribute))
            case "REDUCE" | "NEWOBJ":
                arguments, callee = self.stack.pop(), self.stack.pop()
                self.push(self.construct(callee, arguments))
            case "NEWOBJ_EX":
                keywords, arguments, callee = self.stack.pop(), self.stack.pop(), self.stack.pop()
                self.push(self.construct(callee, arguments, keywords))
            case "INST":
                arguments = tuple(self.pop_mark())
                self.push(self.construct(Stub(*argument.split(" ", 1)), arguments))
            case "OBJ":
                callee, *rest = self.pop_mark()
                self.push(self.construct(callee, tuple(rest)))
            case "BUILD":
                state = self.stack.pop()
                self.fill(self.stack[-1], state)
            case "PERSID" | "BINPERSID":
                pid = argument if name == "PERSID" else self.stack.pop()
                if self.persistent is None or type(pid) is not tuple or not pid:
                    raise Refusal("refers to objects outside of it, which weights in a plain pickle never do")
                self.push(self.persistent(pid))
            case _:  # EXT1, EXT2, EXT4 (a registry of callables), NEXT_BUFFER, READONLY_BUFFER (data elsewhere)
                raise Refusal(f"uses the pickle instruction {name}, which no weights need")

    def push(self, value: Any) -> None:
        self.stack.append(value)

    def collapse(self, count: int, kind: type) -> None:
        if len(self.stack) < count:
            raise IndexError
        self.stack[-count:] = [kind(self.stack[-count:])]

    def extend(self, target: Any, values: list[Any]) -> None:
        if type(target) is list:
            target.extend(values)
        elif isinstance(target, Stub) and target.arguments is not None:
            target.elements.extend(values)
        else:
            raise Refusal("appends to something that is no list")

    def set_items(self, target: Any, items: list[Any]) -> None:
        if isinstance(target, Stub) and target.arguments is not None:
            target = target.items
        if type(target) is not dict or len(items) % 2:
            raise Refusal("sets items of something that is no dict")
        target.update((_key(items[i]), items[i + 1]) for i in range(0, len(items), 2))

    def construct(self, callee: Any, arguments: Any, keywords: Any = None) -> Any:
        """What calling callee would give if it makes plain data, else a Stub."""
        if not isinstance(callee, Stub) or callee.arguments is not None:
            raise Refusal("calls something that is no named class or function")
        if type(arguments) is not tuple or type(keywords or {}) is not dict:
            raise Refusal(f"calls {short(callee)} with something that is no list of arguments")
        build = _DATA.get((callee.module, callee.name))
        if build is not None and not keywords:
            return build(self, *arguments)
        return Stub(callee.module, callee.name, arguments, keywords or {})

    def fill(self, target: Any, state: Any) -> None:
        if isinstance(target, Stub) and target.arguments is not None:
            target.state = state
        elif isinstance(target, np.ndarray):
            self.fill_array(target, state)
        elif type(target) is not dict:  # a dict's state is its attributes, such as torch's _metadata
            raise Refusal("sets the state of something that has none")

    # What makes plain data. Signatures are those of the functions that the file names.

    def ordered_dict(self, pairs: Any = ()) -> dict[Any, Any]:
        result: dict[Any, Any] = {}
        self.budget.work(len(pairs))
        self.set_items(result, [part for pair in pairs for part in _pair(pair)])
        return result

    def default_dict(self, factory: Any = None) -> dict[Any, Any]:
        return {}

    def set_of(self, members: Any) -> Any:
        if type(members) is not list:
            raise Refusal("has a set without members")
        self.budget.work(len(members))
        return {_key(member) for member in members}

    def encode(self, text: Any, encoding: Any = "latin1") -> bytes:
        """How Python 3 writes bytes in the old protocols."""
        if type(text) is not str or encoding not in ("latin1", "latin-1"):
            raise Refusal("encodes text in a way that no weights need")
        self.budget.spend(len(text))
        return text.encode("latin1")

    def reconstructor(self, kind: Any, base: Any, value: Any) -> Stub:
        """How objects are made in protocols 0 and 1."""
        if not isinstance(kind, Stub) or kind.arguments is not None:
            raise Refusal("calls something that is no named class or function")
        return Stub(kind.module, kind.name, (), items=value if type(value) is dict else {})

    def size(self, lengths: Any = ()) -> tuple[Any, ...]:
        if type(lengths) not in (tuple, list) or len(lengths) > MAX_DIMENSIONS:
            raise Refusal("has a tensor without a shape")
        return tuple(lengths)

    def nested_storage(self, data: Any) -> Any:
        """A storage that was pickled on its own: a torch file within the file."""
        if type(data) is not bytes or self.nested:
            raise Refusal("has torch files within torch files")
        self.budget.spend(len(data))
        return _read(memoryview(data), io.BytesIO(data), self.budget, nested=True)

    def tensor(
        self, storage: Any, offset: Any, size: Any, stride: Any, grad: Any = False, hooks: Any = None, dtype: Any = None
    ) -> Tensor:
        """A copy of a view of a storage, inside it and no larger than it."""
        if not isinstance(storage, Storage) or type(size) is not tuple or type(stride) is not tuple:
            raise Refusal("has a tensor without numbers or without a shape")
        kind = _DTYPES.get(dtype.name) if isinstance(dtype, Stub) else storage.dtype
        if kind is None or len(size) != len(stride) or len(size) > MAX_DIMENSIONS:
            raise Refusal("has a tensor of an unknown type or shape")
        _check_sizes(offset, *size, *stride)
        if self.dry:
            return torch.empty(0)
        count, last, room = 1, offset, len(storage.data) // kind.itemsize
        for length, step in zip(size, stride, strict=True):
            count *= length
            last += (length - 1) * step
            if step == 0 and length > 1:
                raise Refusal("has a tensor that repeats the same numbers; save a plain copy")
        if count == 0:
            return torch.empty(0, dtype=kind)
        if last >= room or count > room:
            raise Refusal("has a tensor that reaches beyond its numbers; get a complete copy")
        self.budget.spend(count * kind.itemsize)
        numbers = np.frombuffer(storage.data, f"i{kind.itemsize}", room)
        steps = [step * kind.itemsize for step in stride]
        view = np.lib.stride_tricks.as_strided(numbers[offset:], size, steps, writeable=False)
        tensor = torch.from_numpy(np.array(view, order="C"))
        return tensor != 0 if kind == torch.bool else tensor.view(kind)

    def tensor_v3(
        self, storage: Any, offset: Any, size: Any, stride: Any, grad: Any, hooks: Any, dtype: Any, metadata: Any = None
    ) -> Tensor:
        return self.tensor(storage, offset, size, stride, grad, hooks, dtype)

    def tensor_v2(
        self, storage: Any, offset: Any, size: Any, stride: Any, grad: Any = False, hooks: Any = None, meta: Any = None
    ) -> Tensor:
        return self.tensor(storage, offset, size, stride)

    def parameter(self, data: Any, grad: Any = True, hooks: Any = None, state: Any = None) -> Any:
        if not isinstance(data, Tensor):
            raise Refusal("has a parameter that is no tensor")
        return data

    def tensor_with_attributes(self, function: Any, kind: Any, arguments: Any, state: Any) -> Tensor:
        if not isinstance(function, Stub) or _DATA.get((function.module, function.name)) is not _Machine.tensor_v2:
            raise Refusal("has a tensor of an unknown kind")
        return self.tensor_v2(*arguments)

    def array(self, kind: Any = None, shape: Any = None, code: Any = None) -> np.ndarray:
        """An empty array, whose numbers come by fill_array."""
        return np.empty(0, np.uint8)

    def fill_array(self, array: np.ndarray, state: Any) -> None:
        if type(state) is not tuple or len(state) != 5:
            raise Refusal("has an array without numbers")
        _, shape, dtype, fortran, data = state
        if self.budget.objects and type(data) is list:
            if type(shape) is not tuple or any(type(n) is not int for n in shape) or math.prod(shape) != len(data):
                raise Refusal("has an array whose shape does not fit its objects")
            cast(Any, array).__setstate__((1, shape, np.dtype(object), False, data))
            return
        if type(data) is str:  # written by Python 2
            data = self.encode(data)
        kind = self.check_array(shape, dtype, data)
        cast(Any, array).__setstate__((1, shape, kind, bool(fortran), bytes(data)))

    def array_from_buffer(self, data: Any, dtype: Any, shape: Any, order: Any) -> np.ndarray:
        kind = self.check_array(shape, dtype, data)
        return np.frombuffer(data, kind).reshape(shape, order="F" if order == "F" else "C").copy()

    def check_array(self, shape: Any, dtype: Any, data: Any) -> np.dtype:
        kind = _numpy_dtype(dtype)
        if type(shape) is not tuple or len(shape) > MAX_DIMENSIONS or type(data) not in (bytes, bytearray):
            raise Refusal("has an array without numbers or without a shape")
        _check_sizes(*shape)
        count = 1
        for length in shape:
            count *= length
        if count * kind.itemsize != len(data):
            raise Refusal("has an array whose shape does not fit its numbers; get a complete copy")
        self.budget.spend(len(data))
        return kind

    def number(self, dtype: Any, data: Any) -> Any:
        if type(data) is str:
            data = self.encode(data)
        return np.frombuffer(data, self.check_array((), dtype, data))[0].item()


_DATA: dict[tuple[str, str], Callable[..., Any]] = {
    ("collections", "OrderedDict"): _Machine.ordered_dict,
    ("collections", "defaultdict"): _Machine.default_dict,
    ("builtins", "set"): _Machine.set_of,
    ("__builtin__", "set"): _Machine.set_of,
    ("_codecs", "encode"): _Machine.encode,
    ("copyreg", "_reconstructor"): _Machine.reconstructor,
    ("copy_reg", "_reconstructor"): _Machine.reconstructor,
    ("torch", "Size"): _Machine.size,
    ("torch.storage", "_load_from_bytes"): _Machine.nested_storage,
    ("torch._utils", "_rebuild_tensor"): _Machine.tensor,
    ("torch._utils", "_rebuild_tensor_v2"): _Machine.tensor_v2,
    ("torch._utils", "_rebuild_tensor_v3"): _Machine.tensor_v3,
    ("torch._tensor", "_rebuild_from_type_v2"): _Machine.tensor_with_attributes,
    ("torch._utils", "_rebuild_parameter"): _Machine.parameter,
    ("torch._utils", "_rebuild_parameter_with_state"): _Machine.parameter,
    **{
        (f"numpy.{core}.{module}", name): build
        for core in ("core", "_core")
        for module, name, build in (
            ("multiarray", "_reconstruct", _Machine.array),
            ("multiarray", "scalar", _Machine.number),
            ("numeric", "_frombuffer", _Machine.array_from_buffer),
        )
    },
}


def _numpy_dtype(dtype: Any) -> np.dtype:
    """The type that numpy.dtype(code, ...) with the state (version, byte order, ...) means."""
    if isinstance(dtype, Stub) and (dtype.module, dtype.name) == ("numpy", "dtype") and dtype.arguments:
        code = dtype.arguments[0]
        if type(code) is str and re.fullmatch(r"[<>|=]?(b1|[iu][1248]|f[248])", code):
            order = dtype.state[1] if type(dtype.state) is tuple and len(dtype.state) > 1 else "="
            return np.dtype(code.lstrip("<>|=")).newbyteorder(order if order in ("<", ">") else "=")
    raise Refusal("has an array of something that is no number")


def _check_sizes(*sizes: Any) -> None:
    for size in sizes:
        if type(size) is not int or not 0 <= size < 2**48:
            raise Refusal("has a tensor of an impossible size")


def _key(key: Any) -> Any:
    """A key of a dict or member of a set: itself if plain, else inside a Stub, which is hashed by identity.

    Hashing what is nested without bound would end Python, and hashes of tuples and long integers can be made to
    collide.
    """
    if key is None or type(key) in (str, bytes, bool, float, Stub) or (type(key) is int and abs(key) < 2**60):
        return key
    return Stub("builtins", type(key).__name__, (key,))


def _pair(pair: Any) -> tuple[Any, Any]:
    if type(pair) not in (tuple, list) or len(pair) != 2:
        raise Refusal("has a dict that is no list of pairs")
    return pair[0], pair[1]
