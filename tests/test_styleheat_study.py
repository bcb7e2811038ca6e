"""StyleHEAT's study in small: features that are moved, and the layers of the exact flow."""

import json
from pathlib import Path

import numpy as np
import pytest

from stylereel import systems
from stylereel.core.builtin import builtin
from stylereel.generator import StyleGAN2
from stylereel.systems.styleheat import drivers, study


@pytest.fixture(scope="module")
def generator() -> StyleGAN2:
    return StyleGAN2.load(builtin("generator")).eval().requires_grad_(False)


def test_fine_features_move_the_image_and_coarse_ones_do_not(
    generator: StyleGAN2, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(study, "RESOLUTIONS", (8, 64))
    few = {name: study.TRANSFORMS[name] for name in ("translation", "occlusion")}
    monkeypatch.setattr(study, "TRANSFORMS", few)
    found, sheet = study.feature_space(generator, 2, 0)
    assert found.keys() == {(name, size) for name in few for size in (8, 64)}
    for name in few:
        assert found[name, 64][0].mean() > found[name, 8][0].mean() + 5, "decibels"
    assert found["translation", 64][1].mean() < found["translation", 8][1].mean(), "landmarks"
    assert sheet.ndim == 3 and sheet.dtype == np.uint8
    assert [claim.holds for claim in study._feature_claims(found, 0)] == [True]


def test_transforms_are_flows_of_a_whole_image() -> None:
    random = np.random.default_rng(0)
    for name, make in study.TRANSFORMS.items():
        if make is not None:
            flow = make(random)
            assert flow.shape == (1, 2, 64, 64) and 1 < float(flow.abs().max()) < 40, name
    inside = study._inside(study._translation(random), 128)
    assert inside.shape == (128, 128) and 0.3 < inside.mean() < 1


def test_the_exact_flow_is_better_than_none_and_worse_than_the_generator(
    generator: StyleGAN2, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(study, "LAYERS", (64,))
    found = {name: values[1].mean() for name, values in study.best_layer(generator, 4, 0).items()}
    order = [found[name] for name in ("source, not moved", "exact flow at 64 px", "the generator, given the factors")]
    assert order == sorted(order)


def test_too_few_people_are_refused(tmp_path) -> None:
    with pytest.raises(ValueError, match="2 people"):
        study.reproduce(out=str(tmp_path), people=1)


def test_what_is_measured_is_kept_for_the_same_weights_and_settings(tmp_path: Path) -> None:
    calls: list[int] = []

    def make() -> list[float]:
        calls.append(1)
        return [1.0, float(len(calls))]

    first = study._kept(tmp_path, {"weights": "a"}, "part", 3, make)
    assert study._kept(tmp_path, {"weights": "a"}, "part", 3, make) == first == [1.0, 1.0]
    assert study._kept(tmp_path, {"weights": "b"}, "part", 3, make) == [1.0, 2.0]
    assert study._kept(tmp_path, {"weights": "a"}, "part", 4, make) == [1.0, 3.0] and len(calls) == 3
    values = {"one": np.array([0.5, np.nan])}
    again = study._arrays(json.loads(json.dumps(study._plain(values))))
    np.testing.assert_array_equal(again["one"], values["one"])


def test_pictures_and_sound_drive_and_are_measured(monkeypatch: pytest.MonkeyPatch) -> None:
    """The same person as the driver is easier than another; lips that follow the truth are in step."""
    system = systems.load("stylemask")
    monkeypatch.setattr(drivers, "SENTENCES", ("Bob may.",))
    found = drivers.by_pictures(system, 2, 77, same=True)
    assert {"psnr", "aed-face-net", "identity-source", "nme-eyes-face-net"} <= found.keys() and len(found["psnr"]) <= 2
    said = drivers.say(system, 1, 0, moving=False)
    assert said["opening"][0] > 0.5 and said["opening, true images"][0] > 0.8 and abs(said["offset"][0]) <= 2
