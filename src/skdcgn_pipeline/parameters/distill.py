"""Settings of the `distill` stage."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Any, ClassVar, Literal

from pydantic import AfterValidator, Field, model_validator

from skdcgn_pipeline.parameters.base import Count, Decay, Positive, Settings, Weight
from skdcgn_pipeline.runtime.extensions import check_extension


class Student(Settings):
    """Architecture of one student generator.

    Attributes:
        architecture: `compact` (plain convolutions at 4 to 16 pixels, sub-pixel output), `basis` (learnt
            spatial patterns, then one convolution and a sub-pixel output) or `tinygan` (residual blocks with
            depthwise convolutions, arXiv 2009.13829).
        width: Channels: three numbers for `compact`, at 1/8, 1/4 and 1/2 of the image size; for `basis`,
            channels at 1/4 size, number of patterns, channels at 1/2 size; `c` of the paper for `tinygan`.
        embedding_dim: Length of the learnt class embedding.
        bottleneck: Of `compact` and `basis`: length of a learnt code of noise and class that the first layer sees
            instead of these, which leaves parameters for what follows; null leaves it out.
    """

    ADDED_LATER = frozenset({"bottleneck"})

    architecture: Literal["compact", "basis", "tinygan"] = "compact"
    width: Count | tuple[Count, ...] = (12, 24, 16)
    embedding_dim: Count = 8
    bottleneck: Count | None = None

    @model_validator(mode="after")
    def _width_fits(self) -> Student:
        count = 1 if isinstance(self.width, int) else len(self.width)
        wanted, fits = "three numbers, such as [12, 24, 16],", count == 3
        if self.architecture == "tinygan":
            wanted, fits = "one number", isinstance(self.width, int)
        if not fits:
            raise ValueError(f"'width' must be {wanted} for the '{self.architecture}' architecture, got {self.width}")
        if self.architecture == "tinygan" and self.bottleneck is not None:
            raise ValueError(f"'bottleneck' is for 'compact' and 'basis', got {self.bottleneck} with 'tinygan'")
        return self

    def arguments(self) -> dict[str, Any]:
        """Return what `make_student` takes."""
        return self.model_dump(exclude_none=True)


LossTerm = Literal["pixel", "feature", "kl", "adversarial", "binary_cross_entropy"]


class LossWeights(Settings):
    """Weight of each term of the student's loss; 0 switches a term off.

    Attributes:
        pixel: Mean absolute difference of student and teacher image.
        feature: The same of the discriminator's features, layer by layer.
        kl: Divergence of the discriminator's class scores of the student's image from the teacher's.
        adversarial: Hinge loss against the discriminator.
        binary_cross_entropy: Of masks only, each pixel of the teacher's as a probability.
        perceptual: Difference in the layers of torchvision's VGG16, whose weights must be in the asset folder.
        further: Weights by `module:function`, code of yours: (student's images, teacher's images) -> one number.
    """

    ADDED_LATER = frozenset({"perceptual", "further"})
    EXTENSIONS: ClassVar[Mapping[str, tuple[str, ...]]] = {"further": ("student_images", "teacher_images")}

    pixel: Weight = 1.0
    feature: Weight = 0.0
    kl: Weight = 0.0
    adversarial: Weight = 0.0
    binary_cross_entropy: Weight = 0.0
    perceptual: Weight = 0.0
    further: dict[Annotated[str, AfterValidator(check_extension)], Weight] = Field(default={})

    def by_term(self) -> dict[str, float]:
        """Return the weight of every term."""
        return self.model_dump(exclude={"further"}) | self.further


class Distill(Settings):
    """Distillation of one mechanism (SKDCGN, arXiv 2208.04226, section 3.2).

    Attributes:
        student: Architecture.
        num_steps: Student steps.
        batch_size: Images per step.
        accumulate_steps: Parts of a batch that are computed one after the other, so that memory holds one of
            them. Their gradients add up to those of the whole batch; batch norm alone sees parts.
        compile: Compile the networks (`torch.compile`): minutes at the start, fewer passes over memory after.
        optimiser: Of the student: `adam`, or `muon` for its filters and matrices and Adam for the rest.
        learning_rate: Of the student's Adam, warmed up and annealed by a cosine.
        matrix_learning_rate: Of Muon, likewise.
        discriminator_learning_rate: Of the discriminator's Adam, annealed likewise.
        discriminator_width: Channels of its first layer.
        betas: Of both Adams.
        judge_every_steps: The discriminator is trained, and its terms (feature, kl, adversarial) enter,
            every so many steps; in between only pixels count, which costs a third.
        adversarial_every_judgements: Of these, the adversarial term enters every so many (n_critic).
        weights: Of the loss terms.
        pixel_decay: Falls linearly from `pixel` to (1 - pixel_decay) * `pixel` over the training.
        kl_temperature: T of the KL term.
        ema_decay: Of the exponential moving average that is kept as the student.
        checkpoint_every_steps: A killed training repeats at most this many steps.
        log_every_steps: How often losses are recorded.
        fetch_threads: Threads that fetch and decode the batches to come; 0 fetches between the steps.
    """

    ADDED_LATER = frozenset({"accumulate_steps", "compile"})
    WITHOUT_INFLUENCE = frozenset({"checkpoint_every_steps", "log_every_steps", "fetch_threads"})

    student: Student = Student()
    num_steps: Count
    batch_size: Count = 64
    accumulate_steps: Count = 1
    compile: bool = False
    optimiser: Literal["adam", "muon"] = "adam"
    learning_rate: Positive = 2e-3
    matrix_learning_rate: Positive = 4e-3
    discriminator_learning_rate: Positive = 2e-4
    discriminator_width: Count = 16
    betas: tuple[Decay, Decay] = (0.5, 0.99)
    judge_every_steps: Count = 1
    adversarial_every_judgements: Count = 5
    weights: LossWeights = LossWeights()
    pixel_decay: Annotated[float, Field(ge=0, le=1)] = 0.0
    kl_temperature: Positive = 8.0
    ema_decay: Decay = 0.995
    checkpoint_every_steps: Count = 500
    log_every_steps: Count = 20
    fetch_threads: Annotated[int, Field(ge=0, le=256)] = 0

    @model_validator(mode="after")
    def _some_term(self) -> Distill:
        if not any(self.weights.by_term().values()):
            raise ValueError("at least one weight of the loss must be above 0")
        return self


class MechanismParameters(Settings):
    """What one mechanism's namespace holds."""

    distill: Distill
