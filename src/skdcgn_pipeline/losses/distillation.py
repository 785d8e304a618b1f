"""Terms of the distillation loss (SKDCGN, arXiv 2208.04226, section 3.2; TinyGAN, arXiv 2009.13829).

Arguments come in the order student, teacher; the teacher's side never receives a gradient. `TERMS` names all terms
with what they compare; their weights are `parameters.LossWeights`.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, Literal, NamedTuple

import torch
from torch import Tensor
from torch.nn import functional as F

from skdcgn_pipeline.losses.adversarial import hinge_generator_loss
from skdcgn_pipeline.parameters import Distill, LossWeights
from skdcgn_pipeline.runtime.extensions import resolve


def _check_same_shape(student: Tensor, teacher: Tensor) -> None:
    assert student.shape == teacher.shape, f"student {list(student.shape)}, teacher {list(teacher.shape)}"


def pixel_loss(student_images: Tensor, teacher_images: Tensor) -> Tensor:
    """Mean absolute difference of the images [N, C, H, W] (TinyGAN eq. 3)."""
    _check_same_shape(student_images, teacher_images)
    return F.l1_loss(student_images, teacher_images.detach())


def binary_cross_entropy_loss(student_mask: Tensor, teacher_mask: Tensor) -> Tensor:
    """Cross-entropy of the student's mask under the teacher's as a soft target, both in [0, 1]."""
    _check_same_shape(student_mask, teacher_mask)
    return F.binary_cross_entropy(student_mask.float().clamp(1e-6, 1 - 1e-6), teacher_mask.detach().float())


def feature_layer_weights(num_layers: int) -> list[float]:
    """Weights of the discriminator's layers, shallow to deep: ..., 1/16, 1/8, 1/4, 1 (TinyGAN eq. 5)."""
    return [2.0 ** -(num_layers - layer) if layer < num_layers - 1 else 1.0 for layer in range(num_layers)]


def feature_loss(student_features: Sequence[Tensor], teacher_features: Sequence[Tensor]) -> Tensor:
    """L1 between the discriminator's features of student and teacher images, weighted by depth."""
    weights = feature_layer_weights(len(student_features))
    total = student_features[0].new_zeros(())
    for weight, student, teacher in zip(weights, student_features, teacher_features, strict=True):
        total = total + weight * pixel_loss(student, teacher)
    return total


def kl_loss(student_logits: Tensor, teacher_logits: Tensor, temperature: float) -> Tensor:
    """Divergence of the student's class distribution from the teacher's: KL(teacher || student) * T^2.

    The logits are [N, num_classes], the discriminator's class scores of the student's and of the
    teacher's images. One real-or-fake logit per image has a constant softmax and would make the term
    vanish. The factor T^2 keeps its gradient's size independent of T (arXiv 1503.02531).
    """
    _check_same_shape(student_logits, teacher_logits)
    student_log = F.log_softmax(student_logits / temperature, dim=1)
    teacher_log = F.log_softmax(teacher_logits.detach() / temperature, dim=1)
    return F.kl_div(student_log, teacher_log, log_target=True, reduction="batchmean") * temperature**2


def perceptual_loss(student_features: Sequence[Tensor], teacher_features: Sequence[Tensor]) -> Tensor:
    """Squared distance of the images in a frozen network, averaged over places, images and layers.

    As LPIPS without its learnt weights (arXiv 1801.03924, eq. 1): each place's features are scaled to unit
    length, so that no layer outweighs the others by its scale.

    Args:
        student_features, teacher_features: Layer by layer, [N, C, h, w].

    Returns:
        A number in [0, 4]; in [0, 2] for features that are not negative.
    """
    layers = []
    for student, teacher in zip(student_features, teacher_features, strict=True):
        _check_same_shape(student, teacher)
        student, teacher = (F.normalize(layer, dim=1, eps=1e-6) for layer in (student, teacher.detach()))
        layers.append((student - teacher).square().sum(1).mean())
    return torch.stack(layers).mean()


class Term(NamedTuple):
    """A term of the student's loss.

    Attributes:
        compares: What of student and teacher it is given: their `images` [N, C, H, W] in the mechanism's range, the
            `layers` of both in VGG16, or the discriminator's `judgement` of both.
        loss: What it computes of the student's, the teacher's and the settings.
        of_masks: Whether only masks have it.
    """

    compares: Literal["images", "layers", "judgement"]
    loss: Callable[[Any, Any, Distill], Tensor]
    of_masks: bool = False


TERMS = {
    "pixel": Term("images", lambda student, teacher, _: pixel_loss(student, teacher)),
    "binary_cross_entropy": Term(
        "images", lambda student, teacher, _: binary_cross_entropy_loss(student, teacher), of_masks=True
    ),
    "perceptual": Term("layers", lambda student, teacher, _: perceptual_loss(student, teacher)),
    "feature": Term("judgement", lambda student, teacher, _: feature_loss(student.features, teacher.features)),
    "kl": Term(
        "judgement",
        lambda student, teacher, settings: kl_loss(student.class_logits, teacher.class_logits, settings.kl_temperature),
    ),
    "adversarial": Term("judgement", lambda student, teacher, _: hinge_generator_loss(student.logits)),
}


def term_of(name: str) -> Term:
    """Return a term by its name in `TERMS`, or of code of the user's own by `module:function`."""
    if name in TERMS:
        return TERMS[name]
    loss = resolve("distill.weights.further", name, *LossWeights.EXTENSIONS["further"])
    return Term("images", lambda student, teacher, _: loss(student, teacher))


def weights_of(mechanism: str, settings: Distill) -> dict[str, float]:
    """Return the weights of the terms that a student of a mechanism has.

    A term without a weight is computed and told, but for those of `layers`, which cost as much as all of the rest.
    """
    weights = settings.weights.by_term()
    terms = {name: term_of(name) for name in (*TERMS, *settings.weights.further)}
    terms = {name: term for name, term in terms.items() if mechanism == "shape" or not term.of_masks}
    return {name: weights[name] for name, term in terms.items() if weights[name] or term.compares != "layers"}
