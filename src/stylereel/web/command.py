"""The command `stylereel page`: everything in a browser, on this machine."""

from __future__ import annotations

import gc
import socket
import sys
import threading
import webbrowser
from pathlib import Path

from stylereel.core.files import MediaError, ensure_writable
from stylereel.web.limits import Limits

LOOPBACK = ("127.0.0.1", "localhost", "::1")
TOKEN = 16  # characters, at least


def page(
    *,
    folder: str = "page",
    port: int = 7860,
    host: str = "127.0.0.1",
    token: str | None = None,
    upload: float = 200,
    longest: float = 600,
    jobs: int = 1,
    live: int = 2,
    disk: float = 10,
    browser: bool = True,
) -> None:
    """Open the page: everything in a browser, without a command line; it serves this machine alone.

    Args:
        folder: where uploads and results are kept, each visitor's in a folder of his own.
        port: the number after the colon of the page's address; the next free one is taken if it is in use.
        host: 127.0.0.1 serves this machine alone; another address of this machine, or 0.0.0.0 for all of them, also
            serves those who can reach it and know the token.
        token: what visitors must give once, 16 characters or more; needed with another host.
        upload: megabytes that an uploaded file may have.
        longest: seconds that a clip, a sound, a recording or a result may last.
        jobs: how many jobs run at once; others wait.
        live: how many visitors can be live at once; they share the processor.
        disk: gigabytes that all uploads and results together may take.
        browser: open the page in the browser.

    Raises:
        ValueError: a limit that is none, a host without a token, a folder that cannot be written (MediaError), or the
            packages of the extra `web` are not installed.
    """
    if host not in LOOPBACK and token is None:
        raise ValueError(
            f"--host {host} lets others in; give a --token of {TOKEN} characters or more that they must know."
        )
    if token is not None and len(token) < TOKEN:
        raise ValueError(f"--token takes {TOKEN} characters or more, so that nobody guesses it.")
    if min(upload, longest, disk) <= 0 or min(jobs, live) < 1:
        raise ValueError("--upload, --longest and --disk take more than 0, --jobs and --live 1 or more.")
    if not 0 <= port <= 65535:
        raise ValueError(f"--port takes 0 to 65535, not {port}.")
    home = Path(folder)
    if home.exists() and not home.is_dir():
        raise MediaError(f"{folder} is a file; give a folder.")
    ensure_writable(home / "try")
    try:
        import uvicorn

        from stylereel.web.server import application
    except ModuleNotFoundError as error:
        raise ValueError(
            f"The page needs the package {error.name}; install it with `pip install -c constraints.txt -e .[web]`, or "
            "start the page with `python3 run.py page`."
        ) from error
    app = application(home, Limits(upload, longest, jobs, live, disk), token)
    listening = _listen(host, port)
    where = f"http://{'127.0.0.1' if host in ('0.0.0.0', '::') else host}:{listening.getsockname()[1]}"
    if token is not None:
        print(
            f"stylereel: the page serves all who reach {host} and know the token, without encryption; put it behind a "
            "server with TLS before strangers can listen.",
            file=sys.stderr,
        )
    print(f"The page is at {where}  (Ctrl-C ends it; results are kept in {home})", flush=True)
    if browser and token is None:
        threading.Timer(1.0, webbrowser.open, [where]).start()
    config = uvicorn.Config(app, log_level="warning", ws="websockets-sansio", timeout_graceful_shutdown=1)
    try:
        uvicorn.Server(config).run([listening])
    finally:
        gc.freeze()  # Python would look at gradio's many objects for seconds before it ends


def _listen(host: str, port: int) -> socket.socket:
    """A socket at the port or one of the next ten that are free. Raises MediaError."""
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    for number in range(port, port + 10) if port else (0,):
        listening = socket.socket(family)
        listening.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            listening.bind((host, number))
        except OSError as error:
            listening.close()
            reason = error
            continue
        return listening
    raise MediaError(f"Neither port {port} nor the next nine of {host} are free ({reason.strerror}); choose another.")
