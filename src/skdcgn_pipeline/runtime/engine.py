"""Engines: run independent units of work, several at a time, and give what came of each.

`LocalEngine` works in this process, one unit after the other; `ProcessEngine` in processes of their own;
`ray_engine.RayEngine` in workers of a Ray cluster. `open_work` and units are picklable, results come back in any order,
and what a unit has finished is in the store, so that it may be tried again anywhere.
"""

from __future__ import annotations

import logging
import multiprocessing
import os
import signal
import threading
import time
from abc import ABC, abstractmethod
from collections.abc import Callable, Generator, Sequence
from concurrent.futures import (
    FIRST_COMPLETED,
    FIRST_EXCEPTION,
    CancelledError,
    Future,
    ProcessPoolExecutor,
    ThreadPoolExecutor,
    wait,
)
from concurrent.futures.process import BrokenProcessPool
from dataclasses import dataclass
from typing import Any, ClassVar, Generic, TypeVar

import torch

from skdcgn_pipeline.parameters import EngineSettings
from skdcgn_pipeline.runtime.compute import keep_freed_memory
from skdcgn_pipeline.runtime.errors import InterruptedRunError, SettingError
from skdcgn_pipeline.runtime.progress import clear_stop, request_stop, stop_requested
from skdcgn_pipeline.runtime.threads import on_one_thread

UnitT = TypeVar("UnitT")
ResultT = TypeVar("ResultT")
POLL_SECONDS = 0.2
STOPPED = "Stopped; everything so far is saved. Repeat the same command to go on from here."


@dataclass(frozen=True)
class Outcome(Generic[ResultT]):
    """What came of a unit: a result, or the error that ended it.

    Attributes:
        result: What the work returned; None where it failed.
        seconds: How long it took.
        error: Kind and message of what it raised; empty where it did not fail.
    """

    result: ResultT | None
    seconds: float
    error: str = ""


# Called once where work is done; returns the function that works on one unit.
OpenWork = Callable[[], Callable[[UnitT], ResultT]]
# Number and outcome of each unit.
Outcomes = Generator[tuple[int, Outcome[ResultT]], None, None]


def attempt(work: Callable[[UnitT], ResultT], unit: UnitT) -> Outcome[ResultT]:
    """Work on one unit; only a stop ends the others too."""
    start = time.perf_counter()
    try:
        return Outcome(work(unit), time.perf_counter() - start)
    except InterruptedRunError:
        raise
    except Exception as error:  # noqa: BLE001  (whatever it is, the other units go on)
        return Outcome(None, time.perf_counter() - start, f"{type(error).__name__}: {error}")


class Engine(ABC):
    """Runs independent units.

    Attributes:
        workers: How many units are worked on at a time.
        elsewhere: Whether it takes shards of samples, distillations and classifiers, not cells of studies alone.
    """

    workers: int = 1
    elsewhere: ClassVar[bool] = False

    def close(self) -> None:  # noqa: B027  (most engines keep nothing)
        """Give back what was started for the work."""

    @abstractmethod
    def outcomes(self, open_work: OpenWork[UnitT, ResultT], units: Sequence[UnitT]) -> Outcomes[ResultT]:
        """Work on units and yield number and outcome of each as it ends; a failed one leaves the others alone.

        Closing the generator leaves out the units that have not started and waits for the others.

        Args:
            open_work, units: What to do, and what to work on.

        Raises:
            InterruptedRunError: If a stop was requested; every unit keeps what it has stored.
        """


@dataclass(frozen=True)
class LocalEngine(Engine):
    """Works in this process, one unit after the other."""

    def outcomes(self, open_work: OpenWork[UnitT, ResultT], units: Sequence[UnitT]) -> Outcomes[ResultT]:
        """Work on the units, see `Engine.outcomes`."""
        work = open_work()
        for number, unit in enumerate(units):
            yield number, attempt(work, unit)


@dataclass(frozen=True)
class ProcessEngine(Engine):
    """Works in processes of their own, of one thread of the processor each; they stop when this one does.

    Attributes:
        workers: How many units are worked on at a time.
    """

    workers: int = 2

    def outcomes(self, open_work: OpenWork[UnitT, ResultT], units: Sequence[UnitT]) -> Outcomes[ResultT]:
        """Work on the units, see `Engine.outcomes`; raises `SettingError` if a process was killed."""
        if not units:
            return
        context = multiprocessing.get_context("spawn")
        stopping = context.Event()
        executor = ProcessPoolExecutor(
            min(self.workers, len(units)), context, _start_process, (open_work, stopping, os.getpid())
        )
        try:
            futures = {executor.submit(_work_in_process, unit): number for number, unit in enumerate(units)}
            yield from _completed(futures, stopping.set)
        except BrokenProcessPool as error:
            remedy = "Use fewer workers and repeat the same command; what is done is kept."
            got = "one that was killed, perhaps for want of memory"
            raise SettingError("engine.workers", "processes that live as long as their work", got, remedy) from error
        finally:
            stopping.set()
            executor.shutdown(wait=True, cancel_futures=True)


def _completed(futures: dict[Future[Outcome[ResultT]], int], stop: Callable[[], None]) -> Outcomes[ResultT]:
    """Yield outcomes as they come; when a stop is requested, pass it on and end once all that started have ended."""
    waiting, stopped = dict(futures), False
    interruption: InterruptedRunError | None = None
    while waiting:
        if stop_requested() and not stopped:
            stopped = True
            stop()
            for future in waiting:
                future.cancel()
        done, _ = wait(waiting, POLL_SECONDS, FIRST_COMPLETED)
        for future in done:
            number = waiting.pop(future)
            try:
                outcome = future.result()
            except CancelledError:
                continue
            except InterruptedRunError as error:
                interruption = error  # which says what was done
            else:
                yield number, outcome
    if stopped or interruption is not None:
        raise interruption or InterruptedRunError(STOPPED)


def prepare_worker(num_threads: int) -> None:
    """Let this process work on units: on so many threads of torch, silent but for warnings, not asked to stop."""
    torch.set_num_threads(num_threads)
    keep_freed_memory()
    logging.getLogger("skdcgn_pipeline").setLevel(logging.WARNING)
    clear_stop()


_work: Callable[[Any], Any] | None = None  # of a worker process


def _start_process(open_work: Callable[[], Callable[[Any], Any]], stopping: Any, parent: int) -> None:
    """Prepare a worker process: one thread, no signals for itself, an end when its parent ends."""
    global _work
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, signal.SIG_IGN)
    prepare_worker(1)

    def watch() -> None:
        while True:
            if stopping.wait(POLL_SECONDS):
                request_stop()
                return
            if os.getppid() != parent:
                os._exit(1)  # killed: files are written aside, so nothing is torn

    threading.Thread(target=watch, daemon=True).start()
    _work = open_work()


def _work_in_process(unit: Any) -> Outcome[Any]:
    assert _work is not None
    return attempt(_work, unit)


def choose_engine(settings: EngineSettings) -> Engine:
    """Return the engine that the settings name; one process alone is this one.

    Units may draw from torch's global generator, so threads do not serve. Raises as `import_ray`.
    """
    if settings.name == "ray":
        from skdcgn_pipeline.runtime.ray_engine import RayEngine, import_ray

        import_ray()
        return RayEngine(settings.workers, settings.address, settings.cpus_per_unit, settings.gpus_per_unit)
    several = settings.name == "processes" and settings.workers > 1
    return ProcessEngine(settings.workers) if several else LocalEngine()


# --- calls side by side ------------------------------------------------------------------------------


def num_side_by_side(num_calls: int, device: torch.device) -> int:
    """Return how many of independent calls run at a time: on a CPU as many as torch has threads."""
    return min(num_calls, torch.get_num_threads()) if device.type == "cpu" else 1


def run_side_by_side(calls: Sequence[Callable[[], ResultT]], device: torch.device) -> list[ResultT]:
    """Run independent calls: on a CPU as many at a time as torch has threads, each on one.

    Small networks gain little from a second thread, and nothing has to be shared between two trainings. One
    thread each even where one call is left over, so that no result depends on how many processors there are.
    A GPU works on one call after the other, with the threads that there are. Calls draw no numbers from torch's
    global generator but in `seeding.seeded`.

    Args:
        calls: What to run.
        device: Where they compute.

    Returns:
        The results in the order of the calls.

    Raises:
        Exception: What a call raised, once those that had started have ended; the others are left out.
    """
    at_a_time = num_side_by_side(len(calls), device)
    with on_one_thread(device):
        if at_a_time <= 1:
            return [call() for call in calls]
        with ThreadPoolExecutor(at_a_time, "side by side", torch.set_num_threads, (1,)) as executor:
            futures = [executor.submit(call) for call in calls]
            wait(futures, return_when=FIRST_EXCEPTION)
            for future in futures:
                future.cancel()  # nothing, unless one has failed: calls start in order, so that it comes first below
            return [future.result() for future in futures]
