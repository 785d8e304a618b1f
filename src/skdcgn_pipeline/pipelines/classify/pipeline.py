"""Wiring of the classify stage."""

from kedro.pipeline import Pipeline, node, pipeline

from skdcgn_pipeline.pipelines.classify import nodes


def create_pipeline() -> Pipeline:
    """Train and measure invariant classifiers."""
    return pipeline(
        [
            node(
                nodes.train_classifiers,
                [
                    "classifier_store",
                    "biased_images",
                    "teacher_samples",
                    "student_samples",
                    "teacher_counterfactuals",
                    "student_counterfactuals",
                    "params:classify",
                    "params:compose",
                    "params:class_lists",
                    "params:seed",
                    "params:compute",
                ],
                ["accuracy", "accuracy_csv"],
                name="train_classifiers",
            ),
            node(nodes.summarise_classifiers, "accuracy", "accuracy_summary", name="summarise_classifiers"),
            node(nodes.show_accuracy, "accuracy_summary", "accuracy_chart", name="show_accuracy"),
        ],
        tags="classify",
    )
