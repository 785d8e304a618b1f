"""Nodes of the report stage."""

from typing import Any

import numpy as np
import pandas as pd

from skdcgn_pipeline.io.tracking import log_text
from skdcgn_pipeline.reporting.report import render_report, summarise_in_a_sentence
from skdcgn_pipeline.studies.invariance import invariance_in_a_sentence


def write_report(
    biased_images_sheet: np.ndarray | None,
    student_sheet: np.ndarray,
    loss_curves: np.ndarray,
    counterfactual_sheet: np.ndarray,
    accuracy_chart: np.ndarray | None,
    invariance_chart: np.ndarray | None,
    student_comparison: pd.DataFrame,
    accuracy_summary: pd.DataFrame | None,
    invariance: pd.DataFrame | None,
    ablation_chapter: str | None,
    parameters: dict[str, Any],
) -> str:
    """Put pictures, tables and settings of the run, and the last composition study if any, into one HTML page."""
    pictures = {
        "Invariant classifiers": ("Mean accuracy over seeds on unbiased images, 95 % interval.", accuracy_chart),
        "Invariant ensembles": ("By head; `mean` is the prediction of all heads together.", invariance_chart),
        "Students next to their teacher": ("The same held-out noise and classes through both.", student_sheet),
        "Counterfactuals": ("Shape, texture and background of independent classes.", counterfactual_sheet),
        "The bias": ("Training digits give their class away by colour, test digits do not.", biased_images_sheet),
        "Losses": ("Every term of the distillation loss, before weighting.", loss_curves),
    }
    tables = {
        "Accuracy": ("Accuracy in [0, 1] on unbiased images.", accuracy_summary),
        "Invariance": ("Shares in [0, 1]; the published background gap is that of `without_background`.", invariance),
        "Students": ("Held-out noise; L1 in units of the image range; both timed in one process.", student_comparison),
    }
    headline = [] if accuracy_summary is None else [summarise_in_a_sentence(accuracy_summary)]
    headline += [] if invariance is None else [invariance_in_a_sentence(invariance)]
    page = render_report(
        parameters,
        {title: (caption, picture) for title, (caption, picture) in pictures.items() if picture is not None},
        {title: (caption, table) for title, (caption, table) in tables.items() if table is not None},
        " ".join(headline),
        ablation_chapter or "",
    )
    log_text("report.html", page)
    return page
