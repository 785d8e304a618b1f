"""A page tells of the run that it is of what is known, and what can be done next."""

from __future__ import annotations

import re
import time
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from configuration import read_folder
from skdcgn_pipeline.parameters import Parameters, check_parameters
from skdcgn_pipeline.pipelines.report.nodes import tell_faults
from skdcgn_pipeline.reporting.facts import next_steps, tell_facts

RUN = {
    "env": "mnist",
    "params": {"seed": 3},
    "commit": "66e3bee",
    "mlflow_run": "646801",
    "seconds": {"distill": 61.04, "mine": 2.0, "prepare": 20.0},
}


@pytest.fixture(scope="module")
def settings(project: Path) -> Parameters:
    return check_parameters(read_folder(project / "conf" / "base") | {"seed": 3})


def test_what_was_run_is_told_with_when_and_on_what(settings: Parameters) -> None:
    facts = tell_facts({"name": "digits_cgn", "sha256": "2c73"}, RUN | {"started": time.time() - 90}, settings)
    assert facts["command"] == "kedro run --env mnist --params seed=3"
    assert facts["teacher"] == "digits_cgn, SHA-256 2c73"
    assert (facts["seed"], facts["git commit"], facts["MLflow run"]) == ("3", "66e3bee", "646801")
    assert facts["stages of this run"].startswith("prepare 20.0 s, distill 61.0 s, mine 2.0 s")
    assert re.fullmatch(r"\d{4}-\d\d-\d\d \d\d:\d\d:\d\d UTC", facts["started"])
    assert facts["duration"] == "1.5 min until this page"
    assert re.fullmatch(r"[\d.,]+ (s|min)", facts["CPU time"])
    assert re.fullmatch(r"[\d.]+ GiB", facts["peak memory"])
    assert re.search(r"\d+ cores?, \d+ threads", facts["machine"])


def test_what_is_not_known_is_left_out(settings: Parameters) -> None:
    facts = tell_facts({"name": "custom"}, {}, settings, "ablation")
    assert facts["teacher"] == "custom"
    assert facts["command"] == "kedro run --pipelines ablation"
    unknown = {"git commit", "MLflow run", "started", "duration", "stages of this run"}
    assert unknown.isdisjoint(facts)


def test_the_next_commands_are_those_of_the_same_run() -> None:
    assert next_steps(RUN) == {
        "Look closer": "kedro explore --env mnist --params seed=3",
        "Take it away": "kedro run --env mnist --pipelines export --params seed=3",
    }


def trained(kind: str = "teacher", **card: Any) -> Any:
    return SimpleNamespace(inputs={"kind": kind}, read_json=lambda name: {"teacher.json": card}[name])


def test_what_is_wrong_with_a_trained_teacher_is_told() -> None:
    (told,) = tell_faults(trained(faults=["masks cover 99% of the image"]))
    assert "collapsed: masks cover 99% of the image" in told


@pytest.mark.parametrize("teacher", [None, trained(faults=[]), trained(), trained("cutouts")])
def test_nothing_is_wrong_with_a_sound_teacher_or_none(teacher: Any) -> None:
    assert tell_faults(teacher) == []
