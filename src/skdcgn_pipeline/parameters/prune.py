"""Settings of the `prune` stage."""

from __future__ import annotations

from skdcgn_pipeline.parameters.base import Settings, Weight


class Prune(Settings):
    """What the `prune` pipeline removes beyond old versions, see `keep_last`.

    Attributes:
        confirm: Remove; false only lists what would be removed.
        unfinished_days: Unfinished work, and finished work that no dataset names, stays as long as it is
            younger.
    """

    confirm: bool = False
    unfinished_days: Weight = 7.0
