"""Expressive as a system: a person, 35 numbers a frame, and the style vectors that show both."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Literal, get_args

import numpy as np
import torch
from torch import Tensor, nn

from stylereel import world
from stylereel.core.builtin import builtin
from stylereel.core.latents import FACE, Codes, Identity, Motion, MotionKind
from stylereel.core.system import Clip, Driver, Frames, Source, device_of
from stylereel.edit import curves
from stylereel.faces import backend, placement
from stylereel.family.encoder import load_encoder
from stylereel.family.nets import FaceNet, load_face
from stylereel.family.people import FIRST_ROW, motion_codes
from stylereel.generator import StyleGAN2
from stylereel.invert.perceptual import Perceptual
from stylereel.media.video import VideoReader
from stylereel.systems import sources as who
from stylereel.systems.expressive import fit
from stylereel.systems.expressive.channels import Channels, load_channels
from stylereel.systems.expressive.pose import Mapping
from stylereel.systems.expressive.reader import READ, Reader, through_blinks
from stylereel.world.factors import MOTION, MOTION_COLUMNS
from stylereel.world.factors import POSE as POSE_FACTORS

TALK = MotionKind("expressive")  # yaw, pitch, roll in degrees and the 32 channels in their units
Reading = Literal["auto", "image", "points"]
CHUNK = 8  # frames read together
POSE = 3  # how many of the 35 numbers are pose
PIVOTS = 4  # frames of a clip to which the generator is tuned
CANDIDATES = 8  # frames of which the one that says best who it is is chosen
TURN = np.array([10.0, 6.0])  # degrees of yaw and of pitch that count alike
_EXPRESSION_ROWS = range(FIRST_ROW["expression"], FIRST_ROW["look"])


class Expressive:
    """A talking head as one W+ code and 35 numbers a frame: yaw, pitch, roll and 32 channels of S.

    The numbers are absolute over a base that every person has: their own code with the pose and the expression of a
    neutral head. So any person shows the numbers of any other. Motion in the coordinates of faces is taken, too; its
    numbers are found by one matrix product.
    """

    name = "expressive"
    context = 0

    def __init__(
        self,
        generator: StyleGAN2,
        encoder: nn.Module | None,
        channels: Channels,
        face: FaceNet,
        files: tuple[Path, ...] = (),
    ) -> None:
        """A system of given networks; the generator's latents must mean the factors of the world.

        Args:
            encoder: images [B, 3, 256, 256] in [-1, 1] to W+ codes, None if only seeds and codes are used.
            channels: with a reader, if images are to be read.
            face: what the channels' reader looks through.
        """
        self.generator = generator.eval().requires_grad_(False)
        self.encode = None if encoder is None else encoder.eval()
        self.channels, self.face = channels.eval(), face.eval().requires_grad_(False)
        self.weight_files = files
        self.builtin_family = True
        self.motion_kinds = tuple(kind._replace(relative=each) for kind in (FACE, TALK) for each in (False, True))
        self.turn = Mapping(self.generator)
        self._faces: dict[backend.Detector, backend.FaceBackend] = {}
        self._rest: Tensor | None = None
        self._own: tuple[Identity, Tensor] | None = None

    @classmethod
    def builtin(cls) -> Expressive:
        """The system on the built-in generator."""
        files = tuple(builtin(name) for name in ("generator", "encoder", "expressive", "face"))
        generator = StyleGAN2.load(files[0])
        return cls(generator, load_encoder(files[1]), load_channels(files[2], generator), load_face(files[3]), files)

    # Verbs

    def identify(
        self,
        source: Source,
        *,
        psi: float = 1.0,
        source_face: str = "largest",
        detector: backend.Detector = "auto",
        set_: tuple[str, ...] = (),
    ) -> Identity:
        """The person to show: a seed, an image uint8 [H, W, 3] with a face, codes of one, or a saved identity.

        Args:
            source: seed of an invented person (0 or more), an image, codes (their first frame), or an identity.
            psi: truncation: how far an invented person may be from the mean face, 0 to 1; other sources are not
                truncated.
            source_face: which of several faces in the image; as for `face`.
            detector: what finds and reads faces; auto is the mesh where it is installed, else dlib.
            set_: corrects what was read of a photograph, or a seed's person: beard=0, hair=curls, glasses=round,
                age=old, hair_colour=blond, face=woman, or any factor of the world; may be given several times.

        Raises:
            ValueError: no such face in the image, a negative seed, psi outside 0 to 1, no such detector, or codes
                of another generator.
        """

        def find(picture: np.ndarray) -> backend.Track:
            return backend.track_picture(picture, self._face_backend(detector), source_face)

        found = who.identify(self, source, psi, find, set_)
        if isinstance(source, np.ndarray) and "factors" not in found.tensors:  # drawn, so not read
            crop = placement.cut(source, found.tensors["placement"].numpy(), who.CROP)
            w = fit.person(self.generator, self.encode, self.face, found.w.to(device_of(self)), crop)
            found = replace(found, w=w.cpu())
        return found

    def extract(
        self,
        driving: Driver,
        *,
        missing: backend.Missing = "hold",
        face: str = "largest",
        strength: float = 1.0,
        smoothing: float = 0.0,
        motion: who.Reference = "absolute",
        detector: backend.Detector = "auto",
        reading: Reading = "auto",
        refine: int = 0,
    ) -> Motion:
        """The 35 numbers of each frame of a clip or image, or of codes.

        Args:
            driving: the clip (its name, or open already), an image, or codes of the generator.
            missing: what to do with frames without a face: hold the last one, interpolate, skip the edit (show the
                source as it is), or stop.
            face: which of several faces: largest, left, a number (0 is the left-most), or an image of the person.
            strength: factor on the 32 numbers of the expression, 1 as it is.
            smoothing: width in seconds of a Gaussian low-pass of the motion, without lag; 0 adds none.
            motion: absolute shows the driver's pose and expression; relative adds what changes since the first frame
                to the source's own.
            detector: what finds and reads faces; auto is the mesh where it is installed, else dlib.
            reading: what the expression is read from: the image of the face by a network, which knows drawn people; the
                points of the face, as for other systems; auto takes the image where the encoder reproduces it.
            refine: steps of optimisation that follow the reading of a clip of drawn people, as the paper finds all
                numbers; some seconds a frame.

        Raises:
            ValueError: no such face, no such detector, codes of another generator, fewer than 0 steps or steps for
                faces that the encoder does not reproduce, or a file that cannot be read (MediaError).
        """
        who.check_shaping(strength, smoothing)
        if refine < 0 or (refine and (reading == "points" or isinstance(driving, Codes))):
            raise ValueError("--refine takes 0 steps or more, for a clip whose images are read; leave it out.")
        if reading not in get_args(Reading):
            raise ValueError(f"--reading takes {', '.join(get_args(Reading))}, not {reading}.")
        if isinstance(driving, Codes):
            who.check_codes(driving.w[0], self.generator)
            found = self._of_codes(driving)
        else:
            reader = VideoReader(driving) if isinstance(driving, str | Path) else driving
            track = backend.track(reader, reader.rate, missing, self._face_backend(detector), face)
            found = who.face_motion(track)
            if reading != "points":
                found = self._read(reader, found, reading == "image")
            found = self.encode_face(found)
            if refine:
                found = self._refined(reader, found, refine)
        pose = np.arange(found.values.shape[1]) < POSE
        return who.shape_motion(found, strength, smoothing, motion, pose)

    follow = who.follow

    def apply(self, identity: Identity, motion: Motion) -> Frames:
        """Style vectors that show `identity`, edited where the motion says so, with each frame of `motion`."""
        w, motion = curves.edited(identity, motion).to(device_of(self)), curves.driven(motion)
        if motion.kind.coordinates == FACE.coordinates:
            motion = self.encode_face(motion)
        values = torch.from_numpy(motion.values).to(device_of(self))
        if motion.kind.relative:
            values = values + self.own_numbers(identity)
        return Frames(s=self.generator.style_space.unflatten(self.show(w, values)))

    def portrait(self, identity: Identity) -> Frames:
        """What shows an identity as it is: its own code."""
        return Frames(w=identity.w[None].to(device_of(self)))

    def to(self, device: torch.device | str) -> Expressive:
        """Move all networks to a device."""
        for net in (self.generator, self.encode, self.channels, self.face):
            if net is not None:
                net.to(device)
        self._rest = self._own = None
        return self

    def tune(self, identity: Identity, clip: Clip, motion: Motion, passes: int) -> Identity:
        """An identity with the generator tuned to `PIVOTS` frames of the person's own clip, by its motion."""
        counted = [frame for frame in range(len(motion)) if frame not in motion.missing]
        chosen = [counted[at] for at in np.linspace(0, len(counted) - 1, PIVOTS).round().astype(int)]
        cut = {index: placement.cut(frame, motion.placement[index], self.generator.resolution)
               for index, frame in enumerate(clip) if index in chosen}  # fmt: skip
        few = replace(motion, values=motion.values[chosen], placement=motion.placement[chosen], missing=())
        with torch.no_grad():
            styles = self.apply(identity, few).s
        assert styles is not None
        flat = self.generator.style_space.flatten(styles)
        crops = np.stack([cut[frame] for frame in chosen])
        return replace(identity, delta=fit.tune_to(self.generator, flat.clone(), crops, passes))

    # Parts of the verbs

    def base(self, w: Tensor, angles: Tensor) -> Tensor:
        """S [B, N] of people w [1 or B, L, D] turned by angles [B, 3] in degrees, with no expression."""
        plain = self.plain(w).expand(len(angles), -1, -1)
        turned = self.turn(plain, torch.zeros_like(angles), angles)
        return self.generator.style_space.flatten(self.generator.styles(turned))

    def plain(self, w: Tensor) -> Tensor:
        """Codes [B, L, D] of people without an expression: the rows that carry it are the neutral head's."""
        plain = w.to(device_of(self)).clone()
        plain[:, list(_EXPRESSION_ROWS)] = self.rest[:, list(_EXPRESSION_ROWS)]
        return plain

    def show(self, w: Tensor, numbers: Tensor) -> Tensor:
        """S [B, N] of people w [1 or B, L, D] with numbers [B, 35]."""
        return self.channels.apply_to(self.base(w, numbers[:, :POSE]), numbers[:, POSE:])

    @property
    def rest(self) -> Tensor:
        """W+ code [1, L, D] of the neutral head."""
        if self._rest is None:
            self._rest = motion_codes(self.generator, world.neutral()[None, MOTION_COLUMNS])
        return self._rest

    def encode_face(self, motion: Motion) -> Motion:
        """A motion of faces as the 35 numbers."""
        relative = motion.kind.relative
        values = who.face_values(motion)
        if relative:
            values = values + world.neutral()[MOTION_COLUMNS]
        numbers = self.encode_factors(values)
        return replace(motion, values=numbers, kind=TALK._replace(relative=relative), names=self.channels.motion_names)

    def encode_factors(self, values: np.ndarray) -> np.ndarray:
        """The 35 numbers float32 [T, 35] of motion factors [T, 20] of the world."""
        pose = values[:, [MOTION.index(name) for name in READ[:POSE]]]
        still = np.array(values, np.float32)
        still[:, : len(POSE_FACTORS)] = world.neutral()[MOTION_COLUMNS[: len(POSE_FACTORS)]]
        codes = motion_codes(self.generator, still)
        with torch.inference_mode():
            code = self.code_of(codes).cpu().numpy()
        return np.concatenate([pose, code], 1).astype(np.float32)

    def with_factors(self, motion: Motion, before: Motion, after: Motion) -> Motion:
        """The 35 numbers of a motion, changed as much as those of faces are from `before` to `after`.

        What the columns of `after` say besides (edits) goes along.
        """
        first, second = (self.encode_face(curves.driven(each)).values for each in (before, after))
        more = after.values[:, len(MOTION) :]
        values = np.concatenate([motion.values + second - first, more], 1).astype(np.float32)
        return replace(motion, values=values, names=(*motion.names, *after.names[len(MOTION) :]))

    def code_of(self, w: Tensor) -> Tensor:
        """The 32 numbers [B, 32] of the expression in codes w [B, L, D]."""
        rows = self.rest.expand(len(w), -1, -1).clone()
        rows[:, list(_EXPRESSION_ROWS)] = w[:, list(_EXPRESSION_ROWS)].to(rows)
        flat, rest = (self.generator.style_space.flatten(self.generator.styles(each)) for each in (rows, self.rest))
        return self.channels.code(flat - rest)

    def own_numbers(self, identity: Identity) -> Tensor:
        """The 35 numbers [35] that an identity's own portrait shows."""
        if self._own is None or self._own[0] is not identity:
            motion = who.own_motion(self, identity)
            pose = [float(motion[MOTION.index(name)]) for name in READ[:POSE]]
            code = self.code_of(identity.w[None])[0]
            self._own = identity, torch.cat([torch.tensor(pose).to(code), code])
        return self._own[1]

    @torch.inference_mode()
    def read_images(self, images: Tensor) -> np.ndarray:
        """The motion factors [B, 20] of portraits [B, 3, H, W] in [-1, 1] in canonical framing, in one pass.

        Raises ValueError without a reader.
        """
        reader = self.channels.reader
        if not isinstance(reader, Reader):
            raise ValueError("These channels have no reader of images; choose --reading points.")
        images = images.to(device_of(self))
        return reader.motion(self.face(images), images)

    def _read(self, clip: Clip, found: Motion, always: bool) -> Motion:
        """A measured motion with pose and expression read off the images instead, if they are drawn, or always."""
        counted = [frame for frame in range(len(found)) if frame not in found.missing]
        values, crops, held = found.values.copy(), list[np.ndarray](), list[int]()
        columns = [found.names.index(name) for name in READ]
        for index, frame in enumerate(clip):
            if index not in found.missing:
                crop = placement.cut(frame, found.placement[index], who.CROP)
                if index == counted[0] and not always and not self._is_drawn(crop):
                    return found
                crops.append(crop)
                held.append(index)
            if crops and (len(crops) == CHUNK or index + 1 == len(found)):
                images = torch.from_numpy(np.stack(crops)).permute(0, 3, 1, 2).float() / 127.5 - 1
                values[np.ix_(held, columns)] = self.read_images(images)[:, [MOTION.index(name) for name in READ]]
                crops, held = [], []
        return replace(found, values=through_blinks(_filled(values, found.missing)))

    def choose_frame(self, clip: Clip, motion: Motion) -> int:
        """The frame of a clip that says best who it is, by its motion: near frontal, and of these the one whose
        reconstruction by the encoder is most similar, if the people are drawn; the most frontal one otherwise."""
        turn = motion.values[:, [motion.names.index(name) for name in ("yaw", "pitch")]] @ np.diag(1 / TURN)
        order = [int(frame) for frame in np.hypot(*turn.T).argsort(kind="stable") if frame not in motion.missing]
        if not order:
            return 0
        chosen = sorted(order[:CANDIDATES])
        crops = np.stack([placement.cut(frame, motion.placement[index], who.CROP)
                          for index, frame in enumerate(clip) if index in chosen])  # fmt: skip
        if not self._is_drawn(crops[chosen.index(order[0])]):
            return order[0]
        return chosen[fit.best_of(self.generator, who.encoded(self.encode, crops), crops)]

    def _refined(self, clip: Clip, found: Motion, steps: int) -> Motion:
        """The 32 numbers after optimisation against the encoder's reconstruction of each frame."""
        counted = [frame for frame in range(len(found)) if frame not in found.missing]
        crops, codes = list[np.ndarray](), list[Tensor]()
        for index, frame in enumerate(clip):
            if index not in found.missing:
                crops.append(placement.cut(frame, found.placement[index], who.CROP))
                if index == counted[0] and not self._is_drawn(crops[0]):
                    raise ValueError("--refine needs drawn people, whom the encoder reproduces; leave it out here.")
                codes.append(who.encoded(self.encode, crops[-1][None]))
        w, values = torch.cat(codes), found.values.copy()
        near = np.hypot(*(values[counted][:, :2] / TURN).T).argsort(kind="stable")[:CANDIDATES]
        best = int(near[fit.best_of(self.generator, w[near], np.stack(crops)[near])])
        numbers = torch.from_numpy(values[counted]).to(device_of(self))
        values[counted, POSE:] = fit.clip_code(self, w[best], w, numbers, Perceptual.best(device_of(self)), steps).cpu()
        return replace(found, values=_filled(values, found.missing))

    def _is_drawn(self, crop: np.ndarray) -> bool:
        if self.encode is None or self.channels.reader is None:
            return False
        return who.reproduces(self.generator, who.encoded(self.encode, crop[None]), crop)

    def _of_codes(self, codes: Codes) -> Motion:
        """The numbers of inverted frames: pose by the image, expression by the styles."""
        parts = []
        for w in codes.w.split(CHUNK):
            w = w.to(device_of(self))
            with torch.inference_mode():
                pose = self.read_images(self.generator.synthesize(w).clamp(-1, 1))
                pose = pose[:, [MOTION.index(name) for name in READ[:POSE]]]
                parts.append(np.concatenate([pose, self.code_of(w).cpu().numpy()], 1))
        values = np.concatenate(parts).astype(np.float32)
        return Motion(values, TALK, self.channels.motion_names, codes.rate, codes.placement.numpy().astype(np.float32))

    def _face_backend(self, detector: backend.Detector) -> backend.FaceBackend:
        if detector not in self._faces:
            self._faces[detector] = backend.open_backend(detector)
        return self._faces[detector]


def _filled(values: np.ndarray, missing: tuple[int, ...]) -> np.ndarray:
    """Values [T, K] with those of missing frames taken from the nearest frames by straight lines."""
    here = np.setdiff1d(np.arange(len(values)), missing)
    filled = [np.interp(np.arange(len(values)), here, column[here]) for column in values.T]
    return np.stack(filled, 1).astype(np.float32)
