"""What people see of studies: a picture each, example images, and findings from their figures alone.

Everything is made from `metrics.statistics.summarise_cells`; studies and cells that are absent are left out.
"""

from __future__ import annotations

import textwrap
from collections.abc import Mapping

import pandas as pd
import torch
from torch import Tensor

from skdcgn_pipeline.reporting.pictures import Picture, draw_sheet, rasterise
from skdcgn_pipeline.studies.figures import STYLE, draw_notice
from skdcgn_pipeline.studies.registry import STUDIES, study_of
from skdcgn_pipeline.studies.words import percent

LARGEST_EXAMPLE = 64  # pixels; larger examples are scaled down
Findings = list[tuple[str, list[str]]]


def part_of(frame: pd.DataFrame, study: str) -> pd.DataFrame:
    """Return the rows of one study, of all test images."""
    return frame[(frame["study"] == study) & (frame["split"] == "test") & (frame["subset"] == "all")]


def _range(frame: pd.DataFrame, name: str) -> str:
    """Write the value that all rows share, or the range; empty without any, as in studies made by hand."""
    values = frame.get(name, pd.Series(dtype=float)).dropna()
    if values.empty:
        return ""
    low, high = int(values.min()), int(values.max())
    return f"{low:,}" if low == high else f"{low:,} to {high:,}"


def _budget_of(rows: pd.DataFrame) -> str:
    """Say how many seeds and images are behind the figures of a study."""
    names = ("num_seeds", "num_images", "num_training_images", "batch_size", "distillation_steps")
    seeds, measured, trained, batches, steps = (_range(rows, name) for name in names)
    return (
        f"{seeds} {'seed' if seeds == '1' else 'seeds'} per cell, {measured} test images, "
        f"{trained} training images in batches of {batches}" + (f", {steps} distillation steps" if steps else "")
    )


def _reference_of(rows: pd.DataFrame) -> str:
    """Name the reference and its accuracy."""
    name = rows["reference"].iloc[0]
    accuracy = rows.loc[rows["cell"] == name, "mean_accuracy"]
    return f"reference: {name}, {percent(accuracy.iloc[0]) if len(accuracy) else 'missing'}"


# --- pictures ----------------------------------------------------------------------------------------


def draw_study(study: str, summary: pd.DataFrame) -> Picture:
    """Draw a study by name, for all test images; the picture says so where there is no cell to draw."""
    rows, title = part_of(summary, study), study_of(study).title
    if rows.empty:
        return rasterise(draw_notice(f"{title}\nno cell on the split 'test'", 0.5))
    from matplotlib import rc_context

    with rc_context(STYLE):
        figure = study_of(study).figure(rows)
    subtitle = f"test split · {_reference_of(rows)} · {_budget_of(rows)}"
    figure.suptitle(f"{title}\n{textwrap.fill(subtitle, int(figure.get_figwidth() * 15))}", fontsize=9)
    return rasterise(figure)


def draw_examples(images: Mapping[str, Tensor], title: str) -> Picture:
    """Draw training images [N, 3, H, W] in [-1, 1] of every cell, a row each; large ones are scaled down."""
    return draw_sheet([(textwrap.fill(name, 24), _scaled_down(examples)) for name, examples in images.items()], title)


def _scaled_down(images: Tensor) -> Tensor:
    size = min(images.shape[-1], LARGEST_EXAMPLE)
    return torch.nn.functional.interpolate(images, size=(size, size), mode="area")


# --- findings ----------------------------------------------------------------------------------------


def write_findings(summary: pd.DataFrame, cells: pd.DataFrame, failures: pd.DataFrame | None = None) -> Findings:
    """Say in sentences what each study found, from its figures alone.

    Nothing is said to raise or to lower the accuracy unless its Holm-adjusted p is below 0.05.

    Args:
        summary, cells: What `summarise_cells` returns, and what it was made of.
        failures: Rows with `study`, `cell`, `seed`, `error`; None for none.

    Returns:
        Title and sentences of every study that was measured or failed.
    """
    failures = pd.DataFrame(columns=["study", "cell", "seed", "error"]) if failures is None else failures
    present = [*dict.fromkeys([*summary["study"], *failures["study"]])]
    findings = []
    for name in sorted(present, key=lambda name: [*STUDIES, *present].index(name)):
        study, rows = study_of(name), part_of(summary, name)
        if rows.empty:
            sentences = ["No cell of this study was measured on the split 'test'."]
        else:
            sentences = [f"Split 'test', {_budget_of(rows)}; {_reference_of(rows)}."]
            if (reference := rows["reference"].iloc[0]) not in set(rows["cell"]):
                sentences.append(f"The reference '{reference}' is missing, so there is no difference to it.")
            claims = study.claims(rows, part_of(cells, name))
            sentences += [study.expectation, *claims] if study.expectation and claims else claims
        findings.append((study.title, sentences + _failed(failures[failures["study"] == name])))
    return findings


def _failed(failures: pd.DataFrame) -> list[str]:
    """Name the trainings that failed."""
    words = [f"{row.cell}, seed {row.seed}: {row.error}" for row in failures.itertuples()]
    return [f"Failed and left out: {'; '.join(words)}."] if words else []


def findings_as_markdown(findings: Findings, summary: pd.DataFrame) -> str:
    """Write findings as Markdown, each study followed by a table of its cells."""
    lines = ["# What the ablation found", ""]
    name_of = {study_of(name).title: name for name in [*STUDIES, *summary["study"]]}
    for title, sentences in findings:
        lines += [f"## {title}", "", *(f"- {sentence}" for sentence in sentences), ""]
        rows = summary[summary["study"] == name_of[title]]
        lines += study_of(name_of[title]).table(rows) if len(rows) else []
    return "\n".join(lines)
