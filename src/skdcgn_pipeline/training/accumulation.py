"""Batches that are computed in parts, as if each were one whole."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from torch import Tensor, nn


class SpectralPasses:
    """Passes of a spectrally normalised network over the parts of a batch, as if each were one over the whole batch.

    In training every pass iterates the power methods of the spectral norms once. So the first part's passes
    do, and the other parts' meet the same norms.

    Args:
        network: With `torch.nn.utils.parametrizations.spectral_norm`.
    """

    def __init__(self, network: nn.Module) -> None:
        # Torch's class of theirs is private; these are its vectors.
        self._norms: list[Any] = [module for module in network.modules() if hasattr(module, "_u")]
        self._vectors: dict[str, list[tuple[Tensor, Tensor]]] = {}

    @contextmanager
    def named(self, name: str, part: int, num_parts: int) -> Iterator[None]:
        """Run the pass `name` of a part inside the block."""
        if num_parts == 1:
            yield
        elif part == 0:
            yield
            self._vectors[name] = [(norm._u.clone(), norm._v.clone()) for norm in self._norms]
        else:
            for norm, (left, right) in zip(self._norms, self._vectors[name], strict=True):
                norm._u.copy_(left)
                norm._v.copy_(right)
                norm.eval()
            yield
            for norm in self._norms:
                norm.train()


@contextmanager
def kept_statistics(network: nn.Module) -> Iterator[None]:
    """Leave the running statistics of batch norms alone inside the block."""
    norms = [module for module in network.modules() if isinstance(module, nn.BatchNorm2d)]
    for norm in norms:
        norm.track_running_stats = False
    yield
    for norm in norms:
        norm.track_running_stats = True
