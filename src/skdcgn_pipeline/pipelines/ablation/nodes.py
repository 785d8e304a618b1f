"""Nodes of the ablation stage."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import click
import numpy as np
import pandas as pd

from skdcgn_pipeline.artifacts.recipe import Run
from skdcgn_pipeline.images.stored import StoredImages
from skdcgn_pipeline.io.tracking import log_metrics, log_note, log_picture, log_table, log_text, log_unit
from skdcgn_pipeline.metrics.statistics import summarise_cells, tidy_cells
from skdcgn_pipeline.parameters import Ablation, Classify, Distill, Prepare, Report, Teacher
from skdcgn_pipeline.reporting.report import render_chapter, render_report
from skdcgn_pipeline.runtime.errors import StudyFailedError
from skdcgn_pipeline.samples.drawing import SampleShards
from skdcgn_pipeline.studies.contract import Unit
from skdcgn_pipeline.studies.registry import STUDIES, expand_cells
from skdcgn_pipeline.studies.report import draw_examples, draw_study, findings_as_markdown, write_findings
from skdcgn_pipeline.studies.run import (
    CELL_COLUMNS,
    choose_engine,
    describe_plan,
    plan_units,
    run_units,
    tabulate,
    units_of,
)
from skdcgn_pipeline.studies.training_data import Surroundings, Workplace


def name_surroundings(
    run: Run,
    biased_images: StoredImages | None,
    teacher_samples: SampleShards | None,
    student_samples: SampleShards | None,
    heldout_samples: SampleShards | None,
    ablation: Ablation,
    prepare: Prepare,
    teacher: Teacher,
    variant: str,
    classify: Classify,
) -> Surroundings:
    """Say where everything is that cells need."""

    def place_of(data: StoredImages | SampleShards | None) -> Path | None:
        return None if data is None else data.artifact.directory

    return Surroundings(
        stores=run.store.root,
        biased_images=place_of(biased_images),
        teacher_samples=place_of(teacher_samples),
        student_samples=place_of(student_samples),
        heldout_samples=place_of(heldout_samples),
        teacher=teacher,
        style_fit=prepare.feature_network,
        variant=variant,
        assets=run.assets,
        fit=ablation.fit,
        num_pool_images_per_class=ablation.distill.num_pool_images_per_class,
        num_teacher_images=ablation.stage.num_images,
        seed=run.seed,
        compute=run.compute,
        network=classify.network,
    )


def plan_ablation(
    surroundings: Surroundings, ablation: Ablation, shape: Distill, texture: Distill, background: Distill
) -> pd.DataFrame:
    """Say which cells there are, which are done, and how long the others will take."""
    students = {"shape": shape, "texture": texture, "background": background}
    plan = plan_units(units_of(expand_cells(ablation, students), ablation.num_seeds), surroundings)
    click.echo(describe_plan(plan, surroundings, ablation.workers, cells=ablation.plan))
    return plan


def run_study(study: str) -> Callable[..., pd.DataFrame]:
    """Return the node function that runs one study."""

    def run_cells(
        surroundings: Surroundings,
        plan: pd.DataFrame,
        ablation: Ablation,
        shape: Distill,
        texture: Distill,
        background: Distill,
    ) -> pd.DataFrame:
        units: list[Unit] = []
        if study in ablation.study:
            students = {"shape": shape, "texture": texture, "background": background}
            units = units_of(STUDIES[study].cells(ablation, students), ablation.num_seeds)
        results = run_units(units, surroundings, choose_engine(ablation.workers), log_unit, f"study {study}")
        return tabulate(results, ablation.fit)

    return run_cells


def show_study(study: str) -> Callable[..., tuple[np.ndarray, np.ndarray]]:
    """Return the node function that draws one study and examples of its cells."""

    def show_cells(
        surroundings: Surroundings,
        cells: pd.DataFrame,
        ablation: Ablation,
        shape: Distill,
        texture: Distill,
        background: Distill,
        report: Report,
    ) -> tuple[np.ndarray, np.ndarray]:
        finished = cells[~_failed(cells)]
        picture = draw_study(study, summarise_cells(finished))
        students = {"shape": shape, "texture": texture, "background": background}
        workplace = Workplace(surroundings)
        there = set(finished["cell"])
        if not there:
            return picture, picture  # which says that there is nothing
        examples = draw_examples(
            {
                cell.name: workplace.draw_examples(Unit(cell, 0), report.num_examples)
                for cell in STUDIES[study].cells(ablation, students)
                if cell.name in there
            },
            f"What the classifiers of the study '{study}' are trained on",
        )
        log_picture(f"ablation/{study}", picture)
        log_picture(f"ablation/{study}_examples", examples)
        return picture, examples

    return show_cells


def _failed(cells: pd.DataFrame) -> pd.Series:
    """Tell which rows stand for a classifier that failed."""
    return cells["error"].fillna("") != ""


def gather_cells(
    *studies: pd.DataFrame,
) -> tuple[pd.DataFrame, pd.DataFrame, pd.DataFrame, pd.DataFrame, pd.DataFrame, pd.DataFrame]:
    """Put the studies' cells into one table, compare each with its reference, keep confusions and failures."""
    cells = pd.concat([part for part in studies if len(part)] or [pd.DataFrame(columns=CELL_COLUMNS)])
    cells = cells.reset_index(drop=True)
    failed = _failed(cells)
    failures = cells.loc[failed, ["study", "cell", "seed", "error"]].reset_index(drop=True)
    finished = cells[~failed].drop(columns="error").reset_index(drop=True)
    summary = summarise_cells(finished.drop(columns="confusion"))
    table = tidy_cells(finished, summary)
    confusion = tabulate_confusion(finished)
    test = summary[(summary["split"] == "test") & (summary["subset"] == "all")]
    names = (test["study"] + "/" + test["cell"]).str.replace(r"[^\w/. -]", " ", regex=True)
    log_metrics({f"ablation/{name}": value for name, value in zip(names, test["mean_accuracy"], strict=True)})
    log_table("ablation", table)
    log_table("ablation_summary", summary)
    log_table("ablation_failures", failures)
    return cells.drop(columns="confusion"), summary, table, table, confusion, failures


def tabulate_confusion(cells: pd.DataFrame) -> pd.DataFrame:
    """Return the confusion matrices as rows: how many images of a class were predicted as which."""
    rows: list[dict[str, Any]] = []
    for cell in cells[cells["subset"] == "all"].itertuples():
        if not cell.confusion:
            continue
        for label, counts in enumerate(json.loads(str(cell.confusion))):
            place = {"study": cell.study, "cell": cell.cell, "seed": cell.seed, "split": cell.split, "label": label}
            recall = counts[label] / max(1, sum(counts))
            rows.append({**place, "accuracy": recall, **{f"predicted_{k}": count for k, count in enumerate(counts)}})
    return pd.DataFrame(rows, columns=None if rows else ["study", "cell", "seed", "split", "label", "accuracy"])


def tell_findings(
    cells: pd.DataFrame,
    summary: pd.DataFrame,
    failures: pd.DataFrame,
    parameters: dict[str, Any],
    *pictures: np.ndarray,
) -> tuple[str, str, str]:
    """Write what the studies found, as Markdown, as a chapter of the report and as a page of its own."""
    finished = cells[~_failed(cells)]
    findings = write_findings(summary, finished, failures)
    text = findings_as_markdown(findings, summary)
    done = set(finished["study"])
    of_study = zip(STUDIES, pictures[::2], pictures[1::2], strict=True)
    chapter = render_chapter(findings, {STUDIES[study].title: own for study, *own in of_study if study in done})
    headline = f"{len(done)} studies, {finished['cell'].nunique()} cells, {finished['seed'].nunique()} seeds each."
    page = render_report(parameters, {}, {}, headline, chapter)
    for title, sentences in findings:
        log_note(title, "\n".join(f"- {sentence}" for sentence in sentences))
    log_text("ablation_findings.md", text)
    log_text("ablation.html", page)
    return text, chapter, page


def check_failures(failures: pd.DataFrame, page: str) -> None:
    """End the run with an error if cells failed; everything else is saved by now.

    Raises:
        StudyFailedError: Naming the cells and their errors.
    """
    if len(failures):
        lines = [f"\n  - {row.study}, {row.cell}, seed {row.seed}: {row.error}" for row in failures.itertuples()]
        raise StudyFailedError(
            f"{len(failures)} classifiers failed; the others are done and in the tables. Repeat the same command "
            "to try only these again:" + "".join(lines)
        )
