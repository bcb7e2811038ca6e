"""Training data of the sound half: talking people of the world, with the sound of what their mouths say.

Two kinds. `Talk`: the lower half of a face, frame after frame, and its sound, for SyncNet. `Triples`: the paper's
synthesised triples. (a) is the source, (c) the target, and the proxy (b) is (a) with the pose of (c) and an expression
of its own, which the video warper makes of it; so from (b) to (c) nothing moves but the mouth, as the sound says.
"""

from __future__ import annotations

import warnings
from fractions import Fraction
from functools import lru_cache
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from stylereel import world
from stylereel.core.files import MediaError
from stylereel.core.prefetch import WHOLE, Share
from stylereel.faces import backend, placement
from stylereel.family.lips import SMILE
from stylereel.family.people import GROUPS, mixed_latents, mixed_values
from stylereel.media.mel import FFT, mel_spectrogram, styleheat_windows, wav2lip_windows
from stylereel.media.sound import waveform
from stylereel.metrics.clips import open_clips
from stylereel.metrics.syncnet import at_rate
from stylereel.recipes.voice import SECONDS, crop
from stylereel.recipes.voices import Said, say_many
from stylereel.systems.styleheat.expert import FRAMES, HEIGHT, WIDTH
from stylereel.systems.styleheat.guide import guide, mean_head
from stylereel.systems.styleheat.motion import beside_own, coordinates
from stylereel.systems.styleheat.networks import RADIUS
from stylereel.systems.styleheat.pairs import FACING, TRUE_SIZE, window_around
from stylereel.world.factors import MOTION, MOTION_COLUMNS, POSE
from stylereel.world.speech import MOUTH, RATE, Phoneme, mouth

FPS = Fraction(25)
SEED, HELD_OUT = 74, 75
UTTERANCES = 200  # that are said once and cut and disturbed anew for each run
TALK = 25  # frames of a talk
MARGIN = 0.3  # seconds of a sound, at either end, in which no run begins
ROWS = slice(64, 64 + HEIGHT)  # of an aligned portrait of 128 px, what SyncNet sees
COLUMNS = slice(16, 16 + WIDTH)
_POSE = GROUPS.index("pose")
_MOUTH = [MOTION.index(name) for name in MOUTH]


class Talk(NamedTuple):
    """faces: uint8 [N, 25, 3, 48, 96], what SyncNet sees at 25 frames a second; mel: [N, 25, 80, 16], the sound that
    begins with each frame."""

    faces: Tensor
    mel: Tensor


class Triples(NamedTuple):
    """B sources, each in a run of F = 5 frames.

    source: latents [B, 4, 80]; window: [B, F, 40, 27] of the proxy's motion, see `motion`; guide: [B, F, 9, 64, 64] of
    it; motion: factors [B, F, M] of the targets; mel: [B, F, 80, 32], what the audio warper hears; heard: [B, 80, 16],
    what SyncNet hears; landmarks: [B, F, 68, 2] of the targets, 0..1; truth: uint8 [B, F, 3, 128, 128], these as the
    world draws them.
    """

    source: Tensor
    window: Tensor
    guide: Tensor
    motion: Tensor
    mel: Tensor
    heard: Tensor
    before: Tensor
    landmarks: Tensor
    truth: Tensor


@lru_cache(2)
def _utterances(seed: int) -> list[Said]:
    return list(say_many((SEED, seed), UTTERANCES))


def hear(seed: int, random: np.random.Generator) -> tuple[Tensor, list[Phoneme]]:
    """The mel spectrogram of some seconds of speech, and its phonemes."""
    sound, track = crop(_utterances(seed), random)
    return mel_spectrogram(torch.from_numpy(np.asarray(sound, np.float32))), track


def _begin(frames: int, random: np.random.Generator) -> int:
    """The first of so many frames."""
    return int(random.integers(int(MARGIN * FPS), int((SECONDS - MARGIN) * FPS) - frames))


def speaking(motion: np.ndarray, said: np.ndarray) -> np.ndarray:
    """Motion factors [T, M] with a mouth [T, 5] that speaks, as `family.lips.with_lips` does it."""
    values = motion.copy()
    smile = MOTION.index("smile")
    mood = values[:, smile] + SMILE * said[:, MOUTH.index("smile")]
    values[:, _MOUTH] = said
    values[:, smile] = mood
    return np.clip(values, world.LOW[MOTION_COLUMNS], world.HIGH[MOTION_COLUMNS])


def moved_to(person: np.ndarray, motion: np.ndarray) -> np.ndarray:
    """A person's factors [T, K] in each motion [T, M], from factors [K]."""
    values = np.tile(person, (len(motion), 1))
    values[:, MOTION_COLUMNS] = motion
    return world.align(values)


def _show(person: np.ndarray, motion: np.ndarray) -> list[world.Portrait]:
    """The portraits of these."""
    return [world.draw(each, TRUE_SIZE) for each in moved_to(person, motion)]


def see(images: Tensor) -> Tensor:
    """What SyncNet sees [B, 15, 48, 96] of aligned portraits [B * 5, 3, 128, 128] in [-1, 1], five frames in a row."""
    faces = (images[..., ROWS, COLUMNS] + 1) / 2
    return faces.reshape(len(images) // FRAMES, 3 * FRAMES, HEIGHT, WIDTH)


def draw_talks(index: int, count: int, share: Share = WHOLE, seed: int = SEED) -> Talk:
    """People who say something while their head moves."""
    faces, mels = [], []
    for number in range(count)[share[0] :: share[1]]:
        random = np.random.default_rng((seed, 1, index, number))
        mel, track = hear(seed, random)
        first = _begin(TALK, random)
        (person,) = world.align(mixed_values(mixed_latents((seed, 2, index, number), 1, 0.5)))
        motion = window_around(person[MOTION_COLUMNS], random)[1 : 1 + TALK]
        motion = speaking(motion, mouth(track, (first + np.arange(TALK)) / float(FPS)))
        images = torch.from_numpy(np.stack([each.image for each in _show(person, motion)])).permute(0, 3, 1, 2)
        faces.append(images[..., ROWS, COLUMNS].contiguous())
        mels.append(wav2lip_windows(mel, first + TALK, FPS)[first:])
    return Talk(torch.stack(faces), torch.stack(mels))


def read_talks(folder: str | Path) -> Talk:
    """The talks in clips with sound, cut as the built-in family's portraits are, at 25 frames a second.

    Raises ValueError (MediaError) if none of them has sound and a face for a second.
    """
    faces, mels = [], []
    for clip in open_clips(folder):
        if clip.sound is None:
            continue
        try:
            track = backend.track(clip, clip.rate)
            sound = waveform(clip.sound, RATE)
        except ValueError as error:
            warnings.warn(f"{clip.name} is left out: {error}", stacklevel=2)
            continue
        kept = at_rate(len(track.landmarks), clip.rate)
        crops = np.empty((len(kept), 3, HEIGHT, WIDTH), np.uint8)
        for index, frame in enumerate(clip):
            for place in np.flatnonzero(kept == index):
                whole = placement.cut(frame, placement.align(track.landmarks[index]), TRUE_SIZE)
                crops[place] = whole[ROWS, COLUMNS].transpose(2, 0, 1)
        if len(sound) <= FFT:
            continue
        mel = wav2lip_windows(mel_spectrogram(torch.from_numpy(sound)), len(kept), FPS)
        for first in range(0, len(kept) - TALK + 1, TALK):
            if track.found[kept[first : first + TALK]].all():
                faces.append(torch.from_numpy(crops[first : first + TALK]))
                mels.append(mel[first : first + TALK])
    if not faces:
        raise MediaError(f"{folder} has no clip with sound in which a face is seen for a second; give others.")
    return Talk(torch.stack(faces), torch.stack(mels))


def turned_people(
    key: tuple[int, ...], count: int, random: np.random.Generator
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Latents [N, 4, 80] of people, and their factors [N, K] in their own pose and in what is another's by chance."""
    source, other = (mixed_latents((*key, each), count, 0.5) for each in range(2))
    turned = source.copy()
    turning = random.random(count) >= FACING
    turned[turning, _POSE] = other[turning, _POSE]
    before, after = (world.align(mixed_values(z)) for z in (source, turned))
    return source, before, after


def draw_triples(index: int, count: int, share: Share = WHOLE, seed: int = SEED) -> Triples:
    """The triples of step `index`, or this process's share of them."""
    source, before, after = turned_people((seed, 4, index), count, np.random.default_rng((seed, 3, index)))
    rows = []
    for number in range(count)[share[0] :: share[1]]:
        own, person = before[number, MOTION_COLUMNS], before[number]
        one = np.random.default_rng((seed, 5, index, number))
        mel, track = hear(seed, one)
        first = _begin(FRAMES, one)
        reach = RADIUS + FRAMES // 2
        proxy = window_around(after[number, MOTION_COLUMNS], one, reach)
        proxy[:, len(POSE) :] = own[len(POSE) :]
        run = slice(RADIUS, RADIUS + FRAMES)
        target = speaking(proxy[run], mouth(track, (first + np.arange(FRAMES)) / float(FPS)))
        head = mean_head(own)
        window = np.stack([coordinates(proxy[k : k + 2 * RADIUS + 1]).T for k in range(FRAMES)])
        shown = _show(person, target)
        rows.append(
            Triples(
                torch.from_numpy(source[number]).float(),
                beside_own(torch.from_numpy(window), coordinates(own)[None]),
                torch.stack([guide(head, values) for values in proxy[run]]),
                torch.from_numpy(target).float(),
                styleheat_windows(mel, first + FRAMES, FPS)[first:],
                wav2lip_windows(mel, first + 1, FPS)[first],
                torch.from_numpy(
                    np.stack([world.project_landmarks(v)[0] for v in moved_to(person, proxy[run])])
                ).float(),
                torch.from_numpy(np.stack([each.landmarks for each in shown])).float(),
                torch.from_numpy(np.stack([each.image for each in shown])).permute(0, 3, 1, 2).contiguous(),
            )
        )
    return Triples(*(torch.stack(each) for each in zip(*rows, strict=True)))
