"""The weight files of StyleFaceV's authors, by their names and by what is in them. Nothing in a file is run.

| file | network |
|---|---|
| network-snapshot-005000.pkl | StyleGAN3-R, read by `load_generator_file` |
| wing.ckpt; N_net_FE_lm.pth | landmarks; the second with statistics that drifted in training |
| pre_pose_net.pth; N_net_FE_pose.pth | pose encoder |
| pre_net.pth; N_net_FE.pth | appearance encoder and fusion |
| motion_net.pth; N_net_G.pth of the motion stage | motion LSTM |
| N_net_D.pth; N_net_D_2d.pth; N_net_D_3d.pth | discriminators |

N is an epoch or "latest".
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path

from torch import Tensor, nn

from stylereel.generator import StyleGAN3
from stylereel.systems.stylefacev.networks import (
    AppearanceNet,
    FrameDiscriminator,
    LandmarkNet,
    MotionDiscriminator,
    MotionLSTM,
    Normalisation,
    PoseEncoder,
)
from stylereel.zoo.encoders import load_part
from stylereel.zoo.formats import load_generator_file

State = dict[str, Tensor]

# For each network the names of its files, the first pattern first; among those of one pattern the latest epoch.
NAMES: dict[str, tuple[str, ...]] = {
    "generator": (r"network-snapshot-(?P<epoch>\d+)\.pkl",),
    "landmarks": (r"wing\.ckpt", r"(?P<epoch>\w+)_net_FE_lm\.pth"),
    "pose": (r"(?P<epoch>\w+)_net_FE_pose\.pth", r"pre_pose_net\.pth"),
    "appearance": (r"(?P<epoch>\w+)_net_FE\.pth", r"pre_net\.pth"),
    "motion": (r"motion_net\.pth", r"(?P<epoch>\w+)_net_G\.pth"),
}


@dataclass(frozen=True)
class Networks:
    """What StyleFaceV needs to make video, ready to use."""

    generator: StyleGAN3
    landmarks: nn.Module  # images to maps: a LandmarkNet, if the files are the authors'
    pose: PoseEncoder
    appearance: AppearanceNet
    motion: MotionLSTM


def find_files(folder: str | Path) -> dict[str, Path]:
    """The file of each network in a folder. Raises ValueError that names those that are not there."""
    files = sorted(path for path in Path(folder).iterdir()) if Path(folder).is_dir() else []
    found: dict[str, Path] = {}
    for network, patterns in NAMES.items():
        for pattern in patterns:
            matches = [(match, path) for path in files if (match := re.fullmatch(pattern, path.name))]
            if matches and network not in found:
                found[network] = max(matches, key=lambda pair: _age(pair[0]))[1]
    missing = [network for network in NAMES if network not in found]
    if missing:
        raise ValueError(
            f"{folder} lacks StyleFaceV's files of: {', '.join(missing)}; the names are those in the authors' archive, "
            "for instance network-snapshot-005000.pkl, wing.ckpt, latest_net_FE.pth, latest_net_FE_pose.pth and "
            "motion_net.pth."
        )
    return found


def _age(match: re.Match[str]) -> tuple[int, int]:
    epoch = match.groupdict().get("epoch") or ""
    return (1, 0) if epoch == "latest" else (0, int(epoch) if epoch.isdecimal() else 0)


def load_folder(folder: str | Path, normalisation: Normalisation = "running") -> Networks:
    """All networks in a folder of the authors' files, by their names.

    normalisation: which statistics the appearance encoder takes, see `AppearanceNet.normalise_by`.

    Raises ValueError if one is missing, damaged, or does not fit the others.
    """
    files = find_files(folder)
    generator = load_generator_file(files["generator"])
    if not isinstance(generator, StyleGAN3):
        raise ValueError(f"{files['generator']} holds no StyleGAN3 generator, which StyleFaceV needs.")
    reader = load_landmarks(files["landmarks"])
    networks = Networks(
        generator,
        reader,
        load_pose(files["pose"]),
        load_appearance(files["appearance"], generator.config.w_dim, normalisation),
        load_motion(files["motion"]),
    )
    rows = networks.appearance.fc_a.out_features // networks.appearance.w_dim
    if rows != generator.num_ws:
        raise ValueError(
            f"{files['appearance']} makes {rows} rows of W+, the generator {files['generator']} takes "
            f"{generator.num_ws}; give files that belong together."
        )
    landmarks, maps = reader.l0.out_channels - 1, networks.pose.maps
    if landmarks != maps:
        raise ValueError(
            f"{files['pose']} looks at {maps} landmark maps, {files['landmarks']} makes {landmarks}; give files that "
            "belong together."
        )
    return networks


def load_landmarks(path: str | Path) -> LandmarkNet:
    """The landmark net in wing.ckpt or N_net_FE_lm.pth. Raises ValueError, saying what does not fit."""

    def build(state: State) -> LandmarkNet:
        return LandmarkNet(len(state["l0.weight"]) - 1, state["l0.weight"].shape[1])

    return load_part(path, "m0.coordconv.conv.weight", "landmark net", build)


def load_pose(path: str | Path) -> PoseEncoder:
    """The pose encoder in pre_pose_net.pth or N_net_FE_pose.pth. Raises ValueError, saying what does not fit."""

    def build(state: State) -> PoseEncoder:
        return PoseEncoder(state["layer1.0.conv1.weight"].shape[1], len(state["fc.weight"]) // 2)

    return load_part(path, "fc.weight", "pose encoder", build)


def load_appearance(path: str | Path, w_dim: int = 512, normalisation: Normalisation = "running") -> AppearanceNet:
    """The appearance encoder and fusion in pre_net.pth or N_net_FE.pth.

    w_dim: of the generator, which the file does not tell. Raises ValueError, saying what does not fit.
    """

    def build(state: State) -> AppearanceNet:
        return AppearanceNet(len(state["fc_a.weight"]) // w_dim, w_dim, len(state["conv1.weight"]))

    return load_part(path, "fc_a.weight", "appearance encoder", build).normalise_by(normalisation)


def load_motion(path: str | Path) -> MotionLSTM:
    """The motion LSTM in motion_net.pth or N_net_G.pth of the motion stage. Raises ValueError as the others."""

    def build(state: State) -> MotionLSTM:
        hidden, size = state["w"].shape
        return MotionLSTM(size, hidden)

    return load_part(path, "enc_cell.weight_ih", "motion LSTM", build)


def load_frame_discriminator(path: str | Path) -> FrameDiscriminator:
    """The discriminator of images in N_net_D.pth. Raises ValueError as the others."""

    def build(state: State) -> FrameDiscriminator:
        width, channels = state["model.0.weight"].shape[:2]
        return FrameDiscriminator(channels, width)

    return load_part(path, "model.0.weight", "discriminator of images", build)


def load_motion_discriminator(path: str | Path) -> MotionDiscriminator:
    """The discriminator of motion in N_net_D_2d.pth or N_net_D_3d.pth. Raises ValueError as the others."""

    def build(state: State) -> MotionDiscriminator:
        first = state["netD.scale0_layer0.0.weight"]
        return MotionDiscriminator(first.shape[1], 2 if first.ndim == 4 else 3, len(first))

    return load_part(path, "netD.scale0_layer0.0.weight", "discriminator of motion", build)
