"""Progress and the wish to stop."""

from __future__ import annotations

import io
import logging

import pytest

from skdcgn_pipeline.runtime import progress
from skdcgn_pipeline.runtime.errors import InterruptedRunError
from skdcgn_pipeline.runtime.progress import Progress


class Terminal(io.StringIO):
    """A stream that says it is a terminal."""

    def isatty(self) -> bool:
        return True


@pytest.fixture
def clock(monkeypatch) -> list[float]:
    now = [0.0]
    monkeypatch.setattr(progress.sys, "stderr", io.StringIO())
    monkeypatch.setattr(progress.time, "perf_counter", lambda: now[0])
    return now


def test_a_stop_is_requested_until_it_is_cleared():
    assert not progress.stop_requested()
    progress.request_stop()
    assert progress.stop_requested()
    progress.clear_stop()
    assert not progress.stop_requested()


def test_a_line_tells_share_rate_and_time_left(clock):
    shown = Progress("samples", 1000, "rows", done=100)
    clock[0] = 2.0
    shown.advance(300)
    assert shown.line(2.0) == "samples: 400/1,000 rows (40%), 150 rows/s, 4 s left"


def test_a_terminal_sees_one_line_rewritten(clock, monkeypatch):
    terminal = Terminal()
    monkeypatch.setattr(progress.sys, "stderr", terminal)
    shown = Progress("samples", 10, "rows")
    for second in (1.0, 2.0):
        clock[0] = second
        shown.advance()
    assert terminal.getvalue().count("\r") == 2
    assert "\n" not in terminal.getvalue()


def test_elsewhere_a_line_is_logged_now_and_then(clock, caplog):
    shown = Progress("samples", 100, "rows")
    with caplog.at_level(logging.INFO):
        for second in range(1, 76):
            clock[0] = float(second)
            shown.advance()
    assert len(caplog.records) == 2
    assert "samples: 30/100 rows" in caplog.text


def test_the_rate_is_that_of_the_last_while(clock):
    shown = Progress("samples", 1000, "rows")
    for second in range(1, 101):
        clock[0] = float(second)
        shown.advance(10 if second <= 50 else 1)
    assert shown.line(100.0) == "samples: 550/1,000 rows (55%), 1 rows/s, 450 s left"


def test_units_that_take_longer_than_the_window_have_a_rate(clock):
    shown = Progress("classifiers", 10, "classifiers")
    for second in (50.0, 100.0, 150.0):
        clock[0] = second
        shown.advance()
    assert shown.line(150.0) == "classifiers: 3/10 classifiers (30%), 0.02 classifiers/s, 350 s left"


def test_the_end_tells_how_much_was_done_by_this_run(clock, caplog):
    shown = Progress("samples", 100, "rows", done=40)
    clock[0] = 3.0
    shown.advance(60)
    with caplog.at_level(logging.INFO):
        shown.finish()
    assert "samples: 60 rows in 3 s, 20 rows/s" in caplog.text


def test_nothing_is_told_of_work_that_was_done_before(caplog):
    with caplog.at_level(logging.INFO):
        Progress("samples", 100, "rows", done=100).finish()
    assert caplog.text == ""


def test_an_interruption_says_what_is_saved_and_how_to_go_on():
    with pytest.raises(InterruptedRunError, match=r"samples: stopped at 1,200 of 2,000 rows.*Repeat the same command"):
        Progress("samples", 2000, "rows", done=1200).interrupt()
