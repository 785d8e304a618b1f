"""Wiring of the export stage."""

from kedro.pipeline import Pipeline, node

from skdcgn_pipeline.pipelines.compose.nodes import draw_student_samples
from skdcgn_pipeline.pipelines.export import nodes


def create_pipeline(released: bool = False) -> Pipeline:
    """Export students and a classifier trained on their counterfactuals, and register both.

    Args:
        released: Take students that come with the package instead of the run's.
    """
    taken, registered = ["exported_students", "export_origin"], ["export_origin", "params:export"]
    if released:
        take = node(nodes.take_released_students, ["run", "params:export"], taken, name="take_released_students")
    else:
        inputs = ["students", "student_comparison", "parameters"]
        take = node(nodes.take_run_students, inputs, taken, name="take_run_students")
    return Pipeline(
        [
            take,
            node(nodes.export_students, ["run", *taken, "params:export"], "student_export", name="export_students"),
            node(
                draw_student_samples,
                ["run", "exported_students", "params:compose", "params:sample", "params:class_lists"],
                "exported_samples",
                name="draw_exported_samples",
            ),
            node(
                nodes.export_classifier,
                ["run", "exported_samples", "biased_images", "export_origin", "parameters"],
                "classifier_export",
                name="export_classifier",
            ),
            node(
                nodes.register_students,
                ["student_export", *registered],
                "registered_students",
                name="register_students",
            ),
            node(
                nodes.register_classifier,
                ["classifier_export", *registered],
                "registered_classifier",
                name="register_classifier",
            ),
        ],
        tags="export",
    )
