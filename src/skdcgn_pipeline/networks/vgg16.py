"""Layers of torchvision's VGG16, which style and perceptual losses compare images in."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import torch
from torch import Tensor

from skdcgn_pipeline.runtime.errors import SettingError

# Images [N, 3, H, W] in [-1, 1] -> features, shallow to deep.
ImageFeatures = Callable[[Tensor], list[Tensor]]

VGG16_FILE = "vgg16-397923af.pth"
VGG16_RELUS = (3, 8, 15, 22)  # relu1_2, relu2_2, relu3_3, relu4_3
# Of the images that it was trained on, in [0, 1].
IMAGENET_MEAN, IMAGENET_DEVIATION = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)


def require_vgg16(assets: str, setting: str) -> Path:
    """Return the file of torchvision's weights.

    Args:
        assets: The asset folder.
        setting: The setting that asks for it.

    Raises:
        SettingError: If the file is not in the asset folder.
    """
    path = Path(assets) / VGG16_FILE
    if not path.is_file():
        expected = f"torchvision's VGG16 weights at {path}"
        raise SettingError(setting, expected, "no such file", "Fetch the assets, or change the setting.")
    return path


def open_vgg16_features(assets: str, setting: str) -> ImageFeatures:
    """Return a function that gives four layers of VGG16, frozen, for images in [-1, 1]; raises like `require_vgg16`."""
    from torchvision.models import vgg16  # slow to import and rarely wanted

    network = vgg16()
    network.load_state_dict(torch.load(require_vgg16(assets, setting), weights_only=True, map_location="cpu"))
    layers = network.features[: VGG16_RELUS[-1] + 1].requires_grad_(False).eval()
    mean = torch.tensor(IMAGENET_MEAN).view(1, 3, 1, 1)
    deviation = torch.tensor(IMAGENET_DEVIATION).view(1, 3, 1, 1)

    def features(images: Tensor) -> list[Tensor]:
        outputs = []
        images = ((images + 1) / 2 - mean.to(images)) / deviation.to(images)
        layers.to(images.device)
        for number, layer in enumerate(layers):
            images = layer(images)
            if number in VGG16_RELUS:
                outputs.append(images)
        return outputs

    return features
