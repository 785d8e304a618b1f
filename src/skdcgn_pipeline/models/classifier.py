"""The digit classifier of CGN (arXiv 2101.06046, appendix): 32 px, four convolutions, average pooling."""

from __future__ import annotations

from torch import Tensor, nn

INITIALISATION = "kaiming_normal"


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
            nn.MaxPool2d(3, 2),
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

    def features(self, images: Tensor) -> Tensor:
        """Return the pooled features [N, 64] before the last layer."""
        return self.trunk(images)

    def layer_features(self, images: Tensor) -> list[Tensor]:
        """Return the four ReLU outputs, from shallow to deep, each [N, C, h, w]."""
        outputs = []
        for layer in self.trunk:
            images = layer(images)
            if isinstance(layer, nn.ReLU):
                outputs.append(images)
        return outputs

    def forward(self, images: Tensor) -> Tensor:
        """Return logits [N, num_classes]."""
        return self.head(self.trunk(images))
