"""The digit classifier of CGN (arXiv 2101.06046, appendix): 32 px, four convolutions, average pooling."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from skdcgn_pipeline import kernels
from skdcgn_pipeline.kernels.pooled_convolution import POOL_SIZE, POOL_STRIDE, convolve_and_pool, standardise
from skdcgn_pipeline.parameters import ClassifierNetwork

INITIALISATION = "kaiming_normal"


def initialise(trunk: nn.Sequential) -> None:
    """Draw the weights of convolutions so that the signal keeps its size from ReLU to ReLU; biases are 0."""
    for layer in trunk:
        if isinstance(layer, nn.Conv2d):
            nn.init.kaiming_normal_(layer.weight, nonlinearity="relu")
            assert layer.bias is not None
            nn.init.zeros_(layer.bias)


def average(images: Tensor) -> Tensor:
    """Return the average over height and width [N, C, 1, 1].

    Torch's pooling gives channels-last images a gradient in another layout, for which all that comes before
    it in the network has to wait.
    """
    if images.is_contiguous() or not images.is_contiguous(memory_format=torch.channels_last):
        return F.adaptive_avg_pool2d(images, 1)
    return images.permute(0, 2, 3, 1).mean((1, 2))[:, :, None, None]


class DigitClassifier(nn.Module):
    """Classify images [N, 3, 32, 32] in [-1, 1].

    Args:
        num_classes: Number of classes.
        initialisation: `kaiming_normal`, or `torch` for torch's default, which shrinks the signal from
            layer to layer so that short trainings stay at chance.
    """

    settings = ClassifierNetwork()
    feature_dim = 64

    def __init__(self, num_classes: int = 10, initialisation: str = INITIALISATION) -> None:
        super().__init__()
        self.trunk = nn.Sequential(
            nn.BatchNorm2d(3),
            nn.Conv2d(3, 32, 5),
            nn.ReLU(inplace=True),
            nn.MaxPool2d(POOL_SIZE, POOL_STRIDE),
            nn.Conv2d(32, 32, 3),
            nn.ReLU(inplace=True),
            nn.Conv2d(32, 64, 3, stride=2, padding=1),
            nn.ReLU(inplace=True),
            nn.Conv2d(64, 64, 3, padding=1),
            nn.ReLU(inplace=True),
            # A global average: 6 x 6 here, where the published code pools by 7.
            nn.AdaptiveAvgPool2d(1),
            nn.Flatten(),
        )
        self.head = nn.Linear(self.feature_dim, num_classes)
        if initialisation == "kaiming_normal":
            initialise(self.trunk)

    def _folded_first_convolution(self) -> tuple[nn.BatchNorm2d, Tensor, Tensor]:
        """Return the batch norm, and weight and bias of the first convolution with its scale and shift folded in.

        They are the same function of the same parameters, but no gradient has to pass through the convolution
        to reach them, which for three channels would be a third of the arithmetic of a training step.
        """
        norm, convolution = self.trunk[0], self.trunk[1]
        assert isinstance(norm, nn.BatchNorm2d)
        assert isinstance(convolution, nn.Conv2d)
        assert convolution.bias is not None
        weight = convolution.weight * norm.weight[:, None, None]
        bias = convolution.bias + (convolution.weight * norm.bias[:, None, None]).sum((1, 2, 3))
        return norm, weight, bias

    def _first_convolution(self, images: Tensor) -> Tensor:
        """Return batch-norm and the first convolution of the images, before its ReLU."""
        norm, weight, bias = self._folded_first_convolution()
        assert norm.momentum is not None
        standardised = F.batch_norm(
            images, norm.running_mean, norm.running_var, None, None, self.training, norm.momentum, norm.eps
        )
        if weight.is_contiguous(memory_format=torch.channels_last):
            # Three channels are normalised faster before this change of layout than after it.
            standardised = standardised.contiguous(memory_format=torch.channels_last)
        return F.conv2d(standardised, weight, bias)

    def features(self, images: Tensor) -> Tensor:
        """Return the pooled features [N, 64] before the last layer."""
        _, _, relu, pool, *deeper = self.trunk
        if self._trains_in_bfloat16(images):
            hidden = self._pooled_first_convolution(images)
        else:
            # The largest of rectified values is the rectified largest: fewer values to rectify.
            hidden = relu(pool(self._first_convolution(images)))
        for layer in deeper:
            hidden = average(hidden) if isinstance(layer, nn.AdaptiveAvgPool2d) else layer(hidden)
        return hidden

    def _trains_in_bfloat16(self, images: Tensor) -> bool:
        """Tell whether parameters, and nothing else, get gradients from bfloat16 convolutions on a CPU."""
        in_bfloat16 = torch.is_autocast_enabled("cpu") and torch.get_autocast_dtype("cpu") == torch.bfloat16
        on_cpu = images.device.type == "cpu" and images.dtype == torch.float32
        trains = self.training and torch.is_grad_enabled() and not images.requires_grad
        return trains and in_bfloat16 and on_cpu and kernels.enabled()

    def _pooled_first_convolution(self, images: Tensor) -> Tensor:
        """Return batch-norm, first convolution, ReLU and pooling of the images, in one."""
        norm, weight, bias = self._folded_first_convolution()
        seen, mean, variance = standardise(images, norm.eps, weight.shape[-1])
        assert norm.running_mean is not None
        assert norm.running_var is not None
        assert norm.momentum is not None
        num_values = images.numel() // len(mean)
        norm.running_mean.lerp_(mean, norm.momentum)
        norm.running_var.lerp_(variance * (num_values / max(1, num_values - 1)), norm.momentum)
        return convolve_and_pool(seen, weight, bias)

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
