"""Making the next item while the present one is used."""

from __future__ import annotations

import time
from collections.abc import Iterable, Iterator, Sized
from concurrent.futures import ThreadPoolExecutor
from typing import Any, Generic, TypeVar

Made = TypeVar("Made")


class Ahead(Generic[Made]):
    """Items, of which one more is made in a thread while the present one is used; nothing is reordered.

    `busy` counts the seconds that making them took, whoever waited.
    """

    def __init__(self, items: Iterable[Made]) -> None:
        self._items, self.busy = items, 0.0

    def __len__(self) -> int:
        assert isinstance(self._items, Sized)
        return len(self._items)

    def __iter__(self) -> Iterator[Made]:
        iterator, end = iter(self._items), object()

        def make() -> Any:
            start = time.perf_counter()
            try:
                return next(iterator, end)
            finally:
                self.busy += time.perf_counter() - start

        with ThreadPoolExecutor(1) as pool:
            following = pool.submit(make)
            while (item := following.result()) is not end:
                following = pool.submit(make)
                yield item
