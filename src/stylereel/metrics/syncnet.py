"""SyncNet: the distance between lips and sound by its own protocol, on weights that the user downloads.

Chung and Zisserman, "Out of time: automated lip sync in the wild" (2016): one tower looks at five frames of a face, the
other hears 0.2 s of sound; both give 1024 numbers, close where the two belong together. Prajwal et al. (Wav2Lip, 2020)
read from it a distance, LSE-D, and a confidence, LSE-C. The published weights are syncnet_v2.model.
"""

from __future__ import annotations

from fractions import Fraction
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
import torch.nn.functional as F
from scipy.fft import dct
from scipy.ndimage import median_filter
from torch import Tensor, nn

from stylereel.faces.backend import box_around
from stylereel.faces.placement import cut
from stylereel.metrics.clips import Clip
from stylereel.metrics.faces import track_of
from stylereel.metrics.features import load_state
from stylereel.zoo.configs import mapping
from stylereel.zoo.unpickle import unpickle

RATE = Fraction(25)  # frames a second that SyncNet knows
SOUND_RATE = 16000
REACH = 15  # frames to either side in which offsets are looked for
WINDOW = 5  # frames that SyncNet sees at once; 20 rows of MFCC
SIZE = 224


# --- What it sees and hears


def at_rate(num_frames: int, rate: Fraction, target: Fraction = RATE) -> np.ndarray:
    """Which frames a clip shows at another rate: the nearest in time, later of two; nothing is blended.

    Returns indices [T'], for T' = num_frames * target / rate rounded.
    """
    step = Fraction(rate) / target
    count = max(1, int(num_frames / step + Fraction(1, 2)))
    return np.array([min(num_frames - 1, int(k * step + Fraction(1, 2))) for k in range(count)])


def mfcc(sound: np.ndarray) -> np.ndarray:
    """Mel-frequency cepstral coefficients [T, 13] of sound [N] at 16 kHz in the range of int16, 100 rows a second.

    As SyncNet was trained: pre-emphasis 0.97; windows of 25 ms every 10 ms without a taper, the last filled up with
    zeros; power spectrum over 512 points, divided by 512; 26 triangles from 0 to 8 kHz, evenly spaced in
    2595 log10(1 + f / 700) and moved down to whole points of 513 f / 16 kHz; logarithm, orthonormal DCT-II, the first
    13, sine lifter of length 22; the first is replaced by the logarithm of the window's energy.
    """
    sound = np.asarray(sound, np.float64)
    if not len(sound):
        raise ValueError("There is no sound to listen to; give at least one sample.")
    sound = np.append(sound[0], sound[1:] - 0.97 * sound[:-1])
    length, step, points = 400, 160, 512
    count = 1 + max(0, -(-(len(sound) - length) // step))
    sound = np.pad(sound, (0, max(0, (count - 1) * step + length - len(sound))))
    windows = np.lib.stride_tricks.sliding_window_view(sound, length)[::step][:count]
    power = np.abs(np.fft.rfft(windows, points)) ** 2 / points
    energy = np.log(np.where(power.sum(1) > 0, power.sum(1), np.finfo(float).eps))
    bands = power @ _triangles(points).T
    bands = np.log(np.where(bands > 0, bands, np.finfo(float).eps))
    rows = np.asarray(dct(bands, type=2, norm="ortho"))[:, :13]
    rows *= 1 + 11 * np.sin(np.pi * np.arange(13) / 22)
    rows[:, 0] = energy
    return rows


def _triangles(points: int) -> np.ndarray:
    highest = 2595 * np.log10(1 + SOUND_RATE / 2 / 700)
    hertz = 700 * (10 ** (np.linspace(0, highest, 28) / 2595) - 1)
    low, middle, high = (np.floor((points + 1) * hertz / SOUND_RATE)[i : i + 26, None] for i in range(3))
    k = np.arange(points // 2 + 1)
    rising, falling = (k - low) / (middle - low), (high - k) / (high - middle)
    return np.clip(np.minimum(rising, falling), 0, None)


def face_crops(clip: Clip) -> np.ndarray:
    """Crops [T', 224, 224, 3] uint8 of the face at 25 frames a second, as SyncNet's own tool cuts them.

    With half the side b of a box around the face, the crop reaches from b above its centre to 1.8 b below and 1.4 b to
    the left and right; boxes are smoothed by a median over 13 frames. The box, S3FD's there, is here that of dlib's
    landmarks, grown to reach from the forehead to the chin as S3FD's do.
    """
    track = track_of(clip)
    kept = at_rate(len(track.landmarks), track.rate)
    boxes = np.array([box_around(points).placement for points in track.landmarks[kept]])
    boxes = median_filter(boxes, size=(13, 1), mode="nearest")
    half = 1.17 * boxes[:, 2] / 2
    squares = np.stack([boxes[:, 0], boxes[:, 1] + 0.4 * half, 2.8 * half, np.zeros(len(half))], axis=1)
    crops = np.empty((len(kept), SIZE, SIZE, 3), np.uint8)
    for index, frame in enumerate(clip):
        for k in np.flatnonzero(kept == index):
            crops[k] = cut(frame, squares[k], SIZE)
    return crops


# --- The network


def _sound_tower() -> nn.Sequential:
    def layer(inputs: int, outputs: int, kernel: tuple[int, int] = (3, 3), padding: int = 1) -> list[nn.Module]:
        return [nn.Conv2d(inputs, outputs, kernel, 1, padding), nn.BatchNorm2d(outputs), nn.ReLU()]

    return nn.Sequential(
        *layer(1, 64), nn.MaxPool2d(1),
        *layer(64, 192), nn.MaxPool2d(3, (1, 2)),
        *layer(192, 384), *layer(384, 256), *layer(256, 256), nn.MaxPool2d(3, 2),
        *layer(256, 512, (5, 4), 0),
    )  # fmt: skip


def _lip_tower() -> nn.Sequential:
    """Only the first layer looks across time, so that a long clip goes through at once."""

    def layer(inputs: int, outputs: int, frames: int, size: int, stride: int, padding: int) -> list[nn.Module]:
        sizes = (frames, size, size), (1, stride, stride), (0, padding, padding)
        return [nn.Conv3d(inputs, outputs, *sizes), nn.BatchNorm3d(outputs), nn.ReLU()]

    def pool(padding: int) -> nn.Module:
        return nn.MaxPool3d((1, 3, 3), (1, 2, 2), (0, padding, padding))

    return nn.Sequential(
        *layer(3, 96, WINDOW, 7, 2, 0), pool(0),
        *layer(96, 256, 1, 5, 2, 1), pool(1),
        *layer(256, 256, 1, 3, 1, 1), *layer(256, 256, 1, 3, 1, 1), *layer(256, 256, 1, 3, 1, 1), pool(0),
        *layer(256, 512, 1, 6, 1, 0),
    )  # fmt: skip


def _linear() -> nn.Sequential:
    return nn.Sequential(nn.Linear(512, 512), nn.BatchNorm1d(512), nn.ReLU(), nn.Linear(512, 1024))


class SyncNet(nn.Module):
    """The two towers of SyncNet, with the names of syncnet_v2.model."""

    def __init__(self) -> None:
        super().__init__()
        self.netcnnaud, self.netfcaud = _sound_tower(), _linear()
        self.netcnnlip, self.netfclip = _lip_tower(), _linear()

    @classmethod
    def load(cls, path: str | Path) -> SyncNet:
        """The network of a state dict on disk, for use; nothing in the file is run.

        Raises ValueError for a damaged file or one of another network.
        """
        net = cls()
        load_state(net, Path(path), mapping(unpickle(path)))
        return net

    def hear(self, rows: Tensor) -> Tensor:
        """MFCC [B, 1, 13, 20] to embeddings [B, 1024]."""
        return self.netfcaud(self.netcnnaud(rows).flatten(1))

    def see(self, frames: Tensor) -> Tensor:
        """Crops [B, 3, T, 224, 224], BGR, 0 to 255, to embeddings [B * (T - 4), 1024] of every five frames in a row."""
        return self.netfclip(self.netcnnlip(frames).flatten(2).transpose(1, 2).flatten(0, 1))


class Sync(NamedTuple):
    """distance: LSE-D, lower is better; confidence: LSE-C, higher is better; offset: frames the video is late."""

    distance: float
    confidence: float
    offset: int


def sync(lips: Tensor, sounds: Tensor) -> Sync:
    """Distance and confidence of embeddings [N, 1024] of the video and the sound at each frame.

    For every offset up to 15 frames the mean distance over all frames, with zeros beyond the sound's ends as in the
    authors' tool; distance is the least of these, confidence their median minus the least.
    """
    padded = F.pad(sounds, (0, 0, REACH, REACH))
    count = len(lips)
    far = torch.stack([F.pairwise_distance(lips, padded[k : k + count]).mean() for k in range(2 * REACH + 1)])
    least = int(far.argmin())
    return Sync(float(far[least]), float(far.median() - far[least]), REACH - least)


@torch.inference_mode()
def lip_sync(net: SyncNet, crops: np.ndarray, sound: np.ndarray) -> Sync:
    """`sync` of crops [T, 224, 224, 3] RGB at 25 frames a second and sound [N] at 16 kHz in the range of int16.

    Raises ValueError when there are fewer than 6 frames of both.
    """
    count = min(len(crops), len(sound) // 640) - WINDOW
    if count < 1:
        raise ValueError("Lip sync shows over 6 frames with sound or more; give a longer clip.")
    device = next(net.parameters()).device
    rows = torch.from_numpy(mfcc(sound).T).float().to(device)
    heard = net.hear(torch.stack([rows[None, :, 4 * i : 4 * i + 20] for i in range(count)]))
    lip_parts = []
    for begin in range(0, count, 16):
        part = crops[begin : min(begin + 16, count) + WINDOW - 1, :, :, ::-1].copy()
        lip_parts.append(net.see(torch.from_numpy(part).permute(3, 0, 1, 2)[None].float().to(device)))
    return sync(torch.cat(lip_parts).cpu(), heard.cpu())
