"""StyleVideoGAN as a system: motion from noise, and the style vectors that show it on anyone."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from fractions import Fraction
from functools import cached_property
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn

from stylereel.core.builtin import BUILTIN, builtin
from stylereel.core.latents import Identity, Motion, MotionKind
from stylereel.core.record import sha256
from stylereel.core.seeds import check_seed
from stylereel.core.system import Frames, Source, device_of
from stylereel.core.weights import own_kind
from stylereel.faces import backend
from stylereel.generator import StyleGAN2, StyleGAN3
from stylereel.invert import networks as inversion
from stylereel.systems import sources as who
from stylereel.systems.stylevideogan.codes import precision, resting_code
from stylereel.systems.stylevideogan.networks import KIND, VideoGenerator, load_model
from stylereel.systems.stylevideogan.training import sample_path


def _no_motion(length: int) -> np.ndarray:
    """Placements [T, 4] of generated frames: the whole image."""
    return np.tile(np.array((0.5, 0.5, 1.0, 0.0), np.float32), (length, 1))


class StyleVideoGAN:
    """Face video without end: samples motion, and shows it on the training person or on others."""

    name = "stylevideogan"
    context = 0

    def __init__(
        self,
        generator: StyleGAN2 | StyleGAN3,
        encode: nn.Module,
        models: Mapping[str, VideoGenerator],
        files: Sequence[Path],
        builtin_family: bool = True,
    ) -> None:
        """encode: images [B, 3, 256, 256] in [-1, 1] to W+ codes; files: of the weights, the generator's first."""
        self.generator = generator.eval().requires_grad_(False)
        self.encode, self.builtin_family = encode, builtin_family
        self.models = {name: model.eval() for name, model in models.items()}
        self.weight_files = tuple(files)

    @classmethod
    def builtin(cls) -> StyleVideoGAN:
        """The system on the built-in generator, with its models of world clips."""
        found = sorted(BUILTIN.glob(f"{KIND}-*.safetensors"))
        system = cls._of(inversion.choose(None, None))
        for file in found:
            system.add_model(file)
        return system

    @classmethod
    def from_files(cls, *, generator: str, encoder: str | None = None) -> StyleVideoGAN:
        """The system on a user's files; nothing in them is run. Its models are given to `sample`.

        Args:
            generator: weight file of a generator of any known tool.
            encoder: weight file of an encoder of this generator (e4e, pSp, ReStyle), for images.

        Raises:
            ValueError: a file cannot be used, or the two do not fit each other.
        """
        return cls._of(inversion.choose(encoder, generator))

    @classmethod
    def _of(cls, files: dict[str, Path]) -> StyleVideoGAN:
        nets = inversion.load(files)
        used = [files[name] for name in ("generator", "encoder") if name in files]
        return cls(nets.generator, nets.encode, {}, used, inversion.is_canonical(files))

    @property
    def motion_kinds(self) -> tuple[MotionKind, ...]:
        """A kind for each model: animation codes mean something to the model that made them alone."""
        return tuple(map(self._kind, self.models))

    def add_model(self, path: str | Path) -> str:
        """Take up a trained model, under the name of its file, and give that name.

        Raises ValueError when it was trained on codes of another generator.
        """
        path = Path(path)
        model, own = load_model(path), sha256(self.weight_files[0])
        if model.config.generator != own:
            raise ValueError(f"{path} was trained on codes of another generator; retrain it on this one's.")
        name = path.stem.removeprefix(f"{KIND}-")
        self.models[name] = model
        self.weight_files = (*self.weight_files, path)
        return name

    # Verbs

    def identify(
        self, source: Source, *, psi: float = 1.0, source_face: str = "largest", set_: tuple[str, ...] = ()
    ) -> Identity:
        """The person to show: a seed, an image uint8 [H, W, 3] with a face, codes of one, or a saved identity.

        Args:
            source: seed of an invented person (0 or more), an image, codes (their first frame), or an identity.
            psi: how far an invented person may be from the mean face, 0 to 1.
            source_face: which of several faces in the image: largest, left, or a number (0 is the left-most).
            set_: corrects what was read of a photograph, or a seed's person: beard=0, hair=curls, age=old, or any
                factor of the world; may be given several times.

        An invented person of the built-in generator is taken with a face at rest.

        Raises:
            ValueError: no such face in the image, a negative seed, psi outside 0 to 1, or codes of another generator.
        """
        ours = self.weight_files[:1] == (builtin("generator"),)  # whose latents include the expression
        if isinstance(source, int) and source >= 0 and 0 <= psi <= 1 and ours and not set_:
            assert isinstance(self.generator, StyleGAN2)
            w = resting_code(self.generator, source)
            return Identity(torch.lerp(self.generator.mean_w.expand_as(w), w, psi).cpu(), self.name)
        return who.identify(self, source, psi, lambda picture: backend.track_picture(picture, face=source_face), set_)

    def sample(
        self, seed: int, num_frames: int, *, model: str = "talking", towards: int | None = None, share: float = 0.5
    ) -> tuple[Identity, Motion]:
        """The training person, and a motion of any length: 32 numbers a frame, so an hour takes 12 MB.

        The same seed gives the same frames, however many samples are made and however long they are.

        Args:
            seed: random seed of the motion, 0 or more.
            num_frames: length, 1 or more.
            model: which motion: talking, listening or expressions, or the file of a model of your own.
            towards: another seed, for a motion that starts between the starts of both.
            share: how far on the way to the other seed's start, 0 to 1.

        Raises:
            ValueError: a negative seed, no frame, a share outside 0 to 1, or no such model.
        """
        check_seed(seed)
        check_seed(towards or 0, "towards")
        if num_frames < 1:
            raise ValueError("A sample needs 1 or more frames.")
        if not 0 <= share <= 1:
            raise ValueError(f"The share of the way between two starts is between 0 and 1, not {share}.")
        name = self._model_name(model)
        net = self.models[name]
        path = sample_path(net, seed, num_frames, towards, share).cpu().numpy()
        names = tuple(f"code_{number}" for number in range(path.shape[1]))
        rate = Fraction(net.config.rate)
        motion = Motion(path, self._kind(name), names, rate, _no_motion(num_frames))
        return Identity(net.mean.cpu(), self.name), motion

    def apply(self, identity: Identity, motion: Motion) -> Frames:
        """Style vectors that show `identity` with each frame of a sampled motion, by `VideoGenerator.offset`."""
        return Frames(w=self.codes(identity, motion))

    # Parts of the verbs

    def codes(self, identity: Identity, motion: Motion) -> Tensor:
        """W+ codes [T, L, D] of a person and a sampled motion."""
        net = next(model for name, model in self.models.items() if self._kind(name) == motion.kind)
        path, w = (values.to(device_of(self)) for values in (torch.from_numpy(motion.values), identity.w))
        return net.codes(path) + net.offset(w, self._precision)

    @cached_property
    def _precision(self) -> Tensor:
        return precision(self.generator)

    def portrait(self, identity: Identity) -> Frames:
        """What shows an identity as it is: its own code."""
        return Frames(w=identity.w[None].to(device_of(self)))

    def to(self, device: torch.device | str) -> StyleVideoGAN:
        """Move all networks to a device."""
        for net in (self.generator, self.encode, *self.models.values()):
            net.to(device)
        self.__dict__.pop("_precision", None)
        return self

    def _kind(self, model: str) -> MotionKind:
        return MotionKind(f"{self.name}-{model}")

    def _model_name(self, model: str) -> str:
        if model in self.models:
            return model
        path = Path(model)
        if path.suffix == ".safetensors" and own_kind(path) == KIND:
            return self.add_model(path)
        known = ", ".join(self.models) or "none yet"
        raise ValueError(f"There is no motion {model!r}; choose one of {known}, or give the file of a model.")
