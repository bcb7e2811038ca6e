"""Preparing training data: what is wrong is noticed, nothing is done twice, and no byte depends on who did what."""

from __future__ import annotations

import importlib
import io
import json
import os
import platform
import resource
import signal
import subprocess
import sys
import tarfile
import time
from collections.abc import Iterator
from fractions import Fraction
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pytest

from stylereel.commands.prepare import System, prepare
from stylereel.corpora import looks, shots, sounds
from stylereel.corpora.engine import Processes
from stylereel.corpora.ledger import Ledger, Row
from stylereel.corpora.settings import NEEDS, settings_for
from stylereel.corpora.sources import find_videos
from stylereel.corpora.steps import Task, plan_for, work_on
from stylereel.corpora.store import Result, Store, key_of
from stylereel.faces.coefficients import NAMES
from stylereel.media import activity
from stylereel.systems import list_systems

HERE = Path(__file__).parent
WAYS = ("", "", "cut", "silent", "no face", "two faces", "copy", "wrong rate", "two shots")


@pytest.fixture(scope="module")
def makers() -> Any:
    sys.path.insert(0, str(HERE.parent / "benchmarks"))
    try:
        return importlib.import_module("corpora")
    finally:
        sys.path.pop(0)


@pytest.fixture(scope="module")
def clips(makers: Any, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Tiny clips of the world: good ones, and one broken in each way; the copy is of the last good one."""
    folder = tmp_path_factory.mktemp("clips")
    for number, way in enumerate(WAYS):
        number = 2 if way == "copy" else number
        makers.draw_clip(
            folder, f"clip-{number:04}{'-' + way.replace(' ', '-') if way else ''}.mp4", way, number, 1.0, 96
        )
    return folder


@pytest.fixture(scope="module")
def parameters(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("parameters") / "tiny.toml"
    path.write_text(
        "[judge]\nsmallest = 30\n[crop]\nsize = 64\n[speech]\nvoice = 'energy'\n[track]\ndetector = 'auto'\n"
    )
    return path


@pytest.fixture(scope="module")
def made(clips: Path, parameters: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A data set for StyleHEAT, undisturbed."""
    out = tmp_path_factory.mktemp("made")
    prepare(str(clips), out=str(out), for_="styleheat", parameters=str(parameters), workers=0, licence="Apache-2.0")
    return out


def index(out: Path, system: str = "styleheat") -> dict[str, Any]:
    return json.loads((out / system / "dataset.json").read_bytes())


def test_each_way_of_being_broken_is_noticed_and_said(made: Path) -> None:
    about = index(made)
    reasons = {name.split("#")[0].removeprefix("clip-")[5:-4]: reason for name, reason in about["rejected"].items()}
    assert "damaged" in reasons["cut"] or "moov" in reasons["cut"] or "read" in reasons["cut"]
    assert reasons["silent"] == "The video has no sound."
    assert reasons["no-face"].startswith("No frame shows a face")
    assert reasons["two-faces"] == "2 faces are in one frame."
    assert reasons["copy"] == "It is a copy of clip-0001.mp4#000."
    kept = sorted(name for name in about["clips"].values())
    assert kept[:2] == ["clip-0000.mp4#000", "clip-0001.mp4#000"]
    assert "clip-0007-wrong-rate.mp4#000" in kept, "another rate is converted"
    page = (made / "styleheat" / "report.html").read_text()
    assert all(reason.replace("'", "&#x27;") in page for reason in about["rejected"].values())
    assert "<script" not in page and "http" not in page.replace("http-equiv", "")


def test_a_hard_cut_makes_two_clips(made: Path) -> None:
    names = {*index(made)["clips"].values(), *index(made)["rejected"]}
    assert {"clip-0008-two-shots.mp4#000", "clip-0008-two-shots.mp4#001"} <= names


def test_shards_are_read_by_training_and_hold_what_the_system_needs(made: Path) -> None:
    from stylereel.train.sources import open_source

    source = open_source(made / "styleheat" / "shards", size=64)
    about = index(made)
    sizes = json.loads((made / "styleheat" / "shards" / "sizes.json").read_bytes())
    assert source.count == sum(sizes.values()) and source.batch(0, 4)["images"].shape == (4, 3, 64, 64)
    with tarfile.open(made / "styleheat" / "shards" / "shard-000000.tar") as shard:
        names = shard.getnames()
        key = next(iter(about["clips"]))
        inside = [name.partition(".")[2] for name in names if name.startswith(key)]
        file = shard.extractfile(f"{key}.json")
        assert file is not None
        said = json.loads(file.read())
        arrays = {name: np.load(io.BytesIO(shard.extractfile(f"{key}.{name}.npy").read())) for name in about["arrays"]}  # type: ignore[union-attr]
    assert inside[:2] == ["0000.jpg", "0001.jpg"] and said["licence"] == "Apache-2.0" and said["rate"] == "25"
    pictures = said["pictures"]
    assert arrays["landmarks"].shape == (pictures, 68, 2) and 0 < arrays["landmarks"].mean() < 64
    assert 0.5 < said["inside"] <= 1
    assert arrays["coefficients"].shape == (pictures, len(NAMES)) and arrays["mel"].shape[0] == 80
    assert len(arrays["sound"]) == round(pictures / 25 * 16000)


def test_every_system_has_a_row_and_every_row_packs_what_is_described() -> None:
    from typing import get_args

    assert set(list_systems()) <= set(NEEDS) and list(get_args(System)) == list(NEEDS)
    for system in NEEDS:
        assert "crop" in plan_for(system, settings_for(system)).steps


def test_the_same_command_again_does_nothing_and_another_parameter_only_what_depends_on_it(
    made: Path, clips: Path, parameters: Path, tmp_path: Path
) -> None:
    before = {path: path.stat().st_mtime_ns for path in made.rglob("*.tar")}
    again = prepare(str(clips), out=str(made), for_="styleheat", parameters=str(parameters), workers=0,
                    licence="Apache-2.0")  # fmt: skip
    assert again.done == again.steps == 0  # type: ignore[attr-defined]
    assert before == {path: path.stat().st_mtime_ns for path in made.rglob("*.tar")}
    known = set((made / "work").rglob("*.safetensors"))
    other = tmp_path / "other.toml"
    other.write_text(parameters.read_text().replace("smallest = 30", "smallest = 30\njitter = 0.06"))
    prepare(str(clips), out=str(made), for_="styleheat", parameters=str(other), workers=0, licence="Apache-2.0")
    new = [Store(made / "work").head(path.stem) for path in set((made / "work").rglob("*.safetensors")) - known]
    assert new and all(head and not head.facts and head.bytes < 200 for head in new), "a threshold redoes judgements"
    prepare(str(clips), out=str(made), for_="generator", parameters=str(parameters), workers=0)
    ledger = Ledger(made / "ledger.sqlite")
    tracks = [row for row in ledger.rows() if row.step == "track" and row.video == "clip-0000.mp4"]
    ledger.close()
    assert len(tracks) == 1, "two systems share the track of a clip"


def test_check_reads_everything_and_names_a_changed_file(made: Path, clips: Path, tmp_path: Path) -> None:
    import shutil

    shutil.copytree(made / "styleheat", tmp_path / "styleheat")
    checked = prepare(out=str(tmp_path), for_="styleheat", check=True)
    assert list(checked.lines())[0].count("is whole") == 1
    shard = tmp_path / "styleheat" / "shards" / "shard-000000.tar"
    data = bytearray(shard.read_bytes())
    data[len(data) // 2] ^= 1
    shard.write_bytes(data)
    with pytest.raises(ValueError, match="shard-000000.tar is not the file that was written"):
        prepare(out=str(tmp_path), for_="styleheat", check=True)


def test_a_dry_run_writes_no_data_set_and_keeps_what_it_measured(clips: Path, parameters: Path, tmp_path: Path) -> None:
    said = prepare(str(clips), out=str(tmp_path), for_="generator", parameters=str(parameters), dry_run=True)
    assert "videos are left" in " ".join(said.lines()) and not (tmp_path / "generator").exists()
    assert any((tmp_path / "work").rglob("*.safetensors"))


# --- kills, and several at once


def start(clips: Path, out: Path, parameters: Path, *more: str) -> subprocess.Popen[bytes]:
    words = [sys.executable, "-m", "stylereel", "prepare", str(clips), "--out", str(out), "--for", "styleheat"]
    words += ["--parameters", str(parameters), "--licence", "Apache-2.0", *more]
    return subprocess.Popen(words, stdout=subprocess.PIPE, start_new_session=True)


def data_set(out: Path) -> dict[str, bytes]:
    folder = out / "styleheat"
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


@pytest.mark.skipif(os.name != "posix", reason="kills a process group")
def test_killed_in_the_middle_and_joined_by_another_gives_the_same_bytes(
    clips: Path, parameters: Path, tmp_path: Path
) -> None:
    some = tmp_path / "some"
    some.mkdir()
    for name in (
        "clip-0000.mp4",
        "clip-0001.mp4",
        "clip-0002-cut.mp4",
        "clip-0002-copy.mp4",
        "clip-0008-two-shots.mp4",
    ):
        (some / name).symlink_to(clips / name)
    whole, out = tmp_path / "whole", tmp_path / "out"
    prepare(str(some), out=str(whole), for_="styleheat", parameters=str(parameters), workers=0, licence="Apache-2.0")
    killed = start(some, out, parameters, "--workers", "0")
    ends = time.monotonic() + 120
    while sum(1 for _ in (out / "work").rglob("*.safetensors")) < 8 and time.monotonic() < ends:
        time.sleep(0.02)
    os.killpg(killed.pid, signal.SIGKILL)
    killed.communicate()
    assert not (out / "styleheat" / "dataset.json").exists()
    other = start(some, out, parameters, "--workers", "1")
    ours = prepare(
        str(some), out=str(out), for_="styleheat", parameters=str(parameters), workers=0, licence="Apache-2.0"
    )
    said = other.communicate()[0].decode()
    assert other.returncode == 0, said
    assert data_set(out) == data_set(whole) and len(data_set(out)) == 4
    ledger = Ledger(out / "ledger.sqlite")
    workers = {row.video: row.worker for row in ledger.rows()}
    assert len(workers) == 5
    assert all(row.worker == workers[row.video] for row in ledger.rows()), "one worker did all of a video"
    ledger.close()
    theirs = next(int(line.split()[0]) for line in said.splitlines() if "videos and" in line)
    assert ours.done + theirs <= 5, "no video is done twice"  # type: ignore[attr-defined]


class Bomb(NamedTuple):
    """In place of a video: ends the process that receives it."""

    name: str = "bomb.mp4"

    def __reduce__(self) -> tuple[Any, ...]:
        return os._exit, (9,)


def test_a_video_that_ends_its_process_is_named_and_the_others_are_done(
    clips: Path, parameters: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("stylereel.corpora.engine.TRIES", 1)
    plan = plan_for("generator", settings_for("generator", parameters))
    videos: list[Any] = [Bomb(), *find_videos([str(clips / "clip-0003-silent.mp4")])]
    done = list(Processes(1).run(Task(video, plan, str(tmp_path)) for video in videos))
    assert done[0].failed == "bomb.mp4 ended its process 1 times (memory, or a fault)." and not done[0].rows
    assert not done[1].failed and done[1].rows[-1].step == "crop"


def test_the_next_task_is_taken_while_a_process_works_not_after(tmp_path: Path) -> None:
    """Whoever writes down what is done keeps no process waiting."""
    plan = plan_for("generator", settings_for("generator"))
    (tmp_path / "damaged.mp4").write_bytes(b"no video")
    taken: list[int] = []

    def tasks() -> Iterator[Task]:
        for number in range(3):
            taken.append(number)
            yield Task(find_videos([str(tmp_path / "damaged.mp4")])[0], plan, str(tmp_path))

    done = Processes(1).run(tasks())
    assert next(done).rows and taken == [0, 1], "the second was sent before the first was given"
    assert next(done).rows and taken == [0, 1, 2]
    assert next(done).rows and not [*done]


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="only glibc gives memory back when asked")
def test_memory_that_a_video_took_is_given_back(tmp_path: Path) -> None:
    (tmp_path / "damaged.mp4").write_bytes(b"no video")
    video = find_videos([str(tmp_path / "damaged.mp4")])[0]
    task = Task(video, plan_for("generator", settings_for("generator")), str(tmp_path))
    work_on(task)
    blocks = [bytearray(b"x" * 90_000) for _ in range(1000)]
    kept = blocks[9::10]  # holes between them, which the C library keeps on its own
    del blocks
    before = memory_used()
    work_on(task)
    assert memory_used() < before - 40_000_000 and kept


def memory_used() -> int:
    return int(Path("/proc/self/statm").read_text().split()[1]) * resource.getpagesize()


def test_leases_are_kept_from_others_and_freed_of_the_dead(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    first, second = Ledger(tmp_path / "ledger.sqlite"), Ledger(tmp_path / "ledger.sqlite")
    first.beat()
    second.beat()
    assert first.take("a") and not second.take("a") and second.take("b") and not first.take("b")
    second.bury()
    assert not second.take("a"), "the process of the first lives"
    first._base.execute("update workers set host = 'elsewhere' where worker = ?", (first.worker,))
    second.bury()
    assert not second.take("a")
    now = time.monotonic()
    monkeypatch.setattr("stylereel.corpora.ledger.time.monotonic", lambda: now + 61)
    second.bury()
    assert second.take("a"), "its beat has not changed for longer than a lease"
    dead = subprocess.run([sys.executable, "-c", "import os; print(os.getpid())"], capture_output=True, check=True)
    first.beat()
    assert first.take("c")
    first._base.execute("update workers set process = ? where worker = ?", (int(dead.stdout), first.worker))
    second.bury()
    assert second.take("c"), "its process is gone"
    second.give_back("a", "b", "c")
    assert first.take("a") is True
    first.close()
    second.close()


def test_what_is_no_ledger_is_a_sentence(tmp_path: Path) -> None:
    (tmp_path / "ledger.sqlite").write_text("no ledger, but a long enough text that is surely none" * 30)
    with pytest.raises(ValueError, match="cannot be used"):
        Ledger(tmp_path / "ledger.sqlite")


def test_rows_that_are_there_stay(tmp_path: Path) -> None:
    ledger = Ledger(tmp_path / "ledger.sqlite")
    row = Row("a#000", "track", "key", "a", "sha", 1, "p", "done", 1.0, 2, "", {"faces": 1}, "", "one")
    ledger.add([row])
    ledger.add([row._replace(worker="two")])
    assert list(ledger.rows("a")) == [row]
    ledger.close()


def test_a_result_that_is_not_whole_is_not_there(tmp_path: Path) -> None:
    store, key = Store(tmp_path), key_of("a")
    store.save(key, Result({"x": 1}, {"a": np.arange(5)}), 0.5)
    assert store.head(key) is not None and store.arrays(key)["a"].tolist() == [0, 1, 2, 3, 4]
    data = store.path(key).read_bytes()
    store.path(key).write_bytes(data[:-4])
    assert store.head(key) is None


# --- parts


def test_cuts_are_found_and_movement_is_none() -> None:
    random = np.random.default_rng(0)
    scenes = [random.integers(0, 255, (6, 6, 3), dtype=np.uint8).repeat(10, 0).repeat(10, 1) for _ in range(3)]
    frames = []
    for scene in scenes:
        for step in range(20):
            frame = scene.copy()
            frame[20:40, step : step + 20] = 255  # something walks through
            frames.append(frame)
    assert shots.find_cuts(shots.changes(frames), 0.45) == [20, 40]
    noise = [np.clip(scenes[0] + random.normal(0, 20, scenes[0].shape), 0, 255).astype(np.uint8) for _ in range(20)]
    assert shots.find_cuts(shots.changes(noise), 0.45) == []


def test_shots_become_clips_at_another_rate() -> None:
    same = shots.divide([50], 200, Fraction(25), Fraction(25), 1.0, 2.0)
    assert same.clips == [(0, 50), (50, 50), (100, 50), (150, 50)] and same.short == 0
    other = shots.divide([50, 60], 200, Fraction(50), Fraction(25), 0.5, 9.0)
    assert other.clips == [(0, 25), (31, 69)] and other.short == 1


def test_offset_of_the_sound_is_found_and_taken_out() -> None:
    random = np.random.default_rng(1)
    opening = np.convolve(random.random(220), np.ones(3) / 3, "same")[:200]
    samples = np.repeat(opening, 640) * random.normal(0, 0.2, 200 * 640)
    sound = (np.clip(samples, -1, 1) * 32767).astype(np.int16)
    points = np.zeros((200, 68, 2))
    points[:, 36:42, 0], points[:, 42:48, 0] = 0, 1
    points[:, [61, 62, 63], 1] = -opening[:, None]
    early = sounds.delayed(sound, -4, Fraction(25))
    found = sounds.find_offset(points, early, Fraction(25), 10)
    assert found is not None and found.frames == 4 and found.lead > 0.3
    assert np.array_equal(sounds.delayed(early, 4, Fraction(25))[4 * 640 :], sound[4 * 640 :])
    assert sounds.find_offset(points, np.zeros_like(sound), Fraction(25), 10) is None


def test_loudness_alone_finds_speech_between_silence() -> None:
    random = np.random.default_rng(2)
    sound = np.zeros(32000)
    sound[8000:20000] = random.normal(0, 0.1, 12000)
    found = activity.speech((sound * 32767).astype(np.int16), "energy")
    assert abs(found.mean() - 12000 / 32000) < 0.05
    assert activity.speech(np.zeros(32000, np.int16), "energy").sum() == 0


def test_landmarks_that_shake_are_told_from_a_head_that_moves() -> None:
    random = np.random.default_rng(3)
    face = random.random((68, 2)) * 100
    found = np.ones(60, bool)
    moving = face + 5 * np.arange(60)[:, None, None] // 3 * 3  # stops and goes
    assert looks.jitter(moving, found) < 1e-6 < 0.01 < looks.jitter(moving + random.normal(0, 2, moving.shape), found)


def test_a_copy_moves_as_its_original_and_another_part_of_a_recording_does_not() -> None:
    from stylereel.corpora.pack import moves_as

    random = np.random.default_rng(4)
    face = random.random((1, 68, 2))
    one, two = (face + np.cumsum(random.normal(0, 0.02, (16, 1, 2)), 0) for _ in range(2))
    assert moves_as(one, one + random.normal(0, 0.005, one.shape)) and not moves_as(one, two)
    assert moves_as(face.repeat(16, 0), face.repeat(16, 0)) and not moves_as(face.repeat(16, 0), one)


def test_sources_are_folders_lists_patterns_and_shards(clips: Path, tmp_path: Path) -> None:
    with tarfile.open(tmp_path / "some.tar", "w") as shard:
        shard.add(clips / "clip-0000.mp4", "a/clip.mp4")
    listed = tmp_path / "list.txt"
    listed.write_text(f"# mine\n{clips / 'clip-0001.mp4'}\tCC BY 4.0\nsome.tar\n")
    videos = find_videos([str(listed)], "none")
    assert [(video.name, video.licence) for video in videos] == [
        ("clip-0001.mp4", "CC BY 4.0"),
        ("some.tar/a/clip.mp4", "none"),
    ]
    assert len(find_videos([str(clips)])) == len(WAYS) and len(find_videos([str(clips / "*000*.mp4")])) == len(WAYS)
    with pytest.raises(ValueError, match="Nothing matches"):
        find_videos([str(tmp_path / "*.mp4")])
    with pytest.raises(ValueError, match="would both be called clip-0000.mp4"):
        (tmp_path / "clip-0000.mp4").write_bytes(b"x")
        find_videos([str(clips / "clip-0000.mp4"), str(tmp_path / "clip-0000.mp4")])
    (tmp_path / "wrong.txt").write_text("nothing.mp4\n")
    with pytest.raises(ValueError, match=r"wrong.txt lists what cannot be taken: There is no file .*nothing.mp4"):
        find_videos([str(tmp_path / "wrong.txt")])
    with pytest.raises(ValueError, match=r"No clip is of use; .*report.html says why"):
        prepare(str(tmp_path / "some.tar"), out=str(tmp_path / "out"), for_="generator", workers=0)
    about = json.loads((tmp_path / "out" / "generator" / "dataset.json").read_text())
    assert len(about["rejected"]) == 1 and not list((tmp_path / "out" / "work" / "members").iterdir())


@pytest.mark.parametrize(
    ("text", "sentence"),
    [
        ("[judg]\nseconds = 1", "There is no table judg; did you mean judge"),
        ("[judge]\nsecond = 1", "has no second; did you mean seconds"),
        ("[judge]\nseconds = 'long'", "is a number, not 'long'"),
        ("[place]\nalign = 'best'", "is one of canonical"),
        ("[crop]\nsize = 1", "is between 16 and 2048"),
        ("[crop", "is not a TOML file"),
    ],
)
def test_wrong_parameters_are_a_sentence(text: str, sentence: str, tmp_path: Path) -> None:
    path = tmp_path / "p.toml"
    path.write_text(text)
    with pytest.raises(ValueError, match=sentence):
        settings_for("styleheat", path)


# --- the LeRobot layout, and Ray


def test_lerobot_layout_has_every_frame_where_its_tables_say(
    clips: Path, parameters: Path, made: Path, tmp_path: Path
) -> None:
    parquet = pytest.importorskip("pyarrow.parquet")
    from stylereel.media.video import VideoReader

    few = [str(clips / "clip-0000.mp4"), str(clips / "clip-0001.mp4")]
    prepare(*few, out=str(tmp_path), for_="styleheat", parameters=str(parameters), workers=0, lerobot=True)
    root = tmp_path / "styleheat" / "lerobot"
    info = json.loads((root / "meta" / "info.json").read_bytes())
    episodes = parquet.read_table(root / "meta/episodes/chunk-000/file-000.parquet").to_pylist()
    rows = parquet.read_table(root / info["data_path"].format(chunk_index=0, file_index=0)).to_pydict()
    video = VideoReader(
        root / info["video_path"].format(video_key="observation.images.face", chunk_index=0, file_index=0)
    )
    assert info["total_frames"] == len(rows["index"]) == video.num_frames == 50 and info["fps"] == video.rate == 25
    assert [(each["dataset_from_index"], each["dataset_to_index"]) for each in episodes] == [(0, 25), (25, 50)]
    assert [each["videos/observation.images.face/from_timestamp"] for each in episodes] == [0, 1]
    assert rows["episode_index"] == [0] * 25 + [1] * 25 and rows["frame_index"] == [*range(25)] * 2
    assert {name for name, each in info["features"].items() if each["dtype"] != "video"} == set(rows)
    with tarfile.open(tmp_path / "styleheat" / "shards" / "shard-000000.tar") as shard:
        file = shard.extractfile(f"{episodes[1]['episode_key']}.0003.jpg")
        assert file is not None
        from PIL import Image

        shown = np.asarray(Image.open(io.BytesIO(file.read())), float)
    frame = list(video)[25 + 3].astype(float)
    assert np.abs(frame - shown).mean() < 4 < np.abs(list(video)[3] - shown).mean()
    assert video.has_audio
    assert "is whole" in " ".join(prepare(out=str(tmp_path), for_="styleheat", check=True).lines())
    with pytest.raises(ValueError, match="one whole frame rate"):
        prepare(*few, out=str(tmp_path), for_="stylemask", workers=0, lerobot=True)


def test_ray_gives_the_same_bytes_with_a_worker_and_a_node_killed(
    clips: Path, parameters: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    ray = pytest.importorskip("ray")
    from ray.cluster_utils import Cluster  # type: ignore[import-not-found]  # an extra

    from stylereel.corpora.engine import Ray
    from stylereel.corpora.run import prepare_videos

    monkeypatch.setenv("RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO", "0")
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join(sys.path))  # of the workers
    videos = find_videos([str(clips)], "Apache-2.0")
    plan = plan_for("styleheat", settings_for("styleheat", parameters))
    whole, out = tmp_path / "whole", tmp_path / "out"
    prepare(str(clips), out=str(whole), for_="styleheat", parameters=str(parameters), workers=0, licence="Apache-2.0")
    small: dict[str, Any] = {"num_cpus": 1, "object_store_memory": 80 * 2**20}
    try:
        cluster = Cluster(initialize_head=True, head_node_args={**small, "include_dashboard": False})
        second = cluster.add_node(**small)
    except Exception as error:
        if "timed out during startup" in str(error):  # Ray's own limit is half a minute
            pytest.skip("Ray does not start on cores as busy as these.")
        raise
    killed: list[int] = []
    try:
        engine = Ray(cluster.address)
        assert sum(node["Alive"] for node in ray.nodes()) == 2

        class Disturbed:
            """Kills the processes of the first node after the first video, and the second node after the next."""

            def run(self, tasks: Any) -> Any:
                for number, done in enumerate(engine.run(tasks)):
                    if number == 0:
                        killed.extend(working(cluster.head_node))
                        for process in killed:
                            os.kill(process, signal.SIGKILL)
                    if number == 1:
                        cluster.remove_node(second, allow_graceful=False)
                    yield done

        made = prepare_videos(videos, plan, out, Disturbed())
        assert sum(node["Alive"] for node in ray.nodes()) == 1
    finally:
        ray.shutdown()
        cluster.shutdown()
    assert killed and made.videos == made.done == len(WAYS)
    assert data_set(out) == data_set(whole)


def working(node: Any) -> list[int]:
    """The processes of a Ray node that take tasks."""
    found = []
    for each in node.all_processes["raylet"]:
        for thread in Path(f"/proc/{each.process.pid}/task").iterdir():
            for child in (thread / "children").read_text().split():
                if Path(f"/proc/{child}/cmdline").read_bytes().startswith((b"ray::work_on", b"ray::IDLE")):
                    found.append(int(child))
    return found


def test_what_is_not_installed_is_a_sentence(clips: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "ray", None)
    with pytest.raises(ValueError, match=r"pip install 'stylereel\[ray\]'"):
        prepare(str(clips), out=str(tmp_path), for_="generator", engine="ray")
    with pytest.raises(ValueError, match="--address goes with --engine ray"):
        prepare(str(clips), out=str(tmp_path), for_="generator", address="auto")
    assert not any(tmp_path.iterdir())


# --- trained from


def test_windows_of_shards_have_pictures_and_the_rows_of_arrays_that_belong_to_them(made: Path) -> None:
    from stylereel.train.sources import open_source

    shards = made / "styleheat" / "shards"
    source = open_source(shards, size=32, frames=5, stride=2, arrays=["landmarks", "coefficients"], seed=3)
    batch = source.batch(0, 3)
    assert source.count == len(index(made)["clips"])
    assert batch["clips"].shape == (3, 5, 3, 32, 32) and batch["coefficients"].shape == (3, 5, len(NAMES))
    with tarfile.open(shards / "shard-000000.tar") as shard:
        key = batch["names"][0].rpartition("/")[2]
        file = shard.extractfile(f"{key}.landmarks.npy")
        assert file is not None
        points = np.load(io.BytesIO(file.read()))
    places = [int(np.abs(points - row.numpy()).sum((1, 2)).argmin()) for row in batch["landmarks"][0]]
    assert np.array_equal(points[places], batch["landmarks"][0].numpy()) and set(np.diff(places)) == {2}
    with pytest.raises(ValueError, match="arrays go with the windows of shards"):
        open_source(shards, size=32, arrays=["landmarks"])
    with pytest.warns(UserWarning, match="has no codes; it has"), pytest.raises(ValueError, match="None of the files"):
        open_source(shards, size=32, frames=5, arrays=["codes"], limit=100).batch(0, 1)


def test_codes_of_a_video_are_those_of_its_clips_one_after_the_other(clips: Path, tmp_path: Path) -> None:
    from stylereel.corpora.pack import read_codes

    text = "[judge]\nsmallest = 30\nseconds = 0.1\n[shots]\nlongest = 0.5\nshortest = 0.1\n[crop]\nsize = 16\n"
    (tmp_path / "short.toml").write_text(text)
    video = clips / "clip-0008-two-shots.mp4"
    prepare(str(video), out=str(tmp_path), for_="stylevideogan", parameters=str(tmp_path / "short.toml"), workers=0)
    folder = tmp_path / "stylevideogan"
    keys = {clip: key for key, clip in index(tmp_path, "stylevideogan")["clips"].items()}
    parts = [read_codes(folder, keys[clip]).w for clip in sorted(keys)]
    whole = read_codes(folder, video.name).w
    assert len(parts) == 4 and sum(map(len, parts)) == len(whole) and (whole[: len(parts[0])] == parts[0]).all()


def test_stylevideogan_learns_from_a_clip_of_a_prepared_set(
    made: Path, clips: Path, parameters: Path, tmp_path: Path
) -> None:
    from stylereel.systems.stylevideogan.making import codes_of
    from stylereel.systems.stylevideogan.training import Recipe, train
    from stylereel.train.loop import Trainer

    prepare(str(clips / "clip-0000.mp4"), out=str(made), for_="stylevideogan", parameters=str(parameters), workers=0)
    key = next(iter(index(made, "stylevideogan")["clips"]))
    codes = codes_of(str(made / "stylevideogan" / key), tmp_path)
    assert len(codes) == 25 and codes.rate == 25 and codes_of(str(made / "stylevideogan" / "clip-0000.mp4"), tmp_path)
    recipe = Recipe(epochs=0.01, least=2, batch=2, frames=5, width=8)
    train(Trainer(tmp_path, precision="32", device="cpu"), codes, recipe, "few")
    with pytest.raises(ValueError, match="has no clip nobody; give a key such as"):
        codes_of(str(made / "stylevideogan" / "nobody"), tmp_path)
