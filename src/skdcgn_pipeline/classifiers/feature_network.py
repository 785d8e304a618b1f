"""The fixed network in whose feature space Frechet distances are measured: a digit classifier, or a given one."""

from __future__ import annotations

from pathlib import Path

from skdcgn_pipeline.artifacts.store import Artifact, ArtifactWriter, build_artifact
from skdcgn_pipeline.classifiers.classifier import DigitClassifier
from skdcgn_pipeline.classifiers.ensemble import InvariantEnsemble
from skdcgn_pipeline.classifiers.ensemble_training import WEIGHTS_FILE, open_ensemble, sha256_of_weights
from skdcgn_pipeline.classifiers.training import build_classifier, open_classifier
from skdcgn_pipeline.images.batches import draw_from_split
from skdcgn_pipeline.images.image_set import splits_with_role
from skdcgn_pipeline.images.stored import StoredImages
from skdcgn_pipeline.parameters import ClassifierFit, Compute, GivenFeatures
from skdcgn_pipeline.runtime.errors import SettingError
from skdcgn_pipeline.runtime.seeding import seeded

GIVEN = "given feature network"


class FeatureNetwork:
    """A network on disk that has `features`: images [N, 3, H, W] in [-1, 1] -> [N, D].

    Attributes:
        artifact: Where it is stored.
    """

    def __init__(self, artifact: Artifact) -> None:
        self.artifact = artifact

    @property
    def is_given(self) -> bool:
        """Tell whether it is a given network instead of the run's digit classifier."""
        return self.artifact.inputs["kind"] == GIVEN

    def open(self) -> DigitClassifier | InvariantEnsemble:
        """Load the network, frozen and in eval mode."""
        return (open_ensemble if self.is_given else open_classifier)(self.artifact)

    def open_classifier(self) -> DigitClassifier:
        """Load the run's digit classifier, frozen and in eval mode.

        Raises:
            SettingError: If the feature network is a given one, whose heads are not used.
        """
        network = self.open()
        if not isinstance(network, DigitClassifier):
            raise SettingError(
                "prepare.given_features", "null, for a digit classifier", "a given network", "Choose another network."
            )
        return network


def build_feature_network(
    store: Path, biased_images: StoredImages, settings: ClassifierFit, seed: int, compute: Compute
) -> FeatureNetwork:
    """Return the feature network: train it, continue it, or reuse it.

    It learns from the training shapes with random colours, where there are such, so that it knows both.
    """
    name = [*splits_with_role(biased_images, "auxiliary"), "train"][0]
    artifact, _ = build_classifier(
        store,
        {"biased_images": biased_images.artifact.identity, "split": name},
        lambda: draw_from_split(biased_images.split(name), seed, "feature-network"),
        settings,
        seed,
        compute,
        biased_images.num_classes,
        title="feature network",
    )
    return FeatureNetwork(artifact)


def read_given_network(settings: GivenFeatures) -> InvariantEnsemble:
    """Return a torchvision network with its trained weights; its heads are not used.

    Raises:
        SettingError: If the architecture is unknown, or the file is missing or of another one.
    """
    with seeded(0, "given-features"):
        network = InvariantEnsemble(settings.architecture, num_classes=1)
    return network.load_trunk(settings.weights)


def adopt_feature_network(store: Path, settings: GivenFeatures) -> FeatureNetwork:
    """Return a given network as the feature network; raises like `read_given_network`."""
    sha256 = sha256_of_weights(settings.weights)

    def write(writer: ArtifactWriter) -> None:
        writer.write(WEIGHTS_FILE, read_given_network(settings).save)

    inputs = {"kind": GIVEN, "architecture": settings.architecture, "weights": sha256}
    return FeatureNetwork(build_artifact(store, inputs, write))
