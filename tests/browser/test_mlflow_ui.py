"""The MLflow UI on a store that the project's own logging filled."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from pathlib import Path
from urllib.parse import quote

import mlflow
import pandas as pd
import pytest
from mlflow.utils.mlflow_tags import MLFLOW_RUN_NAME

from browser.looking import Visit, keep_screenshot, low_port, serving, surroundings
from pipelines.running import untouched_mlflow
from skdcgn_pipeline.io import tracking
from skdcgn_pipeline.parameters import Composition
from skdcgn_pipeline.runtime.recording import record
from skdcgn_pipeline.studies.contract import Cell, CellData, Sources, Unit, UnitResult

pytestmark = pytest.mark.slow

NAME = "digits double_colored: ablation, seed 0"
CELLS = {"reference": 0.8125, "shape opacity 0.75": 0.6875}


def unit(name: str) -> Unit:
    data = CellData(sources=Sources.all_of("students"), composition=Composition())
    strength = None if name == "reference" else 0.75
    return Unit(Cell("transformations", name, "reference", data, "shape", "opacity", strength), 0)


@pytest.fixture(scope="module")
def experiment(tracking_uri: str, tmp_path_factory: pytest.TempPathFactory) -> tuple[str, str]:
    """An ablation of two cells: (experiment id, run id)."""
    with untouched_mlflow():
        mlflow.set_tracking_uri(tracking_uri)
        folder = tmp_path_factory.mktemp("mlartifacts")
        number = mlflow.create_experiment("skdcgn_looked_at", artifact_location=str(folder))
        with mlflow.start_run(experiment_id=number) as run:
            tracking.log_tags({MLFLOW_RUN_NAME: NAME})
            tracking.log_tags({"variant": "double_colored", "teacher": "digits_cgn", "git_commit": "0123abc"})
            tracking.log_parameters({"seed": 0, "classify": {"num_seeds": 3}})
            with tracking.recorded_losses():
                for step, loss in enumerate((2.25, 1.5, 0.75)):
                    record("shape", step, {"pixel": loss, "total": loss + 1})
            tracking.log_metrics({"accuracy/students/test/all": 0.7954})
            table = pd.DataFrame({"trained_on": ["originals", "students"], "mean_accuracy": [0.1102, 0.7954]})
            tracking.log_note("Accuracy of the invariant classifiers", tracking.as_markdown(table))
            for name, accuracy in CELLS.items():
                rows = [{"split": "test", "subset": "all", "accuracy": accuracy, "num_images": 16}]
                tracking.log_unit(UnitResult(unit(name), {"accuracy": rows, "confusion": {}, "facts": {}}, seconds=1.0))
        return number, run.info.run_id


@pytest.fixture(scope="module")
def ui(
    chromium: object, experiment: tuple[str, str], tracking_uri: str, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[str]:
    """The address of MLflow's own server on that store."""
    folder: Path = tmp_path_factory.mktemp("server")
    port = low_port()
    command = ["mlflow", "server", "--host", "127.0.0.1", "--port", str(port), "--workers", "1"]
    command += ["--backend-store-uri", tracking_uri, "--default-artifact-root", str(folder)]
    address = f"http://127.0.0.1:{port}"
    with serving(command, f"{address}/health", folder / "log.txt", cwd=folder, env=surroundings()):
        yield address


def test_a_run_says_what_it_is(ui: str, experiment: tuple[str, str], visit: Callable[..., Visit]) -> None:
    number, run = experiment
    page = visit(f"{ui}/#/experiments/{number}/runs/{run}", viewport={"width": 1400, "height": 1000}).page

    page.get_by_text(NAME).first.wait_for()
    page.get_by_text("Accuracy of the invariant classifiers").first.wait_for()
    cells = page.get_by_role("cell")
    cells.filter(has_text="students").first.wait_for()
    assert cells.filter(has_text="0.7954").count() >= 1
    for tag in ("variant", "double_colored", "digits_cgn"):
        assert page.get_by_text(tag).count() >= 1, tag
    for button in page.get_by_role("button", name="Close").all():  # of panes beside the run
        button.click()
    keep_screenshot(page, "mlflow")


def test_losses_of_a_mechanism_are_charts_of_one_group(
    ui: str, experiment: tuple[str, str], visit: Callable[..., Visit]
) -> None:
    number, run = experiment
    page = visit(f"{ui}/#/experiments/{number}/runs/{run}/model-metrics").page

    page.get_by_text("shape/loss").first.wait_for()
    assert page.get_by_text("accuracy/students/test").count() >= 1


def test_cells_of_a_study_compare(ui: str, experiment: tuple[str, str], visit: Callable[..., Visit]) -> None:
    number, run = experiment
    address = f"{ui}/api/2.0/mlflow/runs/search"
    seen = visit(f"{ui}/health")
    answer = seen.page.request.post(
        address,
        data={"experiment_ids": [number], "filter": f"tags.`mlflow.parentRunId` = '{run}'"},
    )
    runs = [one["info"]["run_id"] for one in answer.json()["runs"]]
    assert len(runs) == len(CELLS)

    chosen = f"runs={quote(json.dumps(runs))}&experiments={quote(json.dumps([number]))}"
    page = visit(f"{ui}/#/compare-runs?{chosen}").page

    page.get_by_text("Comparing 2 Runs").first.wait_for()
    for name, accuracy in CELLS.items():
        page.get_by_text(f"transformations: {name}, seed 0").first.wait_for(state="attached")
        page.get_by_text(f"{accuracy:g}").first.wait_for(state="attached")
