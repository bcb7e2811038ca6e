"""The application: jobs and their files, pictures of people, the stage's websocket, and gradio's forms above them."""

from __future__ import annotations

import asyncio
import json
import os
import shutil
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

os.environ["GRADIO_ANALYTICS_ENABLED"] = "False"  # before gradio is imported
os.environ["HF_HUB_OFFLINE"] = "1"

import gradio
from fastapi import FastAPI, HTTPException, Request, WebSocket, WebSocketDisconnect
from fastapi.responses import FileResponse, JSONResponse, Response
from fastapi.staticfiles import StaticFiles
from filelock import FileLock, Timeout

from stylereel.core.files import MediaError
from stylereel.web.guard import Guard
from stylereel.web.jobs import Jobs
from stylereel.web.layout import HEAD, THEME, build
from stylereel.web.limits import Limits
from stylereel.web.live import Live
from stylereel.web.sliders import groups
from stylereel.web.stage import EXAMPLE, Stage, Wish
from stylereel.world.factors import INDEX

STATIC = Path(__file__).parent / "static"
CACHE = ".uploads"  # in the page's folder: what was uploaded, for a day
MOST_SEED = 2**32


class Wishes:
    """Wishes of the browser, as the stage takes them; anything else is refused."""

    def __init__(self, jobs: Jobs) -> None:
        self._jobs = jobs

    def __call__(self, visitor: str, asked: Any) -> Wish:
        """Raises ValueError for what is no wish, or names a file that is not the visitor's."""
        if not isinstance(asked, dict):
            raise ValueError("A wish is an object.")
        person, file, seed = str(asked.get("person", "")), None, None
        if "/" in person:
            job, _, name = person.partition("/")
            file = self._jobs.file(visitor, job, name)
            if file is None or file.suffix != ".safetensors":
                raise ValueError("This person is no longer here; choose another.")
        elif person.isdecimal() and int(person) < MOST_SEED:
            seed = int(person)
        else:
            raise ValueError("A person is a whole number from 0, or one whom you made.")
        factors = asked.get("factors") or {}
        if not isinstance(factors, dict) or any(name not in INDEX for name in factors):
            raise ValueError("There is no such slider.")
        moment = asked.get("moment")
        return Wish(
            seed,
            file,
            {name: float(value) for name, value in factors.items()},
            None if moment is None else int(moment),
        )


def _how(wish: Wish, asked: Any) -> tuple[str, str]:
    """The command line and the Python that show the person of a wish."""
    words = [f"{name}={value:g}" for name, value in wish.factors.items()]
    source = str(wish.seed) if wish.file is None else f"{asked['person']}"
    line = "stylereel drive stylemask --source {} --driving my-clip.mp4 --out result.mp4{}"
    python = 'import stylereel\n\nsystem = stylereel.load("stylemask")\nidentity = system.identify({}{})\n{}'
    person = str(wish.seed) if wish.file is None else f"stylereel.Identity.load({source!r})"
    return (
        line.format(source, "".join(f" --set {word}" for word in words)),
        python.format(person, f", set_={tuple(words)!r}" if words else "", 'identity.save("person.safetensors")'),
    )


def application(folder: Path, limits: Limits, token: str | None = None) -> Any:
    """The page as an ASGI application.

    Args:
        folder: where uploads and results are kept; made if needed. Uploads of an earlier run are removed.
        limits: what it takes on.
        token: what visitors must give; None serves this machine's own users.

    Raises:
        ValueError: the folder cannot be written, or another page has it (MediaError).
    """
    cache = (folder / CACHE).absolute()
    folder.mkdir(parents=True, exist_ok=True)
    lock = FileLock(folder / ".lock")
    try:
        lock.acquire(timeout=0)
    except Timeout as error:
        raise MediaError(f"Another page has the folder {folder}; end it, or give another --folder.") from error
    shutil.rmtree(cache, ignore_errors=True)
    os.environ["GRADIO_TEMP_DIR"] = str(cache)
    people = cache / "people"
    people.mkdir(parents=True, exist_ok=True)
    gradio.set_static_paths([people, EXAMPLE])
    jobs, stage = Jobs(folder, limits, local=token is None), Stage()
    wishes, live = Wishes(jobs), Live(jobs, cache / "live")

    @asynccontextmanager
    async def life(_: FastAPI) -> AsyncIterator[None]:
        jobs.start()
        stage.start()
        yield
        live.close()
        stage.close()
        jobs.close()
        lock.release()

    app = FastAPI(lifespan=life, docs_url=None, redoc_url=None, openapi_url=None)
    app.mount("/page/static", StaticFiles(directory=STATIC))

    @app.get("/page/jobs")
    def list_jobs(request: Request) -> JSONResponse:
        return JSONResponse(jobs.of(request.scope["visitor"]))

    @app.post("/page/jobs/{name}/stop")
    def stop(request: Request, name: str) -> JSONResponse:
        jobs.stop(request.scope["visitor"], name)
        return JSONResponse(jobs.of(request.scope["visitor"]))

    @app.delete("/page/jobs/{name}")
    def delete(request: Request, name: str) -> JSONResponse:
        jobs.delete(request.scope["visitor"], name)
        return JSONResponse(jobs.of(request.scope["visitor"]))

    @app.get("/page/files/{name}/{file}")
    def result(request: Request, name: str, file: str, download: bool = False) -> Response:
        path = jobs.file(request.scope["visitor"], name, file)
        if path is None:
            raise HTTPException(404, "There is no such file.")
        return FileResponse(path, filename=f"{name}-{file}" if download else None)

    @app.websocket("/page/stage")
    async def play(socket: WebSocket) -> None:
        """Wishes in, as JSON with a number n; pictures out: n as four bytes, then a JPEG. Mistakes come as text."""
        await socket.accept()
        visitor, mine = socket.scope["visitor"], f"socket {id(socket)}"
        going: set[asyncio.Task[None]] = set()

        async def answer(number: int, asked: Any) -> None:
            try:
                drawn = await asyncio.wrap_future(stage.ask(mine, wishes(visitor, asked)))
                if drawn is not None:
                    if asked.get("values"):
                        await socket.send_text(json.dumps({"n": number, "values": drawn[1]}))
                    await socket.send_bytes(number.to_bytes(4, "big") + drawn[0])
            except (ValueError, TypeError) as error:
                await socket.send_text(json.dumps({"n": number, "error": str(error)}))
            except (RuntimeError, WebSocketDisconnect):  # it has left
                pass

        try:
            while True:
                asked = json.loads(await socket.receive_text())
                task = asyncio.create_task(answer(int(asked["n"]) % 2**32, asked))
                going.add(task)
                task.add_done_callback(going.discard)
        except (WebSocketDisconnect, ValueError, TypeError, KeyError):
            pass

    @app.get("/page/sliders")
    def sliders() -> JSONResponse:
        return JSONResponse(groups())

    @app.post("/page/keep")
    async def keep(request: Request) -> JSONResponse:
        """Keep an edited person: {person, factors, title}."""
        visitor = request.scope["visitor"]
        try:
            asked = await request.json()
            wish = wishes(visitor, asked)
            job = jobs.made(visitor, "edit", str(asked.get("title") or "")[:60] or "A person", *_how(wish, asked))
            kept = replace(wish, moment=None, keep=job.folder / "result.safetensors")
            try:
                await asyncio.wrap_future(stage.ask(f"keep {job.folder}", kept))
            except ValueError as error:
                jobs.end(job, "failed", str(error))
            else:
                jobs.end(job, "done", "")
        except (ValueError, TypeError) as error:
            raise HTTPException(400, str(error)) from error
        return JSONResponse(jobs.of(visitor))

    app.mount("/live", live.app)
    forms = build(jobs, stage, live, wishes, people)
    gradio.mount_gradio_app(
        app,
        forms,
        path="/",
        theme=THEME,
        head=HEAD,
        footer_links=[],
        run_history=False,
        max_file_size=int(limits.upload * 1e6),
        show_error=True,
        ssr_mode=False,
        enable_monitoring=False,
        pwa=False,
    )
    return Guard(app, jobs, token, (people, EXAMPLE.absolute(), cache / "example"))
