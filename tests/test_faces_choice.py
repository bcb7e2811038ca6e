"""Which face is followed, what happens in frames without one, and the other backend."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any

import numpy as np
import pytest

import stylereel
from stylereel import world
from stylereel.commands.drive import drive
from stylereel.core.latents import Motion
from stylereel.core.record import sha256
from stylereel.faces import backend, coefficients, landmarker, pose
from stylereel.media.pictures import read_picture, save_picture
from stylereel.media.video import VideoReader, VideoWriter
from stylereel.world.factors import INDEX, LATENT_DIM

RATE = Fraction(25)
HEAD = pose.mean_head()[:, :2]


class Actors:
    """A backend that knows who is where in each frame: pixel (0, 0) holds the frame's number."""

    def __init__(self, scenes: Sequence[Sequence[tuple[int, int, int]]]) -> None:
        self.scenes = scenes  # of each frame: (who, x, width of the head's eyes)
        self.searches = 0

    def _heads(self, frame: np.ndarray) -> list[tuple[int, np.ndarray]]:
        scene = self.scenes[int(frame[0, 0, 0])]
        return [(who, (HEAD * width + (x, 60)).astype(np.float32)) for who, x, width in scene]

    def detect(self, frame: np.ndarray) -> list[backend.Box]:
        if frame[0, 0, 1] == 0:  # turned; nobody lies on their side
            return []
        self.searches += 1
        return [backend.box_around(points, 1.0) for _, points in self._heads(frame)]

    def look(self, frame: np.ndarray, box: backend.Box, last: backend.Face | None = None) -> backend.Face | None:
        near = [points for _, points in self._heads(frame) if abs(points[27, 0] - box.x) <= 20]
        if not near:
            return None
        points = min(near, key=lambda points: abs(points[27, 0] - box.x))
        return backend.Face(points, backend.box_around(points, 1.0))

    def embedding(self, frame: np.ndarray, landmarks: np.ndarray) -> np.ndarray:
        who, _ = min(self._heads(frame), key=lambda head: abs(head[1][27, 0] - landmarks[27, 0]))
        return np.eye(128, dtype=np.float32)[who]


def frames(count: int) -> list[np.ndarray]:
    pictures = [np.zeros((128, 320, 3), np.uint8) for _ in range(count)]
    for index, picture in enumerate(pictures):
        picture[0, 0] = index, 1, 0
    return pictures


def followed(scenes: Sequence[Sequence[tuple[int, int, int]]], face: str = "largest", **options: str) -> backend.Track:
    return backend.track(frames(len(scenes)), RATE, backend=Actors(scenes), face=face, **options)  # type: ignore[arg-type]


ANNA, BEN, CARL = (0, 60, 30), (1, 160, 40), (2, 260, 35)


@pytest.mark.parametrize(("face", "x"), [("largest", 160), ("left", 60), ("0", 60), ("2", 260)])
def test_the_face_that_is_asked_for_is_followed_and_all_are_counted(face: str, x: int) -> None:
    tracked = followed([[BEN, CARL, ANNA]] * 3, face)
    assert tracked.num_faces == 3
    np.testing.assert_allclose(tracked.landmarks[:, 27, 0], x, atol=1)


def test_a_reference_picture_chooses_the_person_and_nobody_else(tmp_path: Path) -> None:
    picture = frames(1)[0]
    picture[0, 0] = 3, 1, 0  # Carl alone
    save_picture(tmp_path / "carl.png", picture)
    scenes = [[ANNA, BEN], [ANNA, BEN, CARL], [ANNA, CARL], [CARL]]
    tracked = followed(scenes, str(tmp_path / "carl.png"))
    assert tracked.missing == [0] and tracked.num_faces == 3
    np.testing.assert_allclose(tracked.landmarks[:, 27, 0], 260, atol=1)


def test_after_a_loss_the_same_person_is_found_again_among_several() -> None:
    tracked = followed([[ANNA, BEN], [BEN], [], [(0, 200, 30), (1, 100, 40)]], "left")
    assert tracked.missing == [1, 2]
    assert tracked.landmarks[3, 27, 0] == pytest.approx(200, abs=1)  # neither the larger nor the left one


def test_a_face_that_takes_anothers_place_is_found_out_within_a_second() -> None:
    behind = [[(0, 160, 30), (1, 60, 30)]] * 30  # Ben has stepped where Anna was, she is elsewhere
    tracked = followed([[(0, 60, 30), (1, 160, 30)]] * 10 + behind, "left")
    np.testing.assert_allclose(tracked.landmarks[[0, 9], 27, 0], 60, atol=1)
    np.testing.assert_allclose(tracked.landmarks[25:, 27, 0], 160, atol=1)


def test_a_face_is_accepted_only_where_its_landmarks_are() -> None:
    # The only face left is beyond where the followed one can have gone in a frame: it is searched, not followed.
    actors = Actors([[ANNA]] * 3 + [[(0, 78, 30)]] + [[(0, 78, 62)]] * 3)
    tracked = backend.track(frames(7), RATE, backend=actors)
    assert tracked.missing == [] and actors.searches == 2  # the second where it has doubled its size at once


def test_whole_frames_are_searched_only_at_the_start_after_a_loss_and_once_a_second() -> None:
    actors = Actors([[ANNA]] * 40 + [[]] + [[ANNA]] * 9)
    assert backend.track(frames(50), RATE, backend=actors).missing == [40]
    assert actors.searches == 4  # frames 0, 25, 40 and 41


def test_a_number_beyond_the_faces_and_a_wrong_picture_are_named(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="shows 1 face, so none has the number 1"):
        followed([[ANNA]], "1")
    with pytest.raises(ValueError, match="largest, left, a number or a picture; there is no file"):
        followed([[ANNA]], str(tmp_path / "nobody.png"))


def test_missing_frames_are_held_or_bridged() -> None:
    scenes = [[], [(0, 100, 30)], [], [], [(0, 112, 30)], []]
    held, bridged, skipped = (followed(scenes, missing=name) for name in ("hold", "interpolate", "skip-edit"))
    assert held.missing == bridged.missing == skipped.missing == [0, 2, 3, 5]
    np.testing.assert_allclose(held.landmarks[:, 27, 0] - 100, [0, 0, 0, 0, 12, 12], atol=0.1)
    np.testing.assert_allclose(bridged.landmarks[:, 27, 0] - 100, [0, 0, 4, 8, 12, 12], atol=0.1)
    np.testing.assert_array_equal(skipped.landmarks, held.landmarks)
    motion = coefficients.motion_of(bridged)
    assert motion.missing == (0, 2, 3, 5) and motion.num_faces == 1 and np.isfinite(motion.values).all()


def test_the_number_of_faces_is_saved_with_the_motion(tmp_path: Path) -> None:
    motion = coefficients.motion_of(followed([[ANNA, BEN]] * 3))
    motion.save(tmp_path / "motion.safetensors")
    assert Motion.load(tmp_path / "motion.safetensors").num_faces == 2


def test_steady_landmarks_tremble_less_and_do_not_lag() -> None:
    time = np.arange(60)
    path = np.stack([40 * np.sin(time / 9), 10 * np.cos(time / 9)], axis=-1)
    true = HEAD * 100 + path[:, None]
    noisy = (true + np.random.default_rng(0).normal(0, 1, true.shape)).astype(np.float32)
    tracked = backend.Track(noisy, np.zeros((60, 2, 4), np.float32), np.ones(60, bool), RATE, (200, 200))
    miss = np.abs(tracked.steady() - true)[5:-5].mean()
    assert miss < 0.75 * np.abs(noisy - true).mean()
    assert miss < np.abs(np.roll(tracked.steady(), 1, axis=0) - true)[5:-5].mean()


# MediaPipe


@pytest.fixture
def mediapipe(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Path:
    """A stand-in for the package, strict in names and types as its reference has them (ai.google.dev/edge/mediapipe).

    It sees one head, in the middle of whatever picture it is given.
    """
    points = np.full((478, 2), 0.5)
    points[landmarker.POINTS] = HEAD * 0.3 + (0.5, 0.4)

    @dataclass
    class BaseOptions:
        model_asset_path: str

    @dataclass
    class Options:
        base_options: BaseOptions
        running_mode: str = "IMAGE"  # the mode in which detect may be called
        num_faces: int = 1

    class Image:
        def __init__(self, image_format: int, data: np.ndarray) -> None:
            assert image_format == 1 and data.dtype == np.uint8 and data.shape[2] == 3 and data.flags["C_CONTIGUOUS"]
            self.data = data

    class Landmarker:
        @staticmethod
        def create_from_options(options: Options) -> Landmarker:
            assert Path(options.base_options.model_asset_path).is_file() and options.num_faces > 1
            assert type(options) is Options and options.running_mode == "IMAGE"
            return Landmarker()

        def detect(self, image: Image) -> SimpleNamespace:
            assert type(image) is Image
            faces = [[SimpleNamespace(x=x, y=y, z=0.0) for x, y in points]] if image.data.mean() > 50 else []
            return SimpleNamespace(face_landmarks=faces, face_blendshapes=[], facial_transformation_matrixes=[])

    package, tasks, python = (ModuleType(name) for name in ("mediapipe", "mediapipe.tasks", "mediapipe.tasks.python"))
    package.Image = Image  # type: ignore[attr-defined]
    package.ImageFormat = SimpleNamespace(SRGB=1)  # type: ignore[attr-defined]
    python.BaseOptions = BaseOptions  # type: ignore[attr-defined]
    python.vision = SimpleNamespace(  # type: ignore[attr-defined]
        FaceLandmarkerOptions=Options, FaceLandmarker=Landmarker
    )
    for module in (package, tasks, python):
        monkeypatch.setitem(sys.modules, module.__name__, module)
    monkeypatch.setenv("STYLEREEL_CACHE", str(tmp_path))
    (tmp_path / landmarker.MODEL).write_bytes(b"model")
    return tmp_path / landmarker.MODEL


def test_mediapipes_points_become_the_68_in_the_pixels_of_the_frame(mediapipe: Path) -> None:
    faces = backend.open_backend("mediapipe")
    frame = np.full((100, 200, 3), 200, np.uint8)
    (box,) = faces.detect(frame)
    assert (box.x, box.score) == (pytest.approx(100), 1.0)
    square = backend.Box(80.0, 50.0, 40.0, roll=30.0)
    face = faces.look(frame, square)
    assert face is not None
    points = face.landmarks
    assert points.shape == (68, 2) and points.dtype == np.float32
    eyes = points[45] - points[36]
    assert np.rad2deg(np.arctan2(eyes[1], eyes[0])) == pytest.approx(30, abs=0.1)
    assert np.linalg.norm(eyes) == pytest.approx(0.3 * 40 * landmarker.MediaPipeBackend.MARGIN, rel=1e-3)
    tracked = backend.track([frame, np.zeros_like(frame), frame], RATE, backend=faces)
    assert tracked.missing == [1]


def test_mediapipes_points_are_68_and_mirror_each_other() -> None:
    assert len(set(landmarker.POINTS.tolist())) == 68
    # Two points that swap sides in iBUG swap sides in MediaPipe's mesh; some well-known pairs of it.
    pairs = {33: 263, 133: 362, 61: 291, 70: 300, 127: 356, 234: 454, 58: 288, 150: 379, 78: 308, 97: 326}
    mirrored = dict(zip(landmarker.POINTS.tolist(), landmarker.POINTS[pose.MIRROR].tolist()))
    assert {point: mirrored[point] for point in pairs} == pairs
    assert [mirrored[point] for point in (152, 168, 4, 2, 0, 17, 13, 14)] == [152, 168, 4, 2, 0, 17, 13, 14]


def test_what_mediapipe_lacks_is_named(mediapipe: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "mediapipe", None)
    with pytest.raises(ValueError, match="pip install mediapipe"):
        backend.open_backend("mediapipe")
    mediapipe.unlink()
    with pytest.raises(ValueError, match="weights get face_landmarker.task"):
        backend.open_backend("mediapipe")


# From file to file


def test_a_driven_face_goes_back_into_its_picture_and_frames_without_a_face_stay_as_they_were(tmp_path: Path) -> None:
    pytest.importorskip("dlib", reason="needs the extra `faces`")
    values = world.from_latent(np.random.default_rng(11).standard_normal(LATENT_DIM))
    values[[INDEX["yaw"], INDEX["pitch"]]] = 0
    face = world.draw(values, 200).image
    picture = np.full((260, 320, 3), 120, np.uint8)
    picture[30:230, 60:260] = face
    save_picture(tmp_path / "who.png", picture)
    with VideoWriter(tmp_path / "clip.mp4", RATE) as writer:
        for index in range(7):
            writer.write(np.full_like(face, 90) if index in (3, 4) else face)
    save_picture(tmp_path / "same.png", face)
    options = {"missing": "skip-edit", "source_face": str(tmp_path / "same.png")}
    out = tmp_path / "out.mkv"
    system = stylereel.load("stylemask")
    files: Any = {"source": str(tmp_path / "who.png"), "driving": str(tmp_path / "clip.mp4"), "out": str(out)}
    record = drive(system, **files, paste_back="source", options=options)
    assert record["inputs"]["source_face"]["sha256"] == sha256(tmp_path / "same.png") and "face" not in record["inputs"]
    assert record["frames"]["without a face"] == (3, 4) and record["faces in the clip"] == 1
    assert 0 < record["seam"] < 20 and 0 <= record["crop jitter"] < 0.01
    written = list(VideoReader(out))  # lossless
    picture = read_picture(tmp_path / "who.png")
    for index, frame in enumerate(written):
        if index in (3, 4):
            np.testing.assert_array_equal(frame, picture)
        else:
            np.testing.assert_array_equal(frame[:, :10], picture[:, :10])
            assert (frame != picture).any()
    # Into the driving clip instead: its size, its corners; and its frames without a face as they are.
    out = tmp_path / "into.mkv"
    record = drive(system, **{**files, "out": str(out)}, paste_back="driving", options=options)  # type: ignore[arg-type]
    assert record["settings"]["paste_back"] == "driving" and record["size"] == [200, 200] and 0 <= record["seam"] < 6
    for index, (frame, own) in enumerate(zip(VideoReader(out), VideoReader(tmp_path / "clip.mp4"), strict=True)):
        np.testing.assert_allclose(frame[-6:, :6].astype(int), own[-6:, :6], atol=2)
        assert (index in (3, 4)) == (np.abs(frame.astype(int) - own).max() < 3)
