"""A page with a live picture: binary frames (JPEG) over a websocket, the newest each time, on this machine alone.

`live_app` is an ASGI application: it runs by itself (`Page`), or another application mounts it. Camera and microphone
are those of the session, or the viewer's own (`Browser`), and what is heard with the picture is played in step with it.
"""

from __future__ import annotations

import asyncio
import io
import json
import secrets
import socket as sockets
import threading
import wave
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
from PIL import Image

from stylereel.core.latents import Identity
from stylereel.core.system import Streams
from stylereel.live.camera import PushedCamera
from stylereel.live.session import Picture, Session
from stylereel.live.sound import MICROPHONE_RATE, PushedSound
from stylereel.media.sound import read_sound

if TYPE_CHECKING:
    from starlette.applications import Starlette
    from starlette.datastructures import Headers
    from starlette.requests import Request
    from starlette.responses import Response
    from starlette.websockets import WebSocket

HOST = "127.0.0.1"
SIDE = 1920  # pixels of a frame that a browser sends, at most
QUALITY = 88  # of the JPEG frames; 256 px are about 12 kB
RATES = range(8000, 192_001)  # samples a second that a browser may send
_POLICY = (
    "default-src 'none'; style-src 'unsafe-inline'; script-src 'unsafe-inline' blob:; connect-src 'self'; "
    "img-src blob:; media-src 'self' blob:"
)
_EXTRA = "The page needs its packages: run `pip install 'stylereel[web]'`."

HTML = """<!doctype html>
<html lang="en">
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<title>stylereel live</title>
<style>
  :root { color-scheme: light dark; }
  body { margin: 0; display: grid; justify-items: center; gap: .5rem; font: 1rem system-ui, sans-serif; }
  figure { position: relative; margin: 0; line-height: 0; }
  canvas { width: min(100vw, 100vh - 2.5rem, 560px); aspect-ratio: 1; border-radius: 1rem; background: #8883; }
  video { position: absolute; right: 3%; bottom: 3%; width: 24%; border-radius: .6rem; transform: scaleX(-1);
          box-shadow: 0 1px 8px #0005; }
  output { min-height: 1.5em; }
  .recording::before { content: ""; display: inline-block; width: .7em; height: .7em; margin-right: .5em;
                       border-radius: 50%; background: #d03a2b; }
</style>
<figure><canvas id="picture" width="256" height="256" role="img" aria-label="the live picture"></canvas></figure>
<output id="state">connecting</output>
<script>
  const canvas = document.getElementById("picture"), state = document.getElementById("state");
  const say = text => { if (state.textContent !== text) state.textContent = text; };
  let media = null, video = null;
  async function open(camera, microphone) {  // this browser's
    if (media) return;
    try {
      media = await navigator.mediaDevices.getUserMedia({
        video: camera && {width: 640, height: 480}, audio: microphone && {channelCount: 1, echoCancellation: true}});
    } catch (error) { return say(`no ${camera ? "camera" : "microphone"}: ${error.message}`); }
    if (!camera) return;
    video = document.createElement("video");
    video.srcObject = new MediaStream(media.getVideoTracks());
    video.muted = video.playsInline = true;
    video.setAttribute("aria-label", "your camera");
    document.querySelector("figure").append(video);
    await video.play();
  }
  function look(socket) {  // sends the newest frame, once the one before is on its way
    const small = new OffscreenCanvas(video.videoWidth, video.videoHeight), pen = small.getContext("2d");
    const next = async () => {
      if (socket.readyState !== WebSocket.OPEN) return;
      if (socket.bufferedAmount === 0) {
        pen.drawImage(video, 0, 0);
        socket.send(await small.convertToBlob({type: "image/jpeg", quality: .85}));
      }
      video.requestVideoFrameCallback(next);
    };
    next();
  }
  const PIECES = `registerProcessor("pieces", class extends AudioWorkletProcessor {
    constructor() { super(); this.have = []; }
    process([[samples]]) {
      if (samples) for (const one of samples) this.have.push(one);
      if (this.have.length >= sampleRate / 50) { this.port.postMessage(Float32Array.from(this.have)); this.have = []; }
      return true;
    }
  })`;
  async function listen(socket) {  // sends S, the rate, and pieces of 20 ms
    const context = new AudioContext();
    await context.audioWorklet.addModule(URL.createObjectURL(new Blob([PIECES], {type: "text/javascript"})));
    const pieces = new AudioWorkletNode(context, "pieces");
    context.createMediaStreamSource(new MediaStream(media.getAudioTracks())).connect(pieces);
    pieces.port.onmessage = ({data}) => {
      if (socket.readyState !== WebSocket.OPEN) return context.state !== "closed" && context.close();
      const sent = new DataView(new ArrayBuffer(4 + 2 * data.length));
      sent.setUint32(0, 0x53000000 + context.sampleRate);
      data.forEach((one, at) => sent.setInt16(4 + 2 * at, 32767 * Math.max(-1, Math.min(1, one)), true));
      if (socket.bufferedAmount < 1e6) socket.send(sent.buffer);
    };
    await context.resume();
  }
  function connect() {
    const place = new URL("frames" + location.search, location.href);
    place.protocol = place.protocol.replace("http", "ws");
    const socket = new WebSocket(place);
    socket.onopen = () => say("getting ready");
    let over = "the session is over, or not there yet", ended = false, note = "";
    let sound = null, drift = null, shown = 0, since = 0;
    socket.binaryType = "blob";
    socket.onmessage = async ({data}) => {
      if (typeof data === "string") {
        const said = JSON.parse(data);
        if (said.camera || said.microphone) {
          await open(said.camera, said.microphone);
          if (video) look(socket);
          if (media && said.microphone) listen(socket);
        }
        if (said.sound) (sound = new Audio(said.sound)).play().catch(error => { note = `no sound: ${error.message}`; });
        if (said.at >= 0 && said.at < sound?.duration) {
          drift = drift === null ? 1 : .8 * drift + .2 * (sound.currentTime - said.at);
          canvas.dataset.step = drift.toFixed(3);
          if (Math.abs(drift) > .08) [sound.currentTime, drift] = [said.at, 0];
        }
        if (said.recording !== undefined) state.classList.toggle("recording", said.recording);
        if (said.error) { [over, ended] = [said.error, true]; say(over); }
        if (said.note) say(said.note);
        if (said.face !== undefined) { note = said.face ? "" : "no face"; say(note); }
        return;
      }
      const image = await createImageBitmap(data);
      if (canvas.width !== image.width) [canvas.width, canvas.height] = [image.width, image.height];
      canvas.getContext("2d").drawImage(image, 0, 0);
      socket.send("next");
      shown += 1;
      if (performance.now() - since > 1000) {
        if (since) say(note || `${Math.round(1000 * shown / (performance.now() - since))} pictures a second`);
        [since, shown] = [performance.now(), 0];
      }
    };
    socket.onclose = () => {
      sound?.pause();
      say(over);
      if (!ended) setTimeout(connect, 2000);  // who was told why reads it
    };
  }
  connect();
</script>
</html>
"""


class Shown(NamedTuple):
    """A picture on a screen: its number, JPEG, whether there is a face, and the second of the sound that it is at."""

    number: int
    jpeg: bytes = b""
    face: bool = True
    at: float | None = None


class Screen:
    """The newest picture, for any number of viewers; an `Output`. Each viewer gets it when it has taken the one before,
    so that a slow one holds up nobody.

    Attributes:
        sound: a WAV file that viewers hear with the pictures, None for silence.
        begun: gives the time at which that begins in the pictures, None before it has begun.
        recording: whether what is shown is recorded.
        note: what is being done before the first picture, for the viewer.
        error: why it ended, for the viewer.
        ended: whether no more pictures come.
    """

    def __init__(self) -> None:
        self._changed = threading.Condition()
        self._newest = Shown(0)
        self.sound: Path | None = None
        self.begun: Callable[[], float | None] = lambda: None
        self.recording = self.ended = False
        self.note = self.error = ""

    def show(self, picture: Picture | None) -> None:
        """See `Output`."""
        if picture is None:
            return
        file, begun = io.BytesIO(), self.begun()
        Image.fromarray(picture.image).save(file, "JPEG", quality=QUALITY)
        at = None if begun is None else picture.time - begun
        self.put(file.getvalue(), not picture.motion.missing, at)

    def put(self, jpeg: bytes, face: bool, at: float | None) -> None:
        """The next picture, whether there is a face, and the second of the sound that belongs to it."""
        with self._changed:
            self._newest = Shown(self._newest.number + 1, jpeg, face, at)
            self._changed.notify_all()

    def tell(self, note: str) -> None:
        """What is being done before the first picture."""
        self.note = note

    def end(self, error: str = "") -> None:
        """No more pictures come."""
        with self._changed:
            self.ended, self.error = True, error or self.error
            self._changed.notify_all()

    def after(self, number: int, seconds: float) -> Shown:
        """The newest picture after number `number`; the same one if none has come after so many seconds."""
        with self._changed:
            self._changed.wait_for(lambda: self._newest.number > number or self.ended, seconds)
            return self._newest


class Browser:
    """A viewer's own camera and microphone, as far as they are given."""

    def __init__(self, camera: PushedCamera | None = None, sound: PushedSound | None = None) -> None:
        self.camera, self.sound = camera, sound

    @property
    def wants(self) -> dict[str, bool]:
        """What the viewer is asked for."""
        return {"camera": self.camera is not None, "microphone": self.sound is not None}

    def take(self, data: bytes) -> None:
        """What a viewer has sent: a JPEG; or S, samples a second in three bytes, and samples int16. Anything else is
        left out."""
        if data[:1] == b"S":
            rate, samples = int.from_bytes(data[1:4], "big"), data[4 : 4 + (len(data) - 4) // 2 * 2]
            if self.sound is not None and rate in RATES and 0 < len(samples) <= 2 * rate:
                self.sound.push(np.frombuffer(samples, "<i2"), rate)
        elif self.camera is not None and (frame := decoded(data)) is not None:
            self.camera.push(frame)

    def end(self) -> None:
        """Nothing more comes."""
        for each in (self.camera, self.sound):
            if each is not None:
                each.end()


@dataclass
class Link:
    """What one viewer of a page gets: a screen; what takes the viewer's own camera and microphone, and which of them it
    wants; and what ends all that, without waiting."""

    screen: Screen
    take: Callable[[bytes], None] = lambda data: None
    wants: Mapping[str, bool] = field(default_factory=dict)
    close: Callable[[], None] = lambda: None


def visit(system: Streams, identity: Identity, **options: Any) -> Link:
    """A session in a thread of its own whose camera and screen are one viewer's; `options` are those of `Session`."""
    screen, browser = Screen(), Browser(camera := PushedCamera())
    session = Session(system, identity, camera, **options)

    def run() -> None:
        try:
            session.run([screen])
        finally:
            screen.end()

    threading.Thread(target=run, name="live visit", daemon=True).start()

    def close() -> None:
        session.stop()
        browser.end()

    return Link(screen, browser.take, browser.wants, close)


def save_heard(path: Path, sound: Path) -> None:
    """Write the sound of a file as a WAV file, which every browser plays. Raises MediaError if it has none."""
    with wave.open(str(path), "wb") as file:
        file.setnchannels(1)
        file.setsampwidth(2)
        file.setframerate(MICROPHONE_RATE)
        for samples in read_sound(sound, MICROPHONE_RATE):
            file.writeframes((samples.clip(-1, 1) * 32767).astype("<i2").tobytes())


def is_local(headers: Headers) -> bool:
    """Whether a request is for this machine by its own name, from a page of the same place: other websites could ask a
    browser here for the picture too."""
    host, origin = headers.get("host", ""), headers.get("origin")
    name = host.rsplit(":", 1)[0]
    return name in (HOST, "localhost", "[::1]") and origin in (None, f"http://{host}", f"https://{host}")


def decoded(jpeg: bytes) -> np.ndarray | None:
    """A frame that a browser has sent, uint8 [H, W, 3]; None for anything else than a JPEG of `SIDE` pixels at most."""
    try:
        with Image.open(io.BytesIO(jpeg), formats=["JPEG"]) as image:
            return np.asarray(image.convert("RGB")) if max(image.size) <= SIDE else None
    except (OSError, ValueError, SyntaxError, Image.DecompressionBombError):
        return None


def live_app(link: Callable[[Mapping[str, str]], Link], allowed: Callable[[Headers], bool] = is_local) -> Starlette:
    """An ASGI application with a page for a live picture at `/` and its websocket at `/frames`.

    The socket gives JPEG frames, the newest each time the viewer sends text for the next, and words as JSON: `camera`
    and `microphone`, true where the viewer is to send its own (see `Browser.take`); `sound`, the address of a WAV file
    to play, and `at`, the second of it that the picture belongs to; `recording`; `face`, whether there is one; `note`,
    what is being done before the first picture; `error`.

    Args:
        link: what a viewer gets, by the words of its query; a ValueError is the sentence that the viewer reads.
        allowed: whether a request may be answered, by its headers.

    Raises:
        ValueError: the extra `web` is not installed.
    """
    try:
        from starlette.applications import Starlette
        from starlette.responses import FileResponse, HTMLResponse, PlainTextResponse
        from starlette.routing import Route, WebSocketRoute
        from starlette.websockets import WebSocketDisconnect
    except ImportError:
        raise ValueError(_EXTRA) from None

    playing: dict[str, Screen] = {}  # by a word that only its viewer knows

    async def page(request: Request) -> Response:
        if not allowed(request.headers):
            return PlainTextResponse("This page is for this machine alone.", 403)
        return HTMLResponse(HTML, headers={"Content-Security-Policy": _POLICY, "Cache-Control": "no-store"})

    async def sound(request: Request) -> Response:
        screen = playing.get(request.path_params["word"])
        if not allowed(request.headers) or screen is None or screen.sound is None:
            return PlainTextResponse("There is no such sound.", 404)
        return FileResponse(screen.sound, media_type="audio/wav", headers={"Cache-Control": "no-store"})

    async def frames(socket: WebSocket) -> None:
        if not allowed(socket.headers):
            await socket.close(1008)
            return
        await socket.accept()
        try:
            viewer = await asyncio.to_thread(link, dict(socket.query_params))
        except ValueError as error:
            await socket.send_json({"error": str(error)})
            await socket.close()
            return
        asked, word = asyncio.Event(), secrets.token_hex(12)
        asked.set()
        playing[word] = viewer.screen
        listening = asyncio.create_task(_listen(socket, viewer.take, asked))
        try:
            if wanted := {name: True for name, wants in viewer.wants.items() if wants}:
                await socket.send_json(wanted)
            await _send(socket, viewer.screen, f"sound/{word}", asked, listening)
            await socket.close()
        except (WebSocketDisconnect, RuntimeError):
            pass  # the viewer has left
        finally:
            del playing[word]
            listening.cancel()
            viewer.close()  # at once: who is cancelled waits for nothing

    return Starlette(routes=[Route("/", page), Route("/sound/{word}", sound), WebSocketRoute("/frames", frames)])


async def _listen(socket: WebSocket, take: Callable[[bytes], None], asked: asyncio.Event) -> None:
    """Take what a viewer sends, until it leaves."""
    while (message := await socket.receive())["type"] != "websocket.disconnect":
        if (data := message.get("bytes")) is None:
            asked.set()
        else:
            await asyncio.to_thread(take, data)


async def _send(
    socket: WebSocket, screen: Screen, sound: str, asked: asyncio.Event, listening: asyncio.Task[None]
) -> None:
    """Send the newest frame each time that it is asked for, and what goes with it, until either side ends."""
    number = 0
    told: dict[str, Any] = {"face": True, "recording": False, "note": ""}
    while not (screen.ended or listening.done()):
        try:
            await asyncio.wait_for(asked.wait(), 1.0)
        except TimeoutError:
            continue
        shown = await asyncio.to_thread(screen.after, number, 1.0)
        if screen.note != told["note"]:
            told["note"] = screen.note
            await socket.send_json({"note": screen.note})
        if shown.number > number:
            asked.clear()
            number = shown.number
            now: dict[str, Any] = {"face": shown.face, "recording": screen.recording}
            now |= {} if screen.sound is None or shown.at is None else {"sound": sound}
            words = {name: value for name, value in now.items() if told.get(name) != value}
            if "sound" in now:
                words["at"] = round(shown.at or 0.0, 3)
            told |= now
            if words:
                await socket.send_text(json.dumps(words))
            await socket.send_bytes(shown.jpeg)
    if screen.error:
        await socket.send_json({"error": screen.error})


class Page(Screen):
    """A screen with a server of its own at `address`; a `browser` gets what the viewer's camera and microphone give.

    Raises ValueError without the extra `web`, or if somebody else has the port.
    """

    def __init__(self, port: int = 0, browser: Browser | None = None) -> None:
        super().__init__()
        try:
            import uvicorn
            import websockets  # noqa: F401 (uvicorn takes it)
        except ImportError:
            raise ValueError(_EXTRA) from None
        browser = browser or Browser()
        app = live_app(lambda query: Link(self, browser.take, browser.wants))
        try:
            self._socket = sockets.create_server((HOST, port))
        except OSError as error:
            raise ValueError(f"The page cannot have port {port} ({error.strerror}); choose another one.") from None
        self.address = f"http://{HOST}:{self._socket.getsockname()[1]}/"
        self._server = uvicorn.Server(uvicorn.Config(app, log_level="warning", timeout_graceful_shutdown=1))
        self._thread = threading.Thread(target=self._server.run, args=([self._socket],), daemon=True)
        self._thread.start()

    def close(self) -> None:
        """End the server."""
        self.end()
        self._server.should_exit = True
        self._thread.join(3)
        self._socket.close()
