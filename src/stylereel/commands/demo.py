"""The demonstration: an invented person speaks in a clip, and that clip drives another invented person.

The driving clip was drawn by the world and is treated like any clip: found by the face detector, tracked, measured. It
is part of the package, since drawing it would first compile the drawing kernels, for up to a minute.
"""

from __future__ import annotations

import shutil
import tempfile
from collections.abc import Iterator, Mapping
from fractions import Fraction
from pathlib import Path
from typing import Any

import av
import numpy as np

from stylereel.commands.drive import drive
from stylereel.commands.rendering import result_lines
from stylereel.core.builtin import BUILTIN
from stylereel.core.files import replacing
from stylereel.core.record import Stages, write_record
from stylereel.core.runs import claim
from stylereel.core.system import Device
from stylereel.media.clip import ffmpeg_name
from stylereel.media.pictures import save_picture
from stylereel.media.sheet import contact_sheet
from stylereel.media.video import VideoReader, VideoWriter
from stylereel.world import MOTION, MOTION_COLUMNS, draw, natural_motion, person

CLIP = BUILTIN / "speaker.mp4"
RATE, SECONDS, SIZE = Fraction(25), 4, 256
SPEAKER, SOURCE, MOVEMENT = 7, 29, 5  # seeds of the speaker, of the driven person and of the movement
SAMPLE_RATE = 16000


def murmur(jaw: np.ndarray, rate: Fraction, seed: int = 0) -> np.ndarray:
    """A hummed voice [samples] float32 at 16 kHz whose loudness and vowels follow the jaw [T] 0..1."""
    time = np.arange(int(len(jaw) / float(rate) * SAMPLE_RATE)) / SAMPLE_RATE
    open_mouth = np.interp(time, np.arange(len(jaw)) / float(rate), jaw)
    pitch = 125 * (1 + 0.06 * np.sin(2 * np.pi * 0.7 * time) + 0.15 * open_mouth)
    phase = 2 * np.pi * np.cumsum(pitch) / SAMPLE_RATE
    voice = np.zeros(len(time))
    for harmonic in range(1, 18):
        frequency = harmonic * pitch
        formants = np.exp(-(((frequency - 350 - 450 * open_mouth) / 160) ** 2))
        formants += 0.5 * np.exp(-(((frequency - 1200 - 300 * open_mouth) / 220) ** 2))
        voice += formants * np.sin(harmonic * phase) / harmonic**0.5
    breath = np.random.default_rng(seed).standard_normal(len(time)) * 0.02
    return (0.25 * open_mouth * (voice + breath)).astype(np.float32)


def write_sound(path: Path, samples: np.ndarray) -> None:
    """Write float samples [N] at 16 kHz as a mono wav file."""
    with av.open(ffmpeg_name(path), "w", format="wav") as container:
        stream = container.add_stream("pcm_s16le", rate=SAMPLE_RATE, layout="mono")
        frame = av.AudioFrame.from_ndarray((samples.clip(-1, 1) * 32767).astype(np.int16)[None], "s16", "mono")
        frame.sample_rate = SAMPLE_RATE
        container.mux(stream.encode(frame))
        container.mux(stream.encode(None))


def speaker_clip(path: Path, seconds: int = SECONDS, stages: Stages | None = None) -> None:
    """Draw a person who looks around, blinks and speaks, with sound, as an mp4 file."""
    stages = stages or Stages()
    motion = natural_motion(MOVEMENT, int(seconds * RATE), RATE)
    values = np.tile(person(SPEAKER), (len(motion), 1))
    values[:, MOTION_COLUMNS] = motion
    with tempfile.TemporaryDirectory() as folder:
        sound = Path(folder) / "sound.wav"
        write_sound(sound, murmur(motion[:, MOTION.index("jaw")], RATE))
        with VideoWriter(path, RATE, audio_from=sound) as writer:
            for frame in stages.count(values):
                writer.write(draw(frame, SIZE).image)
            writer.finish()


def demo(
    *,
    out: str | Path,
    draw: bool = False,
    device: Device = "auto",
    overwrite: bool = False,
    stages: Stages | None = None,
) -> dict[str, Any]:
    """Make the demonstration clips: driving.mp4, drive.mp4 (source, driving and result side by side) and sheet.png.

    Args:
        out: folder for the files; created if needed.
        draw: draw the driving clip anew instead of copying the one in the package.
        device: where the networks run; auto takes a GPU if there is one.
        overwrite: also replace files that an earlier run did not make.
        stages: clock to use, for watching the progress.

    Returns:
        The record of the drive, with all `files`.

    Raises:
        MediaError: the folder cannot be written.
    """
    out, stages = Path(out), stages or Stages()
    driving, result, sheet = out / "driving.mp4", out / "drive.mp4", out / "sheet.png"
    about, log = driving.with_suffix(".json"), result.with_suffix(".json")
    claim([driving, about, result, log, sheet], overwrite=overwrite)
    with stages("world clip"):
        if draw:
            speaker_clip(driving, stages=stages)
        else:
            with replacing(driving) as partial:
                shutil.copyfile(CLIP, partial)
        write_record(driving, {"seeds": {"person": SPEAKER, "movement": MOVEMENT}, "files": [driving, about]})
    record = drive(
        "stylemask",
        source=str(SOURCE),
        driving=str(driving),
        out=str(result),
        compare=True,
        device=device,
        overwrite=True,
        stages=stages,
    )
    with stages("contact sheet"):
        frames = [frame for index, frame in enumerate(VideoReader(result)) if index % 9 == 4]
        save_picture(sheet, contact_sheet(frames[:10], 2))
    record |= stages.facts()
    record["files"] = [*record["files"], sheet]
    write_record(result, record)
    return record | {"files": [driving, about, *record["files"]]}


def lines(record: Mapping[str, Any]) -> Iterator[str]:
    """What the terminal shows of a record."""
    yield f"An invented person (seed {SPEAKER}) speaks for {SECONDS} seconds; that clip drives person {SOURCE}."
    yield "drive.mp4 shows, from left to right: source, driving clip, result."
    yield from result_lines(record)
