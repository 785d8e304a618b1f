"""Train invariant ensembles on real images and counterfactuals, and measure how invariant they are."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any, cast

import pandas as pd
import torch
from torch import Tensor

from skdcgn_pipeline.artifacts.recipe import build_in
from skdcgn_pipeline.artifacts.store import Artifact, build_artifact, build_json
from skdcgn_pipeline.classifiers.ensemble import InvariantEnsemble
from skdcgn_pipeline.classifiers.ensemble_training import (
    EnsembleRecipe,
    initial_ensemble,
    open_ensemble,
    sha256_of_weights,
)
from skdcgn_pipeline.classifiers.invariance import (
    Row,
    measure_accuracy_on_folder,
    measure_background_gap,
    measure_counterfactual_accuracy,
    measure_shape_bias,
)
from skdcgn_pipeline.counterfactuals.pools import CounterfactualPool, open_pool
from skdcgn_pipeline.images.batches import batches_in_order, crop_randomly_from, draw_crops_from_split
from skdcgn_pipeline.images.epochs import DrawBatch
from skdcgn_pipeline.images.imagenet import CUE_CONFLICT, IMAGENET9, ImageNetFolders, ImageNetTables, read_tables
from skdcgn_pipeline.images.reading import crop_centre
from skdcgn_pipeline.images.recipes import FolderImagesRecipe
from skdcgn_pipeline.images.stored import ImageFiles, StoredImages
from skdcgn_pipeline.parameters import Composition, Compute, Ensemble
from skdcgn_pipeline.runtime.errors import SettingError
from skdcgn_pipeline.samples.drawing import SampleShards

VALIDATION, COUNTERFACTUALS = "validation", "counterfactuals"
COLUMNS = ["trained_on", "images", "prediction", "measure", "value", "num_images"]
ENSEMBLES_FILE = "ensembles.json"


# --- folders -------------------------------------------------------------------------------------


@dataclass(frozen=True)
class EnsembleImages:
    """The real images of a run, checked.

    Attributes:
        tables: How the classes are named and grouped.
        images: `train`, what accuracy is measured on, and perhaps `cue_conflict` and `imagenet9/<name>`.
    """

    tables: ImageNetTables
    images: StoredImages

    @property
    def imagenet9(self) -> list[str]:
        """Names of the folders of ImageNet-9 that are there."""
        return [name.partition("/")[2] for name in self.images.splits if name.startswith(f"{IMAGENET9}/")]

    @property
    def accuracy(self) -> list[str]:
        """Names of the splits that accuracy is measured on; `validation` first."""
        return [name for name in self.images.reported_splits if name != CUE_CONFLICT and "/" not in name]

    def describe(self) -> pd.DataFrame:
        """Return a row per folder: `images`, `num_images`, `num_classes`, `num_left_out`, `folder`, `fingerprint`."""
        rows = []
        for name in self.images.splits:
            split = self.images.split(name)
            classes = torch.stack([split.labels, *split.attributes.values()], 1)
            rows.append(
                {
                    "images": name,
                    "num_images": len(split),
                    "num_classes": len(classes.unique(dim=0)),
                    "num_left_out": self.images.num_left_out(name),
                    "folder": str(cast(ImageFiles, split.rows).root),
                    "fingerprint": self.images.fingerprint_of(name),
                }
            )
        return pd.DataFrame(rows)


def _folders_of(settings: Ensemble) -> ImageNetFolders:
    return ImageNetFolders(
        settings.train, settings.validation, settings.cue_conflict, settings.imagenet9, settings.folders
    )


def check_folders(settings: Ensemble, assets: str, seed: int) -> ImageNetTables:
    """Refuse absent tables, folders and weights before any work; no image is looked at.

    Returns:
        The index tables.

    Raises:
        SettingError: Naming the setting, and what is missing or of another kind.
    """
    tables = read_tables(assets)
    _folders_of(settings).check(tables.wnids)
    # Builds the architecture and reads its weights, the cheapest way to find out whether they fit.
    initial_ensemble(settings.fit, seed, tables.num_classes)
    return tables


def check_teacher_classes(num_classes: int, tables: ImageNetTables) -> None:
    """Refuse a teacher of other classes than those of the index tables.

    Raises:
        SettingError: With both numbers.
    """
    if num_classes != tables.num_classes:
        raise SettingError(
            "teacher",
            f"the {tables.num_classes} classes of the index table",
            f"{num_classes} classes",
            "Give the tables of the teacher's classes (`assets`), or another teacher.",
        )


def read_images(store: Path, settings: Ensemble, assets: str) -> EnsembleImages:
    """List all folders and read every image once; what was found is kept.

    Args:
        store: Directory of a kind, beside that of the image set.
        settings: Names the folders.
        assets: The asset folder, which has the index tables.

    Raises:
        SettingError: If a folder is absent, has other classes, or has images that cannot be used.
        InterruptedRunError: If a stop was requested.
    """
    tables, reading = read_tables(assets), settings.reading
    recipe = FolderImagesRecipe(
        _folders_of(settings).list(tables),
        image_size=reading.image_size,
        resize=reading.resize,
        skip_unreadable=reading.skip_unreadable,
        keep_files=True,
    )
    return EnsembleImages(tables, build_in(store.parent / recipe.kind, recipe))


# --- training ------------------------------------------------------------------------------------


class EnsemblesArtifact:
    """The ensembles of a run, by what they were trained on; a small file that says which they are.

    Attributes:
        artifact: Where it is stored, beside the ensembles.
    """

    def __init__(self, artifact: Artifact) -> None:
        self.artifact = artifact

    @property
    def identities(self) -> dict[str, str]:
        """The identity of every ensemble."""
        return self.artifact.read_json(ENSEMBLES_FILE)

    def open(self, trained_on: str) -> InvariantEnsemble:
        """Load an ensemble, frozen and in eval mode.

        Raises:
            DamagedFileError: If its files changed.
        """
        return open_ensemble(Artifact.open(self.artifact.directory.parent / self.identities[trained_on]))


def training_inputs(images: EnsembleImages, settings: Ensemble, counterfactuals: dict[str, Any]) -> dict[str, Any]:
    """Return what the training data of an ensemble depends on, given what its counterfactuals do."""
    return {
        "real": images.images.fingerprint_of("train"),
        "image_size": settings.reading.image_size,
        "counterfactuals": counterfactuals,
    }


def _build(
    store: Path,
    images: EnsembleImages,
    counterfactuals: dict[str, Any],
    draw_counterfactual: Callable[[], DrawBatch],
    settings: Ensemble,
    seed: int,
    compute: Compute,
    name: str,
    title: str,
) -> tuple[Artifact, InvariantEnsemble]:
    """Train an ensemble on real images and counterfactuals that are cropped and mirrored alike."""
    reading = settings.reading

    def source() -> tuple[DrawBatch, DrawBatch]:
        real = draw_crops_from_split(images.images.split("train"), reading.image_size, seed, "ensemble-real")
        drawn = draw_counterfactual()
        return real, crop_randomly_from(drawn, reading.image_size, seed, "ensemble-counterfactual")

    inputs = training_inputs(images, settings, counterfactuals)
    num_classes = images.tables.num_classes
    recipe = EnsembleRecipe(inputs, source, settings.fit, seed, compute, num_classes, name=name, title=title)
    return build_in(store, recipe)


def train_ensembles(
    store: Path,
    images: EnsembleImages,
    samples: Mapping[str, SampleShards],
    composition: Composition,
    settings: Ensemble,
    seed: int,
    compute: Compute,
) -> EnsemblesArtifact:
    """Train an ensemble for each source of counterfactuals, continue it, or reuse it.

    Args:
        store: Directory of ensembles.
        images: The real images.
        samples: The pools, by source.
        composition: How counterfactuals are composed.
        settings: Sources, budget and optimiser.
        seed: Base seed.
        compute: Device and precision.

    Raises:
        SettingError: As `EnsembleTask` does.
        InterruptedRunError: If a stop was requested; the state is saved.
    """
    identities = {}
    for name in settings.trained_on:
        own = samples[name]
        inputs = {"samples": own.artifact.identity, "composition": composition.identity()}

        def draw(own: SampleShards = own) -> DrawBatch:
            pool = open_pool(store.parent / "mapped", own)
            return pool.draw_labelled_batch(composition, seed, "ensemble-counterfactual")

        title = f"ensemble on counterfactuals of {name}"
        artifact, _ = _build(store, images, inputs, draw, settings, seed, compute, f"ensemble/{name}", title)
        identities[name] = artifact.identity
    pointer = {"kind": "ensembles", "ensembles": identities}
    return EnsemblesArtifact(
        build_artifact(store, pointer, lambda writer: writer.write_json(ENSEMBLES_FILE, identities))
    )


# --- cells of the composition study ---------------------------------------------------------------


def ensemble_cell_inputs(
    images: EnsembleImages, counterfactuals: dict[str, Any], settings: Ensemble, seed: int, compute: Compute
) -> dict[str, Any]:
    """Return everything that the result of `judge_with_ensemble` depends on."""
    return {
        "kind": "ablation cell of an ensemble",
        "training": training_inputs(images, settings, counterfactuals),
        "fit": settings.fit.model_dump(mode="json", exclude={"checkpoint_every_steps", "weights"}),
        "weights": sha256_of_weights(settings.fit.weights),
        "seed": seed,
        "compute": settings.fit.computing(compute).model_dump(),
        "validation": images.images.fingerprint_of(VALIDATION),
        "resize": settings.reading.resize,
        "batch_size": settings.evaluation_batch_size,
    }


def judge_with_ensemble(
    store: Path,
    images: EnsembleImages,
    counterfactuals: dict[str, Any],
    draw_counterfactual: Callable[[], DrawBatch],
    settings: Ensemble,
    seed: int,
    compute: Compute,
    title: str,
) -> list[dict[str, Any]]:
    """Train an ensemble on real images and a cell's counterfactuals, and measure it on the validation folder.

    Args:
        store: Directory of ensembles.
        images: The real images.
        counterfactuals: What the cell's counterfactuals depend on.
        draw_counterfactual: Gives what draws them, with labels [C, 3].
        settings: Budget and reading.
        seed: Seed of the training.
        compute: Device and precision.
        title: Shown in the progress.

    Returns:
        Rows as `measure_accuracy` gives them, of the split `test`: top-1 of all heads together (subset `all`)
        and of the shape head alone (`shape head`).
    """
    _, ensemble = _build(store, images, counterfactuals, draw_counterfactual, settings, seed, compute, title, title)
    batches = batches_in_order(images.images.split(VALIDATION), settings.evaluation_batch_size)
    rows = measure_accuracy_on_folder(ensemble, batches, settings.fit.computing(compute))
    by_prediction = {row["prediction"]: row for row in rows}
    return [
        {
            "split": "test",
            "subset": subset,
            "accuracy": by_prediction[prediction]["top_1"],
            "num_images": by_prediction[prediction]["num_images"],
        }
        for subset, prediction in (("all", "mean"), ("shape head", "shape"))
    ]


# --- measuring -----------------------------------------------------------------------------------


class _CounterfactualBatches:
    """Counterfactuals of a pool in batches, cropped as images of a folder are; may be iterated many times."""

    def __init__(self, pool: CounterfactualPool, composition: Composition, settings: Ensemble, seed: int) -> None:
        self.settings = settings
        self.draw = pool.draw_labelled_batch(composition, seed, "ensemble-measured")

    def __iter__(self) -> Iterator[tuple[Tensor, Tensor]]:
        batch_size, reading = self.settings.evaluation_batch_size, self.settings.reading
        for step, first in enumerate(range(0, self.settings.num_counterfactuals, batch_size)):
            images, labels = self.draw(step, min(batch_size, self.settings.num_counterfactuals - first))
            yield crop_centre(images, reading.image_size, reading.resize), labels


def measure_ensemble(
    store: Path,
    ensemble: InvariantEnsemble,
    identity: str,
    images: EnsembleImages,
    heldout: SampleShards,
    composition: Composition,
    settings: Ensemble,
    seed: int,
    compute: Compute,
) -> pd.DataFrame:
    """Measure an ensemble on everything that is there, or reuse what was measured.

    Args:
        store: Directory of measures.
        ensemble: The classifier.
        identity: Its artifact's.
        images: The real images.
        heldout: The teacher's images of noise that nothing was trained on, composed to counterfactuals.
        composition: How they are composed.
        settings: Size of the images and batches.
        seed: Base seed of the counterfactuals.
        compute: Device and precision.

    Returns:
        A tidy table with the columns `COLUMNS`, `trained_on` left out. `images` is the name of the folder,
        `cue_conflict`, `imagenet9` or `counterfactuals`; `measure` is `top_1`, `top_5`, `shape_bias`,
        `mixed_same`, `mixed_rand`, `original` or `background_gap`, all in [0, 1] (the gap in [-1, 1]).

    Raises:
        InterruptedRunError: If a stop was requested; whole evaluations are kept.
    """
    compute, tables = settings.fit.computing(compute), images.tables
    shared = {
        "kind": "invariance",
        "ensemble": identity,
        "image_size": settings.reading.image_size,
        "resize": settings.reading.resize,
        "batch_size": settings.evaluation_batch_size,
        "compute": compute.model_dump(),
    }

    def batches(name: str, *attributes: str) -> Iterator[tuple[Tensor, Tensor]]:
        split = images.images.split(name)
        if attributes:  # what is measured instead of the class
            labels = [split.attributes[attribute] for attribute in attributes]
            split = replace(split, labels=torch.stack(labels, 1) if len(labels) > 1 else labels[0])
        return batches_in_order(split, settings.evaluation_batch_size)

    def kept(inputs: dict[str, Any], measure: Callable[[], list[Row]]) -> list[Row]:
        return build_json(store, shared | inputs, measure)

    rows: list[Row] = []
    for name in images.accuracy:
        # A folder of some classes is that of a benchmark that knows no others.
        there = images.images.split(name).labels.unique()
        classes = None if len(there) == tables.num_classes else there
        measure = partial(measure_accuracy_on_folder, ensemble, batches(name), compute, classes)
        found = kept({"measure": "accuracy", "images": images.images.fingerprint_of(name)}, measure)
        rows += _tidy(name, found, ("top_1", "top_5"))
    if CUE_CONFLICT in images.images.roles:
        found = kept(
            {
                "measure": "shape bias",
                "images": images.images.fingerprint_of(CUE_CONFLICT),
                "categories": {category: classes.tolist() for category, classes in tables.categories.items()},
            },
            lambda: measure_shape_bias(ensemble, batches(CUE_CONFLICT, "shape", "texture"), tables.categories, compute),
        )
        for row in found:
            row["num_images"] = sum(int(row[f"num_{decided}"] or 0) for decided in ("shape", "texture", "other"))
        rows += _tidy(CUE_CONFLICT, found, ("shape_bias",))
    if images.imagenet9:
        names = images.imagenet9
        found = kept(
            {
                "measure": "background gap",
                "images": {name: images.images.fingerprint_of(f"{IMAGENET9}/{name}") for name in names},
                "in9_of_class": tables.in9_of_class.tolist(),
            },
            lambda: measure_background_gap(
                ensemble,
                batches(f"{IMAGENET9}/mixed_same", "in9"),
                batches(f"{IMAGENET9}/mixed_rand", "in9"),
                tables.in9_of_class,
                compute,
                batches(f"{IMAGENET9}/original", "in9") if "original" in names else None,
            ),
        )
        for row in found:
            row["num_images"] = row["num_mixed_rand"]
        rows += _tidy(IMAGENET9, found, (*names, "background_gap"))
    if settings.num_counterfactuals:
        found = kept(
            {
                "measure": "counterfactual accuracy",
                "samples": heldout.artifact.identity,
                "composition": composition.identity(),
                "num_images": settings.num_counterfactuals,
                "seed": seed,
            },
            lambda: measure_counterfactual_accuracy(
                ensemble,
                _CounterfactualBatches(open_pool(store.parent / "mapped", heldout), composition, settings, seed),
                compute,
            ),
        )
        rows += _tidy(COUNTERFACTUALS, found, ("top_1", "top_5"))
    return pd.DataFrame(rows, columns=COLUMNS[1:]).astype({"value": float})


def _tidy(images: str, found: list[Row], measures: tuple[str, ...]) -> list[Row]:
    """Return a row per prediction and measure."""
    return [
        {
            "images": images,
            "prediction": row["prediction"],
            "measure": measure,
            "value": row[measure],
            "num_images": row["num_images"],
        }
        for row in found
        for measure in measures
    ]


def measure_ensembles(
    store: Path,
    ensembles: EnsemblesArtifact,
    images: EnsembleImages,
    heldout: SampleShards,
    composition: Composition,
    settings: Ensemble,
    seed: int,
    compute: Compute,
) -> pd.DataFrame:
    """Measure every ensemble of a run, see `measure_ensemble`; a tidy table with the columns `COLUMNS`."""
    tables = []
    for source, identity in ensembles.identities.items():
        ensemble = ensembles.open(source)
        table = measure_ensemble(store, ensemble, identity, images, heldout, composition, settings, seed, compute)
        table.insert(0, "trained_on", source)
        tables.append(table)
    return pd.concat(tables, ignore_index=True)


def metrics_of(invariance: pd.DataFrame) -> dict[str, float]:
    """Return what `measure_ensembles` found by name: ensemble/<trained on>/<images>/<prediction>/<measure>."""
    names = "ensemble/" + invariance[["trained_on", "images", "prediction", "measure"]].agg("/".join, axis=1)
    return dict(zip(names, invariance["value"], strict=True))


def invariance_in_a_sentence(invariance: pd.DataFrame) -> str:
    """Say what the ensembles reached, as the papers report it."""
    told = []
    for source, own in invariance.groupby("trained_on", sort=False):
        value = own.set_index(["images", "prediction", "measure"])["value"]
        parts = [f"top-1 {100 * value[VALIDATION, 'mean', 'top_1']:.1f} %"]
        if (CUE_CONFLICT, "shape", "shape_bias") in value.index:
            parts.append(f"shape bias of the shape head {100 * value[CUE_CONFLICT, 'shape', 'shape_bias']:.1f} %")
        if (IMAGENET9, "without_background", "background_gap") in value.index:
            gap = 100 * value[IMAGENET9, "without_background", "background_gap"]
            parts.append(f"background gap {gap:.1f} points")
        told.append(f"trained on the {source}' counterfactuals: {', '.join(parts)}".replace("teacher'", "teacher's"))
    return f"Invariant ensembles, {'; '.join(told)}."
