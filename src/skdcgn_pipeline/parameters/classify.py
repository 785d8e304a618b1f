"""Settings of the `classify` stage."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field

from skdcgn_pipeline.parameters.base import Count, Positive, Precision, Settings, Weight
from skdcgn_pipeline.parameters.compute import Compute

TrainingSetName = Literal["originals", "teacher", "students"]


class ClassifierFit(Settings):
    """How a digit classifier is trained, with one-cycle learning rates.

    Attributes:
        num_images: Training images seen in all.
        batch_size: Images per step.
        optimiser: `adamw`, or `muon` for filters and matrices and AdamW for the rest, which gets as far
            with a fraction of the images.
        learning_rate: Peak of AdamW's schedule.
        matrix_learning_rate: Peak of Muon's.
        weight_decay: Of AdamW.
        label_smoothing: Of the cross-entropy.
        precision: Of this training; null takes `compute.precision`.
        checkpoint_every_steps: A killed training repeats at most this many steps.
    """

    num_images: Count
    batch_size: Count = 128
    optimiser: Literal["adamw", "muon"] = "adamw"
    learning_rate: Positive = 3e-3
    matrix_learning_rate: Positive = 4e-2
    weight_decay: Weight = 1e-2
    label_smoothing: Annotated[float, Field(ge=0, lt=1)] = 0.0
    precision: Precision | None = None
    checkpoint_every_steps: Count = 200

    def computing(self, compute: Compute) -> Compute:
        """Return where and how this training runs."""
        return compute if self.precision is None else compute.model_copy(update={"precision": self.precision})

    @property
    def num_steps(self) -> int:
        """Optimiser steps: images over batch size, at least one."""
        return max(1, self.num_images // self.batch_size)


class Classify(Settings):
    """Training and measuring of the invariant classifiers.

    Attributes:
        trained_on: The training sets that are compared.
        num_seeds: Classifiers per training set.
        counterfactuals: `on_the_fly` composes fresh ones while training; `stored` uses the dataset.
        fit: How each is trained.
    """

    trained_on: Annotated[tuple[TrainingSetName, ...], Field(min_length=1)] = ("originals", "teacher", "students")
    num_seeds: Annotated[int, Field(ge=2)] = 3
    counterfactuals: Literal["on_the_fly", "stored"] = "on_the_fly"
    fit: ClassifierFit

    @property
    def num_classifiers(self) -> int:
        """Classifiers of a run: one per training set and seed."""
        return len(self.trained_on) * self.num_seeds
