"""Terms of the distillation: zero at equality, gradient to the student only, the right direction."""

from __future__ import annotations

import math

import pytest
import torch
from torch.nn import functional as F

from skdcgn_pipeline.losses.distillation import (
    binary_cross_entropy_loss,
    feature_layer_weights,
    feature_loss,
    kl_loss,
    perceptual_loss,
    pixel_loss,
)

STUDENT = torch.tensor([[2.0, 0.0, -1.0], [0.5, 0.5, 3.0]])
TEACHER = torch.tensor([[0.0, 1.0, -0.2], [2.0, -0.5, 1.0]])


def as_features(logits: torch.Tensor) -> list[torch.Tensor]:
    return [logits, logits * 2]


LOSSES = {
    "pixel": pixel_loss,
    "binary_cross_entropy": lambda s, t: binary_cross_entropy_loss(s.sigmoid(), t.sigmoid()),
    "feature": lambda s, t: feature_loss(as_features(s), as_features(t)),
    "kl": lambda s, t: kl_loss(s, t, 8.0),
}


@pytest.mark.parametrize("name", ["pixel", "feature", "kl"])
def test_a_term_is_zero_where_student_and_teacher_agree(name):
    assert LOSSES[name](STUDENT, STUDENT.clone()).item() == pytest.approx(0, abs=1e-6)
    assert LOSSES[name](STUDENT, TEACHER).item() > 1e-3


@pytest.mark.parametrize("name", sorted(LOSSES))
def test_the_gradient_of_a_term_reaches_the_student_only(name):
    student, teacher = STUDENT.clone().requires_grad_(), TEACHER.clone().requires_grad_()
    LOSSES[name](student, teacher).backward()
    assert student.grad is not None
    assert student.grad.abs().min() > 0
    assert teacher.grad is None


@pytest.mark.parametrize("name", sorted(LOSSES))
def test_a_step_against_the_gradient_lowers_a_term(name):
    student = STUDENT.clone().requires_grad_()
    before = LOSSES[name](student, TEACHER)
    before.backward()
    assert LOSSES[name](STUDENT - 0.05 * student.grad, TEACHER).item() < before.item()


@pytest.mark.parametrize("name", sorted(LOSSES))
def test_images_of_different_shapes_are_never_compared(name):
    with pytest.raises(AssertionError, match=r"student \[2, 3\], teacher \[1, 3\]"):
        LOSSES[name](STUDENT, TEACHER[:1])


def test_pixel_loss_is_the_mean_absolute_difference():
    assert pixel_loss(STUDENT, TEACHER).item() == pytest.approx((STUDENT - TEACHER).abs().mean().item())


def test_cross_entropy_of_equal_masks_is_the_entropy_of_the_teacher():
    mask = torch.tensor([0.5, 0.9]).view(2, 1, 1, 1)
    entropy = (math.log(2) - 0.9 * math.log(0.9) - 0.1 * math.log(0.1)) / 2
    assert binary_cross_entropy_loss(mask, mask).item() == pytest.approx(entropy, rel=1e-4)


def test_cross_entropy_is_lowest_where_the_masks_are_equal():
    teacher = torch.full((1, 1, 2, 2), 0.3)
    values = [binary_cross_entropy_loss(torch.full_like(teacher, v), teacher).item() for v in (0.1, 0.3, 0.6)]
    assert min(values) == values[1]


def test_cross_entropy_of_hard_masks_is_finite():
    hard = torch.tensor([0.0, 1.0]).view(2, 1, 1, 1).requires_grad_()
    loss = binary_cross_entropy_loss(hard, 1 - hard.detach())
    loss.backward()
    assert math.isfinite(loss.item())
    assert torch.isfinite(hard.grad).all()


def test_cross_entropy_takes_the_student_first():
    student, teacher = torch.tensor([[[[0.9]]]]), torch.tensor([[[[0.6]]]])
    expected = -(0.6 * math.log(0.9) + 0.4 * math.log(0.1))
    assert binary_cross_entropy_loss(student, teacher).item() == pytest.approx(expected, rel=1e-4)


def test_feature_weights_grow_towards_the_deepest_layer():
    assert feature_layer_weights(5) == [1 / 32, 1 / 16, 1 / 8, 1 / 4, 1]
    assert feature_layer_weights(3) == [1 / 8, 1 / 4, 1]
    assert feature_layer_weights(1) == [1]


def test_every_layer_enters_the_feature_loss_with_its_weight():
    zeros = [torch.zeros(2, 3) for _ in range(5)]
    for layer, weight in enumerate(feature_layer_weights(5)):
        features = [torch.full((2, 3), 2.0) if number == layer else zeros[number] for number in range(5)]
        assert feature_loss(features, zeros).item() == pytest.approx(2 * weight)


def test_another_number_of_layers_is_refused():
    with pytest.raises(ValueError, match="shorter"):
        feature_loss(as_features(STUDENT), as_features(TEACHER)[:1])


def test_kl_is_that_of_the_student_from_the_teacher():
    teacher, student = F.softmax(TEACHER / 2, 1), F.softmax(STUDENT / 2, 1)
    forward = (teacher * (teacher / student).log()).sum(1).mean() * 4
    reverse = (student * (student / teacher).log()).sum(1).mean() * 4
    assert kl_loss(STUDENT, TEACHER, 2.0).item() == pytest.approx(forward.item(), rel=1e-5)
    assert forward.item() != pytest.approx(reverse.item(), rel=1e-2)


def test_kl_does_not_vanish_where_distributions_differ():
    values = {round(kl_loss(STUDENT * scale, TEACHER, 8.0).item(), 6) for scale in (0.5, 1.0, 2.0)}
    assert len(values) == 3
    assert min(values) > 0


def test_kl_keeps_the_size_of_its_gradient_over_temperatures():
    norms = []
    for temperature in (8.0, 16.0):
        student = STUDENT.clone().requires_grad_()
        kl_loss(student, TEACHER, temperature).backward()
        norms.append(student.grad.norm().item())
    assert norms[0] == pytest.approx(norms[1], rel=0.2)


def test_the_perceptual_loss_is_the_squared_distance_of_unit_features():
    student = [torch.tensor([[3.0, 0.0], [0.0, 2.0]]).view(2, 2, 1, 1), torch.ones(2, 4, 2, 2)]
    teacher = [torch.tensor([[0.0, 5.0], [0.0, 1.0]]).view(2, 2, 1, 1), 7 * torch.ones(2, 4, 2, 2)]
    # First layer: perpendicular (2) and parallel (0), 1 on average; second layer: parallel.
    assert perceptual_loss(student, teacher).item() == pytest.approx(0.5)
    assert perceptual_loss(student, [2 * layer for layer in student]).item() == pytest.approx(0, abs=1e-6)


def test_the_perceptual_loss_teaches_the_student_alone():
    student, teacher = (torch.randn(2, 3, 4, 4, requires_grad=True) for _ in range(2))
    perceptual_loss([student], [teacher]).backward()
    assert student.grad.abs().sum() > 0
    assert teacher.grad is None


def test_features_of_other_shapes_are_refused_by_the_perceptual_loss():
    with pytest.raises(AssertionError, match="student"):
        perceptual_loss([torch.ones(2, 3, 4, 4)], [torch.ones(2, 3, 2, 2)])
