"""Who may ask the page for what: the middleware before everything else.

- Without a token only this machine is served, under its own names, so that no foreign web site reaches the page by
  another name (DNS rebinding); with one, every visitor must give it once.
- A cookie that nobody can guess says whose files are whose. Uploads belong to the visitor who sent them: only they may
  name them in a form or fetch them.
- What is not needed is not there: of gradio's routes a few are open.
- Nothing is loaded from elsewhere: the content security policy forbids it.
"""

from __future__ import annotations

import asyncio
import hashlib
import hmac
import json
from collections.abc import Awaitable, Callable, MutableMapping
from http.cookies import CookieError, SimpleCookie
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, unquote, urlsplit

from stylereel.web.jobs import VISITOR, Jobs, new_visitor

Scope = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[MutableMapping[str, Any]]]
Send = Callable[[MutableMapping[str, Any]], Awaitable[None]]
Wrapped = Callable[[Scope, Receive, Send], Awaitable[None]]

COOKIE = "stylereel"
LOCAL = ("localhost", "127.0.0.1", "::1")
PAUSE = 1.0  # seconds that a wrong token costs
BODY = 4_000_000  # bytes of a request that is no upload
UPLOAD = "/gradio_api/upload"
FILE = "/gradio_api/file="
# What the page's own scripts ask gradio for, and nothing else of what it offers.
OPEN = ("/page/", "/live/", "/assets/", "/static/", "/svelte/", "/gradio_api/queue/", "/gradio_api/heartbeat/", FILE)
EXACT = {
    "/", "/login", "/config", "/theme.css", "/favicon.ico", "/manifest.json", UPLOAD, "/gradio_api/upload_progress",
    "/gradio_api/startup-events", "/gradio_api/app_id", "/gradio_api/info", "/gradio_api/cancel", "/gradio_api/reset",
}  # fmt: skip
POLICY = "; ".join(
    [
        "default-src 'self'",
        "script-src 'self' 'unsafe-inline' 'unsafe-eval' blob:",  # gradio's own need it
        "style-src 'self' 'unsafe-inline'",
        "img-src 'self' data: blob:",
        "media-src 'self' data: blob:",
        "font-src 'self' data:",
        "connect-src 'self' data: blob:",
        "worker-src 'self' blob:",
        "frame-src 'self'",
        "frame-ancestors 'self'",
        "form-action 'self'",
        "base-uri 'self'",
        "object-src 'none'",
    ]
)
HEADERS = {
    "content-security-policy": POLICY,
    "x-content-type-options": "nosniff",
    "referrer-policy": "same-origin",
    "cross-origin-resource-policy": "same-origin",
}
LOGIN = """<!doctype html><html lang="en"><meta charset="utf-8"><title>stylereel</title>
<meta name="viewport" content="width=device-width"><link rel="stylesheet" href="/page/static/page.css">
<body class="sr-login"><form method="post" action="/login"><h1>stylereel</h1><p>{say}</p>
<label for="token">Token</label>
<input id="token" name="token" type="password" autocomplete="current-password" autofocus>
<button>Open the page</button></form></body></html>"""


class Guard:
    """The middleware.

    jobs: for the room on the disk and the limits. token: what visitors must give; None serves this machine alone.
    public: folders and files of gradio's that everyone may see.
    """

    def __init__(self, app: Wrapped, jobs: Jobs, token: str | None, public: tuple[Path, ...] = ()) -> None:
        self.app, self.jobs, self.token, self.public = app, jobs, token, public
        self._owners: dict[str, set[str]] = {}  # path of an upload -> visitors who sent it

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] not in ("http", "websocket"):
            await self.app(scope, receive, send)
            return
        asked = _Asked(scope, receive, send)
        visitor = self._visitor(asked)
        path, fresh = asked.path, None
        if self.token is None and asked.host not in LOCAL:
            await asked.refuse(403, "This page serves its own machine alone; its address begins with http://127.0.0.1.")
            return
        if asked.crosses:
            await asked.refuse(403, "This request comes from another web site.")
            return
        if self.token is not None and visitor is None and not path.startswith("/page/static/"):
            await self._login(asked)
            return
        if not (path in EXACT or path.startswith(OPEN)) or ".." in path:
            await asked.refuse(404, "There is nothing here.")
            return
        if visitor is None:
            if path != "/" and not path.startswith(("/page/static/", "/assets/", "/static/")):
                await asked.refuse(403, "Reload the page: it needs its cookie.")
                return
            visitor = fresh = new_visitor()
        scope["visitor"] = visitor
        if path.startswith(FILE) and not self._may_see(visitor, unquote(path.removeprefix(FILE))):
            await asked.refuse(404, "There is no such file.")
            return
        take, give = receive, asked.with_headers(self._cookie(fresh) if fresh and path == "/" else None)
        if asked.method == "POST":
            upload = path == UPLOAD
            most = int(self.jobs.limits.upload * 1e6) + 10_000 if upload else BODY
            if asked.length > most:
                size = f"{self.jobs.limits.upload:g} MB" if upload else "4 MB"
                await asked.refuse(413, f"This is larger than {size}, the most that is taken here.")
                return
            if upload:
                try:
                    self.jobs.require_room(asked.length)
                except ValueError as error:
                    await asked.refuse(507, str(error))
                    return
                take, give = _counted(receive, most), self._noting(visitor, give)
            else:
                body = await _read(receive, most)
                if body is None:
                    await asked.refuse(413, "This is larger than is taken here.")
                    return
                if not all(self._may_see(visitor, one) for one in _paths(body)):
                    await asked.refuse(403, "This file is not yours, or no longer here; upload it again.")
                    return
                take = _given(body, receive)
        await self.app(scope, take, give)

    def _visitor(self, asked: _Asked) -> str | None:
        """Whose request it is, by a cookie that this page has given."""
        name, _, mark = asked.cookie.partition(".")
        return name if VISITOR.fullmatch(name) and hmac.compare_digest(mark, self._mark(name)) else None

    def _mark(self, visitor: str) -> str:
        return hmac.new((self.token or "").encode(), visitor.encode(), hashlib.sha256).hexdigest()[:32]

    def _cookie(self, visitor: str) -> str:
        return f"{COOKIE}={visitor}.{self._mark(visitor)}; Path=/; HttpOnly; SameSite=Lax; Max-Age=31536000"

    def _may_see(self, visitor: str, path: str) -> bool:
        if visitor in self._owners.get(path, ()):
            return True
        place = Path(path)
        if ".." in place.parts:
            return False
        return any(place == one or one in place.parents for one in self.public)

    async def _login(self, asked: _Asked) -> None:
        """Ask for the token, or take it: in the form, or in the address that the terminal has printed."""
        given, say = None, "Give the token that the page was started with."
        if asked.method == "POST" and asked.path == "/login":
            body = await _read(asked.receive, 10_000)
            given = parse_qs((body or b"").decode("utf-8", "replace")).get("token", [""])[0]
        elif asked.path == "/":
            given = parse_qs(asked.query).get("token", [None])[0]
        if given is not None:
            if self.token is not None and hmac.compare_digest(given.encode(), self.token.encode()):
                cookie = self._cookie(new_visitor())
                await asked.answer(303, b"", [(b"location", b"/"), (b"set-cookie", cookie.encode())])
                return
            await asyncio.sleep(PAUSE)
            say = "That is not the token."
        if asked.kind == "websocket" or asked.path not in ("/", "/login"):
            await asked.refuse(401, "Open the page and give its token first.")
            return
        text = LOGIN.format(say=say).encode()
        await asked.answer(401 if given is not None else 200, text, [(b"content-type", b"text/html; charset=utf-8")])

    def _noting(self, visitor: str, send: Send) -> Send:
        """Passes an answer to an upload on, and notes whose the files in it are."""
        status, parts = 0, bytearray()

        async def note(message: MutableMapping[str, Any]) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
            elif status == 200:
                parts.extend(message.get("body", b""))
                if not message.get("more_body"):
                    for path in json.loads(bytes(parts)):
                        self._owners.setdefault(path, set()).add(visitor)
            await send(message)

        return note


class _Asked:
    """A request, and short ways to answer it."""

    def __init__(self, scope: Scope, receive: Receive, send: Send) -> None:
        self.receive, self._send = receive, send
        self.kind, self.path, self.method = scope["type"], scope["path"], scope.get("method", "GET")
        self.query = scope.get("query_string", b"").decode("latin-1")
        self._headers = {name.decode("latin-1"): value.decode("latin-1") for name, value in scope["headers"]}
        self.host = urlsplit(f"//{self._headers.get('host', '')}").hostname or ""

    @property
    def length(self) -> int:
        found = self._headers.get("content-length", "0")
        return int(found) if found.isdecimal() else 0

    @property
    def cookie(self) -> str:
        try:
            found = SimpleCookie(self._headers.get("cookie", "")).get(COOKIE)
        except CookieError:
            return ""
        return found.value if found else ""

    @property
    def crosses(self) -> bool:
        """Whether another site's page asks for a change or a connection."""
        origin = self._headers.get("origin")
        if origin is None or (self.kind == "http" and self.method in ("GET", "HEAD")):
            return False
        return urlsplit(origin).netloc != self._headers.get("host")

    def with_headers(self, cookie: str | None) -> Send:
        more = [(name.encode(), value.encode()) for name, value in HEADERS.items()]
        if cookie:
            more.append((b"set-cookie", cookie.encode()))

        async def send(message: MutableMapping[str, Any]) -> None:
            if message["type"] == "http.response.start":
                kept = [each for each in message.get("headers", []) if each[0].decode().lower() not in HEADERS]
                message = {**message, "headers": [*kept, *more]}
            await self._send(message)

        return send

    async def refuse(self, status: int, sentence: str) -> None:
        if self.kind == "websocket":
            await self.receive()
            await self._send({"type": "websocket.close", "code": 4000 + status % 1000, "reason": sentence[:120]})
            return
        body = json.dumps({"detail": sentence}).encode()
        await self.answer(status, body, [(b"content-type", b"application/json")])

    async def answer(self, status: int, body: bytes, headers: list[tuple[bytes, bytes]]) -> None:
        headers = [*headers, (b"content-length", str(len(body)).encode())]
        send = self.with_headers(None)
        await send({"type": "http.response.start", "status": status, "headers": headers})
        await send({"type": "http.response.body", "body": body})


def _counted(receive: Receive, most: int) -> Receive:
    """The body of an upload, cut off where it becomes larger than it may be, whatever its header said."""
    have = 0

    async def take() -> MutableMapping[str, Any]:
        nonlocal have
        message = await receive()
        have += len(message.get("body", b""))
        return message if have <= most else {"type": "http.disconnect"}

    return take


async def _read(receive: Receive, most: int) -> bytes | None:
    """The whole body of a request; None if it is larger than `most` bytes."""
    parts = bytearray()
    while True:
        message = await receive()
        parts.extend(message.get("body", b""))
        if len(parts) > most:
            return None
        if message["type"] == "http.disconnect" or not message.get("more_body"):
            return bytes(parts)


def _given(body: bytes, receive: Receive) -> Receive:
    """A body that was read already, and what comes after it."""
    parts = [{"type": "http.request", "body": body, "more_body": False}]

    async def take() -> MutableMapping[str, Any]:
        return parts.pop() if parts else await receive()

    return take


def _paths(body: bytes) -> list[str]:
    """All file names in a form that gradio is sent: the values of "path", however deep."""
    try:
        content = json.loads(body or b"null")
    except ValueError:
        return []
    found, open_ = [], [content]
    while open_:
        each = open_.pop()
        if isinstance(each, dict):
            found += [str(each["path"])] if each.get("path") is not None else []
            open_ += each.values()
        elif isinstance(each, list):
            open_ += each
    return found
