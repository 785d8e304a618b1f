"""Wiring of the report stage."""

from kedro.pipeline import Pipeline, node, pipeline

from skdcgn_pipeline.pipelines.report import nodes


def create_pipeline() -> Pipeline:
    """Put the run into one page."""
    return pipeline(
        [
            node(
                nodes.write_report,
                ["heldout_samples", "ablation_chapter", "this_run", "parameters", *nodes.INPUTS],
                "report",
                name="write_report",
            )
        ],
        tags="report",
    )
