"""Every reader of our own files on files with keys removed, types changed and values extreme.

Each file must be read, or refused with a ValueError that names it in one line, within SECONDS and MEMORY.
"""

import io
import json
import math
import resource
import struct
import sys
import time
import zipfile
from collections.abc import Callable, Iterator, Mapping
from fractions import Fraction
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors import safe_open
from safetensors.torch import save_file
from torch import Tensor, nn

from stylereel.commands.weights import weights_info
from stylereel.core import arrays
from stylereel.core.arrays import open_array, read_arrays
from stylereel.core.latents import FACE, Codes, Identity, Motion
from stylereel.core.weights import CHECKSUM, load_module, read_card, read_tensors, save_module, write_tensors
from stylereel.edit.directions import Direction, Directions, read
from stylereel.encoders.hfgi import HFGIConfig
from stylereel.encoders.pyramid import StyleEncoderConfig
from stylereel.generator import (
    Discriminator,
    DiscriminatorConfig,
    StyleGAN2,
    StyleGAN2Config,
    StyleGAN3,
    StyleGAN3Config,
    load_generator,
)
from stylereel.systems.stylemask.networks import KIND as MASKS
from stylereel.systems.stylemask.networks import MaskConfig, MaskNets, load_masks
from stylereel.systems.stylevideogan.networks import KIND as VIDEO
from stylereel.systems.stylevideogan.networks import VideoConfig, VideoGenerator, load_model
from stylereel.zoo.encoders import load_encoder_file, load_hfgi_file
from stylereel.zoo.formats import inspect, load_discriminator_file, load_generator_file
from stylereel.zoo.unpickle import unpickle_npy

SECONDS = 3.0  # of processor time for a file
MOST = 90  # files of a kind, chosen at random from all
MEMORY = 256 << 20  # bytes above what the process had before

Read = Callable[[Path], object]


class Limits:
    """Runs a reader and says what it did wrong, "" if nothing."""

    def __init__(self) -> None:
        self.count = 0

    def __call__(self, read: Read, path: Path) -> str:
        self.count += 1
        before, start, wrong = _resident(reset=True), time.process_time(), ""
        try:
            read(path)
        except ValueError as error:
            text = str(error)
            if str(path) not in text or not text.isprintable() or len(text) > 2000:
                wrong = f"says {text[:300]!r}"
            cause: BaseException | None = error
            while cause is not None:
                if isinstance(cause, MemoryError) or "allocate" in str(cause):
                    wrong = f"asks for too much memory ({cause!s:.100})"
                cause = cause.__cause__ or cause.__context__
        except Exception as error:
            wrong = f"raises {type(error).__name__}: {error!s:.300}"
        if time.process_time() - start > SECONDS:
            wrong += f" takes {time.process_time() - start:.1f} s"
        if _resident() - before > MEMORY:
            wrong += f" takes {(_resident() - before) >> 20} MiB"
        return wrong


def _resident(reset: bool = False) -> int:
    """The most memory since the last reset, in bytes; 0 where the system does not tell."""
    status = Path("/proc/self/status")
    if not status.exists():
        return 0
    if reset:
        Path("/proc/self/clear_refs").write_text("5")
    return int(next(line for line in status.read_text().splitlines() if line.startswith("VmHWM")).split()[1]) << 10


@pytest.fixture(autouse=True)
def room() -> Iterator[None]:
    """No file may take the machine's memory, whatever a reader does."""
    if sys.platform != "linux":
        yield
        return
    kept = resource.getrlimit(resource.RLIMIT_DATA)
    used = int(next(x for x in Path("/proc/self/status").read_text().splitlines() if x.startswith("VmData")).split()[1])
    resource.setrlimit(resource.RLIMIT_DATA, ((used << 10) + (2 << 30), kept[1]))
    yield
    resource.setrlimit(resource.RLIMIT_DATA, kept)


# --- small files of every kind


def _generator2(path: Path) -> None:
    config = StyleGAN2Config(8, z_dim=3, w_dim=3, channel_base=16, channel_max=2, mapping_layers=1)
    StyleGAN2(config).save(path, {"licence": "none"})


def _generator3(path: Path) -> None:
    StyleGAN3(StyleGAN3Config(16, z_dim=3, w_dim=3, channel_base=16, channel_max=2, num_layers=3)).save(path)


def _discriminator(path: Path) -> None:
    save_module(path, "discriminator", Discriminator(DiscriminatorConfig(8, channel_base=16, channel_max=2)))


def _masks(path: Path) -> None:
    save_module(path, MASKS, MaskNets(MaskConfig((2, 2))))


def _video(path: Path) -> None:
    config = VideoConfig((0, 1), 2, "25/1", "0" * 64, width=4, frames=3, noise=2, components=2)
    save_module(path, VIDEO, VideoGenerator(config))


def _directions(path: Path) -> None:
    up = Direction("up", "w+", torch.tensor([0, 1]), torch.ones(2, 3), "1 degree", 0.5, {"down": (0.1, 0.2)})
    Directions([up, Direction("light", "s", torch.tensor([2]), torch.ones(1))], {"licence": "none"}).save(path)


def _identity(path: Path) -> None:
    Identity(torch.ones(2, 3), "stylemask", {"placement": torch.ones(4)}, {"b4.const": torch.ones(2)}).save(path)


def _codes(path: Path) -> None:
    maps = {"b8.conv0": torch.ones(2, 1, 4, 4)}
    Codes(torch.ones(2, 2, 3), "0" * 64, Fraction(25), torch.ones(2, 4), maps).save(path)


def _motion(path: Path) -> None:
    ones = np.ones((3, 2), np.float32)
    Motion(ones, FACE, ("yaw", "pitch"), Fraction(30000, 1001), np.ones((3, 4), np.float32), (1,)).save(path)


KINDS: dict[str, tuple[Callable[[Path], None], list[Read]]] = {
    "stylegan2": (_generator2, [load_generator, load_generator_file, inspect]),
    "stylegan3": (_generator3, [load_generator, load_generator_file]),
    "discriminator": (_discriminator, [load_discriminator_file, inspect]),
    "masks": (_masks, [load_masks]),
    "video": (_video, [load_model]),
    "directions": (_directions, [Directions.load]),
    "identity": (_identity, [Identity.load]),
    "codes": (_codes, [Codes.load]),
    "motion": (_motion, [Motion.load]),
}
EVERY: list[Read] = [read_tensors, read_card, lambda path: weights_info(str(path))]

TEXTS = ["", "null", "[1]", "{}", '"x"', "NaN", "-1", "0", "1/0", "1e999999999", "9" * 5000, "[" * 20_000, "a\0\n\x1b"]
VALUES = [None, -1, 0, 3, 64, 2**18, 2**62, 1e308, math.nan, True, "many", [], {}, [2**18] * 64, {"a": {"b": 10**9}}]


def _json_values(text: str) -> Iterator[str]:
    """A JSON text with each of its values gone or replaced, one at a time, two levels deep."""
    whole = json.loads(text)
    places = list(whole) if isinstance(whole, dict) else range(len(whole)) if isinstance(whole, list) else []
    for place in places:
        if isinstance(whole, dict):
            yield json.dumps({key: value for key, value in whole.items() if key != place})
        for value in VALUES:
            changed = whole.copy()
            changed[place] = value
            yield json.dumps(changed)
        if isinstance(whole[place], list):
            for inner in _json_values(json.dumps(whole[place])):
                changed = whole.copy()
                changed[place] = json.loads(inner)
                yield json.dumps(changed)


def _headers(header: Mapping[str, str]) -> Iterator[dict[str, str]]:
    for name, text in header.items():
        yield {key: value for key, value in header.items() if key != name}
        if name not in ("format", "kind"):
            yield from ({**header, name: other} for other in TEXTS)
            if text[:1] in "[{":
                yield from ({**header, name: other} for other in _json_values(text))


def _tensors(tensors: Mapping[str, Tensor]) -> Iterator[dict[str, Tensor]]:
    for name, value in list(tensors.items())[:6]:
        yield {key: other for key, other in tensors.items() if key != name}
        for other in (
            value.to(torch.int64) - 2,
            value.bool(),
            value.double(),
            value.to(torch.complex64),
            value.to(torch.float8_e5m2),
            value[None],
            value.flatten()[:1],
            torch.empty(0, 2**40),
            torch.empty(0),
            torch.zeros(()),
            torch.full_like(value.float(), math.nan),
            torch.full_like(value.float(), -math.inf),
        ):
            yield {**tensors, name: other}
    yield {**tensors, "extra": torch.ones(1)}
    yield {}


def _bytes(data: bytes) -> Iterator[bytes]:
    """A file cut off, longer, and with single bits and header lengths changed."""
    for length in (0, 1, 8, 9, len(data) // 2, len(data) - 1):
        yield data[:length]
    yield data + b"x"
    for length in (0, 1, 2**31, 2**63):
        yield struct.pack("<Q", length) + data[8:]
    random = np.random.default_rng(0)
    for place in random.integers(0, len(data), 60):
        yield data[:place] + bytes([data[place] ^ (1 << int(random.integers(8)))]) + data[place + 1 :]


@pytest.mark.parametrize("kind", KINDS)
def test_own_files(kind: str, tmp_path: Path) -> None:
    torch.manual_seed(0)
    write, readers = KINDS[kind]
    good, path, run, wrong = tmp_path / "good.safetensors", tmp_path / "f.safetensors", Limits(), []
    write(good)
    tensors, header = read_tensors(good)
    for reader in readers + EVERY:
        reader(good)
    cases: list[Callable[[], object]] = []
    cases += [lambda other=other: write_tensors(path, tensors, other) for other in _headers(header)]
    cases += [lambda other=other: write_tensors(path, other, header) for other in _tensors(tensors)]
    cases += [lambda data=data: path.write_bytes(data) for data in _bytes(good.read_bytes())]
    chosen = np.random.default_rng(1).permutation(len(cases))[:MOST]
    for number in sorted(chosen):
        cases[number]()
        for reader in readers if number % 7 else readers + EVERY:
            if found := run(reader, path):
                wrong.append(f"case {number}: {getattr(reader, '__qualname__', reader)} {found}")
    assert not wrong, f"{len(wrong)} of {run.count}:\n" + "\n".join(wrong[:20])
    assert run.count > MOST


def test_damage_is_found_and_named(tmp_path: Path) -> None:
    """A flipped bit anywhere in the numbers or in the header's values; a file without checksum is read as before."""
    good, path = tmp_path / "good.safetensors", tmp_path / "f.safetensors"
    _generator2(good)
    data = good.read_bytes()
    start = 8 + struct.unpack("<Q", data[:8])[0]
    config = data.index(b"channel_max") + len('channel_max\\": ')
    for place in (*range(start, len(data), 7), config):
        path.write_bytes(data[:place] + bytes([data[place] ^ 1]) + data[place + 1 :])
        for reader in (load_generator, inspect, read_tensors):
            with pytest.raises(ValueError, match=r"f\.safetensors is damaged: its contents do not fit its checksum"):
                reader(path)
    with safe_open(good, framework="pt") as file:
        header, tensors = file.metadata(), {name: file.get_tensor(name) for name in file.keys()}
    assert len(header.pop(CHECKSUM)) == 64
    save_file(tensors, path, header)
    old, new = load_generator(path), load_generator(good)
    assert all(torch.equal(value, new.state_dict()[name]) for name, value in old.state_dict().items())


@pytest.mark.parametrize("kind", ["identity", "codes", "motion"])
def test_numbers_that_are_not_finite_are_refused_by_name(kind: str, tmp_path: Path) -> None:
    path = tmp_path / f"{kind}.safetensors"
    write, (load, *_) = KINDS[kind]
    write(path)
    tensors, header = read_tensors(path)
    for name, value in tensors.items():
        if value.is_floating_point():
            for number in (math.nan, math.inf, -math.inf):
                broken = value.clone()
                broken.view(-1)[-1] = number
                write_tensors(path, {**tensors, name: broken}, header)
                short = name.split(".", 1)[-1] if name.startswith(("tensor.", "delta.", "feature.")) else name
                with pytest.raises(ValueError, match=rf"{path.name}.*'{short}' that are not finite"):
                    load(path)


# --- headers that ask for more than the file has


def test_a_small_file_that_asks_for_large_networks(tmp_path: Path) -> None:
    path, run = tmp_path / "f.safetensors", Limits()
    wide = {"resolution": 1024, "channel_base": 2**18, "channel_max": 20_000, "w_dim": 20_000, "z_dim": 20_000}
    rows = {"rows": [0, 1], "w_dim": 2**18, "rate": "25", "generator": "0", "width": 2**18, "components": 2**18}
    configs: list[tuple[str, Any, Read]] = [
        ("stylegan2", wide, load_generator),
        ("stylegan2", wide, load_generator_file),
        ("stylegan3", wide, load_generator),
        ("discriminator", {k: v for k, v in wide.items() if k[1] != "_"}, load_discriminator_file),
        (MASKS, {"channels": [20_000] * 60}, load_masks),
        (VIDEO, rows, load_model),
        ("style_encoder", {"width": 4096, "w_dim": 2**16, "rows": 60}, load_encoder_file),
        ("hfgi", {"channels": 20_000}, load_hfgi_file),
    ]
    assert set(wide) >= {"resolution"} and StyleEncoderConfig(rows=60) and HFGIConfig(20_000)
    for kind, config, reader in configs:
        save_file({}, path, {"format": "stylereel", "kind": kind, "config": json.dumps(config)})
        assert path.stat().st_size < 600
        assert not (found := run(reader, path)), f"{kind} {found}"
        with pytest.raises(ValueError, match=r"f\.safetensors"):
            reader(path)


def test_a_network_is_built_only_when_the_file_fits(tmp_path: Path) -> None:
    built: list[str] = []

    def build(config: dict[str, Any]) -> nn.Module:
        made = nn.Linear(2, config["size"])
        built.append(made.weight.device.type)
        return made

    save_module(tmp_path / "f", "linear", nn.Linear(2, 2))
    tensors, header = read_tensors(tmp_path / "f")
    write_tensors(tmp_path / "f", tensors, {**header, "config": '{"size": 3}'})
    with pytest.raises(ValueError, match=r"weight is \[2, 2\], not \[3, 2\]"):
        load_module(tmp_path / "f", "linear", build)
    assert built == ["meta"]
    write_tensors(tmp_path / "f", tensors, {**header, "config": '{"size": 2}'})
    load_module(tmp_path / "f", "linear", build)
    assert built == ["meta", "meta", "cpu"]


@pytest.mark.parametrize("place", ["state_dict", "g_ema", "nested"])
def test_one_tensor_under_many_names(place: str, tmp_path: Path) -> None:
    shared = torch.zeros(1000, 1000, dtype=torch.float16)
    many: dict[str, Any] = {f"mapping.fc{i}.weight": shared for i in range(3000)}
    many |= {"synthesis.b4.const": torch.zeros(2, 4, 4), "body.0.res_layer.1.weight": shared, "linear.weight": shared}
    if place == "nested":
        for _ in range(3):
            many = {f"part{i}": many for i in range(1000)}
    torch.save({place: many}, tmp_path / "f.pt")
    run = Limits()
    for reader in (load_generator_file, load_encoder_file, lambda path: weights_info(str(path))):
        assert not (found := run(reader, tmp_path / "f.pt")), found
        with pytest.raises(ValueError, match=r"f\.pt"):
            reader(tmp_path / "f.pt")


# --- arrays of NumPy


def _npy(header: bytes, data: bytes = b"\0" * 64, version: tuple[int, int] = (1, 0)) -> bytes:
    size = struct.pack("<H" if version[0] == 1 else "<I", len(header))
    return b"\x93NUMPY" + bytes(version) + size + header + data


def _arrays() -> Iterator[bytes]:
    """Broken .npy files, and good ones of kinds that are no numbers."""
    shapes = ["(2,", "(2, 4)", "(10**9,)", "(10000000000000,)", "(-1,)", "(2.0,)", "('a',)", "(1, " * 50, "None", "()"]
    kinds = ["'<f4'", "'|O'", "'<U0'", "'|V8'", "'<f99'", "[('a', '<f4')]", "'<M8[s]'", "None", "'" + "f" * 5000 + "'"]
    for shape in shapes:
        for kind in kinds:
            yield _npy(f"{{'descr': {kind}, 'fortran_order': False, 'shape': {shape}, }}\n".encode())
    good = b"{'descr': '<f4', 'fortran_order': False, 'shape': (16,), }\n"
    others = [b"{", b"{}", b"[", b"'", b"(" * 9000, b"import os", b"\xff\xfe", b"", b"1_\n  0\n"]
    for other in [*others, good.replace(b"descr", b"d")]:
        yield _npy(other)
        yield _npy(other, version=(2, 0))
        yield _npy(other, version=(3, 0))
    for version in ((0, 0), (4, 0), (255, 255)):
        yield _npy(good, version=version)
    yield _npy(good, b"\0" * 63)
    yield _npy(good, b"")
    yield _npy(good.replace(b"False", b"7"))
    yield from _bytes(_npy(good))
    file = io.BytesIO()
    np.save(file, np.array([{"a": 1}], object), allow_pickle=True)
    yield file.getvalue()
    for array in (
        np.array("text"),
        np.array(np.nan),
        np.array(3.0),
        np.zeros((0, 3)),
        np.ones(3, complex),
        np.full(4, np.inf),
    ):
        file = io.BytesIO()
        np.save(file, array)
        yield file.getvalue()


def _zips() -> Iterator[bytes]:
    member = io.BytesIO()
    np.save(member, np.ones((4, 3), np.float32))
    for method in (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED, zipfile.ZIP_BZIP2, zipfile.ZIP_LZMA):
        for name in ("X_comp.npy", "X_comp", "../a.npy", "a\n.npy", "."):
            file = io.BytesIO()
            with zipfile.ZipFile(file, "w", method) as archive:
                archive.writestr(name, member.getvalue())
                archive.writestr("X_stdev.npy", member.getvalue())
            yield file.getvalue()
    yield from _bytes(file.getvalue())
    for size in (10**6, 3 * 10**9):  # of zeros, a thousandth of that in the file
        file = io.BytesIO()
        with zipfile.ZipFile(file, "w", zipfile.ZIP_DEFLATED) as archive, archive.open("X_comp.npy", "w") as entry:
            header = f"{{'descr': '<f4', 'fortran_order': False, 'shape': ({size // 4},), }}\n".encode()
            entry.write(_npy(header, b""))
            for _ in range(size // 10**6 if size < 10**9 else 0):
                entry.write(bytes(10**6))
        yield file.getvalue()


def _latents(path: Path) -> object:
    from stylereel.train import sources

    return sources._arrays(path)


@pytest.mark.parametrize("kind", ["npy", "npz"])
def test_arrays(kind: str, tmp_path: Path) -> None:
    path, run, wrong = tmp_path / f"f.{kind}", Limits(), []
    readers: list[Read] = [read_arrays, read, lambda path: read(path, 0), _latents]
    readers += [open_array, unpickle_npy] if kind == "npy" else []
    for number, data in enumerate(_arrays() if kind == "npy" else _zips()):
        path.write_bytes(data)
        for reader in readers:
            if found := run(reader, path):
                wrong.append(f"case {number}: {getattr(reader, '__qualname__', reader)} {found} of {data[:80]}")
    assert not wrong, f"{len(wrong)} of {run.count}:\n" + "\n".join(wrong[:20])


def test_an_archive_that_unfolds_to_more_than_it_may(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(arrays, "UNFOLDED", 2**24)  # else the test would have to write as much as is allowed
    path, run = tmp_path / "f.npz", Limits()
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        for part in range(2):
            with archive.open(f"{part}.npy", "w") as entry:
                entry.write(_npy(b"{'descr': '|u1', 'fortran_order': False, 'shape': (10000000,), }\n", b""))
                for _ in range(10):
                    entry.write(bytes(10**6))
    assert path.stat().st_size < 10**6
    for reader in (read_arrays, read, _latents):
        assert not (found := run(reader, path)), found
        with pytest.raises(ValueError, match="unfolds to far more than its own size"):
            reader(path)


def test_good_arrays_are_read(tmp_path: Path) -> None:
    good = {"a": np.arange(6.0).reshape(2, 3), "b": np.asfortranarray(np.arange(6, dtype=">i2").reshape(2, 3))}
    good["names"] = np.array(["one", "two"])
    np.savez_compressed(tmp_path / "f.npz", **good)
    for name, value in read_arrays(tmp_path / "f.npz").items():
        assert np.array_equal(value, good[name]) and value.flags.writeable
    for name, value in good.items():
        np.save(tmp_path / "f.npy", value)
        assert np.array_equal(open_array(tmp_path / "f.npy"), value)
        assert np.array_equal(read_arrays(tmp_path / "f.npy")[""], value), name
