"""The invariant classifier of ImageNet: one trunk, and a head for each of shape, texture and background.

Source: CGN (arXiv 2101.06046, section 4.2 and appendix). The trunk is any classification network of
torchvision without its last linear layer; nothing is ever downloaded.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any, NamedTuple

import torch
from safetensors.torch import save_file
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from skdcgn_pipeline.networks.weights_file import first_line, read_state
from skdcgn_pipeline.runtime.errors import SettingError, check_choice
from skdcgn_pipeline.vocabulary import MECHANISMS

# What torchvision's networks classify, and how its weights expect images in [0, 1] to be normalised.
TORCHVISION_CLASSES = 1000
MEAN, DEVIATION = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)

# What of batch norm a training leaves alone: its statistics, its scale and shift too, or nothing.
FROZEN_NORMS = ("statistics", "all", "none")


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
    def without_background(self) -> Tensor:
        """The prediction that does not look at the background [N, K]: the mean of shape and texture."""
        return (self.shape + self.texture) / 2

    def of(self, mechanism: str) -> Tensor:
        """Return the logits [N, K] of one mechanism's head."""
        return getattr(self, mechanism)


def _build_trunk(architecture: str) -> tuple[nn.Module, str, int]:
    """Return a torchvision network without its last linear layer, that layer's name, and its inputs.

    Raises:
        SettingError: If torchvision has no such classifier, or it does not end in one linear layer.
    """
    from torchvision import models  # slow to import

    known = models.list_models(module=models)
    check_choice("ensemble.architecture", architecture, known)
    # These two build auxiliary classifiers and return more than a tensor while they train.
    options = {"init_weights": False} if architecture in ("googlenet", "inception_v3") else {}
    network = models.get_model(architecture, weights=None, **options)
    last = [
        (name, module)
        for name, module in network.named_modules()
        if isinstance(module, nn.Linear) and module.out_features == TORCHVISION_CLASSES
    ]
    if len(last) != 1:
        raise SettingError(
            "ensemble.architecture",
            f"a network that ends in one linear layer of {TORCHVISION_CLASSES} outputs",
            f"'{architecture}' with {len(last)} of them",
            "Choose for example a ResNet, ConvNeXt, EfficientNet, MobileNet or ViT.",
        )
    name, layer = last[0]
    parent, _, own_name = name.rpartition(".")
    setattr(network.get_submodule(parent), own_name, nn.Identity())
    return network, name, layer.in_features


class InvariantEnsemble(nn.Module):
    """Classify images [N, 3, H, W] in [-1, 1] by shape, texture and background.

    In training mode, batch norm keeps using the statistics it came with, unless `frozen_norm` is `none`:
    counterfactuals look unlike real images and would spoil them. As in the published training, its scale
    and shift are learnt like any weight; `all` freezes these too. Networks without batch norm are not
    touched.

    Args:
        architecture: Name of a torchvision classifier, such as `resnet50`.
        num_classes: Outputs of each head.
        frozen_norm: What of batch norm a training leaves alone: `statistics`, `all` or `none`.

    Raises:
        SettingError: If the architecture is unknown or does not end in one linear layer.
    """

    mean: Tensor
    deviation: Tensor

    def __init__(
        self,
        architecture: str = "resnet50",
        num_classes: int = TORCHVISION_CLASSES,
        frozen_norm: str = "statistics",
    ) -> None:
        super().__init__()
        check_choice("ensemble.frozen_norm", frozen_norm, FROZEN_NORMS)
        self.architecture, self.num_classes, self.frozen_norm = architecture, num_classes, frozen_norm
        self.trunk, self.head_name, self.feature_dim = _build_trunk(architecture)
        self.heads = nn.ModuleDict({mechanism: nn.Linear(self.feature_dim, num_classes) for mechanism in MECHANISMS})
        # A vision transformer fits images of one size alone.
        self.image_size: int | None = getattr(self.trunk, "image_size", None)
        self.register_buffer("mean", torch.tensor(MEAN).view(1, 3, 1, 1), persistent=False)
        self.register_buffer("deviation", torch.tensor(DEVIATION).view(1, 3, 1, 1), persistent=False)
        if frozen_norm == "all":
            for norm in self._norms():
                norm.requires_grad_(False)

    @property
    def config(self) -> dict[str, Any]:
        """What the constructor was given; JSON-able."""
        return {
            "architecture": self.architecture,
            "num_classes": self.num_classes,
            "frozen_norm": self.frozen_norm,
        }

    def _norms(self) -> list[_BatchNorm]:
        return [module for module in self.modules() if isinstance(module, _BatchNorm)]

    def train(self, mode: bool = True) -> InvariantEnsemble:
        """Set the mode; frozen batch norms stay in eval mode."""
        super().train(mode)
        if self.frozen_norm != "none":
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
                "ensemble.image_size",
                f"{self.image_size} x {self.image_size}, the only size '{self.architecture}' knows",
                " x ".join(map(str, images.shape[-2:])),
                "Resize the images, or choose a convolutional architecture.",
            )
        return self.trunk(((images + 1) / 2 - self.mean) / self.deviation)

    def forward(self, images: Tensor) -> MechanismLogits:
        """Return the logits of the three heads, in single precision whatever the trunk computes in."""
        features = self.features(images)
        return MechanismLogits(*(self.heads[mechanism](features).float() for mechanism in MECHANISMS))

    def load_trunk(self, path: Path | str, heads: bool = False) -> InvariantEnsemble:
        """Load a torchvision state dict of the same architecture; returns the same network.

        Args:
            path: A .pth or .safetensors file of plain tensors; nothing in it is executed.
            heads: Also start every head from the file's last layer; otherwise the heads stay as they are
                and are learnt anew, as published.

        Raises:
            SettingError: If the file is missing, damaged or belongs to another architecture.
        """
        path = Path(path)
        state = _read_state(path)
        last = {own: state.pop(f"{self.head_name}.{own}", None) for own in ("weight", "bias")}
        remedy = f"Give torchvision's state dict of '{self.architecture}', or name the architecture that it is of."
        try:
            self.trunk.load_state_dict(state)
        except RuntimeError as error:
            got = f"{path}, which is of another one ({_last_line(error)})"
            raise SettingError("ensemble.weights", f"weights of '{self.architecture}'", got, remedy) from error
        if not heads:
            return self
        for head in self.heads.values():
            for own, parameter in head.named_parameters():
                tensor = last[own]
                if tensor is None or tensor.shape != parameter.shape:
                    got = "none" if tensor is None else f"'{self.head_name}.{own}' of shape {list(tensor.shape)}"
                    wanted = f"a last layer whose {own} has shape {list(parameter.shape)} in {path}"
                    raise SettingError("ensemble.weights", wanted, got, "Or let the heads be learnt anew.")
                with torch.no_grad():
                    parameter.copy_(tensor)
        return self

    def save(self, path: Path | str) -> None:
        """Write weights and `config` as one safetensors file."""
        state = {name: tensor.contiguous() for name, tensor in self.state_dict().items()}
        save_file(state, path, {"config": json.dumps(self.config, sort_keys=True)})


def load_ensemble(path: Path | str) -> InvariantEnsemble:
    """Load what `InvariantEnsemble.save` wrote, frozen and in eval mode.

    Raises:
        SettingError: If the file is missing, damaged or something else.
    """
    path = Path(path)
    state = _read_state(path)
    remedy = "Give a file that `InvariantEnsemble.save` wrote."
    try:
        config = json.loads(_read_metadata(path)["config"])
        ensemble = InvariantEnsemble(**config)
        ensemble.load_state_dict(state)
    except (KeyError, TypeError, ValueError, RuntimeError) as error:
        got = f"{path}, which is something else ({_last_line(error)})"
        raise SettingError("ensemble", "a saved invariant ensemble", got, remedy) from error
    return ensemble.requires_grad_(False).eval()


def _read_state(path: Path) -> dict[str, Tensor]:
    """Read the tensors of a file; its errors speak of the ensemble."""
    try:
        return dict(read_state(path)[0])
    except SettingError as error:
        reason = first_line(error.__cause__ or error)
        raise SettingError(
            "ensemble.weights",
            "a file of plain tensors (safetensors or a state dict)",
            f"{path}, which cannot be used ({reason}); nothing of it was executed",
            "Correct the path, or get the file again.",
        ) from error


def _read_metadata(path: Path) -> dict[str, str]:
    return read_state(path, lambda name: False)[1]


def _last_line(error: BaseException) -> str:
    """Return the part of a long message that names the cause: torch says it last."""
    lines = str(error).strip().splitlines()
    return lines[-1].strip()[:160] if lines else type(error).__name__
