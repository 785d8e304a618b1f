"""Nodes of the baseline stage; it is compared, composed and classified by the nodes of those stages."""

from typing import Any

import numpy as np

from skdcgn_pipeline.artifacts.recipe import Run
from skdcgn_pipeline.artifacts.store import sha256_of_file
from skdcgn_pipeline.classifiers.classifier import DigitClassifier
from skdcgn_pipeline.classifiers.feature_network import FeatureNetwork
from skdcgn_pipeline.networks.vgg16 import ImageFeatures, open_vgg16_features, require_vgg16
from skdcgn_pipeline.parameters import Baseline, Report, Teacher
from skdcgn_pipeline.pipelines.distill.nodes import open_feature_space
from skdcgn_pipeline.reporting.pictures import draw_loss_curves
from skdcgn_pipeline.students.baseline import STYLE_SETTING, BaselineRecipe, biggan_path
from skdcgn_pipeline.students.recipes import StudentsArtifact
from skdcgn_pipeline.teachers.teacher import IdentifiedTeacher
from skdcgn_pipeline.teachers.training import style_features_of
from skdcgn_pipeline.vocabulary import BASELINE


def fit_baseline(
    run: Run,
    teacher: IdentifiedTeacher,
    feature_network: FeatureNetwork | None,
    baseline: Baseline,
    teacher_settings: Teacher,
    report: Report,
) -> StudentsArtifact:
    """Train three students end to end against whole images."""
    # What a given network looks at is neither style nor of the run's classes.
    digits = None if feature_network is None or feature_network.is_given else feature_network
    style = _open_style(baseline, digits, run.assets)
    space = open_feature_space(report.generation_metrics, digits, run)
    biggan = biggan_path(baseline, teacher_settings)
    return run.make(BaselineRecipe(teacher, baseline, run.seed, run.compute, *style, space, biggan))


def _open_style(baseline: Baseline, digits: FeatureNetwork | None, assets: str) -> tuple[ImageFeatures | None, Any]:
    """Open what styles are compared in, with its identity."""
    if not baseline.uses_style:
        return None, None
    if baseline.style_network == "vgg16":
        identity = {"vgg16": sha256_of_file(require_vgg16(assets, STYLE_SETTING))}
        return open_vgg16_features(assets, STYLE_SETTING), identity
    assert digits is not None
    network = digits.open()
    assert isinstance(network, DigitClassifier)
    return style_features_of(network), digits.artifact.identity


def show_history(students: StudentsArtifact) -> np.ndarray:
    """Draw the losses of the baseline and what tells of collapse."""
    return draw_loss_curves({BASELINE: students.history})
