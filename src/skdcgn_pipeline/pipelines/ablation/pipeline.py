"""Wiring of the ablation stage: one node per study and one that draws it."""

from kedro.pipeline import Pipeline, node, pipeline

from skdcgn_pipeline.pipelines.ablation import nodes
from skdcgn_pipeline.studies.registry import STUDIES
from skdcgn_pipeline.vocabulary import MECHANISMS

DISTILL = [f"params:{mechanism}.distill" for mechanism in MECHANISMS]
# What the plan reads if it is there, and does without if it is not.
SAMPLES = ["biased_images", "teacher_samples", "student_samples", "heldout_samples"]


def _study(study: str) -> list:
    return [
        node(
            nodes.run_study(study),
            ["surroundings", "ablation_plan", "params:ablation", *DISTILL],
            f"{study}_cells",
            name=f"run_{study}_study",
        ),
        node(
            nodes.show_study(study),
            ["surroundings", f"{study}_cells", "params:ablation", *DISTILL, "params:report"],
            [f"{study}_study", f"{study}_examples"],
            name=f"show_{study}_study",
        ),
    ]


def create_pipeline() -> Pipeline:
    """Study how each part of the composition influences the invariant classifier."""
    pictures = [name for study in STUDIES for name in (f"{study}_study", f"{study}_examples")]
    shared = [
        node(
            nodes.name_surroundings,
            [
                "run",
                *SAMPLES,
                "params:ablation",
                "params:prepare",
                "params:teacher",
                "params:variant",
                "params:classify",
            ],
            "surroundings",
            name="name_surroundings",
            tags="plan",  # a run of nothing but these is not kept in MLflow
        ),
        node(
            nodes.plan_ablation,
            ["surroundings", "params:ablation", *DISTILL],
            "ablation_plan",
            name="plan_ablation",
            tags="plan",
        ),
        node(
            nodes.gather_cells,
            [f"{study}_cells" for study in STUDIES],
            [
                "ablation_cells",
                "ablation_summary",
                "ablation",
                "ablation_csv",
                "ablation_confusion",
                "ablation_failures",
            ],
            name="gather_cells",
        ),
        node(
            nodes.tell_findings,
            ["ablation_cells", "ablation_summary", "ablation_failures", "parameters", *pictures],
            ["ablation_findings", "ablation_chapter", "ablation_page"],
            name="tell_findings",
        ),
        node(nodes.check_failures, ["ablation_failures", "ablation_page"], None, name="check_failures"),
    ]
    studies = [one for study in STUDIES for one in _study(study)]
    return pipeline([*shared, *studies], tags="ablation")
