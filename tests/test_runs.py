"""Runs and their files: nothing is written over, killed runs go on with the same bytes, signals leave no half files."""

import json
import os
import shutil
import signal
import stat
import subprocess
import sys
from collections.abc import Callable, Iterator
from fractions import Fraction
from pathlib import Path

import numpy as np
import pytest
import torch

from stylereel.cli import main
from stylereel.core import files
from stylereel.core.files import MediaError, replacing
from stylereel.core.latents import Codes, Identity
from stylereel.core.record import write_record
from stylereel.core.runs import Unfinished, claim
from stylereel.core.weights import write_tensors
from stylereel.corpora.store import Result, Store
from stylereel.generator import StyleGAN2, StyleGAN2Config
from stylereel.media import writer
from stylereel.media.pictures import save_picture
from stylereel.media.video import VideoReader, VideoWriter
from stylereel.systems.stylemask import MaskConfig, MaskNets

KILLED = Path(__file__).with_name("killed_run.py")
FRAMES = 360


@pytest.fixture(scope="module")
def words(tmp_path_factory: pytest.TempPathFactory) -> list[str]:
    """A drive of FRAMES frames by a system that is tiny and no less real."""
    folder = tmp_path_factory.mktemp("tiny")
    torch.manual_seed(0)
    generator = StyleGAN2(StyleGAN2Config(16, z_dim=8, w_dim=8, channel_base=128, channel_max=8, mapping_layers=1))
    torch.save(generator.state_dict(), folder / "g.pt")
    masks = MaskNets(MaskConfig.of(generator)).state_dict()
    torch.save({"mask_net": masks, "num_layers_control": 5, "step": 0}, folder / "m.pt")
    w = torch.randn(FRAMES, 6, 8).cumsum(0) / 10
    Codes(w, "", Fraction(25), torch.ones(FRAMES, 4)).save(folder / "c.safetensors")
    given = {"generator": folder / "g.pt", "masks": folder / "m.pt", "driving": folder / "c.safetensors", "source": 1}
    return ["drive", "stylemask", *(str(word) for name, path in given.items() for word in (f"--{name}", path))]


def environment() -> dict[str, str]:
    return {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": str(KILLED.parents[1] / "src")}


def test_a_killed_drive_goes_on_and_gives_the_same_bytes(words: list[str], tmp_path: Path) -> None:
    assert main([*words, "--out", str(tmp_path / "whole.mp4")]) == 0
    out = tmp_path / "killed.mp4"
    command = [sys.executable, str(KILLED), "3", "1.0", *words, "--out", str(out)]
    done = subprocess.run(command, capture_output=True, text=True, env=environment(), timeout=300)
    assert done.returncode == 0, done.stderr
    assert out.read_bytes() == (tmp_path / "whole.mp4").read_bytes()
    record = json.loads(out.with_suffix(".json").read_text())
    assert record["frames"]["written"] == FRAMES and record["frames of an earlier run"] % writer.SEGMENT == 0
    assert sorted(path.name for path in tmp_path.iterdir()) == sorted(
        f"{name}.{kind}" for name in ("killed", "whole") for kind in ("mp4", "json")
    )


def frames(first: int, count: int) -> list[np.ndarray]:
    return [np.roll(np.arange(48 * 64 * 3, dtype=np.uint8).reshape(48, 64, 3), 3 * i, 1) for i in range(first, count)]


@pytest.mark.parametrize("ending", ["mp4", "webm", "mkv", "gif"])
def test_a_writer_takes_over_whole_segments(ending: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(writer, "SEGMENT", 10)
    target = tmp_path / f"a.{ending}"
    with VideoWriter(tmp_path / f"whole.{ending}", Fraction(25)) as whole:
        for frame in frames(0, 34):
            whole.write(frame)
        whole.finish()
    with pytest.raises(KeyboardInterrupt, match="the same command goes on with what is in"):
        with Unfinished(target, {"a": 1}) as work, VideoWriter(target, Fraction(25), unfinished=work) as stopped:
            for index, frame in enumerate(frames(0, 27)):
                stopped.write(frame, index)
            raise KeyboardInterrupt
    assert {path.name for path in tmp_path.iterdir()} == {f"whole.{ending}", f"{target.name}.unfinished"}
    damaged = tmp_path / f"{target.name}.unfinished" / "000001.segment"
    kept = damaged.read_bytes()
    for content, expected in ((kept, 20), (kept[:-1] + bytes([kept[-1] ^ 1]), 10)):
        damaged.write_bytes(content)
        with pytest.raises(KeyboardInterrupt):
            with Unfinished(target, {"a": 1}) as work, VideoWriter(target, Fraction(25), unfinished=work) as looked:
                assert looked.num_frames == expected and looked.notes == list(range(expected))
                work.worth = True
                raise KeyboardInterrupt
    with Unfinished(target, {"a": 1}) as work:
        with VideoWriter(target, Fraction(25), unfinished=work) as resumed:
            for frame in frames(resumed.num_frames, 34):
                resumed.write(frame)
            resumed.finish()
    assert target.read_bytes() == (tmp_path / f"whole.{ending}").read_bytes()
    assert VideoReader(target).num_frames == 34
    assert {path.name for path in tmp_path.iterdir()} == {f"whole.{ending}", target.name}


def test_other_facts_begin_again_and_a_live_run_is_not_disturbed(tmp_path: Path) -> None:
    target = tmp_path / "a.mp4"
    with Unfinished(target, {"a": 1}) as work:
        work.keep("who", Identity, lambda: Identity(torch.ones(2, 3), "one"))
        with pytest.raises(MediaError, match="Another run is writing"):
            Unfinished(target, {"a": 1}).__enter__()
        work.worth = True
        assert work.keep("who", Identity, lambda: Identity(torch.ones(2, 3), "two")).system == "one"
        with pytest.raises(KeyboardInterrupt):
            work.__exit__(KeyboardInterrupt, KeyboardInterrupt(), None)
    with Unfinished(target, {"a": 2}) as work:
        assert work.keep("who", Identity, lambda: Identity(torch.ones(2, 3), "two")).system == "two"
    assert list(tmp_path.iterdir()) == []


def test_nothing_is_written_over(tmp_path: Path) -> None:
    theirs, ours = tmp_path / "theirs.mp4", tmp_path / "ours.mp4"
    theirs.write_bytes(b"theirs")
    with pytest.raises(MediaError, match="theirs.mp4 exists, and no record says.*--overwrite"):
        claim([theirs, theirs.with_suffix(".json")])
    claim([theirs, theirs.with_suffix(".json")], overwrite=True)
    ours.write_bytes(b"ours")
    files = [ours, ours.with_suffix(".json")]
    write_record(ours, {"files": files})
    claim(files)
    for again in (files, [tmp_path / "link.mp4"]):  # an input by another name, even if it may be overwritten
        if again != files:
            again[0].symlink_to(ours)
        with pytest.raises(MediaError, match="would be written over the input"):
            claim(again, [ours], overwrite=True)
    with pytest.raises(MediaError, match="would be written over the input"):
        claim([ours], [tmp_path], overwrite=True)  # a folder means the files in it
    with pytest.raises(MediaError, match="exists, and no record"):
        claim([tmp_path / "ours.webm", tmp_path / "ours.json"])  # whose record is that of ours.mp4
    ours.write_bytes(b"changed")
    with pytest.raises(MediaError, match="ours.mp4 exists, and no record"):
        claim(files)
    with pytest.raises(MediaError, match="would be written twice"):
        claim([tmp_path / "new", tmp_path / "new"])
    assert theirs.read_bytes() == b"theirs"


def test_the_side_files_of_sample_spare_an_identity(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    anna = tmp_path / "anna.safetensors"
    Identity(torch.zeros(14, 512), "stylevideogan").save(anna)
    before = anna.read_bytes()
    command = ["sample", "stylevideogan", "--seed", "1", "--frames", "2", "--out", str(tmp_path / "anna.mp4")]
    for more in ([], ["--identity", str(anna), "--overwrite"]):
        assert main([*command, *more]) == 2
        assert "anna.safetensors" in capsys.readouterr().err
    assert anna.read_bytes() == before and [path.name for path in tmp_path.iterdir()] == [anna.name]


def test_what_killed_processes_left_is_removed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    code = f"""
import os, signal
from stylereel.core.files import replacing, replacing_folder
with replacing_folder({str(tmp_path / "new")!r}), replacing({str(tmp_path / "file")!r}) as partial:
    partial.write_text("half")
    os.kill(os.getpid(), signal.SIGKILL)
"""
    subprocess.run([sys.executable, "-c", code], env=environment())
    assert len(list(tmp_path.glob(".*.part"))) == 2
    with replacing(tmp_path / "live") as partial:
        partial.write_text("whole")
        assert [path for path in tmp_path.iterdir()] == [partial]
        monkeypatch.setattr(files, "_CLEARED", set())
        files.ensure_writable(tmp_path / "other")  # a part that is being written stays
    assert [path.name for path in tmp_path.iterdir()] == ["live"]


def test_files_have_the_permissions_of_the_umask(tmp_path: Path) -> None:
    before = os.umask(0o027)
    try:
        Identity(torch.zeros(1, 2), "x").save(tmp_path / "new" / "who.safetensors")
        save_picture(tmp_path / "new" / "a.png", np.zeros((8, 8, 3), np.uint8))
    finally:
        os.umask(before)
    for file in (tmp_path / "new").iterdir():
        assert stat.S_IMODE(file.stat().st_mode) == 0o640, file


def test_no_folder_is_left_by_what_fails(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="no"):
        with replacing(tmp_path / "a" / "b" / "c"):
            raise ValueError("no")
    files.ensure_writable(tmp_path / "a" / "b" / "c")
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_signals_end_a_command_alike(words: list[str], tmp_path: Path, number: int) -> None:
    out, folder = tmp_path / "out.mp4", tmp_path / "out.mp4.unfinished"
    command = [*words, "--out", str(out)]
    code = f"""
import os, sys
from stylereel.cli import main
from stylereel.media import writer
write = writer._write_segment
def write_and_signal(*arguments):
    write(*arguments)
    if arguments[0].name == "000001.segment":
        os.kill(os.getpid(), {int(number)})
writer._write_segment = write_and_signal
sys.exit(main(sys.argv[1:]))
"""
    run = [sys.executable, "-c", code, *command]
    done = subprocess.run(run, stderr=subprocess.PIPE, text=True, env=environment(), timeout=300)
    said, unfinished = done.stderr, "stylereel: stopped; the same command goes on"
    assert done.returncode == 130 and said.startswith(unfinished) and folder.exists()
    assert "Traceback" not in said and not list(tmp_path.glob(".*.part")) and not list(folder.glob(".*.part"))
    assert main(command) == 0
    assert json.loads((tmp_path / "out.json").read_text())["frames of an earlier run"] > 0
    assert sorted(path.name for path in tmp_path.iterdir()) == ["out.json", "out.mp4"]


@pytest.mark.parametrize(
    ("words", "name"),
    [
        (["look", "{in}", "--out", "{in}"], "in.png"),
        (["look", "{in}", "--out", "{theirs}.png"], "theirs.png"),
        (["world", "sheet", "--out", "{theirs}.png"], "theirs.png"),
        (["world", "portrait", "--truth", "--out", "{new}.png"], "new.npz"),
        (["world", "clip", "--motion", "{theirs}.safetensors", "--out", "{new}.mp4"], "theirs.safetensors"),
        (["invert", "{in}", "--out", "{in}.safetensors"], "in.png"),
        (["invert", "{in}", "--out", "{theirs}.safetensors"], "theirs.safetensors"),
        (["weights", "convert", "{in}", "--out", "{theirs}.safetensors"], "theirs.safetensors"),
        (["eval", "{in}", "--out", "{folder}"], "plot.png"),
        (["eval", "exact", "--out", "{theirs}.json"], "theirs.json"),
        (["reproduce", "stylemask", "--out", "{folder}"], "report.json"),
        (["demo", "--out", "{folder}"], "sheet.png"),
        (["train", "directions", "--folder", "{folder}"], "directions.safetensors"),
        (["train", "perception", "--folder", "{folder}"], "identity.json"),
    ],
)
def test_every_command_spares_what_it_did_not_make(
    words: list[str], name: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    theirs, folder = tmp_path / "theirs", tmp_path / "folder"
    folder.mkdir()
    names = ("plot.png", "report.json", "sheet.png", "directions.safetensors", "identity.json")
    others = [folder / each for each in names]
    others += [theirs.with_suffix(ending) for ending in (".png", ".safetensors", ".json")] + [tmp_path / "new.npz"]
    for path in others:
        path.write_bytes(b"theirs")
    save_picture(tmp_path / "in.png", np.zeros((32, 32, 3), np.uint8))
    before = {path: path.read_bytes() for path in tmp_path.rglob("*") if path.is_file()}
    places = {"in": tmp_path / "in.png", "theirs": theirs, "new": tmp_path / "new", "folder": folder}
    words = [word.replace("{in}.safetensors", str(tmp_path / "in.safetensors")).format(**places) for word in words]
    assert main(words) == 2
    said = capsys.readouterr()
    assert name in said.err and ("exists, and no record" in said.err or "over the input" in said.err), said.err
    assert not said.out and len(said.err.splitlines()) == 1, "nothing is said before the sentence"
    assert {path: path.read_bytes() for path in tmp_path.rglob("*") if path.is_file()} == before


def test_a_look_may_be_taken_again(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """A picture of the same command is replaced, a picture of the user's or of another command is not."""
    source, sheet = tmp_path / "a.png", tmp_path / "a-look.png"
    save_picture(source, np.zeros((32, 32, 3), np.uint8))
    assert main(["look", str(source)]) == 0 and main(["look", str(source)]) == 0
    assert main(["world", "sheet", "--out", str(sheet), "--rows", "1", "--columns", "1", "--size", "32"]) == 2
    assert "no record" in capsys.readouterr().err
    save_picture(sheet, np.zeros((32, 32, 3), np.uint8))
    assert main(["look", str(source)]) == 2 and "--overwrite" in capsys.readouterr().err


def test_what_an_earlier_training_of_the_folder_made_is_replaced(tmp_path: Path) -> None:
    from toy import train as toy

    from stylereel.recipes.run import Run
    from stylereel.train.loop import Trainer

    trainer = Trainer(tmp_path, scale=0.1, device="cpu", precision="32")
    (path,) = toy(Run("toy", trainer))
    assert json.loads(path.with_suffix(".json").read_text())["written"].keys() == {path.name}
    assert toy(Run("toy", trainer)) == [path]
    with pytest.raises(MediaError, match="over the input"):
        toy(Run("toy", trainer, start=str(path), overwrite=True))
    path.write_bytes(b"theirs")
    with pytest.raises(MediaError, match="no record"):
        toy(Run("toy", trainer))
    assert path.read_bytes() == b"theirs" and toy(Run("toy", trainer, overwrite=True)) == [path]


@pytest.mark.parametrize(
    "words",
    [
        ["world", "sheet", "--out", "{out}.png"],
        ["world", "dataset", "--count", "1", "--out", "{out}"],
        ["sample", "stylevideogan", "--frames", "2", "--out", "{out}.mp4"],
        ["eval", "exact", "--out", "{out}.json"],
        ["reproduce", "stylevideogan", "--out", "{out}"],
        ["train", "stylevideogan", "--data", "talking", "--folder", "{out}"],
    ],
)
def test_a_negative_seed_is_refused(words: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main([*(word.format(out=tmp_path / "new") for word in words), "--seed", "-1"]) == 2
    said = capsys.readouterr()
    assert said.err == "stylereel: A random seed is 0 or more, not -1; choose another --seed.\n" and not said.out
    assert list(tmp_path.iterdir()) == []


def test_a_negative_seed_is_refused_by_the_library() -> None:
    from stylereel.systems.stylevideogan.training import Recipe
    from stylereel.world import person

    for take in (person, lambda seed: Recipe(seed=seed)):
        take(0)
        with pytest.raises(ValueError, match="random seed is 0 or more, not -1"):
            take(-1)


def test_a_training_that_cannot_begin_leaves_nothing(tmp_path: Path) -> None:
    from stylereel.train.loop import Trainer

    def step(index: int) -> dict[str, torch.Tensor]:
        raise ValueError("the data cannot be read")

    trainer, net = Trainer(tmp_path / "a" / "runs", device="cpu", precision="32"), torch.nn.Linear(1, 1)
    (tmp_path / "a").mkdir()
    for _ in range(2):
        with pytest.raises(ValueError, match="the data"):
            trainer.fit("toy", {"net": net}, {"net": torch.optim.SGD(net.parameters(), 0.1)}, step, 2)
        assert list(tmp_path.rglob("*")) == [tmp_path / "a"]


def test_kernels_are_compiled_where_neither_package_nor_home_can_be_written(tmp_path: Path) -> None:
    """Files in the places of the folders, because root may write in any folder."""
    package = tmp_path / "src" / "stylereel"
    source = Path(files.__file__).parents[1]
    shutil.copytree(source, package, ignore=shutil.ignore_patterns("builtin", "__pycache__"))
    for folder in {path.parent for path in package.rglob("*.py")}:
        (folder / "__pycache__").write_text("no folder")
    home, temporary = tmp_path / "home", tmp_path / "temporary"
    home.write_text("no folder")
    temporary.mkdir()
    program = """
import numpy as np, numba
from stylereel.core.record import sha256
import stylereel.world, stylereel.generator.cpu.kernels, stylereel.faces.sampling, stylereel.codec.entropy
from stylereel.world.geometry import azimuth
azimuth(3), print(stylereel.__file__)
"""
    given = {"HOME": home, "XDG_CACHE_HOME": home / "cache", "TMPDIR": temporary, "PYTHONPATH": tmp_path / "src"}
    kept = {name: value for name, value in environment().items() if name != "NUMBA_CACHE_DIR"}
    command = [sys.executable, "-B", "-c", program]
    for others in (False, True):  # and a folder of that name in which others may write is not trusted
        done = subprocess.run(command, capture_output=True, text=True, env=kept | {k: str(v) for k, v in given.items()})
        assert done.returncode == 0, done.stderr
        assert str(package) in done.stdout
        ours = temporary / f"stylereel-{os.getuid()}"
        kernels = {path.parents[1] for path in temporary.rglob("*.nbi")}
        assert {path.parent for path in kernels} - {ours} == ({temporary} if others else set())
        assert len(kernels) == 1 + others
        ours.chmod(0o777)


@pytest.fixture
def full_disk() -> Iterator[None]:
    """No file can grow beyond 3,000 bytes, which writers see as they see a full disk."""
    resource = pytest.importorskip("resource", reason="Windows has no limit of a file's size")
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (3000, before[1]))
    yield
    resource.setrlimit(resource.RLIMIT_FSIZE, before)


def save_clip(path: Path) -> None:
    with VideoWriter(path, Fraction(25)) as writer:
        for frame in np.random.default_rng(0).integers(0, 256, (3, 64, 64, 3), np.uint8):
            writer.write(frame)


SAVERS: dict[str, Callable[[Path], object]] = {
    "weights.safetensors": lambda path: write_tensors(path, {"w": torch.zeros(5000)}, {"kind": "codes"}),
    "identity.safetensors": lambda path: Identity(torch.zeros(18, 512), "stylemask").save(path),
    "result.safetensors": lambda path: Store(path.parent).save("result", Result(arrays={"a": np.zeros(5000)}), 0.0),
    "record.json": lambda path: write_record(path.with_suffix(".mp4"), {"text": "a" * 5000, "files": []}),
    "sheet.png": lambda path: save_picture(path, np.random.default_rng(0).integers(0, 256, (64, 64, 3), np.uint8)),
    "lossless.mkv": save_clip,
    "clip.mp4": save_clip,
    "folder": save_clip,
}


@pytest.mark.parametrize("name", SAVERS)
def test_a_full_disk_is_one_sentence_and_leaves_no_half_file(name: str, tmp_path: Path, full_disk: None) -> None:
    with pytest.raises(
        MediaError, match=r"(could not|cannot) be written \(File too large\); (make room|check the space)"
    ) as it:
        SAVERS[name](tmp_path / name)
    assert "\n" not in str(it.value) and not [path for path in tmp_path.rglob("*") if path.is_file()]
