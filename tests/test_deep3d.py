"""Deep3D's coefficients: the published file in small, and the five-point alignment."""

from pathlib import Path

import numpy as np
import pytest
import torch

from stylereel.faces import deep3d
from stylereel.faces.deep3d import Crop, Deep3D, aligned, coefficients, crop_of, five_points, load_deep3d


def small() -> Deep3D:
    torch.manual_seed(0)
    return Deep3D((1, 1, 1, 1), 4).eval()


def landmarks_at(scale: float, x: float, y: float, height: int = 256) -> np.ndarray:
    """68 landmarks of which the five are the standard points, seen from the front: `scale` pixels a unit, origin at
    (x, y) from the lower left."""
    points = np.full((68, 2), 7.0)
    five = deep3d.STANDARD[:, :2] * scale + (x, y)
    five[:, 1] = height - 1 - five[:, 1]
    for index, point in zip(((36, 39), (42, 45), (30,), (48,), (54,)), five, strict=True):
        for side, place in enumerate(index):
            points[place] = point + (3 if len(index) > 1 else 0) * (1 if side else -1)
    return points


def test_the_published_file_is_read_by_its_names(tmp_path: Path) -> None:
    net = small()
    path = tmp_path / "epoch_20.pth"
    optimizer = {"state": {}, "param_groups": []}
    torch.save({"net_recon": net.state_dict(), "opt_00": optimizer, "sched_00": {"last_epoch": 20}}, path)
    found = load_deep3d(path)
    faces = torch.rand(1, 3, 224, 224, generator=torch.Generator().manual_seed(1))
    for name, value in found(faces).items():
        torch.testing.assert_close(value, net(faces)[name])
    broken = net.state_dict()
    del broken["backbone.layer3.0.bn2.bias"]
    torch.save({"net_recon": broken}, path)
    with pytest.raises(ValueError, match=r"layer3\.0\.bn2\.bias is missing"):
        load_deep3d(path)
    torch.save({"net_recon": {}}, path)
    with pytest.raises(ValueError, match="holds no Deep3D network"):
        load_deep3d(path)


def test_the_published_sizes() -> None:
    with torch.device("meta"):
        net = Deep3D()
    assert sum(deep3d.PARTS.values()) == 257
    shapes = {key: list(value.shape) for key, value in net.state_dict().items()}
    assert shapes["backbone.conv1.weight"] == [64, 3, 7, 7] and shapes["backbone.layer4.2.conv3.weight"] == [
        2048,
        512,
        1,
        1,
    ]
    heads = [shapes[f"final_layers.{i}.weight"] for i in range(7)]
    assert heads == [[count, 2048, 1, 1] for count in (80, 64, 80, 3, 27, 2, 1)]


def test_the_crop_is_found_exactly_where_the_face_is_the_standard_one() -> None:
    points = landmarks_at(51.0, 120.0, 140.0)
    np.testing.assert_allclose(five_points(points)[2], (120 + 51 * 0.0032535, 255 - 140 + 51 * 0.24617933), atol=1e-6)
    crop = crop_of(points, 256)
    # The five points lie in no plane, but a flat view fits them with no residual: depth gets a weight of 0.
    assert crop == pytest.approx((102 / 51, 120, 140), abs=1e-6)
    with pytest.raises(ValueError, match="one place"):
        crop_of(np.full((68, 2), 5.0), 256)


def test_the_crop_puts_the_origin_in_its_middle_and_a_unit_on_102_pixels() -> None:
    picture = np.zeros((256, 256, 3), np.uint8)
    crop = crop_of(landmarks_at(51.0, 100.0, 150.0), 256)
    picture[256 - 150 - 2 : 256 - 150 + 2, 98:102, 0] = 255  # around the origin
    picture[256 - 150 - 2 : 256 - 150 + 2, 98 + 51 : 102 + 51, 1] = 255  # a unit to its right
    shown = aligned(picture, crop)
    assert shown.shape == (224, 224, 3)
    for channel, x in ((0, 112), (1, 214)):
        rows, columns = np.nonzero(shown[..., channel] > 128)
        assert abs(rows.mean() - 112) < 1.5 and abs(columns.mean() - x) < 1.5
    beyond = aligned(np.full((256, 256, 3), 255, np.uint8), Crop(1.0, 0.0, 128.0))
    assert not beyond[:, :111].any() and beyond[:, 113:].all(), "what is beyond the picture is black"
    with pytest.raises(ValueError, match="FFHQ's framing"):
        aligned(picture, Crop(1000.0, 100.0, 100.0))


def test_what_drives_styleheat_is_73_numbers_with_the_crop_last() -> None:
    net, random = small(), np.random.default_rng(0)
    pictures = [random.integers(0, 255, (256, 256, 3)).astype(np.uint8) for _ in range(2)]
    points = np.stack([landmarks_at(51.0, 120.0, 140.0), landmarks_at(60.0, 128.0, 120.0)])
    found = coefficients(net, pictures, points)
    assert found.shape == (2, deep3d.COUNT)
    np.testing.assert_allclose(found[:, -3:], [(2, 120, 140), (1.7, 128, 120)], atol=1e-4)
    face = torch.from_numpy(aligned(pictures[0], crop_of(points[0], 256)).copy()).permute(2, 0, 1)[None] / 255
    told = net(face)
    np.testing.assert_allclose(found[0, :64], told["expression"][0].detach(), atol=1e-5)
    np.testing.assert_allclose(found[0, 64:67], told["angles"][0].detach(), atol=1e-5)
