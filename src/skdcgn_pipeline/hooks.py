"""Hooks: settings and surroundings are checked before any work, runs are labelled, signals are heard."""

from __future__ import annotations

import logging
import signal
import subprocess
from pathlib import Path
from typing import TYPE_CHECKING, Any

from kedro.framework.hooks import hook_impl
from kedro.io import MemoryDataset

from skdcgn_pipeline.parameters import Parameters, check_parameters

if TYPE_CHECKING:
    from kedro.framework.context import KedroContext
    from kedro.pipeline import Pipeline

logger = logging.getLogger(__name__)

# What some nodes read where an earlier run left it, and do without where none did.
OPTIONAL_INPUTS = {
    "biased_images",
    "feature_network",
    "teacher_samples",
    "student_samples",
    "heldout_samples",
    "ablation_chapter",
    # Of these, the report shows what there is at the run's scale.
    "biased_images_sheet",
    "accuracy_chart",
    "accuracy_summary",
    "invariance",
    "invariance_chart",
}
SIGNALS = (signal.SIGINT, signal.SIGTERM)


class ProjectHooks:
    """The project's hooks; torch and MLflow are imported only when a run starts."""

    def __init__(self) -> None:
        self._parameters: Parameters | None = None
        self._project_path = Path.cwd()
        self._data_root = Path("data")
        self._previous_handlers: dict[signal.Signals, Any] = {}

    @hook_impl(tryfirst=True)
    def after_context_created(self, context: KedroContext) -> None:
        """Check all parameters and the tracking server."""
        self._parameters = check_parameters(_plain(context.config_loader["parameters"]))
        self._project_path = Path(context.project_path)
        self._data_root = Path(str(context.config_loader["globals"]["data"]))
        uri = str(context.config_loader["mlflow"]["server"]["mlflow_tracking_uri"])
        if uri.startswith("http"):
            from skdcgn_pipeline.io.tracking import check_server

            check_server(uri)

    @hook_impl(tryfirst=True)
    def before_pipeline_run(self, run_params: dict[str, Any], pipeline: Pipeline, catalog: Any) -> None:
        """Check device, disk, assets and teacher, then listen for the wish to stop."""
        from skdcgn_pipeline.preflight import check_surroundings
        from skdcgn_pipeline.progress import clear_stop

        assert self._parameters is not None
        check_surroundings(self._parameters, self._data_root, {node.name for node in pipeline.nodes})
        for name in OPTIONAL_INPUTS & pipeline.inputs():
            if not catalog.exists(name):
                catalog[name] = MemoryDataset(None)
        clear_stop()
        self._listen()

    @hook_impl(trylast=True, specname="before_pipeline_run")
    def label_run(self, run_params: dict[str, Any], pipeline: Pipeline) -> None:
        """Log all settings and what tells runs apart; the run itself was started by kedro-mlflow."""
        from skdcgn_pipeline.io.tracking import log_parameters, log_tags

        assert self._parameters is not None
        log_parameters(self._parameters.model_dump(mode="json"))
        tags = {"variant": self._parameters.variant, "source": self._parameters.prepare.source}
        commit = _git_commit(self._project_path)
        log_tags(tags | ({"git_commit": commit} if commit else {}))

    @hook_impl
    def after_pipeline_run(self) -> None:
        """Stop listening."""
        self._stop_listening()

    @hook_impl
    def on_pipeline_error(self, error: Exception) -> None:
        """Stop listening."""
        self._stop_listening()

    def _listen(self) -> None:
        """Make the first signal ask for a stop at the next step; a second one ends the process as usual."""
        from skdcgn_pipeline.progress import request_stop

        def ask(number: int, frame: Any) -> None:
            self._stop_listening()
            logger.warning(
                "%s: saving the state, then stopping. Once more to stop at once.", signal.Signals(number).name
            )
            request_stop()

        for number in SIGNALS:
            try:
                self._previous_handlers[number] = signal.signal(number, ask)
            except ValueError:  # not in the main thread, where signals belong to somebody else
                return

    def _stop_listening(self) -> None:
        for number, handler in self._previous_handlers.items():
            signal.signal(number, handler)
        self._previous_handlers.clear()


def _plain(config: Any) -> dict[str, Any]:
    """Return configuration as plain dictionaries."""
    return {key: _plain(value) if isinstance(value, dict) else value for key, value in dict(config).items()}


def _git_commit(directory: Path) -> str | None:
    try:
        command = ["git", "rev-parse", "HEAD"]
        return subprocess.run(  # noqa: S603
            command, cwd=directory, capture_output=True, text=True, check=True
        ).stdout.strip()
    except (OSError, subprocess.CalledProcessError):
        return None
