"""What a classifier goes by: the mechanism that its answers follow, and where it looks.

Where it looks is Grad-CAM (Selvaraju et al. 2017, arXiv 1610.02391).
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from skdcgn_pipeline.classifiers.accuracy import predict_logits
from skdcgn_pipeline.classifiers.torchvision_classifier import MechanismLogits
from skdcgn_pipeline.parameters import Compute
from skdcgn_pipeline.vocabulary import MECHANISMS

NEITHER = "none"


def count_followed(classifier: nn.Module, batches: Iterable[tuple[Tensor, Tensor]], compute: Compute) -> dict[str, int]:
    """Count whose class a classifier names in counterfactuals: that of shape, texture, background, or of none.

    Images count whose three classes differ; an answer at random follows each mechanism in one of K of them.

    Args:
        classifier: Gives logits [B, K]; several heads speak by their mean.
        batches: Counterfactuals [B, 3, H, W] and labels [B, 3] of shape, texture and background.
        compute: Device and precision.

    Returns:
        Images by mechanism and by `none`.
    """
    counts = torch.zeros(len(MECHANISMS) + 1, dtype=torch.long)
    for logits, labels in predict_logits(classifier, batches, compute):
        shape, texture, background = labels.unbind(1)
        differ = (shape != texture) & (shape != background) & (texture != background)
        answers = (logits.mean if isinstance(logits, MechanismLogits) else logits).argmax(1)
        follows = (answers[:, None] == labels)[differ]
        counts += torch.stack([*follows.sum(0), (~follows.any(1)).sum()])
    return dict(zip((*MECHANISMS, NEITHER), counts.tolist(), strict=True))


def grad_cam(classifier: nn.Module, images: Tensor, classes: Tensor | None = None) -> tuple[Tensor, Tensor]:
    """Return how much each place of an image speaks for a class.

    The last feature maps A_k are weighted by the mean gradient of the class's logit and summed,
    relu(sum_k mean(dy_c / dA_k) A_k), then enlarged to the image and divided by their largest value.

    Args:
        classifier: In eval mode; several heads speak by their mean.
        images: [N, 3, H, W] in [-1, 1].
        classes: [N], the class asked for; None asks for the predicted one.

    Returns:
        The classes [N], and the heat [N, H, W] in [0, 1]: all zero where nothing speaks for the class, or the
        network has no feature maps.
    """
    maps: list[Tensor] = []

    def remember(module: nn.Module, inputs: Any, output: Any) -> None:
        if isinstance(output, Tensor) and output.ndim == 4 and min(output.shape[-2:]) > 1:
            maps.append(output)

    hooks = [module.register_forward_hook(remember) for module in classifier.modules()]
    try:
        with torch.enable_grad():
            logits = classifier(images.detach().requires_grad_())  # a frozen network keeps a graph for its images
    finally:
        for hook in hooks:
            hook.remove()
    logits = logits.mean if isinstance(logits, MechanismLogits) else logits
    classes = logits.argmax(1) if classes is None else classes
    if not maps:
        return classes, torch.zeros_like(images[:, 0])
    last = maps[-1]
    (gradient,) = torch.autograd.grad(logits.gather(1, classes[:, None]).sum(), last)
    heat = (gradient.mean((2, 3), keepdim=True) * last).detach().sum(1, keepdim=True).relu()
    heat = F.interpolate(heat, images.shape[-2:], mode="bilinear", align_corners=False)[:, 0]
    return classes, heat / heat.amax((1, 2), keepdim=True).clamp_min(torch.finfo(heat.dtype).tiny)
