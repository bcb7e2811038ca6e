"""StyleHEAT's losses, its training pairs against the world's truth, and both stages in small."""

import io
import json
import tarfile
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from PIL import Image
from torch import Tensor

from stylereel import world
from stylereel.commands.train import train
from stylereel.core.builtin import builtin
from stylereel.core.weights import read_card
from stylereel.family.nets import unit_values
from stylereel.family.people import Batch as Portraits
from stylereel.family.people import mixed_values
from stylereel.generator import Discriminator, DiscriminatorConfig, StyleGAN2
from stylereel.systems.styleheat import training
from stylereel.systems.styleheat.files import load_calibration, load_warper
from stylereel.systems.styleheat.flow import endpoint_error, warp
from stylereel.systems.styleheat.guide import guides
from stylereel.systems.styleheat.losses import (
    EYES,
    MOUTH,
    PyramidLoss,
    adversarial_loss,
    boxes,
    domain_loss,
    local_loss,
    weighted_l1,
)
from stylereel.systems.styleheat.motion import COUNT, INPUTS, beside_own, coordinates, windows
from stylereel.systems.styleheat.networks import Warper, WarperConfig
from stylereel.systems.styleheat.pairs import clip_pairs, draw_pairs, kept_pairs, window_around
from stylereel.systems.styleheat.state import State, draw, look, read_state, split
from stylereel.systems.styleheat.training import inner_face, smaller
from stylereel.train.loop import Trainer
from stylereel.train.sources import open_source
from stylereel.world.factors import MOTION_COLUMNS
from stylereel.world.materials import REGIONS
from stylereel.world.truth import flow as exact_flow


def maps(images: Tensor) -> list[Tensor]:
    """Feature maps that are easy to check: the image and its halved self."""
    return [images, F.avg_pool2d(images, 2)]


def one_face() -> Tensor:
    """Landmarks [1, 68, 2] in 0..1, all in the chin but eyes and mouth."""
    points = torch.full((1, 68, 2), 0.9)
    points[:, EYES] = torch.tensor([[0.3, 0.4], [0.7, 0.4]]).repeat(6, 1)
    points[:, MOUTH] = torch.tensor([[0.4, 0.7], [0.6, 0.7], [0.5, 0.65], [0.5, 0.75]]).repeat(5, 1)
    return points


# Losses


def test_the_adversarial_loss_falls_as_the_discriminator_is_convinced_and_the_authors_rises() -> None:
    scores = torch.tensor([[-2.0], [0.0], [3.0]])
    right = [adversarial_loss(score[None]).item() for score in scores]
    authors = [adversarial_loss(score[None], inverted=True).item() for score in scores]
    assert right == sorted(right, reverse=True) and authors == sorted(authors)
    probability = torch.sigmoid(scores)
    torch.testing.assert_close(adversarial_loss(scores), -probability.log().mean())  # -log D
    torch.manual_seed(0)
    critic, image = Discriminator(DiscriminatorConfig(8, channel_base=64, channel_max=8)), torch.randn(4, 3, 8, 8)
    image.requires_grad_(True)
    (gradient,) = torch.autograd.grad(adversarial_loss(critic(image)), image)
    step = 1e-2 * gradient / gradient.abs().max()
    assert critic(image - step).mean() > critic(image).mean(), "down the loss the picture looks truer"


def test_boxes_hold_eyes_and_mouth_with_soft_edges() -> None:
    mask = boxes(one_face(), 100)[0, 0]
    assert mask[40, 30] == mask[40, 70] == mask[70, 50] == 1
    assert mask[10, 50] == mask[97, 97] == 0
    assert ((mask > 0) & (mask < 1)).any(), "soft edges"
    hard = boxes(one_face(), 100, soft=1e-6)[0, 0]
    assert set(hard.unique().tolist()) == {0.0, 1.0} and hard.sum() < (mask > 0).sum()
    mouth = boxes(one_face(), 100, [MOUTH])[0, 0]
    assert mouth[40, 30] == 0 and mouth[70, 50] == 1


def test_masked_losses_look_where_they_say() -> None:
    torch.manual_seed(1)
    image = torch.randn(1, 3, 64, 64)
    mask = torch.zeros(1, 1, 64, 64)
    mask[..., :32, :] = 1
    changed = image.clone()
    changed[..., 48:, :] += 1  # outside of the mask
    features = PyramidLoss(maps, scales=2)
    assert features(image, image).item() == 0
    assert local_loss(features, changed, image, mask).item() == pytest.approx(0, abs=1e-6)
    assert domain_loss(features, changed, image, mask).item() == pytest.approx(0.5, rel=1e-3)  # half of the lower half
    inside = image.clone()
    inside[..., :16, :] += 1
    assert domain_loss(features, inside, image, mask).item() == pytest.approx(0, abs=1e-6)
    # Features and ten times the pixels, each half of the upper half.
    assert local_loss(features, inside, image, mask).item() == pytest.approx(0.5 * 11, rel=1e-3)
    assert weighted_l1(changed, image).item() == pytest.approx(0.25, rel=1e-3)


def test_the_domain_loss_holds_the_calibrated_picture_and_not_the_warped_one() -> None:
    calibrated, warped = (torch.randn(1, 3, 16, 16, requires_grad=True) for _ in range(2))
    loss = domain_loss(PyramidLoss(maps, scales=1), calibrated, warped, torch.zeros(1, 1, 16, 16))
    loss.backward()
    assert calibrated.grad is not None and calibrated.grad.abs().sum() > 0 and warped.grad is None


# Motion and pairs


def test_windows_repeat_the_ends_and_have_each_frame_in_the_middle() -> None:
    track = np.arange(40, dtype=np.float32)[:, None] * np.ones((1, 3), np.float32)
    found = windows(track)
    assert found.shape == (40, 3, 27)
    assert found[:, 0, 13].tolist() == list(range(40))
    assert found[0, 0].tolist() == [0] * 13 + list(range(14))
    assert found[39, 0].tolist() == list(range(26, 40)) + [39] * 13


def test_coordinates_are_the_face_nets_units_without_what_alignment_takes() -> None:
    values = world.from_latent(np.random.default_rng(0).standard_normal((4, 80)))
    found = coordinates(values[:, MOTION_COLUMNS])
    expected = unit_values(torch.from_numpy(values))[:, MOTION_COLUMNS].numpy()
    kept = [i for i, name in enumerate(world.MOTION) if name not in ("shift_x", "shift_y", "scale")]
    np.testing.assert_allclose(found[:, kept], expected[:, kept], atol=1e-5)
    assert not np.delete(found, kept, axis=1).any()
    together = beside_own(windows(found), found[:1])
    assert together.shape == (4, INPUTS, 27)
    assert torch.equal(together[2, COUNT:, 5], torch.from_numpy(found[0]))


def test_a_window_is_natural_and_shows_the_wanted_frame_in_its_middle() -> None:
    values = world.from_latent(np.random.default_rng(1).standard_normal(80))[MOTION_COLUMNS]
    random = np.random.default_rng(2)
    moved = [window_around(values, random) for _ in range(10)]
    for window in moved:
        np.testing.assert_allclose(window[13], values, atol=1e-5)
        assert (window >= world.LOW[MOTION_COLUMNS]).all() and (window <= world.HIGH[MOTION_COLUMNS]).all()
    assert max(np.abs(np.diff(window, axis=0)).max() for window in moved) > 0.01


def test_pairs_are_one_person_twice_and_processes_share_a_step() -> None:
    pairs = draw_pairs(5, 4)
    before, after = (world.align(mixed_values(z.double().numpy())) for z in (pairs.source, pairs.target))
    person = [i for i in range(len(world.NAMES)) if i not in MOTION_COLUMNS]
    np.testing.assert_array_equal(before[:, person], after[:, person])
    assert np.abs(before[:, MOTION_COLUMNS] - after[:, MOTION_COLUMNS]).max() > 0.1
    np.testing.assert_allclose(pairs.window[:, :COUNT, 13], coordinates(after[:, MOTION_COLUMNS]), atol=1e-4)
    np.testing.assert_allclose(pairs.window[:, COUNT:, 13], coordinates(before[:, MOTION_COLUMNS]), atol=0.25)
    truth = exact_flow(after[1], before[1], 64)
    np.testing.assert_allclose(pairs.flow[1].permute(1, 2, 0), truth.flow, atol=1e-2)
    for rank in (0, 1):
        for mine, whole in zip(draw_pairs(5, 4, (rank, 2)), pairs, strict=True):
            assert torch.equal(mine, whole[rank::2])


@pytest.fixture(scope="module")
def generator() -> StyleGAN2:
    return StyleGAN2.load(builtin("generator")).eval().requires_grad_(False)


def test_the_exact_flow_moves_the_source_to_the_target(generator: StyleGAN2, tmp_path: Path) -> None:
    """What ties the world's truth, the direction of the flow and the generator's state together."""
    pairs = draw_pairs(3, 6)
    teacher = training.Teacher(Trainer(tmp_path, precision="32"), generator, 64, True)
    batch = teacher(pairs)
    count = pairs.seen[:, None].float()

    pictures = batch.target_images
    assert batch.images is not None and pictures is not None

    def off(images: Tensor) -> float:
        return float(((images - pictures).abs() * count).sum() / (3 * count.sum()))

    unmoved, moved = batch.images, warp(batch.images, pairs.flow)
    opposite = warp(batch.images, -pairs.flow)
    assert off(moved) < 0.65 * off(unmoved) < 0.65 * off(opposite)
    # The same holds for the state, from which the generator goes on.
    plain, state = (split(m) for m in (batch.source.joined(), warp(batch.source.joined(), pairs.flow)))
    shown = [off(look(generator, s, batch.w, 64)) for s in (plain, state)]
    assert shown[1] < 0.65 * shown[0]
    # The target's state with the source's codes is the target's picture: look is not in the rows below 64 px.
    torch.testing.assert_close(look(generator, batch.target, batch.w, 64), batch.target_images)


def test_a_state_goes_on_to_the_same_picture(generator: StyleGAN2) -> None:
    w = generator.map(torch.randn(2, generator.config.z_dim, generator=torch.Generator().manual_seed(4)))
    state = read_state(generator, w)
    whole = generator.synthesize(w)
    torch.testing.assert_close(draw(generator, state, w), whole, atol=1e-4, rtol=1e-4)
    again = split(state.joined())
    assert torch.equal(again.features, state.features)
    torch.testing.assert_close(again.so_far, state.so_far)
    tapped = generator.synthesize(w, taps={layer: (lambda _, x=x: x) for layer, x in State(*again).taps.items()})
    torch.testing.assert_close(tapped, whole, atol=1e-4, rtol=1e-4)
    small = look(generator, state, w, 256, whole=True)
    torch.testing.assert_close(small, whole.clamp(-1, 1), atol=1e-4, rtol=1e-4)


# Training


SMALL = WarperConfig(INPUTS, descriptor=16, size=64, width=8, widest=16, hidden=8, places=True)


def test_one_batch_is_learned_by_heart(generator: StyleGAN2, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pairs = draw_pairs(0, 2)
    monkeypatch.setattr(training, "draw_pairs", lambda *arguments, **others: pairs)
    settings = replace(training.QUICK.video, steps=60, batch=2, rate=1e-2, pool=0)
    trainer = Trainer(tmp_path, precision="32", checkpoint_seconds=1e9)
    torch.manual_seed(0)
    training.train_video(trainer, generator, settings, config=SMALL)
    model = Warper(SMALL)
    state = torch.load(next((tmp_path / "styleheat-video").glob("checkpoint-*.pt")), weights_only=False)
    model.load_state_dict(state["modules"]["model"])
    batch = training.Teacher(trainer, generator, 64, False)(pairs)
    with torch.no_grad():
        found = model(batch.images, pairs.window).flow
    errors = training.end_point_errors(found, pairs)
    assert errors["end_point_error"] < 0.6 * errors["without_flow"]
    assert endpoint_error(found, pairs.flow, pairs.seen) == errors["end_point_error"]


def run(generator: StyleGAN2, folder: Path, preset: training.Preset, steps: int) -> tuple[Tensor, Tensor]:
    """A weight of both networks after two steps of the first stage and some of the second."""
    torch.manual_seed(9)
    critic = Discriminator(DiscriminatorConfig(64, channel_base=256, channel_max=8))
    video, joint = (replace(settings, steps=2, batch=2) for settings in (preset.video, preset.joint))
    trainer = Trainer(folder, precision="32")
    warper = training.train_video(trainer, generator, video, maps, config=SMALL)
    pair = training.train_joint(trainer, generator, warper, replace(joint, steps=steps), maps, critic)
    one, other = (next(iter(network.parameters())).detach().clone() for network in pair)
    return one, other


@pytest.fixture
def blind(monkeypatch: pytest.MonkeyPatch) -> None:
    """Samples take longer than a few steps."""
    monkeypatch.setattr(training, "show", lambda *arguments: np.zeros((8, 8, 3), np.uint8))


def test_the_calibration_learns_one_batch_by_heart(
    generator: StyleGAN2, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, blind: None
) -> None:
    pairs = draw_pairs(0, 2)
    monkeypatch.setattr(training, "draw_pairs", lambda *arguments, **others: pairs)
    settings = replace(training.QUICK.joint, steps=60, batch=2, pool=0)
    trainer = Trainer(tmp_path, precision="32", checkpoint_seconds=1e9)
    torch.manual_seed(0)
    warper = Warper(SMALL)
    torch.nn.init.zeros_(warper.flow.weight)
    training.train_joint(trainer, generator, warper, replace(settings, warper_rate=0.0))
    model = training.Pair(Warper(SMALL), training.new_calibration(generator, SMALL.descriptor))
    state = torch.load(next((tmp_path / "styleheat-joint").glob("checkpoint-*.pt")), weights_only=False)
    model.load_state_dict(state["modules"]["model"])
    teacher = training.Teacher(trainer, generator, 64, False)
    batch = teacher(pairs)
    with torch.no_grad():
        _, warped, repaired = model(batch.images, pairs.window, pairs.guide, batch.source.joined())
    before, after = (teacher.difference(x, batch.target, batch.mask, 4.0) for x in (warped, repaired))
    assert after < 0.95 * before


@pytest.mark.parametrize("preset", [training.CODE, training.QUICK])
def test_both_stages_run_with_every_reading(
    generator: StyleGAN2, tmp_path: Path, preset: training.Preset, blind: None
) -> None:
    before = Warper(SMALL)
    after, _ = run(generator, tmp_path, preset, 2)
    assert after.isfinite().all() and after.shape == next(iter(before.parameters())).shape


def test_a_stopped_run_of_the_papers_stages_goes_on_as_if_it_had_not_been(
    generator: StyleGAN2, tmp_path: Path, blind: None
) -> None:
    once = run(generator, tmp_path / "once", training.PAPER, 3)
    run(generator, tmp_path / "twice", training.PAPER, 2)
    for a, b in zip(once, run(generator, tmp_path / "twice", training.PAPER, 3), strict=True):
        torch.testing.assert_close(a, b)


def test_samples_show_sources_moved_repaired_and_targets(generator: StyleGAN2, tmp_path: Path) -> None:
    teacher = training.Teacher(Trainer(tmp_path, precision="32"), generator, 64, False)
    sheet = training.show(teacher, Warper(SMALL), training.new_calibration(generator, 16), count=2)
    height = sheet.shape[0] // 5
    assert np.array_equal(sheet[height : 2 * height], sheet[2 * height : 3 * height]), "nothing is repaired yet"
    assert not np.array_equal(sheet[:height], sheet[3 * height : 4 * height])
    true = np.abs(sheet[3 * height : 4 * height].astype(float) - sheet[4 * height :])
    assert 0 < true.mean() < 12, "the generator's targets are near the true images below them"


def test_a_perceptual_loss_needs_its_maps(generator: StyleGAN2, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="give the feature maps"):
        training.train_video(Trainer(tmp_path, precision="32"), generator, training.PAPER.video, config=SMALL)


def test_a_new_calibration_changes_nothing(generator: StyleGAN2) -> None:
    network = training.new_calibration(generator, 8)
    x = torch.randn(2, 67, 64, 64)
    torch.testing.assert_close(network(x, torch.randn(2, 8), torch.randn(2, 9, 64, 64)).apply(x), x)
    with pytest.raises(ValueError, match="guide of the mean head"):
        network(x, torch.randn(2, 8))


def test_the_guide_shows_the_mean_head_make_the_movement() -> None:
    own, target = world.neutral()[MOTION_COLUMNS], world.neutral()[MOTION_COLUMNS]
    target[world.MOTION.index("yaw")] = 25
    still, turned = guides(own, np.stack([own, target]))
    torch.testing.assert_close(still[:3], still[3:6])
    assert still[6:8].abs().max() < 1e-3 and still[8].mean() > 0.9
    torch.testing.assert_close(turned[:3], still[:3])
    moved = warp(turned[None, :3], turned[None, 6:8])
    seen = turned[8].bool()
    off = [(image[0] if image.ndim == 4 else image) - turned[3:6] for image in (moved, turned[:3])]
    assert off[0][:, seen].abs().mean() < 0.5 * off[1][:, seen].abs().mean(), "its flow makes the one of the other"
    with pytest.raises(ValueError, match="64 pixels"):
        WarperConfig(size=128, guide=True)


def test_a_warper_with_a_guide_begins_with_the_guides_flow() -> None:
    network = training.new_warper(replace(SMALL, guide=True))
    guide = torch.randn(2, 9, 64, 64)
    flow = network(torch.randn(2, 3, 64, 64), torch.randn(2, INPUTS, 27), guide).flow
    torch.testing.assert_close(flow, guide[:, 6:8])


def test_pairs_are_drawn_once_and_kept(tmp_path: Path) -> None:
    codes = torch.randn(1, 14, 256)
    encode = lambda images: codes.expand(len(images), -1, -1)  # noqa: E731
    first = kept_pairs(tmp_path, 4, 2, encode=encode)
    (file,) = tmp_path.iterdir()
    again = kept_pairs(tmp_path, 4, 2, encode=lambda images: 1 / 0)  # type: ignore[return-value]
    for name, one, other in zip(first._fields, first, again, strict=True):
        torch.testing.assert_close(one, other, atol=2e-2, rtol=1e-3, msg=name)
    assert file.stat().st_size < 2 * 300_000
    torch.testing.assert_close(first.codes[0], codes[0])
    assert not first.codes[1].any(), "half of the sources are an encoder's"
    assert first.truth.shape == (2, 3, 128, 128) and first.truth.dtype == torch.uint8
    assert first.regions.shape == (2, 128, 128) and len(first.regions.unique()) > 5


def test_the_nets_look_inside_the_face_alone() -> None:
    pairs = draw_pairs(0, 2)
    truth = Portraits(pairs.target, torch.zeros(2, 98), pairs.truth / 127.5 - 1, pairs.landmarks, pairs.regions)
    inside = inner_face(truth.regions)
    assert inside.shape == (2, 1, 128, 128) and 0.03 < inside.mean() < 0.4
    hair = F.max_pool2d((truth.regions == REGIONS.index("hair"))[:, None].float(), 3, 1, 1) > 0
    assert not inside[hair].any()
    half = smaller(truth, 64)
    assert half.images.shape == (2, 3, 64, 64) and half.regions.shape == (2, 64, 64)
    torch.testing.assert_close(smaller(truth, 128), truth)


def test_the_recipe_writes_both_networks_and_starts_from_them(
    tmp_path: Path, blind: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    video, joint = (replace(each, steps=2, batch=2, pool=1) for each in (training.QUICK.video, training.QUICK.joint))
    quick = training.Preset(video, replace(joint, reading=1.0, identity=1.0))
    monkeypatch.setattr(training, "QUICK", quick)
    files = train("styleheat", folder=str(tmp_path / "one"), precision="32")
    assert [file.stem for file in files] == ["styleheat-video", "styleheat-calibration"]
    assert load_warper(files[0]).config == training.WARPER and load_calibration(files[1]).config.heads == 1
    assert "--preset" not in read_card(files[0])["command"]
    log = (tmp_path / "one" / "styleheat-joint" / "log.jsonl").read_text()
    assert {"exact", "reading", "identity"} <= json.loads(log.splitlines()[-1]).keys()
    again = train("styleheat", folder=str(tmp_path / "two"), start=str(tmp_path / "one"), precision="32")
    change = load_warper(again[0]).flow.weight - load_warper(files[0]).flow.weight
    assert 0 < change.abs().max() < 0.1, "it went on from there"
    with pytest.raises(ValueError, match="no dat"):
        train("styleheat", folder=str(tmp_path / "three"), options={"dat": "shards"})


def prepared(folder: Path, motion: np.ndarray, side: int = 256) -> Path:
    """A shard as `stylereel prepare --for styleheat` writes it, of one clip whose frames grow brighter."""
    portrait = world.draw(world.align(world.neutral()[None])[0], side)
    folder.mkdir()
    with tarfile.open(folder / "shard-000000.tar", "w") as shard:

        def add(name: str, data: bytes) -> None:
            entry = tarfile.TarInfo(name)
            entry.size = len(data)
            shard.addfile(entry, io.BytesIO(data))

        for number in range(len(motion)):
            data = io.BytesIO()
            Image.fromarray(portrait.image // 2 + np.uint8(4 * number)).save(data, "PNG")
            add(f"clip.{number:04}.png", data.getvalue())
        points = np.repeat(side * portrait.landmarks[None], len(motion), axis=0).astype(np.float32)
        for name, rows in (("coefficients", motion), ("landmarks", points)):
            data = io.BytesIO()
            np.save(data, rows)
            add(f"clip.{name}.npy", data.getvalue())
    return folder


def test_pairs_of_prepared_clips_are_a_frame_and_the_middle_of_its_window(tmp_path: Path) -> None:
    motion = np.tile(world.neutral()[MOTION_COLUMNS], (27, 1)).astype(np.float32)
    motion[:, 0] = np.linspace(-20, 20, 27)
    folder = prepared(tmp_path / "shards", motion, side=320)
    seen: list[Tensor] = []

    def encode(images: Tensor) -> Tensor:
        seen.append(images)
        return torch.ones(len(images), 14, 256)

    source = open_source(folder, size=256, frames=27, arrays=["coefficients", "landmarks"])
    pairs = clip_pairs(source, 3, 4, (0, 1), encode)
    own = coordinates(motion)
    for number in range(4):
        # The picture that was encoded tells by its brightness which frame it is.
        shown = (seen[0][number].mean() - seen[0].mean()) * 127.5 / 4
        window = pairs.window[number, len(own[0]) :, 0]
        frame = int(np.abs(own - window.numpy()).sum(1).argmin())
        torch.testing.assert_close(window, torch.from_numpy(own[frame]))
        others = [int(np.abs(own - w.numpy()).sum(1).argmin()) for w in pairs.window[:, len(own[0]) :, 0]]
        assert shown.item() == pytest.approx(frame - np.mean(others), abs=0.1)
        torch.testing.assert_close(pairs.window[number, : len(own[0])], torch.from_numpy(own.T.copy()))
    lighter = pairs.truth.float().mean() - (seen[0].mean() + 1) * 127.5
    assert lighter.item() == pytest.approx(4 * (13 - np.mean(others)), abs=1)
    assert not pairs.seen.any() and pairs.truth.shape == (4, 3, 128, 128)
    assert 0.01 < (pairs.regions > 0).float().mean() < 0.2, "eyes and mouth"
    expected = world.draw(world.align(world.neutral()[None])[0], 320).landmarks
    np.testing.assert_allclose(pairs.landmarks[0].numpy(), expected, atol=1e-4)
    with pytest.raises(ValueError, match="prepare them anew"):
        clips = open_source(prepared(tmp_path / "old", motion[:, :5]), size=256, frames=27, arrays=["coefficients"])
        clip_pairs(clips, 0, 1, (0, 1), encode)


def test_the_recipe_learns_from_prepared_clips(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    motion = np.tile(world.neutral()[MOTION_COLUMNS], (27, 1)).astype(np.float32)
    folder = prepared(tmp_path / "shards", motion)
    few = training.Preset(*(replace(stage, steps=2, batch=1) for stage in (training.CLIPS.video, training.CLIPS.joint)))
    monkeypatch.setattr(training, "CLIPS", few)
    monkeypatch.setattr(training, "show", lambda *_: np.zeros((8, 8, 3), np.uint8))
    files = train("styleheat", folder=str(tmp_path / "run"), precision="32", options={"data": str(folder)})
    assert "clips of shards" in read_card(files[0])["data"] and load_calibration(files[1]).config.heads == 1
    log = [json.loads(line) for line in (tmp_path / "run" / "styleheat-joint" / "log.jsonl").read_text().splitlines()]
    assert {"exact", "perceptual"} <= log[-1].keys() and "end_point_error" not in log[-1]
