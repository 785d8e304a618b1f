"""kedro-mlflow's hook, so that one run is one run and a server that fails never stops a training."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import mlflow
from kedro.framework.hooks import hook_impl
from kedro_mlflow.framework.hooks.mlflow_hook import MlflowHook

from skdcgn_pipeline.io.terminal import is_interruption
from skdcgn_pipeline.runtime.errors import without_credentials
from skdcgn_pipeline.vocabulary import PLAN_TAG


def server_of(context: Any) -> str:
    """Return where MLflow's UI is: on the server itself, or where `kedro ui` opens it for a local database."""
    uri, ui = context.mlflow.server.mlflow_tracking_uri, context.mlflow.ui
    return str(uri) if uri.startswith("http") else f"http://{ui.host}:{ui.port}"


class TolerantMlflowHook(MlflowHook):
    """Replaces the plugin's own hook, whose name `hooks.ProjectHooks` has.

    The plugin opens the same run once more for every node and closes it once, logs parameters node by
    node (ours are logged flat, at once), and lets every failure of the server through. It would also keep
    a run of what only says what could be done: nodes tagged `plan`.
    """

    @hook_impl
    def after_context_created(self, context: Any) -> None:
        """Set MLflow up by its first requests: a store that is ill is refused before any work."""
        from skdcgn_pipeline.io.store_check import open_store
        from skdcgn_pipeline.io.tracking import part_from_credentials

        settings, set_up = context.config_loader["mlflow"], super().after_context_created
        uri = str(settings["server"]["mlflow_tracking_uri"])
        if uri.startswith("http"):
            uri = part_from_credentials(uri)
            server = settings["server"] | {"mlflow_tracking_uri": uri}
            context.config_loader["mlflow"] = settings | {"server": server}  # which kedro-mlflow reads
        if mlflow.active_run():  # somebody else's, whose store is used
            set_up(context)
        else:
            open_store(uri, lambda: set_up(context))

    @hook_impl
    def before_pipeline_run(self, run_params: Any, pipeline: Any, catalog: Any) -> None:
        """Start the run, unless nothing but a plan is asked for."""
        from skdcgn_pipeline.io.tracking import never_fatal

        self.run_id = None
        self._is_mlflow_enabled = not all(PLAN_TAG in node.tags for node in pipeline.nodes)
        if self._is_mlflow_enabled:
            with never_fatal("the start of the run"):
                super().before_pipeline_run(without_credentials(run_params), pipeline, catalog)  # they become tags
            self._is_mlflow_enabled = mlflow.active_run() is not None

    @hook_impl
    def before_node_run(self, node: Any, catalog: Any, inputs: Any, is_async: bool) -> None:
        """Join the run in a thread that has none yet."""
        from skdcgn_pipeline.io.tracking import answers, never_fatal

        if self.run_id is not None and mlflow.active_run() is None and answers(self.run_id):
            with never_fatal("the start of a node"):
                mlflow.start_run(run_id=self.run_id, nested=True)

    @hook_impl
    def after_pipeline_run(self, run_params: Any, pipeline: Any, catalog: Any) -> None:
        """Close the run."""
        close = super().after_pipeline_run
        self._close(lambda: close(run_params, pipeline, catalog))

    @hook_impl
    def on_pipeline_error(self, error: Exception, run_params: Any, pipeline: Any, catalog: Any) -> None:
        """Close the run as failed, or as killed where it was asked to stop."""
        close_as_failed = super().on_pipeline_error

        def close() -> None:
            close_as_failed(error, run_params, pipeline, catalog)
            if self.run_id and not self._already_active_mlflow and is_interruption(error):
                mlflow.MlflowClient().set_terminated(self.run_id, "KILLED")

        self._close(close)

    def _close(self, close: Callable[[], None]) -> None:
        from skdcgn_pipeline.io.tracking import answers, forget_runs, never_fatal

        if self.run_id is None or answers(self.run_id):
            with never_fatal("the end of the run"):
                close()
        elif not self._already_active_mlflow:
            forget_runs()
