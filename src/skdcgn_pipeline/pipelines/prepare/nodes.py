"""Nodes of the prepare stage."""

import numpy as np
import pandas as pd

from skdcgn_pipeline.artifacts.recipe import Run
from skdcgn_pipeline.classifiers import feature_network
from skdcgn_pipeline.classifiers.feature_network import FeatureNetwork, GivenNetworkRecipe
from skdcgn_pipeline.images.image_set import spread_rows
from skdcgn_pipeline.images.recipes import image_set_recipe
from skdcgn_pipeline.images.stored import StoredImages
from skdcgn_pipeline.parameters import Images, Prepare, Report
from skdcgn_pipeline.reporting.pictures import draw_biased_sheet


def prepare_images(run: Run, images: Images, prepare: Prepare, variant: str) -> tuple[StoredImages, pd.DataFrame]:
    """Colour grey shapes, or read folders of images; and tell what is in every split."""
    stored = run.make(image_set_recipe(images, prepare, variant, run.assets, run.seed))
    return stored, stored.describe()


def fit_feature_network(run: Run, images: StoredImages | None, prepare: Prepare) -> FeatureNetwork:
    """Train the fixed classifier in whose features Frechet distances are measured, or take the given one."""
    if prepare.given_features is not None:
        return run.make(GivenNetworkRecipe(prepare.given_features))
    assert images is not None
    return feature_network.fit_feature_network(run, images, prepare.feature_network)


def show_images(images: StoredImages, report: Report) -> np.ndarray:
    """Draw some images of the training and the test splits."""
    splits = {name: images.split(name) for name in images.splits("train", "test")}
    examples = {name: split.rows.take(spread_rows(split, report.num_examples)) for name, split in splits.items()}
    return draw_biased_sheet(examples, report.num_examples)
