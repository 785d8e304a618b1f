"""The actor between a run and its workers of Ray; a module of its own, for whose process torch is not imported."""

from __future__ import annotations

Told = tuple[str, int, dict[str, float]]  # training, step, losses


class Post:
    """Losses one way, the wish to stop the other."""

    def __init__(self) -> None:
        self.stopping, self.told = False, list[Told]()

    def hear(self, stopping: bool) -> list[Told]:
        """Say whether to stop; returns what workers have told since the last time."""
        self.stopping = self.stopping or stopping
        told, self.told = self.told, []
        return told

    def tell(self, told: list[Told]) -> bool:
        """Add losses; returns whether to stop."""
        self.told += told
        return self.stopping
