"""ArcFace: the identity of a face as 512 numbers, and the IR-SE50 backbone that it shares with the inversion encoders.

Deng et al., "ArcFace: Additive Angular Margin Loss for Deep Face Recognition" (2019), in the form of the published
model_ir_se50.pth: a residual network of 24 blocks in four stages, with squeeze and excitation (Hu et al.,
"Squeeze-and-Excitation Networks", 2018). Parameter names are those of that file.
"""

from __future__ import annotations

import torch.nn.functional as F
from torch import Tensor, nn

STAGES = (3, 4, 14, 3)  # blocks; each stage halves the map, each but the first doubles the channels
PORTRAIT = 256  # pixels of a portrait in FFHQ framing, from which the face is cropped
FACE = 112  # pixels of the crop
ROWS, COLUMNS = slice(35, 223), slice(32, 220)  # of the portrait, as in the identity loss of pSp


class SqueezeExcitation(nn.Module):
    """Scale each channel of [B, C, H, W] by a gate in 0..1 that is computed from the means of all channels."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.fc1 = nn.Conv2d(channels, channels // 16, 1, bias=False)
        self.fc2 = nn.Conv2d(channels // 16, channels, 1, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        gate = self.fc2(F.relu(self.fc1(x.mean(dim=(2, 3), keepdim=True))))
        return x * gate.sigmoid()


class Bottleneck(nn.Module):
    """Residual block [B, I, H, W] to [B, O, H / stride, W / stride], of two 3x3 convolutions."""

    def __init__(self, inputs: int, outputs: int, stride: int = 1, squeeze: bool = False) -> None:
        super().__init__()
        self.stride = stride
        self.shortcut_layer = (
            None
            if inputs == outputs
            else nn.Sequential(nn.Conv2d(inputs, outputs, 1, stride, bias=False), nn.BatchNorm2d(outputs))
        )
        self.res_layer = nn.Sequential(
            nn.BatchNorm2d(inputs),
            nn.Conv2d(inputs, outputs, 3, 1, 1, bias=False),
            nn.PReLU(outputs),
            nn.Conv2d(outputs, outputs, 3, stride, 1, bias=False),
            nn.BatchNorm2d(outputs),
        )
        if squeeze:
            self.res_layer.append(SqueezeExcitation(outputs))

    def forward(self, x: Tensor) -> Tensor:
        if self.shortcut_layer is None:
            return x[:, :, :: self.stride, :: self.stride] + self.res_layer(x)
        return self.shortcut_layer(x) + self.res_layer(x)


def stem(inputs: int, outputs: int) -> nn.Sequential:
    """A 3x3 convolution from images to the first features, normalised."""
    return nn.Sequential(nn.Conv2d(inputs, outputs, 3, 1, 1, bias=False), nn.BatchNorm2d(outputs), nn.PReLU(outputs))


class Backbone(nn.Module):
    """Images [B, channels, H, W] to feature maps of 1/4, 1/8 and 1/16 of their size.

    channels: of the images; width: channels of the first stage (a multiple of 16); squeeze: whether the blocks
    have squeeze and excitation (IR-SE) or not (IR).
    """

    def __init__(self, channels: int = 3, width: int = 64, squeeze: bool = True) -> None:
        super().__init__()
        self.input_layer = stem(channels, width)
        blocks: list[Bottleneck] = []
        inputs = width
        for stage, length in enumerate(STAGES):
            outputs = width * 2**stage
            for i in range(length):
                blocks.append(Bottleneck(inputs, outputs, 1 if i else 2, squeeze))
                inputs = outputs
        self.body = nn.Sequential(*blocks)

    def features(self, images: Tensor) -> list[Tensor]:
        """[B, 2W, H/4, W/4], [B, 4W, H/8, W/8] and [B, 8W, H/16, W/16] for a width W."""
        x = self.input_layer(images)
        ends = [sum(STAGES[:i]) for i in range(len(STAGES) + 1)]
        fine = self.body[: ends[2]](x)
        middle = self.body[ends[2] : ends[3]](fine)
        return [fine, middle, self.body[ends[3] :](middle)]


class ArcFace(Backbone):
    """Faces to embeddings; the cosine of two embeddings is the similarity of two faces."""

    def __init__(self) -> None:
        super().__init__()
        self.output_layer = nn.Sequential(
            nn.BatchNorm2d(512), nn.Dropout(0.6), nn.Flatten(), nn.Linear(512 * 7 * 7, 512), nn.BatchNorm1d(512)
        )

    def forward(self, faces: Tensor) -> Tensor:
        """Cropped faces [B, 3, 112, 112] in [-1, 1] to embeddings [B, 512] of length 1."""
        return F.normalize(self.output_layer(self.features(faces)[-1]), dim=1)

    def embed(self, portraits: Tensor) -> Tensor:
        """Portraits [B, 3, H, W] in FFHQ framing, in [-1, 1], to embeddings [B, 512] of length 1."""
        return self(face_crop(portraits))


def face_crop(portraits: Tensor) -> Tensor:
    """Portraits [B, 3, H, W] in FFHQ framing to what ArcFace takes, [B, 3, 112, 112], as in the identity loss of pSp.

    The portrait is averaged over areas to 256 px, then rows 35 to 223 and columns 32 to 220 to 112 px.
    """
    if portraits.shape[-2:] != (PORTRAIT, PORTRAIT):
        portraits = F.adaptive_avg_pool2d(portraits, PORTRAIT)
    return F.adaptive_avg_pool2d(portraits[:, :, ROWS, COLUMNS], FACE)
