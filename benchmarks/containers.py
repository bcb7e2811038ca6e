"""Count, rate and duration of clips in every container that FFmpeg's own tests write, beside ffprobe's.

    python benchmarks/containers.py --out docs/notes/containers.md

Needs ffprobe. The clips are 50 frames of a moving square, with sound where the container takes it; files given as
further arguments come after them.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import tempfile
import warnings
from fractions import Fraction
from pathlib import Path
from typing import Any, NamedTuple

import av
import numpy as np
from av.audio.frame import AudioFrame
from av.audio.stream import AudioStream
from av.error import FFmpegError
from av.video.frame import VideoFrame
from av.video.stream import VideoStream

from stylereel.media.video import VideoReader

FRAMES = 50


class Form(NamedTuple):
    """How a clip is written: the file's ending, FFmpeg's format, codecs (no sound: ""), rate and size."""

    ending: str
    format: str
    video: str
    audio: str = ""
    rate: Fraction = Fraction(25)
    size: tuple[int, int] = (128, 96)
    pixels: str = "yuv420p"
    options: dict[str, str] = {}


NTSC, PAL, WIDE = Fraction(30000, 1001), (720, 576), (1920, 1080)
FORMS = [
    Form("asf", "asf", "msmpeg4", "mp2"),
    Form("avi", "avi", "mpeg4", "mp2"),
    Form("b.avi", "avi", "mpeg4", "mp2", options={"bf": "2"}),
    Form("h264.avi", "avi", "libx264", "mp2"),
    Form("dv", "dv", "dvvideo", "pcm_s16le", size=PAL),
    Form("flv", "flv", "flv"),
    Form("h264.flv", "flv", "libx264", "aac"),
    Form("gxf", "gxf", "mpeg2video", "pcm_s16le", size=PAL),
    Form("mkv", "matroska", "mpeg4", "mp2"),
    Form("h264.mkv", "matroska", "libx264", "aac", NTSC),
    Form("webm", "webm", "libvpx-vp9", "libopus", NTSC),
    Form("vp8.webm", "webm", "libvpx", "libopus", options={"auto-alt-ref": "1", "lag-in-frames": "16"}),
    Form("mov", "mov", "mpeg4", "pcm_alaw"),
    Form("prores.mov", "mov", "prores_ks", "pcm_s16le", pixels="yuv422p10le"),
    Form("ismv", "ismv", "mpeg4"),
    Form("mp4", "mp4", "mpeg4"),
    Form("h264.mp4", "mp4", "libx264", "aac", NTSC),
    Form("fragmented.mp4", "mp4", "libx264", "aac"),
    Form("hevc.mp4", "mp4", "libx265", "aac", options={"x265-params": "log-level=none"}),
    Form("av1.mp4", "mp4", "libsvtav1", "aac", options={"preset": "10"}),
    Form("3gp", "3gp", "mpeg4", "aac"),
    Form("mpg", "mpeg", "mpeg1video", "mp2"),
    Form("vob", "vob", "mpeg2video", "mp2"),
    Form("mxf", "mxf", "mpeg2video", "pcm_s16le", options={"bf": "2"}),
    Form("nut", "nut", "mpeg4", "mp2"),
    Form("ogg", "ogg", "libvpx", "libopus"),
    Form("rm", "rm", "rv10"),
    Form("smjpeg", "smjpeg", "mjpeg", "pcm_s16le", pixels="yuvj420p"),
    Form("swf", "swf", "flv"),
    Form("ts", "mpegts", "mpeg2video", "mp2"),
    Form("h264.ts", "mpegts", "libx264", "aac", NTSC),
    Form("wtv", "wtv", "mpeg2video", "mp2"),
    Form("gif", "gif", "gif", pixels="rgb8"),
    Form("h264", "h264", "libx264"),
    Form("m2v", "mpeg2video", "mpeg2video"),
    Form("ivf", "ivf", "libvpx-vp9"),
    Form("y4m", "yuv4mpegpipe", "rawvideo"),
]


def write(path: Path, form: Form) -> None:
    """Write the clip."""
    options = {"movflags": "frag_keyframe+empty_moov"} if "fragmented" in form.ending else {}
    with av.open(f"file:{path}", "w", format=form.format, container_options=options) as container:
        video = container.add_stream(form.video, rate=form.rate, options=form.options)
        assert isinstance(video, VideoStream)
        video.width, video.height, video.pix_fmt = *form.size, form.pixels
        audio = container.add_stream(form.audio, rate=48000) if form.audio else None
        packets: list[Any] = []
        for index in range(FRAMES):
            frame = np.full((form.size[1], form.size[0], 3), 90, np.uint8)
            frame[8:40, 2 * index : 2 * index + 24] = 200, 40, 40
            picture = VideoFrame.from_ndarray(frame, format="rgb24")
            picture.pts, picture.time_base = index, 1 / form.rate
            packets += video.encode(picture)
        packets += video.encode(None)
        if isinstance(audio, AudioStream):
            context = audio.codec_context
            context.layout = "mono" if form.format == "gxf" else "stereo"
            whole = AudioFrame.from_ndarray(
                np.zeros((1, context.sample_rate * FRAMES // int(form.rate)), np.int16), "s16", "mono"
            )
            whole.sample_rate, whole.pts = context.sample_rate, 0
            if not context.is_open:
                context.open()
            resampler = av.AudioResampler(
                context.format, context.layout, context.sample_rate, context.frame_size or 1920
            )
            for part in [*resampler.resample(whole), *resampler.resample(None)]:
                packets += audio.encode(part)
            packets += audio.encode(None)
        for packet in sorted(packets, key=lambda each: (each.dts or 0) * each.time_base):
            container.mux(packet)


def probed(path: Path) -> tuple[str, str, str]:
    """ffprobe's count of frames, rate, and seconds of the pictures, or of the file where it gives none of these."""
    command = ["ffprobe", "-v", "error", "-count_frames", "-select_streams", "v:0", "-show_format", "-show_streams"]
    found = json.loads(subprocess.run([*command, "-of", "json", f"file:{path}"], capture_output=True, text=True).stdout)
    if not found.get("streams"):
        return "-", "-", "-"
    stream = found["streams"][0]
    seconds = stream.get("duration") or found["format"].get("duration")
    return stream.get("nb_read_frames", "-"), stream["r_frame_rate"], f"{float(seconds):.2f}" if seconds else "-"


def read(path: Path) -> tuple[str, str, str]:
    """The same as `VideoReader` gives them, its frames counted by reading them."""
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            reader = VideoReader(path)
            count = sum(1 for _ in reader)
    except ValueError as error:
        return str(error).replace(str(path), path.name), "", ""
    assert count == reader.num_frames, f"{path}: {count} frames, not {reader.num_frames}"
    rate = f"{reader.rate.numerator}/{reader.rate.denominator}"
    note = "" if reader.timing == "constant" else f" ({reader.timing})"
    return f"{count}{note}", rate, f"{float(count / reader.rate):.2f}"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else "")
    parser.add_argument("--out", type=Path, required=True, help="the page to write")
    parser.add_argument("files", type=Path, nargs="*", help="further clips")
    arguments = parser.parse_args()
    rows = []
    with tempfile.TemporaryDirectory() as folder:
        for form in FORMS:
            path = Path(folder) / f"clip.{form.ending}"
            try:
                write(path, form)
            except (FFmpegError, ValueError) as error:
                rows.append((form.ending, f"{form.video} {form.audio}", f"cannot be written here ({error})"))
                continue
            rows.append((form.ending, f"{form.video} {form.audio}".strip(), *probed(path), *read(path)))
            if form.format in ("mpegts", "mpeg"):
                twice = Path(folder) / f"twice.{form.ending}"
                twice.write_bytes(path.read_bytes() * 2)
                rows.append((f"{form.ending}, twice in one file", "", *probed(twice), *read(twice)))
        rows += [(path.name, "", *probed(path), *read(path)) for path in arguments.files]
    head = ("container", "codecs", "ffprobe: frames", "rate", "seconds", "VideoReader: frames", "rate", "seconds")
    lines = ["| " + " | ".join(cells) + " |" for cells in (head, ("---",) * len(head), *rows)]
    title = "# Containers: count, rate and duration beside ffprobe's\n\n"
    command = "python benchmarks/containers.py --out docs/notes/containers.md"
    about = (
        f"Clips of {FRAMES} frames, written and read by `{command}`.\n\n"
        "ffprobe's seconds are those of the pictures, or of the whole file, sound included, where the container gives\n"
        "no others; of a clock that starts again it gives one run. The clock of the mpg file leaves out one tick, in\n"
        "ffprobe's times of its frames too: there a frame is held.\n\n"
    )
    arguments.out.parent.mkdir(parents=True, exist_ok=True)
    arguments.out.write_text(title + about + "\n".join(lines) + "\n", encoding="utf-8")
    print("\n".join(lines))


if __name__ == "__main__":
    main()
