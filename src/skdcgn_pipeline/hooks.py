"""Hooks: settings and surroundings are checked before any work, runs are labelled, signals are heard."""

from __future__ import annotations

import logging
import shlex
import signal
import threading
import time
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click
from kedro.framework.hooks import hook_impl
from kedro.framework.project import pipelines
from kedro.io import MemoryDataset

from skdcgn_pipeline.io.terminal import prepare_logs, tell_run
from skdcgn_pipeline.parameters import Parameters, check_parameters, flatten
from skdcgn_pipeline.pipeline_registry import left_out, register_pipelines
from skdcgn_pipeline.pipelines.binding import stage_of
from skdcgn_pipeline.pipelines.variants import Variants
from skdcgn_pipeline.runtime.errors import SettingError, print_messages
from skdcgn_pipeline.runtime.extensions import look_in
from skdcgn_pipeline.vocabulary import CHAIN, MECHANISMS

if TYPE_CHECKING:
    from kedro.framework.context import KedroContext
    from kedro.pipeline import Pipeline

logger = logging.getLogger(__name__)

# Settings that every node is told, by the run itself or through what tells it apart.
OF_EVERY_RUN = {"seed", "name", "images", "variant", "assets", "compute", "engine"}
# Sections that no other stage reads than the one that they are named after.
OF_ONE_STAGE = {"ablation", "baseline", "benchmark", "evaluate", "export", "fetch", "prune", "keep_last"}
SHOWN_AT_THE_END = {"student_comparison", "accuracy_summary"}
PAGES = {"report": "Report", "ablation_page": "Study"}
# What is exported, and how its folder is opened.
EXPORTS = {"student_export": "StudentCGN", "classifier_export": "InvariantClassifier"}
# What the report tells of; it is what comes next.
TOLD_BY_REPORT = {"fetch", *CHAIN, "ablation"}


class ProjectHooks:
    """The project's hooks; torch and MLflow are imported only when a run starts."""

    # The name of kedro-mlflow's own, which is then neither imported, for seconds, nor registered: `io.mlflow_hook`
    # stands for it.
    __name__ = "mlflow_hook"

    def __init__(self) -> None:
        self._parameters: Parameters  # this and the next two: once the context is there
        self._project_path: Path
        self._data_root: Path
        self._seconds: dict[str, float] = {}  # by stage, of the current run
        self._node_starts: dict[str, float] = {}
        self._results: dict[str, Any] = {}
        self._catalog: Any = None
        self._this_run: dict[str, Any] = {}
        self._server = ""  # where MLflow's UI is
        self._places: dict[str, str] = {}  # of what a run makes for people, for its end
        self._losses: Any = None  # the listener of the current run
        self._until_the_end = ExitStack()
        # All of this is of one run, so a process has one at a time; the threads that last read settings, and that run:
        self._reading: threading.Thread | None = None
        self._running: threading.Thread | None = None

    @hook_impl(tryfirst=True)
    def after_context_created(self, context: KedroContext) -> None:
        """Check all parameters, make the pipelines that they ask for, whoever runs or shows them, and let MLflow in.

        Its import takes seconds. Names of files steer no terminal.
        """
        prepare_logs()
        print_messages()
        self._refuse_beside(self._running)
        self._reading = threading.current_thread()
        self._parameters = check_parameters(context.config_loader["parameters"])
        pipelines.update(register_pipelines(Variants.of(self._parameters)))
        self._project_path = Path(context.project_path)
        look_in(self._project_path)
        self._data_root = Path(str(context.config_loader["globals"]["data"]))
        from skdcgn_pipeline.io.mlflow_hook import TolerantMlflowHook, server_of

        for plugin in context._hook_manager.get_plugins():
            if isinstance(plugin, TolerantMlflowHook):  # of an earlier run of a session that has several
                context._hook_manager.unregister(plugin)
        mlflow_hook = TolerantMlflowHook()
        mlflow_hook.after_context_created(context)
        context._hook_manager.register(mlflow_hook)
        self._server = server_of(context)

    @hook_impl(tryfirst=True)
    def before_pipeline_run(self, run_params: dict[str, Any], pipeline: Pipeline, catalog: Any) -> None:
        """Check device, disk, assets and teacher, tell nodes what they share, then listen for the wish to stop."""
        self._refuse_beside(self._running)
        self._refuse_beside(self._reading)
        self._running = threading.current_thread()
        self._until_the_end.callback(setattr, self, "_running", None)
        try:
            self._begin(run_params, pipeline, catalog)
        except BaseException:
            self._until_the_end.close()
            raise

    @staticmethod
    def _refuse_beside(thread: threading.Thread | None) -> None:
        """Refuse a run beside one of another thread with a `SettingError`."""
        if thread is not None and thread is not threading.current_thread() and thread.is_alive():
            remedy = "Wait for its end, or start a process for each: they may share a data root."
            raise SettingError("kedro run", "one run at a time in a process", "a second one", remedy)

    def _begin(self, run_params: dict[str, Any], pipeline: Pipeline, catalog: Any) -> None:
        from mlflow.utils.git_utils import get_git_commit

        from skdcgn_pipeline.artifacts.recipe import Run, Store
        from skdcgn_pipeline.io.datasets import read_as_of
        from skdcgn_pipeline.pipelines.preflight import absent_inputs, check_surroundings
        from skdcgn_pipeline.runtime.engine import choose_engine

        settings = self._parameters
        check_surroundings(settings, self._data_root, pipeline)
        read_as_of(catalog, pipeline.datasets(), run_params["run_id"])
        self._catalog, self._seconds, self._results, self._places = catalog, {}, {}, {}
        store = Store(self._data_root / "stores")
        self._this_run = {
            "env": run_params.get("env"),
            "params": run_params.get("runtime_params") or {},
            "commit": get_git_commit(str(self._project_path)),
            "started": time.time(),
            "seconds": self._seconds,  # added as stages end
        }
        engine = choose_engine(settings.engine)
        self._until_the_end.callback(engine.close)
        run = Run(store, settings.seed, settings.compute, settings.assets, engine)
        made = pipeline.all_outputs()
        asked = [mechanism for mechanism in MECHANISMS if f"{mechanism}_student" in made]
        shared = {"run": run, "this_run": self._this_run, "asked_students": asked}
        for name in pipeline.inputs() & shared.keys():
            catalog.get(name).save(shared[name])
        foreign = left_out(Variants.of(settings))
        if foreign:
            logger.warning(
                "There are no real images (images.source): nothing is classified, and features are not measured."
            )
        for name in absent_inputs(pipeline, catalog, run_params.get("load_versions") or (), foreign):
            _make_absent(catalog, name)
        self._until_the_end.enter_context(stopping_by_signals())

    @hook_impl(trylast=True, specname="before_pipeline_run")
    def label_run(self, run_params: dict[str, Any], pipeline: Pipeline) -> None:
        """Log the settings that the run reads and what tells runs apart; the run was started by kedro-mlflow."""
        from mlflow.utils.mlflow_tags import MLFLOW_RUN_NAME

        from skdcgn_pipeline.io import tracking

        settings = self._parameters.model_dump(mode="json")
        tracking.log_parameters(settings_read(settings, pipeline), self._project_path)
        asked_for = describe_run(run_params)
        source, variant = self._parameters.images.source, self._parameters.variant
        of_protocol = self._parameters.images.are_coloured and self._parameters.name is None
        called = f"{source} {variant}" if of_protocol else self._parameters.run_name
        name = f"{called}: {asked_for}, seed {self._parameters.seed}"
        tracking.log_origin(settings, asked_for)
        if run := tracking.active_run():
            self._places["MLflow"] = tracking.address_of(self._server, run.info.experiment_id, run.info.run_id)
            self._this_run["mlflow_run"] = run.info.run_id
        tags = {MLFLOW_RUN_NAME: name, "variant": variant, "source": source}
        tags["kedro_command"] = command_again(self._this_run, run_params)  # kedro-mlflow's own leaves most of it out
        changed = flatten(run_params.get("runtime_params") or {})
        tags["settings.changed"] = ", ".join(f"{key}={value}" for key, value in changed.items()) or "nothing"
        commit = self._this_run["commit"]
        tracking.log_tags(tags | ({"git_commit": commit} if commit else {}))
        self._losses = self._until_the_end.enter_context(tracking.recorded_losses())

    @hook_impl
    def before_node_run(self, node: Any) -> None:
        """Look at the clock."""
        self._node_starts[node.name] = time.perf_counter()

    @hook_impl
    def after_node_run(self, node: Any) -> None:
        """Add what the node took to its stage, and send its losses."""
        self._losses.flush()
        stage = stage_of(node)
        seconds = time.perf_counter() - self._node_starts.pop(node.name)
        self._seconds[stage] = self._seconds.get(stage, 0.0) + seconds

    @hook_impl
    def after_dataset_loaded(self, dataset_name: str, data: Any) -> None:
        """Link what the run uses."""
        from skdcgn_pipeline.io.tracking import log_use

        log_use(dataset_name, data)

    @hook_impl
    def after_dataset_saved(self, dataset_name: str, data: Any) -> None:
        """Link, log and print what the run makes as the catalog's metadata say, and keep what is shown at its end."""
        from skdcgn_pipeline.io.tracking import log_metrics, log_saved, log_use
        from skdcgn_pipeline.reporting.headlines import headlines

        metadata = getattr(self._catalog.get(dataset_name), "metadata", None) or {}
        log_use(dataset_name, data)
        log_saved(dataset_name, data, metadata)
        if metadata.get("echo"):
            click.echo(data)
        if dataset_name in SHOWN_AT_THE_END:
            self._results[dataset_name] = data
            log_metrics({f"headline/{what}": value for what, value, _ in headlines({dataset_name: data})})
        if dataset_name in PAGES:
            self._places = {PAGES[dataset_name]: self._catalog.get(dataset_name)._get_load_path(), **self._places}
        if dataset_name in EXPORTS:
            self._places[f"Open it by {EXPORTS[dataset_name]}.from_pretrained"] = str(data.directory)

    @hook_impl
    def after_pipeline_run(self) -> None:
        """Stop listening, and tell what was run, what came out, where it is and what is next."""
        self._until_the_end.close()
        click.echo(tell_run(self._seconds, self._results, self._places | self._next_steps()))

    def _next_steps(self) -> dict[str, str]:
        """Return the commands that go on from a run of the chain or a part of it."""
        from skdcgn_pipeline.reporting.facts import next_steps
        from skdcgn_pipeline.reporting.report import command_of

        if PAGES["report"] in self._places:
            return next_steps(self._this_run)
        return {"Next": command_of(self._this_run, "report")} if self._seconds.keys() <= TOLD_BY_REPORT else {}

    @hook_impl
    def on_pipeline_error(self) -> None:
        """Stop listening."""
        self._until_the_end.close()


@contextmanager
def stopping_by_signals() -> Iterator[None]:
    """Let the first SIGINT or SIGTERM ask for a stop at the next step; a second one stops at once."""
    from skdcgn_pipeline.runtime.errors import InterruptedRunError
    from skdcgn_pipeline.runtime.progress import clear_stop, request_stop

    handlers: dict[signal.Signals, Any] = {}

    def restore() -> None:
        while handlers:
            signal.signal(*handlers.popitem())

    def ask(number: int, frame: Any) -> None:
        restore()
        if number == signal.SIGINT:
            handlers[signal.SIGINT] = signal.signal(number, stop_at_once)
        logger.warning("%s: saving the state, then stopping. Once more to stop at once.", signal.Signals(number).name)
        request_stop()

    def stop_at_once(number: int, frame: Any) -> None:
        raise InterruptedRunError("Stopped at once. Repeat the same command to go on from what was saved before.")

    clear_stop()
    with suppress(ValueError):  # not in the main thread, where signals belong to somebody else
        for number in (signal.SIGINT, signal.SIGTERM):
            handlers[number] = signal.signal(number, ask)
    try:
        yield
    finally:
        restore()


def describe_run(run_params: Mapping[str, Any]) -> str:
    """Say which part of the project a run is, from what Kedro tells its hooks.

    Returns:
        Such as `whole chain`, `ablation`, `distill, up to distill.shape.distil_student`.
    """
    parts = [" + ".join(run_params.get("pipeline_names") or ()) or "whole chain"]
    chosen = {"from_nodes": "from", "from_inputs": "from", "to_nodes": "up to", "to_outputs": "up to"}
    for key, word in (chosen | {"node_names": "only", "tags": "only"}).items():
        if run_params.get(key):
            parts.append(f"{word} {' + '.join(run_params[key])}")
    return ", ".join(parts)


def command_again(this_run: Mapping[str, Any], run_params: Mapping[str, Any]) -> str:
    """Return the command that does a run again, for a shell, from what Kedro tells its hooks."""
    from skdcgn_pipeline.reporting.report import command_of

    command = command_of(this_run, ",".join(run_params.get("pipeline_names") or ()))
    versions = [f"{name}:{version}" for name, version in (run_params.get("load_versions") or {}).items()]
    chosen = ("from_nodes", "to_nodes", "from_inputs", "to_outputs", "tags")
    options = {"nodes": run_params.get("node_names"), "load-versions": versions}
    options |= {name.replace("_", "-"): run_params.get(name) for name in chosen}
    told = [f"--{option} {shlex.quote(','.join(values))}" for option, values in options.items() if values]
    return " ".join([command, *told, *(["--only-missing-outputs"] if run_params.get("only_missing_outputs") else [])])


def settings_read(settings: Mapping[str, Any], pipeline: Pipeline) -> dict[str, Any]:
    """Return the settings, by dotted names, that the nodes of a pipeline read.

    Of nodes that are given all, everything but what only stages read that are not among them.
    """
    read = OF_EVERY_RUN | {name.removeprefix("params:") for name in pipeline.inputs() if name.startswith("params:")}
    if "parameters" in pipeline.inputs():
        read |= settings.keys() - (OF_ONE_STAGE - {tag for node in pipeline.nodes for tag in node.tags})
    return {
        name: value
        for name, value in flatten(settings).items()
        if any(name == section or name.startswith(f"{section}.") for section in read)
    }


def _make_absent(catalog: Any, name: str) -> None:
    """Let nodes that can do without a dataset read None, without Kedro's warning that an entry is replaced."""
    kedros = logging.getLogger("kedro.io.data_catalog")
    level = kedros.level
    kedros.setLevel(logging.ERROR)
    try:
        catalog[name] = MemoryDataset(None)
    finally:
        kedros.setLevel(level)
