"""Wiring of the report stage."""

from kedro.pipeline import Pipeline, node

from skdcgn_pipeline.parameters import MADE_BY_RUN
from skdcgn_pipeline.pipelines.binding import given
from skdcgn_pipeline.pipelines.report import nodes


def create_pipeline(teacher: str, corrupted: bool = True) -> Pipeline:
    """Put the run into one page.

    Args:
        teacher: `teacher.name`; of one that the run makes, its faults are told.
        corrupted: Whether classifiers are measured on corrupted test images.
    """
    left_out = set() if corrupted else nodes.OF_CORRUPTIONS
    shown = [name for name in nodes.INPUTS if name not in left_out]
    shown += [nodes.TRAINED] if teacher in MADE_BY_RUN else []
    inputs = ["heldout_samples", "ablation_chapter", "this_run", "parameters", *shown]
    write_report = given(nodes.write_report, names=shown)
    return Pipeline([node(write_report, inputs, "report", name="write_report")], tags="report")
