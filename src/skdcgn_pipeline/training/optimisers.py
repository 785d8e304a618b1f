"""Optimisers: Muon, momentum whose update of every matrix is made orthogonal, beside one of Adam's kind."""

from __future__ import annotations

from collections.abc import Callable, Iterable

import torch
from torch import Tensor, nn
from torch.optim import Optimizer

# Coefficients of the quintic iteration; they bring all singular values near 1 in five rounds.
NEWTON_SCHULZ = (3.4445, -4.7750, 2.0315)
NUM_ROUNDS = 5


def orthogonalise(matrix: Tensor) -> Tensor:
    """Return nearly the closest matrix with orthonormal rows or columns (Newton-Schulz).

    Args:
        matrix: [M, N]; a zero matrix stays zero.

    Returns:
        [M, N] with singular values between about 0.7 and 1.2.
    """
    a, b, c = NEWTON_SCHULZ
    tall = matrix.shape[0] > matrix.shape[1]
    result = matrix.T if tall else matrix
    result = result / (result.norm() + 1e-7)
    for _ in range(NUM_ROUNDS):
        gram = result @ result.T
        result = a * result + (b * gram + c * gram @ gram) @ result
    return result.T if tall else result


class Muon(Optimizer):
    """Nesterov momentum with orthogonalised updates (Jordan et al. 2024; arXiv 2502.16982).

    Torch's own takes matrices only, in bfloat16; here the filters of a convolution, [M, C, k, k], count as a matrix
    [M, C * k * k], which is what small generators consist of.

    Args:
        parameters: Parameters with two or more dimensions.
        learning_rate: Size of the step: of every singular value of the update of a wide matrix.
        momentum: Of the gradient.
    """

    def __init__(self, parameters: Iterable[nn.Parameter], learning_rate: float, momentum: float = 0.95) -> None:
        super().__init__(parameters, {"lr": learning_rate, "momentum": momentum})

    @torch.no_grad()
    def step(self, closure: None = None) -> None:  # type: ignore[override]
        """Update every parameter that has a gradient."""
        for group in self.param_groups:
            for parameter in group["params"]:
                if parameter.grad is None:
                    continue
                state = self.state[parameter]
                if not state:
                    state["momentum"] = torch.zeros_like(parameter)
                state["momentum"].mul_(group["momentum"]).add_(parameter.grad)
                gradient = parameter.grad.add(state["momentum"], alpha=group["momentum"])
                matrix = gradient.flatten(1)
                # Tall matrices get larger steps, as their many rows share few directions.
                scale = max(1.0, matrix.shape[0] / matrix.shape[1]) ** 0.5
                parameter.add_(orthogonalise(matrix).view_as(parameter), alpha=-group["lr"] * scale)


def make_optimisers(
    network: nn.Module, make_adam: Callable[[list[nn.Parameter]], Optimizer], matrix_learning_rate: float | None
) -> list[Optimizer]:
    """Return the optimisers of a network: one of Adam's kind, and Muon for filters and matrices but class embeddings.

    Args:
        network: What is trained.
        make_adam: Makes the first of its parameters, such as `functools.partial(torch.optim.Adam, lr=1e-3)`.
        matrix_learning_rate: Muon's; None leaves all parameters to the first.
    """
    if matrix_learning_rate is None:
        return [make_adam([*network.parameters()])]
    matrices: list[nn.Parameter] = []
    others: list[nn.Parameter] = []
    for name, parameter in network.named_parameters():
        (matrices if parameter.ndim > 1 and not name.startswith("embedding.") else others).append(parameter)
    return [make_adam(others), *([Muon(matrices, matrix_learning_rate)] if matrices else [])]
