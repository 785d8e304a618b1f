"""Readers: classifiers that name the class of one mechanism in a composed image."""

from __future__ import annotations

from dataclasses import replace
from functools import partial

from torch import Tensor, nn

from skdcgn_pipeline.classifiers.classification import Classification
from skdcgn_pipeline.classifiers.networks import Classifier, ForeignClassifier
from skdcgn_pipeline.classifiers.torchvision_classifier import TorchvisionClassifier
from skdcgn_pipeline.classifiers.training_sets import TrainingSet, counterfactuals_on_the_fly
from skdcgn_pipeline.images.epochs import DrawBatch
from skdcgn_pipeline.metrics.features import FeatureSpace, space_of_network
from skdcgn_pipeline.parameters import Composition
from skdcgn_pipeline.samples.drawing import SampleShards
from skdcgn_pipeline.vocabulary import MECHANISMS


def train_readers(classification: Classification, samples: SampleShards) -> dict[str, FeatureSpace]:
    """Return by mechanism what reads its class in composites, trained on counterfactuals of samples, now or before.

    Each is a classifier of the run's network and budget with one head. Its composites have a class drawn for every
    mechanism and are not transformed. Raises like `Classification.train`.
    """
    settings = classification.settings
    one_head = {"network": settings.network.model_copy(update={"heads": "class"}), "share_of_originals": 0.0}
    alone = replace(classification, settings=settings.model_copy(update=one_head))
    composed = counterfactuals_on_the_fly("teacher", samples, Composition(), classification.run.store)
    compute, readers = settings.fit.computing(classification.run.compute), {}
    for column, mechanism in enumerate(MECHANISMS):
        artifact, classifier = alone.train(_reading(composed, column), 0, f"reader of {mechanism}")
        readers[mechanism] = space_of_network(classifier.eval(), artifact.identity, compute, _head_of(classifier))
    return readers


def _reading(composed: TrainingSet, column: int) -> TrainingSet:
    """Return the same images with the class of one mechanism; the shape's, the first, is what a classifier learns."""
    if not column:
        return composed
    inputs = composed.inputs | {"mechanism": MECHANISMS[column]}
    return replace(composed, inputs=inputs, source=partial(_draw_column, composed, column))


def _draw_column(composed: TrainingSet, column: int, seed: int) -> DrawBatch:
    draw = composed.source(seed)

    def draw_batch(step: int, batch_size: int) -> tuple[Tensor, Tensor]:
        images, labels = draw(step, batch_size)
        return images, labels[:, column]

    return draw_batch


def _head_of(classifier: Classifier) -> nn.Module:
    """Return the layer behind the features of a classifier with one head; of a foreign one the features are logits."""
    if isinstance(classifier, ForeignClassifier):
        return nn.Identity()
    return classifier.heads["class"] if isinstance(classifier, TorchvisionClassifier) else classifier.head
