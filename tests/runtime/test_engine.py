"""Engines give what came of every unit, whatever becomes of the others."""

from __future__ import annotations

import multiprocessing
import os
from concurrent.futures import Future
from concurrent.futures.process import BrokenProcessPool
from contextlib import closing
from typing import Any

import pytest

from skdcgn_pipeline.runtime import engine, progress
from skdcgn_pipeline.runtime.engine import Engine, LocalEngine, ProcessEngine
from skdcgn_pipeline.runtime.errors import InterruptedRunError, SettingError
from tiny import open_halving


def stop_at_once(number: int) -> int:
    progress.request_stop()
    progress.Progress("work", 2, "steps").interrupt()
    return number


@pytest.mark.parametrize("own", [LocalEngine(), pytest.param(ProcessEngine(2), marks=pytest.mark.slow)], ids=repr)
def test_a_unit_that_fails_leaves_the_others_alone(own: Engine):
    outcomes = dict(own.outcomes(open_halving, range(5)))
    assert sorted(outcomes) == list(range(5))
    results = [outcomes[number].result for number in (0, 2, 4)]
    assert [result[0] for result in results] == [0, 1, 2]
    assert [outcomes[number].error for number in range(4)] == ["", "ValueError: 1 is odd", "", "ValueError: 3 is odd"]
    assert all(outcome.seconds >= 0 for outcome in outcomes.values())
    if isinstance(own, ProcessEngine):
        assert {result[1] for result in results} == {1}
    assert (os.getpid() in {result[2] for result in results}) == isinstance(own, LocalEngine)
    assert multiprocessing.active_children() == []


@pytest.mark.parametrize("own", [LocalEngine(), ProcessEngine()])
def test_nothing_to_do_gives_nothing(own):
    assert list(own.outcomes(open_halving, [])) == []


def test_a_stop_ends_the_work():
    with pytest.raises(InterruptedRunError, match="work: stopped at 0 of 2 steps, everything so far is saved"):
        list(LocalEngine().outcomes(lambda: stop_at_once, range(2)))


def test_units_that_have_not_started_are_left_out_when_nobody_listens_any_more():
    started = []

    def work(number: int) -> None:
        started.append(number)

    with closing(LocalEngine().outcomes(lambda: work, range(50))) as outcomes:
        next(outcomes)
    assert started == [0]


def test_a_worker_that_is_killed_is_told_as_such(monkeypatch):
    class Broken:
        def __init__(self, *args: Any) -> None:
            """Start nothing."""

        def submit(self, *args: Any) -> Future[Any]:
            future: Future[Any] = Future()
            future.set_exception(BrokenProcessPool("killed"))
            return future

        def shutdown(self, **options: Any) -> None:
            """Nothing is left."""

    monkeypatch.setattr(engine, "ProcessPoolExecutor", Broken)
    with pytest.raises(SettingError, match=r"engine\.workers: expected .* Use fewer workers"):
        list(ProcessEngine(2).outcomes(open_halving, [1]))
