"""Making the next item while the present one is used."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sized
from concurrent.futures import ThreadPoolExecutor
from typing import Any, Generic, TypeVar

Made = TypeVar("Made")


class Ahead(Generic[Made]):
    """Items, of which one more is made in a thread while the present one is used; nothing is reordered."""

    def __init__(self, items: Iterable[Made]) -> None:
        self._items = items

    def __len__(self) -> int:
        assert isinstance(self._items, Sized)
        return len(self._items)

    def __iter__(self) -> Iterator[Made]:
        iterator, end = iter(self._items), object()
        with ThreadPoolExecutor(1) as pool:
            following: Any = pool.submit(next, iterator, end)
            while (item := following.result()) is not end:
                following = pool.submit(next, iterator, end)
                yield item
