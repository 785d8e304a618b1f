"""Nodes of the benchmark stage."""

from functools import partial
from typing import Any

import pandas as pd

from skdcgn_pipeline.artifacts.recipe import Run
from skdcgn_pipeline.benchmark import networks
from skdcgn_pipeline.benchmark.run import MEASURES, Workload
from skdcgn_pipeline.parameters import check_parameters
from skdcgn_pipeline.reporting.report import command_of
from skdcgn_pipeline.samples.drawing import SampleShards
from skdcgn_pipeline.students.recipes import StudentsArtifact
from skdcgn_pipeline.teachers.teacher import IdentifiedTeacher


def measure_costs(
    run: Run,
    this_run: dict[str, Any],
    teacher: IdentifiedTeacher,
    students: StudentsArtifact,
    teacher_samples: SampleShards,
    student_samples: SampleShards,
    parameters: dict[str, Any],
) -> tuple[pd.DataFrame, pd.DataFrame]:
    """Measure the run's own networks and data paths, in one process and in turns."""
    settings = check_parameters(parameters)
    workload = Workload(
        teacher=teacher.generator,
        students=students.open(),
        teacher_samples=teacher_samples,
        student_samples=student_samples,
        settings=settings.benchmark,
        composition=settings.compose.resolved(teacher_samples.num_classes, settings.class_lists),
        distill=settings.students,
        seed=run.seed,
        compute=run.compute,
        parameters=settings,
    )
    table = networks.tabulate(MEASURES, workload, partial(_again, this_run))
    return table, table


def measure_random_networks(
    run: Run, this_run: dict[str, Any], parameters: dict[str, Any]
) -> tuple[pd.DataFrame, pd.DataFrame]:
    """Measure networks of full size with random weights, which need nothing upstream."""
    settings = check_parameters(parameters)
    random_networks = networks.make_networks(settings.benchmark, settings.students, run.seed, run.compute)
    table = networks.tabulate(networks.MEASURES, random_networks, partial(_again, this_run))
    return table, table


def _again(this_run: dict[str, Any], group: str) -> str:
    """Return the command that measures a group again."""
    params = dict(this_run.get("params") or {})
    params["benchmark"] = {**params.get("benchmark", {}), "only": group}
    return command_of({**this_run, "params": params}, "benchmark")
