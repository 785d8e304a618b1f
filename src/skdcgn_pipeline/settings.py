"""Kedro's project settings."""

from __future__ import annotations

import os
import sys
import warnings
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import cast

import click
from kedro.config import OmegaConfigLoader
from kedro.utils import find_kedro_project

from skdcgn_pipeline.hooks import ProjectHooks
from skdcgn_pipeline.session import ProjectSession

# Both only mention internals of libraries that a user of this project cannot change.
warnings.filterwarnings("ignore", message=".*register_new_resolver.*")
warnings.filterwarnings("ignore", message="Option '--pipeline' is deprecated")
os.environ.setdefault("MLFLOW_DISABLE_TELEMETRY", "true")
os.environ.setdefault("MLFLOW_ENABLE_ARTIFACTS_PROGRESS_BAR", "false")
os.environ.setdefault("MLFLOW_SERVER_ENABLE_JOB_EXECUTION", "false")  # processes for what is not used here
# A server that stops answering must not hold up a training for minutes.
os.environ.setdefault("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "2")
os.environ.setdefault("MLFLOW_HTTP_REQUEST_TIMEOUT", "20")
# Kedro imports the commands of all plugins at each start. Those of kedro-mlflow (`init`, `ui`, `modelify`) would bring
# MLflow, seconds before a typing error is told; `kedro ui` is the project's own.
NO_COMMANDS = cast("ModuleType", SimpleNamespace(commands=click.Group("cli")))
sys.modules.setdefault("kedro_mlflow.framework.cli.cli", NO_COMMANDS)


def project_path(path: str) -> str:
    """Return a path below the project's root as an absolute one; outside of a project, below the working directory."""
    return str((find_kedro_project(Path.cwd()) or Path.cwd()) / path)


def environment_variable(name: str, default: str | None) -> str | None:
    """Return an environment variable or the default where it is unset or empty."""
    return os.environ.get(name) or default


def artifacts_beside(tracking_uri: str) -> str | None:
    """Return where MLflow keeps pictures: beside the local database; a server decides for itself."""
    _, scheme, path = tracking_uri.partition("sqlite:///")
    return str(Path(path).parent / "mlartifacts") if scheme else None


# The package's own configuration serves wherever there is no other.
CONF_SOURCE = "conf" if Path(project_path("conf")).is_dir() else str(Path(__file__).parent / "conf")
SESSION_CLASS = ProjectSession
HOOKS = (ProjectHooks(),)
CONFIG_LOADER_CLASS = OmegaConfigLoader
CONFIG_LOADER_ARGS = {
    "base_env": "base",
    "default_run_env": "local",
    "config_patterns": {"mlflow": ["mlflow*"]},
    # An environment holds only what differs.
    "merge_strategy": {"parameters": "soft", "mlflow": "soft", "catalog": "soft", "globals": "soft"},
    "custom_resolvers": {"project": project_path, "env": environment_variable, "artifacts_beside": artifacts_beside},
}
