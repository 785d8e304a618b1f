"""Nodes of the report stage."""

from typing import Any

import numpy as np
import pandas as pd

from skdcgn_pipeline.parameters import Parameters, check_parameters
from skdcgn_pipeline.reporting.report import (
    by_class,
    command_of,
    render_report,
    summarise_in_a_sentence,
    tell_gains,
    tell_likeness,
)
from skdcgn_pipeline.samples.drawing import SampleShards

# Title of each picture -> the stage and the dataset that show it, and what is seen; a scale shows its own.
PICTURES = {
    "Images": (
        "prepare", "biased_images_sheet",
        "Training and test images; those of a bias protocol give their class away in training alone."),
    "Invariant classifiers": (
        "classify", "accuracy_chart", "Mean accuracy over seeds, 95 % interval."),
    "Students next to their teacher": (
        "distill", "student_sheet", "The same held-out noise and classes through both, mechanism by mechanism."),
    "Counterfactuals": (
        "compose", "counterfactual_sheet", "Shape, texture and background as the settings compose them."),
    "Interpolations": (
        "compose", "interpolation_sheet",
        "Teacher and students on the same noise from one class to another, then from one noise vector to another."),
    "Interpolations, moving": (
        "compose", "interpolation_animation",
        "Composites of several noise vectors, there and back; the teacher above, the students below."),
    "What the classifiers confuse": (
        "classify", "confusion_chart", "Test images, all seeds together; rows are the true classes."),
    "Where the classifiers look": (
        "classify", "attention_sheet",
        "Grad-CAM of the class that each says, on the same test images; wrong answers in red."),
    "Losses": ("distill", "loss_curves", "Every term of the distillation loss, before weighting."),
}  # fmt: skip
TABLES = {
    "Accuracy": ("classify", "accuracy_summary", "Accuracy in [0, 1]; the calibration error is the mean over seeds."),
    "Accuracy by class": ("classify", "confusion", "Share of each class's images that are recognised, all seeds."),
    "What answers follow": (
        "classify", "followed_mechanisms",
        "Counterfactuals of three classes: share of answers, in [0, 1], that name the class of each mechanism."),
    "Students": (
        "distill", "student_comparison",
        "Held-out noise; L1 in units of the image range; both timed in one process."),
    "Generated images": (
        "distill", "generation_metrics",
        "Held-out composites, in the features of a fixed network; sd over subsets, splits or masks."),
}  # fmt: skip
INPUTS = [*dict.fromkeys(["accuracy", *(dataset for _, dataset, _ in (*PICTURES.values(), *TABLES.values()))])]
MAX_ROWS = 100
# As data flows; stages that are run by name alone follow.
READING_ORDER = ("prepare", "teacher", "sample", "distill", "compose", "classify")


def write_report(
    heldout_samples: SampleShards,
    ablation_chapter: str | None,
    this_run: dict[str, Any] | None,
    parameters: dict[str, Any],
    *shown: np.ndarray | pd.DataFrame | None,
) -> str:
    """Put pictures, tables and settings of the run, and the last composition study if any, into one HTML page."""
    data: dict[str, Any] = {name: one for name, one in zip(INPUTS, shown, strict=True) if one is not None}
    this_run = this_run or {}
    sections = PICTURES | TABLES
    headlines = headlines_of(data)
    if "confusion" in data:
        data["confusion"] = by_class(data["confusion"])
    teacher = heldout_samples.artifact.inputs["generator"]
    facts = tell_facts(teacher, this_run, check_parameters(parameters))
    return render_report(
        parameters,
        {title: (caption, data[name]) for title, (_, name, caption) in PICTURES.items() if name in data},
        {
            title: (caption, data[name])
            for title, (_, name, caption) in TABLES.items()
            if name in data and 0 < len(data[name]) <= MAX_ROWS
        },
        headlines,
        ablation_chapter or "",
        facts,
        {title: command_of(this_run, stage, [name]) for title, (stage, name, _) in sections.items()},
    )


def headlines_of(data: dict[str, Any]) -> list[str]:
    """Say what counterfactuals bought and what the classifiers reached, or how like their teacher students are."""
    if "accuracy_summary" in data:
        gains = [tell_gains(data["accuracy"])] if "accuracy" in data else []
        return [*filter(None, gains), summarise_in_a_sentence(data["accuracy_summary"])]
    return [tell_likeness(data["student_comparison"])] if "student_comparison" in data else []


def tell_facts(teacher: dict[str, Any], this_run: dict[str, Any], parameters: Parameters) -> dict[str, str]:
    """Say what was run: command, teacher, data, seeds and how long each stage took."""
    sha256 = str(teacher.get("sha256", ""))
    facts = {
        "name": parameters.run_name,
        "command": command_of(this_run),
        "teacher": f"{teacher['name']}" + (f", SHA-256 {sha256}" if sha256 else ""),
        "images": _tell_images(parameters),
        "seed": f"{parameters.seed}",
    }
    if this_run.get("commit"):
        facts["git commit"] = this_run["commit"]
    if durations := this_run.get("seconds"):
        order = [stage for stage in READING_ORDER if stage in durations]
        order += [stage for stage in durations if stage not in READING_ORDER]
        told = ", ".join(f"{stage} {durations[stage]:,.1f} s" for stage in order)
        facts["stages of this run"] = f"{told} (what was there already is reused)"
    return facts


def _tell_images(parameters: Parameters) -> str:
    images = parameters.images
    if images.are_coloured:
        return f"{images.source}, {parameters.variant}"
    return f"{images.source}, {images.folder}" if images.folder else images.source
