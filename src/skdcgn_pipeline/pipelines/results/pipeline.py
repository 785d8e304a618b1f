"""Wiring of the results stage."""

from kedro.pipeline import Pipeline, node, pipeline

from skdcgn_pipeline.pipelines.results import nodes


def create_pipeline() -> Pipeline:
    """Give the released students to the stages that compare, compose, classify and time."""
    return pipeline(
        [
            node(
                nodes.adopt_released_students,
                ["student_store", "parameters"],
                "students",
                name="adopt_released_students",
            ),
            node(nodes.show_releases, None, "releases_chart", name="show_releases"),
        ],
        tags="results",
    )
