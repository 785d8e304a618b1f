"""Units of the study `alternatives`: a method's candidates are trained, chosen among on validation images, measured."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import replace
from functools import lru_cache, partial
from typing import TYPE_CHECKING, Any

from torch import Tensor

from skdcgn_pipeline.classifiers.accuracy import measure_splits, predict_split
from skdcgn_pipeline.classifiers.classification import classifier_seed
from skdcgn_pipeline.classifiers.methods.contract import Material, Method
from skdcgn_pipeline.classifiers.methods.erm import ERM
from skdcgn_pipeline.classifiers.methods.registry import METHODS
from skdcgn_pipeline.classifiers.networks import Classifier
from skdcgn_pipeline.classifiers.torchvision_classifier import ALL_HEADS
from skdcgn_pipeline.classifiers.training import (
    ClassifierRecipe,
    ClassifierTask,
    DivergedError,
    Lesson,
    initial_classifier,
)
from skdcgn_pipeline.images.batches import crop_randomly_from
from skdcgn_pipeline.images.image_set import Split
from skdcgn_pipeline.images.recipes import HELD_OUT, BiasedImagesRecipe, image_set_recipe
from skdcgn_pipeline.parameters import ClassifierFit
from skdcgn_pipeline.studies.contract import Unit
from skdcgn_pipeline.vocabulary import MECHANISMS

if TYPE_CHECKING:
    from skdcgn_pipeline.studies.training_data import Workplace

# How a candidate is chosen, and what is added to a subset's name where groups were looked at.
CHOICES = {"classes": "", "groups": ", chosen with groups"}


def worst_and_mean(correct: Tensor, keys: Tensor) -> list[float]:
    """Return the lowest and the mean share of N images that are `correct`, over the values of `keys` [N].

    A choice takes the highest of the first, and the highest of the second among equals.
    """
    shares = [float(correct[keys == key].double().mean()) for key in keys.unique()]
    return [min(shares), sum(shares) / len(shares)]


class MethodUnits:
    """What units that name a method need beside what all need, opened once."""

    def __init__(self, workplace: Workplace) -> None:
        self.workplace, parameters = workplace, workplace.surroundings.parameters
        self.run, self.network = workplace.surroundings.run, parameters.classify.network
        self.ablation = parameters.ablation
        self.fit = self.ablation.fit_of("alternatives")
        recipe = image_set_recipe(
            parameters.images, parameters.prepare, parameters.variant, self.run.assets, self.run.seed
        )
        assert isinstance(recipe, BiasedImagesRecipe)  # see `registry.check_possible`
        self._recipe, self._settings = recipe, recipe.inputs()  # which reads assets: once
        # The images of one share at a time: they take 3 KB each.
        self.originals = lru_cache(1)(partial(self._colour, "train"))
        self.held_out = lru_cache(8)(partial(self._colour, HELD_OUT))
        self.unbiased = lru_cache(1)(partial(self._colour, "randomised"))

    # --- images -----------------------------------------------------------------------------------

    def _colour(self, name: str, share: float) -> Split:
        """Return a split of the training side, of which a share of the images is in conflict with the bias."""
        recipe = replace(self._recipe, bias_share=1 - share)
        shapes = recipe.shapes()["validation" if name == HELD_OUT else "train"]
        return replace(recipe.colour(name, shapes), masks=None)

    def _identity_of(self, name: str, share: float) -> dict[str, Any]:
        settings = {**self._settings["settings"], "bias_share": 1 - share}
        return {**self._settings, "settings": settings, "version": self._recipe.version, "split": name}

    # --- classifiers ------------------------------------------------------------------------------

    def _data_of(self, method: Method, share: float) -> dict[str, Any]:
        """Return what a method's classifiers depend on: of those that see no original, not the share."""
        data: dict[str, Any] = {"method": method.identity()}
        if method.budget(self.fit) != self.fit:
            data["first"] = ERM().identity()
        for name in method.uses:
            if name in self.workplace.samples:
                data[name] = self.workplace.samples[name].artifact.identity
                data["composition"] = self.ablation.composition.identity()
            else:
                data[name] = self._identity_of(name, share if name == "originals" else 0.0)
        return data

    def recipe(
        self, method: Method, share: float, number: int, title: str, fit: ClassifierFit | None = None
    ) -> ClassifierRecipe:
        """Return how a classifier is trained by a method, within a budget; by default the study's."""
        budget, seed = fit or self.fit, classifier_seed(self.run.seed, number)
        return ClassifierRecipe(
            self._data_of(method, share),
            lambda: [self.lesson(method, share, number, budget, seed)],
            method.budget(budget),
            seed,
            self.run.compute,
            self.workplace.num_classes,
            self.network,
            name=f"classifier/{method.name}/seed_{number}",
            title=title,
        )

    def lesson(self, method: Method, share: float, number: int, fit: ClassifierFit, seed: int) -> Lesson:
        """Return what a step of a method learns from."""

        def trained(budget: ClassifierFit) -> Any:
            return self.run.make(self.recipe(ERM(), share, number, f"first of {method.name}", budget))[1]

        def pool(source: str) -> Any:
            return self.workplace.pool(dict.fromkeys(MECHANISMS, self.workplace.samples[source]))

        material = Material(
            originals=partial(self.originals, share),
            unbiased=partial(self.unbiased, 0.0),
            pools={source: partial(pool, source) for source in self.workplace.samples},
            composition=self.ablation.composition,
            untrained=partial(initial_classifier, self.network, self.workplace.num_classes),
            trained=trained,
            fit=fit,
            compute=fit.computing(self.run.compute),
            seed=seed,
            num_classes=self.workplace.num_classes,
        )
        lesson = method.lesson(material)
        if self.network.augments:
            size = self.workplace.images.image_size
            crop = crop_randomly_from(lesson.draw_batch, size, seed, "classifier-crops")
            lesson = replace(lesson, draw_batch=crop)
        return lesson

    def task(self, method: Method, share: float) -> ClassifierTask:
        """Return the training of a method, as it starts."""
        return self.recipe(method, share, 0, method.title).task()

    # --- units ------------------------------------------------------------------------------------

    def _candidates(self, unit: Unit) -> tuple[list[Method], float]:
        data = unit.cell.data
        assert data.conflicting_share is not None
        return METHODS[data.method].candidates(data.hyperparameters), data.conflicting_share

    def inputs_of(self, unit: Unit) -> dict[str, Any]:
        """Return everything that the result of a unit depends on."""
        candidates, share = self._candidates(unit)
        training = {
            "kind": "ablation method",
            "training": [self._data_of(method, share) for method in candidates],
            "held out": self._identity_of(HELD_OUT, share),
        }
        return training | self.workplace.shared_inputs(unit.number, self.fit, [self.workplace.splits["test"]])

    def choose_and_measure(self, unit: Unit) -> dict[str, Any]:
        """Train every candidate, choose one without groups and one with them, and measure these.

        What is chosen on are shapes of the training side that are not trained on, as biased as the training images.
        A candidate whose training diverges has no scores and is not chosen.

        Returns:
            `accuracy`, `confusion` of what was chosen without groups, and what was `chosen`.

        Raises:
            DivergedError: If the training of every candidate diverges.
        """
        candidates, share = self._candidates(unit)
        computing, held_out = self.fit.computing(self.run.compute), self.held_out(share)
        assert held_out.groups is not None
        classifiers: dict[int, Classifier] = {}
        scores: list[Mapping[str, list[float]]] = [{choice: [] for choice in CHOICES} for _ in candidates]
        for number, method in enumerate(candidates):
            try:
                _, classifiers[number] = self.run.make(self.recipe(method, share, unit.number, unit.title))
            except DivergedError:
                if number == len(candidates) - 1 and not classifiers:
                    raise
                continue
            correct = predict_split(classifiers[number], held_out, computing)[ALL_HEADS].argmax(1) == held_out.labels
            keys = {"classes": held_out.labels, "groups": held_out.groups}
            scores[number] = {choice: worst_and_mean(correct, keys[choice]) for choice in CHOICES}
        best = {choice: max(range(len(scores)), key=lambda number: scores[number][choice]) for choice in CHOICES}
        test = self.workplace.classification.splits[self.workplace.splits["test"]]()
        splits = [("validation", held_out), ("test", test)]
        measured = {number: measure_splits(classifiers[number], splits, computing) for number in {*best.values()}}
        accuracy = [
            row | {"subset": row["subset"] + suffix}
            for choice, suffix in CHOICES.items()
            for row in measured[best[choice]][0]
        ]
        tried = [json.dumps(dict(point)) for point in unit.cell.data.hyperparameters]
        told = [{"hyperparameters": point, "scores": score} for point, score in zip(tried, scores, strict=True)]
        chosen = {
            "hyperparameters": tried[best["classes"]],
            "hyperparameters_with_groups": tried[best["groups"]],
            "candidates": json.dumps(told),
        }
        return {"accuracy": accuracy, "confusion": measured[best["classes"]][1], "facts": {}, "chosen": chosen}

    def draw_examples(self, unit: Unit, num_images: int, seed: int) -> Tensor:
        """Return some images [N, 3, H, W] in [-1, 1] that the first candidate learns from."""
        (method, *_), share = self._candidates(unit)
        return self.lesson(method, share, unit.number, self.fit, seed).draw_batch(0, num_images)[0]
