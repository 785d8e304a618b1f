"""A trained classifier to take away: it knows its labels and the range of images that come from files."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING, Any, Self

import torch
from torch import Tensor

from skdcgn_pipeline.classifiers.networks import Classifier, make_classifier
from skdcgn_pipeline.classifiers.torchvision_classifier import MechanismLogits
from skdcgn_pipeline.images.reading import read_pictures
from skdcgn_pipeline.networks.pretrained import PretrainedModel
from skdcgn_pipeline.parameters import ClassifierNetwork, Compute, Images
from skdcgn_pipeline.runtime.errors import SettingError
from skdcgn_pipeline.runtime.extensions import UntrustedCodeError, is_extension
from skdcgn_pipeline.runtime.libraries import import_library

if TYPE_CHECKING:
    import pandas as pd

    from skdcgn_pipeline.classifiers.evaluation import Evaluation


class InvariantClassifier(PretrainedModel):
    """Probabilities of the labels for images as they come from files.

    Args:
        labels: Name of each class, in the order of the network's outputs.
        image_size: Height and width of the images.
        architecture: What of `ClassifierNetwork` says which network it is.
        trust_code: Import a network that is named by `module:function`.

    Raises:
        SettingError: If the network is code that nobody trusts.
    """

    KIND = "classifier"
    CONFIG_KEYS = ("labels", "image_size", "architecture")

    def __init__(
        self,
        labels: Sequence[str],
        image_size: int = 32,
        architecture: Mapping[str, Any] | None = None,
        trust_code: bool = False,
    ) -> None:
        super().__init__()
        self.labels, self.image_size = list(labels), image_size
        settings = ClassifierNetwork(**(architecture or {}))
        if is_extension(settings.architecture) and not trust_code:
            raise UntrustedCodeError("classifier", "a network that the package knows", settings.architecture)
        self.architecture = {"architecture": settings.architecture, "heads": settings.heads}
        self.network: Classifier = make_classifier(settings, len(self.labels))

    @classmethod
    def of(cls, classifier: Classifier, labels: Sequence[str], image_size: int = 32) -> InvariantClassifier:
        """Wrap a copy of a trained classifier; frozen and in eval mode."""
        settings = classifier.settings
        architecture = {"architecture": settings.architecture, "heads": settings.heads}
        model = cls(labels, image_size, architecture, trust_code=True)
        model.network.load_state_dict(classifier.state_dict())
        return model.requires_grad_(False).eval()

    @classmethod
    def from_pretrained(cls, name: Path | str, *, trust_code: bool = False, **hub_options: Any) -> Self:
        """Load a classifier; `trust_code` imports a network of your own, see `PretrainedModel.from_pretrained`."""
        return super().from_pretrained(name, arguments={"trust_code": trust_code}, **hub_options)

    def forward(self, images: Tensor) -> Tensor:
        """Return probabilities [N, classes] for images [N, 3, H, W], uint8 or floating point in [0, 1]."""
        if not images.is_floating_point():
            images = images.float() / 255
        logits = self.network(images * 2 - 1)
        logits = logits.mean if isinstance(logits, MechanismLogits) else logits
        return logits.float().softmax(1)

    @torch.no_grad()
    def predict(self, images: Tensor) -> pd.DataFrame:
        """Classify images.

        Args:
            images: [N, 3, H, W], uint8 or floating point in [0, 1], of the classifier's size.

        Returns:
            One row per image: `label`, its `probability`, and `probability_<label>` of every label.

        Raises:
            SettingError: If shape, type or range is another.
        """
        expected = (3, self.image_size, self.image_size)
        remedy = "Give RGB images [N, 3, H, W] of this size; `predict_files` brings files to it."
        if images.ndim != 4 or tuple(images.shape[1:]) != expected:
            raise SettingError("images", f"shape [N, {', '.join(map(str, expected))}]", list(images.shape), remedy)
        if images.is_floating_point():
            if len(images) and not (images.min() >= 0 and images.max() <= 1):
                got = f"values in [{images.min().item():.3g}, {images.max().item():.3g}]"
                raise SettingError("images", "floating point values in [0, 1], or uint8", got, remedy)
        elif images.dtype != torch.uint8:
            raise SettingError("images", "floating point values in [0, 1], or uint8", images.dtype, remedy)
        pd = import_library("pandas", "train", "predict")
        probabilities = self(images)
        highest = probabilities.max(1)
        table = pd.DataFrame(probabilities.numpy(), columns=[f"probability_{label}" for label in self.labels])
        table.insert(0, "label", [self.labels[index] for index in highest.indices])
        table.insert(1, "probability", highest.values.numpy())
        return table

    def predict_files(self, paths: Iterable[Path | str], batch_size: int = 256) -> pd.DataFrame:
        """Classify image files.

        Each is read as RGB, its shorter side brought to the classifier's size (bilinear), its middle cut out.

        Args:
            paths: The files, of any format that Pillow reads.
            batch_size: Images classified at a time.

        Returns:
            One row per file: `path`, and the columns of `predict`.

        Raises:
            SettingError: If there is no file, or one cannot be read.
        """
        pd = import_library("pandas", "train", "predict_files")
        files = [Path(path) for path in paths]
        if not files:
            raise SettingError("paths", "at least one image file", "none", "Give the files to classify.")
        tables = []
        for first in range(0, len(files), batch_size):
            part = files[first : first + batch_size]
            table = self.predict(read_pictures(part, self.image_size))
            table.insert(0, "path", [str(path) for path in part])
            tables.append(table)
        return pd.concat(tables, ignore_index=True)

    def evaluate(
        self,
        folder: Path | str,
        resize: int | None = None,
        skip_unreadable: bool = False,
        compute: Compute | None = None,
    ) -> Evaluation:
        """Measure the classifier on a folder of images of its classes.

        The folder is `<class>/<image>` or `<split>/<class>/<image>`, as the folder environment reads it: perhaps with a
        `metadata.csv` for the worst group. It need not have all classes.

        Args:
            folder: The folder.
            resize: The shorter side before the middle is cut out; None takes the classifier's size.
            skip_unreadable: Leave out files that cannot be read, rather than refuse the folder.
            compute: Device and precision.

        Returns:
            Accuracy, worst group and calibration by split, and the confusion by class.

        Raises:
            SettingError: If a class is unknown to the classifier, or a file cannot be read.
        """
        from skdcgn_pipeline.artifacts.recipe import build_in
        from skdcgn_pipeline.classifiers import evaluation  # needs the extra `train`

        images = Images(
            source="folder",
            folder=str(folder),
            image_size=self.image_size,
            resize=resize,
            skip_unreadable=skip_unreadable,
        )
        with TemporaryDirectory() as store:
            read = build_in(Path(store), evaluation.folder_of_classes(self, images))
            return evaluation.evaluate_classifier(self, read, compute or Compute())
