"""Nodes of the benchmark stage."""

import sys
from typing import Any

import numpy as np
import pandas as pd

from skdcgn_pipeline.artifacts.recipe import Run
from skdcgn_pipeline.benchmark import networks
from skdcgn_pipeline.benchmark.frame import tabulate
from skdcgn_pipeline.benchmark.run import MEASURES, Workload
from skdcgn_pipeline.parameters import check_parameters
from skdcgn_pipeline.reporting.pictures import draw_benchmark
from skdcgn_pipeline.samples.drawing import SampleShards
from skdcgn_pipeline.students.recipes import StudentsArtifact
from skdcgn_pipeline.teachers.teacher import IdentifiedTeacher


def measure_costs(
    run: Run,
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
        images=settings.images,
        prepare=settings.prepare,
        variant=settings.variant,
        assets=run.assets,
        composition=settings.compose.resolved(teacher_samples.num_classes, settings.class_lists),
        fit=settings.classify.fit,
        num_classifiers=settings.classify.num_classifiers,
        distill=settings.students,
        seed=run.seed,
        compute=run.compute,
    )
    table = tabulate(MEASURES, workload, sys.argv)
    return table, table


def measure_random_networks(run: Run, parameters: dict[str, Any]) -> tuple[pd.DataFrame, pd.DataFrame]:
    """Measure networks of full size with random weights, which need nothing upstream."""
    settings = check_parameters(parameters)
    random_networks = networks.make_networks(settings.benchmark, settings.students, run.seed, run.compute)
    table = tabulate(networks.MEASURES, random_networks, sys.argv)
    return table, table


def show_benchmark(benchmark: pd.DataFrame) -> np.ndarray:
    """Draw throughput by batch size, and what everything else gains."""
    return draw_benchmark(benchmark)
