"""The explore stage and its command: nothing computed that is there, and the page opens what was written."""

from __future__ import annotations

import json
import os
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner

from pipelines.running import PROJECT, Place, artifacts_in, know_project, untouched_mlflow
from skdcgn_pipeline.cli import cli
from skdcgn_pipeline.explorer import page
from skdcgn_pipeline.explorer.bundle import Explorer, open_explorer
from skdcgn_pipeline.explorer.scene import Choice
from skdcgn_pipeline.runtime.errors import SettingError
from skdcgn_pipeline.teachers.teacher import load_teacher

pytestmark = pytest.mark.slow

STORES = ("biased_images", "sample", "student", "classifier", "measure")


def written_folder(place: Place) -> Path:
    path = place.saved("06_models/double_colored/explorer.json")
    return path.parent / json.loads(path.read_text())["directory"]


def test_a_finished_run_is_opened_by_the_command(
    copy_of_finished: Callable[[str], Place], monkeypatch: pytest.MonkeyPatch
) -> None:
    place = copy_of_finished("explore")
    before = {kind: artifacts_in(place.store(kind)) for kind in STORES}
    opened: dict[str, Any] = {}

    def launch(explorer: Explorer, port: int, browser: bool) -> None:
        opened.update(explorer=explorer, port=port, browser=browser)

    monkeypatch.setattr(page, "launch", launch)
    monkeypatch.setattr(page, "import_gradio", lambda: None)
    monkeypatch.setenv("SKDCGN_DATA", str(place.data))
    monkeypatch.setenv("MLFLOW_TRACKING_URI", place.tracking_uri)
    know_project()
    monkeypatch.chdir(PROJECT)
    with untouched_mlflow():
        told = CliRunner().invoke(cli, ["explore", "--env", "test", "--no-browser", "--port", "7999"])

    assert told.exit_code == 0, told.output
    assert {kind: artifacts_in(place.store(kind)) for kind in STORES} == before
    assert (opened["port"], opened["browser"]) == (7999, False)
    assert str(written_folder(place).resolve()) in told.output
    explorer = opened["explorer"]
    assert (explorer.card["name"], explorer.card["variant"]) == ("digits", "double_colored")
    assert {row["split"] for row in explorer.card["classifiers"]["originals"]["accuracy"]} == {"validation", "test"}
    views = explorer.scene.draw(Choice(0, 3, 0, 1))
    assert set(views["students"].opinions) == {"originals", "students"}
    assert explorer.scene.generators["students"].noise_dim == load_teacher("digits_cgn").noise_dim
    assert open_explorer(written_folder(place)).card == explorer.card

    runs = len(place.runs())
    again = CliRunner().invoke(cli, ["explore", str(written_folder(place)), "--no-browser"])
    assert again.exit_code == 0, again.output
    assert opened["explorer"].card == explorer.card
    assert len(place.runs()) == runs, "a folder is opened without the chain"
    refused = CliRunner().invoke(cli, ["explore", str(written_folder(place)), "--env", "test"])
    assert (refused.exit_code, "leave out --env" in refused.output) == (2, True)


def test_the_command_tells_what_is_missing_before_any_work(place: Place, monkeypatch: pytest.MonkeyPatch) -> None:
    def absent() -> None:
        raise SettingError("explorer", "the library gradio", "an installation without", "Install it.")

    monkeypatch.setattr(page, "import_gradio", absent)
    monkeypatch.setenv("SKDCGN_DATA", str(place.data))
    told = CliRunner().invoke(cli, ["explore", "--env", "test"])

    assert told.exit_code == 1
    assert (
        told.output.strip() == "Error: explorer: expected the library gradio, got an installation without. Install it."
    )
    assert not place.data.exists()


def test_mlflows_page_is_opened_on_this_machine_alone_without_processes_for_jobs(
    place: Place, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: list[list[str]] = []
    monkeypatch.setattr(subprocess, "call", lambda command: asked.append(command) or 0)
    monkeypatch.setenv("MLFLOW_TRACKING_URI", place.tracking_uri)
    know_project()
    monkeypatch.chdir(PROJECT)
    with untouched_mlflow():
        told = CliRunner().invoke(cli, ["ui", "--env", "test"])

    assert told.exit_code == 0, told.output
    assert "Training runs: http://127.0.0.1:5000/#/experiments/" in told.output
    ((*_, where, host, _port_option, port),) = asked
    assert (where, host, port) == ("--host", "127.0.0.1", "5000")
    assert os.environ["MLFLOW_SERVER_ENABLE_JOB_EXECUTION"] == "false"
