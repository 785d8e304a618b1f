"""Nodes of the distill stage."""

import numpy as np
import pandas as pd

from skdcgn_pipeline.artifacts.recipe import Run
from skdcgn_pipeline.classifiers.feature_network import FeatureNetwork
from skdcgn_pipeline.images.stored import StoredImages
from skdcgn_pipeline.metrics.cost import measure_costs
from skdcgn_pipeline.metrics.features import FeatureSpace, open_inception, space_of_network
from skdcgn_pipeline.metrics.generation import GenerationRecipe
from skdcgn_pipeline.parameters import Distill, GenerationMetrics, Report
from skdcgn_pipeline.reporting.pictures import draw_loss_curves, draw_student_sheet
from skdcgn_pipeline.samples.drawing import SampleShards
from skdcgn_pipeline.students.recipes import StudentArtifact, StudentRecipe, StudentsArtifact, StudentsRecipe
from skdcgn_pipeline.teachers.teacher import IdentifiedTeacher
from skdcgn_pipeline.vocabulary import MECHANISMS, STUDENTS


def distil_student(
    run: Run,
    teacher_samples: SampleShards,
    distill: Distill,
    distilled_elsewhere: dict[str, str] | None = None,
    *,
    mechanism: str,
) -> StudentArtifact:
    """Distil the student of one mechanism, now or before; `distilled_elsewhere`, if given, says that it was."""
    return run.make(StudentRecipe(mechanism, teacher_samples, distill, run.seed, run.compute, run.assets))


def distil_elsewhere(
    run: Run, teacher_samples: SampleShards, asked_students: list[str], *settings: Distill
) -> dict[str, str]:
    """Distil the students that a run asks for side by side, by its engine; returns the identity of each."""
    of_mechanism = dict(zip(MECHANISMS, settings, strict=True))
    recipes = [
        StudentRecipe(mechanism, teacher_samples, of_mechanism[mechanism], run.seed, run.compute, run.assets)
        for mechanism in asked_students
    ]
    paths = run.make_side_by_side(recipes)
    return {mechanism: path.name for mechanism, path in zip(asked_students, paths, strict=True)}


def assemble_students(run: Run, *students: StudentArtifact) -> StudentsArtifact:
    """Put the three students behind the teacher's interface."""
    return run.make(StudentsRecipe(dict(zip(MECHANISMS, students, strict=True))))


def compare_students(
    run: Run,
    teacher: IdentifiedTeacher,
    students: StudentsArtifact,
    heldout_samples: SampleShards,
    biased_images: StoredImages | None,
    feature_network: FeatureNetwork | None,
    report: Report,
    of: str = STUDENTS,
) -> tuple[pd.DataFrame, pd.DataFrame]:
    """Measure students against their teacher; `of` names them in the second table.

    Returns:
        Fidelity and cost of every mechanism; and of the composites FID, IS and their masks.
    """
    generator = students.open()
    if biased_images is not None and biased_images.image_size != heldout_samples.image_size:
        biased_images = None  # images of another size are not what the teacher imitates
    recipe = GenerationRecipe(
        teacher=teacher,
        students=generator,
        students_identity=students.artifact.identity,
        heldout=heldout_samples,
        biased_images=biased_images,
        space=open_feature_space(report.generation_metrics, feature_network, run),
        settings=report.generation_metrics,
        seed=run.seed,
        compute=run.compute,
    )
    measured = run.make(recipe)
    timing = report.benchmark_batch_size, run.compute.device, report.benchmark_seconds
    costs = measure_costs(teacher.generator, generator, *timing)
    return measured.fidelity.merge(costs, on="mechanism"), measured.named(of)


def open_feature_space(
    settings: GenerationMetrics, feature_network: FeatureNetwork | None, run: Run
) -> FeatureSpace | None:
    """Open the network in whose features generated images are measured; None where there is none."""
    if settings.network == "inception":
        return open_inception(run.assets, run.compute)
    if feature_network is None:
        return None
    return space_of_network(feature_network.open(), feature_network.artifact.identity, run.compute)


def show_students(students: StudentsArtifact, heldout_samples: SampleShards, report: Report) -> np.ndarray:
    """Draw teacher and students side by side on held-out noise."""
    return draw_student_sheet(students.open(), heldout_samples, 2 * report.num_examples)


def show_losses(*students: StudentArtifact) -> np.ndarray:
    """Draw the losses of the three students."""
    histories = [student.history for student in students]
    return draw_loss_curves(dict(zip(MECHANISMS, histories, strict=True)))
