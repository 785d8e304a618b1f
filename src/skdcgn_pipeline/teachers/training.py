"""Train a CGN on any images (CGN, arXiv 2101.06046, section 4.1); with true masks see `masked_training`."""

from __future__ import annotations

import logging
from dataclasses import dataclass, field
from functools import partial
from typing import Any, ClassVar

import torch

from skdcgn_pipeline.artifacts.recipe import Recipe
from skdcgn_pipeline.artifacts.store import Artifact, ArtifactWriter, sha256_of_file
from skdcgn_pipeline.classifiers.classifier import DigitClassifier
from skdcgn_pipeline.classifiers.training import fit_classifier
from skdcgn_pipeline.images.batches import draw_from_split
from skdcgn_pipeline.images.stored import StoredImages
from skdcgn_pipeline.losses.adversarial import least_squares_generator_loss
from skdcgn_pipeline.losses.mechanism import mask_bounds_loss, mask_entropy_loss, mode_seeking_loss, style_loss
from skdcgn_pipeline.networks.vgg16 import ImageFeatures, open_vgg16_features, require_vgg16
from skdcgn_pipeline.networks.weights_file import write_state
from skdcgn_pipeline.parameters import ClassifierFit, Compute, TeacherFit, Transformations
from skdcgn_pipeline.runtime.compute import autocast
from skdcgn_pipeline.teachers.cgn import MnistCGN
from skdcgn_pipeline.teachers.masked_training import MaskedTeacherTask
from skdcgn_pipeline.teachers.measures import TeacherMeasures, describe_faults, faults_of
from skdcgn_pipeline.teachers.tasks import CGNTask, TeacherBatch
from skdcgn_pipeline.teachers.teacher import TRAINED_WEIGHTS, IdentifiedTeacher
from skdcgn_pipeline.training.task import fit

logger = logging.getLogger(__name__)

HISTORY_FILE = "history.json"
CARD_FILE = "teacher.json"
STYLE_SETTING = "teacher.fit.style_network"
PLAIN = Transformations()


def untrained_teacher(num_classes: int, image_size: int) -> IdentifiedTeacher:
    """Return a CGN of the sizes that a training will have, for whatever must be known of it before."""
    cgn = MnistCGN(num_classes=num_classes, image_size=image_size).requires_grad_(False).eval()
    return IdentifiedTeacher(cgn, {"name": "trained"})


def style_features_of(network: DigitClassifier) -> ImageFeatures:
    """Return the four layers of a classifier as style features; the classifier is frozen."""
    network.requires_grad_(False)
    return lambda images: network.to(images.device).layer_features(images)


class TeacherTask(CGNTask):
    """Train a CGN adversarially on biased images, with factual labels; a `training.task.Task`.

    Each step draws noise and a class per image, composes the three mechanisms with random patch
    shifts, and updates the generators (least-squares adversarial loss, mask entropy and bounds, style)
    and then the discriminator. Transformations of the mechanisms are applied right before composing, as
    in SKDCGN's composition study (arXiv 2208.04226): the generators learn to look real through them.
    """

    def update(self, step: int, batch: TeacherBatch, noted: bool) -> dict[str, float]:
        """Update the generators and then the discriminator; see `Task.update`."""
        settings = self.settings
        self._rates.set(step)
        with autocast(self.compute, self.device):
            images = self.cgn(batch.noise, batch.labels)
        composite, scores, generated_style, real_style = self.judge(step, self.transform(images, step), batch)
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
        weights = {
            "adversarial": 1.0,
            "mask_entropy": settings.mask_entropy_weight,
            "mask_bounds": settings.mask_bounds_weight,
            "mode_seeking": settings.mode_seeking_weight,
            "style": 1.0,  # the layers have weights of their own
        }
        losses = terms | {
            "total": self.update_generator(terms, weights),
            "discriminator": self.update_discriminator(step, composite, batch),
            "mean_mask": images.mask.mean(),
        }
        return self.conclude(step, losses, noted)


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
    version: ClassVar[int] = 4

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
            num_classes=self.images.num_classes,
            title="style network",
            initialisation=self.settings.style_initialisation,
        )
        return style_features_of(network)

    def build(self, writer: ArtifactWriter) -> None:
        """Train, or continue; the file of weights says of which images it is, so that others refuse it later."""
        style, split = self.open_style(), self.images.split("train")
        task_of: type[TeacherTask | MaskedTeacherTask] = TeacherTask if split.masks is None else MaskedTeacherTask
        cgn, history = fit(task_of(self, style), writer.scratch("checkpoint.pt"))
        measures = TeacherMeasures(split, self.images.num_classes, style, self.seed)(cgn, torch.device("cpu"))
        if faults := faults_of(measures):
            logger.warning("%s", describe_faults(faults))
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
            "measures": measures,
            "faults": faults,
            "sha256": writer.files[TRAINED_WEIGHTS],
            "torch": torch.__version__,
        }
        writer.write_json(CARD_FILE, card)
