"""What a mouth does when a sound is heard: the built-in net from sound to the world's mouth, for any voice.

The sound is a mel spectrogram (`media.mel`: 80 bands, 80 columns a second); `VoiceNet` turns it into the five factors
of the world's own speech, 40 times a second, and names the phoneme besides. It is causal but for `LOOK_AHEAD` seconds
and remembers `memory` seconds, so that sound of any length is read in pieces, live too, with the same result.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from stylereel.core.weights import config_of, load_module
from stylereel.media.mel import COLUMNS_PER_SECOND, FFT, HOP, LIMIT, RATE, mel_spectrogram
from stylereel.world.alignment import is_long
from stylereel.world.speech import MOUTH, SOUNDS, Phoneme

KIND = "voice"
PHONES = tuple(SOUNDS)  # the last is silence
STRIDE = 2  # columns between two moments
MOMENTS = COLUMNS_PER_SECOND // STRIDE  # a second
DELAY = 6  # moments that a mouth is behind the newest sound that it depends on
AT_ONCE = 10 * MOMENTS  # moments that are computed together, at most
LOOK_AHEAD = DELAY / MOMENTS + FFT / 2 / RATE  # seconds: 0.175


@dataclass(frozen=True)
class VoiceConfig:
    """width: channels; dilations: of the blocks, in moments."""

    width: int = 160
    dilations: tuple[int, ...] = (1, 2, 4, 8, 16, 1, 2, 4, 8)


class _Block(nn.Module):
    """A causal convolution over three moments and a mix of channels, around a shortcut."""

    def __init__(self, width: int, dilation: int) -> None:
        super().__init__()
        self.reach = 2 * dilation
        self.conv = nn.Conv1d(width, width, 3, dilation=dilation)
        self.mix = nn.Conv1d(width, width, 1)

    def forward(self, x: Tensor) -> Tensor:
        return x + self.mix(F.silu(self.conv(F.pad(F.silu(x), (self.reach, 0)))))


class Heard(NamedTuple):
    """mouth: [B, 5, T] in 0..1, order of `speech.MOUTH`; phones: [B, 40, T] scores (logits), order of `PHONES`."""

    mouth: Tensor
    phones: Tensor


class VoiceNet(nn.Module):
    """Mel spectrogram to mouth and phonemes, by causal dilated convolutions (as in WaveNet, van den Oord et al. 2016).

    There is no normalisation: loudness and noise are learned.
    """

    def __init__(self, config: VoiceConfig | None = None) -> None:
        super().__init__()
        self.config = config or VoiceConfig()
        width = self.config.width
        self.front = nn.Conv1d(80, width, 5, stride=STRIDE)
        self.blocks = nn.ModuleList(_Block(width, dilation) for dilation in self.config.dilations)
        self.mouth = nn.Conv1d(width, len(MOUTH), 1)
        self.phones = nn.Conv1d(width, len(PHONES), 1)

    @property
    def memory(self) -> int:
        """Columns before the newest one that a moment depends on."""
        return 4 + STRIDE * sum(2 * dilation for dilation in self.config.dilations)

    def forward(self, mel: Tensor) -> Heard:
        """[B, 80, columns] in [-4, 4] to T = columns / 2 moments.

        Moment i has heard the columns up to 2 i and tells of the time of column 2 (i - DELAY).
        """
        x = self.front(F.pad(mel, (4, 0), value=-LIMIT) / 2)
        for block in self.blocks:
            x = block(x)
        x = F.silu(x)
        return Heard(self.mouth(x).sigmoid() * 1.1 - 0.05, self.phones(x))


def load_voice(path: str | Path) -> VoiceNet:
    """The net of a file, ready for use."""
    return load_module(path, KIND, lambda config: VoiceNet(config_of(VoiceConfig, config))).eval()


class Moments(NamedTuple):
    """What was heard at some moments, `MOMENTS` a second: mouth [n, 5] float32 in 0..1, order of `speech.MOUTH`;
    phones [n] uint8, the likeliest of `PHONES`; speech [n] float32, how likely any but silence is."""

    mouth: np.ndarray
    phones: np.ndarray
    speech: np.ndarray


class Ear:
    """A net that hears sound in pieces of any lengths, in bounded memory; what it hears comes out as soon as it can.

    at_once: moments that are computed together, at least; few for live sound. It changes nothing but speed and delay.
    """

    def __init__(self, net: VoiceNet, at_once: int = AT_ONCE) -> None:
        self._net, self._at_once = net, at_once
        # Columns before those that are needed: the net's memory, and those at the edge, which see mirrored sound.
        self._before = net.memory + 2 * FFT // HOP
        self._span = self._before * HOP + (at_once - 1) * STRIDE * HOP + FFT // 2  # samples
        self._kept = np.zeros(self._before * HOP, np.float32)  # silence comes before
        self._next = 0  # the next moment of the net
        self.num_samples = 0

    def hear(self, samples: np.ndarray) -> Moments:
        """What is known after samples [N] float32 at 16 kHz and was not before.

        All that come out, one after the other, are the moments at 0, 1/40, 2/40 ... seconds of the sound.
        """
        self._kept = np.concatenate([self._kept, samples])
        self.num_samples += len(samples)
        found = [_nothing()]
        while len(self._kept) >= self._span:
            more = (len(self._kept) - self._span) // (STRIDE * HOP)  # who is late catches up
            count = self._at_once + min(more, max(0, AT_ONCE - self._at_once))
            found.append(self._read(self._kept[: self._span + (count - self._at_once) * STRIDE * HOP], count))
            self._kept = self._kept[count * STRIDE * HOP :]
        return joined(found)

    def end(self) -> Moments:
        """The moments that are left, up to one past the end at least; silence comes after."""
        count, found = self.num_samples, [_nothing()]
        while self._next <= -(-count // (STRIDE * HOP)) + 1 + DELAY:
            found.append(self.hear(np.zeros(self._at_once * STRIDE * HOP, np.float32)))
        self.num_samples = count
        return joined(found)

    @torch.inference_mode()
    def _read(self, samples: np.ndarray, count: int) -> Moments:
        mel = mel_spectrogram(torch.from_numpy(samples))[None].to(self._net.mouth.weight)
        heard = self._net(mel[..., : self._before + STRIDE * (count - 1) + 1])
        first, self._next = self._next, self._next + count
        new = slice(heard.mouth.shape[-1] - count + min(count, max(0, DELAY - first)), None)
        phones = heard.phones[0, :, new].float()
        silence = phones.softmax(0)[PHONES.index("_")]
        mouth = heard.mouth[0, :, new].T.float().clamp(0, 1)
        return Moments(mouth.cpu().numpy(), phones.argmax(0).byte().cpu().numpy(), 1 - silence.cpu().numpy())


def _nothing() -> Moments:
    return Moments(np.zeros((0, len(MOUTH)), np.float32), np.zeros(0, np.uint8), np.zeros(0, np.float32))


def joined(parts: Sequence[Moments]) -> Moments:
    """Moments in a row."""
    return Moments(*(np.concatenate(each) for each in zip(*parts)))


class Hearing(NamedTuple):
    """A sound that was listened to: its moments, and how many samples at 16 kHz it has."""

    moments: Moments
    num_samples: int

    def mouth(self, rate: Fraction, num_frames: int | None = None) -> np.ndarray:
        """The mouth [T, 5] float32 in 0..1, order of `speech.MOUTH`, at t / rate seconds for frame t.

        Between two moments it follows a straight line. T is `num_frames`, after the sound's end closed; by default as
        many as begin before it.
        """
        count = self.num_frames(rate)
        place = np.arange(count) * float(MOMENTS / Fraction(rate))
        columns = [np.interp(place, np.arange(len(self.moments.mouth)), each) for each in self.moments.mouth.T]
        shown = np.stack(columns, axis=1)[:num_frames].astype(np.float32)
        return np.pad(shown, ((0, max(0, (num_frames or 0) - count)), (0, 0)))

    def num_frames(self, rate: Fraction) -> int:
        """How many frames begin before the sound ends."""
        return math.ceil(Fraction(self.num_samples, RATE) * Fraction(rate))

    @property
    def phonemes(self) -> list[Phoneme]:
        """The phonemes as they were heard, without gaps."""
        phones = self.moments.phones
        cuts = np.flatnonzero(np.diff(phones)) + 1
        edges = [0, *cuts.tolist(), len(phones)]
        step = RATE // MOMENTS
        named = [(PHONES[phones[low]], low * step, high * step) for low, high in zip(edges, edges[1:]) if high > low]
        return [Phoneme(name, start, end, is_long(name, end - start)) for name, start, end in named]

    @property
    def speaking(self) -> float:
        """Share of the time in which there is speech."""
        return float(np.mean(self.moments.speech > 0.5)) if len(self.moments.speech) else 0.0


def listen(net: VoiceNet, pieces: Iterable[np.ndarray]) -> Hearing:
    """Listen to a sound in pieces [N] float32 at 16 kHz, of any lengths; takes the memory of what is heard alone."""
    ear = Ear(net)
    moments = joined([*map(ear.hear, pieces), ear.end()])
    count = -(-ear.num_samples // (STRIDE * HOP)) + 1  # one past the end, which the last frame lies before
    return Hearing(Moments(*(each[:count] for each in moments)), ear.num_samples)
