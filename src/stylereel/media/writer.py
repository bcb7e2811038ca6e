"""Frames into a file, by its extension: H.264, AV1, lossless FFV1, GIF, or a folder of images."""

from __future__ import annotations

import hashlib
import json
import os
import warnings
from collections.abc import Iterable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from fractions import Fraction
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Any

import av
import numpy as np
from av.codec.context import CodecContext, Flags
from av.container import OutputContainer
from av.error import FFmpegError
from av.filter import Graph
from av.packet import Packet
from av.video.codeccontext import VideoCodecContext
from av.video.frame import VideoFrame
from av.video.stream import VideoStream

from stylereel.core.files import MediaError, ensure_writable, replacing, replacing_folder, require_file
from stylereel.core.version import __version__
from stylereel.media.clip import BT709, ffmpeg_name, open_container, sound_index
from stylereel.media.pictures import save_picture
from stylereel.media.sound import Track

if TYPE_CHECKING:
    from stylereel.core.runs import Unfinished

LIMITED = 1  # H.273's number for levels 16 to 235
# Exact rounding, and chroma where players expect it: a shift of half a pixel would grow with each generation.
TO_YUV = (
    "flags=bicubic+accurate_rnd+full_chroma_int+full_chroma_inp:out_color_matrix=bt709:out_range=tv:out_chroma_loc=left"
)
# Pixels a side. With its macroblock tree x264 gives other bytes about once in a thousand files at several
# sizes up to 144, never at 256; without it files are a tenth to a third larger.
TREE = 256
# Frames of a segment, which is encoded for itself: those of an interrupted run can be kept and joined without a trace.
# Each begins with a key frame, which costs some bytes against one encoder for all.
SEGMENT = 120
GIF_CLOCK = Fraction(1, 100)  # seconds; players slow down what is shown for less than two of it


@dataclass(frozen=True)
class _Form:
    """How one ending is written. `crf` None: the codec has no constant rate factor."""

    container: str
    codec: str
    pixels: str
    crf: int | None = None
    options: dict[str, str] = field(default_factory=dict)
    sound: str | None = None  # encoder for sound that is not copied
    copied: frozenset[str] | None = frozenset()  # sound codecs put in as they are, None for every one


_FORMS = {
    ".mp4": _Form("mp4", "libx264", "yuv420p", 16, {}, "aac", frozenset({"aac", "mp3"})),  # what every player plays
    ".webm": _Form("webm", "libsvtav1", "yuv420p", 24, {"preset": "8"}, "libopus", frozenset({"opus", "vorbis"})),
    ".mkv": _Form("matroska", "ffv1", "bgr0", None, {"slices": "4", "slicecrc": "1"}, "flac", None),
    ".gif": _Form("gif", "gif", "pal8"),
}
ENDINGS = (*_FORMS, "")


class VideoWriter:
    """Write frames as a video; the file appears under its name when the block ends without an error.

    Used as a context manager. Until the end the file has a temporary name in the same folder, and after an error
    nothing is left. The name's ending chooses the form:

    - `.mp4`: H.264 (yuv420p, BT.709, limited range, index at the front); AAC and MP3 sound is copied, other encoded
      as AAC.
    - `.webm`: AV1 (yuv420p, BT.709); Opus and Vorbis sound is copied, other encoded as Opus.
    - `.mkv`: FFV1, lossless RGB; sound is copied.
    - `.gif`: a palette of 256 colours a frame, no sound; frames begin at the nearest hundredth of a second.
    - no ending: a new folder of PNG images 000000.png, 000001.png ...; no sound, and the rate is not kept.

    Every `SEGMENT` frames a new encoder begins with a key frame. With `unfinished` whole segments are kept there, and
    `num_frames` of the opened writer says with which frame to go on; the file has the same bytes.

    An odd width or height is padded to an even one by repeating the last column or row in .mp4 and .webm, and kept
    elsewhere; nothing is ever scaled.

    Attributes:
        num_frames: frames written so far, those of an earlier run included.
        notes: what was noted of each of them.
        width, height: pixels of the video, known from the first frame on.
        has_audio: whether sound goes along, known from the first frame on.

    Args:
        path: where to write.
        rate: frames per second, kept as this exact fraction.
        audio_from: a file whose sound, if it has any, is put under the frames and ends with them; its first frame
            and the first frame coincide.
        audio_start: seconds of `audio_from`, after its first frame, that are left out before its sound begins.
        crf: constant rate factor of H.264 (0 to 51, 16 if None) or AV1 (0 to 63, 24 if None); lower is better.
        unfinished: of the run, whose facts include all that decides the frames, the rate, the sound and the crf.
        synthetic: whether the file is marked as synthetic video; not where it shows what a camera saw.

    Raises:
        MediaError: another ending, a rate that a GIF cannot have, a crf for a form without one, a file that cannot
            be written, `audio_from` that cannot be read, or the block ended before any frame was written.
    """

    def __init__(
        self,
        path: str | Path,
        rate: Fraction,
        audio_from: str | Path | None = None,
        crf: int | None = None,
        *,
        audio_start: Fraction = Fraction(0),
        unfinished: Unfinished | None = None,
        synthetic: bool = True,
    ) -> None:
        self.path = Path(path)
        self.rate = Fraction(rate)
        self.num_frames = self.width = self.height = 0
        self.notes: list[Any] = []
        self.has_audio = False
        self._form = _FORMS.get(self.path.suffix.lower())
        if self.path.suffix and self._form is None:
            raise MediaError(f"The name {path} must end in {', '.join(_FORMS)}, or have no ending for a folder.")
        if self._form:
            ensure_writable(path)
        if self.path.suffix.lower() == ".gif" and self.rate > 50:
            raise MediaError(f"A GIF shows at most 50 frames a second, not {self.rate}; write an mp4 file instead.")
        self._options = dict(self._form.options) if self._form else {}
        if self._form and self._form.crf is not None:
            self._options["chroma_sample_location"] = "left"
            self._options["crf"] = str(self._form.crf if crf is None else crf)
        elif crf is not None:
            raise MediaError(f"{path} has no crf, which goes with .mp4 and .webm; leave it out.")
        self._audio_from = None if audio_from is None else require_file(audio_from)
        self._audio_start = audio_start
        self._exit = ExitStack()
        self._stream: VideoStream | None = None
        self._container: OutputContainer | None = None
        self._encoder: _Encoder | None = None
        self._comment = f"{'synthetic video, ' if synthetic else ''}made with stylereel {__version__}"
        self._unfinished = unfinished if self._form else None
        # A GIF's packets need more than their bytes, so its frames are kept without loss.
        self._kept_form = _FORMS[".mkv"] if self._form is _FORMS[".gif"] else self._form
        self._waiting: list[Packet] = []  # of the segment in work
        self._segments: list[Path] = []
        self._muxed = 0
        self._sound: Track | None = None
        self._started = self._finished = False

    def __enter__(self) -> VideoWriter:
        with ExitStack() as stack:
            if self._form is None:
                self._folder = stack.enter_context(replacing_folder(self.path))
            else:
                partial = stack.enter_context(replacing(self.path))
                options = _container_options(self._form)
                container = av.open(ffmpeg_name(partial), "w", format=self._form.container, container_options=options)
                self._container = stack.enter_context(container)
                self._container.metadata["comment"] = self._comment
            self._exit = stack.pop_all()
        if self._unfinished:
            self._find_segments(self._unfinished.folder)
        return self

    def _find_segments(self, folder: Path) -> None:
        """Take over the whole segments that an earlier run left, up to the first that is not."""
        while (facts := _read_segment(path := folder / f"{len(self._segments):06d}.segment")) is not None:
            self._segments.append(path)
            self.num_frames += facts["frames"]
            self.notes += facts["notes"]
            self.width, self.height = facts["size"]
            if facts["frames"] < SEGMENT:
                break

    def write(self, frame: np.ndarray, note: Any = None) -> None:
        """Add one frame, uint8 RGB [H, W, 3]; all frames have the size of the first. `note`: plain values to keep."""
        if frame.ndim != 3 or frame.shape[2] != 3 or frame.dtype != np.uint8:
            raise ValueError(f"A frame is uint8 [H, W, 3], not {frame.dtype} {frame.shape}; convert it first.")
        height, width = frame.shape[:2]
        if self._form and self._form.pixels == "yuv420p" and (height % 2 or width % 2):
            frame = np.pad(frame, ((0, height % 2), (0, width % 2), (0, 0)), mode="edge")
        try:
            if not self.width:
                self.width, self.height = frame.shape[1], frame.shape[0]
            if (self.width, self.height) != (frame.shape[1], frame.shape[0]):
                size = f"{self.width} x {self.height}"
                raise ValueError(f"A frame of {width} x {height} came into a video of {size}; keep one size.")
            if not self._started:
                self._start()
            if self._form is None:
                save_picture(self._folder / f"{self.num_frames:06d}.png", frame)
            else:
                self._encode(frame)
            self.num_frames += 1
            self.notes.append(note)
            if self.num_frames % SEGMENT == 0 and (self._unfinished or self._form is self._kept_form):
                self._end_segment()
        except FFmpegError as error:
            raise self._failed(error) from error

    def _start(self) -> None:
        self._started = True
        form = self._form
        if form is None or form.sound is None:
            if self._audio_from is not None:
                warnings.warn(f"{self.path} holds no sound; write .mp4, .webm or .mkv to keep it.", stacklevel=3)
            if form is None:
                return
        assert self._container is not None
        if form.codec == "libx264" and min(self.width, self.height) < TREE:
            self._options["x264-params"] = "mbtree=0"
        # The stream's own encoder is opened for the header alone; the segments' make the same one.
        stream = self._container.add_stream(form.codec, rate=self.rate, options=self._options)
        assert isinstance(stream, VideoStream)
        _configure(stream.codec_context, form, self.width, self.height, self.rate)
        if form.sound and self._audio_from is not None:
            index = sound_index(self._audio_from)
            if index is not None:
                source = self._exit.enter_context(open_container(self._audio_from))
                self._sound = Track(
                    self._audio_from, index, source, self._container, form.copied, form.sound, self._audio_start
                )
        self.has_audio = self._sound is not None
        self._stream = stream

    def _encode(self, frame: np.ndarray) -> None:
        if self._encoder is None:
            form = self._kept_form if self._unfinished else self._form
            assert form
            self._encoder = _Encoder(form, self._options, self.width, self.height, self.rate)
        self._put(self._encoder.encode(frame, self.num_frames))

    def _put(self, packets: Iterable[Packet]) -> None:
        if self._unfinished:
            self._waiting += packets
        else:
            for packet in packets:
                self._mux(packet)

    def _mux(self, packet: Packet) -> None:
        assert self._stream and self._container
        packet.stream = self._stream
        with usual_priority():  # the first packet opens the stream's own encoder
            self._container.mux_one(packet)
        self._muxed += 1
        if self._sound:
            self._sound.write_until(self._muxed / self.rate, last=False)

    def _end_segment(self) -> None:
        if self._encoder is None:
            return
        self._put(self._encoder.flush())
        if self._unfinished:
            begin = len(self._segments) * SEGMENT
            facts = {
                "frames": self.num_frames - begin,
                "notes": self.notes[begin:],
                "size": [self.width, self.height],
                "header": (self._encoder.context.extradata or b"").hex(),
            }
            self._segments.append(self._unfinished.folder / f"{len(self._segments):06d}.segment")
            _write_segment(self._segments[-1], facts, self._waiting)
            self._waiting = []
            self._unfinished.worth = True
        self._encoder = None

    def _join(self) -> None:
        """Put the kept segments into the file."""
        assert self._form
        if self._form is self._kept_form:
            for path in self._segments:
                for packet in _packets(path, 1 / self.rate):
                    self._mux(packet)
            return
        encoder = _Encoder(self._form, self._options, self.width, self.height, self.rate)
        for index, frame in enumerate(frame for path in self._segments for frame in _frames(path, 1 / self.rate)):
            for packet in encoder.encode(frame, index):
                self._mux(packet)
        for packet in encoder.flush():
            self._mux(packet)

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
        if not self.num_frames:
            raise MediaError(f"No frame was written to {self.path}, so it was not made; give at least one.")
        try:
            if not self._started:  # all frames are of an earlier run
                self._start()
            self._end_segment()
            if self._unfinished:
                self._join()
            if self._container:
                if self._sound:
                    self._sound.write_until(self.num_frames / self.rate, last=True)
                self._container.close()
        except FFmpegError as error:
            raise self._failed(error) from error
        self._finished = True

    def _failed(self, error: FFmpegError) -> MediaError:
        reason = error.strerror or "the encoder failed"
        return MediaError(f"{self.path} could not be written ({reason}); check the space on the disk.")


def add_sound(path: Path, sound: Path, start: Fraction = Fraction(0)) -> bool:
    """Put the sound of a file, from `start` seconds on, under a video that `VideoWriter` has written, in its place.

    Returns:
        Whether the file has sound, and the video's form takes it.

    Raises:
        MediaError: one of the files cannot be read or written.
    """
    form = _FORMS[path.suffix.lower()]
    index = sound_index(sound) if form.sound else None
    if index is None or form.sound is None:
        return False
    with replacing(path) as partial, open_container(path) as video, open_container(sound) as source:
        options = _container_options(form)
        with av.open(ffmpeg_name(partial), "w", format=form.container, container_options=options) as target:
            target.metadata["comment"] = video.metadata.get("comment", video.metadata.get("COMMENT", ""))
            stream, end = video.streams.video[0], Fraction(0)
            output = target.add_stream_from_template(stream)
            track = Track(sound, index, source, target, form.copied, form.sound, start)
            for packet in video.demux(stream):
                if packet.pts is None or packet.time_base is None:
                    continue
                end = max(end, (packet.pts + (packet.duration or 0)) * packet.time_base)
                packet.stream = output
                target.mux_one(packet)
                track.write_until(end, last=False)
            track.write_until(end, last=True)
    return True


def _container_options(form: _Form) -> dict[str, str]:
    options = {"fflags": "+bitexact"}  # else Matroska numbers its parts at random
    return options | {"movflags": "+faststart"} if form.container == "mp4" else options


def _configure(context: VideoCodecContext, form: _Form, width: int, height: int, rate: Fraction) -> None:
    context.width, context.height, context.pix_fmt = width, height, form.pixels
    context.time_base = GIF_CLOCK if form.codec == "gif" else 1 / rate
    context.framerate = rate
    if form.pixels == "yuv420p":
        context.colorspace = context.color_primaries = context.color_trc = BT709
        context.color_range = LIMITED


class _Encoder:
    """Encodes the frames of one segment, whose packets carry the times of the whole video."""

    def __init__(self, form: _Form, options: dict[str, str], width: int, height: int, rate: Fraction) -> None:
        os.environ.setdefault("SVT_LOG", "0")  # the AV1 encoder would describe itself for every segment
        context = CodecContext.create(form.codec, "w")
        assert isinstance(context, VideoCodecContext)
        _configure(context, form, width, height, rate)
        context.options = dict(form.options if form.crf is None else options)
        if form.codec != "gif":
            context.flags |= Flags.global_header
        self.context, self._rate, self._filters = context, rate, _filters(form.pixels, width, height)

    def encode(self, frame: np.ndarray, index: int) -> list[Packet]:
        """The packets that come out when frame `index` of the video goes in."""
        picture = VideoFrame.from_ndarray(frame, format="rgb24")
        picture.pts = index
        self._filters.vpush(picture)
        picture = self._filters.vpull()
        clock = self.context.time_base
        begin, end = (round(each / self._rate / clock) for each in (index, index + 1))
        picture.pts, picture.duration, picture.time_base = begin, end - begin, clock
        with usual_priority():
            return self.context.encode(picture)

    def flush(self) -> list[Packet]:
        """The packets that are still waiting; the encoder is done then."""
        return self.context.encode(None)


# A segment's file: a line of JSON with its facts, the table of its packets and the SHA-256 of their bytes, then these.


@contextmanager
def usual_priority() -> Iterator[None]:
    """Leaves the calling thread's scheduling as it was.

    Where it may (root), SVT-AV1 gives the thread that opens it, and so every process started later, real-time priority.
    """
    if not hasattr(os, "sched_getscheduler"):
        yield
        return
    policy, parameters = os.sched_getscheduler(0), os.sched_getparam(0)
    try:
        yield
    finally:
        if os.sched_getscheduler(0) != policy:
            os.sched_setscheduler(0, policy, parameters)


def _write_segment(path: Path, facts: dict[str, Any], packets: list[Packet]) -> None:
    data = [bytes(packet) for packet in packets]
    hashed = hashlib.sha256()
    for each in data:
        hashed.update(each)
    table = [[len(each), p.pts, p.dts, p.duration, p.is_keyframe] for each, p in zip(data, packets)]
    with replacing(path) as partial, partial.open("wb") as file:
        file.write(json.dumps(facts | {"packets": table, "sha256": hashed.hexdigest()}).encode() + b"\n")
        file.writelines(data)


def _read_segment(path: Path) -> dict[str, Any] | None:
    """What the first line of a segment's file says; None if there is no such file, or it is damaged."""
    try:
        with path.open("rb") as file:
            facts = json.loads(file.readline())
            whole = hashlib.file_digest(file, "sha256").hexdigest() == facts["sha256"]
        return facts if whole else None
    except (OSError, ValueError, KeyError, TypeError):
        return None


def _packets(path: Path, clock: Fraction) -> Iterator[Packet]:
    with path.open("rb") as file:
        for size, pts, dts, duration, key in json.loads(file.readline())["packets"]:
            packet = Packet(file.read(size))
            packet.pts, packet.dts, packet.duration, packet.time_base = pts, dts, duration, clock
            packet.is_keyframe = key
            yield packet


def _frames(path: Path, clock: Fraction) -> Iterator[np.ndarray]:
    """The frames of a segment of `_FORMS[".mkv"]`."""
    facts = _read_segment(path)
    assert facts
    context = CodecContext.create(_FORMS[".mkv"].codec, "r")
    assert isinstance(context, VideoCodecContext)
    context.width, context.height = facts["size"]
    context.extradata = bytes.fromhex(facts["header"])
    for packet in [*_packets(path, clock), None]:
        for frame in context.decode(packet):
            yield frame.to_ndarray(format="rgb24")


def _filters(pixels: str, width: int, height: int) -> Graph:
    """A filter that takes RGB frames and gives each at once in the pixel format that the encoder wants."""
    graph = Graph()
    source = graph.add_buffer(width=width, height=height, format=av.VideoFormat("rgb24"), time_base=Fraction(1))
    sink = graph.add("buffersink")
    if pixels == "pal8":
        # The 256 colours that suit each frame best; one palette for all would have to see all frames first.
        split, colours = graph.add("split"), graph.add("palettegen", "stats_mode=single")
        use = graph.add("paletteuse", "new=1:dither=bayer:bayer_scale=4")
        source.link_to(split)
        split.link_to(use, 0, 0)
        split.link_to(colours, 1, 0)
        colours.link_to(use, 0, 1)
        use.link_to(sink)
    else:
        graph.link_nodes(source, graph.add("scale", TO_YUV), graph.add("format", pixels), sink)
    graph.configure()
    return graph
