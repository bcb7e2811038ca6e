"""Sound as one channel of float samples at any rate; sound copied from one file into another, in sync."""

from __future__ import annotations

import io
import math
import warnings
from collections.abc import Iterable, Iterator
from fractions import Fraction
from pathlib import Path
from typing import Any, TypeVar

import av
import numpy as np
from av.audio.frame import AudioFrame
from av.audio.stream import AudioStream
from av.container import InputContainer, OutputContainer
from av.error import FFmpegError
from av.packet import Packet

from stylereel.core.files import MediaError
from stylereel.media.clip import BACK, first_time, open_container, restarts, sound_index

Part = TypeVar("Part", AudioFrame, Packet)

# Sound encoded anew gets the nearest of these rates that loses nothing; FLAC takes any.
RATES = {"aac": (8000, 16000, 22050, 24000, 32000, 44100, 48000), "libopus": (8000, 12000, 16000, 24000, 48000)}
LEAD = Fraction(1, 10)  # seconds of copied sound kept before the first frame: decoders need some to begin with
HOLE = 600  # seconds without sound that are filled with silence
STEADY = {"async": "1", "first_pts": "0"}  # FFmpeg's resampler fills gaps with silence, and what lacks at the start


def read_sound(path: str | Path, rate: int = 16000) -> Iterator[np.ndarray]:
    """The sound of a file as pieces of float32 [N] in [-1, 1], one channel at `rate` samples a second.

    Several channels become their mean; FFmpeg's resampler changes the rate. Sample 0 is the moment of the first
    frame (of a file without video, its first sample): what comes before is dropped, a later beginning and gaps
    are filled with silence.

    Raises:
        MediaError: the file cannot be read, holds no sound, or its sound is damaged.
    """
    with open_container(path) as container:
        index = sound_index(path)
        if index is None:
            raise MediaError(f"{path} holds no sound that can be decoded; give a file with some.")
        stream = container.streams[index]
        assert isinstance(stream, AudioStream)
        resampler = av.AudioResampler("fltp", stream.layout, rate, options=STEADY)
        for frame in _steady(_on_clock(_decode(container, stream, path), path), resampler):
            yield frame.to_ndarray().mean(axis=0)


def waveform(path: str | Path, rate: int = 16000) -> np.ndarray:
    """All of `read_sound` at once, float32 [N]; an hour at 16 kHz takes 230 MB."""
    return np.concatenate([np.zeros(0, np.float32), *read_sound(path, rate)])


def _decode(container: InputContainer, stream: AudioStream, path: str | Path) -> Iterator[AudioFrame]:
    try:
        yield from container.decode(stream)
    except FFmpegError as error:
        raise MediaError(f"The sound of {path} is damaged; give a complete copy of it.") from error


def _on_clock(parts: Iterable[Part], path: Path | str, begin: Fraction = Fraction(0)) -> Iterator[Part]:
    """Frames or packets of sound with times that count from `begin` seconds after the first frame and never restart.

    What comes after a hole of more than HOLE is left out with a warning: silence takes memory.
    """
    start, shifts = first_time(path) + begin, restarts(path)
    run, heard, before = 0, Fraction(0), None
    for part in parts:
        if part.pts is None or not part.time_base:
            continue
        time = part.pts * part.time_base
        if before is not None and time < before - BACK and run + 1 < len(shifts):
            run += 1
        before = time
        time += shifts[run] - start
        if time > heard + HOLE:
            warnings.warn(
                f"The sound of {path} has a hole of {float(time - heard):.0f} s and ends there.", stacklevel=2
            )
            return
        heard = max(heard, time)
        part.pts = round(time / part.time_base)
        yield part


def _alike(frames: Iterable[AudioFrame]) -> Iterator[AudioFrame]:
    """The frames in the form of the first: broadcasts change channels and rates on the way."""
    first: AudioFrame | None = None
    convert, form = None, None
    for frame in frames:
        first = first or frame
        layout = first.format.name, first.layout.name, first.sample_rate
        now = frame.format.name, frame.layout.name, frame.sample_rate
        if now == layout:
            yield frame
            continue
        if convert is None or now != form:
            convert, form = av.AudioResampler(*layout), now
        for part in convert.resample(frame):
            if part.pts is not None and part.time_base and first.time_base:
                part.pts = round(part.pts * part.time_base / first.time_base)
                part.time_base = first.time_base
            yield part


def _steady(frames: Iterable[AudioFrame], resampler: av.AudioResampler) -> Iterator[AudioFrame]:
    """Resampled frames without gaps, the first sample at 0 seconds of the frames' clock."""
    for frame in _from_zero(_alike(frames)):
        yield from resampler.resample(frame)
    yield from resampler.resample(None)


def _from_zero(frames: Iterable[AudioFrame]) -> Iterator[AudioFrame]:
    """The frames without what is before 0 seconds of their clock.

    FFmpeg's resampler would drop it too, but not where the rate stays as it is.
    """
    for frame in frames:
        if frame.pts is None or not frame.time_base or frame.pts >= 0:
            yield frame
            continue
        early = math.ceil(-frame.pts * frame.time_base * frame.sample_rate)
        if early < frame.samples:
            step = 1 if frame.format.is_planar else frame.layout.nb_channels
            values: Any = np.ascontiguousarray(frame.to_ndarray()[:, early * step :])  # of the frame's own format
            rest = AudioFrame.from_ndarray(values, frame.format.name, frame.layout.name)
            rest.sample_rate, rest.time_base = frame.sample_rate, frame.time_base
            rest.pts = frame.pts + round(early / frame.time_base / frame.sample_rate)
            yield rest


def _holds(name: str, stream: AudioStream) -> bool:
    """Whether a container of FFmpeg's format `name` can hold the sound as it is."""
    try:
        with av.open(io.BytesIO(), "w", format=name) as trial:
            trial.add_stream_from_template(stream)
            trial.start_encoding()
    except (FFmpegError, ValueError):
        return False
    return True


class Track:
    """The sound of one file on its way into another, from the time of its first frame on.

    Args:
        path: the file with the sound.
        index: the number of its stream, see `clip.sound_index`.
        source: the same file, opened.
        target: the container to write to, before anything was written.
        copied: codecs that the target takes as they are, or None for every codec.
        encoder: what other sound is encoded with.
        begin: seconds after its first frame from which on the sound is taken.
    """

    def __init__(
        self,
        path: Path,
        index: int,
        source: InputContainer,
        target: OutputContainer,
        copied: frozenset[str] | None,
        encoder: str,
        begin: Fraction = Fraction(0),
    ) -> None:
        self._target, self._path, self._begin = target, path, begin
        stream = source.streams[index]
        assert isinstance(stream, AudioStream)
        context = stream.codec_context
        fits = copied is None or context.codec.canonical_name in copied  # the decoder of mp3 has another name
        if fits and _holds(target.format.name, stream):
            self._output = target.add_stream_from_template(stream)
            packets = self._copy(source, stream)
        else:
            rate = context.sample_rate
            choice = RATES.get(encoder, (rate,))
            output = target.add_stream(encoder, rate=min((r for r in choice if r >= rate), default=choice[-1]))
            assert isinstance(output, AudioStream)
            output.codec_context.layout = "mono" if context.channels == 1 else "stereo"
            self._output = output
            packets = self._encode(output, _decode(source, stream, path))
        self._packets = packets
        self._next: Packet | None = None

    def _copy(self, source: InputContainer, stream: AudioStream) -> Iterator[Packet]:
        try:
            last: int | None = None
            for packet in _on_clock(source.demux(stream), self._path, self._begin):
                assert packet.pts is not None and packet.time_base is not None
                if last is not None and packet.pts <= last:
                    continue  # where clips were joined, the sound of the first may reach into the second
                packet.dts = last = packet.pts
                if (packet.pts + (packet.duration or 0)) * packet.time_base > -LEAD:
                    yield packet
        except FFmpegError as error:
            raise MediaError(f"The sound of {self._path} is damaged; give a complete copy of it.") from error

    def _encode(self, output: AudioStream, frames: Iterable[AudioFrame]) -> Iterator[Packet]:
        context = output.codec_context
        if not context.is_open:  # where the first frame is muxed at once, all streams are opened
            context.open()
        resampler = av.AudioResampler(
            context.format, context.layout, context.sample_rate, context.frame_size, options=STEADY
        )
        for frame in _steady(_on_clock(frames, self._path, self._begin), resampler):
            yield from output.encode(frame)
        yield from output.encode(None)

    def write_until(self, end: Fraction, last: bool) -> None:
        """Write the packets before `end` (seconds); the last one is cut so that sound ends with video."""
        while packet := self._next or next(self._packets, None):
            self._next = None
            assert packet.pts is not None and packet.time_base is not None
            start = packet.pts * packet.time_base
            length = (packet.duration or 0) * packet.time_base
            if start + length > end and not last:
                self._next = packet
                return
            if start >= end:
                return
            if start + length > end:
                packet.duration = max(1, int((end - start) / packet.time_base))
            packet.stream = self._output
            self._target.mux_one(packet)
