"""Wiring of the release stage."""

from kedro.pipeline import Pipeline, node, pipeline

from skdcgn_pipeline.pipelines.release import nodes


def create_pipeline() -> Pipeline:
    """Put the students and everything that was measured of them into files to ship."""
    return pipeline(
        [
            node(
                nodes.release_students,
                [
                    "run",
                    "teacher",
                    "students",
                    "student_comparison",
                    "accuracy_summary",
                    "benchmark",
                    "parameters",
                ],
                "release",
                name="release_students",
            )
        ],
        tags="release",
    )
