"""Wiring of the report stage."""

from kedro.pipeline import Pipeline, node

from skdcgn_pipeline.parameters import MADE_BY_RUN
from skdcgn_pipeline.pipelines.report import nodes


def create_pipeline(teacher: str) -> Pipeline:
    """Put the run into one page; of a teacher (`teacher.name`) that the run makes, tell its faults."""
    trained = [nodes.TRAINED] if teacher in MADE_BY_RUN else []
    inputs = ["heldout_samples", "ablation_chapter", "this_run", "parameters", *nodes.INPUTS, *trained]
    return Pipeline([node(nodes.write_report, inputs, "report", name="write_report")], tags="report")
