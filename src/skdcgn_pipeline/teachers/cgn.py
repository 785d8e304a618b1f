"""The CGN of the MNIST variants, with the published names of its tensors (660 k parameters).

Architecture: CGN (arXiv 2101.06046), appendix on the MNIST experiments.
"""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor, nn

from skdcgn_pipeline.mechanisms import LabelsLike, MechanismImages, MechanismLabels
from skdcgn_pipeline.networks.interface import check_mixtures, look_up
from skdcgn_pipeline.vocabulary import MECHANISMS

MASK_MIN, MASK_MAX = 1e-4, 0.9999


class Reshape(nn.Module):
    """View [N, C * H * W] as [N, C, H, W]."""

    def __init__(self, channels: int, size: int) -> None:
        super().__init__()
        self.channels, self.size = channels, size

    def forward(self, inputs: Tensor) -> Tensor:
        """Reshape the inputs."""
        return inputs.view(-1, self.channels, self.size, self.size)


def _double() -> nn.Upsample:
    return nn.Upsample(scale_factor=2, mode="nearest")


def _shape_network(input_dim: int, width: int, start: int) -> nn.Sequential:
    return nn.Sequential(
        nn.Linear(input_dim, 2 * width * start**2),
        Reshape(2 * width, start),
        nn.InstanceNorm2d(2 * width),
        _double(),
        nn.Conv2d(2 * width, width, 3, padding=1, bias=False),
        nn.BatchNorm2d(width),
        nn.LeakyReLU(0.2),
        nn.InstanceNorm2d(width),
        _double(),
        nn.Conv2d(width, 1, 3, padding=1, bias=False),
        nn.BatchNorm2d(1),
        nn.LeakyReLU(0.2),
        nn.InstanceNorm2d(1),
    )


def _texture_network(input_dim: int, width: int, start: int) -> nn.Sequential:
    return nn.Sequential(
        nn.Linear(input_dim, 2 * width * start**2),
        Reshape(2 * width, start),
        _double(),
        nn.Conv2d(2 * width, 2 * width, 3, padding=1, bias=False),
        nn.BatchNorm2d(2 * width),
        nn.LeakyReLU(0.2),
        _double(),
        nn.Conv2d(2 * width, width, 3, padding=1, bias=False),
        nn.BatchNorm2d(width),
        nn.LeakyReLU(0.2),
        nn.Conv2d(width, 3, 3, padding=1),
        nn.BatchNorm2d(3),
        nn.Tanh(),
    )


class MnistCGN(nn.Module):
    """Three independent conditional generators of one noise vector and a class each.

    Args:
        noise_dim: Length of the noise.
        num_classes: Number of classes; the class embedding is square.
        image_size: Height and width, a multiple of 4.
        width: Channels before the last layer.
    """

    def __init__(self, noise_dim: int = 32, num_classes: int = 10, image_size: int = 32, width: int = 32) -> None:
        super().__init__()
        self.noise_dim, self.num_classes, self.image_size = noise_dim, num_classes, image_size
        input_dim, start = noise_dim + num_classes, image_size // 4
        self.label_emb = nn.Embedding(num_classes, num_classes)
        self.f_shape = _shape_network(input_dim, width, start)
        self.f_text1 = _texture_network(input_dim, width, start)
        self.f_text2 = _texture_network(input_dim, width, start)

    def network_of(self, mechanism: str) -> nn.Module:
        """Return the network of one mechanism, without the class embedding that all share."""
        return {"shape": self.f_shape, "texture": self.f_text1, "background": self.f_text2}[mechanism]

    def forward(self, noise: Tensor, labels: LabelsLike) -> MechanismImages:
        """Render with gradients; `noise` [N, noise_dim], labels as in `MechanismLabels.of`."""
        labels = MechanismLabels.of(labels)
        return MechanismImages(*(self._render_one(m, noise, getattr(labels, m)) for m in MECHANISMS))

    def _render_one(self, mechanism: str, noise: Tensor, label: Tensor) -> Tensor:
        images = self.network_of(mechanism)(torch.cat([noise, look_up(self.label_emb, label)], 1)).float()
        # Clamped in float: 0.9999 is 1 in bfloat16, and the mask's entropy would be infinite.
        return images.clamp(MASK_MIN, MASK_MAX) if mechanism == "shape" else images

    @torch.no_grad()
    def render_mechanism(self, mechanism: str, noise: Tensor, label: Tensor) -> Tensor:
        """Render one mechanism's image for noise [N, noise_dim] and classes [N]."""
        return self._render_one(mechanism, noise, label)

    @torch.no_grad()
    def render(self, noise: Tensor, labels: LabelsLike) -> MechanismImages:
        """Render the mechanisms before the patch shift, without gradients."""
        return self(noise, labels)

    @torch.no_grad()
    def render_mixtures(self, noise: Tensor, weights: Mapping[str, Tensor]) -> MechanismImages:
        """Render mixtures of classes, see `MixesClasses`."""
        check_mixtures(self, noise, weights)
        return MechanismImages(*(self._render_one(m, noise, weights[m]) for m in MECHANISMS))
