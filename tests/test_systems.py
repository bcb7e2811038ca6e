"""Every registered system, and one defined in `toy.py`, through the contracts: what holds for all of them."""

from __future__ import annotations

import json
import warnings
from collections.abc import Iterator
from dataclasses import replace
from fractions import Fraction
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from test_media import make_clip

from stylereel import systems
from stylereel.cli import main
from stylereel.core.latents import Codes, Identity, Motion
from stylereel.core.render import portrait, render, tuned
from stylereel.core.system import Drives, Frames, Samples, Shot, Spec, Streams, System, device_of
from stylereel.media.video import VideoReader

TOY = Spec("toy:Toy", "toy:train", "toy:study")
NAMES = [*systems.SPECS, "toy"]


@pytest.fixture(autouse=True)
def one_line(monkeypatch: pytest.MonkeyPatch) -> None:
    """All that makes the toy known."""
    monkeypatch.setitem(systems.SPECS, "toy", TOY)


@pytest.fixture(scope="module")
def loaded() -> dict[str, System]:
    """Each system once."""
    return {}


@pytest.fixture(params=NAMES)
def system(request: pytest.FixtureRequest, loaded: dict[str, System]) -> System:
    return loaded.setdefault(request.param, systems.load(request.param))


def some_motion(system: System, frames: int = 7) -> Motion:
    """Motion of a system's first kind: sampled, else smooth noise in its coordinates."""
    if isinstance(system, Samples):
        return system.sample(3, frames)[1]
    from stylereel.faces.coefficients import NAMES as factors

    assert system.motion_kinds[0].coordinates == "face"
    values = np.zeros((frames, len(factors)), np.float32)
    values[:, factors.index("yaw")] = np.linspace(-15, 15, frames)
    values[:, factors.index("scale")] = 1.0
    placement = np.tile(np.array((64, 64, 128, 0), np.float32), (frames, 1))
    return Motion(values, system.motion_kinds[0], factors, Fraction(30000, 1001), placement)


def apart(one: np.ndarray, other: np.ndarray) -> float:
    return float(np.abs(one.astype(float) - other).max())


def test_a_system_has_what_the_contract_says(system: System) -> None:
    assert system.motion_kinds and device_of(system).type == "cpu" and system.to("cpu") is system
    assert system.context >= 0 and all(Path(file).exists() for file in system.weight_files)
    assert isinstance(system, Drives | Samples | Streams), "something must move it"


def test_the_same_seed_is_the_same_person_who_is_saved_and_loaded(system: System, tmp_path: Path) -> None:
    identity = system.identify(5)
    assert torch.equal(identity.w, system.identify(5).w) and not torch.equal(identity.w, system.identify(6).w)
    identity.save(tmp_path / "who.safetensors")
    again = system.identify(Identity.load(tmp_path / "who.safetensors"))
    assert torch.equal(again.w, identity.w) and again.system == system.name
    assert np.array_equal(portrait(system, again), portrait(system, identity))


def test_chunks_and_resumption_change_nothing_and_length_in_is_length_out(system: System, tmp_path: Path) -> None:
    identity, motion = system.identify(5), some_motion(system)
    motion.save(tmp_path / "what.safetensors")
    runs = [np.stack(list(render(system, identity, motion, chunk, "32"))) for chunk in (1, 3, 8)]
    runs.append(np.stack(list(render(system, identity, Motion.load(tmp_path / "what.safetensors"), precision="32"))))
    assert len(runs[0]) == len(motion) == len(render(system, identity, motion))
    assert all(apart(run, runs[0]) <= 2 for run in runs[1:])
    rest = np.stack(list(render(system, identity, motion, 3, "32").start_at(4)))
    assert apart(rest, runs[1][4:]) <= 2
    assert apart(runs[0][0], runs[0][-1]) > 3, "something moves"


def test_a_tuned_generator_is_tuned_once(system: System) -> None:
    """Render tunes; a system that looks at its own portrait on the way must not do it again."""
    identity, motion = system.identify(5), some_motion(system, 2)
    parameters = dict(system.generator.named_parameters())
    name = next(name for name in reversed(parameters) if name.endswith(".bias") and "affine" not in name)
    delta = {name: torch.full_like(parameters[name], 0.2)}
    person = replace(identity, delta=delta)
    assert torch.equal(parameters[name], dict(system.generator.named_parameters())[name]), "the system itself stays"
    by_render = np.stack(list(render(system, person, motion)))
    by_hand = np.stack(list(render(tuned(system, person), identity, motion)))
    assert np.array_equal(by_render, by_hand)
    assert apart(by_render, np.stack(list(render(system, identity, motion)))) > 3


def test_render_moves_to_half_precision_and_back(system: System) -> None:
    identity, motion = system.identify(5), some_motion(system, 2)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        warnings.filterwarnings("ignore", message=".*no bf16 arithmetic")
        half = np.stack(list(render(system, identity, motion, precision="bf16")))
    assert np.abs(half.astype(float) - np.stack(list(render(system, identity, motion)))).mean() < 6


def test_motion_of_older_files_is_at_rest_where_it_knows_no_factor() -> None:
    from fractions import Fraction

    from stylereel.core.latents import FACE, Motion
    from stylereel.systems.sources import face_values
    from stylereel.world.factors import MOTION

    values = np.random.default_rng(0).random((3, 16)).astype(np.float32)
    motion = Motion(values, FACE, MOTION[:16], Fraction(25), np.zeros((3, 4), np.float32))
    full = face_values(motion)
    assert full.shape == (3, len(MOTION)) and np.array_equal(full[:, :16], values) and not full[:, 16:].any()


@pytest.mark.parametrize("name", NAMES)
def test_everything_moves_to_the_device(name: str) -> None:
    """On "meta" nothing is computed, but a tensor that stayed behind is noticed."""
    system: Any = systems.load(name)
    identity, motion = system.identify(5), some_motion(system, 3)
    if isinstance(motion.kind, tuple) and motion.kind.coordinates == "face":  # drawn and encoded: the codes come next
        motion = system.extract(Codes(identity.w.repeat(3, 1, 1), "", Fraction(25), torch.ones(3, 4)))
    assert device_of(system.to("meta")).type == "meta"
    inside = motion.part(-system.context, len(motion) + system.context)
    try:
        images = system.apply(identity, inside).synthesize(system.generator)
    except NotImplementedError as error:  # small algebra in float64 is done on the CPU, as not every GPU has it
        assert "Cannot copy out of meta tensor" in str(error)
    else:
        assert images.device.type == "meta" and len(images) == 3
    assert system.portrait(identity).synthesize(system.generator).device.type == "meta"


def test_motion_of_another_kind_is_refused(system: System) -> None:
    motion = some_motion(system, 2)
    foreign = replace(motion, kind=motion.kind._replace(coordinates="another"))
    with pytest.raises(ValueError, match=f"{system.name} takes motion of kind .* not another"):
        render(system, system.identify(1), foreign)


@pytest.fixture(scope="module")
def clip(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_clip(tmp_path_factory.mktemp("clips") / "clip.mp4", Fraction(30000, 1001), 12, "aac")


def test_the_command_line_offers_what_the_system_offers(
    system: System, tmp_path: Path, clip: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["systems"]) == 0 and system.name in capsys.readouterr().out.split()
    for verb, contract in (("drive", Drives), ("sample", Samples)):
        code = main([verb, system.name, "--help"])
        out, err = capsys.readouterr()
        if isinstance(system, contract):
            assert code == 0 and "--out" in out
        else:
            assert code == 2 and f"{system.name} does not offer" in err and err.count("\n") == 1
    if isinstance(system, Samples):
        out_file = tmp_path / "noise.mp4"
        assert main(["sample", system.name, "--seed", "1", "--frames", "3", "--out", str(out_file)]) == 0
        record = json.loads(out_file.with_suffix(".json").read_text())
        assert record["frames"]["written"] == 3 == VideoReader(out_file).num_frames


def test_a_new_system_needs_one_line(
    tmp_path: Path, clip: Path, capsys: pytest.CaptureFixture[str], loaded: dict[str, System]
) -> None:
    """The toy is driven, trained, stopped and resumed, studied and followed with nothing changed but its Spec."""
    out = tmp_path / "toy.mp4"
    words = ["drive", "toy", "--source", "7", "--driving", str(clip), "--out", str(out), "--strength", "0.5"]
    assert main(words) == 0
    record = json.loads(out.with_suffix(".json").read_text())
    assert record["frames"]["written"] == 12 and record["rate"] == "30000/1001" and record["sound"]
    command = ["train", "toy", "--folder", str(tmp_path / "runs"), "--device", "cpu", "--precision", "32"]
    assert main([*command, "--target", "2"]) == 0
    assert "toy.safetensors" in capsys.readouterr().out
    assert main([*command, "--target", "2"]) == 0, "a finished run goes on from its end"
    assert main(["train", "toy", "--help"]) == 0 and "the constant" in capsys.readouterr().out
    assert main(["reproduce", "toy", "--out", str(tmp_path / "report")]) == 0
    assert "Toy" in (tmp_path / "report" / "report.md").read_text()
    toy = systems.load("toy")
    assert isinstance(toy, Streams)
    frames = list(VideoReader(clip))
    followed = np.concatenate(
        [
            motion.values
            for motion in toy.follow((Shot(0.04 * i, frame) for i, frame in enumerate(frames)), Fraction(25))
        ]
    )
    assert isinstance(toy, Drives) and np.array_equal(followed, toy.extract(VideoReader(clip)).values)


# --- What Frames carry


def test_feature_maps_replace_layers_and_rendering_can_start_from_one() -> None:
    """HFGI's and StyleHEAT's way: a tap gives the same image as starting there, with the layers below left out."""
    from toy import SIZES

    from stylereel.generator import StyleGAN2

    torch.manual_seed(0)
    generator = StyleGAN2(SIZES).eval().requires_grad_(False)
    w = generator.map(torch.randn(2, 16))
    seen: dict[str, torch.Tensor] = {}
    taps = {name: lambda x, name=name: seen.__setitem__(name, x.clone()) for name in ("b8.torgb", "b16.conv1")}
    whole = generator.synthesize(w, taps=taps)
    assert torch.equal(Frames(w=w).synthesize(generator), whole)
    moved = seen["b16.conv1"].roll(2, 3)
    tapped = Frames(w=w, taps={"b16.conv1": moved}).synthesize(generator)
    assert (tapped - whole).abs().max() > 0.1
    seen.clear()
    image = torch.empty(0)

    def keep(x: torch.Tensor) -> None:
        nonlocal image
        image = x.clone()

    generator.synthesize(w, taps={"b8.torgb": keep})
    started = Frames(s=generator.styles(w), start=("b16.conv1", moved, None)).synthesize(generator)
    assert started.shape == tapped.shape
    # conv1's skip image is that of the block before
    exact = Frames(s=generator.styles(w), start=("b16.conv1", moved, image)).synthesize(generator)
    torch.testing.assert_close(exact, tapped, atol=1e-4, rtol=1e-4)
    with pytest.raises(ValueError, match="one of the two"):
        Frames()


def test_codes_with_feature_maps_render(tmp_path: Path) -> None:
    """Codes of HFGI hold a map a frame; a system that hands them on shows what the inversion showed."""
    from toy import SIZES, Toy

    from stylereel.core.render import pictures
    from stylereel.invert.optimise import Fit

    toy = Toy()
    w = toy.generator.map(torch.randn(5, SIZES.z_dim, generator=torch.Generator().manual_seed(1)))
    maps = torch.randn(5, SIZES.channels(16), 16, 16, generator=torch.Generator().manual_seed(2))

    class Player(Toy):
        def apply(self, identity: Identity, motion: Motion) -> Frames:
            index = motion.values[1:-1, 0].astype(int)
            return Frames(w=w[index], taps={"b16.conv1": maps[index]})

    motion = toy._motion(range(5), Fraction(25))
    shown = np.stack(list(render(Player(), toy.identify(1), motion, 2, "32")))
    assert apart(shown, pictures(Fit(w, {"b16.conv1": maps}).render(toy.generator))) <= 1


def test_a_stylegan3_generator_renders_with_a_moved_input() -> None:
    """StyleFaceV's way: the transform of each frame moves the whole image, by the same pixels."""
    from toy import Toy

    from stylereel.generator import StyleGAN3, StyleGAN3Config

    torch.manual_seed(0)
    generator = StyleGAN3(StyleGAN3Config(32, 16, 16, channel_base=256, channel_max=16)).eval().requires_grad_(False)

    class Shifted(Toy):
        def apply(self, identity: Identity, motion: Motion) -> Frames:
            transform = torch.eye(3).repeat(len(motion) - 2, 1, 1)
            transform[:, 0, 2] = torch.from_numpy(motion.values[1:-1, 0])
            return Frames(w=identity.w.expand(len(transform), -1, -1), transform=transform)

    system = Shifted()
    system.generator = generator  # type: ignore[assignment]
    identity = Identity(generator.map(torch.ones(1, 16))[0], "toy")
    motion = system._motion([0.0, 0.25, 0.25, 0.0], Fraction(25))
    frames = np.stack(list(render(system, identity, motion, chunk=3))).astype(float)
    assert apart(frames[0], frames[3]) <= 1 and apart(frames[1], frames[2]) <= 1
    inner = slice(8, 24)
    moved = np.abs(frames[1][inner, 12:28] - frames[0][inner, 4:20]).mean()
    assert moved < 0.5 * np.abs(frames[1][inner, 4:20] - frames[0][inner, 4:20]).mean()


@pytest.fixture(autouse=True)
def quiet() -> Iterator[None]:
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", category=UserWarning, module="torch")
        yield
