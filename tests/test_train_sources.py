"""Training data: every kind is read, follows from seed and step alone, is shared exactly, and hides no broken file."""

from __future__ import annotations

import io
import json
import tarfile
import threading
import warnings
from collections import Counter
from collections.abc import Callable, Iterator
from fractions import Fraction
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.numpy import save_file

from stylereel.media.video import VideoWriter
from stylereel.train import shards
from stylereel.train.sources import Batch, open_source

SIZE = 16


def grey(level: int, width: int = 24, height: int = 20) -> Image.Image:
    return Image.new("RGB", (width, height), (level, level, level))


def level(images: torch.Tensor) -> list[int]:
    """The grey levels of pictures [..., 3, H, W] that are of one grey."""
    return ((images.float() + 1) * 127.5).round().flatten(-3).mean(-1).int().flatten().tolist()


def picture_folder(folder: Path, count: int = 7) -> Path:
    (folder / "inner").mkdir(parents=True)
    for index in range(count):
        grey(10 * index).save(folder / ("inner" if index % 2 else "") / f"{index}.png")
    return folder


def clip_folder(folder: Path) -> Path:
    """Two videos and a folder of frames; frame t of a clip has the grey level 40 + 5 t."""
    folder.mkdir()
    for name in ("a.mp4", "b.mp4"):
        with VideoWriter(folder / name, Fraction(25), crf=1) as writer:
            for index in range(30):
                writer.write(np.full((20, 24, 3), 40 + 5 * index, np.uint8))
    (folder / "frames").mkdir()
    for index in range(30):
        grey(40 + 5 * index).save(folder / "frames" / f"{index}.png")
    return folder


def latent_folder(folder: Path) -> Path:
    """Three files with five sequences of latents [2, 3]; all numbers of a latent are 100 s + t."""
    folder.mkdir()
    whole = 100.0 * np.arange(5)[:, None] + np.arange(12)[None]
    arrays = np.broadcast_to(whole[..., None, None], (5, 12, 2, 3)).astype(np.float32).copy()
    np.save(folder / "a.npy", arrays[0])
    np.savez_compressed(folder / "b.npz", first=arrays[1], second=arrays[2])
    save_file({"pair": arrays[3:]}, folder / "c.safetensors")
    return folder


def png(picture: Image.Image) -> bytes:
    buffer = io.BytesIO()
    picture.save(buffer, "PNG")
    return buffer.getvalue()


def write_shard(path: Path, members: dict[str, bytes]) -> None:
    with tarfile.open(path, "w") as shard:
        for name, data in members.items():
            info = tarfile.TarInfo(name)
            info.size = len(data)
            shard.addfile(info, io.BytesIO(data))


def shard_folder(folder: Path) -> Path:
    """Three shards with 4, 5 and 6 pictures of the levels 0 to 14, each with a label that nobody asks for."""
    folder.mkdir()
    number = 0
    for index, count in enumerate((4, 5, 6)):
        members = {}
        for _ in range(count):
            members |= {f"{number:04d}.png": png(grey(number)), f"{number:04d}.json": b"{}"}
            number += 1
        write_shard(folder / f"part-{index:02d}.tar", members)
    return folder


class Server(ThreadingHTTPServer):
    """Files of a folder, with ranges. `requests` lists what was asked for; `cut` bytes are sent at most at a time."""

    daemon_threads = True

    def __init__(self, folder: Path) -> None:
        super().__init__(("127.0.0.1", 0), Handler)
        self.folder, self.requests, self.cut = folder, list[tuple[str, str | None]](), 1 << 30

    def url(self, name: str) -> str:
        return f"http://127.0.0.1:{self.server_port}/{name}"


class Handler(BaseHTTPRequestHandler):
    server: Server

    def do_GET(self) -> None:
        name = self.path.strip("/").split("?")[0]
        span = self.headers.get("Range")
        self.server.requests.append((name, span))
        path = self.server.folder / name
        if not path.exists():
            self.send_error(404)
            return
        data = path.read_bytes()[int(span[6:-1]) if span else 0 :]
        self.send_response(206 if span else 200)
        self.send_header("Content-Length", str(len(data)))
        self.end_headers()
        self.wfile.write(data[: self.server.cut])

    def log_message(self, format: str, *args: object) -> None:
        pass


@pytest.fixture
def serve(monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[[Path], Server]]:
    monkeypatch.setenv("no_proxy", "*")
    monkeypatch.setattr(shards, "WAIT", 0.001)
    monkeypatch.setattr(shards, "BUFFER", 3)
    servers: list[Server] = []

    def start(folder: Path) -> Server:
        servers.append(Server(folder))
        threading.Thread(target=servers[-1].serve_forever, args=(0.01,), daemon=True).start()
        return servers[-1]

    yield start
    for server in servers:
        server.shutdown()
        server.server_close()


def same(a: Batch, b: Batch) -> bool:
    return a.keys() == b.keys() and all(
        torch.equal(a[name], b[name]) if isinstance(a[name], torch.Tensor) else a[name] == b[name] for name in a
    )


@pytest.mark.parametrize("kind", ["pictures", "clips", "latents", "windows", "shards", "pattern", "remote"])
def test_a_batch_follows_from_seed_and_step_and_is_shared_exactly(
    kind: str, tmp_path: Path, serve: Callable[[Path], Server]
) -> None:
    folder = tmp_path / "data"
    made = {"pictures": picture_folder, "clips": clip_folder, "latents": latent_folder, "windows": latent_folder}
    made.get(kind, shard_folder)(folder)
    path = str(folder)
    path = f"{folder}/part-{{00..02}}.tar" if kind == "pattern" else path
    path = serve(folder).url("part-{00..02}.tar") if kind == "remote" else path
    frames = 4 if kind in ("clips", "windows") else None
    size = None if kind in ("latents", "windows") else SIZE

    running = open_source(path, size=size, frames=frames, seed=5)
    batches = [running.batch(index, 4) for index in range(9)]
    for index in (8, 3, 6):  # a fresh source, as after a resume; then a jump back and one forward
        fresh = open_source(path, size=size, frames=frames, seed=5)
        assert same(fresh.batch(index, 4), batches[index])
    assert same(fresh.batch(1, 4), batches[1]) and same(fresh.batch(7, 4), batches[7])
    halves = [open_source(path, size=size, frames=frames, seed=5) for _ in range(2)]
    for index in (2, 3, 4):
        for rank, half in enumerate(halves):
            part = half.batch(index, 4, (rank, 2))
            for name, whole in batches[index].items():
                assert same({name: part[name]}, {name: whole[rank::2]}), name
    other = open_source(path, size=size, frames=frames, seed=6)
    assert not all(same(other.batch(index, 4), batches[index]) for index in range(3))
    with pytest.raises(ValueError, match="4 does not divide among 3 processes"):
        running.batch(0, 4, (0, 3))
    assert running.problems == []


@pytest.mark.parametrize("kind", ["pictures", "shards", "remote", "latents"])
def test_every_item_comes_once_an_epoch_in_another_order_each_time(
    kind: str, tmp_path: Path, serve: Callable[[Path], Server]
) -> None:
    folder = {"pictures": picture_folder, "latents": latent_folder}.get(kind, shard_folder)(tmp_path / "data")
    path = serve(folder).url("part-{00..02}.tar") if kind == "remote" else folder
    source = open_source(path, size=None if kind == "latents" else SIZE, seed=1)
    total = {"pictures": 7, "latents": 60}.get(kind, 15)
    assert source.count == (None if kind == "remote" else total)
    names: list[str] = []
    for index in range(3 * total // 3):
        names += source.batch(index, 3)["names"]  # batches of 3 straddle epochs of 7
    epochs = [names[start : start + total] for start in range(0, 3 * total, total)]
    assert all(len(set(epoch)) == total for epoch in epochs)
    assert epochs[0] != epochs[1] != epochs[2] and sorted(epochs[0]) == sorted(epochs[2]) != epochs[0]


def test_pictures_of_every_sort_become_square_rgb(tmp_path: Path) -> None:
    half = grey(50, 40, 20)
    half.paste((255, 0, 0), (0, 0, 8, 20))  # outside the middle square
    half.paste((255, 0, 0), (32, 0, 40, 20))
    half.save(tmp_path / "crop.png")
    Image.new("L", (20, 20), 50).save(tmp_path / "grey.bmp")
    Image.new("RGBA", (20, 20), (0, 0, 0, 0)).save(tmp_path / "alpha.png")
    Image.fromarray(np.full((20, 20), 50 * 257, np.uint16)).save(tmp_path / "deep.tif")
    grey(50).save(tmp_path / "plain.webp", lossless=True)
    turned = grey(0, 40, 20)
    turned.paste((255, 255, 255), (0, 0, 20, 20))
    exif = Image.Exif()
    exif[0x0112] = 6  # shown turned clockwise by a quarter
    turned.save(tmp_path / "turned.JPG", "JPEG", quality=100, exif=exif)
    (tmp_path / ".hidden.png").write_bytes(b"no picture")

    batch = open_source(tmp_path, size=SIZE).batch(0, 6)
    assert batch["images"].shape == (6, 3, SIZE, SIZE) and batch["images"].dtype == torch.float32
    found = dict(zip(batch["names"], batch["images"]))
    assert sorted(found) == ["alpha.png", "crop.png", "deep.tif", "grey.bmp", "plain.webp", "turned.JPG"]
    for name in ("crop.png", "deep.tif", "grey.bmp", "plain.webp"):
        assert level(found[name]) == [50], name
    assert level(found["alpha.png"]) == [255]
    assert found["turned.JPG"][:, :4].min() > 0.8 and found["turned.JPG"][:, -4:].max() < -0.8


def test_windows_of_clips_are_frames_in_order_at_every_place(tmp_path: Path) -> None:
    source = open_source(clip_folder(tmp_path / "clips"), size=SIZE, frames=5, stride=3)
    starts: dict[str, set[int]] = {}
    for index in range(20):
        batch = source.batch(index, 3)
        assert batch["clips"].shape == (3, 5, 3, SIZE, SIZE)
        for name, clip in zip(batch["names"], batch["clips"]):
            levels = np.array(level(clip))
            np.testing.assert_allclose(np.diff(levels), 15, atol=3)
            starts.setdefault(name, set()).add(round((levels[0] - 40) / 5))
    assert set(starts) == {"a.mp4", "b.mp4", "frames"}
    assert all(min(found) >= 0 and max(found) <= 17 and len(found) > 5 for found in starts.values())
    one = open_source(tmp_path / "clips" / "a.mp4", size=SIZE, frames=30)
    assert one.count == 1 and one.batch(0, 2)["clips"].shape == (2, 30, 3, SIZE, SIZE)


def test_windows_of_latents_are_read_from_every_format(tmp_path: Path) -> None:
    folder = latent_folder(tmp_path / "latents")
    source = open_source(folder, frames=4, stride=2)
    found = set()
    for index in range(12):
        latents = source.batch(index, 5)["latents"]
        assert latents.shape == (5, 4, 2, 3) and (latents.diff(dim=1) == 2).all()
        found |= {(int(w[0, 0, 0]) // 100, int(w[0, 0, 0]) % 100) for w in latents}
    assert {sequence for sequence, _ in found} == set(range(5))
    assert {start for _, start in found} == set(range(6))
    single = open_source(folder / "a.npy").batch(0, 12)
    assert sorted(single["latents"][:, 1, 2].tolist()) == list(range(12))
    assert isinstance(open_source(folder / "a.npy")._order(0, 0)[1][0].array, np.memmap)


def test_arrays_that_cannot_be_used_are_listed(tmp_path: Path) -> None:
    np.save(tmp_path / "a.npy", np.zeros((9, 2, 3), np.float32))
    np.save(tmp_path / "flat.npy", np.zeros((9, 3)))
    np.save(tmp_path / "objects.npy", np.array([[[{}]]], object))
    np.save(tmp_path / "other.npy", np.zeros((9, 4, 3)))
    np.savez(tmp_path / "short.npz", short=np.zeros((3, 2, 3)), words=np.array([[["a"]]]))
    np.save(tmp_path / "wild.npy", np.full((9, 2, 3), np.nan))
    (tmp_path / "broken.safetensors").write_bytes(b"\xff" * 50)
    with warnings.catch_warnings(record=True):
        source = open_source(tmp_path, frames=4, limit=7)
        assert set(source.batch(0, 6)["names"]) == {"a.npy"}
    reasons = {problem.file: problem.reason for problem in source.problems}
    assert sorted(reasons) == [
        *["broken.safetensors", "flat.npy", "objects.npy", "other.npy", "short.npz:short", "short.npz:words"],
        "wild.npy",
    ]
    assert "Python objects" in reasons["objects.npy"] or "pickle" in reasons["objects.npy"]
    assert "but [2, 3] come before" in reasons["other.npy"] and "a window needs 4" in reasons["short.npz:short"]


def broken_folder(folder: Path) -> Path:
    picture_folder(folder, 12)
    whole = png(Image.effect_noise((64, 64), 50))
    (folder / "cut.png").write_bytes(whole[: len(whole) // 2])
    (folder / "empty.jpg").write_bytes(b"")
    grey(3, 40, 15).save(folder / "small.png")
    return folder


def test_broken_pictures_are_named_once_and_replaced_alike_everywhere(tmp_path: Path) -> None:
    folder = broken_folder(tmp_path / "data")
    report = tmp_path / "problems.jsonl"
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        source = open_source(folder, size=SIZE, seed=3, report=report)
        batches = [source.batch(index, 5) for index in range(12)]
    bad = {"cut.png", "empty.jpg", "small.png"}
    assert {problem.file for problem in source.problems} == bad
    assert Counter(str(warning.message).split(" usable")[0] for warning in caught) == {"Not": 3}
    assert {json.loads(line)["file"] for line in report.read_text().splitlines()} == bad
    assert "40 x 15 pixels, too few for 16 x 16" in dict(source.problems)["small.png"]

    names = [name for batch in batches for name in batch["names"]]
    everything = [source._order(position, 0)[0] for position in range(65)]
    for position, name in enumerate(names):  # an epoch has 15 items: all good ones at their own places
        following = next(other for other in everything[position:] if other not in bad)
        assert name == following
    with warnings.catch_warnings(record=True):
        for index in (9, 2):
            for rank in range(5):
                part = open_source(folder, size=SIZE, seed=3).batch(index, 5, (rank, 5))
                assert same(part, {name: whole[rank::5] for name, whole in batches[index].items()})


def test_too_many_broken_files_stop_with_their_names(tmp_path: Path) -> None:
    folder = broken_folder(tmp_path / "data")
    with warnings.catch_warnings(record=True), pytest.raises(ValueError, match=r"More than 1 files .* The first: .*; "):
        source = open_source(folder, size=SIZE, limit=1)
        for index in range(5):
            source.batch(index, 5)
    with warnings.catch_warnings(record=True), pytest.raises(ValueError, match="More than 1 files"):
        for index in range(30, 33):  # and it stays stopped
            source.batch(index, 5)
    for name in ("a.png", "b.png"):
        (tmp_path / "none").mkdir(exist_ok=True)
        (tmp_path / "none" / name).write_bytes(b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 50 50\n")
    with warnings.catch_warnings(record=True), pytest.raises(ValueError, match="None of the files can be used"):
        open_source(tmp_path / "none", size=SIZE).batch(0, 2)


def test_damaged_and_short_clips_are_replaced(tmp_path: Path) -> None:
    folder = clip_folder(tmp_path / "clips")
    random = np.random.default_rng(0)
    with VideoWriter(folder / "noise.mp4", Fraction(25), crf=20) as writer:
        for _ in range(40):
            writer.write(random.integers(0, 256, (64, 64, 3), np.uint8))
    whole = (folder / "noise.mp4").read_bytes()
    (folder / "noise.mp4").write_bytes(whole[: len(whole) // 2])
    (folder / "text.mov").write_text("no film")
    with VideoWriter(folder / "short.mp4", Fraction(25)) as writer:
        writer.write(np.zeros((20, 24, 3), np.uint8))
    with warnings.catch_warnings(record=True):
        source = open_source(folder, size=SIZE, frames=25)
        names = {name for index in range(12) for name in source.batch(index, 4)["names"]}
    assert names == {"a.mp4", "b.mp4", "frames"}
    assert {problem.file for problem in source.problems} == {"noise.mp4", "text.mov", "short.mp4"}
    with warnings.catch_warnings(record=True):
        source = open_source(folder, size=SIZE, frames=4)  # windows anywhere, also behind the end of the damaged file
        names = {name for index in range(20) for name in source.batch(index, 4)["names"]}
    assert "noise.mp4" in names and "is damaged after" in dict(source.problems)["noise.mp4"]


@pytest.mark.parametrize("remote", [False, True])
def test_members_with_hostile_names_are_read_but_never_written(
    remote: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, serve: Callable[[Path], Server]
) -> None:
    inside = tmp_path / "a" / "b"
    inside.mkdir(parents=True)
    names = ["../../up.png", str(tmp_path / "absolute.png"), "link.png", "x\n\x1b[2J.png"]
    with tarfile.open(inside / "hostile.tar", "w") as shard:
        for name in names:
            info = tarfile.TarInfo(name)
            data = png(grey(9)) if name != names[3] else b"broken"
            info.size = len(data)
            if name == "link.png":
                info.size, info.type, info.linkname, data = 0, tarfile.SYMTYPE, "/etc/passwd", b""
            shard.addfile(info, io.BytesIO(data))
    monkeypatch.chdir(inside)
    before = {path for path in tmp_path.rglob("*")}
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        source = open_source(serve(inside).url("hostile.tar") if remote else inside, size=SIZE)
        found = {name for index in range(4) for name in source.batch(index, 3)["names"]}
    assert found == {f"hostile.tar/{name}" for name in names[:2]}
    assert len(caught) == 1 and str(caught[0].message).isprintable()
    assert {path for path in tmp_path.rglob("*")} == before


def test_a_damaged_shard_gives_what_is_whole(tmp_path: Path, serve: Callable[[Path], Server]) -> None:
    folder = shard_folder(tmp_path / "data")
    whole = (folder / "part-02.tar").read_bytes()
    (folder / "part-02.tar").write_bytes(whole[:1900])  # the header of the second member has lost its data
    for path in (folder, serve(folder).url("part-{00..02}.tar")):
        with warnings.catch_warnings(record=True):
            source = open_source(path, size=SIZE)
            names = [name for index in range(4) for name in source.batch(index, 5)["names"]]
        assert {"part-00.tar/0000.png", "part-02.tar/0009.png"} <= set(names)
        assert [Path(problem.file).name for problem in source.problems][:1] == ["part-02.tar"]


def test_a_broken_connection_is_taken_up_where_it_was(tmp_path: Path, serve: Callable[[Path], Server]) -> None:
    server = serve(shard_folder(tmp_path / "data"))
    path = server.url("part-{00..02}.tar?key=secret")
    expected = [open_source(path, size=SIZE).batch(index, 5) for index in range(3)]
    server.cut = 3000
    source = open_source(path, size=SIZE)
    for index, batch in enumerate(expected):
        assert same(source.batch(index, 5), batch)
    assert any(wish == "bytes=3000-" for _, wish in server.requests)
    server.cut = 0
    with pytest.raises(ValueError, match="cannot be read: the connection closed after 0 of") as caught:
        open_source(path, size=SIZE).batch(0, 5)
    assert "secret" not in str(caught.value)
    with pytest.raises(ValueError, match="none.tar cannot be read: HTTP Error 404"):
        open_source(server.url("none.tar"), size=SIZE).batch(0, 5)


def test_listed_sizes_spare_the_shards_before(tmp_path: Path, serve: Callable[[Path], Server]) -> None:
    folder = shard_folder(tmp_path / "data")
    server = serve(folder)
    path = server.url("part-{00..02}.tar")
    source = open_source(path, size=SIZE, seed=2)
    expected = [source.batch(index, 5) for index in range(10)][6]
    sizes = {f"part-{index:02d}.tar": count for index, count in enumerate((4, 5, 6))}
    (folder / "sizes.json").write_text(json.dumps(sizes))
    server.requests.clear()
    fresh = open_source(path, size=SIZE, seed=2)
    assert same(fresh._make(6, 5, (0, 1)), expected)  # this batch alone, without making the next one ahead
    assert 1 <= len([name for name, _ in server.requests if name.endswith(".tar")]) <= 2
    (folder / "sizes.json").write_text(json.dumps(dict.fromkeys(sizes, 7)))
    with pytest.raises(ValueError, match="listed in sizes.json with 7; fix the shard or the list"):
        open_source(path, size=SIZE, seed=2).batch(0, 15)
    (folder / "sizes.json").write_text("[]x")
    with pytest.raises(ValueError, match="no list of names and numbers"):
        open_source(path, size=SIZE)


def test_what_cannot_be_opened_says_what_to_do(tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    pictures = picture_folder(tmp_path / "pictures")
    clips = clip_folder(tmp_path / "clips")
    latents = latent_folder(tmp_path / "latents")
    mixed = picture_folder(tmp_path / "mixed")
    np.save(mixed / "w.npy", np.zeros((2, 2, 2)))
    write_shard(tmp_path / "labels.tar", {"a.json": b"{}"})
    cases: list[tuple[object, dict[str, int], str]] = [
        (tmp_path / "empty", {"size": 8}, "holds no pictures, clips, latents or shards; give a folder"),
        (tmp_path / "nowhere", {"size": 8}, "nowhere cannot be listed"),
        (mixed, {"size": 8}, "holds .* and .*; give a folder or file with one kind"),
        (pictures, {}, "holds pictures: give their size"),
        (pictures, {"size": 8, "stride": 2}, "give the number of frames"),
        (clips / "a.mp4", {"size": 8}, "holds clips: give the number of frames"),
        (latents, {"size": 8}, "holds latents: leave out size"),
        (pictures, {"size": 0}, "Size, frames and stride are 1 or more"),
        ("file:///etc/{0..1}.tar", {"size": 8}, "begins with http:// or https://"),
        (str(tmp_path / "no-{0..1}.tar"), {"size": 8}, "There is no file .*no-0.tar"),
        (tmp_path / "labels.tar", {"size": 8}, "holds no shards that can be used"),
    ]
    for path, settings, sentence in cases:
        with pytest.raises(ValueError, match=sentence):
            open_source(path, **settings)  # type: ignore[arg-type]


def test_the_next_batch_is_made_ahead_in_a_thread(tmp_path: Path) -> None:
    source = open_source(picture_folder(tmp_path / "data"), size=SIZE)
    made = threading.Event()
    load, thread = source._load, threading.get_ident()

    def watch(item: tuple[str, object], random: np.random.Generator) -> dict[str, torch.Tensor]:
        assert threading.get_ident() != thread
        if item == source._order(4, 4):
            made.set()
        return load(item, random)

    source._load = watch
    source.batch(0, 4)
    assert made.wait(10)
