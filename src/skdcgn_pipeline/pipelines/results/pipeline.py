"""Wiring of the results stage."""

from kedro.pipeline import Pipeline, node

from skdcgn_pipeline.pipelines.results import nodes


def create_pipeline() -> Pipeline:
    """Give the released students to the stages that compare, compose, classify and time."""
    adopt = nodes.adopt_released_students
    adopted = node(adopt, ["run", "parameters"], "students", name="adopt_released_students")
    return Pipeline([adopted], tags="results")
