"""A video container as a list of frame times and a way to decode from any of them; colours are converted here."""

from __future__ import annotations

from collections.abc import Iterator
from fractions import Fraction
from itertools import chain
from pathlib import Path
from typing import Any

import av
import numpy as np
from av.codec import CodecContext
from av.container import InputContainer
from av.error import FFmpegError
from av.packet import Packet
from av.sidedata.sidedata import Type
from av.stream import Disposition
from av.video.codeccontext import VideoCodecContext
from av.video.frame import VideoFrame
from av.video.reformatter import Interpolation, VideoReformatter
from av.video.stream import VideoStream

from stylereel.core.files import MediaError, require_file
from stylereel.media.pictures import over_white

BT709 = 1  # the number of this colour standard in the tables of H.273
UNSPECIFIED = 2  # the same tables' number for a file that names none
TIMELESS = {"avi", "h264", "hevc", "m4v", "mpegvideo"}  # formats that do not say when a frame is shown
# Formats that lie in other files, addresses or devices, which they or the file's name list.
ELSEWHERE = {"alias_pix", "concat", "dash", "hds", "hls", "image2", "imf", "lavfi", "rtp", "rtsp", "sap", "sdp"}
# Without these flags the scaler's short cut between YUV and RGB is wrong by 3 levels in the mean, and dark by 1.
EXACT = Interpolation.ACCURATE_RND | Interpolation.FULL_CHR_H_INT | Interpolation.FULL_CHR_H_INP


def ffmpeg_name(path: str | Path) -> str:
    """A file's name as FFmpeg takes it literally: without "file:" it reads `12:30.mp4` as an address."""
    return f"file:{path}"


def open_container(path: str | Path) -> InputContainer:
    """A file opened for reading; neither its name nor what it holds makes FFmpeg open anything else.

    Raises MediaError when it is missing, empty or nothing that PyAV knows.
    """
    path = require_file(path)
    options = {"protocol_whitelist": "file", "format_whitelist": ",".join(sorted(av.formats_available - ELSEWHERE))}
    try:
        return av.open(ffmpeg_name(path), options=options)
    except (FFmpegError, ValueError) as error:
        raise MediaError(f"{path} cannot be read as a video; give a complete file such as mp4, mov or webm.") from error


def picture_stream(container: InputContainer) -> VideoStream | None:
    """The first stream of moving pictures; a song's cover, which is stored as a video stream too, is none."""
    streams = [s for s in container.streams.video if not s.disposition & Disposition.attached_pic]
    return streams[0] if streams else None


def first_time(path: str | Path) -> Fraction:
    """When the first picture is shown that can be decoded, in seconds of the file's clock; sound is cut to it.

    A file of sound alone begins with its sound.
    """
    with open_container(path) as container:
        stream = picture_stream(container)
        if stream is None:
            sound = container.streams.audio[0]
            return (sound.start_time or 0) * (sound.time_base or Fraction(1))
        start = stream.start_time or 0
        for packet in container.demux(stream):
            if packet.is_keyframe and packet.pts is not None:
                start = max(start, packet.pts)
                break
        return start * (stream.time_base or Fraction(1))


class Clip:
    """The pictures of one video file. Opening it reads all packets once, without decoding them.

    Attributes:
        path: the file.
        ticks: when each frame begins, int64 [T] in order of showing, 0 for the first; `time_base` seconds each.
        end: tick at which the last frame ends.
        rates: frame rates that the container names, the likeliest first; they may be wrong.
        promised: the number of frames that the file's index lists, or None without one.
        width, height: pixels of the upright pictures.
        has_audio: whether there is sound.

    Raises:
        MediaError: the file is missing, empty, no video, or without a single frame.
    """

    def __init__(self, path: str | Path) -> None:
        self.path = require_file(path)
        with open_container(path) as container:
            stream = picture_stream(container)
            if stream is None:
                raise MediaError(f"{path} holds no video; give a clip with pictures.")
            self.has_audio = bool(container.streams.audio)
            self.time_base = stream.time_base or Fraction(1, 25)
            self.rates = [Fraction(rate) for rate in (stream.base_rate, stream.average_rate) if rate]
            self.promised = None
            if stream.frames and "mp4" in container.format.name:  # the edit list may cut some off
                self.promised = sum(not entry.is_discard for entry in stream.index_entries) or None
            aspect = stream.sample_aspect_ratio or Fraction(1)
            self._scan(container, stream)
        first = next((frame for _, frame in self._decode(0)), None)
        if first is None:
            raise MediaError(f"{path} holds no frames; give a clip that was written completely.")
        self._size = round(first.width * aspect), first.height  # square pixels
        self._turn = _turn(first)
        self.width, self.height = self._size[::-1] if self._turn[0] else self._size

    def _scan(self, container: InputContainer, stream: VideoStream) -> None:
        shown: list[int] = []
        keys: list[int] = []
        count = last = 0
        try:
            for packet in container.demux(stream):
                if not packet.size or packet.is_discard or _is_hidden(packet):
                    continue
                count += 1
                if packet.pts is not None:
                    shown.append(packet.pts)
                    last = packet.duration or last
                    if packet.is_keyframe:
                        keys.append(packet.pts)
        except FFmpegError:
            pass  # decoding will say where the file breaks off
        self._timed = len(shown) == count and container.format.name not in TIMELESS
        if not self._timed:  # the rate is constant, and frames are counted
            self.time_base = 1 / (self.rates[0] if self.rates else Fraction(25))
            shown, keys, last = list(range(count)), [0], 1
        keys = keys or shown[:1]
        ticks = np.unique(np.array(shown, np.int64))
        ticks = ticks[ticks >= min(keys, default=0)]  # what comes before the first key frame cannot be decoded
        self._start = int(ticks[0]) if len(ticks) else 0
        self._keys = np.sort(np.array(keys, np.int64)) - self._start
        self.ticks = ticks - self._start
        last = last or int(np.diff(ticks)[-1:].sum()) or 1
        self.end = int(self.ticks[-1]) + last if len(ticks) else 0

    def pictures(self, first: int = 0) -> Iterator[tuple[int, np.ndarray]]:
        """Frames from index `first` on, as (index, uint8 RGB [H, W, 3]), decoded from the nearest key frame before.

        Raises:
            MediaError: the file breaks off, by a decoding error or by fewer frames than its index lists.
        """
        key = 0
        if first >= len(self.ticks):  # the index lists more frames than the file holds
            raise self._broken(len(self.ticks))
        if first and self._timed:
            key = int(self._keys[np.searchsorted(self._keys, self.ticks[first], "right") - 1])
        frames = self._decode(key)
        head = next(frames, None)
        if key and (head is None or head[0] > first):  # without an index a seek may land too late
            frames = self._decode(0)
            head = next(frames, None)
        reformatter = VideoReformatter()
        for index, frame in chain([head] if head else [], frames):
            if index >= first:
                yield index, self._convert(frame, reformatter)

    def _decode(self, key: int) -> Iterator[tuple[int, VideoFrame]]:
        """Frames with their indices, from the key frame at tick `key` on; 0 is the file's beginning."""
        seen = 0
        try:
            with open_container(self.path) as container:
                stream = picture_stream(container)
                assert stream is not None
                decoder = _decoder(stream)
                decoder.thread_type = "AUTO"
                if key:
                    container.seek(key + self._start, stream=stream)
                corrupt = False
                for packet in container.demux(stream):
                    corrupt = packet.is_corrupt  # cut short by the file's end; the decoder gives what it still holds
                    for frame in decoder.decode(None if corrupt else packet):
                        assert isinstance(frame, VideoFrame)
                        if self._timed and (frame.pts is None or frame.pts < self._start):
                            continue  # the remains of what a cut at the beginning took away
                        index = self._index(frame) if self._timed else seen
                        if key and not seen:
                            seen = index
                        yield index, frame
                        seen += 1
                    if corrupt:
                        break
                complete = not corrupt and seen >= (self.promised or 0)
        except FFmpegError as error:
            raise self._broken(seen) from error
        if not complete:
            raise self._broken(seen)

    def _index(self, frame: VideoFrame) -> int:
        return int(np.searchsorted(self.ticks, (frame.pts or 0) - self._start))

    def _broken(self, count: int) -> MediaError:
        seen = f"{count} of {self.promised}" if self.promised else str(count)
        return MediaError(f"{self.path} is damaged after {seen} frames; give a complete copy of the clip.")

    def _convert(self, frame: VideoFrame, reformatter: VideoReformatter) -> np.ndarray:
        # What names no colour standard is taken as players take it: BT.709 above the size of PAL, else BT.601.
        untagged = frame.colorspace == UNSPECIFIED
        matrix = BT709 if untagged and (frame.width >= 1280 or frame.height > 576) else None
        alpha = frame.format.name == "pal8" or any(part.is_alpha for part in frame.format.components)
        (width, height), form = self._size, "rgba" if alpha else "rgb24"
        same = (frame.width, frame.height) == self._size
        method = EXACT | (Interpolation.BILINEAR if same else Interpolation.BICUBIC)
        # One thread: the scaler's own threads cost more than they save, and much more on a busy machine.
        picture = reformatter.reformat(
            frame, width, height, form, src_colorspace=matrix, interpolation=method, threads=1
        ).to_ndarray()
        if alpha:
            picture = over_white(picture)
        transpose, flip_rows, flip_columns = self._turn
        if transpose:
            picture = picture.transpose(1, 0, 2)
        picture = picture[:: -1 if flip_rows else 1, :: -1 if flip_columns else 1]
        return np.ascontiguousarray(picture)


def _is_hidden(packet: Packet) -> bool:
    """Whether a VP8 packet only serves later frames: bit 4 of its first byte says whether it is shown (RFC 6386)."""
    return packet.stream.codec_context.name in ("vp8", "libvpx") and not bytes(packet)[0] >> 4 & 1


def _decoder(stream: VideoStream) -> VideoStream | VideoCodecContext:
    """What decodes a stream: itself, but for WebM with alpha, which only libvpx sees."""
    name = {"vp8": "libvpx", "vp9": "libvpx-vp9"}.get(stream.codec_context.name)
    if name is None or {key.lower(): value for key, value in stream.metadata.items()}.get("alpha_mode") != "1":
        return stream
    context = CodecContext.create(name, "r")
    assert isinstance(context, VideoCodecContext)
    return context


def _turn(frame: VideoFrame) -> tuple[bool, bool, bool]:
    """How to make a frame upright: transpose, then flip rows, then flip columns, as its display matrix says.

    The matrix takes a pixel (x, y) to (a x + c y, b x + d y); angles between quarter turns count as the nearest.
    """
    sides: Any = frame.side_data  # its stub knows texts as keys only
    data = sides.get(Type.DISPLAYMATRIX)
    if data is None:
        return False, False, False
    a, b, _, c, d, *_ = np.frombuffer(bytes(data), np.int32)
    if abs(int(a)) >= abs(int(b)):
        return False, bool(d < 0), bool(a < 0)
    return True, bool(b < 0), bool(c < 0)
