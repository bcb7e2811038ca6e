"""Losses and optimisers that the generators' recipes share."""

from __future__ import annotations

from collections.abc import Iterable

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from stylereel.family.nets import FaceNet
from stylereel.family.people import Batch
from stylereel.generator.base import Generator
from stylereel.train.loop import Trainer
from stylereel.train.optimizers import Muon
from stylereel.world.factors import MOTION_COLUMNS
from stylereel.world.shading import REGIONS

_DETAIL = torch.tensor([10.0 if name in ("brow", "eye", "lips", "mouth", "glasses") else 1.0 for name in REGIONS])
_DETAIL[REGIONS.index("background")] = _DETAIL[REGIONS.index("clothes")] = 0.5

COLOUR = 20.0  # weight of `colour_loss`

_WORN = [REGIONS.index(name) for name in ("glasses", "hat", "earring")]


def image_loss(images: Tensor, batch: Batch) -> Tensor:
    """L1 of pixels, of their 4x4 means and of differences between neighbours, and squares of 2x2 means.

    Eyes, brows, lips, mouth and glasses count ten times, outlines four times: those of hair are hazy else.
    """
    regions = batch.regions.to(images.dtype)[:, None]
    outlines = (F.max_pool2d(regions, 3, 1, 1) + F.max_pool2d(-regions, 3, 1, 1)).clamp(0, 1)
    weight = torch.maximum(_DETAIL.to(images.device)[batch.regions.long()][:, None], 4 * outlines)
    weight = F.max_pool2d(weight, 3, 1, 1)
    weight = weight / weight.mean()
    difference = images - batch.images
    loss = (difference.abs() * weight).mean()
    loss = loss + F.avg_pool2d(difference, 4).abs().mean()
    across = (difference[..., 1:] - difference[..., :-1]).abs() * weight[..., 1:]
    down = (difference[..., 1:, :] - difference[..., :-1, :]).abs() * weight[..., 1:, :]
    return loss + 0.5 * (across.mean() + down.mean()) + 4 * F.avg_pool2d(difference, 2).square().mean()


def means(images: Tensor, parts: Tensor, count: int) -> tuple[Tensor, Tensor]:
    """Mean colours [B, count, C] of images [B, C, H, W] in parts, by their numbers [B, H, W], 0 where there is none;
    and the parts' pixels [B, count]."""
    index = parts.long().flatten(1)
    pixels = images.new_zeros(len(index), count).scatter_add_(1, index, images.new_ones(index.shape))
    sums = [torch.zeros_like(pixels).scatter_add(1, index, channel.flatten(1)) for channel in images.unbind(1)]
    return torch.stack(sums, 2) / pixels.clamp_min(1)[..., None], pixels


def colour_loss(images: Tensor, batch: Batch) -> Tensor:
    """Squared error of the mean colours of the darker and of the lighter half of each region.

    All count alike, however small. A loss on pixels is content with gray irises, since an eye is half white, and what
    it costs is next to nothing. Not asked of what some wear (`_WORN`): where it is missing, nothing here would say so,
    and everyone would get a little of it.
    """
    regions, bright = batch.regions.long(), batch.images.mean(1)
    usual = means(bright[:, None], regions, len(REGIONS))[0][..., 0].gather(1, regions.flatten(1)).view_as(bright)
    parts = 2 * regions + (bright > usual)
    found, pixels = means(images, parts, 2 * len(REGIONS))
    target, _ = means(batch.images, parts, 2 * len(REGIONS))
    there = (pixels > 2e-4 * bright[0].numel()).float()
    there[:, [2 * region + half for region in _WORN for half in (0, 1)]] = 0
    return ((found - target).square().mean(2) * there).sum() / there.sum()


def perceptual_loss(trainer: Trainer, face: FaceNet, images: Tensor, batch: Batch) -> Tensor:
    """Difference of the face net's outputs for the images and for the world's: landmarks, factors, features."""
    with trainer.autocast():
        predicted = face(images)
        with torch.no_grad():
            target = face(batch.images)
    points = (predicted.landmarks.float() - target.landmarks.float()).abs()
    values = (predicted.values.float() - target.values.float()).abs()
    features = (predicted.features - target.features).float().square().mean() / target.features.float().square().mean()
    motion = values[:, MOTION_COLUMNS].mean()
    return 15 * (points.mean() + points[:, 36:].mean()) + 0.6 * motion + 0.6 * values.mean() + 0.3 * features


def difference_loss(images: Tensor, batch: Batch) -> Tensor:
    """The share of the difference within pairs that the images miss: 0 is perfect, 1 is no response at all.

    The second half of the batch are the partners of the first (see `draw_pairs`). What both images of a pair get
    wrong cancels, so even a lid or a mouth corner has a clear gradient while the rest is still rough. Each pair counts
    alike, unless it hardly differs: a raised cheek is small beside another shape of the head.
    """
    target = torch.sub(*batch.images.chunk(2))
    missing = torch.sub(*images.chunk(2)) - target
    whole = target.square().flatten(1).sum(1)
    return (missing.square().flatten(1).sum(1) / (whole + 0.02 * whole.mean())).mean()


class RegionHeads(nn.Module):
    """Read the world's regions off features: in training only, so that geometry is learned early.

    channels: of the input features. margin: their pixels beyond each edge of the image.
    """

    def __init__(self, channels: Iterable[int], margin: int = 0) -> None:
        super().__init__()
        self.margin = margin
        self.heads = nn.ModuleList(nn.Conv2d(count, len(REGIONS), 1) for count in channels)

    def forward(self, features: list[Tensor], regions: Tensor) -> Tensor:
        """Mean cross-entropy for features [B, C, S, S] of each layer and regions [B, H, W]."""
        loss = torch.zeros([], device=regions.device)
        for head, feature in zip(self.heads, features, strict=True):
            side = feature.shape[-1] - 2 * self.margin
            feature = feature[..., self.margin :, self.margin :][..., :side, :side]
            step = regions.shape[-1] // side
            target = regions[:, step // 2 :: step, step // 2 :: step].long()
            loss = loss + F.cross_entropy(head(feature.float()), target, weight=_DETAIL.to(regions.device))
        return loss / len(self.heads)


@torch.no_grad()
def normalize_weights(model: Generator) -> None:
    """Bring the weights of each convolution back to a root mean square of 1.

    Demodulation makes their length irrelevant, but the longer they grow, the less a step turns them (Karras et al.
    2024, "Analyzing and improving the training dynamics of diffusion models", section 2.3).
    """
    for parameter in model.parameters():
        if parameter.ndim == 4 and parameter.requires_grad and len(parameter) != model.config.img_channels:
            parameter /= parameter.square().mean().sqrt()


def optimizers_of(model: Generator, lr: float) -> dict[str, torch.optim.Optimizer]:
    """Muon for the weights of affines and convolutions, Adam for the rest; only what requires a gradient."""
    split: dict[bool, list[nn.Parameter]] = {True: [], False: []}
    for name, parameter in model.named_parameters():
        if parameter.requires_grad:
            split[name.endswith("weight") and len(parameter) != model.config.img_channels].append(parameter)
    return {
        "matrices": Muon(split[True], lr),
        "rest": torch.optim.Adam(split[False], lr, betas=(0.9, 0.99), foreach=True),
    }
