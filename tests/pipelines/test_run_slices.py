"""Parts of the chain: one namespace, the teacher, the ablation."""

from __future__ import annotations

import hashlib
import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import mlflow
import numpy as np
import pandas as pd
import pytest
import torch
from mlflow.entities import Run
from PIL import Image
from safetensors.torch import load_file

from pipelines.running import Finished, Place, artifacts_in, content_of, state_of
from skdcgn_pipeline.artifacts.store import Artifact, ArtifactWriter
from skdcgn_pipeline.classifiers.classification import Classification
from skdcgn_pipeline.io import tracking
from skdcgn_pipeline.runtime.errors import StudyFailedError
from skdcgn_pipeline.samples.drawing import SampleShards, SamplesRecipe
from skdcgn_pipeline.students.released import RELEASED
from skdcgn_pipeline.studies.registry import STUDIES
from skdcgn_pipeline.teachers.teacher import load_teacher

pytestmark = pytest.mark.slow


def small_study(opacity: float = 0.75) -> dict[str, Any]:
    """Return settings of two small studies."""
    grid = {
        "shape": [{"kind": "opacity", "strengths": [opacity]}],
        "texture": [],
        "combined": [],
        "without_patch_shift": False,
    }
    return {"ablation": {"study": ["transformations", "mechanisms"], "transformations": grid}}


TRANSFORMED = ["reference", "shape opacity 0.75"]
NUM_CELLS = len(TRANSFORMED) + 10
# The reference of both studies is the same.
NUM_CLASSIFIERS = 2 * (NUM_CELLS - 1)


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


def test_a_run_reads_its_own_samples_beside_those_of_a_later_run(place: Place) -> None:
    place.run(params={"seed": 2}, pipeline_name="sample")
    for pointer in place.data.glob("03_samples/*.json/*"):
        pointer.rename(pointer.with_name("2099-01-01T00.00.00.000Z"))

    place.run(params={"seed": 1}, namespaces=["shape"])

    (student,) = inputs_in(place, "student")
    seeds = {
        name: json.loads((place.store("sample") / name / "manifest.json").read_text())["inputs"]["seed"]
        for name in artifacts_in(place.store("sample"))
    }
    assert (student["seed"], seeds[student["samples"]]) == (1, 1)


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

    place.run(pipeline_names=["sample"], params={"teacher": {"name": "cgn", "weights": str(weights)}})

    assert len(artifacts_in(place.store("sample"))) == 3 + 2

    place.run(pipeline_names=["sample"], params={"teacher": {"name": "trained"}})  # by whatever name, the same

    assert len(artifacts_in(place.store("sample"))) == 3 + 2
    assert artifacts_in(place.store("teacher")) == {identity}


# --- the composition study ---


def copied(place: Place, folder: Path, tracking_uri: str | None = None) -> Place:
    shutil.copytree(place.data, folder / "data")
    return Place(folder / "data", tracking_uri or place.tracking_uri)


@pytest.fixture(scope="module")
def studied(
    finished: tuple[Place, Finished], tracking_uri: str, tmp_path_factory: pytest.TempPathFactory
) -> tuple[Place, Finished, set[str]]:
    """A place where two studies were run after the whole chain, and the classifiers that were there before."""
    place = copied(finished[0], tmp_path_factory.mktemp("studied"), tracking_uri)
    before = artifacts_in(place.store("classifier"))
    torch.set_num_threads(1)
    return place, place.run(params=small_study(), pipeline_names=["ablation"]), before


def read_tables(place: Place) -> dict[str, pd.DataFrame]:
    names = ("ablation", "ablation_summary", "ablation_confusion", "ablation_cells")
    return {name: pd.read_parquet(place.saved(f"07_tables/*/{name}.parquet")) for name in names}


def nested_runs(place: Place, run: Finished) -> list[Run]:
    outer = place.run_of(run).info.run_id
    return [one for one in place.runs() if one.data.tags.get("mlflow.parentRunId") == outer]


def test_ablation_writes_a_tidy_table_with_every_seed_beside_its_reference(
    studied: tuple[Place, Finished, set[str]],
) -> None:
    place, _, before = studied
    table, summary = (read_tables(place)[name] for name in ("ablation", "ablation_summary"))

    assert table.groupby("study")["cell"].nunique().to_dict() == {"transformations": 2, "mechanisms": 10}
    assert list(table.loc[table["study"] == "transformations", "cell"].unique()) == TRANSFORMED
    assert set(table["seed"]) == {0, 1}
    assert set(table["split"]) == {"validation", "test"}
    key = ["study", "cell", "seed", "split", "subset"]
    assert not table.duplicated(key).any()
    assert table["accuracy"].between(0, 1).all()
    # Each seed beside the same seed of its reference.
    joined = table.merge(
        table[[*key, "accuracy"]].rename(columns={"cell": "reference", "accuracy": "expected"}),
        on=["study", "reference", "seed", "split", "subset"],
    )
    assert len(joined) == len(table)
    assert joined["reference_accuracy"].to_numpy() == pytest.approx(joined["expected"].to_numpy())
    opacity = table[table["cell"] == "shape opacity 0.75"]
    assert set(opacity["mechanism"]) == {"shape"}
    assert set(opacity["strength"]) == {0.75}
    assert len(summary) == len(table) / 2
    pd.testing.assert_frame_equal(
        pd.read_csv(place.saved("07_tables/*/ablation.csv"), keep_default_na=False, na_values=[""]),
        table.replace("", None),
        check_dtype=False,
        rtol=1e-12,
    )
    assert len(pd.read_csv(place.saved("07_tables/*/ablation_failures.csv"))) == 0
    assert len(artifacts_in(place.store("classifier")) - before) == NUM_CLASSIFIERS
    assert len(artifacts_in(place.store("cell"))) == NUM_CLASSIFIERS


def test_ablation_writes_confusion_matrices_that_belong_to_the_accuracies(
    studied: tuple[Place, Finished, set[str]],
) -> None:
    tables = read_tables(studied[0])
    confusion, cells = tables["ablation_confusion"], tables["ablation_cells"]

    key = ["study", "cell", "seed", "split"]
    counts = confusion[[f"predicted_{label}" for label in range(10)]].to_numpy()
    right = pd.Series(counts[range(len(confusion)), confusion["label"]], confusion.index)
    sums = pd.DataFrame({"right": right, "all": counts.sum(1)}).join(confusion[key]).groupby(key).sum()
    whole = cells[cells["subset"] == "all"].set_index(key)
    assert (sums["right"] / sums["all"]).to_dict() == pytest.approx(whole["accuracy"].to_dict())
    assert sums["all"].to_dict() == whole["num_images"].to_dict()


def test_ablation_draws_and_tells_the_studies_that_were_run(studied: tuple[Place, Finished, set[str]]) -> None:
    place, _, _ = studied

    for study in ("transformations", "mechanisms"):
        for name in (f"study_{study}", f"examples_{study}"):
            with Image.open(place.saved(f"08_reporting/*/{name}.png")) as picture:
                assert min(picture.size) > 100
    findings = place.saved("08_reporting/*/ablation_findings.md").read_text()
    chapter = place.saved("08_reporting/*/ablation_chapter.html").read_text()
    page = place.saved("08_reporting/*/ablation.html").read_text()
    for name, study in STUDIES.items():
        title = study.title
        told = name in ("transformations", "mechanisms")
        assert (title in findings) == told
        assert (f"<h3>{title}</h3>" in chapter) == told
    assert "opacity 0.75" in findings
    assert chapter.count("<img") == 4
    assert chapter in page
    assert "2 studies, 12 cells, 2 seeds each." in page
    assert "<td>kedro run --env test --pipelines ablation --params " in page
    for what in ("teacher</th><td>digits_cgn, SHA-256", "seed</th><td>0", "git commit</th><td>", "MLflow run</th><td>"):
        assert f'<th scope="row">{what}' in page


def test_ablation_logs_a_nested_run_per_classifier_and_its_tables(studied: tuple[Place, Finished, set[str]]) -> None:
    place, run, _ = studied
    outer, nested = place.run_of(run), nested_runs(place, run)

    assert len(nested) == 2 * NUM_CELLS
    assert {one.info.status for one in nested} == {"FINISHED"}
    assert {one.data.tags["study"] for one in nested} == {"transformations", "mechanisms"}
    assert {one.data.tags["seed"] for one in nested} == {"0", "1"}
    computed = [one.data.tags["computed"] for one in nested]
    assert sorted(set(computed)) == ["before", "in this run"]
    assert computed.count("before") == 2, "the second study finds its reference done"
    table = read_tables(place)["ablation"].set_index(["study", "cell", "seed", "split", "subset"])["accuracy"]
    for one in nested:
        where = one.data.tags["study"], one.data.tags["cell"], int(one.data.tags["seed"]), "test", "all"
        assert one.data.metrics["accuracy/test/all"] == pytest.approx(table[where])
        assert one.data.params["counterfactual_shape"]
    assert "mlflow.parentRunId" not in outer.data.tags
    client = mlflow.MlflowClient(place.tracking_uri)
    artifacts = {
        entry.path
        for folder in ("", "tables", "pictures/ablation")
        for entry in client.list_artifacts(outer.info.run_id, folder)
    }
    assert {"tables/ablation.csv", "tables/ablation_summary.csv", "tables/ablation_failures.csv"} <= artifacts
    assert {"ablation_findings.md", "ablation.html"} <= artifacts
    assert {f"pictures/ablation/{name}.png" for name in ("mechanisms", "mechanisms_examples")} <= artifacts
    assert "pictures/ablation/counts.png" not in artifacts
    logged = {name for name in outer.data.metrics if name.startswith("ablation/")}
    assert len(logged) == NUM_CELLS


def test_ablation_is_reused_and_a_changed_strength_adds_its_own_cell(
    studied: tuple[Place, Finished, set[str]], tmp_path: Path, brief_timing: None
) -> None:
    place = copied(studied[0], tmp_path)
    before, table = state_of(place.data / "stores"), place.saved("07_tables/*/ablation.parquet").read_bytes()

    again = place.run(params=small_study(), pipeline_names=["ablation"])

    assert state_of(place.data / "stores") == before
    assert place.saved("07_tables/*/ablation.parquet").read_bytes() == table
    assert {one.data.tags["computed"] for one in nested_runs(place, again)} == {"before"}

    changed = place.run(params=small_study(opacity=0.5), pipeline_names=["ablation"])

    after = state_of(place.data / "stores")
    new = {name for name, time in after.items() if before.get(name) != time}
    assert {name for name in before if name not in after} == set()
    assert {Path(name).parts[0] for name in new} == {"cell", "classifier"}
    for kind in ("cell", "classifier"):
        assert len({Path(name).parts[1] for name in new if Path(name).parts[0] == kind}) == 2  # one cell, two seeds
    computed = [one for one in nested_runs(place, changed) if one.data.tags["computed"] == "in this run"]
    assert {one.data.tags["cell"] for one in computed} == {"shape opacity 0.5"}


def test_plan_says_what_is_done_and_runs_nothing(
    studied: tuple[Place, Finished, set[str]],
    place: Place,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    params = small_study()
    params["ablation"]["plan"] = True
    done = copied(studied[0], tmp_path / "done")
    before, tables = state_of(done.data / "stores"), list(done.data.glob("07_tables/*/ablation.parquet/*"))

    runs = len(done.runs())

    done.run(params=params, pipeline_names=["ablation"])

    told = capsys.readouterr().out.splitlines()
    assert len(done.runs()) == runs, "a plan is no run to keep"
    assert ["transformations", "shape", "opacity", "0.75", "2", "2", "0.0"] in [line.split() for line in told]
    assert any(line.startswith("In all, 12 cells: 24 of 24 classifiers done, about 0 min") for line in told)
    assert state_of(done.data / "stores") == before
    assert list(done.data.glob("07_tables/*/ablation.parquet/*")) == tables
    plan = done.saved("07_tables/*/ablation_plan.csv").read_bytes()

    # Where nothing has been run.
    place.run(params=params, pipeline_name="ablation")

    told = capsys.readouterr().out
    assert "In all, 12 cells: 0 of 24 classifiers done, about" in told
    assert "Teacher samples and students are not there yet" in told
    assert not (place.data / "stores").exists()
    files = [path for path in place.data.rglob("*") if path.is_file() and path.name != ".runs.lock"]
    assert {path.parts[-3] for path in files} == {"ablation_plan.csv"}
    assert place.saved("07_tables/*/ablation_plan.csv").read_bytes() == plan, "what is done is not in the file"


def test_report_tells_the_last_study(
    studied: tuple[Place, Finished, set[str]], finished: tuple[Place, Finished], tmp_path: Path, brief_timing: None
) -> None:
    without = finished[0].saved("08_reporting/*/report.html").read_text()
    assert "The composition study" not in without
    place = copied(studied[0], tmp_path)

    place.run(pipeline_names=["report"])

    page = place.saved("08_reporting/*/report.html").read_text()
    assert place.saved("08_reporting/*/ablation_chapter.html").read_text() in page
    assert "Accuracy on test: " in page


def test_a_cell_that_fails_ends_the_run_after_everything_is_saved(
    studied: tuple[Place, Finished, set[str]], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    place = copied(studied[0], tmp_path)
    params = small_study(opacity=0.5)
    real, tried = Classification.train, []

    def fail(*args: Any) -> Any:
        tried.append(args[-1])
        if args[-1] == "transformations, shape opacity 0.5, seed 1":
            raise RuntimeError("no such luck")
        return real(*args)

    monkeypatch.setattr(Classification, "train", fail)
    known = {run.info.run_id for run in place.runs()}
    with pytest.raises(StudyFailedError) as caught:
        place.run(params=params, pipeline_names=["ablation"])

    message = str(caught.value)
    assert message.startswith("1 classifiers failed; the others are done and in the tables. Repeat the same command")
    assert "transformations, shape opacity 0.5, seed 1: RuntimeError: no such luck" in message
    assert tried == [f"transformations, shape opacity 0.5, seed {number}" for number in (0, 1)]
    (failure,) = pd.read_csv(place.saved("07_tables/*/ablation_failures.csv")).to_dict("records")
    assert failure == {
        "study": "transformations",
        "cell": "shape opacity 0.5",
        "seed": 1,
        "error": "RuntimeError: no such luck",
    }
    table = read_tables(place)["ablation"]
    assert set(table.loc[table["cell"] == "shape opacity 0.5", "seed"]) == {0}
    assert table["cell"].nunique() == NUM_CELLS
    assert "no such luck" in place.saved("08_reporting/*/ablation_findings.md").read_text()
    new = [run for run in place.runs() if run.info.run_id not in known]
    failed = [run for run in new if run.info.status == "FAILED"]
    assert len(new) == 1 + 2 * NUM_CELLS
    assert len(failed) == 2  # the classifier and the run
    (classifier,) = [run for run in failed if "mlflow.parentRunId" in run.data.tags]
    assert classifier.data.tags["error"] == "RuntimeError: no such luck"

    # Again, without the failure: only this one is computed.
    tried.clear()
    monkeypatch.setattr(Classification, "train", lambda *args: tried.append(args[-1]) or real(*args))
    place.run(params=params, pipeline_names=["ablation"])
    assert tried == ["transformations, shape opacity 0.5, seed 1"]
    assert len(pd.read_csv(place.saved("07_tables/*/ablation_failures.csv"))) == 0


@pytest.mark.usefixtures("one_program")
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


@pytest.mark.usefixtures("one_program")
def test_release_holds_the_students_that_were_measured(copy_of_finished: Callable[[str], Place]) -> None:
    place = copy_of_finished("release")

    place.run(pipeline_names=["release"], params={"benchmark": {"only": "throughput"}})

    (name,) = artifacts_in(place.store("release"))
    folder = place.store("release") / name
    card = json.loads((folder / "students_digits.json").read_text())
    assert card["sha256"] == hashlib.sha256((folder / "students_digits.safetensors").read_bytes()).hexdigest()
    assert {row["trained_on"] for row in card["figures"]["accuracy"]} == {"originals", "teacher", "students"}
    timed = {row["what"].partition(",")[0] for row in card["figures"]["throughput"]}
    assert timed == {"teacher", "students", "students by torch", "students bf16", "students by ONNX Runtime"}
    assert 'from_released("digits")' in (folder / "students_digits.md").read_text()


def test_results_measure_the_released_students_instead_of_distilling(copy_of_finished: Callable[[str], Place]) -> None:
    place = copy_of_finished("results")
    before = artifacts_in(place.store("student"))

    place.run(pipeline_names=["results"], params={"benchmark": {"only": "bias"}})

    (adopted,) = set(artifacts_in(place.store("student"))) - set(before)
    released = load_file(RELEASED / "students_digits.safetensors")
    state = load_file(place.store("student") / adopted / "model.safetensors")
    assert all(torch.equal(state[name], tensor) for name, tensor in released.items())
    comparison = pd.read_parquet(place.saved("07_tables/*/student_comparison.parquet")).set_index("mechanism")
    assert comparison.loc["shape", "mask_iou"] > 0.85


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

    build = SamplesRecipe.build

    def build_and_die(recipe: SamplesRecipe, writer: ArtifactWriter) -> None:
        build(recipe, writer)
        for name in ("log_batch", "log_param", "log_metric", "set_tag", "get_run", "create_run", "log_artifact"):
            monkeypatch.setattr(mlflow.MlflowClient, name, fail)

    monkeypatch.setattr(SamplesRecipe, "build", build_and_die)

    place.run(namespaces=["shape"])

    assert len(artifacts_in(place.store("student"))) == 1
