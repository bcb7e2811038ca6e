"""Do lips and sound go together? The offset of two tracks of the mouth, and SyncNet's distance and confidence.

A clip whose true mouth is known, as every result of the world's family has it, can be compared with that exactly;
`syncnet` measures any clip with sound, given its weights.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from stylereel.media.sound import waveform
from stylereel.metrics.clips import Clip
from stylereel.metrics.faces import landmarks_of, mouth_opening, track_of
from stylereel.metrics.features import official
from stylereel.metrics.registry import Net, Unfit, measure
from stylereel.metrics.syncnet import REACH, SOUND_RATE, Sync, SyncNet, face_crops, lip_sync


class Offset(NamedTuple):
    """frames: by how much the result is late (early if negative); correlation: of the tracks once it is undone."""

    frames: int
    correlation: float


def best_offset(result: np.ndarray, truth: np.ndarray, reach: int = REACH) -> Offset:
    """The whole number of frames, up to `reach`, at which two tracks [T] correlate best; of equals the smallest.

    Raises ValueError as `all_offsets`.
    """
    return max(all_offsets(result, truth, reach), key=lambda offset: offset.correlation)


def all_offsets(result: np.ndarray, truth: np.ndarray, reach: int = REACH) -> list[Offset]:
    """The correlations of two tracks [T] at all offsets up to `reach` at which they have one, the smallest first.

    Raises ValueError when the tracks differ in length, are too short, or one of them is constant.
    """
    frames = len(truth)
    if len(result) != frames or frames < 2 * reach:  # half of them overlap at every offset
        raise ValueError(f"An offset needs two tracks of one length, {2 * reach} frames or more.")
    if min(np.ptp(result), np.ptp(truth)) < 1e-9:
        raise ValueError("A constant track has no offset; give clips in which the mouth moves.")
    found = []
    for late in sorted(range(-reach, reach + 1), key=abs):
        a, b = result[max(late, 0) : frames + min(late, 0)], truth[max(-late, 0) : frames - max(late, 0)]
        if min(np.ptp(a), np.ptp(b)) > 1e-9:
            found.append(Offset(late, float(np.corrcoef(a, b)[0, 1])))
    return found


def _mouths(result: Clip, reference: Clip) -> Offset:
    ours, theirs = mouth_opening(track_of(result).landmarks), mouth_opening(landmarks_of(reference))
    try:
        return best_offset(ours, theirs)
    except ValueError as error:
        raise Unfit(str(error)) from None


_MOUTH = (
    "Opening between the inner lips over the distance of the eyes, by dlib's landmarks, of the reference by exact ones "
    f"where it has them; the whole number of frames up to {REACH} with the best Pearson correlation"
)


@measure(
    "mouth-offset", compares="frame pairs", better="neither", unit="frames", source="defined here",
    protocol=f"{_MOUTH}: that number, positive if the result is late.",
)  # fmt: skip
def mouth_offset(result: Clip, reference: Clip) -> float:
    return _mouths(result, reference).frames


@measure(
    "mouth-offset-correlation", compares="frame pairs", better="higher", unit="", source="defined here",
    protocol=f"{_MOUTH}: that correlation.",
)  # fmt: skip
def mouth_offset_correlation(result: Clip, reference: Clip) -> float:
    return _mouths(result, reference).correlation


# --- SyncNet


def _file() -> Net:
    return Net("syncnet_v2", official("syncnet_v2.model"))


def _sync_of(clip: Clip, device: str) -> Sync:
    path = clip.sound
    if path is None:
        raise Unfit(f"{clip.name} has no sound; lip sync needs a clip with a sound track.")

    def measured() -> Sync:
        sound = np.clip(np.round(32768 * waveform(path, SOUND_RATE)), -32768, 32767)
        return lip_sync(SyncNet.load(_file().file).to(device), face_crops(clip), sound)

    return clip.keep("lip sync", measured)


_SYNC = "25 frames a second by the nearest in time, crops around dlib's landmarks, 16 kHz, offsets up to 15 frames"


@measure(
    "lse-d", compares="clip", better="lower", unit="", net=_file,
    protocol=f"SyncNet's least mean distance: {_SYNC}.",
    source="Chung and Zisserman 2016; Prajwal et al. 2020",
)  # fmt: skip
def lse_d(result: Clip, *, device: str = "cpu") -> float:
    return _sync_of(result, device).distance


@measure(
    "lse-c", compares="clip", better="higher", unit="", net=_file,
    protocol=f"SyncNet's median minus least mean distance: {_SYNC}.",
    source="Chung and Zisserman 2016; Prajwal et al. 2020",
)  # fmt: skip
def lse_c(result: Clip, *, device: str = "cpu") -> float:
    return _sync_of(result, device).confidence
