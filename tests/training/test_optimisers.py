"""Muon's steps."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from skdcgn_pipeline.networks.interface import GeneratorSize
from skdcgn_pipeline.students.architectures import make_student
from skdcgn_pipeline.training.optimisers import Muon, make_optimisers, orthogonalise


@pytest.mark.parametrize("shape", [(4, 4), (3, 12), (20, 5)])
def test_singular_values_are_brought_near_one(shape):
    torch.manual_seed(0)
    values = torch.linalg.svdvals(orthogonalise(torch.randn(shape, dtype=torch.double)))
    assert values.min() > 0.5
    assert values.max() < 1.3


def test_directions_are_kept():
    torch.manual_seed(0)
    matrix = torch.randn(5, 8, dtype=torch.double)
    left, _, right = torch.linalg.svd(matrix, full_matrices=False)
    aligned = left.T @ orthogonalise(matrix) @ right.T
    torch.testing.assert_close(aligned, torch.diag(aligned.diagonal()), atol=1e-6, rtol=0)
    assert aligned.diagonal().min() > 0


def test_a_zero_gradient_moves_nothing():
    assert torch.equal(orthogonalise(torch.zeros(3, 4)), torch.zeros(3, 4))


@pytest.mark.parametrize("shape", [(6, 2, 3, 3), (8, 4)])
def test_a_least_squares_problem_is_solved(shape):
    torch.manual_seed(0)
    target = torch.randn(shape)
    parameter = nn.Parameter(torch.zeros(shape))
    optimiser = Muon([parameter], 0.05)
    for step in range(300):
        optimiser.param_groups[0]["lr"] = 0.05 * (1 - step / 300)
        optimiser.zero_grad()
        (parameter - target).square().sum().backward()
        optimiser.step()
    assert (parameter - target).abs().max() < 0.1


def test_its_state_continues_in_the_same_bits():
    def train(steps: int, state: dict | None = None, start: torch.Tensor | None = None):
        parameter = nn.Parameter(torch.ones(3, 5) if start is None else start.clone())
        optimiser = Muon([parameter], 0.1)
        if state:
            optimiser.load_state_dict(state)
        for _ in range(steps):
            optimiser.zero_grad()
            (parameter * torch.arange(15.0).view(3, 5)).sin().sum().backward()
            optimiser.step()
        return parameter.detach(), optimiser.state_dict()

    whole, _ = train(4)
    half, state = train(2)
    assert torch.equal(train(2, state, half)[0], whole)


def test_every_parameter_of_a_student_belongs_to_one_side():
    student = make_student(
        "texture", {"architecture": "compact", "width": [4, 8, 4], "embedding_dim": 3}, GeneratorSize(4, 5, 16)
    )
    adam, muon = make_optimisers(student, torch.optim.Adam, 0.5)
    others, matrices = (optimiser.param_groups[0]["params"] for optimiser in (adam, muon))
    assert {id(p) for p in matrices} | {id(p) for p in others} == {id(p) for p in student.parameters()}
    assert not {id(p) for p in matrices} & {id(p) for p in others}
    assert any(p is student.embedding.weight for p in others)
    assert all(p.ndim > 1 for p in matrices)


def test_muon_takes_what_it_can_and_adam_the_rest():
    network = nn.Sequential(nn.Linear(3, 4), nn.BatchNorm1d(4))
    adam, muon = make_optimisers(network, torch.optim.Adam, 0.5)
    assert [group["lr"] for group in muon.param_groups] == [0.5]
    assert [parameter.ndim for parameter in muon.param_groups[0]["params"]] == [2]
    assert [parameter.ndim for parameter in adam.param_groups[0]["params"]] == [1, 1, 1]
    (alone,) = make_optimisers(network, torch.optim.Adam, None)
    assert len(alone.param_groups[0]["params"]) == 4
    assert len(make_optimisers(nn.BatchNorm1d(4), torch.optim.Adam, 0.5)) == 1
