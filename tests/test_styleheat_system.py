"""StyleHEAT as a system: the contracts, on networks that are not trained, and the authors' files put together."""

from dataclasses import replace
from fractions import Fraction
from pathlib import Path

import numpy as np
import pytest
import torch
from test_deep3d import small as small_deep3d
from test_styleheat import authors_names, small_calibration, small_warper
from torch import Tensor

from stylereel import world
from stylereel.core.builtin import builtin
from stylereel.core.latents import CODES, FACE, Codes, Identity, Motion
from stylereel.core.render import pictures, portrait, render
from stylereel.core.weights import save_module
from stylereel.edit.curves import Changes
from stylereel.faces import deep3d
from stylereel.faces.coefficients import NAMES
from stylereel.generator import StyleGAN2, StyleGAN2Config
from stylereel.systems.styleheat.motion import INPUTS
from stylereel.systems.styleheat.networks import CalibrationConfig, Warper, WarperConfig
from stylereel.systems.styleheat.state import look, read_state
from stylereel.systems.styleheat.system import DEEP3D, StyleHEAT
from stylereel.systems.styleheat.training import new_calibration, new_warper

CONFIG = WarperConfig(INPUTS, descriptor=8, size=64, width=4, widest=8, hidden=8, places=True)


def heat(still: bool = False) -> StyleHEAT:
    """The system on the built-in generator with networks as they begin; `still`: with a flow of 0."""
    torch.manual_seed(0)
    generator, warper = StyleGAN2.load(builtin("generator")), Warper(CONFIG)
    if still:
        torch.nn.init.zeros_(warper.flow.weight)
        torch.nn.init.zeros_(warper.flow.bias)  # type: ignore[arg-type]
    else:
        torch.nn.init.normal_(warper.flow.weight, std=0.05)
    return StyleHEAT(
        generator, None, warper, new_calibration(generator, 8, CalibrationConfig(width=8, hidden=8, heads=1))
    )


def turning(frames: int = 7) -> Motion:
    values = np.tile(world.neutral()[world.MOTION_COLUMNS], (frames, 1)).astype(np.float32)
    values[:, NAMES.index("yaw")] = np.linspace(-25, 25, frames)
    placement = np.tile(np.array((64, 64, 128, 0), np.float32), (frames, 1))
    return Motion(values, FACE, NAMES, Fraction(25), placement)


def frames_of(system: StyleHEAT, identity: Identity, motion: Motion, **options: object) -> np.ndarray:
    return np.stack(list(render(system, identity, motion, precision="32", **options))).astype(float)  # type: ignore[arg-type]


def test_without_flow_and_correction_every_frame_is_the_portrait() -> None:
    system = heat(still=True)
    identity = system.identify(7)
    shown = frames_of(system, identity, turning(3))
    own = pictures(system.generator.synthesize(identity.w[None]))[0]
    assert np.abs(shown - own).max() <= 1
    assert np.abs(portrait(system, identity).astype(float) - own).max() <= 1


def test_chunks_change_nothing_and_the_window_looks_ahead() -> None:
    system = heat()
    identity, motion = system.identify(7), turning()
    whole = frames_of(system, identity, motion, chunk=8)
    assert len(whole) == len(motion)
    for chunk in (1, 3):
        assert np.abs(frames_of(system, identity, motion, chunk=chunk) - whole).max() <= 1
    assert np.abs(whole[0] - whole[-1]).max() > 3, "something moves"
    later = replace(motion, values=np.concatenate([motion.values[:-1], motion.values[:1]]))
    assert np.abs(frames_of(system, identity, later)[0] - whole[0]).max() > 0, "frame 0 sees frame 6"


def test_rendering_starts_at_64_px() -> None:
    system = heat()
    identity = system.identify(7)
    frames = system.apply(identity, turning().part(-13, 20))
    assert len(frames) == 7 and frames.start is not None
    layer, features, so_far = frames.start
    assert layer == "b64.conv0" and so_far is not None
    assert features.shape == (7, 64, 64, 64) and so_far.shape == (7, 3, 32, 32)


def test_parts_and_changes_are_told_by_the_portraits_own_motion() -> None:
    system = heat()
    identity, motion = system.identify(7), turning(5).part(-13, 18)
    own = system._own_values(identity)
    assert own.shape == (len(NAMES),)

    def shown(given: Motion, **options: object) -> Tensor:
        found = system.apply(identity, given, **options)  # type: ignore[arg-type]
        assert found.start is not None
        return found.start[1]

    pose = replace(motion, values=np.where(np.arange(len(NAMES)) < 6, motion.values, own).astype(np.float32))
    torch.testing.assert_close(shown(motion, parts="pose"), shown(pose))
    changes = replace(motion, values=motion.values - own, kind=FACE._replace(relative=True))
    torch.testing.assert_close(shown(changes), shown(motion), atol=1e-4, rtol=1e-4)
    with pytest.raises(ValueError, match="not codes"):
        render(system, identity, replace(motion, kind=CODES))


def test_codes_say_who_and_drive_by_what_they_show(authors: dict[str, str]) -> None:
    system = heat()
    codes = Codes(torch.stack([system.identify(seed).w for seed in (1, 2)]), "", Fraction(1), torch.zeros(2, 4))
    assert torch.equal(system.identify(codes).w, codes.w[0])
    motion = system.extract(codes)
    assert motion.kind == FACE and motion.rate == 1
    for seed, values in zip((1, 2), motion.values):
        np.testing.assert_allclose(values, system._own_values(system.identify(seed)), atol=0.2)
    with pytest.raises(ValueError, match="face in a clip"):
        StyleHEAT.from_files(**authors).extract(codes)


def test_networks_that_do_not_fit_are_refused() -> None:
    system = heat()
    generator, warper, calibration = system.generator, system.warper, system.calibration
    assert calibration is not None
    with pytest.raises(ValueError, match="the family has 73"):
        StyleHEAT(generator, None, warper, calibration, builtin_family=False)
    with pytest.raises(ValueError, match="calibration is for 8 maps"):
        StyleHEAT(generator, None, warper, small_calibration())
    tiny = StyleGAN2(StyleGAN2Config(32, 8, 8, channel_base=128, channel_max=8, mapping_layers=2))
    with pytest.raises(ValueError, match="64 px"):
        StyleHEAT(tiny, None, warper, calibration)


def test_features_of_optimised_codes_are_who_moves() -> None:
    system = led()
    w = system.identify(7).w[None]
    made: list[Tensor] = []
    system.generator.synthesize(w, taps={"b32.conv1": made.append}, stop="b32.conv1")
    codes = Codes(w, "", Fraction(1), torch.zeros(1, 4), {"b32.conv1": 1.1 * made[0]})
    identity = system.identify(codes)
    shown = portrait(system, identity).astype(float)
    direct = pictures(system.generator.synthesize(w, taps={"b32.conv1": lambda _: 1.1 * made[0]}))[0]
    assert np.abs(shown - direct).max() <= 1
    assert np.abs(shown - portrait(system, system.identify(7))).mean() > 1
    assert np.isfinite(frames_of(system, identity, turning(2))).all()


# The authors' files


@pytest.fixture
def authors(tmp_path: Path) -> dict[str, str]:
    """Small networks in the layouts of the published files, with a generator that has noise."""
    torch.manual_seed(5)
    config = StyleGAN2Config(64, 16, 16, channel_base=512, channel_max=16, mapping_layers=2)
    generator = StyleGAN2(config)
    for name, parameter in generator.named_parameters():
        if name.endswith("noise_strength"):
            torch.nn.init.constant_(parameter, 0.5)
    generator.save(tmp_path / "generator.safetensors")
    whole = authors_names(small_warper(grid="corners").state_dict(), "video_warper.")
    whole |= authors_names(small_calibration().state_dict(), "calibrator.")
    torch.save({"net_G_ema": whole}, tmp_path / "StyleHEAT_visual.pt")
    torch.save({"net_recon": small_deep3d().state_dict()}, tmp_path / "epoch_20.pth")
    places = {"generator": "generator.safetensors", "warper": "StyleHEAT_visual.pt"}
    places |= {"calibration": "StyleHEAT_visual.pt", "coefficients": "epoch_20.pth"}
    return {name: str(tmp_path / place) for name, place in places.items()}


def own_motion(system: StyleHEAT, identity: Identity, frames: int) -> tuple[Motion, Identity]:
    """Random coefficients, and the identity with some of its own."""
    random = np.random.default_rng(3)
    values = random.standard_normal((frames, deep3d.COUNT)).astype(np.float32)
    own = torch.from_numpy(random.standard_normal(deep3d.COUNT).astype(np.float32))
    motion = Motion(
        values, DEEP3D, tuple(map(str, range(deep3d.COUNT))), Fraction(25), np.zeros((frames, 4), np.float32)
    )
    assert system.motion_kinds[0] == DEEP3D
    return motion, replace(identity, tensors={"coefficients": own})


def test_the_authors_files_make_a_system_whose_source_keeps_its_crop(authors: dict[str, str]) -> None:
    system = StyleHEAT.from_files(**authors)
    assert not system.builtin_family and not system.moves_image and system.warper.config.grid == "corners"
    assert not any(p.any() for name, p in system.generator.named_parameters() if name.endswith("noise_strength"))
    motion, identity = own_motion(system, system.identify(3), 40)
    frames = system.apply(identity, motion)
    assert len(frames) == 14 and frames.start is not None

    # By hand, in the order of the authors' forward pass.
    values = motion.values.copy()
    values[:, 70:] = identity.tensors["coefficients"][70:].numpy()
    window = torch.from_numpy(np.stack([values[k : k + 27].T for k in range(14)]))
    w = identity.w[None]
    with torch.inference_mode():
        state = read_state(system.generator, w)
        image = look(system.generator, state, w, 256, whole=True)
        moved = system.warper(image.expand(14, -1, -1, -1), window)
        warped = system.warper.warp(state.features.expand(14, -1, -1, -1), moved.flow)
        assert system.calibration is not None
        expected = system.calibration(warped, moved.descriptor).apply(warped)
    torch.testing.assert_close(frames.start[1], expected)
    assert frames.start[2] is not None
    torch.testing.assert_close(frames.start[2], state.so_far.expand(14, -1, -1, -1))
    shown = np.stack(list(render(system, identity, motion, chunk=5)))
    assert shown.shape == (40, 64, 64, 3)
    only = system.apply(identity, motion, parts="expression").start
    assert only is not None and not torch.allclose(only[1], expected)


def test_frames_of_a_clip_become_coefficients(authors: dict[str, str], monkeypatch: pytest.MonkeyPatch) -> None:
    from stylereel.faces import backend

    system = StyleHEAT.from_files(**authors)
    portraits = [world.draw(world.align(world.neutral()[None])[0], 256)] * 4
    points = np.stack([face.landmarks * 256 for face in portraits]).astype(np.float32)
    track = backend.Track(points, None, np.ones(4, bool), Fraction(25), (256, 256))
    monkeypatch.setattr(backend, "track", lambda *arguments: track)

    class Clip:
        rate, num_frames, path, has_audio = Fraction(25), 4, Path("clip"), False

        def __iter__(self):
            return iter([face.image for face in portraits])

    motion = system.extract(Clip())
    assert motion.values.shape == (4, deep3d.COUNT) and motion.kind == DEEP3D
    assert np.ptp(motion.values, axis=0).max() < 1e-4, "the same frame gives the same numbers"
    assert (motion.placement == motion.placement[0]).all(), "the face is free in one square"
    relative = system.extract(Clip(), motion="relative")
    assert relative.kind.relative and np.abs(relative.values).max() < 1e-4
    without = StyleHEAT.from_files(**{k: v for k, v in authors.items() if k != "coefficients"})
    with pytest.raises(ValueError, match=r"epoch_20\.pth with --coefficients"):
        without.extract(Clip())


def test_our_own_files_make_the_system_of_the_built_in_family(tmp_path: Path) -> None:
    system = heat()
    assert system.calibration is not None
    for name, network in (("styleheat-video", system.warper), ("styleheat-calibration", system.calibration)):
        save_module(tmp_path / f"{name}.safetensors", name, network)
    found = StyleHEAT.from_files(
        warper=str(tmp_path / "styleheat-video.safetensors"),
        calibration=str(tmp_path / "styleheat-calibration.safetensors"),
    )
    assert found.builtin_family and found.encode is not None
    identity, motion = system.identify(7), turning(2)
    assert np.abs(frames_of(found, identity, motion) - frames_of(system, identity, motion)).mean() < 1


# By hand, and led by the mean head


def led(guided: bool = True) -> StyleHEAT:
    """The system on the built-in generator with new networks that are led by the mean head: they warp and no more."""
    torch.manual_seed(0)
    generator = StyleGAN2.load(builtin("generator"))
    warper = new_warper(replace(CONFIG, guide=guided))
    config = CalibrationConfig(width=8, hidden=8, heads=1, guide=True, finest=True)
    return StyleHEAT(generator, None, warper, new_calibration(generator, CONFIG.descriptor, config))


def test_new_networks_follow_the_mean_head() -> None:
    system = led()
    identity = system.identify(7)
    own = system._own_values(identity)
    still = replace(turning(1), values=own[None].astype(np.float32))
    shown, plain = frames_of(system, identity, still)[0], portrait(system, identity).astype(float)
    assert np.abs(shown - plain).mean() < 0.5, "its own motion moves nothing"
    turned = still.values.copy()
    turned[:, NAMES.index("yaw")] += 12
    target = frames_of(system, identity, replace(still, values=turned))[0]
    assert np.abs(target - plain).mean() > 3
    with pytest.raises(ValueError, match="guide of the mean head"):
        system.warper(torch.zeros(1, 3, 64, 64), torch.zeros(1, INPUTS, 27))


def test_the_head_moves_in_the_frame_by_curves() -> None:
    system = led()
    identity = system.identify(7)
    changes = Changes.read(sliders=["shift_x=0.0625", "scale=1"])
    motion = changes.show_on(changes.at_rest(0.04, Fraction(25)), system._own_values(identity), system.moves_in_frame)
    shown = frames_of(system, identity, motion)[0]
    plain = frames_of(system, identity, changes.at_rest(0.04, Fraction(25)))[0]
    inside = slice(40, 216)
    moved = np.roll(plain, 16, axis=1)
    assert np.abs(shown - moved)[inside, inside].mean() < 0.3 * np.abs(shown - plain)[inside, inside].mean()


def test_an_edit_grows_while_the_portrait_moves() -> None:
    system = led()
    changes = Changes.read(edits=["age=linear 0:0,0.08:3"])
    identity = changes.taught(system.identify(7))
    motion = changes.show_on(turning(3), world.neutral()[world.MOTION_COLUMNS], True)
    shown, plain = frames_of(system, identity, motion), frames_of(system, identity, turning(3))
    apart = np.abs(shown - plain).mean((1, 2, 3))
    assert apart[0] < 0.1 and apart[0] < apart[1] < apart[2] and apart[2] > 0.5
    assert np.abs(frames_of(system, identity, motion, chunk=1) - shown).max() <= 2
    kept = replace(
        identity, tensors={**identity.tensors, "features": torch.zeros(64, 64, 64), "so_far": torch.zeros(3, 32, 32)}
    )
    assert np.isfinite(frames_of(system, kept, motion)).all(), "also what HFGI kept of a photograph"
