"""Sound in: one channel of float samples at any rate. Sound along: from one file into another, in step."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from fractions import Fraction
from pathlib import Path

import av
import numpy as np
from av.audio.frame import AudioFrame
from av.audio.stream import AudioStream
from av.container import InputContainer, OutputContainer
from av.error import FFmpegError
from av.packet import Packet

from stylereel.core.files import MediaError
from stylereel.media.clip import first_time, open_container

# Sound encoded anew gets the nearest of these rates that loses nothing; FLAC takes any.
RATES = {"aac": (8000, 16000, 22050, 24000, 32000, 44100, 48000), "libopus": (8000, 12000, 16000, 24000, 48000)}
LEAD = Fraction(1, 10)  # seconds of copied sound kept before the first picture: decoders need some to begin with
STEADY = {"async": "1", "first_pts": "0"}  # FFmpeg's resampler fills gaps with silence, and what lacks at the start


def read_sound(path: str | Path, rate: int = 16000) -> Iterator[np.ndarray]:
    """The sound of a file as pieces of float32 [N] in [-1, 1], one channel at `rate` samples a second.

    Several channels become their mean; FFmpeg's resampler changes the rate. Sample 0 is the moment of the first
    picture (of a file without pictures, its first sample): what comes before is dropped, a later beginning and gaps
    are filled with silence.

    Raises:
        MediaError: the file cannot be read, holds no sound, or its sound is damaged.
    """
    with open_container(path) as container:
        if not container.streams.audio:
            raise MediaError(f"{path} holds no sound; give a file with some.")
        stream = container.streams.audio[0]
        resampler = av.AudioResampler("fltp", stream.layout, rate, options=STEADY)
        for frame in _steady(_decoded(container, stream, path), resampler, first_time(path)):
            yield frame.to_ndarray().mean(axis=0)


def waveform(path: str | Path, rate: int = 16000) -> np.ndarray:
    """All of `read_sound` at once, float32 [N]; an hour at 16 kHz takes 230 MB."""
    return np.concatenate([np.zeros(0, np.float32), *read_sound(path, rate)])


def _decoded(container: InputContainer, stream: AudioStream, path: str | Path) -> Iterator[AudioFrame]:
    try:
        yield from container.decode(stream)
    except FFmpegError as error:
        raise MediaError(f"The sound of {path} is damaged; give a complete copy of it.") from error


def _steady(frames: Iterable[AudioFrame], resampler: av.AudioResampler, start: Fraction) -> Iterator[AudioFrame]:
    """Resampled frames without gaps, the first sample at `start` seconds of the frames' clock."""
    for frame in frames:
        if frame.pts is not None and frame.time_base:
            frame.pts -= round(start / frame.time_base)
        yield from resampler.resample(frame)
    yield from resampler.resample(None)


class Track:
    """The sound of one file on its way into another, from the moment of its first picture on.

    Args:
        path: the file with the sound.
        source: the same, opened.
        target: the container to write to, before anything was written.
        copied: codecs that the target takes as they are, or None for every codec.
        encoder: what other sound is encoded with.
    """

    def __init__(
        self,
        path: Path,
        source: InputContainer,
        target: OutputContainer,
        copied: frozenset[str] | None,
        encoder: str,
    ) -> None:
        self._target, self._path = target, path
        stream = source.streams.audio[0]
        self._start = first_time(path)
        context = stream.codec_context
        if copied is None or context.codec.canonical_name in copied:  # the decoder of mp3 has another name
            self._output = target.add_stream_from_template(stream)
            packets = self._copy(source, stream)
        else:
            rate = context.sample_rate
            choice = RATES.get(encoder, (rate,))
            output = target.add_stream(encoder, rate=min((r for r in choice if r >= rate), default=choice[-1]))
            assert isinstance(output, AudioStream)
            output.codec_context.layout = "mono" if context.channels == 1 else "stereo"
            self._output = output
            packets = self._encode(output, _decoded(source, stream, path))
        self._packets = packets
        self._next: Packet | None = None

    def _copy(self, source: InputContainer, stream: AudioStream) -> Iterator[Packet]:
        try:
            for packet in source.demux(stream):
                if packet.pts is None or packet.time_base is None:
                    continue
                packet.pts -= round(self._start / packet.time_base)
                packet.dts = packet.pts
                if (packet.pts + (packet.duration or 0)) * packet.time_base > -LEAD:
                    yield packet
        except FFmpegError as error:
            raise MediaError(f"The sound of {self._path} is damaged; give a complete copy of it.") from error

    def _encode(self, output: AudioStream, frames: Iterable[AudioFrame]) -> Iterator[Packet]:
        context = output.codec_context
        context.open()
        resampler = av.AudioResampler(
            context.format, context.layout, context.sample_rate, context.frame_size, options=STEADY
        )
        for frame in _steady(frames, resampler, self._start):
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
