"""What stages of a pipeline hand each other where nothing may queue: the newest wins, and late ones are counted."""

from __future__ import annotations

import threading
from collections import deque
from typing import Generic, TypeVar

Thing = TypeVar("Thing")


class Newest(Generic[Thing]):
    """A place for the newest thing (or the newest `most`): what comes when it is full replaces the oldest.

    Attributes:
        dropped: how many were replaced before anybody took them.
    """

    def __init__(self, most: int = 1) -> None:
        self.dropped = 0
        self._things: deque[Thing] = deque()
        self._most, self._ended, self._changed = most, False, threading.Condition()

    def put(self, thing: Thing) -> None:
        """Never waits. After the end nothing is taken any more."""
        with self._changed:
            if self._ended:
                self.dropped += 1
                return
            if len(self._things) == self._most:
                self._things.popleft()
                self.dropped += 1
            self._things.append(thing)
            self._changed.notify()

    def end(self) -> None:
        """Nothing comes after what is there."""
        with self._changed:
            self._ended = True
            self._changed.notify_all()

    @property
    def ended(self) -> bool:
        """Whether nothing is there, and nothing will be."""
        return self._ended and not self._things

    def take(self, seconds: float | None = None) -> Thing | None:
        """The oldest thing that is there, waiting up to so many seconds; None after these, and at the end."""
        with self._changed:
            self._changed.wait_for(lambda: self._things or self._ended, seconds)
            return self._things.popleft() if self._things else None

    def __len__(self) -> int:
        return len(self._things)
