"""Nodes of the prepare stage."""

import numpy as np

from skdcgn_pipeline.artifacts.recipe import Run
from skdcgn_pipeline.classifiers.feature_network import FeatureNetwork, adopt_feature_network, build_feature_network
from skdcgn_pipeline.images.image_set import splits_with_role, spread_rows
from skdcgn_pipeline.images.recipes import image_set_recipe
from skdcgn_pipeline.images.stored import StoredImages
from skdcgn_pipeline.parameters import Images, Prepare, Report
from skdcgn_pipeline.reporting.pictures import draw_biased_sheet


def prepare_images(run: Run, images: Images, prepare: Prepare, variant: str) -> StoredImages:
    """Colour grey shapes, or read the folder of images."""
    return run.make(image_set_recipe(images, prepare, variant, run.assets, run.seed))


def fit_feature_network(run: Run, biased_images: StoredImages | None, prepare: Prepare) -> FeatureNetwork:
    """Train the fixed classifier in whose features Frechet distances are measured, or take the given one."""
    store = run.store.folder("classifier")
    if prepare.given_features is not None:
        return adopt_feature_network(store, prepare.given_features)
    assert biased_images is not None
    return build_feature_network(store, biased_images, prepare.feature_network, run.seed, run.compute)


def show_images(biased_images: StoredImages, report: Report) -> np.ndarray:
    """Draw some images of the training and the test splits."""
    names = splits_with_role(biased_images, "train") + splits_with_role(biased_images, "test")
    splits = {name: biased_images.split(name) for name in names}
    examples = {name: split.rows.take(spread_rows(split, report.num_examples)) for name, split in splits.items()}
    return draw_biased_sheet(examples, report.num_examples)
