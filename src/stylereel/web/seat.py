"""The process in which one visitor is live: it may look into what he uploaded, and can be killed without harm to the
page."""

from __future__ import annotations

import os
import threading
from contextlib import redirect_stderr
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

from stylereel.live.camera import NoCamera, PushedCamera
from stylereel.live.page import Browser, Screen
from stylereel.live.session import Closed, Picture
from stylereel.live.sound import PushedSound
from stylereel.web.worker import limit_files, sentence


def sit(pipe: Connection) -> None:
    """Be live once: ("ready",) is said first, then a task is taken, and then pictures go out and frames come in.

    The task is (folder, call, file size limit in bytes, longest clip or recording in seconds). Out go ("note", what is
    being done), ("picture", JPEG, face, second of the sound), ("sound", path of a WAV file), ("recording",) and at last
    ("done", lines) or ("error", sentence). In come bytes, as `Browser.take` takes them, and None for the end.
    """
    if hasattr(os, "setsid"):
        os.setsid()  # Ctrl-C in the page's terminal is the page's
    from stylereel import systems

    systems.load("stylemask")  # it loads ten times faster the second time
    pipe.send(("ready",))
    try:
        folder, call, most, longest = pipe.recv()
        pipe.send(("done", _run(pipe, Path(folder), call, most, longest)))
    except (EOFError, BrokenPipeError, KeyboardInterrupt, Closed):
        return
    except (ValueError, OSError, MemoryError) as error:
        _say(pipe, sentence(error))
    except Exception as error:  # a fault of ours: the page lives on
        _say(pipe, f"This went wrong inside stylereel ({type(error).__name__}: {sentence(error)})")


def _say(pipe: Connection, what: str) -> None:
    try:
        pipe.send(("error", what))
    except OSError:
        pass


def _run(pipe: Connection, folder: Path, call: Any, most: int, longest: float) -> list[str]:
    from stylereel.commands import live
    from stylereel.web.probe import check

    os.chdir(folder)
    limit_files(most)
    for path in sorted(folder.iterdir()):
        check(path.name, longest)
    given = dict(call.keywords)
    camera = PushedCamera() if given["camera"] == "page" else NoCamera()
    sound = PushedSound() if given.get("audio") == "page" else None
    browser, screen = Browser(camera if isinstance(camera, PushedCamera) else None, sound), _Through(pipe)
    threading.Thread(target=_listen, args=(pipe, browser, screen), daemon=True).start()
    given |= {"camera": camera, "to": screen} | ({} if sound is None else {"audio": sound})
    given |= {"duration": str(max(1, round(longest)))} if given.get("record") else {}
    with open(os.devnull, "w") as nowhere, redirect_stderr(nowhere):  # its lines are for a terminal
        return list(live.lines(live.live(call.subject, options=call.options, **given)))


def _listen(pipe: Connection, browser: Browser, screen: _Through) -> None:
    """Hand on what the visitor sends, until he leaves or the page has gone."""
    try:
        for data in iter(pipe.recv, None):
            browser.take(data)
    except (EOFError, OSError):
        pass
    screen.left = True
    browser.end()


class _Through(Screen):
    """A screen whose pictures go to the page."""

    def __init__(self, pipe: Connection) -> None:
        super().__init__()
        self._pipe, self._told = pipe, False
        self.left = False

    def show(self, picture: Picture | None) -> None:
        """See `Output`."""
        if self.left:
            raise Closed("it was stopped")
        super().show(picture)

    def tell(self, note: str) -> None:
        """See `Screen`; ends what takes so long if the visitor has left."""
        if self.left:
            raise Closed("it was stopped")
        self._pipe.send(("note", note))

    def put(self, jpeg: bytes, face: bool, at: float | None) -> None:
        """See `Screen`."""
        if not self._told:
            self._told = True
            if self.sound is not None:
                self._pipe.send(("sound", str(self.sound)))
            if self.recording:
                self._pipe.send(("recording",))
        self._pipe.send(("picture", jpeg, face, at))
