"""Exported students and classifiers as MLflow models, which `mlflow models predict` and `serve` can run anywhere."""

from __future__ import annotations

import logging
import math
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import cache
from importlib.metadata import requires, version
from pathlib import Path
from typing import Any

import mlflow
import numpy as np
import pandas as pd
import torch
from mlflow.entities import Metric
from mlflow.models import ModelSignature
from mlflow.pyfunc import PythonModel, scoring_server
from mlflow.types import ColSpec, DataType, ParamSchema, ParamSpec, Schema, TensorSpec
from packaging.requirements import Requirement

from skdcgn_pipeline.artifacts.store import Artifact
from skdcgn_pipeline.classifiers.accuracy import metric_name
from skdcgn_pipeline.classifiers.invariant_classifier import InvariantClassifier
from skdcgn_pipeline.export.cards import CARD_FILE
from skdcgn_pipeline.io.tracking import active_run, metric_slug, never_fatal
from skdcgn_pipeline.kernels import numba_is_there
from skdcgn_pipeline.networks.pretrained import PAGE_FILE, front_matter
from skdcgn_pipeline.networks.weights_file import first_line
from skdcgn_pipeline.runtime.compute import give_back_freed_memory
from skdcgn_pipeline.runtime.errors import SettingError
from skdcgn_pipeline.samples.pixels import encode_images
from skdcgn_pipeline.students.trio import StudentCGN
from skdcgn_pipeline.vocabulary import COMPOSITE, MECHANISMS

logger = logging.getLogger(__name__)

# Which figure of held-out samples, or of the validation split, a version must not be worse in to take the alias; the
# tests decide nothing.
CHOSEN_BY = {"students": "students/all/l1", "classifier": "accuracy/validation/all"}
LOWER_IS_BETTER = {"students/all/l1"}
LIKENESS = ("l1", "mask_iou", "frechet", "frechet_ratio")
MAX_DESCRIPTION = 5000  # letters of MLflow's registry
FOLDER = "export"  # what the served model calls the files that it reads
COLUMNS = ("seed", *MECHANISMS)
# Images that MLflow's server has read and written long before it gives a request up, after a minute.
LIMIT, MAX_IMAGES = "max_images", 500
CHUNK = 128  # images worked on at a time


def to_pixels(images: torch.Tensor) -> np.ndarray:
    """Return composites [N, 3, H, W] in [-1, 1] as pixels: uint8 [N, H, W, 3]."""
    return np.ascontiguousarray(encode_images(COMPOSITE, images).transpose(0, 2, 3, 1))


@contextmanager
def answered() -> Iterator[None]:
    """Answer a request that cannot be met with its reason, status 400; give back the memory that it took."""
    try:
        yield
    except SettingError as error:
        raise mlflow.MlflowException.invalid_parameter_value(str(error)) from error
    finally:
        give_back_freed_memory()


def chunks_of(num_images: int, params: Mapping[str, Any] | None) -> list[slice]:
    """Return the parts in which images are worked on, at least one; refuses more than the request's own limit says."""
    limit = (params or {}).get(LIMIT, MAX_IMAGES)
    if num_images > limit:
        remedy = f"Ask for fewer at a time, or say more in the request's params: {LIMIT}."
        raise SettingError("images", f"at most {limit:,} in a request ({LIMIT})", f"{num_images:,}", remedy)
    return [slice(first, first + CHUNK) for first in range(0, max(1, num_images), CHUNK)]


def whole_numbers(name: str, values: Any, dtype: type[np.integer]) -> np.ndarray:
    """Return numbers as a type of integers, refusing those that are no whole ones or out of its range."""
    last = int(np.iinfo(dtype).max)
    try:
        numbers = np.asarray(values)
        if not numbers.size:
            return numbers.astype(dtype)
        if numbers.dtype.kind not in "iuf":
            cells: list[Any] = numbers.ravel().tolist()
            strange = next(
                (cell for cell in cells if isinstance(cell, bool) or not isinstance(cell, int | float)), cells[0]
            )
            raise ValueError(repr(strange)[:80])
        if (beyond := numbers[~((numbers >= 0) & (numbers < last + 1))]).size:
            raise ValueError(f"{beyond[0]:g}")
        if numbers.dtype.kind == "f" and (fractions := numbers[numbers != np.floor(numbers)]).size:
            raise ValueError(f"{fractions[0]:g}")
    except (TypeError, ValueError) as error:
        remedy = "Nothing is rounded; send what is meant."
        raise SettingError(name, f"whole numbers from 0 to {last}", first_line(error), remedy) from error
    return numbers.astype(dtype, copy=False)


@cache  # once in a process, however many models it loads
def refuse_deep_json() -> None:
    """Let MLflow's server answer JSON that is nested too deeply with status 400, as what is no JSON.

    Its own reader, which comes before any model, lets the parser's RecursionError through as a 500.
    """
    decode = getattr(scoring_server, "_decode_json_input", None)
    if decode is None:
        return

    def decode_shallow(text: Any) -> dict[str, Any]:
        try:
            result: dict[str, Any] = decode(text)
        except RecursionError as error:
            raise mlflow.MlflowException.invalid_parameter_value("The JSON is nested too deeply.") from error
        return result

    scoring_server._decode_json_input = decode_shallow


class ServedStudents(PythonModel):
    """A table of seeds and classes in, images out.

    Row by row the first image of `StudentCGN.sample` of the `fused` students, with the seed and the classes of the row.
    """

    def load_context(self, context: Any) -> None:
        """Load the students."""
        refuse_deep_json()
        self.students = StudentCGN.from_pretrained(context.artifacts[FOLDER]).fused()
        logger.info("students render by %s", self.students.runtime)

    def predict(self, context: Any, model_input: pd.DataFrame, params: dict[str, Any] | None = None) -> np.ndarray:
        """Return pixels, uint8 [N, H, W, 3], for the columns seed, shape, texture and background."""
        with answered():
            try:
                table = pd.DataFrame(model_input)
            except (TypeError, ValueError) as error:
                raise SettingError("rows", "a table", first_line(error), "Send columns of equal length.") from error
            if wrong := [name for name in COLUMNS if list(table.columns).count(name) != 1]:
                raise SettingError("columns", ", ".join(COLUMNS), f"no or two {wrong[0]}", "Send each of them once.")
            chunks = chunks_of(len(table), params)
            rows = [whole_numbers(name, table[name], np.int64).tolist() for name in COLUMNS]
            parts = [[column[chunk] for column in rows] for chunk in chunks]
            return np.concatenate([to_pixels(self.students.sample(len(part[0]), *part)[0]) for part in parts])


class ServedClassifier(PythonModel):
    """Pixels in, labels and probabilities out."""

    def load_context(self, context: Any) -> None:
        """Load the classifier."""
        refuse_deep_json()
        self.classifier = InvariantClassifier.from_pretrained(context.artifacts[FOLDER])

    def predict(self, context: Any, model_input: np.ndarray, params: dict[str, Any] | None = None) -> pd.DataFrame:
        """Return what `InvariantClassifier.predict` returns, for pixels uint8 [N, H, W, 3]."""
        with answered():
            shape = np.shape(model_input)
            if len(shape) != 4:
                raise SettingError("images", "shape [N, H, W, 3]", list(shape), "Send pixels of RGB images.")
            chunks = chunks_of(shape[0], params)
            images = torch.from_numpy(whole_numbers("pixels", model_input, np.uint8)).permute(0, 3, 1, 2)
            return pd.concat([self.classifier.predict(images[chunk]) for chunk in chunks], ignore_index=True)


def pinned_requirements(*more: str) -> list[str]:
    """Return MLflow, what the core needs and what else is named, in the versions that are installed."""
    own = [Requirement(line) for line in requires("skdcgn_pipeline") or []]
    names = {one.name for one in own if one.marker is None or one.marker.evaluate({"extra": ""})}
    # Without the local part, such as +cpu, which no registry knows.
    return sorted(f"{name}=={version(name).partition('+')[0]}" for name in names | {"mlflow", *more})


def _signature(*outputs: ColSpec | TensorSpec) -> ModelSignature:
    """Return what a model gives, and the limit that a request may set.

    The inputs are left open: MLflow's server would round what it casts to them, and a model could not tell.
    """
    return ModelSignature(outputs=Schema([*outputs]), params=ParamSchema([ParamSpec(LIMIT, DataType.long, MAX_IMAGES)]))


def _pixel_schema(image_size: int) -> TensorSpec:
    return TensorSpec(np.dtype(np.uint8), (-1, image_size, image_size, 3))


def log_students(export: Artifact, name: str, alias: str) -> dict[str, str]:
    """Log exported students as an MLflow model of the active run and register it, with its card and figures.

    Args:
        export: What `export_students` returns.
        name: Of the registered model.
        alias: For the version that is registered, unless the one that has it is better on what was held out.

    Returns:
        `model_uri` (by the alias, or by the version without it), `name`, `version`, `alias` (empty without it) and
        `logged_model`; nothing where no run is active or the server does not take it.
    """
    interface = export.read_json(CARD_FILE)["interface"]
    signature = _signature(_pixel_schema(interface["image_size"]))
    last = interface["num_classes"] - 1
    example = pd.DataFrame([[0, 0, last, 0], [1, last, 0, 0]], columns=list(COLUMNS), dtype="int64")
    libraries = ("numba",) if numba_is_there() else ()  # which students render faster by
    return _log(export, "students", signature, example, name, alias, libraries)


def log_classifier(export: Artifact, name: str, alias: str) -> dict[str, str]:
    """Log an exported classifier as an MLflow model of the active run and register it, as `log_students`."""
    card = export.read_json(CARD_FILE)
    columns: list[ColSpec | TensorSpec] = [ColSpec(DataType.string, "label"), ColSpec(DataType.float, "probability")]
    columns += [ColSpec(DataType.float, f"probability_{label}") for label in card["labels"]]
    signature = _signature(*columns)
    example = np.zeros((1, card["image_size"], card["image_size"], 3), np.uint8)
    return _log(export, "classifier", signature, example, name, alias)


def _log(
    export: Artifact,
    what: str,
    signature: ModelSignature,
    example: Any,
    name: str,
    alias: str,
    libraries: Sequence[str] = (),
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
            pip_requirements=pinned_requirements(*libraries),
            registered_model_name=name,
            metadata={"export": export.identity},
        )
        number = str(info.registered_model_version)
        _describe(export, what, info.model_id, name, number)
        has_alias = _give_alias(name, number, alias, CHOSEN_BY[what])
        return {
            "model_uri": f"models:/{name}@{alias}" if has_alias else f"models:/{name}/{number}",
            "name": name,
            "version": number,
            "alias": alias if has_alias else "",
            "logged_model": info.model_uri,
        }
    return {}


def figures_of(card: Mapping[str, Any]) -> dict[str, float]:
    """Return what an export's card tells of its quality, by the names of the run's metrics."""
    rows = card.get("origin", {}).get("fidelity_and_costs", [])
    figures = {f"students/{row['mechanism']}/{name}": row[name] for row in rows for name in LIKENESS if name in row}
    figures |= {metric_name(row["split"], row["subset"]): row["accuracy"] for row in card.get("accuracy", [])}
    return {name: float(value) for name, value in figures.items() if value is not None and math.isfinite(value)}


def _describe(export: Artifact, what: str, model: str, name: str, number: str) -> None:
    """Link an export's figures to its logged model, and tell its card and the figure that it is chosen by."""
    client, run, now = mlflow.MlflowClient(), active_run(), int(time.time() * 1000)
    assert run is not None
    figures = figures_of(export.read_json(CARD_FILE))
    linked = [Metric(metric_slug(key), value, now, 0, model_id=model) for key, value in figures.items()]
    client.log_batch(run.info.run_id, metrics=linked)
    if (page := export.directory / PAGE_FILE).exists():
        card = page.read_text(encoding="utf-8").removeprefix(front_matter(what)).lstrip()[:MAX_DESCRIPTION]
        client.update_registered_model(name, card)
        client.update_model_version(name, number, card)
    if (chosen_by := CHOSEN_BY[what]) in figures:
        client.set_model_version_tag(name, number, chosen_by, f"{figures[chosen_by]:.6g}")


def _give_alias(name: str, number: str, alias: str, chosen_by: str) -> bool:
    """Give a version the alias, unless it has no figure or the holder has a better one; tell whether it was given."""
    client, sign = mlflow.MlflowClient(), -1 if chosen_by in LOWER_IS_BETTER else 1

    def figure_of(version: str) -> float:
        return sign * float(client.get_model_version(name, version).tags.get(chosen_by, "nan"))

    holder, value = client.get_registered_model(name).aliases.get(alias), figure_of(number)
    if math.isnan(value) or (holder is not None and value < figure_of(str(holder))):
        logger.info("version %s of %s is not called %s: %s does not say so", number, name, alias, chosen_by)
        return False
    client.set_registered_model_alias(name, alias, number)
    return True
