"""The table at the end of a run: complete on a terminal, silent elsewhere."""

from __future__ import annotations

import io
import sys

import pandas as pd
import pytest
from rich.console import Console

from skdcgn_pipeline.io.terminal import headlines, show_summary, summarise_run

COMPARISON = pd.DataFrame(
    {"mechanism": ["shape", "all"], "student_parameters": [20_000, 59_116], "mask_iou": [0.9123, None]}
)
ACCURACY = pd.DataFrame(
    {
        "trained_on": ["students", "students"],
        "split": ["test", "validation"],
        "subset": ["all", "all"],
        "mean_accuracy": [0.795, 0.7],
        "interval_high": [0.856, 0.8],
        "num_seeds": [3, 3],
    }
)


def shown(seconds, results) -> str:
    console = Console(file=io.StringIO(), width=100)
    console.print(summarise_run(seconds, results))
    return console.file.getvalue()  # type: ignore[attr-defined]


def test_the_table_tells_the_time_of_every_stage_and_in_all():
    text = shown({"sample": 12.34, "distill": 90.0}, {})
    assert [line.split()[1:] for line in text.splitlines() if "s │" in line or "min" in line] == [
        ["sample", "│", "12.3", "s", "│"],
        ["distill", "│", "1.5", "min", "│"],
        ["in", "all", "│", "1.7", "min", "│"],
    ]


def test_headlines_are_likeness_and_test_accuracy():
    assert headlines({"student_comparison": COMPARISON, "accuracy_summary": ACCURACY, "report": "<html>"}) == [
        ("parameters of the students", "59,116"),
        ("mask IoU with the teacher", "0.912"),
        ("test accuracy, trained on students, all", "79.5 ± 6.1 %"),
    ]


def test_one_seed_has_no_spread():
    (row,) = headlines({"accuracy_summary": ACCURACY.assign(num_seeds=1)})
    assert row[1] == "79.5 %"


@pytest.mark.parametrize("terminal", [True, False])
def test_nothing_is_printed_where_nobody_looks(monkeypatch, capsys, terminal):
    monkeypatch.setattr(sys.stdout, "isatty", lambda: terminal)
    show_summary({"sample": 1.0}, {})
    assert ("What was run" in capsys.readouterr().out) == terminal
