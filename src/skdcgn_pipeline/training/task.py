"""The one training loop, and what a training must offer to it."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, Protocol, TypeVar

import torch
from torch import nn

from skdcgn_pipeline.runtime.compute import place
from skdcgn_pipeline.runtime.progress import Progress, stop_requested
from skdcgn_pipeline.runtime.recording import record
from skdcgn_pipeline.training.checkpointing import History, Stateful, restore_state, save_state

NetworkT_co = TypeVar("NetworkT_co", bound=nn.Module, covariant=True)


class Task(Protocol[NetworkT_co]):
    """A training: its state, where its batches come from, and what a step does.

    Attributes:
        name: What its losses are recorded as, such as `shape` or `classifier/students/seed_0`.
        title: What its progress is called.
        num_steps: Steps in all.
        log_every_steps: How often losses are asked for; the last step's always are.
        checkpoint_every_steps: A killed training repeats at most this many steps.
    """

    name: str
    title: str
    num_steps: int
    log_every_steps: int
    checkpoint_every_steps: int

    @property
    def result(self) -> NetworkT_co:
        """The network that the training is for."""
        ...

    @property
    def objects(self) -> Mapping[str, Stateful]:
        """What a checkpoint holds, by name."""
        ...

    def batch(self, step: int) -> Any:
        """Return the batch of a step, from 0; the same for the same step, whatever ran before."""
        ...

    def update(self, step: int, batch: Any, noted: bool) -> Mapping[str, float]:
        """Train on a batch.

        Args:
            step: Number of the step, from 0.
            batch: What `batch` gave.
            noted: Whether the losses are asked for; reading them waits for the device.

        Returns:
            Every loss by name where they are asked for; else nothing, or what is worth noting at this step.
        """
        ...


def fit(
    task: Task[NetworkT_co],
    checkpoint_path: Path | None = None,
    *,
    read_only: bool = False,
    remark: Callable[[], str] = str,
    agree: Callable[[bool], bool] = bool,
) -> tuple[NetworkT_co, History]:
    """Run a task to its end: continue, update, record, show progress, checkpoint, stop when asked.

    Args:
        task: The training.
        checkpoint_path: Where its state is kept; None keeps nothing.
        read_only: Never save: another process of the same training does.
        remark: Gives what else the progress tells.
        agree: Whether any process of the training wishes to stop, given whether this one does; asked once per step.

    Returns:
        The task's result in eval mode, on the CPU, and the losses that updates returned, by step from 1.

    Raises:
        InterruptedRunError: After a step, if a stop was requested; the state is saved.
    """
    first, history = restore_state(checkpoint_path, task.objects)
    progress = Progress(task.title, task.num_steps, "steps", first, remark=remark)
    for step in range(first, task.num_steps):
        done = step + 1
        noted = done % task.log_every_steps == 0 or done == task.num_steps
        losses = task.update(step, task.batch(step), noted)
        if losses:
            history.append({"step": done, **losses})
            record(task.name, done, losses)
        progress.advance()
        stopping = agree(stop_requested()) and done < task.num_steps
        is_due = stopping or (done % task.checkpoint_every_steps == 0 and done < task.num_steps)
        if is_due and checkpoint_path is not None and not read_only:
            save_state(checkpoint_path, task.objects, done, history)
        if stopping:
            progress.interrupt()
    progress.finish()
    return place(task.result, "cpu", torch.contiguous_format).eval(), history
