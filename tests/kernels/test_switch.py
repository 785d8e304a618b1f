"""Kernels that are switched off, or that cannot be there: torch's operations serve."""

from __future__ import annotations

import os
import subprocess
import sys

import pytest
import torch

from skdcgn_pipeline import kernels
from skdcgn_pipeline.classifiers.classifier import DigitClassifier
from skdcgn_pipeline.kernels.taking import take_decoded
from skdcgn_pipeline.mechanisms import shift_patches
from skdcgn_pipeline.runtime.errors import SettingError
from skdcgn_pipeline.students.trio import StudentCGN

ROWS, OFFSETS = torch.tensor([4, 4, 0]), torch.tensor([[0, 0], [3, 5], [8, 6]])


def draw() -> torch.Tensor:
    return torch.randint(0, 256, (9, 3, 8, 6), generator=torch.manual_seed(0), dtype=torch.uint8)


@pytest.fixture(params=["switched off", "numba is absent"])
def without_kernels(request, monkeypatch):
    if request.param == "switched off":
        monkeypatch.setenv(kernels.SWITCH, "0")
    else:
        monkeypatch.setitem(sys.modules, "numba", None)
    kernels.numba_is_there.cache_clear()
    yield
    kernels.numba_is_there.cache_clear()


def test_by_default_the_loops_are_used():
    assert kernels.enabled()


@pytest.mark.parametrize("offsets", [None, OFFSETS])
def test_images_are_taken_to_the_same_bits(without_kernels, monkeypatch, offsets):
    assert not kernels.enabled()
    by_torch = take_decoded(draw(), ROWS, 1 / 127.5, -1, offsets)
    monkeypatch.undo()
    kernels.numba_is_there.cache_clear()
    assert kernels.enabled()
    assert torch.equal(by_torch, take_decoded(draw(), ROWS, 1 / 127.5, -1, offsets))


def test_patches_are_shifted_to_the_same_bits(without_kernels, monkeypatch):
    images = draw()[:3].float()
    by_torch = shift_patches(images, OFFSETS)
    monkeypatch.undo()
    kernels.numba_is_there.cache_clear()
    assert torch.equal(by_torch, shift_patches(images, OFFSETS))


@pytest.mark.parametrize(("row", "offset"), [(9, [0, 0]), (-1, [0, 0]), (0, [9, 0]), (0, [0, -1])])
def test_what_is_beyond_the_images_is_refused_as_well(without_kernels, row, offset):
    with pytest.raises(SettingError, match=rf"rows: expected rows below 9 .*got \[{row}, "):
        take_decoded(draw(), torch.tensor([1, row]), 1, 0, torch.tensor([[0, 0], offset]))


def test_a_classifier_trains_by_its_layers(without_kernels):
    classifier = DigitClassifier().train()
    with torch.autocast("cpu", dtype=torch.bfloat16):
        classifier(torch.randn(2, 3, 32, 32)).float().sum().backward()
    assert classifier.trunk[1].weight.grad.abs().sum() > 0


def test_fused_students_render_by_their_network(without_kernels):
    students = StudentCGN.from_released("digits")
    fused, noise, labels = students.fused(), torch.randn(3, 32), torch.arange(3)
    assert fused.runtime == "torch"
    assert torch.equal(fused.render(noise, labels).mask, students.render(noise, labels).mask)


def test_a_process_that_is_told_so_never_imports_numba():
    code = (
        "import sys, torch; from skdcgn_pipeline.kernels.taking import take_decoded\n"
        "take_decoded(torch.zeros(2, 3, 4, 4, dtype=torch.uint8), torch.tensor([1]), 1, 0)\n"
        "print('numba' in sys.modules)"
    )
    for value, imported in (("0", "False"), ("1", "True")):
        run = subprocess.run(
            [sys.executable, "-c", code],
            env={**os.environ, kernels.SWITCH: value},
            capture_output=True,
            text=True,
            check=True,
            timeout=120,
        )
        assert run.stdout.strip() == imported
