"""A video container as a list of frame times and a way to decode from any of them; colours are converted here."""

from __future__ import annotations

import warnings
from collections.abc import Iterator
from fractions import Fraction
from itertools import chain
from pathlib import Path
from threading import Lock
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
from stylereel.media.pictures import check_size, over_white

BT709 = 1  # the number of this colour standard in the tables of H.273
BT2020 = 9
HDR = {16: "PQ", 18: "HLG"}  # transfer functions of the same tables
UNSPECIFIED = 2  # the same tables' number for a file that names none
STREAMS = {"mpegts", "mpeg"}
TIMELESS = {"avi", "h264", "hevc", "m4v", "mpegvideo"}  # formats that do not say when a frame is shown
# Formats whose content is in other files, addresses or devices, which they or the file's name list.
ELSEWHERE = {"alias_pix", "concat", "dash", "hds", "hls", "image2", "imf", "lavfi", "rtp", "rtsp", "sap", "sdp"}
BACK = Fraction(1, 10)  # seconds by which the clock of a sound goes back at least where it restarts
# Without these flags the scaler's short cut between YUV and RGB is wrong by 3 levels in the mean, and dark by 1.
EXACT = Interpolation.ACCURATE_RND | Interpolation.FULL_CHR_H_INT | Interpolation.FULL_CHR_H_INP


# Tone mapping is FFmpeg's, by a table of colours that takes seconds to make: one for all clips, used by one thread.
_MAPPER, _MAPPING = VideoReformatter(), Lock()


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
    """The first video stream, preferably one with a decoder, or None.

    A song's cover, which is stored as a video stream too, is none.
    """
    streams = [s for s in container.streams.video if not s.disposition & Disposition.attached_pic]
    return next((stream for stream in streams if stream.codec_context is not None), streams[0] if streams else None)


def sound_index(path: str | Path) -> int | None:
    """Which stream of a file is its sound: the first with a decoder that holds anything, or None."""
    with open_container(path) as container:
        known = [stream for stream in container.streams.audio if stream.codec_context is not None]
        found: set[int] = set()
        try:
            for packet in container.demux(known) if known else ():
                if packet.size:
                    found.add(packet.stream.index)
                if known[0].index in found:
                    break
        except FFmpegError:
            pass  # what was found before is there
        if len(known) < len(container.streams.audio) and (not found or min(found) > container.streams.audio[0].index):
            warnings.warn(f"Sound of {path} has a codec that cannot be decoded and is left out.", stacklevel=2)
        return min(found, default=None)


def first_time(path: str | Path) -> Fraction:
    """When the first decodable frame is shown, in seconds of the file's clock; sound is cut to it.

    A file of sound alone begins with its sound.
    """
    with open_container(path) as container:
        stream = picture_stream(container)
        if stream is None:
            sound = container.streams[sound_index(path) or 0]
            return (sound.start_time or 0) * (sound.time_base or Fraction(1))
        start = stream.start_time or 0
        for packet in container.demux(stream):
            if packet.is_keyframe and packet.pts is not None:
                start = max(start, packet.pts)
                break
        return start * (stream.time_base or Fraction(1))


def restarts(path: str | Path) -> tuple[Fraction, ...]:
    """By how many seconds later each run of a file's clock is shown than it says; (0,) where no clock restarts."""
    with open_container(path) as container:
        if picture_stream(container) is None:
            return (Fraction(0),)
    return Clip(path).shifts


class Clip:
    """The frames of one video file. Opening it reads all packets once, without decoding them.

    Attributes:
        path: the file.
        ticks: when each frame begins, int64 [T] in order of showing, 0 for the first; `time_base` seconds each.
        end: tick at which the last frame ends.
        rates: the frame rate that the container names, which may be wrong; empty if it names none.
        promised: the number of frames that the file's index lists, or None without one.
        width, height: pixels of the upright frames.
        has_audio: whether there is sound.
        hdr: "PQ" or "HLG", the curve of high dynamic range that is mapped to BT.709, or None.
        shifts: seconds by which each run of the file's clock is shown later than it says. Where clips were joined byte
            by byte the clock restarts, and each run follows the one before.

    Raises:
        MediaError: the file is missing, empty, no video, or without a single frame; its frames cannot be decoded, or
            the clock restarts more often in them than in the sound, or less often.
    """

    def __init__(self, path: str | Path) -> None:
        self.path = require_file(path)
        with open_container(path) as container:
            stream = picture_stream(container)
            if stream is None:
                raise MediaError(f"{path} holds no video; give a video file.")
            if stream.codec_context is None:
                raise MediaError(f"The video in {path} has a codec that cannot be decoded; convert it to H.264.")
            check_size(stream.width, stream.height, path)
            sound = sound_index(path)
            self.has_audio = sound is not None
            self.time_base = stream.time_base or Fraction(1, 25)
            base, guess = stream.base_rate, stream.guessed_rate
            named = guess if base and base == 2 * (guess or 0) else base  # the base rate may count fields
            self.rates = [Fraction(rate) for rate in (named, stream.average_rate) if rate][:1]
            self.promised = None
            if stream.frames and "mp4" in container.format.name:  # the edit list may cut some off
                self.promised = sum(not entry.is_discard for entry in stream.index_entries) or None
            aspect = stream.sample_aspect_ratio or Fraction(1)
            self._scan(container, stream)
        if len(self.shifts) > 1 and sound is not None and _runs(self.path, sound) != len(self.shifts):
            raise MediaError(
                f"The clock of {path} restarts {len(self.shifts) - 1} times in the video but not so in the "
                "sound; join its parts anew."
            )
        first = next((frame for _, frame in self._decode(0)), None)
        if first is None:
            raise MediaError(f"{path} holds no frames; give a clip that was written completely.")
        self._size = round(first.width * aspect), first.height  # square pixels
        self._turn = _turn(first)
        self.hdr = HDR.get(int(first.color_trc))
        self.width, self.height = self._size[::-1] if self._turn[0] else self._size

    def _scan(self, container: InputContainer, stream: VideoStream) -> None:
        shown: list[int] = []
        keys: list[int] = []
        begins = [0]  # where in `shown` each run of the clock begins
        before: int | None = None
        count = last = 0
        try:
            for packet in container.demux(stream):
                if not packet.size or _is_hidden(packet):
                    continue
                if packet.is_keyframe and packet.pts is not None:
                    keys.append(packet.pts)  # one before the edit list's start, discarded, begins what is shown too
                if packet.is_discard:
                    continue
                if packet.dts is not None:
                    if packet.is_keyframe and before is not None and packet.dts < before:
                        begins.append(len(shown))
                    before = packet.dts
                count += 1
                if packet.pts is not None:
                    shown.append(packet.pts)
                    last = packet.duration or last
        except FFmpegError:
            pass  # decoding will say where the file breaks off
        self._timed = len(shown) == count and container.format.name not in TIMELESS
        if not self._timed:  # the rate is constant, and frames are counted
            self.time_base = 1 / (self.rates[0] if self.rates else Fraction(25))
            shown, keys, begins, last = list(range(count)), [0], [0], 1
        parts = [np.unique(np.array(part, np.int64)) for part in np.split(shown, begins[1:])]
        last = last or int(np.diff(parts[-1])[-1:].sum()) or 1
        parts[0] = parts[0][parts[0] >= min(keys, default=0)]  # what comes before any key frame cannot be decoded
        self._starts = [int(part[0]) if len(part) else 0 for part in parts]
        self._bases, ticks, self.end = [], [], 0
        for part, start in zip(parts, self._starts):
            self._bases.append(self.end)
            ticks.append(part - start + self.end)
            self.end = int(ticks[-1][-1]) + last if len(part) else self.end
        self.ticks = np.concatenate(ticks)
        shifts = (base - start + self._starts[0] for base, start in zip(self._bases, self._starts))
        self.shifts = tuple(shift * self.time_base for shift in shifts)
        self._keys = np.maximum(np.sort(np.array(keys or [self._starts[0]], np.int64)) - self._starts[0], 0)
        if self.promised and count >= self.promised:
            self.promised = len(self.ticks)

    def frames(self, first: int = 0) -> Iterator[tuple[int, np.ndarray]]:
        """Frames from index `first` on, as (index, uint8 RGB [H, W, 3]), decoded from the nearest key frame before.

        Raises:
            MediaError: the file breaks off, by a decoding error or by fewer frames than its index lists.
        """
        key = 0
        if first >= len(self.ticks):  # the index lists more frames than the file holds
            raise self._broken(len(self.ticks))
        if first and self._timed and len(self._starts) == 1:
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
        decoded = 0
        try:
            with open_container(self.path) as container:
                stream = picture_stream(container)
                assert stream is not None
                decoder = _decoder(stream)
                decoder.thread_type = "AUTO"
                if key:
                    container.seek(key + self._starts[0], stream=stream)
                corrupt, run, before = False, 0, None
                for packet in container.demux(stream):
                    if packet.size:
                        corrupt = packet.is_corrupt
                    for frame in decoder.decode(packet):
                        assert isinstance(frame, VideoFrame)
                        if self._timed:
                            if frame.pts is None:
                                continue
                            if before is not None and frame.pts < before and run + 1 < len(self._starts):
                                run += 1
                            before = frame.pts
                            if frame.pts < self._starts[run]:
                                continue  # the remains of what a cut at the beginning took away
                            tick = frame.pts - self._starts[run] + self._bases[run]
                        index = int(np.searchsorted(self.ticks, tick)) if self._timed else decoded
                        if key and not decoded:
                            decoded = index
                        yield index, frame
                        decoded += 1
                # The last packet was cut short by the file's end; recordings of a stream are cut anywhere.
                complete = not (corrupt and container.format.name not in STREAMS) and decoded >= (self.promised or 0)
        except FFmpegError as error:
            raise self._broken(decoded) from error
        if not complete:
            raise self._broken(decoded)

    def _broken(self, count: int) -> MediaError:
        decoded = f"{count} of {self.promised}" if self.promised else str(count)
        return MediaError(f"{self.path} is damaged after {decoded} frames; give a complete copy of the clip.")

    def _convert(self, frame: VideoFrame, reformatter: VideoReformatter) -> np.ndarray:
        # What names no colour standard is taken as players take it: BT.709 above the size of PAL, else BT.601.
        untagged = frame.colorspace == UNSPECIFIED
        matrix = BT709 if untagged and (frame.width >= 1280 or frame.height > 576) else None
        alpha = frame.format.name == "pal8" or any(part.is_alpha for part in frame.format.components)
        (width, height), form = self._size, "rgba" if alpha else "rgb24"
        same = (frame.width, frame.height) == self._size
        method = EXACT | (Interpolation.BILINEAR if same else Interpolation.BICUBIC)
        # One thread: the scaler's own threads cost more than they save, and much more on a busy machine.
        if self.hdr:
            with _MAPPING:
                frame.color_primaries = BT2020 if frame.color_primaries == UNSPECIFIED else frame.color_primaries
                mapped = _MAPPER.reformat(
                    frame,
                    width,
                    height,
                    form,
                    interpolation=method,
                    threads=1,
                    dst_colorspace=BT709,
                    dst_color_trc=BT709,
                    dst_color_primaries=BT709,
                )
            picture = mapped.to_ndarray()
        else:
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
    try:
        sides: Any = frame.side_data  # its stub knows texts as keys only
    except ValueError:  # PyAV has no name for a kind of side data that the frame has too
        return _quarter_turns(frame.rotation)
    data = sides.get(Type.DISPLAYMATRIX)
    if data is None:
        return False, False, False
    a, b, _, c, d, *_ = np.frombuffer(bytes(data), np.int32)
    if abs(int(a)) >= abs(int(b)):
        return False, bool(d < 0), bool(a < 0)
    return True, bool(b < 0), bool(c < 0)


def _quarter_turns(degrees: float) -> tuple[bool, bool, bool]:
    """`_turn` for an angle, anticlockwise."""
    turns = round(degrees / 90) % 4
    return turns % 2 == 1, turns in (1, 2), turns in (2, 3)


def _runs(path: Path, index: int) -> int:
    """How many runs the clock of a stream of sound has."""
    count, before = 1, None
    with open_container(path) as container:
        for packet in container.demux(container.streams[index]):
            if packet.dts is None or packet.time_base is None:
                continue
            time = packet.dts * packet.time_base
            count += before is not None and time < before - BACK
            before = time
    return count
