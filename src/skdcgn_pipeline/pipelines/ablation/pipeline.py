"""Wiring of the ablation stage: one node per study and one that draws it."""

from kedro.pipeline import Pipeline, node, pipeline
from kedro.pipeline.node import Node

from skdcgn_pipeline.parameters import MADE_BY_RUN
from skdcgn_pipeline.pipelines.ablation import nodes
from skdcgn_pipeline.pipelines.binding import given
from skdcgn_pipeline.studies.costs import measure_costs
from skdcgn_pipeline.studies.registry import FURTHER, STUDIES
from skdcgn_pipeline.vocabulary import PLAN_TAG

ALL_STUDIES = (*STUDIES, FURTHER)
TABLES = [
    "ablation_cells", "ablation_summary", "ablation", "ablation_csv", "ablation_confusion", "ablation_failures"
]  # fmt: skip


def _study(study: str) -> list[Node]:
    run, show = given(nodes.run_study, study=study), given(nodes.show_study, study=study)
    cells, pictures = f"{study}_cells", [f"{study}_study", f"{study}_examples"]
    return [
        node(run, ["surroundings", "ablation_plan"], cells, name=f"run_{study}_study"),
        node(show, ["surroundings", cells, "params:report"], pictures, name=f"show_{study}_study"),
    ]


def create_pipeline(teacher: str) -> Pipeline:
    """Study how each part of the composition influences the invariant classifier.

    Args:
        teacher: `teacher.name`; one that this run makes is part of the surroundings.
    """
    places = (*nodes.SAMPLES, *(("trained_teacher",) if teacher in MADE_BY_RUN else ()))
    pictures = [name for study in ALL_STUDIES for name in (f"{study}_study", f"{study}_examples")]
    shared = [
        node(
            given(nodes.name_surroundings, names=places),
            ["run", "parameters", *places],
            "surroundings",
            name="name_surroundings",
            tags=PLAN_TAG,
        ),
        node(nodes.plan_ablation, "surroundings", "ablation_plan", name="plan_ablation", tags=PLAN_TAG),
        node(measure_costs, ["surroundings", "alternatives_cells"], "alternatives_costs", name="measure_method_costs"),
        node(nodes.gather_cells, [f"{study}_cells" for study in ALL_STUDIES], TABLES, name="gather_cells"),
        node(
            nodes.tell_findings,
            [
                *("ablation_cells", "ablation_summary", "ablation_failures", "alternatives_costs"),
                *("heldout_samples", "this_run", "parameters"),
                *pictures,
            ],
            ["ablation_findings", "ablation_chapter", "ablation_page"],
            name="tell_findings",
        ),
        node(nodes.check_failures, ["ablation_failures", "ablation_page"], None, name="check_failures"),
    ]
    return pipeline([*shared, *(part for study in ALL_STUDIES for part in _study(study))], tags="ablation")
