"""The face net: what its names say, how it grows, and pictures spoiled and moved with true labels."""

from pathlib import Path

import numpy as np
import pytest
import torch

from stylereel import world
from stylereel.faces.perception import PARSED, FaceConfig, FaceNet, grown, load_face, parsed
from stylereel.train import data, perception
from stylereel.weights.files import save_module
from stylereel.world.factors import INDEX, NAMES
from stylereel.world.shading import REGIONS


@pytest.fixture(scope="module")
def batch() -> data.Batch:
    return data.draw_batch((6,), 6, 128, aligned=False)


def test_a_grown_net_reads_what_the_old_one_read(tmp_path: Path) -> None:
    torch.manual_seed(0)
    kept = [name for name in NAMES if name not in ("beard", "light_side")]
    old = FaceNet(FaceConfig(" ".join(kept), "")).eval()
    net, new = grown(old)
    assert new == ["beard", "light_side", *PARSED]
    images = torch.rand(2, 3, 128, 128)
    with torch.inference_mode():
        before, after = old(images, parse=True), net.eval()(images, parse=True)
    assert before.regions is None and after.regions is not None and after.regions.shape == (2, len(PARSED), 64, 64)
    torch.testing.assert_close(after.landmarks, before.landmarks)
    torch.testing.assert_close(after.values[:, [NAMES.index(name) for name in kept]], before.values)
    save_module(tmp_path / "face.safetensors", "face", net)
    again = load_face(tmp_path / "face.safetensors")
    assert again.config == net.config and grown(again)[1] == []


def test_labels_move_with_the_picture(batch: data.Batch) -> None:
    moved = perception.move(batch, (3,))
    assert (moved.landmarks - batch.landmarks).abs().mean() > 0.01
    # The pose that the moved picture is said to have is the one with which the world puts the landmarks there, but for
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


def test_spoiled_pictures_stay_pictures_and_differ(batch: data.Batch) -> None:
    repainted = perception.repaint(batch.images, batch.regions, (1,))
    hidden, patch = perception.hide(batch.images, batch.regions, (1,))
    spoiled = perception.disturb(batch.images, (1,), most=1.0)
    for images in (repainted, hidden, spoiled):
        assert images.shape == batch.images.shape and images.abs().max() <= 1
        assert (images - batch.images).abs().mean() > 0.02
    face = ~torch.isin(batch.regions, torch.tensor([REGIONS.index("background")], dtype=torch.uint8))[:, None] & ~patch
    assert torch.equal(hidden[face.expand_as(hidden)], batch.images[face.expand_as(hidden)])
    assert torch.equal(perception.disturb(batch.images, (1,), most=1.0), spoiled)
    assert (perception.disturb(batch.images, (1,)) - batch.images).abs().mean() < (spoiled - batch.images).abs().mean()


def test_every_region_is_parsed_as_itself_or_as_its_neighbour(batch: data.Batch) -> None:
    assert parsed(batch.regions).shape == (6, 64, 64)
    for index, name in enumerate(REGIONS):
        (told,) = parsed(torch.full((1, 64, 64), index, dtype=torch.uint8)).unique().tolist()
        assert PARSED[told] == (name if name in PARSED else "ear")


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
        loss = torch.nn.functional.cross_entropy(net.parser(maps), parsed(batch.regions))
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    assert losses[-1] < 0.5 * losses[0]
