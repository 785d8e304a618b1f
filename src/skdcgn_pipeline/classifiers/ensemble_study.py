"""Train invariant ensembles on real images and counterfactuals, and measure how invariant they are."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import pandas as pd
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
from skdcgn_pipeline.images.batches import crop_randomly_from
from skdcgn_pipeline.images.epochs import DrawBatch
from skdcgn_pipeline.images.folders import (
    FolderBatches,
    ImageList,
    check_images,
    check_wordnet_names,
    class_folders,
    crop_centre_of,
    draw_from_folder,
    list_cue_conflict_images,
    list_in9_images,
    list_wordnet_images,
)
from skdcgn_pipeline.images.imagenet import ImageNetTables, read_tables
from skdcgn_pipeline.parameters import Composition, Compute, Ensemble
from skdcgn_pipeline.runtime.errors import SettingError
from skdcgn_pipeline.samples.drawing import SampleShards

VALIDATION, CUE_CONFLICT, IMAGENET9, COUNTERFACTUALS = "validation", "cue_conflict", "imagenet9", "counterfactuals"
# Of ImageNet-9, the unchanged images need not be there.
IMAGENET9_FOLDERS = {"mixed_same": True, "mixed_rand": True, "original": False}
COLUMNS = ["trained_on", "images", "prediction", "measure", "value", "num_images"]
ENSEMBLES_FILE = "ensembles.json"


# --- folders -------------------------------------------------------------------------------------


@dataclass(frozen=True)
class EnsembleImages:
    """The real images of a run, checked.

    Attributes:
        tables: How the classes are named and grouped.
        train: What ensembles learn from.
        accuracy: By name, what accuracy is measured on; `validation` first.
        cue_conflict: For the shape bias, where it is wanted.
        imagenet9: `mixed_same`, `mixed_rand` and perhaps `original`; empty where it is not wanted.
    """

    tables: ImageNetTables
    train: ImageList
    accuracy: Mapping[str, ImageList]
    cue_conflict: ImageList | None
    imagenet9: Mapping[str, ImageList]

    @property
    def lists(self) -> dict[str, ImageList]:
        """All lists of images by name."""
        cue_conflict = {} if self.cue_conflict is None else {CUE_CONFLICT: self.cue_conflict}
        imagenet9 = {f"{IMAGENET9}/{name}": images for name, images in self.imagenet9.items()}
        return {"train": self.train, **self.accuracy, **cue_conflict, **imagenet9}

    def describe(self) -> pd.DataFrame:
        """Return a row per folder: `images`, `num_images`, `num_classes`, `num_left_out`, `folder`, `fingerprint`."""
        rows = [
            {
                "images": name,
                "num_images": len(images),
                "num_classes": len(images.classes if images.labels.ndim == 1 else images.labels.unique(dim=0)),
                "num_left_out": len(images.skipped),
                "folder": str(images.root),
                "fingerprint": images.fingerprint,
            }
            for name, images in self.lists.items()
        ]
        return pd.DataFrame(rows)


def _imagenet9_folders(root: str) -> dict[str, Path]:
    """Return the folders of ImageNet-9 that must be there, and those that are."""
    folders = {name: Path(root) / name for name in IMAGENET9_FOLDERS}
    return {name: path for name, path in folders.items() if IMAGENET9_FOLDERS[name] or path.is_dir()}


def check_folders(settings: Ensemble, assets: str, seed: int) -> ImageNetTables:
    """Refuse absent tables, folders and weights before any work; no image is looked at.

    Returns:
        The index tables.

    Raises:
        SettingError: Naming the setting, and what is missing or of another kind.
    """
    tables = read_tables(assets)
    for setting, folder in (("train", settings.train), ("validation", settings.validation)):
        check_wordnet_names(folder, tables.wnids, f"ensemble.{setting}")
    for name, folder in settings.folders.items():
        check_wordnet_names(folder, tables.wnids, f"ensemble.folders.{name}")
    if settings.cue_conflict is not None:
        class_folders(Path(settings.cue_conflict), "ensemble.cue_conflict")
    if settings.imagenet9 is not None:
        for name, path in _imagenet9_folders(settings.imagenet9).items():
            class_folders(path, f"ensemble.imagenet9 ({name})")
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
        store: Where faults are kept.
        settings: Names the folders.
        assets: The asset folder, which has the index tables.

    Raises:
        SettingError: If a folder is absent, has other classes, or has images that cannot be used.
        InterruptedRunError: If a stop was requested.
    """
    tables, reading = read_tables(assets), settings.reading

    def checked(images: ImageList, setting: str) -> ImageList:
        return check_images(
            images,
            reading.skip_unreadable,
            reading.non_rgb,
            reading.image_size if reading.resize is None else None,
            reading.num_threads,
            store,
            setting,
        )

    def of_classes(folder: str, setting: str, complete: bool = False) -> ImageList:
        return checked(list_wordnet_images(folder, tables.wnids, setting, complete), setting)

    accuracy = {VALIDATION: of_classes(settings.validation, "ensemble.validation")}
    accuracy |= {name: of_classes(folder, f"ensemble.folders.{name}") for name, folder in settings.folders.items()}
    cue_conflict = None
    if settings.cue_conflict is not None:
        setting = "ensemble.cue_conflict"
        cue_conflict = checked(list_cue_conflict_images(settings.cue_conflict, tables.categories, setting), setting)
    imagenet9 = {}
    if settings.imagenet9 is not None:
        for name, path in _imagenet9_folders(settings.imagenet9).items():
            setting = f"ensemble.imagenet9 ({name})"
            imagenet9[name] = checked(list_in9_images(path, tables.in9_names, setting), setting)
    train = of_classes(settings.train, "ensemble.train", complete=True)
    return EnsembleImages(tables, train, accuracy, cue_conflict, imagenet9)


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
        "real": images.train.fingerprint,
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
        real = draw_from_folder(images.train, reading.image_size, seed, "ensemble-real", reading.num_threads)
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
        "validation": images.accuracy[VALIDATION].fingerprint,
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
    batches = _batches_of(images.accuracy[VALIDATION], settings)
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
            yield crop_centre_of(images, reading.image_size, reading.resize), labels


def _batches_of(images: ImageList, settings: Ensemble) -> FolderBatches:
    reading = settings.reading
    sizes = reading.image_size, reading.resize, settings.evaluation_batch_size, reading.num_threads
    return FolderBatches(images, *sizes)


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

    def batches(own: ImageList) -> FolderBatches:
        return _batches_of(own, settings)

    def kept(inputs: dict[str, Any], measure: Callable[[], list[Row]]) -> list[Row]:
        return build_json(store, shared | inputs, measure)

    rows: list[Row] = []
    for name, own in images.accuracy.items():
        # A folder of some classes is that of a benchmark that knows no others.
        classes = None if len(own.classes) == tables.num_classes else own.classes
        measure = partial(measure_accuracy_on_folder, ensemble, batches(own), compute, classes)
        found = kept({"measure": "accuracy", "images": own.fingerprint}, measure)
        rows += _tidy(name, found, ("top_1", "top_5"))
    if images.cue_conflict is not None:
        own, categories = images.cue_conflict, tables.categories
        found = kept(
            {
                "measure": "shape bias",
                "images": own.fingerprint,
                "categories": {category: classes.tolist() for category, classes in categories.items()},
            },
            lambda: measure_shape_bias(ensemble, batches(own), categories, compute),
        )
        for row in found:
            row["num_images"] = sum(int(row[f"num_{decided}"] or 0) for decided in ("shape", "texture", "other"))
        rows += _tidy(CUE_CONFLICT, found, ("shape_bias",))
    if images.imagenet9:
        folders = images.imagenet9
        found = kept(
            {
                "measure": "background gap",
                "images": {name: own.fingerprint for name, own in folders.items()},
                "in9_of_class": tables.in9_of_class.tolist(),
            },
            lambda: measure_background_gap(
                ensemble,
                batches(folders["mixed_same"]),
                batches(folders["mixed_rand"]),
                tables.in9_of_class,
                compute,
                batches(folders["original"]) if "original" in folders else None,
            ),
        )
        for row in found:
            row["num_images"] = row["num_mixed_rand"]
        rows += _tidy(IMAGENET9, found, (*folders, "background_gap"))
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
