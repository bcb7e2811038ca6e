"""Who is to be shown and what moves: what systems of the built-in family have in common.

What a name on the command line means, the identity that every system makes of it, and the motion factors of faces
in clips and in the family's own portraits.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import replace
from fractions import Fraction
from pathlib import Path
from typing import Any, Literal, Protocol

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from stylereel import world
from stylereel.core.builtin import builtin
from stylereel.core.latents import FACE, Codes, Identity, Motion
from stylereel.core.render import pictures
from stylereel.core.system import Device, Frames, Shot, Source, Synthesizer, System, choose_device
from stylereel.core.weights import own_kind
from stylereel.faces import backend, mesh, placement
from stylereel.faces.coefficients import NAMES, coefficients, mean_head, motion_of
from stylereel.faces.live import REST, Live
from stylereel.faces.pose import smooth
from stylereel.family.likeness import load_likeness
from stylereel.family.nets import load_face
from stylereel.generator import StyleGAN2
from stylereel.invert.networks import encoded
from stylereel.invert.person import Person, compose, painter
from stylereel.invert.person import read as read_person
from stylereel.invert.words import correct
from stylereel.media.pictures import read_picture
from stylereel.world.factors import LATENT_DIM, MOTION, MOTION_COLUMNS, POSE
from stylereel.zoo.families import open_family
from stylereel.zoo.formats import load_generator_file

Reference = Literal["absolute", "relative"]

SAVED = ".safetensors"  # codes, identities and motions
CROP = 256  # pixels of what is inverted
DRAWN = 18.0  # dB of the face to which the encoder reproduces drawn pictures: photographs 12 to 17, drawn ones 18 to 29
MIDDLE = (..., slice(20, 50), slice(18, 46))  # of 64 x 64 pixels, the face: any generator can draw a white backdrop
CALIBRATION = 3  # seconds in which a person's usual pose is found, live
RESTS = 8  # copies of the mean head at rest next to a single driving image


def read_source(name: str) -> Source:
    """What `identify` takes for the name of a source: a seed, or the file of an image, of codes or of an identity.

    Raises ValueError for a negative seed, MediaError when the file cannot be read.
    """
    if name.isdecimal():
        return int(name)
    if name.removeprefix("-").isdecimal() and not Path(name).exists():
        raise ValueError(f"A seed is 0 or more, not {name}.")
    if Path(name).suffix == SAVED:
        return Identity.load(name) if own_kind(name) == "identity" else Codes.load(name)
    return read_picture(name)


class Encodes(System, Protocol):
    """A system that takes images: its framing is the built-in family's or FFHQ's, and it may have an encoder."""

    builtin_family: bool

    @property
    def encode(self) -> nn.Module | None: ...  # images [B, 3, 256, 256] in [-1, 1] to W+ codes


def identify(
    system: Encodes,
    source: Source,
    psi: float,
    find: Callable[[np.ndarray], backend.Track],
    corrections: Sequence[str] = (),
) -> Identity:
    """The identity of a source: a seed, an image uint8 [H, W, 3] with a face, codes (their first frame), an identity.

    Of an image and of codes the `placement` [4] is kept too. What is inverted is taken as it is, never truncated. With
    the built-in family, a photograph is read and its person composed (`invert.person`); the factors are kept, too.

    Args:
        system: one that can encode images.
        source: who.
        psi: how far an invented person may be from the mean face, 0 to 1.
        find: the track of the face that is meant in an image.
        corrections: `name=value` each, see `invert.words.correct`.

    Raises:
        ValueError: a negative seed, psi outside 0 to 1, codes of another generator, an image without an encoder, a
            correction that cannot be made, or what `find` raises.
    """
    if corrections and not knows_factors(system):
        raise ValueError("--set works with the built-in generator, whose latents are factors; leave it out.")
    correct(world.neutral(), corrections)  # a mistake is reported before anything is read
    if isinstance(source, Codes):
        identity = source.identity(system.name)
        source = replace(identity, tensors={"placement": source.placement[0]})
    if isinstance(source, Identity):
        check_codes(source.w, system.generator)
        if corrections:
            if "factors" not in source.tensors:
                raise ValueError("--set corrects a photograph, a seed or an identity that was read from a photograph.")
            values = correct(source.tensors["factors"].numpy(), corrections)
            source = replace(source, w=compose(system.generator, values).cpu())
            source = replace(source, tensors={**source.tensors, "factors": torch.from_numpy(values)})
        return replace(source, system=system.name)
    if isinstance(source, np.ndarray):
        track = find(source)
        points = track.landmarks[0]
        row = placement.align(points) if system.builtin_family else placement.place_ffhq(points[None])[0]
        if knows_factors(system):
            return person_of(system, source, track, corrections)
        w = encoded(system.encode, placement.cut(source, row, CROP)[None])[0].cpu()
        return Identity(w, system.name, {"placement": torch.from_numpy(row)})
    if source < 0:
        raise ValueError(f"A seed is 0 or more, not {source}.")
    if not 0 <= psi <= 1:
        raise ValueError(f"psi is between 0 and 1, not {psi}.")
    z = np.random.default_rng(source).standard_normal((1, system.generator.config.z_dim))
    if corrections:
        values = correct(world.from_latent(z[0]), corrections)
        return Identity(compose(system.generator, values).cpu(), system.name, {"factors": torch.from_numpy(values)})
    with torch.inference_mode():
        w = system.generator.map(torch.from_numpy(z).float().to(system.generator.mean_w.device), psi=psi)[0]
    return Identity(w.cpu(), system.name)


def knows_factors(system: System) -> bool:
    """Whether the latents of a system's generator mean the factors of the world."""
    generator = system.generator
    return (
        getattr(system, "builtin_family", False)
        and isinstance(generator, StyleGAN2)
        and generator.config.z_dim == LATENT_DIM
    )


def person_of(system: Encodes, image: np.ndarray, track: backend.Track, corrections: Sequence[str] = ()) -> Identity:
    """The identity of the face in an image uint8 [H, W, 3], with its `placement` [4].

    A drawn picture, which the encoder reproduces, gets the encoder's code; a photograph is read, and gets the code of
    the person composed of its `factors` [K].
    """
    row = placement.align(track.landmarks[0])
    if system.encode is not None and not corrections:
        crop = placement.cut(image, row, CROP)
        w = encoded(system.encode, crop[None])
        if reproduces(system.generator, w, crop):
            return Identity(w[0].cpu(), system.name, {"placement": torch.from_numpy(row)})
    return composed(system, read_photograph(system.generator, image, track, corrections), row)


def read_photograph(
    generator: StyleGAN2, image: np.ndarray, track: backend.Track, corrections: Sequence[str] = ()
) -> Person:
    """Who is in an image uint8 [H, W, 3], by the track of the face, with `corrections` (see `invert.words.correct`).

    generator: whose latents mean the factors of the world; it draws what is tried."""
    row, marks = placement.align(track.landmarks[0]), track.landmarks[0]
    motion = face_motion(track).values[0]
    net, show = load_likeness(builtin("likeness")), painter(generator)
    irises = None if track.points is None else mesh.irises(track.points[0])
    person = read_person(net, show, image, marks, row, motion, irises)
    return replace(person, values=correct(person.values, corrections))


def composed(system: Encodes, person: Person, row: np.ndarray) -> Identity:
    """The identity of a person who was read in the crop `row` [4] of an image, with its `factors` and landmarks."""
    tensors = {"placement": torch.from_numpy(row), **as_read(person)}
    return Identity(compose(system.generator, person.values).cpu(), system.name, tensors)


def as_read(person: Person) -> dict[str, Tensor]:
    """What an identity keeps of a person who was read: `factors`, `marks` and `irises`."""
    read = {"factors": person.values, "marks": person.marks, "irises": person.irises}
    return {name: torch.from_numpy(each) for name, each in read.items()}


@torch.inference_mode()
def reproduces(generator: Synthesizer, w: Tensor, crop: np.ndarray) -> bool:
    """Whether codes [1, L, D] show a crop uint8 [H, W, 3] closely, so that it must be a drawn picture."""
    target = torch.tensor(crop, device=w.device).permute(2, 0, 1)[None].float() / 127.5 - 1
    small = [F.adaptive_avg_pool2d(each, 64) for each in (generator.synthesize(w).clamp(-1, 1), target)]
    return bool((small[0] - small[1])[MIDDLE].square().mean() < 4 * 10 ** (-DRAWN / 10))


def world_generator(family: str, device: Device) -> tuple[StyleGAN2, Path]:
    """The generator of the world's people that a family names, frozen, on the device; and its file.

    Raises ValueError for a generator whose latents are not the world's, or what `open_family` and `choose_device` do.
    """
    named = open_family(family).options(None, ["generator"])
    file = Path(named["generator"]) if named else builtin("generator")
    generator = load_generator_file(file)
    if not isinstance(generator, StyleGAN2) or generator.config.z_dim != LATENT_DIM:
        raise ValueError(
            f"{file} did not learn the world's people, whose images are the truth here; "
            "give a family whose generator `stylereel train generator` made."
        )
    return generator.to(choose_device(device)).eval().requires_grad_(False), file


def check_codes(w: Tensor, generator: Synthesizer) -> None:
    """Raise ValueError unless W+ codes [L, D] have the shape that the generator takes."""
    expected = [generator.num_ws, generator.mean_w.shape[-1]]
    if list(w.shape) != expected:
        raise ValueError(
            f"These codes are {list(w.shape)}, this generator takes {expected}; codes of another generator do not fit."
        )


def shape_motion(
    found: Motion, strength: float, smoothing: float, reference: Reference, pose: np.ndarray | None
) -> Motion:
    """A measured motion as it is to be shown: smoothed, relative if asked for, with its expression strengthened.

    Args:
        found: as it was measured.
        strength: factor on what is not pose, 1 as it is.
        smoothing: width in seconds of a Gaussian low-pass, without lag; 0 adds none.
        reference: absolute, or relative: what changes since the first frame.
        pose: bool [K], which columns are pose; None where a column is both: then the difference from the first frame,
            or all that is relative, is strengthened.
    """
    values = found.values.astype(np.float32)
    if smoothing:
        values = smooth(values, found.rate, smoothing)
    if reference == "relative":
        found = replace(found, kind=found.kind._replace(relative=True))
        values = values - values[:1]
    if pose is not None:
        values = values * np.where(pose, 1.0, strength)
    else:
        rest = values[:1] if reference == "absolute" else 0.0
        values = rest + strength * (values - rest)
    return replace(found, values=values.astype(np.float32))


def follow(
    self: Encodes,
    shots: Iterable[Shot],
    rate: Fraction,
    *,
    face: str = "largest",
    strength: float = 1.0,
    smoothing: float = 1.0,
    motion: Reference = "absolute",
) -> Iterator[Motion]:
    """The motion factors of a face as it comes, one frame for each shot; needs the mesh, and the built-in family.

    A method of every system that takes motion in the coordinates FACE. Relative motion is what differs from the usual
    pose of the first `CALIBRATION` seconds with a face; expression is next to the person's rest anyway.

    Args:
        shots: what a camera gives.
        rate: about how many frames it gives a second.
        face: which of several faces: largest, left, a number (0 is the left-most), or an image of the person.
        strength: factor on the expression, 1 as it is.
        smoothing: how much tremble is smoothed, 1 as usual; 0 not at all, then there is no lag either.
        motion: absolute shows the driver's pose and expression; relative adds what changes since the first seconds
            to the source's own.

    Raises:
        ValueError: another family, no mesh, or no face in the image of the person; at once.
    """
    if not self.builtin_family:
        raise ValueError(f"{self.name} follows a camera with the built-in family only; leave out --family and files.")
    check_shaping(strength, smoothing)
    return _follow(Live(rate, face, smoothing), shots, rate, strength, motion)


def _follow(
    live: Live, shots: Iterable[Shot], rate: Fraction, strength: float, reference: Reference
) -> Iterator[Motion]:
    expression, usual = np.arange(len(NAMES)) >= len(POSE), REST
    kind = FACE._replace(relative=reference == "relative")
    before: float | None = None
    poses: list[np.ndarray] = []
    for shot in shots:
        seen = live.step(shot.image, None if before is None else shot.time - before)
        before, values = shot.time, seen.values
        if kind.relative:
            if seen.found and len(poses) < CALIBRATION * rate:
                poses.append(values)
                usual = np.where(expression, REST, np.median(poses, axis=0))
            values = values - usual
        values = np.where(expression, strength * values, values).astype(np.float32)
        yield Motion(values[None], kind, NAMES, rate, seen.placement[None], () if seen.found else (0,))


def check_shaping(strength: float, smoothing: float) -> None:
    """Raise ValueError for numbers that `shape_motion` does not take."""
    if strength < 0 or smoothing < 0:
        raise ValueError(f"Strength and smoothing are 0 or more, not {min(strength, smoothing)}.")


def face_motion(track: backend.Track) -> Motion:
    """The motion factors of a tracked face; a single image, too, has some."""
    return _of_picture(track) if len(track.found) == 1 else motion_of(track)


def _of_picture(track: backend.Track) -> Motion:
    """The motion of a single image, whose rest is the mean head's; for a clip it is estimated."""
    if track.points is not None:
        return motion_of(track)
    rest = np.repeat(mean_head()[None, :, :2], RESTS, axis=0) * np.ptp(track.landmarks[0, :, 0])
    landmarks = np.concatenate([track.landmarks, rest.astype(np.float32)])
    found = coefficients(landmarks, np.ones(len(landmarks), bool), Fraction(1))  # a second apart: nothing mixes
    values = found.values[:1].copy()
    values[:, [NAMES.index(name) for name in ("shift_x", "shift_y", "scale")]] = 0.0, 0.0, 1.0
    row = placement.align(track.landmarks[0])[None]
    return replace(found, values=values, placement=row, rate=track.rate, num_faces=track.num_faces, missing=())


def face_values(motion: Motion) -> np.ndarray:
    """The motion factors [T, M] of a motion of kind "face"; at rest where the motion, of an older file, has none."""
    rest = np.zeros(len(MOTION)) if motion.kind.relative else world.neutral()[MOTION_COLUMNS]
    columns = [motion.column(name) if name in motion.names else np.full(len(motion), still)
               for name, still in zip(MOTION, rest)]  # fmt: skip
    return np.stack(columns, axis=1).astype(np.float32)


def own_motion(system: System, identity: Identity) -> np.ndarray:
    """The motion factors [M] that an identity's own portrait shows: those it was composed of, or else by the built-in
    face net, which knows drawn faces."""
    if "factors" in identity.tensors and knows_factors(system):
        return identity.tensors["factors"].numpy()[MOTION_COLUMNS]
    return motion_of_codes(system, system.portrait(identity))[0]


def motion_of_codes(system: System, frames: Frames) -> np.ndarray:
    """The motion factors [B, M] of what the generator makes of its inputs, by the built-in face net."""
    net = load_face(builtin("face")).eval()  # few images a person: it may stay on the CPU
    with torch.inference_mode():
        shown = pictures(frames.synthesize(system.generator))
        predicted = net(torch.from_numpy(shown).permute(0, 3, 1, 2) / 127.5 - 1).motion.numpy()
    low, high = world.LOW[MOTION_COLUMNS], world.HIGH[MOTION_COLUMNS]
    return ((low + high) / 2 + (high - low) / 2 * predicted).clip(low, high)


def prepared_motion(batch: Mapping[str, Any]) -> np.ndarray:
    """Motion factors [B, T, 20] of a batch of prepared clips, within the limits of the world's.

    Raises ValueError if the coefficients are not those of this package.
    """
    motion = batch["coefficients"].numpy()
    if motion.shape[2] != len(MOTION_COLUMNS):
        raise ValueError(
            f"The clips have {motion.shape[2]} coefficients, not {len(MOTION_COLUMNS)}; prepare them anew."
        )
    return np.clip(motion, world.LOW[MOTION_COLUMNS], world.HIGH[MOTION_COLUMNS])
