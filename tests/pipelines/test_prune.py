"""The prune stage on a place with made-up runs."""

from __future__ import annotations

import json

import mlflow
import pandas as pd
import pytest

from pipelines.running import Place, content_of
from skdcgn_pipeline.artifacts.store import build_artifact
from skdcgn_pipeline.pipelines.prune import nodes

pytestmark = pytest.mark.slow
RUNS = [f"2026-01-0{number}T12.00.00.000Z" for number in range(1, 5)]
MODEL = "of the first run"


@pytest.fixture
def identities(place: Place) -> list[str]:
    """Four runs, each with students of its own in a version of the dataset."""
    found = []
    for run in RUNS:
        made = build_artifact(place.store("student"), {"run": run}, lambda writer: writer.write_json("it.json", 0))
        version = place.data / "06_models" / "students.json" / run / "students.json"
        version.parent.mkdir(parents=True)
        version.write_text(json.dumps({"identity": made.identity}))
        found.append(made.identity)
    return found


def test_only_confirmed_pruning_removes_and_registered_models_keep_theirs(
    place: Place, identities: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    client = mlflow.MlflowClient(place.tracking_uri)
    made_by = client.create_run("0", tags={"run_id": RUNS[0]}).info.run_id
    client.create_registered_model(MODEL)
    client.create_model_version(MODEL, f"runs:/{made_by}/model", made_by)
    before = content_of(place.data)
    try:
        listed = place.run(pipeline_names=["prune"], params={"keep_last": 1})

        told = capsys.readouterr().out
        assert "4 of 8 would be removed" in told
        assert "Nothing has been removed; add prune.confirm=true" in told
        assert before.items() <= content_of(place.data).items()

        place.run(pipeline_names=["prune"], params={"keep_last": 1, "prune": {"confirm": True}})
    finally:
        client.delete_registered_model(MODEL)

    # The table of the first run is its dataset's last version.
    assert "4 of 9 removed" in capsys.readouterr().out
    kept = {path.name for path in place.store("student").iterdir() if path.is_dir()}
    assert kept == {identities[0], identities[3]}
    versions = {path.name for path in (place.data / "06_models" / "students.json").iterdir()}
    assert versions == {RUNS[0], RUNS[3]}
    table = pd.read_csv(place.saved("07_tables/pruned.csv")).set_index("what")
    assert table["kept"].sum() == 5
    gone = f"stores/student/{identities[1]}"
    assert table.loc[gone, "why"] == "only versions that go name it"
    assert table.loc[f"06_models/students.json/{RUNS[0]}", "why"].startswith(f"the registered model {MODEL} version 1")
    artifacts = client.list_artifacts(place.run_of(listed).info.run_id, "tables")
    assert [file.path for file in artifacts] == ["tables/pruned.csv"]


def test_pruning_needs_no_free_space(place: Place, identities: list[str], monkeypatch: pytest.MonkeyPatch) -> None:
    """What makes space is not refused for want of it."""
    from skdcgn_pipeline.pipelines import preflight

    asked = []
    monkeypatch.setattr(preflight, "check_writable", lambda directory, needed=0: asked.append(needed))
    monkeypatch.setattr(nodes, "registered_models", list)

    place.run(pipeline_names=["prune"])

    assert asked == [0]
