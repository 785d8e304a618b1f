"""What terminals and logs show: a record a line, and at the end of a run what was run and what came out."""

from __future__ import annotations

import io
import logging

import click
import pytest
from kedro.logging import RichHandler
from rich.console import Console

from skdcgn_pipeline.io.terminal import (
    INTERRUPTED,
    errors_in_one_line,
    prepare_logs,
    tell_run,
)
from skdcgn_pipeline.runtime.errors import InterruptedRunError, SettingError
from skdcgn_pipeline.runtime.progress import clear_stop, request_stop


def test_the_time_of_every_stage_and_in_all_is_told_then_where_things_are():
    told = tell_run({"sample": 12.34, "distill": 90.0}, {}, {"Report": "/data/report.html", "MLflow": ""})
    assert told.splitlines() == [
        "What was run",
        "  sample   12.3 s",
        "  distill  1.5 min",
        "  in all   1.7 min",
        "Report: /data/report.html",
    ]


@pytest.fixture
def handlers(monkeypatch: pytest.MonkeyPatch) -> list[logging.Handler]:
    """The handlers of all logs, one of Kedro's alone."""
    monkeypatch.setattr(logging.root, "handlers", [RichHandler(show_path=False)])
    return logging.root.handlers


def test_records_are_lines_of_any_length_in_a_log(handlers, capsys):
    prepare_logs()
    logging.getLogger("kedro.runner").warning("There are 3 nodes.\nYou can resume the pipeline run from the nearest")
    logging.getLogger("kedro.runner").warning("%s is long", "x" * 300)
    (line,) = capsys.readouterr().out.splitlines()
    assert line.endswith(f"WARNING {'x' * 300} is long")


def test_what_a_stopped_run_says_at_its_end_is_not_told_of_a_node_too(handlers, capsys):
    prepare_logs()
    request_stop()
    try:
        logging.getLogger("kedro.pipeline.node").error("Node %s failed with error: \n%s", "distil", "stopped")
    finally:
        clear_stop()
    logging.getLogger("kedro.pipeline.node").error("Node %s failed with error: \n%s", "compose", "a fault")
    output = capsys.readouterr().out
    assert "Node compose failed with error: \na fault\n" in output
    assert "distil" not in output


def test_terminals_keep_what_kedro_shows_them(handlers):
    handlers[0].console = Console(file=io.StringIO(), force_terminal=True)  # type: ignore[attr-defined]
    prepare_logs()
    assert isinstance(handlers[0], RichHandler)


@pytest.mark.parametrize(
    ("error", "status"), [(InterruptedRunError("stopped"), INTERRUPTED), (SettingError("a", "b", "c", "d"), 1)]
)
def test_what_was_asked_to_stop_has_a_status_of_its_own(error, status):
    with click.Context(click.Command("run")), pytest.raises(click.ClickException) as told, errors_in_one_line():
        raise RuntimeError("a node failed") from error
    assert told.value.exit_code == status
