"""Where a classifier looks: Grad-CAM (Selvaraju et al. 2017, arXiv 1610.02391)."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional as F

from skdcgn_pipeline.classifiers.classifier import DigitClassifier


def grad_cam(classifier: DigitClassifier, images: Tensor, classes: Tensor) -> Tensor:
    """Return how much each place of an image speaks for a class.

    The last feature maps A_k are weighted by the mean gradient of the class's logit and summed,
    relu(sum_k mean(dy_c / dA_k) A_k), then enlarged to the image and divided by their largest value.

    Args:
        classifier: In eval mode.
        images: [N, 3, H, W] in [-1, 1].
        classes: [N], the class asked for.

    Returns:
        [N, H, W] in [0, 1]; all zero where nothing speaks for the class.
    """
    with torch.no_grad():
        maps = classifier.layer_features(images)[-1]
    with torch.enable_grad():
        maps = maps.detach().requires_grad_()
        logits = classifier.head(maps.mean((2, 3)))
        (gradient,) = torch.autograd.grad(logits.gather(1, classes[:, None]).sum(), maps)
    heat = (gradient.mean((2, 3), keepdim=True) * maps.detach()).sum(1, keepdim=True).relu()
    heat = F.interpolate(heat, images.shape[-2:], mode="bilinear", align_corners=False)[:, 0]
    return heat / heat.amax((1, 2), keepdim=True).clamp_min(torch.finfo(heat.dtype).tiny)
