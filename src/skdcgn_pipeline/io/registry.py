"""What MLflow's registered models refer to."""

from __future__ import annotations

import mlflow
from mlflow.exceptions import MlflowException

from skdcgn_pipeline.artifacts.prune import RegisteredModel
from skdcgn_pipeline.runtime.errors import SettingError

MODELS_PER_PAGE = 200


def registered_models(uri: str | None = None) -> list[RegisteredModel]:
    """Return every version of every registered model.

    The run that made it is known by its tag `run_id`, the version of the datasets that it saved; whatever
    is noted of model, version and run may name artifacts.

    Args:
        uri: Tracking address; the current one by default.

    Raises:
        SettingError: If the tracking store does not tell.
    """
    client = mlflow.MlflowClient(uri)
    found, token = [], None
    try:
        while True:
            page = client.search_model_versions(max_results=MODELS_PER_PAGE, page_token=token)
            found += [_describe(client, version) for version in page]
            token = page.token
            if not token:
                return found
    except MlflowException as error:
        raise SettingError(
            "MLFLOW_TRACKING_URI",
            "a tracking store that tells its registered models",
            str(error).splitlines()[0],
            "Nothing has been removed, for something might be in use; make the store answer.",
        ) from error


def _describe(client: mlflow.MlflowClient, version: mlflow.entities.model_registry.ModelVersion) -> RegisteredModel:
    told = [version.description, version.source, *version.tags.values()]
    run = None
    if version.run_id:
        try:
            made_by = client.get_run(version.run_id).data
        except MlflowException as error:
            if error.error_code != "RESOURCE_DOES_NOT_EXIST":
                raise
        else:
            run = made_by.tags.get("run_id")
            told += [*made_by.tags.values(), *made_by.params.values()]
    return RegisteredModel(f"{version.name} version {version.version}", run, " ".join(filter(None, told)))
