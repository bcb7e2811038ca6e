"""A page with a live picture: binary frames (JPEG) over a websocket, the newest each time, on this machine alone.

`live_app` is an ASGI application: it runs by itself (`Page`), or another application mounts it. The camera is that of
the session, or the viewer's own (`visit`).
"""

from __future__ import annotations

import asyncio
import io
import socket as sockets
import threading
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
from PIL import Image

from stylereel.core.latents import Identity
from stylereel.core.system import Streams
from stylereel.live.camera import PushedCamera
from stylereel.live.session import Picture, Session

if TYPE_CHECKING:
    from starlette.applications import Starlette
    from starlette.datastructures import Headers
    from starlette.requests import Request
    from starlette.responses import Response
    from starlette.websockets import WebSocket

HOST = "127.0.0.1"
SIDE = 1920  # pixels of a frame that a browser sends, at most
QUALITY = 88  # of the JPEG frames; 256 px are about 12 kB
_POLICY = "default-src 'none'; style-src 'unsafe-inline'; script-src 'unsafe-inline'; connect-src 'self'; img-src blob:"
_EXTRA = "The page needs its packages: run `pip install 'stylereel[web]'`."

HTML = """<!doctype html>
<html lang="en">
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<title>stylereel live</title>
<style>
  :root { color-scheme: light dark; }
  body { margin: 0; min-height: 100vh; display: grid; place-content: center; justify-items: center; gap: .5rem;
         font: 1rem system-ui, sans-serif; }
  canvas { width: min(90vmin, 512px); aspect-ratio: 1; border-radius: .5rem; background: #8883; }
  output { min-height: 1.5em; }
</style>
<canvas id="picture" width="256" height="256" role="img" aria-label="the live picture"></canvas>
<output id="state">connecting</output>
<script>
  const canvas = document.getElementById("picture"), state = document.getElementById("state");
  const say = text => { if (state.textContent !== text) state.textContent = text; };
  let video = null;
  async function openCamera() {  // this browser's
    if (video) return;
    const opened = document.createElement("video");
    try {
      opened.srcObject = await navigator.mediaDevices.getUserMedia({video: {width: 640, height: 480}});
    } catch (error) { return say("no camera: " + error.message); }
    opened.muted = true;
    await opened.play();
    video = opened;
  }
  function send(socket) {  // the newest frame, once the one before is on its way
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
  function connect() {
    const place = new URL("frames" + location.search, location.href);
    place.protocol = place.protocol.replace("http", "ws");
    const socket = new WebSocket(place);
    let over = "the session is over, or not there yet";
    socket.binaryType = "blob";
    socket.onmessage = async ({data}) => {
      if (typeof data === "string") {
        const {camera, face, error} = JSON.parse(data);
        if (camera) { await openCamera(); if (video) send(socket); }
        if (error) over = error;
        return say(error || (face === false ? "no face" : ""));
      }
      const image = await createImageBitmap(data);
      if (canvas.width !== image.width) [canvas.width, canvas.height] = [image.width, image.height];
      canvas.getContext("2d").drawImage(image, 0, 0);
      socket.send("next");
    };
    socket.onclose = () => { say(over); setTimeout(connect, 2000); };
  }
  connect();
</script>
</html>
"""


class Screen:
    """The newest picture, for any number of viewers; an `Output`. Each viewer gets it when it has taken the one before,
    so that a slow one holds up nobody."""

    def __init__(self) -> None:
        self._changed = threading.Condition()
        self._number, self._jpeg, self._found = 0, b"", True
        self.ended = False

    def show(self, picture: Picture | None) -> None:
        """See `Output`."""
        if picture is None:
            return
        file = io.BytesIO()
        Image.fromarray(picture.image).save(file, "JPEG", quality=QUALITY)
        with self._changed:
            self._number += 1
            self._jpeg, self._found = file.getvalue(), not picture.motion.missing
            self._changed.notify_all()

    def end(self) -> None:
        """No more pictures come."""
        with self._changed:
            self.ended = True
            self._changed.notify_all()

    def after(self, number: int, seconds: float) -> tuple[int, bytes, bool]:
        """Number, JPEG and whether there is a face of the newest picture after number `number`; the same one if none
        has come after so many seconds."""
        with self._changed:
            self._changed.wait_for(lambda: self._number > number or self.ended, seconds)
            return self._number, self._jpeg, self._found


class Link(NamedTuple):
    """What one viewer of a page gets: a screen; where the camera is the viewer's own, the camera that its frames are
    pushed to; and what ends that, without waiting."""

    screen: Screen
    camera: PushedCamera | None = None
    close: Callable[[], None] = lambda: None


def visit(system: Streams, identity: Identity, **options: Any) -> Link:
    """A session in a thread of its own whose camera and screen are one viewer's; `options` are those of `Session`."""
    screen, camera = Screen(), PushedCamera()
    session = Session(system, identity, camera, **options)

    def run() -> None:
        try:
            session.run([screen])
        finally:
            screen.end()

    threading.Thread(target=run, name="live visit", daemon=True).start()

    def close() -> None:
        session.stop()
        camera.end()

    return Link(screen, camera, close)


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

    The socket gives JPEG frames, the newest each time the viewer sends text for the next, and states as JSON: `camera`,
    true where the viewer is to send frames of its own camera, JPEG too; `face`, whether there is one; `error`.

    Args:
        link: what a viewer gets, by the words of its query; a ValueError is the sentence that the viewer reads.
        allowed: whether a request may be answered, by its headers.

    Raises:
        ValueError: the extra `web` is not installed.
    """
    try:
        from starlette.applications import Starlette
        from starlette.responses import HTMLResponse, PlainTextResponse
        from starlette.routing import Route, WebSocketRoute
        from starlette.websockets import WebSocketDisconnect
    except ImportError:
        raise ValueError(_EXTRA) from None

    async def page(request: Request) -> Response:
        if not allowed(request.headers):
            return PlainTextResponse("This page is for this machine alone.", 403)
        return HTMLResponse(HTML, headers={"Content-Security-Policy": _POLICY, "Cache-Control": "no-store"})

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
        asked = asyncio.Event()
        asked.set()
        listening = asyncio.create_task(_listen(socket, viewer.camera, asked))
        try:
            if viewer.camera is not None:
                await socket.send_json({"camera": True})
            await _send(socket, viewer.screen, asked, listening)
            await socket.close()
        except (WebSocketDisconnect, RuntimeError):
            pass  # the viewer has left
        finally:
            listening.cancel()
            viewer.close()  # at once: who is cancelled waits for nothing

    return Starlette(routes=[Route("/", page), WebSocketRoute("/frames", frames)])


async def _listen(socket: WebSocket, camera: PushedCamera | None, asked: asyncio.Event) -> None:
    """Take what a viewer sends, until it leaves."""
    while (message := await socket.receive())["type"] != "websocket.disconnect":
        if (jpeg := message.get("bytes")) is None:
            asked.set()
        elif camera is not None and (frame := await asyncio.to_thread(decoded, jpeg)) is not None:
            camera.push(frame)


async def _send(socket: WebSocket, screen: Screen, asked: asyncio.Event, listening: asyncio.Task[None]) -> None:
    """Send the newest frame each time that it is asked for, and whether there is a face, until either side ends."""
    number, before = 0, True
    while not (screen.ended or listening.done()):
        try:
            await asyncio.wait_for(asked.wait(), 1.0)
        except TimeoutError:
            continue
        newer, jpeg, face = await asyncio.to_thread(screen.after, number, 1.0)
        if newer > number:
            asked.clear()
            if face != before:
                before = face
                await socket.send_json({"face": face})
            number = newer
            await socket.send_bytes(jpeg)


class Page(Screen):
    """A screen with a server of its own at `address`; a `camera` gets the frames of the viewer's own.

    Raises ValueError without the extra `web`, or if somebody else has the port.
    """

    def __init__(self, port: int = 0, camera: PushedCamera | None = None) -> None:
        super().__init__()
        try:
            import uvicorn
            import websockets  # noqa: F401 (uvicorn takes it)
        except ImportError:
            raise ValueError(_EXTRA) from None
        app = live_app(lambda query: Link(self, camera))
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
