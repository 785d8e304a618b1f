"""What goes to MLflow, that nothing goes there without a run, and that a failing server stops nothing."""

from __future__ import annotations

import io
import logging
import math
from base64 import b64encode
from collections.abc import Callable, Iterator
from pathlib import Path
from threading import Thread
from typing import Any

import mlflow
import numpy as np
import pandas as pd
import pytest
import torch
from mlflow.entities import Run
from mlflow.utils.credentials import get_default_host_creds
from mlflow.utils.mlflow_tags import MLFLOW_RUN_NAME
from mlflow.utils.rest_utils import http_request
from PIL import Image
from requests import Response

from pipelines.running import untouched_mlflow
from skdcgn_pipeline.artifacts.store import build_artifact
from skdcgn_pipeline.classifiers.training import fit_classifier
from skdcgn_pipeline.io import tracking
from skdcgn_pipeline.parameters import ClassifierFit, Composition, Compute
from skdcgn_pipeline.runtime import recording
from skdcgn_pipeline.samples.drawing import SampleShards
from skdcgn_pipeline.studies.contract import Cell, CellData, Sources, Unit, UnitResult
from skdcgn_pipeline.vocabulary import MECHANISMS

UNIT = Unit(
    Cell(
        "transformations",
        "shape opacity 0.25",
        "reference",
        CellData(sources=Sources.all_of("students"), composition=Composition()),
        "shape",
        "opacity",
        0.25,
    ),
    3,
)
RESULT: dict[str, Any] = {
    "accuracy": [
        {"split": "test", "subset": "all", "accuracy": 0.25, "num_images": 8},
        {"split": "test", "subset": "without collisions", "accuracy": 0.5, "num_images": 4},
        {"split": "validation", "subset": "all", "accuracy": 0.75, "num_images": 4},
    ],
    "confusion": {"test": [[1]], "validation": [[1]]},
    "facts": {"num_parameters": 12, "mask_iou": 0.5},
}


@pytest.fixture(scope="module")
def experiment(tracking_uri: str, tmp_path_factory: pytest.TempPathFactory) -> tuple[str, str]:
    """An experiment in the test session's database: (tracking address, experiment id)."""
    client = mlflow.MlflowClient(tracking_uri)
    return tracking_uri, client.create_experiment("tracking", str(tmp_path_factory.mktemp("tracking")))


@pytest.fixture
def run(experiment: tuple[str, str]) -> Iterator[str]:
    """The id of an active run."""
    uri, experiment_id = experiment
    with untouched_mlflow():
        mlflow.set_tracking_uri(uri)
        mlflow.set_experiment(experiment_id=experiment_id)
        yield mlflow.start_run().info.run_id


def stored(run_id: str) -> Run:
    return mlflow.MlflowClient().get_run(run_id)


def read_artifact(run_id: str, name: str) -> bytes:
    return Path(mlflow.artifacts.download_artifacts(run_id=run_id, artifact_path=name)).read_bytes()


def draw_noise(step: int, batch_size: int) -> tuple[torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(step)
    return torch.rand(batch_size, 3, 32, 32, generator=generator) * 2 - 1, torch.arange(batch_size) % 10


class Broken:
    """A client of a server that went away."""

    calls = 0

    def log_batch(self, *args: Any, **kwargs: Any) -> None:
        Broken.calls += 1
        raise ConnectionError("the server went away")

    create_run = log_batch


def break_every_client(monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*args: Any, **kwargs: Any) -> None:
        raise ConnectionError("the server went away")

    monkeypatch.setattr(mlflow, "MlflowClient", Broken)
    for name in ("log_image", "log_text", "start_run"):
        monkeypatch.setattr(mlflow, name, fail)


# --- without a run ---


def test_nothing_is_logged_without_a_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    table = pd.DataFrame({"split": ["test"], "subset": ["all"], "accuracy": [0.5]})

    with untouched_mlflow():
        mlflow.set_tracking_uri(None)
        tracking.log_parameters({"a": {"b": 1}})
        tracking.log_tags({"a": "b"})
        tracking.log_metrics({"a": 1.0})
        tracking.log_picture("a", np.zeros((2, 2, 3), np.uint8))
        tracking.log_table("a", table)
        tracking.log_text("a.html", "<p>")
        tracking.log_note("a", "b")
        tracking.log_origin({"a": 1}, "b")
        tracking.log_use("a", table)
        with tracking.recorded_losses():
            recording.record("shape", 1, {"pixel": 1.0})
        tracking.log_unit(UnitResult(UNIT, RESULT, seconds=1.0))
        tracking.log_unit(UnitResult(UNIT, error="ValueError: no"))
        assert mlflow.active_run() is None

    assert list(tmp_path.iterdir()) == []


# --- with a run ---


def test_nested_parameters_are_logged_flat_and_in_batches(run: str) -> None:
    many = {f"p{number}": number for number in range(230)}

    tracking.log_parameters({"sample": {"rows": 3, "deep": {"er": None}}, "empty": {}, "list": [1, 2], "many": many})

    params = stored(run).data.params
    assert params["sample.rows"] == "3"
    assert params["sample.deep.er"] == "None"
    assert params["list"] == "[1, 2]"
    assert len([name for name in params if name.startswith("many.")]) == len(many)


def test_paths_in_the_project_are_relative(run: str, tmp_path: Path) -> None:
    tracking.log_parameters({"assets": f"{tmp_path}/data", "folders": [f"{tmp_path}/a", "/b"]}, tmp_path)

    assert stored(run).data.params == {"assets": "data", "folders": "['a', '/b']"}


def test_numbers_of_images_are_tags(run: str) -> None:
    tracking.log_metrics({"students/all/num_images": 40.0, "students/all/l1": 0.5})

    assert stored(run).data.metrics == {"students/all/l1": 0.5}
    assert stored(run).data.tags["count/students/all/num_images"] == "40"


def test_long_parameters_are_cut(run: str) -> None:
    tracking.log_parameters({"long": "x" * 20_000})

    assert set(stored(run).data.params["long"]) == {"x"}


def test_metrics_that_are_not_finite_are_left_out(run: str) -> None:
    tracking.log_metrics({"good": 0.5, "nan": math.nan, "inf": math.inf, "none": None})

    assert stored(run).data.metrics == {"good": 0.5}


def test_a_name_that_mlflow_refuses_is_written_as_it_takes_it(run: str, caplog: pytest.LogCaptureFixture) -> None:
    with tracking.recorded_losses():
        recording.record("classifier/shape + texture/seed_0", 1, {"loss": 0.5})
    tracking.log_metrics({"25 % originals": 1.0, "accuracy/Ärmel": 2.0, "accuracy/Ярмель": 3.0})
    tracking.log_parameters({"bird (é)": 3})

    losses = {"classifier/shape_texture/seed_0/loss/loss": 0.5}
    assert stored(run).data.metrics == losses | {"25_originals": 1.0, "accuracy/ärmel": 2.0, "accuracy/ярмель": 3.0}
    assert stored(run).data.params == {"bird  é ": "3"}
    assert "did not take" not in caplog.text


@pytest.mark.parametrize("num_steps", [3, 700])
def test_every_recorded_step_arrives(run: str, num_steps: int) -> None:
    with tracking.recorded_losses():
        for step in range(1, num_steps + 1):
            recording.record("shape", step, {"pixel": step / 2, "total": 1.0})

    history = mlflow.MlflowClient().get_metric_history(run, "shape/loss/pixel")
    assert [(metric.step, metric.value) for metric in sorted(history, key=lambda m: m.step)] == [
        (step, step / 2) for step in range(1, num_steps + 1)
    ]
    assert set(stored(run).data.metrics) == {"shape/loss/pixel", "shape/loss/total"}


@pytest.mark.parametrize("num_steps", [3, 700])
def test_steps_of_other_threads_arrive(run: str, num_steps: int) -> None:
    def train(name: str) -> None:
        assert mlflow.active_run() is None  # the run is the main thread's
        for step in range(1, num_steps + 1):
            recording.record(name, step, {"loss": float(step)})

    with tracking.recorded_losses():
        threads = [Thread(target=train, args=(name,)) for name in ("first", "second")]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()

    for name in ("first", "second"):
        assert len(mlflow.MlflowClient().get_metric_history(run, f"{name}/loss/loss")) == num_steps


def test_what_any_training_tells_arrives(run: str) -> None:
    def train(name: str) -> None:
        for step in (1, 2):
            recording.record(name, step, {"pixel": float(step)})

    with tracking.recorded_losses() as log:
        train("shape")
        log.flush()
        assert stored(run).data.metrics == {"shape/loss/pixel": 2.0}
        other = Thread(target=train, args=("texture",))
        other.start()
        other.join()
    train("background")  # nobody listens any more

    assert stored(run).data.metrics == {"shape/loss/pixel": 2.0, "texture/loss/pixel": 2.0}


def test_saved_datasets_are_logged_as_the_catalog_says(run: str) -> None:
    table = pd.DataFrame({"mechanism": ["shape"], "l1": [0.5], "note": ["-"]})
    ways = {"name": "students", "metrics": "metrics.cost.comparison_metrics", "prefix": "b/"}

    tracking.log_saved("sheet", np.zeros((2, 2, 3), np.uint8), {"mlflow": {}})
    tracking.log_saved("unwanted", table, {"kedro-viz": {}})
    tracking.log_saved("unwanted", table, {})
    tracking.log_saved("comparison", table, {"mlflow": {**ways, "note": "Students", "columns": ["mechanism", "l1"]}})
    tracking.log_saved("page", "<p>", {"mlflow": {"name": "page.html"}})

    assert stored(run).data.metrics == {"b/shape/l1": 0.5}
    assert "| shape | 0.5 |" in stored(run).data.tags["mlflow.note.content"]
    client = mlflow.MlflowClient()
    paths = {one.path for folder in ("pictures", "tables", "") for one in client.list_artifacts(run, folder)}
    assert paths == {"pictures/sheet.png", "tables/students.csv", "page.html", "pictures", "tables"}


def test_steps_before_an_error_arrive(run: str) -> None:
    def train() -> None:
        with tracking.recorded_losses():
            recording.record("shape", 1, {"pixel": 1.0})
            raise RuntimeError("stopped")

    with pytest.raises(RuntimeError, match="stopped"):
        train()

    assert stored(run).data.metrics == {"shape/loss/pixel": 1.0}


def test_pictures_tables_and_texts_are_artifacts(run: str) -> None:
    picture = np.random.default_rng(0).integers(0, 256, (4, 6, 3), dtype=np.uint8)

    tracking.log_picture("sheet", picture)
    tracking.log_table("accuracy", pd.DataFrame({"a": [1, 2]}))
    tracking.log_text("report.html", "<p>ü</p>")
    tracking.log_text("findings.md", "# Found")

    with Image.open(io.BytesIO(read_artifact(run, "pictures/sheet.png"))) as image:
        np.testing.assert_array_equal(np.asarray(image.convert("RGB")), picture)
    assert read_artifact(run, "tables/accuracy.csv").decode() == "a\n1\n2\n"
    assert read_artifact(run, "report.html").decode() == "<p>ü</p>"
    assert read_artifact(run, "findings.md").decode() == "# Found"


def below(run_id: str) -> list[Run]:
    """Return the runs below a run."""
    experiment_id = stored(run_id).info.experiment_id
    return mlflow.MlflowClient().search_runs([experiment_id], f"tags.`mlflow.parentRunId` = '{run_id}'")


@pytest.mark.parametrize(("seconds", "computed"), [(90.0, "in this run"), (None, "before")])
def test_a_unit_is_a_finished_run_below_the_active_one(run: str, seconds: float | None, computed: str) -> None:
    tracking.log_unit(UnitResult(UNIT, RESULT, seconds=seconds))

    assert mlflow.active_run().info.run_id == run
    (nested,) = below(run)
    tags = {name: value for name, value in nested.data.tags.items() if not name.startswith("mlflow.")}
    assert tags == {"study": "transformations", "cell": "shape opacity 0.25", "seed": "3", "computed": computed}
    assert nested.info.status == "FINISHED"
    assert nested.info.run_name == "transformations: shape opacity 0.25, seed 3"
    assert nested.info.end_time - nested.info.start_time == 1000 * (seconds or 0)
    assert nested.data.metrics == {
        "accuracy/test/all": 0.25,
        "accuracy/test/without_collisions": 0.5,
        "accuracy/validation/all": 0.75,
        "num_parameters": 12,
        "mask_iou": 0.5,
    }
    assert nested.data.params == {
        "study": "transformations",
        "cell": "shape opacity 0.25",
        "reference": "reference",
        "mechanism": "shape",
        "transformation": "opacity",
        "strength": "0.25",
        "source": "students",
        **{f"source_{m}": "students" for m in MECHANISMS},
        **{f"counterfactual_{m}": "class" for m in MECHANISMS},
        "originals_share": "0.0",
    }
    assert stored(run).data.metrics == {}


def test_a_unit_that_failed_is_a_failed_run_with_its_error(run: str) -> None:
    tracking.log_unit(UnitResult(UNIT, error="ValueError: " + "x" * 20_000))
    tracking.log_unit(UnitResult(UNIT, RESULT, seconds=1.0))

    failed, finished = sorted(below(run), key=lambda one: one.info.status)
    assert failed.info.status == "FAILED"
    assert failed.data.tags["error"].startswith("ValueError: xxx")
    assert failed.data.tags["computed"] == "failed"
    assert failed.data.metrics == {}
    assert failed.data.params["cell"] == "shape opacity 0.25"
    assert finished.info.status == "FINISHED"
    assert "error" not in finished.data.tags


# --- servers that fail ---


def test_training_goes_on_when_the_server_fails(
    run: str, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    settings = ClassifierFit(num_images=60 * 4, batch_size=4)
    compute = Compute(device="cpu")
    expected, _ = fit_classifier(draw_noise, settings, 0, compute)
    monkeypatch.setattr(mlflow, "MlflowClient", Broken)
    monkeypatch.setattr(tracking, "FLUSH_EVERY_METRICS", 2)
    Broken.calls = 0

    with caplog.at_level(logging.WARNING), tracking.recorded_losses():
        network, history = fit_classifier(draw_noise, settings, 0, compute)

    # Asking a dead server again and again could take longer than the training.
    assert Broken.calls == 1
    assert len(history) == 3
    assert "the run goes on" in caplog.text
    assert "the server went away" in caplog.text
    for mine, theirs in zip(network.state_dict().values(), expected.state_dict().values(), strict=True):
        assert torch.equal(mine, theirs)


@pytest.mark.parametrize(
    "log",
    [
        lambda: tracking.log_parameters({"a": 1}),
        lambda: tracking.log_tags({"a": "b"}),
        lambda: tracking.log_metrics({"a": 1.0}),
        lambda: tracking.log_picture("a", np.zeros((2, 2, 3), np.uint8)),
        lambda: tracking.log_table("a", pd.DataFrame({"a": [1]})),
        lambda: tracking.log_text("a.html", "<p>"),
        lambda: tracking.log_unit(UnitResult(UNIT, RESULT, seconds=1.0)),
    ],
    ids=["parameters", "tags", "metrics", "picture", "table", "text", "unit"],
)
def test_no_log_function_raises_when_the_server_fails(
    run: str, log: Callable[[], None], monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    break_every_client(monkeypatch)

    log()
    log()

    assert caplog.text.count("did not take") == 1, "told once, then nothing is asked of the server any more"


def test_a_unit_whose_run_cannot_be_finished_stops_nothing(
    run: str, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """The store goes away between making the nested run and filling it."""

    def fail(*args: Any, **kwargs: Any) -> None:
        raise ConnectionError("the server went away")

    monkeypatch.setattr(mlflow.MlflowClient, "log_batch", fail)

    tracking.log_unit(UnitResult(UNIT, RESULT, seconds=1.0))
    tracking.log_unit(UnitResult(UNIT, RESULT, seconds=1.0))

    assert caplog.text.count("did not take the nested run shape opacity 0.25") == 1
    assert mlflow.active_run().info.run_id == run


# --- what a run is told apart by ---


def test_a_run_has_the_name_that_it_is_given(run: str) -> None:
    tracking.log_tags({MLFLOW_RUN_NAME: "digits double_colored: classify, seed 0"})

    assert stored(run).info.run_name == "digits double_colored: classify, seed 0"


def test_sections_of_the_note_are_gathered_and_replaced(run: str) -> None:
    tracking.log_note("First", "one")
    tracking.log_note("Second", "two")
    tracking.log_note("First", "| a |")

    assert stored(run).data.tags["mlflow.note.content"] == "## First\n\n| a |\n\n## Second\n\ntwo"


def test_a_note_that_is_too_long_ends_with_the_last_section_that_fits(run: str) -> None:
    tracking.log_note("First", "one")
    tracking.log_note("Second", "x" * 9000)

    assert stored(run).data.tags["mlflow.note.content"] == "## First\n\none"


def test_a_table_as_markdown() -> None:
    table = pd.DataFrame({"trained_on": ["a|b", "c"], "mean_accuracy": [0.123456, math.nan], "num_seeds": [3, 12345]})

    assert tracking.as_markdown(table).splitlines() == [
        "| trained on | mean accuracy | num seeds |",
        "| --- | --- | --- |",
        "| a\\|b | 0.1235 | 3 |",
        "| c |  | 12345 |",
    ]


def began(experiment: tuple[str, str], status: str, settings: dict[str, Any], asked_for: str) -> str:
    """Begin a run and end it with a status; returns its id."""
    run_id = mlflow.start_run(experiment_id=experiment[1]).info.run_id
    tracking.log_origin(settings, asked_for)
    mlflow.end_run(status)
    return run_id


@pytest.mark.parametrize(("status", "resumed"), [("FAILED", True), ("KILLED", True), ("FINISHED", False)])
def test_a_run_names_the_unfinished_one_that_it_goes_on_from(
    experiment: tuple[str, str], status: str, resumed: bool
) -> None:
    with untouched_mlflow():
        mlflow.set_tracking_uri(experiment[0])
        settings = {"seed": status}
        first = began(experiment, status, settings, "classify")
        other = began(experiment, "FAILED", settings, "distill")
        second = began(experiment, "FINISHED", settings, "classify")

        assert stored(second).data.tags.get("resumed_from") == (first if resumed else None)
        assert "resumed_from" not in stored(first).data.tags
        assert "resumed_from" not in stored(other).data.tags


def test_images_are_inputs_and_models_are_named(run: str, tiny_samples: SampleShards, tmp_path: Path) -> None:
    model = build_artifact(tmp_path, {"kind": "a model"}, lambda writer: writer.write_json("a.json", 1))

    for _ in range(2):
        tracking.log_use("teacher_samples", tiny_samples)
        tracking.log_use("students", model)
        tracking.log_use("accuracy", pd.DataFrame({"a": [1]}))

    (used,) = stored(run).inputs.dataset_inputs
    assert (used.dataset.name, used.dataset.digest) == ("teacher_samples", tiny_samples.artifact.identity)
    assert str(tiny_samples.artifact.directory) in used.dataset.source
    tags = stored(run).data.tags
    assert tags["made.students"] == model.identity
    assert not {"made.teacher_samples", "made.accuracy"} & set(tags)


@pytest.mark.parametrize(
    ("address", "named"),
    [
        ("http://token@host", "token:"),
        ("http://token:@host", "token:"),
        ("http://a%40b:c%3Ad@host", "a@b:c:d"),
        ("http://host", None),
    ],
)
def test_who_asks_is_told_to_the_server_and_to_nobody_else(monkeypatch, address, named):
    monkeypatch.setenv("MLFLOW_TRACKING_USERNAME", "")
    monkeypatch.setenv("MLFLOW_TRACKING_PASSWORD", "")
    monkeypatch.setattr(tracking.UserAlone, "user", "")
    asked: list[dict[str, str]] = []
    monkeypatch.setattr("requests.Session.request", lambda *a, headers, **k: asked.append(headers) or Response())

    bare = tracking.part_from_credentials(address)
    http_request(get_default_host_creds(bare), "/api", "GET")

    assert bare == "http://host"
    expected = named and f"Basic {b64encode(named.encode()).decode()}"
    assert asked[0].get("Authorization") == expected
