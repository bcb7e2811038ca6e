"""Every kind of clip in and out: uneven times, rotation, alpha, 10 bits, GIF, folders; seeking, colours, memory."""

import os
import struct
import subprocess
import sys
from collections.abc import Iterable
from fractions import Fraction
from pathlib import Path
from typing import Any

import av
import numpy as np
import pytest
from av.video.frame import VideoFrame
from av.video.stream import VideoStream
from PIL import Image
from test_media import make_clip, square

from stylereel.core.files import MediaError
from stylereel.media.pictures import save_picture
from stylereel.media.video import VideoReader, VideoWriter

NTSC, FILM = Fraction(30000, 1001), Fraction(24000, 1001)


def encode(path: Path, ticks: list[int], base: Fraction, codec: str = "libx264", **options: str) -> Path:
    """A clip whose frame number i, a moving square, begins at ticks[i] x base seconds."""
    with av.open(str(path), "w") as container:
        stream = container.add_stream(codec, rate=30, options=options)
        assert isinstance(stream, VideoStream)
        stream.width, stream.height, stream.pix_fmt = 64, 48, "yuv420p"
        stream.codec_context.time_base = base
        for index, tick in enumerate(ticks):
            picture = VideoFrame.from_ndarray(square(index), format="rgb24")
            picture.pts, picture.time_base = tick, base
            container.mux(stream.encode(picture))
        container.mux(stream.encode(None))
    return path


def numbers(frames: Iterable[np.ndarray]) -> list[int]:
    """Which frame of the moving square each picture is, of the first 24."""
    squares = [square(index).astype(int) for index in range(24)]
    return [int(np.argmin([np.abs(frame - each).sum() for each in squares])) for frame in frames]


def test_uneven_times_are_resampled_by_hold(tmp_path: Path) -> None:
    clip = encode(tmp_path / "uneven.mp4", [0, 20, 40, 60, 120, 130, 140, 160, 180], Fraction(1, 600))
    reader = VideoReader(clip)  # at 30 a second frames begin at ticks 0 1 2 3 6 6.5 7 8 9
    assert reader.rate == 30
    assert numbers(reader) == [0, 1, 2, 3, 3, 4, 5, 6, 7, 8]  # none is lost
    assert reader.num_frames == 10
    assert reader.timing == "9 frames resampled to 10 at 30 frames a second by hold"
    assert numbers(reader.frames(4, 5)) == [3, 4, 5, 6, 7]


def test_jitter_within_half_a_frame_keeps_every_frame(tmp_path: Path) -> None:
    jitter = np.random.default_rng(0).integers(-7, 8, 40)  # of 20 ticks a frame
    clip = encode(tmp_path / "a.mp4", [0, *(20 * np.arange(1, 40) + jitter[1:]).tolist()], Fraction(1, 600))
    reader = VideoReader(clip)
    assert (reader.rate, reader.timing, reader.num_frames) == (30, "constant", 40)


@pytest.mark.parametrize(("given", "expected"), [(12, [0, 2, 4, 6, 8, 10]), (50, [i // 2 for i in range(24)])])
def test_a_clip_at_another_rate(tmp_path: Path, given: int, expected: list[int]) -> None:
    reader = VideoReader(make_clip(tmp_path / "a.mp4", Fraction(25), 12), rate=Fraction(given))
    assert reader.rate == given and numbers(reader) == expected == numbers(reader.frames(0, len(expected)))


@pytest.mark.parametrize("name", ["a.mp4", "a.mkv", "a.ts", "a.webm", "a.avi"])
def test_frames_are_exact_wherever_they_begin(tmp_path: Path, name: str) -> None:
    clip = tmp_path / name
    if name == "a.webm":
        encode(clip, [1000 * i // 30 for i in range(90)], Fraction(1, 1000), "libvpx-vp9", g="12")
    elif name == "a.avi":
        make_clip(clip, Fraction(25), 90)
    else:
        encode(clip, list(range(90)), Fraction(1, 30), g="12")
    reader = VideoReader(clip)
    whole = list(reader)
    assert len(whole) == 90
    for start, count in [(0, 3), (1, 2), (11, 3), (12, 1), (50, 10), (87, 3), (40, 0)]:
        part = list(reader.frames(start, count))
        assert len(part) == count
        assert all(np.array_equal(a, b) for a, b in zip(part, whole[start : start + count]))
    with pytest.raises(ValueError, match="frames 0 to 89, not 88 to 90"):
        reader.frames(88, 3)


def test_seeking_decodes_from_the_nearest_key_frame(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from stylereel.media.clip import Clip

    reader = VideoReader(encode(tmp_path / "a.mp4", list(range(200)), Fraction(1, 30), g="10", bf="0"))
    decoded = []
    decode = Clip._decode
    monkeypatch.setattr(Clip, "_decode", lambda self, key: (decoded.append(i[0]) or i for i in decode(self, key)))
    assert len(list(reader.frames(155, 3))) == 3
    assert decoded == list(range(150, 158))


def test_a_recording_that_begins_between_key_frames(tmp_path: Path) -> None:
    """The first whole frame is frame 0, wherever reading begins."""
    clip = encode(tmp_path / "a.ts", list(range(60)), Fraction(1, 30), g="20", keyint_min="20", sc_threshold="0")
    whole = list(VideoReader(clip))
    data = clip.read_bytes()
    clip.write_bytes(data[len(data) // 188 // 6 * 188 :])
    reader = VideoReader(clip)
    frames = list(reader)
    assert reader.rate == 30 and reader.num_frames == len(frames) == 40
    assert all(np.array_equal(a, b) for a, b in zip(frames, whole[20:]))
    assert np.array_equal(next(reader.frames(25, 1)), whole[45])


def test_hidden_vp8_frames_are_not_counted(tmp_path: Path) -> None:
    options = {"auto-alt-ref": "1", "lag-in-frames": "16", "g": "64", "arnr-maxframes": "7"}
    clip = encode(tmp_path / "a.webm", [40 * i for i in range(60)], Fraction(1, 1000), "libvpx", **options)
    reader = VideoReader(clip)
    assert reader.rate == 25 and reader.num_frames == 60 == len(list(reader))


@pytest.mark.parametrize("ending", [".mp4", ".mkv", ".webm"])
@pytest.mark.parametrize("rate", [FILM, NTSC, Fraction(25), Fraction(60)])
def test_every_video_form_keeps_rate_and_count(tmp_path: Path, ending: str, rate: Fraction) -> None:
    usual = os.sched_getscheduler(0) if hasattr(os, "sched_getscheduler") else None
    with VideoWriter(tmp_path / f"a{ending}", rate) as writer:
        for index in range(24):
            writer.write(square(index))
    if usual is not None:
        assert os.sched_getscheduler(0) == usual, "an encoder has not made this process more urgent than all others"
    reader = VideoReader(tmp_path / f"a{ending}")
    assert (reader.rate, reader.num_frames, reader.timing) == (rate, 24, "constant")
    assert numbers(reader) == list(range(24))


@pytest.mark.parametrize("size", [(48, 64), (47, 63)])
def test_lossless_forms_are_lossless(tmp_path: Path, size: tuple[int, int]) -> None:
    noise = np.random.default_rng(0).integers(0, 256, (12, *size, 3), np.uint8)
    for name in ("a.mkv", "folder"):
        with VideoWriter(tmp_path / name, Fraction(25)) as writer:
            for frame in noise:
                writer.write(frame)
        assert np.array_equal(list(VideoReader(tmp_path / name)), noise)
    assert sorted(path.name for path in (tmp_path / "folder").iterdir())[-1] == "000011.png"


def test_gif_out_and_in(tmp_path: Path) -> None:
    smooth = [np.roll(_smooth(63, 47), 4 * shift, 0) for shift in range(10)]
    with VideoWriter(tmp_path / "a.gif", Fraction(25)) as writer:
        for frame in smooth:
            writer.write(frame)
    reader = VideoReader(tmp_path / "a.gif")
    assert (reader.rate, reader.num_frames, reader.width, reader.height) == (25, 10, 47, 63)
    assert max(np.abs(a.astype(int) - b).mean() for a, b in zip(reader, smooth)) < 9
    with VideoWriter(tmp_path / "b.gif", NTSC) as writer:  # 3, 3 and 4 hundredths of a second in turn
        for frame in smooth * 3:
            writer.write(frame)
    with Image.open(tmp_path / "b.gif") as image:
        total = 0
        for index in range(30):
            image.seek(index)
            total += image.info["duration"]
    assert abs(total - 30 * 1001 / 30) <= 5  # milliseconds, after a second
    with pytest.raises(MediaError, match="at most 50 frames a second"):
        VideoWriter(tmp_path / "c.gif", Fraction(60))


@pytest.mark.parametrize("ending", [".gif", ".png", ".webp"])
def test_animations_in_with_uneven_delays_and_alpha(tmp_path: Path, ending: str) -> None:
    pictures = []
    for index in range(4):
        picture = Image.new("RGBA", (20, 10), (0, 0, 0, 0))
        picture.paste((10, 60 * index, 200, 255), (0, 0, 10, 10))
        pictures.append(picture)
    path = tmp_path / f"a{ending}"
    options: dict[str, Any] = {"lossless": True} if ending == ".webp" else {"disposal": 2}
    if ending == ".webp":  # Pillow writes animated WebP without its alpha channel
        pictures = [Image.alpha_composite(Image.new("RGBA", (20, 10), "white"), each) for each in pictures]
    pictures[0].save(path, save_all=True, append_images=pictures[1:], duration=[40, 80, 40, 40], loop=0, **options)
    reader = VideoReader(path)
    assert (reader.rate, reader.num_frames) == (25, 5)
    frames = list(reader)
    assert [int(frame[5, 5, 1]) // 60 for frame in frames] == [0, 1, 1, 2, 3]
    assert all((frame[:, 12:] == 255).all() for frame in frames)  # transparent parts over white
    assert np.array_equal(next(reader.frames(3, 1)), frames[3])


def test_a_folder_is_read_in_natural_order(tmp_path: Path) -> None:
    folder = tmp_path / "folder"
    for index in range(12):
        save_picture(folder / f"frame{index}.png", square(index))
    (folder / "notes.txt").write_text("not a picture")
    reader = VideoReader(folder, rate=NTSC)
    assert (reader.rate, reader.num_frames, VideoReader(folder).rate) == (NTSC, 12, 25)
    assert numbers(reader) == list(range(12)) and numbers(reader.frames(9, 3)) == [9, 10, 11]
    save_picture(folder / "frame12.png", square(0, 80))
    with pytest.raises(MediaError, match="frame12.png is 80 x 48, not 64 x 48"):
        list(VideoReader(folder))


def test_a_folder_with_files_is_not_written_over(tmp_path: Path) -> None:
    (tmp_path / "folder").mkdir()
    (tmp_path / "folder" / "mine").touch()
    with pytest.raises(MediaError, match="holds files already"), VideoWriter(tmp_path / "folder", Fraction(25)):
        pass
    with pytest.raises(RuntimeError), VideoWriter(tmp_path / "new", Fraction(25)) as writer:
        writer.write(square(0))
        raise RuntimeError
    assert [path.name for path in tmp_path.iterdir()] == ["folder"]


@pytest.mark.parametrize(("ending", "crf"), [(".gif", 20), (".mkv", 0), ("", 5)])
def test_what_a_form_cannot_do_is_said(tmp_path: Path, ending: str, crf: int) -> None:
    with pytest.raises(MediaError, match="has no crf"):
        VideoWriter(tmp_path / f"a{ending}", Fraction(25), crf=crf)
    if ending != ".mkv":
        clip = make_clip(tmp_path / "sound.mp4", sound="aac")
        with (
            pytest.warns(UserWarning, match="holds no sound"),
            VideoWriter(tmp_path / f"a{ending}", Fraction(25), audio_from=clip) as writer,
        ):
            writer.write(square(0))
        assert not writer.has_audio


# a b c d of the display matrix -> what makes the stored picture upright
TURNS = {
    (1, 0, 0, 1): lambda p: p,
    (0, 1, -1, 0): lambda p: np.rot90(p, -1),  # clockwise, as phones are held upright
    (-1, 0, 0, -1): lambda p: np.rot90(p, 2),
    (0, -1, 1, 0): lambda p: np.rot90(p, 1),
    (-1, 0, 0, 1): lambda p: p[:, ::-1],  # the mirror image of a selfie
    (1, 0, 0, -1): lambda p: p[::-1],
    (0, 1, 1, 0): lambda p: p.transpose(1, 0, 2),
}


@pytest.mark.parametrize("matrix", TURNS)
def test_every_display_matrix_is_honoured(tmp_path: Path, matrix: tuple[int, int, int, int]) -> None:
    clip = make_clip(tmp_path / "a.mp4", num_frames=2)
    plain = next(iter(VideoReader(clip)))
    data = clip.read_bytes()
    identity = struct.pack(">9i", 1 << 16, 0, 0, 0, 1 << 16, 0, 0, 0, 1 << 30)
    place = data.index(identity, data.index(b"tkhd"))
    a, b, c, d = (part << 16 for part in matrix)
    turned = struct.pack(">9i", a, b, 0, c, d, 0, 0, 0, 1 << 30)
    clip.write_bytes(data[:place] + turned + data[place + len(turned) :])
    reader = VideoReader(clip)
    frame = next(iter(reader))
    assert frame.shape == (reader.height, reader.width, 3)
    assert np.array_equal(frame, TURNS[matrix](plain))


def _smooth(height: int, width: int) -> np.ndarray:
    """A picture with soft changes of all colours."""
    small = np.random.default_rng(3).integers(0, 256, (max(height // 16, 2), max(width // 16, 2), 3), np.uint8)
    return np.asarray(Image.fromarray(small).resize((width, height), Image.Resampling.BICUBIC))


@pytest.mark.parametrize(
    ("form", "codec", "name", "bound"),
    [
        ("yuv420p10le", "ffv1", "a.mkv", 1.5),
        ("yuv444p10le", "ffv1", "a.mkv", 1.0),
        ("yuv422p10le", "prores_ks", "a.mov", 2.5),
        ("yuvj420p", "mjpeg", "a.avi", 3.0),
        ("gray", "ffv1", "a.mkv", 0.6),
        ("gray10le", "ffv1", "a.mkv", 0.6),
        ("rgb24", "png", "a.mov", 0.0),
    ],
)
def test_pixel_formats_in(tmp_path: Path, form: str, codec: str, name: str, bound: float) -> None:
    picture = _smooth(64, 96)
    if form.startswith("gray"):
        picture = np.repeat(picture[..., 1:2], 3, axis=2)
    path = tmp_path / name
    with av.open(str(path), "w") as container:
        stream = container.add_stream(codec, rate=25)
        assert isinstance(stream, VideoStream)
        stream.width, stream.height, stream.pix_fmt = 96, 64, form
        if codec == "mjpeg":
            stream.codec_context.qmin = stream.codec_context.qmax = 1
        frame = VideoFrame.from_ndarray(picture, format="rgb24").reformat(format=form, interpolation=0x46004)
        frame.pts = 0
        container.mux([*stream.encode(frame), *stream.encode(None)])
    back = next(iter(VideoReader(path)))
    assert back.shape == picture.shape and back.dtype == np.uint8
    assert np.abs(back.astype(int) - picture).mean() <= bound


def test_alpha_is_laid_over_white(tmp_path: Path) -> None:
    picture = np.zeros((32, 32, 4), np.uint8)
    picture[:, :, 0] = 200
    picture[:, :16, 3], picture[:, 16:24, 3] = 255, 128
    with av.open(str(tmp_path / "a.mov"), "w") as container:
        stream = container.add_stream("qtrle", rate=25)
        assert isinstance(stream, VideoStream)
        stream.width, stream.height, stream.pix_fmt = 32, 32, "argb"
        frame = VideoFrame.from_ndarray(picture, format="rgba").reformat(format="argb")
        frame.pts = 0
        container.mux([*stream.encode(frame), *stream.encode(None)])
    row = next(iter(VideoReader(tmp_path / "a.mov")))[5]
    assert (row[:16] == (200, 0, 0)).all() and (row[24:] == 255).all()
    assert np.abs(row[16:24].astype(int) - (227, 127, 127)).max() <= 1


@pytest.mark.parametrize("codec", ["libvpx", "libvpx-vp9"])
def test_webm_with_alpha_is_laid_over_white_wherever_it_begins(tmp_path: Path, codec: str) -> None:
    picture = np.zeros((64, 64, 4), np.uint8)
    picture[:, :, 0], picture[:, :32, 3] = 200, 255
    with av.open(str(tmp_path / "a.webm"), "w") as container:
        stream = container.add_stream(codec, rate=25, options={"crf": "4", "b": "2M", "auto-alt-ref": "0", "g": "2"})
        assert isinstance(stream, VideoStream)
        stream.width, stream.height, stream.pix_fmt = 64, 64, "yuva420p"
        stream.metadata["alpha_mode"] = "1"
        for index in range(5):
            frame = VideoFrame.from_ndarray(picture, format="rgba").reformat(format="yuva420p")
            frame.pts = index
            container.mux(stream.encode(frame))
        container.mux(stream.encode(None))
    reader = VideoReader(tmp_path / "a.webm")
    for back in (*reader, *reader.frames(4, 1)):
        assert np.abs(back[5, 4:24].astype(int) - (200, 0, 0)).max() <= 12 and (back[5, 40:] >= 250).all()
    assert reader.num_frames == 5


@pytest.mark.parametrize(("name", "mean"), [("a.mp4", 2.0), ("a.webm", 2.0)])
def test_colours_neither_shift_nor_fade(tmp_path: Path, name: str, mean: float) -> None:
    """H.264 and AV1 with 4:2:0 chroma: errors, and no bias to dark or to a colour, over three generations."""
    picture = _smooth(256, 256)
    frame = picture
    for _ in range(3):
        with VideoWriter(tmp_path / name, Fraction(25), crf=10) as writer:
            writer.write(frame)
        frame = next(iter(VideoReader(tmp_path / name)))
    wrong = frame.astype(int) - picture
    assert np.abs(wrong).mean() < mean
    assert np.abs(wrong.mean((0, 1))).max() < 0.6
    with av.open(str(tmp_path / name)) as container:
        context = container.streams.video[0].codec_context
        assert (context.colorspace, context.color_primaries, context.color_trc) == (1, 1, 1)
        assert context.color_range == 1


def test_large_untagged_clips_are_bt709_and_small_ones_bt601(tmp_path: Path) -> None:
    for (width, height), matrix in {(1280, 32): 1, (64, 32): 5}.items():
        picture = np.full((height, width, 3), (30, 180, 60), np.uint8)
        with av.open(str(tmp_path / "a.mkv"), "w") as container:
            stream = container.add_stream("ffv1", rate=25)
            assert isinstance(stream, VideoStream)
            stream.width, stream.height, stream.pix_fmt = width, height, "yuv444p"
            frame = VideoFrame.from_ndarray(picture, format="rgb24").reformat(format="yuv444p", dst_colorspace=matrix)
            frame.colorspace, frame.pts = 2, 0  # unspecified
            container.mux([*stream.encode(frame), *stream.encode(None)])
        back = next(iter(VideoReader(tmp_path / "a.mkv")))
        assert np.abs(back.astype(int) - picture).max() <= 2


@pytest.mark.skipif(sys.platform != "linux", reason="reads the process's peak memory as Linux gives it")
def test_ten_thousand_frames_take_the_memory_of_a_thousand(tmp_path: Path) -> None:
    code = """
import resource, sys
from fractions import Fraction
import numpy as np
from stylereel.media.video import VideoReader, VideoWriter
def peak():
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss  # KiB
noise = np.random.default_rng(0).integers(0, 256, (7, 48, 64, 3), np.uint8)
with VideoWriter(sys.argv[1], Fraction(30000, 1001), crf=40) as writer:
    for index in range(10_000):
        writer.write(noise[index % 7])
        if index == 1000:
            start = peak()
reader = VideoReader(sys.argv[1])
assert reader.num_frames == 10_000 and reader.rate == Fraction(30000, 1001)
assert sum(1 for _ in reader) == 10_000
assert sum(1 for _ in reader.frames(9_990, 10)) == 10
print(peak() - start)
"""
    command = [sys.executable, "-c", code, str(tmp_path / "long.mp4")]
    grown = int(subprocess.run(command, capture_output=True, text=True, check=True).stdout)
    assert grown < 40_000  # KiB; 9,000 frames are 81,000, and more in the decoder's form
