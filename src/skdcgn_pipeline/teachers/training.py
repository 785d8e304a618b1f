"""Train a CGN of the MNIST architecture on any biased dataset (CGN, arXiv 2101.06046, section 4.1)."""

from __future__ import annotations

from dataclasses import dataclass, field
from functools import partial
from typing import Any, ClassVar, NamedTuple

import torch
from torch import Tensor, nn
from torch.nn.utils.parametrizations import spectral_norm

from skdcgn_pipeline.artifacts.recipe import Recipe
from skdcgn_pipeline.artifacts.store import Artifact, ArtifactWriter, sha256_of_file
from skdcgn_pipeline.classifiers.classifier import DigitClassifier
from skdcgn_pipeline.classifiers.training import fit_classifier
from skdcgn_pipeline.images.batches import draw_from_split
from skdcgn_pipeline.images.epochs import EpochSampler
from skdcgn_pipeline.images.stored import StoredImages
from skdcgn_pipeline.losses import weighted_sum
from skdcgn_pipeline.losses.adversarial import least_squares_discriminator_loss, least_squares_generator_loss
from skdcgn_pipeline.losses.mechanism import mask_bounds_loss, mask_entropy_loss, mode_seeking_loss, style_loss
from skdcgn_pipeline.mechanisms import MechanismImages, compose
from skdcgn_pipeline.networks.discriminator import CGN_DISCRIMINATORS
from skdcgn_pipeline.networks.vgg16 import ImageFeatures, open_vgg16_features, require_vgg16
from skdcgn_pipeline.networks.weights_file import write_state
from skdcgn_pipeline.parameters import ClassifierFit, Compute, TeacherFit, Transformations
from skdcgn_pipeline.runtime.compute import autocast, choose_device, place
from skdcgn_pipeline.runtime.errors import SettingError
from skdcgn_pipeline.runtime.seeding import seeded, torch_generator
from skdcgn_pipeline.samples.pixels import from_bytes
from skdcgn_pipeline.teachers.cgn import MnistCGN
from skdcgn_pipeline.teachers.teacher import TRAINED_WEIGHTS, IdentifiedTeacher
from skdcgn_pipeline.training.averaging import WeightAverage
from skdcgn_pipeline.training.checkpointing import Stateful
from skdcgn_pipeline.training.schedules import Rates, linear_decay
from skdcgn_pipeline.training.task import fit
from skdcgn_pipeline.transformations import transform_mechanism
from skdcgn_pipeline.vocabulary import MECHANISMS

HISTORY_FILE = "history.json"
CARD_FILE = "teacher.json"
LOG_EVERY_STEPS = 50
STYLE_SETTING = "teacher.fit.style_network"
ADAM_BETAS = (0.5, 0.999)
PLAIN = Transformations()


def _initialise(network: nn.Module, settings: TeacherFit) -> None:
    for module in network.modules():
        if isinstance(module, nn.Linear | nn.Conv2d):
            if settings.init == "orthogonal":
                nn.init.orthogonal_(module.weight, settings.init_gain)
            else:
                nn.init.normal_(module.weight, 0.0, settings.init_gain)
            if module.bias is not None:
                nn.init.zeros_(module.bias)


def untrained_teacher(num_classes: int, image_size: int) -> IdentifiedTeacher:
    """Return a CGN of the sizes that a training will have, for whatever must be known of it before."""
    cgn = MnistCGN(num_classes=num_classes, image_size=image_size).requires_grad_(False).eval()
    return IdentifiedTeacher(cgn, {"name": "trained"})


def style_features_of(network: DigitClassifier) -> ImageFeatures:
    """Return the four layers of a classifier as style features; the classifier is frozen."""
    network.requires_grad_(False)
    return lambda images: network.to(images.device).layer_features(images)


def _start_from(cgn: MnistCGN, initial: Any) -> None:
    """Give a network the weights of another one of the same sizes."""
    expected, got = (f"a CGN for {n.num_classes} classes and images of {n.image_size} pixels" for n in (cgn, initial))
    if expected != got:
        remedy = "Start from a teacher of the same kind of images, or from the beginning."
        raise SettingError("initial teacher", expected, got, remedy)
    cgn.load_state_dict(initial.state_dict())


class TeacherTask:
    """Train a CGN adversarially on biased images, with factual labels; a `training.task.Task`.

    Each step draws noise and a class per image, composes the three mechanisms with random patch
    shifts, and updates the generators (least-squares adversarial loss, mask entropy and bounds, style)
    and then the discriminator. Transformations of the mechanisms are applied right before composing, as
    in SKDCGN's composition study (arXiv 2208.04226): the generators learn to look real through them.

    Args:
        recipe: What is trained; only the CGN starts from an initial teacher, the discriminator always anew.
        style_features: Four layers of features for the style loss.

    Attributes:
        result: The averaged CGN.

    Raises:
        SettingError: If the initial teacher is of another size.
    """

    name = title = "teacher"

    def __init__(self, recipe: TeacherRecipe, style_features: ImageFeatures) -> None:
        split, settings = recipe.images.split("train"), recipe.settings
        self.images, self.labels = split.images, split.labels
        self.style_features, self.settings = style_features, settings
        self.seed, self.compute = recipe.seed, recipe.compute
        self.num_classes, self.transformations = recipe.images.num_classes, recipe.transformations
        self.num_steps, self.log_every_steps = settings.num_steps, LOG_EVERY_STEPS
        self.checkpoint_every_steps = settings.checkpoint_every_steps
        self.device = choose_device(self.compute.device)
        self.image_size: int = self.images.shape[-1]
        with seeded(self.seed, "teacher-init"):
            cgn = MnistCGN(num_classes=self.num_classes, image_size=self.image_size)
            discriminator: nn.Module = CGN_DISCRIMINATORS[settings.discriminator](
                self.num_classes, self.image_size, settings.discriminator_width
            )
            if settings.spectral_norm:
                for module in list(discriminator.modules()):
                    if isinstance(module, nn.Linear | nn.Conv2d):
                        spectral_norm(module)
            _initialise(cgn, settings)
            _initialise(discriminator, settings)
        if recipe.initial is not None:
            _start_from(cgn, recipe.initial.generator)
        # Channels last is the faster layout of these convolutions on a CPU, in either precision.
        self.cgn = place(cgn, self.device, torch.channels_last).train()
        self.discriminator = discriminator.to(self.device).train()
        self.averaging = WeightAverage(self.cgn, settings.ema_decay)
        self.result = self.averaging.average
        self.generator_optimiser, self.discriminator_optimiser = (
            torch.optim.Adam(network.parameters(), settings.learning_rate, ADAM_BETAS)
            for network in (self.cgn, self.discriminator)
        )
        optimisers = [self.generator_optimiser, self.discriminator_optimiser]
        self._rates = Rates(linear_decay(self.num_steps, settings.decay_share), optimisers)
        self.weights = {
            "adversarial": 1.0,
            "mask_entropy": settings.mask_entropy_weight,
            "mask_bounds": settings.mask_bounds_weight,
            "mode_seeking": settings.mode_seeking_weight,
            "style": 1.0,  # the layers have weights of their own
        }
        self.objects: dict[str, Stateful] = {
            "cgn": self.cgn,
            "discriminator": self.discriminator,
            "average": self.result,
            "generator_optimiser": self.generator_optimiser,
            "discriminator_optimiser": self.discriminator_optimiser,
        }
        self._sampler = EpochSampler(len(split), self.seed, "teacher-rows")

    def batch(self, step: int) -> TeacherBatch:
        """Draw the real images of a step, and what the generated ones are made from."""
        generator = torch_generator(self.seed, "teacher-step", step)
        batch_size = self.settings.batch_size
        noise = torch.randn(batch_size, self.cgn.noise_dim, generator=generator)
        # Each class twice, so that masks of one class can be compared.
        labels = torch.randint(self.num_classes, (batch_size // 2,), generator=generator).repeat(2)
        offsets = [torch.randint(self.image_size, (batch_size, 2), generator=generator) for _ in range(2)]
        rows = self._sampler.rows(step, batch_size)
        parts = (noise, labels, *offsets, from_bytes(self.images[rows]), self.labels[rows])
        return TeacherBatch(*(part.to(self.device) for part in parts))

    def update(self, step: int, batch: TeacherBatch, noted: bool) -> dict[str, float]:
        """Update the generators and then the discriminator; see `Task.update`."""
        settings = self.settings
        self._rates.set(step)

        # Generators.
        with autocast(self.compute, self.device):
            images = self.cgn(batch.noise, batch.labels)
        # Outside of autocast, which would round the coordinates that masks are resampled at.
        generator = torch_generator(self.seed, "teacher-transformations", step)
        transformed = MechanismImages(
            *(transform_mechanism(images.of(m), m, self.transformations.of(m), generator) for m in MECHANISMS)
        )
        # The discriminator's dropout is the step's, whatever ran before.
        with seeded(self.seed, "teacher-dropout", step), autocast(self.compute, self.device):
            composite = compose(transformed, batch.foreground_offset, batch.background_offset)
            scores = self.discriminator(composite, batch.labels).float()
            generated_style, real_style = (
                [layer.float() for layer in self.style_features(x)] for x in (composite, batch.real)
            )
        # The terms on masks judge what the generator makes: what a transformation adds (opacity its entropy,
        # a rotation the difference of two masks) is not the generator's to mend or to be praised for.
        half = len(batch.noise) // 2
        terms = {
            "adversarial": least_squares_generator_loss(scores),
            "mask_entropy": mask_entropy_loss(images.mask),
            "mask_bounds": mask_bounds_loss(images.mask, *settings.mask_bounds),
            "mode_seeking": mode_seeking_loss(images.mask[:half], images.mask[half:], settings.mode_seeking_floor),
            "style": style_loss(generated_style, real_style, settings.style_weights),
        }
        loss = weighted_sum(terms, self.weights)
        self.generator_optimiser.zero_grad(set_to_none=True)
        loss.backward()
        self.generator_optimiser.step()
        self.averaging.update(step)

        # Discriminator, on the same composites.
        with seeded(self.seed, "teacher-dropout-discriminator", step), autocast(self.compute, self.device):
            generated_scores = self.discriminator(composite.detach(), batch.labels).float()
            real_scores = self.discriminator(batch.real, batch.real_labels).float()
        discriminator_loss = least_squares_discriminator_loss(generated_scores, real_scores)
        self.discriminator_optimiser.zero_grad(set_to_none=True)
        discriminator_loss.backward()
        self.discriminator_optimiser.step()

        if not noted:
            return {}
        losses = {name: term.item() for name, term in terms.items()}
        return losses | {
            "total": loss.item(),
            "discriminator": discriminator_loss.item(),
            "mean_mask": images.mask.mean().item(),
        }


class TeacherBatch(NamedTuple):
    """What a step trains on: drawn noise, classes and patch shifts [B, 2], and real images with their classes."""

    noise: Tensor
    labels: Tensor
    foreground_offset: Tensor
    background_offset: Tensor
    real: Tensor
    real_labels: Tensor


@dataclass(frozen=True)
class TeacherRecipe(Recipe[Artifact]):
    """The CGN trained on biased images: its weights, the losses by step and a card of what they were made from.

    Attributes:
        images: What it is trained on.
        settings: Budget, weights, architecture of the discriminator.
        style_settings: Training of the style network.
        seed: Base seed.
        compute: Device and precision.
        assets: The asset folder, for the weights of VGG16.
        transformations: Applied to the generated mechanisms in every step; each has a gradient.
        initial: A CGN of this architecture, whose weights training starts from.
    """

    kind: ClassVar[str] = "teacher"
    version: ClassVar[int] = 2

    images: StoredImages
    settings: TeacherFit
    style_settings: ClassifierFit
    seed: int = 0
    compute: Compute = field(default_factory=Compute)
    assets: str = ""
    transformations: Transformations = PLAIN
    initial: IdentifiedTeacher | None = None

    def inputs(self) -> dict[str, Any]:
        """Return the images, the settings, the seed and the precision, and what else is set."""
        return {"images": self.images.fingerprint, **self._training()}

    def _training(self) -> dict[str, Any]:
        training: dict[str, Any] = {
            "settings": self.settings.model_dump(mode="json", exclude={"checkpoint_every_steps"}),
            "style_settings": self.style_settings.model_dump(mode="json", exclude={"checkpoint_every_steps"}),
            "seed": self.seed,
            "precision": self.compute.precision,
        }
        if self.settings.style_network == "vgg16":
            training["vgg16"] = sha256_of_file(require_vgg16(self.assets, STYLE_SETTING))
        if self.transformations != PLAIN:
            training["transformations"] = self.transformations.model_dump(mode="json")
        if self.initial is not None:
            training["initial"] = self.initial.identity
        return training

    def open_style(self) -> ImageFeatures:
        """Return four layers of features, of VGG16 or of a small classifier that is trained on the biased images."""
        if self.settings.style_network == "vgg16":
            return open_vgg16_features(self.assets, STYLE_SETTING)
        draw = draw_from_split(self.images.split("train"), self.seed, "style-network")
        network, _ = fit_classifier(
            draw,
            self.style_settings,
            self.seed,
            self.compute,
            title="style network",
            initialisation=self.settings.style_initialisation,
        )
        return style_features_of(network)

    def build(self, writer: ArtifactWriter) -> None:
        """Train, or continue; the file of weights says of which images it is, so that others refuse it later."""
        cgn, history = fit(TeacherTask(self, self.open_style()), writer.scratch("checkpoint.pt"))
        made_of = self.images.artifact.inputs
        metadata = {"source": self.images.name}
        if "variant" in made_of:
            metadata = {"variant": made_of["variant"], "source": made_of["settings"]["source"]}
        writer.write(TRAINED_WEIGHTS, partial(write_state, cgn, metadata=metadata))
        writer.write_json(HISTORY_FILE, history)
        card = {
            "architecture": "MnistCGN",
            "data": {key: made_of[key] for key in ("settings", "variant", "seed", "name") if key in made_of},
            "training": self._training(),
            "sha256": writer.files[TRAINED_WEIGHTS],
            "torch": torch.__version__,
        }
        writer.write_json(CARD_FILE, card)
