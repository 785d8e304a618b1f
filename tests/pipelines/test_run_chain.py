"""The whole chain on tiny data: what it leaves on disk and in MLflow, and that a second run reuses it."""

from __future__ import annotations

import base64
import io
import re
from collections.abc import Callable
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import mlflow
import pandas as pd
import pytest
from mlflow.entities import Run
from PIL import Image

from pipelines.running import PROJECT, Finished, Place, artifacts_in, content_of, state_of
from skdcgn_pipeline.mechanisms import MECHANISMS

pytestmark = pytest.mark.slow

LOSSES = ("pixel", "feature", "kl", "adversarial", "discriminator", "total")
PICTURES = (
    "accuracy", "attention", "biased_images", "confusions", "corruptions", "counterfactuals", "interpolation", "losses",
    "students",
)  # fmt: skip
COMPARISON_COLUMNS = [
    "mechanism",
    "l1",
    "mask_iou",
    "frechet",
    "frechet_teacher",
    "frechet_ratio",
    "num_images",
    "teacher_parameters",
    "teacher_macs",
    "student_parameters",
    "student_macs",
    "teacher_images_per_s",
    "student_images_per_s",
]
SUMMARY_COLUMNS = [
    "trained_on",
    "split",
    "subset",
    "mean_accuracy",
    "standard_deviation",
    "interval_low",
    "interval_high",
    "num_seeds",
    "num_images",
    "calibration_error",
]


@pytest.fixture
def first_run(finished: tuple[Place, Finished]) -> Run:
    place, run = finished
    return place.run_of(run)


class Elements(HTMLParser):
    """All elements of a page with their attributes."""

    def __init__(self, page: str) -> None:
        super().__init__()
        self.found: list[tuple[str, dict[str, Any]]] = []
        self.feed(page)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.found.append((tag, dict(attrs)))


# --- the report ---


def read_report(place: Place) -> str:
    return place.saved("08_reporting/*/report.html").read_text(encoding="utf-8")


def test_report_is_one_file_that_loads_nothing(finished: tuple[Place, Finished]) -> None:
    page = read_report(finished[0])
    elements = Elements(page).found

    assert page.lower().startswith("<!doctype html>")
    references = [a[key] for _, a in elements for key in ("src", "href", "srcset", "data", "action") if key in a]
    assert references
    assert not [reference[:60] for reference in references if not reference.startswith(("data:", "#"))]
    assert {reference for reference in references if reference[0] == "#"} <= {f"#{a.get('id')}" for _, a in elements}
    assert not {tag for tag, _ in elements} & {"script", "link", "iframe", "object"}
    assert not re.search(r"@import|url\(", page)


def test_report_embeds_its_pictures(finished: tuple[Place, Finished]) -> None:
    sources = [attributes["src"] for tag, attributes in Elements(read_report(finished[0])).found if tag == "img"]

    assert len(sources) == len(PICTURES) + 1
    heads = [source.partition(",")[0] for source in sources]
    assert heads.count("data:image/gif;base64") == 1
    assert heads.count("data:image/png;base64") == len(PICTURES)
    for source in sources:
        data = source.partition(",")[2]
        with Image.open(io.BytesIO(base64.b64decode(data, validate=True))) as image:
            image.load()
            assert min(image.size) > 20


def test_report_tells_result_and_settings(finished: tuple[Place, Finished]) -> None:
    page = read_report(finished[0])

    assert "Accuracy on test: " in page
    assert "Whether classifiers err alike" in page
    compared = pd.read_csv(finished[0].saved("07_tables/*/error_consistency.csv"))
    assert compared["num_pairs"].le([1, 4, 4, 1, 4, 1]).all()  # of three training sets with two seeds each
    for text in ("originals", "teacher", "students", *MECHANISMS, "num_images_per_class", "double_colored"):
        assert text in page


def test_report_tells_what_was_run_and_how_to_make_each_part_again(finished: tuple[Place, Finished]) -> None:
    page = read_report(finished[0])

    assert "<code>kedro run --env test --pipelines distill --to-outputs student_sheet</code>" in page
    assert "<td>kedro run --env test</td>" in page
    assert "digits_cgn, SHA-256 " in page
    run_id = finished[0].run_of(finished[1]).info.run_id
    assert f'<th scope="row">MLflow run</th><td>{run_id}</td>' in page
    for name in ("git commit", "started", "duration", "CPU time", "peak memory"):
        assert f'<th scope="row">{name}</th>' in page
    assert "<li>Take it away: <code>kedro run --env test --pipelines export</code></li>" in page
    assert re.search(r"prepare [\d.]+ s, sample [\d.]+ s, .*classify [\d.]+ s", page)
    assert re.search(r"Python 3\.\d+\.\d+, .*torch \d", page)
    assert '<th scope="row">shape.distill.weights.pixel</th>' in page
    assert '<th scope="row">Inception Score, by the classes of this network</th>' in page
    assert '<th scope="row">Frechet distance to training images</th>' in page


# --- the tables ---


def test_accuracy_table_has_a_row_per_classifier_split_and_subset(finished: tuple[Place, Finished]) -> None:
    place, _ = finished
    table = pd.read_parquet(place.saved("07_tables/*/accuracy.parquet"))

    assert set(table.columns) == {
        "trained_on", "seed", "split", "subset", "group", "accuracy", "calibration_error", "num_images",
    }  # fmt: skip
    assert list(table["trained_on"].unique()) == ["originals", "teacher", "students"]
    assert set(table["split"]) == {"validation", "test"}
    assert set(table["subset"]) == {"all", "without collisions", "worst group"}
    assert len(table) == 3 * 2 * 2 * 3
    assert not table.duplicated(["trained_on", "seed", "split", "subset"]).any()
    assert table["accuracy"].between(0, 1).all()
    # A fraction of the images, so it counts whole images.
    counts = table["accuracy"] * table["num_images"]
    assert (counts - counts.round()).abs().max() < 1e-6


def test_accuracy_is_also_there_as_csv(finished: tuple[Place, Finished]) -> None:
    place, _ = finished
    csv = pd.read_csv(place.saved("07_tables/*/accuracy.csv"))

    pd.testing.assert_frame_equal(
        csv, pd.read_parquet(place.saved("07_tables/*/accuracy.parquet")), check_dtype=False, rtol=1e-12
    )


def test_summary_table_follows_from_the_accuracy_table(finished: tuple[Place, Finished]) -> None:
    place, _ = finished
    summary = pd.read_parquet(place.saved("07_tables/*/accuracy_summary.parquet"))
    accuracy = pd.read_parquet(place.saved("07_tables/*/accuracy.parquet"))

    assert list(summary.columns) == SUMMARY_COLUMNS
    assert (summary["num_seeds"] == 2).all()
    key = ["trained_on", "split", "subset"]
    means = accuracy.groupby(key)["accuracy"].mean().reset_index().merge(summary, on=key)
    assert len(means) == len(summary) == 18
    assert (means["accuracy"] - means["mean_accuracy"]).abs().max() < 1e-9
    assert (summary["interval_low"] <= summary["mean_accuracy"]).all()
    assert (summary["mean_accuracy"] <= summary["interval_high"]).all()


def test_confusions_count_every_test_image_once_per_seed(finished: tuple[Place, Finished]) -> None:
    place, _ = finished
    confusion = pd.read_parquet(place.saved("07_tables/*/confusion.parquet"))
    accuracy = pd.read_parquet(place.saved("07_tables/*/accuracy.parquet"))
    test = accuracy[(accuracy["split"] == "test") & (accuracy["subset"] == "all")]

    assert len(confusion) == 3 * 10
    for name, rows in confusion.groupby("trained_on"):
        counts = rows.filter(like="predicted_").to_numpy()
        own = test[test["trained_on"] == name]
        assert counts.sum() == own["num_images"].sum()
        assert counts.trace() / counts.sum() == pytest.approx(own["accuracy"].mean())


def test_corrupted_test_images_are_told_for_every_classifier(finished: tuple[Place, Finished]) -> None:
    place, _ = finished
    corrupted = pd.read_parquet(place.saved("07_tables/*/corrupted_accuracy.parquet"))
    summary = pd.read_parquet(place.saved("07_tables/*/corruption_summary.parquet"))
    accuracy = pd.read_parquet(place.saved("07_tables/*/accuracy.parquet"))
    key = ["trained_on", "seed", "split"]

    assert len(corrupted) == 3 * 2 * (1 + 5)
    clean = corrupted[corrupted["corruption"] == "clean"].merge(accuracy[accuracy["subset"] == "all"], on=key)
    assert len(clean) == 3 * 2
    assert (clean["accuracy_x"] == clean["accuracy_y"]).all(), "of few images all are looked at"
    assert len(summary) == 3 * 2 * 2
    page = read_report(place)
    for text in ("Corrupted test images", "Accuracy on corrupted images", "contrast, %"):
        assert text in page


def test_comparison_table_has_a_row_per_mechanism(finished: tuple[Place, Finished]) -> None:
    place, _ = finished
    table = pd.read_parquet(place.saved("07_tables/*/student_comparison.parquet"))

    assert set(table.columns) == set(COMPARISON_COLUMNS)
    assert table.columns[0] == "mechanism", "the report shows the columns in this order"
    assert list(table["mechanism"]) == [*MECHANISMS, "all"]
    assert table.set_index("mechanism")["mask_iou"].notna().to_dict() == {
        "shape": True, "texture": False, "background": False, "all": False,
    }  # fmt: skip
    assert (table["num_images"] == 40).all()
    composites = table.set_index("mechanism")[["frechet_teacher", "frechet_ratio"]]
    assert composites.drop(index="all").isna().all(axis=None)
    assert (composites.loc["all"] > 0).all()
    measured = table.drop(columns=["mechanism", "mask_iou", *composites.columns])
    assert measured.notna().all(axis=None)
    assert (measured.drop(columns=["l1", "frechet"]) > 0).all(axis=None)
    assert (table["student_parameters"] < table["teacher_parameters"]).all()


# --- MLflow ---


def test_settings_that_are_read_are_logged_under_dotted_names(first_run: Run) -> None:
    params = first_run.data.params

    assert params["sample.num_images_per_class"] == "16"
    assert params["prepare.feature_network.num_images"] == "320"
    assert float(params["shape.distill.weights.binary_cross_entropy"]) > 0
    assert float(params["texture.distill.weights.binary_cross_entropy"]) == 0
    assert params["compose.composition.counterfactual.shape"] == "class"
    assert params["seed"] == "0"
    assert params["compute.device"] == "cpu"
    unread = ("ablation.", "baseline.", "benchmark.", "export.", "fetch.")
    assert not [name for name in params if name.startswith(unread)]
    assert not [name for name, value in params.items() if str(PROJECT) in value]


def test_what_tells_runs_apart_is_a_tag(first_run: Run) -> None:
    tags = first_run.data.tags

    assert tags["variant"] == "double_colored"
    assert tags["source"] == "digits"
    assert tags["teacher"] == "digits_cgn"
    assert re.fullmatch("[0-9a-f]{64}", tags["teacher_sha256"])
    assert first_run.info.status == "FINISHED"
    assert first_run.info.run_name == "digits double_colored: whole chain, seed 0"
    assert "resumed_from" not in tags


def test_the_note_of_a_run_has_its_headline_tables(first_run: Run) -> None:
    note = first_run.data.tags["mlflow.note.content"]

    assert "## Students against their teacher\n\n| mechanism | l1 | mask iou |" in note
    assert "## Accuracy of the invariant classifiers\n\n| trained on | split | subset | mean accuracy |" in note
    assert "| students | test | all | " in note


def test_images_and_models_of_a_run_are_linked(finished: tuple[Place, Finished], first_run: Run) -> None:
    place, _ = finished
    used = {one.dataset.name: one.dataset.digest for one in first_run.inputs.dataset_inputs}

    assert set(used) == {
        "biased_images", "teacher_samples", "heldout_samples", "student_samples",
        "teacher_counterfactuals", "student_counterfactuals",
    }  # fmt: skip
    assert used["biased_images"] in artifacts_in(place.store("images"))
    assert first_run.data.tags["made.students"] in artifacts_in(place.store("student"))


@pytest.mark.parametrize("mechanism", MECHANISMS)
def test_losses_are_logged_by_step(finished: tuple[Place, Finished], first_run: Run, mechanism: str) -> None:
    client = mlflow.MlflowClient(finished[0].tracking_uri)
    names = (*LOSSES, "binary_cross_entropy") if mechanism == "shape" else LOSSES

    logged = {name for name in first_run.data.metrics if name.startswith(f"{mechanism}/loss/")}
    assert logged == {f"{mechanism}/loss/{name}" for name in names}
    for name in logged:
        steps = sorted(metric.step for metric in client.get_metric_history(first_run.info.run_id, name))
        # The discriminator need not judge at every step.
        assert set(steps) <= {2, 4, 6}
        if name.endswith(("pixel", "total")):
            assert steps == [2, 4, 6]


def test_results_are_metrics(finished: tuple[Place, Finished], first_run: Run) -> None:
    metrics = first_run.data.metrics
    summary = pd.read_parquet(finished[0].saved("07_tables/*/accuracy_summary.parquet"))

    for row in summary.itertuples():
        name = f"accuracy/{row.trained_on}/{row.split}/{row.subset.replace(' ', '_')}"
        assert metrics[name] == pytest.approx(row.mean_accuracy)
    assert "accuracy/students/test/all" in metrics
    for mechanism in (*MECHANISMS, "all"):
        assert {f"students/{mechanism}/{name}" for name in ("l1", "frechet", "student_parameters")} <= set(metrics)
        assert f"count/students/{mechanism}/num_images" in first_run.data.tags
    assert 0 <= metrics["students/shape/mask_iou"] <= 1
    assert metrics["headline/mask_iou_with_the_teacher"] == metrics["students/shape/mask_iou"]
    headline = metrics["headline/accuracy_on_test_trained_on_students"]
    assert headline == metrics["accuracy/students/test/all"]
    assert all(re.fullmatch(r"[a-z0-9_./-]+", name) for name in metrics)


def test_losses_of_classifiers_are_metrics(first_run: Run) -> None:
    names = {f"classifier/{name}/seed_{n}/loss/loss" for name in ("originals", "teacher", "students") for n in (0, 1)}

    assert names <= set(first_run.data.metrics)


def test_pictures_tables_and_report_are_artifacts(finished: tuple[Place, Finished], first_run: Run) -> None:
    client = mlflow.MlflowClient(finished[0].tracking_uri)

    def listed(folder: str) -> set[str]:
        return {entry.path for entry in client.list_artifacts(first_run.info.run_id, folder)}

    assert listed("pictures") == {f"pictures/{name}.png" for name in PICTURES}
    names = "accuracy accuracy_summary confusion corrupted_accuracy corruption_summary error_consistency "
    names += "followed_mechanisms generation images students"
    assert listed("tables") == {f"tables/{name}.csv" for name in names.split()}
    assert "report.html" in listed("")


# --- the stores ---


def test_every_store_holds_finished_artifacts_alone(finished: tuple[Place, Finished]) -> None:
    place, _ = finished
    counts = {p.name: len(artifacts_in(p)) for p in (place.data / "stores").iterdir()}

    assert counts == {
        "accuracy": 12,  # by classifier and split
        "images": 1,
        "classifier": 7,  # the feature network is one
        "corrupted": 12,  # by classifier and corruption, and of clean images
        "counterfactual": 2,
        "export": 1,  # the classifier to take away
        "followed": 6,
        "measure": 1,  # students against their teacher and generated images, in one pass
        "sample": 3,
        "student": 4,  # three, and the three together
    }
    leftovers = [p for p in place.data.rglob("*") if "partial" in p.name or "scratch" in p.name or p.suffix == ".tmp"]
    assert leftovers == []


def test_second_run_reuses_everything(
    copy_of_finished: Callable[[str], Place], caplog: pytest.LogCaptureFixture
) -> None:
    place = copy_of_finished("again")
    before = state_of(place.data / "stores")
    tables = {name: place.saved(f"07_tables/*/{name}").read_bytes() for name in ("accuracy.csv", "accuracy.parquet")}

    with caplog.at_level("INFO", "skdcgn_pipeline"):
        run = place.run()

    assert state_of(place.data / "stores") == before
    assert not [line for line in caplog.messages if re.search(r"(steps|rows) in \d+ s", line)], (
        "something was made again"
    )
    assert not [line for line in caplog.messages if line.startswith("Replacing dataset")]
    assert {name: place.saved(f"07_tables/*/{name}").read_bytes() for name in tables} == tables
    assert run.session_id in str(place.saved("08_reporting/*/report.html"))
    assert place.run_of(run).data.metrics["accuracy/students/test/all"] >= 0


def test_a_changed_setting_remakes_only_what_depends_on_it(copy_of_finished: Callable[[str], Place]) -> None:
    place = copy_of_finished("changed")
    before = content_of(place.data / "stores")

    place.run(params={"compose": {"num_images": 61}}, pipeline_names=["compose"])

    after = content_of(place.data / "stores")
    assert {name: after[name] for name in before} == before
    assert {Path(name).parts[0] for name in after.keys() - before.keys()} == {"counterfactual"}
    assert len(artifacts_in(place.store("counterfactual"))) == 4


def test_a_damaged_file_is_made_again_as_it_was(
    copy_of_finished: Callable[[str], Place], caplog: pytest.LogCaptureFixture
) -> None:
    place = copy_of_finished("damaged")
    before = content_of(place.store("sample"))
    damaged = next(path for path in sorted(place.store("sample").rglob("shard-00001.parquet")))
    damaged.write_bytes(damaged.read_bytes()[:-9])

    place.run(pipeline_names=["compose"])

    assert content_of(place.store("sample")) == before
    assert "shard-00001.parquet" in caplog.text


def test_one_process_can_run_twice_and_each_run_is_its_own(copy_of_finished: Callable[[str], Place]) -> None:
    """As in a notebook: nothing stays active after a run."""
    place = copy_of_finished("twice")

    first, second = place.run(pipeline_names=["prepare"]), place.run(pipeline_names=["sample"])

    assert place.run_of(first).info.run_id != place.run_of(second).info.run_id
    assert not first.left_active, "the MLflow run is still active after the session: a second one would log into it"


def test_counterfactuals_of_a_finished_run_are_measured(copy_of_finished: Callable[[str], Place]) -> None:
    place = copy_of_finished("quality")
    kinds = ("student", "sample", "accuracy")
    before = {kind: artifacts_in(place.store(kind)) for kind in kinds}

    run = place.run(pipeline_names=["quality"])

    assert {kind: artifacts_in(place.store(kind)) for kind in kinds} == before
    table = pd.read_parquet(place.saved("07_tables/*/counterfactual_quality.parquet"))
    assert set(table["images"]) == {"teacher", "students"}
    assert table.groupby("images").size().tolist() == [16, 16]  # 1 composition, 4 times 3 readings, 3 minimalities
    assert table["value"].between(0, 2).all()
    wide = pd.read_csv(place.saved("07_tables/*/quality_table.csv"))
    assert list(wide.columns) == ["intervention", "measure", "mechanism", "teacher", "students"]
    composition = wide[wide["measure"] == "composition"].iloc[0]
    assert composition["teacher"] < 0.01 < composition["students"]
    assert place.saved("08_reporting/*/intervention_sheet.png").stat().st_size > 1000
    assert place.run_of(run).data.metrics["quality/teacher/none/composition"] < 0.01
