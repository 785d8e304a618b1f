"""Nodes of the report stage."""

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
import pandas as pd

from skdcgn_pipeline.artifacts.store import Artifact
from skdcgn_pipeline.classifiers.accuracy import WORST_GROUP
from skdcgn_pipeline.parameters import Parameters, check_parameters
from skdcgn_pipeline.reporting import tables
from skdcgn_pipeline.reporting.facts import next_steps, tell_facts
from skdcgn_pipeline.reporting.headlines import tell_figures, tell_problem, tell_sentences
from skdcgn_pipeline.reporting.report import Page, Part, Section, command_of, render_report
from skdcgn_pipeline.samples.drawing import SampleShards
from skdcgn_pipeline.teachers.measures import describe_faults
from skdcgn_pipeline.teachers.training import CARD_FILE
from skdcgn_pipeline.vocabulary import CUTOUTS

THE_PROBLEM, WHAT_WAS_DONE, WHAT_CAME_OUT = "The problem", "What was done", "What came out"

# In reading order: title, the stage and the dataset of each picture and table, and what is seen; the bias comes first.
SECTIONS: dict[str, list[tuple[str, str, str, str]]] = {
    THE_PROBLEM: [(
        "Images", "prepare", "biased_images_sheet",
        "Training and test images; those of a bias protocol give their class away in training alone."),
    ],
    WHAT_WAS_DONE: [
        ("Students next to their teacher", "distill", "student_sheet",
         "The same held-out noise and classes through both, mechanism by mechanism."),
        ("Counterfactuals", "compose", "counterfactual_sheet",
         "Shape, texture and background as the settings compose them."),
        ("Interpolations", "compose", "interpolation_sheet",
         "Teacher and students on the same noise from one class to another, then from one noise vector to another."),
        ("Interpolations, moving", "compose", "interpolation_animation",
         "Composites of several noise vectors, there and back; the teacher above, the students below."),
        ("Losses", "distill", "loss_curves", "Every term of the distillation loss, before weighting."),
    ],
    WHAT_CAME_OUT: [
        ("Invariant classifiers", "classify", "accuracy_chart", "Mean accuracy over seeds, 95 % interval."),
        ("Accuracy", "classify", "accuracy_summary",
         "Mean ± half the 95 % interval over seeds; the calibration error is the mean over seeds."),
        ("Corrupted test images", "classify", "corruption_chart",
         "Accuracy by strength, clean images at 0; mean over seeds, 95 % interval. What was learnt is not corrupted."),
        ("Accuracy on corrupted images", "classify", "corruption_summary",
         "In %: mean over all five strengths, and at the strongest; ± half the 95 % interval over seeds."),
        ("What answers follow", "classify", "followed_mechanisms",
         "Counterfactuals of three classes: share of the answers that name the class of each mechanism, or none."),
        ("Where the classifiers look", "classify", "attention_sheet",
         "Grad-CAM of the class that each says; wrong answers in red. {saliency}"),
        ("What the classifiers confuse", "classify", "confusion_chart",
         "Test images, all seeds together; rows are the true classes."),
        ("Accuracy by class", "classify", "confusion", "Share of each class's images that are recognised, all seeds."),
        ("Whether classifiers err alike", "classify", "error_consistency",
         "Kappa of the images that two classifiers recognise, mean over pairs: 1, the same; 0, as by chance. {kappa}"),
        ("Students", "distill", "student_comparison",
         "Teacher and students on held-out noise; both timed in one process. Distances are {features}."),
        ("Generated images", "distill", "generation_metrics",
         "Held-out composites, ± sd over subsets, splits or masks. Distances are {features}."),
    ],
}  # fmt: skip
TABLES: dict[str, Callable[[pd.DataFrame], pd.DataFrame]] = {
    "accuracy_summary": tables.accuracy_table,
    "confusion": tables.class_table,
    "error_consistency": tables.errors_table,
    "corruption_summary": tables.corruption_table,
    "followed_mechanisms": tables.followed_table,
    "student_comparison": tables.likeness_table,
    "generation_metrics": tables.generation_table,
}
# Words of docs/glossary.md by the section that needs them; those of a subset are told where it is measured.
WORDS = {
    THE_PROBLEM: {
        "bias": "what goes along with the class in training and not in the test",
        "unbiased test": "a test whose colours or backgrounds say nothing about the class",
    },
    WHAT_WAS_DONE: {
        "teacher": "the generator that is imitated",
        "student": "the small generator of one mechanism",
        "held-out noise": "noise vectors that no student was trained on",
    },
    WHAT_CAME_OUT: {
        "invariant classifier": "one that was trained on counterfactuals, so that what is not the shape does not count",
        "collision": "a test image whose shape has the colour of its background, and is hardly visible",
        "group": "images of one class and one value of an attribute, such as the background",
        "worst group": "the group with the lowest accuracy",
    },
}
OF_SUBSET = {"collision": "without collisions", "group": WORST_GROUP, "worst group": WORST_GROUP}
SALIENCY = (
    "A map shows where features speak for the answer, not which mechanism decides it: a classifier that goes by shape "
    "may light the surroundings of an outline. The shares above tell what is followed."
)
KAPPA = "Pairs that are both right, or both wrong, on every image have none and are left out."
FEATURES = {
    "feature_network": "in the features of a network that the run trained itself: no paper's FID compares with them",
    "inception": "in the features of Inception",
}
INPUTS = [*dict.fromkeys(["accuracy", *(dataset for parts in SECTIONS.values() for _, _, dataset, _ in parts)])]
# Where no test image is corrupted, those of an earlier run say nothing of this one.
OF_CORRUPTIONS = {"corruption_chart", "corruption_summary"}
TRAINED = "trained_teacher"
MAX_ROWS = 100


def write_report(
    heldout_samples: SampleShards,
    ablation_chapter: str | None,
    this_run: dict[str, Any] | None,
    parameters: dict[str, Any],
    *shown: np.ndarray | pd.DataFrame | Artifact | None,
    names: Sequence[str],
) -> str:
    """Put pictures, tables and settings of the run, and the last composition study if any, into one HTML page.

    `names` are those of what is shown: `INPUTS`, and `TRAINED` of a teacher that the run trained.
    """
    data: dict[str, Any] = {name: one for name, one in zip(names, shown, strict=True) if one is not None}
    this_run, settings = this_run or {}, check_parameters(parameters)
    page = Page(
        settings=parameters,
        figures=tell_figures(data),
        sentences=tell_faults(data.get(TRAINED)),
        sections=arrange(data, this_run, settings),
        chapter=ablation_chapter or "",
        facts=tell_facts(heldout_samples.artifact.inputs["generator"], this_run, settings),
        next_steps=next_steps(this_run),
    )
    return render_report(page)


def arrange(data: Mapping[str, Any], this_run: Mapping[str, Any], settings: Parameters) -> list[Section]:
    """Return the sections of a report, of the pictures and tables that are there; long tables are left out."""
    features = FEATURES[settings.report.generation_metrics.network]
    summary, leads, subsets = data.get("accuracy_summary"), {WHAT_CAME_OUT: tell_sentences(data)}, set[str]()
    if summary is not None:
        leads[THE_PROBLEM] = [*filter(None, [tell_problem(summary, data.get("followed_mechanisms"))])]
        subsets = {*summary["subset"]}
    sections = []
    for title, rows in SECTIONS.items():
        parts = [
            Part(
                what,
                caption.format(features=features, saliency=SALIENCY, kappa=KAPPA),
                TABLES[name](data[name]) if name in TABLES else data[name],
                command_of(this_run, stage, [name]),
            )
            for what, stage, name, caption in rows
            if name in data and (name not in TABLES or 0 < len(data[name]) <= MAX_ROWS)
        ]
        words = {word: text for word, text in WORDS[title].items() if OF_SUBSET.get(word) in {None, *subsets}}
        if parts:
            sections.append(Section(title, leads.get(title, []), words, parts))
    return sections


def tell_faults(trained_teacher: Artifact | None) -> list[str]:
    """Say what is wrong with a teacher that was trained, and what to do; nothing where it is sound."""
    if trained_teacher is None or trained_teacher.inputs["kind"] == CUTOUTS:
        return []
    faults = trained_teacher.read_json(CARD_FILE).get("faults")
    return [describe_faults(faults)] if faults else []
