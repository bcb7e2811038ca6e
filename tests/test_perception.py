"""The face net: names, extension, the mouth network, and augmentations that keep the labels true."""

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest
import torch

from stylereel import world
from stylereel.core.builtin import builtin
from stylereel.core.weights import save_module
from stylereel.family import people as data
from stylereel.family.nets import (
    LIPS_PART,
    LIPS_SIZE,
    MOUTH,
    PARSED,
    FaceConfig,
    FaceNet,
    Lips,
    around_mouth,
    extend,
    load_face,
    offsets,
    region_classes,
    unit_values,
)
from stylereel.recipes import perception
from stylereel.train.loop import Trainer
from stylereel.world.factors import INDEX, NAMES
from stylereel.world.shading import REGIONS


@dataclass(frozen=True)
class FileConfig:
    """A face net's config as older files have it."""

    values: str
    regions: str


@pytest.fixture(scope="module")
def batch() -> data.Batch:
    return data.draw_batch((6,), 6, 128, aligned=False)


def test_an_extended_net_keeps_the_outputs_of_the_old_one(tmp_path: Path) -> None:
    torch.manual_seed(0)
    kept = [name for name in NAMES if name not in ("beard", "light_side")]
    old = FaceNet(FaceConfig(" ".join(kept), "", lips=False)).eval()
    net, new = extend(old)
    assert new == ["beard", "light_side", *PARSED, "lips"]
    images = torch.rand(2, 3, 128, 128)
    with torch.inference_mode():
        before, after = old(images, parse=True), net.eval()(images, parse=True, close=False)
    assert before.regions is None and after.regions is not None and after.regions.shape == (2, len(PARSED), 64, 64)
    torch.testing.assert_close(after.landmarks, before.landmarks)
    columns = [NAMES.index(name) for name in kept]
    torch.testing.assert_close(after.values[:, columns], before.values[:, columns])
    unknown = [NAMES.index(name) for name in ("beard", "light_side")]
    expected = unit_values(torch.from_numpy(world.neutral()[None]))[:, unknown].expand(2, -1)
    torch.testing.assert_close(before.values[:, unknown], expected)
    save_module(tmp_path / "face.safetensors", "face", net)
    loaded = load_face(tmp_path / "face.safetensors")
    assert loaded.config == net.config and extend(loaded)[1] == []
    # A file from before the mouth network has no entry for it.
    old.config = FileConfig(old.config.values, old.config.regions)  # type: ignore[assignment]
    save_module(tmp_path / "old.safetensors", "face", old)
    with torch.inference_mode():
        torch.testing.assert_close(
            load_face(tmp_path / "old.safetensors").eval()(images).landmarks, before.landmarks, atol=1e-3, rtol=0
        )


def test_the_mouth_network_moves_the_mouth_alone_and_has_gradients() -> None:
    torch.manual_seed(0)
    net = FaceNet().eval()
    images = torch.rand(2, 3, 200, 200, requires_grad=True)
    near, far = net(images).landmarks, net(images, close=False).landmarks
    assert torch.equal(near[:, : MOUTH.start], far[:, : MOUTH.start])
    assert (near[:, MOUTH] - far[:, MOUTH].mean(1, keepdim=True)).abs().max() < LIPS_PART / 2
    (gradient,) = torch.autograd.grad(near[:, MOUTH].square().sum(), images)
    assert gradient.abs().sum() > 0


@pytest.mark.parametrize("size", [100, 256, 700])
def test_the_crop_of_a_mouth_shows_what_is_there(size: int) -> None:
    place = offsets(size, torch.device("cpu")) + 0.5
    images = torch.stack([*torch.meshgrid(place, place, indexing="xy"), torch.zeros(size, size)])[None]
    crop = around_mouth(images, torch.tensor([[0.5, 0.6]]))[0]
    expected = LIPS_PART * offsets(LIPS_SIZE, torch.device("cpu"))
    torch.testing.assert_close(crop[0], 0.5 + expected.expand(LIPS_SIZE, -1), atol=1e-3, rtol=0)
    torch.testing.assert_close(crop[1], 0.6 + expected[:, None].expand(-1, LIPS_SIZE), atol=1e-3, rtol=0)


@pytest.fixture(scope="module")
def mouths() -> data.Batch:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(perception, "LIPS_BATCH", 16)
        return perception.close_ups(0)


def test_close_ups_have_the_mouth_in_the_middle_and_keep_their_labels(mouths: data.Batch) -> None:
    middle = mouths.landmarks[:, MOUTH].mean(1)
    torch.testing.assert_close(middle, torch.full_like(middle, 0.5))
    first, second = mouths.images.chunk(2)
    assert torch.equal(first, second)
    # In images of coordinates, each point of a crop shows the place that the point has in the close-up.
    place = offsets(128, middle.device) + 0.5
    where = torch.stack([*torch.meshgrid(place, place, indexing="xy"), torch.zeros(128, 128)]).expand(16, -1, -1, -1)
    crops, regions, points = perception.close_in(mouths._replace(images=where), (1,))
    shown = torch.nn.functional.grid_sample(crops, 2 * points[:, None], align_corners=False)[:, :2, 0].mT
    assert (shown - mouths.landmarks[:, MOUTH]).abs().mean() < 0.002
    assert regions.shape == crops.shape[:1] + crops.shape[2:]
    first, second = points.chunk(2)
    assert (first - second).abs().mean() > 0.01, "each close-up is bent anew"


def test_mouths_are_painted_anew_and_the_rest_keeps_its_place(mouths: data.Batch) -> None:
    images, regions, points = perception.close_in(mouths, (1,))
    painted = perception.paint_lips(images, regions, points, (2,))
    filled = perception.fill_mouths(images, regions, (3,))
    assert painted.isfinite().all() and painted.abs().max() <= 1 and filled.abs().max() <= 1
    assert torch.equal(filled, perception.fill_mouths(images, regions, (3,)))
    mouth = (regions == REGIONS.index("mouth"))[:, None].float()
    near = torch.nn.functional.max_pool2d(mouth, 3, 1, 1).bool().expand_as(filled)
    torch.testing.assert_close(filled[~near], images[~near])
    inside = mouth.bool().expand_as(filled)
    assert (filled - images)[inside].abs().mean() > 0.1
    lips = (regions == REGIONS.index("lips"))[:, None].expand_as(filled)
    assert (painted - images)[lips].abs().mean() > 0.05


def test_training_the_mouth_network_leaves_all_else(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(perception, "LIPS_BATCH", 4)
    monkeypatch.setattr(perception, "LIPS_STEPS", 2)
    net = FaceNet()
    before = {key: value.clone() for key, value in net.state_dict().items()}
    perception.train_lips(Trainer(tmp_path, device="cpu"), net)
    changed = {key.split(".")[0] for key, value in net.state_dict().items() if not torch.equal(value, before[key])}
    assert changed == {"lips"}


def test_the_points_of_a_mouth_can_be_learned(mouths: data.Batch) -> None:
    torch.manual_seed(0)
    images, _, points = perception.close_in(mouths, (1,))
    net = Lips()
    optimizer = torch.optim.Adam(net.parameters(), 5e-3)
    losses = []
    for _ in range(25):
        loss = (net(images) - points).abs().mean()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    assert losses[-1] < 0.4 * losses[0]


def test_the_built_in_net_reads_mouths_closely(batch: data.Batch) -> None:
    """Of augmented held-out people: the distance between their lips."""
    net = load_face(builtin("face")).eval()
    random = data.draw_batch((606,), 32, 256, aligned=False)
    augmented = perception.disturb(random.images, (6,), most=0.5)
    with torch.inference_mode():
        near, far = (net(augmented, close=close).landmarks for close in (True, False))

    def gaps(points: torch.Tensor) -> torch.Tensor:
        return (points[:, [61, 62, 63]] - points[:, [67, 66, 65]]).norm(dim=2).mean(1)

    truth = random.landmarks
    correlations = [float(np.corrcoef(gaps(points), gaps(truth))[0, 1]) for points in (near, far)]
    assert correlations[0] > 0.95 and correlations[0] > correlations[1]
    assert (near - truth)[:, MOUTH].abs().mean() < (far - truth)[:, MOUTH].abs().mean()


def test_labels_move_with_the_picture(batch: data.Batch) -> None:
    moved = perception.move(batch, (3,))
    assert (moved.landmarks - batch.landmarks).abs().mean() > 0.01
    # The moved image's pose label is the one with which the world puts the landmarks there, but for
    # the stretch of a few percent.
    drawn = torch.from_numpy(np.stack([world.project_landmarks(v)[0] for v in moved.values.numpy()]))
    scale = moved.values[:, INDEX["scale"], None, None]
    assert ((drawn - moved.landmarks).abs() / scale).mean() < 0.012
    # An eye is where the moved regions have one.
    eyes = moved.landmarks[:, 36:48].reshape(6, 2, 6, 2).mean(2)
    for regions, places, values in zip(moved.regions, eyes, moved.values.numpy()):
        for place, lid in zip(places, ("blink_right", "blink_left")):
            x, y = (int(number * 128) for number in place)
            around = {REGIONS[i] for i in regions[y - 3 : y + 4, x - 3 : x + 4].unique()}
            assert around & {"eye", "skin", "glasses"}
            assert around & {"eye", "glasses"} or values[INDEX[lid]] > 0.5 or abs(values[INDEX["yaw"]]) > 20


def test_augmented_images_stay_in_range_and_differ(batch: data.Batch) -> None:
    repainted = perception.repaint(batch.images, batch.regions, (1,))
    hidden, patch = perception.hide(batch.images, batch.regions, (1,))
    augmented = perception.disturb(batch.images, (1,), most=1.0)
    for images in (repainted, hidden, augmented):
        assert images.shape == batch.images.shape and images.abs().max() <= 1
        assert (images - batch.images).abs().mean() > 0.02
    face = ~torch.isin(batch.regions, torch.tensor([REGIONS.index("background")], dtype=torch.uint8))[:, None] & ~patch
    assert torch.equal(hidden[face.expand_as(hidden)], batch.images[face.expand_as(hidden)])
    assert torch.equal(perception.disturb(batch.images, (1,), most=1.0), augmented)
    assert (perception.disturb(batch.images, (1,)) - batch.images).abs().mean() < (
        augmented - batch.images
    ).abs().mean()


def test_every_region_is_labelled_as_itself_or_as_its_neighbour(batch: data.Batch) -> None:
    assert region_classes(batch.regions).shape == (6, 64, 64)
    for index, name in enumerate(REGIONS):
        (label,) = region_classes(torch.full((1, 64, 64), index, dtype=torch.uint8)).unique().tolist()
        assert PARSED[label] == (name if name in PARSED else "ear")


def test_regions_can_be_read_off_the_trunk(batch: data.Batch) -> None:
    """The parser alone, on the maps of an untrained trunk: its loss halves on the pictures that it learns."""
    torch.manual_seed(0)
    net = FaceNet().eval()
    assert net.parser
    optimizer = torch.optim.Adam(net.parser.parameters(), 5e-3)
    with torch.no_grad():
        maps = net.trunk.maps(batch.images)
    losses = []
    for _ in range(40):
        loss = torch.nn.functional.cross_entropy(net.parser(maps), region_classes(batch.regions))
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    assert losses[-1] < 0.5 * losses[0]
