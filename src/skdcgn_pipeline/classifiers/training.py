"""Train a digit classifier on batches drawn from anywhere."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save_file
from torch.nn import functional as F

from skdcgn_pipeline.artifacts.store import Artifact, ArtifactWriter, build_artifact
from skdcgn_pipeline.classifiers.classifier import INITIALISATION, DigitClassifier
from skdcgn_pipeline.images.epochs import DrawBatch
from skdcgn_pipeline.parameters import ClassifierFit, Compute
from skdcgn_pipeline.runtime.compute import autocast, choose_device, memory_format, place
from skdcgn_pipeline.runtime.seeding import seeded
from skdcgn_pipeline.training.checkpointing import (
    Checkpoint,
    History,
    RecordStep,
    Stateful,
    TrainingLoop,
    record_nothing,
)
from skdcgn_pipeline.training.optimisers import Muon, split_parameters

LOG_EVERY_STEPS = 20
WARM_UP_SHARE = 0.25
WEIGHTS_FILE, HISTORY_FILE = "classifier.safetensors", "history.json"


def fit_classifier(
    draw_batch: DrawBatch,
    settings: ClassifierFit,
    seed: int,
    compute: Compute,
    num_classes: int = 10,
    checkpoint_path: Path | None = None,
    record: RecordStep = record_nothing,
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
        record: Called with (step, losses) every few steps.
        title: Shown in the progress.
        initialisation: As in `DigitClassifier`.

    Returns:
        The classifier in eval mode, on the CPU, and the history of its loss.

    Raises:
        InterruptedRunError: If a stop was requested; the state is saved.
    """
    compute = settings.computing(compute)
    device = choose_device(compute.device)
    with seeded(seed, "classifier-init"):
        network = DigitClassifier(num_classes, initialisation)
    network = place(network, device, memory_format(compute)).train()
    matrices, others = split_parameters(network)
    if settings.optimiser == "adamw":
        matrices, others = [], [*network.parameters()]
    optimisers: dict[str, torch.optim.Optimizer] = {
        "optimiser": torch.optim.AdamW(
            others, settings.learning_rate, weight_decay=settings.weight_decay, fused=compute.precision == "bf16"
        )
    }
    if matrices:
        optimisers["matrix_optimiser"] = Muon(matrices, settings.matrix_learning_rate)
    # OneCycleLR divides by the length of its phases: two steps of warm-up, three in all at least.
    total_steps = max(settings.num_steps + 1, 3)
    schedules = {
        f"{name}_schedule": torch.optim.lr_scheduler.OneCycleLR(
            optimiser,
            optimiser.param_groups[0]["lr"],
            total_steps=total_steps,
            pct_start=max(WARM_UP_SHARE, 2 / total_steps),
            cycle_momentum=name == "optimiser",
        )
        for name, optimiser in optimisers.items()
    }
    objects: dict[str, Stateful] = {"network": network, **optimisers, **schedules}
    checkpoint = Checkpoint(checkpoint_path, objects, settings.checkpoint_every_steps)
    loop = TrainingLoop(title, settings.num_steps, checkpoint, record)

    for step in loop.steps():
        images, labels = draw_batch(step, settings.batch_size)
        images = images.to(device, non_blocking=True)
        labels = labels.to(device, non_blocking=True)
        with autocast(compute, device):
            logits = network(images)
        loss = F.cross_entropy(logits.float(), labels, label_smoothing=settings.label_smoothing)
        network.zero_grad(set_to_none=True)
        loss.backward()
        for optimiser in optimisers.values():
            optimiser.step()
        for schedule in schedules.values():
            schedule.step()

        if loop.is_noted(step, LOG_EVERY_STEPS):
            loop.note(step, {"loss": loss.item()})
    return place(network, "cpu", torch.contiguous_format).eval(), loop.history


def build_classifier(
    store: Path,
    data_inputs: dict[str, Any],
    source: Callable[[], DrawBatch],
    settings: ClassifierFit,
    seed: int,
    compute: Compute,
    num_classes: int = 10,
    record: RecordStep = record_nothing,
    title: str = "classifier",
) -> tuple[Artifact, DigitClassifier]:
    """Return the classifier trained from `inputs`: train it, continue it, or reuse it.

    Args:
        store: Directory of classifiers.
        data_inputs: What the training data is made from; settings and seed are added here.
        source: Gives `draw_batch`; only called when there is something to train.
        settings, seed, compute, num_classes, record, title: As in `fit_classifier`.
    """

    def write(writer: ArtifactWriter) -> None:
        classifier, history = fit_classifier(
            source(), settings, seed, compute, num_classes, writer.scratch("checkpoint.pt"), record, title
        )
        writer.write(WEIGHTS_FILE, lambda path: save_file(classifier.state_dict(), path))
        writer.write_json(HISTORY_FILE, history)

    precision = settings.computing(compute).precision
    inputs = {
        # In bfloat16 the first layers are one, which sums the same gradients in another order.
        "kind": f"digit classifier, norm {'and pooling ' if precision == 'bf16' else ''}folded",
        "initialisation": INITIALISATION,
        "data": data_inputs,
        "settings": settings.model_dump(exclude={"checkpoint_every_steps", "precision"}),
        "seed": seed,
        "precision": precision,
        "num_classes": num_classes,
    }
    artifact = build_artifact(store, inputs, write)
    return artifact, open_classifier(artifact)


def open_classifier(artifact: Artifact) -> DigitClassifier:
    """Load a classifier that `build_classifier` made, in eval mode."""
    classifier = DigitClassifier(artifact.inputs["num_classes"])
    classifier.load_state_dict(load_file(artifact.path(WEIGHTS_FILE)))
    return classifier.requires_grad_(False).eval()
