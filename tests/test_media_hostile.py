"""Names, files and folders that broke a reader: each gives what is right, or one sentence in seconds."""

import io
import os
import struct
import sys
import threading
import tracemalloc
import zlib
from fractions import Fraction
from pathlib import Path
from typing import Any

import av
import numpy as np
import pytest
from PIL import Image
from test_media import copy, make_clip, square

from stylereel import world
from stylereel.cli import main
from stylereel.commands.look import page_of
from stylereel.core.files import MediaError, listed
from stylereel.media.pictures import MOST_PIXELS, read_picture, save_picture
from stylereel.media.sound import waveform
from stylereel.media.video import VideoReader, VideoWriter
from stylereel.metrics.clips import open_clips
from stylereel.train.shards import MOST_SHARDS, expand, is_picture
from stylereel.train.sources import open_source
from stylereel.world.truth import truth

CASES = Path(__file__).parents[2] / "shared" / "cases"


def case(name: str) -> Path:
    """A file of ../shared/cases; the test is skipped where it is absent."""
    if not (CASES / name).exists():
        pytest.skip("needs ../shared/cases")
    return CASES / name


NAMES = [
    "rec-2024-05-01T10:30:12.mp4",
    "file:a.mp4",
    "concat:a|b.mp4",
    "data:,a.mp4",
    "a%03d.mp4",
    "-i.mp4",
    "a b'\".mp4",
]


@pytest.mark.skipif(sys.platform == "win32", reason="such names do not exist there")
@pytest.mark.parametrize("name", NAMES)
def test_nothing_of_a_name_is_read_as_anything_else(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str) -> None:
    monkeypatch.chdir(tmp_path)
    Path(name).write_bytes(make_clip(tmp_path / "plain.mp4", sound="aac").read_bytes())
    assert VideoReader(name).num_frames == 20 == len(list(VideoReader(name)))
    assert len(waveform(name)) > 10000
    assert VideoReader(copy(Path(name), Path(f"out-{name}"))).has_audio
    Path("rec:1").mkdir()
    assert VideoReader(copy(Path(name), Path("rec:1") / name)).num_frames == 20


def test_a_pattern_in_a_picture_s_name_is_a_name(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    for index in range(3):
        save_picture(f"q{index}.png", square(index))
    Image.fromarray(square(7)).save("q%d.tif")
    reader = VideoReader("q%d.tif")
    assert reader.num_frames == 1 and np.array_equal(next(iter(reader)), square(7))


@pytest.mark.parametrize(
    "text", ["ffconcat version 1.0\nfile a.mp4\n", "#EXTM3U\n#EXTINF:10,\na.mp4\n#EXT-X-ENDLIST\n"]
)
@pytest.mark.parametrize("name", ["list.mp4", "list.m3u8"])
def test_a_file_that_lists_others_opens_none_of_them(tmp_path: Path, text: str, name: str) -> None:
    make_clip(tmp_path / "a.mp4")
    (tmp_path / name).write_text(text)
    with pytest.raises(MediaError, match="cannot be read as a video"):
        VideoReader(tmp_path / name)


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="there are no pipes")
@pytest.mark.parametrize("read", [VideoReader, read_picture, waveform, lambda path: page_of([path]), open_clips])
def test_a_pipe_is_refused_at_once(tmp_path: Path, read: Any) -> None:
    os.mkfifo(tmp_path / "a.mp4")
    errors: list[Exception] = []

    def attempt() -> None:
        try:
            read(tmp_path / "a.mp4")
        except Exception as error:
            errors.append(error)

    thread = threading.Thread(target=attempt, daemon=True)
    thread.start()
    thread.join(20)
    assert not thread.is_alive() and isinstance(errors[0], MediaError) and "pipe" in str(errors[0])


@pytest.mark.parametrize("name", ["a" * 300, "a\0b"])
def test_a_name_that_cannot_be_is_a_sentence(name: str) -> None:
    for read in (VideoReader, read_picture):
        with pytest.raises(MediaError, match="cannot be read"):
            read(name)


def png(width: int, height: int, colour: int = 6) -> bytes:
    """The start of a PNG of that size, with one row of data."""

    def chunk(kind: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    head = struct.pack(">IIBBBBB", width, height, 8, colour, 0, 0, 0)
    row = zlib.compress(bytes(1 + width * (4 if colour == 6 else 3)))
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", head) + chunk(b"IDAT", row) + chunk(b"IEND", b"")


def gif(width: int, height: int, frames: int = 2) -> bytes:
    """A GIF whose canvas is of that size and whose frames are one pixel."""
    data = io.BytesIO()
    pictures = [Image.new("L", (1, 1), 4 * index) for index in range(frames)]
    pictures[0].save(data, "GIF", save_all=True, append_images=pictures[1:], duration=50)
    raw = data.getvalue()
    return raw[:6] + struct.pack("<HH", width, height) + raw[10:]


@pytest.mark.parametrize(
    ("name", "data"),
    [
        ("a.png", png(30000, 30000)),
        ("a.png", png(13376, 13376)),
        ("a.png", png(8192, 8193)),
        ("a.gif", gif(65535, 65535)),
        ("a.gif", gif(10000, 10000)),
        ("a.gif", gif(8000, 8000, 60)),
    ],
    ids=["png", "png under Pillow's limit", "png over ours", "gif", "gif under Pillow's limit", "gif of many frames"],
)
def test_bombs_end_in_a_sentence_and_little_memory(tmp_path: Path, name: str, data: bytes) -> None:
    path = tmp_path / name
    path.write_bytes(data)
    tracemalloc.start()
    try:
        for read in (VideoReader, lambda file: page_of([file])):
            with pytest.raises(MediaError, match="pixels") as error:
                read(path)
            assert str(path) in str(error.value) and "\n" not in str(error.value)
        assert tracemalloc.get_traced_memory()[1] < 50e6
    finally:
        tracemalloc.stop()
    if "gif" not in name:
        with pytest.raises(MediaError, match="pixels"):
            read_picture(path)


@pytest.mark.skipif(sys.platform != "linux", reason="reads the process's peak memory as Linux gives it")
def test_a_large_picture_with_alpha_takes_bounded_memory(tmp_path: Path) -> None:
    import subprocess

    side = int(MOST_PIXELS**0.5) // 2
    Image.new("RGBA", (side, side), (200, 0, 0, 128)).save(tmp_path / "a.png", compress_level=1)
    code = """
import resource, sys
from stylereel.media.pictures import read_picture
start = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
picture = read_picture(sys.argv[1])
assert picture[0, 0].tolist() == [227, 127, 127]
print((resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - start) * 1024 / picture.size * 3)
"""
    command = [sys.executable, "-c", code, str(tmp_path / "a.png")]
    assert float(subprocess.run(command, capture_output=True, text=True, check=True).stdout) < 14  # bytes a pixel


def test_damaged_pictures_of_every_kind_are_a_sentence(tmp_path: Path) -> None:
    """Bytes changed at random in small files; what is read is a picture or a MediaError."""
    random = np.random.default_rng(0)
    picture = Image.fromarray(square(0, 32, 24))
    for ending in ("png", "gif", "webp", "tif", "bmp", "ppm", "jpg"):
        data = io.BytesIO()
        options = {"save_all": True, "append_images": [picture]} if ending in ("png", "gif", "webp", "tif") else {}
        picture.save(data, {"jpg": "JPEG", "tif": "TIFF"}.get(ending, ending.upper()), **options)
        for _ in range(60):
            raw = bytearray(data.getvalue())
            for place in random.integers(0, min(len(raw), 120), 3):
                raw[place] = random.integers(256)
            path = tmp_path / f"a.{ending}"
            path.write_bytes(raw)
            for read in (read_picture, lambda file: list(VideoReader(file))[0]):
                try:
                    assert read(path).dtype == np.uint8
                except MediaError as error:
                    assert "\n" not in str(error)


@pytest.mark.parametrize("name", ["a.mp4", "a.mkv", "a.ts", "a.avi"])
def test_damaged_clips_are_read_or_a_sentence(tmp_path: Path, name: str) -> None:
    random = np.random.default_rng(1)
    data = make_clip(tmp_path / name, sound="aac" if name != "a.avi" else "pcm_s16le").read_bytes()
    for _ in range(40):
        raw = bytearray(data)
        for place in random.integers(0, len(raw), 4):
            raw[place] = random.integers(256)
        head = raw.find(b"moov") if name == "a.mp4" else 0
        for place in random.integers(head, min(head + 800, len(raw)), 2):
            raw[place] = random.integers(256)
        (tmp_path / name).write_bytes(raw[: random.integers(1, len(raw))] if random.random() < 0.2 else raw)
        for read in (lambda path: list(VideoReader(path)), waveform):
            try:
                read(tmp_path / name)
            except MediaError as error:
                assert "\n" not in str(error)


def test_other_pages_and_versions_are_no_frames(tmp_path: Path) -> None:
    pages = [Image.fromarray(square(index)) for index in range(3)]
    pages[0].save(tmp_path / "a.tif", save_all=True, append_images=pages[1:])
    pages[0].save(tmp_path / "a.jpg", "MPO", save_all=True, append_images=pages[1:])
    for name in ("a.tif", "a.jpg"):
        assert VideoReader(tmp_path / name).num_frames == 1
        assert np.abs(next(iter(VideoReader(tmp_path / name))).astype(int) - read_picture(tmp_path / name)).max() == 0
    assert page_of([tmp_path / "a.jpg"], size=64).shape[0] < 80


def test_a_phone_s_picture_with_a_second_one_inside_is_one(tmp_path: Path) -> None:
    assert VideoReader(case("mpo_gain.jpg")).num_frames == 1
    picture = read_picture(case("mpo_gain.jpg"))
    assert np.array_equal(next(iter(VideoReader(case("mpo_gain.jpg")))), picture)


def test_a_picture_with_side_data_of_a_new_kind_is_a_picture() -> None:
    picture = read_picture(case("p.tif"))
    assert np.array_equal(next(iter(VideoReader(case("p.tif")))), picture)
    assert page_of([case("p.tif")]).shape[2] == 3


def floats(values: list[float]) -> np.ndarray:
    return np.array(values, np.float32)


def whole(values: list[int]) -> np.ndarray:
    return np.array(values, np.int32)


@pytest.mark.parametrize(
    ("values", "white"),
    [
        (floats([0, 0.25, 0.5, 1]), 1),
        (floats([0, 64, 128, 255]), 255),
        (floats([0, 16384, 32768, 65535]), 65535),
        (whole([0, 64, 128, 255]), 255),
        (whole([0, 16384, 32768, 65535]), 65535),
        (whole([0, 250000, 500000, 1000000]), 1000000),
    ],
)
def test_pictures_of_32_bits_are_grey_not_black(tmp_path: Path, values: np.ndarray, white: float) -> None:
    Image.fromarray(np.tile(values, (4, 1))).save(tmp_path / "a.tif")
    expected = np.round(values / white * 255)
    for picture in (read_picture(tmp_path / "a.tif"), next(iter(VideoReader(tmp_path / "a.tif")))):
        assert np.abs(picture[0, :, 0] - expected).max() <= 1 and np.ptp(picture, axis=2).max() == 0


def test_highlights_above_white_and_undefined_pixels_do_not_darken_a_float_picture(tmp_path: Path) -> None:
    values = np.full((40, 40), 0.5, np.float32)
    values[0, :3] = 30.0, np.nan, np.inf
    Image.fromarray(values).save(tmp_path / "a.tif")
    picture = read_picture(tmp_path / "a.tif")[..., 0]
    assert picture[5, 5] == 128 and picture[0, 0] == 255


def test_hidden_files_are_no_members(tmp_path: Path) -> None:
    (tmp_path / "in").mkdir()
    for index in (10, 9, 2):
        save_picture(tmp_path / "in" / f"{index}.png", square(index))
        (tmp_path / "in" / f"._{index}.png").write_bytes(b"\0\5\26\7resource fork")
    (tmp_path / "in" / ".Trashes").mkdir()
    (tmp_path / "in" / ".Trashes" / "1.png").write_bytes(b"gone")
    assert [path.name for path in listed(tmp_path / "in", [".png"])] == ["2.png", "9.png", "10.png"]
    assert VideoReader(tmp_path / "in").num_frames == 3
    assert open_clips(tmp_path / "in")[0].num_frames == 3
    assert open_source(tmp_path / "in", size=16).count == 3
    assert is_picture("a/b.png") and not is_picture("a/._b.png")


def test_an_unreadable_member_is_named_and_the_rest_is_made(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "clips").mkdir()
    (tmp_path / "people").mkdir()
    heads = np.tile(world.neutral(), (2, 1))
    heads[1, 0] = 15
    with VideoWriter(tmp_path / "clips" / "b.mp4", Fraction(25)) as writer:
        for values in world.align(heads):
            writer.write(world.draw(values, 160).image)
    save_picture(tmp_path / "people" / "b.png", world.draw(world.align(world.neutral()), 160).image)
    for name in ("a", "c"):
        (tmp_path / "clips" / f"{name}.mp4").write_text("no clip")
        (tmp_path / "people" / f"{name}.png").write_text("no picture")
    (tmp_path / "clips" / "._b.mp4").write_text("hidden")
    words = ["drive", "stylemask", "--source", str(tmp_path / "people"), "--driving", str(tmp_path / "clips")]
    assert main([*words, "--out", str(tmp_path / "out")]) == 0
    printed = capsys.readouterr().out
    assert VideoReader(tmp_path / "out" / "b--b.mp4").num_frames == 2
    for name in ("clips/a.mp4", "clips/c.mp4", "people/a.png", "people/c.png"):
        assert f"{tmp_path / name} cannot be read" in printed
    (tmp_path / "clips" / "b.mp4").unlink()
    assert main([*words, "--out", str(tmp_path / "out2")]) == 2
    assert not (tmp_path / "out2" / "index.json").exists()


def test_a_pattern_of_too_many_shards_is_a_sentence() -> None:
    pytest.importorskip("braceexpand")
    with pytest.raises(ValueError, match=f"more than {MOST_SHARDS} shards"):
        expand("a{0..99999999}.tar")
    with pytest.raises(ValueError, match="no file"):
        expand("{train-{000..999},val-{0..9..3}}.tar")
    with pytest.raises(ValueError, match=f"more than {MOST_SHARDS} shards"):
        open_source("a{0..9999}{0..9999}.tar", size=32)


@pytest.mark.parametrize(
    "words",
    [
        ["world", "sheet", "--size", "1000000"],
        ["world", "portrait", "--size", "1000000"],
        ["world", "clip", "--size", "1000000"],
        ["world", "dataset", "--size", "1000000", "--count", "1"],
        ["world", "sheet", "--columns", "100000", "--rows", "100000"],
        ["look", "{clip}", "--size", "1000000"],
        ["look", "{clip}", "--columns", "1000000"],
    ],
)
def test_sizes_without_bound_are_a_sentence(
    tmp_path: Path, words: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    clip = make_clip(tmp_path / "clip.mp4", num_frames=2)
    out = tmp_path / ("out" if "dataset" in words else "out.mp4" if "clip" in words else "out.png")
    assert main([*(word.format(clip=clip) for word in words), "--out", str(out)]) == 2
    message = capsys.readouterr().err
    assert message.count("\n") == 1 and "pixels" in message
    assert list(tmp_path.iterdir()) == [clip]


def test_the_world_has_a_largest_size() -> None:
    for draw in (world.draw, truth):
        with pytest.raises(ValueError, match="pixels a side, not 1000000"):
            draw(world.neutral(), 1_000_000)


def test_every_name_in_this_file_is_opened_with_the_same_helper() -> None:
    """No other module hands a bare name to FFmpeg; `held` is memory."""
    import re

    for file in (Path(__file__).parents[1] / "src").rglob("*.py"):
        if file.match("live/camera.py") or file.match("live/sound.py"):  # they open devices alone
            continue
        for call in re.findall(r"av\.open\(([^)]*)", file.read_text()):
            assert call.startswith(("ffmpeg_name(", "io.BytesIO(", "held,")), f"{file}: av.open({call}"
    assert av.formats_available >= {"hls", "concat", "image2"}  # the names that are left out are names that exist
