"""Deep feature reweighting: the last layer of a plainly trained classifier is learnt anew on balanced groups."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from skdcgn_pipeline.classifiers.methods.contract import Material, Method, share_of
from skdcgn_pipeline.classifiers.training import Lesson
from skdcgn_pipeline.images.batches import draw_balanced
from skdcgn_pipeline.parameters import ClassifierFit
from skdcgn_pipeline.runtime.compute import place
from skdcgn_pipeline.runtime.errors import SettingError


class _LastLayer:
    """Logistic regression on the features of a classifier that stays as it is.

    Args:
        first: Gives that classifier.
        l1: Weight of the sum of the absolute weights.
    """

    def __init__(self, first: Callable[[], nn.Module], l1: float) -> None:
        self.first, self.l1 = first, l1
        self.head: nn.Linear

    def attach(self, network: Any) -> Callable[[Tensor], Tensor]:
        """Give the network the weights of the first, a head of zeros, and return what gives its logits."""
        if not (hasattr(network, "features") and isinstance(getattr(network, "head", None), nn.Linear)):
            expected, got = "a network with `features` and one linear `head`", f"a {type(network).__name__}"
            remedy = "Take 'digit_cnn' or 'small_cnn', or leave 'dfr' out of ablation.alternatives.methods."
            raise SettingError("classify.network.architecture", expected, got, remedy)
        first: Any = place(self.first(), next(network.parameters()).device, torch.channels_last)
        network.load_state_dict(first.state_dict())
        self.head = network.head
        for parameter in self.head.parameters():
            nn.init.zeros_(parameter)

        def logits_of(images: Tensor) -> Tensor:
            with torch.no_grad():
                features = first.features(images)
            return self.head(features)

        return logits_of

    def losses(self, logits: Tensor, labels: Tensor) -> Mapping[str, Tensor]:
        """Return the penalised loss."""
        return {"loss": F.cross_entropy(logits.float(), labels) + self.l1 * self.head.weight.abs().sum()}


@dataclass(frozen=True)
class DFR(Method):
    """min_{W, b} mean CE(W phi(x) + b, y) + l1 |W|_1 over group-balanced images, phi of a plainly trained classifier.

    The first classifier has a share of the images of the budget, the last layer the rest, all of them training images
    (DFR^Tr_Tr of the paper: there are no others with known groups). A group is a class, aligned or in conflict with
    the bias.

    Kirichenko et al., "Last layer re-training is sufficient for robustness to spurious correlations", ICLR 2023,
    arXiv 2204.02937.

    Attributes:
        l1: Weight of the penalty; the paper's C is 1 / (l1 N) for N balanced images.
        first: Share of the budget of the first classifier.
    """

    name = "dfr"
    title = "DFR"
    paper = "Kirichenko et al. 2023, arXiv 2204.02937"
    needs_groups = True
    grid = ({"l1": 0.001}, {"l1": 0.01})

    l1: float = 0.001
    first: float = 0.7

    def budget(self, fit: ClassifierFit) -> ClassifierFit:
        """Return what the first classifier leaves."""
        return share_of(fit, 1 - self.first)

    def lesson(self, material: Material) -> Lesson:
        """Draw groups, and an image of each."""
        images, labels, groups = material.images_and_groups()
        layer = _LastLayer(lambda: material.trained(share_of(material.fit, self.first)), self.l1)
        draw = draw_balanced(images, labels, groups, material.seed, "classifier-groups")
        return Lesson(draw, material.fit.batch_size, layer.losses, attach=layer.attach)
