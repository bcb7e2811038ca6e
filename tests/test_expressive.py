"""Expressive: the search on planted channels, the code, the system on built-in weights, and optimisation."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import replace
from fractions import Fraction
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from stylereel import systems, world
from stylereel.commands.train import train
from stylereel.core.builtin import builtin
from stylereel.core.latents import FACE, Codes, Identity, Motion
from stylereel.core.render import pictures, render
from stylereel.family.nets import load_face
from stylereel.family.people import motion_codes
from stylereel.generator.style_space import StyleLayer, StyleSpace
from stylereel.invert.networks import encoded
from stylereel.systems.expressive import fit, search, study, training
from stylereel.systems.expressive.channels import Channels, ChannelsConfig, load_channels
from stylereel.systems.expressive.pose import Linear, Mapping, motion_with
from stylereel.systems.expressive.reader import mirror, targets, through_blinks
from stylereel.systems.expressive.system import TALK, Expressive
from stylereel.systems.stylemask.system import StyleMask
from stylereel.world.factors import HIGH, LOW, MOTION, MOTION_COLUMNS

POINTS = torch.from_numpy(world.project_landmarks(world.neutral())[0]).float()[None]
PLANTED = {3: "mouth", 9: "eyes", 14: "brows", 21: "mouth"}
ROOM = {"mouth": (0.29, 0.53, 0.71, 0.86), "eyes": (0.29, 0.35, 0.71, 0.5), "brows": (0.26, 0.29, 0.73, 0.42)}


class Planted:
    """A generator whose channels brighten a part of the image: the planted ones a region, the others everything."""

    resolution, mean_w = 128, torch.zeros(4)
    style_layers = tuple(StyleLayer(i, f"b{i}", "conv", i, 128, 8) for i in range(5))

    def __init__(self) -> None:
        self.style_space = StyleSpace(self.style_layers)
        areas = search.masks(POINTS, 128)[0]
        self.shapes = 0.02 * torch.randn(40, 3, 128, 128, generator=torch.Generator().manual_seed(0))
        for channel, region in PLANTED.items():
            self.shapes[channel] = 0.5 * (1 + channel / 40) * areas[search.REGIONS.index(region)]

    def synthesize(self, s: list[Tensor], **_: Any) -> Tensor:
        return torch.einsum("bn,nchw->bchw", torch.cat(s, 1), self.shapes)


class Plain:
    """Distances of colours, next to a constant that keeps their lengths comparable."""

    def maps(self, images: Tensor) -> list[tuple[Tensor, float]]:
        return [(torch.cat([images, torch.ones_like(images[:, :1])], 1), 1.0)]


def planted() -> tuple[Any, Tensor, Tensor]:
    generator: Any = Planted()
    places = search.searched(generator)
    frames = 0.1 * torch.randn(2, 40, generator=torch.Generator().manual_seed(1))
    find = lambda images: POINTS.expand(len(images), -1, -1)  # noqa: E731
    unit, perceptual = torch.ones(40), Plain()
    found = [search.sensitivity(generator, one, find, perceptual, places, unit) for one in frames.split(1)]  # type: ignore[arg-type]
    return generator, places, torch.stack(found)


def test_the_search_finds_exactly_what_was_planted() -> None:
    _, places, found = planted()
    assert places[0] == 16  # StyleSpace's first two layers are not tried
    is_local, strength = search.local(found)
    chosen = {
        int(places[index]): search.REGIONS[int(strength[:, index].argmax())] for index in is_local.any(0).nonzero()
    }
    assert chosen == {channel: region for channel, region in PLANTED.items() if channel >= 16}


def test_channels_that_carry_a_change_are_chosen_and_show_it() -> None:
    random = torch.Generator().manual_seed(2)
    slopes, mix = torch.randn(12, 500, generator=random), torch.randn(3, 12, generator=random)
    slopes[6:] *= 0.05  # channels that hardly show
    products = (slopes @ slopes.T).repeat(4, 1, 1)
    changes = torch.randn(200, 3, generator=random) @ mix
    carried = search.Carry(products, changes.T @ changes / len(changes))
    chosen = search.choose(carried, range(12), 6)
    assert set(chosen) == set(range(6)) and carried.left(chosen) < 0.02 < carried.left(chosen[:2])
    matrix, unit = search.coder(carried, chosen, 3)
    shown = (changes @ matrix.T * unit) @ slopes[chosen]
    assert (shown - changes @ slopes).square().mean() < 0.03 * (changes @ slopes).square().mean()


def test_regions_are_where_they_should_be() -> None:
    areas = search.masks(POINTS, 128)[0]
    for name, (left, top, right, bottom) in ROOM.items():
        area = areas[search.REGIONS.index(name)]
        inside = area[int(128 * top) : int(128 * bottom), int(128 * left) : int(128 * right)]
        assert inside.max() > 0.9 and inside.sum() > 0.5 * area.sum(), name
        assert area[:20].max() == 0
    head = search.masks_of_head(POINTS, 128)[0, 0]
    assert (head > 0.5)[areas[1] > 0.9].all() and head[0].max() == 0


@pytest.fixture(scope="module")
def system() -> Expressive:
    loaded = systems.load("expressive", device="cpu")
    assert isinstance(loaded, Expressive)
    return loaded


def talk(frames: int = 12, seed: int = 5) -> Motion:
    values = world.natural_motion(seed, 60, manner="expressions")[::5][:frames]
    return Motion(values, FACE, MOTION, Fraction(25), np.tile(np.array([64, 64, 128, 0], np.float32), (frames, 1)))


def images_of(system: Expressive, identity: Any, motion: Motion) -> np.ndarray:
    return np.stack(list(render(system, identity, motion, precision="32"))).astype(float)


def test_thirty_five_numbers_show_what_all_styles_do(system: Expressive) -> None:
    """Against the generator given the motion's own codes in all rows of pose and expression."""
    identity, motion = system.identify(7), talk(4)
    codes = motion_codes(system.generator, motion.values)
    whole = identity.w[None].expand(4, -1, -1).clone()
    whole[:, [0, 1, 4, 5]] = codes[:, [0, 1, 4, 5]]
    with torch.inference_mode():
        best = ((system.generator.synthesize(whole).clamp(-1, 1) + 1) * 127.5).permute(0, 2, 3, 1).numpy()
    shown = images_of(system, identity, motion)
    assert 10 * np.log10(255**2 / np.square(shown - best).mean()) > 45


def test_faces_and_their_numbers_are_one_motion(system: Expressive) -> None:
    motion, identity = talk(), system.identify(3)
    numbers = system.encode_face(motion)
    assert numbers.kind == TALK and numbers.values.shape == (12, 35) and len(set(numbers.names)) == 35
    first, second = images_of(system, identity, motion), images_of(system, identity, numbers)
    assert np.abs(first - second).max() <= 1
    alone = images_of(system, identity, numbers.part(7, 8))
    assert np.abs(alone[0] - second[7]).max() <= 1  # any frame by itself
    other = images_of(system, system.identify(4), numbers)
    assert np.abs(other - second).mean() > 5


def test_a_reader_reads_drawn_people(system: Expressive) -> None:
    values = world.align(np.stack([world.person(seed) for seed in range(70, 82)]))
    images = torch.from_numpy(np.stack([world.draw(one, 256).image for one in values])).permute(0, 3, 1, 2) / 127.5 - 1
    read = system.read_images(images)
    truth = values[:, MOTION_COLUMNS]
    for name, least in {"yaw": 0.98, "pitch": 0.95, "jaw": 0.85, "blink_left": 0.9, "smile": 0.85}.items():
        place = MOTION.index(name)
        assert np.corrcoef(read[:, place], truth[:, place])[0, 1] > least, name
    mirrored = system.read_images(images.flip(-1))
    seen = truth[:, [MOTION.index("blink_left"), MOTION.index("blink_right")]].max(1) < 0.5
    for name, sign in {"gaze_x": -1, "gaze_y": 1}.items():
        place = MOTION.index(name)
        for found, factor in ((read, 1), (mirrored, sign)):
            assert np.corrcoef(found[seen, place], factor * truth[seen, place])[0, 1] > 0.9, name


def test_a_mirrored_face() -> None:
    values = np.zeros((1, len(MOTION)), np.float32)
    for name, value in {"gaze_x": 0.5, "gaze_y": 0.3, "brow_left": 0.7, "blink_right": 1, "smile_side": -0.2}.items():
        values[0, MOTION.index(name)] = value
    once = mirror(torch.from_numpy(values), MOTION)
    found = dict(zip(MOTION, once[0].tolist()))
    assert [found[name] for name in ("gaze_x", "gaze_y")] == pytest.approx([-0.5, 0.3])
    assert [found[name] for name in ("brow_left", "brow_right", "blink_left")] == pytest.approx([0, 0.7, 1])
    assert found["smile_side"] == pytest.approx(0.2)
    assert torch.equal(mirror(once, MOTION), torch.from_numpy(values))


def test_half_of_a_persons_portraits_differ_in_expression_alone() -> None:
    images, motion = training.portraits(5)
    half = len(motion) // 2
    assert images.shape == (8, 256, 256, 3) and np.ptp(motion[:half, :2], 0).max() < 1e-3 < motion[half:, :2].std()
    assert (motion[:half].std(0)[len(MOTION) - 14 :] > 0.01).all()


def test_a_gaze_goes_through_blinks() -> None:
    values = np.zeros((6, len(MOTION)), np.float32)
    place, lids = MOTION.index("gaze_y"), [MOTION.index(f"blink_{side}") for side in ("left", "right")]
    values[:, place], values[2:4, lids] = [0, 0.1, 5, -5, 0.4, 0.5], 0.9
    np.testing.assert_allclose(through_blinks(values)[:, place], [0, 0.1, 0.2, 0.3, 0.4, 0.5], atol=1e-6)
    values[:, lids] = 1
    assert np.array_equal(through_blinks(values), values)


def test_the_frame_that_says_who_it_is(system: Expressive) -> None:
    """Of frames by codes of two people, those whose crop is another's are not taken."""
    w = torch.stack([system.identify(seed).w for seed in (3, 5, 3)])
    with torch.inference_mode():
        crops = pictures(system.generator.synthesize(w))
    crops[[0, 1]] = crops[[1, 0]]
    assert fit.best_of(system.generator, w, crops) == 2


def test_a_drawn_person_is_encoded_in_a_loop(system: Expressive) -> None:
    crop = world.draw(world.align(world.person(7_000_001)[None])[0], 256).image
    w = encoded(system.encode, crop[None])[0]
    again = fit.looped(system.generator, system.encode, w, crop)
    with torch.inference_mode():
        shown = pictures(system.generator.synthesize(torch.stack([w, again]))).astype(float)
    errors = np.square(shown - crop).mean((1, 2, 3))
    assert errors[1] < 0.95 * errors[0]

    class Same(torch.nn.Linear):
        def forward(self, images: Tensor) -> Tensor:
            return w[None]

    assert torch.equal(fit.looped(system.generator, Same(1, 1), w, crop), w)


def test_a_persons_code_comes_closer_by_optimisation(system: Expressive, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(fit, "PERSON_STEPS", 30)  # of 45; it begins half of the way to a reading that is further off
    crop = world.draw(world.align(world.person(7_000_001)[None])[0], 256).image
    w = encoded(system.encode, crop[None])[0]
    codes = torch.stack(
        [
            fit.looped(system.generator, system.encode, w, crop),
            fit.person(system.generator, system.encode, system.face, w, crop),
        ]
    )
    with torch.inference_mode():
        shown = pictures(system.generator.synthesize(codes)).astype(float)
    errors = np.square(shown - crop).mean((1, 2, 3))
    assert errors[1] < 0.8 * errors[0]


class Shown:
    """A clip of given frames."""

    path, has_audio = Path("shown.mp4"), False

    def __init__(self, frames: np.ndarray) -> None:
        self.frames, self.rate, self.num_frames = frames, Fraction(25), len(frames)

    def __iter__(self) -> Iterator[np.ndarray]:
        return iter(self.frames)


def test_reading_is_refined_and_a_frame_chosen(system: Expressive) -> None:
    identity, motion = system.identify(4), talk(3)
    motion.values[0, 0], motion.values[1:, 0] = 30, 2
    clip: Any = Shown(images_of(system, identity, motion).astype(np.uint8))
    found = system.encode_face(motion)
    placed = replace(found, placement=np.tile(np.array([128, 128, 256, 0], np.float32), (3, 1)))
    assert system.choose_frame(clip, placed) in (1, 2)
    better = system._refined(clip, placed, 2)
    assert np.array_equal(better.values[:, :3], placed.values[:, :3])
    assert 0 < np.abs(better.values[:, 3:] - placed.values[:, 3:]).max() < 1
    noise = np.random.default_rng(0).integers(0, 255, clip.frames.shape).astype(np.uint8)
    other: Any = Shown(noise)
    with pytest.raises(ValueError, match="leave it out here"):
        system._refined(other, placed, 2)
    for wrong in ({"refine": -1}, {"refine": 3, "reading": "points"}):
        with pytest.raises(ValueError, match="--refine takes 0 steps or more"):
            system.extract(clip, **wrong)  # type: ignore[arg-type]


def test_a_person_is_tuned_to_the_clip(system: Expressive) -> None:
    identity, motion = system.identify(4), system.encode_face(talk(5))
    motion = replace(motion, placement=np.tile(np.array([128, 128, 256, 0], np.float32), (5, 1)), missing=(2,))
    frames = images_of(system, identity, motion).astype(np.uint8)
    clip: Any = Shown((255 - 0.8 * (255 - frames.astype(float))).round().astype(np.uint8))  # brighter
    better = system.tune(identity, clip, motion, 2)
    assert torch.equal(better.w, identity.w) and better.delta and not identity.delta
    errors = [np.abs(images_of(system, each, motion) - clip.frames).mean() for each in (identity, better)]
    assert errors[1] < 0.9 * errors[0]


def test_edits_and_factors_change_the_numbers(system: Expressive) -> None:
    """A factor's change is added to the numbers; an edit changes who is shown meanwhile, and no number."""
    motion, identity = talk(3), system.identify(6)
    numbers = system.encode_face(motion)
    open_ = replace(motion, values=motion.values.copy())
    open_.values[:, MOTION.index("jaw")], open_.values[:, MOTION.index("yaw")] = 0.9, 20
    changed = system.with_factors(numbers, motion, open_)
    assert np.allclose(changed.values, system.encode_face(open_).values, atol=1e-4)
    named = replace(
        numbers,
        names=(*numbers.names, "edit a"),
        values=np.concatenate([numbers.values, np.array([[0], [0], [2]], np.float32)], 1),
    )
    taught = replace(identity, tensors={"edit a": 0.3 * torch.ones_like(identity.w)})
    plain, edited = images_of(system, identity, numbers), images_of(system, taught, named)
    assert np.abs(plain[:2] - edited[:2]).max() <= 1 < np.abs(plain[2] - edited[2]).mean()


def test_codes_drive(system: Expressive) -> None:
    motion = talk(6)
    w = motion_codes(system.generator, motion.values).clone()
    found = system.extract(Codes(w, "", Fraction(25), torch.ones(6, 4)))
    direct = system.encode_face(motion).values
    assert np.abs(found.values[:, 3:] - direct[:, 3:]).max() < 0.02
    assert np.corrcoef(found.values[:, 0], motion.values[:, 0])[0, 1] > 0.95 or motion.values[:, 0].std() < 1


def test_relative_motion_begins_with_the_own_face(system: Expressive) -> None:
    numbers = system.encode_face(talk(3))
    still = replace(numbers, values=np.zeros_like(numbers.values), kind=TALK._replace(relative=True))
    identity = system.identify(11)
    resting = replace(numbers, values=np.zeros_like(numbers.values))
    own = np.stack(list(render(system, identity, still, precision="32"))).astype(float)
    with torch.inference_mode():
        portrait = system.portrait(identity).synthesize(system.generator)[0].clamp(-1, 1)
    seen = (portrait.permute(1, 2, 0).numpy() + 1) * 127.5
    at_rest = next(iter(render(system, identity, resting, precision="32"))).astype(float)
    assert np.abs(own[0] - seen).mean() < 0.2 * np.abs(at_rest - seen).mean()


def test_optimisation_goes_on_from_the_code_and_keeps_pupils_in_blinks(system: Expressive) -> None:
    motion, identity = talk(3), system.identify(9)
    numbers = torch.from_numpy(system.encode_face(motion).values)
    with torch.inference_mode():
        base = system.base(identity.w[None], numbers[:, :3])
        flat = system.channels.apply_to(base, numbers[:, 3:])
        images = search.paint(system.generator, flat)
        points = system.face(images).landmarks
    base, images, points = base.clone(), images.clone(), points.clone()
    points[1, [37, 38, 43, 44]] = points[1, [41, 40, 47, 46]]  # closed
    from stylereel.invert.perceptual import Perceptual

    perceptual = Perceptual.best()
    start = 0.8 * numbers[:, 3:]
    found = fit.refine(system.generator, system.channels, lambda part: base[part], images, points, start, perceptual, 4)
    assert (found.after <= found.before).all() and float(found.after.sum()) < float(found.before.sum())
    pupils = [name.startswith("pupils") for name in system.channels.names]
    if any(pupils):
        assert torch.equal(found.values[1, pupils], start[1, pupils])
    way = Mapping(system.generator)
    turned = torch.tensor([[12.0, 4.0, 0.0]])
    with torch.inference_mode():
        w = way(system.plain(identity.w[None]), torch.zeros(1, 3), turned)
        target = search.paint(system.generator, system.generator.style_space.flatten(system.generator.styles(w)))
        points = system.face(target).landmarks
    angles = fit.search_angles(
        system.generator, way, system.plain(identity.w[None]), torch.zeros(1, 3), target, points, perceptual,
        turned + torch.tensor([[4.0, -2.0, 1.0]]), 6,
    )  # fmt: skip
    assert (angles.values - turned).abs().sum() < 4 and float(angles.after) < float(angles.before)


def test_a_linear_direction_turns(system: Expressive) -> None:
    angles = torch.from_numpy(np.random.default_rng(0).uniform(-10, 10, (64, 3))).float()
    codes = motion_codes(system.generator, motion_with(angles.numpy()))
    way = Linear.fit(codes[:, 0], angles)
    moved = way(codes[:1], angles[:1], angles[1:2])
    assert (moved[:, 0] - codes[1:2, 0]).norm() < 0.7 * (codes[:1, 0] - codes[1:2, 0]).norm()
    assert torch.equal(moved[:, 2:], codes[:1, 2:])


def test_files_of_channels(system: Expressive, tmp_path: Any) -> None:
    assert system.weight_files[0] == builtin("generator") and len(system.channels.names) == 32
    other: Any = SimpleNamespace(style_space=StyleSpace(system.generator.style_layers[:4]))
    with pytest.raises(ValueError, match="stylereel train expressive"):
        load_channels(builtin("expressive"), other)
    bare = Channels(ChannelsConfig(system.channels.config.names, system.channels.config.size))
    bare.load_state_dict({key: value for key, value in system.channels.state_dict().items() if "reader" not in key})
    mute = Expressive(system.generator, None, bare, system.face)
    with pytest.raises(ValueError, match="--reading points"):
        mute.read_images(torch.zeros(1, 3, 64, 64))
    with pytest.raises(ValueError, match="--reading takes"):
        system.extract(str(tmp_path / "no.mp4"), reading="eyes")  # type: ignore[arg-type]


def test_a_small_study(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """All of its parts, as small as they go, kept for a second run; claims say what was measured."""
    for name, value in {"STEPS": 1, "PASSES": 1, "FLOW_STEPS": 2, "OTHERS": ("stylemask",)}.items():
        monkeypatch.setattr(study, name, value)
    monkeypatch.setattr(fit, "PERSON_STEPS", 1)
    ways = study.pose_ways
    monkeypatch.setattr(study, "pose_ways", lambda one: {k: v for k, v in ways(one).items() if k != "linear"})
    for kind in (Expressive, StyleMask):  # no person is read, which takes long
        monkeypatch.setattr(kind, "identify", lambda self, image: Identity(encoded(self.encode, image[None])[0], "a"))
    study.reproduce(out=str(tmp_path / "a"), clips=2, frames=4, pairs=2, device="cpu")
    report = json.loads((tmp_path / "a" / "report.json").read_text())
    rows = report["rows"]
    assert {"the code of one pass", "the person optimised after it", "tuned", "puppets: stylemask"} <= rows.keys()
    assert rows["puppets: expressive"]["Frechet of mouths"]["value"] > 0
    assert rows["pose by flow, searched"]["pose loss"]["value"] <= rows["pose by flow, put in"]["pose loss"]["value"]
    assert len(report["claims"]) == 14 and all("here;" in claim["sentence"] for claim in report["claims"])
    kept = sorted((tmp_path / "a" / "trainings").iterdir())
    monkeypatch.setattr(study, "one_clip", None)
    monkeypatch.setattr(study, "puppeteer", None)
    files = study.reproduce(out=str(tmp_path / "a"), clips=2, frames=4, pairs=2, device="cpu", overwrite=True)
    assert len(kept) == 3 and files[0].read_text().count("| puppets: ") == 2


def test_the_reader_learns_frames_of_prepared_clips_by_their_coefficients(tmp_path: Path) -> None:
    face = load_face(builtin("face"))
    drawn = [world.draw(world.align(world.neutral()[None])[0], 256).image] * 2
    images = torch.from_numpy(np.stack(drawn)).permute(0, 3, 1, 2).float() / 127.5 - 1
    motion = np.tile(world.neutral()[MOTION_COLUMNS], (2, 1)).astype(np.float32)
    motion[1, MOTION.index("jaw")] = 7  # beyond what the world knows

    class Clips:
        def batch(self, index: int, count: int) -> dict[str, Tensor]:
            return {"clips": images[:, None], "coefficients": torch.from_numpy(motion)[:, None]}

    clips: Any = Clips()
    found = training.gather_frames(face, clips, 3)
    assert len(found["inputs"]) == 6 and found["inputs"].isfinite().all()
    limit = np.clip(motion, LOW[MOTION_COLUMNS], HIGH[MOTION_COLUMNS])
    torch.testing.assert_close(found["targets"][2:4], targets(limit))
    clips.batch = lambda *_: {"clips": images[:, None], "coefficients": torch.zeros(2, 1, 3)}
    with pytest.raises(ValueError, match="prepare them anew"):
        training.gather_frames(face, clips, 1)
    with pytest.raises(ValueError, match="leave out --data"):
        train("expressive", folder=str(tmp_path), options={"data": "shards", "generator": "ffhq.pkl"})
