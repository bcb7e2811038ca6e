"""StyleFaceV with the paper's own networks: a pose code of 64 numbers, an appearance map, W+ from a product of both.

They come from a folder of the authors' files, or from `stylereel train stylefacev --networks paper` (`paper`), whose
landmark maps are those of the built-in face net. The head moves in the frame because row 0 of W+ turns and shifts
StyleGAN3's input.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from fractions import Fraction
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from stylereel.core.builtin import builtin
from stylereel.core.latents import Codes, Identity, Motion, MotionKind
from stylereel.core.render import pictures
from stylereel.core.seeds import check_seed
from stylereel.core.system import Driver, Frames, Source, device_of
from stylereel.core.weights import config_of, load_module
from stylereel.edit import curves
from stylereel.faces import backend, placement
from stylereel.family.nets import SIZE as FACE_PIXELS
from stylereel.family.nets import FaceNet, load_face
from stylereel.generator import StyleGAN3, image_transform
from stylereel.media.video import VideoReader
from stylereel.systems import sources as who
from stylereel.systems.stylefacev.files import Networks, find_files, load_folder
from stylereel.systems.stylefacev.networks import (
    IMAGE_SIZE,
    MAP_SIZE,
    POSE_SIZE,
    AppearanceNet,
    MotionLSTM,
    Normalisation,
    PoseEncoder,
)

KIND = "stylefacev-paper"  # of a file of networks that were trained here
SIZE = POSE_SIZE**2
NAMES = tuple(f"pose{index}" for index in range(SIZE))
RATE = Fraction(25)
CHUNK = 8
FACE_LANDMARKS = 68


class FaceMaps(nn.Module):
    """Images to landmark maps: what the built-in face net finds, each point a Gaussian of 1.5 pixels.

    It knows aligned heads; of clips the points are known already, wherever the head is.
    """

    def __init__(self, face: FaceNet) -> None:
        super().__init__()
        self.face = face

    def forward(self, images: Tensor) -> Tensor:
        """Maps [B, 68, 64, 64] of images [B, 3, H, W] in -1..1."""
        small = F.interpolate(images, (FACE_PIXELS, FACE_PIXELS), mode="bilinear", antialias=True)
        return point_maps(self.face(small).landmarks.float())


def point_maps(points: Tensor, width: float = 1.5) -> Tensor:
    """Maps [B, P, 64, 64] of points [B, P, 2] in 0..1."""
    pixels = torch.arange(MAP_SIZE, device=points.device) + 0.5
    across = torch.exp(-((pixels - MAP_SIZE * points[..., :1]) / width).square() / 2)
    down = torch.exp(-((pixels - MAP_SIZE * points[..., 1:]) / width).square() / 2)
    return down[..., :, None] * across[..., None, :]


@dataclass(frozen=True)
class Config:
    """rows and w_dim: of the generator's W+; width: of the appearance trunk, 64 in the paper; memory: of the LSTM."""

    rows: int
    w_dim: int = 256
    width: int = 64
    memory: int = 64
    maps: int = FACE_LANDMARKS


class PaperNets(nn.Module):
    """The paper's networks beside the generator and the landmark net."""

    def __init__(self, config: Config) -> None:
        super().__init__()
        self.config = config
        self.pose = PoseEncoder(config.maps)
        self.appearance = AppearanceNet(config.rows, config.w_dim, config.width)
        self.motion = MotionLSTM(SIZE, config.memory)


def load_paper_nets(path: str | Path) -> PaperNets:
    """The networks in a file of `stylereel train stylefacev --networks paper`. Raises ValueError if it is none."""

    def build(config: dict[str, Any]) -> PaperNets:
        return PaperNets(config_of(Config, config))

    return load_module(path, KIND, build).eval().requires_grad_(False)


def steered(generator: StyleGAN3) -> StyleGAN3:
    """A generator whose input is turned and shifted by the first four numbers of row 0 of W+, as that of FFHQ's is by
    all of them: cosine - 1, sine, and the shift in image widths. In the built-in one row 0 has no effect."""
    affine = generator.synthesis.get_submodule("input.affine")
    with torch.no_grad():
        affine.weight.zero_()  # type: ignore[operator]
        affine.weight[torch.arange(4), torch.arange(4)] = affine.weight.shape[1] ** 0.5  # type: ignore[index,union-attr]
    return generator


def still(w: Tensor) -> Tensor:
    """W+ [..., L, D] of a steered generator with its input at rest."""
    return torch.cat([torch.zeros_like(w[..., :1, :]), w[..., 1:, :]], -2)


class PublishedStyleFaceV:
    """Appearance of one image, poses of a clip or from noise, by the paper's networks.

    Motion is the 64 numbers of the pose map. Clips and images are seen in one upright window, in which the head moves.
    """

    name = "stylefacev"
    context = 0
    moves_in_frame = True
    builtin_family = False
    encode: nn.Module | None = None

    def __init__(self, nets: Networks, files: Sequence[Path] = (), steered: bool = False) -> None:
        """nets: see `load_folder`; steered: whether the generator is one of `steered`, whose rows 0 are at rest."""
        for net in (nets.generator, nets.landmarks, nets.pose, nets.appearance, nets.motion):
            net.eval().requires_grad_(False)
        self.nets, self.generator = nets, nets.generator
        self.weight_files, self.steered = tuple(files), steered
        self.motion_kinds = tuple(MotionKind(f"{self.name}-64", relative) for relative in (False, True))
        self._faces: dict[backend.Detector, backend.FaceBackend] = {}

    @classmethod
    def of_folder(cls, folder: str, normalisation: Normalisation) -> PublishedStyleFaceV:
        """By the authors' files; see `load_folder`."""
        return cls(load_folder(folder, normalisation), list(find_files(folder).values()))

    @classmethod
    def of_file(cls, path: str, normalisation: Normalisation) -> PublishedStyleFaceV:
        """By networks that were trained here, on the built-in StyleGAN3. Raises ValueError for another file."""
        nets, files = load_paper_nets(path), [builtin("generator3"), Path(path), builtin("face")]
        generator = steered(StyleGAN3.load(files[0]))
        found = [nets.config.rows, nets.config.w_dim]
        if found != [generator.num_ws, generator.config.w_dim]:
            raise ValueError(f"{path} makes W+ codes of {found}, which the built-in StyleGAN3 does not take.")
        appearance = nets.appearance.normalise_by(normalisation)
        landmarks = FaceMaps(load_face(files[2]))
        return cls(Networks(generator, landmarks, nets.pose, appearance, nets.motion), files, steered=True)

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

        Args:
            source: seed of an invented person (0 or more), an image, codes of the same generator (their first frame),
                or an identity of this system.
            psi: truncation: how far an invented person may be from the mean face, 0 to 1.
            source_face: which of several faces in the image: largest, left, or a number (0 is the left-most).
            detector: what finds faces; auto is the mesh where it is installed, else dlib.

        Raises:
            ValueError: no such face in the image, a negative seed, psi outside 0 to 1, or codes of another generator.
        """
        if isinstance(source, Codes):
            source = source.identity(self.name)
        if isinstance(source, Identity):
            who.check_codes(source.w, self.generator)
            shape = source.tensors["pose"].shape if "pose" in source.tensors else ()
            return replace(source, system=self.name) if shape == (SIZE,) else self._of_w(source.w)
        if isinstance(source, np.ndarray):
            track = backend.track_picture(source, self._face_backend(detector), source_face)
            row = placement.place_window(track.landmarks, track.rate)[0]
            points = torch.from_numpy(placement.to_crop(track.landmarks, row[None])).float()
            appearance, pose = self._read(placement.cut(source, row, IMAGE_SIZE)[None], points)
            w = self.fuse(appearance, pose)[0]
            tensors = {"appearance": appearance[0], "pose": pose[0], "placement": torch.from_numpy(row)}
            return Identity(w.cpu(), self.name, {key: each.cpu() for key, each in tensors.items()})
        check_seed(source)
        if not 0 <= psi <= 1:
            raise ValueError(f"psi is between 0 and 1, not {psi}.")
        z = np.random.default_rng(source).standard_normal((1, self.generator.config.z_dim))
        with torch.inference_mode():
            w = self.generator.map(torch.from_numpy(z).float().to(device_of(self)), psi=psi)[0]
        return self._of_w(still(w) if self.steered else w)

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

        Args:
            driving: the clip (its name, or open already), an image, or codes of the same generator.
            missing: what to do with frames without a face: hold the last one, interpolate, skip the edit (show the
                source as it is), or stop.
            face: which of several faces: largest, left, a number (0 is the left-most), or an image of the person.
            strength: factor on what differs from the first frame, 1 as it is.
            smoothing: width in seconds of a Gaussian low-pass of the motion, without lag; 0 adds none.
            motion: absolute shows the driver's pose; relative adds what changes since the first frame to the source's.
            detector: what finds faces; auto is the mesh where it is installed, else dlib.

        Raises:
            ValueError: no such face, no such detector, codes of another generator, or a file that cannot be read
                (MediaError).
        """
        who.check_shaping(strength, smoothing)
        if isinstance(driving, Codes):
            who.check_codes(driving.w[0], self.generator)
            parts = [self._read(self._show(w))[1] for w in driving.w.split(CHUNK)]
            found = self._motion(torch.cat(parts), driving.rate, driving.placement.numpy())
        else:
            reader = VideoReader(driving) if isinstance(driving, str | Path) else driving
            track = backend.track(reader, reader.rate, missing, self._face_backend(detector), face)
            rows = placement.place_window(track.landmarks, track.rate, track.counted)
            poses, crops = list[Tensor](), list[np.ndarray]()
            for index, frame in enumerate(reader):
                crops.append(placement.cut(frame, rows[index], IMAGE_SIZE))
                if len(crops) == CHUNK or index + 1 == len(rows):
                    seen = placement.to_crop(track.landmarks, rows)[index + 1 - len(crops) : index + 1]
                    poses.append(self._pose(np.stack(crops), torch.from_numpy(seen).float()))
                    crops = []
            found = self._motion(torch.cat(poses), track.rate, rows)
            found = replace(found, missing=tuple(track.missing), num_faces=track.num_faces)
        return who.shape_motion(found, strength, smoothing, motion, None)

    def sample(self, seed: int, num_frames: int) -> tuple[Identity, Motion]:
        """The person of the seed, and poses from noise of any length, from that person's own pose on.

        Args:
            seed: random seed of the motion and, unless another is named, of the person; 0 or more.
            num_frames: length, 1 or more.

        Raises:
            ValueError: a negative seed, or no frame.
        """
        check_seed(seed)
        if num_frames < 1:
            raise ValueError("A sample needs 1 or more frames.")
        identity = self.identify(seed)
        return identity, self._motion(self._path(identity.tensors["pose"], seed, num_frames), RATE)

    def apply(self, identity: Identity, motion: Motion) -> Frames:
        """W+ codes that show `identity` with each frame of `motion`.

        Raises ValueError for edits, whose directions are of another generator.
        """
        if curves.is_edited(identity, motion):
            raise ValueError("Edits are directions of the built-in StyleGAN2; stylefacev shows people by a StyleGAN3.")
        moved = curves.in_frame(motion)
        pose = torch.from_numpy(curves.driven(motion).values).float()
        if motion.kind.relative:
            pose = (pose + identity.tensors["pose"]).clamp_min(0)
        w = self.fuse(identity.tensors["appearance"][None], pose)
        if not (moved - (0, 0, 1)).any():
            return Frames(w=w)
        places = [image_transform(0.0, *row[:2]) @ torch.diag(torch.tensor([row[2], row[2], 1])).double()
                  for row in moved]  # fmt: skip
        return Frames(w=w, transform=torch.stack(places).float())

    def portrait(self, identity: Identity) -> Frames:
        """What shows an identity as it is: its own code."""
        return Frames(w=identity.w[None].to(device_of(self)))

    def to(self, device: torch.device | str) -> PublishedStyleFaceV:
        """Move all networks to a device."""
        for net in (self.generator, self.nets.landmarks, self.nets.pose, self.nets.appearance, self.nets.motion):
            net.to(device)
        return self

    # Parts of the verbs

    @torch.inference_mode()
    def fuse(self, appearance: Tensor, pose: Tensor) -> Tensor:
        """W+ [B, L, D] of appearance maps [1 or B, 64, 8, 8] and poses [1 or B, 64]."""
        device = device_of(self)
        return self.nets.appearance.fuse(appearance.to(device), as_maps(pose).to(device))

    @torch.inference_mode()
    def _path(self, first: Tensor, seed: int, num_frames: int, chunk: int = 500) -> Tensor:
        """Poses [T, 64] from noise; a longer path of the same seed begins with the same frames."""
        net, random = self.nets.motion, np.random.default_rng((88, seed))
        pose = first[None].to(device_of(self))
        state, path = net.start(pose), [pose]
        for begin in range(1, num_frames, chunk):
            noise = random.standard_normal((1, min(chunk, num_frames - begin), SIZE), np.float32)
            part, _, state = net.go_on(state, torch.from_numpy(noise).to(pose))
            path.append(part[0])
        return torch.cat(path).cpu()

    @torch.inference_mode()
    def _show(self, w: Tensor) -> np.ndarray:
        return pictures(self.generator.synthesize(w.to(device_of(self))))

    @torch.inference_mode()
    def _pose(self, images: np.ndarray, points: Tensor | None = None) -> Tensor:
        """Poses [B, 64] of images uint8 [B, H, W, 3]; for `FaceMaps`, of their landmarks [B, 68, 2] if known."""
        if points is not None and isinstance(self.nets.landmarks, FaceMaps):
            maps = point_maps(points.to(device_of(self)))
        else:
            maps = self.nets.landmarks(self._unit(images))
        return self.nets.pose(maps).flatten(1).cpu()

    @torch.inference_mode()
    def _read(self, images: np.ndarray, points: Tensor | None = None) -> tuple[Tensor, Tensor]:
        """Appearance maps and poses of images uint8 [B, H, W, 3], see `_pose`."""
        unit = self._unit(images)
        large = unit if unit.shape[-1] == IMAGE_SIZE else F.interpolate(unit, (IMAGE_SIZE,) * 2, mode="bilinear")
        return self.nets.appearance(large), self._pose(images, points)

    def _unit(self, images: np.ndarray) -> Tensor:
        return torch.tensor(images, device=device_of(self)).permute(0, 3, 1, 2).float() / 127.5 - 1

    def _of_w(self, w: Tensor) -> Identity:
        """The identity of the generator's own image of w [L, D]."""
        appearance, pose = self._read(self._show(w[None]))
        return Identity(w.cpu().clone(), self.name, {"appearance": appearance[0].cpu(), "pose": pose[0].cpu()})

    def _motion(self, poses: Tensor, rate: Fraction, rows: np.ndarray | None = None) -> Motion:
        whole = np.tile(np.array((0.5, 0.5, 1.0, 0.0), np.float32), (len(poses), 1))
        values = poses.float().numpy()
        return Motion(values, self.motion_kinds[0], NAMES, rate, whole if rows is None else rows.astype(np.float32))

    def _face_backend(self, detector: backend.Detector) -> backend.FaceBackend:
        if detector not in self._faces:
            self._faces[detector] = backend.open_backend(detector)
        return self._faces[detector]


def as_maps(pose: Tensor) -> Tensor:
    """Poses [B, 64] as maps [B, 1, 8, 8]."""
    return pose.unflatten(1, (1, POSE_SIZE, POSE_SIZE))
