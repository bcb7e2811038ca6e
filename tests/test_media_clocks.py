"""What a container's clock says: cuts between key frames, clocks that start again, uneven times, holes; sound too."""

import warnings
from fractions import Fraction
from pathlib import Path
from typing import Any

import av
import numpy as np
import pytest
from av.audio.frame import AudioFrame
from av.audio.stream import AudioStream
from av.video.frame import VideoFrame
from av.video.stream import VideoStream
from test_media import copy, make_clip, square
from test_media_formats import encode, numbers
from test_media_hostile import case
from test_sound import click_clip, heard, starts

from stylereel.core.files import MediaError
from stylereel.media.clip import _quarter_turns, _turn
from stylereel.media.sound import HOLE, waveform
from stylereel.media.video import VideoReader


def cut(clip: Path, out: Path, frame: int, base: Fraction = Fraction(1, 30)) -> Path:
    """The packets from the key frame before `frame` on, whose time becomes 0: an edit list hides what comes before."""
    with av.open(str(clip)) as source, av.open(str(out), "w") as target:
        stream = source.streams.video[0]
        copied = target.add_stream_from_template(stream)
        packets = [packet for packet in source.demux(stream) if packet.size]
        assert stream.time_base is not None
        first = round(frame * base / stream.time_base)
        keys = [index for index, packet in enumerate(packets) if packet.is_keyframe and (packet.pts or 0) <= first]
        for packet in packets[keys[-1] :]:
            assert packet.pts is not None and packet.dts is not None
            packet.pts, packet.dts, packet.stream = packet.pts - first, packet.dts - first, copied
            target.mux(packet)
    return out


@pytest.mark.parametrize("ending", [".mp4", ".mov"])
@pytest.mark.parametrize("bf", ["0", "3"])
@pytest.mark.parametrize("place", [1, 4, 7, 11, 12, 13, 17])
def test_a_cut_without_encoding_begins_with_its_first_frame(tmp_path: Path, ending: str, bf: str, place: int) -> None:
    options = {"g": "12", "keyint_min": "12", "sc_threshold": "0", "bf": bf}
    whole = encode(tmp_path / "a.mp4", list(range(24)), Fraction(1, 30), **options)
    reader = VideoReader(cut(whole, tmp_path / f"cut{ending}", place))
    assert (reader.num_frames, reader.rate, reader.timing) == (24 - place, 30, "constant")
    assert numbers(reader) == list(range(place, 24))
    assert numbers(reader.frames(24 - place - 2, 2)) == [22, 23]


@pytest.mark.parametrize("name", ["gopcut0.2.mp4", "gopb0cut.mp4"])
def test_cuts_by_others_have_all_their_frames(name: str) -> None:
    reader = VideoReader(case(name))
    whole = list(reader)
    assert (reader.num_frames, len(whole), reader.rate, reader.timing) == (30, 30, 30, "constant")
    assert all(np.array_equal(next(reader.frames(index, 1)), whole[index]) for index in (0, 1, 14, 29))


@pytest.mark.parametrize("name", ["a.ts", "a.mpg"])
def test_a_clock_that_starts_again_goes_on(tmp_path: Path, name: str) -> None:
    """Two clips joined byte by byte: all frames, and the clicks of both where they were."""
    path = tmp_path / name
    with av.open(str(path), "w") as container:
        video = container.add_stream("mpeg2video", rate=30, options={"b": "4M"})
        audio = container.add_stream("mp2", rate=48000)
        assert isinstance(video, VideoStream) and isinstance(audio, AudioStream)
        video.width, video.height, video.pix_fmt = 64, 48, "yuv420p"
        audio.codec_context.layout = "mono"
        packets = []
        for index in range(24):
            picture = VideoFrame.from_ndarray(square(index), format="rgb24")
            picture.pts, picture.time_base = index, Fraction(1, 30)
            packets += video.encode(picture)
        times = np.arange(48000 * 24 // 30) / 48000
        wave = ((times >= 0.4) & (times < 0.42)) * 20000 * np.sin(2 * np.pi * 2000 * times)
        whole = AudioFrame.from_ndarray(wave.astype(np.int16)[None], "s16", "mono")
        whole.sample_rate, whole.pts = 48000, 0
        context = audio.codec_context
        resampler = av.AudioResampler(context.format, "mono", 48000, context.frame_size)
        for part in [*resampler.resample(whole), *resampler.resample(None)]:
            packets += audio.encode(part)
        packets += [*video.encode(None), *audio.encode(None)]
        for packet in sorted(packets, key=lambda each: (each.dts or 0) * each.time_base):
            container.mux(packet)
    one = VideoReader(path)
    click = starts(np.abs(waveform(path)), np.arange(len(waveform(path))) / 16000)
    assert one.num_frames == 24 and len(click) == 1
    data = path.read_bytes()
    path.write_bytes(data + data)
    two = VideoReader(path)
    assert (two.num_frames, two.rate, two.timing, two.has_audio) == (48, 30, "constant", True)
    frames = list(two)
    assert numbers(frames) == 2 * list(range(24)) and numbers(two.frames(40, 2)) == [16, 17]
    samples = waveform(path)
    assert np.abs(starts(np.abs(samples), np.arange(len(samples)) / 16000) - [*click, *(click + 0.8)]).max() < 0.02
    for ending in (".mp4", ".mkv"):
        out = copy(path, tmp_path / f"out{ending}")
        assert np.abs(heard(out) - [*click, *(click + 0.8)]).max() < 0.02
        assert VideoReader(out).num_frames == 48


@pytest.mark.parametrize("name", ["cat.ts", "cat.mpg"])
def test_joined_clips_have_both_parts(tmp_path: Path, name: str) -> None:
    reader = VideoReader(case(name))
    assert (reader.num_frames, len(list(reader)), reader.rate, reader.has_audio) == (72, 72, 30, True)
    loud = np.abs(waveform(case(name)))
    assert 2.2 < len(loud) / 16000 < 2.5 and loud[:16000].max() > 0 and loud[20800:].max() > 0
    assert VideoReader(copy(case(name), tmp_path / "out.mp4")).num_frames == 72


def test_a_recording_at_the_rate_that_its_file_names(tmp_path: Path) -> None:
    """A clock of milliseconds and a missing frame: each frame has its own tick, the one before the hole has two."""
    times = [round(1000 * index / 60) for index in range(24) if index != 9]
    reader = VideoReader(encode(tmp_path / "a.mkv", times, Fraction(1, 1000)))
    assert reader.rate == 60
    assert numbers(reader)[:24] == [*range(9), 8, *range(9, 23)]
    reader = VideoReader(case("rec60.webm"))
    assert (reader.rate, reader.num_frames, len(list(reader))) == (60, 36, 36)
    assert reader.timing == "31 frames resampled to 36 at 60 frames a second by hold"


@pytest.mark.parametrize("seed", range(4))
def test_no_frame_of_an_uneven_clip_is_lost(tmp_path: Path, seed: int) -> None:
    """Late stamps, catching up, bursts of twice the rate: every frame is shown, near its time, in order."""
    random = np.random.default_rng(seed)
    steps = random.choice([10, 20, 20, 20, 34, 41, 90], 23)
    times = np.concatenate([[0], np.cumsum(steps)])
    reader = VideoReader(encode(tmp_path / "a.mp4", times.tolist(), Fraction(1, 600)))
    shown = numbers(reader)
    assert sorted(set(shown)) == list(range(24)) and shown == sorted(shown)
    first = np.array([shown.index(index) for index in range(24)])
    assert np.abs(first / reader.rate - times / 600).max() <= 1 / reader.rate
    assert reader.num_frames < 8 * 24


def test_a_time_far_away_is_a_sentence(tmp_path: Path) -> None:
    for last in (10**6, 1000):
        clip = encode(tmp_path / "a.mkv", [*range(0, 400, 40), last * 1000], Fraction(1, 1000))
        assert clip.stat().st_size < 20_000
        with pytest.raises(MediaError, match="a time in it is wrong"):
            VideoReader(clip)
    clip = encode(tmp_path / "b.mkv", [*range(0, 400, 40), 60_000], Fraction(1, 1000))  # a minute is a freeze
    assert VideoReader(clip).num_frames == 1501


@pytest.mark.parametrize("seconds", [5, HOLE + 50, 10**6])
def test_a_hole_in_the_sound_is_silence_up_to_a_limit(tmp_path: Path, seconds: int) -> None:
    with av.open(str(tmp_path / "a.mka"), "w", format="matroska") as container:
        stream = container.add_stream("pcm_s16le", rate=8000)
        assert isinstance(stream, AudioStream)
        stream.codec_context.layout = "mono"
        for start in (0, seconds):
            frame = AudioFrame.from_ndarray(np.full((1, 8000), 9000, np.int16), "s16", "mono")
            frame.sample_rate, frame.pts, frame.time_base = 8000, 8000 * start, Fraction(1, 8000)
            container.mux(stream.encode(frame))
        container.mux(stream.encode(None))
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        samples = waveform(tmp_path / "a.mka", 8000)
    assert abs(len(samples) / 8000 - (seconds + 1 if seconds < HOLE else 1)) < 0.1
    assert any("has a hole" in str(each.message) for each in caught) == (seconds > HOLE)


@pytest.mark.parametrize("ending", [".mkv", ".mp4", ".webm"])
def test_sound_that_a_container_cannot_hold_is_encoded(tmp_path: Path, ending: str) -> None:
    out = copy(case("amr.3gp"), tmp_path / f"out{ending}")
    assert VideoReader(out).has_audio and 0.35 < len(waveform(out)) / 16000 < 0.65  # whole packets


def test_sound_without_a_decoder_is_left_out_with_a_word() -> None:
    with pytest.warns(UserWarning, match="cannot be decoded"):
        reader = VideoReader(case("apac_only.mov"))
    assert not reader.has_audio and len(list(reader)) == reader.num_frames == 12
    with pytest.warns(UserWarning, match="cannot be decoded"):
        assert VideoReader(case("apac_aac.mov")).has_audio
        assert len(waveform(case("apac_aac.mov"))) > 5000
        with pytest.raises(MediaError, match="holds no sound"):
            waveform(case("apac_only.mov"))


def test_the_second_sound_is_taken_where_the_first_has_no_decoder(tmp_path: Path) -> None:
    out = copy(case("apac_aac.mov"), tmp_path / "out.mp4")
    assert VideoReader(out).has_audio and np.abs(waveform(out)).max() > 0


def test_a_track_without_packets_is_no_sound(tmp_path: Path) -> None:
    clip = tmp_path / "a.mkv"
    with av.open(str(clip), "w") as container:
        video, audio = container.add_stream("libx264", rate=30), container.add_stream("aac", rate=44100)
        assert isinstance(video, VideoStream) and isinstance(audio, AudioStream)
        video.width, video.height, video.pix_fmt = 64, 48, "yuv420p"
        audio.codec_context.layout = "mono"
        for index in range(6):
            container.mux(video.encode(VideoFrame.from_ndarray(square(index), format="rgb24")))
        container.mux(video.encode(None))
    for path in (clip, case("empty_audio.mkv")):
        assert not VideoReader(path).has_audio
        with pytest.raises(MediaError, match="holds no sound"):
            waveform(path)


@pytest.mark.parametrize("turn", [0, 90, 180, -90])
def test_a_rotation_means_the_same_as_its_matrix(tmp_path: Path, turn: int) -> None:
    """The rotation alone is used where PyAV cannot name other side data."""
    with av.open(str(make_clip(tmp_path / "a.mp4", num_frames=1, turn=turn))) as container:
        frame = next(container.decode(video=0))
    assert _quarter_turns(frame.rotation) == _turn(frame)


def test_clicks_of_a_cut_clip_stay_in_step(tmp_path: Path) -> None:
    clip = click_clip(tmp_path / "a.mp4", [1.0], "aac", seconds=2)
    assert abs(heard(copy(clip, tmp_path / "out.mp4"))[0] - 1.0) < 0.01


def linear_pq(nits: np.ndarray) -> np.ndarray:
    """SMPTE ST 2084: the code in [0, 1] of a luminance in cd/m2."""
    power = (nits / 10000) ** (2610 / 16384)
    return ((3424 / 4096 + 2413 / 128 * power) / (1 + 2392 / 128 * power)) ** (2523 / 32)


def linear_hlg(nits: np.ndarray) -> np.ndarray:
    """BT.2100's HLG signal of a display light in cd/m2, for a display of 1000, by the inverse of its system gamma."""
    luminance = nits @ np.array([0.2627, 0.6780, 0.0593])
    scene = nits / 1000 * np.maximum(luminance / 1000, 1e-9)[:, None] ** (1 / 1.2 - 1)
    high = 0.17883277 * np.log(np.maximum(12 * scene - 0.28466892, 1e-9)) + 0.55991073
    return np.where(scene <= 1 / 12, np.sqrt(3 * scene), high)


@pytest.mark.parametrize(("transfer", "curve", "name"), [(16, linear_pq, "PQ"), (18, linear_hlg, "HLG")])
def test_high_dynamic_range_is_mapped(tmp_path: Path, transfer: int, curve: object, name: str) -> None:
    """An ordinary picture put into HDR as BT.2408 says (white at 203 cd/m2, BT.2020 primaries) comes back."""
    assert callable(curve)
    colours = [
        [0, 0, 0],
        [64, 64, 64],
        [128, 128, 128],
        [200, 200, 200],
        [200, 60, 40],
        [220, 170, 140],
        [150, 100, 80],
    ]
    picture = np.array(colours, np.uint8)
    to_2020 = np.array([[0.6274, 0.3293, 0.0433], [0.0691, 0.9195, 0.0114], [0.0164, 0.0880, 0.8956]])
    light: Any = curve(203 * (picture / 255.0) ** 2.4 @ to_2020.T)
    red, green, blue = light.T
    luma = 0.2627 * red + 0.6780 * green + 0.0593 * blue
    planes = 64 + 876 * luma, 512 + 896 * (blue - luma) / 1.8814, 512 + 896 * (red - luma) / 1.4746
    frame = VideoFrame(16 * len(picture), 16, "yuv444p10le")
    for plane, values in zip(frame.planes, planes):
        row = np.zeros(plane.line_size // 2, np.uint16)
        row[: frame.width] = np.repeat(np.round(values).astype(np.uint16), 16)
        plane.update(np.tile(row, (16, 1)).tobytes())
    with av.open(str(tmp_path / "a.mkv"), "w") as container:
        stream = container.add_stream("ffv1", rate=25)
        assert isinstance(stream, VideoStream)
        stream.width, stream.height, stream.pix_fmt = frame.width, 16, "yuv444p10le"
        context = stream.codec_context
        context.colorspace = context.color_primaries = frame.colorspace = frame.color_primaries = 9
        context.color_trc = frame.color_trc = transfer
        context.color_range = frame.color_range = 1
        frame.pts = 0
        container.mux([*stream.encode(frame), *stream.encode(None)])
    reader = VideoReader(tmp_path / "a.mkv")
    assert reader.colours == f"HDR ({name}), tone mapped to BT.709"
    back = next(iter(reader))[8, 8::16].astype(int)
    assert np.abs(back - picture).max() < 8


def test_sound_that_changes_its_channels_and_rate_on_the_way(tmp_path: Path) -> None:
    path = tmp_path / "a.ts"
    parts = []
    for index, (rate, layout) in enumerate([(48000, "mono"), (44100, "stereo")]):
        part = tmp_path / f"{index}.ts"
        with av.open(str(part), "w") as container:
            stream = container.add_stream("mp2", rate=rate)
            assert isinstance(stream, AudioStream)
            stream.codec_context.layout = layout
            wave = (9000 * np.sin(2 * np.pi * 440 * np.arange(rate) / rate)).astype(np.int16)
            whole = AudioFrame.from_ndarray(wave[None], "s16", "mono")
            whole.sample_rate, whole.pts = rate, rate * index
            resampler = av.AudioResampler(stream.codec_context.format, layout, rate, 1152)
            for frame in [*resampler.resample(whole), *resampler.resample(None)]:
                container.mux(stream.encode(frame))
            container.mux(stream.encode(None))
        parts.append(part.read_bytes())
    path.write_bytes(b"".join(parts))
    samples = waveform(path)
    assert abs(len(samples) / 16000 - 2) < 0.15
    assert np.abs(samples[2000:14000]).max() > 0.2 and np.abs(samples[19000:30000]).max() > 0.2


CONTAINERS = [
    ("asf", "msmpeg4", "yuv420p"),
    ("avi", "mpeg4", "yuv420p"),
    ("flv", "flv", "yuv420p"),
    ("gxf", "mpeg2video", "yuv420p"),
    ("ismv", "mpeg4", "yuv420p"),
    ("mpegts", "mpeg2video", "yuv420p"),
    ("mxf", "mpeg2video", "yuv420p"),
    ("nut", "mpeg4", "yuv420p"),
    ("rm", "rv10", "yuv420p"),
    ("smjpeg", "mjpeg", "yuvj420p"),
    ("swf", "flv", "yuv420p"),
    ("wtv", "mpeg2video", "yuv420p"),
    ("h264", "libx264", "yuv420p"),
    ("mpeg2video", "mpeg2video", "yuv420p"),
    ("yuv4mpegpipe", "rawvideo", "yuv420p"),
]


@pytest.mark.parametrize(("container", "codec", "pixels"), CONTAINERS)
def test_every_container_keeps_count_and_rate(tmp_path: Path, container: str, codec: str, pixels: str) -> None:
    """What FFmpeg's own tests write; benchmarks/containers.py compares more of it with ffprobe."""
    size = (720, 576) if container == "gxf" else (128, 96)
    with av.open(str(tmp_path / "clip"), "w", format=container) as target:
        stream = target.add_stream(codec, rate=25)
        assert isinstance(stream, VideoStream)
        stream.width, stream.height, stream.pix_fmt = *size, pixels
        for index in range(24):
            target.mux(stream.encode(VideoFrame.from_ndarray(square(index, *size), format="rgb24")))
        target.mux(stream.encode(None))
    reader = VideoReader(tmp_path / "clip")
    assert (reader.num_frames, reader.rate, reader.timing) == (24, 25, "constant")
    assert len(list(reader)) == 24
