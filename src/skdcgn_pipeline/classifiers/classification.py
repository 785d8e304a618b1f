"""Classifiers on originals and counterfactuals: train them, measure them, count what they confuse."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property, partial
from typing import Any

import pandas as pd
import torch
from torch import Tensor

from skdcgn_pipeline.artifacts.recipe import Run
from skdcgn_pipeline.artifacts.store import Artifact, build_json, is_finished
from skdcgn_pipeline.classifiers.accuracy import (
    ALL_HEADS,
    Row,
    background_gap,
    count_confusions,
    measure_heads,
    measure_predictions,
    predict_split,
    tell_correct,
)
from skdcgn_pipeline.classifiers.adversarial_backgrounds import count_robust, robust_rows
from skdcgn_pipeline.classifiers.invariant_classifier import InvariantClassifier
from skdcgn_pipeline.classifiers.methods.group_dro import worst_class_lesson
from skdcgn_pipeline.classifiers.training import (
    Classifier,
    ClassifierRecipe,
    Lesson,
    class_lesson,
    counterfactual_lesson,
    real_lesson,
)
from skdcgn_pipeline.classifiers.training_sets import TrainingSet, counterfactuals_on_the_fly, stored_counterfactuals
from skdcgn_pipeline.counterfactuals.pools import CounterfactualsRecipe, open_pool
from skdcgn_pipeline.images.batches import (
    crop_randomly_from,
    draw_ahead,
    draw_crops_from_split,
    draw_from_split,
    mix_batches,
)
from skdcgn_pipeline.images.epochs import DrawBatch
from skdcgn_pipeline.images.image_set import Split
from skdcgn_pipeline.images.reading import crop_centre
from skdcgn_pipeline.images.stored import StoredImages
from skdcgn_pipeline.parameters import Classify, Compose, Composition
from skdcgn_pipeline.runtime.compute import choose_device
from skdcgn_pipeline.runtime.engine import run_side_by_side
from skdcgn_pipeline.runtime.seeding import derive_seed
from skdcgn_pipeline.runtime.threads import on_one_thread, once
from skdcgn_pipeline.samples.drawing import SampleShards
from skdcgn_pipeline.vocabulary import STUDENTS

ORIGINALS, COUNTERFACTUALS = "originals", "counterfactuals"
COLUMNS = ["trained_on", "seed", "split", "subset", "accuracy", "num_images", "group", "calibration_error"]
# Of ImageNet-9: objects on backgrounds of their own class, and of any.
BACKGROUND_SPLITS = "imagenet9/mixed_same", "imagenet9/mixed_rand"
CHALLENGE_SPLITS = "imagenet9/original", "imagenet9/only_bg_t"  # objects with masks, and backgrounds to put them on
OBJECTS_PER_BLOCK = 500  # a killed measurement on every background repeats at most these
MEASURED_BATCH = 256


def classifier_seed(seed: int, number: int) -> int:
    """Return the seed of the classifier with this number; the same for every training set, so pairs compare."""
    return derive_seed(seed, "classifier", number)


@dataclass(frozen=True)
class Classification:
    """The classifiers of a run: what they learn beside counterfactuals, and what they are measured on.

    Attributes:
        run: Store, base seed, device.
        images: The originals, and the splits to measure on.
        settings: What classifies, its budget, and how many of each there are.
    """

    run: Run
    images: StoredImages
    settings: Classify

    @cached_property
    def train_split(self) -> Callable[[], Split]:
        """Reads what is learnt from, once."""
        return once(partial(self.images.split, "train"))

    @cached_property
    def splits(self) -> dict[str, Callable[[], Split]]:
        """The splits to measure on: name -> function that reads it once."""
        return {name: once(partial(self.images.split, name)) for name in self.images.reported_splits}

    # --- what is learnt ---------------------------------------------------------------------------

    def originals(self) -> TrainingSet:
        """Return the training images, which may be biased."""
        inputs = {"images": self.images.fingerprint_of("train"), "split": "train"}
        return TrainingSet(ORIGINALS, inputs, self.images.num_classes, self._draw_originals)

    def training_sets(
        self, samples: Mapping[str, SampleShards], compose: Compose, composition: Composition
    ) -> list[TrainingSet]:
        """Return the originals and the counterfactuals of each source of samples, `on_the_fly` or `stored`."""
        sets = [self.originals()]
        for name, pool in samples.items():
            if self.settings.counterfactuals == "stored":
                amount = compose.num_images, compose.rows_per_shard
                shards = self.run.make(CounterfactualsRecipe(pool, composition, *amount, self.run.seed))
                sets.append(stored_counterfactuals(name, shards, pool.num_classes))
            else:
                sets.append(counterfactuals_on_the_fly(name, pool, composition, self.run.store))
        return sets

    @property
    def _augments(self) -> bool:
        return self.settings.network.augments

    def _share_in(self, training_set: TrainingSet) -> float:
        """Return the share of every batch of a training set that are originals."""
        return 0.0 if training_set.name == ORIGINALS else self.settings.share_of_originals

    def _draw_originals(self, seed: int, purpose: str = "classifier-rows") -> DrawBatch:
        split = self.train_split()
        if self._augments:
            return draw_crops_from_split(split, self.images.image_size, seed, purpose)
        return draw_from_split(split, seed, purpose)

    def lessons(self, training_set: TrainingSet, seed: int) -> list[Lesson]:
        """Return what the classifiers of a training set learn from: with a head per mechanism, real images too."""
        fit, by_mechanism = self.settings.fit, self.settings.network.by_mechanism
        drawn = training_set.source(seed)
        is_counterfactual = training_set.name != ORIGINALS
        if self._augments and is_counterfactual:  # whatever is augmented alike differs by its content alone
            drawn = crop_randomly_from(drawn, self.images.image_size, seed, "classifier-counterfactual")
        if share := self._share_in(training_set):
            drawn = mix_batches(drawn, self._draw_originals(seed, "mixed-originals"), share)
        if self._augments:
            drawn = draw_ahead(drawn, fit.num_steps)
        if step_size := self.settings.worst_class_step:
            return [worst_class_lesson(drawn, fit.batch_size, training_set.num_classes, step_size)]
        if not by_mechanism:
            return [class_lesson(drawn, fit)]
        if not is_counterfactual:
            return [real_lesson(drawn, fit)]
        real = draw_ahead(self._draw_originals(seed), fit.num_steps)
        return [real_lesson(real, fit), counterfactual_lesson(drawn, fit)]

    def recipe(self, training_set: TrainingSet, number: int, title: str = "") -> ClassifierRecipe:
        """Return how the classifier with this number of a training set is made."""
        settings, seed = self.settings, classifier_seed(self.run.seed, number)
        inputs = training_set.inputs
        if settings.network.by_mechanism:
            inputs = {"counterfactuals": inputs, "real": self.images.fingerprint_of("train")}
        if share := self._share_in(training_set):
            inputs = inputs | {"originals": {"share": share, "images": self.images.fingerprint_of("train")}}
        if self.settings.worst_class_step:
            inputs = inputs | {"worst_class_step": self.settings.worst_class_step}
        if self._augments:
            inputs = inputs | {"image_size": self.images.image_size}
        return ClassifierRecipe(
            inputs,
            partial(self.lessons, training_set, seed),
            settings.fit,
            seed,
            self.run.compute,
            training_set.num_classes,
            settings.network,
            name=f"classifier/{training_set.name}/seed_{number}",
            title=title or f"classifier on {training_set.name}, seed {number}",
        )

    def train(self, training_set: TrainingSet, number: int, title: str = "") -> tuple[Artifact, Classifier]:
        """Return the classifier with this number of a training set, trained now or before.

        Raises:
            SettingError: If weights cannot be used, or the training diverges.
            InterruptedRunError: If a stop was requested; the state is saved.
        """
        recipe = self.recipe(training_set, number, title)
        with on_one_thread(choose_device(self.run.compute.device)):
            return self.run.make(recipe)

    # --- what is measured -------------------------------------------------------------------------

    def compare(
        self, sets: Sequence[TrainingSet], heldout: SampleShards | None = None, composition: Composition | None = None
    ) -> pd.DataFrame:
        """Train classifiers of each training set, side by side, and measure them on unbiased splits.

        Finished classifiers and measures are reused; a killed training continues. An engine that works elsewhere trains
        and measures those that are not there, each a unit.

        Args:
            sets: What to train on.
            heldout: Samples of noise that nothing was trained on; with a head per mechanism, each is measured on
                counterfactuals of these.
            composition: How they are composed.

        Returns:
            Rows with `trained_on`, `seed`, `split`, and what `measure_predictions` gives, in the order of the training
            sets and their seeds.

        Raises:
            UnitFailedError: Naming the classifiers that could not be trained elsewhere; else like `train`.
        """
        classifiers = [(each, number) for each in sets for number in range(self.settings.num_seeds)]
        if self.run.engine.elsewhere:
            missing = [each for each in classifiers if not is_finished(self.run.store.path(self.recipe(*each)))]
            units = {f"{each.name}, seed {number}": (each.name, number) for each, number in missing}
            open_work = partial(_open_measuring, self, sets, heldout, composition)
            self.run.work_side_by_side(open_work, units, "classifiers", "classifiers")
        calls = [partial(self.train_and_measure, *each, heldout, composition) for each in classifiers]
        rows = run_side_by_side(calls, choose_device(self.run.compute.device))
        return pd.DataFrame([row for of_classifier in rows for row in of_classifier], columns=COLUMNS)

    def train_and_measure(
        self, training_set: TrainingSet, number: int, heldout: SampleShards | None, composition: Composition | None
    ) -> list[Row]:
        """Return the rows of `compare` of one classifier, trained now or before; on one thread of a CPU."""
        with on_one_thread(choose_device(self.run.compute.device)):
            artifact, classifier = self.train(training_set, number)
            rows = self.measure(artifact, classifier)
            if heldout is not None and composition is not None:
                rows += self._measure_on_counterfactuals(artifact, classifier, heldout, composition)
            return [{"trained_on": training_set.name, "seed": number} | row for row in rows]

    def kept(self, kind: str, artifact: Artifact, inputs: Mapping[str, Any], measure: Callable[[], Any]) -> Any:
        """Return what was measured of a classifier, now or before."""
        inputs = {"kind": kind, "version": 5, "classifier": artifact.identity, **inputs}
        return build_json(self.run.store.folder(kind), inputs, measure)

    def measure(self, artifact: Artifact, classifier: Classifier) -> list[Row]:
        """Return what there is to say of a classifier, by `split` and `subset`."""
        rows: list[Row] = [row for name in self.splits for row in self.measured(artifact, classifier, name)["rows"]]
        if {*BACKGROUND_SPLITS} <= {*self.splits}:
            rows += background_gap(rows, *BACKGROUND_SPLITS)
        if {*CHALLENGE_SPLITS} <= {*self.splits}:
            rows += self._measured_on_every_background(artifact, classifier)
        return rows

    def _measured_on_every_background(self, artifact: Artifact, classifier: Classifier) -> list[Row]:
        """Return how many of ImageNet-9's objects are recognised on all of its backgrounds."""
        images, compute = self.images, self.settings.fit.computing(self.run.compute)
        objects, backgrounds = (self.splits[name] for name in CHALLENGE_SPLITS)
        scenes, counts = once(lambda: backgrounds().images), []
        for rows in torch.arange(len(objects())).split(OBJECTS_PER_BLOCK):
            count = partial(count_robust, classifier, objects()[rows], scenes, images.class_groups, compute)
            inputs = {"objects": [int(rows[0]), int(rows[-1])], "images": images.artifact.identity}
            counts.append(self.kept("every_background", artifact, inputs, count))
        return [{"split": CHALLENGE_SPLITS[0].partition("/")[0]} | row for row in robust_rows(counts, len(objects()))]

    def measured(self, artifact: Artifact, classifier: Classifier, split: str) -> dict[str, Any]:
        """Return the rows of `measure` of a split, which images are recognised, and of some splits confusions."""
        images, compute = self.images, self.settings.fit.computing(self.run.compute)

        def measure() -> dict[str, Any]:
            shown = self.splits[split]()
            predictions = predict_split(classifier, shown, compute)
            rows = measure_predictions(predictions, shown, images.class_names, images.class_groups)
            counts = count_confusions(predictions, shown) if split in self.confused_splits else None
            correct = tell_correct(predictions[ALL_HEADS], shown, images.class_groups)
            told = "".join(map(str, correct.int().tolist()))
            return {"rows": [{"split": split} | row for row in rows], "confusion": counts, "correct": told}

        return self.kept("accuracy", artifact, {"split": split, "images": images.artifact.identity}, measure)

    @property
    def confused_splits(self) -> list[str]:
        """The splits of which confusions are counted: for tests, or where there are none for validation."""
        return self.images.splits("test") or self.images.splits("validation")

    def _measure_on_counterfactuals(
        self, artifact: Artifact, classifier: Classifier, heldout: SampleShards, composition: Composition
    ) -> list[Row]:
        number = self.settings.num_counterfactuals
        if not (self.settings.network.by_mechanism and number):
            return []
        compute = self.settings.fit.computing(self.run.compute)
        inputs, batches = self.composed(heldout, composition, number, "classifier-measured")
        inputs = {"split": COUNTERFACTUALS} | inputs
        rows = self.kept("accuracy", artifact, inputs, lambda: measure_heads(classifier, batches(), compute))
        return [{"split": COUNTERFACTUALS} | row for row in rows]

    def composed(
        self, samples: SampleShards, composition: Composition, number: int, purpose: str
    ) -> tuple[dict[str, Any], Callable[[], Iterator[tuple[Tensor, Tensor]]]]:
        """Return what counterfactuals to measure on depend on, and a function that composes batches of them."""
        size, seed = self.images.image_size, self.run.seed

        def batches() -> Iterator[tuple[Tensor, Tensor]]:
            pool = open_pool(self.run.store, samples)
            draw = pool.draw_labelled_batch(composition, seed, purpose)
            for step, first in enumerate(range(0, number, MEASURED_BATCH)):
                images, labels = draw(step, min(MEASURED_BATCH, number - first))
                yield crop_centre(images, size, None), labels

        inputs = {
            "samples": samples.artifact.identity,
            "composition": composition.identity(),
            "num_images": number,
            "image_size": size,
            "seed": seed,
        }
        return inputs, batches

    def take(
        self, trained_on: str, samples: SampleShards, compose: Compose, composition: Composition, number: int
    ) -> tuple[Artifact, InvariantClassifier, list[Row]]:
        """Return a classifier to take away, where it is stored, and its accuracy by split and subset.

        It is that with a number of those that `compare` trained on `originals` or `students`, or a new one.
        """
        sets = self.training_sets({STUDENTS: samples}, compose, composition)
        (training_set,) = [each for each in sets if each.name == trained_on]
        artifact, classifier = self.labelled(training_set, number)
        return artifact, classifier, self.measure(artifact, classifier.network)

    def labelled(self, training_set: TrainingSet, number: int) -> tuple[Artifact, InvariantClassifier]:
        """Return the classifier with this number of a training set, with its labels; raises like `train`."""
        artifact, network = self.train(training_set, number)
        return artifact, InvariantClassifier.of(network, self.images.class_names, self.images.image_size)


def _open_measuring(
    classification: Classification,
    sets: Sequence[TrainingSet],
    heldout: SampleShards | None,
    composition: Composition | None,
) -> Callable[[tuple[str, int]], list[Row]]:
    """Return what trains and measures a classifier, by the name of what it is trained on and its number."""
    by_name = {each.name: each for each in sets}

    def work(classifier: tuple[str, int]) -> list[Row]:
        name, number = classifier
        return classification.train_and_measure(by_name[name], number, heldout, composition)

    return work
