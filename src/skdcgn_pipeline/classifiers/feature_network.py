"""The fixed network in whose feature space Frechet distances are measured: a digit classifier, or a given one."""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial
from typing import Any, ClassVar

from skdcgn_pipeline.artifacts.recipe import Recipe, Run
from skdcgn_pipeline.artifacts.store import Artifact, ArtifactWriter
from skdcgn_pipeline.classifiers.torchvision_classifier import TorchvisionClassifier
from skdcgn_pipeline.classifiers.training import (
    WEIGHTS_FILE,
    Classifier,
    ClassifierRecipe,
    class_lesson,
    identity_of_network,
    open_classifier,
)
from skdcgn_pipeline.images.batches import draw_from_split
from skdcgn_pipeline.images.stored import StoredImages
from skdcgn_pipeline.networks.weights_file import write_state
from skdcgn_pipeline.parameters import ClassifierFit, ClassifierNetwork, GivenFeatures
from skdcgn_pipeline.runtime.seeding import seeded

SETTING = "prepare.given_features"


@dataclass(frozen=True)
class FeatureNetwork:
    """A network on disk that has `features`: images [N, 3, H, W] in [-1, 1] -> [N, D].

    Attributes:
        artifact: Where it is stored.
    """

    artifact: Artifact

    def open(self) -> Classifier:
        """Load the network, frozen and in eval mode."""
        return open_classifier(self.artifact)

    @property
    def is_given(self) -> bool:
        """Tell whether it is a given network instead of the run's digit classifier."""
        return self.artifact.inputs["kind"] == GivenNetworkRecipe.kind


def fit_feature_network(run: Run, images: StoredImages, settings: ClassifierFit) -> FeatureNetwork:
    """Return the feature network: train it, continue it, or reuse it.

    It learns from the training shapes with random colours, where there are such, so that it knows both.
    """
    name = images.splits("auxiliary", "train")[0]
    recipe = ClassifierRecipe(
        {"images": images.fingerprint_of(name), "split": name},
        lambda: [class_lesson(draw_from_split(images.split(name), run.seed, "feature-network"), settings)],
        settings,
        run.seed,
        run.compute,
        images.num_classes,
        title="feature network",
    )
    return FeatureNetwork(run.make(recipe)[0])


def read_given_network(settings: GivenFeatures) -> TorchvisionClassifier:
    """Return a torchvision network with its trained weights; its heads are not used.

    Raises:
        SettingError: If the architecture is unknown, or the file is missing or of another one.
    """
    network = ClassifierNetwork(architecture=settings.architecture, weights=settings.weights)
    with seeded(0, "given-features"):
        return TorchvisionClassifier(network, num_classes=1, setting=SETTING).load_weights()


@dataclass(frozen=True)
class GivenNetworkRecipe(Recipe[FeatureNetwork]):
    """A given network as the feature network; raises like `read_given_network`."""

    kind: ClassVar[str] = "given feature network"
    folder: ClassVar[str] = "classifier"
    reader: ClassVar[Any] = FeatureNetwork

    settings: GivenFeatures

    def inputs(self) -> dict[str, Any]:
        """Return the architecture, and the SHA-256 of the weights."""
        network = ClassifierNetwork(architecture=self.settings.architecture, weights=self.settings.weights)
        return {"network": identity_of_network(network, SETTING), "num_classes": 1}

    def build(self, writer: ArtifactWriter) -> None:
        """Copy the weights."""
        writer.write(WEIGHTS_FILE, partial(write_state, read_given_network(self.settings)))
