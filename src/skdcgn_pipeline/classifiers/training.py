"""Train classifiers: what a step learns from, the one task of all, and the recipe."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from contextlib import nullcontext
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any, ClassVar, cast

import torch
from safetensors.torch import load_file
from torch import Tensor, nn
from torch.nn import functional as F

from skdcgn_pipeline.artifacts.recipe import Recipe
from skdcgn_pipeline.artifacts.store import Artifact, ArtifactWriter, sha256_of_file
from skdcgn_pipeline.classifiers.classifier import INITIALISATION, DigitClassifier
from skdcgn_pipeline.classifiers.networks import Classifier, ForeignClassifier, make_classifier
from skdcgn_pipeline.classifiers.torchvision_classifier import MechanismLogits, TorchvisionClassifier
from skdcgn_pipeline.images.batches import shape_classes
from skdcgn_pipeline.images.epochs import DrawBatch
from skdcgn_pipeline.networks.weights_file import write_state
from skdcgn_pipeline.parameters import ClassifierFit, ClassifierNetwork, Compute
from skdcgn_pipeline.runtime.compute import autocast, choose_device, place
from skdcgn_pipeline.runtime.errors import SettingError
from skdcgn_pipeline.runtime.seeding import seeded
from skdcgn_pipeline.training.checkpointing import History, Stateful
from skdcgn_pipeline.training.optimisers import make_optimisers
from skdcgn_pipeline.training.schedules import Rates, one_cycle, staircase
from skdcgn_pipeline.training.task import fit
from skdcgn_pipeline.vocabulary import MECHANISMS

LOG_EVERY_STEPS = 20
WARM_UP_SHARE = 0.25
WEIGHTS_FILE, HISTORY_FILE = "classifier.safetensors", "history.json"


class DivergedError(SettingError):
    """A training whose loss is no longer finite."""


@dataclass(frozen=True)
class Lesson:
    """One of the kinds of images that a step learns from.

    Attributes:
        draw_batch: Gives its images [B, 3, H, W] in [-1, 1] and labels.
        batch_size: Images per step.
        losses: (logits, labels) -> loss by name.
        weight: Of the mean of these losses.
        attach: Is given the network as training starts and returns what gives the logits of images, by default itself.
        state: What beside the network a checkpoint holds and, where it has parameters, is trained.
    """

    draw_batch: DrawBatch
    batch_size: int
    losses: Callable[[Any, Tensor], Mapping[str, Tensor]]
    weight: float = 1.0
    attach: Callable[[Classifier], Callable[[Tensor], Any]] = lambda network: network
    state: nn.Module | None = None


def class_lesson(draw_batch: DrawBatch, settings: ClassifierFit) -> Lesson:
    """Return what a classifier with one head learns: the class [B], or of the labels [B, 3] that of the shape."""

    def loss(logits: Tensor, labels: Tensor) -> dict[str, Tensor]:
        return {
            "loss": F.cross_entropy(logits.float(), shape_classes(labels), label_smoothing=settings.label_smoothing)
        }

    return Lesson(draw_batch, settings.batch_size, loss)


def real_lesson(draw_batch: DrawBatch, settings: ClassifierFit) -> Lesson:
    """Return what real images teach heads of mechanisms: their mean logits the class [B] (arXiv 2101.06046, 4.2)."""

    def loss(logits: MechanismLogits, labels: Tensor) -> dict[str, Tensor]:
        return {"real": F.cross_entropy(logits.mean, labels)}

    return Lesson(draw_batch, settings.batch_size, loss)


def counterfactual_lesson(draw_batch: DrawBatch, settings: ClassifierFit) -> Lesson:
    """Return what counterfactuals teach heads of mechanisms: each its own column of the labels [C, 3]; same source."""

    def losses(logits: MechanismLogits, labels: Tensor) -> dict[str, Tensor]:
        heads = zip(MECHANISMS, logits, labels.unbind(1), strict=True)
        return {mechanism: F.cross_entropy(head, classes) for mechanism, head, classes in heads}

    return Lesson(draw_batch, settings.counterfactual_batch_size, losses, settings.counterfactual_weight)


def make_rates(settings: ClassifierFit, fused: bool, network: nn.Module) -> Rates:
    """Return the optimisers of what of a network is learnt, with their rates.

    SGD's rate falls to a tenth, at equal distances; AdamW, or Muon for matrices and AdamW for the rest, have
    one-cycle rates and first beta.
    """
    rate, decay = settings.learning_rate, settings.weight_decay
    if settings.optimiser == "sgd":
        learnt = [parameter for parameter in network.parameters() if parameter.requires_grad]
        sgd = torch.optim.SGD(learnt, rate, momentum=settings.momentum, weight_decay=decay)
        return Rates(staircase(settings.num_steps, settings.num_decays), [sgd])
    adam = partial(torch.optim.AdamW, lr=rate, weight_decay=decay, fused=fused)
    matrix_learning_rate = settings.matrix_learning_rate if settings.optimiser == "muon" else None
    optimisers = make_optimisers(network, adam, matrix_learning_rate)
    rates = one_cycle(settings.num_steps, WARM_UP_SHARE)
    first_beta = one_cycle(settings.num_steps, WARM_UP_SHARE, first=0.95, peak=0.85, last=0.95)
    return Rates(rates, optimisers, first_beta)


class ClassifierTask:
    """Train any classifier; a `training.task.Task`.

    The lessons of a step follow one another: their gradients add up, and memory holds one batch at a time.

    Args:
        network: The classifier, as training starts.
        lessons: What every step learns from.
        settings: Budget, optimiser, precision, and how often checkpoints are kept.
        seed: Seed of dropout; the lessons bring their own.
        compute: Device and precision.
        name: What the losses are recorded as.
        title: Shown in the progress.

    Attributes:
        result: The classifier, in training mode, on the device.
    """

    def __init__(
        self,
        network: Classifier,
        lessons: Sequence[Lesson],
        settings: ClassifierFit,
        seed: int,
        compute: Compute,
        *,
        name: str = "classifier",
        title: str = "classifier",
    ) -> None:
        self.name, self.title, self.lessons, self.seed = name, title, lessons, seed
        self.num_steps, self.log_every_steps = settings.num_steps, LOG_EVERY_STEPS
        self.checkpoint_every_steps, self.learning_rate = settings.checkpoint_every_steps, settings.learning_rate
        self.compute = settings.computing(compute)
        self.device = choose_device(compute.device)
        # The faster layout of these convolutions, and of pooling, in either precision.
        self.result = place(network, self.device, torch.channels_last).train()
        states = [place(each.state, self.device, torch.channels_last).train() for each in lessons if each.state]
        self._trained = nn.ModuleList([self.result, *states]) if states else self.result
        self.rates = make_rates(settings, self.compute.precision == "bf16", self._trained)
        self.objects: dict[str, Stateful] = {"network": self.result, **self.rates.objects}
        self.objects |= {f"state_{number}": state for number, state in enumerate(states)}
        self._logits_of = [lesson.attach(self.result) for lesson in lessons]
        self._draws = isinstance(network, TorchvisionClassifier | ForeignClassifier)
        self._layout = torch.channels_last if self._draws else torch.preserve_format

    def batch(self, step: int) -> list[tuple[Tensor, Tensor]]:
        """Draw images and labels of every lesson."""
        return [lesson.draw_batch(step, lesson.batch_size) for lesson in self.lessons]

    def update(self, step: int, batch: list[tuple[Tensor, Tensor]], noted: bool) -> dict[str, float]:
        """Update the network; see `Task.update`. The losses are `loss`, their weighted sum, and all parts.

        Raises:
            DivergedError: If the loss is not finite.
        """
        self.rates.set(step)
        self._trained.zero_grad(set_to_none=True)
        total = torch.zeros((), device=self.device)
        parts: dict[str, Tensor] = {}
        # Only what draws while it computes needs the step's own numbers: `seeded` lets threads wait for each other.
        with seeded(self.seed, "classifier-dropout", step) if self._draws else nullcontext():
            for lesson, logits_of, (images, labels) in zip(self.lessons, self._logits_of, batch, strict=True):
                images = images.to(self.device, memory_format=self._layout, non_blocking=True)
                labels = labels.to(self.device, non_blocking=True)
                with autocast(self.compute, self.device):
                    logits = logits_of(images)
                losses = lesson.losses(logits, labels)
                loss = lesson.weight * torch.stack([*losses.values()]).mean()
                loss.backward()
                if noted:
                    total, parts = total + loss.detach(), {**parts, **losses}
        for optimiser in self.rates.optimisers:
            optimiser.step()
        if not noted:
            return {}
        if not math.isfinite(total.item()):
            remedy = "Lower it; where `weights` are null, let batch norm learn too (`frozen_norm: none`)."
            wanted = f"one, such as less than {self.learning_rate}, that keeps a finite loss"
            raise DivergedError("fit.learning_rate", wanted, f"{total.item()} at step {step + 1}", remedy)
        return {"loss": total.item()} | {name: part.item() for name, part in parts.items()}


def initial_classifier(
    settings: ClassifierNetwork, num_classes: int, seed: int, initialisation: str = INITIALISATION
) -> Classifier:
    """Return the classifier that a training starts from; `initialisation` is that of `DigitClassifier`.

    Raises:
        SettingError: If the architecture or its weights cannot be used.
    """
    with seeded(seed, "classifier-init"):
        network = make_classifier(settings, num_classes, initialisation)
        return network.load_weights() if isinstance(network, TorchvisionClassifier) else network


def fit_classifier(
    draw_batch: DrawBatch,
    settings: ClassifierFit,
    seed: int,
    compute: Compute,
    num_classes: int = 10,
    checkpoint_path: Path | None = None,
    *,
    title: str = "classifier",
    initialisation: str = INITIALISATION,
) -> tuple[DigitClassifier, History]:
    """Train the digit classifier on images and classes that `draw_batch` gives, see `ClassifierTask`.

    Returns:
        The classifier in eval mode, on the CPU, and the history of its loss.

    Raises:
        SettingError: If the training diverges.
        InterruptedRunError: If a stop was requested; the state is saved.
    """
    network = initial_classifier(ClassifierNetwork(), num_classes, seed, initialisation)
    task = ClassifierTask(network, [class_lesson(draw_batch, settings)], settings, seed, compute, title=title)
    return cast(tuple[DigitClassifier, History], fit(task, checkpoint_path))


@dataclass(frozen=True)
class ClassifierRecipe(Recipe[tuple[Artifact, Classifier]]):
    """A trained classifier and the losses of its training.

    Attributes:
        data: What the training data is made from.
        source: Gives the lessons; only called when there is something to train.
        settings: Budget and optimiser.
        seed: Seed of the initial weights and of dropout.
        compute: Device and precision.
        num_classes: Number of classes.
        network: What classifies; of the weights that it starts from, the content counts.
        name, title: As in `ClassifierTask`.
    """

    kind: ClassVar[str] = "classifier"
    version: ClassVar[int] = 2

    data: Mapping[str, Any]
    source: Callable[[], Sequence[Lesson]]
    settings: ClassifierFit
    seed: int
    compute: Compute
    num_classes: int = 10
    network: ClassifierNetwork = field(default_factory=ClassifierNetwork)
    name: str = "classifier"
    title: str = "classifier"

    def inputs(self) -> dict[str, Any]:
        """Return data, settings, network, seed and precision; in bfloat16 gradients are summed in another order."""
        return {
            "initialisation": INITIALISATION,
            "data": self.data,
            "settings": self.settings.identity(),
            "network": identity_of_network(self.network),
            "seed": self.seed,
            "precision": self.settings.computing(self.compute).precision,
            "num_classes": self.num_classes,
        }

    def task(self) -> ClassifierTask:
        """Return the training, as it starts."""
        network = initial_classifier(self.network, self.num_classes, self.seed)
        names = {"name": self.name, "title": self.title}
        return ClassifierTask(network, self.source(), self.settings, self.seed, self.compute, **names)

    def build(self, writer: ArtifactWriter) -> None:
        """Train, or continue."""
        network, history = fit(self.task(), writer.scratch("checkpoint.pt"))
        writer.write(WEIGHTS_FILE, partial(write_state, network))
        writer.write_json(HISTORY_FILE, history)

    def read(self, artifact: Artifact) -> tuple[Artifact, Classifier]:
        """Return where it is and the classifier, frozen and in eval mode."""
        return artifact, open_classifier(artifact)


def open_classifier(artifact: Artifact) -> Classifier:
    """Load a classifier that a recipe made, frozen and in eval mode."""
    named = {
        name: value for name, value in artifact.inputs["network"].items() if name in ClassifierNetwork.model_fields
    }
    settings = ClassifierNetwork(**named | {"weights": None, "heads_from_weights": False})
    network = initial_classifier(settings, artifact.inputs["num_classes"], 0)
    network.load_state_dict(load_file(artifact.path(WEIGHTS_FILE)))
    return network.requires_grad_(False).eval()


def identity_of_network(settings: ClassifierNetwork, setting: str = "classify.network") -> dict[str, Any]:
    """Return what a network starts from, with the SHA-256 of its weights in place of their path.

    Raises:
        SettingError: If there is no such file.
    """
    identity = settings.identity()
    if settings.weights is not None:
        path = Path(settings.weights)
        if not path.is_file():
            raise SettingError(f"{setting}.weights", "a file", f"nothing at {path}", "Correct the path.")
        identity["weights"] = sha256_of_file(path)
    return identity
