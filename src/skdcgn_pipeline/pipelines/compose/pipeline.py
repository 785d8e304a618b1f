"""Wiring of the compose stage."""

from kedro.pipeline import Pipeline, node
from kedro.pipeline.node import Node

from skdcgn_pipeline.pipelines.binding import given
from skdcgn_pipeline.pipelines.compose import nodes
from skdcgn_pipeline.vocabulary import STUDENTS


def create_pipeline() -> Pipeline:
    """Draw the students' pool and compose counterfactuals of teacher and students."""
    interpolation = node(
        nodes.show_interpolation,
        ["run", "teacher", "students", "params:compose"],
        ["interpolation_sheet", "interpolation_animation"],
        name="show_interpolation",
    )
    return create_teacher_side() + create_student_side() + Pipeline([interpolation], tags="compose")


def create_teacher_side() -> Pipeline:
    """Compose counterfactuals of the teacher."""
    return Pipeline([_compose("teacher")], tags="compose")


def create_student_pool() -> Pipeline:
    """Draw a pool from students."""
    inputs = ["run", "students", "params:compose", "params:sample", "params:class_lists"]
    pool = node(nodes.draw_student_samples, inputs, "student_samples", name="draw_student_samples")
    return Pipeline([pool], tags="compose")


def create_student_side(of: str = STUDENTS) -> Pipeline:
    """Draw a pool from students, whatever pictures call them, and compose its counterfactuals."""
    sheet = node(
        given(nodes.show_counterfactuals, of=of),
        ["teacher_counterfactuals", "student_counterfactuals", "params:report"],
        "counterfactual_sheet",
        name="show_counterfactuals",
    )
    return create_student_pool() + Pipeline([_compose("student"), sheet], tags="compose")


def _compose(source: str) -> Node:
    """Compose the samples of `teacher` or `student`."""
    return node(
        nodes.compose_counterfactuals,
        ["run", f"{source}_samples", "params:compose", "params:class_lists"],
        f"{source}_counterfactuals",
        name=f"compose_{source}_counterfactuals",
    )
