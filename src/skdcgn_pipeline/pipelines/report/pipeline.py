"""Wiring of the report stage."""

from kedro.pipeline import Pipeline, node, pipeline

from skdcgn_pipeline.pipelines.report import nodes


def create_pipeline() -> Pipeline:
    """Put the run into one page."""
    return pipeline(
        [
            node(
                nodes.write_report,
                [
                    "biased_images_sheet",
                    "student_sheet",
                    "loss_curves",
                    "counterfactual_sheet",
                    "accuracy_chart",
                    "invariance_chart",
                    "student_comparison",
                    "accuracy_summary",
                    "invariance",
                    "ablation_chapter",
                    "parameters",
                ],
                "report",
                name="write_report",
            )
        ],
        tags="report",
    )
