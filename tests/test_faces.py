"""The faces room against the truth of the built-in world, and on a real clip where one is at hand."""

from __future__ import annotations

from collections.abc import Iterator
from fractions import Fraction
from pathlib import Path

import numpy as np
import pytest

from stylereel import world
from stylereel.core.latents import FACE
from stylereel.faces import appearance, backend, coefficients, placement, pose
from stylereel.media.video import VideoReader
from stylereel.world.draw import landmark_points
from stylereel.world.factors import INDEX, LATENT_DIM

RATE = Fraction(25)
FRAMES, SIZE = 50, 256
CLIPS = Path(__file__).parents[2] / "shared" / "clips"


def world_head() -> np.ndarray:
    """The mean head of the world in head coordinates [68, 3]."""
    points = landmark_points(world.neutral()).astype(np.float64)
    return (points - points[[36, 45]].mean(0)) / np.linalg.norm(points[45] - points[36])


def performance(seed: int) -> np.ndarray:
    """Values [FRAMES, K] of one random person who turns the head, speaks, blinks and looks about."""
    rng = np.random.default_rng(seed)
    values = np.tile(world.from_latent(rng.standard_normal(LATENT_DIM)), (FRAMES, 1))
    seconds = np.arange(FRAMES) / float(RATE)

    def swing(size: float, period: float) -> np.ndarray:
        return size * np.sin(2 * np.pi * (seconds / period + rng.random()))

    def put(name: str, track: np.ndarray) -> None:
        values[:, INDEX[name]] = track

    put("yaw", swing(18, 1.6))
    put("pitch", swing(6, 1.1))
    put("roll", swing(7, 1.9))
    put("shift_x", swing(0.02, 1.3))
    put("shift_y", swing(0.015, 1.7))
    put("scale", 1 + swing(0.04, 2.0))
    put("jaw", np.clip(swing(0.5, 0.5) + swing(0.3, 0.83), 0, 1))
    put("smile", swing(0.6, 1.4))
    put("pucker", np.zeros(FRAMES))
    put("press", np.zeros(FRAMES))
    put("gaze_x", swing(0.8, 0.9))
    put("gaze_y", swing(0.4, 0.7))
    both = sum(np.exp(-0.5 * ((seconds - at) / 0.06) ** 2) for at in (0.3, 1.1))
    wink = np.exp(-0.5 * ((seconds - 1.65) / 0.1) ** 2)
    put("blink_left", np.clip(1.4 * both, 0, 1))
    put("blink_right", np.clip(1.4 * (both + wink), 0, 1))
    for name in ("brow_left", "brow_right"):
        put(name, swing(0.8, 1.2))
    return values


def correlation(a: np.ndarray, b: np.ndarray) -> float:
    return float(np.corrcoef(a, b)[0, 1])


@pytest.fixture(scope="module")
def dlib_backend() -> backend.DlibBackend:
    pytest.importorskip("dlib", reason="needs the extra `faces`")
    return backend.DlibBackend()


@pytest.fixture(scope="module")
def clips(dlib_backend: backend.DlibBackend) -> list[tuple[np.ndarray, backend.Track]]:
    """Three persons: their truth and what was tracked in their pictures."""
    performances = [performance(seed) for seed in (11, 12, 14)]
    pictures = ((world.draw(row, SIZE).image for row in values) for values in performances)
    tracks = [backend.track(frames, RATE, backend=dlib_backend) for frames in pictures]
    return list(zip(performances, tracks, strict=True))


class Painted:
    """A backend that sees a face wherever the frame is bright, for testing the tracker's own behaviour."""

    points = (pose.mean_head()[:, :2] * 40 + (60, 50)).astype(np.float32)

    def detect(self, frame: np.ndarray) -> list[backend.Box]:
        return [backend.box_around(self.points, score=1.0)] if frame.mean() > 100 else []

    def look(self, frame: np.ndarray, box: backend.Box, last: backend.Face | None = None) -> backend.Face | None:
        return backend.Face(self.points, backend.box_around(self.points, 1.0)) if self.detect(frame) else None

    def embedding(self, frame: np.ndarray, landmarks: np.ndarray) -> np.ndarray:
        return np.zeros(128, np.float32)


BRIGHT, DARK = np.full((128, 128, 3), 200, np.uint8), np.zeros((128, 128, 3), np.uint8)


# Geometry


def test_columns_are_the_worlds_motion() -> None:
    assert coefficients.NAMES == world.MOTION


def test_directions_of_the_angles() -> None:
    nose = np.array([0.0, 0.0, 1.0])
    turned = {angle: pose.rotation(np.eye(3)[i] * 20) for i, angle in enumerate(("yaw", "pitch", "roll"))}
    assert (turned["yaw"] @ nose)[0] > 0.3  # to the picture's right
    assert (turned["pitch"] @ nose)[1] < -0.3  # up
    assert (turned["roll"] @ [0.0, -1.0, 0.0])[0] > 0.3  # clockwise: the crown moves right


def test_mean_head_is_symmetric_and_of_unit_width() -> None:
    head = coefficients.mean_head()
    np.testing.assert_allclose(head[pose.MIRROR] * (-1, 1, 1), head)
    assert np.linalg.norm(head[45] - head[36]) == pytest.approx(1)


def test_pose_recovers_what_was_projected() -> None:
    rng = np.random.default_rng(0)
    angles, scale, at = rng.uniform(-35, 35, (50, 3)), rng.uniform(40, 300, 50), rng.uniform(0, 500, (50, 2))
    head = coefficients.mean_head()
    turn = pose.rotation(angles)[:, :2]
    seen = (head - pose.PIVOT) @ np.swapaxes(turn, 1, 2) * scale[:, None, None] + at[:, None]
    seen[:, 57] += 0.5 * scale[:, None]  # one bad landmark must not matter
    fitted = coefficients.pose_from_landmarks(seen)
    for i, name in enumerate(("yaw", "pitch", "roll")):
        np.testing.assert_allclose(fitted[name], angles[:, i], atol=0.3)
    np.testing.assert_allclose(fitted["scale"], scale, rtol=0.01)
    frontal = pose.unrotate(seen, fitted)
    keep = np.arange(68) != 57
    np.testing.assert_allclose(frontal[:, keep], np.broadcast_to(head[keep, :2], (50, 67, 2)), atol=0.02)


def test_smoothing_has_no_lag_and_bridges_unknown_frames() -> None:
    time = np.arange(100) / 25
    wave = np.sin(2 * np.pi * time / 2)[:, None]
    noisy = wave + np.random.default_rng(0).normal(0, 0.1, wave.shape)
    smoothed = pose.smooth(noisy, RATE, 0.07)
    assert np.abs(smoothed - wave)[5:-5].mean() < 0.6 * np.abs(noisy - wave)[5:-5].mean()
    lags = [np.abs(np.roll(smoothed, lag, axis=0) - wave)[5:-5].mean() for lag in (-1, 0, 1)]
    assert lags[1] == min(lags)
    weight = np.ones(100)
    weight[40:43] = 0
    wrong = wave.copy()
    wrong[40:43] = 9
    np.testing.assert_allclose(pose.smooth(wrong, RATE, 0.07, weight)[40:43], wave[40:43], atol=0.1)


# Placement


def test_crop_coordinates_round_trip() -> None:
    points = np.random.default_rng(0).random((4, 68, 2))
    rows = np.array([[100, 80, 50, 0], [30, 40, 90, 30], [9, 9, 9, -80], [0, 0, 200, 170]], float)
    np.testing.assert_allclose(placement.to_crop(placement.to_picture(points, rows), rows), points, atol=1e-12)


def test_cut_keeps_pixels_turns_clockwise_and_averages() -> None:
    picture = np.random.default_rng(0).integers(0, 256, (64, 64, 3), np.uint8)
    np.testing.assert_array_equal(placement.cut(picture, np.array([32, 32, 64, 0]), 64), picture)
    quarter = placement.cut(picture, np.array([32, 32, 64, 90]), 64)
    np.testing.assert_allclose(quarter.astype(int), np.rot90(picture).astype(int), atol=1)
    checks = np.where(np.indices((64, 64)).sum(0) % 2, 255, 0).astype(np.uint8)
    for side, size in ((64, 16), (64, 20), (60, 11)):
        shrunk = placement.cut(checks, np.array([32, 32, side, 0]), size)
        assert np.abs(shrunk[1:-1, 1:-1].astype(int) - 128).max() <= 20
    outside = placement.cut(picture, np.array([0, 32, 64, 0]), 64)
    np.testing.assert_array_equal(outside[:, 0], picture[:, 0])
    with pytest.raises(ValueError, match="outside the image"):
        placement.cut(picture, np.array([-200, 32, 64, 0]), 64)


def test_align_finds_the_canonical_framing() -> None:
    values = world.neutral()
    values[[INDEX["roll"], INDEX["shift_x"], INDEX["shift_y"], INDEX["scale"]]] = 12, 0.05, -0.04, 0.85
    landmarks = world.project_landmarks(values)[0] * 400
    row = placement.align(landmarks, world_head())
    in_crop = placement.to_crop(landmarks, row)
    eyes, mouth = in_crop[36:48].mean(0), in_crop[[48, 54]].mean(0)
    np.testing.assert_allclose(eyes, (0.5, placement.EYE_LEVEL), atol=0.01)
    np.testing.assert_allclose(mouth - eyes, (0, placement.EYE_TO_MOUTH), atol=0.01)
    assert row[3] == pytest.approx(12, abs=1)


# Motion from exact landmarks


@pytest.mark.parametrize("seed", [1, 2])
def test_motion_from_the_worlds_own_landmarks(seed: int) -> None:
    values = performance(seed)
    landmarks = np.stack([world.project_landmarks(row)[0] for row in values]) * SIZE
    found = np.ones(FRAMES, bool)
    motion = coefficients.coefficients(landmarks, found, RATE, (SIZE, SIZE), head=world_head())
    assert motion.kind == FACE and motion.values.dtype == np.float32 and motion.missing == ()
    truth = {name: values[:, INDEX[name]] for name in motion.names}
    for name in ("yaw", "pitch", "roll"):
        assert np.abs(motion.column(name) - truth[name]).mean() < 3.5
    for name in ("shift_x", "shift_y"):
        assert np.abs(motion.column(name) - truth[name]).mean() < 0.015
    assert np.abs(motion.column("scale") - truth["scale"]).mean() < 0.08
    for name in ("yaw", "pitch", "jaw", "smile", "brow_left", "brow_right", "blink_left", "blink_right"):
        assert correlation(motion.column(name), truth[name]) > 0.9, name


@pytest.mark.parametrize("seed", [20, 24, 30, 39])
def test_a_raised_brow_is_read_although_its_landmarks_stay_on_the_lid(seed: int) -> None:
    """Of people whose brows stand out: frames of glasses, wrinkles and pale or dark skin can hide them."""
    values = world.from_latent(np.random.default_rng(seed).standard_normal(LATENT_DIM))
    values[world.MOTION_COLUMNS] = world.neutral()[world.MOTION_COLUMNS]
    heights = []
    for value in (0.0, 1.0):
        values[[INDEX["brow_left"], INDEX["brow_right"]]] = value
        portrait = world.draw(values, 256)
        points = portrait.landmarks * 256
        points[17:27, 1] += value * 0.12 * np.ptp(points[[36, 45], 0])  # as dlib's do
        heights.append(appearance.read(portrait.image, points)[:, 3])
    assert (heights[1] - heights[0] > 0.035).all()


@pytest.mark.parametrize("roll", [0.0, 8.0])
@pytest.mark.parametrize("value", [-1.0, 0.0, 1.0])
@pytest.mark.parametrize("seed", [20, 24, 39])
def test_the_edge_of_a_brow_is_found_from_landmarks_that_are_late(seed: int, value: float, roll: float) -> None:
    values = world.from_latent(np.random.default_rng(seed).standard_normal(LATENT_DIM))
    values[world.MOTION_COLUMNS] = world.neutral()[world.MOTION_COLUMNS]
    values[[INDEX["brow_left"], INDEX["brow_right"], INDEX["roll"]]] = value, value, roll
    portrait = world.draw(values, 256)
    true = portrait.landmarks * 256
    down = true[8] - true[27]
    down /= np.linalg.norm(down)
    eyes = np.linalg.norm(true[45] - true[36])
    at_landmarks = appearance.brow_edges(portrait.image, true)
    late = true.copy()
    late[17:27] += 0.05 * value * eyes * down  # by most of the way to where they are at rest
    found = appearance.brow_edges(portrait.image, late)
    moved = (found - at_landmarks) @ down / eyes
    assert (moved * -value > 0.015).all() if value else np.abs(moved).max() < 1e-6
    assert np.abs(moved).max() < 0.055
    across = down[[1, 0]] * (-1, 1)
    assert np.abs(found @ across).max() < 0.02 * eyes and np.abs(at_landmarks @ down).max() < 0.05 * eyes


def test_shift_and_scale_do_not_depend_on_where_the_face_is_filmed() -> None:
    landmarks = np.stack([world.project_landmarks(row)[0] for row in performance(1)]) * SIZE
    found = np.ones(FRAMES, bool)
    near = coefficients.coefficients(landmarks, found, RATE)
    far = coefficients.coefficients(landmarks * 0.3 + (500, 200), found, RATE)
    np.testing.assert_allclose(far.values, near.values, atol=1e-3)
    assert np.median(near.column("scale")) == pytest.approx(1, abs=0.02)


# Tracking


def test_missing_faces_are_held_and_listed() -> None:
    consumed: list[int] = []

    def frames() -> Iterator[np.ndarray]:
        for index, frame in enumerate((DARK, BRIGHT, BRIGHT, DARK, BRIGHT)):
            consumed.append(index)
            yield frame

    tracked = backend.track(frames(), RATE, backend=Painted())
    assert consumed == [0, 1, 2, 3, 4]
    assert tracked.missing == [0, 3] and tracked.size == (128, 128)
    np.testing.assert_array_equal(tracked.landmarks, np.broadcast_to(Painted.points, (5, 68, 2)))
    motion = coefficients.coefficients(tracked.landmarks, tracked.found, RATE, readings=tracked.readings)
    assert motion.missing == (0, 3) and np.isfinite(motion.values).all()


def test_missing_faces_can_stop() -> None:
    consumed: list[int] = []

    def frames() -> Iterator[np.ndarray]:
        for index, frame in enumerate((BRIGHT, DARK, BRIGHT, BRIGHT)):
            consumed.append(index)
            yield frame

    with pytest.raises(ValueError, match="Frame 1 shows no face"):
        backend.track(frames(), RATE, "stop", Painted())
    assert 3 not in consumed  # frames are taken one by one, and one ahead


def test_mistakes_are_named() -> None:
    with pytest.raises(ValueError, match="No frame shows a face"):
        backend.track([DARK, DARK], RATE, backend=Painted())
    with pytest.raises(ValueError, match="No face was found"):
        backend.find_face(DARK, Painted())
    with pytest.raises(ValueError, match="hold, interpolate, skip-edit, stop"):
        backend.track([BRIGHT], RATE, "skip", Painted())  # type: ignore[arg-type]


def test_missing_models_are_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(backend.importlib.util, "find_spec", lambda name: None)
    monkeypatch.setattr(backend, "_import_dlib", lambda: None)
    with pytest.raises(ValueError, match="pip install face_recognition_models"):
        backend.DlibBackend()


def test_every_frame_of_the_world_is_found(clips: list[tuple[np.ndarray, backend.Track]]) -> None:
    assert [track.missing for _, track in clips] == [[], [], []]


def test_motion_from_pictures(clips: list[tuple[np.ndarray, backend.Track]]) -> None:
    found: dict[str, list[float]] = {}
    for values, track in clips:
        motion = coefficients.coefficients(
            track.landmarks, track.found, track.rate, track.size, track.readings, world_head()
        )
        assert np.abs(motion.column("yaw") - values[:, INDEX["yaw"]]).mean() < 5
        for name in motion.names:
            if np.ptp(values[:, INDEX[name]]) > 0 and np.ptp(motion.column(name)) > 0:
                found.setdefault(name, []).append(correlation(motion.column(name), values[:, INDEX[name]]))
    for name, least in {
        "yaw": 0.97, "pitch": 0.75, "roll": 0.95, "shift_x": 0.6, "shift_y": 0.6, "scale": 0.7,
        "jaw": 0.9, "smile": 0.7, "blink_left": 0.9, "blink_right": 0.9, "gaze_x": 0.7,
    }.items():  # fmt: skip
        assert np.mean(found[name]) >= least, f"{name}: {found[name]}"


def test_a_still_face_stands_still(dlib_backend: backend.DlibBackend) -> None:
    picture = world.draw(performance(11)[0], SIZE).image
    rng = np.random.default_rng(0)
    noise = rng.normal(0, 3, (12, *picture.shape))
    frames = [np.clip(picture + grain, 0, 255).astype(np.uint8) for grain in noise]
    tracked = backend.track(frames, RATE, backend=dlib_backend).landmarks
    width = np.linalg.norm(tracked[0, 45] - tracked[0, 36])
    assert tracked.std(0).mean() < 0.004 * width


def test_a_small_and_turned_face_is_found(dlib_backend: backend.DlibBackend) -> None:
    values = performance(11)[0]
    values[[INDEX["yaw"], INDEX["roll"], INDEX["pitch"]]] = 0, 15, 0
    portrait = world.draw(values, 300)
    picture = np.full((700, 900, 3), 128, np.uint8)
    picture[300:600, 500:800] = portrait.image
    landmarks = backend.find_face(picture, dlib_backend)
    miss = np.linalg.norm(landmarks - (portrait.landmarks * 300 + (500, 300)), axis=1)
    assert miss[[36, 39, 42, 45, 30, 33]].mean() < 0.04 * 300
    row = placement.align(landmarks)
    assert row[3] == pytest.approx(15, abs=4)


def test_embedding_tells_people_apart(dlib_backend: backend.DlibBackend) -> None:
    def embed(picture: np.ndarray) -> np.ndarray:
        return dlib_backend.embedding(picture, backend.find_face(picture, dlib_backend))

    person, other = (world.draw(performance(seed)[0], SIZE).image for seed in (11, 12))
    moved = placement.cut(person, np.array([140, 120, 300, 20]), 320)
    first, again, another = embed(person), embed(moved), embed(other)
    assert first.shape == (128,) and first.dtype == np.float32
    assert np.linalg.norm(first - again) < 0.7 * np.linalg.norm(first - another)


@pytest.mark.skipif(not CLIPS.is_dir(), reason="needs the real clips")
def test_real_clip(dlib_backend: backend.DlibBackend) -> None:
    frames = list(VideoReader(CLIPS / "woman-expressive-30fps.mp4"))[::4]
    tracked = backend.track(frames, Fraction(30, 4), "stop", dlib_backend)
    motion = coefficients.coefficients(tracked.landmarks, tracked.found, tracked.rate, readings=tracked.readings)
    assert motion.missing == () and len(motion) == len(frames)
    assert np.ptp(motion.column("yaw")) > 25  # she looks to both sides
    assert motion.column("yaw").argmax() in range(60, 74)  # furthest to the picture's right
    assert motion.column("jaw").argmax() in range(74, 89)  # the mouth stands open at the end
    for name in ("blink_left", "blink_right"):
        assert motion.column(name)[35:37].min() > 0.7 and motion.column(name)[80] < 0.2
