"""Mixtures of classes: what lies between two classes of a conditional generator.

The generators here know classes by rows of tables or by a linear map of a one-hot vector. Both are linear in
the one-hot vector, so that weights in its place mix what belongs to each class.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Protocol, runtime_checkable

import torch
from torch import Tensor, nn

from skdcgn_pipeline.mechanisms import CounterfactualGenerator, MechanismImages
from skdcgn_pipeline.runtime.errors import SettingError
from skdcgn_pipeline.vocabulary import MECHANISMS


@runtime_checkable
class MixesClasses(CounterfactualGenerator, Protocol):
    """A generator that renders mixtures of classes too; a teacher need not."""

    def render_mixtures(self, noise: Tensor, weights: Mapping[str, Tensor]) -> MechanismImages:
        """Render noise [N, noise_dim] with weights [N, num_classes] of the classes of each mechanism.

        Rows of one-hot weights give the images of these classes.

        Raises:
            SettingError: If weights have another shape, are negative or do not sum to 1.
        """
        ...


def look_up(table: nn.Embedding, classes: Tensor) -> Tensor:
    """Return the rows of classes [N], or mixtures of rows by weights [N, num_classes]."""
    return table(classes) if classes.ndim == 1 else pick(table.weight, classes)


def pick(table: Tensor, classes: Tensor) -> Tensor:
    """Return rows of a table [num_classes, D] by classes [N], or mixtures of them by weights [N, num_classes]."""
    return table[classes] if classes.ndim == 1 else classes.to(table) @ table


def check_mixtures(generator: CounterfactualGenerator, noise: Tensor, weights: Mapping[str, Tensor]) -> None:
    """Refuse weights that are no mixtures of a generator's classes, as `render_mixtures` says."""
    expected = (len(noise), generator.num_classes)
    for mechanism in MECHANISMS:
        own = weights.get(mechanism)
        remedy = "Give one row of weights per image, for each mechanism."
        if own is None or tuple(own.shape) != expected:
            got = None if own is None else list(own.shape)
            raise SettingError(f"class weights of {mechanism}", f"shape {list(expected)}", got, remedy)
        if (own < 0).any() or not torch.allclose(own.sum(1), torch.ones_like(own[:, 0]), atol=1e-4):
            raise SettingError(f"class weights of {mechanism}", "rows from 0 on that sum to 1", "others", remedy)
