"""Settings of the `teacher` stage."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, ClassVar, Literal

from pydantic import AfterValidator, Field, model_validator

from skdcgn_pipeline.parameters.base import Bounds, Count, Decay, Fraction, Location, Positive, Settings, Weight
from skdcgn_pipeline.runtime.extensions import check_extension

IMAGENET_CGN = "imagenet_cgn"  # the teacher that may come in several files


class MaskedFit(Settings):
    """How a CGN learns from images with true masks: as a variational autoencoder of the three mechanisms.

    Attributes:
        learning_rate: Of Adam, for generator and encoder.
        latent_weight: How near the noise that the encoder finds of images is kept to N(0, I), in nats.
        composite_weight: Of the adversarial and the style loss of composites of fresh noise, beside the losses of the
            mechanisms; 0 leaves the discriminator out, in half the time.
    """

    learning_rate: Positive = 1e-3
    latent_weight: Weight = 0.002
    composite_weight: Weight = 0.0


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
        patch_shift: Shift foregrounds and backgrounds at random before composing, as published: right for textures that
            look the same everywhere, wrong for photographs.
        masked: What differs where the images have true masks.
        num_measures: How often likeness, diversity and masks are measured on the training side; the weights with the
            lowest Frechet distance are kept. 0 keeps the last, as published.
        checkpoint_every_steps: A killed training repeats at most this many steps.
    """

    num_images: Count = 64_000
    batch_size: Annotated[int, Field(ge=2, multiple_of=2)] = 16
    learning_rate: Positive = 2e-4
    decay_share: Annotated[float, Field(ge=0, le=1)] = 0.0
    mask_entropy_weight: Weight = 0.3
    mask_bounds_weight: Weight = 0.0
    mask_bounds: Bounds = (0.05, 0.5)
    mode_seeking_weight: Weight = 0.0
    mode_seeking_floor: Fraction = 0.12
    style_weights: tuple[Weight, Weight, Weight, Weight] = (0.0, 0.05, 0.0, 0.05)
    style_network: Literal["vgg16", "digit_classifier"] = "digit_classifier"
    style_initialisation: Literal["kaiming_normal", "torch"] = "kaiming_normal"
    discriminator: Literal["linear", "convolutional"] = "linear"
    discriminator_width: Count = 512
    spectral_norm: bool = False
    init: Literal["orthogonal", "normal"] = "orthogonal"
    init_gain: Positive = 0.2
    ema_decay: Decay = 0.999
    patch_shift: bool = True
    masked: MaskedFit = MaskedFit()
    num_measures: Annotated[int, Field(ge=0, le=1000)] = 0
    checkpoint_every_steps: Count = 500

    @property
    def num_steps(self) -> int:
        """Generator steps: images over batch size, at least one."""
        return max(1, self.num_images // self.batch_size)


# Teachers that a run makes of its images; `cutouts` without a training.
MADE_BY_RUN = ("trained", "cutouts")


class CutoutSettings(Settings):
    """How images with masks become a teacher: objects are cut out and put on backgrounds.

    Attributes:
        num_images_per_class: At most so many training images of a class are cut out, chosen at random.
        mirror: Mirror half of the objects.
        scale: Objects become larger or smaller by up to this share.
        shift: Objects are moved by up to this share of the image, down or up and to either side.
    """

    num_images_per_class: Count = 1000
    mirror: bool = False
    scale: Annotated[float, Field(ge=0, lt=1)] = 0.0
    shift: Annotated[float, Field(ge=0, lt=1)] = 0.0


class Teacher(Settings):
    """Which teacher is distilled.

    Attributes:
        name: `trained` (this run's own: its training is part of the run), `cutouts` (this run's images, cut out by
            their masks, without a training), `cgn` (what the `teacher` pipeline has
            trained before, by `weights`), `mnist_cgn` (published weights), `digits_cgn` (shipped with the package),
            `imagenet_cgn` (the published checkpoint, or its parts) or `custom`.
        weights: A file; by default the published or shipped one of the variant; of `cgn` the
            `teacher.safetensors` of its artifact. For `imagenet_cgn`, the
            checkpoint, or a file for each of `shape`, `texture`, `background` (or one `biggan` for all
            three) and `u2net`. For `custom`, an optional program in ONNX (.onnx), or, with
            `trust_program`, of `torch.export` (.pt2) or TorchScript (.pt).
        trust_program: Open a `custom` program that can run any code on this machine (.pt2, .pt), because you trust
            whoever made it.
        truncation: Of the noise of `imagenet_cgn`; null takes 0.5, as published.
        factory: For `custom`: `module:function`, code of yours that returns an object with the teacher interface.
        noise_dim, num_classes, image_size: Of a `custom` file, which cannot tell them itself, and of no other.
        cutouts: How images with masks become counterfactuals without a training.
        fit: How one is trained.
    """

    EXTENSIONS: ClassVar[Mapping[str, tuple[str, ...]]] = {"factory": ()}

    name: Literal["trained", "cutouts", "cgn", "mnist_cgn", "digits_cgn", "imagenet_cgn", "custom"]
    weights: Location | dict[str, Location] | None = None
    trust_program: bool = False
    truncation: Annotated[float, Field(gt=0, le=1)] | None = None
    factory: Annotated[str, AfterValidator(check_extension)] | None = None
    noise_dim: Count | None = None
    num_classes: Count | None = None
    image_size: Count | None = None
    cutouts: CutoutSettings = CutoutSettings()
    fit: TeacherFit = TeacherFit()

    @model_validator(mode="after")
    def _custom_is_complete(self) -> Teacher:
        sizes = {"noise_dim": self.noise_dim, "num_classes": self.num_classes, "image_size": self.image_size}
        given = [name for name, size in sizes.items() if size is not None]
        if given and (self.name != "custom" or self.factory is not None):
            raise ValueError(
                f"'{given[0]}' belongs to a 'custom' file; this teacher has its own, got {sizes[given[0]]}"
            )
        if self.name == "custom":
            if (self.factory is None) == (self.weights is None):
                raise ValueError("name 'custom' needs either 'factory' (module:function) or 'weights' (a file)")
            if self.weights is not None and len(given) < len(sizes):
                raise ValueError("a custom file needs 'noise_dim', 'num_classes' and 'image_size'")
        elif self.factory is not None:
            raise ValueError(f"'factory' belongs to name 'custom', got name {self.name!r}")
        if self.name in MADE_BY_RUN and self.weights is not None:
            raise ValueError(f"'weights' of an earlier training belong to name 'cgn', got name {self.name!r}")
        if self.name == "cgn" and self.weights is None:
            raise ValueError("name 'cgn' needs 'weights': the teacher.safetensors of the 'teacher' pipeline")
        if self.name == IMAGENET_CGN:
            if self.weights is None:
                raise ValueError("name 'imagenet_cgn' needs 'weights': the published checkpoint, or its parts")
        elif self.truncation is not None:
            raise ValueError(f"'truncation' belongs to name 'imagenet_cgn', got name {self.name!r}")
        elif isinstance(self.weights, dict):
            raise ValueError(f"'weights' in parts belong to name 'imagenet_cgn', got name {self.name!r}")
        return self
