"""Wiring of the quality stage."""

from kedro.pipeline import Pipeline, node

from skdcgn_pipeline.metrics.counterfactual_quality import quality_table
from skdcgn_pipeline.pipelines.quality import nodes


def create_pipeline() -> Pipeline:
    """Measure counterfactuals of teacher and students: composition, effectiveness and minimality."""
    generators = ["run", "teacher", "students"]
    measured = [*generators, "teacher_samples", "heldout_samples", "biased_images", "params:classify"]
    shown = [*generators, "heldout_samples", "params:report"]
    measure = nodes.measure_counterfactuals
    return Pipeline(
        [
            node(measure, measured, "counterfactual_quality", name="measure_counterfactuals"),
            node(quality_table, "counterfactual_quality", "quality_table", name="compare_counterfactuals"),
            node(nodes.show_interventions, shown, "intervention_sheet", name="show_interventions"),
        ],
        tags="quality",
    )
