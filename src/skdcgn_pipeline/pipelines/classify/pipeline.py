"""Wiring of the classify stage."""

from kedro.pipeline import Pipeline, node, pipeline
from kedro.pipeline.node import Node

from skdcgn_pipeline.pipelines.binding import given
from skdcgn_pipeline.pipelines.classify import nodes
from skdcgn_pipeline.vocabulary import STUDENTS

# What generators give to learn from, beside the originals.
GENERATED = ("teacher_samples", "student_samples", "teacher_counterfactuals", "student_counterfactuals")
SETTINGS = ("classify", "compose", "class_lists", "seed", "compute")
LOOKS = ("params:report", "accuracy")


def create_pipeline(of: str = STUDENTS) -> Pipeline:
    """Train and measure invariant classifiers, also of students that tables call otherwise."""
    trained = node(
        given(nodes.train_classifiers, of=of),
        _inputs(*GENERATED),
        ["accuracy", "accuracy_csv"],
        name="train_classifiers",
    )
    measured = pipeline([trained, *_summarised(of)], tags="classify")
    return measured + create_looks() if of == STUDENTS else measured


def create_looks() -> Pipeline:
    """Look into the trained classifiers: what they confuse and where they look."""
    look = node(
        nodes.look_into_classifiers,
        _inputs(*LOOKS, *GENERATED),
        ["confusion", "confusion_chart", "attention_sheet"],
        name="look_into_classifiers",
    )
    return pipeline([look], tags="classify")


def create_originals() -> Pipeline:
    """Train, measure and look into classifiers of the originals alone: what `classify` is without counterfactuals."""
    trained = node(
        nodes.train_classifiers,
        _inputs(),
        ["accuracy", "accuracy_csv"],
        name="train_on_originals",
    )
    looked_into = node(
        nodes.look_into_classifiers,
        _inputs(*LOOKS),
        ["confusion", "confusion_chart", "attention_sheet"],
        name="look_into_originals",
    )
    return pipeline([trained, looked_into, *_summarised(STUDENTS)], tags="classify")


def _inputs(*more: str) -> list[str]:
    """Return where classifiers are, the originals, the settings, and what else a node takes."""
    return ["classifier_store", "biased_images", *(f"params:{name}" for name in SETTINGS), *more]


def _summarised(of: str) -> list[Node]:
    """Return the nodes that tell the accuracy."""
    summarise = given(nodes.summarise_classifiers, of=of)
    return [
        node(summarise, "accuracy", "accuracy_summary", name="summarise_classifiers"),
        node(given(nodes.show_accuracy, of=of), "accuracy_summary", "accuracy_chart", name="show_accuracy"),
    ]
