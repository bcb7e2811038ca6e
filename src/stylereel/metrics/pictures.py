"""Measures of frame pairs: how far each frame's pixels, or a network's view of them, are from the reference's."""

from __future__ import annotations

import importlib.util
from collections.abc import Callable, Iterator
from functools import cache
from itertools import islice
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from stylereel.core.record import sha256
from stylereel.metrics.clips import Clip
from stylereel.metrics.features import face_net, face_trunk, load_state, official, shrink_for_face, to_unit
from stylereel.metrics.registry import Net, Unfit, measure
from stylereel.zoo.registry import cache_folder
from stylereel.zoo.registry import find as find_row
from stylereel.zoo.unpickle import unpickle

BATCH = 8  # frames at a time


def _each(result: Clip, reference: Clip, compare: Callable[[np.ndarray, np.ndarray], np.ndarray]) -> np.ndarray:
    """`compare` on batches of frame pairs uint8 [N, H, W, 3], joined: [T]. Raises ValueError for unequal sizes."""
    values = []
    pairs = zip(result, reference, strict=True)
    while batch := list(islice(pairs, BATCH)):
        for ours, theirs in batch:
            if ours.shape != theirs.shape:
                sizes = " and ".join(f"{f.shape[1]} x {f.shape[0]}" for f in (ours, theirs))
                raise Unfit(f"The frames of {result.name} and its reference have {sizes} pixels; resize one of them.")
        values.append(compare(*(np.stack(side) for side in zip(*batch))))
    return np.concatenate(values)


def _mean_of(difference: np.ndarray) -> np.ndarray:
    return difference.mean((1, 2, 3))


@measure(
    "l1",
    compares="frame pairs",
    better="lower",
    unit="levels of 8 bits",
    protocol="Mean absolute difference over all pixels and channels of RGB 0..255.",
    source="as in Expressive Talking Head Video Encoding, 2023",
)
def l1(result: Clip, reference: Clip) -> np.ndarray:
    return _each(result, reference, lambda a, b: _mean_of(np.abs(a.astype(np.float64) - b)))


@measure(
    "psnr",
    compares="frame pairs",
    better="higher",
    unit="dB",
    protocol="10 log10(255^2 / mean squared difference of RGB) a frame, then the mean over frames; inf for equal ones.",
    source="ITU-T J.340; per-frame mean as usual in the field",
)
def psnr(result: Clip, reference: Clip) -> np.ndarray:
    error = _each(result, reference, lambda a, b: _mean_of(np.square(a.astype(np.float64) - b)))
    with np.errstate(divide="ignore"):
        return 10 * np.log10(255**2 / error)


@measure(
    "ssim",
    compares="frame pairs",
    better="higher",
    unit="",
    protocol="Gaussian window of 11 pixels, sigma 1.5, K1 0.01, K2 0.03, mean over the three channels of RGB; by "
    "torchmetrics in float32, which may be off by 0.0002 where images are flat and bright.",
    source="Wang et al. 2004",
)
def ssim(result: Clip, reference: Clip) -> np.ndarray:
    try:
        from torchmetrics.functional.image import structural_similarity_index_measure
    except ImportError:
        raise Unfit("SSIM needs torchmetrics: run pip install 'stylereel[metrics]'.") from None

    def compare(a: np.ndarray, b: np.ndarray) -> np.ndarray:
        # In float64 torchmetrics is forty times slower.
        ours, theirs = (torch.from_numpy(side).permute(0, 3, 1, 2).float() for side in (a, b))
        values = structural_similarity_index_measure(ours, theirs, data_range=255.0, reduction="none")
        assert isinstance(values, Tensor)
        return values.reshape(len(a)).double().numpy()  # torchmetrics gives a bare number for one image

    return _each(result, reference, compare)


# --- LPIPS (Zhang et al. 2018): differences of a classifier's maps, weighted by learned channels


class LPIPS(nn.Module):
    """LPIPS v0.1 over AlexNet or VGG16; images [B, 3, H, W] in [-1, 1] to distances [B].

    Maps are taken after the last rectifier before each pool (of AlexNet also after the two in the middle), scaled to
    length 1 at every pixel; squared differences, weighted by channel, are averaged over pixels and added up.
    """

    # Outputs and kernel of each convolution, "pool", and "tap" where a map is taken; (kernel, stride) of the pools.
    LAYERS = {
        "alex": ((64, 11), "tap", "pool", (192, 5), "tap", "pool", (384, 3), "tap", (256, 3), "tap", (256, 3), "tap"),
        "vgg": (
            (64, 3), (64, 3), "tap", "pool", (128, 3), (128, 3), "tap", "pool", (256, 3), (256, 3), (256, 3), "tap",
            "pool", (512, 3), (512, 3), (512, 3), "tap", "pool", (512, 3), (512, 3), (512, 3), "tap",
        ),
    }  # fmt: skip
    POOLS = {"alex": (3, 2), "vgg": (2, 2)}
    BACKBONES = {"alex": "alexnet-owt-7be5be79.pth", "vgg": "vgg16-397923af.pth"}

    mean: Tensor
    deviation: Tensor

    def __init__(self, kind: str) -> None:
        super().__init__()
        layers: list[nn.Module] = []  # numbered as in torchvision's files
        self.taps: list[int] = []
        channels = []
        width = 3
        for layer in self.LAYERS[kind]:
            if layer == "tap":
                self.taps.append(len(layers) - 1)
                channels.append(width)
            elif layer == "pool":
                layers.append(nn.MaxPool2d(*self.POOLS[kind]))
            else:
                outputs, kernel = layer
                stride, padding = (4, 2) if kernel == 11 else (1, kernel // 2)
                layers += [nn.Conv2d(width, outputs, kernel, stride, padding), nn.ReLU()]
                width = int(outputs)
        self.features = nn.Sequential(*layers)
        self.weights = nn.ParameterList([torch.ones(1, count, 1, 1) for count in channels])
        # Means and deviations of ImageNet, for images in [-1, 1].
        self.register_buffer("mean", torch.tensor([-0.030, -0.088, -0.188]).view(1, 3, 1, 1))
        self.register_buffer("deviation", torch.tensor([0.458, 0.448, 0.450]).view(1, 3, 1, 1))

    def forward(self, a: Tensor, b: Tensor) -> Tensor:
        x = (torch.cat([a, b]) - self.mean) / self.deviation
        total = torch.zeros(len(a), device=a.device)
        taken = 0
        for number, layer in enumerate(self.features):
            x = layer(x)
            if taken < len(self.taps) and number == self.taps[taken]:
                total = total + _map_distance(x, self.weights[taken])
                taken += 1
        return total


def _map_distance(maps: Tensor, weights: Tensor | float) -> Tensor:
    """Weighted squared difference [B] of the maps of a and b [2 B, C, H, W], each pixel scaled to length 1."""
    one, two = F.normalize(maps, dim=1, eps=1e-10).chunk(2)
    return ((one - two).square() * weights).sum(1).mean((1, 2))


def lpips_heads(kind: str) -> Path:
    """The file of LPIPS's channel weights: the official one, or the same bytes inside torchmetrics' package."""
    row = find_row(f"lpips_{kind}.pth")
    if (cache_folder() / row.name).exists():
        return official(row.name)
    # Found without importing: only the file is needed.
    spec = importlib.util.find_spec("torchmetrics")
    for place in (spec.submodule_search_locations or ()) if spec else ():
        path = Path(place) / "functional" / "image" / "lpips_models" / f"{kind}.pth"
        if path.exists() and sha256(path) == row.sha256:
            return path
    raise Unfit("LPIPS needs its channel weights: run pip install 'stylereel[metrics]'.")


@cache
def lpips_network(kind: str, backbone: Path, heads: Path, device: str = "cpu") -> LPIPS:
    """LPIPS ("alex" or "vgg") with the weights of torchvision's backbone file and of LPIPS's own."""
    state = dict(unpickle(backbone))
    for key, value in unpickle(heads).items():  # lin0.model.1.weight
        state[f"weights.{key[3]}"] = value
    network = LPIPS(kind)
    state |= {"mean": network.mean, "deviation": network.deviation}
    load_state(network, backbone, state)
    return network.to(device)


def _lpips_net(kind: str) -> Callable[[], Net]:
    def net() -> Net:
        lpips_heads(kind)
        return Net({"alex": "alexnet", "vgg": "vgg16"}[kind], official(LPIPS.BACKBONES[kind]))

    return net


def _register_lpips(kind: str) -> None:
    @measure(
        f"lpips-{kind}",
        compares="frame pairs",
        better="lower",
        unit="",
        net=_lpips_net(kind),
        protocol="LPIPS v0.1 with its learned channel weights, on the frames as they are, without resizing.",
        source="Zhang et al. 2018",
    )
    @torch.inference_mode()
    def lpips(result: Clip, reference: Clip, *, device: str = "cpu") -> np.ndarray:
        network = lpips_network(kind, official(LPIPS.BACKBONES[kind]), lpips_heads(kind), device)

        def compare(a: np.ndarray, b: np.ndarray) -> np.ndarray:
            return network(to_unit(a, device), to_unit(b, device)).cpu().double().numpy()

        return _each(result, reference, compare)


for _kind in LPIPS.LAYERS:
    _register_lpips(_kind)


def _maps(images: Tensor) -> Iterator[Tensor]:
    trunk = face_trunk(images.device.type)
    x = F.silu(trunk.stem(images))
    for block in trunk.blocks:
        x = block(x)
        yield x


def face_map_distance(a: Tensor, b: Tensor) -> Tensor:
    """Distances [B] of images [B, 3, 128, 128] in [-1, 1], as `face_feature_distance` has them."""
    return torch.stack([_map_distance(maps, 1.0) for maps in _maps(torch.cat([a, b]))]).sum(0)


@measure(
    "face-feature-distance",
    compares="frame pairs",
    better="lower",
    unit="",
    net=face_net,
    protocol="Squared differences of the maps of the built-in face net's six blocks, each pixel scaled to length 1, "
    "averaged over pixels and added up without learned weights; frames at 128 px; not comparable with LPIPS.",
    source="the form of Zhang et al. 2018 on our own features",
)
@torch.inference_mode()
def face_feature_distance(result: Clip, reference: Clip, *, device: str = "cpu") -> np.ndarray:
    def compare(a: np.ndarray, b: np.ndarray) -> np.ndarray:
        ours, theirs = (to_unit(np.stack([shrink_for_face(frame) for frame in side]), device) for side in (a, b))
        return face_map_distance(ours, theirs).cpu().double().numpy()

    return _each(result, reference, compare)
