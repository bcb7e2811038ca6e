"""Mel spectrograms as the lip-sync networks take them: Wav2Lip's settings, and the windows of two systems on them.

Wav2Lip (Prajwal et al. 2020) and StyleHEAT (Yin et al. 2022) share one spectrogram: 80 bands at 16 kHz, 80 columns a
second. They differ in the window that belongs to a video frame: 16 columns from the frame on, or 32 that begin four
frames earlier.
"""

from __future__ import annotations

import math
from fractions import Fraction
from functools import cache

import torch
from torch import Tensor
from torch.nn.functional import pad

RATE = 16000  # samples a second
FFT = 800  # samples, and the length of the Hann window
HOP = 200  # samples
BANDS = 80
LOWEST, HIGHEST = 55.0, 7600.0  # hertz
PRE_EMPHASIS = 0.97
REFERENCE, FLOOR = 20.0, -100.0  # decibels
LIMIT = 4.0  # values end at -4 and 4
COLUMNS_PER_SECOND = RATE // HOP


def mel_spectrogram(samples: Tensor) -> Tensor:
    """Mel spectrogram in decibels, scaled to [-4, 4]: float32 [80, 1 + N // 200] of samples [N] in [-1, 1] at 16 kHz.

    Column t is centred on sample 200 t; beyond the ends the samples are mirrored. Amplitudes, not powers, are summed by
    triangles of equal area on Slaney's mel scale.

    Raises:
        ValueError: fewer than 401 samples, which cannot be mirrored, or not a vector.
    """
    if samples.ndim != 1 or len(samples) <= FFT // 2:
        raise ValueError(f"A mel spectrogram takes a vector of more than {FFT // 2} samples, not {[*samples.shape]}.")
    samples = samples.double()  # quiet bands are 100 dB below loud ones
    emphasised = samples - PRE_EMPHASIS * pad(samples[:-1], (1, 0))
    window = torch.hann_window(FFT, dtype=torch.float64, device=samples.device)
    spectrum = torch.stft(emphasised, FFT, HOP, window=window, center=True, pad_mode="reflect", return_complex=True)
    bands = mel_bands().to(samples.device) @ spectrum.abs()
    decibels = 20 * torch.log10(bands.clamp(min=10 ** (FLOOR / 20))) - REFERENCE
    return (2 * LIMIT * (decibels - FLOOR) / -FLOOR - LIMIT).clamp(-LIMIT, LIMIT).float()


@cache
def mel_bands() -> Tensor:
    """Weights [80, 401] of the FFT's bins in each band: triangles of area 1 hertz (Slaney, Auditory Toolbox 1998)."""
    ends = _to_mel(torch.tensor([LOWEST, HIGHEST], dtype=torch.float64))
    corners = _to_hertz(torch.linspace(float(ends[0]), float(ends[1]), BANDS + 2, dtype=torch.float64))
    bins = torch.linspace(0, RATE / 2, FFT // 2 + 1, dtype=torch.float64)
    left, middle, right = (corners[i : i + BANDS, None] for i in range(3))
    triangles = torch.minimum((bins - left) / (middle - left), (right - bins) / (right - middle)).clamp(min=0)
    return triangles * 2 / (right - left)


# Slaney's scale: 15 mel a kilohertz up to 1 kHz, then 27 mel for a factor of 6.4.


def _to_mel(hertz: Tensor) -> Tensor:
    above = 15 + 27 * torch.log(hertz / 1000) / math.log(6.4)
    return torch.where(hertz < 1000, hertz * 15 / 1000, above)


def _to_hertz(mel: Tensor) -> Tensor:
    return torch.where(mel < 15, mel * 1000 / 15, 1000 * 6.4 ** ((mel - 15) / 27))


def wav2lip_windows(mel: Tensor, num_frames: int, rate: Fraction) -> Tensor:
    """The 16 columns (0.2 s) that begin with each video frame: [num_frames, 80, 16]; Wav2Lip and its SyncNet."""
    return _windows(mel, num_frames, rate, length=16, delay=0)


def styleheat_windows(mel: Tensor, num_frames: int, rate: Fraction) -> Tensor:
    """The 32 columns (0.4 s) that begin 4 frames before each video frame, at 0 earliest: [num_frames, 80, 32]."""
    return _windows(mel, num_frames, rate, length=32, delay=4)


def _windows(mel: Tensor, num_frames: int, rate: Fraction, length: int, delay: int) -> Tensor:
    """Columns int(80 max(0, f - delay) / rate) and following for each frame f; the last column is repeated."""
    columns_per_frame = COLUMNS_PER_SECOND / Fraction(rate)
    starts = torch.tensor([int(columns_per_frame * max(0, frame - delay)) for frame in range(num_frames)])
    columns = (starts[:, None] + torch.arange(length)).clamp(max=mel.shape[1] - 1).to(mel.device)
    return mel[:, columns].transpose(0, 1)
