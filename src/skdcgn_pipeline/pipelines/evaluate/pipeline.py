"""Wiring of the evaluate stage."""

from kedro.pipeline import Pipeline, node

from skdcgn_pipeline.pipelines.evaluate import nodes


def create_pipeline() -> Pipeline:
    """Measure a classifier on a folder of images."""
    inputs = ["run", "params:images", "params:evaluate", "invariant_classifier"]
    measured = ["evaluation", "evaluation_confusion"]
    return Pipeline(
        [
            node(nodes.evaluate_classifier, inputs, measured, name="evaluate_classifier"),
            node(nodes.show_confusion, "evaluation_confusion", "evaluation_chart", name="show_evaluation"),
        ],
        tags="evaluate",
    )
