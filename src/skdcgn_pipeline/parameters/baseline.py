"""Settings of the `baseline` stage."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field, field_validator, model_validator

from skdcgn_pipeline.parameters.base import Bounds, Count, Decay, Location, Positive, Settings, Weight
from skdcgn_pipeline.parameters.distill import Student
from skdcgn_pipeline.vocabulary import MECHANISMS

MechanismName = Literal["shape", "texture", "background"]


class BaselineWeights(Settings):
    """Weight of each term of the baseline's loss; 0 switches a term off. As published for ImageNet.

    Attributes:
        reconstruction: Mean absolute difference of the composite and the image teacher's image.
        style: Of the same two images, image by image.
        mask_entropy: Binary entropy of the mask, in bits.
        mask_bounds: Mean mask kept within `Baseline.mask_bounds`.
        texture: Style of the foreground against patches of the teacher's image where the mask is high.
        background_saliency: What a detector of salient objects finds in the background. Only the ImageNet CGN
            has such a detector, its U^2-Net.
    """

    reconstruction: Weight = 100.0
    style: Weight = 4.0
    mask_entropy: Weight = 300.0
    mask_bounds: Weight = 500.0
    texture: Weight = 5.0
    background_saliency: Weight = 2000.0


class LearningRates(Settings):
    """A learning rate per mechanism; the defaults are those of CGN on ImageNet.

    Attributes:
        shape, texture, background: Of Adam.
    """

    shape: Positive = 8e-6
    texture: Positive = 3e-5
    background: Positive = 1e-5


class Baseline(Settings):
    """The control without distillation: students trained end to end with CGN's losses (SKDCGN, section 4).

    Attributes:
        students: Architecture by mechanism, as those that are distilled.
        image_teacher: What the composites imitate: `composites` of the teacher, factual and without patch shift,
            or `biggan`, the frozen BigGAN that the CGN of ImageNet was itself trained with.
        image_teacher_weights: File of `biggan`; null takes `teacher.weights`, the published CGN, which has it.
        num_steps: Steps of all three students together.
        batch_size: Images per step.
        learning_rates: Of Adam, by mechanism.
        betas: Of Adam.
        weights: Of the loss terms.
        mask_bounds: Lowest and highest mean of a mask.
        style_network: In whose features style and texture are compared: `feature_network`, the run's digit
            classifier, or `vgg16`, whose weights are looked for in the asset folder.
        style_weights: One per layer of the style network, within the style and the texture term.
        patch_size: Height and width of a texture patch, in pixels; divides the image size.
        ema_decay: Of the exponential moving average that is kept.
        num_measured_images: Images of which the inception score is taken while training.
        measure_every_steps: How often.
        checkpoint_every_steps: A killed training repeats at most this many steps.
        log_every_steps: How often losses, mean mask and mask entropy are recorded.
    """

    WITHOUT_INFLUENCE = frozenset(
        {
            "checkpoint_every_steps",
            "image_teacher_weights",
            "log_every_steps",
            "measure_every_steps",
            "num_measured_images",
        }
    )

    students: dict[MechanismName, Student]
    image_teacher: Literal["composites", "biggan"] = "composites"
    image_teacher_weights: Location | None = None
    num_steps: Count
    batch_size: Count = 32
    learning_rates: LearningRates = LearningRates()
    betas: tuple[Decay, Decay] = (0.5, 0.999)
    weights: BaselineWeights = BaselineWeights()
    mask_bounds: Bounds = (0.1, 0.9)
    style_network: Literal["feature_network", "vgg16"] = "feature_network"
    style_weights: tuple[Weight, Weight, Weight, Weight] = (1.0, 1.0, 1.0, 1.0)
    patch_size: Count = 8
    ema_decay: Decay = 0.99
    num_measured_images: Annotated[int, Field(ge=2)] = 500
    measure_every_steps: Count = 200
    checkpoint_every_steps: Count = 250
    log_every_steps: Count = 20

    @field_validator("students")
    @classmethod
    def _all_mechanisms(cls, value: dict[str, Student]) -> dict[str, Student]:
        if set(value) != set(MECHANISMS):
            raise ValueError(f"needs an architecture for each of {', '.join(MECHANISMS)}, got {sorted(value)}")
        return value

    @model_validator(mode="after")
    def _possible(self) -> Baseline:
        if not self.weights.reconstruction and not self.weights.style:
            raise ValueError("one of the weights 'reconstruction' and 'style' must be above 0: nothing else is taught")
        return self

    @property
    def uses_style(self) -> bool:
        """Tell whether a style network is needed."""
        return bool(self.weights.style or self.weights.texture)
