"""What MLflow's registered models refer to."""

from __future__ import annotations

import mlflow
from mlflow.entities.model_registry import ModelVersion
from mlflow.exceptions import MlflowException

from skdcgn_pipeline.artifacts.prune import RegisteredModel
from skdcgn_pipeline.runtime.errors import SettingError


def registered_models() -> list[RegisteredModel]:
    """Return every version of every registered model.

    The run that made it is known by its tag `run_id`, the version of the datasets that it saved; whatever
    is noted of model, version and run may name artifacts.

    Raises:
        SettingError: If the tracking store does not tell.
    """
    try:
        return [_describe(version) for version in mlflow.search_model_versions()]
    except MlflowException as error:
        raise SettingError(
            "MLFLOW_TRACKING_URI",
            "a tracking store that tells its registered models",
            str(error).splitlines()[0],
            "Nothing has been removed, for something might be in use; make the store answer.",
        ) from error


def _describe(version: ModelVersion) -> RegisteredModel:
    notes, dataset_version = [version.description, version.source, *version.tags.values()], None
    if version.run_id:
        try:
            made_by = mlflow.get_run(version.run_id).data
        except MlflowException as error:
            if error.error_code != "RESOURCE_DOES_NOT_EXIST":
                raise
        else:
            dataset_version = made_by.tags.get("run_id")
            notes += [*made_by.tags.values(), *made_by.params.values()]
    return RegisteredModel(f"{version.name} version {version.version}", dataset_version, " ".join(filter(None, notes)))
