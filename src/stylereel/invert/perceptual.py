"""What inversion minimises besides pixels: a perceptual distance, LPIPS where its files are, else the built-in face
net's; and with it the identity of the face."""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterator

import torch
import torch.nn.functional as F
from torch import Tensor

from stylereel.family.nets import SIZE, Trunk
from stylereel.metrics.features import face_trunk, official
from stylereel.metrics.pictures import LPIPS, lpips_heads, lpips_network
from stylereel.metrics.registry import Unfit

Vectors = Callable[[Tensor], Tensor]  # images [B, 3, H, W] in [-1, 1] to vectors [B, N]

PERCEPTUAL, IDENTITY = 0.8, 0.5  # weights next to 1 for the mean squared error, those of e4e's published command
LARGEST = 256  # pixels; larger images are averaged over areas before LPIPS, as in the published inversions


class Perceptual:
    """Images [B, 3, H, W] in [-1, 1] to vectors [B, N] whose squared distance is the measure `name`.

    So a target, which does not change, goes through the network once.
    """

    def __init__(self, network: LPIPS | Trunk) -> None:
        self.name = "lpips-alex" if isinstance(network, LPIPS) else "face-feature-distance"
        self.network = network.eval().requires_grad_(False)

    @classmethod
    def best(cls, device: torch.device | str = "cpu") -> Perceptual:
        """LPIPS over AlexNet, as PTI and e4e use it, if its files are in the cache; else the built-in face net."""
        try:
            network = lpips_network("alex", official(LPIPS.BACKBONES["alex"]), lpips_heads("alex"), str(device))
        except Unfit:
            network = face_trunk(str(device))
        return cls(copy.deepcopy(network))  # the measures keep theirs, which may be without gradients

    def __call__(self, images: Tensor) -> Tensor:
        parts = []
        for maps, weights in self.maps(images):
            unit = F.normalize(maps, dim=1, eps=1e-10) * (weights / maps[0, 0].numel()) ** 0.5
            parts.append(unit.flatten(1))
        return torch.cat(parts, dim=1)

    def maps(self, x: Tensor) -> Iterator[tuple[Tensor, Tensor | float]]:
        """Each map [B, C, h, w] that counts, with the weights of its channels."""
        network = self.network
        if isinstance(network, LPIPS):
            x = x if x.shape[-1] <= LARGEST else F.adaptive_avg_pool2d(x, LARGEST)
            x = (x - network.mean) / network.deviation
            for number, layer in enumerate(network.features):
                x = layer(x)
                if number in network.taps:
                    yield x, network.weights[network.taps.index(number)].clamp_min(0)
            return
        if x.shape[-1] != SIZE:
            x = F.interpolate(x, (SIZE, SIZE), mode="bilinear", antialias=True, align_corners=False)
        x = F.silu(network.stem(x))
        for block in network.blocks:
            x = block(x)
            yield x, 1.0


def likeness(perceptual: Vectors, embed: Vectors) -> Vectors:
    """Vectors whose squared distance is `PERCEPTUAL` times the perceptual distance plus `IDENTITY` times 1 - cosine.

    embed: gives embeddings of length 1, of the face.
    """
    return lambda images: torch.cat([PERCEPTUAL**0.5 * perceptual(images), (IDENTITY / 2) ** 0.5 * embed(images)], 1)


def distance(a: Tensor, b: Tensor) -> Tensor:
    """Squared distance [B] of vectors [B, N]."""
    return (a - b).square().sum(1)
