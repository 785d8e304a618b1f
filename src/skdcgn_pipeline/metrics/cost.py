"""What a generator costs: parameters, multiply-accumulates, images per second."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils.flop_counter import FlopCounterMode

from skdcgn_pipeline.mechanisms import CounterfactualGenerator

NUM_REPEATS = 5
SECONDS_PER_REPEAT = 0.3


def count_parameters(module: Any) -> int | None:
    """Return the number of parameters; None for what is no module."""
    return sum(parameter.numel() for parameter in module.parameters()) if isinstance(module, nn.Module) else None


def count_macs(render: Callable[[], Any]) -> int | None:
    """Return the multiply-accumulates of one call's convolutions and matrix products.

    None where nothing could be counted, as inside a compiled program.
    """
    counter = FlopCounterMode(display=False)
    with counter, torch.no_grad():
        render()
    return counter.get_total_flops() // 2 or None


def measure_rates(renders: dict[str, Callable[[], Any]], images_per_call: int) -> dict[str, float]:
    """Measure images per second of several generators, taking turns in one process.

    Args:
        renders: What to time; each call renders `images_per_call` images.
        images_per_call: Batch size.

    Returns:
        The median of five turns each, in images per second.
    """
    for render in renders.values():
        render()
    rates: dict[str, list[float]] = {name: [] for name in renders}
    with torch.inference_mode():
        for _ in range(NUM_REPEATS):
            for name, render in renders.items():
                calls, start = 0, time.perf_counter()
                while (elapsed := time.perf_counter() - start) < SECONDS_PER_REPEAT or not calls:
                    render()
                    calls += 1
                    _wait_for_device()
                rates[name].append(calls * images_per_call / elapsed if elapsed else 0.0)
    return {name: statistics.median(values) for name, values in rates.items()}


def _wait_for_device() -> None:
    if torch.cuda.is_available():
        torch.cuda.synchronize()


def render_call(
    generator: CounterfactualGenerator, mechanism: str | None, noise: Tensor, labels: Tensor
) -> Callable[[], Any] | None:
    """Return a call that renders one mechanism, or all for None.

    A generator that cannot render one mechanism alone gives None.
    """
    if mechanism is None:
        return lambda: generator.render(noise, labels)
    if not hasattr(generator, "render_mechanism"):
        return None
    return lambda: generator.render_mechanism(mechanism, noise, labels)
