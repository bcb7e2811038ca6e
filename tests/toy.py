"""A system in forty lines: all that a new one needs. `test_systems.py` takes it through everything."""

from collections.abc import Iterable, Iterator
from dataclasses import replace
from fractions import Fraction
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn

from stylereel.core.latents import Identity, Motion, MotionKind
from stylereel.core.system import Frames, Shot, Source, device_of
from stylereel.generator import StyleGAN2, StyleGAN2Config
from stylereel.recipes.run import Run

SIZES = StyleGAN2Config(32, 16, 16, channel_base=256, channel_max=16, mapping_layers=2)


class Toy:
    """A person whose w drifts with the brightness of the driving frames."""

    name, weight_files, context, motion_kinds = "toy", (), 1, (MotionKind("toy"),)

    def __init__(self) -> None:
        torch.manual_seed(0)
        self.generator = StyleGAN2(SIZES).eval().requires_grad_(False)
        self.direction = nn.Linear(1, 16, bias=False)

    @classmethod
    def builtin(cls) -> "Toy":
        return cls()

    def to(self, device: torch.device | str) -> "Toy":
        self.generator.to(device)
        self.direction.to(device)
        return self

    def identify(self, source: Source, *, psi: float = 1.0) -> Identity:
        """Who.

        Args:
            psi: how far from the mean face.
        """
        if isinstance(source, Identity):
            return source
        seed = source if isinstance(source, int) else int(np.asarray(source).mean())
        z = torch.randn(1, 16, generator=torch.Generator().manual_seed(seed))
        return Identity(self.generator.map(z, psi=psi)[0].detach(), self.name)

    def _motion(self, values: Iterable[float], rate: Fraction) -> Motion:
        track = np.array(list(values), np.float32)[:, None]
        return Motion(track, self.motion_kinds[0], ("grey",), rate, np.ones((len(track), 4), np.float32))

    def extract(self, driver: Any, *, strength: float = 1.0) -> Motion:
        """What happens.

        Args:
            strength: factor on the motion.
        """
        return self._motion((strength * frame.mean() / 255 for frame in driver), driver.rate)

    def follow(self, shots: Iterable[Shot], rate: Fraction) -> Iterator[Motion]:
        for shot in shots:
            motion = self._motion([0.0 if shot.image is None else shot.image.mean() / 255], rate)
            yield motion if shot.image is not None else replace(motion, missing=(0,))

    def sample(self, seed: int, num_frames: int) -> tuple[Identity, Motion]:
        values = np.random.default_rng(seed).standard_normal(num_frames)
        return self.identify(seed), self._motion(values, Fraction(25))

    def apply(self, identity: Identity, motion: Motion) -> Frames:
        """Each frame is moved by the mean of itself and its neighbours, so the margins of a chunk matter."""
        track, w = (value.to(device_of(self)) for value in (torch.from_numpy(motion.values), identity.w))
        return Frames(w=w + self.direction((track[:-2] + track[1:-1] + track[2:]) / 3)[:, None])

    def portrait(self, identity: Identity) -> Frames:
        return Frames(w=identity.w[None].to(device_of(self)))


def train(run: Run, *, target: float = 1.0) -> list[Path]:
    """Fit the direction to a constant.

    Args:
        target: the constant.
    """
    run.claim("toy")
    torch.manual_seed(1)
    net = nn.Linear(1, 16, bias=False)
    optimizers = {"net": torch.optim.SGD(net.parameters(), 0.1)}

    def step(index: int) -> dict[str, torch.Tensor]:
        loss = (net.weight - target).square().mean()
        run.trainer.descend(loss, optimizers.values())
        return {"distance": loss}

    run.trainer.fit("toy", {"net": net}, optimizers, step, run.trainer.steps(20))
    return run.save({"toy": net})


def study(out: Path, *, seed: int = 0) -> list[Path]:
    """Nothing to compare.

    Args:
        out: folder of the report.
        seed: random seed.
    """
    from stylereel.metrics.report import Number, write_report

    return write_report(Path(out), "Toy", {"toy": {"value": Number(float(seed))}})
