"""Models that MLflow serves from any directory: the same images as `StudentCGN.sample`."""

from __future__ import annotations

import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import mlflow
import numpy as np
import pandas as pd
import pytest
import requests
import torch

from pipelines.running import untouched_mlflow
from skdcgn_pipeline import InvariantClassifier, StudentCGN
from skdcgn_pipeline.artifacts.store import Artifact, build_artifact
from skdcgn_pipeline.io import tracking
from skdcgn_pipeline.io.serving import log_classifier, log_students, pinned_requirements, to_pixels
from skdcgn_pipeline.networks.pretrained import PretrainedModel

DEADLINE_SECONDS = 400
ROWS = {"seed": [7, 0, 2**40], "shape": [3, 0, 9], "texture": [1, 0, 9], "background": [5, 0, 2]}


def exported(folder: Path, model: PretrainedModel, card: dict) -> Artifact:
    """Put a model where an export would be, without the programs that serving does not read."""
    model.save_pretrained(folder / "model")

    def write(writer) -> None:
        for path in (folder / "model").iterdir():
            writer.write(path.name, lambda target, path=path: target.write_bytes(path.read_bytes()))
        writer.write_json("card.json", card)

    return build_artifact(folder / "store", {"kind": "test export", "card": card}, write)


@pytest.fixture(scope="module")
def tracking_uri(tracking_uri: str, tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    with untouched_mlflow():
        mlflow.set_tracking_uri(tracking_uri)
        location = str(tmp_path_factory.mktemp("serving"))
        mlflow.set_experiment(experiment_id=mlflow.create_experiment("serving", location))
        yield tracking_uri


@pytest.fixture(scope="module")
def students() -> StudentCGN:
    return StudentCGN.from_released("digits")


@pytest.fixture(scope="module")
def registered(tracking_uri: str, students: StudentCGN, tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    """Students that are logged and registered."""
    card = {"interface": {"num_classes": 10, "image_size": 32}}
    export = exported(tmp_path_factory.mktemp("students"), students, card)
    with mlflow.start_run():
        return log_students(export, "test_students", "champion")


@pytest.fixture(scope="module")
def expected(students: StudentCGN) -> np.ndarray:
    torch.set_num_threads(1)
    images, _ = students.sample(3, ROWS["seed"], ROWS["shape"], ROWS["texture"], ROWS["background"])
    return to_pixels(images)


def command(*arguments: str, cwd: Path, uri: str) -> subprocess.Popen[str]:
    """Start `mlflow models` elsewhere, where only what is installed and what the model brings can be imported."""
    surroundings = {name: value for name, value in os.environ.items() if not name.startswith(("MLFLOW_", "PYTHON"))}
    surroundings |= {"MLFLOW_TRACKING_URI": uri, "MLFLOW_DISABLE_TELEMETRY": "true", "OMP_NUM_THREADS": "1"}
    # MLflow calls its web server by name, as an activated environment would have it.
    surroundings["PATH"] = os.pathsep.join([str(Path(sys.executable).parent), surroundings["PATH"]])
    return subprocess.Popen(
        [sys.executable, "-m", "mlflow", "models", *arguments],
        cwd=cwd,
        env=surroundings,
        text=True,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        start_new_session=True,
    )


def images_in(answer: str) -> np.ndarray:
    return np.array(json.loads(answer)["predictions"])


# --- students ------------------------------------------------------------------------------------


def test_a_registered_version_has_the_alias_and_pinned_requirements(registered, tracking_uri):
    version = mlflow.MlflowClient(tracking_uri).get_model_version_by_alias("test_students", "champion")
    assert registered["model_uri"] == "models:/test_students@champion"
    assert str(version.version) == registered["version"] == "1"
    info = mlflow.models.get_model_info(registered["model_uri"])
    assert info.signature.inputs.input_names() == ["seed", "shape", "texture", "background"]
    assert info.signature.outputs.inputs[0].shape == (-1, 32, 32, 3)
    lines = mlflow.pyfunc.get_model_dependencies(registered["model_uri"])
    assert sorted(Path(lines).read_text().split()) == pinned_requirements()


def test_requirements_are_the_cores_in_the_installed_versions():
    lines = pinned_requirements()
    assert all(line.count("==") == 1 and "+" not in line for line in lines)
    names = {line.partition("==")[0] for line in lines}
    assert {"mlflow", "torch", "safetensors", "pydantic"} <= names
    assert not {"kedro", "kedro-mlflow", "pytest"} & names


def test_the_model_paints_what_the_students_sample(registered, expected):
    model = mlflow.pyfunc.load_model(registered["model_uri"])
    images = model.predict(pd.DataFrame(ROWS))
    assert images.dtype == np.uint8
    np.testing.assert_array_equal(images, expected)
    with pytest.raises(mlflow.MlflowException, match="background"):
        model.predict(pd.DataFrame(ROWS).drop(columns="background"))


@pytest.mark.slow
def test_mlflow_predicts_from_another_directory(registered, tracking_uri, expected, tmp_path):
    pd.DataFrame(ROWS).to_csv(tmp_path / "rows.csv", index=False)
    options = ["-i", "rows.csv", "-t", "csv", "-o", "images.json", "--env-manager", "local"]
    process = command("predict", "-m", registered["model_uri"], *options, cwd=tmp_path, uri=tracking_uri)
    output, _ = process.communicate(timeout=DEADLINE_SECONDS)
    assert process.returncode == 0, output[-3000:]
    np.testing.assert_array_equal(images_in((tmp_path / "images.json").read_text()), expected)


@pytest.fixture(scope="module")
def served(registered, tracking_uri: str, tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """The address of a server that MLflow started in another directory, and that stops cleanly."""
    with socket.socket() as one:
        one.bind(("127.0.0.1", 0))
        port = one.getsockname()[1]
    address = f"http://127.0.0.1:{port}"
    options = ["-h", "127.0.0.1", "-p", str(port), "--env-manager", "local", "-w", "1"]
    folder = tmp_path_factory.mktemp("elsewhere")
    process = command("serve", "-m", registered["model_uri"], *options, cwd=folder, uri=tracking_uri)
    try:
        deadline = time.monotonic() + DEADLINE_SECONDS
        while not answers(f"{address}/ping"):
            assert process.poll() is None, process.communicate()[0][-3000:]
            assert time.monotonic() < deadline, "the server does not answer"
            time.sleep(0.2)
        yield address
    finally:
        os.killpg(process.pid, signal.SIGTERM)
        # Ends when the last process that could print has ended.
        process.communicate(timeout=DEADLINE_SECONDS)
    assert not answers(f"{address}/ping")


@pytest.mark.slow
@pytest.mark.skipif(shutil.which("curl") is None, reason="curl is not installed")
def test_curl_is_answered_with_what_the_students_sample(served, expected):
    given = ["-H", "Content-Type: application/json", "-d", json.dumps({"dataframe_split": split_of(ROWS)})]
    asked = ["curl", "--silent", "--show-error", "--fail", "--noproxy", "*", f"{served}/invocations", *given]
    answer = subprocess.run(asked, check=True, capture_output=True, text=True, timeout=100)
    np.testing.assert_array_equal(images_in(answer.stdout), expected)


@pytest.mark.slow
def test_a_server_answers_python_and_names_impossible_classes(served, expected):
    answer = requests.post(f"{served}/invocations", json={"dataframe_split": split_of(ROWS)}, timeout=100)
    assert answer.status_code == 200, answer.text[:1000]
    np.testing.assert_array_equal(images_in(answer.text), expected)
    impossible = requests.post(
        f"{served}/invocations", json={"dataframe_split": split_of(ROWS | {"shape": [3, 0, 10]})}, timeout=100
    )
    assert impossible.status_code >= 400
    assert "shape: expected classes 0 to 9" in impossible.text


def answers(address: str) -> bool:
    try:
        return requests.get(address, timeout=5).status_code == 200
    except requests.RequestException:
        return False


def split_of(rows: dict[str, list[int]]) -> dict[str, list]:
    return {"columns": list(rows), "data": [list(row) for row in zip(*rows.values(), strict=True)]}


def test_without_a_run_nothing_is_logged(tracking_uri, students, tmp_path):
    export = exported(tmp_path, students, {"interface": {"num_classes": 10, "image_size": 32}})
    assert log_students(export, "unlogged", "champion") == {}


def test_a_store_that_fails_leaves_the_export_alone(tracking_uri, students, tmp_path, monkeypatch):
    def fail(**options):
        raise mlflow.MlflowException("the store is gone")

    export = exported(tmp_path, students, {"interface": {"num_classes": 10, "image_size": 32}})
    monkeypatch.setattr(mlflow.pyfunc, "log_model", fail)
    monkeypatch.setattr(tracking, "_given_up", set())
    with mlflow.start_run():
        assert log_students(export, "lost", "champion") == {}
    assert export.damaged_files() == []


# --- classifier ----------------------------------------------------------------------------------


def test_a_served_classifier_names_the_labels_of_pixels(tracking_uri, expected, tmp_path):
    torch.manual_seed(0)
    classifier = InvariantClassifier([str(label) for label in range(10)]).eval()
    export = exported(tmp_path, classifier, {"labels": classifier.labels, "image_size": 32})
    with mlflow.start_run():
        logged = log_classifier(export, "test_classifier", "challenger")
    table = mlflow.pyfunc.load_model(logged["model_uri"]).predict(expected)
    own = classifier.predict(torch.from_numpy(expected).permute(0, 3, 1, 2))
    assert table["label"].tolist() == own["label"].tolist()
    np.testing.assert_allclose(table["probability"], own["probability"], rtol=1e-5)
