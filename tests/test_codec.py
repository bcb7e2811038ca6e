"""Talk files: the coder, the container, damage, seeking, streams, sound, and the standard's messages."""

import io
import random
import re
import zlib
from dataclasses import replace
from fractions import Fraction
from pathlib import Path

import numpy as np
import pytest
import torch

from stylereel import codec, systems
from stylereel.codec import entropy, packets, sound, talk, tracks, vsei
from stylereel.core.files import MediaError
from stylereel.core.latents import FACE, Identity, Motion, MotionKind
from stylereel.world.factors import HIGH, LOW, MOTION, MOTION_COLUMNS
from stylereel.world.motion import natural_motion

BYTES = "f457d2f78d968b3bd7f5d440b744c170d63f3742b3a768"
PAGE = Path(__file__).parent.parent / "docs" / "codec.md"


def face_motion(seed: int = 3, frames: int = 130, rate: Fraction = Fraction(25)) -> Motion:
    """Motion of a person of the world, with crops that drift and two frames without a face."""
    values = natural_motion(seed, frames, rate)
    at = np.arange(frames)[:, None]
    placement = np.array([240.0, 250.0, 300.0, 0.0]) + np.array([5.0, 3.0, 2.0, 1.0]) * np.sin(at / 20)
    return Motion(values, FACE, MOTION, rate, placement.astype(np.float32), (60, 61))


@pytest.fixture(scope="module")
def motion() -> Motion:
    return face_motion()


@pytest.fixture(scope="module")
def identity() -> Identity:
    torch.manual_seed(0)
    return Identity(torch.randn(6, 32), "stylemask", {"a": torch.arange(5)}, {"g": torch.randn(3, 4)})


@pytest.fixture
def file(tmp_path: Path, motion: Motion, identity: Identity) -> Path:
    codec.write(tmp_path / "a.talk", motion, identity, "stylemask", "ab" * 32, group=25)
    return tmp_path / "a.talk"


# The coder


def random_tracks(source: np.random.Generator, size: int) -> np.ndarray:
    shape = int(source.integers(1, 40)), int(source.integers(1, 6))
    return np.cumsum(source.integers(-size, size + 1, shape), 0) + source.integers(-size, size + 1)


@pytest.mark.parametrize("size", [0, 1, 4, 60, 3000, 100_000])
def test_tracks_come_back(size: int) -> None:
    source = np.random.default_rng(size)
    for _ in range(30):
        values = random_tracks(source, size)
        flags = source.random(len(values)) < 0.2
        data = entropy.encode_tracks(values, flags)
        found, missing = entropy.decode_tracks(data, values.shape[0], values.shape[1], len(flags))
        assert np.array_equal(found, values) and np.array_equal(missing, flags)


def test_the_bytes_are_these_for_ever() -> None:
    """A format's bytes may not change with numpy, numba or the machine."""
    at = np.arange(12)[:, None]
    values = (at * at * np.array([1, -2, 0, 37]) - 5 * at) // 7
    data = entropy.encode_tracks(values, [False] * 5 + [True, True] + [False] * 5)
    assert data.hex() == BYTES


def page_decoder() -> dict:
    """The decoder that docs/codec.md shows, run from the page with the page's table."""
    text = PAGE.read_text()
    table = re.search(r"```text\n([0-9a-f\n]+)```", text)
    code = re.search(r"```python\n(TABLE = .*?)```", text, re.S)
    assert table and code
    names: dict = {"HEX": table[1].replace("\n", "")}
    exec(code[1], names)
    return names


def test_the_page_is_enough_to_write_a_decoder() -> None:
    page = page_decoder()
    assert tuple(256 * byte + 128 for byte in page["TABLE"]) == entropy.PRIOR
    source = np.random.default_rng(0)
    for size in (0, 1, 5, 80, 5000, 100_000):
        values, flags = random_tracks(source, size), source.random(20) < 0.3
        data = entropy.encode_tracks(values, flags)
        found, missing = page["decode"](data, *values.shape, len(flags))
        assert np.array_equal(found, values) and np.array_equal(np.array(missing, bool), flags)


def test_every_number_of_the_page() -> None:
    text = PAGE.read_text()
    known = tracks.KNOWN["face"][-1]
    for name, rest, step in zip(known.names, known.rest, known.steps):
        assert f"| {name} | {rest:g} | {step:g} |" in text
    assert known.names == MOTION
    assert packets.MAGIC.hex(" ").upper() in text and packets.TAIL.hex(" ").upper() in text
    assert (np.array(known.steps) <= (HIGH - LOW)[MOTION_COLUMNS] / 15).all()


def test_still_tracks_cost_next_to_nothing() -> None:
    assert len(entropy.encode_tracks(np.zeros((250, 16), int))) < 30


def test_what_cannot_be_coded_is_said() -> None:
    with pytest.raises(ValueError, match="within 2\\^28"):
        entropy.encode_tracks(np.array([[2**29]]))
    with pytest.raises(entropy.DamagedError):
        entropy.decode_tracks(b"", 3000, 16)


# Steps and the frames between


@pytest.mark.parametrize(("frames", "every"), [(50, 2), (50, 3), (51, 5), (7, 4), (2, 3), (1, 2), (9, 8)])
def test_frames_between(frames: int, every: int) -> None:
    """Coded frames stay; a straight line stays straight; the page's formula gives the others."""
    places = tracks.nodes(frames, every)
    assert places[0] == 0 and places[-1] == frames - 1 and (np.diff(places) <= every).all()
    line = tracks.between(np.stack([3 * places, -places], 1), frames, every)
    assert np.array_equal(line, 16 * np.stack([3 * np.arange(frames), -np.arange(frames)], 1))
    source = np.random.default_rng(0)
    coded = source.integers(-40, 40, (len(places), 2))
    found = tracks.between(coded, frames, every)
    assert np.array_equal(found[places], 16 * coded)
    for index in range(len(places) - 1):
        d = int(places[index + 1] - places[index])
        b, c = coded[index], coded[index + 1]
        a = coded[index - 1] if index else 2 * b - c
        beyond = index + 2 >= len(coded) or (d == every and places[index + 2] - places[index + 1] < every)
        e = 2 * c - b if beyond else coded[index + 2]
        for j in range(1, d):
            cubic = 2 * b * d**3 + (c - a) * j * d**2 + (2 * a - 5 * b + 4 * c - e) * j**2 * d
            cubic += (3 * b - a - 3 * c + e) * j**3
            formula = (16 * cubic + d**3) // (2 * d**3) if d == every else (32 * (b * (d - j) + c * j) + d) // (2 * d)
            assert np.array_equal(found[places[index] + j], formula)


@pytest.mark.parametrize("every", [1, 2, 4])
def test_the_error_is_that_of_the_steps(motion: Motion, every: int) -> None:
    header = codec.header_of(motion, lever=0.5, every=every)
    error = (talk.quantise(motion, header) - motion.values) / header.steps
    if every == 1:
        assert np.abs(error).max() <= 1.5 + 1e-3 and np.sqrt((error**2).mean()) < 0.5
    else:
        assert np.sqrt((error**2).mean()) < 0.8 * every


def test_rounding_saves_bits_for_little_error(motion: Motion) -> None:
    """Against plain rounding at the same number of bytes, which takes larger steps, the error is smaller."""
    steps, noise = np.array(tracks.KNOWN["face"][-1].steps), np.random.default_rng(1).normal(size=motion.values.shape)
    values = (motion.values + 0.3 * steps * noise - motion.values[0]) / steps

    plain_steps = np.zeros(1), np.ones(1)

    def measure(step: float, steady: bool) -> tuple[int, float]:
        scaled = values / step
        whole = tracks.to_integers(scaled, *plain_steps, 1) if steady else np.rint(scaled).astype(np.int64)
        return len(entropy.encode_tracks(whole)), float(np.square(whole * step - values).mean())

    size, error = measure(1.0, steady=True)
    plain = [measure(step, steady=False) for step in np.linspace(1, 2, 21)]
    assert error < min(other for bytes_, other in plain if bytes_ <= size)
    assert np.array_equal(tracks.to_integers(np.full((9, 1), 0.4), *plain_steps, 1), np.zeros((9, 1)))


def test_errors_that_undo_each_other_are_preferred(motion: Motion) -> None:
    """Yaw and a shift sideways move landmarks alike: rounding together leaves these nearer than one by one."""
    metric = tracks.metric_of("face", MOTION)
    assert np.linalg.eigvalsh(metric).min() > 0 and (np.diag(metric) >= tracks.LEAST).all()
    steps, least = np.array(tracks.FACE.steps), np.diag(np.diag(metric))
    rest = motion.values[0].astype(float)
    noise = np.random.default_rng(2).normal(size=motion.values.shape)

    def measure(given: np.ndarray) -> tuple[int, float]:
        values = motion.values + 0.3 * steps * noise
        whole = tracks.to_integers(values, rest, steps, 1, given)
        apart = (values - rest) / steps - whole
        return len(entropy.encode_tracks(whole)), float(np.einsum("ti,ij,tj->t", apart, metric, apart).mean())

    size, error = measure(metric)
    alone, larger = measure(least)
    assert error < 0.8 * larger and size < 1.08 * alone
    assert np.array_equal(tracks.metric_of("expressive", tracks.EXPRESSIVE.names)[:3, :3], metric[:3, :3])
    assert np.array_equal(tracks.metric_of("other", ("a", "b")), np.eye(2))


def test_motion_of_sixteen_tracks_is_written_and_read_as_before(tmp_path: Path, motion: Motion) -> None:
    """Files of versions that knew sixteen factors: no later tracks, and flag 16 of the header is not set."""
    old = replace(motion, values=motion.values[:, :16], names=MOTION[:16])
    codec.write(tmp_path / "old.talk", old)
    found = codec.read(tmp_path / "old.talk")
    assert found.motion.names == MOTION[:16] and found.header.lever > 0
    assert not found.header.pack()[0] & 16 and codec.header_of(motion).pack()[0] & 16


# Files


def test_a_file_gives_all_back(file: Path, motion: Motion, identity: Identity) -> None:
    found = codec.read(file)
    header = found.header
    assert np.array_equal(found.motion.values, talk.quantise(motion, codec.header_of(motion, group=25)))
    assert (found.motion.kind, found.motion.names, found.motion.rate) == (FACE, MOTION, motion.rate)
    assert found.motion.missing == (60, 61) and found.lost == () and found.sound is None
    assert header.placement is not None
    assert np.abs(found.motion.placement - motion.placement).max() < 1.5 * header.placement[0]
    assert (header.system, header.generator, header.group) == ("stylemask", bytes.fromhex("ab" * 32), 25)
    assert isinstance(found.identity, Identity)
    assert (found.identity.w - identity.w).abs().max() <= identity.w.square().mean().sqrt() / 63
    assert found.identity.system == "stylemask" and torch.equal(found.identity.tensors["a"], torch.arange(5))
    delta = identity.delta["g"]
    step = 2.0 ** round(float(delta.square().mean().sqrt().log2())) / 4
    assert torch.equal(found.identity.delta["g"], step * (delta / step).round())  # exact whole steps


def test_what_is_tuned_little_keeps_its_tuning(tmp_path: Path, motion: Motion, identity: Identity) -> None:
    """So do what makes colours and StyleHEAT's warper, which change by a fraction of what else does."""
    generator = torch.from_numpy(np.random.default_rng(3).standard_normal((30, 30))).float()
    tuned = replace(identity, delta={"synthesis.b4.conv": generator, "warper.flow.bias": generator / 20})
    codec.write(tmp_path / "a.talk", motion, tuned)
    found = codec.read(tmp_path / "a.talk").identity
    assert isinstance(found, Identity)
    for name, exact in tuned.delta.items():
        assert (found.delta[name] - exact).abs().max() <= 0.18 * exact.square().mean().sqrt()


def test_every_byte_is_accounted_for(tmp_path: Path, motion: Motion, identity: Identity) -> None:
    sizes = codec.write(tmp_path / "a.talk", motion, identity)
    assert sizes.total == (tmp_path / "a.talk").stat().st_size
    found = codec.read(tmp_path / "a.talk").sizes
    assert (found.motion, found.placement, found.checks) == (sizes.motion, sizes.placement, sizes.checks)
    assert sizes.kilobits(5.2, "motion") == pytest.approx(8 * sizes.motion / 5200)
    without = codec.write(tmp_path / "b.talk", motion, placement=False)
    assert without.placement == 0 and without.identity == 0


@pytest.mark.parametrize("rate", [0.5, 1, 2])
def test_the_rate_is_kept_and_used(tmp_path: Path, motion: Motion, rate: float) -> None:
    sizes = codec.write(tmp_path / "a.talk", motion, rate=rate)
    used = sizes.kilobits(len(motion) / 25, "motion", "index", "checks")
    assert 0.8 * rate < used <= rate


def test_the_rate_is_kept_with_all_else_in_the_file(tmp_path: Path, motion: Motion, identity: Identity) -> None:
    tone(tmp_path / "tone.wav", 5)
    short = motion.part(0, 10)
    sizes = codec.write(tmp_path / "a.talk", short, identity, rate=1.2, sound=tmp_path / "tone.wav", sound_rate=16)
    assert sizes.kilobits(0.4, "motion", "index", "checks") <= 1.2 and sizes.sound > 300


def test_more_bits_less_error(tmp_path: Path, motion: Motion) -> None:
    errors = []
    for rate in (0.4, 0.8, 1.6):
        codec.write(tmp_path / "a.talk", motion, rate=rate)
        steps = np.array(tracks.FACE.steps)
        errors.append(np.sqrt((((codec.read(tmp_path / "a.talk").motion.values - motion.values) / steps) ** 2).mean()))
    assert errors[0] > 1.5 * errors[1] > 2.2 * errors[2]


def test_unknown_tracks_carry_their_own_coordinates(tmp_path: Path) -> None:
    source = np.random.default_rng(0)
    values = np.cumsum(source.normal(size=(70, 35)), 0).astype(np.float32) * np.geomspace(
        0.01, 100, 35, dtype=np.float32
    )
    names = tuple(f"channel {index} ä" for index in range(35))
    motion = Motion(values, MotionKind("expressive", True), names, Fraction(30000, 1001), np.zeros((70, 4), np.float32))
    codec.write(tmp_path / "a.talk", motion)
    found = codec.read(tmp_path / "a.talk").motion
    assert found.names == names and found.rate == Fraction(30000, 1001) and found.kind == MotionKind("expressive", True)
    deviation = values.std(0)
    assert (np.abs(found.values - values) <= 1.5 * np.maximum(deviation, deviation.max() / 1000) / 7.9).all()


def test_the_35_numbers_of_the_built_in_people_are_known(tmp_path: Path) -> None:
    known = tracks.EXPRESSIVE
    assert known.names == systems.load("expressive", device="cpu").channels.motion_names  # type: ignore[attr-defined]
    assert " ".join(known.names[3:]) in " ".join(PAGE.read_text().split())
    values = np.random.default_rng(0).normal(size=(60, 35)).cumsum(0).astype(np.float32) / 10
    motion = Motion(values, MotionKind("expressive"), known.names, Fraction(25), np.zeros((60, 4), np.float32))
    codec.write(tmp_path / "a.talk", motion)
    found = codec.read(tmp_path / "a.talk")
    assert found.motion.names == known.names and found.sizes.header < 120
    assert (np.abs(found.motion.values - values) <= 1.51 * np.array(known.steps)).all()
    body = bytearray(found.header.pack())
    body[0] |= 16
    with pytest.raises(packets.DamagedError, match="no file has"):
        packets.Header.unpack(bytes(body))


def test_differences_rest_at_zero(tmp_path: Path, motion: Motion) -> None:
    moved = Motion(motion.values - motion.values[0], MotionKind("face", True), MOTION, motion.rate, motion.placement)
    codec.write(tmp_path / "a.talk", moved)
    found = codec.read(tmp_path / "a.talk")
    assert found.motion.kind == moved.kind and not found.header.rest.any() and found.header.lever == 1
    assert (np.abs(found.motion.values - moved.values) <= 1.51 * np.array(tracks.FACE.steps)).all()


def test_any_frame_by_one_group(file: Path, motion: Motion) -> None:
    whole = codec.read(file).motion.values
    reader = codec.Reader(file)
    assert len(reader) == len(motion)
    opened, groups = reader.bytes_read, np.diff([*reader._offsets.values(), file.stat().st_size])
    for frame in random.Random(0).sample(range(len(motion)), len(motion)):
        before = reader.bytes_read
        assert np.array_equal(reader[frame], whole[frame])
        assert reader.bytes_read - before <= max(groups)
    assert opened < file.stat().st_size - sum(groups[:-1]) + 20
    with pytest.raises(IndexError, match="no frame 130"):
        reader[130]


def test_seeking_without_an_index(file: Path) -> None:
    whole = codec.read(file).motion.values
    file.write_bytes(file.read_bytes()[:-4])
    reader = codec.Reader(file)
    assert len(reader) == 130 and np.array_equal(reader[77], whole[77])


@pytest.mark.parametrize("piece", [1, 7, 1000])
def test_a_live_sender(motion: Motion, identity: Identity, piece: int) -> None:
    """Groups come out of the receiver as soon as their last byte is there; nothing but `write` is needed."""

    class Line:
        def __init__(self) -> None:
            self.data = b""

        def write(self, data: bytes) -> None:
            self.data += data

    line, received, receiver = Line(), [], codec.Receiver()
    header = codec.header_of(motion, group=5)
    writer = codec.Writer(line, header, identity)
    for index, values in enumerate(motion.values):
        writer.add(values, motion.placement[index])
        while len(line.data) >= piece:
            received.extend(receiver.feed(line.data[:piece]))
            line.data = line.data[piece:]
        if piece == 1 and (index + 1) % 5 == 0:
            assert len(received) == (index + 1) // 5
    writer.close()
    received.extend(receiver.feed(line.data, last=True))
    assert [group.number for group in received] == list(range(26)) and receiver.frames == 130
    values = np.concatenate([tracks.to_values(group.fine, header.rest, header.steps) for group in received])
    assert np.array_equal(values, talk.quantise(motion, header))


def test_references(tmp_path: Path, motion: Motion) -> None:
    codec.write(tmp_path / "a.talk", motion, codec.Reference(b"\7" * 32, "anna.safetensors"))
    assert codec.read(tmp_path / "a.talk").identity == codec.Reference(b"\7" * 32, "anna.safetensors")


def test_user_mistakes_are_said(tmp_path: Path, motion: Motion) -> None:
    path = tmp_path / "a.talk"
    path.write_bytes(b"mine")
    with pytest.raises(ValueError, match="not finite"):
        codec.Writer(io.BytesIO(), codec.header_of(motion, placement=False)).add(np.full(len(MOTION), np.nan))
    with pytest.raises(ValueError, match="does not fit into 0.01 kbit/s"):
        codec.write(path, motion, rate=0.01)
    with pytest.raises(ValueError, match="above 0"):
        codec.write(path, motion, lever=0)
    with pytest.raises(ValueError, match="groups of 1 to"):
        codec.write(path, motion, group=5000)
    with pytest.raises(ValueError, match="6 to 128 kbit/s"):
        codec.write(path, motion, sound=path, sound_rate=2)
    assert path.read_bytes() == b"mine", "what was there stays"
    with pytest.raises(MediaError, match="no talk file"):
        codec.read(path)
    path.write_bytes(packets.MAGIC[:-1] + b"\x09" + b"x" * 100)
    with pytest.raises(MediaError, match="version 9"):
        codec.read(path)


# Damage


def groups_of(data: bytes) -> list[tuple[int, int]]:
    """(offset, length) of the group packets."""
    return [(at, size) for kind, _, at, size in packets.Scanner().feed(data, last=True) if kind == packets.GROUP]


@pytest.mark.parametrize("share", [0.01, 0.05, 0.1])
def test_lost_groups(tmp_path: Path, share: float) -> None:
    """What is whole still plays as it was; gaps are straight lines, and told."""
    motion = face_motion(5, 1000)
    path = tmp_path / "a.talk"
    codec.write(path, motion, group=10)
    whole, data = codec.read(path).motion.values, bytearray(path.read_bytes())
    lost = random.Random(1).sample(range(1, 99), int(100 * share))
    for number, (at, size) in enumerate(groups_of(bytes(data))):
        if number in lost:
            data[at + size // 2] ^= 255
    path.write_bytes(data)
    found = codec.read(path)
    frames = {frame for number in lost for frame in range(10 * number, 10 * number + 10)}
    assert {frame for first, count in found.lost for frame in range(first, first + count)} == frames
    kept = [frame for frame in range(1000) if frame not in frames]
    assert len(found.motion) == 1000 and np.array_equal(found.motion.values[kept], whole[kept])
    first, count = found.lost[0]
    ends = found.motion.values[[first - 1, first + count]]
    assert (found.motion.values[first : first + count] >= ends.min(0) - 0.05).all()
    assert (found.motion.values[first : first + count] <= ends.max(0) + 0.05).all()


def test_a_file_cut_anywhere(file: Path) -> None:
    whole, data = codec.read(file).motion.values, file.read_bytes()
    ends = [at + size for at, size in groups_of(data)]
    for cut in range(0, len(data), 37):
        file.write_bytes(data[:cut])
        complete = sum(end <= cut for end in ends)
        if not complete:
            with pytest.raises(MediaError):
                codec.read(file)
        else:
            assert np.array_equal(codec.read(file).motion.values[: 25 * complete], whole[: 25 * complete])


def test_a_lost_header_is_found_at_the_end(file: Path) -> None:
    whole, data = codec.read(file).motion.values, bytearray(file.read_bytes())
    data[20] ^= 1
    file.write_bytes(data)
    assert np.array_equal(codec.read(file).motion.values, whole)


def test_fuzz(file: Path) -> None:
    """Flips, cuts, insertions: a sentence or a shorter clip, never anything else, and nothing that is not finite."""
    data, source = file.read_bytes(), random.Random(0)
    outcomes = {"whole": 0, "gaps": 0, "sentence": 0}
    for number in range(120):
        file.write_bytes(damaged(data, number, source))
        try:
            found = codec.read(file)
            assert np.isfinite(found.motion.values).all() and np.isfinite(found.motion.placement).all()
            outcomes["gaps" if found.lost else "whole"] += 1
            reader = codec.Reader(file)
            reader[0]
        except ValueError as error:
            assert str(error).endswith((".", "others."))
            outcomes["sentence"] += 1
    assert min(outcomes.values()) > 3, outcomes


def damaged(data: bytes, number: int, source: random.Random) -> bytes:
    """One of five kinds of damage."""
    out, at = bytearray(data), source.randrange(len(data))
    if number % 5 == 0:
        out[at] ^= 1 << source.randrange(8)
    elif number % 5 == 1:
        del out[at:]
    elif number % 5 == 2:
        for _ in range(source.randrange(1, 40)):
            out[source.randrange(len(out))] = source.randrange(256)
    elif number % 5 == 3:
        del out[at : at + source.randrange(1, 300)]
    else:
        out[at:at] = out[: source.randrange(200)]
    return bytes(out)


def test_bodies_that_no_writer_makes(tmp_path: Path, motion: Motion) -> None:
    """Bodies with right checksums and wrong contents, as only an attacker makes them."""
    header, path = codec.header_of(motion, group=25), tmp_path / "a.talk"
    head = packets.MAGIC + packets.packet(packets.HEADER, header.pack())
    good, _ = talk.encode_group(header, 0, motion.values[:25], motion.placement[:25])
    source = random.Random(0)
    body = next(packets.Scanner().feed(good, last=True))[1]
    bad = [
        b"",
        b"\xff\xff\xff\xff\xff\xff\xff\xff\xff\x7f",
        packets.varint(packets.MAX_FRAMES) + body[1:],  # a gap of millions of frames
        packets.varint(0) + b"\x01" + packets.varint(0),
        *(bytes(source.randrange(256) for _ in range(60)) for _ in range(40)),
        *(body[: source.randrange(len(body))] for _ in range(20)),
    ]
    for one in bad:
        path.write_bytes(head + good + packets.packet(packets.GROUP, one))
        try:
            assert len(codec.read(path).motion) < 10_000_000
        except MediaError as error:
            assert "more numbers than" in str(error)
    for one in (bytes(source.randrange(256) for _ in range(80)) for _ in range(200)):
        path.write_bytes(packets.MAGIC + packets.packet(packets.HEADER, one) + good)
        with pytest.raises(MediaError, match="header"):
            codec.read(path)
        identity = packets.packet(packets.IDENTITY, one)
        path.write_bytes(head + identity + good)
        assert len(codec.read(path).motion) == 25


def test_false_packets_end_in_time() -> None:
    """A file of nothing but beginnings of long packets is given up instead of being checked for hours."""
    head = bytes([packets.GROUP]) + packets.varint(1 << 19)
    false = packets.SYNC + head + bytes([zlib.crc32(head) & 255])
    with pytest.raises(entropy.DamagedError, match="false packets"):
        list(packets.Scanner().feed(false * 200_000, last=True))


# Sound


def tone(path: Path, seconds: float) -> np.ndarray:
    at = np.arange(int(48_000 * seconds)) / 48_000
    samples = 0.3 * np.sin(2 * np.pi * 1000 * at) * (1 + np.sin(2 * np.pi * 3 * at)) / 2
    sound.save_wav(path, samples)
    return samples


def test_sound_goes_along(tmp_path: Path, motion: Motion) -> None:
    samples = tone(tmp_path / "tone.wav", 5.5)
    sizes = codec.write(tmp_path / "a.talk", motion, group=50, sound=tmp_path / "tone.wav", sound_rate=16)
    assert abs(sizes.kilobits(5.2, "sound") - 16) < 0.6
    found = codec.read(tmp_path / "a.talk").sound
    assert found is not None and abs(len(found) - 5.2 * 48_000) <= 960 + 312
    count = 5 * 48_000
    assert np.corrcoef(found[2000:count], samples[2000:count])[0, 1] > 0.98
    data = bytearray((tmp_path / "a.talk").read_bytes())
    at, size = groups_of(bytes(data))[1]
    data[at + size // 2] ^= 255
    (tmp_path / "a.talk").write_bytes(data)
    lost = codec.read(tmp_path / "a.talk").sound
    assert lost is not None and len(lost) == len(found)
    assert np.abs(lost[105_600:185_000]).max() < 0.01
    assert np.corrcoef(lost[200_000:count], samples[200_000:count])[0, 1] > 0.95


def test_sound_needs_a_header_that_says_so(motion: Motion) -> None:
    writer = codec.Writer(io.BytesIO(), codec.header_of(motion))
    with pytest.raises(ValueError, match="no sound"):
        writer.add_sound([b"x"])


# The standard's messages


@pytest.mark.parametrize("precision", [1, 8, 20])
def test_messages_there_and_back(motion: Motion, precision: int) -> None:
    header = codec.header_of(motion)
    integers = tracks.to_integers(motion.values, header.rest, header.steps, 1)
    integers[5, 3] = -70_000
    missing = np.isin(np.arange(len(motion)), motion.missing)
    found = vsei.messages(integers, missing, "urn:sha256:" + "ab" * 32, precision)
    for way in (vsei.from_json(vsei.to_json(found)), vsei.from_bits(vsei.to_bits(found))):
        assert way == found
        values, flags = vsei.values_of(way)
        assert np.array_equal(values, integers) and np.array_equal(flags, missing)


def test_a_message_bit_by_bit() -> None:
    """Two frames of one track, 3 and 1, by hand: ue(v), flags, and what is present when."""
    first, second = vsei.to_bits(vsei.messages(np.array([[3], [1]]), precision=1))
    base = "111000011100011111101010"
    assert np.unpackbits(np.frombuffer(first, np.uint8)).tolist() == [int(bit) for bit in base]
    delta = "10100001101011"
    bits = delta + "1" + "0" * (-(len(delta) + 1) % 8)
    assert np.unpackbits(np.frombuffer(second, np.uint8)).tolist() == [int(bit) for bit in bits]


def test_other_messages_are_refused() -> None:
    payloads = vsei.to_bits(vsei.messages(np.arange(12).reshape(4, 3), uri="urn:x"))
    source = random.Random(0)
    for number in range(300):
        bad = damaged(payloads[number % 2], number, source)
        try:
            vsei.values_of(vsei.from_bits([bad] if number % 2 == 0 else [payloads[0], bad]))
        except ValueError as error:
            assert str(error)
    for text in ("", "{}", "[1]", "[" * 100_000, '[{"gfv_id": 0}]'):
        with pytest.raises(ValueError):
            vsei.values_of(vsei.from_json(text))
    with pytest.raises(ValueError, match="1 to 1024 tracks"):
        vsei.messages(np.zeros((2, 2000), int))
