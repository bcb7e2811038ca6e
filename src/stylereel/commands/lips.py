"""What `drive` needs to move lips by sound: what is heard in a file, and other systems' motion as that of a face."""

from __future__ import annotations

from collections.abc import Iterator
from fractions import Fraction
from typing import Any, Literal, NamedTuple, Protocol, cast, get_args

import numpy as np
import torch
from scipy.signal import resample_poly

from stylereel import systems
from stylereel.commands.rendering import RenderOptions
from stylereel.core.builtin import builtin
from stylereel.core.files import MediaError
from stylereel.core.latents import FACE, Motion
from stylereel.core.system import System, device_of
from stylereel.family.lips import alive, part_of_sound, there_and_back, with_lips
from stylereel.family.nets import load_face
from stylereel.family.voice import Hearing, listen, load_voice
from stylereel.media.sound import read_sound
from stylereel.world.factors import HIGH, LOW, MOTION, MOTION_COLUMNS
from stylereel.world.speech import RATE

Lips = Literal["auto", "sound", "driving"]
AT_REST = Fraction(25)  # frames a second where no clip has a rate
FEW = 0.02  # share of the time below which nobody speaks
_TOGETHER = 16  # frames rendered and read at a time


class Lipped(NamedTuple):
    """A motion whose lips follow a sound, and what the record says of it."""

    motion: Motion
    facts: dict[str, Any]


def follow_sound(lips: Lips, system: System, options: RenderOptions, alone: bool) -> bool:
    """Whether the lips follow a sound; `alone` says that no clip or motion drives the rest.

    Raises ValueError for a value that is none of `Lips`, and where they must but cannot.
    """
    if lips not in get_args(Lips):
        raise ValueError(f"--lips takes one of {', '.join(get_args(Lips))}, not {lips}.")
    if lips == "sound" and alone and options.audio is None:
        raise ValueError("--lips sound needs one; give --audio, or --driving a clip with sound.")
    able = FACE in system.motion_kinds
    if lips == "sound" and not able:
        kinds = ", ".join(map(str, system.motion_kinds))
        raise ValueError(
            f"{system.name} is moved by {kinds} here and not by a face's factors, so its lips cannot follow a sound."
        )
    return lips == "sound" or (lips == "auto" and options.audio is not None and able)


class Mouth(Protocol):
    """A system that can move the mouth by sound with a network of its own, if `audio` is one."""

    audio: Any

    def with_sound(self, motion: Motion, samples: np.ndarray) -> Motion: ...


def by_own_network(system: System, sound: str | np.ndarray, start: Fraction, found: Lipped) -> Lipped:
    """What is lipped, with the mouth left to the system's own network for sound where it has one."""
    if getattr(system, "audio", None) is None:
        return found
    motion = found.motion
    pieces = [*_pieces(sound, start, len(motion) / motion.rate)]
    samples = np.concatenate(pieces) if pieces else np.zeros(0, np.float32)
    return Lipped(cast(Mouth, system).with_sound(motion, samples), found.facts | {"by": "the audio warper"})


def _pieces(sound: str | np.ndarray, start: Fraction, seconds: Fraction | None) -> Iterator[np.ndarray]:
    if isinstance(sound, str):
        return part_of_sound(read_sound(sound, RATE), start, seconds)
    return part_of_sound([resample_poly(sound, 1, 3).astype(np.float32)], Fraction(0), seconds)


def hear(sound: str | np.ndarray, start: Fraction, seconds: Fraction | None) -> Hearing:
    """What the built-in net hears in a file from `start` seconds on, or in samples [N] at 48 kHz that begin there.

    Raises MediaError where there is no sound.
    """
    hearing = listen(load_voice(builtin("voice")), _pieces(sound, start, seconds))
    if not hearing.num_samples:
        name = sound if isinstance(sound, str) else "The talk file"
        raise MediaError(f"{name} has no sound from {float(start):g} s on; begin earlier or give a file with sound.")
    return hearing


def alive_by(sound: str, options: RenderOptions, movement: int) -> Lipped:
    """The motion of a head that a sound alone moves, by the seed `movement`."""
    rate = options.rate or AT_REST
    length = options.length(rate)
    hearing = hear(sound, options.begin, None if length is None else length / rate)
    facts = _facts(hearing) | {"length": "of the sound", "rest": f"movement {movement}"}
    return Lipped(alive(hearing, rate, movement), facts)


def lipped(
    sound: str | np.ndarray, motion: Motion, options: RenderOptions, start: Fraction, keep_length: bool
) -> Lipped:
    """A motion of kind "face" whose lips follow a sound from `start` seconds on.

    keep_length: the result has the frames of the motion, whatever the sound's length.
    """
    length = options.length(motion.rate)
    hearing = hear(sound, start, None if length is None else length / (options.rate or motion.rate))
    facts = _facts(hearing) | {"motion seconds": round(float(len(motion) / motion.rate), 3), "rest": "driving"}
    if keep_length:
        rule = "of the driving clip: sound beyond it is cut, and after the sound the mouth is closed"
    else:
        count = hearing.num_frames(motion.rate)
        rule = "of the sound: the motion goes there and back" if count > len(motion) else "of the sound"
        motion = there_and_back(motion, count)
    return Lipped(with_lips(motion, hearing), facts | {"length": rule})


def _facts(hearing: Hearing) -> dict[str, Any]:
    facts: dict[str, Any] = {"from": "sound", "speech": round(hearing.speaking, 3)}
    facts["sound seconds"] = round(hearing.num_samples / RATE, 3)
    if hearing.speaking < FEW:
        facts["note"] = "no speech was heard; the mouth stays closed"
    return facts


def lines(facts: dict[str, Any]) -> Iterator[str]:
    """What the terminal shows of `Lipped.facts`."""
    yield f"lips by the sound, {facts['speech']:.0%} of which is speech; length {facts['length']}"
    if "note" in facts:
        yield facts["note"]


def as_face(motion: Motion, system: System) -> Motion:
    """A motion of another system as motion of kind "face": that system shows it, and the built-in face net reads it.

    Raises ValueError for a motion that no system of the built-in family shows.
    """
    if motion.kind.coordinates == FACE.coordinates:
        return motion
    shower = next((one for one in _builtin_systems(system) if motion.kind in one.motion_kinds), None)
    if shower is None:
        raise ValueError(
            f"A motion of kind {motion.kind} cannot be read as a face's; drive by a clip, or give --lips driving."
        )
    net = load_face(builtin("face")).eval()
    who = shower.identify(0)
    found = []
    with torch.inference_mode():
        for begin in range(0, len(motion), _TOGETHER):
            part = motion.part(begin, min(begin + _TOGETHER, len(motion)))
            images = shower.apply(who, part).synthesize(shower.generator).clamp(-1, 1)
            found.append(net(images.to("cpu")).motion.numpy())
    low, high = LOW[MOTION_COLUMNS], HIGH[MOTION_COLUMNS]
    values = ((low + high) / 2 + (high - low) / 2 * np.concatenate(found)).clip(low, high)
    return Motion(values.astype(np.float32), FACE, MOTION, motion.rate, motion.placement, motion.missing)


def _builtin_systems(system: System) -> Iterator[System]:
    yield system
    for name in systems.list_systems():
        if name != system.name:
            yield systems.load(name, device="cpu").to(device_of(system))
