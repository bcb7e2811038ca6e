"""StyleFaceV as a system: a person's appearance, a sequence of poses, and the w and input transforms that show both."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from fractions import Fraction
from pathlib import Path
from typing import get_args

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from stylereel import world
from stylereel.core.builtin import builtin
from stylereel.core.latents import FACE, Codes, Identity, Motion, MotionKind
from stylereel.core.render import pictures
from stylereel.core.seeds import check_seed
from stylereel.core.system import Clip, Driver, Frames, Source, device_of
from stylereel.core.weights import own_kind
from stylereel.edit import curves
from stylereel.faces import backend, placement
from stylereel.family.nets import SIZE as PIXELS
from stylereel.family.nets import FaceNet, load_face
from stylereel.generator import StyleGAN2, StyleGAN3
from stylereel.media.video import VideoReader
from stylereel.systems import sources as who
from stylereel.systems.stylefacev.data import pose_values
from stylereel.systems.stylefacev.model import (
    KIND,
    NAMES,
    NOISE,
    PLACE,
    RATE,
    SHOWN,
    FacePoseNets,
    PoseNet,
    load_nets,
    places,
    to_code,
    to_values,
    transforms,
)
from stylereel.systems.stylefacev.networks import Normalisation
from stylereel.systems.stylefacev.published import KIND as PAPER
from stylereel.systems.stylefacev.published import PublishedStyleFaceV
from stylereel.world.factors import LATENT_DIM, MOTION_COLUMNS, POSE
from stylereel.zoo.formats import load_generator_file

CHUNK = 16  # frames read together
NEAR = 0.2  # deviations between the mean w that the fusion knows and a generator's own
STEADY = 0.1  # seconds, of the crops of a clip
DRAWN = 16.8  # dB at 64 px to which drawn images are reproduced: photographs 11 to 16.5, drawn ones 17 to 22
_POSE_COLUMNS = np.array([name in POSE for name in NAMES])


class StyleFaceV:
    """Appearance of one image, poses of a clip or from noise, on the built-in StyleGAN3-R.

    Motion is the 16 numbers of a pose in the world's units, or in the coordinates FACE; where the head is in the frame
    becomes the generator's input transform, so that it moves and turns with all that is around it.
    """

    name = "stylefacev"
    context = 0
    moves_in_frame = True
    movers: tuple[str, ...] = ()
    builtin_family = True
    encode: nn.Module | None = None  # to W+ codes, which this system does without

    def __init__(self, generator: StyleGAN3, nets: FacePoseNets, face: FaceNet, files: Sequence[Path] = ()) -> None:
        """A system of given networks; the generator's latents must mean the factors of the world."""
        self.generator = generator.eval().requires_grad_(False)
        self.nets, self.face = nets.eval(), face.eval().requires_grad_(False)
        self.weight_files = tuple(files)
        kinds = (MotionKind(KIND), FACE)
        self.motion_kinds = tuple(kind._replace(relative=relative) for kind in kinds for relative in (False, True))
        self._faces: dict[backend.Detector, backend.FaceBackend] = {}
        self._drawer: StyleGAN2 | None = None

    @classmethod
    def builtin(cls) -> StyleFaceV:
        """The system on the built-in StyleGAN3-R."""
        files = [builtin(name) for name in ("generator3", KIND, "face")]
        return cls(StyleGAN3.load(files[0]), load_nets(files[1]), load_face(files[2]), files)

    @classmethod
    def from_files(
        cls, *, weights: str | None = None, generator: str | None = None, normalisation: str = "running"
    ) -> StyleFaceV | PublishedStyleFaceV:
        """The system on a user's files; nothing in them is run.

        Args:
            weights: folder of the authors' files, stylefacev-paper.safetensors, or stylefacev.safetensors; by default
                the built-in one.
            generator: another StyleGAN3 with the mapping network of the built-in one, as the larger one that
                `stylereel train stylefacev --stage larger` makes: poses and appearances stay those learned small.
            normalisation: what the paper's appearance encoder is normalised by: running, the statistics of its
                training, or image, each image's own, as the authors' test command does.

        Raises:
            ValueError: a file cannot be used, or two do not fit each other.
        """
        if normalisation not in get_args(Normalisation):
            raise ValueError(f"The normalisation is running or image, not {normalisation!r}.")
        chosen: Normalisation = "image" if normalisation == "image" else "running"
        folder = weights is not None and Path(weights).is_dir()
        if weights is not None and (folder or own_kind(weights) == PAPER):
            if generator is not None:
                raise ValueError(f"{weights} belongs to a generator already; leave out --generator.")
            return PublishedStyleFaceV.of_folder(weights, chosen) if folder else PublishedStyleFaceV.of_file(
                weights, chosen)  # fmt: skip
        if chosen != "running":
            raise ValueError("The built-in networks have no such layers; give --normalisation with the paper's.")
        files = [builtin("generator3"), Path(weights or builtin(KIND)), builtin("face")]
        nets, shown = load_nets(files[1]), None if generator is None else load_generator_file(generator)
        if generator is not None and shown is not None:
            mean = shown.mean_w.cpu() if isinstance(shown, StyleGAN3) else torch.zeros(0)
            if mean.shape != nets.fusion.mean.shape or bool(
                ((mean - nets.fusion.mean) / nets.fusion.deviation).abs().mean() > NEAR
            ):
                raise ValueError(f"{generator} is no StyleGAN3 with the mapping network that these weights know.")
            files[0] = Path(generator)
        assert shown is None or isinstance(shown, StyleGAN3)
        return cls(shown or StyleGAN3.load(files[0]), nets, load_face(files[2]), files)

    # Verbs

    def identify(
        self,
        source: Source,
        *,
        psi: float = 1.0,
        source_face: str = "largest",
        detector: backend.Detector = "auto",
    ) -> Identity:
        """The person to show: a seed, an image uint8 [H, W, 3] with a face, codes of one, or a saved identity.

        A drawn image is encoded; a photograph is read first, and what is encoded is the world's portrait of the person.

        Args:
            source: seed of an invented person (0 or more), an image, codes of the built-in StyleGAN3 (their first
                frame), or an identity of this system.
            psi: truncation: how far an invented person may be from the mean face, 0 to 1.
            source_face: which of several faces in the image: largest, left, or a number (0 is the left-most).
            detector: what finds and reads faces; auto is the mesh where it is installed, else dlib.

        Raises:
            ValueError: no such face in the image, a negative seed, psi outside 0 to 1, no such detector, or codes of
                another generator.
        """
        if isinstance(source, Codes):
            source = source.identity(self.name)
        if isinstance(source, Identity):
            who.check_codes(source.w, self.generator)
            if "appearance" in source.tensors:
                return replace(source, system=self.name)
            return self._of_w(source.w)
        if isinstance(source, np.ndarray):
            track = backend.track_picture(source, self._face_backend(detector), source_face)
            return self._of_picture(source, track)
        check_seed(source)
        if not 0 <= psi <= 1:
            raise ValueError(f"psi is between 0 and 1, not {psi}.")
        z = torch.from_numpy(np.random.default_rng(source).standard_normal((1, LATENT_DIM))).float()
        with torch.inference_mode():
            return self._of_w(self.generator.map(z.to(device_of(self)), psi=psi)[0])

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
        """The poses of a face in a clip or image, or in codes.

        The head moves in one window for all of a clip, as large as the usual crop of the face.

        Args:
            driving: the clip (its name, or open already), an image, or codes of the built-in StyleGAN3.
            missing: what to do with frames without a face: hold the last one, interpolate, skip the edit (show the
                source as it is), or stop.
            face: which of several faces: largest, left, a number (0 is the left-most), or an image of the person.
            strength: factor on the expression, 1 as it is.
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
            found = self._of_codes(driving)
        else:
            reader = VideoReader(driving) if isinstance(driving, str | Path) else driving
            track = backend.track(reader, reader.rate, missing, self._face_backend(detector), face)
            found = self._of_clip(reader, track)
        return who.shape_motion(found, strength, smoothing, motion, _POSE_COLUMNS)

    follow = who.follow

    def sample(self, seed: int, num_frames: int) -> tuple[Identity, Motion]:
        """The person of the seed, and poses from noise of any length: 16 numbers a frame, so an hour takes 6 MB.

        The same seed gives the same frames, however many samples are made and however long they are.

        Args:
            seed: random seed of the motion and, unless another is named, of the person; 0 or more.
            num_frames: length, 1 or more.

        Raises:
            ValueError: a negative seed, or no frame.
        """
        check_seed(seed)
        if num_frames < 1:
            raise ValueError("A sample needs 1 or more frames.")
        return self.identify(seed), self._motion(to_values(self.sample_path(seed, num_frames)), Fraction(RATE))

    def apply(self, identity: Identity, motion: Motion) -> Frames:
        """W+ codes and input transforms that show `identity` with each frame of `motion`.

        Raises ValueError for edits, whose directions are of another generator.
        """
        if curves.is_edited(identity, motion):
            raise ValueError("Edits are directions of the built-in StyleGAN2; stylefacev shows people by a StyleGAN3.")
        frame = torch.from_numpy(curves.in_frame(motion))
        motion = curves.driven(motion)
        if motion.kind.coordinates == FACE.coordinates:
            values = self._of_face(motion)
        else:
            values = torch.from_numpy(motion.values).float()
        if motion.kind.relative:
            values = values + identity.tensors["pose"].to(values)
        transform = transforms(values)
        moved = values.clone()
        moved[:, PLACE] = torch.cat([torch.zeros(len(frame), 1), frame], 1)
        transform = (transforms(moved) @ transform).float()
        device = device_of(self)
        w = self.nets.fusion(identity.tensors["appearance"][None].to(device), to_code(values).to(device))
        return Frames(w=w[:, None].expand(-1, self.generator.num_ws, -1), transform=transform)

    def portrait(self, identity: Identity) -> Frames:
        """What shows an identity as it is: its own code."""
        return Frames(w=identity.w[None].to(device_of(self)))

    def posed(self, identity: Identity, motion: np.ndarray) -> Frames:
        """See `core.system.Poses`."""
        values = np.tile(identity.tensors["factors"].numpy(), (len(motion), 1))
        values[:, MOTION_COLUMNS] = motion
        poses = torch.from_numpy(pose_values(values))
        w = self.fuse(identity.tensors["appearance"][None], to_code(poses)).clone()
        return Frames(w=w, transform=transforms(poses).float())

    def to(self, device: torch.device | str) -> StyleFaceV:
        """Move all networks to a device."""
        for net in (self.generator, self.nets, self.face):
            net.to(device)
        return self

    # Parts of the verbs

    @torch.inference_mode()
    def sample_path(self, seed: int, num_frames: int, chunk: int = 500) -> Tensor:
        """Pose codes [T, 16] of a seed; a longer path of the same seed begins with the same frames.

        chunk: frames computed at a time; it changes memory, not numbers.
        """
        net = self.nets.motion
        random = np.random.default_rng((88, seed))
        start = net.starts[int(random.integers(len(net.starts)))][None]
        path, state = [start], net.start(start)
        for begin in range(1, num_frames, chunk):
            noise = random.standard_normal((1, min(chunk, num_frames - begin), NOISE), np.float32)
            part, _, state = net.go_on(state, torch.from_numpy(noise).to(start))
            path.append(part[0])
        return net.codes(torch.cat(path)).cpu()

    @torch.inference_mode()
    def appearance(self, crops: np.ndarray) -> Tensor:
        """The appearance codes [B, C] of crops uint8 [B, H, W, 3] in canonical framing."""
        return self.nets.appearance(self._small(crops)).float()

    @torch.inference_mode()
    def poses(self, crops: np.ndarray) -> Tensor:
        """The pose codes [B, 16] of crops uint8 [B, H, W, 3] in canonical framing, as they are within the crops."""
        return self.nets.pose(PoseNet.reading(self.face(self._small(crops))))

    @torch.inference_mode()
    def fuse(self, appearance: Tensor, pose: Tensor) -> Tensor:
        """W+ [B, L, D] of appearance codes [1 or B, C] and pose codes [1 or B, 16]."""
        device = device_of(self)
        w = self.nets.fusion(appearance.to(device), pose.to(device))
        return w[:, None].expand(-1, self.generator.num_ws, -1)

    def _small(self, crops: np.ndarray) -> Tensor:
        images = torch.tensor(crops, device=device_of(self)).permute(0, 3, 1, 2).float() / 127.5 - 1
        return images if images.shape[-1] == PIXELS else F.interpolate(images, (PIXELS, PIXELS), mode="area")

    def _of_w(self, w: Tensor) -> Identity:
        """The identity of the generator's own image of w [L, D]."""
        with torch.inference_mode():
            image = pictures(self.generator.synthesize(w[None].to(device_of(self))))
        code = self.poses(image)[0].cpu()
        tensors = {"appearance": self.appearance(image)[0].cpu(), "pose": to_values(code)}
        return Identity(w.cpu().clone(), self.name, tensors)

    def _of_picture(self, image: np.ndarray, track: backend.Track) -> Identity:
        row = placement.align(track.landmarks[0])
        crop = placement.cut(image, row, who.CROP)
        code, appearance = self.poses(crop[None]), self.appearance(crop[None])
        pose = to_values(code)[0].cpu()
        tensors = {"pose": pose, "placement": torch.from_numpy(row)}
        if not self._is_drawn(crop):
            person = who.read_photograph(self._painter(), image, track)
            tensors |= who.as_read(person)
            values = person.values.copy()
            values[MOTION_COLUMNS] = world.neutral()[MOTION_COLUMNS]  # a face at rest shows most of the person
            appearance = self.appearance(world.draw(world.align(values), PIXELS).image[None])
            pose[SHOWN] = self._of_face(who.face_motion(track))[0, SHOWN]
        w = self.fuse(appearance, to_code(pose)[None])
        return Identity(w[0].cpu().clone(), self.name, {"appearance": appearance[0].cpu(), **tensors})

    @torch.inference_mode()
    def _is_drawn(self, crop: np.ndarray) -> bool:
        """Whether a crop uint8 [H, W, 3] is of the world, so that the networks reproduce it."""
        pose = self.poses(crop[None])
        shown = self.generator.synthesize(
            self.fuse(self.appearance(crop[None]), pose), transform=transforms(to_values(pose)).float()
        )
        small = [F.adaptive_avg_pool2d(each, 64) for each in (shown.clamp(-1, 1), self._small(crop[None]))]
        return bool((small[0] - small[1]).square().mean() < 4 * 10 ** (-DRAWN / 10))

    def _of_clip(self, reader: Clip, track: backend.Track) -> Motion:
        rows = placement.place(track.landmarks, track.rate, track.counted, STEADY)
        window = np.append(np.median(rows[track.counted][:, :3], axis=0), 0.0).astype(np.float32)
        codes, crops, first = list[Tensor](), list[np.ndarray](), None
        for index, frame in enumerate(reader):
            crops.append(placement.cut(frame, rows[index], PIXELS))
            if first is None and track.counted[index]:
                first = crops[-1]
            if len(crops) == CHUNK or index + 1 == len(rows):
                codes.append(self.poses(np.stack(crops)).cpu())
                crops = []
        values = to_values(torch.cat(codes))
        if first is not None and not self._is_drawn(first):
            # The face net knows drawn faces; of others the points tell more about lids, lips and angles.
            values[:, SHOWN] = self._of_face(who.face_motion(track))[:, SHOWN]
        # Where the upright head is: the crop's placement, and the head's in the crop.
        moved = torch.from_numpy(placement.stylegan3_transform(rows, window)) @ transforms(values)
        heads = placement.placement_from_stylegan3(moved.numpy(), window)
        window[:3] = np.median(heads[track.counted][:, :3], axis=0)
        values[:, PLACE] = places(torch.from_numpy(placement.stylegan3_transform(heads, window))).to(values)
        found = self._motion(values, track.rate, np.asarray(rows, np.float32))
        return replace(found, missing=tuple(track.missing), num_faces=track.num_faces)

    def _of_codes(self, codes: Codes) -> Motion:
        parts = []
        for w in codes.w.split(CHUNK):
            with torch.inference_mode():
                parts.append(self.poses(pictures(self.generator.synthesize(w.to(device_of(self))))).cpu())
        return self._motion(to_values(torch.cat(parts)), codes.rate, codes.placement.numpy().astype(np.float32))

    def _of_face(self, motion: Motion) -> Tensor:
        """Motion of faces as poses [T, 16], by the mean head."""
        values = np.tile(world.neutral(), (len(motion), 1))
        rest = world.neutral()[MOTION_COLUMNS]
        given = who.face_values(motion)
        values[:, MOTION_COLUMNS] = np.clip(
            given + rest * motion.kind.relative, world.LOW[MOTION_COLUMNS], world.HIGH[MOTION_COLUMNS]
        )
        poses = torch.from_numpy(pose_values(values))
        return poses - torch.from_numpy(rest[: len(NAMES)]) if motion.kind.relative else poses

    def _motion(self, values: Tensor, rate: Fraction, rows: np.ndarray | None = None) -> Motion:
        whole = np.tile(np.array((0.5, 0.5, 1.0, 0.0), np.float32), (len(values), 1))
        return Motion(
            values.cpu().numpy().astype(np.float32), self.motion_kinds[0], NAMES, rate, whole if rows is None else rows
        )

    def _painter(self) -> StyleGAN2:
        """What reads a photograph by drawing people: the built-in StyleGAN2."""
        if self._drawer is None:
            self._drawer = StyleGAN2.load(builtin("generator")).eval().requires_grad_(False)
        return self._drawer

    def _face_backend(self, detector: backend.Detector) -> backend.FaceBackend:
        if detector not in self._faces:
            self._faces[detector] = backend.open_backend(detector)
        return self._faces[detector]
