"""Nodes of the baseline stage; it is compared, composed and classified by the nodes of those stages."""

from pathlib import Path
from typing import Any

import numpy as np

from skdcgn_pipeline.artifacts.recipe import build_in
from skdcgn_pipeline.classifiers.feature_network import FeatureNetwork
from skdcgn_pipeline.io.tracking import log_picture, recorded_steps
from skdcgn_pipeline.networks.vgg16 import ImageFeatures, open_vgg16_features
from skdcgn_pipeline.parameters import Baseline, Compute, Report, Teacher
from skdcgn_pipeline.pipelines.distill.nodes import open_feature_space
from skdcgn_pipeline.reporting.pictures import draw_loss_curves
from skdcgn_pipeline.runtime.recording import listening
from skdcgn_pipeline.students.baseline import (
    STYLE_SETTING,
    BaselineArtifact,
    BaselineRecipe,
    Guides,
    check_baseline,
    detector_of,
    open_image_teacher,
)
from skdcgn_pipeline.teachers.teacher import IdentifiedTeacher
from skdcgn_pipeline.teachers.training import style_features_of
from skdcgn_pipeline.vocabulary import BASELINE


def fit_baseline(
    store: Path,
    teacher: IdentifiedTeacher,
    feature_network: FeatureNetwork | None,
    baseline: Baseline,
    teacher_settings: Teacher,
    report: Report,
    assets: str,
    seed: int,
    compute: Compute,
) -> BaselineArtifact:
    """Train three students end to end against whole images."""
    # What a given network looks at is neither style nor of the run's classes.
    digits = None if feature_network is None or feature_network.is_given else feature_network
    check_baseline(baseline, teacher, teacher_settings, assets, digits is not None)
    style_features, style_identity = _open_style(baseline, digits, assets)
    space = open_feature_space(report.generation_metrics, digits, assets, compute)
    guides = Guides(style_features, detector_of(teacher), space, style_identity, teacher.identity)
    image_teacher = open_image_teacher(teacher, baseline, teacher_settings)
    with recorded_steps(BASELINE) as record, listening(lambda _, step, losses: record(step, dict(losses))):
        return build_in(store, BaselineRecipe(image_teacher, baseline, seed, compute, guides))


def _open_style(baseline: Baseline, digits: FeatureNetwork | None, assets: str) -> tuple[ImageFeatures | None, Any]:
    """Open what styles are compared in, with its identity."""
    if not baseline.uses_style:
        return None, None
    if baseline.style_network == "vgg16":
        return open_vgg16_features(assets, *STYLE_SETTING), "vgg16"
    assert digits is not None
    return style_features_of(digits.open_classifier()), digits.artifact.identity


def show_history(students: BaselineArtifact) -> np.ndarray:
    """Draw the losses of the baseline and what tells of collapse."""
    picture = draw_loss_curves({BASELINE: students.history})
    log_picture("baseline_losses", picture)
    return picture
