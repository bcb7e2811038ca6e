"""Frames into a file whose ending says how: H.264, AV1, lossless FFV1, GIF, or a folder of pictures."""

from __future__ import annotations

import warnings
from contextlib import ExitStack
from dataclasses import dataclass, field
from fractions import Fraction
from pathlib import Path
from types import TracebackType

import av
import numpy as np
from av.container import OutputContainer
from av.error import FFmpegError
from av.filter import Graph
from av.video.frame import VideoFrame
from av.video.stream import VideoStream

from stylereel.core.files import MediaError, ensure_writable, replacing, replacing_folder, require_file
from stylereel.core.version import __version__
from stylereel.media.clip import BT709, ffmpeg_name, open_container, sound_index
from stylereel.media.pictures import save_picture
from stylereel.media.sound import Track

LIMITED = 1  # H.273's number for levels 16 to 235
# Exact rounding, and chroma where players expect it: a shift of half a pixel would grow with each generation.
TO_YUV = (
    "flags=bicubic+accurate_rnd+full_chroma_int+full_chroma_inp:out_color_matrix=bt709:out_range=tv:out_chroma_loc=left"
)
# Pixels a side. With its macroblock tree x264 was seen to give other bytes about once in a thousand files at several
# sizes up to 144, never at 256; without it files are a tenth to a third larger.
TREE = 256
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
    - no ending: a new folder of PNG pictures 000000.png, 000001.png ...; no sound, and the rate is not kept.

    An odd width or height is padded to an even one by repeating the last column or row in .mp4 and .webm, and kept
    elsewhere; nothing is ever scaled.

    Attributes:
        num_frames: frames written so far.
        width, height: pixels of the video, known from the first frame on.
        has_audio: whether sound goes along, known from the first frame on.

    Args:
        path: where to write.
        rate: frames per second, kept as this exact fraction.
        audio_from: a file whose sound, if it has any, is put under the frames and ends with them; its first picture
            and the first frame coincide.
        crf: constant rate factor of H.264 (0 to 51, 16 if None) or AV1 (0 to 63, 24 if None); lower is better.

    Raises:
        MediaError: another ending, a rate that a GIF cannot have, a crf for a form without one, a file that cannot
            be written, `audio_from` that cannot be read, or the block ended before any frame was written.
    """

    def __init__(
        self, path: str | Path, rate: Fraction, audio_from: str | Path | None = None, crf: int | None = None
    ) -> None:
        self.path = Path(path)
        self.rate = Fraction(rate)
        self.num_frames = self.width = self.height = 0
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
        self._exit = ExitStack()
        self._stream: VideoStream | None = None
        self._container: OutputContainer | None = None
        self._filters: Graph | None = None
        self._sound: Track | None = None
        self._finished = False

    def __enter__(self) -> VideoWriter:
        with ExitStack() as stack:
            if self._form is None:
                self._folder = stack.enter_context(replacing_folder(self.path))
            else:
                partial = stack.enter_context(replacing(self.path))
                options = {"movflags": "+faststart"} if self._form.container == "mp4" else {}
                container = av.open(ffmpeg_name(partial), "w", format=self._form.container, container_options=options)
                self._container = stack.enter_context(container)
                self._container.metadata["comment"] = f"synthetic video, made with stylereel {__version__}"
            self._exit = stack.pop_all()
        return self

    def write(self, frame: np.ndarray) -> None:
        """Add one frame, uint8 RGB [H, W, 3]; all frames have the size of the first."""
        if frame.ndim != 3 or frame.shape[2] != 3 or frame.dtype != np.uint8:
            raise ValueError(f"A frame is uint8 [H, W, 3], not {frame.dtype} {frame.shape}; convert it first.")
        height, width = frame.shape[:2]
        if self._form and self._form.pixels == "yuv420p" and (height % 2 or width % 2):
            frame = np.pad(frame, ((0, height % 2), (0, width % 2), (0, 0)), mode="edge")
        try:
            if not self.num_frames:
                self._start(frame.shape[1], frame.shape[0])
            if (self.width, self.height) != (frame.shape[1], frame.shape[0]):
                size = f"{self.width} x {self.height}"
                raise ValueError(f"A frame of {width} x {height} came into a video of {size}; keep one size.")
            if self._form is None:
                save_picture(self._folder / f"{self.num_frames:06d}.png", frame)
            else:
                self._encode(frame)
            self.num_frames += 1
            if self._sound:
                self._sound.write_until(self.num_frames / self.rate, last=False)
        except FFmpegError as error:
            raise self._failed(error) from error

    def _start(self, width: int, height: int) -> None:
        self.width, self.height = width, height
        form = self._form
        if form is None or form.sound is None:
            if self._audio_from is not None:
                warnings.warn(f"{self.path} holds no sound; write .mp4, .webm or .mkv to keep it.", stacklevel=3)
            if form is None:
                return
        assert self._container is not None
        gif = form.codec == "gif"
        if form.codec == "libx264" and min(width, height) < TREE:
            self._options["x264-params"] = "mbtree=0"
        stream = self._container.add_stream(form.codec, rate=self.rate, options=self._options)
        assert isinstance(stream, VideoStream)
        stream.width, stream.height, stream.pix_fmt = width, height, form.pixels
        context = stream.codec_context
        context.time_base = GIF_CLOCK if gif else 1 / self.rate
        if form.pixels == "yuv420p":
            context.colorspace = context.color_primaries = context.color_trc = BT709
            context.color_range = LIMITED
        self._filters = _filters(form.pixels, width, height)
        if form.sound and self._audio_from is not None:
            index = sound_index(self._audio_from)
            if index is not None:
                source = self._exit.enter_context(open_container(self._audio_from))
                self._sound = Track(self._audio_from, index, source, self._container, form.copied, form.sound)
        self.has_audio = self._sound is not None
        self._stream = stream

    def _encode(self, frame: np.ndarray) -> None:
        assert self._filters and self._stream and self._container
        picture = VideoFrame.from_ndarray(frame, format="rgb24")
        picture.pts = self.num_frames
        self._filters.vpush(picture)
        picture = self._filters.vpull()
        clock = self._stream.codec_context.time_base
        begin, end = (round(index / self.rate / clock) for index in (self.num_frames, self.num_frames + 1))
        picture.pts, picture.duration, picture.time_base = begin, end - begin, clock
        self._container.mux(self._stream.encode(picture))

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
            if self._stream and self._container:
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
