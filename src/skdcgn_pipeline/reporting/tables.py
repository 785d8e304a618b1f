"""Tables as a report shows them: shares in % with one decimal, few columns, names that say what is measured."""

from __future__ import annotations

from typing import Any

import numpy as np
import pandas as pd

from skdcgn_pipeline.reporting.headlines import percent
from skdcgn_pipeline.runtime.progress import rounded


def format_value(value: Any) -> str:
    """Write a value of a table: numbers with four digits and separators of thousands, what is missing as a dash."""
    if value is None or (isinstance(value, float) and np.isnan(value)):
        return "–"
    if isinstance(value, float) and value.is_integer() and abs(value) >= 1000:
        value = int(value)
    if isinstance(value, int | np.integer) and not isinstance(value, bool):
        return f"{value:,}"
    if isinstance(value, float):
        return f"{value:,.0f}" if abs(value) >= 1000 else f"{value:.4g}"
    return str(value)


def share(value: Any) -> str:
    """Write a share in [0, 1] in percent, what is missing as a dash."""
    return "–" if pd.isna(value) else f"{100 * value:.1f}"


def _accuracies(summary: pd.DataFrame) -> list[str]:
    """Write each mean accuracy with half its 95 % interval in percent, what is missing as a dash."""
    means = zip(summary["mean_accuracy"], summary["interval_high"], strict=True)
    return ["–" if pd.isna(mean) else percent(mean, high) for mean, high in means]


def accuracy_table(summary: pd.DataFrame) -> pd.DataFrame:
    """Return accuracy with half its 95 % interval and calibration error, in %, of what `summarise_accuracy` gives."""
    table = summary[["trained_on", "split", "subset"]].assign(**{"accuracy, %": _accuracies(summary)})
    if "calibration_error" in summary:
        table["calibration error, %"] = summary["calibration_error"].map(share)
    return table.assign(seeds=summary["num_seeds"], images=summary["num_images"])


def class_table(confusion: pd.DataFrame) -> pd.DataFrame:
    """Return the accuracy of every class by split (rows) and by what was trained on (columns), in %."""
    table = confusion.pivot_table("accuracy", ["label", "split"], "trained_on", sort=False).map(share)
    table = table.add_suffix(", %").reset_index().rename(columns={"label": "class"})
    return table.rename_axis(columns=None)


def corruption_table(summary: pd.DataFrame) -> pd.DataFrame:
    """Return accuracy by corruption (columns), in %, of what `summarise_corruptions` gives."""
    table = summary.assign(told=_accuracies(summary))
    rows = ["trained_on", "split", "strengths"]
    table = table.pivot_table("told", rows, "corruption", aggfunc="first", sort=False).add_suffix(", %")
    return table.reset_index().rename_axis(columns=None)


def followed_table(followed: pd.DataFrame) -> pd.DataFrame:
    """Return the share of answers that follow each mechanism, in %."""
    shares = followed.drop(columns=["trained_on", "num_images"]).map(share).add_suffix(", %")
    return pd.concat([followed[["trained_on"]], shares, followed["num_images"].rename("images")], axis=1)


def errors_table(consistency: pd.DataFrame) -> pd.DataFrame:
    """Return the error consistency of training sets, with the agreement that is observed and expected in %."""
    shares = {f"{name} agreement, %": consistency[name].map(share) for name in ("observed", "expected")}
    kappa = [format_value(None if pd.isna(value) else round(value, 2)) for value in consistency["error_consistency"]]
    table = consistency[["trained_on", "other", "split"]].assign(**{"error consistency": kappa}, **shares)
    return table.assign(pairs=consistency["num_pairs"], images=consistency["num_images"])


# Column of a comparison, measure of composites -> what it is; distances are in the features that the caption names.
LIKENESS = {
    "l1": "L1, in units of the image range",
    "mask_iou": "mask IoU, %",
    "frechet": "Frechet distance to the teacher",
    "frechet_teacher": "Frechet distance of the teacher to training images",
    "frechet_ratio": "first distance over the second",
    "num_images": "images",
    "teacher_macs": "teacher multiply-accumulates",
    "student_macs": "student multiply-accumulates",
    "teacher_images_per_s": "teacher images per second",
    "student_images_per_s": "student images per second",
}
MEASURES = {
    "fid": "Frechet distance to {}",
    "inception_score": "Inception Score, by the classes of this network",
    "mean_mask": "mean mask, %",
    "mask_entropy": "mask entropy, bits",
    "collapsed_masks": "collapsed masks, %",
}
SHARES = {"mean_mask", "collapsed_masks"}


def likeness_table(comparison: pd.DataFrame) -> pd.DataFrame:
    """Return fidelity and cost of the students, a row per measure and a column per mechanism."""
    table = comparison.assign(mask_iou=comparison["mask_iou"].map(share)).dropna(axis=1, how="all")
    table = table.rename(columns=lambda name: LIKENESS.get(name, name.replace("_", " ")))
    return table.set_index("mechanism").T.rename_axis("measure").reset_index().rename_axis(columns=None)


def generation_table(measures: pd.DataFrame) -> pd.DataFrame:
    """Return the measures of composites with their sd, a row per measure and a column for students and teacher each."""

    def told(row: dict[Any, Any]) -> str:
        if row["measure"] in SHARES:
            return percent(row["value"], row["value"] + row["sd"])
        return format_value(row["value"]) + (f" ± {rounded(row['sd'])}" if row["sd"] >= 0 else "")

    rows = measures.to_dict("records")
    names = [MEASURES.get(row["measure"], row["measure"]).format(row["reference"]) for row in rows]
    table = measures.assign(measure=names, told=[*map(told, rows)])
    table = table.pivot_table("told", "measure", "images", aggfunc="first", sort=False)
    return table.reset_index().rename_axis(columns=None)
