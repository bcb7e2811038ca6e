"""Pickles and torch files that try to run code, to take all memory or time, or that are broken.

Each is either read as inert data or refused with one sentence, quickly and in little memory; two sentinels, a file
and a function, show that nothing in them ever ran.
"""

import collections
import io
import pickle
import resource
import struct
import sys
import time
import tracemalloc
import types
import warnings
import zipfile
import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from safetensors.torch import save_file
from torch import nn

from stylereel.generator import StyleGAN2, StyleGAN2Config
from stylereel.zoo.formats import inspect, load_discriminator_file, load_generator_file
from stylereel.zoo.unpickle import Storage, Stub, WeightFileError, unpickle

SECONDS = 5.0  # of one processor
MEGABYTES = 150  # by which memory may grow
LONG = ("deep", "flood")


@pytest.fixture(scope="module")
def target(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The file that hostile code would write."""
    return tmp_path_factory.mktemp("target") / "sentinel"


@pytest.fixture(scope="module")
def hostile_files(target: Path) -> dict[str, tuple[bytes, str | None]]:
    return {case: (content, reason) for case, content, reason in hostile(target)}


@pytest.fixture
def sentinel(target: Path) -> Iterator[None]:
    """Nothing ran: neither was the target written, nor sentinel_module.fire called."""
    calls: list[Any] = []
    module = types.ModuleType("sentinel_module")
    module.fire = lambda *arguments, **keywords: calls.append(arguments)  # type: ignore[attr-defined]
    module.Fire = type("Fire", (), {"__init__": module.fire, "__setstate__": module.fire})  # type: ignore[attr-defined]
    sys.modules["sentinel_module"] = module
    yield
    del sys.modules["sentinel_module"]
    assert not calls
    assert not target.exists()


# --- an assembler for pickles


class Raw(bytes):
    """Opcodes that leave one value on the stack."""


def value(content: Any) -> bytes:
    """Opcodes for a plain value, or those given."""
    return content if isinstance(content, Raw) else pickle.dumps(content, 2)[2:-1]


def name(module: str, attribute: str) -> Raw:
    return Raw(f"c{module}\n{attribute}\n".encode())


def group(*contents: Any) -> Raw:
    return Raw(b"(" + b"".join(map(value, contents)) + b"t")


def call(module: str, attribute: str, *arguments: Any) -> Raw:
    return Raw(name(module, attribute) + group(*arguments) + b"R")


def storage(kind: str = "FloatStorage", key: Any = "0", count: Any = 4) -> Raw:
    return Raw(group("storage", name("torch", kind), key, "cpu", count) + b"Q")


def tensor(offset: Any = 0, size: Any = (2, 2), stride: Any = (2, 1), source: Any = None) -> Raw:
    hooks = call("collections", "OrderedDict")
    return call("torch._utils", "_rebuild_tensor_v2", source or storage(), offset, size, stride, False, hooks)


def dtype(code: str) -> Raw:
    return Raw(call("numpy", "dtype", code, False, True) + value((3, "<", None, None, None, -1, -1, 0)) + b"b")


def array(shape: Any, kind: Any, data: Any) -> Raw:
    empty = call("numpy.core.multiarray", "_reconstruct", name("numpy", "ndarray"), (0,), b"b")
    return Raw(empty + group(1, shape, kind, False, data) + b"b")


def plain(*parts: Any) -> bytes:
    return b"\x80\x02" + b"".join(map(value, parts)) + b"."


def archive(pickled: Any, members: dict[str, bytes] | None = None, root: str = "archive/", packing: int = 0) -> bytes:
    """A torch file: a zip with the pickle and one storage of four float32."""
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w", packing) as written, warnings.catch_warnings():
        warnings.simplefilter("ignore")  # duplicate names
        written.writestr(f"{root}data.pkl", plain(pickled))
        for member, content in ({"data/0": bytes(16)} | (members or {})).items():
            written.writestr(member if member.startswith("!") else root + member, content)
    return file.getvalue()


def legacy(
    pickled: Any,
    version: Any = 1001,
    little_endian: Any = True,
    keys: Any = ("0",),
    count: int = 4,
    data: bytes = bytes(16),
) -> bytes:
    """A torch file as before torch 1.6."""
    parts = [0x1950A86A20F9469CFC6C, version, {"little_endian": little_endian}, pickled, list(keys)]
    return b"".join(map(plain, parts)) + struct.pack("<q", count) + data


# --- hostile files


def code_runners(target: Path) -> Iterator[tuple[str, bytes, str | None]]:
    """Name, file, and the reason for refusing it, or None if it is to be read as inert data."""
    command = f"touch {target}"
    source = f"open({str(target)!r}, 'w').write('ran')"
    fire = name("sentinel_module", "fire")
    fire_class = name("sentinel_module", "Fire")
    argument = group(command)
    yield "GLOBAL and REDUCE", plain(call("os", "system", command)), None
    yield "posix.system", plain(call("posix", "system", command)), None
    yield "STACK_GLOBAL", plain(Raw(value("os") + value("system") + b"\x93" + argument + b"R")), None
    yield "STACK_GLOBAL of numbers", plain(Raw(value(1) + value(2) + b"\x93")), "names a class by something"
    yield "INST", plain(Raw(b"(" + value(command) + b"ios\nsystem\n")), None
    yield "OBJ", plain(Raw(b"(" + name("os", "system") + value(command) + b"o")), None
    yield "OBJ of nothing", plain(Raw(b"(o")), "damaged"
    yield "NEWOBJ", plain(Raw(fire_class + argument + b"\x81")), None
    yield "NEWOBJ_EX", plain(Raw(fire_class + argument + value({"a": 1}) + b"\x92")), None
    yield "NEWOBJ_EX without keywords", plain(Raw(fire_class + argument + value(3) + b"\x92")), "no list of arguments"
    yield "a function of a loaded module", plain(call("sentinel_module", "fire", 1)), None
    yield "eval", plain(call("builtins", "eval", source)), None
    yield "eval of Python 2", plain(call("__builtin__", "eval", source)), None
    yield "exec", plain(call("builtins", "exec", source)), None
    yield "__import__", plain(call("builtins", "__import__", "antigravity")), None
    yield "subprocess", plain(call("subprocess", "Popen", ["touch", str(target)])), None
    yield "runpy", plain(call("runpy", "run_path", str(target))), None
    yield "map of a function", plain(call("builtins", "list", call("builtins", "map", fire, [1]))), None
    got = call("builtins", "getattr", name("os", "path"), "system")
    yield "call of a result", plain(Raw(got + argument + b"R")), "calls something that is no named class"
    yield "call of a number", plain(Raw(value(3) + argument + b"R")), "calls something that is no named class"
    yield "call with a string", plain(Raw(fire + value("ab") + b"R")), "no list of arguments"
    dotted = Raw(b"\x8c\x02os\x8c\x0bpath.system\x93" + argument + b"R")
    yield "dotted name", plain(dotted), None
    yield "own method", plain(call("stylereel.zoo.unpickle", "_Machine.nested_storage", b"")), None
    yield "torch.load", plain(call("torch", "load", str(target))), None
    yield "torch.hub", plain(call("torch.hub", "load", "a/b", "c")), None
    yield "numpy.load", plain(call("numpy", "load", str(target))), None
    yield "pickle.loads", plain(call("pickle", "loads", plain(call("os", "system", command)))), None
    # State.
    fresh = Raw(fire_class + b")\x81")
    yield "__setstate__", plain(Raw(fresh + value({"a": 1}) + b"b")), None
    yield "__class__ as state", plain(Raw(fresh + b"}" + value("__class__") + fire_class + b"sb")), None
    poison = {"module": "x", "arguments": None, "__dict__": {}, "__reduce__": 1}
    yield "__dict__ as state", plain(Raw(fresh + value(poison) + b"b")), None
    yield "slots as state", plain(Raw(fresh + value((None, {"module": "x"})) + b"b")), None
    yield "state of a list", plain(Raw(b"]" + value({"append": 1}) + b"b")), "sets the state of something"
    yield "state of text", plain(Raw(value("a") + value({}) + b"b")), "sets the state of something"
    yield "state of a bare class", plain(Raw(fire_class + value({"x": 1}) + b"b")), "sets the state of something"
    yield "item of a bare class", plain(Raw(fire_class + value("x") + value(1) + b"s")), "sets items of something"
    yield "item of an object", plain(Raw(fresh + value("x") + value(1) + b"s")), None
    yield "element of an object", plain(Raw(fresh + value(1) + b"a")), None
    # Indirect ways.
    for code, index in ((b"\x82", b"\x01"), (b"\x83", b"\x01\x00"), (b"\x84", b"\x01\x00\x00\x00")):
        yield f"EXT {code!r}", plain(Raw(code + index)), "uses the pickle instruction EXT"
    yield "NEXT_BUFFER", plain(Raw(b"\x97")), "uses the pickle instruction NEXT_BUFFER"
    yield "PERSID", plain(Raw(b"Pos.system\n")), "refers to objects outside of it"
    yield "BINPERSID", plain(Raw(group("storage", fire) + b"Q")), "refers to objects outside of it"
    for odd in (3, "0", ("module", 1), (), ("storage",), ("storage", 1, "0", "cpu", 4), [1]):
        yield f"BINPERSID {odd!r} in a zip", archive(Raw(value(odd) + b"Q")), "refers to o|unknown type"
    yield "PERSID in a zip", archive(Raw(b"P1\n")), "refers to objects outside of it"
    nested = plain(call("os", "system", command))
    yield "pickle in a storage", plain(call("torch.storage", "_load_from_bytes", nested)), None
    deeper = plain(call("torch.storage", "_load_from_bytes", nested))
    reason = "torch files within torch files"
    yield "pickle in a storage in a storage", plain(call("torch.storage", "_load_from_bytes", deeper)), reason
    yield "storage of text", plain(call("torch.storage", "_load_from_bytes", "abc")), reason
    yield "code in a zip", archive(call("os", "system", command)), None
    yield "code in an old torch file", legacy(call("os", "system", command), keys=(), data=b""), None
    reduce = Raw(name("copyreg", "_reconstructor") + group(fire_class, name("builtins", "object"), None) + b"R")
    yield "copyreg", plain(reduce), None
    yield "copyreg of a result", plain(call("copyreg", "_reconstructor", fresh, None, None)), "calls something"
    yield "copyreg.add_extension", plain(call("copyreg", "add_extension", "os", "system", 1)), None


def bombs() -> Iterator[tuple[str, bytes, str | None]]:
    """Files that ask for more than they contain."""
    twice = (b"0](h" + bytes([i]) + b"h" + bytes([i]) + b"eq" + bytes([i + 1]) for i in range(200))
    laughs = b"]q\x00" + b"".join(twice)
    yield "billion laughs", plain(Raw(laughs)), None
    yield "deep lists", plain(Raw(b"]" * 50_000 + b"a" * 49_999)), None
    yield "deep tuples", plain(Raw(b")" + b"\x85" * 50_000)), None
    yield "deep dicts", plain(Raw(b"}K\x00" * 50_000 + b"}" + b"s" * 50_000)), None
    yield "deep objects", plain(Raw(b"ca\nB\n" * 50_000 + b")" + b"\x81\x85" * 49_999 + b"\x81")), None
    yield "deep states", plain(Raw(b"ca\nB\n)\x81" * 50_000 + b"b" * 49_999)), None
    yield "deep key", plain(Raw(b"}" + b")" + b"\x85" * 50_000 + b"Ns")), None
    yield "deep member of a set", plain(Raw(b"\x8f(" + b")" + b"\x85" * 50_000 + b"\x90")), None
    yield "deep marks", plain(Raw(b"(" * 50_000 + b"t" * 50_000)), None
    yield "list in itself", plain(Raw(b"]q\x00h\x00a")), None
    yield "flood of instructions", plain(Raw(b"N0" * 600_000 + b"N")), "more pickle instructions"
    yield "text of 2^63", b"\x80\x04\x8d" + struct.pack("<Q", 2**63) + b"a.", "damaged"
    yield "text of 2^31", b"\x80\x04X" + struct.pack("<I", 2**31) + b"a.", "damaged"
    yield "bytes of 2^62", b"\x80\x04\x8e" + struct.pack("<Q", 2**62) + b"a.", "damaged"
    yield "bytes of 2^64 - 1", b"\x80\x05\x96" + struct.pack("<Q", 2**64 - 1) + b"a.", "damaged"
    yield "negative text", b"\x80\x02T" + struct.pack("<i", -5) + b"abcde.", "damaged"
    yield "negative integer length", b"\x80\x02\x8b" + struct.pack("<i", -5) + b"abcde.", "damaged"
    yield "integer of 2^31 bytes", b"\x80\x02\x8b" + struct.pack("<i", 2**31 - 1) + b"a.", "damaged"
    yield "integer of 200 bytes", plain(Raw(b"\x8a\xc8" + b"\x01" * 200)), "integer that no weights need"
    yield "integer of a megabyte", plain(Raw(b"\x8b" + struct.pack("<i", 2**20) + b"\x01" * 2**20)), "integer that no"
    yield "integer of 10000 digits", plain(Raw(b"I" + b"9" * 10_000 + b"\n")), "damaged"
    yield "memo of 2^32 - 1", plain(Raw(b"Nr\xff\xff\xff\xff")), None
    yield "frame of 2^60", b"\x80\x04\x95" + struct.pack("<Q", 2**60) + b"N.", None
    yield "frame that ends early", b"\x80\x04\x95" + struct.pack("<Q", 1) + value([1, 2]) + b".", None
    # The same long thing used again and again, which makes short work long.
    again = 30_000
    pairs = b"](" + b"K\x01K\x02\x86" * 50_000 + b"eq\xff0"
    ordered = b"ccollections\nOrderedDict\nh\xff\x85R0" * again
    yield "flood of dicts of pairs", plain(Raw(pairs + ordered + b"N")), "more pickle instructions"
    members = b"](" + b"K\x01" * 50_000 + b"eq\xff0"
    yield (
        "flood of sets",
        plain(Raw(members + b"cbuiltins\nset\nh\xff\x85R0" * again + b"N")),
        "more pickle instructions",
    )
    sizes = b"ctorch\nSize\nh\xff\x85R0" * again
    yield "flood of shapes", plain(Raw(members + sizes + b"N")), "without a shape"
    inner = plain(b"a" * 2**20)
    load = b"B" + struct.pack("<I", len(inner)) + inner + b"q\xff0"
    loads = b"ctorch.storage\n_load_from_bytes\nh\xff\x85R0" * again
    yield "flood of storages", plain(Raw(load + loads + b"N")), "more numbers than it contains"
    zipped = archive(tensor())
    yield "zip in a storage", plain(call("torch.storage", "_load_from_bytes", zipped)), "damaged|refers"
    prime = 2**61 - 1
    same_hash = b"".join(value(i * prime) + b"N" for i in range(1, 60_000))
    yield "flood of keys of one hash", plain(Raw(b"}(" + same_hash + b"u")), None
    text = Raw(b"X" + struct.pack("<I", 2**20) + b"a" * 2**20 + b"q\xff")
    encode = b"c_codecs\nencode\n(h\xffX\x06\x00\x00\x00latin1tR0"
    yield "text encoded again and again", plain(Raw(text + encode * 1000)), "more numbers than it contains"
    decompress = call("_codecs", "encode", "abc", "zlib_codec")
    yield "text decompressed", plain(decompress), "encodes text in a way"
    big = b"B" + struct.pack("<I", 2**20) + bytes(2**20) + b"q\xff0"
    fill = group(1, (2**20,), dtype("u1"), False, Raw(b"h\xff"))
    empty = call("numpy.core.multiarray", "_reconstruct", name("numpy", "ndarray"), (0,), b"b")
    yield "array filled again and again", plain(Raw(big + empty + (fill + b"b") * 1000)), "more numbers than it"
    # Tensors and arrays.
    no_more = "reaches beyond its numbers"
    yield "tensor of 10 TB", archive(tensor(size=(10**6, 10**7 // 4), stride=(10**7 // 4, 1))), no_more
    yield "storage of 10 TB", archive(tensor(source=storage(count=10**13 // 4))), "not the one announced"
    yield "storage of 2^62", archive(tensor(source=storage(count=2**62))), "impossible size"
    yield "old storage of 10 TB", legacy(tensor(source=storage(count=10**13 // 4)), count=10**13 // 4), "not the one"
    yield "stride of nothing", archive(tensor(size=(10**4, 10**4), stride=(0, 0))), "repeats the same numbers"
    yield "overlapping view", archive(tensor(size=(3, 2), stride=(1, 1))), no_more
    yield "negative size", archive(tensor(size=(-2, -2))), "impossible size"
    yield "negative stride", archive(tensor(stride=(-2, 1))), "impossible size"
    yield "negative offset", archive(tensor(offset=-1)), "impossible size"
    yield "offset beyond", archive(tensor(offset=1)), no_more
    yield "offset of 2^62", archive(tensor(offset=2**62)), "impossible size"
    yield "size that is a fraction", archive(tensor(size=(2.0, 2))), "impossible size"
    yield "size that is a truth", archive(tensor(size=(True, 2))), "impossible size"
    yield "more strides than sizes", archive(tensor(stride=(2, 1, 1))), "unknown type or shape"
    yield "1000 dimensions", archive(tensor(size=(1,) * 1000, stride=(1,) * 1000)), "unknown type or shape"
    yield "nothing of 2^47", archive(tensor(size=(0, 2**47, 2**47), stride=(1, 1, 1))), None
    yield "size that is text", archive(tensor(size="ab")), "without a shape"
    yield "tensor of text", archive(tensor(source="ab")), "without numbers"
    yield "storage of complex", archive(tensor(source=storage("ComplexFloatStorage"))), "numbers of an unknown type"
    yield "storage that climbs", archive(tensor(source=storage(key="../../etc/passwd"))), "impossible name"
    yield "storage of a number's name", archive(tensor(source=storage(key=0))), "impossible name"
    yield "storage that is not there", archive(tensor(source=storage(key="7"))), "lacks the part"
    views = Raw(b"(" + tensor() * 1000 + b"l")
    yield "many views", archive(views, {"data/0": bytes(16)}), None
    wide = tensor(size=(2**16,), stride=(1,), source=storage(count=2**16))
    yield "views of everything", archive(Raw(b"(" + wide * 1000 + b"l"), {"data/0": bytes(2**18)}), "more numbers than"
    yield "parameter of nothing", archive(call("torch._utils", "_rebuild_parameter", 1, True, {})), "no tensor"
    f4 = dtype("f4")
    yield "array of 10 TB", plain(array((10**13,), f4, b"abcd")), "does not fit its numbers"
    yield "array of a negative size", plain(array((-1, -1), f4, b"abcd")), "impossible size"
    yield "array of objects", plain(array((1,), dtype("O8"), [1])), "array of something that is no number"
    yield "array of records", plain(array((1,), dtype("V8"), b"abcdefgh")), "array of something that is no number"
    yield "array of a file's class", plain(array((1,), call("os", "system", "x"), b"abcd")), "no number"
    yield "array without numbers", plain(array((1,), f4, 3)), "without numbers"
    yield "array of text beyond latin1", plain(array((1,), f4, "\u1234\u1234\u1234\u1234")), "damaged"
    yield "array without state", plain(Raw(array((1,), f4, b"abcd") + value(3) + b"b")), "array without numbers"
    yield "number of nothing", plain(call("numpy.core.multiarray", "scalar", f4, b"ab")), "does not fit its numbers"


def broken(target: Path) -> Iterator[tuple[str, bytes, str | None]]:
    """Files that are damaged, misbuilt or something else."""
    good = archive(tensor())
    yield "zip cut in half", good[: len(good) // 2], "cut off"
    yield "zip without its last byte", good[:-1], "damaged|cut off"
    climb = archive(tensor(), {"x/../../../evil": b"x"})
    yield "zip member that climbs", climb, "leads out of the archive"
    yield "zip member at the root", archive(tensor()).replace(b"archive/data/0", b"/rchive/data/0"), "leads out"
    yield (
        "zip member with backslashes",
        good.replace(b"archive/data/0", b"archive\\data\\0"),
        "leads out of the archive",
    )
    twice = archive(tensor(), {"data/1": bytes(16)}).replace(b"data/1", b"data/0")
    yield "zip member twice", twice, "twice"
    yield "zip bomb", archive(tensor(), {"data/1": bytes(2**24)}, packing=zipfile.ZIP_DEFLATED), "compressed"
    yield "zip without a pickle", archive(tensor()).replace(b"data.pkl", b"date.pkl"), "not one that torch.save"
    yield "zip with two pickles", archive(tensor(), {"!b/data.pkl": plain(1)}).replace(b"!b", b"bb"), "not one that"
    yield "zip of another machine", archive(tensor(), {"byteorder": b"big"}), "big-endian"
    end = good.rfind(b"PK\x05\x06")
    counts = good[: end + 8] + b"\xff\xff\xff\xff" + good[end + 12 :]
    yield "zip with 65535 members", counts, "damaged"
    yield "zip with a huge directory", good[: end + 12] + b"\xff\xff\xff\xff" + good[end + 16 :], "impossible zip"
    central = good.index(b"PK\x01\x02")
    second = good.index(b"PK\x01\x02", central + 1)
    moved = good[: second + 42] + good[central + 42 : central + 46] + good[second + 46 :]
    yield "zip with overlapping members", moved, "not where its directory says|overlap"
    encrypted = good[: central + 8] + b"\x01\x00" + good[central + 10 :]
    yield "encrypted zip", encrypted, "encrypted"
    renamed = good.replace(b"archive/data/0", b"archive/data/1", 1)
    yield "zip whose names differ", renamed, "not where its directory says"
    long = struct.pack("<LL", 2**20, 2**20)
    lying = good[: second + 20] + long + good[second + 28 :]
    yield "zip member longer than the file", lying, "overlap or go beyond"
    yield (
        "zip64 that points nowhere",
        good[:end] + b"PK\x06\x07" + struct.pack("<LQL", 0, 2**63, 1) + good[end:],
        "damaged",
    )
    yield "old file of another version", legacy(tensor(), version=1000), "unknown version"
    yield "old file of another machine", legacy(tensor(), little_endian=False), "big-endian"
    yield "old file without keys", legacy(tensor(), keys=[], data=b""), "lacks the storage"
    yield "old file with odd keys", legacy(tensor(), keys=[[[]]]), "broken list of storages"
    yield "old file with a key twice", legacy(tensor(), keys=["0", "0"]), "broken list of storages"
    yield "old file with an unknown key", legacy(tensor(), keys=["0", "1"], data=bytes(40)), "nothing refers to"
    yield "old file with another size", legacy(tensor(), count=3), "not the one announced"
    yield "old file cut off", legacy(tensor())[:-5], "not the one announced"
    part = Raw(group("storage", name("torch", "FloatStorage"), "0", "cpu", 4, ("1", 3, 2)) + b"Q")
    yield "old file with a view beyond", legacy(tensor(source=part)), "not the one announced"
    yield "second pickle", plain(1) + plain(call("os", "system", f"touch {target}")), "goes on after the end"
    yield "text", b"These are not weights.\n" * 100, "damaged"
    yield "web page", b"<!DOCTYPE html><html>Quota exceeded</html>", "damaged"
    yield "picture", b"\x89PNG\r\n\x1a\n" + bytes(100), "damaged|refers"
    yield "zeros", bytes(1000), "damaged"
    yield "a full stop", b".", "damaged|ends in the middle"
    yield "mark left over", plain(Raw(b"(N")), "ends in the middle"
    yield "two values", plain(1, 2), "ends in the middle"
    for code in (
        b"R",
        b"t",
        b"u",
        b"a",
        b"e",
        b"s",
        b"b",
        b"\x85",
        b"\x87",
        b"0",
        b"1",
        b"2",
        b"\x81",
        b"\x93",
        b"\x90",
    ):
        yield f"empty stack for {code!r}", b"\x80\x04" + code + b".", "damaged"
    yield "memo that is not there", plain(Raw(b"h\x05")), "damaged"
    yield "dict with an odd item", plain(Raw(b"}(K\x01K\x02K\x03u")), "sets items of something"
    yield "items of a list", plain(Raw(b"](K\x01K\x02u")), "sets items of something"
    yield "elements of a dict", plain(Raw(b"}(K\x01e")), "appends to something"
    yield "members of a list", plain(Raw(b"](K\x01\x90")), "adds members to something"
    yield "pairs that are none", plain(call("collections", "OrderedDict", [[1, 2, 3]])), "no list of pairs"
    yield "text that is no UTF-8", plain(Raw(b"X\x02\x00\x00\x00\xff\xfe")), "damaged"


def hostile(target: Path) -> list[tuple[str, bytes, str | None]]:
    return [*code_runners(target), *bombs(), *broken(target)]


CASES = [case[0] for case in hostile(Path("x"))]


def test_sentinel_notices_what_runs() -> None:
    """Python's own reader runs these files, so that the tests below can fail."""
    calls: list[Any] = []
    module = types.ModuleType("sentinel_module")
    module.fire = calls.append  # type: ignore[attr-defined]
    sys.modules["sentinel_module"] = module
    pickle.loads(plain(call("sentinel_module", "fire", 1)))
    del sys.modules["sentinel_module"]
    assert calls == [1]


def test_there_are_no_two_cases_of_one_name() -> None:
    assert len(set(CASES)) == len(CASES) > 100


@pytest.mark.parametrize("case", CASES)
def test_hostile_file(
    case: str, tmp_path: Path, hostile_files: dict[str, tuple[bytes, str | None]], sentinel: None
) -> None:
    content, reason = hostile_files[case]
    path = tmp_path / "weights.pkl"
    path.write_bytes(content)
    traced = not case.startswith(LONG)  # tracing slows these down
    if traced:
        tracemalloc.start()
    resident = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    start = time.process_time()
    try:
        if reason is None:
            unpickle(path)
        else:
            with pytest.raises(WeightFileError, match=reason) as caught:
                unpickle(path)
            check_sentence(str(caught.value), path)
        spent = time.process_time() - start
        peak = tracemalloc.get_traced_memory()[1] if traced else 0
    finally:
        tracemalloc.stop()
    assert spent < SECONDS
    assert peak < 10 * 2**20 + 6 * len(content)
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - resident < 1024 * MEGABYTES


def check_sentence(message: str, path: Path) -> None:
    assert message.startswith(f"{path} ") and message.endswith(".") and len(message) < 300
    assert message.isprintable()


def test_hostile_files_are_no_generators(
    tmp_path: Path, hostile_files: dict[str, tuple[bytes, str | None]], sentinel: None
) -> None:
    path = tmp_path / "weights.pkl"
    for case, (content, _) in hostile_files.items():
        if not case.startswith(LONG):  # these were seen above
            path.write_bytes(content)
            for load in (inspect, load_generator_file, load_discriminator_file):
                with pytest.raises(ValueError):
                    load(path)


def shared_modules() -> Iterator[tuple[str, bytes, str]]:
    """Modules that share their parts, so that a walk through all of them would never end."""
    module = b"ca\nModule\n)\x81"
    key = b"}X\x08\x00\x00\x00_modules"
    chain = module + b"q\xff"
    for _ in range(30):
        chain += b"0" + module + key + b"}(" + value("a") + b"h\xff" + value("b") + b"h\xffusbq\xff"
    wide = b"}(" + b"".join(value(f"p{i}") + b"N" for i in range(20_000)) + b"uq\xff0"
    many = b"}(" + b"".join(
        value(f"m{i}") + b"ca\nModule\n)\x81}X\x0b\x00\x00\x00_parametersh\xffsb" for i in range(2_000)
    )
    state = key + many + b"usb"
    reason = "modules nested without end"
    yield "two children that are one", plain(Raw(chain)), reason
    yield "wide", plain(Raw(wide + b"ca\nModule\n)\x81" + state)), reason
    circular = Raw(b"ca\nModule\n)\x81q\xff}X\x08\x00\x00\x00_modules}X\x01\x00\x00\x00ah\xffssb")
    yield "module in itself", plain(circular), reason
    part = b"cdnnlib.tflib.network\nNetwork\n)\x81"
    head = b"}(X\x09\x00\x00\x00variables]X\x0a\x00\x00\x00components}("
    network = part + head + b"uub" + b"q\xff"
    for _ in range(25):
        network += b"0" + part + head + value("a") + b"h\xff" + value("b") + b"h\xffuubq\xff"
    yield "networks that share", b"\x80\x02" + network + b"0(h\xffh\xffh\xfft.", "networks nested without end"


def test_modules_that_share_their_parts(tmp_path: Path) -> None:
    for case, content, reason in shared_modules():
        (tmp_path / "file").write_bytes(content)
        start = time.process_time()
        with pytest.raises(ValueError, match=reason):
            load_generator_file(tmp_path / "file")
        assert time.process_time() - start < SECONDS, case


@pytest.mark.parametrize(
    "config",
    [
        '{"resolution": 1099511627776}',
        '{"resolution": 64, "num_layers": 1000000000}',
        '{"resolution": 64, "mapping_layers": 1000000000}',
        '{"resolution": 64, "first_stopband": 1e-9}',
        '{"resolution": 64, "num_layers": "many"}',
        '{"resolution": 64, "channel_base": 1e300}',
        "[" * 50_000,
        "[1]",
        "null",
        "not JSON",
    ],
)
def test_own_file_with_a_hostile_config(config: str, tmp_path: Path) -> None:
    path = tmp_path / "weights.safetensors"
    for kind in ("stylegan2", "stylegan3", "discriminator"):
        save_file({"a": torch.zeros(1)}, path, {"format": "stylereel", "kind": kind, "config": config})
        start = time.process_time()
        with pytest.raises(ValueError) as caught:
            load_discriminator_file(path) if kind == "discriminator" else load_generator_file(path)
        assert str(path) in str(caught.value) and str(caught.value).isprintable()
        assert time.process_time() - start < SECONDS


def test_no_file_folder_and_empty_file(tmp_path: Path) -> None:
    (tmp_path / "empty").touch()
    for name, reason in (("absent", "There is no file"), ("", "is a folder"), ("empty", "is empty")):
        with pytest.raises(ValueError, match=reason):
            unpickle(tmp_path / name)


# --- what stubs keep


def read(content: bytes, folder: Path) -> Any:
    (folder / "file").write_bytes(content)
    return unpickle(folder / "file")


def test_stub_keeps_what_the_file_wanted(tmp_path: Path, sentinel: None) -> None:
    fresh = Raw(name("sentinel_module", "Fire") + group("a", 2) + value({"key": 3}) + b"\x92")
    filled = Raw(
        fresh + value({"__class__": "x", "module": "y"}) + b"b" + value("item") + value(4) + b"s" + value(5) + b"a"
    )
    stub = read(plain(filled), tmp_path)
    assert isinstance(stub, Stub) and type(stub) is Stub
    assert (stub.module, stub.name) == ("sentinel_module", "Fire")
    assert (stub.arguments, stub.keywords) == (("a", 2), {"key": 3})
    assert stub.state == {"__class__": "x", "module": "y"}
    assert (stub.items, stub.elements) == ({"item": 4}, [5])
    bare = read(plain(name("os", "system")), tmp_path)
    assert bare.arguments is None and repr(bare) == "<os.system>"


def test_shared_and_circular_containers_stay_shared(tmp_path: Path) -> None:
    inner: list[Any] = [1]
    inner.append(inner)
    found = read(pickle.dumps({"a": inner, "b": inner}), tmp_path)
    assert found["a"] is found["b"] and found["a"][1] is found["a"]


# --- honest files


class Module(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.linear = nn.Linear(3, 4)
        self.register_buffer("turned", torch.arange(6).reshape(2, 3).T)


def annotated(tensor: torch.Tensor) -> torch.Tensor:
    tensor.note = "pivot"  # type: ignore[attr-defined]
    return tensor


def honest() -> dict[str, Any]:
    torch.manual_seed(0)
    return {
        "turned": torch.randn(3, 4).T,
        "every second": torch.arange(10)[2:8:2],
        "scalar": torch.tensor(3),
        "half": torch.randn(5).half(),
        "brain": torch.randn(5).bfloat16(),
        "double": torch.randn(2).double(),
        "truth": torch.tensor([True, False]),
        "bytes": torch.arange(3, dtype=torch.uint8),
        "nothing": torch.empty(0),
        "parameter": nn.Parameter(torch.ones(2)),
        "with attributes": annotated(torch.arange(4).reshape(2, 2).T),
        "storage twice": (shared := torch.randn(4, 4))[1],
        "the other half": shared[2:, 1],
        "state": Module().state_dict(),
        "array": np.arange(6, dtype=np.float32).reshape(2, 3),
        "columns": np.asfortranarray(np.arange(6.0).reshape(2, 3)),
        "big-endian": np.arange(3, dtype=">i4"),
        "half array": np.arange(3, dtype=np.float16),
        "truths": np.array([True, False]),
        "number": np.float32(2.5),
        "default": collections.defaultdict(list, {1: [2]}),
        "ordered": collections.OrderedDict(a=1, b=2),
        "size": torch.Size([1, 2]),
        "set": {1, "a"},
        "plain": [None, True, 3, -(2**40), 2.5, "text \u1234", b"\x00\xff", (), {"a": {"b": [1]}}, bytearray(b"x")],
    }


def same(found: Any, expected: Any) -> bool:
    if isinstance(expected, torch.Tensor):
        return found.dtype == expected.dtype and torch.equal(found, expected)
    if isinstance(expected, np.ndarray):
        return found.dtype.kind == expected.dtype.kind and np.array_equal(found, expected)
    if isinstance(expected, dict):
        return list(found) == list(expected) and all(same(found[key], expected[key]) for key in expected)
    return found == expected


@pytest.mark.parametrize("protocol", range(6))
def test_pickles_of_every_protocol(protocol: int, tmp_path: Path) -> None:
    expected = honest()
    if protocol < 5:  # older ones have no bytearray
        expected["plain"].pop()
    found = read(pickle.dumps(expected, protocol), tmp_path)
    for key, content in expected.items():
        assert same(found[key], content), key


@pytest.mark.parametrize("old", [False, True])
def test_torch_files(old: bool, tmp_path: Path) -> None:
    expected = honest()
    expected["plain"].pop()  # torch writes protocol 2
    torch.save(expected, tmp_path / "file", _use_new_zipfile_serialization=not old)
    found = unpickle(tmp_path / "file")
    for key, content in expected.items():
        assert same(found[key], content), key
    found["turned"].zero_()  # its own memory
    assert same(unpickle(tmp_path / "file")["turned"], expected["turned"])


def large_archive(contents: dict[str, bytes]) -> bytes:
    """A zip archive whose sizes and places are all written with 64 bits, as beyond 4 GB."""
    file, directory = b"", b""
    for member, content in contents.items():
        name, checksum = member.encode(), zlib.crc32(content)
        start = struct.pack("<HHHHHL", 45, 0, 0, 0, 0, checksum)
        sizes = struct.pack("<LL", 0xFFFFFFFF, 0xFFFFFFFF)
        long = struct.pack("<QQ", len(content), len(content))
        place = struct.pack("<Q", len(file))
        file += b"PK\x03\x04" + start + sizes + struct.pack("<HH", len(name), 20) + name
        file += struct.pack("<HH", 1, 16) + long + content
        directory += b"PK\x01\x02" + struct.pack("<H", 45) + start + sizes
        directory += struct.pack("<HHHHHLL", len(name), 28, 0, 0, 0, 0, 0xFFFFFFFF) + name
        directory += struct.pack("<HH", 1, 24) + long + place
    count, size, offset = len(contents), len(directory), len(file)
    record = b"PK\x06\x06" + struct.pack("<QHHLLQQQQ", 44, 45, 45, 0, 0, count, count, size, offset)
    locator = b"PK\x06\x07" + struct.pack("<LQL", 0, offset + size, 1)
    end = b"PK\x05\x06" + struct.pack("<HHHHLLH", 0, 0, 0xFFFF, 0xFFFF, 0xFFFFFFFF, 0xFFFFFFFF, 0)
    return file + directory + record + locator + end


def test_archive_with_long_sizes(tmp_path: Path) -> None:
    numbers = np.arange(4, dtype=np.float32)
    file = large_archive({"archive/data.pkl": plain(tensor()), "archive/data/0": numbers.tobytes()})
    assert zipfile.ZipFile(io.BytesIO(file)).read("archive/data/0") == numbers.tobytes()
    assert np.array_equal(read(file, tmp_path).numpy().ravel(), numbers)


def test_file_is_free_after_reading(tmp_path: Path) -> None:
    torch.save({"a": torch.ones(3)}, tmp_path / "file")
    found = unpickle(tmp_path / "file")
    (tmp_path / "file").write_bytes(b"")
    assert torch.equal(found["a"], torch.ones(3))


def test_bare_storage(tmp_path: Path) -> None:
    found = read(pickle.dumps(torch.arange(3, dtype=torch.float32).untyped_storage()), tmp_path)
    assert isinstance(found, Storage) and len(found.data) == 12


def test_arrays_of_python_2(tmp_path: Path) -> None:
    numbers = np.array([1.5, -2.0], "<f4")
    data = Raw(b"U\x08" + numbers.tobytes())
    assert np.array_equal(read(plain(array((2,), dtype("f4"), data)), tmp_path), numbers)
    assert (
        read(
            plain(call("numpy.core.multiarray", "scalar", dtype("f4"), Raw(b"U\x04" + numbers[:1].tobytes()))), tmp_path
        )
        == 1.5
    )


@pytest.mark.parametrize("protocol", [0, 2, 4])
def test_every_cut_is_refused(protocol: int, tmp_path: Path) -> None:
    whole = pickle.dumps({"a": [1, 2.5, "b"], "array": np.arange(3), "tensor": torch.arange(2)}, protocol)
    for end in range(1, len(whole) - 1, 3):
        with pytest.raises(WeightFileError) as caught:
            read(whole[:end], tmp_path)
        check_sentence(str(caught.value), tmp_path / "file")


# --- random damage


def seeds(folder: Path) -> list[bytes]:
    """Small honest files of every form, to be damaged."""
    torch.manual_seed(0)
    generator = StyleGAN2(StyleGAN2Config(8, z_dim=4, w_dim=4, channel_base=32, channel_max=4, mapping_layers=1))
    content = {"g_ema": generator.state_dict(), "latent_avg": torch.zeros(4)}
    files = [pickle.dumps(content, protocol) for protocol in (0, 2, 4)]
    for old in (False, True):
        for thing in (content, generator):
            torch.save(thing, folder / "seed", _use_new_zipfile_serialization=not old)
            files.append((folder / "seed").read_bytes())
    values = [(key, value.numpy()) for key, value in generator.state_dict().items()]
    state = Raw(pickle.dumps({"variables": values, "components": {}}, 2)[2:-1])
    network = Raw(name("dnnlib.tflib.network", "Network") + b")\x81" + state + b"b")
    return [*files, plain(group(network, network, network)), archive(tensor()), legacy(tensor())]


def damaged(file: bytes, changes: list[tuple[float, str, bytes]]) -> bytes:
    content = bytearray(file)
    for place, kind, data in changes:
        start = int(place * len(content))
        if kind == "flip":
            for i, byte in enumerate(data[: len(content) - start]):
                content[start + i] ^= byte
        elif kind == "overwrite":
            content[start : start + len(data)] = data
        elif kind == "insert":
            content[start:start] = data
        elif kind == "delete":
            del content[start : start + len(data)]
        elif kind == "repeat":
            content[start:start] = content[start : start + 16 * len(data)]
        else:
            del content[start:]
    return bytes(content)


KINDS = ["flip", "flip", "overwrite", "insert", "delete", "repeat", "cut"]
CHANGES = st.lists(
    st.tuples(st.floats(0, 1, exclude_max=True), st.sampled_from(KINDS), st.binary(min_size=1, max_size=8)),
    min_size=1,
    max_size=4,
)


def check_damaged(content: bytes, folder: Path) -> None:
    """Read or refused with one sentence, within bounds; never another error."""
    path = folder / "damaged"
    path.write_bytes(content)
    start = time.process_time()
    try:
        unpickle(path)
    except WeightFileError as error:
        check_sentence(str(error), path)
    except ValueError as error:
        assert "is empty" in str(error)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        for load in (load_generator_file, load_discriminator_file):
            try:
                load(path)
            except ValueError as error:
                assert str(error).isprintable() and len(str(error)) < 5000
    assert time.process_time() - start < 2 * SECONDS


@pytest.fixture(scope="module")
def seed_files(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, list[bytes]]:
    folder = tmp_path_factory.mktemp("seeds")
    return folder, seeds(folder)


@pytest.mark.filterwarnings("ignore:Couldn't retrieve source code")
@settings(max_examples=150, deadline=None, derandomize=True, suppress_health_check=[HealthCheck.too_slow])
@given(which=st.integers(0, 9), changes=CHANGES)
def test_damaged_files_are_read_or_refused(
    which: int, changes: list[tuple[float, str, bytes]], seed_files: tuple[Path, list[bytes]]
) -> None:
    folder, files = seed_files
    check_damaged(damaged(files[which], changes), folder)
