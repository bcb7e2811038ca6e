"""The networks of StyleFaceV, by the names of the authors' weight files, so that those load without renaming.

Axes: B samples, T frames, P landmark maps (98), H x W pixels, L rows of W+, D width of w. The pose code is a map
[B, 1, 8, 8] of 64 numbers, never below 0; the appearance code is a map [B, 64, 8, 8].
"""

from __future__ import annotations

from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

Normalisation = Literal["running", "image"]

LANDMARKS = 98  # the WFLW scheme
MAP_SIZE, IMAGE_SIZE = 64, 256  # of landmark maps, and of the images that they are made from
POSE_SIZE = 8  # side of the pose code
STEP = 0.2  # most that a coordinate of the pose moves in a frame

# The 14 points that the pose code is trained to tell, each the mean of these landmarks: brows, lid, pupil and lower lid
# of each eye, tip of the nose, middle of the outer lips, corners and middle of the inner lips.
KEY_POINTS = (
    tuple(range(33, 42)), tuple(range(42, 51)), (62,), (96,), (66,), (70,), (97,), (74,), (54,), (79,), (85,), (88,),
    (92,), (90, 94),
)  # fmt: skip


def peaks(maps: Tensor) -> Tensor:
    """Landmarks [B, P, 2] as x, y in 0..1 from maps [B, P, H, W].

    The highest pixel's centre, moved a quarter of a pixel to the higher neighbour (Newell et al. 2016), except at the
    border.
    """
    height, width = maps.shape[-2:]
    y, x = maps.flatten(2).argmax(2).div(width, rounding_mode="floor"), maps.flatten(2).argmax(2) % width
    inside = (x > 0) & (x < width - 1) & (y > 0) & (y < height - 1)

    def at(row: Tensor, column: Tensor) -> Tensor:
        index = row.clamp(0, height - 1) * width + column.clamp(0, width - 1)
        return maps.flatten(2).gather(2, index[..., None]).squeeze(2)

    towards_x = (at(y, x + 1) - at(y, x - 1)).sign() * inside
    towards_y = (at(y + 1, x) - at(y - 1, x)).sign() * inside
    return torch.stack([(x + 0.5 + 0.25 * towards_x) / width, (y + 0.5 + 0.25 * towards_y) / height], 2)


def key_points(landmarks: Tensor) -> Tensor:
    """The 14 key points [B, 14, 2] of 98 landmarks [B, 98, 2]."""
    return torch.stack([landmarks[:, list(group)].mean(1) for group in KEY_POINTS], 1)


def _coordinates(x: Tensor) -> Tensor:
    """x [B, C, H, W] with three more channels: row and column in -1..1, and the distance from the middle in 0..1."""
    row = torch.linspace(-1, 1, x.shape[2], dtype=x.dtype, device=x.device)[:, None].expand(x.shape[2:])
    column = torch.linspace(-1, 1, x.shape[3], dtype=x.dtype, device=x.device).expand(x.shape[2:])
    distance = (row.square() + column.square()).sqrt()
    planes = torch.stack([row, column, distance / distance.max()])
    return torch.cat([x, planes.expand(len(x), -1, -1, -1)], 1)


class CoordConv(nn.Module):
    """A convolution that also sees where it is."""

    def __init__(self, channels: int, out: int, kernel: int, stride: int = 1) -> None:
        super().__init__()
        self.conv = nn.Conv2d(channels + 3, out, kernel, stride, (kernel - 1) // 2)

    def forward(self, x: Tensor) -> Tensor:
        return self.conv(_coordinates(x))


class Pyramid(nn.Module):
    """Three convolutions in a row, normalised first, whose outputs stand side by side on top of the input."""

    def __init__(self, channels: int, out: int) -> None:
        super().__init__()
        widths = (channels, out // 2, out // 4, out // 4)
        for index, (a, b) in enumerate(zip(widths, widths[1:]), 1):
            self.add_module(f"bn{index}", nn.BatchNorm2d(a))
            self.add_module(f"conv{index}", nn.Conv2d(a, b, 3, 1, 1, bias=False))
        self.downsample = (
            None
            if channels == out
            else nn.Sequential(nn.BatchNorm2d(channels), nn.ReLU(), nn.Conv2d(channels, out, 1, bias=False))
        )

    def forward(self, x: Tensor) -> Tensor:
        parts, now = [], x
        for index in (1, 2, 3):
            now = self.get_submodule(f"conv{index}")(F.relu(self.get_submodule(f"bn{index}")(now)))
            parts.append(now)
        return torch.cat(parts, 1) + (x if self.downsample is None else self.downsample(x))


class Hourglass(nn.Module):
    """Down four levels and up again, with a branch across at each."""

    DEPTH = 4

    def __init__(self, width: int) -> None:
        super().__init__()
        self.coordconv = CoordConv(width, width, 1)
        for level in range(self.DEPTH, 0, -1):
            for name in ("b1", "b2", "b3"):
                self.add_module(f"{name}_{level}", Pyramid(width, width))
        self.b2_plus_1 = Pyramid(width, width)

    def forward(self, x: Tensor) -> Tensor:
        return self._level(self.DEPTH, self.coordconv(x))

    def _level(self, level: int, x: Tensor) -> Tensor:
        below = self.get_submodule(f"b2_{level}")(F.avg_pool2d(x, 2))
        below = self._level(level - 1, below) if level > 1 else self.b2_plus_1(below)
        below = self.get_submodule(f"b3_{level}")(below)
        return self.get_submodule(f"b1_{level}")(x) + F.interpolate(below, scale_factor=2.0, mode="nearest")


class LandmarkNet(nn.Module):
    """Images to landmark maps: a face alignment network of one hourglass, aware of coordinates and face boundaries.

    Wang, Bo, Fuxin: "Adaptive Wing Loss for Robust Face Alignment via Heatmap Regression" (2019), in the weights that
    StarGAN v2 published. It belongs frozen: the authors' training lets its running statistics drift, which their own
    landmark file then holds.
    """

    def __init__(self, landmarks: int = LANDMARKS, width: int = 256) -> None:
        super().__init__()
        self.conv1 = CoordConv(3, width // 4, 7, stride=2)
        self.bn1 = nn.BatchNorm2d(width // 4)
        self.conv2 = Pyramid(width // 4, width // 2)
        self.conv3 = Pyramid(width // 2, width // 2)
        self.conv4 = Pyramid(width // 2, width)
        self.m0 = Hourglass(width)
        self.top_m_0 = Pyramid(width, width)
        self.conv_last0 = nn.Conv2d(width, width, 1)
        self.bn_end0 = nn.BatchNorm2d(width)
        self.l0 = nn.Conv2d(width, landmarks + 1, 1)  # the last map shows the face's boundary

    def forward(self, images: Tensor) -> Tensor:
        """Maps [B, P, 64, 64] of images [B, 3, H, W] in -1..1, which are resized to 256 x 256."""
        x = F.interpolate(images, (IMAGE_SIZE, IMAGE_SIZE), mode="bilinear", align_corners=False) * 0.5 + 0.5
        x = F.relu(self.bn1(self.conv1(x)))
        x = self.conv4(self.conv3(F.avg_pool2d(self.conv2(x), 2)))
        x = self.top_m_0(self.m0(x))
        return self.l0(F.relu(self.bn_end0(self.conv_last0(x))))[:, :-1]


class Norm(nn.BatchNorm2d):
    """Batch normalisation that can take each image's own statistics instead (see `AppearanceNet.normalise_by`)."""

    own = False

    def forward(self, input: Tensor) -> Tensor:
        if self.own:
            return F.instance_norm(input, weight=self.weight, bias=self.bias, eps=self.eps)
        return super().forward(input)


class Bottleneck(nn.Module):
    """A wide residual block: 1 x 1 to `width`, 3 x 3 with the stride, 1 x 1 to `out`."""

    def __init__(self, channels: int, width: int, out: int, stride: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(channels, width, 1, bias=False)
        self.bn1 = Norm(width)
        self.conv2 = nn.Conv2d(width, width, 3, stride, 1, bias=False)
        self.bn2 = Norm(width)
        self.conv3 = nn.Conv2d(width, out, 1, bias=False)
        self.bn3 = Norm(out)
        self.downsample = (
            None
            if stride == 1 and channels == out
            else nn.Sequential(nn.Conv2d(channels, out, 1, stride, bias=False), Norm(out))
        )

    def forward(self, x: Tensor) -> Tensor:
        now = F.relu(self.bn1(self.conv1(x)))
        now = self.bn3(self.conv3(F.relu(self.bn2(self.conv2(now)))))
        return F.relu(now + (x if self.downsample is None else self.downsample(x)))


def _stage(channels: int, width: int, out: int, stride: int, blocks: int = 3) -> nn.Sequential:
    first = Bottleneck(channels, width, out, stride)
    return nn.Sequential(first, *(Bottleneck(out, width, out, 1) for _ in range(blocks - 1)))


class PoseEncoder(nn.Module):
    """Landmark maps [B, P, 64, 64] to the pose code, and the pose code to key points."""

    def __init__(self, maps: int = LANDMARKS, points: int = len(KEY_POINTS)) -> None:
        super().__init__()
        self.maps = maps
        self.layer1 = _stage(maps, 2 * maps, maps, 2)
        self.layer2 = _stage(maps, 2 * (maps // 2), maps // 2, 2)
        self.layer3 = _stage(maps // 2, 2, 1, 2)
        self.layer4 = _stage(1, 64, 32, 2)
        self.fc = nn.Linear(32, 2 * points)

    def forward(self, maps: Tensor) -> Tensor:
        """Pose code [B, 1, 8, 8]."""
        return self.layer3(self.layer2(self.layer1(maps)))

    def points(self, pose: Tensor) -> Tensor:
        """Key points [B, 14, 2] as x, y in 0..1 of pose codes [B, 1, 8, 8]."""
        return torch.sigmoid(self.fc(self.layer4(pose).mean((2, 3)))).unflatten(1, (-1, 2))


class AppearanceNet(nn.Module):
    """Images to the appearance code, and appearance and pose to W+.

    The trunk is that of Wide ResNet-50-2. The fusion multiplies both codes element by element, so that each place of
    the pose map says how much of the appearance there is heard. W+ comes out whole, not as an offset from the mean.
    """

    BLOCKS = (3, 4, 6, 3)

    def __init__(self, rows: int = 16, w_dim: int = 512, width: int = 64) -> None:
        super().__init__()
        self.w_dim = w_dim
        self.conv1 = nn.Conv2d(3, width, 7, 2, 3, bias=False)
        self.bn1 = Norm(width)
        outs = [4 * width * 2**level for level in range(4)]
        for level, (channels, out, blocks) in enumerate(zip([width, *outs], outs, self.BLOCKS), 1):
            self.add_module(f"layer{level}", _stage(channels, out // 2, out, 1 if level == 1 else 2, blocks))
        self.layer5 = _stage(outs[-1], width // 2, width, 1)
        self.layer5_b = _stage(1, width // 2, width, 1)
        for level, (channels, out) in enumerate(zip([width, *outs], outs), 1):
            self.add_module(f"layer{level}_a", _stage(channels, out // 2, out, 2 if level == 4 else 1))
        self.fc_a = nn.Linear(outs[-1], rows * w_dim)

    def normalise_by(self, statistics: Normalisation) -> AppearanceNet:
        """Choose what the normalisation layers use in evaluation: `running` statistics of the training, as is usual, or
        those of each `image`.

        The authors' test command forgets to leave training mode and gives one image at a time, so the images they
        show are made by "image". Taken image by image it does not depend on the batch.
        """
        for module in self.modules():
            if isinstance(module, Norm):
                module.own = statistics == "image"
        return self

    def forward(self, images: Tensor) -> Tensor:
        """Appearance code [B, 64, 8, 8] of images [B, 3, 256, 256] in -1..1."""
        x = F.max_pool2d(F.relu(self.bn1(self.conv1(images))), 3, 2, 1)
        for level in (1, 2, 3, 4, 5):
            x = self.get_submodule(f"layer{level}")(x)
        return x

    def fuse(self, appearance: Tensor, pose: Tensor) -> Tensor:
        """W+ [B, L, D] of appearance codes [B, 64, 8, 8] and pose codes [B, 1, 8, 8]; one of the two B may be 1."""
        x = appearance * self.layer5_b(pose)
        for level in (1, 2, 3, 4):
            x = self.get_submodule(f"layer{level}_a")(x)
        return self.fc_a(x.mean((2, 3))).unflatten(1, (-1, self.w_dim))


class MotionLSTM(nn.Module):
    """A pose to a sequence of poses without end: what each frame adds comes from noise through an LSTM.

    Tian et al., "A Good Image Generator Is What You Need for High-Resolution Video Synthesis" (MoCoGAN-HD, 2021). A
    second head tells the noise from the state, so that training can hold different noise to different motion.
    """

    def __init__(self, size: int = POSE_SIZE**2, hidden: int = 64) -> None:
        super().__init__()
        self.enc_cell, self.cell = nn.LSTMCell(size, hidden), nn.LSTMCell(size, hidden)
        self.w = nn.Parameter(torch.empty(hidden, size))
        self.b = nn.Parameter(torch.zeros(size))
        self.fc1, self.fc2 = nn.Linear(2 * hidden, size), nn.Linear(size, size)
        nn.init.normal_(self.w, std=0.02)
        for cell in (self.enc_cell, self.cell):
            for gate in (*cell.weight_ih.chunk(4), *cell.weight_hh.chunk(4)):
                nn.init.orthogonal_(gate)
            nn.init.zeros_(cell.bias_ih)
            nn.init.zeros_(cell.bias_hh)
        for linear in (self.fc1, self.fc2):
            nn.init.orthogonal_(linear.weight)

    def start(self, pose: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """The state (pose, h, c) at a first pose [B, 64]."""
        return (pose, *self.enc_cell(pose))

    def go_on(
        self, state: tuple[Tensor, Tensor, Tensor], noise: Tensor
    ) -> tuple[Tensor, Tensor, tuple[Tensor, Tensor, Tensor]]:
        """The next poses [B, T, 64] for noise [B, T, 64], the noise predicted from the states [B, T, 64], and the state
        at the end, from which the next call goes on."""
        (pose, h, c), poses, memories = state, [], []
        for step in noise.unbind(1):
            h, c = self.cell(step, (h, c))
            pose = pose + STEP * torch.tanh(h @ self.w + self.b)
            poses.append(pose)
            memories.append(torch.cat([h, c], 1))
        return torch.stack(poses, 1), self.fc2(F.relu(self.fc1(torch.stack(memories, 1)))), (pose, h, c)

    def forward(self, pose: Tensor, noise: Tensor) -> tuple[Tensor, Tensor]:
        """Poses [B, T, 64], the first [B, 64] given, for noise [B, T - 1, 64]; and the noise predicted from them."""
        poses, predicted, _ = self.go_on(self.start(pose), noise)
        return torch.cat([pose[:, None], poses], 1), predicted


class FrameDiscriminator(nn.Module):
    """Scores [B, 1, h, w] of images [B, C, H, W], each of a patch of 70 x 70 pixels (Isola et al. 2017)."""

    def __init__(self, channels: int = 3, width: int = 64) -> None:
        super().__init__()
        widths = [width, 2 * width, 4 * width, 8 * width]
        layers: list[nn.Module] = [nn.Conv2d(channels, width, 4, 2, 1), nn.LeakyReLU(0.2)]
        for index, (a, b) in enumerate(zip(widths, widths[1:])):
            convolution = nn.Conv2d(a, b, 4, 2 if index < 2 else 1, 1, bias=False)
            layers += [convolution, nn.BatchNorm2d(b), nn.LeakyReLU(0.2)]
        self.model = nn.Sequential(*layers, nn.Conv2d(widths[-1], 1, 4, 1, 1))
        _start_small(self)

    def forward(self, images: Tensor) -> Tensor:
        return self.model(images)


class _Scales(nn.Module):
    """The convolutions of a discriminator of two scales, under the names of the authors' files."""

    LEVELS = 5

    def __init__(self, convolution: type[nn.Module], normalisation: type[nn.Module], channels: int, width: int) -> None:
        super().__init__()
        widths = [channels, width, 2 * width, 4 * width, 8 * width, 1]
        for scale in range(2):
            for level, (a, b) in enumerate(zip(widths, widths[1:])):
                layers = [convolution(a, b, 4, 2 if level < 3 else 1, 2)]
                if 0 < level < self.LEVELS - 1:
                    layers.append(normalisation(b, affine=False, track_running_stats=True))
                if level < self.LEVELS - 1:
                    layers.append(nn.LeakyReLU(0.2))
                self.add_module(f"scale{scale}_layer{level}", nn.Sequential(*layers))


class MotionDiscriminator(nn.Module):
    """Judges frames or sequences at two scales; `forward` gives the outputs of all five levels of both, finest first.

    dimensions: 2 for a first and a later frame, stacked to [B, C, H, W]; 3 for a first frame stacked to each later one,
    [B, C, T, H, W]. halve_time: whether the second scale of a sequence has half as many frames, as the authors have it
    for more than 16.
    """

    def __init__(self, channels: int, dimensions: Literal[2, 3], width: int = 64, halve_time: bool = True) -> None:
        super().__init__()
        flat = dimensions == 2
        self.netD = _Scales(
            nn.Conv2d if flat else nn.Conv3d, nn.InstanceNorm2d if flat else nn.InstanceNorm3d, channels, width
        )
        self.halve_time = halve_time
        _start_small(self)

    def forward(self, x: Tensor) -> list[list[Tensor]]:
        results = []
        for scale in (1, 0):
            outputs, now = [], x
            for level in range(_Scales.LEVELS):
                now = self.netD.get_submodule(f"scale{scale}_layer{level}")(now)
                outputs.append(now)
            results.append(outputs)
            x = self._halve(x)
        return results

    def _halve(self, x: Tensor) -> Tensor:
        if x.ndim == 4:
            return F.avg_pool2d(x, 3, 2, 1, count_include_pad=False)
        return F.avg_pool3d(x, 3, (2 if self.halve_time else 1, 2, 2), 1, count_include_pad=False)


def against_first(frames: Tensor) -> Tensor:
    """Input of the discriminator of sequences for frames [B, T, C, H, W]: [B, 2 C, T - 1, H, W], the first next to
    each."""
    first = frames[:, :1].expand(-1, frames.shape[1] - 1, -1, -1, -1)
    return torch.cat([first, frames[:, 1:]], 2).transpose(1, 2)


def _start_small(module: nn.Module) -> None:
    """Weights of convolutions with a deviation of 0.02, as the authors start their discriminators."""
    for part in module.modules():
        if isinstance(part, (nn.Conv2d, nn.Conv3d)):
            nn.init.normal_(part.weight, std=0.02)
