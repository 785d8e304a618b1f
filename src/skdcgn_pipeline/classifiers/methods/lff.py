"""Learning from failure: a second network that is made to be biased says which images are hard for it."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from skdcgn_pipeline.classifiers.methods.contract import Material, Method
from skdcgn_pipeline.classifiers.training import Lesson
from skdcgn_pipeline.images.batches import draw_from_images
from skdcgn_pipeline.runtime.seeding import derive_seed


def generalised_cross_entropy(logits: Tensor, labels: Tensor, q: float) -> Tensor:
    """Return (1 - p_y^q) / q [B], whose gradient is p_y^q times that of the cross-entropy (arXiv 1805.07836)."""
    return (1 - (-q * F.cross_entropy(logits, labels, reduction="none")).exp()) / q


class _Failures(nn.Module):
    """The biased network and the losses of both.

    Args:
        biased: The second network.
        q: How much it prefers what is easy.
    """

    def __init__(self, biased: nn.Module, q: float) -> None:
        super().__init__()
        self.biased, self.q = biased, q

    def attach(self, network: nn.Module) -> Callable[[Tensor], tuple[Tensor, Tensor]]:
        """Return what gives the logits of both networks."""
        return lambda images: (network(images), self.biased(images))

    def forward(self, logits: tuple[Tensor, Tensor], labels: Tensor) -> Mapping[str, Tensor]:
        """Return the sum of both losses, of logits [B, K] of the network that is wanted and of the biased one."""
        wanted, biased = (each.float() for each in logits)
        losses = F.cross_entropy(wanted, labels, reduction="none")
        with torch.no_grad():
            difficulty = F.cross_entropy(biased, labels, reduction="none")
            weights = difficulty / (difficulty + losses + 1e-8)
        return {"loss": generalised_cross_entropy(biased, labels, self.q).mean() + (weights * losses).mean()}


@dataclass(frozen=True)
class LfF(Method):
    """L = mean W(x) CE(f_D(x), y) + mean GCE(f_B(x), y), with W(x) = CE(f_B) / (CE(f_B) + CE(f_D)).

    The biased network f_B learns by GCE(p, y) = (1 - p_y^q) / q, which follows what is easy; images that it finds hard
    and f_D does not weigh more. Each step trains both. The paper's algorithm; its code also averages the losses of an
    image over epochs, of which there are too few here.

    Nam et al., "Learning from failure: Training debiased classifier from biased classifier", NeurIPS 2020,
    arXiv 2007.02561.

    Attributes:
        q: Of the generalised cross-entropy, 0.7 in the paper; towards 0 it is the cross-entropy.
    """

    name = "lff"
    title = "LfF"
    paper = "Nam et al. 2020, arXiv 2007.02561"
    grid = ({"q": 0.5}, {"q": 0.7})

    q: float = 0.7

    def lesson(self, material: Material) -> Lesson:
        """Draw the originals, epoch after epoch."""
        split = material.originals()
        draw = draw_from_images(split.images, split.labels, material.seed, "classifier-rows")
        both = _Failures(material.untrained(derive_seed(material.seed, "biased-network")), self.q)
        return Lesson(draw, material.fit.batch_size, both, attach=both.attach, state=both)
