"""Torchvision's and timm's classifiers for images in [-1, 1], with one head or a head for each mechanism.

Source of the heads of mechanisms: CGN (arXiv 2101.06046, section 4.2 and appendix). Nothing is ever downloaded.
"""

from __future__ import annotations

from pathlib import Path
from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from skdcgn_pipeline.networks.vgg16 import IMAGENET_DEVIATION, IMAGENET_MEAN
from skdcgn_pipeline.networks.weights_file import read_state
from skdcgn_pipeline.parameters import TIMM, ClassifierNetwork
from skdcgn_pipeline.parameters.classify import OWN_NETWORKS
from skdcgn_pipeline.runtime.errors import SettingError, check_choice
from skdcgn_pipeline.runtime.libraries import import_library
from skdcgn_pipeline.vocabulary import MECHANISMS

TORCHVISION_CLASSES = 1000  # of ImageNet
SETTING = "classify.network"
# What several heads say: all together, those that do not look at the background, and each alone.
ALL_HEADS, WITHOUT_BACKGROUND = "", "without background"
HEADS = tuple(f"{mechanism} head" for mechanism in MECHANISMS)


class MechanismLogits(NamedTuple):
    """Logits [N, K] of the three heads, in the order of `MECHANISMS`."""

    shape: Tensor
    texture: Tensor
    background: Tensor

    @property
    def mean(self) -> Tensor:
        """The prediction for real images [N, K]: the mean of all three."""
        return (self.shape + self.texture + self.background) / 3

    @property
    def predictions(self) -> dict[str, Tensor]:
        """The logits [N, K] of all heads together, of those that do not look at the background, and of each alone."""
        heads = dict(zip(HEADS, self, strict=True))
        return {ALL_HEADS: self.mean, WITHOUT_BACKGROUND: (self.shape + self.texture) / 2, **heads}


def _build_trunk(architecture: str, setting: str) -> tuple[nn.Module, str, int]:
    """Return a network without its last linear layer, that layer's name, and its inputs.

    Raises:
        SettingError: If the library has no such classifier, or it does not end in one linear layer.
    """
    network = _build_network(architecture, setting)
    last = [
        (name, module)
        for name, module in network.named_modules()
        if isinstance(module, nn.Linear) and module.out_features == TORCHVISION_CLASSES
    ]
    if len(last) != 1:
        raise SettingError(
            f"{setting}.architecture",
            f"a network that ends in one linear layer of {TORCHVISION_CLASSES} outputs",
            f"'{architecture}' with {len(last)} of them",
            "Choose for example a ResNet, ConvNeXt, EfficientNet, MobileNet or ViT.",
        )
    name, layer = last[0]
    parent, _, own_name = name.rpartition(".")
    setattr(network.get_submodule(parent), own_name, nn.Identity())
    return network, name, layer.in_features


def _build_network(architecture: str, setting: str) -> nn.Module:
    """Return a network of torchvision, or of timm where the name says so, with its classes of ImageNet."""
    if not architecture.startswith(TIMM):
        from torchvision import models  # slow to import

        check_choice(f"{setting}.architecture", architecture, [*OWN_NETWORKS, *models.list_models(module=models)])
        # These two build auxiliary classifiers and return more than a tensor while they train.
        options = {"init_weights": False} if architecture in ("googlenet", "inception_v3") else {}
        return models.get_model(architecture, weights=None, **options)
    timm = import_library("timm", "timm", f"{setting}.architecture")
    name = architecture.removeprefix(TIMM)
    check_choice(f"{setting}.architecture", name, timm.list_models())
    return timm.create_model(name, pretrained=False, num_classes=TORCHVISION_CLASSES)


class TorchvisionClassifier(nn.Module):
    """Classify images [N, 3, H, W] in [-1, 1] by their class, or by shape, texture and background.

    In training mode, batch norm keeps using the statistics it came with, unless `frozen` is `none`:
    counterfactuals look unlike real images and would spoil them. As in the published training, its scale
    and shift are learnt like any weight; `all` freezes these too. Networks without batch norm are not
    touched.

    Args:
        settings: Architecture, heads, and what of batch norm a training leaves alone; weights are not loaded.
        num_classes: Outputs of each head.
        setting: What errors call the settings.

    Raises:
        SettingError: If the architecture is unknown or does not end in one linear layer.
    """

    mean: Tensor
    deviation: Tensor

    def __init__(
        self, settings: ClassifierNetwork, num_classes: int = TORCHVISION_CLASSES, setting: str = SETTING
    ) -> None:
        super().__init__()
        self.settings, self.setting = settings, setting
        self.trunk, self.head_name, self.feature_dim = _build_trunk(settings.architecture, setting)
        heads = MECHANISMS if settings.by_mechanism else ("class",)
        self.heads = nn.ModuleDict({head: nn.Linear(self.feature_dim, num_classes) for head in heads})
        # A vision transformer fits images of one size alone: torchvision's say which, timm's where patches are cut.
        cutter = getattr(self.trunk, "patch_embed", None)
        fixed = getattr(self.trunk, "image_size", None) or getattr(cutter, "img_size", None)
        self.image_size: int | None = fixed[0] if isinstance(fixed, tuple) else fixed
        self.register_buffer("mean", torch.tensor(IMAGENET_MEAN).view(1, 3, 1, 1), persistent=False)
        self.register_buffer("deviation", torch.tensor(IMAGENET_DEVIATION).view(1, 3, 1, 1), persistent=False)
        if settings.frozen == "all":
            for norm in self._norms():
                norm.requires_grad_(False)

    def _norms(self) -> list[_BatchNorm]:
        return [module for module in self.modules() if isinstance(module, _BatchNorm)]

    def train(self, mode: bool = True) -> TorchvisionClassifier:
        """Set the mode; frozen batch norms stay in eval mode."""
        super().train(mode)
        if self.settings.frozen != "none":
            for norm in self._norms():
                norm.eval()
        return self

    def features(self, images: Tensor) -> Tensor:
        """Return what the heads see [N, feature_dim], of images [N, 3, H, W] in [-1, 1].

        Raises:
            SettingError: If the architecture is made for images of another size.
        """
        if self.image_size is not None and tuple(images.shape[-2:]) != (self.image_size, self.image_size):
            raise SettingError(
                "images.image_size",
                f"{self.image_size} x {self.image_size}, the only size '{self.settings.architecture}' knows",
                " x ".join(map(str, images.shape[-2:])),
                "Resize the images, or choose a convolutional architecture.",
            )
        return self.trunk(((images + 1) / 2 - self.mean) / self.deviation)

    def forward(self, images: Tensor) -> Tensor | MechanismLogits:
        """Return logits [N, K], of every head where there are several; in single precision whatever the trunk is."""
        features = self.features(images)
        logits = [head(features).float() for head in self.heads.values()]
        return MechanismLogits(*logits) if self.settings.by_mechanism else logits[0]

    def load_weights(self) -> TorchvisionClassifier:
        """Load the file that the settings name, if any; returns the same network.

        It is a .pth or .safetensors file of plain tensors; nothing in it is executed. The heads stay as they are and
        are learnt anew, as published, unless `heads_from_weights`.

        Raises:
            SettingError: If the file is missing, damaged or belongs to another architecture.
        """
        if self.settings.weights is None:
            return self
        path, architecture, setting = Path(self.settings.weights), self.settings.architecture, f"{self.setting}.weights"
        state = read_state(path, setting=setting)[0]
        last = {name: state.pop(f"{self.head_name}.{name}", None) for name in ("weight", "bias")}
        remedy = f"Give torchvision's state dict of '{architecture}', or name the architecture that it is of."
        try:
            self.trunk.load_state_dict(state)
        except RuntimeError as error:
            cause = str(error).strip().splitlines()[-1].strip()[:160]  # torch says it last
            got = f"{path}, which is of another one ({cause})"
            raise SettingError(setting, f"weights of '{architecture}'", got, remedy) from error
        for head in self.heads.values() if self.settings.heads_from_weights else ():
            for name, parameter in head.named_parameters():
                tensor = last[name]
                if tensor is None or tensor.shape != parameter.shape:
                    got = "none" if tensor is None else f"'{self.head_name}.{name}' of shape {list(tensor.shape)}"
                    wanted = f"a last layer whose {name} has shape {list(parameter.shape)} in {path}"
                    raise SettingError(setting, wanted, got, "Or let the heads be learnt anew.")
                with torch.no_grad():
                    parameter.copy_(tensor)
        return self
