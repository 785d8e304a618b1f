"""Wiring of the classify stage."""

from kedro.pipeline import Pipeline, node, pipeline

from skdcgn_pipeline.pipelines.binding import given
from skdcgn_pipeline.pipelines.classify import nodes
from skdcgn_pipeline.vocabulary import STUDENTS

# Where classifiers are, and what they learn from.
LEARNT_FROM = (
    "classifier_store",
    "biased_images",
    "teacher_samples",
    "student_samples",
    "teacher_counterfactuals",
    "student_counterfactuals",
)


def create_pipeline(of: str = STUDENTS) -> Pipeline:
    """Train and measure invariant classifiers, also of students that tables call otherwise."""
    trained = pipeline(
        [
            node(
                given(nodes.train_classifiers, of=of),
                [
                    *LEARNT_FROM,
                    "params:classify",
                    "params:compose",
                    "params:class_lists",
                    "params:seed",
                    "params:compute",
                ],
                ["accuracy", "accuracy_csv"],
                name="train_classifiers",
            ),
            node(
                given(nodes.summarise_classifiers, of=of),
                "accuracy",
                "accuracy_summary",
                name="summarise_classifiers",
            ),
            node(given(nodes.show_accuracy, of=of), "accuracy_summary", "accuracy_chart", name="show_accuracy"),
        ],
        tags="classify",
    )
    return trained + create_looks() if of == STUDENTS else trained


def create_looks() -> Pipeline:
    """Look into the trained classifiers: what they confuse and where they look."""
    return pipeline(
        [
            node(
                nodes.look_into_classifiers,
                [
                    *LEARNT_FROM,
                    "accuracy",
                    "params:classify",
                    "params:compose",
                    "params:class_lists",
                    "params:report",
                    "params:seed",
                    "params:compute",
                ],
                ["confusion", "confusion_chart", "attention_sheet"],
                name="look_into_classifiers",
            )
        ],
        tags="classify",
    )


def create_originals() -> Pipeline:
    """Train, measure and look into classifiers of the originals alone: what `classify` is without counterfactuals."""
    learnt_from = ["classifier_store", "biased_images"]
    trained = node(
        nodes.train_on_originals,
        [*learnt_from, "params:classify", "params:seed", "params:compute"],
        ["accuracy", "accuracy_csv"],
        name="train_on_originals",
    )
    looked_into = node(
        nodes.look_into_originals,
        [*learnt_from, "accuracy", "params:classify", "params:report", "params:seed", "params:compute"],
        ["confusion", "confusion_chart", "attention_sheet"],
        name="look_into_originals",
    )
    summarised = create_pipeline().only_nodes("summarise_classifiers", "show_accuracy")
    return pipeline([trained, looked_into], tags="classify") + summarised
