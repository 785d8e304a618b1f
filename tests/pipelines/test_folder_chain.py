"""A folder of images through the whole chain: its own teacher, students, classifiers, report, export, explorer."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import mlflow
import pandas as pd
import pytest
import yaml

from images.pictures import CLASSES, make_folder
from pipelines.running import PROJECT, Place, untouched_mlflow
from skdcgn_pipeline import InvariantClassifier
from skdcgn_pipeline.explorer.bundle import open_explorer

pytestmark = pytest.mark.slow

SPLITS = {"train": 12, "validation": 3, "test": 4, "test_other": 4}


def small_budgets() -> dict[str, Any]:
    """The budgets of the environment `test`, for the environment `folder`."""
    settings = yaml.safe_load((PROJECT / "conf" / "test" / "parameters.yml").read_text())
    return {name: value for name, value in settings.items() if not name.startswith("_")}


def folder_of(place: Place, name: str) -> Path:
    path = place.saved(f"06_models/folder/{name}.json")
    return path.parent / json.loads(path.read_text())["directory"]


def test_a_folder_goes_from_its_images_to_a_classifier_that_is_taken_away(place: Place, tmp_path: Path) -> None:
    images = make_folder(tmp_path / "shapes on grounds", SPLITS)
    params = small_budgets()
    params["images"] = {"folder": str(images), "image_size": 48}
    params["teacher"] |= {"name": "trained"}
    params["classify"] |= {"trained_on": ["originals", "teacher", "students"], "share_of_originals": 0.25}

    run = place.run(env="folder", params=params, pipeline_names=["report", "export", "explore", "evaluate"])

    page = place.saved("08_reporting/folder/report.html").read_text(encoding="utf-8")
    first_lines = page.partition("<nav")[0].partition("<h1>")[2]
    assert first_lines.startswith("Distilled counterfactual generative network: shapes_on_grounds</h1>")
    for told in ("accuracy on test, originals to students", "parameters, teacher to students", "images/s, teacher to"):
        assert told in first_lines
    results = page.partition("What came out</h2>")[2].partition("<h3>")[0]
    assert "What counterfactuals bought against training on originals" in results
    assert results.index("What counterfactuals bought") < results.index("Accuracy on test: ")
    assert "in the worst group" in results
    assert "on test_other" in results
    assert "digit" not in first_lines + results
    accuracy = pd.read_parquet(place.saved("07_tables/folder/accuracy.parquet"))
    worst = accuracy[(accuracy["subset"] == "worst group") & (accuracy["split"] == "test_other")]
    assert set(worst["trained_on"]) == {"originals", "teacher", "students"}
    assert set(worst["group"]) <= {f"{label} on {ground}" for label in CLASSES for ground in ("dots", "waves")}
    confusion = pd.read_parquet(place.saved("07_tables/folder/confusion.parquet"))
    assert set(confusion["split"]) == {"test", "test_other"}
    assert set(confusion["label"]) == set(CLASSES)

    classifier = InvariantClassifier.from_pretrained(folder_of(place, "classifier_export"))
    assert (classifier.labels, classifier.image_size) == ([*CLASSES], 48)
    files = sorted((images / "test" / "circle").glob("*"))
    assert set(classifier.predict_files(files)["label"]) <= set(CLASSES)
    assert (folder_of(place, "classifier_export") / "classifier.onnx").is_file()
    explorer = open_explorer(folder_of(place, "explorer"))
    assert [*explorer.scene.classes.values()] == [*CLASSES]
    assert set(explorer.scene.classifiers) == {"originals", "students"}
    evaluation = pd.read_csv(place.saved("07_tables/folder/evaluation.csv"))
    assert set(evaluation["split"]) == {"train", "validation", "test", "test_other"}
    with untouched_mlflow():
        mlflow.set_tracking_uri(place.tracking_uri)
        names = {model.name for model in mlflow.MlflowClient().search_registered_models()}
    assert names >= {"skdcgn_students_shapes_on_grounds", "skdcgn_classifier_shapes_on_grounds"}
    assert place.run_of(run).info.run_name.startswith("shapes_on_grounds: report + export")
