"""Wiring of the release stage."""

from kedro.pipeline import Pipeline, node

from skdcgn_pipeline.pipelines.release import nodes

INPUTS = ["run", "teacher", "students", "student_comparison", "accuracy_summary", "benchmark", "parameters"]


def create_pipeline() -> Pipeline:
    """Put the students and everything that was measured of them into files to ship."""
    return Pipeline([node(nodes.release_students, INPUTS, "release", name="release_students")], tags="release")
