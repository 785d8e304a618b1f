"""Discriminators: one for distilling students, two for training a CGN."""

from __future__ import annotations

import math
from itertools import pairwise
from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.nn.utils.parametrizations import spectral_norm


class Judgement(NamedTuple):
    """What the distillation discriminator says of images.

    Attributes:
        logits: [N], above 0 for teacher images.
        class_logits: [N, num_classes], the score of the image under every class.
        features: The output of every layer, shallow to deep.
    """

    logits: Tensor
    class_logits: Tensor
    features: list[Tensor]

    def float(self) -> Judgement:
        """Return it in single precision, whatever it was computed in."""
        return Judgement(self.logits.float(), self.class_logits.float(), [layer.float() for layer in self.features])


class ProjectionDiscriminator(nn.Module):
    """Spectrally normalised strided convolutions with a class projection (arXiv 1802.05637).

    Args:
        channels: Image channels: 1 for masks, 3 otherwise.
        num_classes: Number of classes.
        image_size: Height and width; layers halve it down to 4.
        width: Channels of the first layer; each layer doubles them.
    """

    def __init__(self, channels: int, num_classes: int, image_size: int, width: int) -> None:
        super().__init__()
        num_layers = max(1, int(math.log2(image_size // 4)))
        widths = [channels] + [width * 2**layer for layer in range(num_layers)]
        self.layers = nn.ModuleList(
            spectral_norm(nn.Conv2d(narrow, wide, 4, stride=2, padding=1)) for narrow, wide in pairwise(widths)
        )
        self.activation = nn.LeakyReLU(0.01)
        self.linear = spectral_norm(nn.Linear(widths[-1], 1))
        self.class_embedding = spectral_norm(nn.Embedding(num_classes, widths[-1]))

    def forward(self, images: Tensor, labels: Tensor) -> Judgement:
        """Judge images [N, C, H, W] in [-1, 1] of classes [N]."""
        features = []
        for layer in self.layers:
            images = self.activation(layer(images))
            features.append(images)
        pooled = images.sum((2, 3))
        scores = self.linear(pooled)  # [N, 1]
        class_logits = scores + pooled @ self.class_embedding.weight.t()  # type: ignore[operator]
        logits = class_logits.gather(1, labels[:, None])[:, 0]
        return Judgement(logits, class_logits, features)


class LinearDiscriminator(nn.Module):
    """Score composites [N, 3, H, W] of classes [N] with fully connected layers (CGN on MNIST)."""

    def __init__(self, num_classes: int, image_size: int, width: int) -> None:
        super().__init__()
        # As long as a hidden layer: a shorter one is drowned out by the pixels, and classes get mixed up.
        self.label_embedding = nn.Embedding(num_classes, width)
        self.model = nn.Sequential(
            nn.Linear(width + 3 * image_size**2, width),
            nn.LeakyReLU(0.2),
            nn.Linear(width, width),
            nn.Dropout(0.4),
            nn.LeakyReLU(0.2),
            nn.Linear(width, width),
            nn.Dropout(0.4),
            nn.LeakyReLU(0.2),
            nn.Linear(width, 1),
        )

    def forward(self, images: Tensor, labels: Tensor) -> Tensor:
        """Return scores [N], 1 for real images."""
        return self.model(torch.cat([images.flatten(1), self.label_embedding(labels)], 1))[:, 0]


class ConvolutionalDiscriminator(nn.Module):
    """Score composites with strided convolutions; the class enters as one more image channel."""

    def __init__(self, num_classes: int, image_size: int, width: int) -> None:
        super().__init__()
        self.image_size = image_size
        self.label_embedding = nn.Embedding(num_classes, image_size**2)
        self.model = nn.Sequential(
            nn.Conv2d(4, width, 4, stride=2, padding=1),
            nn.LeakyReLU(0.2),
            nn.Conv2d(width, 2 * width, 4, stride=2, padding=1, bias=False),
            nn.BatchNorm2d(2 * width),
            nn.LeakyReLU(0.2),
            nn.Conv2d(2 * width, 4 * width, 4, stride=2, padding=1, bias=False),
            nn.BatchNorm2d(4 * width),
            nn.LeakyReLU(0.2),
            nn.Flatten(),
            nn.Linear(4 * width * (image_size // 8) ** 2, 1),
        )

    def forward(self, images: Tensor, labels: Tensor) -> Tensor:
        """Return scores [N], 1 for real images."""
        plane = self.label_embedding(labels).view(-1, 1, self.image_size, self.image_size)
        return self.model(torch.cat([images, plane], 1))[:, 0]


CGN_DISCRIMINATORS = {"linear": LinearDiscriminator, "convolutional": ConvolutionalDiscriminator}
