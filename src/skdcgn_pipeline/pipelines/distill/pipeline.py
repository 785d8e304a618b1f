"""Wiring of the distill stage: one pipeline under three namespaces."""

from kedro.pipeline import Pipeline, node, pipeline

from skdcgn_pipeline import vocabulary
from skdcgn_pipeline.pipelines.binding import given
from skdcgn_pipeline.pipelines.distill import nodes
from skdcgn_pipeline.vocabulary import MECHANISMS

STUDENTS = [f"{mechanism}_student" for mechanism in MECHANISMS]


def _distil(mechanism: str, elsewhere: bool) -> Pipeline:
    """One student, in the namespace of its mechanism."""
    shared, first = ["run", "teacher_samples"], ["distilled_elsewhere"] if elsewhere else []
    distil = given(nodes.distil_student, mechanism=mechanism)
    return pipeline(
        [node(distil, [*shared, "params:distill", *first], "student", name="distil_student")],
        namespace=mechanism,
        inputs={*shared, *first},
        # Without a dot, which Kedro keeps for the namespace's own datasets.
        outputs={"student": f"{mechanism}_student"},
    )


def create_comparison(of: str = vocabulary.STUDENTS) -> Pipeline:
    """Compare students, wherever they come from and whatever tables call them, with their teacher."""
    measured = ["run", "teacher", "students", "heldout_samples", "biased_images", "feature_network", "params:report"]
    return Pipeline(
        [
            node(
                given(nodes.compare_students, of=of),
                measured,
                ["student_comparison", "generation_metrics"],
                name="compare_students",
            ),
            node(
                nodes.show_students,
                ["students", "heldout_samples", "params:report"],
                "student_sheet",
                name="show_students",
            ),
        ],
        tags="distill",
    )


def create_pipeline(elsewhere: bool = False) -> Pipeline:
    """Distil one student per mechanism, assemble them and compare them with the teacher.

    Args:
        elsewhere: Whether those that the run asks for are distilled side by side by its engine.
    """
    shared = [
        node(nodes.assemble_students, ["run", *STUDENTS], "students", name="assemble_students"),
        node(nodes.show_losses, STUDENTS, "loss_curves", name="show_losses"),
    ]
    if elsewhere:
        settings = [f"params:{mechanism}.distill" for mechanism in MECHANISMS]
        inputs = ["run", "teacher_samples", "asked_students", *settings]
        shared += [node(nodes.distil_elsewhere, inputs, "distilled_elsewhere", name="distil_elsewhere")]
    students = [_distil(mechanism, elsewhere) for mechanism in MECHANISMS]
    return Pipeline([*students, *shared], tags="distill") + create_comparison()
