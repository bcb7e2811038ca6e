"""The authors' files: which tensors there are which of ours, and the networks in them. Nothing in a file is run.

| file | what is in it |
|---|---|
| StyleHEAT_visual.pt | net_G_ema: generator.*, video_warper.*, calibrator.*, with sound also audio_warper.* |
| video_warper.pth | net_G_ema: mapping_net.*, warping_net.* |
| lipsync_expert.pth | state_dict: face_encoder.*, audio_encoder.*, maybe with "module." before |
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Literal

from torch import Tensor

from stylereel.core.weights import config_of, load_module, own_kind
from stylereel.systems.styleheat.expert import Expert, ExpertConfig
from stylereel.systems.styleheat.networks import BOTTOM, Calibration, CalibrationConfig, Warper, WarperConfig
from stylereel.zoo.encoders import load_part

State = dict[str, Tensor]
Driver = Literal["video", "audio"]
KINDS: dict[Driver, str] = {"video": "styleheat-video", "audio": "styleheat-audio"}  # in the headers of our files
CALIBRATION, AUDIO_CALIBRATION = "styleheat-calibration", "styleheat-audio-calibration"
EXPERT = "styleheat-syncnet"
_MARKS = {"video": "mapping_net.first.0.weight", "audio": "audio_encoder.first.0.weight"}

# Names in the authors' files -> ours, the first rule that fits a part of a name.
_WARPER = (
    (r"^(mapping_net|audio_encoder)\.first\.0\.", "mapping.first."),
    (r"^(mapping_net|audio_encoder)\.encoder(\d)\.1\.", r"mapping.blocks.\2."),
    (r"^warpp?ing_net\.flow_out\.0\.", "norm."),
    (r"^warpp?ing_net\.flow_out\.2\.", "flow."),
    (r"^warpp?ing_net\.hourglass\.encoder\.encoder(\d)\.", r"hourglass.down.\1."),
    (r"^warpp?ing_net\.hourglass\.encoder\.", "hourglass."),
)
_DECODER = re.compile(r"^warpp?ing_net\.hourglass\.decoder\.decoder(\d)\.")
_ADAIN = ((r"\.mlp_shared\.0\.", ".shared."), (r"\.mlp_gamma\.", ".gamma."), (r"\.mlp_beta\.", ".beta."))
_CALIBRATION = (
    (r"^conv_body_first\.[01]\.", "first."),
    (r"^final_conv\.[01]\.", "final."),
    (r"^conv_body_down\.(\d)\.conv1\.[01]\.", r"down.\1.conv0."),
    (r"^conv_body_down\.(\d)\.conv2\.[12]\.", r"down.\1.conv1."),
    (r"^conv_body_down\.(\d)\.skip\.1\.", r"down.\1.skip."),
    (r"^conv_body_up\.(\d)\.conv1\.[01]\.", r"up.\1.conv1."),
    (r"^conv_body_up\.(\d)\.conv2\.activation\.", r"up.\1.conv2."),
    (r"^conv_body_up\.(\d)\.skip\.weight$", r"up.\1.skip"),
    (r"^conv_body_up\.", "up."),
    (r"^linear_3dmm\.0\.", "linear.0."),
    (r"^linear_3dmm\.2\.", "linear.1."),
    (r"^inject_3dmm\.", "inject."),
    (r"^condition_(scale|shift)\.", r"\1."),
)


def _rename(name: str, rules: tuple[tuple[str, str], ...]) -> str:
    for pattern, ours in rules:
        name, count = re.subn(pattern, ours, name)
        if count:
            break
    return name


def _rename_all(state: Mapping[str, Tensor], rename: Callable[[str], str]) -> State:
    found = {}
    for name, value in state.items():
        name = rename(name)
        for pattern, ours in _ADAIN:
            name = re.sub(pattern, ours, name)
        found[name] = value
    return found


def warper_from_authors(state: Mapping[str, Tensor]) -> State:
    """The tensors of `Warper` from those of a video or audio warper under the authors' names."""
    levels = {int(match[1]) for name in state if (match := _DECODER.match(name))}

    def rename(name: str) -> str:
        if match := _DECODER.match(name):  # theirs count the level, ours the order
            return f"hourglass.up.{max(levels) - int(match[1])}.{name[match.end() :]}"
        return _rename(name, _WARPER)

    return _rename_all(state, rename)


def calibration_from_authors(state: Mapping[str, Tensor]) -> State:
    """The tensors of `Calibration` from those under the authors' names; constant filters are left out."""
    kept = {name: value for name, value in state.items() if not name.endswith(".kernel")}
    return _rename_all(kept, lambda name: _rename(name, _CALIBRATION))


def load_warper(path: str | Path, driver: Driver = "video") -> Warper:
    """The video or audio warper in one of our files, in StyleHEAT_visual.pt or in video_warper.pth.

    Raises ValueError, saying what does not fit.
    """
    if own_kind(path) is not None:
        return load_module(path, KINDS[driver], lambda config: Warper(config_of(WarperConfig, config)))

    def build(state: State) -> Warper:
        first, second = state["hourglass.down.0.conv_0.weight"], state["hourglass.down.0.norm_0.shared.weight"]
        widths = [
            len(value) for name, value in state.items() if re.fullmatch(r"hourglass\.down\.\d\.conv_0\.weight", name)
        ]
        descriptor, inputs = state["mapping.first.weight"].shape[:2]
        return Warper(
            WarperConfig(inputs, descriptor, BOTTOM << len(widths), first.shape[1], max(widths), len(second), "corners")
        )

    return load_part(path, _MARKS[driver], f"{driver} warper of StyleHEAT", build, warper_from_authors)


def load_calibration(path: str | Path) -> Calibration:
    """The calibration network in one of our files, of video or of sound, or in StyleHEAT_visual.pt.

    Raises as `load_warper`.
    """
    kind = own_kind(path)
    if kind is not None:
        kind = kind if kind == AUDIO_CALIBRATION else CALIBRATION
        return load_module(path, kind, lambda config: Calibration(config_of(CalibrationConfig, config)))

    def build(state: State) -> Calibration:
        width, channels = state["first.weight"].shape[:2]
        heads = sum(re.fullmatch(r"scale\.\d\.0\.weight", name) is not None for name in state)
        descriptor, hidden = state["linear.0.weight"].shape[0], state["inject.0.norm1.shared.weight"].shape[0]
        return Calibration(CalibrationConfig(channels, width, descriptor, hidden, heads))

    return load_part(path, "conv_body_first.0.weight", "calibration of StyleHEAT", build, calibration_from_authors)


def load_expert(path: str | Path) -> Expert:
    """The SyncNet of lip-sync training in one of our files or in lipsync_expert.pth. Raises as `load_warper`."""
    if own_kind(path) is not None:
        return load_module(path, EXPERT, lambda config: Expert(config_of(ExpertConfig, config).width))
    mark = "face_encoder.0.conv_block.0.weight"
    return load_part(path, mark, "SyncNet of Wav2Lip", lambda state: Expert(len(state[mark])))
