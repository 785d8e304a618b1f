"""Checkpoints: named objects with a step, written aside and renamed, loaded without running code."""

from __future__ import annotations

import logging
import pickle
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Protocol

import torch

from skdcgn_pipeline.artifacts.store import write_aside

logger = logging.getLogger(__name__)


History = list[dict[str, float]]


class Stateful(Protocol):
    """Whatever can give its state and take it back: modules, optimisers, schedules."""

    def state_dict(self) -> dict[str, Any]:
        """Return the state."""
        ...

    def load_state_dict(self, state: Any) -> Any:
        """Take a state back."""
        ...


class Checkpoint:
    """The state of one training: a step, named objects and the history of its losses.

    A checkpoint lives in the partial directory of the artifact that the training makes; that directory
    is named after all settings, so a checkpoint never meets other settings.

    Args:
        path: Where it is kept; None keeps nothing.
        objects: What is saved and restored.
        every_steps: How often.
        read_only: Never save: another process of the same training does.
    """

    def __init__(
        self, path: Path | None, objects: Mapping[str, Stateful], every_steps: int, read_only: bool = False
    ) -> None:
        self.path, self.objects, self.every_steps, self.read_only = path, objects, every_steps, read_only

    def restore(self) -> tuple[int, History]:
        """Load the last state into the objects.

        Returns:
            The number of steps done and the history so far; (0, []) where there is none.
        """
        if self.path is None or not self.path.exists():
            return 0, []
        try:
            state = torch.load(self.path, weights_only=True, map_location="cpu")
        except (RuntimeError, pickle.UnpicklingError, EOFError) as error:
            logger.warning("%s cannot be read (%s); this training starts over", self.path, type(error).__name__)
            return 0, []
        for name, stateful in self.objects.items():
            stateful.load_state_dict(state["objects"][name])
        logger.info("Continuing from step %d of %s", state["step"], self.path)
        return state["step"], state["history"]

    def save(self, step: int, history: History) -> None:
        """Save the state after `step` steps."""
        if self.path is None or self.read_only:
            return
        state = {
            "step": step,
            "history": history,
            "objects": {name: stateful.state_dict() for name, stateful in self.objects.items()},
        }
        write_aside(self.path, lambda temporary: torch.save(state, temporary))

    def is_due(self, step: int, num_steps: int) -> bool:
        """Tell whether the state should be saved after `step` steps."""
        return step % self.every_steps == 0 and step < num_steps
