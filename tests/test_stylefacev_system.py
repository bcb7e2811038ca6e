"""StyleFaceV on the built-in StyleGAN3: where heads are, what a shard of people holds, motion from noise, and its
training and verbs, small."""

from __future__ import annotations

from dataclasses import replace
from fractions import Fraction
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from stylereel import world
from stylereel.cli import main
from stylereel.commands.train import train
from stylereel.core.builtin import builtin
from stylereel.core.latents import FACE, Codes, Identity, Motion
from stylereel.core.render import render
from stylereel.family.encoder import load_encoder
from stylereel.family.nets import FaceNet
from stylereel.family.people import mixed_values
from stylereel.generator import StyleGAN3, StyleGAN3Config
from stylereel.systems.stylefacev import appearance, critics, data, larger, motion, pose, training
from stylereel.systems.stylefacev.model import (
    NAMES,
    NOISE,
    PLACE,
    SHOWN,
    SIZE,
    FacePoseNets,
    PoseSampler,
    load_nets,
    places,
    to_code,
    to_values,
    transforms,
)
from stylereel.systems.stylefacev.system import StyleFaceV
from stylereel.train.loop import Trainer
from stylereel.world.factors import INDEX, MOTION, MOTION_COLUMNS


def wild_heads(count: int = 3) -> np.ndarray:
    """Values of people whose heads are turned and shifted in the frame."""
    motion = data.motions(count, 5, 2, 60)
    motion[:, 2] += np.linspace(-9, 9, count)
    motion[:, 3:5] += 0.05
    return data.values_of(data.people(count, 3), motion)


# Where heads are, and who


def test_codes_and_transforms_have_inverses() -> None:
    values = torch.from_numpy(data.pose_values(wild_heads()))
    torch.testing.assert_close(to_values(to_code(values)), values, atol=1e-5, rtol=1e-5)
    torch.testing.assert_close(places(transforms(values)).float(), values[:, PLACE], atol=1e-4, rtol=1e-4)


def test_the_transform_takes_the_upright_head_to_where_the_head_is() -> None:
    """Exactly, for every landmark, whatever the pose: so nothing but the transform is needed for roll and shift."""
    values = wild_heads()
    matrices = transforms(torch.from_numpy(data.pose_values(values))).numpy()
    for value, straight, matrix in zip(values, data.upright(values), matrices):
        columns = [INDEX[name] for name in MOTION[6:]]
        straight[columns] = value[columns]
        there, here = world.project_landmarks(value)[0], world.project_landmarks(straight)[0]
        moved = (here - 0.5) @ matrix[:2, :2].T + matrix[:2, 2] + 0.5
        assert np.abs(there - here).max() > 0.03 and np.abs(there - moved).max() < 1e-3


def test_latents_mean_the_person_and_the_pose() -> None:
    values = wild_heads()
    z = data.latents(torch.from_numpy(data.people(3, 3)).float(), data.motion_normals(data.pose_values(values)))
    assert z.square().sum(1).numpy() == pytest.approx(80, abs=2)
    found = data.upright(mixed_values(np.repeat(z.numpy()[:, None], 4, 1), data.KNOWN))
    assert np.abs(found - data.upright(values))[:, : data.KNOWN].max() < 0.06


def test_a_shard_knows_where_each_head_is_in_its_crop() -> None:
    torch.manual_seed(0)
    shard = data.draw_people(7, FaceNet().eval(), 2)
    assert shard["crops"].shape == (8, 3, 128, 128) and shard["images"].shape == (6, 3, 128, 128)
    assert shard["readings"].isfinite().all() and len(shard["person"]) == 2
    inside = shard["pose"][:, PLACE]
    near = (inside - torch.tensor([0.0, 0.0, 0.0, 1.0])).abs()
    assert near.max(0).values[0] < 6 and near[:, 1:].max() < 0.15, "crops are aligned, but by unsure landmarks"
    assert near[:, 1].max() > 1e-4
    again = data.draw_people(7, FaceNet().eval(), 2)
    assert torch.equal(again["crops"], shard["crops"])


def test_kept_readings_are_of_two_frames_of_a_person_in_crop_and_image(tmp_path: Path) -> None:
    torch.manual_seed(0)
    face = FaceNet().eval()
    found = data.kept_readings(tmp_path, 1, face, 2)
    assert found.readings.shape == (4, 156) and found.codes.shape == found.moved.shape == (4, SIZE)
    assert (found.moved[:, SHOWN] == 0).all() and (found.moved[:, PLACE].abs().amax(0) > 0).all()
    again = data.kept_readings(tmp_path, 1, face, 2)
    assert all(torch.equal(one, other) for one, other in zip(found, again)) and len(list(tmp_path.iterdir())) == 1


# The pose net


def test_sides_that_differ_little_are_even_and_winks_stay() -> None:
    torch.manual_seed(0)
    net, reading = FacePoseNets().pose.eval(), torch.zeros(2, 156)
    last = net.layers[-1]
    assert isinstance(last, torch.nn.Linear)
    torch.nn.init.zeros_(last.weight)
    torch.nn.init.zeros_(last.bias)
    left, right = NAMES.index("blink_left"), NAMES.index("blink_right")
    reading[0, 136 + left], reading[1, 136 + left], reading[1, 136 + right] = 0.1, 1.0, -1.0
    code = net(reading)
    assert code[0, left] == code[0, right] == 0.05
    torch.testing.assert_close(code[1, [left, right]], torch.tensor([0.9, -0.9]))
    assert torch.equal(net.estimate(reading)[:, right], reading[:, 136 + right])


def test_hiding_takes_the_person_from_codes_where_another_reading_does_without(tmp_path: Path) -> None:
    random = torch.Generator().manual_seed(0)
    codes = torch.randn(1200, SIZE, generator=random)
    person = torch.randn(600, 1, generator=random).repeat_interleave(2, 0)
    readings = torch.zeros(1200, 156)
    readings[:, 136 : 136 + SIZE] = codes
    readings[:, 136 + SHOWN[0], None] += 0.5 * person
    readings[:, 0] = codes[:, SHOWN[0]] + 0.5 * torch.randn(1200, generator=random)  # as unsure, but not of the person
    torch.manual_seed(0)
    net = FacePoseNets().pose.eval()
    with torch.no_grad():
        for layer in net.layers[-1].parameters():
            layer.zero_()
        before = net.estimate(readings) - codes
        pose.hide_person(net, data.Readings(readings, codes, torch.zeros_like(codes)))
        after = net.estimate(readings) - codes

    def shared(error: torch.Tensor) -> float:
        one, other = error[:, SHOWN[0]].unflatten(0, (-1, 2)).unbind(1)
        return float((one * other).mean())

    assert shared(after) < 0.6 * shared(before)
    assert after[:, SHOWN[0]].square().mean() < 1.2 * before[:, SHOWN[0]].square().mean()


# Motion


def test_sequences_of_one_distribution_are_near_and_without_blinks_far() -> None:
    random = torch.Generator().manual_seed(0)
    first, second = torch.randn(2, 64, 30, SIZE, generator=random)
    near = motion.spread_loss(first, second)
    blinking = first.clone()
    blinking[::4, 10:13] += 6
    assert motion.spread_loss(first, first) == 0
    assert motion.spread_loss(first, blinking) > 2 * near


def test_the_critics_losses_are_those_of_the_paper() -> None:
    real, fake = [torch.full((4, 3), 1.0)], [torch.zeros(4, 3)]
    assert critics.critic_loss(real, fake) == 0 and critics.generator_loss(real, fake) == 4
    assert critics.critic_loss(fake, real) == 4
    critic = critics.SequenceCritic(torch.randn(3, 40, SIZE))
    sequences = torch.randn(2, 5, 30, SIZE)
    assert [score.shape[0] for score in critic(sequences[0])] == [5, 5]
    loss = critics.penalty(critic, sequences[0], sequences[1], torch.Generator().manual_seed(0))
    loss.backward()
    assert all(p.grad is not None for name, p in critic.named_parameters() if not name.endswith("6.bias"))


def sampler() -> PoseSampler:
    torch.manual_seed(1)
    net = PoseSampler(16)
    net.learn_statistics(torch.randn(2, 60, SIZE).cumsum(1) / 8)
    return net.eval()


def test_motion_goes_on_from_its_state_and_keeps_to_the_range() -> None:
    net = sampler()
    noise = torch.randn(2, 20, NOISE)
    with torch.no_grad():
        whole, predicted, _ = net.go_on(net.start(net.starts[:2]), noise)
        first, _, state = net.go_on(net.start(net.starts[:2]), noise[:, :7])
        rest, _, _ = net.go_on(state, noise[:, 7:])
        torch.testing.assert_close(torch.cat([first, rest], 1), whole)
        torch.nn.init.constant_(net.out.bias, 5.0)
        far = net.go_on(net.start(net.starts[:2]), torch.randn(2, 200, NOISE))[0]
    assert predicted.shape == noise.shape and (far <= net.high + 1e-5).all() and (far[:, -1] == net.high).all()


def test_the_calibration_steadies_a_trembling_sample_and_keeps_its_range() -> None:
    torch.manual_seed(0)
    net, codes = PoseSampler(8), data.clip_codes(2, 400)
    torch.nn.init.normal_(net.out.weight, std=2.0)  # large steps of either sign, which tremble
    net.learn_statistics(codes)
    before = net.deviation.clone()
    motion.calibrate(net, codes, 8, 300)
    noise = torch.randn(8, 300, NOISE)
    noisy, steady = PoseSampler(8), net
    noisy.load_state_dict(net.state_dict())
    noisy.glide.zero_()
    tracks = [each.go_on(each.start(each.starts[:8]), noise)[0].detach() for each in (noisy, steady)]
    assert (net.glide >= 0).all() and net.glide.max() > 0.1
    assert (motion._fourth(tracks[1]) <= motion._fourth(tracks[0]) + 1e-6).all()
    assert ((net.deviation / before).log().abs() <= np.log(motion.GAIN) + 1e-4).all()
    first, _, state = net.go_on(net.start(net.starts[:2]), noise[:2, :9])
    second = net.go_on(state, noise[:2, 9:20])[0]
    torch.testing.assert_close(torch.cat([first, second], 1), net.go_on(net.start(net.starts[:2]), noise[:2, :20])[0])


# Training


def test_all_stages_train_resume_and_one_stage_goes_on_alone(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    torch.manual_seed(2)
    tiny = StyleGAN3(StyleGAN3Config(128, 80, 256, channel_base=1024, channel_max=16, num_layers=8, filter_size=4))
    monkeypatch.setattr(training.StyleGAN3, "load", lambda _: tiny)
    monkeypatch.setattr(training, "SHARD", 2)
    monkeypatch.setattr(training, "kept_people", lambda folder, shards, face: data.kept_people(folder, shards, face, 2))
    small = appearance.Settings(1, 2, 2, 2, people=2, shown=2)
    monkeypatch.setattr(training, "Settings", lambda **kept: replace(small, **kept))
    monkeypatch.setattr(training, "kept_clips", lambda folder: data.clip_codes(1, 60))
    monkeypatch.setattr(training, "READ", 2)
    monkeypatch.setattr(training, "READERS", 2)
    monkeypatch.setattr(training, "kept_readings", lambda folder, n, face: data.kept_readings(folder, n, face, 2))
    monkeypatch.setattr(training, "train_motion", partial(motion.train_motion, whole=2))
    monkeypatch.setattr(training, "train_pose", partial(pose.train_pose, whole=2))
    monkeypatch.setattr(appearance, "show", lambda *_: np.zeros((8, 8, 3), np.uint8))
    monkeypatch.setattr(motion, "BATCH", 8)
    monkeypatch.setattr(motion, "calibrate", partial(motion.calibrate, count=4, frames=40))
    command = [
        "train",
        "stylefacev",
        "--folder",
        str(tmp_path),
        "--people",
        "2",
        "--device",
        "cpu",
        "--precision",
        "32",
    ]
    assert main(command) == 0 and "stylefacev.safetensors" in capsys.readouterr().out
    nets = load_nets(tmp_path / "stylefacev.safetensors")
    assert main(command) == 0, "a finished run goes on from its end"
    assert len(list((tmp_path / "stylefacev" / "data").glob("people-*.safetensors"))) == 1
    other = tmp_path / "other"
    words = [*command[:3], str(other), *command[4:], "--stage", "motion", "--start", str(tmp_path)]
    assert main(words) == 0
    again = load_nets(other / "stylefacev.safetensors")
    for (name, before), after in zip(nets.state_dict().items(), again.state_dict().values()):
        if not name.startswith("motion"):
            assert torch.equal(before, after), name
    words = [*command[:3], str(tmp_path / "anew"), *command[4:], "--stage", "appearance"]
    assert main(words) == 0
    trunk = load_nets(tmp_path / "anew" / "stylefacev.safetensors").appearance.trunk.state_dict()
    for name, value in load_encoder(builtin("encoder")).trunk.state_dict().items():  # not the built-in networks' own
        torch.testing.assert_close(trunk[name], value, atol=1e-3, rtol=1e-3, msg=name)
    capsys.readouterr()
    assert main([*command, "--people", "1"]) == 2 and "2 people or more" in capsys.readouterr().err


def test_every_network_gets_a_gradient() -> None:
    torch.manual_seed(0)
    nets = FacePoseNets()
    codes = nets.pose(torch.randn(4, 156))
    w = nets.fusion(nets.appearance(torch.randn(4, 3, 128, 128)), codes)
    poses, noise, _ = nets.motion.go_on(nets.motion.start(codes), torch.randn(4, 3, NOISE))
    (w.square().sum() + codes.square().sum() + poses.square().sum() + noise.square().sum()).backward()
    without = [name for name, p in nets.named_parameters() if p.grad is None or not p.grad.abs().sum() > 0]
    assert without == ["motion.enc_cell.weight_hh"], "its state begins at 0, as in the paper"


def test_erasing_leaves_no_pose_to_a_matrix_and_nearly_all_of_the_code(tmp_path: Path) -> None:
    random = torch.Generator().manual_seed(0)
    pose = torch.randn(40, SIZE, generator=random)
    crops = (torch.rand(40, 3, 32, 32, generator=random) * 99 + 50 * pose[:, SHOWN[0], None, None, None].abs()).byte()
    empty = torch.zeros(0)
    people = appearance.People(crops, empty, pose, empty, pose, empty, empty, empty)
    torch.manual_seed(0)
    net = FacePoseNets().appearance.eval()
    with torch.no_grad():
        before = net(appearance.unit(crops))
        appearance.erase_pose(Trainer(tmp_path, device="cpu"), net, people)
        after = net(appearance.unit(crops))
    shown = pose[:, SHOWN] - pose[:, SHOWN].mean(0)
    first, last = (((each - each.mean(0)).T @ shown).abs().max() for each in (before, after))
    assert last < 0.02 * first and torch.allclose(after.mean(0), before.mean(0), atol=1e-4)


# The system


@pytest.fixture(scope="module")
def system() -> StyleFaceV:
    return StyleFaceV.builtin()


def frames(system: StyleFaceV, identity: Identity, motion: Motion) -> np.ndarray:
    return np.stack(list(render(system, identity, motion, precision="32"))).astype(float)


def still(system: StyleFaceV, count: int = 3, **moved: list[float]) -> Motion:
    values = np.tile(world.neutral()[MOTION_COLUMNS[:SIZE]], (count, 1))
    for name, track in moved.items():
        values[:, NAMES.index(name)] = track
    whole = np.tile(np.array((0.5, 0.5, 1.0, 0.0), np.float32), (count, 1))
    return Motion(values.astype(np.float32), system.motion_kinds[0], NAMES, Fraction(25), whole)


def test_the_head_shifts_in_the_frame_by_whole_pixels(system: StyleFaceV) -> None:
    identity = system.identify(3)
    shown = frames(system, identity, still(system, 2, shift_x=[0.0, 8 / 128]))
    assert np.abs(shown[1][:, 20:120] - shown[0][:, 12:112]).mean() < 2 < np.abs(shown[1] - shown[0]).mean()


def test_samples_are_of_their_seed_and_longer_ones_begin_alike(system: StyleFaceV) -> None:
    path = system.sample_path(3, 40)
    assert torch.equal(system.sample_path(3, 25), path[:25]) and torch.equal(system.sample_path(3, 40, 7), path)
    assert not torch.equal(system.sample_path(4, 40), path)
    with pytest.raises(ValueError, match="1 or more"):
        system.sample(3, 0)
    with pytest.raises(ValueError, match="0 or more"):
        system.sample(-1, 3)


def test_motion_of_faces_is_shown_too(system: StyleFaceV) -> None:
    """As sound, curves and sliders make it."""
    identity = system.identify(3)
    values = np.tile(world.neutral()[MOTION_COLUMNS], (2, 1)).astype(np.float32)
    values[1, MOTION.index("jaw")] = 0.9
    placement = np.tile(np.array((64, 64, 128, 0), np.float32), (2, 1))
    face = Motion(values, FACE, MOTION, Fraction(25), placement)
    shown, own = frames(system, identity, face), frames(system, identity, still(system, 2, jaw=[0.0, 0.9]))
    assert np.abs(shown - own).max() <= 2
    change = np.abs(shown[1] - shown[0]).mean(2)
    assert change[75:110, 40:88].mean() > 4 * change[:40].mean(), "the mouth moves and the forehead does not"


def test_a_saved_identity_and_relative_motion(system: StyleFaceV, tmp_path: Path) -> None:
    identity = system.identify(3)
    identity.save(tmp_path / "who.safetensors")
    again = system.identify(Identity.load(tmp_path / "who.safetensors"))
    motion = still(system, 2, yaw=[0.0, 12.0])
    relative = replace(motion, kind=motion.kind._replace(relative=True), values=motion.values - motion.values[:1])
    first = system.apply(again, relative)
    assert first.w is not None and torch.equal(first.w, system.apply(identity, relative).w)  # type: ignore[arg-type]
    own = to_code(identity.tensors["pose"])
    assert torch.allclose(first.w[0, 0], system.fuse(identity.tensors["appearance"][None], own[None])[0, 0], atol=1e-4)
    assert len(SHOWN) == 12


def test_codes_drive(system: StyleFaceV) -> None:
    """Their own images are read: the pose of the person whose code it is, in the middle of the frame."""
    person, turned = torch.from_numpy(data.people(1, 9)).float(), still(system, 2, yaw=[-20.0, 20.0])
    z = data.latents(person.repeat(2, 1), data.motion_normals(turned.values))
    codes = Codes(system.generator.map(z), "", Fraction(25), torch.tensor([[0.5, 0.5, 1.0, 0.0]]).repeat(2, 1))
    motion = system.extract(codes, motion="relative")
    assert motion.kind.relative and not motion.values[0].any()
    assert motion.column("yaw")[1] == pytest.approx(40, abs=10) and abs(motion.column("shift_x")[1]) < 0.05


def test_motion_of_prepared_clips_is_learned_as_the_worlds_is(tmp_path: Path) -> None:
    motion = world.natural_motion(500_000, 60, manner="talking").astype(np.float32)

    class Clips:
        def batch(self, index: int, count: int) -> dict[str, torch.Tensor]:
            return {"coefficients": torch.from_numpy(motion)[None]}

    clips: Any = Clips()
    codes = data.prepared_codes(clips, 2)
    torch.testing.assert_close(codes, data.clip_codes(1, 60).expand(2, -1, -1), atol=1e-4, rtol=1e-4)
    clips.batch = lambda *_: {"coefficients": torch.zeros(1, 60, 3)}
    with pytest.raises(ValueError, match="prepare them anew"):
        data.prepared_codes(clips, 1)
    with pytest.raises(ValueError, match="leave out --data"):
        train("stylefacev", folder=str(tmp_path), options={"data": "shards", "stage": "pose"})


def test_the_motion_by_images_goes_on_from_that_by_poses(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    torch.manual_seed(2)
    tiny = StyleGAN3(StyleGAN3Config(128, 80, 256, channel_base=1024, channel_max=16, num_layers=8, filter_size=4))
    monkeypatch.setattr(motion, "SHOWN_FRAMES", 4)
    monkeypatch.setattr(motion, "CRITIC", 4)
    nets, trainer = (
        load_nets(builtin("stylefacev")).requires_grad_(True),
        Trainer(tmp_path, device="cpu", precision="32"),
    )
    before = {name: value.clone() for name, value in nets.named_parameters()}
    motion.train_images(trainer, nets, tiny.eval().requires_grad_(False), 2)
    changed = {name.split(".")[0] for name, value in nets.named_parameters() if not torch.equal(value, before[name])}
    assert changed == {"motion"}
    with pytest.raises(ValueError, match="stage motion first"):
        motion.train_images(trainer, FacePoseNets(), tiny)


# A larger generator


def test_a_larger_generator_shows_the_codes_that_were_learned_small(
    system: StyleFaceV, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(larger, "samples", lambda _: np.zeros((8, 8, 3), np.uint8))
    monkeypatch.setattr(larger, "STEPS", 2)
    monkeypatch.setattr(training, "train_larger", partial(larger.train_larger, steps=2))
    words = ["train", "stylefacev", "--stage", "larger", "--folder", str(tmp_path), "--device", "cpu"]
    assert main([*words, "--precision", "32"]) == 0
    file = tmp_path / "generator3-256.safetensors"
    large: Any = StyleFaceV.from_files(generator=str(file))
    assert large.generator.resolution == 256 and large.weight_files[0] == file
    before, after = (dict(each.generator.named_parameters()) for each in (system, large))
    taken = [name for name in before if name in after and torch.equal(before[name], after[name])]
    assert all(name in taken for name in before if name.startswith("mapping.")) and len(taken) > 20
    motion = large.sample(3, 2)[1]
    identity = system.identify(5)
    shown: list[Any] = [each.apply(identity, motion) for each in (system, large)]
    assert torch.allclose(shown[0].w[:, 0], shown[1].w[:, 0], atol=1e-4)
    assert shown[1].w.shape[1] == large.generator.num_ws > system.generator.num_ws
    images = [each.synthesize(one.generator) for each, one in zip(shown, (system, large))]
    assert images[1].shape == (2, 3, 256, 256)
    assert (F.avg_pool2d(images[1], 2) - images[0]).abs().mean() < 0.15, "it begins near what the small one shows"
    capsys.readouterr()
    with pytest.raises(ValueError, match="2, 4, ... times 128"):
        larger.grow(system.generator, 192)
