"""StyleFaceV's networks against numbers of the originals, and the authors' files as small stand-ins."""

import json
import pickle
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file
from test_encoders import Golden, empty, filled
from test_weights_formats import EasyDict, nvidia_pickle, sentinel  # noqa: F401 (a fixture)
from test_weights_formats import Golden as Arrays
from torch import Tensor, nn

from stylereel.systems.stylefacev import (
    AppearanceNet,
    FrameDiscriminator,
    LandmarkNet,
    MotionDiscriminator,
    MotionLSTM,
    PoseEncoder,
    load_appearance,
    load_folder,
    load_frame_discriminator,
    load_landmarks,
    load_motion,
    load_motion_discriminator,
    load_pose,
)
from stylereel.systems.stylefacev.files import find_files
from stylereel.systems.stylefacev.networks import STEP, against_first, key_points, peaks

GOLDENS = Path(__file__).parent / "goldens"


# Against the goldens


def test_landmark_maps_equal_the_original() -> None:
    golden = Golden("stylefacev_landmark_heatmaps")
    net = filled(empty(LandmarkNet), golden.state())
    golden.check("heatmap", net(golden.input("x"))[:, ::4, ::2, ::2])


def test_pose_and_points_equal_the_original() -> None:
    golden = Golden("stylefacev_pose_encoder")
    net = filled(empty(PoseEncoder), golden.state())
    pose = net(golden.input("heatmap"))
    golden.check("pose_map", pose)
    golden.check("points", net.points(pose).flatten(1))


@pytest.mark.slow
def test_appearance_and_fusion_equal_the_original() -> None:
    golden = Golden("stylefacev_appearance_fuse")
    net = filled(empty(AppearanceNet), golden.state())
    appearance = net(golden.input("x"))
    golden.check("appearance", appearance)
    golden.check("w", net.fuse(appearance, golden.input("pose_map")))


def test_motion_equals_the_original() -> None:
    manifest = json.loads((GOLDENS / "stylefacev_motion_lstm.json").read_text())
    arrays = load_file(GOLDENS / "stylefacev_motion_lstm.safetensors")
    net = MotionLSTM()
    net.load_state_dict({key.removeprefix("state/"): value for key, value in arrays.items() if key.startswith("state")})
    noise = arrays["in/noise"].transpose(0, 1)
    poses, predicted = net(arrays["in/z"], noise)
    for name, found in (("poses", poses), ("e", noise), ("e_rec", predicted)):
        atol = manifest["outputs"][name]["advised_atol_fp32"]
        torch.testing.assert_close(found.flatten(0, 1), arrays[f"out/{name}"], atol=atol, rtol=1e-5)


@pytest.mark.parametrize(
    ("name", "net"),
    [
        ("landmark_net", LandmarkNet),
        ("pose_net", PoseEncoder),
        ("appearance_fuse_net", AppearanceNet),
        ("motion_lstm", MotionLSTM),
    ],
)
def test_names_and_shapes_are_the_published_ones(name: str, net: Any) -> None:
    keys = json.loads((GOLDENS / "keys" / f"stylefacev_{name}.json").read_text())["keys"]
    assert {key: list(value.shape) for key, value in empty(net).state_dict().items()} == keys


def test_sizes_of_the_discriminators() -> None:
    """The numbers of parameters that were counted in the authors' networks."""

    def count(net: nn.Module) -> int:
        return sum(p.numel() for p in net.parameters())

    assert count(empty(FrameDiscriminator)) == 2_765_633
    assert count(empty(lambda: MotionDiscriminator(6, 2))) == 5_535_618
    assert count(empty(lambda: MotionDiscriminator(6, 3))) == 22_136_706


# What they do


def test_peaks_and_key_points() -> None:
    """A peak is its pixel's centre, a quarter of a pixel nearer to the higher neighbour, but not at the border."""
    maps = torch.zeros(1, 98, 64, 64)
    maps[..., 20, 30] = 1.0
    maps[..., 20, 31] = 0.5
    maps[..., 19, 30] = 0.2
    maps[0, 54, 0, 63] = 2.0
    found = peaks(maps)
    torch.testing.assert_close(found[0, 0], torch.tensor([30.75, 20.25]) / 64)
    torch.testing.assert_close(found[0, 54], torch.tensor([63.5, 0.5]) / 64)
    points = key_points(torch.arange(98.0)[None, :, None].expand(-1, -1, 2))
    assert points[0, :, 0].tolist() == [37, 46, 62, 96, 66, 70, 97, 74, 54, 79, 85, 88, 92, 92]


def small_appearance(rows: int = 3, w_dim: int = 8) -> AppearanceNet:
    torch.manual_seed(0)
    net = AppearanceNet(rows, w_dim, 4).eval()
    for module in net.modules():
        if isinstance(module, nn.BatchNorm2d):
            nn.init.normal_(module.running_mean, 0, 0.2)  # type: ignore[arg-type]
            nn.init.uniform_(module.running_var, 0.5, 2)  # type: ignore[arg-type]
            nn.init.normal_(module.weight, 1, 0.2)
    return net


@pytest.mark.parametrize("statistics", ["running", "image"])
@torch.no_grad()
def test_the_batch_does_not_matter(statistics: Any) -> None:
    net = small_appearance().normalise_by(statistics).double()
    images, pose = torch.randn(3, 3, 128, 128).double(), torch.rand(3, 1, 4, 4).double()
    together = net.fuse(net(images), pose)
    one_by_one = [net.fuse(net(a[None]), b[None]) for a, b in zip(images, pose)]
    torch.testing.assert_close(together, torch.cat(one_by_one), atol=1e-9, rtol=1e-9)


@torch.no_grad()
def test_own_statistics_are_training_mode_at_one_picture() -> None:
    net = small_appearance().double()
    image, pose = torch.randn(1, 3, 128, 128).double(), torch.rand(1, 1, 4, 4).double()
    running = net.fuse(net(image), pose)
    own = net.normalise_by("image").fuse(net(image), pose)
    net.normalise_by("running").train()
    torch.testing.assert_close(own, net.fuse(net(image), pose), atol=1e-9, rtol=1e-9)
    assert (own - running).abs().max() > 0.01


@torch.no_grad()
def test_one_appearance_with_many_poses() -> None:
    net = small_appearance()
    appearance, pose = net(torch.randn(1, 3, 128, 128)), torch.rand(5, 1, 4, 4)
    torch.testing.assert_close(net.fuse(appearance, pose), net.fuse(appearance.expand(5, -1, -1, -1), pose))


@torch.no_grad()
def test_motion_goes_on_where_it_stopped() -> None:
    torch.manual_seed(1)
    net, first, noise = MotionLSTM(), torch.randn(2, 64), torch.randn(2, 9, 64)
    whole, _ = net(first, noise)
    early, _, state = net.go_on(net.start(first), noise[:, :4])
    late, _, _ = net.go_on(state, noise[:, 4:])
    torch.testing.assert_close(torch.cat([first[:, None], early, late], 1), whole)
    assert whole.diff(dim=1).abs().max() <= STEP


def test_discriminators_at_two_scales() -> None:
    poses = torch.rand(2, 29, 1, 8, 8)
    seen = against_first(poses)
    assert seen.shape == (2, 2, 28, 8, 8)
    assert torch.equal(seen[:, 0, 5], poses[:, 0, 0]) and torch.equal(seen[:, 1, 5], poses[:, 6, 0])
    fine, coarse = MotionDiscriminator(2, 3, 4)(seen)
    assert [level.shape[1] for level in fine] == [4, 8, 16, 32, 1] and fine[0].shape[2:] == (15, 5, 5)
    assert coarse[0].shape[2:] == (8, 3, 3)
    assert MotionDiscriminator(2, 3, 4, halve_time=False)(seen)[1][0].shape[2:] == (15, 3, 3)
    assert MotionDiscriminator(6, 2, 4)(torch.rand(2, 6, 64, 64))[1][0].shape == (2, 4, 17, 17)
    assert FrameDiscriminator(3, 4)(torch.rand(2, 3, 256, 256)).shape == (2, 1, 30, 30)


# The authors' files


def save(path: Path, net: nn.Module, wrapped: bool = False) -> nn.Module:
    torch.save({("module." if wrapped else "") + key: value for key, value in net.state_dict().items()}, path)
    return net


def same(found: nn.Module, net: nn.Module) -> bool:
    expected = net.state_dict()
    return found.state_dict().keys() == expected.keys() and all(
        torch.equal(value, expected[key]) for key, value in found.state_dict().items()
    )


def save_archive(place: Path, sentinel: Path) -> None:  # noqa: F811
    """All files of the authors' archive under their names, in a new folder, as small networks."""
    golden = Arrays("sg3r_gen_r32")
    own = ("num_ws", "truncation_psi", "truncation_cutoff", "layers", "notes", "note")
    kwargs = EasyDict({key: value for key, value in golden.config.items() if key not in own})
    attributes = {"": {"_init_kwargs": kwargs}, "mapping.fc0": {"bias_gain": 0.01}}
    place.mkdir()
    nvidia_pickle(place / "network-snapshot-005000.pkl", sentinel, {"G_ema": golden.state()}, attributes)
    torch.save({"state_dict": LandmarkNet(6, 16).state_dict()}, place / "wing.ckpt")
    save(place / "pre_net.pth", small_appearance(16, golden.config["w_dim"]))
    save(place / "latest_net_FE.pth", small_appearance(16, golden.config["w_dim"]), wrapped=True)
    save(place / "pre_pose_net.pth", PoseEncoder(6, 3))
    save(place / "motion_net.pth", MotionLSTM())


@pytest.fixture
def folder(tmp_path: Path, sentinel: Path) -> Path:  # noqa: F811
    save_archive(tmp_path / "weights", sentinel)
    return tmp_path / "weights"


@torch.no_grad()
def test_a_folder_of_the_authors_files(folder: Path) -> None:
    found = load_folder(folder)
    images = torch.rand(2, 3, 200, 200) * 2 - 1
    pose = found.pose(found.landmarks(images))
    assert pose.shape == (2, 1, 8, 8) and (pose >= 0).all()
    assert found.pose.points(pose).shape == (2, 3, 2)
    w = found.appearance.fuse(found.appearance(torch.rand(2, 3, 256, 256)), pose)
    assert found.generator.synthesize(w).shape == (2, 3, 32, 32)
    other = load_folder(folder, "image").appearance
    assert not torch.allclose(other(images), found.appearance(images), atol=0.1)
    assert not any(module.training for module in (found.landmarks, found.pose, found.appearance, found.motion))


def test_which_file_is_taken(folder: Path) -> None:
    """The latest epoch of the last stage; the landmark net that did not drift."""
    (folder / "latest_net_FE.pth").unlink()
    assert find_files(folder)["appearance"].name == "pre_net.pth"
    for name in (
        "9_net_FE.pth",
        "20_net_FE.pth",
        "20_net_FE_lm.pth",
        "5_net_FE_pose.pth",
        "network-snapshot-000900.pkl",
    ):
        (folder / name).touch()
    assert {key: path.name for key, path in find_files(folder).items()} == {
        "generator": "network-snapshot-005000.pkl",
        "landmarks": "wing.ckpt",
        "pose": "5_net_FE_pose.pth",
        "appearance": "20_net_FE.pth",
        "motion": "motion_net.pth",
    }
    (folder / "wing.ckpt").unlink()
    (folder / "motion_net.pth").unlink()
    with pytest.raises(ValueError, match="lacks StyleFaceV's files of: motion; .*motion_net.pth"):
        find_files(folder)


@pytest.mark.parametrize("wrapped", [False, True])
def test_single_files(tmp_path: Path, wrapped: bool) -> None:
    cases: list[tuple[Any, nn.Module]] = [
        (load_landmarks, LandmarkNet(4, 8)),
        (load_pose, PoseEncoder(5, 2)),
        (lambda path: load_appearance(path, 8), small_appearance()),
        (load_motion, MotionLSTM(16, 8)),
        (load_frame_discriminator, FrameDiscriminator(3, 4)),
        (load_motion_discriminator, MotionDiscriminator(2, 2, 4)),
        (load_motion_discriminator, MotionDiscriminator(6, 3, 4)),
    ]
    for load, net in cases:
        assert same(load(_saved(tmp_path / "net.pth", net, wrapped)), net)


def _saved(path: Path, net: nn.Module, wrapped: bool) -> Path:
    save(path, net, wrapped)
    return path


class Evil:
    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> Any:
        return exec, (f"open({str(self.path)!r}, 'w')",)


def test_bad_files_give_a_sentence(tmp_path: Path, sentinel: Path) -> None:  # noqa: F811
    path = tmp_path / "net.pth"
    save(path, MotionLSTM(16, 8))
    for load in (load_landmarks, load_pose, load_appearance, load_frame_discriminator, load_motion_discriminator):
        with pytest.raises(ValueError, match="holds no"):
            load(path)
    state = {key: value for key, value in small_appearance().state_dict().items() if key != "layer5_b.0.bn1.weight"}
    torch.save(state, path)
    with pytest.raises(ValueError, match="layer5_b.0.bn1.weight is missing"):
        load_appearance(path, 8)
    lacking: dict[str, Tensor] = {"fc.weight": torch.zeros(4, 32)}
    torch.save(lacking, path)
    with pytest.raises(ValueError, match="lacks layer1.0.conv1.weight"):
        load_pose(path)
    path.write_bytes(pickle.dumps({"enc_cell.weight_ih": Evil(sentinel)}))
    with pytest.raises(ValueError, match="holds no motion LSTM"):
        load_motion(path)


def test_files_that_do_not_belong_together(folder: Path) -> None:
    save(folder / "pre_pose_net.pth", PoseEncoder(8, 3))
    with pytest.raises(ValueError, match="looks at 8 landmark maps, .* makes 6"):
        load_folder(folder)
    save(folder / "latest_net_FE.pth", small_appearance(14, 32))
    with pytest.raises(ValueError, match="makes 14 rows of W\\+, .* takes 16"):
        load_folder(folder)
