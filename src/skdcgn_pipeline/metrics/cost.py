"""What a generator costs: parameters, multiply-accumulates, images per second."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable
from functools import partial
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


def in_turns(measures: dict[str, Callable[[], float]]) -> dict[str, list[float]]:
    """Take several measures in turns, so that whatever else the machine does meets all of them.

    Args:
        measures: What to measure; each call gives one number.

    Returns:
        The numbers of five turns each.
    """
    values: dict[str, list[float]] = {name: [] for name in measures}
    for _ in range(NUM_REPEATS):
        for name, measure in measures.items():
            values[name].append(measure())
    return values


def take_turns(measures: dict[str, Callable[[], float]]) -> dict[str, float]:
    """Return the median of five turns of each measure, see `in_turns`."""
    return {name: statistics.median(numbers) for name, numbers in in_turns(measures).items()}


def measure_rates(
    renders: dict[str, Callable[[], Any]], images_per_call: int, seconds: float | None = None
) -> dict[str, float]:
    """Measure images per second of several generators, taking turns in one process.

    Args:
        renders: What to time; each call renders `images_per_call` images.
        images_per_call: Batch size.
        seconds: That a turn takes, by default `SECONDS_PER_REPEAT`; at least one call.

    Returns:
        The median of five turns each, in images per second.
    """
    enough = SECONDS_PER_REPEAT if seconds is None else seconds

    def rate(render: Callable[[], Any]) -> float:
        calls, start = 0, time.perf_counter()
        while (elapsed := time.perf_counter() - start) < enough or not calls:
            render()
            calls += 1
            wait_for_device()
        return calls * images_per_call / elapsed if elapsed else 0.0

    for render in renders.values():
        render()
    with torch.inference_mode():
        return take_turns({name: partial(rate, render) for name, render in renders.items()})


def peak_gpu_bytes(network: nn.Module, render: Callable[[], Any]) -> int | None:
    """Return the GPU memory that a network needs to render once, weights included; None without a GPU.

    Other tensors on the GPU do not count.

    Args:
        network: On the GPU.
        render: Renders on it.
    """
    if not torch.cuda.is_available():
        return None
    render()  # libraries reserve their workspace in a first call
    torch.cuda.synchronize()
    before = torch.cuda.memory_allocated()
    torch.cuda.reset_peak_memory_stats()
    with torch.inference_mode():
        render()
    torch.cuda.synchronize()
    weights = sum(t.numel() * t.element_size() for t in network.state_dict().values() if t.is_cuda)
    return torch.cuda.max_memory_allocated() - before + weights


def wait_for_device() -> None:
    """Wait until the GPU, if there is one, has done what it was asked to."""
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
