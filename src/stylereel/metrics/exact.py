"""The exact error across identities: a result against the true image of one person with the motion of another.

No camera can take that image; the world draws it. So what other evaluations estimate, by similarity to the source on
one side and distance to the driver on the other, is measured here pixel by pixel, with exact landmarks and poses. What
only a network can read off an image (landmarks, pose, identity) is read off the true image too: that floor is
the instrument's own error, and no result can be measured to be better.
"""

from __future__ import annotations

from fractions import Fraction
from functools import cache

import numpy as np
import torch

from stylereel import world
from stylereel.core.builtin import builtin
from stylereel.core.latents import FACE, Motion
from stylereel.core.record import Stages
from stylereel.core.render import render
from stylereel.core.system import System, device_of
from stylereel.faces.backend import DlibBackend, find_face
from stylereel.faces.coefficients import NAMES
from stylereel.faces.pose import pose_from_landmarks
from stylereel.family.nets import FaceNet, load_face
from stylereel.metrics.faces import POSE, landmark_error, motion_errors
from stylereel.metrics.features import to_unit
from stylereel.metrics.intervals import bootstrap
from stylereel.metrics.likeness import builtin_embeddings, cosine
from stylereel.metrics.pictures import l1, psnr
from stylereel.metrics.registry import Better, Clip, Score
from stylereel.world.factors import LATENT_DIM

HELD_OUT = 7_000_000  # seeds from here on are never used in training
MOTION = world.MOTION_COLUMNS

# Name: unit, which way is better, what is computed. "By the face net" and "by dlib" name the instrument.
_NUMBERS: dict[str, tuple[str, Better, str]] = {
    "psnr": ("dB", "higher", "Peak signal-to-noise ratio to the true image, peak 255."),
    "l1": ("levels of 8 bits", "lower", "Mean absolute difference from the true image."),
    "nme-eyes-face-net": ("eye distances", "lower", "Landmarks by the face net against exact ones."),
    "nme-eyes-dlib": ("eye distances", "lower", "Dlib's landmarks against exact ones."),
    "yaw-error-face-net": ("degrees", "lower", "Yaw by the face net against the exact one."),
    "pose-error-face-net": ("degrees", "lower", "Mean of yaw, pitch and roll by the face net against exact ones."),
    "pose-error-dlib": ("degrees", "lower", "The same by dlib's landmarks, against the true image's by them."),
    "aed-face-net": ("", "lower", "Mean of ten expression factors by the face net against exact ones."),
    "identity-source": ("", "higher", "Built-in identity net: cosine with the true image."),
    "identity-driver": ("", "lower", "Built-in identity net: cosine with the driver's image."),
}


def pairs(count: int, seed: int) -> tuple[np.ndarray, np.ndarray]:
    """Factor values [count, K] of sources and of drivers, aligned held-out identities."""
    z = np.random.default_rng((HELD_OUT, seed)).standard_normal((2, count, LATENT_DIM))
    source, driver = world.align(world.from_latent(z))
    return source, driver


def cross(source: np.ndarray, driver: np.ndarray) -> np.ndarray:
    """Factor values [N, K] of the sources with the drivers' motion."""
    values = source.copy()
    values[:, MOTION] = driver[:, MOTION]
    return values


def draw_all(values: np.ndarray, size: int) -> np.ndarray:
    """The true images uint8 [N, size, size, 3] of factor values [N, K]."""
    return np.stack([world.draw(v, size).image for v in values])


@cache
def _face_net(device: str) -> FaceNet:
    return load_face(builtin("face")).eval().to(device)


def by_face_net(portraits: np.ndarray, device: str = "cpu") -> tuple[np.ndarray, np.ndarray]:
    """Landmarks [N, 68, 2] in 0..1 and motion factors [N, M] of portraits uint8 [N, H, W, 3], canonically framed."""
    low, high = world.LOW[MOTION], world.HIGH[MOTION]
    landmarks, motion = [], []
    for picture in portraits:  # one by one: large ones need memory
        with torch.inference_mode():
            predicted = _face_net(device)(to_unit(picture[None], device))
        landmarks.append(predicted.landmarks[0].cpu().numpy())
        motion.append((low + high) / 2 + (high - low) / 2 * predicted.motion[0].cpu().numpy())
    return np.stack(landmarks), np.stack(motion)


def _by_dlib(portraits: np.ndarray, backend: DlibBackend) -> tuple[np.ndarray, np.ndarray]:
    """Landmarks [N, 68, 2] in 0..1 and yaw, pitch, roll [N, 3] in degrees, NaN where no face is found."""
    landmarks, angles = np.full((len(portraits), 68, 2), np.nan), np.full((len(portraits), 3), np.nan)
    for index, picture in enumerate(portraits):
        try:
            points = find_face(picture, backend)
        except ValueError:
            continue
        pose = pose_from_landmarks(points[None])
        landmarks[index], angles[index] = points / picture.shape[0], [pose[name][0] for name in POSE]
    return landmarks, angles


def errors(
    results: np.ndarray, source: np.ndarray, driver: np.ndarray, device: str = "cpu"
) -> dict[str, tuple[np.ndarray, np.ndarray]]:
    """For each number of this file, its value [N] on the results and, as a floor, on the true images themselves.

    results: uint8 [N, H, H, 3], canonically framed; source, driver: factor values [N, K]; device: where networks run.
    """
    values = cross(source, driver)
    truth = draw_all(values, results.shape[1])
    points = np.stack([world.project_landmarks(v)[0] for v in values])
    sources, drivers = (builtin_embeddings(each, device) for each in (truth, draw_all(driver, results.shape[1])))
    backend = DlibBackend()
    true_angles = _by_dlib(truth, backend)[1]

    def read(pictures: np.ndarray) -> dict[str, np.ndarray]:
        shown, target = Clip(pictures), Clip(truth)
        predicted, motion = by_face_net(pictures, device)
        moved = motion_errors(motion, values[:, MOTION])
        found, angles = _by_dlib(pictures, backend)
        embeddings = builtin_embeddings(pictures, device)
        return {
            "psnr": psnr(shown, target),
            "l1": l1(shown, target),
            "nme-eyes-face-net": landmark_error(predicted, points),
            "nme-eyes-dlib": landmark_error(found, points),
            "yaw-error-face-net": moved["yaw"],
            "pose-error-face-net": moved["pose"],
            "pose-error-dlib": np.abs(angles - true_angles).mean(1),
            "aed-face-net": moved["expression"],
            "identity-source": cosine(embeddings, sources),
            "identity-driver": cosine(embeddings, drivers),
        }

    ours, floor = read(results), read(truth)
    return {name: (ours[name], floor[name]) for name in ours}


def motion_of_person(values: np.ndarray) -> Motion:
    """One frame of the motion in the factor values [K] of a person of the world."""
    return Motion(values[None, MOTION], FACE, NAMES, Fraction(25), np.array([[0.5, 0.5, 1, 0]], np.float32))


def exact(system: System, count: int = 64, seed: int = 0, stages: Stages | None = None) -> list[Score]:
    """The exact error of a system on `count` pairs of held-out identities, with 95 % intervals.

    system: takes a source image by `identify(image)` and motion in the coordinates FACE by `apply`, as the built-in
    StyleMask does, and shows aligned portraits in canonical framing. Each pair is one image of the source, one frame
    of the driver's motion and one result. Each score's parts hold the floor and the sources in which the system found
    no face; those pairs are left out. stages: clock to use, for watching the progress.

    Raises ValueError when the system takes no face motion or finds no face at all.
    """
    if FACE not in system.motion_kinds:
        raise ValueError(
            f"{system.name} does not drive an image of a face with these weights; choose a system and a family that "
            "do, such as stylemask and builtin."
        )
    if count < 2:
        raise ValueError(f"An interval needs 2 pairs or more, not {count}.")
    source, driver = pairs(count, seed)
    results: dict[int, np.ndarray] = {}
    drawn = (stages or Stages()).through("pairs", (draw_all(each[None], 256)[0] for each in source), count)
    for index, picture in enumerate(drawn):
        try:
            identity = system.identify(picture)
        except ValueError as error:
            if "face" not in str(error):
                raise
            continue
        results[index] = next(iter(render(system, identity, motion_of_person(driver[index]))))
    if not results:
        raise ValueError(f"{system.name} found no face in {count} images of the world; its weights do not fit it.")
    kept = list(results)
    measured = errors(np.stack(list(results.values())), source[kept], driver[kept], device_of(system).type)
    scores = []
    for name, (ours, floor) in measured.items():
        unit, better, protocol = _NUMBERS[name]
        interval, how = bootstrap([ours[i : i + 1] for i in range(len(ours))], seed)
        defined = ~np.isnan(ours)
        counts = {"pairs": len(ours), "not told": int((~defined).sum())}
        parts = {"sources without a face": float(count - len(kept))}
        if np.isfinite(floor).any():  # the decibels of equal images are not
            parts["floor"] = float(np.nanmean(floor))
        value = float(ours[defined].mean()) if defined.any() else float("nan")
        how = how.replace("clips", "pairs")
        scores.append(
            Score(f"exact-{name}", value, interval, how, unit, better, "frame pairs", counts, protocol, seed, parts)
        )
    return scores
