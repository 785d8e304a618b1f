"""Nodes of the quality stage."""

import numpy as np
import pandas as pd

from skdcgn_pipeline.artifacts.recipe import Run
from skdcgn_pipeline.classifiers.classification import Classification
from skdcgn_pipeline.classifiers.readers import train_readers
from skdcgn_pipeline.images.stored import StoredImages
from skdcgn_pipeline.metrics.counterfactual_quality import COLUMNS, CounterfactualQuality
from skdcgn_pipeline.parameters import Classify, Report
from skdcgn_pipeline.reporting.pictures import draw_interventions
from skdcgn_pipeline.samples.drawing import SampleShards
from skdcgn_pipeline.students.recipes import StudentsArtifact
from skdcgn_pipeline.teachers.teacher import IdentifiedTeacher
from skdcgn_pipeline.vocabulary import STUDENTS


def measure_counterfactuals(
    run: Run,
    teacher: IdentifiedTeacher,
    students: StudentsArtifact,
    teacher_samples: SampleShards,
    heldout_samples: SampleShards,
    biased_images: StoredImages,
    classify: Classify,
) -> pd.DataFrame:
    """Measure counterfactuals of teacher and students by what readers of the mechanisms see in them."""
    readers = train_readers(Classification(run, biased_images, classify), teacher_samples)
    generators = {
        "teacher": (teacher.generator, teacher.identity),
        STUDENTS: (students.open(), students.artifact.identity),
    }
    rows = []
    for name, (generator, identity) in generators.items():
        recipe = CounterfactualQuality(generator, identity, heldout_samples, readers, run.seed, run.compute)
        rows += [{"images": name} | row for row in run.make(recipe)]
    return pd.DataFrame(rows, columns=COLUMNS)


def show_interventions(
    run: Run, teacher: IdentifiedTeacher, students: StudentsArtifact, heldout_samples: SampleShards, report: Report
) -> np.ndarray:
    """Draw held-out images of teacher and students with another class of one mechanism."""
    generators = {"teacher": teacher.generator, STUDENTS: students.open()}
    return draw_interventions(generators, heldout_samples, 2 * report.num_examples, run.seed)
