"""StyleMask: re-enactment by mixing StyleSpace channels with learned masks.

Bounareli, Tzelepis, Argyriou, Patras, Tzimiropoulos: "StyleMask: Disentangling the Style Space of StyleGAN2 for Neural
Face Reenactment" (2022). Source and target faces are given as style vectors; a small network for each layer looks at
their difference and says, channel by channel, how much comes from the target. Identity stays, pose and expression come
from the target.

| paper | here |
|---|---|
| mask m = f(s_source - s_target), one f a layer | `MaskNet`, `MaskNets` |
| s = m s_target + (1 - m) s_source | `MaskNets.forward` |
| shape, identity and cycle losses, no paired data | `train` |

Different from the paper, and why:
- The built-in family has its own face: landmarks, factors and identity come from the built-in nets instead of DECA and
  ArcFace, and the ideal landmarks of "source with the target's motion" are the world's exact ones instead of a 3-D
  model's estimate.
- A real clip drives through its motion coefficients: the world shows them on a neutral head and that picture is
  inverted to the target codes, because the built-in encoder knows the world's faces and not yet real ones.
- Codes of an inverted picture are not truncated again (the released code does, which pulls them to the mean face).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn

from stylereel import world
from stylereel.faces import backend, coefficients, placement
from stylereel.faces.perception import SIZE, FaceNet, IdentityNet, Seen, unit_values
from stylereel.generator import StyleGAN2
from stylereel.invert.encoder import Encoder, load_encoder
from stylereel.latents import Identity, Motion, Styles
from stylereel.media.sheet import side_by_side
from stylereel.media.video import VideoReader
from stylereel.render import pictures
from stylereel.train.loop import Average, Trainer, cosine
from stylereel.train.optimise import Muon
from stylereel.weights import builtin
from stylereel.weights.files import load_module
from stylereel.world.factors import LATENT_DIM, MOTION


@dataclass(frozen=True)
class MaskConfig:
    """Lengths of the masked style vectors: those of the first convolutions of the generator, 12 in the paper."""

    channels: tuple[int, ...]

    @classmethod
    def of(cls, generator: StyleGAN2, layers: int = 12) -> MaskConfig:
        """The config for the first `layers` convolutions of a generator."""
        return cls(tuple(layer.channels for layer in generator.style_layers if layer.kind == "conv")[:layers])


class MaskNet(nn.Module):
    """Difference of style vectors [B, C] to a mask [B, C] in 0..1."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.masknet = nn.Sequential(nn.Linear(channels, channels), nn.ReLU(), nn.Linear(channels, channels))
        for linear in (self.masknet[0], self.masknet[2]):
            assert isinstance(linear, nn.Linear)
            nn.init.normal_(linear.weight, 0.0, 0.01)

    def forward(self, difference: Tensor) -> Tensor:
        return torch.sigmoid(self.masknet(difference))


class MaskNets(nn.Module):
    """One `MaskNet` for each masked layer, named as in the authors' weight file (network_00.masknet.0.weight ...)."""

    def __init__(self, config: MaskConfig) -> None:
        super().__init__()
        self.config = config
        for index, channels in enumerate(config.channels):
            self.add_module(f"network_{index:02d}", MaskNet(channels))

    def masks(self, source: Sequence[Tensor], target: Sequence[Tensor]) -> list[Tensor]:
        """Masks [B, C_l] of the masked layers for style vectors of convolutions."""
        nets = list(self.children())
        return [net(a - b) for net, a, b in zip(nets, source, target, strict=False)]

    def forward(self, source: Sequence[Tensor], target: Sequence[Tensor]) -> list[Tensor]:
        """Mixed style vectors [B, C_l] of all given convolutions; those after the masked ones are the source's."""
        masks = self.masks(source, target)
        mixed = [m * b + (1 - m) * a for m, a, b in zip(masks, source, target, strict=False)]
        return mixed + [a.expand(len(mixed[0]), -1) for a in source[len(mixed) :]]


# Losses and training

STEPS, COUNT = 1200, 6
RATE, BIAS_RATE = 1e-3, 5e-2  # biases carry what a channel usually means; they have far to go from a mask of 0.5
IDENTITY_WEIGHT, SHAPE_WEIGHT = 1.0, 20.0


def train(
    trainer: Trainer, generator: StyleGAN2, face: FaceNet, identity: IdentityNet, start: MaskNets | None = None
) -> MaskNets:
    """Train the mask networks of `generator`, from scratch or trained ones."""
    torch.manual_seed(3)
    trainer.freeze(generator, face, identity)
    config = MaskConfig.of(generator)
    model, average = start or MaskNets(config), MaskNets(config)
    weights = [p for name, p in model.named_parameters() if name.endswith("weight")]
    biases = [p for name, p in model.named_parameters() if name.endswith("bias")]
    optimizers = {"matrices": Muon(weights, RATE), "rest": torch.optim.Adam(biases, lr=BIAS_RATE, foreach=True)}
    steps, (rank, ranks) = trainer.steps(STEPS), trainer.share
    follow = Average(model, average, 0.98)
    convolutions = [layer.index for layer in generator.style_layers if layer.kind == "conv"]

    def paint(styles: list[Tensor]) -> Tensor:
        return generator.synthesize(s=styles, noise="none", stop=f"b{SIZE}.torgb", dtype=trainer.dtype)

    def mix(source: list[Tensor], target: list[Tensor], nets: MaskNets = model) -> list[Tensor]:
        mixed = list(source)
        new = nets([source[i] for i in convolutions], [target[i] for i in convolutions])
        for index, style in zip(convolutions, new, strict=True):
            mixed[index] = style
        return mixed

    def shape_loss(seen: Seen, values: np.ndarray) -> Tensor:
        points = torch.from_numpy(np.stack([world.project_landmarks(v)[0] for v in values])).to(trainer.device)
        off = (seen.values - unit_values(torch.from_numpy(values).to(trainer.device))).abs()
        motion, person = off[:, : len(MOTION)].mean(), off[:, len(MOTION) :].mean()
        return SHAPE_WEIGHT * (seen.landmarks - points).abs().mean() + motion + person

    def step(index: int) -> dict[str, Tensor]:
        random = np.random.default_rng((51, index))
        z = random.standard_normal((3, COUNT, LATENT_DIM))[:, rank::ranks]
        values = world.aligned(world.from_latent(z))
        with torch.no_grad():
            w = generator.map(torch.from_numpy(z.reshape(-1, LATENT_DIM)).float().to(trainer.device))
            source, first, second = zip(*(style.chunk(3) for style in generator.styles(w)), strict=True)
        driven, again = values[0].copy(), values[0].copy()
        driven[:, : len(MOTION)] = values[1, :, : len(MOTION)]
        again[:, : len(MOTION)] = values[2, :, : len(MOTION)]

        moved = mix(list(source), list(first))
        direct, cycled = mix(list(source), list(second)), mix(moved, list(second))
        images = [paint(styles) for styles in (moved, direct, cycled)]
        with torch.no_grad():
            person = identity(paint(list(source)))
        shape = shape_loss(face(images[0]), driven)
        cycle = shape_loss(face(images[1]), again) + shape_loss(face(images[2]), again)
        people = [identity(image) for image in images]
        same = torch.stack([(1 - (person * p).sum(1)).mean() for p in people]).sum()
        same = same + (1 - (people[1] * people[2]).sum(1)).mean()
        trainer.descend(shape + cycle + IDENTITY_WEIGHT * same, optimizers.values())
        follow.update(index)
        return {"shape": shape, "cycle": cycle / 2, "identity": same / 4}

    @torch.no_grad()
    def sample() -> np.ndarray:
        """Eight people, eight targets below them, and below these the people as the targets move them."""
        z = torch.randn(16, LATENT_DIM, generator=torch.Generator().manual_seed(0)).to(trainer.device)
        source, target = zip(*(style.chunk(2) for style in generator.styles(generator.map(z))), strict=True)
        rows = [list(source), list(target), mix(list(source), list(target), average)]
        return np.concatenate([side_by_side(list(pictures(paint(styles)))) for styles in rows])

    trainer.fit(
        "stylemask",
        {"model": model, "average": average},
        optimizers,
        step,
        steps,
        batch=COUNT,
        schedule=lambda index: cosine(index, steps),
        every=50,
        sample=sample,
    )
    return average


class StyleMask:
    """Re-enactment of a portrait by the motion of a clip."""

    name = "stylemask"
    motion_kinds = ("face",)

    def __init__(self, generator: StyleGAN2, encoder: Encoder, mask_nets: MaskNets, files: Sequence[Path] = ()) -> None:
        self.generator = generator.eval().requires_grad_(False)
        self.encoder = encoder.eval()
        self.mask_nets = mask_nets.eval()
        self.weight_files = tuple(files)
        self._convolutions = [layer.index for layer in generator.style_layers if layer.kind == "conv"]
        self._faces: dict[backend.Detector, backend.FaceBackend] = {}

    @classmethod
    def builtin(cls) -> StyleMask:
        """The system on the built-in generator."""
        files = [builtin(name) for name in ("generator", "encoder", "stylemask")]
        generator = StyleGAN2.load(files[0])
        encoder = load_encoder(files[1])
        mask_nets = load_module(files[2], "stylemask", lambda config: MaskNets(MaskConfig(**config)))
        return cls(generator, encoder, mask_nets, files)

    # Verbs

    def identify(
        self,
        source: int | np.ndarray,
        *,
        psi: float = 1.0,
        source_face: str = "largest",
        detector: backend.Detector = "dlib",
    ) -> Identity:
        """Who is to move: a seed, or a picture uint8 [H, W, 3] with a face; then its `placement` [4] is kept too.

        Args:
            source: seed of an invented person (0 or more), or a picture.
            psi: how far an invented person may lie from the mean face, 0 to 1; a picture is taken as it is.
            source_face: which one of several faces in the picture; as for `face`.
            detector: what finds faces; mediapipe needs its package and model file.

        Raises:
            ValueError: no such face in the picture, a negative seed, psi outside 0 to 1, or no such detector.
        """
        if isinstance(source, np.ndarray):
            row = placement.align(backend.find_face(source, self._face_backend(detector), source_face))
            crop = torch.tensor(placement.cut(source, row, 256)).permute(2, 0, 1)[None].float() / 127.5 - 1
            with torch.inference_mode():
                return Identity(self.encoder(crop)[0], self.name, {"placement": torch.from_numpy(row)})
        if source < 0:
            raise ValueError(f"A seed is 0 or more, not {source}.")
        if not 0 <= psi <= 1:
            raise ValueError(f"psi lies between 0 and 1, not {psi}.")
        z = np.random.default_rng(source).standard_normal((1, self.generator.config.z_dim))
        with torch.inference_mode():
            return Identity(self.generator.map(torch.from_numpy(z).float(), psi=psi)[0], self.name)

    def extract(
        self,
        driving: str | Path,
        *,
        missing: backend.Missing = "hold",
        face: str = "largest",
        strength: float = 1.0,
        detector: backend.Detector = "dlib",
    ) -> Motion:
        """The motion of a face in a clip.

        Args:
            driving: the clip.
            missing: what to do with frames without a face: hold the last one, interpolate, skip the edit (show the
                source as it is), or stop.
            face: which one of several: largest, left, a number (0 is the left-most), or a picture of the person.
            strength: factor on the expression, 1 as it is.
            detector: what finds faces; mediapipe needs its package and model file.

        Raises:
            ValueError: no such face in the clip, no such detector, or a file that cannot be read (MediaError).
        """
        if strength < 0:
            raise ValueError(f"The strength is 0 or more, not {strength}.")
        reader = VideoReader(driving)
        track = backend.track(reader, reader.rate, missing, self._face_backend(detector), face)
        motion = coefficients.motion_of(track)
        if strength != 1:
            values = motion.values.copy()
            values[:, 6:] *= strength
            motion = replace(motion, values=values)
        return motion

    def apply(self, identity: Identity, motion: Motion) -> Styles:
        """Style vectors that show `identity` with each frame of `motion`."""
        target = self.generator.styles(self.target_codes(motion.values))
        source = self.generator.styles(identity.w[None])
        return Styles(self.mix(source, target))

    # Parts of the verbs

    def mix(self, source: Sequence[Tensor], target: Sequence[Tensor]) -> list[Tensor]:
        """Style vectors of all layers: masked convolutions are mixed, toRGB layers keep the source."""
        count = max(len(source[0]), len(target[0]))
        mixed = [style.expand(count, -1) for style in source]
        new = self.mask_nets([source[i] for i in self._convolutions], [target[i] for i in self._convolutions])
        for index, style in zip(self._convolutions, new, strict=True):
            mixed[index] = style
        return mixed

    def target_codes(self, motion: np.ndarray) -> Tensor:
        """W+ codes [B, L, D] of the neutral head with motion values [B, 16] of the world."""
        values = np.tile(world.neutral(), (len(motion), 1))
        values[:, : len(MOTION)] = np.clip(motion, world.LOW[: len(MOTION)], world.HIGH[: len(MOTION)])
        images = np.stack([world.draw(v, 128).image for v in world.aligned(values)])
        return self.encoder(torch.from_numpy(images).permute(0, 3, 1, 2).float() / 127.5 - 1)

    def portrait(self, identity: Identity) -> np.ndarray:
        """The picture uint8 [H, W, 3] of an identity's own code."""
        with torch.inference_mode():
            return pictures(self.generator.synthesize(w=identity.w[None]))[0]

    def _face_backend(self, detector: backend.Detector) -> backend.FaceBackend:
        if detector not in self._faces:
            self._faces[detector] = backend.open_backend(detector)
        return self._faces[detector]
