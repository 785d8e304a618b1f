"""What goes to MLflow, and nothing when no run is active. A server that fails never stops a training."""

from __future__ import annotations

import json
import logging
import math
import os
import pkgutil
import re
import time
from base64 import b64encode
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from functools import wraps
from pathlib import Path
from threading import Lock
from typing import Any, Concatenate, ParamSpec
from urllib.parse import unquote, urlsplit

import mlflow
import numpy as np
import pandas as pd
from mlflow.entities import Dataset, DatasetInput, InputTag, Metric, Param, RunTag
from mlflow.tracking.fluent import _active_run_stack
from mlflow.tracking.request_header.abstract_request_header_provider import RequestHeaderProvider
from mlflow.tracking.request_header.registry import _request_header_provider_registry
from mlflow.utils.mlflow_tags import MLFLOW_DATASET_CONTEXT, MLFLOW_RUN_NOTE
from PIL import Image

from skdcgn_pipeline.artifacts.store import Artifact, identity_of
from skdcgn_pipeline.classifiers.accuracy import metric_name
from skdcgn_pipeline.images.stored import StoredImages
from skdcgn_pipeline.io.store_check import within
from skdcgn_pipeline.parameters import flatten
from skdcgn_pipeline.reporting.templates import in_markdown
from skdcgn_pipeline.runtime.errors import printable, without_credentials
from skdcgn_pipeline.runtime.recording import listening
from skdcgn_pipeline.samples.shards import Shards
from skdcgn_pipeline.studies.contract import UnitResult
from skdcgn_pipeline.teachers.teacher import IdentifiedTeacher

logger = logging.getLogger(__name__)

CORE = "skdcgn_pipeline"
FLUSH_EVERY_METRICS = 500
PARAMS_PER_BATCH = 100
MAX_PARAM_LENGTH = 6000
MAX_TAG_LENGTH = 8000
SECONDS_TO_LOG = 100.0  # a request and its retries; a server that drips would hold up the run
P = ParamSpec("P")


_notes: dict[str, dict[str, str]] = {}  # run -> title -> section
_linked: set[tuple[str, str]] = set()  # run and name of the artifacts that are linked already
_given_up: set[str] = set()  # runs whose store failed once; each further try could block for minutes


def active_run() -> mlflow.ActiveRun | None:
    """Return the run to log to, if there is one whose store still answers."""
    run = mlflow.active_run()
    return run if run is not None and answers(run.info.run_id) else None


def answers(run_id: str) -> bool:
    """Tell whether the store of a run has never failed."""
    return run_id not in _given_up


def forget_runs() -> None:
    """Leave no run active without a request, where the store has failed; MLflow's own way would wait for it."""
    _active_run_stack.get().clear()


def _allowed(name: str) -> str:
    """Return a setting's name as MLflow takes it: one that it refuses would end the logging of the run."""
    return re.sub(r"[^\w/. :-]", " ", name)


def metric_slug(name: str) -> str:
    """Return a metric's name as all are written: letters of any script, digits, `_.-`; groups apart by slashes."""
    parts = [re.sub(r"[^\w.-]+", "_", part.lower()).strip("_") for part in name.split("/")]
    return "/".join(filter(None, parts)) or "unnamed"


@contextmanager
def never_fatal(what: str, run: mlflow.ActiveRun | None = None) -> Iterator[None]:
    """Turn a failure to log into a warning, and log nothing more to this run: results are on disk.

    `run` is the active one where none is given.
    """
    try:
        yield
    except Exception as error:  # noqa: BLE001  (any failure of a server, of which there are many kinds)
        reason = printable(str(error))
        logger.warning("MLflow did not take %s (%s); the run goes on without, results are kept on disk", what, reason)
        run = run or mlflow.active_run()
        if run is not None:
            _given_up.add(run.info.run_id)


def for_active_run(what: str) -> Callable[[Callable[Concatenate[mlflow.ActiveRun, P], None]], Callable[P, None]]:
    """Give a function the active run: without one it does nothing, and its failure is never fatal.

    Args:
        what: What the function logs, for the warning; `{0}` is its first argument.
    """

    def with_run(function: Callable[Concatenate[mlflow.ActiveRun, P], None]) -> Callable[P, None]:
        @wraps(function)
        def log(*args: P.args, **kwargs: P.kwargs) -> None:
            run = active_run()
            if run is not None:
                with never_fatal(what.format(*args)):
                    within(SECONDS_TO_LOG, lambda: function(run, *args, **kwargs))

        return log

    return with_run


class UserAlone(RequestHeaderProvider):  # type: ignore[misc]  # untyped in MLflow
    """Names a user without a password to the server, such as a token; MLflow's variables take both or nothing."""

    user = ""

    def in_context(self) -> bool:
        """Tell whether there is one."""
        return bool(UserAlone.user)

    def request_headers(self) -> dict[str, str]:
        """Return the header that names the user."""
        return {"Authorization": f"Basic {b64encode(f'{UserAlone.user}:'.encode()).decode()}"}


_request_header_provider_registry.register(UserAlone)


def part_from_credentials(uri: str) -> str:
    """Hand user and password in a server's address to MLflow by its variables; returns the address without."""
    parts = urlsplit(uri)
    if parts.username:
        user, password = unquote(parts.username), parts.password or ""
        if password:
            os.environ["MLFLOW_TRACKING_PASSWORD"] = unquote(password)
        UserAlone.user = "" if os.environ.get("MLFLOW_TRACKING_PASSWORD") else user
        os.environ["MLFLOW_TRACKING_USERNAME"] = user
    return without_credentials(uri)


def address_of(server: str, experiment: str, run: str = "") -> str:
    """Return where the UI of a server shows a run, or an experiment's runs; its own first page shows none."""
    page = f"runs/{run}" if run else "runs?workflowType=machine_learning"
    return f"{server.rstrip('/')}/#/experiments/{experiment}/{page}"


@for_active_run("the parameters")
def log_parameters(run: mlflow.ActiveRun, parameters: Mapping[str, Any], root: Path | None = None) -> None:
    """Log settings, nested or under dotted names, in batches; paths below a root as relative to it."""
    above = f"{root}{os.sep}" if root else ""
    told = {name: str(value).replace(above, "") if above else str(value) for name, value in flatten(parameters).items()}
    params = [Param(_allowed(name), value[:MAX_PARAM_LENGTH]) for name, value in sorted(told.items())]
    for first in range(0, len(params), PARAMS_PER_BATCH):
        mlflow.MlflowClient().log_batch(run.info.run_id, params=params[first : first + PARAMS_PER_BATCH])


def _set_tags(run: mlflow.ActiveRun, tags: Mapping[str, str]) -> None:
    mlflow.MlflowClient().log_batch(run.info.run_id, tags=[RunTag(key, value) for key, value in tags.items()])


log_tags = for_active_run("the tags")(_set_tags)


@for_active_run("the description")
def log_note(run: mlflow.ActiveRun, title: str, text: str) -> None:
    """Put a section of Markdown into the description that the UI shows above the active run.

    A section of the same title is replaced. The description ends at the last section that fits.
    """
    sections = _notes.setdefault(run.info.run_id, {})
    sections[title] = text.strip()
    note = ""
    for heading, section in sections.items():
        longer = f"{note}## {heading}\n\n{section}\n\n"
        if len(longer) > MAX_TAG_LENGTH:
            break
        note = longer
    _set_tags(run, {MLFLOW_RUN_NOTE: note.rstrip()})


def as_markdown(table: pd.DataFrame, digits: int = 4) -> str:
    """Return a table in Markdown; numbers with so many significant digits, empty where there is none."""

    def told(value: Any) -> str:
        if value is None or (isinstance(value, float) and math.isnan(value)):
            return ""
        return f"{value:.{digits}g}" if isinstance(value, float) else in_markdown(str(value))

    head = [str(name).replace("_", " ") for name in table.columns]
    rows = [head, ["---"] * len(head), *([told(value) for value in row] for row in table.itertuples(index=False))]
    return "\n".join(f"| {' | '.join(row)} |" for row in rows)


@for_active_run("what it was asked for")
def log_origin(run: mlflow.ActiveRun, settings: Mapping[str, Any], asked_for: str) -> None:
    """Tag the active run with what it is a run of and, if an earlier try at it did not end, with that one.

    The tag `asked_for` is a hash of the settings and what was asked for; `resumed_from` names the latest run
    with the same hash when it did not finish: this run goes on from what that one left on disk.

    Args:
        asked_for: The stages or nodes that the run consists of.
    """
    identity = identity_of({"settings": settings, "asked_for": asked_for})
    earlier = mlflow.MlflowClient().search_runs(
        [run.info.experiment_id], f"tags.asked_for = '{identity}'", order_by=["attributes.start_time DESC"]
    )
    others = [other.info for other in earlier if other.info.run_id != run.info.run_id]
    resumed = others and others[0].status != "FINISHED"
    _set_tags(run, {"asked_for": identity} | ({"resumed_from": others[0].run_id} if resumed else {}))


@for_active_run("the input {0}")
def log_use(run: mlflow.ActiveRun, name: str, data: Any) -> None:
    """Link an artifact to the active run: images as inputs that the UI lists, others by a tag of their name.

    A teacher is told by tags of its name and files.

    Args:
        name: What the catalog calls it.
        data: Anything; what is no artifact and has none is left alone.
    """
    is_teacher = isinstance(data, IdentifiedTeacher)
    artifact: Any = data if isinstance(data, Artifact) else getattr(data, "artifact", None)
    if (run.info.run_id, name) in _linked or not (is_teacher or isinstance(artifact, Artifact)):
        return
    _linked.add((run.info.run_id, name))
    if is_teacher:
        _set_tags(run, _tags_of(data))
    elif not isinstance(data, StoredImages | Shards):
        release = artifact.inputs.get("released")
        _set_tags(run, {f"made.{name}": artifact.identity} | ({"students": f"released {release}"} if release else {}))
    else:
        source = json.dumps({"uri": str(artifact.directory)})
        profile = json.dumps({"kind": str(artifact.inputs.get("kind", "")), "files": len(artifact.manifest["files"])})
        images = Dataset(name, artifact.identity, "local", source, profile=profile)
        context = InputTag(MLFLOW_DATASET_CONTEXT, name)
        mlflow.MlflowClient().log_inputs(run.info.run_id, [DatasetInput(images, [context])])


def _tags_of(teacher: IdentifiedTeacher) -> dict[str, str]:
    """Return a teacher's name and digests; an ImageNet CGN may have a file for each of its networks."""
    sha256 = teacher.identity["sha256"]
    files = {"": sha256} if isinstance(sha256, str) else sha256
    digests = {f"teacher_sha256 {part.rstrip('.')}".rstrip(): digest for part, digest in files.items()}
    return {"teacher": teacher.identity["name"], **digests}


@for_active_run("metrics")
def log_metrics(run: mlflow.ActiveRun, metrics: Mapping[str, float]) -> None:
    """Log result metrics to the active run; values that are not finite are left out.

    How many images, seeds or other things were measured (`.../num_<things>`) is no result, but a tag `count/...`.
    """
    now, told = int(time.time() * 1000), {metric_slug(key): value for key, value in metrics.items()}
    finite = {key: float(value) for key, value in told.items() if value is not None and math.isfinite(value)}
    counts = {key for key in finite if key.rpartition("/")[2].startswith("num_")}
    entries = [Metric(key, value, now, 0) for key, value in finite.items() if key not in counts]
    tags = [RunTag(f"count/{key}", f"{finite[key]:.0f}") for key in sorted(counts)]
    mlflow.MlflowClient().log_batch(run.info.run_id, metrics=entries, tags=tags)


class LossLog:
    """Hears what trainings tell (`runtime.recording`): losses by step become `<training>/loss/<name>`, in batches.

    Trainings may run in any thread; the run is the one that was active when this was made.
    """

    def __init__(self) -> None:
        self._run = active_run()  # other threads have none
        self._pending: list[Metric] = []
        self._lock = Lock()

    def __call__(self, training: str, step: int, losses: Mapping[str, float]) -> None:
        """Keep the losses of a step; send what there is when it is much."""
        now = int(time.time() * 1000)
        with self._lock:
            self._pending.extend(
                Metric(metric_slug(f"{training}/loss/{name}"), v, now, step) for name, v in losses.items()
            )
            full = len(self._pending) >= FLUSH_EVERY_METRICS
        if full:
            self.flush()

    def flush(self) -> None:
        """Send what there is."""
        with self._lock:
            pending, self._pending = self._pending, []
        if self._run is not None and answers(self._run.info.run_id) and pending:
            number = self._run.info.run_id
            with never_fatal("losses", self._run):
                within(SECONDS_TO_LOG, lambda: mlflow.MlflowClient().log_batch(number, metrics=pending))


@contextmanager
def recorded_losses() -> Iterator[LossLog]:
    """Log the losses of all trainings inside the block."""
    log = LossLog()
    try:
        with listening(log):
            yield log
    finally:
        log.flush()


def log_saved(dataset: str, data: Any, metadata: Mapping[str, Any]) -> None:
    """Log a saved dataset where the catalog's metadata has `mlflow`.

    It is a mapping, perhaps empty, of

    - `name`, in place of the dataset's: a picture becomes `pictures/<name>.png`, a table `tables/<name>.csv`, a text
      the file `<name>`;
    - `file`, a pattern of the text of an artifact that is logged;
    - `metrics`, a function of the core (`module.function`) from a table to numbers by name, and their `prefix`;
    - `note`, the title of a section of the run's description that shows a table, and the `columns` that it shows.
    """
    if "mlflow" not in metadata or active_run() is None:
        return
    wishes: dict[str, Any] = dict(metadata["mlflow"])
    name = wishes.get("name", dataset)
    if isinstance(data, np.ndarray):
        log_picture(name, data)
    elif isinstance(data, str):
        log_text(name, data)
    elif isinstance(data, Artifact):
        log_text(name, next(data.directory.glob(wishes["file"])).read_text(encoding="utf-8"))
    elif isinstance(data, pd.DataFrame):
        log_table(name, data)
        if "metrics" in wishes:
            numbers = pkgutil.resolve_name(f"{CORE}.{wishes['metrics']}")(data)
            log_metrics({f"{wishes.get('prefix', '')}{key}": value for key, value in numbers.items()})
        if "note" in wishes:
            log_note(wishes["note"], as_markdown(data[list(wishes.get("columns", data.columns))]))


@for_active_run("the picture {0}")
def log_picture(run: mlflow.ActiveRun, name: str, picture: np.ndarray) -> None:
    """Log an RGB picture as the artifact `pictures/<name>.png`."""
    mlflow.MlflowClient().log_image(run.info.run_id, Image.fromarray(picture), f"pictures/{name}.png")


@for_active_run("the table {0}")
def log_table(run: mlflow.ActiveRun, name: str, table: pd.DataFrame) -> None:
    """Log a table as the artifact `tables/<name>.csv`."""
    mlflow.MlflowClient().log_text(run.info.run_id, table.to_csv(index=False), f"tables/{name}.csv")


@for_active_run("the text {0}")
def log_text(run: mlflow.ActiveRun, name: str, text: str) -> None:
    """Log a text or an HTML page as an artifact."""
    mlflow.MlflowClient().log_text(run.info.run_id, text, name)


@for_active_run("the nested run {0.unit.cell.name}")
def log_unit(parent: mlflow.ActiveRun, result: UnitResult) -> None:
    """Log one classifier of the ablation as a finished run below the active one.

    It is tagged `study`, `cell` and `seed`, has the cell's description as parameters and everything
    measured as metrics; a failed one has the status FAILED and its error as a tag.
    """
    cell, number = result.unit.cell, result.unit.number
    described = {name: value for name, value in cell.describe().items() if value not in (None, "")}
    metrics = {name: value for name, value in result.result.get("facts", {}).items() if value is not None}
    for row in result.result.get("accuracy", []):
        metrics[metric_name(row["split"], row["subset"])] = row["accuracy"]
    end = int(time.time() * 1000)
    start = end - int(1000 * (result.seconds or 0))
    tags = {
        "mlflow.parentRunId": parent.info.run_id,
        "study": cell.study,
        "cell": cell.name,
        "seed": str(number),
        "computed": "failed" if result.error else "before" if result.seconds is None else "in this run",
    }
    if result.error:
        tags["error"] = result.error[:MAX_PARAM_LENGTH]
    client = mlflow.MlflowClient()
    run = client.create_run(parent.info.experiment_id, start, tags, f"{cell.study}: {cell.name}, seed {number}")
    client.log_batch(
        run.info.run_id,
        metrics=[Metric(metric_slug(key), float(value), end, 0) for key, value in metrics.items()],
        params=[Param(_allowed(key), str(value)[:MAX_PARAM_LENGTH]) for key, value in described.items()],
    )
    client.set_terminated(run.info.run_id, "FAILED" if result.error else "FINISHED", end)
