"""Directions: found from labels they do what they say; files of our own and of others are read safely."""

from pathlib import Path

import numpy as np
import pytest
import torch

from stylereel.edit.directions import Direction, Directions, of_channels, read
from stylereel.family.nets import FaceNet
from stylereel.family.people import FIRST_ROW
from stylereel.generator import StyleGAN2, StyleGAN2Config
from stylereel.recipes import directions
from stylereel.world.factors import GROUP, INDEX, LATENT_DIM, NAMES, normalize


@pytest.fixture(scope="module")
def generator() -> StyleGAN2:
    torch.manual_seed(0)
    config = StyleGAN2Config(16, z_dim=LATENT_DIM, w_dim=96, channel_base=256, channel_max=16, mapping_layers=1)
    return StyleGAN2(config).eval()


@pytest.fixture
def found(generator: StyleGAN2, monkeypatch: pytest.MonkeyPatch) -> Directions:
    monkeypatch.setattr(directions, "LATENTS", 3000)
    monkeypatch.setattr(directions, "factors", lambda: {"age": "age", "blink": "blink_left", "yaw": "yaw"})
    return directions.find(generator, FaceNet().eval(), people=2)


def test_a_direction_moves_the_codes_as_its_factor_does(generator: StyleGAN2, found: Directions) -> None:
    """Strength 1 leads, but for the scale, from the codes of people towards those with one more of the factor."""
    z = np.random.default_rng(3).standard_normal((200, LATENT_DIM))
    more = normalize(z)
    more[:, INDEX["age"]] += 1
    with torch.inference_mode():
        w, older = (generator.mapping(torch.from_numpy(part).float()) for part in (z, more))
    change = (older - w).mean(0)
    age = found["age"]
    assert torch.cosine_similarity(age.change[0], change, dim=0) > 0.95
    assert age.places is not None and int(age.places[0]) == FIRST_ROW[GROUP["age"]]
    assert all(abs(codes) < 0.35 * abs(age.change.norm() / change.norm()) for codes, _ in age.leak.values())
    assert age.unit == "age 0.50 to 0.84" and set(age.leak) < set(NAMES) - {"age", "scale"}


def test_directions_of_s_move_styles_as_those_of_w_plus_on_the_channels_they_keep(
    generator: StyleGAN2, found: Directions
) -> None:
    w = generator.map(torch.randn(2, LATENT_DIM))
    styles = generator.styles(w)
    space = generator.style_space
    before = space.flatten(styles)
    by_w = space.flatten(generator.styles(found["yaw"].apply(w))) - before
    by_s = space.flatten(found["s:yaw"].apply(styles)) - before
    places = found["s:yaw"].places
    assert places is not None and 0 < len(places) < space.size
    ratio = by_s[:, places] / by_w[:, places]
    torch.testing.assert_close(ratio, ratio.mean().expand_as(ratio), rtol=1e-2, atol=1e-2)
    assert by_s.ne(0).sum() <= 2 * len(places)


def test_strength_may_differ_from_frame_to_frame(generator: StyleGAN2, found: Directions) -> None:
    w = generator.map(torch.randn(1, LATENT_DIM))
    strengths = torch.tensor([-1.0, 0.0, 2.0])
    many = found["age"].apply(w, strengths)
    assert torch.equal(many[1], w[0]) and many.shape == (3, *w.shape[1:])
    torch.testing.assert_close(many[2] - w[0], -2 * (many[0] - w[0]), rtol=1e-4, atol=1e-5)


def test_conditional_directions_are_orthogonal_to_the_others(generator: StyleGAN2, found: Directions) -> None:
    one = Direction("a", "w+", torch.tensor([2, 3]), torch.tensor([[1.0, 1.0, 0.0]]))
    other = Direction("b", "w+", torch.tensor([2, 3]), torch.tensor([[0.0, 2.0, 0.0]]))
    far = Direction("c", "w+", torch.tensor([5]), torch.tensor([[9.0, 9.0, 9.0]]))
    three = Directions([one, other, far])
    torch.testing.assert_close(three.without("a", ["b", "c"]).change, torch.tensor([[1.0, 0.0, 0.0]]))


def test_files_of_our_own_keep_everything(found: Directions, tmp_path: Path) -> None:
    found.save(tmp_path / "d.safetensors")
    loaded = Directions.load(tmp_path / "d.safetensors")
    assert list(loaded) == list(found) == ["age", "s:age", "blink", "s:blink", "yaw", "s:yaw"]
    torch.testing.assert_close(loaded["s:age"].change, found["s:age"].change, rtol=1e-3, atol=1e-3)
    assert loaded["age"].leak.keys() == found["age"].leak.keys() and "| age | W+ |" in loaded.table()
    with pytest.raises(ValueError, match="no direction 'agee'; choose one of age"):
        loaded["agee"]


def test_published_files_are_read(tmp_path: Path) -> None:
    random = np.random.default_rng(0)
    vector, rows = random.standard_normal((1, 512)), random.standard_normal((1, 18, 512))
    np.save(tmp_path / "age_boundary.npy", vector)
    torch.save(torch.from_numpy(rows).float(), tmp_path / "pose.pt")
    components = random.standard_normal((80, 1, 512))
    np.savez(tmp_path / "ffhq_PCA.npz", X_mean=vector, X_comp=components, X_stdev=np.arange(80.0))
    w = torch.zeros(1, 18, 512)
    age, pose = read(tmp_path / "age_boundary.npy"), read(tmp_path / "pose.pt")
    torch.testing.assert_close(age.apply(w, 3.0)[0, 17], torch.from_numpy(3 * vector[0]).float())
    torch.testing.assert_close(pose.apply(w)[0], torch.from_numpy(rows[0]).float())
    beard = read(tmp_path / "ffhq_PCA.npz", component=58, rows=range(7, 10))
    moved = beard.apply(w, -1.0)
    torch.testing.assert_close(moved[0, 8], torch.from_numpy(-58 * components[58, 0]).float())
    assert not moved[0, :7].any() and not moved[0, 10:].any()
    with pytest.raises(ValueError, match="Name a component"):
        read(tmp_path / "ffhq_PCA.npz")


def test_lists_of_channels_become_directions(generator: StyleGAN2) -> None:
    space = generator.style_space
    smile = of_channels("smile", space, {(1, 3): 2.0, ("b8.conv0", 5): -1.0})
    styles = generator.styles(generator.map(torch.randn(1, LATENT_DIM)))
    moved = smile.apply(styles, 2.0)
    assert torch.allclose(moved[1][0, 3] - styles[1][0, 3], torch.tensor(4.0))
    layer = space.layer("b8.conv0").index
    assert torch.allclose(moved[layer][0, 5] - styles[layer][0, 5], torch.tensor(-2.0))


def test_what_does_not_fit_is_refused_in_one_sentence(found: Directions, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="another generator"):
        found["age"].apply(torch.zeros(1, 6, 512))
    with pytest.raises(ValueError, match="one of W"):
        found["age"].apply([torch.zeros(1, 4)])
    np.save(tmp_path / "objects.npy", np.array([{"a": 1}], dtype=object), allow_pickle=True)
    np.save(tmp_path / "words.npy", np.array(["a", "b"]))
    for name in ("objects.npy", "words.npy"):
        with pytest.raises(ValueError, match=name):
            read(tmp_path / name)
