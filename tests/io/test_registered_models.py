"""What registered models refer to, in the test session's MLflow database."""

from __future__ import annotations

from collections.abc import Iterator

import mlflow
import pytest

from pipelines.running import untouched_mlflow
from skdcgn_pipeline.artifacts.prune import tokens_in
from skdcgn_pipeline.io.registry import registered_models
from skdcgn_pipeline.runtime.errors import SettingError

NAME = "registered for a test"
IDENTITIES = ("0" * 16, "1" * 16, "2" * 16, "3" * 16)


@pytest.fixture
def client(tracking_uri: str) -> Iterator[mlflow.MlflowClient]:
    """A client of the test session's database, in which nothing is left registered."""
    client = mlflow.MlflowClient(tracking_uri)
    client.create_registered_model(NAME)
    with untouched_mlflow():
        mlflow.set_tracking_uri(tracking_uri)
        yield client
    client.delete_registered_model(NAME)


def test_versions_are_told_with_their_run_and_all_that_is_noted(client: mlflow.MlflowClient) -> None:
    run = client.create_run("0", tags={"run_id": "2026-01-01T12.00.00.000Z", "students": IDENTITIES[0]})
    client.log_param(run.info.run_id, "exported", IDENTITIES[1])
    source = f"runs:/{run.info.run_id}/model"
    client.create_model_version(NAME, source, run.info.run_id, tags={"artifact": IDENTITIES[2]})
    client.create_model_version(NAME, source, description=f"made from {IDENTITIES[3]}")

    found = {model.name: model for model in registered_models() if model.name.startswith(NAME)}

    assert set(found) == {f"{NAME} version 1", f"{NAME} version 2"}
    first, second = found[f"{NAME} version 1"], found[f"{NAME} version 2"]
    assert first.run == "2026-01-01T12.00.00.000Z"
    assert set(IDENTITIES[:3]) <= tokens_in(first.text)
    assert second.run is None
    assert IDENTITIES[3] in tokens_in(second.text)


def test_a_store_that_does_not_tell_ends_the_work(client: mlflow.MlflowClient, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*args: object, **kwargs: object) -> None:
        raise mlflow.MlflowException("the database is locked")

    monkeypatch.setattr(mlflow.MlflowClient, "search_model_versions", fail)
    with pytest.raises(SettingError, match="the database is locked"):
        registered_models()
