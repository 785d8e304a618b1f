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


def restore_state(path: Path | None, objects: Mapping[str, Stateful]) -> tuple[int, History]:
    """Load the last state of a training into its objects.

    A checkpoint lives in the partial directory of the artifact that the training makes; that directory
    is named after all settings, so a checkpoint never meets other settings.

    Args:
        path: Where it is kept; None keeps nothing.
        objects: What is restored, by name.

    Returns:
        The number of steps done and the history so far; (0, []) where there is none.
    """
    if path is None or not path.exists():
        return 0, []
    try:
        state = torch.load(path, weights_only=True, map_location="cpu")
    except (RuntimeError, pickle.UnpicklingError, EOFError) as error:
        logger.warning("%s cannot be read (%s); this training starts over", path, type(error).__name__)
        return 0, []
    for name, stateful in objects.items():
        stateful.load_state_dict(state["objects"][name])
    logger.info("Continuing from step %d of %s", state["step"], path)
    return state["step"], state["history"]


def save_state(path: Path, objects: Mapping[str, Stateful], step: int, history: History) -> None:
    """Save the state of a training after `step` steps."""
    states = {name: stateful.state_dict() for name, stateful in objects.items()}
    state = {"step": step, "history": history, "objects": states}
    write_aside(path, lambda temporary: torch.save(state, temporary))
