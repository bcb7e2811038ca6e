"""The page without a browser: who may ask for what, jobs and their ends, and a form that is sent. In test_page.py a
browser does what people do."""

from __future__ import annotations

import errno
import json
import re
import socket
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from pathlib import Path
from typing import Any

import page_worker
import pytest

pytest.importorskip("gradio", reason="the page's packages are not installed: pip install -e .[web]")
pytest.importorskip("uvicorn")

import httpx
import uvicorn
import websockets.sync.client
from page_worker import Play
from starlette.testclient import TestClient
from websockets.exceptions import InvalidStatus
from websockets.sync.client import ClientConnection

from stylereel.cli import main
from stylereel.core.builtin import BUILTIN
from stylereel.web import forms
from stylereel.web import jobs as jobs_module
from stylereel.web import live as live_module
from stylereel.web import stage as stage_module
from stylereel.web.guard import Guard
from stylereel.web.jobs import Jobs, new_visitor
from stylereel.web.limits import Limits
from stylereel.web.probe import check
from stylereel.web.server import application
from stylereel.web.stage import Stage, Wish
from stylereel.web.worker import FULL, LARGE, sentence

WHO, OTHER = "0" * 32, "1" * 32


@pytest.fixture(autouse=True, scope="module")
def stand_ins() -> Iterator[None]:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(jobs_module, "work", page_worker.work)
        patch.setattr(stage_module, "draw", page_worker.draw)
        patch.setattr(live_module, "sit", page_worker.sit)
        yield


@pytest.fixture(scope="module")
def app(tmp_path_factory: pytest.TempPathFactory) -> Any:
    return application(tmp_path_factory.mktemp("page"), Limits(upload=1, longest=2, disk=1))


@pytest.fixture(scope="module")
def address(app: Any) -> Iterator[str]:
    """The page, served."""
    server = uvicorn.Server(uvicorn.Config(app, log_level="warning", timeout_graceful_shutdown=1))
    listening = socket.create_server(("127.0.0.1", 0))
    thread = threading.Thread(target=server.run, args=([listening],), daemon=True)
    thread.start()
    while not server.started:
        time.sleep(0.02)
    yield f"http://127.0.0.1:{listening.getsockname()[1]}"
    server.should_exit = True
    thread.join(10)


@pytest.fixture
def visitor(app: Any, address: str) -> Iterator[httpx.Client]:
    """A browser with a cookie of its own."""
    with httpx.Client(base_url=address, timeout=60, cookies=cookie(app)) as client:
        yield client


@pytest.fixture
def stranger(app: Any, address: str) -> Iterator[httpx.Client]:
    """A browser without one."""
    with httpx.Client(base_url=address, timeout=60) as client:
        yield client


def cookie(app: Any) -> dict[str, str]:
    """What a first visit gives, without the time that the page takes."""
    name, value = app._cookie(new_visitor()).partition(";")[0].split("=")
    return {name: value}


def connect(client: httpx.Client, **headers: str) -> ClientConnection:
    """The stage's websocket."""
    words = {"cookie": "; ".join(f"{name}={value}" for name, value in client.cookies.items())} | headers
    return websockets.sync.client.connect(f"ws{str(client.base_url)[4:]}/page/stage", additional_headers=words)


@pytest.fixture
def jobs(tmp_path: Path) -> Iterator[Jobs]:
    found = Jobs(tmp_path, Limits(jobs=2))
    found.start()
    yield found
    found.close()


def wait(jobs: Jobs, state: str, visitor: str = WHO, seconds: float = 30) -> dict[str, Any]:
    """The newest job, once it is in that state."""
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        if jobs.of(visitor)[0]["state"] == state:
            return jobs.of(visitor)[0]
        time.sleep(0.02)
    raise AssertionError(jobs.of(visitor)[0])


# --- who may ask for what


def test_the_page_loads_nothing_from_elsewhere(stranger: httpx.Client) -> None:
    answer = stranger.get("/")
    given = answer.headers["set-cookie"]
    assert answer.status_code == 200 and "HttpOnly" in given and "SameSite=Lax" in given
    assert stranger.get("/page/jobs").json() == []
    found = re.findall(r"""<(?:script|link|img|iframe)[^>]+(?:src|href)=["'](https?:)?//([^"'/]+)""", answer.text)
    assert not [host for _, host in found if host not in ("127.0.0.1", "testserver")]
    policy = answer.headers["content-security-policy"]
    assert "default-src 'self'" in policy and "http" not in policy


@pytest.mark.parametrize(
    "path",
    ["/docs", "/openapi.json", "/monitoring", "/gradio_api/call/x", "/gradio_api/vibe-edit/", "/gradio_api/run/submit",
     "/gradio_api/proxy=http://example.org", "/gradio_api/process_recording", "/page/files/..%2f..%2fx/y"],
)  # fmt: skip
def test_what_the_page_does_not_need_is_not_there(visitor: httpx.Client, path: str) -> None:
    assert visitor.get(path).status_code in (404, 405)
    assert visitor.post(path, json={}).status_code in (404, 405)


def test_only_this_machine_is_served_under_its_own_names(visitor: httpx.Client) -> None:
    assert visitor.get("/", headers={"host": "evil.example"}).status_code == 403
    assert visitor.get("/page/jobs", headers={"host": "127.0.0.1.evil.example"}).status_code == 403
    assert visitor.get("/page/jobs", headers={"host": "localhost:7860"}).status_code == 200


def test_other_sites_cannot_ask(visitor: httpx.Client) -> None:
    evil = {"origin": "http://evil.example"}
    assert visitor.post("/page/jobs/0001-drive/stop", headers=evil).status_code == 403
    with pytest.raises(InvalidStatus), connect(visitor, **evil):
        pass


def test_nothing_without_a_cookie_of_the_page(stranger: httpx.Client) -> None:
    assert stranger.get("/page/jobs").status_code == 403
    assert stranger.post("/gradio_api/queue/join", json={}).status_code == 403
    stranger.cookies.set("stylereel", f"{WHO}.{'f' * 32}")
    assert stranger.get("/page/jobs").status_code == 403


def test_uploads_are_for_their_owner_alone(visitor: httpx.Client, stranger: httpx.Client, app: Any) -> None:
    other = stranger
    other.cookies.update(cookie(app))
    sent = visitor.post("/gradio_api/upload", files={"files": ("mine.png", b"something", "image/png")})
    assert sent.status_code == 200
    path = sent.json()[0]
    assert visitor.get(f"/gradio_api/file={path}").content == b"something"
    assert other.get(f"/gradio_api/file={path}").status_code == 404
    form = {"data": [{"path": path, "meta": {"_type": "gradio.FileData"}}], "fn_index": 0, "session_hash": "a"}
    assert other.post("/gradio_api/queue/join", json=form).status_code == 403
    for wrong in (
        "/etc/passwd",
        str(Path(path).parent / ".." / ".." / ".." / "etc/passwd"),
        "http://example.org/x.png",
    ):
        assert visitor.get(f"/gradio_api/file={wrong}").status_code in (403, 404)
        form["data"] = [{"path": wrong, "meta": {"_type": "gradio.FileData"}}]
        assert visitor.post("/gradio_api/queue/join", json=form).status_code == 403


def test_uploads_have_a_limit(visitor: httpx.Client) -> None:
    large = b"0" * 1_200_000
    answer = visitor.post("/gradio_api/upload", files={"files": ("a.mp4", large, "video/mp4")})
    assert answer.status_code == 413 and "1 MB" in answer.json()["detail"]

    def chunks() -> Iterator[bytes]:  # without a length
        yield b'--x\r\nContent-Disposition: form-data; name="files"; filename="a.mp4"\r\n\r\n'
        for _ in range(20):
            yield b"0" * 100_000
        yield b"\r\n--x--\r\n"

    headers = {"content-type": "multipart/form-data; boundary=x"}
    try:
        assert visitor.post("/gradio_api/upload", content=chunks(), headers=headers).status_code >= 400
    except httpx.TransportError:  # the connection was closed
        pass


@pytest.fixture
def guarded(tmp_path: Path) -> TestClient:
    async def inner(scope: Any, receive: Any, send: Any) -> None:
        await send({"type": "http.response.start", "status": 200, "headers": []})
        await send({"type": "http.response.body", "body": scope["visitor"].encode()})

    token = "a long enough token"
    return TestClient(
        Guard(inner, Jobs(tmp_path, Limits()), token), base_url="http://box.example", follow_redirects=False
    )


def test_a_token_is_needed_once(guarded: TestClient, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("stylereel.web.guard.PAUSE", 0.1)
    assert "Give the token" in guarded.get("/").text and "stylereel" not in guarded.cookies
    assert guarded.get("/page/jobs").status_code == 401
    begun = time.monotonic()
    assert guarded.post("/login", data={"token": "a wrong one"}).status_code == 401
    assert guarded.get("/?token=a+wrong+one").status_code == 401 and time.monotonic() - begun >= 0.2
    opened = guarded.post("/login", data={"token": "a long enough token"})
    assert opened.status_code == 303 and opened.headers["location"] == "/"
    first = guarded.get("/page/jobs").text
    assert len(first) == 32 and guarded.get("/").text == first
    guarded.cookies.clear()
    assert guarded.get("/?token=a+long+enough+token").status_code == 303
    assert guarded.get("/").text != first  # another visitor


@pytest.mark.parametrize(
    "flags, word",
    [
        (["--host", "0.0.0.0"], "--token"),
        (["--host", "0.0.0.0", "--token", "short"], "16 characters"),
        (["--upload", "0"], "more than 0"),
        (["--jobs", "0"], "1 or more"),
        (["--port", "70000"], "65535"),
        (["--share"], "no --share"),
    ],
)
def test_what_the_command_refuses(
    flags: list[str], word: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["page", "--folder", str(tmp_path / "page"), *flags]) == 2
    said = capsys.readouterr().err
    assert word in said and len(said.splitlines()) == 1


# --- jobs


def test_a_job_is_done_and_kept(jobs: Jobs, tmp_path: Path) -> None:
    jobs.add(WHO, "drive", "A title", {"driving.mp4": BUILTIN / "speaker.mp4"}, [Play("write")])
    done = wait(jobs, "done")
    assert done["files"] == ["result.mp4", "result.safetensors"] and done["about"][0]["lines"] == ["True 600"]
    assert done["command"] == f"cd {tmp_path / WHO / '0001-drive'} && stylereel write" and done["python"] == "write()"
    again = Jobs(tmp_path, Limits()).of(WHO)
    here = ("name", "tab", "title", "state", "files", "about", "seconds", "command", "python")
    assert [{name: job[name] for name in here} for job in again] == [{name: done[name] for name in here}]


def test_a_file_is_found_by_its_owner_alone_and_nothing_else_is(jobs: Jobs) -> None:
    jobs.add(WHO, "drive", "", {}, [Play("write")])
    name = wait(jobs, "done")["name"]
    found = jobs.file(WHO, name, "result.mp4")
    assert found is not None and found.read_bytes() == b"a clip"
    assert jobs.file(OTHER, name, "result.mp4") is None and jobs.of(OTHER) == []
    for wrong in ("../0001-drive/result.mp4", "..", "", "/etc/passwd", "other.mp4", ".hidden"):
        assert jobs.file(WHO, name, wrong) is None
    (found.parent / "link.mp4").symlink_to("/etc/passwd")
    assert jobs.file(WHO, name, "link.mp4") is None
    assert jobs.file(WHO, "../" + WHO, "x") is None


def test_stop_kills_the_process_and_leaves_nothing(jobs: Jobs) -> None:
    job = jobs.add(WHO, "drive", "", {}, [Play("wait")])
    wait(jobs, "running")
    pid = job.folder / "pid"
    while not (pid.exists() and pid.read_text()):  # it is there before it is written
        time.sleep(0.02)
    process = int(pid.read_text())
    begun = time.monotonic()
    jobs.stop(WHO, job.name)
    assert wait(jobs, "stopped")["message"] == "Stopped."
    with suppress(FileNotFoundError, ProcessLookupError):  # gone, also while it is looked at
        while Path(f"/proc/{process}/stat").read_text().split()[2] != "Z":
            assert time.monotonic() - begun < 5
            time.sleep(0.02)
    while (job.folder / "result.part").exists():
        assert time.monotonic() - begun < 5
        time.sleep(0.02)
    jobs.add(WHO, "drive", "", {}, [Play("write")])
    wait(jobs, "done")


def test_another_visitor_cannot_stop_or_delete(jobs: Jobs) -> None:
    job = jobs.add(WHO, "drive", "", {}, [Play("wait")])
    wait(jobs, "running")
    jobs.stop(OTHER, job.name)
    jobs.delete(OTHER, job.name)
    jobs.delete(WHO, job.name)  # it runs
    assert jobs.of(WHO)[0]["state"] == "running"


def test_a_killed_worker_is_one_sentence_and_the_next_job_works(jobs: Jobs) -> None:
    jobs.add(WHO, "drive", "", {}, [Play("die")])
    assert "ended from outside" in wait(jobs, "failed")["message"]
    jobs.add(WHO, "drive", "", {}, [Play("fail")])
    assert wait(jobs, "failed")["message"] == "That did not work; do something else."
    jobs.add(WHO, "drive", "", {}, [Play("write")])
    wait(jobs, "done")


def test_waiting_jobs_have_a_place_and_a_limit_and_visitors_take_turns(tmp_path: Path) -> None:
    jobs = Jobs(tmp_path, Limits(jobs=1))
    for _ in range(4):
        jobs.add(WHO, "drive", "", {}, [Play("write")])
    assert [job["position"] for job in jobs.of(WHO)] == [4, 3, 2, 1]
    with pytest.raises(ValueError, match="4 of your jobs"):
        jobs.add(WHO, "drive", "", {}, [Play("write")])
    jobs.stop(WHO, "0002-drive")
    assert [job["state"] for job in jobs.of(WHO)] == ["waiting", "waiting", "stopped", "waiting"]
    jobs.add(OTHER, "drive", "", {}, [Play("write")])
    slots = jobs._slots + [jobs_module._Slot(jobs)]
    jobs._slots = slots
    first, second = jobs.take(slots[0]), jobs.take(slots[1])
    assert first is not None and second is not None and (first.visitor, second.visitor) == (WHO, OTHER)


def test_a_full_disk_is_one_sentence(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    jobs = Jobs(tmp_path, Limits(disk=1e-6))
    (tmp_path / "old").write_bytes(b"0" * 2000)
    with pytest.raises(ValueError, match="at most 1e-06 GB and is full"):
        jobs.add(WHO, "drive", "", {}, [Play("write")])
    jobs = Jobs(tmp_path, Limits())
    usage = type("Usage", (), {"free": 10_000})
    monkeypatch.setattr(jobs_module.shutil, "disk_usage", lambda _: usage)
    with pytest.raises(ValueError, match="almost full"):
        jobs.add(WHO, "drive", "", {}, [Play("write")])
    assert jobs.of(WHO) == []


@pytest.mark.parametrize(
    "error, said",
    [
        (OSError(errno.ENOSPC, "No space left on device"), FULL),
        (Exception("Error while serializing: I/O error: No space left on device (os error 28)"), FULL),
        (OSError(errno.EFBIG, "File too large"), LARGE),
        (ValueError("two\nlines"), "two lines"),
    ],
)
def test_what_a_worker_says_of_an_error(error: Exception, said: str) -> None:
    assert sentence(error) == said


def test_what_ran_when_the_page_ended_is_said_to_have_failed(tmp_path: Path) -> None:
    jobs = Jobs(tmp_path, Limits())
    jobs.add(WHO, "drive", "", {}, [Play("write")])
    found = Jobs(tmp_path, Limits()).of(WHO)[0]
    assert found["state"] == "failed" and "closed before" in found["message"]
    (tmp_path / WHO / "0001-drive" / "job.json").write_text("{")
    assert Jobs(tmp_path, Limits()).of(WHO) == []


def test_a_folder_has_one_page(app: Any, address: str, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="Another page has the folder"):
        application(app.jobs.folder, Limits())


def test_the_line_has_an_end(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(jobs_module, "LINE", 2)
    jobs = Jobs(tmp_path, Limits())
    for visitor in (WHO, OTHER):
        jobs.add(visitor, "drive", "", {}, [Play("write")])
    with pytest.raises(ValueError, match="2 jobs wait"):
        jobs.add("2" * 32, "drive", "", {}, [Play("write")])


# --- what is uploaded


def test_uploads_are_probed_by_their_content(tmp_path: Path) -> None:
    for name, content in {"a.png": b"no picture", "a.mp4": b"#!/bin/sh", "a.wav": b"", "a.exe": b"MZ"}.items():
        (tmp_path / name).write_bytes(content)
        with pytest.raises(ValueError) as raised:
            check(str(tmp_path / name), 10)
        assert "\n" not in str(raised.value)
    check(str(BUILTIN / "speaker.mp4"), 10)
    with pytest.raises(ValueError, match="longer than 2 s"):
        check(str(BUILTIN / "speaker.mp4"), 2)


# --- the stage


def test_the_newest_wish_wins() -> None:
    stage = Stage()
    stage.start()
    slow = stage.ask("one", Wish(seed=5))
    while stage._waiting:
        time.sleep(0.01)
    older, newer = stage.ask("one", Wish(seed=1)), stage.ask("one", Wish(seed=2))
    other = stage.ask("other", Wish(seed=3))
    assert older.result(20) is None
    drawn = [future.result(20) for future in (slow, newer, other)]
    assert [each and each[1]["smile"] for each in drawn] == [5, 2, 3]
    with pytest.raises(ValueError, match="try again"):
        stage.ask("one", Wish(seed=13)).result(20)  # its process dies
    assert stage.ask("one", Wish(seed=2)).result(20) is not None
    stage.close()


def test_pictures_over_the_socket(visitor: httpx.Client) -> None:
    with connect(visitor) as stage:
        stage.send(json.dumps({"n": 7, "person": "29", "factors": {"smile": 0.5}, "values": True}))
        assert json.loads(stage.recv(10)) == {"n": 7, "values": {"smile": 29.0}}
        answer = stage.recv(10)
        assert isinstance(answer, bytes) and answer[:4] == b"\0\0\0\7" and answer[4:6] == b"\xff\xd8"
        for wrong in ({"person": "x"}, {"person": "0001-people/../x"}, {"person": "1", "factors": {"nose": 1}}, {}):
            stage.send(json.dumps({"n": 8, **wrong}))
            assert "error" in json.loads(stage.recv(10))


def test_an_edited_person_is_kept(visitor: httpx.Client) -> None:
    answer = visitor.post("/page/keep", json={"person": "29", "factors": {"smile": 0.5}, "title": "Her"})
    job = answer.json()[0]
    assert job["state"] == "done" and job["title"] == "Her" and job["files"] == ["result.safetensors"]
    assert job["command"].endswith("--set smile=0.5") and "set_=('smile=0.5',)" in job["python"]
    kept = visitor.get(f"/page/files/{job['name']}/result.safetensors?download=true")
    assert kept.content == b"a person" and "attachment" in kept.headers["content-disposition"]
    assert visitor.post("/page/keep", json={"person": "x"}).status_code == 400
    assert visitor.delete(f"/page/jobs/{job['name']}").json() == []


# --- live


@pytest.fixture
def sessions(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[live_module.Live]:
    monkeypatch.setattr(live_module, "PATIENCE", 0.2)
    (tmp_path / "jobs").mkdir()
    made = live_module.Live(Jobs(tmp_path / "jobs", Limits(live=1)), tmp_path / "live")
    yield made
    made.close()


def begin(sessions: live_module.Live, visitor: str, **given: Any) -> Any:
    """A session of a visitor, as his browser asks for it."""
    values = {"source": "29", "camera": "page", **given}
    files = given.pop("files", {})
    call = forms.call(forms.TABS["live"], "stylemask", values)
    return sessions._link({"ticket": sessions.ticket(visitor, "A title", call, files)})


def test_one_visitor_is_live_at_a_time_and_the_next_is_told(sessions: live_module.Live, tmp_path: Path) -> None:
    first = begin(sessions, WHO, record="result.mp4", audio="page")
    assert first.screen.after(0, 20).jpeg == b"first" and first.wants == {"camera": True, "microphone": True}
    first.take(b"a frame")
    assert first.screen.after(1, 20)[1:3] == (b"a frame", False)
    with pytest.raises(ValueError, match="Somebody is live already; try again"):
        begin(sessions, OTHER)
    first.close()
    end = time.monotonic() + 20
    while not sessions._jobs.of(WHO):
        assert time.monotonic() < end
        time.sleep(0.02)
    (job,) = sessions._jobs.of(WHO)
    assert (job["state"], job["title"], job["files"]) == ("done", "A title", ["result.mp4"])
    assert job["command"].endswith(
        "stylereel live stylemask --source 29 --camera page --audio page --record result.mp4 --to page"
    )
    assert sessions._jobs.of(OTHER) == [] and first.screen.ended and first.screen.error == ""
    second = begin(sessions, OTHER)
    assert second.wants == {"camera": True, "microphone": False} and second.screen.after(0, 20).jpeg == b"first"
    newer = begin(sessions, OTHER)  # his older one ends
    assert newer.screen.after(0, 20).jpeg == b"first" and second.screen.ended
    newer.close()
    assert not list((tmp_path / "live").iterdir()) or sessions._jobs.of(OTHER) == []


def test_a_session_that_fails_is_one_sentence_and_the_next_works(sessions: live_module.Live) -> None:
    for source, word in (("13", "ended from outside"), ("14", "There is no face in it")):
        lost = begin(sessions, WHO, source=source)
        lost.screen.after(0, 20)
        assert lost.screen.ended and word in lost.screen.error
    assert begin(sessions, WHO).screen.after(0, 20).jpeg == b"first"
    with pytest.raises(ValueError, match="This session is over"):
        sessions._link({"ticket": "again"})


# --- a form that is sent


def send(client: httpx.Client, button: str, changed: dict[str, Any] | None = None) -> str:
    """Press a button with the values that its form begins with, and those changed by label; what is said under it."""
    config = client.get("/config").json()
    parts = {one["id"]: one for one in config["components"]}
    target = next(one["id"] for one in parts.values() if one["props"].get("value") == button)
    event = next(one for one in config["dependencies"] if [target, "click"] in [list(each) for each in one["targets"]])
    values = []
    for number in event["inputs"]:
        props = parts[number]["props"]
        values.append((changed or {}).get(props.get("label"), props.get("value")))
    form = {"data": values, "fn_index": event["id"], "session_hash": "abc"}
    assert client.post("/gradio_api/queue/join", json=form).status_code == 200
    with client.stream("GET", "/gradio_api/queue/data?session_hash=abc") as stream:
        for line in stream.iter_lines():
            if "process_completed" in line:
                return json.loads(line.removeprefix("data: "))["output"]["data"][0]
    raise AssertionError("no answer")


def test_one_click_makes_a_video(visitor: httpx.Client) -> None:
    assert send(visitor, "Make the video") == ""
    end = time.monotonic() + 30
    while (job := visitor.get("/page/jobs").json()[0])["state"] != "done":
        assert time.monotonic() < end
        time.sleep(0.05)
    assert job["title"] == "person 29 · speaker"
    assert job["command"].endswith(
        "/0001-drive && stylereel drive stylemask --source 29 --driving driving.mp4 --out result.mp4"
    )
    assert visitor.get(f"/page/files/{job['name']}/result.mp4").content == b"a clip"
    assert visitor.get(f"/page/files/{job['name']}/driving.mp4").content == (BUILTIN / "speaker.mp4").read_bytes()


def test_a_sound_is_said_instead_of_a_text(visitor: httpx.Client) -> None:
    sent = visitor.post("/gradio_api/upload", files={"files": ("voice.wav", b"something", "audio/wav")}).json()[0]
    sound = {"path": sent, "meta": {"_type": "gradio.FileData"}}
    given = {"Or a sound": sound, "What to say, in English": "Not this.", "Seed": 7}
    assert send(visitor, "Say it", given) == ""
    job = visitor.get("/page/jobs").json()[0]
    assert job["title"] == "person 29 · voice"
    assert "drive stylemask --source 29 --out result.mp4 --movement 7 --audio audio.wav" in job["command"]


def test_saved_motions_and_talk_files_drive(visitor: httpx.Client) -> None:
    sent = visitor.post("/gradio_api/upload", files={"files": ("a.talk", b"something", "text/plain")}).json()[0]
    assert send(visitor, "Make the video", {"A file": {"path": sent, "meta": {"_type": "gradio.FileData"}}}) == ""
    job = visitor.get("/page/jobs").json()[0]
    assert "--driving driving.talk" in job["command"] and job["title"] == "person 29 · a"


def test_mistakes_in_a_form_are_said_under_its_button(visitor: httpx.Client) -> None:
    said = send(visitor, "Make the video", {"Size": "tall"})
    assert 'role="alert"' in said and "Size takes a number, not tall." in said
    assert "takes no path here" in send(visitor, "Make the video", {"Source face": "../../secret.png"})
    assert "takes no path here" in send(visitor, "Make the video", {"Background": "/etc/passwd"})
    assert "takes 2 s at most" in send(visitor, "Make the video", {"Duration": "1:00"})
    assert "&lt;b&gt;" in send(visitor, "Make the video", {"Size": "<b>"})
    assert "A photograph is missing" in send(visitor, "Find the likeness")
    still = {"What moves the head": "none"}
    assert "Nothing moves the person" in send(visitor, "Start", still)
    assert "<sr-ticket" in send(visitor, "Start")
    assert visitor.get("/page/jobs").json() == []


def test_fifty_visitors(app: Any, address: str) -> None:
    """At once; each has results of his own, and none sees another's."""

    def visit(number: int) -> list[str]:
        with httpx.Client(base_url=address, timeout=60, cookies=cookie(app)) as client:
            kept = client.post("/page/keep", json={"person": str(100 + number), "title": f"number {number}"})
            assert kept.status_code == 200
            return [job["title"] for job in client.get("/page/jobs").json()]

    with ThreadPoolExecutor(50) as pool:
        assert list(pool.map(visit, range(50))) == [[f"number {number}"] for number in range(50)]
