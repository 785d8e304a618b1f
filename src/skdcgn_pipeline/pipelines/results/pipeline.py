"""Wiring of the results stage."""

from kedro.pipeline import Pipeline, node

from skdcgn_pipeline.pipelines.results import nodes


def create_pipeline() -> Pipeline:
    """Give the released students to the stages that compare, compose, classify and time."""
    adopt = nodes.adopt_released_students
    return Pipeline(
        [
            node(adopt, ["run", "parameters"], "students", name="adopt_released_students"),
            node(nodes.show_releases, None, "releases_chart", name="show_releases"),
        ],
        tags="results",
    )
