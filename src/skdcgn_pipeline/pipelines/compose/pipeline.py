"""Wiring of the compose stage."""

from kedro.pipeline import Pipeline, node, pipeline

from skdcgn_pipeline.pipelines.binding import given
from skdcgn_pipeline.pipelines.compose import nodes
from skdcgn_pipeline.vocabulary import STUDENTS


def create_pipeline() -> Pipeline:
    """Draw the students' pool and compose counterfactuals of teacher and students."""
    return create_teacher_side() + create_student_side() + create_interpolation()


def create_teacher_side() -> Pipeline:
    """Compose counterfactuals of the teacher."""
    return pipeline(
        [
            node(
                nodes.compose_counterfactuals,
                ["run", "teacher_samples", "params:compose", "params:class_lists"],
                "teacher_counterfactuals",
                name="compose_teacher_counterfactuals",
            )
        ],
        tags="compose",
    )


def create_student_pool() -> Pipeline:
    """Draw a pool from students."""
    return pipeline(
        [
            node(
                nodes.draw_student_samples,
                ["run", "students", "params:compose", "params:sample", "params:class_lists"],
                "student_samples",
                name="draw_student_samples",
            )
        ],
        tags="compose",
    )


def create_student_side(of: str = STUDENTS) -> Pipeline:
    """Draw a pool from students, whatever pictures call them, and compose its counterfactuals."""
    composed = pipeline(
        [
            node(
                nodes.compose_counterfactuals,
                ["run", "student_samples", "params:compose", "params:class_lists"],
                "student_counterfactuals",
                name="compose_student_counterfactuals",
            ),
            node(
                given(nodes.show_counterfactuals, of=of),
                ["teacher_counterfactuals", "student_counterfactuals", "params:report"],
                "counterfactual_sheet",
                name="show_counterfactuals",
            ),
        ],
        tags="compose",
    )
    return create_student_pool() + composed


def create_interpolation() -> Pipeline:
    """Show how teacher and students pass from one class to another."""
    return pipeline(
        [
            node(
                nodes.show_interpolation,
                ["run", "teacher", "students", "params:compose"],
                ["interpolation_sheet", "interpolation_animation"],
                name="show_interpolation",
            )
        ],
        tags="compose",
    )
