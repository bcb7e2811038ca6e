"""Batches that processes make together and ahead of time."""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Generic, TypeVar

Share = tuple[int, int]  # (rank, ranks): of a batch this process makes every ranks-th sample from rank on
WHOLE: Share = (0, 1)
Item = TypeVar("Item")


class Prefetch(Generic[Item]):
    """Makes the batch of the next step in a thread while the present one is used (drawing releases the GIL)."""

    def __init__(self, make: Callable[[int], Item], move: Callable[[Item], Item]) -> None:
        self._make, self._move, self._pool = make, move, ThreadPoolExecutor(1)
        self._next: tuple[int, Future[Item]] | None = None

    def __call__(self, index: int) -> Item:
        """The batch of a step, after `move` has brought it to the device."""
        if self._next is None or self._next[0] != index:
            self._next = (index, self._pool.submit(self._make, index))
        batch = self._next[1].result()
        self._next = (index + 1, self._pool.submit(self._make, index + 1))
        return self._move(batch)
