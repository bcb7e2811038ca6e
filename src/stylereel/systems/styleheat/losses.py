"""The losses of StyleHEAT's training, section by section of the paper; each a mean over the batch.

| paper | here |
|---|---|
| L_v, L_t: features of VGG19 at several scales, L1 | `PyramidLoss` |
| boxes of eyes and mouth, soft edges | `boxes` |
| L_t: features and 10 L1 in the boxes | `local_loss` |
| L_domain: outside the boxes the calibrated image stays what the warped one was | `domain_loss` |
| L_adv: -log D | `adversarial_loss` |

The authors' code has the adversarial loss with the opposite sign, which rewards images that look false; it is here as
`inverted`, for comparison only.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
import torch.nn.functional as F
from torch import Tensor

Maps = Callable[[Tensor], Sequence[Tensor]]  # images [B, 3, H, W] in [-1, 1] to feature maps [B, C, h, w]

EYES, MOUTH = slice(36, 48), slice(48, 68)  # iBUG landmarks
EYES_MARGIN, MOUTH_MARGIN = 0.35, 0.25  # of a box's longer side, added on each side
PIXELS = 10.0  # weight of L1 next to features, in the boxes


class PyramidLoss:
    """L1 between the feature maps of two images, at full size and halved again and again (Johnson et al. 2016)."""

    def __init__(self, maps: Maps, scales: int = 3) -> None:
        self.maps, self.scales = maps, scales

    def __call__(self, images: Tensor, targets: Tensor, weight: Tensor | None = None) -> Tensor:
        """Of images and targets [B, 3, H, W]; weight: [B, 1, H, W], how much each place counts."""
        return self.compare(images, [(targets, weight)])[0]

    def compare(self, images: Tensor, others: Sequence[tuple[Tensor, Tensor | None]]) -> list[Tensor]:
        """The loss to each of several targets and weights, for which the images are looked at once."""
        totals = [images.new_zeros([]) for _ in others]
        targets = [target for target, _ in others]
        for scale in range(self.scales):
            if scale:
                images, targets = F.avg_pool2d(images, 2), [F.avg_pool2d(target, 2) for target in targets]
            seen = self.maps(images)
            for number, (target, (_, weight)) in enumerate(zip(targets, others, strict=True)):
                with torch.no_grad():
                    target_maps = self.maps(target)
                for a, b in zip(seen, target_maps, strict=True):
                    part = weighted_l1(a, b, weight) / (self.scales * len(target_maps))
                    totals[number] = totals[number] + part
        return totals


def weighted_l1(a: Tensor, b: Tensor, weight: Tensor | None = None) -> Tensor:
    """Mean absolute difference of maps [B, C, h, w], each place counted by weight [B, 1, H, W] of any size."""
    difference = (a - b).abs().mean(1, keepdim=True)
    if weight is None:
        return difference.mean()
    weight = (
        F.adaptive_avg_pool2d(weight, (difference.shape[-2], difference.shape[-1]))
        if weight.shape != difference.shape
        else weight
    )
    return (difference * weight).sum() / weight.sum().clamp_min(1e-6)


def boxes(
    landmarks: Tensor, size: int, parts: Sequence[slice | tuple[slice, float]] = (EYES, MOUTH), soft: float = 0.02
) -> Tensor:
    """Where eyes and mouth are [B, 1, size, size]: 1 in the boxes around landmarks [B, 68, 2] in 0..1, 0 outside.

    soft: width of the edges in image sides, over which 1 falls to 0 outside of the box.
    """
    place = (torch.arange(size, device=landmarks.device) + 0.5) / size
    mask = landmarks.new_zeros(len(landmarks), 1, size, size)
    for part in parts:
        margin = MOUTH_MARGIN if part == MOUTH else EYES_MARGIN
        part, margin = part if isinstance(part, tuple) else (part, margin)
        low, high = landmarks[:, part].amin(1), landmarks[:, part].amax(1)
        margin = margin * (high - low).amax(1, keepdim=True)
        outside = torch.maximum(
            low[:, :, None] - margin[..., None] - place, place - high[:, :, None] - margin[..., None]
        )
        inside = (1 - outside / soft).clamp(0, 1)  # [B, 2, size], along x and along y
        mask = torch.maximum(mask, (inside[:, 1, :, None] * inside[:, 0, None, :])[:, None])
    return mask


def local_loss(features: PyramidLoss, images: Tensor, targets: Tensor, mask: Tensor) -> Tensor:
    """How far eyes and mouth are from the target: features, and `PIXELS` times L1, inside the mask [B, 1, H, W]."""
    return features(images, targets, mask) + PIXELS * weighted_l1(images, targets, mask)


def domain_loss(features: PyramidLoss, calibrated: Tensor, warped: Tensor, mask: Tensor) -> Tensor:
    """How far the calibrated image is, outside of the mask, from that of the warped features alone."""
    return features(calibrated, warped.detach(), 1 - mask)


def adversarial_loss(scores: Tensor, inverted: bool = False) -> Tensor:
    """-log D of the discriminator's scores [B, 1], D = sigmoid(score): it falls as the images look truer.

    inverted: the authors' code, which minimises the score.
    """
    return F.softplus(scores if inverted else -scores).mean()
