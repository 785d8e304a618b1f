"""What a page tells of the run that it is of: what was asked for, when, on what, and what can be done next."""

from __future__ import annotations

import os
import platform
import sys
import time
from collections.abc import Mapping
from contextlib import suppress
from datetime import UTC, datetime
from importlib.metadata import PackageNotFoundError, version
from typing import Any

import torch

from skdcgn_pipeline import __version__
from skdcgn_pipeline.benchmark.frame import describe_machine
from skdcgn_pipeline.parameters import Parameters
from skdcgn_pipeline.reporting.report import command_of
from skdcgn_pipeline.runtime.compute import choose_device
from skdcgn_pipeline.runtime.progress import tell_duration
from skdcgn_pipeline.vocabulary import CHAIN

PACKAGES = ("torch", "numpy", "kedro", "mlflow")


def tell_facts(
    teacher: Mapping[str, Any], this_run: Mapping[str, Any], parameters: Parameters, pipeline: str = ""
) -> dict[str, str]:
    """Say what was run: command, teacher, data, seed, commit, when, how long, and on what.

    Args:
        teacher: What the teacher's images depend on, with its `name`.
        this_run: What the run knows of itself: `env`, `params`, `commit`, `started` (seconds since 1970), `seconds` of
            each stage and `mlflow_run`, as far as they are known.
        pipeline: The pipeline that makes the page again; empty for the whole chain.

    Returns:
        Name -> value; what is not known is left out. Time and memory are those of this process until now.
    """
    sha256, started = teacher.get("sha256"), this_run.get("started")
    machine = describe_machine(choose_device(parameters.compute.device))["machine"]
    facts = {
        "name": parameters.run_name,
        "command": command_of(this_run, pipeline),
        "teacher": f"{teacher['name']}" + (f", SHA-256 {sha256}" if sha256 else ""),
        "images": _tell_images(parameters),
        "seed": f"{parameters.seed}",
        "git commit": this_run.get("commit"),
        "MLflow run": this_run.get("mlflow_run"),
        "started": started and f"{datetime.fromtimestamp(started, UTC):%Y-%m-%d %H:%M:%S} UTC",
        "duration": started and f"{tell_duration(time.time() - started)} until this page",
        "stages of this run": _tell_stages(this_run.get("seconds") or {}),
        "CPU time": tell_duration(sum(os.times()[:4])),  # with that of processes that have ended
        "peak memory": _tell_memory(),
        "machine": f"{machine}, {torch.get_num_threads()} threads",
        "versions": _versions(),
    }
    return {name: value for name, value in facts.items() if value}


def next_steps(this_run: Mapping[str, Any]) -> dict[str, str]:
    """Return the commands that go on from the whole chain, by what they are for."""
    look = command_of(this_run).replace("kedro run", "kedro explore", 1)
    return {"Look closer": look, "Take it away": command_of(this_run, "export")}


def _tell_images(parameters: Parameters) -> str:
    images = parameters.images
    if images.are_coloured:
        return f"{images.source}, {parameters.variant}"
    return f"{images.source}, {images.folder}" if images.folder else images.source


def _tell_stages(seconds: Mapping[str, float]) -> str:
    order = [stage for stage in CHAIN if stage in seconds]
    order += [stage for stage in seconds if stage not in CHAIN]
    told = ", ".join(f"{stage} {seconds[stage]:,.1f} s" for stage in order)
    return told and f"{told} (what was there already is reused)"


def _tell_memory() -> str:
    """Say how much memory this process had at most; nothing where the system does not tell."""
    with suppress(ImportError):  # as on Windows
        import resource

        unit = 1 if sys.platform == "darwin" else 1024
        return f"{resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit / 2**30:.1f} GiB"
    return ""


def _versions() -> str:
    """Say which versions of packages are installed; those that are not are left out."""
    versions = [f"Python {platform.python_version()}", f"skdcgn_pipeline {__version__}"]
    for package in PACKAGES:
        with suppress(PackageNotFoundError):
            versions.append(f"{package} {version(package)}")
    return ", ".join(versions)
