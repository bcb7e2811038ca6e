"""What StyleHEAT's study drives by, against the world's truth: pictures of the same and of other people, and sound."""

from __future__ import annotations

from collections.abc import Iterator
from fractions import Fraction
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from stylereel import world
from stylereel.core.builtin import builtin
from stylereel.core.latents import FACE, Identity, Motion
from stylereel.core.render import render
from stylereel.family.lips import with_lips
from stylereel.family.voice import listen, load_voice
from stylereel.metrics import talking
from stylereel.metrics.exact import by_face_net, cross, draw_all, errors, pairs
from stylereel.metrics.faces import mouth_opening
from stylereel.metrics.sync import best_offset
from stylereel.systems.sources import own_motion
from stylereel.world import speech
from stylereel.world.factors import MOTION, MOTION_COLUMNS
from stylereel.world.motion import natural_motion

SIZE = 256  # pixels of drawn pictures
FPS = Fraction(25)
REACH = 10  # frames in which an offset of the lips is looked for
QUIET, EDGE = 0.3, 0.12  # seconds of a pause in which silence is measured, and of its edges
SENTENCES = (
    "Please bring me a cup of coffee before the meeting begins.",
    "My brother plays football every Saturday in the park.",
    "Bob made five phone calls from the office on Monday.",
    "A warm wind blew over the empty beach all evening.",
)


class Still(NamedTuple):
    """A picture uint8 [H, W, 3] as a clip of one frame."""

    image: np.ndarray
    path: Path = Path("drawn")
    rate: Fraction = FPS
    num_frames: int = 1
    has_audio: bool = False

    def __iter__(self) -> Iterator[np.ndarray]:  # type: ignore[override]
        yield self.image


def by_pictures(system: Any, count: int, seed: int, same: bool) -> dict[str, np.ndarray]:
    """Errors [N] against the true image where the motion is read off a picture of the driver, not given as numbers.

    same: the driver is the source's own person. Pairs in which a face is not found are left out.
    """
    source, driver = pairs(count, seed)
    if same:
        driver = cross(source, driver)
    images, kept = [], []
    for index in range(count):
        try:
            identity = system.identify(draw_all(source[index : index + 1], SIZE)[0])
            motion = system.extract(Still(draw_all(driver[index : index + 1], SIZE)[0]))
        except ValueError as error:
            if "face" not in str(error):
                raise
            continue
        images.append(next(iter(render(system, identity, motion))))
        kept.append(index)
    found = errors(np.stack(images), source[kept], driver[kept])
    return {name: ours for name, (ours, _) in found.items()}


def say(system: Any, count: int, seed: int, moving: bool, by_warper: bool = False) -> dict[str, np.ndarray]:
    """How the mouth follows world speech, one number for each of `count` utterances, by the face net's landmarks.

    Opening: correlation of the lips' opening with the exact one; closed: share of p, b and m that close the lips;
    offset: frames by which they are late; silence: opening in pauses, as a share of the usual widest; pose: error in
    degrees. What the instrument finds on the true images is in "opening, true images".

    moving: the head moves as a speaker's; else it stays as the source holds it. by_warper: the system's audio warper
    moves the mouth, not the built-in net from sound to motion.
    """
    net = load_voice(builtin("voice"))
    rows: dict[str, list[float]] = {}
    for number in range(count):
        said = speech.speak(SENTENCES[number % len(SENTENCES)], 900 + seed + number)
        (person,) = pairs(1, seed + 900 + number)[0]
        identity: Identity = system.identify(draw_all(person[None], SIZE)[0])
        frames = len(said.mouth)
        values = np.tile(own_motion(system, identity), (frames, 1))
        if moving:
            values = natural_motion(seed + number, frames, FPS, "listening").astype(np.float64)
        whole = np.tile(np.array([0.5, 0.5, 1, 0], np.float32), (frames, 1))
        motion = Motion(values.astype(np.float32), FACE, tuple(MOTION), FPS, whole)
        spoken = with_lips(motion, listen(net, [said.audio]))
        if by_warper:
            spoken = system.with_sound(spoken, said.audio)
        exact = values.copy()
        exact[:, [MOTION.index(name) for name in speech.MOUTH]] = said.mouth
        drawn = np.tile(person, (frames, 1))
        drawn[:, MOTION_COLUMNS] = exact
        drawn = world.align(drawn)
        truth = mouth_opening(np.stack([world.project_landmarks(each)[0] for each in drawn]))
        points, read = by_face_net(np.stack(list(render(system, identity, spoken))))
        ours = mouth_opening(points)
        by_truth = mouth_opening(by_face_net(draw_all(drawn, SIZE))[0])
        lips = talking.closures(ours, list(said.phonemes), FPS)
        times = np.arange(frames) / float(FPS)
        quiet = np.zeros(frames, bool)
        for each in said.phonemes:
            if each.name == "_" and each.end - each.start > QUIET * speech.RATE:
                quiet |= (times >= each.start / speech.RATE + EDGE) & (times <= each.end / speech.RATE - EDGE)
        least, wide = np.percentile(ours, 2), np.percentile(truth, 95)
        found = {
            "opening": np.corrcoef(ours, truth)[0, 1],
            "closed": lips.closed / lips.number if lips.number else np.nan,
            "offset": best_offset(ours, truth, min(REACH, frames // 2)).frames,
            "silence": (ours[quiet] - least).mean() / wide if quiet.any() else np.nan,
            "pose": np.abs(read[:, :3] - exact[:, :3]).mean(),
            "opening, true images": np.corrcoef(by_truth, truth)[0, 1],
        }
        for name, value in found.items():
            rows.setdefault(name, []).append(float(value))
    return {name: np.array(each) for name, each in rows.items()}
