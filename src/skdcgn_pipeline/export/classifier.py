"""An invariant classifier to take away: labels and normalisation inside, as safetensors, ONNX and `torch.export`."""

from __future__ import annotations

from collections.abc import Mapping
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from skdcgn_pipeline import __version__
from skdcgn_pipeline.artifacts.store import Artifact, ArtifactWriter, build_artifact
from skdcgn_pipeline.classifiers.invariant_classifier import InvariantClassifier
from skdcgn_pipeline.export.cards import write_card
from skdcgn_pipeline.export.programs import checked_programs, library_versions
from skdcgn_pipeline.networks.pretrained import CONFIG_FILE, WEIGHTS_FILE
from skdcgn_pipeline.runtime.seeding import torch_generator

STEM = "classifier"
INPUTS, OUTPUTS = ("images",), ("probabilities",)


def example_of(image_size: int, num_images: int) -> tuple[Tensor]:
    """Return images [N, 3, H, W] in [0, 1], to trace and to check with."""
    generator = torch_generator(0, "export-example")
    return (torch.rand(num_images, 3, image_size, image_size, generator=generator),)


def export_classifier(
    store: Path,
    trained: Artifact,
    classifier: InvariantClassifier,
    accuracy: list[dict[str, Any]],
    origin: Mapping[str, Any],
) -> Artifact:
    """Write a classifier as safetensors, ONNX and `torch.export`, check the programs, and add a card.

    Args:
        store: Directory of exports.
        trained: Where the trained classifier is stored.
        classifier: The classifier.
        accuracy: Its accuracy by split and subset.
        origin: Of the students that it learnt from.

    Returns:
        An artifact with `config.json` and `model.safetensors` (for `InvariantClassifier.from_pretrained`),
        `classifier.onnx`, `classifier.pt2`, `card.json` and `README.md`.

    Raises:
        SettingError: If a program differs from the classifier by more than 1e-4.
    """
    versions = {"skdcgn_pipeline": __version__, **library_versions()}

    def write(writer: ArtifactWriter) -> None:
        folder = writer.scratch("classifier")
        classifier.save_pretrained(folder)
        for name in (CONFIG_FILE, WEIGHTS_FILE):
            writer.write(name, (folder / name).rename)
        example = partial(example_of, classifier.image_size)
        differences = checked_programs(STEM, classifier, example, INPUTS, OUTPUTS, writer)
        card = {
            "kind": "classifier",
            "name": origin["name"],
            "students": dict(origin),
            "trained": dict(trained.inputs),
            "labels": classifier.labels,
            "image_size": classifier.image_size,
            "accuracy": accuracy,
            "inputs": list(INPUTS),
            "outputs": list(OUTPUTS),
        }
        write_card(writer, "classifier.md.j2", classifier, differences, versions, card)

    inputs = {
        "kind": "exported classifier",
        "classifier": trained.identity,
        "labels": classifier.labels,
        "image_size": classifier.image_size,
        "accuracy": accuracy,
        "origin": dict(origin),
        "versions": versions,
    }
    return build_artifact(store, inputs, write)
