"""Compose counterfactuals."""

from skdcgn_pipeline.pipelines.compose.pipeline import (
    create_pipeline,
    create_student_pool,
    create_student_side,
    create_teacher_side,
)

__all__ = ["create_pipeline", "create_student_pool", "create_student_side", "create_teacher_side"]
