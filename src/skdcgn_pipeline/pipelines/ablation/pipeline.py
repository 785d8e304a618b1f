"""Wiring of the ablation stage."""

from kedro.pipeline import Pipeline, node, pipeline

from skdcgn_pipeline.pipelines.ablation import nodes


def create_pipeline() -> Pipeline:
    """Study how each part of the composition influences the invariant classifier."""
    return pipeline(
        [
            node(
                nodes.ablate_composition,
                [
                    "classifier_store",
                    "biased_images",
                    "teacher_samples",
                    "student_samples",
                    "params:ablation",
                    "params:compose",
                    "params:seed",
                    "params:compute",
                ],
                "ablation_accuracy",
                name="ablate_composition",
            ),
            node(
                nodes.summarise_cells,
                "ablation_accuracy",
                ["ablation_summary", "ablation_csv"],
                name="summarise_cells",
            ),
            node(nodes.show_ablation, "ablation_summary", "ablation_heat_map", name="show_ablation"),
        ],
        tags="ablation",
    )
