"""Nodes of the benchmark stage."""

import sys

import numpy as np
import pandas as pd

from skdcgn_pipeline.benchmark import networks, run
from skdcgn_pipeline.benchmark.frame import benchmark_metrics, tabulate
from skdcgn_pipeline.benchmark.run import Workload
from skdcgn_pipeline.io.tracking import log_metrics, log_picture, log_table
from skdcgn_pipeline.parameters import Benchmark, Classify, Compose, Compute, Distill, Images, Prepare
from skdcgn_pipeline.reporting.pictures import draw_benchmark
from skdcgn_pipeline.samples.drawing import SampleShards
from skdcgn_pipeline.students.recipes import StudentsArtifact
from skdcgn_pipeline.teachers.teacher import IdentifiedTeacher


def measure_costs(
    teacher: IdentifiedTeacher,
    students: StudentsArtifact,
    teacher_samples: SampleShards,
    student_samples: SampleShards,
    benchmark: Benchmark,
    images: Images,
    prepare: Prepare,
    compose: Compose,
    class_lists: dict[str, list[int]],
    classify: Classify,
    shape: Distill,
    texture: Distill,
    background: Distill,
    variant: str,
    assets: str,
    seed: int,
    compute: Compute,
) -> tuple[pd.DataFrame, pd.DataFrame]:
    """Measure the run's own networks and data paths, in one process and in turns."""
    workload = Workload(
        teacher=teacher.generator,
        students=students.open(),
        teacher_samples=teacher_samples,
        student_samples=student_samples,
        settings=benchmark,
        images=images,
        prepare=prepare,
        variant=variant,
        assets=assets,
        composition=compose.resolved(teacher_samples.num_classes, class_lists),
        fit=classify.fit,
        num_classifiers=classify.num_classifiers,
        distill={"shape": shape, "texture": texture, "background": background},
        seed=seed,
        compute=compute,
    )
    table = tabulate(run.MEASURES, workload, sys.argv)
    log_metrics(benchmark_metrics(table))
    log_table("benchmark", table)
    return table, table


def measure_random_networks(
    benchmark: Benchmark, shape: Distill, texture: Distill, background: Distill, seed: int, compute: Compute
) -> tuple[pd.DataFrame, pd.DataFrame]:
    """Measure networks of full size with random weights, which need nothing upstream."""
    distill = {"shape": shape, "texture": texture, "background": background}
    table = tabulate(networks.MEASURES, networks.make_networks(benchmark, distill, seed, compute), sys.argv)
    log_metrics(benchmark_metrics(table))
    log_table("benchmark", table)
    return table, table


def show_benchmark(benchmark: pd.DataFrame) -> np.ndarray:
    """Draw throughput by batch size, and what everything else gains."""
    picture = draw_benchmark(benchmark)
    log_picture("benchmark", picture)
    return picture
