"""A classifier that was taken away, measured on any folder of images of its classes."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from skdcgn_pipeline.artifacts.recipe import Recipe
from skdcgn_pipeline.artifacts.store import Artifact, ArtifactWriter
from skdcgn_pipeline.classifiers.accuracy import confusion_rows, measure_splits
from skdcgn_pipeline.images.listing import list_folder
from skdcgn_pipeline.images.recipes import FolderImagesRecipe
from skdcgn_pipeline.images.stored import StoredImages
from skdcgn_pipeline.parameters import Compute, Images
from skdcgn_pipeline.runtime.errors import SettingError

if TYPE_CHECKING:
    import pandas as pd

    from skdcgn_pipeline.classifiers.invariant_classifier import InvariantClassifier


@dataclass(frozen=True)
class KeptClassifier(Recipe[Artifact]):
    """A trained classifier as the folder that `InvariantClassifier.from_pretrained` reads.

    Attributes:
        trained: Where the trained network is stored.
        classifier: The same with its labels.
    """

    trained: Artifact
    classifier: InvariantClassifier

    kind = "invariant classifier"
    folder = "export"

    def inputs(self) -> dict[str, object]:
        """Return everything that the files depend on."""
        labels, image_size = self.classifier.labels, self.classifier.image_size
        return {"classifier": self.trained.identity, "labels": labels, "image_size": image_size}

    def build(self, writer: ArtifactWriter) -> None:
        """Write `config.json` and `model.safetensors`."""
        self.classifier.write_into(writer)


@dataclass(frozen=True)
class Evaluation:
    """What is measured of a classifier.

    Attributes:
        accuracy: Rows of `split`, `subset` (`all`, `worst group`, ...), `accuracy` in [0, 1], `num_images`, `group` and
            `calibration_error`; see `classifiers.accuracy`.
        confusion: A row per split and true class: `label`, `accuracy` of its images and `predicted_<label>`, how many
            of them were taken for each class.
    """

    accuracy: pd.DataFrame
    confusion: pd.DataFrame


def folder_of_classes(classifier: InvariantClassifier, images: Images) -> FolderImagesRecipe:
    """Return how a folder is read whose classes a classifier knows: `<folder>/<class>/<image>`, or by splits.

    Raises:
        SettingError: If there is no folder, or a class in it that the classifier does not know.
    """
    if images.folder is None:
        remedy = "Give --env folder --params images.folder=path/to/images."
        raise SettingError("images.folder", "a folder of images to measure on", None, remedy)
    listing = list_folder(images.folder, 0, 0, class_names=classifier.labels)
    return FolderImagesRecipe(listing, classifier.image_size, images.resize, images.skip_unreadable)


def evaluate_classifier(classifier: InvariantClassifier, images: StoredImages, compute: Compute) -> Evaluation:
    """Measure a classifier on every split of images whose classes are numbered as its labels are."""
    import pandas as pd  # of an extra

    splits = ((name, images.split(name)) for name in images.roles)
    accuracy, counts = measure_splits(classifier.network, splits, compute, classifier.labels)
    confusion = [
        {"split": name} | row for name, counted in counts.items() for row in confusion_rows(counted, classifier.labels)
    ]
    return Evaluation(pd.DataFrame(accuracy), pd.DataFrame(confusion))


def classifier_in(folder: Path | str | None, kept: Artifact | None) -> Path:
    """Return the folder of the classifier to measure: the one that is named, or what the last run has kept.

    Raises:
        SettingError: If there is neither.
    """
    if folder is not None:
        return Path(folder)
    if kept is None:
        remedy = "Name one, or run the classify stage first with the same --env."
        raise SettingError("evaluate.classifier", "the folder of a classifier", "none, and no run has kept one", remedy)
    return kept.directory
