"""--device and --family on every command that runs a network, and that networks and inputs go where they should.

There is no second device here: on "meta" nothing is computed, but a tensor that stayed behind is an error of its own,
and what has arrived fails only when its numbers are to come back: "Cannot copy out of meta tensor".
"""

import inspect
from collections.abc import Callable
from dataclasses import replace
from fractions import Fraction
from pathlib import Path
from typing import Any

import numpy as np
import pages
import pytest
import torch

from stylereel.cli import main
from stylereel.commands import COMMANDS, evaluate, look, reproduce, train
from stylereel.core.builtin import builtin
from stylereel.core.latents import Codes
from stylereel.core.record import sha256
from stylereel.core.weights import save_module
from stylereel.generator import StyleGAN2, StyleGAN2Config
from stylereel.metrics import exact, features, inception, likeness, pictures, registry, syncnet
from stylereel.metrics.clips import Clip
from stylereel.systems import sources

FRAMES = np.random.default_rng(0).integers(0, 256, (6, 128, 128, 3), np.uint8)
WITHOUT_NETWORKS = {
    "systems",
    "measures",
    "page",
    *(name for name in COMMANDS if name.startswith(("world ", "weights "))),
}


# Of the built-in people alone, or of no people.
NO_FAMILY = ("demo", "eval", "identify", "train family")


@pytest.mark.parametrize("command", [name for name in COMMANDS if name not in WITHOUT_NETWORKS])
def test_every_command_with_networks_takes_a_device_and_a_family(command: str) -> None:
    shared = pages.shared_flags(command)
    for known in (
        [pages.own_flags(command, name) for name in pages.subjects(command)] if command == "reproduce" else [shared]
    ):
        assert "| `--device` |" in known
        assert "| `--family` |" in known or command in NO_FAMILY


def test_measures_with_a_network_take_the_device() -> None:
    for name, one in registry.measures().items():
        takes = "device" in inspect.signature(one.function).parameters
        assert takes == (one.net is not None and one.compares != "sets"), name


def inception_features() -> None:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(features, "official", Path)
        patch.setattr(features, "_inception", lambda path, device: inception.Inception().eval().to(device))
        features.inception_features(np.zeros((1, 299, 299, 3), np.float32), "meta")


def lpips() -> None:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(pictures, "official", Path)
        patch.setattr(pictures, "lpips_heads", Path)
        patch.setattr(pictures, "lpips_network", lambda kind, *_: pictures.LPIPS(kind).to(_[-1]))
        registry.find("lpips-alex").function(Clip(FRAMES), Clip(FRAMES), device="meta")


WORK: dict[str, Callable[[], Any]] = {
    "face": lambda: features.face_features(FRAMES.astype(np.float32), "meta"),
    "face motion": lambda: features.face_motion_features(FRAMES[None].astype(np.float32), "meta"),
    "face maps": lambda: pictures.face_feature_distance(Clip(FRAMES), Clip(FRAMES), device="meta"),
    "lpips": lpips,
    "inception": inception_features,
    "identity": lambda: likeness.builtin_embeddings(FRAMES, "meta"),
    "by the face net": lambda: exact.by_face_net(FRAMES[:1], "meta"),
    "lips": lambda: syncnet.lip_sync(
        syncnet.SyncNet().eval().to("meta"), np.zeros((7, 224, 224, 3), np.uint8), np.ones(640 * 7)
    ),
}


@pytest.mark.parametrize("work", WORK.values(), ids=WORK)
def test_networks_of_measures_and_their_inputs_are_on_the_device(work: Callable[[], Any]) -> None:
    with pytest.raises(NotImplementedError, match="Cannot copy out of meta tensor"):
        work()


@pytest.mark.parametrize("name", ["frechet", "frechet-video", "face-feature-distance"])
def test_eval_hands_the_device_to_its_measures(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[str] = []
    monkeypatch.setattr(evaluate, "choose_device", lambda name: asked.append(name) or torch.device("meta"))
    clips = [Clip(np.repeat(FRAMES, 3, axis=0))]
    with pytest.raises(NotImplementedError, match="Cannot copy out of meta tensor"):
        evaluate.evaluate(clips, reference=clips, measures=name, device="cuda")
    assert asked == ["cuda"]


def test_look_shows_codes_by_the_generator_of_a_family_on_the_device(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    generator = StyleGAN2(StyleGAN2Config(32, 16, 16, channel_base=256, channel_max=16, mapping_layers=2))
    save_module(tmp_path / "own.safetensors", generator.kind, generator)
    (tmp_path / "own.toml").write_text('[files]\ngenerator = "own.safetensors"\n')
    codes = Codes(
        torch.zeros(1, generator.num_ws, 16), sha256(tmp_path / "own.safetensors"), Fraction(1), torch.ones(1, 4)
    )
    codes.save(tmp_path / "codes.safetensors")
    with_it, without = (
        look.page_of([tmp_path / "codes.safetensors"], size=32, family=family)
        for family in (str(tmp_path / "own.toml"), "builtin")
    )
    assert len(with_it) > len(without)
    monkeypatch.setattr("stylereel.core.system.choose_device", lambda name: torch.device("meta"))
    with pytest.raises(NotImplementedError, match="Cannot copy out of meta tensor"):
        look.page_of([tmp_path / "codes.safetensors"], size=32, family=str(tmp_path / "own.toml"))


def test_the_generator_of_a_study_is_the_familys_if_it_knows_the_worlds_people(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    family = tmp_path / "own.toml"
    family.write_text('[files]\ngenerator = "own.safetensors"\n')
    config = StyleGAN2Config(32, 80, 16, channel_base=256, channel_max=16, mapping_layers=2)
    save_module(tmp_path / "own.safetensors", StyleGAN2.kind, StyleGAN2(config))
    generator, file = sources.world_generator(str(family), "cpu")
    assert file == tmp_path / "own.safetensors" and generator.config == config
    assert sources.world_generator("builtin", "cpu")[1] == builtin("generator")
    monkeypatch.setattr(sources, "choose_device", lambda name: torch.device("meta"))
    assert sources.world_generator(str(family), "auto")[0].mean_w.device.type == "meta"
    save_module(tmp_path / "own.safetensors", StyleGAN2.kind, StyleGAN2(replace(config, z_dim=16)))
    for system in reproduce.list_studies():
        assert main(["reproduce", system, "--out", str(tmp_path / "out"), "--family", str(family)]) == 2
        assert "did not learn the world's people" in capsys.readouterr().err


def test_train_fills_a_recipes_files_from_the_family(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    family = tmp_path / "own.toml"
    family.write_text('[files]\ngenerator = "g.pt"\nencoder = "e.pt"\n[stylemask]\nmasks = "m.pt"\n')
    for name in ("g.pt", "e.pt", "own.pt", "m.pt"):
        (tmp_path / name).touch()
    asked: dict[str, dict[str, Any]] = {}

    def recipe(run: Any, *, data: str | None = None, generator: str | None = None, preset: str = "quick") -> list[Path]:
        asked["last"] = {"generator": generator, "preset": preset, "run": dict(run.options), "on": run.trainer.device}
        return []

    monkeypatch.setattr(train, "recipe_of", lambda network: recipe)
    words = ["train", "stylemask", "--folder", str(tmp_path / "runs"), "--device", "cpu"]
    assert main([*words, "--family", str(family)]) == 0, capsys.readouterr().err
    assert asked["last"]["generator"] == str(tmp_path / "g.pt") and asked["last"]["preset"] == "quick"
    assert asked["last"]["run"]["generator"] == str(tmp_path / "g.pt") and asked["last"]["on"].type == "cpu"
    own = str(tmp_path / "own.pt")
    assert main([*words, "--family", str(family), "--generator", own]) == 0 and asked["last"]["generator"] == own
    monkeypatch.setattr(train, "recipe_of", lambda network: lambda run: [])
    assert main([*words, "--family", str(family)]) == 2
    assert "takes no weights of another family" in capsys.readouterr().err
