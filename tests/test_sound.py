"""Sound in and along: clicks stay where they were, decoding is mono float32 in step, mel equals its definition."""

from fractions import Fraction
from pathlib import Path

import av
import numpy as np
import pytest
import torch
from av.audio.frame import AudioFrame
from av.audio.stream import AudioStream
from av.video.frame import VideoFrame
from av.video.stream import VideoStream
from scipy.signal import lfilter
from test_media import make_clip, square

from stylereel.core.files import MediaError
from stylereel.media.mel import mel_bands, mel_spectrogram, styleheat_windows, wav2lip_windows
from stylereel.media.sound import read_sound, waveform
from stylereel.media.video import VideoReader, VideoWriter

NTSC = Fraction(30000, 1001)
CLICK = 0.01  # seconds of 2 kHz


def click_clip(
    path: Path,
    clicks: list[float],
    codec: str,
    sound_rate: int = 44100,
    rate: Fraction = NTSC,
    seconds: float = 6,
    start: float = 0.0,
    first_picture: float = 0.0,
) -> Path:
    """A clip with clicks at these seconds of its clock; sound begins at `start`, pictures at `first_picture`."""
    with av.open(str(path), "w") as container:
        video = container.add_stream("libx264", rate=rate, options={"bf": "0"})
        audio = container.add_stream(codec, rate=sound_rate)
        assert isinstance(video, VideoStream) and isinstance(audio, AudioStream)
        video.width, video.height, video.pix_fmt = 64, 48, "yuv420p"
        audio.codec_context.layout = "stereo"
        packets = []
        for index in range(round((seconds - first_picture) * rate)):
            picture = VideoFrame.from_ndarray(square(index), format="rgb24")
            picture.pts, picture.time_base = index + round(first_picture * rate), 1 / rate
            packets += video.encode(picture)
        packets += video.encode(None)
        times = start + np.arange(int(sound_rate * (seconds - start))) / sound_rate
        wave = sum((times >= at) & (times < at + CLICK) for at in clicks) * np.sin(2 * np.pi * 2000 * times)
        whole = AudioFrame.from_ndarray(np.repeat((20000 * wave).astype(np.int16), 2)[None], "s16", "stereo")
        whole.sample_rate, whole.pts = sound_rate, round(start * sound_rate)
        context = audio.codec_context
        resampler = av.AudioResampler(context.format, "stereo", sound_rate, context.frame_size or 1024)
        for part in [*resampler.resample(whole), *resampler.resample(None)]:
            packets += audio.encode(part)
        packets += audio.encode(None)
        for packet in sorted(packets, key=lambda each: (each.dts or 0) * each.time_base):
            container.mux(packet)
    return path


def heard(path: Path) -> np.ndarray:
    """When clicks begin, in seconds from the first picture on; found without the code under test."""
    with av.open(str(path)) as container:
        video = container.streams.video[0]
        begin = float((video.start_time or 0) * (video.time_base or 0))
        level, times = [], []
        for frame in container.decode(audio=0):
            samples = frame.to_ndarray().astype(np.float64)
            if not frame.format.is_planar:
                samples = samples.reshape(-1, frame.layout.nb_channels).T
            level.append(np.abs(samples[0]))
            assert frame.time is not None
            times.append(frame.time - begin + np.arange(frame.samples) / frame.sample_rate)
    return starts(np.concatenate(level), np.concatenate(times))


def starts(level: np.ndarray, times: np.ndarray) -> np.ndarray:
    loud = times[level > 0.4 * level.max()]
    return loud[np.diff(loud, prepend=-9) > 0.2]


def copy(clip: Path, out: Path) -> Path:
    reader = VideoReader(clip)
    with VideoWriter(out, reader.rate, audio_from=clip) as writer:
        for frame in reader:
            writer.write(frame)
    assert writer.num_frames == reader.num_frames and writer.has_audio
    return out


@pytest.mark.parametrize("ending", [".mp4", ".mkv", ".webm"])
@pytest.mark.parametrize(
    ("name", "codec", "sound_rate"),
    [("a.mp4", "aac", 44100), ("a.mkv", "libopus", 48000), ("a.mov", "pcm_s16le", 22050), ("a.ts", "aac", 48000)],
)
@pytest.mark.parametrize(("start", "first_picture"), [(0.0, 0.0), (0.7, 0.0), (0.0, 0.5)])
def test_clicks_stay_in_step(
    tmp_path: Path, ending: str, name: str, codec: str, sound_rate: int, start: float, first_picture: float
) -> None:
    """Also for sound that begins after, or before, the first picture: copied and encoded anew."""
    clicks = [1.0, 2.5, 4.0, 5.5]
    clip = click_clip(tmp_path / name, clicks, codec, sound_rate, start=start, first_picture=first_picture)
    before = heard(clip)
    lag = round(first_picture * NTSC) / NTSC
    assert np.abs(before - np.array(clicks) + float(lag)).max() < 0.5 / NTSC  # the clip is what it should be
    after = heard(copy(clip, tmp_path / f"out{ending}"))
    assert after.shape == before.shape
    assert np.abs(after - before).max() < 0.25 / float(NTSC)


@pytest.mark.parametrize("codec", ["aac", "pcm_s16le"])
def test_clicks_stay_in_step_for_a_minute(tmp_path: Path, codec: str) -> None:
    clicks = [1.0, 30.0, 59.0]
    clip = click_clip(tmp_path / "a.mov", clicks, codec, 44100, seconds=60)
    assert np.abs(heard(copy(clip, tmp_path / "out.mp4")) - clicks).max() < 0.25 / float(NTSC)


@pytest.mark.parametrize(("start", "first_picture"), [(0.0, 0.0), (0.7, 0.0), (0.0, 0.5)])
@pytest.mark.parametrize(("name", "codec", "sound_rate"), [("a.mp4", "aac", 44100), ("a.mkv", "pcm_s16le", 48000)])
def test_samples_count_from_the_first_picture(
    tmp_path: Path, name: str, codec: str, sound_rate: int, start: float, first_picture: float
) -> None:
    clicks = [1.0, 2.5, 5.5]
    clip = click_clip(tmp_path / name, clicks, codec, sound_rate, start=start, first_picture=first_picture)
    samples = waveform(clip)
    lag = float(round(first_picture * NTSC) / NTSC)
    assert samples.dtype == np.float32 and abs(len(samples) / 16000 - (6 - lag)) < 0.06
    found = starts(np.abs(samples), np.arange(len(samples)) / 16000)
    assert np.abs(found - np.array(clicks) + lag).max() < 0.002


def test_resampling_keeps_a_tone(tmp_path: Path) -> None:
    """44.1 kHz to 16 kHz: 440 Hz stays itself within a thousandth; 2 channels become their mean."""
    times = np.arange(44100 * 2) / 44100
    left = (16000 * np.sin(2 * np.pi * 440 * times)).astype(np.int16)
    with av.open(str(tmp_path / "a.wav"), "w") as container:
        stream = container.add_stream("pcm_s16le", rate=44100)
        assert isinstance(stream, AudioStream)
        stream.codec_context.layout = "stereo"
        whole = AudioFrame.from_ndarray(np.stack([left, np.zeros_like(left)], 1).reshape(1, -1), "s16", "stereo")
        whole.sample_rate, whole.pts = 44100, 0
        container.mux([*stream.encode(whole), *stream.encode(None)])
    samples = waveform(tmp_path / "a.wav")
    expected = 0.5 * 16000 / 32768 * np.sin(2 * np.pi * 440 * np.arange(32000) / 16000)
    assert abs(len(samples) - 32000) <= 32
    assert np.abs(samples[500:31000] - expected[500:31000]).max() < 1e-3 * 0.25


def test_sound_is_read_in_pieces(tmp_path: Path) -> None:
    clip = make_clip(tmp_path / "a.mp4", num_frames=250, sound="aac")
    pieces = list(read_sound(clip, 8000))
    assert len(pieces) > 100 and abs(sum(map(len, pieces)) - 80000) < 400
    assert max(len(piece) for piece in pieces) < 4000


def test_files_without_sound_say_so(tmp_path: Path) -> None:
    with pytest.raises(MediaError, match="holds no sound"):
        waveform(make_clip(tmp_path / "silent.mp4"))
    with pytest.raises(MediaError, match="no file"):
        waveform(tmp_path / "missing.wav")


def chirp(seconds: float = 1.5) -> np.ndarray:
    times = np.arange(int(16000 * seconds)) / 16000
    quiet = 10 ** (-4 * times / seconds)  # down to -80 dB
    return quiet * np.sin(2 * np.pi * (50 * times + (7950 - 50) / (2 * seconds) * times**2))


def mel_by_definition(wave: np.ndarray) -> np.ndarray:
    """The published settings, one column and one band at a time in float64; shares no code with the room."""
    wave = np.pad(lfilter([1, -0.97], [1], wave), 400, mode="reflect")
    window = 0.5 - 0.5 * np.cos(2 * np.pi * np.arange(800) / 800)
    fourier = np.exp(-2j * np.pi * np.outer(np.arange(401), np.arange(800)) / 800)
    columns = [np.abs(fourier @ (window * wave[at : at + 800])) for at in range(0, len(wave) - 799, 200)]

    def mel(hertz: float) -> float:
        return 3 * hertz / 200 if hertz < 1000 else 15 + np.log(hertz / 1000) / (np.log(6.4) / 27)

    def hertz(mel: float) -> float:
        return mel * 200 / 3 if mel < 15 else 1000 * np.exp((mel - 15) * np.log(6.4) / 27)

    step = (mel(7600) - mel(55)) / 81
    corners = [hertz(mel(55) + index * step) for index in range(82)]
    result = np.zeros((80, len(columns)))
    for band in range(80):
        low, middle, high = corners[band : band + 3]
        weights = np.interp(20.0 * np.arange(401), [low, middle, high], [0, 2 / (high - low), 0])
        for place, column in enumerate(columns):
            decibels = 20 * np.log10(max(1e-5, weights @ column)) - 20
            result[band, place] = np.clip(8 * (decibels + 100) / 100 - 4, -4, 4)
    return result


def test_mel_equals_its_definition_on_a_chirp() -> None:
    wave = chirp()
    expected = mel_by_definition(wave)
    found = mel_spectrogram(torch.from_numpy(wave))
    assert found.shape == expected.shape == (80, 121) and found.dtype == torch.float32
    assert expected.max() > 0.5 and (expected == -4).any()  # loud and silent parts are both in it
    assert np.abs(found.numpy() - expected).max() < 1e-4
    single = mel_spectrogram(torch.from_numpy(wave.astype(np.float32))).numpy()
    assert np.abs(single - expected).max() < 1e-2  # float32 samples: rounding shows in bands near the floor


def test_mel_bands_have_equal_areas() -> None:
    areas = mel_bands().sum(1) * 20  # hertz a bin
    assert torch.allclose(areas[40:], torch.ones(40, dtype=torch.float64), atol=0.02)


def test_mel_needs_samples() -> None:
    with pytest.raises(ValueError, match="more than 400 samples"):
        mel_spectrogram(torch.zeros(400))


@pytest.mark.parametrize("rate", [Fraction(25), NTSC])
def test_windows_begin_where_the_networks_expect(rate: Fraction) -> None:
    mel = torch.arange(200.0).repeat(80, 1)
    wav2lip, styleheat = wav2lip_windows(mel, 60, rate), styleheat_windows(mel, 60, rate)
    assert wav2lip.shape == (60, 80, 16) and styleheat.shape == (60, 80, 32)
    for frame in range(60):
        first, early = int(80 * frame / rate), int(80 * max(0, frame - 4) / rate)
        assert wav2lip[frame, 0].tolist() == [min(first + i, 199) for i in range(16)]
        assert styleheat[frame, 7].tolist() == [min(early + i, 199) for i in range(32)]


@pytest.mark.parametrize("rate", [16000, 48000])
def test_what_is_before_the_first_picture_is_dropped_at_the_sounds_own_rate_too(tmp_path: Path, rate: int) -> None:
    clip = click_clip(tmp_path / "late.mkv", [3.0], "libopus", 48000, first_picture=1.0)
    heard = np.abs(waveform(clip, rate))
    assert abs(np.flatnonzero(heard > 0.3 * heard.max())[0] / rate - 2.0) < 5e-3
