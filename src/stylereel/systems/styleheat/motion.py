"""The motion that drives: factors of the world, or 73 numbers of Deep3D, in windows of 27 frames.

In the built-in family a frame of the window has 40 numbers: the 20 factors of what is to be shown, and those that the
source shows itself. The authors' window holds the first alone, and the network has to see the others in the image; that
takes it hundreds of thousands of steps to learn.
"""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import torch
from torch import Tensor

from stylereel import world
from stylereel.core.latents import Motion
from stylereel.media.mel import RATE, mel_spectrogram, styleheat_windows
from stylereel.systems.styleheat.networks import MEL_BANDS, MEL_COLUMNS, RADIUS
from stylereel.world.factors import MOTION, MOTION_COLUMNS

COUNT = len(MOTION)
INPUTS = 2 * COUNT
FIRST_INPUTS = 32  # of warpers that were trained when a motion had 16 factors, the first of today's
SOUND = tuple(f"sound {i}" for i in range(MEL_BANDS * MEL_COLUMNS))  # columns of a motion with what is heard
_ALIGNED = [MOTION.index(name) for name in ("shift_x", "shift_y", "scale")]
_LOW, _HIGH = world.LOW[MOTION_COLUMNS], world.HIGH[MOTION_COLUMNS]


def coordinates(motion: np.ndarray) -> np.ndarray:
    """Motion factors [..., 20] in units of half their range around its middle, -1..1.

    Shift and scale are 0: the built-in generator's faces are aligned, where these follow from the pose.
    """
    unit = (np.clip(motion, _LOW, _HIGH) - (_HIGH + _LOW) / 2) / ((_HIGH - _LOW) / 2)
    unit[..., _ALIGNED] = 0
    return unit.astype(np.float32)


def in_factors(difference: np.ndarray) -> np.ndarray:
    """Differences of coordinates [..., 20] as differences of motion factors."""
    return difference * (_HIGH - _LOW) / 2


def windows(values: np.ndarray) -> Tensor:
    """The window [T, K, 27] of each frame of a track [T, K]: 13 frames to either side, the ends repeated."""
    reach = np.arange(-RADIUS, RADIUS + 1)
    places = np.clip(np.arange(len(values))[:, None] + reach, 0, len(values) - 1)
    return torch.from_numpy(np.ascontiguousarray(values[places].transpose(0, 2, 1), np.float32))


def beside_own(window: Tensor, own: np.ndarray) -> Tensor:
    """Windows [B, 40, 27] of windows [B, 20, 27] and of the coordinates [B or 1, 20] that the source shows itself."""
    still = torch.from_numpy(np.asarray(own, np.float32)).to(window)[:, :, None]
    return torch.cat([window, still.expand(len(window), -1, window.shape[2])], dim=1)


def with_sound(motion: Motion, samples: np.ndarray) -> Motion:
    """A motion with what the audio warper hears at each frame, of samples [N] at 16 kHz that begin with it; after the
    end there is silence."""
    needed = int((len(motion) / motion.rate + 1) * RATE)
    sound = np.pad(samples[:needed].astype(np.float32), (0, max(0, needed - len(samples))))
    heard = styleheat_windows(mel_spectrogram(torch.from_numpy(sound)), len(motion), motion.rate)
    plain, _ = sound_of(motion)
    values = np.concatenate([plain.values, heard.flatten(1).numpy()], axis=1).astype(np.float32)
    return replace(plain, values=values, names=(*plain.names, *SOUND))


def sound_of(motion: Motion) -> tuple[Motion, Tensor | None]:
    """A motion without what is heard, and that: [T, 80, 32], or None."""
    if SOUND[0] not in motion.names:
        return motion, None
    first = motion.names.index(SOUND[0])
    heard = torch.from_numpy(np.ascontiguousarray(motion.values[:, first : first + len(SOUND)], np.float32))
    rest = [i for i in range(len(motion.names)) if not first <= i < first + len(SOUND)]
    plain = replace(motion, values=motion.values[:, rest], names=tuple(motion.names[i] for i in rest))
    return plain, heard.view(len(motion), MEL_BANDS, MEL_COLUMNS)
