"""Recipe of the net from sound to mouth: many voices, whose phonemes the world's mouth says exactly.

The target of every voice is what the world's mouth does for its phonemes (`world.speech.mouth`), so a foreign voice
teaches as exactly as the world's own. Sounds are made once, as a pool of crops; each step takes some of them and
changes loudness and colour, which in a mel spectrogram are additions.
"""

from __future__ import annotations

from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
import torch.nn.functional as F
from scipy.signal import resample_poly
from torch import Tensor

from stylereel.core.files import replacing
from stylereel.core.prefetch import WHOLE, Prefetch, Share
from stylereel.family.voice import DELAY, MOMENTS, PHONES, VoiceNet, load_voice
from stylereel.media.mel import LIMIT, mel_spectrogram
from stylereel.recipes.run import Run, makes
from stylereel.recipes.voices import Said, disturb, music, say_many, synthesisers
from stylereel.train.loop import Average, Trainer, cosine
from stylereel.train.optimizers import muon_and_adam
from stylereel.world.speech import RATE, Phoneme, mouth

SECONDS = 4  # of a crop
CROPS, UTTERANCES = 6000, 3000
STEPS, BATCH, LR = 4000, 24, 1e-3
FASTER = (0.78, 1.3)  # by playing faster, which makes a voice higher, too
NO_SPEECH = 0.06  # share of crops with music or noise alone
FACTOR_WEIGHTS = (2.0, 1.0, 1.5, 0.7, 1.0)  # jaw, pucker, press, smile, funnel
PHONE_WEIGHT = 0.1
CLOSED_WEIGHT = 3.0  # of the moments of p, b and m
DB = 2 * LIMIT / 100  # of a mel spectrogram


class Crop(NamedTuple):
    """mel [B, 80, columns] float16; mouth [B, 5, moments] float16; phones [B, moments] uint8, as heard: DELAY late."""

    mel: Tensor
    mouth: Tensor
    phones: Tensor


def labels(track: list[Phoneme], moments: int) -> tuple[np.ndarray, np.ndarray]:
    """The mouth [5, T] and the number of the phoneme [T] at the times of which the first `moments` of a net tell."""
    seconds = (np.arange(moments) - DELAY) / MOMENTS
    ends = np.array([phoneme.end for phoneme in track]) / RATE
    which = np.minimum(np.searchsorted(ends, seconds, side="right"), len(track) - 1)
    names = np.array([PHONES.index(phoneme.name) for phoneme in track])
    silent = (seconds < 0) | (seconds >= ends[-1])
    return mouth(track, seconds).T, np.where(silent, PHONES.index("_"), names[which])


def crop(said: list[Said], random: np.random.Generator) -> tuple[np.ndarray, list[Phoneme]]:
    """`SECONDS` of sound that begin somewhere in speech with pauses, and its phonemes."""
    count = SECONDS * RATE
    if random.random() < NO_SPEECH:
        sound = np.zeros(count) if random.random() < 0.3 else 0.2 * music(count, random)
        return disturb(sound + 1e-4 * random.standard_normal(count), random), [Phoneme("_", 0, count)]
    sounds: list[np.ndarray] = []
    track: list[Phoneme] = []
    begin = now = -int(random.uniform(-0.3, 3) * RATE)
    while now < count:
        one = said[int(random.integers(len(said)))]
        samples, scale = one.samples, 1.0
        if one.voice != "own":
            faster = int(random.uniform(*FASTER) * 40)
            samples, scale = resample_poly(samples, 40, faster), 40 / faster
        samples = samples * random.uniform(0.5, 1) / (np.abs(samples).max() + 1e-6)
        gap = int(min(random.gamma(1.2, 0.35), 2.5) * RATE)
        sounds += [samples, np.zeros(gap)]
        track += [
            Phoneme(p.name, now + round(p.start * scale), now + round(p.end * scale), p.stressed) for p in one.phonemes
        ]
        track.append(Phoneme("_", now + len(samples), now + len(samples) + gap))
        now += len(samples) + gap
    sound = np.concatenate([np.zeros(max(0, begin)), *sounds])[max(0, -begin) :][:count]
    kept = [Phoneme(p.name, max(p.start, 0), p.end, p.stressed) for p in track if p.end > 0 and p.start < count + RATE]
    before = [Phoneme("_", 0, kept[0].start)] if kept[0].start > 0 else []
    return disturb(sound, random), before + kept


def pool(path: Path, trainer: Trainer, seed: int) -> Crop:
    """All crops, from the file if an earlier run has made it."""
    count, utterances = max(2 * BATCH, trainer.steps(CROPS)), max(16, trainer.steps(UTTERANCES))
    if path.exists():
        with np.load(path) as kept:
            return Crop(*(torch.from_numpy(kept[name]) for name in Crop._fields))
    said = list(say_many((83, seed), utterances))
    mels, mouths, phones = [], [], []
    for index in range(count):
        sound, track = crop(said, np.random.default_rng((84, seed, index)))
        mel = mel_spectrogram(torch.from_numpy(sound))[:, : 2 * SECONDS * MOMENTS]
        shown, named = labels(track, SECONDS * MOMENTS)
        mels.append(mel.half())
        mouths.append(torch.from_numpy(shown).half())
        phones.append(torch.from_numpy(named).to(torch.uint8))
    made = Crop(torch.stack(mels), torch.stack(mouths), torch.stack(phones))
    if trainer.share[0] == 0:
        with replacing(path) as partial, partial.open("wb") as file:
            np.savez(file, **{name: value.numpy() for name, value in made._asdict().items()})
    return made


def draw(crops: Crop, index: int, share: Share = WHOLE) -> Crop:
    """The batch of a step: random crops, louder or softer, with another colour, sometimes with bands missing."""
    random = np.random.default_rng((85, index))
    rows = torch.from_numpy(random.integers(len(crops.mel), size=BATCH))[share[0] :: share[1]]
    count = len(rows)
    mel = crops.mel[rows].float()
    gain = torch.from_numpy(random.uniform(-12, 8, (BATCH, 1, 1))[share[0] :: share[1]])
    curve = torch.from_numpy(random.normal(0, 4, (BATCH, 1, 5))[share[0] :: share[1]])
    curve = F.interpolate(curve, 80, mode="linear", align_corners=True).mT
    mel = (mel + (DB * (gain + curve)).float()).clamp(-LIMIT, LIMIT)
    for row in range(count):
        if random.random() < 0.3:
            low = int(random.integers(0, 76))
            mel[row, low : low + int(random.integers(2, 14))] = -LIMIT
    return Crop(mel, crops.mouth[rows].float(), crops.phones[rows].long())


def train_voice(trainer: Trainer, crops: Crop, start: VoiceNet | None = None) -> VoiceNet:
    """Train the net on a pool of crops."""
    torch.manual_seed(3)
    model, average = start or VoiceNet(), VoiceNet()
    optimizers = muon_and_adam(model, LR)
    steps, share = trainer.steps(STEPS), trainer.share
    batches = Prefetch(lambda index: draw(crops, index, share), trainer.to_device)
    ema = Average(model, average, 0.995)
    weights = torch.tensor(FACTOR_WEIGHTS, device=trainer.device)[:, None]
    closing = torch.tensor([PHONES.index(name) for name in "PBM"], device=trainer.device)

    def step(index: int) -> dict[str, Tensor]:
        batch = batches(index)
        with trainer.autocast():
            heard = model(batch.mel)
        errors = heard.mouth.float() - batch.mouth
        losses = weights * F.smooth_l1_loss(errors, torch.zeros_like(errors), beta=0.05, reduction="none")
        distance = torch.where(torch.isin(batch.phones, closing)[:, None], CLOSED_WEIGHT * losses, losses).mean()
        phones = F.cross_entropy(heard.phones.float(), batch.phones)
        trainer.descend(10 * distance + PHONE_WEIGHT * phones, optimizers.values(), 5.0, model)
        ema.update(index)
        right = (heard.phones.argmax(1) == batch.phones).float().mean()
        return {"distance": distance, "jaw": errors[:, 0].abs().mean(), "phones": phones, "named": right}

    trainer.fit(
        "voice",
        {"model": model, "average": average},
        optimizers,
        step,
        steps,
        batch=BATCH,
        schedule=lambda index: cosine(index, steps),
    )
    return average


@makes("voice")
def recipe(run: Run, *, seed: int = 0) -> list[Path]:
    """Train the net that moves the mouth by sound, on all voices that this machine has.

    The world's own voice is always there; eSpeak NG, Flite and hibari (with PocketSphinx) are used where installed.

    Args:
        seed: random seed of the speech; a run that goes on from weights learns more from another one.
    """
    run.claim("voice")
    path = run.first("voice")
    crops = pool(run.folder / f"voice-pool-{seed}.npz", run.trainer, seed)
    net = train_voice(run.trainer, crops, None if path is None else load_voice(path))
    data = f"speech of the synthesisers {', '.join(synthesisers())} with its phonemes' mouths; no recordings of people"
    return run.save({"voice": net}, data)
