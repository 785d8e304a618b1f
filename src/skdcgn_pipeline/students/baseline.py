"""Train three students end to end inside a CGN, with CGN's losses: the control without distillation.

SKDCGN, arXiv 2208.04226, section 4 (baseline); losses of CGN, arXiv 2101.06046, section 3.2. The students have the
architectures of distilled ones, so what differs is how they are taught: by whole images alone. Nothing tells
them which part of an image is the object but the losses on the mask, and masks collapse easily: to nothing, to
everything, or to grey. Mean mask, mask entropy, collapsed masks and inception score are therefore recorded.
"""

from __future__ import annotations

import logging
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from skdcgn_pipeline.artifacts.store import ArtifactWriter, build_artifact, sha256_of_file
from skdcgn_pipeline.classifiers.training import HISTORY_FILE
from skdcgn_pipeline.losses import weighted_sum
from skdcgn_pipeline.losses.distillation import pixel_loss
from skdcgn_pipeline.losses.mechanism import (
    background_saliency_loss,
    mask_bounds_loss,
    mask_entropy_loss,
    style_loss,
    texture_patches,
)
from skdcgn_pipeline.mechanisms import compose
from skdcgn_pipeline.metrics.features import FeatureSpace
from skdcgn_pipeline.metrics.generation import ImageBatch, ImageStatistics
from skdcgn_pipeline.networks.vgg16 import ImageFeatures, require_vgg16
from skdcgn_pipeline.parameters import Baseline, Compute, GenerationMetrics, Teacher
from skdcgn_pipeline.runtime.compute import autocast, choose_device, place
from skdcgn_pipeline.runtime.errors import SettingError
from skdcgn_pipeline.runtime.seeding import seeded, torch_generator
from skdcgn_pipeline.students.distillation import StudentsArtifact, write_students
from skdcgn_pipeline.students.trio import StudentCGN
from skdcgn_pipeline.teachers.imagenet_cgn import DEFAULT_TRUNCATION, load_biggan
from skdcgn_pipeline.teachers.teacher import IdentifiedTeacher
from skdcgn_pipeline.training.averaging import WeightAverage
from skdcgn_pipeline.training.checkpointing import (
    Checkpoint,
    History,
    RecordStep,
    Stateful,
    TrainingLoop,
    record_nothing,
)
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

DetectObjects = Callable[[Tensor], Tensor]


@dataclass(frozen=True)
class ImageTeacher:
    """What the baseline's composites imitate: whole images of noise and class.

    Attributes:
        render: noise [N, noise_dim] ~ N(0, I), classes [N] -> images [N, 3, H, W] in [-1, 1], without gradients.
        network: The module inside of it, to be moved to the device; None where it is none.
        noise_dim, num_classes, image_size: As those of a generator.
        identity: What the images depend on; JSON-able.
    """

    render: Callable[[Tensor, Tensor], Tensor]
    network: nn.Module | None
    noise_dim: int
    num_classes: int
    image_size: int
    identity: Any


def image_teacher_of(teacher: IdentifiedTeacher) -> ImageTeacher:
    """Return a teacher's factual composites without patch shift, which its noise does not tell."""
    generator = teacher.generator
    return ImageTeacher(
        lambda noise, labels: compose(generator.render(noise, labels)),
        generator if isinstance(generator, nn.Module) else None,
        generator.noise_dim,
        generator.num_classes,
        generator.image_size,
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
    return ImageTeacher(biggan.render_images, biggan, biggan.noise_dim, biggan.num_classes, biggan.image_size, identity)


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
    _make_students(settings, generator.noise_dim, generator.num_classes, generator.image_size)


def _make_students(settings: Baseline, noise_dim: int, num_classes: int, image_size: int) -> StudentCGN:
    architectures: dict[str, Any] = {name: student.model_dump() for name, student in settings.students.items()}
    return StudentCGN(noise_dim, num_classes, image_size, architectures)


def fit_baseline(
    image_teacher: ImageTeacher,
    settings: Baseline,
    seed: int,
    compute: Compute,
    style_features: ImageFeatures | None = None,
    detect: nn.Module | DetectObjects | None = None,
    space: FeatureSpace | None = None,
    checkpoint_path: Path | None = None,
    record: RecordStep = record_nothing,
) -> tuple[StudentCGN, History]:
    """Train three students so that their factual composites look like the image teacher's images.

    Each step draws noise and a class per image, renders the image teacher and the three mechanisms on them,
    and updates the students with the weighted sum of the terms of `BaselineWeights`.

    Args:
        image_teacher: Gives the target of every noise and class.
        settings: Architectures, budget and weights.
        seed: Base seed.
        compute: Device and precision.
        style_features: Four layers of features; needed if style or texture have a weight.
        detect: images [N, 3, H, W] in [-1, 1] -> saliency [N, 1, H, W] in [0, 1], with a gradient; needed if the
            background's saliency has a weight.
        space: Whose logits the inception score is of; None takes none.
        checkpoint_path: Where the state is kept while training; None keeps nothing.
        record: Called with (step, losses) every few steps; `mean_mask` (in [0, 1]) and `mask_entropy` (bits) are
            of the step's batch, `inception_score` and `collapsed_masks` (a share) of the averaged students.

    Returns:
        The averaged students in eval mode, on the CPU, and the history of what was recorded.

    Raises:
        SettingError: If the image size fits no architecture, or a loss is not finite.
        InterruptedRunError: If a stop was requested; the state is saved.
    """
    device = choose_device(compute.device)
    with seeded(seed, "baseline-init"):
        students = _make_students(
            settings, image_teacher.noise_dim, image_teacher.num_classes, image_teacher.image_size
        )
    students = place(students, device, torch.channels_last).train()
    for network in (image_teacher.network, detect):
        if isinstance(network, nn.Module):
            network.to(device)
    averaging = WeightAverage(students, settings.ema_decay)
    groups = [
        {"params": [*students.network_of(m).parameters()], "lr": getattr(settings.learning_rates, m)}
        for m in MECHANISMS
    ]
    optimiser = torch.optim.Adam(groups, betas=settings.betas)
    objects: dict[str, Stateful] = {"students": students, "average": averaging.average, "optimiser": optimiser}
    checkpoint = Checkpoint(checkpoint_path, objects, settings.checkpoint_every_steps)
    loop = TrainingLoop("baseline", settings.num_steps, checkpoint, record)
    weights = {name: weight for name, weight in settings.weights.model_dump().items() if weight}

    for step in loop.steps():
        generator = torch_generator(seed, "baseline-step", step)
        noise = torch.randn(settings.batch_size, image_teacher.noise_dim, generator=generator).to(device)
        labels = torch.randint(image_teacher.num_classes, (settings.batch_size,), generator=generator).to(device)
        with torch.no_grad(), autocast(compute, device):
            target = image_teacher.render(noise, labels).float()
        with autocast(compute, device):
            images = students(noise, labels)
        composite = compose(images)
        terms = {
            "reconstruction": pixel_loss(composite, target),
            "mask_entropy": mask_entropy_loss(images.mask),
            "mask_bounds": mask_bounds_loss(images.mask, *settings.mask_bounds),
        }
        if settings.uses_style:
            assert style_features is not None
            patches = texture_patches(target, images.mask, settings.patch_size, generator)
            with torch.no_grad(), autocast(compute, device):
                real = [layer.float() for layer in style_features(torch.cat([target, patches]))]
            with autocast(compute, device):
                generated = [layer.float() for layer in style_features(torch.cat([composite, images.foreground]))]
            halves = zip(("style", "texture"), (slice(0, len(target)), slice(len(target), None)), strict=True)
            for name, half in halves:
                mine, theirs = ([layer[half] for layer in layers] for layers in (generated, real))
                terms[name] = style_loss(mine, theirs, settings.style_weights, paired=True)
        if "background_saliency" in weights:
            assert detect is not None
            with autocast(compute, device):
                saliency = detect(images.background)
            terms["background_saliency"] = background_saliency_loss(saliency.float())
        loss = weighted_sum({name: terms[name] for name in weights}, weights)
        optimiser.zero_grad(set_to_none=True)
        loss.backward()
        optimiser.step()
        averaging.update(step)

        measured = space is not None and loop.is_noted(step, settings.measure_every_steps)
        if measured or loop.is_noted(step, settings.log_every_steps):
            losses = {name: term.item() for name, term in terms.items()}
            losses |= {"total": loss.item(), "mean_mask": images.mask.mean().item()}
            _check_finite(losses["total"], step)
            if measured and space is not None:
                losses |= _measure(averaging.average, space, settings.num_measured_images, seed, device)
            loop.note(step, losses)
    _warn_of_collapse(loop.history)
    for network in (image_teacher.network, detect):
        if isinstance(network, nn.Module):
            network.to("cpu")
    return place(averaging.average, "cpu", torch.contiguous_format), loop.history


def _measure(
    students: StudentCGN, space: FeatureSpace, num_images: int, seed: int, device: torch.device
) -> dict[str, float]:
    """Return what tells of collapse, of the same noise and classes every time."""
    noise = torch.randn(num_images, students.noise_dim, generator=torch_generator(seed, "baseline-measure"))
    labels = torch.arange(num_images) % students.num_classes

    statistics = ImageStatistics(num_images, students.num_classes, space, MEASURING, seed)
    for part, own in zip(noise.split(MEASURING_BATCH), labels.split(MEASURING_BATCH), strict=True):
        images = students.render(part.to(device), own.to(device)).to("cpu")
        statistics.update(ImageBatch(compose(images), own, images.mask))
    rows = statistics.describe("baseline")
    return {row["measure"]: row["value"] for row in rows if row["measure"] in MEASURED}


def _check_finite(loss: float, step: int) -> None:
    if not torch.isfinite(torch.tensor(loss)):
        raise SettingError(
            "baseline.learning_rates",
            "rates at which the loss stays finite",
            f"a loss of {loss} at step {step + 1}",
            "Lower the learning rates or the weights of the terms.",
        )


def _warn_of_collapse(history: History) -> None:
    last = next((entry for entry in reversed(history) if "collapsed_masks" in entry), None)
    if last is not None and last["collapsed_masks"] > 0.5:
        logger.warning(
            "Baseline: %.0f %% of the masks have collapsed to nothing or everything (mean mask %.2f)",
            100 * last["collapsed_masks"],
            last["mean_mask"],
        )


class BaselineArtifact(StudentsArtifact):
    """Three students that were trained end to end, in a folder that `StudentCGN.from_pretrained` reads."""

    @property
    def history(self) -> History:
        """Losses and measures by step."""
        return self.artifact.read_json(HISTORY_FILE)


def build_baseline(
    store: Path,
    image_teacher: ImageTeacher,
    settings: Baseline,
    seed: int,
    compute: Compute,
    style_features: ImageFeatures | None = None,
    style_identity: Any = None,
    detect: nn.Module | DetectObjects | None = None,
    detector_identity: Any = None,
    space: FeatureSpace | None = None,
    record: RecordStep = record_nothing,
) -> BaselineArtifact:
    """Return the baseline: train it, continue it, or reuse it; arguments as in `fit_baseline`.

    Args:
        store: Directory of baselines.
        style_identity, detector_identity: What the style features and the detector depend on; JSON-able.
    """

    def write(writer: ArtifactWriter) -> None:
        students, history = fit_baseline(
            image_teacher,
            settings,
            seed,
            compute,
            style_features,
            detect,
            space,
            writer.scratch("checkpoint.pt"),
            record,
        )
        write_students(writer, students)
        writer.write_json(HISTORY_FILE, history)

    inputs = {
        "kind": "baseline",
        "image_teacher": image_teacher.identity,
        "style": style_identity if settings.uses_style else None,
        "detector": detector_identity if settings.weights.background_saliency else None,
        "settings": settings.model_dump(mode="json", exclude=NOTES),
        "seed": seed,
        "precision": compute.precision,
    }
    return BaselineArtifact(build_artifact(store, inputs, write))
