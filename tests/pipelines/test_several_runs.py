"""Several runs in one process, as `kedro server` makes them: one after the other, never two at once."""

from __future__ import annotations

import threading
from typing import Any

import pytest
from kedro.framework.session import KedroServiceSession

from pipelines.running import PROJECT, Place, artifacts_in, know_project, untouched_mlflow
from skdcgn_pipeline.pipelines import preflight

pytestmark = pytest.mark.slow


def test_a_session_runs_again_and_never_beside_itself(place: Place, monkeypatch: pytest.MonkeyPatch) -> None:
    know_project()
    monkeypatch.setenv("SKDCGN_DATA", str(place.data))
    monkeypatch.setenv("MLFLOW_TRACKING_URI", place.tracking_uri)
    before, check, refused = len(place.runs()), preflight.check_surroundings, list[str]()
    with untouched_mlflow():
        session = KedroServiceSession.create(project_path=PROJECT, env="test", serving_mode=True)

        def run(seed: int) -> None:
            session.run(pipeline_names=["sample"], to_outputs=["heldout_samples"], runtime_params={"seed": seed})

        def run_beside() -> None:
            with pytest.raises(ValueError, match="expected one run at a time in a process") as told:
                run(2)
            refused.append(str(told.value))

        def check_and_run_beside(*given: Any) -> Any:
            beside = threading.Thread(target=run_beside)
            beside.start()
            beside.join()
            return check(*given)

        run(0)
        with monkeypatch.context() as patch:
            patch.setattr(preflight, "check_surroundings", check_and_run_beside)
            run(1)
        monkeypatch.setattr(preflight, "check_surroundings", lambda *_: 1 / 0)
        with pytest.raises(ZeroDivisionError):
            run(2)
        monkeypatch.setattr(preflight, "check_surroundings", check)
        from_another_thread = threading.Thread(target=run, args=[3])
        from_another_thread.start()
        from_another_thread.join()

    assert len(refused) == 1
    assert [run.data.params["seed"] for run in place.runs()[: len(place.runs()) - before]] == ["3", "1", "0"]
    assert len(artifacts_in(place.store("sample"))) == 3
