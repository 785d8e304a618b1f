"""Wiring of the sample stage."""

from kedro.pipeline import Pipeline, node

from skdcgn_pipeline.pipelines.binding import given
from skdcgn_pipeline.pipelines.sample import nodes


def create_pipeline() -> Pipeline:
    """Draw samples of every mechanism from the teacher."""
    draw, inputs = nodes.draw_teacher_samples, ["run", "teacher", "params:sample", "params:class_lists"]
    return Pipeline(
        [
            node(
                nodes.open_teacher,
                ["params:teacher", "params:variant", "params:assets"],
                "teacher",
                name="open_teacher",
            ),
            node(draw, inputs, "teacher_samples", name="draw_teacher_samples"),
            node(given(draw, heldout=True), inputs, "heldout_samples", name="draw_heldout_samples"),
        ],
        tags="sample",
    )
