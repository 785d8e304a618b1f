"""Train three students end to end inside a CGN, with CGN's losses: the control without distillation.

SKDCGN, arXiv 2208.04226, section 4 (baseline); losses of CGN, arXiv 2101.06046, section 3.2. The students have the
architectures of distilled ones, so what differs is how they are taught: by whole images alone. Nothing tells
them which part of an image is the object but the losses on the mask, and masks collapse easily: to nothing, to
everything, or to grey. Mean mask, mask entropy, collapsed masks and inception score are therefore recorded.
"""

from __future__ import annotations

import logging
import math
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from skdcgn_pipeline.artifacts.store import ArtifactWriter, sha256_of_file
from skdcgn_pipeline.losses import weighted_sum
from skdcgn_pipeline.losses.distillation import pixel_loss
from skdcgn_pipeline.losses.mechanism import (
    background_saliency_loss,
    mask_bounds_loss,
    mask_entropy_loss,
    style_loss,
    texture_patches,
)
from skdcgn_pipeline.mechanisms import MechanismImages, compose
from skdcgn_pipeline.metrics.features import FeatureSpace
from skdcgn_pipeline.metrics.generation import ImageStatistics
from skdcgn_pipeline.networks.interface import GeneratorSize
from skdcgn_pipeline.networks.vgg16 import ImageFeatures, require_vgg16
from skdcgn_pipeline.parameters import Baseline, Compute, GenerationMetrics, Teacher
from skdcgn_pipeline.runtime.compute import autocast, choose_device, place
from skdcgn_pipeline.runtime.errors import SettingError
from skdcgn_pipeline.runtime.seeding import seeded, torch_generator
from skdcgn_pipeline.students.recipes import HISTORY_FILE, TrioRecipe
from skdcgn_pipeline.students.trio import StudentCGN
from skdcgn_pipeline.teachers.imagenet_cgn import DEFAULT_TRUNCATION, load_biggan
from skdcgn_pipeline.teachers.teacher import IdentifiedTeacher
from skdcgn_pipeline.training.averaging import WeightAverage
from skdcgn_pipeline.training.checkpointing import History, Stateful
from skdcgn_pipeline.training.task import train
from skdcgn_pipeline.vocabulary import MECHANISMS

logger = logging.getLogger(__name__)

STYLE_SETTING = (
    "baseline.style_network",
    "use 'feature_network' with digits, or set baseline.weights.style and baseline.weights.texture to 0",
)
# What of `describe_images` is recorded while training; the rest is there at every logged step.
MEASURED = ("inception_score", "collapsed_masks")
MEASURING = GenerationMetrics(classes=(), num_splits=1)
MEASURING_BATCH = 64
# Settings that say how often something is noted or kept, and change no weight.
NOTES = {
    "checkpoint_every_steps",
    "log_every_steps",
    "measure_every_steps",
    "num_measured_images",
    "image_teacher_weights",
}


@dataclass(frozen=True)
class ImageTeacher:
    """What the baseline's composites imitate: whole images of noise and class.

    Attributes:
        render: noise [N, noise_dim] ~ N(0, I), classes [N] -> images [N, 3, H, W] in [-1, 1], without gradients.
        network: The module inside of it, to be moved to the device; None where it is none.
        size: As a generator's.
        identity: What the images depend on; JSON-able.
    """

    render: Callable[[Tensor, Tensor], Tensor]
    network: nn.Module | None
    size: GeneratorSize
    identity: Any


@dataclass(frozen=True)
class Guides:
    """Networks that losses and measures of the baseline look through, with what they depend on (JSON-able).

    Attributes:
        style_features: Four layers of features; needed if style or texture have a weight.
        detect: images [N, 3, H, W] in [-1, 1] -> saliency [N, 1, H, W] in [0, 1], with a gradient; needed if the
            background's saliency has a weight.
        space: Whose logits the inception score is of; None takes none. No weight depends on it.
        style_identity, detector_identity: What the first two depend on.
    """

    style_features: ImageFeatures | None = None
    detect: Callable[[Tensor], Tensor] | None = None
    space: FeatureSpace | None = None
    style_identity: Any = None
    detector_identity: Any = None


def image_teacher_of(teacher: IdentifiedTeacher) -> ImageTeacher:
    """Return a teacher's factual composites without patch shift, which its noise does not tell."""
    generator = teacher.generator
    network = generator if isinstance(generator, nn.Module) else None
    return ImageTeacher(
        lambda noise, labels: compose(generator.render(noise, labels)),
        network,
        GeneratorSize.of(generator),
        {"composites": teacher.identity},
    )


def biggan_path(settings: Baseline, teacher: Teacher) -> Path:
    """Return the file of the BigGAN that the composites imitate.

    Raises:
        SettingError: If no setting names one, or it is not there.
    """
    path = settings.image_teacher_weights or teacher.weights
    if not isinstance(path, str) or not Path(path).is_file():
        raise SettingError(
            "baseline.image_teacher_weights",
            "the published CGN, which holds 'biggan_GT', or a file of BigGAN-deep-256",
            path if isinstance(path, str) else "none",
            "Name the file, or use image_teacher=composites.",
        )
    return Path(path)


def open_image_teacher(teacher: IdentifiedTeacher, settings: Baseline, teacher_settings: Teacher) -> ImageTeacher:
    """Return what `baseline.image_teacher` names.

    Raises:
        SettingError: If the BigGAN's file is missing, damaged or of another network.
    """
    if settings.image_teacher == "composites":
        return image_teacher_of(teacher)
    path = biggan_path(settings, teacher_settings)
    biggan = load_biggan(path, teacher_settings.truncation or DEFAULT_TRUNCATION)
    identity = {"biggan": sha256_of_file(path), "truncation": biggan.truncation}
    return ImageTeacher(biggan.render_images, biggan, GeneratorSize.of(biggan), identity)


def detector_of(teacher: IdentifiedTeacher) -> nn.Module | None:
    """Return the detector of salient objects inside a teacher, the U^2-Net of the ImageNet CGN; None without one."""
    return getattr(teacher.generator, "u2net", None)


def check_baseline(
    settings: Baseline,
    teacher: IdentifiedTeacher,
    teacher_settings: Teacher,
    assets: str,
    has_digit_classifier: bool = True,
) -> None:
    """Refuse a baseline that could not be trained, before any work.

    Args:
        settings, teacher, teacher_settings: What is trained, and what its images imitate.
        assets: The asset folder.
        has_digit_classifier: Whether the run has one, which styles may be compared in.

    Raises:
        SettingError: Naming the setting: no detector for the saliency, no style network, no weights of VGG16 or
            BigGAN, patches that do not fill the image, an architecture that cannot make images of this size.
    """
    generator = teacher.generator
    if settings.weights.background_saliency and detector_of(teacher) is None:
        raise SettingError(
            "baseline.weights.background_saliency",
            "0 with a teacher that has no detector of salient objects",
            settings.weights.background_saliency,
            "Set it to 0, or use teacher.name=imagenet_cgn, whose U^2-Net is one.",
        )
    if generator.image_size % settings.patch_size:
        raise SettingError(
            "baseline.patch_size",
            f"a divisor of the image size {generator.image_size}",
            settings.patch_size,
            "Patches are put side by side; take 8 at 32 px.",
        )
    if settings.uses_style and settings.style_network == "vgg16":
        require_vgg16(assets, *STYLE_SETTING)
    elif settings.uses_style and not has_digit_classifier:
        expected = "'vgg16' where no digit classifier is trained"
        raise SettingError(STYLE_SETTING[0], expected, f"'{settings.style_network}'", "Use 'vgg16'.")
    if settings.image_teacher == "biggan":
        biggan_path(settings, teacher_settings)
    _make_students(settings, GeneratorSize.of(generator))


def _make_students(settings: Baseline, size: GeneratorSize) -> StudentCGN:
    architectures: dict[str, Any] = {name: student.model_dump() for name, student in settings.students.items()}
    return StudentCGN(*size, architectures)


class EndToEndTraining:
    """The training of three students whose factual composites shall look like the image teacher's images, a `Task`.

    Each step draws noise and a class per image, renders the image teacher and the three mechanisms on them,
    and updates the students with the weighted sum of the terms of `BaselineWeights`.

    Args:
        recipe: What is trained.

    Attributes:
        average: The averaged students.
    """

    name = title = "baseline"

    def __init__(self, recipe: BaselineRecipe) -> None:
        self.image_teacher, self.settings, self.guides = recipe.image_teacher, recipe.settings, recipe.guides
        self.seed, self.compute, self.device = recipe.seed, recipe.compute, choose_device(recipe.compute.device)
        settings = self.settings
        self.num_steps, self.log_every_steps = settings.num_steps, settings.log_every_steps
        self.checkpoint_every_steps = settings.checkpoint_every_steps
        self.weights = {name: weight for name, weight in settings.weights.model_dump().items() if weight}
        with seeded(self.seed, "baseline-init"):
            students = _make_students(settings, self.image_teacher.size)
        self.students = place(students, self.device, torch.channels_last).train()
        self._averaging = WeightAverage(self.students, settings.ema_decay)
        self.average = self._averaging.average
        groups = [
            {"params": [*self.students.network_of(m).parameters()], "lr": getattr(settings.learning_rates, m)}
            for m in MECHANISMS
        ]
        self.optimiser = torch.optim.Adam(groups, betas=settings.betas)
        self.objects: dict[str, Stateful] = {
            "students": self.students,
            "average": self.average,
            "optimiser": self.optimiser,
        }

    def batch(self, step: int) -> tuple[Tensor, Tensor, Tensor, torch.Generator]:
        """Return noise, classes, the image teacher's images of them, and the generator of the step's further draws."""
        generator = torch_generator(self.seed, "baseline-step", step)
        size, num_images = self.image_teacher.size, self.settings.batch_size
        noise = torch.randn(num_images, size.noise_dim, generator=generator).to(self.device)
        labels = torch.randint(size.num_classes, (num_images,), generator=generator).to(self.device)
        with torch.no_grad(), autocast(self.compute, self.device):
            target = self.image_teacher.render(noise, labels).float()
        return noise, labels, target, generator

    def update(self, step: int, batch: tuple[Tensor, Tensor, Tensor, torch.Generator], noted: bool) -> dict[str, float]:
        """Train on a batch; some steps tell the measures of collapse, too, whether they are asked for or not."""
        noise, labels, target, generator = batch
        with autocast(self.compute, self.device):
            images = self.students(noise, labels)
        composite = compose(images)
        terms = {
            "reconstruction": pixel_loss(composite, target),
            "mask_entropy": mask_entropy_loss(images.mask),
            "mask_bounds": mask_bounds_loss(images.mask, *self.settings.mask_bounds),
        }
        if self.settings.uses_style:
            terms |= self._style_terms(images, composite, target, generator)
        if "background_saliency" in self.weights:
            assert self.guides.detect is not None
            with autocast(self.compute, self.device):
                saliency = self.guides.detect(images.background)
            terms["background_saliency"] = background_saliency_loss(saliency.float())
        loss = weighted_sum({name: terms[name] for name in self.weights}, self.weights)
        self.optimiser.zero_grad(set_to_none=True)
        loss.backward()
        self.optimiser.step()
        self._averaging.update(step)

        done = step + 1
        is_measured = done % self.settings.measure_every_steps == 0 or done == self.num_steps
        measuring = self.guides.space is not None and is_measured
        if not (noted or measuring):
            return {}
        losses = {name: term.item() for name, term in {**terms, "total": loss, "mean_mask": images.mask.mean()}.items()}
        if not math.isfinite(losses["total"]):
            raise SettingError(
                "baseline.learning_rates",
                "rates at which the loss stays finite",
                f"a loss of {losses['total']} at step {done}",
                "Lower the learning rates or the weights of the terms.",
            )
        return losses | (self._measure() if measuring else {})

    def _style_terms(
        self, images: MechanismImages, composite: Tensor, target: Tensor, generator: torch.Generator
    ) -> dict[str, Tensor]:
        """Return how far composites are from the target in style, and foregrounds from patches of its object."""
        assert self.guides.style_features is not None
        patches = texture_patches(target, images.mask, self.settings.patch_size, generator)
        with torch.no_grad(), autocast(self.compute, self.device):
            real = [layer.float() for layer in self.guides.style_features(torch.cat([target, patches]))]
        with autocast(self.compute, self.device):
            both = torch.cat([composite, images.foreground])
            generated = [layer.float() for layer in self.guides.style_features(both)]
        halves = {"style": 0, "texture": 1}
        return {
            name: style_loss(
                [layer.chunk(2)[half] for layer in generated],
                [layer.chunk(2)[half] for layer in real],
                self.settings.style_weights,
                paired=True,
            )
            for name, half in halves.items()
        }

    def _measure(self) -> dict[str, float]:
        """Return what tells of collapse of the averaged students, of the same noise and classes every time."""
        assert self.guides.space is not None
        size, num_images = self.image_teacher.size, self.settings.num_measured_images
        noise = torch.randn(num_images, size.noise_dim, generator=torch_generator(self.seed, "baseline-measure"))
        labels = torch.arange(num_images) % size.num_classes

        statistics = ImageStatistics(num_images, size.num_classes, self.guides.space, MEASURING, self.seed)
        for part, classes in zip(noise.split(MEASURING_BATCH), labels.split(MEASURING_BATCH), strict=True):
            images = self.average.render(part.to(self.device), classes.to(self.device)).to("cpu")
            statistics.update(compose(images), classes, images.mask)
        rows = statistics.describe("baseline")
        return {row["measure"]: row["value"] for row in rows if row["measure"] in MEASURED}


@dataclass(frozen=True)
class BaselineRecipe(TrioRecipe):
    """Three students that are trained end to end.

    Attributes:
        image_teacher: Gives the target of every noise and class.
        settings: Architectures, budget and weights.
        seed: Base seed.
        compute: Device and precision.
        guides: Networks of losses and measures.
    """

    image_teacher: ImageTeacher
    settings: Baseline
    seed: int
    compute: Compute
    guides: Guides = Guides()

    kind = "baseline"
    folder = "baseline"

    def inputs(self) -> dict[str, Any]:
        """Return image teacher, settings, seed, precision, and of the guides those that have a weight."""
        return {
            "image_teacher": self.image_teacher.identity,
            "style": self.guides.style_identity if self.settings.uses_style else None,
            "detector": self.guides.detector_identity if self.settings.weights.background_saliency else None,
            "settings": self.settings.model_dump(mode="json", exclude=NOTES),
            "seed": self.seed,
            "precision": self.compute.precision,
        }

    def fit(self, checkpoint_path: Path | None = None) -> tuple[StudentCGN, History]:
        """Train, or continue.

        Returns:
            The averaged students in eval mode, on the CPU, and the history of what was recorded: losses, `mean_mask`
            (in [0, 1]) and `mask_entropy` (bits) of the step's batch; at some steps `inception_score` and
            `collapsed_masks` (a share) of the averaged students.

        Raises:
            SettingError: If the image size fits no architecture, or a loss is not finite.
            InterruptedRunError: If a stop was requested; the state is saved.
        """
        task = EndToEndTraining(self)
        helpers = [n for n in (self.image_teacher.network, self.guides.detect) if isinstance(n, nn.Module)]
        for network in helpers:
            network.to(task.device)
        history = train(task, checkpoint_path)
        for network in helpers:
            network.to("cpu")
        last = next((entry for entry in reversed(history) if "collapsed_masks" in entry), None)
        if last is not None and last["collapsed_masks"] > 0.5:
            shares = 100 * last["collapsed_masks"], last["mean_mask"]
            logger.warning(
                "Baseline: %.0f %% of the masks have collapsed to nothing or everything (mean mask %.2f)", *shares
            )
        return place(task.average, "cpu", torch.contiguous_format), history

    def build(self, writer: ArtifactWriter) -> None:
        """Train the students."""
        students, history = self.fit(writer.scratch("checkpoint.pt"))
        students.write_into(writer)
        writer.write_json(HISTORY_FILE, history)
