"""Pictures between two classes: they begin and end with the classes, and say what changes."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from skdcgn_pipeline.parameters import Interpolation
from skdcgn_pipeline.reporting.interpolation import describe, draw_interpolation, render_steps
from skdcgn_pipeline.reporting.pictures import PIXELS_PER_PIXEL
from skdcgn_pipeline.runtime.errors import SettingError
from skdcgn_pipeline.teachers.cgn import MnistCGN
from skdcgn_pipeline.vocabulary import MECHANISMS
from tiny import TinyTeacher


@pytest.fixture
def cgn() -> MnistCGN:
    torch.manual_seed(0)
    return MnistCGN(noise_dim=4, num_classes=3, image_size=8, width=4).eval().requires_grad_(False)


@pytest.mark.parametrize("mechanism", ["all", *MECHANISMS])
def test_a_generator_that_mixes_classes_goes_from_one_to_the_other(cgn, cpu, mechanism):
    settings = Interpolation(first=1, mechanism=mechanism, num_steps=4, num_examples=3)
    steps = render_steps(cgn, settings, 0, cpu)
    assert [len(images) for images in steps] == [3] * 4
    noise = torch.randn(2, 3, 4, generator=generator_of("interpolation"))[0]
    first, last = (cgn.render(noise, torch.full((3,), label)) for label in (1, 2))
    for one in MECHANISMS:
        changes = mechanism in ("all", one)
        torch.testing.assert_close(steps[0].of(one), first.of(one))
        torch.testing.assert_close(steps[-1].of(one), (last if changes else first).of(one))
        assert torch.equal(steps[1].of(one), steps[0].of(one)) != changes
    assert describe(cgn, settings).startswith("class 1 to 2, ")


def generator_of(purpose: str) -> torch.Generator:
    from skdcgn_pipeline.runtime.seeding import torch_generator

    return torch_generator(0, purpose)


@pytest.mark.parametrize("mechanism", ["all", "texture"])
def test_a_teacher_of_class_numbers_turns_its_noise_and_says_so(tiny_teacher, cpu, mechanism):
    settings = Interpolation(first=1, mechanism=mechanism, num_steps=3, num_examples=2)
    steps = render_steps(tiny_teacher, settings, 0, cpu)
    noise = torch.randn(2, 2, 4, generator=generator_of("interpolation"))
    ends = [TinyTeacher().render(own, torch.ones(2, dtype=torch.long)) for own in noise]
    torch.testing.assert_close(steps[0].foreground, ends[0].foreground)
    torch.testing.assert_close(steps[-1].foreground, ends[1].foreground)
    torch.testing.assert_close(steps[-1].mask, ends[1 if mechanism == "all" else 0].mask)
    assert "noise of class 1 (it takes class numbers only)" in describe(tiny_teacher, settings)


def test_the_sheet_and_the_animation_show_every_generator(cgn, tiny_teacher, cpu):
    settings = Interpolation(mechanism="shape", num_steps=5, num_examples=2)
    one, _ = draw_interpolation({"teacher": tiny_teacher}, settings, 0, cpu)
    both, frames = draw_interpolation({"teacher": tiny_teacher, "students": cgn}, settings, 0, cpu)
    assert both.shape[0] > one.shape[0]
    assert both.shape[1] == one.shape[1]
    # Three times each end, and three steps in between on the way there and back.
    assert frames.shape == (3 + 3 + 3 + 3, 2 * 10 * PIXELS_PER_PIXEL, 2 * 10 * PIXELS_PER_PIXEL, 3)
    assert frames.dtype == np.uint8
    assert np.array_equal(frames[3], frames[-1])
    assert not np.array_equal(frames[0], frames[6])


def test_a_class_that_is_not_there_is_refused(tiny_teacher, cpu):
    with pytest.raises(SettingError, match=r"compose\.interpolation\.last: expected a class from 0 to 2, got 3"):
        draw_interpolation({"teacher": tiny_teacher}, Interpolation(last=3), 0, cpu)
