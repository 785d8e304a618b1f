"""Nodes of the prepare stage."""

from pathlib import Path

import numpy as np

from skdcgn_pipeline.classifiers.feature_network import FeatureNetwork, adopt_feature_network, build_feature_network
from skdcgn_pipeline.images.biased import BiasedImages, build_biased_images
from skdcgn_pipeline.io.tracking import log_picture
from skdcgn_pipeline.parameters import Compute, Prepare, Report
from skdcgn_pipeline.reporting.pictures import draw_biased_sheet


def prepare_biased_images(store: Path, assets: str, prepare: Prepare, variant: str, seed: int) -> BiasedImages:
    """Colour the digits of every split."""
    return build_biased_images(store, assets, prepare, variant, seed)


def fit_feature_network(
    store: Path, biased_images: BiasedImages | None, prepare: Prepare, seed: int, compute: Compute
) -> FeatureNetwork:
    """Train the fixed classifier in whose features Frechet distances are measured, or take the given one."""
    if prepare.given_features is not None:
        return adopt_feature_network(store, prepare.given_features)
    assert biased_images is not None
    return build_feature_network(store, biased_images, prepare.feature_network, seed, compute)


def show_biased_images(biased_images: BiasedImages, report: Report) -> np.ndarray:
    """Draw some digits of each split."""
    splits = {name: biased_images.split(name).images for name in ("train", "test")}
    picture = draw_biased_sheet(splits, report.num_examples)
    log_picture("biased_images", picture)
    return picture
