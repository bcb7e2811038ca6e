"""The process that does the work of one job at a time, and can be killed without harm to the page."""

from __future__ import annotations

import errno
import os
import time
import warnings
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

from stylereel.core.files import no_room

FULL = "The disk is full; delete earlier results, or make room, and try again."
LARGE = "The result would be larger than the page allows; take a shorter part or a smaller picture."
EVERY = 0.2  # seconds between two words on the progress


def work(pipe: Connection) -> None:
    """Take tasks from the page until it closes the pipe.

    A task is (folder, calls, file size limit in bytes, longest clip in seconds); the answers to it are
    ("at", stage, done, total, seconds left) again and again, and then ("done", [result of each call]) or
    ("error", sentence).
    """
    if hasattr(os, "setsid"):
        os.setsid()  # Ctrl-C in the page's terminal is the page's; its children die with this group
    os.environ.setdefault("OMP_NUM_THREADS", "1" if (os.cpu_count() or 1) <= 2 else "2")
    from stylereel import systems

    systems.load("stylemask")  # most jobs need it; it loads ten times faster the second time
    pipe.send(("ready",))
    while True:
        try:
            folder, calls, most, longest = pipe.recv()
        except (EOFError, OSError):
            return
        try:
            pipe.send(("done", _run(pipe, Path(folder), calls, most, longest)))
        except (BrokenPipeError, KeyboardInterrupt):
            return
        except (ValueError, OSError, MemoryError) as error:
            pipe.send(("error", sentence(error)))
        except Exception as error:  # a fault of ours: the page lives on
            said = sentence(error)
            known = said in (FULL, LARGE)
            pipe.send(
                ("error", said if known else f"This went wrong inside stylereel ({type(error).__name__}: {said})")
            )


def _run(pipe: Connection, folder: Path, calls: list[Any], most: int, longest: float) -> list[dict[str, Any]]:
    from stylereel.core.progress import Watch
    from stylereel.core.record import Stages
    from stylereel.web.probe import check

    os.chdir(folder)
    limit_files(most)
    for path in sorted(folder.iterdir()):
        if path.name != "job.json":
            check(path.name, longest)
    pace, last = Watch(), 0.0

    def watch(stages: Stages) -> None:
        nonlocal last
        at = pace(stages)
        if time.monotonic() - last >= EVERY:
            last = time.monotonic()
            pipe.send(("at", at.name, at.done, at.total, at.left))

    results = []
    for call in calls:
        with warnings.catch_warnings(record=True) as said:
            warnings.simplefilter("always", UserWarning)
            record = call.run(Stages(watch))
        lines = call.lines(record)
        lines += [str(one.message) for one in said if issubclass(one.category, UserWarning)]
        results.append({"lines": lines, "facts": _facts(record)})
    return results


def _facts(record: Any) -> dict[str, Any]:
    """Of a record, what the page shows by itself."""
    names = ("read", "kbit/s", "bytes", "bytes at this rate", "rate against error")
    return {name: record[name] for name in names if isinstance(record, dict) and name in record}


def limit_files(most: int) -> None:
    """No file may grow beyond so many bytes: writing more fails, where the system knows such a limit."""
    try:
        import resource

        resource.setrlimit(resource.RLIMIT_FSIZE, (most, resource.getrlimit(resource.RLIMIT_FSIZE)[1]))
    except (ImportError, ValueError, OSError):  # Windows has none
        pass


def sentence(error: BaseException) -> str:
    """What went wrong, in one line that says what to do."""
    if (number := no_room(error)) is not None:
        return LARGE if number == errno.EFBIG else FULL
    if isinstance(error, MemoryError):
        return "The memory is not enough; take a shorter part or a smaller picture."
    return " ".join(str(error).split())
