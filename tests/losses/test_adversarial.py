"""Adversarial losses: closed forms and whom their gradient reaches."""

from __future__ import annotations

import pytest
import torch

from skdcgn_pipeline.losses.adversarial import (
    hinge_discriminator_loss,
    hinge_generator_loss,
    least_squares_discriminator_loss,
    least_squares_generator_loss,
)


def test_hinge_is_zero_beyond_both_margins():
    student, teacher = torch.tensor([-1.0, -3.0]), torch.tensor([1.0, 2.0])
    assert hinge_discriminator_loss(student, teacher).item() == 0
    assert hinge_discriminator_loss(teacher, student).item() == pytest.approx(2.5 + 3)


def test_hinge_of_an_undecided_discriminator_is_two():
    assert hinge_discriminator_loss(torch.zeros(3), torch.zeros(3)).item() == 2


def test_the_hinge_pulls_teacher_logits_up_and_student_logits_down():
    student, teacher = torch.zeros(2, requires_grad=True), torch.zeros(2, requires_grad=True)
    hinge_discriminator_loss(student, teacher).backward()
    assert (student.grad > 0).all()
    assert (teacher.grad < 0).all()


def test_the_generator_wants_higher_logits():
    logits = torch.tensor([1.0, 3.0], requires_grad=True)
    loss = hinge_generator_loss(logits)
    loss.backward()
    assert loss.item() == -2
    assert (logits.grad < 0).all()


def test_least_squares_are_zero_at_their_targets():
    assert least_squares_discriminator_loss(torch.zeros(3), torch.ones(3)).item() == 0
    assert least_squares_generator_loss(torch.ones(3)).item() == 0


def test_least_squares_have_their_closed_form():
    generated, real = torch.tensor([1.0, 2.0]), torch.tensor([0.0, 3.0])
    assert least_squares_discriminator_loss(generated, real).item() == pytest.approx(0.5 * ((1 + 4) / 2 + (1 + 4) / 2))
    assert least_squares_generator_loss(torch.tensor([0.0, 3.0])).item() == pytest.approx((1 + 4) / 2)
