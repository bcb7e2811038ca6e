"""Video files in and out, one frame at a time, with exact rates; sound goes along."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from contextlib import ExitStack
from fractions import Fraction
from pathlib import Path
from types import TracebackType

import av
import numpy as np
from av.audio.frame import AudioFrame
from av.audio.stream import AudioStream
from av.container import InputContainer, OutputContainer
from av.error import FFmpegError
from av.packet import Packet
from av.stream import Disposition
from av.video.frame import VideoFrame
from av.video.stream import VideoStream

from stylereel import __version__
from stylereel.media import MediaError, ensure_writable, replacing, require_file

COPIED_SOUND = {"aac", "mp3"}  # what every player of mp4 files plays; other sound is encoded anew as AAC
AAC_RATES = {96000, 88200, 64000, 48000, 44100, 32000, 24000, 22050, 16000, 12000, 11025, 8000}
BT709 = 1  # the number of this colour standard in the tables of H.273


def _open(path: Path) -> InputContainer:
    try:
        return av.open(str(path))
    except (FFmpegError, ValueError) as error:
        raise MediaError(f"{path} cannot be read as a video; give a complete file such as mp4, mov or webm.") from error


def _picture_stream(container: InputContainer, path: Path) -> VideoStream:
    # A song's cover picture is stored as a video stream too.
    streams = [s for s in container.streams.video if not s.disposition & Disposition.attached_pic]
    if not streams:
        raise MediaError(f"{path} holds no video; give a clip with pictures.")
    streams[0].thread_type = "AUTO"
    return streams[0]


class VideoReader:
    """A video file as a repeatable stream of frames: each iteration decodes it anew, in constant memory.

    Iterating yields uint8 RGB [H, W, 3], turned upright as the file's rotation says, with square pixels, all
    of the first frame's size.

    Attributes:
        path: the file.
        rate: frames per second. The stream's nominal rate if it fits the file's length to within one frame
            (so that 29.97 is 30000/1001), else the mean rate.
        width, height: pixels of the frames given.
        num_frames: as the container promises it, or None if it does not say.
        has_audio: whether there is sound.

    Raises:
        MediaError: the file is missing, a folder, empty, no video, or without a single frame; while
            iterating: it breaks off, by a decoding error or by fewer frames than promised.
    """

    def __init__(self, path: str | Path) -> None:
        self.path = require_file(path)
        with _open(self.path) as container:
            stream = _picture_stream(container, self.path)
            self.num_frames = _promised_frames(stream)
            self.has_audio = bool(container.streams.audio)
            first = next(self._decode(container, stream), None)
            if first is None:
                raise MediaError(f"{self.path} holds no frames; give a clip that was written completely.")
            self.rate = _rate(container, stream, self.num_frames)
            ratio = stream.sample_aspect_ratio or Fraction(1)
            self._size = round(first.width * ratio), first.height
            self._quarter_turns = round(first.rotation / 90) % 4  # anticlockwise
        self.width, self.height = self._size[::-1] if self._quarter_turns % 2 else self._size

    def __iter__(self) -> Iterator[np.ndarray]:
        with _open(self.path) as container:
            for frame in self._decode(container, _picture_stream(container, self.path)):
                picture = frame.to_ndarray(format="rgb24", width=self._size[0], height=self._size[1])
                yield np.ascontiguousarray(np.rot90(picture, self._quarter_turns))

    def _decode(self, container: InputContainer, stream: VideoStream) -> Iterator[VideoFrame]:
        count = 0
        try:
            for packet in container.demux(stream):
                for frame in stream.decode(None if packet.is_corrupt else packet):
                    assert isinstance(frame, VideoFrame)
                    count += 1
                    yield frame
                if packet.is_corrupt:  # cut short by the file's end; the decoder has given what it still held
                    break
            else:
                if count >= (self.num_frames or 0):
                    return
        except FFmpegError as error:
            raise self._broken(count) from error
        raise self._broken(count)

    def _broken(self, count: int) -> MediaError:
        seen = f"{count} of {self.num_frames}" if self.num_frames else str(count)
        return MediaError(f"{self.path} is damaged after {seen} frames; give a complete copy of the clip.")


def _promised_frames(stream: VideoStream) -> int | None:
    """The number of frames that decoding will give: of mp4 without those that the edit list cuts off."""
    if stream.frames and "mp4" in stream.container.format.name:
        return sum(not entry.is_discard for entry in stream.index_entries) or None
    return stream.frames or None


def _rate(container: InputContainer, stream: VideoStream, num_frames: int | None) -> Fraction:
    mean, nominal = stream.average_rate, stream.base_rate
    if not mean or not nominal:
        return Fraction(mean or nominal or 25)  # a file without any clock, such as a single picture
    if num_frames is None:
        num_frames = round((container.duration or 0) / av.time_base * mean)
    drift = abs(num_frames / nominal - num_frames / mean)
    return Fraction(nominal if drift < 1 / nominal else mean)


class VideoWriter:
    """Write frames as H.264 (yuv420p, BT.709, index at the front) into an mp4 file.

    Used as a context manager. The file appears under its name only when the block ends without an error;
    until then it has a temporary name in the same folder, and after an error nothing is left. An odd width or
    height is padded to an even one by repeating the last column or row.

    Attributes:
        num_frames: frames written so far.
        width, height: pixels of the video, known from the first frame on.

    Args:
        path: where to write; the name ends in .mp4.
        rate: frames per second, kept as this exact fraction.
        audio_from: a file whose sound, if it has any, is put under the frames and ends with them. AAC and MP3
            are copied as they are, other sound is encoded as AAC.
        crf: constant rate factor of x264, 0 (lossless, large) to 51.

    Raises:
        MediaError: the name has another ending, the file cannot be written, `audio_from` cannot be read, or
            the block ended before any frame was written.
    """

    def __init__(self, path: str | Path, rate: Fraction, audio_from: str | Path | None = None, crf: int = 16) -> None:
        self.path = ensure_writable(path, ".mp4")
        self.rate = Fraction(rate)
        self.num_frames = self.width = self.height = 0
        self._audio_from = None if audio_from is None else require_file(audio_from)
        self._options = {"crf": str(crf)}
        self._exit = ExitStack()
        self._stream: VideoStream | None = None
        self._sound: _Sound | None = None
        self._finished = False

    def __enter__(self) -> VideoWriter:
        with ExitStack() as stack:
            partial = stack.enter_context(replacing(self.path))
            options = {"movflags": "+faststart"}
            container = av.open(str(partial), "w", format="mp4", container_options=options)
            self._container: OutputContainer = stack.enter_context(container)
            self._container.metadata["comment"] = f"synthetic video, made with stylereel {__version__}"
            self._exit = stack.pop_all()
        return self

    def write(self, frame: np.ndarray) -> None:
        """Add one frame, uint8 RGB [H, W, 3]; all frames have the size of the first."""
        if frame.ndim != 3 or frame.shape[2] != 3 or frame.dtype != np.uint8:
            raise ValueError(f"A frame is uint8 [H, W, 3], not {frame.dtype} {frame.shape}; convert it first.")
        height, width = frame.shape[:2]
        if height % 2 or width % 2:
            frame = np.pad(frame, ((0, height % 2), (0, width % 2), (0, 0)), mode="edge")
        try:
            stream = self._stream or self._start(frame.shape[1], frame.shape[0])
            if (self.width, self.height) != (frame.shape[1], frame.shape[0]):
                size = f"{self.width} x {self.height}"
                raise ValueError(f"A frame of {width} x {height} came into a video of {size}; keep one size.")
            picture = VideoFrame.from_ndarray(frame, format="rgb24")
            picture = picture.reformat(format="yuv420p", dst_colorspace="ITU709")
            picture.pts, picture.duration, picture.time_base = self.num_frames, 1, 1 / self.rate
            self._container.mux(stream.encode(picture))
            self.num_frames += 1
            if self._sound:
                self._sound.write_until(self.num_frames / self.rate, last=False)
        except FFmpegError as error:
            raise self._failed(error) from error

    def _start(self, width: int, height: int) -> VideoStream:
        stream = self._container.add_stream("libx264", rate=self.rate, options=self._options)
        assert isinstance(stream, VideoStream)
        self.width, self.height = width, height
        stream.width, stream.height, stream.pix_fmt = width, height, "yuv420p"
        context = stream.codec_context
        context.time_base = 1 / self.rate
        context.colorspace = context.color_primaries = context.color_trc = BT709
        if self._audio_from is not None:
            sound = self._exit.enter_context(_open(self._audio_from))
            if sound.streams.audio:
                self._sound = _Sound(sound, self._container, self._audio_from)
        self._stream = stream
        return stream

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if kind is not None:
            self._exit.__exit__(kind, error, trace)
            return
        with self._exit:
            self.finish()

    def finish(self) -> None:
        """Encode what is still waiting; the end of the block does it too, if it was not called before."""
        if self._finished:
            return
        if self._stream is None:
            raise MediaError(f"No frame was written to {self.path}, so it was not made; give at least one.")
        try:
            self._container.mux(self._stream.encode(None))
            if self._sound:
                self._sound.write_until(self.num_frames / self.rate, last=True)
            self._container.close()
        except FFmpegError as error:
            raise self._failed(error) from error
        self._finished = True

    def _failed(self, error: FFmpegError) -> MediaError:
        reason = error.strerror or "the encoder failed"
        return MediaError(f"{self.path} could not be written ({reason}); check the space on the disk.")


class _Sound:
    """The sound of one file on its way into another, from the moment of its first video frame on."""

    def __init__(self, source: InputContainer, target: OutputContainer, path: Path) -> None:
        self._target, self._path = target, path
        stream = source.streams.audio[0]
        clock = next(iter(source.streams.video), stream)  # sound without pictures starts at its own beginning
        self._start = (clock.start_time or 0) * (clock.time_base or Fraction(1))
        if stream.codec_context.codec.canonical_name in COPIED_SOUND:  # the decoder of mp3 has another name
            self._output = target.add_stream_from_template(stream)
            packets = (packet for packet in source.demux(stream) if packet.pts is not None)
        else:
            rate = stream.codec_context.sample_rate
            self._output = target.add_stream("aac", rate=rate if rate in AAC_RATES else 48000)
            self._output.codec_context.layout = "mono" if stream.codec_context.channels == 1 else "stereo"
            packets = self._encode(source.decode(stream))
        self._packets = self._checked(packets)
        self._next: Packet | None = None

    def _encode(self, frames: Iterable[AudioFrame]) -> Iterator[Packet]:
        assert isinstance(self._output, AudioStream)
        context = self._output.codec_context
        context.open()
        resampler = av.AudioResampler(context.format, context.layout, context.sample_rate, context.frame_size)
        for frame in frames:
            for part in resampler.resample(frame):
                yield from self._output.encode(part)
        for part in resampler.resample(None):
            yield from self._output.encode(part)
        yield from self._output.encode(None)

    def _checked(self, packets: Iterator[Packet]) -> Iterator[Packet]:
        try:
            yield from packets
        except FFmpegError as error:
            raise MediaError(f"The sound of {self._path} is damaged; give a complete copy of it.") from error

    def write_until(self, end: Fraction, last: bool) -> None:
        """Write the packets before `end` (seconds); the last one is cut so that sound ends with video."""
        while packet := self._next or next(self._packets, None):
            self._next = None
            assert packet.pts is not None and packet.time_base is not None
            start = packet.pts * packet.time_base - self._start
            length = (packet.duration or 0) * packet.time_base
            if start + length > end and not last:
                self._next = packet
                return
            if start >= end:
                return
            if start + length > end:
                packet.duration = max(1, int((end - start) / packet.time_base))
            shift = round(self._start / packet.time_base)
            packet.pts -= shift
            packet.dts = packet.pts
            packet.stream = self._output
            self._target.mux_one(packet)
