"""Wiring of the explore stage."""

from kedro.pipeline import Pipeline, node, pipeline

from skdcgn_pipeline.pipelines.explore import nodes


def create_pipeline() -> Pipeline:
    """Put what the explorer shows into one folder, which `kedro explore` opens."""
    return pipeline(
        [
            node(
                nodes.write_explorer,
                [
                    "run",
                    "teacher",
                    "students",
                    "student_samples",
                    "biased_images",
                    "student_comparison",
                    "parameters",
                ],
                "explorer",
                name="write_explorer",
            )
        ],
        tags="explore",
    )
