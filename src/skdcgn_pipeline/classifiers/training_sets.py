"""What classifiers are trained on: a name, what the images depend on, and how their batches are drawn."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Any

from torch import Tensor

from skdcgn_pipeline.artifacts.recipe import Store
from skdcgn_pipeline.counterfactuals.composing import CounterfactualPool
from skdcgn_pipeline.counterfactuals.pools import CounterfactualShards, open_pool
from skdcgn_pipeline.images.batches import draw_from_images
from skdcgn_pipeline.images.epochs import DrawBatch
from skdcgn_pipeline.parameters import Composition
from skdcgn_pipeline.runtime.threads import once
from skdcgn_pipeline.samples.drawing import SampleShards


@dataclass(frozen=True)
class TrainingSet:
    """Images that classifiers can be trained on.

    Attributes:
        name: What the tables call it.
        inputs: What the images depend on, seeds aside.
        num_classes: Number of classes.
        source: Seed -> function that draws batches, with labels [B], or [B, 3] of shape, texture and background. It is
            pickled for workers, so it opens what it draws from.
    """

    name: str
    inputs: dict[str, Any]
    num_classes: int
    source: Callable[[int], DrawBatch]


def counterfactuals_on_the_fly(name: str, samples: SampleShards, composition: Composition, store: Store) -> TrainingSet:
    """Return fresh counterfactuals, composed while training from the samples, which are opened once."""
    inputs = {"samples": samples.artifact.identity, "composition": composition.identity()}
    pool = once(partial(open_pool, store, samples))
    return TrainingSet(name, inputs, samples.num_classes, partial(_draw_from_pool, pool, composition))


def _draw_from_pool(pool: Callable[[], CounterfactualPool], composition: Composition, seed: int) -> DrawBatch:
    return pool().draw_labelled_batch(composition, seed, "classifier-counterfactuals")


def stored_counterfactuals(name: str, shards: CounterfactualShards, num_classes: int) -> TrainingSet:
    """Return stored counterfactuals."""
    inputs, images = {"counterfactuals": shards.artifact.identity}, once(shards.read_labelled)
    return TrainingSet(name, inputs, num_classes, partial(_draw_stored, images))


def _draw_stored(images: Callable[[], tuple[Tensor, Tensor]], seed: int) -> DrawBatch:
    return draw_from_images(*images(), seed, "classifier-rows")
