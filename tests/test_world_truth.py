"""Depth, normals and flow of the world's portraits, and the data sets and commands that hand them out."""

import io
import json
import tarfile
from pathlib import Path

import numpy as np
import pytest
from scipy.ndimage import map_coordinates

from stylereel import world
from stylereel.cli import main
from stylereel.core.latents import Motion
from stylereel.media.pictures import decode_picture
from stylereel.media.sound import waveform
from stylereel.media.video import VideoReader
from stylereel.train.shards import local_members
from stylereel.world.dataset import write_dataset
from stylereel.world.factors import INDEX, person
from stylereel.world.geometry import HEAD, TORSO, TRIANGLE_PART, TRIANGLES, VERTICES
from stylereel.world.shading import REGIONS
from stylereel.world.truth import flow, flow_between, shape_of, surface_of, truth

SIZE = 192
SKIN = REGIONS.index("skin")


def posed(seed: int, **motion: float) -> np.ndarray:
    """The person of a seed with a neutral face, but for what is given; nothing in front of the face."""
    values = person(seed)
    values[world.MOTION_COLUMNS] = world.neutral()[world.MOTION_COLUMNS]
    for name, value in {"glasses": 0, "beard": 0, "fringe": 0, **motion}.items():
        values[INDEX[name]] = value
    return values


def pixel(point: np.ndarray) -> tuple[int, int]:
    return int(point[1] * SIZE), int(point[0] * SIZE)


# --- Another shape


def test_a_shape_shifts_vertices_on_the_screen_as_asked() -> None:
    values = posed(3, yaw=14.0, pitch=-6.0)
    drawn = surface_of(values, SIZE)
    shift = np.random.default_rng(0).normal(0, 4, (len(drawn.screen), 2))
    other = surface_of(values, SIZE, shape_of(values, SIZE, shift))
    assert np.abs(other.screen[:, :2] - drawn.screen[:, :2] - shift).max() < 1e-2
    assert np.abs(other.camera[:, 2] - drawn.camera[:, 2]).max() < 1e-4
    assert np.array_equal(surface_of(values, SIZE, np.zeros_like(drawn.camera)).corners, drawn.corners)


def test_the_shape_of_a_head_turns_with_it_and_that_of_a_torso_hardly_does() -> None:
    front, aside = posed(3), posed(3, yaw=60.0)
    still = surface_of(front, SIZE).camera
    shift = np.full((len(still), 2), (6.0, 0.0))
    shape = shape_of(front, SIZE, shift)
    moved = surface_of(aside, SIZE, shape).camera - surface_of(aside, SIZE).camera
    before = surface_of(front, SIZE, shape).camera - still
    part = np.zeros(VERTICES, int)
    part[TRIANGLES] = TRIANGLE_PART[:, None]
    for index, angle in ((HEAD, 60.0), (TORSO, 0.18 * 60.0)):
        share = np.abs(moved[part == index, 0]).mean() / np.abs(before[part == index, 0]).mean()
        assert share == pytest.approx(np.cos(np.radians(angle)), abs=0.01)


def test_a_head_of_another_shape_covers_more_and_the_flow_knows() -> None:
    values = posed(5)
    drawn = surface_of(values, SIZE)
    middle = np.array([SIZE / 2, 0.43 * SIZE])
    shape = shape_of(values, SIZE, 0.1 * (drawn.screen[:, :2] - middle))
    larger = surface_of(values, SIZE, shape)
    assert len(larger.rows) > 1.07 * len(drawn.rows)
    at = flow_between(larger, drawn)
    rows, columns = np.nonzero(truth(values, SIZE).depth < 13.4)  # the face, which is not turned away
    there = np.stack([columns, rows], 1) + 0.5
    assert np.abs(at.flow[rows, columns] + (there - middle) / 11).max() < 1.0


# --- Depth and normals


@pytest.mark.parametrize("seed", [1, 2, 3])
def test_depth_knows_the_nose_from_the_ear_and_the_backdrop(seed: int) -> None:
    values = posed(seed)
    depth = truth(values, SIZE).depth
    points, nearness = world.project_landmarks(values)
    nose, jaw = depth[pixel(points[30])], depth[pixel(points[1] + (0.02, 0))]
    assert nose + 0.3 < jaw < np.inf
    assert np.isinf(depth[0, 0]) and depth.shape == (SIZE, SIZE)
    face = [i for i in range(17, 68) if i not in range(36, 48)]
    errors = [abs(14 - depth[pixel(points[i])] - nearness[i]) for i in face]
    assert np.median(errors) < 0.03, "decimetres from the camera, as the landmarks have it"


def test_normals_have_unit_length_and_face_the_viewer() -> None:
    values = posed(4)
    normals = truth(values, SIZE).normals
    inside = np.isfinite(truth(values, SIZE).depth)
    assert np.allclose(np.linalg.norm(normals[inside], axis=1), 1, atol=1e-4)
    assert (normals[~inside] == 0).all()
    assert (normals[inside, 2] > -0.3).all() and (normals[inside, 2] > 0).mean() > 0.97
    points, _ = world.project_landmarks(values)
    assert normals[pixel(points[1] + (0.02, 0))][0] < -0.5 < 0.5 < normals[pixel(points[15] - (0.02, 0))][0]
    assert normals[pixel(points[27])][2] > 0.8


def test_normals_are_the_slopes_of_the_depth() -> None:
    """On the forehead the slopes of depth agree with the normals."""
    values = posed(5, yaw=15, pitch=4)
    depth, normals = truth(values, SIZE)
    points, _ = world.project_landmarks(values)
    row, column = pixel(points[27] - (0, 0.10))
    patch = slice(row - 4, row + 5), slice(column - 6, column + 7)
    down, right = np.gradient(depth[patch].astype(float))
    per_pixel = 1 / (0.2993 * SIZE / (depth[patch] / 14))  # decimetres
    n = normals[patch]
    assert np.median(np.abs(right / per_pixel - n[..., 0] / n[..., 2])) < 0.06
    assert np.median(np.abs(down / per_pixel - n[..., 1] / n[..., 2])) < 0.06


# --- Flow


def test_equal_frames_have_no_flow() -> None:
    found = flow(posed(1), posed(1), SIZE)
    assert np.abs(found.flow).max() < 1e-6
    assert found.visible.mean() > 0.995


def test_landmarks_move_as_the_flow_says() -> None:
    a, b = posed(2), posed(2, yaw=9, pitch=-5, roll=4, shift_x=0.02, scale=1.04)
    moved = flow(a, b, SIZE)
    one, two = world.project_landmarks(a)[0], world.project_landmarks(b)[0]
    steps = (two - one) * SIZE
    assert np.hypot(*steps.T)[17:].mean() > 5
    errors = [np.hypot(*(moved.flow[pixel(one[i])] - steps[i])) for i in range(17, 68)]
    assert np.median(errors) < 0.2 and np.quantile(errors, 0.9) < 0.6


def test_the_second_frame_drawn_back_along_the_flow_is_the_first() -> None:
    """For a shift alone light stays, so skin agrees to grey levels; for a turn what is skin stays skin."""
    a, b = posed(3), posed(3, shift_x=0.031, shift_y=-0.017)
    found, one, two = flow(a, b, SIZE), world.draw(a, SIZE), world.draw(b, SIZE)
    shift = np.abs(found.flow - (0.031 * SIZE, -0.017 * SIZE)).max(2)
    assert (shift[one.regions == SKIN] < 1e-3).mean() > 0.98, "all but the outermost pixels"
    skin = (one.regions == SKIN) & found.visible
    rows, columns = np.indices((SIZE, SIZE))
    place = [rows + found.flow[..., 1], columns + found.flow[..., 0]]
    back = np.stack([map_coordinates(two.image[..., k].astype(float), place, order=1) for k in range(3)], 2)
    error = np.abs(back - one.image).mean(2)[skin]
    plain = np.abs(two.image.astype(float) - one.image).mean(2)[skin]
    assert error.mean() < 3 and error.mean() < 0.3 * plain.mean()

    turned = posed(3, yaw=8, pitch=4)
    found, two = flow(a, turned, SIZE), world.draw(turned, SIZE)
    place = [np.round(rows + found.flow[..., 1]), np.round(columns + found.flow[..., 0])]
    place = [np.clip(each, 0, SIZE - 1).astype(int) for each in place]
    same = (two.regions[place[0], place[1]] == one.regions)[(one.regions == SKIN) & found.visible]
    assert same.mean() > 0.95


def test_what_turns_away_is_marked_hidden() -> None:
    """Turned by 30 degrees, the far cheek hides and the near one stays; the backdrop behind the head is covered."""
    a, b = posed(4), posed(4, yaw=30)
    found = flow(a, b, SIZE)
    points, _ = world.project_landmarks(a)
    far, near = points[14] - (0.01, 0), points[2] + (0.03, 0)
    assert not found.visible[pixel(far)] and found.visible[pixel(near)]
    turned = truth(b, SIZE).depth
    covered = np.isinf(truth(a, SIZE).depth) & np.isfinite(turned)
    assert covered.sum() > 50 and not found.visible[covered].any()


def test_flow_between_two_persons_is_refused() -> None:
    with pytest.raises(ValueError, match="one person"):
        flow(posed(1), posed(2), SIZE)


# --- Data sets


def contents(shard: Path) -> dict[str, bytes]:
    with tarfile.open(shard) as file:
        return {m.name: file.extractfile(m).read() for m in file}  # type: ignore[union-attr]


def array(data: bytes) -> np.ndarray:
    return np.load(io.BytesIO(data))


@pytest.mark.parametrize("kind", ["portraits", "clips"])
def test_a_data_set_is_the_same_to_the_byte_when_written_again(tmp_path: Path, kind: str) -> None:
    for name in ("one", "two"):
        write_dataset(tmp_path / name, 3, 48, kind, 5, True, "talking", 0.2)  # type: ignore[arg-type]
    one, two = (sorted((tmp_path / name).iterdir()) for name in ("one", "two"))
    assert [p.name for p in one] == ["dataset.json", "shard-000000.tar", "sizes.json"] == [p.name for p in two]
    assert all(a.read_bytes() == b.read_bytes() for a, b in zip(one, two, strict=True))


def test_shards_are_read_back_by_the_trainer(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("stylereel.world.dataset.IMAGES_PER_SHARD", 2)
    paths = write_dataset(tmp_path / "set", 5, 64, seed=7)
    assert [path.name for path in paths] == [f"shard-{i:06}.tar" for i in range(3)]
    notes: list[str] = []
    samples = local_members(paths, lambda name, reason: notes.append(reason))
    assert len(samples) == 5 and not notes
    assert json.loads((tmp_path / "set" / "sizes.json").read_text()) == {
        p.name: n for p, n in zip(paths, (2, 2, 1), strict=True)
    }
    for number, (name, member) in enumerate(samples):
        picture = decode_picture(io.BytesIO(member.read()), name)
        assert np.array_equal(picture, world.draw(person(7 + number), 64).image)
    first = contents(paths[0])
    portrait = world.draw(person(7), 64)
    assert np.array_equal(array(first["00000007.values.npy"]), person(7))
    assert np.array_equal(array(first["00000007.landmarks.npy"]), portrait.landmarks)
    assert np.array_equal(array(first["00000007.regions.npy"]), portrait.regions)


def test_a_clip_sample_holds_frames_labels_sound_and_phonemes(tmp_path: Path) -> None:
    (shard,) = write_dataset(tmp_path / "set", 1, 48, "clips", 3, True, "talking", 0.4)
    found = contents(shard)
    arrays = {name.split(".", 1)[1]: array(data) for name, data in found.items() if name.endswith("npy")}
    assert sum(name.endswith("png") for name in found) == 10
    assert arrays["values.npy"].shape == (10, len(world.NAMES))
    assert arrays["landmarks.npy"].shape == (10, 68, 2)
    assert arrays["regions.npy"].shape == (10, 48, 48)
    assert arrays["flow.npy"].shape == (9, 48, 48, 2) and arrays["seen.npy"].shape == (9, 48, 48)
    assert arrays["sound.npy"].shape == (6400,) and arrays["sound.npy"].dtype == np.int16
    phonemes = json.loads(found["00000003.phonemes.json"])
    assert phonemes[0][1] == 0 and phonemes[-1][2] >= 6400


def test_a_broken_off_data_set_leaves_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*_: object) -> None:
        raise RuntimeError("power cut")

    monkeypatch.setattr("stylereel.world.dataset._png", fail)
    with pytest.raises(RuntimeError):
        write_dataset(tmp_path / "set", 2, 32)
    assert list(tmp_path.iterdir()) == []


# --- Commands


def test_world_portrait_draws_the_person_with_what_is_set(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = tmp_path / "p.png"
    assert (
        main(
            [
                "world",
                "portrait",
                "--seed",
                "4",
                "--size",
                "64",
                "--set",
                "yaw=20, smile=1",
                "--truth",
                "--out",
                str(out),
            ]
        )
        == 0
    )
    values = person(4)
    values[INDEX["yaw"]], values[INDEX["smile"]] = 20, 1
    assert np.array_equal(decode_picture(out, out), world.draw(values, 64).image)
    with np.load(tmp_path / "p.npz") as maps:
        assert np.array_equal(maps["values"], values)
        assert np.array_equal(maps["depth"], truth(values, 64).depth)
    assert len(capsys.readouterr().out.split()) == 3


def test_world_clip_speaks_the_text_with_picture_and_sound_of_one_length(tmp_path: Path) -> None:
    out, track = tmp_path / "c.mp4", tmp_path / "m.safetensors"
    command = ["world", "clip", "--seed", "3", "--size", "64", "--text", "Hello you!", "--motion", str(track)]
    assert main([*command, "--out", str(out)]) == 0
    motion = Motion.load(track)
    assert sum(1 for _ in VideoReader(out)) == len(motion) > 20
    sound = waveform(out)
    assert len(sound) / 16000 == pytest.approx(len(motion) / 25, abs=0.06)
    assert motion.column("jaw").max() > 0.2
    # The mouth opens when the sound is loud.
    loud = np.sqrt([(sound[i * 640 : (i + 1) * 640] ** 2).mean() for i in range(len(motion) - 2)])
    assert np.corrcoef(loud, motion.column("jaw")[: len(loud)])[0, 1] > 0.4


def test_a_still_person_has_no_sound(tmp_path: Path) -> None:
    out = tmp_path / "c.mp4"
    assert main(["world", "clip", "--manner", "still", "--seconds", "0.4", "--size", "32", "--out", str(out)]) == 0
    with pytest.raises(ValueError, match="sound"):
        waveform(out)


@pytest.mark.parametrize(
    ("command", "message"),
    [
        ("portrait --set jaww=1", "did you mean jaw"),
        ("portrait --set jaw=2", "jaw takes a number from 0 to 1"),
        ("portrait --size 4", "--size takes 16 to 8192 pixels"),
        ("clip --seconds 0", "more than 0 seconds"),
        ("clip --manner listening --text hello", "Text is said"),
        ("clip --text ...", "some words"),
        ("clip --voice espeak", "needs words"),
        ("dataset --count 0", "count of 1 or more"),
        ("dataset --count 1 --kind films", "portraits, clips"),
    ],
)
def test_mistakes_get_one_sentence(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], command: str, message: str
) -> None:
    name = {"portrait": "x.png", "clip": "x.mp4", "dataset": "x"}[command.split()[0]]
    assert main(["world", *command.split(), "--out", str(tmp_path / name)]) == 2
    assert message in capsys.readouterr().err
    assert list(tmp_path.iterdir()) == []
