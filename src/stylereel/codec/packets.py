"""The container: packets that a reader finds again after damage, and what the header and identity packets hold.

Every packet is

    SYNC (2 bytes) | kind (1) | length of the body (varint) | check of kind and length (1) | body | CRC-32 (4)

Numbers longer than a byte are little endian; a varint has seven bits a byte, lowest first, the top bit says that more
follow; a string is a varint length and UTF-8.
"""

from __future__ import annotations

import math
import struct
import zlib
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from fractions import Fraction

import numpy as np
import torch
from safetensors import SafetensorError
from safetensors.torch import load, save
from torch import Tensor

from stylereel.codec.entropy import DamagedError, decode_tracks, encode_tracks
from stylereel.codec.tracks import KNOWN, MAX_EVERY
from stylereel.core.latents import Identity, MotionKind

MAGIC = b"\x89TALK\r\n\x01"  # the last byte is the version
SYNC = b"\xd1\x5a"
HEADER, IDENTITY, GROUP, INDEX = b"HIGX"
TAIL = b"klat"  # after the length of the index packet (4 bytes), the last bytes of a finished file

MAX_BODY = {HEADER: 1 << 20, IDENTITY: 1 << 28, GROUP: 1 << 20, INDEX: 1 << 22}
MAX_TRACKS, MAX_GROUP, MAX_VALUES = 1 << 15, 4096, 1 << 22  # tracks; frames and numbers of a group
MAX_FRAMES, MAX_TOTAL = 1 << 22, 1 << 26  # frames of a file; numbers of a whole motion
MAX_TENSORS = 1 << 30  # bytes of an identity's tensors
PLACEMENT = ("x", "y", "side", "roll")
ROLL_STEP = 0.25  # degrees
FINEST = 1 / 64  # step of a generator's tuning
CODE_STEPS = 64  # a step of an identity's W+ is this part of its root mean square


@dataclass(frozen=True)
class Header:
    """What a decoder must know before the first group.

    rate: frames a second; kind, names: of the motion; rest, steps: float64 [K], a value is rest + step * integer;
    lever: the factor on known steps, 0 where the file holds the steps; every: which frames are coded; group: frames
    of a group; placement: step in pixels and rest (x, y, side, roll) of the crops, None without; system, generator:
    what it was made with, the second as the SHA-256 of its weights; num_faces: as in Motion; sound: samples to drop at
    its start, None without sound.
    """

    rate: Fraction
    kind: MotionKind
    names: tuple[str, ...]
    rest: np.ndarray
    steps: np.ndarray
    lever: float
    every: int
    group: int
    placement: tuple[float, tuple[float, ...]] | None
    system: str
    generator: bytes
    num_faces: int = 1
    sound: int | None = None

    def __post_init__(self) -> None:
        count = len(self.names)
        numbers = [*self.rest, *self.steps, *((self.placement[0], *self.placement[1]) if self.placement else ())]
        if (
            not 0 < count <= MAX_TRACKS
            or not 1 <= self.every <= MAX_EVERY
            or not 1 <= self.group <= MAX_GROUP
            or count * self.group > MAX_VALUES
            or not 0 < self.rate <= 1000
            or self.rate.denominator > 1 << 20
            or len(self.generator) not in (0, 32)
            or not all(math.isfinite(number) and abs(number) < 1e20 for number in numbers)
            or not all(step > 0 for step in self.steps)
            or (self.placement is not None and not self.placement[0] > 0)
        ):
            raise ValueError(
                f"A talk file holds 1 to {MAX_TRACKS} tracks with steps above 0 at up to 1000 frames a second, "
                f"in groups of 1 to {MAX_GROUP} frames of {MAX_VALUES} numbers in all."
            )

    def pack(self) -> bytes:
        flags = bool(self.lever) | 2 * (self.placement is not None) | 4 * (self.sound is not None)
        flags |= 8 * self.kind.relative
        if self.lever:
            flags |= 16 * [known.names for known in KNOWN[self.kind.coordinates]].index(self.names)
        parts = [bytes([flags]), *map(varint, (self.rate.numerator, self.rate.denominator, self.every, self.group))]
        parts += [varint(self.num_faces), string(self.kind.coordinates), string(self.system)]
        parts.append(varint(len(self.generator)))
        parts.append(self.generator)
        if self.lever:
            parts.append(struct.pack("<f", self.lever))
        else:
            names = zlib.compress("\n".join(self.names).encode(), 9)
            parts += [varint(len(self.names)), varint(len(names)), names]
            parts.append(np.concatenate([self.rest, self.steps]).astype("<f4").tobytes())
        if self.placement is not None:
            parts.append(struct.pack("<5f", self.placement[0], *self.placement[1]))
        if self.sound is not None:
            parts.append(varint(self.sound))
        return b"".join(parts)

    @classmethod
    def unpack(cls, body: bytes) -> Header:
        """The header in a packet's body. Raises DamagedError."""
        take = Take(body)
        flags = take.byte()
        numerator, denominator, every, group, num_faces = (take.varint() for _ in range(5))
        kind, system, generator = MotionKind(take.string(), bool(flags & 8)), take.string(), take.bytes(take.varint(32))
        lever = 0.0
        if flags & 1:
            (lever,) = take.floats(1)
            if kind.coordinates not in KNOWN:
                raise DamagedError(f"Motion of kind {kind} is not known to this version.")
            if len(KNOWN[kind.coordinates]) <= bool(flags & 16):
                raise DamagedError("The header names tracks that no file has.")
            known = KNOWN[kind.coordinates][bool(flags & 16)]
            names, rest = known.names, known.rest_of(kind)
            steps = np.array(known.steps) * lever
        else:
            count = take.varint(MAX_TRACKS)
            text = inflate(take.bytes(take.varint(MAX_BODY[HEADER])), MAX_TRACKS * 256)
            names = tuple(text.decode("utf-8", "replace").split("\n"))
            if len(names) != count:
                raise DamagedError("The header names another number of tracks than it has.")
            numbers = np.array(take.floats(2 * count))
            rest, steps = numbers[:count], numbers[count:]
        placement = None
        if flags & 2:
            step, *centre = take.floats(5)
            placement = step, tuple(centre)
        skip = take.varint(1 << 16) if flags & 4 else None
        try:
            rate = Fraction(numerator, denominator)
            return cls(
                rate, kind, names, rest, steps, lever, every, group, placement, system, generator, num_faces, skip
            )
        except (ValueError, ZeroDivisionError) as error:
            raise DamagedError("The header holds numbers that no file has.") from error


@dataclass(frozen=True)
class Reference:
    """An identity that is not in the file: the SHA-256 of an identity file that both sides have, and its name."""

    sha256: bytes
    name: str


def pack_identity(identity: Identity | Reference) -> bytes:
    """The body of an identity packet.

    W+ is coded in whole steps of 1/64 of its root mean square, row from row; a tuning in steps of about a quarter of
    each tensor's, which takes a tenth to a fifth of what it is in single precision; other tensors of more than 64
    numbers in half precision.
    """
    if isinstance(identity, Reference):
        return b"\0" + identity.sha256 + string(identity.name)
    w = identity.w.detach().cpu().float().numpy()
    step = np.float32(max(float(np.sqrt(np.mean(w.astype(np.float64) ** 2))), 1e-6) / CODE_STEPS)
    coded = encode_tracks(np.rint(w / step).astype(np.int64))
    parts = {f"tensor.{name}": value for name, value in identity.tensors.items()}
    parts |= {f"delta.{name}": _coarse(name, change) for name, change in identity.delta.items()}
    halves = {name: _half(value.detach().cpu()).contiguous() for name, value in parts.items()}
    rest = zlib.compress(save(halves), 9) if halves else b""
    head = [b"\1", string(identity.system), varint(w.shape[0]), varint(w.shape[1]), step.tobytes()]
    return b"".join([*head, varint(len(coded)), coded, rest])


def _coarse(name: str, change: Tensor) -> Tensor:
    """A tensor of a tuning in whole steps, which are exact in half precision: the power of two next to a quarter of its
    root mean square. One step for all would lose those that change little, as the ones that make colours. A generator's
    parameters are all of the size of 1, so that finer steps than `FINEST` are not seen."""
    change = change.float()
    mean = float(change.square().mean().sqrt()) if change.numel() else 0.0
    if not 0 < mean < math.inf:
        return change
    step = 2.0 ** round(math.log2(max(mean / 4, FINEST if name.startswith("synthesis.") else 0.0)))
    return step * (change / step).round()


def _half(value: Tensor) -> Tensor:
    """Large tensors in half precision, if they fit into it; a few numbers cost nothing."""
    half = value.half() if value.is_floating_point() and value.numel() > 64 else value
    return half if half.dtype != torch.float16 or bool(half.isfinite().all()) else value


def unpack_identity(body: bytes) -> Identity | Reference:
    """What `pack_identity` wrote. Raises DamagedError."""
    take = Take(body)
    if not take.byte():
        return Reference(take.bytes(32), take.string())
    system, rows, width = take.string(), take.varint(1 << 10), take.varint(1 << 14)
    (step,) = take.floats(1)
    values, _ = decode_tracks(take.bytes(take.varint(len(body))), rows, width)
    rest = take.rest()
    tensors: Mapping[str, Tensor] = {}
    if rest:
        try:
            tensors = load(inflate(rest, MAX_TENSORS))
        except (SafetensorError, ValueError, KeyError) as error:
            raise DamagedError("The identity holds tensors that cannot be read.") from error
    floats = {name: value.float() if value.is_floating_point() else value for name, value in tensors.items()}
    w = torch.from_numpy((values * step).astype(np.float32))

    def under(prefix: str) -> dict[str, Tensor]:
        return {name.removeprefix(prefix): value for name, value in floats.items() if name.startswith(prefix)}

    return Identity(w, system, under("tensor."), under("delta."))


# --- bytes


def varint(number: int) -> bytes:
    out = bytearray()
    while number > 127:
        out.append(number & 127 | 128)
        number >>= 7
    return bytes([*out, number])


def string(text: str) -> bytes:
    data = text.encode()
    return varint(len(data)) + data


def inflate(data: bytes, limit: int) -> bytes:
    """The bytes that zlib packed, at most `limit`. Raises DamagedError."""
    machine = zlib.decompressobj()
    try:
        out = machine.decompress(data, limit)
    except zlib.error as error:
        raise DamagedError("Packed bytes are damaged.") from error
    if not machine.eof:
        raise DamagedError("Packed bytes are cut, or hold more than any file has.")
    return out


class Take:
    """Reads a body from its beginning on. Raises DamagedError where it ends too soon."""

    def __init__(self, body: bytes) -> None:
        self._body, self._at = body, 0

    @property
    def position(self) -> int:
        """How much of the body is read."""
        return self._at

    def bytes(self, count: int) -> bytes:
        if self._at + count > len(self._body):
            raise DamagedError("A packet ends too soon.")
        self._at += count
        return self._body[self._at - count : self._at]

    def byte(self) -> int:
        return self.bytes(1)[0]

    def varint(self, limit: int = 1 << 31) -> int:
        number, shift = 0, 0
        while True:
            byte = self.byte()
            number |= (byte & 127) << shift
            if number > limit or shift > 63:
                raise DamagedError("A packet holds a number that no file has.")
            if byte < 128:
                return number
            shift += 7

    def string(self) -> str:
        return self.bytes(self.varint(1 << 16)).decode("utf-8", "replace")

    def floats(self, count: int) -> list[float]:
        return list(struct.unpack(f"<{count}f", self.bytes(4 * count)))

    def rest(self) -> bytes:
        return self.bytes(len(self._body) - self._at)


def packet(kind: int, body: bytes) -> bytes:
    head = bytes([kind]) + varint(len(body))
    check = bytes([zlib.crc32(head) & 255])
    return SYNC + head + check + body + struct.pack("<I", zlib.crc32(body, zlib.crc32(head)))


@dataclass
class Scanner:
    """Finds packets in bytes that come piece by piece; what is damaged is passed over.

    damaged: bytes that belonged to no whole packet. `offset` of a packet counts from the first byte ever fed.
    """

    damaged: int = 0
    _buffer: bytearray = field(default_factory=bytearray)
    _at: int = 0
    _checked: int = 0
    _fed: int = 0

    def feed(self, data: bytes, last: bool = False) -> Iterator[tuple[int, bytes, int, int]]:
        """Packets (kind, body, offset, length) that are whole by now; `last`: no more bytes will come."""
        self._buffer += data
        self._fed += len(data)
        while True:
            start = self._buffer.find(SYNC)
            keep = len(self._buffer) - 1 if start < 0 and not last else len(self._buffer)
            self._drop(min(start if start >= 0 else keep, len(self._buffer)), damaged=True)
            if start < 0:
                return
            found = self._packet()
            if found is None and not last:
                return  # it may go on
            if isinstance(found, tuple):
                kind, body, length = found
                yield kind, body, self._at, length
                self._drop(length, damaged=False)
            else:
                self._drop(len(SYNC), damaged=True)

    def _drop(self, count: int, damaged: bool) -> None:
        del self._buffer[: max(count, 0)]
        self._at += max(count, 0)
        self.damaged += max(count, 0) if damaged else 0

    def _packet(self) -> tuple[int, bytes, int] | bool | None:
        """The packet at the buffer's beginning; False: it is none; None: it is not whole yet."""
        length, at = 0, 3
        while True:
            if at >= len(self._buffer):
                return None
            byte = self._buffer[at]
            length |= (byte & 127) << (7 * (at - 3))
            at += 1
            if byte < 128:
                break
            if at > 8:
                return False
        kind = self._buffer[2]
        if at >= len(self._buffer):
            return None
        head = bytes(self._buffer[2:at])
        if length > MAX_BODY.get(kind, -1) or self._buffer[at] != zlib.crc32(head) & 255:
            return False
        end = at + 1 + length + 4
        if end > len(self._buffer):
            return None
        self._checked += length
        if self._checked > 16 * self._fed + (1 << 24):
            raise DamagedError("The file holds more false packets than any damage makes.")
        body = bytes(self._buffer[at + 1 : end - 4])
        good = struct.unpack("<I", self._buffer[end - 4 : end])[0] == zlib.crc32(body, zlib.crc32(head))
        return (kind, body, end) if good else False
