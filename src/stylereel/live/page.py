"""A page that shows a live picture: binary frames (JPEG) over a websocket, newest first, on this machine alone.

`live_app` is an ASGI application: it runs by itself (`Page`), or another application mounts it.
"""

from __future__ import annotations

import asyncio
import io
import socket as socket_
import threading
from typing import TYPE_CHECKING

from PIL import Image

from stylereel.live.session import Picture

if TYPE_CHECKING:
    from starlette.applications import Starlette
    from starlette.datastructures import Headers
    from starlette.requests import Request
    from starlette.responses import Response
    from starlette.websockets import WebSocket

HOST = "127.0.0.1"
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
</style>
<canvas id="picture" width="256" height="256" role="img" aria-label="the live picture"></canvas>
<output id="state">connecting</output>
<script>
  const canvas = document.getElementById("picture"), state = document.getElementById("state");
  const say = text => { if (state.textContent !== text) state.textContent = text; };
  function connect() {
    const place = new URL("frames", location.href);
    place.protocol = place.protocol.replace("http", "ws");
    const socket = new WebSocket(place);
    socket.onopen = () => say("");
    socket.binaryType = "blob";
    socket.onmessage = async ({data}) => {
      if (typeof data === "string") return say(data);
      const image = await createImageBitmap(data);
      if (canvas.width !== image.width) [canvas.width, canvas.height] = [image.width, image.height];
      canvas.getContext("2d").drawImage(image, 0, 0);
      socket.send("next");
    };
    socket.onclose = () => { say("the session is over, or not there yet"); setTimeout(connect, 1000); };
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


def is_local(headers: Headers) -> bool:
    """Whether a request is for this machine by its own name, from a page of the same place: other websites could ask a
    browser here for the picture too."""
    host, origin = headers.get("host", ""), headers.get("origin")
    name = host.rsplit(":", 1)[0]
    return name in (HOST, "localhost", "[::1]") and origin in (None, f"http://{host}", f"https://{host}")


def live_app(screen: Screen) -> Starlette:
    """An ASGI application that shows a screen: `/` is the page, the websocket `/frames` gives JPEG frames.

    A viewer sends any text to get the next frame; text from here says what the state is. Raises ValueError without the
    extra `web`.
    """
    try:
        from starlette.applications import Starlette
        from starlette.responses import HTMLResponse, PlainTextResponse
        from starlette.routing import Route, WebSocketRoute
        from starlette.websockets import WebSocketDisconnect
    except ImportError:
        raise ValueError(_EXTRA) from None

    async def page(request: Request) -> Response:
        if not is_local(request.headers):
            return PlainTextResponse("This page is for this machine alone.", 403)
        return HTMLResponse(HTML, headers={"Content-Security-Policy": _POLICY, "Cache-Control": "no-store"})

    async def frames(socket: WebSocket) -> None:
        if not is_local(socket.headers):
            await socket.close(1008)
            return
        await socket.accept()
        number, state = 0, ""
        try:
            while not screen.ended:
                newer, jpeg, found = await asyncio.to_thread(screen.after, number, 1.0)
                now = "" if found else "no face"
                if now != state:
                    state = now
                    await socket.send_text(state)
                if newer > number:
                    number = newer
                    await socket.send_bytes(jpeg)
                    await socket.receive_text()
            await socket.close()
        except (WebSocketDisconnect, RuntimeError):  # the viewer has left
            return

    return Starlette(routes=[Route("/", page), WebSocketRoute("/frames", frames)])


class Page(Screen):
    """A screen with a server of its own at `address`. Raises ValueError without the extra `web`, or if somebody else
    has the port."""

    def __init__(self, port: int = 0) -> None:
        super().__init__()
        try:
            import uvicorn
            import websockets  # noqa: F401 (uvicorn takes it)
        except ImportError:
            raise ValueError(_EXTRA) from None
        app = live_app(self)
        try:
            self._socket = socket_.create_server((HOST, port))
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
