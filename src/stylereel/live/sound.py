"""Live sound: a microphone, or a file at its own speed, whose voice moves the lips."""

from __future__ import annotations

import importlib
import os
import sys
import threading
import time
import wave
from collections import deque
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import IO, Any

import av
import numpy as np
from av.error import FFmpegError
from scipy.signal import resample_poly

from stylereel.core.files import MediaError
from stylereel.core.latents import Motion
from stylereel.family.lips import MOOD, SMILE
from stylereel.family.voice import LOOK_AHEAD, MOMENTS, Ear, VoiceNet
from stylereel.live.meter import Mark, Meter
from stylereel.live.newest import Newest
from stylereel.media.clip import sound_index
from stylereel.media.sound import read_sound
from stylereel.world.speech import MOUTH, RATE

TOGETHER = 2  # moments that are heard at once: half the work of one by one, for 25 ms
PIECE = 0.02  # seconds of sound that are taken at once
WORK = 0.03  # seconds that hearing may take
LATENCY = LOOK_AHEAD + (TOGETHER - 1) / MOMENTS + PIECE + WORK  # seconds from a sound to its mouth, before it is drawn
MICROPHONE_RATE = 48000  # samples a second
_STALE = 0.5  # seconds after its latency from which what was heard counts no more
_WAITING = 200  # pieces of a microphone or file, of about 20 ms, that may wait to be heard
_KEPT = 4.0  # seconds of moments that are remembered
_QUIET = 0.2  # seconds without a pushed piece after which its listener looks whether it is to end

Piece = tuple[float, np.ndarray]  # when its first sample was taken, and samples float32 [N] at 16 kHz


class SoundFile:
    """A file that is heard at its own speed. Raises MediaError where it has no sound."""

    def __init__(self, path: str | Path) -> None:
        if sound_index(path) is None:
            raise MediaError(f"{path} has no sound; give a file with sound.")
        self.path = Path(path)
        self.begun: float | None = None  # when its first sample was heard

    def pieces(self, stop: threading.Event) -> Iterator[Piece]:
        """What is heard, by `time.monotonic`, until the file ends or `stop` is set."""
        self.begun, count = time.monotonic(), 0
        for samples in read_sound(self.path, RATE):
            for begin in range(0, len(samples), round(PIECE * RATE)):
                piece = samples[begin : begin + round(PIECE * RATE)]
                count += len(piece)
                early = self.begun + count / RATE - time.monotonic()
                if early > 0:
                    stop.wait(early)
                if stop.is_set():
                    return
                yield self.begun + (count - len(piece)) / RATE, piece


class Microphone:
    """The microphone of this machine, by PortAudio (sounddevice), else by FFmpeg's devices of this operating system
    (Linux: ALSA; macOS: AVFoundation; Windows: DirectShow, by its name). What it hears is kept in a WAV file for a
    recording.

    Args:
        name: its name there; default is the system's own.
        kept: a file opened for writing in binary, or None.
        open_: what opens it instead: pieces float32 [N] at 48 kHz as they come, empty ones now and then where none do.
    """

    def __init__(
        self,
        name: str = "default",
        kept: IO[bytes] | None = None,
        open_: Callable[[], Iterator[np.ndarray]] | None = None,
    ) -> None:
        self.begun: float | None = None
        self.kept, self._open = kept, open_ or (lambda: _microphone(name))

    @property
    def path(self) -> Path | None:
        """The file in which it is kept."""
        return None if self.kept is None else Path(self.kept.name)

    def pieces(self, stop: threading.Event) -> Iterator[Piece]:
        """See `SoundFile.pieces`. Raises MediaError if there is no such microphone, or it goes away."""
        count = 0
        with wave.open(self.kept, "wb") if self.kept is not None else _Nowhere() as file:
            file.setnchannels(1)
            file.setsampwidth(2)
            file.setframerate(MICROPHONE_RATE)
            for samples in self._open():
                if stop.is_set():
                    return
                if not len(samples):
                    continue
                now = time.monotonic() - len(samples) / MICROPHONE_RATE
                self.begun = now if self.begun is None else self.begun
                # Where the device lost something, or its clock runs slow, silence keeps the file in step.
                lost = round((now - self.begun) * MICROPHONE_RATE) - count
                if lost > MICROPHONE_RATE // 10:
                    file.writeframes(bytes(2 * lost))
                    count += lost
                file.writeframes((samples.clip(-1, 1) * 32767).astype("<i2").tobytes())
                count += len(samples)
                yield now, resample_poly(samples, 1, MICROPHONE_RATE // RATE).astype(np.float32)


class PushedSound(Microphone):
    """A microphone elsewhere, such as a browser's, whose samples somebody brings, from any thread."""

    def __init__(self) -> None:
        super().__init__(open_=self._coming)
        self._pieces = Newest[np.ndarray](_WAITING)
        self._rate, self._resampler = 0, av.AudioResampler("flt", "mono", MICROPHONE_RATE)

    def push(self, samples: np.ndarray, rate: int) -> None:
        """Samples int16 [N] of one channel have come, so many a second."""
        if rate != self._rate:
            self._rate, self._resampler = rate, av.AudioResampler("flt", "mono", MICROPHONE_RATE)
        frame = av.AudioFrame.from_ndarray(samples[None], "s16", "mono")
        frame.sample_rate = rate
        for part in self._resampler.resample(frame):
            self._pieces.put(part.to_ndarray()[0])

    def end(self) -> None:
        """No more come."""
        self._pieces.end()

    def _coming(self) -> Iterator[np.ndarray]:
        while not self._pieces.ended:
            piece = self._pieces.take(_QUIET)
            yield np.zeros(0, np.float32) if piece is None else piece


Sound = SoundFile | Microphone


class _Nowhere:
    """A WAV file that nobody wants."""

    def __enter__(self) -> _Nowhere:
        return self

    def __exit__(self, *error: object) -> None: ...
    def setnchannels(self, count: int) -> None: ...
    def setsampwidth(self, count: int) -> None: ...
    def setframerate(self, rate: int) -> None: ...
    def writeframes(self, data: bytes) -> None: ...


def _microphone(name: str) -> Iterator[np.ndarray]:
    """By PortAudio where sounddevice is installed, else by FFmpeg's devices."""
    try:
        sounddevice: Any = importlib.import_module("sounddevice")
    except (ImportError, OSError):  # OSError: without PortAudio
        yield from _by_ffmpeg(name)
        return
    wanted = None if name == "default" else int(name) if name.isdecimal() else name
    try:
        with sounddevice.InputStream(MICROPHONE_RATE, MICROPHONE_RATE // 50, wanted, 1, "float32") as stream:
            while True:
                yield stream.read(MICROPHONE_RATE // 50)[0][:, 0].copy()
    except (sounddevice.PortAudioError, ValueError) as error:
        raise _silent(name, str(error)) from error


def _by_ffmpeg(name: str) -> Iterator[np.ndarray]:
    if sys.platform == "darwin":
        place, form = f":{name}", "avfoundation"
    elif sys.platform == "win32":
        place, form = f"audio={name}", "dshow"
    else:
        place, form = name, "alsa"
        os.environ.setdefault("ALSA_CONFIG_PATH", "/usr/share/alsa/alsa.conf")  # PyAV's own ALSA looks elsewhere
    try:
        with av.open(place, format=form, timeout=(10.0, 5.0)) as container:
            resampler = av.AudioResampler("fltp", "mono", MICROPHONE_RATE)
            for frame in container.decode(audio=0):
                for part in resampler.resample(frame):
                    yield part.to_ndarray()[0]
    except (FFmpegError, OSError, ValueError) as error:
        raise _silent(name, getattr(error, "strerror", None) or str(error)) from error


def _silent(name: str, reason: str) -> MediaError:
    return MediaError(
        f"The microphone {name} gives no sound ({' '.join(reason.split())}); run `pip install sounddevice`, or give "
        "its name, or a file with sound."
    )


class Lips:
    """Puts what a voice says onto a motion of kind "face": a mouth is `LATENCY` behind its sound at most.

    As `family.lips.with_lips`, but causal: jaw, pucker, press and funnel are the sound's, the smile of speech is added
    to what of the motion's own is slow. In silence, and where nothing is heard any more, the mouth is closed.

    net: what hears; None leaves lips as they are, and the sound is there for a recording alone. alive: values [T, 20]
    of a head that moves by itself, there and back, where no camera says what it does.
    """

    def __init__(self, sound: Sound, net: VoiceNet | None, alive: np.ndarray | None = None) -> None:
        self.sound, self._alive = sound, alive
        self._ear, self._lock = None if net is None else Ear(net, TOGETHER), threading.Lock()
        self._heard: deque[tuple[float, np.ndarray]] = deque(maxlen=round(_KEPT * MOMENTS))
        self._pieces = Newest[Piece](_WAITING)
        self._mood: float | None = None
        self._before = 0.0

    @property
    def follow(self) -> bool:
        """Whether the lips follow the sound."""
        return self._ear is not None

    @property
    def begun(self) -> float | None:
        """When the sound begins in what is shown; None before it has begun."""
        return None if self.sound.begun is None else self.sound.begun + (LATENCY if self.follow else 0.0)

    def capture(self, stop: threading.Event) -> None:
        """Take the sound as it comes, until it ends; for a thread of its own."""
        for piece in self.sound.pieces(stop):
            self._pieces.put(piece)
        self._pieces.end()

    def listen(self, meter: Meter) -> None:
        """Hear what is taken; for another thread. What is late is heard together, which takes less time."""
        begun: float | None = None
        samples = moments = 0
        while (piece := self._pieces.take()) is not None:
            taken = [piece]
            while len(self._pieces) and (piece := self._pieces.take()) is not None:
                taken.append(piece)
            if self._ear is None:
                continue
            begun = taken[0][0] if begun is None else begun
            parts: list[np.ndarray] = []
            for when, part in taken:
                lost = round((when - begun) * RATE) - samples
                if lost > RATE // 10:  # silence keeps what comes later at its time
                    part = np.concatenate([np.zeros(lost, np.float32), part])
                samples += len(part)
                parts.append(part)
            mark = Mark()
            mouths = self._ear.hear(np.concatenate(parts)).mouth
            if len(mouths):
                meter.stage("hear", mark)
            with self._lock:
                self._heard.extend((begun + (moments + index) / MOMENTS, each) for index, each in enumerate(mouths))
            moments += len(mouths)

    def mouth(self, when: float) -> np.ndarray:
        """The mouth [5] in 0..1, order of `speech.MOUTH`, to be shown at a time: that of `LATENCY` earlier."""
        with self._lock:
            if not self._heard or when - self._heard[-1][0] > LATENCY + _STALE:
                return np.zeros(len(MOUTH), np.float32)
            times, mouths = zip(*self._heard)
        return np.array([np.interp(when - LATENCY, times, each) for each in np.stack(mouths, axis=1)], np.float32)

    def put_on(self, motion: Motion, when: float) -> Motion:
        """A motion of one frame with the lips of its time."""
        if not self.follow:
            return motion
        values, mouth = motion.values.copy(), dict(zip(MOUTH, self.mouth(when)))
        if self._alive is not None:
            last = len(self._alive) - 1
            index = last - abs(round(when * float(motion.rate)) % (2 * last) - last)
            values[0], motion = self._alive[index], replace(motion, missing=())
        smile = float(values[0, motion.names.index("smile")])
        part = 1 - np.exp(-max(0.0, when - self._before) / MOOD)
        self._mood = smile if self._mood is None else self._mood + part * (smile - self._mood)
        self._before = when
        mouth["smile"] = self._mood + SMILE * mouth["smile"]
        for name, value in mouth.items():
            values[0, motion.names.index(name)] = value
        return replace(motion, values=values)
