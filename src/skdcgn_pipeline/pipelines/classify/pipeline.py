"""Wiring of the classify stage."""

from kedro.pipeline import Pipeline, node, pipeline

from skdcgn_pipeline.classifiers.accuracy import summarise_accuracy
from skdcgn_pipeline.classifiers.corrupted import summarise_corruptions
from skdcgn_pipeline.pipelines.binding import given
from skdcgn_pipeline.pipelines.classify import nodes
from skdcgn_pipeline.reporting.pictures import draw_accuracy_chart, draw_corruptions
from skdcgn_pipeline.vocabulary import STUDENTS

# What generators give to learn from, beside the originals.
GENERATED = ("teacher_samples", "student_samples")


def create_pipeline(of: str = STUDENTS, generated: bool = True, corrupted: bool = True) -> Pipeline:
    """Train, measure and look into invariant classifiers.

    Args:
        of: What tables call the students; classifiers of others than the distilled ones are not looked into.
        generated: Whether there are counterfactuals; without, classifiers are trained on originals and cut-outs.
        corrupted: Whether test images are also corrupted.
    """
    shared = ["run", "biased_images", "params:classify", "params:compose", "params:class_lists", "params:teacher"]
    trained = node(
        nodes.train_classifiers if of == STUDENTS else given(nodes.train_classifiers, of=of),
        [*shared, *(("heldout_samples", *GENERATED) if generated else ())],
        ["accuracy", "accuracy_csv"],
        name="train_classifiers",
    )
    looked_into = node(
        nodes.look_into_classifiers,
        [*shared, "params:report", "accuracy", *(("heldout_samples", *GENERATED) if generated else ())],
        [
            "confusion",
            "confusion_chart",
            "error_consistency",
            "followed_mechanisms",
            "attention_sheet",
            "invariant_classifier",
        ],
        name="look_into_classifiers",
    )
    on_corrupted = [
        node(
            nodes.measure_on_corrupted,
            [*shared, "accuracy", *(GENERATED if generated else ())],
            "corrupted_accuracy",
            name="measure_corruptions",
        ),
        node(summarise_corruptions, "corrupted_accuracy", "corruption_summary", name="summarise_corruptions"),
        node(draw_corruptions, "corrupted_accuracy", "corruption_chart", name="show_corruptions"),
    ]
    summarise = given(summarise_accuracy, by=["trained_on", "split", "subset"])
    return pipeline(
        [
            trained,
            node(summarise, "accuracy", "accuracy_summary", name="summarise_classifiers"),
            node(draw_accuracy_chart, "accuracy_summary", "accuracy_chart", name="show_accuracy"),
            *([looked_into, *(on_corrupted if corrupted else [])] if of == STUDENTS else []),
        ],
        tags="classify",
    )
