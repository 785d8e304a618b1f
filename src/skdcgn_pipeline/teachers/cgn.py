"""The CGN of the MNIST variants, with the published names of its tensors (660 k parameters).

Architecture: CGN (arXiv 2101.06046), appendix on the MNIST experiments.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from skdcgn_pipeline.networks.interface import MechanismGenerator, look_up

MASK_MIN, MASK_MAX = 1e-4, 0.9999


def _shape_network(input_dim: int, width: int, start: int) -> nn.Sequential:
    return nn.Sequential(
        nn.Linear(input_dim, 2 * width * start**2),
        nn.Unflatten(1, (2 * width, start, start)),
        nn.InstanceNorm2d(2 * width),
        nn.Upsample(scale_factor=2),
        nn.Conv2d(2 * width, width, 3, padding=1, bias=False),
        nn.BatchNorm2d(width),
        nn.LeakyReLU(0.2),
        nn.InstanceNorm2d(width),
        nn.Upsample(scale_factor=2),
        nn.Conv2d(width, 1, 3, padding=1, bias=False),
        nn.BatchNorm2d(1),
        nn.LeakyReLU(0.2),
        nn.InstanceNorm2d(1),
    )


def _texture_network(input_dim: int, width: int, start: int) -> nn.Sequential:
    return nn.Sequential(
        nn.Linear(input_dim, 2 * width * start**2),
        nn.Unflatten(1, (2 * width, start, start)),
        nn.Upsample(scale_factor=2),
        nn.Conv2d(2 * width, 2 * width, 3, padding=1, bias=False),
        nn.BatchNorm2d(2 * width),
        nn.LeakyReLU(0.2),
        nn.Upsample(scale_factor=2),
        nn.Conv2d(2 * width, width, 3, padding=1, bias=False),
        nn.BatchNorm2d(width),
        nn.LeakyReLU(0.2),
        nn.Conv2d(width, 3, 3, padding=1),
        nn.BatchNorm2d(3),
        nn.Tanh(),
    )


class MnistCGN(MechanismGenerator):
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

    def paint(self, mechanism: str, noise: Tensor, classes: Tensor) -> Tensor:
        """Return a mechanism's images, see `MechanismGenerator.paint`."""
        images = self.network_of(mechanism)(torch.cat([noise, look_up(self.label_emb, classes)], 1)).float()
        # Clamped in float: 0.9999 is 1 in bfloat16, and the mask's entropy would be infinite.
        return images.clamp(MASK_MIN, MASK_MAX) if mechanism == "shape" else images
