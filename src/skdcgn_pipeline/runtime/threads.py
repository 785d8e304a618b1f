"""Work of several threads: side by side, and once for all."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import FIRST_EXCEPTION, ThreadPoolExecutor, wait
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


def num_side_by_side(num_calls: int, device: torch.device) -> int:
    """Return how many of independent calls run at a time: on a CPU as many as torch has threads."""
    return min(num_calls, torch.get_num_threads()) if device.type == "cpu" else 1


def run_side_by_side(calls: Sequence[Callable[[], ResultT]], device: torch.device) -> list[ResultT]:
    """Run independent work: on a CPU as many calls at a time as torch has threads, each computing on one.

    Small networks gain little from a second thread, and nothing has to be shared between two trainings. One
    thread each even where one call is left over, so that no result depends on how many processors there are.
    A GPU works on one call after the other, with the threads that there are.

    Args:
        calls: What to run; they draw no numbers from torch's global generator but in `seeding.seeded`.
        device: Where they compute.

    Returns:
        The results in the order of the calls.

    Raises:
        Exception: What a call raised, once those that had started have ended; the others are left out.
    """
    num_workers = num_side_by_side(len(calls), device)
    with on_one_thread(device):
        if num_workers <= 1:
            return [call() for call in calls]
        with ThreadPoolExecutor(num_workers, "side-by-side", torch.set_num_threads, (1,)) as threads:
            futures = [threads.submit(call) for call in calls]
            wait(futures, return_when=FIRST_EXCEPTION)
            threads.shutdown(cancel_futures=True)
            return [future.result() for future in futures if not future.cancelled()]
