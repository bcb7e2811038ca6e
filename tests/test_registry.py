"""The registry of official weight files against a server of our own that also lies, cuts off and corrupts.

The rows that are fetched here are the tests' own; nothing outside this machine is asked.
"""

import hashlib
import json
import os
import re
import socket
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from fractions import Fraction
from functools import partial
from http.server import BaseHTTPRequestHandler, SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch

from stylereel.cli import main
from stylereel.commands.weights import weights_get, weights_list, weights_verify
from stylereel.zoo import registry
from stylereel.zoo.registry import RECORD, Row, fetch, verify

CONTENT = bytes(range(256)) * 3000
SHA256 = hashlib.sha256(CONTENT).hexdigest()
CHANGED = CONTENT[:-1] + b"x"
PAGE = b"\n <!DOCTYPE html><title>Sign in</title>" + bytes(1000)

# path -> status, announced length (None for none), what is sent
ANSWERS: dict[str, tuple[int, int | None, bytes]] = {
    "/right": (200, len(CONTENT), CONTENT),
    "/unannounced": (200, None, CONTENT),
    "/resumed": (200, len(CONTENT), CONTENT[:200_000]),
    "/cut": (200, len(CONTENT), CONTENT[:5000]),
    "/corrupt": (200, len(CHANGED), CHANGED),
    "/short": (200, 5000, CONTENT),
    "/long": (200, len(CONTENT) + 9, CONTENT),
    "/empty": (200, 0, b""),
    "/page": (200, len(PAGE), PAGE),
    "/404": (404, len(PAGE), PAGE),
    "/500": (500, 0, b""),
}


ASKED: list[int] = []  # where downloads of /resumed went on


class Answer(BaseHTTPRequestHandler):
    def do_GET(self) -> None:
        status, length, content = ANSWERS[self.path]
        if (wanted := self.headers.get("Range")) and self.path == "/resumed":
            begin = int(wanted.removeprefix("bytes=").removesuffix("-"))
            ASKED.append(begin)
            status, length, content = (206, len(CONTENT) - begin, CONTENT[begin:])
            if begin > len(CONTENT):
                status, length, content = 416, 0, b""
        self.send_response(status)
        if length is not None:
            self.send_header("Content-Length", str(length))
        self.end_headers()
        self.wfile.write(content)

    def log_message(self, format: str, *args: object) -> None:
        pass


@pytest.fixture(scope="module")
def address() -> Iterator[str]:
    with ThreadingHTTPServer(("127.0.0.1", 0), Answer) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield f"http://127.0.0.1:{server.server_address[1]}"
        server.shutdown()


@pytest.fixture
def rows(address: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> dict[str, Row]:
    """One row for each answer, named as its path, with its hash; the cache is the folder `cache`."""
    made = {
        path[1:]: Row(path[1:], "a test file", address + path, "its own licence", ("metrics",), sha256=SHA256)
        for path in ANSWERS
    }
    monkeypatch.setattr(registry, "ROWS", tuple(made.values()))
    monkeypatch.setenv("STYLEREEL_CACHE", str(tmp_path / "cache"))
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")
    return made


@pytest.fixture
def cache(tmp_path: Path) -> Path:
    return tmp_path / "cache"


def put(row: Row, monkeypatch: pytest.MonkeyPatch) -> str:
    """Make `row` the only one of the registry; its name."""
    monkeypatch.setattr(registry, "ROWS", (row,))
    return row.name


def names(folder: Path) -> list[str]:
    """What lies in a folder, hidden files too."""
    return sorted(path.name for path in folder.iterdir()) if folder.exists() else []


def test_download_shows_the_licence_first_and_is_kept(rows: dict[str, Row], cache: Path) -> None:
    said: list[str] = []
    path = fetch("right", report=said.append)
    assert path == cache / "right" and path.read_bytes() == CONTENT
    assert said == ["right: a test file; licence: its own licence", f"from {rows['right'].url}"]
    assert names(cache) == [RECORD, "right"]
    again: list[str] = []
    assert fetch("right", report=again.append) == path and again == []


def test_folder_may_be_given(rows: dict[str, Row], cache: Path, tmp_path: Path) -> None:
    assert fetch("right", tmp_path / "other", report=lambda text: None) == tmp_path / "other" / "right"
    assert not cache.exists()


def test_unannounced_length_is_accepted(rows: dict[str, Row], cache: Path) -> None:
    assert fetch("unannounced", report=lambda text: None).read_bytes() == CONTENT


@pytest.mark.parametrize(
    ("name", "reason"),
    [
        ("cut", f"was cut off before all of its {len(CONTENT)} bytes; the same command resumes it, or"),
        ("corrupt", f"other bytes than the official file .SHA-256 [0-9a-f]{{64}} instead of {SHA256}"),
        ("short", "sent other bytes than the official file"),
        ("long", f"was cut off before all of its {len(CONTENT) + 9} bytes"),
        ("empty", "sent nothing; try again"),
        ("page", "sent a web page instead of the file; try again, or get it with a browser"),
        ("404", "answered 404 .*; get it with a browser"),
        ("500", "answered 500 .*; get it with a browser"),
    ],
)
def test_bad_download_is_one_sentence_and_leaves_nothing(
    rows: dict[str, Row], cache: Path, name: str, reason: str
) -> None:
    with pytest.raises(ValueError, match=reason) as caught:
        fetch(name, report=lambda text: None)
    text = str(caught.value)
    assert rows[name].url in text and str(cache / name) in text
    assert text.endswith(".") and "\n" not in text and ". " not in text
    assert names(cache) in ([], [f".{name}.download"]) and ("cut off" in text) == bool(names(cache))


@pytest.mark.parametrize("name", ["short", "long", "cut"])
def test_wrong_length_is_found_without_a_hash(
    rows: dict[str, Row], cache: Path, name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    put(replace(rows[name], sha256=None, size=len(CONTENT)), monkeypatch)
    with pytest.raises(ValueError, match=f"5000 bytes instead of {len(CONTENT)}|was cut off before"):
        fetch(name, report=lambda text: None)
    assert names(cache) in ([], [f".{name}.download"])


def test_offline_says_where_to_put_the_file(rows: dict[str, Row], cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with socket.socket() as closed:  # bound but not listening: nobody answers at this port
        closed.bind(("127.0.0.1", 0))
        url = f"http://127.0.0.1:{closed.getsockname()[1]}/file"
        name = put(replace(rows["right"], url=url), monkeypatch)
        expected = f"{url} cannot be reached; try again when online, or get it with a browser and put it at "
        with pytest.raises(ValueError, match=re.escape(f"{expected}{cache / name}.")):
            fetch(name, report=lambda text: None)
        assert names(cache) == []
        cache.mkdir(exist_ok=True)
        (cache / name).write_bytes(CONTENT)
        assert fetch(name).read_bytes() == CONTENT


def test_a_download_that_was_cut_off_goes_on(rows: dict[str, Row], cache: Path) -> None:
    with pytest.raises(ValueError, match="was cut off"):
        fetch("resumed", report=lambda text: None)
    assert (cache / ".resumed.download").read_bytes() == CONTENT[: 3 << 16]
    assert fetch("resumed", report=lambda text: None).read_bytes() == CONTENT
    assert ASKED[-1] == 3 << 16 and names(cache) == [RECORD, "resumed"]
    (cache / "resumed").unlink()
    (cache / ".resumed.download").write_bytes(CONTENT + b"more")  # 416: it begins again
    with pytest.raises(ValueError, match="was cut off"):
        fetch("resumed", report=lambda text: None)
    # A server that knows no ranges sends all of it again.
    (cache / ".right.download").write_bytes(CONTENT[:77])
    assert fetch("right", report=lambda text: None).read_bytes() == CONTENT


def test_an_interrupted_download_goes_on(rows: dict[str, Row], cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    @contextmanager
    def stopped(name: str, total: int | None, done: int) -> Iterator[Callable[[int], None]]:
        def stop(amount: int) -> None:
            raise KeyboardInterrupt

        yield stop

    with monkeypatch.context() as patch:
        patch.setattr(registry, "_progress", stopped)
        with pytest.raises(KeyboardInterrupt):
            fetch("right", report=lambda text: None)
    assert names(cache) == [".right.download"]
    assert fetch("right", report=lambda text: None).read_bytes() == CONTENT


def test_first_hash_is_written_down_and_held_against_later_files(
    rows: dict[str, Row], cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    row = replace(rows["right"], sha256=None)
    name = put(row, monkeypatch)
    said: list[str] = []
    path = fetch(name, report=said.append)
    assert said[-1] == f"no hash of {name} was known; from now on it is {SHA256} ({len(CONTENT)} bytes)"
    entry = json.loads((cache / RECORD).read_text())[name]
    assert (entry["sha256"], entry["size"]) == (SHA256, len(CONTENT))
    assert re.fullmatch(r"\d{4}-\d\d-\d\d", entry["date"])

    path.unlink()
    put(replace(row, url=rows["corrupt"].url), monkeypatch)
    with pytest.raises(ValueError, match=f"other bytes than on {entry['date']} .*take {name} out of .*{RECORD}"):
        fetch(name, report=lambda text: None)
    assert names(cache) == [RECORD]
    (cache / RECORD).write_text("{}")
    assert fetch(name, report=lambda text: None).read_bytes() == CHANGED


def test_file_put_there_by_hand(rows: dict[str, Row], cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    cache.mkdir()
    path = cache / "right"
    for wrong, reason in ((CHANGED, "other bytes"), (PAGE, "a web page"), (b"", "nothing")):
        path.write_bytes(wrong)
        with pytest.raises(ValueError, match=f"{re.escape(str(path))} .*{reason}"):
            fetch("right", report=lambda text: None)
        assert path.read_bytes() == wrong, "a person's file is never deleted"
    path.write_bytes(CONTENT)
    assert fetch("right") == path
    # Without a known hash, what is there is written down.
    put(replace(rows["cut"], sha256=None, manual=True), monkeypatch)
    (cache / "cut").write_bytes(CONTENT)
    said: list[str] = []
    assert fetch("cut", report=said.append) == cache / "cut"
    assert SHA256 in said[0]


def test_file_that_changed_since_is_noticed(rows: dict[str, Row], cache: Path) -> None:
    fetch("right", report=lambda text: None).write_bytes(CHANGED)
    with pytest.raises(ValueError, match="other bytes than the official file"):
        fetch("right")


def test_manual_row_says_where_to_get_it(rows: dict[str, Row], cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    name = put(replace(rows["right"], url="https://example.org/page", manual=True), monkeypatch)
    reason = f"get it at https://example.org/page (its own licence) and put it at {cache / name}."
    with pytest.raises(ValueError, match=re.escape(reason)):
        fetch(name)


def test_verify_looks_at_every_file(rows: dict[str, Row], cache: Path) -> None:
    assert verify() == []
    with pytest.raises(ValueError, match="stylereel weights get right"):
        verify("right")
    cache.mkdir()
    for name in ("right", "corrupt"):
        (cache / name).write_bytes(CONTENT)
    said: list[str] = []
    assert verify(report=said.append) == [cache / "right", cache / "corrupt"]
    assert said == ["right: right", "corrupt: right"]
    # The same length and time of change: only reading it again can tell.
    path = cache / "right"
    status = path.stat()
    path.write_bytes(CHANGED)
    os.utime(path, ns=(status.st_atime_ns, status.st_mtime_ns))
    assert fetch("right") == path
    with pytest.raises(ValueError, match="Wrong content: right;"):
        verify(report=said.append)
    assert said[-1] == "corrupt: right"
    with pytest.raises(ValueError, match="Wrong content: right;"):
        verify("right", report=said.append)


def test_mistakes_are_explained(rows: dict[str, Row], cache: Path, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="no weight file 'rigth'; did you mean right?"):
        fetch("rigth")
    with pytest.raises(ValueError, match="stylereel weights list"):
        verify("something else")
    cache.mkdir()
    (cache / RECORD).write_text('{"right": 3}')
    (cache / "right").write_bytes(CONTENT)
    for look in (fetch, verify):
        with pytest.raises(ValueError, match=f"{RECORD} is damaged; delete it"):
            look("right")
    (tmp_path / "file").write_text("")
    with pytest.raises(ValueError, match="cannot be written"):
        fetch("page", tmp_path / "file", report=lambda text: None)


def test_commands(rows: dict[str, Row], cache: Path, capsys: pytest.CaptureFixture[str]) -> None:
    weights_verify()
    assert "no downloaded weight file" in capsys.readouterr().out
    assert weights_get("right") == [cache / "right"]
    capsys.readouterr()
    weights_verify()
    assert capsys.readouterr().out == "right: right\n"
    weights_list()
    lines = capsys.readouterr().out.partition("each next to its card.\n")[2].splitlines()
    assert lines[0] == "right (downloaded, 768.0 kB): a test file; licence: its own licence; for metrics"
    assert lines[1].startswith("unannounced (not downloaded)") and len(lines) == len(rows) + 1


def test_cache_folder_without_the_variable(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("STYLEREEL_CACHE", raising=False)
    assert registry.cache_folder().name == "stylereel"


def test_rows_are_well_formed() -> None:
    users = {"stylefacev", "stylevideogan", "expressive", "styleheat", "stylemask", "faces", "metrics", "train"}
    folded = [row.name.lower() for row in registry.ROWS]
    assert len(set(folded)) == len(folded) >= 40
    assert RECORD not in folded
    for row in registry.ROWS:
        assert re.fullmatch(r"[\w.-]+\.[\w]+", row.name), row
        assert row.about and row.licence and "\n" not in row.about + row.licence, row
        assert re.fullmatch(r"https://[\w.-]+/\S*", row.url), row
        assert row.needed_by and set(row.needed_by) <= users, row
        assert row.size is None or row.size > 1000, row
        assert row.sha256 is None or re.fullmatch("[0-9a-f]{64}", row.sha256), row
    fetched = [row.url for row in registry.ROWS if not row.manual]
    assert len(set(fetched)) == len(fetched)
    for prefix in ("397923af", "dcbb9e9d", "7be5be79", "6726825d"):  # these names carry the start of the hash
        row = next(row for row in registry.ROWS if prefix in row.name)
        assert row.sha256 is not None and row.sha256.startswith(prefix)


# --- Families


@pytest.fixture
def family(rows: dict[str, Row], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A family of two files of the registry, one that a person has to fetch, and one beside the TOML file."""
    manual = replace(rows["cut"], name="masks.pt", manual=True, url="https://example.org/page")
    monkeypatch.setattr(registry, "ROWS", (*rows.values(), manual))
    monkeypatch.setattr("stylereel.zoo.families.ROWS", (*rows.values(), manual))
    path = tmp_path / "mine.toml"
    path.write_text(
        'about = "small"\n[files]\ngenerator = "right"\nencoder = "unannounced"\n[stylemask]\nmasks = "masks.pt"\n'
    )
    return path


def test_a_family_is_fetched_at_once(
    family: Path, cache: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    from stylereel.zoo.families import list_families, open_family

    assert list_families()[0] == "builtin" and "ffhq" in list_families()
    named = str(family)
    assert main(["weights", "get", "--family", named, "--for", "stylevideogan"]) == 2
    out, err = capsys.readouterr()
    assert "give --yes" in err and "right: a test file" in out and SHA256 in out and names(cache) == []
    lacking = "lacks right, unannounced in .*weights get --family .* --for stylevideogan fetches"
    with pytest.raises(ValueError, match=lacking):
        open_family(named).options("stylevideogan", ["generator", "encoder"])
    assert main(["weights", "get", "--family", named, "--for", "stylevideogan", "--yes"]) == 0
    assert capsys.readouterr().out.splitlines()[-2:] == [str(cache / "right"), str(cache / "unannounced")]
    options = open_family(named).options("stylevideogan", ["generator", "encoder"])
    assert options == {"generator": str(cache / "right"), "encoder": str(cache / "unannounced")}
    assert main(["weights", "get", "--family", named, "--for", "stylemask", "--yes"]) == 2
    err = capsys.readouterr().err
    assert "No program can fetch masks.pt" in err and "https://example.org/page" in err and str(cache) in err
    monkeypatch.setattr("sys.stdin", SimpleNamespace(isatty=lambda: True))
    monkeypatch.setattr("builtins.input", lambda text: "n")
    (cache / "right").unlink()
    assert main(["weights", "get", "--family", named, "--for", "stylevideogan"]) == 2
    assert "Nothing was downloaded" in capsys.readouterr().err


def test_families_that_are_none(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    from stylereel.zoo.families import open_family

    (tmp_path / "text.toml").write_text("= 3")
    (tmp_path / "empty.toml").write_text('about = "nothing"')
    (tmp_path / "wrong.toml").write_text("[files]\ngenerator = 3")
    for name, reason in [
        ("nobody", "no family nobody; choose one of builtin, ffhq"),
        (str(tmp_path / "text.toml"), "is not a TOML file"),
        (str(tmp_path / "empty.toml"), "names no files"),
        (str(tmp_path / "wrong.toml"), "files is neither about, detector nor a table of file names"),
        (str(tmp_path / "absent.toml"), "There is no file"),
    ]:
        with pytest.raises(ValueError, match=reason):
            open_family(name)
    assert main(["weights", "get"]) == 2 and "give --family" in capsys.readouterr().err


def test_two_commands_with_the_published_names(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """`weights get --family ffhq --for stylemask`, then `drive stylemask --family ffhq`, on small stand-ins.

    They have the architectures and the names of the official files, behind a server on this machine.
    """
    from test_encoders import save_checkpoint, small_encoder, small_generator

    from stylereel.core.latents import Codes
    from stylereel.media.video import VideoReader
    from stylereel.systems.stylemask.networks import MaskConfig, MaskNets
    from stylereel.zoo import families

    served = tmp_path / "served"
    served.mkdir()
    torch.manual_seed(0)
    generator = small_generator(32)
    save_checkpoint(served / "e4e_ffhq_encode.pt", small_encoder(offsets=True), {"encoder_type": "Encoder4Editing"})
    torch.save(generator.state_dict(), served / "stylegan2-ffhq-config-f.pt")
    masks = MaskNets(MaskConfig.of(generator, 6))
    torch.save({"mask_net": masks.state_dict(), "num_layers_control": 6}, served / "mask_network_1024.pt")

    handler = partial(SimpleHTTPRequestHandler, directory=str(served))
    monkeypatch.setattr(SimpleHTTPRequestHandler, "log_message", lambda *ignored: None)
    monkeypatch.setenv("STYLEREEL_CACHE", str(tmp_path / "cache"))
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")
    with ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        place = f"http://127.0.0.1:{server.server_address[1]}"
        rows = tuple(
            replace(row, url=f"{place}/{row.name}", size=None, sha256=None, manual=False)
            for row in registry.ROWS
            if (served / row.name).exists()
        )
        assert len(rows) == 3
        monkeypatch.setattr(registry, "ROWS", rows)
        monkeypatch.setattr(families, "ROWS", rows)
        drive = ["drive", "stylemask", "--family", "ffhq", "--source", "3", "--device", "cpu"]
        out, driver = tmp_path / "out.mkv", tmp_path / "driver.safetensors"
        w = generator.map(torch.randn(5, generator.config.z_dim)).detach()
        Codes(w, "", Fraction(25), torch.ones(5, 4)).save(driver)
        words = [*drive, "--driving", str(driver), "--out", str(out)]
        assert main(words) == 2 and "weights get --family ffhq --for stylemask fetches" in capsys.readouterr().err
        assert main(["weights", "get", "--family", "ffhq", "--for", "stylemask", "--yes"]) == 0
        assert capsys.readouterr().out.count("licence") >= 3
        server.shutdown()
    assert main(words) == 0, capsys.readouterr().err
    record = json.loads(out.with_suffix(".json").read_text())
    assert record["settings"]["family"] == "ffhq" and "mask_network_1024.pt" in record["weights"]
    assert VideoReader(out).num_frames == 5 and VideoReader(out).width == 32
    other = tmp_path / "single.mkv"  # a single file still overrides
    single = ["--masks", str(served / "mask_network_1024.pt"), "--driving", str(driver), "--out", str(other)]
    assert main([*drive, *single]) == 0, capsys.readouterr().err
    assert np.array_equal(list(VideoReader(other)), list(VideoReader(out)))
    own = tmp_path / "own.toml"  # a family of one's own, which also says what reads faces
    files = '[files]\ngenerator = "served/stylegan2-ffhq-config-f.pt"\n[stylemask]\nmasks = "mask_network_1024.pt"\n'
    own.write_text(f'detector = "dlib"\n{files}')
    again = tmp_path / "own.mkv"
    words = ["drive", "stylemask", "--family", str(own), "--source", "3", "--driving", str(driver), "--out", str(again)]
    assert main(words) == 0, capsys.readouterr().err
    assert json.loads(again.with_suffix(".json").read_text())["settings"]["detector"] == "dlib"
