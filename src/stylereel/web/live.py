"""Live on the page: a ticket for each form that was sent, and the application that shows what it stands for."""

from __future__ import annotations

import secrets
import threading
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from stylereel import systems
from stylereel.core.render import tuned
from stylereel.core.system import Streams
from stylereel.live.page import Link, live_app, visit
from stylereel.systems.sources import read_source
from stylereel.web.forms import Call

MOST = 50  # tickets that are kept
VERBS = ("identify", "follow", "apply")


class Live:
    """Sessions of visitors in front of their own cameras, one at a time: two would share the processor."""

    def __init__(self) -> None:
        self._tickets: dict[str, tuple[Call, Path | None]] = {}
        self._taken = threading.Lock()
        self.app = live_app(self._link, lambda headers: True)  # the guard has looked at them

    def ticket(self, call: Call, person: Path | None) -> str:
        """What the browser asks with for this call's session. person: the file of an identity, if it is no seed."""
        name = secrets.token_hex(12)
        self._tickets[name] = call, person
        while len(self._tickets) > MOST:
            del self._tickets[next(iter(self._tickets))]
        return name

    def _link(self, query: Mapping[str, str]) -> Link:
        asked = self._tickets.get(query.get("ticket", ""))
        if asked is None:
            raise ValueError("This session is over; start it again.")
        if not self._taken.acquire(blocking=False):
            raise ValueError("Somebody is live already; try again when they have stopped.")
        try:
            link = self._open(*asked)
        except BaseException:
            self._taken.release()
            raise
        return link

    def _open(self, call: Call, person: Path | None) -> Link:
        assert call.subject is not None
        system: Any = systems.load(call.subject)
        assert isinstance(system, Streams)  # the form has only such
        chosen = systems.choose(system, VERBS, call.options).verbs
        source = read_source(str(person or call.keywords["source"]))
        identity = system.identify(source, **chosen["identify"])
        link = visit(
            tuned(system, identity),
            identity,
            follow=chosen["follow"],
            apply=chosen["apply"],
            mirror=bool(call.keywords.get("mirror", False)),
            precision=call.keywords.get("precision", "auto"),
        )

        def close() -> None:
            try:
                link.close()
            finally:
                self._taken.release()

        return link._replace(close=close)
