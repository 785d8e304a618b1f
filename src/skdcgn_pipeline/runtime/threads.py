"""Threads: how many torch computes on, and work that is done once for all of them."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from threading import Lock
from typing import TypeVar

import torch

ResultT = TypeVar("ResultT")


def once(make: Callable[[], ResultT]) -> Callable[[], ResultT]:
    """Return a function that calls `make` the first time and remembers what it gave, whatever thread asks."""
    lock = Lock()
    made: list[ResultT] = []

    def give() -> ResultT:
        with lock:
            if not made:
                made.append(make())
        return made[0]

    return give


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
