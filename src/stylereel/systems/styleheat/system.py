"""StyleHEAT as a system: who, what moves, and the moved state from which the generator draws on."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import ClassVar, Literal, NamedTuple

import numpy as np
import torch
from torch import Tensor, nn

from stylereel.core.builtin import builtin
from stylereel.core.latents import FACE, Codes, Identity, Motion, MotionKind
from stylereel.core.system import Clip, Driver, Frames, Source, device_of
from stylereel.edit import curves
from stylereel.encoders.hfgi import HFGI, LAYER
from stylereel.faces import backend, deep3d, placement
from stylereel.family.encoder import load_encoder
from stylereel.generator import StyleGAN2
from stylereel.media.video import VideoReader
from stylereel.systems import sources as who
from stylereel.systems.styleheat.files import AUDIO_CALIBRATION, CALIBRATION, KINDS, load_calibration, load_warper
from stylereel.systems.styleheat.flow import place_in_frame, warp
from stylereel.systems.styleheat.guide import guides
from stylereel.systems.styleheat.motion import (
    FIRST_INPUTS,
    INPUTS,
    beside_own,
    coordinates,
    sound_of,
    windows,
    with_sound,
)
from stylereel.systems.styleheat.networks import FLOW_SIZE, RADIUS, Calibration, Warper
from stylereel.systems.styleheat.sound import move_by_sound
from stylereel.systems.styleheat.state import COLOURS, State, look, read_state, split
from stylereel.world.factors import MOTION, POSE
from stylereel.world.speech import MOUTH

DEEP3D = MotionKind("deep3d")  # 73 numbers of Deep3D
_DEEP3D_NAMES = (
    *(f"expression{i}" for i in range(64)),
    *("pitch", "yaw", "roll", "x", "y", "z", "crop_ratio", "crop_x", "crop_y"),
)
EXPRESSION, CROP = slice(0, 64), slice(70, 73)  # of these
FRAME = 256  # pixels of the frames that Deep3D reads
CHUNK = 8  # frames read together
Parts = Literal["all", "pose", "expression"]
_IS_MOUTH = np.isin(MOTION, MOUTH)


class _Prepared(NamedTuple):
    """What of an identity stays the same for all frames: state, its joined map or features, and the warper's image."""

    identity: Identity
    generator: StyleGAN2
    state: State
    image: Tensor


class StyleHEAT:
    """A portrait moved by the motion of a clip or image: its state at 64 px is warped and repaired.

    Motion is in the coordinates FACE in the built-in family, DEEP3D with the authors' weights; relative motion holds
    differences from the first frame, which are added to the source's own.
    """

    name = "styleheat"
    context = RADIUS
    moves_in_frame = True
    movers = ("warper", "calibration")
    # It learned on from the other, so what tunes that to a photograph tunes it as well: by sound nothing is tuned.
    heirs: ClassVar = {"calibration": "audio_calibration"}

    def __init__(
        self,
        generator: StyleGAN2,
        encoder: nn.Module | None,
        warper: Warper,
        calibration: Calibration | None,
        hfgi: HFGI | None = None,
        coefficients: deep3d.Deep3D | None = None,
        files: Sequence[Path] = (),
        builtin_family: bool = True,
        audio: tuple[Warper, Calibration] | None = None,
    ) -> None:
        """Put the networks together.

        Args:
            generator: of 64 px or more.
            encoder: images [B, 3, 256, 256] in [-1, 1] to W+ codes; None if only seeds and codes are to come.
            warper: moves the state.
            calibration: repairs it; None leaves it as it was warped.
            hfgi: keeps details of a photograph.
            coefficients: what measures faces in clips, for all but the built-in family.
            files: the weight files, for the record.
            builtin_family: the generator is the built-in one or one that learned the world as it did.
            audio: moves the mouth by sound, and the calibration that learned with it.

        Raises:
            ValueError: the networks do not fit each other.
        """
        if generator.resolution < FLOW_SIZE:
            raise ValueError(f"StyleHEAT moves a state of {FLOW_SIZE} px, which a generator of this size lacks.")
        count = INPUTS if builtin_family else deep3d.COUNT
        if warper.config.inputs != count and not (builtin_family and warper.config.inputs == FIRST_INPUTS):
            raise ValueError(f"This warper takes {warper.config.inputs} numbers a frame, the family has {count}.")
        channels = generator.config.channels(FLOW_SIZE)
        if calibration is not None and calibration.config.channels not in (channels, channels + COLOURS):
            raise ValueError(
                f"The calibration is for {calibration.config.channels} maps, not the generator's {channels}."
            )
        self.generator = generator.eval().requires_grad_(False)
        self.encode = None if encoder is None else encoder.eval()
        self.warper, self.calibration, self.hfgi = warper.eval(), calibration and calibration.eval(), hfgi
        self.coefficients = coefficients
        for net in audio or ():
            net.eval()
        self.audio_warper, self.audio_calibration = audio or (None, None)
        self.weight_files = tuple(files)
        self.builtin_family = builtin_family
        kind = FACE if builtin_family else DEEP3D
        self.motion_kinds = (kind, kind._replace(relative=True))
        # In the authors' code the image so far stays where it is.
        self.moves_image = warper.config.grid == "centres"
        if calibration is not None:
            self.moves_image = calibration.config.channels > channels
        self._faces: dict[backend.Detector, backend.FaceBackend] = {}
        self._prepared: _Prepared | None = None
        self._own: tuple[Identity, np.ndarray] | None = None

    @classmethod
    def builtin(cls) -> StyleHEAT:
        """The system on the built-in generator."""
        files = [builtin(name) for name in ("generator", "encoder", "styleheat-video", "styleheat-calibration")]
        generator, encoder = StyleGAN2.load(files[0]), load_encoder(files[1])
        return cls(generator, encoder, load_warper(files[2]), load_calibration(files[3]), files=files)

    @classmethod
    def from_files(
        cls,
        *,
        warper: str | None = None,
        generator: str | None = None,
        calibration: str | None = None,
        encoder: str | None = None,
        hfgi: str | None = None,
        coefficients: str | None = None,
        audio_warper: str | None = None,
        audio_calibration: str | None = None,
    ) -> StyleHEAT:
        """The system on a user's files; nothing in them is run.

        Args:
            warper: styleheat-video.safetensors, StyleHEAT_visual.pt, or video_warper.pth; by default the built-in one
                with its calibration.
            generator: weight file of a StyleGAN2 generator of any known tool, for the authors' weights
                StyleGAN_e4e.pth; by default the built-in one.
            calibration: styleheat-calibration.safetensors or StyleHEAT_visual.pt; none by default.
            encoder: of this generator (Encoder_e4e.pth), for images and clips.
            hfgi: HFGI of this generator (hfgi.pth), which keeps details of a photograph.
            coefficients: Deep3D's epoch_20.pth, which the authors' warper is driven by.
            audio_warper: builtin, or styleheat-audio.safetensors of `train styleheat-sound`, by which the mouth
                follows sound in the place of the built-in net from sound to motion.
            audio_calibration: styleheat-audio-calibration.safetensors, which learned with it; the built-in one's is
                built in.

        Raises:
            ValueError: a file cannot be used, or two do not fit each other.
        """
        from stylereel.invert import networks
        from stylereel.zoo.encoders import load_hfgi_file

        if warper is None:
            if generator is not None:
                raise ValueError("A generator of your own also needs --warper; --help shows all flags.")
            warper, calibration = str(builtin(KINDS["video"])), calibration or str(builtin(CALIBRATION))
        if audio_warper == "builtin" and audio_calibration is None:
            audio_warper, audio_calibration = str(builtin(KINDS["audio"])), str(builtin(AUDIO_CALIBRATION))
        if (audio_warper is None) != (audio_calibration is None):
            raise ValueError("--audio-warper and --audio-calibration learned together; give both or none.")
        files = networks.choose(encoder, generator)
        found = networks.load(files)
        if not isinstance(found.generator, StyleGAN2):
            raise ValueError(f"{generator} is no StyleGAN2 generator, which StyleHEAT needs.")
        moves = load_warper(warper)
        family = moves.config.inputs == INPUTS
        if not family:  # the authors' networks were trained without noise
            for name, parameter in found.generator.named_parameters():
                if name.endswith("noise_strength"):
                    parameter.data.zero_()
        sound = None
        if audio_warper and audio_calibration:
            sound = load_warper(audio_warper, "audio"), load_calibration(audio_calibration)
            if not family or sound[0].config.size != FLOW_SIZE:
                raise ValueError("An audio warper works with the built-in family, for which it was trained.")
        chosen = (warper, calibration, hfgi, coefficients, audio_warper, audio_calibration)
        given = [Path(path) for path in chosen if path]
        used = [files[name] for name in ("generator", "encoder") if name in files]
        return cls(
            found.generator,
            found.encode if encoder or generator is None else None,
            moves,
            load_calibration(calibration) if calibration else None,
            load_hfgi_file(hfgi) if hfgi else found.hfgi,
            deep3d.load_deep3d(coefficients) if coefficients else None,
            [*used, *given],
            family,
            sound,
        )

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
        """Who is to move: a seed, an image uint8 [H, W, 3] with a face, codes of one, or a saved identity.

        Of an image and of codes the `placement` [4] is kept too; with HFGI, of an image also its state, and of codes
        that were optimised in feature space theirs. What is inverted is taken as it is, never truncated.

        Args:
            source: seed of an invented person (0 or more), an image, codes (their first frame), or an identity.
            psi: how far an invented person may lie from the mean face, 0 to 1; nothing else is pulled there.
            source_face: which one of several faces in the image; as for `face`.
            detector: what finds and reads faces; auto is the mesh where it is installed, else dlib.
            set_: corrects what was read of a photograph, or a seed's person: beard=0, hair=curls, glasses=round,
                age=old, hair_colour=blond, face=woman, or any factor of the world; may be given several times.

        Raises:
            ValueError: no such face in the image, a negative seed, psi outside 0 to 1, no such detector, or codes
                of another generator.
        """
        points = np.empty(0)

        def find(picture: np.ndarray) -> backend.Track:
            nonlocal points
            track = backend.track_picture(picture, self._face_backend(detector), source_face)
            points = track.landmarks[0]
            return track

        identity = who.identify(self, source, psi, find, set_)
        if isinstance(source, Codes) and source.features and not set_:
            maps = {layer: each[:1].to(device_of(self)) for layer, each in source.features.items()}
            with torch.inference_mode():
                state = read_state(self.generator, identity.w[None].to(device_of(self)), maps=maps)
            return replace(identity, tensors={**identity.tensors, **_kept(state)})
        if not isinstance(source, np.ndarray):
            return identity
        row = identity.tensors["placement"].numpy()
        crop = placement.cut(source, row, FRAME)
        kept = dict(identity.tensors)
        if self.hfgi is not None:
            image = torch.tensor(crop[None], device=device_of(self)).permute(0, 3, 1, 2).float() / 127.5 - 1
            with torch.inference_mode():
                w = identity.w[None].to(image.device)
                state = read_state(self.generator, w, self.hfgi(image, self.generator.synthesize(w)))
            kept |= _kept(state)
        if not self.builtin_family and self.coefficients is not None:
            shown = placement.to_crop(points, row) * FRAME
            kept["coefficients"] = torch.from_numpy(deep3d.coefficients(self.coefficients, [crop], shown[None])[0])
        return replace(identity, tensors=kept)

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
        """The motion of a face in a clip or image.

        Args:
            driving: the clip (its name, or open already), an image or, in the built-in family, codes: what the
                generator makes of them is read.
            missing: what to do with frames without a face: hold the last one, interpolate, skip the edit (show the
                source as it is), or stop.
            face: which one of several: largest, left, a number (0 is the left-most), or an image of the person.
            strength: factor on the expression, 1 as it is.
            smoothing: width in seconds of a Gaussian low-pass of the motion, without lag; 0 adds none.
            motion: absolute shows the driver's pose and expression; relative adds what changes since the first frame
                to the source's own.
            detector: what finds and reads faces; auto is the mesh where it is installed, else dlib.

        Raises:
            ValueError: no such face, no such detector, codes of another generator, or a file that cannot be read
                (MediaError); or, outside of the built-in family, codes, or no coefficients network.
        """
        who.check_shaping(strength, smoothing)
        if isinstance(driving, Codes):
            return who.shape_motion(self._of_codes(driving), strength, smoothing, motion, self._is_pose())
        reader = VideoReader(driving) if isinstance(driving, str | Path) else driving
        track = backend.track(reader, reader.rate, missing, self._face_backend(detector), face)
        found = who.face_motion(track) if self.builtin_family else self._measure(reader, track)
        return who.shape_motion(found, strength, smoothing, motion, self._is_pose())

    follow = who.follow

    def apply(self, identity: Identity, motion: Motion, *, parts: Parts = "all") -> Frames:
        """The moved states of `identity` at all frames of `motion` but the 13 at either end.

        Args:
            parts: whether all of the motion is shown, its pose alone, or its expression alone; the rest stays the
                source's.
        """
        prepared = self._prepare(identity)
        motion, heard = sound_of(motion)
        inner = slice(RADIUS, len(motion) - RADIUS)
        shown, frame = motion.part(inner.start, inner.stop), curves.in_frame(motion)[inner]
        codes, motion = curves.edited(identity, shown).to(prepared.image.device), curves.driven(motion)
        own = self._own_values(identity)
        values = who.face_values(motion) if self.builtin_family else motion.values
        if motion.kind.relative:
            values = own + values
        if parts != "all":
            values = np.where(self._is_pose() == (parts == "pose"), values, own)
        if heard is not None:
            values = np.where(_IS_MOUTH, own, values)  # what sound moves
        given = values
        if self.builtin_family:
            values = self._coordinates(values)
        elif not motion.kind.relative:
            values = values.copy()
            values[:, CROP] = own[CROP]  # where a face lies in the crop is the source's
        window, led = windows(values)[inner], None
        if self.builtin_family:
            window, led = self._beside(own, window, given[inner])
        state, image = prepared.state, prepared.image
        if curves.is_edited(identity, shown):
            state, image = self._edited(identity, prepared, codes)
        mel = None if heard is None else heard[inner].to(codes)
        state = self.moved(state, image, window.to(codes), None if led is None else led.to(codes), codes, mel)
        if self.moves_image and (frame != (0, 0, 1)).any():
            state = split(warp(state.joined(), place_in_frame(torch.from_numpy(frame).to(codes))))
        return Frames(w=codes.expand(len(window), -1, -1), start=(LAYER, state.features, state.so_far))

    def portrait(self, identity: Identity) -> Frames:
        """What shows an identity as it is: its own state."""
        state, w = self._state(identity), identity.w.to(device_of(self))[None]
        return Frames(w=w, start=(LAYER, state.features, state.so_far))

    def posed(self, identity: Identity, motion: np.ndarray) -> Frames:
        """See `core.system.Poses`; built-in family only."""
        config, codes = self.warper.config, identity.w[None].to(device_of(self))
        state = read_state(self.generator, codes)
        image = look(self.generator, state, codes, config.size, config.grid == "corners")
        lasting = torch.cat([windows(each[None]) for each in self._coordinates(motion)])
        window, led = self._beside(self._own_values(identity), lasting, motion)
        state = self.moved(state, image, window.to(codes), None if led is None else led.to(codes))
        return Frames(w=codes.expand(len(motion), -1, -1), start=(LAYER, state.features, state.so_far))

    def to(self, device: torch.device | str) -> StyleHEAT:
        """Move all networks to a device."""
        heard = self.audio_warper, self.audio_calibration
        for net in (self.generator, self.encode, self.warper, self.calibration, self.hfgi, *heard):
            if net is not None:
                net.to(device)
        self._prepared = None
        return self

    # Parts of the verbs

    def with_sound(self, motion: Motion, samples: np.ndarray) -> Motion:
        """A motion of kind "face" whose mouth the audio warper moves by samples [N] at 16 kHz that begin with it."""
        return with_sound(motion, samples)

    def moved(
        self,
        state: State,
        image: Tensor,
        window: Tensor,
        guide: Tensor | None = None,
        w: Tensor | None = None,
        mel: Tensor | None = None,
    ) -> State:
        """States [1 or B, ...] and the warper's images of them [1 or B, 3, S, S], moved by windows [B, N, 27] and
        repaired; guide: [B, 9, 64, 64], for networks that are led by one; w: codes [1 or B, L, D] and mel: [B, 80, 32],
        where sound moves the mouth."""
        count = len(window)
        moved = self.warper(image.expand(count, -1, -1, -1), window, guide)
        joined = state.joined() if self.moves_image else state.features
        joined, descriptor, calibration = joined.expand(count, -1, -1, -1), moved.descriptor, self.calibration
        sound = None
        if mel is not None and w is not None and self.audio_warper is not None:
            calibration = self.audio_calibration
            heard = move_by_sound(self.generator, self.audio_warper, joined, w.expand(count, -1, -1), moved, mel)
            warped, sound = heard.warped, heard.descriptor
        else:
            warped = self.warper.warp(joined, moved.flow)
        if calibration is not None:
            known = descriptor if calibration.config.descriptor else None
            warped = calibration(warped, known, guide, sound).apply(warped)
        return split(warped) if self.moves_image else State(warped, state.so_far.expand(count, -1, -1, -1))

    def _coordinates(self, values: np.ndarray) -> np.ndarray:
        """Motion factors [B, M] as the warper takes them: [B, N]."""
        return coordinates(values)[:, : self.warper.config.inputs // 2]

    def _beside(self, own: np.ndarray, window: Tensor, motion: np.ndarray) -> tuple[Tensor, Tensor | None]:
        """Windows [B, N, 27] beside the source's own motion [M], and what leads a warper from it to motion [B, M]."""
        led = guides(own, motion) if self.warper.config.guide else None
        return beside_own(window, self._coordinates(own[None])), led

    def _state(self, identity: Identity) -> State:
        device = device_of(self)
        if "features" in identity.tensors:
            return State(*(identity.tensors[name][None].to(device) for name in ("features", "so_far")))
        with torch.inference_mode():
            return read_state(self.generator, identity.w[None].to(device))

    def _prepare(self, identity: Identity) -> _Prepared:
        kept = self._prepared
        if kept is None or kept.identity is not identity or kept.generator is not self.generator:
            state, w = self._state(identity), identity.w[None].to(device_of(self))
            config = self.warper.config
            image = look(self.generator, state, w, config.size, config.grid == "corners")
            kept = self._prepared = _Prepared(identity, self.generator, state, image)
        return kept

    def _edited(self, identity: Identity, prepared: _Prepared, codes: Tensor) -> tuple[State, Tensor]:
        """States and images of an identity with other codes [B, L, D]; what HFGI kept of a photograph stays."""
        state = read_state(self.generator, codes)
        if "features" in identity.tensors:
            plain = read_state(self.generator, identity.w[None].to(codes))
            state = State(*(new + (kept - old) for new, kept, old in zip(state, prepared.state, plain, strict=True)))
        config = self.warper.config
        return state, look(self.generator, state, codes, config.size, config.grid == "corners")

    def _is_pose(self) -> np.ndarray:
        """Which numbers of a frame are pose: [K]."""
        if self.builtin_family:
            return np.arange(len(MOTION)) < len(POSE)
        return np.arange(deep3d.COUNT) >= EXPRESSION.stop

    def _own_values(self, identity: Identity) -> np.ndarray:
        """The numbers [K] that the identity's own portrait shows."""
        if self._own is None or self._own[0] is not identity:
            self._own = identity, self._read_own(identity)
        return self._own[1]

    def _read_own(self, identity: Identity) -> np.ndarray:
        if self.builtin_family:
            return who.own_motion(self, identity)
        if "coefficients" in identity.tensors:
            return identity.tensors["coefficients"].cpu().numpy()
        state, w = self._state(identity), identity.w[None].to(device_of(self))
        image = look(self.generator, state, w, FRAME, whole=True)[0]
        picture = ((image + 1) * 127.5).round().byte().permute(1, 2, 0).cpu().numpy()
        points = backend.find_face(picture, self._face_backend("auto"), "largest")
        return deep3d.coefficients(self._deep3d(), [picture], points[None])[0]

    def _face_backend(self, detector: backend.Detector) -> backend.FaceBackend:
        if detector not in self._faces:
            self._faces[detector] = backend.open_backend(detector)
        return self._faces[detector]

    def _deep3d(self) -> deep3d.Deep3D:
        if self.coefficients is None:
            raise ValueError("This warper is driven by Deep3D's coefficients; give epoch_20.pth with --coefficients.")
        return self.coefficients

    def _of_codes(self, codes: Codes) -> Motion:
        """The motion factors of what codes show."""
        if not self.builtin_family:
            raise ValueError("With these weights the face in a clip or image drives; give one instead of codes.")
        who.check_codes(codes.w[0], self.generator)
        parts = codes.w.to(device_of(self)).split(CHUNK)
        values = np.concatenate([who.motion_of_codes(self, Frames(w=part)) for part in parts])
        return Motion(values.astype(np.float32), FACE, tuple(MOTION), codes.rate, codes.placement.numpy())

    def _measure(self, reader: Clip, track: backend.Track) -> Motion:
        """Deep3D's numbers of every frame, in one square that fits the clip's usual face, in which it moves freely."""
        net = self._deep3d()
        rows = placement.place_ffhq(track.landmarks, track.rate, track.counted)
        row = np.median(np.asarray(rows)[track.counted], axis=0).astype(np.float32)
        found = []
        for index, frame in enumerate(reader):
            points = placement.to_crop(track.landmarks[index], row) * FRAME
            found.append(deep3d.coefficients(net, [placement.cut(frame, row, FRAME)], points[None])[0])
        rows = np.tile(row, (len(found), 1))
        motion = Motion(np.stack(found), DEEP3D, _DEEP3D_NAMES, track.rate, rows)
        return replace(motion, missing=tuple(track.missing), num_faces=track.num_faces)


def _kept(state: State) -> dict[str, Tensor]:
    """A state [1, ...] as an identity keeps it."""
    return {"features": state.features[0].cpu().clone(), "so_far": state.so_far[0].cpu().clone()}
