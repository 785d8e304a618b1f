"""Wiring of the benchmark stage."""

from kedro.pipeline import Pipeline, node

from skdcgn_pipeline.pipelines.benchmark import nodes
from skdcgn_pipeline.reporting.pictures import draw_benchmark

TABLES = ["benchmark", "benchmark_csv"]


def create_pipeline() -> Pipeline:
    """Measure what teacher, students and data paths cost, whoever provides them."""
    inputs = ["run", "this_run", "teacher", "students", "teacher_samples", "student_samples", "parameters"]
    return Pipeline(
        [
            node(nodes.measure_costs, inputs, TABLES, name="measure_costs"),
            node(draw_benchmark, "benchmark", "benchmark_chart", name="show_benchmark"),
        ],
        tags="benchmark",
    )


def create_network_pipeline() -> Pipeline:
    """Measure random networks of full size."""
    inputs = ["run", "this_run", "parameters"]
    measured = node(nodes.measure_random_networks, inputs, TABLES, name="measure_random_networks")
    return Pipeline([measured], tags="benchmark")
