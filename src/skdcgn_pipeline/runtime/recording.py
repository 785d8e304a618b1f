"""What trainings tell while they run: losses by step go to whoever listens, from any thread."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager

# (training, step from 1, losses by name)
Listener = Callable[[str, int, Mapping[str, float]], None]

_listeners: list[Listener] = []


def record(training: str, step: int, losses: Mapping[str, float]) -> None:
    """Tell all listeners the losses of a step.

    Args:
        training: Name of the training, such as `shape` or `classifier/students/seed_0`.
        step: Steps that are done.
        losses: Value by name.
    """
    for listener in _listeners:
        listener(training, step, losses)


@contextmanager
def listening(listener: Listener) -> Iterator[None]:
    """Let a listener hear what trainings tell inside the block."""
    _listeners.append(listener)
    try:
        yield
    finally:
        _listeners.remove(listener)
