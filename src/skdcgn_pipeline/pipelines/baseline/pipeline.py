"""Wiring of the baseline stage, in a namespace of its own."""

from kedro.pipeline import Pipeline, node, pipeline

from skdcgn_pipeline.pipelines.baseline import nodes
from skdcgn_pipeline.pipelines.classify import pipeline as classify
from skdcgn_pipeline.pipelines.compose import pipeline as compose
from skdcgn_pipeline.pipelines.distill import pipeline as distill
from skdcgn_pipeline.vocabulary import BASELINE

# What is kept, under names without a dot, which Kedro keeps for the namespace's own datasets.
KEPT = {
    "students": "baseline_students",
    "loss_curves": "baseline_loss_curves",
    "student_comparison": "baseline_comparison",
    "generation_metrics": "baseline_generation_metrics",
    "student_sheet": "baseline_sheet",
    "student_samples": "baseline_samples",
    "student_counterfactuals": "baseline_counterfactuals",
    "counterfactual_sheet": "baseline_counterfactual_sheet",
    "accuracy": "baseline_accuracy",
    "accuracy_csv": "baseline_accuracy_csv",
    "accuracy_summary": "baseline_accuracy_summary",
    "accuracy_chart": "baseline_accuracy_chart",
}


def create_pipeline() -> Pipeline:
    """Train the baseline; compare it with the teacher, compose and classify as with distilled students."""
    fitted = pipeline(
        [
            node(
                nodes.fit_baseline,
                ["run", "teacher", "feature_network", "params:baseline", "params:teacher", "params:report"],
                "students",
                name="fit_baseline",
            ),
            node(nodes.show_history, "students", "loss_curves", name="show_history"),
        ]
    )
    own = fitted + distill.create_comparison(BASELINE)
    own += compose.create_student_side(BASELINE) + classify.create_pipeline(BASELINE)
    shared = own.inputs()
    parameters = {name for name in shared if name.startswith("params:")}
    wrapped = pipeline(
        own, namespace=BASELINE, inputs=shared - parameters, outputs=KEPT, parameters=parameters, tags=BASELINE
    )
    return wrapped + compose.create_teacher_side()
