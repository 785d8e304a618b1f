"""Threads: how many torch computes on, and work that is done once for all of them."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from threading import Lock
from typing import Any, Generic, TypeVar

import torch

ResultT = TypeVar("ResultT")


class once(Generic[ResultT]):  # noqa: N801  (called as a function is)
    """A function that calls `make` the first time and remembers what it gave, whatever thread asks.

    Pickled, it is `make` alone: another process makes its own.
    """

    def __init__(self, make: Callable[[], ResultT]) -> None:
        self._make, self._lock, self._made = make, Lock(), list[ResultT]()

    def __call__(self) -> ResultT:
        """Return what was made, now or before."""
        with self._lock:
            if not self._made:
                self._made.append(self._make())
        return self._made[0]

    def __reduce__(self) -> tuple[Any, ...]:
        return once, (self._make,)


@contextmanager
def computing_on(num_threads: int) -> Iterator[None]:
    """Run torch on so many threads inside the block."""
    before = torch.get_num_threads()
    torch.set_num_threads(num_threads)
    try:
        yield
    finally:
        torch.set_num_threads(before)


def on_one_thread(device: torch.device) -> AbstractContextManager:
    """Return the context in which a CPU computes on one thread: results depend on the number of threads.

    A GPU keeps the threads that there are.
    """
    return computing_on(1) if device.type == "cpu" else nullcontext()
