"""Stand-ins for the page's processes, for test_web.py: they start at once and do what a job's name says."""

from __future__ import annotations

import io
import os
import signal
import time
from dataclasses import dataclass
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any


@dataclass
class Play:
    """A call that does: write, wait, fail, die, or fill the disk."""

    do: str

    def line(self) -> str:
        return f"stylereel {self.do}"

    def python(self) -> str:
        return f"{self.do}()"


def work(pipe: Connection) -> None:
    os.setsid()
    pipe.send(("ready",))
    while True:
        try:
            folder, calls, most, longest = pipe.recv()
        except EOFError:
            return
        do = getattr(calls[0], "do", "write")
        pipe.send(("at", "render", 1, 4, 3.0))
        if do == "wait":
            (Path(folder) / "result.part").write_bytes(b"half")
            (Path(folder) / "pid").write_text(str(os.getpid()))
            time.sleep(600)
        elif do == "die":
            os.kill(os.getpid(), signal.SIGKILL)
        elif do == "fail":
            pipe.send(("error", "That did not work; do something else."))
        else:
            (Path(folder) / "result.mp4").write_bytes(b"a clip")
            (Path(folder) / "result.safetensors").write_bytes(b"a person")
            pipe.send(("done", [{"lines": [f"{most > 0} {longest:g}"], "facts": {}}]))


def draw(pipe: Connection) -> None:
    from PIL import Image

    picture = io.BytesIO()
    Image.new("RGB", (8, 8)).save(picture, "JPEG")
    pipe.send(("ready",))
    while True:
        try:
            wish: Any = pipe.recv()
        except EOFError:
            return
        if wish.seed == 13:
            os.kill(os.getpid(), signal.SIGKILL)
        if wish.seed == 5:
            time.sleep(0.3)
        if wish.keep is not None:
            wish.keep.write_bytes(b"a person")
        pipe.send(("picture", picture.getvalue(), {"smile": float(wish.seed or 0)}))


def sit(pipe: Connection) -> None:
    """Instead of a live session: a picture at once and for each frame that comes; a recording at the end."""
    os.setsid()
    pipe.send(("ready",))
    folder, call, _, _ = pipe.recv()
    if call.keywords["source"] == "13":
        os.kill(os.getpid(), signal.SIGKILL)
    if call.keywords["source"] == "14":
        pipe.send(("error", "There is no face in it; give another."))
        return
    pipe.send(("picture", b"first", True, None))
    for data in iter(pipe.recv, None):
        pipe.send(("picture", data, False, None))
    if "record" in call.keywords:
        (Path(folder) / call.keywords["record"]).write_bytes(b"a clip")
    pipe.send(("done", ["it was stopped"]))
