"""Wiring of the ensemble stage."""

from kedro.pipeline import Pipeline, node, pipeline

from skdcgn_pipeline.pipelines.ensemble import nodes


def create_pipeline() -> Pipeline:
    """Check the folders of real images, train ensembles on them and on counterfactuals, and measure these."""
    return pipeline(
        [
            node(
                nodes.read_image_folders,
                ["measure_store", "params:ensemble", "params:assets"],
                ["image_folders", "image_folders_table"],
                name="read_image_folders",
            ),
            node(
                nodes.train_ensembles,
                [
                    "ensemble_store",
                    "image_folders",
                    "teacher_samples",
                    "student_samples",
                    "params:ensemble",
                    "params:compose",
                    "params:class_lists",
                    "params:seed",
                    "params:compute",
                ],
                "ensembles",
                name="train_ensembles",
            ),
            node(
                nodes.measure_ensembles,
                [
                    "measure_store",
                    "ensembles",
                    "image_folders",
                    "heldout_samples",
                    "params:ensemble",
                    "params:compose",
                    "params:class_lists",
                    "params:seed",
                    "params:compute",
                ],
                ["invariance", "invariance_csv"],
                name="measure_ensembles",
            ),
            node(nodes.show_invariance, "invariance", "invariance_chart", name="show_invariance"),
        ],
        tags="ensemble",
    )
