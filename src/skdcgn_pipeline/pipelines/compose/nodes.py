"""Nodes of the compose stage."""

from typing import Any

import numpy as np

from skdcgn_pipeline.artifacts.recipe import Run
from skdcgn_pipeline.counterfactuals.pools import CounterfactualShards, CounterfactualsRecipe
from skdcgn_pipeline.parameters import Compose, Report, Sample, choose_classes
from skdcgn_pipeline.reporting.interpolation import draw_interpolation
from skdcgn_pipeline.reporting.pictures import draw_counterfactual_sheet
from skdcgn_pipeline.samples.drawing import SampleShards, SamplesRecipe, draw_side_by_side
from skdcgn_pipeline.students.recipes import StudentsArtifact
from skdcgn_pipeline.teachers.teacher import IdentifiedTeacher
from skdcgn_pipeline.vocabulary import STUDENTS


def draw_student_samples(
    run: Run, students: StudentsArtifact, compose: Compose, sample: Sample, class_lists: dict[str, list[int]]
) -> SampleShards:
    """Draw the students' pool, as samples are drawn from a teacher: the classes they learnt, stored alike."""
    identity, generator = {"students": students.artifact.identity}, students.open()
    sizes = compose.num_pool_images_per_class, compose.rows_per_shard
    classes = choose_classes("sample.classes", sample.classes, generator.num_classes, class_lists)
    how: dict[str, Any] = {"purpose": "pool", "storing": sample, "classes": classes}
    recipe = SamplesRecipe(generator, identity, *sizes, run.seed, run.compute, **how)
    return draw_side_by_side(run, recipe, students.open)


def compose_counterfactuals(
    run: Run, samples: SampleShards, compose: Compose, class_lists: dict[str, list[int]]
) -> CounterfactualShards:
    """Compose counterfactuals from a pool and store them."""
    composition = compose.resolved(samples.num_classes, class_lists)
    recipe = CounterfactualsRecipe(samples, composition, compose.num_images, compose.rows_per_shard, run.seed)
    return run.make(recipe)


def show_interpolation(
    run: Run, teacher: IdentifiedTeacher, students: StudentsArtifact, compose: Compose
) -> tuple[np.ndarray, np.ndarray]:
    """Draw what lies between two classes of teacher and students: a sheet and an animation."""
    generators = {"teacher": teacher.generator, "students": students.open()}
    return draw_interpolation(generators, compose.interpolation, run.seed, run.compute)


def show_counterfactuals(
    teacher_counterfactuals: CounterfactualShards,
    student_counterfactuals: CounterfactualShards,
    report: Report,
    of: str = STUDENTS,
) -> np.ndarray:
    """Draw some counterfactuals of teacher and students; `of` is what the picture calls the students."""
    sets = {"teacher": teacher_counterfactuals, of: student_counterfactuals}
    return draw_counterfactual_sheet(sets, 2 * report.num_examples)
