"""Train a CGN of the MNIST architecture on any biased dataset (CGN, arXiv 2101.06046, section 4.1)."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file
from torch import Tensor, nn
from torch.nn.utils.parametrizations import spectral_norm

from skdcgn_pipeline.artifacts.store import Artifact, ArtifactWriter, build_artifact
from skdcgn_pipeline.classifiers.classifier import INITIALISATION, DigitClassifier
from skdcgn_pipeline.classifiers.training import fit_classifier
from skdcgn_pipeline.images.batches import EpochSampler, draw_from_split, from_bytes
from skdcgn_pipeline.images.biased import BiasedImages
from skdcgn_pipeline.images.image_set import Split
from skdcgn_pipeline.losses import weighted_sum
from skdcgn_pipeline.losses.adversarial import least_squares_discriminator_loss, least_squares_generator_loss
from skdcgn_pipeline.losses.mechanism import mask_bounds_loss, mask_entropy_loss, mode_seeking_loss, style_loss
from skdcgn_pipeline.mechanisms import MechanismImages, compose
from skdcgn_pipeline.networks.discriminator import CGN_DISCRIMINATORS
from skdcgn_pipeline.networks.vgg16 import ImageFeatures, open_vgg16_features
from skdcgn_pipeline.parameters import ClassifierFit, Compute, TeacherFit, Transformations
from skdcgn_pipeline.runtime.compute import autocast, choose_device, place
from skdcgn_pipeline.runtime.errors import SettingError
from skdcgn_pipeline.runtime.seeding import seeded, torch_generator
from skdcgn_pipeline.teachers.cgn import MnistCGN
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
from skdcgn_pipeline.transformations import transform_mechanism
from skdcgn_pipeline.vocabulary import MECHANISMS, channels_of

WEIGHTS_FILE, HISTORY_FILE = "teacher.safetensors", "history.json"
CARD_FILE = "teacher.json"
LOG_EVERY_STEPS = 50
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


def fit_style_network(
    split: Split, settings: ClassifierFit, seed: int, compute: Compute, initialisation: str = INITIALISATION
) -> ImageFeatures:
    """Train a small classifier on the biased images and return its four layers as style features."""
    draw = draw_from_split(split, seed, "style-network")
    network, _ = fit_classifier(draw, settings, seed, compute, title="style network", initialisation=initialisation)
    return style_features_of(network)


def style_features_of(network: DigitClassifier) -> ImageFeatures:
    """Return the four layers of a classifier as style features; the classifier is frozen."""
    network.requires_grad_(False)

    def features(images: Tensor) -> list[Tensor]:
        return network.to(images.device).layer_features(images)

    return features


def _check_gradients(transformations: Transformations) -> None:
    """Refuse a transformation that would keep the losses from the generator.

    Raises:
        SettingError: Naming the mechanism's setting and the kind.
    """
    for mechanism in MECHANISMS:
        for kind, strength in transformations.of(mechanism):
            images = torch.full((2, channels_of(mechanism), 8, 8), 0.5, requires_grad=True)
            if not transform_mechanism(images, mechanism, [(kind, strength)], torch.Generator()).requires_grad:
                raise SettingError(
                    f"compose.composition.transformations.{mechanism}",
                    "transformations with a gradient, as they are applied inside the teacher's training",
                    f"'{kind}', which has none",
                    "Set compose.stage=compose, or leave it out.",
                )


def _network_of(initial: IdentifiedTeacher) -> MnistCGN:
    """Return the network of a teacher that training can start from; refuse one that has none."""
    if not isinstance(initial.generator, MnistCGN):
        raise SettingError(
            "initial teacher",
            "a CGN of the MNIST architecture, whose weights training starts from",
            type(initial.generator).__name__,
            "Use teacher.name=mnist_cgn or digits_cgn, or train from the beginning.",
        )
    return initial.generator


def _start_from(cgn: MnistCGN, initial: MnistCGN) -> None:
    """Give a network the weights of another one of the same sizes."""
    own, given = ({n: tuple(v.shape) for n, v in network.state_dict().items()} for network in (cgn, initial))
    differing = [name for name in own if own[name] != given.get(name)]
    if differing:
        name = differing[0]
        raise SettingError(
            "initial teacher",
            f"a CGN for {cgn.num_classes} classes and images of {cgn.image_size} pixels, '{name}' {list(own[name])}",
            f"'{name}' {list(given.get(name, ()))}",
            "Start from a teacher of the same kind of images, or from the beginning.",
        )
    cgn.load_state_dict(initial.state_dict())


def fit_teacher(
    split: Split,
    style_features: ImageFeatures,
    settings: TeacherFit,
    seed: int,
    compute: Compute,
    checkpoint_path: Path | None = None,
    record: RecordStep = record_nothing,
    num_classes: int = 10,
    transformations: Transformations = PLAIN,
    initial: MnistCGN | None = None,
) -> tuple[MnistCGN, History]:
    """Train a CGN adversarially on a biased dataset, with factual labels.

    Each step draws noise and a class per image, composes the three mechanisms with random patch
    shifts, and updates the generators (least-squares adversarial loss, mask entropy and bounds, style)
    and then the discriminator. Transformations of the mechanisms are applied right before composing, as
    in SKDCGN's composition study (arXiv 2208.04226): the generators learn to look real through them.

    Args:
        split: The biased training images.
        style_features: Four layers of features for the style loss.
        settings: Budget, weights, architecture of the discriminator.
        seed: Base seed.
        compute: Device and precision.
        checkpoint_path: Where the state is kept while training.
        record: Called with (step, losses) every few steps.
        num_classes: Number of classes.
        transformations: Applied to the generated mechanisms in every step.
        initial: A CGN whose weights training starts from; the discriminator always starts anew.

    Returns:
        The averaged CGN in eval mode, on the CPU, and the history of its losses.

    Raises:
        SettingError: If a transformation has no gradient, or `initial` is of another size.
        InterruptedRunError: If a stop was requested; the state is saved.
    """
    _check_gradients(transformations)
    device = choose_device(compute.device)
    image_size = split.images.shape[-1]
    with seeded(seed, "teacher-init"):
        cgn = MnistCGN(num_classes=num_classes, image_size=image_size)
        discriminator: nn.Module = CGN_DISCRIMINATORS[settings.discriminator](
            num_classes, image_size, settings.discriminator_width
        )
        if settings.spectral_norm:
            for module in list(discriminator.modules()):
                if isinstance(module, nn.Linear | nn.Conv2d):
                    spectral_norm(module)
        _initialise(cgn, settings)
        _initialise(discriminator, settings)
    if initial is not None:
        _start_from(cgn, initial)
    # Channels last is the faster layout of these convolutions on a CPU, in either precision.
    cgn = place(cgn, device, torch.channels_last).train()
    discriminator = discriminator.to(device).train()
    average = WeightAverage(cgn, settings.ema_decay)
    generator_optimiser = torch.optim.Adam(cgn.parameters(), settings.learning_rate, ADAM_BETAS)
    discriminator_optimiser = torch.optim.Adam(discriminator.parameters(), settings.learning_rate, ADAM_BETAS)
    weights = {
        "adversarial": 1.0,
        "mask_entropy": settings.mask_entropy_weight,
        "mask_bounds": settings.mask_bounds_weight,
        "mode_seeking": settings.mode_seeking_weight,
        "style": 1.0,  # the layers have weights of their own
    }
    objects: dict[str, Stateful] = {
        "cgn": cgn,
        "discriminator": discriminator,
        "average": average.average,
        "generator_optimiser": generator_optimiser,
        "discriminator_optimiser": discriminator_optimiser,
    }
    checkpoint = Checkpoint(checkpoint_path, objects, settings.checkpoint_every_steps)
    loop = TrainingLoop("teacher", settings.num_steps, checkpoint, record)
    sampler = EpochSampler(len(split), seed, "teacher-rows")

    for step in loop.steps():
        left = (settings.num_steps - step) / settings.num_steps
        for optimiser in (generator_optimiser, discriminator_optimiser):
            optimiser.param_groups[0]["lr"] = settings.learning_rate * min(1.0, left / max(settings.decay_share, 1e-9))
        generator = torch_generator(seed, "teacher-step", step)
        size = (settings.batch_size, 2)
        noise = torch.randn(settings.batch_size, cgn.noise_dim, generator=generator).to(device)
        # Each class twice, so that masks of one class can be compared.
        half = settings.batch_size // 2
        labels = torch.randint(num_classes, (half,), generator=generator).repeat(2).to(device)
        foreground_offset = torch.randint(image_size, size, generator=generator).to(device)
        background_offset = torch.randint(image_size, size, generator=generator).to(device)
        rows = sampler.rows(step, settings.batch_size)
        real, real_labels = from_bytes(split.images[rows]).to(device), split.labels[rows].to(device)

        # Generators.
        with autocast(compute, device):
            images = cgn(noise, labels)
        # Outside of autocast, which would round the coordinates that masks are resampled at.
        generator = torch_generator(seed, "teacher-transformations", step)
        transformed = MechanismImages(
            *(transform_mechanism(images.of(m), m, transformations.of(m), generator) for m in MECHANISMS)
        )
        # The discriminator's dropout is the step's, whatever ran before.
        with seeded(seed, "teacher-dropout", step), autocast(compute, device):
            composite = compose(transformed, foreground_offset, background_offset)
            scores = discriminator(composite, labels).float()
            generated_style, real_style = ([layer.float() for layer in style_features(x)] for x in (composite, real))
        # The terms on masks judge what the generator makes: what a transformation adds (opacity its entropy,
        # a rotation the difference of two masks) is not the generator's to mend or to be praised for.
        terms = {
            "adversarial": least_squares_generator_loss(scores),
            "mask_entropy": mask_entropy_loss(images.mask),
            "mask_bounds": mask_bounds_loss(images.mask, *settings.mask_bounds),
            "mode_seeking": mode_seeking_loss(images.mask[:half], images.mask[half:], settings.mode_seeking_floor),
            "style": style_loss(generated_style, real_style, settings.style_weights),
        }
        loss = weighted_sum(terms, weights)
        generator_optimiser.zero_grad(set_to_none=True)
        loss.backward()
        generator_optimiser.step()
        average.update(step)

        # Discriminator, on the same composites.
        with seeded(seed, "teacher-dropout-discriminator", step), autocast(compute, device):
            generated_scores = discriminator(composite.detach(), labels).float()
            real_scores = discriminator(real, real_labels).float()
        discriminator_loss = least_squares_discriminator_loss(generated_scores, real_scores)
        discriminator_optimiser.zero_grad(set_to_none=True)
        discriminator_loss.backward()
        discriminator_optimiser.step()

        if loop.is_noted(step, LOG_EVERY_STEPS):
            losses = {name: term.item() for name, term in terms.items()}
            losses |= {"total": loss.item(), "discriminator": discriminator_loss.item()}
            losses["mean_mask"] = images.mask.mean().item()
            loop.note(step, losses)
    return place(average.average, "cpu", torch.contiguous_format), loop.history


def teacher_card(inputs: Mapping[str, Any], data_inputs: Mapping[str, Any], sha256: str) -> dict[str, Any]:
    """Return what belongs with a teacher's weights: what they were made from, and their SHA-256."""
    keys = ("settings", "style_settings", "seed", "precision", "transformations", "initial")
    return {
        "architecture": "MnistCGN",
        "data": {key: data_inputs[key] for key in ("settings", "variant", "seed")},
        "training": {key: inputs[key] for key in keys if key in inputs},
        "sha256": sha256,
        "torch": torch.__version__,
    }


def build_teacher(
    store: Path,
    biased_images: BiasedImages,
    settings: TeacherFit,
    style_settings: ClassifierFit,
    seed: int,
    compute: Compute,
    assets: str,
    record: RecordStep = record_nothing,
    transformations: Transformations = PLAIN,
    initial: IdentifiedTeacher | None = None,
) -> Artifact:
    """Return the CGN trained on a biased dataset: train it, continue it, or reuse it.

    The artifact holds the weights, the losses by step and a card that says what they were made from.

    Args:
        store: Directory of trained teachers.
        biased_images: What it is trained on.
        settings: Budget, weights, architecture of the discriminator.
        style_settings: Training of the style network.
        seed: Base seed.
        compute: Device and precision.
        assets: The asset folder, for the weights of VGG16.
        record: Called with (step, losses) every few steps.
        transformations: Applied to the generated mechanisms in every step.
        initial: A teacher whose weights training starts from.

    Raises:
        SettingError: If a transformation has no gradient, or `initial` is no CGN of this architecture.
        InterruptedRunError: If a stop was requested; the state is saved.
    """
    _check_gradients(transformations)
    start = None if initial is None else _network_of(initial)
    data_inputs = biased_images.artifact.inputs

    def write(writer: ArtifactWriter) -> None:
        split = biased_images.split("train")
        if settings.style_network == "vgg16":
            style_features = open_vgg16_features(assets)
        else:
            style_features = fit_style_network(split, style_settings, seed, compute, settings.style_initialisation)
        cgn, history = fit_teacher(
            split,
            style_features,
            settings,
            seed,
            compute,
            writer.scratch("checkpoint.pt"),
            record,
            transformations=transformations,
            initial=start,
        )
        # The file says what it was trained on, so that a teacher of another variant is refused later.
        metadata = {"variant": data_inputs["variant"], "source": data_inputs["settings"]["source"]}
        writer.write(WEIGHTS_FILE, lambda path: save_file(cgn.state_dict(), path, metadata))
        writer.write_json(HISTORY_FILE, history)
        writer.write_json(CARD_FILE, teacher_card(inputs, data_inputs, writer.files[WEIGHTS_FILE]))

    inputs = {
        "kind": "teacher",
        "biased_images": biased_images.artifact.identity,
        "settings": settings.model_dump(mode="json", exclude={"checkpoint_every_steps"}),
        "style_settings": style_settings.model_dump(exclude={"checkpoint_every_steps"}),
        "seed": seed,
        "precision": compute.precision,
    }
    # Only where they are set: teachers without them keep their identity.
    if transformations != PLAIN:
        inputs["transformations"] = transformations.model_dump(mode="json")
    if initial is not None:
        inputs["initial"] = initial.identity
    return build_artifact(store, inputs, write)
