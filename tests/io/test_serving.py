"""Models that MLflow serves from any directory: the same images as `StudentCGN.sample`."""

from __future__ import annotations

import json
import os
import shutil
import signal
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
from mlflow.pyfunc import scoring_server

from pipelines.running import untouched_mlflow
from ports import free_port
from skdcgn_pipeline import InvariantClassifier, StudentCGN
from skdcgn_pipeline.artifacts.store import Artifact, build_artifact
from skdcgn_pipeline.io import serving, tracking
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
    figures = [{"mechanism": "all", "l1": 0.1, "mask_iou": None}]
    card = {"interface": {"num_classes": 10, "image_size": 32}, "origin": {"fidelity_and_costs": figures}}
    export = exported(tmp_path_factory.mktemp("students"), students, card)
    with mlflow.start_run():
        return log_students(export, "test_students", "champion")


@pytest.fixture(scope="module")
def expected(students: StudentCGN) -> np.ndarray:
    torch.set_num_threads(1)
    images, _ = students.fused().sample(3, ROWS["seed"], ROWS["shape"], ROWS["texture"], ROWS["background"])
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
    linked = mlflow.get_logged_model(info.model_id).metrics
    assert [(one.key, one.value) for one in linked] == [("students/all/l1", 0.1)]
    assert [(one.name, one.default) for one in info.signature.params] == [("max_images", 500)]
    assert info.signature.outputs.inputs[0].shape == (-1, 32, 32, 3)
    lines = mlflow.pyfunc.get_model_dependencies(registered["model_uri"])
    assert sorted(Path(lines).read_text().split()) == pinned_requirements("numba")


def test_requirements_are_the_cores_in_the_installed_versions():
    lines = pinned_requirements()
    assert all(line.count("==") == 1 and "+" not in line for line in lines)
    names = {line.partition("==")[0] for line in lines}
    assert {"mlflow", "torch", "safetensors", "pydantic"} <= names
    assert not {"kedro", "kedro-mlflow", "pytest"} & names


def test_the_model_paints_what_the_students_sample(registered, expected):
    model = mlflow.pyfunc.load_model(registered["model_uri"])
    for rows in (pd.DataFrame(ROWS), pd.DataFrame(ROWS).astype(float), ROWS):
        images = model.predict(rows)
        assert images.dtype == np.uint8
        np.testing.assert_array_equal(images, expected)
    with pytest.raises(mlflow.MlflowException, match="background"):
        model.predict(pd.DataFrame(ROWS).drop(columns="background"))


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"shape": [3, 0, 0.5]}, "shape: expected whole numbers from 0 to [0-9]+, got 0.5"),
        ({"seed": [7, 0, 1.5]}, "seed: expected whole numbers"),
        ({"texture": [1, 0, float("nan")]}, "texture: expected whole numbers"),
        ({"texture": ["1", "0", "2"]}, "texture: expected whole numbers .* got '1'"),
        ({"texture": [True, False, True]}, "texture: expected whole numbers .* got True"),
        ({"background": [[5], [0], [2]]}, r"background: expected whole numbers .* got \[5\]"),
        ({"shape": [3, 0, -1]}, "shape: expected whole numbers .* got -1"),
        ({"shape": [3, 0, 10]}, "shape: expected classes 0 to 9"),
        ({"seed": [7]}, "rows: expected a table"),
        ({name: [] for name in ROWS}, "num_images: expected"),
    ],
)
def test_rows_that_are_not_meant_so_are_refused(registered, changes, message):
    model = mlflow.pyfunc.load_model(registered["model_uri"])
    with pytest.raises(mlflow.MlflowException, match=message) as caught:
        model.predict(ROWS | changes)
    assert caught.value.get_http_status_code() == 400


def test_more_images_than_a_request_may_ask_for_are_refused(registered, monkeypatch):
    model = mlflow.pyfunc.load_model(registered["model_uri"])
    rows = pd.DataFrame(dict.fromkeys(ROWS, [1] * 501))
    with pytest.raises(mlflow.MlflowException, match=r"at most 500 in a request \(max_images\), got 501"):
        model.predict(rows)
    assert len(model.predict(rows[:300], {"max_images": 300})) == 300
    with pytest.raises(mlflow.MlflowException, match=r"at most 2 in a request"):
        model.predict(rows[:3], {"max_images": 2})


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
    port = free_port()
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
    for changes in ({"shape": [3, 0, 0.5]}, {"texture": [[[[1]]], [[[0]]], [[[2]]]]}):
        refused = requests.post(
            f"{served}/invocations", json={"dataframe_split": split_of(ROWS | changes)}, timeout=100
        )
        assert refused.status_code == 400
        assert f"{next(iter(changes))}: expected whole numbers" in refused.text
    for deep in ('{"dataframe_split":' + "[" * 5000, '{"a":' * 5000):
        header = {"Content-Type": "application/json"}
        refused = requests.post(f"{served}/invocations", deep, headers=header, timeout=100)
        assert (refused.status_code, "nested too deeply" in refused.text) == (400, True)


def answers(address: str) -> bool:
    try:
        return requests.get(address, timeout=5).status_code == 200
    except requests.RequestException:
        return False


def split_of(rows: dict[str, list[int]]) -> dict[str, list]:
    return {"columns": list(rows), "data": [list(row) for row in zip(*rows.values(), strict=True)]}


def test_the_servers_reader_is_guarded_once_however_many_models_are_loaded():
    serving.refuse_deep_json()
    guarded = scoring_server._decode_json_input
    serving.refuse_deep_json()
    assert scoring_server._decode_json_input is guarded
    with pytest.raises(mlflow.MlflowException, match="nested too deeply") as caught:
        guarded('{"a":' * 5000)
    assert caught.value.get_http_status_code() == 400
    assert guarded('{"a": 1}') == {"a": 1}


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


@pytest.mark.parametrize(
    ("name", "better", "worse"), [("students/all/l1", 0.1, 0.2), ("accuracy/validation/all", 2, 1)]
)
def test_the_alias_moves_to_a_version_that_is_as_good_on_what_was_held_out(tracking_uri, name, better, worse):
    client, model = mlflow.MlflowClient(tracking_uri), f"chosen by {name.replace('/', ' ')}"
    client.create_registered_model(model)

    def has_alias(value: float | None) -> bool:
        tags = {"accuracy/test/all": "1"} | ({} if value is None else {name: str(value)})
        version = client.create_model_version(model, "file:///nowhere", tags=tags).version
        before = client.get_registered_model(model).aliases.get("champion")
        taken = serving._give_alias(model, str(version), "champion", name)
        after = client.get_registered_model(model).aliases.get("champion")
        assert str(after) == str(version if taken else before)
        return taken

    assert [has_alias(value) for value in (None, worse, better, worse, None, better)] == [
        False, True, True, False, False, True,
    ]  # fmt: skip


@pytest.fixture(scope="module")
def classifier() -> InvariantClassifier:
    torch.manual_seed(0)
    return InvariantClassifier([str(label) for label in range(10)]).requires_grad_(False).eval()


@pytest.fixture(scope="module")
def served_classifier(tracking_uri, classifier, tmp_path_factory) -> mlflow.pyfunc.PyFuncModel:
    export = exported(
        tmp_path_factory.mktemp("classifier"), classifier, {"labels": classifier.labels, "image_size": 32}
    )
    with mlflow.start_run():
        return mlflow.pyfunc.load_model(log_classifier(export, "test_classifier", "challenger")["model_uri"])


@pytest.mark.parametrize("dtype", [np.uint8, np.int64, np.float64])
def test_a_served_classifier_names_the_labels_of_pixels(served_classifier, classifier, expected, dtype):
    table = served_classifier.predict(expected.astype(dtype))
    own = classifier.predict(torch.from_numpy(expected).permute(0, 3, 1, 2))
    assert table["label"].tolist() == own["label"].tolist()
    np.testing.assert_allclose(table["probability"], own["probability"], rtol=1e-5)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda pixels: pixels / 255, "pixels: expected whole numbers from 0 to 255"),
        (lambda pixels: pixels.astype(int) + 256, "pixels: expected whole numbers from 0 to 255"),
        (lambda pixels: pixels.astype(int) - 256, "pixels: expected whole numbers from 0 to 255"),
        (lambda pixels: pixels.astype(str), "pixels: expected whole numbers .* got '[0-9]+'"),
        (lambda pixels: pixels[0], r"images: expected shape \[N, H, W, 3\]"),
        (lambda pixels: pixels[:, :16], r"images: expected shape \[N, 3, 32, 32\]"),
        (lambda pixels: pixels.repeat(167, 0), r"at most 500 in a request \(max_images\), got 501"),
    ],
)
def test_pixels_that_are_not_meant_so_are_refused(served_classifier, expected, change, message):
    with pytest.raises(mlflow.MlflowException, match=message) as caught:
        served_classifier.predict(change(expected))
    assert caught.value.get_http_status_code() == 400


def test_a_classifier_works_in_parts(served_classifier, expected):
    table = served_classifier.predict(expected.repeat(100, 0))
    assert len(table) == 300
    assert table["label"].nunique() <= 3
