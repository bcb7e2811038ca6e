"""StyleHEAT's networks against numbers of the originals, and the authors' files in small."""

import json
from fractions import Fraction
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from test_encoders import GOLDENS, Golden, State, empty, filled, golden_decoder
from torch import Tensor, nn

from stylereel.core.weights import save_module
from stylereel.encoders.hfgi import HFGI, LAYER, Correction, HFGIConfig
from stylereel.generator import StyleGAN2, StyleGAN2Config
from stylereel.media.mel import styleheat_windows
from stylereel.systems.styleheat import files, flow
from stylereel.systems.styleheat.expert import Expert, agreement, sync_loss
from stylereel.systems.styleheat.networks import (
    Calibration,
    CalibrationConfig,
    MappingNet,
    Warper,
    WarperConfig,
    lower_half,
)
from stylereel.systems.styleheat.state import SO_FAR, draw, look
from stylereel.systems.styleheat.state import State as Made
from stylereel.systems.styleheat.system import StyleHEAT
from stylereel.zoo import names

AUTHORS = WarperConfig(grid="corners")


def parameters(network: nn.Module) -> int:
    return sum(parameter.numel() for parameter in network.parameters())


def published() -> dict[str, list[int]]:
    return json.loads((GOLDENS / "keys" / "styleheat_net_G_ema.json").read_text())["keys"]


def under(keys: dict[str, Any], prefix: str) -> dict[str, Any]:
    return {key.removeprefix(prefix): value for key, value in keys.items() if key.startswith(prefix)}


# Against the goldens


def test_the_video_warper_equals_golden() -> None:
    golden = Golden("styleheat_video_warper")
    warper = filled(empty(lambda: Warper(AUTHORS)), files.warper_from_authors(golden.state()))
    image = golden.input("image")
    moved = warper(image, golden.input("driving_3dmm"))
    golden.check("descriptor", moved.descriptor[:, :, None])
    golden.check("flow_field", moved.flow)
    golden.check("deformation", flow.deformation(moved.flow))
    golden.check("warp_image", warper.warp(image, moved.flow)[:, :, ::4, ::4])
    golden.check("warped_feature", warper.warp(golden.input("feature"), moved.flow)[:, :, ::2, ::2])


def test_the_calibration_equals_golden_at_every_level() -> None:
    golden = Golden("styleheat_calibration_net")
    network = filled(empty(lambda: Calibration(CalibrationConfig())), files.calibration_from_authors(golden.state()))
    found = network.levels(golden.input("feature"), golden.input("descriptor")[:, :, 0])
    for level, correction in enumerate(found):
        step = correction.scale.shape[-1] // 8
        golden.check(f"condition_{2 * level}", correction.scale[:, ::16, ::step, ::step])
        golden.check(f"condition_{2 * level + 1}", correction.shift[:, ::16, ::step, ::step])


@pytest.mark.parametrize("case", ["plain", "inversion", "replace", "warp", "refine", "all", "all_but_replace"])
def test_what_is_done_to_the_feature_map_reaches_the_picture_as_in_the_golden(case: str) -> None:
    golden = Golden("styleheat_generator_conditions")
    config = StyleGAN2Config(64, z_dim=48, w_dim=48, channel_base=1024, channel_max=24, mapping_layers=2)
    state = names.generator_from_rosinality(golden.state())
    generator = filled(empty(lambda: StyleGAN2(config)), {**state, "mapping.w_avg": torch.zeros(48)})
    given = {key.removeprefix("in/"): value for key, value in golden.arrays.items() if key.startswith("in/")}

    def does(step: str) -> bool:
        return case in (step, "all") or (case == "all_but_replace" and step != "replace")

    seen: list[Tensor] = []

    def tap(x: Tensor) -> Tensor:
        if does("inversion"):
            x = Correction(given["inversion_scale"], given["inversion_shift"]).apply(x)
        seen.append(x)  # the golden keeps the inverted features
        x = given["f_condition"] if does("replace") else x
        for name in ("flow_0", "flow_1") if does("warp") else ():
            x = flow.warp(x, given[name], "corners")
        x = Correction(given["refine_6"], given["refine_7"]).apply(x) if does("refine") else x
        return x

    image = generator.synthesize(given["w_plus"], noise="none", taps={LAYER: tap})
    golden.check(f"img_{case}", image[:, :, ::2, ::2])
    golden.check(f"feat_{case}", seen[0][:, :, ::4, ::4])


def test_the_whole_of_it_equals_golden() -> None:
    golden = Golden("styleheat_end_to_end")
    warper = filled(empty(lambda: Warper(AUTHORS)), files.warper_from_authors(golden.state("video_warper.")))
    calibration = filled(
        empty(lambda: Calibration(CalibrationConfig())), files.calibration_from_authors(golden.state("calibrator."))
    )
    parts = {"aligner": golden.state("generator.hfgi_aligner."), "encoder": golden.state("generator.hfgi_encoder.")}
    hfgi = filled(
        empty(lambda: HFGI(HFGIConfig())),
        {f"{name}.{key}": value for name, part in parts.items() for key, value in part.items()},
    )
    generator = golden_decoder(golden, 64, "generator.stylegan.", mapping_layers=2)
    codes = golden.arrays["out/w_plus"]
    correction = hfgi(golden.input("image"), generator.synthesize(codes, noise="none"))
    features = correction.apply(generator.synthesize(codes, noise="none", stop=LAYER))

    so_far: list[Tensor] = []
    generator.synthesize(codes, noise="none", taps={SO_FAR: so_far.append}, stop=LAYER)
    state = Made(features, so_far[0])
    inverse = look(generator, state, codes, 256, whole=True, noise="none")
    warped = StyleHEAT(generator, None, warper, None, builtin_family=False)
    whole = StyleHEAT(generator, None, warper, calibration, builtin_family=False)
    found = [system.moved(state, inverse, golden.input("driving_3dmm")) for system in (warped, whole)]
    golden.check("fx_warp", found[0].features[:, ::16, ::4, ::4])
    golden.check("video_warp_image", draw(generator, found[0], codes, noise="none")[:, :, ::2, ::2])
    golden.check("fake_image", draw(generator, found[1], codes, noise="none")[:, :, ::2, ::2])


# Published sizes


def test_names_shapes_and_numbers_of_parameters_are_those_of_the_published_files() -> None:
    keys = {key: torch.empty(shape, device="meta") for key, shape in published().items()}
    pairs: list[tuple[State, nn.Module]] = [
        (files.warper_from_authors(under(keys, "video_warper.")), empty(lambda: Warper(AUTHORS))),
        (
            files.warper_from_authors(under(keys, "audio_warper.")),
            empty(lambda: Warper(WarperConfig(inputs=80, grid="corners"))),
        ),
        (
            files.calibration_from_authors(under(keys, "calibrator.")),
            empty(lambda: Calibration(CalibrationConfig())),
        ),
    ]
    for state, network in pairs:
        assert {k: v.shape for k, v in state.items()} == {k: v.shape for k, v in network.state_dict().items()}
    assert [parameters(network) for _, network in pairs] == [13_428_802, 13_441_346, 30_492_672]


# Files


def small_warper(inputs: int = 73, **settings: Any) -> Warper:
    torch.manual_seed(inputs)
    return Warper(WarperConfig(inputs, descriptor=12, size=256, width=4, widest=8, hidden=6, **settings))


def small_calibration(descriptor: int = 12, heads: int = 4) -> Calibration:
    torch.manual_seed(1)
    return Calibration(CalibrationConfig(channels=8, width=4, descriptor=descriptor, hidden=6, heads=heads))


def authors_names(ours: State, prefix: str) -> State:
    """A network's tensors under the names that the published file has for them."""
    theirs = [key for key in published() if key.startswith(prefix)]
    rename = files.calibration_from_authors if prefix == "calibrator." else files.warper_from_authors
    numbers = {key.removeprefix(prefix): torch.tensor(number) for number, key in enumerate(theirs)}
    return {theirs[int(number)]: ours[name] for name, number in rename(numbers).items() if name in ours}


def equal(one: nn.Module, other: nn.Module) -> None:
    state = one.state_dict()
    assert state.keys() == other.state_dict().keys()
    for key, value in other.state_dict().items():
        torch.testing.assert_close(state[key], value)


def test_the_authors_files_are_read_by_their_names(tmp_path: Path) -> None:
    video, audio, calibration = small_warper(grid="corners"), small_warper(80, grid="corners"), small_calibration()
    whole = authors_names(video.state_dict(), "video_warper.") | authors_names(audio.state_dict(), "audio_warper.")
    whole |= authors_names(calibration.state_dict(), "calibrator.")
    whole["calibrator.conv_body_down.0.skip.0.kernel"] = torch.ones(4, 4)  # a constant filter
    path = tmp_path / "StyleHEAT_visual.pt"
    torch.save({"net_G_ema": whole}, path)
    for network, found in (
        (video, files.load_warper(path)),
        (audio, files.load_warper(path, "audio")),
        (calibration, files.load_calibration(path)),
    ):
        assert found.config == network.config
        equal(found, network)

    alone = tmp_path / "video_warper.pth"
    torch.save({"net_G_ema": under(authors_names(video.state_dict(), "video_warper."), "video_warper.")}, alone)
    equal(files.load_warper(alone), video)
    with pytest.raises(ValueError, match="holds no audio warper"):
        files.load_warper(alone, "audio")
    with pytest.raises(ValueError, match="holds no calibration"):
        files.load_calibration(alone)

    del whole["video_warper.warping_net.flow_out.2.bias"]
    torch.save({"net_G_ema": whole}, path)
    with pytest.raises(ValueError, match=r"flow\.bias is missing"):
        files.load_warper(path)
    for mark in ("video_warper.warping_net.hourglass.encoder.encoder0.conv_0.weight", "video_warper.mapping_net"):
        torch.save({"net_G_ema": {k: v for k, v in whole.items() if not k.startswith(mark)}}, path)
        with pytest.raises(ValueError, match="lacks|holds no video warper"):
            files.load_warper(path)


def test_our_own_files_hold_the_same_networks(tmp_path: Path) -> None:
    for network, kind, load in (
        (small_warper(16), "styleheat-video", files.load_warper),
        (small_warper(80), "styleheat-audio", lambda path: files.load_warper(path, "audio")),
        (small_calibration(0, 1), "styleheat-calibration", files.load_calibration),
        (Expert(4), "styleheat-syncnet", files.load_expert),
    ):
        path = tmp_path / f"{kind}.safetensors"
        save_module(path, kind, network)
        found = load(path)
        assert found.config == network.config
        for key, value in found.state_dict().items():
            torch.testing.assert_close(value, network.state_dict()[key], atol=1e-3, rtol=1e-3)


@pytest.mark.parametrize("prefix", ["", "module."])
def test_the_lip_sync_expert_is_read_with_its_optimizer_beside_it(tmp_path: Path, prefix: str) -> None:
    torch.manual_seed(2)
    expert = Expert(4)
    path = tmp_path / "lipsync_expert.pth"
    state = {prefix + key: value for key, value in expert.state_dict().items()}
    optimizer = torch.optim.Adam(expert.parameters()).state_dict()
    torch.save({"state_dict": state, "optimizer": optimizer, "global_step": 7, "global_epoch": 1}, path)
    equal(files.load_expert(path), expert)


# Behaviour


def test_a_flow_of_zero_changes_nothing_and_the_authors_grid_does() -> None:
    x = torch.randn(2, 3, 64, 64, generator=torch.Generator().manual_seed(0))
    zero = torch.zeros(2, 2, 64, 64)
    torch.testing.assert_close(flow.warp(x, zero), x, atol=1e-5, rtol=0)
    assert (flow.warp(x, zero, "corners") - x).abs().max() > 0.1
    wide = F.interpolate(x, (256, 256))
    torch.testing.assert_close(flow.warp(wide, zero), wide, atol=1e-4, rtol=0)


def test_a_flow_says_where_the_content_comes_from() -> None:
    x = torch.zeros(1, 1, 64, 64)
    x[0, 0, 20, 30] = 1
    moved = flow.warp(x, torch.tensor([5.0, -3.0])[None, :, None, None].expand(1, 2, 64, 64))
    assert moved[0, 0].argmax() == 23 * 64 + 25
    wide = F.interpolate(x, (128, 128))  # the same flow moves a larger map by as much of the picture
    moved = flow.warp(wide, torch.tensor([5.0, -3.0])[None, :, None, None].expand(1, 2, 64, 64))
    assert moved[0, 0, 46:48, 50:52].min() == pytest.approx(1, abs=1e-4)


def test_two_flows_are_one() -> None:
    y, x = torch.meshgrid(torch.linspace(0, 3, 64), torch.linspace(0, 3, 64), indexing="ij")
    first, second = torch.stack([x.sin(), y.cos()])[None], torch.stack([2 * y.sin(), -x.cos()])[None]
    smooth = torch.stack([x.sin() * y, x * y])[None]
    twice = flow.warp(flow.warp(smooth, first), second)
    inside = slice(4, -4)
    once = flow.warp(smooth, flow.compose(first, second))
    torch.testing.assert_close(once[..., inside, inside], twice[..., inside, inside], atol=5e-3, rtol=0)


def test_the_end_point_error_counts_what_is_seen() -> None:
    exact = torch.zeros(1, 2, 4, 4)
    found = exact.clone()
    found[:, 0, 0], found[:, 1, 0] = 3, 4  # the first row is off by 5 pixels
    assert flow.endpoint_error(found, exact).item() == pytest.approx(5 / 4)
    seen = torch.zeros(1, 4, 4, dtype=torch.bool)
    seen[:, :2] = True
    assert flow.endpoint_error(found, exact, seen).item() == pytest.approx(5 / 2)


def test_sound_moves_the_lower_half_alone() -> None:
    moved = lower_half(torch.ones(1, 2, 64, 64))
    assert moved[:, :, :32].sum() == 0 and moved[:, :, 32:].min() == 1


def test_windows_that_do_not_fit_are_refused() -> None:
    net = MappingNet(80, 12)
    assert net(styleheat_windows(torch.zeros(80, 100), 3, Fraction(25))).shape == (3, 12)
    for window in (torch.zeros(1, 80, 24), torch.zeros(1, 73, 32), torch.zeros(80, 32)):
        with pytest.raises(ValueError, match=r"\[B, 80, 25 or more\]"):
            net(window)
    with pytest.raises(ValueError, match=r"\[B, 3, 256, 256\]"):
        small_warper()(torch.zeros(1, 3, 128, 128), torch.zeros(1, 73, 27))
    with pytest.raises(ValueError, match="64, 128, 256"):
        WarperConfig(size=100)
    with pytest.raises(ValueError, match="conditioned on the motion"):
        small_calibration()(torch.zeros(1, 8, 64, 64))


def test_warpers_of_smaller_images_and_a_calibration_without_motion() -> None:
    warper = Warper(WarperConfig(16, descriptor=12, size=128, width=4, widest=8, hidden=6))
    moved = warper(torch.zeros(2, 3, 128, 128), torch.randn(2, 16, 27))
    assert moved.flow.shape == (2, 2, 64, 64)
    network = small_calibration(descriptor=0, heads=1)
    found = network(torch.randn(2, 8, 64, 64))
    assert found.scale.shape == found.shift.shape == (2, 8, 64, 64)
    assert not any(key.startswith(("inject", "linear")) for key in network.state_dict())


def test_the_expert_prefers_what_belongs_together() -> None:
    torch.manual_seed(3)
    expert = Expert(4).train()
    optimizer = torch.optim.Adam(expert.parameters(), 1e-2)
    level = torch.tensor([0.0, 1.0] * 2)  # an open mouth is bright, a loud sound is loud
    faces, mel = level[:, None, None, None].expand(4, 15, 48, 96), (8 * level - 4)[:, None, None].expand(4, 80, 16)
    other = mel.roll(1, 0)
    together = torch.tensor([1.0] * 4 + [0.0] * 4)
    for _ in range(20):
        loss = sync_loss(expert.see(faces).repeat(2, 1), torch.cat([expert.hear(mel), expert.hear(other)]), together)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    assert loss < 0.4  # chance is 0.69
    right, wrong = agreement(expert.see(faces), expert.hear(mel)), agreement(expert.see(faces), expert.hear(other))
    assert (right > wrong).all()
