"""The classifiers by name: networks of the project's own, and those of torchvision and timm."""

from __future__ import annotations

from torch import Tensor, nn

from skdcgn_pipeline.classifiers.classifier import INITIALISATION, DigitClassifier, initialise
from skdcgn_pipeline.classifiers.torchvision_classifier import TorchvisionClassifier
from skdcgn_pipeline.parameters import DIGIT_NETWORK, SMALL_NETWORK, ClassifierNetwork
from skdcgn_pipeline.runtime.errors import SettingError
from skdcgn_pipeline.runtime.extensions import call, is_extension

WIDTHS = (32, 64, 96, 128)


class SmallClassifier(nn.Module):
    """Classify images [N, 3, S, S] in [-1, 1] of 32 to 96 pixels, by what spans up to 49 pixels of them.

    Without batch norm: statistics of counterfactuals are not those of the real images that it is measured on.
    """

    settings = ClassifierNetwork(architecture=SMALL_NETWORK)
    feature_dim = WIDTHS[-1]

    def __init__(self, num_classes: int) -> None:
        super().__init__()
        first, second, third, last = WIDTHS
        self.trunk = nn.Sequential(
            nn.Conv2d(3, first, 5, stride=2, padding=2),  # [N, 32, S/2, S/2]
            nn.ReLU(inplace=True),
            nn.Conv2d(first, second, 3, stride=2, padding=1),  # [N, 64, S/4, S/4]
            nn.ReLU(inplace=True),
            nn.Conv2d(second, third, 3, padding=1),  # [N, 96, S/4, S/4]
            nn.ReLU(inplace=True),
            nn.Conv2d(third, last, 3, stride=2, padding=1),  # [N, 128, S/8, S/8]
            nn.ReLU(inplace=True),
            nn.Conv2d(last, last, 3, padding=1),  # [N, 128, S/8, S/8]
            nn.ReLU(inplace=True),
            nn.AdaptiveAvgPool2d(1),
            nn.Flatten(),
        )
        self.head = nn.Linear(self.feature_dim, num_classes)
        initialise(self.trunk)

    def features(self, images: Tensor) -> Tensor:
        """Return the pooled features [N, 128] before the last layer."""
        return self.trunk(images)

    def forward(self, images: Tensor) -> Tensor:
        """Return logits [N, num_classes]."""
        return self.head(self.features(images))


class ForeignClassifier(nn.Module):
    """A network of the user's own with one head, which `module:function` makes of a number of classes.

    Args:
        settings: Its `architecture` names the function; it is imported and called.
        num_classes: Number of classes.

    Raises:
        SettingError: If it cannot be imported, or makes no network.
    """

    def __init__(self, settings: ClassifierNetwork, num_classes: int) -> None:
        super().__init__()
        self.settings, setting = settings, "classify.network.architecture"
        network = call(setting, settings.architecture, num_classes=num_classes)
        if not isinstance(network, nn.Module):
            got, remedy = f"a {type(network).__name__} from '{settings.architecture}'", "Let the function return one."
            raise SettingError(setting, "a function that returns a torch.nn.Module", got, remedy)
        self.network = network

    def features(self, images: Tensor) -> Tensor:
        """Return the logits: what stands before them is not known."""
        return self.network(images)

    def forward(self, images: Tensor) -> Tensor:
        """Return logits [N, num_classes] of images [N, 3, H, W] in [-1, 1]."""
        return self.network(images)


Classifier = DigitClassifier | SmallClassifier | TorchvisionClassifier | ForeignClassifier


def make_classifier(settings: ClassifierNetwork, num_classes: int, initialisation: str = INITIALISATION) -> Classifier:
    """Return an untrained classifier, see `DigitClassifier` for `initialisation`; weights are not loaded.

    Raises:
        SettingError: If there is no such architecture, or its library is not installed.
    """
    if settings.architecture == DIGIT_NETWORK:
        return DigitClassifier(num_classes, initialisation)
    if settings.architecture == SMALL_NETWORK:
        return SmallClassifier(num_classes)
    if is_extension(settings.architecture):
        return ForeignClassifier(settings, num_classes)
    return TorchvisionClassifier(settings, num_classes)
