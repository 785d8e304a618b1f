"""Wiring of the teacher stage."""

from kedro.pipeline import Pipeline, node

from skdcgn_pipeline.pipelines.teacher import nodes


def create_pipeline() -> Pipeline:
    """Train a CGN to distil from: in the same run by `teacher.name: trained`, later by `teacher.weights`."""
    return Pipeline(
        [
            node(
                nodes.fit_teacher,
                ["run", "biased_images", "params:teacher", "params:prepare", "params:compose"],
                "trained_teacher",
                name="fit_teacher",
            ),
            node(
                nodes.show_trained_teacher,
                ["run", "trained_teacher", "params:report"],
                "trained_teacher_sheet",
                name="show_trained_teacher",
            ),
        ],
        tags="teacher",
    )
