"""What every training of a CGN is made of: networks, optimisers, noise, composites, measures and the best weights."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.nn.utils.parametrizations import spectral_norm

from skdcgn_pipeline.images.epochs import EpochSampler
from skdcgn_pipeline.losses import weighted_sum
from skdcgn_pipeline.losses.adversarial import least_squares_discriminator_loss
from skdcgn_pipeline.mechanisms import MechanismImages, compose
from skdcgn_pipeline.networks.discriminator import CGN_DISCRIMINATORS
from skdcgn_pipeline.networks.vgg16 import ImageFeatures
from skdcgn_pipeline.parameters import TeacherFit
from skdcgn_pipeline.runtime.compute import autocast, choose_device, place
from skdcgn_pipeline.runtime.errors import SettingError
from skdcgn_pipeline.runtime.seeding import seeded, torch_generator
from skdcgn_pipeline.samples.pixels import from_bytes
from skdcgn_pipeline.teachers.cgn import MnistCGN
from skdcgn_pipeline.teachers.measures import TeacherMeasures
from skdcgn_pipeline.training.averaging import BestWeights, WeightAverage
from skdcgn_pipeline.training.checkpointing import Stateful
from skdcgn_pipeline.training.schedules import Rates, linear_decay
from skdcgn_pipeline.transformations import transform_mechanism
from skdcgn_pipeline.vocabulary import MECHANISMS

if TYPE_CHECKING:
    from skdcgn_pipeline.teachers.training import TeacherRecipe

LOG_EVERY_STEPS = 50
ADAM_BETAS = (0.5, 0.999)


def _initialise(network: nn.Module, settings: TeacherFit) -> None:
    for module in network.modules():
        if isinstance(module, nn.Linear | nn.Conv2d):
            if settings.init == "orthogonal":
                nn.init.orthogonal_(module.weight, settings.init_gain)
            else:
                nn.init.normal_(module.weight, 0.0, settings.init_gain)
            if module.bias is not None:
                nn.init.zeros_(module.bias)


def _start_from(cgn: MnistCGN, initial: Any) -> None:
    """Give a network the weights of another one of the same sizes."""
    expected, got = (f"a CGN for {n.num_classes} classes and images of {n.image_size} pixels" for n in (cgn, initial))
    if expected != got:
        remedy = "Start from a teacher of the same kind of images, or from the beginning."
        raise SettingError("initial teacher", expected, got, remedy)
    cgn.load_state_dict(initial.state_dict())


class TeacherBatch(NamedTuple):
    """What a step trains on: drawn noise, classes and patch shifts [B, 2], and real images with their classes."""

    noise: Tensor
    labels: Tensor
    foreground_offset: Tensor
    background_offset: Tensor
    real: Tensor
    real_labels: Tensor


class CGNTask:
    """The common part of the trainings of a CGN, which take the same; each has the `update` of a `training.task.Task`.

    Args:
        recipe: What is trained; only the CGN starts from an initial teacher, the discriminator always anew.
        style_features: Four layers of features for the style loss and for measures.
        learnt_masks: Of the CGN, see there.

    Attributes:
        result: The averaged CGN; where it is measured, as it was at its best.

    Raises:
        SettingError: If the initial teacher is of another size, or a CGN cannot have the size of the images.
    """

    name = title = "teacher"

    def __init__(self, recipe: TeacherRecipe, style_features: ImageFeatures, learnt_masks: bool = False) -> None:
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
            cgn = MnistCGN(num_classes=self.num_classes, image_size=self.image_size, learnt_masks=learnt_masks)
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
        self.generator_optimiser, self.discriminator_optimiser = (
            torch.optim.Adam(network.parameters(), settings.learning_rate, ADAM_BETAS)
            for network in (self.cgn, self.discriminator)
        )
        self.objects: dict[str, Stateful] = {
            "cgn": self.cgn,
            "discriminator": self.discriminator,
            "average": self.averaging.average,
            "generator_optimiser": self.generator_optimiser,
            "discriminator_optimiser": self.discriminator_optimiser,
        }
        self._rates = self._make_rates()
        self._sampler = EpochSampler(len(split), self.seed, "teacher-rows")
        if settings.num_measures:
            self._measures = TeacherMeasures(split, self.num_classes, style_features, self.seed)
            self.best = self.objects["best"] = BestWeights(self.averaging.average)

    def _make_rates(self) -> Rates:
        """Return the learning rates by step of all that the optimisers have by now."""
        optimisers = [self.generator_optimiser, self.discriminator_optimiser]
        return Rates(linear_decay(self.num_steps, self.settings.decay_share), optimisers)

    @property
    def result(self) -> MnistCGN:
        """The averaged CGN, as it was at its best where it is measured."""
        return self.best.network if self.settings.num_measures else self.averaging.average

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

    def transform(self, images: MechanismImages, step: int) -> MechanismImages:
        """Return what is composed: the mechanisms through their transformations."""
        # Outside of autocast, which would round the coordinates that masks are resampled at.
        generator = torch_generator(self.seed, "teacher-transformations", step)
        return MechanismImages(
            *(transform_mechanism(images.of(m), m, self.transformations.of(m), generator) for m in MECHANISMS)
        )

    def judge(self, step: int, images: MechanismImages, batch: TeacherBatch) -> tuple[Tensor, Tensor, list, list]:
        """Compose images with the batch's patch shifts.

        Returns:
            The composites, their scores, and the style features of composites and of real images.
        """
        # The discriminator's dropout is the step's, whatever ran before.
        with seeded(self.seed, "teacher-dropout", step), autocast(self.compute, self.device):
            shifts = (batch.foreground_offset, batch.background_offset) if self.settings.patch_shift else (None, None)
            composite = compose(images, *shifts)
            scores = self.discriminator(composite, batch.labels).float()
            generated_style, real_style = (
                [layer.float() for layer in self.style_features(x)] for x in (composite, batch.real)
            )
        return composite, scores, generated_style, real_style

    def update_generator(self, terms: dict[str, Tensor], weights: dict[str, float]) -> Tensor:
        """Update all that the generators' optimiser has on weighted terms; returns their sum."""
        loss = weighted_sum(terms, weights)
        self.generator_optimiser.zero_grad(set_to_none=True)
        loss.backward()
        self.generator_optimiser.step()
        return loss

    def update_discriminator(self, step: int, composite: Tensor, batch: TeacherBatch) -> Tensor:
        """Update the discriminator on the generator's composites; returns its loss."""
        with seeded(self.seed, "teacher-dropout-discriminator", step), autocast(self.compute, self.device):
            generated_scores = self.discriminator(composite.detach(), batch.labels).float()
            real_scores = self.discriminator(batch.real, batch.real_labels).float()
        loss = least_squares_discriminator_loss(generated_scores, real_scores)
        self.discriminator_optimiser.zero_grad(set_to_none=True)
        loss.backward()
        self.discriminator_optimiser.step()
        return loss

    def conclude(self, step: int, losses: dict[str, Tensor], noted: bool) -> dict[str, float]:
        """Average after a step, measure the averaged CGN where that is due, and keep it if it is the best.

        Returns:
            The losses, if they are asked for, and what was measured.
        """
        self.averaging.update(step)
        settings, done, measures = self.settings, step + 1, dict[str, float]()
        if settings.num_measures and (
            done % max(1, self.num_steps // settings.num_measures) == 0 or done == self.num_steps
        ):
            measures = self._measures(self.averaging.average, self.device)
            self.best.offer(self.averaging.average, measures["frechet"])
        return {name: loss.item() for name, loss in losses.items()} | measures if noted else measures
