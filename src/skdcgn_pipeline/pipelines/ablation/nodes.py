"""Nodes of the ablation stage."""

from collections.abc import Sequence
from typing import Any

import click
import numpy as np
import pandas as pd

from skdcgn_pipeline.artifacts.recipe import Run
from skdcgn_pipeline.artifacts.store import Artifact
from skdcgn_pipeline.images.stored import StoredImages
from skdcgn_pipeline.io.tracking import log_note, log_picture, log_unit
from skdcgn_pipeline.metrics.statistics import summarise_cells, tidy_cells
from skdcgn_pipeline.parameters import Report, check_parameters
from skdcgn_pipeline.reporting.facts import tell_facts
from skdcgn_pipeline.reporting.report import Page, render_chapter, render_report
from skdcgn_pipeline.runtime.errors import StudyFailedError
from skdcgn_pipeline.samples.drawing import SampleShards
from skdcgn_pipeline.studies.contract import Unit
from skdcgn_pipeline.studies.registry import FURTHER, STUDIES, expand_cells, place_of, study_of
from skdcgn_pipeline.studies.report import draw_examples, draw_study, findings_as_markdown, write_findings
from skdcgn_pipeline.studies.run import (
    CELL_COLUMNS,
    describe_plan,
    plan_units,
    run_units,
    tabulate,
    tabulate_confusion,
    units_of,
)
from skdcgn_pipeline.studies.training_data import Surroundings, Workplace

# What cells start from, in the order in which it is given; a plan does without what is not there.
SAMPLES = ("biased_images", "teacher_samples", "student_samples", "heldout_samples")


def name_surroundings(
    run: Run,
    parameters: dict[str, Any],
    *data: StoredImages | SampleShards | Artifact | None,
    names: Sequence[str],
) -> Surroundings:
    """Say where everything is that cells need, by the names of the data."""
    artifacts = [part if isinstance(part, Artifact) else getattr(part, "artifact", None) for part in data]
    there = {name: part.directory for name, part in zip(names, artifacts, strict=True) if part is not None}
    return Surroundings(run, there, check_parameters(parameters))


def plan_ablation(surroundings: Surroundings) -> pd.DataFrame:
    """Tell which cells are done and how long the others will take; returns what does not depend on what is there."""
    ablation = surroundings.ablation
    units = units_of(expand_cells(ablation, surroundings.parameters.students), ablation.num_seeds)
    plan = plan_units(units, surroundings)
    click.echo(describe_plan(plan, surroundings, cells=ablation.plan))
    return plan.drop(columns=["done", "left"])


def run_study(surroundings: Surroundings, plan: pd.DataFrame, *, study: str) -> pd.DataFrame:
    """Run the cells of one study, if it is asked for."""
    ablation, units = surroundings.ablation, list[Unit]()
    if (name := place_of(study, ablation.study)) in ablation.study:
        units = units_of(study_of(name).cells(ablation, surroundings.parameters.students), ablation.num_seeds)
    results = run_units(units, surroundings, log_unit, f"study {study}")
    return tabulate(results, ablation.fit_of(name))


def show_study(
    surroundings: Surroundings, cells: pd.DataFrame, report: Report, *, study: str
) -> tuple[np.ndarray, np.ndarray]:
    """Draw one study, and examples of its cells."""
    finished = cells[cells["error"] == ""]
    name = place_of(study, surroundings.ablation.study)
    picture = draw_study(name, summarise_cells(finished))
    if finished.empty:
        return picture, picture  # which says that there is nothing
    workplace, names = Workplace(surroundings), set(finished["cell"])
    images = {
        cell.name: workplace.draw_examples(Unit(cell, 0), report.num_examples)
        for cell in study_of(name).cells(surroundings.ablation, surroundings.parameters.students)
        if cell.name in names
    }
    examples = draw_examples(images, f"What the classifiers of the study '{study}' are trained on")
    log_picture(f"ablation/{study}", picture)
    log_picture(f"ablation/{study}_examples", examples)
    return picture, examples


def gather_cells(*studies: pd.DataFrame) -> tuple[pd.DataFrame, ...]:
    """Put the studies' cells into one table, compare each with its reference, keep confusions and failures."""
    cells = pd.concat([part for part in studies if len(part)] or [pd.DataFrame(columns=CELL_COLUMNS)])
    cells = cells.reset_index(drop=True)
    failed = cells["error"] != ""
    failures = cells.loc[failed, ["study", "cell", "seed", "error"]].reset_index(drop=True)
    finished = cells[~failed].drop(columns="error").reset_index(drop=True)
    summary = summarise_cells(finished.drop(columns="confusion"))
    table = tidy_cells(finished, summary)
    return cells.drop(columns="confusion"), summary, table, table, tabulate_confusion(finished), failures


def tell_findings(
    cells: pd.DataFrame,
    summary: pd.DataFrame,
    failures: pd.DataFrame,
    costs: pd.DataFrame,
    heldout_samples: SampleShards,
    this_run: dict[str, Any] | None,
    parameters: dict[str, Any],
    *pictures: np.ndarray,
) -> tuple[str, str, str]:
    """Write what the studies found, as Markdown, as a chapter of the report and as a page of its own."""
    finished = cells[cells["error"] == ""]
    summary = summary.merge(costs, "left", on="method")
    findings = write_findings(summary, finished, failures)
    done = set(finished["study"])
    names = [*STUDIES, place_of(FURTHER, [*done])]
    of_study = zip(names, pictures[::2], pictures[1::2], strict=True)
    chapter = render_chapter(findings, {study_of(study).title: pair for study, *pair in of_study if study in done})
    numbers = {"study": len(done), "cell": finished["cell"].nunique(), "seed": finished["seed"].nunique()}
    words = {"study": "studies", "cell": "cells", "seed": "seeds"}
    headline = ", ".join(f"{n} {word if n == 1 else words[word]}" for word, n in numbers.items()) + " each."
    for title, sentences in findings:
        log_note(title, "\n".join(f"- {sentence}" for sentence in sentences))
    teacher = heldout_samples.artifact.inputs["generator"]
    facts = tell_facts(teacher, this_run or {}, check_parameters(parameters), "ablation")
    page = Page(parameters, sentences=[headline], chapter=chapter, facts=facts)
    return findings_as_markdown(findings, summary), chapter, render_report(page)


def check_failures(failures: pd.DataFrame, page: str) -> None:
    """End the run with a `StudyFailedError` that names the cells that failed, if any; all else is saved by now."""
    if len(failures):
        lines = [f"\n  - {row.study}, {row.cell}, seed {row.seed}: {row.error}" for row in failures.itertuples()]
        raise StudyFailedError(
            f"{len(failures)} classifiers failed; the others are done and in the tables. Repeat the same command "
            "to try only these again:" + "".join(lines)
        )
