"""CSIM: by ArcFace where its file is, by dlib under its own name elsewhere, never mixed."""

from pathlib import Path

import numpy as np
import pytest
import torch
from test_encoders import empty, filled, save_arcface

from stylereel import world
from stylereel.encoders.arcface import ArcFace
from stylereel.faces import backend, placement
from stylereel.metrics import likeness
from stylereel.metrics.registry import Clip, Unfit, find
from stylereel.world.factors import LATENT_DIM


def portrait(seed: int, yaw: float = 0.0) -> np.ndarray:
    """A picture of an invented person."""
    latent = np.random.default_rng(seed).standard_normal((1, LATENT_DIM))
    values = world.align(world.from_latent(latent))[0]
    values[0] = yaw
    return world.draw(values, 192).image


@pytest.fixture
def no_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("STYLEREEL_CACHE", str(tmp_path))
    return tmp_path / "model_ir_se50.pth"


def test_csim_is_dlibs_without_the_official_file(no_file: Path) -> None:
    source = Clip([portrait(3)])
    same, other = (find("csim")([Clip([portrait(*who)])], [source]) for who in ((3, 8.0), (4, 0.0)))
    assert same.name == other.name == "csim[dlib]" and 1 > same.value > 0.9 and same.value > other.value


def test_csim_is_arcfaces_where_the_official_file_is(no_file: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pictures = portrait(3), portrait(4)
    clips = [Clip([picture]) for picture in pictures]
    state = save_arcface(no_file)
    with pytest.raises(Unfit, match="delete it and download it again"):  # and dlib does not take its place
        find("csim")(clips[:1], clips[1:])
    monkeypatch.setattr(likeness, "official", lambda name: no_file)
    score = find("csim")(clips[:1], clips[1:])
    net = filled(empty(ArcFace), {key: value.float() for key, value in state.items()})
    crops = [
        placement.cut(each, placement.place_ffhq(backend.find_face(each, backend.open_backend("dlib"))[None])[0], 256)
        for each in pictures
    ]
    one, two = net.embed(torch.tensor(np.stack(crops)).permute(0, 3, 1, 2).float() / 127.5 - 1)
    assert score.name == "csim[arcface]" and score.value == pytest.approx(float(one @ two), abs=1e-4)
    assert score.value < 0.9999
