"""Talk files: who, what happens and what is heard, in groups that decode alone.

write(path, motion, identity, ...)      a whole motion
Writer(file, header, identity)          frame by frame, for a live sender
read(path)                              all that is whole; gaps are filled, and counted
Receiver()                              the same from bytes as they come
Reader(path)[frame]                     any frame by reading at most one group
"""

from __future__ import annotations

import itertools
import struct
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from fractions import Fraction
from pathlib import Path
from typing import BinaryIO, Protocol

import numpy as np

from stylereel.codec import sound as opus
from stylereel.codec.entropy import DamagedError, decode_tracks, encode_tracks
from stylereel.codec.packets import (
    GROUP,
    HEADER,
    IDENTITY,
    INDEX,
    MAGIC,
    MAX_FRAMES,
    MAX_TOTAL,
    MAX_VALUES,
    PLACEMENT,
    ROLL_STEP,
    TAIL,
    Header,
    Reference,
    Scanner,
    Take,
    pack_identity,
    packet,
    unpack_identity,
    varint,
)
from stylereel.codec.tracks import KNOWN, between, fill, metric_of, nodes, spread_steps, to_integers, to_values
from stylereel.core.files import MediaError, replacing, require_file
from stylereel.core.latents import Identity, Motion

GROUP_SECONDS = 4
LEVERS = (0.002, 16.0)  # of step sizes that a target rate may come to
NEIGHBOURS, FURTHER = 5, 1.012  # levers that are tried next to that of the rate, and how far apart
PIECE = 1 << 16  # bytes read at a time


@dataclass(frozen=True)
class Group:
    """One group as it was decoded.

    number: of the group; fine: int64 [N, K] in 1/16 of a step; crops: the same of the placement [N, 4], or None;
    missing: bool [N], frames without a face; sound: the first packet's number and the packets.
    """

    number: int
    fine: np.ndarray
    crops: np.ndarray | None
    missing: np.ndarray
    sound: tuple[int, list[bytes]] | None


@dataclass
class Sizes:
    """Bytes of a file by what they are for."""

    header: int = 0
    identity: int = 0
    motion: int = 0
    placement: int = 0
    sound: int = 0
    index: int = 0
    checks: int = 0

    @property
    def total(self) -> int:
        return sum(vars(self).values())

    def kilobits(self, seconds: float, *parts: str) -> float:
        """kbit/s of some parts, or of all."""
        return 8 * sum(vars(self)[part] for part in parts or vars(self)) / seconds / 1000


@dataclass(frozen=True)
class Talk:
    """What a file holds.

    motion: all frames, gaps filled; identity: None if the file has none, or none that is whole; lost: (first frame,
    count) of what was filled because its group is not whole; sound: float32 [N] at 48 kHz, silence where it is lost,
    or None; sizes: bytes by what they are for.
    """

    header: Header
    motion: Motion
    identity: Identity | Reference | None
    lost: tuple[tuple[int, int], ...]
    sound: np.ndarray | None
    sizes: Sizes
    fine: np.ndarray = field(repr=False, default_factory=lambda: np.zeros((0, 0), np.int64))


def header_of(
    motion: Motion,
    system: str = "",
    generator: str = "",
    lever: float = 1.0,
    every: int = 1,
    group: int | None = None,
    placement: bool = True,
    sound: int | None = None,
) -> Header:
    """The header of a motion's file.

    lever: factor on all steps; every: which frames are coded, the others lie between; group: frames of a group, 4
    seconds by default; generator: SHA-256 of its weights in hex.

    Raises ValueError for settings that no file can have.
    """
    if not lever > 0:
        raise ValueError(f"The factor on step sizes must be above 0, not {lever:g}.")
    lever = float(np.float32(lever))
    known = next((each for each in KNOWN.get(motion.kind.coordinates, ()) if each.names == motion.names), None)
    if known is not None:
        factor, rest, steps = lever, known.rest_of(motion.kind), np.array(known.steps) * lever
    else:
        factor = 0.0
        rest = motion.values.mean(0).astype(np.float32).astype(np.float64)
        steps = (spread_steps(motion.values) * lever).astype(np.float32).astype(np.float64)
    crops = None
    if placement:
        centre = np.asarray(motion.placement, np.float64).mean(0) if len(motion) else np.zeros(4)
        step = np.float32(max(lever * abs(centre[2]) / 256, 1e-3))
        crops = float(step), tuple(float(np.float32(value)) for value in centre)
    return Header(
        motion.rate,
        motion.kind,
        motion.names,
        rest,
        steps,
        factor,
        every,
        group or max(1, round(GROUP_SECONDS * motion.rate)),
        crops,
        system,
        bytes.fromhex(generator),
        motion.num_faces,
        sound,
    )


def _crop_steps(header: Header) -> tuple[np.ndarray, np.ndarray]:
    assert header.placement is not None
    step, rest = header.placement
    return np.array(rest), np.array([step, step, step, ROLL_STEP])


def integers_of(header: Header, values: np.ndarray) -> np.ndarray:
    """The integers [M, K] that are coded of a group's frames [N, K]."""
    metric = metric_of(header.kind.coordinates, header.names)
    return to_integers(values, header.rest, header.steps, header.every, metric)


def encode_group(
    header: Header,
    number: int,
    values: np.ndarray,
    placement: np.ndarray | None = None,
    missing: Sequence[bool] | np.ndarray = (),
    sound: tuple[int, Sequence[bytes]] | None = None,
) -> tuple[bytes, Sizes]:
    """The packet of a group of frames [N, K], and its bytes by what they are for.

    placement: [N, 4]; missing: flags [N], or none; sound: number of the first packet, and packets.
    """
    frames, sizes = len(values), Sizes()
    flags = np.asarray(missing, bool)
    coded = encode_tracks(integers_of(header, values), flags if flags.any() else ())
    mark = (frames != header.group) | 2 * bool(flags.any()) | 4 * (placement is not None and bool(header.placement))
    mark |= 8 * bool(sound and sound[1])
    parts = [varint(number), bytes([mark])]
    if mark & 1:
        parts.append(varint(frames))
    parts += [varint(len(coded)), coded]
    sizes.motion = sum(map(len, parts))
    if mark & 4:
        assert placement is not None
        rest, steps = _crop_steps(header)
        crops = encode_tracks(to_integers(placement, rest, steps, header.every))
        parts += [varint(len(crops)), crops]
        sizes.placement = sum(map(len, parts[-2:]))
    if mark & 8:
        assert sound is not None
        first, packets = sound
        lengths = {len(data) for data in packets}
        common = lengths.pop() if len(lengths) == 1 else 0
        block = [varint(first), varint(len(packets)), varint(common)]
        block += packets if common else itertools.chain.from_iterable((varint(len(data)), data) for data in packets)
        parts += block
        sizes.sound = sum(map(len, block))
    whole = packet(GROUP, b"".join(parts))
    sizes.checks = len(whole) - sizes.total
    return whole, sizes


def decode_group(header: Header, body: bytes) -> tuple[Group, Sizes]:
    """The group in a packet's body. Raises DamagedError."""
    take, sizes = Take(body), Sizes()
    number, mark = take.varint(MAX_FRAMES), take.byte()
    frames = take.varint(header.group) if mark & 1 else header.group
    if not frames:
        raise DamagedError("A group without frames.")
    count = len(nodes(frames, header.every))
    coded, missing = decode_tracks(
        take.bytes(take.varint(len(body))), count, len(header.names), frames if mark & 2 else 0
    )
    fine = between(coded, frames, header.every)
    sizes.motion = take.position
    crops = None
    if mark & 4:
        if header.placement is None:
            raise DamagedError("A group with crops in a file without.")
        crops = between(
            decode_tracks(take.bytes(take.varint(len(body))), count, len(PLACEMENT))[0], frames, header.every
        )
        sizes.placement = take.position - sizes.motion
    sound = None
    if mark & 8:
        first, packets, common = take.varint(1 << 24), take.varint(1 << 16), take.varint(opus.MAX_PACKET)
        found = [take.bytes(common or take.varint(opus.MAX_PACKET)) for _ in range(packets)]
        sound = first, found
        sizes.sound = take.position - sizes.motion - sizes.placement
    return Group(number, fine, crops, missing if mark & 2 else np.zeros(frames, bool), sound), sizes


def _packets_until(frames: int, rate: Fraction) -> int:
    """How many packets of sound begin before the end of that many frames."""
    return -int(-(frames / rate * opus.RATE) // opus.PACKET)


class Sink(Protocol):
    """What a writer needs of a file or a connection."""

    def write(self, data: bytes, /) -> object: ...


class Writer:
    """Writes a file as frames come; needs nothing but `write` of it, so that it may be a socket.

    A group goes out when its last frame is there. `close` (or the end of a `with` block) writes the rest and the index.
    """

    def __init__(self, file: Sink, header: Header, identity: Identity | Reference | None = None) -> None:
        self.header, self.sizes = header, Sizes()
        self._file, self._written, self._offsets = file, 0, []
        self._rows: list[tuple[np.ndarray, np.ndarray | None, bool]] = []
        self._packets: list[bytes] = []
        self._sent = self._frames = 0
        first = MAGIC + packet(HEADER, header.pack())
        self._write(first)
        self.sizes.header = len(first)
        if identity is not None:
            second = packet(IDENTITY, pack_identity(identity))
            self._write(second)
            self.sizes.identity = len(second)

    def add(self, values: np.ndarray, placement: np.ndarray | None = None, missing: bool = False) -> None:
        """One frame: motion values [K], its crop [4], whether it has no face. Raises ValueError for other shapes."""
        values = np.asarray(values, np.float64)
        if values.shape != (len(self.header.names),):
            raise ValueError(f"A frame has {len(self.header.names)} motion values, not {values.shape}.")
        if not np.isfinite(values).all() or (placement is not None and not np.isfinite(placement).all()):
            raise ValueError("Motion holds numbers that are not finite; they cannot be coded.")
        if self.header.placement and placement is None:
            raise ValueError("This file has crops; give one with each frame.")
        if self._frames >= MAX_FRAMES:
            raise ValueError(f"A file holds at most {MAX_FRAMES} frames; begin another.")
        self._rows.append((values, None if placement is None else np.asarray(placement, np.float64), missing))
        self._frames += 1
        if len(self._rows) == self.header.group:
            self._flush()

    def add_sound(self, packets: Iterable[bytes]) -> None:
        """Opus packets of 20 ms that go on from those before; they go out with the group in whose time they begin."""
        if self.header.sound is None:
            raise ValueError("The header says that there is no sound; give it how many samples to drop at its start.")
        self._packets.extend(packets)

    def _flush(self, last: bool = False) -> None:
        rows = self._rows
        crops = np.array([row[1] for row in rows]) if self.header.placement else None
        due = len(self._packets) if last else _packets_until(self._frames, self.header.rate) - self._sent
        packets, self._packets = self._packets[:due], self._packets[due:]
        data, sizes = encode_group(
            self.header,
            len(self._offsets),
            np.array([row[0] for row in rows]),
            crops,
            [row[2] for row in rows],
            (self._sent, packets),
        )
        self._sent += len(packets)
        self._offsets.append(self._written)
        self._write(data)
        for name, value in vars(sizes).items():
            setattr(self.sizes, name, getattr(self.sizes, name) + value)
        self._rows = []

    def close(self) -> None:
        """Write the frames that are left, the header once more in case the first is lost, and the index."""
        if self._rows:
            self._flush(last=True)
        copy = packet(HEADER, self.header.pack())
        self._write(copy)
        self.sizes.header += len(copy)
        steps = np.diff([0, *self._offsets]).tolist()
        body = varint(len(self._offsets)) + varint(self._frames) + b"".join(map(varint, steps))
        index = packet(INDEX, body)
        end = index + struct.pack("<I", len(index)) + TAIL
        self._write(end)
        self.sizes.index = len(end)

    def _write(self, data: bytes) -> None:
        self._file.write(data)
        self._written += len(data)

    def __enter__(self) -> Writer:
        return self

    def __exit__(self, kind: object, *_: object) -> None:
        if kind is None:
            self.close()


def write(
    path: str | Path,
    motion: Motion,
    identity: Identity | Reference | None = None,
    system: str = "",
    generator: str = "",
    rate: float | None = None,
    lever: float = 1.0,
    every: int = 1,
    group: int | None = None,
    placement: bool = True,
    sound: str | Path | None = None,
    sound_rate: float = 8.0,
    sound_start: float = 0.0,
) -> Sizes:
    """Write a motion as a talk file (replaced only when complete), and give its bytes by what they are for.

    Args:
        path: the file.
        motion: what happens.
        identity: who, in whole or as a reference to a file that both sides have.
        system: name of the system that shows it.
        generator: SHA-256 of the generator's weights in hex.
        rate: kbit/s of motion, index and checks that the file may take; chooses lever and every.
        lever: factor on all step sizes.
        every: which frames are coded, the others lie between.
        group: frames that are coded together and decode alone; 4 seconds by default.
        placement: whether the crops go along.
        sound: a file whose sound goes along.
        sound_rate: of the sound, in kbit/s.
        sound_start: seconds of the sound before the motion begins.

    Raises:
        ValueError: settings that no file can have, or a rate that cannot be reached.
        MediaError: the sound cannot be read, or the file not written.
    """
    if not len(motion):
        raise ValueError("A motion without frames makes no file.")
    if rate is not None:
        lever, every = choose(motion, rate, group)
    packets, skip = opus.encode(sound, sound_rate, sound_start) if sound is not None else ([], None)
    header = header_of(motion, system, generator, lever, every, group, placement, skip)
    with replacing(path) as partial, partial.open("wb") as file, Writer(file, header, identity) as writer:
        if packets:
            writer.add_sound(packets[: _packets_until(len(motion), header.rate)])
        _add_all(writer, motion)
    return writer.sizes


def choose(motion: Motion, rate: float, group: int | None = None) -> tuple[float, int]:
    """The lever and the frames left out that keep motion, index and checks within `rate` kbit/s at the least error.

    The error is that of all tracks together (`tracks.metric_of`), root mean square. Raises ValueError if not even the
    coarsest steps keep it.
    """
    plain = header_of(motion, group=group)
    unit, best = plain.steps, None
    metric = metric_of(motion.kind.coordinates, motion.names)
    for every in (1, 2, 3, 4):
        low, high = (float(np.log(lever)) for lever in LEVERS)
        if _rate(motion, _with_lever(plain, np.exp(high), every)) > rate:
            continue
        for _ in range(12):
            middle = (low + high) / 2
            inside = _rate(motion, _with_lever(plain, np.exp(middle), every)) <= rate
            low, high = (low, middle) if inside else (middle, high)
        for more in range(NEIGHBOURS):  # more bits are not always less error
            lever = float(np.exp(high) * FURTHER**more)
            header = _with_lever(plain, lever, every)
            if more and _rate(motion, header) > rate:
                continue
            apart = (quantise(motion, header) - motion.values) / unit
            error = float(np.sqrt(np.einsum("ti,ij,tj->t", apart, metric, apart).mean()))
            if best is None or error < best[0]:
                best = error, lever, every
    if best is None:
        raise ValueError(f"This motion does not fit into {rate:g} kbit/s; give a higher rate, or longer groups.")
    return best[1], best[2]


def _with_lever(header: Header, lever: float, every: int) -> Header:
    """A header of a lever of 1 with another lever."""
    return replace(header, steps=header.steps * lever, lever=header.lever * lever, every=every)


class _Nowhere:
    def write(self, data: bytes) -> None:
        pass


def _rate(motion: Motion, header: Header) -> float:
    """kbit/s of motion, index and checks."""
    with Writer(_Nowhere(), replace(header, placement=None)) as writer:
        _add_all(writer, motion)
    seconds = len(motion) / float(motion.rate)
    # With a person, crops and sound between them, numbers of places and lengths take more bytes: a byte of each group's
    # place and, if it is small, one of its length, and three of the first place.
    groups = -(-len(motion) // header.group)
    reserve = 8 * (groups * (2 if writer.sizes.motion < 128 * groups else 1) + 3) / seconds / 1000
    return writer.sizes.kilobits(seconds, "motion", "index", "checks") + reserve


def _add_all(writer: Writer, motion: Motion) -> None:
    missing = set(motion.missing)
    for index, values in enumerate(motion.values):
        writer.add(values, motion.placement[index], index in missing)


def quantise(motion: Motion, header: Header) -> np.ndarray:
    """The values [T, K] that a decoder of that header's file gets."""
    parts = []
    for first in range(0, len(motion), header.group):
        values = motion.values[first : first + header.group]
        integers = integers_of(header, values)
        parts.append(to_values(between(integers, len(values), header.every), header.rest, header.steps))
    return np.concatenate(parts)


class Receiver:
    """Decodes a file as its bytes come, also from the middle of damage.

    header, identity: once they are there, or from before; sizes: bytes so far; frames: how many the index tells, once
    it is there; headless: groups that came before any header.
    """

    def __init__(self, header: Header | None = None) -> None:
        self.header = header
        self.headless = 0
        self.identity: Identity | Reference | None = None
        self.frames: int | None = None
        self.sizes = Sizes()
        self._scanner = Scanner()

    @property
    def damaged(self) -> int:
        """Bytes that belonged to nothing whole; the file's beginning and end are counted too."""
        return self._scanner.damaged

    def feed(self, data: bytes, last: bool = False) -> Iterator[Group]:
        """The groups that these bytes complete. `last`: no more bytes will come."""
        for kind, body, _, length in self._scanner.feed(data, last):
            try:
                if kind == HEADER:
                    self.header = self.header or Header.unpack(body)
                    self.sizes.header += length
                elif kind == IDENTITY and self.identity is None:
                    self.identity = unpack_identity(body)
                    self.sizes.identity += length
                elif kind == INDEX:
                    take = Take(body)
                    take.varint(MAX_FRAMES)
                    self.frames = take.varint(MAX_FRAMES)
                    self.sizes.index += length
                elif kind == GROUP and self.header is None:
                    self.headless += 1
                elif kind == GROUP:
                    assert self.header is not None
                    group, sizes = decode_group(self.header, body)
                    sizes.checks = length - sizes.total
                    for name, value in vars(sizes).items():
                        setattr(self.sizes, name, getattr(self.sizes, name) + value)
                    yield group
            except DamagedError:
                continue  # a body that no writer makes: as good as lost


def read(path: str | Path) -> Talk:
    """All that is whole in a file; gaps are filled by straight lines, and counted.

    Raises:
        MediaError: the file is none, or its header or every group is damaged.
    """
    with require_file(path).open("rb") as file:
        start = file.read(len(MAGIC))
        file.seek(max(0, file.seek(0, 2) - len(TAIL)))
        if start[:-1] != MAGIC[:-1] and file.read() != TAIL:
            raise MediaError(f"{path} is no talk file; give one that stylereel encode wrote.")
        if start[:-1] == MAGIC[:-1] and start != MAGIC:
            raise MediaError(f"{path} has version {start[-1]} of the format; this program reads version {MAGIC[-1]}.")
        try:
            receiver, groups = _receive(file, None, path)
            if receiver.headless and receiver.header is not None:  # its first header is lost; the copy came last
                receiver, groups = _receive(file, receiver.header, path)
        except DamagedError as error:
            raise MediaError(f"{path} is damaged: {error}") from error
    header = receiver.header
    if header is None:
        raise MediaError(f"The header of {path} is damaged, without which nothing can be decoded; get another copy.")
    if not groups:
        raise MediaError(f"No group of {path} is whole; get another copy.")
    return _assemble(header, receiver, groups, path)


def _receive(file: BinaryIO, header: Header | None, path: str | Path) -> tuple[Receiver, dict[int, Group]]:
    receiver, groups = Receiver(header), {}
    file.seek(0)
    for piece in itertools.chain(iter(lambda: file.read(PIECE), b""), [b""]):
        for group in receiver.feed(piece, last=not piece):
            _keep(groups, group, receiver, path)
    return receiver, groups


def _keep(groups: dict[int, Group], group: Group, receiver: Receiver, path: str | Path) -> None:
    if groups and group.number <= next(reversed(groups)):
        return  # a copy of an earlier one
    groups[group.number] = group
    assert receiver.header is not None
    if len(groups) * receiver.header.group * len(receiver.header.names) > MAX_TOTAL + MAX_VALUES:
        raise MediaError(f"{path} holds more numbers than a program can keep at once; read it by Reader.")


def _assemble(header: Header, receiver: Receiver, groups: dict[int, Group], path: str | Path) -> Talk:
    last = groups[max(groups)]
    frames = last.number * header.group + len(last.fine)
    if receiver.frames is not None and frames <= receiver.frames <= frames + MAX_FRAMES // 64:
        frames = receiver.frames
    if frames > MAX_FRAMES or frames * len(header.names) > MAX_TOTAL:
        raise MediaError(f"{path} holds more numbers than a program can keep at once; read it by Reader.")
    places = np.concatenate([one.number * header.group + np.arange(len(one.fine)) for one in groups.values()])
    fine = fill(np.concatenate([one.fine for one in groups.values()]), places.tolist(), frames)
    values = to_values(fine, header.rest, header.steps)
    if header.placement is not None and all(one.crops is not None for one in groups.values()):
        rest, steps = _crop_steps(header)
        crops = np.concatenate([one.crops for one in groups.values() if one.crops is not None])
        placement = to_values(fill(crops, places.tolist(), frames), rest, steps)
    else:
        placement = np.zeros((frames, 4), np.float32)
    here = np.zeros(frames, bool)
    here[places] = True
    flags = places[np.concatenate([one.missing for one in groups.values()])]
    motion = Motion(
        values,
        header.kind,
        header.names,
        header.rate,
        placement,
        tuple(int(index) for index in flags),
        header.num_faces,
    )
    return Talk(
        header, motion, receiver.identity, _runs(~here), _sound_packets(header, groups, frames), receiver.sizes, fine
    )


def _sound_packets(header: Header, groups: dict[int, Group], frames: int) -> np.ndarray | None:
    if header.sound is None:
        return None
    count = _packets_until(frames, header.rate)
    packets: list[bytes | None] = [None] * count
    for group in groups.values():
        if group.sound is not None:
            first, found = group.sound
            for index, data in enumerate(found[: max(0, count - first)]):
                packets[first + index] = data
    return opus.decode(packets, header.sound)


def _runs(flags: np.ndarray) -> tuple[tuple[int, int], ...]:
    """(first, count) of each run of True."""
    edges = np.flatnonzero(np.diff(np.concatenate([[0], flags.astype(np.int8), [0]])))
    return tuple((int(a), int(b - a)) for a, b in edges.reshape(-1, 2))


class Reader:
    """A file opened for looking up frames: reads the header, the index, and one group for each frame asked for.

    Without a whole index the packets are looked for once. `header`, `identity`, `len`, and `bytes_read` so far.
    """

    def __init__(self, path: str | Path) -> None:
        self._path = require_file(path)
        self._size = self._path.stat().st_size
        self.bytes_read = 0
        self._decoded: Group | None = None
        receiver = Receiver()
        self._offsets: dict[int, int] = {}
        frames = self._by_index(receiver)
        if frames is None:
            frames = self._by_scan(receiver)
        if receiver.header is None or not self._offsets:
            raise MediaError(f"{path} has no whole header or group; get another copy.")
        self.header, self.identity, self._frames = receiver.header, receiver.identity, frames

    def __len__(self) -> int:
        return self._frames

    def __getitem__(self, frame: int) -> np.ndarray:
        """Motion values [K] of a frame. Raises IndexError beyond the end, MediaError if its group is lost."""
        if not 0 <= frame < self._frames:
            raise IndexError(f"There is no frame {frame}; the file has {self._frames}.")
        number, inside = divmod(frame, self.header.group)
        if self._decoded is None or self._decoded.number != number:
            self._decoded = self._group(number)
        return to_values(self._decoded.fine[inside], self.header.rest, self.header.steps)

    def _group(self, number: int) -> Group:
        if number in self._offsets:
            start = self._offsets[number]
            later = [offset for offset in self._offsets.values() if offset > start]
            data = self._read(start, min(later, default=self._size) - start)
            for kind, body, offset, _ in Scanner().feed(data, last=True):
                if kind == GROUP and offset == 0:
                    try:
                        return decode_group(self.header, body)[0]
                    except DamagedError:
                        break
        raise MediaError(f"Group {number} of {self._path} is damaged or lost; read fills its frames from others.")

    def _read(self, start: int, count: int) -> bytes:
        with self._path.open("rb") as file:
            file.seek(start)
            data = file.read(count)
        self.bytes_read += len(data)
        return data

    def _by_index(self, receiver: Receiver) -> int | None:
        """Take the offsets from the index, and header and identity from what lies before the first group."""
        end = self._read(max(0, self._size - 8), 8)
        if len(end) < 8 or end[4:] != TAIL:
            return None
        length = struct.unpack("<I", end[:4])[0]
        if length > self._size - 8:
            return None
        found = list(Scanner().feed(self._read(self._size - 8 - length, length), last=True))
        if len(found) != 1 or found[0][0] != INDEX:
            return None
        take = Take(found[0][1])
        try:
            count, frames = take.varint(MAX_FRAMES), take.varint(MAX_FRAMES)
            offsets = np.cumsum([take.varint() for _ in range(count)])
        except DamagedError:
            return None
        if not count or int(offsets[-1]) >= self._size:
            return None
        self._offsets = {number: int(offset) for number, offset in enumerate(offsets)}
        list(receiver.feed(self._read(0, int(offsets[0])), last=True))
        return frames if receiver.header is not None else None

    def _by_scan(self, receiver: Receiver) -> int:
        scanner, frames = Scanner(), 0
        with self._path.open("rb") as file:
            pieces = itertools.chain(iter(lambda: file.read(PIECE), b""), [b""])
            try:
                for piece in pieces:
                    self.bytes_read += len(piece)
                    list(receiver.feed(piece, last=not piece))
                    for kind, body, offset, _ in scanner.feed(piece, last=not piece):
                        if kind == GROUP and receiver.header is not None:
                            take = Take(body)
                            number, mark = take.varint(), take.byte()
                            held = take.varint() if mark & 1 else receiver.header.group
                            if number * receiver.header.group + held <= MAX_FRAMES:
                                self._offsets[number] = offset
                                frames = max(frames, number * receiver.header.group + held)
            except DamagedError as error:
                raise MediaError(f"{self._path} is damaged: {error}") from error
        return frames
