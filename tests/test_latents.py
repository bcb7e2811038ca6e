"""Identity and Motion on disk, and the render loop: chunks, lengths, starting in the middle."""

from collections.abc import Callable
from fractions import Fraction
from pathlib import Path

import numpy as np
import pytest
import torch

from stylereel.core.latents import Identity, Motion, MotionKind
from stylereel.core.render import pictures, render
from stylereel.core.system import Frames
from stylereel.generator import StyleGAN2, StyleGAN2Config

WALK = MotionKind("walk")


def a_motion(frames: int = 11, kind: MotionKind = WALK) -> Motion:
    values = np.random.default_rng(0).standard_normal((frames, 3)).astype(np.float32)
    return Motion(values, kind, ("a", "b", "c"), Fraction(30000, 1001), np.ones((frames, 4), np.float32), (2, 5))


class Walk:
    """A system that walks through w along three directions."""

    name, motion_kinds, context = "walk", (WALK,), 0
    weight_files: tuple[Path, ...] = ()

    def __init__(self) -> None:
        torch.manual_seed(0)
        self.generator = StyleGAN2(StyleGAN2Config(32, 16, 16, channel_base=256, channel_max=16, mapping_layers=2))
        self.directions = torch.randn(3, 16)

    def apply(self, identity: Identity, motion: Motion, *, strength: float = 1.0) -> Frames:
        w = identity.w + strength * (torch.from_numpy(motion.values) @ self.directions)[:, None]
        return Frames(s=self.generator.styles(w))

    def portrait(self, identity: Identity) -> Frames:
        return Frames(w=identity.w[None])

    def to(self, device: torch.device | str) -> "Walk":
        return self

    def identify(self, source: int) -> Identity:
        return person(self)


@pytest.fixture(scope="module")
def walk() -> Walk:
    return Walk()


def person(walk: Walk) -> Identity:
    return Identity(walk.generator.map(torch.ones(1, 16))[0].detach(), "walk", {"mark": torch.tensor([7])})


def test_identity_round_trip(walk: Walk, tmp_path: Path) -> None:
    identity = person(walk)
    identity.save(tmp_path / "who.safetensors")
    again = Identity.load(tmp_path / "who.safetensors")
    assert torch.equal(again.w, identity.w) and again.system == "walk" and again.tensors["mark"].tolist() == [7]


def test_motion_round_trip(tmp_path: Path) -> None:
    motion = a_motion()
    motion.save(tmp_path / "what.safetensors")
    again = Motion.load(tmp_path / "what.safetensors")
    assert np.array_equal(again.values, motion.values) and np.array_equal(again.placement, motion.placement)
    assert (again.kind, again.names, again.missing) == (motion.kind, motion.names, motion.missing)
    assert again.rate == Fraction(30000, 1001)
    assert np.array_equal(again.column("b"), motion.values[:, 1])


@pytest.mark.parametrize("load", [Identity.load, Motion.load])
def test_other_files_are_refused(load: Callable[[Path], object], walk: Walk, tmp_path: Path) -> None:
    wrong = tmp_path / "text.safetensors"
    wrong.write_text("hello")
    with pytest.raises(ValueError, match="not a safetensors file"):
        load(wrong)
    with pytest.raises(ValueError, match="no file"):
        load(tmp_path / "absent")
    other = tmp_path / "other.safetensors"
    if load == Motion.load:
        person(walk).save(other)
    else:
        a_motion().save(other)
    with pytest.raises(ValueError, match="does not hold"):
        load(other)


def test_a_motion_knows_its_shape() -> None:
    with pytest.raises(ValueError, match="frames, 2"):
        Motion(np.zeros((4, 3)), WALK, ("a", "b"), Fraction(25), np.zeros((4, 4)))
    with pytest.raises(ValueError, match="as many placements"):
        Motion(np.zeros((4, 2)), WALK, ("a", "b"), Fraction(25), np.zeros((3, 4)))


def test_chunks_do_not_change_the_frames(walk: Walk) -> None:
    identity, motion = person(walk), a_motion()
    runs = [np.stack(list(render(walk, identity, motion, chunk=chunk))).astype(int) for chunk in (1, 3, 8)]
    assert runs[0].shape == (11, 32, 32, 3) and len(render(walk, identity, motion)) == 11
    assert np.abs(runs[1] - runs[0]).max() <= 1 and np.abs(runs[2] - runs[0]).max() <= 1
    assert np.abs(np.diff(runs[0], axis=0)).mean() > 1, "the frames differ from each other"


def test_a_run_can_begin_in_the_middle(walk: Walk) -> None:
    whole = render(walk, person(walk), a_motion(), chunk=3)
    rest = np.stack(list(whole.start_at(7))).astype(int)
    assert np.abs(rest - np.stack(list(whole)).astype(int)[7:]).max() <= 1


def test_options_reach_the_system(walk: Walk) -> None:
    still = list(render(walk, person(walk), a_motion(), strength=0.0))
    assert all(np.array_equal(still[0], frame) for frame in still)


def test_mistakes_are_explained(walk: Walk) -> None:
    with pytest.raises(ValueError, match="chunk is 1 frame or more"):
        render(walk, person(walk), a_motion(), chunk=0)
    with pytest.raises(ValueError, match="takes motion of kind walk, not run"):
        render(walk, person(walk), a_motion(kind=MotionKind("run")))


def test_pictures_clamp_and_round() -> None:
    images = torch.tensor([-2.0, -1.0, 0.0, 1.0, 2.0]).view(1, 1, 1, 5).expand(1, 3, 1, 5)
    assert pictures(images)[0, 0, :, 0].tolist() == [0, 0, 128, 255, 255]


def test_public_names() -> None:
    import stylereel

    assert stylereel.render is render and stylereel.Motion is Motion and stylereel.StyleGAN2 is StyleGAN2
    assert "stylemask" in stylereel.list_systems()
    with pytest.raises(ValueError, match="did you mean stylemask"):
        stylereel.load("stylmask")


@pytest.mark.parametrize(("text", "relative"), [("face changes", True), ("face", False)])
def test_a_motion_of_version_0_1_reads(text: str, relative: bool, tmp_path: Path) -> None:
    """It said relative by the ending of the kind, and had no checksum."""
    from safetensors.torch import save_file

    tensors = {"values": torch.ones(2, 1), "placement": torch.ones(2, 4), "missing": torch.tensor([1])}
    header = {"format": "stylereel", "version": "1", "kind": "motion", "motion_kind": text, "names": '["yaw"]'}
    save_file(tensors, tmp_path / "old.safetensors", {**header, "rate": "30000/1001", "num_faces": "2"})
    motion = Motion.load(tmp_path / "old.safetensors")
    assert motion.kind == MotionKind("face", relative) and motion.missing == (1,) and motion.num_faces == 2
