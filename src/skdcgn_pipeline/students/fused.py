"""A student rendered by the loops of `kernels` where they can serve, and by its network elsewhere."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from skdcgn_pipeline import kernels
from skdcgn_pipeline.networks.frozen_cache import FrozenCache
from skdcgn_pipeline.runtime.threads import computing_on
from skdcgn_pipeline.students.architectures import StudentGenerator


class FusedStudent:
    """The function of a student, to rounding.

    The loops serve on a CPU, in float32 and without gradients, for architectures that have a plan. What else is asked
    for, such as bfloat16 by autocast, is left to the network.

    Args:
        network: The `StudentGenerator`, frozen and in eval mode.
    """

    def __init__(self, network: Any) -> None:
        self._network, self._plan = network, FrozenCache()

    @property
    def runtime(self) -> str:
        """What renders: `kernels` or `torch`."""
        network = self._network
        has_plan = type(network).plan is not StudentGenerator.plan
        is_on_cpu = next(network.parameters()).device.type == "cpu"
        return "kernels" if has_plan and is_on_cpu and kernels.enabled() else "torch"

    def __call__(self, noise: Tensor, labels: Tensor) -> Tensor:
        """Return images [N, C, S, S], see `StudentGenerator.forward`."""
        network = self._network
        is_plain = noise.dtype == torch.float32 and not (noise.requires_grad or torch.is_autocast_enabled("cpu"))
        if is_plain and self.runtime == "kernels" and not torch.compiler.is_compiling():
            with computing_on(1):  # torch's threads would go on waiting where those of the loops are to compute
                columns = network.columns(noise, labels)
            tensors = (*network.parameters(), *network.buffers())
            return self._plan.get(network, tensors, lambda: network.plan(columns.shape[1]))(columns)
        return network(noise, labels)
