"""Train the invariant ensemble of ImageNet on real images and counterfactuals."""

from __future__ import annotations

import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

from skdcgn_pipeline.artifacts.store import Artifact, ArtifactWriter, build_artifact, sha256_of_file
from skdcgn_pipeline.classifiers.ensemble import InvariantEnsemble, MechanismLogits, load_ensemble
from skdcgn_pipeline.images.batches import draw_ahead
from skdcgn_pipeline.images.epochs import DrawBatch
from skdcgn_pipeline.parameters import Compute, EnsembleFit
from skdcgn_pipeline.runtime.compute import autocast, choose_device, memory_format, place
from skdcgn_pipeline.runtime.errors import SettingError
from skdcgn_pipeline.runtime.seeding import seeded
from skdcgn_pipeline.training.checkpointing import (
    Checkpoint,
    History,
    RecordStep,
    Stateful,
    TrainingLoop,
    record_nothing,
)
from skdcgn_pipeline.vocabulary import MECHANISMS

LOG_EVERY_STEPS = 20
DECAY = 0.1
WEIGHTS_FILE, HISTORY_FILE = "ensemble.safetensors", "history.json"


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


def fit_ensemble(
    draw_real: DrawBatch,
    draw_counterfactual: DrawBatch,
    settings: EnsembleFit,
    seed: int,
    compute: Compute,
    num_classes: int = 1000,
    checkpoint_path: Path | None = None,
    record: RecordStep = record_nothing,
    title: str = "ensemble",
) -> tuple[InvariantEnsemble, History]:
    """Train an ensemble: real images train the mean of the heads, counterfactuals each head for itself.

    Args:
        draw_real: Gives real images [B, 3, S, S] in [-1, 1] and labels [B] of a step.
        draw_counterfactual: Gives counterfactuals [C, 3, S, S] and labels [C, 3] of shape, texture and
            background.
        settings: Architecture, budget and optimiser.
        seed: Seed of the initial heads and of dropout; the draws bring their own.
        compute: Device and precision.
        num_classes: Number of classes.
        checkpoint_path: Where the state is kept while training; None keeps nothing.
        record: Called with (step, losses) every few steps.
        title: Shown in the progress.

    Returns:
        The ensemble in eval mode, on the CPU, and the history of its losses: `loss`, `real`, `shape`,
        `texture`, `background`.

    Raises:
        SettingError: If weights or batches cannot be used, or the training diverges.
        InterruptedRunError: If a stop was requested; the state is saved.
    """
    compute = settings.computing(compute)
    device, layout = choose_device(compute.device), memory_format(compute)
    ensemble = place(initial_ensemble(settings, seed, num_classes), device, layout).train()
    learnt = [parameter for parameter in ensemble.parameters() if parameter.requires_grad]
    optimiser = torch.optim.SGD(
        learnt, settings.learning_rate, momentum=settings.momentum, weight_decay=settings.weight_decay
    )
    objects: dict[str, Stateful] = {"ensemble": ensemble, "optimiser": optimiser}
    checkpoint = Checkpoint(checkpoint_path, objects, settings.checkpoint_every_steps)
    loop = TrainingLoop(title, settings.num_steps, checkpoint, record)
    draw_real, draw_counterfactual = (draw_ahead(draw, settings.num_steps) for draw in (draw_real, draw_counterfactual))

    for step in loop.steps():
        images, labels = draw_real(step, settings.batch_size)
        counterfactuals, mechanism_labels = draw_counterfactual(step, settings.counterfactual_batch_size)
        check_batches(images, labels, counterfactuals, mechanism_labels, num_classes)
        images, counterfactuals = (
            own.to(device, memory_format=layout, non_blocking=True) for own in (images, counterfactuals)
        )
        labels, mechanism_labels = (own.to(device, non_blocking=True) for own in (labels, mechanism_labels))
        for group in optimiser.param_groups:
            group["lr"] = learning_rate_at(step, settings)
        optimiser.zero_grad(set_to_none=True)

        # One after the other: the gradients add up, and memory holds one batch at a time.
        with seeded(seed, "ensemble-dropout", step):
            with autocast(compute, device):
                logits = ensemble(images)
            real = real_loss(logits, labels)
            real.backward()
            with autocast(compute, device):
                logits = ensemble(counterfactuals)
            losses = counterfactual_losses(logits, mechanism_labels)
            counterfactual = settings.counterfactual_weight * torch.stack([*losses.values()]).mean()
            counterfactual.backward()
        optimiser.step()

        if loop.is_noted(step, LOG_EVERY_STEPS):
            total = (real + counterfactual).item()
            _check_finite(total, step, settings)
            parts = {name: loss.item() for name, loss in losses.items()}
            loop.note(step, {"loss": total, "real": real.item(), **parts})
    return place(ensemble, "cpu", torch.contiguous_format).eval(), loop.history


def _check_finite(loss: float, step: int, settings: EnsembleFit) -> None:
    """Refuse to go on with a training that has diverged.

    Raises:
        SettingError: If the loss is no number.
    """
    if not math.isfinite(loss):
        remedy = "Lower it; without `weights`, let batch norm learn too (`frozen_norm: none`)."
        wanted = f"one, such as less than {settings.learning_rate}, that keeps a finite loss"
        raise SettingError("ensemble.learning_rate", wanted, f"{loss} at step {step + 1}", remedy)


def learning_rate_at(step: int, settings: EnsembleFit) -> float:
    """Return the learning rate of a step: a tenth of the last one in each of `num_decays` + 1 equal parts."""
    part = step * (settings.num_decays + 1) // settings.num_steps
    return settings.learning_rate * DECAY**part


def build_ensemble(
    store: Path,
    data_inputs: dict[str, Any],
    source: Callable[[], tuple[DrawBatch, DrawBatch]],
    settings: EnsembleFit,
    seed: int,
    compute: Compute,
    num_classes: int = 1000,
    record: RecordStep = record_nothing,
    title: str = "ensemble",
) -> tuple[Artifact, InvariantEnsemble]:
    """Return the ensemble trained from `inputs`: train it, continue it, or reuse it.

    Args:
        store: Directory of ensembles.
        data_inputs: What the training data is made from; settings and seed are added here.
        source: Gives `draw_real` and `draw_counterfactual`; only called when there is something to train.
        settings, seed, compute, num_classes, record, title: As in `fit_ensemble`.

    Raises:
        SettingError: If the file of weights is missing, or as in `fit_ensemble`.
    """

    def write(writer: ArtifactWriter) -> None:
        checkpoint_path = writer.scratch("checkpoint.pt")
        ensemble, history = fit_ensemble(
            *source(), settings, seed, compute, num_classes, checkpoint_path, record, title
        )
        writer.write(WEIGHTS_FILE, ensemble.save)
        writer.write_json(HISTORY_FILE, history)

    inputs = {
        "kind": "invariant ensemble",
        "data": data_inputs,
        "settings": settings.model_dump(exclude={"checkpoint_every_steps", "precision", "weights"}),
        # The content counts, wherever the file lies.
        "weights": sha256_of_weights(settings.weights),
        "seed": seed,
        "precision": settings.computing(compute).precision,
        "num_classes": num_classes,
    }
    artifact = build_artifact(store, inputs, write)
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
    """Load an ensemble that `build_ensemble` made, frozen and in eval mode."""
    return load_ensemble(artifact.path(WEIGHTS_FILE))
