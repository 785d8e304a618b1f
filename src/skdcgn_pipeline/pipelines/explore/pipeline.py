"""Wiring of the explore stage."""

from kedro.pipeline import Pipeline, node

from skdcgn_pipeline.pipelines.explore import nodes

INPUTS = ["run", "teacher", "students", "student_samples", "biased_images", "student_comparison", "parameters"]


def create_pipeline() -> Pipeline:
    """Put what the explorer shows into one folder, which `kedro explore` opens."""
    return Pipeline([node(nodes.write_explorer, INPUTS, "explorer", name="write_explorer")], tags="explore")
