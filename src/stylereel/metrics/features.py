"""Networks that turn images and windows of video into features, each with its own name.

Official files are only looked for, never downloaded here. Their hash must be the registry's; TorchScript is a program
(of tensor operations), so such a file is hashed anew each time before it is loaded.
"""

from __future__ import annotations

from collections.abc import Mapping
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from PIL import Image
from torch import Tensor, nn

from stylereel.core.builtin import builtin
from stylereel.core.record import sha256
from stylereel.core.weights import misfits
from stylereel.family.nets import SIZE, Trunk, load_face
from stylereel.metrics.registry import Net, Unfit
from stylereel.zoo.registry import cache_folder, fetch
from stylereel.zoo.registry import find as find_row
from stylereel.zoo.unpickle import unpickle

INCEPTION = "pt_inception-2015-12-05-6726825d.pth"
I3D = "i3d_torchscript.pt"


def official(name: str) -> Path:
    """The official weight file of that name, once its hash is right. Raises Unfit if it is not here, or another."""
    path = cache_folder() / name
    if not path.exists():
        raise Unfit(f"{name} is not here; stylereel weights get {name} fetches it.")
    try:
        return fetch(name)
    except ValueError as error:
        raise Unfit(str(error)) from error


def load_state(module: nn.Module, path: Path, state: Any) -> nn.Module:
    """The module with the tensors of `state` it knows, for use. Raises Unfit if some do not fit."""
    known = module.state_dict()
    items = state.items() if isinstance(state, Mapping) else ()
    tensors = {key: value for key, value in items if key in known and isinstance(value, Tensor)}
    for key in known:  # older files do not count the batches
        if key.endswith("num_batches_tracked"):
            tensors.setdefault(key, known[key])
    if problems := misfits(module, tensors):
        raise Unfit(f"{path} is not the file of this network: {'; '.join(problems[:3])}.")
    module.load_state_dict(tensors)
    return module.eval().requires_grad_(False)


def to_unit(frames: np.ndarray, device: str = "cpu") -> Tensor:
    """Pixels 0..255 [N, H, W, 3] as float32 [N, 3, H, W] in [-1, 1] on a device."""
    frames = np.require(frames, requirements=("C", "W"))  # a file's pixels may be read-only
    return torch.from_numpy(frames).permute(0, 3, 1, 2).float().to(device) / 127.5 - 1


# --- the built-in face net


def face_net() -> Net:
    """The built-in face net: 512 pooled features of the whole image, at 128 px."""
    file = builtin("face")
    return Net(f"stylereel-face-{_hash(file)[:8]}", file)


def face_motion_net() -> Net:
    """The built-in face net over a window of frames, see `face_motion_features`."""
    name, file = face_net()
    return Net(name.replace("face", "face-motion"), file)


@cache
def _hash(file: Path) -> str:
    return sha256(file)


def face_trunk(device: str = "cpu") -> Trunk:
    """The built-in face net's trunk on a device."""
    return _face_trunk(device)


@cache
def _face_trunk(device: str) -> Trunk:
    return load_face(builtin("face")).eval().requires_grad_(False).trunk.to(device)


def _bilinear(frame: np.ndarray, size: int) -> np.ndarray:
    image = torch.from_numpy(np.ascontiguousarray(frame)).permute(2, 0, 1)[None].float()
    small = F.interpolate(image, (size, size), mode="bilinear", antialias=True, align_corners=False)
    return small[0].permute(1, 2, 0).numpy()


def shrink_for_face(frame: np.ndarray) -> np.ndarray:
    """A frame uint8 [H, W, 3] at 128 px, bilinear with antialiasing, as float32 [128, 128, 3] in 0..255."""
    return _bilinear(frame, SIZE)


@torch.inference_mode()
def face_features(frames: np.ndarray, device: str = "cpu") -> np.ndarray:
    """Features [N, 512] of frames made small by `shrink_for_face` [N, 128, 128, 3]."""
    return face_trunk(device)(to_unit(frames, device)).cpu().numpy()


def face_motion_features(windows: np.ndarray, device: str = "cpu") -> np.ndarray:
    """Features [N, 1024] of windows [N, T, 128, 128, 3]: the mean of the frames' features, and the root mean square
    of their differences from frame to frame. The first half describes the content, the second its motion."""
    batch, length = windows.shape[:2]
    features = np.float64(face_features(windows.reshape(-1, *windows.shape[2:]), device)).reshape(batch, length, -1)
    moves = np.sqrt(np.square(np.diff(features, axis=1)).mean(1))
    return np.concatenate([features.mean(1), moves], axis=1)


# --- Inception v3, as the Frechet Inception distance uses it


def inception_net() -> Net:
    """Inception v3 of the published FID: 2048 pooled features."""
    return Net("inception-v3", official(INCEPTION))


def shrink_for_inception(frame: np.ndarray) -> np.ndarray:
    """A frame uint8 [H, W, 3] at 299 px as float32 [299, 299, 3] in 0..255: Pillow's bicubic filter, which widens
    when it makes smaller, on floating point channels without rounding (the rule of clean-fid, Parmar et al. 2022)."""
    channels = (Image.fromarray(frame[..., i].astype(np.float32), mode="F") for i in range(3))
    small = [np.asarray(c.resize((299, 299), Image.Resampling.BICUBIC)).clip(0, 255) for c in channels]
    return np.stack(small, axis=-1)


@cache
def _inception(path: Path, device: str) -> nn.Module:
    from stylereel.metrics.inception import Inception

    return load_state(Inception(), path, unpickle(path)).to(device)


@torch.inference_mode()
def inception_features(frames: np.ndarray, device: str = "cpu") -> np.ndarray:
    """Features [N, 2048] of frames made small by `shrink_for_inception`, scaled as (x - 128) / 128."""
    images = torch.from_numpy(frames).permute(0, 3, 1, 2).to(device)
    return _inception(official(INCEPTION), device)((images - 128) / 128).cpu().numpy()


# --- I3D, as the Frechet video distance uses it


def i3d_net() -> Net:
    """I3D trained on Kinetics-400: 400 numbers before the softmax, from StyleGAN-V's TorchScript file."""
    return Net("i3d", official(I3D))


def shrink_for_i3d(frame: np.ndarray, rounded: bool) -> np.ndarray:
    """A frame uint8 [H, W, 3] at 224 px, bilinear with antialiasing, in 0..255, rounded to whole levels or not."""
    small = _bilinear(frame, 224)
    return small.round() if rounded else small


@cache
def _i3d(path: Path, device: str) -> Any:
    # TorchScript holds a program: only the known one is run, whatever an earlier check noted.
    if _hash(path) != find_row(I3D).sha256:
        raise Unfit(f"{path} is not the official file; delete it, then stylereel weights get {I3D} fetches it.")
    return torch.jit.load(str(path), map_location=device).eval()


@torch.inference_mode()
def i3d_features(windows: np.ndarray, device: str = "cpu") -> np.ndarray:
    """Features [N, 400] of windows [N, T, H, W, 3] in 0..255; the network scales and, unless 224 px, resizes itself."""
    video = torch.from_numpy(np.ascontiguousarray(windows)).permute(0, 4, 1, 2, 3).float().to(device)
    resize = windows.shape[2:4] != (224, 224)
    return _i3d(official(I3D), device)(video, rescale=True, resize=resize, return_features=True).cpu().numpy()
