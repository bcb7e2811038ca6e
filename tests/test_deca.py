"""DECA and FLAME from files of the official layout, read without chumpy, and training that sees with them."""

import json
import pickle
import sys
import types
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from scipy.sparse import csc_matrix

from stylereel.commands import train as recipes
from stylereel.faces.deca import INPUT, PARTS, Deca, face_crop, in_portrait, load_deca
from stylereel.faces.flame import EXPRESSION, FIRST_EXPRESSION, POSE, SHAPE, Flame, load_flame, rotations
from stylereel.generator import StyleGAN2, StyleGAN2Config
from stylereel.systems.stylemask import PAPER, DecaFaces, train
from stylereel.train.loop import Trainer

VERTICES, TRIANGLES = 40, 70


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """A small head with the keys and classes of FLAME's files, and a small DECA."""
    folder = tmp_path_factory.mktemp("flame")
    random = np.random.default_rng(0)
    weights = random.random((VERTICES, 5))
    model = {
        "v_template": 0.1 * random.standard_normal((VERTICES, 3)),
        "shapedirs": 0.01 * random.standard_normal((VERTICES, 3, 400)),
        "posedirs": 0.001 * random.standard_normal((VERTICES, 3, 36)),
        "weights": weights / weights.sum(1, keepdims=True),
        "f": random.integers(0, VERTICES, (TRIANGLES, 3)).astype(np.uint32),
        "kintree_table": np.array([[2**32 - 1, 0, 1, 1, 1], [0, 1, 2, 3, 4]], np.uint32),
        "J_regressor": csc_matrix(np.eye(5, VERTICES)),
        "bs_type": "lrotmin",
    }
    # As the official pickle has them: arrays inside objects of a library that is not installed.
    module = types.ModuleType("chumpy.ch")
    module.Ch = type("Ch", (), {"__module__": "chumpy.ch", "__init__": _forbidden})  # type: ignore[attr-defined]
    sys.modules |= {"chumpy": types.ModuleType("chumpy"), "chumpy.ch": module}
    try:
        wrapped: Any = object.__new__(module.Ch)
        wrapped.__dict__ |= {"x": model["shapedirs"], "_dirty_vars": set(), "_itr": None}
        (folder / "generic_model.pkl").write_bytes(pickle.dumps({**model, "shapedirs": wrapped}, protocol=2))
    finally:
        del sys.modules["chumpy"], sys.modules["chumpy.ch"]
    bary = random.random((1, 68, 3))
    places = {
        "full_lmk_faces_idx": random.integers(0, TRIANGLES, (1, 68)),
        "full_lmk_bary_coords": bary / bary.sum(2, keepdims=True),
        "dynamic_lmk_faces_idx": torch.zeros(79, 17, dtype=torch.long),
    }
    np.save(folder / "landmark_embedding.npy", places, allow_pickle=True)  # type: ignore[arg-type]
    torch.manual_seed(0)
    state = {"E_flame": Deca((1, 1, 1, 1), 4, 8).state_dict(), "E_detail": Deca((1, 1, 1, 1), 8, 8).state_dict()}
    torch.save(state, folder / "deca_model.tar")
    return {path.name: path for path in folder.iterdir()}


def _forbidden(*_: object) -> None:
    raise AssertionError("nothing of a file is run")


@pytest.fixture(scope="module")
def flame(files: dict[str, Path]) -> Flame:
    return load_flame(files["generic_model.pkl"], files["landmark_embedding.npy"])


def told(**parts: torch.Tensor) -> list[torch.Tensor]:
    sizes = {"shape": SHAPE, "expression": EXPRESSION, "pose": POSE}
    return [parts.get(name, torch.zeros(1, size)) for name, size in sizes.items()]


def test_a_head_at_rest_is_the_template_and_moves_along_its_basis(files: dict[str, Path], flame: Flame) -> None:
    from stylereel.zoo.unpickle import unpickle

    model = unpickle(files["generic_model.pkl"])
    rest = flame(*told())[0]
    np.testing.assert_allclose(rest.numpy(), model["v_template"], atol=1e-6)
    smile = flame(*told(expression=torch.eye(1, EXPRESSION)))[0] - rest
    np.testing.assert_allclose(smile.numpy(), model["shapedirs"].state["x"][..., FIRST_EXPRESSION], atol=1e-6)
    places = np.load(files["landmark_embedding.npy"], allow_pickle=True).item()
    corners = model["v_template"][model["f"][places["full_lmk_faces_idx"][0]]]
    expected = (corners * places["full_lmk_bary_coords"][0][..., None]).sum(1)
    np.testing.assert_allclose(flame.landmarks(rest[None])[0].numpy(), expected, atol=1e-6)
    assert "chumpy" not in sys.modules


def test_the_head_turns_about_its_first_joint_and_the_jaw_about_its_own(flame: Flame) -> None:
    rest = flame(*told())[0]
    turn = torch.tensor([[0.2, -0.5, 0.1]])
    turned = flame(*told(pose=torch.cat([turn, torch.zeros(1, 3)], 1)))[0]
    root = (flame.regressor @ rest)[0]
    torch.testing.assert_close(turned - root, (rest - root) @ rotations(turn)[0].T, atol=1e-6, rtol=1e-5)
    jaw = flame(*told(pose=torch.cat([torch.zeros(1, 3), turn], 1)))[0]
    joint = (flame.regressor @ rest)[2]
    bent = ((rotations(turn)[0] - torch.eye(3)).flatten() @ flame.pose_basis[9:18]).view(VERTICES, 3) + rest
    share = flame.skinning[:, 2:3]
    expected = (1 - share) * bent + share * ((bent - joint) @ rotations(turn)[0].T + joint)
    torch.testing.assert_close(jaw, expected, atol=1e-6, rtol=1e-5)


def test_official_sizes_and_the_right_encoder_of_the_file(files: dict[str, Path]) -> None:
    whole = Deca()
    assert sum(p.numel() for p in whole.parameters()) == 25_848_108  # ResNet-50 without its classes, two layers
    assert sum(PARTS.values()) == 236
    small = load_deca(files["deca_model.tar"])
    assert small.encoder.conv1.weight.shape[0] == 4, "E_flame, not E_detail"
    assert {name: value.shape[1] for name, value in small.read(torch.zeros(2, 3, 64, 64)).items()} == PARTS


def test_the_crop_is_where_the_face_of_an_ffhq_portrait_is() -> None:
    portrait = -torch.ones(1, 3, 256, 256)
    portrait[..., 166:170, 126:130] = 1  # about the tip of the nose and upper lip: the middle of the landmarks
    crop = face_crop(portrait)
    assert crop.shape == (1, 3, INPUT, INPUT) and 0 <= crop.min() and crop.max() <= 1
    row, column = divmod(int(crop[0, 0].argmax()), INPUT)
    assert abs(row - INPUT / 2) < 5 and abs(column - INPUT / 2) < 5
    assert not face_crop(torch.ones(1, 3, 256, 256))[..., -1, :].any(), "black below the picture"


class Who(torch.nn.Module):
    """Stands for ArcFace."""

    def embed(self, images: torch.Tensor) -> torch.Tensor:
        return torch.nn.functional.normalize(images.mean(3).flatten(1), dim=1)


@pytest.mark.parametrize("mesh", [True, False])
def test_masks_learn_by_deca_on_any_generator(mesh: bool, files: dict[str, Path], flame: Flame, tmp_path: Path) -> None:
    torch.manual_seed(0)
    generator = StyleGAN2(StyleGAN2Config(32, z_dim=8, w_dim=8, channel_base=128, channel_max=8, mapping_layers=1))
    faces = DecaFaces(load_deca(files["deca_model.tar"]), flame, Who())  # type: ignore[arg-type]
    nets = train(Trainer(tmp_path, precision="32"), generator, faces, replace(PAPER, steps=2, batch=2, mesh=mesh))
    line = json.loads((tmp_path / "stylemask" / "log.jsonl").read_text().splitlines()[-1])
    assert line["shape"] > 0 and line["cycle"] > 0 and len(list(nets.parameters())) == 4 * 7


def test_missing_or_wrong_files_are_named(
    files: dict[str, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("STYLEREEL_CACHE", str(tmp_path))
    torch.save(StyleGAN2(StyleGAN2Config(8, z_dim=8, w_dim=8, mapping_layers=1)).state_dict(), tmp_path / "g.pt")
    with pytest.raises(ValueError, match=r"deca_model.tar is missing .* get it from https"):
        recipes.train(
            "stylemask",
            folder=str(tmp_path / "runs"),
            options={"generator": str(tmp_path / "g.pt"), "perception": "deca", "preset": "paper"},
        )
    with pytest.raises(ValueError, match="is no FLAME model: it lacks v_template"):
        load_flame(files["deca_model.tar"], files["landmark_embedding.npy"])
    with pytest.raises(ValueError, match="has no positions of the 68 landmarks"):
        np.save(tmp_path / "other.npy", np.zeros(3))
        load_flame(files["generic_model.pkl"], tmp_path / "other.npy")
    with pytest.raises(ValueError, match="holds no DECA encoder"):
        load_deca(tmp_path / "g.pt")


def test_where_the_head_is_in_a_portrait(files: dict[str, Path], flame: Flame) -> None:
    """FLAME's vertices by DECA's camera, in the same place that the crop shows; hair's gap is neither."""
    low_high = torch.tensor([[[-1.0, 1.0, 0.0], [1.0, -1.0, 0.0]]])  # corners of the crop, y upwards
    left_top, right_bottom = in_portrait(low_high, torch.tensor([[1.0, 0.0, 0.0]]))[0]
    rows = torch.linspace(-1, 1, 256)[:, None].expand(256, 256)
    crop = face_crop(torch.stack([rows.T, rows, rows])[None])[0] * 2 - 1
    inside = crop[0, 112, 2:-2]  # what the crop shows from left to right, in the portrait's own coordinates
    assert abs(inside[0] - left_top[0]) < 0.03 and abs(inside[-1] - right_bottom[0]) < 0.03
    assert abs(crop[1, 2, 112] - left_top[1]) < 0.03
    faces = DecaFaces(load_deca(files["deca_model.tar"]), flame, Who())  # type: ignore[arg-type]
    with torch.no_grad():
        outside, head = faces.areas(torch.rand(2, 3, 64, 64))
    assert outside.shape == head.shape == (2, 1, 64, 64) and head.any() and not (outside * head).any()
