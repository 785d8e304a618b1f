"""Settings of the `ensemble` stage."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import Field, field_validator, model_validator

from skdcgn_pipeline.parameters.base import Count, Positive, Precision, Settings, Weight
from skdcgn_pipeline.parameters.compute import Compute

CounterfactualSource = Literal["teacher", "students"]


class ImageReading(Settings):
    """How folders of images are read.

    Attributes:
        image_size: Height and width of what a classifier sees.
        resize: The shorter side before the middle is cropped, for measuring; null takes `image_size`.
        skip_unreadable: Leave out files that cannot be read, rather than refuse the folder.
    """

    image_size: Count = 224
    resize: Count | None = 256
    skip_unreadable: bool = False

    @model_validator(mode="after")
    def _crop_fits(self) -> ImageReading:
        if self.resize is not None and self.resize < self.image_size:
            raise ValueError(f"'resize' must be at least 'image_size' ({self.image_size}), got {self.resize}")
        return self


class EnsembleFit(Settings):
    """How the invariant ensemble is trained, with SGD (CGN, arXiv 2101.06046, appendix).

    Attributes:
        architecture: Name of a torchvision classifier.
        weights: File with torchvision's state dict of it; null starts from nothing.
        heads_from_weights: Start every head from the last layer of `weights` too; the published heads are
            learnt anew.
        frozen_norm: What of batch norm stays as it is in `weights`: `statistics`, `all` (scale and shift
            too) or `none`.
        num_images: Real images seen in all; 45 epochs of ImageNet as published.
        batch_size: Real images per step.
        counterfactual_batch_size: Counterfactuals per step.
        counterfactual_weight: Of the mean of the heads' losses; 3 is their sum, as published.
        learning_rate: Of SGD, at the beginning.
        num_decays: How often the learning rate falls to a tenth, at equal distances; 2 as published.
        momentum: Of SGD.
        weight_decay: Of SGD.
        precision: Of this training; null takes `compute.precision`.
        checkpoint_every_steps: A killed training repeats at most this many steps.
    """

    architecture: str = "resnet50"
    weights: str | None = None
    heads_from_weights: bool = False
    frozen_norm: Literal["statistics", "all", "none"] = "statistics"
    num_images: Count
    batch_size: Count = 256
    counterfactual_batch_size: Count = 256
    counterfactual_weight: Weight = 3.0
    learning_rate: Positive = 1e-3
    num_decays: Annotated[int, Field(ge=0)] = 2
    momentum: Annotated[float, Field(ge=0, lt=1)] = 0.9
    weight_decay: Weight = 1e-4
    precision: Precision | None = None
    checkpoint_every_steps: Count = 500

    @model_validator(mode="after")
    def _heads_have_a_source(self) -> EnsembleFit:
        if self.heads_from_weights and self.weights is None:
            raise ValueError("'heads_from_weights' needs 'weights': torchvision's state dict of the architecture")
        return self

    def computing(self, compute: Compute) -> Compute:
        """Return where and how this training runs."""
        return compute if self.precision is None else compute.model_copy(update={"precision": self.precision})

    @property
    def num_steps(self) -> int:
        """Optimiser steps: real images over batch size, at least one."""
        return max(1, self.num_images // self.batch_size)


class Ensemble(Settings):
    """The invariant ensemble of ImageNet: what it learns from and what it is measured on.

    An evaluation whose folder is null is left out; a folder that is named must be there.

    Attributes:
        trained_on: Whose counterfactuals an ensemble is trained on, one ensemble for each.
        train: Folder of real images to learn from, with a folder per class named by its WordNet id.
        validation: The same, to measure on; measured under the name `validation`.
        cue_conflict: Folder of cue-conflict images, for the shape bias.
        imagenet9: Folder with `mixed_same`, `mixed_rand` and perhaps `original`, for the background gap.
        folders: Further folders to measure accuracy on, by name, such as ImageNet-A or -Sketch. Where a folder
            lacks classes, only those that it has may be predicted.
        num_counterfactuals: Counterfactuals that every head is measured on; 0 leaves them out.
        evaluation_batch_size: Images per batch when measuring.
        reading: How folders are read.
        fit: How it is trained.
    """

    trained_on: Annotated[tuple[CounterfactualSource, ...], Field(min_length=1)] = ("students",)
    train: str
    validation: str
    cue_conflict: str | None = None
    imagenet9: str | None = None
    folders: dict[Annotated[str, Field(pattern=r"^[A-Za-z0-9_-]+$")], str] = Field(default={})
    num_counterfactuals: Annotated[int, Field(ge=0)] = 10_000
    evaluation_batch_size: Count = 256
    reading: ImageReading = ImageReading()
    fit: EnsembleFit

    @field_validator("cue_conflict", "imagenet9", mode="before")
    @classmethod
    def _empty_is_none(cls, value: Any) -> Any:
        return None if value == "" else value  # the command line cannot say null

    @model_validator(mode="after")
    def _names_are_free(self) -> Ensemble:
        if len(set(self.trained_on)) < len(self.trained_on):
            raise ValueError(f"'trained_on' names each source once, got {list(self.trained_on)}")
        if taken := {"validation", "cue_conflict", "imagenet9", "counterfactuals"} & self.folders.keys():
            raise ValueError(
                f"'folders' must have other names than the evaluations that are there, got {sorted(taken)}"
            )
        return self
