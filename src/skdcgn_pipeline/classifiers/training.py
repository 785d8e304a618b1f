"""Train classifiers: the one task of all, and the recipe of the digits'."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, ClassVar

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor, nn
from torch.nn import functional as F

from skdcgn_pipeline.artifacts.recipe import Recipe, build_in
from skdcgn_pipeline.artifacts.store import Artifact, ArtifactWriter
from skdcgn_pipeline.classifiers.classifier import INITIALISATION, DigitClassifier
from skdcgn_pipeline.images.epochs import DrawBatch
from skdcgn_pipeline.parameters import ClassifierFit, Compute, EnsembleFit
from skdcgn_pipeline.runtime.compute import autocast, choose_device, memory_format, place
from skdcgn_pipeline.runtime.seeding import seeded
from skdcgn_pipeline.training.checkpointing import History, Stateful
from skdcgn_pipeline.training.optimisers import make_optimisers
from skdcgn_pipeline.training.schedules import Rates, one_cycle
from skdcgn_pipeline.training.task import train

LOG_EVERY_STEPS = 20
WARM_UP_SHARE = 0.25
WEIGHTS_FILE, HISTORY_FILE = "classifier.safetensors", "history.json"

# A network's optimisers, by the names that checkpoints have for them, and what sets their rates.
Optimisation = tuple[dict[str, torch.optim.Optimizer], Rates]


@dataclass(frozen=True)
class Lesson:
    """One of the kinds of images that a step learns from.

    Attributes:
        draw_batch: Gives its images [B, 3, H, W] in [-1, 1] and labels.
        batch_size: Images per step.
        losses: (logits as the network gives them, labels) -> loss by name.
        weight: Of the mean of these losses.
    """

    draw_batch: DrawBatch
    batch_size: int
    losses: Callable[[Any, Tensor], Mapping[str, Tensor]]
    weight: float = 1.0


def one_cycle_optimisation(settings: ClassifierFit, fused: bool, network: nn.Module) -> Optimisation:
    """Return AdamW, or Muon for matrices and AdamW for the rest, with one-cycle rates and first beta."""
    adam = partial(torch.optim.AdamW, lr=settings.learning_rate, weight_decay=settings.weight_decay, fused=fused)
    matrix_learning_rate = settings.matrix_learning_rate if settings.optimiser == "muon" else None
    optimisers = make_optimisers(network, adam, matrix_learning_rate)
    rate = one_cycle(settings.num_steps, WARM_UP_SHARE)
    first_beta = one_cycle(settings.num_steps, WARM_UP_SHARE, first=0.95, peak=0.85, last=0.95)
    return dict(zip(("optimiser", "matrix_optimiser"), optimisers, strict=False)), Rates(rate, optimisers, first_beta)


class ClassifierTask:
    """Train any classifier; a `training.task.Task`.

    The lessons of a step follow one another: their gradients add up, and memory holds one batch at a time.

    Args:
        network: The classifier, as training starts.
        lessons: What every step learns from.
        settings: Number of steps, precision, and how often checkpoints are kept.
        seed: Seed of dropout; the lessons bring their own.
        compute: Device and precision.
        optimise: Gives the network's optimisers and their rates.
        name: What the losses are recorded as.
        title: Shown in the progress.

    Attributes:
        network: The classifier, in training mode, on the device.
    """

    def __init__(
        self,
        network: nn.Module,
        lessons: Sequence[Lesson],
        settings: ClassifierFit | EnsembleFit,
        seed: int,
        compute: Compute,
        *,
        optimise: Callable[[nn.Module], Optimisation],
        name: str,
        title: str,
    ) -> None:
        self.name, self.title, self.lessons, self.seed = name, title, lessons, seed
        self.num_steps, self.log_every_steps = settings.num_steps, LOG_EVERY_STEPS
        self.checkpoint_every_steps = settings.checkpoint_every_steps
        self.compute = settings.computing(compute)
        self.device = choose_device(compute.device)
        self.network = place(network, self.device, memory_format(self.compute)).train()
        self.optimisers, self.rates = optimise(self.network)
        self.objects: dict[str, Stateful] = {"network": self.network, **self.optimisers}
        # Only what draws while it computes needs the step's own numbers: `seeded` lets threads wait for each other.
        self._draws = not isinstance(network, DigitClassifier)
        self._layout = memory_format(self.compute) if self._draws else torch.preserve_format

    def batch(self, step: int) -> list[tuple[Tensor, Tensor]]:
        """Draw images and labels of every lesson."""
        return [lesson.draw_batch(step, lesson.batch_size) for lesson in self.lessons]

    def _drawing(self, step: int) -> AbstractContextManager[Any]:
        return seeded(self.seed, "classifier-dropout", step) if self._draws else nullcontext()

    def update(self, step: int, batch: list[tuple[Tensor, Tensor]], noted: bool) -> dict[str, float]:
        """Update the network; see `Task.update`. The losses are `loss`, their weighted sum, and all parts."""
        self.rates.set(step)
        self.network.zero_grad(set_to_none=True)
        total = torch.zeros((), device=self.device)
        parts: dict[str, Tensor] = {}
        with self._drawing(step):
            for lesson, (images, labels) in zip(self.lessons, batch, strict=True):
                images = images.to(self.device, memory_format=self._layout, non_blocking=True)
                labels = labels.to(self.device, non_blocking=True)
                with autocast(self.compute, self.device):
                    logits = self.network(images)
                losses = lesson.losses(logits, labels)
                loss = next(iter(losses.values())) if len(losses) == 1 else torch.stack([*losses.values()]).mean()
                loss = loss if lesson.weight == 1 else lesson.weight * loss
                loss.backward()
                if noted:
                    total, parts = total + loss.detach(), {**parts, **losses}
        for optimiser in self.optimisers.values():
            optimiser.step()
        if not noted:
            return {}
        return {"loss": total.item()} | {name: part.item() for name, part in parts.items()}

    def finished(self) -> nn.Module:
        """Return the network in eval mode, on the CPU."""
        return place(self.network, "cpu", torch.contiguous_format).eval()


def _smoothed(logits: Tensor, labels: Tensor, label_smoothing: float) -> dict[str, Tensor]:
    return {"loss": F.cross_entropy(logits.float(), labels, label_smoothing=label_smoothing)}


def fit_classifier(
    draw_batch: DrawBatch,
    settings: ClassifierFit,
    seed: int,
    compute: Compute,
    num_classes: int = 10,
    checkpoint_path: Path | None = None,
    *,
    name: str = "classifier",
    title: str = "classifier",
    initialisation: str = INITIALISATION,
) -> tuple[DigitClassifier, History]:
    """Train a classifier with AdamW, or Muon and AdamW, and one-cycle learning rates.

    Args:
        draw_batch: Gives the images and labels of a step.
        settings: Budget and optimiser.
        seed: Seed of the initial weights; `draw_batch` brings its own.
        compute: Device and precision.
        num_classes: Number of classes.
        checkpoint_path: Where the state is kept while training; None keeps nothing.
        name: What the losses are recorded as.
        title: Shown in the progress.
        initialisation: As in `DigitClassifier`.

    Returns:
        The classifier in eval mode, on the CPU, and the history of its loss.

    Raises:
        InterruptedRunError: If a stop was requested; the state is saved.
    """
    with seeded(seed, "classifier-init"):
        network = DigitClassifier(num_classes, initialisation)
    lesson = Lesson(draw_batch, settings.batch_size, partial(_smoothed, label_smoothing=settings.label_smoothing))
    fused = settings.computing(compute).precision == "bf16"
    optimise = partial(one_cycle_optimisation, settings, fused)
    task = ClassifierTask(network, [lesson], settings, seed, compute, optimise=optimise, name=name, title=title)
    history = train(task, checkpoint_path)
    task.finished()
    return network, history


@dataclass(frozen=True)
class ClassifierRecipe(Recipe[tuple[Artifact, DigitClassifier]]):
    """A trained digit classifier and the losses of its training.

    Attributes:
        data: What the training data is made from.
        source: Gives `draw_batch`; only called when there is something to train.
        settings: Budget and optimiser.
        seed: Seed of the initial weights.
        compute: Device and precision.
        num_classes: Number of classes.
        name, title: As in `fit_classifier`.
    """

    kind: ClassVar[str] = "classifier"

    data: Mapping[str, Any]
    source: Callable[[], DrawBatch]
    settings: ClassifierFit
    seed: int
    compute: Compute
    num_classes: int = 10
    name: str = "classifier"
    title: str = "classifier"

    def inputs(self) -> dict[str, Any]:
        """Return data, settings, seed and precision; in bfloat16 gradients are summed in another order."""
        return {
            "initialisation": INITIALISATION,
            "data": self.data,
            "settings": self.settings.model_dump(exclude={"checkpoint_every_steps", "precision"}),
            "seed": self.seed,
            "precision": self.settings.computing(self.compute).precision,
            "num_classes": self.num_classes,
        }

    def build(self, writer: ArtifactWriter) -> None:
        """Train, or continue."""
        classifier, history = fit_classifier(
            self.source(),
            self.settings,
            self.seed,
            self.compute,
            self.num_classes,
            writer.scratch("checkpoint.pt"),
            name=self.name,
            title=self.title,
        )
        writer.write(WEIGHTS_FILE, lambda path: save_file(classifier.state_dict(), path))
        writer.write_json(HISTORY_FILE, history)

    def read(self, artifact: Artifact) -> tuple[Artifact, DigitClassifier]:
        """Return where it is and the classifier, frozen and in eval mode."""
        return artifact, open_classifier(artifact)


def build_classifier(
    store: Path,
    data_inputs: dict[str, Any],
    source: Callable[[], DrawBatch],
    settings: ClassifierFit,
    seed: int,
    compute: Compute,
    num_classes: int = 10,
    title: str = "classifier",
) -> tuple[Artifact, DigitClassifier]:
    """Make a `ClassifierRecipe` in the folder of classifiers."""
    return build_in(store, ClassifierRecipe(data_inputs, source, settings, seed, compute, num_classes, title=title))


def open_classifier(artifact: Artifact) -> DigitClassifier:
    """Load a classifier that a `ClassifierRecipe` made, frozen and in eval mode."""
    classifier = DigitClassifier(artifact.inputs["num_classes"])
    classifier.load_state_dict(load_file(artifact.path(WEIGHTS_FILE)))
    return classifier.requires_grad_(False).eval()
