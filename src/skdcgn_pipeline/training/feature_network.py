"""The fixed digit classifier in whose feature space Frechet distances are measured."""

from __future__ import annotations

from pathlib import Path

from skdcgn_pipeline.artifacts import Artifact
from skdcgn_pipeline.data.batches import draw_from_split
from skdcgn_pipeline.data.images import BiasedImages
from skdcgn_pipeline.models.classifier import DigitClassifier
from skdcgn_pipeline.parameters import ClassifierFit, Compute
from skdcgn_pipeline.training.fit_classifier import build_classifier, open_classifier


class FeatureNetwork:
    """A digit classifier on disk.

    Attributes:
        artifact: Where it is stored.
    """

    def __init__(self, artifact: Artifact) -> None:
        self.artifact = artifact

    def open(self) -> DigitClassifier:
        """Load the network, frozen and in eval mode."""
        return open_classifier(self.artifact)


def build_feature_network(
    store: Path, biased_images: BiasedImages, settings: ClassifierFit, seed: int, compute: Compute
) -> FeatureNetwork:
    """Return the feature network: train it, continue it, or reuse it.

    It learns from the training digits with random colours, so that it knows both shapes and colours.
    """
    artifact, _ = build_classifier(
        store,
        {"biased_images": biased_images.artifact.identity, "split": "randomised"},
        lambda: draw_from_split(biased_images.split("randomised"), seed, "feature-network"),
        settings,
        seed,
        compute,
        title="feature network",
    )
    return FeatureNetwork(artifact)
