"""Wiring of the sample stage."""

from kedro.pipeline import Pipeline, node

from skdcgn_pipeline.pipelines.binding import given
from skdcgn_pipeline.pipelines.sample import nodes
from skdcgn_pipeline.teachers.teacher import open_identified_teacher


def create_pipeline() -> Pipeline:
    """Draw samples of every mechanism from the teacher."""
    settings = ["params:teacher", "params:variant", "params:assets"]
    draw, inputs = nodes.draw_teacher_samples, ["run", "teacher", "params:sample", "params:class_lists"]
    return Pipeline(
        [
            node(open_identified_teacher, settings, "teacher", name="open_teacher"),
            node(draw, inputs, "teacher_samples", name="draw_teacher_samples"),
            node(given(draw, heldout=True), inputs, "heldout_samples", name="draw_heldout_samples"),
        ],
        tags="sample",
    )
