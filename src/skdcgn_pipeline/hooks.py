"""Hooks: settings and surroundings are checked before any work, runs are labelled, signals are heard."""

from __future__ import annotations

import logging
import signal
import subprocess
import time
from collections.abc import Mapping
from contextlib import ExitStack
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click
from kedro.framework.hooks import hook_impl
from kedro.io import MemoryDataset

from skdcgn_pipeline.parameters import Parameters, check_parameters

if TYPE_CHECKING:
    from kedro.framework.context import KedroContext
    from kedro.pipeline import Pipeline

    from skdcgn_pipeline.artifacts.recipe import Run

logger = logging.getLogger(__name__)

# What some nodes read where an earlier run left it, and do without where none did.
OPTIONAL_INPUTS = {
    "biased_images",
    "feature_network",
    "teacher_samples",
    "student_samples",
    "heldout_samples",
    "ablation_chapter",
    "this_run",
    # Of these, the report shows what there is.
    "biased_images_sheet",
    "generation_metrics",
    "accuracy_chart",
    "accuracy_summary",
    "confusion_chart",
    "attention_sheet",
}
TOLD_AT_THE_END = {"student_comparison", "accuracy_summary"}
SIGNALS = (signal.SIGINT, signal.SIGTERM)


class ProjectHooks:
    """The project's hooks; torch and MLflow are imported only when a run starts."""

    def __init__(self) -> None:
        self._parameters: Parameters | None = None
        self._project_path = Path.cwd()
        self._data_root = Path("data")
        self._previous_handlers: dict[signal.Signals, Any] = {}
        self._commit: str | None = None
        self._seconds: dict[str, float] = {}  # by stage, of the current run
        self._node_starts: dict[str, float] = {}
        self._results: dict[str, Any] = {}
        self._catalog: Any = None
        self._losses: Any = None  # the listener of the current run
        self._until_the_end = ExitStack()

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
        from skdcgn_pipeline.pipelines.preflight import check_surroundings
        from skdcgn_pipeline.runtime.progress import clear_stop

        assert self._parameters is not None
        check_surroundings(self._parameters, self._data_root, {node.name for node in pipeline.nodes})
        for name in OPTIONAL_INPUTS & pipeline.inputs():
            if not catalog.exists(name):
                _replace(catalog, name, MemoryDataset(None))
        if "run" in pipeline.inputs():
            _replace(catalog, "run", MemoryDataset(self._run(), copy_mode="assign"))
        self._catalog = catalog
        self._commit = _git_commit(self._project_path)
        self._describe_to(catalog, run_params, pipeline)
        clear_stop()
        self._listen()

    @hook_impl(trylast=True, specname="before_pipeline_run")
    def label_run(self, run_params: dict[str, Any], pipeline: Pipeline) -> None:
        """Log all settings and what tells runs apart; the run itself was started by kedro-mlflow."""
        from skdcgn_pipeline.io.tracking import log_origin, log_parameters, log_tags, name_run, recorded_losses

        assert self._parameters is not None
        settings = self._parameters.model_dump(mode="json")
        log_parameters(settings)
        asked_for = describe_run(run_params)
        source, variant = self._parameters.images.source, self._parameters.variant
        name_run(f"{source} {variant}: {asked_for}, seed {self._parameters.seed}")
        log_origin(settings, asked_for)
        tags = {"variant": variant, "source": source}
        log_tags(tags | ({"git_commit": self._commit} if self._commit else {}))
        self._losses = self._until_the_end.enter_context(recorded_losses())

    def _run(self) -> Run:
        """Return what every computation of this run shares."""
        from skdcgn_pipeline.artifacts.recipe import Run, Store

        assert self._parameters is not None
        settings = self._parameters
        return Run(Store(self._data_root / "stores"), settings.seed, settings.compute, settings.assets)

    def _describe_to(self, catalog: Any, run_params: Mapping[str, Any], pipeline: Pipeline) -> None:
        """Give the report what only the running process knows; the seconds of the stages are added as they end."""
        self._seconds, self._results = {}, {}
        if "this_run" in pipeline.inputs():
            told = {
                "env": run_params.get("env"),
                "params": run_params.get("runtime_params") or {},
                "commit": self._commit,
                "seconds": self._seconds,
            }
            _replace(catalog, "this_run", MemoryDataset(told, copy_mode="assign"))

    @hook_impl
    def before_node_run(self, node: Any) -> None:
        """Look at the clock."""
        self._node_starts[node.name] = time.perf_counter()

    @hook_impl
    def after_node_run(self, node: Any) -> None:
        """Add what the node took to its stage, and send its losses."""
        self._losses.flush()
        stage = next(iter(sorted(node.tags - {"plan"})), "other")
        seconds = time.perf_counter() - self._node_starts.pop(node.name)
        self._seconds[stage] = self._seconds.get(stage, 0.0) + seconds

    @hook_impl
    def after_dataset_loaded(self, dataset_name: str, data: Any) -> None:
        """Link what the run uses."""
        self._link(dataset_name, data)

    @hook_impl
    def after_dataset_saved(self, dataset_name: str, data: Any) -> None:
        """Link, log and print what the run makes as the catalog's metadata say, and keep what is told at its end."""
        from skdcgn_pipeline.io.tracking import log_saved

        self._link(dataset_name, data)
        metadata = getattr(self._catalog.get(dataset_name), "metadata", None) or {}
        log_saved(dataset_name, data, metadata)
        if metadata.get("echo"):
            click.echo(data)
        if dataset_name in TOLD_AT_THE_END:
            self._results[dataset_name] = data

    @staticmethod
    def _link(name: str, data: Any) -> None:
        if not name.startswith("params:"):
            from skdcgn_pipeline.io.tracking import log_use

            log_use(name, data)

    @hook_impl
    def after_pipeline_run(self) -> None:
        """Stop listening, and tell a person at a terminal what was run."""
        from skdcgn_pipeline.io.terminal import show_summary

        self._end()
        show_summary(self._seconds, self._results)

    @hook_impl
    def on_pipeline_error(self, error: Exception) -> None:
        """Stop listening."""
        self._end()

    def _end(self) -> None:
        self._until_the_end.close()
        self._stop_listening()

    def _listen(self) -> None:
        """Make the first signal ask for a stop at the next step; a second one ends the process as usual."""
        from skdcgn_pipeline.runtime.progress import request_stop

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


def describe_run(run_params: Mapping[str, Any]) -> str:
    """Say which part of the project a run is, from what Kedro tells its hooks.

    Returns:
        Such as `whole chain`, `ablation`, `distill, up to shape.distil_student`.
    """
    said = " + ".join(run_params.get("pipeline_names") or ()) or "whole chain"
    chosen = {"from_nodes": "from", "from_inputs": "from", "to_nodes": "up to", "to_outputs": "up to"}
    for key, word in chosen.items():
        if run_params.get(key):
            said += f", {word} {' + '.join(run_params[key])}"
    for key in ("node_names", "tags"):
        if run_params.get(key):
            said += f", only {' + '.join(run_params[key])}"
    return said


def _plain(config: Any) -> dict[str, Any]:
    """Return configuration as plain dictionaries."""
    return {key: _plain(value) if isinstance(value, dict) else value for key, value in dict(config).items()}


def _replace(catalog: Any, name: str, dataset: MemoryDataset) -> None:
    """Put a dataset in the place of the catalog's, which Kedro would warn of."""
    kedros = logging.getLogger("kedro.io.data_catalog")
    level = kedros.level
    kedros.setLevel(logging.ERROR)
    try:
        catalog[name] = dataset
    finally:
        kedros.setLevel(level)


def _git_commit(directory: Path) -> str | None:
    try:
        command = ["git", "rev-parse", "HEAD"]
        return subprocess.run(  # noqa: S603
            command, cwd=directory, capture_output=True, text=True, check=True
        ).stdout.strip()
    except (OSError, subprocess.CalledProcessError):
        return None
