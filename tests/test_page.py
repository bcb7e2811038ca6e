"""The page in a real browser, with the real networks: what people do on each tab. Needs playwright (Python) and a
Chromium or Chrome on the machine; no browser is downloaded. `pytest -m browser` runs these alone."""

from __future__ import annotations

import contextlib
import io
import os
import re
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image
from scipy.io import wavfile

from stylereel.core.builtin import BUILTIN
from stylereel.core.latents import Motion
from stylereel.media.video import VideoReader
from stylereel.world.speech import RATE, speak

sync_api = pytest.importorskip("playwright.sync_api", reason="playwright is not installed")
pytest.importorskip("gradio", reason="the page's packages are not installed: pip install -e .[web]")
CHROMIUM = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
pytestmark = [
    pytest.mark.browser,
    pytest.mark.slow,
    pytest.mark.skipif(CHROMIUM is None, reason="there is no Chromium here"),
]
SPEAKER = BUILTIN / "speaker.mp4"
FEW = 240_000  # milliseconds that a job may take on a busy machine


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("browser")


@pytest.fixture(scope="module")
def server(folder: Path) -> Iterator[tuple[str, int]]:
    """The page's address and process."""
    words = [sys.executable, "-m", "stylereel", "page", "--no-browser", "--port", "0", "--folder", str(folder / "page")]
    with subprocess.Popen(words, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        found = re.search(r"http://\S+", process.stdout.readline())
        assert found
        yield found[0], process.pid
        process.send_signal(signal.SIGTERM)
        assert process.wait(60) == 130


@pytest.fixture(scope="module")
def camera(folder: Path) -> Path:
    """The example clip as Chromium's fake camera takes it: JPEG after JPEG."""
    path = folder / "camera.mjpeg"
    with path.open("wb") as file:
        for frame in VideoReader(SPEAKER):
            picture = io.BytesIO()
            Image.fromarray(frame).resize((480, 480)).save(picture, "JPEG")
            file.write(picture.getvalue())
    return path


@pytest.fixture(scope="module")
def voice(folder: Path) -> Path:
    """A sentence, said by the world's own voice."""
    path = folder / "voice.wav"
    wavfile.write(path, RATE, (speak("Hello, my mama made a blue boat. " * 8).audio * 32767).astype(np.int16))
    return path


@pytest.fixture(scope="module")
def browser(camera: Path, voice: Path) -> Iterator[Any]:
    flags = ["--no-sandbox", "--use-fake-ui-for-media-stream", "--use-fake-device-for-media-stream"]
    flags += [f"--use-file-for-fake-video-capture={camera}", f"--use-file-for-fake-audio-capture={voice}"]
    with sync_api.sync_playwright() as play:
        opened = play.chromium.launch(executable_path=CHROMIUM, args=flags)
        yield opened
        opened.close()


@pytest.fixture
def visit(browser: Any, server: tuple[str, int]) -> Iterator[Callable[..., Any]]:
    """Opens the page for a new visitor. Whatever asks for another machine, or fails in the page, fails the test."""
    wrong: list[str] = []
    contexts = []

    def open_(**options: Any) -> Any:
        context = browser.new_context(**options)
        context.grant_permissions(["camera", "microphone", "clipboard-read", "clipboard-write"])
        contexts.append(context)
        page = context.new_page()
        ours = (server[0], server[0].replace("http", "ws"), "data:", "blob:")
        page.on("request", lambda asked: None if asked.url.startswith(ours) else wrong.append(asked.url))
        page.on("pageerror", lambda error: wrong.append(str(error)))
        page.on("response", lambda answer: wrong.append(f"{answer.status} {answer.url}") if answer.status >= 400 else 0)
        page.goto(server[0])
        page.wait_for_selector("sr-preview canvas", timeout=FEW)
        return page

    yield open_
    for context in contexts:
        context.close()
    assert not wrong


def tab(page: Any, name: str) -> None:
    page.get_by_role("tab", name=name, exact=True).click()
    page.wait_for_timeout(300)


def upload(page: Any, file: Path) -> None:
    """Into the first place for files of the tab."""
    page.locator("div[role=tabpanel]:visible input[type=file]").first.set_input_files(str(file))
    page.wait_for_function("!document.querySelector('.gradio-container .wrap.uploading, .gradio-container .uploading')")
    page.wait_for_timeout(1500)


def finished(page: Any, name: str) -> dict[str, Any]:
    """The tab's newest job when it has ended."""
    end = time.monotonic() + FEW / 1000
    while time.monotonic() < end:
        jobs = page.evaluate("async () => (await fetch('/page/jobs')).json()")
        mine = [job for job in jobs if job["tab"] == name]
        if mine and mine[0]["state"] not in ("waiting", "running"):
            return mine[0]
        page.wait_for_timeout(200)
    raise AssertionError("it does not end")


def pixels(page: Any, canvas: str) -> bytes:
    return page.evaluate(f"document.querySelector('{canvas}').toDataURL()")


def test_a_portrait_moves_after_one_click_and_becomes_a_video_after_another(visit: Callable[..., Any]) -> None:
    page = visit()
    page.wait_for_function("document.querySelectorAll('.sr-gallery img').length >= 12", timeout=FEW)
    page.get_by_role("button", name="See this person move now").click()
    page.wait_for_function("document.querySelector('sr-preview').stage.number > 8", timeout=FEW)
    first = pixels(page, "sr-preview canvas")
    page.wait_for_timeout(500)
    assert pixels(page, "sr-preview canvas") != first
    page.get_by_role("button", name="Make the video").click()
    page.wait_for_selector("sr-jobs[for=drive] progress", timeout=FEW)
    job = finished(page, "drive")
    assert job["state"] == "done", job["message"]
    page.wait_for_function("document.querySelector('sr-jobs[for=drive] video')?.readyState >= 2", timeout=FEW)
    assert page.evaluate("document.querySelector('sr-jobs[for=drive] video').duration") == pytest.approx(4, abs=0.1)
    page.get_by_role("button", name="Copy the command line").click()
    copied = page.evaluate("navigator.clipboard.readText()")
    assert copied == job["command"] and "stylereel drive stylemask --source 29" in copied


def test_a_photo_becomes_a_person_who_is_driven(visit: Callable[..., Any], folder: Path) -> None:
    page = visit()
    photo = folder / "somebody.png"
    Image.fromarray(next(iter(VideoReader(SPEAKER)))).save(photo)
    tab(page, "People")
    upload(page, photo)
    page.get_by_label("Beard", exact=True).click()
    page.get_by_role("option", name="yes").click()
    page.get_by_role("button", name="Find the likeness").click()
    job = finished(page, "people")
    assert job["state"] == "done" and "--set beard=yes" in job["command"], job["message"]
    page.locator("sr-jobs[for=people] th", has_text="beard").wait_for()
    page.locator("sr-jobs[for=people]").get_by_role("button", name="Use in Drive").click()
    page.wait_for_function("document.querySelector('sr-preview').getAttribute('person').includes('/')", timeout=FEW)
    page.get_by_text("More options").locator("visible=true").click()
    page.get_by_role("textbox", name="Duration How long").fill("0.4")
    page.get_by_role("button", name="Make the video").click()
    job = finished(page, "drive")
    assert job["state"] == "done" and job["title"].startswith("somebody"), job["message"]
    assert "--source source.safetensors" in job["command"] and "--duration 0.4" in job["command"]


def test_sliders_change_the_person_and_the_newest_wins(visit: Callable[..., Any]) -> None:
    page = visit()
    tab(page, "Edit")
    page.wait_for_selector("#slider-smile", timeout=FEW)
    page.wait_for_function("document.querySelector('sr-edited').took > 0", timeout=FEW)
    before = pixels(page, "sr-edited canvas")
    page.evaluate("""() => { const one = document.querySelector('#slider-smile'); for (let k = 0; k <= 60; k++) {
        one.value = -0.5 + k * 0.02; one.dispatchEvent(new Event('input', { bubbles: true })); } }""")
    page.wait_for_function("!document.querySelector('sr-edited').stage.flying", timeout=FEW)
    assert page.evaluate("document.querySelector('sr-edited').stage.number") < 10  # of 61 wishes
    after = pixels(page, "sr-edited canvas")
    assert after != before
    page.locator("#slider-smile").focus()
    page.keyboard.press("Home")
    page.wait_for_function("!document.querySelector('sr-edited').stage.flying", timeout=FEW)
    assert pixels(page, "sr-edited canvas") not in (before, after)
    page.get_by_role("button", name="Keep this person").click()
    assert finished(page, "edit")["state"] == "done"


def moving(page: Any, count: int = 6) -> Any:
    """The live page, once it has shown so many different pictures."""
    live = page.frame_locator("iframe.sr-live")
    picture, seen = live.locator("canvas"), set()
    end = time.monotonic() + FEW / 1000
    while len(seen) < count and time.monotonic() < end:
        seen.add(picture.evaluate("one => one.toDataURL()"))
        page.wait_for_timeout(300)
    assert len(seen) >= count, live.locator("output").inner_text()
    return live


def result(folder: Path, job: dict[str, Any], file: str) -> Path:
    (found,) = (folder / "page").glob(f"*/{job['name']}/{file}")
    return found


def test_the_camera_moves_a_portrait_and_it_is_recorded(visit: Callable[..., Any], folder: Path) -> None:
    page = visit()
    tab(page, "Live")
    page.get_by_label("My microphone").check()
    page.get_by_label("My face").check()
    page.get_by_label("Record it").check()
    page.get_by_role("button", name="Start", exact=True).click()
    live = moving(page)
    assert "pictures a second" in live.locator("output").inner_text()
    assert "recording" in live.locator("output").get_attribute("class")
    page.wait_for_timeout(3000)
    page.get_by_role("button", name="Stop", exact=True).click()
    assert page.locator("iframe.sr-live").count() == 0
    page.wait_for_function("document.querySelector('sr-jobs[for=live] video')?.readyState >= 2", timeout=FEW)
    job = finished(page, "live")
    clip, motion = result(folder, job, "result.mp4"), Motion.load(result(folder, job, "result.safetensors"))
    reader = VideoReader(clip)
    assert reader.has_audio and reader.num_frames == len(motion) > 20 and np.ptp(motion.column("jaw")) > 0.1
    assert "--record result.mp4" in job["command"] and "result.json" in job["files"]
    page.reload()
    page.wait_for_selector("sr-preview canvas", timeout=FEW)
    page.get_by_text("Or a saved motion or talk file").locator("visible=true").click()
    page.get_by_label("Or one of mine").locator("visible=true").click()
    page.get_by_role("option", name="person 29").first.click()
    page.get_by_role("button", name="Make the video").click()
    job = finished(page, "drive")
    assert job["state"] == "done" and "--driving driving.safetensors" in job["command"], job["message"]


def test_a_photo_says_a_sound_live_and_the_next_visitor_is_told(
    visit: Callable[..., Any], folder: Path, voice: Path
) -> None:
    photo = folder / "somebody.png"
    Image.fromarray(next(iter(VideoReader(SPEAKER)))).save(photo)
    page, others = visit(), [visit(), visit()]
    tab(page, "Live")
    page.get_by_label("From a photo").locator("visible=true").check()
    upload(page, photo)
    page.get_by_label("It moves by itself").check()
    page.get_by_label("A file").locator("visible=true").check()
    page.locator("div[role=tabpanel]:visible .sr-sound input[type=file]").set_input_files(str(voice))
    page.wait_for_timeout(2000)
    page.get_by_role("button", name="Start", exact=True).click()
    live = moving(page)
    steps = []
    for _ in range(20):
        steps.append(live.locator("canvas").evaluate("one => Number(one.dataset.step)"))
        page.wait_for_timeout(200)
    assert np.nanmedian(np.abs(steps)) < 0.1  # seconds between what is heard and what is shown
    for other in others:
        tab(other, "Live")
        other.get_by_role("button", name="Start", exact=True).click()
    moving(others[0], 2)
    others[1].frame_locator("iframe.sr-live").get_by_text("2 people are live already").wait_for(timeout=FEW)


def test_sample_encode_look_and_say(visit: Callable[..., Any], voice: Path) -> None:
    page = visit()
    tab(page, "Sample")
    page.get_by_label("How long, in seconds").fill("0.4")
    page.get_by_role("button", name="Make a video").click()
    assert finished(page, "sample")["state"] == "done"
    tab(page, "Look")
    upload(page, SPEAKER)
    page.get_by_role("button", name="Look", exact=True).click()
    assert finished(page, "look")["state"] == "done"
    tab(page, "Encode")
    page.get_by_role("button", name="Encode the clip").click()
    job = finished(page, "encode")
    assert job["state"] == "done" and {"result.talk", "result.mp4"} <= set(job["files"]), job["message"]
    page.locator("sr-jobs[for=encode] caption", has_text="What other rates").wait_for()
    tab(page, "Drive")
    page.get_by_text("Or a saved motion or talk file").locator("visible=true").click()
    page.get_by_label("Or one of mine").locator("visible=true").click()
    page.get_by_role("option", name="(talk)").click()
    page.get_by_role("button", name="Make the video").click()
    job = finished(page, "drive")
    assert job["state"] == "done" and "--driving driving.talk" in job["command"], job["message"]
    tab(page, "Say")
    page.get_by_label("What to say, in English").fill("Hello.")
    page.get_by_role("button", name="Say it").click()
    job = finished(page, "say")
    assert job["state"] == "done" and job["title"] == "Hello. · person 29", job["message"]
    page.locator("div[role=tabpanel]:visible .sr-sound input[type=file]").first.set_input_files(str(voice))
    page.wait_for_timeout(2000)
    page.get_by_role("button", name="Say it").click()
    page.wait_for_timeout(1000)
    job = finished(page, "say")
    assert job["state"] == "done" and "drive stylemask" in job["command"] and "--audio" in job["command"], job


def test_a_reload_keeps_the_job_and_stop_ends_it(visit: Callable[..., Any]) -> None:
    page = visit()
    page.get_by_role("button", name="Make the video").click()
    page.wait_for_selector("sr-jobs[for=drive] progress", timeout=FEW)
    page.reload()
    page.get_by_role("button", name="Stop", exact=True).click(timeout=FEW)
    job = finished(page, "drive")
    assert job["state"] == "stopped" and job["files"] == []
    assert page.locator("sr-jobs[for=drive] article").inner_text().startswith("person 29")


def test_a_killed_worker_is_said_and_the_next_job_works(visit: Callable[..., Any], server: tuple[str, int]) -> None:
    page = visit()
    page.get_by_role("button", name="Make the video").click()
    os.kill(worker_of("drive", server[1]), signal.SIGKILL)
    job = finished(page, "drive")
    assert job["state"] == "failed" and "ended from outside" in job["message"]
    page.locator(".sr-error", has_text="ended from outside").wait_for()
    tab(page, "Look")
    upload(page, SPEAKER)
    page.get_by_role("button", name="Look", exact=True).click()
    assert finished(page, "look")["state"] == "done"


def worker_of(tab: str, process: int) -> int:
    """The process of a tab's job, as soon as there is one: a fast machine ends the job before a page could say it."""
    end = time.monotonic() + FEW / 1000
    while time.monotonic() < end:
        for each in children(process):
            with contextlib.suppress(OSError):
                if os.readlink(f"/proc/{each}/cwd").endswith(f"-{tab}"):
                    return each
        time.sleep(0.01)
    raise AssertionError(f"no job of {tab} began")


def children(process: int) -> list[int]:
    """The processes that a process has begun."""
    found = []
    for status in Path("/proc").glob("[0-9]*/stat"):
        try:
            fields = status.read_text().rsplit(")", 1)[1].split()
        except OSError:
            continue
        if int(fields[1]) == process:
            found.append(int(status.parent.name))
    return found


def test_the_keyboard_alone(visit: Callable[..., Any]) -> None:
    """From the top: to another tab and back with arrows, to the button with Tab, and a job with Enter."""
    page = visit()
    said = "document.activeElement.innerText || document.activeElement.getAttribute('aria-label') || ''"

    def until(text: str) -> None:
        for _ in range(80):
            page.keyboard.press("Tab")
            if page.evaluate(said).strip() == text:
                return
        raise AssertionError(f"Tab does not come to {text}")

    until("Drive")
    for _ in range(20):
        page.keyboard.press("Tab")
        if page.evaluate(said).strip() == "Look":
            break
    page.keyboard.press("Enter")
    page.get_by_text("See what is in a file").wait_for()
    page.get_by_role("tab", name="Drive", exact=True).focus()
    page.keyboard.press("Enter")
    until("Make the video")
    page.keyboard.press("Enter")
    page.wait_for_selector("sr-jobs[for=drive] progress", timeout=FEW)
    until("Stop")
    page.keyboard.press("Enter")
    assert finished(page, "drive")["state"] == "stopped"


@pytest.mark.parametrize("width, height, scheme", [(390, 844, "light"), (390, 844, "dark"), (1280, 900, "dark")])
def test_a_phone_and_the_dark(visit: Callable[..., Any], width: int, height: int, scheme: str) -> None:
    page = visit(viewport={"width": width, "height": height}, color_scheme=scheme)
    page.wait_for_timeout(1000)
    assert page.evaluate("document.documentElement.scrollWidth") <= width
    ground = page.evaluate("getComputedStyle(document.body).backgroundColor")
    assert (sum(map(int, re.findall(r"\d+", ground)[:3])) < 150) == (scheme == "dark"), ground
    preview = page.locator("sr-preview").bounding_box()
    assert preview["y"] < height  # a person is seen at once
