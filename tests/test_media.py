"""Video, sound and pictures in and out: exact rates and counts, sound in step, one sentence for bad files."""

import struct
import sys
from fractions import Fraction
from pathlib import Path

import av
import numpy as np
import pytest
from av.audio.frame import AudioFrame
from av.audio.stream import AudioStream
from av.video.frame import VideoFrame
from PIL import Image

from stylereel.core.files import MediaError, ensure_writable, replacing
from stylereel.media.pictures import read_picture, save_picture
from stylereel.media.sheet import GAP, LABEL_HEIGHT, contact_sheet, shrink, side_by_side
from stylereel.media.video import VideoReader, VideoWriter

NTSC = Fraction(30000, 1001)


def square(index: int, width: int = 64, height: int = 48) -> np.ndarray:
    """A grey picture with a red square that moves 2 pixels a frame."""
    frame = np.full((height, width, 3), 90, np.uint8)
    left = 2 * index % (width - 16)
    frame[8:24, left : left + 16] = (200, 40, 40)
    return frame


def make_clip(
    path: Path,
    rate: Fraction = Fraction(25),
    num_frames: int = 20,
    sound: str | None = None,
    sound_rate: int = 44100,
    beep: Fraction = Fraction(0),
    turn: int = 0,
    size: tuple[int, int] = (64, 48),
) -> Path:
    """A clip of a moving square; its sound is silence, then from `beep` seconds on a sine of 440 Hz."""
    with av.open(str(path), "w") as container:
        video = container.add_stream("libx264", rate=rate)
        video.width, video.height = size
        video.pix_fmt = "yuv420p"
        if turn:
            video.set_display_rotation(turn)
        audio = container.add_stream(sound, rate=sound_rate) if sound else None
        if isinstance(audio, AudioStream):
            audio.codec_context.layout = "mono"
        for index in range(num_frames):
            picture = VideoFrame.from_ndarray(square(index, *size), format="rgb24")
            picture.pts, picture.time_base = index, 1 / rate
            container.mux(video.encode(picture))
        container.mux(video.encode(None))
        if audio:
            assert isinstance(audio, AudioStream)
            times = np.arange(int(sound_rate * num_frames / rate)) / sound_rate
            wave = np.where(times >= float(beep), 8000 * np.sin(2 * np.pi * 440 * times), 0).astype(np.int16)
            whole = AudioFrame.from_ndarray(wave[None], format="s16", layout="mono")
            whole.sample_rate, whole.pts = sound_rate, 0
            context = audio.codec_context
            resampler = av.AudioResampler(context.format, "mono", sound_rate, context.frame_size or 1024)
            for part in [*resampler.resample(whole), *resampler.resample(None)]:
                container.mux(audio.encode(part))
            container.mux(audio.encode(None))
    return path


def truncate(path: Path, part: float) -> Path:
    data = path.read_bytes()
    path.write_bytes(data[: int(len(data) * part)])
    return path


def sound_of(path: Path) -> tuple[np.ndarray, int, float]:
    """Samples, their rate and the start in seconds of a file's sound."""
    with av.open(str(path)) as container:
        frames = list(container.decode(audio=0))
    assert frames[0].time is not None
    samples = np.concatenate([frame.to_ndarray()[0] for frame in frames]).astype(np.float64)
    return samples, frames[0].sample_rate, frames[0].time


def onset(path: Path) -> float:
    """When the beep begins, in seconds."""
    samples, rate, start = sound_of(path)
    return start + np.argmax(np.abs(samples) > 0.3 * np.abs(samples).max()) / rate


def durations(path: Path) -> dict[str, Fraction]:
    with av.open(str(path)) as container:
        return {s.type: (s.duration or 0) * (s.time_base or Fraction(1)) for s in container.streams}


def copy(clip: Path, out: Path, num_frames: int | None = None) -> Path:
    reader = VideoReader(clip)
    with VideoWriter(out, reader.rate, audio_from=clip) as writer:
        for index, frame in enumerate(reader):
            if index == num_frames:
                break
            writer.write(frame)
    return out


@pytest.mark.parametrize("rate", [Fraction(25), Fraction(30), NTSC, Fraction(24000, 1001), Fraction(60)])
def test_rate_count_and_pictures_survive(tmp_path: Path, rate: Fraction) -> None:
    clip = make_clip(tmp_path / "in.mp4", rate)
    out = VideoReader(copy(clip, tmp_path / "out.mp4"))
    assert out.rate == rate
    assert out.num_frames == 20 == len(list(out))
    for index, frame in enumerate(out):
        assert np.abs(frame.astype(int) - square(index)).mean() < 4


def test_reader_describes_and_repeats(tmp_path: Path) -> None:
    reader = VideoReader(make_clip(tmp_path / "in.mp4", sound="aac"))
    assert (reader.width, reader.height, reader.num_frames, reader.has_audio) == (64, 48, 20, True)
    first, second = list(reader), list(reader)
    assert first[0].shape == (48, 64, 3) and first[0].dtype == np.uint8
    assert np.array_equal(first, second)
    assert not VideoReader(make_clip(tmp_path / "silent.mp4")).has_audio


def test_count_is_known_without_an_index(tmp_path: Path) -> None:
    reader = VideoReader(make_clip(tmp_path / "in.mkv", NTSC))
    assert reader.num_frames == 20 == len(list(reader))
    assert reader.rate == NTSC


@pytest.mark.parametrize("turn", [90, 180, -90])
def test_rotation_is_applied(tmp_path: Path, turn: int) -> None:
    upright = next(iter(VideoReader(make_clip(tmp_path / "plain.mp4"))))
    reader = VideoReader(make_clip(tmp_path / "turned.mp4", turn=turn))
    frame = next(iter(reader))
    assert frame.shape == (reader.height, reader.width, 3)
    assert np.array_equal(frame, np.rot90(upright, turn // 90))  # the file says anticlockwise degrees


@pytest.mark.parametrize(
    ("name", "codec", "sound_rate", "written_as"),
    [
        ("in.mp4", "aac", 44100, "aac"),
        ("in.mp4", "aac", 16000, "aac"),
        ("in.ts", "aac", 48000, "aac"),
        ("in.mp4", "libmp3lame", 44100, "mp3"),
        ("in.mkv", "libopus", 48000, "aac"),
        ("in.mov", "pcm_s16le", 22050, "aac"),
        ("in.mkv", "pcm_s16le", 37800, "aac"),
    ],
)
@pytest.mark.parametrize("rate", [Fraction(25), NTSC])
def test_sound_stays_in_step_and_ends_with_the_video(
    tmp_path: Path, name: str, codec: str, sound_rate: int, written_as: str, rate: Fraction
) -> None:
    clip = make_clip(tmp_path / name, rate, 60, codec, sound_rate, beep=Fraction(1, 2))
    out = copy(clip, tmp_path / "out.mp4", num_frames=40)
    with av.open(str(out)) as container:
        assert container.streams.audio[0].codec_context.codec.canonical_name == written_as
    lengths = durations(out)
    assert lengths["video"] == 40 / rate
    assert abs(lengths["audio"] - lengths["video"]) <= 1 / rate
    with av.open(str(clip)) as container:
        video = container.streams.video[0]
        begin = float((video.start_time or 0) * (video.time_base or 0))
    assert abs(onset(out) - (onset(clip) - begin)) < 0.5 / float(rate)


def test_copied_sound_is_the_same_sound(tmp_path: Path) -> None:
    clip = make_clip(tmp_path / "in.mp4", num_frames=50, sound="aac")
    before, after = sound_of(clip)[0], sound_of(copy(clip, tmp_path / "out.mp4"))[0]
    shared = min(len(before), len(after))
    assert shared > 1.9 * 44100
    assert np.array_equal(before[:shared], after[:shared])


def test_sound_and_pictures_lie_interleaved(tmp_path: Path) -> None:
    out = copy(make_clip(tmp_path / "in.mp4", num_frames=100, sound="aac"), tmp_path / "out.mp4")
    with av.open(str(out)) as container:
        kinds = [packet.stream.type for packet in container.demux() if packet.pos is not None]
    half = kinds[: len(kinds) // 2]
    assert 0.4 < half.count("audio") / kinds.count("audio") < 0.6


def test_odd_sizes_repeat_the_last_row_and_column(tmp_path: Path) -> None:
    frame = np.zeros((47, 63, 3), np.uint8)
    frame[:, -1] = frame[-1] = 200
    with VideoWriter(tmp_path / "out.mp4", Fraction(25), crf=0) as writer:
        writer.write(frame)
    back = next(iter(VideoReader(tmp_path / "out.mp4")))
    assert back.shape == (48, 64, 3)
    assert back[:, -1].min() > 190 and back[-1].min() > 190 and back[:46, :62].max() < 10


def test_colours_survive(tmp_path: Path) -> None:
    colours = [(255, 0, 0), (0, 255, 0), (0, 0, 255), (255, 255, 255), (0, 0, 0), (180, 120, 90)]
    frame = np.repeat(np.repeat(np.array([colours], np.uint8), 32, 0), 32, 1)
    with VideoWriter(tmp_path / "out.mp4", Fraction(25)) as writer:
        writer.write(frame)
    back = next(iter(VideoReader(tmp_path / "out.mp4")))
    inner = np.arange(frame.shape[1]) % 32
    inside = (inner > 4) & (inner < 27)
    assert np.abs(back[:, inside].astype(int) - frame[:, inside]).max() <= 6


def test_index_comes_first(tmp_path: Path) -> None:
    data = copy(make_clip(tmp_path / "in.mp4"), tmp_path / "out.mp4").read_bytes()
    boxes, place = [], 0
    while place < len(data):
        (length,) = struct.unpack(">I", data[place : place + 4])
        boxes.append(data[place + 4 : place + 8])
        place += length
    assert boxes.index(b"moov") < boxes.index(b"mdat")


@pytest.mark.parametrize(("width", "height", "tree"), [(256, 256, True), (256, 48, False), (32, 256, False)])
def test_small_pictures_do_without_the_macroblock_tree(tmp_path: Path, width: int, height: int, tree: bool) -> None:
    # With it one file in a thousand differs from the others; too seldom for a test to wait for.
    out = tmp_path / "out.mp4"
    with VideoWriter(out, Fraction(25)) as writer:
        writer.write(square(0, width, height))
    assert (b"mbtree=%d" % tree) in out.read_bytes()  # x264 notes its settings in the stream


def test_a_failed_video_leaves_the_old_file_and_nothing_else(tmp_path: Path) -> None:
    out = tmp_path / "out.mp4"
    out.write_bytes(b"old")
    with pytest.raises(RuntimeError), VideoWriter(out, Fraction(25)) as writer:
        writer.write(square(0))
        raise RuntimeError
    with pytest.raises(MediaError, match="No frame"), VideoWriter(out, Fraction(25)):
        pass
    with pytest.raises(ValueError, match="keep one size"), VideoWriter(out, Fraction(25)) as writer:
        writer.write(square(0))
        writer.write(square(0, 80))
    assert out.read_bytes() == b"old"
    assert list(tmp_path.iterdir()) == [out]


def test_written_files_have_ordinary_permissions(tmp_path: Path) -> None:
    (tmp_path / "plain").touch()
    save_picture(tmp_path / "new" / "folder" / "out.png", square(0))
    assert (tmp_path / "new/folder/out.png").stat().st_mode == (tmp_path / "plain").stat().st_mode


def bad_clips(folder: Path) -> dict[str, Path]:
    """Every kind of unusable clip: name of the case -> file."""
    cases = {"missing": folder / "missing.mp4", "folder": folder / "folder.mp4"}
    cases["folder"].mkdir()
    cases["empty"] = folder / "empty.mp4"
    cases["empty"].touch()
    cases["text"] = folder / "text.mp4"
    cases["text"].write_text("not a video\n" * 50)
    cases["only sound"] = folder / "sound.m4a"
    with av.open(str(cases["only sound"]), "w") as container:
        stream = container.add_stream("aac", rate=44100)
        assert isinstance(stream, AudioStream)
        frame = AudioFrame.from_ndarray(np.zeros((1, 1024), np.float32), format="fltp", layout="mono")
        frame.sample_rate = 44100
        stream.codec_context.layout = "mono"
        container.mux(stream.encode(frame))
        container.mux(stream.encode(None))
    cases["no frames"] = folder / "no frames.mkv"
    with av.open(str(cases["no frames"]), "w") as container:
        stream = container.add_stream("libx264", rate=25)
        stream.width, stream.height, stream.pix_fmt = 64, 48, "yuv420p"
        container.start_encoding()
    cases["without index"] = truncate(make_clip(folder / "without index.mp4"), 0.7)
    return cases


@pytest.mark.parametrize("case", ["missing", "folder", "empty", "text", "only sound", "no frames", "without index"])
def test_unusable_clips_say_so_at_once(tmp_path: Path, case: str) -> None:
    path = bad_clips(tmp_path)[case]
    with pytest.raises(MediaError) as error:
        VideoReader(path)
    message = str(error.value)
    assert str(path) in message and "\n" not in message and message.endswith(".")


@pytest.mark.parametrize("part", [0.5, 0.97])
def test_a_clip_cut_short_says_where(tmp_path: Path, part: float) -> None:
    clip = tmp_path / "cut.mp4"
    noise = np.random.default_rng(0).integers(0, 255, (50, 48, 64, 3), np.uint8)
    with VideoWriter(clip, Fraction(25)) as writer:  # the index is at the front, the data are cut
        for frame in noise:
            writer.write(frame)
    reader = VideoReader(truncate(clip, part))
    seen = 0
    with pytest.raises(MediaError, match=r"damaged after \d+ of 50 frames"):
        for _ in reader:
            seen += 1
    assert 0 < seen < 50


def test_broken_data_inside_a_clip_is_an_error_or_full_length(tmp_path: Path) -> None:
    """A decoder hides small damage; whatever it does, the count is right or the reader complains."""
    clip = make_clip(tmp_path / "in.mp4", num_frames=50)
    data = bytearray(clip.read_bytes())
    middle = len(data) // 2
    data[middle - 400 : middle + 400] = bytes(800)
    clip.write_bytes(data)
    try:
        assert len(list(VideoReader(clip))) == 50
    except MediaError as error:
        assert "damaged after" in str(error)


def test_ensure_writable(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    assert ensure_writable(tmp_path / "new" / "out.png") == tmp_path / "new" / "out.png"
    with pytest.raises(MediaError, match="is a folder"):
        ensure_writable(tmp_path)
    with pytest.raises(MediaError, match="cannot be written"):
        ensure_writable(tmp_path / "file" / "out.png")
    with pytest.raises(MediaError, match="end in .mp4"):
        VideoWriter(tmp_path / "out.avi", Fraction(25))
    assert sorted(path.name for path in tmp_path.rglob("*")) == ["file"]


@pytest.mark.skipif(sys.platform != "linux", reason="needs a folder that refuses even the root user")
def test_ensure_writable_tries_as_any_user() -> None:
    with pytest.raises(MediaError, match="/proc/out.png cannot be written"):
        ensure_writable("/proc/out.png")


def test_replacing_keeps_the_old_file_on_error(tmp_path: Path) -> None:
    path = tmp_path / "data"
    path.write_text("old")
    with pytest.raises(KeyboardInterrupt), replacing(path) as partial:
        partial.write_text("half")
        raise KeyboardInterrupt
    assert path.read_text() == "old"
    with replacing(path) as partial:
        partial.write_text("new")
    assert path.read_text() == "new" and list(tmp_path.iterdir()) == [path]


def test_pictures_come_back(tmp_path: Path) -> None:
    save_picture(tmp_path / "a.png", square(3))
    assert np.array_equal(read_picture(tmp_path / "a.png"), square(3))
    save_picture(tmp_path / "a.jpg", square(3))
    assert np.abs(read_picture(tmp_path / "a.jpg").astype(int) - square(3)).mean() < 4
    with pytest.raises(MediaError, match="end in .png"):
        save_picture(tmp_path / "a.xyz", square(3))


def test_picture_kinds(tmp_path: Path) -> None:
    path = tmp_path / "a.png"
    Image.new("RGBA", (4, 2), (200, 0, 0, 0)).save(path)
    assert (read_picture(path) == 255).all()
    Image.new("L", (4, 2), 77).save(path)
    assert read_picture(path).shape == (2, 4, 3) and (read_picture(path) == 77).all()
    Image.fromarray(np.full((2, 4), 128 * 256, np.uint16)).save(path)
    assert (read_picture(path) == 128).all()
    turned = Image.fromarray(square(0))
    exif = turned.getexif()
    exif[0x0112] = 6  # to be turned a quarter clockwise for viewing
    turned.save(path, exif=exif)
    assert np.array_equal(read_picture(path), np.rot90(square(0), -1))


@pytest.mark.parametrize("case", ["missing", "folder", "empty", "text", "cut short"])
def test_unusable_pictures_say_so(tmp_path: Path, case: str) -> None:
    path = tmp_path / f"{case}.png"
    if case == "folder":
        path.mkdir()
    elif case == "cut short":
        save_picture(path, np.random.default_rng(0).integers(0, 255, (64, 64, 3), np.uint8))
        truncate(path, 0.5)
    elif case != "missing":
        path.write_text("not a picture" if case == "text" else "")
    with pytest.raises(MediaError) as error:
        read_picture(path)
    assert str(path) in str(error.value) and "\n" not in str(error.value)


def test_side_by_side_and_contact_sheet() -> None:
    pictures = [square(index) for index in range(5)]
    row = side_by_side(pictures[:3])
    assert row.shape == (48, 3 * 64 + 2 * GAP, 3)
    assert np.array_equal(row[:, -64:], pictures[2])
    labelled = side_by_side(pictures[:2], ["left", "right"])
    assert np.array_equal(labelled[LABEL_HEIGHT:], side_by_side(pictures[:2]))
    assert (
        labelled[:LABEL_HEIGHT, :64].min() < 128
        and not (labelled[:LABEL_HEIGHT, :64] == labelled[:LABEL_HEIGHT, -64:]).all()
    )
    page = contact_sheet(pictures, 3)
    assert page.shape == (2 * 48 + GAP, row.shape[1], 3)
    assert np.array_equal(page[:48], row)
    assert np.array_equal(page[-48:, :64], pictures[3])
    assert (page[-48:, -64:] == 255).all()
    assert contact_sheet(pictures[:2], 6).shape == (48, 2 * 64 + GAP, 3)
    with pytest.raises(ValueError, match="one height"):
        side_by_side([square(0), square(0, 64, 50)])
    with pytest.raises(ValueError, match="at least one"):
        contact_sheet([], 3)
    assert shrink(square(0), 32).shape == (24, 32, 3)
