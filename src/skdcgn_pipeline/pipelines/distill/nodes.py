"""Nodes of the distill stage."""

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pandas as pd

from skdcgn_pipeline.artifacts.recipe import build_in
from skdcgn_pipeline.classifiers.feature_network import FeatureNetwork
from skdcgn_pipeline.images.biased import BiasedImages
from skdcgn_pipeline.io.tracking import as_markdown, log_metrics, log_note, log_picture, log_table, recorded_steps
from skdcgn_pipeline.metrics.cost import measure_costs
from skdcgn_pipeline.metrics.features import FeatureSpace, open_inception, space_of_network
from skdcgn_pipeline.metrics.generation import Generation, GenerationRecipe, generation_metrics
from skdcgn_pipeline.parameters import Compute, Distill, GenerationMetrics, Report
from skdcgn_pipeline.reporting.pictures import draw_loss_curves, draw_student_sheet
from skdcgn_pipeline.runtime.recording import listening
from skdcgn_pipeline.samples.drawing import SampleShards
from skdcgn_pipeline.students.recipes import (
    StudentArtifact,
    StudentRecipe,
    StudentsArtifact,
    StudentsRecipe,
)
from skdcgn_pipeline.teachers.teacher import IdentifiedTeacher
from skdcgn_pipeline.vocabulary import MECHANISMS, STUDENTS

NOTED = [
    "mechanism", "l1", "mask_iou", "frechet_ratio", "teacher_parameters", "student_parameters",
    "teacher_images_per_s", "student_images_per_s",
]  # fmt: skip


def distil_mechanism(mechanism: str) -> Callable[..., StudentArtifact]:
    """Return the node function that distils one mechanism."""

    def distil_student(
        store: Path, teacher_samples: SampleShards, distill: Distill, seed: int, compute: Compute, assets: str
    ) -> StudentArtifact:
        with recorded_steps(mechanism) as record, listening(lambda _, step, losses: record(step, dict(losses))):
            return build_in(store, StudentRecipe(mechanism, teacher_samples, distill, seed, compute, assets))

    return distil_student


def assemble_students(
    store: Path, shape: StudentArtifact, texture: StudentArtifact, background: StudentArtifact
) -> StudentsArtifact:
    """Put the three students behind the teacher's interface."""
    return build_in(store, StudentsRecipe({"shape": shape, "texture": texture, "background": background}))


def compare_students(
    store: Path,
    teacher: IdentifiedTeacher,
    students: StudentsArtifact,
    heldout_samples: SampleShards,
    biased_images: BiasedImages | None,
    feature_network: FeatureNetwork | None,
    report: Report,
    assets: str,
    seed: int,
    compute: Compute,
    of: str = STUDENTS,
) -> pd.DataFrame:
    """Measure fidelity and cost of every mechanism; `of` is what tables and metrics call the students."""
    space = open_feature_space(report.generation_metrics, feature_network, assets, compute)
    measured = _measure(store, teacher, students, heldout_samples, biased_images, space, report, seed, compute)
    costs = measure_costs(teacher.generator, students.open(), report.benchmark_batch_size, compute.device)
    table = measured.fidelity.merge(costs, on="mechanism")
    numbers = table.set_index("mechanism").select_dtypes("number")
    prefix = "" if of == STUDENTS else f"{of}/"
    log_metrics({f"{prefix}{m}/{name}": value for m, row in numbers.iterrows() for name, value in row.items()})
    log_table(of, table)
    log_note(f"{of.capitalize()} against their teacher", as_markdown(table[NOTED]))
    return table


def measure_generation(
    store: Path,
    teacher: IdentifiedTeacher,
    students: StudentsArtifact,
    heldout_samples: SampleShards,
    biased_images: BiasedImages | None,
    feature_network: FeatureNetwork | None,
    report: Report,
    assets: str,
    seed: int,
    compute: Compute,
    of: str = STUDENTS,
) -> pd.DataFrame:
    """Measure the composites of students and teacher: FID, KID, IS and their masks."""
    space = open_feature_space(report.generation_metrics, feature_network, assets, compute)
    measured = _measure(store, teacher, students, heldout_samples, biased_images, space, report, seed, compute)
    table = measured.named(of)
    log_metrics(generation_metrics(table))
    log_table("generation" if of == STUDENTS else f"{of}_generation", table)
    return table


def _measure(
    store: Path,
    teacher: IdentifiedTeacher,
    students: StudentsArtifact,
    heldout: SampleShards,
    biased_images: BiasedImages | None,
    space: FeatureSpace | None,
    report: Report,
    seed: int,
    compute: Compute,
) -> Generation:
    recipe = GenerationRecipe(
        teacher=teacher,
        students=students.open(),
        students_identity=students.artifact.identity,
        heldout=heldout,
        biased_images=biased_images,
        space=space,
        settings=report.generation_metrics,
        seed=seed,
        compute=compute,
    )
    return build_in(store, recipe)


def open_feature_space(
    settings: GenerationMetrics, feature_network: FeatureNetwork | None, assets: str, compute: Compute
) -> FeatureSpace | None:
    """Open the network in whose features generated images are measured; None where there is none."""
    if settings.network == "inception":
        return open_inception(assets, compute)
    if feature_network is None:
        return None
    return space_of_network(feature_network.open(), feature_network.artifact.identity, compute)


def show_students(
    students: StudentsArtifact, heldout_samples: SampleShards, report: Report, of: str = STUDENTS
) -> np.ndarray:
    """Draw teacher and students side by side on held-out noise."""
    picture = draw_student_sheet(students.open(), heldout_samples, 2 * report.num_examples)
    log_picture(of, picture)
    return picture


def show_losses(shape: StudentArtifact, texture: StudentArtifact, background: StudentArtifact) -> np.ndarray:
    """Draw the losses of the three students."""
    students = dict(zip(MECHANISMS, (shape, texture, background), strict=True))
    picture = draw_loss_curves({mechanism: student.history for mechanism, student in students.items()})
    log_picture("losses", picture)
    return picture
