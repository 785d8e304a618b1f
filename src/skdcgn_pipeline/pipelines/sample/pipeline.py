"""Wiring of the sample stage."""

from kedro.pipeline import Pipeline, node

from skdcgn_pipeline.parameters import MADE_BY_RUN
from skdcgn_pipeline.pipelines.binding import given
from skdcgn_pipeline.pipelines.prepare import pipeline as prepare
from skdcgn_pipeline.pipelines.sample import nodes
from skdcgn_pipeline.pipelines.teacher import pipeline as teacher_stage
from skdcgn_pipeline.teachers.teacher import open_identified_teacher, open_trained_teacher


def create_teacher(name: str) -> Pipeline:
    """What gives `teacher`, with all that it needs upstream.

    Args:
        name: `teacher.name`: what this run makes comes from the teacher stage, all others from files or code.
    """
    if name in MADE_BY_RUN:
        upstream = prepare.create_images() + teacher_stage.create_pipeline()
        opened = node(open_trained_teacher, "trained_teacher", "teacher", name="open_teacher")
    else:
        upstream = Pipeline([])
        settings = ["params:teacher", "params:variant", "params:assets"]
        opened = node(open_identified_teacher, settings, "teacher", name="open_teacher")
    return upstream + Pipeline([opened], tags="sample")


def create_pipeline() -> Pipeline:
    """Draw samples of every mechanism from the teacher."""
    draw, inputs = nodes.draw_teacher_samples, ["run", "teacher", "params:sample", "params:class_lists"]
    return Pipeline(
        [
            node(draw, inputs, "teacher_samples", name="draw_teacher_samples"),
            node(given(draw, heldout=True), inputs, "heldout_samples", name="draw_heldout_samples"),
        ],
        tags="sample",
    )
