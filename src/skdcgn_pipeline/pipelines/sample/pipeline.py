"""Wiring of the sample stage."""

from kedro.pipeline import Pipeline, node, pipeline

from skdcgn_pipeline.pipelines.sample import nodes


def create_pipeline() -> Pipeline:
    """Draw samples of every mechanism from the teacher."""
    return pipeline(
        [
            node(
                nodes.open_teacher,
                ["params:teacher", "params:variant", "params:assets"],
                "teacher",
                name="open_teacher",
            ),
            node(
                nodes.draw_teacher_samples,
                ["run", "teacher", "params:sample", "params:class_lists"],
                "teacher_samples",
                name="draw_teacher_samples",
            ),
            node(
                nodes.draw_heldout_samples,
                ["run", "teacher", "params:sample", "params:class_lists"],
                "heldout_samples",
                name="draw_heldout_samples",
            ),
        ],
        tags="sample",
    )
