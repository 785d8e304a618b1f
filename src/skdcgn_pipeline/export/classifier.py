"""An invariant classifier to take away: labels and normalisation inside, as safetensors, ONNX and `torch.export`."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from torch import Tensor

from skdcgn_pipeline.artifacts.recipe import Recipe
from skdcgn_pipeline.artifacts.store import Artifact, ArtifactWriter
from skdcgn_pipeline.classifiers.invariant_classifier import InvariantClassifier
from skdcgn_pipeline.export.cards import versions, write_export
from skdcgn_pipeline.runtime.seeding import torch_generator


def example_of(image_size: int, num_images: int) -> tuple[Tensor]:
    """Return images [N, 3, H, W] in [0, 1], to trace and to check with."""
    generator = torch_generator(0, "export-example")
    return (torch.rand(num_images, 3, image_size, image_size, generator=generator),)


@dataclass(frozen=True)
class ClassifierExport(Recipe[Artifact]):
    """A classifier as safetensors, ONNX and `torch.export`, the programs checked, with a card.

    The artifact has `config.json` and `model.safetensors` (for `InvariantClassifier.from_pretrained`),
    `classifier.onnx`, `classifier.pt2`, `card.json` and `README.md`.

    Attributes:
        trained: Where the trained classifier is stored.
        classifier: The classifier.
        accuracy: Its accuracy by split and subset.
        origin: Of the students that it learnt from.
    """

    trained: Artifact
    classifier: InvariantClassifier
    accuracy: list[dict[str, Any]]
    origin: Mapping[str, Any]

    kind = "exported classifier"
    folder = "export"
    version = 3  # ONNX calls the number of images `num_images`; cards say what they are to the Hub

    def inputs(self) -> dict[str, Any]:
        """Return everything that the files depend on."""
        return {
            "classifier": self.trained.identity,
            "labels": self.classifier.labels,
            "image_size": self.classifier.image_size,
            "accuracy": self.accuracy,
            "origin": dict(self.origin),
            "versions": versions(),
        }

    def build(self, writer: ArtifactWriter) -> None:
        """Write all files; raises SettingError if a program differs from the classifier by more than 1e-4."""
        self.classifier.write_into(writer)
        card = {
            "kind": "classifier",
            "name": self.origin["name"],
            "students": dict(self.origin),
            "trained": dict(self.trained.inputs),
            "labels": self.classifier.labels,
            "image_size": self.classifier.image_size,
            "accuracy": self.accuracy,
            "inputs": ["images"],
            "outputs": ["probabilities"],
        }
        write_export(writer, "classifier", self.classifier, partial(example_of, self.classifier.image_size), card)
