"""Deep3D: expression, pose and place of a face as numbers of the Basel Face Model, from one image.

Deng et al., "Accurate 3D Face Reconstruction with Weakly-Supervised Learning" (2019): a ResNet-50 with linear heads.
StyleHEAT drives by 73 of its numbers. Nothing is drawn, so that the Basel Face Model itself is not needed. Parameter
names are those of the published epoch_20.pth.
"""

from __future__ import annotations

from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from PIL import Image
from torch import Tensor, nn

from stylereel.faces.deca import ResNet
from stylereel.zoo.encoders import load_part

# What the 257 numbers are, in this order; the last two are the translation's x and y, and z.
PARTS = {"identity": 80, "expression": 64, "texture": 80, "angles": 3, "light": 27, "shift": 2, "depth": 1}
INPUT = 224  # pixels
FACE_SIZE = 102.0  # pixels of the crop that one unit of the standard points takes
# Both eyes' middles, tip of the nose, corners of the mouth, as the crop aligns them: x right, y up, z to the viewer.
STANDARD = np.array(
    [
        [-0.31148657, 0.09036078, 0.13377953],
        [0.30979887, 0.08972035, 0.13179526],
        [0.0032535, -0.24617933, 0.55244243],
        [-0.25216928, -0.5813392, 0.22405732],
        [0.2484662, -0.5812824, 0.22235769],
    ]
)
LARGEST = 8192  # pixels of an image after scaling
COUNT = 73  # numbers of a frame that drive StyleHEAT: expression, angles, translation, crop


class Crop(NamedTuple):
    """How an image was scaled and cut for the network.

    ratio: pixels of the crop a pixel of the image; x, y: where the origin of the standard points is, in pixels
    from the left and from the bottom.
    """

    ratio: float
    x: float
    y: float


class Deep3D(nn.Module):
    """Aligned faces to the numbers of the face model."""

    def __init__(self, blocks: tuple[int, ...] = (3, 4, 6, 3), width: int = 64) -> None:
        super().__init__()
        self.backbone = ResNet(blocks, width)
        features = 4 * width << len(blocks) - 1
        self.final_layers = nn.ModuleList(nn.Conv2d(features, count, 1) for count in PARTS.values())

    def forward(self, faces: Tensor) -> dict[str, Tensor]:
        """Aligned faces [B, 3, 224, 224] in 0..1 to the numbers [B, n] of each of `PARTS`."""
        features = self.backbone(faces)[:, :, None, None]
        return {name: layer(features).flatten(1) for name, layer in zip(PARTS, self.final_layers, strict=True)}


def five_points(landmarks: np.ndarray) -> np.ndarray:
    """Middles between the corners of each eye, tip of the nose, corners of the mouth [5, 2], of 68 landmarks."""
    eyes = [(landmarks[a] + landmarks[b]) / 2 for a, b in ((36, 39), (42, 45))]
    return np.stack([*eyes, landmarks[30], landmarks[48], landmarks[54]])


def crop_of(landmarks: np.ndarray, height: int) -> Crop:
    """The crop of an image `height` pixels high with landmarks [68, 2] in pixels from its upper left.

    Least squares of an affine camera that maps the standard points to the five of the face; its scale is the mean
    length of the two rows.

    Raises ValueError if all points are in one place.
    """
    points = five_points(np.asarray(landmarks, np.float64))
    points[:, 1] = height - 1 - points[:, 1]
    camera = np.linalg.lstsq(np.column_stack([STANDARD, np.ones(5)]), points, rcond=None)[0]  # [4, 2]
    scale = np.linalg.norm(camera[:3], axis=0).mean()
    if not scale > 1e-6:
        raise ValueError("All landmarks are in one place; give those of a face.")
    return Crop(FACE_SIZE / scale, *camera[3])


def aligned(picture: np.ndarray, crop: Crop) -> np.ndarray:
    """The crop uint8 [224, 224, 3] of an image uint8 [H, W, 3], scaled as a whole first; black beyond its edges.

    Raises ValueError for a face that is tiny in the image.
    """
    height, width = picture.shape[:2]
    large = int(width * crop.ratio), int(height * crop.ratio)
    if not 1 <= min(large) <= max(large) <= LARGEST:
        raise ValueError("The face has another size than the crop can have; cut it out in FFHQ's framing first.")
    left = int(large[0] / 2 - INPUT / 2 + (crop.x - width / 2) * crop.ratio)
    top = int(large[1] / 2 - INPUT / 2 + (height / 2 - crop.y) * crop.ratio)
    scaled = Image.fromarray(picture).resize(large, Image.Resampling.BICUBIC)
    return np.asarray(scaled.crop((left, top, left + INPUT, top + INPUT)))


@torch.inference_mode()
def coefficients(net: Deep3D, pictures: list[np.ndarray], landmarks: np.ndarray) -> np.ndarray:
    """What drives StyleHEAT [T, 73]: expression 64, angles 3 in radians, translation 3, crop 3.

    images: uint8 [256, 256, 3] each, of faces in FFHQ's framing; landmarks: [T, 68, 2] in their pixels.
    """
    crops = [crop_of(points, picture.shape[0]) for picture, points in zip(pictures, landmarks, strict=True)]
    faces = np.stack([aligned(picture, crop) for picture, crop in zip(pictures, crops, strict=True)])
    outputs = net(torch.from_numpy(faces).permute(0, 3, 1, 2).float() / 255)
    parts = [outputs[name] for name in ("expression", "angles", "shift", "depth")]
    return np.concatenate([torch.cat(parts, 1).numpy(), np.array(crops, np.float32)], axis=1).astype(np.float32)


def load_deep3d(path: str | Path) -> Deep3D:
    """The network in epoch_20.pth; nothing in it is run. Raises ValueError, listing what does not fit."""

    def build(state: dict[str, Tensor]) -> Deep3D:
        stages = sorted({key.split(".")[1] for key in state if key.startswith("backbone.layer")})
        blocks = tuple(len({key.split(".")[2] for key in state if f".{stage}." in key}) for stage in stages)
        return Deep3D(blocks, len(state["backbone.conv1.weight"]))

    return load_part(path, "final_layers.6.weight", "Deep3D network", build)
