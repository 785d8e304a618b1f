"""Parts of the chain: one namespace, the teacher, the ablation."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable
from typing import Any

import mlflow
import numpy as np
import pandas as pd
import pytest
import torch
from safetensors.torch import load_file

from pipelines.running import Place, artifacts_in, content_of, state_of
from skdcgn_pipeline.artifacts import Artifact
from skdcgn_pipeline.data.samples import SampleShards
from skdcgn_pipeline.io import tracking
from skdcgn_pipeline.mechanisms import MECHANISMS
from skdcgn_pipeline.models.student import RELEASED
from skdcgn_pipeline.models.teacher import load_teacher

pytestmark = pytest.mark.slow

ABLATION = {"ablation": {"combinations": False}}
CELLS = ["reference", "shape gaussian_noise 0.3", "shape opacity 0.75", "shape rotation 180"]


def inputs_in(place: Place, kind: str) -> list[dict[str, Any]]:
    store = place.store(kind)
    return [json.loads((store / name / "manifest.json").read_text())["inputs"] for name in sorted(artifacts_in(store))]


def test_namespace_trains_one_student_with_what_it_needs(place: Place) -> None:
    run = place.run(namespaces=["shape"])

    (student,) = inputs_in(place, "student")
    assert student["mechanism"] == "shape"
    assert artifacts_in(place.store("classifier")) == set()
    assert artifacts_in(place.store("biased_images")) == set()
    metrics = place.run_of(run).data.metrics
    assert "shape/loss/pixel" in metrics
    assert not [name for name in metrics if name.startswith(("texture/", "background/"))]


def test_two_namespaces_train_two_students_on_the_same_samples(place: Place) -> None:
    place.run(namespaces=["texture", "background"])

    students = inputs_in(place, "student")
    assert {student["mechanism"] for student in students} == {"texture", "background"}
    assert len({student["samples"] for student in students}) == 1
    assert len(artifacts_in(place.store("sample"))) == 1


def test_namespace_of_a_finished_run_trains_nothing(copy_of_finished: Callable[[str], Place]) -> None:
    place = copy_of_finished("namespace")
    before = state_of(place.data / "stores")

    place.run(namespaces=["texture"])

    assert state_of(place.data / "stores") == before


def test_students_do_not_depend_on_how_they_were_asked_for(
    place: Place, copy_of_finished: Callable[[str], Place]
) -> None:
    place.run(namespaces=["shape"])

    (name,) = artifacts_in(place.store("student"))
    assert content_of(place.store("student") / name) == content_of(copy_of_finished("all").store("student") / name)


def test_stored_samples_are_what_the_teacher_renders(copy_of_finished: Callable[[str], Place]) -> None:
    place = copy_of_finished("samples")
    pointer = json.loads(place.saved("03_samples/teacher_samples.json").read_text())
    samples = SampleShards(Artifact.open(place.store("sample") / pointer["identity"]))
    columns = samples.read("noise", "labels", "mask", "foreground")

    teacher = load_teacher("digits_cgn")
    images = teacher.render(torch.from_numpy(columns["noise"]), torch.from_numpy(columns["labels"]))

    assert samples.num_rows == 160
    np.testing.assert_allclose(columns["mask"] / 255, images.mask, atol=0.502 / 255)
    np.testing.assert_allclose(columns["foreground"] / 127.5 - 1, images.foreground, atol=0.502 / 127.5)


def test_trained_teacher_can_be_distilled_next(copy_of_finished: Callable[[str], Place]) -> None:
    place = copy_of_finished("teacher")
    classifiers = state_of(place.store("classifier"))

    run = place.run(pipeline_names=["teacher"])

    (identity,) = artifacts_in(place.store("teacher"))
    weights = place.store("teacher") / identity / "teacher.safetensors"
    assert load_teacher("mnist_cgn", weights, variant="double_colored").image_size == 32
    assert state_of(place.store("classifier")) == classifiers
    tracked = place.run_of(run)
    assert {"teacher/loss/adversarial", "teacher/loss/style", "teacher/loss/discriminator"} <= set(tracked.data.metrics)
    assert place.saved("08_reporting/*/trained_teacher_sheet.png").is_file()

    place.run(pipeline_names=["sample"], params={"teacher": {"name": "mnist_cgn", "weights": str(weights)}})

    assert len(artifacts_in(place.store("sample"))) == 3 + 2


def test_ablation_logs_a_nested_run_per_cell_and_is_reused(copy_of_finished: Callable[[str], Place]) -> None:
    place = copy_of_finished("ablation")

    run = place.run(params=ABLATION, pipeline_names=["ablation"])

    # Tables.
    accuracy = pd.read_parquet(place.saved("07_tables/*/ablation_accuracy.parquet"))
    assert set(accuracy.columns) == {"cell", "seed", "split", "subset", "accuracy", "num_images"}
    assert list(accuracy["cell"].unique()) == CELLS
    assert set(accuracy["seed"]) == {0, 1}
    summary = pd.read_parquet(place.saved("07_tables/*/ablation_summary.parquet"))
    assert {"cell", "split", "mean_accuracy", "difference", "difference_low", "difference_high"} <= set(summary.columns)
    assert len(summary) == len(CELLS) * 2
    assert (summary.loc[summary["cell"] == "reference", "difference"] == 0).all()
    pd.testing.assert_frame_equal(
        pd.read_csv(place.saved("07_tables/*/ablation.csv")), summary, check_dtype=False, rtol=1e-12
    )
    assert place.saved("08_reporting/*/ablation_heat_map.png").is_file()

    # MLflow.
    outer = place.run_of(run)
    nested = [r for r in place.runs() if r.data.tags.get("mlflow.parentRunId") == outer.info.run_id]
    assert {r.data.tags["cell"] for r in nested} == set(CELLS)
    assert len(nested) == len(CELLS)
    assert {r.info.status for r in nested} == {"FINISHED"}
    (reference,) = [r for r in nested if r.data.tags["cell"] == "reference"]
    of_reference = accuracy[(accuracy["cell"] == "reference") & (accuracy["subset"] == "all")]
    expected = of_reference[of_reference["split"] == "test"]["accuracy"].mean()
    assert reference.data.metrics["accuracy/test"] == pytest.approx(expected)
    assert reference.data.params["composition.patch_shift"] == "True"
    assert "mlflow.parentRunId" not in outer.data.tags

    # Again.
    before = state_of(place.data / "stores")
    place.run(params=ABLATION, pipeline_names=["ablation"])
    assert state_of(place.data / "stores") == before


def test_benchmark_writes_a_table_and_a_picture_and_logs_them(copy_of_finished: Callable[[str], Place]) -> None:
    place = copy_of_finished("benchmark")
    before = state_of(place.data / "stores")

    run = place.run(pipeline_names=["benchmark"])

    table = pd.read_parquet(place.saved("07_tables/*/benchmark.parquet"))
    assert set(table["group"]) == {"throughput", "sampling", "composition", "bias", "classifier", "distillation"}
    assert (table["threads"].dropna() == 1).all()
    read = pd.read_csv(place.saved("07_tables/*/benchmark.csv"))
    assert read["what"].tolist() == table["what"].tolist()
    assert read["value"].to_numpy() == pytest.approx(table["value"].to_numpy())
    assert place.saved("08_reporting/*/benchmark_chart.png").is_file()
    logged = place.run_of(run)
    (best,) = table[table["what"] == "students, best batch size"].to_dict("records")
    assert logged.data.metrics["benchmark/throughput/students_best_batch_size/ratio"] == pytest.approx(best["ratio"])
    artifacts = {
        f.path
        for folder in ("tables", "pictures")
        for f in mlflow.MlflowClient(place.tracking_uri).list_artifacts(logged.info.run_id, folder)
    }
    assert {"tables/benchmark.csv", "pictures/benchmark.png"} <= artifacts
    # Nothing that a run keeps depends on it.
    assert state_of(place.data / "stores") == before


def test_release_holds_the_students_that_were_measured(copy_of_finished: Callable[[str], Place]) -> None:
    place = copy_of_finished("release")

    place.run(pipeline_names=["release"], params={"benchmark": {"only": "throughput"}})

    (name,) = artifacts_in(place.store("release"))
    folder = place.store("release") / name
    card = json.loads((folder / "students_digits.json").read_text())
    assert card["sha256"] == hashlib.sha256((folder / "students_digits.safetensors").read_bytes()).hexdigest()
    assert {row["trained_on"] for row in card["figures"]["accuracy"]} == {"originals", "teacher", "students"}
    assert len(card["figures"]["throughput"]) == 3
    assert 'from_released("digits")' in (folder / "students_digits.md").read_text()


def test_results_measure_the_released_students_instead_of_distilling(copy_of_finished: Callable[[str], Place]) -> None:
    place = copy_of_finished("results")
    before = artifacts_in(place.store("student"))

    place.run(pipeline_names=["results"], params={"benchmark": {"only": "throughput"}})

    (adopted,) = set(artifacts_in(place.store("student"))) - set(before)
    released = load_file(RELEASED / "students_digits.safetensors")
    state = load_file(place.store("student") / adopted / "model.safetensors")
    assert all(torch.equal(state[name], tensor) for name, tensor in released.items())
    comparison = pd.read_parquet(place.saved("07_tables/*/student_comparison.parquet")).set_index("mechanism")
    assert comparison.loc["shape", "mask_iou"] > 0.85
    assert place.saved("08_reporting/releases_chart.png").is_file()


def test_run_goes_on_when_the_server_takes_nothing(
    place: Place, copy_of_finished: Callable[[str], Place], monkeypatch: pytest.MonkeyPatch, caplog: Any
) -> None:
    class Broken:
        def log_batch(self, *args: Any, **kwargs: Any) -> None:
            raise ConnectionError("the server went away")

    monkeypatch.setattr(tracking.mlflow, "MlflowClient", Broken)
    place.run(namespaces=["shape"])
    monkeypatch.undo()

    (name,) = artifacts_in(place.store("student"))
    assert content_of(place.store("student") / name) == content_of(copy_of_finished("all").store("student") / name)
    assert "the run goes on" in caplog.text


def test_run_goes_on_when_the_server_dies_in_the_middle(place: Place, monkeypatch: pytest.MonkeyPatch) -> None:
    """Whatever is asked of the server after the samples were drawn fails, in every client."""

    def fail(*args: Any, **kwargs: Any) -> None:
        raise mlflow.MlflowException("the server went away")

    def die(*args: Any, **kwargs: Any) -> Any:
        samples = draw_samples(*args, **kwargs)
        for name in ("log_batch", "log_param", "log_metric", "set_tag", "get_run", "create_run", "log_artifact"):
            monkeypatch.setattr(mlflow.MlflowClient, name, fail)
        return samples

    from skdcgn_pipeline.pipelines.sample import nodes

    draw_samples = nodes.draw_samples
    monkeypatch.setattr(nodes, "draw_samples", die)

    place.run(namespaces=["shape"])

    assert len(artifacts_in(place.store("student"))) == 1


def test_mechanisms_are_the_namespaces() -> None:
    from skdcgn_pipeline import session

    assert tuple(session.MECHANISMS) == MECHANISMS
