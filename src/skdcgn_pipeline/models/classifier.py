"""The digit classifier of CGN (arXiv 2101.06046, appendix): 32 px, four convolutions, average pooling."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

INITIALISATION = "kaiming_normal"
POOL_SIZE, POOL_STRIDE = 3, 2


class _MaxPool(torch.autograd.Function):
    """Torch's max pooling of contiguous images, looking for the largest values in channels last."""

    @staticmethod
    def forward(context: Any, images: Tensor) -> Tensor:
        """Return the largest values [N, C, h, w] and remember where they were."""
        channels_last = images.contiguous(memory_format=torch.channels_last)
        largest, places = F.max_pool2d(channels_last, POOL_SIZE, POOL_STRIDE, return_indices=True)
        context.save_for_backward(images, places.contiguous())
        return largest.contiguous()

    @staticmethod
    def backward(context: Any, *gradients: Tensor) -> Tensor:
        """Return the gradient of the images."""
        images, places = context.saved_tensors
        size, stride, padding, dilation = [POOL_SIZE] * 2, [POOL_STRIDE] * 2, [0, 0], [1, 1]
        return torch.ops.aten.max_pool2d_with_indices_backward(
            gradients[0].contiguous(), images, size, stride, padding, dilation, False, places
        )


def max_pool(images: Tensor) -> Tensor:
    """Return `torch.nn.functional.max_pool2d(images, 3, 2)`, the same bits in value and gradient.

    On a CPU torch takes several times as long for contiguous images as for channels last, and as long
    without gradients, where nobody asks for the places of the largest values.

    Args:
        images: [N, C, H, W] with at least 3 x 3 pixels.
    """
    if images.device.type != "cpu" or not images.is_contiguous():
        return F.max_pool2d(images, POOL_SIZE, POOL_STRIDE)
    if torch.is_grad_enabled() and images.requires_grad:
        return _MaxPool.apply(images)
    return _largest_of_three(_largest_of_three(images, 2), 3)


def _largest_of_three(images: Tensor, dim: int) -> Tensor:
    """Return the largest of each three neighbours, two apart, along a dimension."""
    length = (images.shape[dim] - POOL_SIZE) // POOL_STRIDE + 1
    end = POOL_STRIDE * (length - 1) + 1
    first, second, third = (
        images[(slice(None),) * dim + (slice(start, start + end, POOL_STRIDE),)] for start in range(POOL_SIZE)
    )
    return torch.maximum(torch.maximum(first, second), third)


class DigitClassifier(nn.Module):
    """Classify images [N, 3, 32, 32] in [-1, 1].

    Args:
        num_classes: Number of classes.
        initialisation: `kaiming_normal`, or `torch` for torch's default, which shrinks the signal from
            layer to layer so that short trainings stay at chance.
    """

    feature_dim = 64

    def __init__(self, num_classes: int = 10, initialisation: str = INITIALISATION) -> None:
        super().__init__()
        self.trunk = nn.Sequential(
            nn.BatchNorm2d(3),
            nn.Conv2d(3, 32, 5),
            nn.ReLU(),
            nn.MaxPool2d(POOL_SIZE, POOL_STRIDE),
            nn.Conv2d(32, 32, 3),
            nn.ReLU(),
            nn.Conv2d(32, 64, 3, stride=2, padding=1),
            nn.ReLU(),
            nn.Conv2d(64, 64, 3, padding=1),
            nn.ReLU(),
            # A global average: 6 x 6 here, where the published code pools by 7.
            nn.AdaptiveAvgPool2d(1),
            nn.Flatten(),
        )
        self.head = nn.Linear(self.feature_dim, num_classes)
        for layer in self.trunk:
            if isinstance(layer, nn.Conv2d) and initialisation == "kaiming_normal":
                nn.init.kaiming_normal_(layer.weight, nonlinearity="relu")
                assert layer.bias is not None
                nn.init.zeros_(layer.bias)

    def _first_convolution(self, images: Tensor) -> Tensor:
        """Return batch-norm and the first convolution of the images, before its ReLU.

        The norm's scale and shift are folded into the convolution: the same function of the same
        parameters, but no gradient has to pass through the convolution to reach them, which for
        three channels would be a third of the arithmetic of a training step.
        """
        norm, convolution = self.trunk[0], self.trunk[1]
        assert isinstance(norm, nn.BatchNorm2d)
        assert isinstance(convolution, nn.Conv2d)
        assert norm.momentum is not None
        assert convolution.bias is not None
        standardised = F.batch_norm(
            images, norm.running_mean, norm.running_var, None, None, self.training, norm.momentum, norm.eps
        )
        if convolution.weight.is_contiguous(memory_format=torch.channels_last):
            # Three channels are normalised faster before this change of layout than after it.
            standardised = standardised.contiguous(memory_format=torch.channels_last)
        weight = convolution.weight * norm.weight[:, None, None]
        bias = convolution.bias + (convolution.weight * norm.bias[:, None, None]).sum((1, 2, 3))
        return F.conv2d(standardised, weight, bias)

    def features(self, images: Tensor) -> Tensor:
        """Return the pooled features [N, 64] before the last layer."""
        _, _, relu, _, *deeper = self.trunk
        # The largest of rectified values is the rectified largest: fewer values to rectify.
        hidden = relu(max_pool(self._first_convolution(images)))
        for layer in deeper:
            hidden = layer(hidden)
        return hidden

    def layer_features(self, images: Tensor) -> list[Tensor]:
        """Return the four ReLU outputs, from shallow to deep, each [N, C, h, w]."""
        hidden = self._first_convolution(images)
        outputs = []
        for layer in self.trunk[2:]:
            hidden = layer(hidden)
            if isinstance(layer, nn.ReLU):
                outputs.append(hidden)
        return outputs

    def forward(self, images: Tensor) -> Tensor:
        """Return logits [N, num_classes]."""
        return self.head(self.features(images))
