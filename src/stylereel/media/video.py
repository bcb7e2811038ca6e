"""Reading clips as frames of an exact constant rate; `VideoWriter` writes them."""

from __future__ import annotations

import copy
import math
import os
from collections.abc import Iterator
from fractions import Fraction
from pathlib import Path

import numpy as np
from scipy.optimize import isotonic_regression

from stylereel.core.files import MediaError, require_file
from stylereel.media.animation import Animation, Folder, open_animation
from stylereel.media.clip import Clip
from stylereel.media.writer import VideoWriter

__all__ = ["VideoReader", "VideoWriter"]

NTSC = [Fraction(number, 1001) for number in (24000, 30000, 48000, 60000, 120000)]
MOST_HELD = 100  # shown frames for each frame of an uneven clip, at most, in the mean
STANDARD_RATES = [*map(Fraction, (12, 15, 24, 25, 30, 48, 50, 60, 100, 120)), *NTSC]


class VideoReader:
    """A clip as a repeatable stream of frames at a constant rate: each iteration decodes it anew, in constant memory.

    Takes video files, animated GIF, PNG and WebP, and folders of numbered images of one size. Gives uint8 RGB
    [H, W, 3], upright as the file's rotation says, with square pixels, transparent parts over white, all of the first
    frame's size; 10 bits are rounded to 8, and HDR (PQ, HLG) is tone mapped to BT.709 by FFmpeg's scaler.

    A clip is constant if every frame begins nearer to its own tick of a constant rate than to another; then frames out
    are frames in. Any other clip is resampled by the rule *hold*: each tick of the constant rate shows the newest frame
    that has begun. Each frame begins at a tick of its own, at most one from its time: none is lost, and the sound stays
    in step. The rate is the first at which that is possible, of: those that the file names, if its median step
    bears them out; that of its usual step; the standard rates above. At none of them, or at a `rate` that is asked for,
    frames begin at the first tick that is less than half a frame early, and some are never shown.

    Attributes:
        path: the file or folder.
        rate: frames per second as an exact fraction, 30000/1001 for 29.97.
        timing: "constant", or a sentence that says how the frames were resampled, for records.
        colours: "BT.709", or how HDR was mapped to it, for records.
        num_frames: how many frames iterating gives. Of frames that the decoder leaves out of a damaged stream without
            an index, the ones before or after are shown.
        width, height: pixels of the frames given.
        has_audio: whether there is sound.
        start: when the first frame given is shown in the file, seconds as an exact fraction; 0 but for a `part`.

    Args:
        path: the file or folder.
        rate: frames per second to give: for a folder its own rate (25 if None), for any other clip one that it is
            resampled to unless it has it already.

    Raises:
        MediaError: the file is missing, empty, no video, or without a single frame, or it would need more than
            MOST_HELD frames for each that it has (and 10,000), as when a time is wrong; while iterating: it breaks off,
            by a decoding error or by fewer frames than promised.
    """

    def __init__(self, path: str | Path, rate: Fraction | None = None) -> None:
        self.path = Path(path)
        if rate is not None and rate <= 0:
            raise ValueError(f"A clip has more than 0 frames a second, not {rate}.")
        self._clip: Clip | Animation | Folder
        if os.path.isdir(self.path):  # unlike Path.is_dir, no error for a name too long
            self._clip = Folder(self.path, Fraction(rate or 25))
        else:
            self._clip = open_animation(require_file(self.path)) or Clip(self.path)
        clip = self._clip
        self.width, self.height, self.has_audio = clip.width, clip.height, clip.has_audio
        self.colours = f"HDR ({clip.hdr}), tone mapped to BT.709" if clip.hdr else "BT.709"
        self.timing = "constant"
        self._first = 0  # of the file's frames at the constant rate, for a part
        self._shown: np.ndarray | None = None  # the clip's frame for each frame given, if they differ
        self.num_frames = max(clip.promised or 0, len(clip.ticks))
        for candidate in [Fraction(rate)] if rate else self._rates():
            self.rate = candidate
            if np.array_equal(self._places(candidate), np.arange(len(clip.ticks))):
                return
        if rate:
            self._hold(Fraction(rate), self._places(Fraction(rate)))
        else:
            self._fit()

    def _rates(self) -> list[Fraction]:
        """Rates that the clip may have, to be tried in this order."""
        clip = self._clip
        if len(clip.ticks) < 2:
            return [*clip.rates, Fraction(25)][:1]
        steps, length = len(clip.ticks) - 1, int(clip.ticks[-1]) * clip.time_base
        standard = min(STANDARD_RATES, key=lambda each: abs(each - steps / length))
        late = abs(steps / standard - length)
        near = late <= max(clip.time_base, length / 100)  # the file's clock rounds, and times of showing jitter
        even = not self._rates_in_file() and np.ptp(np.diff(clip.ticks)) <= 1
        return [*clip.rates[:1], *([standard] if near else []), *([steps / length] if even else [])]

    def _rates_in_file(self) -> list[Fraction]:
        """The rates that the file names and that its usual step between frames bears out."""
        base, step = self._clip.time_base, self._median_step()
        return [rate for rate in self._clip.rates if abs(1 / rate - step) <= max(base, step / 20)]

    def _median_step(self) -> Fraction:
        steps = np.sort(np.diff(self._clip.ticks))
        return int(steps[len(steps) // 2]) * self._clip.time_base

    def _median_rate(self) -> Fraction:
        steps = np.diff(self._clip.ticks)
        usual = steps[np.abs(steps - np.median(steps)) <= 1]  # 16 and 17 ms take turns at 60 a second
        rate = len(usual) / (int(usual.sum()) * self._clip.time_base)
        near = min(STANDARD_RATES, key=lambda each: abs(each - rate))
        return near if abs(near - rate) < rate / 200 else rate

    def _places(self, rate: Fraction) -> np.ndarray:
        """The first tick of `rate` at which each frame of the clip has begun, int64 [T], in exact arithmetic."""
        ticks, scale = self._clip.ticks, self._clip.time_base * rate
        early = Fraction(1, 2) if len(ticks) < 2 else min(Fraction(1), self._median_step() * rate) / 2
        denominator = math.lcm(scale.denominator, early.denominator)
        return -((int(early * denominator) - ticks * int(scale * denominator)) // denominator)

    def _fit(self) -> None:
        """Take the first rate at which each frame has a tick of its own, at most one tick from where it begins."""
        ticks, base, median = self._clip.ticks, self._clip.time_base, self._median_rate()
        rates = [*self._rates_in_file(), median, *sorted(rate for rate in STANDARD_RATES if rate > median)]
        for rate in rates:
            places = ticks * float(base * rate)
            late = isotonic_regression(places - np.arange(len(ticks))).x
            own = np.arange(len(ticks)) + np.round(np.maximum(late, 0)).astype(np.int64)
            if np.abs(own - places).max() <= 1:
                return self._hold(rate, own, int(own[-1]) + 1)
        return self._hold(rates[0], self._places(rates[0]))

    def _hold(self, rate: Fraction, places: np.ndarray, least: int = 1) -> None:
        """Give the newest frame that has begun at each of `least` ticks or more; frame i begins at tick places[i]."""
        self.rate, self.num_frames = rate, max(least, round(self._clip.end * self._clip.time_base * rate))
        if self.num_frames > max(MOST_HELD * len(places), 10_000):
            raise MediaError(
                f"{self.path} has {len(places)} frames but would need {self.num_frames} at {float(rate):g} a second; "
                "a time in it is wrong: cut it, or encode it at a constant rate."
            )
        self._shown = np.searchsorted(places, np.arange(self.num_frames), "right") - 1
        if np.array_equal(self._shown, np.arange(len(places))):
            return
        self.timing = f"{len(places)} frames resampled to {self.num_frames} at {rate} frames a second by hold"
        if lost := len(places) - len(np.unique(self._shown)):
            self.timing += f", {lost} of them never shown"

    @property
    def start(self) -> Fraction:
        return self._first / self.rate

    def part(self, first: int, count: int) -> VideoReader:
        """The same clip with `count` frames from index `first` on alone; sound belongs to it from `start` on.

        Raises:
            ValueError: there are no such frames.
        """
        self._require(first, count)
        other = copy.copy(self)
        other._first, other.num_frames = self._first + first, count
        return other

    def __iter__(self) -> Iterator[np.ndarray]:
        return self.frames(0, self.num_frames)

    def frames(self, start: int, count: int) -> Iterator[np.ndarray]:
        """`count` frames from index `start` on, the same frames that iterating gives.

        Decoding begins at the nearest key frame before, where the file stores its times (mp4, mov, mkv, webm, ts).

        Raises:
            ValueError: there are no such frames.
        """
        self._require(start, count)
        return self._between(self._first + start, count)

    def _require(self, start: int, count: int) -> None:
        if not 0 <= start <= start + count <= self.num_frames:
            raise ValueError(f"{self.path} has frames 0 to {self.num_frames - 1}, not {start} to {start + count - 1}.")

    def _between(self, start: int, count: int) -> Iterator[np.ndarray]:
        if not count:
            return
        indices = np.arange(start, start + count) if self._shown is None else self._shown[start : start + count]
        frames = self._clip.frames(int(indices[0]))
        have, frame = next(frames)
        for index in indices:
            while have < index:
                have, frame = next(frames, (len(self._clip.ticks), frame))
            yield frame
