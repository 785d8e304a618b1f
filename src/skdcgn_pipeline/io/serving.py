"""Exported students and classifiers as MLflow models, which `mlflow models predict` and `serve` can run anywhere."""

from __future__ import annotations

import logging
from importlib.metadata import requires, version
from pathlib import Path
from typing import Any

import mlflow
import numpy as np
import pandas as pd
import torch
from mlflow.models import ModelSignature
from mlflow.pyfunc import PythonModel
from mlflow.types import ColSpec, DataType, Schema, TensorSpec
from packaging.requirements import Requirement

from skdcgn_pipeline.artifacts.store import Artifact
from skdcgn_pipeline.classifiers.invariant_classifier import InvariantClassifier
from skdcgn_pipeline.export.cards import CARD_FILE
from skdcgn_pipeline.io.tracking import active_run, never_fatal
from skdcgn_pipeline.samples.pixels import encode_images
from skdcgn_pipeline.students.trio import StudentCGN
from skdcgn_pipeline.vocabulary import COMPOSITE, MECHANISMS

logger = logging.getLogger(__name__)

FOLDER = "export"  # what the served model calls the files that it reads
COLUMNS = ("seed", *MECHANISMS)


def to_pixels(images: torch.Tensor) -> np.ndarray:
    """Return composites [N, 3, H, W] in [-1, 1] as pixels: uint8 [N, H, W, 3]."""
    return np.ascontiguousarray(encode_images(COMPOSITE, images).transpose(0, 2, 3, 1))


class ServedStudents(PythonModel):
    """A table of seeds and classes in, images out.

    Row by row the first image of `StudentCGN.sample` with the seed and the classes of the row.
    """

    def load_context(self, context: Any) -> None:
        """Load the students."""
        self.students = StudentCGN.from_pretrained(context.artifacts[FOLDER])

    def predict(self, context: Any, model_input: pd.DataFrame, params: dict[str, Any] | None = None) -> np.ndarray:
        """Return pixels, uint8 [N, H, W, 3], for the columns seed, shape, texture and background."""
        seeds = model_input["seed"].tolist()
        shape, texture, background = (model_input[mechanism].tolist() for mechanism in MECHANISMS)
        images, _ = self.students.sample(len(seeds), seeds, shape, texture, background)
        return to_pixels(images)


class ServedClassifier(PythonModel):
    """Pixels in, labels and probabilities out."""

    def load_context(self, context: Any) -> None:
        """Load the classifier."""
        self.classifier = InvariantClassifier.from_pretrained(context.artifacts[FOLDER])

    def predict(self, context: Any, model_input: np.ndarray, params: dict[str, Any] | None = None) -> pd.DataFrame:
        """Return what `InvariantClassifier.predict` returns, for pixels uint8 [N, H, W, 3]."""
        return self.classifier.predict(torch.from_numpy(np.ascontiguousarray(model_input)).permute(0, 3, 1, 2))


def pinned_requirements() -> list[str]:
    """Return MLflow and what the core needs, in the versions that are installed."""
    own = [Requirement(line) for line in requires("skdcgn_pipeline") or []]
    names = {one.name for one in own if one.marker is None or one.marker.evaluate({"extra": ""})}
    # Without the local part, such as +cpu, which no registry knows.
    return sorted(f"{name}=={version(name).partition('+')[0]}" for name in names | {"mlflow"})


def _pixel_schema(image_size: int) -> TensorSpec:
    return TensorSpec(np.dtype(np.uint8), (-1, image_size, image_size, 3))


def log_students(export: Artifact, name: str, alias: str) -> dict[str, str]:
    """Log exported students as an MLflow model of the active run and register it.

    Args:
        export: What `export_students` returns.
        name: Of the registered model.
        alias: Of the version that is registered.

    Returns:
        `model_uri` (by the alias), `name`, `version`, `alias` and `logged_model`; nothing where no run is
        active or the server does not take it.
    """
    interface = export.read_json(CARD_FILE)["interface"]
    inputs = Schema([ColSpec(DataType.long, column) for column in COLUMNS])
    signature = ModelSignature(inputs, Schema([_pixel_schema(interface["image_size"])]))
    last = interface["num_classes"] - 1
    example = pd.DataFrame([[0, 0, last, 0], [1, last, 0, 0]], columns=list(COLUMNS), dtype="int64")
    return _log(export, "students", signature, example, name, alias)


def log_classifier(export: Artifact, name: str, alias: str) -> dict[str, str]:
    """Log an exported classifier as an MLflow model of the active run and register it, as `log_students`."""
    card = export.read_json(CARD_FILE)
    columns: list[ColSpec | TensorSpec] = [ColSpec(DataType.string, "label"), ColSpec(DataType.float, "probability")]
    columns += [ColSpec(DataType.float, f"probability_{label}") for label in card["labels"]]
    signature = ModelSignature(Schema([_pixel_schema(card["image_size"])]), Schema(columns))
    example = np.zeros((1, card["image_size"], card["image_size"], 3), np.uint8)
    return _log(export, "classifier", signature, example, name, alias)


def _log(
    export: Artifact,
    what: str,
    signature: ModelSignature,
    example: Any,
    name: str,
    alias: str,
) -> dict[str, str]:
    if active_run() is None:
        logger.warning("no MLflow run is active: the exported %s is in %s alone", what, export.directory)
        return {}
    with never_fatal(f"the model {name}"):
        info = mlflow.pyfunc.log_model(
            name=what,
            python_model=str(Path(__file__).with_name(f"served_{what}.py")),
            artifacts={FOLDER: str(export.directory)},
            # The package itself: the model then runs where it is not installed, in any working directory.
            code_paths=[str(Path(__file__).parents[1])],
            signature=signature,
            input_example=example,
            pip_requirements=pinned_requirements(),
            registered_model_name=name,
            metadata={"export": export.identity},
        )
        number = str(info.registered_model_version)
        mlflow.MlflowClient().set_registered_model_alias(name, alias, number)
        return {
            "model_uri": f"models:/{name}@{alias}",
            "name": name,
            "version": number,
            "alias": alias,
            "logged_model": info.model_uri,
        }
    return {}
