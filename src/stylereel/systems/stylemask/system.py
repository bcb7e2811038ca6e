"""StyleMask as a system: who, what moves, and the style vectors that show both."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from fractions import Fraction
from pathlib import Path
from typing import Literal

import numpy as np
import torch
from torch import Tensor, nn

from stylereel import world
from stylereel.core.builtin import builtin
from stylereel.core.latents import CODES, FACE, Codes, Identity, Motion
from stylereel.core.system import Clip, Driver, Frames, Source, device_of
from stylereel.core.weights import config_of, load_module
from stylereel.edit import curves
from stylereel.faces import backend, placement
from stylereel.faces.coefficients import NAMES
from stylereel.family.encoder import load_encoder
from stylereel.family.people import motion_codes
from stylereel.generator import StyleGAN2
from stylereel.media.video import VideoReader
from stylereel.systems import sources as who
from stylereel.systems.stylemask.networks import KIND, MaskConfig, MaskNets, load_masks
from stylereel.world.factors import MOTION, MOTION_COLUMNS, POSE

Parts = Literal["all", "pose", "expression"]
CHUNK = 8  # frames inverted together
STEADY = 0.1  # seconds, of the crops in FFHQ's framing, as in `stylereel invert`


class StyleMask:
    """Reenactment of a portrait by the motion of a clip, an image or codes.

    Motion is in the coordinates FACE (the built-in family only) or CODES (inverted frames); relative motion holds
    differences from the first frame, which are added to the source's own.
    """

    name = "stylemask"
    context = 0

    def __init__(
        self,
        generator: StyleGAN2,
        encoder: nn.Module | None,
        mask_nets: MaskNets,
        files: Sequence[Path] = (),
        builtin_family: bool = True,
        factor_latents: bool = False,
    ) -> None:
        """A system of given networks.

        Args:
            encoder: images [B, 3, 256, 256] in [-1, 1] to W+ codes, None if only seeds and codes are used.
            builtin_family: whether the generator frames portraits as the world does.
            factor_latents: whether each number of its latents means a factor of the world; then codes of a motion
                need neither a drawing nor the encoder, and have none of its error.
        """
        self.generator = generator.eval().requires_grad_(False)
        self.encode = None if encoder is None else encoder.eval()
        self.mask_nets = mask_nets.eval()
        self.weight_files = tuple(files)
        self.builtin_family = builtin_family
        self.factor_latents = factor_latents
        kinds = (FACE, CODES) if builtin_family else (CODES,)
        self.motion_kinds = tuple(kind._replace(relative=relative) for kind in kinds for relative in (False, True))
        self._faces: dict[backend.Detector, backend.FaceBackend] = {}
        self._own: tuple[Identity, np.ndarray] | None = None

    @classmethod
    def builtin(cls) -> StyleMask:
        """The system on the built-in generator."""
        files = [builtin(name) for name in ("generator", "encoder", "stylemask")]
        generator = StyleGAN2.load(files[0])
        encoder = load_encoder(files[1])
        mask_nets = load_module(files[2], KIND, lambda config: MaskNets(config_of(MaskConfig, config)))
        return cls(generator, encoder, mask_nets, files, factor_latents=True)

    @classmethod
    def from_files(cls, *, generator: str, masks: str, encoder: str | None = None) -> StyleMask:
        """The system on a user's files; nothing in them is run.

        Args:
            generator: weight file of a StyleGAN2 generator of any known tool.
            masks: mask networks of this generator: our own, mask_network_1024.pt, or a checkpoint of the authors.
            encoder: weight file of an encoder of this generator (e4e, pSp, ReStyle), for images and clips.

        Raises:
            ValueError: a file cannot be used, or two do not fit each other.
        """
        from stylereel.invert import networks

        files = networks.choose(encoder, generator)
        found = networks.load(files)
        if not isinstance(found.generator, StyleGAN2):
            raise ValueError(f"{generator} is no StyleGAN2 generator, which StyleMask needs.")
        mask_nets = load_masks(masks, found.generator)
        used = [files[name] for name in ("generator", "encoder") if name in files]
        canonical = networks.is_canonical(files)
        return cls(found.generator, found.encode if encoder else None, mask_nets, [*used, Path(masks)], canonical)

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
        """The person to animate: a seed, an image uint8 [H, W, 3] with a face, codes of one, or a saved identity.

        Of an image and of codes the `placement` [4] is kept too. What is inverted is taken as it is, never truncated.

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

        return who.identify(self, source, psi, find, set_)

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
    ) -> Motion:
        """The motion of a face in a clip or image, or in codes.

        Args:
            driving: the clip (its name, or open already), an image, or codes.
            missing: what to do with frames without a face: hold the last one, interpolate, skip the edit (show the
                source as it is), or stop.
            face: which of several faces: largest, left, a number (0 is the left-most), or an image of the person.
            strength: factor on the expression, 1 as it is; of codes, on their difference from the first frame.
            smoothing: width in seconds of a Gaussian low-pass of the motion, without lag; 0 adds none.
            motion: absolute shows the driver's pose and expression; relative adds what changes since the first frame
                to the source's own.
            detector: what finds and reads faces; auto is the mesh where it is installed, else dlib.

        Raises:
            ValueError: no such face, no such detector, codes of another generator, or a file that cannot be read
                (MediaError).
        """
        who.check_shaping(strength, smoothing)
        if isinstance(driving, Codes):
            who.check_codes(driving.w[0], self.generator)
            found = _of_codes(driving.w, driving.rate, driving.placement.numpy())
        else:
            reader = VideoReader(driving) if isinstance(driving, str | Path) else driving
            track = backend.track(reader, reader.rate, missing, self._face_backend(detector), face)
            if not self.builtin_family:
                found = self._invert(reader, track)
            else:
                found = who.face_motion(track)
        pose = np.arange(len(NAMES)) < len(POSE) if found.kind.coordinates == FACE.coordinates else None
        return who.shape_motion(found, strength, smoothing, motion, pose)

    follow = who.follow

    def apply(self, identity: Identity, motion: Motion, *, parts: Parts = "all") -> Frames:
        """Style vectors that show `identity` with each frame of `motion`.

        Args:
            parts: whether all of the motion is shown, its pose alone, or its expression alone; the rest stays the
                source's. Codes hold both in one.

        Raises:
            ValueError: parts of codes.
        """
        own = curves.edited(identity, motion).to(device_of(self))
        motion = curves.driven(motion)
        if motion.kind.coordinates == CODES.coordinates:
            if parts != "all":
                raise ValueError("Codes hold pose and expression in one; leave out --parts, or drive by a clip.")
            target = torch.from_numpy(motion.values).view(len(motion), *identity.w.shape).to(own)
            target = target + own if motion.kind.relative else target
        else:
            values = who.face_values(motion)
            if motion.kind.relative:
                values = self._own_motion(identity) + values
            if parts != "all":
                pose = np.arange(len(MOTION)) < len(POSE)
                values = np.where(pose == (parts == "pose"), values, self._own_motion(identity))
            target = self.target_codes(values)
        return Frames(s=self.mix(own, target))

    # Parts of the verbs

    def mix(self, source: Tensor, target: Tensor) -> list[Tensor]:
        """Style vectors [B, C_l] of all layers for W+ codes [1 or B, L, D] of sources and of targets."""
        nets, generator = self.mask_nets, self.generator
        mixed = nets(nets.vectors(generator, source), nets.vectors(generator, target))
        return nets.styles(generator, mixed, source)

    def target_codes(self, motion: np.ndarray) -> Tensor:
        """W+ codes [B, L, D] of the neutral head with motion values [B, M] of the world."""
        if self.factor_latents:
            return motion_codes(self.generator, motion)
        values = np.tile(world.neutral(), (len(motion), 1))
        values[:, MOTION_COLUMNS] = np.clip(motion, world.LOW[MOTION_COLUMNS], world.HIGH[MOTION_COLUMNS])
        return who.encoded(self.encode, np.stack([world.draw(v, 128).image for v in world.align(values)]))

    def portrait(self, identity: Identity) -> Frames:
        """What shows an identity as it is: its own code."""
        return Frames(w=identity.w[None].to(device_of(self)))

    def to(self, device: torch.device | str) -> StyleMask:
        """Move all networks to a device."""
        for net in (self.generator, self.encode, self.mask_nets):
            if net is not None:
                net.to(device)
        return self

    def _invert(self, reader: Clip, track: backend.Track) -> Motion:
        """The codes of every frame, cut out in FFHQ's framing."""
        rows = placement.place_ffhq(track.landmarks, track.rate, track.counted, STEADY)
        codes: list[Tensor] = []
        crops: list[np.ndarray] = []
        for index, frame in enumerate(reader):
            crops.append(placement.cut(frame, rows[index], who.CROP))
            if len(crops) == CHUNK or index + 1 == len(rows):
                codes.append(who.encoded(self.encode, np.stack(crops)))
                crops = []
        found = _of_codes(torch.cat(codes), track.rate, np.asarray(rows, np.float32))
        return replace(found, missing=tuple(track.missing), num_faces=track.num_faces)

    def _own_motion(self, identity: Identity) -> np.ndarray:
        """The motion values [M] that the portrait of an identity shows, by the built-in face net."""
        if self._own is None or self._own[0] is not identity:
            self._own = identity, who.own_motion(self, identity)
        return self._own[1]

    def _face_backend(self, detector: backend.Detector) -> backend.FaceBackend:
        if detector not in self._faces:
            self._faces[detector] = backend.open_backend(detector)
        return self._faces[detector]


def _of_codes(w: Tensor, rate: Fraction, rows: np.ndarray) -> Motion:
    """W+ codes [T, L, D] as a motion."""
    names = tuple(f"w{row}.{column}" for row in range(w.shape[1]) for column in range(w.shape[2]))
    return Motion(w.flatten(1).cpu().numpy(), CODES, names, rate, np.asarray(rows, np.float32))
