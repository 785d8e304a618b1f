"""The export stage: files, a registered model, and nothing computed that is there already."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import mlflow
import numpy as np
import pandas as pd
import pytest
import torch

from libraries import needs
from pipelines.running import Place, artifacts_in, untouched_mlflow
from skdcgn_pipeline import InvariantClassifier, StudentCGN
from skdcgn_pipeline.io.serving import to_pixels
from skdcgn_pipeline.networks.programs import LIBRARIES
from skdcgn_pipeline.runtime.errors import SettingError

pytestmark = [pytest.mark.slow, needs(*LIBRARIES, extra="export")]

ROWS = {"seed": [4, 5], "shape": [3, 0], "texture": [1, 9], "background": [5, 0]}


def exported(place: Place, pointer: str) -> Path:
    """Return the folder of what was exported."""
    path = place.saved(f"06_models/double_colored/{pointer}.json")
    return path.parent / json.loads(path.read_text())["directory"]


def registered(place: Place, what: str) -> dict[str, str]:
    return json.loads(place.saved(f"06_models/double_colored/registered_{what}.json").read_text())


def test_the_students_and_a_classifier_of_a_finished_run_are_taken_away(
    copy_of_finished: Callable[[str], Place],
) -> None:
    place = copy_of_finished("export")
    stores = ("student", "classifier", "sample", "accuracy")
    before = {kind: artifacts_in(place.store(kind)) for kind in stores}

    run = place.run(pipeline_names=["export"], params={"export": {"register_as": "run", "alias": "newest"}})

    assert {kind: artifacts_in(place.store(kind)) for kind in stores} == before
    students = StudentCGN.from_pretrained(exported(place, "student_export"))
    assert (exported(place, "student_export") / "students.onnx").is_file()
    classifier = InvariantClassifier.from_pretrained(exported(place, "classifier_export"))
    assert classifier.labels == [str(label) for label in range(10)]

    names = registered(place, "students")
    assert names["model_uri"] == "models:/run_students_digits@newest"
    with untouched_mlflow():
        mlflow.set_tracking_uri(place.tracking_uri)
        images = mlflow.pyfunc.load_model(names["model_uri"]).predict(pd.DataFrame(ROWS))
        own = mlflow.MlflowClient().get_model_version_by_alias("run_classifier_digits", "newest")
        card = mlflow.MlflowClient().get_registered_model("run_classifier_digits").description
    torch.testing.assert_close(
        torch.from_numpy(images).float(),
        torch.from_numpy(to_pixels(students.sample(2, ROWS["seed"], *[ROWS[m] for m in list(ROWS)[1:]])[0])).float(),
        rtol=0,
        atol=1,
    )
    assert own.run_id == place.run_of(run).info.run_id
    page = (exported(place, "classifier_export") / "README.md").read_text()
    assert page.startswith("---\nlibrary_name:")
    assert own.description == card == page[page.index("# ") :][:5000]
    assert 0 <= float(own.tags["accuracy/validation/all"]) <= 1
    assert "students/all/l1" in place.run_of(run).data.metrics


def test_released_students_are_exported_without_distilling(place: Place, capsys: pytest.CaptureFixture[str]) -> None:
    run = place.run(pipeline_names=["export"], params={"export": {"students": "digits", "register_as": "released"}})

    shown = capsys.readouterr().out
    assert f"Open it by StudentCGN.from_pretrained: {exported(place, 'student_export').resolve()}" in shown
    assert f"Open it by InvariantClassifier.from_pretrained: {exported(place, 'classifier_export').resolve()}" in shown
    assert artifacts_in(place.store("teacher")) == set()
    assert len(artifacts_in(place.store("student"))) == 1
    expected = StudentCGN.from_released("digits").sample(2, seed=1)[0]
    students = StudentCGN.from_pretrained(exported(place, "student_export"))
    np.testing.assert_array_equal(students.sample(2, seed=1)[0].numpy(), expected.numpy())
    card = json.loads((exported(place, "classifier_export") / "card.json").read_text())
    assert card["students"]["released"] is True
    assert {row["split"] for row in card["accuracy"]} == {"validation", "test"}
    assert registered(place, "classifier")["name"] == "released_classifier_digits"
    assert place.run_of(run).data.tags["students"] == "released digits"


def test_unknown_students_are_refused_before_any_work(place: Place) -> None:
    with pytest.raises(SettingError, match="Did you mean 'wildlife_mnist'"):
        place.run(pipeline_names=["export"], params={"export": {"students": "wildlife"}})
    assert not (place.data / "stores").exists()
