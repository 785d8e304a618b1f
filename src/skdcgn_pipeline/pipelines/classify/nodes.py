"""Nodes of the classify stage."""

import numpy as np
import pandas as pd

from skdcgn_pipeline.artifacts.recipe import Run
from skdcgn_pipeline.artifacts.store import Artifact
from skdcgn_pipeline.classifiers import inspection
from skdcgn_pipeline.classifiers.attention import grad_cam
from skdcgn_pipeline.classifiers.classification import Classification
from skdcgn_pipeline.classifiers.corrupted import measure_corruptions
from skdcgn_pipeline.classifiers.evaluation import KeptClassifier
from skdcgn_pipeline.classifiers.training_sets import TrainingSet
from skdcgn_pipeline.images.stored import StoredImages
from skdcgn_pipeline.parameters import Classify, Compose, Composition, CutoutSettings, Report, Teacher
from skdcgn_pipeline.reporting.pictures import draw_attention, draw_confusions, pick_examples
from skdcgn_pipeline.samples.drawing import SampleShards
from skdcgn_pipeline.teachers.cutouts import draw_cutouts
from skdcgn_pipeline.vocabulary import CUTOUTS, STUDENTS


def train_classifiers(
    run: Run,
    images: StoredImages,
    classify: Classify,
    compose: Compose,
    class_lists: dict[str, list[int]],
    teacher: Teacher,
    heldout_samples: SampleShards | None = None,
    *pools: SampleShards,
    of: str = STUDENTS,
) -> tuple[pd.DataFrame, pd.DataFrame]:
    """Train classifiers on originals, cut-outs, teacher's and students' counterfactuals and measure them.

    Without pools of teacher and students on originals and cut-outs alone. `of` is what tables call the students.
    """
    classification = Classification(run, images, classify)
    sets, composition = compared_sets(classification, compose, class_lists, teacher.cutouts, of, *pools)
    accuracy = classification.compare(sets, heldout_samples, composition)
    return accuracy, accuracy


def look_into_classifiers(
    run: Run,
    images: StoredImages,
    classify: Classify,
    compose: Compose,
    class_lists: dict[str, list[int]],
    teacher: Teacher,
    report: Report,
    accuracy: pd.DataFrame,
    heldout_samples: SampleShards | None = None,
    *pools: SampleShards,
) -> tuple[pd.DataFrame, np.ndarray, pd.DataFrame, pd.DataFrame, np.ndarray, Artifact]:
    """Tell what trained classifiers confuse, whether alike, what they follow and look at; keep one to take away.

    Confusions are counted on all test splits and drawn of the first; what is kept is the first classifier of the last
    training set. What answers follow is told by counterfactuals of held-out samples; without, the table is empty.
    """
    classification = Classification(run, images, classify)
    sets, _ = compared_sets(classification, compose, class_lists, teacher.cutouts, STUDENTS, *pools)
    trained = inspection.open_classifiers(classification, sets)
    confusion = inspection.confusions(classification, trained)
    first, names = classification.confused_splits[0], images.class_names
    drawn = confusion[confusion["split"] == first]
    matrices = {
        f"trained on {name}": rows.filter(like="predicted_").to_numpy()
        for name, rows in drawn.groupby("trained_on", sort=False)
    }
    title = f"Split {first}: share of each class's images, in %, over all seeds"
    examples, labels = pick_examples(classification.splits[first](), report.num_examples)
    maps = {name: grad_cam(classifiers[0][1], examples) for name, classifiers in trained.items()}
    kept = run.make(KeptClassifier(*classification.labelled(sets[-1], 0)))
    followed = inspection.followed_mechanisms(classification, trained, heldout_samples)
    attention = draw_attention(examples, maps, labels, names)
    alike = inspection.shared_errors(classification, trained)
    return confusion, draw_confusions(matrices, names, title), alike, followed, attention, kept


def measure_on_corrupted(
    run: Run,
    images: StoredImages,
    classify: Classify,
    compose: Compose,
    class_lists: dict[str, list[int]],
    teacher: Teacher,
    accuracy: pd.DataFrame,
    *pools: SampleShards,
) -> pd.DataFrame:
    """Measure trained classifiers on corrupted test images."""
    classification = Classification(run, images, classify)
    sets, _ = compared_sets(classification, compose, class_lists, teacher.cutouts, STUDENTS, *pools)
    return measure_corruptions(classification, sets)


def compared_sets(
    classification: Classification,
    compose: Compose,
    class_lists: dict[str, list[int]],
    cutouts: CutoutSettings,
    of: str,
    *pools: SampleShards,
) -> tuple[list[TrainingSet], Composition | None]:
    """Return the training sets that `classify.trained_on` asks for, and how counterfactuals are composed.

    Of the pools, the first is the teacher's, the second the students'; cut-outs are drawn like these where they are
    asked for.
    """
    wanted = {of if name == STUDENTS else name for name in classification.settings.trained_on}
    samples = {name: pool for name, pool in zip(("teacher", of), pools, strict=False) if name in wanted}
    if CUTOUTS in wanted:
        sizes = compose.num_pool_images_per_class, compose.rows_per_shard
        drawn = draw_cutouts(classification.run, classification.images, cutouts, *sizes)
        samples = {CUTOUTS: drawn} | samples
    if not samples:
        return [classification.originals()], None
    composition = compose.resolved(next(iter(samples.values())).num_classes, class_lists)
    sets = classification.training_sets(samples, compose, composition)
    return [each for each in sets if each.name in wanted], composition
