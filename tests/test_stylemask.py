"""StyleMask: mask networks against the original's numbers, mixing rules, and its verbs on the built-in weights."""

import hashlib
import json
from fractions import Fraction
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file

import stylereel
from stylereel import world
from stylereel.faces.coefficients import NAMES
from stylereel.faces.perception import IdentityNet
from stylereel.generator import StyleGAN2, StyleGAN2Config
from stylereel.latents import Motion
from stylereel.render import render
from stylereel.systems.stylemask import MaskConfig, MaskNets, StyleMask
from stylereel.weights import builtin
from stylereel.weights.files import load_module

GOLDENS = Path(__file__).parent / "goldens"


def drawn(salt: str, key: str, shape: list[int], kind: str, mean: float, std: float) -> torch.Tensor:
    """The goldens' rule for regenerating arrays; see the manifest's hash_rule."""
    assert kind == "normal"
    seed = int.from_bytes(hashlib.sha256(f"{salt}|{key}".encode()).digest()[:4], "little")
    values = mean + std * np.random.RandomState(seed).standard_normal(tuple(shape))
    return torch.from_numpy(values.astype(np.float32))


def test_mask_networks_equal_the_originals() -> None:
    manifest = json.loads((GOLDENS / "stylemask_masknets_full.json").read_text())
    expected = load_file(GOLDENS / "stylemask_masknets_full.safetensors")
    sections, salt = manifest["config"]["split_sections"], manifest["hash_salt"]
    nets = MaskNets(MaskConfig(tuple(sections[: manifest["config"]["num_layers_control"]])))
    nets.load_state_dict({key: drawn(salt, key, *rule) for key, rule in manifest["hashed_state"].items()})
    source, target = (
        drawn(salt, rule["key"], rule["shape"], rule["kind"], rule["mean"], rule["std"]).split(sections, dim=1)
        for rule in (manifest["hashed_inputs"]["style_source"], manifest["hashed_inputs"]["style_target"])
    )
    with torch.no_grad():
        results = {"mask": torch.cat(nets.masks(source, target), 1), "new_style": torch.cat(nets(source, target), 1)}
    for name, result in results.items():
        tolerance = manifest["outputs"][name]["advised_atol_fp32"]
        torch.testing.assert_close(result, expected[f"out/{name}"], atol=tolerance, rtol=1e-5)


def test_published_sizes() -> None:
    """12 networks of 5632 channels and 5,516,288 numbers for the 1024 px generator."""
    config = MaskConfig.of(StyleGAN2(StyleGAN2Config(1024, z_dim=8, w_dim=8, mapping_layers=1)))
    assert sum(config.channels) == 5632 and len(config.channels) == 12
    assert sum(p.numel() for p in MaskNets(config).parameters()) == 5_516_288


@pytest.mark.parametrize("value", [0.0, 1.0])
def test_constant_masks_give_source_or_target(value: float) -> None:
    nets = MaskNets(MaskConfig((4, 6)))
    source, target = [torch.randn(3, n) for n in (4, 6, 5)], [torch.randn(3, n) for n in (4, 6, 5)]
    for net in nets.children():
        net.masknet[2].bias.data.fill_(200.0 if value else -200.0)  # type: ignore[union-attr]
    mixed = nets(source, target)
    for got, wanted in zip(mixed[:2], (target if value else source)[:2]):
        assert torch.equal(got, wanted)
    assert torch.equal(mixed[2], source[2]), "layers without a mask stay the source's"


@pytest.fixture(scope="module")
def system() -> StyleMask:
    return stylereel.load("stylemask")


def face_motion(**tracks: np.ndarray) -> Motion:
    frames = len(next(iter(tracks.values())))
    values = np.tile(world.neutral()[: len(NAMES)], (frames, 1))
    for name, track in tracks.items():
        values[:, NAMES.index(name)] = track
    return Motion(values, "face", NAMES, Fraction(25), np.ones((frames, 4), np.float32))


def test_the_source_keeps_its_look_and_takes_the_motion(system: StyleMask) -> None:
    motion = face_motion(yaw=np.array([-25.0, 0.0, 25.0]))
    for seed in (1, 2):
        frames = np.stack(list(render(system, system.identify(seed), motion))).astype(float)
        assert frames.shape == (3, 256, 256, 3)
        assert np.abs(frames[0] - frames[2]).mean() > 4, "the head turns"
    first, second = (np.stack(list(render(system, system.identify(s), motion))).astype(float)[1] for s in (1, 2))
    assert np.abs(first - second).mean() > 10, "two sources stay two people"


def test_chunks_do_not_change_the_frames(system: StyleMask) -> None:
    motion = face_motion(jaw=np.linspace(0, 0.8, 5), blink_left=np.linspace(0, 1, 5))
    identity = system.identify(3)
    runs = [np.stack(list(render(system, identity, motion, chunk=chunk))).astype(int) for chunk in (1, 3, 8)]
    assert np.abs(runs[1] - runs[0]).max() <= 1 and np.abs(runs[2] - runs[0]).max() <= 1


def test_seeds_and_pictures_identify(system: StyleMask) -> None:
    assert torch.equal(system.identify(4).w, system.identify(4).w)
    assert not torch.equal(system.identify(4).w, system.identify(5).w)
    portrait = world.draw(world.aligned(world.from_latent(np.random.default_rng(2).standard_normal(64))), 256).image
    assert system.identify(portrait).w.shape == system.identify(4).w.shape
    # The encoder's picture of it looks like that person to the identity net, and seeds look like others.
    net = load_module(builtin("identity"), "identity", lambda config: IdentityNet()).eval()
    shown = [system.portrait(system.identify(who)) for who in (portrait, *range(20, 26))]
    with torch.no_grad():
        first, *rest = net(torch.from_numpy(np.stack([portrait, *shown])).permute(0, 3, 1, 2) / 127.5 - 1)
    likeness = [float(first @ other) for other in rest]
    assert likeness[0] > 0.5 and likeness[0] > max(likeness[1:])


def test_mistakes_are_explained(system: StyleMask) -> None:
    with pytest.raises(ValueError, match="seed is 0 or more"):
        system.identify(-1)
    with pytest.raises(ValueError, match="psi lies between 0 and 1"):
        system.identify(1, psi=3.0)
    with pytest.raises(ValueError, match="No face was found"):
        system.identify(np.full((200, 200, 3), 128, np.uint8))
