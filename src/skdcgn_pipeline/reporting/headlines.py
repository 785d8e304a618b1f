"""What came out of a run, in figures and in sentences: for the top of its report and for the end of its log."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import pandas as pd

from skdcgn_pipeline.classifiers.accuracy import BACKGROUND_GAP, EVERY_BACKGROUND, SHAPE_BIAS, WORST_GROUP, subset_of
from skdcgn_pipeline.classifiers.attention import NEITHER
from skdcgn_pipeline.classifiers.classification import CHALLENGE_SPLITS, COUNTERFACTUALS, ORIGINALS
from skdcgn_pipeline.classifiers.torchvision_classifier import HEADS, WITHOUT_BACKGROUND
from skdcgn_pipeline.metrics.statistics import compare_pairs
from skdcgn_pipeline.runtime.progress import rounded
from skdcgn_pipeline.vocabulary import MECHANISMS

LEARNT = {
    "originals": "originals",
    "cutouts": "counterfactuals of cut-outs",
    "teacher": "teacher's counterfactuals",
    "students": "students' counterfactuals",
}
# Where and by which subset invariance is told as papers do, beside accuracy.
INVARIANCE = (
    ("cue_conflict", subset_of(SHAPE_BIAS, HEADS[0]), "shape bias of the shape head {} %"),
    ("imagenet9", subset_of(BACKGROUND_GAP, WITHOUT_BACKGROUND), "background gap {} points"),
    ("imagenet9", subset_of(EVERY_BACKGROUND, WITHOUT_BACKGROUND), "{} % of objects right on every background"),
)
RATE = "images_per_s"
ALIKE = 1.1  # rates that differ by a smaller factor are not told apart: they are timed without an interval
# What is right there is no gain: images that choices are made on, and those without an object.
NO_GAINS = ("validation", COUNTERFACTUALS, CHALLENGE_SPLITS[1])
NO_DIFFERENCE = "no difference shown"


@dataclass(frozen=True)
class Headline:
    """A figure that people look at first.

    Attributes:
        name: What it is.
        before: It without distillation or counterfactuals; empty where that is unknown.
        after: It with them.
        verdict: What the two allow to say; empty where there is nothing to compare with.
    """

    name: str
    before: str
    after: str
    verdict: str


def tell_change(accuracy: pd.DataFrame) -> list[Headline]:
    """Return the accuracy of what is trained on originals and of what is trained on the last set beside them.

    Args:
        accuracy: Rows of `trained_on`, `seed`, `split`, `subset` and `accuracy`.

    Returns:
        A figure with the points between the two, paired by seed; none where only one of them was trained.
    """
    split = headline_split(accuracy)
    shown = accuracy[(accuracy["split"] == split) & (accuracy["subset"] == "all")]
    of_set = {str(name): rows.set_index("seed")["accuracy"] for name, rows in shown.groupby("trained_on", sort=False)}
    *_, last = of_set
    if ORIGINALS not in of_set or last == ORIGINALS:
        return []
    gain = compare_pairs(of_set[last], of_set[ORIGINALS])
    points = f"{percent(gain['difference'], gain['difference_high'], '+')} points"
    if gain["num_pairs"] < 2:
        verdict = f"{points}, one seed"
    elif gain["difference_low"] > 0:
        verdict = f"better, {points}"
    else:
        verdict = f"worse, {points}" if gain["difference_high"] < 0 else f"{NO_DIFFERENCE}, {points}"
    before, after = (f"{100 * of_set[name].mean():.1f} %" for name in (ORIGINALS, last))
    return [Headline(f"accuracy on {split}, {ORIGINALS} to {LEARNT.get(last, last)}", before, after, verdict)]


def tell_costs(comparison: pd.DataFrame) -> list[Headline]:
    """Return parameters and speed of teacher and students; a teacher that is no network has no parameters.

    Args:
        comparison: Rows of `mechanism`, among them `all`, with `teacher_` and `student_` `parameters` and
            `images_per_s`.
    """
    (whole,) = comparison[comparison["mechanism"] == "all"].to_dict("records")

    def figure(measure: str, name: str, more: str, less: str, power: int) -> Headline | None:
        teacher, student = (float(whole.get(f"{whose}_{measure}") or math.nan) for whose in ("teacher", "student"))
        if not student > 0:
            return None
        gain = (student / teacher) ** power
        verdict = f"{max(gain, 1 / gain):.1f} times {more if gain > 1 else less}"
        if gain == 1 or (measure == RATE and 1 / ALIKE < gain < ALIKE):
            verdict = NO_DIFFERENCE
        before, after = rounded(teacher), rounded(student)
        name = f"{name}, teacher to students"
        return Headline(name, before, after, verdict) if teacher > 0 else Headline(name, "", after, "")

    figures = figure("parameters", "parameters", "fewer", "more", -1), figure(RATE, "images/s", "faster", "slower", 1)
    return [one for one in figures if one is not None]


def percent(value: float, high: float, sign: str = "") -> str:
    """Write a share and half the width of its interval, if it has one (`high` is a number), in percent."""
    half_width = 100 * (high - value)
    return f"{100 * value:{sign}.1f}" + (f" ± {half_width:.1f}" if half_width >= 0 else "")


def _accuracy(row: Mapping[Any, Any]) -> str:
    return percent(row["mean_accuracy"], row["interval_high"])


def _over(num_seeds: int) -> str:
    return f"mean and 95 % interval over {num_seeds} seeds" if num_seeds > 1 else "one seed"


def headline_split(summary: pd.DataFrame) -> str:
    """Return the split that headlines tell of a table of accuracies: the test, or the first one."""
    splits = [*summary.loc[summary["subset"] == "all", "split"]]
    return "test" if "test" in splits else splits[0]


def summarise_in_a_sentence(summary: pd.DataFrame) -> str:
    """Say what the classifiers reached on all images of the first test split, and how invariant they are."""
    keys = zip(summary["trained_on"], summary["split"], summary["subset"], strict=True)
    rows = dict(zip(keys, summary.to_dict("records"), strict=True))
    split = headline_split(summary)

    def of_set(name: str) -> str:
        said = f"{_accuracy(rows[name, split, 'all'])} % trained on {LEARNT.get(name, name)}"
        for at, subset, words in INVARIANCE:
            if (row := rows.get((name, at, subset))) and pd.notna(row["mean_accuracy"]):
                said += f", {words.format(_accuracy(row))}"
        return said

    names = [*dict.fromkeys(summary["trained_on"])]
    number, images = int(summary["num_seeds"].iloc[0]), int(rows[names[0], split, "all"]["num_images"])
    return f"Accuracy on {split}: {'; '.join(map(of_set, names))} ({_over(number)}, {images:,} images)."


def tell_gains(accuracy: pd.DataFrame) -> str:
    """Say what counterfactuals bought against training on the originals, seed by seed, on every test split.

    Args:
        accuracy: Rows of `trained_on`, `seed`, `split`, `subset` and `accuracy`.

    Returns:
        A sentence; empty where nothing was trained on the originals, or nothing else.
    """
    by_set = accuracy.pivot_table("accuracy", ["split", "subset", "seed"], "trained_on", sort=False)
    others = [str(name) for name in by_set if name != ORIGINALS]
    if ORIGINALS not in by_set or not others:
        return ""
    splits = [name for name in dict.fromkeys(accuracy["split"]) if name not in NO_GAINS]
    measured, sentences = {*zip(accuracy["split"], accuracy["subset"], strict=True)}, []
    for split in splits or ["validation"]:
        told = []
        for subset, words in (("all", "accuracy"), (WORST_GROUP, "accuracy in the worst group")):
            if (split, subset) not in measured:
                continue
            of_seeds = by_set.loc[(split, subset)]
            for name in others:
                gain = compare_pairs(of_seeds[name], of_seeds[ORIGINALS])
                points = percent(gain["difference"], gain["difference_high"], "+")
                ends = f"{100 * of_seeds[ORIGINALS].mean():.1f} to {100 * of_seeds[name].mean():.1f} %"
                told.append(f"{LEARNT.get(name, name)} {points} points of {words} ({ends})")
        if told:
            sentences.append(f"on {split} {'; '.join(told)}")
    if not sentences:
        return ""
    number = accuracy["seed"].nunique()
    return f"What counterfactuals bought against training on originals ({_over(number)}): {'. '.join(sentences)}."


def tell_likeness(comparison: pd.DataFrame) -> str:
    """Say how like their teacher students are, where nothing is classified.

    Args:
        comparison: Rows of `mechanism`, `l1` and `mask_iou`.
    """
    rows = {str(row["mechanism"]): row for row in comparison.to_dict("records")}
    shape, *others = MECHANISMS
    differences = " and ".join(f"{mechanism} {rows[mechanism]['l1']:.3f}" for mechanism in others)
    return (
        f"The students' masks agree with their teacher's with an IoU of {100 * rows[shape]['mask_iou']:.1f} %; mean L1 "
        f"of {differences}, on held-out noise. Without real images nothing is classified, and no features are measured."
    )


def tell_problem(summary: pd.DataFrame, followed: pd.DataFrame | None) -> str:
    """Say what becomes of classifiers that are trained on the originals; empty where none is.

    Args:
        summary: What `summarise_accuracy` gives.
        followed: Rows of `trained_on` and the share of answers that follow each mechanism, or None.
    """
    split = headline_split(summary)
    of_all = summary[(summary["split"] == split) & (summary["subset"] == "all")]
    learnt = of_all[of_all["trained_on"] == ORIGINALS].to_dict("records")
    if not learnt:
        return ""
    told = f"Trained on originals alone, classifiers recognise {_accuracy(learnt[0])} % of the images of {split}."
    rows = [] if followed is None else followed[followed["trained_on"] == ORIGINALS].to_dict("records")
    for row in rows:
        shares = ", ".join(f"the {name} in {100 * row[name]:.1f} %" for name in MECHANISMS)
        told += f" Where the three mechanisms are of different classes, their answers follow {shares}"
        told += f", none of them in {100 * row[NEITHER]:.1f} %."
    return told


# --- of whatever a run has made: datasets by name --------------------------------------------------


def tell_figures(results: Mapping[str, Any]) -> list[Headline]:
    """Return accuracy before and after, and size and speed of the students, as far as they are known."""
    change = tell_change(results["accuracy"]) if "accuracy" in results else []
    return change + (tell_costs(results["student_comparison"]) if "student_comparison" in results else [])


def tell_sentences(results: Mapping[str, Any]) -> list[str]:
    """Say what counterfactuals bought and what the classifiers reached, or how like their teacher students are."""
    if "accuracy_summary" in results:
        gains = [tell_gains(results["accuracy"])] if "accuracy" in results else []
        return [*filter(None, gains), summarise_in_a_sentence(results["accuracy_summary"])]
    return [tell_likeness(results["student_comparison"])] if "student_comparison" in results else []


def headlines(results: Mapping[str, Any]) -> list[tuple[str, float, str]]:
    """Return the figures that people look at first: the students' size and likeness, then test accuracy.

    Each is what it is about, its value (a number of parameters, or a share from 0 to 1), and how it is written.
    """
    rows: list[tuple[str, float, str]] = []
    comparison = results.get("student_comparison")
    if comparison is not None:
        by_mechanism = comparison.set_index("mechanism")
        students, teacher = (by_mechanism[f"{whose}_parameters"]["all"] for whose in ("student", "teacher"))
        known = teacher is not None and teacher > 0  # one that is no network has none
        share = f" ({100 * students / teacher:.1f} % of the teacher)" if known else ""
        rows.append(("parameters of the students", students, f"{students:,.0f}{share}"))
        likeness = by_mechanism["mask_iou"]["shape"]
        rows.append(("mask IoU with the teacher", likeness, f"{100 * likeness:.1f} %"))
    accuracy = results.get("accuracy_summary")
    if accuracy is not None:
        split = headline_split(accuracy)
        shown = accuracy[(accuracy["split"] == split) & accuracy["subset"].isin(["all", "worst group"])]
        for row in shown.to_dict("records"):
            told = percent(row["mean_accuracy"], row["interval_high"] if row["num_seeds"] > 1 else math.nan)
            subset = "" if row["subset"] == "all" else f", {row['subset']}"
            what = f"accuracy on {split}, trained on {row['trained_on']}{subset}"
            rows.append((what, row["mean_accuracy"], f"{told} %"))
    return rows
