"""Train the invariant ensemble of ImageNet on real images and counterfactuals."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, ClassVar, cast

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from skdcgn_pipeline.artifacts.recipe import Recipe
from skdcgn_pipeline.artifacts.store import Artifact, ArtifactWriter, sha256_of_file
from skdcgn_pipeline.classifiers.ensemble import InvariantEnsemble, MechanismLogits, load_ensemble
from skdcgn_pipeline.classifiers.training import HISTORY_FILE, ClassifierTask, Lesson, Optimisation
from skdcgn_pipeline.images.batches import draw_ahead
from skdcgn_pipeline.images.epochs import DrawBatch
from skdcgn_pipeline.parameters import Compute, EnsembleFit
from skdcgn_pipeline.runtime.errors import SettingError
from skdcgn_pipeline.runtime.seeding import seeded
from skdcgn_pipeline.training.checkpointing import History
from skdcgn_pipeline.training.schedules import Rates, staircase
from skdcgn_pipeline.training.task import train
from skdcgn_pipeline.vocabulary import MECHANISMS

WEIGHTS_FILE = "ensemble.safetensors"


def check_batches(
    images: Tensor, labels: Tensor, counterfactuals: Tensor, mechanism_labels: Tensor, num_classes: int
) -> None:
    """Refuse batches that an ensemble cannot learn from.

    Args:
        images: Real images [B, 3, S, S].
        labels: [B].
        counterfactuals: [C, 3, S, S].
        mechanism_labels: [C, 3].
        num_classes: Outputs of each head.

    Raises:
        SettingError: Naming what is of the wrong shape, size or range.
    """
    if images.shape[1:] != counterfactuals.shape[1:]:
        raise SettingError(
            "counterfactuals",
            f"images of the size of the real ones, {list(images.shape[1:])}",
            f"{list(counterfactuals.shape[1:])}",
            "Crop both to one `image_size`.",
        )
    if labels.ndim != 1 or mechanism_labels.shape != (len(counterfactuals), len(MECHANISMS)):
        got = f"{list(labels.shape)} and {list(mechanism_labels.shape)}"
        wanted = "[B] for real images and [C, 3] (shape, texture, background) for counterfactuals"
        raise SettingError("labels", wanted, got, "Draw counterfactuals with the labels of all mechanisms.")
    for name, own in (("real images", labels), ("counterfactuals", mechanism_labels)):
        wrong = own[(own < 0) | (own >= num_classes)]
        if len(wrong):
            wanted = f"classes from 0 to {num_classes - 1}"
            raise SettingError(f"labels of {name}", wanted, int(wrong[0]), "Use the table of these classes.")


def real_loss(logits: MechanismLogits, labels: Tensor) -> Tensor:
    """Return the cross-entropy of the mean logits [N, K] with the classes [N] of real images.

    Source: CGN (arXiv 2101.06046, section 4.2).
    """
    return F.cross_entropy(logits.mean, labels)


def counterfactual_losses(logits: MechanismLogits, labels: Tensor) -> dict[str, Tensor]:
    """Return each head's cross-entropy with the class of its own mechanism, labels [N, 3]; same source."""
    return {
        mechanism: F.cross_entropy(logits.of(mechanism), own)
        for mechanism, own in zip(MECHANISMS, labels.unbind(1), strict=True)
    }


def initial_ensemble(settings: EnsembleFit, seed: int, num_classes: int) -> InvariantEnsemble:
    """Return the ensemble that a training starts from.

    Raises:
        SettingError: If the architecture or its weights cannot be used.
    """
    with seeded(seed, "ensemble-init"):
        ensemble = InvariantEnsemble(settings.architecture, num_classes, settings.frozen_norm)
    if settings.weights is not None:
        ensemble.load_trunk(settings.weights, settings.heads_from_weights)
    return ensemble


def sgd_in_steps(settings: EnsembleFit, network: nn.Module) -> Optimisation:
    """Return SGD whose learning rate falls to a tenth, at equal distances, for what of the network is learnt."""
    learnt = [parameter for parameter in network.parameters() if parameter.requires_grad]
    sgd = torch.optim.SGD(
        learnt, settings.learning_rate, momentum=settings.momentum, weight_decay=settings.weight_decay
    )
    return {"optimiser": sgd}, Rates(staircase(settings.num_steps, settings.num_decays), [sgd])


class EnsembleTask(ClassifierTask):
    """Train an ensemble: real images train the mean of the heads, counterfactuals each head for itself.

    Args:
        draw_real: Gives real images [B, 3, S, S] in [-1, 1] and labels [B] of a step.
        draw_counterfactual: Gives counterfactuals [C, 3, S, S] and labels [C, 3] of shape, texture and
            background.
        settings: Architecture, budget and optimiser.
        seed: Seed of the initial heads and of dropout; the draws bring their own.
        compute: Device and precision.
        num_classes: Number of classes.
        name: What the losses `loss`, `real`, `shape`, `texture` and `background` are recorded as.
        title: Shown in the progress.

    Raises:
        SettingError: If weights or batches cannot be used, or the training diverges.
    """

    def __init__(
        self,
        draw_real: DrawBatch,
        draw_counterfactual: DrawBatch,
        settings: EnsembleFit,
        seed: int,
        compute: Compute,
        *,
        num_classes: int,
        name: str,
        title: str,
    ) -> None:
        real, counterfactual = (draw_ahead(draw, settings.num_steps) for draw in (draw_real, draw_counterfactual))
        lessons = [
            Lesson(real, settings.batch_size, lambda logits, labels: {"real": real_loss(logits, labels)}),
            Lesson(
                counterfactual,
                settings.counterfactual_batch_size,
                counterfactual_losses,
                settings.counterfactual_weight,
            ),
        ]
        network = initial_ensemble(settings, seed, num_classes)
        optimise = partial(sgd_in_steps, settings)
        super().__init__(network, lessons, settings, seed, compute, optimise=optimise, name=name, title=title)
        self.num_classes, self.learning_rate = num_classes, settings.learning_rate

    def batch(self, step: int) -> list[tuple[Tensor, Tensor]]:
        """Draw real images and counterfactuals, and refuse those that cannot be learnt from."""
        batch = super().batch(step)
        (images, labels), (counterfactuals, mechanism_labels) = batch
        check_batches(images, labels, counterfactuals, mechanism_labels, self.num_classes)
        return batch

    def update(self, step: int, batch: list[tuple[Tensor, Tensor]], noted: bool) -> dict[str, float]:
        """Update the ensemble, and refuse to go on with a training that has diverged; see `Task.update`."""
        losses = super().update(step, batch, noted)
        if noted and not math.isfinite(losses["loss"]):
            remedy = "Lower it; without `weights`, let batch norm learn too (`frozen_norm: none`)."
            wanted = f"one, such as less than {self.learning_rate}, that keeps a finite loss"
            raise SettingError("ensemble.learning_rate", wanted, f"{losses['loss']} at step {step + 1}", remedy)
        return losses


def fit_ensemble(
    draw_real: DrawBatch,
    draw_counterfactual: DrawBatch,
    settings: EnsembleFit,
    seed: int,
    compute: Compute,
    num_classes: int = 1000,
    checkpoint_path: Path | None = None,
    *,
    name: str = "ensemble",
    title: str = "ensemble",
) -> tuple[InvariantEnsemble, History]:
    """Train an ensemble, see `EnsembleTask`.

    Returns:
        The ensemble in eval mode, on the CPU, and the history of its losses.

    Raises:
        SettingError: As `EnsembleTask` does.
        InterruptedRunError: If a stop was requested; the state is saved.
    """
    task = EnsembleTask(
        draw_real, draw_counterfactual, settings, seed, compute, num_classes=num_classes, name=name, title=title
    )
    history = train(task, checkpoint_path)
    return cast(InvariantEnsemble, task.finished()), history


@dataclass(frozen=True)
class EnsembleRecipe(Recipe[tuple[Artifact, InvariantEnsemble]]):
    """A trained ensemble and the losses of its training.

    Attributes:
        data: What the training data is made from.
        source: Gives `draw_real` and `draw_counterfactual`; only called when there is something to train.
        settings: Architecture, budget and optimiser; of the weights that it starts from, the content counts.
        seed, compute, num_classes, name, title: As in `EnsembleTask`.

    Raises:
        SettingError: If the file of weights is missing, or as `EnsembleTask` does.
    """

    kind: ClassVar[str] = "ensemble"

    data: Mapping[str, Any]
    source: Callable[[], tuple[DrawBatch, DrawBatch]]
    settings: EnsembleFit
    seed: int
    compute: Compute
    num_classes: int = 1000
    name: str = "ensemble"
    title: str = "ensemble"

    def inputs(self) -> dict[str, Any]:
        """Return data, settings, weights, seed and precision."""
        return {
            "data": self.data,
            "settings": self.settings.model_dump(exclude={"checkpoint_every_steps", "precision", "weights"}),
            "weights": sha256_of_weights(self.settings.weights),
            "seed": self.seed,
            "precision": self.settings.computing(self.compute).precision,
            "num_classes": self.num_classes,
        }

    def build(self, writer: ArtifactWriter) -> None:
        """Train, or continue."""
        ensemble, history = fit_ensemble(
            *self.source(),
            self.settings,
            self.seed,
            self.compute,
            self.num_classes,
            writer.scratch("checkpoint.pt"),
            name=self.name,
            title=self.title,
        )
        writer.write(WEIGHTS_FILE, ensemble.save)
        writer.write_json(HISTORY_FILE, history)

    def read(self, artifact: Artifact) -> tuple[Artifact, InvariantEnsemble]:
        """Return where it is and the ensemble, frozen and in eval mode."""
        return artifact, open_ensemble(artifact)


def sha256_of_weights(weights: str | None) -> str | None:
    """Return the SHA-256 of a file of weights, None for none.

    Raises:
        SettingError: If there is no such file.
    """
    if weights is None:
        return None
    path = Path(weights)
    if not path.is_file():
        raise SettingError("ensemble.weights", "a file", f"nothing at {path}", "Correct the path.")
    return sha256_of_file(path)


def open_ensemble(artifact: Artifact) -> InvariantEnsemble:
    """Load an ensemble that an `EnsembleRecipe` made, frozen and in eval mode."""
    return load_ensemble(artifact.path(WEIGHTS_FILE))
