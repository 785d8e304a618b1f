"""Wiring of the report stage."""

from kedro.pipeline import Pipeline, node

from skdcgn_pipeline.pipelines.report import nodes


def create_pipeline() -> Pipeline:
    """Put the run into one page."""
    inputs = ["heldout_samples", "ablation_chapter", "this_run", "parameters", *nodes.INPUTS]
    return Pipeline([node(nodes.write_report, inputs, "report", name="write_report")], tags="report")
