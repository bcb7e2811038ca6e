"""The geometry of flow: what a flow field does to an image or a feature map, and how far it is from the truth.

A flow [B, 2, H, W] says for each pixel where its content comes from: so many pixels of its own grid to the right and
down (backward warping). It may be given at another resolution than the map it is applied to.
"""

from __future__ import annotations

from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor

Grid = Literal["centres", "corners"]


def warp(x: Tensor, flow: Tensor, grid: Grid = "centres") -> Tensor:
    """The map x [B, C, H, W] moved by a flow [B, 2, h, w] in pixels of h x w.

    grid: "centres" counts from the centres of pixels and repeats the edges, so that a flow of 0 changes nothing.
    "corners" is the authors' code, which its weights have learned: positions are laid out from corner to corner, looked
    up as if they were centres, and outside there is 0; a flow of 0 shrinks the map by half a pixel at each edge.
    """
    size = x.shape[-2:]
    if grid == "corners":
        place = deformation(flow)
        if size != flow.shape[-2:]:
            place = F.interpolate(place.movedim(-1, 1), size, mode="bilinear", align_corners=False).movedim(1, -1)
        return F.grid_sample(x, place, mode="bilinear", padding_mode="zeros", align_corners=False)
    if size != flow.shape[-2:]:
        flow = F.interpolate(flow, size, mode="bilinear", align_corners=False) * _ratio(size, flow)
    return F.grid_sample(x, _places(flow), mode="bilinear", padding_mode="border", align_corners=False)


def deformation(flow: Tensor) -> Tensor:
    """Where the authors' code looks for each pixel [B, H, W, 2], x and y, -1 and 1 the centres of the outer pixels."""
    height, width = flow.shape[-2:]
    y, x = (torch.linspace(-1, 1, n, dtype=flow.dtype, device=flow.device) for n in (height, width))
    identity = torch.stack(torch.meshgrid(x, y, indexing="xy"), 2)
    return identity + 2 * flow.movedim(1, -1) / flow.new_tensor([width - 1, height - 1])


def _ratio(size: torch.Size, flow: Tensor) -> Tensor:
    """Factor [2, 1, 1] from pixels of the flow's own grid to those of `size`."""
    return flow.new_tensor([size[1] / flow.shape[-1], size[0] / flow.shape[-2]])[:, None, None]


def _places(flow: Tensor) -> Tensor:
    """Where to look for each pixel [B, H, W, 2], x and y, -1 and 1 the outer edges of the image."""
    height, width = flow.shape[-2:]
    y, x = (torch.arange(n, dtype=flow.dtype, device=flow.device) + 0.5 for n in (height, width))
    centres = torch.stack(torch.meshgrid(x, y, indexing="xy"), 2)
    return 2 * (centres + flow.movedim(1, -1)) / flow.new_tensor([width, height]) - 1


def compose(first: Tensor, second: Tensor) -> Tensor:
    """The one flow [B, 2, H, W] that does what warping by `first` and then by `second` does."""
    return second + F.grid_sample(first, _places(second), mode="bilinear", padding_mode="border", align_corners=False)


def endpoint_error(flow: Tensor, exact: Tensor, counted: Tensor | None = None) -> Tensor:
    """Mean distance in pixels between two flows [B, 2, H, W], over the pixels where `counted` [B, H, W] is true.

    Baker et al., "A Database and Evaluation Methodology for Optical Flow" (2011).
    """
    distance = (flow - exact).square().sum(1).clamp_min(1e-12).sqrt()
    if counted is None:
        return distance.mean()
    return (distance * counted).sum() / counted.sum().clamp_min(1)


def place_in_frame(place: Tensor, size: int = 64) -> Tensor:
    """The flow [B, 2, size, size] that moves a whole image: place [B, 3], right and down in parts of it, and scale."""
    pixels = torch.arange(size, dtype=place.dtype, device=place.device) + 0.5 - size / 2
    y, x = torch.meshgrid(pixels, pixels, indexing="ij")
    target = torch.stack([x, y])
    shift, scale = place[:, :2, None, None] * size, place[:, 2, None, None, None]
    return (target - shift) / scale - target
