"""The Frechet distance of samples to world images while a generator learns: one more curve in the training report."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from stylereel.family.nets import SIZE, FaceNet
from stylereel.metrics.frechet import Moments, frechet_distance
from stylereel.train.loop import Trainer

COUNT, EVERY, BATCH = 1024, 1000, 16


class FrechetCurve:
    """At each `EVERY`-th step, the distance of `COUNT` samples from as many images, by the features of a face net.

    The measure "frechet" of `stylereel evaluate`, through the face net that the run learns with. Held-out random
    numbers, the same each time. With few samples the distance is too large, by an amount that hardly changes.
    """

    def __init__(self, trainer: Trainer, face: FaceNet, real: Callable[[int], Tensor]) -> None:
        """real(number): images [BATCH, 3, H, W] in -1..1 of a batch, drawn when first needed."""
        self._trainer, self._face, self._real = trainer, face, real
        self._moments: Moments | None = None

    def __call__(self, index: int, generated: Callable[[int], Tensor]) -> dict[str, float]:
        """{"frechet": distance} where step `index` is one to measure at, else nothing; generated(number) as `real`."""
        if (index + 1) % EVERY:
            return {}
        if self._moments is None:
            self._moments = self._of(self._real)
        now = self._of(generated)
        means = now.mean, now.covariance(), self._moments.mean, self._moments.covariance()
        return {"frechet": frechet_distance(*means)}

    @torch.no_grad()
    def _of(self, batch: Callable[[int], Tensor]) -> Moments:
        parts = []
        for number in range(COUNT // BATCH):
            images = self._trainer.to_device(batch(number)).clamp(-1, 1)
            if images.shape[-1] < SIZE:
                images = torch.nn.functional.interpolate(images, (SIZE, SIZE), mode="bilinear")
            parts.append(self._face.trunk(images).float().cpu())
        return Moments.of(torch.cat(parts).double().numpy())
