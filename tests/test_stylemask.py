"""StyleMask: mask networks against the original's numbers, mixing rules, and its verbs on the built-in weights."""

import hashlib
import json
from dataclasses import replace
from fractions import Fraction
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load_file

from stylereel import world
from stylereel.core.builtin import builtin
from stylereel.core.latents import FACE, Codes, Identity, Motion
from stylereel.core.render import pictures, portrait, render, tuned
from stylereel.core.weights import load_module, read_header, save_module
from stylereel.faces.coefficients import NAMES
from stylereel.family.nets import IdentityNet, load_face
from stylereel.family.people import codes_of, grouped_w, mixed_values
from stylereel.generator import StyleGAN2, StyleGAN2Config
from stylereel.media.pictures import save_picture
from stylereel.media.video import VideoWriter
from stylereel.systems.stylemask import (
    CODE,
    PAPER,
    QUICK,
    MaskConfig,
    MaskNets,
    Settings,
    StyleMask,
    effects,
    load_masks,
    networks,
    train,
    training,
)
from stylereel.systems.stylemask.training import Face, shape_loss
from stylereel.train.loop import Trainer
from stylereel.world.factors import LATENT_DIM
from stylereel.zoo.names import generator_from_rosinality, generator_to_rosinality, split_filters

GOLDENS = Path(__file__).parent / "goldens"


def drawn(salt: str, key: str, shape: list[int], kind: str, mean: float, std: float) -> torch.Tensor:
    """The goldens' rule for regenerating arrays; see the manifest's hash_rule."""
    if kind == "const":
        return torch.full(shape, mean)
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
def golden() -> tuple[dict, dict[str, torch.Tensor], dict[str, torch.Tensor]]:
    """Manifest, arrays and the drawn state of the original's re-enactment through a narrow generator."""
    manifest = json.loads((GOLDENS / "stylemask_reenact.json").read_text())
    state = {key: drawn(manifest["hash_salt"], key, *rule) for key, rule in manifest["hashed_state"].items()}
    return manifest, load_file(GOLDENS / "stylemask_reenact.safetensors"), state


def part(state: dict[str, torch.Tensor], prefix: str) -> dict[str, torch.Tensor]:
    return {key.removeprefix(prefix): value for key, value in state.items() if key.startswith(prefix)}


@pytest.fixture(scope="module")
def small() -> StyleGAN2:
    torch.manual_seed(0)
    return StyleGAN2(StyleGAN2Config(16, z_dim=8, w_dim=16, channel_base=256, channel_max=16, mapping_layers=1))


class Narrow(StyleGAN2Config):
    """The original's generator, whose widths follow no formula."""

    def channels(self, resolution: int) -> int:
        return {64: 24, 128: 16, 256: 8}.get(resolution, 32)


def test_reenactment_equals_the_original(golden: tuple, tmp_path: Path) -> None:
    manifest, expected, state = golden
    generator = StyleGAN2(Narrow(256, z_dim=64, w_dim=64, mapping_layers=4))
    renamed = generator_from_rosinality(part(state, "G."))
    assert not generator.load_state_dict(split_filters(renamed)[0], strict=False).unexpected_keys
    generator.mean_w.copy_(expected["in/truncation_latent"][0])
    torch.save({"step": 7, "mask_net": part(state, "mask_net."), "num_layers_control": 12}, tmp_path / "mask_net.pt")
    system = StyleMask(generator, None, load_masks(tmp_path / "mask_net.pt", generator))
    convolutions = [layer.index for layer in generator.style_layers if layer.kind == "conv"]

    def check(name: str, found: torch.Tensor) -> None:
        tolerance = manifest["outputs"][name]["advised_atol_fp32"]
        torch.testing.assert_close(found, expected[f"out/{name}"], atol=tolerance, rtol=1e-5)

    with torch.no_grad():
        psi = manifest["config"]["truncation"]
        source, target = (generator.map(expected[f"in/{who}_code"], psi=psi) for who in ("source", "target"))
        check("w_source", source)
        mixed = system.mix(source, target)
        styles = {"style_source": generator.styles(source), "style_target": generator.styles(target)}
        for name, vectors in (styles | {"new_style": mixed}).items():
            check(name, torch.cat([vectors[i] for i in convolutions], 1))
        check("img_source", generator.synthesize(w=source)[:, :, ::4, ::4])
        check("img_reenacted", generator.synthesize(s=mixed)[:, :, ::4, ::4])


@pytest.fixture(scope="module")
def files(small: StyleGAN2, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """One generator under the names of both families, and masks of it as the authors write them."""
    folder = tmp_path_factory.mktemp("official")
    torch.save(small.state_dict(), folder / "nvidia.pt")
    torch.save(
        {"g_ema": generator_to_rosinality(small.state_dict()), "latent_avg": small.mean_w}, folder / "rosinality.pt"
    )
    masks = MaskNets(MaskConfig.of(small))
    torch.save({"step": 7, "mask_net": masks.state_dict(), "num_layers_control": 5}, folder / "mask_net_000007.pt")
    return {path.name: path for path in folder.iterdir()}


def test_generators_of_both_families_show_the_same(files: dict[str, Path], small: StyleGAN2) -> None:
    masks = str(files["mask_net_000007.pt"])
    shown = []
    for family in ("nvidia.pt", "rosinality.pt"):
        system = StyleMask.from_files(generator=str(files[family]), masks=masks)
        source, target = system.identify(1), system.identify(2)
        codes = Codes(target.w[None], "", Fraction(25), torch.ones(1, 4))
        with torch.no_grad():
            styles = system.apply(source, system.extract(codes)).s or []
            shown.append(system.generator.synthesize(s=styles))
            kept = system.generator.styles(source.w[None])
        for layer in system.generator.style_layers:
            assert torch.equal(styles[layer.index], kept[layer.index]) == (layer.kind == "rgb")
    torch.testing.assert_close(shown[0], shown[1], atol=1e-4, rtol=1e-4)
    with pytest.raises(ValueError, match="need an encoder"):
        system.identify(world.draw(world.neutral(), 256).image)


def test_masks_of_another_generator_are_refused_in_one_sentence(files: dict[str, Path]) -> None:
    other = StyleGAN2(StyleGAN2Config(16, z_dim=8, w_dim=8, channel_base=1024, channel_max=32, mapping_layers=1))
    with pytest.raises(ValueError, match="trained on this generator"):
        load_masks(files["mask_net_000007.pt"], other)
    with pytest.raises(ValueError, match="holds no mask network"):
        load_masks(files["nvidia.pt"])


def test_published_checkpoints_of_full_shape_load(tmp_path: Path) -> None:
    """Stand-ins of mask_network_1024.pt's shape, onto the style layers of the 1024 px generator."""
    config = MaskConfig((*[512] * 10, 256, 256))
    nets = MaskNets(config)
    torch.save({"step": 1, "mask_net": nets.state_dict(), "num_layers_control": 12}, tmp_path / "mask_network_1024.pt")
    generator = StyleGAN2(StyleGAN2Config(1024, z_dim=8, w_dim=8, mapping_layers=1))
    again = load_masks(tmp_path / "mask_network_1024.pt", generator)
    assert again.config == config
    assert all(torch.equal(a, b) for a, b in zip(again.state_dict().values(), nets.state_dict().values(), strict=True))


def test_mask_of_zero_gives_the_source_and_of_one_the_target_bit_for_bit(files: dict[str, Path]) -> None:
    system = StyleMask.from_files(generator=str(files["nvidia.pt"]), masks=str(files["mask_net_000007.pt"]))
    generator = system.generator
    w = torch.randn(2, generator.num_ws, generator.config.w_dim, generator=torch.Generator().manual_seed(1))
    given = [generator.styles(w[i : i + 1]) for i in range(2)]
    for bias, wanted in ((-200.0, 0), (200.0, 1)):
        for net in system.mask_nets.children():
            net.masknet[2].bias.data.fill_(bias)  # type: ignore[union-attr]
        with torch.no_grad():
            mixed = system.mix(w[:1], w[1:])
        for layer, style in zip(generator.style_layers, mixed):
            assert torch.equal(style, given[wanted if layer.kind == "conv" else 0][layer.index])


def test_look_stays_the_sources_and_files_of_both_kinds_are_read(files: dict[str, Path], tmp_path: Path) -> None:
    """Channels that change the picture and move nothing are kept; published files and our older ones mix all."""
    plain = load_masks(files["mask_net_000007.pt"])
    table = torch.ones(4, sum(plain.config.channels))
    table[0, ::3] = 10.0  # a third changes much outside the head
    table[2:, 1::3] = 10.0  # a third moves the head
    table[2:, 2::3] = 5.0
    save_module(tmp_path / "measured.safetensors", "stylemask", plain.with_effects(table))
    save_module(tmp_path / "older.safetensors", "stylemask", plain)
    header = json.loads(read_header(tmp_path / "older.safetensors")["config"])
    assert not plain.config.measured and not header.pop("measured")
    nets, older = (load_masks(tmp_path / f"{name}.safetensors") for name in ("measured", "older"))
    assert load_module(tmp_path / "older.safetensors", "stylemask", lambda _: MaskNets(MaskConfig(**header)))
    torch.testing.assert_close(nets.get_buffer("effects"), table)
    source, target = ([torch.randn(2, n) for n in plain.config.channels] for _ in range(2))
    with torch.no_grad():
        mixed, everything = (torch.cat(net(source, target), 1) for net in (nets, older))
    kept = torch.zeros(table.shape[1], dtype=torch.bool)
    kept[::3] = True
    assert torch.equal(nets.moving(), ~kept) and older.moving().all()
    assert torch.equal(mixed[:, kept], torch.cat(source, 1)[:, kept])
    assert torch.equal(mixed[:, ~kept], everything[:, ~kept])
    assert not nets.with_effects(None).config.measured
    assert torch.equal(torch.cat(nets.with_effects(None)(source, target), 1), everything)


def test_the_source_keeps_its_window() -> None:
    """Person 29's window, which the driver's plain backdrop darkened by tens of levels."""
    system = StyleMask.builtin()
    identity = system.identify(29)
    own = portrait(system, identity).astype(float)[:60, 226:]
    motion = face_motion(yaw=np.array([-20.0, 0.0, 20.0]), jaw=np.array([0.0, 0.8, 0.3]))
    shown = np.stack(list(render(system, identity, motion))).astype(float)[:, :60, 226:]
    assert shown.std(0).mean() < 1.5 and np.abs(shown - own).mean() < 2


# Training


def test_effects_are_root_mean_squares_of_what_a_channel_changes() -> None:
    """Each number depends on one channel, so that signs cancel nothing and the estimate is exact."""
    leaves = [torch.ones(2, 3, requires_grad=True), torch.ones(2, 1, requires_grad=True)]
    ways = [torch.tensor([[1.0, 2.0, 0.5], [3.0, 0.0, 1.0]]), torch.tensor([[4.0], [1.0]])]
    factors = torch.arange(1.0, 5.0).repeat(2, 1)
    weight = torch.tensor([[1.0, 0.0, 1.0, 1.0], [1.0, 1.0, 1.0, 1.0]])
    found = effects._mean_square(factors * torch.cat(leaves, 1), weight, leaves, ways, torch.Generator().manual_seed(0))
    squares = weight * (factors * torch.cat(ways, 1)).square() / weight.sum(1, keepdim=True)
    torch.testing.assert_close(found, squares.sum(0))


def test_what_carries_the_background_is_found(small: StyleGAN2) -> None:
    """Channels that only the lower half shows are the source's, where the lower half is outside and moves nothing."""

    class Halves(Colours):
        def areas(self, images: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
            outside = torch.zeros(len(images), 1, 64, 64)
            outside[:, :, 32:] = 1.0
            return outside, 1 - outside

        def see(self, images: torch.Tensor) -> Face:
            return Face(images[:, :, :8].flatten(1)[:, :136].view(-1, 68, 2))

    torch.manual_seed(0)
    nets = effects.measured(MaskNets(MaskConfig.of(small)), small, Halves(), pairs=8)
    outside, head, landmarks, values = nets.get_buffer("effects")
    assert (outside > 0).any() and (head > 0).any() and (landmarks > 0).any() and not values.any()
    moving = nets.moving()
    change = torch.hypot(outside, head)
    share = change / change.norm() / (landmarks / landmarks.norm())
    assert share[moving].max() <= networks.LOOK and 0 < moving.sum()
    again = effects.measured(nets, small, Halves(), pairs=8)
    torch.testing.assert_close(again.get_buffer("effects"), nets.get_buffer("effects"))


class Colours(torch.nn.Module):
    """A perception of 16 px: colours of the lower half are the person, those of the upper half what it does."""

    size = 16

    def areas(self, images: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        head = torch.ones(len(images), 1, 64, 64)
        return 1 - head, head

    def read(self, z: np.ndarray | None, psi: float, paint: Any) -> torch.Tensor:
        return torch.nn.functional.adaptive_avg_pool2d(paint(), 4).flatten(2).transpose(1, 2).flatten(1)

    def ideal(self, source: torch.Tensor, target: torch.Tensor) -> Face:
        half = source.shape[1] // 2
        return self._face(torch.cat([target[:, :half], source[:, half:]], 1))

    def see(self, images: torch.Tensor) -> Face:
        return self._face(self.read(np.empty(0), 1.0, lambda: images))

    def embed(self, images: torch.Tensor) -> torch.Tensor:
        return torch.nn.functional.normalize(images[:, :, 8:].mean(3).flatten(1), dim=1)

    def _face(self, told: torch.Tensor) -> Face:
        return Face(told.view(len(told), -1, 2).repeat(1, 3, 1)[:, :68], mesh=told.view(len(told), -1, 3))


@pytest.mark.parametrize(
    ("space", "one_net", "cycle"), [("s", False, True), ("w", False, True), ("s", True, True), ("s", False, False)]
)
def test_every_comparison_of_the_paper_trains(
    space: Any, one_net: bool, cycle: bool, small: StyleGAN2, tmp_path: Path
) -> None:
    settings = replace(QUICK, steps=3, batch=2, cycle=cycle)
    config = MaskConfig.of(small, space=space, one_net=one_net)
    torch.manual_seed(3)
    before = MaskNets(config).state_dict()
    nets = train(Trainer(tmp_path, precision="32"), small, Colours(), settings, None, config)
    after = nets.state_dict()
    assert all(not torch.equal(before[key], after[key]) for key in before), "every parameter learns"
    log = [json.loads(line) for line in (tmp_path / "stylemask" / "log.jsonl").read_text().splitlines()]
    assert ("cycle" in log[0]) == cycle and (tmp_path / "stylemask" / "samples.png").exists()
    assert (tmp_path / "stylemask" / "curves.png").exists()


def test_people_may_be_the_codes_of_prepared_clips(small: StyleGAN2, tmp_path: Path) -> None:
    class Codes:
        def batch(self, index: int, count: int, share: tuple[int, int]) -> dict[str, torch.Tensor]:
            return {"codes": small.map(torch.randn(count, small.config.z_dim))[:, None]}

    settings = replace(QUICK, steps=2, batch=2)
    source: Any = Codes()
    nets = train(Trainer(tmp_path, precision="32"), small, Colours(), settings, codes=source)
    assert isinstance(nets, MaskNets)
    source.batch = lambda *_: {"codes": torch.zeros(6, 1, small.num_ws, 3)}
    with pytest.raises(ValueError, match="another generator"):
        train(Trainer(tmp_path / "other", precision="32"), small, Colours(), settings, codes=source)


def test_the_built_in_family_trains_towards_what_the_generator_shows_of_the_factors(
    system: StyleMask, tmp_path: Path
) -> None:
    z = training.people(0, 6)
    assert z.shape == (3, 6, 4, LATENT_DIM)
    looks = np.setdiff1d(np.arange(len(world.NAMES)), world.MOTION_COLUMNS)
    plain = [np.allclose(mixed_values(each)[:, looks], world.neutral()[looks], atol=0.01) for each in z[:, 1::2]]
    assert plain == [False, True, True], "half of those who move others are the neutral head"
    source, target = (grouped_w(system.generator, torch.from_numpy(each).float()) for each in z[:2])
    values, moved = (mixed_values(each) for each in z[:2])
    values[:, world.MOTION_COLUMNS] = moved[:, world.MOTION_COLUMNS]
    known = training.exact_codes(source, target)
    with torch.inference_mode():
        still, shown, anew = (
            pictures(system.generator.synthesize(w)).astype(float)
            for w in (source, known, codes_of(system.generator, values))
        )
    assert np.abs(shown - anew).mean() < 0.5 * np.abs(still - anew).mean(), "which rows carry the motion"
    nets = system.mask_nets
    with torch.inference_mode():
        a, b, aim = (nets.vectors(system.generator, w) for w in (source, target, known))
        half = [(one + other) / 2 for one, other in zip(a, b, strict=True)]
        assert float(training.exact_loss(half, aim, a, b)) == pytest.approx(0.25, abs=1e-5)
        assert float(training.exact_loss(nets(a, b), aim, a, b)) < 0.002, "the shipped masks have learned it"

    identity = load_module(builtin("identity"), "identity", lambda config: IdentityNet())
    faces = training.WorldFaces(load_face(builtin("face")), identity)
    settings = replace(QUICK, steps=2, batch=2)
    train(Trainer(tmp_path, precision="32"), StyleGAN2.load(builtin("generator")), faces, settings)
    last = json.loads((tmp_path / "stylemask" / "log.jsonl").read_text().splitlines()[-1])
    assert 0 < last["exact"] < 0.3, "masks of a half, from where it begins, have .25"


@pytest.mark.parametrize("preset", [PAPER, CODE], ids=["paper", "code"])
def test_both_readings_bring_faces_nearer_to_their_ideals(
    preset: Settings, small: StyleGAN2, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    fixed = np.random.default_rng(5).standard_normal((3, 4, 8))
    monkeypatch.setattr(training, "latents", lambda index, count, width: fixed)
    losses = []
    for steps in (2, 40):
        folder = tmp_path / str(steps)
        settings = replace(preset, steps=steps, batch=4, rate=1e-2)
        train(Trainer(folder, precision="32"), small, Colours(), settings)
        lines = (folder / "stylemask" / "log.jsonl").read_text().splitlines()
        losses.append(json.loads(lines[-1]))
    assert losses[1]["shape"] < 0.9 * losses[0]["shape"] and losses[1]["cycle"] < 0.95 * losses[0]["cycle"]


def test_the_code_also_weighs_distances_of_mouth_and_eyes() -> None:
    points = torch.rand(2, 68, 2, generator=torch.Generator().manual_seed(0))
    moved = points.clone()
    moved[:, 62] += 0.1  # the middle of the upper inner lip: one mouth pair, no eye pair
    seen, ideal = Face(moved), Face(points)
    plain = shape_loss(seen, ideal, replace(CODE, pairs_weight=0.0))
    torch.testing.assert_close(plain, torch.tensor(0.1 / 68))
    apart = (((moved[:, 62] - moved[:, 66]).abs()) - (points[:, 62] - points[:, 66]).abs()).abs().sum() / (2 * 10 * 2)
    torch.testing.assert_close(shape_loss(seen, ideal, CODE), plain + apart)


@pytest.fixture(scope="module")
def system() -> StyleMask:
    return StyleMask.builtin()


@pytest.fixture(scope="module")
def clip(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Half a second of a face of the world that moves."""
    path = tmp_path_factory.mktemp("clip") / "clip.mp4"
    values = np.tile(world.neutral(), (12, 1))
    values[:, world.MOTION_COLUMNS] = world.natural_motion(3, 12)
    with VideoWriter(path, Fraction(25)) as writer:
        for v in world.align(values):
            writer.write(world.draw(v, 192).image)
        writer.finish()
    return path


def face_motion(**tracks: np.ndarray) -> Motion:
    frames = len(next(iter(tracks.values())))
    values = np.tile(world.neutral()[world.MOTION_COLUMNS], (frames, 1))
    for name, track in tracks.items():
        values[:, NAMES.index(name)] = track
    return Motion(values, FACE, NAMES, Fraction(25), np.ones((frames, 4), np.float32))


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
    runs = [
        np.stack(list(render(system, identity, motion, chunk=chunk, precision="32"))).astype(int) for chunk in (1, 3, 8)
    ]
    assert np.abs(runs[1] - runs[0]).max() <= 1 and np.abs(runs[2] - runs[0]).max() <= 1


def test_seeds_and_pictures_identify(system: StyleMask) -> None:
    assert torch.equal(system.identify(4).w, system.identify(4).w)
    assert not torch.equal(system.identify(4).w, system.identify(5).w)
    drawn = world.draw(world.align(world.from_latent(np.random.default_rng(2).standard_normal(LATENT_DIM))), 256).image
    assert system.identify(drawn).w.shape == system.identify(4).w.shape
    # The encoder's picture of it looks like that person to the identity net, and seeds look like others.
    net = load_module(builtin("identity"), "identity", lambda config: IdentityNet()).eval()
    shown = [portrait(system, system.identify(who)) for who in (drawn, *range(20, 26))]
    with torch.no_grad():
        first, *rest = net(torch.from_numpy(np.stack([drawn, *shown])).permute(0, 3, 1, 2) / 127.5 - 1)
    likeness = [float(first @ other) for other in rest]
    assert likeness[0] > 0.5 and likeness[0] > max(likeness[1:])


def test_codes_and_identities_identify_and_are_never_truncated(system: StyleMask) -> None:
    w = torch.randn(2, system.generator.num_ws, system.generator.config.w_dim)
    codes = Codes(w, "", Fraction(25), torch.ones(2, 4))
    identity = system.identify(codes, psi=0.5)
    assert torch.equal(identity.w, w[0]) and torch.equal(identity.tensors["placement"], torch.ones(4))
    assert torch.equal(system.identify(Identity(w[1], "other"), psi=0.5).w, w[1])
    with pytest.raises(ValueError, match="this generator takes"):
        system.identify(Identity(w[0, :3], "other"))
    drawn = world.draw(world.align(world.from_latent(np.random.default_rng(2).standard_normal(LATENT_DIM))), 256).image
    assert torch.equal(system.identify(drawn, psi=0.2).w, system.identify(drawn).w)


def test_codes_drive_and_relative_motion_of_a_still_driver_is_the_source(system: StyleMask) -> None:
    source = system.identify(1)
    codes = Codes(system.identify(2).w.repeat(3, 1, 1), "", Fraction(25), torch.ones(3, 4))
    moved, still = (
        np.stack(list(render(system, source, motion, precision="32"))).astype(int)
        for motion in (system.extract(codes), system.extract(codes, motion="relative"))
    )
    alone = portrait(system, source).astype(int)
    assert np.abs(moved - alone).mean() > 3 and np.abs(still - alone).max() <= 1
    with pytest.raises(ValueError, match="hold pose and expression in one"):
        list(render(system, source, system.extract(codes), parts="pose"))


def test_pose_and_expression_can_be_taken_alone(system: StyleMask) -> None:
    identity = system.identify(3)
    motion = face_motion(yaw=np.array([25.0]), jaw=np.array([1.0]))
    net = load_face(builtin("face")).eval()

    def shown(parts: Any) -> tuple[float, float]:
        frame = next(iter(render(system, identity, motion, parts=parts)))
        with torch.no_grad():
            values = net(torch.from_numpy(frame[None]).permute(0, 3, 1, 2) / 127.5 - 1).motion[0]
        return float(values[NAMES.index("yaw")]), float(values[NAMES.index("jaw")])

    with torch.no_grad():
        drawn = torch.from_numpy(portrait(system, identity)[None]).permute(0, 3, 1, 2) / 127.5 - 1
        own = net(drawn).motion[0]
    yaw, jaw = float(own[NAMES.index("yaw")]), float(own[NAMES.index("jaw")])
    whole, pose, expression = shown("all"), shown("pose"), shown("expression")
    assert abs(pose[0] - whole[0]) < abs(pose[0] - yaw) and abs(pose[1] - jaw) < abs(whole[1] - jaw)
    assert abs(expression[0] - yaw) < abs(whole[0] - yaw) and abs(expression[1] - whole[1]) < abs(expression[1] - jaw)


def test_strength_and_smoothing_change_what_they_say(system: StyleMask, clip: Path) -> None:
    plain, strong, slow = system.extract(clip), system.extract(clip, strength=2.0), system.extract(clip, smoothing=0.5)
    assert np.array_equal(plain.values[:, :6], strong.values[:, :6])
    np.testing.assert_allclose(2 * plain.values[:, 6:], strong.values[:, 6:], rtol=1e-6)
    assert np.abs(np.diff(slow.values, axis=0)).sum() < np.abs(np.diff(plain.values, axis=0)).sum()
    changes = system.extract(clip, motion="relative")
    assert changes.kind == FACE._replace(relative=True) and not changes.values[0].any()


def test_a_single_picture_drives_with_its_own_expression(system: StyleMask, tmp_path: Path) -> None:
    for name, factors in (("shut", {}), ("open", {"jaw": 1.0})):
        values = world.neutral()
        for factor, value in factors.items():
            values[world.NAMES.index(factor)] = value
        save_picture(tmp_path / f"{name}.png", world.draw(world.align(values), 256).image)
    shut, opened = (system.extract(tmp_path / f"{name}.png") for name in ("shut", "open"))
    assert len(shut) == 1 and abs(shut.column("yaw")[0]) < 6
    assert opened.column("jaw")[0] > shut.column("jaw")[0] + 0.4


def test_a_tuned_generator_shows_the_identity_everywhere(system: StyleMask) -> None:
    identity, motion = system.identify(5), face_motion(yaw=np.array([0.0, 10.0]))
    name = "synthesis.b256.torgb.bias"
    delta = {name: torch.full_like(dict(system.generator.named_parameters())[name], 0.25)}
    person = replace(identity, delta=delta)
    plain = [*render(system, identity, motion), portrait(system, identity)]
    shown = [*render(system, person, motion), portrait(system, person)]
    for a, b in zip(plain, shown):
        inside = (a > 60) & (a < 190)
        assert abs((b.astype(int) - a)[inside].mean() - 0.25 * 127.5) < 2
    assert not np.array_equal(dict(system.generator.named_parameters())[name].detach(), delta[name])
    affine = {"synthesis.b8.conv1.affine.bias": torch.full((system.generator.config.channels(8),), 3.0)}
    other = next(iter(render(system, replace(identity, delta=affine), motion)))
    assert not np.array_equal(other, plain[0]), "styles come from the tuned generator too"


def test_a_system_that_looks_at_its_own_portrait_sees_the_tuning_once(system: StyleMask) -> None:
    """Relative motion and parts start from what the portrait shows; with the tuning twice it would be another's."""
    identity = system.identify(5)
    name = "synthesis.b64.conv1.bias"
    noise = torch.randn(
        dict(system.generator.named_parameters())[name].shape, generator=torch.Generator().manual_seed(0)
    )
    person = replace(identity, delta={name: 0.3 * noise})
    motion = face_motion(yaw=np.array([0.0, 10.0]))
    relative = replace(motion, kind=motion.kind._replace(relative=True))
    by_hand = tuned(system, person)
    cases: list[tuple[Motion, dict[str, Any]]] = [(relative, {}), (motion, {"parts": "expression"})]
    for moved, options in cases:
        shown = list(render(system, person, moved, **options))
        assert np.array_equal(shown, list(render(by_hand, identity, moved, **options)))


def test_half_precision_shows_the_same(system: StyleMask) -> None:
    identity, motion = system.identify(5), face_motion(yaw=np.array([0.0, 10.0]))
    pair = [np.stack(list(render(system, identity, motion, precision=p))).astype(int) for p in ("32", "bf16")]  # type: ignore[arg-type]
    assert np.square(pair[0] - pair[1]).mean() < 2 and np.abs(pair[0] - pair[1]).max() > 0


def test_mistakes_are_explained(system: StyleMask) -> None:
    with pytest.raises(ValueError, match="seed is 0 or more"):
        system.identify(-1)
    with pytest.raises(ValueError, match="psi is between 0 and 1"):
        system.identify(1, psi=3.0)
    with pytest.raises(ValueError, match="No face was found"):
        system.identify(np.full((200, 200, 3), 128, np.uint8))


def test_codes_by_the_mapping_show_the_motion_better_than_inverted_drawings(system: StyleMask) -> None:
    z = np.random.default_rng(12).standard_normal((2, 12, LATENT_DIM))
    source, driver = world.from_latent(z)
    motion = driver[:, world.MOTION_COLUMNS]
    exact = source.copy()
    exact[:, world.MOTION_COLUMNS] = motion
    exact = world.align(exact)
    images = np.stack([world.draw(values, 256).image for values in exact]) / 255.0
    drawing = StyleMask(system.generator, system.encode, system.mask_nets)
    w = system.generator.map(torch.from_numpy(z[0]).float())
    errors = []
    for each in (system, drawing):
        shown = pictures(each.generator.synthesize(s=each.mix(w, each.target_codes(motion)))) / 255.0
        errors.append(-10 * np.log10(np.square(shown - images).mean((1, 2, 3))))
    assert errors[0].mean() > 24 and errors[0].mean() > errors[1].mean()
