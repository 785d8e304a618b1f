"""Wiring of the benchmark stage."""

from kedro.pipeline import Pipeline, node, pipeline

from skdcgn_pipeline.pipelines.benchmark import nodes
from skdcgn_pipeline.vocabulary import MECHANISMS


def create_pipeline() -> Pipeline:
    """Measure what teacher, students and data paths cost, whoever provides them."""
    return pipeline(
        [
            node(
                nodes.measure_costs,
                [
                    "teacher",
                    "students",
                    "teacher_samples",
                    "student_samples",
                    "params:benchmark",
                    "params:images",
                    "params:prepare",
                    "params:compose",
                    "params:class_lists",
                    "params:classify",
                    *(f"params:{mechanism}.distill" for mechanism in MECHANISMS),
                    "params:variant",
                    "params:assets",
                    "params:seed",
                    "params:compute",
                ],
                ["benchmark", "benchmark_csv"],
                name="measure_costs",
            ),
            node(nodes.show_benchmark, "benchmark", "benchmark_chart", name="show_benchmark"),
        ],
        tags="benchmark",
    )


def create_network_pipeline() -> Pipeline:
    """Measure random networks of full size."""
    return pipeline(
        [
            node(
                nodes.measure_random_networks,
                [
                    "params:benchmark",
                    *(f"params:{mechanism}.distill" for mechanism in MECHANISMS),
                    "params:seed",
                    "params:compute",
                ],
                ["benchmark", "benchmark_csv"],
                name="measure_random_networks",
            )
        ],
        tags="network_benchmark",
    )
