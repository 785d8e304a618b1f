"""Run the project from a test: in this process, or as a command of its own that can be killed."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from copy import deepcopy
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import mlflow
import pytest
from kedro.config import OmegaConfigLoader
from kedro.framework.startup import bootstrap_project
from kill_workers import digests_in, processes_in
from mlflow.entities import Run

from skdcgn_pipeline.session import ProjectSession

PROJECT = Path(__file__).resolve().parents[2]
# Far above what anything takes on an idle core.
DEADLINE_SECONDS = 400
ATTEMPTS = 3


@contextmanager
def untouched_mlflow() -> Iterator[None]:
    """Leave no run active, no tracking address and no experiment set."""
    try:
        yield
    finally:
        while mlflow.active_run():
            mlflow.end_run()
        mlflow.set_tracking_uri(None)
        os.environ.pop("MLFLOW_EXPERIMENT_ID", None)


@cache
def know_project() -> None:
    """Tell Kedro of the project; each further time it would register all pipelines anew."""
    bootstrap_project(PROJECT)


_files: dict[tuple[str | None, str], Any] = {}  # what the project's own conf/ says, by environment and kind
_catalogs: dict[str, tuple[str, str]] = {}  # a data root and its catalog, by all else that a catalog follows from
_parameters: dict[str, dict[str, Any]] = {}  # by all that they follow from


def _resolved(loader: OmegaConfigLoader, key: str, read: Callable[[OmegaConfigLoader, str], Any]) -> Any:
    """Return settings of a kind; a catalog tells the data root in its paths alone, so one of another root will do."""
    if key not in ("catalog", "parameters") or Path(loader.conf_source) != PROJECT / "conf":
        return read(loader, key)
    shared, given = loader["globals"], loader.runtime_params or {}
    data, known = str(shared.pop("data")), repr((loader.env, shared, given))
    if key == "parameters":
        if known not in _parameters:
            _parameters[known] = read(loader, key)
        return _parameters[known]
    known = repr((loader.env, shared, given.get("variant")))
    if known not in _catalogs:
        _catalogs[known] = data, json.dumps(read(loader, key))
    root, text = _catalogs[known]
    return json.loads(text.replace(*(json.dumps(path)[1:-1] for path in (root, data))))


def _merged(config: dict[str, Any], env_config: dict[str, Any], env_path: str | None = None) -> dict[str, Any]:
    """Return what is resolved of the base and of an environment as one, as Kedro does by way of OmegaConf."""
    both = {
        name: _merged(config[name], value)
        for name, value in env_config.items()
        if isinstance(value, dict) and isinstance(config.get(name), dict)
    }
    return config | env_config | both


@contextmanager
def settings_read_once() -> Iterator[None]:
    """Read every kind of settings once: Kedro resolves the files anew each of the dozen times that a run asks.

    The project's own files, which no test changes, are parsed once for all runs, and their catalog is resolved once.
    """
    read, settings = OmegaConfigLoader.__getitem__, {}
    parse = OmegaConfigLoader._read_raw_config

    def remember(loader: OmegaConfigLoader, key: str) -> dict[str, Any]:
        if key not in settings:
            settings[key] = _resolved(loader, key, read)
        return deepcopy(settings[key])

    def parse_once(loader: OmegaConfigLoader, key: str) -> Any:
        if Path(loader.conf_source) != PROJECT / "conf":
            return parse(loader, key)
        if (loader.env, key) not in _files:
            _files[loader.env, key] = parse(loader, key)
        return deepcopy(_files[loader.env, key])

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(OmegaConfigLoader, "__getitem__", remember)
        patch.setattr(OmegaConfigLoader, "_read_raw_config", parse_once)
        patch.setattr(OmegaConfigLoader, "_soft_merge", staticmethod(_merged))
        yield


@dataclass(frozen=True)
class Finished:
    """A run that came to its end.

    Attributes:
        session_id: Kedro's version of everything that it saved.
        left_active: Whether an MLflow run was still active afterwards.
    """

    session_id: str
    left_active: bool


@dataclass(frozen=True)
class Place:
    """Where a test runs the project.

    Attributes:
        data: The data root.
        tracking_uri: MLflow's database.
    """

    data: Path
    tracking_uri: str

    def store(self, kind: str) -> Path:
        """Return the directory of all artifacts of one kind."""
        return self.data / "stores" / kind

    def run(
        self,
        *,
        env: str = "test",
        params: dict[str, Any] | None = None,
        assets: Path | None = None,
        **options: Any,
    ) -> Finished:
        """Run in this process; errors come as they are raised."""
        know_project()
        with pytest.MonkeyPatch.context() as patch, untouched_mlflow(), settings_read_once():
            patch.setenv("SKDCGN_DATA", str(self.data))
            patch.setenv("MLFLOW_TRACKING_URI", self.tracking_uri)
            if assets is not None:
                patch.setenv("SKDCGN_ASSETS", str(assets))
            # Kedro-Viz writes into a project that it finds from the working directory.
            patch.chdir(next(folder for folder in self.data.parents if folder.is_dir()))
            with ProjectSession.create(
                project_path=PROJECT, env=env, runtime_params=params or {}, save_on_close=False
            ) as session:
                session.run(**options)
            return Finished(session.session_id, mlflow.active_run() is not None)

    def start(self, *arguments: str) -> subprocess.Popen[str]:
        """Start `kedro run` with arguments as a process."""
        command = [sys.executable, "-m", "kedro", "run", *arguments]
        if not any(argument.startswith("--env") for argument in arguments):
            command += ["--env", "test"]
        surroundings = {k: v for k, v in os.environ.items() if not k.startswith(("MLFLOW_", "SKDCGN_", "KEDRO_"))}
        surroundings |= {
            "SKDCGN_DATA": str(self.data),
            "MLFLOW_TRACKING_URI": self.tracking_uri,
            "COLUMNS": "200",
            "OMP_NUM_THREADS": "1",
        }
        return subprocess.Popen(
            command,
            cwd=PROJECT,
            env=surroundings,
            text=True,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            process_group=0,
        )

    def command(self, *arguments: str) -> tuple[int, str]:
        """Run `kedro run` with arguments as a process; returns its exit status and what it printed."""
        process = self.start(*arguments)
        output = _output_of(process)
        return process.returncode, output

    def stop_when(
        self,
        reached: Callable[[], bool],
        *arguments: str,
        by: signal.Signals = signal.SIGKILL,
        to: Callable[[int, int], None] = os.kill,
    ) -> tuple[int, str]:
        """Start `kedro run` and send it a signal as soon as `reached`; returns as `command` does.

        With `os.killpg` its children get the signal too, as from a terminal. On a busy machine a run may get to its
        end unseen; it is then undone and started again.
        """
        kept = self.data.with_name("as-it-was")
        shutil.rmtree(kept, ignore_errors=True)
        if self.data.exists():
            shutil.copytree(self.data, kept)
        for _ in range(ATTEMPTS):
            process = self.start(*arguments)
            if _wait_for(process, reached):
                to(process.pid, by)
            output = _output_of(process)
            if process.returncode != 0:
                return process.returncode, output
            shutil.rmtree(self.data)
            if kept.exists():
                shutil.copytree(kept, self.data)
        pytest.fail(f"every run ended before it could be stopped:\n{output[-4000:]}")

    def processes(self) -> set[int]:
        """Return the ids of all processes that run here, by their environment."""
        return set(processes_in(self.data))

    def wait_until_alone(self) -> None:
        """Wait until no process runs here any more."""
        deadline = time.monotonic() + DEADLINE_SECONDS
        while left := self.processes():
            assert time.monotonic() < deadline, f"processes {left} stay behind"
            time.sleep(0.05)

    def saved(self, pattern: str) -> Path:
        """Return the newest version of a saved dataset, such as `07_tables/*/accuracy.csv`."""
        (directory,) = self.data.glob(pattern)
        return max(directory.iterdir(), key=lambda version: version.name) / directory.name

    def runs(self) -> list[Run]:
        """Return all MLflow runs, the newest first."""
        client = mlflow.MlflowClient(self.tracking_uri)
        experiments = [experiment.experiment_id for experiment in client.search_experiments()]
        return list(client.search_runs(experiments, order_by=["attributes.start_time DESC"], max_results=1000))

    def run_of(self, finished: Finished) -> Run:
        """Return the MLflow run of a finished run."""
        (run,) = [run for run in self.runs() if run.data.tags.get("run_id") == finished.session_id]
        return run


def _wait_for(process: subprocess.Popen[str], reached: Callable[[], bool]) -> bool:
    """Wait until `reached`; returns whether the process is still there then."""
    deadline = time.monotonic() + DEADLINE_SECONDS
    while not reached():
        if process.poll() is not None:
            return False
        if time.monotonic() > deadline:
            process.kill()
            pytest.fail(f"nothing to stop after {DEADLINE_SECONDS} s:\n{_output_of(process)[-4000:]}")
        time.sleep(0.01)
    return process.poll() is None


def _output_of(process: subprocess.Popen[str]) -> str:
    """Wait for the end of a process and return what it printed."""
    try:
        return process.communicate(timeout=DEADLINE_SECONDS)[0]
    finally:
        if process.poll() is None:
            process.kill()


def artifacts_in(store: Path) -> set[str]:
    """Return the names of the finished artifacts of a store."""
    if not store.is_dir():
        return set()
    return {p.name for p in store.iterdir() if p.is_dir() and p.suffix != ".partial"}


def partial_files(store: Path, pattern: str) -> list[Path]:
    """Return files of unfinished artifacts of a store."""
    return sorted(store.glob(f"*.partial/{pattern}"))


def content_of(folder: Path) -> dict[str, str]:
    """Return the SHA-256 of every file below a folder, lock files aside."""
    return digests_in(folder)


def state_of(folder: Path) -> dict[str, int]:
    """Return when every file below a folder was last written, lock files aside."""
    return {
        str(path.relative_to(folder)): path.stat().st_mtime_ns
        for path in sorted(folder.rglob("*"))
        if path.is_file() and path.suffix != ".lock"
    }
