"""Cut-outs as a training set, beside originals or whatever teacher there is."""

from __future__ import annotations

import pytest

from images.pictures import make_folder
from skdcgn_pipeline.artifacts.recipe import Run, Store
from skdcgn_pipeline.images.listing import list_folder
from skdcgn_pipeline.images.recipes import FolderImagesRecipe
from skdcgn_pipeline.images.stored import StoredImages
from skdcgn_pipeline.parameters import Classify, Compose, Compute, Teacher
from skdcgn_pipeline.pipelines.classify.nodes import train_classifiers
from skdcgn_pipeline.runtime.errors import SettingError

COMPOSE = Compose(
    num_pool_images_per_class=4,
    num_images=8,
    rows_per_shard=8,
    composition={"counterfactual": {"texture": "same"}, "patch_shift": False},
)
FIT = {"num_images": 32, "batch_size": 8}
TEACHER = Teacher(name="digits_cgn")


@pytest.fixture
def run(tmp_path) -> Run:
    return Run(Store(tmp_path / "store"), compute=Compute(device="cpu"))


def images(run: Run, tables: bool = True) -> StoredImages:
    folder = make_folder(run.store.root.parent / "own", {"train": 4, "validation": 2, "test": 2}, tables)
    return run.make(FolderImagesRecipe(list_folder(folder, 0.1, 0), image_size=48))


@pytest.mark.parametrize("counterfactuals", ["on_the_fly", "stored"])
def test_cutouts_are_a_training_set_that_needs_no_generator(run, counterfactuals):
    network = {"architecture": "small_cnn"}
    classify = Classify(
        trained_on=("cutouts", "originals"), num_seeds=1, network=network, fit=FIT, counterfactuals=counterfactuals
    )
    table, _ = train_classifiers(run, images(run), classify, COMPOSE, {}, TEACHER)
    assert table["trained_on"].unique().tolist() == ["originals", "cutouts"]
    assert {"validation", "test"} == {*table["split"]}
    again, _ = train_classifiers(run, images(run), classify, COMPOSE, {}, TEACHER)
    assert again.equals(table)


def test_without_masks_there_are_none(run):
    classify = Classify(trained_on=("cutouts",), num_seeds=1, fit=FIT)
    with pytest.raises(SettingError, match="cutouts: expected a mask for every training image"):
        train_classifiers(run, images(run, tables=False), classify, COMPOSE, {}, TEACHER)
