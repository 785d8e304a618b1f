"""Progress of long work, and the wish to stop: what every loop asks once per step."""

from __future__ import annotations

import logging
import sys
import threading
import time
from collections import deque
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from skdcgn_pipeline.runtime.errors import InterruptedRunError

logger = logging.getLogger(__name__)

_stop = threading.Event()
REPORT_SECONDS = 30.0  # in a log; a terminal shows one line, which is written over
WINDOW_SECONDS = 30.0  # over which a rate is taken
SECONDS_PER_MINUTE = 60


def request_stop() -> None:
    """Ask every running loop to save its state and stop after its current step."""
    _stop.set()


def clear_stop() -> None:
    """Forget an earlier request to stop."""
    _stop.clear()


def stop_requested() -> bool:
    """Tell whether a loop should stop."""
    return _stop.is_set()


@contextmanager
def without_progress() -> Iterator[None]:
    """Leave out the progress that loops log inside the block."""
    loud = logger.level
    logger.setLevel(logging.WARNING)
    try:
        yield
    finally:
        logger.setLevel(loud)


def tell_duration(seconds: float) -> str:
    """Write a duration as people read it, such as `12.3 s` or `1.5 min`."""
    return f"{seconds / SECONDS_PER_MINUTE:,.1f} min" if seconds >= SECONDS_PER_MINUTE else f"{seconds:.1f} s"


def rounded(rate: float) -> str:
    """Write a rate or a number as people read it, such as `1,234` or `0.56`."""
    return f"{rate:,.0f}" if rate >= 10 else f"{rate:.2g}"


class Progress:
    """Rate and time left of one loop: a line rewritten on stderr if it is a terminal, else a log line now and then.

    Args:
        title: What is going on.
        total: Units in all.
        unit: What is counted.
        done: Units already done by an earlier run.
        remark: Gives what else is told, such as ", 3 % waiting"; nothing by default.
    """

    def __init__(self, title: str, total: int, unit: str, done: int = 0, remark: Callable[[], str] = str) -> None:
        self.title, self.total, self.unit, self.done, self.remark = title, total, unit, done, remark
        self._first, self._stream = done, sys.stderr
        self._start = self._shown = time.perf_counter()
        self._marks = deque([(self._start, done)])  # when how much was done, of the last while

    def advance(self, units: int = 1) -> None:
        """Count units as done and show the progress every few seconds."""
        self.done += units
        now = time.perf_counter()
        if now - self._marks[-1][0] >= 1:
            self._marks.append((now, self.done))
            while now - self._marks[1][0] > WINDOW_SECONDS:  # one mark before it: units may take longer
                self._marks.popleft()
        interactive = self._stream.isatty()
        if now - self._shown >= (0.5 if interactive else REPORT_SECONDS) and self.done < self.total:
            self._shown = now
            if interactive:
                self._stream.write(f"\r\x1b[2K{self.line(now)}")
                self._stream.flush()
            else:
                logger.info("%s", self.line(now))

    def advance_or_stop(self, units: int = 1) -> None:
        """Count units as done; unless they were the last, raises like `interrupt` where a stop was requested."""
        self.advance(units)
        if stop_requested() and self.done < self.total:
            self.interrupt()

    def line(self, now: float) -> str:
        """Return the text shown: share done, rate of the last while, and time left."""
        since, done = self._marks[0]
        rate = (self.done - done) / max(now - since, 1e-9)
        left = (self.total - self.done) / max(rate, 1e-9)
        return (
            f"{self.title}: {self.done:,}/{self.total:,} {self.unit} "
            f"({self.done / self.total:.0%}), {rounded(rate)} {self.unit}/s, {left:,.0f} s left{self.remark()}"
        )

    def finish(self) -> None:
        """Say how long it took, when this run did any of it."""
        if (units := self.done - self._first) > 0:
            if self._stream.isatty():
                self._stream.write("\r\x1b[2K")
            seconds = time.perf_counter() - self._start
            rate = f"{rounded(units / max(seconds, 1e-9))} {self.unit}/s"
            logger.info(f"{self.title}: {units:,} {self.unit} in {seconds:.0f} s, {rate}{self.remark()}")

    def interrupt(self) -> None:
        """Raise `InterruptedRunError`, which ends a loop and says what is saved and how to go on."""
        raise InterruptedRunError(
            f"{self.title}: stopped at {self.done:,} of {self.total:,} {self.unit}, everything so far is saved. "
            "Repeat the same command to go on from here."
        )
