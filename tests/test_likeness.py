"""From a photograph to the drawn person: colours, shape, corrections, the recipe's spoiling, and the whole way."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from people import drawn_person

import stylereel
from stylereel import world
from stylereel.cli import main
from stylereel.core.builtin import builtin
from stylereel.core.latents import Identity
from stylereel.faces import placement
from stylereel.faces.backend import track_picture
from stylereel.family.likeness import LikenessNet, load_likeness
from stylereel.family.nets import PARSED, load_face
from stylereel.family.people import Batch
from stylereel.generator import StyleGAN2
from stylereel.invert.person import BOUND, View, fit_colours, fit_shape, painter, refine
from stylereel.invert.regions import bridge, lamp, measure, skin_mask
from stylereel.invert.words import age_of, correct, has_fringe, is_tied, length_of, style_of, table
from stylereel.media.colour import delta_e, lab, linear, srgb
from stylereel.media.pictures import save_picture
from stylereel.recipes import likeness as recipe
from stylereel.systems.sources import composed, read_photograph
from stylereel.systems.stylemask.system import StyleMask
from stylereel.world.factors import INDEX, MOTION, to_normal
from stylereel.world.hair import STYLE_EDGES


def test_delta_e_is_that_of_the_published_pairs() -> None:
    for first, second, expected in (  # Sharma, Wu and Dalal (2005), table 1: rows 1, 13, 17, 25, 34
        ((50, 2.6772, -79.7751), (50, 0, -82.7485), 2.0425),
        ((50, 2.49, -0.001), (50, -2.49, 0.0009), 7.1792),
        ((60.2574, -34.0099, 36.2677), (60.4626, -34.1751, 39.4387), 1.2644),
        ((22.7233, 20.0904, -46.6940), (23.0331, 14.9730, -42.5619), 2.0373),
        ((2.0776, 0.0795, -1.1350), (0.9033, -0.0636, -0.5514), 0.9082),
    ):
        assert abs(delta_e(np.array(first), np.array(second)) - expected) < 1e-4
    levels = np.arange(256.0)
    np.testing.assert_allclose(srgb(linear(levels)), levels, atol=1e-9)


def test_shape_and_pose_are_found_from_landmarks() -> None:
    true = drawn_person(face_width=0.7, nose_length=-0.6, eye_distance=0.6, mouth_width=-0.5, yaw=-12)
    marks = world.project_landmarks(true)[0]
    found = fit_shape(marks, drawn_person()[: len(MOTION)])  # another pose than the true one
    assert np.abs(world.project_landmarks(found)[0] - marks).mean() < 0.004
    for name in ("face_width", "nose_length", "eye_distance", "mouth_width"):
        assert np.sign(found[INDEX[name]]) == np.sign(true[INDEX[name]]), name
    assert abs(found[INDEX["yaw"]] - true[INDEX["yaw"]]) < 4
    assert np.abs(to_normal(found)).max() < 2.7  # still a person


def test_colours_of_the_drawn_person_become_those_asked_for() -> None:
    def draw(values: np.ndarray) -> np.ndarray:
        return world.draw(values, 256).image

    target = {"skin": np.array([150.0, 105.0, 85.0]), "hair": np.array([170.0, 135.0, 95.0])}
    found = fit_colours(drawn_person(skin_tone=0.1, hair_light=0.0, hair_gray=0.0), target, draw)
    again = world.draw(found, 256)
    regions = np.array([min(index, 12) for index in range(14)])[again.regions[2::4, 2::4]]
    seen = measure(again.image, again.landmarks, regions)
    for part, colour in target.items():
        assert delta_e(lab(seen[part]), lab(colour)) < 9, part


def test_the_light_of_a_photograph_is_taken_out_in_part() -> None:
    portrait = world.draw(drawn_person(skin_tone=0.35), 256)
    warm = np.rint(srgb(linear(portrait.image) * (0.62, 0.5, 0.3))).astype(np.uint8)
    light, white = lamp(warm, portrait.landmarks), lamp(portrait.image, portrait.landmarks)
    assert light[0] / light[2] > 1.3 * white[0] / white[2] and light.mean() < 0.85 * white.mean()
    gray = np.repeat(portrait.image.mean(-1, keepdims=True), 3, axis=-1).astype(np.uint8)
    assert len(set(lamp(gray, portrait.landmarks))) == 1  # no colour is invented
    assert skin_mask(portrait.landmarks * 256, (256, 256)).sum() > 300


def test_the_bridge_of_glasses_is_a_line_on_the_nose() -> None:
    lines = {}
    for worn in (0.0, 0.9):
        portrait = world.draw(drawn_person(glasses=worn, glasses_tint=0), 256)
        lines[worn] = bridge(portrait.image, portrait.landmarks)
    assert lines[0.9] > 2.5 > lines[0.0]


def test_corrections_by_name() -> None:
    values = drawn_person(beard=0.9)
    found = correct(values, ["beard=0", "hair=curls", "glasses=round", "age=older", "nose_width=0.5"])
    assert found[INDEX["beard"]] == 0 and style_of(found) == "curly" and found[INDEX["nose_width"]] == 0.5
    assert found[INDEX["glasses"]] > 0.5 and age_of(found) == "older" and values[INDEX["beard"]] > 0.8
    assert is_tied(correct(values, ["hair=tied"])) and length_of(correct(values, ["hair=long"])) == "long"
    assert length_of(correct(values, ["hair=short"])) == "short" and has_fringe(correct(values, ["hair=fringe"]))
    assert age_of(correct(values, ["face=child"])) == "child"
    for wrong, sentence in (
        ("berd=0", "did you mean beard"),
        ("hair=purple", "hair takes shaved, buzz"),
        ("beard", "name=value"),
        ("=curls", "name=value"),
        ("beard=2", "between 0 and 1"),
    ):
        with pytest.raises(ValueError, match=sentence):
            correct(values, [wrong])


def test_spoiled_portraits_keep_their_labels_and_depend_on_the_seed_alone() -> None:
    half = recipe.portraits(0)
    batch = Batch(*(torch.cat([part[:4], part[:4]]) for part in half))
    first, hidden = recipe.spoil(batch, 5)
    second, _ = recipe.spoil(batch, 5)
    assert torch.equal(first.images, second.images) and first.images.abs().max() <= 1
    assert hidden.shape == (8, 1, recipe.INPUT, recipe.INPUT) and first.regions.shape == batch.regions.shape
    assert (first.images[:4] - first.images[4:]).abs().mean() > 0.05  # each use of a portrait differs
    style, worn, cut = recipe.targets(half.values.numpy())
    assert len(style.unique()) > 4 and 0 < worn.mean() < 0.6 and cut.abs().max() <= 3


def test_the_net_takes_over_the_face_net_and_all_of_it_learns() -> None:
    net = LikenessNet()
    net.start(load_face(builtin("face")))
    seen = net(torch.rand(2, 3, 192, 192) * 2 - 1)
    assert seen.styles.shape == (2, 10) and seen.regions.shape[2:] == (64, 64)
    torch.stack([part.float().square().sum() + part.sum() for part in seen]).sum().backward()
    net.heads.weight.data.normal_(0, 0.01)
    net.zero_grad()
    parts = net(torch.rand(2, 3, 192, 192))
    torch.stack([part.float().square().sum() + part.sum() for part in parts]).sum().backward()
    assert all(parameter.grad is not None and parameter.grad.abs().sum() > 0 for parameter in net.parameters())
    assert load_likeness(builtin("likeness")).offsets.abs().max() > 0.005


def test_a_photograph_is_read_drawn_and_corrected(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    style = float(STYLE_EDGES[6:8].mean())
    true = drawn_person(glasses=0.95, glasses_tint=0, hair_style=style, hair_length=0.8, hair_light=0.0)
    photo = world.draw(true, 400).image.astype(float)
    photo = np.clip(photo * (0.55, 0.75, 0.5) + np.random.default_rng(0).normal(0, 4, photo.shape), 0, 255)
    save_picture(tmp_path / "photo.png", photo.astype(np.uint8))
    out = tmp_path / "who.safetensors"
    assert main(["identify", str(tmp_path / "photo.png"), "--out", str(out), "--likeness", "drawn"]) == 0
    printed = capsys.readouterr().out
    assert "glasses" in printed and "long" in printed and str(out) in printed
    record = json.loads(out.with_suffix(".json").read_text())
    assert record["factors"]["glasses"] > 0.5 and record["factors"]["hat"] == 0
    assert (tmp_path / "who.png").exists()
    # The identity can be corrected again, by any command that takes one.
    identity, system = Identity.load(out), stylereel.load("stylemask")
    other = system.identify(identity, set_=("glasses=0", "hair=short"))
    assert other.tensors["factors"][INDEX["glasses"]] == 0 and not torch.equal(other.w, identity.w)
    seed = system.identify(7, set_=("beard=0.9",))
    assert not torch.equal(seed.w, system.identify(7).w)
    bare = Identity(identity.w, "stylemask")
    with pytest.raises(ValueError, match="--set corrects a photograph"):
        system.identify(bare, set_=("beard=0",))
    assert (
        main(["identify", str(tmp_path / "photo.png"), "--out", str(tmp_path / "b.safetensors"), "--set", "berd=0"])
        == 2
    )
    assert "did you mean beard" in capsys.readouterr().err and not (tmp_path / "b.safetensors").exists()


def test_landmarks_of_a_photograph_stay_where_they_were_read() -> None:
    """What the readers see otherwise in drawn faces is no fault in photographs: corners of mouths were 4 pixels off."""
    drawn = world.draw(drawn_person(smile=0), 400).image
    photo = (255 * (drawn / 255.0) ** 1.8).round().astype(np.uint8)
    track, system = track_picture(photo), StyleMask.builtin()
    person = read_photograph(system.generator, photo, track)
    row = placement.align(track.landmarks[0])
    np.testing.assert_allclose(person.marks, placement.to_crop(track.landmarks[0], row), atol=1e-4)
    assert len(person.irises) == (0 if track.points is None else 2)
    assert composed(system, person, row).tensors["irises"].shape == (len(person.irises), 3)


def test_refining_stays_a_person_near_the_one_who_was_read() -> None:
    generator = StyleGAN2.load(builtin("generator")).eval().requires_grad_(False)
    start, other = drawn_person(hair_light=0.1), world.draw(drawn_person(hair_light=0.9, skin_tone=0.9), 256)
    regions = np.zeros((len(PARSED), 64, 64), np.float32)
    seen = View(other.image, other.landmarks, regions, np.ones(3), gray=False)
    found = refine(generator, start, seen, steps=3)
    moved = to_normal(found) - np.clip(to_normal(start), -2.2, 2.2)
    kept = [INDEX[name] for name in MOTION]
    assert 0.01 < np.abs(moved).max() < BOUND + 0.02 and np.abs(to_normal(found)).max() < 2.6
    np.testing.assert_allclose(moved[kept], 0, atol=0.02)
    target = torch.from_numpy(other.image.astype(np.float32)) / 127.5 - 1

    def away(values: np.ndarray) -> float:
        return float(
            (torch.from_numpy(painter(generator)(values).astype(np.float32)) / 127.5 - 1 - target).square().mean()
        )

    assert away(found) < away(start)


def test_what_was_read_in_words() -> None:
    from stylereel.invert.person import Person

    lines = table(
        Person(correct(drawn_person(), ["hat=cap", "moustache=yes"]), {"hat": 0.9}, {"skin": np.array([200, 150, 120])})
    )
    assert lines["hat"] == "cap (90 % sure)" and lines["moustache"] != "none" and lines["skin colour"] == "#c89678"
