"""Nodes of the prepare stage."""

from pathlib import Path

import numpy as np

from skdcgn_pipeline.artifacts.recipe import build_in
from skdcgn_pipeline.classifiers.feature_network import FeatureNetwork, adopt_feature_network, build_feature_network
from skdcgn_pipeline.images.image_set import splits_with_role, spread_rows
from skdcgn_pipeline.images.recipes import image_set_recipe
from skdcgn_pipeline.images.stored import StoredImages
from skdcgn_pipeline.io.tracking import log_picture
from skdcgn_pipeline.parameters import Compute, Images, Prepare, Report
from skdcgn_pipeline.reporting.pictures import draw_biased_sheet


def prepare_images(store: Path, images: Images, prepare: Prepare, variant: str, assets: str, seed: int) -> StoredImages:
    """Colour grey shapes, or read the folder of images."""
    return build_in(store, image_set_recipe(images, prepare, variant, assets, seed))


def fit_feature_network(
    store: Path, biased_images: StoredImages | None, prepare: Prepare, seed: int, compute: Compute
) -> FeatureNetwork:
    """Train the fixed classifier in whose features Frechet distances are measured, or take the given one."""
    if prepare.given_features is not None:
        return adopt_feature_network(store, prepare.given_features)
    assert biased_images is not None
    return build_feature_network(store, biased_images, prepare.feature_network, seed, compute)


def show_images(biased_images: StoredImages, report: Report) -> np.ndarray:
    """Draw some images of the training and the test splits."""
    names = splits_with_role(biased_images, "train") + splits_with_role(biased_images, "test")
    splits = {name: biased_images.split(name) for name in names}
    examples = {name: split.rows.take(spread_rows(split, report.num_examples)) for name, split in splits.items()}
    picture = draw_biased_sheet(examples, report.num_examples)
    log_picture("biased_images", picture)
    return picture
