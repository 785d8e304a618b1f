"""All studies by name, in the order in which they are told."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from skdcgn_pipeline.parameters import BIASED_SOURCES, Ablation
from skdcgn_pipeline.runtime.errors import SettingError
from skdcgn_pipeline.runtime.extensions import call, is_extension
from skdcgn_pipeline.studies.alternatives import AlternativesStudy
from skdcgn_pipeline.studies.contract import Cell, Students, Study
from skdcgn_pipeline.studies.counts import CountsStudy
from skdcgn_pipeline.studies.losses import LossesStudy
from skdcgn_pipeline.studies.mechanisms import MechanismsStudy
from skdcgn_pipeline.studies.mixing import MixingStudy
from skdcgn_pipeline.studies.monolith import MonolithStudy
from skdcgn_pipeline.studies.size import SizeStudy
from skdcgn_pipeline.studies.source import SourceStudy
from skdcgn_pipeline.studies.stage import StageStudy
from skdcgn_pipeline.studies.transformations import TransformationsStudy
from skdcgn_pipeline.teachers.cgn import MnistCGN

FURTHER = "further"  # what the graph calls a study of the user's own
STUDIES: dict[str, Study] = {
    study.name: study
    for study in (
        TransformationsStudy(),
        MechanismsStudy(),
        CountsStudy(),
        MixingStudy(),
        LossesStudy(),
        SizeStudy(),
        SourceStudy(),
        StageStudy(),
        MonolithStudy(),
        AlternativesStudy(),
    )
}


def place_of(place: str, names: Sequence[str]) -> str:
    """Return which of the studies asked for a place of the graph is for: that of its name, or the user's own."""
    return next(filter(is_extension, names), FURTHER) if place == FURTHER else place


def study_of(name: str) -> Study:
    """Return a study by name; one that was made by hand has the defaults of figure and claims.

    Raises:
        SettingError: If it is `module:class` and cannot be imported, or is no study.
    """
    if is_extension(name):
        study = call("ablation.study", name)
        if not isinstance(study, Study):
            got, remedy = f"a {type(study).__name__} from {name}", "See 'How to add' in CONTRIBUTING.md."
            raise SettingError("ablation.study", "a studies.contract.Study", got, remedy)
        study.name = name  # type: ignore[misc]  # what tables call it
        return study
    by_hand = {"name": name, "title": name, "cells": lambda *_: []}
    return STUDIES[name] if name in STUDIES else type("StudyByHand", (Study,), by_hand)()


def expand_cells(settings: Ablation, students: Students) -> list[Cell]:
    """Return the cells of all studies that are asked for, see `Study.cells`.

    Raises:
        SettingError: If they are more than `max_cells`.
    """
    by_study = [study_of(study).cells(settings, students) for study in settings.study]
    assert all(len({cell.name for cell in cells}) == len(cells) for cells in by_study)
    cells = [cell for cells in by_study for cell in cells]
    if len(cells) > settings.max_cells:
        raise SettingError(
            "ablation.max_cells",
            f"at most {settings.max_cells} cells",
            f"{len(cells)} (x {settings.num_seeds} seeds)",
            f"Choose one study (ablation.study), a smaller grid, or confirm with ablation.max_cells={len(cells)}.",
        )
    return cells


def check_possible(cells: Sequence[Cell], teacher: Any, by_mechanism: bool = False, coloured: bool = True) -> None:
    """Refuse cells that this teacher or these images cannot serve, or this classifier not judge, before any work.

    Args:
        cells: What would be run.
        teacher: The teacher.
        by_mechanism: Whether classifiers have a head per mechanism, and need the labels of all.
        coloured: Whether a bias protocol colours the images, which can be done again with another share.

    Raises:
        SettingError: If a cell trains a teacher on that cannot be, images that have one label are to be learnt by
            heads of mechanisms, or images are to be in conflict with a bias that nobody knows.
    """
    asked = {cell.study for cell in cells}
    unfit = sorted(name for name in asked if study_of(name).single_label) if by_mechanism else []
    if unfit:
        raise SettingError(
            "ablation.study",
            "studies whose training images have a class for every mechanism",
            ", ".join(f"'{study}'" for study in unfit),
            f"Choose among {', '.join(name for name, study in STUDIES.items() if not study.single_label)}.",
        )
    if not coloured and any(cell.data.method for cell in cells):
        expected, got = f"images of {', '.join(BIASED_SOURCES)}, whose bias is known", "'alternatives' with others"
        raise SettingError("ablation.study", expected, got, "Leave out 'alternatives', or choose such images.")
    if not isinstance(teacher, MnistCGN) and any(cell.data.teacher_transformations is not None for cell in cells):
        raise SettingError(
            "ablation.study",
            "studies that the teacher can serve",
            f"'stage' with a {type(teacher).__name__}, whose training cannot go on",
            "Leave out 'stage', or use a teacher of the MNIST CGN's architecture.",
        )
