"""Measures of faces and identity: known moves give known numbers, people of the world are told apart."""

from fractions import Fraction
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from numpy.testing import assert_allclose

from stylereel import world
from stylereel.core.latents import CODES, FACE, Identity, Motion
from stylereel.core.system import Frames
from stylereel.faces.coefficients import NAMES, coefficients
from stylereel.metrics import exact, faces, likeness
from stylereel.metrics.registry import Clip, Unfit, find
from stylereel.world.factors import INDEX, LATENT_DIM

MOTION = world.MOTION_COLUMNS


def person(seed: int) -> np.ndarray:
    return world.align(world.from_latent(np.random.default_rng(seed).standard_normal(LATENT_DIM)))


def factors(who: np.ndarray, motion: np.ndarray) -> np.ndarray:
    values = np.tile(who, (len(motion), 1))
    values[:, MOTION] = motion
    return values


def landmarks(motion: np.ndarray, who: np.ndarray | None = None) -> np.ndarray:
    return np.stack([world.project_landmarks(v)[0] for v in factors(world.neutral() if who is None else who, motion)])


def clip(values: np.ndarray) -> Clip:
    """Frames of the world with the truth beside them."""
    drawn = [world.draw(v, 256) for v in values]
    return Clip([p.image for p in drawn], truth={"landmarks": np.stack([256 * p.landmarks for p in drawn])})


# --- Landmarks, pose, expression


def test_a_shift_of_all_landmarks_is_its_length_in_the_named_unit() -> None:
    truth = 256 * landmarks(world.natural_motion(1, 6))
    moved = truth + np.array([3.0, -4.0])
    eyes = np.hypot(*(truth[:, 36] - truth[:, 45]).T)
    width, height = np.ptp(truth[..., 0], axis=1), np.ptp(truth[..., 1], axis=1)
    assert_allclose(faces.landmark_error(moved, truth), 5 / eyes, rtol=1e-5)
    assert_allclose(faces.landmark_error(moved, truth, "box"), 5 / np.sqrt(width * height), rtol=1e-5)
    assert_allclose(faces.landmark_error(2 * moved, 2 * truth), 5 / eyes, rtol=1e-5)
    assert (faces.landmark_error(truth, truth) == 0).all()


def test_one_landmark_counts_a_68th_and_the_unit_is_the_truth_s() -> None:
    truth = landmarks(world.natural_motion(1, 1))
    moved = truth.copy()
    moved[:, 8, 1] += 0.1
    assert_allclose(faces.landmark_error(moved, truth), 0.1 / 68 / faces.eye_distance(truth), rtol=1e-4)
    assert faces.landmark_error(moved, truth, "box") != faces.landmark_error(truth, moved, "box")


def test_turning_the_picture_is_that_much_roll_and_nothing_else() -> None:
    track = 256 * landmarks(world.natural_motion(3, 40))
    found, rate, angle = np.ones(40, bool), Fraction(25), np.deg2rad(7)
    turned = track @ np.array([[np.cos(angle), np.sin(angle)], [-np.sin(angle), np.cos(angle)]])
    straight = coefficients(track, found, rate).values
    errors = faces.motion_errors(coefficients(turned, found, rate).values, straight)
    assert_allclose(errors["roll"], 7, atol=0.05)
    assert max(errors["yaw"].max(), errors["pitch"].max(), errors["expression"].max()) < 0.05
    assert_allclose(errors["pose"], 7 / 3, atol=0.05)
    assert_allclose(errors["pose in radians"], np.deg2rad(7) / 3, atol=0.001)
    larger = faces.motion_errors(coefficients(1.3 * track, found, rate).values, straight)
    assert max(part.max() for part in larger.values()) < 0.01, "size is no motion"


def test_errors_of_motion_values_are_their_mean_differences() -> None:
    truth = world.natural_motion(2, 5).astype(float)
    moved = truth.copy()
    moved[:, :3] += [3, -2, 1]
    moved[:, NAMES.index("jaw")] += 0.5
    moved[:, NAMES.index("scale")] += 9
    errors = faces.motion_errors(moved, truth)
    assert_allclose([errors[name][0] for name in (*faces.POSE, "pose", "expression")], [3, 2, 1, 2, 0.05], atol=1e-6)
    assert all((part == 0).all() for part in faces.motion_errors(truth, truth).values())


def test_tracks_that_follow_correlate_and_still_ones_show() -> None:
    track = world.natural_motion(4, 100)[:, 0].astype(float)
    assert_allclose(faces.followed(track, track), (1, track.std(), track.std()))
    assert_allclose(faces.followed(5 - 2 * track, track), (-1, track.std(), 2 * track.std()))
    noise = 0.01 * track  # follows perfectly, but hardly moves
    assert faces.followed(noise, track).correlation == 0 and faces.followed(6 * noise, track).correlation > 0.99
    still = np.full(100, 0.1)
    assert faces.followed(still, track)[0] == 0 and faces.followed(still, track).result < 1e-12
    assert np.isnan(faces.followed(track, still).correlation)


def test_groups_average_over_the_tracks_that_the_driver_moves() -> None:
    driving = world.natural_motion(5, 200).astype(float)
    driving[:, NAMES.index("gaze_y")] = 0
    result = driving.copy()
    result[:, NAMES.index("yaw")] *= -1
    groups = faces.group_correlations(faces.tracks_followed(result, driving))
    assert_allclose([groups["pose"], groups["actions"], groups["gaze"]], [1 / 3, 1, 1])


def test_the_mouth_s_opening_grows_with_the_jaw() -> None:
    motion = np.tile(world.neutral()[MOTION], (5, 1))
    motion[:, NAMES.index("jaw")] = np.linspace(0, 1, 5)
    opening = faces.mouth_opening(landmarks(motion))
    assert (np.diff(opening) > 0.05).all() and opening[0] < 0.05


# --- Identity


def test_content_distance_and_variance_by_hand() -> None:
    points = np.array([[0.0, 0], [3, 0], [3, 4]])
    assert likeness.content_distance(points) == pytest.approx((3 + 4 + 5) / 3)
    assert likeness.content_distance(points, "consecutive") == pytest.approx(3.5)
    square = np.mean([((a - b) ** 2).sum() for a in points for b in points])
    assert likeness.identity_variance(points) == pytest.approx(square / 2)
    assert likeness.content_distance(points[[0, 0]]) == likeness.identity_variance(points[[0, 0]]) == 0
    assert_allclose(likeness.cosine(points[1:] * 7, np.array([1.0, 0])), [1, 0.6])
    with pytest.raises(ValueError, match="needs 2 frames"):
        likeness.content_distance(points[:1])


def test_same_person_closer_by_hand() -> None:
    apart = [np.array([[0.0, 0], [0, 1]]), np.array([[9.0, 0], [9, 1]])]
    assert likeness.same_person_closer(apart) == 1.0
    swapped = [np.array([[0.0, 0], [9, 0]]), np.array([[0.0, 1], [9, 1]])]
    assert likeness.same_person_closer(swapped) == 0.5


@pytest.fixture(scope="module")
def two_people() -> tuple[Clip, Clip]:
    """The same movement of two people; every fifth frame, so that it shows in few."""
    motion = world.natural_motion(6, 60)[::5]
    motion[:, 0] *= 2.5  # yaw well above the tracker's noise
    first, second = (clip(factors(person(seed), motion)) for seed in (11, 12))
    return first, second


def test_a_person_of_the_world_is_closer_to_itself_than_to_another(two_people: tuple[Clip, Clip]) -> None:
    first, second = two_people
    cosine, distance = find("identity-cosine"), find("identity-distance-dlib")
    assert cosine([first], [first]).value > 0.7 > 0.4 > cosine([first], [second]).value
    assert distance([first], [first]).value < 0.8 * distance([first], [second]).value
    mixed = Clip([*list(first)[:6], *list(second)[6:]])
    for name in ("acd-dlib", "identity-variance-dlib"):
        assert find(name)([first]).value < find(name)([mixed]).value
    # One change of person in eleven steps is small beside its share of all pairs.
    assert find("acd-consecutive-dlib")([mixed]).value < find("acd-dlib")([mixed]).value


def test_the_same_clip_has_no_errors_and_full_correlation(two_people: tuple[Clip, Clip]) -> None:
    first, second = two_people
    for name in ("pose-error", "yaw-error", "apd-landmarks", "aed-landmarks"):
        assert find(name)([first], [first]).value == 0
    for name in ("correlation-yaw", "correlation-mouth", "correlation-pose", "correlation-actions"):
        assert find(name)([first], [first]).value == pytest.approx(1)
    assert find("correlation-yaw")([second], [first]).value > 0.9, "another person, the same movement"
    assert find("nme-eyes")([first], [first]).value < 0.08, "dlib against the exact landmarks"
    assert find("nme-box")([second], [first]).value > find("nme-box")([first], [first]).value


def test_a_still_clip_is_visible_as_such(two_people: tuple[Clip, Clip]) -> None:
    first, _ = two_people
    still = Clip([next(iter(first))] * 12)
    assert find("deviation-yaw")([still]).value < 0.1 < 1 < find("deviation-yaw")([first]).value
    assert find("correlation-yaw")([still], [first]).value == 0, "the instrument's noise follows nothing"


def test_a_clip_without_a_face_fits_no_measure_of_faces() -> None:
    empty = Clip([np.full((64, 64, 3), 90, np.uint8)] * 3, name="wall")
    with pytest.raises(Unfit, match="No frame of wall shows a face"):
        find("pose-error")([empty], [empty])


# --- The exact error


class Oracle:
    """A system that knows the world: it shows whom and what `choose` picks of source and driver."""

    name, motion_kinds, context = "oracle", (FACE,), 0
    weight_files = ()

    def __init__(self, sources: np.ndarray, choose: str) -> None:
        self.pictures, self.sources, self.choose = exact.draw_all(sources, 256), sources, choose
        self.generator = SimpleNamespace(synthesize=lambda s, w, dtype: s[0], mean_w=torch.zeros(1))

    def identify(self, picture: np.ndarray) -> Identity:
        (index,) = np.flatnonzero((self.pictures == picture).all((1, 2, 3)))
        return Identity(torch.from_numpy(self.sources[index : index + 1]), self.name)

    def apply(self, identity: Identity, motion: Motion) -> Frames:
        values = identity.w.numpy().copy()
        if self.choose == "truth":
            values[:, MOTION] = motion.values
        return self.portrait(Identity(torch.from_numpy(values), self.name))

    def portrait(self, identity: Identity) -> Frames:
        return Frames(s=[torch.from_numpy(exact.draw_all(identity.w.numpy(), 256)).permute(0, 3, 1, 2) / 127.5 - 1])

    def to(self, device: torch.device | str) -> "Oracle":
        return self


def test_the_exact_error_is_nothing_for_the_truth_and_the_difference_for_a_copy_of_the_source() -> None:
    source, driver = exact.pairs(3, 0)
    right, copy = (
        {score.name: score for score in exact.exact(Oracle(source, choose), 3, 0)} for choose in ("truth", "source")
    )
    assert right["exact-l1"].value == 0 and right["exact-psnr"].value == np.inf
    assert right["exact-pose-error-dlib"].value == 0
    assert right["exact-identity-source"].value == pytest.approx(1)
    for name, score in right.items():
        if "face-net" in name:
            assert score.value == pytest.approx(score.parts["floor"]), "the instrument's own error"
    off = np.abs(source[:, INDEX["yaw"]] - driver[:, INDEX["yaw"]]).mean()
    yaw = copy["exact-yaw-error-face-net"]
    assert abs(yaw.value - off) <= 2 * yaw.parts["floor"] and off > 5
    assert copy["exact-nme-eyes-face-net"].value > 2 * copy["exact-nme-eyes-face-net"].parts["floor"]
    assert copy["exact-psnr"].value < 30 and copy["exact-identity-source"].value > 0.6
    assert copy["exact-l1"].interval is not None and copy["exact-l1"].counts["pairs"] == 3


def test_people_of_the_exact_error_come_back_by_their_seed() -> None:
    assert_allclose(exact.pairs(3, 5), exact.pairs(3, 5))
    assert not np.allclose(exact.pairs(3, 5), exact.pairs(3, 6))


def test_a_system_that_moves_no_face_is_refused() -> None:
    other: Any = SimpleNamespace(name="sampler", motion_kinds=(CODES,))
    with pytest.raises(ValueError, match="does not drive an image of a face"):
        exact.exact(other)
