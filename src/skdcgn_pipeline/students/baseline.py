"""Train three students end to end inside a CGN, with CGN's losses: the control without distillation.

SKDCGN, arXiv 2208.04226, section 4 (baseline); losses of CGN, arXiv 2101.06046, section 3.2. The students have the
architectures of distilled ones, so what differs is how they are taught: by whole images alone. Nothing tells
them which part of an image is the object but the losses on the mask, and masks collapse easily: to nothing, to
everything, or to grey. Mean mask, mask entropy, collapsed masks and inception score are therefore recorded.
"""

from __future__ import annotations

import logging
import math
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

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
from skdcgn_pipeline.runtime.compute import autocast, choose_device, on_device, place
from skdcgn_pipeline.runtime.errors import SettingError
from skdcgn_pipeline.runtime.seeding import seeded, torch_generator
from skdcgn_pipeline.students.recipes import HISTORY_FILE, TrioRecipe
from skdcgn_pipeline.students.trio import StudentCGN
from skdcgn_pipeline.teachers.imagenet_cgn import DEFAULT_TRUNCATION, draw_biggan, load_biggan
from skdcgn_pipeline.teachers.teacher import IdentifiedTeacher
from skdcgn_pipeline.training.averaging import WeightAverage
from skdcgn_pipeline.training.checkpointing import History, Stateful
from skdcgn_pipeline.training.task import fit
from skdcgn_pipeline.vocabulary import MECHANISMS

logger = logging.getLogger(__name__)

STYLE_SETTING = "baseline.style_network"
# What of `describe_images` is recorded while training; the rest is there at every logged step.
MEASURED = ("inception_score", "collapsed_masks")
MEASURING = GenerationMetrics(num_splits=1)
MEASURING_BATCH = 64


def biggan_path(settings: Baseline, teacher: Teacher) -> Path | None:
    """Return the file of the BigGAN that the composites imitate; None where they imitate the teacher's.

    Raises:
        SettingError: If no setting names one, or it is not there.
    """
    if settings.image_teacher == "composites":
        return None
    path = settings.image_teacher_weights or teacher.weights
    if not isinstance(path, str) or not Path(path).is_file():
        raise SettingError(
            "baseline.image_teacher_weights",
            "the published CGN, which holds 'biggan_GT', or a file of BigGAN-deep-256",
            path if isinstance(path, str) else "none",
            "Name the file, or use image_teacher=composites.",
        )
    return Path(path)


def detector_of(teacher: IdentifiedTeacher) -> Any:
    """Return the detector of salient objects inside a teacher, the U^2-Net of the ImageNet CGN; None without one.

    It takes images [N, 3, H, W] in [-1, 1] and gives saliency [N, 1, H, W] in [0, 1], with a gradient.
    """
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
        require_vgg16(assets, STYLE_SETTING)
    elif settings.uses_style and not has_digit_classifier:
        expected = "'vgg16' where no digit classifier is trained"
        raise SettingError(STYLE_SETTING, expected, f"'{settings.style_network}'", "Use 'vgg16'.")
    biggan_path(settings, teacher_settings)
    _make_students(settings, GeneratorSize.of(generator))


def _make_students(settings: Baseline, size: GeneratorSize) -> StudentCGN:
    architectures: dict[str, Any] = {name: student.arguments() for name, student in settings.students.items()}
    return StudentCGN(*size, architectures)


class EndToEndTraining:
    """The training of three students whose factual composites shall look like a teacher's images, a `Task`.

    Each step draws noise and a class per image, renders the teacher and the three mechanisms on them,
    and updates the students with the weighted sum of the terms of `BaselineWeights`.

    Args:
        recipe: What is trained.

    Attributes:
        teacher: What is imitated: a generator, whose composites are, or a BigGAN.
        detect: Finds salient objects, see `detector_of`.
        result: The averaged students.
    """

    name = title = "baseline"

    def __init__(self, recipe: BaselineRecipe) -> None:
        self.recipe, self.settings = recipe, recipe.settings
        self.seed, self.compute, self.device = recipe.seed, recipe.compute, choose_device(recipe.compute.device)
        settings, generator = self.settings, recipe.teacher.generator
        self.teacher: Any = generator if recipe.biggan is None else load_biggan(recipe.biggan)
        self.detect = detector_of(recipe.teacher)
        self.size = GeneratorSize.of(generator)
        self.num_steps, self.log_every_steps = settings.num_steps, settings.log_every_steps
        self.checkpoint_every_steps = settings.checkpoint_every_steps
        self.weights = {name: weight for name, weight in settings.weights.model_dump().items() if weight}
        with seeded(self.seed, "baseline-init"):
            students = _make_students(settings, self.size)
        self.students = place(students, self.device, torch.channels_last).train()
        self._averaging = WeightAverage(self.students, settings.ema_decay)
        self.result = self._averaging.average
        groups = [
            {"params": [*self.students.network_of(m).parameters()], "lr": getattr(settings.learning_rates, m)}
            for m in MECHANISMS
        ]
        self.optimiser = torch.optim.Adam(groups, betas=settings.betas)
        self.objects: dict[str, Stateful] = {
            "students": self.students,
            "average": self.result,
            "optimiser": self.optimiser,
        }

    def batch(self, step: int) -> tuple[Tensor, Tensor, Tensor, torch.Generator]:
        """Return noise, classes, the teacher's images of them, and the generator of the step's further draws."""
        generator = torch_generator(self.seed, "baseline-step", step)
        size, num_images = self.size, self.settings.batch_size
        noise = torch.randn(num_images, size.noise_dim, generator=generator).to(self.device)
        labels = torch.randint(size.num_classes, (num_images,), generator=generator).to(self.device)
        with torch.no_grad(), autocast(self.compute, self.device):
            if self.recipe.biggan is not None:
                target = draw_biggan(self.teacher, noise, labels, self.recipe.truncation)
            else:
                # Factual, and without patch shift, which the noise does not tell.
                target = compose(self.teacher.render(noise, labels))
        return noise, labels, target.float(), generator

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
            with autocast(self.compute, self.device):
                saliency = self.detect(images.background)
            terms["background_saliency"] = background_saliency_loss(saliency.float())
        loss = weighted_sum({name: terms[name] for name in self.weights}, self.weights)
        self.optimiser.zero_grad(set_to_none=True)
        loss.backward()
        self.optimiser.step()
        self._averaging.update(step)

        done = step + 1
        is_measured = done % self.settings.measure_every_steps == 0 or done == self.num_steps
        measuring = self.recipe.space is not None and is_measured
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
        features = self.recipe.style_features
        assert features is not None
        patches = texture_patches(target, images.mask, self.settings.patch_size, generator)
        with torch.no_grad(), autocast(self.compute, self.device):
            real = [layer.float() for layer in features(torch.cat([target, patches]))]
        with autocast(self.compute, self.device):
            both = torch.cat([composite, images.foreground])
            generated = [layer.float() for layer in features(both)]
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
        assert self.recipe.space is not None
        size, num_images = self.size, self.settings.num_measured_images
        noise = torch.randn(num_images, size.noise_dim, generator=torch_generator(self.seed, "baseline-measure"))
        labels = torch.arange(num_images) % size.num_classes

        statistics = ImageStatistics(num_images, self.recipe.space, MEASURING, self.seed)
        for part, classes in zip(noise.split(MEASURING_BATCH), labels.split(MEASURING_BATCH), strict=True):
            images = self.result.render(part.to(self.device), classes.to(self.device)).to("cpu")
            statistics.update(compose(images), images.mask)
        rows = statistics.describe("baseline")
        return {row["measure"]: row["value"] for row in rows if row["measure"] in MEASURED}


@dataclass(frozen=True)
class BaselineRecipe(TrioRecipe):
    """Three students that are trained end to end.

    Attributes:
        teacher: Whose factual composites are imitated, and whose detector looks for objects in backgrounds.
        settings: Architectures, budget and weights.
        seed: Base seed.
        compute: Device and precision.
        style_features: Four layers of features; needed if style or texture have a weight.
        style_identity: What these depend on; JSON-able.
        space: Whose logits the inception score is of; None takes none. No weight depends on it.
        biggan: File of the BigGAN that is imitated instead, see `load_biggan`.
    """

    teacher: IdentifiedTeacher
    settings: Baseline
    seed: int
    compute: Compute
    style_features: ImageFeatures | None = None
    style_identity: Any = None
    space: FeatureSpace | None = None
    biggan: Path | None = None

    kind = "baseline"
    folder = "baseline"

    def inputs(self) -> dict[str, Any]:
        """Return what is imitated, settings, seed, precision, and the networks of losses that have a weight."""
        imitated: dict[str, Any] = {"composites": self.teacher.identity}
        if self.biggan is not None:
            imitated = {"biggan": sha256_of_file(self.biggan), "truncation": self.truncation}
        return {
            "image_teacher": imitated,
            "style": self.style_identity if self.settings.uses_style else None,
            "detector": self.teacher.identity if self.settings.weights.background_saliency else None,
            "settings": self.settings.identity(),
            "seed": self.seed,
            "precision": self.compute.precision,
        }

    @property
    def truncation(self) -> float:
        """The truncation of the BigGAN: the teacher's, if it has one."""
        return getattr(self.teacher.generator, "truncation", DEFAULT_TRUNCATION)

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
        with on_device(task.device, task.teacher, task.detect):
            students, history = fit(task, checkpoint_path)
        last = next((entry for entry in reversed(history) if "collapsed_masks" in entry), None)
        if last is not None and last["collapsed_masks"] > 0.5:
            shares = 100 * last["collapsed_masks"], last["mean_mask"]
            logger.warning(
                "Baseline: %.0f %% of the masks have collapsed to nothing or everything (mean mask %.2f)", *shares
            )
        return students, history

    def build(self, writer: ArtifactWriter) -> None:
        """Train the students."""
        students, history = self.fit(writer.scratch("checkpoint.pt"))
        students.write_into(writer)
        writer.write_json(HISTORY_FILE, history)
