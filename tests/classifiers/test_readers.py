"""Readers of mechanisms: what each learns, and what is reused."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from skdcgn_pipeline.artifacts.recipe import Run, Store
from skdcgn_pipeline.classifiers.classification import Classification
from skdcgn_pipeline.classifiers.readers import train_readers
from skdcgn_pipeline.classifiers.training_sets import counterfactuals_on_the_fly
from skdcgn_pipeline.counterfactuals.pools import open_pool
from skdcgn_pipeline.images.stored import StoredImages
from skdcgn_pipeline.parameters import ClassifierFit, Classify, Composition, Compute, Prepare
from skdcgn_pipeline.samples.drawing import SampleShards
from skdcgn_pipeline.vocabulary import MECHANISMS
from tiny import TinyTeacher, build_biased_images, draw_samples

CPU = Compute(device="cpu")
FIT = ClassifierFit(num_images=3200, batch_size=64, learning_rate=1e-2)


@pytest.fixture(scope="module")
def images(tmp_path_factory: pytest.TempPathFactory) -> StoredImages:
    prepare = Prepare(validation_fraction=0.02, feature_network=FIT)
    return build_biased_images(tmp_path_factory.mktemp("images"), "absent", prepare, "double_colored", 0)


@pytest.fixture(scope="module")
def samples(tmp_path_factory: pytest.TempPathFactory) -> SampleShards:
    class Larger(TinyTeacher):
        image_size = 32

    return draw_samples(tmp_path_factory.mktemp("samples"), Larger(), {"name": "larger"}, 40, 120, 0, CPU)


def test_each_reader_names_the_class_of_its_mechanism(
    tmp_path: Path, images: StoredImages, samples: SampleShards
) -> None:
    classification = Classification(
        Run(Store(tmp_path), 0, CPU), images, Classify(fit=FIT, share_of_originals=0.5, num_seeds=1)
    )
    readers = train_readers(classification, samples)

    assert [*readers] == [*MECHANISMS]
    assert len({reader.identity for reader in readers.values()}) == 3
    draw = open_pool(Store(tmp_path), samples).draw_labelled_batch(Composition(), 5, "unseen")
    composites, labels = draw(0, 300)
    right = {}
    for column, mechanism in enumerate(MECHANISMS):
        seen = readers[mechanism].look(composites)
        assert seen.features.shape == (300, 64)
        answers = seen.logits.argmax(1)
        right[mechanism] = [(answers == labels[:, other]).double().mean().item() for other in range(3)]
        assert right[mechanism][column] == max(right[mechanism]) > 0.6, right
        assert max(share for other, share in enumerate(right[mechanism]) if other != column) < 0.6, right


def test_a_classifier_of_the_run_is_the_reader_of_shapes(
    tmp_path: Path, images: StoredImages, samples: SampleShards
) -> None:
    fit = FIT.model_copy(update={"num_images": 16, "batch_size": 8})
    classification = Classification(Run(Store(tmp_path), 0, CPU), images, Classify(fit=fit))
    composed = counterfactuals_on_the_fly("teacher", samples, Composition(), Store(tmp_path))
    artifact, network = classification.train(composed, 0)

    readers = train_readers(classification, samples)

    assert readers["shape"].identity == artifact.identity
    looked = readers["shape"].look(torch.zeros(1, 3, 32, 32))
    assert torch.equal(looked.logits, network.eval()(torch.zeros(1, 3, 32, 32)))
