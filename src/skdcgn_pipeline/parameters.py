"""Every setting of the pipeline: its name, type, default range and meaning, in one place.

The values are in `conf/<env>/parameters*.yml`; this module refuses unknown keys, wrong types and
impossible values, all at once and before any work.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import Annotated, Any, ClassVar, Literal, get_args

from pydantic import (
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    ValidationError,
    field_validator,
    model_validator,
)

from skdcgn_pipeline.runtime.errors import SettingError, check_choice, nearest
from skdcgn_pipeline.vocabulary import MECHANISMS, STUDIES, check_transformation

Count = Annotated[int, Field(gt=0)]
Positive = Annotated[float, Field(gt=0, allow_inf_nan=False)]
Weight = Annotated[float, Field(ge=0, allow_inf_nan=False)]
Fraction = Annotated[float, Field(gt=0, lt=1, allow_inf_nan=False)]
Precision = Literal["fp32", "bf16"]
Device = Literal["auto", "cpu", "cuda", "mps"]
TrainingSetName = Literal["originals", "teacher", "students"]
MechanismName = Literal["shape", "texture", "background"]
Variant = Literal["colored", "double_colored", "wildlife", "imagenet"]
CounterfactualSource = Literal["teacher", "students"]
LossTerm = Literal["pixel", "feature", "kl", "adversarial", "binary_cross_entropy"]
StudyName = Literal[
    "transformations", "mechanisms", "counts", "mixing", "losses", "size", "source", "stage", "monolith"
]
BenchmarkGroup = Literal["throughput", "sampling", "composition", "bias", "classifier", "distillation", "data"]


class Settings(BaseModel):
    """Base of all settings: frozen, unknown keys refused.

    Attributes:
        ADDED_LATER: Names of settings that came when there were results already.
        WITHOUT_INFLUENCE: Names of settings that no result depends on.
    """

    ADDED_LATER: ClassVar[frozenset[str]] = frozenset()
    WITHOUT_INFLUENCE: ClassVar[frozenset[str]] = frozenset()

    model_config = ConfigDict(extra="forbid", frozen=True)

    def identity(self) -> dict[str, Any]:
        """Return what results depend on, JSON-able.

        A setting that came later is left out where it has its default, so that results from before keep
        their identity.
        """
        own = self.model_dump(mode="json", exclude=set(self.WITHOUT_INFLUENCE))
        for name in list(own):
            value = getattr(self, name)
            if name in self.ADDED_LATER and value == type(self).model_fields[name].default:
                del own[name]
            elif isinstance(value, Settings):
                own[name] = value.identity()
        return own

    def __str__(self) -> str:
        return self.model_dump_json()


class Compute(Settings):
    """Where and how networks run.

    Attributes:
        device: `auto` takes cuda, then mps, then cpu.
        precision: `bf16` trains and measures networks in bfloat16 autocast and keeps weights in fp32.
        sampling_precision: The same for drawing samples, so that another precision of the trainings
            finds the samples that are there.
    """

    device: Device = "auto"
    precision: Precision = "fp32"
    sampling_precision: Precision = "fp32"

    def for_sampling(self) -> Compute:
        """Return how samples are drawn."""
        return self.model_copy(update={"precision": self.sampling_precision})


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


class Fetch(Settings):
    """Which assets the `fetch` pipeline brings into the asset folder (`assets`).

    Attributes:
        groups: Of the table of assets, `src/skdcgn_pipeline/images/assets.toml`.
        mirror: A folder or an http(s) address with the same names below it, such as the asset folder of
            another machine, looked into first; null takes `SKDCGN_MIRROR`. Credentials belong in ~/.netrc:
            settings are logged.
        table: Another table of the same form; null takes the packaged one.
    """

    groups: tuple[str, ...] = ()
    mirror: str | None = None
    table: str | None = None


class GivenFeatures(Settings):
    """A trained torchvision network in whose features images are compared.

    Attributes:
        architecture: Name of a torchvision classifier.
        weights: File with torchvision's state dict of it.
    """

    architecture: str = "resnet50"
    weights: str


class Prepare(Settings):
    """Biased datasets and the feature network.

    Attributes:
        source: What the real images are: `digits` (scikit-learn), `mnist`, or `imagenet`, whose folders the
            `ensemble` stage reads; the stages that are made for digits are then left out.
        copies: How many times each digit is coloured anew.
        validation_fraction: Share of the training digits held out for every choice.
        binarise_threshold: A grey value above it belongs to the digit.
        feature_network: Training of the fixed classifier whose features Frechet distances use.
        given_features: A network that is used instead. Null at ImageNet's scale leaves Frechet distances out.
    """

    source: Literal["digits", "mnist", "imagenet"]
    copies: Count = 1
    validation_fraction: Fraction = 0.1
    binarise_threshold: Fraction = 0.1
    feature_network: ClassifierFit
    given_features: GivenFeatures | None = None


class TeacherFit(Settings):
    """How the `teacher` pipeline trains a CGN of the MNIST architecture (method of CGN, section 4.1).

    Attributes:
        num_images: Images drawn from the biased training split in all.
        batch_size: Images per step, an even number.
        learning_rate: Of Adam, betas (0.5, 0.999), for generator and discriminator.
        decay_share: Share of the steps, at the end, over which the learning rates fall to 0.
        mask_entropy_weight: Binary entropy (log2) of the mask.
        mask_bounds_weight: Mean mask kept within `mask_bounds`.
        mask_bounds: Lowest and highest mean of a mask.
        mode_seeking_weight: Masks of one class kept apart; 0 is the published training.
        mode_seeking_floor: Mean distance of two masks from which on they are left alone.
        style_weights: One weight per layer of the style network.
        style_network: `vgg16` (torchvision weights, where they are present) or `digit_classifier`.
        style_initialisation: How `digit_classifier` starts: `kaiming_normal`, or `torch` for torch's
            default, with which it hardly learns and the style is compared in nearly random features.
        discriminator: `linear` or `convolutional`.
        discriminator_width: Width of its hidden layers.
        spectral_norm: Normalise the discriminator's weights (arXiv 1802.05957), without which single
            classes of a small dataset can be lost for good; false is the published training.
        init: `orthogonal` or `normal`.
        init_gain: Gain of the orthogonal, or standard deviation of the normal initialisation.
        ema_decay: The shipped weights are an exponential moving average; 0 keeps the last.
        checkpoint_every_steps: A killed training repeats at most this many steps.
    """

    num_images: Count
    batch_size: Annotated[int, Field(ge=2, multiple_of=2)] = 16
    learning_rate: Positive = 2e-4
    decay_share: Annotated[float, Field(ge=0, le=1)] = 0.0
    mask_entropy_weight: Weight = 0.3
    mask_bounds_weight: Weight = 0.0
    mask_bounds: tuple[Fraction, Fraction] = (0.05, 0.5)
    mode_seeking_weight: Weight = 0.0
    mode_seeking_floor: Fraction = 0.12
    style_weights: tuple[Weight, ...] = (0.0, 0.05, 0.0, 0.05)
    style_network: Literal["vgg16", "digit_classifier"] = "digit_classifier"
    style_initialisation: Literal["kaiming_normal", "torch"] = "kaiming_normal"
    discriminator: Literal["linear", "convolutional"] = "linear"
    discriminator_width: Count = 512
    spectral_norm: bool = False
    init: Literal["orthogonal", "normal"] = "orthogonal"
    init_gain: Positive = 0.2
    ema_decay: Annotated[float, Field(ge=0, lt=1)] = 0.999
    checkpoint_every_steps: Count = 500

    @property
    def num_steps(self) -> int:
        """Generator steps: images over batch size, at least one."""
        return max(1, self.num_images // self.batch_size)

    @field_validator("style_weights")
    @classmethod
    def _four_layers(cls, value: tuple[float, ...]) -> tuple[float, ...]:
        if len(value) != 4:
            raise ValueError(f"needs 4 weights, one per layer of the style network, got {len(value)}")
        return value

    @field_validator("mask_bounds")
    @classmethod
    def _ordered(cls, value: tuple[float, float]) -> tuple[float, float]:
        if value[0] >= value[1]:
            raise ValueError(f"the lower bound must be below the upper one, got {list(value)}")
        return value


class Teacher(Settings):
    """Which teacher is distilled.

    Attributes:
        name: `mnist_cgn` (published weights, or those of the `teacher` pipeline), `digits_cgn`
            (shipped with the package), `imagenet_cgn` (the published checkpoint, or its parts) or `custom`.
        weights: A file; by default the published or shipped one of the variant. For `imagenet_cgn`, the
            checkpoint, or a file for each of `shape`, `texture`, `background` (or one `biggan` for all
            three) and `u2net`. For `custom`, an optional `torch.export` (.pt2) or TorchScript (.pt) file.
        truncation: Of the noise of `imagenet_cgn`; null takes 0.5, as published.
        factory: For `custom`: `module:function` that returns an object with the teacher interface.
        noise_dim, num_classes, image_size: For a `custom` file, which cannot tell them itself.
        fit: How the `teacher` pipeline trains one.
    """

    name: Literal["mnist_cgn", "digits_cgn", "imagenet_cgn", "custom"]
    weights: str | dict[str, str] | None = None
    truncation: Annotated[float, Field(gt=0, le=1)] | None = None
    factory: str | None = None
    noise_dim: Count | None = None
    num_classes: Count | None = None
    image_size: Count | None = None
    fit: TeacherFit

    @model_validator(mode="after")
    def _custom_is_complete(self) -> Teacher:
        if self.name == "custom":
            if (self.factory is None) == (self.weights is None):
                raise ValueError("name 'custom' needs either 'factory' (module:function) or 'weights' (a file)")
            if self.factory is not None and self.factory.count(":") != 1:
                raise ValueError(f"'factory' must look like module:function, got {self.factory!r}")
            if self.weights is not None and None in (self.noise_dim, self.num_classes, self.image_size):
                raise ValueError("a custom file needs 'noise_dim', 'num_classes' and 'image_size'")
        elif self.factory is not None:
            raise ValueError(f"'factory' belongs to name 'custom', got name {self.name!r}")
        if self.name == "imagenet_cgn":
            if self.weights is None:
                raise ValueError("name 'imagenet_cgn' needs 'weights': the published checkpoint, or its parts")
        elif self.truncation is not None:
            raise ValueError(f"'truncation' belongs to name 'imagenet_cgn', got name {self.name!r}")
        elif isinstance(self.weights, dict):
            raise ValueError(f"'weights' in parts belong to name 'imagenet_cgn', got name {self.name!r}")
        return self


def _parse_classes(value: Any) -> Any:
    """Put a choice of classes into one form: None (all), their numbers in order, or the name of a list."""
    if isinstance(value, dict):
        if set(value) != {"first", "last"}:
            raise ValueError(f"a range of classes has 'first' and 'last', got {sorted(value)}")
        value = f"{value['first']}-{value['last']}"
    if isinstance(value, str) and re.fullmatch(r"\s*\d+\s*-\s*\d+\s*", value):
        first, last = (int(part) for part in value.split("-"))
        if first > last:
            raise ValueError(f"a range of classes begins with the lower one, got {value!r}")
        return tuple(range(first, last + 1))
    if isinstance(value, int) and not isinstance(value, bool):
        value = [value]
    if isinstance(value, list | tuple):
        if not value or not all(isinstance(one, int) and not isinstance(one, bool) and one >= 0 for one in value):
            raise ValueError(f"expected class numbers from 0 on, at least one, got {list(value)}")
        return tuple(sorted(set(value)))
    return value


# All classes (null), a number, a list of them, a range with both ends ("0-99" or {first: 0, last: 99}), or the
# name of a list in `class_lists`.
Classes = Annotated[tuple[int, ...] | str | None, BeforeValidator(_parse_classes)]
ClassLists = dict[str, Annotated[tuple[int, ...], BeforeValidator(_parse_classes)]]


def choose_classes(
    setting: str, classes: tuple[int, ...] | str | None, num_classes: int, lists: Mapping[str, Sequence[int]]
) -> tuple[int, ...] | None:
    """Return the class numbers that a setting stands for, in order; None stands for all.

    Args:
        setting: Name of the setting, for the message.
        classes: A value of the type `Classes`.
        num_classes: Classes of the generator.
        lists: The named lists.

    Raises:
        SettingError: If a name is unknown or a class is out of range.
    """
    if isinstance(classes, str):
        classes = _parse_classes(list(lists[check_choice(setting, classes, lists)]))
    if classes is None or classes == tuple(range(num_classes)):
        return None
    assert isinstance(classes, tuple)
    if wrong := [one for one in classes if not 0 <= one < num_classes]:
        remedy = "Leave out the others, or use a teacher that knows them."
        raise SettingError(setting, f"classes 0 to {num_classes - 1}", f"{wrong[0]} ({len(wrong)} such)", remedy)
    return classes


class ImageEncoding(Settings):
    """How images are stored inside shards.

    Attributes:
        encoding: `raw`, or each image by itself as `png`, `webp` or `jpeg`; a mask has one channel.
        quality: 1 to 100, of `jpeg` (null takes 95) and `webp` (null is lossless).
        encoding_threads: Images encoded at a time while the next are rendered; no byte depends on it.
    """

    encoding: Literal["raw", "png", "webp", "jpeg"] = "raw"
    quality: Annotated[int, Field(ge=1, le=100)] | None = None
    encoding_threads: Annotated[int, Field(gt=0, le=256)] = 4

    @model_validator(mode="after")
    def _quality_has_a_use(self) -> ImageEncoding:
        if self.quality is not None and self.encoding in ("raw", "png"):
            raise ValueError(f"'quality' belongs to encoding 'jpeg' or 'webp', got encoding '{self.encoding}'")
        return self

    @property
    def effective_quality(self) -> int | None:
        """The quality that is used; None where nothing is lost."""
        return 95 if self.encoding == "jpeg" and self.quality is None else self.quality

    @property
    def stored_as(self) -> dict[str, Any]:
        """What stored images depend on; nothing for `raw`."""
        return {} if self.encoding == "raw" else {"encoding": self.encoding, "quality": self.effective_quality}


class Sample(ImageEncoding):
    """Which samples are drawn from the teacher, and how their images are stored (`ImageEncoding`).

    Attributes:
        num_images_per_class: Rows per class; each row has the images of all three mechanisms.
        num_heldout_per_class: Further rows on other noise, never trained on, for the measures.
        rows_per_shard: Rows of one Parquet file, after which a run can be stopped.
        classes: Classes that are drawn: a list of numbers, a range ("0-99", or `first` and `last`), one number, or
            the name of a list in `class_lists`; null draws all.
        shard_range: [first, last): draw these shards alone, so that several processes or machines share the
            work; a run without it takes over what they made.
    """

    num_images_per_class: Count
    num_heldout_per_class: Count
    rows_per_shard: Count = 2000
    classes: Classes = None
    shard_range: tuple[Annotated[int, Field(ge=0)], Annotated[int, Field(gt=0)]] | None = None

    @field_validator("shard_range")
    @classmethod
    def _some_shard(cls, value: tuple[int, int] | None) -> tuple[int, int] | None:
        if value is not None and value[0] >= value[1]:
            raise ValueError(f"[first, last) needs first below last, got {list(value)}")
        return value


class Student(Settings):
    """Architecture of one student generator.

    Attributes:
        architecture: `compact` (plain convolutions at 4 to 16 pixels, sub-pixel output), `basis` (learnt
            spatial patterns, then one convolution and a sub-pixel output), `tinygan` (residual blocks
            with depthwise convolutions, arXiv 2009.13829) or `plain` (residual blocks with plain
            convolutions and a sub-pixel output, faster at large sizes).
        width: Channels: three numbers for `compact`, at 1/8, 1/4 and 1/2 of the image size; for `basis`,
            channels at 1/4 size, number of patterns, channels at 1/2 size; `c` of the paper for `tinygan`;
            for `plain`, one number for each size, from the smallest to 1/2 of the image size.
        embedding_dim: Length of the learnt class embedding.
    """

    architecture: Literal["compact", "basis", "tinygan", "plain"] = "compact"
    width: Count | Annotated[tuple[Count, ...], Field(min_length=1, max_length=8)] = (12, 24, 16)
    embedding_dim: Count = 8

    @model_validator(mode="after")
    def _width_fits(self) -> Student:
        count = 0 if isinstance(self.width, int) else len(self.width)
        wanted, fits = {
            "tinygan": ("one number", count == 0),
            "plain": ("a list, such as [256, 256, 192, 128, 64],", count > 0),
        }.get(self.architecture, ("three numbers, such as [12, 24, 16],", count == 3))
        if not fits:
            raise ValueError(f"'width' must be {wanted} for the '{self.architecture}' architecture, got {self.width}")
        return self


class LossWeights(Settings):
    """Weight of each term of the student's loss; 0 switches a term off.

    Attributes:
        pixel: Mean absolute difference of student and teacher image.
        feature: The same of the discriminator's features, layer by layer.
        kl: Divergence of the discriminator's class scores of the student's image from the teacher's.
        adversarial: Hinge loss against the discriminator.
        binary_cross_entropy: Of masks only, each pixel of the teacher's as a probability.
        perceptual: Difference in the layers of torchvision's VGG16, whose weights must be in the asset folder.
    """

    ADDED_LATER: ClassVar[frozenset[str]] = frozenset({"perceptual"})

    pixel: Weight = 1.0
    feature: Weight = 0.0
    kl: Weight = 0.0
    adversarial: Weight = 0.0
    binary_cross_entropy: Weight = 0.0
    perceptual: Weight = 0.0


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

    ADDED_LATER: ClassVar[frozenset[str]] = frozenset({"accumulate_steps", "compile"})
    WITHOUT_INFLUENCE: ClassVar[frozenset[str]] = frozenset(
        {"checkpoint_every_steps", "log_every_steps", "fetch_threads"}
    )

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
    betas: tuple[Annotated[float, Field(ge=0, lt=1)], Annotated[float, Field(ge=0, lt=1)]] = (0.5, 0.99)
    judge_every_steps: Count = 1
    adversarial_every_judgements: Count = 5
    weights: LossWeights = LossWeights()
    pixel_decay: Annotated[float, Field(ge=0, le=1)] = 0.0
    kl_temperature: Positive = 8.0
    ema_decay: Annotated[float, Field(ge=0, lt=1)] = 0.995
    checkpoint_every_steps: Count = 500
    log_every_steps: Count = 20
    fetch_threads: Annotated[int, Field(ge=0, le=256)] = 0

    @model_validator(mode="after")
    def _equal_parts(self) -> Distill:
        if self.batch_size % self.accumulate_steps:
            raise ValueError(
                f"'batch_size' must be a multiple of 'accumulate_steps', got {self.batch_size} and "
                f"{self.accumulate_steps}"
            )
        return self

    @model_validator(mode="after")
    def _some_term(self) -> Distill:
        if not any(self.weights.model_dump().values()):
            raise ValueError("at least one weight of the loss must be above 0")
        return self


class MechanismParameters(Settings):
    """What one mechanism's namespace holds."""

    distill: Distill


class Transformation(Settings):
    """One transformation of a mechanism's image, see `vocabulary.TRANSFORMATION_KINDS`.

    Attributes:
        kind: Name of the transformation.
        strength: Its meaning and range depend on the kind.
    """

    kind: str
    strength: Annotated[float, Field(ge=0, allow_inf_nan=False)] = 1.0


class Transformations(Settings):
    """Transformations of each mechanism, applied in order before composing.

    Attributes:
        shape: Of the mask.
        texture: Of the foreground.
        background: Of the background.
    """

    shape: tuple[Transformation, ...] = ()
    texture: tuple[Transformation, ...] = ()
    background: tuple[Transformation, ...] = ()

    @model_validator(mode="after")
    def _fit_their_mechanism(self) -> Transformations:
        for mechanism in MECHANISMS:
            for transformation in getattr(self, mechanism):
                check_transformation(mechanism, mechanism, transformation.kind, transformation.strength)
        return self

    def of(self, mechanism: str) -> list[tuple[str, float]]:
        """Return (kind, strength) pairs of one mechanism."""
        return [(t.kind, t.strength) for t in getattr(self, mechanism)]


class Counterfactual(Settings):
    """Which mechanisms draw a class of their own (counterfactual) instead of the image's (factual).

    Attributes:
        shape, texture, background: True draws this mechanism's class independently.
    """

    shape: bool = True
    texture: bool = True
    background: bool = True


class MechanismClasses(Settings):
    """The classes that each counterfactual mechanism draws from, see `Classes`.

    Attributes:
        shape, texture, background: A list of numbers, a range ("0-99", or `first` and `last`), the name of a list
            in `class_lists`, or one number, which fixes the class; null takes all.
    """

    shape: Classes = None
    texture: Classes = None
    background: Classes = None


class Composition(Settings):
    """How counterfactuals are composed from pools.

    Attributes:
        counterfactual: Per mechanism, whether its class is drawn independently.
        classes: Per counterfactual mechanism, the classes that are drawn; null draws all that were sampled.
        transformations: Per mechanism.
        patch_shift: Shift foreground and background circularly, as the published CGN does; `texture`
            or `background` shifts that one alone.
    """

    ADDED_LATER: ClassVar[frozenset[str]] = frozenset({"classes"})

    counterfactual: Counterfactual = Counterfactual()
    transformations: Transformations = Transformations()
    patch_shift: bool | Literal["texture", "background"] = True
    classes: MechanismClasses = MechanismClasses()

    @model_validator(mode="after")
    def _only_counterfactual_ones_choose(self) -> Composition:
        for mechanism in MECHANISMS:
            if getattr(self.classes, mechanism) is not None and not getattr(self.counterfactual, mechanism):
                raise ValueError(
                    f"classes.{mechanism} belongs to a counterfactual {mechanism}, got counterfactual.{mechanism} "
                    "false, which takes the class of the image"
                )
        return self

    def resolved(self, num_classes: int, lists: Mapping[str, Sequence[int]], setting: str) -> Composition:
        """Return the same with class numbers in place of the names of lists; raises like `choose_classes`.

        Args:
            num_classes: Classes of the generator.
            lists: The named lists.
            setting: Name of this setting, for the message.
        """
        chosen = {
            mechanism: choose_classes(
                f"{setting}.classes.{mechanism}", getattr(self.classes, mechanism), num_classes, lists
            )
            for mechanism in MECHANISMS
        }
        return self.model_copy(update={"classes": MechanismClasses(**chosen)})

    def shifts(self, mechanism: str) -> bool:
        """Tell whether a mechanism's image is shifted."""
        return mechanism != "shape" and self.patch_shift in (True, mechanism)


class Interpolation(Settings):
    """Pictures of what lies between two classes.

    Attributes:
        first: Class at the beginning.
        last: Class at the end; null takes the generator's last one.
        mechanism: `all`, or the one whose class changes while the others keep `first`.
        num_steps: Pictures from the first class to the last, both among them.
        num_examples: Noise vectors side by side in the animation.
    """

    first: Annotated[int, Field(ge=0)] = 0
    last: Annotated[int, Field(ge=0)] | None = None
    mechanism: Literal["all", "shape", "texture", "background"] = "all"
    num_steps: Annotated[int, Field(ge=2, le=64)] = 10
    num_examples: Annotated[int, Field(gt=0, le=16)] = 6

    def ends(self, num_classes: int) -> tuple[int, int]:
        """Return the first and the last class.

        Raises:
            SettingError: If the generator has no such class.
        """
        last = num_classes - 1 if self.last is None else self.last
        for name, value in (("first", self.first), ("last", last)):
            if value >= num_classes:
                setting, remedy = f"compose.interpolation.{name}", "Name two classes that the teacher knows."
                raise SettingError(setting, f"a class from 0 to {num_classes - 1}", value, remedy)
        return self.first, last


class Compose(Settings):
    """Pools and stored counterfactuals.

    Attributes:
        num_pool_images_per_class: Rows per class drawn from the students for their pool.
        num_images: Counterfactuals stored from each of teacher and students.
        rows_per_shard: Rows of one Parquet file.
        composition: How they are composed; also used for training on the fly.
        stage: Where the composition's transformations are applied: `compose`, whenever counterfactuals
            are composed, or `teacher`, inside the teacher's own training (SKDCGN's way; the `teacher`
            pipeline trains such a teacher) and nowhere else.
        interpolation: The pictures between two classes.
    """

    num_pool_images_per_class: Count
    num_images: Count
    rows_per_shard: Count = 5000
    composition: Composition = Composition()
    stage: Literal["compose", "teacher"] = "compose"
    interpolation: Interpolation = Interpolation()

    @model_validator(mode="after")
    def _teacher_can_learn(self) -> Compose:
        kinds = {one.kind for mechanism in MECHANISMS for one in getattr(self.composition.transformations, mechanism)}
        if self.stage == "teacher" and "binarise" in kinds:
            raise ValueError(
                "stage 'teacher' applies transformations inside the teacher's training, where 'binarise' would keep "
                "the gradient from the mask; leave it out, or use stage 'compose'"
            )
        return self

    @property
    def composing(self) -> Composition:
        """How counterfactuals are composed, given the stage."""
        if self.stage == "compose":
            return self.composition
        return self.composition.model_copy(update={"transformations": Transformations()})

    def resolved(self, num_classes: int, lists: Mapping[str, Sequence[int]]) -> Composition:
        """Return `composing` with class numbers in place of the names of lists; raises like `choose_classes`."""
        return self.composing.resolved(num_classes, lists, "compose.composition")

    @property
    def in_teacher_training(self) -> Transformations:
        """What the teacher's own training applies, given the stage."""
        return self.composition.transformations if self.stage == "teacher" else Transformations()


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


class TransformationStrengths(Settings):
    """One kind of transformation at several strengths, see `vocabulary.TRANSFORMATION_KINDS`.

    Attributes:
        kind: Name of the transformation.
        strengths: One cell each.
    """

    kind: str
    strengths: Annotated[tuple[Annotated[float, Field(allow_inf_nan=False)], ...], Field(min_length=1)]


class TransformationGrid(Settings):
    """Study `transformations`: each cell adds one transformation to one mechanism.

    Attributes:
        shape, texture, background: Per mechanism, the kinds and their strengths.
        combined: Transformations of the shape mechanism that are applied one after the other in one cell;
            the strength of the last is the cell's.
        without_patch_shift: Also leave out the patch shift of texture, of background and of both.
    """

    shape: tuple[TransformationStrengths, ...] = ()
    texture: tuple[TransformationStrengths, ...] = ()
    background: tuple[TransformationStrengths, ...] = ()
    combined: tuple[Annotated[tuple[Transformation, ...], Field(min_length=2)], ...] = ()
    without_patch_shift: bool = True

    @model_validator(mode="after")
    def _fit_their_mechanism(self) -> TransformationGrid:
        for mechanism in MECHANISMS:
            for number, own in enumerate(getattr(self, mechanism)):
                for strength in own.strengths:
                    check_transformation(f"{mechanism}.{number}", mechanism, own.kind, strength)
        for number, transformations in enumerate(self.combined):
            for one in transformations:
                check_transformation(f"combined.{number}", "shape", one.kind, one.strength)
        if not (self.shape or self.texture or self.background or self.combined or self.without_patch_shift):
            raise ValueError("the grid is empty: name at least one transformation of one mechanism")
        return self


class CountsGrid(Settings):
    """Study `counts`: training sets of a fixed size, with several counterfactuals of each shape.

    Attributes:
        per_shape: Counterfactuals made of each mask.
        dataset_sizes: Images of the training set; the reference composes without end.
    """

    per_shape: Annotated[tuple[Count, ...], Field(min_length=1)] = (1, 5, 10, 20)
    dataset_sizes: Annotated[tuple[Count, ...], Field(min_length=1)] = (10_000, 100_000, 1_000_000)

    @model_validator(mode="after")
    def _some_shape(self) -> CountsGrid:
        if max(self.per_shape) > min(self.dataset_sizes):
            raise ValueError(
                "'per_shape' must not exceed the smallest of 'dataset_sizes', "
                f"got {max(self.per_shape)} counterfactuals of each shape in {min(self.dataset_sizes)} images"
            )
        return self


class MixingGrid(Settings):
    """Study `mixing`: biased originals among the training images.

    Attributes:
        originals_shares: Share of the originals in every batch.
    """

    originals_shares: Annotated[
        tuple[Annotated[float, Field(ge=0, le=1, allow_inf_nan=False)], ...], Field(min_length=1)
    ] = (0.0, 0.25, 0.5, 0.75)


class LossesGrid(Settings):
    """Study `losses`: students distilled with each loss term removed in turn and alone.

    Attributes:
        terms: Terms that are removed and left alone.
        kl_temperatures: T of the KL term.
        judge_every_steps: As in `Distill`; 1 lets terms of the discriminator stand alone.
        num_steps: Steps of each mechanism, in place of those of `ablation.distill`.
    """

    terms: Annotated[tuple[LossTerm, ...], Field(min_length=1)] = (
        "pixel",
        "binary_cross_entropy",
        "feature",
        "kl",
        "adversarial",
    )
    kl_temperatures: tuple[Positive, ...] = (1.0, 2.0, 4.0, 8.0, 16.0)
    judge_every_steps: Count = 1
    num_steps: Count = 100


class SizeGrid(Settings):
    """Study `size`: trios of students, each of one architecture.

    Attributes:
        students: The architectures, from small to large.
    """

    students: Annotated[tuple[Student, ...], Field(min_length=1)]


class StageGrid(Settings):
    """Study `stage`: a transformation when composing against inside the teacher's own training.

    The teacher is trained on from its weights, so that a small budget is enough.

    Attributes:
        transformations: Of the shape mechanism, one per pair of cells.
        num_images: Images of the training that goes on.
    """

    transformations: Annotated[tuple[Transformation, ...], Field(min_length=1)]
    num_images: Count

    @model_validator(mode="after")
    def _fit_shape(self) -> StageGrid:
        for number, one in enumerate(self.transformations):
            check_transformation(f"transformations.{number}", "shape", one.kind, one.strength)
            if one.kind == "binarise":
                raise ValueError("'binarise' has no gradient, so no teacher can be trained through it; leave it out")
        return self


class MonolithGrid(Settings):
    """Study `monolith`: one student of the whole image, without mechanisms.

    Attributes:
        student: Its architecture, about the size of a trio.
    """

    student: Student


class StudyDistillation(Settings):
    """Budget of the students that cells distil for themselves.

    Attributes:
        num_steps: Steps of each mechanism.
        num_pool_images_per_class: Rows per class of the pools drawn from them.
    """

    num_steps: Count
    num_pool_images_per_class: Count


class Ablation(Settings):
    """The composition study: nine named grids of cells, each of which trains classifiers.

    Attributes:
        study: `all`, one name or several.
        plan: Only say which cells there are, which are done, and how long the others will take.
        workers: Processes that run cells side by side; each computes on one thread, so the result does
            not depend on their number.
        max_cells: More cells are refused; raise it to confirm that they are wanted.
        num_seeds: Classifiers per cell.
        source: Whose pools are composed where a study does not say otherwise.
        composition: The reference that transformations are added to.
        transformations, counts, mixing, losses, size, stage, monolith: The grids; `mechanisms` and
            `source` have nothing to choose.
        distill: Budget of the students that cells distil for themselves.
        fit: How each classifier is trained. At ImageNet's scale each is an ensemble, trained as `ensemble.fit`
            says on `num_images` real images in batches of `batch_size`, and as many counterfactuals.
    """

    study: Annotated[tuple[StudyName, ...], Field(min_length=1)] = STUDIES  # type: ignore[assignment]
    plan: bool = False
    workers: Annotated[int, Field(gt=0, le=256)] = 1
    max_cells: Count = 250
    num_seeds: Annotated[int, Field(ge=2)] = 3
    source: Literal["teacher", "students"] = "students"
    composition: Composition = Composition()
    transformations: TransformationGrid
    counts: CountsGrid = CountsGrid()
    mixing: MixingGrid = MixingGrid()
    losses: LossesGrid = LossesGrid()
    size: SizeGrid
    stage: StageGrid
    monolith: MonolithGrid
    distill: StudyDistillation
    fit: ClassifierFit

    @field_validator("composition")
    @classmethod
    def _classes_by_number(cls, value: Composition) -> Composition:
        names = [one for one in value.classes.model_dump().values() if isinstance(one, str)]
        if names:
            raise ValueError(f"classes are numbers or ranges here, got the name '{names[0]}'")
        return value

    @field_validator("study", mode="before")
    @classmethod
    def _by_name(cls, value: Any) -> Any:
        names = list(STUDIES) if value == "all" else [value] if isinstance(value, str) else value
        for name in names if isinstance(names, list | tuple) else ():
            check_choice("study", name, ("all", *STUDIES))
        return names


class ImageReading(Settings):
    """How folders of images are read.

    Attributes:
        image_size: Height and width of what a classifier sees.
        resize: The shorter side before the middle is cropped, for measuring; null takes images as they
            are, which must then all be of `image_size`.
        skip_unreadable: Leave out files that cannot be read, rather than refuse the folder.
        non_rgb: What happens to grey and CMYK images: `refuse`, `skip`, or `convert`, as torchvision does.
        num_threads: Images decoded at a time.
    """

    image_size: Count = 224
    resize: Count | None = 256
    skip_unreadable: bool = False
    non_rgb: Literal["refuse", "skip", "convert"] = "refuse"
    num_threads: Count = 8

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

    students: dict[MechanismName, Student]
    image_teacher: Literal["composites", "biggan"] = "composites"
    image_teacher_weights: str | None = None
    num_steps: Count
    batch_size: Count = 32
    learning_rates: LearningRates = LearningRates()
    betas: tuple[Annotated[float, Field(ge=0, lt=1)], Annotated[float, Field(ge=0, lt=1)]] = (0.5, 0.999)
    weights: BaselineWeights = BaselineWeights()
    mask_bounds: tuple[Fraction, Fraction] = (0.1, 0.9)
    style_network: Literal["feature_network", "vgg16"] = "feature_network"
    style_weights: tuple[Weight, Weight, Weight, Weight] = (1.0, 1.0, 1.0, 1.0)
    patch_size: Count = 8
    ema_decay: Annotated[float, Field(ge=0, lt=1)] = 0.99
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
        if self.mask_bounds[0] >= self.mask_bounds[1]:
            raise ValueError(f"the lower of 'mask_bounds' must be below the upper one, got {list(self.mask_bounds)}")
        if not self.weights.reconstruction and not self.weights.style:
            raise ValueError("one of the weights 'reconstruction' and 'style' must be above 0: nothing else is taught")
        return self

    @property
    def uses_style(self) -> bool:
        """Tell whether a style network is needed."""
        return bool(self.weights.style or self.weights.texture)


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
    folders: dict[Annotated[str, Field(pattern=r"^[A-Za-z0-9_-]+$")], str] = {}
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


class Benchmark(Settings):
    """How much is done to measure what things cost; every number is the median of five repeats.

    Attributes:
        networks: Of the `run`, with its samples, classifiers and data paths; or `random` ones of the settings'
            architectures, which need nothing else: an ImageNet CGN and students of it.
        random_size: Of the random teacher: `deep_256`, as published, or `miniature`.
        only: Measure this group alone; null measures all.
        num_threads: Threads of torch while measuring.
        batch_sizes: At which teacher and students render.
        num_images_per_class: Rows per class that are drawn into a store.
        num_counterfactuals: Composed into one array.
        num_biased_images: Put through the bias protocol.
        num_classifier_images: Training images of each classifier; at least two batches are taken.
        num_distillation_steps: Steps of each distillation, the first of which warm up.
    """

    networks: Literal["run", "random"] = "run"
    random_size: Literal["deep_256", "miniature"] = "deep_256"
    only: BenchmarkGroup | None = None
    num_threads: Annotated[int, Field(gt=0, le=1024)] = 2
    batch_sizes: Annotated[tuple[Count, ...], Field(min_length=1)] = (16, 32, 64, 128, 256)
    num_images_per_class: Count = 200
    num_counterfactuals: Count = 100_000
    num_biased_images: Count = 60_000
    num_classifier_images: Count = 12800
    num_distillation_steps: Annotated[int, Field(ge=2)] = 100

    @model_validator(mode="after")
    def _group_of_the_networks(self) -> Benchmark:
        without = {"run": ("data",), "random": ("sampling", "composition", "bias", "classifier")}[self.networks]
        if self.only in without:
            raise ValueError(f"'only: {self.only}' is not measured with 'networks: {self.networks}'")
        return self

    @field_validator("batch_sizes")
    @classmethod
    def _all_different(cls, value: tuple[int, ...]) -> tuple[int, ...]:
        if len(set(value)) < len(value):
            raise ValueError(f"each batch size is measured once, got {list(value)}")
        return value


class GenerationMetrics(Settings):
    """How generated images are measured: FID, KID, IS and masks (`metrics.generation`).

    Attributes:
        network: In whose features: `feature_network`, the run's digit classifier, or `inception`, whose weights
            are looked for in the asset folder.
        classes: Classes that get a FID of their own: `all`, or a list, which may be empty.
        num_subsets: Random subsets over which KID is averaged.
        subset_size: Images of each subset; at most half of those that there are.
        num_splits: Of the images for IS.
    """

    network: Literal["feature_network", "inception"] = "feature_network"
    classes: Literal["all"] | tuple[Annotated[int, Field(ge=0)], ...] = "all"
    num_subsets: Count = 100
    subset_size: Annotated[int, Field(ge=2)] = 1000
    num_splits: Count = 10


class Report(Settings):
    """What the report shows.

    Attributes:
        num_examples: Columns of the picture sheets.
        benchmark_batch_size: Batch size at which images/s of teacher and student are measured.
        generation_metrics: How composites of teacher and students are measured.
    """

    num_examples: Annotated[int, Field(gt=0, le=40)] = 10
    benchmark_batch_size: Count = 64
    generation_metrics: GenerationMetrics = GenerationMetrics()


class Export(Settings):
    """What the `export` pipeline takes away and under which name MLflow registers it.

    Attributes:
        students: `run` takes the students of these settings; a released name, such as `wildlife_mnist`, those
            that come with the package.
        classifier: Number of the classifier trained on the students' counterfactuals, counted from 0 like the
            seeds of `classify`.
        register_as: Registered models are called `<register_as>_students_<name>` and
            `<register_as>_classifier_<name>`.
        alias: Given to the version that is registered; the version that had it loses it.
    """

    students: str = "run"
    classifier: Annotated[int, Field(ge=0)] = 0
    register_as: Annotated[str, Field(pattern=r"^[A-Za-z0-9][\w-]*$")] = "skdcgn"
    alias: str = "champion"

    @field_validator("alias")
    @classmethod
    def _alias_is_free(cls, value: str) -> str:
        # MLflow keeps `latest` and v1, v2 ... for itself.
        if not re.fullmatch(r"[A-Za-z0-9][\w-]*", value) or re.fullmatch(r"latest|v\d+", value.lower()):
            raise ValueError(f"needs letters, digits, _ or -, not 'latest' nor a version like v1, got {value!r}")
        return value


class Prune(Settings):
    """What the `prune` pipeline removes beyond old versions, see `keep_last`.

    Attributes:
        confirm: Remove; false only lists what would be removed.
        unfinished_days: Unfinished work, and finished work that no dataset names, stays as long as it is
            younger.
    """

    confirm: bool = False
    unfinished_days: Weight = 7.0


class Parameters(Settings):
    """All parameters of the project, as `conf/<env>/parameters*.yml` give them.

    Attributes:
        seed: Everything random follows from it.
        variant: The bias protocol of the images, and the published teacher of MNIST.
        assets: Folder of MNIST, published teachers and textures.
        class_lists: Lists of class numbers by name, for wherever classes are chosen.
        keep_last: Versions of each dataset that `prune` leaves.
    """

    seed: Annotated[int, Field(ge=0)]
    variant: Variant
    assets: str
    compute: Compute
    fetch: Fetch = Fetch()
    class_lists: ClassLists = {}
    prepare: Prepare
    teacher: Teacher
    sample: Sample
    shape: MechanismParameters
    texture: MechanismParameters
    background: MechanismParameters
    compose: Compose
    classify: Classify
    ablation: Ablation
    baseline: Baseline
    ensemble: Ensemble
    benchmark: Benchmark
    report: Report
    keep_last: Count = 3
    prune: Prune = Prune()
    export: Export = Export()

    @model_validator(mode="after")
    def _variant_fits_the_source(self) -> Parameters:
        if (self.variant == "imagenet") != (self.prepare.source == "imagenet"):
            raise ValueError(
                "variant 'imagenet' belongs to prepare.source 'imagenet', and a variant of the bias to digits; "
                f"got variant '{self.variant}' with prepare.source '{self.prepare.source}'"
            )
        return self

    @model_validator(mode="after")
    def _images_learn_something(self) -> Parameters:
        for mechanism in ("texture", "background"):
            weights = getattr(self, mechanism).distill.weights.model_dump(exclude={"binary_cross_entropy"})
            if not any(weights.values()):
                raise ValueError(
                    f"{mechanism}.distill.weights: binary_cross_entropy is only for masks; "
                    "at least one other weight must be above 0"
                )
        return self


def without_anchors(raw: Mapping[str, Any]) -> dict[str, Any]:
    """Return settings as the configuration gives them, but for keys with a leading underscore: YAML anchors."""
    return {key: value for key, value in raw.items() if not key.startswith("_")}


def flatten(settings: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    """Return nested settings under dotted names."""
    flat: dict[str, Any] = {}
    for name, value in settings.items():
        if isinstance(value, Settings):
            value = value.model_dump(mode="json")
        if isinstance(value, Mapping) and value:
            flat |= flatten(value, f"{prefix}{name}.")
        else:
            flat[f"{prefix}{name}"] = value
    return flat


def check_parameters(raw: dict[str, Any]) -> Parameters:
    """Check all parameters at once.

    Args:
        raw: The merged parameters of an environment and the command line.

    Returns:
        The typed parameters.

    Raises:
        SettingError: One message that lists every setting that is wrong.
    """
    try:
        return Parameters.model_validate(without_anchors(raw))
    except ValidationError as error:
        lines = [f"\n  - {_explain(problem)}" for problem in error.errors(include_url=False)]
        raise SettingError(
            "parameters",
            "known settings with possible values",
            f"{len(lines)} problem{'s' if len(lines) > 1 else ''}",
            "Nothing has been run; correct in conf/ or after --params:" + "".join(lines),
        ) from error


def _explain(problem: Any) -> str:
    """Put one problem found by pydantic into words."""
    location = [part for part in problem["loc"] if part != "[key]"]
    name = ".".join(str(part) for part in location)
    if problem["type"] == "extra_forbidden":
        known = _fields_at(location[:-1])
        return f"{name}: unknown setting. {nearest(str(location[-1]), known)}"
    if problem["type"] == "missing":
        return f"{name}: missing, a value is needed"
    if problem["type"] == "literal_error":
        choices = problem["ctx"]["expected"].replace(" or ", ", ").replace("'", "").split(", ")
        return (
            f"{name}: expected one of {', '.join(choices)}, got {problem['input']!r}. "
            f"{nearest(str(problem['input']), choices)}"
        )
    message = problem["msg"].removeprefix("Value error, ")
    return f"{name}: {message} (got {problem['input']!r})" if problem["type"] != "value_error" else f"{name}: {message}"


def _fields_at(location: list[Any]) -> list[str]:
    """Return the names of the settings inside the setting at `location`."""
    model: type[BaseModel] = Parameters
    for part in location:
        field = model.model_fields.get(str(part))
        annotation = field.annotation if field else None
        if field and get_args(annotation):  # tuple[Model, ...]
            annotation = get_args(annotation)[0]
        if isinstance(annotation, type) and issubclass(annotation, BaseModel):
            model = annotation
    return list(model.model_fields)
