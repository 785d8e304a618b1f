"""kedro-mlflow's hook, so that one run is one run and a server that fails never stops a training."""

from __future__ import annotations

import logging
from typing import Any

import mlflow
from kedro.framework.hooks import hook_impl
from kedro_mlflow.framework.hooks.mlflow_hook import MlflowHook

from skdcgn_pipeline.runtime.errors import printable, without_credentials

logger = logging.getLogger(__name__)

PLAN_TAG = "plan"


class TolerantMlflowHook(MlflowHook):
    """Replaces the plugin's own hook, see `settings.DISABLE_HOOKS_FOR_PLUGINS`.

    The plugin opens the same run once more for every node and closes it once, logs parameters node by
    node (ours are logged flat, at once), and lets every failure of the server through. It would also keep
    a run of what only says what could be done: nodes tagged `plan`.
    """

    @hook_impl
    def before_pipeline_run(self, run_params: Any, pipeline: Any, catalog: Any) -> None:
        """Start the run, unless nothing but a plan is asked for."""
        self.run_id = None
        self._is_mlflow_enabled = not all(PLAN_TAG in node.tags for node in pipeline.nodes)
        if self._is_mlflow_enabled:
            super().before_pipeline_run(without_credentials(run_params), pipeline, catalog)  # they become tags

    @hook_impl
    def before_node_run(self, node: Any, catalog: Any, inputs: Any, is_async: bool) -> None:
        """Join the run in a thread that has none yet."""
        if self.run_id is not None and mlflow.active_run() is None:
            self._tolerate("the start of a node", lambda: mlflow.start_run(run_id=self.run_id, nested=True))

    @hook_impl
    def after_pipeline_run(self, run_params: Any, pipeline: Any, catalog: Any) -> None:
        """Close the run."""
        close = super().after_pipeline_run
        self._tolerate("the end of the run", lambda: close(run_params, pipeline, catalog))

    @hook_impl
    def on_pipeline_error(self, error: Exception, run_params: Any, pipeline: Any, catalog: Any) -> None:
        """Close the run as failed."""
        close = super().on_pipeline_error
        self._tolerate("the end of the run", lambda: close(error, run_params, pipeline, catalog))

    @staticmethod
    def _tolerate(what: str, work: Any) -> None:
        try:
            work()
        except Exception as error:  # noqa: BLE001  (any failure of a server, of which there are many kinds)
            logger.warning("MLflow did not take %s (%s); results are kept on disk", what, printable(str(error)))
