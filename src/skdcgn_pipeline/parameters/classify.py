"""Settings of the `classify` stage."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, ClassVar, Literal

from pydantic import Field, model_validator

from skdcgn_pipeline.parameters.base import Count, Decay, Location, Positive, Precision, Settings, Weight
from skdcgn_pipeline.parameters.compute import Compute
from skdcgn_pipeline.runtime.extensions import is_extension

TrainingSetName = Literal["originals", "cutouts", "teacher", "students"]
CorruptionName = Literal["noise", "blur", "contrast", "shift"]
DIGIT_NETWORK, SMALL_NETWORK = "digit_cnn", "small_cnn"
# Networks of the project's own: they start from nothing, have one head and see each image as it is.
OWN_NETWORKS = (DIGIT_NETWORK, SMALL_NETWORK)
TIMM = "timm:"


class ClassifierNetwork(Settings):
    """What classifies.

    Attributes:
        architecture: `digit_cnn`, the small network of CGN's digits; `small_cnn`, one for images of 32 to 96 pixels;
            the name of a torchvision classifier; `timm:` and a name of timm's (extra `timm`); or `module:function`,
            code of yours: number of classes -> a network of images [N, 3, H, W] in [-1, 1] that gives logits.
        heads: `class`, one head; or `mechanisms`, of torchvision's and timm's, one for each of shape, texture and
            background (CGN, arXiv 2101.06046, section 4.2): real images train their mean, counterfactuals each for
            itself.
        weights: File with the library's state dict of the architecture; null starts from nothing.
        heads_from_weights: Start every head from the last layer of `weights` too; the published heads are
            learnt anew.
        frozen_norm: What of batch norm stays as it is in torchvision's and timm's: `statistics`, `all` (scale and
            shift too) or `none`; null freezes the statistics of given `weights`.
    """

    EXTENSIONS: ClassVar[Mapping[str, tuple[str, ...]]] = {"architecture": ("num_classes",)}

    architecture: Location = DIGIT_NETWORK
    heads: Literal["class", "mechanisms"] = "class"
    weights: Location | None = None
    heads_from_weights: bool = False
    frozen_norm: Literal["statistics", "all", "none"] | None = None

    @model_validator(mode="after")
    def _fits_together(self) -> ClassifierNetwork:
        if self.heads_from_weights and self.weights is None:
            raise ValueError("'heads_from_weights' needs 'weights': torchvision's state dict of the architecture")
        if not self.augments and (self.heads != "class" or self.weights is not None):
            name = self.architecture
            raise ValueError(f"'{name}' starts from nothing and has one head; name a torchvision classifier")
        return self

    @property
    def frozen(self) -> str:
        """What of batch norm a training leaves alone: `statistics`, `all` or `none`."""
        return self.frozen_norm or ("none" if self.weights is None else "statistics")

    @property
    def augments(self) -> bool:
        """Whether training images are cropped at random and mirrored, real ones and counterfactuals alike."""
        return self.architecture not in OWN_NETWORKS and not is_extension(self.architecture)

    @property
    def by_mechanism(self) -> bool:
        """Whether there is a head for each mechanism."""
        return self.heads == "mechanisms"


class ClassifierFit(Settings):
    """How a classifier is trained.

    Attributes:
        num_images: Training images seen in all; where there is a head per mechanism, real ones.
        batch_size: Of these, images per step.
        optimiser: `adamw` with one-cycle learning rates; `muon` for filters and matrices and AdamW for the rest,
            which gets as far with a fraction of the images; or `sgd` as in CGN's appendix.
        learning_rate: Peak of AdamW's schedule; of SGD, at the beginning.
        matrix_learning_rate: Peak of Muon's.
        momentum: Of SGD.
        num_decays: How often SGD's learning rate falls to a tenth, at equal distances; 2 as published.
        weight_decay: Of AdamW or SGD.
        label_smoothing: Of the cross-entropy of classifiers with one head.
        counterfactual_batch_size: Counterfactuals per step that train the heads of mechanisms.
        counterfactual_weight: Of the mean of these heads' losses; 3 is their sum, as published.
        precision: Of this training; null takes `compute.precision`.
        checkpoint_every_steps: A killed training repeats at most this many steps.
    """

    num_images: Count
    batch_size: Count = 128
    optimiser: Literal["adamw", "muon", "sgd"] = "adamw"
    learning_rate: Positive = 3e-3
    matrix_learning_rate: Positive = 4e-2
    momentum: Decay = 0.9
    num_decays: Annotated[int, Field(ge=0)] = 2
    weight_decay: Weight = 1e-2
    label_smoothing: Annotated[float, Field(ge=0, lt=1)] = 0.0
    counterfactual_batch_size: Count = 256
    counterfactual_weight: Weight = 3.0
    precision: Precision | None = None
    checkpoint_every_steps: Count = 200

    def computing(self, compute: Compute) -> Compute:
        """Return where and how this training runs."""
        return compute if self.precision is None else compute.model_copy(update={"precision": self.precision})

    def identity(self) -> dict[str, object]:
        """Return what of the settings a trained classifier depends on; its precision is told beside."""
        return self.model_dump(exclude={"checkpoint_every_steps", "precision"})

    @property
    def num_steps(self) -> int:
        """Optimiser steps: images over batch size, at least one."""
        return max(1, self.num_images // self.batch_size)


class Classify(Settings):
    """Training and measuring of the invariant classifiers.

    Attributes:
        trained_on: The training sets that are compared, each once; `cutouts` are counterfactuals of the training images
            themselves, which need masks, see `teacher.cutouts`. With a head per mechanism, counterfactuals are
            learnt beside real images, and `originals` are real images alone.
        share_of_originals: Of every batch of counterfactuals, the share that are real images; heads of mechanisms learn
            real images anyway.
        worst_class_step: Where it is not 0, classes whose loss is high weigh more, of every training set: the step size
            of GroupDRO with classes as groups (arXiv 1911.08731, algorithm 1). 0.1 lifts the worst class at the cost
            of some accuracy, 1 forgets all others. Label smoothing is left out.
        num_seeds: Classifiers per training set; one has no interval.
        counterfactuals: `on_the_fly` composes fresh ones while training; `stored` uses the dataset.
        num_counterfactuals: Counterfactuals of held-out samples that the heads of mechanisms are measured on; 2,000
            at most tell what the answers of all classifiers follow; 0 leaves them out.
        corruptions: On which corruptions of test images, at five strengths each, classifiers are measured, each once:
            `noise`, `blur`, `contrast` (arXiv 1903.12261), `shift` (arXiv 1906.02337).
        network: What classifies.
        fit: How each is trained.
    """

    trained_on: Annotated[tuple[TrainingSetName, ...], Field(min_length=1)] = ("originals", "teacher", "students")
    share_of_originals: Annotated[float, Field(ge=0, lt=1)] = 0.0
    worst_class_step: Weight = 0.0
    num_seeds: Count = 3
    counterfactuals: Literal["on_the_fly", "stored"] = "on_the_fly"
    num_counterfactuals: Annotated[int, Field(ge=0)] = 10_000
    corruptions: tuple[CorruptionName, ...] = ()
    network: ClassifierNetwork = ClassifierNetwork()
    fit: ClassifierFit

    @model_validator(mode="after")
    def _fits_together(self) -> Classify:
        if len(set(self.trained_on)) < len(self.trained_on):
            raise ValueError(f"'trained_on' names each training set once, got {list(self.trained_on)}")
        if len(set(self.corruptions)) < len(self.corruptions):
            raise ValueError(f"'corruptions' names each corruption once, got {list(self.corruptions)}")
        if self.share_of_originals and self.network.by_mechanism:
            raise ValueError("'share_of_originals' is for one head; heads of mechanisms learn real images anyway")
        if self.worst_class_step and self.network.by_mechanism:
            raise ValueError("'worst_class_step' is for one head")
        return self

    @property
    def num_classifiers(self) -> int:
        """Classifiers of a run: one per training set and seed."""
        return len(self.trained_on) * self.num_seeds
